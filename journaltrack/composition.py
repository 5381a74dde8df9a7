"""The composition root: the one place where tracker, reconciler and remote meet.

The tracker is handed *replay on close* and *look up* as callables and knows nothing of what is behind them; boto3 is
imported when one of them runs, not before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from journaltrack.deadline import Deadline
from journaltrack.errors import ErrorKind, JournalError, LeaseHeldError, RemoteError
from journaltrack.journal import Journal
from journaltrack.tracker import ReplayRequest, Services, Tracker

if TYPE_CHECKING:
    import os

    from journaltrack.pass_report import PassReport, Progress
    from journaltrack.reconciler import Options

__all__ = ["Tracker", "sync"]

logger = logging.getLogger(__name__)


def sync(
    journal: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    deadline: Deadline | None = None,
    boto3_session: Any = None,  # noqa: ANN401 - boto3 is untyped here
    sagemaker_boto_client: Any = None,  # noqa: ANN401
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> PassReport:
    """Replay what is pending in a journal to SageMaker and S3, once.

    Args:
        journal: Its folder; None: the default journal.
        options: What to replay, see ``journaltrack.reconciler.Options``.
        deadline: Ends the pass; None: it takes as long as it takes.
        boto3_session: Used instead of a new session.
        sagemaker_boto_client: Used for SageMaker calls; its region, endpoint and credentials serve the others too.
        profile: Of the AWS configuration.
        region: AWS region.
        endpoint_url: One endpoint for all services (a local stand-in).
        on_progress: Called after every recording.

    Returns:
        What was done. A failing remote does not raise: see ``halted``, ``held`` and ``pending`` of the report.

    Raises:
        JournalNotFoundError: There is no journal.
        LeaseHeldError: Another process reconciles it.
        JournalError: It can't be read or written.
    """
    from journaltrack.reconciler import Options, Reconciler  # noqa: PLC0415 - the tracker's start does not pay for it

    options = options or Options()
    deadline = deadline or Deadline()
    opened = Journal.open(journal, create=False)
    try:
        from journaltrack.remotes.aws import AwsRemote  # noqa: PLC0415 - imports boto3
        from journaltrack.remotes.retrying import RetryingRemote  # noqa: PLC0415

        aws = AwsRemote(
            session=boto3_session,
            sagemaker_client=sagemaker_boto_client,
            profile=profile,
            region=region,
            endpoint_url=endpoint_url,
            deadline=deadline,
            concurrency=options.concurrency,
        )
        remote = RetryingRemote(aws, deadline=deadline)
        reconciler = Reconciler(
            opened, remote, options=options, deadline=deadline, on_progress=on_progress, attempts=remote.attempts_of_last_call
        )
        return reconciler.run()
    finally:
        opened.close()


def _replay(request: ReplayRequest) -> None:
    """Replay on close: what the tracker's component has pending, within the deadline; failures are logged."""
    from journaltrack.reconciler import Options  # noqa: PLC0415

    try:
        report = sync(
            request.journal,
            options=Options(component=request.component),
            deadline=Deadline(request.deadline_s),
            boto3_session=request.boto3_session,
            sagemaker_boto_client=request.sagemaker_client,
        )
    except LeaseHeldError as error:
        logger.info("%s is left to the other process: %s", request.component, error.message)
        return
    except (JournalError, RemoteError) as error:
        logger.warning("%s was not replayed on close, its entries stay in the journal: %s", request.component, error)
        return
    problem = report.halted or report.uploads_halted or report.held.get(request.component) or report.failed
    if problem is not None or report.out_of_time:
        why = str(problem) if problem is not None else f"the deadline of {request.deadline_s:g} s was over"
        logger.warning("%s was not delivered completely on close; `journaltrack sync` delivers the rest: %s", request.component, why)


def _lookup(component: str, deadline_s: float, boto3_session: Any, sagemaker_client: Any) -> bool | None:  # noqa: ANN401
    """Whether SageMaker knows the component: None when it can't be asked."""
    from journaltrack.remotes.aws import AwsRemote  # noqa: PLC0415 - imports boto3

    try:
        remote = AwsRemote(session=boto3_session, sagemaker_client=sagemaker_client, deadline=Deadline(deadline_s), concurrency=1)
        return remote.describe(component) is not None
    except RemoteError as error:
        level = logging.INFO if error.kind is ErrorKind.TRANSIENT else logging.WARNING
        logger.log(level, "SageMaker could not be asked for %s; it is verified at the first replay: %s", component, error)
        return None


Tracker.services = Services(replay=_replay, lookup=_lookup)
