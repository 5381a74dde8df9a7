"""Bringing an older journal to the current schema: after a backup, in one transaction, by Alembic's revisions.

The only place that imports Alembic, and with ``tables`` SQLAlchemy: nothing of this is needed for a journal of this version.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from journaltrack import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

UPGRADE_WAIT_S: Final = 600.0
"""How long a process waits for another one that upgrades the journal, backup included, seconds."""


def upgrade(path: Path, current: str, *, now_ns: int, migrations: Path | None = None, head: str = schema.HEAD) -> Path | None:
    """Bring a journal's database to ``head``, atomically, after a backup beside it.

    Args:
        path: The database file.
        current: Its revision.
        now_ns: Names the backup.
        migrations: Folder of the revisions; default: the one inside the package.
        head: The revision to reach.

    Returns:
        The backup's path, or None when there was nothing to do, or another process did it meanwhile.

    Raises:
        JournalTooNewError: ``current`` is not a revision that this code knows. Nothing was changed.
    """
    if current == head:
        return None
    with contextlib.ExitStack() as stack:
        if migrations is None:
            packaged = importlib.resources.files("journaltrack.migrations")
            migrations = stack.enter_context(importlib.resources.as_file(packaged))
        config = Config()
        config.set_main_option("script_location", str(migrations).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current not in known:
            raise schema.too_new(path, current)
        engine = upgrading_engine(path)
        stack.callback(engine.dispose)
        try:
            # One transaction from here on: nobody appends, and no other process upgrades, between the backup and the end.
            with engine.begin() as connection:
                current = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
                if current == head:  # by another process, meanwhile
                    return None
                backup = path.with_name(f"{path.name}.{current}.{now_ns}.backup")
                _back_up(path, backup)
                config.attributes["connection"] = connection
                command.upgrade(config, head)
        except DBAPIError as error:
            raise error.orig or error from error
    return backup


def upgrading_engine(path: Path) -> Engine:
    """Connections whose transactions take the write lock when they begin, and keep DDL inside: the driver commits before it otherwise."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args={"timeout": UPGRADE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _autocommit(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _back_up(path: Path, backup: Path) -> None:
    """A consistent copy, readable by the owner alone, whole on disk before it gets its name."""
    partial = backup.with_name(backup.name + ".partial")
    partial.unlink(missing_ok=True)  # of an upgrade that was killed; nobody else upgrades now
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(partial)) as target:
        target.execute("PRAGMA synchronous=FULL")
        source.backup(target)
    partial.replace(backup)
