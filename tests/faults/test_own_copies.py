"""A process reads files of its own journal, and by closing them drops the locks that SQLite
believes to have.
"""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.doctor import examine
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite import locks as standing
from journaltrack.journal.sqlite.checkpoint import write_back
from journaltrack.reports.status import status
from tests import warm
from tests.copies import verify_chains
from tests.patience import FOREVER_S

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OFD locks")


@pytest.fixture(autouse=True)
def _nobody_is_careless_yet(monkeypatch):
    """A deleted journal's inode is given to the next one, and the process told of it already."""
    monkeypatch.setattr(standing, "_careless", set())


TRAINER = """
import os, pathlib, select, shutil, sys, threading
from journaltrack.journal.journal import Journal
folder, acks = pathlib.Path(sys.argv[1]), os.open(sys.argv[3], os.O_RDWR | os.O_CREAT, 0o600)
journal = Journal.open(folder, on_journal_error="raise")
component, stop, count = journal.component("run"), threading.Event(), 0
def copy():
    try: shutil.copytree(folder, folder.parent / "copy", dirs_exist_ok=True)
    except shutil.Error: pass  # a file that goes away meanwhile
def copy_until_stopped():
    while not stop.is_set(): copy()
copying = threading.Thread(target=copy_until_stopped)
if sys.argv[2] == "by a thread": copying.start()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(20):
        journal.append_metric(component, "trainer", float(count), count, 1)
        count += 1
    os.pwrite(acks, str(count).encode(), 0)
    if sys.argv[2] != "by a thread": copy()
stop.set()
if copying.ident: copying.join()
journal.close()
"""

SHORT = """
import os, sys
from journaltrack.journal.journal import Journal
def log(number):
    journal = Journal.open(sys.argv[1], on_journal_error="raise")
    component = journal.component("run")
    for n in range(5): journal.append_metric(component, sys.argv[3], float(5 * number + n), n, 1)
    journal.close()
for number in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log(number)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
"""

ONE = """
import sys
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1], on_journal_error="raise")
journal.append_metric(journal.component("run"), "second", float(sys.argv[2]), 0, 1)
journal.close()
"""


def log_in_another_process(folder, number=0):
    """A process that opens the journal, logs one point, closes it and ends."""
    warm.run([sys.executable, "-c", ONE, folder, str(number)], check=True, timeout=FOREVER_S)


def found(folder):
    """How many points of each name there are, in a database that holds together."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = Counter(dict(connection.execute("SELECT name, count(*) FROM entry GROUP BY name")))
    with closing(Journal.open(folder)) as journal:
        assert verify_chains(journal) == []
    return counts


def drop_locks(folder):
    """What copying the folder does to this process's locks."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (folder / name).read_bytes()


@pytest.mark.parametrize("how", ["between calls", "by a thread"])
def test_a_trainer_that_copies_its_own_journal_loses_nothing(tmp_path, how):
    """While it copies in a loop, 80 short processes log into the same run: every acknowledged
    call is there, nothing is damaged.
    """
    folder, acks = tmp_path / "j", tmp_path / "acks"
    command = [sys.executable, "-c", TRAINER, folder, how, acks]
    with warm.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout.readline() == "ready\n"
        others = [
            warm.Popen([sys.executable, "-c", SHORT, folder, "40", name], stderr=subprocess.PIPE)
            for name in "ab"
        ]
        problems = [other.communicate(timeout=FOREVER_S)[1].decode() for other in others]
        assert not any(other.returncode for other in others), problems
        assert trainer.poll() is None, trainer.stderr.read()
        _, problem = trainer.communicate("stop", timeout=FOREVER_S)
    assert trainer.returncode == 0, problem
    counts = found(folder)
    assert counts["trainer"] == int(acks.read_text()) > 0
    assert (counts["a"], counts["b"]) == (200, 200)


@pytest.mark.parametrize(
    "names",
    [
        ["journal.db"],
        ["journal.db-shm"],
        ["journal.db-wal"],
        ["journal.db", "journal.db-wal", "journal.db-shm"],
    ],
)
def test_another_process_leaves_the_log_of_one_that_lost_its_locks(tmp_path, names):
    """A second process's opening and closing changes nothing for who has closed a file of the
    journal: log and memory stay.
    """
    folder = tmp_path / "j"
    with closing(Journal.open(folder, on_journal_error="raise")) as journal:
        component = journal.component("run")
        for number in range(3):
            journal.append_metric(component, "first", float(number), number, 1)
            for name in names:
                (folder / name).read_bytes()
            files = [
                (folder / name).stat().st_ino
                for name in ("journal.db", "journal.db-wal", "journal.db-shm")
            ]
            log_in_another_process(folder, number)
            assert files == [
                (folder / name).stat().st_ino
                for name in ("journal.db", "journal.db-wal", "journal.db-shm")
            ]
            assert (folder / "journal.db-shm").stat().st_size >= 32768
    assert found(folder) == {"first": 3, "second": 3}


def test_the_last_one_to_close_leaves_the_database_alone(tmp_path):
    """After the last process has closed the journal, all is in one file, as SQLite leaves it."""
    with closing(Journal.open(tmp_path / "j")) as journal:
        journal.append_metric(journal.component("run"), "first", 1.0, 0, 1)
        drop_locks(tmp_path / "j")
        log_in_another_process(tmp_path / "j")
    assert {path.name for path in (tmp_path / "j").glob("journal.db*")} == {"journal.db"}


def test_a_second_connection_of_the_process_that_closes_drops_nothing(tmp_path):
    """Of two journals open in one process, the one that is closed leaves the other's locks."""
    folder = tmp_path / "j"
    with closing(Journal.open(folder, on_journal_error="raise")) as journal:
        component = journal.component("run")
        with closing(Journal.open(folder)) as second:
            second.append_metric(component, "first", 0.0, 0, 1)
        journal.append_metric(component, "first", 1.0, 0, 1)
        log_in_another_process(folder)
        journal.append_metric(component, "first", 2.0, 0, 1)
        assert (folder / "journal.db-wal").exists()
    assert found(folder) == {"first": 3, "second": 1}


HOLDER = """
import fcntl, os, struct, sys
for name, start in (("journal.db", 0x40000002), ("journal.db-shm", 128)):
    descriptor = os.open(sys.argv[1] + "/" + name, os.O_RDONLY)
    asked = struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    kind, _, _, _, pid = struct.unpack("@hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    print(kind == fcntl.F_RDLCK and pid)
"""


def test_a_connection_of_somebody_else_in_the_process_keeps_its_locks(tmp_path):
    """A program that reads the journal by sqlite3 itself is not robbed of its locks when a
    journal is closed beside it.
    """
    folder = tmp_path / "j"
    journal = Journal.open(folder)
    journal.component("run")
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.execute("SELECT count(*) FROM entry").fetchone()
        journal.close()
        done = subprocess.run(
            [sys.executable, "-c", HOLDER, folder], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [str(os.getpid())] * 2


def test_descriptors_do_not_grow_with_journals(tmp_path):
    """However often a journal is opened and closed beside one that stays open, there are as many
    descriptors as after the first time.
    """

    def opened():
        with closing(Journal.open(tmp_path / "j")) as journal:
            journal.append_metric(journal.component("run"), "m", 1.0, 0, 1)

    opened()
    # What other tests dropped is closed now, not in between.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with closing(Journal.open(tmp_path / "j")):
        opened()
        once = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            opened()
        assert len(os.listdir("/proc/self/fd")) == once
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_child_drops_nothing_of_its_parent(tmp_path):
    """A child that uses the journal, closes it and copies it leaves the parent's locks; the
    parent's end leaves nothing locked.
    """
    folder = tmp_path / "j"
    with closing(Journal.open(folder, on_journal_error="raise")) as journal:
        component = journal.component("run")
        journal.append_metric(component, "first", 0.0, 0, 1)
        child = os.fork()
        if child == 0:
            journal.append_metric(component, "child", 0.0, 0, 1)
            drop_locks(folder)
            journal.close()
            os._exit(0)
        journal.append_metric(component, "first", 1.0, 0, 1)
        assert os.waitpid(child, 0)[1] == 0
        drop_locks(folder)
        log_in_another_process(folder)
        journal.append_metric(component, "first", 2.0, 0, 1)
        assert (folder / "journal.db-wal").exists()
    assert not (folder / "journal.db-wal").exists()
    assert found(folder) == {"first": 3, "child": 1, "second": 1}


WAITING = """
import sys
from journaltrack.errors import JournalLockedError
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1], on_journal_error="raise", busy_timeout_s=0.3)
try: journal.append_metric(1, "second", 0.0, 0, 1)
except JournalLockedError: print("refused", flush=True)
sys.stdin.readline()
journal.append_metric(1, "second", 0.0, 0, 1)
journal.close()
"""


def test_who_drops_locks_takes_turns_with_the_others(tmp_path, caplog):
    """A process that has been seen to drop locks is alone in its transaction even when it drops
    them in the midst of it; it says so once.
    """
    folder = tmp_path / "j"

    def write(connection):
        connection.execute("UPDATE component SET created_at_ns = 7")
        drop_locks(folder)
        second = subprocess.Popen(
            [sys.executable, "-c", WAITING, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout.readline() == "refused\n"
        return second

    with closing(Journal.open(folder, on_journal_error="raise")) as journal:
        component = journal.component("run")
        for number in range(2):
            journal.append_metric(component, "first", float(number), 0, 1)
            drop_locks(folder)
            journal.flush()  # looks
        second = journal.database.write(write)
        second.communicate("\n", timeout=FOREVER_S)
        assert second.returncode == 0
        assert journal.database.read("SELECT created_at_ns FROM component") == [(7,)]
    assert [record.getMessage().split()[0] for record in caplog.records].count(
        "event=careless"
    ) == 1
    assert found(folder) == {"first": 2, "second": 1}


@pytest.mark.parametrize("what", ["point", "parameter"])
def test_who_drops_locks_is_found_out_before_its_next_call(tmp_path, caplog, what):
    """A call that is made 6 ms after a file was closed is made in turn with the others already."""
    folder, now_ns = tmp_path / "j", [10**18]
    with closing(
        Journal.open(folder, on_journal_error="raise", clock_ns=lambda: now_ns[0])
    ) as journal:
        component = journal.component("run")
        journal.append_metric(component, "first", 0.0, 0, 1)
        journal.append_metric(component, "first", 1.0, 0, 1)
        drop_locks(folder)
        now_ns[0] += 6_000_000
        if what == "point":
            journal.append_metric(component, "first", 2.0, 0, 1)
        else:
            journal.append(component, [vocabulary.parameter("first", 2.0)])
        assert [record.getMessage().split()[0] for record in caplog.records] == ["event=careless"]
    assert found(folder) == {"first": 3}


CHECKPOINTING = """
import sys
from journaltrack.journal.sqlite.checkpoint import write_back
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1])
component = journal.component("run")
journal.append_metric(component, "second", 0.0, 0, 1)
print(write_back(journal.database), flush=True)
sys.stdin.readline()
print(write_back(journal.database), flush=True)
journal.close()
"""


def test_one_process_at_a_time_writes_the_log_back(tmp_path):
    """As long as one is at it no other is, even when the first has lost SQLite's lock for it;
    then the next one may.
    """
    folder = tmp_path / "j"
    with closing(Journal.open(folder)) as journal:
        journal.append_metric(journal.component("run"), "first", 0.0, 0, 1)
        with journal.database.checkpointing() as alone:
            assert alone
            drop_locks(folder)
            command = [sys.executable, "-c", CHECKPOINTING, folder]
            second = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert second.stdout.readline() == "False\n"
        assert second.communicate("\n", timeout=FOREVER_S)[0] == "True\n"
        assert write_back(journal.database)
    assert found(folder) == {"first": 1, "second": 1}


def test_a_copy_made_between_calls_is_whole(tmp_path):
    """What ``copytree`` copies between two calls is a journal that opens and has everything up
    to then.
    """
    folder = tmp_path / "j"
    with closing(Journal.open(folder)) as journal:
        component = journal.component("run")
        for number in range(50):
            journal.append_metric(component, "first", float(number), number, 1)
        shutil.copytree(folder, tmp_path / "copy")
    assert found(Path(tmp_path / "copy")) == {"first": 50}


def test_a_transaction_that_was_cut_short_is_rolled_back(tmp_path):
    """What a killed process left in a rollback journal is undone at the next opening, whose own
    locks are not in the way.
    """
    with closing(Journal.open(tmp_path / "whole")) as journal:
        journal.append_metric(journal.component("run"), "first", 0.0, 0, 1)
    with closing(
        sqlite3.connect(tmp_path / "whole" / "journal.db", isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")  # written before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE half AS SELECT value, randomblob(4096) FROM json_each(?)",
            (str(list(range(100))),),
        )
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        connection.execute("ROLLBACK")
    assert (tmp_path / "cut" / "journal.db-journal").stat().st_size
    with closing(Journal.open(tmp_path / "cut", busy_timeout_s=0.0)) as journal:
        journal.append_metric(journal.component("run"), "first", 1.0, 0, 1)
    assert found(tmp_path / "cut") == {"first": 2}


def test_a_report_drops_no_lock_and_leaves_none(tmp_path):
    """A process may examine and ask for the journal that it appends to: its locks are then those
    that it had, and so are its files.
    """
    others = set(standing._pool)
    journal = Journal.open(tmp_path / "j", on_journal_error="raise")
    component = journal.component("run")
    journal.append_metric(component, "loss", 0.5, 1, 1)

    def locks():
        lines = Path("/proc/locks").read_text().splitlines()
        return sorted(
            line.partition(":")[2].strip() for line in lines if f" {os.getpid()} " in line
        )

    # which leaves the lock of its question whether there are locks
    assert status(tmp_path / "j").pending == 1
    before, descriptors = locks(), len(os.listdir("/proc/self/fd"))
    assert any("POSIX" in line for line in before)
    for _ in range(5):
        assert examine(tmp_path / "j").healthy
        assert status(tmp_path / "j").pending == 1
    assert locks() == before
    # one of each file waits for its next use
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3
    journal.close()
    assert set(standing._pool) <= others
