"""Ten thousand calls, two requests: from the tracker's calls to what AWS is asked, through real
processes' code and HTTP.
"""

from __future__ import annotations

from collections import Counter

import pytest

from journaltrack import Tracker, sync
from tests.processes import ENVIRONMENT
from tests.simulator import simulator


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    """As a user has them in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def asked(sim):
    """How often which operation was asked for."""
    return Counter(request.operation for request in sim.requests)


@pytest.mark.parametrize(("calls", "keys"), [(2_000, 1), (2_000, 7), (20_000, 300)])
def test_parameters_take_one_create_and_one_update(tmp_path, calls, keys):
    """However often log_parameter was called, a component is created once and updated once, with
    the last value of each key.
    """
    with simulator() as sim:
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="off"
        )
        for number in range(calls):
            tracker.log_parameter(f"p{number % keys}", number)
        tracker.close()
        report = sync(tmp_path / "journal", endpoint_url=sim.endpoint_url)
        assert (report.pending, report.quarantined) == (0, 0)
        assert (report.delivered, report.superseded) == (1 + calls, calls - keys)
        assert asked(sim) == {"CreateTrialComponent": 1, "UpdateTrialComponent": 1}
        last = {f"p{number % keys}": float(number) for number in range(calls)}
        assert {
            name: value["NumberValue"] for name, value in sim.components["run"].parameters.items()
        } == last


def test_parameters_among_metrics_are_one_update_too(tmp_path):
    """Calls of both kinds in turns: metrics go ten to a request, all parameters in one."""
    with simulator() as sim:
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="off"
        )
        for number in range(2_000):
            tracker.log_parameter(f"p{number % 30}", number)
            tracker.log_metric("loss", float(number), iteration_number=number)
        tracker.close()
        assert sync(tmp_path / "journal", endpoint_url=sim.endpoint_url).pending == 0
        assert asked(sim) == {
            "CreateTrialComponent": 1,
            "UpdateTrialComponent": 1,
            "BatchPutMetrics": 200,
        }
        assert [point.value for point in sim.components["run"].metrics].count(7.0) == 1
