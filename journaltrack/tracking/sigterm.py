"""End a ``with`` block cleanly on SIGTERM, and tell of ``sys.exit``.

SIGTERM ends a block if the tracker has ``sigterm="stop"``.
Without it SIGTERM kills the process at once, and its run stays InProgress until a sync finds the
process dead. Only the process that entered the block handles SIGTERM: a forked child does what it
would do without us.

SIGTERM is blocked during a fork. CPython would lose a signal that reaches the child before its
handlers are ready. It also drops an exception that a handler raises in a fork's hooks.
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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

EXIT_CODE: Final = 128 + signal.SIGTERM
"""The exit code that a shell reports for a process that SIGTERM ended."""
_AGAIN_S: Final = 0.01


class TerminatedError(SystemExit):
    """SIGTERM came: the ``with`` block ends, and the process unless you catch this."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)

    def __str__(self) -> str:
        return "SIGTERM"


class SigtermStops:
    """Handle SIGTERM for one ``with`` block.

    Call ``install`` at its start, and use ``at_the_end`` around its end.

    Attributes:
        is_raised: Whether SIGTERM came inside of the block, as an exception.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._former: signal._HANDLER = signal.SIG_DFL
        self._former_hook = sys.unraisablehook
        self._installed = False
        self._ending = False
        self._came_at_the_end = False
        self.is_raised = False

    def install(self) -> None:
        """Handle SIGTERM from now on.

        Python allows that only in the main thread: in another one this only warns.
        """
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                'sigterm="stop" has no effect here: only the main thread can handle signals',
                RuntimeWarning,
                stacklevel=4,
            )
            return
        if self._installed:
            return
        self._pid, self._ending, self._came_at_the_end = os.getpid(), False, False
        self.is_raised = False
        former = signal.getsignal(signal.SIGTERM)
        # None is a handler in C, which Python can't call.
        self._former = signal.SIG_DFL if former is None else former
        self._installed = True
        self._former_hook, sys.unraisablehook = sys.unraisablehook, self._not_raised
        signal.signal(signal.SIGTERM, self._handle)
        _installed.append(self)

    @contextlib.contextmanager
    def at_the_end(self, error: BaseException | None) -> Iterator[None]:
        """Delay SIGTERM while the block ends, then restore the former handler.

        So SIGTERM can't interrupt the last status and its delivery.

        Args:
            error: What ended the block. If that was not SIGTERM, a SIGTERM that comes meanwhile
                takes effect afterwards.
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
        # A handler that was installed since then may call this one as its predecessor, which passes
        # the signal on. So it stays.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._handle
        ):
            signal.signal(signal.SIGTERM, self._former)
        if sys.unraisablehook == self._not_raised:
            sys.unraisablehook = self._former_hook

    def _not_raised(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Send SIGTERM again if its exception was raised in a callback that drops it.

        CPython drops exceptions in ``__del__``, weak references' callbacks and fork's hooks.
        """
        is_ours = isinstance(unraisable.exc_value, TerminatedError) and os.getpid() == self._pid
        if self._installed and is_ours:
            # From a thread: sent from here, it would be raised and dropped here.
            _thread.start_new_thread(self._send_again, ())
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
        elif threading.get_ident() in _masks:
            # In a fork's hook the exception would be dropped, and the hook would end half-way.
            _thread.start_new_thread(self._send_again, ())
        else:
            self.is_raised = True
            raise TerminatedError

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do what would happen without us.

        Called in a forked child, or if a program restored this handler after the block.
        """
        if callable(self._former):
            self._former(number, frame)
        elif self._former == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class _ExitError(SystemExit):
    """Raised by ``sys.exit``: a ``SystemExit`` that notes if it ends the interpreter.

    CPython tells no ``atexit`` function the exit code. But it asks the exception for it, when
    nothing has caught it: then no Python code calls. An exception that is caught is none of ours.
    """

    @property
    def code(self) -> Any:  # noqa: ANN401 - what the program gave
        """Return the exit code."""
        if sys._getframe().f_back is None:  # noqa: SLF001 - the only way to know who asks
            _exits[:] = [self]
        return _CODE.__get__(self)

    @code.setter
    def code(self, code: object) -> None:
        _CODE.__set__(self, code)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a plain one."""
        return SystemExit, self.args


_CODE: Final[Any] = vars(SystemExit)["code"]
# It is a SystemExit in all that people read.
_ExitError.__name__ = _ExitError.__qualname__ = "SystemExit"
_ExitError.__module__ = "builtins"


def _exit(*arguments: object) -> NoReturn:
    try:
        _original_exit(*arguments)
    except SystemExit as error:
        # Threads end quietly by this very class alone.
        if type(error) is not SystemExit or threading.current_thread() != threading.main_thread():
            raise
        told = _ExitError(*error.args)
    raise told


_exits: list[_ExitError] = []
_original_exit: Final[Callable[..., NoReturn]] = sys.exit


def watch_exits() -> None:
    """Let ``sys.exit`` tell how the process ends, unless somebody else has replaced it."""
    if sys.exit is _original_exit:
        sys.exit = _exit


def ignore_exits() -> None:
    """Let ``sys.exit`` be what it was."""
    if sys.exit is _exit:
        sys.exit = _original_exit


def exit_error() -> BaseException | None:
    """Return the exit that ends the interpreter, for ``atexit``; None if ``sys.exit`` did not."""
    return next(iter(_exits), None)


_installed: list[SigtermStops] = []
# By thread that forks now: the signals that it had blocked before.
_masks: dict[int, set[int | signal.Signals]] = {}


def _before_fork() -> None:
    if _installed:
        # First the note, then the block: from the note on, the handler does not raise here.
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _after_fork_in_parent() -> None:
    mask = _masks.get(threading.get_ident())
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        del _masks[threading.get_ident()]


def _after_fork_in_child() -> None:
    # The newest first, so that the oldest former handler is restored last.
    while _installed:
        _installed[-1]._restore()  # noqa: SLF001 - this module's own
    _after_fork_in_parent()
    _masks.clear()


# Registered after the hooks of ``connection``, so that these are the first and last ones of a fork.
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
