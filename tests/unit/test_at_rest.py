"""What nobody writes is read without locks, and read again if somebody did."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest

from journaltrack.errors import JournalCorruptError
from journaltrack.journal import view
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite import files
from journaltrack.journal.vocabulary import parameter
from journaltrack.reports.status import status
from journaltrack.util import paths

OLD_NS = files._TICK_NS + 1
COUNT = "SELECT count(*) FROM entry"


@pytest.fixture
def folder(tmp_path):
    """A closed journal with one entry."""
    add(tmp_path / "journal")
    return tmp_path / "journal"


@pytest.fixture
def later(monkeypatch):
    """A clock that is so far ahead that what was just written is old."""
    now_ns = files.time.time_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: now_ns() + OLD_NS)


def add(folder):
    """One more entry, by a process that closes the journal."""
    journal = Journal.open(folder)
    journal.append(journal.component("run"), [parameter("a", 1)])
    journal.close()


def count(journal):
    """Its entries."""
    return journal.database.read(COUNT)[0][0]


def test_a_look_at_what_rests_leaves_no_file(folder, later):
    """Not even those that SQLite makes to share a log."""
    before = {each.name: os.stat(each).st_mtime_ns for each in folder.iterdir()}
    assert status(folder).pending == 1
    assert {each.name: os.stat(each).st_mtime_ns for each in folder.iterdir()} == before


def test_a_status_is_the_same_with_and_without_locks(folder, monkeypatch):
    """Whatever it is of."""
    with_locks = status(folder)
    assert (folder / "journal.db-shm").exists()
    (folder / "journal.db-shm").unlink()
    now_ns = files.time.time_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: now_ns() + OLD_NS)
    found = status(folder)
    assert not (folder / "journal.db-shm").exists()
    same = {"at_ns": 0, "oldest_pending_age_s": 0.0}
    assert dataclasses.replace(found, **same) == dataclasses.replace(with_locks, **same)


def test_what_is_written_meanwhile_is_seen(folder, later):
    """By whoever came and went: what was read before is dropped."""
    seen = []

    def work(journal):
        """Count, while another process adds."""
        seen.append(count(journal))
        if len(seen) == 1:
            add(folder)
        return seen[-1]

    assert view.look(folder, work) == 2
    assert seen == [1, 2]


def test_a_writer_that_stays_is_seen(folder, later):
    """Its entries are in the log alone, which is read the second time."""
    writers = []

    def work(journal):
        """Count, while another one opens the journal, adds, and does not close it."""
        found = count(journal)
        if not writers:
            writers.append(Journal.open(folder))
            writers[0].append(writers[0].component("run"), [parameter("a", 2)])
        return found

    try:
        assert view.look(folder, work) == 2
    finally:
        writers[0].close()


@pytest.mark.parametrize("error", [JournalCorruptError("half of a page"), IndexError("no row")])
def test_an_error_counts_only_if_nothing_changed(folder, later, error):
    """What was read in the middle of a change may look damaged, or like anything."""
    tries = []

    def work(journal):
        """Fail, the first time while another process adds."""
        tries.append(count(journal))
        if len(tries) == 1:
            add(folder)
            raise error
        return tries[-1]

    assert view.look(folder, work) == 2

    def fails(_):
        raise error

    with pytest.raises(type(error)):
        view.look(folder, fails)


def test_a_look_drops_no_lock_of_this_process(folder, later):
    """A tracker of it has the journal open, and its log is empty."""

    def locks():
        """Of this process on the database."""
        inode = os.stat(folder / paths.DATABASE).st_ino
        lines = []
        for each in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                lines += each.read_text("ascii").splitlines()
        return sorted(line for line in lines if line.startswith("lock:") and f":{inode} " in line)

    with contextlib.closing(Journal.open(folder)) as journal:
        journal.append(journal.component("run"), [parameter("a", 2)])
        journal.database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        assert files.at_rest(folder / paths.DATABASE)
        held = locks()
        assert held
        assert status(folder).pending == 2
        assert locks() == held


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_with_content_is_no_rest(folder, later, suffix):
    """An empty one is: SQLite leaves it behind."""
    assert files.at_rest(folder / paths.DATABASE)
    log = folder / f"{paths.DATABASE}{suffix}"
    log.touch()
    assert files.at_rest(folder / paths.DATABASE)
    log.write_bytes(b"x")
    assert files.at_rest(folder / paths.DATABASE) is None


def test_what_was_just_written_is_no_rest(folder):
    """The next change might have the same time."""
    assert files.stamp(folder / paths.DATABASE)
    assert files.at_rest(folder / paths.DATABASE) is None


def test_a_shared_disk_is_no_rest(folder, later, monkeypatch):
    """A file server may tell of a change late."""
    monkeypatch.setattr(paths, "network_file_system", lambda _: "nfs4")
    assert files.at_rest(folder / paths.DATABASE) is None


def test_a_missing_journal_is_no_rest(tmp_path, later):
    """It is reported as without this."""
    assert files.at_rest(tmp_path / paths.DATABASE) is None
