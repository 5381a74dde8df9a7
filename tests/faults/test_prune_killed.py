"""Prunes that are killed, and training beside them: real processes over one journal."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from journaltrack import Tracker, doctor
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from tests.copies import verify_chains
from tests.faults.disktrace import Killing, supported
from tests.patience import scaled
from tests.processes import ENVIRONMENT

KILLS = scaled(10)
POINTS = 3_000
WHY_NOT = supported()

PRUNE = """
import sys, time
from journaltrack.retention import prune as pruning; from journaltrack.replay.evidence import attestations as turns
turns._FIRST = turns._MAX = turns._MIN = 40  # many transactions, so that a kill has where to come in between
pruning.prune(sys.argv[1], ask=None, delivered_before_ns=time.time_ns(), blobs_before_ns=time.time_ns())
"""
TRAIN = """
import sys
from journaltrack import Tracker
tracker = Tracker.load("run", journal=sys.argv[1], sync="off")
number = 0
print("begun", flush=True)
while True:
    tracker.log_metric("live", float(number), iteration_number=number)
    if number % 50 == 0:
        tracker.log_parameter("epoch", number)
    print(number, flush=True)
    number += 1
"""


def program(text, *arguments):
    """A process that runs it."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def read(folder, sql):
    """By plain sqlite3."""
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A journal of three processes, interleaved, all delivered."""
    folder = tmp_path_factory.mktemp("delivered")
    trackers = [
        Tracker.create(trial_component_name="run", journal=folder / "j", sync="off", resume=True)
        for _ in range(3)
    ]
    chance = random.Random(1)
    for number in range(POINTS):
        tracker = chance.choice(trackers)
        tracker.log_metric(f"m{number % 3}", float(number), iteration_number=number)
        if number % 300 == 0:
            tracker.log_parameter(f"p{number % 4}", number)
            (folder / "weights").write_bytes(b"%d" % number)
            tracker.log_artifact(folder / "weights")
    for tracker in trackers:
        tracker.close()
    with closing(Journal.open(folder / "j")) as journal:
        assert Reconciler(journal, MemoryRemote()).run().pending == 0
        journal.database.write(lambda c: c.execute("UPDATE blob SET spooled_at_ns = 1"))  # long ago
    return folder / "j"


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_prune_killed_at_any_change_of_a_file_leaves_a_journal_that_verifies(delivered, tmp_path):
    """Every entry is there or removed on the record, whatever write the kill came before, and
    the next prune does the rest.
    """
    killing = Killing(PRUNE, tmp_path)
    shutil.copytree(delivered, tmp_path / "reference")
    changes = killing.changes(tmp_path / "reference", tmp_path / "reference")
    for number, at in enumerate(random.Random(2).sample(range(1, changes + 1), KILLS)):
        folder = tmp_path / f"j{number}"
        shutil.copytree(delivered, folder)
        before = read(folder, "SELECT count(*) FROM entry")[0][0]
        assert killing.killed(folder, folder, at=at)
        assert [
            name
            for (name,) in read(
                folder, "SELECT name FROM sqlite_master WHERE name = 'entry_no_delete'"
            )
        ]
        assert verify_chains(folder) == []
        assert doctor.examine(folder).healthy
        found = audit(folder)
        assert found.totals.entries + sum(each.entries for each in found.removals) == before
        done = prune(
            folder, ask=None, delivered_before_ns=time.time_ns(), blobs_before_ns=time.time_ns()
        )
        assert done.entries + sum(each.entries for each in found.removals) > POINTS * 0.99
        assert verify_chains(folder) == []
        assert not list((folder / "spool").glob("??/*"))
        shutil.rmtree(folder)


def test_training_beside_a_prune_loses_nothing(delivered, tmp_path):
    """What was acknowledged while entries were removed is there, in a chain that holds; the file
    is not compacted under it.
    """
    folder = tmp_path / "j"
    shutil.copytree(delivered, folder)
    training = program(TRAIN, folder)
    try:
        assert training.stdout.readline() == "begun\n"
        for _ in range(50):
            training.stdout.readline()
        done = prune(folder, ask=None, delivered_before_ns=time.time_ns())
        acknowledged = int(training.stdout.readline())
    finally:
        training.kill()
        rest, _ = training.communicate()
    acknowledged = max([acknowledged, *map(int, rest.split())])
    assert done.entries > POINTS * 0.99
    assert f"process {training.pid} has it open" in done.not_compacted
    values = [
        value
        for (value,) in read(folder, "SELECT value FROM entry WHERE name = 'live' ORDER BY seq")
    ]
    assert values[: acknowledged + 1] == [float(number) for number in range(acknowledged + 1)]
    assert len(values) <= acknowledged + 2
    assert verify_chains(folder) == []
