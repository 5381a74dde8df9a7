"""boto3 sessions and clients: where region, endpoint and credentials come from, and how long a request may take.

Clients are made at first use, once, and are shared by threads (botocore's clients are thread-safe, sessions are not).
botocore's own retries are off: ``retry`` is the only retry layer.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import NoRegionError
from botocore.loaders import create_loader

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.remotes.aws import hooks
from journaltrack.remotes.aws.credentials import Bounded, Patience
from journaltrack.remotes.aws.errors import is_aws
from journaltrack.remotes.aws.parts import sign_by_checksum
from journaltrack.remotes.rate_limit import RateLimit

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
"""Longest silence of a server. A pass with a deadline waits for half of its time at most."""
_READ_TIMEOUT_MIN_S: Final = 1.0
_ONCE: Final = frozenset({"BatchPutMetrics"})
"""Requests that are not sent again when their answer is lost: none begins that may not be answered in time."""
_OUR_HOOK: Final = "journaltrack-before-call"
_LOADER: Final[list[Any]] = []
"""botocore's service models, read once a process: a session of its own for every pass costs 44 ms of CPU with it, 300 ms without."""
_making = threading.Lock()  # sessions, and the models that they share, are not for several threads at a time
_EVENTS: Final = ("provide-client-params", "before-parameter-build", "before-call", "request-created", "before-sign", "before-send")


def _forked() -> None:
    """In a child: a thread of the parent may have held the lock, and is not here to let go of it."""
    global _making  # noqa: PLW0603 - a lock that is held can't be made free
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class Clients:
    """The boto3 clients of one remote.

    Args:
        session: A ``boto3.Session`` to use; None: a new one.
        sagemaker_client: A client to use for SageMaker; its region, endpoint and credentials serve the others too.
        profile: Of the AWS configuration, for a new session.
        region: AWS region; None: of the client, the session, or the environment.
        endpoint_url: For all services; None: botocore's rules, AWS_ENDPOINT_URL among them.
        deadline: Bounds the time-outs.
        connections: Size of each client's connection pool.
        connect_timeout_s: Seconds to establish a connection.
        read_timeout_s: Seconds that a server may be silent.
        rate_limit: Bounds requests per second, those of other remotes that share it included.
        attended: A person may be asked for an MFA code.
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
        deadline.guarded = sagemaker_client is None  # one that somebody hooked into is used as it is

    @property
    def sagemaker(self) -> Any:  # noqa: ANN401
        """For trial components.

        A client that was passed in as botocore made it is replaced by one of the same region, endpoint and credentials:
        its own retries and time-outs (botocore's: five times 60 s) would outlive every deadline. One that somebody hooked
        into (botocore's ``Stubber``, own handlers), or that is no botocore client at all, is used as it is.
        """
        return self._client("sagemaker")

    @property
    def metrics(self) -> Any:  # noqa: ANN401
        """For BatchPutMetrics."""
        return self._client("sagemaker-metrics")

    @property
    def s3(self) -> Any:  # noqa: ANN401
        """For artifacts."""
        return self._client("s3")

    @property
    def sts(self) -> Any:  # noqa: ANN401
        """For the account's number."""
        return self._client("sts")

    @property
    def is_aws(self) -> bool:
        """Whether trial components are kept by AWS itself, not by a stand-in at some other address."""
        return is_aws(str(self.sagemaker.meta.endpoint_url))

    def _client(self, service: str) -> Any:  # noqa: ANN401
        if self._pid != os.getpid():  # forked: the parent's connections are the parent's, and its threads hold no locks here
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
            if client is not self._given and hasattr(client, "close"):  # a caller's session may make clients of any kind
                client.close()

    def _made(self, service: str) -> Any:  # noqa: ANN401
        if self._session is None:  # without the lock that all passes share: credentials may take their time
            given = self._given_session
            self._session = self._patience.session(self._session_like_given if given is None else lambda: given, ours=given is None)
        with _making:
            client = self._make(service)
        if service == "sagemaker" and self._given is not None and _hooks(self._given) != _hooks(client):
            client.close()
            return hooks.Checked(self._given)
        # A client of ours; botocore has no public way to hand in credentials that it asks again and again.
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
            # A stand-in has no names like bucket.host.
            s3={"addressing_style": "path"} if self._is_custom(endpoint_url, service) else None,
        )
        client = self._session.client(service, region_name=self._region_name(), endpoint_url=endpoint_url, config=config)
        if service == "s3":
            sign_by_checksum(client)
        client.meta.events.register("before-call", self._before_call, unique_id=_OUR_HOOK)
        hooks.guard(client, self._deadline)
        hooks.look_at_answers(client, self.answered)
        return client

    def turn(self, operation: str) -> float | None:
        """Wait for a request's turn.

        Args:
            operation: As botocore names it.

        Returns:
            Near the deadline, for how long (seconds) the server may be silent; None for the client's own time-out.

        Raises:
            RemoteError: The time was over before, or is too short for a request that can't be sent twice.
        """
        if not self._rate_limit.take(self._deadline.wait, operation):
            raise RemoteError("the time was over before the request's turn came", kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)
        if operation in _ONCE and self._deadline.is_late:
            raise RemoteError("too little time was left for another answer", kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)
        left = self._deadline.grace_remaining_s()
        return max(_READ_TIMEOUT_MIN_S, left) if left < self._read_timeout_s else None

    def answered(self, operation: str, took_s: float, *, throttled: bool) -> None:
        """An answer came, after so many seconds, on the thread that waited for its turn; ``throttled``: it asks for fewer requests."""
        throttle = self._rate_limit.of(operation)
        (throttle.refused if throttled else throttle.taken)()
        if operation in _ONCE:
            self._deadline.answered(took_s)

    def departing(self) -> None:
        """See ``Deadline.departing``."""
        self._deadline.departing()

    def _before_call(self, *, model: Any, context: dict[str, Any], **_: object) -> None:  # noqa: ANN401
        """Wait for the request's turn; its own time-out is for botocore >= 1.43."""
        read_timeout_s = self.turn(model.name)
        if read_timeout_s is not None:
            context["read_timeout"] = read_timeout_s

    def _session_like_given(self) -> Any:  # noqa: ANN401
        """A new session; with the credentials of the client that was passed in, if one was."""
        bare = botocore.session.get_session()
        data_path = bare.get_config_variable("data_path")  # reads the user's file: not under the lock
        with _making:
            if not _LOADER:
                _LOADER.append(create_loader(data_path))
            bare.register_component("data_loader", _LOADER[0])
            session: Any = boto3.Session(botocore_session=bare, profile_name=self._profile, region_name=self._region)
            paths = _LOADER[0].search_paths
            paths[:] = dict.fromkeys(paths)  # every boto3 session adds its own folder
        if self._given is not None:
            # The resolved credentials of a client are not public; its request signer holds them (botocore.signers).
            credentials = getattr(getattr(self._given, "_request_signer", None), "_credentials", None)
            if credentials is not None:
                session._session._credentials = credentials  # noqa: SLF001
        return session

    def _region_name(self) -> str:
        if self._region:
            return self._region
        if self._given is not None:
            return str(self._given.meta.region_name)
        # The original honours AWS_REGION, which botocore itself does not read.
        region: str | None = self._session.region_name or os.environ.get("AWS_REGION")
        if not region:  # S3's client would be made without one, for us-east-1
            raise NoRegionError
        return region

    def _endpoint_of(self, service: str) -> str | None:
        if self._endpoint_url:
            return self._endpoint_url
        if service == "sagemaker" and os.environ.get("SAGEMAKER_ENDPOINT"):  # honoured by the original
            return os.environ["SAGEMAKER_ENDPOINT"]
        of_given = str(self._given.meta.endpoint_url) if self._given is not None else ""
        if of_given and (service == "sagemaker" or not is_aws(of_given)):
            return of_given
        return None

    @staticmethod
    def _is_custom(endpoint_url: str | None, service: str) -> bool:
        if service != "s3":
            return False
        return bool(endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _hooks(client: Any) -> list[str] | None:  # noqa: ANN401
    """What is hooked into a client's requests, by name; None if it does not tell."""
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
