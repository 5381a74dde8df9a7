"""A bound on requests per second that all passes of a process share."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class RateLimit:
    """Hands out turns, evenly spaced once a second's worth was used (a token bucket of one second). Threads may share it.

    Args:
        requests_per_s: At most so many on average, and so many at once; 0: no limit.
        clock: Monotonic seconds.
    """

    def __init__(self, requests_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._interval_s = self._burst_s = 0.0
        self.change(requests_per_s)

    def change(self, requests_per_s: float) -> None:
        """Another bound from the next request on."""
        with self._lock:
            self._interval_s = 1 / requests_per_s if requests_per_s > 0 else 0.0
            self._burst_s = max(0.0, 1.0 - self._interval_s) if self._interval_s else 0.0

    def reserve(self) -> float:
        """Take the next turn; how many seconds to wait for it."""
        if not self._interval_s:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - self._burst_s)
            self._next = turn + self._interval_s
            return max(0.0, turn - now)
