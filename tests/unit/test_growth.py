"""What has been delivered costs nothing any more: status, and a pass that finds nothing or
little to do, read none of it.
"""

from __future__ import annotations

import math
import shutil
import warnings
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.journal import queries, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence import in_doubt as doubting
from journaltrack.replay.evidence.readback import Doubt
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.status import status
from journaltrack.tracking import catalog

STEP = 10  # of SQLite's virtual machine, in which it counts


class Steps:
    """Counts the steps that SQLite makes on every connection of a database class, and says how
    many there were.
    """

    def __init__(self, journal):
        self.count = 0
        journal.database.connection.set_progress_handler(self._tick, STEP)

    def _tick(self):
        self.count += 1
        return 0


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """Two journals, all of both delivered: a hundred points and some of everything else; and the
    same with 4,000 points more.
    """
    remote = MemoryRemote()
    scratch = tmp_path_factory.mktemp("growth")
    (scratch / "model.bin").write_bytes(b"weights")
    for name, points in (("small", 100), ("large", 4_100)):
        with Tracker.create(
            trial_component_name=f"run-{name}", journal=scratch / name, sync="off"
        ) as tracker:
            tracker.log_parameters({"lr": 0.1, "optimizer": "sgd"})
            tracker.log_artifact(scratch / "model.bin")
            for step in range(points):
                tracker.log_metric("loss", 1.0 + step, iteration_number=step)
        journal = Journal.open(scratch / name, create=False)
        assert Reconciler(journal, remote).run().pending == 0
        journal.close()
    return scratch, remote


def nothing_to_do(journal, remote):
    """A pass that finds nothing pending."""
    report = Reconciler(journal, remote).run()
    assert (report.requests, report.delivered) == (0, 0)


def little_to_do(journal, remote):
    """A pass that delivers one point, and anchors it."""
    journal.append_metric(journal.components()[0].id, "loss", 1.0, 1, 1)
    anchors = len(remote.stored)
    report = Reconciler(journal, remote).run()
    assert (report.requests, report.delivered) == (1, 1)
    assert len(remote.stored) == anchors + 1


def looking(journal, _remote):
    """Where the journal stands, as ``journaltrack status`` says."""
    assert status(journal).pending == 0


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """Two journals in which three entries of an unknown kind stay pending, the first of them
    older than all others; and many are delivered.
    """
    remote = MemoryRemote()
    scratch = tmp_path_factory.mktemp("left")
    for name, points in (("small", 100), ("large", 4_100)):
        with Tracker.create(
            trial_component_name=f"run-{name}", journal=scratch / name, sync="off"
        ) as tracker:
            tracker.log_artifact(__file__)
            journal, component = tracker._journal, tracker._id
            for step in range(points):
                if step % (points // 2) == 1:
                    journal.append(
                        component, [vocabulary.Draft("component", "note@2", payload="{}")]
                    )
                tracker.log_metric("loss", 1.0 + step, iteration_number=step)
            journal.append(component, [vocabulary.Draft("metric", "metric@9", "loss", 1.0, 1, 1)])
        with closing(Journal.open(scratch / name, create=False)) as opened:
            assert Reconciler(opened, remote).run().pending == 3
    return scratch, remote


def looking_at_three(journal, _remote):
    """As ``looking``, where three entries are pending."""
    assert status(journal).pending == 3


@pytest.mark.parametrize(
    ("work", "read_only"), [(nothing_to_do, False), (little_to_do, False), (looking_at_three, True)]
)
def test_what_stays_pending_has_nothing_else_read_again(left_behind, tmp_path, work, read_only):
    """Three entries that no pass can deliver cost three entries, and not all that was delivered
    after the first of them.
    """
    scratch, remote = left_behind
    taken = {}
    for name in ("small", "large"):
        shutil.copytree(scratch / name, tmp_path / name)
        with closing(Journal.open(tmp_path / name, create=False, read_only=read_only)) as journal:
            steps = Steps(journal)
            work(journal, remote)
            taken[name] = steps.count
    of_receipts = 400 * 12 // STEP if work is looking_at_three else 0
    assert taken["large"] <= taken["small"] + of_receipts + 20, taken


def refused_points(folder, points):
    """A journal with so many points of NaN, refused as they were recorded, all else delivered."""
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        tracker.log_artifact(__file__)
        for step in range(points):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tracker.log_metric("loss", math.nan, iteration_number=step)
    remote = MemoryRemote()
    with closing(Journal.open(folder, create=False)) as journal:
        assert Reconciler(journal, remote).run().pending == 0
        assert status(journal).quarantined == points
    return remote


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "read_only"), [(nothing_to_do, False), (little_to_do, False), (looking, True)]
)
def test_what_was_refused_is_not_read_again(tmp_path, work, read_only, monkeypatch):
    """The same with three times as many points that AWS can never accept; counting them for
    status is all that they cost.
    """
    monkeypatch.setattr(queries, "_FEW", 500)
    taken = {}
    for points in (1_000, 3_000):
        remote = refused_points(tmp_path / str(points), points)
        with closing(
            Journal.open(tmp_path / str(points), create=False, read_only=read_only)
        ) as journal:
            steps = Steps(journal)
            work(journal, remote)
            taken[points] = steps.count
    counted = 2_000 * 8 // STEP if work is looking else 0
    assert taken[3_000] <= taken[1_000] + counted + 20, taken


def test_reading_back_many_metrics_scans_the_journal_as_often_as_for_one(tmp_path):
    """What is known of 40 metrics in doubt takes two scans of a component's points, as for one
    metric.
    """
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        for step in range(1_000):
            tracker.log_metrics({f"m{step % 40}": 1.0, "loss": 2.0}, iteration_number=step)
    remote = MemoryRemote()
    with closing(Journal.open(tmp_path / "j", create=False)) as journal:
        assert Reconciler(journal, remote).run().pending == 0
        taken = {}
        for metrics in (1, 40):
            doubts = [Doubt(1, f"m{n}", 1.0, n, 1) for n in range(metrics)]
            steps = Steps(journal)
            known = doubting.acknowledged(journal.database, 1, doubts).groups
            taken[metrics] = steps.count
            assert {known[f"m{n}", None].points for n in range(metrics)} == {25}
            assert {known[f"m{n}", n].points for n in range(metrics)} == {1}
        assert taken[40] < 4 * taken[1], taken


def test_a_search_scans_the_points_as_often_for_many_runs_as_for_few(tmp_path):
    """Sixty runs with as many points as two: the points are read once, not once a run."""
    steps = {}
    for runs, points in ((2, 3_000), (60, 100)):
        with closing(Journal.open(tmp_path / f"of-{runs}")) as journal:
            for number in range(runs):
                with Tracker.create(
                    trial_component_name=f"run-{number}", journal=journal, sync="off"
                ) as tracker:
                    for step in range(points):
                        tracker.log_metric("loss", 1.0, iteration_number=step)
            counted = Steps(journal)
            found = list(catalog.search(catalog.Source(journal), None, {}))
            assert len(found) == runs
            assert {each.metrics[0]["Count"] for each in found} == {points}
            steps[runs] = counted.count
    assert steps[60] < 5 * steps[2], steps


@pytest.mark.parametrize(
    ("work", "read_only"), [(nothing_to_do, False), (little_to_do, False), (looking, True)]
)
def test_what_was_delivered_is_not_read_again(delivered, tmp_path, work, read_only):
    """The same work on a journal with forty times as much delivered makes SQLite take no more
    steps than a few.
    """
    scratch, remote = delivered
    taken = {}
    for name in ("small", "large"):
        shutil.copytree(scratch / name, tmp_path / name)
        journal = Journal.open(tmp_path / name, create=False, read_only=read_only)
        steps = Steps(journal)
        work(journal, remote)
        taken[name] = steps.count
        journal.close()
    # Status looks for errors among the last receipts, 10,000 at most, and the larger journal has
    # 400 more of them; it has 4,000 more settlements.
    of_receipts = 400 * 12 // STEP if work is looking else 0
    assert taken["large"] <= taken["small"] + of_receipts + 20, taken
