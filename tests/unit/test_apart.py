"""The call that no signal handler interrupts, and how signals are heard beside it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.jobs import Jobs
from journaltrack.util.deadline import Deadline
from journaltrack.util.threads import Apart


def on_another_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def apart_of(work, on_message=None):
    asked = []
    made = Apart(lambda: work(made, asked), on_message=on_message, on_interrupt=asked.append)
    return made, asked


def test_only_the_main_thread_waits_for_another():
    """Signal handlers run on the main thread alone: a call made elsewhere stays there."""
    made, _ = apart_of(lambda *_: threading.current_thread())
    assert made.result("test") is not threading.main_thread()
    made, _ = apart_of(lambda *_: threading.current_thread())
    ran, caller = on_another_thread(lambda: (made.result("test"), threading.current_thread()))
    assert ran is caller


@pytest.mark.parametrize("run", [lambda call: call(), on_another_thread])
def test_what_the_callers_function_raises_ends_the_work_in_order(run):
    """The work is asked to end, goes on to its end undisturbed, and then the error is raised;
    no more messages are told.
    """
    told, ended = [], []

    def work(made, asked):
        while not asked:
            made.tell("news")
        made.tell("more")
        ended.append(len(asked))

    def refuse(message):
        told.append(message)
        raise KeyError(message)

    made, _ = apart_of(work, refuse)
    with pytest.raises(KeyError, match="news"):
        run(lambda: made.result("test"))
    assert told == ["news"]
    assert ended == [1]


@pytest.fixture
def signal_beside():
    """Send this process a signal that another thread takes, once the main thread is in a function.
    That does not end what the main thread waits for, as little as a signal that comes right before
    it waits.
    """
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = threading.main_thread().ident

    def send(function):
        while not any(
            frame.f_code.co_name == function
            for frame, _ in traceback.walk_stack(sys._current_frames()[main])
        ):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    yield send
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ended.set()
    other.join()


@pytest.mark.parametrize("where", ["start", "_wait"])
def test_a_signal_that_ends_no_wait_is_heard(signal_beside, where):
    """Ctrl-C is heard also where it does not end the wait for the work, or for its thread."""

    def work(_, asked):
        signal_beside(where)
        while not asked:
            pass

    made, asked = apart_of(work)
    with pytest.raises(KeyboardInterrupt):
        made.result("test")
    assert asked == [1]


def test_work_that_was_interrupted_before_it_began_never_begins(monkeypatch):
    """Whoever is interrupted while the thread starts waits for nothing, and nothing runs later."""
    ran = []
    made, _ = apart_of(lambda *_: ran.append(1))

    def interrupted(thread):
        monkeypatch.undo()
        made.thread = thread
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.result("test")
    made.thread.start()
    made.thread.join()
    assert not ran


def test_jobs_hear_a_signal_that_ends_no_wait(signal_beside):
    """As above, for several journals at a time."""
    deadline = Deadline()

    def answer(_):
        signal_beside("answered")
        while not deadline.over:
            pass
        return ExitCode.OK

    jobs = Jobs(2, deadline, lambda journal: journal)
    with (
        pytest.raises(KeyboardInterrupt),
        jobs.answering(["a", "b"], answer, lambda: False) as answered,
    ):
        answered("a")


@pytest.mark.parametrize("run", [lambda call: call(), on_another_thread])
def test_messages_come_in_order_on_the_callers_thread(run):
    """Each message is told before the result is returned, by the thread that asked for it."""
    told = []

    def work(made, _):
        for n in range(100):
            made.tell(n)
        return "result"

    def note(message):
        told.append((message, threading.current_thread()))

    made, _ = apart_of(work, note)
    result, caller = run(lambda: (made.result("test"), threading.current_thread()))
    assert result == "result"
    assert told == [(n, caller) for n in range(100)]
