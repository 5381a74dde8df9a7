"""Journals seen from outside: found, compared, and left alone until they are whole."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.files import held_open
from journaltrack.util import paths
from journaltrack.util.paths import journals_in
from journaltrack.watch.folders import files_of, in_arrival, log_is_torn
from tests.builders import tracked


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal: the watcher sees one from outside."""
    return tracked(tmp_path, steps=200, artifact=b"weights" * 1000)


def test_journals_are_found_below_a_folder(tmp_path, journal):
    """Journals at any depth up to the bound, not hidden ones, not links, nothing inside of a
    journal.
    """
    root = tmp_path / "root"
    for place in ("a", "b/c/d", ".hidden", "a/spool/x", "1/2/3/4/5/6"):
        shutil.copytree(journal, root / place, dirs_exist_ok=True)
    (root / "link").symlink_to(journal)
    (root / "file").write_text("")
    assert list(journals_in(root)) == [root / "a", root / "b/c/d"]
    assert list(journals_in(journal)) == [journal]
    assert list(journals_in(tmp_path / "missing")) == []


def test_what_is_written_shows_and_what_is_read_does_not(journal):
    """An append changes the look of the files; opening a journal for reading does not."""
    before = files_of(journal)
    reader = Journal.open(journal, read_only=True, create=False)
    assert reader.entries(limit=1)
    assert files_of(journal) == before
    reader.close()
    assert files_of(journal) == before
    writer = Journal.open(journal)
    component = writer.component("run")
    between = files_of(journal)
    writer.append_metric(component, "loss", 1.0, 1, 1)
    assert files_of(journal) != between
    writer.close()


def test_a_journal_that_is_gone_has_no_files(tmp_path):
    """Nothing there is None, not an error."""
    assert files_of(tmp_path / "missing") is None
    (tmp_path / "file").write_text("")
    assert files_of(tmp_path / "file" / "below") is None


def test_another_journal_in_the_same_place_is_another(tmp_path, journal):
    """A replaced database, and one that is written anew, are told from one that grew."""
    before = files_of(journal)
    with closing(sqlite3.connect(journal / paths.DATABASE)) as connection:
        connection.execute("CREATE TABLE more (x)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not before.replaced_by(files_of(journal))
    shutil.copy(journal / paths.DATABASE, tmp_path / "other.db")
    (tmp_path / "other.db").replace(journal / paths.DATABASE)
    assert before.replaced_by(files_of(journal))
    grown = files_of(journal)
    with (journal / paths.DATABASE).open("r+b") as file:
        file.truncate(4096)
    assert grown.replaced_by(files_of(journal))


def test_every_prefix_of_a_copied_database_is_known_for_one(tmp_path, journal):
    """While `cp` writes the database, it is never taken for whole; when it has ended, it is."""
    whole = (journal / paths.DATABASE).read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    for size in [*range(0, len(whole), 4096), len(whole) - 1]:
        (copy / paths.DATABASE).write_bytes(whole[:size])
        assert in_arrival(copy, files_of(copy)), size
    (copy / paths.DATABASE).write_bytes(whole)
    assert in_arrival(copy, files_of(copy)) is None


@pytest.mark.parametrize(
    "name",
    [".journal.db.Xy12Zw", ".journal.db-wal.Xy12Zw", "journal.db.part", "model.filepart", ".~tmp~"],
)
def test_the_traces_of_copying_programs_are_heeded(journal, name):
    """rsync, scp clients and browsers write under another name first: while that is there, the
    copy is under way.
    """
    (journal / name).write_text("")
    assert name in in_arrival(journal, files_of(journal))


def test_what_is_no_database_is_left_to_the_one_who_opens_it(tmp_path):
    """A file that is whole but something else is not waited for: opening it says what it is."""
    (tmp_path / paths.DATABASE).write_bytes(b"something else entirely" * 100)
    assert in_arrival(tmp_path, files_of(tmp_path)) is None


def test_a_log_that_ends_within_a_frame_is_torn(tmp_path, journal):
    """A log is torn at every size but those between frames."""
    writer = Journal.open(journal)
    component = writer.component("run")
    for step in range(10):
        writer.append_metric(component, "loss", 1.0, step, 1)
    shutil.copytree(journal, tmp_path / "copy")
    writer.close()
    copy, log = tmp_path / "copy", tmp_path / "copy" / "journal.db-wal"
    assert not log_is_torn(copy, files_of(copy))
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 100)
    assert log_is_torn(copy, files_of(copy))


HOLD = """
import sys
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1])
journal.append_metric(journal.component("run"), "loss", 1.0, 1, 1)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere the system is not asked"
)
def test_a_journal_in_use_on_this_machine_is_no_copy(journal):
    """Another process that has it open with SQLite is seen, and seen to end; one that merely
    reads the file is not.
    """
    assert not held_open(journal)
    with (journal / paths.DATABASE).open("rb"):
        assert not held_open(journal)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"open\n"
        assert held_open(journal)
        holder.kill()
    assert not held_open(journal)
