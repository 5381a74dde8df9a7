"""Copy a journal's database for reading.

A copy serves to read a database that can't be read where it is. It is in ``TMPDIR``, in a folder
that is deleted when the ``with`` block ends. A connection that has the copy open by then keeps the
unlinked file until it closes.

Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.errors import JournalError, JournalFullError

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
        import shutil  # noqa: PLC0415 - a tenth of the time of a start
        import tempfile  # noqa: PLC0415 - as above

        with tempfile.TemporaryDirectory(prefix="journaltrack-") as folder:
            wanted_bytes = sum(
                size_of(path.with_name(path.name + suffix)) for suffix in ("", *LOGS)
            )
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


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
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
