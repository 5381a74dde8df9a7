"""Decide when to try again: backoff, and the gate (circuit breaker) of an endpoint that is down.

Delays double from ``first_s`` to ``max_s``, with equal jitter over their upper half. So a hundred
nodes that lost the same endpoint do not come back in the same second. No delay exceeds ``max_s``.

Pure: time and chance are handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.errors import RemoteError

# Far beyond any ``max_s``; without it, 2.0**n would overflow.
_DOUBLINGS_MAX: Final = 60


class Backoff:
    """Give growing delays.

    Args:
        first_s: Longest first delay.
        max_s: Longest delay.
        chance: Returns a random number from 0 to 1.
    """

    def __init__(self, first_s: float, max_s: float, chance: Callable[[], float]) -> None:
        self.first_s = first_s
        self.max_s = max_s
        self._chance = chance
        self._failures = 0

    def pace(self, first_s: float, max_s: float) -> None:
        """Change the bounds."""
        self.first_s = first_s
        self.max_s = max_s

    def next_s(self) -> float:
        """Return the delay after one more failure."""
        whole = min(self.max_s, self.first_s * 2.0 ** min(self._failures, _DOUBLINGS_MAX))
        self._failures += 1
        return whole * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """Start again with the first delay."""
        self._failures = 0


class Gate:
    """Break the circuit: say whether the endpoint is believed to take requests.

    It is *down* after a failure that concerns more than one journal. Then probes begin, and every
    failed probe doubles the delay to the next. It is *up* as soon as a probe succeeds. But only a
    delivery resets the delays: an endpoint that answers nothing but probes keeps growing delays.

    Args:
        first_s: Longest delay before the first probe.
        max_s: Longest delay between probes.
        chance: See ``Backoff``.
    """

    def __init__(self, first_s: float, max_s: float, chance: Callable[[], float]) -> None:
        self._backoff = Backoff(first_s, max_s, chance)
        self.error: RemoteError | None = None
        self.since: float | None = None
        self.probe_at: float | None = None
        self.contact_at: float | None = None

    @property
    def up(self) -> bool:
        """Return whether passes may begin."""
        return self.error is None

    def pace(self, first_s: float, max_s: float) -> None:
        """Change the bounds of the delays."""
        self._backoff.pace(first_s, max_s)

    def fail(self, error: RemoteError, now: float) -> bool:
        """Take note that a pass or a probe failed. Return whether that is news."""
        news = self.error is None
        if news:
            self.since = now
        self.error = error
        self.probe_at = now + self._backoff.next_s()
        return news

    def answered(self, now: float) -> bool:
        """Take note that a probe was answered. Return whether that is news."""
        news = self.error is not None
        self.error = self.since = self.probe_at = None
        self.contact_at = now
        return news

    def delivered(self, now: float) -> None:
        """Take note that a pass delivered something."""
        self.contact_at = now
        self._backoff.reset()
