"""Deliveries to an MLflow server that are killed, and a server that is away: nothing is lost, and
nothing is there twice.
"""

from __future__ import annotations

import signal

import pytest

from journaltrack import Tracker
from journaltrack.reports.status import status
from tests.builders import tracked
from tests.processes import arrived, sync_process
from tests.simulator import simulator
from tests.simulator.mlflow import CUT_AFTER, CUT_BEFORE, MlflowServer

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.slow
@pytest.mark.parametrize("cut", [CUT_BEFORE, CUT_AFTER])
def test_a_sync_that_is_killed_at_every_request_leaves_one_run_with_everything_once(tmp_path, cut):
    """Killed at its first request, the next one at its second, and so on, with or without effect:
    the last one delivers the rest.
    """
    journal = tracked(tmp_path, steps=30, parameters={"lr": 0.1}, artifact=b"the model")
    with MlflowServer() as server:
        for number in range(1, 100):
            before = len(server.asked)
            syncing = []

            def kill(n, _method, _path, before=before, number=number, syncing=syncing):
                """Kill the sync when the server gets its request of that number."""
                if n - before == number and syncing:
                    syncing[0].kill()
                    return cut
                return None

            server.fault = kill
            process = sync_process(journal, NOWHERE, "--to", server.uri)
            syncing.append(process)
            out, err = process.communicate()
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, out + err
                break
        (run,) = server.active()
        assert number > 5, "it was killed in the midst of each kind of request"
        there = sorted((step, value) for value, _, step in server.history(run, "loss"))
        assert there == [(step, 1.0 + step) for step in range(30)]
        assert (run.params, run.status) == ({"lr": "0.1"}, "FINISHED")
        assert [*server.files.values()] == [b"the model"]
    (copy,) = status(journal).destinations
    assert (copy.pending, copy.in_doubt, copy.quarantined) == (0, 0, 0)


@pytest.mark.slow
def test_a_watcher_delivers_to_all_destinations_also_while_one_is_away(
    tmp_path, watch, credentials
):
    """SageMaker gets everything while the lab is away, and the lab gets it afterwards, once; while
    AWS is away, the lab still does.
    """
    file = tmp_path / "config.toml"
    with simulator() as sim, MlflowServer() as lab:
        file.write_text(f'[destinations.lab]\nuri = "{lab.uri}"\n')
        lab.stop()
        watching = watch(
            tmp_path / "journal", sim.endpoint_url, env={"JOURNALTRACK_CONFIG": str(file)}
        )
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="off"
        )
        for step in range(20):
            tracker.log_metric("loss", 1.0, iteration_number=step)
        assert arrived(sim, 20)
        lab.start()
        assert lab.wait_until(lambda: any(len(run.points) == 20 for run in lab.active()))
        sim.stop()
        for step in range(20, 40):
            tracker.log_metric("loss", 1.0, iteration_number=step)
        assert lab.wait_until(lambda: len(lab.active()[0].points) == 40)
        sim.start()
        assert arrived(sim, 40)
        tracker.close()
        assert watching.end() == 0
        assert len(lab.active()) == 1
