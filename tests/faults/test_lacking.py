"""File systems that can't do all that SQLite would have: no shared memory, no locks, answers
that take long.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.errors import JournalLockedError
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite import claim as claims
from journaltrack.journal.sqlite.claim import FILE
from tests.copies import verify_chains
from tests.faults.faulty_disk import assert_in_child, in_child, without
from tests.golden import restore
from tests.patience import FOREVER_S

SOON_S = 20
"""Far above what anything here takes, and below the 30 s that a wait for SQLite's lock lasts."""


def values(folder):
    """The values that were recorded, in a database that holds together."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = sorted(
            value
            for (value,) in connection.execute("SELECT value FROM entry WHERE stream = 'metric'")
        )
    assert verify_chains(folder) == []
    return found


class Said(logging.Handler):
    """What is logged as a warning."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        logging.getLogger("journaltrack").addHandler(self)

    def emit(self, record):
        """Keep it."""
        self.texts.append(record.getMessage())


def logged(folder, first, count=5):
    """A tracker's life; how long it took, and what was said."""
    said = Said()
    began = time.monotonic()
    with Tracker.create(
        trial_component_name="run", resume=True, journal=folder / "j", sync="off"
    ) as tracker:
        for number in range(first, first + count):
            tracker.log_metric("m", float(number))
    return time.monotonic() - began, said.texts


def scenario(folder, what, number):
    """Before, without, and after."""
    logged(folder, 0)
    took_s, texts = without(what, lambda: logged(folder, 5), number)
    new_s, _ = without(what, lambda: logged(folder / "new", 0), number)
    logged(folder, 10)
    return max(took_s, new_s), texts


@pytest.mark.parametrize(
    ("what", "number", "text"),
    [
        ("shared memory", errno.EIO, "without shared memory"),
        ("shared memory", errno.ENODEV, "without shared memory"),
        ("locks", errno.ENOLCK, "without locks"),
        ("locks", errno.ENOSYS, "without locks"),
        ("locks", errno.EOPNOTSUPP, "without locks"),
    ],
)
def test_a_file_system_that_lacks_something_is_used_without(tmp_path, what, number, text):
    """A journal that is there, and a new one, take entries at once; it is said what is missing;
    afterwards all is as before.
    """
    took_s, texts = in_child(scenario, tmp_path, what, number)
    assert took_s < SOON_S
    # SQLite leaves an empty one
    assert set(os.listdir(tmp_path / "new" / "j")) - {"journal.db-shm"} == {"journal.db", "spool"}
    assert values(tmp_path / "new" / "j") == [float(n) for n in range(5)]
    assert any(text in said for said in texts), texts
    assert sorted(os.listdir(tmp_path / "j")) == ["journal.db", "spool"]
    assert values(tmp_path / "j") == [float(n) for n in range(15)]


def two_without_locks(folder):
    """Two in one process, and another process beside them; how long that one waited, and what it
    was told.
    """
    first, second = Journal.open(folder / "j"), Journal.open(folder / "j")
    component = first.component("run")
    for number in range(3):
        first.append_metric(component, "m", float(2 * number), number, 1)
        second.append_metric(component, "m", float(2 * number + 1), number, 1)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "journaltrack", "status", folder / "j"],
        capture_output=True,
        text=True,
        check=False,
    )
    took_s = time.monotonic() - began
    second.close()
    first.close()
    return took_s, done.stderr


def test_without_locks_a_journal_belongs_to_one_process(tmp_path):
    """Its own connections take turns; another process is refused at once, with the name of the
    one that has it.
    """
    took_s, told = in_child(
        lambda: without("locks", lambda: two_without_locks(tmp_path), errno.ENOLCK)
    )
    assert "has it; nothing was opened" in told
    assert took_s < SOON_S
    assert values(tmp_path / "j") == [float(n) for n in range(6)]


def killed_without_locks(folder):
    """What a killed process claimed is free again."""
    child = os.fork()
    if child == 0:
        journal = Journal.open(folder / "j")
        journal.append_metric(journal.component("run"), "m", 0.0, 0, 1)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert (folder / "j" / FILE).exists()
    logged(folder, 1, 2)


def test_a_claim_goes_with_its_process(tmp_path):
    """Without locks a journal belongs to one process; it is taken over at once from one that was
    killed.
    """
    assert_in_child(lambda: without("locks", lambda: killed_without_locks(tmp_path), errno.ENOLCK))
    assert values(tmp_path / "j") == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("age_s", "free"), [(0, False), (3600, True)])
def test_a_claim_of_another_machine_is_held_by_its_age(tmp_path, age_s, free):
    """A claim that is touched has a process, on whatever machine; one that is not touched for a
    minute has none.
    """

    def claimed():
        logged(tmp_path, 0, 1)
        claim = tmp_path / "j" / FILE
        claim.write_text('{"host": "elsewhere", "boot": "0", "pid": 7, "began": "1"}')
        os.utime(claim, (time.time() - age_s,) * 2)
        try:
            logged(tmp_path, 1, 1)
        except JournalLockedError as error:
            return error.message
        return ""

    told = in_child(lambda: without("locks", claimed, errno.ENOLCK))
    assert ("process 7 on elsewhere has it" in told) is not free
    assert values(tmp_path / "j") == [0.0, 1.0][: 1 + free]


# -- slow
# ------------------------------------------------------------------------------------------------

RANK = """
import pathlib, sys
from journaltrack.journal.sqlite import claim; from journaltrack.util import paths
from journaltrack.journal.journal import Journal
claim.SLOW_S = -1.0
paths.network_file_system = lambda folder: "nfs4"
paths.locks_reach_other_machines = lambda folder: True
journal = Journal.open(sys.argv[1], on_journal_error="raise")
component = journal.component("run")
print(journal.database.connection.execute("PRAGMA journal_mode").fetchone()[0], flush=True)
for line in sys.stdin:
    for number in line.split():
        journal.append_metric(component, "m", float(number), 0, 1)
    print("done", flush=True)
journal.close()
"""


class Rank:
    """A process of a job whose nodes share a slow disk."""

    def __init__(self, folder):
        command = [sys.executable, "-c", RANK, folder / "j"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.mode = self.process.stdout.readline().strip()

    def log(self, *numbers):
        """Log these numbers, and wait until the calls have returned."""
        self.process.stdin.write(" ".join(map(str, numbers)) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self):
        """Close the journal."""
        self.process.communicate(timeout=FOREVER_S)
        assert self.process.returncode == 0


@pytest.fixture
def slow(monkeypatch):
    """This process's disk is such a one, too."""
    monkeypatch.setattr(claims, "SLOW_S", -1.0)
    monkeypatch.setattr("journaltrack.util.paths.network_file_system", lambda _folder: "nfs4")
    monkeypatch.setattr("journaltrack.util.paths.locks_reach_other_machines", lambda _folder: True)


def test_ranks_on_a_slow_disk_let_each_other_in(tmp_path):
    """The first has the journal alone, also while it does nothing, and makes way for the second;
    nothing is lost.
    """
    first = Rank(tmp_path)
    assert first.mode == "wal"
    first.log(0, 1, 2)
    second = Rank(tmp_path)
    assert second.mode == "delete"
    second.log(3, 4)
    first.log(5, 6)
    second.log(7)
    second.end()
    first.log(8)
    first.end()
    assert values(tmp_path / "j") == [float(n) for n in range(9)]


def test_what_a_killed_rank_recorded_is_there(tmp_path):
    """Killed while it had the journal alone, it leaves its log, which the next one brings in."""
    first = Rank(tmp_path)
    first.log(0, 1, 2)
    first.process.kill()
    first.process.communicate()
    second = Rank(tmp_path)
    second.log(3)
    second.end()
    assert values(tmp_path / "j") == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.usefixtures("slow")
def test_a_reader_gets_in_while_a_rank_has_the_journal(tmp_path):
    """`status` and its like ask, too; the rank goes on afterwards."""
    first = Rank(tmp_path)
    first.log(0, 1)
    with closing(Journal.open(tmp_path / "j", read_only=True)) as journal:
        assert journal.last_seq() == 2
    first.log(2)
    first.end()
    assert values(tmp_path / "j") == [0.0, 1.0, 2.0]


@pytest.mark.usefixtures("slow")
def test_trackers_of_one_process_take_turns(tmp_path):
    """Two journals of one process and threads of both: who is alone lets the other one in, and
    what is closed leaves no thread.
    """
    before = threading.active_count()
    first, second = Journal.open(tmp_path / "j"), Journal.open(tmp_path / "j")
    component = first.component("run")
    for number in range(4):
        first.append_metric(component, "m", float(2 * number), 0, 1)
        second.append_metric(component, "m", float(2 * number + 1), 0, 1)
    second.close()
    first.close()
    assert values(tmp_path / "j") == [float(n) for n in range(8)]
    assert threading.active_count() == before


@pytest.mark.usefixtures("slow")
def test_another_journal_of_the_process_takes_no_shared_connection_away(tmp_path):
    """Where nobody is alone, nobody makes way: temporary tables, as of a prune, stay."""
    with (
        closing(Journal.open(tmp_path / "j")) as first,
        closing(Journal.open(tmp_path / "j")),
    ):
        first.database.connection.execute("CREATE TEMP TABLE found (seq INTEGER)")
        with closing(Journal.open(tmp_path / "j")) as third:
            third.append_metric(third.component("run"), "m", 1.0, 0, 1)
        assert first.database.read("SELECT seq FROM temp.found") == []


@pytest.mark.usefixtures("slow")
@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel counts no calls here")
def test_a_call_alone_takes_two_writes(tmp_path):
    """Where each call of the system may be a round trip, an entry costs two writes, and nothing
    is read.
    """

    def counted():
        with open("/proc/self/io", encoding="ascii") as lines:
            return {name: int(number) for name, number in (line.split(": ") for line in lines)}

    with closing(Journal.open(tmp_path / "j")) as journal:
        component = journal.component("run")
        journal.append_metric(component, "m", 0.0, 0, 1)
        one, two = counted(), counted()
        for number in range(100):
            journal.append_metric(component, "m", float(number), 0, 1)
        three = counted()
    of_counting = two["syscr"] - one["syscr"]
    assert three["syscw"] - two["syscw"] <= 2 * 100 + 20  # a page of the table is full now and then
    assert three["syscr"] - two["syscr"] <= of_counting + 20


@pytest.mark.usefixtures("slow")
def test_an_older_journal_is_upgraded_on_a_slow_disk(tmp_path):
    """The upgrade has a connection of its own, which the journal's own makes way for."""
    folder = restore("0001", tmp_path / "j")
    with closing(Journal.open(folder, busy_timeout_s=5.0)) as journal:
        before = journal.last_seq()
        journal.append_metric(journal.component("run"), "m", 0.0, 0, 1)
        assert journal.last_seq() == before + 1
