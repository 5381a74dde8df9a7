"""The engine of verifying, on a remote in memory: what moves meanwhile, what fails, what it
costs, and what a repair may reopen.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone

import pytest

from journaltrack import Tracker
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import queries
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import outcomes
from journaltrack.replay.plan.pending import read_states
from journaltrack.replay.reconciler import Reconciler
from journaltrack.util.deadline import Deadline
from journaltrack.verification import diff, repair, shared_runs
from journaltrack.verification.diff import Difference
from journaltrack.verification.verifier import Verifier, VerifyOptions


@pytest.fixture
def folder(tmp_path):
    """A journal with three components, nothing delivered."""
    for name in ("a", "b", "c"):
        tracker = Tracker.create(trial_component_name=name, journal=tmp_path / "j", sync="off")
        tracker.log_parameter("lr", 0.1)
        for step in range(12):
            tracker.log_metric("loss", float(step), iteration_number=step)
        tracker.close()
    return tmp_path / "j"


def log(folder, value, step):
    tracker = Tracker.load("a", journal=folder, sync="off")
    tracker.log_parameter("lr", value)
    tracker.log_metric("loss", value, iteration_number=step)
    tracker.close()


def deliver(folder, remote):
    with contextlib.closing(Journal.open(folder)) as opened:
        Reconciler(opened, remote).run()


def verify(folder, remote, *, deadline=None, on_progress=None, **options):
    with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as opened:
        return Verifier(
            opened,
            remote,
            options=VerifyOptions(**{"visible_after_s": 0} | options),
            deadline=deadline,
            on_progress=on_progress,
        ).run()


class OnePerStep(MemoryRemote):
    """Keeps the last point of a metric and step, as moto does, and shows no single points."""

    def put_metrics(self, component, points):
        answer = super().put_metrics(component, points)
        held = self.components[component].points
        held[:] = {(point.name, point.step): point for point in held}.values()
        return answer

    def read_metrics(self, component, steps):
        return None


@pytest.mark.parametrize("is_twice", [False, True])
def test_a_point_per_step_is_remarked_on(folder, is_twice):
    """Fewer points than were delivered: where the journal has several of one step, the difference
    names stand-ins that keep one; where it has not, it does not.
    """
    remote = OnePerStep()
    log(folder, 0.5, 11 if is_twice else 12)
    deliver(folder, remote)
    if not is_twice:
        remote.components["a"].points.pop()
    (difference,) = verify(folder, remote, component="a").differences
    assert (difference.kind, difference.what, difference.name) == ("different", "metric", "loss")
    assert (diff.REPEATED in difference.note) is is_twice
    assert diff.NOT_TOLD in difference.note


class Wrapped(MemoryRemote):
    """Does something before it answers describe, ``times`` times."""

    times = 0

    def before(self):
        """Nothing."""

    def describe(self, component):
        if self.times:
            self.times -= 1
            self.before()
        return super().describe(component)


def test_what_a_sync_delivers_meanwhile_is_no_difference(folder):
    """A pass between reading the journal and asking the remote: the component is read again
    before anything is said.
    """
    remote = Wrapped()
    deliver(folder, remote)
    log(folder, 0.5, 12)
    remote.before, remote.times = lambda: deliver(folder, remote), 1
    report = verify(folder, remote, component="a")
    assert report.differences == []
    assert report.checked.points == 13


def test_a_component_that_is_written_to_all_the_time_is_unknown(folder):
    """If every look meets another sync, nothing is claimed to be wrong."""
    remote = Wrapped()
    deliver(folder, remote)
    steps = iter(range(12, 99))

    def another_sync():
        log(folder, 0.5, next(steps))
        deliver(folder, remote)

    remote.before, remote.times = another_sync, 3
    report = verify(folder, remote, component="a")
    assert {each.kind for each in report.differences} == {"unknown"}
    assert not report.complete


def test_points_of_a_killed_sync_may_be_there(folder):
    """What an unfinished receipt names may have arrived: there or not, it is no difference."""
    remote = MemoryRemote()
    deliver(folder, remote)
    log(folder, 77.0, 12)
    with contextlib.closing(Journal.open(folder)) as opened:
        held = leases.acquire(opened.database)
        component = opened.find("a")
        last = opened.last_seq()
        outcomes.Settlement(opened.database, held).begin(
            [outcomes.Intent("metrics", component.id, [last])]
        )
        held.release()
    assert verify(folder, remote).differences == []
    remote.components["a"].points.append(
        remote.components["a"].points[-1]._replace(value=77.0, step=12)
    )
    assert verify(folder, remote).differences == []


def test_a_failing_component_does_not_hide_the_others(folder):
    """A refusal that concerns one component makes that one unknown; the others are compared."""

    class Refusing(MemoryRemote):
        def describe(self, component):
            if component == "b":
                raise RemoteError(
                    "not this one", kind=ErrorKind.PERMANENT, code="ValidationException"
                )
            return super().describe(component)

    remote = MemoryRemote()
    deliver(folder, remote)
    refusing = Refusing()
    refusing.components = remote.components
    del remote.components["c"]
    report = verify(folder, refusing)
    assert {(each.component, each.kind) for each in report.differences} == {
        ("b", "unknown"),
        ("c", "missing"),
    }
    assert report.checked.components == 2
    assert report.halted is None


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("down", kind=ErrorKind.TRANSIENT, code="ConnectTimeout", unreachable=True),
        RemoteError("expired", kind=ErrorKind.HALT, code="ExpiredToken", everywhere=True),
        RemoteError("denied", kind=ErrorKind.HALT, code="AccessDenied"),
    ],
    ids=lambda error: error.code,
)
def test_what_concerns_everything_ends_it(folder, error):
    """No network, no credentials, no permission: it ends with the reason, and nothing is called
    missing.
    """
    asked = []

    class Failing(MemoryRemote):
        def describe(self, component):
            asked.append(component)
            raise error

    deliver(folder, MemoryRemote())
    report = verify(folder, Failing())
    assert report.halted is error
    assert report.counts["missing"] == 0
    assert not report.verified
    assert report.to_json()["halted"]["code"] == error.code


def test_a_deadline_ends_it(folder):
    """Time that is over is said, and what was not looked at is not claimed."""
    remote = MemoryRemote()
    deliver(folder, remote)
    deadline = Deadline()
    deadline.cancel()
    report = verify(folder, remote, deadline=deadline)
    assert (report.out_of_time, report.checked.components, report.verified) == (True, 0, False)


def test_progress_counts_every_component(folder):
    """The last word is that all of them are done, those of which nothing was delivered included."""
    remote = MemoryRemote()
    deliver(folder, remote)
    Tracker.create(trial_component_name="d", journal=folder, sync="off").close()
    told = []
    report = verify(folder, remote, on_progress=told.append)
    assert (told[-1].done, told[-1].total, report.unverified) == (4, 4, 1)


def test_two_repairs_at_once_send_nothing_twice(folder):
    """Both found the metric missing; the second one finds nothing to reopen, since it was
    delivered after it had looked.
    """
    remote = MemoryRemote()
    deliver(folder, remote)
    remote.components["a"].points.clear()
    first, second = verify(folder, remote), verify(folder, remote)
    for report, expected in ((first, 12), (second, 0)):
        with contextlib.closing(Journal.open(folder)) as opened:
            held = leases.acquire(opened.database)
            reopened = repair.reopen(
                opened.database,
                held,
                report.differences,
                read_at_ns=report.at_ns,
                receipt_id=report.receipt_id,
            )
            held.release()
        assert reopened == expected
        deliver(folder, remote)
    assert sorted(point.step for point in remote.components["a"].points) == list(range(12))


def test_what_another_journal_of_the_run_delivered_is_no_difference(tmp_path):
    """Two nodes log into one run, each into a journal of its own: SageMaker has one start, one end
    and one value of each parameter. That of either is well; that of a stranger is different.
    """
    remote, nodes = MemoryRemote(), [tmp_path / "one", tmp_path / "two"]
    # They overlap, so neither is a later run.
    with contextlib.ExitStack() as stack:
        for number, node in enumerate(nodes):
            run = stack.enter_context(
                Tracker.create(trial_component_name="run", journal=node, sync="off", resume=True)
            )
            run.trial_component.start_time = datetime(2026, 11, 27, number, tzinfo=timezone.utc)
            run.log_parameters({"node": number, "lr": 0.1})
    for node in nodes:
        deliver(node, remote)
    alone = verify(nodes[0], remote).differences
    assert {d.name for d in alone if d.kind == "different"} >= {"start", "node"}
    shared = shared_runs.among([*nodes, tmp_path / "none"])
    for node in nodes:
        assert verify(node, remote, shared=shared).verified
    remote.components["run"].parameters["node"] = 7.0
    (found,) = [d for d in verify(nodes[0], remote, shared=shared).differences if d.name == "node"]
    assert found.kind == "different"


def test_what_is_not_repairable_is_not_reopened(folder):
    """Whatever a difference is about, only those that are marked so are made pending."""
    remote = MemoryRemote()
    deliver(folder, remote)
    with contextlib.closing(Journal.open(folder)) as opened:
        held = leases.acquire(opened.database)
        component_id = opened.find("a").id
        left = [
            Difference(component_id, "a", "different", "metric", "loss"),
            Difference(component_id, "a", "extra", "parameter", "x"),
            Difference(component_id, "a", "different", "display name", repairable=True),
        ]
        assert repair.reopen(opened.database, held, left, read_at_ns=2**62, receipt_id=2**62) == 0
        assert queries.pending_count(opened.database) == 0
        held.release()


def test_a_reopened_entry_is_pending_with_a_receipt_that_says_why(folder):
    """Entries below the low-water mark are pending again, once; the receipt names them, and what
    is pending already is left alone.
    """
    deliver(folder, MemoryRemote())
    with contextlib.closing(Journal.open(folder)) as opened:
        held = leases.acquire(opened.database)
        records = outcomes.Settlement(opened.database, held)
        assert records.reopen(1, [2, 3, 5], "missing", absent=True) == 3
        assert records.reopen(1, [2, 3], "missing") == 0
        assert [entry.seq for entry in opened.entries(pending=True)] == [2, 3, 5]
        assert queries.pending_count(opened.database) == 3
        query = "SELECT action, entries, outcome, error_code FROM receipt ORDER BY id DESC LIMIT 1"
        assert opened.database.read(query) == [("reopen", "2-3,5", "released", "missing")]
        assert not read_states(opened.database, [1])[1].confirmed
        held.release()
