"""Show a sync's progress on stderr: a bar on a terminal, else plain lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from journaltrack.cli import output
from journaltrack.util.text import duration

if TYPE_CHECKING:
    from rich.progress import TaskID
    from typing_extensions import Self

    from journaltrack.replay.pass_report import Progress

EVERY_S: Final = 5.0
"""Seconds between plain lines, and before the first: short syncs print only their summary."""
BYTES: Final = "bytes"
"""The unit that is shown as kB, MB, ..."""
_LABEL_CHARS_MIN: Final = 12
_BESIDE_CHARS: Final = 55
"""Columns that the amounts, the speed and the time left take beside the bar."""
_TELLING: Final = 10
"""Ours: entries, or bytes, from which the speed tells how long it takes."""
_BAR_EVERY_S: Final = 0.05
"""Seconds between drawings: drawing a bar costs more than copying what it shows."""


# The display that the views of several threads share.
_shared: Final[list[Any]] = []


def _display(*, transient: bool) -> Any:  # noqa: ANN401 - rich's, which is imported for a terminal
    from rich import progress  # noqa: PLC0415 - only for a terminal

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[amount]}", markup=False),
        progress.TimeRemainingColumn(),
        console=output.terminal(err=True),
        transient=transient,
    )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let views of several threads share a display during the block: a bar for each."""
    if not output.on_terminal(err=True):
        yield
        return
    with _display(transient=True) as display:
        _shared.append(display)
        try:
            yield
        finally:
            _shared.remove(display)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Print during the block, with the shared display out of the way."""
    for display in _shared:
        display.stop()
    try:
        yield
    finally:
        for display in _shared:
            display.start()


class ProgressView:
    """Show the progress of one pass; call it with each ``Progress``.

    Args:
        label: What is synced; escaped here.
        unit: What is counted; ``BYTES`` are shown in larger units.
        monotonic: Clock in seconds.
    """

    def __init__(
        self, label: str, *, unit: str = "entries", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = output.clean(label)
        self._unit = unit
        self._monotonic = monotonic
        self._started = self._told = monotonic()
        # Settled before this pass's first request: not part of its speed.
        self._before: int | None = None
        self._bar: Any = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Start the bar, on a terminal."""
        if _shared:
            self._bar = _shared[-1]
        elif output.on_terminal(err=True):
            self._bar = _display(transient=False)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar in _shared:
            if self._task is not None:
                self._bar.remove_task(self._task)
        elif self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        now = self._monotonic()
        if self._before is None:
            self._before = progress.done
        total = max(progress.total, progress.done)
        if self._bar is not None:
            if now - self._told < _BAR_EVERY_S and 0 < progress.done < total:
                return
            self._told = now
        rate = (progress.done - self._before) / max(now - self._started, 1e-3)
        if self._bar is not None:
            amount = f"{progress.done}/{total} {self._unit} {rate:.0f}/s"
            if self._unit == BYTES:
                amount = f"{output.size(progress.done)}/{output.size(total)} {output.size(rate)}/s"
            if self._task is None:
                label = output.end_of(
                    self._label, max(_LABEL_CHARS_MIN, output.line_width(err=True) - _BESIDE_CHARS)
                )
                self._task = self._bar.add_task(label, total=total, amount=amount)
            self._bar.update(self._task, completed=progress.done, total=total, amount=amount)
        elif now - self._told >= EVERY_S:
            self._told = now
            with output.holding(None):
                # One request tells nothing of the speed.
                speed = rate if progress.done - self._before >= _TELLING else 0
                output.say(line(self._label, progress.done, total, speed, self._unit), err=True)


def line(label: str, settled: int, total: int, rate: float, unit: str = "entries") -> str:
    """Return progress as one line: how much, how fast, how long still; 0/s: not known yet."""
    left = f", about {duration((total - settled) / rate)} left" if rate > 0 else ""
    how_much = f"{settled} of {total} {unit}"
    how_fast = f"{rate:.0f}"
    if unit == BYTES:
        how_much, how_fast = f"{output.size(settled)} of {output.size(total)}", output.size(rate)
    told = f", {how_fast}/s{left}" if rate > 0 else ""
    return f"{label}: {how_much} ({100 * settled // max(total, 1)} %){told}"
