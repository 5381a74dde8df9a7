"""How Alembic runs on a journal: one IMMEDIATE transaction around everything, so that an upgrade is whole or absent.

Out of the box Alembic on SQLite is not atomic: the driver commits before DDL. Here the driver is in autocommit mode,
we begin the transaction ourselves, and Alembic is told that DDL is transactional.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from journaltrack import schema


def run() -> None:
    """Run the migrations on the database named by the caller, or by ``alembic -x database=PATH``."""
    path = context.config.attributes.get("database") or context.get_x_argument(as_dictionary=True).get("database")
    if not path:
        msg = "name the journal's database: alembic -x database=PATH/journal.db upgrade head"
        raise SystemExit(msg)
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _autocommit(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: object) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]

    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=schema.metadata,
            transactional_ddl=True,
            transaction_per_migration=False,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
