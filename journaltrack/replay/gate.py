"""The gate of one pass: every request looks at it right before its first byte, and none leaves once it is closed.

It is the pass's own deadline, inside of the caller's: closing it wakes every wait, ends every retry, and turns away a request that
was stuck until then, in a credential look-up, in a resolver, in a handshake. And it knows of every worker's job whether anything
of it may have left, so that what certainly did not is pending, and not in doubt. Must not know what a request is.

Invariant: a job whose ticket says that nothing left after the gate was closed never sends anything.
"""

from __future__ import annotations

import threading
import time

from journaltrack.errors import NotSentError
from journaltrack.util.deadline import Deadline


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
