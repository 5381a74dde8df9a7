"""Threads that do one kind of work: every job once, its result or its error, in groups, and
nothing that was taken back.
"""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from journaltrack.util.threads import Workers
from tests.patience import FOREVER_S

LANE = "only"


def only(work, threads_max, name="test"):
    """Workers of one lane."""
    return Workers(work, {LANE: threads_max}, name)


def arrived(workers, timeout_s=FOREVER_S, group_s=0.0):
    """The results that are there, by job; what the work raised is raised."""
    found = {}
    if workers.wait(timeout_s, group_s):
        while (done := workers.first()) is not None:
            workers.done_with_first()
            if done.error is not None:
                raise done.error
            found[done.job] = done.result
    return found


def taken(workers, count, group_s=0.0):
    """The results of so many jobs, by job."""
    found = {}
    while len(found) < count:
        done = arrived(workers, group_s=group_s)
        assert done, "nothing came"
        found |= done
    return found


def test_every_job_is_done_once():
    """A thousand jobs on four threads: each has its own result, and none is left."""
    calls = []
    workers = only(lambda job: calls.append(job) or job * 2, 4)
    workers.give(LANE, range(1_000))
    assert taken(workers, 1_000) == {job: job * 2 for job in range(1_000)}
    assert sorted(calls) == list(range(1_000))
    assert workers.unfinished() == 0
    assert not workers.wait(0.0)
    workers.close(wait=True)


def test_no_more_threads_than_allowed_and_than_needed():
    """Threads are made as there are jobs for them, up to the bound; all of them work at a time."""
    together = threading.Barrier(3)
    workers = only(lambda _: together.wait(FOREVER_S), 3, "test-bound")
    before = threading.active_count()
    workers.give(LANE, [1])
    assert threading.active_count() == before + 1
    workers.give(LANE, range(2, 7))
    assert threading.active_count() == before + 3
    assert len(taken(workers, 6)) == 6
    workers.close(wait=True)
    assert threading.active_count() == before


def test_a_lane_is_not_kept_back_by_another():
    """While all threads of one lane are stuck, the jobs of another are done, and a group is
    waited for in its lane alone.
    """
    go = threading.Event()
    workers = Workers(
        lambda job: job == "quick" or go.wait(FOREVER_S), {"quick": 1, "slow": 2}, "test"
    )
    workers.give("slow", ["a", "b", "c"])
    workers.give("quick", ["quick"])
    assert arrived(workers, group_s=FOREVER_S) == {"quick": True}
    assert (workers.unfinished("quick"), workers.unfinished("slow"), workers.unfinished()) == (
        0,
        3,
        3,
    )
    go.set()
    assert taken(workers, 3).keys() == {"a", "b", "c"}
    workers.close(wait=True)


def test_a_group_is_waited_for():
    """After the first result, the others are waited for as long as was asked, and come with it."""
    go = [threading.Event() for _ in range(3)]
    workers = only(lambda job: go[job].wait(FOREVER_S), 3)
    workers.give(LANE, range(3))
    go[0].set()
    assert [*arrived(workers)] == [0], "no group was asked for"
    go[1].set()
    threading.Timer(0.01, go[2].set).start()
    assert sorted(arrived(workers, FOREVER_S, FOREVER_S)) == [1, 2]
    workers.close(wait=True)


def test_nothing_in_time_is_nothing():
    """A job that takes longer than is waited for stays unfinished, and its result comes later."""
    go = threading.Event()
    workers = only(lambda _: go.wait(FOREVER_S), 1)
    workers.give(LANE, ["slow"])
    assert not workers.wait(0.0)
    assert not workers.wait(0.01, 0.01)
    assert workers.first() is None
    assert workers.unfinished() == 1
    go.set()
    assert taken(workers, 1) == {"slow": True}
    workers.close(wait=True)


def test_a_result_stays_until_it_is_done_with():
    """Whoever fails between taking a result and keeping it finds it again."""
    workers = only(lambda job: job * 2, 1)
    workers.give(LANE, [1, 2])
    assert workers.wait(FOREVER_S, FOREVER_S)
    assert [workers.first().result, workers.first().result] == [2, 2]
    assert workers.unfinished() == 2
    workers.done_with_first()
    assert workers.first().result == 4
    workers.close(wait=True)


def test_what_was_taken_back_is_never_done():
    """Jobs that no thread has begun come back in order; the one that was begun does not."""
    begun, go = threading.Event(), threading.Event()
    done = []

    def work(job):
        begun.set()
        go.wait(FOREVER_S)
        done.append(job)

    workers = only(work, 1)
    workers.give(LANE, "abc")
    assert begun.wait(FOREVER_S)
    assert workers.take_back() == ["b", "c"]
    assert workers.unfinished() == 1
    go.set()
    assert list(taken(workers, 1)) == ["a"]
    workers.close(wait=True)
    assert done == ["a"]


def test_an_error_comes_with_its_job():
    """What the work raises, be it no Exception even, is not lost on its thread, which goes on."""

    def work(job):
        if job == "bad":
            raise SystemExit(job)
        return job

    workers = only(work, 1)
    workers.give(LANE, ["bad", "good"])
    with pytest.raises(SystemExit, match="bad"):
        taken(workers, 1)
    assert taken(workers, 1) == {"good": "good"}
    workers.close(wait=True)


def test_a_thread_that_hangs_keeps_nobody_from_exiting():
    """A program ends although a job never does."""
    code = (
        "import threading; from journaltrack.util.threads import Workers; "
        "Workers(lambda _: threading.Event().wait(), {'x': 1}, 'x').give('x', [1]); print('end')"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
        ).stdout
        == "end\n"
    )
