"""Serve the page on loopback, to whom it belongs alone.

Threats, and what stops them (docs/security.md): other users of this machine do not know the random
token; pages of other sites neither know it nor, by the Host check, reach us by a name of theirs; a
hostile journal's texts are shown, never run, under a policy that allows our scripts alone; its
files are read through the spool's door, which follows no link, and are sent to be saved.

Invariants: only GET. Nothing is written but the read model's cache. The page needs no network. Only
this module and ``api`` know starlette, and only this one uvicorn. The page is answered before
journals are opened, and before what reads them is imported.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from journaltrack.errors import InvalidInputError

if TYPE_CHECKING:
    import os

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from journaltrack.readmodel.model import ReadModel

STATIC: Final = Path(__file__).with_name("static")
LOOPBACK: Final = "127.0.0.1"
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guarded:
    """Add the headers of ``_HEADERS`` to each response, and answer only who knows the token.

    The page's own files hold no secret and need no token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._app if self._knows(scope) else _REFUSED
        await answer(scope, receive, with_headers)

    def _knows(self, scope: Scope) -> bool:
        if str(scope["path"]).startswith("/static/"):
            return True
        query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        bearer = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        given = [each.encode("utf-8", "surrogateescape") for each in query] + [bearer]
        return any(secrets.compare_digest(each, self._token) for each in given)


_REFUSED: Final = JSONResponse(
    {
        "error": {
            "message": "This needs the token.",
            "hint": "Open the address that `journaltrack ui` printed.",
        }
    },
    403,
)


class Questions:
    """Answer below ``/api``, from the first question on: it opens the journals.

    Args:
        journals: As for ``readmodel.model.open``.
        is_over: Returns whether the server ends.
    """

    def __init__(
        self, journals: Iterable[str | os.PathLike[str]], is_over: Callable[[], bool]
    ) -> None:
        self._journals = tuple(journals)
        self._is_over = is_over
        self._lock = threading.Lock()
        self._model: ReadModel | None = None
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        app = self._app
        if app is None:
            app = await run_in_threadpool(self._opened)
        await app(scope, receive, send)

    def _opened(self) -> ASGIApp:
        with self._lock:
            if self._app is None:
                from journaltrack.readmodel import model  # noqa: PLC0415 - see above
                from journaltrack.ui.api import Api, Follower  # noqa: PLC0415

                self._model = model.open(self._journals)
                api = Api(Follower(self._model), self._is_over)
                self._app = Router(api.routes())
            return self._app

    def close(self) -> None:
        """Close the journals. Idempotent."""
        if self._model is not None:
            self._model.close()


def application(questions: ASGIApp, token: str) -> Starlette:
    """Return the page as an ASGI application.

    Args:
        questions: What answers below ``/api``.
        token: What a request must know.
    """
    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(STATIC / "index.html")),
            Mount("/api", questions),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(Guarded, token=token),
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        ],
    )


def listening(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: 0 for a free one.

    Raises:
        InvalidInputError: The port is taken or not allowed.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        raise InvalidInputError(
            f"port {port} of {LOOPBACK} can't be used: {error}",
            hint="leave out --port to use a free one",
        ) from error


def serve(journals: Iterable[str | os.PathLike[str]], listener: socket.socket, token: str) -> None:
    """Answer until SIGINT or SIGTERM.

    Args:
        journals: As for ``readmodel.model.open``.
        listener: Where it listens.
        token: What a request must know.
    """
    server: uvicorn.Server
    questions = Questions(journals, lambda: server.should_exit)
    settings = uvicorn.Config(
        application(questions, token),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(settings)
    # uvicorn raises the signal that ended it once more, with the handler from before.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        questions.close()
