"""Daemon threads that do one kind of work, and the results of it in groups. Must not know what the work is.

What ``daemon_pool`` does for any calls, at a fifth of its cost (benchmarks/settle.py): an ``Executor`` makes a future with a
condition for every call, and whoever waits for some of them locks each. Here, jobs go in and results come out of two queues.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar, cast

J = TypeVar("J")
R = TypeVar("R")


class _Raised(NamedTuple):
    error: BaseException


class Workers(Generic[J, R]):
    """Does the work for at most ``threads_max`` jobs at a time. One thread gives jobs and takes results.

    Args:
        work: Called on a worker's thread, once a job.
        threads_max: Threads; they are made as they are needed.
        name: Of the threads.
    """

    def __init__(self, work: Callable[[J], R], threads_max: int, name: str) -> None:
        self._work = work
        self._threads_max = threads_max
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[J] | None] = queue.SimpleQueue()
        self._results: deque[tuple[J, R | _Raised]] = deque()
        self._wanted = 1  # a bell rings when there are so many results
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.unfinished = 0
        """Jobs that were given and whose result was not taken yet."""

    def give(self, jobs: Iterable[J]) -> None:
        """Have these done, in this order as far as there are threads."""
        for job in jobs:
            self.unfinished += 1
            self._jobs.put((job,))
        while len(self._threads) < min(self._threads_max, self.unfinished):
            thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def take(self, timeout_s: float, group_s: float = 0.0) -> list[tuple[J, R]]:
        """Jobs that are done, with their results: [] when there is none.

        Args:
            timeout_s: How long the first is waited for at most, seconds.
            group_s: How long then for all others.

        Raises:
            BaseException: What the work raised for one of them.
        """
        if self._have(1, timeout_s):
            self._have(self.unfinished, group_s)
        found = [self._results.popleft() for _ in range(len(self._results))]
        self.unfinished -= len(found)
        for _, result in found:
            if isinstance(result, _Raised):
                raise result.error
        return cast("list[tuple[J, R]]", found)

    def take_back(self) -> list[J]:
        """Jobs that no worker has begun; none ever will."""
        found: list[J] = []
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                found += job
        self.unfinished -= len(found)
        return found

    def close(self, *, wait: bool) -> None:
        """Let the threads end when what they have begun is done; jobs that were not begun are dropped. ``wait``: until then."""
        self.take_back()
        for _ in self._threads:
            self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _have(self, count: int, timeout_s: float) -> bool:
        """Wait for so many results; whether there are."""
        self._wanted = count  # before looking: a result that comes after the look rings
        ends = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while len(self._results) < count:
                self._bell.get(timeout=max(0.0, ends - time.monotonic()))
        return len(self._results) >= count

    def _run(self) -> None:
        work, jobs, results = self._work, self._jobs, self._results
        while (item := jobs.get()) is not None:
            (job,) = item
            try:
                results.append((job, work(job)))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
                results.append((job, _Raised(error)))
            del job, item  # what a job holds is not kept alive by an idle thread
            if len(results) >= self._wanted:
                self._bell.put(None)
