"""Open a journal's SQLite file, configure the connection, and close it.

How this process may use the file (alone or beside others, with a write-ahead log or without) is for
``claim`` and ``log_modes`` to say. What comes from the file is never trusted: a journal may come
from somebody else.

Invariants: closing gives back every lock. A forked child never touches its parent's connection.
Must not know threads (``connection.Database`` holds its lock) or what is stored.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import operator
import os
import re
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from journaltrack.errors import JournalReadOnlyError, JournalWriteError
from journaltrack.journal.sqlite import files, log_modes
from journaltrack.journal.sqlite.claim import Admission
from journaltrack.journal.sqlite.errors import OUT_OF_DESCRIPTORS, is_lock, unusable
from journaltrack.journal.sqlite.locks import StandingLocks
from journaltrack.util import paths

# SQLite's own default.
_CHECKPOINT_PAGES: Final = 1_000
_SLOW_S: Final = 0.25
"""A commit that takes longer is worth a warning.

Ours take 4 ms with a rollback journal on a local disk.
"""
_TEXT: Final = operator.methodcaller("decode", "utf-8", "replace")
_NUMBERED: Final = re.compile(r"\?(\d+)")
_NAMES: Final = tuple(f"p{number}" for number in range(1, 100))
_CONFIGURATION: Final = {
    value: on
    for name, on in (
        ("SQLITE_DBCONFIG_DEFENSIVE", True),
        ("SQLITE_DBCONFIG_ENABLE_VIEW", False),
    )
    if (value := getattr(sqlite3, name, None)) is not None
}
# A parent's connections in a forked child: kept, so that nothing closes them.
_left_behind: list[object] = []


class OpenFile:
    """A database file as this process has it open. Not thread-safe.

    Args:
        path: The file.
        waits_for_disk: Each commit waits for the disk (``synchronous=FULL``).
        read_only: Open without the right to write.
        at_rest: Read the file alone, without SQLite's locks and its log; see ``files.at_rest``.
        busy_timeout_s: How long to wait for other processes.
        news: Takes what there is to warn of.

    Attributes:
        path: The file. ``move_to`` changes it.
        connection: The driver's connection, in autocommit mode; None while the file is closed.
        wal: Whether the database has a write-ahead log, as of when it was last open.
        is_chosen: It is known to be a journal, so its log may be changed.
        has_failed_to_sync: What was written before may never reach the disk. ``empty_log`` helps.
        admission: How this process may use the file.
        standing: The locks that last as long as the connection.
    """

    def __init__(
        self,
        path: Path,
        *,
        waits_for_disk: bool,
        read_only: bool,
        at_rest: bool = False,
        busy_timeout_s: float,
        news: deque[str],
    ) -> None:
        self.connection: sqlite3.Connection | None = None
        self.path = path
        self.wal = False
        self.is_chosen = False
        self._are_names_synced = False
        self._waits_for_disk = waits_for_disk
        self._read_only = read_only
        self._at_rest = at_rest
        self._busy_timeout_s = busy_timeout_s
        self._news = news
        # Device and inode of the file that is open.
        self._identity = (0, 0)
        self._is_appending = False
        self.has_failed_to_sync = False
        self._has_told_slow = False
        # Makes what is read instead of the file.
        self._copy: Callable[[sqlite3.Connection, Path], object] | None = None
        self._set_locks()

    def _set_locks(self) -> None:
        self.standing = StandingLocks(self.path, read_only=self._read_only, news=self._news)
        self.admission = Admission(self.path, self.standing, read_only=self._read_only)

    def __del__(self) -> None:
        # Python 3.13 warns of a connection that nobody closed. A tracker's lives as long as
        # somebody may read it back.
        if self.connection is not None:
            self.close()

    # -- opening and closing -------------------------------------------------------------------

    def open(
        self,
        let_neighbours_go: Callable[[], None],
        give_way: weakref.WeakMethod[Callable[[], None]],
    ) -> sqlite3.Connection:
        """Open the file.

        Args:
            let_neighbours_go: Makes this process's other connections let go.
            give_way: Called on another thread, while this process has the journal alone, when
                others ask for it.

        Raises:
            NotAJournalError: A link or a FIFO is in the place of one of its files.
            JournalLockedError: A process has the journal alone and does not let go.
            JournalReadOnlyError: It can't be read without changing it.
            sqlite3.Error: SQLite refuses.
        """
        files.check_files(self.path.parent)
        connection = None
        try:
            if self._at_rest:
                connection = self._open_to_read()
            else:
                connection = self._open_admitted(let_neighbours_go)
                self.admission.listen(give_way)
            if self._copy is not None:
                original, connection = connection, None
                try:
                    connection = self._open_copy(functools.partial(self._copy, original))
                finally:
                    self._close(original)
        except BaseException:
            self._close(connection)
            raise
        self.connection = connection
        return connection

    def _open_admitted(self, let_neighbours_go: Callable[[], None]) -> sqlite3.Connection:
        self.admission.enter(self._busy_timeout_s, let_neighbours_go)
        try:
            connection = self._open()
        except sqlite3.OperationalError as error:
            if not self.lacks_memory(error):
                raise
            self.standing.give_back()
            self.admission.enter(self._busy_timeout_s, let_neighbours_go)
            connection = self._open()
        try:
            if self.admission.shared is not None:
                if self.is_chosen:
                    self.choose_log(connection)
            elif self.wal or (self._read_only and log_modes.is_wal(connection)):
                self.standing.take_all()
            else:
                self.standing.give_back()
        except BaseException:
            self._close(connection)
            raise
        return connection

    def close(self) -> None:
        """Close the connection and give its locks back. Idempotent."""
        connection, self.connection = self.connection, None
        self._are_names_synced = False
        self._close(connection)

    def _close(self, connection: sqlite3.Connection | None) -> None:
        self.standing.let_go()
        if connection is not None:
            if self.admission.is_alone and self.is_chosen:
                # Readers need not know of a log that is gone.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA journal_mode = DELETE")
            connection.close()
        self.admission.leave()
        self.standing.give_back()

    def leave_to_parent(self) -> None:
        """Forget the connection in a forked child: it is the parent's."""
        _left_behind.append(self.connection)
        self.connection = None
        self.admission.leave_to_parent()
        self.standing.leave_to_parent()
        self._are_names_synced = False

    def move_to(self, path: Path) -> None:
        """Open another file from now on. The connection to the old one stays open.

        Closing it would delete the log *by its name*, which may be another database's by now.
        """
        import ctypes  # noqa: PLC0415 - 1 ms, and rarely needed

        _left_behind.extend((self.connection, self.standing))
        # Not even at the end of the interpreter.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))
        self.connection = None
        self._are_names_synced = False
        self.admission.leave()
        self.path = path
        self._set_locks()

    def read_copy(self, copy: Callable[[sqlite3.Connection, Path], object]) -> None:
        """Open a private copy of the file from now on. The file must be open read-only.

        Args:
            copy: Makes the copy, from a connection to the file, under a path that does not exist
                yet.
        """
        self._copy = copy
        self.close()

    def _open(self) -> sqlite3.Connection:
        if self._read_only:
            return self._open_to_read()
        connection = connect(self.path, f"mode=rw{self.admission.options}", self._busy_timeout_s)
        try:
            if self.admission.is_alone or (
                self.admission.shared is not None and log_modes.says_log(self.path)
            ):
                # First of all: what has a log is opened without shared memory.
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.wal = log_modes.is_wal(connection)
            self._identity = _identity(self.path)
            self._set_synchronous(connection)
            if self._waits_for_disk:
                self._sync_names(connection)
            if self._is_appending:
                _set_appending(connection)
            elif self.wal and self.admission.shared is None:
                connection.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_to_read(self) -> sqlite3.Connection:
        options = f"mode=ro{self.admission.options}"
        alone = f"{options}&immutable=1"
        connection = connect(self.path, alone if self._at_rest else options, self._busy_timeout_s)
        try:
            open_now(connection)
        except sqlite3.OperationalError as error:
            # A write-ahead log needs a shared-memory file beside the database. Read-only media have
            # none, and no writer either.
            connection.close()
            self._refuse_immutable(error)
            if _has_content(self.path, "-wal"):
                # A writer was killed here: SQLite must bring its log in, which only a copy allows.
                from journaltrack.journal.sqlite.copies import copy_files  # noqa: PLC0415 - rare

                return self._open_copy(functools.partial(copy_files, self.path))
            return connect(self.path, alone, self._busy_timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_copy(self, copy: Callable[[Path], object]) -> sqlite3.Connection:
        """Return a connection to a private copy, which is gone with the connection."""
        from journaltrack.journal.sqlite.copies import place_for_copy  # noqa: PLC0415 - rare

        with place_for_copy(self.path) as file:
            copy(file)
            connection = connect(file, "mode=ro", self._busy_timeout_s)
            try:
                open_now(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _refuse_immutable(self, error: sqlite3.OperationalError) -> None:
        """Refuse to read the file alone, without locks, unless that is right.

        It is if nobody writes, and all of the journal is in the file.

        Raises:
            JournalReadOnlyError: A transaction was cut short, and has to be rolled back first.
            sqlite3.OperationalError: What SQLite said.
        """
        writable = os.access(self.path.parent, os.W_OK)
        if _has_content(self.path, "-journal"):
            raise JournalReadOnlyError(
                f"the journal at {self.path.parent} was left in the middle of a transaction, "
                "which can't be rolled back by reading alone",
                hint="`journaltrack sync` rolls it back; on a medium that can't be written "
                "copy the whole folder first. No recorded entry is lost",
            ) from error
        if is_lock(error) or (writable and _has_content(self.path, "-wal")):
            raise error

    def lacks_memory(self, error: sqlite3.OperationalError) -> bool:
        """Return whether to try again without shared memory: once, if a file can't be mapped."""
        admission = self.admission
        lacking = (
            admission.has_memory
            and admission.mode == "log"
            and not self._read_only
            and "I/O" in str(error)
        )
        admission.has_memory = not lacking
        return lacking

    # -- configuration -------------------------------------------------------------------------

    def choose_log(self, connection: sqlite3.Connection) -> None:
        """Use a write-ahead log where that is safe. This changes the file.

        Call it only for what is known to be a journal.

        Raises:
            sqlite3.OperationalError: Others did not release their locks in time.
        """
        self.is_chosen = True
        self.wal = log_modes.choose(connection, self.admission.mode, self._busy_timeout_s)
        if self.wal and not self.admission.is_alone:
            self.standing.take_all()
        self._set_synchronous(connection)
        if self._waits_for_disk:
            self._sync_names(connection)

    def serve_appends(self) -> None:
        """Configure this and each later connection as one that appends.

        It neither writes the log back at a commit, nor waits for a lock by itself.
        """
        self._is_appending = True
        if self.connection is not None:
            _set_appending(self.connection)

    def _set_synchronous(self, connection: sqlite3.Connection) -> None:
        mode = "FULL" if self._waits_for_disk or not self.wal else "NORMAL"
        connection.execute(f"PRAGMA synchronous={mode}")

    def _sync_names(self, connection: sqlite3.Connection) -> None:
        """Sync the log's name and the folder's.

        SQLite syncs only names of files that it made itself. Once for a connection is enough: as
        long as one is open, nobody deletes the log.
        """
        # Opens the log, or makes it.
        open_now(connection)
        paths.fsync(self.path.parent)
        paths.fsync(self.path.parent.parent)
        self._are_names_synced = True

    # -- transactions and barriers -------------------------------------------------------------

    def begin_in_turn(self, connection: sqlite3.Connection) -> sqlite3.OperationalError | None:
        """Begin a write transaction if it is this process's turn, without waiting.

        Returns:
            Why not yet; None if it has begun.
        """
        if not self.standing.take_turn():
            return sqlite3.OperationalError("database is locked")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self.standing.end_turn()
            if not is_lock(error):
                raise
            return error
        return None

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit a write transaction, and end this process's turn."""
        if self.admission.shared is not None:
            self._commit_slowly(connection, self.admission.shared)
        elif self._is_appending or not self.wal:
            connection.execute("COMMIT")
        else:
            with self.standing.checkpointing() as alone:
                connection.execute(
                    f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES if alone else 0}"
                )
                connection.execute("COMMIT")
        self.standing.end_turn()

    def _commit_slowly(self, connection: sqlite3.Connection, shared: str) -> None:
        began = time.monotonic()
        connection.execute("COMMIT")
        took_s = time.monotonic() - began
        if took_s > _SLOW_S and not self._has_told_slow:
            self._has_told_slow = True
            self._news.append(
                f"the journal at {self.path.parent} is slow: a commit took {took_s:.1f} s on "
                f"{shared}. Training waits that long for each call; set "
                "JOURNALTRACK_JOURNAL to a folder on a local disk."
            )

    def sync(self, opened: Callable[[], sqlite3.Connection]) -> None:
        """Sync the log and its name to the disk.

        Args:
            opened: Returns the connection, and opens it first if it is closed.

        Raises:
            JournalWriteError: The disk refuses.
        """
        # Never open the database file itself here: closing any descriptor of it drops this
        # process's POSIX locks, and with them SQLite's protection.
        try:
            paths.fsync(self.path.with_name(self.path.name + "-wal"))
            if not self._are_names_synced:
                self._sync_names(opened())
        except FileNotFoundError:
            # Nothing was written since the log was last emptied.
            pass
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise unusable(self.path) or self._not_synced(str(error)) from error
            self.has_failed_to_sync = True
            raise self._not_synced(str(error)) from error

    def empty_log(self, connection: sqlite3.Connection, *, alone: bool) -> None:
        """Copy the log into the database, and wait for the disk, after ``sync`` failed.

        Args:
            connection: An open connection.
            alone: No other process writes the log back now.

        Raises:
            JournalWriteError: Others use the journal.
        """
        if not alone or connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise self._not_synced(
                "the last flush failed, and while others use the journal it can't be repeated"
            )
        self.has_failed_to_sync = False

    def _not_synced(self, why: str) -> JournalWriteError:
        hint = (
            "check the disk (dmesg), and flush again; entries survive a kill, but perhaps not "
            "loss of power"
        )
        return JournalWriteError(
            f"the journal at {self.path.parent} could not be flushed: {why}", hint=hint
        )

    # -- the file's place ----------------------------------------------------------------------

    def is_displaced(self) -> bool:
        """Return whether the path no longer names the file that is open.

        A folder that can't be looked at (no permission for a moment, a file server that restarts)
        is not a deleted one.
        """
        if self.connection is None:
            return False
        try:
            return _identity(self.path) != self._identity
        except OSError as error:
            return _is_gone(error)

    def has_lost_log(self) -> bool:
        """Return whether the log has no name any more; False if it can't be told."""
        if not self.wal:
            return False
        try:
            os.lstat(f"{self.path}-wal")
        except OSError as error:
            return _is_gone(error)
        return False

    def place_now(self) -> Path | None:
        """Return where the file that is open is.

        None if it was deleted, or the system does not tell (no /proc).
        """
        with contextlib.suppress(OSError):
            for descriptor in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    status = descriptor.stat()
                    if (status.st_dev, status.st_ino) == self._identity and status.st_nlink:
                        return Path(os.readlink(descriptor))  # noqa: PTH115
        return None


class _Connection(sqlite3.Connection):
    """Close quietly when it is collected, which Python 3.13 warns of.

    A tracker that was read back after its end is collected with its connection, in any order.
    """

    def __del__(self) -> None:
        # It may never have been open.
        with contextlib.suppress(sqlite3.ProgrammingError):
            self.close()


def connect(path: Path, options: str, busy_timeout_s: float) -> sqlite3.Connection:
    """Connect to a database, and trust nothing of what the file brings.

    See https://sqlite.org/security.html.

    Args:
        path: The file. It need not be text.
        options: The query of the connection's URI.
        busy_timeout_s: How long SQLite waits for a lock.
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{options}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
        factory=_Connection,
    )
    try:
        # The default raises where a crafted or damaged text is not UTF-8.
        connection.text_factory = _TEXT
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        # Python 3.12 and later.
        if hasattr(connection, "setconfig"):
            for option, value in _CONFIGURATION.items():
                # A build of SQLite may not have it.
                with contextlib.suppress(sqlite3.OperationalError):
                    connection.setconfig(option, value)
    except BaseException:
        connection.close()
        raise
    return connection


@functools.lru_cache(maxsize=1_000)
def _named(sql: str) -> str:
    return _NUMBERED.sub(r":p\1", sql)


def bound(sql: str, parameters: Sequence[Any]) -> tuple[str, Sequence[Any] | dict[str, Any]]:
    """Give ``?1`` its value by a name.

    Python 3.12 warns of a sequence for numbered parameters, and Python 3.14 refuses it.
    """
    named = _named(sql)
    return (
        (sql, parameters) if named == sql else (named, dict(zip(_NAMES, parameters, strict=False)))
    )


def open_now(connection: sqlite3.Connection) -> None:
    """Make SQLite open the file and its log, which it does at the first read."""
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def set_patience(connection: sqlite3.Connection, seconds: float) -> None:
    """Set how long SQLite waits for a lock."""
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _set_appending(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    set_patience(connection, 0.0)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - on the path of an append now and then
    return status.st_dev, status.st_ino


def _is_gone(error: OSError) -> bool:
    # Without errno it comes from a signal handler (a time-out is an OSError).
    if error.errno is None:
        raise error
    return error.errno in {errno.ENOENT, errno.ENOTDIR}


def _has_content(database: Path, suffix: str) -> bool:
    try:
        return database.with_name(database.name + suffix).stat().st_size > 0
    except OSError:
        return False
