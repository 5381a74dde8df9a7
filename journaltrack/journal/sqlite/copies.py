"""Copy a journal's database for reading, and give back its free pages.

A copy serves to read a database that can't be read where it is. It is in ``TMPDIR``, in a folder
that is deleted when the ``with`` block ends. A connection that has the copy open by then keeps the
unlinked file until it closes.

VACUUM rewrites the remaining pages into the log and from there into the file, and blocks every
append meanwhile. Its time and room grow with what remains; it needs up to twice that room. So it
runs only while no other process has the file open. Until then SQLite reuses free pages for new
entries. docs/adr/0016-pruning.md has the alternatives.

Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalError, JournalFullError, JournalLockedError
from journaltrack.journal.sqlite import files

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
    return Footprint(_size(database.path), _size(log), free_pages * page_bytes)


def compact_file(database: Database) -> str | None:
    """Rewrite the file without its free pages.

    Returns:
        None if that was done, else why not, in words.
    """
    import shutil  # noqa: PLC0415 - a tenth of the time of a start

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


LOGS: Final = ("-wal", "-journal")
_MARGIN_BYTES: Final = 1 << 20
"""Ours: free beside the copy, for an upgrade's own log."""
# https://sqlite.org/fileformat2.html: two bytes, 1: rollback journal, 2: write-ahead log.
_LOG_KIND_AT: Final = 18
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def place_for_copy(path: Path) -> Iterator[Path]:
    """Yield a path for a copy of the database at ``path``.

    The file at that path is deleted when the block ends.

    Raises:
        JournalFullError: ``TMPDIR`` has no room for the copy.
        JournalError: ``TMPDIR`` can't be written.
    """
    try:
        import shutil  # noqa: PLC0415 - as above
        import tempfile  # noqa: PLC0415 - as above

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
        raise JournalError(
            f"the journal at {path.parent} can be read only as a copy, and that failed: {error}",
            hint=_HINT,
        ) from error


def copy_files(path: Path, copy: Path) -> None:
    """Copy a database that no process has open, with the entries still in its log."""
    import shutil  # noqa: PLC0415 - as above

    for suffix in ("", *LOGS):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def write_copy(source: sqlite3.Connection, copy: Path) -> None:
    """Write a snapshot of a database to a new file that needs no log.

    One step copies all pages in one read transaction. With a write-ahead log it neither waits for
    appends nor blocks them. Copied page by page, SQLite would start again at every write, and would
    never finish beside a running training.
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
        return path.lstat().st_size
    except OSError:
        return 0


_HINT: Final = "set TMPDIR to a folder that you can write to, on a disk with enough free space"


def _no_room(path: Path) -> JournalFullError:
    import tempfile  # noqa: PLC0415 - as above

    return JournalFullError(
        f"{tempfile.gettempdir()} has no room for a copy of {path.parent}, needed to read it",
        hint=_HINT,
    )
