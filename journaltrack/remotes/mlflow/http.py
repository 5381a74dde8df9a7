"""Send requests to an MLflow server, and say what an answer or a failure means.

One request, one answer: no retries, no redirects. Credentials come from the address, from MLflow's
own environment variables, or, for AWS's managed MLflow, from the AWS configuration.

Must not know what a request is about.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions

from journaltrack import limits
from journaltrack.errors import ComponentMissingError, ErrorKind, NotSentError, RemoteError
from journaltrack.remotes.rate_limit import RateLimit

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
"""Longest silence of a server. A pass with a deadline waits for at most half of its time."""
_READ_TIMEOUT_MIN_S: Final = 1.0
API: Final = "/api/2.0/mlflow/"
FILES: Final = "/api/2.0/mlflow-artifacts/artifacts"
"""Where a server takes the artifacts that it stores itself."""
_NO_SERVER: Final = "check the destination's uri, and whether a proxy or a sign-in page answers"
_TEXT_CHARS_MAX: Final = 500
_ARN: Final = re.compile(
    r"arn:(aws|aws-us-gov):sagemaker:([a-z0-9-]+):([0-9]{12}):"
    r"(mlflow-tracking-server|mlflow-app)/\S+"
)
_OUR_HEADERS: Final = {"user-agent": "journaltrack", "accept": "application/json"}
_OK, _TOO_MANY, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 200, 429, 401, 403, 404
_BAD, _SERVER = 400, 500
_PASSING: Final = frozenset({"BAD_REQUEST", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
"""Codes of a 400 that another try may not meet: a clash of two writers is a ``BAD_REQUEST``."""

Sign: TypeAlias = Callable[[str, str, Mapping[str, str], "bytes | IO[bytes]"], Mapping[str, str]]
"""Returns headers to add, of (method, URL, headers, body)."""


@dataclass(frozen=True, slots=True)
class Server:
    """Say where a server is, and how requests to it are signed.

    Attributes:
        base: Its address, without a slash at the end, and without credentials.
        sign: Returns the headers that tell who is asking.
        managed: Whether it is AWS's.
    """

    base: str
    sign: Sign
    managed: bool = False


def server_of(
    uri: str,
    *,
    variables: str = "MLFLOW_TRACKING",
    environ: Mapping[str, str] | None = None,
    signer: Callable[[str, str], Sign] | None = None,
    endpoint: str | None = None,
) -> Server:
    """Return the server at an address.

    Args:
        uri: ``http(s)://...``, perhaps with a user and a password, or the ARN of a managed server.
        variables: How the variables with credentials begin: ``..._TOKEN``, or ``..._USERNAME`` and
            ``..._PASSWORD``.
        environ: Environment variables. None: the process's.
        signer: Makes a signature of (region, AWS service), for an ARN.
        endpoint: Another address for an ARN: a VPC endpoint, or a stand-in.

    Raises:
        RemoteError: The address is none that journaltrack can deliver to.
    """
    environ = os.environ if environ is None else environ
    found = _ARN.fullmatch(uri)
    if found is not None:
        if signer is None:
            raise _unusable(uri, "it needs AWS's credentials")
        return _managed(uri, found, signer, endpoint)
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _unusable(
            uri, "it begins neither with http:// nor https://, and is no managed MLflow"
        )
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    header: dict[str, str] = {}
    if parts.username is not None:
        header = _basic(unquote(parts.username), unquote(parts.password or ""))
    elif user := environ.get(f"{variables}_USERNAME"):
        header = _basic(user, environ.get(f"{variables}_PASSWORD", ""))
    elif token := environ.get(f"{variables}_TOKEN"):
        header = {"authorization": f"Bearer {token}"}
    return Server(bare.rstrip("/"), lambda *_: header)


def _managed(
    arn: str, found: re.Match[str], signer: Callable[[str, str], Sign], endpoint: str | None
) -> Server:
    region, kind = found[2], found[4]
    if kind == "mlflow-app":
        base, service = f"https://mlflow.sagemaker.{region}.app.aws", "sagemaker"
        header = "x-sm-mlflow-app-arn"
    else:
        base, service = f"https://{region}.experiments.sagemaker.aws", "sagemaker-mlflow"
        header = "x-mlflow-sm-tracking-server-arn"
    sign = signer(region, service)

    def signed(
        method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes]
    ) -> Mapping[str, str]:
        """Sign the request with the server's ARN in it."""
        routed = {header: arn}
        return {**routed, **sign(method, url, {**headers, **routed}, body)}

    return Server((endpoint or base).rstrip("/"), signed, managed=True)


class Http:
    """Makes requests. Threads may share it.

    Args:
        server: Where to.
        deadline: No request leaves after it.
        connections: Requests that will be in flight.
        connect_timeout_s: Seconds to establish a connection.
        read_timeout_s: Seconds that the server may be silent.
        rate_limit: Bounds requests per second.
    """

    def __init__(
        self,
        server: Server,
        *,
        deadline: Deadline,
        connections: int,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self.server = server
        self._deadline = deadline
        deadline.guarded = True
        self._limit = rate_limit or RateLimit(0)
        self._timeouts = (connect_timeout_s, read_timeout_s)
        options: dict[str, Any] = {
            "maxsize": connections,
            "block": True,
            "retries": False,
            "cert_reqs": "CERT_REQUIRED",
        }
        if certificates := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            options["ca_certs"] = certificates
        parts = urlsplit(server.base)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
            self._pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
        else:
            self._pool = urllib3.PoolManager(**options)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def get(self, path: str, gives: str | None, /, **parameters: str | int) -> dict[str, Any]:
        """Read something of MLflow's API. ``gives`` as for ``post``."""
        query = urlencode(parameters, quote_via=quote)
        return _given(path, gives, self._answered("GET", f"{API}{path}?{query}", b""))

    def post(self, path: str, content: Mapping[str, Any], gives: str | None = "") -> dict[str, Any]:
        """Call MLflow's API.

        Args:
            path: Below ``API``.
            content: The request.
            gives: The member that the answer must have. "": it has none at all. None: any.

        Raises:
            RemoteError: Also for an answer that no MLflow server gives.
        """
        # ASCII: nothing of a text is lost.
        body = json.dumps(content).encode()
        return _given(path, gives, self._answered("POST", f"{API}{path}", body))

    def patch(
        self, path: str, content: Mapping[str, Any], gives: str | None = ""
    ) -> dict[str, Any]:
        """Change something by MLflow's API. The arguments are those of ``post``."""
        body = json.dumps(content).encode()
        return _given(path, gives, self._answered("PATCH", f"{API}{path}", body))

    def delete(self, path: str) -> None:
        """Delete something by MLflow's API."""
        _given(path, "", self._answered("DELETE", f"{API}{path}", b""))

    def listed(self, folder: str) -> dict[str, Any]:
        """List a folder of artifacts that the server stores itself."""
        return self._answered("GET", f"{FILES}?{urlencode({'path': folder}, quote_via=quote)}", b"")

    def put_file(self, path: str, file: IO[bytes], size_bytes: int, media_type: str | None) -> None:
        """Send a file to be stored at a path of the server's artifacts."""
        kind = {"content-type": media_type or "application/octet-stream"}
        headers = {**kind, "content-length": str(size_bytes)}
        with self._sent("PUT", f"{FILES}/{quote(path)}", file, headers) as answer:
            _checked(answer, answer.read())

    def read_file(self, path: str) -> Iterator[bytes]:
        """Yield the content of an artifact that the server stores itself."""
        with self._sent("GET", f"{FILES}/{quote(path)}", b"", {}) as answer:
            if answer.status != _OK:
                _checked(answer, answer.read())
            yield from _streamed(answer)

    def put_signed(
        self, url: str, file: IO[bytes], size_bytes: int, headers: Mapping[str, str]
    ) -> None:
        """Send a file to an address that the server signed: who is asking is not told there."""
        sent = {**headers, "content-length": str(size_bytes)}
        with self._sent("PUT", url, file, sent) as answer:
            _check_signed(answer)

    def read_signed(self, url: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield what is at an address that the server signed."""
        with self._sent("GET", url, b"", headers) as answer:
            _check_signed(answer)
            yield from _streamed(answer)

    def _answered(self, method: str, target: str, body: bytes) -> dict[str, Any]:
        headers = {"content-type": "application/json"} if body else {}
        with self._sent(method, target, body, headers) as answer:
            try:
                content = answer.read()
            except exceptions.HTTPError as error:
                raise _failure(error) from error
            return _checked(answer, content)

    def _sent(
        self, method: str, target: str, body: bytes | IO[bytes], headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        # A whole address is signed already, for somebody else than the server.
        is_signed = not target.startswith("/")
        url = target if is_signed else f"{self.server.base}{target}"
        if not self._limit.take(self._deadline.wait, "mlflow"):
            raise NotSentError
        told = {**_OUR_HEADERS, **headers}
        if not is_signed:
            told |= self.server.sign(method, url, told, body)
        connect_s, read_s = self._timeouts
        if not isinstance(body, bytes):
            # urllib3 bounds each write by the time to connect: a slow line needs longer.
            connect_s = read_s
        read_s = min(read_s, max(_READ_TIMEOUT_MIN_S, self._deadline.remaining_s() / 2))
        self._deadline.departing()
        try:
            answer = self._pool.request(
                method,
                url,
                body=body or None,
                headers=told,
                timeout=urllib3.Timeout(connect=connect_s, read=read_s),
                redirect=False,
                preload_content=False,
            )
        # Also a certificate that can't be read.
        except (exceptions.HTTPError, OSError) as error:
            failure = _failure(error)
            if not failure.maybe_applied:
                self._deadline.connecting()
            raise failure from error
        throttle = self._limit.of("mlflow")
        if answer.status == _TOO_MANY:
            throttle.refused()
        else:
            throttle.taken()
        return answer


def _checked(answer: urllib3.BaseHTTPResponse, content: bytes) -> dict[str, Any]:
    """Return what the server answered.

    Raises:
        RemoteError: It refused the request, or it is no MLflow server.
    """
    try:
        told = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        told = None
    if answer.status == _OK and isinstance(told, dict):
        return told
    request_id = answer.headers.get("x-amzn-requestid") or answer.headers.get("x-request-id")
    raise _refusal(answer.status, told if isinstance(told, dict) else None, content, request_id)


def _streamed(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from answer.stream(1 << 20)
    except exceptions.HTTPError as error:
        raise _failure(error) from error


def _check_signed(answer: urllib3.BaseHTTPResponse) -> None:
    """Raise ``RemoteError`` if a store refused a request that the server had signed."""
    if answer.status == _OK:
        return
    text = limits.shown(answer.read(_TEXT_CHARS_MAX).decode(errors="replace"))
    code = f"HTTP{answer.status}"
    if answer.status == _TOO_MANY or answer.status >= _SERVER:
        raise RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, maybe_applied=True)
    raise RemoteError(
        f"the store refuses an upload that MLflow signed: {text}",
        kind=ErrorKind.HALT,
        code=code,
        uploads_only=True,
        hint="the server signs with its own credentials: check their permissions for its bucket",
    )


def _given(path: str, gives: str | None, told: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that has what it must have."""
    if gives is None or (gives in told if gives else not told):
        return told
    text = f"it answers {path} with {limits.shown(json.dumps(told))}"
    raise _refusal(200, None, text.encode(), None)


def _refusal(
    status: int, told: Mapping[str, Any] | None, content: bytes, request_id: str | None
) -> RemoteError:
    code = str((told or {}).get("error_code") or f"HTTP{status}")[:_TEXT_CHARS_MAX]
    text = str((told or {}).get("message") or content[:_TEXT_CHARS_MAX].decode(errors="replace"))
    text = limits.shown(text) if told is None else text[:_TEXT_CHARS_MAX]
    of_all: Any = {"code": code, "request_id": request_id}
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        hint = "check the user and password or the token of the destination, and its permissions"
        return RemoteError(
            f"MLflow refuses these credentials: {text}",
            kind=ErrorKind.HALT,
            everywhere=True,
            hint=hint,
            **of_all,
        )
    if status == _TOO_MANY:
        return RemoteError(text, kind=ErrorKind.TRANSIENT, throttled=True, **of_all)
    if status >= _SERVER:
        of_all["hint"] = "" if told is not None else _NO_SERVER
        return RemoteError(text, kind=ErrorKind.TRANSIENT, maybe_applied=True, **of_all)
    if told is None or "error_code" not in told:
        return RemoteError(
            f"what answers is no MLflow server (HTTP {status}): {text}",
            kind=ErrorKind.HALT,
            everywhere=True,
            hint=_NO_SERVER,
            maybe_applied=True,
            **of_all,
        )
    if status == _NOT_FOUND or "must be in the 'active' state" in text:
        return ComponentMissingError(text, kind=ErrorKind.HOLD, **of_all)
    if status == _BAD and (code in _PASSING or "IntegrityError" in text):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, **of_all)
    return RemoteError(text, kind=ErrorKind.PERMANENT, **of_all)


def _failure(error: Exception) -> RemoteError:
    """Return what it means that no whole answer came."""
    cause: BaseException = error
    if isinstance(error, exceptions.MaxRetryError) and error.reason is not None:
        cause = error.reason
    # Its type is the error's code.
    text = str(cause) or type(cause).__name__
    if isinstance(cause, exceptions.SSLError):
        return RemoteError(
            text,
            kind=ErrorKind.HALT,
            code="SSLError",
            everywhere=True,
            hint="name the server's certificate in MLFLOW_TRACKING_SERVER_CERT_PATH"
            if "certificate" in text.lower()
            else "perhaps the server speaks no TLS there: try http:// instead of https://",
        )
    not_sent = (
        exceptions.NewConnectionError,
        exceptions.ConnectTimeoutError,
        exceptions.ProxyError,
        exceptions.EmptyPoolError,
        exceptions.LocationValueError,
    )
    return RemoteError(
        text,
        kind=ErrorKind.TRANSIENT,
        code=type(cause).__name__,
        unreachable=isinstance(cause, not_sent),
        maybe_applied=not isinstance(cause, not_sent),
        hint="check that the server runs, its uri, the network and proxies; nothing was lost",
    )


def _basic(user: str, password: str) -> dict[str, str]:
    made: dict[str, str] = urllib3.make_headers(basic_auth=f"{user}:{password}")
    return made


def _unusable(uri: str, why: str) -> RemoteError:
    shown = limits.shown(re.sub("//[^/@]*@", "//", uri))
    return RemoteError(
        f"{shown} is no address of an MLflow server: {why}",
        kind=ErrorKind.HALT,
        code="BadAddress",
        everywhere=True,
        hint="write http://host:port, https://host, or the ARN of a managed MLflow: "
        "arn:aws:sagemaker:REGION:ACCOUNT:mlflow-tracking-server/NAME (or mlflow-app/ID)",
    )
