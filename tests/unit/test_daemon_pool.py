"""The pool of daemon threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError, wait
from contextvars import ContextVar

import pytest

from journaltrack.util.threads import DaemonPool


def test_results_and_exceptions_reach_their_futures():
    """A call's result or exception is its future's, whatever thread it ran on."""
    pool = DaemonPool(3, "test")
    squares = [pool.submit(pow, n, 2) for n in range(50)]
    failing = pool.submit(lambda: 1 / 0)
    assert [future.result() for future in squares] == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        failing.result()
    pool.shutdown()


def test_so_many_calls_at_a_time_and_not_more():
    """Calls run side by side up to the bound."""
    pool = DaemonPool(4, "test")
    together = threading.Barrier(4)
    assert len(wait([pool.submit(together.wait, 300) for _ in range(8)], timeout=300).done) == 8
    running, most, lock = 0, 0, threading.Lock()

    def count():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    wait([pool.submit(count) for _ in range(200)])
    assert most <= 4
    pool.shutdown()


def test_shutting_down_cancels_what_has_not_begun():
    """What runs is finished, what waits is cancelled, and nothing more is taken."""
    pool = DaemonPool(1, "test")
    begun, release = threading.Event(), threading.Event()

    def block():
        begun.set()
        return release.wait(300)

    running, waiting = pool.submit(block), pool.submit(int)
    begun.wait(300)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(0)
    release.set()
    assert running.result(300) is True
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_a_call_that_never_ends_keeps_no_interpreter():
    """The process exits although a call is still running."""
    code = (
        "import threading; from journaltrack.util.threads import DaemonPool; DaemonPool(1, "
        "'x').submit(threading.Event().wait); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout == "end\n"


def test_a_call_runs_in_the_context_of_its_caller():
    """What the caller set for its thread holds for the call, whichever thread makes it."""
    told = ContextVar("told")
    pool = DaemonPool(1, "test")
    told.set("first")
    first = pool.submit(told.get)
    told.set("second")
    assert [first.result(), pool.submit(told.get).result()] == ["first", "second"]
    pool.shutdown()


def test_at_the_limit_of_threads_fewer_do_the_work(monkeypatch):
    """A thread that can't start is told only if there is no other: that one makes all calls."""
    start, started = threading.Thread.start, []

    def limited(thread):
        """Start the first thread, and no other."""
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    pool = DaemonPool(3, "test")
    first = threading.Event()
    futures = [pool.submit(first.wait, 300), pool.submit(pow, 2, 3)]
    first.set()
    assert [future.result(300) for future in futures] == [True, 8]
    pool.shutdown()
    none = DaemonPool(3, "test")
    with pytest.raises(RuntimeError):
        none.submit(int)
    none.shutdown()
