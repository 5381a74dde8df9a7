"""Create the journal's schema, and give the statements that write whole rows.

``tables`` defines the tables; ``text`` has their SQL. Must not import SQLAlchemy: its import would
delay the start of a training script.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from journaltrack.journal.schema.text import COLUMNS, DDL, INSERTS
from journaltrack.journal.vocabulary import description_digest

HEAD: Final = "0004"
"""The revision that this code reads and writes. ``tests/migrations`` compares it with Alembic's.

Revisions have four digits and only grow. A higher number belongs to a newer journaltrack, whatever
else the database holds.
"""
REQUIRED_VERSION: Final = "0.1.0"
"""The first journaltrack that can read ``HEAD``.

New journals and the upgrade to ``HEAD`` state it in ``meta.required_version``.
"""
UNDESCRIBED: Final = frozenset({"0001"})
"""Revisions in which a writer has no digest.

Its row ends with ``git_commit``, and its chain starts from its uuid alone.
"""
WRITER_COLUMNS: Final = tuple(name for name in COLUMNS["writer"] if name not in {"id", "digest"})
"""The columns that a writer's digest covers, in this order; see ``vocabulary.writer_digest``."""
WITHOUT_CONTEXT: Final = frozenset({"0001", "0002", "0003"})
"""Revisions in which a writer has no context."""


def _refusing(statement: str, table: str, why: str) -> str:
    event = f"{table}_no_{statement.lower()} BEFORE {statement} ON {table}"
    return f"CREATE TRIGGER {event} BEGIN SELECT RAISE(ABORT, '{why}'); END"


TRIGGERS: Final = (
    _refusing("UPDATE", "entry", "journal entries are immutable"),
    _refusing("DELETE", "entry", "journal entries are immutable"),
    _refusing("UPDATE", "writer", "writers are kept as they were"),
    _refusing("DELETE", "writer", "writers are kept as they were"),
    _refusing("UPDATE", "attestation", "attestations are immutable"),
    _refusing("DELETE", "attestation", "attestations are immutable"),
    _refusing("DELETE", "receipt", "receipts are kept"),
    (
        "CREATE TRIGGER receipt_settled_once BEFORE UPDATE ON receipt "
        "WHEN OLD.finished_at_ns IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'a finished receipt is immutable'); END"
    ),
)
"""Guards against our own mistakes and other people's scripts. They cost an INSERT nothing."""


def ddl() -> list[str]:
    """Return the statements that create the schema of ``HEAD``, in order."""
    return [*DDL, *TRIGGERS]


def insert_sql(table: str) -> str:
    """Return the INSERT of a table's columns, with ``?`` in their order.

    An integer primary key is left out.
    """
    return INSERTS[table]


def columns_of_writer(revision: str = HEAD) -> tuple[str, ...]:
    """Return the columns that a process of a revision describes itself with, and its digest."""
    if revision in UNDESCRIBED:
        return WRITER_COLUMNS[:9]
    columns = WRITER_COLUMNS[:12] if revision in WITHOUT_CONTEXT else WRITER_COLUMNS
    return (*columns, "digest")


def insert_writer_sql(revision: str = HEAD) -> str:
    """Return the INSERT of ``columns_of_writer``, with ``?`` in their order."""
    names = columns_of_writer(revision)
    return f"INSERT INTO writer ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def create(connection: sqlite3.Connection, *, journal_id: str, now_ns: int, version: str) -> None:
    """Create the schema in one transaction.

    After a kill the database has the whole schema or none. Does nothing if another
    process created it meanwhile.

    Args:
        connection: A connection in autocommit mode.
        journal_id: The new journal's identity.
        now_ns: The time of its creation, nanoseconds since the epoch.
        version: The version of journaltrack that creates it.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in ddl():
                connection.execute(statement)
            connection.execute(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
            )
            connection.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
            facts = (journal_id, now_ns, version, REQUIRED_VERSION, 0, 0)
            connection.execute(
                "INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (*facts, description_digest(*facts)),
            )
            connection.execute("INSERT INTO lease (id, generation) VALUES (1, 0)")
            connection.execute("INSERT INTO mark VALUES ('settled', 0)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
