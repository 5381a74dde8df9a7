"""A bound on time that several threads share and anyone may cut short."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from journaltrack.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED_GRACE_S: Final = 5.0
"""How long answers are waited for after Ctrl-C in a program that has no handler of its own."""
_RECENT: Final = 64
_TIMES: Final = 2.0
"""A request that can't be sent twice begins with so many times the slowest of the recent answers left,"""
_ANSWER_MIN_S: Final = 0.1
"""... which is taken for at least this, and for this as long as there was none."""


class Deadline:
    """Time left for a pass, and the last look before a request of it leaves.

    Args:
        seconds: From now; None for no bound.
        clock: Monotonic seconds.
        outer: One that this ends with at the latest; ``seconds`` and ``clock`` are its own then.
    """

    guarded = False
    """Whether whoever sends calls ``departing`` right before the first byte of every request, and ``connecting`` before a connection."""

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic, outer: Deadline | None = None) -> None:
        self._clock = clock
        self._ends = None if seconds is None else clock() + seconds
        self._grace_ends = self._ends
        self._cancelled = threading.Event()
        self._inner: weakref.WeakSet[Deadline] = weakref.WeakSet()
        self._took_s: deque[float] = deque(maxlen=_RECENT)
        if outer is not None:
            outer.take_in(self)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def remaining_s(self) -> float:
        """Seconds left: 0.0 when over or cancelled, infinity when there is no bound."""
        if self._cancelled.is_set():
            return 0.0
        return float("inf") if self._ends is None else max(0.0, self._ends - self._clock())

    @property
    def over(self) -> bool:
        """Whether no new request may be started."""
        return self.remaining_s() <= 0

    @property
    def is_late(self) -> bool:
        """Whether the answer to a request that begins now may not come in time."""
        left_s = self.remaining_s()
        return left_s != float("inf") and left_s < _TIMES * max((_ANSWER_MIN_S, *self._took_s.copy()))

    def answered(self, took_s: float) -> None:
        """Note that an answer came after so many seconds."""
        self._took_s.append(took_s)

    @property
    def cut_short(self) -> bool:
        """Whether somebody cancelled it while there was time left."""
        return self._cancelled.is_set() and (self._ends is None or self._clock() < self._ends)

    def cancel(self, *, grace_s: float = 0.0) -> None:
        """End it now; wakes every ``wait``. A later call may only shorten the grace.

        Args:
            grace_s: For so long, requests in flight are still waited for (``grace_remaining_s``).
        """
        ends = self._clock() + grace_s
        if self._cancelled.is_set() and self._grace_ends is not None:
            ends = min(ends, self._grace_ends)
        self._grace_ends = ends
        self._cancelled.set()
        for inner in list(self._inner):
            inner.cancel(grace_s=grace_s)

    def grace_remaining_s(self) -> float:
        """Seconds for which an answer to what is in flight is still worth waiting for."""
        return float("inf") if self._grace_ends is None else max(0.0, self._grace_ends - self._clock())

    def wait(self, seconds: float) -> bool:
        """Let ``seconds`` pass, or less if the deadline comes first or it is cancelled; False if it is over."""
        self._cancelled.wait(min(seconds, self.remaining_s()))
        return not self.over

    def departing(self) -> None:
        """Call right before the first byte of a request: none leaves once the time is over.

        Raises:
            NotSentError: The time is over.
        """
        if self.over:
            raise NotSentError

    def connecting(self) -> None:
        """Call before a connection is made: whatever departed on this thread did not leave."""

    def take_in(self, inner: Deadline) -> None:
        """Have another one end with this one."""
        inner._clock, inner._ends, inner._grace_ends = self._clock, self._ends, self._grace_ends
        self._inner.add(inner)
        if self._cancelled.is_set():
            inner.cancel(grace_s=self.grace_remaining_s())
