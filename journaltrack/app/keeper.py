"""Run ``journaltrack mirror`` beside training, for ``mirror=FOLDER``.

The process that mirrors is nobody's child: it outlives a trainer that is killed, and mirrors the
rest. It ends when no process logs to the journal any more (``mirror.beside``). One process mirrors
for all of a machine that log to one journal. Each of them looks every second whether it runs, and
starts it again.

Invariants: nothing here touches the shared file system, or waits for it beyond a deadline. Nothing
keeps the interpreter from exiting. A forked process neither starts nor awaits what its parent does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.app.background import command_of
from journaltrack.mirror.beside import Post, mirror_beside
from journaltrack.util import process
from journaltrack.watch.breaker import Backoff

if TYPE_CHECKING:
    from journaltrack.util.deadline import Deadline

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0
"""Seconds between looks whether the process runs."""
_START_FIRST_S: Final = 2.0
_START_MAX_S: Final = 60.0
"""Maximal seconds between starts of a process that ends at once."""
_STARTS_MAX: Final = 3
_POLL_S: Final = 0.02
_ASK_AGAIN_S: Final = 1.0
_DETACHED: Final = "import os; os.fork() and os._exit(0)\n"


class Keeper:
    """Keep one journal mirrored for as long as trackers of this process use it."""

    def __init__(self, journal: Path, mirror: Path, every_s: float) -> None:
        """Use ``start``."""
        self.users = 0
        self._key = (journal, mirror)
        self._every_s = every_s
        self._post = Post(journal, mirror)
        self._lock = self._post.enter()
        self._ended = threading.Event()
        self._told: str | None = None
        keep = self._keep if process.can_have_child() else self._run_here
        threading.Thread(target=keep, name="journaltrack-keeper", daemon=True).start()

    def hurry(self) -> None:
        """Mirror what is new at once. Does not wait."""
        with contextlib.suppress(OSError):
            self._post.hurry()

    def finish(self, deadline: Deadline) -> str | None:
        """Wait until all that was recorded is mirrored; the last tracker ends this.

        Returns:
            Why not everything is mirrored; None: it is.
        """
        try:
            return self._awaited(deadline)
        except OSError as error:
            return str(error)
        finally:
            with _guard:
                self.users -= 1
                if self.users == 0 and _running.get(self._key) is self:
                    del _running[self._key]
                    self._ended.set()
                    os.close(self._lock)

    def _awaited(self, deadline: Deadline) -> str | None:
        wanted = self._post.hurry()
        asked = time.monotonic()
        while True:
            told = self._post.told()
            if told.answered >= wanted:
                if told.problem is not None:
                    return told.problem
                if told.is_whole:
                    return None
            if not deadline.wait(_POLL_S):
                return told.problem or "the time of close_deadline_s was over"
            if told.answered < wanted and time.monotonic() - asked > _ASK_AGAIN_S:
                # Two processes asked at once, or the process was started meanwhile.
                wanted, asked = self._post.hurry(), time.monotonic()

    def _keep(self) -> None:
        """Start the process whenever it does not run, and tell what keeps it from its work."""
        pauses = Backoff(_START_FIRST_S, _START_MAX_S, random.random)
        again, starts = 0.0, 0
        while True:
            try:
                if self._post.is_running():
                    pauses.reset()
                    starts = 0
                elif time.monotonic() >= again:
                    self._start()
                    starts += 1
                    again = time.monotonic() + pauses.next_s()
            except OSError as error:
                self._tell(f"no process can be started: {error.strerror}", None)
                again = time.monotonic() + pauses.next_s()
            if self._ended.wait(_LOOK_EVERY_S):
                return
            told = self._post.told()
            if starts > _STARTS_MAX:
                hint = "`journaltrack mirror {} {}` says why".format(*self._key)
                self._tell("the process that does it ends at once", hint)
            else:
                self._tell(told.problem, told.hint)

    def _tell(self, problem: str | None, hint: str | None) -> None:
        """Log a problem once, by the first process of a machine, and its end."""
        if problem == self._told:
            return
        rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        if problem is None:
            logger.info("%s is mirrored again", self._key[0])
        elif rank == "0":
            logger.warning(
                "%s waits to be mirrored: %s; nothing is lost while this machine lives%s",
                self._key[0],
                problem,
                f"; {hint}" if hint else "",
            )
        self._told = problem

    def _start(self) -> None:
        command = command_of(
            "mirror", "--child", "--interval", str(self._every_s), *map(str, self._key)
        )
        command[2] = _DETACHED + command[2]
        # It has no terminal, and holds no pipe open that somebody reads to its end.
        starter = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        starter.wait()

    def _run_here(self) -> None:
        """Mirror on this thread, where no child is possible."""
        journal, mirror = self._key
        while not self._ended.is_set():
            mirror_beside(journal, mirror, self._every_s, self._ended)
            self._ended.wait(_LOOK_EVERY_S)


_running: dict[tuple[Path, Path], Keeper] = {}
_guard = threading.RLock()
_left_behind: list[Keeper] = []
"""In a forked process: what is the parent's. Its locks last as long as this process logs."""


def start(journal: Path, mirror: Path, every_s: float) -> Keeper:
    """Mirror a journal beside this process until ``finish``.

    Trackers of one journal share it.

    Raises:
        OSError: The journal's folder can't be written.
    """
    key = (journal.resolve(), mirror)
    with _guard:
        found = _running.get(key)
        if found is None:
            found = _running[key] = Keeper(*key, every_s)
        found.users += 1
    return found


def _forked() -> None:
    _left_behind.extend(_running.values())
    _running.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forked)
