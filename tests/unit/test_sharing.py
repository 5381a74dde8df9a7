"""Passes that run at the same time share a session, its connections and the requests in flight;
each still ends by itself.
"""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from journaltrack import Tracker
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection, Sharing
from journaltrack.errors import NotSentError
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay import dispatch
from journaltrack.replay.dispatch import AT_WORK_MAX, Company
from journaltrack.replay.lease import Gate
from journaltrack.replay.reconciler import Options
from journaltrack.util.deadline import CallersDeadline, Deadline
from tests.patience import FOREVER_S
from tests.simulator import simulator


@pytest.fixture
def connection(credentials):
    """A connection to a simulator, with something to share."""
    with simulator() as sim:
        yield Connection(endpoint_url=sim.endpoint_url, sharing=Sharing()), sim


def used(stack, connection):
    """Give the remote that a pass would get, until the stack ends."""
    return stack.enter_context(
        connection.sharing.remote(connection, lambda deadline: connection.remote(deadline, 4))
    )


def recorded(folder, name, points):
    """Return a journal with so many pending points of one run."""
    with Tracker.create(trial_component_name=name, journal=folder / name, sync="off") as tracker:
        for step in range(points):
            tracker.log_metric("loss", float(step), iteration_number=step)
    return folder / name


def test_a_remote_is_shared_by_passes_that_overlap(connection):
    """Passes at the same time get one remote; after the last of them, the next gets another."""
    connection, _ = connection
    with ExitStack() as stack:
        first = used(stack, connection)
        assert used(stack, connection) is first
    with ExitStack() as stack:
        assert used(stack, connection) is not first


def test_a_remote_is_kept_between_passes_where_that_is_asked_for(connection):
    """Within the block, passes one after the other get one remote."""
    connection, _ = connection
    with connection.sharing:
        with ExitStack() as stack:
            first = used(stack, connection)
        with ExitStack() as stack:
            assert used(stack, connection) is first


def test_another_region_gets_another_remote(connection):
    """A connection that differs shares nothing with the passes under way."""
    connection, _ = connection
    with ExitStack() as stack:
        first = used(stack, connection)
        assert used(stack, replace(connection, region="eu-west-1")) is not first


def test_a_pass_ends_alone(connection):
    """The gate of one pass turns away its own requests, and no other pass's."""
    connection, sim = connection
    with ExitStack() as stack:
        shared = used(stack, connection)
        over, lasting = Gate(Deadline()), Gate(Deadline())
        over.close()
        with pytest.raises(NotSentError):
            RetryingRemote(shared, deadline=over).describe("run")
        assert RetryingRemote(shared, deadline=lasting).describe("run") is None
    assert len(sim.calls("DescribeTrialComponent")) == 1


def test_a_thread_is_bound_by_the_deadline_that_governs_it():
    """What threads share sees the time of each; without a deadline there is no limit."""
    shared = CallersDeadline()

    def remaining(deadline):
        """Ask on a thread of its own."""
        deadline.govern()
        return shared.over, shared.wait(0.0), shared.cut_short

    ended = Deadline()
    ended.cancel()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        assert one.submit(remaining, ended).result() == (True, False, True)
        assert other.submit(remaining, Deadline(3_600)).result() == (False, True, False)
        assert one.submit(lambda: shared.over).result()
    with ThreadPoolExecutor(1) as third:
        assert third.submit(shared.remaining_s).result() == float("inf")


def test_after_refused_credentials_the_next_pass_looks_them_up_again(
    connection, tmp_path, monkeypatch
):
    """Somebody renews the credentials between two passes of one command: they count."""
    connection, sim = connection
    journal = recorded(tmp_path, "run", 1)
    with connection.sharing:
        sim.expired.add("AKIDTEST")
        assert run_pass(journal, connection).halted is not None
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDRENEWED")
        assert run_pass(journal, connection).halted is None
    assert len(sim.components["run"].metrics) == 1


@pytest.mark.slow
def test_passes_share_the_requests_in_flight(connection, tmp_path):
    """Four passes at a time have no more requests in flight than one may have, and one each."""
    connection, sim = connection
    at_once, passes = 6, 4
    journals = [recorded(tmp_path, f"run-{n}", 400) for n in range(passes)]
    flying = []
    sim.latency_s = 0.005
    sim.on_request = lambda call: flying.append(call.n - len(sim.requests))
    with connection.sharing, ThreadPoolExecutor(passes) as pool:
        options = Options(concurrency=at_once)
        reports = list(pool.map(lambda each: run_pass(each, connection, options), journals))
    assert [report.pending for report in reports] == [0] * passes
    assert 2 <= max(flying) <= at_once + passes


def test_a_pass_that_waits_leaves_its_place_to_another(monkeypatch):
    """While as many passes work as may, the next waits, until one of them waits for answers."""
    monkeypatch.setattr(dispatch, "PLACE_S", FOREVER_S)
    company = Company()
    rest, at_rest, next_works = (threading.Event() for _ in range(3))
    begun = threading.Barrier(AT_WORK_MAX + 1, timeout=FOREVER_S)

    def work(n):
        with company.at_work():
            begun.wait()
            rest.wait(FOREVER_S)
            if n == 0:
                with company.at_rest():
                    at_rest.set()
                    assert next_works.wait(FOREVER_S)
            else:
                next_works.wait(FOREVER_S)

    def work_next():
        with company.at_work():
            next_works.set()

    with ThreadPoolExecutor(AT_WORK_MAX + 1) as pool:
        working = [pool.submit(work, n) for n in range(AT_WORK_MAX)]
        begun.wait()
        working.append(pool.submit(work_next))
        assert not next_works.wait(0.05)
        rest.set()
        assert at_rest.wait(FOREVER_S)
        for each in working:
            each.result(FOREVER_S)


def test_one_pass_goes_ahead_until_the_remote_has_proved_to_be_itself(monkeypatch):
    """One after the other, as each ends without a proof; with one, all the others at once."""
    monkeypatch.setattr(dispatch, "LEAD_S", FOREVER_S)
    company, inside, most = Company(), [], []
    together = threading.Barrier(3, timeout=FOREVER_S)

    def work(n):
        """The third one proves the remote; the three behind it meet."""
        with company.led():
            inside.append(n)
            most.append(len(inside))
            if len(most) == 3:
                company.proved()
            elif len(most) > 3:
                together.wait()
            inside.remove(n)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6), timeout=FOREVER_S))
    assert most[:3] == [1, 1, 1]


def test_a_pass_that_goes_ahead_and_hangs_delays_nobody_for_long(monkeypatch):
    """The others begin without a proof then."""
    monkeypatch.setattr(dispatch, "LEAD_S", 0.01)
    company = Company()
    with company.led(), ThreadPoolExecutor(1) as pool:

        def work():
            with company.led():
                return True

        assert pool.submit(work).result(FOREVER_S)


def test_a_pass_that_hangs_keeps_no_other_from_its_work():
    """Where all places are held, as by passes on a disk that hangs, others work nevertheless."""
    company = Company()
    end, begun = threading.Event(), threading.Barrier(AT_WORK_MAX + 1, timeout=FOREVER_S)

    def hang():
        with company.at_work():
            begun.wait()
            end.wait(FOREVER_S)

    with ThreadPoolExecutor(AT_WORK_MAX) as pool:
        hanging = [pool.submit(hang) for _ in range(AT_WORK_MAX)]
        begun.wait()
        try:
            with company.at_work(), company.at_rest():
                assert not any(each.done() for each in hanging)
        finally:
            end.set()


def test_passes_leave_their_places_while_they_wait_for_answers(connection, tmp_path, monkeypatch):
    """More passes than may work at a time have a request in flight at the same moment."""
    monkeypatch.setattr(dispatch, "PLACE_S", FOREVER_S)
    connection, sim = connection
    passes = AT_WORK_MAX + 2
    journals = [recorded(tmp_path, f"run-{n}", 3) for n in range(passes)]
    together = threading.Barrier(passes, timeout=FOREVER_S)
    sim.on_request = lambda call: together.wait() if call.n <= passes else None
    with connection.sharing, ThreadPoolExecutor(passes) as pool:
        reports = list(pool.map(lambda each: run_pass(each, connection), journals))
    assert [report.pending for report in reports] == [0] * passes


def test_a_pass_waits_for_its_place(connection, tmp_path, monkeypatch):
    """While others have all places, a pass sends nothing."""
    monkeypatch.setattr(dispatch, "PLACE_S", FOREVER_S)
    connection, sim = connection
    journal = recorded(tmp_path, "run", 3)
    end, begun = threading.Event(), threading.Barrier(AT_WORK_MAX + 1, timeout=FOREVER_S)

    def hold():
        with connection.sharing.company.at_work():
            begun.wait()
            end.wait(FOREVER_S)

    with ThreadPoolExecutor(AT_WORK_MAX + 1) as pool:
        for _ in range(AT_WORK_MAX):
            pool.submit(hold)
        begun.wait()
        waiting = pool.submit(run_pass, journal, connection)
        try:
            # A pass that waits for no place takes 0.1 s.
            assert not wait([waiting], timeout=0.5).done
            assert not sim.requests
        finally:
            end.set()
        assert waiting.result(FOREVER_S).pending == 0


def test_journals_that_another_writer_locks_keep_no_others_waiting(connection, tmp_path):
    """More journals are locked than passes work at a time; the others are delivered meanwhile."""
    connection, _ = connection
    locked = [recorded(tmp_path, f"locked-{n}", 3) for n in range(AT_WORK_MAX + 1)]
    free = [recorded(tmp_path, f"free-{n}", 3) for n in range(4)]
    with ExitStack() as stack:
        stack.enter_context(connection.sharing)
        pool = stack.enter_context(ThreadPoolExecutor(len(locked) + len(free)))
        writers = [
            stack.enter_context(closing(sqlite3.connect(each / "journal.db", isolation_level=None)))
            for each in locked
        ]
        for writer in writers:
            writer.execute("BEGIN IMMEDIATE")
        waiting = [pool.submit(run_pass, each, connection) for each in locked]
        delivered = [pool.submit(run_pass, each, connection) for each in free]
        assert [each.result(FOREVER_S).pending for each in delivered] == [0] * len(free)
        assert not any(each.done() for each in waiting)
        for writer in writers:
            writer.execute("ROLLBACK")
        assert [each.result(FOREVER_S).pending for each in waiting] == [0] * len(locked)
