"""Send metrics to SageMaker without boto3.

A replay makes thousands of BatchPutMetrics requests. boto3 spends 0.8 ms of CPU on each,
under the interpreter's lock, though the request's shape never changes. This module needs a tenth of
that. It sends the first request through boto3, and compares it with the same request made here. If
both are equal byte for byte, this module makes the next requests. It writes them to the connections
that boto3 opened (``wire``).

boto3 makes a whole request itself if

- no connection is idle: botocore alone handles connecting, proxies, TLS and their failures,
- a point is unusual (NaN, a time before 1970): botocore says what is wrong with it.

boto3 makes all requests if

- somebody hooked into the client or the session, or patched botocore (tracing, mocks, recorders),
- requests are signed with anything but signature version 4,
- a proxy gets requests as a whole (plain HTTP).

Endpoint, region, service name, User-Agent and credentials are the client's. Each request asks for
credentials, which are refreshed as for boto3. botocore parses every answer that is not a plain
success. Failures are botocore's own exceptions, so that ``errors.classified`` handles all of them.
See docs/adr/0020-direct-metrics.md.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import botocore
from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from journaltrack.remotes.aws import hooks, wire
from journaltrack.remotes.aws.errors import is_throttled
from journaltrack.remotes.aws.proof import Said
from journaltrack.remotes.aws.wire import ALGORITHM, DATE_FORMAT, Credentials, Signer
from journaltrack.replay.plan.actions import MetricPoint

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients

logger = logging.getLogger(__name__)

OPERATION: Final = "BatchPutMetrics"
_quoted: Final = json.encoder.encode_basestring_ascii  # of a text, what ``json.dumps`` gives
_EVENT: Final = f"sagemaker-metrics.{OPERATION}"
_OUR_HOOK: Final = "journaltrack-direct"
_EVENTS: Final = (
    "provide-client-params",
    "before-parameter-build",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "response-received",
    "before-parse",
    "needs-retry",
    "after-call",
    "after-call-error",
)
_KNOWN_HANDLERS: Final = frozenset(
    {
        "botocore.handlers",
        "botocore.retries.standard",
        "botocore.signers",
        "botocore.useragent",
        "journaltrack.remotes.aws.clients",
        "journaltrack.remotes.aws.hooks",
        __name__,
    }
)
"""Modules of handlers that change only what is compared (botocore 1.44.5), or are ours."""
_HEADERS: Final = (
    "Content-Type",
    "User-Agent",
    "X-Amz-Date",
    "Authorization",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "Content-Length",
)
_TOKEN: Final = "X-Amz-Security-Token"  # noqa: S105 - a header's name
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_~-]+)+")
_SCOPE: Final = re.compile(
    rf"{ALGORITHM} Credential=[^/,]+/\d{{8}}/([^/,]+)/([^/,]+)/aws4_request,"
)
_TIME_MAX_NS: Final = 253_402_300_799_000_000_000
"""The last second that a datetime can hold."""
_PROBE: Final = (
    MetricPoint('a "name" \\ é\u2028', 0.1, 0, 1_700_000_000_123_456_789),
    MetricPoint("n", -1e-300, None, 1_700_000_000_000_000_999),
    MetricPoint("n", 1e16, 2**53, 1_600_000_001_000_001_000),
)
"""Points that versions of botocore serialize differently.

They are compared in addition to the first request's points.
"""


class MetricsSender:
    """Sends BatchPutMetrics requests. Threads may share it.

    Args:
        clients: Gives the client.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._local = threading.local()
        # The client that the route belongs to.
        self._client: Any = None
        self._route: _Route | None = None
        self._learning = False

    def put(self, component: str, points: Sequence[MetricPoint]) -> Mapping[str, Any]:
        """Send one request, and return the answer as boto3 does.

        Args:
            component: The component's name, in lower case.
            points: One to ten points.

        Raises:
            BotoCoreError, ClientError, ...: As boto3.
            RemoteError: The time was over before the request's turn came.
        """
        client = self._clients.metrics
        if client is not self._client:
            self._begin_with(client)
        body = serialized(component, points)
        if body is not None and self._learning:
            self._local.body = body
            try:
                return _by_boto3(client, component, points)
            finally:
                self._local.body = None
        route = self._route
        if body is not None and route is not None:
            answer = self._directly(route, body)
            if answer is not None:
                return answer
        return _by_boto3(client, component, points)

    def close(self) -> None:
        """Close the idle connections."""
        # urllib3 closes a pool with its last reference, and the route holds one.
        route, self._route = self._route, None
        if route is not None:
            route.pool.close()

    def _directly(self, route: _Route, body: bytes) -> Mapping[str, Any] | None:
        """Send a request without boto3.

        Returns:
            The answer. None if boto3 must make the request: nothing was sent.
        """
        credentials = route.credentials()
        if credentials is None:
            return None
        connection = wire.take(route.pool)
        if connection is None:
            return None
        reusable = True
        try:
            read_timeout_s = self._clients.turn(OPERATION)
            # Waiting for the turn may have taken long.
            if wire.is_stale(connection):
                reusable = False
                return None
            self._clients.departing()
            reusable = False
            timeout_s = route.read_timeout_s if read_timeout_s is None else read_timeout_s
            connection.sock.settimeout(timeout_s)
            began = time.monotonic()
            reply = wire.exchange(connection.sock, route.request(credentials, body), route.url)
            took_s = time.monotonic() - began
            reusable = reply.reusable
        finally:
            wire.give_back(route.pool, connection, reusable=reusable)
        try:
            answer = route.answer(reply)
        except ClientError as error:
            throttled = is_throttled(error.response, OPERATION)
            self._clients.answered(OPERATION, took_s, throttled=throttled)
            raise
        self._clients.answered(OPERATION, took_s, throttled=False)
        return answer

    def _begin_with(self, client: Any) -> None:  # noqa: ANN401
        # Another thread may have held the lock when this process was forked.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            if client is self._client:
                return
            self._route, self._learning = None, False
            if not _is_untouched(client):
                logger.debug("metrics are sent by boto3: somebody hooked into it")
            else:
                event = f"before-send.{_EVENT}"
                client.meta.events.register(event, self._look, unique_id=_OUR_HOOK)
                self._learning = True
            self._client = client

    def _look(self, request: Any, **_: object) -> None:  # noqa: ANN401
        """Compare a first request as botocore made it with the same request made here.

        botocore calls this on the thread that sends the request.
        """
        body = getattr(self._local, "body", None)
        if body is None:
            return
        with self._lock:
            if not self._learning:
                return
            # Another version of botocore may differ in any way. Then boto3 sends everything.
            try:
                self._route = _Route.like(request, body, self._client)
            except Exception:
                logger.debug("the request could not be compared", exc_info=True)
            self._learning = False
        how = "directly" if self._route else "by boto3: its request differs from ours"
        logger.debug("metrics are sent %s", how)


@dataclass(frozen=True, slots=True)
class _Route:
    """Everything needed to send requests to the service without boto3."""

    client: Any
    pool: Any
    url: str
    start: bytes
    sdk_request: bytes
    signer: Signer
    read_timeout_s: float
    output_shape: Any
    protocol: str

    @classmethod
    def like(cls, request: Any, body: bytes, client: Any) -> _Route | None:  # noqa: ANN401
        """Return the route that makes a request which botocore is about to send.

        None if requests made here would differ from botocore's.
        """
        headers = {
            name: value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        url = urlsplit(request.url)
        scope = _SCOPE.match(headers.get("Authorization", ""))
        pool = None if _goes_to_a_proxy(client, request.url) else _pool_of(client, request.url)
        # This module only reads botocore's private names. Tests try each of them.
        model = client._service_model.operation_model(OPERATION)  # noqa: SLF001
        if scope is None or pool is None or url.query or not _PLAIN_PATH.fullmatch(url.path):
            return None
        if not _serializes_alike(client, model):
            return None
        host = _host(url.scheme, url.hostname, url.port)
        start = f"PUT {url.path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n"
        start += "".join(f"{name}: {headers[name]}\r\n" for name in _HEADERS[:2])
        route = cls(
            client,
            pool,
            request.url,
            start.encode("ascii"),
            headers["amz-sdk-request"].encode("ascii"),
            Signer(
                host=host,
                path=url.path,
                content_type=headers["Content-Type"],
                region=scope[1],
                service=scope[2],
            ),
            float(client.meta.config.read_timeout),
            model.output_shape,
            model.service_model.resolved_protocol,
        )
        credentials = route.credentials()
        if credentials is None or request.method != "PUT" or request.body != body:
            return None
        given = (headers["X-Amz-Date"], headers["amz-sdk-invocation-id"])
        ours = route.request(credentials, body, *given)
        theirs = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        return route if ours.partition(b"identity\r\n")[2] == theirs + b"\r\n" + body else None

    def credentials(self) -> Credentials | None:
        """Return the current credentials, refreshed if necessary.

        Returns:
            None if there are none, or if they do not fit into a header.

        Raises:
            BotoCoreError: They can't be had.
        """
        held = self.client._request_signer._credentials  # noqa: SLF001
        if held is None:
            return None
        frozen = held.get_frozen_credentials()
        credentials = Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        return credentials if credentials.fit_for_headers else None

    def request(
        self,
        credentials: Credentials,
        body: bytes,
        timestamp: str | None = None,
        invocation_id: str | None = None,
    ) -> bytes:
        """Return a signed request, as it goes over the wire."""
        timestamp = timestamp or time.strftime(DATE_FORMAT, time.gmtime())
        token = f"{_TOKEN}: {credentials.token}\r\n" if credentials.token else ""
        authorization = self.signer.authorization(credentials, timestamp, body)
        varying = (
            f"X-Amz-Date: {timestamp}\r\n"
            f"{token}"
            f"Authorization: {authorization}\r\n"
            f"amz-sdk-invocation-id: {invocation_id or uuid.uuid4()}\r\n"
        )
        end = b"amz-sdk-request: %b\r\nContent-Length: %d\r\n\r\n" % (self.sdk_request, len(body))
        return b"".join((self.start, varying.encode("ascii"), end, body))

    def answer(self, reply: wire.Reply) -> Mapping[str, Any]:
        """Parse a reply into an answer as boto3 does.

        Raises:
            ClientError: The service refused the request.
            RemoteError: The reply does not prove that the service gave it.
            ResponseParserError, ...: botocore's parser failed: the reply is not a service's.
        """
        request_id = reply.headers.get("x-amzn-requestid")
        # The fast path, taken nearly always.
        if reply.status == 200 and reply.body == b"{}" and request_id:  # noqa: PLR2004
            metadata = {
                "RequestId": request_id,
                "HTTPStatusCode": 200,
                "HTTPHeaders": reply.headers,
                "RetryAttempts": 0,
            }
            return {"ResponseMetadata": metadata}
        response = {
            "headers": HeadersDict(reply.headers),
            "status_code": reply.status,
            "body": reply.body,
            "context": {},
        }
        parsed: dict[str, Any] = create_parser(self.protocol).parse(response, self.output_shape)
        if reply.status >= 300:  # noqa: PLR2004 - as botocore
            hooks.scrubbed(parsed, self.client)
            raise ClientError(parsed, OPERATION)
        hooks.prove(Said(OPERATION, reply.status, reply.headers, reply.body, parsed))
        return parsed


def serialized(component: str, points: Sequence[MetricPoint]) -> bytes | None:
    """Serialize a request's body as botocore does.

    Doing so by hand takes two thirds of the encoder's time.

    Returns:
        The body. None for points that botocore should check itself. Its checks are: types, a name
        of at least one character, a step of at least 0.
    """
    if not component or not points:
        return None
    data = []
    for name, value, step, timestamp_ns in points:
        if (
            type(name) is not str
            or not name
            or type(value) is not float
            or not math.isfinite(value)
            or not 0 <= timestamp_ns <= _TIME_MAX_NS
            or not (step is None or (type(step) is int and step >= 0))
        ):
            return None
        # A datetime keeps microseconds.
        at_us = timestamp_ns // 1000
        at_s = at_us / 10**6 if at_us % 10**6 else at_us // 10**6
        at_step = "" if step is None else f', "Step": {step}'
        point = f'"MetricName": {_quoted(name)}, "Timestamp": {at_s}, "Value": {value!r}{at_step}'
        data.append(f"{{{point}}}")
    points_text = ", ".join(data)
    return f'{{"TrialComponentName": {_quoted(component)}, "MetricData": [{points_text}]}}'.encode()


def _by_boto3(
    client: Any,  # noqa: ANN401
    component: str,
    points: Sequence[MetricPoint],
) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = client.batch_put_metrics(**_parameters(component, points))
    return answer


def _parameters(component: str, points: Sequence[MetricPoint]) -> dict[str, Any]:
    data = []
    for name, value, step, timestamp_ns in points:
        metric: dict[str, Any] = {
            "MetricName": name,
            "Timestamp": utc(timestamp_ns),
            "Value": value,
        }
        if step is not None:
            metric["Step"] = step
        data.append(metric)
    return {"TrialComponentName": component, "MetricData": data}


def utc(timestamp_ns: int) -> datetime:
    """Convert a time for boto3: a datetime and botocore's serializer keep microseconds."""
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=rest // 1000)


def _serializes_alike(client: Any, model: Any) -> bool:  # noqa: ANN401
    serializer = client._serializer  # noqa: SLF001
    theirs = serializer.serialize_to_request(_parameters("a-name", _PROBE), model)
    return bool(theirs["body"] == serialized("a-name", _PROBE))


def _host(scheme: str, name: str | None, port: int | None) -> str:
    """Return the Host header without the scheme's own port, as http.client and botocore do."""
    host = f"[{name}]" if ":" in (name or "") else str(name)
    usual_port = {"http": 80, "https": 443}.get(scheme)
    return host if port in {None, usual_port} else f"{host}:{port}"


def _goes_to_a_proxy(client: Any, url: str) -> bool:  # noqa: ANN401
    """Return whether a proxy gets requests as a whole, without a tunnel."""
    proxies = client._endpoint.http_session._proxy_config  # noqa: SLF001
    if proxies.proxy_url_for(url) is None:
        return False
    forwards = bool(proxies.settings.get("proxy_use_forwarding_for_https"))
    return forwards or not url.startswith("https:")


def _pool_of(client: Any, url: str) -> Any:  # noqa: ANN401
    """Return botocore's pool of connections for a URL, or None if it can't be found."""
    # Another version of botocore may have other names.
    try:
        session = client._endpoint.http_session  # noqa: SLF001
        proxy_url = session._proxy_config.proxy_url_for(url)  # noqa: SLF001
        manager = session._get_connection_manager(url, proxy_url)  # noqa: SLF001
        return manager.connection_from_url(url)
    except Exception:
        logger.debug("boto3's connections can't be found", exc_info=True)
        return None


def _is_untouched(client: Any) -> bool:  # noqa: ANN401
    """Return whether only botocore and journaltrack take part in the client's requests.

    Tracers (X-Ray, OpenTelemetry, Datadog) wrap ``_make_api_call``. Mocks hook into
    ``before-send`` or ``before-call``.
    """
    try:
        names = [f"{event}.{_EVENT}" for event in _EVENTS]
        found = [handler for name in names for handler in hooks.handlers_of(client, name)]
        session = client._endpoint.http_session  # noqa: SLF001
        functions: list[Callable[..., Any]] = [
            client._make_api_call,  # noqa: SLF001
            client._make_request,  # noqa: SLF001
            client._endpoint.make_request,  # noqa: SLF001
            client._endpoint._send,  # noqa: SLF001
            session.send,
        ]
    except AttributeError:
        return False
    # Code objects hold file names as plain strings.
    home = os.path.dirname(botocore.__file__) + os.sep  # noqa: PTH120
    codes = [getattr(function, "__code__", None) for function in functions]
    return all(
        getattr(handler, "__module__", None) in _KNOWN_HANDLERS for handler in found
    ) and all(str(getattr(code, "co_filename", "")).startswith(home) for code in codes)
