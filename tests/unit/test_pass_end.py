"""When a pass ends, what it waits for, and what it tells on the way."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from contextlib import closing

import pytest

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.replay.plan import pending
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.util.deadline import Deadline
from tests.builders import CREATION, points
from tests.failing_remote import FailingRemote, passing
from tests.patience import FOREVER_S

RUNS = 30
pytestmark = pytest.mark.journal(
    {f"run-{number}": [CREATION, *points(2)] for number in range(RUNS)}
)


def test_three_failures_in_a_row_end_a_pass(journal):
    """A service that fails whatever it is asked is left alone after three requests, and those
    that were under way with them.
    """
    remote = FailingRemote()
    remote.failures["create"] += [passing()] * RUNS
    report = Reconciler(journal, remote, options=Options(concurrency=1)).run()
    assert report.halted is not None
    assert 3 <= len(remote.asked) <= 6
    assert (report.pending, report.quarantined, report.in_doubt) == (3 * RUNS, 0, 0)


def test_requests_whose_turn_did_not_come_in_time_are_no_failures(journal):
    """A watcher with a rate limit that is stopped does not take that for an outage."""
    late = RemoteError("over", kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)
    remote = FailingRemote()
    remote.failures["create"] += [late] * RUNS
    report = Reconciler(journal, remote, options=Options(concurrency=1)).run()
    assert (report.problem, report.out_of_time) == (None, True)
    assert (report.pending, report.quarantined, report.in_doubt) == (3 * RUNS, 0, 0)


def test_nothing_behind_the_request_that_ended_a_pass_is_looked_at(journal, monkeypatch):
    """The rest of a long journal stays as it is, even what needs no request."""
    remote = FailingRemote()
    Reconciler(journal, remote).run()
    monkeypatch.setattr(pending, "CHUNK_METRICS", 10)
    run = journal.component("run-0")
    journal.append(run, [*points(30), CREATION])
    expired = RemoteError("no", kind=ErrorKind.HALT, code="ExpiredToken", everywhere=True)
    remote.failures["put_metrics"] += [expired] * 30
    report = Reconciler(journal, remote).run()
    assert (report.halted, report.pending) == (expired, 31)


def test_failures_between_successes_end_no_pass(journal):
    """Two failures in a row, then an answer, and so on: everything is tried once, and what failed
    is pending.
    """
    remote = FailingRemote()
    remote.failures["create"] += [passing(), passing(), None] * (RUNS // 3)
    report = Reconciler(journal, remote, options=Options(concurrency=1)).run()
    assert report.halted is None
    assert len([method for method, _ in remote.asked if method == "create"]) == RUNS
    assert (report.delivered, report.pending) == (RUNS, 2 * RUNS)
    assert report.failed is not None
    assert journal.database.read("SELECT DISTINCT attempts FROM receipt") == [(1,)]


def test_progress_is_told_from_the_first_entry_to_the_last(journal):
    """What is settled and how often was asked never go back, of a total that stays; it is told
    on the way, too.
    """
    told = []
    report = Reconciler(
        journal, FailingRemote(), options=Options(concurrency=2), on_progress=told.append
    ).run()
    assert {progress.total for progress in told} == {3 * RUNS}
    for earlier, later in itertools.pairwise(told):
        assert earlier.done <= later.done
        assert earlier.requests <= later.requests
    assert (told[0].done, told[0].requests) == (0, 0)
    assert (told[-1].done, told[-1].requests) == (3 * RUNS, report.requests)
    assert len({progress.done for progress in told}) > 2


@pytest.mark.slow
def test_what_is_under_way_at_the_end_has_its_grace(tmp_path):
    """A pass that is told to stop keeps its lease and waits for the answer to a request, as long
    as its grace lasts: nothing is in doubt.
    """
    with closing(Journal.open(tmp_path / "journal")) as journal:
        journal.append(
            journal.component("run"),
            [vocabulary.create(owner="me"), vocabulary.metric("loss", 1.0, 1, 1)],
        )
        remote, deadline, now_ns = FailingRemote(), Deadline(), itertools.count(10**18, 10**11)
        given_up = threading.Event()

        def end_and_wait_for_a_renewal():
            with closing(sqlite3.connect(journal.path / "journal.db", timeout=FOREVER_S)) as other:

                def expires():
                    return other.execute("SELECT expires_at_ns FROM lease").fetchone()

                before = expires()
                deadline.cancel(grace_s=600.0)
                while expires() == before and not given_up.wait(0.02):
                    pass

        remote.beside["put_metrics"] = end_and_wait_for_a_renewal
        report = Reconciler(journal, remote, deadline=deadline, clock_ns=lambda: next(now_ns)).run()
        given_up.set()
        assert (report.delivered, report.pending, report.in_doubt) == (2, 0, 0)
        assert journal.database.read(
            "SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL"
        ) == [(0,)]
