"""Scripts with the calls of public ones (rewritten), imports replaced: offline, then synced."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from journaltrack import sync
from journaltrack.compat.smexperiments.experiment import Experiment
from journaltrack.compat.smexperiments.tracker import Tracker
from journaltrack.compat.smexperiments.trial import Trial
from journaltrack.compat.smexperiments.trial_component import TrialComponent
from journaltrack.tracking import experiments
from tests.simulator import simulator


@pytest.fixture
def offline(tmp_path, monkeypatch, credentials):
    """A default journal, without delivery, and a folder to work in."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(experiments._silence, "until_s", 0.0)


@pytest.fixture
def synced(offline):
    """Runs a script offline, syncs its journal to a new account, and returns the account."""
    with simulator() as sim:

        def run(script):
            result = script()
            report = sync(endpoint_url=sim.endpoint_url, region="us-east-1")
            assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0), report
            return sim, result

        yield run


@pytest.mark.lineage
def test_a_project_boilerplate_with_artifacts_in_a_bucket(synced, tmp_path):
    """Bucket and prefix by name, two files, and the tracker in a trial after the block."""

    def script():
        (tmp_path / "Dockerfile").write_text("FROM scratch")
        (tmp_path / "data.csv").write_text("1,2")
        experiment = Experiment.create(experiment_name="boilerplate")
        trial = Trial.create(experiment_name=experiment.experiment_name, trial_name="first")
        with Tracker.create(
            display_name="Build", artifact_bucket="mine", artifact_prefix="runs"
        ) as tracker:
            tracker.log_input_artifact("data.csv")
            tracker.log_output_artifact("Dockerfile", name="dockerfile")
            tracker.log_parameters({"epochs": 2})
        trial.add_trial_component(tracker)
        return tracker.trial_component.trial_component_name

    sim, name = synced(script)
    assert sim.trials["first"].components == [name]
    assert {key for bucket, key in sim.state.objects if key.startswith("runs/")} == {
        f"runs/{name}/data.csv",
        f"runs/{name}/dockerfile",
    }
    assert len(sim.lineage.artifacts) == len(sim.lineage.associations) == 2


@pytest.mark.usefixtures("offline")
def test_a_job_loads_its_component_several_times(monkeypatch):
    """`load()` in a job without a name, twice, as DVC's and MMCV's hooks do. Until SageMaker made
    the component, everything waits.
    """
    arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/My-Job"
    monkeypatch.setenv("TRAINING_JOB_ARN", arn)
    first = Tracker.load()
    first.log_parameters({"lr": 0.1})
    first.close()
    second = Tracker.load(artifact_bucket="mine")
    second.log_output("model", "s3://mine/model", "application/x-tar")
    for step in range(9):
        second.log_metric("loss", 1.0 / (step + 1), iteration_number=step)
    second.close()
    with simulator() as sim:
        report = sync(endpoint_url=sim.endpoint_url)
        assert set(report.held) == {"my-job-aws-training-job"}
        sim.add_component("my-job-aws-training-job", source_arn=arn)
        assert sync(endpoint_url=sim.endpoint_url).pending == 0
        component = sim.components["my-job-aws-training-job"]
        assert (len(component.metrics), set(component.parameters)) == (9, {"lr"})
        assert set(component.output_artifacts) == {"model"}


def test_an_evaluation_logs_charts_and_never_closes(synced):
    """Precision and recall, ROC and a confusion matrix, without close: three objects."""
    pytest.importorskip("sklearn")

    def script():
        tracker = Tracker.create("evaluation")
        y, scores = [0, 1, 1, 0], [0.1, 0.9, 0.4, 0.5]
        tracker.log_precision_recall(y, scores, title="PR for churn")
        tracker.log_roc_curve(y, scores, title="ROC for churn")
        tracker.log_confusion_matrix(y, [0, 1, 0, 1], title="Confusion matrix for churn")
        Trial.create("churn", "evaluation").add_trial_component(tracker)
        return str(tracker)

    sim, name = synced(script)
    charts = [
        json.loads(stored.body)["type"]
        for (_, key), stored in sim.state.objects.items()
        if f"/{name}/" in key
    ]
    assert sorted(charts) == ["ConfusionMatrix", "PrecisionRecallCurve", "ROCCurve"]
    assert sim.trials["evaluation"].components == [name]


def test_a_pipeline_runner_saves_the_component_in_a_loop(synced):
    """Load by name, log, `trial_component.save()`; an attribute of the component, too."""

    def script():
        name = TrialComponent.create("step-1").trial_component_name
        tracker = Tracker.load(name)
        for step in range(3):
            tracker.log_parameters({f"step-{step}": step})
            tracker.trial_component.save()
        tracker.trial_component.parameters["late"] = "yes"
        for trial in ("nightly", "weekly"):
            Trial.create("pipeline", trial, trial_components=[tracker.trial_component])

    sim, _ = synced(script)
    assert set(sim.components["step-1"].parameters) == {"step-0", "step-1", "step-2", "late"}
    assert Counter(name for trial in sim.trials.values() for name in trial.components) == {
        "step-1": 2
    }


def test_a_component_is_added_inside_of_its_block(synced):
    """Before it exists at SageMaker, which the original makes in `create`."""

    def script():
        trial = Experiment.create("e").create_trial()
        with Tracker.create("evaluation") as tracker:
            trial.add_trial_component(tracker)
            tracker.log_parameter("x", 1)
        other = Tracker.create("evaluation")
        trial.add_trial_component(other)
        other.log_parameter("y", 2)
        other.close()
        return trial.trial_name

    sim, trial = synced(script)
    assert trial.startswith("SageMakerTrial-")
    assert sorted(sim.trials[trial].components) == sorted(sim.components)
    assert sorted(sorted(each.parameters) for each in sim.components.values()) == [["x"], ["y"]]
