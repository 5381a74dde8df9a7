"""Bound requests per second: one configured bound, and one for each API that throttles.

A service that throttles does not tell its limit. AWS fills a token bucket for each API at some
rate, and refuses requests while the bucket is empty
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html). So the limit is the
number of requests per second that the service accepted until a refusal. A refusal cuts the rate to
a little less. Every answer raises it: slowly until another refusal would be due, then ever faster.

Measured on a virtual clock (tests/unit/test_rate_limit.py), for limits of 20 to 200 requests per
second and up to 96 threads: 2 to 4 % are refused, and the limit is fully used. Ten refusals among
the first 70 of 600 requests make the 600 take 1.1 to 2.5 times as long.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PER_S: Final = 120.0
"""Requests per second after a first refusal.

That refusal does not tell the limit, since requests emptied a full bucket before it. From this
rate, limits above and below are found quickly.
"""
CUT: Final = 0.95
"""A refusal cuts the rate to this share of the accepted rate, so that the bucket fills a little."""
CUT_MIN: Final = 0.5
"""A refusal cuts the rate to this share of itself at most: a few refusals in a row prove little."""
LEARN: Final = 8
FEW: Final = 3
MANY: Final = 24
"""Requests needed to measure the accepted rate: ``LEARN``, or ``MANY`` before ``FEW`` refusals."""
GROW: Final = 0.003
"""Every answer raises the rate by this share: about 40 answers lie between two refusals then."""
GROW_MAX: Final = 0.05
CALM: Final = 30
DOUBLE: Final = 10
"""After ``CALM`` answers without a refusal, the growth doubles with every ``DOUBLE`` answers more.

It stops at ``GROW_MAX``.
"""
CALM_S: Final = 4.0
DOUBLE_S: Final = 0.5
"""The same in seconds, since a rate that is far too low gets few answers."""
FLYING: Final = 9
"""With more requests in flight, the news of a refusal comes later: growth slows down."""
AFRESH: Final = 1.5
"""At this multiple of the measured rate, the measurement is outdated: begin another."""
FORGET: Final = 20.0
"""At this multiple of the last cut's rate, remove the bound."""
BURST_S: Final = 0.02
"""Seconds of unused rate that can be sent at once: clocks of operating systems are coarse."""
_RATE_MIN: Final = 0.5
_ROUNDING: Final = 1e-6
_LOOK_S: Final = 0.1


class _Turn(NamedTuple):
    """A request's place in a measurement, and when it was sent."""

    measurement: int
    number: int
    at: float


class Throttle:
    """The rate that one API allows. Threads may share it.

    Args:
        clock: Monotonic seconds.

    Attributes:
        per_s: Requests per second, as learned from refusals. None without any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock, self._front = threading.Lock(), threading.Lock()
        self._local = threading.local()
        self.per_s: float | None = None
        self._cut_per_s = self._measured_per_s = 0.0
        self._tokens, self._filled_at = 0.0, clock()
        self._cut_at = self._since = clock()
        self._measurement = self._calm = 0
        # Counts of this measurement.
        self._sent = self._taken = self._refused = 0

    def take(self, wait: Callable[[float], object]) -> bool:
        """Wait for a turn. Return False if ``wait`` did."""
        if self.per_s is None and self.ask() <= 0:
            return True
        # One thread waits for a token, the others wait for that thread.
        while not self._front.acquire(timeout=_LOOK_S):
            if wait(0.0) is False:
                return False
        try:
            while (wait_s := self.ask()) > 0:
                if wait(min(wait_s, _LOOK_S)) is False:
                    return False
        finally:
            self._front.release()
        return True

    def ask(self) -> float:
        """Begin the calling thread's turn. Return 0.0, or the seconds until to ask again."""
        with self._lock:
            now = self._clock()
            if self.per_s is not None:
                most = max(1.0, self.per_s * BURST_S)
                self._tokens = min(most, self._tokens + self.per_s * (now - self._filled_at))
                self._filled_at = now
                if self._tokens < 1 - _ROUNDING:
                    return (1 - self._tokens) / self.per_s
                self._tokens -= 1
            self._sent += 1
            self._local.turn = _Turn(self._measurement, self._sent, now)
            return 0.0

    def taken(self) -> None:
        """Take note that the service accepted the calling thread's request."""
        turn: _Turn | None = getattr(self._local, "turn", None)
        with self._lock:
            if turn is None or turn.measurement != self._measurement:
                return
            self._taken += 1
            if self.per_s is None:
                return
            self._calm += 1
            slower = max(1.0, (self._sent - self._taken - self._refused) / FLYING)
            calm_s = self._clock() - self._cut_at
            doublings = max(
                0.0, (self._calm / slower - CALM) / DOUBLE, (calm_s - CALM_S) / DOUBLE_S
            )
            self.per_s *= 1 + min(GROW_MAX, GROW * 2 ** min(doublings, 10.0)) / slower
            if self.per_s > FORGET * self._cut_per_s:
                self.per_s = None
                self._measure()
            elif self.per_s > AFRESH * self._measured_per_s and self._taken >= LEARN:
                self._measure()

    def refused(self) -> None:
        """Take note that the service refused the calling thread's request, and slow down."""
        turn: _Turn | None = getattr(self._local, "turn", None)
        with self._lock:
            # A cut since then has answered this refusal already.
            if turn is None or turn.measurement != self._measurement:
                return
            self._refused += 1
            if self.per_s is None:
                self._cut(FIRST_PER_S)
                return
            needed = LEARN if self._refused >= FEW else MANY
            if turn.number >= needed and turn.at > self._since:
                taken_per_s = (turn.number - self._refused + 1) / (turn.at - self._since)
                self._cut(min(self.per_s, max(CUT * taken_per_s, CUT_MIN * self.per_s)))

    def _cut(self, per_s: float) -> None:
        self.per_s = self._cut_per_s = max(_RATE_MIN, per_s)
        self._cut_at = self._filled_at = self._clock()
        self._calm, self._tokens = 0, 0.0
        self._measure()

    def _measure(self) -> None:
        self._measurement += 1
        self._since = self._clock()
        self._sent = self._taken = self._refused = 0
        self._measured_per_s = self.per_s or 0.0


class RateLimit:
    """Hands out turns: first of the API's bound, then of the total bound. Threads may share it.

    Args:
        requests_per_s: Total bound on average; one second's worth can go at once. 0: no bound.
        clock: Monotonic seconds.
    """

    def __init__(
        self, requests_per_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._limit = requests_per_s
        self._next = float("-inf")
        self._begin()

    def _begin(self) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._throttles: dict[str, Throttle] = {}

    def change(self, requests_per_s: float) -> None:
        """Change the total bound, from the next request on."""
        with self._lock:
            self._limit = requests_per_s

    def of(self, api: str) -> Throttle:
        """Return the throttle of an API."""
        # Another thread may have held a lock when this process was forked.
        if self._pid != os.getpid():
            self._begin()
        throttle = self._throttles.get(api)
        if throttle is None:
            throttle = self._throttles.setdefault(api, Throttle(self._clock))
        return throttle

    def take(self, wait: Callable[[float], object], api: str = "") -> bool:
        """Wait for a turn.

        Args:
            wait: Waits for a number of seconds. Returns False, perhaps earlier, to give up.
            api: The request's API.

        Returns:
            Whether the turn came.
        """
        if not self.of(api).take(wait):
            return False
        wait_s = self.reserve()
        return wait_s <= 0 or wait(wait_s) is not False

    def reserve(self) -> float:
        """Take the next turn of the total bound. Return the seconds until then."""
        with self._lock:
            if not self._limit:
                return 0.0
            now = self._clock()
            turn = max(self._next, now - max(0.0, 1.0 - 1 / self._limit))
            self._next = turn + 1 / self._limit
            return max(0.0, turn - now)
