"""Read and write a journal's SQLite file: transactions, turns, power barriers, forks.

Python's own driver, in autocommit mode: a committed insert costs 7 µs there against 32 to 105 µs
through SQLAlchemy, and importing that would cost a training script more than all the rest of its
start (docs/performance.md, ADR 0019).

Invariants: one thread at a time is inside SQLite for this connection. A transaction is never open
while the lock is free. A forked child never touches its parent's connection (SQLite forbids it) but
opens its own at its next use. Must not know what is stored, or how the file is opened
(``open_file``).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

from journaltrack.errors import JournalError, JournalLockedError
from journaltrack.journal.sqlite import log_modes, open_file
from journaltrack.journal.sqlite.errors import is_lock, translated
from journaltrack.journal.sqlite.open_file import OpenFile, bound
from journaltrack.journal.sqlite.write_queue import URGENT_BEHIND_DISK_S, URGENT_S, WriteQueue
from journaltrack.util import process

logger = logging.getLogger(__name__)

T = TypeVar("T")

Durability: TypeAlias = Literal["process", "power"]
BUSY_TIMEOUT_S: Final = 30.0
"""How long a writer waits for another process's transaction before ``JournalLockedError``.

Ours last milliseconds.
"""
PAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Our limit: bytes of text and blobs that are read at a time."""
_FORK_WAIT_S: Final = 1.0
_NEIGHBOUR_WAIT_S: Final = 2.0
"""How long a writer waits for a transaction of this process.

Its thread may be in a signal handler, and wait for this one's lock.
"""
# Two that wait for each other must not do so for ever.
_NEIGHBOUR_S: Final = 0.5
_live: weakref.WeakSet[Database] = weakref.WeakSet()


class Database:
    """A connection to an existing database file.

    Args:
        path: The file.
        durability: ``"power"`` waits for the disk at every commit (``synchronous=FULL``).
            ``"process"`` hands each commit to the kernel (``NORMAL`` with a write-ahead log), which
            survives a kill but not loss of power.
        read_only: Open without the right to write. Works on read-only media.
        at_rest: With ``read_only``: whoever reads looks afterwards whether anything changed, see
            ``files.at_rest``.
        busy_timeout_s: See ``BUSY_TIMEOUT_S``.

    Attributes:
        generation: Counts forks. Whoever caches something that is this process's own compares it.
        news: What to warn of, once nobody holds the lock. See ``tell``.
        lock: Held by the thread that is inside SQLite.

    Raises:
        JournalError: The file can't be opened, see ``translated``.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "process",
        read_only: bool = False,
        at_rest: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.read_only = read_only
        self.generation = 0
        self.durability = durability
        self.news: deque[str] = deque()
        self._file = OpenFile(
            path,
            waits_for_disk=durability == "power",
            read_only=read_only,
            at_rest=at_rest,
            busy_timeout_s=busy_timeout_s,
            news=self.news,
        )
        self._busy_timeout_s = busy_timeout_s
        # Of one that appends: it waits for its turn to write by itself, and so long.
        self._queue: WriteQueue | None = None
        self._wait_s = busy_timeout_s
        self._closed = False
        self._in_block = False
        self.lock = threading.RLock()
        self._beside_lock = threading.Lock()
        with self.lock, translated(path):
            self._connect()
        _live.add(self)

    @property
    def path(self) -> Path:
        """Return the database file."""
        return self._file.path

    @property
    def wal(self) -> bool:
        """Return whether the database has a write-ahead log, as of when it was last open."""
        return self._file.wal

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the driver's connection, in autocommit mode. Hold ``lock`` while using it.

        Raises:
            JournalError: After ``close``.
        """
        connection = self._file.connection
        if connection is None:
            if self._closed:
                msg = f"the journal at {self.path.parent} is closed"
                raise JournalError(msg)
            connection = self._connect()
        return connection

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closed

    @property
    def takes_statements(self) -> bool:
        """Return whether a statement may go straight to the connection, and commits by itself.

        True if the file is open, with a write-ahead log, and in no transaction. Opens nothing.
        """
        file = self._file
        connection = file.connection
        return (
            connection is not None
            and not connection.in_transaction
            and file.wal
            and not file.standing.guarded
        )

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a SELECT. ``?1`` is the first parameter."""
        bindings = bound(sql, parameters)
        with self.lock, translated(self.path):
            try:
                return self.connection.execute(*bindings).fetchall()
            except sqlite3.OperationalError as error:
                if self._queue is None or not is_lock(error):
                    raise
            # Another process recovers the log after a kill, or closes it.
            with self.patience():
                return self.connection.execute(*bindings).fetchall()

    def read_columns(self, sql: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        """Return all rows of a SELECT, as a list for each column.

        Ten thousands of rows at a time make the garbage collector go through all that the process
        holds, again and again: a fifth of the CPU of settling them (benchmarks/settle.py). Numbers
        and texts in lists do not.
        """
        with self.lock, translated(self.path):
            cursor = self.connection.execute(*bound(sql, parameters))
            values = [*itertools.chain.from_iterable(cursor)]
            width = len(cursor.description)
        return [values[place::width] for place in range(width)]

    def read_page(
        self, sql: str, parameters: Sequence[Any] = (), bytes_max: int = PAGE_BYTES_MAX
    ) -> list[Any]:
        """Return the first rows of a SELECT, until they take ``bytes_max``; at least one.

        A crafted row may have any size.
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

        A signal handler may raise at any moment (Ctrl-C, a time-out by SIGALRM). Then the lock is
        freed. A transaction that could not be rolled back is rolled back before the next one. A
        call from inside the transaction of the same thread (a signal handler, ``__del__``) joins
        it.
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
                self._file.commit(connection)
            except sqlite3.ProgrammingError:
                self.roll_back()
                if self._file.connection is connection:
                    raise
                # A fork in a signal handler has taken the connection away before the transaction
                # began.
                return self._write(work)
            except BaseException:
                self.roll_back()
                raise
            return result

    def tell(self) -> None:
        """Log what there is to warn of, unless this thread holds the lock.

        A logging handler has a lock of its own.
        """
        while self.news and not _is_own(self.lock):
            logger.warning("%s", self.news.popleft())

    def roll_back(self) -> None:
        """End a transaction that an interruption left open, if there is one. Hold ``lock``."""
        connection = self._file.connection
        # Some errors (disk full, I/O) roll back by themselves.
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
        self._file.standing.end_turn()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block in one write transaction, where no signal handler raises.

        Elsewhere use ``write``: a ``with`` statement can be interrupted between its lines.
        """
        try:
            with self.lock, translated(self.path):
                connection = self.connection
                self.roll_back()
                self._begin(connection)
                self._in_block = True
                try:
                    yield connection
                    self._file.commit(connection)
                except BaseException:
                    self.roll_back()
                    raise
                finally:
                    self._in_block = False
        finally:
            if self.news:
                self.tell()

    def choose_log(self) -> None:
        """Use a write-ahead log where that is safe. This changes the file.

        Call it only for what is known to be a journal.
        """
        with self.lock, translated(self.path):
            try:
                self._file.choose_log(self.connection)
            except sqlite3.OperationalError as error:
                if not self._file.lacks_memory(error):
                    raise
                self._disconnect()
                self._file.choose_log(self.connection)
            admission = self._file.admission
            if admission.shared is not None:
                logger.warning(
                    "the journal at %s is on %s, where processes can't share SQLite's "
                    "write-ahead log: %s. Set JOURNALTRACK_JOURNAL to a folder on a local disk "
                    "for full speed.",
                    self.path.parent,
                    admission.shared,
                    log_modes.MEANING[admission.mode],
                )

    def set_busy_timeout(self, seconds: float | None) -> None:
        """Set the lock timeout. None restores the initial value."""
        self._wait_s = self._busy_timeout_s if seconds is None else seconds
        if self._queue is None:
            with self.lock, translated(self.path):
                open_file.set_patience(self.connection, self._wait_s)

    def checkpointing(self) -> contextlib.AbstractContextManager[bool]:
        """Keep others from checkpointing during a block; give it whether that succeeded."""
        return (
            contextlib.nullcontext(enter_result=False)
            if self._file.admission.is_alone
            else self._file.standing.checkpointing()
        )

    def write_log_back(self) -> bool:
        """Copy all of the log into the database while nobody appends.

        Returns:
            Whether that could be done at once.
        """
        with self.lock, translated(self.path):
            connection = self._file.connection
            if connection is None or connection.in_transaction:
                # It rests, and no more is appended: whoever closes the database last does it.
                return False
            busy, in_log, written = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            return not busy and bool(written == in_log)

    def beside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on another connection while this one is used, for another thread.

        It waits for no lock of SQLite.
        """
        with self._beside_lock, translated(self.path):
            connection = open_file.connect(self.path, "mode=rw", 0.0)
            try:
                connection.execute("PRAGMA synchronous=NORMAL")
                return work(connection)
            finally:
                connection.close()

    def append_beside_others(self) -> None:
        """Use this connection for appends from now on: short transactions, and many.

        It waits for its turn by ``WriteQueue`` instead of SQLite's busy handler, which starves
        whoever waits. It leaves writing the log back to ``Checkpointer``. With a rollback journal
        nothing changes.
        """
        with self.lock, translated(self.path):
            if self.wal and not self._file.admission.is_alone and self._queue is None:
                self._queue = self._new_queue()
                self._file.serve_appends()

    def _new_queue(self) -> WriteQueue:
        return WriteQueue(
            self.path.parent, URGENT_BEHIND_DISK_S if self.durability == "power" else URGENT_S
        )

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Wait as SQLite does during a block, for what is no append. Hold ``lock``."""
        if self._queue is not None:
            open_file.set_patience(self.connection, self._wait_s)
        try:
            yield
        finally:
            if self._queue is not None and self._file.connection is not None:
                open_file.set_patience(self._file.connection, 0.0)

    @property
    def must_yield(self) -> bool:
        """Return whether another process should have its turn first.

        Whoever waits for the disk in its transactions leaves the lock free for moments.
        """
        return self.durability == "power" and self._queue is not None and self._queue.has_waiting()

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Begin a write transaction, in turn with other processes. Hold ``lock``.

        Raises:
            sqlite3.OperationalError: Not in time.
        """
        file, queue = self._file, self._queue
        file.standing.look()
        if queue is None:
            if not file.standing.guarded:
                self._refuse_own_thread()
                connection.execute("BEGIN IMMEDIATE")
                return
            queue = WriteQueue(self.path.parent)

        refused = [sqlite3.OperationalError("database is locked")]

        def attempt() -> bool:
            """Begin, and note why not."""
            error = file.begin_in_turn(connection)
            if error is not None:
                refused[:] = [error]
            return error is None

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
        """Refuse to wait for a transaction of this very thread: it could never end.

        Raises:
            JournalLockedError: This call was made inside such a transaction, on another connection.
        """
        for other in _all_live():
            # First what is quick and nearly never true: a process may have many journals open.
            if _is_own(other.lock) and self._is_beside(other):
                raise JournalLockedError(
                    f"the journal at {self.path.parent} is locked by a transaction that this "
                    "call was made inside of",
                    hint="what is logged meanwhile is written afterwards",
                )

    def _is_beside(self, other: Database) -> bool:
        """Return whether the other one is of the same journal, and in a transaction."""
        connection = other._file.connection
        return (
            other is not self
            and other.path == self.path
            and connection is not None
            and connection.in_transaction
        )

    def sync(self) -> None:
        """Wait until everything committed is on the disk: a power barrier.

        Raises:
            JournalWriteError: It may not be, and no later success of fsync says that it is: the
                kernel tells of a failure once, and may have dropped what it could not write. The
                next call copies the log into the database and waits for that.
        """
        with self.lock, translated(self.path):
            # With a rollback journal every commit was such a barrier.
            if not self.wal:
                return
            if self._file.has_failed_to_sync:
                with self.patience(), self.checkpointing() as alone:
                    self._file.empty_log(self.connection, alone=alone)
            self._file.sync(lambda: self.connection)

    def look_at_locks(self) -> None:
        """Detect whether this process dropped SQLite's locks, or another one says that it did."""
        self._file.standing.look()

    def moved(self) -> bool:
        """Return whether the path no longer names the file that is open, or the log's name is gone.

        Also looks at what other processes do, and closes the file where another way is better now.
        """
        file = self._file
        if file.connection is None:
            return False
        file.standing.look()
        if file.admission.could_be_alone() and not file.connection.in_transaction:
            # The next use opens it alone.
            self._disconnect()
            return False
        return file.is_displaced() or file.has_lost_log()

    def displaced(self) -> bool:
        """Return whether the path no longer names the file that is open."""
        return self._file.is_displaced()

    def place_now(self) -> Path | None:
        """Return where the file that is open is; None if it was deleted, or nobody can tell."""
        return self._file.place_now()

    def move_to(self, path: Path) -> None:
        """Use another file from now on. The connection to the old one is kept open."""
        with self.lock:
            self._file.move_to(path)
            if self._queue is not None:
                self._queue.close()
                self._queue = self._new_queue()

    def read_copy(self, copy: Callable[[sqlite3.Connection, Path], object]) -> None:
        """Read a private copy instead of the file, for one that is open read-only.

        Args:
            copy: Makes the copy: from a connection to the file, under a path that does not exist
                yet.
        """
        with self.lock, translated(self.path):
            self._file.read_copy(copy)
            self._connect()

    def rest(self) -> None:
        """Close the connection until its next use."""
        with self.lock:
            self._disconnect()

    def close(self) -> None:
        """Close the connection. Idempotent. A later use raises ``JournalError``."""
        with self.lock:
            self._closed = True
            self._disconnect()
        _live.discard(self)

    def make_way(self, timeout_s: float = -1) -> None:
        """Disconnect where this process has the journal alone, unless a transaction is open.

        The next use opens another connection.

        Args:
            timeout_s: How long to wait for the lock; -1: until it is free.
        """
        if self.lock.acquire(timeout=timeout_s):
            try:
                connection = self._file.connection
                if (
                    connection is not None
                    and self._file.admission.is_alone
                    and not connection.in_transaction
                ):
                    self._disconnect()
            finally:
                self.lock.release()

    def _connect(self) -> sqlite3.Connection:
        return self._file.open(self._let_neighbours_go, weakref.WeakMethod(self.make_way))

    def _disconnect(self) -> None:
        if self._queue is not None:
            self._queue.close()
        self._file.close()

    def _let_neighbours_go(self) -> None:
        for other in _all_live():
            if other is not self and other.path == self.path:
                other.make_way(_NEIGHBOUR_S)
        self._refuse_own_thread()

    def _before_fork(self) -> None:
        # No thread of ours may be inside SQLite at the fork: its locks would stay taken in the
        # child for ever.
        self._beside_lock.acquire(timeout=_FORK_WAIT_S)
        if (
            not self.lock.acquire(timeout=_FORK_WAIT_S)
            or self._file.connection is None
            or self._file.connection.in_transaction
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
            # The wait above may have timed out.
            with contextlib.suppress(RuntimeError):
                lock.release()

    def _after_fork_in_child(self) -> None:
        self._file.leave_to_parent()
        if self._queue is not None:
            self._queue.close()
        self.lock = threading.RLock()
        self._beside_lock = threading.Lock()
        self.generation += 1


def _is_own(lock: threading.RLock) -> bool:
    """Return whether this thread holds the lock, as ``threading.Condition`` asks it."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001


def _all_live() -> list[Database]:
    # Another thread may open one just now: then try again.
    with contextlib.suppress(RuntimeError):
        return list(_live)
    return _all_live()


def _for_all_live(method: Callable[[Database], None]) -> None:
    for database in _all_live():
        method(database)


_TRANSACTIONS: Final = process.codes_of(Database._write)  # noqa: SLF001 - this module's own

os.register_at_fork(
    before=lambda: _for_all_live(Database._before_fork),  # noqa: SLF001 - this module's own
    after_in_parent=lambda: _for_all_live(Database._after_fork_in_parent),  # noqa: SLF001
    after_in_child=lambda: _for_all_live(Database._after_fork_in_child),  # noqa: SLF001
)
