"""The simulator is as strict as AWS where it matters, tried through real boto3."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import signal
import subprocess
import sys
import threading
import zlib
from base64 import b64encode
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from tests.simulator import (
    BadGateway,
    BlackHole,
    CutAfter,
    CutBefore,
    HttpError,
    PartialErrors,
    Simulator,
    simulator,
)
from tests.simulator.checksums import checksum
from tests.simulator.clients import client, refusal
from tests.simulator.constraints import java_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulator import Call

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """Give a running simulator."""
    with simulator() as running:
        yield running


def point(name: str = "loss", value: float = 0.5, **more: Any) -> dict[str, Any]:
    """Give one metric item."""
    return {"MetricName": name, "Timestamp": NOW, "Value": value, **more}


def test_created_component_reads_back(sim: Simulator) -> None:
    """Describe gives what create took, whatever the case of the name."""
    sagemaker = client(sim, "sagemaker")
    sagemaker.create_trial_component(
        TrialComponentName="Run-1",
        Status={"PrimaryStatus": "InProgress"},
        StartTime=NOW,
        Parameters={"lr": {"NumberValue": 0.1}, "opt": {"StringValue": "adam"}},
        InputArtifacts={"data": {"Value": "s3://b/k", "MediaType": "text/csv"}},
        MetadataProperties={"CommitId": "abc"},
    )
    found = sagemaker.describe_trial_component(TrialComponentName="run-1")
    assert found["TrialComponentName"] == found["DisplayName"] == "Run-1"
    assert found["TrialComponentArn"].endswith(":123456789012:experiment-trial-component/Run-1")
    assert found["Parameters"] == {"lr": {"NumberValue": 0.1}, "opt": {"StringValue": "adam"}}
    assert found["InputArtifacts"]["data"]["MediaType"] == "text/csv"
    assert found["StartTime"] == NOW
    assert found["MetadataProperties"] == {"CommitId": "abc"}
    assert [r.operation for r in sim.requests if r.applied] == [
        "CreateTrialComponent",
        "DescribeTrialComponent",
    ]


def test_names_are_taken_once(sim: Simulator) -> None:
    """A second create of a name, in another case, is refused and changes nothing."""
    sagemaker = client(sim, "sagemaker")
    sagemaker.create_trial_component(
        TrialComponentName="run", Parameters={"a": {"StringValue": "1"}}
    )
    sagemaker.create_experiment(ExperimentName="exp")
    sagemaker.create_trial(TrialName="trial", ExperimentName="exp")
    for call, arguments in (
        (sagemaker.create_trial_component, {"TrialComponentName": "RUN"}),
        (sagemaker.create_experiment, {"ExperimentName": "Exp"}),
        (sagemaker.create_trial, {"TrialName": "Trial", "ExperimentName": "exp"}),
    ):
        code, message = refusal(call, **arguments)
        assert code == "ValidationException"
        assert "already exists" in message
    assert sim.components["run"].parameters == {"a": {"StringValue": "1"}}


def test_update_merges_per_key(sim: Simulator) -> None:
    """An update replaces equal keys, adds new ones, removes only what it is told to."""
    sagemaker = client(sim, "sagemaker")
    sagemaker.create_trial_component(
        TrialComponentName="run",
        Parameters={"a": {"StringValue": "1"}, "b": {"StringValue": "2"}},
    )
    sagemaker.update_trial_component(
        TrialComponentName="run",
        Parameters={"b": {"NumberValue": 3}, "c": {"NumberValue": 4}},
        ParametersToRemove=["a", "never-there"],
    )
    assert sim.components["run"].parameters == {"b": {"NumberValue": 3}, "c": {"NumberValue": 4}}


@pytest.mark.parametrize(
    ("member", "most", "value"),
    [("Parameters", 300, {"StringValue": "x"}), ("OutputArtifacts", 60, {"Value": "s3://b/k"})],
)
def test_map_limits_count_the_merged_map(
    sim: Simulator, member: str, most: int, value: dict[str, str]
) -> None:
    """One key more than AWS keeps is refused, though the request alone would fit."""
    sagemaker = client(sim, "sagemaker")
    full = {f"k{number}": value for number in range(most)}
    sagemaker.create_trial_component(TrialComponentName="run", **{member: full})
    sagemaker.update_trial_component(TrialComponentName="run", **{member: {"k0": value}})
    arguments = {"TrialComponentName": "run", member: {"new": value}}
    assert refusal(sagemaker.update_trial_component, **arguments)[0] == "ValidationException"
    assert not sim.requests[-1].applied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"TrialComponentName": "run_1"}, "regular expression pattern"),
        ({"TrialComponentName": "r" * 121}, "length less than or equal to 120"),
        ({"Status": {"PrimaryStatus": "Running"}}, "enum value set: [InProgress, Completed"),
        ({"Status": {"PrimaryStatus": "Failed", "Message": "a\nb"}}, "regular expression"),
        ({"Parameters": {"k" * 321: {"StringValue": "x"}}}, "Map keys must satisfy"),
        ({"Parameters": {"k": {"StringValue": "x" * 2501}}}, "less than or equal to 2500"),
        ({"Parameters": {"k": {"StringValue": "x", "NumberValue": 1}}}, "exactly one of"),
        (
            {"InputArtifacts": {"k": {"Value": "s3://b/k", "MediaType": "text/plain; charset=x"}}},
            "'inputArtifacts.k.member.mediaType' failed to satisfy constraint",
        ),
        ({"Tags": [{"Key": "no!", "Value": ""}]}, "'tags.1.member.key'"),
    ],
)
def test_constraints_of_the_model_are_enforced(
    sim: Simulator, arguments: dict[str, Any], rule: str
) -> None:
    """What botocore lets through but AWS does not is refused with AWS's wording."""
    code, message = refusal(
        client(sim, "sagemaker").create_trial_component,
        **{"TrialComponentName": "run", **arguments},
    )
    assert code == "ValidationException"
    assert rule in message
    assert not sim.components


def test_patterns_follow_java() -> None:
    """Unicode categories are known, `.` stops at every line terminator, words are ASCII."""
    tag = java_pattern(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)")
    assert tag.fullmatch("größe 1/2 = ok")
    assert not tag.fullmatch("tab\t")
    assert not java_pattern(".*").fullmatch("a\u2028b")
    assert not java_pattern(r"[-\w]+\/[-\w+]+").fullmatch("text/é")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_json_does_not_know_are_refused(sim: Simulator, value: float) -> None:
    """NaN and infinities end in SerializationException and leave no point behind."""
    sim.add_component("run")
    metrics = client(sim, "sagemaker-metrics")
    arguments = {"TrialComponentName": "run", "MetricData": [point(value=value)]}
    assert refusal(metrics.batch_put_metrics, **arguments)[0] == "SerializationException"
    assert sim.components["run"].metrics == []


def test_missing_things_are_not_found(sim: Simulator) -> None:
    """What refers to something that is not there gets ResourceNotFound."""
    sagemaker, metrics = client(sim, "sagemaker"), client(sim, "sagemaker-metrics")
    for call, arguments in (
        (sagemaker.describe_trial_component, {"TrialComponentName": "no"}),
        (sagemaker.update_trial_component, {"TrialComponentName": "no"}),
        (sagemaker.create_trial, {"TrialName": "t", "ExperimentName": "no"}),
        (
            sagemaker.associate_trial_component,
            {"TrialComponentName": "no", "TrialName": "no"},
        ),
        (metrics.batch_put_metrics, {"TrialComponentName": "no", "MetricData": [point()]}),
    ):
        assert refusal(call, **arguments)[0] == "ResourceNotFound"


def test_association_is_idempotent_and_listed(sim: Simulator) -> None:
    """Associating twice counts once, and the component is listed under trial and experiment."""
    sagemaker = client(sim, "sagemaker")
    sagemaker.create_experiment(ExperimentName="exp")
    sagemaker.create_trial(TrialName="trial", ExperimentName="exp")
    sagemaker.create_trial_component(TrialComponentName="Run")
    sim.add_component("job", source_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/j")
    for _ in range(2):
        sagemaker.associate_trial_component(TrialComponentName="Run", TrialName="trial")
    assert sim.trials["trial"].components == ["run"]
    for wanted in ({"TrialName": "trial"}, {"ExperimentName": "exp"}):
        found = sagemaker.list_trial_components(**wanted)["TrialComponentSummaries"]
        assert [item["TrialComponentName"] for item in found] == ["Run"]
    source = sim.components["job"].source_arn
    found = sagemaker.list_trial_components(SourceArn=source)["TrialComponentSummaries"]
    assert [item["TrialComponentName"] for item in found] == ["job"]
    sagemaker.disassociate_trial_component(TrialComponentName="Run", TrialName="trial")
    assert sim.trials["trial"].components == []


def test_points_sent_twice_are_there_twice(sim: Simulator) -> None:
    """BatchPutMetrics appends: the summaries and the read-back count a repeated batch twice."""
    component = sim.add_component("Run")
    metrics = client(sim, "sagemaker-metrics")
    for _ in range(2):
        metrics.batch_put_metrics(
            TrialComponentName="run", MetricData=[point(Step=1), point(value=1.5, Step=2)]
        )
    found = client(sim, "sagemaker").describe_trial_component(TrialComponentName="run")
    (summary,) = found["Metrics"]
    assert (summary["Count"], summary["Min"], summary["Max"], summary["Last"]) == (4, 0.5, 1.5, 1.5)
    query = {
        "MetricName": "loss",
        "ResourceArn": component.arn,
        "MetricStat": "Count",
        "Period": "IterationNumber",
        "XAxisType": "IterationNumber",
    }
    (result,) = metrics.batch_get_metrics(MetricQueries=[query])["MetricQueryResults"]
    assert (result["XAxisValues"], result["MetricValues"]) == ([1, 2], [2.0, 2.0])


def test_partial_errors_apply_the_rest(sim: Simulator) -> None:
    """Items that fail are named with HTTP 200; every other item is there."""
    sim.add_component("run")
    sim.fail("BatchPutMetrics", PartialErrors({1: "CONFLICT_ERROR"}))
    answer = client(sim, "sagemaker-metrics").batch_put_metrics(
        TrialComponentName="run", MetricData=[point("a"), point("b"), point("c")]
    )
    assert answer["Errors"] == [{"Code": "CONFLICT_ERROR", "MetricIndex": 1}]
    assert [p.name for p in sim.components["run"].metrics] == ["a", "c"]


def test_metric_limits_can_be_set(sim: Simulator) -> None:
    """A quota of names and a window of timestamps fail single items, not the request."""
    sim.add_component("run")
    sim.metrics.names_max = 1
    metrics = client(sim, "sagemaker-metrics")
    answer = metrics.batch_put_metrics(
        TrialComponentName="run", MetricData=[point("a"), point("b")]
    )
    assert answer["Errors"] == [{"Code": "METRIC_LIMIT_EXCEEDED", "MetricIndex": 1}]
    sim.metrics.window_s = (60.0, 60.0)
    answer = metrics.batch_put_metrics(
        TrialComponentName="run",
        MetricData=[{**point("a"), "Timestamp": datetime(2001, 1, 1, tzinfo=timezone.utc)}],
    )
    assert answer["Errors"] == [{"Code": "VALIDATION_ERROR", "MetricIndex": 0}]


@pytest.mark.parametrize(("fault", "applied"), [(CutBefore(), False), (CutAfter(), True)])
def test_cut_connections(sim: Simulator, fault: CutBefore | CutAfter, *, applied: bool) -> None:
    """A cut looks the same to the client whether or not the request took effect."""
    sim.add_component("run")
    sim.fail("BatchPutMetrics", fault)
    with pytest.raises(ConnectionClosedError):
        client(sim, "sagemaker-metrics").batch_put_metrics(
            TrialComponentName="run", MetricData=[point()]
        )
    assert len(sim.components["run"].metrics) == applied
    assert (sim.requests[-1].status, sim.requests[-1].applied) == (0, applied)


def test_scheduled_errors_come_when_planned(sim: Simulator) -> None:
    """`after`, `times` and `when` choose the calls; the others pass."""
    sim.fail(
        "DescribeTrialComponent",
        HttpError(400, "ThrottlingException", "Rate exceeded"),
        times=2,
        after=1,
        when=lambda call: call.params["TrialComponentName"] == "run",
    )
    sim.add_component("run")
    sim.add_component("other")
    describe = client(sim, "sagemaker").describe_trial_component
    describe(TrialComponentName="run")
    describe(TrialComponentName="other")
    for _ in range(2):
        assert refusal(describe, TrialComponentName="run")[0] == "ThrottlingException"
    describe(TrialComponentName="run")
    assert [request.status for request in sim.requests] == [200, 200, 400, 400, 200]


def test_bad_gateway_is_html(sim: Simulator) -> None:
    """A proxy's 502 reaches the client as an error with nothing but the status."""
    sim.fail("*", BadGateway())
    with pytest.raises(ClientError) as caught:
        client(sim, "sagemaker").describe_experiment(ExperimentName="exp")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 502


def test_black_hole_never_answers(sim: Simulator) -> None:
    """A black hole ends in the client's own time-out and nothing is applied."""
    sim.fail("CreateExperiment", BlackHole())
    with pytest.raises(ReadTimeoutError):
        client(sim, "sagemaker", read_timeout=0.05).create_experiment(ExperimentName="exp")
    assert not sim.experiments
    sim.release()


def test_waiting_for_a_request_that_gets_no_answer(sim: Simulator) -> None:
    """A test can wait for a request to arrive, and let its client go, without sleeping."""
    sim.fail("CreateExperiment", BlackHole(applied=True))
    errors: list[Exception] = []

    def create() -> None:
        try:
            client(sim, "sagemaker").create_experiment(ExperimentName="exp")
        except ConnectionClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=create)
    thread.start()
    assert sim.wait_until(lambda s: len(s.requests) == 1)
    assert "exp" in sim.experiments
    sim.release()
    thread.join()
    assert len(errors) == 1


def test_rate_limit_follows_the_clock() -> None:
    """Beyond the rate requests are throttled until the clock has moved on."""
    time_s = [0.0]
    with simulator(max_rate=1.0, clock=lambda: time_s[0]) as sim:
        create = client(sim, "sagemaker").create_experiment
        create(ExperimentName="one")
        assert refusal(create, ExperimentName="two")[0] == "ThrottlingException"
        time_s[0] = 1.0
        create(ExperimentName="two")


@pytest.mark.parametrize(
    ("service", "code"), [("sagemaker", "ExpiredTokenException"), ("s3", "ExpiredToken")]
)
def test_expired_keys(sim: Simulator, service: str, code: str) -> None:
    """A key can expire at run time; each service has its own code for it."""
    calls = {
        "sagemaker": lambda c: c.create_experiment(ExperimentName="exp"),
        "s3": lambda c: c.create_bucket(Bucket="bucket"),
    }
    sim.expired.add("AKIDOLD")
    with pytest.raises(ClientError) as caught:
        calls[service](client(sim, service, key="AKIDOLD"))
    assert caught.value.response["Error"]["Code"] == code
    calls[service](client(sim, service, key="AKIDNEW"))
    assert [request.access_key for request in sim.requests] == ["AKIDOLD", "AKIDNEW"]


def test_unknown_and_denied_keys() -> None:
    """Unknown keys, denied keys and foreign regions are told apart."""
    with simulator(known_keys={"AKIDTEST", "AKIDPOOR"}, check_region=True) as sim:
        sim.denied.add("AKIDPOOR")
        for options, code in (
            ({"key": "AKIDNONE"}, "UnrecognizedClientException"),
            ({"key": "AKIDPOOR"}, "AccessDeniedException"),
            ({"region": "eu-west-1"}, "InvalidSignatureException"),
        ):
            create = client(sim, "sagemaker", **options).create_experiment
            assert refusal(create, ExperimentName="exp")[0] == code
        identity = client(sim, "sts").get_caller_identity()
        assert identity["Account"] == "123456789012"


def test_multipart_upload_file(sim: Simulator, tmp_path: Path) -> None:
    """`upload_file` of 17 MiB arrives whole in three parts and reads back."""
    data = hashlib.sha256(b"seed").digest() * (17 * MIB // 32)
    (tmp_path / "up").write_bytes(data)
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    extra = {"Metadata": {"run": "one"}, "ChecksumAlgorithm": "SHA256"}
    s3.upload_file(str(tmp_path / "up"), "bucket", "a/b ü.bin", ExtraArgs=extra)
    s3.download_file("bucket", "a/b ü.bin", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == data
    stored = sim.objects["bucket", "a/b ü.bin"]
    assert stored.metadata == {"run": "one"}
    assert stored.checksums["sha256"].endswith("-3")
    assert not sim.uploads
    (listed,) = s3.list_objects_v2(Bucket="bucket", Prefix="a/")["Contents"]
    assert (listed["Key"], listed["Size"]) == ("a/b ü.bin", len(data))


def test_parts_are_checked(sim: Simulator) -> None:
    """Unknown parts and small ones before the last are refused, and an abort forgets them."""
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    place = {"Bucket": "bucket", "Key": "k"}
    place["UploadId"] = s3.create_multipart_upload(**place)["UploadId"]
    parts = [
        {"PartNumber": n, "ETag": s3.upload_part(**place, PartNumber=n, Body=b"x")["ETag"]}
        for n in (1, 2)
    ]
    complete = s3.complete_multipart_upload
    assert refusal(complete, **place, MultipartUpload={"Parts": parts})[0] == "EntityTooSmall"
    unknown = [{"PartNumber": 3, "ETag": parts[0]["ETag"]}]
    assert refusal(complete, **place, MultipartUpload={"Parts": unknown})[0] == "InvalidPart"
    assert len(s3.list_multipart_uploads(Bucket="bucket")["Uploads"]) == 1
    s3.abort_multipart_upload(**place)
    assert not sim.uploads


def test_wrong_digest_is_refused(sim: Simulator) -> None:
    """A body that does not fit its checksum is not stored."""
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    wrong = b64encode(hashlib.sha256(b"other").digest()).decode()
    put = {"Bucket": "bucket", "Key": "k", "Body": b"data"}
    assert refusal(s3.put_object, **put, ChecksumSHA256=wrong)[0] == "BadDigest"
    assert not sim.objects
    s3.put_object(**put, ChecksumSHA256=b64encode(hashlib.sha256(b"data").digest()).decode())
    assert sim.objects["bucket", "k"].body == b"data"


def test_conditional_put(sim: Simulator) -> None:
    """If-None-Match lets the first put win."""
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    put = {"Bucket": "bucket", "Key": "k", "IfNoneMatch": "*"}
    s3.put_object(**put, Body=b"first")
    assert refusal(s3.put_object, **put, Body=b"second")[0] == "PreconditionFailed"
    assert sim.objects["bucket", "k"].body == b"first"


@pytest.mark.parametrize(
    ("operation", "more", "code"),
    [
        ("put_object", {"ServerSideEncryption": "rot13"}, "InvalidEncryptionAlgorithmError"),
        ("put_object", {"SSEKMSKeyId": "k"}, "InvalidArgument"),
        ("put_object", {"ServerSideEncryption": "AES256", "SSEKMSKeyId": "k"}, "InvalidArgument"),
        ("put_object", {"RequestPayer": "owner"}, "InvalidArgument"),
        ("put_object", {"ExpectedBucketOwner": "999999999999"}, "AccessDenied"),
        ("put_object", {"ExpectedBucketOwner": "me"}, "InvalidBucketOwnerAWSAccountID"),
        ("get_object", {"ExpectedBucketOwner": "999999999999"}, "AccessDenied"),
    ],
)
def test_settings_of_buckets_are_checked(
    sim: Simulator, operation: str, more: dict[str, str], code: str
) -> None:
    """Encryption, payer and owner are refused as S3 refuses them, and nothing is stored."""
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    assert refusal(getattr(s3, operation), Bucket="bucket", Key="k", **more)[0] == code
    assert not sim.objects


def test_encryption_by_kms_hides_the_md5(sim: Simulator) -> None:
    """The ETag of what a key of KMS encrypts is not the MD5 of what was sent; answers name the
    key.
    """
    s3 = client(sim, "s3")
    s3.create_bucket(Bucket="bucket")
    of_kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}
    for more, plain in (({}, True), ({"ServerSideEncryption": "AES256"}, True), (of_kms, False)):
        answer = s3.put_object(Bucket="bucket", Key="k", Body=b"data", **more)
        held = s3.head_object(Bucket="bucket", Key="k")
        assert (answer["ETag"] == f'"{hashlib.md5(b"data").hexdigest()}"') is plain
        for told in (answer, held):
            assert {name: told[name] for name in of_kms if name in told} == more


def test_missing_bucket_and_object(sim: Simulator) -> None:
    """HEAD answers 404 without a body, a put into nowhere NoSuchBucket, a foreign bucket 403."""
    s3 = client(sim, "s3")
    sim.state.foreign_buckets.add("theirs")
    assert refusal(s3.head_bucket, Bucket="bucket")[0] == "404"
    assert refusal(s3.head_bucket, Bucket="theirs")[0] == "403"
    assert refusal(s3.create_bucket, Bucket="theirs")[0] == "BucketAlreadyExists"
    assert refusal(s3.put_object, Bucket="bucket", Key="k", Body=b"")[0] == "NoSuchBucket"
    s3.create_bucket(Bucket="bucket")
    assert refusal(s3.head_object, Bucket="bucket", Key="k")[0] == "404"


@pytest.mark.parametrize("fits", [True, False])
def test_trailing_checksum(sim: Simulator, *, fits: bool) -> None:
    """A checksum in the trailer of an aws-chunked body, as botocore sends over TLS, is verified."""
    sim.buckets.add("bucket")
    data = b"hello"
    crc = b64encode(zlib.crc32(data if fits else b"other").to_bytes(4, "big"))
    body = b"5\r\n" + data + b"\r\n0\r\nx-amz-checksum-crc32:" + crc + b"\r\n\r\n"
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=A/20261123/us-east-1/s3/aws4_request, x",
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": "5",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    }
    connection = http.client.HTTPConnection(sim.endpoint_url.removeprefix("http://"))
    connection.request("PUT", "/bucket/k", iter([body]), headers, encode_chunked=True)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == (200 if fits else 400)
    assert fits == (b"BadDigest" not in text) == (("bucket", "k") in sim.objects)


def test_crc_check_values() -> None:
    """The hand-made CRCs give the published check values."""
    for algorithm, value in (("crc32c", 0xE3069283), ("crc64nvme", 0xAE8B14860A799888)):
        size = 4 if algorithm == "crc32c" else 8
        expected = b64encode(value.to_bytes(size, "big")).decode()
        assert checksum(algorithm, b"123456789") == expected


def test_hook_acts_before_the_request_applies(sim: Simulator) -> None:
    """A hook may change the account in the middle of a pass."""

    def vanish(call: Call) -> None:
        if call.operation == "UpdateTrialComponent":
            del sim.components["run"]

    sim.add_component("run")
    sim.on_request = vanish
    update = client(sim, "sagemaker").update_trial_component
    assert refusal(update, TrialComponentName="run")[0] == "ResourceNotFound"


def test_outage_keeps_state_and_port(sim: Simulator) -> None:
    """Stopped, it refuses connections; started again, it is where and what it was."""
    sagemaker = client(sim, "sagemaker")
    sagemaker.create_experiment(ExperimentName="exp")
    sim.stop()
    with pytest.raises(EndpointConnectionError):
        sagemaker.describe_experiment(ExperimentName="exp")
    sim.start()
    assert sagemaker.describe_experiment(ExperimentName="exp")["ExperimentName"] == "exp"


@pytest.mark.slow
def test_child_process_serves_and_keeps_state(tmp_path: Path) -> None:
    """As a process of its own it takes faults over HTTP, and its state survives a restart."""
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "tests.simulator", "--state", str(state)]
    for expected in (0, 2):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["endpoint_url"]
            assert len(control(url, "GET", "state")["components"]) == expected
            use(url, create=not expected)
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0


def control(url: str, method: str, name: str, **data: Any) -> dict[str, Any]:
    """Talk to the simulator's own paths."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request(method, f"/_simulator/{name}", json.dumps(data))
    found: dict[str, Any] = json.load(connection.getresponse())
    connection.close()
    return found


def use(url: str, *, create: bool) -> None:
    """Meet a fault in a child process, then write an account, or read what an earlier one wrote."""
    fault = {"type": "HttpError", "status": 500, "code": "InternalServerError"}
    control(url, "POST", "fail", operation="CreateExperiment", fault=fault)
    remote = Simulator(port=int(url.rpartition(":")[2]))
    sagemaker, s3 = client(remote, "sagemaker"), client(remote, "s3")
    assert refusal(sagemaker.create_experiment, ExperimentName="e")[0] == "InternalServerError"
    if create:
        for name in ("one", "two"):
            sagemaker.create_trial_component(TrialComponentName=name)
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="k", Body=b"\x00\xff")
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"\x00\xff"
