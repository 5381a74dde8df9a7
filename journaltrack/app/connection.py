"""Say how to reach the remote, and reach it.

boto3 is imported when a remote is made, not before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.replay.remote import SAGEMAKER
from journaltrack.util.config import AllowConfiguration, Destination, Storage
from journaltrack.util.deadline import CallersDeadline, Deadline

if TYPE_CHECKING:
    from typing_extensions import Self

    from journaltrack.journal.destinations import Own
    from journaltrack.remotes.aws.remote import AwsRemote
    from journaltrack.remotes.rate_limit import RateLimit
    from journaltrack.remotes.retry import RetryingRemote
    from journaltrack.replay.remote import Capabilities, Remote
    from journaltrack.tracking.settings import ReplayRequest
    from journaltrack.util.config import Configuration

PROBE_NAME: Final = "journaltrack-probe"
"""The trial component that a probe asks for; the hoped-for answer is that it does not exist."""
PROBE_TIMEOUT_S: Final = 5.0
"""Seconds of silence after which a probe counts the endpoint as down."""
_PASSES_MAX: Final = 64
"""Passes at a time: each may have a request in flight beyond the common bound."""
SHARED_S: Final = 60.0
"""Our choice: seconds after which passes share another session, and notice a changed profile."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Say how to reach the remote.

    A pass makes its own session from it, and so notices renewed credentials, or shares one with the
    passes beside it (``Sharing``).

    Attributes:
        boto3_session: Used instead of a new session.
        sagemaker_client: Used for SageMaker calls; its region, endpoint and credentials serve the
            other services too.
        profile: Profile of the AWS configuration.
        region: AWS region.
        endpoint_url: One endpoint for all services (a local stand-in).
        rate_limit: Limits requests per second, shared by all that is made from this connection.
        allow: What journals may have delivered.
        attended: Whether a person can be asked for an MFA code; never in a training process or a
            watcher.
        storage: How buckets are to keep uploads.
        targets: Where journals are delivered to. None is SageMaker.
        destination: The one of these that this connection leads to.
        lineage: Whether to send lineage that was recorded.
        sharing: What passes at the same time share; None: nothing.
    """

    boto3_session: Any = None
    sagemaker_client: Any = None
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    rate_limit: RateLimit | None = None
    attended: bool = False
    storage: Storage = field(default_factory=Storage)
    allow: AllowConfiguration = field(default_factory=AllowConfiguration)
    targets: tuple[Destination | None, ...] = (None,)
    destination: Destination | None = None
    lineage: bool = True
    sharing: Sharing | None = field(default=None, compare=False)

    def to(self, destination: Destination | None) -> Connection:
        """Return a connection to a destination; None is SageMaker."""
        return replace(self, destination=destination)

    def each(self) -> list[Connection]:
        """Return a connection to each of the targets."""
        return [self.to(each) for each in self.targets]

    @classmethod
    def of(cls, request: ReplayRequest) -> Connection:
        """Build it from a tracker's request; the caller's session or client wins."""
        known = request.configuration
        limit = limit_of(known.requests_per_s)
        if request.boto3_session is not None or request.sagemaker_client is not None:
            session, client = request.boto3_session, request.sagemaker_client
            return cls(
                session,
                client,
                rate_limit=limit,
                storage=known.storage(),
                allow=known.allow,
                targets=known.targets,
                lineage=known.lineage,
            )
        return cls(rate_limit=limit, **known.of_a_connection())

    @classmethod
    def configured(cls, known: Configuration, rate_limit: RateLimit) -> Connection:
        """Build it from the configuration, for a command or a call that a person may attend."""
        return cls(rate_limit=rate_limit, attended=is_attended(), **known.of_a_connection())

    def with_buckets(self, instead: Mapping[str, str]) -> Connection:
        """Return a connection that uploads to other buckets, by the name that each replaces."""
        return replace(self, storage=self.storage._replace(instead=dict(instead)))

    def remote(
        self, deadline: Deadline, concurrency: int, timeout_s: float | None = None
    ) -> AwsRemote:
        """Return a remote for one pass, to be closed after it.

        Args:
            deadline: Ends every wait.
            concurrency: Requests in flight.
            timeout_s: Limits the wait for connections and answers, in seconds; None: the default.

        Raises:
            RemoteError: boto3 can't be imported.
        """
        try:
            from journaltrack.remotes.aws import clients  # noqa: PLC0415 - imports boto3
            from journaltrack.remotes.aws.remote import AwsRemote  # noqa: PLC0415
        # A broken installation does not always raise an ImportError.
        except Exception as error:
            raise RemoteError(
                f"boto3 can't be imported: {type(error).__name__}: {error}",
                kind=ErrorKind.HALT,
                code="ImportError",
                hint="reinstall it: pip install --force-reinstall boto3; everything stays "
                "in the journal until then",
                everywhere=True,
            ) from error
        return AwsRemote(
            session=self.boto3_session,
            sagemaker_client=self.sagemaker_client,
            profile=self.profile,
            region=self.region,
            endpoint_url=self.endpoint_url,
            deadline=deadline,
            concurrency=concurrency,
            rate_limit=self.rate_limit,
            attended=self.attended,
            storage=self.storage,
            create_buckets=self.allow.create_buckets,
            create_experiments=self.allow.create_experiments,
            can=capabilities(self.to(None)),
            connect_timeout_s=clients.CONNECT_TIMEOUT_S
            if timeout_s is None
            else min(timeout_s, clients.CONNECT_TIMEOUT_S),
            read_timeout_s=clients.READ_TIMEOUT_S if timeout_s is None else timeout_s,
        )


class Sharing:
    """Give passes that run at the same time one remote: one session, its clients and connections.

    A session and its clients cost 35 ms of CPU, as much as all else that a pass of a small journal
    does. Each request ends with its own pass (``CallersDeadline``). Threads may share it.

    A remote is closed when its last pass ends. Within ``with sharing:`` it is kept for the next
    pass.

    Attributes:
        company: Keeps the requests in flight of all passes within the bound of one.
    """

    def __init__(self) -> None:
        from journaltrack.replay.dispatch import Company  # noqa: PLC0415 - only with a replay

        self.company = Company()
        self._lock = threading.Lock()
        self._keeps = False
        # What the next pass gets.
        self._now: _Shared | None = None

    def __enter__(self) -> Self:
        """Keep the remote between passes."""
        self._keeps = True
        return self

    def __exit__(self, *_: object) -> None:
        """Close the remote."""
        self._keeps = False
        self.renew()

    @contextlib.contextmanager
    def remote(
        self, connection: Connection, make: Callable[[Deadline], AwsRemote]
    ) -> Iterator[AwsRemote]:
        """Give a pass the remote for the block.

        Args:
            connection: Whose remote it is; another connection gets another remote.
            make: Makes the remote, which obeys the deadline that governs the calling thread.
        """
        with self._lock:
            now = self._now
            if now is None or now.connection != connection or now.ends < time.monotonic():
                self._leave_now()
                now = self._now = _Shared(
                    make(CallersDeadline()), connection, time.monotonic() + SHARED_S
                )
            now.passes += 1
        try:
            yield now.remote
        finally:
            with self._lock:
                now.passes -= 1
                if not now.passes and not (self._keeps and now is self._now):
                    now.remote.close()
                    if now is self._now:
                        self._now = None

    def renew(self) -> None:
        """Make a new session for the next pass, for example after its credentials were refused."""
        with self._lock:
            self._leave_now()

    def _leave_now(self) -> None:
        now, self._now = self._now, None
        # Otherwise its last pass closes it.
        if now is not None and not now.passes:
            now.remote.close()


@dataclass(slots=True)
class _Shared:
    """Hold a remote that ``passes`` use now, and the time when the next pass gets another."""

    remote: AwsRemote
    connection: Connection
    ends: float
    passes: int = 0


def configured_region(profile: str | None = None) -> tuple[str, str] | None:
    """Return the configured region as ``remotes.aws.clients`` finds it."""
    from journaltrack.remotes.aws import clients  # noqa: PLC0415 - boto3

    return clients.configured_region(profile)


@functools.cache
def limit_of(requests_per_s: float) -> RateLimit:
    """Return the limit that all trackers of a process share."""
    from journaltrack.remotes.rate_limit import RateLimit  # noqa: PLC0415 - only with a replay

    return RateLimit(requests_per_s)


@contextlib.contextmanager
def retrying(
    connection: Connection,
    deadline: Deadline,
    concurrency: int,
    own: Own | None = None,
) -> Iterator[RetryingRemote]:
    """Make a remote for the block that retries, and that sends only what is allowed.

    Args:
        connection: Where to.
        deadline: Ends every wait.
        concurrency: Requests in flight.
        own: What finds the journal's runs, see ``journal.destinations.own``. SageMaker needs none.
    """
    from journaltrack.remotes.allow import AllowingRemote, Rules  # noqa: PLC0415
    from journaltrack.remotes.retry import RetryingRemote  # noqa: PLC0415

    with _opened(connection, deadline, concurrency, own) as remote:
        yield RetryingRemote(
            AllowingRemote(remote, Rules(connection.allow, connection.storage.instead)),
            deadline=deadline,
        )


@contextlib.contextmanager
def _opened(
    connection: Connection,
    deadline: Deadline,
    concurrency: int,
    own: Own | None,
    timeout_s: float | None = None,
) -> Iterator[Remote]:
    """Make the remote that a connection leads to, for the block."""
    destination = connection.destination
    if destination is None and connection.sharing is not None and timeout_s is None:
        # The shared remote looks at the gate of whoever calls.
        deadline.guarded = connection.sagemaker_client is None
        with connection.sharing.remote(
            connection, lambda callers: connection.remote(callers, concurrency + _PASSES_MAX)
        ) as shared:
            yield shared
        return
    if destination is None:
        aws = connection.remote(deadline, concurrency, timeout_s)
        with contextlib.closing(aws):
            yield aws
        return
    from journaltrack.remotes.mlflow import http  # noqa: PLC0415 - few have one
    from journaltrack.remotes.mlflow.remote import MlflowRemote  # noqa: PLC0415

    def signer(region: str, service: str) -> http.Sign:
        """Make a signature; boto3 is imported for that."""
        from journaltrack.remotes.mlflow import signature  # noqa: PLC0415

        profile = destination.profile or connection.profile
        return signature.signer(profile, deadline, attended=connection.attended)(region, service)

    with contextlib.ExitStack() as stack:

        @functools.cache
        def bucket() -> AwsRemote:
            """Make the remote for artifacts in S3, when it is first needed."""
            profile = destination.profile or connection.profile
            aws = replace(connection, destination=None, profile=profile)
            return stack.enter_context(contextlib.closing(aws.remote(deadline, concurrency)))

        server = http.server_of(
            destination.uri,
            variables=destination.variables,
            signer=signer,
            endpoint=destination.endpoint_url,
        )
        yield stack.enter_context(
            contextlib.closing(
                MlflowRemote(
                    http.Http(
                        server,
                        deadline=deadline,
                        connections=concurrency,
                        read_timeout_s=timeout_s or http.READ_TIMEOUT_S,
                        rate_limit=connection.rate_limit,
                    ),
                    owners=own.owners if own else {},
                    models=own.models if own else {},
                    bucket=bucket,
                    experiment=destination.experiment,
                    last_parameters=destination.parameters == "last",
                    presigned=destination.uploads == "presigned",
                    creates=connection.allow.create_experiments,
                )
            )
        )


def capabilities(connection: Connection) -> Capabilities:
    """Return what the remote can do that a connection leads to. Contacts nobody."""
    if connection.destination is None:
        return replace(SAGEMAKER, lineage=connection.lineage)
    from journaltrack.remotes.mlflow.remote import MlflowRemote  # noqa: PLC0415 - few have one

    return MlflowRemote.can


def is_attended() -> bool:
    """Return whether somebody can type an MFA code at the terminal of this process."""
    try:
        descriptor = sys.stdin.fileno()
        return (
            os.isatty(descriptor)
            and sys.stderr.isatty()
            and os.tcgetpgrp(descriptor) == os.getpgrp()
        )
    # There is no stdin, it is closed, or something is in its place.
    except (AttributeError, OSError, ValueError):
        return False


def probe(connection: Connection, deadline: Deadline | None = None) -> RemoteError | None:
    """Ask the endpoint once whether it takes the credentials; change nothing.

    Args:
        connection: How to reach it.
        deadline: Cancelling it ends the waiting.

    Returns:
        None if it answers, else why not. An answer that refuses only this request (no permission
        to describe) counts as an answer.
    """
    try:
        with _opened(connection, deadline or Deadline(), 1, None, PROBE_TIMEOUT_S) as remote:
            remote.describe(PROBE_NAME)
    except RemoteError as error:
        return error if error.kind is ErrorKind.TRANSIENT or error.everywhere else None
    return None
