"""The bound on requests per second."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from journaltrack.rate_limit import RateLimit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@settings(derandomize=True, deadline=None)
@given(st.floats(0.1, 500), st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_never_more_than_a_second_s_worth_beyond_the_average(rate, pauses):
    """In any window, turns do not exceed the rate times the window plus one second's worth (or one turn)."""
    clock = Clock()
    limit = RateLimit(rate, clock=clock)
    turns = []
    for pause in pauses:
        clock.now += pause
        turns.append(clock.now + limit.reserve())
    assert turns == sorted(turns)
    for first, begin in enumerate(turns):
        for last in range(first, len(turns)):
            assert last - first + 1 <= rate * (turns[last] - begin) + max(1.0, rate) + 1e-6


def test_an_unused_limit_gives_a_turn_at_once():
    """Nobody waits who asks for less than allowed; after a pause, a second's worth goes at once, not more."""
    clock = Clock()
    limit = RateLimit(8, clock=clock)
    clock.now += 3600
    waits = [limit.reserve() for _ in range(20)]
    assert waits[:8] == [0.0] * 8
    assert waits[8] > 0


def test_no_limit_is_no_wait():
    """Zero means that nobody waits."""
    assert {RateLimit(0).reserve() for _ in range(100)} == {0.0}


def test_a_limit_can_change():
    """A new bound counts from the next request on."""
    clock = Clock()
    limit = RateLimit(0.5, clock=clock)
    limit.reserve()
    assert limit.reserve() > 1
    limit.change(0)
    assert limit.reserve() == 0.0


def test_threads_share_one_limit():
    """No two threads get the same turn."""
    clock = Clock()
    limit = RateLimit(100, clock=clock)
    waits = []
    threads = [threading.Thread(target=lambda: waits.extend(limit.reserve() for _ in range(250))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = sorted(wait for wait in waits if wait > 0)
    assert len(set(later)) == len(later)
    assert max(waits) > 18
