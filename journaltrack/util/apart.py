"""A call on a thread of its own, where no signal handler raises.

Ctrl-C raises on the main thread between any two of its steps: also between an answer and its record. So what must not be cut there
runs elsewhere, and the caller waits: interrupted, it asks for an orderly end, and passes the interruption on once that has come.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
M = TypeVar("M")

INTERRUPTIONS_MAX: Final = 3
"""Whoever interrupts so often is not made to wait any longer."""


class Apart(Generic[T, M]):
    """One call of ``work``, to be made with ``result``.

    Args:
        work: What to do; ``tell`` is for it.
        on_message: Called on the calling thread with what ``work`` tells.
        on_interrupt: Called on the calling thread when it is interrupted, with how often it was: ``work`` shall come to an end.
    """

    def __init__(self, work: Callable[[], T], *, on_message: Callable[[M], None] | None, on_interrupt: Callable[[int], None]) -> None:
        self._work = work
        self._on_message = on_message
        self._on_interrupt = on_interrupt
        self._messages: queue.SimpleQueue[tuple[M] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def tell(self, message: M) -> None:
        """For ``work``: have the caller told."""
        if self._on_message is not None:
            self._messages.put((message,))

    def result(self, name: str) -> T:
        """Make the call and wait for its end.

        Args:
            name: Of the thread.

        Raises:
            BaseException: What ``work`` raised; or, after its end, what interrupted the caller.
        """
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: on the way out of the interpreter, or there are as many as there may be
            self._run()
        interruptions: list[BaseException] = []
        while True:
            try:
                self._wait()
                break
            except BaseException as error:  # noqa: BLE001 - a signal handler raises what it likes; it is raised again below
                interruptions.append(error)
                self._on_message = None  # which may be what raises
                self._on_interrupt(len(interruptions))
                if self._ended.is_set() or len(interruptions) >= INTERRUPTIONS_MAX:
                    break
        if interruptions:
            raise interruptions[0]
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _wait(self) -> None:
        while (message := self._messages.get()) is not None:
            if self._on_message is not None:
                self._on_message(*message)

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._error = error
        finally:
            self._ended.set()
            self._messages.put(None)
