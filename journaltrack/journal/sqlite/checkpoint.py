"""Checkpoint a journal's write-ahead log in the background.

SQLite's automatic checkpoint runs inside the commit that makes the log 1,000 pages long. That
caller waits for milliseconds, once in about 1,000 calls. So a connection that appends turns it off
(``Database.append_beside_others``). After ``CHECKPOINT_ENTRIES`` entries it wakes a thread, which
checkpoints through a connection of its own and then ends.

A passive checkpoint blocks nobody. But SQLite reuses the log from its start only when every page of
it is in the database. If callers never pause, that moment never comes and the log grows without
limit. So when the log has more than ``LOG_PAGES_MAX`` pages, appends wait while the rest (a few
hundred pages) is checkpointed: 1 ms, once in 10,000 calls or more.

Pages in the log are as durable as pages in the database: a failure or a kill here loses nothing.
Must not know what is stored.
"""

from __future__ import annotations

import _thread
import logging
import os
import time
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalError

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database

logger = logging.getLogger(__name__)

CHECKPOINT_ENTRIES: Final = 1_000
"""Entries that one process appends between checkpoints.

One entry takes about one page of the log, so this is SQLite's own limit.
"""
_LOG_BYTES: Final = CHECKPOINT_ENTRIES * 4_096
"""The same limit as a size of the log, for a process that has just started."""
LOG_PAGES_MAX: Final = 8_192
"""Pages of 4 KiB, 32 MiB in all: the next start after a kill reads them in 30 ms."""
LOG_PAGES_MAX_BEHIND_DISK: Final = 1_000
"""The limit with ``durability="power"``, where each call waits for the disk.

A log that grows must also sync its new size, which doubles the wait (measured on ext4: 280 µs
instead of 140 µs). A log that starts again from its beginning is overwritten in place.
"""

_LOOK_EVERY_S: Final = 0.001


class Checkpointer:
    """Run checkpoints in the background for one appending process.

    Threads may share it. A forked child starts a thread of its own.

    Args:
        database: The appending connection. Appends hold its lock.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generation = database.generation
        # Held by the thread that is checkpointing.
        self._working = _thread.allocate_lock()
        self._wanted = False
        self._log_pages_max = (
            LOG_PAGES_MAX_BEHIND_DISK if database.durability == "power" else LOG_PAGES_MAX
        )

    def wake(self) -> None:
        """Start a checkpoint in the background, unless one is running.

        Costs the caller the start of one thread at most.
        """
        # After a fork, the parent's thread does not exist here and would never release the lock.
        if self._generation != self._database.generation:
            self._working = _thread.allocate_lock()
            self._generation = self._database.generation
        self._wanted = True
        # Not ``threading.Thread``: its clean-up can run in any thread, and there it swallows
        # exceptions that a signal handler raises.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            # No thread can start, or the interpreter is exiting: checkpoint here, as SQLite would.
            self._run()

    def wake_if_large(self) -> None:
        """Start a checkpoint if the log's file is large.

        Many processes that append little each might never wake it. The file is as large as the log
        ever was since all other connections were closed.
        """
        try:
            status = os.stat(f"{self._database.path}-wal")  # noqa: PTH116 - quicker than a Path
        except OSError as error:
            # Without errno it comes from a signal handler (a time-out is an OSError).
            if error.errno is None:
                raise
            return
        if status.st_size > _LOG_BYTES:
            self.wake()

    def wait(self) -> None:
        """Wait until no checkpoint is running."""
        self._wanted = False
        # Polls without taking the lock: a signal handler that called this would wait for itself.
        while self._generation == self._database.generation and self._working.locked():
            time.sleep(_LOOK_EVERY_S)

    def _run(self) -> None:
        if not self._working.acquire(blocking=False):
            return
        try:
            if self._wanted:
                write_back(self._database, log_pages_max=self._log_pages_max)
        except JournalError as error:
            # The disk is full, or the journal was moved or closed: the next append reports it.
            logger.debug("the log could not be written back: %s", error)
        finally:
            self._working.release()


def write_back(database: Database, *, log_pages_max: int = LOG_PAGES_MAX) -> bool:
    """Checkpoint the log, without blocking appends if possible.

    Args:
        database: The appending connection.
        log_pages_max: Above this many pages in the log, appends wait until the rest is written.

    Returns:
        Whether the whole log was checkpointed.

    Raises:
        JournalError: The database could not be opened or written.
    """
    with database.checkpointing() as alone:
        if not alone:
            return False
        busy, in_log, written = database.beside(_passive)
        if not busy and in_log > log_pages_max:
            return database.write_log_back()
        return not busy and written >= in_log


def _passive(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Run two passive checkpoints.

    The second one is short, and leaves almost nothing for which appends may have to wait.

    Returns:
        1 if another process was checkpointing, else 0; pages in the log when the second checkpoint
        began; how many of those are in the database.
    """
    for _ in range(2):
        answer: tuple[int, int, int] = connection.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchone()
    return answer
