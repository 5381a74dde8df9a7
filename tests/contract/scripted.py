"""A server that keeps every byte that it is sent, and answers with the bytes that it is told.

What it is: a listener, a thread to a connection, and a script. It must not know AWS, nor HTTP
beyond where a request ends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

REQUEST_ID = "11111111-2222-4333-8444-555555555555"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    """An answer in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))
    return reply(b"", "200 OK", "Transfer-Encoding: chunked", length=-1) + body


def reply(
    body: bytes = b"{}",
    status: str = "200 OK",
    *headers: str,
    request_id: str | None = REQUEST_ID,
    length: int | None = None,
) -> bytes:
    """An answer as AWS writes it."""
    lines = [
        f"HTTP/1.1 {status}",
        *([f"x-amzn-RequestId: {request_id}"] if request_id else []),
        *headers,
    ]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("Content-Type: application/json")
    lines += [f"Content-Length: {len(body) if length is None else length}"] if length != -1 else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Scripted:
    """The server.

    Attributes:
        answers: Taken one by one; when there are none left, ``reply()``. None closes the connection
            without a word, and an answer that is shorter than it says is followed by the
            connection's end.
        requests: All that came, with the number of its connection.
    """

    listener: socket.socket
    tls: ssl.SSLContext | None = None
    answers: list[bytes | None] = field(default_factory=list)
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    closing: set[int] = field(default_factory=set)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def accept(self) -> None:
        """Serve until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                number = len(self.connections)
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    @staticmethod
    def send(connection: socket.socket, answer: bytes) -> None:
        """How an answer is written; tests write it otherwise."""
        connection.sendall(answer)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            talk = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
            with talk:
                while (request := read_request(talk)) is not None:
                    self.requests.append((number, request))
                    answer = self.answers.pop(0) if self.answers else reply()
                    if answer is not None:
                        self.send(talk, answer)
                    if answer is None or not is_whole(answer) or number in self.closing:
                        talk.shutdown(socket.SHUT_RDWR)
                        break
        self.closed.set()


def read_request(connection: socket.socket) -> bytes | None:
    """One request, head and body; None at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    while len(rest) < length:
        more = connection.recv(65_536)
        if not more:
            return None
        data, rest = data + more, rest + more
    return data


def is_whole(answer: bytes) -> bool:
    """Whether a client can tell that no more is coming."""
    head, end, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in lines:
        return body.endswith(b"0\r\n\r\n")
    length = next(
        (line.split(b":")[1].strip() for line in lines if line.startswith(b"content-length:")), b""
    )
    return (
        bool(end)
        and length.isdigit()
        and len(body) >= int(length)
        and b"connection: close" not in lines
    )


@contextlib.contextmanager
def scripted(*answers: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = Scripted(listener, tls, list(answers))
        thread = threading.Thread(target=server.accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in server.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join(300)
