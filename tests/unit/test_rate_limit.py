"""The bound on requests per second."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.remotes.rate_limit import FIRST_PER_S, RateLimit, Throttle
from tests.patience import FOREVER_S


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def gives_up(_):
    return False


@given(st.floats(0.1, 500), st.lists(st.floats(0, 2), min_size=1, max_size=100))
def test_never_more_than_a_second_s_worth_beyond_the_average(rate, pauses):
    """In any window, turns do not exceed the rate times the window plus one second's worth (or
    one turn).
    """
    clock = Clock()
    limit = RateLimit(rate, clock=clock)
    turns = []
    for pause in pauses:
        clock.now += pause
        assert limit.take(clock.wait)
        turns.append(clock.now)
    for first, begin in enumerate(turns):
        for last in range(first, len(turns)):
            assert last - first + 1 <= rate * (turns[last] - begin) + max(1.0, rate) + 1e-5


@given(st.floats(0.1, 500), st.integers(1, 30))
def test_a_bound_is_used(rate, turns):
    """Who always asks gets the average, after a second's worth that comes at once."""
    clock = Clock()
    limit = RateLimit(rate, clock=clock)
    for _ in range(turns):
        assert limit.take(clock.wait)
    assert clock.now - 1000.0 <= max(0.0, turns - max(1.0, rate)) / rate + 1e-5


def test_an_unused_limit_gives_a_turn_at_once():
    """Nobody waits who asks for less than allowed; after a pause, a second's worth goes at once,
    not more.
    """
    clock = Clock()
    limit = RateLimit(8, clock=clock)
    clock.now += 3600
    assert [limit.take(gives_up) for _ in range(20)] == [True] * 8 + [False] * 12


def test_no_limit_is_no_wait():
    """Zero means that nobody waits."""
    limit = RateLimit(0)
    assert all(limit.take(gives_up) for _ in range(100))


def test_a_limit_can_change():
    """A new bound counts from the next request on."""
    limit = RateLimit(0.5, clock=Clock())
    assert limit.take(gives_up)
    assert not limit.take(gives_up)
    limit.change(0)
    assert all(limit.take(gives_up) for _ in range(10))
    limit.change(0.5)
    assert [limit.take(gives_up) for _ in range(3)].count(True) <= 1


def test_threads_share_one_limit():
    """No two threads get the same turn."""
    clock = Clock()
    limit = RateLimit(100, clock=clock)
    lock = threading.Lock()

    def wait(seconds):
        with lock:
            clock.wait(seconds)

    threads = [
        threading.Thread(target=lambda: [limit.take(wait) for _ in range(250)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FOREVER_S)
    assert clock.now - 1000.0 >= (8 * 250 - 100) / 100 - 1e-3


class Bucket:
    """A service as AWS documents its throttling: tokens come at a rate up to a capacity, and a
    request without one is refused.
    """

    def __init__(self, rate, capacity, clock):
        self.rate, self.capacity, self.clock = rate, max(1.0, capacity), clock
        self.tokens, self.at = self.capacity, clock()

    def change(self, rate, capacity):
        self.takes()
        self.rate, self.capacity = rate, max(1.0, capacity)

    def takes(self):
        self.tokens = min(self.capacity, self.tokens + (self.clock() - self.at) * self.rate)
        self.at = self.clock()
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Moody:
    """A service that refuses some of its first requests, and nothing after them."""

    def __init__(self, refused):
        self.refused, self.count = set(refused), 0

    def takes(self):
        self.count += 1
        return self.count not in self.refused


class Pass:
    """A pass on a clock of its own.

    So many threads with one request each under way (one at first, 16 after ``late_s``, one more
    with each answer, as a pass has it); handing a request out takes ``cpu_s`` of one thread;
    refused requests are tried again after a random wait, as ``RetryingRemote`` does.
    """

    def __init__(
        self, service, clock, *, threads=16, latency_s=0.03, cpu_s=0.0, late_s=0.1, seed=1
    ):
        self.service, self.clock, self.threads, self.latency_s, self.cpu_s = (
            service,
            clock,
            threads,
            latency_s,
            cpu_s,
        )
        self.limit, self.late_s = Throttle(clock), late_s
        self.chance, self.numbers, self.events = random.Random(seed), itertools.count(), []
        self.log = []  # when a request arrived, and whether it was taken
        self.begun = self.handed_out_at = self.ended = clock()
        self.left = None
        self.waiting = deque()

    def later(self, seconds, what, *known):
        heapq.heappush(self.events, (self.clock.now + seconds, next(self.numbers), what, known))

    def begin(self):
        if self.left is not None:
            if not self.left:
                return
            self.left -= 1
        self.handed_out_at = max(self.handed_out_at, self.clock.now) + self.cpu_s
        self.later(self.handed_out_at - self.clock.now, self.ask, 0)

    def ask(self, attempt):
        self.waiting.append(attempt)
        if len(self.waiting) == 1:
            self.ask_in_front()

    def ask_in_front(self):
        """As ``Throttle.take``: one thread waits for its turn, the others for that one."""
        while self.waiting:
            wait_s = self.limit.ask()
            if wait_s > 0:
                self.later(min(wait_s, 0.1) + self.chance.random() * 0.001, self.ask_in_front)
                return
            self.later(
                self.latency_s / 2 * self.chance.uniform(0.8, 1.2),
                self.arrive,
                self.waiting.popleft(),
                self.limit._local.turn,
            )

    def arrive(self, attempt, turn):
        taken = self.service.takes()
        self.log.append((self.clock.now - self.begun, taken))
        self.later(
            self.latency_s / 2 * self.chance.uniform(0.8, 1.2), self.answered, attempt, turn, taken
        )

    def answered(self, attempt, turn, taken):
        # a thread has one request under way, and here all threads are one
        self.limit._local.turn = turn
        if not taken:
            self.limit.refused()
            self.later(self.chance.random() * min(1.0, 0.2 * 2**attempt), self.ask, attempt + 1)
            return
        self.limit.taken()
        self.ended = self.clock.now
        self.begin()
        if self.running < self.threads:
            self.running += 1
            self.begin()

    def run(self, *, seconds=float("inf"), requests=None, changes=()):
        """Returns the log, and the seconds until the last request was taken."""
        self.left, changes = requests, list(changes)
        self.running = min(16, self.threads)
        self.begin()
        for _ in range(1, self.running):
            self.later(self.late_s + self.chance.random() * 0.01, self.begin)
        while self.events and self.events[0][0] < self.begun + seconds:
            self.clock.now, _, what, known = heapq.heappop(self.events)
            while changes and self.clock.now - self.begun >= changes[0][0]:
                self.service.change(*changes.pop(0)[1:])
            what(*known)
        return self.log, self.ended - self.begun


def use(log, rate, begin, end):
    """What part of the allowed requests was made in that time, and what part of those that were
    made was refused.
    """
    taken = sum(ok for at, ok in log if begin <= at < end)
    refused = sum(not ok for at, ok in log if begin <= at < end)
    return taken / (rate * (end - begin)), refused / max(1, taken + refused)


@pytest.mark.parametrize(
    ("threads", "latency_s"),
    [(4, 0.03), (16, 0.001), (16, 0.03), (96, 0.001), (96, 0.03), (96, 0.1)],
)
@pytest.mark.parametrize(
    "refused",
    [
        range(1, 11),
        range(60, 70),
        range(7, 71, 7),
        *(random.Random(seed).sample(range(1, 71), 10) for seed in range(4)),
    ],
    ids=["the first", "the last", "every seventh", *(f"random {n}" for n in range(4))],
)
def test_ten_refusals_among_the_first_seventy_cost_little(refused, threads, latency_s):
    """600 requests take at most three times as long as without a refusal, wherever the refusals
    are, however many threads send.
    """
    _, without = Pass(Moody(()), Clock(), threads=threads, latency_s=latency_s, cpu_s=0.0018).run(
        requests=600
    )
    _, took = Pass(Moody(refused), Clock(), threads=threads, latency_s=latency_s, cpu_s=0.0018).run(
        requests=600
    )
    assert took <= 3 * without


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "latency_s"), [(16, 0.03), (64, 0.2), (96, 0.005), (96, 0.03)])
@pytest.mark.parametrize("seconds_of_burst", [0.2, 1, 5])
@pytest.mark.parametrize("rate", [20.0, 50.0, 200.0])
def test_a_steady_service_is_used_and_not_pestered(rate, seconds_of_burst, threads, latency_s):
    """From the fifth second on, at most 5 % of requests are refused and at least 85 % of the
    rate is used, whatever the bucket's size.
    """
    clock = Clock()
    log, _ = Pass(
        Bucket(rate, rate * seconds_of_burst, clock), clock, threads=threads, latency_s=latency_s
    ).run(seconds=65)
    used, wasted = use(log, rate, 5, 65)
    assert wasted <= 0.05
    assert used >= 0.85


def test_a_service_of_fifty_a_second_is_found_from_the_first_request_on():
    """Of the first thousand requests, with the excess by which the rate is found, at most 5 %
    are refused.
    """
    clock = Clock()
    log, took = Pass(
        Bucket(50.0, 50.0, clock), clock, threads=96, cpu_s=0.0018, latency_s=0.002
    ).run(requests=1000)
    assert sum(not ok for _, ok in log) <= 0.05 * len(log)
    assert took <= 1000 / 50 / 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "within_s"), [(50.0, 100.0, 3), (50.0, 25.0, 3), (50.0, 200.0, 4), (200.0, 50.0, 3), (200.0, 800.0, 4), (1000.0, 100.0, 3), (20.0, 60.0, 6)]
)  # fmt: skip
def test_a_rate_that_changes_is_found_within_seconds(before, after, within_s):
    """Fewer requests allowed, or more: soon the new rate is used to 85 %, and at most 5 % of
    requests are wasted on the way and afterwards.
    """
    clock = Clock()
    log, _ = Pass(Bucket(before, before, clock), clock, threads=64).run(
        seconds=90, changes=[(30, after, after)]
    )
    assert use(log, after, 30 + within_s, 90)[0] >= 0.85
    assert use(log, after, 30, 90)[1] <= 0.05


def test_a_burst_of_refusals_is_forgotten():
    """A service that takes ten a second for a while, and everything then: within eight seconds
    nothing is held back.
    """
    clock = Clock()
    log, _ = Pass(Bucket(10.0, 10.0, clock), clock, threads=16).run(
        seconds=18, changes=[(5, 1e6, 1e6)]
    )
    assert use(log, 16 / 0.03, 13, 18)[0] >= 0.8


def test_without_a_refusal_nobody_waits():
    """There is no bound until a service shows one."""
    throttle = Throttle(Clock())
    for _ in range(1000):
        assert throttle.ask() == 0.0
        throttle.taken()
    assert throttle.per_s is None


def test_refusals_of_one_burst_count_once():
    """Sixteen refusals of what was under way together are one excess, not sixteen."""
    clock = Clock()
    throttle = Throttle(clock)
    turns = []
    for _ in range(32):
        assert throttle.ask() == 0.0
        turns.append(throttle._local.turn)
        clock.now += 0.01
    found = set()
    for turn in turns[16:]:
        throttle._local.turn = turn
        throttle.refused()
        found.add(throttle.per_s)
        clock.now += 0.001
    assert found == {FIRST_PER_S}


def test_each_api_has_its_own():
    """That one API throttles holds back nothing that is sent to another."""
    clock = Clock()
    limit = RateLimit(0, clock=clock)
    for _ in range(3):
        assert limit.take(lambda _: False, "BatchPutMetrics")
    limit.of("BatchPutMetrics").refused()
    limit.take(lambda _: False, "BatchPutMetrics")
    assert not limit.take(lambda _: False, "BatchPutMetrics")
    for _ in range(100):
        assert limit.take(lambda _: False, "UpdateTrialComponent")


def test_the_configured_bound_is_one_over_all():
    """Whatever APIs are asked and whatever their refusals show, requests do not exceed what was
    configured.
    """
    clock = Clock()
    limit = RateLimit(20, clock=clock)
    sent = []

    def wait(seconds):
        clock.now += seconds

    for n in range(400):
        assert limit.take(wait, "ab"[n % 2])
        sent.append(clock.now)
        (limit.of("ab"[n % 2]).refused if n % 40 == 3 else limit.of("ab"[n % 2]).taken)()
    for first in range(0, 400, 10):
        for last in range(first, 400):
            assert last - first + 1 <= 20 * (sent[last] - sent[first]) + 20 + 1e-6


def test_who_gives_up_gets_no_turn():
    """A wait that ends since the time is over ends them all, also those of threads that wait for
    the one in front.
    """
    throttle = Throttle()
    throttle.ask()
    throttle.refused()
    while throttle.ask() == 0.0:
        pass
    throttle.per_s = 0.001
    over = threading.Event()
    came = []

    def wait(seconds):
        over.wait(seconds)
        return not over.is_set()

    threads = [threading.Thread(target=lambda: came.append(throttle.take(wait))) for _ in range(8)]
    for thread in threads:
        thread.start()
    over.set()
    for thread in threads:
        thread.join(FOREVER_S)
    assert came == [False] * 8
