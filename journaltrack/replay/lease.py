"""Let one process at a time reconcile a journal, and stop a pass's requests.

The *lease* never concerns appending. It rests on two proofs together:

- A POSIX lock on ``reconcile.lock`` says whether the holder lives. The kernel frees it when the
  process ends, however it ends. A forked child does not inherit it.
- The row in the database says who the holder is. It guards against holders on other machines,
  whose lock the kernel may not see. It expires, and every settlement checks that its generation
  is still the current one.

The *gate* is a pass's own deadline, inside the caller's. Every request looks at it right before
its first byte. Closing it wakes every wait and ends every retry. It turns away a request that was
stuck in a credential look-up, a resolver or a handshake. For each worker's job it knows whether
anything may have left, so that what did not is pending, and not in doubt.

Invariant: if the gate is closed and a job's ticket says that nothing left, the job never sends
anything. Must not know what a request is.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.errors import JournalReadOnlyError, LeaseHeldError, LeaseLostError, NotSentError
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.files import LOCK_FILE, hand_over, of_others
from journaltrack.journal.view import iso_seconds
from journaltrack.util import process
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from journaltrack.journal.sqlite.connection import Database

TTL_S: Final = 60.0
"""Seconds without renewal after which a holder on another machine counts as gone."""
CLAIM_S: Final = 600.0
"""Our choice: how long a claim on a mirrored journal holds without a renewal, in seconds."""

# POSIX locks do not exclude threads of one process: this set does.
_held: set[tuple[int, str]] = set()
_held_guard = threading.Lock()

_HOLDER: Final = "owner = ?, host = ?, pid = ?, generation = ?"
_TAKE: Final = f"UPDATE lease SET {_HOLDER}, acquired_at_ns = ?, expires_at_ns = ?"


class Ticket:
    """Mark what one job of a worker may have sent.

    Attributes:
        left_at: When a request of it may last have left, monotonic seconds. None: nothing left.
            A remote that does not look at the gate may send as soon as it is called.
    """

    __slots__ = ("left_at",)

    def __init__(self) -> None:
        self.left_at: float | None = None


class Gate(Deadline):
    """Stop the requests of a pass after the caller's deadline or ``close``.

    Args:
        outer: The caller's deadline. Several passes may share it.
        left_s: Returns for how many seconds this pass alone may send; None: there is no limit.
            Unlike a deadline's, the time may become longer.
    """

    def __init__(self, outer: Deadline, left_s: Callable[[], float] | None = None) -> None:
        super().__init__(outer=outer)
        self._left_s = left_s
        self._of_thread = threading.local()

    @classmethod
    def within(cls, deadline: Deadline | None) -> Gate:
        """Return the gate inside a deadline. A gate is returned as it is."""
        return deadline if isinstance(deadline, cls) else cls(deadline or Deadline())

    def remaining_s(self) -> float:
        """Return the seconds left. See ``Deadline.remaining_s``."""
        left_s = super().remaining_s()
        return left_s if self._left_s is None else min(left_s, self._left_s())

    def carry(self, ticket: Ticket) -> None:
        """Make the calling thread work for this ticket from now on."""
        ticket.left_at = None if self.guarded else time.monotonic()
        self._of_thread.ticket = ticket

    def departing(self) -> None:
        """Mark that a request leaves now, or raise. See ``Deadline.departing``.

        The mark comes first, then the look at the gate. So whoever closes the gate and finds a
        ticket without a mark can rely on it.
        """
        ticket = getattr(self._of_thread, "ticket", None)
        if ticket is not None:
            ticket.left_at = time.monotonic()
        if self.over:
            self.connecting()
            raise NotSentError

    def connecting(self) -> None:
        """Mark that nothing has left yet. See ``Deadline.connecting``."""
        ticket = getattr(self._of_thread, "ticket", None)
        if ticket is not None:
            ticket.left_at = None

    def close(self, grace_s: float = 0.0) -> None:
        """Let nothing more leave. Wait up to ``grace_s`` for answers to what has left.

        The grace is never longer than it was before.
        """
        self.cancel(grace_s=min(grace_s, self.grace_remaining_s()))


class Lease:
    """A held lease. Make one with ``acquire``."""

    def __init__(
        self,
        database: Database,
        key: tuple[int, str],
        descriptor: int,
        generation: int,
        clock_ns: Callable[[], int],
    ) -> None:
        """Use ``acquire``."""
        self.generation = generation
        self._database = database
        self._key = key
        self._descriptor = descriptor
        self._clock_ns = clock_ns
        self._renewed_ns = clock_ns()

    def check(self, connection: sqlite3.Connection) -> None:
        """Fail unless the lease is still ours. Call it inside a transaction.

        Renews the lease when a third of its time has passed.

        Raises:
            LeaseLostError: Another process took it over. Nothing of the transaction may be
                committed.
        """
        generation = connection.execute("SELECT generation FROM lease").fetchone()[0]
        if generation != self.generation:
            folder = self._database.path.parent
            raise LeaseLostError(
                f"another process took over the lease of the journal at {folder}; this pass ended",
                hint="run `journaltrack status` to see who holds it now; nothing is lost",
            )
        now_ns = self._clock_ns()
        if now_ns - self._renewed_ns > TTL_S * 1e9 / 3:
            connection.execute("UPDATE lease SET expires_at_ns = ?", (now_ns + int(TTL_S * 1e9),))
            self._renewed_ns = now_ns

    def outdo(self, connection: sqlite3.Connection, generation: int) -> int:
        """Raise the generation above any that another copy of this journal has used.

        Call it inside a transaction.

        Returns:
            The new generation of this lease. Set ``generation`` to it after the commit.
        """
        highest = max(self.generation, generation)
        connection.execute("UPDATE lease SET generation = ?", (highest,))
        return highest

    def renew(self) -> None:
        """Keep the lease during a long request.

        Raises:
            LeaseLostError: As ``check``.
        """
        if self._clock_ns() - self._renewed_ns > TTL_S * 1e9 / 3:
            with self._database.transaction() as connection:
                self.check(connection)

    def release(self) -> None:
        """Give the lease back."""
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    "UPDATE lease SET owner = NULL, expires_at_ns = 0 WHERE generation = ?",
                    (self.generation,),
                )
        finally:
            _unlock(self._key, self._descriptor)


def acquire(database: Database, *, clock_ns: Callable[[], int] = time.time_ns) -> Lease:
    """Take the lease of the journal that ``database`` belongs to.

    Raises:
        LeaseHeldError: Another process (named in the message) holds it.
        JournalReadOnlyError: The folder can't be written, so no outcome could be recorded.
    """
    key = (os.getpid(), str(database.path.parent.resolve()))
    with _held_guard:
        if key in _held:
            raise _held_by(database, "another thread of this process")
        _held.add(key)
    descriptor = -1
    try:
        descriptor = _lock(database)
        return Lease(database, key, descriptor, _take_row(database, clock_ns), clock_ns)
    except BaseException:
        _unlock(key, descriptor)
        raise


def lock_holder(folder: Path) -> int | None:
    """Return the id of the process on this machine that holds the lease, or None.

    The kernel's lock says so.
    """
    with _held_guard:
        if (os.getpid(), str(folder.resolve())) in _held:
            # Not asked of the kernel: to close the file would give up our lock.
            return os.getpid()
    return files.holder(folder / LOCK_FILE)


def _lock(database: Database) -> int:
    path = database.path.with_name(LOCK_FILE)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if path in of_others(path.parent):
            raise JournalReadOnlyError(
                f"{path} belongs to another user; nothing is lost, but nothing can be delivered",
                hint="run `journaltrack check --repair` as the owner of the folder, or as root",
            ) from error
        raise JournalReadOnlyError(
            f"the journal at {path.parent} can't be written; nothing was sent: {error.strerror}",
            hint="make the folder writable, or copy the journal to one that is",
        ) from error
    hand_over(descriptor, path.parent)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise _held_by(database, None) from error
    return descriptor


def _take_row(database: Database, clock_ns: Callable[[], int]) -> int:
    host = process.host()
    with database.transaction() as connection:
        owner, holder_host, generation, expires = connection.execute(
            "SELECT owner, host, generation, expires_at_ns FROM lease"
        ).fetchone()
        now_ns = clock_ns()
        # Our lock is free, so a holder on this host is dead. Elsewhere only the clock can tell.
        # An expiry further away than any lease lasts comes from a wrong clock.
        expires = expires if isinstance(expires, int) else 0
        if (
            owner is not None
            and holder_host != host
            and now_ns < expires <= now_ns + 2 * int(TTL_S * 1e9)
        ):
            raise _held_by(database, None)
        connection.execute(
            _TAKE,
            (
                f"pid {os.getpid()} on {host}",
                host,
                os.getpid(),
                generation + 1,
                now_ns,
                now_ns + int(TTL_S * 1e9),
            ),
        )
    return int(generation) + 1


def _held_by(database: Database, who: str | None) -> LeaseHeldError:
    owner, acquired = database.read("SELECT owner, acquired_at_ns FROM lease")[0]
    since = ""
    if isinstance(acquired, int) and 0 < acquired <= limits.TIMESTAMP_NS_MAX:
        since = f" since {iso_seconds(acquired)}"
    holder = who or str(owner or "another process")[:200]
    return LeaseHeldError(
        f"{holder} holds the lease of the journal at {database.path.parent}{since}",
        hint="wait for it, or end that process; its lease is free when it is gone "
        "(at once on this machine, within a minute on another one)",
    )


def _unlock(key: tuple[int, str], descriptor: int) -> None:
    with _held_guard:
        _held.discard(key)
    if descriptor >= 0:
        # Closing frees the lock.
        os.close(descriptor)
