"""Answer the page's requests over HTTP, and tell it when journals change.

``server`` decides who may ask, and imports this module at the first question: the page itself needs
nothing of it. Endpoints are plain functions: the server runs each in a thread. ``views`` knows what
is answered.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from journaltrack.errors import (
    InvalidInputError,
    JournalNotFoundError,
    JournaltrackError,
    NothingMatchesError,
)
from journaltrack.readmodel.run import AXES
from journaltrack.ui import views

if TYPE_CHECKING:
    from starlette.requests import Request

    from journaltrack.readmodel.artifacts import Artifact
    from journaltrack.readmodel.model import ReadModel

_SANDBOX: Final = {"Content-Security-Policy": "default-src 'none'; sandbox"}
_POLL_S: Final = 0.2
"""How often journals are looked at while a page is open."""
_BUSY_SHARE: Final = 4
"""A look that takes long is followed by a pause this many times as long."""
_KEEP_ALIVE_S: Final = 15.0


class Follower:
    """Keep the read model up to date, and count its changes. Any thread may use it."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.turn = 0
        self._lock = threading.Lock()
        self._began_s = float("-inf")

    def look(self) -> int:
        """Read what is new, unless another thread began to after this call. Return the turn."""
        asked_s = time.monotonic()
        with self._lock:
            if self._began_s < asked_s:
                self._began_s = time.monotonic()
                self.turn += self.model.refresh()
            return self.turn

    async def changes(self, is_over: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield server-sent events: one at each change, and comments that keep the line open."""
        yield "retry: 1000\n\n"
        # The first event says where it stands: an answer may be older than this line.
        seen, told_s = -1, time.monotonic()
        while not is_over():
            began_s = time.monotonic()
            turn = await run_in_threadpool(self._looked)
            now_s = time.monotonic()
            if turn != seen:
                seen, told_s = turn, now_s
                yield f"event: changed\ndata: {turn}\n\n"
            elif now_s - told_s > _KEEP_ALIVE_S:
                told_s = now_s
                yield ": still here\n\n"
            await asyncio.sleep(max(_POLL_S, _BUSY_SHARE * (now_s - began_s)))

    def _looked(self) -> int:
        try:
            return self.look()
        except (JournaltrackError, OSError):
            # Requests tell it.
            return self.turn


def _error(status: int, message: str, hint: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "hint": hint}}, status)


class Api:
    """The page's requests.

    Args:
        follower: Of the journals.
        is_over: Returns whether the server ends.
    """

    def __init__(
        self,
        follower: Follower,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._follower = follower
        self._is_over = is_over

    def routes(self) -> list[Route]:
        """Return the routes below ``/api``."""
        answers: dict[str, Callable[[Request], Response]] = {
            "runs": self.runs,
            "run": self.run,
            "compare": self.compare,
            "series": self.series,
            "delivery": self.delivery,
            "points.csv": self.points,
            "artifact": self.artifact,
            "preview": self.preview,
        }
        told = [Route(f"/{name}", self._told(answer)) for name, answer in answers.items()]
        return [*told, Route("/events", self.events)]

    def _told(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Answer from what is recorded now. Turn what goes wrong into message and hint."""

        def told(request: Request) -> Response:
            """Answer, and say how many changes the answer has."""
            try:
                turn = self._follower.look()
                response = answer(request)
            except (NothingMatchesError, JournalNotFoundError) as error:
                return _error(404, error.message, error.hint or "")
            except InvalidInputError as error:
                return _error(400, error.message, error.hint or "")
            except JournaltrackError as error:
                return _error(503, error.message, error.hint or "")
            except (OSError, ValueError) as error:
                return _error(503, f"It can't be read: {error}", "")
            response.headers["X-Journaltrack-Turn"] = str(turn)
            return response

        return told

    def runs(self, request: Request) -> Response:
        """Answer with the table of runs."""
        query = request.query_params
        return _json(
            views.listed(
                self._follower.model,
                where=query.get("where", ""),
                sort=query.get("sort", ""),
                columns=query.getlist("col"),
                limit=_whole(query.get("limit"), 200),
            )
        )

    def run(self, request: Request) -> Response:
        """Answer with one run."""
        return _json(views.run(self._follower.model, request.query_params.get("run", "")))

    def compare(self, request: Request) -> Response:
        """Answer with what differs between runs."""
        return _json(views.compare(self._follower.model, request.query_params.getlist("run")))

    def series(self, request: Request) -> Response:
        """Answer with curves."""
        query = request.query_params
        axis = query.get("x", "step")
        if axis not in AXES:
            raise InvalidInputError(f"x is {axis!r}; it must be one of {', '.join(AXES)}")
        found = views.series(
            self._follower.model,
            query.get("metric", ""),
            query.getlist("run"),
            x=axis,
            lo=_number(query.get("from")),
            hi=_number(query.get("to")),
            columns=_whole(query.get("columns"), 600),
        )
        return _json(found)

    def delivery(self, _request: Request) -> Response:
        """Answer with where each journal stands."""
        return _json(views.delivery(self._follower.model))

    def points(self, request: Request) -> Response:
        """Send all points of a metric, to be saved."""
        query = request.query_params
        metric = query.get("metric", "")
        lines = views.points_csv(self._follower.model, metric, query.getlist("run"))
        return StreamingResponse(lines, headers=_attached(f"{metric}.csv"), media_type="text/csv")

    def artifact(self, request: Request) -> Response:
        """Send a logged file, to be saved."""
        found = self._artifact(request)
        # What is altered or a link is told before anything is sent, if it is small.
        chunks = found.chunks()
        first = next(chunks, b"")
        headers = {**_SANDBOX, **_attached(found.name.rpartition("/")[2])}
        file = found.file
        if file is not None:
            headers["Content-Length"] = str(file.stat().st_size)
        content = itertools.chain([first], chunks)
        return StreamingResponse(content, headers=headers, media_type="application/octet-stream")

    def preview(self, request: Request) -> Response:
        """Send what the page can show of a logged file: an image's bytes, or data."""
        shown, told = views.preview(self._artifact(request))
        if shown.kind != "image":
            return _Compact(told, headers=_SANDBOX)
        headers = {**_SANDBOX, "X-Journaltrack-Preview": shown.kind}
        return Response(shown.image, headers=headers, media_type=shown.media_type)

    def _artifact(self, request: Request) -> Artifact:
        query = request.query_params
        return views.artifact(self._follower.model, query.get("run", ""), query.get("sha256", ""))

    async def events(self, _request: Request) -> Response:
        """Send an event whenever a journal changes."""
        changes = self._follower.changes(self._is_over)
        return StreamingResponse(changes, media_type="text/event-stream")


class _Compact(JSONResponse):
    def render(self, content: Any) -> bytes:  # noqa: ANN401 - starlette's
        # Lone surrogates of a foreign text survive as escapes.
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _json(content: dict[str, Any]) -> Response:
    return _Compact(content)


def _whole(text: str | None, default: int) -> int:
    if not text:
        return default
    try:
        return max(1, min(int(text), 100_000))
    except ValueError as error:
        raise InvalidInputError(f"{text[:80]!r} is not a whole number") from error


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInputError(f"{text[:80]!r} is not a number")
    return number


def _attached(name: str) -> dict[str, str]:
    """Return the header that has the browser save a response under a name."""
    kept = "".join(each for each in name if each.isprintable() and each not in '/\\"')[:200]
    encoded = quote(kept.encode("utf-8", "replace") or b"file", safe="")
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{encoded}"}
