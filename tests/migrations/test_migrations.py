"""Schema and revisions are one; upgrades are whole or absent."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from journaltrack.errors import JournalTooNewError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import migrate, schema, tables, text

MIGRATIONS = Path(__file__).parents[2] / "migrations"

NEXT = f"{int(schema.HEAD) + 1:04d}"
FURTHER = '''"""Only for tests."""
from alembic import op
revision = "{next}"
down_revision = "{head}"
def upgrade():
    op.execute("CREATE TABLE annotation (id INTEGER PRIMARY KEY, text TEXT)")
    op.execute("ALTER TABLE writer ADD COLUMN note TEXT")
    {}
'''


def objects(path):
    """Everything in the schema, white space folded."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL "
            "AND name <> 'alembic_version'"
        )
        return sorted((kind, name, re.sub(r"\s+", "", sql)) for kind, name, sql in found)


@pytest.fixture
def database(tmp_path):
    """The database of a journal with an entry in it."""
    opened = Journal.open(tmp_path / "journal")
    opened.append(
        opened.component("run"),
        [vocabulary.create(owner="me"), vocabulary.metric("loss", 1.0, 1, 1)],
    )
    opened.close()
    return tmp_path / "journal" / "journal.db"


def migrations_with(tmp_path, body):
    """The real revisions and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / f"{NEXT}_test.py").write_text(
        FURTHER.format(body, next=NEXT, head=schema.HEAD)
    )
    return folder


def test_the_text_of_the_tables_is_that_of_the_tables():
    """What the package uses without SQLAlchemy says what SQLAlchemy says: else `python -m
    journaltrack.journal.schema.tables && make format`.
    """
    made: dict[str, object] = {}
    exec(tables.rendered(), made)
    assert (made["DDL"], made["COLUMNS"], made["INSERTS"]) == (text.DDL, text.COLUMNS, text.INSERTS)
    assert str(tables.TEXT_FILE) == text.__file__


def test_revisions_make_what_the_code_makes(database, tmp_path):
    """Tables, indexes and triggers of a new journal are those of `alembic upgrade head`."""
    empty = tmp_path / "migrated.db"
    with closing(sqlite3.connect(empty)) as connection:
        connection.execute(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
        )
    _upgrade_from_nothing(empty)
    assert objects(empty) == objects(database)
    assert any(kind == "trigger" for kind, _, _ in objects(empty))


def _upgrade_from_nothing(path):
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database"] = str(path)
    command.upgrade(config, "head")


def test_head_is_alembics_head():
    """The revision that the code writes is the last one there is."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_upgrade_keeps_everything_and_leaves_a_backup(database, tmp_path):
    """After an upgrade entries and triggers are as before, and the backup beside the journal is
    whole and private.
    """
    before = objects(database)
    backup = migrate.upgrade(
        database, schema.HEAD, now_ns=7, migrations=migrations_with(tmp_path, "pass"), head=NEXT
    )
    assert backup is not None
    assert backup.stat().st_mode & 0o777 == 0o600
    assert objects(backup) == before
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEXT,)]
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (2,)
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            connection.execute("UPDATE entry SET value = 2")


def test_failing_upgrade_changes_nothing(database, tmp_path):
    """A revision that fails half-way leaves schema, revision and data as they were."""
    before = objects(database)
    with pytest.raises(ZeroDivisionError):
        migrate.upgrade(
            database,
            schema.HEAD,
            now_ns=7,
            migrations=migrations_with(tmp_path, "1 / 0"),
            head=NEXT,
        )
    assert objects(database) == before
    opened = Journal.open(database.parent)
    assert len(opened.entries()) == 2
    opened.close()


def test_newer_journal_is_refused_and_left_alone(database):
    """A journal of a revision that this code does not know is not touched; the error names the
    version needed.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE meta SET required_version = '9.9.0'")
    before = objects(database)
    for read_only in (False, True):
        with pytest.raises(JournalTooNewError, match=r"journaltrack 9\.9\.0"):
            Journal.open(database.parent, read_only=read_only)
    assert objects(database) == before
    assert not list(database.parent.glob("*.backup"))
