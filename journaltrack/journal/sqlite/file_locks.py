"""Who holds a POSIX lock on a file, asked without taking one (fcntl(2), F_GETLK), and who has a file open.

Closing any descriptor of a file drops the locks that this process has on it: ask only about files on which this process
holds none. Linux only; elsewhere nobody is seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from journaltrack.journal.sqlite.ofd_locks import FLOCK


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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        lock_type, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if lock_type == fcntl.F_UNLCK else max(pid, 0)


def is_locked(path: Path, locks: Path = Path("/proc/locks")) -> bool | None:
    """Whether anybody on this machine holds a lock on a file that need not be readable; None: that can't be told.

    Args:
        path: The file.
        locks: The kernel's table of locks (proc(5)).
    """
    try:
        status = path.lstat()
        lines = locks.read_text(encoding="utf-8").splitlines()
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
