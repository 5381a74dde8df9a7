"""Back-off and the gate: delays grow, are spread, and are bounded; an endpoint that is down is
probed and nothing else.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.watch.breaker import Backoff, Gate

DOWN = RemoteError(
    "refused", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError", unreachable=True
)


@given(
    st.floats(0.01, 10), st.floats(10, 1000), st.lists(st.floats(0, 1), min_size=1, max_size=100)
)
def test_delays_are_bounded_and_spread_over_their_upper_half(first_s, max_s, chances):
    """No delay is longer than the bound, and none shorter than half of what doubling says."""
    source = iter(chances)
    backoff = Backoff(first_s, max_s, lambda: next(source))
    for n in range(len(chances)):
        whole = min(max_s, first_s * 2.0**n)
        assert whole / 2 <= backoff.next_s() <= whole


def test_delays_begin_anew_after_a_reset():
    """After a success the first delay is the first one again."""
    backoff = Backoff(1, 100, lambda: 1.0)
    assert [backoff.next_s() for _ in range(4)] == [1, 2, 4, 8]
    backoff.reset()
    assert backoff.next_s() == 1


def test_two_nodes_do_not_come_back_together():
    """Different chances make different delays."""
    assert Backoff(10, 100, lambda: 0.1).next_s() != Backoff(10, 100, lambda: 0.9).next_s()


def test_a_gate_that_is_down_tells_when_to_probe():
    """Every failure moves the next probe further away; an answer opens the gate."""
    gate = Gate(1, 30, lambda: 1.0)
    assert gate.up
    assert gate.fail(DOWN, 100.0)
    assert (gate.up, gate.probe_at, gate.since) == (False, 101.0, 100.0)
    assert not gate.fail(DOWN, 101.0), "no news"
    assert (gate.probe_at, gate.since) == (103.0, 100.0)
    assert gate.answered(103.0)
    assert (gate.up, gate.probe_at, gate.contact_at) == (True, None, 103.0)


def test_an_endpoint_that_answers_probes_alone_stays_under_growing_delays():
    """Only a delivery lets the delays begin from the start."""
    gate = Gate(1, 30, lambda: 1.0)
    for at, delay in ((0.0, 1), (10.0, 2), (20.0, 4)):
        gate.fail(DOWN, at)
        assert gate.probe_at == pytest.approx(at + delay)
        gate.answered(at + delay)
    gate.delivered(30.0)
    gate.fail(DOWN, 40.0)
    assert gate.probe_at == pytest.approx(41.0)


def test_no_interval_between_probes_is_longer_than_the_bound():
    """After any number of failures, recovery is noticed within ``max_s``."""
    gate = Gate(1, 30, lambda: 1.0)
    at = 0.0
    for _ in range(200):
        gate.fail(DOWN, at)
        assert gate.probe_at - at <= 30
        at = gate.probe_at
