"""Implement ``journaltrack.bundle``: pack a journal into one file.

Must not know a remote. Invariants: changes no journal. A bundle is one consistent snapshot with
the blobs that it needs, each checked against its digest while it is copied. Every blob that the
snapshot names was complete in the spool before its entry was recorded: what is missing is damage,
not a race. A bundle gets its name only when it is complete and on the disk. Memory does not grow
with the entries. docs/bundles.md has the format, docs/adr/0014-bundles.md the reasons.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import BundleError, BundleSpoolError, JournalFullError
from journaltrack.journal import destinations, view
from journaltrack.journal.queries import HAS_ARRIVED
from journaltrack.journal.spool.copy import Copier, SteadyFile
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.bundle.layout import (
    END,
    Content,
    Harm,
    Layout,
    Manifest,
    Member,
    host_of,
)
from journaltrack.util import paths, process
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

_NAMED_MAX: Final = 5
_HINTS: Final = {
    errno.ENOSPC: "free space there, then run the same command again",
    errno.EDQUOT: "free space there, then run the same command again",
    errno.EFBIG: "this file system can't hold a file of that size (FAT32 ends at 4 GiB): "
    "use one that can, such as exFAT or ext4",
    errno.EROFS: "name a file where you can write",
    errno.EACCES: "name a file where you can write",
}
# The first condition is the index's own.
_UPLOADS: Final = (
    "SELECT e.seq, e.payload, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
    "WHERE e.stream <> 'metric' AND e.kind = 'upload' AND e.seq > ? ORDER BY e.seq LIMIT 10000"
)


@dataclass(frozen=True, slots=True)
class BundleReport:
    """Say what was bundled.

    Attributes:
        journal, journal_id: From which journal.
        output: The bundle.
        size_bytes: Its size; ``database_bytes`` and ``blobs_bytes`` of it are the snapshot's and
            the blobs'.
        blobs: How many are in it.
        left_out: How many are left out because they are delivered.
        damaged: Digests of those left out because they are missing from the spool or damaged
            there.
        last_seq: The newest entry in it. Later ones were recorded meanwhile.
        manifest_sha256: Digest of the manifest; equal digests mean equal bundles.
    """

    journal: str
    journal_id: str
    output: str
    size_bytes: int
    database_bytes: int
    blobs: int
    blobs_bytes: int
    left_out: int
    damaged: tuple[str, ...]
    last_seq: int
    manifest_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def bundle(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str],
    all_blobs: bool = False,
    skip_damaged: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> BundleReport:
    """Pack a snapshot of a journal and its blobs into one file.

    Others may continue to append.

    Args:
        journal: An open journal, a path, or None for the default journal.
        to: The file.
        all_blobs: Also pack delivered blobs; without it, only those that some entry still needs.
        skip_damaged: Leave out blobs that are missing from the spool or damaged, and record that
            in the bundle.
        force: Replace the file if it exists.
        on_progress: Called now and then with how many bytes are done, of how many.

    Raises:
        InvalidInputError: The file exists. Nothing was written.
        BundleSpoolError: Blobs are missing or damaged; ``blobs`` has them. No file is left.
        BundleError: The file can't be written. No file is left.
        JournalError: The journal can't be read.
    """
    content: Content = "all" if all_blobs else "undelivered"
    with view.opened(journal) as own:
        destinations.refuse_copy(own.path, "bundled")
        # Refuse a bad target before the work of a snapshot.
        paths.file_target(to, own.path, force=force)
        with contextlib.ExitStack() as stack:
            taken = stack.enter_context(snapshot(own))
            copier = stack.enter_context(Copier())
            stack.enter_context(_explained(to))
            target, stream = stack.enter_context(paths.whole_file(to, own.path, force=force))
            file = stack.enter_context(contextlib.closing(SteadyFile(stream.fileno())))
            work = _Work(
                own,
                taken,
                content,
                _Target(target, stream.fileno(), file),
                copier,
                on_progress or (lambda _: None),
            )
            harmed: dict[str, Harm] = {}
            while True:
                try:
                    layout = work.write(harmed)
                except BundleSpoolError as error:  # noqa: PERF203 - it goes round once
                    if not skip_damaged:
                        raise
                    # The manifest comes first in the file, and names them.
                    harmed |= error.blobs
                else:
                    break
        return _report(own, target, layout)


def _report(journal: Journal, target: Path, layout: Layout) -> BundleReport:
    manifest = layout.manifest
    return BundleReport(
        str(journal.path),
        journal.journal_id,
        str(target),
        layout.size_bytes,
        manifest.database_bytes,
        len(manifest.blobs),
        sum(manifest.blobs.values()),
        len(manifest.left_out),
        tuple(manifest.damaged or ()),
        manifest.last_seq,
        layout.manifest_sha256,
    )


class _Target:
    """Write the file of a bundle, from its beginning or anew."""

    def __init__(self, path: Path, descriptor: int, file: SteadyFile) -> None:
        self._path = path
        self._descriptor = descriptor
        self._file = file

    def begin(self, size_bytes: int) -> None:
        """Reserve room for a bundle of that size.

        Raises:
            BundleError: There is no room. Better now than after an hour on a slow stick.
        """
        with _explained(self._path):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            largest = paths.file_bytes_max(self._path.parent)
            if largest is not None and size_bytes > largest:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            room = os.fstatvfs(self._descriptor)
        free = room.f_bavail * room.f_frsize
        if free < size_bytes:
            raise BundleError(
                f"the bundle takes {size_bytes} bytes, but {self._path.parent} has {free} free; "
                "nothing was written",
                hint="free space there, or name a file on another disk",
            )

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it, see ``SteadyFile``."""
        with _explained(self._path):
            self._file.write(data)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        with _explained(self._path):
            self._file.flush()


class _Work:
    """Do the work of one ``bundle`` call, until the file is complete."""

    def __init__(
        self,
        journal: Journal,
        taken: Snapshot,
        content: Content,
        target: _Target,
        copier: Copier,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._journal = journal
        self._spool = Spool(journal.path / paths.SPOOL)
        self._taken = taken
        self._content: Content = content
        self._target = target
        self._copier = copier
        self._on_progress = on_progress
        self._done_bytes = self._total_bytes = 0

    def write(self, harmed: dict[str, Harm]) -> Layout:
        """Write the bundle.

        Args:
            harmed: Blobs known to be missing or damaged: they are left out.

        Raises:
            BundleSpoolError: More blobs are missing or damaged; all of them are named.
        """
        layout = Layout(self._manifest(harmed))
        if len(layout.manifest_bytes) > limits.MANIFEST_BYTES_MAX:
            raise BundleError(
                f"the journal has {len(layout.manifest.blobs)} artifact contents, more than a "
                "bundle can list",
                hint="copy the journal's folder instead",
            )
        self._done_bytes = 0
        self._total_bytes = layout.manifest.database_bytes + sum(layout.manifest.blobs.values())
        self._on_progress(Progress(0, self._total_bytes, 0))
        self._target.begin(layout.size_bytes)
        first = next(layout.members())
        self._target.write(layout.header(first) + layout.manifest_bytes + first.padding)
        os.lseek(self._taken.descriptor, 0, os.SEEK_SET)
        self._add(layout, layout.database, self._taken.descriptor)
        blobs = layout.blobs()
        for member in blobs:
            harm = self._harm(member, partial(self._add, layout, member))
            if harm is not None:
                raise self._incomplete({member.sha256: harm} | self._harm_in(blobs))
        self._target.write(
            layout.header(layout.sums) + layout.sums_bytes + layout.sums.padding + END
        )
        self._target.flush()
        return layout

    def _manifest(self, harmed: dict[str, Harm]) -> Manifest:
        taken = self._taken
        wanted = taken.undelivered | (taken.delivered if self._content == "all" else frozenset())
        blobs: dict[str, int] = {}
        missing: dict[str, Harm] = {}
        for sha256 in sorted(wanted - harmed.keys()):
            if self._spool.has(sha256):
                blobs[sha256] = self._spool.path_of(sha256).lstat().st_size
            # S3 holds the content of the others: they are left out, as without --all-blobs.
            elif sha256 in taken.undelivered:
                missing[sha256] = "missing"
        if missing:
            raise self._incomplete(missing)
        os.lseek(taken.descriptor, 0, os.SEEK_SET)
        return Manifest(
            self._journal.journal_id,
            time.time_ns(),
            __version__,
            host_of(process.host()),
            taken.last_seq,
            self._content,
            taken.size_bytes,
            self._copier.digest(taken.descriptor, taken.size_bytes),
            blobs,
            tuple(sorted(taken.delivered - blobs.keys() - harmed.keys())),
            dict(sorted(harmed.items())),
        )

    def _add(self, layout: Layout, member: Member, source: int) -> str:
        """Write a member from a file's position on; return the digest of its bytes."""
        self._target.write(layout.header(member))

        def write(view: memoryview) -> None:
            """Write bytes, and tell how many are done."""
            self._target.write(view)
            self._done_bytes += len(view)
            self._on_progress(Progress(self._done_bytes, self._total_bytes, 0))

        sha256 = self._copier.copy(source, member.size_bytes, write)
        self._target.write(member.padding)
        return sha256

    def _harm_in(self, members: Iterable[Member]) -> dict[str, Harm]:
        """Check all remaining blobs, so that the user learns of every problem at once."""
        found: dict[str, Harm] = {}
        for member in members:
            harm = self._harm(member, partial(self._copier.digest, size_bytes=member.size_bytes))
            if harm is not None:
                found[member.sha256] = harm
        return found

    def _harm(self, member: Member, read: Callable[[int], str]) -> Harm | None:
        """Return what is wrong with a blob.

        ``read`` returns the digest of a descriptor's bytes.
        """
        try:
            with files.opened_blob(self._spool.path_of(member.sha256)) as source:
                whole = (
                    os.fstat(source).st_size == member.size_bytes and read(source) == member.sha256
                )
        except FileNotFoundError:
            return "missing"
        except (OSError, ValueError):
            return "damaged"
        return None if whole else "damaged"

    def _incomplete(self, harmed: dict[str, Harm]) -> BundleSpoolError:
        some = ", ".join(
            f"{sha256} is {harm}" for sha256, harm in sorted(harmed.items())[:_NAMED_MAX]
        )
        more = f", and {len(harmed) - _NAMED_MAX} more" if len(harmed) > _NAMED_MAX else ""
        return BundleSpoolError(
            f"blobs in the spool of {self._journal.path} are not what was logged: {some}{more}; "
            "no bundle was made",
            hint="`journaltrack check --repair --restore-from FOLDER` restores them from a "
            "folder that still has the files; "
            "--skip-damaged bundles all others",
            blobs=harmed,
        )


@contextlib.contextmanager
def _explained(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the disk's error into our own, with a hint."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "check the disk (dmesg)")
        raise BundleError(
            f"{os.fspath(target)} can't be written: {error.strerror}; no file was left", hint=hint
        ) from error


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold a database in a file of its own.

    Attributes:
        descriptor: Open for reading; the file has no name any more.
        size_bytes: Of the file.
        last_seq: The newest entry.
        undelivered: Digests of blobs that an undelivered entry needs.
        delivered: Digests of the others that entries name, or that no entry names (yet).
    """

    descriptor: int
    size_bytes: int
    last_seq: int
    undelivered: frozenset[str]
    delivered: frozenset[str]


@contextlib.contextmanager
def snapshot(journal: Journal) -> Iterator[Snapshot]:
    """Copy the database as it is at one moment, while others may append.

    The copy is in ``TMPDIR``, in a mode that can be read from a read-only medium.

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
            # From here on a kill leaves no copy of it behind.
            file.unlink()
            yield Snapshot(
                descriptor,
                size_bytes,
                last_seq,
                frozenset(undelivered),
                frozenset(delivered - undelivered),
            )
        finally:
            os.close(descriptor)


def _contents(folder: Path) -> tuple[int, set[str], set[str]]:
    """Return the last entry, and the digests of undelivered and other uploads."""
    undelivered: set[str] = set()
    delivered: set[str] = set()
    with view.opened(folder) as copy:
        seq = -1
        while rows := copy.database.read_page(_UPLOADS, (seq,)):
            for number, payload, outcome in rows:
                seq = number
                sha256 = view.detail_of(payload).get("sha256")
                # Otherwise it is no blob's digest: a pass quarantines the entry.
                if isinstance(sha256, str) and is_digest(sha256):
                    (delivered if outcome in HAS_ARRIVED else undelivered).add(sha256)
        # A content is recorded before the entries that name it. A snapshot in between has it, but
        # needs it no more than earlier snapshots.
        unnamed = {
            sha256
            for (sha256,) in copy.database.read("SELECT sha256 FROM blob")
            if isinstance(sha256, str) and is_digest(sha256)
        }
        return copy.last_seq(), undelivered, delivered | unnamed


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say where there is no room.

    SQLite does not tell which database it means, but only the copy is written to.
    """
    try:
        yield
    except (OSError, JournalFullError) as error:
        if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise BundleError(
            f"there is no room for a copy of the database in {folder.parent}; nothing was bundled",
            hint="free space there, or set TMPDIR to a folder on another disk",
        ) from error
