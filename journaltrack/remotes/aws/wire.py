"""Sign one kind of request, and exchange it for an answer over botocore's pooled connections.

``Signer``: signature version 4 for a JSON body, one path and one host. It computes once what is
the same in every request (the key of the day, most of the canonical request). A request costs 8 µs
of CPU, with botocore's ``SigV4Auth`` 100. Invariant: it signs byte for byte as botocore does.
``metrics`` compares both before the first use, ``tests/unit/test_aws_direct.py`` for arbitrary
requests. Sources:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html and
auth.py of botocore 1.44.5.

``exchange``: one HTTP/1.1 request and its answer. It costs 30 µs of CPU, with urllib3 and
http.client 200. It never connects: DNS, proxies, TLS and certificates, with all their failures,
stay botocore's. It reads answers with a length and without chunks itself, and leaves all others to
http.client. Invariants:

- Once the first byte may have left, a failure is an error that leaves open whether the request took
  effect.
- A connection returns to the pool only if exactly one whole answer was read from it.

Must not know clients, what is in a body, or what a status means.
"""

from __future__ import annotations

import hmac
import http.client
import io
import re
import socket
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection
from botocore.exceptions import ConnectionClosedError, IncompleteReadError, ReadTimeoutError
from urllib3.exceptions import ClosedPoolError, EmptyPoolError
from urllib3.util.connection import is_connection_dropped

from journaltrack.remotes.aws.hooks import GatedConnection, GatedTlsConnection

ALGORITHM: Final = "AWS4-HMAC-SHA256"
DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"


class Credentials(NamedTuple):
    """Keys to sign with. ``token`` is None for credentials that do not expire."""

    access_key: str
    secret_key: str
    token: str | None

    @property
    def fit_for_headers(self) -> bool:
        """Return whether headers can hold them as they are.

        http.client refuses what it can't send, such as line breaks.
        """
        texts = (self.access_key, self.token or "")
        return all(
            text.isascii() and text.isprintable() and text == " ".join(text.split())
            for text in texts
        )


@dataclass(frozen=True, slots=True)
class _Day:
    """The parts that all requests share which the same credentials sign on one day (UTC)."""

    credentials: Credentials
    date: str
    scope: str
    key: bytes


class Signer:
    """Makes Authorization headers. Threads may share it.

    Args:
        host: The Host header.
        path: The URL's path. Nothing in it needs encoding, and there is no query.
        content_type: The body's media type.
        region: Region of the credential scope.
        service: The service's signing name, for the credential scope.
    """

    def __init__(
        self, *, host: str, path: str, content_type: str, region: str, service: str
    ) -> None:
        self._start = f"PUT\n{path}\n\ncontent-type:{content_type}\nhost:{host}\nx-amz-date:"
        self._region, self._service = region, service
        self._day: _Day | None = None

    def authorization(self, credentials: Credentials, timestamp: str, body: bytes) -> str:
        """Return the Authorization header.

        Args:
            credentials: Keys to sign with.
            timestamp: Now, in ``DATE_FORMAT``: the request's X-Amz-Date.
            body: The request's body.
        """
        day = self._day
        if day is None or day.date != timestamp[:8] or day.credentials != credentials:
            day = self._day = self._day_of(credentials, timestamp[:8])
        token, signed = "", "content-type;host;x-amz-date"
        if credentials.token:
            token = f"x-amz-security-token:{credentials.token}\n"
            signed += ";x-amz-security-token"
        canonical = f"{self._start}{timestamp}\n{token}\n{signed}\n{sha256(body).hexdigest()}"
        text = f"{ALGORITHM}\n{timestamp}\n{day.scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(day.key, text.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{day.scope}"
        return f"{ALGORITHM} Credential={credential}, SignedHeaders={signed}, Signature={signature}"

    def _day_of(self, credentials: Credentials, date: str) -> _Day:
        key = f"AWS4{credentials.secret_key}".encode()
        for part in (date, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return _Day(credentials, date, f"{date}/{self._region}/{self._service}/aws4_request", key)


_CONNECTIONS: Final = (AWSHTTPConnection, AWSHTTPSConnection)
# Each client has its own subclass of these.
_GATED: Final = (GatedConnection, GatedTlsConnection)
_RECEIVE_BYTES: Final = 65_536
_HEAD_BYTES_MAX: Final = 65_536
"""http.client handles longer heads (it refuses lines over 64 KiB, and more than 100 lines)."""
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")
_FIELDS_MAX: Final = 98
"""http.client handles more header fields than this."""
_WITHOUT_BODY: Final = (204, 304)


class Reply(NamedTuple):
    """An answer.

    Attributes:
        status: HTTP status.
        headers: Values by lower-case name. Repeated headers are joined with commas, as in urllib3.
        body: The bytes as they came, not decompressed.
        reusable: Whether the connection can carry another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    reusable: bool


def take(pool: Any) -> Any:  # noqa: ANN401 - urllib3's connections, whichever version
    """Take an idle connection from the pool.

    urllib3 decides which connections are stale (a closed one is readable), as for botocore's own
    requests.

    Returns:
        A connection that the server has not closed. None if there is none: a new one is needed.
    """
    # The pool has no public way to lend a connection.
    try:
        connection = pool._get_conn(timeout=0)  # noqa: SLF001
    except (ClosedPoolError, EmptyPoolError):
        return None
    known = type(connection) in _CONNECTIONS or isinstance(connection, _GATED)
    if known and getattr(connection, "sock", None) is not None:
        return connection
    give_back(pool, connection)
    return None


def give_back(pool: Any, connection: Any, *, reusable: bool = True) -> None:  # noqa: ANN401
    """Return a connection to the pool, closed if it can't carry another request."""
    if not reusable:
        connection.close()
    pool._put_conn(connection)  # noqa: SLF001 - as above


def is_stale(connection: Any) -> bool:  # noqa: ANN401
    """Return whether a connection must not be used.

    The server closed it or sent unrequested bytes, or it was idle for long (``hooks``).
    """
    return bool(is_connection_dropped(connection)) or getattr(connection, "was_idle", False)


def exchange(connection: socket.socket, request: bytes, url: str) -> Reply:
    """Send a request and read its answer. The socket's time-out bounds each silence.

    Args:
        connection: A connected socket, with TLS for an https URL.
        request: The whole request, as it goes over the wire.
        url: Address to name in errors.

    Raises:
        ReadTimeoutError: No answer in time.
        ConnectionClosedError: The connection broke, or what came is not HTTP.
        IncompleteReadError: The answer is shorter than it says.
    """
    try:
        connection.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        # The server may have answered before it closed. urllib3 also looks for an answer.
        pass
    except OSError as error:
        raise ConnectionClosedError(endpoint_url=url, error=error, request=None) from error
    try:
        return _reply(connection, url)
    except TimeoutError as error:
        raise ReadTimeoutError(endpoint_url=url, error=error) from error
    # Also broken TLS (an OSError): the request was out by then.
    except (http.client.HTTPException, OSError, ValueError) as error:
        # ``expected`` is how many bytes are missing.
        if isinstance(error, http.client.IncompleteRead) and error.expected is not None:
            raise _incomplete(len(error.partial), len(error.partial) + error.expected) from error
        raise ConnectionClosedError(endpoint_url=url, error=error, request=None) from error


def _reply(connection: socket.socket, url: str) -> Reply:
    data = connection.recv(_RECEIVE_BYTES)
    while (end := data.find(b"\r\n\r\n")) < 0 and len(data) <= _HEAD_BYTES_MAX:
        more = connection.recv(_RECEIVE_BYTES)
        # http.client would take half a head for a whole one.
        if not more:
            why = "the answer ends in its head"
            raise ConnectionClosedError(endpoint_url=url, error=why, request=None)
        data += more
    plain = None if end < 0 else _plain_head(data[: end + 2])
    if plain is None:
        return _by_http_client(connection, data)
    status, headers, length, keeps = plain
    start = end + 4
    parts, missing = [data[start : start + length]], start + length - len(data)
    while missing > 0:
        more = connection.recv(min(missing, _RECEIVE_BYTES))
        if not more:
            raise _incomplete(length - missing, length)
        parts.append(more)
        missing -= len(more)
    return Reply(status, headers, b"".join(parts), keeps and missing == 0)


def _plain_head(head: bytes) -> tuple[int, dict[str, str], int, bool] | None:
    """Parse a plain head.

    Returns:
        Status, headers, length of the body in bytes, and whether the connection stays open. None
        for anything out of the ordinary.
    """
    found = _STATUS.match(head)
    if found is None:
        return None
    headers: dict[str, str] = {}
    at, fields = found.end(), head.count(b"\r\n") - 1
    while field := _FIELD.match(head, at):
        at = field.end()
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status, length = int(found[1]), headers.get("content-length", "")
    if (
        at != len(head)
        or fields > _FIELDS_MAX
        or not (length.isascii() and length.isdigit())
        or "transfer-encoding" in headers
        or status in _WITHOUT_BODY
    ):
        return None
    keeps = headers.get("connection", "keep-alive").lower() == "keep-alive"
    return status, headers, int(length), keeps


def _by_http_client(connection: socket.socket, data: bytes) -> Reply:
    source = _Again(connection, data)
    # http.client calls only a socket's ``makefile``.
    response = http.client.HTTPResponse(cast("socket.socket", source), method="PUT")
    try:
        response.begin()
        body = response.read()
        headers: dict[str, str] = {}
        for name, value in response.getheaders():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        return Reply(response.status, headers, body, not response.will_close and not source.unread)
    finally:
        response.close()


def _incomplete(actual: int, expected: int) -> Exception:
    error: Exception = IncompleteReadError(actual_bytes=actual, expected_bytes=expected)
    return error


class _Again(io.RawIOBase):
    """A readable socket that first returns the bytes that were read from it already."""

    def __init__(self, connection: socket.socket, data: bytes) -> None:
        self._connection = connection
        self.unread = memoryview(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that http.client reads.

        Its buffer has one byte, so that it takes nothing that belongs to the next answer.
        """
        return io.BufferedReader(self, 1)

    def readable(self) -> bool:
        """Return True: http.client reads the answer here."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever takes bytes
        """Give first what was read already, then what the connection brings."""
        if not self.unread:
            return self._connection.recv_into(buffer)
        size = min(len(buffer), len(self.unread))
        buffer[:size] = self.unread[:size]
        self.unread = self.unread[size:]
        return size
