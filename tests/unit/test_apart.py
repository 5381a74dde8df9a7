"""The call that no signal handler interrupts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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
