"""A syncing process killed at any request: the next one finds out, nothing is lost, nothing is
sent twice unseen.
"""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import closing

import boto3
import pytest

from journaltrack import Tracker
from journaltrack.journal import vocabulary
from journaltrack.journal.groups import Declaration, Group, declared, row_of
from journaltrack.journal.journal import Journal
from journaltrack.remotes.aws.remote import AwsRemote
from tests.processes import states, sync_process
from tests.simulator import simulator

SESSION = boto3.Session("AKIASIMULATED", "simulated-secret", region_name="us-east-1")


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 11])
def test_sync_killed_at_any_request_is_finished_by_the_next(journal, at):
    """Killed when its n-th request arrives, a sync is completed by another; doubtful points are
    there once or not at all.
    """
    with simulator() as sim:
        child = []

        def kill(call):
            if call.n >= at and child:
                child[0].kill()

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


@pytest.mark.parametrize(
    "operation",
    [
        "CreateExperiment",
        "CreateTrial",
        "UpdateExperiment",
        "AddTags",
        "DisassociateTrialComponent",
    ],
)
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_sync_killed_at_an_experiment_is_finished_by_the_next(tmp_path, operation, applied):
    """Killed before or after a request about experiments and trials took effect, a sync is
    completed by another: names, descriptions, tags and places are as declared, and nothing is in
    doubt.
    """
    folder = tmp_path / "journal"
    with closing(Journal.open(folder)) as journal:
        for name in ("new", "there"):
            row = journal.component(row_of("experiment", name))
            tags = {"k": "v"}
            journal.append(row, [vocabulary.experiment(description="D", tags=tags)])
            row = journal.component(row_of("trial", f"trial-of-{name}"))
            journal.append(row, [vocabulary.trial(name, display_name="T", tags=tags)])
        moves = (
            vocabulary.associate(experiment="new", trial="trial-of-new"),
            vocabulary.disassociate("trial-of-there"),
        )
        journal.append(journal.component("run"), [vocabulary.create(owner="o"), *moves])
    with simulator() as sim:
        remote = AwsRemote(session=SESSION, endpoint_url=sim.endpoint_url)
        with closing(remote):
            remote.declare(declared([Declaration(1, Group("trial", "trial-of-there", "there"))]))
        child = []
        answered = []

        def kill(call):
            # After it took effect: when the request comes that follows.
            if child and (answered if applied else call.operation == operation):
                child[0].kill()
            if child and call.operation == operation:
                answered.append(call)

        sim.on_request = kill
        child.append(sync_process(folder, sim.endpoint_url))
        child[0].communicate()
        assert child[0].returncode in ({-signal.SIGKILL} if not applied else {-signal.SIGKILL, 0})
        sim.on_request = None
        again = sync_process(folder, sim.endpoint_url)
        out, err = again.communicate()
        assert again.returncode == 0, out + err
        found = states(folder)
        assert (found["pending"], found["in doubt"], found["quarantined"]) == (0, 0, 0)
        for name in ("new", "there"):
            experiment, trial = sim.experiments[name], sim.trials[f"trial-of-{name}"]
            assert (experiment.description, experiment.tags) == ("D", {"k": "v"})
            assert (trial.display_name, trial.tags, trial.experiment) == ("T", {"k": "v"}, name)
        assert sim.trials["trial-of-new"].components == ["run"]
        assert sim.trials["trial-of-there"].components == []


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
                child[0].kill()

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
