"""The digest that stands for the whole schema: it is the new journal's, and anything else that
SQLite would run has another.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from journaltrack.errors import JournalAlteredError
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import check, schema

SELECT = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
)


@pytest.fixture
def database(tmp_path):
    """A connection to the database of a new journal, where the schema may be written by hand."""
    Journal.open(tmp_path / "journal").close()
    with closing(
        sqlite3.connect(tmp_path / "journal" / "journal.db", isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        yield connection


def digest(connection):
    """The digest of its schema as it is now."""
    return check.digest([check._Object(*row) for row in connection.execute(SELECT)])


def revision(connection, tmp_path):
    """What the check says of the database."""
    return check.revision(connection, tmp_path / "journal" / "journal.db", writing=True)


def test_the_digest_in_the_code_is_that_of_a_new_journal(database, tmp_path):
    """Whoever changes the schema changes the constant with it: else each opening compares object
    by object.
    """
    assert digest(database) == check.HEAD_DIGEST
    assert revision(database, tmp_path) == schema.HEAD


def test_each_object_counts(database):
    """A table, an index or a trigger that is missing or says anything else has another digest."""
    objects = database.execute(SELECT).fetchall()
    assert {kind for kind, *_ in objects} == {"table", "index", "trigger"}
    for kind, name, _, sql in objects:
        where = "WHERE type = ? AND name = ?"
        database.execute(f"UPDATE sqlite_master SET sql = sql || '/**/' {where}", (kind, name))
        assert digest(database) != check.HEAD_DIGEST, name
        database.execute(f"UPDATE sqlite_master SET sql = ? {where}", (sql, kind, name))
        assert digest(database) == check.HEAD_DIGEST
    for kind, name, *_ in objects:
        without = [check._Object(*row) for row in objects if row[:2] != (kind, name)]
        assert check.digest(without) != check.HEAD_DIGEST, name


def test_white_space_and_statistics_do_not_count(database, tmp_path):
    """A tool that writes the schema in another shape, and ANALYZE, change nothing."""
    database.execute(
        "UPDATE sqlite_master SET sql = replace(sql, ' ', char(10) || ' ') WHERE sql IS NOT NULL"
    )
    assert digest(database) == check.HEAD_DIGEST
    database.execute("PRAGMA writable_schema = RESET")
    database.execute("ANALYZE")
    assert digest(database) == check.HEAD_DIGEST
    assert revision(database, tmp_path) == schema.HEAD


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER more AFTER INSERT ON entry BEGIN SELECT 1; END",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more (a, b AS (a))",
        "DROP TRIGGER entry_no_update",
    ],
)
def test_what_would_run_or_lacks_is_refused(database, tmp_path, statement):
    """The digest differs, and the comparison finds what: nothing of it is used."""
    database.execute("PRAGMA writable_schema = OFF")
    database.execute(statement)
    assert digest(database) != check.HEAD_DIGEST
    with pytest.raises(JournalAlteredError):
        revision(database, tmp_path)


def test_a_table_of_somebody_elses_is_let_be(database, tmp_path):
    """A plain table beside ours runs nothing: the journal is used as it is."""
    database.execute("CREATE TABLE lost_and_found (id INTEGER)")
    assert digest(database) != check.HEAD_DIGEST
    assert revision(database, tmp_path) == schema.HEAD
