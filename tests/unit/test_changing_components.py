"""Changing a component by its attributes: every change is an entry, or raises; nothing is changed
in memory alone.
"""

from __future__ import annotations

import copy
import json
import pickle
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from journaltrack import Journal, Tracker, TrialComponent, sync
from journaltrack.errors import ComponentNotFoundError, InvalidInputError, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.tracking.members import TrialComponentArtifact, TrialComponentStatus
from journaltrack.tracking.settings import Services
from journaltrack.tracking.validation import JournaltrackWarning
from tests.simulator import HttpError, simulator


@pytest.fixture
def tracker(tmp_path):
    """A tracker that replays nothing."""
    return Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off")


@pytest.fixture
def component(tracker):
    """Its component."""
    return tracker.trial_component


@pytest.fixture
def aws(monkeypatch):
    """An AWS that every tracker reaches."""
    with simulator() as sim:
        for name, value in {
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "AWS_ACCESS_KEY_ID": "good",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield sim
        assert sim.bugs == []


def again(component):
    """The component as another process reads it."""
    journal = Journal.open(component.journal.path, read_only=True)
    return TrialComponent(journal, component.component_id, component.trial_component_name)


def count(component):
    """How many entries there are."""
    return component.journal.last_seq()


def test_a_component_and_its_tracker_read_as_its_name(tracker, component):
    """Other libraries take the text of what they are given for the component's name."""
    assert (str(component), str(tracker), f"{component}") == ("run", "run", "run")


def test_every_way_to_set_a_parameter_records_it(component):
    """An item, an update, a default, `|=` and a whole dict reach the journal."""
    component.parameters["a"] = 1
    component.parameters.update({"b": "two"}, c=3.5)
    assert component.parameters.setdefault("d", True) == "True"
    assert component.parameters.setdefault("a", 9) == 1.0
    component.parameters |= {"e": 5}
    component.parameters = {"f": 6, "a": 2}
    assert again(component).parameters == {
        "a": 2.0,
        "b": "two",
        "c": 3.5,
        "d": "True",
        "e": 5.0,
        "f": 6.0,
    }


def test_a_dict_that_was_kept_sees_what_it_set(component):
    """The value reads back as it is recorded, also through the dict that was changed."""
    held = component.parameters
    held["flag"] = True
    held["big"] = 2**60 + 1
    assert held == {"flag": "True", "big": str(2**60 + 1)} == again(component).parameters


def test_a_dict_that_is_out_of_date_loses_nothing(tracker, component):
    """What others recorded since it was read does not hide what is set now, though the dict has
    that value already.
    """
    component.parameters["a"] = 1.0
    component.parameters["b"] = 1.0
    old = component.parameters
    tracker.log_parameters({"a": 2.0, "b": 2.0})
    old["a"] = 1.0
    old.update(b=1.0)
    assert again(component).parameters == {"a": 1.0, "b": 1.0} == old


def test_a_value_that_is_set_again_is_recorded_again(component):
    """Setting a name is a call like any other: the remote may have another value by now."""
    for _ in range(2):
        component.parameters["a"] = 1.0
        component.input_artifacts["in"] = "s3://b/k"
    assert count(component) == 5


def test_what_was_read_and_is_assigned_with_more_says_nothing_new(tracker, component):
    """A NaN that reads back as text does not become a text by it."""
    with pytest.warns(JournaltrackWarning):
        tracker.log_parameter("loss", float("nan"))
    before = count(component)
    component.parameters = {**component.parameters, "more": 1}
    assert count(component) == before + 1


def test_an_equal_value_of_another_type_is_another_value(component):
    """True is recorded as a text, and 1 as a number: the one does not stand for the other."""
    component.parameters["a"] = 1
    component.parameters.update(a=True)
    assert again(component).parameters == {"a": "True"}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.parameters.__delitem__("lr"),
        lambda c: c.parameters.pop("lr"),
        lambda c: c.parameters.pop("lr", None),
        lambda c: c.parameters.popitem(),
        lambda c: c.parameters.clear(),
        lambda c: c.output_artifacts.clear(),
        lambda c: c.input_artifacts.pop("in"),
        lambda c: setattr(c, "display_name", "other"),
        lambda c: setattr(c, "status", "Finished"),
        lambda c: setattr(c, "status", None),
        lambda c: setattr(c, "start_time", "yesterday"),
        lambda c: setattr(c, "end_time", None),
        lambda c: setattr(c, "parameters", None),
        lambda c: setattr(c, "parameters", {"good": 1, "": 2}),
        lambda c: c.parameters.update({"good": 1, "": 2}),
        lambda c: setattr(c, "output_artifacts", {"good": "s3://b/k", "bad": 3}),
        lambda c: setattr(c, "tags", []),
        lambda c: setattr(c, "trial_component_name", "other"),
        lambda c: setattr(c, "parameters_to_remove", ["lr"]),
        lambda c: setattr(c, "metrics", {}),
        lambda c: setattr(c, "parametres", {"lr": 1}),
        lambda c: setattr(c.output_artifacts["out"], "value", "s3://b/other"),
    ],
)
def test_what_can_not_be_recorded_raises_and_changes_nothing(component, change):
    """A removal, a misspelt or read-only attribute, and values that can never be right are
    errors, and no part of such a change is recorded.
    """
    component.parameters["lr"] = 0.1
    component.input_artifacts["in"] = "s3://b/in"
    component.output_artifacts["out"] = "s3://b/out"
    before = count(component)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        change(component)
    assert count(component) == before
    assert component.parameters == {"lr": 0.1}


def test_removing_what_is_not_there_is_as_of_a_dict(component):
    """Code that drops what may be there goes on."""
    assert component.parameters.pop("absent", 7) == 7
    component.parameters.clear()
    with pytest.raises(KeyError):
        del component.parameters["absent"]
    component.display_name = None
    assert again(component).parameters == {}


def test_artifacts_are_set_by_name(component):
    """A text, our artifact, or another library's with its attributes; a media type that AWS refuses
    is recorded with a warning.
    """
    component.output_artifacts["text"] = "s3://b/1"
    component.output_artifacts["ours"] = TrialComponentArtifact("s3://b/2", "text/csv")
    component.input_artifacts = {
        "theirs": SimpleNamespace(value="s3://b/3", media_type="text/plain", other=1)
    }
    with pytest.warns(JournaltrackWarning, match="media type"):
        component.input_artifacts["odd"] = TrialComponentArtifact("s3://b/4", "a/b.c")
    read = again(component)
    assert read.output_artifacts == {
        "text": TrialComponentArtifact("s3://b/1"),
        "ours": TrialComponentArtifact("s3://b/2", "text/csv"),
    }
    assert read.input_artifacts == {
        "theirs": TrialComponentArtifact("s3://b/3", "text/plain"),
        "odd": TrialComponentArtifact("s3://b/4", "a/b.c"),
    }


def test_a_file_stays_a_file_when_its_artifact_is_assigned_again(tracker, component, tmp_path):
    """A dict that was read and is assigned with one more name records that name alone; under
    another name, or the other way round, a file is still the file.
    """
    (tmp_path / "m.bin").write_bytes(b"model")
    tracker.log_artifact(tmp_path / "m.bin", "m")
    before = count(component)
    component.output_artifacts = {**component.output_artifacts, "more": "s3://b/k"}
    assert count(component) == before + 1
    component.input_artifacts["copy"] = component.output_artifacts["m"]
    found = component.entries(vocabulary.INPUT)[-1].detail
    assert "value" not in found
    assert found["sha256"] == component.entries(vocabulary.OUTPUT)[0].detail["sha256"]


def test_status_and_times_are_set(component):
    """A status as a text or an object, and times as datetimes or seconds; one leaves the others."""
    component.status = "InProgress"
    component.start_time = 1_700_000_000
    component.end_time = datetime(2024, 1, 1, tzinfo=timezone.utc)
    component.status = SimpleNamespace(primary_status="Failed", message="two\nlines")
    read = again(component)
    assert read.status == TrialComponentStatus("Failed", "two lines")
    assert read.start_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert read.end_time == datetime(2024, 1, 1, tzinfo=timezone.utc)


def test_rules_of_the_tracker_hold_for_assignments(tmp_path):
    """Redaction, a strict tracker and the limit on names count as for its methods."""
    strict = Tracker.create(journal=tmp_path / "s", sync="off", strict=True, redact=["*token*"])
    strict.trial_component.parameters["api_token"] = "hunter2"
    assert strict.trial_component.parameters == {"api_token": "[redacted]"}
    with pytest.raises(InvalidInputError, match="not recorded"):
        strict.trial_component.parameters["long"] = "x" * 3_000
    assert "hunter2" not in str((tmp_path / "s" / "journal.db").read_bytes())


def test_a_component_without_a_tracker_records_too(tmp_path):
    """One that was made of a journal alone gets a tracker when it is changed."""
    journal = Journal.open(tmp_path / "journal")
    alone = TrialComponent(journal, journal.component("run"), "run")
    alone.parameters["lr"] = 0.1
    assert again(alone).parameters == {"lr": 0.1}
    journal.close()


def test_copies_are_plain(component):
    """A copy of what was read is a dict of its own: changing it records nothing."""
    component.parameters["lr"] = 0.1
    before = count(component)
    for made in (
        copy.copy(component.parameters),
        copy.deepcopy(component.parameters),
        pickle.loads(pickle.dumps(component.parameters)),
        component.parameters.copy(),
        dict(component.parameters),
        component.parameters | {},
    ):
        assert type(made) is dict
        made["x"] = 1
        del made["lr"]
    assert json.dumps(component.parameters) == '{"lr": 0.1}'
    assert count(component) == before


def test_attributes_of_the_original_are_there(component, tracker):
    """What the journal knows is told, and what only SageMaker knows is None."""
    tracker.log_metrics({"loss": 0.5, "acc": 1}, 1)
    tracker.log_metrics({"loss": 1.5}, 2)
    assert [(m.metric_name, m.count, m.min, m.max, m.avg, m.last) for m in component.metrics] == [
        ("acc", 1, 1.0, 1.0, 1.0, 1.0),
        ("loss", 2, 0.5, 1.5, 1.0, 1.5),
    ]
    assert component.creation_time is not None
    for name in (
        "source",
        "created_by",
        "last_modified_time",
        "last_modified_by",
        "tags",
        "parameters_to_remove",
        "input_artifacts_to_remove",
        "output_artifacts_to_remove",
        "sagemaker_boto_client",
    ):
        assert getattr(component, name) is None


def test_save_delivers_and_the_tracker_goes_on(aws, tmp_path):
    """Each `save` delivers what was recorded until then, as a runner that saves in a loop needs."""
    made = TrialComponent.create("run", "Shown", {"team": "a"}, journal=tmp_path / "journal")
    assert made.tags == [{"Key": "team", "Value": "a"}]
    for number in range(3):
        made.parameters[f"p{number}"] = number
        made.save()
        assert len(aws.components["run"].parameters) == number + 1
    assert aws.components["run"].display_name == "Shown"


def test_save_never_raises_for_the_network(aws, tmp_path, caplog):
    """Without an answer everything stays in the journal, and the next `save` delivers it."""
    made = TrialComponent.create("run", journal=tmp_path / "journal")
    made.parameters["lr"] = 0.1
    aws.access.expired.add("good")
    made.save()
    assert "run" not in aws.components
    aws.access.expired.clear()
    made.save()
    assert aws.components["run"].parameters == {"lr": {"NumberValue": 0.1}}


def test_after_delivery_a_files_value_is_its_uri(aws, tmp_path):
    """What a script hands on to an estimator is the object, as soon as there is one."""
    (tmp_path / "m.bin").write_bytes(b"model")
    tracker = Tracker.create(
        artifact_bucket="bucket", journal=tmp_path / "journal", trial_component_name="run"
    )
    tracker.log_artifact(tmp_path / "m.bin")
    tracker.log_input_artifact(tmp_path / "m.bin", "in")
    before = tracker.trial_component.output_artifacts["m.bin"].value
    assert Path(before).read_bytes() == b"model"
    tracker.close()
    uri = tracker.trial_component.output_artifacts["m.bin"].value
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    assert aws.objects[bucket, key].body == b"model"
    assert tracker.trial_component.input_artifacts["in"].value == uri


def test_a_loaded_component_shows_what_sagemaker_holds(aws, tmp_path):
    """Parameters, artifacts, status, times, ARN and source of the look-up are there, also for the
    next process without a network; what is recorded counts above them, and alone is sent.
    """
    held = aws.add_component("other", "arn:aws:sagemaker:us-east-1:123456789012:training-job/j")
    held.parameters = {"lr": {"NumberValue": 0.1}, "token": {"StringValue": "hunter2"}}
    held.output_artifacts = {"model": {"Value": "s3://b/m", "MediaType": "text/csv"}}
    held.status = {"PrimaryStatus": "Completed", "Message": "fine"}
    folder = tmp_path / "journal"
    Tracker.load("other", journal=folder, sync="close", redact=["token"]).log_parameter("epochs", 2)
    aws.stop()
    read = TrialComponent.load("other", journal=folder)
    assert read.parameters == {"lr": 0.1, "token": "[redacted]", "epochs": 2.0}
    assert read.output_artifacts == {"model": TrialComponentArtifact("s3://b/m", "text/csv")}
    assert read.status == TrialComponentStatus("Completed", "fine")
    assert read.trial_component_arn == held.arn
    assert read.source.source_arn == held.source_arn
    assert read.creation_time is not None
    assert "hunter2" not in str((folder / "journal.db").read_bytes())
    aws.start()
    read.parameters["lr"] = 0.2
    held.parameters["token"] = {"StringValue": "changed since"}
    sync(folder)
    assert aws.components["other"].parameters == {
        "lr": {"NumberValue": 0.2},
        "epochs": {"NumberValue": 2.0},
        "token": {"StringValue": "changed since"},
    }
    assert aws.components["other"].status == {"PrimaryStatus": "Completed", "Message": "fine"}


@pytest.mark.parametrize(
    "held",
    [
        3,
        {"Parameters": 3, "Status": [], "StartTime": "x", "Source": 1, "OutputArtifacts": [1]},
        {"Parameters": {"lr": 3}, "StartTime": -1, "EndTime": 2**80, "TrialComponentArn": 1},
        {"OutputArtifacts": {"a": {"Value": 3}}, "Status": {"PrimaryStatus": 3}, "DisplayName": []},
    ],
)
def test_a_crafted_look_up_breaks_nothing(tmp_path, held):
    """Whatever a journal from somebody else says that SageMaker held, reading goes on."""
    journal = Journal.open(tmp_path / "journal")
    crafted = TrialComponent(journal, journal.component("run"), "run")
    journal.append(
        crafted.component_id,
        [vocabulary.Draft("component", "load", payload=json.dumps({"held": held}))],
    )
    assert (crafted.parameters, crafted.output_artifacts, crafted.status) == ({}, {}, None)
    assert (crafted.start_time, crafted.end_time, crafted.display_name) == (None, None, None)
    assert crafted.trial_component_arn is None
    journal.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"TrialComponentName": "run", "Parameters": {"lr": {"NumberValue": float("nan")}}},
        {"TrialComponentName": "run", "Parameters": {"lr": object()}},
        {"TrialComponentName": "run", "TrialComponentArn": object(), "OutputArtifacts": [1]},
        {"TrialComponentName": "run", "StartTime": datetime(1960, 1, 1, tzinfo=timezone.utc)},
    ],
)
def test_a_client_that_answers_anything_breaks_no_load(tmp_path, monkeypatch, answer):
    """What is no description of a component is not kept, and the component is loaded."""
    monkeypatch.setattr(Tracker, "services", Services(ask=lambda *_: answer))
    loaded = TrialComponent.load("run", journal=tmp_path / "journal")
    assert (loaded.parameters, loaded.trial_component_arn) == ({}, None)
    loaded.parameters["lr"] = 1
    assert again(loaded).parameters == {"lr": 1.0}


def test_delete_is_done_at_once_and_the_journal_keeps_everything(aws, tmp_path):
    """SageMaker loses the component, the journal nothing; what is pending then is held, and can
    make the component again.
    """
    made = TrialComponent.create("run", journal=tmp_path / "journal")
    made.parameters["lr"] = 0.1
    made.save()
    made.parameters["late"] = 1
    before = count(made)
    made.delete()
    assert "run" not in aws.components
    assert again(made).parameters == {"lr": 0.1, "late": 1.0}
    assert count(made) == before
    report = sync(tmp_path / "journal")
    assert report.pending == 1
    assert "run" not in aws.components
    sync(tmp_path / "journal", create_or_attach=True)
    assert aws.components["run"].parameters["late"] == {"NumberValue": 1.0}


@pytest.mark.parametrize("why", ["offline", "denied", "missing"])
def test_delete_that_is_not_done_says_so(aws, tmp_path, why):
    """Without an answer, with a refusal, and without such a component, it raises."""
    made = TrialComponent.create("run", journal=tmp_path / "journal")
    made.save()
    if why == "offline":
        aws.stop()
    elif why == "denied":
        aws.fail("DeleteTrialComponent", HttpError(400, "AccessDeniedException"))
    else:
        made.delete()
    before = count(made)
    with pytest.raises(ComponentNotFoundError if why == "missing" else RemoteError):
        made.delete()
    assert count(made) == before
    if why == "offline":
        aws.start()
    assert ("run" in aws.components) == (why != "missing")


def test_a_component_in_trials_is_deleted_when_asked_to_leave_them(aws, tmp_path):
    """SageMaker refuses to delete what is in a trial; with ``force_disassociate`` it is taken out
    first, of all trials.
    """
    tracker = Tracker.create(
        trial_component_name="run",
        experiment_name="digits",
        trial_name="first",
        journal=tmp_path / "journal",
    )
    tracker.close()
    made = tracker.trial_component
    assert [str(trial) for trial in made.list_trials()] == ["first"]
    with pytest.raises(RemoteError):
        made.delete()
    assert "run" in aws.components
    made.delete(force_disassociate=True)
    assert "run" not in aws.components
    assert aws.trials["first"].components == []


@pytest.mark.slow
def test_lists_and_searches_ask_sagemaker_itself(aws, tmp_path):
    """What botocore sends and AWS's rules allow finds components of AWS and of the journal."""
    theirs = aws.add_component("theirs")
    theirs.parameters["lr"] = {"NumberValue": 0.1}
    aws.add_component("another")
    with_network = Tracker.create(trial_component_name="ours", experiment_name="digits")
    with_network.log_parameter("lr", 0.2)
    with_network.close()
    pending = Tracker.create(trial_component_name="pending")
    pending.log_parameter("lr", 0.3)
    found = TrialComponent.list(sort_by="Name", sort_order="Ascending", max_results=2)
    assert [str(each) for each in found] == ["another", "ours", "pending", "theirs"]
    some = {"Filters": [{"Name": "Parameters.lr", "Operator": "LessThan", "Value": "0.25"}]}
    results = {str(each): each for each in TrialComponent.search(some)}
    assert set(results) == {"theirs", "ours"}
    assert results["theirs"].parameters == {"lr": {"NumberValue": 0.1}}
    assert [str(each) for each in TrialComponent.list(experiment_name="digits")] == ["ours"]
    created = datetime.now(timezone.utc)
    assert list(TrialComponent.list(created_before=created.replace(year=2020))) == []
