"""Mirror a journal once, or for as long as somebody writes to it.

A look costs two ``stat`` calls on the journal's own disk. The bytes of artifacts are copied on a
thread of their own, since segments must not wait for them. If the mirror can't be written, the next
attempt comes after a growing, jittered delay. The journal has everything meanwhile.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.errors import (
    InvalidInputError,
    JournalError,
    JournalNotFoundError,
    JournalOutdatedError,
    JournalTooNewError,
    JournaltrackError,
    MirrorError,
    NotAJournalError,
)
from journaltrack.journal import interruption, writers
from journaltrack.journal.journal import Journal
from journaltrack.mirror import exchange, folders, shared_files
from journaltrack.mirror.beside import Told
from journaltrack.mirror.ship import Shipped, Shipper
from journaltrack.mirror.take import Replicated, Taker
from journaltrack.util import config, paths
from journaltrack.util.text import logfmt

if TYPE_CHECKING:
    from journaltrack.mirror.folders import Mirror

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 1.5
"""Our choice: with the look before it and the write behind it, an entry is mirrored within 2 s.

Also the default of ``mirror_every_s``.
"""
_LOOK_S: Final = 0.1
_TAKE_EVERY_S: Final = 30.0
"""Our choice: how often to look for receipts from where the journal is delivered."""
_EARLY: Final = 0.9
"""The part of a heartbeat's time after which the next one is written."""
_RETRY_FIRST_S: Final = 1.0
_RETRY_MAX_S: Final = 30.0
_WAIT_S: Final = 10.0
"""Our choice: how long to wait for another process that mirrors the same copy."""


class Follower:
    """Mirror one journal.

    Args:
        journal: Its folder.
        mirror: Where to: an open one, or its folder, which becomes one as soon as it can.
        interval_s: Seconds between two segments at least.
        heartbeat_s: Seconds between two heartbeats, at most; None: as it is configured.
        wanted: Returns something else when a segment is wanted at once.
        tell: Is told whenever that changes: what ``wanted`` had returned before the last attempt,
            whether all that was there then is mirrored, and why not.

    Attributes:
        shipped: What was written so far.
    """

    def __init__(
        self,
        journal: Path,
        mirror: Mirror | Path,
        interval_s: float = INTERVAL_S,
        heartbeat_s: float | None = None,
        *,
        wanted: Callable[[], int] = int,
        tell: Callable[[Told], None] | None = None,
    ) -> None:
        self.shipped = Shipped()
        self._journal = journal
        self._to = mirror
        self._interval_s = interval_s
        self._heartbeat_s = heartbeat_s or config.current().mirror_heartbeat_s
        self._wanted = wanted
        self._tell = tell
        self._told: Told | None = None
        self._asked = 0
        self._blobs: threading.Thread | None = None
        self._joining = _Pauses()
        self._join_at = 0.0
        self._blobs_problem: JournaltrackError | None = None

    def once(self) -> list[Replicated]:
        """Write what is new, and take over what came back.

        Returns:
            How far other replicas were taken over.

        Raises:
            MirrorError: The mirror can't be written.
            LeaseHeldError: Another process mirrors the journal.
            JournalError: The journal can't be read, or written.
        """
        return self._once(None)

    def _once(self, every_s: float | None) -> list[Replicated]:
        self._end_interrupted()
        with closing(Shipper(self._journal, self._opened(again=True))) as shipper:
            with exchange.alone(self._journal, wait_s=_WAIT_S):
                shipper.ship(self.shipped)
                shipper.beat(every_s)
                shipper.copy_blobs(self.shipped)
                self._join(shipper)
            return self._take()

    def _opened(self, *, again: bool = False) -> Mirror:
        """Return the mirror.

        Args:
            again: Look what is there now: it may be another one, or an empty folder.

        Raises:
            MirrorError: It can't be read.
            InvalidInputError: It is no mirror.
        """
        if isinstance(self._to, Path):
            self._to = folders.opened(self._to, create=True)
        elif again:
            path = self._to.path
            # Not made again: it may be on a file system that is not mounted now.
            with shared_files.explained(path, "found"):
                path.stat()
            self._to = folders.opened(path, create=True)
        return self._to

    def run(self, ended: threading.Event) -> None:
        """Write what is new whenever something is, and once more at the end.

        Args:
            ended: Is set when it is to end.

        Raises:
            JournalError: It can't be mirrored, or the last attempt failed.
        """
        pauses = _Pauses()
        while not ended.is_set():
            again = time.monotonic() + self._followed(ended, pauses)
            while time.monotonic() < again and self._wanted() == self._asked:
                if ended.wait(_LOOK_S):
                    break
        if self._looked()[0]:
            # Who still writes is not mirrored any more: if nobody else mirrors, that is silence.
            self._once(self._heartbeat_s if self._is_written() else None)

    def _followed(self, ended: threading.Event, pauses: _Pauses) -> float:
        """Follow one file; return for how long not to try again."""
        self._asked = self._wanted()
        try:
            self._follow(ended, pauses)
        except JournalNotFoundError:
            # It is made later, or was removed.
            return _LOOK_S
        except (NotAJournalError, JournalTooNewError, JournalOutdatedError):
            raise
        except (JournalError, InvalidInputError) as error:
            self._say(is_whole=False, problem=error)
            return pauses.next_s(error)
        return _LOOK_S

    def _follow(self, ended: threading.Event, pauses: _Pauses) -> None:
        """Follow one file, until it is another one, or the mirror's folder fails.

        Raises:
            JournalError: The journal, or the mirror's folder, can't be used.
            InvalidInputError: There is no mirror.
        """
        mirror = self._opened(again=True)
        with closing(Shipper(self._journal, mirror)) as shipper:
            begun, seen, answered = self._looked(), (0, 0, 0), -1
            due = taken = blobs_due = beaten = 0.0
            try:
                while not ended.wait(_LOOK_S):
                    self._asked = self._wanted()
                    now, looked = time.monotonic(), self._looked()
                    if looked[0] != begun[0]:
                        return
                    if now >= due or self._asked != answered:
                        if looked != seen or self._asked != answered:
                            self._ship(shipper)
                            seen, answered, due = looked, self._asked, now + self._interval_s
                        if now - beaten >= _EARLY * self._heartbeat_s:
                            shipper.beat(self._heartbeat_s)
                            beaten = now
                        if now - taken >= _TAKE_EVERY_S:
                            self._take()
                            self._end_interrupted()
                            taken = now
                        if self._blobs_problem is None:
                            pauses.end()
                    blobs_due = self._begin_blobs(shipper, blobs_due, pauses)
                    self._say(is_whole=not shipper.has_blobs, problem=self._blobs_problem)
            finally:
                if self._blobs is not None:
                    self._blobs.join()

    def _ship(self, shipper: Shipper) -> None:
        with exchange.alone(self._journal, wait_s=_WAIT_S):
            shipper.ship(self.shipped)
            self._join(shipper)

    def _begin_blobs(self, shipper: Shipper, due: float, pauses: _Pauses) -> float:
        """Copy artifacts on a thread of their own; return when to do that at the earliest."""
        is_alive = self._blobs is not None and self._blobs.is_alive()
        if is_alive or not shipper.has_blobs:
            return due
        if self._blobs is not None and self._blobs_problem is not None:
            due = time.monotonic() + pauses.next_s(self._blobs_problem)
            self._blobs = None
        if time.monotonic() >= due:
            self._blobs = threading.Thread(
                target=self._copy_blobs, args=(shipper,), name="journaltrack-blobs", daemon=True
            )
            self._blobs.start()
        return due

    def _join(self, shipper: Shipper) -> None:
        """Join small segments. What fails there holds no new ones up."""
        if time.monotonic() < self._join_at:
            return
        try:
            shipper.join()
            self._joining.end()
        except MirrorError as error:
            self._join_at = time.monotonic() + self._joining.next_s(error)

    def _copy_blobs(self, shipper: Shipper) -> None:
        try:
            shipper.copy_blobs(self.shipped)
            self._blobs_problem = None
        except MirrorError as error:
            self._blobs_problem = error

    def _say(self, *, is_whole: bool, problem: JournaltrackError | None) -> None:
        """Tell what came of the last attempt, if that is new."""
        why = None if problem is None else problem.message
        told = Told(self._asked, is_whole, why, None if problem is None else problem.hint)
        if self._tell is not None and told != self._told:
            self._told = told
            self._tell(told)

    def _end_interrupted(self) -> None:
        """Record of runs whose processes are proven dead that they stopped: only here can that be.

        What is there is mirrored in any case.
        """
        if not writers.dead(self._journal) or not config.current().end_interrupted:
            return
        try:
            with closing(Journal.open(self._journal, create=False)) as journal:
                interruption.end(journal, lambda _: True)
        except JournaltrackError as error:
            logger.warning(logfmt("interrupted-runs-stay", error=error.message, hint=error.hint))

    def _is_written(self) -> bool:
        """Return whether a process may still write into the journal."""
        found = writers.look(self._journal)
        return any(file.alive is not False and not file.copied for file in found)

    def _take(self) -> list[Replicated]:
        with (
            exchange.alone(self._journal, wait_s=_WAIT_S),
            closing(Journal.open(self._journal, create=False)) as journal,
        ):
            return Taker(journal, self._opened()).take()

    def _looked(self) -> tuple[int, int, int]:
        """Return inode of the database, and when it and its log were last written."""
        file = self._journal / paths.DATABASE
        try:
            status = file.stat()
        except OSError:
            return 0, 0, 0
        try:
            log_ns = file.with_name(f"{file.name}-wal").stat().st_mtime_ns
        except OSError:
            log_ns = 0
        return status.st_ino, status.st_mtime_ns, log_ns


class _Pauses:
    """Growing, jittered delays after failures, each told once."""

    def __init__(self) -> None:
        self._next_s = _RETRY_FIRST_S
        self._told = ""

    def next_s(self, error: JournaltrackError) -> float:
        """Return how long to wait, and log an error that is not the last one."""
        if error.message != self._told:
            self._told = error.message
            logger.warning(logfmt("mirror-waits", error=error.message, hint=error.hint))
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._next_s = min(2 * self._next_s, _RETRY_MAX_S)
        return pause_s

    def end(self) -> None:
        """Note that it works."""
        if self._told:
            logger.info(logfmt("mirroring-again"))
        self._next_s, self._told = _RETRY_FIRST_S, ""
