"""A file that says which process has a journal, on file systems where nothing can be locked.

The last resort: a process that dies leaves it, and only a look at the process, or at the file's age from another machine,
tells that. So it names machine, boot and process, and is touched as long as its maker lives. Must not know what is stored.
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
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import JournalLockedError
from journaltrack.util import process

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
