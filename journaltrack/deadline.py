"""A bound on time that several threads share and anyone may cut short."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Deadline:
    """Time left for a pass.

    Args:
        seconds: From now; None for no bound.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = None if seconds is None else clock() + seconds
        self._cancelled = threading.Event()
        self._grace_ends = self._ends

    def remaining_s(self) -> float:
        """Seconds left: 0.0 when over or cancelled, infinity when there is no bound."""
        if self._cancelled.is_set():
            return 0.0
        return float("inf") if self._ends is None else max(0.0, self._ends - self._clock())

    @property
    def over(self) -> bool:
        """Whether no new request may be started."""
        return self.remaining_s() <= 0

    def cancel(self, *, grace_s: float = 0.0) -> None:
        """End it now; wakes every ``wait``.

        Args:
            grace_s: For so long, requests in flight are still waited for (``grace_remaining_s``).
        """
        if not self._cancelled.is_set():
            self._grace_ends = self._clock() + grace_s
            self._cancelled.set()

    def grace_remaining_s(self) -> float:
        """Seconds for which an answer to what is in flight is still worth waiting for."""
        return float("inf") if self._grace_ends is None else max(0.0, self._grace_ends - self._clock())

    def wait(self, seconds: float) -> bool:
        """Let ``seconds`` pass, or less if the deadline comes first or it is cancelled; False if it is over."""
        self._cancelled.wait(min(seconds, self.remaining_s()))
        return not self.over
