"""Journals of earlier releases: read, verified, delivered by the code of today; upgrades whole
or absent whenever a kill comes.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest
from alembic.script import ScriptDirectory
from click.testing import CliRunner

from journaltrack import doctor
from journaltrack.cli import main
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import migrate, schema
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.plan.actions import MetricPoint
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from tests import tally
from tests.copies import verify_chains
from tests.faults.disktrace import Killing, supported
from tests.golden import HERE, REVISIONS, restore
from tests.migrations.test_migrations import MIGRATIONS, NEXT, migrations_with
from tests.patience import scaled

# The first and the last change are always tried.
KILLS = max(2, scaled(12))
WHY_NOT = supported()
UPGRADE = """
import pathlib, sys
from journaltrack.journal.schema import migrate as upgrading
upgrading.upgrade(pathlib.Path(sys.argv[1]), "{head}", now_ns=1, migrations=pathlib.Path(sys.argv[2]), head="{next}")
"""
FORK = multiprocessing.get_context("fork")


def content(path):
    """All rows of what is recorded."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        tables = ("entry", "component", "receipt", "delivery", "blob", "location", "field", "meta")
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in tables
        }


def revision_of(path):
    """The schema's, by plain sqlite3; the database is whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_every_released_schema_has_its_golden_journal():
    """One folder per revision that there is."""
    revisions = sorted(s.revision for s in ScriptDirectory(str(MIGRATIONS)).walk_revisions())
    assert sorted(REVISIONS) == revisions
    assert schema.HEAD in REVISIONS
    for revision in REVISIONS:
        assert f"INSERT INTO \"alembic_version\" VALUES('{revision}')" in (
            HERE / revision / "journal.sql"
        ).read_text(encoding="utf-8")


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_golden_journal_is_read_and_proved(revision, tmp_path):
    """Every row is kept by opening it, every chain and blob holds, all reports read it."""
    folder = restore(revision, tmp_path / "j")
    before = content(folder / "journal.db")
    Journal.open(folder).close()
    after = content(folder / "journal.db")
    assert {
        table: [row[: len(before[table][0])] for row in rows]
        for table, rows in after.items()
        if before[table]
    } == {table: rows for table, rows in before.items() if rows}
    assert verify_chains(folder) == []
    assert doctor.examine(folder).healthy
    totals = audit(folder).totals
    assert totals.adds_up
    assert totals.entries == len(before["entry"])
    for command in (["status"], ["audit"], ["audit", "entries"], ["show", "a"], ["compare"]):
        result = CliRunner().invoke(main, [*command, "--json", "--journal", str(folder)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code in {0, 3, 4}, result.output
        for line in result.stdout.splitlines() if "entries" in command else [result.stdout]:
            json.loads(line)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_golden_journal_is_logged_to_and_delivered(revision, tmp_path):
    """What the old release left pending arrives, what it had sent does not arrive again, and a
    new writer goes on.
    """
    folder = restore(revision, tmp_path / "j")
    pending = {row[0] for row in content(folder / "journal.db")["entry"]} - {
        row[0] for row in content(folder / "journal.db")["delivery"]
    }
    assert pending
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        for component in journal.components():
            # the remote of today has what the old release had made
            if component.confirmed_at_ns is not None:
                remote.components[component.name] = _made_by_the_old_release(journal, component)
        journal.append_metric(journal.component("a"), "new", 5.0, 1, 1)
        report = Reconciler(journal, remote, options=Options()).run()
    assert report.pending == 0
    sent = [point.value for component in remote.components.values() for point in component.points]
    assert 5.0 in sent
    assert len(sent) == len(set(sent))
    settled = {row[0]: row[2] for row in content(folder / "journal.db")["delivery"]}
    assert pending <= set(settled)
    assert verify_chains(folder) == []


def _made_by_the_old_release(journal, component):
    from journaltrack.remotes.memory import MemoryComponent
    from journaltrack.replay.plan.actions import ComponentSpec

    entries = [e for e in journal.entries() if e.component_id == component.id]
    with closing(sqlite3.connect(journal.path / "journal.db")) as connection:
        there = {
            seq
            for (seq,) in connection.execute("SELECT seq FROM delivery WHERE outcome = 'delivered'")
        }
    owner = next(e.detail["owner"] for e in entries if e.kind == "create")
    points = [
        MetricPoint(e.name, e.value, e.step, e.timestamp_ns)
        for e in entries
        if e.kind == "metric" and e.seq in there
    ]
    return MemoryComponent(ComponentSpec(component.name, owner, None, ()), points=points)


GROW = """op.execute("CREATE TABLE entry_copy AS SELECT * FROM entry")
    op.execute("CREATE INDEX entry_copy_name ON entry_copy (name, value)")
    op.execute("UPDATE mark SET seq = seq")
    op.execute("DROP TABLE entry_copy")"""


@pytest.fixture
def large(tmp_path):
    """A golden journal with 5,000 entries more."""
    folder = restore(REVISIONS[-1], tmp_path / "large")
    with closing(Journal.open(folder)) as journal:
        component = journal.component("a")
        from journaltrack.journal import vocabulary

        journal.append(component, [vocabulary.metric("m", float(n), n, 1) for n in range(5_000)])
    return folder


def upgrade(path, migrations):
    """What the child does."""
    migrate.upgrade(path, schema.HEAD, now_ns=1, migrations=migrations, head=NEXT)


def check_whole(folder, before, backup_of):
    """All of the old schema, or all of the new one; every row as before; a backup under its name
    is whole.
    """
    path = folder / "journal.db"
    revision = revision_of(path)
    with closing(sqlite3.connect(path)) as connection:
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        columns = {row[1] for row in connection.execute("PRAGMA table_info(writer)")}
        assert ("annotation" in tables, "note" in columns, "entry_copy" in tables) == (
            revision == NEXT,
            revision == NEXT,
            False,
        )
    assert content(path) == before
    for backup in folder.glob("*.backup"):
        assert revision_of(backup) == schema.HEAD
        assert content(backup) == backup_of
    return revision


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_an_upgrade_that_is_killed_is_whole_or_absent(large, tmp_path):
    """SIGKILL before random changes of files in an upgrade of 5,000 entries: the journal is the
    old or the new one, never between.
    """
    migrations = migrations_with(tmp_path, GROW)
    path = large / "journal.db"
    before = content(path)
    killing = Killing(UPGRADE.format(head=schema.HEAD, next=NEXT), tmp_path)
    shutil.copytree(large, tmp_path / "reference")
    changes = killing.changes(
        tmp_path / "reference", tmp_path / "reference" / "journal.db", migrations
    )
    assert check_whole(tmp_path / "reference", before, before) == NEXT
    for at in [1, changes, *random.Random(4).sample(range(2, changes), KILLS - 2)]:
        folder = tmp_path / "killed"
        shutil.copytree(large, folder)
        assert killing.killed(folder, folder / "journal.db", migrations, at=at)
        tally.count("SIGKILL of an upgrade", attacks=1, checked=len(before["entry"]))
        if check_whole(folder, before, before) == schema.HEAD:
            upgrade(folder / "journal.db", migrations)
            assert check_whole(folder, before, before) == NEXT
        assert not list(folder.glob("*.partial"))
        shutil.rmtree(folder)


@pytest.mark.parametrize("statement", range(6))
def test_an_upgrade_that_dies_at_a_statement_is_absent(large, tmp_path, statement):
    """The process ends by SIGKILL behind each statement of the revision."""
    lines = GROW.split("\n    ")
    body = "\n    ".join(
        [*lines[: max(statement - 1, 0)], "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    )
    migrations = migrations_with(tmp_path, body)
    if statement == 0:  # before the first
        revision = next((migrations / "versions").glob(f"{NEXT}*"))
        revision.write_text(
            revision.read_text().replace(
                "def upgrade():", "def upgrade():\n    import os; os.kill(os.getpid(), 9)"
            )
        )
    before = content(large / "journal.db")
    child = FORK.Process(target=upgrade, args=(large / "journal.db", migrations))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert check_whole(large, before, before) == schema.HEAD


def test_eight_processes_upgrade_at_once(large, tmp_path):
    """One does it, the others find it done; nobody fails."""
    migrations = migrations_with(tmp_path, GROW)
    before = content(large / "journal.db")
    children = [
        FORK.Process(target=upgrade, args=(large / "journal.db", migrations)) for _ in range(8)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 8
    assert check_whole(large, before, before) == NEXT
    assert (
        len(
            [p for p in large.iterdir() if re.fullmatch(r"journal\.db\.\d{4}\.\d+\.backup", p.name)]
        )
        == 1
    )
