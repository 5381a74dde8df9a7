"""Which log SQLite keeps for a journal: a write-ahead log where that is safe, elsewhere a rollback journal.

A write-ahead log has an index in memory that all its users share. Machines do not share memory: two hosts that use one
log overwrite each other's entries. So on a file system that other machines may share, a journal never has one, and a
journal that has one is left alone as long as somebody uses it. Must not know what is stored.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path
from typing import Final, Literal, TypeAlias

from journaltrack.errors import JournalLockedError
from journaltrack.journal.sqlite import locks
from journaltrack.journal.sqlite.errors import is_lock
from journaltrack.journal.sqlite.locks import SHARED_RANGE
from journaltrack.util import paths

Mode: TypeAlias = Literal["log", "log alone", "rollback alone", "rollback"]
"""A write-ahead log or a rollback journal; alone: of a single process, which needs no shared memory and keeps its locks."""
_PRAGMAS: Final[dict[Mode, str]] = {"log": "WAL", "log alone": "WAL", "rollback alone": "PERSIST", "rollback": "DELETE"}
MEANING: Final[dict[Mode, str]] = {
    "log": "it has one",
    "log alone": "this process has the journal alone, and makes way when another one comes",
    "rollback alone": "this process has the journal alone with a slower rollback journal, and makes way when another one comes",
    "rollback": "a slower rollback journal is used",
}
_PAUSE_S: Final = 0.005
_PATIENCE_S: Final = 1.0
"""How long another process may take to end its use of a write-ahead log: to convert or close it takes milliseconds."""
_ALIVE_S: Final = 60.0
"""A log that was written so recently has a writer, where locks of other machines can't be seen."""
_VERSIONS: Final = slice(18, 20)  # of the database's header: 2 says write-ahead log (https://sqlite.org/fileformat2.html)


def is_wal(connection: sqlite3.Connection) -> bool:
    """Return whether the database has a write-ahead log."""
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def choose(connection: sqlite3.Connection, mode: Mode, timeout_s: float) -> bool:
    """Have the database use that log; whether it is a write-ahead log. Only for what is known to be a journal.

    Args:
        connection: In no transaction.
        mode: Which.
        timeout_s: How long to wait for others.

    Raises:
        sqlite3.OperationalError: Others did not let go in time.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            used = connection.execute(f"PRAGMA journal_mode = {_PRAGMAS[mode]}").fetchone()[0]
            if mode == "rollback":
                connection.execute("PRAGMA locking_mode = NORMAL")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log, or lets go
        except sqlite3.OperationalError as error:  # noqa: PERF203 - SQLite does not wait here when several make a journal at once
            if not is_lock(error) or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return bool(used == "wal")


def says_log(path: Path) -> bool:
    """Return whether the database's header says that it has a write-ahead log. Nothing is opened by SQLite."""
    try:
        descriptor = locks.take(os.fspath(path), os.O_RDONLY)
    except OSError:
        return False  # SQLite will say why
    try:
        return _says_log(descriptor)
    finally:
        locks.give_back(descriptor)


def refuse_foreign(path: Path, shared: str) -> None:
    """Leave a write-ahead log alone that somebody uses, perhaps on another machine.

    Args:
        path: The database.
        shared: Its file system.

    Raises:
        JournalLockedError: Somebody does.
    """
    try:
        descriptor = locks.take(os.fspath(path), os.O_RDONLY)
    except OSError:
        return  # SQLite will say why
    try:
        until = time.monotonic() + _PATIENCE_S
        while _says_log(descriptor) and _is_in_use(path, descriptor):
            if time.monotonic() >= until:
                raise JournalLockedError(
                    f"the journal at {path.parent} has a write-ahead log that a process, here or on another machine, writes to; "
                    f"it can't be shared over {shared}. Nothing was opened and nothing was changed",
                    hint="use the journal on that machine, or end what uses it there and try again in a minute",
                )
            time.sleep(_PAUSE_S)
    finally:
        locks.give_back(descriptor)


def _says_log(descriptor: locks.Descriptor) -> bool:
    return os.pread(descriptor.number, 20, 0)[_VERSIONS] == b"\2\2"


def _is_in_use(path: Path, descriptor: locks.Descriptor) -> bool:
    if descriptor.is_locked(SHARED_RANGE):
        return True
    if paths.locks_reach_other_machines(path.parent):
        return False
    try:
        log = os.stat(f"{path}-wal")  # noqa: PTH116 - the suffix is no part of a path's
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}
    return log.st_size > 0 and abs(time.time() - log.st_mtime) < _ALIVE_S
