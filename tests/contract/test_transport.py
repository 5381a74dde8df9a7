"""What the network did, and what it means for points that can't be sent twice: in doubt only if
they may be there.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.remotes.aws.hooks import IDLE_MAX_S
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.plan.actions import MetricPoint
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import aws
from tests.contract.scripted import scripted
from tests.patience import FOREVER_S
from tests.simulator import simulator

POINTS = [MetricPoint("loss", 0.5, 1, 1_700_000_000_123_456_789)]


@contextlib.contextmanager
def listener(meet: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose every connection meets something."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with contextlib.suppress(OSError):
                        meet(connection)
                    connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(FOREVER_S)


def reset(connection: socket.socket) -> None:
    """RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_handshake(connection: socket.socket) -> None:
    connection.recv(100)
    reset(connection)


def end_in_handshake(connection: socket.socket) -> None:
    connection.recv(65_536)


def no_tls(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def silent(connection: socket.socket) -> None:
    connection.settimeout(FOREVER_S)
    with contextlib.suppress(OSError):
        while connection.recv(65_536):
            pass


def refuse_tunnel(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


def failure(remote: AwsRemote | RetryingRemote) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        remote.put_metrics("run", POINTS)
    return caught.value


# CPython's socket of a handshake that failed, which only the collector closes
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
@pytest.mark.parametrize("meet", [reset, reset_in_handshake, end_in_handshake, no_tls, silent])
def test_a_handshake_that_fails_leaves_no_doubt(meet: Callable[[socket.socket], None]):
    """Before TLS is agreed on no byte of the request has left, however the handshake fails:
    pending, and tried again.
    """
    with listener(meet) as port:
        error = failure(aws(f"https://localhost:{port}", read_timeout_s=1.0))
    # Now, and not in a later test, where nobody expects the warning.
    gc.collect()
    assert (error.kind, error.unreachable, error.maybe_applied) == (
        ErrorKind.TRANSIENT,
        True,
        False,
    )


@pytest.mark.parametrize("meet", [reset_in_handshake, end_in_handshake, silent, refuse_tunnel])
def test_a_tunnel_that_is_not_made_leaves_no_doubt(
    meet: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
):
    """A proxy that does not connect has got nothing but CONNECT."""
    with listener(meet) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        error = failure(aws("https://sagemaker.invalid", read_timeout_s=1.0))
    assert (error.kind, error.unreachable, error.maybe_applied) == (
        ErrorKind.TRANSIENT,
        True,
        False,
    )


@pytest.mark.parametrize("meet", [reset_in_handshake, end_in_handshake])
def test_a_conversation_that_breaks_leaves_doubt(meet: Callable[[socket.socket], None]):
    """Without TLS the request is on its way at once: what is reset then may have been heard."""
    with listener(meet) as port:
        error = failure(aws(f"http://localhost:{port}", read_timeout_s=1.0))
    assert (error.kind, error.maybe_applied) == (ErrorKind.TRANSIENT, True)


class Clock(Deadline):
    """A deadline that is never over, and waits at once."""

    def __init__(self) -> None:
        self.at = 0.0
        super().__init__(clock=lambda: self.at)

    def wait(self, seconds: float) -> bool:
        self.at += seconds
        return True


@pytest.mark.parametrize("hooked", [True, False], ids=["boto3", "direct"])
def test_an_idle_connection_carries_no_metrics(hooked: bool):
    """A firewall may have forgotten it without a word: a request gets a connection of its own
    once the last was idle for too long.
    """
    clock = Clock()
    with scripted() as server:
        remote = aws(server.url, hooked=hooked, deadline=clock)
        for idle_s in (0.0, 0.0, IDLE_MAX_S, IDLE_MAX_S + 1, IDLE_MAX_S + 1, 1.0):
            clock.wait(idle_s)
            remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("hooked", [True, False], ids=["boto3", "direct"])
def test_a_connection_that_waited_long_for_its_turn_carries_no_metrics(hooked: bool):
    """It was idle meanwhile."""
    clock = Clock()
    with scripted() as server:
        remote = aws(
            server.url, hooked=hooked, deadline=clock, rate_limit=RateLimit(0.1, clock=clock.now)
        )
        for _ in range(3):
            remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 1, 2]
    assert clock.at >= 2 * IDLE_MAX_S


@pytest.mark.parametrize("hooked", [True, False], ids=["boto3", "direct"])
def test_no_metric_request_begins_that_may_not_be_answered_in_time(hooked: bool):
    """With less time left than twice the slowest recent answer, points stay pending, and nothing
    was sent; other requests go.
    """
    now = [0.0]
    with simulator(latency_s=0.3) as sim:
        sim.add_component("run")
        remote = RetryingRemote(
            aws(sim.endpoint_url, hooked=hooked, deadline=Deadline(60.0, clock=lambda: now[0])),
            deadline=Deadline(),
            sleep=lambda _: None,
        )
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        now[0] = 59.5
        error = failure(remote)
        assert (error.code, error.maybe_applied, remote.attempts_of_last_call()) == (
            DEADLINE_OVER,
            False,
            1,
        )
        assert len(sim.calls("BatchPutMetrics")) == 2
        assert remote.describe("run") is not None
        now[0] = 30.0
        remote.put_metrics("run", POINTS)
