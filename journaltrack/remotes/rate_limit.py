"""Bounds on requests per second: one that is configured, and one for each API that throttles.

A service that throttles tells nobody what it allows; AWS fills a bucket of tokens at some rate, for
each API its own, and refuses whoever finds it empty
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html). So what was taken until a
refusal, per second, is what is allowed, whatever was sent: a refusal cuts the rate to a little less.
Every answer raises it: by little until a refusal would be due again, then ever faster.

Measured on a virtual clock (tests/unit/test_rate_limit.py): 2 to 4 % refused and all of what is
allowed used, for 20 to 200 requests per second and up to 96 threads; ten refusals among the first 70
of 600 requests make them take 1.1 to 2.5 times as long.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PER_S: Final = 120.0
"""The rate after a first refusal, which tells nothing: a full bucket was emptied before it. From here both ways are short."""
CUT: Final = 0.95
"""After a refusal: so much of what was taken, so that the service's bucket fills a little."""
CUT_MIN: Final = 0.5
"""... and not less than that: some refusals in a row say little."""
LEARN: Final = 8
FEW: Final = 3
MANY: Final = 24
"""What is taken is not told from fewer requests than ``LEARN``, with fewer refusals than ``FEW`` not from fewer than ``MANY``."""
GROW: Final = 0.003
"""Every answer raises the rate by so much of it; some forty answers lie between two refusals then."""
GROW_MAX: Final = 0.05
CALM: Final = 30
DOUBLE: Final = 10
"""After so many answers without a refusal that doubles, again with each ten more, up to ``GROW_MAX``,"""
CALM_S: Final = 4.0
DOUBLE_S: Final = 0.5
"""... or after so many seconds, and again with each of those: a rate that is far too low finds few answers."""
FLYING: Final = 9
"""With more requests than these under way a refusal is heard of later: all of this takes longer."""
AFRESH: Final = 1.5
"""At so many times the rate, what was taken before says nothing of what is allowed now."""
FORGET: Final = 20.0
"""At so many times the rate of the last cut, there is no bound."""
BURST_S: Final = 0.02
"""What was not used for so long may be sent at once: clocks of operating systems are coarse."""
_RATE_MIN: Final = 0.5
_ROUNDING: Final = 1e-6
_LOOK_S: Final = 0.1


class _Turn(NamedTuple):
    """When a request was sent, and as which one of a measurement."""

    measurement: int
    number: int
    at: float


class Throttle:
    """What one API allows. Threads may share it.

    Args:
        clock: Monotonic seconds.

    Attributes:
        per_s: The rate that refusals showed; None without any.
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
        self._sent = self._taken = self._refused = 0  # of this measurement

    def take(self, wait: Callable[[float], object]) -> bool:
        """Wait for a turn; False if ``wait`` said so."""
        if self.per_s is None and self.ask() <= 0:
            return True
        while not self._front.acquire(timeout=_LOOK_S):  # one thread waits for a token, the others for that one
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
        """Begin the calling thread's turn: 0.0, or in how many seconds to ask again."""
        with self._lock:
            now = self._clock()
            if self.per_s is not None:
                self._tokens = min(max(1.0, self.per_s * BURST_S), self._tokens + self.per_s * (now - self._filled_at))
                self._filled_at = now
                if self._tokens < 1 - _ROUNDING:
                    return (1 - self._tokens) / self.per_s
                self._tokens -= 1
            self._sent += 1
            self._local.turn = _Turn(self._measurement, self._sent, now)
            return 0.0

    def taken(self) -> None:
        """The calling thread's request was taken."""
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
            doublings = max(0.0, (self._calm / slower - CALM) / DOUBLE, (calm_s - CALM_S) / DOUBLE_S)
            self.per_s *= 1 + min(GROW_MAX, GROW * 2 ** min(doublings, 10.0)) / slower
            if self.per_s > FORGET * self._cut_per_s:
                self.per_s = None
                self._measure()
            elif self.per_s > AFRESH * self._measured_per_s and self._taken >= LEARN:
                self._measure()

    def refused(self) -> None:
        """The service asked to slow down in answer to the calling thread's request."""
        turn: _Turn | None = getattr(self._local, "turn", None)
        with self._lock:
            if turn is None or turn.measurement != self._measurement:
                return  # of an excess that was answered already
            self._refused += 1
            if self.per_s is None:
                self._cut(FIRST_PER_S)
                return
            if turn.number >= (LEARN if self._refused >= FEW else MANY) and turn.at > self._since:
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
    """Hands out turns: first of an API's, then of the bound over all. Threads may share it.

    Args:
        requests_per_s: At most so many on average, and a second's worth at once; 0: no bound over all.
        clock: Monotonic seconds.
    """

    def __init__(self, requests_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limit = requests_per_s
        self._next = float("-inf")
        self._begin()

    def _begin(self) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._throttles: dict[str, Throttle] = {}

    def change(self, requests_per_s: float) -> None:
        """Another bound over all from the next request on."""
        with self._lock:
            self._limit = requests_per_s

    def of(self, api: str) -> Throttle:
        """What an API allows."""
        if self._pid != os.getpid():  # forked: perhaps while another thread held a lock
            self._begin()
        throttle = self._throttles.get(api)
        return throttle if throttle is not None else self._throttles.setdefault(api, Throttle(self._clock))

    def take(self, wait: Callable[[float], object], api: str = "") -> bool:
        """Wait for a turn.

        Args:
            wait: Waits so many seconds, or shorter and returns False when there is a reason to give up.
            api: Of the request.

        Returns:
            Whether it came.
        """
        if not self.of(api).take(wait):
            return False
        wait_s = self.reserve()
        return wait_s <= 0 or wait(wait_s) is not False

    def reserve(self) -> float:
        """The next turn of the bound over all; how many seconds to wait for it."""
        with self._lock:
            if not self._limit:
                return 0.0
            now = self._clock()
            turn = max(self._next, now - max(0.0, 1.0 - 1 / self._limit))
            self._next = turn + 1 / self._limit
            return max(0.0, turn - now)
