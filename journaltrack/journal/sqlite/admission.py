"""Who may use a journal where several processes can't share a write-ahead log, and by which log.

On a file system that other machines share, or without shared memory, a rollback journal lets several processes write, and
others read. It takes 37 system calls for an entry. Where each is a round trip of milliseconds, that is too much. A single
process does without most of them: it keeps its locks, and needs no shared memory for a write-ahead log (2 calls). So on a
slow file system who comes first has the journal alone, looks now and then whether somebody else asks, and makes way. Then
all use a rollback journal until one is left.

Must not know what is stored.
"""

from __future__ import annotations

import _thread
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from journaltrack.errors import JournalLockedError
from journaltrack.journal.sqlite import log_modes
from journaltrack.journal.sqlite.claim import Claim
from journaltrack.journal.sqlite.log_modes import Mode
from journaltrack.journal.sqlite.standing_locks import StandingLocks, is_asked_for
from journaltrack.util import paths

_WITHOUT_LOCKS: Final = "a file system without locks"
WITHOUT_MEMORY: Final = "a file system without shared memory"
SLOW_S: Final = 0.001
"""An answer of the file system that takes longer came over a network: 37 of them are not for each call of a training loop."""
_IN_USE: Final = "a disk that others use without a write-ahead log"


class Admission:
    """That of one connection. One thread at a time uses it.

    Args:
        path: The database.
        standing: The connection's.
        read_only: See ``Database``.
    """

    def __init__(self, path: Path, standing: StandingLocks, *, read_only: bool) -> None:
        self.mode: Mode = "log"
        self.shared: str | None = None
        """The file system, where a write-ahead log can't be shared."""
        self.has_memory = True
        """Until it turns out that a file can't be mapped here."""
        self._path = path
        self._standing = standing
        self._read_only = read_only
        self._claim = Claim(path.parent)
        self._left = threading.Event()

    @property
    def options(self) -> str:
        """Of the connection's URI."""
        return "&vfs=unix-none" if self._claim.is_held else ""

    @property
    def is_alone(self) -> bool:
        """Whether no other process can use the journal now."""
        return self.mode in {"log alone", "rollback alone"}

    def enter(self, timeout_s: float, let_neighbours_go: Callable[[], None]) -> None:
        """Find out how the database may be used, and keep others from using it in another way.

        Args:
            timeout_s: How long to wait for others.
            let_neighbours_go: Has this process's other connections let go.

        Raises:
            JournalLockedError: Somebody uses it in a way that can't be shared, and does not let go.
        """
        standing = self._standing
        kind = paths.network_file_system(self._path.parent)
        if not standing.has_locks():
            self.shared, self.mode = _WITHOUT_LOCKS, "rollback alone"
            let_neighbours_go()
            try:
                self._claim.take()
            except OSError:
                if not self._read_only:
                    raise
            return
        self.shared = kind or (None if self.has_memory else WITHOUT_MEMORY) or (_IN_USE if standing.are_shared() else None)
        if self.shared is None:
            self.mode = "log"
            standing.take()
            return
        if not self._read_only and standing.answers_in_s() > SLOW_S and standing.be_alone():
            # A killed process leaves its log, which is not to be taken for that of a living one (log_modes.refuse_foreign).
            safe = kind is None or paths.locks_reach_other_machines(self._path.parent)
            self.mode = "log alone" if safe else "rollback alone"
        else:
            self.mode = "rollback"
            let_neighbours_go()
            if not standing.share(timeout_s):
                raise JournalLockedError(
                    f"the journal at {self._path.parent} is on {self.shared}, and a process that has it alone does not let go",
                    hint="see who has it open (fuser, lsof) and whether it is stopped (Ctrl-Z, a debugger)",
                )
        log_modes.refuse_foreign(self._path, self.shared)

    def could_be_alone(self) -> bool:
        """Whether all others have left since, where that makes a difference."""
        if self.mode != "rollback" or self._read_only or not self._standing.is_left_alone():
            return False
        return self._standing.answers_in_s() > SLOW_S

    def listen(self, give_way: weakref.WeakMethod[Callable[[], None]]) -> None:
        """Call ``give_way`` on a thread when others ask, as long as this process has the journal alone."""
        if self.is_alone and not self._claim.is_held:
            self._left = threading.Event()
            _thread.start_new_thread(_listen, (self._path, self._left, give_way))

    def leave(self) -> None:
        """Nothing is used any more."""
        self._left.set()
        self._claim.release()
        self.mode = "log"

    def leave_to_parent(self) -> None:
        """In a forked child, whose parent goes on."""
        self._claim.leave_to_parent()
        self.leave()


def _listen(path: Path, left: threading.Event, give_way: weakref.WeakMethod[Callable[[], None]]) -> None:
    while is_asked_for(path, left):
        let_go = give_way()
        if let_go is None:
            return
        let_go()
        del let_go
