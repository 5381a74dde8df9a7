"""HTTP/1.1 and the AWS protocols' ways of writing errors, as values.

What it is: reads one request from a socket, writes one reply in one piece, renders errors as JSON,
S3 XML or query XML.
It must not know: state, faults, threads.
Invariant: a request is either read whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LINE_LIMIT = 1 << 16
_REASONS = {int(status): status.phrase for status in HTTPStatus}
_NONE: Mapping[str, str] = MappingProxyType({})


class Reader(Protocol):
    """What is needed of a connection's buffered reader."""

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, fewer only at the end."""

    def readline(self, limit: int, /) -> bytes:
        """Read up to the next newline."""


class ServiceError(Exception):
    """A refusal by the simulated service: HTTP status, AWS error code, message."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] = _NONE
    ) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it came; header names are in lower case, the path is still quoted."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One reply; Content-Length is added when it is written unless it is given."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def read_request(rfile: Reader, send: Callable[[bytes], None]) -> HttpRequest | None:
    """Read one request, or None when the peer has closed the connection or speaks no HTTP.

    Args:
        rfile: Buffered reader of the connection.
        send: Writes to the connection, for `100 Continue`.
    """
    words = rfile.readline(_LINE_LIMIT).split()
    # A greeting of TLS is random bytes, and may have three words by chance.
    if len(words) != 3 or not words[2].startswith(b"HTTP/"):
        return None
    path, _, query = words[1].decode("latin-1").partition("?")
    headers: dict[str, str] = {}
    while line := rfile.readline(_LINE_LIMIT).rstrip(b"\r\n"):
        name, _, value = line.partition(b":")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    if headers.get("expect", "").lower() == "100-continue":
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _read_chunked(rfile)
    else:
        length = int(headers.get("content-length", 0))
        body = rfile.read(length) if length else b""
        if len(body) < length:
            return None
    return HttpRequest(words[0].decode("ascii"), path, query, headers, body)


def _read_chunked(rfile: Reader) -> bytes:
    parts: list[bytes] = []
    while size := int(rfile.readline(_LINE_LIMIT).partition(b";")[0], 16):
        parts.append(rfile.read(size))
        rfile.readline(_LINE_LIMIT)
    while rfile.readline(_LINE_LIMIT).rstrip(b"\r\n"):
        pass
    return b"".join(parts)


def decode_aws_chunked(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Undo S3's `aws-chunked` content encoding.

    Returns:
        The payload and the trailers, names in lower case.
    """
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        at = end + 2
        if not size:
            break
        parts.append(body[at : at + size])
        at += size + 2
    trailers: dict[str, str] = {}
    for line in body[at:].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            trailers[name.decode("ascii").lower()] = value.strip().decode("ascii")
    return b"".join(parts), trailers


def encode_reply(reply: HttpReply) -> bytes:
    """Write a reply as one piece, so that it leaves in one segment where it fits."""
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if "Content-Length" not in reply.headers:
        lines.append(f"Content-Length: {len(reply.body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + reply.body


def render_error(service: str, method: str, error: ServiceError, request_id: str) -> HttpReply:
    """Write an error in the protocol of its service; S3 answers HEAD without a body."""
    code, message = escape(error.code), escape(error.message)
    if service == "s3":
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
        )
        body = b"" if method == "HEAD" else text.encode()
        return HttpReply(error.status, body, {"Content-Type": "application/xml", **error.headers})
    if service == "sts":
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>"
            f"<Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return HttpReply(error.status, text.encode(), {"Content-Type": "text/xml", **error.headers})
    return json_reply(
        {"__type": error.code, "message": error.message},
        status=error.status,
        headers={"x-amzn-ErrorType": error.code, **error.headers},
    )


def json_reply(
    value: object, *, status: int = 200, headers: Mapping[str, str] = _NONE
) -> HttpReply:
    """Write a value as JSON; numbers that JSON does not know raise ValueError."""
    body = json.dumps(value, allow_nan=False).encode()
    return HttpReply(status, body, {"Content-Type": "application/x-amz-json-1.1", **headers})
