"""Answer for several journals at a time, and print the answers in the order of the journals.

Each answer is made on a thread of its own, or, if it changes nothing, in one of a few processes.
What it prints is held, and printed by the main thread when its turn comes. Journals of one key
(copies of one journal) are answered for one after the other, in their order.

Signals are the main thread's: its handler shortens the deadline that all jobs share. If it raises,
jobs that have not begun are dropped, and the others end within the grace. Must not know what an
answer is about.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, TypeAlias

from journaltrack.cli import output, progress
from journaltrack.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline
    from journaltrack.util.threads import DaemonPool

_FILES_OF_A_JOURNAL: Final = 10
"""Ours: files and connections that a small journal has open at a time; 6 and 2 were seen."""
_OTHER_FILES: Final = 40
"""Ours: files of the process itself, such as its modules, logs and streams."""
_MANY: Final = 64
"""Ours: so many answers take longer than the forks."""
_Answer: TypeAlias = "Callable[[str | None], ExitCode | None]"
_Made: TypeAlias = "tuple[output.Held, ExitCode | None, Exception | None]"


def within_open_files(jobs: int, concurrency: int) -> tuple[int, int]:
    """Return as many journals and requests at a time as this process may have files open for.

    First raise its own limit, as far as the system allows.

    Args:
        jobs: Journals at a time, at most.
        concurrency: Requests in flight, at most. Each has a connection.
    """
    wanted = _OTHER_FILES + concurrency + _FILES_OF_A_JOURNAL * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return jobs, concurrency
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # The system may have a limit of its own (macOS).
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    concurrency = max(1, min(concurrency, soft // 4))
    left = soft - _OTHER_FILES - concurrency
    return max(1, min(jobs, left // _FILES_OF_A_JOURNAL)), concurrency


@contextlib.contextmanager
def answering_in_processes(
    journals: Sequence[str | None], answer: Callable[[str | None], ExitCode]
) -> Iterator[_Answer]:
    """Make the answers during the block in a process for each CPU, for answers that change nothing.

    Each process is a fork that makes every second (third, ...) answer and sends it. Where that is
    impossible, or would not pay, this process makes them.

    Args:
        journals: Which journals.
        answer: Prints about one journal, and returns its exit code.

    Yields:
        As ``Jobs.answering``.
    """
    # macOS has no such call, and forks are not safe there.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if cpus < 2 or len(journals) < _MANY or threading.active_count() > 1:  # noqa: PLR2004
        yield answer
        return
    children: list[tuple[int, IO[bytes]]] = []
    place = {journal: n % cpus for n, journal in enumerate(journals)}
    lost: set[int] = set()

    def answered(journal: str | None) -> ExitCode | None:
        """Receive an answer, and print it."""
        number = place[journal]
        if number in lost:
            return answer(journal)
        try:
            made: _Made = pickle.load(children[number][1])  # noqa: S301 - our fork's
        # It was killed, perhaps for its memory, or an exception can't be sent.
        except Exception:  # noqa: BLE001 - and pickle raises anything
            lost.add(number)
            return answer(journal)
        held, code, error = made
        for print_it in held:
            print_it()
        if error is not None:
            raise error
        return code

    try:
        for n in range(cpus):
            children.append(_forked(journals[n::cpus], answer))  # noqa: PERF401 - one can fail
        yield answered
    finally:
        for pid, stream in children:
            stream.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _forked(
    journals: Sequence[str | None], answer: Callable[[str | None], ExitCode]
) -> tuple[int, IO[bytes]]:
    """Make these answers in a fork of this process; return its id, and what reads them."""
    reading, writing = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, open(reading, "rb")  # noqa: PTH123 - closed by the caller
    try:
        os.close(reading)
        # The parent ends this process: without it nobody reads.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(writing, "wb") as to:  # noqa: PTH123 - a descriptor
            for journal in journals:
                to.write(pickle.dumps(_held_answer(journal, answer)))
                to.flush()
    finally:
        # Neither the streams nor anything else is this process's to finish.
        os._exit(0)


def _held_answer(journal: str | None, answer: Callable[[str | None], ExitCode]) -> _Made:
    held: output.Held = []
    with output.holding(held):
        try:
            return held, answer(journal), None
        except Exception as error:  # noqa: BLE001 - raised where it is printed
            return held, None, error


@dataclass(frozen=True, slots=True)
class Jobs:
    """Say how to answer for several journals at a time.

    Attributes:
        at_once: Journals at a time.
        deadline: Ends all answers.
        key: Returns what journals have in common that must not be answered for at the same time.
    """

    at_once: int
    deadline: Deadline
    key: Callable[[str | None], Hashable]

    @contextlib.contextmanager
    def answering(
        self,
        journals: Sequence[str | None],
        answer: Callable[[str | None], ExitCode],
        has_ended: Callable[[], object],
    ) -> Iterator[_Answer]:
        """Make the answers during the block.

        Args:
            journals: Which journals.
            answer: Prints about one journal, and returns its exit code. Called on several threads.
            has_ended: Returns whether to leave out all that have not begun.

        Yields:
            A function that waits for the answer about a journal, prints it, and returns the exit
            code or raises. It returns None for a journal that was left out.
        """
        from journaltrack.util.threads import HEAR_S, DaemonPool  # noqa: PLC0415 - not to complete

        def made(journal: str | None, before: Future[_Made] | None) -> _Made:
            """Make one answer, on a thread of the pool."""
            # It was submitted earlier, and so has begun.
            wait([] if before is None else [before])
            return ([], None, None) if has_ended() else _held_answer(journal, answer)

        futures: dict[str | None, Future[_Made]] = {}

        def answered(journal: str | None) -> ExitCode | None:
            """Wait for an answer, and print it."""
            future = futures.pop(journal)
            while not future.done():
                wait([future], timeout=HEAR_S)
            held, code, error = future.result()
            if held:
                with progress.aside():
                    for print_it in held:
                        print_it()
            if error is not None:
                raise error
            return code

        pool = DaemonPool(self.at_once, "journaltrack-job")
        last: dict[Hashable, Future[_Made]] = {}
        with progress.together(), self._ending(pool):
            for journal in journals:
                key = self.key(journal)
                futures[journal] = last[key] = pool.submit(made, journal, last.get(key))
            yield answered

    @contextlib.contextmanager
    def _ending(self, pool: DaemonPool) -> Iterator[None]:
        """End the jobs in order, whatever interrupts the block."""
        from journaltrack.util.deadline import INTERRUPTED_GRACE_S  # noqa: PLC0415 - as above

        try:
            yield
        except BaseException:
            self.deadline.cancel(grace_s=INTERRUPTED_GRACE_S)
            try:
                pool.shutdown(cancel_futures=True)
            # Interrupted once more.
            except BaseException:
                self.deadline.cancel()
                pool.shutdown()
                raise
            raise
        pool.shutdown()
