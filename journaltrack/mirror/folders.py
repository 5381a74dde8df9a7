"""Find the files of a mirror, a folder that several machines share, and write its segments.

::

    journaltrack-mirror.json                 what this folder is, and its id
    <journal id>/<replica>/00000001.jsonl    a segment of a copy of that journal (a *replica*)
    <journal id>/<replica>/00000001-00000064.jsonl    one that stands for those
    <journal id>/blobs/ab/ab12...            the bytes of artifacts, under their SHA-256
    runs/<SHA-256 of a run's name>/<journal id>    which journals have a run

Each file is written whole (``shared_files``), and not changed afterwards. A file is removed only
long after another one stands for it.

Invariants: only its replica writes into a replica's folder, and one process at a time (``ship``).
Must not know what a segment says.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from journaltrack.errors import InvalidInputError, JournalTooNewError, MirrorError
from journaltrack.journal import first_steps
from journaltrack.mirror import shared_files
from journaltrack.util import paths

MARKER: Final = paths.MIRROR
BLOBS: Final = "blobs"
RUNS: Final = "runs"
RECORD: Final = "removed.json"
"""In the folder of a journal that was removed after it was delivered (``retention``)."""
VERSION: Final = 1
"""Of the folder's layout; a reader refuses a higher one."""
_FORMAT: Final = "journaltrack mirror"
_MARKER_BYTES_MAX: Final = 4096
LISTED_MAX: Final = 16_384
"""Our choice: how many names of one listing are kept, 2 MB; a folder may have a million."""
_SEGMENT: Final = re.compile(r"(\d{8}|[1-9]\d{8,17})(?:-(\d{8}|[1-9]\d{8,17}))?\.jsonl", re.ASCII)
_REPLICA: Final = re.compile(r"[\w.-]{0,80}-[0-9a-f]{16}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOLDING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror's folder.

    Attributes:
        path: The folder.
        id: Unique; the same on every machine that mounts it.
    """

    path: Path
    id: str

    def journals(self) -> list[str]:
        """Return the ids of the journals that have segments here.

        Raises:
            MirrorError: The folder can't be read.
        """
        return sorted(name for name in shared_files.folders_in(self.path) if _UUID.fullmatch(name))

    def replicas(self, journal_id: str) -> list[str]:
        """Return the copies of a journal that wrote segments.

        Raises:
            MirrorError: The folder can't be read.
        """
        found = shared_files.folders_in(self.path / journal_id)
        return sorted(name for name in found if _REPLICA.fullmatch(name))

    def is_removed(self, journal_id: str) -> bool:
        """Return whether a journal was removed on the record, and nobody has written it again.

        Raises:
            MirrorError: The folder can't be read.
        """
        return (self.path / journal_id / RECORD).exists() and not self.replicas(journal_id)

    def runs(self, name: str) -> Path:
        """Return the folder that has a file for each journal with this run."""
        return self.path / RUNS / hashlib.sha256(name.lower().encode()).hexdigest()

    def journals_of(self, name: str) -> list[str]:
        """Return the ids of the journals with a run, the one that was written last at the end.

        Raises:
            MirrorError: The folder can't be read.
        """
        found = [each for each in shared_files.names(self.runs(name)) if _UUID.fullmatch(each)]
        # By the file server's clock.
        return sorted(found, key=self._written_ns)

    def _written_ns(self, journal_id: str) -> int:
        times = [0]
        for each in self.replicas(journal_id):
            with contextlib.suppress(OSError):
                times.append((self.path / journal_id / each).stat().st_mtime_ns)
        return max(times)

    def note_run(self, name: str, journal_id: str) -> None:
        """Note that a journal has a run, so that another machine finds it to continue.

        Raises:
            MirrorError: The mirror can't be written.
        """
        file = self.runs(name) / journal_id
        with shared_files.explained(file, "written"):
            if os.path.lexists(file):
                return
            shared_files.make_folder(file.parent, self.path)
            # Empty, so it is whole at once. Another replica may have made it.
            with contextlib.suppress(FileExistsError), shared_files.created(file, self.path):
                pass
            paths.fsync(file.parent)

    def blobs(self, journal_id: str) -> Path:
        """Return the folder of a journal's artifacts. It is laid out as a spool."""
        return self.path / journal_id / BLOBS

    def replica(self, journal_id: str, name: str) -> Replica:
        """Return the folder of one copy's segments, which need not be there yet."""
        return Replica(self.path, self.path / journal_id / name)


class Span(NamedTuple):
    """The numbers that one file covers: one, or those of the segments that it stands for."""

    first: int
    last: int

    @property
    def order(self) -> tuple[int, int]:
        """Return the key by which a reader goes through files: what stands for others first."""
        return self.first, -self.last

    def __str__(self) -> str:
        """Return it for a person."""
        return str(self.last) if self.first == self.last else f"{self.first} to {self.last}"


class Listing(NamedTuple):
    """One listing of a replica's folder.

    Attributes:
        spans: The first of its files, at most ``LISTED_MAX``, by ``Span.order``.
        newest: The highest number in the folder.
        files: How many files there are.
        is_all: Whether ``spans`` has all that were asked for.
    """

    spans: list[Span]
    newest: int
    files: int
    is_all: bool


@dataclass(slots=True)
class Replica:
    """The folder with the segments of one copy of a journal.

    Its writer keeps the folder open: that saves the file server two of a dozen operations for each
    segment, and tells when somebody removed it.
    """

    mirror: Path
    path: Path
    _folder: int | None = field(default=None, repr=False, compare=False)

    def hold(self) -> None:
        """Keep the folder open, if it is there.

        Raises:
            MirrorError: It can't be opened, or is a link.
        """
        with shared_files.explained(self.path, "written"):
            if self._folder is None and os.path.lexists(self.path):
                self._folder = os.open(self.path, _HOLDING)

    def close(self) -> None:
        """Close the folder."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def listed(self, after: int = 0, beyond: Span | None = None) -> Listing:
        """List the segments that reach beyond a number. Memory does not grow with the folder.

        Args:
            after: The number.
            beyond: Leave out this file, and those before it in the order.

        Raises:
            MirrorError: The folder can't be read.
        """
        newest = files = 0

        def asked() -> Iterator[Span]:
            """Yield what is asked for, and look at everything."""
            nonlocal newest, files
            for span in self._spans():
                files += 1
                newest = max(newest, span.last)
                if span.last > after and (beyond is None or span.order > beyond.order):
                    yield span

        found = heapq.nsmallest(LISTED_MAX + 1, asked(), key=lambda span: span.order)
        return Listing(found[:LISTED_MAX], newest, files, len(found) <= LISTED_MAX)

    def latest(self, most: int) -> list[Span]:
        """Return the files with the highest numbers, what stands for others first.

        Raises:
            MirrorError: The folder can't be read.
        """
        return heapq.nlargest(most, self._spans(), key=lambda span: (span.last, -span.first))

    def _spans(self) -> Iterator[Span]:
        with shared_files.explained(self.path, "listed"):
            try:
                entries = os.scandir(self.path)
            except (FileNotFoundError, NotADirectoryError):
                return
            with entries:
                for entry in entries:
                    named = _SEGMENT.fullmatch(entry.name)
                    if named is not None:
                        first, last = int(named[1]), int(named[2] or named[1])
                        if 0 < first < last or (first > 0 and named[2] is None):
                            yield Span(first, last)

    def file(self, span: Span) -> Path:
        """Return the path of a segment."""
        first, last = span
        name = f"{last:08d}" if first == last else f"{first:08d}-{last:08d}"
        return self.path / f"{name}.jsonl"

    def read(self, span: Span, bytes_max: int) -> bytes | None:
        """Return a segment's bytes; None if it is not there, or is larger than ``bytes_max``.

        Raises:
            MirrorError: It can't be read.
        """
        with shared_files.explained(self.file(span), "read"):
            return shared_files.content(self.file(span), bytes_max)

    def write(self, span: Span, data: bytes) -> None:
        """Write a segment: it appears whole and on the disk, or not at all.

        Raises:
            MirrorError: It can't be written, or there is one with that number.
        """
        file = self.file(span)
        with shared_files.explained(file, "written"):
            if self._folder is None:
                shared_files.make_folder(self.path, self.mirror)
                self.hold()
            folder = self._folder
            if folder is None or not shared_files.is_at(folder, self.path):
                raise MirrorError(
                    f"{self.path} was removed; everything is written again",
                    hint="mirror again; to stop that, end the process that mirrors the journal",
                )
            if os.path.lexists(file):
                raise MirrorError(
                    f"{file} is there already: another process mirrors the same copy; nothing was "
                    "changed",
                    hint="it goes on behind that one; mirror again",
                )
            shared_files.write_whole(file, data, self.mirror, folder)

    def remove(self, span: Span) -> None:
        """Remove a segment that another one stands for. Only the replica's writer calls it.

        Raises:
            MirrorError: It can't be removed.
        """
        with shared_files.explained(self.file(span), "removed"):
            self.file(span).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a killed process left unfinished, and hold the folder. Only its writer does.

        Raises:
            MirrorError: The folder can't be read, or is behind a link.
        """
        for folder in (self.path.parent, self.path):
            with shared_files.explained(folder, "written"):
                if os.path.lexists(folder) and not shared_files.is_folder(folder):
                    raise NotADirectoryError(errno.ENOTDIR, "It is a link, or a file")
        self.hold()
        for name in shared_files.names(self.path):
            if name.startswith(".") and name.endswith(".partial"):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()


def opened(folder: str | os.PathLike[str], *, create: bool = False) -> Mirror:
    """Return the mirror in a folder.

    Args:
        folder: The folder.
        create: Make it one if it is missing or empty.

    Raises:
        InvalidInputError: It is no mirror. No changes were made.
        JournalTooNewError: A newer version made it. No changes were made.
        MirrorError: It can't be read, or made.
    """
    path = paths.expanded(folder).absolute()
    marker = path / MARKER
    with shared_files.explained(marker, "read"):
        data = shared_files.content(marker, _MARKER_BYTES_MAX)
    if data is None and create:
        with shared_files.explained(marker, "made"):
            _make(path)
            data = shared_files.content(marker, _MARKER_BYTES_MAX)
    if data is None:
        raise InvalidInputError(
            f"{path} is no mirror: it has no {MARKER}",
            hint="`journaltrack mirror JOURNAL FOLDER` makes one of a new or an empty folder",
        )
    try:
        members = json.loads(data)
        version, mirror_id = members["version"], members["id"]
        known = members["format"] == _FORMAT and bool(_UUID.fullmatch(mirror_id))
    except (ValueError, KeyError, TypeError, RecursionError):
        known, version = False, None
    if known and type(version) is int and version > VERSION:
        raise JournalTooNewError(
            f"a newer journaltrack made the mirror at {path}; no changes were made",
            hint="upgrade: pip install -U journaltrack",
        )
    if not known or version != VERSION:
        raise MirrorError(
            f"{marker} does not say that {path} is a mirror; no changes were made",
            hint="if it was damaged, name a new folder: journaltrack mirrors everything into it",
        )
    return Mirror(path, mirror_id)


def _make(path: Path) -> None:
    first_steps.make_folder(path)
    others = [name for name in shared_files.names(path) if not name.startswith(".")]
    if others:
        raise InvalidInputError(
            f"{path} has other files in it ({others[0]}), and no {MARKER}; no changes were made",
            hint="name a new folder for the mirror, or an empty one",
        )
    members = {"format": _FORMAT, "version": VERSION, "id": str(uuid.uuid4())}
    data = json.dumps(members).encode() + b"\n"
    # Of several processes that make it at once, the first one's counts.
    shared_files.put_new(path / MARKER, data, path)
