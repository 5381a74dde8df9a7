"""Hold SQLite's long-lived locks a second time, so that they survive a close.

A process loses all its POSIX locks on a file when it closes *any* descriptor of that file, and
SQLite's locks are POSIX locks. So a training script that reads its own journal (``shutil.copytree``
of the run's folder, a checksum, ``tarfile``) drops SQLite's locks. SQLite does not notice. The
next process believes that it is alone. It truncates the shared memory that the first process has
mapped (SIGBUS), or deletes the log that the first process still writes to.

An OFD lock (fcntl(2), Linux only) belongs to one open file description instead, and other processes
see it like a POSIX lock. So each connection holds OFD locks on the same bytes that SQLite locks for
as long as it uses a write-ahead log: the database's shared range, and the "dead man's switch" in
the shared memory. Every other program respects them. They cost nothing per append.

To close one of our own descriptors would drop SQLite's locks as well. So a descriptor is closed
only when nothing else in this process has the file open. Until then it waits in a pool for reuse.

SQLite also takes short locks, within a transaction. Only another thread can drop these, in the
middle of it. Checkpoints have a lock of our own against that. When a process is seen to drop its
locks, it logs a warning. From then on, and while it lives, every append takes a lock of our own,
too, which is slower. docs/adr/0023-presence-lock.md has the reasons and the alternatives.

Where OFD locks do not exist, only SQLite's own locks protect the journal. Must not know what is
stored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

FLOCK: Final = "@hhqqi"
"""C's ``struct flock``: type, whence, start, len, pid."""
Place: TypeAlias = "tuple[int, int]"
"""First byte and number of bytes."""
EVERYWHERE: Final = (0, 0)

_SET: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_GET: Final[int | None] = getattr(fcntl, "F_OFD_GETLK", None)
# Reentrant: a signal handler or the garbage collector may interrupt its holder and take it again.
_pool_lock = threading.RLock()


class Descriptor:
    """One open file description, with its locks. Use ``take`` and ``give_back``.

    Args:
        path: The file. A link is not followed.
        mode: ``os.O_RDONLY``, or ``os.O_RDWR`` for exclusive locks.

    Raises:
        OSError: It can't be opened.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.number = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.mode = mode
        self.is_memory = path.endswith("-shm")
        self.file = _identity(os.fstat(self.number))

    def lock(self, kind: int, place: Place) -> None:
        """Set or release an OFD lock, without waiting.

        Raises:
            BlockingIOError, PermissionError: Another holder has it.
            OSError: OFD locks do not exist here.
        """
        if _SET is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.fcntl(self.number, _SET, struct.pack(FLOCK, kind, os.SEEK_SET, *place, 0))

    def lock_as_process(self, place: Place) -> None:
        """Take a shared POSIX lock, which is lost in the same ways as SQLite's.

        Raises:
            OSError: Another holder has it, or locks do not exist here.
        """
        start, length = place
        fcntl.lockf(self.number, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)

    def unlock_as_process(self, place: Place) -> None:
        """Give up a POSIX lock of this process."""
        start, length = place
        with contextlib.suppress(OSError):
            fcntl.lockf(self.number, fcntl.LOCK_UN, length, start)

    def is_locked(self, place: Place) -> bool | None:
        """Return whether another description has a lock there; None if unknown."""
        if _GET is None:
            return None
        try:
            answer = fcntl.fcntl(
                self.number, _GET, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *place, 0)
            )
        except OSError as error:
            # Without errno it comes from a signal handler (a time-out is an OSError).
            if error.errno is None:
                raise
            return None
        return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)

    def unlock(self) -> None:
        """Release all its OFD locks."""
        with contextlib.suppress(OSError):
            self.lock(fcntl.F_UNLCK, EVERYWHERE)


# Unlocked descriptors, for reuse.
_pool: list[Descriptor] = []


def take(path: str, mode: int) -> Descriptor:
    """Return a descriptor of the file, from the pool if it has one.

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
    """Unlock descriptors, and close them once nothing else here has their files open."""
    with _pool_lock:
        for descriptor in descriptors:
            if descriptor is not None:
                # Closing alone would not unlock: a child that another thread starts shares the
                # description between its fork and exec.
                descriptor.unlock()
                _pool.append(descriptor)
        if _pool:
            _close_unneeded()


def leave_to_parent(*descriptors: Descriptor | None) -> None:
    """Close descriptors in a forked child without unlocking them.

    The parent shares the descriptions, and so the locks.
    """
    for descriptor in descriptors:
        if descriptor is not None:
            # A new process has no POSIX locks to lose.
            os.close(descriptor.number)


def _close_unneeded() -> None:
    for descriptor in [d for d in _pool if _is_unused(d)]:
        _pool.remove(descriptor)
        os.close(descriptor.number)
    if not _pool:
        return
    ours = {descriptor.number for descriptor in _pool}
    in_use = set()
    try:
        names = {_name_of(number) for number in ours}
        is_linked = any(os.fstat(number).st_nlink > 1 for number in ours)
        # listdir, because it is fast: this runs at every close of a journal.
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            # The listing's own descriptor is closed by now.
            with contextlib.suppress(OSError):
                # What else is open may be on a file server that hangs: only its name is asked for.
                if int(name) not in ours and (is_linked or _name_of(int(name)) in names):
                    in_use.add(_identity(os.fstat(int(name))))
    except OSError:
        # Without /proc nobody can tell what is in use.
        return
    for descriptor in [d for d in _pool if d.file not in in_use]:
        _pool.remove(descriptor)
        os.close(descriptor.number)


def _is_unused(descriptor: Descriptor) -> bool:
    """Return whether the file certainly has no connection: nobody has a lock on it.

    With a write-ahead log each connection of ours has one from before SQLite opens the file until
    it has closed it. To look costs less than to look at all open files of this process.
    """
    with contextlib.suppress(OSError):
        has_log = descriptor.is_memory or (
            os.pread(descriptor.number, len(_HAS_LOG), _VERSIONS_AT) == _HAS_LOG
        )
        return has_log and descriptor.is_locked(EVERYWHERE) is False
    return False


def _name_of(number: int) -> str:
    """Return the name of an open file. The kernel knows it: no file system is asked."""
    return os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2]  # noqa: PTH115 - fast


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock.
    global _pool_lock  # noqa: PLW0603
    _pool_lock = threading.RLock()
    leave_to_parent(*_pool)
    _pool.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


SHARED_RANGE: Final = (0x40000002, 510)
"""Bytes of the database that every connection with a write-ahead log has locked.

First byte and length (SQLite's os.h).
"""
# Of the database's header (https://sqlite.org/fileformat2.html).
_VERSIONS_AT, _HAS_LOG = 18, b"\2\2"
_DEAD_MAN_SWITCH: Final = (128, 1)
"""The byte of the shared memory that every such connection has locked.

https://sqlite.org/walformat.html#locks
"""

# Our own locks on the database, at places far beyond its end.
_CHECKPOINT: Final = (1 << 62, 1)
"""Held by the process that writes the log back."""
_TURN: Final = ((1 << 62) + 1, 1)
"""Held for one transaction, while some process is careless."""
_CARELESS: Final = ((1 << 62) + 2, 1)
"""Shared by the processes that were seen to drop their locks."""
_SHARING: Final = ((1 << 62) + 3, 1)
"""Shared by processes that can't share a write-ahead log; exclusive for one that is alone."""
_ASKING: Final = ((1 << 62) + 4, 1)
"""Held by a process that waits for another one to give way."""
_PROBE: Final = ((1 << 62) + 5, 1)
"""Never held: taken to see whether locks exist here."""

_CANARIES: Final = range(1 << 61, 1 << 62)
"""Places in the shared memory: each connection has a POSIX lock on one, and looks if it is lost."""
_ANSWERS: Final = 4
"""How often to measure: on a busy machine some answers come late, but not all."""
_ANSWERS_SOON_S: Final = 0.000_5
_ASK_EVERY_S: Final = 0.02
LOOK_EVERY_S: Final = 0.1
"""How often a process that is alone looks whether another one asks."""
_LOOKS_COST: Final = 20
"""If a look is slow: the least pause, as a multiple of the look's duration."""
_TAKEN: Final = frozenset([errno.EAGAIN, errno.EACCES])

# Databases of which this process closed a file while it used them.
_careless: set[tuple[int, int]] = set()


class StandingLocks:
    """Hold one connection's standing locks. Only ``checkpointing`` is thread-safe.

    Args:
        database: The file, which exists.
        read_only: See ``Database``.
        news: Receives warnings for the user.
    """

    def __init__(self, database: Path, *, read_only: bool, news: deque[str] | None = None) -> None:
        self._news: deque[str] = deque() if news is None else news
        self.guarded = False
        """Whether a transaction needs ``take_turn``, according to the last ``look``."""
        self._path = os.fspath(database)
        self._mode = os.O_RDONLY if read_only else os.O_RDWR
        self._of_database: Descriptor | None = None
        self._of_memory: Descriptor | None = None
        self._canary = (0, 1)

    def take(self) -> None:
        """Lock a database that has a write-ahead log.

        Call this before SQLite opens it, so that it is never open without the lock.

        Without a write-ahead log, or beside a rollback journal, nothing is locked: switching to
        such a log, or rolling back an interrupted transaction, needs that nobody else has a lock.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{self._path}-journal").st_size:  # noqa: PTH116 - at every opening
                return
        with contextlib.suppress(OSError):
            database = self._database()
            if os.pread(database.number, 2, _VERSIONS_AT) == _HAS_LOG:
                database.lock(fcntl.F_RDLCK, SHARED_RANGE)

    def take_all(self) -> None:
        """Lock the database, and the shared memory that SQLite has opened by now.

        Call this only after SQLite opened it: a connection that finds the switch locked trusts the
        shared memory, even one that a crash left behind.
        """
        self.take()
        with contextlib.suppress(OSError):
            if self._of_memory is None:
                self._of_memory = take(f"{self._path}-shm", os.O_RDONLY)
            self._of_memory.lock(fcntl.F_RDLCK, _DEAD_MAN_SWITCH)
            self._canary = (_CANARIES[int.from_bytes(os.urandom(7), "big")], 1)
            self._of_memory.lock_as_process(self._canary)
        self.look()

    def has_locks(self) -> bool:
        """Return whether this file system has the locks that SQLite uses."""
        try:
            self._database().lock_as_process(_PROBE)
        except OSError as error:
            return error.errno in _TAKEN or self._of_database is None
        return True

    def answers_in_s(self) -> float:
        """Measure how long the file system takes for a lock and a read, at best.

        Takes up to ``_ANSWERS`` times as long itself.
        """
        best_s = math.inf
        with contextlib.suppress(OSError):
            database = self._database()
            for _ in range(_ANSWERS):
                began = time.monotonic()
                database.is_locked(_ASKING)
                os.pread(database.number, 1, 0)
                best_s = min(best_s, time.monotonic() - began)
                if best_s < _ANSWERS_SOON_S:
                    break
        return best_s

    def be_alone(self) -> bool:
        """Lock all others out of a database whose log can't be shared.

        Returns:
            Whether that succeeded: no other process uses it, and none asks to.
        """
        try:
            database = self._database()
            if database.is_locked(_ASKING) is not False:
                return False
            database.lock(fcntl.F_WRLCK, _SHARING)
        except OSError:
            return False
        return True

    def share(self, timeout_s: float) -> bool:
        """Keep others from using the database alone or with a shared write-ahead log.

        A process that has it alone gives way when it sees that another one asks.

        Returns:
            Whether that succeeded in time. True where OFD locks do not exist.
        """
        until = time.monotonic() + timeout_s
        try:
            database = self._database()
            try:
                while not _locked(database, fcntl.F_RDLCK, _SHARING):
                    if time.monotonic() >= until:
                        return False
                    _locked(database, fcntl.F_RDLCK, _ASKING)
                    time.sleep(_ASK_EVERY_S)
            finally:
                database.lock(fcntl.F_UNLCK, _ASKING)
        except OSError:
            pass
        return True

    def are_shared(self) -> bool:
        """Return whether another connection called ``share``, or is alone."""
        try:
            return bool(self._database().is_locked(_SHARING))
        except OSError:
            return False

    def is_left_alone(self) -> bool:
        """Return whether no other connection called ``share``, and none asks to."""
        database = self._of_database
        if database is None:
            return False
        return database.is_locked(_SHARING) is False and database.is_locked(_ASKING) is False

    def look(self) -> None:
        """Detect whether this process dropped its locks, or another one says that it did."""
        database, memory = self._of_database, self._of_memory
        if database is None or memory is None:
            return
        if database.file not in _careless and memory.is_locked(self._canary) is False:
            _careless.add(database.file)
            self._news.append(
                f"event=careless journal={Path(self._path).parent} this process closed a file of "
                "the journal that it uses, which drops SQLite's locks; from now on calls are "
                "recorded safely, but more slowly. Let another process copy or read these files"
            )
        if database.file in _careless:
            with contextlib.suppress(OSError):
                database.lock(fcntl.F_RDLCK, _CARELESS)
            self.guarded = True
        else:
            self.guarded = bool(database.is_locked(_CARELESS))

    def take_turn(self) -> bool:
        """Take the writers' lock if ``guarded``, without waiting.

        Returns:
            False if another process has it.
        """
        if self.guarded and self._of_database is not None:
            try:
                self._of_database.lock(fcntl.F_WRLCK, _TURN)
            except OSError as error:
                return error.errno not in _TAKEN
        return True

    def end_turn(self) -> None:
        """Release the writers' lock."""
        if self.guarded and self._of_database is not None:
            with contextlib.suppress(OSError):
                self._of_database.lock(fcntl.F_UNLCK, _TURN)

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[bool]:
        """Yield whether this connection alone may checkpoint, within the block.

        Two checkpoints at once damage the database: the slower one writes older pages over newer
        ones, and the log no longer has the newer ones. True where OFD locks do not exist.
        """
        descriptor, alone = self._of_database, True
        if descriptor is not None:
            try:
                descriptor.lock(fcntl.F_WRLCK, _CHECKPOINT)
            except OSError as error:
                alone = error.errno not in _TAKEN
                descriptor = None
        try:
            yield alone
        finally:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    descriptor.lock(fcntl.F_UNLCK, _CHECKPOINT)

    def let_go(self) -> None:
        """Unlock the database, before SQLite closes it.

        SQLite must be able to see whether its connection is the last one.
        """
        if self._of_database is not None:
            self._of_database.unlock()

    def give_back(self) -> None:
        """Unlock everything, after SQLite has closed its files."""
        if self._of_memory is not None:
            self._of_memory.unlock_as_process(self._canary)
        give_back(self._of_database, self._of_memory)
        self._of_database = self._of_memory = None

    def leave_to_parent(self) -> None:
        """Forget all locks in a forked child: they are the parent's."""
        leave_to_parent(self._of_database, self._of_memory)
        self._of_database = self._of_memory = None

    def _database(self) -> Descriptor:
        if self._of_database is None:
            self._of_database = take(self._path, self._mode)
        return self._of_database


def is_asked_for(database: Path, until: threading.Event) -> bool:
    """Wait until another process asks for the database that this process has alone.

    Args:
        database: The file.
        until: Ends the wait.

    Returns:
        Whether another process asks.
    """
    try:
        descriptor = take(os.fspath(database), os.O_RDONLY)
    except OSError:
        return False
    try:
        pause_s = LOOK_EVERY_S
        while not until.wait(pause_s):
            began = time.monotonic()
            if descriptor.is_locked(_ASKING):
                return True
            pause_s = max(LOOK_EVERY_S, _LOOKS_COST * (time.monotonic() - began))
        return False
    finally:
        give_back(descriptor)


def _locked(descriptor: Descriptor, kind: int, place: Place) -> bool:
    """Try to take a lock, and return whether that succeeded.

    Raises:
        OSError: OFD locks do not exist here.
    """
    try:
        descriptor.lock(kind, place)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True
