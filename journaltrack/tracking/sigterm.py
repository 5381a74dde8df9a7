"""SIGTERM as the clean end of a ``with`` block: ``sigterm="stop"``.

Without it SIGTERM kills the process where it stands, and its run stays InProgress until a sync finds that out. Only the
process that entered the block is concerned: a forked child does with SIGTERM what it would have done without us. CPython
forgets signals that reach a child before its handlers are in order, and drops what a handler raises inside of a fork's
hooks: SIGTERM is held back during a fork.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

EXIT_CODE: Final = 128 + signal.SIGTERM
"""What a shell says of a process that SIGTERM ended."""


_AGAIN_S: Final = 0.01


class TerminatedError(SystemExit):
    """SIGTERM came: the ``with`` block ends, and then the process unless somebody catches this."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)

    def __str__(self) -> str:
        return "SIGTERM"


class SigtermStops:
    """The handler for one ``with`` block: ``install`` at its begin, ``at_the_end`` around its end."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._former: signal._HANDLER = signal.SIG_DFL
        self._former_hook = sys.unraisablehook
        self._installed = False
        self._ending = False
        self._came_at_the_end = False

    def install(self) -> None:
        """Handle SIGTERM from now on. Python lets the main thread alone do that: elsewhere this warns, and does nothing."""
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                'sigterm="stop" has no effect here: only the main thread can handle signals. The run is recorded as without it',
                RuntimeWarning,
                stacklevel=4,
            )
            return
        if self._installed:
            return
        self._pid, self._ending, self._came_at_the_end = os.getpid(), False, False
        former = signal.getsignal(signal.SIGTERM)
        self._former = signal.SIG_DFL if former is None else former  # None: C code's, which Python can't call
        self._installed = True
        self._former_hook, sys.unraisablehook = sys.unraisablehook, self._not_raised
        signal.signal(signal.SIGTERM, self._handle)
        _installed.append(self)

    @contextlib.contextmanager
    def at_the_end(self, error: BaseException | None) -> Iterator[None]:
        """Let SIGTERM not tear the last status and its delivery apart, and put the former handler back.

        Args:
            error: What ended the block. If it was something else than SIGTERM, one that comes now has its effect afterwards.
        """
        self._ending = True
        try:
            yield
        finally:
            if self._installed and os.getpid() == self._pid:
                self._restore()
                if self._came_at_the_end and not isinstance(error, TerminatedError):
                    os.kill(self._pid, signal.SIGTERM)

    def _restore(self) -> None:
        self._installed = False
        with contextlib.suppress(ValueError):
            _installed.remove(self)
        # Somebody who handles SIGTERM since then may call us for what was before: that is passed on.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._former)
        if sys.unraisablehook == self._not_raised:
            sys.unraisablehook = self._former_hook

    def _not_raised(self, unraisable: sys.UnraisableHookArgs) -> None:
        """CPython drops what is raised inside of a callback of its own (``__del__``, weak references, fork): raise it again behind it."""
        if self._installed and isinstance(unraisable.exc_value, TerminatedError) and os.getpid() == self._pid:
            _thread.start_new_thread(self._send_again, ())  # sent from here it would be raised, and dropped, here
        else:
            self._former_hook(unraisable)

    def _send_again(self) -> None:
        time.sleep(_AGAIN_S)
        if self._installed and not self._ending:
            os.kill(self._pid, signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._installed or os.getpid() != self._pid:
            self._pass_on(number, frame)
        elif self._ending:
            self._came_at_the_end = True
        else:
            raise TerminatedError

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """What would have happened without us: in a forked child, or when somebody put us back after the block."""
        if callable(self._former):
            self._former(number, frame)
        elif self._former == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_installed: list[SigtermStops] = []
_masks: dict[int, set[int | signal.Signals]] = {}  # by thread: what it had blocked before the fork that is under way


def _before_fork() -> None:
    if _installed:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _after_fork_in_parent() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    while _installed:  # the newest first: what was there before the first of them comes last
        _installed[-1]._restore()  # noqa: SLF001 - this module's own
    _after_fork_in_parent()
    _masks.clear()


# After ``database``, so that a fork's hooks begin and end with these.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
