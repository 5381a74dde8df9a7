"""Read and write whole files on a file system that several machines share.

Such a file system promises little: no locks, no mapped memory, stale listings, files that lose what
was never synced. So nothing is needed here but whole files. Each is written under a hidden name,
synced, and renamed; the folder is synced then. Nothing is opened through a link. Rights follow the
mirror's own folder: who may read that may read its files.

Must not know where a mirror has which file (``folders``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.errors import MirrorError, os_hint
from journaltrack.journal.spool.copy import write_all
from journaltrack.util import paths

_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATING: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Tell errors of the block's file system as errors of the mirror.

    Args:
        path: The file.
        what: What can't be done with it.

    Raises:
        MirrorError: The block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise MirrorError(
            f"{path} can't be {what}: {error.strerror}; the journal has everything",
            hint=os_hint(error) or "mirror again when the file system is back",
        ) from error


def content(file: Path, bytes_max: int) -> bytes | None:
    """Return a file's bytes; None if it is not there, is no file, or is larger.

    Raises:
        OSError: It can't be read.
    """
    try:
        descriptor = os.open(file, _READING)
    except OSError as error:
        # Nothing is there, or a link.
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(bytes_max)


def names(folder: Path) -> list[str]:
    """List a folder. One that is not there is empty: it may not be visible yet.

    Raises:
        MirrorError: It can't be read.
    """
    with explained(folder, "listed"):
        try:
            return os.listdir(folder)  # noqa: PTH208 - only names are needed
        except (FileNotFoundError, NotADirectoryError):
            return []


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, without links to some.

    Raises:
        MirrorError: It can't be read.
    """
    with explained(folder, "listed"):
        try:
            with os.scandir(folder) as entries:
                return [each.name for each in entries if each.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []


def has_file(file: Path, size_bytes: int) -> bool:
    """Return whether a regular file of that size is there."""
    try:
        status = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes


def is_folder(path: Path) -> bool:
    """Return whether a folder is there. A link is none: it may lead anywhere.

    Raises:
        OSError: Nobody can tell.
    """
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_at(folder: int, path: Path) -> bool:
    """Return whether an open folder is what a path names."""
    try:
        return os.path.samestat(os.fstat(folder), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_folder(folder: Path, mirror: Path) -> None:
    """Make a folder below the mirror's, and sync its name.

    Raises:
        OSError: It can't be made, or the mirror is gone.
    """
    if folder == mirror or is_folder(folder):
        return
    make_folder(folder.parent, mirror)
    try:
        folder.mkdir()
        folder.chmod(stat.S_IMODE(mirror.stat().st_mode) & 0o2777)
    except FileExistsError:
        # Another machine may have made it where this one does not see it yet.
        if os.path.lexists(folder) and not is_folder(folder):
            raise
    paths.fsync(folder.parent)


@contextlib.contextmanager
def created(file: Path, mirror: Path) -> Iterator[int]:
    """Create a file for the block, with the rights of the mirror's folder, and sync it.

    Raises:
        OSError: It can't be written.
    """
    mode = stat.S_IMODE(mirror.stat().st_mode) & 0o666
    descriptor = os.open(file, _CREATING, mode)
    try:
        # The process's umask took rights away, or a default ACL gave some.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, data: bytes, mirror: Path, folder: int | None = None) -> None:
    """Write a file under a hidden name, sync it, and give it its name.

    Args:
        file: Its place.
        data: Its content.
        mirror: The folder whose rights it gets.
        folder: The file's folder, if it is open.

    Raises:
        OSError: It can't be written. Nothing has its name, unless the error came after that.
    """
    partial = file.with_name(f".{file.name}.{os.urandom(4).hex()}.partial")
    try:
        with created(partial, mirror) as descriptor:
            write_all(descriptor, memoryview(data))
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if folder is None:
        paths.fsync(file.parent)
    else:
        os.fsync(folder)


def replace_whole(file: Path, data: bytes, mirror: Path) -> None:
    """Write a small file whole, in place of the one before. It need not survive a crash.

    Raises:
        OSError: It can't be written.
    """
    with (
        paths.whole(file, durable=False) as partial,
        created(partial, mirror) as descriptor,
    ):
        write_all(descriptor, memoryview(data))


def put_new(file: Path, data: bytes, mirror: Path) -> bool:
    """Write a file unless there is one of that name; of several processes, one succeeds.

    A link is made by the server in one step, whatever this machine has cached. If its answer was
    lost, the file's own content tells.

    Args:
        file: Its place.
        data: Its content, which no other process writes.
        mirror: The folder whose rights it gets.

    Returns:
        Whether the file is ours.

    Raises:
        OSError: It can't be written.
    """
    partial = file.with_name(f".{file.name}.{os.urandom(4).hex()}.partial")
    try:
        with created(partial, mirror) as descriptor:
            write_all(descriptor, memoryview(data))
        try:
            os.link(partial, file)
        except FileExistsError:
            return content(file, len(data)) == data
        except OSError:
            # The file system has no links.
            try:
                with created(file, mirror) as descriptor:
                    write_all(descriptor, memoryview(data))
            except FileExistsError:
                return False
    finally:
        partial.unlink(missing_ok=True)
    paths.fsync(file.parent)
    return True


def now_ns(folder: Path, mirror: Path) -> int:
    """Return what time it is for the file system: that of a file that was written there now.

    Raises:
        OSError: Nothing can be written there.
    """
    partial = folder / f".{os.urandom(8).hex()}.partial"
    try:
        with created(partial, mirror) as descriptor:
            write_all(descriptor, memoryview(b"now"))
            os.fsync(descriptor)
            return os.fstat(descriptor).st_mtime_ns
    finally:
        partial.unlink(missing_ok=True)
