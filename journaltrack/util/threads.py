"""Run calls on daemon threads, which never keep the interpreter from exiting.

``Apart``: one call that no signal handler interrupts. Ctrl-C raises on the main thread between any
two of its steps, also between an answer and its record. So the call runs on another thread and the
caller waits. If the caller is interrupted, it asks for an orderly end, waits for it, and then
raises the interruption.

``outcome`` and ``bounded``: one call that may never return. Looking up credentials runs the user's
programs, and looking up a name asks a resolver; neither takes a time-out. A call that is given up
runs on until it ends by itself, and its result is dropped. A ``SystemExit`` or
``KeyboardInterrupt`` from the call arrives as an ordinary exception. If a signal handler raises in
the waiting thread, that is raised at once, or after an orderly end of the call.

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

from journaltrack.errors import described

T = TypeVar("T")
M = TypeVar("M")
J = TypeVar("J")
R = TypeVar("R")

INTERRUPTIONS_MAX: Final = 3
"""After this many interruptions, the caller does not wait any longer."""
_LOOK_EVERY_S: Final = 0.1
"""A cancelled deadline is noticed within this time."""


class Apart(Generic[T, M]):
    """One call of ``work`` that no signal handler interrupts; ``result`` makes it.

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
        self._result: list[T] = []
        self._error: BaseException | None = None

    def tell(self, message: M) -> None:
        """Send a message from ``work`` to the caller."""
        if self._on_message is not None:
            self._messages.put((message,))

    def result(self, name: str) -> T:
        """Make the call and wait for its end.

        Args:
            name: Name of the thread.

        Raises:
            BaseException: What ``work`` raised or, after its end, what interrupted the caller.
        """
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        # No thread can start at the interpreter's exit, or at the limit of threads.
        try:
            thread.start()
        except RuntimeError:
            self._run()
        interruptions: list[BaseException] = []
        while True:
            try:
                self._wait()
                break
            # A signal handler can raise anything. It is raised again below.
            except BaseException as error:  # noqa: BLE001
                interruptions.append(error)
                # Perhaps ``on_message`` raised it.
                self._on_message = None
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
        except BaseException as error:  # noqa: BLE001 - ``result`` raises it
            self._error = error
        finally:
            self._ended.set()
            self._messages.put(None)


class OutOfTimeError(Exception):
    """The call did not return in time."""


class CallError(Exception):
    """The call raised an exception that would end the interpreter."""


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


class DaemonPool(Executor):
    """Runs calls on at most ``threads_max`` daemon threads, made as needed.

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

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401 - the interface's
        """See ``concurrent.futures.Executor.submit``."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                msg = "the pool is shut down"
                raise RuntimeError(msg)
            self._waiting.put((future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._threads_max:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``concurrent.futures.Executor.shutdown``."""
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
    """A finished job with its result, or the exception that its work raised."""

    lane: str
    job: Any
    result: Any
    error: BaseException | None = None


class _Lane(Generic[J]):
    """The jobs and threads of one lane."""

    def __init__(self, name: str, threads_max: int) -> None:
        self.name = name
        self.threads_max = threads_max
        self.jobs: queue.SimpleQueue[tuple[J] | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.unfinished = 0


class Workers(Generic[J, R]):
    """Does one kind of work on several threads. One thread gives jobs and takes results.

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
