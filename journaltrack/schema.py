"""The journal's schema: its revision, creation in one transaction, and the statements that write whole rows.

The tables are defined in ``tables`` and come from there as text. Must not import SQLAlchemy: a training script waits for this.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.entries import description_digest
from journaltrack.errors import JournalTooNewError
from journaltrack.schema_text import COLUMNS, DDL, INSERTS

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = "0002"
"""The revision that this code reads and writes; ``tests/migrations`` compares it with Alembic's head."""
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
            facts = (journal_id, now_ns, version, version, 0, 0)
            connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?)", (*facts, description_digest(*facts)))
            connection.execute("INSERT INTO lease (id, generation) VALUES (1, 0)")
            connection.execute("INSERT INTO mark VALUES ('settled', 0)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def too_new(path: Path, current: str) -> JournalTooNewError:
    """The error that refuses a newer journal, naming the version that can read it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT required_version FROM meta").fetchone()
    # The text is the journal's: it is told only if it can be nothing but a version.
    needed = f"journaltrack {row[0]}" if row and re.fullmatch(r"\d{1,4}(\.\d{1,6}){1,3}", str(row[0])) else "a newer journaltrack"
    return JournalTooNewError(
        f"the journal has schema revision {limits.shown(current)}, this version knows {HEAD} at most; nothing was changed",
        hint=f"install {needed} or later: pip install -U journaltrack",
    )
