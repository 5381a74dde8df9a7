"""Writes a journal's log back into its database beside those who append, instead of at the call that meets the limit.

SQLite's automatic checkpoint runs inside the commit that makes the log 1,000 pages long: a caller waits for milliseconds,
once in about a thousand calls. A connection that appends turns it off (``Database.append_beside_others``) and wakes this
one when it has appended ``CHECKPOINT_ENTRIES``: a thread with a connection of its own, for as long as there is something
to write back.

A passive checkpoint makes nobody wait, but the log begins anew only at a moment when all of it is written back: under a
caller that never pauses it would grow for ever. So once it has more than ``LOG_PAGES_MAX`` pages, what the passive ones
left (a few hundred pages) is written back while appends wait: a millisecond, in ten thousand calls or more.

What is in the log is as safe as what is in the database: neither a failure nor a kill here loses anything. Must not know
what is stored.
"""

from __future__ import annotations

import _thread
import logging
import time
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalError

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database

logger = logging.getLogger(__name__)

CHECKPOINT_ENTRIES: Final = 1_000
"""Appended by one process since the last time: about as many pages of the log, which is SQLite's own limit."""
LOG_BYTES: Final = CHECKPOINT_ENTRIES * 4_096
"""As much, for a process that has just begun."""
LOG_PAGES_MAX: Final = 8_192
"""Of 4 KiB: 32 MiB that a start after a kill has to read, 30 ms."""
LOG_PAGES_MAX_BEHIND_DISK: Final = 1_000
"""... where each call waits for the disk: a log that grows needs its new size on the disk, too, which doubles the wait (measured: 280 µs
against 140 on ext4); one that begins anew is written over."""

_LOOK_EVERY_S: Final = 0.001


class Checkpointer:
    """Of one process that appends. Threads may share it; a forked child starts a thread of its own.

    Args:
        database: The appending connection; its lock is what appends hold.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generation = database.generation
        self._working = _thread.allocate_lock()  # held by the thread that is at it
        self._wanted = False
        self._log_pages_max = LOG_PAGES_MAX_BEHIND_DISK if database.durability == "power" else LOG_PAGES_MAX

    def wake(self) -> None:
        """Begin in the background, unless it is under way. Costs the starting of a thread at most."""
        if self._generation != self._database.generation:  # the parent's thread is not here to give the lock back
            self._working = _thread.allocate_lock()
            self._generation = self._database.generation
        self._wanted = True
        # No ``threading.Thread``: its clean-up runs in whichever thread, and swallows what a signal handler raises there.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no more threads here, or the interpreter is ending: as SQLite does it
            self._run()

    def wait(self) -> None:
        """Until nothing is under way any more."""
        self._wanted = False
        # Never holds the lock: a signal handler that comes here meanwhile would wait for its own thread.
        while self._generation == self._database.generation and self._working.locked():
            time.sleep(_LOOK_EVERY_S)

    def _run(self) -> None:
        if not self._working.acquire(blocking=False):
            return
        try:
            if self._wanted:
                write_back(self._database, log_pages_max=self._log_pages_max)
        except JournalError as error:  # the disk is full, the journal was moved or closed: whoever appends finds out, and says so
            logger.debug("the log could not be written back: %s", error)
        finally:
            self._working.release()


def write_back(database: Database, *, log_pages_max: int = LOG_PAGES_MAX) -> bool:
    """Write the log back into the database without holding up those who append, if that can be.

    Args:
        database: The appending connection.
        log_pages_max: With more pages in the log, appends wait for the last of them.

    Returns:
        Whether all of it was written back.

    Raises:
        JournalError: It could not be opened or written.
    """
    with database.checkpointing() as alone:
        if not alone:
            return False
        busy, in_log, written = database.beside(_passive)
        if not busy and in_log > log_pages_max:
            return database.write_log_back()
        return not busy and written >= in_log


def _passive(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Whether another process is at it; pages in the log when it began, and how many of those are in the database.

    Twice: the second time is short, and leaves next to nothing for the moment at which appends wait.
    """
    for _ in range(2):
        answer: tuple[int, int, int] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return answer
