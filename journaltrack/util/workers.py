"""Daemon threads that do one kind of work in lanes, and the results of it in groups. Must not know what the work is.

What ``daemon_pool`` does for any calls, at a fifth of its cost (benchmarks/settle.py): an ``Executor`` makes a future with a
condition for every call, and whoever waits for some of them locks each. Here, jobs go in and results come out of queues. Each lane has
threads of its own: whatever takes long in one keeps nothing back in another.

Invariants: every job comes back once, as a result, as what its work raised, or taken back; a result stays here until it is
said to be done with, so that no exception of whoever takes it loses one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class Done(NamedTuple):
    """A job that is done: its result, or what its work raised."""

    lane: str
    job: Any
    result: Any
    error: BaseException | None = None


class _Lane(Generic[J]):
    """Jobs of one lane, and the threads that do them."""

    def __init__(self, name: str, threads_max: int) -> None:
        self.name = name
        self.threads_max = threads_max
        self.jobs: queue.SimpleQueue[tuple[J] | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.unfinished = 0


class Workers(Generic[J, R]):
    """Does the work for some jobs at a time. One thread gives jobs and takes results.

    Args:
        work: Called on a worker's thread, once a job.
        lanes: How many threads each lane has at most; they are made as they are needed.
        name: Of the threads.
    """

    def __init__(self, work: Callable[[J], R], lanes: Mapping[str, int], name: str) -> None:
        self._work = work
        self._name = name
        self._lanes: dict[str, _Lane[J]] = {lane: _Lane(lane, threads_max) for lane, threads_max in lanes.items()}
        self._results: deque[Done] = deque()
        self._wanted = 1  # a bell rings when there are so many results
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def unfinished(self, lane: str | None = None) -> int:
        """Jobs that were given and not done with yet, of a lane or of all."""
        return sum(each.unfinished for each in self._lanes.values()) if lane is None else self._lanes[lane].unfinished

    def give(self, lane: str, jobs: Iterable[J]) -> None:
        """Have these done, in this order as far as there are threads.

        Raises:
            RuntimeError: Not one thread can be started; the jobs can be taken back.
        """
        mine = self._lanes[lane]
        for job in jobs:
            mine.unfinished += 1
            mine.jobs.put((job,))
        while len(mine.threads) < min(mine.threads_max, mine.unfinished):
            thread = threading.Thread(target=self._run, args=(mine,), name=f"{self._name}-{lane}-{len(mine.threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process has as many as it may have: fewer do it, too
                if mine.threads:
                    break
                raise
            mine.threads.append(thread)

    def wait(self, timeout_s: float, group_s: float = 0.0) -> bool:
        """Wait for results; whether there are.

        Args:
            timeout_s: How long the first is waited for at most, seconds.
            group_s: How long then for all others of its lane.
        """
        if not self._have(1, timeout_s):
            return False
        self._have(max(1, self._lanes[self._results[0].lane].unfinished), group_s)
        return True

    def first(self) -> Done | None:
        """The result that came first; it stays the first until ``done_with_first``. None: there is none now."""
        return self._results[0] if self._results else None

    def done_with_first(self) -> None:
        """Forget the result that ``first`` gave."""
        self._lanes[self._results.popleft().lane].unfinished -= 1

    def take_back(self) -> list[J]:
        """Jobs that no worker has begun; none ever will."""
        found: list[J] = []
        for lane in self._lanes.values():
            with contextlib.suppress(queue.Empty):
                while (job := lane.jobs.get_nowait()) is not None:
                    found += job
                    lane.unfinished -= 1
        return found

    def close(self, *, wait: bool) -> None:
        """Let the threads end when what they have begun is done; jobs that were not begun are dropped. ``wait``: until then."""
        self.take_back()
        threads = [thread for lane in self._lanes.values() for thread in lane.threads]
        for lane in self._lanes.values():
            for _ in lane.threads:
                lane.jobs.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _have(self, count: int, timeout_s: float) -> bool:
        """Wait for so many results; whether there are."""
        self._wanted = count  # before looking: a result that comes after the look rings
        ends = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while len(self._results) < count:
                self._bell.get(timeout=max(0.0, ends - time.monotonic()))
        return len(self._results) >= count

    def _run(self, lane: _Lane[J]) -> None:
        work, jobs, results, name = self._work, lane.jobs, self._results, lane.name
        while (item := jobs.get()) is not None:
            (job,) = item
            try:
                results.append(Done(name, job, work(job)))
            except BaseException as error:  # noqa: BLE001 - it is told to whoever takes the result
                results.append(Done(name, job, None, error))
            del job, item  # what a job holds is not kept alive by an idle thread
            if len(results) >= self._wanted:
                self._bell.put(None)
