"""One HTTP/1.1 request and its answer over a connection that botocore made and keeps in its pool.

What it is: the cheap half of an HTTP client (30 µs of CPU, urllib3 and http.client: 200). It never connects: names, proxies,
TLS, certificates and everything that can go wrong with them stay botocore's. Answers with a plain frame (a length, no
chunks) are read here, all others by http.client. Must not know AWS, credentials, or what a status means.

Invariants: a failure once the first byte may have left is told as one of botocore's errors that do *not* prove that the request
had no effect; a connection goes back to the pool only if exactly one whole answer was read from it.

Signature version 4 for one kind of request: a JSON body, one path, one host. Pure but for the random invocation id.

What it is: botocore's ``SigV4Auth`` with everything done once that is the same in every request (the key of the day, the
canonical request but for date, token and digest): 8 µs a request in place of 100. It must not know clients, connections or what
is in the body. Invariant: byte for byte what botocore makes of the same request; ``fast_metrics`` compares before the first use,
``tests/unit/test_aws_direct.py`` for arbitrary requests.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, botocore 1.44.5 auth.py.
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
    """What signs; ``token`` None for credentials that do not expire."""

    access_key: str
    secret_key: str
    token: str | None

    @property
    def fit_for_headers(self) -> bool:
        """Whether they can be put into headers as they are; http.client refuses what it can't send (line breaks)."""
        return all(text.isascii() and text.isprintable() and text == " ".join(text.split()) for text in (self.access_key, self.token or ""))


@dataclass(frozen=True, slots=True)
class _Day:
    """What is the same in all requests that some credentials sign on one day (UTC)."""

    credentials: Credentials
    date: str
    scope: str
    key: bytes


class Signer:
    """Makes Authorization headers. Threads may share it.

    Args:
        host: As in the Host header.
        path: Of the URL; nothing in it needs encoding, and there is no query.
        content_type: Of the body.
        region: That credentials are scoped to.
        service: ... and the service's signing name.
    """

    def __init__(self, *, host: str, path: str, content_type: str, region: str, service: str) -> None:
        self._start = f"PUT\n{path}\n\ncontent-type:{content_type}\nhost:{host}\nx-amz-date:"
        self._region, self._service = region, service
        self._day: _Day | None = None

    def authorization(self, credentials: Credentials, timestamp: str, body: bytes) -> str:
        """The Authorization header.

        Args:
            credentials: To sign with.
            timestamp: Now, as ``DATE_FORMAT``: the request's X-Amz-Date.
            body: Of the request.
        """
        day = self._day
        if day is None or day.date != timestamp[:8] or day.credentials != credentials:
            day = self._day = self._day_of(credentials, timestamp[:8])
        token, signed = "", "content-type;host;x-amz-date"
        if credentials.token:
            token, signed = f"x-amz-security-token:{credentials.token}\n", "content-type;host;x-amz-date;x-amz-security-token"
        canonical = f"{self._start}{timestamp}\n{token}\n{signed}\n{sha256(body).hexdigest()}"
        text = f"{ALGORITHM}\n{timestamp}\n{day.scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(day.key, text.encode(), "sha256").hex()
        return f"{ALGORITHM} Credential={credentials.access_key}/{day.scope}, SignedHeaders={signed}, Signature={signature}"

    def _day_of(self, credentials: Credentials, date: str) -> _Day:
        key = f"AWS4{credentials.secret_key}".encode()
        for part in (date, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return _Day(credentials, date, f"{date}/{self._region}/{self._service}/aws4_request", key)


_CONNECTIONS: Final = (AWSHTTPConnection, AWSHTTPSConnection)
_GATED: Final = (GatedConnection, GatedTlsConnection)  # ours: each client's are of a class of their own
_RECEIVE_BYTES: Final = 65_536
_HEAD_BYTES_MAX: Final = 65_536
"""Longer heads are http.client's to refuse (its own limit is 64 KiB a line, and 100 lines)."""
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")
_FIELDS_MAX: Final = 98
"""... as are more fields than that."""
_WITHOUT_BODY: Final = (204, 304)


class Reply(NamedTuple):
    """An answer.

    Attributes:
        status: Its status.
        headers: By name in lower case; what came several times is joined with commas, as urllib3 does.
        body: As it came: nothing is decompressed.
        reusable: Whether the connection may carry another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    reusable: bool


def take(pool: Any) -> Any:  # noqa: ANN401 - urllib3's connections, whichever version
    """An idle connection of the pool that the server has not closed; None if there is none, and a new one has to be made.

    Which connections are stale is urllib3's own judgement (a closed one is readable), as it is for botocore's requests.
    """
    try:
        connection = pool._get_conn(timeout=0)  # noqa: SLF001 - the pool has no public way to lend a connection
    except (ClosedPoolError, EmptyPoolError):
        return None
    if (type(connection) in _CONNECTIONS or isinstance(connection, _GATED)) and getattr(connection, "sock", None) is not None:
        return connection
    give_back(pool, connection)
    return None


def give_back(pool: Any, connection: Any, *, reusable: bool = True) -> None:  # noqa: ANN401
    """Put a connection back, closed if it can't carry another request."""
    if not reusable:
        connection.close()
    pool._put_conn(connection)  # noqa: SLF001 - as above


def is_stale(connection: Any) -> bool:  # noqa: ANN401
    """Whether the server closed the connection, or sent what nobody asked for; or nobody has used it for long."""
    return bool(is_connection_dropped(connection)) or getattr(connection, "was_idle", False)


def exchange(connection: socket.socket, request: bytes, url: str) -> Reply:
    """Send a request and read its answer; the socket's time-out bounds each silence.

    Args:
        connection: Connected, with TLS if that is called for.
        request: All of it, as it goes over the wire.
        url: To tell in errors.

    Raises:
        ReadTimeoutError: No answer in time.
        ConnectionClosedError: The connection broke, or what came is not HTTP.
        IncompleteReadError: The answer is shorter than it says.
    """
    try:
        connection.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server may have answered before it closed; urllib3 looks for an answer, too
    except OSError as error:
        raise ConnectionClosedError(endpoint_url=url, error=error, request=None) from error
    try:
        return _reply(connection, url)
    except TimeoutError as error:
        raise ReadTimeoutError(endpoint_url=url, error=error) from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # also TLS that broke: the request was out by then
        if isinstance(error, http.client.IncompleteRead) and error.expected is not None:  # how much is missing
            raise _incomplete(len(error.partial), len(error.partial) + error.expected) from error
        raise ConnectionClosedError(endpoint_url=url, error=error, request=None) from error


def _reply(connection: socket.socket, url: str) -> Reply:
    data = connection.recv(_RECEIVE_BYTES)
    while (end := data.find(b"\r\n\r\n")) < 0 and len(data) <= _HEAD_BYTES_MAX:
        more = connection.recv(_RECEIVE_BYTES)
        if not more:  # http.client would take half a head for a whole one
            raise ConnectionClosedError(endpoint_url=url, error="the answer ends in its head", request=None)
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
    """Status, headers, length of the body, whether the connection stays; None for anything out of the ordinary."""
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
    return status, headers, int(length), headers.get("connection", "keep-alive").lower() == "keep-alive"


def _by_http_client(connection: socket.socket, data: bytes) -> Reply:
    source = _Again(connection, data)
    response = http.client.HTTPResponse(cast("socket.socket", source), method="PUT")  # all it asks of a socket is makefile
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
    """A socket to read from, beginning with what was read from it already."""

    def __init__(self, connection: socket.socket, data: bytes) -> None:
        self._connection = connection
        self.unread = memoryview(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client asks of a socket. The buffer of one byte: nothing is taken that belongs to the next answer."""
        return io.BufferedReader(self, 1)

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever takes bytes
        """See ``io.RawIOBase``."""
        if not self.unread:
            return self._connection.recv_into(buffer)
        size = min(len(buffer), len(self.unread))
        buffer[:size] = self.unread[:size]
        self.unread = self.unread[size:]
        return size
