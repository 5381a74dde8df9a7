"""What the requests of a pass have shown so far, and what that forbids for the rest of it.

One thing never holds up another. A failure concerns as little as it can: the request; the bucket, for uploads; the component,
for what is refused to it alone or fails again and again. The pass ends only for what every other request would meet as well:
credentials, an endpoint that can't be reached, several components in a row without one success between them.

Must not know the journal or any remote.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

from journaltrack.errors import NOT_ALLOWED, RemoteError, UnexpectedError
from journaltrack.replay.plan.actions import Associate, Ensure, PutMetrics, Request, Update, Upload

if TYPE_CHECKING:
    from journaltrack.journal.entries import Entry
    from journaltrack.replay.gate import Gate
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.requests import Verdict

logger = logging.getLogger(__name__)

IN_A_ROW_MAX: Final = 3
"""Failures in a row after which a component or a bucket is left alone for this pass, and components after which the pass ends."""

_Way: TypeAlias = "tuple[str, int | str | None]"
"""What shares the fate of a request: its component, or the bucket that it goes to, or the folder there."""


class Course:
    """What is known since the pass began.

    Args:
        report: Of the pass; what was held, halted and failed is noted there.
        gate: Of the pass.

    Attributes:
        component_ended: Whether a component's last status was delivered.
        open_buckets: Buckets (None: the default one) that took an upload.
    """

    def __init__(self, report: PassReport, gate: Gate) -> None:
        self._report = report
        self._gate = gate
        self._absent: set[int] = set()  # components whose creation failed for now: nothing of them can succeed
        self._blocked: set[int] = set()  # components with a failed update: a later one may not overtake it
        self._closed: set[_Way] = set()  # left alone for this pass
        self._failures: Counter[_Way] = Counter()  # in a row
        self._in_a_row: dict[_Way, RemoteError] = {}  # components that failed since the last success of any
        self._succeeded = False
        self.component_ended = False
        self.open_buckets: set[str | None] = set()

    @property
    def ended(self) -> bool:
        """Whether no request may be begun any more."""
        return self._report.halted is not None or self._gate.over

    def note(self, action: Request, verdict: Verdict) -> None:
        """Remember what this verdict forbids."""
        if isinstance(action, PutMetrics) and verdict.outcome.outcome == "delivered" and not self._failures:  # nearly always
            self._succeeded = True
            return
        way = _way(action)
        if verdict.outcome.outcome in {"delivered", "partial"}:
            self._succeed(action, way)
        if isinstance(action, Update) and verdict.outcome.outcome == "delivered":
            self.component_ended |= action.ends
        if verdict.block and isinstance(action, Ensure):
            self._absent.add(action.component_id)
        if verdict.block and isinstance(action, Update):
            self._blocked.add(action.component_id)
        if verdict.hold is not None:
            self._hold(action, verdict.hold)
        if verdict.passing is not None:
            self._fail(action, way, verdict.passing)
        if verdict.halt is not None:
            self._halt(action, way, verdict.halt)

    def is_held(self, entry: Entry) -> bool:
        """Whether nothing of the entry may be sent."""
        if self.is_closed(entry.component_id):
            return True
        return entry.component_id in self._blocked and entry.stream == "component"

    def is_closed(self, component_id: int) -> bool:
        """Whether nothing of the component may be sent."""
        return component_id in self._absent or ("component", component_id) in self._closed

    def forbids(self, action: Request) -> bool:
        """Whether something that happened in this pass forbids the action."""
        if not (self._absent or self._closed or self._blocked):  # nearly always
            return False
        if self.is_closed(action.component_id) or _way(action) in self._closed:
            return True
        if isinstance(action, Upload) and _folder(action) in self._closed:
            return True
        return isinstance(action, Update) and action.component_id in self._blocked

    def conclude(self) -> None:
        """At the end: a pass in which nothing succeeded was halted by whatever failed."""
        if self._report.halted is None and self._in_a_row and not self._succeeded:
            self._report.halted = next(iter(self._in_a_row.values()))

    def _succeed(self, action: Request, way: _Way) -> None:
        self._failures.pop(way, None)
        if isinstance(action, Upload):
            self.open_buckets.add(action.blob.bucket)
        else:
            self._succeeded = True
            self._in_a_row.clear()

    def _hold(self, action: Request, error: RemoteError) -> None:
        self._closed.add(("component", action.component_id))
        if action.component not in self._report.held:
            self._report.held[action.component] = error
            logger.info("%s is held: %s", action.component, error)  # the report names it, and whoever made the pass tells

    def _fail(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Another try may succeed, but not in this pass."""
        self._report.failed = error
        self._failures[way] += 1
        if self._failures[way] >= IN_A_ROW_MAX:
            self._closed.add(way)
        if not isinstance(action, Upload) and not isinstance(error, UnexpectedError):
            self._in_a_row.setdefault(way, error)
            if len(self._in_a_row) >= IN_A_ROW_MAX:
                self._end(error)

    def _halt(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Nobody's fault: only a person, or time, can change it."""
        if isinstance(action, Upload):
            self._closed.add(_folder(action) if error.code == NOT_ALLOWED else way)
            self._report.uploads_halted = self._report.uploads_halted or error
        elif error.everywhere or error.unreachable:
            self._end(error)
        else:
            if isinstance(action, Associate):
                self._report.held.setdefault(action.component, error)
            else:
                self._hold(action, error)
            self._failures[way] += 1
            self._in_a_row.setdefault(way, error)
            if len(self._in_a_row) >= IN_A_ROW_MAX:
                self._end(error)

    def _end(self, error: RemoteError) -> None:
        self._report.halted = self._report.halted or error


def _folder(action: Upload) -> _Way:
    return ("folder", f"{action.blob.bucket}/{action.blob.prefix}")


def _way(action: Request) -> _Way:
    return ("bucket", action.blob.bucket) if isinstance(action, Upload) else ("component", action.component_id)
