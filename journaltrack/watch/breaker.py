"""When to try again: back-off, and the gate that keeps passes from an endpoint that is down. Pure: time and chance are handed in.

Delays double from ``first_s`` to ``max_s`` and are spread over their upper half (equal jitter), so that a hundred nodes that
lost the same endpoint do not come back in the same second, and none waits for longer than ``max_s``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.errors import RemoteError

_DOUBLINGS_MAX: Final = 60  # beyond, 2.0**n serves nobody


class Backoff:
    """Growing delays.

    Args:
        first_s: The first one, at most.
        max_s: No delay is longer.
        chance: A number from 0 to 1, another one at each call.
    """

    def __init__(self, first_s: float, max_s: float, chance: Callable[[], float]) -> None:
        self.first_s = first_s
        self.max_s = max_s
        self._chance = chance
        self._failures = 0

    def pace(self, first_s: float, max_s: float) -> None:
        """Other bounds from now on."""
        self.first_s = first_s
        self.max_s = max_s

    def next_s(self) -> float:
        """The delay after one failure more."""
        whole = min(self.max_s, self.first_s * 2.0 ** min(self._failures, _DOUBLINGS_MAX))
        self._failures += 1
        return whole * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """All is well again."""
        self._failures = 0


class Gate:
    """Whether the endpoint is believed to take requests.

    Down after a failure that is not one journal's own; then it is probed, and every failing probe doubles the delay to the
    next. It is *up* as soon as a probe succeeds, but the delays start from the beginning only after something was delivered:
    an endpoint that answers probes and nothing else stays under growing delays.

    Args:
        first_s: Before the first probe.
        max_s: Between probes at most.
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
        """Whether passes may be made."""
        return self.error is None

    def pace(self, first_s: float, max_s: float) -> None:
        """Other bounds from now on."""
        self._backoff.pace(first_s, max_s)

    def fail(self, error: RemoteError, now: float) -> bool:
        """A pass or a probe found that nothing goes through; whether that is news."""
        news = self.error is None
        if news:
            self.since = now
        self.error = error
        self.probe_at = now + self._backoff.next_s()
        return news

    def answered(self, now: float) -> bool:
        """A probe got an answer; whether that is news."""
        news = self.error is not None
        self.error = self.since = self.probe_at = None
        self.contact_at = now
        return news

    def delivered(self, now: float) -> None:
        """A pass delivered something."""
        self.contact_at = now
        self._backoff.reset()
