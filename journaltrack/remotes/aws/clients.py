"""Make boto3 sessions and clients: region, endpoint, credentials and time-outs.

A client is made once, at first use. Threads share it: botocore's clients are thread-safe, its
sessions are not. botocore's own retries are off: ``retry`` is the only retry layer.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoRegionError
from botocore.loaders import create_loader

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.remotes.aws import hooks
from journaltrack.remotes.aws.credentials import Bounded, Patience
from journaltrack.remotes.aws.hosts import is_aws
from journaltrack.remotes.aws.parts import sign_by_checksum
from journaltrack.remotes.rate_limit import RateLimit

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
"""Longest silence of a server. A pass with a deadline waits for at most half of its time."""
_READ_TIMEOUT_MIN_S: Final = 1.0
_ONCE: Final = frozenset({"BatchPutMetrics"})
"""Requests that are not sent again when their answer is lost.

None begins that may not be answered in time.
"""
_OUR_HOOK: Final = "journaltrack-before-call"
_LOADER: Final[list[Any]] = []
"""botocore's service models, read once per process.

A new session costs 44 ms of CPU with them, 300 ms without. Every pass makes one.
"""
# Sessions, and the models that they share, are not thread-safe.
_making = threading.Lock()
_EVENTS: Final = (
    "provide-client-params",
    "before-parameter-build",
    "before-call",
    "request-created",
    "before-sign",
    "before-send",
)


def _forked() -> None:
    """Replace the lock in a child process: a thread of the parent may have held it."""
    global _making  # noqa: PLW0603 - a held lock can't be freed by another process
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def configured_region(profile: str | None) -> tuple[str, str] | None:
    """Return the region that requests go to where journaltrack's own configuration names none, and
    where it comes from.

    Args:
        profile: Of the AWS configuration; None: the default one.
    """
    session = botocore.session.get_session()
    if profile is not None:
        session.set_config_variable("profile", profile)
    try:
        region = session.get_config_variable("region")
    except BotoCoreError:  # no such profile: a sync says so
        region = None
    if region:
        of_variable = region == os.environ.get("AWS_DEFAULT_REGION")
        return str(region), "AWS_DEFAULT_REGION" if of_variable else "the AWS configuration"
    region = os.environ.get("AWS_REGION")  # see ``Clients``: botocore itself does not read it
    return (region, "AWS_REGION") if region else None


class Clients:
    """The boto3 clients of one remote.

    Args:
        session: A ``boto3.Session`` to use. None makes a new one.
        sagemaker_client: A client to use for SageMaker. The other clients take its region, endpoint
            and credentials.
        profile: Profile of the AWS configuration, for a new session.
        region: AWS region. None takes the client's, the session's, or the environment's.
        endpoint_url: Endpoint for all services. None follows botocore's rules (AWS_ENDPOINT_URL).
        deadline: Bounds the time-outs.
        connections: Size of each client's connection pool.
        connect_timeout_s: Seconds to establish a connection.
        read_timeout_s: Seconds that a server may be silent.
        rate_limit: Bounds requests per second, together with all remotes that share it.
        attended: Whether a person can be asked for an MFA code.
    """

    def __init__(
        self,
        *,
        session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_client: Any = None,  # noqa: ANN401
        profile: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        deadline: Deadline,
        connections: int,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        rate_limit: RateLimit | None = None,
        attended: bool = False,
    ) -> None:
        self._rate_limit = rate_limit or RateLimit(0)
        self._given_session = session
        self._session: Any = None
        self._patience = Patience(deadline, attended=attended)
        self._given = sagemaker_client
        self._profile = profile
        self._region = region
        self._endpoint_url = endpoint_url
        self._deadline = deadline
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._clients: dict[str, Any] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()
        # A client that somebody hooked into is used as it is, without our look at the gate.
        deadline.guarded = sagemaker_client is None

    @property
    def sagemaker(self) -> Any:  # noqa: ANN401
        """Return the client for trial components.

        An unchanged botocore client that was passed in is replaced by one with the same region,
        endpoint and credentials. Its own retries and time-outs (botocore's: five times 60 s) would
        outlive every deadline. Other clients are used as they are: those that somebody hooked into
        (botocore's ``Stubber``, own handlers), and those of other libraries.
        """
        return self._client("sagemaker")

    @property
    def metrics(self) -> Any:  # noqa: ANN401
        """Return the client for BatchPutMetrics."""
        return self._client("sagemaker-metrics")

    @property
    def s3(self) -> Any:  # noqa: ANN401
        """Return the client for artifacts."""
        return self._client("s3")

    @property
    def sts(self) -> Any:  # noqa: ANN401
        """Return the client that tells the account's number."""
        return self._client("sts")

    @property
    def is_aws(self) -> bool:
        """Return whether AWS itself keeps the trial components, not a stand-in elsewhere."""
        return is_aws(str(self.sagemaker.meta.endpoint_url))

    def _client(self, service: str) -> Any:  # noqa: ANN401
        # After a fork, the connections are the parent's, and one of its threads may hold the lock.
        if self._pid != os.getpid():
            self._clients, self._lock, self._pid = {}, threading.Lock(), os.getpid()
        client = self._clients.get(service)
        if client is None:
            with self._lock:
                client = self._clients.get(service)
                if client is None:
                    client = self._clients[service] = self._made(service)
        return client

    def close(self) -> None:
        """Close the connections of the clients made here. Requests under way end by themselves."""
        for client in list(self._clients.values()):
            # A caller's session may make clients of any kind.
            if client is not self._given and hasattr(client, "close"):
                client.close()

    def _made(self, service: str) -> Any:  # noqa: ANN401
        # Not under the lock that all passes share: looking up credentials may take long.
        if self._session is None:
            given = self._given_session
            make = self._session_like_given if given is None else lambda: given
            self._session = self._patience.session(make, ours=given is None)
        with _making:
            client = self._make(service)
        if (
            service == "sagemaker"
            and self._given is not None
            and _hooks(self._given) != _hooks(client)
        ):
            client.close()
            return hooks.Checked(self._given)
        # botocore has no public way to give a client our own source of credentials.
        signer: Any = getattr(client, "_request_signer", None)
        if getattr(signer, "_credentials", None) is not None:
            signer._credentials = Bounded(signer._credentials, self._patience)  # noqa: SLF001
        return client

    def _make(self, service: str) -> Any:  # noqa: ANN401
        left = self._deadline.remaining_s()
        read_timeout_s = min(self._read_timeout_s, max(_READ_TIMEOUT_MIN_S, left / 2))
        endpoint_url = self._endpoint_of(service)
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=self._connections,
            connect_timeout=min(self._connect_timeout_s, read_timeout_s),
            read_timeout=read_timeout_s,
            # A stand-in has no host names such as BUCKET.HOST.
            s3={"addressing_style": "path"} if self._is_custom(endpoint_url, service) else None,
        )
        client = self._session.client(
            service, region_name=self._region_name(), endpoint_url=endpoint_url, config=config
        )
        if service == "s3":
            sign_by_checksum(client)
        client.meta.events.register("before-call", self._before_call, unique_id=_OUR_HOOK)
        hooks.guard(client, self._deadline)
        hooks.look_at_answers(client, self.answered)
        return client

    def turn(self, operation: str) -> float | None:
        """Wait for a request's turn.

        Args:
            operation: botocore's name of it.

        Returns:
            Seconds that the server may be silent, near the deadline. None for the client's own
            time-out.

        Raises:
            RemoteError: The deadline passed, or is too near for a request that can't be sent twice.
        """
        if not self._rate_limit.take(self._deadline.wait, operation):
            raise RemoteError(
                "the time was over before the request's turn came",
                kind=ErrorKind.TRANSIENT,
                code=DEADLINE_OVER,
            )
        if operation in _ONCE and self._deadline.is_late:
            raise RemoteError(
                "too little time was left for another answer",
                kind=ErrorKind.TRANSIENT,
                code=DEADLINE_OVER,
            )
        left = self._deadline.grace_remaining_s()
        return max(_READ_TIMEOUT_MIN_S, left) if left < self._read_timeout_s else None

    def answered(self, operation: str, took_s: float, *, throttled: bool) -> None:
        """Take note of an answer, on the thread that waited for the request's turn.

        Args:
            operation: botocore's name of it.
            took_s: Seconds until the answer came.
            throttled: Whether it asks for fewer requests.
        """
        throttle = self._rate_limit.of(operation)
        (throttle.refused if throttled else throttle.taken)()
        if operation in _ONCE:
            self._deadline.answered(took_s)

    def departing(self) -> None:
        """Look at the pass's gate right before a request's first byte."""
        self._deadline.departing()

    def _before_call(
        self,
        *,
        model: Any,  # noqa: ANN401
        context: dict[str, Any],
        **_: object,
    ) -> None:
        """Wait for the request's turn. botocore >= 1.43 honours a time-out of its own."""
        read_timeout_s = self.turn(model.name)
        if read_timeout_s is not None:
            context["read_timeout"] = read_timeout_s

    def _session_like_given(self) -> Any:  # noqa: ANN401
        """Make a session, with the credentials of the client that was passed in, if any."""
        bare = botocore.session.get_session()
        # Reads the user's file, so not under the lock.
        data_path = bare.get_config_variable("data_path")
        with _making:
            if not _LOADER:
                _LOADER.append(create_loader(data_path))
            bare.register_component("data_loader", _LOADER[0])
            session: Any = boto3.Session(
                botocore_session=bare, profile_name=self._profile, region_name=self._region
            )
            # Every boto3 session adds its own folder: remove the duplicates.
            paths = _LOADER[0].search_paths
            paths[:] = dict.fromkeys(paths)
        if self._given is not None:
            # A client's resolved credentials are not public. Its request signer holds them.
            credentials = getattr(
                getattr(self._given, "_request_signer", None), "_credentials", None
            )
            if credentials is not None:
                session._session._credentials = credentials  # noqa: SLF001
        return session

    def _region_name(self) -> str:
        if self._region:
            return self._region
        if self._given is not None:
            return str(self._given.meta.region_name)
        # The original library honours AWS_REGION, which botocore does not read.
        region: str | None = self._session.region_name or os.environ.get("AWS_REGION")
        # Without a region, botocore would make an S3 client for us-east-1.
        if not region:
            raise NoRegionError
        return region

    def _endpoint_of(self, service: str) -> str | None:
        if self._endpoint_url:
            return self._endpoint_url
        # The original library honours SAGEMAKER_ENDPOINT.
        if service == "sagemaker" and os.environ.get("SAGEMAKER_ENDPOINT"):
            return os.environ["SAGEMAKER_ENDPOINT"]
        of_given = str(self._given.meta.endpoint_url) if self._given is not None else ""
        if of_given and (service == "sagemaker" or not is_aws(of_given)):
            return of_given
        return None

    @staticmethod
    def _is_custom(endpoint_url: str | None, service: str) -> bool:
        if service != "s3":
            return False
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return bool(endpoint_url) or any(os.environ.get(name) for name in variables)


def _hooks(client: Any) -> list[str] | None:  # noqa: ANN401
    """Return the names of what is hooked into a client's requests; None if it does not tell."""
    try:
        names = {
            f"{event} {getattr(handler, '__qualname__', handler)}"
            for event in _EVENTS
            for handler in hooks.handlers_of(client, f"{event}.sagemaker.UpdateTrialComponent")
            if not hooks.is_our_hook(handler)
        }
    except AttributeError:
        return None
    return sorted(names)
