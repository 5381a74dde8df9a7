"""The simulator's lineage is as strict as AWS's where that is known, tried through real boto3."""

from __future__ import annotations

import http.client
import json
from datetime import datetime, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError

from tests.simulator import CutAfter, CutBefore, HttpError, Simulator, simulator
from tests.simulator.clients import client, refusal
from tests.simulator.state import state_from_json, state_to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
NOWHERE = "arn:aws:sagemaker:us-east-1:123456789012:artifact/none"


class Clock:
    """Seconds since 1970 that go on by one at each look, so that no two things are as old."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """Give a running simulator whose clock moves by itself."""
    with simulator(clock=Clock()) as running:
        yield running


@pytest.fixture
def sagemaker(sim: Simulator) -> Any:
    """Give a real client of it."""
    return client(sim, "sagemaker")


def source(uri: str = "s3://bucket/model", etag: str | None = None) -> dict[str, Any]:
    """Give the source of an artifact, with an ETag in its quotes if there is one."""
    types = [{"SourceIdType": "S3ETag", "Value": f'"{etag}"'}] if etag else []
    return {"SourceUri": uri, "SourceTypes": types} if types else {"SourceUri": uri}


def create(sagemaker: Any, uri: str, kind: str = "Tracker", **more: Any) -> str:
    """Create an artifact and give its ARN."""
    answer = sagemaker.create_artifact(Source=source(uri), ArtifactType=kind, **more)
    arn: str = answer["ArtifactArn"]
    return arn


def associate(sagemaker: Any, *arns: str, kind: str = "Produced") -> None:
    """Associate each ARN with the next."""
    for left, right in pairwise(arns):
        sagemaker.add_association(SourceArn=left, DestinationArn=right, AssociationType=kind)


def test_created_artifact_reads_back(sim: Simulator, sagemaker: Any) -> None:
    """Describe and list give what create took, quotes of the ETag included."""
    arn = sagemaker.create_artifact(
        ArtifactName="model",
        Source=source(etag="0cc175b9"),
        ArtifactType="application/octet-stream",
        Properties={"k": "v"},
        MetadataProperties={"GeneratedBy": "test"},
        Tags=[{"Key": "team", "Value": "v"}],
    )["ArtifactArn"]
    found = sagemaker.describe_artifact(ArtifactArn=arn)
    assert found["ArtifactName"] == "model"
    assert found["ArtifactType"] == "application/octet-stream"
    assert found["Source"] == source(etag="0cc175b9")
    assert found["Source"]["SourceTypes"][0]["Value"] == '"0cc175b9"'
    assert (found["Properties"], found["MetadataProperties"]) == (
        {"k": "v"},
        {"GeneratedBy": "test"},
    )
    assert found["CreationTime"] == found["LastModifiedTime"] > START
    assert ":lineage-group/" in found["LineageGroupArn"]
    (listed,) = sagemaker.list_artifacts(SourceUri="s3://bucket/model")["ArtifactSummaries"]
    assert {name: found[name] for name in listed} == listed
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "v"}]
    assert sim.lineage.artifacts[arn].source_types == [("S3ETag", '"0cc175b9"')]


def test_an_artifact_needs_no_name(sagemaker: Any) -> None:
    """Without a name it is created, and no name is told."""
    arn = create(sagemaker, "s3://bucket/model")
    assert "ArtifactName" not in sagemaker.describe_artifact(ArtifactArn=arn)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"ArtifactName": "confusion matrix"}, "'artifactName' failed to satisfy constraint"),
        ({"ArtifactName": "model.pt"}, "regular expression pattern"),
        ({"ArtifactName": "m_1"}, "regular expression pattern"),
        ({"ArtifactName": "m-"}, "regular expression pattern"),
        ({"ArtifactName": "ü"}, "regular expression pattern"),
        ({"ArtifactName": "m" * 121}, "length less than or equal to 120"),
        ({"ArtifactType": "t" * 257}, "length less than or equal to 256"),
        ({"Source": source("s3://b/" + "k" * 2048)}, "'source.sourceUri'"),
        ({"Source": source("s3://b/a\nb")}, "regular expression pattern: .*"),
        ({"Source": source(etag="e" * 255)}, "'source.sourceTypes.1.member.value'"),
        (
            {"Source": {"SourceUri": "u", "SourceTypes": [{"SourceIdType": "ETag", "Value": ""}]}},
            "enum value set: [MD5Hash, S3ETag, S3Version, Custom]",
        ),
        ({"Properties": {f"k{n}": "" for n in range(31)}}, "less than or equal to 30"),
        ({"Properties": {"k": "v" * 4097}}, "less than or equal to 4096"),
        ({"Tags": [{"Key": "no!", "Value": ""}]}, "'tags.1.member.key'"),
    ],
)
def test_artifacts_keep_to_the_model(
    sim: Simulator, sagemaker: Any, arguments: dict[str, Any], rule: str
) -> None:
    """What botocore lets through but AWS does not is refused with AWS's wording."""
    given = {"Source": source(), "ArtifactType": "Tracker", **arguments}
    code, message = refusal(sagemaker.create_artifact, **given)
    assert code == "ValidationException"
    assert rule in message
    assert not sim.lineage.artifacts


@pytest.mark.parametrize(
    ("body", "code", "rule"),
    [
        ({"ArtifactType": "t"}, "ValidationException", "'source' failed"),
        ({"Source": {"SourceUri": "u"}}, "ValidationException", "'artifactType' failed"),
        ({"Source": {}, "ArtifactType": "t"}, "ValidationException", "'source.sourceUri' failed"),
        (
            {"Source": {"SourceUri": "u"}, "ArtifactType": "t", "Type": "x"},
            "ValidationException",
            "'type' failed to satisfy constraint: Member must be in the model",
        ),
        (
            {"Source": {"SourceUri": "u"}, "ArtifactType": 1},
            "SerializationException",
            "string",
        ),
    ],
)
def test_requests_that_botocore_would_not_send_are_refused(
    sim: Simulator, body: dict[str, Any], code: str, rule: str
) -> None:
    """Missing, unknown and mistyped members are refused, whoever writes the request."""
    connection = http.client.HTTPConnection(sim.endpoint_url.removeprefix("http://"))
    credential = "Credential=A/20261123/us-east-1/sagemaker/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 {credential}, x",
        "X-Amz-Target": "SageMaker.CreateArtifact",
    }
    connection.request("POST", "/", json.dumps(body), headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    assert (answer.status, told["__type"]) == (400, code)
    assert rule in told["message"]
    assert not sim.lineage.artifacts


@pytest.mark.parametrize("kind", ["Tracker", "ROCCurve"])
def test_a_uri_has_one_artifact(sim: Simulator, sagemaker: Any, kind: str) -> None:
    """A second artifact of a URI is refused as existing, and the list by URI gives the first."""
    first = create(sagemaker, "s3://bucket/model", ArtifactName="first")
    given = {"Source": source(etag="other"), "ArtifactType": kind, "ArtifactName": "second"}
    code, message = refusal(sagemaker.create_artifact, **given)
    assert (code, "already exists" in message) == ("ValidationException", True)
    (found,) = sagemaker.list_artifacts(SourceUri="s3://bucket/model")["ArtifactSummaries"]
    assert (found["ArtifactArn"], found["ArtifactName"]) == (first, "first")
    assert list(sim.lineage.artifacts) == [first]


def test_names_may_repeat_unless_a_test_wants_otherwise(sim: Simulator, sagemaker: Any) -> None:
    """Artifacts of different URIs share a name; the rules of what is unique can be set."""
    create(sagemaker, "s3://bucket/1", ArtifactName="model")
    create(sagemaker, "s3://bucket/2", ArtifactName="model")
    sim.lineage.unique = (("SourceUri", "ArtifactType"), ("ArtifactName",))
    create(sagemaker, "s3://bucket/1", "ROCCurve", ArtifactName="roc")
    for uri, kind, name in (
        ("s3://bucket/1", "ROCCurve", "other"),
        ("s3://bucket/3", "ROCCurve", "roc"),
    ):
        given = {"Source": source(uri), "ArtifactType": kind, "ArtifactName": name}
        assert "already exists" in refusal(sagemaker.create_artifact, **given)[1]
    found = sagemaker.list_artifacts(SourceUri="s3://bucket/1")["ArtifactSummaries"]
    assert [item["ArtifactType"] for item in found] == ["ROCCurve", "Tracker"]


def test_artifacts_are_listed_by_pages(sagemaker: Any) -> None:
    """The newest come first, ten to a page, and times, type and order choose among them."""
    arns = [create(sagemaker, f"s3://bucket/{n}", ("even", "odd")[n % 2]) for n in range(12)]
    answer = sagemaker.list_artifacts()
    assert [item["ArtifactArn"] for item in answer["ArtifactSummaries"]] == arns[:1:-1]
    answer = sagemaker.list_artifacts(NextToken=answer["NextToken"])
    assert [item["ArtifactArn"] for item in answer["ArtifactSummaries"]] == arns[1::-1]
    assert "NextToken" not in answer
    pages = sagemaker.get_paginator("list_artifacts").paginate(
        ArtifactType="odd", SortOrder="Ascending", PaginationConfig={"PageSize": 4}
    )
    sizes = [[item["ArtifactArn"] for item in page["ArtifactSummaries"]] for page in pages]
    assert sizes == [arns[1:9:2], arns[9::2]]
    second = answer["ArtifactSummaries"][0]["CreationTime"]
    answer = sagemaker.list_artifacts(CreatedAfter=second, CreatedBefore=second)
    assert [item["ArtifactArn"] for item in answer["ArtifactSummaries"]] == arns[1:2]
    for wrong in ({"NextToken": "x"}, {"MaxResults": 101}, {"SortBy": "Name"}):
        assert refusal(sagemaker.list_artifacts, **wrong)[0] == "ValidationException"


def test_both_ends_of_an_association_exist(sim: Simulator, sagemaker: Any) -> None:
    """An ARN that names nothing is not found, and nothing is associated."""
    component, artifact = sim.add_component("run").arn, create(sagemaker, "s3://bucket/model")
    add = sagemaker.add_association
    for left, right in ((component, NOWHERE), (NOWHERE, artifact), (f"{component}2", artifact)):
        assert refusal(add, SourceArn=left, DestinationArn=right)[0] == "ResourceNotFound"
    assert not sim.lineage.associations


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("SourceArn", "run"),
        ("SourceArn", "arn:aws:sagemaker:us-east-1:123456789012:experiment-trial/trial"),
        ("DestinationArn", "arn:aws:s3:::bucket/model"),
        ("AssociationType", "produced"),
    ],
)
def test_associations_keep_to_the_model(
    sim: Simulator, sagemaker: Any, member: str, value: str
) -> None:
    """What is no ARN of the lineage, and unknown types, are refused: a trial has no lineage."""
    given = {
        "SourceArn": sim.add_component("run").arn,
        "DestinationArn": create(sagemaker, "s3://bucket/model"),
        "AssociationType": "Produced",
        member: value,
    }
    code, message = refusal(sagemaker.add_association, **given)
    assert (code, "failed to satisfy" in message) == ("ValidationException", True)
    assert not sim.lineage.associations


def test_two_experiment_entities_have_no_association(sim: Simulator, sagemaker: Any) -> None:
    """A component produces no component, an experiment none either, and nothing itself."""
    first, second = sim.add_component("first").arn, sim.add_component("second").arn
    experiment = sagemaker.create_experiment(ExperimentName="exp")["ExperimentArn"]
    artifact = create(sagemaker, "s3://bucket/model")
    for left, right in ((first, second), (experiment, first), (artifact, artifact)):
        given = {"SourceArn": left, "DestinationArn": right}
        assert refusal(sagemaker.add_association, **given)[0] == "ValidationException"
    assert not sim.lineage.associations


def test_an_association_is_there_once(sim: Simulator, sagemaker: Any) -> None:
    """A second one between the same two is refused as existing, whatever its type."""
    component, artifact = sim.add_component("run").arn, create(sagemaker, "s3://bucket/model")
    associate(sagemaker, component, artifact)
    for kind in ("Produced", "DerivedFrom"):
        code, message = refusal(
            sagemaker.add_association,
            SourceArn=component,
            DestinationArn=artifact,
            AssociationType=kind,
        )
        assert (code, "already exists" in message) == ("ValidationException", True)
    associate(sagemaker, artifact, component, kind="ContributedTo")
    assert sim.lineage.edges() == [
        ("run", "Produced", "s3://bucket/model"),
        ("s3://bucket/model", "ContributedTo", "run"),
    ]


def test_associations_are_listed(sim: Simulator, sagemaker: Any) -> None:
    """Each end, type and order chooses; a summary names both ends and what they are."""
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/job"
    component = sim.add_component("run", source_arn=job).arn
    model = create(sagemaker, "s3://bucket/b", "Model", ArtifactName="model")
    data = create(sagemaker, "s3://bucket/a", "DataSet", ArtifactName="data")
    associate(sagemaker, component, model)
    associate(sagemaker, data, component, kind="ContributedTo")

    def listed(**wanted: Any) -> list[str]:
        found = sagemaker.list_associations(**wanted)["AssociationSummaries"]
        return [item["AssociationType"] for item in found]

    assert listed() == ["ContributedTo", "Produced"]
    assert listed(SortOrder="Ascending") == ["Produced", "ContributedTo"]
    assert listed(SortBy="DestinationType") == ["ContributedTo", "Produced"]
    assert listed(SourceArn=component) == listed(SourceType="SageMakerTrainingJob") == ["Produced"]
    assert listed(DestinationArn=component) == listed(SourceType="DataSet") == ["ContributedTo"]
    assert listed(AssociationType="SameAs") == listed(SourceArn=model) == []
    (found,) = sagemaker.list_associations(SourceArn=component)["AssociationSummaries"]
    assert (found["SourceName"], found["DestinationName"]) == ("run", "model")
    assert found["DestinationType"] == "Model"
    assert refusal(sagemaker.list_associations, SourceArn=NOWHERE)[0] == "ResourceNotFound"


def test_an_artifact_is_deleted_when_nothing_holds_it(sim: Simulator, sagemaker: Any) -> None:
    """Delete takes an ARN or a source, and is refused while there is an association."""
    component, artifact = sim.add_component("run").arn, create(sagemaker, "s3://bucket/model")
    associate(sagemaker, component, artifact)
    delete = sagemaker.delete_artifact
    assert refusal(delete, ArtifactArn=artifact)[0] == "ValidationException"
    assert refusal(delete)[0] == "ValidationException"
    assert refusal(delete, ArtifactArn=artifact, Source=source())[0] == "ValidationException"
    assert refusal(delete, Source=source(etag="other"))[0] == "ResourceNotFound"
    ends = {"SourceArn": component, "DestinationArn": artifact}
    sagemaker.delete_association(**ends)
    assert refusal(sagemaker.delete_association, **ends)[0] == "ResourceNotFound"
    assert delete(Source=source())["ArtifactArn"] == artifact
    for call in (delete, sagemaker.describe_artifact):
        assert refusal(call, ArtifactArn=artifact)[0] == "ResourceNotFound"
    assert create(sagemaker, "s3://bucket/model") in sim.lineage.artifacts


@pytest.fixture
def graph(sim: Simulator, sagemaker: Any) -> dict[str, str]:
    """Give the ARNs of data -> prepare -> features -> train -> model, and a report of train."""
    arns = {name: sim.add_component(name).arn for name in ("prepare", "train")}
    for name, kind in (("data", "DataSet"), ("features", "DataSet"), ("model", "Model")):
        arns[name] = create(sagemaker, f"s3://bucket/{name}", kind, Properties={"name": name})
    arns["report"] = create(sagemaker, "s3://bucket/report", "ROCCurve")
    chain = ("data", "prepare", "features", "train", "model")
    associate(sagemaker, *(arns[name] for name in chain))
    associate(sagemaker, arns["train"], arns["report"])
    return arns


def reached(sagemaker: Any, graph: dict[str, str], start: str, **more: Any) -> list[str]:
    """Give the names of the vertices that a query finds."""
    names = {arn: name for name, arn in graph.items()}
    answer = sagemaker.query_lineage(StartArns=[graph[start]], **more)
    return [names[vertex["Arn"]] for vertex in answer["Vertices"]]


def test_a_query_follows_the_graph(sagemaker: Any, graph: dict[str, str]) -> None:
    """Direction and depth say how far it goes; the start is none of the results."""
    assert reached(sagemaker, graph, "features", Direction="Ascendants") == ["prepare", "data"]
    down = ["train", "model", "report"]
    assert reached(sagemaker, graph, "features", Direction="Descendants") == down
    assert reached(sagemaker, graph, "features") == ["prepare", "data", *down]
    assert reached(sagemaker, graph, "features", MaxDepth=1) == ["prepare", "train"]
    assert reached(sagemaker, graph, "model", Direction="Descendants") == []


def test_filters_choose_what_a_query_shows(sagemaker: Any, graph: dict[str, str]) -> None:
    """Types, kinds of entity, times and properties choose among what was reached."""
    down = {"Direction": "Descendants"}
    train = sagemaker.describe_trial_component(TrialComponentName="train")["CreationTime"]
    report = sagemaker.describe_artifact(ArtifactArn=graph["report"])["LastModifiedTime"]
    for filters, expected in (
        ({"Types": ["Model", "ROCCurve"]}, ["model", "report"]),
        ({"LineageTypes": ["TrialComponent"]}, ["prepare", "train"]),
        ({"Properties": {"name": "model", "other": "x"}}, ["model"]),
        ({"CreatedBefore": train}, ["prepare", "train"]),
        ({"ModifiedAfter": report}, ["report"]),
        ({"LineageTypes": ["Action"]}, []),
    ):
        assert reached(sagemaker, graph, "data", Filters=filters, **down) == expected


def test_edges_bring_the_path_along(sagemaker: Any, graph: dict[str, str]) -> None:
    """With edges, what lies on the way to a match is shown too, and every edge of the way once."""
    query = {"StartArns": [graph["data"]], "Filters": {"Types": ["Model"]}, "MaxResults": 2}
    first = sagemaker.query_lineage(**query, IncludeEdges=True)
    rest = sagemaker.query_lineage(**query, IncludeEdges=True, NextToken=first["NextToken"])
    assert "NextToken" not in rest
    vertices = [vertex["Arn"] for page in (first, rest) for vertex in page["Vertices"]]
    edges = [
        (edge["SourceArn"], edge["DestinationArn"])
        for page in (first, rest)
        for edge in page["Edges"]
    ]
    chain = [graph[name] for name in ("data", "prepare", "features", "train", "model")]
    assert vertices == chain[1:]
    assert edges == list(pairwise(chain))


def test_a_query_survives_a_circle(sagemaker: Any, graph: dict[str, str]) -> None:
    """Associations that lead back end the walk, and are among its edges."""
    associate(sagemaker, graph["report"], graph["prepare"])
    found = reached(sagemaker, graph, "prepare", Direction="Descendants")
    assert found == ["features", "train", "model", "report"]
    for start, expected in (("data", 6), ("prepare", 5)):
        query = {"StartArns": [graph[start]], "Direction": "Descendants", "IncludeEdges": True}
        answer = sagemaker.query_lineage(**query)
        edges = {(edge["SourceArn"], edge["DestinationArn"]) for edge in answer["Edges"]}
        assert len(edges) == len(answer["Edges"]) == expected
        assert (graph["report"], graph["prepare"]) in edges


def test_a_query_without_a_start_shows_everything(sagemaker: Any, graph: dict[str, str]) -> None:
    """Without a start all artifacts and all that is associated are found."""
    found = {vertex["Arn"] for vertex in sagemaker.query_lineage()["Vertices"]}
    assert found == set(graph.values())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"StartArns": [NOWHERE]}, "ResourceNotFound"),
        ({"StartArns": [NOWHERE, NOWHERE]}, "ValidationException"),
        ({"StartArns": ["data"]}, "ValidationException"),
        ({"Direction": "Up"}, "ValidationException"),
        ({"MaxDepth": 11}, "ValidationException"),
        ({"MaxDepth": 0}, "ValidationException"),
        ({"MaxResults": 51}, "ValidationException"),
        ({"Filters": {"LineageTypes": ["Trial"]}}, "ValidationException"),
        ({"Filters": {"Types": list("abcdef")}}, "ValidationException"),
    ],
)
def test_queries_keep_to_the_model(sagemaker: Any, arguments: dict[str, Any], code: str) -> None:
    """A start that is not there is not found; what the model forbids is refused."""
    assert refusal(sagemaker.query_lineage, **arguments)[0] == code


@pytest.mark.parametrize("fault", [CutBefore(), CutAfter(), HttpError(500, "InternalFailure")])
def test_scheduled_faults_work_for_lineage(sim: Simulator, sagemaker: Any, fault: Any) -> None:
    """A cut or an error of the service meets lineage as anything else, applied or not."""
    sim.fail("CreateArtifact", fault)
    given = {"Source": source(), "ArtifactType": "Tracker"}
    if isinstance(fault, HttpError):
        assert refusal(sagemaker.create_artifact, **given)[0] == "InternalFailure"
    else:
        with pytest.raises(ConnectionClosedError):
            sagemaker.create_artifact(**given)
    applied = isinstance(fault, CutAfter)
    assert len(sim.lineage.artifacts) == sim.requests[-1].applied == applied
    if applied:
        assert "already exists" in refusal(sagemaker.create_artifact, **given)[1]
    else:
        sagemaker.create_artifact(**given)


def test_lineage_can_be_denied_alone(sim: Simulator, sagemaker: Any) -> None:
    """Who may not create artifacts may still do everything else."""
    sim.access.denied_operations.add("CreateArtifact")
    code, message = refusal(sagemaker.create_artifact, Source=source(), ArtifactType="Tracker")
    assert (code, "sagemaker:CreateArtifact" in message) == ("AccessDeniedException", True)
    sagemaker.create_trial_component(TrialComponentName="run")
    assert sagemaker.list_artifacts()["ArtifactSummaries"] == []


def test_lineage_survives_as_json(sim: Simulator, sagemaker: Any) -> None:
    """The account as JSON keeps artifacts and associations."""
    component, artifact = sim.add_component("run").arn, create(sagemaker, "s3://bucket/model")
    associate(sagemaker, component, artifact)
    kept = state_from_json(json.loads(json.dumps(state_to_json(sim.state))))
    assert (kept.artifacts, kept.associations) == (sim.lineage.artifacts, sim.lineage.associations)
    assert sim.summary()["lineage"] == [("run", "Produced", "s3://bucket/model")]
