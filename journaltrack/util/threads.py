"""Run calls on daemon threads, which never keep the interpreter from exiting.

``Apart``: one call that no signal handler interrupts. Ctrl-C raises on the main thread between any
two of its steps, also between an answer and its record. So there the call runs on another thread
and the caller waits. If the caller is interrupted, it asks for an orderly end, waits for it, and
then raises the interruption.

``util.guard`` has calls that may never return.

``DaemonPool``: an executor. ``concurrent.futures.ThreadPoolExecutor`` joins its threads at exit.
So a request to a silent server would keep a finished training script alive for the whole time-out.

``Workers``: one kind of work in lanes, with results in groups, at a fifth of ``DaemonPool``'s cost
(benchmarks/settle.py). An ``Executor`` makes a future with a condition for every call, and waiting
for several futures locks each. ``Workers`` uses queues for jobs and results. Each lane has its own
threads, so that slow work in one lane does not delay another. Invariants:

- Every job comes back once: as a result, as an exception, or taken back.
- A result stays until ``done_with_first``. So no exception in the code that takes it loses one.

Must not know what the calls and the work do.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final, Generic, NamedTuple, TypeVar

from journaltrack.util.deadline import INTERRUPTIONS_MAX

T = TypeVar("T")
M = TypeVar("M")
J = TypeVar("J")
R = TypeVar("R")

HEAR_S: Final = 0.2
"""How long the main thread waits at a time, where it waits for other threads.

Python runs signal handlers between two of its steps. A signal that comes right before the wait does
not end it, so Ctrl-C would wait as long.
"""


class Apart(Generic[T, M]):
    """Make one call of ``work`` that no signal handler interrupts; see ``result``.

    Args:
        work: The call. It can use ``tell``.
        on_message: Called on the calling thread with each message of ``work``.
        on_interrupt: Called on the calling thread with the number of interruptions so far. It asks
            ``work`` to end.
    """

    def __init__(
        self,
        work: Callable[[], T],
        *,
        on_message: Callable[[M], None] | None,
        on_interrupt: Callable[[int], None],
    ) -> None:
        self._work = work
        self._on_message = on_message
        self._on_interrupt = on_interrupt
        self._messages: queue.SimpleQueue[tuple[M] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._interruptions: list[BaseException] = []
        self._is_inline = False
        self._turn = threading.Lock()
        self._has_begun = self._is_taken_back = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def tell(self, message: M) -> None:
        """Send a message from ``work`` to the caller."""
        if self._on_message is None:
            return
        if not self._is_inline:
            self._messages.put((message,))
            return
        try:
            self._on_message(message)
        except BaseException as error:  # noqa: BLE001 - raised after the end of ``work``
            self._interrupted(error)

    def result(self, name: str) -> T:
        """Make the call and wait for its end.

        Args:
            name: Name of the thread.

        Raises:
            BaseException: What ``work`` raised or, after its end, what interrupted the caller.
        """
        # Signal handlers run on the main thread. Elsewhere another thread would only cost time.
        if threading.current_thread() is not threading.main_thread():
            self._run_inline()
        is_begun = self._is_inline
        while True:
            try:
                if not is_begun:
                    is_begun = True
                    self._begin(name)
                self._wait()
                break
            # A signal handler can raise anything. It is raised again below.
            except BaseException as error:
                self._interrupted(error)
                if self._takes_back():
                    raise
                if self._ended.is_set() or len(self._interruptions) >= INTERRUPTIONS_MAX:
                    break
        if self._interruptions:
            raise self._interruptions[0]
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _begin(self, name: str) -> None:
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        # No thread can start at the interpreter's exit, or at the limit of threads.
        try:
            thread.start()
        except RuntimeError:
            self._run_inline()

    def _takes_back(self) -> bool:
        """Return whether the work has not begun. Then it never will."""
        with self._turn:
            self._is_taken_back = not self._has_begun
        return self._is_taken_back

    def _run_inline(self) -> None:
        self._is_inline = True
        self._run()

    def _interrupted(self, error: BaseException) -> None:
        """Ask ``work`` to end."""
        self._interruptions.append(error)
        # Perhaps ``on_message`` raised it.
        self._on_message = None
        self._on_interrupt(len(self._interruptions))

    def _wait(self) -> None:
        while True:
            try:
                message = self._messages.get(timeout=HEAR_S)
            except queue.Empty:
                continue
            if message is None:
                return
            if self._on_message is not None:
                self._on_message(*message)

    def _run(self) -> None:
        with self._turn:
            self._has_begun = not self._is_taken_back
        if self._is_taken_back:
            return
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - ``result`` raises it
            self._error = error
        finally:
            self._ended.set()
            self._messages.put(None)


class DaemonPool(Executor):
    """Run calls on at most ``threads_max`` daemon threads, made as needed.

    Args:
        threads_max: Calls at a time.
        name: Start of the threads' names.
    """

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False

    def submit(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,  # noqa: ANN401 - the interface's
        **kwargs: Any,  # noqa: ANN401
    ) -> Future[T]:
        """Submit a call, as ``concurrent.futures.Executor.submit`` does.

        It runs in a copy of the caller's context, and so within the caller's deadline.
        """
        future: Future[T] = Future()
        context = contextvars.copy_context()
        with self._lock:
            if self._closed:
                msg = "the pool is shut down"
                raise RuntimeError(msg)
            self._waiting.put((future, lambda: context.run(fn, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._threads_max:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                # At the process's limit of threads, fewer threads do the work.
                try:
                    thread.start()
                except RuntimeError:
                    if not self._threads:
                        self._waiting.get()
                        raise
                else:
                    self._threads.append(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, as ``concurrent.futures.Executor.shutdown`` does."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                while not self._waiting.empty():
                    item = self._waiting.get()
                    if item is not None:
                        item[0].cancel()
            for _ in self._threads:
                self._waiting.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            # An idle thread must not keep a result alive.
            del future, call, item

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._waiting.get_nowait()
        except queue.Empty:
            self._idle.release()
            return self._waiting.get()


class Done(NamedTuple):
    """Hold a finished job with its result, or the exception that its work raised."""

    lane: str
    job: Any
    result: Any
    error: BaseException | None = None


class _Lane(Generic[J]):
    """Hold the jobs and threads of one lane."""

    def __init__(self, name: str, threads_max: int) -> None:
        self.name = name
        self.threads_max = threads_max
        self.jobs: queue.SimpleQueue[tuple[J] | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.unfinished = 0


class Workers(Generic[J, R]):
    """Do one kind of work on several threads. One thread gives jobs and takes results.

    Args:
        work: Called on a worker's thread, once per job.
        lanes: Most threads of each lane. They are made as needed.
        name: Start of the threads' names.
    """

    def __init__(self, work: Callable[[J], R], lanes: Mapping[str, int], name: str) -> None:
        self._work = work
        self._name = name
        self._lanes: dict[str, _Lane[J]] = {
            lane: _Lane(lane, threads_max) for lane, threads_max in lanes.items()
        }
        self._results: deque[Done] = deque()
        # The bell rings at this number of results.
        self._wanted = 1
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def unfinished(self, lane: str | None = None) -> int:
        """Return the number of jobs given and not done with yet, of a lane or of all."""
        if lane is not None:
            return self._lanes[lane].unfinished
        return sum(each.unfinished for each in self._lanes.values())

    def give(self, lane: str, jobs: Iterable[J]) -> None:
        """Give jobs to a lane. Its threads begin them in this order.

        Raises:
            RuntimeError: No thread can start. ``take_back`` returns the jobs.
        """
        mine = self._lanes[lane]
        for job in jobs:
            mine.unfinished += 1
            mine.jobs.put((job,))
        while len(mine.threads) < min(mine.threads_max, mine.unfinished):
            name = f"{self._name}-{lane}-{len(mine.threads)}"
            thread = threading.Thread(target=self._run, args=(mine,), name=name, daemon=True)
            # At the process's limit of threads, fewer threads do the work.
            try:
                thread.start()
            except RuntimeError:
                if mine.threads:
                    break
                raise
            mine.threads.append(thread)

    def wait(self, timeout_s: float, group_s: float = 0.0) -> bool:
        """Wait for results. Return whether there are any.

        Args:
            timeout_s: Longest wait for the first result, seconds.
            group_s: Longest wait afterwards for all others of its lane, seconds.
        """
        if not self._have(1, timeout_s):
            return False
        lane = self._lanes[self._results[0].lane]
        self._have(max(1, lane.unfinished), group_s)
        return True

    def first(self) -> Done | None:
        """Return the oldest result, or None. It stays the first until ``done_with_first``."""
        return self._results[0] if self._results else None

    def done_with_first(self) -> None:
        """Forget the result that ``first`` gave."""
        self._lanes[self._results.popleft().lane].unfinished -= 1

    def take_back(self) -> list[J]:
        """Cancel and return the jobs that no worker has begun."""
        found: list[J] = []
        for lane in self._lanes.values():
            with contextlib.suppress(queue.Empty):
                while (job := lane.jobs.get_nowait()) is not None:
                    found += job
                    lane.unfinished -= 1
        return found

    def close(self, *, wait: bool) -> None:
        """Drop jobs that no worker has begun, and end each thread after its current job.

        Args:
            wait: Whether to wait until the threads have ended.
        """
        self.take_back()
        threads = [thread for lane in self._lanes.values() for thread in lane.threads]
        for lane in self._lanes.values():
            for _ in lane.threads:
                lane.jobs.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _have(self, count: int, timeout_s: float) -> bool:
        """Wait for ``count`` results. Return whether there are as many."""
        # Set before looking: a result that comes after the look rings the bell.
        self._wanted = count
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
            except BaseException as error:  # noqa: BLE001 - it is the job's result
                results.append(Done(name, job, None, error))
            # An idle thread must not keep a job alive.
            del job, item
            if len(results) >= self._wanted:
                self._bell.put(None)
