"""Implement ``journaltrack status --watch``: show the status repeatedly.

It prints a table on a terminal, lines elsewhere, and JSON lines for monitors.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.errors import JournaltrackError
from journaltrack.reports.status import JournalStatus, status
from journaltrack.util.text import duration
from journaltrack.watch import health

if TYPE_CHECKING:
    from rich.console import Group

_COLUMNS: Final = ("journal", "pending", "per s", "last success", "next attempt", "problems")
_RIGHT: Final = (False, True, True, False, False, False)
_JOURNAL_CHARS_MIN: Final = 12
_ERROR_CHARS_MAX: Final = 300
_WINDOW: Final = 10
"""Looks over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class Row:
    """Describe one journal at one look.

    Attributes:
        journal: Its folder.
        status: None if it can't be read; ``error`` says why.
        rate_per_s: Entries settled per second over the last looks; None at the first.
        watcher: What a living watcher reports of it, see ``health``; None if none watches it.
        endpoint: What that watcher reports of the endpoint.
        error: What is wrong with the journal, with a hint. Problems of the endpoint are not here.
    """

    journal: str
    status: JournalStatus | None
    rate_per_s: float | None
    watcher: Mapping[str, Any] | None
    endpoint: Mapping[str, Any] | None
    error: Mapping[str, Any] | None

    @property
    def waits(self) -> bool:
        """Return whether anything of it waits for delivery."""
        return self.status is not None and bool(self.status.pending or self.status.in_flight)

    @property
    def in_trouble(self) -> bool:
        """Return whether somebody should look at it."""
        problems = self.status is None or self.status.quarantined or self.status.in_doubt
        return self.error is not None or bool(problems)

    @property
    def urgency(self) -> tuple[bool, bool, bool]:
        """Sort by urgency: undeliverable first, then problems, then waiting ones."""
        return (self.error is None, not self.in_trouble, not self.waits)

    @property
    def style(self) -> str:
        """Return the colour of its line."""
        return "red" if self.in_trouble else "yellow" if self.waits else ""

    @property
    def next_attempt(self) -> float | None:
        """Return seconds since the epoch; None if nothing waits or nobody watches."""
        if self.watcher is None or self.status is None or not self.status.pending:
            return None
        at = self.watcher.get("next_attempt") or (self.endpoint or {}).get("next_probe")
        return float(at) if isinstance(at, (int, float)) else None


class _Rates:
    """Measure entries settled per second, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def add(self, found: JournalStatus, now: float) -> float | None:
        """Add a look at ``now`` (seconds); return the rate, or None at the first look."""
        settled = found.last_seq - found.pending - found.in_flight
        seen = self._seen.setdefault(found.path, [])
        seen.append((now, settled))
        del seen[:-_WINDOW]
        (first, before), (last, after) = seen[0], seen[-1]
        return max(0, after - before) / (last - first) if last > first else None


def show(
    journals: Sequence[str | None],
    *,
    health_files: Sequence[Path],
    interval_s: float,
    count: int | None,
    as_json: bool,
) -> ExitCode:
    """Show the journals until Ctrl-C, or ``count`` times."""
    rates, never, looks = _Rates(), threading.Event(), 0
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        live: Any = None
        while True:
            rows = look(journals, rates, health_files)
            if as_json:
                output.print_json_line(to_json(rows))
            elif output.on_terminal():
                if live is None:
                    from rich.live import Live  # noqa: PLC0415 - only for a terminal

                    live = stack.enter_context(
                        Live(console=output.terminal(), auto_refresh=False, screen=False)
                    )
                live.update(_drawn(rows, live.console.width), refresh=True)
            else:
                for text, _ in _lines(rows):
                    output.say(text)
            looks += 1
            if looks == count:
                break
            never.wait(interval_s)
    return ExitCode.OK


def look(
    journals: Sequence[str | None], rates: _Rates, health_files: Sequence[Path] = ()
) -> list[Row]:
    """Return every journal as it is now, those in trouble first."""
    watched: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for state in health.living(health_files):
        for told in state["journals"]:
            watched[os.path.realpath(str(told.get("journal")))] = (
                told,
                state.get("endpoint") or {},
            )
    rows = []
    for journal in journals:
        path = common.path_of(journal)
        told, endpoint = watched.get(os.path.realpath(path), (None, None))
        try:
            found = status(journal)
        except JournaltrackError as error:
            rows.append(
                Row(
                    path,
                    None,
                    None,
                    told,
                    endpoint,
                    {"code": type(error).__name__, "message": error.message, "hint": error.hint},
                )
            )
            continue
        rows.append(
            Row(
                path,
                found,
                rates.add(found, time.monotonic()),
                told,
                endpoint,
                _error_of(found, told),
            )
        )
    return sorted(rows, key=lambda row: row.urgency)


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return one look as JSON; times are seconds since the epoch."""
    return {
        "at": round(time.time(), 3),
        "totals": {
            **_totals(rows),
            "journals": len(rows),
            "in_trouble": sum(row.in_trouble for row in rows),
        },
        "endpoints": _endpoints(rows),
        "journals": [
            {
                "journal": row.journal,
                "status": None if row.status is None else row.status.to_json(),
                "rate_per_s": None if row.rate_per_s is None else round(row.rate_per_s, 1),
                "next_attempt": row.next_attempt,
                "watched": row.watcher is not None,
                "state": None if row.watcher is None else row.watcher.get("state"),
                "endpoint_up": None if row.endpoint is None else row.endpoint.get("up"),
                "last_error": row.error if row.error is not None else _outage(row),
            }
            for row in rows
        ],
    }


def _outage(row: Row) -> Mapping[str, Any] | None:
    """Return why the endpoint does not take what is pending."""
    error = (row.endpoint or {}).get("error")
    return error if isinstance(error, dict) and row.waits else None


def _error_of(found: JournalStatus, told: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the journal's own problem.

    That is what keeps it waiting now, else its last failed request while something is pending.
    """
    waits = bool(found.pending or found.in_flight)
    error = (told or {}).get("last_error")
    if isinstance(error, dict) and waits:
        return error
    if told is not None and told.get("reason"):
        return {"code": "Arriving", "message": str(told["reason"]), "hint": ""}
    last = found.last_error
    return (
        {"code": last.code, "message": last.text, "hint": ""}
        if last is not None and waits
        else None
    )


def _totals(rows: Sequence[Row]) -> dict[str, int]:
    known = [row.status for row in rows if row.status is not None]
    return {
        "pending": sum(each.pending + each.in_flight for each in known),
        "quarantined": sum(each.quarantined for each in known),
        "in_doubt": sum(each.in_doubt for each in known),
    }


def _endpoints(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Return what the watchers of these journals report of their endpoints, each once."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        if row.endpoint and row.endpoint not in found:
            found.append(row.endpoint)
    return found


def _lines(rows: Sequence[Row], width: int | None = None) -> list[tuple[str, str]]:
    """Return the lines of a look, escaped, each with its style; one line per journal."""
    totals = _totals(rows)
    troubled = sum(row.in_trouble for row in rows)
    counts = [f"{totals['pending']} pending"]
    counts += [
        f"{totals[name]} {name.replace('_', ' ')}"
        for name in ("quarantined", "in_doubt")
        if totals[name]
    ]
    head = (
        f"{output.plural(len(rows), 'journal')}, {', '.join(counts)}; {troubled or 'none'} in "
        "trouble"
    )
    lines = [(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}  {head}", "")]
    for endpoint in _endpoints(rows):
        lines += _of_endpoint(endpoint)
    cells = [[output.cell(value) for value in row] for row in [_COLUMNS, *map(_cells, rows)]]
    if width is not None:
        others = sum(2 + max(map(len, column)) for column in list(zip(*cells, strict=True))[1:])
        room = max(_JOURNAL_CHARS_MIN, width - others)
        cells = [[output.end_of(row[0], room), *row[1:]] for row in cells]
    styles = ["", *(row.style for row in rows)]
    lines += list(zip(tables.aligned(cells, _RIGHT), styles, strict=True))
    return [*lines, *_errors(rows)]


def _of_endpoint(endpoint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe the endpoint; if it is down, say why and when it is asked next."""
    error, at = endpoint.get("error"), endpoint.get("next_probe")
    if endpoint.get("up"):
        return [("endpoint: up", "green")]
    error = error if isinstance(error, dict) else {}
    lines = [(f"endpoint: down, next probe {_when(at)}", "red")]
    lines += [(f"  {output.clean(_short(error))}", "red")] if error else []
    return lines + ([(f"  hint: {output.clean(error['hint'])}", "")] if error.get("hint") else [])


def _when(at: object) -> str:
    if not isinstance(at, (int, float)):
        return "soon"
    return "now" if at <= time.time() else f"in {duration(at - time.time())}"


def _cells(row: Row) -> tuple[object, ...]:
    found = row.status
    if found is None:
        return (row.journal, None, None, None, None, "can't be read")
    at = row.next_attempt
    state = row.watcher.get("state") if row.watcher is not None else "not watched"
    last = found.last_success
    ago = None if last is None else f"{duration(max(0.0, time.time() - last.at_ns / 1e9))} ago"
    counts = ((found.quarantined, "quarantined"), (found.in_doubt, "in doubt"))
    return (
        row.journal,
        found.pending + found.in_flight,
        None if row.rate_per_s is None else round(row.rate_per_s, 1),
        ago,
        state if at is None else _when(at),
        ", ".join(f"{n} {what}" for n, what in counts if n),
    )


def _errors(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return each problem of the journals once, with how many have it and what to do."""
    by_text: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.error is not None:
            by_text.setdefault((_short(row.error), str(row.error.get("hint") or "")), []).append(
                row.journal
            )
    lines = []
    for (text, hint), journals in by_text.items():
        where = journals[0] if len(journals) == 1 else output.plural(len(journals), "journal")
        lines.append((output.clean(f"{where}: {text}"), "red"))
        if hint:
            lines.append((output.clean(f"  hint: {hint}"), ""))
    return lines


def _short(error: Mapping[str, Any]) -> str:
    return output.cut(str(error.get("message") or error.get("code") or ""), _ERROR_CHARS_MAX)


def _drawn(rows: Sequence[Row], width: int) -> Group:
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return Group(
        *(
            Text(text, style, no_wrap=not text.lstrip().startswith("hint: "), overflow="ellipsis")
            for text, style in _lines(rows, width)
        )
    )
