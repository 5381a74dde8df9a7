"""An endpoint that throttles BatchPutMetrics as AWS's APIs do: a bucket of tokens, filled at a
rate, and ThrottlingException for who finds it empty.

``python -m benchmarks.throttling_server --rate 50 --then 200 --after 15`` prints one JSON line with
its address and serves until SIGTERM. The bucket holds a second's worth (EC2's holds 0.5 to 20
seconds' worth: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html). ``GET
/requests`` tells of each request when it came (in seconds from the first one on), and whether it
was taken. Other requests are answered as ``static_server`` does; it is a file of its own because
the latter must cost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.measure import ROOT, environment

_ARN = "arn:aws:sagemaker:us-east-1:123456789012:experiment-trial-component/benchmark"
_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Bucket:
    """Tokens, as many as a second brings at most; the rate changes once, so many seconds after
    the first request.
    """

    rate: float
    then: float
    after_s: float
    clock: Callable[[], float] = time.monotonic
    log: list[tuple[float, bool]] = field(default_factory=list)
    _tokens: float = 0.0
    _at: float | None = None
    _begun: float = 0.0

    def takes(self) -> bool:
        """Whether the request that comes now is served."""
        now = self.clock()
        if self._at is None:
            self._begun, self._at, self._tokens = now, now, self.rate
        rate = self.rate if now - self._begun < self.after_s else self.then
        self._tokens = min(rate, self._tokens + (now - self._at) * rate)
        self._at = now
        taken = self._tokens >= 1
        self._tokens -= taken
        self.log.append((now - self._begun, taken))
        return taken


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
_THROTTLED = _answer(
    "400 Bad Request", b'{"message":"Rate exceeded"}', b"x-amzn-errortype: ThrottlingException"
)


def _connection(bucket: Bucket, latency_s: float) -> type[asyncio.Protocol]:
    class Connection(asyncio.Protocol):
        """One client's; requests are answered in their order, since no client sends one before
        the last one's answer.
        """

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = transport
            self._buffer = b""

        def data_received(self, data: bytes) -> None:
            self._buffer += data
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            head = self._buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].partition(b"\r\n")[0]) if place >= 0 else 0
            if len(self._buffer) >= end + 4 + length:
                self._buffer = self._buffer[end + 4 + length :]
                asyncio.get_running_loop().call_later(latency_s, self._send, self._answer(head))

        def _answer(self, head: bytes) -> bytes:
            if head.startswith(b"put /batchputmetrics"):
                return _METRICS if bucket.takes() else _THROTTLED
            if head.startswith(b"get /requests"):
                return _answer("200 OK", json.dumps(bucket.log).encode())
            return _MISSING if b"sagemaker.describe" in head else _COMPONENT

        def _send(self, answer: bytes) -> None:
            if not self._transport.is_closing():
                self._transport.write(answer)  # type: ignore[attr-defined] - of a TCP connection

    return Connection


async def _serve(bucket: Bucket, latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_connection(bucket, latency_s), "127.0.0.1", 0)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sys.stdout.write(
        json.dumps({"endpoint_url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"})
        + "\n"
    )
    sys.stdout.flush()
    await stopping.wait()
    server.close()


@dataclass(frozen=True, slots=True)
class ThrottlingServer:
    """A running server."""

    endpoint_url: str

    def log(self) -> list[tuple[float, bool]]:
        """When each metric request came, and whether it was taken."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.endpoint_url}/requests", timeout=30) as answer:
            return [(at, taken) for at, taken in json.loads(answer.read())]


@contextlib.contextmanager
def throttling_server(
    rate: float, then: float, after_s: float, latency_ms: float = 30.0
) -> Iterator[ThrottlingServer]:
    """A server in a process of its own, for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.throttling_server"]
    command += [
        "--rate",
        str(rate),
        "--then",
        str(then),
        "--after",
        str(after_s),
        "--latency-ms",
        str(latency_ms),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield ThrottlingServer(json.loads(process.stdout.readline())["endpoint_url"])
        finally:
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throttling_server")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--then", type=float, required=True)
    parser.add_argument("--after", type=float, required=True)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    options = parser.parse_args()
    asyncio.run(
        _serve(Bucket(options.rate, options.then, options.after), options.latency_ms / 1000)
    )
