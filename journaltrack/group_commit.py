"""One transaction, and one wait for the disk, for the calls that several threads make at the same time.

With ``durability="power"`` a commit waits for the disk, 0.2 ms to 10 ms, and one thread at a time can be in it. The calls
that queue up behind it are written together by the first of them that gets the lock; the others find theirs done. So
threads share fsyncs, and a call is still in the transaction that its return speaks of: what a failing disk means is the
same as for a single thread.

Must not know what a call carries or how it is written.
"""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any


class Call:
    """One call on its way. ``payload`` is the writer's business; so is ``last_seq``: its place, once it has been given one."""

    __slots__ = ("done", "error", "generation", "last_seq", "payload")

    def __init__(self, payload: Any, generation: int) -> None:  # noqa: ANN401 - opaque here
        self.payload = payload
        self.generation = generation
        self.last_seq: int | None = None
        self.done = False
        self.error: Exception | None = None


class GroupCommit:
    """Collects calls while a transaction is under way.

    Args:
        write: Writes calls in one transaction, all or none, and marks each ``done`` or gives it its ``error``. Called with
            the lock held. Calls that an interruption left in between are among the next ones.
    """

    def __init__(self, write: Callable[[Sequence[Call]], None]) -> None:
        self._write = write
        self._calls: deque[Call] = deque()

    def run(self, call: Call, lock: AbstractContextManager[Any]) -> None:
        """Have the call written, with others that are waiting; returns when it is committed.

        Raises:
            Exception: What its transaction raised.
        """
        self._calls.append(call)
        try:
            with lock:
                if not call.done:
                    self._write_waiting(call.generation)
        except BaseException:
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
            raise
        if call.error is not None:
            raise copy.copy(call.error)  # an exception has one traceback, and each thread its own

    def _write_waiting(self, generation: int) -> None:
        calls = self._calls
        while calls and calls[0].generation != generation:  # of threads that a fork left behind in the parent
            calls.popleft()
        self._write(list(calls))
        while calls and calls[0].done:
            calls.popleft()
