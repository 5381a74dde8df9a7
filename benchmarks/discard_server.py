"""The cheapest endpoint that boto3 takes for S3: it reads what is uploaded into one fixed buffer,
and forgets it.

``python -m benchmarks.discard_server`` prints one JSON line with its address and serves until
SIGTERM. ``GET /counted`` tells how many bytes of objects and parts came. One thread a connection:
receiving frees the interpreter's lock, so that a gigabyte costs about 0.3 s of CPU, whatever the
number of connections. It verifies nothing (a SHA-256 that came along is told back, as by S3), and
so is no test of anything but time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measure import ROOT, environment

_BUFFER_BYTES = 1 << 20
_HEAD_END = b"\r\n\r\n"
_SPACE = b'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_PLACE = b"<Bucket>b</Bucket><Key>k</Key>"
_STARTED = (
    b"<InitiateMultipartUploadResult "
    + _SPACE
    + b">"
    + _PLACE
    + b"<UploadId>1</UploadId></InitiateMultipartUploadResult>"
)
_COMPLETE = (
    b"<CompleteMultipartUploadResult "
    + _SPACE
    + b">"
    + _PLACE
    + b'<ETag>"e"</ETag>%s</CompleteMultipartUploadResult>'
)
_UPLOADS = (
    b"<ListMultipartUploadsResult "
    + _SPACE
    + b"><Bucket>%s</Bucket><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
)

_counted = 0
_parts: dict[bytes, dict[int, bytes]] = {}  # by path: the SHA-256 of each part, where one was told
_lock = threading.Lock()


def _answer(status: bytes, body: bytes = b"", checksum: bytes = b"") -> bytes:
    told = b"x-amz-checksum-sha256: %s\r\n" % checksum if checksum else b""
    return b'HTTP/1.1 %s\r\nx-amz-request-id: 1\r\nETag: "e"\r\n%sContent-Length: %d\r\n\r\n%s' % (
        status,
        told,
        len(body),
        body,
    )


def _value(head: bytes, name: bytes) -> bytes:
    """Of a header; empty if there is none."""
    place = head.lower().find(b"\r\n%s:" % name)
    return head[place + len(name) + 3 :].partition(b"\r\n")[0].strip() if place >= 0 else b""


def _composite(path: bytes) -> bytes:
    """The checksum of an object in parts, as S3 tells it: of the parts' checksums, and how many
    there are.
    """
    with _lock:
        parts = _parts.pop(path, {})
    digest = base64.b64encode(
        hashlib.sha256(b"".join(parts[number] for number in sorted(parts))).digest()
    )
    return b"<ChecksumSHA256>%s-%d</ChecksumSHA256>" % (digest, len(parts)) if parts else b""


def _reply(method: bytes, target: bytes, checksum: bytes) -> bytes:
    if method == b"GET" and target == b"/counted":
        return _answer(b"200 OK", b"%d" % _counted)
    if method == b"HEAD" and target.count(b"/") > 1 and not target.endswith(b"/"):
        return _answer(b"404 Not Found")
    path, _, query = target.partition(b"?")
    if method == b"POST":
        return _answer(
            b"200 OK", _COMPLETE % _composite(path) if b"uploadId=" in query else _STARTED
        )
    if method == b"PUT":
        asked = urllib.parse.parse_qs(query.decode())
        if checksum and "partNumber" in asked:
            with _lock:
                _parts.setdefault(path, {})[int(asked["partNumber"][0])] = base64.b64decode(
                    checksum
                )
        return _answer(b"200 OK", checksum=checksum)
    return _answer(
        b"200 OK", _UPLOADS % path.lstrip(b"/").partition(b"/")[0] if method == b"GET" else b""
    )


def _serve(connection: socket.socket) -> None:
    global _counted  # noqa: PLW0603 - one number for the process
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    data = b""
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while (end := data.find(_HEAD_END)) < 0:
                count = connection.recv_into(buffer)
                if not count:
                    return
                data += view[:count]
            head, data = data[:end], data[end + 4 :]
            if b"100-continue" in head.lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(_value(head, b"content-length") or 0)
            left = length - len(data)
            data = data[length:] if left <= 0 else b""
            while left > 0:
                count = connection.recv_into(buffer, min(left, _BUFFER_BYTES))
                if not count:
                    return
                left -= count
            method, target = head.split(b" ", 2)[:2]
            if method == b"PUT":
                with _lock:
                    _counted += length
            connection.sendall(_reply(method, target, _value(head, b"x-amz-checksum-sha256")))


def _main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    sys.stdout.write(
        json.dumps({"endpoint_url": f"http://127.0.0.1:{listener.getsockname()[1]}"}) + "\n"
    )
    sys.stdout.flush()
    while True:
        threading.Thread(target=_serve, args=(listener.accept()[0],), daemon=True).start()


@dataclass(frozen=True, slots=True)
class DiscardServer:
    """A running server."""

    endpoint_url: str

    def counted_bytes(self) -> int:
        """Of objects and parts, so far; with what a protocol adds to them."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.endpoint_url}/counted", timeout=10) as answer:
            return int(answer.read())


@contextlib.contextmanager
def discard_server() -> Iterator[DiscardServer]:
    """A server in a process of its own, for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.discard_server"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield DiscardServer(json.loads(process.stdout.readline())["endpoint_url"])
        finally:
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discard_server")
    parser.add_argument("--port", type=int, default=0)
    _main(parser.parse_args().port)
