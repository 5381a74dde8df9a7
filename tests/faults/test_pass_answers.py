"""Answers that get lost on the way, through real boto3 over HTTP: what a pass, and the next one,
make of them.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from statistics import fmean

import pytest

from journaltrack import Tracker
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection
from journaltrack.replay.reconciler import Options
from journaltrack.reports.report import audit
from tests.simulator import CutAfter, CutBefore, simulator

TENTHS = (0.1, 0.2, 0.3, 0.7, 0.1, 0.6, 1e-3, 0.9, 0.11, 0.13)
"""Their sum and ten times their mean are not the same double."""


def sync(folder, sim, **options):
    """One pass; ``visible_after_s=0``: what is not shown is not there."""
    return run_pass(
        folder, Connection(region="us-east-1", endpoint_url=sim.endpoint_url), Options(**options)
    )


@pytest.fixture
def folder(tmp_path, credentials):
    """Of the journal."""
    return tmp_path / "j"


@pytest.fixture
def run(folder):
    """A tracker that delivers nothing by itself."""
    return Tracker.create(trial_component_name="run", journal=folder, sync="off")


def there(sim):
    """How often each point is there."""
    return Counter((point.name, point.value) for point in sim.components["run"].metrics)


def test_a_component_that_was_made_by_a_lost_request_is_ours(folder, run):
    """The answer to its creation is lost, the repeated request hears that the name is taken: the
    same pass finds that it is ours and goes on.
    """
    run.log_parameter("rate", 0.5)
    run.log_metric("loss", 1.0, iteration_number=1)
    run.close()
    with simulator() as sim:
        sim.fail("CreateTrialComponent", CutAfter(), times=1)
        report = sync(folder, sim)
        assert (report.halted, report.held, report.pending) == (None, {}, 0)
        assert there(sim) == Counter({("loss", 1.0): 1})
        assert sync(folder, sim).requests == 0, "it is known to be there"
        arn = sim.components["run"].arn
    totals = audit(folder).totals
    assert totals.delivered == totals.entries
    assert audit(folder).components[0].arn == arn


@pytest.mark.parametrize("stepped", [True, False])
def test_a_sum_that_is_not_exact_is_recognised(folder, run, stepped):
    """Points whose sum can't be a double exactly are found to have arrived, step by step and all
    together: each is there once.
    """
    # Added up one by one: the built-in sum compensates since Python 3.12.
    assert fmean(TENTHS) * len(TENTHS) != functools.reduce(operator.add, TENTHS)
    for value in TENTHS:
        run.log_metric("loss", value, iteration_number=3 if stepped else None)
    run.close()
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter(), times=1)
        assert sync(folder, sim).in_doubt == 10
        assert sync(folder, sim, visible_after_s=0).arrived == 10
        assert there(sim).total() == 10


def test_a_metric_that_the_service_does_not_name_has_no_points(folder, run):
    """Nothing of a metric is shown long after its request was lost: its points are not there,
    and are sent again.
    """
    for value in (1.0, 2.0):
        run.log_metric("loss", value)
    run.close()
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        assert sync(folder, sim).in_doubt == 2
        report = sync(folder, sim, visible_after_s=0)
        assert (report.not_arrived, report.delivered, report.pending) == (2, 2, 0)
        assert set(there(sim).values()) == {1}


def test_points_without_a_step_stay_in_doubt_beside_undecided_ones(folder, run, tmp_path):
    """Another writer's point at the step of one looks like the other one, which has no step:
    neither is said to be there, or sent again.
    """
    run.log_metric("loss", 1.0, iteration_number=1)
    run.log_metric("loss", 2.0)
    run.close()
    other = Tracker.load("run", journal=tmp_path / "other", sync="off")
    other.log_metric("loss", 2.0, iteration_number=1)
    other.close()
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutBefore(), times=1)
        assert sync(folder, sim).in_doubt == 2
        sync(tmp_path / "other", sim)
        report = sync(folder, sim, visible_after_s=0)
        assert (report.arrived, report.not_arrived) == (0, 0)
        assert there(sim) == Counter({("loss", 2.0): 1})
    assert audit(folder).totals.in_doubt == 2
