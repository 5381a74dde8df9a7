"""The simulator lists, updates, deletes and finds experiments and what is in them as AWS does."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError

from tests.simulator import CutBefore, HttpError, Simulator, simulator
from tests.simulator.clients import client, refusal
from tests.simulator.constraints import answer_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
JOB = "arn:aws:sagemaker:us-east-1:123456789012:training-job/job"


class Clock:
    """Seconds since 1970 that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give the simulator's clock."""
    return Clock()


@pytest.fixture
def sim(clock: Clock) -> Iterator[Simulator]:
    """Give a running simulator on that clock."""
    with simulator(clock=clock) as running:
        yield running


@pytest.fixture
def sagemaker(sim: Simulator) -> Any:
    """Give a real client of it."""
    return client(sim, "sagemaker")


@pytest.fixture
def world(clock: Clock, sim: Simulator, sagemaker: Any) -> None:
    """Create two experiments, three trials and four components, one thing a minute.

    `both` is in two trials of two experiments, `alone` in none, `job` comes from a job.
    """

    def then(call: Callable[..., object], **arguments: Any) -> None:
        call(**arguments)
        clock.now += 60

    tags = [{"Key": "team", "Value": "vision"}, {"Key": "a.b", "Value": "1"}]
    then(sagemaker.create_experiment, ExperimentName="Digits", DisplayName="The-digits", Tags=tags)
    then(sagemaker.create_experiment, ExperimentName="letters", Description="A to Z")
    then(sagemaker.create_trial, TrialName="one", ExperimentName="digits", Tags=tags)
    then(sagemaker.create_trial, TrialName="two", ExperimentName="digits", DisplayName="Second")
    then(sagemaker.create_trial, TrialName="three", ExperimentName="letters")
    create = sagemaker.create_trial_component
    then(
        create,
        TrialComponentName="both",
        DisplayName="Training",
        Status={"PrimaryStatus": "Completed"},
        StartTime=START,
        Parameters={
            "lr": {"NumberValue": 0.1},
            "optimizer": {"StringValue": "adam"},
            "a.b": {"NumberValue": 1},
        },
        InputArtifacts={"data.csv": {"Value": "s3://bucket/data.csv", "MediaType": "text/csv"}},
        Tags=tags,
    )
    then(
        create,
        TrialComponentName="alone",
        Status={"PrimaryStatus": "Failed"},
        Parameters={"lr": {"NumberValue": 0.01}},
    )
    then(create, TrialComponentName="small", Parameters={"lr": {"StringValue": "auto"}})
    then(sim.add_component, name="job", source_arn=JOB)
    for component, trial in (("both", "one"), ("both", "three"), ("small", "one"), ("job", "two")):
        sagemaker.associate_trial_component(TrialComponentName=component, TrialName=trial)
    point = {"MetricName": "test:loss", "Timestamp": START}
    metrics = client(sim, "sagemaker-metrics")
    for component, values in (("both", (3.0, 1.0, 2.0)), ("small", (0.5,)), ("job", (9.0,))):
        data = [{**point, "Value": value, "Step": step} for step, value in enumerate(values)]
        metrics.batch_put_metrics(TrialComponentName=component, MetricData=data)


def trials(sagemaker: Any, **wanted: Any) -> list[str]:
    """Give the names that ListTrials finds."""
    return [item["TrialName"] for item in sagemaker.list_trials(**wanted)["TrialSummaries"]]


@pytest.mark.usefixtures("world")
def test_trials_are_listed(sagemaker: Any) -> None:
    """Experiment, component, times and order choose; what is named must be there."""
    assert trials(sagemaker) == ["three", "two", "one"]
    assert trials(sagemaker, ExperimentName="DIGITS") == ["two", "one"]
    assert trials(sagemaker, TrialComponentName="Both") == ["three", "one"]
    assert trials(sagemaker, ExperimentName="digits", TrialComponentName="both") == ["one"]
    assert trials(sagemaker, TrialComponentName="alone") == []
    assert trials(sagemaker, SortBy="Name", SortOrder="Ascending") == ["one", "three", "two"]
    third = START + timedelta(minutes=3)
    assert trials(sagemaker, CreatedAfter=third) == ["three", "two"]
    assert trials(sagemaker, CreatedBefore=third) == ["two", "one"]
    for missing in ({"ExperimentName": "none"}, {"TrialComponentName": "none"}):
        assert refusal(sagemaker.list_trials, **missing)[0] == "ResourceNotFound"
    for wrong in ({"ExperimentName": "a_b"}, {"SortBy": "Age"}, {"NextToken": "-1"}):
        assert refusal(sagemaker.list_trials, **wrong)[0] == "ValidationException"
    (found,) = sagemaker.list_trials(TrialComponentName="job")["TrialSummaries"]
    assert (found["DisplayName"], found["CreationTime"]) == ("Second", third)
    assert found["TrialArn"].endswith(":experiment-trial/two")


@pytest.mark.usefixtures("world")
def test_experiments_are_listed(sagemaker: Any) -> None:
    """The newest comes first unless the name or the order says otherwise."""

    def names(**wanted: Any) -> list[str]:
        found = sagemaker.list_experiments(**wanted)["ExperimentSummaries"]
        return [item["ExperimentName"] for item in found]

    assert names() == ["letters", "Digits"]
    assert names(SortBy="Name", SortOrder="Ascending") == ["Digits", "letters"]
    assert names(CreatedAfter=START + timedelta(minutes=1)) == ["letters"]
    (found,) = sagemaker.list_experiments(CreatedBefore=START)["ExperimentSummaries"]
    assert found["DisplayName"] == "The-digits"


@pytest.mark.usefixtures("world")
def test_components_are_listed_by_one_thing_at_a_time(sagemaker: Any) -> None:
    """A trial, an experiment or a source chooses; two of them are refused."""

    def names(**wanted: Any) -> list[str]:
        found = sagemaker.list_trial_components(**wanted)["TrialComponentSummaries"]
        return [item["TrialComponentName"] for item in found]

    assert names(TrialName="one") == ["small", "both"]
    assert names(ExperimentName="digits") == ["job", "small", "both"]
    assert names(ExperimentName="letters") == ["both"]
    assert names(SourceArn=JOB) == ["job"]
    call = sagemaker.list_trial_components
    assert refusal(call, TrialName="one", SourceArn=JOB)[0] == "ValidationException"
    assert refusal(call, TrialName="none")[0] == "ResourceNotFound"
    (found,) = call(SourceArn=JOB)["TrialComponentSummaries"]
    kind = {"SourceArn": JOB, "SourceType": "SageMakerTrainingJob"}
    assert found["TrialComponentSource"] == kind
    described = sagemaker.describe_trial_component(TrialComponentName="job")
    assert (described["Source"], described["Sources"]) == (kind, [kind])


@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("list_experiments", "ExperimentSummaries"),
        ("list_trials", "TrialSummaries"),
        ("list_trial_components", "TrialComponentSummaries"),
    ],
)
def test_pages_join_to_the_whole(sagemaker: Any, operation: str, member: str) -> None:
    """Ten come without MaxResults, and the pages hold everything once, though all are as old."""
    names = [f"n{number:02}" for number in range(12)]
    sagemaker.create_experiment(ExperimentName="n00")
    for name in names:
        if operation == "list_experiments" and name != "n00":
            sagemaker.create_experiment(ExperimentName=name)
        if operation == "list_trials":
            sagemaker.create_trial(TrialName=name, ExperimentName="n00")
        if operation == "list_trial_components":
            sagemaker.create_trial_component(TrialComponentName=name)
    key = member.replace("Summaries", "Name")
    assert len(getattr(sagemaker, operation)()[member]) == 10
    pages = sagemaker.get_paginator(operation).paginate(PaginationConfig={"PageSize": 5})
    found = [[item[key] for item in page[member]] for page in pages]
    assert [len(page) for page in found] == [5, 5, 2]
    assert [name for page in found for name in page] == names[::-1]


@pytest.mark.usefixtures("world")
def test_updates_change_what_they_name(clock: Clock, sagemaker: Any) -> None:
    """A display name or a description is replaced, the rest stays, and the time of change moves."""
    sagemaker.update_experiment(ExperimentName="letters", DisplayName="Alphabet")
    found = sagemaker.describe_experiment(ExperimentName="letters")
    assert (found["DisplayName"], found["Description"]) == ("Alphabet", "A to Z")
    sagemaker.update_experiment(ExperimentName="letters", Description="")
    found = sagemaker.describe_experiment(ExperimentName="letters")
    assert (found["DisplayName"], found["Description"]) == ("Alphabet", "")
    sagemaker.update_trial(TrialName="Three", DisplayName="Third")
    trial = sagemaker.describe_trial(TrialName="three")
    assert (trial["DisplayName"], trial["ExperimentName"]) == ("Third", "letters")
    for item in (found, trial):
        assert item["LastModifiedTime"].timestamp() == clock.now
        assert item["CreationTime"] < item["LastModifiedTime"]
    for call, wrong in (
        (sagemaker.update_experiment, {"ExperimentName": "letters", "DisplayName": "no spaces"}),
        (sagemaker.update_experiment, {"ExperimentName": "letters", "Description": "d" * 3073}),
        (sagemaker.update_trial, {"TrialName": "three", "DisplayName": "d_"}),
    ):
        assert refusal(call, **wrong)[0] == "ValidationException"
    for call, name in (
        (sagemaker.update_experiment, "ExperimentName"),
        (sagemaker.update_trial, "TrialName"),
    ):
        assert refusal(call, **{name: "none"})[0] == "ResourceNotFound"


@pytest.mark.usefixtures("world")
def test_what_is_held_is_not_deleted(sim: Simulator, sagemaker: Any) -> None:
    """An experiment with trials, a trial with components, a component in a trial: each refuses."""
    for call, name in (
        (sagemaker.delete_experiment, {"ExperimentName": "letters"}),
        (sagemaker.delete_trial, {"TrialName": "three"}),
        (sagemaker.delete_trial_component, {"TrialComponentName": "both"}),
    ):
        code, message = refusal(call, **name)
        assert (code, "associated" in message) == ("ValidationException", True)
    sagemaker.disassociate_trial_component(TrialComponentName="both", TrialName="three")
    call = sagemaker.delete_trial_component
    assert refusal(call, TrialComponentName="both")[0] == "ValidationException"
    sagemaker.disassociate_trial_component(TrialComponentName="both", TrialName="one")
    for call, name in (
        (sagemaker.delete_trial_component, {"TrialComponentName": "Both"}),
        (sagemaker.delete_trial, {"TrialName": "Three"}),
        (sagemaker.delete_experiment, {"ExperimentName": "Letters"}),
    ):
        call(**name)
        assert refusal(call, **name)[0] == "ResourceNotFound"
    assert (list(sim.experiments), list(sim.trials)) == (["Digits"], ["one", "two"])
    assert sorted(sim.components) == ["alone", "job", "small"]


def test_a_deleted_component_takes_its_lineage_along(sim: Simulator, sagemaker: Any) -> None:
    """No association is left that leads to nothing."""
    arn = sim.add_component("run").arn
    source = {"SourceUri": "s3://bucket/model"}
    artifact = sagemaker.create_artifact(Source=source, ArtifactType="Tracker")["ArtifactArn"]
    sagemaker.add_association(SourceArn=arn, DestinationArn=artifact)
    sagemaker.delete_trial_component(TrialComponentName="run")
    assert (sim.lineage.edges(), list(sim.lineage.artifacts)) == ([], [artifact])


@pytest.mark.usefixtures("world")
def test_tags_are_added_listed_and_deleted(sim: Simulator, sagemaker: Any) -> None:
    """Tags of each kind of thing merge per key, go by key, and are at most 50."""
    source = {"SourceUri": "s3://bucket/model"}
    arns = [sim.experiments["letters"].arn, sim.trials["two"].arn, sim.components["alone"].arn]
    arns.append(sagemaker.create_artifact(Source=source, ArtifactType="t")["ArtifactArn"])
    for arn in arns:
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": k, "Value": k} for k in "ab"])
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": k, "Value": "new"} for k in "bc"])
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a", "never-there"])
        found = sagemaker.list_tags(ResourceArn=arn)["Tags"]
        assert found == [{"Key": k, "Value": "new"} for k in "bc"]
        many = [{"Key": f"k{number}", "Value": ""} for number in range(49)]
        code, _ = refusal(sagemaker.add_tags, ResourceArn=arn, Tags=many)
        assert code == "ValidationException"
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == found
        assert refusal(sagemaker.list_tags, ResourceArn=f"{arn}2")[0] == "ResourceNotFound"
    assert sim.experiments["digits"].tags == {"team": "vision", "a.b": "1"}


def search(sagemaker: Any, *filters: tuple[str, ...], resource: str = "", **more: Any) -> list[str]:
    """Give the names that a search with these filters finds, in order of their names."""
    kind = f"ExperimentTrial{resource}" if resource != "Experiment" else resource
    named = [dict(zip(("Name", "Operator", "Value"), each, strict=False)) for each in filters]
    expression = {"SearchExpression": {"Filters": named}} if named else {}
    found = sagemaker.search(Resource=kind, **{**expression, **more})["Results"]
    names = {"Component": "TrialComponentName", "": "TrialName"}
    return [
        record[names.get(resource, "ExperimentName")]
        for result in found
        for record in result.values()
    ]


# Conditions, and the components of `world` that fulfil them.
FOUND = {
    ("TrialComponentName", "Equals", "both"): "both",
    ("TrialComponentName", "Equals", "Both"): "",
    ("DisplayName", "NotEquals", "Training"): "alone job small",
    ("TrialComponentName", "Contains", "o"): "alone both job",
    ("TrialComponentName", "In", "alone,job,none"): "alone job",
    ("Parents.TrialName", "Equals", "three"): "both",
    ("Parents.ExperimentName", "Equals", "Digits"): "both job small",
    ("Parents.ExperimentName", "NotEquals", "Digits"): "alone",
    ("Parents", "NotExists"): "alone",
    ("Tags.team", "Equals", "vision"): "both",
    ("Tags.a.b", "Exists"): "both",
    ("Tags.other", "NotExists"): "alone both job small",
    ("Status.PrimaryStatus", "Equals", "Failed"): "alone",
    ("Source.SourceArn", "Equals", JOB): "job",
    ("Source.SourceType", "Exists"): "job",
    ("StartTime", "Exists"): "both",
    ("Parameters.lr", "GreaterThan", "0.01"): "both",
    ("Parameters.lr", "LessThanOrEqualTo", "0.1"): "alone both",
    ("Parameters.lr", "Equals", "1e-1"): "both",
    ("Parameters.lr", "Equals", "auto"): "small",
    ("Parameters.lr", "Exists"): "alone both small",
    ("Parameters.a.b", "Equals", "1"): "both",
    ("Parameters.optimizer", "Contains", "ada"): "both",
    ("Parameters.optimizer", "In", "sgd,adam"): "both",
    ("InputArtifacts.data.csv.Value", "Contains", "s3://bucket"): "both",
    ("InputArtifacts.data.csv.MediaType", "Equals", "text/csv"): "both",
    ("InputArtifacts", "Contains", "data.csv"): "both",
    ("InputArtifacts", "Contains", "MediaType"): "",
    ("Parameters", "Contains", "optim"): "both",
    ("Metrics.test:loss", "Equals", "2"): "both",
    ("Metrics.test:loss.Min", "LessThan", "1.5"): "both small",
    ("metrics.test:loss.max", "GreaterThanOrEqualTo", "3"): "both job",
    ("Metrics.other", "Exists"): "",
    ("CreationTime", "GreaterThan", "2026-11-23T12:07:00"): "job",
    ("CreationTime", "LessThan", "2026-11-23T12:06:00"): "both",
    ("CreationTime", "Equals", "2026-11-23T14:06:00+02:00"): "alone",
}


@pytest.mark.usefixtures("world")
def test_a_filter_finds_components(sagemaker: Any) -> None:
    """Each operator works on the properties that it fits."""
    found = {each: sorted(search(sagemaker, each, resource="Component")) for each in FOUND}
    assert {each: " ".join(names) for each, names in found.items()} == FOUND


# Search expressions, and what the refusal of each says.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Filters": [{"Name": "Nam", "Value": "x"}]}, "Unknown property name: Nam"),
    ({"Filters": [{"Name": "Parents.Name", "Value": "x"}]}, "Unknown property name"),
    ({"Filters": [{"Name": "Status.PrimaryStatus.x", "Value": "x"}]}, "Unknown property"),
    ({"Filters": [{"Name": "ExperimentName", "Value": "x"}]}, "Unknown property name"),
    ({"Filters": [{"Name": "DisplayName"}]}, "needs a Value"),
    ({"Filters": [{"Name": "DisplayName", "Operator": "Like", "Value": "x"}]}, "enum value"),
    ({"Filters": [{"Name": "DisplayName", "Value": ""}]}, "greater than or equal to 1"),
    ({"Filters": [{"Name": "DisplayName", "Value": "x" * 1025}]}, "less than or equal to 1024"),
    (
        {"Filters": [{"Name": "DisplayName", "Operator": "GreaterThan", "Value": "x"}]},
        "not supported",
    ),
    (
        {"Filters": [{"Name": "CreationTime", "Operator": "Contains", "Value": "2026"}]},
        "not supported",
    ),
    ({"Filters": [{"Name": "CreationTime", "Value": "yesterday"}]}, "date-time of ISO 8601"),
    ({"Filters": [{"Name": "Metrics.a.Count", "Value": "few"}]}, "is not a number"),
    (
        {"Filters": [{"Name": "Parameters.lr", "Operator": "LessThan", "Value": "x"}]},
        "is not a number",
    ),
    ({"Filters": [{"Name": "Parents", "Value": "one"}]}, "not supported"),
    ({"Filters": []}, "'searchExpression.filters' failed"),
    ({}, "needs a filter"),
    ({"SubExpressions": [{"Operator": "Or"}]}, "needs a filter"),
    (
        {
            "NestedFilters": [
                {"NestedPropertyName": "Status", "Filters": [{"Name": "Status.PrimaryStatus"}]}
            ]
        },
        "Unknown property name: Status",
    ),
    (
        {
            "NestedFilters": [
                {"NestedPropertyName": "Parents", "Filters": [{"Name": "Tags.a", "Value": "x"}]}
            ]
        },
        "Unknown property name: Tags.a",
    ),
    (
        {
            "Filters": [
                {"Name": f"Parameters.{name}", "Operator": "Contains", "Value": "x"}
                for name in "ab"
            ]
        },
        "'CONTAINS' operator usage limit of 1 exceeded.",
    ),
    (
        {
            "SubExpressions": [
                {"Filters": [{"Name": "DisplayName", "Value": "x"}] * 16} for _ in range(3)
            ]
        },
        "at most 50",
    ),
]


def test_search_expressions_are_checked(sim: Simulator) -> None:
    """A property, an operator or a value that doesn't fit refuses the whole search, though there
    is nothing to be found.
    """
    unchecked = client(sim, "sagemaker", parameter_validation=False)
    for expression, rule in REFUSED:
        given = {"Resource": "ExperimentTrialComponent", "SearchExpression": expression}
        code, message = refusal(unchecked.search, **given)
        assert code == "ValidationException"
        assert rule in message


@pytest.mark.usefixtures("world")
def test_conditions_combine(sagemaker: Any) -> None:
    """And is the rule, Or the exception, expressions nest, a nested filter means one item."""
    first = {"Name": "Parents.TrialName", "Value": "one"}
    letters = {"Name": "Parents.ExperimentName", "Value": "letters"}
    lr = {"Name": "Parameters.lr", "Operator": "Exists"}

    def found(expression: dict[str, Any]) -> list[str]:
        return sorted(search(sagemaker, resource="Component", SearchExpression=expression))

    assert found({"Filters": [first, letters]}) == ["both"]
    assert found({"Filters": [first, letters], "Operator": "Or"}) == ["both", "small"]
    nested = {"NestedPropertyName": "Parents", "Filters": [first, letters]}
    assert found({"NestedFilters": [nested]}) == []
    nested["Filters"] = [{**first, "Value": "three"}, letters]
    assert found({"NestedFilters": [nested], "Filters": [lr]}) == ["both"]
    either = {
        "Filters": [{"Name": "TrialComponentName", "Value": "job"}],
        "NestedFilters": [nested],
    }
    assert found({"SubExpressions": [{**either, "Operator": "Or"}]}) == ["both", "job"]
    assert found({"SubExpressions": [{**either, "Operator": "Or"}], "Filters": [lr]}) == ["both"]
    contains = [
        {"Name": "InputArtifacts.data.csv.Value", "Operator": "Contains", "Value": part}
        for part in ("bucket", "data")
    ]
    assert found({"Filters": contains}) == ["both"]


@pytest.mark.usefixtures("world")
def test_trials_and_experiments_are_found(sagemaker: Any) -> None:
    """Their records hold what describe gives, their tags, and a trial its components."""
    assert search(sagemaker, ("ExperimentName", "Equals", "Digits"), SortOrder="Ascending") == [
        "one",
        "two",
    ]
    found = search(sagemaker, ("Tags.team", "Equals", "vision"), resource="Experiment")
    assert found == ["Digits"]
    found = search(sagemaker, ("TrialComponentSummaries.TrialComponentName", "Equals", "both"))
    assert sorted(found) == ["one", "three"]
    (result,) = sagemaker.search(
        Resource="ExperimentTrial",
        SearchExpression={"Filters": [{"Name": "DisplayName", "Value": "Second"}]},
    )["Results"]
    described = sagemaker.describe_trial(TrialName="two")
    assert {name: described[name] for name in result["Trial"].keys() & described} == {
        name: value for name, value in described.items() if name != "ResponseMetadata"
    }
    assert result["Trial"]["Tags"] == []
    (component,) = result["Trial"]["TrialComponentSummaries"]
    assert component["TrialComponentName"] == "job"


@pytest.mark.usefixtures("world")
def test_results_are_sorted_and_paged(sagemaker: Any) -> None:
    """The latest modified comes first unless a property says otherwise; what lacks it is last."""

    def found(**more: Any) -> list[str]:
        return search(sagemaker, resource="Component", **more)

    sagemaker.update_trial_component(TrialComponentName="alone", DisplayName="new")
    assert found() == ["alone", "job", "small", "both"]
    assert found(SortOrder="Ascending") == ["both", "small", "job", "alone"]
    by_loss = found(SortBy="metrics.test:loss.max", SortOrder="Ascending")
    assert by_loss == ["small", "both", "job", "alone"]
    assert found(SortBy="Parameters.lr")[-1] == "job"
    pages = sagemaker.get_paginator("search").paginate(
        Resource="ExperimentTrialComponent", PaginationConfig={"PageSize": 3}
    )
    results = [page["Results"] for page in pages]
    names = [r["TrialComponent"]["TrialComponentName"] for page in results for r in page]
    assert ([len(page) for page in results], names) == ([3, 1], found())
    for wrong in (
        {"SortBy": "Age"},
        {"NextToken": "x"},
        {"MaxResults": 101},
        {"Resource": "Model"},
    ):
        given = {"Resource": "ExperimentTrialComponent", **wrong}
        assert refusal(sagemaker.search, **given)[0] == "ValidationException"


@pytest.mark.usefixtures("world")
def test_a_record_holds_parents_and_tags(sagemaker: Any) -> None:
    """A component is found with every trial that it is in, with its tags and its metrics."""
    (result,) = sagemaker.search(
        Resource="ExperimentTrialComponent",
        SearchExpression={"Filters": [{"Name": "TrialComponentName", "Value": "both"}]},
    )["Results"]
    record = result["TrialComponent"]
    assert record["Parents"] == [
        {"TrialName": "one", "ExperimentName": "Digits"},
        {"TrialName": "three", "ExperimentName": "letters"},
    ]
    assert record["Tags"][0] == {"Key": "team", "Value": "vision"}
    assert (record["Parameters"]["lr"], record["StartTime"]) == ({"NumberValue": 0.1}, START)
    (metric,) = record["Metrics"]
    assert (metric["MetricName"], metric["Min"], metric["Last"]) == ("test:loss", 1.0, 2.0)


@pytest.mark.usefixtures("world")
def test_answers_keep_to_the_model(sim: Simulator, sagemaker: Any) -> None:
    """No answer has a member, a type or a value that AWS's model doesn't know."""
    answers: dict[str, Any] = {}

    def keep(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
        answers[operation_model.name] = json.loads(response_dict["body"])

    sagemaker.meta.events.register("before-parse.sagemaker", keep)
    source = {"SourceUri": "s3://b/k", "SourceTypes": [{"SourceIdType": "S3ETag", "Value": "e"}]}
    both = sim.components["both"].arn
    artifact = sagemaker.create_artifact(Source=source, ArtifactType="Model")["ArtifactArn"]
    sagemaker.add_association(SourceArn=both, DestinationArn=artifact)
    sagemaker.list_associations()
    sagemaker.query_lineage(StartArns=[artifact], IncludeEdges=True)
    sagemaker.list_artifacts()
    sagemaker.describe_artifact(ArtifactArn=artifact)
    sagemaker.delete_association(SourceArn=both, DestinationArn=artifact)
    sagemaker.delete_artifact(ArtifactArn=artifact)
    for name, member in (
        ("experiment", {"ExperimentName": "letters"}),
        ("trial", {"TrialName": "three"}),
        ("trial_component", {"TrialComponentName": "both"}),
    ):
        for verb in ("describe", "update"):
            getattr(sagemaker, f"{verb}_{name}")(**member)
        getattr(sagemaker, f"list_{name}s")()
    for resource in ("Experiment", "ExperimentTrial", "ExperimentTrialComponent"):
        sagemaker.search(Resource=resource)
        assert answer_problems("sagemaker", "Search", answers["Search"]) == []
    sagemaker.list_tags(ResourceArn=both)
    assert len(answers) == 19
    wrong = {name: answer_problems("sagemaker", name, each) for name, each in answers.items()}
    assert {name: problems for name, problems in wrong.items() if problems} == {}


def test_what_is_new_can_be_hidden_from_searches(
    clock: Clock, sim: Simulator, sagemaker: Any
) -> None:
    """An index that lags finds a component only after its time, though it can be described."""
    sim.search.lag_s = 30.0
    sim.add_component("run")
    assert search(sagemaker, resource="Component") == []
    assert sagemaker.describe_trial_component(TrialComponentName="run")["DisplayName"] == "run"
    clock.now += 30
    assert search(sagemaker, resource="Component") == ["run"]


@pytest.mark.parametrize(
    ("operation", "call", "arguments"),
    [
        ("Search", "search", {"Resource": "Experiment"}),
        ("ListTrials", "list_trials", {}),
        ("ListExperiments", "list_experiments", {}),
        ("DeleteTrialComponent", "delete_trial_component", {"TrialComponentName": "run"}),
        ("UpdateExperiment", "update_experiment", {"ExperimentName": "exp"}),
    ],
)
def test_scheduled_faults_work_for_experiments(
    sim: Simulator, sagemaker: Any, operation: str, call: str, arguments: dict[str, Any]
) -> None:
    """An error of the service and a cut meet these operations as any other."""
    sim.add_component("run")
    sagemaker.create_experiment(ExperimentName="exp")
    sim.fail(operation, HttpError(400, "ThrottlingException", "Rate exceeded"))
    sim.fail(operation, CutBefore())
    assert refusal(getattr(sagemaker, call), **arguments)[0] == "ThrottlingException"
    with pytest.raises(ConnectionClosedError):
        getattr(sagemaker, call)(**arguments)
    assert "run" in sim.components
    getattr(sagemaker, call)(**arguments)
    assert [request.status for request in sim.calls(operation)] == [400, 0, 200]


@pytest.mark.usefixtures("world")
def test_a_component_may_vanish_behind_the_back_of_the_rest(sim: Simulator, sagemaker: Any) -> None:
    """What a test takes out of the account breaks neither a search nor a look at the lineage."""
    arn, source = sim.components["both"].arn, {"SourceUri": "s3://bucket/model"}
    artifact = sagemaker.create_artifact(Source=source, ArtifactType="Model")["ArtifactArn"]
    sagemaker.add_association(SourceArn=arn, DestinationArn=artifact)
    del sim.components["both"]
    for result in sagemaker.search(Resource="ExperimentTrial")["Results"]:
        held = {"one": ["small"], "two": ["job"], "three": []}[result["Trial"]["TrialName"]]
        summaries = result["Trial"]["TrialComponentSummaries"]
        assert [component["TrialComponentName"] for component in summaries] == held
    assert sim.lineage.edges() == [(arn, None, "s3://bucket/model")]
