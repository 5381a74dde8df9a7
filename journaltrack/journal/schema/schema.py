"""The journal's schema: its revision, creation in one transaction, and the statements that write whole rows.

The tables are defined in ``tables`` and come from there as text. Must not import SQLAlchemy: a training script waits for this.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from journaltrack.journal.entries import description_digest
from journaltrack.journal.schema.text import COLUMNS, DDL, INSERTS

HEAD: Final = "0003"
"""The revision that this code reads and writes; ``tests/migrations`` compares it with Alembic's head.

Revisions are four digits and only grow: a number above this one is a newer journaltrack's, whatever else the database holds.
"""
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that knows ``HEAD``, stated in ``meta.required_version`` by new journals and by the upgrade to it."""
UNDESCRIBED: Final = frozenset({"0001"})
"""Revisions in which a writer has no digest: its row ends with ``git_commit``, and its chain begins with its uuid alone."""
UNDESCRIBED_COLUMNS: Final = COLUMNS["writer"][1:10]
WRITER_COLUMNS: Final = tuple(name for name in COLUMNS["writer"] if name not in {"id", "digest"})
"""Of a writer, those that its digest is of, in this order."""

TRIGGERS: Final = (
    "CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END",
    "CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END",
    "CREATE TRIGGER writer_no_update BEFORE UPDATE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END",
    "CREATE TRIGGER writer_no_delete BEFORE DELETE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END",
    "CREATE TRIGGER attestation_no_update BEFORE UPDATE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END",
    "CREATE TRIGGER attestation_no_delete BEFORE DELETE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END",
    "CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt BEGIN SELECT RAISE(ABORT, 'receipts are kept'); END",
    (
        "CREATE TRIGGER receipt_settled_once BEFORE UPDATE ON receipt WHEN OLD.finished_at_ns IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'a finished receipt is immutable'); END"
    ),
)
"""Guards against our own mistakes and other people's scripts; they cost an INSERT nothing."""


def ddl() -> list[str]:
    """Every statement that makes the schema of ``HEAD``, in order."""
    return [*DDL, *TRIGGERS]


def insert_sql(table: str) -> str:
    """The INSERT of all columns of a table but an integer primary key, with ``?`` in the order of the columns."""
    return INSERTS[table]


def create(connection: sqlite3.Connection, *, journal_id: str, now_ns: int, version: str) -> None:
    """Make the schema in one transaction: after a kill the database is either whole or empty.

    Does nothing if another process made it meanwhile. The connection is in autocommit mode.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in ddl():
                connection.execute(statement)
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
            facts = (journal_id, now_ns, version, REQUIRED_VERSION, 0, 0)
            connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (*facts, description_digest(*facts)))
            connection.execute("INSERT INTO lease (id, generation) VALUES (1, 0)")
            connection.execute("INSERT INTO mark VALUES ('settled', 0)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
