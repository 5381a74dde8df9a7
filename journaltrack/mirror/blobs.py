"""Copy the bytes of artifacts from a journal's spool into a mirror, and from there into another.

The mirror's folder of them is laid out as a spool. While a copy is under way, it has a hidden name
that follows from the artifact's, so a reader sees that bytes arrive. A copy that was cut is made
again. Bytes count only if they have the SHA-256 that the journal recorded.

Must not know segments' chains, or who delivers.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack.journal.spool.copy import Copier, write_all
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite import files
from journaltrack.mirror import shared_files
from journaltrack.replay.pass_report import missing_blobs
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.mirror.folders import Mirror
    from journaltrack.mirror.segments import Blob
    from journaltrack.mirror.ship import Shipped

_NAMED: Final = (
    "SELECT DISTINCT b.sha256, b.size_bytes FROM entry e JOIN blob b "
    "ON b.sha256 = json_extract(e.payload, '$.sha256') "
    "WHERE e.stream = 'upload' AND e.seq <= ? AND json_valid(e.payload)"
)
_SIZE: Final = "SELECT size_bytes FROM blob WHERE sha256 = ?"


class _MissingError(Exception):
    """The bytes of an artifact are missing in the spool, or damaged."""


class Sender:
    """Copy the bytes of one journal's artifacts into a mirror.

    One thread may ``send`` while another one adds to what is to be sent.

    Args:
        journal: The journal.
        mirror: Where to.
    """

    def __init__(self, journal: Journal, mirror: Mirror) -> None:
        self._journal = journal
        self._root = mirror.path
        self._spool = Spool(journal.path / paths.SPOOL)
        self._there = Spool(mirror.blobs(journal.journal_id))
        self._queue: deque[tuple[str, int]] = deque()

    @property
    def has_any(self) -> bool:
        """Return whether bytes are still to be sent."""
        return bool(self._queue)

    def begin(self, seq: int) -> None:
        """Begin with what the mirror lacks of the artifacts that entries up to ``seq`` name."""
        # A thread that sends now goes on with its own queue: what is there, it passes over.
        self._queue = deque(
            (sha256, size_bytes)
            for sha256, size_bytes in self._journal.database.read(_NAMED, (seq,))
            if is_digest(sha256) and self._spool.has(sha256) and not self._there.has(sha256)
        )

    def add(self, blobs: Iterable[Blob]) -> None:
        """Add what a new segment names."""
        self._queue.extend((blob.sha256, blob.size_bytes) for blob in blobs if blob.is_there)

    def send(self, shipped: Shipped, size_max: int | None = None) -> None:
        """Copy them, one after the other. What is missing or damaged in the spool is left out.

        Args:
            shipped: Is counted on.
            size_max: Leave larger ones to another time, bytes.

        Raises:
            MirrorError: The mirror can't be written. The next call tries again.
        """
        while queue := self._queue:
            sha256, size_bytes = queue[0]
            if size_max is not None and size_bytes > size_max:
                queue.popleft()
                continue
            before, is_sent = shipped.blob_bytes, False
            try:
                is_sent = self._send(sha256, size_bytes, shipped)
            except _MissingError:
                shipped.blobs_missing.append(sha256)
            finally:
                if not is_sent:
                    shipped.blob_bytes = before
            shipped.blobs += is_sent
            queue.popleft()

    def _send(self, sha256: str, size_bytes: int, shipped: Shipped) -> bool:
        """Copy one artifact; return whether it was not there yet.

        Raises:
            MirrorError: The mirror can't be written.
            _MissingError: The spool does not have these bytes.
        """
        target = self._there.path_of(sha256)
        partial = _partial_of(target)

        def write(file: int, data: memoryview) -> None:
            """Write a part, and count it: who waits sees that it goes on."""
            write_all(file, data)
            shipped.blob_bytes += len(data)

        try:
            with (
                files.opened_blob(self._spool.path_of(sha256)) as source,
                shared_files.explained(target, "written"),
            ):
                if shared_files.has_file(target, size_bytes):
                    return False
                shared_files.make_folder(target.parent, self._root)
                partial.unlink(missing_ok=True)
                with shared_files.created(partial, self._root) as file, Copier() as copier:
                    found = copier.copy(
                        source, os.fstat(source).st_size, lambda view: write(file, view)
                    )
                if found != sha256:
                    partial.unlink()
                    raise _MissingError
                partial.replace(target)
                paths.fsync(target.parent)
        except (OSError, ValueError) as error:
            # There is no such file, or it can't be read.
            raise _MissingError from error
        return True


class Arriving(NamedTuple):
    """What a mirror does not have whole yet.

    Attributes:
        blobs: The artifacts.
        size_bytes: How much of them is there.
    """

    blobs: list[Blob]
    size_bytes: int


def take_over(blobs: Iterable[Blob], journal: Journal, mirror: Mirror) -> Arriving:
    """Take over the bytes of artifacts that a segment names, and return what is to come.

    Raises:
        JournalError: The spool can't be written.
    """
    ours, theirs = Spool(journal.path / paths.SPOOL), Spool(mirror.blobs(journal.journal_id))
    to_come: list[Blob] = []
    size_bytes = 0
    for blob in blobs:
        if ours.has(blob.sha256) or not blob.is_there:
            continue
        if ours.take_over(theirs.folder, blob.sha256, blob.size_bytes) is None:
            to_come.append(blob)
            size_bytes += _size_of(theirs.path_of(blob.sha256))
    return Arriving(to_come, size_bytes)


def fetch(journal: Journal, mirror: Mirror) -> None:
    """Take over the bytes of artifacts that are to be uploaded from here, as far as they are there.

    A journal that continues a run has none of them (``copies.fetch``).

    Raises:
        JournalError: The spool can't be written.
    """
    spool, there = Spool(journal.path / paths.SPOOL), mirror.blobs(journal.journal_id)
    for sha256 in missing_blobs(journal):
        for (size_bytes,) in journal.database.read(_SIZE, (sha256,)):
            spool.take_over(there, sha256, size_bytes)


def _partial_of(file: Path) -> Path:
    """Return the name that an artifact has until it is whole."""
    return file.with_name(f".{file.name}.partial")


def _size_of(file: Path) -> int:
    """Return how many bytes of an artifact are in a mirror, under its name or before."""
    found = 0
    for path in (file, _partial_of(file)):
        with contextlib.suppress(OSError):
            found += path.lstat().st_size
    return found
