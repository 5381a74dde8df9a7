"""Calls that may never return, made on a daemon thread and waited for only as long as there is time.

A look-up of credentials runs programs of the user, a look-up of a name asks a resolver: neither takes a time-out. A call
that is given up goes on until it ends by itself; its result is dropped, and its thread keeps no interpreter from exiting.

What such a call raises stays the call's: a ``SystemExit`` or ``KeyboardInterrupt`` of its own arrives as an ordinary
exception. What a signal handler raises in the waiting thread passes, as everywhere: at once, or when the call has come to the
orderly end that the interruption asks of it. Must not know what is called.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from journaltrack.errors import described
from journaltrack.util.apart import INTERRUPTIONS_MAX

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1
"""A deadline that is cancelled is noticed within this, seconds."""


class OutOfTimeError(Exception):
    """The call did not return in time."""


class CallError(Exception):
    """The call ended with something that would end the interpreter."""


def outcome(call: Callable[[], T], time_left_s: Callable[[], float], on_interrupt: Callable[[int], None] | None = None) -> T | Exception:
    """What a call returned or raised, or an ``OutOfTimeError``. Raises nothing but what signal handlers do.

    Args:
        call: Made on a thread of its own.
        time_left_s: For how long to go on waiting, seconds; asked again and again.
        on_interrupt: Called when the waiting thread is interrupted, with how often it was: the call shall come to an end, which is
            waited for as long as there is time, and the interruption raised then. None: it is raised at once.
    """
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
    context = contextvars.copy_context()
    once = threading.Lock()  # whoever takes it: the thread begins the call, or the caller was interrupted before and it is never made

    def run() -> None:
        if not once.acquire(blocking=False):
            return
        try:
            answers.put(context.run(call))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            answers.put(error)
        except BaseException as error:  # noqa: BLE001
            ended = CallError(described(error))
            ended.__cause__ = error
            answers.put(ended)

    to_start = [threading.Thread(target=run, name="journaltrack-bounded", daemon=True)]
    interruptions: list[BaseException] = []
    while True:
        try:
            found = _answer(to_start, answers, time_left_s)
            break
        except BaseException as error:  # a signal handler raises what it likes
            if on_interrupt is None or len(interruptions) + 1 >= INTERRUPTIONS_MAX or once.acquire(blocking=False):
                raise
            interruptions.append(error)
            on_interrupt(len(interruptions))
    if interruptions:
        raise interruptions[0]
    return found


def _answer(to_start: list[threading.Thread], answers: queue.SimpleQueue[T | Exception], time_left_s: Callable[[], float]) -> T | Exception:
    if to_start:
        try:
            to_start.pop().start()
        except RuntimeError as error:  # no more threads here
            return error
    while True:
        left_s = time_left_s()
        try:
            return answers.get(timeout=max(0.0, min(left_s, _LOOK_EVERY_S)))
        except queue.Empty:
            if left_s <= 0:
                return OutOfTimeError("no answer came in time")


def bounded(call: Callable[[], T], time_left_s: Callable[[], float]) -> T:
    """What a call returned; see ``outcome``.

    Raises:
        Exception: What it raised.
        CallError: It raised what is no ``Exception``.
        OutOfTimeError: It did not return in time.
    """
    found = outcome(call, time_left_s)
    if isinstance(found, Exception):
        raise found
    return found
