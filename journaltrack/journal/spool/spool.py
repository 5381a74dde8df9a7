"""The spool: artifact bytes waiting to be uploaded, stored once per content under their SHA-256.

Invariants: a file named by a digest is whole and on the disk (it gets its name after an fsync); nothing but whole blobs and
temporary files (of processes that add or remove, of uploads under way) is in the folder; no path outside of it is ever opened
for a digest.
Must not know the journal's tables or any remote.

Bytes are hashed and written side by side (``copy``). A content that is there already is not written again: the file is compared
with the blob byte by byte while it is hashed, which proves the blob, too.

A limit for the spool: delivered artifacts make room, the oldest first, and if that is not enough the call fails.

Nothing that is not delivered is ever removed, and no artifact is left out in silence. Must not know the lease or SQL: making room
is handed in by ``composition``.

What the spool takes on the disk, and which contents something undelivered needs. Reads alone; must not know how they are removed.
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
from journaltrack.journal.spool.copy import ALONE_BYTES_MAX, Copier, SteadyFile, are_equal, write_all
from journaltrack.journal.spool.copy import BUFFER_BYTES as PIECE_BYTES
from journaltrack.journal.sqlite import files
from journaltrack.util import paths
from journaltrack.util.digest import digest_of, is_digest

if TYPE_CHECKING:
    from collections.abc import Collection

    from journaltrack.journal.sqlite.connection import Database


def admit(spool: Spool, file: Path, max_bytes: int, make_room: Callable[[int], int] | None) -> None:
    """See that a file fits into the spool.

    Several processes that log at the same moment may go beyond the limit by what each of them logs.

    Args:
        spool: Where it goes.
        file: What is to be logged.
        max_bytes: Of all files in the spool.
        make_room: Removes delivered contents until so many bytes are free; returns how many it freed.

    Raises:
        JournalFullError: It does not fit. Nothing was copied.
    """
    try:
        wanted = os.stat(file).st_size  # noqa: PTH116
    except (OSError, ValueError):  # also a NUL in the path
        return  # copying it says what is wrong
    excess = spool_use(spool.folder).size_bytes + wanted - max_bytes
    if excess <= 0:
        return
    if make_room is not None and wanted <= max_bytes:
        excess -= make_room(excess)
    if excess > 0 and not spool.holds(file):
        raise JournalFullError(
            f"{file} ({wanted} bytes) was not logged: with it the spool at {spool.folder} would be {excess} bytes over its limit of {max_bytes}",
            hint="`journaltrack sync` delivers what waits, and then makes room; or raise spool_max_bytes",
        )


_NEEDED: Final = (  # above the mark, and through the index on problems: nothing of what was delivered is read
    f"SELECT json_extract(e.payload, '$.sha256') {queries.PENDING} AND e.stream = 'upload' AND json_valid(e.payload) "
    "UNION SELECT json_extract(e.payload, '$.sha256') {} "
    f"WHERE {PROBLEM} AND e.stream <> 'metric' AND e.stream = 'upload' AND json_valid(e.payload)"
)


_OF_SIZE: Final = "SELECT sha256 FROM blob WHERE size_bytes = ? ORDER BY spooled_at_ns DESC LIMIT 8"
"""Reads the whole table, which has a row per content: 3 ms for 100,000, where the alternative is to write a file of a megabyte or more."""


@dataclass(frozen=True, slots=True)
class SpoolUse:
    """Regular files in the spool: how many, their bytes, and the bytes of contents that nothing undelivered needs."""

    files: int = 0
    size_bytes: int = 0
    delivered_bytes: int = 0


def needed_blobs(database: Database) -> set[str]:
    """Contents of uploads that are pending, in flight, in doubt or quarantined; costs what is not delivered."""
    return {sha256 for (sha256,) in database.read(_NEEDED.format(queries.of_problems(database))) if isinstance(sha256, str)}


def blobs_of_size(database: Database, size_bytes: int) -> list[str]:
    """Contents of that many bytes that the spool holds or held, the newest first; a few at most."""
    return [sha256 for (sha256,) in database.read(_OF_SIZE, (size_bytes,)) if is_digest(sha256)]


def spool_use(spool: Path, wanted: Collection[str] = ()) -> SpoolUse:
    """One look at every file, no link followed.

    Args:
        spool: The folder.
        wanted: Contents that something undelivered needs.
    """
    files = size = delivered = 0
    for parent, _, names in os.walk(spool):
        on_its_way = Path(parent) == spool
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except OSError:
                continue  # an upload's temporary file, or somebody removes it
            if stat.S_ISREG(status.st_mode):
                files += 1
                size += status.st_size
                delivered += 0 if on_its_way or name in wanted else status.st_size
    return SpoolUse(files, size, delivered)


T = TypeVar("T")

BUFFER_BYTES: Final = 1024 * 1024
TRIES: Final = 3
"""Copies made of a file that keeps changing, before giving up."""
COMPARED_BYTES_MIN: Final = 1024 * 1024
"""From here on a blob of the same size is looked at before a file is copied: for less, asking costs as much as it saves."""
_LOOK_BYTES: Final = 4096
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2): share the blocks where the file system can
TEMPORARY: Final = "incoming-"
"""How the names of files begin that are on their way into the spool, or out of it."""


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """Bytes in the spool; ``sha256`` in hexadecimal."""

    sha256: str
    size_bytes: int
    path: Path


class Spool:
    """A folder of blobs.

    Args:
        folder: Made at the first ``add``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        file_path: str | os.PathLike[str],
        announce: Callable[[str], None] = lambda _: None,
        of_size: Callable[[int], Iterable[str]] = lambda _: (),
    ) -> SpooledBlob:
        """Keep the bytes of a file as they are now.

        Args:
            file_path: The file.
            announce: Called with the digest before the blob gets its name: nobody may take it for old from then on.
            of_size: Digests of some contents of that many bytes, which the spool may hold: if the file's is one of them, nothing is written.

        Raises:
            ArtifactError: The file is missing, is not a regular file, can't be read, or changed during each of
                ``TRIES`` copies.
            JournalFullError: No space is left for the copy.
            JournalReadOnlyError: The spool can't be written.
        """
        source = Path(file_path)
        for _ in range(TRIES):
            with _opened(source) as descriptor, _ending_clearly(source):
                blob = self._held(descriptor, source, announce, of_size) or self._copy_open(descriptor, source, announce=announce)
            if blob is not None:
                return blob
        raise ArtifactError(
            f"{source} changed while it was copied, {TRIES} times; it was not logged",
            hint="log it when its writer is done, or write to a temporary name and rename",
        )

    def take_over(self, other: Path, sha256: str, size_bytes: object) -> SpooledBlob | None:
        """Keep a blob of another spool too, verified while it is copied; no link is followed there. None: it is missing or damaged.

        One that is larger than was recorded is damaged, and not read: a sparse file would fill this disk.

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
        """Where the blob of that digest is, or would be.

        Raises:
            InvalidInputError: Not a SHA-256 in lower-case hexadecimal.
        """
        if not is_digest(sha256):
            raise InvalidInputError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal")
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether a regular file (not a link) is there for the digest."""
        try:
            return stat.S_ISREG(self.path_of(sha256).lstat().st_mode)
        except OSError:
            return False

    def holds(self, file_path: Path) -> bool:
        """Whether the bytes of that file are in the spool already; reads all of it."""
        with _opened(file_path) as descriptor:
            return self.has(digest_of(functools.partial(os.read, descriptor)))

    def verify(self, sha256: str) -> bool:
        """Whether the blob is there and its bytes have that digest; reads all of it."""
        if not self.has(sha256):
            return False
        try:
            with files.opened_blob(self.path_of(sha256)) as descriptor:
                return digest_of(functools.partial(os.read, descriptor)) == sha256
        except (OSError, ValueError):
            return False

    def collect(self, known: Callable[[str], bool], *, older_than_s: float = 3600.0, now: Callable[[], float] = time.time) -> list[Path]:
        """Remove what no entry names: blobs and temporary files left by a kill.

        Args:
            known: Whether an entry names the digest.
            older_than_s: Grace time, seconds: a file may be about to get its entry.
            now: Seconds since the epoch.

        Returns:
            What was removed.
        """
        removed = []
        for path in sorted(self.folder.glob("**/*")):
            with contextlib.suppress(FileNotFoundError):  # another process collects, or an add is done with its temporary file
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) or now() - status.st_mtime < older_than_s:
                    continue
                if path.name.startswith(TEMPORARY) or not known(path.name):
                    path.unlink()
                    removed.append(path)
        return removed

    def _held(
        self, descriptor: int, source: Path, announce: Callable[[str], None], of_size: Callable[[int], Iterable[str]]
    ) -> SpooledBlob | None:
        """The blob that has the very bytes of an open file; None if there is none, or one of both changed meanwhile."""
        before = os.fstat(descriptor)
        if before.st_size < COMPARED_BYTES_MIN:
            return None
        for sha256 in of_size(before.st_size):
            with contextlib.suppress(OSError, ValueError), files.opened_blob(self.path_of(sha256)) as held:
                status = os.fstat(held)
                if status.st_size != before.st_size or not _look_alike(descriptor, held, before.st_size):
                    continue
                if not _is_same(descriptor, held, before.st_size, source, sha256) or _changed(before, os.fstat(descriptor)):
                    return None
                os.fsync(held)  # whoever put it there
                announce(sha256)
                os.utime(held)  # a new grace time in ``collect``
                path = self.path_of(sha256)
                now = path.lstat()
                if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
                    return None  # it was removed before it was announced
                self._sync_folders(path)
                return SpooledBlob(sha256, status.st_size, path)
        return None

    def _copy_open(
        self, descriptor: int, source: Path, *, only: str | None = None, announce: Callable[[str], None] = lambda _: None
    ) -> SpooledBlob | None:
        """One copy of an open file; None if it changed meanwhile, or has not the digest that is wanted."""
        with _writing(self.folder):
            before = os.fstat(descriptor)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self.folder / f"{TEMPORARY}{uuid.uuid4().hex}"
            target = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            files.hand_over(target, self.folder.parent)
            files.hand_over(self.folder, self.folder.parent)
            try:
                try:
                    sha256, size_bytes = _copy_bytes(descriptor, target, source)
                    after = os.fstat(descriptor)
                    if _changed(before, after) or size_bytes != after.st_size or only not in {None, sha256}:
                        return None
                    os.fsync(target)
                finally:
                    os.close(target)
                announce(sha256)
                return SpooledBlob(sha256, size_bytes, self._store(temporary, sha256))
            finally:
                temporary.unlink(missing_ok=True)

    def _store(self, temporary: Path, sha256: str) -> Path:
        # Also over a blob of that name: it may be damaged, and its age may be past the grace time of ``collect``. Also then the
        # folders are waited for: an earlier call may have failed to.
        path = self.path_of(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.is_symlink():
            raise JournalWriteError(
                f"{path.parent} is a symbolic link; nothing was written to where it points",
                hint="do not trust this journal; make a new one",
            )
        files.hand_over(path.parent, self.folder.parent)
        temporary.replace(path)
        self._sync_folders(path)
        return path

    def _sync_folders(self, path: Path) -> None:
        for folder in (path.parent, self.folder, self.folder.parent):
            paths.fsync(folder)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[int]:
    try:
        # Without O_NONBLOCK a FIFO would block the training for ever.
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "check the path" if error.errno == errno.ENOENT else ""
        raise ArtifactError(f"{source} can't be logged: {error.strerror}", hint=hint) from error
    except ValueError as error:  # a NUL, or a character that no file's name can have
        raise ArtifactError(f"{source} can't be logged: {error}", hint="check the path") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtifactError(f"{source} can't be logged: it is not a regular file", hint="for a folder use log_artifacts(directory)")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _ending_clearly(source: Path) -> Iterator[None]:
    """Say what is not recorded, whatever ended the copy: no memory, no thread, a fault of ours."""
    try:
        yield
    except (JournaltrackError, OSError):
        raise
    except Exception as error:
        raise ArtifactError(
            f"{source} could not be copied: {type(error).__name__} {error}; it was not logged", hint="log it again; free memory first"
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
    """The copy can't be written; a read that fails is an ``OSError`` too, and not the journal's fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _copy_bytes(source: int, target: int, path: Path) -> tuple[str, int]:
    """Clone or copy everything; digest and size of what was written. ``path`` is the source's, for messages."""
    size_bytes = os.fstat(source).st_size
    if _clone(source, target):
        return _read_all(target, size_bytes, lambda _: None)
    with _reading(path):
        if size_bytes <= ALONE_BYTES_MAX:  # to its end, which may be further on: what /proc holds has no size
            return _read_all(source, size_bytes, lambda view: _write(lambda data: write_all(target, data), view))
        file = SteadyFile(target)
        try:
            with Copier() as copier:
                _write(file.reserve, size_bytes)
                os.lseek(source, 0, os.SEEK_SET)
                sha256 = copier.copy(source, size_bytes, lambda view: _write(file.write, view))
            _write(lambda _: file.flush(), None)
        finally:
            file.close()
    return sha256, os.lseek(target, 0, os.SEEK_CUR)


def _read_all(descriptor: int, size_bytes: int, write: Callable[[memoryview], object]) -> tuple[str, int]:
    """Hand a file's bytes to ``write``; their digest and how many there were."""
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
    """Tell a source that can't be read from a target that can't be written."""
    try:
        yield
    except _TargetError as error:
        raise error.error from None
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be read to its end: {error.strerror}; it was not logged", hint="check the disk or mount that it is on"
        ) from error


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def _look_alike(one: int, other: int, size_bytes: int) -> bool:
    """Whether two files of a size have the same bytes at their begin, in the middle and at their end: most that differ, differ there."""
    places = (0, size_bytes // 2, max(0, size_bytes - _LOOK_BYTES))
    return all(os.pread(one, _LOOK_BYTES, place) == os.pread(other, _LOOK_BYTES, place) for place in places)


class _DifferentError(Exception):
    """Two files are not the same."""


def _is_same(source: int, held: int, size_bytes: int, path: Path, sha256: str) -> bool:
    """Whether two files have the same bytes, and these that digest. ``path`` is the source's, for messages."""
    place = 0
    buffer = memoryview(bytearray(PIECE_BYTES))

    def compare(view: memoryview) -> None:
        nonlocal place
        count = os.preadv(held, [buffer[: len(view)]], place)
        if not are_equal(view, buffer[:count]):
            raise _DifferentError
        place += count

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
