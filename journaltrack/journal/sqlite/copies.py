"""Copy a journal's database for reading, and give free pages back to the file system.

The size of a journal's database, and giving free pages back to the file system. Must not know what is stored.

VACUUM rewrites what is left into the log and from there into the file, while nobody can append: it takes as long as there is
something left, and up to twice its room. So it is done only while nobody else has the file open; until then SQLite uses free
pages for what is recorded next. docs/adr/0016-pruning.md has the alternatives.

Private copies of a journal's database, for reading what can't be read where it is.

A copy is in ``TMPDIR``, in a folder of its own that is gone when its block is left: whoever opened the copy by then keeps
it, without a name, until it is closed. Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalError, JournalFullError, JournalLockedError
from journaltrack.journal.sqlite import files

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_GAIN_BYTES_MIN: Final = 1 << 20
"""Ours: less is not worth rewriting a file for, unless it is half of it."""
_ROOM: Final = 3  # times what is left: the log, the file's growth, and what others need meanwhile
_PROCESSES_SHOWN: Final = 3
_EMPTY_LOG: Final = "PRAGMA wal_checkpoint(TRUNCATE)"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a database takes on the disk. ``free_bytes`` are inside of its file, for what is recorded next."""

    database_bytes: int
    wal_bytes: int
    free_bytes: int


def footprint(database: Database) -> Footprint:
    """As it is now."""
    pages, page_bytes = database.read("PRAGMA freelist_count")[0][0], database.read("PRAGMA page_size")[0][0]
    return Footprint(_file_size(database.path), _file_size(database.path.with_name(f"{database.path.name}-wal")), pages * page_bytes)


def compact_file(database: Database) -> str | None:
    """Rewrite the file without its free pages; None when that was done, else why not."""
    others = sorted(set(files.having_open(database.path)))
    if others:
        who = ", ".join(f"process {pid}" for pid in others[:_PROCESSES_SHOWN])
        return f"{who} has it open, and would wait; the free pages are used by what is recorded next"
    database.read(_EMPTY_LOG)
    now = footprint(database)
    if now.free_bytes < _GAIN_BYTES_MIN and now.free_bytes * 2 < now.database_bytes:
        return "there is little to gain"
    with contextlib.suppress(OSError):
        if shutil.disk_usage(database.path.parent).free < _ROOM * max(now.database_bytes - now.free_bytes, 0):
            return "the device has no room for a second copy"
    try:
        database.read("VACUUM")
        database.read(_EMPTY_LOG)
    except (JournalLockedError, JournalFullError) as error:
        return error.message
    return None


def _file_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


LOGS: Final = ("-wal", "-journal")
_MARGIN_BYTES: Final = 1 << 20
"""Ours: free beside the copy, for an upgrade's own log."""
# https://sqlite.org/fileformat2.html: two bytes, 1: rollback journal, 2: write-ahead log.
_LOG_KIND_AT: Final = 18
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def place_for_copy(path: Path) -> Iterator[Path]:
    """Yield a path for a copy of the database at ``path``; what is there is deleted when the block is left.

    Raises:
        JournalFullError: ``TMPDIR`` has no room for it.
        JournalError: ``TMPDIR`` can't be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="journaltrack-") as folder:
            wanted_bytes = sum(_size(path.with_name(path.name + suffix)) for suffix in ("", *LOGS))
            if shutil.disk_usage(folder).free < wanted_bytes + _MARGIN_BYTES:
                raise _no_room(path)
            yield Path(folder, path.name)
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "errno", None) in _NO_ROOM or "full" in str(error):
            raise _no_room(path) from error
        if isinstance(error, sqlite3.Error):
            raise
        raise JournalError(f"the journal at {path.parent} can be read only as a copy, which can't be made: {error}", hint=_HINT) from error


def copy_files(path: Path, copy: Path) -> None:
    """Copy a database that nobody has open, and bring into it what a killed writer left in its log."""
    for suffix in ("", *LOGS):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def write_copy(source: sqlite3.Connection, copy: Path) -> None:
    """Copy a database as it is at one moment, whoever appends to it meanwhile, to a new file that needs no log.

    All pages in one step, in one read transaction: with a write-ahead log, that neither waits for appends nor holds them
    up. Page by page SQLite would begin anew whenever somebody writes, and never end beside a training.
    """
    descriptor = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target, pages=-1)
        os.pwrite(descriptor, b"\1\1", _LOG_KIND_AT)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_HINT: Final = "set TMPDIR to a folder on a disk with room that you can write to"


def _no_room(path: Path) -> JournalFullError:
    return JournalFullError(
        f"the journal at {path.parent} can be read only as a copy, and {tempfile.gettempdir()} has no room for it", hint=_HINT
    )
