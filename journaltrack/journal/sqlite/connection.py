"""One connection to a journal's SQLite file: opening, durability, locking, fork, and errors in our
own words.

Python's own driver, in autocommit mode: a committed insert costs 7 µs there against 32 to 105 µs
through SQLAlchemy, and importing that would cost a training script more than all the rest of its
start (docs/performance.md, ADR 0019).

Invariants: one thread at a time is inside SQLite for this connection; a transaction is never open
while the lock is free; a forked child never touches its parent's connection (SQLite forbids it) but
opens its own at its next use. Must not know what is stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import operator
import os
import re
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote

from journaltrack.errors import (
    JournalError,
    JournalLockedError,
    JournalReadOnlyError,
    JournalWriteError,
)
from journaltrack.journal.sqlite import copies, files, log_modes
from journaltrack.journal.sqlite.claim import Admission
from journaltrack.journal.sqlite.errors import OUT_OF_DESCRIPTORS, is_lock, translated, unusable
from journaltrack.journal.sqlite.locks import StandingLocks
from journaltrack.journal.sqlite.write_queue import URGENT_BEHIND_DISK_S, URGENT_S, WriteQueue
from journaltrack.util import paths, process

logger = logging.getLogger(__name__)

T = TypeVar("T")

Durability: TypeAlias = Literal["process", "power"]
BUSY_TIMEOUT_S: Final = 30.0
"""How long a writer waits for another process's transaction before ``JournalLockedError``; ours
last milliseconds.
"""
PAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Ours: text and blobs that are read at a time."""
# fewer than the 700 new objects after which the garbage collector looks at them
_BATCH_ROWS: Final = 500
_CHECKPOINT_PAGES: Final = 1_000  # SQLite's own default
_FORK_WAIT_S: Final = 1.0
_NEIGHBOUR_WAIT_S: Final = 2.0
"""How long a writer waits for a transaction of this process. Its thread may be in a signal
handler, and wait for this one's lock.
"""
_NEIGHBOUR_S: Final = 0.5  # two that wait for each other must not do so for ever
_SLOW_S: Final = 0.25
"""A commit that takes longer is worth a warning: ours take 4 ms with a rollback journal on a
local disk.
"""
_NUMBERED: Final = re.compile(r"\?(\d+)")
_NAMES: Final = tuple(f"p{number}" for number in range(1, 100))

_TEXT: Final = operator.methodcaller("decode", "utf-8", "replace")
_CONFIGURATION: Final = {
    value: on
    for name, on in (
        ("SQLITE_DBCONFIG_DEFENSIVE", True),
        ("SQLITE_DBCONFIG_ENABLE_VIEW", False),
        ("SQLITE_DBCONFIG_TRUSTED_SCHEMA", False),
    )
    if (value := getattr(sqlite3, name, None)) is not None
}

_live: weakref.WeakSet[Database] = weakref.WeakSet()
# a parent's connections in a forked child: kept, so that nothing closes them
_left_behind: list[object] = []


@functools.lru_cache(maxsize=1_000)
def _named(sql: str) -> str:
    return _NUMBERED.sub(r":p\1", sql)


def bound(sql: str, parameters: Sequence[Any]) -> tuple[str, Sequence[Any] | dict[str, Any]]:
    """Give ``?1`` its value by a name: Python 3.12 warns of a sequence for numbered parameters,
    and Python 3.14 refuses it.
    """
    named = _named(sql)
    return (
        (sql, parameters) if named == sql else (named, dict(zip(_NAMES, parameters, strict=False)))
    )


class Database:
    """A connection to an existing database file.

    Args:
        path: The file.
        durability: ``"power"`` waits for the disk at every commit (``synchronous=FULL``);
            ``"process"`` hands each commit to the kernel (``NORMAL`` with WAL), which survives a
            kill but not loss of power.
        read_only: Open without the right to write; works on read-only media.
        busy_timeout_s: See ``BUSY_TIMEOUT_S``.

    Raises:
        JournalError: The file can't be opened, see ``translated``.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "process",
        read_only: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = path
        self.read_only = read_only
        # counts forks; whoever caches something that is this process's own compares it
        self.generation = 0
        self.wal = False
        self.durability = durability
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self.news: deque[str] = deque()  # what to warn of, once nobody holds the lock; see ``tell``
        self._standing = StandingLocks(path, read_only=read_only, news=self.news)
        self._admission = Admission(path, self._standing, read_only=read_only)
        self._chosen = False  # whether it is known to be a journal, whose log may be changed
        self._names_synced = False
        self._identity = (0, 0)  # device and inode of the file that is open
        # of one that appends: it waits for its turn to write by itself
        self._queue: WriteQueue | None = None
        self._wait_s = busy_timeout_s  # and so long
        # an fsync of the log failed: what was written before may never reach the disk
        self._unsure = False
        self._slow = False  # and told so
        self._closed = False
        self._in_block = False  # of ``transaction``
        # makes what is read instead of the file
        self._copy: Callable[[sqlite3.Connection, Path], object] | None = None
        self.lock = threading.RLock()
        self._beside_lock = threading.Lock()
        with self.lock, translated(self.path):
            self._connect()
        _live.add(self)

    @property
    def connection(self) -> sqlite3.Connection:
        """The driver's connection, in autocommit mode; hold ``lock`` while using it.

        Raises:
            JournalError: After ``close``.
        """
        connection = self._connection
        if connection is None:
            if self._closed:
                msg = f"the journal at {self.path.parent} is closed"
                raise JournalError(msg)
            connection = self._connect()
        return connection

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether a statement may go straight to the connection: it is open, and in no
        transaction. Opens none.
        """
        return (
            self._connection is not None
            and not self._connection.in_transaction
            and not self._standing.guarded
        )

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a SELECT; ``?1`` is the first parameter."""
        bindings = bound(sql, parameters)
        with self.lock, translated(self.path):
            try:
                return self.connection.execute(*bindings).fetchall()
            except sqlite3.OperationalError as error:
                if self._queue is None or not is_lock(error):
                    raise
            with self.patience():  # another process recovers the log after a kill, or closes it
                return self.connection.execute(*bindings).fetchall()

    def read_columns(self, sql: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        """All rows of a SELECT, as a list for each column.

        Ten thousands of rows at a time make the garbage collector go through all that the process
        holds, again and again: a fifth of the CPU of settling them (benchmarks/settle.py). Numbers
        and texts in lists do not.
        """
        with self.lock, translated(self.path):
            cursor = self.connection.execute(*bound(sql, parameters))
            columns: list[list[Any]] = [[] for _ in cursor.description]
            while rows := cursor.fetchmany(_BATCH_ROWS):
                for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                    column.extend(values)
        return columns

    def read_page(
        self, sql: str, parameters: Sequence[Any] = (), bytes_max: int = PAGE_BYTES_MAX
    ) -> list[Any]:
        """The first rows of a SELECT, until they take ``bytes_max``: a crafted row may have any
        size. At least one, if there are any.
        """
        rows = []
        with self.lock, translated(self.path):
            cursor = self.connection.execute(*bound(sql, parameters))
            for row in cursor:
                rows.append(row)
                bytes_max -= sum(len(value) for value in row if isinstance(value, (str, bytes)))
                if bytes_max <= 0:
                    break
            cursor.close()
        return rows

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in one write transaction: all of it or, after any exception, nothing.

        Safe against exceptions that a signal handler raises at any moment (Ctrl-C, a time-out by
        SIGALRM): the lock is freed, and a transaction that could not be rolled back then is rolled
        back before the next one. A call from inside the transaction of the same thread (a signal
        handler, ``__del__``) joins it.
        """
        try:
            return self._write(work)
        finally:
            if self.news:
                self.tell()

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self.lock, translated(self.path):
            connection = self.connection
            if connection.in_transaction and (
                self._in_block or process.depth(self, _TRANSACTIONS) > 1
            ):
                return work(connection)
            try:
                self.roll_back()
                self._begin(connection)
                result = work(connection)
                self._commit(connection)
            except sqlite3.ProgrammingError:
                self.roll_back()
                if self._connection is connection:
                    raise
                # a fork in a signal handler has taken the connection away before the transaction
                # began
                return self._write(work)
            except BaseException:
                self.roll_back()
                raise
            return result

    def tell(self) -> None:
        """Log what there is to warn of, unless this thread holds the lock: a logging handler has
        a lock of its own.
        """
        while self.news and not self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition asks it
            logger.warning("%s", self.news.popleft())

    def roll_back(self) -> None:
        """End a transaction that an interruption left open; hold ``lock``. Without one, nothing
        happens.
        """
        connection = self._connection
        # some errors (disk full, I/O) roll back by themselves
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
        self._standing.end_turn()

    def _commit(self, connection: sqlite3.Connection) -> None:
        if self._admission.shared is not None:
            self._commit_slowly(connection)
        elif self._queue is not None or not self.wal:
            connection.execute("COMMIT")
        else:
            with self._standing.checkpointing() as alone:
                connection.execute(
                    f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES if alone else 0}"
                )
                connection.execute("COMMIT")
        self._standing.end_turn()

    def _commit_slowly(self, connection: sqlite3.Connection) -> None:
        began = time.monotonic()
        connection.execute("COMMIT")
        took_s = time.monotonic() - began
        if took_s > _SLOW_S and not self._slow:
            self._slow = True
            self.news.append(
                f"the journal at {self.path.parent} is slow: a commit took {took_s:.1f} s on "
                f"{self._admission.shared}. Training waits that long for each call; set "
                "JOURNALTRACK_JOURNAL to a folder on a local disk."
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """``write`` for a block, where no signal handler raises: a ``with`` statement can be
        interrupted between its lines.
        """
        try:
            with self.lock, translated(self.path):
                connection = self.connection
                self.roll_back()
                self._begin(connection)
                self._in_block = True
                try:
                    yield connection
                    self._commit(connection)
                except BaseException:
                    self.roll_back()
                    raise
                finally:
                    self._in_block = False
        finally:
            if self.news:
                self.tell()

    def choose_log(self) -> None:
        """Use a write-ahead log where that is safe; changes the file, so only for what is known
        to be a journal.
        """
        with self.lock, translated(self.path):
            self._chosen = True
            try:
                self._choose_log(self.connection)
            except sqlite3.OperationalError as error:
                if not self._lacks_memory(error):
                    raise
                self._disconnect()
                self._choose_log(self.connection)
            if self._admission.shared is not None:
                logger.warning(
                    "the journal at %s is on %s, where processes can't share SQLite's "
                    "write-ahead log: %s. Set JOURNALTRACK_JOURNAL to a folder on a local disk "
                    "for full speed.",
                    self.path.parent,
                    self._admission.shared,
                    log_modes.MEANING[self._admission.mode],
                )

    def _choose_log(self, connection: sqlite3.Connection) -> None:
        self.wal = log_modes.choose(connection, self._admission.mode, self._busy_timeout_s)
        if self.wal and not self._admission.is_alone:
            self._standing.take_all()
        self._set_synchronous(connection)
        if self.durability == "power":
            self._sync_names(connection)

    def _lacks_memory(self, error: sqlite3.OperationalError) -> bool:
        """Whether a file may be one that can't be mapped here, which is worth another way once."""
        admission = self._admission
        lacking = (
            admission.has_memory
            and admission.mode == "log"
            and not self.read_only
            and "I/O" in str(error)
        )
        admission.has_memory = not lacking
        return lacking

    def set_busy_timeout(self, seconds: float | None) -> None:
        """Change how long a writer waits for the lock; None: what it was at first."""
        self._wait_s = self._busy_timeout_s if seconds is None else seconds
        if self._queue is None:
            with self.lock, translated(self.path):
                self._set_patience(self.connection, self._wait_s)

    def log_bytes(self) -> int:
        """Size of the log's file: that of what was ever in it since the last connection but this
        one was closed.
        """
        try:
            return os.stat(f"{self.path}-wal").st_size  # noqa: PTH116 - at the first append of a process
        except OSError:
            return 0

    def checkpointing(self) -> contextlib.AbstractContextManager[bool]:
        """Whether no other process writes the log back, for the block."""
        return (
            contextlib.nullcontext(enter_result=False)
            if self._admission.is_alone
            else self._standing.checkpointing()
        )

    def write_log_back(self) -> bool:
        """Copy all of the log into the database while nobody appends; whether that could be done
        at once.
        """
        with self.lock, translated(self.path):
            connection = self._connection
            if connection is None or connection.in_transaction:
                # it rests, and no more is appended: whoever closes the database last does it
                return False
            busy, in_log, written = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            return not busy and bool(written == in_log)

    def beside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on another connection while this one goes on; for another thread. It
        waits for no lock.
        """
        with self._beside_lock, translated(self.path):
            connection = _connect_uri(f"{_uri(self.path)}?mode=rw", 0.0)
            try:
                connection.execute("PRAGMA synchronous=NORMAL")
                return work(connection)
            finally:
                connection.close()

    def append_beside_others(self) -> None:
        """From now on this connection is one that appends: short transactions, and many.

        It waits for its turn by ``WriteQueue`` instead of SQLite's busy handler, which starves
        whoever waits, and leaves writing the log back to ``Checkpointer``. With a rollback journal
        nothing changes.
        """
        with self.lock, translated(self.path):
            if self.wal and not self._admission.is_alone and self._queue is None:
                self._queue = self._new_queue()
                self._set_appending(self.connection)

    def _new_queue(self) -> WriteQueue:
        return WriteQueue(
            self.path.parent, URGENT_BEHIND_DISK_S if self.durability == "power" else URGENT_S
        )

    def _set_appending(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._set_patience(connection, 0.0)

    @staticmethod
    def _set_patience(connection: sqlite3.Connection, seconds: float) -> None:
        connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """For the block SQLite's own way to wait, for what is not an append; hold ``lock``."""
        if self._queue is not None:
            self._set_patience(self.connection, self._wait_s)
        try:
            yield
        finally:
            if self._queue is not None and self._connection is not None:
                self._set_patience(self._connection, 0.0)

    @property
    def must_yield(self) -> bool:
        """Whether another process should have its turn first: who waits for the disk in its
        transactions leaves the lock free for moments.
        """
        return self.durability == "power" and self._queue is not None and self._queue.has_waiting()

    def _begin(self, connection: sqlite3.Connection) -> None:
        """BEGIN IMMEDIATE, in turn with other processes; hold ``lock``.

        Raises:
            sqlite3.OperationalError: Not in time.
        """
        standing, queue = self._standing, self._queue
        if queue is None:
            standing.look()
            if not standing.guarded:
                self._refuse_own_thread()
                connection.execute("BEGIN IMMEDIATE")
                return
            queue = WriteQueue(self.path.parent)

        refused = [sqlite3.OperationalError("database is locked")]

        def attempt() -> bool:
            if not standing.take_turn():
                return False
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                standing.end_turn()
                if not is_lock(error):
                    raise
                refused[:] = [error]
                return False
            return True

        if not self.must_yield and attempt():
            return
        self._refuse_own_thread()
        wait_s = (
            min(self._wait_s, _NEIGHBOUR_WAIT_S)
            if any(self._is_beside(other) for other in _all_live())
            else self._wait_s
        )
        if not queue.wait_for(attempt, wait_s):
            raise refused[0]

    def _refuse_own_thread(self) -> None:
        """Wait for no transaction of this very thread: it could never end.

        Raises:
            JournalLockedError: This call was made inside such a transaction, on another connection.
        """
        for other in _all_live():
            if self._is_beside(other) and other.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as in ``tell``
                raise JournalLockedError(
                    f"the journal at {self.path.parent} is locked by a transaction that this "
                    "call was made inside of",
                    hint="what is logged meanwhile is written afterwards",
                )

    def _is_beside(self, other: Database) -> bool:
        """Whether the other one is of the same journal, in this process, and in a transaction."""
        connection = other._connection
        return (
            other is not self
            and other.path == self.path
            and connection is not None
            and connection.in_transaction
        )

    def sync(self) -> None:
        """A power barrier: everything committed is on the disk when this returns.

        Raises:
            JournalWriteError: It may not be, and no later success of fsync says that it is: the
                kernel tells of a failure once, and may have dropped what it could not write. The
                next call copies the log into the database and waits for that.
        """
        with self.lock, translated(self.path):
            # With a rollback journal every commit was such a barrier. Never open the database file
            # itself here: closing any descriptor of it drops this process's POSIX locks, and with
            # them SQLite's protection.
            if self.wal:
                if self._unsure:
                    self._empty_log()
                try:
                    paths.fsync(self.path.with_name(self.path.name + "-wal"))
                    if not self._names_synced:
                        self._sync_names(self.connection)
                except FileNotFoundError:
                    pass  # nothing was written since the log was last emptied
                except OSError as error:
                    if error.errno in OUT_OF_DESCRIPTORS:
                        raise unusable(self.path) or self._not_flushed(str(error)) from error
                    self._unsure = True
                    raise self._not_flushed(str(error)) from error

    def _empty_log(self) -> None:
        with self.patience(), self.checkpointing() as alone:
            busy, _, _ = (
                (True, 0, 0)
                if not alone
                else self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            )
        if busy:
            raise self._not_flushed(
                "the last flush failed, and while others use the journal it can't be repeated"
            )
        self._unsure = False

    def _not_flushed(self, why: str) -> JournalWriteError:
        hint = (
            "check the disk (dmesg), and flush again; entries survive a kill, but perhaps not "
            "loss of power"
        )
        return JournalWriteError(
            f"the journal at {self.path.parent} could not be flushed: {why}", hint=hint
        )

    def moved(self) -> bool:
        """Whether the path no longer names the file that is open, or the log's name is gone.

        A folder that can't be looked at (no permission for a moment, a file server that restarts)
        is not a deleted one.
        """
        if self._connection is None:
            return False
        self._standing.look()
        if self._admission.could_be_alone() and not self._connection.in_transaction:
            self._disconnect()  # the next use opens another
            return False
        return self.displaced() or (self.wal and _is_gone(f"{self.path}-wal"))

    def displaced(self) -> bool:
        """Whether the path no longer names the file that is open."""
        if self._connection is None:
            return False
        try:
            return _identity(self.path) != self._identity
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # it can't be told

    def place_now(self) -> Path | None:
        """Where the file that is open is; None when it was deleted, or the system does not tell
        (no /proc).
        """
        with contextlib.suppress(OSError):
            for descriptor in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    status = descriptor.stat()
                    if (status.st_dev, status.st_ino) == self._identity and status.st_nlink:
                        return Path(os.readlink(descriptor))  # noqa: PTH115 - Python 3.10 makes no difference
        return None

    def move_to(self, path: Path) -> None:
        """Connect to another file from now on; the connection to the old one is kept open.

        Closing it would delete the log *by its name*, which may be another database's by now.
        """
        with self.lock:
            _left_behind.extend((self._connection, self._standing))
            # not even at the end of the interpreter
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._connection = None
            self._names_synced = False
            self._admission.leave()
            self._standing = StandingLocks(path, read_only=self.read_only, news=self.news)
            self._admission = Admission(path, self._standing, read_only=self.read_only)
            self.path = path
            if self._queue is not None:
                self._queue.close()
                self._queue = self._new_queue()

    def rest(self) -> None:
        """Give the connection back; the next use opens another."""
        with self.lock:
            self._disconnect()

    def close(self) -> None:
        """Close the connection. Idempotent; a later use raises ``JournalError``."""
        with self.lock:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._names_synced = False
        if self._queue is not None:
            self._queue.close()
        self._close(connection)

    def _close(self, connection: sqlite3.Connection | None) -> None:
        self._standing.let_go()
        if connection is not None:
            if self._admission.is_alone and self._chosen:
                # readers need not know of a log that is gone
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA journal_mode = DELETE")
            connection.close()
        self._admission.leave()
        self._standing.give_back()

    def make_way(self, timeout_s: float = -1) -> None:
        """Disconnect where this process has the journal alone, unless a transaction is under way;
        the next use opens another.

        Args:
            timeout_s: How long to wait for the lock; -1: until it is free.
        """
        if self.lock.acquire(timeout=timeout_s):
            try:
                connection = self._connection
                if (
                    connection is not None
                    and self._admission.is_alone
                    and not connection.in_transaction
                ):
                    self._disconnect()
            finally:
                self.lock.release()

    def _let_neighbours_go(self) -> None:
        for other in _all_live():
            if other is not self and other.path == self.path:
                other.make_way(_NEIGHBOUR_S)
        self._refuse_own_thread()

    def __del__(self) -> None:
        # Python 3.13 warns of a connection that nobody closed; a tracker's lives as long as
        # somebody may read it back.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            self._close(connection)

    def read_copy(self, copy: Callable[[sqlite3.Connection, Path], object]) -> None:
        """From now on read a private copy instead of the file, which stays as it is; for one that
        is open for reading alone.

        Args:
            copy: Makes the copy: from a connection to the file, under a path that does not exist
                yet.
        """
        with self.lock, translated(self.path):
            self._copy = copy
            self._disconnect()
            self._connect()

    def _connect(self) -> sqlite3.Connection:
        files.check_files(self.path.parent)
        connection = None
        try:
            self._admission.enter(self._busy_timeout_s, self._let_neighbours_go)
            try:
                connection = self._open()
            except sqlite3.OperationalError as error:
                if not self._lacks_memory(error):
                    raise
                self._standing.give_back()
                self._admission.enter(self._busy_timeout_s, self._let_neighbours_go)
                connection = self._open()
            if self._admission.shared is not None:
                if self._chosen:
                    self._choose_log(connection)
            elif self.wal or (self.read_only and log_modes.is_wal(connection)):
                self._standing.take_all()
            else:
                self._standing.give_back()
            self._admission.listen(weakref.WeakMethod(self.make_way))
            if self._copy is not None:
                original, connection = connection, None
                try:
                    connection = self._open_copy(functools.partial(self._copy, original))
                finally:
                    self._close(original)
        except BaseException:
            self._close(connection)
            raise
        self._connection = connection
        return connection

    def _open(self) -> sqlite3.Connection:
        uri = f"{_uri(self.path)}?mode={'ro' if self.read_only else 'rw'}{self._admission.options}"
        connection = _connect_uri(uri, self._busy_timeout_s)
        try:
            if self.read_only:
                try:
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                except sqlite3.OperationalError as error:
                    # WAL needs a shared-memory file beside the database; read-only media have none,
                    # and no writer either.
                    connection.close()
                    self._refuse_immutable(error)
                    if _has_content(self.path.with_name(self.path.name + "-wal")):
                        # A writer was killed here: SQLite must bring its log in, which only a copy
                        # allows.
                        return self._open_copy(functools.partial(copies.copy_files, self.path))
                    connection = _connect_uri(uri + "&immutable=1", self._busy_timeout_s)
                return connection
            if self._admission.is_alone or (
                self._admission.shared is not None and log_modes.says_log(self.path)
            ):
                # first of all: what has a log is opened without shared memory
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.wal = log_modes.is_wal(connection)
            self._identity = _identity(self.path)
            self._set_synchronous(connection)
            if self.durability == "power":
                self._sync_names(connection)
            if self._queue is not None:
                self._set_appending(connection)
            elif self.wal and self._admission.shared is None:
                connection.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_copy(self, copy: Callable[[Path], object]) -> sqlite3.Connection:
        """A connection for reading to a private copy, which is gone with the connection."""
        with copies.place_for_copy(self.path) as file:
            copy(file)
            connection = _connect_uri(f"{_uri(file)}?mode=ro", self._busy_timeout_s)
            try:
                # opens the file
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except BaseException:
                connection.close()
                raise
        return connection

    def _refuse_immutable(self, error: sqlite3.OperationalError) -> None:
        """Reading the file alone, without locks, is right only if nobody writes and all of the
        journal is in it.

        Raises:
            JournalReadOnlyError: A transaction was cut short, and has to be rolled back first.
            sqlite3.OperationalError: What SQLite said.
        """
        writable = os.access(self.path.parent, os.W_OK)
        if _has_content(self.path.with_name(self.path.name + "-journal")):
            raise JournalReadOnlyError(
                f"the journal at {self.path.parent} was left in the middle of a transaction, "
                "which can't be rolled back by reading alone",
                hint="`journaltrack sync` rolls it back; on a medium that can't be written "
                "copy the whole folder first. No recorded entry is lost",
            ) from error
        if is_lock(error) or (
            writable and _has_content(self.path.with_name(self.path.name + "-wal"))
        ):
            raise error

    def _set_synchronous(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "PRAGMA "
            f"synchronous={'FULL' if self.durability == 'power' or not self.wal else 'NORMAL'}"
        )

    def _sync_names(self, connection: sqlite3.Connection) -> None:
        """See that the log's name is on the disk, and the folder's: SQLite syncs only names of
        files that it made itself.

        Once for a connection: as long as one is open, nobody deletes the log.
        """
        # opens the log, or makes it
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        paths.fsync(self.path.parent)
        paths.fsync(self.path.parent.parent)
        self._names_synced = True

    def _before_fork(self) -> None:
        # No thread of ours may be inside SQLite at the fork: its locks would stay taken in the
        # child for ever.
        self._beside_lock.acquire(timeout=_FORK_WAIT_S)
        if (
            not self.lock.acquire(timeout=_FORK_WAIT_S)
            or self._connection is None
            or self._connection.in_transaction
        ):
            return
        # Nor may a connection be open. SQLite remembers in memory which POSIX locks its process
        # holds: a child would inherit that memory without the locks, and take none for a connection
        # of its own. Whoever closes the journal next (the parent, a sync) would believe to be the
        # last and delete the log that the child goes on writing to. Both sides open again at the
        # next use.
        self._disconnect()

    def _after_fork_in_parent(self) -> None:
        for lock in (self.lock, self._beside_lock):
            with contextlib.suppress(RuntimeError):  # the wait above may have timed out
                lock.release()

    def _after_fork_in_child(self) -> None:
        _left_behind.append(self._connection)
        self._connection = None
        self._admission.leave_to_parent()
        self._standing.leave_to_parent()
        self._names_synced = False
        if self._queue is not None:
            self._queue.close()
        self.lock = threading.RLock()
        self._beside_lock = threading.Lock()
        self.generation += 1


def _uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path))}"  # a path need not be text


def _connect_uri(uri: str, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that trusts nothing of what the file brings: see
    https://sqlite.org/security.html.
    """
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )
    try:
        # the default raises where a crafted or damaged text is not UTF-8
        connection.text_factory = _TEXT
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if hasattr(connection, "setconfig"):  # Python 3.12 and later
            for option, value in _CONFIGURATION.items():
                with contextlib.suppress(sqlite3.OperationalError):  # a build of SQLite without it
                    connection.setconfig(option, value)
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - on the path of an append now and then
    return status.st_dev, status.st_ino


def _is_gone(path: str) -> bool:
    """Whether nothing has that name; False when it can't be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _all_live() -> list[Database]:
    with contextlib.suppress(RuntimeError):  # another thread opens one just now
        return list(_live)
    return _all_live()


def _each(method: Callable[[Database], None]) -> Callable[[], None]:
    def call() -> None:
        for database in _all_live():
            method(database)

    return call


_TRANSACTIONS: Final = process.codes_of(Database._write)  # noqa: SLF001 - this module's own

os.register_at_fork(
    before=_each(Database._before_fork),  # noqa: SLF001 - this module's own
    after_in_parent=_each(Database._after_fork_in_parent),  # noqa: SLF001
    after_in_child=_each(Database._after_fork_in_child),  # noqa: SLF001
)
