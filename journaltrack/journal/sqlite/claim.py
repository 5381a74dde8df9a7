"""Decide who may use a journal where processes can't share a write-ahead log.

A file that says which process has a journal, on file systems where nothing can be locked.

The last resort: a process that dies leaves it, and only a look at the process, or at the file's age from another machine,
tells that. So it names machine, boot and process, and is touched as long as its maker lives. Must not know what is stored.

Who may use a journal where several processes can't share a write-ahead log, and by which log.

On a file system that other machines share, or without shared memory, a rollback journal lets several processes write, and
others read. It takes 37 system calls for an entry. Where each is a round trip of milliseconds, that is too much. A single
process does without most of them: it keeps its locks, and needs no shared memory for a write-ahead log (2 calls). So on a
slow file system who comes first has the journal alone, looks now and then whether somebody else asks, and makes way. Then
all use a rollback journal until one is left.

Must not know what is stored.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import JournalLockedError
from journaltrack.journal.sqlite import log_modes
from journaltrack.journal.sqlite.locks import StandingLocks, is_asked_for
from journaltrack.journal.sqlite.log_modes import Mode
from journaltrack.util import paths, process

FILE: Final = "journal.claim"
_TOUCH_EVERY_S: Final = 10.0
_STALE_S: Final = 60.0
"""Of a claim that was not touched for so long its maker, on another machine, is gone."""
_TRIES: Final = 5
_BYTES_MAX: Final = 4_096


class Claim:
    """That of one connection to the journal in ``folder``. One thread at a time uses it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._held: threading.Event | None = None

    @property
    def is_held(self) -> bool:
        """Whether this connection has it."""
        return self._held is not None

    def take(self) -> None:
        """Claim the journal for this process alone.

        Raises:
            JournalLockedError: Another process has it.
            OSError: No file can be made here.
        """
        if self._held is not None:
            return
        mine = json.dumps({"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "began": process.started(os.getpid())})
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
                try:
                    os.write(descriptor, mine.encode())
                finally:
                    os.close(descriptor)
                self._held = threading.Event()
                _thread.start_new_thread(_touch, (self._file, self._held))
                return
            self._remove_if_dead()
        raise self._refused({})

    def release(self) -> None:
        """Leave the journal to others."""
        held, self._held = self._held, None
        if held is not None:
            held.set()
            with contextlib.suppress(OSError):
                self._file.unlink()

    def leave_to_parent(self) -> None:
        """In a forked child: it is the parent's."""
        self._held = None

    def _remove_if_dead(self) -> None:
        try:
            text, age_s = _read(self._file)
        except FileNotFoundError:
            return
        holder = _parsed(text)
        if not _is_dead(holder, age_s):
            raise self._refused(holder)
        # Of several that find it dead one renames it; what it renamed must be what it found.
        aside = self._file.with_name(f"{FILE}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self._file.rename(aside)
            if _read(aside)[0] != text:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._file)
            aside.unlink()

    def _refused(self, holder: dict[str, Any]) -> JournalLockedError:
        return JournalLockedError(
            f"the journal at {self._file.parent} is on a file system without locks, and process {holder.get('pid', '?')} "
            f"on {holder.get('host', '?')} has it; nothing was opened",
            hint=f"end that process, or use a local disk; if it is gone, remove {FILE} in that folder",
        )


def _touch(file: Path, held: threading.Event) -> None:
    while not held.wait(_TOUCH_EVERY_S):
        with contextlib.suppress(OSError):
            os.utime(file)


def _read(file: Path) -> tuple[bytes, float]:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _BYTES_MAX), abs(time.time() - os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> dict[str, Any]:
    """Empty when it is no claim, or one that is being written."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _is_dead(holder: dict[str, Any], age_s: float) -> bool:
    pid = holder.get("pid")
    if holder.get("boot") == _boot() and holder.get("host") == socket.gethostname() and isinstance(pid, int):
        return not process.runs(pid, holder.get("began"))
    return age_s > _STALE_S


def _boot() -> str:
    return process.boot() or f"{uuid.getnode():x}"


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
