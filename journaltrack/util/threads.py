"""Daemon threads: one call apart or bounded in time, a pool, and workers with lanes.

A call on a thread of its own, where no signal handler raises.

Ctrl-C raises on the main thread between any two of its steps: also between an answer and its record. So what must not be cut there
runs elsewhere, and the caller waits: interrupted, it asks for an orderly end, and passes the interruption on once that has come.

Calls that may never return, made on a daemon thread and waited for only as long as there is time.

A look-up of credentials runs programs of the user, a look-up of a name asks a resolver: neither takes a time-out. A call
that is given up goes on until it ends by itself; its result is dropped, and its thread keeps no interpreter from exiting.

What such a call raises stays the call's: a ``SystemExit`` or ``KeyboardInterrupt`` of its own arrives as an ordinary
exception. What a signal handler raises in the waiting thread passes, as everywhere: at once, or when the call has come to the
orderly end that the interruption asks of it. Must not know what is called.

A pool of daemon threads: what it runs never keeps the interpreter from exiting.

``concurrent.futures.ThreadPoolExecutor`` joins its threads at exit, so that a request to a server that accepts and never
answers would keep a finished training script alive for the whole time-out.

Daemon threads that do one kind of work in lanes, and the results of it in groups. Must not know what the work is.

What ``daemon_pool`` does for any calls, at a fifth of its cost (benchmarks/settle.py): an ``Executor`` makes a future with a
condition for every call, and whoever waits for some of them locks each. Here, jobs go in and results come out of queues. Each lane has
threads of its own: whatever takes long in one keeps nothing back in another.

Invariants: every job comes back once, as a result, as what its work raised, or taken back; a result stays here until it is
said to be done with, so that no exception of whoever takes it loses one.
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


_LOOK_EVERY_S: Final = 0.1
"""A deadline that is cancelled is noticed within this, seconds."""


class OutOfTimeError(Exception):
    """The call did not return in time."""


class CallError(Exception):
    """The call ended with something that would end the interpreter."""


def outcome(call: Callable[[], T], time_left_s: Callable[[], float], on_interrupt: Callable[[int], None] | None = None) -> T | Exception:
    """What a call returned or raised, or an ``OutOfTimeError``. Raises nothing but what signal handlers do.

    Args:
        call: Made on a thread of its own.
        time_left_s: For how long to go on waiting, seconds; asked again and again.
        on_interrupt: Called when the waiting thread is interrupted, with how often it was: the call shall come to an end, which is
            waited for as long as there is time, and the interruption raised then. None: it is raised at once.
    """
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
    context = contextvars.copy_context()
    once = threading.Lock()  # whoever takes it: the thread begins the call, or the caller was interrupted before and it is never made

    def run() -> None:
        if not once.acquire(blocking=False):
            return
        try:
            answers.put(context.run(call))
        except Exception as error:  # noqa: BLE001 - it is the caller's
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
        except BaseException as error:  # a signal handler raises what it likes
            if on_interrupt is None or len(interruptions) + 1 >= INTERRUPTIONS_MAX or once.acquire(blocking=False):
                raise
            interruptions.append(error)
            on_interrupt(len(interruptions))
    if interruptions:
        raise interruptions[0]
    return found


def _answer(to_start: list[threading.Thread], answers: queue.SimpleQueue[T | Exception], time_left_s: Callable[[], float]) -> T | Exception:
    if to_start:
        try:
            to_start.pop().start()
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


class DaemonPool(Executor):
    """Runs calls on at most ``threads_max`` daemon threads, made as they are needed.

    Args:
        threads_max: Calls at a time.
        name: Of the threads.
    """

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
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
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
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
                except BaseException as error:  # noqa: BLE001 - it is the future's
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, call, item  # what a result holds is not kept alive by an idle thread

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._waiting.get_nowait()
        except queue.Empty:
            self._idle.release()
            return self._waiting.get()


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
