"""The cheapest endpoint that boto3 takes for SageMaker: constant answers over HTTP/1.1 with
keep-alive.

``python -m benchmarks.static_server --latency-ms 30`` prints one JSON line with its address and
serves until SIGTERM. ``GET /requests`` tells how many BatchPutMetrics requests were answered, so
that a benchmark can check what it counted. It keeps nothing, checks nothing, and takes about 0.05
ms of CPU a request: it must not be what limits a client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measure import ROOT, environment

_ARN = "arn:aws:sagemaker:us-east-1:123456789012:experiment-trial-component/benchmark"
_HEAD_END = b"\r\n\r\n"


def _answer(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = (
        f"HTTP/1.1 {status}".encode(),
        b"content-type: application/x-amz-json-1.1",
        b"x-amzn-requestid: 00000000-0000-0000-0000-000000000000",
        b"content-length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join(lines) + _HEAD_END + body


_METRICS = _answer("200 OK", b"{}")
_COMPONENT = _answer("200 OK", json.dumps({"TrialComponentArn": _ARN}).encode())
_MISSING = _answer(
    "400 Bad Request", b'{"message":"not here"}', b"x-amzn-errortype: ResourceNotFound"
)


class _Connection(asyncio.Protocol):
    """One client's connection; requests are answered in their order."""

    requests = 0
    latency_s = 0.0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            head = self._buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].partition(b"\r\n")[0]) if place >= 0 else 0
            size = end + 4 + length
            if len(self._buffer) < size:
                return
            self._buffer = self._buffer[size:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        if head.startswith(b"put /batchputmetrics"):
            _Connection.requests += 1
            answer = _METRICS
        elif head.startswith(b"get /requests"):
            answer = _answer("200 OK", b"%d" % _Connection.requests)
        else:
            answer = _MISSING if b"sagemaker.describe" in head else _COMPONENT
        if self.latency_s:
            asyncio.get_running_loop().call_later(self.latency_s, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


async def _serve(latency_s: float, port: int) -> None:
    loop = asyncio.get_running_loop()
    _Connection.latency_s = latency_s
    server = await loop.create_server(_Connection, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sys.stdout.write(json.dumps({"endpoint_url": f"http://127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    await stopping.wait()
    server.close()


@dataclass(frozen=True, slots=True)
class StaticServer:
    """A running server."""

    endpoint_url: str
    pid: int

    def requests(self) -> int:
        """BatchPutMetrics requests answered so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.endpoint_url}/requests", timeout=10) as answer:
            return int(answer.read())


@contextlib.contextmanager
def static_server(latency_ms: float = 0.0, port: int = 0) -> Iterator[StaticServer]:
    """A server in a process of its own, for as long as the block lasts."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.static_server",
        "--latency-ms",
        str(latency_ms),
        "--port",
        str(port),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield StaticServer(json.loads(process.stdout.readline())["endpoint_url"], process.pid)
        finally:
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static_server")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(_serve(options.latency_ms / 1000, options.port))
