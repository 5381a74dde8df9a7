"""The bound on requests per second."""

from __future__ import annotations

import threading

import pytest
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


class Service:
    """A service that allows so many requests a second, and a second's worth at once."""

    def __init__(self, rate, clock):
        self.rate, self.clock = rate, clock
        self.tokens, self.at = max(1.0, rate), clock()

    def takes(self):
        self.tokens = min(max(1.0, self.rate), self.tokens + (self.clock() - self.at) * self.rate)
        self.at = self.clock()
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def campaign(limit, service, clock, seconds, threads=16, latency_s=0.03):
    """So many threads send without a pause; how many requests were taken and refused in that time."""
    free = [clock.now] * threads
    taken = refused = 0
    end = clock.now + seconds
    while min(free) < end:
        thread = free.index(min(free))
        clock.now = max(clock.now, free[thread])
        clock.now += limit.reserve()
        if service.takes():
            taken += 1
        else:
            refused += 1
            limit.refused()
        free[thread] = clock.now + latency_s
    return taken, refused


@pytest.mark.parametrize("rate", [2.0, 10.0, 50.0, 200.0])
def test_what_a_service_allows_is_found(rate):
    """Under throttling, few requests are refused, and most of what is allowed is used."""
    clock = Clock()
    taken, refused = campaign(RateLimit(0, clock=clock), Service(rate, clock), clock, 300)
    assert refused < 0.05 * taken + 20
    assert taken > 0.75 * rate * 300


def test_a_rate_that_rises_again_is_found_and_at_last_forgotten():
    """When a service allows more again, so much is used; long after the last refusal there is no bound."""
    clock = Clock()
    limit, service = RateLimit(0, clock=clock), Service(10.0, clock)
    campaign(limit, service, clock, 60)
    assert 5 < limit.found_per_s < 15
    service.rate = 100.0
    campaign(limit, service, clock, 120)
    taken, _ = campaign(limit, service, clock, 60)
    assert taken > 0.75 * 100 * 60
    clock.now += 3_600
    assert limit.found_per_s is None
    assert limit.reserve() == 0.0


def test_a_configured_bound_stays_one():
    """What refusals show is never more than what was configured."""
    clock = Clock()
    begun = clock.now
    taken, refused = campaign(RateLimit(20, clock=clock), Service(1_000.0, clock), clock, 60)
    assert refused == 0
    assert taken <= 20 * (clock.now - begun) + 21


def test_refusals_of_one_burst_count_once():
    """Sixteen refusals at a moment are one excess, not sixteen."""
    clock = Clock()
    limit = RateLimit(0, clock=clock)
    for _ in range(100):
        limit.reserve()
    for _ in range(16):
        limit.refused()
    assert 60 < limit.found_per_s < 80
