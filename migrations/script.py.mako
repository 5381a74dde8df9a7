"""${message}"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Batch mode recreates a table and drops its triggers: create them again here."""
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """Not offered: an older version refuses a newer journal, and the backup beside it is the way back."""
    raise NotImplementedError
