"""Choose SQLite's log: write-ahead where safe, else a rollback journal.

All users of a write-ahead log share its index in memory. Machines do not share memory: two hosts
that use one log overwrite each other's entries. So on a file system that other machines may share,
processes never share a write-ahead log. There, a journal that has one is not opened while a process
uses it. Must not know what is stored.
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
"""A write-ahead log or a rollback journal.

Alone: one process has the journal, keeps its locks and needs no shared memory.
"""
_PRAGMAS: Final[dict[Mode, str]] = {
    "log": "WAL",
    "log alone": "WAL",
    "rollback alone": "PERSIST",
    "rollback": "DELETE",
}
MEANING: Final[dict[Mode, str]] = {
    "log": "it has one",
    "log alone": "this process alone uses it, and gives way when another one asks",
    "rollback alone": "this process alone uses it, with a slower log, until another one asks",
    "rollback": "a slower rollback journal is used",
}
"""The end of a sentence that says why a journal has no shared write-ahead log."""
_PAUSE_S: Final = 0.005
_PATIENCE_S: Final = 1.0
"""How long to wait for another process to give up its write-ahead log, which takes milliseconds."""
_ALIVE_S: Final = 60.0
"""A log written less than this ago has a writer, where other machines' locks can't be seen."""
# Two bytes of the database's header; both are 2 for a write-ahead log
# (https://sqlite.org/fileformat2.html).
_VERSIONS: Final = slice(18, 20)


def is_wal(connection: sqlite3.Connection) -> bool:
    """Return whether the database has a write-ahead log."""
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def choose(connection: sqlite3.Connection, mode: Mode, timeout_s: float) -> bool:
    """Switch the database to a log.

    Call it only for a file that is known to be a journal.

    Args:
        connection: Not in a transaction.
        mode: The log to use.
        timeout_s: How long to wait for other processes.

    Returns:
        Whether the database has a write-ahead log now.

    Raises:
        sqlite3.OperationalError: Others did not release their locks in time.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            used = connection.execute(f"PRAGMA journal_mode = {_PRAGMAS[mode]}").fetchone()[0]
            if mode == "rollback":
                connection.execute("PRAGMA locking_mode = NORMAL")
            # The first read opens the log, or releases the locks.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        # SQLite does not wait here when several processes create a journal at once.
        except sqlite3.OperationalError as error:  # noqa: PERF203
            if not is_lock(error) or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return bool(used == "wal")


def says_log(path: Path) -> bool:
    """Return whether the database's header names a write-ahead log, without SQLite."""
    try:
        descriptor = locks.take(os.fspath(path), os.O_RDONLY)
    except OSError:
        # SQLite will say why.
        return False
    try:
        return _says_log(descriptor)
    finally:
        locks.give_back(descriptor)


def refuse_foreign(path: Path, shared: str) -> None:
    """Refuse a write-ahead log that a process uses, perhaps on another machine.

    Args:
        path: The database.
        shared: Its file system, in words.

    Raises:
        JournalLockedError: A process uses it.
    """
    try:
        descriptor = locks.take(os.fspath(path), os.O_RDONLY)
    except OSError:
        # SQLite will say why.
        return
    try:
        until = time.monotonic() + _PATIENCE_S
        while _says_log(descriptor) and _is_in_use(path, descriptor):
            if time.monotonic() >= until:
                raise JournalLockedError(
                    f"a process, here or on another machine, writes to the write-ahead log of the "
                    f"journal at {path.parent}, which {shared} can't share; no changes were made",
                    hint="use the journal on that machine, or end that process and wait a minute",
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
