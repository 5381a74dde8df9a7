"""The right to reconcile a journal, held by one process at a time. It never concerns appending.

Two proofs together. A POSIX lock on ``reconcile.lock`` says whether the holder lives: the kernel frees it when the
process ends, however it ends, and a forked child does not inherit it. The row in the database says who the holder is
and guards against holders on other machines, whom the kernel's lock may not see: it expires, and every settlement
checks that its generation is still the current one.

The gate of one pass: every request looks at it right before its first byte, and none leaves once it is closed.

It is the pass's own deadline, inside of the caller's: closing it wakes every wait, ends every retry, and turns away a request that
was stuck until then, in a credential look-up, in a resolver, in a handshake. And it knows of every worker's job whether anything
of it may have left, so that what certainly did not is pending, and not in doubt. Must not know what a request is.

Invariant: a job whose ticket says that nothing left after the gate was closed never sends anything.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.errors import JournalReadOnlyError, LeaseHeldError, LeaseLostError, NotSentError
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.files import LOCK_FILE, hand_over, of_others
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from journaltrack.journal.sqlite.connection import Database


class Ticket:
    """Of one job of a worker.

    Attributes:
        left_at: When a request of it may have left last, monotonic seconds; None: nothing did. A remote that does not look at the gate may
            have sent as soon as it is called.
    """

    __slots__ = ("left_at",)

    def __init__(self) -> None:
        self.left_at: float | None = None


class Gate(Deadline):
    """The gate of a pass; open until the caller's deadline is over, or ``close``.

    Args:
        outer: The caller's deadline, which several passes may share.
    """

    def __init__(self, outer: Deadline) -> None:
        super().__init__(outer=outer)
        self._of_thread = threading.local()

    @classmethod
    def within(cls, deadline: Deadline | None) -> Gate:
        """The gate inside of a deadline: itself, if it is one."""
        return deadline if isinstance(deadline, cls) else cls(deadline or Deadline())

    def carry(self, ticket: Ticket) -> None:
        """The calling thread works for this ticket from now on."""
        ticket.left_at = None if self.guarded else time.monotonic()
        self._of_thread.ticket = ticket

    def departing(self) -> None:
        """See ``Deadline.departing``.

        Marked first, looked at then: whoever closes the gate and finds a ticket without the mark may rely on it.
        """
        ticket = getattr(self._of_thread, "ticket", None)
        if ticket is not None:
            ticket.left_at = time.monotonic()
        if self.over:
            self.connecting()
            raise NotSentError

    def connecting(self) -> None:
        """See ``Deadline.connecting``."""
        ticket = getattr(self._of_thread, "ticket", None)
        if ticket is not None:
            ticket.left_at = None

    def close(self, grace_s: float = 0.0) -> None:
        """Let nothing more leave; answers to what has left are worth waiting for so long, and not longer than they were."""
        self.cancel(grace_s=min(grace_s, self.grace_remaining_s()))


TTL_S: Final = 60.0
"""A holder on another machine that has not renewed for so long is taken for gone."""

_held: set[tuple[int, str]] = set()  # POSIX locks do not exclude threads of one process: this does
_held_guard = threading.Lock()


class Lease:
    """A held lease; make one with ``acquire``."""

    def __init__(self, database: Database, key: tuple[int, str], descriptor: int, generation: int, clock_ns: Callable[[], int]) -> None:
        """Use ``acquire``."""
        self.generation = generation
        self._database = database
        self._key = key
        self._descriptor = descriptor
        self._clock_ns = clock_ns
        self._renewed_ns = clock_ns()

    def check(self, connection: sqlite3.Connection) -> None:
        """Inside a transaction: fail unless the lease is still ours; renew it when a third of its time has passed.

        Raises:
            LeaseLostError: Somebody else took it over; nothing of the transaction may be committed.
        """
        generation = connection.execute("SELECT generation FROM lease").fetchone()[0]
        if generation != self.generation:
            raise LeaseLostError(
                f"the lease on the journal at {self._database.path.parent} was taken over by another process; this pass stopped",
                hint="run `journaltrack status` to see who reconciles it now; nothing is lost",
            )
        now_ns = self._clock_ns()
        if now_ns - self._renewed_ns > TTL_S * 1e9 / 3:
            connection.execute("UPDATE lease SET expires_at_ns = ?", (now_ns + int(TTL_S * 1e9),))
            self._renewed_ns = now_ns

    def outdo(self, connection: sqlite3.Connection, generation: int) -> int:
        """Inside a transaction: no later lease of this journal has a generation that another copy of it has used.

        Returns:
            The generation of this lease from then on; set ``generation`` to it once the transaction is committed.
        """
        highest = max(self.generation, generation)
        connection.execute("UPDATE lease SET generation = ?", (highest,))
        return highest

    def renew(self) -> None:
        """Keep it during a long request.

        Raises:
            LeaseLostError: As ``check``.
        """
        if self._clock_ns() - self._renewed_ns > TTL_S * 1e9 / 3:
            with self._database.transaction() as connection:
                self.check(connection)

    def release(self) -> None:
        """Give it back."""
        try:
            with self._database.transaction() as connection:
                connection.execute("UPDATE lease SET owner = NULL, expires_at_ns = 0 WHERE generation = ?", (self.generation,))
        finally:
            _unlock(self._key, self._descriptor)


def acquire(database: Database, *, clock_ns: Callable[[], int] = time.time_ns) -> Lease:
    """Take the lease of the journal that ``database`` belongs to.

    Raises:
        LeaseHeldError: Another process (named in the message) holds it.
        JournalReadOnlyError: The folder can't be written, so nothing that is sent could be recorded.
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
    """The process on this machine that reconciles the journal in that folder, by the kernel's lock; None: nobody."""
    with _held_guard:
        if (os.getpid(), str(folder.resolve())) in _held:
            return os.getpid()  # and asking the kernel would open the file, and closing it give up our lock
    return files.holder(folder / LOCK_FILE)


def _lock(database: Database) -> int:
    path = database.path.with_name(LOCK_FILE)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if path in of_others(path.parent):
            raise JournalReadOnlyError(
                f"{path} belongs to another user, so the journal can't be delivered; nothing is lost",
                hint="`journaltrack check --repair` as the owner of the folder, or as root, puts that right",
            ) from error
        raise JournalReadOnlyError(
            f"the journal at {path.parent} can't be written, so what is sent could not be recorded: {error.strerror}",
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
    host = socket.gethostname()
    with database.transaction() as connection:
        owner, holder_host, generation, expires = connection.execute("SELECT owner, host, generation, expires_at_ns FROM lease").fetchone()
        now_ns = clock_ns()
        # Our lock is free, so a holder on this host is dead. Elsewhere only the clock can tell; an expiry further away
        # than any lease lasts comes from a clock that was wrong.
        expires = expires if isinstance(expires, int) else 0
        if owner is not None and holder_host != host and now_ns < expires <= now_ns + 2 * int(TTL_S * 1e9):
            raise _held_by(database, None)
        connection.execute(
            "UPDATE lease SET owner = ?, host = ?, pid = ?, generation = ?, acquired_at_ns = ?, expires_at_ns = ?",
            (f"pid {os.getpid()} on {host}", host, os.getpid(), generation + 1, now_ns, now_ns + int(TTL_S * 1e9)),
        )
    return int(generation) + 1


def _held_by(database: Database, who: str | None) -> LeaseHeldError:
    owner, acquired = database.read("SELECT owner, acquired_at_ns FROM lease")[0]
    since = ""
    if isinstance(acquired, int) and 0 < acquired <= limits.TIMESTAMP_NS_MAX:
        since = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(acquired // 1_000_000_000))}"
    return LeaseHeldError(
        f"the journal at {database.path.parent} is being reconciled by {who or str(owner or 'another process')[:200]}{since}",
        hint="wait for it, or end that process: its lease is free as soon as it is gone (within a minute if it runs on another machine)",
    )


def _unlock(key: tuple[int, str], descriptor: int) -> None:
    with _held_guard:
        _held.discard(key)
    if descriptor >= 0:
        os.close(descriptor)  # frees the lock
