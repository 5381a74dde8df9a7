"""A syncing process killed at any request: the next one finds out, nothing is lost, nothing is
sent twice unseen.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from journaltrack import Tracker
from tests.processes import states, sync_process
from tests.simulator import simulator


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 11])
def test_sync_killed_at_any_request_is_finished_by_the_next(journal, at):
    """Killed when its n-th request arrives, a sync is completed by another; doubtful points are
    there once or not at all.
    """
    with simulator() as sim:
        child = []

        def kill(call):
            if call.n >= at and child:
                os.kill(child[0].pid, signal.SIGKILL)

        sim.on_request = kill
        child.append(sync_process(journal, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        again = sync_process(journal, sim.endpoint_url)
        out, err = again.communicate()
        found = states(journal)
        assert found["pending"] == 0, out + err
        assert again.returncode == (4 if found["in doubt"] else 0), out + err
        there = Counter(point.value for point in sim.components["run"].metrics)
        assert max(there.values()) == 1
        assert 95 - found["in doubt"] <= len(there) <= 95
        assert set(sim.components["run"].parameters) == {"lr", "optimizer"}
        assert sim.components["run"].status["PrimaryStatus"] == "Completed"
        assert [stored.body for stored in sim.artifacts.values()] == [b"weights"]
        before = len(sim.requests)
        sync_process(journal, sim.endpoint_url).communicate()
        assert len(sim.requests) == before


@pytest.mark.lineage
@pytest.mark.parametrize("operation", ["CreateArtifact", "AddAssociation"])
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_sync_killed_at_its_lineage_is_finished_by_the_next(tmp_path, operation, applied):
    """Killed before or after a request of lineage took effect, a sync is completed by another:
    every file and chart is linked once, and nothing is in doubt.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_metric("loss", 1.0, iteration_number=0)
        tracker.log_table("chart", {"x": [1]}, output_artifact=False)
        for number in range(3):
            file = tmp_path / f"model-{number}"
            file.write_bytes(b"weights %d" % number)
            tracker.log_artifact(file)
    with simulator() as sim:
        child = []

        def kill(call):
            is_next = (
                operation
                if not applied
                else {"CreateArtifact": "AddAssociation"}.get(operation, "HeadObject")
            )
            if call.operation == is_next and child and sim.calls(operation)[1 - applied :]:
                os.kill(child[0].pid, signal.SIGKILL)

        sim.on_request = kill
        child.append(sync_process(tmp_path / "journal", sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode == -signal.SIGKILL
        sim.on_request = None
        again = sync_process(tmp_path / "journal", sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        found = states(tmp_path / "journal")
        assert (found["pending"], found["in doubt"], found["quarantined"]) == (0, 0, 0)
        assert len(sim.lineage.artifacts) == len(sim.lineage.associations) == 4
        assert {uri for _, _, uri in sim.lineage.edges() if uri != "run"} == {
            f"s3://{bucket}/{key}" for bucket, key in sim.state.objects if "model-" in key
        }
        assert sim.components["run"].status["PrimaryStatus"] == "Completed"
