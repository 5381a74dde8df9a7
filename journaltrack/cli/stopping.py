"""Ctrl-C and SIGTERM during a command that sends: the first one ends it after what is in flight, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from types import FrameType

    from journaltrack.util.deadline import Deadline

_IN_FLIGHT_S: Final = 30.0  # how long an interrupted sync waits for answers: the longest silence that a request allows


@dataclass(slots=True)
class Stoppable:
    """A run that has a deadline to cut short, and remembers which signal did it (0 for none)."""

    deadline: Deadline
    signal: int = 0

    def code(self, code: ExitCode) -> ExitCode:
        """The exit code of a run that a signal may have ended before everything was done."""
        if not self.signal or code is ExitCode.OK:
            return code
        return ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.TERMINATED


@contextlib.contextmanager
def stopping(run: Stoppable) -> Iterator[None]:
    """The first SIGINT or SIGTERM cuts the deadline short; the second one does what it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        run.signal = number
        run.deadline.cancel(grace_s=_IN_FLIGHT_S)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.write(2, b"\nstopping after the requests in flight; once more to stop at once\n")  # print is not for signal handlers

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
