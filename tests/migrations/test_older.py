"""What an older journaltrack wrote: read wherever it is without being changed, and logged to
when it can't be upgraded.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import resource
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, doctor
from journaltrack.cli import main
from journaltrack.errors import (
    JournalAlteredError,
    JournalFullError,
    JournalOutdatedError,
    JournalWriteError,
)
from journaltrack.journal.schema import schema
from journaltrack.reports.report import audit
from tests.copies import verify_chains
from tests.faults.faulty_disk import (
    MS_RDONLY,
    SYNCS,
    WRITES,
    Ballast,
    assert_in_child,
    failing,
    mount,
    own_mounts,
    small_disk,
)
from tests.golden import REVISIONS, restore
from tests.migrations.test_golden import revision_of

OLDER = [revision for revision in REVISIONS if revision != schema.HEAD]
READERS = [
    ["status", "--json"],
    ["audit", "--json"],
    ["check"],
    ["audit", "entries"],
    ["show", "a"],
    ["runs", "--json"],
    ["compare"],
    ["export", "--output", "{out}/table.csv"],
    ["bundle", "--output", "{out}/a.bundle"],
    ["merge", "--into", "{out}/merged"],
    ["sync", "--dry-run"],
    ["prune", "--delivered-before", "1d", "--dry-run"],
    ["check"],
    ["receipts", "export", "--output", "{out}/receipts.jsonl"],
    ["resolve", "--set-aside", "--dry-run"],
    ["retry", "--dry-run"],
]


def files(folder):
    """The bytes of everything but SQLite's shared memory and an empty log."""
    found = {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith("-shm")
    }
    return {path: data for path, data in found.items() if data or path.name != "journal.db-wal"}


def read_everything(journal, out):
    """Every command that only reads; what each printed."""
    out.mkdir()
    printed = []
    for command in READERS:
        arguments = [part.format(out=out) for part in command]
        result = CliRunner().invoke(
            main, [*arguments, *(["--journal"] if command[0] != "merge" else []), str(journal)]
        )
        assert result.exit_code in {0, 3, 4}, (command, result.output)
        printed.append(result.output)
    assert {p.name for p in out.iterdir()} == {"table.csv", "a.bundle", "merged", "receipts.jsonl"}
    return printed


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which is this test's alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("revision", OLDER)
def test_an_older_journal_is_read_as_it_is(revision, tmp_path, temporary):
    """What reads changes no byte of it, makes no backup, and leaves nothing in the folder for
    temporary files.
    """
    folder = restore(revision, tmp_path / "j")
    before = files(folder)
    read_everything(folder, tmp_path / "out")
    assert files(folder) == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("revision", OLDER)
def test_an_older_journal_is_read_as_its_upgrade_is(revision, tmp_path):
    """The same numbers before and after."""
    folder = restore(revision, tmp_path / "j")
    before = audit(folder).totals
    Journal.open(folder).close()
    assert revision_of(folder / "journal.db") == schema.HEAD
    assert audit(folder).totals == before


def on_read_only_media(folder):
    own_mounts()
    journal = restore(OLDER[0], folder / "media" / "j")
    mount(folder / "media", folder / "media", None, 4096)
    mount(None, folder / "media", None, 32 | 4096 | MS_RDONLY)
    with pytest.raises(OSError, match="Read-only"):
        (journal / "x").touch()
    read_everything(journal, folder / "out")
    with pytest.raises(JournalWriteError):
        Journal.open(journal)


def test_an_older_journal_is_read_on_read_only_media(tmp_path, temporary):
    """All that reads works on a mount that can't be written."""
    assert_in_child(on_read_only_media, tmp_path)
    assert list(temporary.iterdir()) == []


def beside_its_writer(folder):
    journal = restore(OLDER[0], folder / "j")
    with closing(sqlite3.connect(journal / "journal.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO component (name, created_at_ns) VALUES ('under way', 1)")
        with closing(Journal.open(journal, read_only=True)) as reader:
            assert "under way" not in {row.name for row in reader.components()}
        writer.execute("COMMIT")
        with closing(Journal.open(journal, read_only=True)) as reader:
            assert "under way" in {row.name for row in reader.components()}


def test_an_older_journal_is_read_beside_a_writer(tmp_path):
    """A copy is of one moment: what is committed, whoever writes meanwhile."""
    assert_in_child(beside_its_writer, tmp_path)


def without_room_for_a_copy(folder):
    journal = restore(OLDER[0], folder / "j")
    small = small_disk(folder / "small", 200)
    tempfile.tempdir = str(small)
    before = files(journal)
    with pytest.raises(JournalOutdatedError, match="no room") as caught:
        Journal.open(journal, read_only=True)
    assert "TMPDIR" in caught.value.hint
    assert "check --repair" in caught.value.hint
    result = CliRunner().invoke(main, ["status", str(journal)])
    assert result.exit_code == 8
    assert list(small.iterdir()) == []
    assert files(journal) == before
    result = CliRunner().invoke(main, ["check", "--repair", str(journal)])  # as the hint says
    assert result.exit_code == 0, result.output
    assert revision_of(journal / "journal.db") == schema.HEAD


def test_no_room_for_a_copy_is_said(tmp_path):
    """With what to do, and nothing is left in TMPDIR; what the hint says helps."""
    assert_in_child(without_room_for_a_copy, tmp_path)


def test_doctor_looks_into_an_older_journal_and_upgrades_it(tmp_path):
    """The checks see what is inside; --repair upgrades after a backup, and what is damaged is
    still found.
    """
    folder = restore(OLDER[0], tmp_path / "j")
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        connection.execute("UPDATE mark SET seq = 9999")
    examination = doctor.examine(folder)
    assert {"records", "chains", "spool", "clock"} <= set(examination.checked)
    assert {f.repair for f in examination.findings} >= {"upgrade", "mark"}
    result = CliRunner().invoke(main, ["check", "--repair", str(folder)])
    assert result.exit_code == 0, result.output
    assert revision_of(folder / "journal.db") == schema.HEAD
    assert len(list(folder.glob(f"journal.db.{OLDER[0]}.*.backup"))) == 1
    assert {f.severity for f in doctor.examine(folder).findings} <= {"note"}


def test_a_reader_of_an_older_journal_is_forked(tmp_path):
    """The child reads a copy of its own."""
    folder = restore(OLDER[0], tmp_path / "j")
    with closing(Journal.open(folder, read_only=True)) as journal:
        names = [row.name for row in journal.components()]
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os._exit(0 if [row.name for row in journal.components()] == names else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [row.name for row in journal.components()] == names


def test_threads_read_and_upgrade_older_journals_at_once(tmp_path):
    """As a watcher's threads do; Alembic keeps what it works on in module-level variables."""
    folders = [restore(OLDER[0], tmp_path / f"j{n}") for n in range(8)]

    def use(folder):
        with closing(Journal.open(folder, read_only=True)) as journal:
            names = [row.name for row in journal.components()]
        with closing(Journal.open(folder)) as journal:
            return names == [row.name for row in journal.components()]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, folders)) == [True] * 8
    assert {revision_of(folder / "journal.db") for folder in folders} == {schema.HEAD}


# -- a disk that refuses the upgrade
# ---------------------------------------------------------------------------------------


def left(folder):
    """What an upgrade may leave beside the journal."""
    return sorted(p.name for p in folder.iterdir() if ".backup" in p.name or "partial" in p.name)


def log_to(folder, count, **options):
    """A run of a training script that logs so many points."""
    tracker = Tracker.create(
        trial_component_name="late", journal=folder, sync="off", resume=True, **options
    )
    for step in range(count):
        tracker.log_metric("late", float(step), iteration_number=step)
    tracker.log_parameter("rate", 0.5)
    tracker.close()


def late(folder):
    """The points that ``log_to`` logged, by a plain reader."""
    with closing(sqlite3.connect(f"file:{folder / 'journal.db'}?mode=ro", uri=True)) as connection:
        return [
            int(v)
            for (v,) in connection.execute(
                "SELECT value FROM entry WHERE name = 'late' ORDER BY seq"
            )
        ]


def check_upgraded(folder, points):
    """With room it is upgraded, after a backup, and everything is proved."""
    Journal.open(folder).close()
    assert revision_of(folder / "journal.db") == schema.HEAD
    assert len(left(folder)) == 1
    assert late(folder) == points
    assert verify_chains(folder) == []
    assert doctor.examine(folder).healthy


def without_room_for_the_backup(folder):
    disk = small_disk(folder, 8192)
    journal = restore(OLDER[0], disk / "j")
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        connection.executescript(
            "CREATE TABLE lost_and_found (a); INSERT INTO lost_and_found VALUES (zeroblob(2000000))"
        )
    ballast = Ballast(disk, leave_bytes=1_500_000)
    with pytest.raises(JournalFullError, match="no changes were made"):
        Journal.open(journal)
    assert left(journal) == []
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("journaltrack").addHandler(handler)
    log_to(journal, 50)
    assert any("can't be upgraded" in line and "delivered once" in line for line in logged), logged
    assert late(journal) == list(range(50))
    assert revision_of(journal / "journal.db") == OLDER[0]
    assert verify_chains(journal) == []  # also as it is
    assert left(journal) == []
    ballast.drop()
    log_to(journal, 10)
    check_upgraded(journal, [*range(50), *range(10)])


def test_training_goes_on_where_there_is_no_room_for_an_upgrade(tmp_path):
    """Each call is recorded in the older journal at once, nothing is left of the attempt, and
    with room the next one upgrades.
    """
    assert_in_child(without_room_for_the_backup, tmp_path / "disk")


def full_in_the_upgrade(folder):
    disk = small_disk(folder, 2048)
    journal = restore(OLDER[0], disk / "j")
    size = (journal / "journal.db").stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # as a quota: nobody sees it coming
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    with pytest.raises(JournalWriteError):
        Journal.open(journal)
    assert left(journal) == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    check_upgraded(journal, [])


def test_an_upgrade_that_meets_a_quota_leaves_nothing(tmp_path):
    """The backup breaks off in its middle: no part of it stays, the journal is as it was, and
    with room it is upgraded.
    """
    assert_in_child(full_in_the_upgrade, tmp_path / "disk")


def broken_in_the_upgrade(folder, calls, number):
    journal = restore(OLDER[0], folder / "j")

    def upgrade():
        with pytest.raises(JournalWriteError):
            Journal.open(journal)

    failing(upgrade, calls, number)
    assert left(journal) == []
    assert revision_of(journal / "journal.db") == OLDER[0]
    check_upgraded(journal, [])


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("calls", [WRITES, SYNCS])
def test_an_upgrade_on_a_broken_disk_leaves_nothing(tmp_path, calls, number):
    """Whatever write or sync fails: no part of a backup, no part of the upgrade."""
    assert_in_child(broken_in_the_upgrade, tmp_path, calls, number)


def broken_in_the_upgrade_of_a_tracker(folder, calls, number):
    journal = restore(OLDER[0], folder / "j")
    tracker = failing(lambda: Tracker.load("b", journal=journal, sync="off"), calls, number)
    tracker.log_metric("late", 0.0)
    tracker.close()
    assert left(journal) == []
    check_upgraded(journal, [0])


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_a_tracker_starts_where_the_upgrade_fails(tmp_path, number):
    """A disk that syncs nothing while the tracker starts, and works later."""
    assert_in_child(broken_in_the_upgrade_of_a_tracker, tmp_path, SYNCS, number)


def test_what_a_killed_upgrade_left_is_removed(tmp_path):
    """Half a backup under whatever time is gone after the next upgrade."""
    folder = restore(OLDER[0], tmp_path / "j")
    (folder / f"journal.db.{OLDER[0]}.123.backup.partial").write_bytes(b"half")
    check_upgraded(folder, [])


def test_a_revision_that_fails_takes_its_backup_with_it(tmp_path):
    """What an altered older journal can't be upgraded to is no backup of anything; it is left as
    it is.
    """
    folder = restore(OLDER[0], tmp_path / "j")
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        connection.execute("ALTER TABLE writer ADD COLUMN packages TEXT")
    for appending in (True, False):
        with pytest.raises(JournalAlteredError, match="no changes were made"):
            Journal.open(folder, appending=appending)
    assert left(folder) == []
    assert revision_of(folder / "journal.db") == OLDER[0]


def test_an_older_journal_that_lacks_a_guard_is_not_upgraded(tmp_path):
    """What an upgrade makes is looked at before it counts; a repair makes the guard again."""
    folder = restore(OLDER[0], tmp_path / "j")
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        connection.execute("DROP TRIGGER entry_no_delete")
    with pytest.raises(JournalAlteredError, match="lacks trigger 'entry_no_delete'"):
        Journal.open(folder)
    assert left(folder) == []
    assert revision_of(folder / "journal.db") == OLDER[0]
    result = CliRunner().invoke(main, ["check", "--repair", str(folder)])
    assert result.exit_code == 0, result.output
    Journal.open(folder).close()


@pytest.mark.parametrize("revision", OLDER)
def test_a_tracker_goes_on_while_its_journal_is_upgraded(revision, tmp_path, monkeypatch):
    """One that began in the older schema: its next calls land in the newer one, in its own
    chain, and all is proved.
    """
    folder = restore(revision, tmp_path / "j")
    monkeypatch.setattr("journaltrack.journal.schema.migrate.SPARE_BYTES", 1 << 62)
    tracker = Tracker.create(trial_component_name="late", journal=folder, sync="off")
    tracker.log_metric("late", 0.0)
    assert revision_of(folder / "journal.db") == revision
    monkeypatch.undo()
    Journal.open(folder).close()
    assert revision_of(folder / "journal.db") == schema.HEAD
    tracker.log_metric("late", 1.0)
    tracker.close()
    assert late(folder) == [0, 1]
    assert verify_chains(folder) == []
    assert (
        len(
            [
                name
                for name in left(folder)
                if re.fullmatch(r"journal\.db\.\d{4}\.\d+\.backup", name)
            ]
        )
        == 1
    )
