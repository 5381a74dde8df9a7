"""A bound on requests per second that all passes of a process share: the one that was configured, and the one that a service shows.

A service that throttles tells nobody what it allows; AWS's APIs fill a bucket of tokens at some rate and refuse whoever finds it empty
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html). What can be seen is that the bucket was empty at a refusal.
So between two refusals a service took what it allows, whatever was sent: that is measured, and is the *ceiling*. From a little below
it the rate rises in a line, then beyond it ever faster, until the next refusal: a rate that is allowed again is found within
seconds, and one that is not costs a few refusals in so many turns that they stay below a few in a hundred.

botocore's own adaptive mode finds it too, but costs every call 0.5 to 1 ms of CPU (measured), throttled or not.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CUT: Final = 0.95
"""After a refusal: so much of what the service took, so that its bucket fills a little."""
FIRST: Final = 0.7
"""A first refusal tells less: of what was sent in the second before it, a part is what the bucket had held, and a part is refused, too."""
RISE_S: Final = 3.0
RISE_TURNS: Final = 80
RISE_S_MAX: Final = 30.0
"""From there to the ceiling in so many seconds, but not in fewer turns (each rise ends with a refusal or two), nor in more seconds."""
STEEPNESS: Final = 0.9
"""Beyond the ceiling, the logarithm of the rate grows with the square of the time: fourfold after 1.24 times as long again."""
FORGET: Final = 20.0
"""No bound is left when nothing was refused at so many times the ceiling,"""
FORGET_S: Final = 600.0
"""... or for so long: a service's mood of ten minutes ago says nothing."""
MEASURED_S: Final = 0.3
MEASURED_TURNS: Final = 8
"""What a service takes is not told from less."""
_RATE_MIN: Final = 0.5
_TURNS_KEPT: Final = 1_000
_AFRESH: Final = 1.8
"""So far beyond the ceiling (in rises), what was taken before says nothing of what is allowed now: measured from here on."""


class RateLimit:
    """Hands out turns, evenly spaced once a second's worth was used (a token bucket of one second). Threads may share it.

    Args:
        requests_per_s: At most so many on average, and so many at once; 0: no limit but the one that refusals show.
        clock: Monotonic seconds.

    Attributes:
        cuts: How often refusals have cut the rate. A turn that was given before the last of them is void.
    """

    def __init__(self, requests_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._limit = requests_per_s
        self._of_thread = threading.local()
        self._next = float("-inf")
        self._second = clock()
        self._in_second = self._in_last = 0
        self._ceiling: float | None = None
        self._cut_at = 0.0
        self.cuts = 0
        self._risen = 0.0  # since the cut, in rises: 1 is the ceiling
        self._since = self._afresh = 0.0  # what is taken is counted from here on; and from there on, once turns have come that far
        self._sent = self._refused = 0  # of the turns up to the last refusal
        self._turns: deque[float] = deque()  # after it

    def change(self, requests_per_s: float) -> None:
        """Another bound from the next request on."""
        with self._lock:
            self._limit = requests_per_s

    def take(self, wait: Callable[[float], object]) -> bool:
        """Wait for a turn; one that was given before a refusal came is not used after it.

        Args:
            wait: Waits so many seconds, or shorter when there is a reason to give up.

        Returns:
            Whether there was anything to wait for.
        """
        waited = False
        while True:
            cuts = self.cuts
            wait_s = self.reserve()
            if wait_s <= 0:
                return waited
            waited = True
            wait(wait_s)
            if self.cuts == cuts:
                return True

    def reserve(self) -> float:
        """The next turn; how many seconds to wait for it. It stands until the next cut, which ``take`` looks after."""
        with self._lock:
            now = self._clock()
            if now - self._second >= 1.0:
                self._in_last = self._in_second if now - self._second < 2.0 else 0  # noqa: PLR2004 - the second before this one
                self._in_second, self._second = 0, now
            self._in_second += 1
            rate, burst_s = self._limit, 1.0
            found = self._found_now(now)
            if found is None:
                self._ceiling = None
            elif not rate or found < rate:
                rate, burst_s = found, 0.0
            if not rate:
                self._of_thread.turn = now
                return 0.0
            turn = max(self._next, now - max(0.0, burst_s - 1 / rate))
            self._next = turn + 1 / rate
            self._of_thread.turn = max(turn, now)
            if self._ceiling is not None:
                self._count_turn(turn, rate, self._ceiling)
            return max(0.0, turn - now)

    def refused(self, sent_at: float | None = None) -> None:
        """The service asked to slow down.

        Args:
            sent_at: When the request was sent that it refused; None: at the last turn of the calling thread.
        """
        with self._lock:
            now = self._clock()
            sent_at = getattr(self._of_thread, "turn", now) if sent_at is None else sent_at
            found = self._found_now(now)
            if found is None:
                self._cut(now, FIRST * max(self._in_last, self._in_second))
            elif sent_at >= self._since:  # else it is of an excess that was answered already
                self._count_sent(sent_at)
                self._refused += 1
                measured_s = sent_at - self._since
                if measured_s >= MEASURED_S and self._sent >= MEASURED_TURNS:
                    taken = (self._sent - self._refused) / measured_s
                    self._cut(now, min(max(taken, (self._ceiling or 0) / 2), found))

    @property
    def found_per_s(self) -> float | None:
        """The rate that refusals showed, as it is now; None without any."""
        with self._lock:
            return self._found_now(self._clock())

    def _cut(self, now: float, ceiling: float) -> None:
        self._ceiling = max(_RATE_MIN, ceiling)
        self._cut_at = now
        self.cuts += 1
        self._next = now
        self._risen = 0.0
        self._since, self._afresh = now, float("inf")
        self._sent = self._refused = 0
        self._turns.clear()

    def _count_turn(self, turn: float, rate: float, ceiling: float) -> None:
        """The rate rises with its use, not with time: what was not tried was not allowed."""
        before = self._risen
        self._risen += 1 / rate / min(RISE_S_MAX, max(RISE_S, RISE_TURNS / ceiling))
        if before < _AFRESH <= self._risen:
            self._afresh = turn
        self._turns.append(turn)
        if len(self._turns) > _TURNS_KEPT:  # more than threads wait: so many were sent
            self._count_sent(self._turns[0])

    def _count_sent(self, until: float) -> None:
        while self._turns and self._turns[0] <= until:
            self._sent += 1
            if self._turns.popleft() == self._afresh:
                self._since, self._sent, self._refused = self._afresh, 1, 0

    def _found_now(self, now: float) -> float | None:
        if self._ceiling is None or now - self._cut_at > FORGET_S:
            return None
        if self._risen < 1:
            return self._ceiling * (CUT + (1 - CUT) * self._risen)
        factor = math.exp(STEEPNESS * (self._risen - 1) ** 2)
        return self._ceiling * factor if factor < FORGET else None
