"""Metrics in doubt, through real boto3 over HTTP: read back, settled where that proves
something, decided by a person elsewhere.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection
from journaltrack.cli import main
from journaltrack.journal.journal import Journal
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from tests.simulator import CutAfter, CutBefore, HttpError, simulator


def sync(folder, sim, **options):
    """One pass; ``visible_after_s=0``: what is not shown is not there."""
    return run_pass(
        folder, Connection(region="us-east-1", endpoint_url=sim.endpoint_url), Options(**options)
    )


@pytest.fixture
def journal(tmp_path, credentials):
    """A journal of points alone: thirty of one metric, step by step, and ten without a step."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off")
    for step in range(30):
        tracker.log_metric("loss", 1.0 + step, iteration_number=step)
    for n in range(10):
        tracker.log_metric("norm", 0.5 * n)
    tracker.close()
    return tmp_path / "j"


def there(sim):
    """How often each point is there."""
    return Counter((point.name, point.value) for point in sim.components["run"].metrics)


def in_doubt(folder):
    """Entries in doubt, as plain sqlite3 reads them."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return connection.execute(
            "SELECT count(*) FROM delivery WHERE outcome = 'in doubt'"
        ).fetchone()[0]


def test_a_batch_that_arrived_is_delivered_and_one_that_did_not_is_sent_again(journal):
    """Of two lost answers, the one whose request had taken effect is found by the next sync, the
    other is sent: each point is there once.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        first = sync(journal, sim)
        assert first.in_doubt == 20
        again = sync(journal, sim, visible_after_s=0)
        assert (again.arrived, again.not_arrived, again.delivered, again.pending) == (10, 10, 10, 0)
        assert in_doubt(journal) == 0
        assert set(there(sim).values()) == {1}
        assert there(sim).total() == 40
    report = audit(journal)
    assert report.totals.delivered == report.totals.entries
    assert not report.inconsistencies
    assert {
        group.outcome for group in report.components[0].receipts if group.action == "readback"
    } == {"delivered", "released"}


def test_absence_proves_nothing_before_its_time(journal):
    """Right after the lost answer, what is not shown stays in doubt, and is not asked for again
    with every pass.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        sync(journal, sim)
        assert sync(journal, sim).not_arrived == 0
        requests = len(sim.requests)
        assert sync(journal, sim).requests == 0
        assert len(sim.requests) == requests
        assert in_doubt(journal) == 10
        assert "0 points" in json.dumps(audit(journal).to_json())


def test_without_batch_get_metrics_sums_alone_decide(journal):
    """An endpoint (or a role) that does not give single steps: all points of a metric together."""
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        sim.fail("BatchGetMetrics", HttpError(403, "AccessDeniedException"), times=99)
        sync(journal, sim)
        report = sync(journal, sim)
        assert (report.arrived, report.halted) == (10, None)
        assert set(there(sim).values()) == {1}


def test_points_of_another_journal_keep_it_in_doubt_for_a_person(journal, tmp_path):
    """Somebody else's points at the same steps make it undecidable: it stays in doubt, says what
    was seen, and is settled by hand.
    """
    other = Tracker.load("run", journal=tmp_path / "other", sync="off")
    for step in range(30):
        other.log_metric("loss", 7.0, iteration_number=step)
    for _ in range(3):
        other.log_metric("norm", 7.0)
    other.close()
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        sync(journal, sim)
        sync(tmp_path / "other", sim)
        assert sync(journal, sim, visible_after_s=0).arrived == 0
        assert in_doubt(journal) == 10
        printed = CliRunner().invoke(main, ["audit", str(journal)]).output
        assert "read back" in printed
        assert "it is not told which" in printed
        told = CliRunner().invoke(
            main, ["resolve", str(journal), "--delivered", "--note", "counted by hand"]
        )
        assert (told.exit_code, told.output) == (0, "resolved 10 entries as delivered\n")
        assert CliRunner().invoke(main, ["audit", str(journal)]).exit_code == 0
        listed = CliRunner().invoke(main, ["audit", "entries", str(journal), "--json"]).output
        assert listed.count("counted by hand") == 10
        assert sync(journal, sim).requests == 0


@pytest.mark.parametrize("opened", [{}, {"resume": True}])
def test_equal_points_of_another_journal_do_not_prove_that_ours_arrived(
    tmp_path, credentials, opened
):
    """Two nodes log the same of one component: what one of them lost is not there because the
    other's is.
    """
    nodes = [tmp_path / "a", tmp_path / "b"]
    for node, metrics in zip(nodes, (["loss"], ["loss", "theirs"]), strict=True):
        attached = Tracker.create(trial_component_name="run", journal=node, sync="off", **opened)
        if node is nodes[1] and not opened:
            attached.close()
            shutil.rmtree(node)
            attached = Tracker.load("run", journal=node, sync="off")
        for step in range(10):
            for name in metrics:
                attached.log_metric(name, 1.0 + step, iteration_number=step)
        attached.close()
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        assert sync(nodes[0], sim).in_doubt == 10
        assert sync(nodes[1], sim).delivered == 21
        again = sync(nodes[0], sim, visible_after_s=0)
        assert (again.arrived, again.not_arrived) == (0, 0)
        assert in_doubt(nodes[0]) == 10
        assert "not told whose" in CliRunner().invoke(main, ["audit", str(nodes[0])]).output
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        late = Tracker.load("run", journal=nodes[1], sync="off")
        late.log_metric("loss", 5.0, iteration_number=77)
        late.close()
        sync(nodes[1], sim)
        assert sync(nodes[1], sim, visible_after_s=0).arrived == 0, (
            "the one that loads it can't know who else does"
        )


@pytest.mark.parametrize("stepped_s", [3_600, -3_600])
def test_a_clock_that_is_set_does_not_make_points_absent(journal, stepped_s):
    """Ours is set after the lost answer: only when the service's own clock has moved on are its
    points taken for not there.
    """
    ours, theirs = [time.time()], [time.time()]

    def replay(sim):
        own = Journal.open(journal)
        try:
            remote = AwsRemote(region="us-east-1", endpoint_url=sim.endpoint_url)
            return Reconciler(own, remote, clock_ns=lambda: int(ours[0] * 1e9)).run()
        finally:
            own.close()

    with simulator(clock=lambda: theirs[0]) as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        assert replay(sim).in_doubt == 10
        for _ in range(3):
            ours[0] += stepped_s
            theirs[0] += 1
            assert replay(sim).not_arrived == 0
        assert in_doubt(journal) == 10
        found = []
        for _ in range(2):  # it is right again
            theirs[0] += 1_000
            ours[0] = theirs[0]
            found.append(replay(sim))
        assert (
            sum(f.not_arrived for f in found),
            sum(f.delivered for f in found),
            in_doubt(journal),
        ) == (10, 10, 0)
        assert set(there(sim).values()) == {1}


def test_settling_asks_for_a_decision_and_can_set_aside(journal):
    """Neither or both decisions is wrong usage; a dry run changes nothing; what is set aside is
    quarantined and can be released.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        sync(journal, sim)
    run = CliRunner().invoke
    assert run(main, ["resolve", str(journal)]).exit_code == 2
    assert run(main, ["resolve", str(journal), "--delivered", "--set-aside"]).exit_code == 2
    assert (
        "10 entries in doubt"
        in run(main, ["resolve", str(journal), "--set-aside", "--dry-run"]).output
    )
    assert in_doubt(journal) == 10
    assert (
        json.loads(run(main, ["resolve", str(journal), "--set-aside", "--json"]).stdout)["resolved"]
        == 10
    )
    assert run(main, ["resolve", str(journal), "--delivered"]).output == "nothing is in doubt\n"
    assert "released 10 entries" in run(main, ["retry", str(journal)]).output


def test_an_endpoint_that_is_down_is_noticed_once(journal, closed_port):
    """With something in doubt and nobody listening, a pass ends after one request's attempts,
    with everything as it was.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        sync(journal, sim)
    report = journaltrack.sync(journal, region="us-east-1", endpoint_url=closed_port)
    assert report.halted.unreachable
    assert in_doubt(journal) == 10


def test_against_moto_summaries_decide(journal):
    """moto knows no BatchGetMetrics (404): what its summaries show is enough for a metric as a
    whole.
    """
    with simulator() as sim:
        sim.fail("BatchGetMetrics", HttpError(404, "404"), times=99)
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        sync(journal, sim)
        assert sync(journal, sim).arrived == 10
