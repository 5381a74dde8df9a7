"""However a pass ends, every answer in hand is recorded, what was not sent is pending, and
nothing leaves afterwards.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime, timedelta, timezone

import boto3
import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from journaltrack import Tracker, sync
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection
from journaltrack.errors import (
    ErrorKind,
    JournalFullError,
    JournalLockedError,
    JournalWriteError,
    LeaseLostError,
    RemoteError,
)
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.connection import Database
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.lease import Gate
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.util.deadline import Deadline
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT
from tests.simulator import BlackHole, simulator

POINTS = 2_000


@pytest.fixture
def folder(tmp_path, credentials):
    """A journal of one component with points enough for two hundred requests."""
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for step in range(POINTS):
            tracker.log_metric("loss", float(step), iteration_number=step)
    return tmp_path / "journal"


def outcomes(folder):
    """How many entries are settled how; and how many receipts are unfinished."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        found = dict(connection.execute("SELECT outcome, count(*) FROM delivery GROUP BY outcome"))
        metrics = (
            "SELECT count(*) FROM delivery d JOIN entry e ON e.seq = d.seq "
            "WHERE e.stream = 'metric' AND d.outcome = 'delivered'"
        )
        found["points"] = connection.execute(metrics).fetchone()[0]
        found["unfinished"] = connection.execute(
            "SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL"
        ).fetchone()[0]
        found["lease"] = connection.execute("SELECT owner FROM lease").fetchone()[0]
    return found


def values(points):
    return sorted(point.value for point in points)


def workers_are_gone():
    """Wait until no worker of a pass is left: whatever one of them still had to do is done then."""
    for thread in threading.enumerate():
        if thread.name.startswith("journaltrack-replay"):
            thread.join(FOREVER_S)
            assert not thread.is_alive()


class Hooked(MemoryRemote):
    """Calls ``before`` with the number of each metric request before it takes effect."""

    def __init__(self, before):
        super().__init__()
        self.before = before
        self.numbers = 0
        self.guard = threading.Lock()

    def put_metrics(self, component, points):
        with self.guard:
            self.numbers += 1
            number = self.numbers
        self.before(number)
        return super().put_metrics(component, points)


def replay(folder, remote, database=None, **options):
    """A pass, with a journal of its own."""
    database = database or Database(folder / "journal.db")
    with contextlib.closing(Journal(database)) as journal:
        return Reconciler(journal, remote, **options).run()


INTERRUPTED = """
import sys
from journaltrack import Tracker
tracker = Tracker.load("run", journal=sys.argv[1], sync="close", close_deadline_s=3_600)
tracker.log_parameter("last", 1)
try:
    tracker.close()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("at", [1, 40, 120])
def test_ctrl_c_in_close_loses_no_answer(folder, at):
    """SIGINT in the midst of close(): it is raised, after every answer was recorded; nothing is
    in doubt, nothing comes afterwards.
    """
    with simulator(latency_s=0.005) as sim:
        environment = os.environ | ENVIRONMENT | {"AWS_ENDPOINT_URL": sim.endpoint_url}
        child = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        seen = iter(range(1, 10**6))

        def interrupt(call):
            if call.operation == "BatchPutMetrics" and next(seen) == at:
                child.send_signal(signal.SIGINT)

        sim.on_request = interrupt
        assert child.communicate(timeout=FOREVER_S)[0] == "interrupted\n"
        found = outcomes(folder)
        assert found["unfinished"] == 0
        assert "in doubt" not in found
        assert found["lease"] is None
        there = len(sim.components["run"].metrics)
        assert at * 10 - 10 <= there <= POINTS
        sim.on_request = None
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        assert values(sim.components["run"].metrics) == [float(n) for n in range(POINTS)]


def test_an_exception_of_the_caller_ends_the_pass_in_order(folder):
    """What a progress callback raises comes out of the pass, with every answer recorded and the
    lease given back.
    """
    remote = MemoryRemote()

    def fail(progress):
        if progress.requests > 20:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replay(folder, remote, on_progress=fail)
    found = outcomes(folder)
    assert (found["unfinished"], found["lease"], found.get("in doubt")) == (0, None, None)
    assert replay(folder, remote).pending == 0
    assert values(remote.components["run"].points) == [float(n) for n in range(POINTS)]


@pytest.mark.parametrize(
    "error", [RecursionError("maximum depth"), MemoryError(), KeyError("x"), SystemExit(3)]
)
def test_an_unexpected_exception_costs_its_own_request(folder, error):
    """One request fails in a way that nobody expected: it is in doubt, all others are delivered
    by the same pass.
    """

    def fail(number):
        if number == 7:
            raise error

    remote = Hooked(fail)
    report = replay(folder, remote)
    assert (report.in_doubt, report.pending, report.halted) == (10, 0, None)
    assert len(remote.components["run"].points) == POINTS - 10
    assert outcomes(folder)["unfinished"] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("x"), "KeyError"),
        (RemoteError("", kind=ErrorKind.TRANSIENT, code="Lost", maybe_applied=True), "Lost"),
    ],
    ids=["unexpected", "of the remote"],
)
def test_a_failure_before_anything_left_leaves_it_pending(folder, error, code):
    """A remote that looks at the gate fails before that: its entries are pending, not in doubt,
    and the report says why.
    """
    gate = Gate(Deadline())
    gate.guarded = True

    def fail(number):
        if number == 7:
            raise error
        gate.departing()

    report = replay(folder, Hooked(fail), deadline=gate)
    assert (report.in_doubt, report.pending, report.failed.code) == (0, 10, code)


class Refusing(Database):
    """A database whose transactions fail while ``refuses`` is set."""

    refuses = None

    @contextlib.contextmanager
    def transaction(self):
        if self.refuses is not None:
            raise self.refuses
        with super().transaction() as connection:
            yield connection


@pytest.mark.parametrize(
    "error", [JournalFullError("no space is left"), JournalWriteError("disk I/O error")]
)
def test_a_journal_that_refuses_for_a_while_gets_the_answers_later(folder, error, caplog):
    """The disk is full, or fails, in mid-pass: what was answered is recorded as soon as it takes
    entries again, and the error is raised.
    """
    database = Refusing(folder / "journal.db")

    def fail(number):
        if number == 60:
            database.refuses = error

    class Recovers(logging.Handler):
        def emit(self, record):
            if "tried again" in record.getMessage():
                database.refuses = None

    logger = logging.getLogger("journaltrack.replay.reconciler")
    handler = Recovers()
    logger.addHandler(handler)
    remote = Hooked(fail)
    try:
        with pytest.raises(type(error)):
            replay(folder, remote, database)
    finally:
        logger.removeHandler(handler)
    found = outcomes(folder)
    assert (found["unfinished"], found.get("in doubt"), found["lease"]) == (0, None, None)
    assert found["points"] == len(remote.components["run"].points)
    remote.before = lambda _: None
    assert replay(folder, remote).pending == 0
    assert values(remote.components["run"].points) == [float(n) for n in range(POINTS)]


def test_a_write_lock_that_is_held_for_long_loses_no_answer(folder):
    """Another process holds the journal's write lock for longer than a pass waits for it: the
    answers are recorded after it.
    """
    holder = sqlite3.connect(folder / "journal.db", isolation_level=None, check_same_thread=False)
    held, refused = threading.Event(), threading.Event()

    def hold(number):
        if number == 30:
            holder.execute("BEGIN IMMEDIATE")
            held.set()

    class Refused(logging.Handler):
        def emit(self, record):
            if "tried again" in record.getMessage() and not refused.is_set():
                refused.set()
                holder.execute("ROLLBACK")

    logger = logging.getLogger("journaltrack.replay.reconciler")
    handler = Refused()
    logger.addHandler(handler)
    remote = Hooked(hold)
    try:
        with pytest.raises(JournalLockedError):
            replay(folder, remote, Database(folder / "journal.db", busy_timeout_s=0.2))
    finally:
        logger.removeHandler(handler)
        holder.close()
    assert held.is_set()
    found = outcomes(folder)
    assert (found["unfinished"], found.get("in doubt"), found["lease"]) == (0, None, None)
    assert found["points"] == len(remote.components["run"].points)


class FailsToFlush(Database):
    """A database whose n-th power barrier fails: an intent is in the journal, and perhaps not on
    the disk.
    """

    flushes = 0

    def sync(self):
        self.flushes += 1
        if self.flushes == 3:
            raise JournalWriteError("fsync: Input/output error")
        super().sync()


def test_eio_at_the_intent_leaves_its_entries_pending(folder):
    """The disk fails between an intent and its request: nothing of it was sent, so nothing is in
    doubt, now or later.
    """
    remote = MemoryRemote()
    with pytest.raises(JournalWriteError):
        replay(folder, remote, FailsToFlush(folder / "journal.db"))
    found = outcomes(folder)
    assert (found["unfinished"], found.get("in doubt")) == (0, None)
    report = replay(folder, remote)
    assert (report.pending, report.in_doubt) == (0, 0)
    assert values(remote.components["run"].points) == [float(n) for n in range(POINTS)]


def test_a_lost_lease_ends_the_pass_and_nothing_leaves_afterwards(folder):
    """Somebody else took the lease over: the pass records nothing more, sends nothing more, and
    says so.
    """
    taken = threading.Event()

    def take_over(number):
        if number == 20:
            with closing(
                sqlite3.connect(folder / "journal.db", isolation_level=None, timeout=FOREVER_S)
            ) as connection:
                connection.execute("UPDATE lease SET generation = generation + 1")
            taken.set()

    remote = Hooked(take_over)
    with pytest.raises(LeaseLostError):
        replay(folder, remote)
    assert taken.is_set()
    asked = remote.numbers
    workers_are_gone()
    assert remote.numbers == asked


def test_what_no_worker_began_is_not_sent(folder):
    """A halt in mid-pass: requests that waited for a worker are "not sent", their entries
    pending, and no answer of the others is lost.
    """

    def halt(number):
        if number == 30:
            raise RemoteError("expired", kind=ErrorKind.HALT, code="ExpiredToken", everywhere=True)

    remote = Hooked(halt)
    report = replay(folder, remote, options=Options(concurrency=2))
    assert report.halted is not None
    assert report.in_doubt == 0
    assert outcomes(folder)["points"] == len(remote.components["run"].points)
    assert report.pending >= POINTS - outcomes(folder)["points"]


class StuckCredentials:
    """Credentials whose look-up hangs, from some moment on, until it is let go."""

    def __init__(self):
        self.stuck, self.hangs, self.go = threading.Event(), threading.Event(), threading.Event()

    def session(self):
        """A session that asks for credentials before every request, as those that expire within
        minutes are.
        """
        found = botocore.session.get_session()
        found._credentials = RefreshableCredentials.create_from_metadata(
            self.look_up(), self.look_up, "test"
        )
        return boto3.Session(botocore_session=found, region_name="us-east-1")

    def look_up(self):
        """What a credential_process or the metadata service does."""
        if self.stuck.is_set():
            self.hangs.set()
            self.go.wait(FOREVER_S)
        # So soon (botocore: below 10 minutes) that all requests wait for new ones, and not one.
        soon = datetime.now(timezone.utc) + timedelta(minutes=9)
        return {
            "access_key": "AKIDTEST",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": soon.isoformat(),
        }


def test_a_request_stuck_in_a_credential_look_up_never_leaves_after_the_pass(tmp_path, credentials):
    """A worker wakes from a credential look-up when the pass is over: it sends nothing, and its
    entries are pending, not in doubt.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_parameter("lr", 1)
        for step in range(50):
            tracker.log_metric("loss", float(step), iteration_number=step)
    stuck = StuckCredentials()
    with simulator() as sim:

        def hang(call):
            if call.operation == "CreateTrialComponent":
                stuck.stuck.set()

        sim.on_request = hang
        deadline = Deadline()
        ended = threading.Timer(0, lambda: stuck.hangs.wait(FOREVER_S) and deadline.cancel())
        ended.start()
        connection = Connection(stuck.session(), endpoint_url=sim.endpoint_url)
        report = run_pass(tmp_path / "journal", connection, deadline=deadline)
        assert stuck.hangs.is_set()
        assert report.in_doubt == 0
        assert report.pending == 53
        assert outcomes(tmp_path / "journal")["unfinished"] == 0
        before = len(sim.requests)
        with Tracker.load("run", journal=tmp_path / "journal", sync="off") as tracker:
            tracker.log_parameter("lr", 2)
        sim.on_request = None
        assert sync(tmp_path / "journal", endpoint_url=sim.endpoint_url).pending == 0
        stuck.go.set()
        workers_are_gone()
        assert sim.components["run"].parameters["lr"] == {"NumberValue": 2.0}
        assert len(sim.components["run"].metrics) == 50
        assert len(sim.calls("UpdateTrialComponent")) == 1
        assert before < len(sim.requests)


def test_a_request_stuck_in_a_resolver_never_leaves_after_the_pass(
    tmp_path, credentials, monkeypatch
):
    """Names are resolved only after the pass is over: nothing is sent then, and nothing is in
    doubt.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for step in range(50):
            tracker.log_metric("loss", float(step), iteration_number=step)
    hangs, go, resolve = threading.Event(), threading.Event(), __import__("socket").getaddrinfo

    def stuck(*arguments, **options):
        if threading.current_thread().name.startswith("journaltrack-replay"):
            hangs.set()
            go.wait(FOREVER_S)
        return resolve(*arguments, **options)

    monkeypatch.setattr("socket.getaddrinfo", stuck)
    with simulator() as sim:
        deadline = Deadline()
        threading.Timer(0, lambda: hangs.wait(FOREVER_S) and deadline.cancel()).start()
        report = run_pass(
            tmp_path / "journal", Connection(endpoint_url=sim.endpoint_url), deadline=deadline
        )
        assert (report.pending, report.in_doubt, sim.requests) == (53, 0, [])
        go.set()
        workers_are_gone()
        assert sim.requests == []
    assert outcomes(tmp_path / "journal")["unfinished"] == 0


def test_no_metric_request_is_begun_whose_answer_would_come_too_late(folder):
    """When less time is left than answers take, metrics stay pending instead of in doubt; what
    was begun is recorded.
    """
    now = [0.0]
    late = threading.Event()

    def take(number):
        if number == 20:
            now[0] = 60 - 1e-9
            late.set()
        elif number > 20:
            late.wait(FOREVER_S)

    remote = Hooked(take)
    report = replay(folder, remote, deadline=Deadline(60.0, clock=lambda: now[0]))
    assert (report.in_doubt, report.out_of_time) == (0, True)
    assert 19 <= remote.numbers <= POINTS / 20, "what workers had in hand, and nothing more"
    assert outcomes(folder)["points"] == 10 * remote.numbers
    assert outcomes(folder)["unfinished"] == 0


def test_a_deadline_with_requests_in_flight_leaves_the_least_in_doubt(folder):
    """Every answer up to the deadline is recorded; only requests that left and were never
    answered are in doubt, one by one.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", BlackHole(), times=3, after=50)
        deadline = Deadline()

        def end(call):
            if call.operation == "BatchPutMetrics" and len(sim.calls("BatchPutMetrics")) > 150:
                deadline.cancel(grace_s=1.0)

        sim.on_request = end
        report = run_pass(folder, Connection(endpoint_url=sim.endpoint_url), deadline=deadline)
        sim.on_request = None
        sim.release()
        assert report.out_of_time
        assert outcomes(folder)["unfinished"] == 3
        assert outcomes(folder)["points"] == len(sim.components["run"].metrics)
        workers_are_gone()
        again = sync(folder, endpoint_url=sim.endpoint_url)
        assert again.in_doubt == 30
        assert again.pending == 0
    assert json.dumps(outcomes(folder)["in doubt"]) == "30"


def test_a_handshake_that_is_reset_leaves_everything_pending(tmp_path, credentials):
    """The TLS handshake breaks again and again: nothing was sent, so nothing is in doubt, pass
    after pass.
    """
    folder = tmp_path / "journal"
    Tracker.create(trial_component_name="run", journal=folder, sync="off").close()
    with simulator() as sim:
        sync(folder, endpoint_url=sim.endpoint_url)
        with Tracker.load("run", journal=folder, sync="off") as tracker:
            for step in range(300):
                tracker.log_metric("loss", float(step), iteration_number=step)
        with resetting() as url:
            for _ in range(2):
                report = sync(folder, endpoint_url=url)
                assert report.halted.kind is ErrorKind.TRANSIENT
                assert (report.in_doubt, report.delivered, outcomes(folder)["unfinished"]) == (
                    0,
                    0,
                    0,
                )
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        assert values(sim.components["run"].metrics) == [float(n) for n in range(300)]


@contextlib.contextmanager
def resetting():
    """An endpoint that resets every connection in the midst of the handshake."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(ConnectionError):
                        connection.recv(10)
                        connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
