"""Scripts of sagemaker-experiments with another import: offline, and what a sync makes of them."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import time
from datetime import datetime, timedelta, timezone

import boto3
import pytest

from journaltrack import merge, sync
from journaltrack.compat.smexperiments import api_types, metrics
from journaltrack.compat.smexperiments.experiment import Experiment
from journaltrack.compat.smexperiments.search_expression import (
    BooleanOperator,
    Filter,
    NestedFilter,
    Operator,
    SearchExpression,
)
from journaltrack.compat.smexperiments.tracker import Tracker
from journaltrack.compat.smexperiments.training_job import TrainingJob
from journaltrack.compat.smexperiments.trial import Trial
from journaltrack.compat.smexperiments.trial_component import TrialComponent
from journaltrack.errors import (
    ComponentNotFoundError,
    InvalidInputError,
    InvalidTypeError,
    RemoteError,
)
from journaltrack.journal import view
from journaltrack.tracking import experiments
from tests.simulator import HttpError, simulator


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the default journal, without delivery."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    monkeypatch.setitem(experiments._silence, "until_s", 0.0)
    return tmp_path / "journal"


@pytest.fixture
def aws(monkeypatch, credentials):
    """An account that calls reach at once."""
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
        yield sim


def names(listed, what="trial_name"):
    """The names of what was listed, in order."""
    return [getattr(each, what) for each in listed]


def mnist():
    """The calls of AWS's MNIST notebook: one preprocessing component in five trials."""
    experiment = Experiment.create(
        experiment_name="mnist-hand-written-digits",
        description="Classification of mnist hand-written digits",
        tags=[{"Key": "team", "Value": "vision"}],
    )
    with Tracker.create(display_name="Preprocessing") as tracker:
        tracker.log_parameters({"normalization_mean": 0.1307, "normalization_std": 0.3081})
        tracker.log_input(name="mnist-dataset", media_type="s3/uri", value="s3://bucket/mnist")
    preprocessing = tracker.trial_component
    for channels in (2, 5, 10, 20, 32):
        trial = Trial.create(
            trial_name=f"cnn-training-job-{channels}", experiment_name=experiment.experiment_name
        )
        trial.add_trial_component(preprocessing)
    return experiment, preprocessing


def test_the_mnist_notebook_runs_offline_and_a_sync_puts_there_what_the_original_would(
    folder, credentials
):
    """Experiment with description and tags, five trials, and one component in all of them."""
    experiment, preprocessing = mnist()
    trials = [f"cnn-training-job-{channels}" for channels in (2, 5, 10, 20, 32)]
    assert sorted(names(experiment.list_trials())) == sorted(trials)
    assert sorted(names(preprocessing.list_trials())) == sorted(trials)
    with simulator() as sim:
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        made = sim.experiments["mnist-hand-written-digits"]
        assert made.description == "Classification of mnist hand-written digits"
        assert made.tags == {"team": "vision"}
        name = preprocessing.trial_component_name
        assert {trial.name: trial.components for trial in sim.trials.values()} == {
            trial: [name] for trial in trials
        }
        assert {trial.experiment for trial in sim.trials.values()} == {made.name}
        component = sim.components[name]
        assert component.display_name == "Preprocessing"
        assert component.parameters == {
            "normalization_mean": {"NumberValue": 0.1307},
            "normalization_std": {"NumberValue": 0.3081},
        }
        before = len(sim.requests)
        assert sync(folder, endpoint_url=sim.endpoint_url).requests == 0
        assert len(sim.requests) == before


def test_with_a_network_what_jobs_name_is_there_at_once(aws, monkeypatch):
    """Experiment and trial exist after `create`; a component is in its trials after the tracker's
    `close`, or at once. What SageMaker has not heard yet counts in lists.
    """
    experiment = Experiment.create("e", tags={"k": "v"})
    assert aws.experiments["e"].tags == {"k": "v"}
    trial = experiment.create_trial("t")
    assert aws.trials["t"].experiment == "e"
    with Tracker.create() as tracker:
        trial.add_trial_component(tracker)
    name = tracker.trial_component.trial_component_name
    assert aws.trials["t"].components == [name]
    trial.remove_trial_component(tracker)
    assert aws.trials["t"].components == []
    for each in (tracker.trial_component, "of-somebody-else"):
        trial.add_trial_component(each)
    assert aws.trials["t"].components == [name]
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    trial.remove_trial_component(tracker)
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    assert names(trial.list_trial_components(), "trial_component_name") == ["of-somebody-else"]
    assert names(tracker.trial_component.list_trials()) == []
    assert aws.trials["t"].components == [name]
    assert Experiment.load("e").experiment_arn == aws.experiments["e"].arn


def test_a_component_may_be_given_in_every_form_of_the_original(folder):
    """A tracker, open or closed, a component, a summary, and a name."""
    trial = Trial.create("e", "t")
    with Tracker.create("first") as tracker:
        trial.add_trial_component(tracker)
    second = TrialComponent.create("second")
    trial.add_trial_component(second)
    trial.add_trial_component(api_types.TrialComponentSummary("third"))
    trial.add_trial_component("Fourth-aws-training-job")
    trial.add_trial_component(tracker)
    listed = names(
        trial.list_trial_components(sort_by="Name", sort_order="Ascending"), "trial_component_name"
    )
    first = tracker.trial_component.trial_component_name
    assert listed == [first, "fourth-aws-training-job", "second", "third"]
    for each in (tracker, second, api_types.TrialComponentSummary("third")):
        trial.remove_trial_component(each)
    assert names(trial.list_trial_components(), "trial_component_name") == [
        "fourth-aws-training-job"
    ]
    made = Trial.create("e", trial_components=[tracker, "second"])
    assert made.trial_name.startswith("Trial-")
    assert len(list(made.list_trial_components())) == 2


@pytest.mark.parametrize("base", ["TrialComponent", "evaluation"])
def test_trackers_are_made_by_position_as_in_the_original(folder, base):
    """The first argument is the beginning of the name, and the second the display name."""
    tracker = Tracker.create(base, "Shown", "bucket", "prefix")
    tracker.close()
    component = tracker.trial_component
    assert isinstance(component, TrialComponent)
    assert component.trial_component_name.startswith(f"{base.lower()}-2")
    assert component.display_name == "Shown"
    assert isinstance(TrialComponent.load(component.trial_component_name), TrialComponent)
    again = Tracker.load(component.trial_component_name)
    assert again.trial_component.trial_component_name == component.trial_component_name


def test_assignments_are_recorded_and_others_raise(folder, credentials):
    """A description, a display name and tags; names can't be changed, nor anything removed."""
    experiment = Experiment.create("e", "first")
    trial = experiment.create_trial(trial_name_prefix="prefix")
    experiment.description = "second"
    experiment.display_name = "Shown"
    trial.tags = [{"Key": "k", "Value": "v"}]
    assert (Experiment.load("e").description, experiment.save()) == ("second", experiment)
    for thing, name, value in (
        (experiment, "experiment_name", "other"),
        (experiment, "description", None),
        (experiment, "descripton", "misspelt"),
        (trial, "experiment_name", "other"),
        (trial, "display_name", "no name at all!"),
    ):
        with pytest.raises(InvalidInputError):
            setattr(thing, name, value)
    with simulator() as sim:
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        made = sim.experiments["e"]
        assert (made.description, made.display_name) == ("second", "Shown")
        assert sim.trials[trial.trial_name].tags == {"k": "v"}
        assert trial.trial_name.startswith("prefix-")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (Experiment.create, InvalidTypeError),
        (lambda: Experiment.create("under_score"), InvalidInputError),
        (lambda: Experiment.create("e", "x" * 3073), InvalidInputError),
        (lambda: Experiment.create("e", 7), InvalidTypeError),
        (lambda: Experiment.create("e", tags=[{"K": "v"}]), InvalidTypeError),
        (lambda: Experiment.create("e", tags={str(n): "v" for n in range(51)}), InvalidInputError),
        (lambda: Experiment.create("e", tags={"AWS:team": "v"}), InvalidInputError),
        (lambda: Experiment.create("e", tags=[{"Key": "k", "Value": v} for v in "ab"]), ValueError),
        (lambda: Trial.create(None), InvalidTypeError),
        (lambda: Trial(None).save(), InvalidTypeError),
        (lambda: Trial(None, trial_name="t").delete_all("force"), InvalidInputError),
        (lambda: Trial.create("e", "a b"), InvalidInputError),
        (lambda: Experiment.load("a b"), InvalidInputError),
        (lambda: Trial.create("e", "t").add_trial_component("a b"), InvalidInputError),
        (lambda: Trial.create("e", "t").add_trial_component(None), InvalidTypeError),
        (lambda: Trial.create("e", "t").add_trial_component(7), InvalidTypeError),
        (lambda: Trial.create("e", "t").remove_trial_component(object()), InvalidTypeError),
        (lambda: Experiment.list(sort_by="Size"), InvalidInputError),
        (lambda: Experiment.search("lr > 1"), InvalidTypeError),
        (SearchExpression, InvalidInputError),
    ],
)
def test_bad_input_raises_at_the_call_and_records_nothing_of_it(folder, call, error):
    """What SageMaker could never take, and what is of the wrong type."""
    with pytest.raises(error):
        call()
    if folder.exists():
        with view.opened(folder) as journal:
            # Of the trial that the component was to be added to.
            assert {entry.kind for entry in journal.entries()} <= {"trial"}


def test_journals_that_spell_an_experiment_in_several_ways_are_merged(
    folder, tmp_path, monkeypatch, credentials
):
    """SageMaker ignores case: both are one experiment and one trial, spelled as whoever makes it
    does, and the last description counts.
    """
    for journal, name in (("a", "MNIST"), ("b", "mnist")):
        monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / journal))
        trial = Experiment.create(name, f"of {journal}").create_trial(
            "Cnn" if journal == "a" else "cnn"
        )
        trial.add_trial_component(TrialComponent.create(f"run-{journal}"))
        assert names(Experiment.list(), "experiment_name") == [name]
        assert names(Trial.list()) == [trial.trial_name]
    merge([tmp_path / "a", tmp_path / "b"], into=folder)
    with simulator() as sim:
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0
        (experiment,), (trial,) = sim.experiments.values(), sim.trials.values()
        assert (experiment.name.lower(), trial.name.lower()) == ("mnist", "cnn")
        assert experiment.description == "of b"
        assert sorted(trial.components) == ["run-a", "run-b"]


def test_what_only_sagemaker_can_do_raises_offline_and_changes_nothing(folder):
    """Deletions and the search of jobs; the message says that nothing was done."""
    experiment = Experiment.create("e")
    trial = experiment.create_trial("t")
    for call in (
        experiment.delete,
        trial.delete,
        lambda: experiment.delete_all("--force"),
        lambda: trial.delete_all("--force"),
        lambda: list(TrainingJob.search()),
    ):
        with pytest.raises(RemoteError):
            call()
    for thing in (experiment, trial):
        with pytest.raises(ValueError, match="--force"):
            thing.delete_all("force")
    assert names(Experiment.list(), "experiment_name") == ["e"]
    assert names(Trial.list()) == ["t"]


@pytest.mark.slow
def test_everything_can_be_deleted_at_sagemaker(aws):
    """`delete_all` takes components out of all their trials; what is not there is named."""
    experiment = Experiment.create("e")
    other = Trial.create("other", "elsewhere")
    for trial in (experiment.create_trial("t"), experiment.create_trial("u")):
        with Tracker.create() as tracker:
            trial.add_trial_component(tracker)
            other.add_trial_component(tracker)
    experiment.delete_all("--force")
    assert set(aws.experiments) == {"other"}
    assert set(aws.trials) == {"elsewhere"}
    assert not aws.components
    with pytest.raises(ComponentNotFoundError, match="nothing was deleted"):
        experiment.delete()
    other.delete_all("--force")
    assert not aws.trials


def test_lists_and_searches_merge_what_both_have(aws, monkeypatch):
    """SageMaker's values count, but for what is pending; each is there once, and sorted."""
    Experiment.create("both", "old")
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    Experiment.load("both").description = "pending"
    Experiment.create("journal-alone")
    boto3.client("sagemaker", "us-east-1").create_experiment(ExperimentName="sagemaker-alone")
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    assert Experiment.load("both").description == "pending"
    listed = Experiment.list(sort_by="Name", sort_order="Ascending")
    everyone = ["both", "journal-alone", "sagemaker-alone"]
    assert names(listed, "experiment_name") == everyone
    found = Experiment.search(
        SearchExpression(
            [
                Filter("ExperimentName", Operator.CONTAINS, "alone"),
                Filter("Description", Operator.EQUALS, "pending"),
            ],
            boolean_operator=BooleanOperator.OR,
        )
    )
    assert sorted(names(found, "experiment_name")) == everyone


def test_a_name_that_nobody_knows_is_told_apart_from_one_that_nobody_could_ask_for(
    aws, monkeypatch
):
    """Online it raises; offline its trials are recorded, and the sync makes it."""
    with pytest.raises(ComponentNotFoundError):
        Experiment.load("nowhere")
    with pytest.raises(ComponentNotFoundError):
        Trial.load("nowhere")
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    loaded = Experiment.load("nowhere")
    assert (loaded.experiment_name, loaded.description) == ("nowhere", None)
    loaded.create_trial("t")
    assert names(loaded.list_trials()) == ["t"]
    assert names(Experiment.list(), "experiment_name") == ["nowhere"]


def test_lists_are_filtered_by_time_experiment_and_component(folder):
    """As the original's arguments say."""
    for number in range(3):
        Trial.create(f"e{number % 2}", f"t{number}")
    Trial.load("t1").add_trial_component("run")
    now = datetime.now(timezone.utc)
    assert sorted(names(Trial.list(experiment_name="e0"))) == ["t0", "t2"]
    assert names(Trial.list(trial_component_name="run")) == ["t1"]
    assert names(Trial.list(created_after=now + timedelta(hours=1))) == []
    assert len(names(Trial.list(created_before=now + timedelta(hours=1)))) == 3
    assert names(Trial.list(sort_by="Name", sort_order="Ascending")) == ["t0", "t1", "t2"]


def test_a_search_expression_is_what_boto3_takes():
    """With filters, nested ones and subexpressions; what is not given is left out."""
    inner = SearchExpression([Filter("TrialComponentName", Operator.EXISTS)])
    expression = SearchExpression(
        [Filter("Parameters.lr", Operator.GREATER_THAN, "0.1")],
        [NestedFilter("Metrics", [Filter("Metrics.Max", Operator.LESS_THAN, "1")])],
        [inner],
        BooleanOperator.OR,
    )
    assert expression.to_boto() == {
        "Filters": [{"Name": "Parameters.lr", "Operator": "GreaterThan", "Value": "0.1"}],
        "NestedFilters": [
            {
                "NestedPropertyName": "Metrics",
                "Filters": [{"Name": "Metrics.Max", "Operator": "LessThan", "Value": "1"}],
            }
        ],
        "SubExpressions": [
            {
                "Filters": [{"Name": "TrialComponentName", "Operator": "Exists"}],
                "Operator": "And",
            }
        ],
        "Operator": "Or",
    }


def test_a_metrics_file_has_the_lines_that_the_agent_reads(tmp_path):
    """One object a line, at once on the disk; a closed writer, an old time and a step that is no
    integer raise, and what no number is, is left out.
    """
    path = tmp_path / "metrics.json"
    with metrics.SageMakerFileMetricsWriter(str(path)) as writer:
        writer.log_metric("loss", "0.5", iteration_number=3)
        writer.log_metric("loss", math.nan)
        at = datetime.now().astimezone() - timedelta(days=1)
        writer.log_metric("loss", 1, at)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        with pytest.raises(ValueError, match="two weeks"):
            writer.log_metric("loss", 1, time.time() - 20 * 86400)
        with pytest.raises(InvalidTypeError):
            writer.log_metric("loss", 1, iteration_number=1.5)
    assert (lines[0]["MetricName"], lines[0]["Value"], lines[0]["IterationNumber"]) == (
        "loss",
        0.5,
        3,
    )
    assert lines[1]["Timestamp"] == pytest.approx(at.timestamp(), abs=1e-3)
    with pytest.raises(metrics.SageMakerMetricsWriterException):
        writer.log_metric("loss", 1)


def test_a_refused_experiment_takes_no_run_along(aws):
    """Without permission for experiments, runs are delivered, and the rest waits."""
    aws.fail("CreateExperiment", HttpError(400, "AccessDeniedException", "no"), times=10**6)
    experiment = Experiment.create("e", tags={"k": "v"})
    with Tracker.create() as tracker:
        tracker.log_parameter("lr", 1.0)
        experiment.create_trial("t").add_trial_component(tracker)
    component = aws.components[tracker.trial_component.trial_component_name]
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters == {"lr": {"NumberValue": 1.0}}
    aws.clear_faults()
    experiment.save()
    tracker.trial_component.save()
    assert aws.trials["t"].components == [component.name]
    assert aws.experiments["e"].tags == {"k": "v"}


def test_a_silent_network_costs_one_attempt(folder, monkeypatch, credentials):
    """Who declares much behind a network that swallows everything waits once, not at each call."""
    with socket.create_server(("127.0.0.1", 0)) as swallowing:
        port = swallowing.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
        monkeypatch.setenv("JOURNALTRACK_LOOKUP_DEADLINE_S", "0.2")
        experiment = Experiment.create("e")
        swallowing.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                swallowing.accept()[0].close()
        for number in range(20):
            experiment.create_trial(f"t{number}").add_trial_component("run")
        with pytest.raises(BlockingIOError):
            swallowing.accept()
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    assert len(list(experiment.list_trials())) == 20


def test_boto3s_answers_become_attributes_and_back():
    """``with_boto``, ``from_boto`` and ``to_boto`` of experiments and trials; not of components,
    which are read from a journal.
    """
    answer = {"ExperimentName": "e", "Description": "d", "ResponseMetadata": {}}
    experiment = Experiment.from_boto(answer, sagemaker_boto_client=None)
    assert (experiment.experiment_name, experiment.description) == ("e", "d")
    assert Experiment.to_boto(experiment) == {"ExperimentName": "e", "Description": "d"}
    assert experiment.with_boto({"DisplayName": "x"}).display_name == "x"
    with pytest.raises(InvalidInputError):
        TrialComponent.from_boto(answer)
