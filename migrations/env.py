"""How Alembic runs on a journal: one IMMEDIATE transaction around everything, so that an upgrade is
whole or absent.

Out of the box Alembic on SQLite is not atomic: the driver commits before DDL.
``upgrading.upgrading_engine`` begins the transaction itself, and Alembic is told that DDL is
transactional.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import context

from journaltrack.journal.schema import migrate, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run() -> None:
    """Run on the connection of ``upgrading.upgrade``, in its transaction, or on the database
    named by ``alembic -x database=PATH``.
    """
    given = context.config.attributes.get("connection")
    if given is not None:
        _run_on(given)
        return
    path = context.config.attributes.get("database") or context.get_x_argument(
        as_dictionary=True
    ).get("database")
    if not path:
        msg = "name the journal's database: alembic -x database=PATH/journal.db upgrade head"
        raise SystemExit(msg)
    engine = migrate.upgrading_engine(Path(path))
    with engine.connect() as connection:
        _run_on(connection)
    engine.dispose()


def _run_on(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.metadata,
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
