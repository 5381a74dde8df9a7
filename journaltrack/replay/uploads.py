"""Queue the uploads of a pass, and what names the uploaded contents: references and lineage.

This lane never keeps metrics, parameters or a status waiting.

- An entry that waits for an upload is remembered by its ``seq`` alone, and read again when its
  turn comes. Memory does not grow with the uploads of a journal.
- Small contents go first.
- A bucket that has not answered yet gets one upload at a time. If that one can't reach the bucket,
  the others need not try.
- References are sent when the uploads of their component are done, or after ``LINGER_S``.
- Lineage goes when no upload can begin, and one at a time until the remote has taken one.

Reads the journal and plans. Must not know how anything is sent or recorded.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from journaltrack.journal.fold import FieldMap, Part, parts_in_order
from journaltrack.replay.plan import planner
from journaltrack.replay.plan.actions import Change, Link, Request, Settle, Update, Upload
from journaltrack.replay.plan.pending import pending_at, read_states
from journaltrack.replay.remote import SAGEMAKER, Capabilities
from journaltrack.replay.requests import Job

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import BlobRef
    from journaltrack.replay.course import Course
    from journaltrack.replay.plan.actions import Action

IN_FLIGHT_MAX: Final = 16
"""Uploads in flight. Bandwidth limits them, not latency."""
LINEAGE_IN_FLIGHT_MAX: Final = 8
"""Lineage requests in flight, of those. A slow service must not keep new uploads waiting."""
READ_MAX: Final = 2_000
"""Entries planned at a time."""
LINGER_S: Final = 2.0
"""Seconds that a reference waits for others of its component, to share one request."""


class Uploads:
    """Hold the uploads and references of one pass that wait for their turn.

    Args:
        journal: To read from.
        course: Of the pass.
        settle: Records entries that need no request.
        clock: Monotonic seconds.
        can: What the remote can do.
    """

    def __init__(
        self,
        journal: Journal,
        course: Course,
        settle: Callable[[Sequence[Settle]], None],
        clock: Callable[[], float] = time.monotonic,
        can: Capabilities = SAGEMAKER,
    ) -> None:
        self._journal = journal
        self._can = can
        self._course = course
        self._settle = settle
        self._clock = clock
        # By ``seq``.
        self._put_off = array("q")
        self._waiting: deque[Upload] = deque()
        self._in_flight: dict[tuple[int, BlobRef], Upload] = {}
        # Entries with a content that is being uploaded now.
        self._twins: dict[tuple[int, BlobRef], list[int]] = defaultdict(list)
        # Uploads in flight, by bucket.
        self._busy: Counter[str | None] = Counter()
        # The same for lineage: put off, waiting, in flight, and waiting for a content.
        self._lineage_put_off = array("q")
        self._links: deque[Link] = deque()
        self._linking = 0
        self._linked_later: dict[tuple[int, BlobRef], list[int]] = defaultdict(list)
        # By component: its name, and the changes that wait.
        self._references: dict[int, tuple[str, list[Change]]] = {}
        # Components with references to send, and since when.
        self._due: dict[int, float] = {}

    def put_off(self, seqs: Iterable[int]) -> None:
        """Add entries that are uploads, or wait for one."""
        self._put_off.extend(seqs)

    def put_off_lineage(self, seqs: Iterable[int]) -> None:
        """Add entries of lineage."""
        self._lineage_put_off.extend(seqs)

    @property
    def waiting(self) -> bool:
        """Return whether anything is left to begin, now or after the uploads in flight."""
        return bool(
            self._waiting or self._put_off or self._due or self._links or self._lineage_put_off
        )

    def due_in_s(self) -> float:
        """Return the seconds until waiting references are due. Infinity if none wait."""
        if not self._due:
            return float("inf")
        now = self._clock()
        return min(
            (since + LINGER_S - now for since in self._due.values() if since + LINGER_S > now),
            default=float("inf"),
        )

    def next(self, free: int) -> list[Job]:
        """Return the uploads and lineage that may begin now, ``free`` of them at most."""
        if not self._waiting and self._put_off and free > 0:
            self._read()
        jobs = self._next_uploads(free) if self._waiting else []
        if not self._waiting and not self._put_off:
            jobs += self._next_links(free - len(jobs))
        return jobs

    def _next_uploads(self, free: int) -> list[Job]:
        jobs: list[Job] = []
        for _ in range(len(self._waiting)):
            if len(jobs) >= free:
                break
            action = self._waiting.popleft()
            if self._course.forbids(action):
                continue
            if (
                self._busy[action.blob.bucket]
                and action.blob.bucket not in self._course.open_buckets
            ):
                # Another upload to this bucket finds out whether it answers.
                self._waiting.append(action)
                continue
            self._busy[action.blob.bucket] += 1
            self._in_flight[action.component_id, action.blob] = action
            jobs.append(Job(action))
        return jobs

    def _next_links(self, free: int) -> list[Job]:
        jobs: list[Job] = []
        if self._course.lineage_closed:
            self._links.clear()
            self._lineage_put_off = array("q")
        most = LINEAGE_IN_FLIGHT_MAX if self._course.lineage_open else 1
        while len(jobs) < free and self._linking < most:
            if not self._links:
                if not self._lineage_put_off:
                    break
                self._read_lineage()
                continue
            action = self._links.popleft()
            if not self._course.forbids(action):
                self._linking += 1
                jobs.append(Job(action))
        return jobs

    def next_references(self, is_free: Callable[[int], bool]) -> list[Job]:
        """Return updates with references whose uploads are done.

        Args:
            is_free: Returns whether no other update of a component is in flight.
        """
        if not self._due:
            return []
        now = self._clock()
        busy = {action.component_id for action in self._waiting} | {
            component_id for component_id, _ in self._in_flight
        }
        jobs: list[Job] = []
        for component_id, since in list(self._due.items()):
            if not is_free(component_id) or (component_id in busy and now - since < LINGER_S):
                continue
            del self._due[component_id]
            update = self._resolved(component_id)
            if update is not None and not self._course.forbids(update):
                jobs.append(Job(update))
        return jobs

    def done(self, action: Request) -> None:
        """Note that a request has ended, whatever its outcome, and that this is recorded."""
        if isinstance(action, Link):
            self._linking -= 1
        elif isinstance(action, Upload):
            content = action.component_id, action.blob
            self._in_flight.pop(content, None)
            self.put_off(self._twins.pop(content, ()))
            self.put_off_lineage(self._linked_later.pop(content, ()))
            self._busy[action.blob.bucket] -= 1
            if action.component_id in self._references:
                self._due.setdefault(action.component_id, self._clock())

    def _read(self) -> None:
        """Plan the next entries that were put off."""
        actions, self._put_off = self._planned(self._put_off)
        uploads = [action for action in actions if isinstance(action, Upload)]
        fresh = (
            upload
            for upload in uploads
            if (upload.component_id, upload.blob) not in self._in_flight
        )
        self._waiting.extend(sorted(fresh, key=lambda upload: upload.size_bytes))
        for upload in uploads:
            if (upload.component_id, upload.blob) in self._in_flight:
                self._twins[upload.component_id, upload.blob] += upload.seqs
        waiting = {action.component_id for action in self._waiting}
        for action in actions:
            if isinstance(action, Update):
                _, changes = self._references.setdefault(
                    action.component_id, (action.component, [])
                )
                changes += action.changes
                # No upload is left whose end would make them due.
                if action.component_id not in waiting:
                    self._due.setdefault(action.component_id, self._clock())

    def _read_lineage(self) -> None:
        """Plan the next lineage. What waits for an upload in flight is put off until its end."""
        actions, self._lineage_put_off = self._planned(self._lineage_put_off)
        for action in actions:
            if isinstance(action, Link):
                content = action.component_id, action.blob
                if action.uri is not None:
                    self._links.append(action)
                elif content in self._in_flight:
                    self._linked_later[content] += action.seqs

    def _planned(self, put_off: array[int]) -> tuple[list[Action], array[int]]:
        """Return the plan of the first entries that were put off, and the other entries."""
        seqs, rest = put_off[:READ_MAX], put_off[READ_MAX:]
        entries = pending_at(self._journal, seqs)
        # The page was perhaps too large. What is settled is not read again.
        if entries and entries[-1].seq < max(seqs):
            rest = array("q", (seq for seq in seqs if seq > entries[-1].seq)) + rest
        states = read_states(self._journal.database, {entry.component_id for entry in entries})
        actions = planner.plan(entries, states, can=self._can)
        self._settle([action for action in actions if isinstance(action, Settle)])
        return actions, rest

    def _resolved(self, component_id: int) -> Update | None:
        """Return the component's references that can be sent. The others stay waiting."""
        component, changes = self._references.pop(component_id)
        state = read_states(self._journal.database, [component_id])[component_id]
        update, settled = planner.resolve(Update(component_id, component, tuple(changes)), state)
        self._settle(settled)
        over = {seq for action in settled for seq in action.seqs} | set(
            update.seqs if update is not None else ()
        )
        left = [rest for change in changes if (rest := change.without(over)) is not None]
        if left:
            self._references[component_id] = (component, left)
        return (
            replace(update, changes=_last_of_each(update.changes)) if update is not None else None
        )


def _last_of_each(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Merge several references for one key into one change."""
    parts: dict[tuple[FieldMap, str], list[Part]] = defaultdict(list)
    for change in changes:
        parts[change.map, change.key] += change.each
    return tuple(Change.of(*place, parts_in_order(each)) for place, each in parts.items())
