"""One action on one remote, and what its result means: the two halves of a request, without threads or storage.

``requests`` runs on a worker thread and touches only the remote. ``judge`` is pure: from a result to what is recorded
and what follows. Must not know SQLite or any particular remote.

One request of a pass, on a worker's thread: from an intent to a result, whatever happens.

Touches the remote, the gate and the clock; must not know the journal's tables, threads, or what follows from a result.

Invariant: every attempt ends with a result. What nobody expected is one, too, and says whether the request may have left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.errors import (
    AlreadyExistsError,
    ComponentMissingError,
    CopyAheadError,
    ErrorKind,
    NotSentError,
    RemoteError,
    UnexpectedError,
)
from journaltrack.limits import METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S
from journaltrack.replay.evidence.outcomes import NOTHING_MORE, Delivery, Outcome
from journaltrack.replay.evidence.statements import DeliveryOutcome
from journaltrack.replay.lease import Ticket
from journaltrack.replay.plan.actions import Associate, Ensure, PutMetrics, Request, Update, Upload
from journaltrack.replay.plan.planner import beside
from journaltrack.replay.remote import Answer, BlobUpload, Remote

if TYPE_CHECKING:
    from journaltrack.replay.lease import Gate

logger = logging.getLogger(__name__)

REASON_CHARS_MAX = 2_000
"""Ours: characters of a remote's message that are kept."""
NO_EFFECT: Final[Mapping[str, Any]] = MappingProxyType({"no_effect": True})
"""What the attestation of a creation says that certainly failed: a component that is there all the same was made by somebody else."""
SHIFTED = "sent with the time of delivery, since its own is older than 14 days or over 2 hours ahead"


@dataclass(frozen=True, slots=True)
class Context:
    """What performing needs beside the action.

    Attributes:
        spool: Folder of the blobs.
        journal_id: Owner of a component that has no create entry of its own.
        create_or_attach: Create loaded components that are missing, attach to foreign ones that exist.
        even_if_behind: Attach also to what another copy of this journal made.
        attempts: How often the remote sent the calling thread's last request.
    """

    spool: Path
    journal_id: str
    create_or_attach: bool = False
    even_if_behind: bool = False
    attempts: Callable[[], int] = lambda: 1


class Verdict(NamedTuple):
    """What a result means.

    Attributes:
        outcome: To record.
        again: Requests that replace this one now (halves of a refused one, items to send again).
        hold: No more requests for this component in this pass.
        block: No more of the component's state in this pass: its order would be broken.
        halt: Nothing that the request itself could change: no more requests of those that would meet the same in this pass.
        passing: Another try may succeed; several in a row are enough for this pass.
    """

    outcome: Outcome
    again: tuple[Request, ...] = ()
    hold: RemoteError | None = None
    block: bool = False
    halt: RemoteError | None = None
    passing: RemoteError | None = None


def perform(action: Request, remote: Remote, context: Context) -> Answer:
    """Make the request (for ``Ensure`` up to three).

    Raises:
        RemoteError: It failed.
    """
    if isinstance(action, PutMetrics):
        return remote.put_metrics(action.component, action.points)
    if isinstance(action, Update):
        return _update(action, remote)
    if isinstance(action, Upload):
        return remote.upload(
            BlobUpload(
                path=context.spool / action.blob.sha256[:2] / action.blob.sha256,
                sha256=action.blob.sha256,
                size_bytes=action.size_bytes,
                component=action.component,
                name=action.name,
                bucket=action.blob.bucket,
                prefix=action.blob.prefix,
                media_type=action.media_type,
                scratch=context.spool,
            )
        )
    if isinstance(action, Associate):
        return remote.associate(action.component, action.experiment, action.trial)
    return _ensure(action, remote, context)


def judge(action: Request, receipt_id: int, result: Answer | RemoteError, attempts: int, notes: Mapping[int, str] | None = None) -> Verdict:
    """What the result of an action means.

    Args:
        action: What was performed.
        receipt_id: Of its intent.
        result: The answer, or why there is none.
        attempts: Times the request was sent.
        notes: By ``seq``: what an audit is to say of entries that were delivered otherwise than as they are.
    """
    verdict = _judge(action, receipt_id, result, attempts)
    if not notes:
        return verdict
    known = [*(Delivery(seq, "delivered") for seq in verdict.outcome.delivered), *verdict.outcome.deliveries]
    told = [d._replace(reason=d.reason or notes.get(d.seq)) for d in known]
    return verdict._replace(outcome=verdict.outcome._replace(delivered=(), deliveries=told))


def shifted(action: PutMetrics, sent: PutMetrics) -> dict[int, str]:
    """What to tell of the points that were sent with another time than theirs, by ``seq``."""
    pairs = zip(action.seqs, action.points, sent.points, strict=True)
    return {seq: SHIFTED for seq, own, now in pairs if own.timestamp_ns != now.timestamp_ns}


def not_sent(action: Request, receipt_id: int, attempts: int = 0) -> Outcome:
    """A request that certainly had no effect: its entries stay pending."""
    return Outcome(receipt_id, action.component_id, "not sent", attempts=attempts)


def _judge(action: Request, receipt_id: int, result: Answer | RemoteError, attempts: int) -> Verdict:
    if isinstance(result, Answer):
        return _delivered(action, receipt_id, result, attempts)
    if isinstance(result, NotSentError):
        return Verdict(not_sent(action, receipt_id, attempts))
    outcome = Outcome(
        receipt_id,
        action.component_id,
        "failed",
        attempts=attempts,
        request_id=result.request_id,
        error_code=result.code,
        error_text=result.message[:REASON_CHARS_MAX],
        missing=isinstance(result, ComponentMissingError),
        more=NO_EFFECT if isinstance(action, Ensure) and _is_without_effect(result) else NOTHING_MORE,
    )
    if result.maybe_applied and not action.idempotent:
        return _in_doubt(action, outcome, result)
    if result.kind is ErrorKind.HALT:
        return Verdict(outcome._replace(outcome="halted"), halt=result)
    if result.kind is ErrorKind.HOLD:
        return Verdict(outcome._replace(outcome="held"), hold=result)
    if result.kind is ErrorKind.TRANSIENT:
        if result.unreachable and isinstance(action, Upload):  # the store is another endpoint: the component's need not be down
            return Verdict(outcome, halt=_of_uploads_only(result))
        return Verdict(outcome, block=True, halt=result if result.unreachable else None, passing=result)
    return _refused(action, outcome, result)


def _ensure(action: Ensure, remote: Remote, context: Context) -> Answer:
    mode = "resume" if context.create_or_attach else action.mode
    spec = action.spec if action.spec.owner else replace(action.spec, owner=context.journal_id)
    by_a_copy = not action.attempted and not context.even_if_behind
    if action.describe_first or mode != "create":
        answer = _attach(action, remote, mode, spec.owner, by_a_copy=by_a_copy)
        if answer is not None:
            return answer
        if mode in {"load", "job"}:
            raise _missing(action.component, job=mode == "job")
    try:
        return remote.create(spec)
    except AlreadyExistsError as error:
        first = context.attempts() == 1  # else an earlier one of these may have made it
        try:
            answer = _attach(action, remote, mode, spec.owner, by_a_copy=by_a_copy and first)
        except RemoteError as failure:
            failure.maybe_applied |= not first
            raise
        if answer is None:  # it was there and is gone: somebody deleted it in between
            raise RemoteError(error.message, kind=ErrorKind.TRANSIENT, code=error.code, request_id=error.request_id) from error
        return answer


def _update(action: Update, remote: Remote) -> Answer:
    found = remote.describe(action.component) if action.own_until_ns is not None else None
    if found is None:
        return remote.update(action.component, action.fields())
    left = beside(action, found)
    if left.older:
        logger.warning(
            "%s: SageMaker holds later values of another journal; %d older ones of this journal are not sent (`journaltrack audit entries`)",
            action.component,
            len(left.older),
        )
    answer = remote.update(action.component, left.update.fields()) if left.update.changes else Answer(found.request_id, arn=found.arn)
    return replace(answer, older=left.older)


def _attach(action: Ensure, remote: Remote, mode: str, owner: str, *, by_a_copy: bool) -> Answer | None:
    """The component as it is there, None if it is not; an error if it is there but not ours to write to.

    ``by_a_copy``: nothing of this journal can have made it, so that its mark says that another copy of the journal did.
    """
    found = remote.describe(action.component)
    if found is None:
        return None
    if by_a_copy and found.owner == owner:
        raise CopyAheadError(action.component, request_id=found.request_id)
    if mode == "create" and found.owner != owner:
        raise RemoteError(
            f"a trial component named {action.component} exists already and was not created by this journal; nothing of it was changed",
            kind=ErrorKind.HOLD,
            code="ComponentConflict",
            request_id=found.request_id,
            hint="if it is the same run, `journaltrack sync --create-or-attach --component NAME` attaches to it; "
            "otherwise delete the other one first. In scripts: Tracker.create(trial_component_name=..., resume=True)",
        )
    return Answer(found.request_id, arn=found.arn)


def _missing(component: str, *, job: bool) -> RemoteError:
    why = "its SageMaker job has not created it yet" if job else "it was loaded by name, so another journal is expected to create it"
    return ComponentMissingError(
        f"the trial component {component} does not exist in SageMaker: {why}",
        kind=ErrorKind.HOLD,
        code="ComponentMissing",
        hint="sync again when it is there, or create it now with `journaltrack sync --create-or-attach --component NAME`",
    )


def _delivered(action: Request, receipt_id: int, answer: Answer, attempts: int) -> Verdict:
    if isinstance(action, PutMetrics) and not answer.refused:
        return Verdict(Outcome(receipt_id, action.component_id, "delivered", attempts, answer.request_id, delivered=action.seqs))
    outcome = Outcome(receipt_id, action.component_id, "delivered", attempts=attempts, request_id=answer.request_id)
    if isinstance(action, PutMetrics):
        return _partly(action, outcome, answer)
    if isinstance(action, Update):
        fields = [(c.map, c.key, c.seq) for c in action.changes if c.seq not in answer.older]
        older = [Delivery(seq, "superseded", why) for seq, why in answer.older.items()]
        sent = [d for d in _change_deliveries(action, "delivered", None) if d.seq not in answer.older]
        return Verdict(outcome._replace(deliveries=[*sent, *older], fields=fields))
    outcome = outcome._replace(delivered=action.seqs)
    if isinstance(action, Ensure):
        outcome = outcome._replace(confirmed_arn=answer.arn or "")
    if isinstance(action, Upload) and answer.uri is not None:
        outcome = outcome._replace(location=(action.blob, answer.uri))
    return Verdict(outcome)


def _partly(action: PutMetrics, outcome: Outcome, answer: Answer) -> Verdict:
    deliveries = []
    again = []
    for index, seq in enumerate(action.seqs):
        refusal = answer.refused.get(index)
        if refusal is None:
            deliveries.append(Delivery(seq, "delivered"))
        elif refusal.permanent:
            deliveries.append(Delivery(seq, "quarantined", f"{refusal.code}: {refusal.message}"[:REASON_CHARS_MAX]))
        elif refusal.maybe_applied:
            deliveries.append(Delivery(seq, "in doubt", f"sent, and answered with {refusal.code}: it may or may not be there"))
        else:
            again.append(index)
    codes = sorted({r.code for r in answer.refused.values()})
    error = f"{len(answer.refused)} of {len(action.points)} points refused: {', '.join(codes)}"
    return Verdict(
        outcome._replace(outcome="partial", deliveries=deliveries, error_code=codes[0], error_text=error),
        again=(action.pick(again),) if again else (),
    )


def _of_uploads_only(error: RemoteError) -> RemoteError:
    return RemoteError(
        error.message, kind=error.kind, code=error.code, hint=error.hint, request_id=error.request_id, unreachable=True, uploads_only=True
    )


def _is_without_effect(error: RemoteError) -> bool:
    """Whether it is certain: a refusal that bears no id of the service's may be a proxy's, which passed the request on."""
    return not error.maybe_applied and (error.request_id is not None or isinstance(error, NotSentError) or error.unreachable)


def _in_doubt(action: Request, outcome: Outcome, error: RemoteError) -> Verdict:
    reason = f"sent, but no answer arrived ({error.code}): it may or may not be there"
    deliveries = [Delivery(seq, "in doubt", reason) for seq in action.seqs]
    return Verdict(outcome._replace(outcome="in doubt", deliveries=deliveries), halt=error if error.unreachable else None, passing=error)


def _refused(action: Request, outcome: Outcome, error: RemoteError) -> Verdict:
    """Refused for good: isolate what is at fault; a component that can't be created is held, with all that is in it."""
    outcome = outcome._replace(outcome="refused")
    if isinstance(action, Ensure):
        return Verdict(outcome._replace(outcome="held"), hold=error)
    halves = action.split()
    if halves:
        return Verdict(outcome, again=halves)
    reason = f"{error.code}: {error.message}"[:REASON_CHARS_MAX]
    if isinstance(action, Update):
        return Verdict(outcome._replace(deliveries=_change_deliveries(action, "quarantined", reason)))
    return Verdict(outcome._replace(deliveries=[Delivery(seq, "quarantined", reason) for seq in action.seqs]))


def _change_deliveries(action: Update, of_last: DeliveryOutcome, reason: str | None) -> list[Delivery]:
    deliveries = []
    for change in action.changes:
        deliveries.append(Delivery(change.seq, of_last, reason))
        deliveries += [Delivery(seq, "superseded", f"entry {change.seq} overrides it") for seq in change.superseded]
    return deliveries


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
