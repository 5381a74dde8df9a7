"""Queue the uploads of a pass, and the references that name what was uploaded.

This lane never keeps metrics, parameters or a status waiting.

- An entry that waits for an upload is remembered by its ``seq`` alone, and read again when its
  turn comes. Memory does not grow with the uploads of a journal.
- Small contents go first.
- A bucket that has not answered yet gets one upload at a time. If that one can't reach the bucket,
  the others need not try.
- References are sent when the uploads of their component are done, or after ``LINGER_S``.

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
from journaltrack.replay.plan.actions import Change, Request, Settle, Update, Upload
from journaltrack.replay.plan.pending import pending_at, read_states
from journaltrack.replay.requests import Job

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import BlobRef
    from journaltrack.replay.dispatch import Course

IN_FLIGHT_MAX: Final = 16
"""Uploads in flight. Bandwidth limits them, not latency."""
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
    """

    def __init__(
        self,
        journal: Journal,
        course: Course,
        settle: Callable[[Sequence[Settle]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
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
        # By component: its name, and the changes that wait.
        self._references: dict[int, tuple[str, list[Change]]] = {}
        # Components with references to send, and since when.
        self._due: dict[int, float] = {}

    def put_off(self, seqs: Iterable[int]) -> None:
        """Add entries that are uploads, or wait for one."""
        self._put_off.extend(seqs)

    @property
    def waiting(self) -> bool:
        """Return whether anything is left to begin, now or after the uploads in flight."""
        return bool(self._waiting or self._put_off or self._due)

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
        """Return the uploads that may begin now, ``free`` of them at most."""
        if not self._waiting and self._put_off and free > 0:
            self._read()
        if not self._waiting:
            return []
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
        """Note that an upload has ended, whatever its outcome, and that this is recorded."""
        if isinstance(action, Upload):
            self._in_flight.pop((action.component_id, action.blob), None)
            self.put_off(self._twins.pop((action.component_id, action.blob), ()))
            self._busy[action.blob.bucket] -= 1
            if action.component_id in self._references:
                self._due.setdefault(action.component_id, self._clock())

    def _read(self) -> None:
        """Plan the next entries that were put off."""
        seqs = self._put_off[:READ_MAX]
        entries = pending_at(self._journal, seqs)
        rest = self._put_off[READ_MAX:]
        # The page was perhaps too large. What is settled is not read again.
        if entries and entries[-1].seq < max(seqs):
            rest = array("q", (seq for seq in seqs if seq > entries[-1].seq)) + rest
        self._put_off = rest
        states = read_states(self._journal.database, {entry.component_id for entry in entries})
        actions = planner.plan(entries, states)
        self._settle([action for action in actions if isinstance(action, Settle)])
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
