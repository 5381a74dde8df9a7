"""A bound on requests per second that all passes of a process share: the one that was configured, and the one that a service shows.

A service that throttles tells nobody what it allows. After a refusal the rate is cut below what was sent in the last second,
and grows again from there, by ``GROWTH`` a second: it swings a little below what is allowed. botocore's own adaptive mode
finds it too, but costs every call 0.5 to 1 ms of CPU (measured), throttled or not.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CUT: Final = 0.7
"""After a refusal: so much of the rate that was refused."""
CUT_EVERY_S: Final = 1.0
"""Refusals within this time are of the same excess."""
GROWTH: Final = 1.05
"""Per second, until the next refusal; found is forgotten when nothing was refused at ``FORGET`` times the rate."""
FORGET: Final = 20.0
_RATE_MIN: Final = 0.5


class RateLimit:
    """Hands out turns, evenly spaced once a second's worth was used (a token bucket of one second). Threads may share it.

    Args:
        requests_per_s: At most so many on average, and so many at once; 0: no limit but the one that refusals show.
        clock: Monotonic seconds.
    """

    def __init__(self, requests_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._found: float | None = None
        self._cut_at = 0.0
        self._second = clock()
        self._in_second = self._in_last = 0
        self._limit = requests_per_s

    def change(self, requests_per_s: float) -> None:
        """Another bound from the next request on."""
        with self._lock:
            self._limit = requests_per_s

    def reserve(self) -> float:
        """Take the next turn; how many seconds to wait for it."""
        with self._lock:
            now = self._clock()
            if now - self._second >= 1.0:
                self._in_last = self._in_second if now - self._second < 2.0 else 0  # noqa: PLR2004 - the second before this one
                self._in_second, self._second = 0, now
            self._in_second += 1
            rate, burst_s = self._limit, 1.0
            if self._found is not None:
                found = self._found_now(now)
                if found is None:
                    self._found = None
                elif not rate or found < rate:
                    rate, burst_s = found, 0.0
            if not rate:
                return 0.0
            turn = max(self._next, now - max(0.0, burst_s - 1 / rate))
            self._next = turn + 1 / rate
            return max(0.0, turn - now)

    def refused(self) -> None:
        """The service asked to slow down."""
        with self._lock:
            now = self._clock()
            found = self._found_now(now) if self._found is not None else None
            if found is not None and now - self._cut_at < CUT_EVERY_S:
                return
            sent = max(self._in_last, self._in_second)
            self._found = max(_RATE_MIN, CUT * (sent if found is None else found))
            self._cut_at = now
            self._next = max(self._next, now)

    @property
    def found_per_s(self) -> float | None:
        """The rate that refusals showed, as it is now; None without any."""
        with self._lock:
            return None if self._found is None else self._found_now(self._clock())

    def _found_now(self, now: float) -> float | None:
        grown = GROWTH ** min(now - self._cut_at, 1_000.0)
        return None if self._found is None or grown > FORGET else self._found * grown
