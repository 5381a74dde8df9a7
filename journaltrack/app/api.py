"""Offer the public functions that need more than one package.

An argument means the same in every function. ``journal`` is a path, an open ``Journal``, or None
for the configured one. ``sync`` describes the arguments that say how to reach AWS; what you leave
out comes from the configuration, as for the command line. These functions turn arguments into the
objects that the wiring takes, and do nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias

from journaltrack import doctor, limits
from journaltrack.app import composition, dataset
from journaltrack.app.connection import Connection, is_attended, limit_of
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.journal import provenance, view
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.in_doubt import decide
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.evidence.statements import DeliveryOutcome
from journaltrack.replay.pass_report import PassReport, Progress
from journaltrack.replay.reconciler import Options
from journaltrack.reports.status import status, undeliverable
from journaltrack.tracking.settings import check_makes_requests
from journaltrack.transfer.export.dataset import extend
from journaltrack.util import config
from journaltrack.util.deadline import Deadline
from journaltrack.verification.verifier import REQUESTS_PER_S, VerifyOptions, VerifyReport

if TYPE_CHECKING:
    from journaltrack.doctor import Examination
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.view import When
    from journaltrack.retention.prune import PruneReport
    from journaltrack.transfer.export.dataset import DatasetReport
    from journaltrack.util.config import Configuration

AnyPaths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
Resolution: TypeAlias = Literal["delivered", "quarantined"]


@dataclass(frozen=True, slots=True)
class Retried:
    """Say which entries became pending again.

    Attributes:
        journal, journal_id: Which journal.
        dry_run: Whether nothing was changed.
        quarantined, in_doubt: How many entries were so before.
        undeliverable: How many of the quarantined AWS can never take; they stay quarantined.
        released: How many entries are pending again.
    """

    journal: str
    journal_id: str
    dry_run: bool
    quarantined: int
    undeliverable: int
    in_doubt: int
    released: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


@dataclass(frozen=True, slots=True)
class Resolved:
    """Say what was decided about entries in doubt.

    Attributes:
        journal, journal_id: Which journal.
        dry_run: Whether nothing was changed.
        in_doubt: How many entries were in doubt before.
        resolved: How many of them no longer are.
    """

    journal: str
    journal_id: str
    dry_run: bool
    in_doubt: int
    resolved: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def sync(
    journal: str | os.PathLike[str] | None = None,
    *,
    destination: str | None = None,
    component: str | None = None,
    since: When | None = None,
    create_or_attach: bool = False,
    buckets: Mapping[str, str] | None = None,
    even_if_behind: bool = False,
    unproved: bool = False,
    concurrency: int | None = None,
    deadline_s: float | None = None,
    requests_per_s: float | None = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    boto3_session: Any = None,  # noqa: ANN401 - boto3 is untyped here
    sagemaker_boto_client: Any = None,  # noqa: ANN401
    on_progress: Callable[[Progress], None] | None = None,
) -> PassReport:
    """Send what is pending in a journal to SageMaker and S3, or to another destination, once.

    Args:
        journal: Its folder, or an open one; None: the configured one.
        destination: A configured destination's name, or an MLflow server's address; None:
            SageMaker.
        component: Shell pattern of component names (case does not matter); None: all.
        since: Send only what was recorded then or later, and what creates its components: an
            aware datetime, a timedelta (before now), or nanoseconds since the epoch.
        create_or_attach: Create missing loaded components, attach to existing foreign ones.
        buckets: Buckets to upload to, by the wrong bucket that each replaces.
        even_if_behind: Send even if another copy of the journal was delivered further.
        unproved: Send also what was recorded by processes whose chain of digests does not hold.
        concurrency: Requests in flight.
        deadline_s: Seconds after which no more is sent; None: no limit.
        requests_per_s: Maximal requests per second, shared by all calls of this process with the
            same limit; 0: no limit.
        profile: Profile of the AWS configuration.
        region: AWS region.
        endpoint_url: One endpoint for all services (a local stand-in).
        boto3_session: Used instead of a new session; profile, region and endpoint are then only
            what you pass.
        sagemaker_boto_client: Used for SageMaker calls; its region, endpoint and credentials
            serve the other services too.
        on_progress: Called now and then, in the calling thread.

    Returns:
        What was done. A failing remote does not raise: see ``halted``, ``held`` and ``pending``.

    Raises:
        InvalidInputError: An argument is invalid. Nothing was sent.
        NothingMatchesError: The journal has no such component or bucket. Nothing was sent.
        JournalNotFoundError: There is no journal.
        JournalBehindError: Another copy of the journal was delivered further. Nothing was sent.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written.
    """
    deadline = _deadline(deadline_s)
    _check_buckets(buckets or {})
    given = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    known, connection = _reach(
        boto3_session, sagemaker_boto_client, given, requests_per_s, concurrency=concurrency
    )
    options = Options(
        component,
        view.nanoseconds("since", since),
        create_or_attach=create_or_attach,
        even_if_behind=even_if_behind,
        unproved=unproved,
        **known.of_a_pass(),
    )
    connection = connection.with_buckets(buckets or {})
    connection = connection.to(None if destination is None else known.destination(destination))
    return composition.run_pass(journal, connection, options, deadline, on_progress)


def verify(
    journal: str | os.PathLike[str] | None = None,
    *,
    destination: str | None = None,
    component: str | None = None,
    deep: bool = False,
    repair: bool = False,
    deadline_s: float | None = None,
    requests_per_s: float | None = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    boto3_session: Any = None,  # noqa: ANN401 - boto3 is untyped here
    sagemaker_boto_client: Any = None,  # noqa: ANN401
    on_progress: Callable[[Progress], None] | None = None,
) -> VerifyReport:
    """Compare what a journal delivered with what SageMaker and S3 hold now.

    Without ``repair``, change neither. Send only a few requests per second: a check is in no
    hurry.

    Args:
        journal: As for ``sync``.
        destination: As for ``sync``.
        component: As for ``sync``.
        deep: Download and hash objects of which S3 has no SHA-256 of the whole (above 8 MiB);
            nothing is kept.
        repair: Send again what is missing and can't be duplicated; then verify once more.
        deadline_s: As for ``sync``.
        requests_per_s: As for ``sync``, but 10 if nothing is configured.
        profile: As for ``sync``.
        region: As for ``sync``.
        endpoint_url: As for ``sync``.
        boto3_session: As for ``sync``.
        sagemaker_boto_client: As for ``sync``.
        on_progress: As for ``sync``.

    Returns:
        What was found; after a repair, what is there now. A failing remote does not raise: see
        ``halted`` of the report.

    Raises:
        InvalidInputError: An argument is invalid, or there is no such component.
        JournalNotFoundError: There is no journal.
        LeaseHeldError: With ``repair``: another process holds the journal's lease.
        JournalAlteredError: With ``repair``: its chains or records do not hold. Nothing was sent
            or compared.
        JournalBehindError: With ``repair``: a merge into the journal was killed. Nothing was sent.
        JournalError: The journal can't be read; with ``repair``: or written.
    """
    deadline = _deadline(deadline_s)
    given = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    known, connection = _reach(
        boto3_session, sagemaker_boto_client, given, requests_per_s, REQUESTS_PER_S
    )
    connection = connection.to(None if destination is None else known.destination(destination))
    options = VerifyOptions(
        component,
        deep=deep,
        visible_after_s=known.visible_after_s,
        timestamps=known.timestamps,
        anchor=known.anchor,
        anchor_prefix=known.prefix_of_anchors(),
    )
    return composition.run_verify(
        journal, connection, options, deadline, on_progress, repair=repair
    )


def prune(
    journal: str | os.PathLike[str] | None = None,
    *,
    delivered_before: When | None = None,
    blobs_delivered_before: When | None = None,
    component: str | None = None,
    archive: str | os.PathLike[str] | None = None,
    compact: bool = True,
    dry_run: bool = False,
    unasked: bool = False,
    trust: str | Collection[str] = (),
    deadline_s: float | None = None,
    requests_per_s: float | None = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    boto3_session: Any = None,  # noqa: ANN401 - boto3 is untyped here
    sagemaker_boto_client: Any = None,  # noqa: ANN401
    on_progress: Callable[[Progress], None] | None = None,
) -> PruneReport:
    """Remove what was delivered before a time from a journal.

    Keep what is not delivered, and what SageMaker and S3 do not confirm; see docs/retention.md.

    Args:
        journal: As for ``sync``.
        delivered_before: Remove entries delivered before then; given as ``since`` of ``sync``.
        blobs_delivered_before: Remove artifacts whose uploads were all delivered before then.
        component: As for ``sync``, for entries: artifacts belong to no component.
        archive: A new file that gets the entries before they go, in the format of its name.
        compact: Then rewrite the database without its free pages, if nobody else has it open.
        dry_run: Say what would go and what would stay; change nothing, ask nobody.
        unasked: Trust the journal's own record of deliveries, and ask nobody.
        trust: Ids of bundles, receipts or journals whose claims of delivery count, or "all".
        deadline_s: Seconds that asking may take; nothing is removed if they are not enough.
        requests_per_s: As for ``verify``.
        profile: As for ``sync``.
        region: As for ``sync``.
        endpoint_url: As for ``sync``.
        boto3_session: As for ``sync``.
        sagemaker_boto_client: As for ``sync``.
        on_progress: As for ``sync``.

    Raises:
        InvalidInputError: No time was given, or an argument is invalid. Nothing was removed.
        JournalCorruptError: The journal does not verify. Nothing was removed.
        RemoteError: SageMaker or S3 could not be asked. Nothing was removed.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written. What was removed is on the record.
        OSError: The archive can't be written. Nothing was removed.
    """
    given = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    known, connection = _reach(
        boto3_session, sagemaker_boto_client, given, requests_per_s, REQUESTS_PER_S
    )
    return composition.run_prune(
        journal,
        connection,
        VerifyOptions(visible_after_s=known.visible_after_s),
        _deadline(deadline_s),
        unasked=unasked,
        delivered_before_ns=view.nanoseconds("delivered_before", delivered_before),
        blobs_before_ns=view.nanoseconds("blobs_delivered_before", blobs_delivered_before),
        component=component,
        archive=archive,
        compact=compact,
        dry_run=dry_run,
        trust=(trust,) if isinstance(trust, str) else trust,
        on_progress=on_progress,
    )


def export_dataset(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str],
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    boto3_session: Any = None,  # noqa: ANN401 - boto3 is untyped here
    on_progress: Callable[[Progress], None] | None = None,
) -> DatasetReport:
    """Write what a journal has and a dataset of Parquet files lacks.

    docs/dataset.md describes its tables and files. Needs pyarrow.

    Args:
        journal: An open journal, a path, or None for the configured one.
        to: The dataset: a folder, or an address such as ``"s3://bucket/prefix"``.
        profile: As for ``sync``, for S3.
        region: As for ``sync``.
        endpoint_url: As for ``sync``.
        boto3_session: As for ``sync``.
        on_progress: Called now and then with how many entries were looked at.

    Raises:
        InvalidInputError: No dataset can be there, it has a file that journaltrack did not write,
            or pyarrow is missing.
        JournalError: The journal can't be read.
        RemoteError: S3 can't be reached, or refuses.
        OSError: A file can't be written. After any error, the files that are there are whole, and
            the next export continues.
    """
    given = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    _, connection = _reach(boto3_session, None, given, None)
    with (
        view.opened(journal) as own,
        dataset.opened(to, [own.path], connection) as store,
    ):
        return extend(store, own, on_progress=on_progress)


def check(
    journal: str | os.PathLike[str] | None = None,
    *,
    repair: bool = False,
    restore_from: AnyPaths = (),
    anchors: AnyPaths = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Examination:
    """Check that a journal is intact, and repair what can be repaired. Contact nobody.

    The checks cover files, locks, database, records, chains of digests, artifacts and the clock.
    The calling process may have the journal open.

    Args:
        journal: As for ``sync``.
        repair: Repair what can be repaired, and check once more. Nothing is deleted: replaced
            files move to ``damaged/`` in the journal's folder.
        restore_from: With ``repair``: one or more folders to restore missing artifacts from, by
            content.
        anchors: One or more files with anchors kept elsewhere: they show whether the journal's
            end was cut off.
        on_progress: As for ``sync``; it counts checks.

    Returns:
        What was found; ``healthy`` says whether there is no problem.

    Raises:
        InvalidInputError: ``restore_from`` without ``repair``.
        JournalNotFoundError: There is no journal.
        NotAJournalError: Something else is there.
        JournalTooNewError: A newer journaltrack wrote it.
        OSError: An anchor can't be read.
    """
    if restore_from and not repair:
        raise InvalidInputError("restore_from needs repair=True; no changes were made")
    documents = {str(path): path.read_bytes() for path in _paths(anchors)}
    tell = on_progress or (lambda _: None)

    def examined() -> Examination:
        """Examine the journal once more."""
        found = doctor.examine(
            journal,
            anchors=documents,
            progress=lambda check: tell(Progress(doctor.CHECKS.index(check), len(doctor.CHECKS))),
        )
        tell(Progress(len(doctor.CHECKS), len(doctor.CHECKS)))
        return found

    found = examined()
    if not repair:
        return found
    repaired = doctor.mend(found, restore_from=_paths(restore_from))
    return replace(examined() if repaired else found, repaired=tuple(repaired))


def retry(
    journal: str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    in_doubt: bool = False,
    dry_run: bool = False,
) -> Retried:
    """Make quarantined entries pending again, so that the next sync sends them.

    A receipt records it. What AWS can never take, such as NaN, stays quarantined.

    Args:
        journal: As for ``sync``.
        component: As for ``sync``.
        in_doubt: Also release entries in doubt. Metrics among them may be duplicated.
        dry_run: Count them; change nothing.

    Raises:
        NothingMatchesError: The journal has no such component.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written.
    """
    before = status(journal, component=component)
    never = undeliverable(journal, component=component) if before.quarantined else 0
    outcomes: list[DeliveryOutcome] = ["quarantined", "in doubt"] if in_doubt else ["quarantined"]
    released = 0
    if not dry_run and (before.quarantined > never or (in_doubt and before.in_doubt)):
        with composition.reconciling(journal) as (opened, lease):
            ids = view.matching(opened, component, displayed=True)
            released = Settlement(opened.database, lease).release(
                outcomes, None if ids is None else json.loads(ids)
            )
    return Retried(
        before.path,
        before.journal_id,
        dry_run,
        before.quarantined,
        never,
        before.in_doubt,
        released,
    )


def resolve(
    journal: str | os.PathLike[str] | None = None,
    *,
    outcome: Resolution,
    component: str | None = None,
    note: str = "",
    dry_run: bool = False,
) -> Resolved:
    """Decide about entries in doubt. Send nothing.

    These are metrics that were sent, but whose answer was lost. Your decision is recorded with
    your name. To send the entries again, use ``retry(in_doubt=True)``.

    Args:
        journal: As for ``sync``.
        outcome: "delivered": they are in SageMaker; "quarantined": set them aside until ``retry``
            releases them.
        component: As for ``sync``.
        note: The reason, for the audit.
        dry_run: Count them; change nothing.

    Raises:
        InvalidInputError: No such outcome, or no such component. No changes were made.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written.
    """
    if outcome not in {"delivered", "quarantined"}:
        raise InvalidInputError(
            f"outcome is {limits.shown(str(outcome))}; it must be 'delivered' or 'quarantined'; "
            "no changes were made"
        )
    before = status(journal, component=component)
    resolved = 0
    if not dry_run and before.in_doubt:
        decision = "there" if outcome == "delivered" else "set aside"
        reason = f"{provenance.user()} settled it by hand as {decision}" + (
            f": {note}" if note else ""
        )
        with composition.reconciling(journal) as (opened, lease):
            ids = view.matching(opened, component, displayed=True)
            attestor = Attestor(opened.database, lease)
            resolved = decide(attestor, outcome, reason, None if ids is None else json.loads(ids))
    return Resolved(before.path, before.journal_id, dry_run, before.in_doubt, resolved)


def _reach(
    session: Any,  # noqa: ANN401 - boto3 is untyped here
    client: Any,  # noqa: ANN401
    given: dict[str, str | None],
    requests_per_s: float | None,
    unless_configured: float = 0.0,
    **others: object,
) -> tuple[Configuration, Connection]:
    """Return the configuration with the given values, and the connection to AWS.

    Args:
        session: As for ``sync``.
        client: As for ``sync``.
        given: Profile, region and endpoint.
        requests_per_s: As for ``sync``.
        unless_configured: The limit of requests per second if none is configured.
        others: Other given values of the configuration.
    """
    check_makes_requests(session, client)
    overrides = {**given, "requests_per_s": requests_per_s, **others}
    known = config.load(overrides=overrides, origin="call").configuration
    of_a_connection = known.of_a_connection()
    if session is not None or client is not None:
        of_a_connection |= given
    per_s = known.requests_per_s or (unless_configured if requests_per_s is None else 0.0)
    rate_limit = limit_of(per_s) if per_s else RateLimit(0)
    return known, Connection(
        session, client, rate_limit=rate_limit, attended=is_attended(), **of_a_connection
    )


def _paths(given: AnyPaths) -> list[Path]:
    return [Path(each) for each in ([given] if isinstance(given, (str, os.PathLike)) else given)]


def _deadline(deadline_s: float | None) -> Deadline:
    if deadline_s is None:
        return Deadline()
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, SupportsFloat):
        raise InvalidTypeError(
            f"deadline_s must be a number of seconds, not {type(deadline_s).__name__}"
        )
    if not deadline_s > 0:
        raise InvalidInputError(
            f"deadline_s is {deadline_s}; it must be more than 0", hint="None: no deadline"
        )
    return Deadline(float(deadline_s))


def _check_buckets(buckets: Mapping[str, str]) -> None:
    for old, new in buckets.items():
        problem = limits.bucket_problem(new)
        if problem is not None:
            raise InvalidInputError(
                f"{limits.shown(new)} can't take the place of bucket {limits.shown(old)}: {problem}"
            )
