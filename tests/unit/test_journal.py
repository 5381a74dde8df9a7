"""The journal: what a returned append means, to threads, processes and forks, and when the disk
refuses.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing

import pytest

from journaltrack.errors import (
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    JournalNotFoundError,
    JournalWriteError,
    NotAJournalError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.open_file import connect


def point(value, name="m"):
    """A metric point."""
    return vocabulary.metric(name, float(value), 0, 1)


def chains_hold(journal):
    """Recompute every writer's chain from the rows alone."""
    last = {
        writer_id: (0, digest)
        for writer_id, digest in journal.database.read("SELECT id, digest FROM writer")
    }
    for e in journal.entries(limit=10**6):
        seq, digest = last[e.writer_id]
        draft = vocabulary.Draft(
            e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload
        )
        (expected,) = vocabulary.chain_next_entries(
            digest, seq + 1, e.component, [draft], e.recorded_at_ns
        )
        assert (e.writer_seq, e.digest) == (seq + 1, expected), e
        last[e.writer_id] = (seq + 1, expected)
    return True


def test_folder_and_files_are_the_owners_alone(journal, tmp_path):
    """Nobody else can read a journal, whatever the umask."""
    journal.append(journal.component("run"), [point(1)])
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    files = [p for p in (tmp_path / "journal").rglob("*") if p.is_file()]
    assert {p.name for p in files} >= {"journal.db", "journal.db-wal", "journal.db-shm"}
    assert {p.stat().st_mode & 0o777 for p in files} == {0o600}


def test_entries_can_be_neither_changed_nor_removed(journal):
    """The log only grows."""
    journal.append(journal.component("run"), [point(1)])
    for sql in ("UPDATE entry SET value = 2", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            journal.database.connection.execute(sql)


def test_threads_share_a_journal(journal):
    """Eight threads append at once: every entry is there, numbered densely, the chain whole."""
    component = journal.component("run")

    def work(thread):
        for i in range(100):
            journal.append_metric(component, f"t{thread}", float(i), i, 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = journal.entries(limit=10_000)
    assert [e.writer_seq for e in entries] == list(range(1, 801))
    assert chains_hold(journal)


def _append_from(path, count):
    opened = Journal.open(path)
    component = opened.component("run")
    for i in range(count):
        opened.append_metric(component, "m", float(i), i, 1)
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_journal_also_at_its_creation(tmp_path, method):
    """Four processes that open and make the same journal at once lose nothing."""
    context = multiprocessing.get_context(method)
    children = [
        context.Process(target=_append_from, args=(tmp_path / "shared", 100)) for _ in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [c.exitcode for c in children] == [0] * 4
    opened = Journal.open(tmp_path / "shared", read_only=True)
    assert len(opened.entries(limit=10_000)) == 400
    assert chains_hold(opened)
    opened.close()


@pytest.mark.slow
def test_a_forked_child_is_a_writer_of_its_own(journal):
    """Parent and children append to the same open journal, while another thread of the parent
    does too.
    """
    component = journal.component("run")
    stop = threading.Event()

    def background():
        i = 0
        while not stop.is_set():
            i += 1
            journal.append_metric(component, "thread", float(i), i, 1)

    thread = threading.Thread(target=background)
    thread.start()
    children = []
    for n in range(5):
        child = os.fork()
        if child == 0:
            try:
                journal.append_metric(component, f"child{n}", 1.0, 0, 1)
                journal.flush()
            finally:
                os._exit(0 if journal.unwritten == 0 else 1)
        children.append(child)
        journal.append_metric(component, "parent", float(n), n, 1)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
    stop.set()
    thread.join()
    writers = {
        e.writer_id for e in journal.entries(limit=10**6) if (e.name or "").startswith("child")
    }
    assert len(writers) == 5
    assert chains_hold(journal)


@pytest.mark.slow
def test_every_acknowledged_call_survives_sigkill(tmp_path):
    """A process killed in a tight loop has lost none of the calls that had returned, ten times
    over.
    """
    code = (
        "import sys, os\nfrom journaltrack.journal.journal import Journal\nj = "
        "Journal.open(sys.argv[1]); c = j.component('run'); i = 0\nwhile True:\n    i += 1\n    "
        "j.append_metric(c, sys.argv[2], float(i), None, 1)\n    os.write(1, b'.')\n"
    )
    for round_number in range(10):
        name = f"round{round_number}"
        with subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "j", name], stdout=subprocess.PIPE
        ) as child:
            acknowledged = len(child.stdout.read(50 + 137 * round_number))
            child.send_signal(signal.SIGKILL)
            acknowledged += len(child.stdout.read())
        with closing(sqlite3.connect(tmp_path / "j" / "journal.db")) as connection:
            found = connection.execute(
                "SELECT count(*) FROM entry WHERE name = ?", (name,)
            ).fetchone()[0]
        assert acknowledged <= found <= acknowledged + 1


def test_killed_creation_leaves_nothing_or_a_journal(tmp_path):
    """Killed at any statement of its creation, a journal opens the next time."""
    code = (
        "import sys, os, signal, sqlite3\nfrom journaltrack.journal.schema import schema\nat = "
        "int(sys.argv[2]); n = 0\nclass C(sqlite3.Connection):\n    def execute(self, *a):\n     "
        "   global n\n        n += 1\n        if n == at: os.kill(os.getpid(), signal.SIGKILL)\n "
        "       return super().execute(*a)\nc = sqlite3.connect(sys.argv[1], "
        "isolation_level=None, factory=C)\nschema.create(c, journal_id='x', now_ns=1, "
        "version='1')\n"
    )
    for at in (2, 5, 20, 24):
        folder = tmp_path / f"at{at}"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, folder / "journal.db", str(at)], check=False
        )
        assert done.returncode == -signal.SIGKILL, f"there is no statement {at}"
        opened = Journal.open(folder)
        opened.append(opened.component("run"), [point(1)])
        assert len(opened.entries()) == 1
        opened.close()


def test_what_waits_at_the_end_of_a_script_without_close_is_written(tmp_path):
    """An entry that waited for another's lock is in the journal after the script."""
    code = """
import sqlite3, sys, warnings
from journaltrack.journal.journal import Journal
warnings.simplefilter("ignore")
journal = Journal.open(sys.argv[1], busy_timeout_s=0.01)
run = journal.component("run")
other = sqlite3.connect(sys.argv[1] + "/journal.db", isolation_level=None)
other.execute("BEGIN IMMEDIATE")
journal.append_metric(run, "loss", 0.5, 1, 1)
other.execute("ROLLBACK")
print(journal.unwritten)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "j"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    with closing(Journal.open(tmp_path / "j")) as journal:
        assert [(e.name, e.value) for e in journal.entries()] == [("loss", 0.5)]


def fill(journal):
    """Let SQLite find the disk full."""
    connection = journal.database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def make_room(journal):
    """Let SQLite find room again."""
    journal.database.connection.execute("PRAGMA max_page_count = 1073741823")


BIG = vocabulary.parameter("big", "x" * 2_400)


def append_many(journal, component, count):
    """Append until the disk is full, and on."""
    for _ in range(count):
        journal.append(component, [BIG])


def test_full_disk_lets_entries_wait_and_writes_them_in_order(journal):
    """While the disk is full training goes on, warned once; then everything is written in order
    with a whole chain.
    """
    component = journal.component("run")
    journal.append(component, [point(0)])
    fill(journal)
    with pytest.warns(RuntimeWarning, match="wait in memory"):
        append_many(journal, component, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        journal.append_metric(component, "late", 1.0, None, 1)
    waiting = journal.unwritten
    assert waiting > 0
    with pytest.raises(JournalWriteError) as caught:
        journal.flush()
    assert caught.value.unwritten == waiting
    make_room(journal)
    journal.flush()
    assert journal.unwritten == 0
    assert len(journal.entries()) == 42
    assert chains_hold(journal)


def test_full_disk_can_raise_instead(tmp_path):
    """With on_journal_error="raise" the call fails, and the chain goes on without it."""
    opened = Journal.open(tmp_path / "j", on_journal_error="raise")
    component = opened.component("run")
    fill(opened)
    with pytest.raises(JournalFullError):
        append_many(opened, component, 100)
    make_room(opened)
    opened.append(component, [point(2)])
    assert chains_hold(opened)
    opened.close()


def test_a_lock_held_for_too_long_lets_entries_wait(tmp_path):
    """Another process's transaction delays entries, and loses none."""
    opened = Journal.open(tmp_path / "j", busy_timeout_s=0.01)
    component = opened.component("run")
    opened.append(component, [point(0)])
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(RuntimeWarning, match="locked"):
            opened.append_metric(component, "m", 1.0, None, 1)
        assert opened.unwritten == 1
        other.execute("ROLLBACK")
    opened.close()
    again = Journal.open(tmp_path / "j", read_only=True)
    assert len(again.entries()) == 2
    again.close()


def test_a_lock_at_the_start_is_an_error(tmp_path):
    """A component can't be made while somebody holds the lock: a clear error, nothing recorded."""
    opened = Journal.open(tmp_path / "j", busy_timeout_s=0.01)
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalLockedError):
            opened.component("run")
    opened.close()


def test_bad_files_are_named_and_left_alone(tmp_path):
    """Missing, foreign, damaged and empty journals each have their own error, and keep every
    byte.
    """
    (tmp_path / "file").write_text("x")
    (tmp_path / "random").mkdir()
    (tmp_path / "random" / "journal.db").write_bytes(os.urandom(8_192))
    (tmp_path / "foreign").mkdir()
    with closing(sqlite3.connect(tmp_path / "foreign" / "journal.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    (tmp_path / "damaged").mkdir()
    opened = Journal.open(tmp_path / "whole")
    opened.append(opened.component("run"), [BIG] * 200)
    opened.close()
    data = bytearray((tmp_path / "whole" / "journal.db").read_bytes())
    data[4_096:] = os.urandom(len(data) - 4_096)
    (tmp_path / "damaged" / "journal.db").write_bytes(data)
    expected = {
        "missing": JournalNotFoundError,
        "file": NotAJournalError,
        "random": NotAJournalError,
        "foreign": NotAJournalError,
        "damaged": JournalCorruptError,
    }
    for name, error in expected.items():
        before = (
            (tmp_path / name / "journal.db").read_bytes() if (tmp_path / name).is_dir() else None
        )
        with pytest.raises(error) as caught:
            Journal.open(tmp_path / name, create=False).entries()
        assert caught.value.hint
        if before is not None:
            assert (tmp_path / name / "journal.db").read_bytes() == before


def test_reading_needs_no_right_to_write(journal, tmp_path):
    """A journal can be read while it is written, and from a copy on read-only media without its
    log.
    """
    journal.append(journal.component("run"), [point(1)])
    reader = Journal.open(tmp_path / "journal", read_only=True)
    assert len(reader.entries()) == 1
    with pytest.raises(JournalError):
        reader.append(1, [point(2)])
    reader.database.close()


def test_a_closed_journal_says_so(tmp_path):
    """Using a journal after close is an error, closing it twice is not."""
    opened = Journal.open(tmp_path / "j")
    component = opened.component("run")
    opened.close()
    opened.close()
    with pytest.raises(JournalError, match="closed"):
        opened.append(component, [point(1)])


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_durability_is_sqlites_synchronous(tmp_path, durability, synchronous):
    """Power durability waits for the disk at every commit, process durability does not; both use
    the write-ahead log.
    """
    opened = Journal.open(tmp_path / "j", durability=durability)
    assert opened.database.read("PRAGMA synchronous") == [(synchronous,)]
    assert opened.database.read("PRAGMA journal_mode") == [("wal",)]
    opened.close()


def test_a_transaction_tells_what_there_is_to_warn_of(journal, caplog):
    """As ``write`` does: what was noticed in it is logged when nobody holds the lock any more,
    also after an exception.
    """
    for error in (None, ValueError):
        with contextlib.suppress(ValueError), journal.database.transaction():
            journal.database.news.append("the disk is slow")
            assert "the disk is slow" not in caplog.text
            if error is not None:
                raise error
        assert caplog.text.count("the disk is slow") == 1
        caplog.clear()


def test_a_mistake_in_a_transaction_is_raised_and_undone(journal):
    """Work that passes too few values runs once, and leaves nothing."""
    runs = []

    def work(connection):
        runs.append(connection.execute("UPDATE mark SET seq = 7").rowcount)
        connection.execute("UPDATE mark SET seq = ?", ())

    with pytest.raises(sqlite3.ProgrammingError):
        journal.database.write(work)
    assert (runs, journal.database.read("SELECT seq FROM mark")) == ([1], [(0,)])


def test_a_connection_that_is_collected_first_is_closed_quietly(tmp_path, monkeypatch):
    """Python 3.13 warns of one that is open. In a cycle it may be collected before its owner. One
    that could not be opened is no reason to say something, either.
    """
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    connect(tmp_path / "journal.db", "mode=rwc", 1.0)
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "missing" / "journal.db", "mode=rwc", 1.0)
    gc.collect()
    assert told == []
