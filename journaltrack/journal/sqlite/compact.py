"""The size of a journal's database, and giving free pages back to the file system. Must not know what is stored.

VACUUM rewrites what is left into the log and from there into the file, while nobody can append: it takes as long as there is
something left, and up to twice its room. So it is done only while nobody else has the file open; until then SQLite uses free
pages for what is recorded next. docs/adr/0016-pruning.md has the alternatives.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalFullError, JournalLockedError
from journaltrack.journal.sqlite import file_locks

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
    return Footprint(_size(database.path), _size(database.path.with_name(f"{database.path.name}-wal")), pages * page_bytes)


def compact_file(database: Database) -> str | None:
    """Rewrite the file without its free pages; None when that was done, else why not."""
    others = sorted(set(file_locks.having_open(database.path)))
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


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
