"""One transaction, and one wait for the disk, for the calls that several threads make at the same time.

With ``durability="power"`` a commit waits for the disk, 0.2 ms to 10 ms, and one thread at a time can be in it. The calls
that queue up meanwhile are written together by one of their threads; the others sleep until theirs is done. So threads
share fsyncs, and a call is still in the transaction that its return speaks of: what a failing disk means is the same as
for a single thread.

Invariant: whoever holds the lock may write whatever waits; being woken is a hint that saves time. A thread that an
exception of a signal handler takes out at any moment leaves nobody waiting for longer than ``FALLBACK_S``.

Must not know what a call carries or how it is written.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

FALLBACK_S: Final = 0.05
"""After so long a thread that waits looks for itself."""


class Call:
    """One call on its way. ``payload`` is the writer's business; so is ``last_seq``: its place, once it has been given one."""

    __slots__ = ("_asleep", "done", "error", "generation", "last_seq", "payload")

    def __init__(self, payload: Any, generation: int) -> None:  # noqa: ANN401 - opaque here
        self.payload = payload
        self.generation = generation
        self.last_seq: int | None = None
        self.done = False
        self.error: Exception | None = None
        self._asleep = _thread.allocate_lock()
        self._asleep.acquire()

    def sleep(self) -> bool:
        """Until it is done or first in line; whether it was woken in time."""
        return self._asleep.acquire(timeout=FALLBACK_S)

    def wake(self) -> None:
        """End the thread's sleep, or its next one."""
        with contextlib.suppress(RuntimeError):  # it was woken before
            self._asleep.release()


class GroupCommit:
    """Collects calls while a transaction is under way.

    Args:
        write: Writes calls in one transaction, all or none, and marks each ``done`` or gives it its ``error``. Called with
            the lock held. Calls that an interruption left in between are among the next ones.
    """

    def __init__(self, write: Callable[[Sequence[Call]], None]) -> None:
        self._write = write
        self._calls: deque[Call] = deque()
        self.busy = False
        """Whether a transaction is under way: a hint for who would write ``alone``, without the lock."""

    def run(self, call: Call, lock: AbstractContextManager[Any]) -> None:
        """Have the call written, with others that are waiting; returns when it is committed.

        Raises:
            Exception: What its transaction raised.
        """
        self._calls.append(call)
        try:
            while not call.done:
                if self.busy and call.sleep():
                    continue
                with lock:
                    if not call.done:
                        self._write_waiting(call.generation)
        except BaseException:
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
            raise
        if call.error is not None:
            raise copy.copy(call.error)  # an exception has one traceback, and each thread its own

    def alone(self, write: Callable[..., object], *arguments: object) -> None:
        """Write something by itself while nothing waits (``is_empty``): calls that come meanwhile queue up. Hold the lock."""
        self.busy = True
        try:
            write(*arguments)
        finally:
            self._hand_on()

    @property
    def is_empty(self) -> bool:
        """Whether no call waits, nor was left by an interruption."""
        return not self._calls

    def _write_waiting(self, generation: int) -> None:
        calls = self._calls
        while calls and calls[0].generation != generation:  # of threads that a fork left behind in the parent
            calls.popleft()
        group = list(calls)
        self.busy = True
        try:
            self._write(group)
        finally:
            while calls and calls[0].done:
                calls.popleft()
            for call in group:
                if call.done:
                    call.wake()
            self._hand_on()

    def _hand_on(self) -> None:
        """The transaction has ended: who is first in line writes the next one. Who comes from now on sees that nobody is."""
        self.busy = False
        with contextlib.suppress(IndexError):
            self._calls[0].wake()
