"""Locks that closing a file does not drop (OFD locks, fcntl(2)), on descriptors that are closed when it does no harm.

A process loses all its POSIX locks on a file when it closes *any* descriptor of it, and SQLite's are such locks. An OFD
lock belongs to one open file description instead. Others see both kinds alike. Our descriptors are descriptors, too: one
is closed only when nothing else in this process has the file open. Otherwise it waits in a pool for its next use.

Linux only. Must not know what is locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from typing import Final, TypeAlias

FLOCK: Final = "@hhqqi"
"""C's ``struct flock``: type, whence, start, len, pid."""
Place: TypeAlias = "tuple[int, int]"
"""First byte and number of bytes."""
EVERYWHERE: Final = (0, 0)

_SET: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_GET: Final[int | None] = getattr(fcntl, "F_OFD_GETLK", None)
_pool_lock = threading.RLock()  # a signal handler, or the garbage collector, may come back here


class Descriptor:
    """An open file description of this process alone. Use ``take`` to get one, and ``give_back``.

    Args:
        path: The file; a link is not followed.
        mode: ``os.O_RDONLY``, or ``os.O_RDWR`` for one that locks others out.

    Raises:
        OSError: It can't be opened.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.number = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.mode = mode
        self.file = _identity(os.fstat(self.number))

    def lock(self, kind: int, place: Place) -> None:
        """Change an OFD lock, without waiting.

        Raises:
            BlockingIOError, PermissionError: It is taken.
            OSError: There are no such locks here.
        """
        if _SET is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.fcntl(self.number, _SET, struct.pack(FLOCK, kind, os.SEEK_SET, *place, 0))

    def lock_as_process(self, place: Place) -> None:
        """Share a place by a POSIX lock, which is dropped as SQLite's are.

        Raises:
            OSError: It is taken, or there are no locks here.
        """
        start, length = place
        fcntl.lockf(self.number, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)

    def is_locked(self, place: Place) -> bool | None:
        """Whether anything but this description has a lock of either kind there; None: it can't be told."""
        if _GET is None:
            return None
        try:
            answer = fcntl.fcntl(self.number, _GET, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *place, 0))
        except OSError:
            return None
        return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)

    def unlock(self) -> None:
        """Give up its OFD locks."""
        with contextlib.suppress(OSError):
            self.lock(fcntl.F_UNLCK, EVERYWHERE)


_pool: list[Descriptor] = []  # without locks


def take(path: str, mode: int) -> Descriptor:
    """A descriptor of the file, from the pool if there is one.

    Raises:
        OSError: It can't be opened.
    """
    with _pool_lock:
        wanted = _identity(os.lstat(path))
        for descriptor in _pool:
            if descriptor.file == wanted and descriptor.mode == mode:
                _pool.remove(descriptor)
                return descriptor
        return Descriptor(path, mode)


def give_back(*descriptors: Descriptor | None) -> None:
    """Unlock them, and close them as soon as nothing else in this process has their files open."""
    with _pool_lock:
        for descriptor in descriptors:
            if descriptor is not None:
                # Not merely closed: between fork and exec a child that another thread starts has the same description.
                descriptor.unlock()
                _pool.append(descriptor)
        if _pool:
            _close_unneeded()


def leave_to_parent(*descriptors: Descriptor | None) -> None:
    """Close them in a forked child, and leave their locks to the parent, which has the same descriptions."""
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor.number)  # a new process has no POSIX locks to lose


def _close_unneeded() -> None:
    ours = {descriptor.number for descriptor in _pool}
    in_use = set()
    try:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - at every close of a journal
            if int(name) not in ours:
                with contextlib.suppress(OSError):  # that of the listing itself
                    in_use.add(_identity(os.fstat(int(name))))
    except OSError:  # it can't be told
        return
    for descriptor in [d for d in _pool if d.file not in in_use]:
        _pool.remove(descriptor)
        os.close(descriptor.number)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _after_fork_in_child() -> None:
    global _pool_lock  # noqa: PLW0603 - another thread may have had it
    _pool_lock = threading.RLock()
    leave_to_parent(*_pool)
    _pool.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
