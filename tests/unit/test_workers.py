"""Threads that do one kind of work: every job once, its result or its error, in groups, and nothing that was taken back."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from journaltrack.workers import Workers

FOREVER_S = 60.0  # a test that waits so long has failed


def taken(workers, count, group_s=0.0):
    """The results of so many jobs, by job."""
    found = {}
    while len(found) < count:
        done = workers.take(FOREVER_S, group_s)
        assert done, "nothing came"
        found.update(done)
    return found


def test_every_job_is_done_once():
    """A thousand jobs on four threads: each has its own result, and none is left."""
    calls = []
    workers = Workers(lambda job: calls.append(job) or job * 2, 4, "test")
    workers.give(range(1_000))
    assert taken(workers, 1_000) == {job: job * 2 for job in range(1_000)}
    assert sorted(calls) == list(range(1_000))
    assert workers.unfinished == 0
    assert workers.take(0.0) == []
    workers.close(wait=True)


def test_no_more_threads_than_allowed_and_than_needed():
    """Threads are made as there are jobs for them, up to the bound; all of them work at a time."""
    together = threading.Barrier(3)
    workers = Workers(lambda _: together.wait(FOREVER_S), 3, "test-bound")
    before = threading.active_count()
    workers.give([1])
    assert threading.active_count() == before + 1
    workers.give(range(2, 7))
    assert threading.active_count() == before + 3
    assert len(taken(workers, 6)) == 6
    workers.close(wait=True)
    assert threading.active_count() == before


def test_a_group_is_waited_for():
    """After the first result, the others are waited for as long as was asked, and come with it."""
    go = [threading.Event() for _ in range(3)]
    workers = Workers(lambda job: go[job].wait(FOREVER_S), 3, "test")
    workers.give(range(3))
    go[0].set()
    assert [job for job, _ in workers.take(FOREVER_S, 0.0)] == [0], "no group was asked for"
    go[1].set()
    threading.Timer(0.01, go[2].set).start()
    assert sorted(job for job, _ in workers.take(FOREVER_S, FOREVER_S)) == [1, 2]
    workers.close(wait=True)


def test_nothing_in_time_is_nothing():
    """A job that takes longer than is waited for stays unfinished, and its result comes later."""
    go = threading.Event()
    workers = Workers(lambda _: go.wait(FOREVER_S), 1, "test")
    workers.give(["slow"])
    assert workers.take(0.0) == []
    assert workers.take(0.01, 0.01) == []
    assert workers.unfinished == 1
    go.set()
    assert taken(workers, 1) == {"slow": True}
    workers.close(wait=True)


def test_what_was_taken_back_is_never_done():
    """Jobs that no thread has begun come back in order; the one that was begun does not."""
    begun, go = threading.Event(), threading.Event()
    done = []

    def work(job):
        begun.set()
        go.wait(FOREVER_S)
        done.append(job)

    workers = Workers(work, 1, "test")
    workers.give("abc")
    assert begun.wait(FOREVER_S)
    assert workers.take_back() == ["b", "c"]
    assert workers.unfinished == 1
    go.set()
    assert list(taken(workers, 1)) == ["a"]
    workers.close(wait=True)
    assert done == ["a"]


def test_an_error_is_raised_where_its_result_is_taken():
    """What the work raises, be it no Exception even, is not lost on its thread, which goes on."""

    def work(job):
        if job == "bad":
            raise SystemExit(job)
        return job

    workers = Workers(work, 1, "test")
    workers.give(["bad"])
    with pytest.raises(SystemExit, match="bad"):
        workers.take(FOREVER_S)
    workers.give(["good"])
    assert taken(workers, 1) == {"good": "good"}
    workers.close(wait=True)


def test_a_thread_that_hangs_keeps_nobody_from_exiting():
    """A program ends although a job never does."""
    code = "import threading; from journaltrack.workers import Workers; Workers(lambda _: threading.Event().wait(), 1, 'x').give([1]); print('end')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True).stdout == "end\n"
