"""Measure a journal's database, and give back its free pages.

VACUUM rewrites the remaining pages into the log and from there into the file, and blocks every
append meanwhile. Its time and room grow with what remains; it needs up to twice that room. So it
runs only while no other process has the file open. Until then SQLite reuses free pages for new
entries. docs/adr/0016-pruning.md has the alternatives.

Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalFullError, JournalLockedError
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.copies import size_of

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_GAIN_BYTES_MIN: Final = 1 << 20
"""Our choice: a smaller gain is not worth a rewrite, unless it is half of the file."""
_ROOM: Final = 3
"""Room needed, as a multiple of what remains: for the log, the file, and other programs."""
_PROCESSES_SHOWN: Final = 3
_EMPTY_LOG: Final = "PRAGMA wal_checkpoint(TRUNCATE)"


@dataclass(frozen=True, slots=True)
class Footprint:
    """A database's size on the disk.

    ``free_bytes`` are inside its file, and SQLite reuses them for new entries.
    """

    database_bytes: int
    wal_bytes: int
    free_bytes: int


def footprint(database: Database) -> Footprint:
    """Measure the database's size now."""
    free_pages = database.read("PRAGMA freelist_count")[0][0]
    page_bytes = database.read("PRAGMA page_size")[0][0]
    log = database.path.with_name(f"{database.path.name}-wal")
    return Footprint(size_of(database.path), size_of(log), free_pages * page_bytes)


def compact_file(database: Database) -> str | None:
    """Rewrite the file without its free pages.

    Returns:
        None if that was done, else why not, in words.
    """
    others = sorted(set(files.having_open(database.path)))
    if others:
        who = ", ".join(f"process {pid}" for pid in others[:_PROCESSES_SHOWN])
        return f"{who} has it open, and would have to wait; new entries reuse the free pages"
    database.read(_EMPTY_LOG)
    now = footprint(database)
    if now.free_bytes < _GAIN_BYTES_MIN and now.free_bytes * 2 < now.database_bytes:
        return "there is little to gain"
    with contextlib.suppress(OSError):
        if shutil.disk_usage(database.path.parent).free < _ROOM * max(
            now.database_bytes - now.free_bytes, 0
        ):
            return "the device has no room for a second copy"
    try:
        database.read("VACUUM")
        database.read(_EMPTY_LOG)
    except (JournalLockedError, JournalFullError) as error:
        return error.message
    return None
