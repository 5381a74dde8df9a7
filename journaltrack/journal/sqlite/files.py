"""Open a journal's files safely, and tell who else has them open.

Who holds a POSIX lock on a file, asked without taking one (fcntl(2), F_GETLK), and who has a file open.

The asking process may have locks of its own on the file, which it keeps. Linux only; elsewhere nobody is seen.

What of a journal's folder may be opened, and who else can get at it.

A journal may come from somebody else. A symbolic link in the place of one of its files would have this process read or
write a file that is not the journal's; a FIFO would have it wait for ever. Only ``lstat`` is used on the database's files:
closing any descriptor of them drops this process's POSIX locks, and with them SQLite's protection. The folder itself may be
reached through links.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.errors import NotAJournalError
from journaltrack.journal.sqlite import claim, locks
from journaltrack.journal.sqlite.locks import SHARED_RANGE
from journaltrack.util import paths


def holder(path: Path, *, start: int = 0, length: int = 0) -> int | None:
    """The process that keeps others from write-locking these bytes; None: nobody, or it can't be told.

    Args:
        path: The file; a link is not followed.
        start: First byte.
        length: Bytes; 0: to the end of the file, however long it grows.

    Returns:
        Its pid; 0 when it runs on another machine or in another pid namespace.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        descriptor = locks.take(str(path), os.O_RDONLY)
    except OSError:
        return None
    try:
        asked = struct.pack(locks.FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        lock_type, _, _, _, pid = struct.unpack(locks.FLOCK, fcntl.fcntl(descriptor.number, fcntl.F_GETLK, asked))
    except OSError:
        return None
    finally:
        locks.give_back(descriptor)  # to close it could drop locks of this process
    return None if lock_type == fcntl.F_UNLCK else max(pid, 0)


def is_locked(path: Path, table: Path = Path("/proc/locks")) -> bool | None:
    """Whether anybody on this machine holds a lock on a file that need not be readable; None: that can't be told.

    Args:
        path: The file.
        table: The kernel's table of locks (proc(5)).
    """
    try:
        status = path.lstat()
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(place in line.split() for line in lines)


def having_open(path: Path) -> Iterator[int]:
    """The other processes of this user that have the file open, as far as /proc tells; opens nothing."""
    try:
        wanted = path.lstat()
    except FileNotFoundError:
        return
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and _has_open(process, wanted):
            yield int(process.name)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    """False also for a process that ends meanwhile, or is another user's."""
    with contextlib.suppress(OSError):
        for name in os.listdir(process / "fd"):  # noqa: PTH208 - names are all that is wanted
            with contextlib.suppress(OSError):
                if os.path.samestat((process / "fd" / name).stat(), wanted):
                    return True
    return False


logger = logging.getLogger(__name__)

LOCK_FILE: Final = "reconcile.lock"
_FILES: Final = (paths.DATABASE, *(f"{paths.DATABASE}-{kind}" for kind in ("wal", "shm", "journal")), LOCK_FILE, claim.FILE)
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_READ: Final = stat.S_IRGRP | stat.S_IROTH
_OTHERS_MAY_ENTER: Final = stat.S_IXGRP | stat.S_IXOTH

_warned: set[str] = set()


def check_files(folder: Path) -> None:
    """See that the journal's files are files, and its folders folders, as far as they are there; opens nothing.

    Raises:
        NotAJournalError: One of them is a link, FIFO or something else.
    """
    inside = os.fspath(folder)
    for name in _FILES:
        mode = _mode(f"{inside}/{name}")
        if mode is not None and not stat.S_ISREG(mode):
            raise _refused(folder / name, mode, "a regular file")
    for name in (paths.SPOOL, paths.WRITERS):
        mode = _mode(f"{inside}/{name}")
        if mode is not None and not stat.S_ISDIR(mode):
            raise _refused(folder / name, mode, "a folder")


def warn_if_exposed(folder: Path) -> None:
    """Log once per process and folder that others can read or change the journal."""
    if str(folder) in _warned:
        return
    found = exposure(folder)
    if found is not None:
        _warned.add(str(folder))
        logger.warning("%s", found)


def exposure(folder: Path) -> str | None:
    """Why others than this user can read or change the journal, and what to do; None if they can't, or it can't be told.

    File systems without permissions (FAT and its like) tell nothing. Root may open anybody's journal.
    """
    try:
        of_folder, of_database = folder.lstat(), (folder / paths.DATABASE).lstat()
        if stat.S_ISLNK(of_folder.st_mode):
            of_folder = folder.stat()
    except OSError:
        return None
    user = os.geteuid()
    what = None
    if user != 0 and {of_folder.st_uid, of_database.st_uid} != {user}:
        what = "belongs to another user, who can read and change it"
    elif of_folder.st_mode & _OTHERS_MAY_WRITE and not of_folder.st_mode & stat.S_ISVTX:
        what = "is in a folder that other users can write to: they can replace it"
    elif of_folder.st_mode & _OTHERS_MAY_ENTER and of_database.st_mode & _OTHERS_MAY_WRITE:
        what = "can be changed by other users"
    elif of_folder.st_mode & _OTHERS_MAY_ENTER and of_database.st_mode & _OTHERS_MAY_READ:
        what = "can be read by other users"
    if what is None or paths.has_no_permissions(folder):
        return None
    return f"the journal at {folder} {what}; make it yours alone: chmod -R go= {folder}"


@contextlib.contextmanager
def opened_blob(path: Path) -> Iterator[int]:
    """A descriptor of a blob ``<spool>/<two digits>/<digest>``, for reading; no link is followed below the spool's parent.

    What is checked and what is sent are the same file, whatever happens to the name meanwhile.

    Raises:
        OSError: It is not there, or something on the way to it is a link.
        ValueError: It is not a regular file.
    """
    opened: list[int] = []
    try:
        parent = os.open(path.parents[2], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(parent)
        for name in (path.parents[1].name, path.parent.name):
            parent = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            opened.append(parent)
        # Without O_NONBLOCK a FIFO would be waited for.
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        opened.append(file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            msg = "it is not a regular file"
            raise ValueError(msg)
        yield file
    finally:
        for descriptor in opened:
            os.close(descriptor)


def hand_over(file: int | Path, folder: Path) -> None:
    """Give what was just made in a journal to whom its folder belongs, if it was root who made it.

    One `sudo journaltrack sync` would else leave files that keep the user from delivering ever after. SQLite does the same for its own.
    A file of several names stays whose it is: another of them may be anywhere.

    Args:
        file: A descriptor, or the path of what is no link.
        folder: The journal's.
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # a file system without owners
        owner = folder.stat()
        status = os.fstat(file) if isinstance(file, int) else file.lstat()
        if status.st_uid == owner.st_uid or not (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)):
            return
        if isinstance(file, int):
            os.fchown(file, owner.st_uid, owner.st_gid)
        else:
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)


def of_others(folder: Path) -> list[Path]:
    """The journal's own files that belong to somebody else than its folder does."""
    found = []
    for name in _FILES:
        with contextlib.suppress(OSError):
            if (folder / name).lstat().st_uid != folder.stat().st_uid:
                found.append(folder / name)
    return found


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode  # this is done at every opening: a Path costs as much again
    except OSError:  # not there, or nothing that can be looked at: opening it will say so
        return None


def _refused(path: Path, mode: int, wanted: str) -> NotAJournalError:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
    return NotAJournalError(
        f"{path} is {kind}, not {wanted}; nothing was opened",
        hint="a journal's own files are never links: if you did not make it, do not trust this journal; "
        "to keep a journal elsewhere, link or mount its whole folder",
    )


def held_open(journal: Path) -> bool:
    """Return whether some process on this machine has the journal open with SQLite: then it is in use here, and not a copy.

    False where the system does not tell.
    """
    start, length = SHARED_RANGE
    return holder(journal / paths.DATABASE, start=start, length=length) is not None
