"""Look at journals from outside: find them, see changes, and see whether one is whole.

Nothing here reads a journal's content. A look costs two ``stat`` calls and the locks of its
writers.

Events: this is the only module that imports watchdog. It watches each folder by itself, not
recursively: a spool has up to 256 folders without interest. Polling is cheaper than events for a
folder with constant writes: an event costs 0.1 to 0.2 ms of Python (measured), two ``stat`` calls
5 µs. So the watcher forgets a folder while it is busy, and watches it again when it is quiet.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from watchdog import events
from watchdog.observers import Observer

from journaltrack.journal import writers
from journaltrack.util import paths
from journaltrack.util.text import logfmt

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

logger = logging.getLogger(__name__)

LIMIT_AGAIN_S: Final = 600.0
"""How long not to ask for another watch after the system refused one."""
_KINDS: Final[list[type[events.FileSystemEvent]]] = [
    events.FileModifiedEvent,
    events.FileCreatedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
    events.DirDeletedEvent,
]
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link would lead out of the journal, and opening a FIFO would block."""
_COPYING: Final = (".part", ".partial", ".filepart", ".crdownload", ".tmp")


class FolderEvents:
    """Tell in which folders something happened. Threads may share it.

    Args:
        wake: Called on a thread of watchdog if ``taken`` has something to return.
        clock: Monotonic seconds.
    """

    def __init__(
        self, wake: Callable[[], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wake = wake
        self._clock = clock
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, ObservedWatch] = {}
        # The type of each device's network file system, which sends no events, or None.
        self._kinds: dict[int, str | None] = {}
        self._happened: set[Path] = set()
        self._lock = threading.Lock()
        self._refused_until = float("-inf")

    def watch(self, folder: Path) -> bool:
        """Watch a folder for later events. Return False if that is impossible: then poll it."""
        if folder in self._watches:
            return True
        if self._clock() < self._refused_until or self._is_remote(folder):
            return False
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.daemon = True
                self._observer.start()
            handler = _Handler(folder, self)
            self._watches[folder] = self._observer.schedule(
                handler, str(folder), event_filter=_KINDS
            )
        except OSError as error:
            if is_limit(error):
                self._refused_until = self._clock() + LIMIT_AGAIN_S
                hint = "raise fs.inotify.max_user_watches and max_user_instances"
                logger.warning(logfmt("polling", reason="limit", folder=folder, hint=hint))
            return False
        return True

    def forget(self, folder: Path) -> None:
        """Stop watching a folder."""
        watch = self._watches.pop(folder, None)
        if watch is not None and self._observer is not None:
            # If the folder is gone, its watch is gone too.
            try:
                self._observer.unschedule(watch)
            except (KeyError, OSError):
                logger.debug("no watch of %s was left", folder)

    def taken(self) -> set[Path]:
        """Return the folders in which something happened since the last call."""
        with self._lock:
            happened, self._happened = self._happened, set()
        return happened

    def happened(self, folder: Path) -> None:
        """Take note that something happened in a folder."""
        with self._lock:
            known = folder in self._happened
            self._happened.add(folder)
        if not known:
            self._wake()

    def close(self) -> None:
        """End watchdog's threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._watches.clear()

    def _is_remote(self, folder: Path) -> bool:
        try:
            device = folder.stat().st_dev
        except OSError:
            return False
        if device not in self._kinds:
            kind = self._kinds[device] = paths.network_file_system(folder)
            if kind is not None:
                logger.warning(
                    logfmt("polling", reason="network_file_system", type=kind, folder=folder)
                )
        return self._kinds[device] is not None


class NoEvents:
    """Send no events, for a watcher that only polls.

    Inside a training process, the process's own appends would be thousands of events.
    """

    def watch(self, _folder: Path) -> bool:
        """Return False: the folder must be polled."""
        return False

    def forget(self, folder: Path) -> None:
        """Do nothing."""

    def taken(self) -> set[Path]:
        """Return nothing."""
        return set()

    def close(self) -> None:
        """Do nothing."""


class _Handler(events.FileSystemEventHandler):
    """Pass on events of a journal's database, and of folders that come or go."""

    def __init__(self, folder: Path, to: FolderEvents) -> None:
        self._folder = folder
        self._to = to

    def dispatch(self, event: events.FileSystemEvent) -> None:
        """Pass on an event, on watchdog's thread."""
        names = (Path(str(path)).name for path in (event.src_path, event.dest_path) if path)
        if event.is_directory or any(name.startswith(paths.DATABASE) for name in names):
            self._to.happened(self._folder)


class Files(NamedTuple):
    """Hold a journal's files as ``stat`` shows them.

    If two are equal, nothing was written in between. An empty log is the same as none: opening a
    journal for reading makes one.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    log_bytes: int
    log_mtime_ns: int
    dead: frozenset[str] = frozenset()
    """Writers that ended without finishing, since a kill changes no file."""

    def replaced_by(self, other: Files) -> bool:
        """Return whether ``other`` is another journal, and not this one after more writes."""
        is_same = (self.device, self.inode) == (other.device, other.inode)
        return not is_same or other.size_bytes < self.size_bytes


def files_of(journal: Path) -> Files | None:
    """Return the files as they are now, or None if there is no journal.

    Raises:
        OSError: The files can't be examined (permission, input/output).
    """
    try:
        database = (journal / paths.DATABASE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        log = (journal / f"{paths.DATABASE}-wal").stat()
    except FileNotFoundError:
        log = None
    of_log = (log.st_size, log.st_mtime_ns) if log is not None and log.st_size else (0, 0)
    of_database = (database.st_dev, database.st_ino, database.st_size, database.st_mtime_ns)
    return Files(*of_database, *of_log, dead=writers.dead(journal))


def in_arrival(journal: Path, files: Files) -> str | None:
    """Return why the journal can't be whole yet, or None if its files look whole.

    The caller must also wait for silence: a copy that pauses between two files looks whole.
    """
    try:
        names = os.listdir(journal)  # noqa: PTH208 - only names are needed
        begin = f".{paths.DATABASE}"
        copying = [n for n in names if n.startswith(begin) or n.endswith(_COPYING) or n == ".~tmp~"]
        if copying:
            return f"{copying[0]} says that it is being copied"
        if files.size_bytes == 0 and not files.log_bytes:
            return "its database is empty"
        header = _header(journal)
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    if len(header) < _HEADER_BYTES:
        return "its database has not arrived"
    # Opening a file that is no database tells what it is.
    if not header.startswith(_SQLITE_MAGIC):
        return None
    page_bytes, pages = _pages(header)
    if not files.log_bytes and files.size_bytes < page_bytes * pages:
        return f"its database has {files.size_bytes} of {page_bytes * pages} bytes"
    return None


def log_is_torn(journal: Path, files: Files) -> bool:
    """Return whether the log ends within a frame.

    It is an unfinished copy, or its writer was killed during a write.
    """
    if not files.log_bytes:
        return False
    try:
        page_bytes, _ = _pages(_header(journal).ljust(_HEADER_BYTES, b"\0"))
    except OSError:
        return True
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    return page_bytes > 0 and (files.log_bytes - _WAL_HEADER_BYTES) % frame_bytes != 0


def _header(journal: Path) -> bytes:
    """Read the database's header.

    Raises:
        OSError: The file can't be read, or is a link.
    """
    descriptor = os.open(journal / paths.DATABASE, _READING)
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, _HEADER_BYTES) if is_file else b""
    finally:
        os.close(descriptor)


def _pages(header: bytes) -> tuple[int, int]:
    """Return page size and number of pages from a header (https://sqlite.org/fileformat2.html)."""
    page_bytes = int.from_bytes(header[16:18], "big")
    return 65_536 if page_bytes == 1 else page_bytes, int.from_bytes(header[28:32], "big")


def is_limit(error: OSError) -> bool:
    """Return whether the system has no more watches or instances of inotify."""
    return error.errno in {errno.ENOSPC, errno.EMFILE, errno.ENFILE}
