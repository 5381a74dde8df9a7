"""The first schema."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# Frozen text, not journaltrack.journal.schema.schema: a revision must make what it made when it was
# released.
STATEMENTS = (
    """CREATE TABLE blob ( sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, spooled_at_ns INTEGER NOT NULL, PRIMARY KEY (sha256) )""",
    """CREATE TABLE component ( id INTEGER NOT NULL, name TEXT COLLATE "NOCASE" NOT NULL, created_at_ns INTEGER NOT NULL, arn TEXT, confirmed_at_ns INTEGER, PRIMARY KEY (id), UNIQUE (name) )""",
    """CREATE TABLE delivery ( seq INTEGER NOT NULL, receipt_id INTEGER, outcome TEXT NOT NULL, reason TEXT, settled_at_ns INTEGER NOT NULL, PRIMARY KEY (seq) )""",
    """CREATE TABLE entry ( seq INTEGER NOT NULL, writer_id INTEGER NOT NULL, writer_seq INTEGER NOT NULL, component_id INTEGER NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, name TEXT, value FLOAT, step INTEGER, timestamp_ns INTEGER, payload TEXT, recorded_at_ns INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (seq) )""",
    """CREATE TABLE field ( component_id INTEGER NOT NULL, map TEXT NOT NULL, "key" TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (component_id, map, "key") )""",
    """CREATE TABLE lease ( id INTEGER NOT NULL, owner TEXT, host TEXT, pid INTEGER, generation INTEGER NOT NULL, acquired_at_ns INTEGER, expires_at_ns INTEGER, PRIMARY KEY (id) )""",
    """CREATE TABLE location ( component_id INTEGER NOT NULL, sha256 TEXT NOT NULL, bucket TEXT NOT NULL, prefix TEXT NOT NULL, uri TEXT NOT NULL, receipt_id INTEGER NOT NULL, PRIMARY KEY (component_id, sha256, bucket, prefix) )""",
    """CREATE TABLE mark ( name TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name) )""",
    """CREATE TABLE meta ( id INTEGER NOT NULL, journal_id TEXT NOT NULL, created_at_ns INTEGER NOT NULL, created_by_version TEXT NOT NULL, required_version TEXT NOT NULL, PRIMARY KEY (id) )""",
    """CREATE TABLE receipt ( id INTEGER NOT NULL, action TEXT NOT NULL, component_id INTEGER, entries TEXT NOT NULL, generation INTEGER NOT NULL, started_at_ns INTEGER NOT NULL, finished_at_ns INTEGER, outcome TEXT, attempts INTEGER, request_id TEXT, error_code TEXT, error_text TEXT, PRIMARY KEY (id) )""",
    """CREATE TABLE writer ( id INTEGER NOT NULL, uuid TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, user TEXT NOT NULL, program TEXT NOT NULL, started_at_ns INTEGER NOT NULL, package_version TEXT NOT NULL, python_version TEXT NOT NULL, git_commit TEXT, PRIMARY KEY (id), UNIQUE (uuid) )""",
    """CREATE INDEX delivery_problem ON delivery (outcome, seq) WHERE outcome IN ('quarantined', 'in doubt')""",
    """CREATE INDEX entry_state ON entry (component_id, seq) WHERE stream <> 'metric'""",
    """CREATE INDEX receipt_component ON receipt (component_id, id)""",
    """CREATE INDEX receipt_unfinished ON receipt (id) WHERE finished_at_ns IS NULL""",
    """CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END""",
    """CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END""",
    """CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt BEGIN SELECT RAISE(ABORT, 'receipts are kept'); END""",
    """CREATE TRIGGER receipt_settled_once BEFORE UPDATE ON receipt WHEN OLD.finished_at_ns IS NOT NULL BEGIN SELECT RAISE(ABORT, 'a finished receipt is immutable'); END""",
)


def upgrade() -> None:
    """Make everything; journaltrack itself makes a new journal without Alembic, to the same
    result.
    """
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Not offered: there is nothing before the first."""
    raise NotImplementedError
