"""Upgrade an older journal to the current schema with Alembic's revisions.

An upgrade makes a backup first and runs in one transaction. Invariant: after any failure the
journal is unchanged, and no file of the attempt is left beside it.

Only this module imports Alembic; only this one and ``tables`` import SQLAlchemy. A journal of the
current version needs neither.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from journaltrack.errors import JournalAlteredError, JournalFullError, JournalWriteError
from journaltrack.journal.schema import check, schema
from journaltrack.journal.sqlite import copies
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.util import paths

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

UPGRADE_WAIT_S: Final = 600.0
"""How long a process waits while another one backs up and upgrades the journal, in seconds."""
SPARE_BYTES: Final = 128 << 10
"""Our choice: what a backup leaves free on the disk, for the upgrade and for appends."""
_NOT_OURS: Final = ("duplicate column", "already exists", "no such")

# Alembic keeps its state in module-level variables.
_alembic = threading.Lock()


def upgrade(
    path: Path,
    current: str,
    *,
    now_ns: int,
    migrations: Path | None = None,
    head: str = schema.HEAD,
) -> Path | None:
    """Upgrade a journal's database to ``head`` atomically, after a backup beside it.

    Args:
        path: The database file.
        current: Its revision, one that this code knows.
        now_ns: The time in the backup's name, nanoseconds since the epoch.
        migrations: Folder of the revisions. The default is the one inside the package.
        head: The revision to reach.

    Returns:
        The backup's path; None if the database has that revision already.

    Raises:
        JournalFullError: The backup or the upgrade has no room. No changes were made.
        JournalAlteredError: The schema is not that of its revision. No changes were made.
        JournalWriteError: The disk refuses. No changes were made.
    """
    if current == head:
        return None
    backup = None
    engine = upgrading_engine(path)
    try:
        # One transaction from here on: no process appends or upgrades after the backup.
        with engine.begin() as connection:
            current = connection.exec_driver_sql(
                "SELECT version_num FROM alembic_version"
            ).scalar_one()
            # Another process may have upgraded it meanwhile, perhaps one of a newer version.
            if current == head:
                return None
            if current > schema.HEAD:
                check.version(_driver(connection), path)
            backup = path.with_name(f"{path.name}.{current}.{now_ns}.backup")
            _back_up(path, backup)
            _run_revisions(connection, path, migrations, head)
    except BaseException as error:
        if backup is not None and _revision(path) == current:
            backup.unlink(missing_ok=True)
        explained = _explained(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        engine.dispose()
    return backup


def upgraded_copy(source: sqlite3.Connection, copy: Path) -> None:
    """Write an upgraded copy of an older journal's database, which stays unchanged.

    Args:
        source: An open connection to the database.
        copy: The file to create.

    Raises:
        JournalAlteredError: The schema is not that of its revision.
    """
    copies.write_copy(source, copy)
    engine = upgrading_engine(copy)
    try:
        with engine.begin() as connection:
            _run_revisions(connection, copy, None, schema.HEAD)
    except (DBAPIError, sqlite3.Error) as error:
        raise _explained(error, copy) from error
    finally:
        engine.dispose()


def upgrading_engine(path: Path) -> Engine:
    """Return an engine whose transactions begin with the write lock and include DDL.

    By default, Python's driver commits before a DDL statement.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": UPGRADE_WAIT_S},
    )

    @event.listens_for(engine, "connect")
    def _autocommit(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _run_revisions(connection: Connection, path: Path, migrations: Path | None, head: str) -> None:
    """Run the revisions up to ``head`` in the connection's transaction, then check."""
    with _script_folder(migrations) as folder, _alembic:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, head)
    if head == schema.HEAD:
        check.revision(_driver(connection), path, writing=True)


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@contextlib.contextmanager
def _script_folder(migrations: Path | None) -> Iterator[Path]:
    if migrations is not None:
        yield migrations
        return
    with importlib.resources.as_file(
        importlib.resources.files("journaltrack.migrations")
    ) as folder:
        yield folder


def _back_up(path: Path, backup: Path) -> None:
    """Make a consistent copy that only its owner can read.

    It gets its name only when it is complete and on the disk.
    """
    # Left by upgrades that were killed: the write lock excludes any other upgrade now.
    for left in path.parent.glob(f"{path.name}.*.backup.partial"):
        left.unlink(missing_ok=True)
    wanted_bytes = path.stat().st_size
    if shutil.disk_usage(path.parent).free < wanted_bytes + SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"the backup before it takes {wanted_bytes} bytes")
    partial = backup.with_name(backup.name + ".partial")
    try:
        with paths.whole(backup, partial), contextlib.closing(sqlite3.connect(path)) as source:
            write_copy(source, partial)
    except BaseException:
        backup.unlink(missing_ok=True)
        raise


def _revision(path: Path) -> str | None:
    """Return the revision that the database has now; None if unknown."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(row[0]) if row else None


def _explained(error: BaseException, path: Path) -> BaseException:
    """Return our error if the disk or the schema made an upgrade fail.

    SQLite's other errors are returned as they are: ``translated`` turns them into ours later.
    """
    cause: BaseException = (error.orig or error) if isinstance(error, DBAPIError) else error
    text = str(cause)
    if isinstance(cause, sqlite3.OperationalError) and any(words in text for words in _NOT_OURS):
        return JournalAlteredError(
            f"the journal at {path.parent} can't be upgraded, because its schema is not one that "
            f"journaltrack made: {text}; no changes were made",
            hint="`journaltrack check` says more",
        )
    full = isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}
    if full or (isinstance(cause, sqlite3.OperationalError) and "full" in text):
        return JournalFullError(
            f"disk full: the journal at {path.parent} can't be upgraded; no changes were made",
            hint=f"free twice the size of {path.name} there; the upgrade makes a backup first",
        )
    if isinstance(cause, OSError):
        reason = cause.strerror or text
        return JournalWriteError(
            f"the journal at {path.parent} can't be upgraded: {reason}; no changes were made",
            hint="check the folder's permissions and the disk (dmesg)",
        )
    return cause
