"""Lineage at every remote: one operation that can be repeated, and at AWS the original's fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.remotes.retry import FEW_ATTEMPTS_MAX, RetryingRemote
from journaltrack.replay.plan.actions import ComponentSpec
from journaltrack.replay.remote import ArtifactLink, Remote
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import Subject, aws
from tests.contract.test_uploads import spooled
from tests.simulator import CutAfter, HttpError, Simulator, simulator


def uploaded(
    remote: Remote, tmp_path: Path, name: str, content: bytes = b"weights", **options: object
) -> ArtifactLink:
    """Make a component with an uploaded blob, and say how to link them."""
    if remote.describe(name) is None:
        remote.create(ComponentSpec(name, "owner-1"))
    blob = spooled(tmp_path, content, name)
    uri = remote.upload(blob).uri
    assert uri is not None
    link = ArtifactLink(name, uri, blob.sha256, "model-bin", "text/plain", is_output=True)
    return replace(link, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_output", [True, False], ids=["output", "input"])
def test_a_link_can_be_repeated_and_looked_up(
    subject: Subject, tmp_path: Path, name: str, is_output: bool
):
    """Before, nothing is there; after one or many links, artifact and association are, once."""
    link = uploaded(subject.remote, tmp_path, name, is_output=is_output)
    if not subject.remote.can.lineage:
        assert not subject.remote.link(link).request_id
        assert subject.remote.linked(link)[:2] == (False, False)
        return
    if not subject.lineage:
        with pytest.raises(RemoteError) as caught:
            subject.remote.link(link)
        assert caught.value.kind is ErrorKind.TRANSIENT
        return
    assert subject.remote.linked(link)[:2] == (False, False)
    for _ in range(3):
        assert subject.remote.link(link).request_id
    assert subject.remote.linked(link)[:2] == (True, True)
    other = replace(link, is_output=not is_output)
    assert subject.remote.linked(other)[:2] == (True, False)


def test_linking_a_missing_component_is_held(subject: Subject, tmp_path: Path, name: str):
    """As for an update: a later pass may find it."""
    if not subject.lineage:
        return
    link = uploaded(subject.remote, tmp_path, name)
    with pytest.raises(ComponentMissingError) as caught:
        subject.remote.link(replace(link, component=f"{name}-other"))
    assert caught.value.kind is ErrorKind.HOLD
    assert subject.remote.linked(replace(link, component=f"{name}-other"))[:2] == (False, False)


@pytest.mark.parametrize("members", [{"name": "a.b"}, {"artifact_type": "x" * 257}], ids=str)
def test_a_link_beyond_a_limit_is_permanent_and_changes_nothing(
    subject: Subject, tmp_path: Path, name: str, members: dict[str, str]
):
    """It is the entry's own fault."""
    if not subject.lineage:
        return
    link = uploaded(subject.remote, tmp_path, name)
    with pytest.raises(RemoteError) as caught:
        subject.remote.link(replace(link, **members))  # type: ignore[arg-type]
    assert caught.value.kind is ErrorKind.PERMANENT
    assert subject.remote.linked(link)[:2] == (False, False)


def test_content_that_is_not_the_uploaded_one_is_not_linked(
    subject: Subject, tmp_path: Path, name: str
):
    """A crafted journal can't link an object that it did not upload."""
    if not subject.lineage:
        return
    link = uploaded(subject.remote, tmp_path, name)
    for wrong in (replace(link, sha256="0" * 64), replace(link, uri=f"{link.uri}.other")):
        with pytest.raises(RemoteError) as caught:
            subject.remote.link(wrong)
        assert caught.value.kind is ErrorKind.PERMANENT
    assert subject.remote.linked(link)[:2] == (False, False)


# -- AWS alone -----------------------------------------------------------------------------


@pytest.fixture
def sim():
    """A strict AWS."""
    with simulator() as made:
        yield made


def only_artifact(sim: Simulator):
    """The one artifact that is there."""
    (artifact,) = sim.lineage.artifacts.values()
    return artifact


@pytest.mark.parametrize(
    ("is_output", "kind"), [(True, "Produced"), (False, "ContributedTo")], ids=["output", "input"]
)
def test_artifact_and_association_are_those_of_the_original(sim, tmp_path, is_output, kind):
    """The ETag has its quotes; the association leads from what was first to what came of it."""
    remote = aws(sim.endpoint_url)
    link = uploaded(remote, tmp_path, "run", is_output=is_output)
    remote.link(link)
    artifact = only_artifact(sim)
    ((_, stored),) = sim.state.objects.items()
    assert (artifact.name, artifact.type, artifact.source_uri) == (
        "model-bin",
        "text/plain",
        link.uri,
    )
    assert artifact.source_types == [("S3ETag", f'"{stored.etag}"')]
    ends = ("run", link.uri) if is_output else (link.uri, "run")
    assert sim.lineage.edges() == [(ends[0], kind, ends[1])]
    remote.link(link)
    # Beside the one of ``uploaded``, one look-up of the ARN does for all.
    assert len(sim.calls("DescribeTrialComponent")) == 2


@pytest.mark.parametrize(
    "rule",
    [
        ("SourceUri",),
        ("SourceUri", "ArtifactType"),
        ("SourceUri", "SourceTypes"),
        ("ArtifactName",),
    ],
    ids="-".join,
)
def test_whatever_makes_an_artifact_unique_each_content_gets_one(sim, tmp_path, rule):
    """AWS does not document which members tell artifacts apart: any rule leads to the same."""
    sim.lineage.unique = (rule,)
    remote = aws(sim.endpoint_url)
    links = [
        uploaded(remote, tmp_path, name, content)
        for name, content in (("a", b"1"), ("a", b"2"), ("b", b"1"))
    ]
    for link in [*links, *links]:
        remote.link(link)
    assert len(sim.lineage.artifacts) == 3
    assert {edge[::2] for edge in sim.lineage.edges()} == {(e.component, e.uri) for e in links}
    assert all(remote.linked(link)[:2] == (True, True) for link in links)


def test_an_artifact_of_somebody_else_at_the_uri_is_associated(sim, tmp_path):
    """ListArtifacts resolves the refusal, that it exists already, to the ARN."""
    remote = aws(sim.endpoint_url)
    link = uploaded(remote, tmp_path, "run")
    aws(sim.endpoint_url).link(replace(link, name="theirs", artifact_type="Model"))
    sim.lineage.associations.clear()
    remote.link(link)
    assert (only_artifact(sim).name, len(sim.lineage.associations)) == ("theirs", 1)


def test_an_object_that_may_not_be_read_is_linked_without_its_etag(sim, tmp_path):
    """As in the original: reading is a permission of its own."""
    remote = aws(sim.endpoint_url)
    link = uploaded(remote, tmp_path, "run")
    sim.fail("HeadObject", HttpError(403, "403"))
    remote.link(link)
    assert only_artifact(sim).source_types == []


@pytest.mark.parametrize("operation", ["CreateArtifact", "AddAssociation"])
def test_a_lost_answer_is_made_good_by_another_attempt(sim, tmp_path, operation):
    """The artifact and the association are there once."""
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    link = uploaded(remote, tmp_path, "run")
    sim.fail(operation, CutAfter())
    remote.link(link)
    assert len(sim.lineage.artifacts) == len(sim.lineage.associations) == 1
    assert remote.attempts_of_last_call() == 2


def test_an_artifact_that_is_deleted_meanwhile_is_made_again(sim, tmp_path):
    """AddAssociation says that something is missing; another attempt looks again."""
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    link = uploaded(remote, tmp_path, "run")

    def delete(call):
        if call.operation == "AddAssociation":
            sim.lineage.artifacts.clear()
            sim.on_request = None

    sim.on_request = delete
    remote.link(link)
    assert remote.linked(link)[:2] == (True, True)


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (HttpError(500, "InternalFailure"), FEW_ATTEMPTS_MAX),
        (HttpError(400, "ThrottlingException"), 8),
        (HttpError(400, "AccessDeniedException"), 1),
    ],
    ids=["broken", "throttled", "denied"],
)
def test_nothing_waits_long_for_a_service_that_does_not_answer(sim, tmp_path, fault, attempts):
    """Three attempts, unless the service asks to slow down: then as many as for anything else."""
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    link = uploaded(remote, tmp_path, "run")
    sim.fail("CreateArtifact", fault, times=attempts)
    with pytest.raises(RemoteError):
        remote.link(link)
    assert len(sim.calls("CreateArtifact")) == attempts
