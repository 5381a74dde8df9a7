"""The only place that knows watchdog: which watched folders something happened in.

One watch per folder, not recursive: a spool has up to 256 folders that nobody needs to hear of. A folder that is written
to all the time is better polled (an event costs 0.1 to 0.2 ms of Python, measured; two ``stat`` calls cost 5 µs), so the
watcher forgets it while it is busy and watches it again when it is quiet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdog import events
from watchdog.observers import Observer

from journaltrack.util import paths
from journaltrack.watch.folders import is_limit

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
