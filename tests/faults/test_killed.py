"""SIGKILL at random moments: what a call that returned had recorded is there, and a killed sync
loses and doubles nothing.

JOURNALTRACK_SOAK multiplies the kills (20: thousands), JOURNALTRACK_SEED repeats the random choices
of a run; what the scheduler does with them is never the same.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from journaltrack import Tracker
from tests import tally
from tests.copies import verify_chains
from tests.faults.killing import WRITERS
from tests.faults.killing_syncs import kill_syncs
from tests.faults.killing_training import kill_training

SOAK = float(os.environ.get("JOURNALTRACK_SOAK", "1"))
SEED = int(os.environ.get("JOURNALTRACK_SEED", time.time_ns() % 1_000_000))
TRAINING_KILLS = max(1, round(25 * SOAK))  # of each kind
SYNC_KILLS = max(1, round(20 * SOAK))
SYNC_KILLS_PER_JOURNAL = 100

KINDS = {
    "one": "one process",
    "processes": "8 processes",
    "threads": "4 threads",
    "forks": "a parent and forked workers",
}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the zygote rests on prctl(2) and SOCK_SEQPACKET"
)


@pytest.mark.parametrize("first", range(0, SYNC_KILLS, SYNC_KILLS_PER_JOURNAL))
def test_syncs_killed_while_training_goes_on_lose_and_double_nothing(first, tmp_path):
    """However often a sync is killed, the one that ends in peace leaves all delivered once, or
    in doubt and there once at most.
    """
    kills = min(SYNC_KILLS - first, SYNC_KILLS_PER_JOURNAL)
    counted = kill_syncs(tmp_path, kills, f"{SEED} from {first}")
    sys.stdout.write(f"{counted}\n")
    tally.count(
        "SIGKILL of a sync, while training logs",
        attacks=counted.kills,
        checked=counted.entries,
        lost=counted.lost + counted.duplicated,
    )
    assert not counted.problems, counted
    assert (counted.lost, counted.duplicated, counted.unexplained, counted.quarantined) == (
        0,
        0,
        0,
        0,
    ), counted
    assert counted.entries == counted.delivered + counted.in_doubt, counted
    assert counted.kills == kills


@pytest.mark.parametrize("mode", WRITERS)
def test_nothing_acknowledged_is_lost_when_training_is_killed(mode, tmp_path):
    """However often processes, threads or forks that log are killed, all that was acknowledged
    is there, and no half call.
    """
    counted = kill_training(mode, tmp_path, TRAINING_KILLS, SEED)
    sys.stdout.write(f"{counted}\n")
    lost = counted.lost + counted.torn + counted.stray
    tally.count(
        f"SIGKILL of training: {KINDS[mode]}",
        attacks=counted.kills,
        checked=counted.entries,
        lost=lost,
    )
    assert not counted.problems, counted
    assert (counted.lost, counted.torn, counted.stray) == (0, 0, 0), counted
    assert counted.found >= counted.entries, counted
    assert counted.kills == TRAINING_KILLS


@pytest.mark.parametrize(
    "before", [0, 5], ids=["the child's first call is after it", "the child has logged before"]
)
def test_a_parent_that_closes_takes_nothing_from_a_forked_child(before, tmp_path):
    """A forked child goes on logging when its parent, and others that used the journal, have
    closed it: every call is there.
    """
    options = {"journal": tmp_path / "journal", "sync": "off"}
    tracker = Tracker.create(trial_component_name="run", **options)
    tracker.log_metric("parent", 1.0)
    (told, tell), (allowed, allow) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for n in (before, 5, 5):
                for i in range(n):
                    tracker.log_metric("child", float(i))
                os.write(tell, b".")
                os.read(allowed, 1)
            tracker.flush()
        finally:
            os._exit(0)
    os.read(told, 1)
    tracker.close()
    for _ in range(2):
        os.write(allow, b".")
        os.read(told, 1)
        other = Tracker.load("run", **options)
        other.log_metric("other", 1.0)
        other.close()
    os.write(allow, b".")
    os.waitpid(child, 0)
    for descriptor in (told, tell, allowed, allow):
        os.close(descriptor)
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as connection:
        found = dict(
            connection.execute(
                "SELECT name, count(*) FROM entry WHERE kind = 'metric' GROUP BY name"
            )
        )
    assert found == {"parent": 1, "child": before + 10, "other": 2}
    assert verify_chains(tmp_path / "journal") == []
