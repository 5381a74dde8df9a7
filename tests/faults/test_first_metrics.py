"""The first request with metrics goes alone: whoever is there in AWS's place, or ends the pass,
puts its points in doubt and no others.
"""

from __future__ import annotations

import itertools
import threading

import pytest

from journaltrack import Tracker, audit
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import aws
from tests.faults.test_ending import outcomes, replay
from tests.patience import FOREVER_S
from tests.simulator import BlackHole, HttpError, Instead, simulator

REQUESTS = 40
"""Of ten points each."""


@pytest.fixture
def folder(tmp_path):
    """A journal with a run of which nothing but metrics is interesting."""
    folder = tmp_path / "journal"
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        for number in range(10 * REQUESTS):
            tracker.log_metric("loss", number, iteration_number=number)
    return folder


@pytest.fixture
def sim():
    """AWS."""
    with simulator() as found:
        yield found


def test_behind_a_sign_in_page_one_request_is_in_doubt(folder, sim):
    """Something else answers: of all requests that could begin together one is sent."""
    sim.fail("BatchPutMetrics", Instead(200, b"<html>", {"Content-Type": "text/html"}), times=100)
    report = replay(folder, aws(sim.endpoint_url))
    assert len(sim.calls("BatchPutMetrics")) == 1
    assert report.in_doubt == 10
    assert report.halted.unreachable
    assert report.halted.code == "NotAnAnswer"


def test_in_a_black_hole_one_request_is_in_doubt(folder, sim):
    """Nor does silence put more than one request in doubt."""
    sim.fail("BatchPutMetrics", BlackHole(), times=100)
    # enough for all that is answered
    report = replay(folder, aws(sim.endpoint_url, read_timeout_s=5.0))
    assert len(sim.calls("BatchPutMetrics")) == 1
    assert report.in_doubt == 10
    assert report.halted.unreachable


def test_when_the_time_is_over_before_its_answer_no_other_was_sent(folder, sim):
    """The pass is ended while the first is under way: its points are unsettled, and all others
    pending.
    """
    deadline = Deadline()
    sim.fail("BatchPutMetrics", BlackHole(), times=100)
    sim.on_request = lambda call: deadline.cancel() if call.operation == "BatchPutMetrics" else None
    report = replay(
        folder,
        aws(sim.endpoint_url, read_timeout_s=FOREVER_S, deadline=deadline),
        deadline=deadline,
    )
    assert report.out_of_time
    assert len(sim.calls("BatchPutMetrics")) == 1
    assert outcomes(folder)["unfinished"] == 1
    sim.on_request = None
    sim.clear_faults()
    sim.release()
    again = replay(folder, aws(sim.endpoint_url))
    assert (again.in_doubt, again.pending) == (10, 0)
    assert not audit(folder).inconsistencies


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_once_one_is_answered_sixteen_go_together(folder, sim, refusals):
    """One answer is enough, be it that AWS is too busy for the first: the next sixteen requests
    wait for each other.
    """
    if refusals:
        sim.fail("BatchPutMetrics", HttpError(400, "ThrottlingException"), times=refusals)
    together = threading.Barrier(16)
    numbers = itertools.count(-1)

    def meet(call):
        if call.operation == "BatchPutMetrics" and next(numbers) in range(refusals, refusals + 16):
            together.wait(FOREVER_S)

    sim.on_request = meet
    report = replay(
        folder, RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    )
    assert not together.broken
    assert (report.in_doubt, report.pending) == (0, 0)
    assert len(sim.calls("BatchPutMetrics")) == REQUESTS + refusals
