"""Open the file of a cache of runs, with its tables, and begin it again if it is of no use.

The file is beside the user's other caches, and nobody else's. If it is damaged, it is removed. If
it can't be written, the tables live in memory. Must not know a journal.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.util import paths

logger = logging.getLogger(__name__)

FORMAT: Final = f"3{sys.byteorder[0]}"
"""Part of the file's name: other code has another file."""
UNUSABLE: Final = (sqlite3.Error, ValueError, TypeError, KeyError, IndexError)
"""What a cache raises that is damaged: by SQLite, or from what is in it."""
_FOR_NOW: Final = ("locked", "busy", "full", "readonly", "unable to open", "disk i/o")
"""Words of SQLite's errors that say nothing about what is in the file."""
_BUSY_S: Final = 20.0
_KEPT_S: Final = 60 * 86_400
"""Ours: how long a cache stays that nobody opens."""
_SCHEMA: Final = """
CREATE TABLE head (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL, prunes INTEGER NOT NULL,
    seq INTEGER NOT NULL, digest BLOB, mark INTEGER NOT NULL);
CREATE TABLE run (
    id INTEGER PRIMARY KEY, entries INTEGER NOT NULL, below INTEGER NOT NULL,
    last_ns INTEGER, dirty INTEGER NOT NULL, folded TEXT);
CREATE TABLE series (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, name TEXT NOT NULL, last REAL, step INTEGER,
    low REAL, high REAL, points INTEGER NOT NULL, low_step INTEGER, high_step INTEGER,
    not_finite INTEGER NOT NULL, last_ns INTEGER, removed INTEGER NOT NULL,
    UNIQUE (run, name));
CREATE TABLE block (
    series INTEGER NOT NULL, number INTEGER NOT NULL, points INTEGER NOT NULL,
    not_finite INTEGER NOT NULL, in_order INTEGER NOT NULL,
    x_first INTEGER NOT NULL, x_last INTEGER NOT NULL,
    ns_first INTEGER NOT NULL, ns_last INTEGER NOT NULL,
    x BLOB NOT NULL, ns BLOB NOT NULL, value BLOB NOT NULL, stepless BLOB,
    PRIMARY KEY (series, number)) WITHOUT ROWID;
"""


class CacheFile:
    """The file of one cache. One thread at a time uses it.

    Args:
        identity: What is cached: the file's name follows from it.
        in_memory: Keep it in memory.

    Attributes:
        path: The file; None if it is in memory.
        connection: To its tables.
    """

    def __init__(self, identity: str, *, in_memory: bool = False) -> None:
        self.path = None if in_memory else _path_of(identity)
        self.connection = self._connect()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing of it."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        for _ in range(2):
            if self.path is None:
                break
            try:
                return _open(self.path)
            except (*UNUSABLE, OSError) as error:
                self._discard(error)
        self.path = None
        return _open(None)

    def start_again(self, error: Exception, *, in_memory: bool = False) -> None:
        """Open it again, and empty if it was damaged.

        Args:
            error: What happened, one of ``UNUSABLE``.
            in_memory: Leave the file alone from now on.
        """
        self.connection.close()
        if in_memory:
            self.path = None
        self._discard(error)
        self.connection = self._connect()

    def _discard(self, error: Exception) -> None:
        """Remove a damaged file. Leave one alone that can't be written or is in use."""
        logger.debug("the cache %s can't be used: %s", self.path, error)
        text = str(error).lower()
        is_for_now = isinstance(error, OSError) or any(word in text for word in _FOR_NOW)
        if not is_for_now and self.path is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{self.path}{suffix}")  # noqa: PTH108
        else:
            self.path = None


def _path_of(identity: str) -> Path | None:
    folder = paths.cache_home()
    if folder is None:
        return None
    name = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"runs-{FORMAT}-{name}.db"


def _open(file: Path | None) -> sqlite3.Connection:
    """Open the file, and make its tables. None: a database in memory."""
    if file is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(file):
            _remove_old(file.parent)
        _claim(file)
    connection = sqlite3.connect(
        ":memory:" if file is None else file,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if file is not None:
            # Machines that share a home folder do not share memory, which a write-ahead log needs.
            mode = "DELETE" if paths.network_file_system(file.parent) else "WAL"
            connection.execute(f"PRAGMA journal_mode = {mode}")
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -8000")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";")[:-1]:
                connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("SELECT * FROM head").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _claim(file: Path) -> None:
    """Make the file if it is missing, and mark it as used.

    Raises:
        OSError: It is a link, no regular file, or another user's: what SQLite writes would go
            elsewhere, and what it reads would be what somebody else says.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "not a cache of this user", str(file))
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(folder: Path) -> None:
    """Remove caches that nobody opened for long: a journal that is gone leaves one."""
    for file in folder.glob("runs-*"):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < time.time() - _KEPT_S:
                file.unlink()
