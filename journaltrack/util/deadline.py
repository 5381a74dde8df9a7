"""Limit time: threads share the limit, and anyone can end it early."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from journaltrack.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED_GRACE_S: Final = 5.0
"""How long to wait for answers after Ctrl-C in a program without a handler of its own."""
INTERRUPTIONS_MAX: Final = 3
"""After this many interruptions, the caller does not wait any longer."""
_RECENT: Final = 64
_TIMES: Final = 2.0
"""A request that can't be sent twice needs this multiple of the slowest recent answer's time."""
_ANSWER_MIN_S: Final = 0.1
"""Least time assumed for an answer, also before the first answer."""


class Deadline:
    """Hold the time left for a pass, and check it once more before a request leaves.

    Args:
        seconds: Time from now. None for no limit.
        clock: Monotonic seconds.
        outer: A deadline that also ends this one. Then its time and clock replace ``seconds`` and
            ``clock``.
    """

    guarded = False
    """Whether the sender calls ``departing`` before each request, and ``connecting``."""

    def __init__(
        self,
        seconds: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        outer: Deadline | None = None,
    ) -> None:
        self._clock = clock
        self._ends = None if seconds is None else clock() + seconds
        self._grace_ends = self._ends
        self._cancelled = threading.Event()
        self._inner: weakref.WeakSet[Deadline] = weakref.WeakSet()
        self._took_s: deque[float] = deque(maxlen=_RECENT)
        if outer is not None:
            outer.take_in(self)

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock()

    def remaining_s(self) -> float:
        """Return the seconds left: 0.0 if it is over or cancelled, infinity without a limit."""
        if self._cancelled.is_set():
            return 0.0
        return float("inf") if self._ends is None else max(0.0, self._ends - self._clock())

    @property
    def over(self) -> bool:
        """Return whether no new request may start."""
        return self.remaining_s() <= 0

    @property
    def is_late(self) -> bool:
        """Return whether the answer to a request that begins now may come too late."""
        left_s = self.remaining_s()
        return left_s != float("inf") and left_s < _TIMES * max(
            (_ANSWER_MIN_S, *self._took_s.copy())
        )

    def answered(self, took_s: float) -> None:
        """Take note of the seconds until an answer came."""
        self._took_s.append(took_s)

    @property
    def cut_short(self) -> bool:
        """Return whether somebody cancelled it while time was left."""
        return self._cancelled.is_set() and (self._ends is None or self._clock() < self._ends)

    def cancel(self, *, grace_s: float = 0.0) -> None:
        """End it now, and wake every ``wait``. A later call can only shorten the grace.

        Args:
            grace_s: How long to wait for requests in flight (``grace_remaining_s``).
        """
        ends = self._clock() + grace_s
        if self._cancelled.is_set() and self._grace_ends is not None:
            ends = min(ends, self._grace_ends)
        self._grace_ends = ends
        self._cancelled.set()
        for inner in list(self._inner):
            inner.cancel(grace_s=grace_s)

    def grace_remaining_s(self) -> float:
        """Return the seconds left to wait for answers to requests in flight."""
        if self._grace_ends is None:
            return float("inf")
        return max(0.0, self._grace_ends - self._clock())

    def wait(self, seconds: float) -> bool:
        """Wait for ``seconds``, or until the deadline ends. Return False if it has ended."""
        self._cancelled.wait(min(seconds, self.remaining_s()))
        return not self.over

    def departing(self) -> None:
        """Check the time right before the first byte of a request.

        Raises:
            NotSentError: The time is over.
        """
        if self.over:
            raise NotSentError

    def connecting(self) -> None:
        """Take note that a connection is made: this thread's last request has not left."""

    def govern(self) -> None:
        """Bound what the calling thread does with things that several passes share.

        See ``CallersDeadline``. It also holds for threads that get a copy of its context.
        """
        _callers.set(self)

    def take_in(self, inner: Deadline) -> None:
        """End another deadline together with this one."""
        inner._clock, inner._ends, inner._grace_ends = self._clock, self._ends, self._grace_ends
        self._inner.add(inner)
        if self._cancelled.is_set():
            inner.cancel(grace_s=self.grace_remaining_s())


_callers: Final[ContextVar[Deadline]] = ContextVar("journaltrack-deadline")
_UNLIMITED: Final = Deadline()


class CallersDeadline(Deadline):
    """Stand for the deadline that governs the calling thread.

    Several passes can then share a remote, and each request still ends with its own pass.
    """

    @staticmethod
    def _of_caller() -> Deadline:
        return _callers.get(_UNLIMITED)

    def remaining_s(self) -> float:
        """Return the seconds left to the caller."""
        return self._of_caller().remaining_s()

    @property
    def is_late(self) -> bool:
        """Return whether an answer may come too late for the caller."""
        return self._of_caller().is_late

    def answered(self, took_s: float) -> None:
        """Tell the caller's deadline how long an answer took."""
        self._of_caller().answered(took_s)

    @property
    def cut_short(self) -> bool:
        """Return whether somebody cancelled the caller's deadline."""
        return self._of_caller().cut_short

    def grace_remaining_s(self) -> float:
        """Return the seconds that the caller waits for answers."""
        return self._of_caller().grace_remaining_s()

    def wait(self, seconds: float) -> bool:
        """Wait, until the caller's deadline ends at the latest."""
        return self._of_caller().wait(seconds)

    def departing(self) -> None:
        """Look at the caller's deadline, which may turn the request away."""
        self._of_caller().departing()

    def connecting(self) -> None:
        """Tell the caller's deadline that nothing has left yet."""
        self._of_caller().connecting()
