"""A journal on a file system that other machines share: a table of mounts says so, of the disk
that the test is on.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from journaltrack.errors import JournalLockedError
from journaltrack.journal.journal import Journal
from journaltrack.util import paths
from tests.patience import FOREVER_S

PROGRAM = """
import pathlib, sys
from journaltrack.util import paths
from journaltrack.journal.journal import Journal
if sys.argv[2]:
    for name in ("network_file_system", "locks_reach_other_machines"):
        setattr(paths, name, lambda folder, real=getattr(paths, name): real(folder, pathlib.Path(sys.argv[2])))
journal = Journal.open(sys.argv[1], on_journal_error="raise")
component = journal.component("run")
for number in range(int(sys.argv[4])):
    journal.append_metric(component, sys.argv[3], float(number), number, 1)
print(journal.database.connection.execute("PRAGMA journal_mode").fetchone()[0], flush=True)
sys.stdin.readline()
journal.append_metric(component, sys.argv[3], -1.0, 0, 1)
journal.close()
print("closed", flush=True)
"""


class Host:
    """A process that has logged ten points, and logs one more and closes when it is told to;
    ``mounts``: what its machine mounts.
    """

    def __init__(self, folder, name, mounts=""):
        command = [sys.executable, "-c", PROGRAM, folder, mounts, name, "10"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.mode = self.process.stdout.readline().strip()

    def end(self):
        """Let it close; whether all went well."""
        output, problems = self.process.communicate("\n", timeout=FOREVER_S)
        assert (output, self.process.returncode) == ("closed\n", 0), problems

    def kill(self):
        """As a machine that is lost."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def on(tmp_path, monkeypatch):
    """Makes this process one that reaches the disk over such a file system; returns the table
    for others.
    """

    def mounted(kind):
        mounts = tmp_path / "mounts"
        mounts.write_text(f"1 0 9999:1 / / rw - {kind} server:/export rw\n")
        for name in ("network_file_system", "locks_reach_other_machines"):
            real = getattr(paths, name)
            monkeypatch.setattr(paths, name, lambda folder, real=real: real(folder, mounts))
        return mounts

    return mounted


def counts(folder):
    """How many points of each name there are, in a database that holds together."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(connection.execute("SELECT name, count(*) FROM entry GROUP BY name").fetchall())


def files(folder):
    """What must not change, byte by byte."""
    return {
        path.name: path.read_bytes()
        for path in folder.glob("journal.db*")
        if path.suffix != ".db-shm"
    }


@pytest.mark.parametrize("read_only", [False, True])
def test_a_second_machine_is_refused_while_the_first_one_writes_with_a_log(tmp_path, on, read_only):
    """It says so within seconds and changes nothing; the first one goes on."""
    first = Host(tmp_path / "j", "first")
    assert first.mode == "wal"
    on("nfs4")
    before = files(tmp_path / "j")
    with pytest.raises(JournalLockedError, match="another machine") as caught:
        Journal.open(tmp_path / "j", read_only=read_only)
    assert "nfs4" in caught.value.message
    assert caught.value.hint
    assert files(tmp_path / "j") == before
    first.end()
    assert counts(tmp_path / "j") == {"first": 11}


def test_machines_take_turns_between_both_kinds_of_log(tmp_path, on):
    """What has the disk for itself uses a write-ahead log; while another machine uses the
    journal, neither does; nothing is lost.
    """
    mounts = on("nfs4")
    Host(tmp_path / "j", "first").end()
    second = Host(tmp_path / "j", "second", mounts)
    first = Host(tmp_path / "j", "first")
    assert (second.mode, first.mode) == ("delete", "delete")
    second.end()
    first.end()
    last = Host(tmp_path / "j", "last")
    assert last.mode == "wal"
    last.end()
    assert counts(tmp_path / "j") == {"first": 22, "second": 11, "last": 11}


def test_what_a_killed_writer_left_in_its_log_is_there(tmp_path, on):
    """Where locks reach other machines, none means that nobody lives: the journal is taken over
    with all that was recorded.
    """
    mounts = on("nfs4")
    Host(tmp_path / "j", "first").kill()
    assert (tmp_path / "j" / "journal.db-wal").stat().st_size > 0
    second = Host(tmp_path / "j", "second", mounts)
    second.end()
    assert counts(tmp_path / "j") == {"first": 10, "second": 11}


def test_without_locks_between_machines_a_log_that_is_written_has_a_writer(tmp_path, on):
    """On sshfs and its like the log's own time tells: for a minute after its last write the
    journal is left alone.
    """
    mounts = on("fuse.sshfs")
    Host(tmp_path / "j", "first").kill()
    before = files(tmp_path / "j")
    with pytest.raises(JournalLockedError, match=r"fuse\.sshfs"):
        Journal.open(tmp_path / "j")
    assert files(tmp_path / "j") == before
    os.utime(tmp_path / "j" / "journal.db-wal", (0, 0))
    Host(tmp_path / "j", "second", mounts).end()
    assert counts(tmp_path / "j") == {"first": 10, "second": 11}
