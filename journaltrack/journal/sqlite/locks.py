"""SQLite's standing locks, held once more in a form that closing a file does not drop.

A process that closes a file of its own journal (``shutil.copytree`` of the run's folder, a checksum, ``tarfile``) drops
SQLite's POSIX locks, and SQLite does not know. The next process believes that it is alone: it truncates the shared memory
that the first one has mapped (SIGBUS), or deletes the log that the first one goes on writing to.

So each connection has OFD locks on the very bytes that SQLite locks for as long as a write-ahead log is in use: the
database's shared range, and the "dead man's switch" in the shared memory. Whatever program comes next, it sees them as it
sees SQLite's. Nothing is done per append.

What SQLite locks for moments can be dropped only by another thread, in the midst of a transaction. For who writes the log
back there is a lock of our own. A process that is seen to drop locks says so, and from then on all that append take turns
by such a lock, too: slower, as long as it lives. Why, and what lost: docs/adr/0023-presence-lock.md.

Where there are no such locks, SQLite's own must do. Must not know what is stored.

Locks that closing a file does not drop (OFD locks, fcntl(2)), on descriptors that are closed when it does no harm.

A process loses all its POSIX locks on a file when it closes *any* descriptor of it, and SQLite's are such locks. An OFD
lock belongs to one open file description instead. Others see both kinds alike. Our descriptors are descriptors, too: one
is closed only when nothing else in this process has the file open. Otherwise it waits in a pool for its next use.

Linux only. Must not know what is locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import random
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

    def unlock_as_process(self, place: Place) -> None:
        """Give up a POSIX lock of this process."""
        start, length = place
        with contextlib.suppress(OSError):
            fcntl.lockf(self.number, fcntl.LOCK_UN, length, start)

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


SHARED_RANGE: Final = (0x40000002, 510)
"""What every connection with a write-ahead log has locked in the database: first byte and length (SQLite's os.h)."""
_VERSIONS_AT, _HAS_LOG = 18, b"\2\2"  # of the database's header (https://sqlite.org/fileformat2.html)
_DEAD_MAN_SWITCH: Final = (128, 1)  # ... and in the shared memory (https://sqlite.org/walformat.html#locks)
# Ours, far beyond what either file ever holds. In the database:
_CHECKPOINT: Final = (1 << 62, 1)  # whose turn it is to write the log back,
_TURN: Final = ((1 << 62) + 1, 1)  # whose to write at all when somebody is careless,
_CARELESS: Final = ((1 << 62) + 2, 1)  # and who is;
_SHARING: Final = ((1 << 62) + 3, 1)  # who uses it from where a write-ahead log can't be shared,
_ASKING: Final = ((1 << 62) + 4, 1)  # and who waits for one that has it alone.
_PROBE: Final = ((1 << 62) + 5, 1)  # of nobody
_CANARIES: Final = range(1 << 61, 1 << 62)  # in the shared memory, a byte of each connection
_ANSWERS: Final = 4  # of a busy machine one comes late, but not all
_ANSWERS_SOON_S: Final = 0.000_5
_ASK_EVERY_S: Final = 0.02
LOOK_EVERY_S: Final = 0.1
"""How often who is alone looks whether somebody asks ..."""
_LOOKS_COST: Final = 20  # ... where a look costs little; else so many times what it costs
_TAKEN: Final = frozenset([errno.EAGAIN, errno.EACCES])

_careless: set[tuple[int, int]] = set()  # databases of which this process closed a file while it used them


class StandingLocks:
    """Those of one connection. One thread at a time uses them, but for ``checkpointing``.

    Args:
        database: The file, which is there.
        read_only: See ``Database``.
        news: Gets what there is to warn of.
    """

    def __init__(self, database: Path, *, read_only: bool, news: deque[str] | None = None) -> None:
        self._news: deque[str] = deque() if news is None else news
        self.guarded = False
        """Whether a transaction needs ``take_turn``, as far as the last ``look`` knows."""
        self._path = os.fspath(database)
        self._mode = os.O_RDONLY if read_only else os.O_RDWR
        self._of_database: Descriptor | None = None
        self._of_memory: Descriptor | None = None
        self._canary = (0, 1)

    def take(self) -> None:
        """Lock a database that has a write-ahead log: before SQLite opens it, so that there is no moment without.

        Without such a log, or beside a rollback journal, nothing is locked: who gives it one, or rolls back a transaction that was
        cut short, does so only while nobody else has a lock.
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

        Not before: who finds the switch locked takes what is in the shared memory as it is, even if a crash left it.
        """
        self.take()
        with contextlib.suppress(OSError):
            if self._of_memory is None:
                self._of_memory = take(f"{self._path}-shm", os.O_RDONLY)
            self._of_memory.lock(fcntl.F_RDLCK, _DEAD_MAN_SWITCH)
            self._canary = (random.choice(_CANARIES), 1)  # noqa: S311 - no secret
            self._of_memory.lock_as_process(self._canary)
        self.look()

    def has_locks(self) -> bool:
        """Whether this file system has locks as SQLite uses them."""
        try:
            self._database().lock_as_process(_PROBE)
        except OSError as error:
            return error.errno in _TAKEN or self._of_database is None
        return True

    def answers_in_s(self) -> float:
        """How long the file system takes for a lock and a read, at best: where it takes long, a few times as long passes."""
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
        """Keep all others out from where a log can't be shared; whether nobody is there and nobody asks."""
        try:
            database = self._database()
            if database.is_locked(_ASKING) is not False:
                return False
            database.lock(fcntl.F_WRLCK, _SHARING)
        except OSError:
            return False
        return True

    def share(self, timeout_s: float) -> bool:
        """Keep others from being alone, and from beginning a log that all share; whether that could be done in time.

        Who is alone lets go when it sees that somebody asks. Yes where there are no such locks.
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
        """Whether somebody else has said ``share``, or is alone."""
        try:
            return bool(self._database().is_locked(_SHARING))
        except OSError:
            return False

    def is_left_alone(self) -> bool:
        """Whether nobody else has said ``share``, and nobody asks to."""
        database = self._of_database
        return database is not None and database.is_locked(_SHARING) is False and database.is_locked(_ASKING) is False

    def look(self) -> None:
        """See whether this process has dropped its locks, or another one says that it does."""
        database, memory = self._of_database, self._of_memory
        if database is None or memory is None:
            return
        if database.file not in _careless and memory.is_locked(self._canary) is False:
            _careless.add(database.file)
            self._news.append(
                f"event=careless journal={Path(self._path).parent} this process closed a file of the journal that it uses, which drops "
                "SQLite's locks; from now on calls are recorded more slowly, and safely. Let another process copy or read these files"
            )
        if database.file in _careless:
            with contextlib.suppress(OSError):
                database.lock(fcntl.F_RDLCK, _CARELESS)
            self.guarded = True
        else:
            self.guarded = bool(database.is_locked(_CARELESS))

    def take_turn(self) -> bool:
        """Be the only one that writes, where ``guarded``; whether that could be done at once."""
        if self.guarded and self._of_database is not None:
            try:
                self._of_database.lock(fcntl.F_WRLCK, _TURN)
            except OSError as error:
                return error.errno not in _TAKEN
        return True

    def end_turn(self) -> None:
        """Let others write."""
        if self.guarded and self._of_database is not None:
            with contextlib.suppress(OSError):
                self._of_database.lock(fcntl.F_UNLCK, _TURN)

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[bool]:
        """Whether no other process writes the log back, for the block. Yes where there are no such locks.

        Two at once damage the database: the slower one writes older pages over newer ones, which nobody looks for in the log
        any more.
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
        """Unlock the database: SQLite is about to close it, and sees for itself whether it is the last."""
        if self._of_database is not None:
            self._of_database.unlock()

    def give_back(self) -> None:
        """Unlock everything, after SQLite has closed its files."""
        if self._of_memory is not None:
            self._of_memory.unlock_as_process(self._canary)
        give_back(self._of_database, self._of_memory)
        self._of_database = self._of_memory = None

    def leave_to_parent(self) -> None:
        """Have nothing any more, in a forked child."""
        leave_to_parent(self._of_database, self._of_memory)
        self._of_database = self._of_memory = None

    def _database(self) -> Descriptor:
        if self._of_database is None:
            self._of_database = take(self._path, self._mode)
        return self._of_database


def is_asked_for(database: Path, until: threading.Event) -> bool:
    """Wait until somebody asks for the database that this process has alone.

    Args:
        database: The file.
        until: Ends the wait.

    Returns:
        Whether somebody does.
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
    """Whether it could be locked.

    Raises:
        OSError: There are no such locks here.
    """
    try:
        descriptor.lock(kind, place)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True
