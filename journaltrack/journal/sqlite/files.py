"""Open a journal's files safely, and tell who else has them open.

A journal may come from somebody else. A symbolic link in the place of one of its files would make
this process read or write a file outside the journal. A FIFO would block it for ever. So
``check_files`` refuses both before anything is opened. The folder itself may be reached through
links.

Closing any descriptor of a file drops the POSIX locks that this process has on it, and with them
SQLite's protection. So the database's files are looked at with ``lstat`` only. ``holder`` opens
them, but closes none that this process uses (``locks``): the process keeps its locks.

``holder`` asks for a POSIX lock without taking one (fcntl(2), F_GETLK). It works on Linux only;
elsewhere it finds nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.errors import NotAJournalError
from journaltrack.journal.sqlite import claim, locks
from journaltrack.journal.sqlite.locks import SHARED_RANGE
from journaltrack.util import paths

_TICK_NS: Final = 3_000_000_000
"""Ours: FAT tells times of changes by 2 s, other file systems by milliseconds or less."""


def holder(path: Path, *, start: int = 0, length: int = 0) -> int | None:
    """Return the process whose lock prevents a write lock on these bytes.

    Args:
        path: The file. A link is not followed.
        start: First byte.
        length: Number of bytes. 0 means to the end of the file, however long it grows.

    Returns:
        Its pid; 0 if it runs on another machine or in another pid namespace; None if there is no
        such process, or the system does not tell.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        descriptor = locks.take(str(path), os.O_RDONLY)
    except OSError:
        return None
    try:
        asked = struct.pack(locks.FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        lock_type, _, _, _, pid = struct.unpack(
            locks.FLOCK, fcntl.fcntl(descriptor.number, fcntl.F_GETLK, asked)
        )
    except OSError:
        return None
    finally:
        # Closing it here could drop locks of this process.
        locks.give_back(descriptor)
    return None if lock_type == fcntl.F_UNLCK else max(pid, 0)


def is_locked(path: Path, table: Path = Path("/proc/locks")) -> bool | None:
    """Return whether a process on this machine holds a lock on the file.

    None if the system does not tell.

    Args:
        path: The file. It need not be readable.
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
    """Yield the pids of this user's other processes that have the file open.

    /proc tells, as far as it can. The file itself is not opened.
    """
    try:
        wanted = path.lstat()
    except FileNotFoundError:
        return
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and _has_open(process, wanted):
            yield int(process.name)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    """Return whether the process has the file open.

    False also for a process that ends meanwhile, or that belongs to another user.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(process / "fd"):  # noqa: PTH208 - only names are needed
            with contextlib.suppress(OSError):
                if os.path.samestat((process / "fd" / name).stat(), wanted):
                    return True
    return False


logger = logging.getLogger(__name__)

LOCK_FILE: Final = "reconcile.lock"
_FILES: Final = (
    paths.DATABASE,
    *(f"{paths.DATABASE}-{kind}" for kind in ("wal", "shm", "journal")),
    LOCK_FILE,
    claim.FILE,
)
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
    """Check that the journal's files are regular files and its folders are folders.

    Opens nothing. A missing file is no error.

    Raises:
        NotAJournalError: One of them is a link, a FIFO or something else.
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


def stamp(database: Path) -> tuple[int, ...] | None:
    """Return what changes with a database's content; None while it has a log or a journal."""
    try:
        found = os.lstat(database)
    except OSError:
        return None
    if _has_bytes(f"{database}-wal") or _has_bytes(f"{database}-journal"):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def at_rest(database: Path) -> tuple[int, ...] | None:
    """Return the stamp of a database that nobody writes now; None if somebody may.

    It can be read without locks. If its stamp is the same afterwards, nobody wrote it meanwhile: a
    transaction is in a log, or it has changed the file. The stamp must be so old that a change
    gives another one. A file server may tell of changes late.
    """
    found = stamp(database)
    if found is None or not time.time_ns() - max(found[-2:]) >= _TICK_NS:
        return None
    try:
        return None if paths.network_file_system(database.parent) else found
    except OSError:
        return None


def warn_if_exposed(folder: Path) -> None:
    """Log once per process and folder that others can read or change the journal."""
    if str(folder) in _warned:
        return
    found = exposure(folder)
    if found is not None:
        _warned.add(str(folder))
        logger.warning("%s", found)


def exposure(folder: Path) -> str | None:
    """Return why other users can read or change the journal, and what to do.

    Returns:
        None if they can't, or if the file system has no permissions (FAT). Another owner is no
        reason for root.
    """
    try:
        of_folder, of_database = folder.lstat(), (folder / paths.DATABASE).lstat()
        if stat.S_ISLNK(of_folder.st_mode):
            of_folder = folder.stat()
    except OSError:
        return None
    user = os.geteuid()
    what = None
    foreign = user != 0 and {of_folder.st_uid, of_database.st_uid} != {user}
    if foreign:
        what = "belongs to another user, who can read and change it"
    elif of_folder.st_mode & _OTHERS_MAY_WRITE and not of_folder.st_mode & stat.S_ISVTX:
        what = "is in a folder that other users can write to: they can replace it"
    elif of_folder.st_mode & _OTHERS_MAY_ENTER and of_database.st_mode & _OTHERS_MAY_WRITE:
        what = "can be changed by other users"
    elif of_folder.st_mode & _OTHERS_MAY_ENTER and of_database.st_mode & _OTHERS_MAY_READ:
        what = "can be read by other users"
    if what is None or paths.has_no_permissions(folder):
        return None
    # Only the owner can change permissions.
    remedy = (
        "use one of your own"
        if foreign
        else f"make it yours alone: chmod -R go= {shlex.quote(os.fspath(folder))}"
    )
    return f"the journal at {folder} {what}; {remedy}"


@contextlib.contextmanager
def opened_blob(path: Path) -> Iterator[int]:
    """Yield a descriptor for reading the blob ``<spool>/<two digits>/<digest>``.

    No link is followed below the spool's parent. The descriptor stays on the same file if the name
    changes: the bytes that are checked are the bytes that are sent.

    Raises:
        OSError: It does not exist, or a part of its path is a link.
        ValueError: It is not a regular file.
    """
    opened: list[int] = []
    try:
        parent = os.open(path.parents[2], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(parent)
        for name in (path.parents[1].name, path.parent.name):
            parent = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
            )
            opened.append(parent)
        # Without O_NONBLOCK, opening a FIFO would block.
        file = os.open(
            path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
        )
        opened.append(file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            msg = "it is not a regular file"
            raise ValueError(msg)
        yield file
    finally:
        for descriptor in opened:
            os.close(descriptor)


def hand_over(file: int | Path, folder: Path) -> None:
    """Give a file that root created to the owner of the journal's folder.

    Otherwise one `sudo journaltrack sync` would leave files that stop the user's next sync. SQLite
    does the same for its own files. A file with several hard links keeps its owner, because the
    other links may be outside the journal.

    Args:
        file: A descriptor, or a path that is not a link.
        folder: The journal's folder.
    """
    if os.geteuid() != 0:
        return
    # Some file systems have no owners.
    with contextlib.suppress(OSError):
        owner = folder.stat()
        status = os.fstat(file) if isinstance(file, int) else file.lstat()
        if status.st_uid == owner.st_uid or not (
            status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)
        ):
            return
        if isinstance(file, int):
            os.fchown(file, owner.st_uid, owner.st_gid)
        else:
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)


def of_others(folder: Path) -> list[Path]:
    """Return the journal's own files whose owner is not the owner of its folder."""
    found = []
    for name in _FILES:
        with contextlib.suppress(OSError):
            if (folder / name).lstat().st_uid != folder.stat().st_uid:
                found.append(folder / name)
    return found


def _has_bytes(path: str) -> bool:
    """Return whether a file has any content, or can't be looked at."""
    try:
        return os.lstat(path).st_size > 0
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _mode(path: str) -> int | None:
    try:
        # A string, because this runs at every opening: building a Path would double its cost.
        return os.lstat(path).st_mode
    except OSError:
        # It does not exist, or can't be looked at. Opening it will say so.
        return None


def _refused(path: Path, mode: int, wanted: str) -> NotAJournalError:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
    return NotAJournalError(
        f"{path} is {kind}, not {wanted}; nothing was opened",
        hint="unless you made it so, do not trust this journal; link or mount whole folders only",
    )


def held_open(journal: Path) -> bool:
    """Return whether a process on this machine has the journal open with SQLite.

    Then the journal is in use here, and is not an unused copy. False if the system does not tell.
    """
    start, length = SHARED_RANGE
    return holder(journal / paths.DATABASE, start=start, length=length) is not None
