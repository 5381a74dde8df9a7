"""What a newer journaltrack wrote: refused by whatever reads it, with the version needed, and
never called altered or damaged.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, doctor
from journaltrack._version import __version__
from journaltrack.cli import main
from journaltrack.doctor.recover import salvage
from journaltrack.errors import (
    JournalAlteredError,
    JournalTooNewError,
    JournalWriteError,
    NotAJournalError,
)
from journaltrack.journal.schema import schema
from journaltrack.transfer.bundle.pack import bundle as bundle_journal
from journaltrack.transfer.receipts import export_receipts
from journaltrack.util.text import is_newer_version, version_needed
from tests.golden import restore
from tests.processes import Watching
from tests.simulator import simulator

ALL_NEW = """
    CREATE TABLE annotation (id INTEGER PRIMARY KEY, text TEXT, upper TEXT AS (upper(text)));
    ALTER TABLE entry ADD COLUMN unit TEXT;
    ALTER TABLE writer RENAME COLUMN program TO script;
    DROP TRIGGER entry_no_update;
    CREATE TRIGGER entry_logged AFTER INSERT ON entry BEGIN INSERT INTO annotation (text) VALUES (NEW.kind); END;
    CREATE VIEW pending AS SELECT * FROM entry;
"""
FUTURES = {
    "a revision alone": ("UPDATE alembic_version SET version_num = '9999'", None),
    "a revision that is no number": (
        "UPDATE alembic_version SET version_num = 'd8f1c3a90b7e'",
        None,
    ),
    "two revisions": ("INSERT INTO alembic_version VALUES ('9999')", None),
    "a version alone": ("UPDATE meta SET required_version = '9.1.0'", "9.1.0"),
    "a version that made it": (
        (
            "UPDATE alembic_version SET version_num = '0009'; UPDATE meta SET created_by_version = "
            "'2.0'"
        ),
        "2.0",
    ),
    "new objects of a revision": (
        f"{ALL_NEW}; UPDATE alembic_version SET version_num = '{int(schema.HEAD) + 1:04d}'",
        None,
    ),
    "new objects and a version": (
        f"{ALL_NEW}; UPDATE meta SET required_version = '9.9.0'",
        "9.9.0",
    ),
    "other tables altogether": (
        (
            "ALTER TABLE entry RENAME TO record; DROP TABLE mark; DROP TABLE lease; ALTER TABLE "
            "meta RENAME COLUMN created_by_version TO maker; UPDATE meta SET required_version = "
            "'1.0rc1'; UPDATE alembic_version SET version_num = '0100'"
        ),
        "1.0rc1",
    ),
    "syntax of a newer SQLite": (
        (
            "PRAGMA writable_schema = ON; INSERT INTO sqlite_master "
            "VALUES ('table', 't', 't', 0, 'CREATE TABLE t (a) STRICTER'); UPDATE meta SET "
            "required_version = '9.9.0'; UPDATE alembic_version SET version_num = '0040'"
        ),
        "9.9.0",
    ),
}
COMMANDS = [
    ["status"],
    ["status", "--watch", "--count", "1"],
    ["sync", "--endpoint-url", "http://127.0.0.1:9"],
    ["sync", "--dry-run"],
    ["audit"],
    ["check"],
    ["audit", "entries"],
    ["show", "a"],
    ["export", "--output", "{out}/table.csv"],
    ["bundle", "--output", "{out}/a.bundle"],
    ["merge", "--into", "{out}/merged"],
    ["prune", "--delivered-before", "1d", "--dry-run"],
    ["prune", "--blobs-delivered-before", "1d"],
    ["check"],
    ["check", "--repair"],
    ["receipts", "export", "--output", "{out}/receipts.jsonl"],
    ["receipts", "import", "{receipts}"],
    ["check", "--remote", "--endpoint-url", "http://127.0.0.1:9"],
    ["resolve", "--delivered"],
    ["resolve", "--set-aside", "--dry-run"],
    ["retry"],
    ["retry", "--in-doubt", "--dry-run"],
]
WRONG = re.compile(
    r"alter|damage|corrupt|not a journal|malformed|unexpected|this is a bug", re.IGNORECASE
)


def future(folder, sql):
    """A journal of this version that a newer one has been at."""
    journal = restore(schema.HEAD, folder)
    with closing(sqlite3.connect(journal / "journal.db", isolation_level=None)) as connection:
        connection.executescript(sql)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return journal


def files(folder):
    """The bytes of everything but SQLite's shared memory."""
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize("kind", FUTURES)
def test_every_command_refuses_a_newer_journal(tmp_path, kind):
    """Exit code 8, the version needed (or that it is newer than this one), nothing made and
    nothing changed.
    """
    sql, needed = FUTURES[kind]
    journal = future(tmp_path / "j", sql)
    receipts = tmp_path / "receipts"
    export_receipts(restore(schema.HEAD, tmp_path / "before"), to=receipts)
    before = files(journal)
    for command in COMMANDS:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        arguments = [part.format(out=out, receipts=receipts) for part in command]
        result = CliRunner().invoke(
            main, [*arguments, *(["--journal"] if command[0] != "merge" else []), str(journal)]
        )
        assert result.exit_code == (0 if "--watch" in command else 8), (command, result.output)
        expected = (
            f"install journaltrack {needed} or later"
            if needed
            else f"install a journaltrack newer than {__version__}"
        )
        assert expected in result.output, (command, result.output)
        assert not WRONG.search(result.output.replace(str(tmp_path), "")), (command, result.output)
        assert list(out.iterdir()) == [], command
    assert files(journal) == before


@pytest.mark.parametrize("kind", FUTURES)
def test_a_tracker_refuses_a_newer_journal_when_it_starts(tmp_path, kind):
    """An explicit error before training begins, of either way to start."""
    journal = future(tmp_path / "j", FUTURES[kind][0])
    before = files(journal)
    for start in (
        lambda: Tracker.create(journal=journal, sync="off"),
        lambda: Tracker.load("a", journal=journal, sync="off"),
        lambda: Journal.open(journal),
        lambda: Journal.open(journal, read_only=True),
        lambda: doctor.examine(journal),
    ):
        with pytest.raises(JournalTooNewError):
            start()
    assert files(journal) == before


def test_a_newer_journal_in_the_log_alone_is_seen(tmp_path):
    """A newer journaltrack was killed behind its upgrade: what is in the write-ahead log counts,
    also where nothing can be written.
    """
    journal = restore(schema.HEAD, tmp_path / "j")
    with closing(sqlite3.connect(journal / "journal.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE alembic_version SET version_num = '0009'")
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            (copy / name).write_bytes((journal / name).read_bytes())
    with pytest.raises(JournalTooNewError):
        Journal.open(copy, read_only=True)


def test_a_damaged_newer_journal_is_not_rebuilt(tmp_path):
    """A repair by this version would lose what it does not know."""
    journal = future(tmp_path / "j", "UPDATE meta SET required_version = '9.9.0'")
    with pytest.raises(JournalTooNewError, match=r"9\.9\.0"):
        salvage(journal, tmp_path / "new.db", now_ns=1)
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("revision", ["0000", "", "00015"])
def test_a_revision_that_never_was_is_no_newer_one(tmp_path, revision):
    """Below this version's there are those that it knows, and no others."""
    journal = future(tmp_path / "j", f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(JournalAlteredError):
        Journal.open(journal)


def test_a_database_of_another_program_is_no_newer_journal(tmp_path):
    """Alembic's table of versions alone makes no journal."""
    folder = tmp_path / "j"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.executescript(
            "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version "
            "VALUES ('9999'); CREATE TABLE runs (a)"
        )
    for read_only in (True, False):
        with pytest.raises(NotAJournalError):
            Journal.open(folder, read_only=read_only)


def test_an_older_required_version_opens(tmp_path):
    """What a journal needs is the first version that reads it, not the last that wrote to it."""
    folder = future(
        tmp_path / "j", "UPDATE meta SET required_version = '0.0.9', created_by_version = '7.0'"
    )
    with closing(Journal.open(folder)) as journal:
        assert journal.entries(limit=1)


@pytest.mark.parametrize(
    ("stated", "newer"),
    [
        ("0.1.0", False),
        ("0.1", False),
        ("0.1.0rc1", False),
        ("0.1.1", True),
        ("0.2", True),
        ("1.0.0rc1", True),
        ("0.2.0.dev3", True),
        ("", False),
        ("9", False),
        ("9.9.0; rm -rf", False),
        (None, False),
        (9.9, False),
        ("99999.0", False),
        ("0.1.0.0.1", False),
        ("٩.٩", False),
    ],
)
def test_versions_are_compared_by_their_numbers(stated, newer):
    """What is no version is not newer, and is never shown."""
    assert is_newer_version(stated, "0.1.0") is newer
    assert version_needed(stated, reader="0.1.0") == (
        f"journaltrack {stated} or later" if newer else "a journaltrack newer than 0.1.0"
    )


def test_new_journals_state_the_version_that_first_reads_them(tmp_path):
    """Not the one that made them: a patch release must not lock the one before it out."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.create(connection, journal_id="j", now_ns=1, version="0.1.7")
        assert connection.execute(
            "SELECT created_by_version, required_version FROM meta"
        ).fetchone() == ("0.1.7", schema.REQUIRED_VERSION)
    assert not is_newer_version(schema.REQUIRED_VERSION, __version__)


def test_a_bundle_of_a_newer_journal_is_refused(tmp_path):
    """Its own format is known, the journal in it is not: no folder is left, whichever way it
    arrives.
    """
    bundle_journal(restore(schema.HEAD, tmp_path / "j"), to=tmp_path / "a.bundle", all_blobs=True)
    data = (tmp_path / "a.bundle").read_bytes()
    database = re.search(rb'"sha256": "([0-9a-f]{64})"', data)[1]
    at = data.index(b"SQLite format 3\0")
    size = int(re.search(rb'"size_bytes": (\d+)', data)[1])
    (tmp_path / "new.db").write_bytes(data[at : at + size])
    with closing(sqlite3.connect(tmp_path / "new.db", isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET required_version = '9.9.0'")
    changed = (tmp_path / "new.db").read_bytes()
    assert len(changed) == size
    new = hashlib.sha256(changed).hexdigest().encode()
    data = (data[:at] + changed + data[at + size :]).replace(database, new)
    manifest = data[512 : 512 + int(data[124:135], 8)]
    sums = hashlib.sha256(manifest).hexdigest().encode()
    old = hashlib.sha256(manifest.replace(new, database)).hexdigest().encode()
    (tmp_path / "b.bundle").write_bytes(data.replace(old, sums))
    for command in (
        ["bundle", "--extract", "b.bundle", "out"],
        ["sync", "b.bundle", "--endpoint-url", "http://127.0.0.1:9"],
    ):
        result = CliRunner().invoke(
            main, [str(tmp_path / p) if p in {"b.bundle", "out"} else p for p in command]
        )
        assert result.exit_code == 8, result.output
        assert "install journaltrack 9.9.0 or later" in result.output
    assert not (tmp_path / "out").exists()


def test_a_journal_upgraded_under_a_tracker_is_told(tmp_path):
    """A newer schema that takes this version's entries no more: they wait, and the warning and
    close name the version needed.
    """
    folder = restore(schema.HEAD, tmp_path / "j")
    tracker = Tracker.create(trial_component_name="late", journal=folder, sync="off")
    tracker.log_metric("m", 1.0)
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as connection:
        connection.executescript(
            "ALTER TABLE entry RENAME COLUMN value TO number; UPDATE meta SET required_version = "
            "'9.9.0'; UPDATE alembic_version SET version_num = '0009'"
        )
    with pytest.warns(
        RuntimeWarning, match=r"a newer journaltrack upgraded.*wait in memory.*9\.9\.0"
    ):
        tracker.log_metric("m", 2.0)
    with pytest.raises(JournalWriteError, match="newer journaltrack") as caught:
        tracker.close()
    assert "9.9.0" in caught.value.hint
    assert caught.value.unwritten == 1
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE entry RENAME COLUMN number TO value")
    tracker.close()


def test_a_watcher_names_the_version_and_goes_on(tmp_path):
    """One newer journal in an inbox keeps the watcher from none of the others."""
    future(tmp_path / "inbox" / "newer", "UPDATE meta SET required_version = '9.9.0'")
    restore(schema.HEAD, tmp_path / "inbox" / "usual")
    with simulator() as sim:
        watching = Watching(tmp_path / "inbox", sim.endpoint_url)
        watching.wait_for("newer", "9.9.0 or later")
        watching.wait_for("event=pass", "usual")
        assert watching.end() == 0
    assert not WRONG.search("".join(watching.lines).replace(str(tmp_path), ""))
