"""How long answers take at present, and so whether there is time for one more. Threads may share it."""

from __future__ import annotations

from collections import deque
from typing import Final

RECENT: Final = 64
"""Answers that are recent."""
TIMES: Final = 2.0
"""So many times the slowest recent one has to fit into the time that is left."""
LEAST_S: Final = 0.1
"""What an answer takes at least, and as long as there was none."""


class Pace:
    """Remembers how long the last requests took."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=RECENT)

    def note(self, took_s: float) -> None:
        """A request was answered after so many seconds."""
        self._took_s.append(took_s)

    def allows(self, left_s: float) -> bool:
        """Whether an answer may be expected within so many seconds: a request that can't be sent twice is not begun else."""
        if left_s == float("inf"):
            return True
        return left_s >= TIMES * max((LEAST_S, *self._took_s.copy()))
