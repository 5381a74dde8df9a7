"""What has been delivered costs nothing any more: status, and a pass that finds nothing or little to do, read none of it."""

from __future__ import annotations

import shutil

import pytest

from journaltrack import Tracker
from journaltrack.journal import Journal
from journaltrack.reconciler import Reconciler
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.report_status import status

STEP = 10  # of SQLite's virtual machine, in which it counts


class Steps:
    """Counts the steps that SQLite makes on every connection of a database class, and says how many there were."""

    def __init__(self, journal):
        self.count = 0
        journal.database.connection.set_progress_handler(self._tick, STEP)

    def _tick(self):
        self.count += 1
        return 0


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """Two journals, all of both delivered: a hundred points and some of everything else; and the same with 4,000 points more."""
    remote = MemoryRemote()
    scratch = tmp_path_factory.mktemp("growth")
    (scratch / "model.bin").write_bytes(b"weights")
    for name, points in (("small", 100), ("large", 4_100)):
        with Tracker.create(trial_component_name=f"run-{name}", journal=scratch / name, sync="off") as tracker:
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


@pytest.mark.parametrize(("work", "read_only"), [(nothing_to_do, False), (little_to_do, False), (looking, True)])
def test_what_was_delivered_is_not_read_again(delivered, tmp_path, work, read_only):
    """The same work on a journal with forty times as much delivered makes SQLite take no more steps than a few."""
    scratch, remote = delivered
    taken = {}
    for name in ("small", "large"):
        shutil.copytree(scratch / name, tmp_path / name)
        journal = Journal.open(tmp_path / name, create=False, read_only=read_only)
        steps = Steps(journal)
        work(journal, remote)
        taken[name] = steps.count
        journal.close()
    # Status looks for errors among the last receipts, 10,000 at most, and the larger journal has 400 more of them; it has 4,000 more settlements.
    of_receipts = 400 * 12 // STEP if work is looking else 0
    assert taken["large"] <= taken["small"] + of_receipts + 20, taken
