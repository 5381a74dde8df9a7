"""Mirror a journal beside training, in one process for all that log to it on this machine.

Three files in the journal's folder, one set for each mirror, tie them together:

- ``mirror-<id>.users``: every process that logs holds a shared lock on it. Its time of change asks
  for a segment at once.
- ``mirror-<id>.running``: the process that mirrors holds a lock on it, so there is one. It is
  ``journaltrack mirror --follow``, if that runs, else one that a tracker starts.
- ``mirror-<id>.told``: how far that process is.

The kernel frees a lock with its process, in whatever way that ends. So the process that mirrors
outlives a trainer that was killed, mirrors the rest, and ends. Nothing of this reaches the shared
file system, which may hang: who logs looks only at its own disk.

Must not know a tracker.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack.errors import JournalError, JournaltrackError, LeaseHeldError, MirrorError
from journaltrack.mirror import exchange
from journaltrack.util import paths
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.mirror.follower import Follower

_ID_CHARS: Final = 12
_LOOK_S: Final = 0.25
_LINGER_S: Final = 3.0
"""Our choice: how long to wait for the next process that logs, such as a search's next trial."""
_BEGIN_WAIT_S: Final = 2.0
"""Who only looks whether a process mirrors holds its lock for a moment."""
_GIVE_UP_S: Final = 600.0
"""Our choice: how long to try to mirror the rest when nobody logs any more."""
_HURRIED_S: Final = 20.0
"""The same after SIGTERM. Schedulers kill 30 s after it."""
_AGAIN_S: Final = 2.0
_ENTER_S: Final = 5.0
_TELL_BYTES_MAX: Final = 1 << 16


class _HangsError(Exception):
    """The mirror's file system does not answer, and nobody logs any more."""


class Told(NamedTuple):
    """How far a follower is.

    Attributes:
        answered: What ``wanted`` had returned before its last attempt.
        is_whole: Whether all that was there then is mirrored, with the bytes of artifacts.
        problem, hint: Why not, if it is not just under way.
    """

    answered: int = 0
    is_whole: bool = False
    problem: str | None = None
    hint: str | None = None


class Post:
    """The files between the process that mirrors a journal and those that log to it.

    Args:
        journal: The journal's folder.
        mirror: The mirror's folder.
    """

    def __init__(self, journal: Path, mirror: Path) -> None:
        name = hashlib.sha256(os.fsencode(mirror)).hexdigest()[:_ID_CHARS]
        self.journal = journal
        self._held = 0
        self.running = f"mirror-{name}.running"
        self._users = journal / f"mirror-{name}.users"
        self._told = journal / f"mirror-{name}.told"

    def enter(self) -> int:
        """Note that this process logs, until it ends or closes the descriptor that this returns.

        Raises:
            OSError: The journal's folder can't be written.
        """
        descriptor = exchange.open_lock(self._users)
        deadline = Deadline(_ENTER_S)
        # A process that ends holds it alone for a moment.
        while not exchange.locks(descriptor, fcntl.LOCK_SH) and deadline.wait(_LOOK_S / 10):
            pass
        return descriptor

    def is_used(self) -> bool:
        """Return whether a process that wants this mirror lives."""
        descriptor = self.lock_out()
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def lock_out(self) -> int | None:
        """Keep others from entering until the descriptor is closed; None if somebody is in."""
        try:
            descriptor = exchange.open_lock(self._users)
        except OSError:
            # With the journal's folder gone, nobody logs.
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if exchange.locks(descriptor, fcntl.LOCK_EX):
            return descriptor
        os.close(descriptor)
        return None

    def hold(self) -> None:
        """Note that this process mirrors, under the lock."""
        self._held = self._inode()

    def is_held(self) -> bool:
        """Return whether the lock is still that of this journal's folder.

        The folder may have been removed, and made again by others.
        """
        return self._held == self._inode()

    def _inode(self) -> int:
        try:
            return (self.journal / self.running).stat().st_ino
        except OSError:
            return 0

    def is_running(self) -> bool:
        """Return whether a process mirrors the journal."""
        try:
            descriptor = exchange.open_lock(self.journal / self.running)
        except OSError:
            return False
        try:
            return not exchange.locks(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def hurry(self) -> int:
        """Ask for a segment at once.

        Returns:
            What ``Told.answered`` reaches after that.

        Raises:
            OSError: The journal's folder can't be written.
        """
        # Also if the clock was set back.
        now_ns = max(time.time_ns(), self.wanted() + 1)
        os.utime(self._users, ns=(now_ns, now_ns))
        return self.wanted()

    def wanted(self) -> int:
        """Return when a segment was asked for."""
        try:
            return self._users.stat().st_mtime_ns
        except OSError:
            return 0

    def tell(self, told: Told) -> None:
        """Write how far this process is."""
        if not self.is_held():
            return
        # On a full disk, those who wait for it wait for their deadline.
        with (
            contextlib.suppress(OSError),
            paths.whole(self._told, durable=False) as partial,
        ):
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(told), encoding="utf-8")

    def told(self) -> Told:
        """Return how far the process that mirrors is."""
        try:
            with self._told.open("rb") as stream:
                answered, is_whole, problem, hint = json.loads(stream.read(_TELL_BYTES_MAX))
            return Told(int(answered), bool(is_whole), problem, hint)
        except (OSError, ValueError, TypeError, RecursionError):
            return Told()


def mirror_beside(
    journal: Path, mirror: Path, every_s: float, asked: threading.Event
) -> JournaltrackError | None:
    """Mirror a journal for as long as processes log to it, unless another process does.

    Args:
        journal: The journal's folder.
        mirror: The mirror's folder.
        every_s: Seconds between two segments at least.
        asked: Is set when this process is asked to end. It then ends as soon as nobody logs any
            more.

    Returns:
        Why not everything is mirrored; None: it is.
    """
    post = Post(journal, mirror)
    with contextlib.ExitStack() as stack:
        # At the very end: who comes meanwhile waits, and begins another process.
        unused = stack.enter_context(contextlib.ExitStack())
        try:
            stack.enter_context(exchange.alone(journal, name=post.running, wait_s=_BEGIN_WAIT_S))
        except LeaseHeldError:
            return None
        post.hold()
        try:
            return _until_unused(post, mirror, every_s, asked, unused)
        except _HangsError:
            # Its thread ends with the process, or when the file system answers.
            return MirrorError(
                f"the file system of {mirror} does not answer; the journal has everything",
                hint=f"when it is back: journaltrack mirror {journal} {mirror}",
            )


@contextlib.contextmanager
def in_charge(journal: Path, mirror: Path, ended: threading.Event) -> Iterator[Post]:
    """Wait until the journal is there and no other process mirrors it, then be the one that does.

    Args:
        journal: The journal's folder.
        mirror: The mirror's folder.
        ended: Ends the waiting.

    Yields:
        What tells those that log how far it is.
    """
    post = Post(journal, mirror)
    with contextlib.ExitStack() as stack:
        while not ended.is_set():
            if (journal / paths.DATABASE).exists():
                with contextlib.suppress(LeaseHeldError):
                    stack.enter_context(exchange.alone(journal, name=post.running))
                    post.hold()
                    break
            ended.wait(_LOOK_S)
        yield post


def _until_unused(
    post: Post,
    mirror: Path,
    every_s: float,
    asked: threading.Event,
    unused: contextlib.ExitStack,
) -> JournaltrackError | None:
    """Follow until nobody logs any more, and keep others from entering until ``unused`` closes."""
    since = None
    while True:
        failure = _followed(post, mirror, every_s, asked)
        if failure is not None:
            post.tell(Told(post.wanted(), False, failure.message, failure.hint))
        if not post.is_held():
            return failure
        now = time.monotonic()
        locked_out = post.lock_out()
        since = None if locked_out is None else since or now
        if locked_out is not None:
            if failure is None or now - (since or now) > _patience_s(asked):
                unused.callback(os.close, locked_out)
                return failure
            os.close(locked_out)
        if failure is not None:
            _wait(asked, _AGAIN_S)


def _followed(
    post: Post, mirror: Path, every_s: float, asked: threading.Event
) -> JournaltrackError | None:
    """Follow the journal until nobody logs any more; return why not everything is mirrored."""
    # Not where a training begins.
    from journaltrack.mirror.follower import Follower  # noqa: PLC0415

    follower = Follower(post.journal, mirror, every_s, wanted=post.wanted, tell=post.tell)
    ended = threading.Event()
    failures: list[JournaltrackError] = []

    def run() -> None:
        """Follow, and keep what went wrong."""
        try:
            follower.run(ended)
        except JournaltrackError as error:
            failures.append(error)
        except OSError as error:
            failures.append(JournalError(f"the journal can't be mirrored: {error}"))

    thread = threading.Thread(target=run, name="journaltrack-mirror", daemon=True)
    thread.start()
    used = time.monotonic()
    while thread.is_alive():
        if _wait(asked, _LOOK_S):
            with contextlib.suppress(OSError):
                post.hurry()
        now = time.monotonic()
        if not post.is_held():
            break
        if post.is_used():
            used = now
        elif asked.is_set() or now - used >= _LINGER_S:
            break
    ended.set()
    _end(thread, follower, post, asked)
    return failures[0] if failures else None


def _end(thread: threading.Thread, follower: Follower, post: Post, asked: threading.Event) -> None:
    """Wait for a follower's last segment, unless its file system hangs.

    Raises:
        _HangsError: For a long time nothing was written, and nobody logs any more.
    """
    moved, used = -1, time.monotonic()
    while thread.is_alive():
        _wait(asked, _LOOK_S)
        before, moved = moved, follower.shipped.moved_bytes
        # A large artifact may take its time.
        if moved != before or (post.is_held() and post.is_used()):
            used = time.monotonic()
        elif time.monotonic() - used > _patience_s(asked):
            raise _HangsError


def _patience_s(asked: threading.Event) -> float:
    """Return how long to go on when nobody logs any more."""
    return _HURRIED_S if asked.is_set() else _GIVE_UP_S


def _wait(asked: threading.Event, seconds: float) -> bool:
    """Wait for so long; return at once, and whether, it was asked meanwhile."""
    if asked.is_set():
        threading.Event().wait(seconds)
        return False
    return asked.wait(seconds)
