"""boto3 sessions and clients: where region, endpoint and credentials come from, and how long a request may take.

Clients are made at first use, once, and are shared by threads (botocore's clients are thread-safe, sessions are not).
botocore's own retries are off: ``retrying`` is the only retry layer.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from journaltrack.deadline import Deadline

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
"""Longest silence of a server. A pass with a deadline waits for half of its time at most."""
_READ_TIMEOUT_MIN_S: Final = 1.0


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
    ) -> None:
        self._session = session
        self._given = sagemaker_client
        self._profile = profile
        self._region = region
        self._endpoint_url = endpoint_url
        self._deadline = deadline
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def sagemaker(self) -> Any:  # noqa: ANN401
        """For trial components; the one that was passed in, if any."""
        return self._given if self._given is not None else self._client("sagemaker")

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
        host = urlsplit(str(self.sagemaker.meta.endpoint_url)).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))

    def _client(self, service: str) -> Any:  # noqa: ANN401
        client = self._clients.get(service)
        if client is None:
            with self._lock:
                client = self._clients.get(service)
                if client is None:
                    client = self._clients[service] = self._make(service)
        return client

    def _make(self, service: str) -> Any:  # noqa: ANN401
        if self._session is None:
            self._session = self._session_like_given()
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
        return self._session.client(service, region_name=self._region_name(), endpoint_url=endpoint_url, config=config)

    def _session_like_given(self) -> Any:  # noqa: ANN401
        """A new session; with the credentials of the client that was passed in, if one was."""
        session = boto3.Session(profile_name=self._profile, region_name=self._region)
        if self._given is not None:
            # The resolved credentials of a client are not public; its request signer holds them (botocore.signers).
            credentials = getattr(getattr(self._given, "_request_signer", None), "_credentials", None)
            if credentials is not None:
                session._session._credentials = credentials  # noqa: SLF001
        return session

    def _region_name(self) -> str | None:
        if self._region:
            return self._region
        if self._given is not None:
            return str(self._given.meta.region_name)
        # The original honours AWS_REGION, which botocore itself does not read.
        return self._session.region_name or os.environ.get("AWS_REGION")

    def _endpoint_of(self, service: str) -> str | None:
        if self._endpoint_url:
            return self._endpoint_url
        if service == "sagemaker" and os.environ.get("SAGEMAKER_ENDPOINT"):  # honoured by the original
            return os.environ["SAGEMAKER_ENDPOINT"]
        if self._given is not None and not self.is_aws:
            return str(self._given.meta.endpoint_url)
        return None

    @staticmethod
    def _is_custom(endpoint_url: str | None, service: str) -> bool:
        if service != "s3":
            return False
        return bool(endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
