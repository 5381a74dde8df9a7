"""The file that a bundle is written to, until it is whole: ``NAME.partial``.

Invariants: only what belongs to the same journal is ever overwritten; what a killed run left is used again only as far as its bytes
are proved by the digests in it; the target's name is given to a whole file that is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack._version import __version__
from journaltrack.errors import BundleDamagedError, BundleError, BundleTooNewError, InvalidInputError
from journaltrack.journal.spool.copy import Copier, SteadyFile
from journaltrack.transfer.bundle import layout as layouts
from journaltrack.transfer.bundle.layout import BLOCK_BYTES, Layout, Manifest, Member
from journaltrack.util import paths

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from journaltrack.transfer.bundle.snapshot import Snapshot

SUFFIX: Final = ".partial"
_AGAIN: Final = "what is written so far is kept: run the same command again, and it goes on there"
_HINTS: Final = {
    errno.ENOSPC: f"free space there; {_AGAIN}",
    errno.EDQUOT: f"free space there; {_AGAIN}",
    errno.EFBIG: "this file system takes no file of that size (FAT32 ends at 4 GiB): use one that does, such as exFAT or ext4",
    errno.EROFS: "name a file where you can write",
    errno.EACCES: "name a file where you can write",
}


class Partial:
    """The unfinished bundle of one target, locked against other processes; use it as a context manager.

    Args:
        target: What the file will be called when it is whole.
        copier: Hashes and copies.

    Raises:
        BundleError: It can't be opened, or another process writes it.
    """

    def __init__(self, target: Path, copier: Copier) -> None:
        self.target = target
        self.path = target.with_name(target.name + SUFFIX)
        self._copier = copier
        with self.explained():
            self._descriptor = _opened(self.path)
        self._file = SteadyFile(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close it; a file in which nothing was written goes."""
        self._file.close()
        if os.fstat(self._descriptor).st_size == 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Says in our words what the disk refuses."""
        try:
            yield
        except OSError as error:
            raise BundleError(
                f"{self.path} can't be written: {error.strerror}", hint=_HINTS.get(error.errno or 0, f"check the disk (dmesg); {_AGAIN}")
            ) from error

    def left(self, journal_id: str, *, restart: bool) -> Manifest | None:
        """The manifest of what an earlier run has left; None when nothing of use is there.

        Args:
            journal_id: Whose bundle it has to be.
            restart: Use nothing of it.

        Raises:
            InvalidInputError: The file is another journal's, or nothing of ours. It was left as it is.
        """
        begin = os.pread(self._descriptor, BLOCK_BYTES + layouts.HEAD_BYTES, 0)
        whose = layouts.journal_id_in(begin[BLOCK_BYTES:]) if layouts.is_first(begin) else None
        if whose is None and not restart and not (layouts.is_first(begin) and len(begin) < BLOCK_BYTES + layouts.HEAD_BYTES):
            raise self._refused("is no unfinished bundle", "replace it with --restart, or name another file")
        if whose not in {None, journal_id}:
            raise self._refused(
                f"is the unfinished bundle of another journal ({whose})", "finish that one, delete it, or name another file"
            )
        size_bytes = layouts.manifest_size(begin)
        if restart or size_bytes is None:
            return None
        try:
            manifest = layouts.decode(os.pread(self._descriptor, size_bytes, BLOCK_BYTES), reader_version=__version__)
        except BundleTooNewError as error:
            raise self._refused("was begun by a newer journaltrack", "finish it with that one, or replace it with --restart") from error
        except BundleDamagedError:
            return None
        return manifest

    def _refused(self, what: str, hint: str) -> InvalidInputError:
        return InvalidInputError(f"{self.path} {what}; it was left as it is", hint=hint)

    def resume(self, layout: Layout, tell: Callable[[int], object]) -> Member | None:
        """The last member that is whole, at whose end writing goes on; None when not even the snapshot is.

        Args:
            layout: Of the bundle that was begun.
            tell: Told how many bytes were found to be whole.
        """
        # What was written and never reached the disk would be read back from memory, which proves nothing of the disk.
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
            if hasattr(os, "posix_fadvise"):  # macOS has none
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        last = None
        for member in layout.members():
            if not self._whole(layout, member, tell):
                break
            last = member
        if last is None or last.offset < layout.database.offset:
            return None
        os.ftruncate(self._descriptor, last.end)
        os.lseek(self._descriptor, last.end, os.SEEK_SET)
        return last

    def _whole(self, layout: Layout, member: Member, tell: Callable[[int], object]) -> bool:
        try:
            if os.pread(self._descriptor, BLOCK_BYTES, member.offset) != layout.header(member):
                return False
            os.lseek(self._descriptor, member.content_offset, os.SEEK_SET)
            found = self._copier.digest(self._descriptor, member.size_bytes, lambda view: tell(len(view)))
            padding = os.pread(self._descriptor, len(member.padding), member.content_end)
        except OSError:  # what can't be read is written again
            return False
        return (found, padding) == (member.sha256, member.padding)

    def start(self, layout: Layout, taken: Snapshot, tell: Callable[[int], object]) -> None:
        """Write the manifest and the database, and wait until they are on the disk: all that comes later can be found again by them.

        Raises:
            BundleError: There is no room for the whole bundle, or the disk refuses it.
        """
        with self.explained():
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            largest = paths.file_bytes_max(self.target.parent)
            if largest is not None and layout.size_bytes > largest:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # now, and not after 4 GiB on a slow stick
            room = os.fstatvfs(self._descriptor)
            if room.f_bavail * room.f_frsize < layout.size_bytes:
                free = room.f_bavail * room.f_frsize
                raise BundleError(
                    f"the bundle takes {layout.size_bytes} bytes, and in {self.target.parent} {free} are free; nothing was written",
                    hint="free space there, or name a file on another disk",
                )
            first = next(layout.members())
            self._file.write(layout.header(first) + layout.manifest_bytes + first.padding)
            self.add(layout, layout.database, taken.descriptor, tell)
            self._file.flush()

    def add(self, layout: Layout, member: Member, source: int, tell: Callable[[int], object]) -> str:
        """Write a member whose bytes are those of a file from its position on; returns their digest.

        If that is not the member's, what is in the file from the member's place on is worthless.
        """
        with self.explained():
            self._file.write(layout.header(member))

        def write(view: memoryview) -> None:
            with self.explained():
                self._file.write(view)
            tell(len(view))

        sha256 = self._copier.copy(source, member.size_bytes, write)
        with self.explained():
            self._file.write(member.padding)
        return sha256

    def finish(self, layout: Layout, *, force: bool) -> None:
        """Write the end, wait until all is on the disk, and give the file its name.

        Raises:
            BundleError: The disk refuses it.
            InvalidInputError: Somebody has made a file of that name meanwhile.
        """
        sums = layout.sums
        with self.explained():
            os.ftruncate(self._descriptor, sums.offset)
            os.lseek(self._descriptor, sums.offset, os.SEEK_SET)
            self._file.write(layout.header(sums) + layout.sums_bytes + sums.padding + layouts.END)
            self._file.flush()
            if force:
                self.path.replace(self.target)
            else:
                self._put()
            paths.fsync(self.target.parent)

    def _put(self) -> None:
        """Name the file, unless somebody has made one of that name meanwhile."""
        try:
            os.link(self.path, self.target)
        except FileExistsError as error:
            raise exists(self.target) from error
        except OSError:  # a file system without links
            if os.path.lexists(self.target):
                raise exists(self.target) from None
            self.path.rename(self.target)
        else:
            self.path.unlink()


def exists(target: Path) -> InvalidInputError:
    """The error that leaves a file as it is."""
    return InvalidInputError(f"{target} exists; it was left as it is", hint="name another file, or replace it with --force (force=True)")


def _opened(path: Path) -> int:
    """A descriptor of the file, made if it is not there, locked.

    Raises:
        OSError: It can't be.
        InvalidInputError, BundleError: It is not a regular file, or another process writes it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInputError(f"{path} is not a file; it was left as it is", hint="name another file")  # noqa: TRY301
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BundleError(f"another process writes {path} now", hint="wait for it, or name another file") from error
            except OSError:
                pass  # a file system without locks
            with contextlib.suppress(FileNotFoundError):
                now, own = os.lstat(path), os.fstat(descriptor)
                if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                    if own.st_nlink == 1:
                        os.fchmod(descriptor, 0o600)  # whatever the umask
                        return descriptor
                    path.unlink()  # a whole bundle, of a run that was killed when it had just named it: that name is not this one's
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process has just finished it, and given it its name
