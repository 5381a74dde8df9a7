"""Journals seen from outside: which there are below a folder, whether one changed, whether one has arrived as a whole.

Nothing here reads a journal's content, and a look costs two ``stat`` calls and the locks of its writers.

The only place that knows watchdog: which watched folders something happened in.

One watch per folder, not recursive: a spool has up to 256 folders that nobody needs to hear of. A folder that is written
to all the time is better polled (an event costs 0.1 to 0.2 ms of Python, measured; two ``stat`` calls cost 5 µs), so the
watcher forgets it while it is busy and watches it again when it is quiet.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from watchdog import events
from watchdog.observers import Observer

from journaltrack.journal import writer_life
from journaltrack.util import paths

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

logger = logging.getLogger(__name__)

LIMIT_AGAIN_S: Final = 600.0
"""After the system refused a watch: how long none is asked for."""
_KINDS: Final[list[type[events.FileSystemEvent]]] = [
    events.FileModifiedEvent,
    events.FileCreatedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
    events.DirDeletedEvent,
]


class FolderEvents:
    """Tells in which folders something happened. Threads may share it.

    Args:
        wake: Called (on a thread of watchdog) when there is something to take.
        clock: Monotonic seconds.
    """

    def __init__(self, wake: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, ObservedWatch] = {}
        self._kinds: dict[int, str | None] = {}  # by device: the type of a network file system, which sends no events
        self._happened: set[Path] = set()
        self._lock = threading.Lock()
        self._refused_until = float("-inf")

    def watch(self, folder: Path) -> bool:
        """Watch a folder; False when that can't be, and it has to be polled. What happened before is not told."""
        if folder in self._watches:
            return True
        if self._clock() < self._refused_until or self._is_remote(folder):
            return False
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.daemon = True
                self._observer.start()
            self._watches[folder] = self._observer.schedule(_Handler(folder, self), str(folder), event_filter=_KINDS)
        except OSError as error:
            if is_limit(error):
                self._refused_until = self._clock() + LIMIT_AGAIN_S
                logger.warning(
                    "event=polling reason=limit folder=%s hint=%s",
                    folder,
                    '"the system has no more inotify watches: raise fs.inotify.max_user_watches and max_user_instances; folders are polled"',
                )
            return False
        return True

    def forget(self, folder: Path) -> None:
        """Watch it no more."""
        watch = self._watches.pop(folder, None)
        if watch is not None and self._observer is not None:
            try:
                self._observer.unschedule(watch)
            except (KeyError, OSError):  # the folder is gone, and its watch with it
                logger.debug("no watch of %s was left", folder)

    def taken(self) -> set[Path]:
        """The folders in which something happened since the last time."""
        with self._lock:
            happened, self._happened = self._happened, set()
        return happened

    def happened(self, folder: Path) -> None:
        """Something did."""
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
                logger.warning("event=polling reason=network_file_system type=%s folder=%s", kind, folder)
        return self._kinds[device] is not None


class NoEvents:
    """For a watcher that polls alone: inside a training process, whose own appends would be events by the thousand."""

    def watch(self, _folder: Path) -> bool:
        """Never."""
        return False

    def forget(self, folder: Path) -> None:
        """Nothing to forget."""

    def taken(self) -> set[Path]:
        """Nothing."""
        return set()

    def close(self) -> None:
        """Nothing to end."""


class _Handler(events.FileSystemEventHandler):
    """Passes on what concerns a journal's database or a folder that came or went."""

    def __init__(self, folder: Path, to: FolderEvents) -> None:
        self._folder = folder
        self._to = to

    def dispatch(self, event: events.FileSystemEvent) -> None:
        """On watchdog's thread."""
        names = (Path(str(path)).name for path in (event.src_path, event.dest_path) if path)
        if event.is_directory or any(name.startswith(paths.DATABASE) for name in names):
            self._to.happened(self._folder)


DEPTH_MAX: Final = 4
"""How deep below a watched folder journals are looked for."""
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link leads out of the journal, a FIFO would be waited for."""
_COPYING: Final = (".part", ".partial", ".filepart", ".crdownload", ".tmp")


class Files(NamedTuple):
    """A journal's files as ``stat`` tells them; two equal ones mean that nothing was written in between.

    An empty log is the same as none: opening a journal for reading makes one.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    log_bytes: int
    log_mtime_ns: int
    dead: frozenset[str] = frozenset()
    """Writers that ended without ending what they had begun: a kill changes no file."""

    def replaced_by(self, other: Files) -> bool:
        """Whether ``other`` is not this journal grown, but another one, or one that is written anew."""
        return (self.device, self.inode) != (other.device, other.inode) or other.size_bytes < self.size_bytes


def files_of(journal: Path) -> Files | None:
    """The files as they are now; None when there is no journal (any more).

    Raises:
        OSError: They can't be looked at (permission, input/output).
    """
    try:
        database = (journal / paths.DATABASE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        log = (journal / f"{paths.DATABASE}-wal").stat()
    except FileNotFoundError:
        log = None
    held = (log.st_size, log.st_mtime_ns) if log is not None and log.st_size else (0, 0)
    return Files(database.st_dev, database.st_ino, database.st_size, database.st_mtime_ns, *held, dead=writer_life.dead(journal))


def journals_in(folder: Path, depth: int = DEPTH_MAX) -> Iterator[Path]:
    """The journals at and below a folder; hidden folders, links, and what is inside of journals are left out.

    Folders that can't be read, or vanish meanwhile, count as empty.
    """
    try:
        with os.scandir(folder) as found:
            children = list(found)
    except OSError:
        return
    if any(child.name == paths.DATABASE for child in children):
        yield folder
        return
    if depth > 0:
        for child in sorted(children, key=lambda each: each.name):
            if not child.name.startswith(".") and _is_folder(child):
                yield from journals_in(Path(child.path), depth - 1)


def in_arrival(journal: Path, files: Files) -> str | None:
    """Why the journal can't be whole yet, as far as its files tell; None when they look whole.

    Silence is needed beside it: a copy that pauses between two files looks whole.
    """
    try:
        names = os.listdir(journal)  # noqa: PTH208 - names are all that is wanted
        copying = [n for n in names if n.startswith(f".{paths.DATABASE}") or n.endswith(_COPYING) or n == ".~tmp~"]
        if copying:
            return f"{copying[0]} says that it is being copied"
        if files.size_bytes == 0 and not files.log_bytes:
            return "its database is empty"
        header = _header(journal)
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    if not header.startswith(_SQLITE_MAGIC) or len(header) < 100:  # noqa: PLR2004 - SQLite's file format: the header's size
        return "its database has not arrived" if len(header) < 100 else None  # noqa: PLR2004 - opening it tells what it is
    page_bytes, pages = _pages(header)
    if not files.log_bytes and files.size_bytes < page_bytes * pages:
        return f"its database has {files.size_bytes} of {page_bytes * pages} bytes"
    return None


def log_is_torn(journal: Path, files: Files) -> bool:
    """Whether the log ends within a frame: a copy under way, or a writer that was killed in the middle of a write."""
    if not files.log_bytes:
        return False
    try:
        page_bytes, _ = _pages(_header(journal).ljust(100, b"\0"))
    except OSError:
        return True
    return page_bytes > 0 and (files.log_bytes - _WAL_HEADER_BYTES) % (_FRAME_HEADER_BYTES + page_bytes) != 0


def _header(journal: Path) -> bytes:
    """The first 100 bytes of the database.

    Raises:
        OSError: It can't be read, or is a link.
    """
    descriptor = os.open(journal / paths.DATABASE, _READING)
    try:
        return os.read(descriptor, 100) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _pages(header: bytes) -> tuple[int, int]:
    """Page size and number of pages, from a database's header (https://sqlite.org/fileformat2.html)."""
    page_bytes = int.from_bytes(header[16:18], "big")
    return 65_536 if page_bytes == 1 else page_bytes, int.from_bytes(header[28:32], "big")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def is_limit(error: OSError) -> bool:
    """Whether the system has no more watches or instances of inotify to give."""
    return error.errno in {errno.ENOSPC, errno.EMFILE, errno.ENFILE}
