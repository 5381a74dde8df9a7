"""Report a watcher's state: a health file (JSON), and a file in Prometheus's text format.

Monitors and ``journaltrack status`` read the health file. Both files are written whole and renamed
into place. The watcher renews the health file's ``at`` every ``watcher.TELL_EVERY_S`` while it
lives: an older time means that it is dead. Neither file holds parameters, metrics or credentials.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack._version import __version__
from journaltrack.util import paths, process

if TYPE_CHECKING:
    from journaltrack.watch.journal import WatchedJournal
    from journaltrack.watch.watcher import Watcher

logger = logging.getLogger(__name__)

FORMAT: Final = 1
STALE_S: Final = 60.0
"""A health file that is older belongs to a dead watcher, or comes from a machine that is gone."""
_FILE_BYTES_MAX: Final = 64 * 1024 * 1024


def default_folder() -> Path:
    """Return the default folder of health files: ``watchers`` in ``paths.home()``.

    It holds one file per process.
    """
    return paths.home() / "watchers"


class Health:
    """Write a watcher's state.

    Args:
        health_file: A health file in addition to this process's own in ``default_folder``, which
            ``status`` reads. None: only that one.
        metrics_file: File for node_exporter's textfile collector (Prometheus). None: no file.
        clock_ns: Nanoseconds since the epoch.
        clock: Monotonic seconds, the watcher's.
    """

    def __init__(
        self,
        health_file: Path | None = None,
        metrics_file: Path | None = None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = default_folder() / f"{process.host()}-{os.getpid()}.json"
        self.health_file = health_file or self._own
        self.metrics_file = metrics_file
        self._clock_ns = clock_ns
        self._clock = clock
        self._started_ns = clock_ns()
        self._complained: set[Path] = set()

    def __call__(self, watcher: Watcher) -> None:
        """Write the state now. A file that can't be written is logged once, and stops nothing."""
        state = self.state_of(watcher)
        for path in {self.health_file, self._own}:
            self._write(path, json.dumps(state, indent=1))
        if self.metrics_file is not None:
            self._write(self.metrics_file, prometheus(state))

    def close(self) -> None:
        """Remove this process's own health file. A named one stays, with the state ``stopped``."""
        with contextlib.suppress(OSError):
            self._own.unlink()
        if self.health_file != self._own and (told := _read(self.health_file)) is not None:
            state = {**told, "state": "stopped", "at": self._clock_ns() / 1e9}
            self._write(self.health_file, json.dumps(state, indent=1))

    def state_of(self, watcher: Watcher) -> dict[str, Any]:
        """Return the state for JSON. Times are seconds since the epoch, also ``next_attempt``."""
        now_ns, now = self._clock_ns(), self._clock()

        def moment(at: float | None) -> float | None:
            """Convert monotonic seconds to seconds since the epoch."""
            return None if at is None else round(now_ns / 1e9 + at - now, 3)

        gate = watcher.gate
        error = gate.error
        next_probe = moment(gate.probe_at)
        journals = [self._journal(each, moment, next_probe) for each in watcher.journals.values()]
        troubled = any(j["state"] == "waiting" or j["reason"] for j in journals)
        return {
            "format": FORMAT,
            "state": "down" if error is not None else "waiting" if troubled else "ok",
            "at": round(now_ns / 1e9, 3),
            "started_at": round(self._started_ns / 1e9, 3),
            "version": __version__,
            "host": process.host(),
            "pid": os.getpid(),
            "endpoint": {
                "up": gate.up,
                "since": moment(gate.since),
                "next_probe": next_probe,
                "error": error
                and {"code": error.code, "message": error.message, "hint": error.hint},
            },
            "journals": journals,
        }

    @staticmethod
    def _journal(
        journal: WatchedJournal,
        moment: Callable[[float | None], float | None],
        next_probe: float | None,
    ) -> dict[str, Any]:
        times = [t for t in (journal.due_at, journal.retry_at) if t is not None]
        totals = journal.totals
        success_ns, rate_per_s = journal.last_success_at_ns, journal.rate_per_s
        return {
            "journal": str(journal.path),
            "state": journal.state,
            "reason": journal.reason,
            "pending": journal.pending,
            "next_attempt": max(next_probe or 0, moment(min(times)) or 0) if times else None,
            "last_success": None if success_ns is None else round(success_ns / 1e9, 3),
            "rate_per_s": None if rate_per_s is None else round(rate_per_s, 1),
            "last_error": journal.error_text,
            "passes": totals.passes,
            "requests": totals.requests,
            "delivered": totals.delivered,
            "quarantined": totals.quarantined,
            "in_doubt": totals.in_doubt,
        }

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with paths.whole(path, durable=False) as partial:
                with partial.open("x", encoding="utf-8") as file:
                    file.write(text)
                # A monitor runs as another user.
                partial.chmod(0o644)
        except OSError as error:
            if path not in self._complained:
                self._complained.add(path)
                logger.warning("%s can't be written: %s", path, error)


def living(
    named: Iterable[Path] = (), *, clock_ns: Callable[[], int] = time.time_ns
) -> Iterator[Mapping[str, Any]]:
    """Yield the states of this user's watchers that live, and of others by their health files.

    Args:
        named: Further health files.
        clock_ns: Nanoseconds since the epoch.
    """
    files = [*named]
    with contextlib.suppress(OSError):
        files += sorted(default_folder().glob("*.json"))
    for file in files:
        state = _read(file)
        if state is None or state.get("state") == "stopped":
            continue
        at = state.get("at")
        if isinstance(at, (int, float)) and abs(clock_ns() / 1e9 - at) < STALE_S:
            yield state


def _read(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > _FILE_BYTES_MAX:
            return None
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return None
    return state if isinstance(state.get("journals"), list) else None


_METRICS: Final = (
    ("pending", "gauge", "pending_entries", "Entries that wait for delivery."),
    ("delivered", "counter", "delivered_entries_total", "Entries delivered since start."),
    ("quarantined", "counter", "quarantined_entries_total", "Entries quarantined since start."),
    ("in_doubt", "counter", "in_doubt_entries_total", "Entries put in doubt since start."),
    ("requests", "counter", "requests_total", "Requests made since start."),
    ("passes", "counter", "passes_total", "Passes made since start."),
    ("last_success", "gauge", "last_success_timestamp_seconds", "Time of the last delivery."),
    ("next_attempt", "gauge", "next_attempt_timestamp_seconds", "Time of the next attempt."),
)
"""Key in the state, type, name without the prefix ``journaltrack_``, and help text."""


def prometheus(state: Mapping[str, Any]) -> str:
    """Return the state in Prometheus's text exposition format, version 0.0.4.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/.
    """
    lines = [
        "# HELP journaltrack_endpoint_up Whether the endpoint answers and takes the credentials.",
        "# TYPE journaltrack_endpoint_up gauge",
        f"journaltrack_endpoint_up {int(state['endpoint']['up'])}",
        "# HELP journaltrack_watcher_timestamp_seconds When the watcher wrote this.",
        "# TYPE journaltrack_watcher_timestamp_seconds gauge",
        f"journaltrack_watcher_timestamp_seconds {state['at']}",
    ]
    for key, kind, short_name, text in _METRICS:
        name = f"journaltrack_{short_name}"
        samples = [(j["journal"], j[key]) for j in state["journals"] if j[key] is not None]
        if samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [
                f'{name}{{journal="{_label(journal)}"}} {value}' for journal, value in samples
            ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return (
        text.encode(errors="replace")
        .decode()
        .replace("\\", r"\\")
        .replace('"', r"\"")
        .replace("\n", r"\n")
    )
