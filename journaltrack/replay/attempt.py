"""One request of a pass, on a worker's thread: from an intent to a result, whatever happens.

Touches the remote, the gate and the clock; must not know the journal's tables, threads, or what follows from a result.

Invariant: every attempt ends with a result. What nobody expected is one, too, and says whether the request may have left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from journaltrack.errors import ErrorKind, NotSentError, RemoteError, UnexpectedError
from journaltrack.limits import METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S
from journaltrack.replay.gate import Ticket
from journaltrack.replay.plan.actions import PutMetrics, Request, Upload
from journaltrack.replay.requests import Context, perform, shifted

if TYPE_CHECKING:
    from journaltrack.replay.gate import Gate
    from journaltrack.replay.remote import Answer, Remote

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A request to make; ``round`` counts how often items of it were sent before."""

    action: Request
    round: int = 0


class Sending(Ticket):
    """A request in a worker's hands, and the receipt of its intent; it is its own ticket."""

    __slots__ = ("job", "receipt_id")

    def __init__(self, job: Job, receipt_id: int) -> None:
        self.left_at = None
        self.job = job
        self.receipt_id = receipt_id


class Result(NamedTuple):
    """What a worker brought back; ``notes`` is what is to be told of entries that were not sent as they are, by ``seq``."""

    result: Answer | RemoteError
    attempts: int = 0
    notes: Mapping[int, str] = {}


class Attempts:
    """Makes requests; ``__call__`` is a worker's work.

    Args:
        remote: Retries what is worth it, and should raise ``RemoteError`` alone.
        context: For ``requests``.
        gate: Of the pass.
        count: Tells, on the worker's thread, how often the remote sent the last request.
        shift: Whether metrics that are too old or too far ahead get the time of delivery.
        displaced: Whether the journal is no longer where it was.
        clock_ns: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        remote: Remote,
        context: Context,
        gate: Gate,
        *,
        count: Callable[[], int],
        shift: bool,
        displaced: Callable[[], bool],
        clock_ns: Callable[[], int],
    ) -> None:
        self._remote = remote
        self._context = context
        self._gate = gate
        self._count = count
        self._shift = shift
        self._displaced = displaced
        self._clock_ns = clock_ns

    def __call__(self, sending: Sending) -> Result:
        """Make the request; raises nothing."""
        try:
            return self._made(sending)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this request's, and nothing else's
            return self.unexpected(sending, error)

    def unexpected(self, sending: Sending, error: BaseException) -> Result:
        """The result of a request that ended with something that is no remote's answer."""
        logger.warning("%s of %s failed unexpectedly", sending.job.action.action, sending.job.action.component, exc_info=error)
        return Result(UnexpectedError(error, maybe_applied=sending.left_at is not None), attempts=1)

    def _made(self, sending: Sending) -> Result:
        job = sending.job
        if job.round:
            self._gate.wait(min(0.1 * 2**job.round, 5.0))
        if self._gate.over or (isinstance(job.action, PutMetrics) and self._gate.is_late):
            return Result(NotSentError())
        self._gate.carry(sending)
        sent = self._timed(job.action)
        notes: Mapping[int, str] = {}
        if sent is not job.action and isinstance(job.action, PutMetrics) and isinstance(sent, PutMetrics):
            notes = shifted(job.action, sent)
        try:
            answer = perform(sent, self._remote, self._context)
        except NotSentError as error:
            return Result(error, self._count() - 1)
        except RemoteError as error:
            return Result(self._excused(sending, error), self._count(), notes)
        if not isinstance(job.action, Upload) and sending.left_at is not None:
            self._gate.answered(time.monotonic() - sending.left_at)
        return Result(answer, self._count(), notes)

    def _excused(self, sending: Sending, error: RemoteError) -> RemoteError:
        """What the remote can't know: nothing left; content that can't be found because the journal was moved a moment ago is not lost."""
        if error.maybe_applied and sending.left_at is None:
            return _with(error, maybe_applied=False)
        if isinstance(sending.job.action, Upload) and error.kind is ErrorKind.PERMANENT and self._displaced():
            return _with(error, kind=ErrorKind.TRANSIENT, hint="the next pass looks for it where the journal is now")
        return error

    def _timed(self, action: Request) -> Request:
        """The action with the timestamps to send; what is recorded of it stays as it was."""
        if self._shift and isinstance(action, PutMetrics):
            return action.within(self._clock_ns(), METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S)
        return action


def _with(error: RemoteError, **changes: Any) -> RemoteError:  # noqa: ANN401 - the constructor's
    """The same failure, seen otherwise in some respect."""
    kept = ("kind", "code", "hint", "request_id", "maybe_applied", "unreachable", "uploads_only", "everywhere", "throttled")
    return RemoteError(error.message, **{name: getattr(error, name) for name in kept} | changes)
