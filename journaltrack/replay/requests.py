"""Make one request of a pass, and judge its result. No threads, no storage.

``perform`` and ``Attempts`` run on a worker's thread. They touch the remote, the gate and the
clock. ``judge`` is pure: it turns a result into what is recorded and what follows.

Invariant: every attempt ends with a result. An unexpected exception is a result too, and it says
whether the request may have left.

Must not know SQLite, the journal's tables, or any particular remote.
"""

from __future__ import annotations

import logging
import math
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
from journaltrack.replay.evidence.gone import REMEDY
from journaltrack.replay.evidence.outcomes import NOTHING_MORE, Delivery, Outcome
from journaltrack.replay.evidence.statements import DeliveryOutcome
from journaltrack.replay.lease import Ticket
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
from journaltrack.replay.plan.planner import beside
from journaltrack.replay.remote import Answer, ArtifactLink, BlobUpload, Remote

if TYPE_CHECKING:
    from journaltrack.replay.lease import Gate

logger = logging.getLogger(__name__)

REASON_CHARS_MAX = 2_000
"""Our own limit: characters of a remote's message that are kept."""
NO_EFFECT: Final[Mapping[str, Any]] = MappingProxyType({"no_effect": True})
"""What the attestation of a creation says that certainly failed.

If the component is there all the same, another writer made it.
"""
ATTACH_COMMAND: Final = "`journaltrack sync --create-or-attach --component NAME`"
ALIKE: Final = (
    "equal to an earlier point in the detail in which {service} keeps times: both are one there"
)
SHIFTED = (
    "sent with the time of delivery, since its own is older than 14 days or over 2 hours ahead"
)


@dataclass(frozen=True, slots=True)
class Context:
    """Hold what ``perform`` needs beside the action.

    Attributes:
        spool: Folder of the blobs.
        journal_id: Owner of a component that has no create entry of its own.
        create_or_attach: Create loaded components that are missing. Attach to foreign ones.
        even_if_behind: Attach also to a component that another copy of this journal made.
        attempts: Returns how often the remote sent the calling thread's last request.
    """

    spool: Path
    journal_id: str
    create_or_attach: bool = False
    even_if_behind: bool = False
    attempts: Callable[[], int] = lambda: 1


class Verdict(NamedTuple):
    """Say what a result means.

    Attributes:
        outcome: To record.
        again: Requests that replace this one: halves of a refused one, or items to send again.
        hold: Send no more requests for this component in this pass.
        block: Send no more of the component's state in this pass, since its order would break.
        halt: Changing the request would not help. Every request that would fail the same way
            is left for a later pass.
        passing: A retry may succeed. Several in a row end the pass for the component or bucket.
    """

    outcome: Outcome
    again: tuple[Request, ...] = ()
    hold: RemoteError | None = None
    block: bool = False
    halt: RemoteError | None = None
    passing: RemoteError | None = None


def perform(action: Request, remote: Remote, context: Context) -> Answer:
    """Make the request. ``Ensure`` makes up to three.

    Raises:
        RemoteError: It failed.
    """
    if isinstance(action, PutMetrics):
        return remote.put_metrics(action.component, action.points)
    if isinstance(action, Update):
        return _update(action, remote)
    if isinstance(action, Upload):
        for name in action.more_names:
            remote.upload(_blob_upload(action, name, context))
        return remote.upload(_blob_upload(action, action.name, context))
    if isinstance(action, Link):
        return remote.link(
            ArtifactLink(
                component=action.component,
                uri=action.uri or "",
                sha256=action.blob.sha256,
                name=action.name,
                artifact_type=action.artifact_type,
                is_output=action.direction == "output",
                bucket=action.blob.bucket,
                prefix=action.blob.prefix,
            )
        )
    if isinstance(action, Associate):
        return remote.associate(action.component, action.experiment, action.trial)
    if isinstance(action, Disassociate):
        return remote.disassociate(action.component, action.trial)
    if isinstance(action, Declare):
        return remote.declare(action.declared)
    if isinstance(action, AddTags):
        return remote.add_tags(action.component, action.tags)
    return _ensure(action, remote, context)


def _blob_upload(action: Upload, name: str, context: Context) -> BlobUpload:
    return BlobUpload(
        path=context.spool / action.blob.sha256[:2] / action.blob.sha256,
        sha256=action.blob.sha256,
        size_bytes=action.size_bytes,
        component=action.component,
        name=name,
        bucket=action.blob.bucket,
        prefix=action.blob.prefix,
        media_type=action.media_type,
        scratch=context.spool,
        replaces=name in action.replacing,
        parts=action.parts,
    )


def judge(
    action: Request,
    receipt_id: int,
    result: Answer | RemoteError,
    attempts: int,
    notes: Mapping[int, str] | None = None,
) -> Verdict:
    """Return what the result of an action means.

    Args:
        action: What was performed.
        receipt_id: Of its intent.
        result: The answer, or the error that replaced it.
        attempts: Times the request was sent.
        notes: By ``seq``: the reason to record for entries that were not sent as recorded.
    """
    verdict = _judge(action, receipt_id, result, attempts)
    if not notes:
        return verdict
    known = [
        *(Delivery(seq, "delivered") for seq in verdict.outcome.delivered),
        *verdict.outcome.deliveries,
    ]
    told = [d._replace(reason=d.reason or notes.get(d.seq)) for d in known]
    return verdict._replace(outcome=verdict.outcome._replace(delivered=(), deliveries=told))


def shifted(action: PutMetrics, sent: PutMetrics) -> dict[int, str]:
    """Return, by ``seq``, the note for each point that was sent with a changed time."""
    pairs = zip(action.seqs, action.points, sent.points, strict=True)
    return {seq: SHIFTED for seq, own, now in pairs if own.timestamp_ns != now.timestamp_ns}


def not_sent(action: Request, receipt_id: int, attempts: int = 0) -> Outcome:
    """Return the outcome of a request without effect. Its entries stay pending."""
    return Outcome(receipt_id, action.component_id, "not sent", attempts=attempts)


def _judge(
    action: Request, receipt_id: int, result: Answer | RemoteError, attempts: int
) -> Verdict:
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
        # Lineage changes nothing of what is known of the component.
        missing=isinstance(result, ComponentMissingError) and not isinstance(action, Link),
        more=NO_EFFECT
        if isinstance(action, Ensure) and _is_without_effect(result)
        else NOTHING_MORE,
    )
    if result.maybe_applied and not action.idempotent:
        return _in_doubt(action, outcome, result)
    if result.kind is ErrorKind.HALT:
        return Verdict(outcome._replace(outcome="halted"), halt=result)
    if result.kind is ErrorKind.HOLD:
        return Verdict(outcome._replace(outcome="held"), hold=result)
    if result.kind is ErrorKind.TRANSIENT:
        # The object store is another endpoint: the components' endpoint may be up.
        if result.unreachable and isinstance(action, Upload):
            return Verdict(outcome, halt=_of_uploads_only(result))
        return Verdict(
            outcome, block=True, halt=result if result.unreachable else None, passing=result
        )
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
            raise _missing(action.component, remote.can.service, job=mode == "job")
    try:
        return remote.create(spec)
    except AlreadyExistsError as error:
        # After several attempts, an earlier one may have created it.
        first = context.attempts() == 1
        try:
            answer = _attach(action, remote, mode, spec.owner, by_a_copy=by_a_copy and first)
        except RemoteError as failure:
            failure.maybe_applied |= not first
            raise
        # It was there and is gone: somebody deleted it in between.
        if answer is None:
            raise RemoteError(
                error.message,
                kind=ErrorKind.TRANSIENT,
                code=error.code,
                request_id=error.request_id,
            ) from error
        return answer


def _update(action: Update, remote: Remote) -> Answer:
    found = remote.describe(action.component) if action.own_until_ns is not None else None
    if found is None:
        return remote.update(action.component, action.fields())
    left = beside(action, found, remote.can.service)
    if left.older:
        logger.warning(
            "%s: %s holds later values of another journal; "
            "%d older ones of this journal are not sent (`journaltrack audit entries`)",
            action.component,
            remote.can.service,
            len(left.older),
        )
    answer = (
        remote.update(action.component, left.update.fields())
        if left.update.changes
        else Answer(found.request_id, arn=found.arn)
    )
    return replace(answer, older=left.older)


def _attach(
    action: Ensure, remote: Remote, mode: str, owner: str, *, by_a_copy: bool
) -> Answer | None:
    """Return the component as it exists, or None. Raise if it must not be written to.

    ``by_a_copy``: nothing of this journal can have created it. If it carries this journal's
    mark, another copy of the journal did.
    """
    found = remote.describe(action.component)
    if found is None:
        return None
    if by_a_copy and found.owner == owner:
        raise CopyAheadError(
            action.component, request_id=found.request_id, repeatable=remote.can.repeatable
        )
    if mode == "create" and found.owner != owner:
        raise RemoteError(
            f"{action.component} exists and was not created by this journal; no changes were made",
            kind=ErrorKind.HOLD,
            code="ComponentConflict",
            request_id=found.request_id,
            hint=f"if it is the same run, {ATTACH_COMMAND} "
            "attaches to it; otherwise delete the other one first. "
            "In scripts: Tracker.create(trial_component_name=..., resume=True)",
        )
    return Answer(found.request_id, arn=found.arn)


def _missing(component: str, service: str, *, job: bool) -> RemoteError:
    why = "it was loaded by name, so another journal is expected to create it"
    if job:
        why = "its SageMaker job has not created it yet"
    return ComponentMissingError(
        f"the trial component {component} does not exist in {service}: {why}",
        kind=ErrorKind.HOLD,
        code="ComponentMissing",
        hint=f"sync again when it is there, or create it now: {ATTACH_COMMAND}. If it was there, "
        f"{REMEDY}",
    )


def _delivered(action: Request, receipt_id: int, answer: Answer, attempts: int) -> Verdict:
    if isinstance(action, PutMetrics) and not answer.refused:
        return Verdict(
            Outcome(
                receipt_id,
                action.component_id,
                "delivered",
                attempts,
                answer.request_id,
                delivered=action.seqs,
            )
        )
    outcome = Outcome(
        receipt_id,
        action.component_id,
        "delivered",
        attempts=attempts,
        request_id=answer.request_id,
    )
    if isinstance(action, PutMetrics):
        return _partly(action, outcome, answer)
    if isinstance(action, Update):
        fields = [(c.map, c.key, c.seq) for c in action.changes if c.seq not in answer.older]
        older = [Delivery(seq, "superseded", why) for seq, why in answer.older.items()]
        sent = [
            d for d in _change_deliveries(action, "delivered", None) if d.seq not in answer.older
        ]
        return Verdict(outcome._replace(deliveries=[*sent, *older], fields=fields))
    if isinstance(action, Declare):
        overridden = action.overridden
        return Verdict(
            outcome._replace(
                delivered=[seq for seq in action.seqs if seq not in overridden],
                deliveries=[
                    Delivery(seq, "superseded", f"entry {later} overrides it")
                    for seq, later in overridden.items()
                ],
                confirmed_arn=answer.arn or "",
            )
        )
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
            deliveries.append(
                Delivery(
                    seq, "quarantined", f"{refusal.code}: {refusal.message}"[:REASON_CHARS_MAX]
                )
            )
        elif refusal.maybe_applied:
            why = f"sent, and answered with {refusal.code}: it may or may not be there"
            deliveries.append(Delivery(seq, "in doubt", why))
        else:
            again.append(index)
    codes = sorted({r.code for r in answer.refused.values()})
    error = f"{len(answer.refused)} of {len(action.points)} points refused: {', '.join(codes)}"
    return Verdict(
        outcome._replace(
            outcome="partial", deliveries=deliveries, error_code=codes[0], error_text=error
        ),
        again=(action.pick(again),) if again else (),
    )


def _of_uploads_only(error: RemoteError) -> RemoteError:
    return RemoteError(
        error.message,
        kind=error.kind,
        code=error.code,
        hint=error.hint,
        request_id=error.request_id,
        unreachable=True,
        uploads_only=True,
    )


def _is_without_effect(error: RemoteError) -> bool:
    """Return whether a failed request certainly had no effect.

    A refusal without a request id may be a proxy's, which passed the request on.
    """
    return not error.maybe_applied and (
        error.request_id is not None or isinstance(error, NotSentError) or error.unreachable
    )


def _in_doubt(action: Request, outcome: Outcome, error: RemoteError) -> Verdict:
    reason = f"sent, but no answer arrived ({error.code}): it may or may not be there"
    deliveries = [Delivery(seq, "in doubt", reason) for seq in action.seqs]
    return Verdict(
        outcome._replace(outcome="in doubt", deliveries=deliveries),
        halt=error if error.unreachable else None,
        passing=error,
    )


def _refused(action: Request, outcome: Outcome, error: RemoteError) -> Verdict:
    """Isolate the entry that was refused. Hold a component that can't be created."""
    outcome = outcome._replace(outcome="refused")
    if isinstance(action, Ensure):
        return Verdict(outcome._replace(outcome="held"), hold=error)
    halves = action.split()
    if halves:
        return Verdict(outcome, again=halves)
    reason = f"{error.code}: {error.message}"[:REASON_CHARS_MAX]
    if isinstance(action, Update):
        return Verdict(
            outcome._replace(deliveries=_change_deliveries(action, "quarantined", reason))
        )
    return Verdict(
        outcome._replace(deliveries=[Delivery(seq, "quarantined", reason) for seq in action.seqs])
    )


def _change_deliveries(
    action: Update, of_last: DeliveryOutcome, reason: str | None
) -> list[Delivery]:
    deliveries = []
    for change in action.changes:
        deliveries.append(Delivery(change.seq, of_last, reason))
        deliveries += [
            Delivery(seq, "superseded", f"entry {change.seq} overrides it")
            for seq in change.superseded
        ]
    return deliveries


class Job(NamedTuple):
    """Hold a request to make. ``round`` counts how often its items were sent before."""

    action: Request
    round: int = 0


class Sending(Ticket):
    """Hold a request in a worker's hands, with its receipt. It is its own ticket."""

    __slots__ = ("job", "receipt_id")

    def __init__(self, job: Job, receipt_id: int) -> None:
        self.left_at = None
        self.job = job
        self.receipt_id = receipt_id


class Result(NamedTuple):
    """Hold what a worker brought back.

    ``notes``: by ``seq``, the reason to record for entries that were not sent as recorded.
    """

    result: Answer | RemoteError
    attempts: int = 0
    notes: Mapping[int, str] = {}


class Attempts:
    """Make requests. ``__call__`` is a worker's work.

    Args:
        remote: Retries what is worth a retry. It should raise ``RemoteError`` only.
        context: For ``perform``.
        gate: Of the pass.
        count: Returns, on the worker's thread, how often the remote sent the last request.
        shift: Whether metrics that are too old or too far ahead get the time of delivery.
        displaced: Returns whether the journal has left its place.
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
        """Make the request. Never raises."""
        try:
            return self._made(sending)
        except BaseException as error:  # noqa: BLE001 - it must fail this request alone
            return self.unexpected(sending, error)

    def unexpected(self, sending: Sending, error: BaseException) -> Result:
        """Return the result of a request that ended with an unexpected exception."""
        logger.warning(
            "%s of %s failed unexpectedly",
            sending.job.action.action,
            sending.job.action.component,
            exc_info=error,
        )
        return Result(UnexpectedError(error, maybe_applied=sending.left_at is not None), attempts=1)

    def _made(self, sending: Sending) -> Result:
        job = sending.job
        if job.round:
            self._gate.wait(min(0.1 * 2**job.round, 5.0))
        if self._gate.over or (not job.action.idempotent and self._gate.is_late):
            return Result(NotSentError())
        self._gate.carry(sending)
        sent = self._timed(job.action)
        notes: dict[int, str] = {}
        can = self._remote.can
        if can.time_ns and isinstance(sent, PutMetrics):
            notes = dict.fromkeys(sent.alike(can.time_ns), ALIKE.format(service=can.service))
            for seq, point in zip(sent.seqs, sent.points, strict=True):
                if not math.isfinite(point.value) and (told := can.told(point.value)) is not None:
                    notes |= {seq: told}
        if (
            sent is not job.action
            and isinstance(job.action, PutMetrics)
            and isinstance(sent, PutMetrics)
        ):
            notes = shifted(job.action, sent)
        try:
            answer = perform(sent, self._remote, self._context)
        except NotSentError as error:
            return Result(error, self._count() - 1)
        except RemoteError as error:
            return Result(self._excused(sending, error), self._count(), notes)
        if not isinstance(job.action, (Upload, Link)) and sending.left_at is not None:
            self._gate.answered(time.monotonic() - sending.left_at)
        return Result(answer, self._count(), notes)

    def _excused(self, sending: Sending, error: RemoteError) -> RemoteError:
        """Correct the error by what the remote can't know.

        If nothing left, nothing was applied. If the journal was moved a moment ago, content that
        was not found is not lost.
        """
        if error.maybe_applied and sending.left_at is None:
            return _with(error, maybe_applied=False)
        if (
            isinstance(sending.job.action, Upload)
            and error.kind is ErrorKind.PERMANENT
            and self._displaced()
        ):
            hint = "the next pass looks for it where the journal is now"
            return _with(error, kind=ErrorKind.TRANSIENT, hint=hint)
        return error

    def _timed(self, action: Request) -> Request:
        """Return the action with the timestamps to send.

        The record keeps the original ones.
        """
        if self._shift and isinstance(action, PutMetrics) and not self._remote.can.any_time:
            return action.within(self._clock_ns(), METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S)
        return action


def _with(error: RemoteError, **changes: Any) -> RemoteError:  # noqa: ANN401 - the constructor's
    """Return the same failure with some members changed."""
    return RemoteError(error.message, **error.members | changes)
