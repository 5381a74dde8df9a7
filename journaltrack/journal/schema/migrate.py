"""Bringing an older journal to the current schema: after a backup, in one transaction, by Alembic's revisions.

The only place that imports Alembic, and with ``tables`` SQLAlchemy: nothing of this is needed for a journal of this version.
Invariant: after any failure the journal is as it was, and nothing of the attempt is left beside it.
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
"""How long a process waits for another one that upgrades the journal, backup included, seconds."""
SPARE_BYTES: Final = 128 << 10
"""Ours: what a backup leaves free on the disk, for the upgrade itself and for those who append."""
_NOT_OURS: Final = ("duplicate column", "already exists", "no such")

_alembic = threading.Lock()  # it keeps what it works on in module-level variables


def upgrade(path: Path, current: str, *, now_ns: int, migrations: Path | None = None, head: str = schema.HEAD) -> Path | None:
    """Bring a journal's database to ``head``, atomically, after a backup beside it.

    Args:
        path: The database file.
        current: Its revision, one that this code knows.
        now_ns: Names the backup.
        migrations: Folder of the revisions; default: the one inside the package.
        head: The revision to reach.

    Returns:
        The backup's path, or None when there was nothing to do, or another process did it meanwhile.

    Raises:
        JournalFullError: There is no room for the backup or the upgrade. Nothing was changed.
        JournalAlteredError: It does not have the schema of its revision. Nothing was changed.
        JournalWriteError: The disk refuses. Nothing was changed.
    """
    if current == head:
        return None
    backup = None
    engine = upgrading_engine(path)
    try:
        # One transaction from here on: nobody appends, and no other process upgrades, between the backup and the end.
        with engine.begin() as connection:
            current = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
            if current == head:  # by another process, meanwhile
                return None
            if current > schema.HEAD:  # by one of a newer version
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
    """Write a copy of an older journal's database and upgrade that; the journal itself stays as it is.

    Args:
        source: To the database.
        copy: The file to make.

    Raises:
        JournalAlteredError: It does not have the schema of its revision.
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
    """Connections whose transactions take the write lock when they begin, and keep DDL inside: the driver commits before it otherwise."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args={"timeout": UPGRADE_WAIT_S})

    @event.listens_for(engine, "connect")
    def _autocommit(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _run_revisions(connection: Connection, path: Path, migrations: Path | None, head: str) -> None:
    """Run the revisions up to ``head`` in the connection's transaction, and see that they made what they should."""
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
    with importlib.resources.as_file(importlib.resources.files("journaltrack.migrations")) as folder:
        yield folder


def _back_up(path: Path, backup: Path) -> None:
    """A consistent copy, readable by the owner alone, whole on disk before it gets its name."""
    for left in path.parent.glob(f"{path.name}.*.backup.partial"):  # of upgrades that were killed; nobody else upgrades now
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
    """The revision that the database has now; None when that can't be told."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(row[0]) if row else None


def _explained(error: BaseException, path: Path) -> BaseException:
    """What was raised in an upgrade, in our words where it is about the disk or the schema; SQLite's are ``translated`` later."""
    cause: BaseException = (error.orig or error) if isinstance(error, DBAPIError) else error
    text = str(cause)
    if isinstance(cause, sqlite3.OperationalError) and any(words in text for words in _NOT_OURS):
        return JournalAlteredError(
            f"the journal at {path.parent} can't be upgraded, its schema is not what any journaltrack made: {text}; it was left as it is",
            hint="`journaltrack check` says more",
        )
    full = isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}
    if full or (isinstance(cause, sqlite3.OperationalError) and "full" in text):
        return JournalFullError(
            f"the older journal at {path.parent} can't be upgraded: no space is left on its disk. It was left as it was",
            hint=f"free twice the size of {path.name} there; the upgrade makes a backup first",
        )
    if isinstance(cause, OSError):
        return JournalWriteError(
            f"the older journal at {path.parent} can't be upgraded: {cause.strerror or text}. It was left as it was",
            hint="check the folder's permissions and the disk (dmesg)",
        )
    return cause
