"""The bound on requests per second."""

from __future__ import annotations

import heapq
import itertools
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.rate_limit import RateLimit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


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


class Bucket:
    """A service as AWS documents its throttling: tokens come at a rate up to a capacity, and a request without one is refused."""

    def __init__(self, rate, capacity, clock):
        self.rate, self.capacity, self.clock = rate, max(1.0, capacity), clock
        self.tokens, self.at = self.capacity, clock()

    def change(self, rate, capacity):
        self.rate, self.capacity = rate, max(1.0, capacity)

    def takes(self):
        self.tokens = min(self.capacity, self.tokens + (self.clock() - self.at) * self.rate)
        self.at = self.clock()
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def replayed(service, clock, seconds, *, threads=16, latency_s=0.03, seed=1, changes=()):
    """A pass on a clock of its own: so many threads with one request each in flight, answers that take their time, refused requests tried
    again after a random wait, as ``RetryingRemote`` does. What became of each request: when it arrived, and whether it was taken.
    """
    limit, chance, numbers = RateLimit(0, clock=clock), random.Random(seed), itertools.count()
    begun, log, events, changes = clock(), [], [], list(changes)

    def later(seconds, what, *known):
        heapq.heappush(events, (clock.now + seconds, next(numbers), what, known))

    def ask(attempt):
        cuts, wait_s = limit.cuts, limit.reserve()
        later(wait_s + chance.random() * 0.002, arrive, attempt, cuts if wait_s else None)

    def arrive(attempt, cuts):
        if cuts is not None and cuts != limit.cuts:
            ask(attempt)
            return
        taken = service.takes()
        log.append((clock.now - begun, taken))
        later(latency_s * chance.uniform(0.8, 1.2), answered, attempt, taken, clock.now)

    def answered(attempt, taken, sent_at):
        if taken:
            ask(0)
        else:
            limit.refused(sent_at)
            later(chance.random() * min(20.0, 0.2 * 2**attempt), ask, attempt + 1)

    for _ in range(threads):
        later(chance.random() * 0.01, ask, 0)
    while events[0][0] < begun + seconds:
        clock.now, _, what, known = heapq.heappop(events)
        while changes and clock.now - begun >= changes[0][0]:
            service.change(*changes.pop(0)[1:])
        what(*known)
    return log


def use(log, rate, begin, end):
    """What part of the allowed requests was made in that time, and what part of those that were made was refused."""
    taken = sum(ok for at, ok in log if begin <= at < end)
    refused = sum(not ok for at, ok in log if begin <= at < end)
    return taken / (rate * (end - begin)), refused / max(1, taken + refused)


@pytest.mark.parametrize(("threads", "latency_s"), [(16, 0.03), (16, 0.05), (64, 0.2)])
@pytest.mark.parametrize("seconds_of_burst", [0.2, 1, 5])
@pytest.mark.parametrize("rate", [20.0, 50.0, 200.0])
def test_a_throttled_pass_wastes_few_requests_and_little_of_what_is_allowed(rate, seconds_of_burst, threads, latency_s):
    """From the tenth second on, under 5 % of requests are refused and over 85 % of the rate is used, however large the service's bucket."""
    clock = Clock()
    log = replayed(Bucket(rate, rate * seconds_of_burst, clock), clock, 70, threads=threads, latency_s=latency_s)
    used, wasted = use(log, rate, 10, 70)
    assert wasted < 0.05
    assert used > 0.85


@pytest.mark.parametrize(
    ("before", "after", "within_s"), [(50.0, 200.0, 10), (200.0, 50.0, 3), (200.0, 800.0, 10), (1000.0, 100.0, 3), (20.0, 60.0, 12)]
)
def test_a_rate_that_changes_is_found_within_seconds(before, after, within_s):
    """Fewer requests allowed, or more: soon the new rate is used to 85 %, and under 5 % of requests are wasted on the way and afterwards."""
    clock = Clock()
    service = Bucket(before, before, clock)
    log = replayed(service, clock, 90, threads=64, changes=[(30, after, after)])
    used, wasted = use(log, after, 30 + within_s, 90)
    assert used > 0.85
    assert wasted < 0.05
    assert use(log, after, 30, 90)[1] < 0.05


def test_turns_that_wait_at_a_cut_are_void():
    """Who waits for a turn of the old rate gets one of the new: not all that were queued are refused, too."""
    clock = Clock()
    limit = RateLimit(100, clock=clock)
    for _ in range(100):
        limit.reserve()  # a second's worth goes at once
    waits = []

    def wait(seconds):
        if not waits:
            limit.refused()
        waits.append(seconds)
        clock.now += seconds

    assert limit.take(wait) is True
    assert limit.cuts == 1
    assert len(waits) == 1 or waits[1] > 0
    before = limit.cuts
    assert limit.take(wait) is True
    assert limit.cuts == before


def test_answers_to_what_was_sent_before_a_cut_do_not_cut_again():
    """A second's answers may still be on their way: they are of the excess that was answered already."""
    clock = Clock()
    limit = RateLimit(0, clock=clock)
    sent = []
    for _ in range(100):
        limit.reserve()
        sent.append(clock.now)
        clock.now += 0.005
    limit.refused(sent[50])
    found = limit.found_per_s
    for at in sent[51:]:
        clock.now += 0.01
        limit.refused(at)
    assert limit.cuts == 1
    assert limit.found_per_s == found


def test_a_rate_does_not_rise_unused():
    """Time alone allows nothing: after a minute without requests the next ones go at the rate that was found."""
    clock = Clock()
    limit = RateLimit(0, clock=clock)
    for _ in range(100):
        limit.reserve()
    limit.refused()
    found = limit.found_per_s
    clock.now += 60
    assert limit.found_per_s == found
