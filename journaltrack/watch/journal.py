"""Represent a watched journal: what was seen, what it waits for, and what is reported of it.

States, in the words that ``status`` shows:

- *arriving*: it may be an unfinished copy,
- *quiet*: nothing has changed,
- *changed*: a pass begins in a moment,
- *running*: a pass is under way,
- *waiting*: its entries can't be delivered now; the next attempt is at ``next_attempt``.

No I/O but ``stat``, no threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack.errors import RemoteError
from journaltrack.journal.sqlite.files import held_open
from journaltrack.watch import folders

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from journaltrack.errors import JournaltrackError
    from journaltrack.replay.pass_report import PassReport, Position
    from journaltrack.util.deadline import Deadline
    from journaltrack.watch.breaker import Backoff

State: TypeAlias = Literal["arriving", "quiet", "changed", "running", "waiting"]

HOT_S: Final = 5.0
"""How long to poll a journal after a write, in place of an event for each write."""
TORN_FACTOR: Final = 12
"""How much longer to leave a journal alone if its log ends within a frame.

It is an unfinished copy, or a kill interrupted a write.
"""


def code_of(error: JournaltrackError) -> str:
    """Return the remote's error code, or the name of our exception."""
    return error.code if isinstance(error, RemoteError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Delivery:
    """Say what came of a look at a journal.

    Attributes:
        pending: Number of pending entries.
        position: How far the look saw the journal. None: not far enough to skip a later look.
        report: The pass's report. None: no pass, since nothing was new.
        missing_blobs: Number of artifacts that have not arrived. If any, no pass was made.
    """

    pending: int
    position: Position | None = None
    report: PassReport | None = None
    missing_blobs: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """Ask to deliver one journal.

    Attributes:
        journal: The journal's folder.
        deadline: Ends the pass.
        unless: Make no pass if the journal is still at this position.
        arriving: First check that all artifacts to upload have arrived.
        preflight: First check, with one request that can be repeated, that the endpoint answers.
        look_only: Make no pass.
    """

    journal: Path
    deadline: Deadline
    unless: Position | None = None
    arriving: bool = False
    preflight: bool = False
    look_only: bool = False


@dataclass(slots=True)
class Totals:
    """Sum up what the watcher did for a journal since it started."""

    passes: int = 0
    requests: int = 0
    delivered: int = 0
    quarantined: int = 0
    in_doubt: int = 0


@dataclass(slots=True)
class WatchedJournal:
    """Hold what the watcher knows of one journal.

    Times are the watcher's monotonic seconds, unless named ``_ns``. ``examine_at`` is when to look
    at the files even without a poll or an event. ``arrivals`` is False for a journal that this
    process has open itself: it is no copy, and opening its files is forbidden, since closing them
    would drop SQLite's locks.
    """

    path: Path
    retry: Backoff
    arrivals: bool = True
    files: folders.Files | None = None
    position: Position | None = None
    arriving: bool = True
    unchecked: bool = True
    quiet_since: float = 0.0
    due_at: float | None = None
    retry_at: float | None = None
    hot_until: float = 0.0
    examine_at: float = float("inf")
    started_at: float = 0.0
    looked_at: float = float("-inf")
    running: Future[Delivery] | None = None
    deadline: Deadline | None = None
    # Reported to monitors and ``status``.
    reason: str | None = None
    pending: int | None = None
    last_success_at_ns: int | None = None
    rate_per_s: float | None = None
    last_error: JournaltrackError | None = None
    totals: Totals = field(default_factory=Totals)

    @property
    def state(self) -> State:
        """Return the state in one word."""
        if self.running is not None:
            return "running"
        if self.arriving:
            return "arriving"
        if self.due_at is not None:
            return "changed"
        return "quiet" if self.retry_at is None else "waiting"

    @property
    def error_text(self) -> dict[str, Any] | None:
        """Return the last error for a report, or None."""
        error = self.last_error
        if error is None:
            return None
        return {"code": code_of(error), "message": error.message, "hint": error.hint}

    def seen(self, files: folders.Files, now: float, debounce_s: float) -> bool:
        """Take note of the files as they are now. Return whether they have changed."""
        if files == self.files:
            return False
        if self.files is not None and self.files.replaced_by(files):
            self.arriving = self.unchecked = self.arrivals
            self.position = None
        self.files = files
        # The last look of the hot time asks for events.
        self.hot_until = self.examine_at = now + HOT_S
        self.quiet_since = now
        if self.due_at is None:
            self.due_at = now + debounce_s
        return True

    def settle(self, now: float, settle_s: float) -> bool:
        """Return whether the journal may be opened now.

        It may if it is in use on this machine, or if it is whole and has not changed for
        ``settle_s``.
        """
        if not self.arriving or self.files is None:
            return not self.arriving
        if held_open(self.path):
            self.reason = None
            self.arriving = False
            return True
        self.reason = folders.in_arrival(self.path, self.files)
        quiet_s = settle_s * (TORN_FACTOR if folders.log_is_torn(self.path, self.files) else 1)
        if self.reason is None and now - self.quiet_since < quiet_s:
            self.reason = "a copy may be under way"
            self.examine_at = self.quiet_since + quiet_s
            return False
        self.arriving = self.reason is not None
        return not self.arriving

    def take(self, delivery: Delivery, now: float, now_ns: int, debounce_s: float) -> None:
        """Take note of the result of a look or a pass. The watcher handles the gate."""
        self.pending = delivery.pending
        if delivery.missing_blobs:
            self.reason = f"{delivery.missing_blobs} of its artifacts have not arrived"
            self.retry_at = now + self.retry.next_s()
            return
        self.reason = None
        report = delivery.report
        if delivery.position is not None:
            self.position = delivery.position
        if report is None:
            if not delivery.pending:
                self.last_error = None
                self.retry_at = None
            return
        self.unchecked = False
        # Look again: writes during the pass can't be told from the pass's own.
        self.due_at = now + debounce_s
        self.totals.passes += 1
        self.totals.requests += report.requests
        self.totals.delivered += report.delivered
        self.totals.quarantined += report.quarantined
        self.totals.in_doubt += report.in_doubt
        if report.settled:
            self.last_success_at_ns = now_ns
            self.rate_per_s = report.settled / max(report.duration_s, 1e-3)
        # A pass that was cut short does not tell whether the last error is gone.
        if report.problem is not None or report.settled or not report.out_of_time:
            self.last_error = report.problem
        if report.problem is None and not report.pending:
            self.retry.reset()
            self.retry_at = None
        else:
            if report.settled:
                self.retry.reset()
            self.retry_at = now + self.retry.next_s()

    def fail(self, error: JournaltrackError, now: float) -> None:
        """Take note that the journal can't be read or reconciled now."""
        self.last_error = error
        self.retry_at = now + self.retry.next_s()
