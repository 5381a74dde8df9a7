"""Guard training against delivery: no exception gets through, and no call exceeds its time.

Delivery means the network, credentials, the user's AWS configuration and plug-ins, boto3 and its
imports. Any of these may raise anything, or never return. What was recorded is in the journal by
then, so a warning in the log is enough. Ctrl-C, and exceptions from the user's signal handlers,
belong to the user: they get through, once the answers to sent requests are recorded.

``outcome`` and ``bounded`` make one call that may never return. Looking up credentials runs the
user's programs, and looking up a name asks a resolver; neither takes a time-out. A call that is
given up runs on until it ends by itself, and its result is dropped. A ``SystemExit`` or
``KeyboardInterrupt`` from the call arrives as an ordinary exception. If a signal handler raises in
the waiting thread, that is raised at once, or after an orderly end of the call.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from journaltrack.errors import ErrorKind, JournaltrackError, RemoteError, described
from journaltrack.util.deadline import INTERRUPTED_GRACE_S, INTERRUPTIONS_MAX, Deadline

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S: Final = 1.5
"""How long after its deadline a pass may still record the outcomes of its requests."""
_LOOK_EVERY_S: Final = 0.1
"""A cancelled deadline is noticed within this time."""


def guarded(
    call: Callable[[], T], failure: str, deadline: Deadline | None = None, *, sends: bool = False
) -> T | None:
    """Return the result of a call, or None if it failed or took too long, and log that.

    Args:
        call: The call, made on a thread of its own. So its exceptions can be told from those that
            signal handlers raise in the waiting thread.
        failure: What a failure means, for the log.
        deadline: The call's deadline, cancelled when nobody waits any more. None: the call is
            quick.
        sends: Whether the call changes something at the remote, so that answers must be recorded.
            Then an interruption of the waiting thread is raised after an orderly end, otherwise at
            once.
    """
    ends = deadline or Deadline()

    def hurry(times: int) -> None:
        """End the call within the grace; at the second interruption at once."""
        grace_s = INTERRUPTED_GRACE_S if times == 1 else 0.0
        ends.cancel(grace_s=min(grace_s, ends.grace_remaining_s()))

    try:
        found = outcome(call, lambda: ends.grace_remaining_s() + GRACE_S, hurry if sends else None)
    finally:
        ends.cancel()
    if not isinstance(found, Exception):
        return found
    has_words = isinstance(found, (JournaltrackError, OutOfTimeError))
    told = found if has_words else described(found)
    logger.log(logging.INFO if _passes(found) else logging.WARNING, "%s: %s", failure, told)
    logger.debug("what was raised", exc_info=found)
    return None


def _passes(error: Exception) -> bool:
    """Return whether nobody must act: the network is down for now."""
    return isinstance(error, RemoteError) and error.kind is ErrorKind.TRANSIENT


class OutOfTimeError(Exception):
    """Report that the call did not return in time."""


class CallError(Exception):
    """Report that the call raised an exception that would end the interpreter."""


def outcome(
    call: Callable[[], T],
    time_left_s: Callable[[], float],
    on_interrupt: Callable[[int], None] | None = None,
) -> T | Exception:
    """Return a call's result, its exception, or an ``OutOfTimeError``.

    Raises only what signal handlers raise in the waiting thread.

    Args:
        call: The call, made on a thread of its own.
        time_left_s: Returns the seconds to go on waiting. Called repeatedly.
        on_interrupt: Called with the number of interruptions of the waiting thread so far. It asks
            the call to end. The interruption is raised after that end, or when the time is over.
            None: it is raised at once.
    """
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
    context = contextvars.copy_context()
    # Taken once: by the thread that begins the call, or by an interrupted caller, to prevent it.
    once = threading.Lock()

    def run() -> None:
        """Make the call, unless it was prevented, and give its answer."""
        if not once.acquire(blocking=False):
            return
        try:
            answers.put(context.run(call))
        except Exception as error:  # noqa: BLE001 - the caller gets it
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
        # A signal handler can raise anything.
        except BaseException as error:
            too_often = len(interruptions) + 1 >= INTERRUPTIONS_MAX
            if on_interrupt is None or too_often or once.acquire(blocking=False):
                raise
            interruptions.append(error)
            on_interrupt(len(interruptions))
    if interruptions:
        raise interruptions[0]
    return found


def _answer(
    to_start: list[threading.Thread],
    answers: queue.SimpleQueue[T | Exception],
    time_left_s: Callable[[], float],
) -> T | Exception:
    if to_start:
        # The process may have reached its limit of threads.
        try:
            to_start.pop().start()
        except RuntimeError as error:
            return error
    while True:
        left_s = time_left_s()
        try:
            return answers.get(timeout=max(0.0, min(left_s, _LOOK_EVERY_S)))
        except queue.Empty:
            if left_s <= 0:
                return OutOfTimeError("no answer came in time")


def bounded(call: Callable[[], T], time_left_s: Callable[[], float]) -> T:
    """Return a call's result; see ``outcome``.

    Raises:
        Exception: What the call raised.
        CallError: The call raised something that is no ``Exception``.
        OutOfTimeError: The call did not return in time.
    """
    found = outcome(call, time_left_s)
    if isinstance(found, Exception):
        raise found
    return found
