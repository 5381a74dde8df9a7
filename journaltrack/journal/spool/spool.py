"""Keep artifact bytes until their upload, once per content, under their SHA-256.

Invariants:

- A file named by a digest is complete. It is on the disk, too: it gets its name after an fsync.
  Only what was added without ``durable`` waits for that until ``sync``.
- The folder holds complete blobs, and temporary files of processes that add, remove or upload.
- No path outside the folder is ever opened for a digest.
- A limit of the spool never removes an undelivered content, and never skips an artifact silently.

Hashing and writing run side by side (``copy``). A content that the spool has is not written again:
the file is compared with the blob byte by byte while it is hashed, which verifies the blob, too.

If a new file exceeds the spool's limit, delivered contents are removed, the oldest first. If that
is not enough, the call fails. ``composition`` passes in the function that removes them.

Must not know any remote, the lease, or how contents are removed. The database is only read, for
digests.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from journaltrack.errors import (
    ArtifactError,
    InvalidInputError,
    JournalFullError,
    JournalReadOnlyError,
    JournaltrackError,
    JournalWriteError,
)
from journaltrack.journal import queries
from journaltrack.journal.queries import PROBLEM
from journaltrack.journal.spool.copy import (
    ALONE_BYTES_MAX,
    PIECE_BYTES,
    Copier,
    SteadyFile,
    are_equal,
    write_all,
)
from journaltrack.journal.sqlite import files
from journaltrack.util import paths
from journaltrack.util.digest import (
    IN_ONE_PIECE_BYTES_MAX,
    PartDigests,
    PartHasher,
    digest_of,
    is_digest,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from journaltrack.journal.sqlite.connection import Database


# Reads above the mark and the index on problems: no delivered entry.
_NEEDED: Final = (
    f"SELECT json_extract(e.payload, '$.sha256') {queries.PENDING} "
    "AND e.stream = 'upload' AND json_valid(e.payload) "
    "UNION SELECT json_extract(e.payload, '$.sha256') {} "
    f"WHERE {PROBLEM} "
    "AND e.stream <> 'metric' AND e.stream = 'upload' AND json_valid(e.payload)"
)


_OF_SIZE: Final = "SELECT sha256 FROM blob WHERE size_bytes = ? ORDER BY spooled_at_ns DESC LIMIT 8"
"""Reads the whole table, one row per content.

It takes 3 ms for 100,000 contents; the alternative is to write a file of 1 MiB or more.
"""


@dataclass(frozen=True, slots=True)
class SpoolUse:
    """How much the spool takes on the disk.

    Attributes:
        files: Number of regular files.
        size_bytes: Their size.
        delivered_bytes: The size of the contents that no undelivered entry needs.
    """

    files: int = 0
    size_bytes: int = 0
    delivered_bytes: int = 0


def needed_blobs(database: Database) -> set[str]:
    """Return the digests of uploads that are not delivered.

    That is: pending, in flight, in doubt or quarantined.

    The time grows with what is not delivered, not with the journal.
    """
    return {
        sha256
        for (sha256,) in database.read(_NEEDED.format(queries.of_problems(database)))
        if isinstance(sha256, str)
    }


def blobs_of_size(database: Database, size_bytes: int) -> list[str]:
    """Return digests of contents of that size, the newest first, 8 at most.

    The spool has them, or had them.
    """
    return [sha256 for (sha256,) in database.read(_OF_SIZE, (size_bytes,)) if is_digest(sha256)]


def spool_use(spool: Path, wanted: Callable[[], Collection[str]] = frozenset) -> SpoolUse:
    """Measure the spool with one look at every file. No link is followed.

    Args:
        spool: The folder.
        wanted: Returns the digests that an undelivered entry needs. Called once if there is a file.
    """
    files = size = delivered = 0
    needed: Collection[str] | None = None
    top = os.fspath(spool)
    for parent, _, names in os.walk(top):
        on_its_way = parent == top
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except OSError:
                # An upload's temporary file that is gone, or a blob that was just removed.
                continue
            if stat.S_ISREG(status.st_mode):
                files += 1
                size += status.st_size
                needed = wanted() if needed is None else needed
                delivered += 0 if on_its_way or name in needed else status.st_size
    return SpoolUse(files, size, delivered)


T = TypeVar("T")

BUFFER_BYTES: Final = 1024 * 1024
TRIES: Final = 3
"""How often to copy a file that keeps changing before the call fails."""
COMPARED_BYTES_MIN: Final = 1024 * 1024
"""From this size on, look for a blob of the same size before copying a file.

For smaller files the look costs as much as it saves.
"""
_LOOK_BYTES: Final = 4096
# ioctl_ficlone(2): share the blocks, if the file system can.
_FICLONE: Final = 0x40049409
# It was removed meanwhile, or a part of its path is a link.
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
TEMPORARY: Final = "incoming-"
"""Prefix of the names of files that are being added or removed."""


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """One content in the spool.

    Attributes:
        sha256: In hexadecimal.
        parts: Of a file that goes to a store in parts. They are hashed beside its writing, so
            that its upload hashes none.
    """

    sha256: str
    size_bytes: int
    path: Path
    parts: PartDigests | None = None


class Spool:
    """A folder of blobs.

    Args:
        folder: The first ``add`` creates it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        file_path: str | os.PathLike[str],
        announce: Callable[[str], None] = lambda _: None,
        of_size: Callable[[int], Iterable[str]] = lambda _: (),
        *,
        durable: bool = True,
    ) -> SpooledBlob:
        """Keep the bytes of a file as they are now.

        Args:
            file_path: The file.
            announce: Called with the digest before the blob gets its name. From then on no process
                may remove it as old.
            of_size: Returns digests of that size that the spool may have. If the file's digest is
                one of them, nothing is written.
            durable: Wait until it is on the disk. If not, it survives a kill, and ``sync`` waits;
                a large file is on the disk all the same, since its copy takes longer.

        Raises:
            ArtifactError: The file is missing, is not a regular file, can't be read, or changed
                during each of ``TRIES`` copies.
            JournalFullError: No space is left for the copy.
            JournalReadOnlyError: The spool can't be written.
        """
        source = Path(file_path)
        for _ in range(TRIES):
            with _opened(source) as descriptor, _ending_clearly(source):
                blob = self._held(descriptor, source, announce, of_size)
                blob = blob or self._copy_open(
                    descriptor, source, announce=announce, durable=durable
                )
            if blob is not None:
                return blob
        raise ArtifactError(
            f"{source} changed during each of {TRIES} copies; it was not logged",
            hint="log it when its writer is done, or write to a temporary name and rename it",
        )

    def add_bytes(
        self,
        content: bytes,
        announce: Callable[[str], None] = lambda _: None,
        *,
        durable: bool = True,
    ) -> SpooledBlob:
        """Keep these bytes. See ``add`` for the arguments and what is raised."""
        sha256 = hashlib.sha256(content).hexdigest()
        with _writing(self.folder), self._incoming() as (temporary, target):
            write_all(target, memoryview(content))
            announce(sha256)
            path = self._store(temporary, target, sha256, durable=durable)
            return SpooledBlob(sha256, len(content), path)

    def sync(self, digests: Iterable[str]) -> None:
        """Wait until blobs, and their names, are on the disk.

        A blob that is gone was delivered and removed, or a sync will miss it.

        Raises:
            JournalWriteError: The disk refuses one.
        """
        found = [sha256 for sha256 in digests if self.has(sha256)]
        for sha256 in found:
            self._sync_bytes(sha256)
        # Each once, and last: most names went to the disk with the bytes of later files.
        parents = {self.path_of(sha256).parent for sha256 in found}
        for folder in (*parents, self.folder, self.folder.parent) if found else ():
            try:
                paths.fsync(folder)
            except OSError as error:  # noqa: PERF203 - a wait for the disk costs more
                if error.errno not in _NOT_THERE:
                    raise _unsynced(folder, error) from error

    def _sync_bytes(self, sha256: str) -> None:
        path, size_bytes = self.path_of(sha256), -1
        try:
            with files.opened_blob(path) as descriptor:
                size_bytes = os.fstat(descriptor).st_size
                os.fsync(descriptor)
        except OSError as error:
            # The kernel tells of a failure once, and may have dropped the bytes: write them again,
            # if they are still what they were.
            if (
                error.errno not in _NOT_THERE
                and self.take_over(self.folder, sha256, size_bytes) is None
            ):
                raise _unsynced(path, error) from error

    def take_over(self, other: Path, sha256: str, size_bytes: object) -> SpooledBlob | None:
        """Copy a blob of another spool, and verify it meanwhile.

        No link is followed there. A blob larger than recorded is damaged and is not read:
        a sparse file would fill this disk.

        Returns:
            The blob; None if it is missing or damaged.

        Raises:
            JournalFullError: No space is left for the copy.
            JournalReadOnlyError: The spool can't be written.
        """
        path = Spool(other).path_of(sha256)
        try:
            with files.opened_blob(path) as descriptor:
                if not isinstance(size_bytes, int) or os.fstat(descriptor).st_size > size_bytes:
                    return None
                return self._copy_open(descriptor, path, only=sha256)
        except (ArtifactError, OSError, ValueError):
            return None

    def path_of(self, sha256: str) -> Path:
        """Return the path at which the blob of that digest is, or would be.

        Raises:
            InvalidInputError: It is not a SHA-256 in lower-case hexadecimal.
        """
        if not is_digest(sha256):
            raise InvalidInputError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal")
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Return whether the digest has a regular file, not a link, in the spool."""
        try:
            return stat.S_ISREG(self.path_of(sha256).lstat().st_mode)
        except OSError:
            return False

    def holds(self, content: Path | bytes) -> bool:
        """Return whether the spool has that file's bytes, or these. Reads the whole file."""
        if isinstance(content, bytes):
            return self.has(hashlib.sha256(content).hexdigest())
        with _opened(content) as descriptor:
            return self.has(digest_of(functools.partial(os.read, descriptor)))

    def verify(self, sha256: str) -> bool:
        """Return whether the blob exists and has that digest. Reads the whole blob."""
        if not self.has(sha256):
            return False
        try:
            with files.opened_blob(self.path_of(sha256)) as descriptor:
                return digest_of(functools.partial(os.read, descriptor)) == sha256
        except (OSError, ValueError):
            return False

    def collect(
        self,
        known: Callable[[str], bool],
        *,
        older_than_s: float = 3600.0,
        now: Callable[[], float] = time.time,
    ) -> list[Path]:
        """Remove blobs and temporary files that no entry names: a kill left them.

        Args:
            known: Returns whether an entry names the digest.
            older_than_s: Grace time in seconds: a younger file may be about to get its entry.
            now: Returns the time in seconds since the epoch.

        Returns:
            The paths that were removed.
        """
        removed = []
        for path in sorted(self.folder.glob("**/*")):
            # Another process may collect as well, or finish with its temporary file.
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) or now() - status.st_mtime < older_than_s:
                    continue
                if path.name.startswith(TEMPORARY) or not known(path.name):
                    path.unlink()
                    removed.append(path)
        return removed

    def _held(
        self,
        descriptor: int,
        source: Path,
        announce: Callable[[str], None],
        of_size: Callable[[int], Iterable[str]],
    ) -> SpooledBlob | None:
        """Return the blob with the bytes of an open file.

        None if there is none, or if the file or the blob changed meanwhile.
        """
        before = os.fstat(descriptor)
        if before.st_size < COMPARED_BYTES_MIN:
            return None
        for sha256 in of_size(before.st_size):
            with (
                contextlib.suppress(OSError, ValueError),
                files.opened_blob(self.path_of(sha256)) as held,
            ):
                status = os.fstat(held)
                if status.st_size != before.st_size or not _look_alike(
                    descriptor, held, before.st_size
                ):
                    continue
                parts = _hasher(before.st_size)
                if not _is_same(
                    descriptor, held, before.st_size, source, sha256, parts
                ) or _changed(before, os.fstat(descriptor)):
                    return None
                # The process that added it may not have finished its fsync.
                os.fsync(held)
                announce(sha256)
                # Starts a new grace time in ``collect``.
                os.utime(held)
                path = self.path_of(sha256)
                now = path.lstat()
                if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
                    # It was removed before it was announced.
                    return None
                self._sync_folders(path)
                return SpooledBlob(
                    sha256, status.st_size, path, None if parts is None else parts.result()
                )
        return None

    def _copy_open(
        self,
        descriptor: int,
        source: Path,
        *,
        only: str | None = None,
        announce: Callable[[str], None] = lambda _: None,
        durable: bool = True,
    ) -> SpooledBlob | None:
        """Copy an open file into the spool.

        None if it changed meanwhile, or if its digest is not ``only``.
        """
        with _writing(self.folder), self._incoming() as (temporary, target):
            before = os.fstat(descriptor)
            # A known content has its digests in the entries that name it.
            parts = _hasher(before.st_size) if only is None else None
            sha256, size_bytes = _copy_bytes(descriptor, target, source, parts)
            after = os.fstat(descriptor)
            if _changed(before, after) or size_bytes != after.st_size or only not in {None, sha256}:
                return None
            announce(sha256)
            durable = durable or size_bytes > ALONE_BYTES_MAX
            path = self._store(temporary, target, sha256, durable=durable)
            return SpooledBlob(sha256, size_bytes, path, None if parts is None else parts.result())

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[tuple[Path, int]]:
        """Make a temporary file. Close it, and remove it unless it got a blob's name."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        target = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                files.hand_over(target, self.folder.parent)
                files.hand_over(self.folder, self.folder.parent)
                yield temporary, target
            finally:
                os.close(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _store(self, temporary: Path, target: int, sha256: str, *, durable: bool) -> Path:
        path = self.path_of(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.is_symlink():
            raise JournalWriteError(
                f"{path.parent} is a symbolic link; the artifact was not logged",
                hint="do not trust this journal; make a new one",
            )
        files.hand_over(path.parent, self.folder.parent)
        if durable or not _linked(temporary, path):
            # Replace a blob of that name, too: it may be damaged, or too old for ``collect``. An
            # earlier entry may need it, so only what is on the disk may take its place. Sync the
            # folders in any case: an earlier call may have failed to.
            os.fsync(target)
            temporary.replace(path)
            self._sync_folders(path)
        return path

    def _sync_folders(self, path: Path) -> None:
        for folder in (path.parent, self.folder, self.folder.parent):
            paths.fsync(folder)


def _unsynced(path: Path, error: OSError) -> JournalWriteError:
    return JournalWriteError(
        f"artifacts in {path} could not be written to the disk: {error.strerror}",
        hint="check the disk (dmesg), then log them again",
    )


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file its name. Return False if that is taken, or the file system has no links."""
    try:
        os.link(temporary, path)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[int]:
    try:
        # Without O_NONBLOCK a FIFO would block the training for ever.
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "check the path" if error.errno == errno.ENOENT else ""
        raise ArtifactError(f"{source} can't be logged: {error.strerror}", hint=hint) from error
    except ValueError as error:
        # A NUL, or another character that no file's name can have.
        raise ArtifactError(f"{source} can't be logged: {error}", hint="check the path") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtifactError(
                f"{source} can't be logged: it is not a regular file",
                hint="for a folder use Tracker.log_artifacts(directory), or pack it into one file",
            )
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _ending_clearly(source: Path) -> Iterator[None]:
    """Say that the file was not logged if an unexpected error ends the copy.

    For example: no memory, no thread, or a bug of ours.
    """
    try:
        yield
    except (JournaltrackError, OSError):
        raise
    except Exception as error:
        raise ArtifactError(
            f"{source} could not be copied: {type(error).__name__} {error}; it was not logged",
            hint="free memory, then log it again",
        ) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"the artifact could not be copied to {folder}: {error.strerror}; it was not logged"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise JournalFullError(text, hint="free space on that device") from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise JournalReadOnlyError(text, hint="make the journal's folder writable") from error
        raise JournalWriteError(text, hint="check the disk (dmesg)") from error


class _TargetError(Exception):
    """The copy can't be written.

    A failed read is an ``OSError``, too, but concerns the source and not the journal.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _hasher(size_bytes: int) -> PartHasher | None:
    """Return what hashes the parts of a file of that size; None if it goes in one piece."""
    return PartHasher(size_bytes) if size_bytes > IN_ONE_PIECE_BYTES_MAX else None


def _copy_bytes(source: int, target: int, path: Path, parts: PartHasher | None) -> tuple[str, int]:
    """Clone or copy a whole file, and return the digest and size of what was written.

    Args:
        source: Descriptor to read from.
        target: Descriptor to write to.
        path: The source's, for messages.
        parts: Gets all bytes of a large file. It hashes them on the thread that writes.
    """
    size_bytes = os.fstat(source).st_size
    hash_parts = parts.update if parts is not None else lambda _: None
    if _clone(source, target):
        if parts is None:
            return _read_all(target, size_bytes, lambda _: None)
        os.lseek(target, 0, os.SEEK_SET)
        with Copier() as copier:
            sha256 = copier.copy(target, os.fstat(target).st_size, hash_parts)
        return sha256, os.lseek(target, 0, os.SEEK_CUR)
    with _reading(path):
        # Read to the end, which may be beyond the stated size: files in /proc state 0.
        if size_bytes <= ALONE_BYTES_MAX:
            return _read_all(
                source, size_bytes, lambda view: _write(lambda data: write_all(target, data), view)
            )
        file = SteadyFile(target)

        def keep(view: memoryview) -> None:
            """Write a piece, and hash it for its part."""
            _write(file.write, view)
            hash_parts(view)

        try:
            with Copier() as copier:
                _write(file.reserve, size_bytes)
                os.lseek(source, 0, os.SEEK_SET)
                sha256 = copier.copy(source, size_bytes, keep)
            _write(lambda _: file.flush(), None)
        finally:
            file.close()
    return sha256, os.lseek(target, 0, os.SEEK_CUR)


def _read_all(
    descriptor: int, size_bytes: int, write: Callable[[memoryview], object]
) -> tuple[str, int]:
    """Pass a file's bytes to ``write``, and return their digest and number."""
    digest = hashlib.sha256()
    count = 0
    view = memoryview(bytearray(min(max(size_bytes + 1, _LOOK_BYTES), BUFFER_BYTES)))
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while read := file.readinto(view):
            digest.update(view[:read])
            write(view[:read])
            count += read
    return digest.hexdigest(), count


def _write(write: Callable[[T], object], data: T) -> None:
    try:
        write(data)
    except OSError as error:
        raise _TargetError(error) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise different errors for an unreadable source and an unwritable target."""
    try:
        yield
    except _TargetError as error:
        raise error.error from None
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be read to its end: {error.strerror}; it was not logged",
            hint="check the disk or mount that it is on",
        ) from error


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def _look_alike(one: int, other: int, size_bytes: int) -> bool:
    """Return whether two files of one size agree at their start, middle and end.

    Most files that differ, differ there.
    """
    places = (0, size_bytes // 2, max(0, size_bytes - _LOOK_BYTES))
    return all(
        os.pread(one, _LOOK_BYTES, place) == os.pread(other, _LOOK_BYTES, place) for place in places
    )


class _DifferentError(Exception):
    """Two files are not the same."""


def _is_same(
    source: int, held: int, size_bytes: int, path: Path, sha256: str, parts: PartHasher | None
) -> bool:
    """Return whether two files have the same bytes, and these have that digest.

    ``path`` is the source's, for messages. ``parts`` gets all bytes of a large file.
    """
    place = 0
    buffer = memoryview(bytearray(PIECE_BYTES))

    def compare(view: memoryview) -> None:
        """Compare bytes of the source with those at the same place of the other file."""
        nonlocal place
        count = os.preadv(held, [buffer[: len(view)]], place)
        if not are_equal(view, buffer[:count]):
            raise _DifferentError
        place += count
        if parts is not None:
            parts.update(view)

    os.lseek(source, 0, os.SEEK_SET)
    try:
        with _reading(path), Copier() as copier:
            return copier.copy(source, size_bytes, lambda view: _write(compare, view)) == sha256
    except _DifferentError:
        return False


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
