"""Writers describe what they run in: job, command, machine and packages."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column: what earlier writers ran in is not known, and their digests stay."""
    op.execute("ALTER TABLE writer ADD COLUMN context TEXT")


def downgrade() -> None:
    """Not offered: the digests of writers cover the column."""
    raise NotImplementedError
