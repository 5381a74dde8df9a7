"""Calls that may never return, made on a daemon thread and waited for only as long as there is time.

A look-up of credentials runs programs of the user, a look-up of a name asks a resolver: neither takes a time-out. A call
that is given up goes on until it ends by itself; its result is dropped, and its thread keeps no interpreter from exiting.

What such a call raises stays the call's: a ``SystemExit`` or ``KeyboardInterrupt`` of its own arrives as an ordinary
exception. What a signal handler raises in the waiting thread passes, as everywhere. Must not know what is called.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from journaltrack.errors import described

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1
"""A deadline that is cancelled is noticed within this, seconds."""


class OutOfTimeError(Exception):
    """The call did not return in time."""


class CallError(Exception):
    """The call ended with something that would end the interpreter."""


def outcome(call: Callable[[], T], time_left_s: Callable[[], float]) -> T | Exception:
    """What a call returned or raised, or an ``OutOfTimeError``. Raises nothing but what signal handlers do.

    Args:
        call: Made on a thread of its own.
        time_left_s: For how long to go on waiting, seconds; asked again and again.
    """
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            answers.put(context.run(call))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            answers.put(error)
        except BaseException as error:  # noqa: BLE001
            ended = CallError(described(error))
            ended.__cause__ = error
            answers.put(ended)

    try:
        threading.Thread(target=run, name="journaltrack-bounded", daemon=True).start()
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
