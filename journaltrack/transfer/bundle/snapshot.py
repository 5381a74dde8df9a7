"""A consistent copy of a journal's database, and which blobs belong to it.

Must not know how a bundle is laid out. Invariant: every blob that the snapshot names was whole in the spool before its entry was
recorded, so what is missing is damage and no race.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import BundleError, JournalFullError
from journaltrack.journal import view
from journaltrack.journal.queries import HAS_ARRIVED
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.journal.sqlite.errors import translated
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

# The first condition is the index's own.
_UPLOADS: Final = (
    "SELECT e.seq, e.payload, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
    "WHERE e.stream <> 'metric' AND e.kind = 'upload' AND e.seq > ? ORDER BY e.seq LIMIT 10000"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A database in a file of its own.

    Attributes:
        descriptor: Open for reading; the file has no name any more.
        size_bytes: Of the file.
        last_seq: The newest entry.
        undelivered: Digests of blobs that some entry needs which is not delivered.
        delivered: Digests of the others that entries name, or that no entry names (yet).
    """

    descriptor: int
    size_bytes: int
    last_seq: int
    undelivered: frozenset[str]
    delivered: frozenset[str]


@contextlib.contextmanager
def snapshot(journal: Journal) -> Iterator[Snapshot]:
    """Copy the database as it is at one moment, whoever appends to it meanwhile.

    The copy is in ``TMPDIR``, and in a mode in which it can be read from a medium that can't be written.

    Args:
        journal: Open for reading.

    Raises:
        BundleError: There is no room for it.
        JournalError: The journal can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="journaltrack-") as name:
        folder = Path(name)
        file = folder / paths.DATABASE
        with _room(folder):
            with journal.database.lock, translated(journal.database.path):
                write_copy(journal.database.connection, file)
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            last_seq, undelivered, delivered = _contents(folder)
            size_bytes = os.fstat(descriptor).st_size
            file.unlink()  # a kill leaves no copy of it behind from here on
            yield Snapshot(descriptor, size_bytes, last_seq, frozenset(undelivered), frozenset(delivered - undelivered))
        finally:
            os.close(descriptor)


def _contents(folder: Path) -> tuple[int, set[str], set[str]]:
    """The last entry, the digests that undelivered uploads name, and all others."""
    undelivered: set[str] = set()
    delivered: set[str] = set()
    with view.opened(folder) as copy:
        seq = -1
        while rows := copy.database.read_page(_UPLOADS, (seq,)):
            for number, payload, outcome in rows:
                seq = number
                sha256 = view.detail_of(payload).get("sha256")
                if isinstance(sha256, str) and is_digest(sha256):  # else it is no blob's: a pass quarantines the entry
                    (delivered if outcome in HAS_ARRIVED else undelivered).add(sha256)
        # A content is recorded before the entries that name it: a snapshot in between has it, and needs it as little as those before it.
        unnamed = {sha256 for (sha256,) in copy.database.read("SELECT sha256 FROM blob") if isinstance(sha256, str) and is_digest(sha256)}
        return copy.last_seq(), undelivered, delivered | unnamed


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Says where there is no room: SQLite does not tell which of two databases it means, and only the copy is written to."""
    try:
        yield
    except (OSError, JournalFullError) as error:
        if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise BundleError(
            f"there is no room for a copy of the database in {folder.parent}; nothing was bundled",
            hint="free space there, or set TMPDIR to a folder on another disk",
        ) from error
