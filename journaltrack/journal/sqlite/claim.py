"""Decide who may use a journal where processes can't share a write-ahead log.

On a file system that other machines share, or that has no shared memory, a rollback journal lets
several processes write and read. It takes 37 system calls per entry: too many where each call is a
round trip of milliseconds. A single process needs only 2: it keeps its locks, and a write-ahead log
of one process needs no shared memory. So on a slow file system the first process has the journal
alone. It looks from time to time whether another one asks, and then gives way. From then on all use
a rollback journal, until one process is left (``Admission``).

Where a file system has no locks at all, a file names the process that has the journal (``Claim``).
This is the last resort: a process that dies leaves the file behind. To detect that, the file names
machine, boot and process, and its owner touches it while it lives. On the same machine a look at
the process decides; from another machine, the file's age.

Must not know what is stored.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
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
"""When a claim from another machine was not touched for this long, its owner is gone."""
_TRIES: Final = 5
_BYTES_MAX: Final = 4_096


class Claim:
    """One connection's claim on the journal in ``folder``. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._held: threading.Event | None = None

    @property
    def is_held(self) -> bool:
        """Return whether this connection has the claim."""
        return self._held is not None

    def take(self) -> None:
        """Claim the journal for this process alone.

        Raises:
            JournalLockedError: Another process has it.
            OSError: The file can't be created.
        """
        if self._held is not None:
            return
        mine = json.dumps(
            {
                "host": process.host(),
                "boot": _boot(),
                "pid": os.getpid(),
                "began": process.started(os.getpid()),
            }
        )
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(
                    self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600
                )
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
        """Release the journal to others."""
        held, self._held = self._held, None
        if held is not None:
            held.set()
            with contextlib.suppress(OSError):
                self._file.unlink()

    def leave_to_parent(self) -> None:
        """Forget the claim in a forked child: it is the parent's."""
        self._held = None

    def _remove_if_dead(self) -> None:
        try:
            text, age_s = _read(self._file)
        except FileNotFoundError:
            return
        holder = _parsed(text)
        if not _is_dead(holder, age_s):
            raise self._refused(holder)
        # Several processes may find the owner dead; only one of them can rename the file. What it
        # renamed may be a new claim, made after its look: then it puts that one back.
        aside = self._file.with_name(f"{FILE}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self._file.rename(aside)
            if _read(aside)[0] != text:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._file)
            aside.unlink()

    def _refused(self, holder: dict[str, Any]) -> JournalLockedError:
        return JournalLockedError(
            f"the journal at {self._file.parent} is on a file system without locks, "
            f"and process {holder.get('pid', '?')} on {holder.get('host', '?')} has it; "
            "nothing was opened",
            hint=f"end that process, or use a local disk; if it is gone, remove {FILE} there",
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
    """Return the claim, or {} if the text is no claim or is still being written."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _is_dead(holder: dict[str, Any], age_s: float) -> bool:
    pid = holder.get("pid")
    if (
        holder.get("boot") == _boot()
        and holder.get("host") == process.host()
        and isinstance(pid, int)
    ):
        return not process.runs(pid, holder.get("began"))
    return age_s > _STALE_S


def _boot() -> str:
    return process.boot() or f"{uuid.getnode():x}"


_WITHOUT_LOCKS: Final = "a file system without locks"
WITHOUT_MEMORY: Final = "a file system without shared memory"
SLOW_S: Final = 0.001
"""If the file system takes longer than this to answer, a network is in between.

37 such answers per entry would slow a training loop down.
"""
_IN_USE: Final = "a disk that others use without a write-ahead log"


class Admission:
    """Decide for one connection how it may use the database. Not thread-safe.

    Args:
        path: The database.
        standing: The connection's standing locks.
        read_only: See ``Database``.
    """

    def __init__(self, path: Path, standing: StandingLocks, *, read_only: bool) -> None:
        self.mode: Mode = "log"
        self.shared: str | None = None
        """The file system, in words, if a write-ahead log can't be shared on it."""
        self.has_memory = True
        """False once a file could not be mapped here."""
        self._path = path
        self._standing = standing
        self._read_only = read_only
        self._claim = Claim(path.parent)
        self._left = threading.Event()

    @property
    def options(self) -> str:
        """Return what the connection's URI needs in addition."""
        return "&vfs=unix-none" if self._claim.is_held else ""

    @property
    def is_alone(self) -> bool:
        """Return whether no other process can use the journal now."""
        return self.mode in {"log alone", "rollback alone"}

    def enter(self, timeout_s: float, let_neighbours_go: Callable[[], None]) -> None:
        """Choose how to use the database, and keep others from using it differently.

        Args:
            timeout_s: How long to wait for other processes.
            let_neighbours_go: Makes this process's other connections let go.

        Raises:
            JournalLockedError: A process has the journal alone and does not let go.
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
        self.shared = kind or (None if self.has_memory else WITHOUT_MEMORY)
        if self.shared is None and standing.are_shared():
            self.shared = _IN_USE
        if self.shared is None:
            self.mode = "log"
            standing.take()
            return
        if not self._read_only and standing.answers_in_s() > SLOW_S and standing.be_alone():
            # A killed process leaves its write-ahead log. Where locks do not reach other machines,
            # log_modes.refuse_foreign would take it for the log of a living process.
            safe = kind is None or paths.locks_reach_other_machines(self._path.parent)
            self.mode = "log alone" if safe else "rollback alone"
        else:
            self.mode = "rollback"
            let_neighbours_go()
            if not standing.share(timeout_s):
                raise JournalLockedError(
                    f"the journal at {self._path.parent} is on {self.shared}, and a process "
                    "that has it alone does not let go; nothing was opened",
                    hint="find that process (fuser, lsof); resume it if it is stopped, or end it",
                )
        log_modes.refuse_foreign(self._path, self.shared)

    def could_be_alone(self) -> bool:
        """Return whether all others have left and using it alone would be faster."""
        if self.mode != "rollback" or self._read_only or not self._standing.is_left_alone():
            return False
        return self._standing.answers_in_s() > SLOW_S

    def listen(self, give_way: weakref.WeakMethod[Callable[[], None]]) -> None:
        """While this process has the journal alone, call ``give_way`` when others ask.

        The call comes on a thread of its own.
        """
        if self.is_alone and not self._claim.is_held:
            self._left = threading.Event()
            _thread.start_new_thread(_listen, (self._path, self._left, give_way))

    def leave(self) -> None:
        """Release the journal: this connection uses it no more."""
        self._left.set()
        self._claim.release()
        self.mode = "log"

    def leave_to_parent(self) -> None:
        """Forget the claim in a forked child: the parent still uses it."""
        self._claim.leave_to_parent()
        self.leave()


def _listen(
    path: Path, left: threading.Event, give_way: weakref.WeakMethod[Callable[[], None]]
) -> None:
    while is_asked_for(path, left):
        let_go = give_way()
        if let_go is None:
            return
        let_go()
        del let_go
