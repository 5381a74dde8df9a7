"""Unsettled entries that passes leave behind are listed, so that the low-water mark goes on past
them.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the list, empty: the mark is where it was."""
    op.execute("CREATE TABLE unsettled ( seq INTEGER NOT NULL, PRIMARY KEY (seq) )")


def downgrade() -> None:
    """Not offered: a mark that is past pending entries would hide them from an older
    journaltrack.
    """
    raise NotImplementedError
