"""Tell what a pass has learned, and what that forbids.

A failure concerns as little as it can. An upload closes its bucket or folder. Lineage closes only
lineage, and an experiment or trial nothing but itself; one that failed for now, also what would
make it without what its declaration gives. What is refused to one component, or fails there again
and again, closes that component. The pass halts only for what every other request would meet as
well: credentials, an unreachable endpoint, or several components in a row without a success.

Must not know who asks, the journal, or any particular remote.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

from journaltrack.errors import (
    DEADLINE_OVER,
    NOT_ALLOWED,
    ComponentMissingError,
    RemoteError,
    UnexpectedError,
)
from journaltrack.replay.plan.actions import (
    AddTags,
    Associate,
    Declare,
    Disassociate,
    Ensure,
    Link,
    PutMetrics,
    Request,
    Update,
    Upload,
)

if TYPE_CHECKING:
    from journaltrack.journal.vocabulary import Entry
    from journaltrack.replay.lease import Gate
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.requests import Verdict

logger = logging.getLogger(__name__)

IN_A_ROW_MAX: Final = 3
"""Failures in a row that close a component or a bucket for this pass.

Also: components failing in a row that halt the pass.
"""
_MEMBERSHIPS: Final = (Associate, Disassociate, AddTags)
_MAKERS: Final = (Associate, Declare)
_Way: TypeAlias = "tuple[str, int | str | None]"
"""What shares the fate of a request: its component, its bucket, its folder in it, or lineage."""
Turn: TypeAlias = "int | tuple[int, str]"
"""What requests are sent one after the other for: a component's fields, or its place in a trial."""
_LINEAGE: Final[_Way] = ("lineage", None)


class Course:
    """Tell what the pass has learned so far, and what that forbids.

    Args:
        report: Of the pass. ``Course`` notes there what was held, halted and failed.
        gate: Of the pass.

    Attributes:
        component_ended: Whether a component's last status was delivered.
        open_buckets: Buckets that took an upload. None is the default bucket.
        lineage_open: Whether the remote took lineage, or refused an item of it alone.
    """

    def __init__(self, report: PassReport, gate: Gate) -> None:
        self._report = report
        self._gate = gate
        # Components whose creation failed for now: no request for them can succeed.
        self._absent: set[int] = set()
        # Turns with a failed request: a later one must not overtake it.
        self._blocked: set[Turn] = set()
        # Rows of experiments and trials that are not declared yet, in lower case.
        self._undeclared: set[str] = set()
        # Not tried again in this pass.
        self._closed: set[_Way] = set()
        # In a row.
        self._failures: Counter[_Way] = Counter()
        # Components that failed since the last success of any.
        self._in_a_row: dict[_Way, RemoteError] = {}
        self._succeeded = False
        self.component_ended = False
        self.open_buckets: set[str | None] = set()
        self.lineage_open = False

    @property
    def lineage_closed(self) -> bool:
        """Return whether no more lineage may be sent."""
        return _LINEAGE in self._closed

    @property
    def ended(self) -> bool:
        """Return whether no more requests may begin."""
        return self._report.halted is not None or self._gate.over

    def note(self, action: Request, verdict: Verdict) -> None:
        """Remember what this verdict forbids."""
        # The fast path: nearly every verdict is this one.
        if (
            isinstance(action, PutMetrics)
            and verdict.outcome.outcome == "delivered"
            and not self._failures
        ):
            self._succeeded = True
            return
        if verdict.passing is not None and verdict.passing.code == DEADLINE_OVER:
            # The time was over, which tells nothing of the remote.
            self._report.out_of_time = True
            verdict = verdict._replace(passing=None)
        turn = turn_of(action)
        if verdict.block:
            self._block(action, turn)
        elif turn is not None and (verdict.hold or verdict.halt):
            self._blocked.add(turn)
        if isinstance(action, Link):
            self._note_lineage(action, verdict)
        elif isinstance(action, Declare):
            self._note_declaration(action, verdict)
        else:
            self._note_other(action, verdict)

    def _note_other(self, action: Request, verdict: Verdict) -> None:
        way = _way(action)
        if verdict.outcome.outcome in {"delivered", "partial"}:
            self._succeed(action, way)
        if isinstance(action, Update) and verdict.outcome.outcome == "delivered":
            self.component_ended |= action.ends
        if verdict.block and isinstance(action, Ensure):
            self._absent.add(action.component_id)
        if verdict.hold is not None:
            self._hold(action, verdict.hold)
        if verdict.passing is not None:
            self._fail(action, way, verdict.passing)
        if verdict.halt is not None:
            self._halt(action, way, verdict.halt)

    def is_held(self, entry: Entry) -> bool:
        """Return whether the entry must not be sent."""
        if self.is_closed(entry.component_id):
            return True
        return entry.component_id in self._blocked and entry.stream == "component"

    def is_closed(self, component_id: int) -> bool:
        """Return whether no request for the component may be sent."""
        return component_id in self._absent or ("component", component_id) in self._closed

    def forbids(self, action: Request) -> bool:
        """Return whether an earlier result of this pass forbids the action."""
        # Nearly always.
        if not (self._absent or self._closed or self._blocked):
            return False
        if self.is_closed(action.component_id) or _way(action) in self._closed:
            return True
        if isinstance(action, Upload) and _folder(action) in self._closed:
            return True
        if isinstance(action, Link) and _lineage_of(action) in self._closed:
            return True
        turn = turn_of(action)
        if isinstance(action, _MAKERS) and not self._undeclared.isdisjoint(action.makes):
            # For what comes later in its turn, it is as if it had failed.
            self._block(action, turn)
        return turn in self._blocked

    def conclude(self) -> None:
        """Halt a pass in which nothing succeeded, with the first failure as the reason."""
        if self._report.halted is None and self._in_a_row and not self._succeeded:
            self._report.halted = next(iter(self._in_a_row.values()))

    def _block(self, action: Request, turn: Turn | None) -> None:
        """Leave a request, and what comes later in its turn, to the next pass."""
        if turn is not None:
            self._blocked.add(turn)
        if isinstance(action, Declare):
            self._undeclared.add(action.component.lower())

    def _note_lineage(self, action: Link, verdict: Verdict) -> None:
        """Remember what a verdict on lineage forbids: other lineage, and nothing else."""
        way = _way(action)
        error = verdict.halt or verdict.hold or verdict.passing
        if error is None:
            if verdict.outcome.outcome != "not sent":
                self.lineage_open = True
                self._failures.pop(way, None)
            return
        self._report.lineage_halted = self._report.lineage_halted or error
        if isinstance(error, ComponentMissingError) or error.code == NOT_ALLOWED:
            self._closed.add(_lineage_of(action))
            return
        self._failures[way] += 1
        fails = not self.lineage_open or verdict.passing is None or verdict.halt is not None
        if fails or self._failures[way] >= IN_A_ROW_MAX:
            self._closed.add(way)

    def _note_declaration(self, action: Declare, verdict: Verdict) -> None:
        """Remember what a verdict on an experiment or trial forbids: requests for it alone."""
        error = verdict.halt or verdict.hold or verdict.passing
        if error is None:
            self._succeeded |= verdict.outcome.outcome == "delivered"
        elif error.everywhere or error.unreachable:
            self._end(error)
        elif verdict.passing is not None:
            self._report.failed = error
        else:
            self._report.held.setdefault(action.component, error)

    def _succeed(self, action: Request, way: _Way) -> None:
        self._failures.pop(way, None)
        if isinstance(action, Upload):
            self.open_buckets.add(action.blob.bucket)
        else:
            self._succeeded = True
            self._in_a_row.clear()

    def _hold(self, action: Request, error: RemoteError) -> None:
        # A quota of experiments or trials concerns nothing else of the component.
        if not isinstance(action, _MEMBERSHIPS) or isinstance(error, ComponentMissingError):
            self._close(action, error)
        else:
            self._report.held.setdefault(action.component, error)

    def _close(self, action: Request, error: RemoteError) -> None:
        self._closed.add(("component", action.component_id))
        if action.component not in self._report.held:
            self._report.held[action.component] = error
            # INFO: the report names it, and the caller of the pass tells the user.
            logger.info("%s is held: %s", action.component, error)

    def _fail(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Note a failure that a later pass may not meet."""
        self._report.failed = error
        self._failures[way] += 1
        if self._failures[way] >= IN_A_ROW_MAX:
            self._closed.add(way)
        if not isinstance(action, Upload) and not isinstance(error, UnexpectedError):
            self._in_a_row.setdefault(way, error)
            if len(self._in_a_row) >= IN_A_ROW_MAX:
                self._end(error)

    def _halt(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Note a failure that no change of the request would mend."""
        if isinstance(action, Upload):
            self._closed.add(_folder(action) if error.code == NOT_ALLOWED else way)
            self._report.uploads_halted = self._report.uploads_halted or error
        elif error.everywhere or error.unreachable:
            self._end(error)
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


def _lineage_of(action: Link) -> _Way:
    return ("lineage", action.component_id)


def turn_of(action: Request) -> Turn | None:
    """Return what a request waits its turn for; None if it needs none."""
    if isinstance(action, (Update, Declare)):
        return action.component_id
    if isinstance(action, AddTags):
        # No trial has this name.
        return action.component_id, "/tags"
    if isinstance(action, Associate):
        return action.component_id, action.its_trial.lower()
    return (action.component_id, action.trial.lower()) if isinstance(action, Disassociate) else None


def _way(action: Request) -> _Way:
    if isinstance(action, Link):
        return _LINEAGE
    return (
        ("bucket", action.blob.bucket)
        if isinstance(action, Upload)
        else ("component", action.component_id)
    )
