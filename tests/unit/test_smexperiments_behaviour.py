"""What a user of sagemaker-experiments 0.1.45 sees: the same here, or different as the page says.

Beside test_smexperiments.py (experiments and trials) and the tests of trackers, components,
catalog, charts and lineage, which have what is not here.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import boto3
import botocore.exceptions
import botocore.validate
import numpy as np
import pytest

from journaltrack import sync
from journaltrack.compat.smexperiments import api_types, metrics, search_expression
from journaltrack.compat.smexperiments.experiment import Experiment
from journaltrack.compat.smexperiments.search_expression import Filter, Operator, SearchExpression
from journaltrack.compat.smexperiments.tracker import Tracker
from journaltrack.compat.smexperiments.training_job import TrainingJob
from journaltrack.compat.smexperiments.trial import Trial
from journaltrack.compat.smexperiments.trial_component import TrialComponent
from journaltrack.errors import (
    ArtifactError,
    ComponentNotFoundError,
    InvalidInputError,
    InvalidTypeError,
    MissingExtraError,
    RemoteError,
)
from journaltrack.journal import view
from journaltrack.tracking import experiments
from journaltrack.tracking.validation import JournaltrackWarning
from tests.simulator import HttpError, simulator

BLOCK_ENDS = [
    (None, "Completed", None),
    (ValueError("bad\ndata"), "Failed", "bad data"),
    (SystemExit(0), "Completed", None),
    (SystemExit(3), "Failed", "SystemExit: 3"),
    (KeyboardInterrupt(), "Stopped", "KeyboardInterrupt"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the default journal, without delivery."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    monkeypatch.setitem(experiments._silence, "until_s", 0.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "journal"


@pytest.fixture
def tracker(folder):
    """A tracker of a new component."""
    return Tracker.create("run")


@pytest.fixture
def aws(monkeypatch, credentials):
    """An account that calls reach at once."""
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
        # However slow the machine is: what is about a deadline sets it.
        monkeypatch.setenv("JOURNALTRACK_LOOKUP_DEADLINE_S", "600")
        monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", "600")
        yield sim


def recorded(folder, kind=None):
    """The journal's entries, or those of a kind."""
    with view.opened(folder) as journal:
        return [entry for entry in journal.entries() if kind in (None, entry.kind)]


class Scalar:
    """A tensor of one element, as far as ``float`` knows."""

    shape = (1,)

    def __float__(self):
        return 0.25


# -- tracker: metrics --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [0.25, "0.25", Scalar(), np.array([0.25]), np.float32(0.25), Decimal("0.25"), Fraction(1, 4)],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_takes_what_has_a_float(folder, tracker, value):
    """All that the original takes in a training job, and arrays of one element, everywhere."""
    tracker.log_metric("loss", value)
    assert [entry.value for entry in recorded(folder, "metric")] == [0.25]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (lambda: "1700000000.5", 1_700_000_000.5),
        (lambda: datetime(2020, 1, 1, tzinfo=timezone.utc), 1_577_836_800.0),
        (lambda: datetime(2020, 1, 1), datetime(2020, 1, 1).timestamp()),  # noqa: DTZ001
    ],
    ids=["text", "old", "naive is local"],
)
def test_a_metric_keeps_every_time(folder, tracker, given, seconds):
    """The original refuses what is older than two weeks; a journal is often delivered later."""
    tracker.log_metric("loss", 1, given())
    assert [entry.timestamp_ns for entry in recorded(folder, "metric")] == [int(seconds * 10**9)]


def test_a_step_in_the_time_s_place_is_told(folder, tracker):
    """The original raises; here the point is kept, with a warning that names iteration_number."""
    with pytest.warns(JournaltrackWarning, match="iteration_number="):
        tracker.log_metric("loss", 1, 7)
    assert [entry.timestamp_ns for entry in recorded(folder, "metric")] == [7 * 10**9]


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3)])
def test_a_metric_takes_every_integral_step(folder, tracker, step):
    """The original asserts an int."""
    tracker.log_metric("loss", 1, None, step)
    assert [entry.step for entry in recorded(folder, "metric")] == [3]


@pytest.mark.parametrize(
    ("name", "value", "step", "error"),
    [
        ("loss", "half", None, InvalidTypeError),
        ("loss", 1, 1.5, InvalidTypeError),
        ("loss", 1, -1, InvalidInputError),
        ("", 1, None, InvalidInputError),
        ("x" * 300, 1, None, InvalidInputError),
        (3, 1, None, InvalidTypeError),
    ],
)
def test_a_metric_that_sagemaker_could_never_take_raises(folder, tracker, name, value, step, error):
    """The original writes some of these into its file, where the agent drops them."""
    with pytest.raises(error):
        tracker.log_metric(name, value, iteration_number=step)
    assert recorded(folder, "metric") == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_no_number_is_stays_in_the_journal(tracker, value):
    """The original drops it with a line in the log, of a metric and of a parameter."""
    with pytest.warns(JournaltrackWarning, match="NaN or infinite"):
        tracker.log_metric("loss", value)
    with pytest.warns(JournaltrackWarning, match="NaN or infinite"):
        tracker.log_parameter("loss", value)
    assert tracker.trial_component.parameters == {"loss": str(value)}


# -- tracker: parameters, inputs and outputs -----------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("sgd", "sgd"),
        (2, 2.0),
        (True, "True"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{'a': 1}"),
        (2**53 + 1, str(2**53 + 1)),
        (np.float32(0.5), 0.5),
    ],
    ids=str,
)
def test_a_parameter_is_a_number_or_a_text(tracker, credentials, value, kept):
    """Anything else goes as its text, a bool and an integer that no double holds, too."""
    tracker.log_parameter("p", value)
    assert tracker.trial_component.parameters == {"p": kept}
    member = "StringValue" if isinstance(kept, str) else "NumberValue"
    with simulator() as sim:
        sync(endpoint_url=sim.endpoint_url)
        (component,) = sim.components.values()
        assert component.parameters == {"p": {member: kept}}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t.log_parameters({"good": 1, 3: 2}), TypeError),
        (lambda t: t.log_parameters({"good": 1, "line\nbreak": 2}), ValueError),
        (lambda t: t.log_input("data", 5), TypeError),
        (lambda t: t.log_output("data", None), TypeError),
        (lambda t: t.log_artifact("missing.csv"), ArtifactError),
        (lambda t: t.log_input_artifact("."), ValueError),
    ],
)
def test_what_the_original_refuses_at_close_raises_at_the_call(folder, tracker, call, error):
    """Nothing of the call is recorded."""
    with pytest.raises(error):
        call(tracker)
    assert [entry.kind for entry in recorded(folder)] == ["create"]


@pytest.mark.parametrize("log", ["log_input", "log_output"])
def test_sagemakers_limit_of_artifacts_counts(tracker, log):
    """60 each way. The original raises at the 31st; the 61st is kept here, and never sent."""
    for number in range(60):
        getattr(tracker, log)(f"a{number}", "s3://b/k", "text/csv")
    with pytest.warns(JournaltrackWarning, match="60"):
        getattr(tracker, log)("one more", "s3://b/k")


def test_files_arrive_under_their_names(tracker, folder, tmp_path, credentials):
    """Prefix, component and artifact's name make the key, with a Content-Type; anchors lie outside
    of the prefix, and the component says who made it.
    """
    for name, text in (("data.csv", "1,2"), ("sub/data.csv", "3,4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with Tracker.create("files", None, "mine", "runs") as files:
        files.log_artifact("data.csv", "first")
        files.log_input_artifact("data.csv")
        files.log_output_artifact("sub/data.csv", media_type="text/plain")
    name = str(files)
    tracker.log_artifacts("sub", "text/x-special")
    with simulator() as sim:
        assert sync(endpoint_url=sim.endpoint_url).pending == 0
        under = {key: o for (bucket, key), o in sim.state.objects.items() if bucket == "mine"}
        of_files = {key: o for key, o in under.items() if key.startswith("runs/")}
        assert {key.split("/")[1] for key in of_files} == {name}
        assert {o.body for o in of_files.values()} == {b"1,2", b"3,4"}
        assert f"runs/{name}/first" in of_files
        component = sim.components[name]
        assert component.input_artifacts["data.csv"]["MediaType"] == "text/csv"
        assert component.output_artifacts["data.csv"]["MediaType"] == "text/plain"
        for artifact in (
            *component.input_artifacts.values(),
            *component.output_artifacts.values(),
        ):
            assert artifact["Value"].removeprefix("s3://mine/") in of_files
        assert {o.content_type for o in of_files.values()} <= {"text/csv", "text/plain"}
        assert all(
            key.startswith(("runs/", "journaltrack-anchors/", "trial-component-artifacts/"))
            for _, key in sim.state.objects
        )
        assert component.metadata_properties["GeneratedBy"].startswith("journaltrack:")
        (folder_file,) = sim.components[str(tracker)].output_artifacts.values()
        assert folder_file["MediaType"] == "text/x-special"
        uris = {each.value for each in files.trial_component.output_artifacts.values()}
        assert all(uri.startswith(f"s3://mine/runs/{name}/") for uri in uris)


def test_a_table_needs_no_title_and_its_columns_fit(tracker):
    """Its name is made of type and time; columns of different lengths raise, as do both sources, or
    neither.
    """
    tracker.log_table(values={"x": [1, math.nan]})
    for arguments in (
        {},
        {"values": {"x": [1]}, "data_frame": object()},
        {"values": {"x": [1], "y": [1, 2]}},
    ):
        with pytest.raises(ValueError, match="nothing was recorded"):
            tracker.log_table("t", **arguments)
    with pytest.raises(TypeError):
        tracker.log_table("t", {"x": "text"})
    assert issubclass(MissingExtraError, ImportError)


# -- tracker: life -----------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "status", "message"), BLOCK_ENDS)
def test_a_block_ends_as_the_page_says(tracker, error, status, message):
    """`sys.exit(0)` completes a run and Ctrl-C stops it; the original says Failed of both. Each
    exception passes through, and its message is one line.
    """
    if error is None:
        with tracker:
            assert tracker.trial_component.status.primary_status == "InProgress"
    else:
        with pytest.raises(type(error)), tracker:
            raise error
    found = tracker.trial_component.status
    assert (found.primary_status, found.message) == (status, message)
    assert tracker.trial_component.start_time <= tracker.trial_component.end_time


def test_a_tracker_can_be_closed_again_and_used_after(aws, tracker):
    """Each close delivers what was logged since."""
    for number in range(2):
        tracker.log_parameter(f"p{number}", number)
        tracker.close()
        tracker.close()
        assert len(aws.components[str(tracker)].parameters) == number + 1


def test_a_tracker_keeps_its_component(tracker):
    """What the original lets a script assign would be lost here, so it raises."""
    other = TrialComponent.create("other")
    with pytest.raises(AttributeError):
        tracker.trial_component = other
    tracker.log_parameter("p", 1)
    assert (tracker.trial_component.parameters, other.parameters) == ({"p": 1.0}, {})


def test_a_tracker_is_made_of_a_component_and_what_takes_its_calls(folder):
    """The original's four arguments, by position; the last three may be left out."""
    taken = []

    class Writer:
        def log_metric(self, *point):
            taken.append(point)

        def close(self):
            taken.append("closed")

    component = TrialComponent.create("made")
    with Tracker(component, Writer(), None, None) as own:
        own.log_metric("loss", 0.5, None, 3)
    Tracker(component).log_metric("loss", 0.25)
    assert taken == [("loss", 0.5, None, 3), "closed"]
    assert [entry.value for entry in recorded(folder, "metric")] == [0.25]


def test_a_name_that_sagemaker_denies_is_a_value_error(aws, monkeypatch):
    """Not botocore's ResourceNotFound; without an answer the name is taken on trust."""
    for load in (Tracker.load, TrialComponent.load, Experiment.load, Trial.load):
        with pytest.raises(ComponentNotFoundError) as found:
            load("nowhere")
        assert isinstance(found.value, ValueError)
        assert not isinstance(found.value, botocore.exceptions.ClientError)
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    assert str(Tracker.load("nowhere")) == "nowhere"


@pytest.mark.parametrize(
    ("names", "loaded"),
    [
        (("run", "My-Job", "Other"), "run"),
        ((None, "My-Job", "Other"), "my-job-aws-training-job"),
        ((None, None, "Other"), "other-aws-processing-job"),
    ],
)
def test_a_job_s_component_is_loaded_by_its_name(names, loaded):
    """By position as in the original: the component's name wins, then the training job's."""
    name, *jobs = names
    assert str(Tracker.load(name, None, None, None, None, *jobs)) == loaded


def test_no_call_raises_botocores_error(aws):
    """A refusal of SageMaker is logged, and the entries wait; what can't wait raises ours."""
    for operation in ("CreateExperiment", "DeleteExperiment", "CreateTrialComponent", "Search"):
        aws.fail(operation, HttpError(400, "AccessDeniedException", "no"), times=10**6)
    experiment = Experiment.create("e")
    with Tracker.create() as tracker:
        tracker.log_parameter("p", 1)
    assert [each.experiment_name for each in Experiment.search()] == ["e"]
    for call in (experiment.delete, lambda: list(TrainingJob.search())):
        with pytest.raises(RemoteError) as found:
            call()
        assert not isinstance(found.value, botocore.exceptions.ClientError)


def test_a_client_of_the_script_is_used(aws, monkeypatch):
    """`sagemaker_boto_client` names the account, whatever the environment says."""
    client = boto3.client("sagemaker", "us-east-1", endpoint_url=aws.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    experiment = Experiment.create("e", sagemaker_boto_client=client)
    trial = experiment.create_trial("t")
    with Tracker.create("run", sagemaker_boto_client=client) as tracker:
        tracker.log_parameter("p", 1)
    trial.add_trial_component(tracker)
    assert aws.trials["t"].components == [str(tracker)]


# -- components, experiments, trials --------------------------------------------------------------


def test_a_component_s_attributes_are_those_of_the_page(aws, tracker):
    """The ARN is there after the delivery, who made it never; what a journal can't do raises."""
    component = tracker.trial_component
    assert component.trial_component_arn is None
    assert isinstance(component.creation_time, datetime)
    assert component.save() is None
    assert component.trial_component_arn == aws.components[str(tracker)].arn
    for name in (
        "created_by",
        "last_modified_by",
        "last_modified_time",
        "source",
        "parameters_to_remove",
        "input_artifacts_to_remove",
        "output_artifacts_to_remove",
    ):
        assert getattr(component, name) is None
    for call in (
        lambda: setattr(component, "display_name", "Other"),
        lambda: component.with_boto({"DisplayName": "Other"}),
        lambda: TrialComponent.from_boto({}),
        lambda: component.parameters.pop("p"),
    ):
        with pytest.raises((InvalidInputError, KeyError)):
            call()


def test_a_metric_s_summary_has_the_original_s_members(tracker):
    """Of the journal's points: how many, the least, the greatest, the mean and the last."""
    for value in (3, 1, 2):
        tracker.log_metric("loss", value)
    (found,) = tracker.trial_component.metrics
    told = (found.metric_name, found.count, found.min, found.max, found.avg, found.last)
    assert told == ("loss", 3, 1.0, 3.0, 2.0, 2.0)
    assert abs(found.time_stamp - datetime.now(timezone.utc)) < timedelta(hours=1)


def test_a_component_becomes_what_boto3_takes(tracker):
    """botocore accepts it for UpdateTrialComponent: numbers, texts, artifacts, status and times."""
    tracker.log_parameters({"lr": 0.1, "opt": "sgd"})
    tracker.log_input("data", "s3://b/k", "text/csv")
    tracker.log_output("model", "s3://b/m")
    with tracker:
        pass
    made = TrialComponent.to_boto(tracker.trial_component)
    assert made["Parameters"] == {"lr": {"NumberValue": 0.1}, "opt": {"StringValue": "sgd"}}
    assert made["InputArtifacts"] == {"data": {"Value": "s3://b/k", "MediaType": "text/csv"}}
    assert made["OutputArtifacts"] == {"model": {"Value": "s3://b/m"}}
    assert made["Status"] == {"PrimaryStatus": "Completed"}
    client = boto3.client("sagemaker", region_name="us-east-1")
    shape = client.meta.service_model.operation_model("UpdateTrialComponent").input_shape
    taken = {name: value for name, value in made.items() if name in shape.members}
    assert not botocore.validate.ParamValidator().validate(taken, shape).has_errors()
    given = {"parameters": {"n": 1}, "status": api_types.TrialComponentStatus("Failed", "why")}
    assert TrialComponent.to_boto(given) == {
        "Parameters": {"n": {"NumberValue": 1}},
        "Status": {"PrimaryStatus": "Failed", "Message": "why"},
    }


def test_what_was_made_has_its_arn_once_sagemaker_has_it(aws, monkeypatch):
    """Scripts print it after `create`; offline it is None, and after `save` it is there."""
    experiment = Experiment.create("e")
    assert experiment.experiment_arn == aws.experiments["e"].arn
    assert experiment.create_trial("t").trial_arn == aws.trials["t"].arn
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    later = Trial.create("e", "later")
    assert later.trial_arn is None
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    assert later.save().trial_arn == aws.trials["later"].arn


def test_creating_what_exists_changes_it(aws):
    """The original raises; here the description is set, and tags are added."""
    Experiment.create("e", "first", [{"Key": "a", "Value": "1"}])
    Experiment.create("e", "second", [{"Key": "b", "Value": "2"}])
    assert aws.experiments["e"].description == "second"
    assert aws.experiments["e"].tags == {"a": "1", "b": "2"}
    Trial.create("e", "t")
    again = Trial.create("e", "t", tags={"c": "3"})
    assert aws.trials["t"].tags == {"c": "3"}
    again.remove_trial_component("not-in-it")
    TrialComponent.create("run")
    with pytest.raises(InvalidInputError, match="already"):
        TrialComponent.create("run")


def test_components_are_named_in_lower_case(folder):
    """SageMaker takes metrics for such names alone; every spelling loads the same component."""
    assert TrialComponent.create("My-Component").trial_component_name == "my-component"
    for load in (TrialComponent.load, Tracker.load):
        assert str(load("MY-Component")) == "my-component"
    with pytest.raises(InvalidInputError, match="my-base"):
        Tracker.create("my_base")


def test_generated_names_are_unique_and_begin_as_asked(folder):
    """Of trials as in the original; of components in lower case."""
    experiment = Experiment.create("e")
    for make, beginning in (
        (lambda: experiment.create_trial().trial_name, "SageMakerTrial-"),
        (lambda: experiment.create_trial(trial_name_prefix="P").trial_name, "P-"),
        (lambda: Trial.create("e").trial_name, "Trial-"),
        (lambda: str(Tracker.create()), "trialcomponent-"),
    ):
        names = {make() for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith(beginning) for name in names)


def test_what_is_deleted_answers_and_comes_again_with_a_pending_entry(aws, monkeypatch):
    """`delete` asks SageMaker now; the journal keeps its entries."""
    experiment = Experiment.create("e")
    assert isinstance(experiment.delete(), dict)
    assert "e" not in aws.experiments
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    experiment.description = "again"
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    experiment.save()
    assert aws.experiments["e"].description == "again"
    assert Experiment.MAX_DELETE_ALL_ATTEMPTS == Trial.MAX_DELETE_ALL_ATTEMPTS == 3


# -- lists and searches ---------------------------------------------------------------------------


def test_a_job_s_component_tells_its_job(aws):
    """By `source_arn`, which the original leaves None, and by SageMaker's own member."""
    arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/j"
    aws.add_component("j-aws-training-job", source_arn=arn)
    (found,) = TrialComponent.list(source_arn=arn)
    assert found.source_arn == arn
    assert found.trial_component_source == {"SourceArn": arn, "SourceType": "SageMakerTrainingJob"}
    assert isinstance(found.creation_time, datetime)
    loaded = TrialComponent.load("j-aws-training-job")
    assert loaded.source == api_types.TrialComponentSource(arn, "SageMakerTrainingJob")


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
def test_lists_are_iterators_of_summaries(aws, monkeypatch, online):
    """Of the types in `api_types`, the newest first, all of them whatever a page holds."""
    if not online:
        monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    experiment = Experiment.create("e")
    trial = experiment.create_trial("t")
    for name in ("a", "b", "c"):
        trial.add_trial_component(TrialComponent.create(name))
    if online:
        assert sync(endpoint_url=aws.endpoint_url).pending == 0
    for listed, kind, count in (
        (Experiment.list(), api_types.ExperimentSummary, 1),
        (experiment.list_trials(), api_types.TrialSummary, 1),
        (TrialComponent.load("a").list_trials(), api_types.TrialSummary, 1),
        (trial.list_trial_components(max_results=1), api_types.TrialComponentSummary, 3),
        (TrialComponent.list(experiment_name="e"), api_types.TrialComponentSummary, 3),
        (Experiment.search(), api_types.ExperimentSearchResult, 1),
        (Trial.search(max_results=1), api_types.TrialSearchResult, 1),
        (TrialComponent.search(max_results=2), api_types.TrialComponentSearchResult, 3),
    ):
        assert iter(listed) is listed
        found = list(listed)
        assert [type(each) for each in found] == [kind] * count
    by_name = trial.list_trial_components(sort_by="Name", sort_order="Descending")
    assert [str(each) for each in by_name] == ["c", "b", "a"]


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("make", [lambda e: e, lambda e: e.to_boto()], ids=["object", "dict"])
def test_a_search_takes_expressions_and_dicts(aws, monkeypatch, online, make):
    """The same is found by the journal and by SageMaker."""
    if not online:
        monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    for name in ("one", "two"):
        Trial.create(f"e-{name}", name)
        tracker = Tracker.create(name, display_name=name)
        tracker.log_parameter("lr", 0.1 if name == "one" else 0.5)
        tracker.close()
    lr = make(SearchExpression([Filter("Parameters.lr", Operator.GREATER_THAN, "0.2")]))
    assert [each.display_name for each in TrialComponent.search(lr)] == ["two"]
    named = make(SearchExpression([Filter("ExperimentName", Operator.CONTAINS, "two")]))
    assert [each.experiment_name for each in Experiment.search(named)] == ["e-two"]
    trials = make(SearchExpression([Filter("TrialName", Operator.EQUALS, "one")]))
    assert [each.trial_name for each in Trial.search(trials)] == ["one"]


# -- objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boto", "attribute"),
    [
        ("TrialName", "trial_name"),
        ("AutoMLJobArn", "auto_ml_job_arn"),
        ("S3Uri", "s3_uri"),
        ("LineageGroupArn", "lineage_group_arn"),
        ("Max", "max"),
    ],
)
def test_members_of_boto3_get_the_attributes_of_the_original(boto, attribute):
    """Also where a name has a number or an abbreviation in it."""
    found = api_types.TrainingJobSearchResult.from_boto({boto: 1, "ResponseMetadata": {}})
    assert vars(found) == {attribute: 1}
    job = TrainingJob(None).with_boto({boto: 2})
    assert getattr(job, attribute) == 2
    assert getattr(TrainingJob.from_boto({boto: 3}, sagemaker_boto_client=None), attribute) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Filter("TrialName", Operator.EQUALS, "t"),
        lambda: SearchExpression([Filter("TrialName")]),
        lambda: Experiment(None, experiment_name="e", tags=[{"Key": "k", "Value": "v"}]),
        lambda: Trial(None, trial_name="t", experiment_name="e"),
        lambda: api_types.TrialSummary("t", "arn"),
        lambda: api_types.TrialComponentArtifact("s3://b/k", "text/csv"),
    ],
)
def test_equal_objects_are_one_in_a_set(make):
    """By their attributes, as in the original."""
    assert make() == make()
    assert len({make(), make()}) == 1
    assert make() != object()


@pytest.mark.parametrize(
    ("made", "members"),
    [
        (api_types.ExperimentSummary("n", "a"), {"experiment_name": "n", "experiment_arn": "a"}),
        (api_types.TrialSummary("n", "a"), {"trial_name": "n", "trial_arn": "a"}),
        (api_types.TrialComponentArtifact("v", "t/x"), {"value": "v", "media_type": "t/x"}),
        (
            api_types.TrialComponentStatus("Failed", "m"),
            {"primary_status": "Failed", "message": "m"},
        ),
        (
            api_types.TrialComponentParameterValue("s", 2.0),
            {"string_value": "s", "number_value": 2.0},
        ),
        (api_types.BatchPutMetricsError("c", "m", 3), {"code": "c", "metric_index": 3}),
        (api_types.ExperimentSource("a"), {"source_arn": "a"}),
        (api_types.TrialSource("a"), {"source_arn": "a"}),
        (api_types.TrialComponentSource("a"), {"source_arn": "a"}),
        (
            api_types.ExperimentSearchResult("a", "n", "d"),
            {"experiment_arn": "a", "experiment_name": "n", "display_name": "d"},
        ),
        (
            api_types.TrialSearchResult("a", "n", "d"),
            {"trial_arn": "a", "trial_name": "n", "display_name": "d"},
        ),
    ],
    ids=lambda made: type(made).__name__,
)
def test_types_are_made_by_position_and_can_not_be_changed(made, members):
    """As in the original, but for changes: one that reaches no journal raises."""
    for name, value in members.items():
        assert getattr(made, name) == value
        with pytest.raises(AttributeError):
            setattr(made, name, "other")


def test_an_artifact_needs_a_value():
    """As SageMaker's does; the original finds it missing at the save."""
    with pytest.raises(TypeError):
        api_types.TrialComponentArtifact(media_type="text/csv")


@pytest.mark.parametrize(
    ("value", "text"),
    [((), ""), (("s",), "s"), (("", 2.0), ""), ((None, 2.0), "2.0"), ((None, 0), "0")],
)
def test_a_parameter_s_value_has_a_text(value, text):
    """The text, else the number, else nothing."""
    assert str(api_types.TrialComponentParameterValue(*value)) == text


def test_parts_of_expressions_come_back_from_boto3():
    """Filters, nested filters and expressions; in the original that raises."""
    expression = SearchExpression(
        [Filter("TrialName", Operator.EQUALS, "t")],
        [search_expression.NestedFilter("Metrics", [Filter("Metrics.Max")])],
    ).to_boto()
    for kind, boto in (
        (SearchExpression, expression),
        (Filter, expression["Filters"][0]),
        (search_expression.NestedFilter, expression["NestedFilters"][0]),
    ):
        assert kind.from_boto(boto).to_boto() == boto
    custom = search_expression.SearchObject(property_name="p", value=None)
    assert custom.to_boto() == {"PropertyName": "p"}


# -- the file of metrics ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("loss", "half"), ValueError),
        (("loss", None), TypeError),
        (("loss", 1, time.time() - 20 * 86_400), ValueError),
        (("loss", 1, time.time() + 3 * 3_600), ValueError),
        (("loss", 1, 7), ValueError),
        (("loss", 1, None, 1.5), InvalidTypeError),
    ],
)
def test_the_file_of_metrics_refuses_what_the_original_s_does(tmp_path, arguments, error):
    """A step that is no integer is an AssertionError there, and a TypeError here."""
    writer = metrics.SageMakerFileMetricsWriter(str(tmp_path / "m.json"))
    with pytest.raises(error):
        writer.log_metric(*arguments)
    writer.close()
    assert not (tmp_path / "m.json").exists()


def test_the_file_of_metrics_takes_what_the_original_s_does(tmp_path, monkeypatch):
    """It is named by the process, made by the first point, and appended to; names are not looked
    at, and a naive time is local.
    """
    monkeypatch.setattr(metrics, "METRICS_DIR", str(tmp_path))
    path = tmp_path / f"{os.getpid()}.json"
    now = datetime.now()  # noqa: DTZ005 - naive is local time
    for name in ("", "x" * 300):
        with metrics.SageMakerFileMetricsWriter() as writer:
            writer.log_metric(name, Scalar(), now, -1)
            writer.close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["MetricName"] for line in lines] == ["", "x" * 300]
    for line in lines:
        assert (line["Value"], line["IterationNumber"]) == (0.25, -1)
        assert line["Timestamp"] == pytest.approx(now.timestamp(), abs=1e-3)
    error = metrics.SageMakerMetricsWriterException("closed", ["why"])
    assert (str(error), error.errors) == ("closed", ["why"])
    assert not hasattr(metrics.SageMakerMetricsWriterException("closed"), "errors")


def test_reading_a_name_of_a_module_is_as_in_the_original():
    """Modules, and classes in them, are imported by the same names."""
    for kind, module in (
        (Experiment, "experiment"),
        (Trial, "trial"),
        (TrialComponent, "trial_component"),
        (Tracker, "tracker"),
        (metrics.SageMakerFileMetricsWriter, "metrics"),
        (SearchExpression, "search_expression"),
    ):
        assert inspect.getmodule(kind).__name__ == f"journaltrack.compat.smexperiments.{module}"
