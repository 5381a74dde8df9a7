"""Attestations: what receipts say is chained, as entries are; writers and the journal itself are
described with a digest.

Receipts and settlements from before have no attestation, and none is made up for them: ``meta``
says up to where.
"""

from __future__ import annotations

import hashlib
import json

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """ALTER TABLE writer ADD COLUMN git_dirty INTEGER""",
    """ALTER TABLE writer ADD COLUMN packages TEXT""",
    """ALTER TABLE writer ADD COLUMN journal_id TEXT""",
    """ALTER TABLE writer ADD COLUMN digest BLOB""",
    """ALTER TABLE meta ADD COLUMN attested_after_receipt INTEGER""",
    """ALTER TABLE meta ADD COLUMN attested_after_ns INTEGER""",
    """ALTER TABLE meta ADD COLUMN digest BLOB""",
    """CREATE TABLE attestation ( id INTEGER NOT NULL, writer_id INTEGER NOT NULL, writer_seq INTEGER NOT NULL, receipt_id INTEGER, body TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (id) )""",
    """CREATE UNIQUE INDEX attestation_chain ON attestation (writer_id, writer_seq)""",
    """CREATE INDEX attestation_receipt ON attestation (receipt_id)""",
    """CREATE TRIGGER writer_no_update BEFORE UPDATE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END""",
    """CREATE TRIGGER writer_no_delete BEFORE DELETE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END""",
    """CREATE TRIGGER attestation_no_update BEFORE UPDATE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END""",
    """CREATE TRIGGER attestation_no_delete BEFORE DELETE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END""",
    """UPDATE meta SET attested_after_receipt = (SELECT coalesce(max(id), 0) FROM receipt)""",
    """UPDATE meta SET attested_after_ns = (SELECT coalesce(max(settled_at_ns), 0) FROM delivery)""",
)


def upgrade() -> None:
    """Add the table, the columns, and where attestations begin."""
    for statement in STATEMENTS:
        op.execute(statement)
    facts = (
        "journal_id, created_at_ns, created_by_version, required_version, "
        "attested_after_receipt, attested_after_ns"
    )
    connection = op.get_bind()
    for row in connection.exec_driver_sql(f"SELECT {facts} FROM meta").fetchall():
        text = json.dumps(list(row), ensure_ascii=False, separators=(",", ":"))
        connection.exec_driver_sql(
            "UPDATE meta SET digest = ?",
            (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(),),
        )


def downgrade() -> None:
    """Not offered: attestations would be lost."""
    raise NotImplementedError
