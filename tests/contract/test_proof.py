"""Delivered means there: only an answer that proves itself counts, whatever else says 200."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.replay.remote import Answer, BlobUpload, Document
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import KEYS, REGION, aws
from tests.contract.scripted import REQUEST_ID, reply, scripted
from tests.simulator import HttpError, Instead, PartialErrors, Simulator, simulator

AT_NS = 1_700_000_000_123_456_789
POINTS = [MetricPoint("loss", 0.5, 1, AT_NS), MetricPoint("loss", 0.4, 2, AT_NS)]
LARGE_BYTES = 17 * 1024 * 1024
BUCKET = "proof-bucket"
XHTML = (
    b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>Sign in</body></html>'
)
IMPOSTORS = {
    "html": Instead(200, b"<html><body>Sign in</body></html>", {"Content-Type": "text/html"}),
    "json": Instead(200, b'{"status": "ok"}', {"Content-Type": "application/json"}),
    "an empty object": Instead(200, b"{}", {"Content-Type": "application/x-amz-json-1.1"}),
    "an array": Instead(200, b"[]", {"Content-Type": "application/json"}),
    "xml": Instead(200, b"<ok/>", {"Content-Type": "application/xml"}),
    "xhtml": Instead(200, XHTML, {"Content-Type": "application/xhtml+xml"}),
    "no content type": Instead(200, b"ok"),
    "an empty body": Instead(200, b""),
    "204": Instead(204),
    "201": Instead(201, b"{}", {"Content-Type": "application/json"}),
    "an ETag of its own": Instead(200, b"", {"ETag": '"0123456789abcdef0123456789abcdef"'}),
    "the page of a file": Instead(
        200, b"<p>", {"ETag": '"1-2"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    ),
}


@pytest.fixture(scope="module")
def spooled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BlobUpload]:
    """Gives a blob of a size, which is made once: a remote only reads it."""
    folder = tmp_path_factory.mktemp("spool")

    @functools.cache
    def spooled(size: int = 1000) -> BlobUpload:
        content = os.urandom(size)
        path = folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return BlobUpload(path, path.name, size, "run", "model.bin", bucket=BUCKET)

    return spooled


def document() -> Document:
    return Document(BUCKET, None, "journaltrack-anchors", "a.json", b"{}")


Call = Callable[[AwsRemote, Callable[..., BlobUpload]], object]
CALLS: dict[str, Call] = {
    "DescribeTrialComponent": lambda remote, _: remote.describe("run"),
    "CreateTrialComponent": lambda remote, _: remote.create(ComponentSpec("new", "o")),
    "UpdateTrialComponent": lambda remote, _: remote.update("run", Fields(parameters={"lr": 0.1})),
    "CreateExperiment": lambda remote, _: remote.associate("run", "e", "t"),
    "CreateTrial": lambda remote, _: remote.associate("run", "e", "t"),
    "AssociateTrialComponent": lambda remote, _: remote.associate("run", "e", "t"),
    "BatchPutMetrics": lambda remote, _: remote.put_metrics("run", POINTS),
    "HeadBucket": lambda remote, spooled: remote.upload(spooled()),
    "PutObject": lambda remote, spooled: remote.upload(spooled()),
    "HeadObject": lambda remote, spooled: remote.upload(spooled(LARGE_BYTES)),
    "CreateMultipartUpload": lambda remote, spooled: remote.upload(spooled(LARGE_BYTES)),
    "UploadPart": lambda remote, spooled: remote.upload(spooled(LARGE_BYTES)),
    "CompleteMultipartUpload": lambda remote, spooled: remote.upload(spooled(LARGE_BYTES)),
    "GetCallerIdentity": lambda remote, _: remote.put_document(
        Document(None, None, "f", "a.json", b"{}")
    ),
}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator() as running:
        running.add_component("run")
        running.buckets.add(BUCKET)
        yield running


def remote_of(sim: Simulator, **options: Any) -> AwsRemote:
    return aws(sim.endpoint_url, merges_per_key=True, **options)


@pytest.mark.parametrize("impostor", IMPOSTORS)
@pytest.mark.parametrize(
    ("operation", "hooked"),
    [*((operation, False) for operation in CALLS), ("BatchPutMetrics", True)],
)
def test_an_answer_that_proves_nothing_delivers_nothing(
    sim: Simulator, spooled: Callable[..., BlobUpload], operation: str, impostor: str, hooked: bool
):
    """Whatever says 200 in the service's place: not delivered, not refused, no entry's fault,
    and a hint at what it may be.
    """
    remote = remote_of(sim, hooked=hooked)
    if operation == "BatchPutMetrics":
        remote.put_metrics("run", POINTS)  # later ones are made without boto3
    sim.fail(operation, IMPOSTORS[impostor], times=1000)
    if operation == "HeadBucket":  # where a HEAD proves nothing, a GET is asked
        sim.fail("ListObjectsV2", IMPOSTORS[impostor], times=1000)
    with pytest.raises(RemoteError) as caught:
        CALLS[operation](remote, spooled)
    error = caught.value
    assert (error.kind, error.code, error.unreachable, error.maybe_applied) == (
        ErrorKind.TRANSIENT,
        "NotAnAnswer",
        True,
        True,
    )
    assert "captive portal" in error.hint
    assert "<" not in error.message


def test_a_proxy_that_replaces_answers_leaves_points_in_doubt_and_sends_none_twice(sim: Simulator):
    """The points are there although a page came back: they are reported in doubt, not sent
    again.
    """
    sim.fail(
        "BatchPutMetrics", Instead(200, b"<html>", {"Content-Type": "text/html"}, applied=True)
    )
    remote = RetryingRemote(remote_of(sim), deadline=Deadline(), sleep=lambda _: None)
    with pytest.raises(RemoteError) as caught:
        remote.put_metrics("run", POINTS)
    assert caught.value.maybe_applied
    assert len(sim.components["run"].metrics) == len(POINTS)


@pytest.mark.parametrize("size", [1000, LARGE_BYTES], ids=["small", "multipart"])
def test_uploads_converge_behind_a_proxy_that_replaces_answers(
    sim: Simulator, spooled: Callable[..., BlobUpload], size: int
):
    """What can be sent again is, until an answer proves itself; the object is there once, and
    whole.
    """
    for operation in ("HeadBucket", "PutObject", "UploadPart", "CompleteMultipartUpload"):
        sim.fail(operation, Instead(200, b"", {}, applied=True))
    remote = RetryingRemote(remote_of(sim), deadline=Deadline(), sleep=lambda _: None)
    blob = spooled(size)
    answer = remote.upload(blob)
    assert answer.uri == f"s3://{BUCKET}/trial-component-artifacts/run/model.bin"
    assert [stored.body for stored in sim.artifacts.values()] == [blob.path.read_bytes()]


@pytest.mark.parametrize(
    ("headers", "body", "counts"),
    [
        ((f"x-amz-request-id: {REQUEST_ID}", 'ETag: "{md5}"'), b"", True),
        (('ETag: "{md5}"',), b"", True),  # a store without request ids that knows the bytes
        (
            (f"x-amz-request-id: {REQUEST_ID}", 'ETag: "{md5}"', "x-amz-checksum-sha256: {sha}"),
            b"",
            True,
        ),
        (
            (f"x-amz-request-id: {REQUEST_ID}", 'ETag: "of-kms"', "x-amz-checksum-sha256: {sha}"),
            b"",
            True,
        ),
        (
            (f"x-amz-request-id: {REQUEST_ID}", 'ETag: "{md5}"', "x-amz-checksum-sha256: AAAA"),
            b"",
            False,
        ),
        ((f"x-amz-request-id: {REQUEST_ID}",), b"", False),
        ((f"x-amz-request-id: {REQUEST_ID}", 'ETag: "{md5}"'), b"<html>", False),
        # what echoes the headers of a request knows nothing
        (("x-amz-checksum-sha256: {sha}", 'ETag: "x"'), b"", False),
        # and HEAD does not find it
        (
            (f"x-amz-request-id: {REQUEST_ID}", 'ETag: "ffffffffffffffffffffffffffffffff"'),
            b"",
            False,
        ),
    ],
)
def test_what_a_store_tells_of_the_bytes_has_to_be_true(
    headers: tuple[str, ...], body: bytes, counts: bool
):
    """ETag, checksum and emptiness of PutObject's answer: of the bytes that were sent, as far as
    they are told.
    """
    content = b"{}"
    told = {
        "md5": hashlib.md5(content).hexdigest(),
        "sha": base64.b64encode(hashlib.sha256(content).digest()).decode(),
    }
    lines = [line.format(**told) for line in headers]
    there = reply(b"", "200 OK", f"x-amz-request-id: {REQUEST_ID}", request_id=None)
    gone = reply(b"", "404 Not Found", f"x-amz-request-id: {REQUEST_ID}", request_id=None)
    with scripted(there, reply(body, "200 OK", *lines, request_id=None), gone) as server:
        remote = aws(server.url)
        if counts:
            assert remote.put_document(document()).uri
        else:
            with pytest.raises(RemoteError) as caught:
                remote.put_document(document())
            assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "NotAnAnswer")


def test_a_refusal_without_a_request_id_quarantines_nothing():
    """A proxy's JSON that looks like a refusal for good is nobody's refusal."""
    answer = reply(
        b'{"__type": "ValidationException", "message": "no"}', "400 Bad Request", request_id=None
    )
    with scripted(reply(), answer) as server:
        remote = aws(server.url)
        remote.put_metrics("run", POINTS)
        with pytest.raises(RemoteError) as caught:
            remote.put_metrics("run", POINTS)
    assert (caught.value.kind, caught.value.code, caught.value.maybe_applied) == (
        ErrorKind.TRANSIENT,
        "NotAnAnswer",
        False,
    )


def test_an_object_is_missing_only_if_the_store_says_so(sim: Simulator):
    """A filter's 404 page is not the store's word that an object is gone."""
    page = Instead(404, b"<html>not found</html>", {"Content-Type": "text/html"})
    sim.fail("HeadObject", page, times=10)
    sim.fail("GetObject", page, times=10)
    with pytest.raises(RemoteError):
        remote_of(sim).find_object(f"s3://{BUCKET}/key")
    sim.clear_faults()
    assert remote_of(sim).find_object(f"s3://{BUCKET}/key") is None


def test_answers_to_the_callers_own_client_have_to_prove_themselves_too(sim: Simulator):
    """A client that its owner hooked into is used as it is; what it is told is looked at."""
    client = boto3.client("sagemaker", region_name=REGION, endpoint_url=sim.endpoint_url, **KEYS)
    seen: list[object] = []
    client.meta.events.register("before-send", lambda **_: seen.append(1))
    remote = AwsRemote(sagemaker_client=client)
    assert remote.create(ComponentSpec("new", "o")).arn
    sim.fail("CreateTrialComponent", IMPOSTORS["json"])
    with pytest.raises(RemoteError, match="not the service's answer"):
        remote.create(ComponentSpec("newer", "o"))
    assert len(seen) == 2


# -- what failed on the service's side may have had an effect


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalFailure"),
        (500, "InternalServerException"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
        (503, "ServiceUnavailableException"),
        (500, "InternalError"),
        (400, "RequestTimeout"),
        (500, "SomethingNew"),
        (504, "504"),
    ],
)
@pytest.mark.parametrize("earlier", [0, 1], ids=["boto3", "direct"])
def test_a_failure_after_the_request_was_applied_doubles_no_point(
    sim: Simulator, status: int, code: str, earlier: int
):
    """Only a refusal that is known to have had no effect is followed by another attempt; all
    else is in doubt.
    """
    remote = RetryingRemote(remote_of(sim), deadline=Deadline(), sleep=lambda _: None)
    for _ in range(earlier):
        remote.put_metrics("run", POINTS)
    sim.fail("BatchPutMetrics", HttpError(status, code, applied=True))
    with pytest.raises(RemoteError) as caught:
        remote.put_metrics("run", POINTS)
    assert (caught.value.kind, caught.value.maybe_applied) == (ErrorKind.TRANSIENT, True)
    assert len(sim.components["run"].metrics) == len(POINTS) * (earlier + 1)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ThrottlingException"),
        (503, "SlowDown"),
        (503, "ThrottlingException"),
        (429, "TooManyRequestsException"),
        (400, "ConflictException"),
    ],
)
def test_a_refusal_that_had_no_effect_is_followed_by_another_attempt(
    sim: Simulator, status: int, code: str
):
    """That is a property of the code, not of the status."""
    sim.fail("BatchPutMetrics", HttpError(status, code))
    remote = RetryingRemote(remote_of(sim), deadline=Deadline(), sleep=lambda _: None)
    assert remote.put_metrics("run", POINTS).refused == {}
    assert len(sim.components["run"].metrics) == len(POINTS)


def test_a_failure_is_followed_by_another_attempt_where_that_changes_nothing(
    sim: Simulator, spooled: Callable[..., BlobUpload]
):
    """Updates and uploads are sent again after a 5xx: they converge."""
    remote = RetryingRemote(remote_of(sim), deadline=Deadline(), sleep=lambda _: None)
    sim.fail("UpdateTrialComponent", HttpError(500, "InternalFailure", applied=True), times=2)
    sim.fail("PutObject", HttpError(503, "ServiceUnavailable", applied=True), times=2)
    remote.update("run", Fields(parameters={"lr": 0.1}))
    assert remote.upload(spooled()).uri
    assert len(sim.artifacts) == 1


def test_a_point_that_failed_inside_of_the_service_may_be_there(sim: Simulator):
    """INTERNAL_ERROR of an item, and codes that nobody knows, are no refusals."""
    codes = {
        0: "INTERNAL_ERROR",
        1: "CONFLICT_ERROR",
        2: "VALIDATION_ERROR",
        3: "SOMETHING_NEW",
        4: "THROTTLING",
    }
    sim.fail("BatchPutMetrics", PartialErrors(codes))
    answer: Answer = remote_of(sim).put_metrics(
        "run", [MetricPoint("m", 1.0, step, AT_NS) for step in range(6)]
    )
    assert {index for index, refusal in answer.refused.items() if refusal.maybe_applied} == {
        0,
        3,
        4,
    }
    assert {index for index, refusal in answer.refused.items() if refusal.permanent} == {2}
