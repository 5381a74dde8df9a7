"""One watched journal: what was seen of it, what it waits for, and what is told of it. No I/O but ``stat``, no threads.

States, in the words that ``status`` shows: *arriving* (it may be a copy that is not complete), *quiet* (nothing that was not
seen), *changed* (a pass is due in a moment), *running*, *waiting* (something keeps its entries from being delivered; tried
again at ``next_attempt``).
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
"""A journal that was written to is polled for so long, instead of asking the system for an event per write."""
TORN_FACTOR: Final = 12
"""A log that ends within a frame is a copy under way or the trace of a kill: it is left alone for so much longer."""


def code_of(error: JournaltrackError) -> str:
    """What kind of error it is, in a word: the remote's own, or ours."""
    return error.code if isinstance(error, RemoteError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a look at a journal.

    Attributes:
        pending: Entries that wait now.
        position: What was seen of the journal; None: not enough to skip anything.
        report: Of the pass; None: there was nothing to do that had not been tried.
        missing_blobs: Artifacts that have not arrived: no pass was made.
    """

    pending: int
    position: Position | None = None
    report: PassReport | None = None
    missing_blobs: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """What to do about one journal.

    Attributes:
        journal: Its folder.
        deadline: Ends the pass.
        unless: Make no pass if the journal is still there.
        arriving: First see that what is to be uploaded is there.
        preflight: First see, with one request that may be repeated, that the endpoint answers.
        look_only: Make no pass at all.
    """

    journal: Path
    deadline: Deadline
    unless: Position | None = None
    arriving: bool = False
    preflight: bool = False
    look_only: bool = False


@dataclass(slots=True)
class Totals:
    """What was done for a journal since the watcher started."""

    passes: int = 0
    requests: int = 0
    delivered: int = 0
    quarantined: int = 0
    in_doubt: int = 0


@dataclass(slots=True)
class WatchedJournal:
    """What the watcher knows of one journal. Times are the watcher's (monotonic seconds), unless named ``_ns``.

    ``arrivals`` False is for a journal that this process has open itself: it is no copy, and its files must not be opened
    (closing them would drop SQLite's locks).
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
    started_at: float = 0.0
    looked_at: float = float("-inf")
    running: Future[Delivery] | None = None
    deadline: Deadline | None = None
    # told
    reason: str | None = None
    pending: int | None = None
    last_success_at_ns: int | None = None
    rate_per_s: float | None = None
    last_error: JournaltrackError | None = None
    totals: Totals = field(default_factory=Totals)

    @property
    def state(self) -> State:
        """In one word."""
        if self.running is not None:
            return "running"
        if self.arriving:
            return "arriving"
        if self.due_at is not None:
            return "changed"
        return "quiet" if self.retry_at is None else "waiting"

    @property
    def error_text(self) -> dict[str, Any] | None:
        """The last error as it is told."""
        error = self.last_error
        if error is None:
            return None
        return {"code": code_of(error), "message": error.message, "hint": error.hint}

    def seen(self, files: folders.Files, now: float, debounce_s: float) -> bool:
        """Take note of its files as they are now; whether they changed since the last time."""
        if files == self.files:
            return False
        if self.files is not None and self.files.replaced_by(files):
            self.arriving = self.unchecked = self.arrivals
            self.position = None
        self.files = files
        self.hot_until = now + HOT_S
        self.quiet_since = now
        if self.due_at is None:
            self.due_at = now + debounce_s
        return True

    def settle(self, now: float, settle_s: float) -> bool:
        """Whether it may be opened now: it is in use on this machine, or whole and left in peace for ``settle_s``."""
        if not self.arriving or self.files is None:
            return not self.arriving
        if held_open(self.path):
            self.reason = None
            self.arriving = False
            return True
        self.reason = folders.in_arrival(self.path, self.files)
        quiet_s = settle_s * (TORN_FACTOR if folders.log_is_torn(self.path, self.files) else 1)
        if self.reason is None and now - self.quiet_since < quiet_s:
            self.reason = "it may still be being copied"
            return False
        self.arriving = self.reason is not None
        return not self.arriving

    def take(self, delivery: Delivery, now: float, now_ns: int, debounce_s: float) -> None:
        """What came of a look or pass; the gate's part of it is the watcher's affair."""
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
        self.due_at = now + debounce_s  # look again: what was written while the pass ran is not told apart from its own writes
        self.totals.passes += 1
        self.totals.requests += report.requests
        self.totals.delivered += report.delivered
        self.totals.quarantined += report.quarantined
        self.totals.in_doubt += report.in_doubt
        if report.settled:
            self.last_success_at_ns = now_ns
            self.rate_per_s = report.settled / max(report.duration_s, 1e-3)
        if (
            report.problem is not None or report.settled or not report.out_of_time
        ):  # a pass that was cut short says nothing of what kept it before
            self.last_error = report.problem
        if report.problem is None and not report.pending:
            self.retry.reset()
            self.retry_at = None
        else:
            if report.settled:
                self.retry.reset()
            self.retry_at = now + self.retry.next_s()

    def fail(self, error: JournaltrackError, now: float) -> None:
        """It can't be read or reconciled now."""
        self.last_error = error
        self.retry_at = now + self.retry.next_s()
