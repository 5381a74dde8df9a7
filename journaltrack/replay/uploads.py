"""The lane beside: uploads, and the references that name them. It never keeps metrics, parameters or a status waiting.

What waits for an upload is remembered by its number alone, and read again when its turn comes: memory does not grow with the
uploads that a journal holds. Small contents go first. A bucket of which nothing is known gets one upload at a time: the first that
can't reach it speaks for the others. References go out when the uploads of their component are done, or after a moment.

Reads the journal and plans; must not know how anything is sent or recorded.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from journaltrack.journal.fold import FieldMap, Part, parts_in_order
from journaltrack.replay.plan import planner as planning
from journaltrack.replay.plan.actions import Change, Request, Settle, Update, Upload
from journaltrack.replay.plan.pending import pending_at, read_states
from journaltrack.replay.requests import Job

if TYPE_CHECKING:
    from journaltrack.journal.entries import BlobRef
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.dispatch import Course

IN_FLIGHT_MAX: Final = 16
"""Uploads at a time: they are bound by bandwidth, not by latency."""
READ_MAX: Final = 2_000
"""Entries that are planned at a time."""
LINGER_S: Final = 2.0
"""So long a reference waits for others of its component: a request each would be many."""


class Uploads:
    """Uploads and references of one pass that wait for their turn.

    Args:
        journal: To read from.
        course: Of the pass.
        settle: Records what needs no request.
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
        self._put_off = array("q")  # seqs
        self._waiting: deque[Upload] = deque()
        self._in_flight: dict[tuple[int, BlobRef], Upload] = {}
        self._twins: dict[tuple[int, BlobRef], list[int]] = defaultdict(list)  # entries with a content that is being uploaded
        self._busy: Counter[str | None] = Counter()  # uploads in flight, by bucket
        self._references: dict[int, tuple[str, list[Change]]] = {}  # by component: its name, and what waits
        self._due: dict[int, float] = {}  # components that have references to send, and since when

    def put_off(self, seqs: Iterable[int]) -> None:
        """These entries wait for an upload, or are one."""
        self._put_off.extend(seqs)

    @property
    def waiting(self) -> bool:
        """Whether there is anything left to begin, now or when what is in flight is done."""
        return bool(self._waiting or self._put_off or self._due)

    def due_in_s(self) -> float:
        """Seconds until references are to be sent that wait for others now; infinity if none do."""
        if not self._due:
            return float("inf")
        now = self._clock()
        return min((since + LINGER_S - now for since in self._due.values() if since + LINGER_S > now), default=float("inf"))

    def next(self, free: int) -> list[Job]:
        """Up to so many uploads that may begin now."""
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
            if self._busy[action.blob.bucket] and action.blob.bucket not in self._course.open_buckets:
                self._waiting.append(action)  # the first one finds out
                continue
            self._busy[action.blob.bucket] += 1
            self._in_flight[action.component_id, action.blob] = action
            jobs.append(Job(action))
        return jobs

    def next_references(self, is_free: Callable[[int], bool]) -> list[Job]:
        """Updates with references whose uploads are done, of components that no other update is made of now.

        Args:
            is_free: Whether that is so, by component.
        """
        if not self._due:
            return []
        now = self._clock()
        busy = {action.component_id for action in self._waiting} | {component_id for component_id, _ in self._in_flight}
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
        """An upload has ended, whatever became of it, and that is recorded."""
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
        if entries and entries[-1].seq < max(seqs):  # perhaps too large to be read at once; what is settled is not read again
            rest = array("q", (seq for seq in seqs if seq > entries[-1].seq)) + rest
        self._put_off = rest
        states = read_states(self._journal.database, {entry.component_id for entry in entries})
        actions = planning.plan(entries, states)
        self._settle([action for action in actions if isinstance(action, Settle)])
        uploads = [action for action in actions if isinstance(action, Upload)]
        self._waiting.extend(sorted((u for u in uploads if (u.component_id, u.blob) not in self._in_flight), key=lambda u: u.size_bytes))
        for upload in uploads:
            if (upload.component_id, upload.blob) in self._in_flight:
                self._twins[upload.component_id, upload.blob] += upload.seqs
        waiting = {action.component_id for action in self._waiting}
        for action in actions:
            if isinstance(action, Update):
                _, changes = self._references.setdefault(action.component_id, (action.component, []))
                changes += action.changes
                if action.component_id not in waiting:  # nothing will say that they are due
                    self._due.setdefault(action.component_id, self._clock())

    def _resolved(self, component_id: int) -> Update | None:
        """The component's references that can be sent; the others go on waiting."""
        component, changes = self._references.pop(component_id)
        state = read_states(self._journal.database, [component_id])[component_id]
        update, settled = planning.resolve(Update(component_id, component, tuple(changes)), state)
        self._settle(settled)
        over = {seq for action in settled for seq in action.seqs} | set(update.seqs if update is not None else ())
        left = [rest for change in changes if (rest := change.without(over)) is not None]
        if left:
            self._references[component_id] = (component, left)
        return replace(update, changes=_last_of_each(update.changes)) if update is not None else None


def _last_of_each(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Several references for one key as one."""
    parts: dict[tuple[FieldMap, str], list[Part]] = defaultdict(list)
    for change in changes:
        parts[change.map, change.key] += change.each
    return tuple(Change.of(*place, parts_in_order(each)) for place, each in parts.items())
