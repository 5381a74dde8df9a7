"""A small HTTP/1.1 server: one thread to a connection, keep-alive, prompt to stop.

What it is: sockets and threads around one function from request to reply.
It must not know: what a request means.
Invariant: after `stop` no socket is open and nothing more is handled; `start` listens on the same
port again, so that an outage can be played with one endpoint.

Not `http.server`: its header parsing costs several times what the simulated services need, and its
shutdown polls.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable

from tests.simulator.wire import HttpReply, HttpRequest, encode_reply, read_request

Handler = Callable[[HttpRequest], HttpReply | None]

_BACKLOG = 128
_JOIN_S = 5.0
_BUFFER_BYTES = 1 << 16


class Server:
    """Serves `handler`; a reply of None closes the connection without an answer."""

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self._handler, self._port = handler, port
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port, known from the first start on."""
        return self._port

    def start(self) -> None:
        """Listen on the loopback interface."""
        listener = socket.create_server(("127.0.0.1", self._port), backlog=_BACKLOG)
        self._port = listener.getsockname()[1]
        self._listener = listener
        thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._threads.add(thread)
        thread.start()

    def stop(self) -> None:
        """Close everything; requests under way get no answer."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, threads = list(self._connections), list(self._threads)
        if listener is None:
            return
        # Closing a listening socket doesn't wake a thread that waits in accept(); a visitor does.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
            pass
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)
        listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                connection, _ = listener.accept()
                with self._lock:
                    if self._listener is not listener:
                        connection.close()
                        return
                    thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                    self._connections.add(connection)
                    self._threads.add(thread)
                    thread.start()  # before `stop` sees it: it joins all
        finally:
            self._forget_thread()

    def _serve(self, connection: socket.socket) -> None:
        try:
            # A client that goes away in the middle is none of the simulator's business.
            with contextlib.suppress(OSError), connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            self._forget_thread()

    def _converse(self, connection: socket.socket) -> None:
        with io.BufferedReader(socket.SocketIO(connection, "r"), _BUFFER_BYTES) as rfile:
            while request := read_request(rfile, connection.sendall):
                reply = self._handler(request)
                if reply is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(encode_reply(reply))

    def _forget_thread(self) -> None:
        with self._lock:
            self._threads.discard(threading.current_thread())
