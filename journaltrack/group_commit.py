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
        self._leading = _thread.allocate_lock()  # held by the thread that writes, or waits for the lock in order to
        self._inside: list[None] = []  # as many as threads are in a call; appending and popping are atomic

    def enter(self) -> bool:
        """A call begins: whether it is the only one, and may do without the group. A hint: to be wrong costs time. ``leave`` at its end."""
        self._inside.append(None)
        return len(self._inside) == 1

    def leave(self) -> None:
        """A call that was entered ends."""
        with contextlib.suppress(IndexError):
            self._inside.pop()

    @property
    def is_empty(self) -> bool:
        """Whether no call waits, nor was left by an interruption."""
        return not self._calls

    def run(self, call: Call, lock: AbstractContextManager[Any]) -> None:
        """Have the call written, with others that are waiting; returns when it is committed.

        One thread waits for the lock. If all did, each would learn that its call is done only behind the next transaction.

        Raises:
            Exception: What its transaction raised.
        """
        self._calls.append(call)
        try:
            while not call.done:
                leading = self._leading
                if leading.acquire(blocking=False):
                    try:
                        self._lead(call, lock)
                    finally:
                        leading.release()
                        with contextlib.suppress(IndexError):
                            self._calls[0].wake()  # leads the next one; who comes from now on finds that nobody does
                elif not call.sleep():  # who leads was interrupted before it could begin, or the disk is slow
                    self._lead(call, lock)
                    if self._leading is leading:
                        self._leading = _thread.allocate_lock()
        except BaseException:
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
            raise
        if call.error is not None:
            raise copy.copy(call.error)  # an exception has one traceback, and each thread its own

    def write(self, call: Call) -> None:
        """``run`` for who holds the lock already.

        Raises:
            Exception: What its transaction raised.
        """
        self._calls.append(call)
        try:
            self._write_waiting(call.generation)
        except BaseException:
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
            raise
        if call.error is not None:
            raise copy.copy(call.error)

    def _lead(self, call: Call, lock: AbstractContextManager[Any]) -> None:
        with lock:
            if not call.done:
                self._write_waiting(call.generation)

    def _write_waiting(self, generation: int) -> None:
        calls = self._calls
        while calls and calls[0].generation != generation:  # of threads that a fork left behind in the parent
            calls.popleft()
        group = list(calls)
        try:
            self._write(group)
        finally:
            while calls and calls[0].done:
                calls.popleft()
            for call in group:
                if call.done:
                    call.wake()
