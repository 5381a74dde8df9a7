"""``journaltrack status --watch``: where journals stand, again and again: a table on a terminal, lines elsewhere, JSON lines for monitors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import watcher_health
from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import JournaltrackError
from journaltrack.report_status import JournalStatus, status

if TYPE_CHECKING:
    from rich.console import Group

_COLUMNS: Final = ("journal", "pending", "per second", "last success", "next attempt", "problems")
_ERROR_CHARS_MAX: Final = 300
_WINDOW: Final = 10
"""Looks over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class Row:
    """One journal at one look.

    Attributes:
        journal: Its folder.
        status: None when it can't be read: ``error`` says why.
        rate_per_s: Entries settled per second over the last looks; None at the first.
        watcher: What a living watcher tells of it, see ``watcher_health``; None when none watches it.
        endpoint: The same of the endpoint.
        error: What went wrong last, with what to do about it.
    """

    journal: str
    status: JournalStatus | None
    rate_per_s: float | None
    watcher: Mapping[str, Any] | None
    endpoint: Mapping[str, Any] | None
    error: Mapping[str, Any] | None

    @property
    def next_attempt(self) -> float | None:
        """Seconds since the epoch; None when nothing waits, or nobody watches."""
        if self.watcher is None or self.status is None or not self.status.pending:
            return None
        at = self.watcher.get("next_attempt") or (self.endpoint or {}).get("next_probe")
        return float(at) if isinstance(at, (int, float)) else None


class _Rates:
    """Entries settled per second, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def add(self, found: JournalStatus, now: float) -> float | None:
        settled = found.last_seq - found.pending - found.in_flight
        seen = self._seen.setdefault(found.path, [])
        seen.append((now, settled))
        del seen[:-_WINDOW]
        (first, before), (last, after) = seen[0], seen[-1]
        return max(0, after - before) / (last - first) if last > first else None


def show(journals: Sequence[str | None], *, interval_s: float, count: int | None, as_json: bool) -> ExitCode:
    """Show them until Ctrl-C, or ``count`` times."""
    rates, never, looks = _Rates(), threading.Event(), 0
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        live: Any = None
        while True:
            rows = look(journals, rates)
            if as_json:
                output.print_json_line(to_json(rows))
            elif output.on_terminal():
                if live is None:
                    from rich.live import Live  # noqa: PLC0415 - only for a terminal

                    live = stack.enter_context(Live(console=output.terminal(), auto_refresh=False, screen=False))
                live.update(_drawn(rows), refresh=True)
            else:
                output.table(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), _COLUMNS, [_cells(row) for row in rows])
                for line in _errors(rows):
                    output.say(f"  {line}")
            looks += 1
            if looks == count:
                break
            never.wait(interval_s)
    return ExitCode.OK


def look(journals: Sequence[str | None], rates: _Rates) -> list[Row]:
    """Every journal as it is now."""
    watched: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for state in watcher_health.living():
        for told in state["journals"]:
            watched[str(told.get("journal"))] = (told, state.get("endpoint") or {})
    rows = []
    for journal in journals:
        path = common.path_of(journal)
        told, endpoint = watched.get(str(Path(path).resolve()), watched.get(path, (None, None)))
        try:
            found = status(journal)
        except JournaltrackError as error:
            rows.append(Row(path, None, None, told, endpoint, {"code": type(error).__name__, "message": error.message, "hint": error.hint}))
            continue
        rows.append(Row(path, found, rates.add(found, time.monotonic()), told, endpoint, _error_of(found, told, endpoint)))
    return rows


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """One look as JSON; times are seconds since the epoch."""
    return {
        "at": round(time.time(), 3),
        "journals": [
            {
                "journal": row.journal,
                "status": None if row.status is None else row.status.to_json(),
                "rate_per_s": None if row.rate_per_s is None else round(row.rate_per_s, 1),
                "next_attempt": row.next_attempt,
                "watched": row.watcher is not None,
                "state": None if row.watcher is None else row.watcher.get("state"),
                "endpoint_up": None if row.endpoint is None else row.endpoint.get("up"),
                "last_error": row.error,
            }
            for row in rows
        ],
    }


def _error_of(found: JournalStatus, told: Mapping[str, Any] | None, endpoint: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The error to show: what keeps it waiting now, else what the journal says of its last request while something is pending."""
    for error in ((endpoint or {}).get("error"), (told or {}).get("last_error")):
        if isinstance(error, dict) and (found.pending or found.in_flight):
            return error
    if told is not None and told.get("reason"):
        return {"code": "Arriving", "message": str(told["reason"]), "hint": ""}
    last = found.last_error
    if last is None or not (found.pending or found.in_flight):
        return None
    return {"code": last.code, "message": last.text, "hint": ""}


def _cells(row: Row) -> tuple[object, ...]:
    found = row.status
    if found is None:
        return (row.journal, None, None, None, None, None)
    at = row.next_attempt
    state = row.watcher.get("state") if row.watcher is not None else "not watched"
    upcoming = state if at is None else "now" if at <= time.time() else f"in {output.duration(at - time.time())}"
    problems = ", ".join(f"{n} {what}" for n, what in ((found.quarantined, "quarantined"), (found.in_doubt, "in doubt")) if n)
    return (
        row.journal,
        found.pending + found.in_flight,
        None if row.rate_per_s is None else round(row.rate_per_s, 1),
        None if found.last_success is None else output.moment(found.last_success.at_ns),
        upcoming,
        problems,
    )


def _errors(rows: Sequence[Row]) -> list[str]:
    """The errors, each once, with how many journals have it and what to do; escaped."""
    by_text: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.error is not None:
            text = output.cut(str(row.error.get("message") or row.error.get("code") or ""), _ERROR_CHARS_MAX)
            by_text.setdefault((text, str(row.error.get("hint") or "")), []).append(row.journal)
    lines = []
    for (text, hint), journals in by_text.items():
        where = journals[0] if len(journals) == 1 else output.plural(len(journals), "journal")
        lines.append(output.clean(f"{where}: {text}"))
        if hint:
            lines.append(output.clean(f"hint: {hint}"))
    return lines


def _drawn(rows: Sequence[Row]) -> Group:
    from rich import box  # noqa: PLC0415
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(_COLUMNS):
        drawn.add_column(name, justify="right" if index in {1, 2} else "left", overflow="fold")
    for row in rows:
        style = "red" if row.error is not None else "yellow" if row.status is not None and row.status.pending else ""
        drawn.add_row(*(Text(output.cell(value), style=style) for value in _cells(row)))
    return Group(drawn, *(Text(line, style="" if line.startswith("hint:") else "red") for line in _errors(rows)))
