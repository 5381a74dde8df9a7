"""Whose turn it is: a wait for SQLite's write lock that ends, between processes.

SQLite's own busy handler sleeps the longer the longer somebody has waited (up to 100 ms,
``sqliteDefaultBusyCallback`` in main.c), so that a busy neighbour always comes first: of four
processes that wait for the disk at each commit one waited for 4.2 s (measured). A strict queue is
no better: a context switch for each row halves what all get done together. So here who finds the
lock taken tries again with growing pauses while others go on, and after a time comes first: it
takes its place by an ``flock`` of the journal's folder, and tries SQLite's lock every tenth of a
millisecond, alone.

The kernel frees the place of a process that is killed, and nobody waits long for a place that a
stopped process holds. Needs no file of its own. Where folders can't be locked (some network file
systems) everybody tries for themselves. Must not know what is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SOON_S: Final = 0.000_05
"""The first pause, and that of who is first; the kernel's timers add about as much. Our own
transactions last a tenth of a millisecond.
"""
PATIENT_S: Final = 0.002
"""The longest pause of who is not urgent."""
URGENT_S: Final = 0.02
"""After so long somebody comes first: worst waits are this, plus a transaction for each that is
urgent too ...
"""
URGENT_BEHIND_DISK_S: Final = 0.15
"""... where each transaction waits for the disk: handing over more often would leave the disk
idle in between.
"""
ASK_EVERY_S: Final = 0.000_2
"""The pause between two questions for the first place."""
LONG_S: Final = 0.2
"""After so long somebody else is in a long transaction (a merge, a prune), or stopped: no hurry
any more ...
"""
SELDOM_S: Final = 0.001
"""... and this pause between tries."""
FIRST_S: Final = 0.05
"""How long somebody stays first in vain before another may be."""
ASK_S: Final = 0.25
"""How long somebody asks for the first place before trying without: who holds it may be stopped."""


class WriteQueue:
    """The queue of one journal, as one process sees it. One thread at a time uses it.

    Args:
        folder: The journal's.
        urgent_s: How long to let others go first.
    """

    def __init__(self, folder: Path, urgent_s: float = URGENT_S) -> None:
        self._folder = folder
        self._urgent_s = urgent_s
        self._descriptor: int | None = None

    def has_waiting(self) -> bool:
        """Return whether another process is urgent. Costs a microsecond."""
        if not self._take():
            return self._descriptor is not None
        self._give_back()
        return False

    def wait_for(self, attempt: Callable[[], bool], timeout_s: float) -> bool:
        """Try until it succeeds, in turn with other processes.

        Args:
            attempt: Says whether it succeeded.
            timeout_s: When to give up, seconds.

        Returns:
            Whether it succeeded in time.
        """
        began = time.monotonic()
        until = began + timeout_s
        pause_s = SOON_S
        while time.monotonic() < min(until, began + self._urgent_s):
            time.sleep(pause_s)
            if attempt():
                return True
            pause_s = min(2 * pause_s, PATIENT_S)
        while True:
            with self._first(began, until):
                if _try(attempt, began, until):
                    return True
            if time.monotonic() >= until:
                return False

    def close(self) -> None:
        """Give the descriptor back; a later use opens another. A forked child must: it would
        share the place with its parent.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        # Of a tracker that nobody closed. An interruption may have left it without a descriptor.
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    @contextlib.contextmanager
    def _first(self, began: float, until: float) -> Iterator[None]:
        """Be first in the queue for the block, if that can be had."""
        asking_until = min(until, time.monotonic() + ASK_S)
        while not (taken := self._take()) and self._descriptor is not None:
            now = time.monotonic()
            if now >= asking_until:
                break
            time.sleep(SELDOM_S if now - began > LONG_S else ASK_EVERY_S)
        try:
            yield
        finally:
            if taken:
                self._give_back()

    def _take(self) -> bool:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(
                    self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                )
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            # Without errno it comes from a signal handler (a time-out is an OSError).
            if error.errno is None:
                raise
            # No such locks here, or the folder is gone.
            self.close()
            return False
        return True

    def _give_back(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _try(attempt: Callable[[], bool], began: float, until: float) -> bool:
    """Try for ``FIRST_S``, and return whether it succeeded."""
    giving_up = min(until, time.monotonic() + FIRST_S)
    while not attempt():
        now = time.monotonic()
        if now >= giving_up:
            return False
        time.sleep(SELDOM_S if now - began > LONG_S else SOON_S)
    return True
