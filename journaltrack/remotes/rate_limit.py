"""Bound requests per second: one configured bound, and one for each API that throttles.

A service that throttles does not tell its limit. AWS fills a token bucket for each API at some
rate, and refuses requests while the bucket is empty
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html). So the limit is the
number of requests per second that the service accepted until a refusal. A refusal cuts the rate to
a little less. Then the rate grows with the cube of what was answered since: slowly until another
refusal is due, then ever faster (compare CUBIC, RFC 9438).

Measured on a virtual clock (tests/unit/test_rate_limit.py), for limits of 20 to 200 requests per
second and up to 96 threads: 1 to 5 % are refused, and the limit is fully used. Ten refusals among
the first 70 of 600 requests make the 600 take 1.1 to 2.8 times as long.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PER_S: Final = 120.0
"""Requests per second after a first refusal.

That refusal does not tell the limit, since requests emptied a full bucket before it. From this
rate, limits above and below are found quickly.
"""
CUT: Final = 0.9
"""A refusal cuts the rate to this share of the accepted rate, so that the bucket fills a little."""
CUT_MIN: Final = 0.5
"""A refusal cuts the rate to this share of itself at most: a few refusals in a row prove little."""
EVIDENCE: Final = 24
"""A cut needs so many requests times refusals since the last cut: 24 times 1, or 5 times 5."""
ANSWERS: Final = 50
ANSWERS_FLYING: Final = 10
SECONDS: Final = 5.0
"""The rate doubles until that many answers have come, and ``ANSWERS_FLYING`` more for each request
in flight, since the news of a refusal come later then. A low rate gets few answers: it doubles
within so many seconds.
"""
FORGET: Final = 20.0
"""At this multiple of the last cut's rate, remove the bound."""
BURST_S: Final = 0.02
"""Seconds of unused rate that can be sent at once: clocks of operating systems are coarse."""
_NEVER: Final = float("-inf")
_RATE_MIN: Final = 0.5
_ROUNDING: Final = 1e-6
_LOOK_S: Final = 0.1


class Throttle:
    """A token bucket whose rate adapts to refusals. Threads may share it.

    Args:
        clock: Monotonic seconds.
        per_s: The first rate. None: no bound.
        burst_s: Seconds of unused rate that can be sent at once.

    Attributes:
        per_s: Requests per second. None: no bound.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        per_s: float | None = None,
        burst_s: float = BURST_S,
    ) -> None:
        self.per_s = per_s
        self._clock, self._burst_s = clock, burst_s
        self._lock, self._front = threading.Lock(), threading.Lock()
        self._tokens, self._filled_at = 0.0, _NEVER
        # Since the last cut: its rate and time, and what happened to requests that were sent later.
        self._cut_per_s, self._cut_at = 0.0, _NEVER
        self._sent = self._taken = self._refused = 0
        # The number, since the last cut, and the time of each thread's last request.
        self._local = threading.local()

    def take(self, wait: Callable[[float], object]) -> bool:
        """Wait for a turn. Return False if ``wait`` did."""
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
            # ``RateLimit.change`` may change it any time.
            per_s = self.per_s
            if per_s is not None:
                tokens = self._tokens + per_s * (now - self._filled_at)
                self._tokens = min(max(1.0, per_s * self._burst_s), tokens)
                self._filled_at = now
                if self._tokens < 1 - _ROUNDING:
                    return (1 - self._tokens) / per_s
                self._tokens -= 1
            self._sent += 1
            self._local.turn = self._sent, now
            return 0.0

    def taken(self) -> None:
        """Take note that the service accepted the calling thread's request, and speed up."""
        _, sent_at = self._turn()
        with self._lock:
            if self.per_s is None or sent_at <= self._cut_at:
                return
            self._taken += 1
            flying = self._sent - self._taken - self._refused
            progress = self._taken / (ANSWERS + ANSWERS_FLYING * flying)
            progress += (self._clock() - self._cut_at) / SECONDS
            self.per_s = max(self.per_s, self._cut_per_s * (1 + progress**3))
            if self.per_s > FORGET * self._cut_per_s:
                self.per_s = None

    def refused(self) -> None:
        """Take note that the service refused the calling thread's request, and slow down."""
        number, sent_at = self._turn()
        with self._lock:
            # A cut since then has answered this refusal already.
            if sent_at <= self._cut_at:
                return
            self._refused += 1
            if self.per_s is None:
                self._cut(FIRST_PER_S)
            elif self._refused * number >= EVIDENCE:
                taken_per_s = (number - self._refused + 1) / (sent_at - self._cut_at)
                self._cut(min(self.per_s, max(CUT * taken_per_s, CUT_MIN * self.per_s)))

    def _turn(self) -> tuple[int, float]:
        turn: tuple[int, float] = getattr(self._local, "turn", (0, _NEVER))
        return turn

    def _cut(self, per_s: float) -> None:
        self.per_s = self._cut_per_s = max(_RATE_MIN, per_s)
        self._cut_at = self._filled_at = self._clock()
        self._sent = self._taken = self._refused = 0
        self._tokens = 0.0


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
        self._begin(requests_per_s or None)

    def _begin(self, per_s: float | None) -> None:
        self._pid = os.getpid()
        self._total = Throttle(self._clock, per_s=per_s, burst_s=1.0)
        self._throttles: dict[str, Throttle] = {}

    def change(self, requests_per_s: float) -> None:
        """Change the total bound, from the next request on."""
        self._total.per_s = requests_per_s or None

    def of(self, api: str) -> Throttle:
        """Return the throttle of an API."""
        # Another thread may have held a lock when this process was forked.
        if self._pid != os.getpid():
            self._begin(self._total.per_s)
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
        return self.of(api).take(wait) and self._total.take(wait)
