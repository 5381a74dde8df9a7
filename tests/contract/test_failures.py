"""Every failure that boto3 can meet over HTTP, and what it must mean for the data."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.remotes.aws.access import Model, Wanted
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.replay.plan.actions import ComponentSpec, Fields, MetricPoint
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import KEYS, REGION, aws, free_ports
from tests.simulator import (
    BadGateway,
    BlackHole,
    CutAfter,
    CutBefore,
    Fault,
    HttpError,
    PartialErrors,
    Simulator,
    simulator,
)

AT_NS = 1_700_000_000_123_456_789
POINTS = [MetricPoint("loss", 0.5, 1, AT_NS), MetricPoint("loss", 0.4, 2, AT_NS)]
FIELDS = Fields(parameters={"lr": 0.1})


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator() as running:
        running.add_component("run")
        yield running


def failure(remote: AwsRemote | RetryingRemote) -> RemoteError:
    """What sending metrics fails with."""
    with pytest.raises(RemoteError) as caught:
        remote.put_metrics("run", POINTS)
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind", "maybe_applied"),
    [
        (HttpError(400, "ThrottlingException"), ErrorKind.TRANSIENT, False),
        (HttpError(400, "RequestLimitExceeded"), ErrorKind.TRANSIENT, False),
        (HttpError(429, "TooManyRequestsException"), ErrorKind.TRANSIENT, False),
        (HttpError(500, "InternalFailure"), ErrorKind.TRANSIENT, True),
        (HttpError(503, "ServiceUnavailable"), ErrorKind.TRANSIENT, True),
        (HttpError(400, "ConflictException"), ErrorKind.TRANSIENT, False),
        (
            HttpError(400, "ValidationException", "1 validation error detected"),
            ErrorKind.PERMANENT,
            False,
        ),
        (HttpError(400, "ResourceLimitExceeded"), ErrorKind.HOLD, False),
        (HttpError(400, "ExpiredTokenException"), ErrorKind.HALT, False),
        (HttpError(400, "UnrecognizedClientException"), ErrorKind.HALT, False),
        (HttpError(400, "InvalidSignatureException"), ErrorKind.HALT, False),
        (HttpError(400, "AccessDeniedException"), ErrorKind.HALT, False),
        (HttpError(403, "OptInRequired"), ErrorKind.HALT, False),
        (HttpError(400, "RequestExpired"), ErrorKind.HALT, False),
        (BadGateway(), ErrorKind.TRANSIENT, True),
        (CutBefore(), ErrorKind.TRANSIENT, True),
        (CutAfter(), ErrorKind.TRANSIENT, True),
    ],
    ids=lambda value: getattr(value, "code", None) or type(value).__name__,
)
@pytest.mark.parametrize("earlier", [0, 1], ids=["boto3", "direct"])
def test_each_failure_means_what_it_should(
    sim: Simulator, fault: Fault, kind: ErrorKind, maybe_applied: bool, earlier: int
):
    """A failure is classified, sent once, and told with a hint that a person can act on; of the
    first request, which boto3 makes, and of a later one, which it does not.
    """
    remote = aws(sim.endpoint_url)
    for _ in range(earlier):
        remote.put_metrics("run", POINTS)
    assert (remote._metrics._route is not None) is bool(earlier)
    sim.fail("BatchPutMetrics", fault)
    error = failure(remote)
    assert (error.kind, error.maybe_applied) == (kind, maybe_applied)
    assert not error.unreachable
    assert len(sim.calls("BatchPutMetrics")) == earlier + 1
    if kind in {ErrorKind.HALT, ErrorKind.HOLD}:
        assert error.hint
    if isinstance(fault, HttpError):
        assert error.code == fault.code
        assert error.request_id == sim.requests[-1].request_id
    for secret in KEYS.values():
        assert secret not in f"{error!r}{error}{error.hint}"


def test_a_page_in_place_of_aws_is_told_in_words(sim: Simulator):
    """A gateway's HTML does not end up in the journal."""
    sim.fail("UpdateTrialComponent", BadGateway())
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url, merges_per_key=True).update("run", FIELDS)
    assert "<" not in caught.value.message


def test_silence_is_unreachable_and_perhaps_applied(sim: Simulator):
    """No answer within the time-out: the request may have taken effect, and the remote counts as
    unreachable.
    """
    sim.fail("BatchPutMetrics", BlackHole(applied=True))
    error = failure(aws(sim.endpoint_url, read_timeout_s=0.3))
    assert (error.kind, error.unreachable, error.maybe_applied) == (ErrorKind.TRANSIENT, True, True)
    assert sim.wait_until(lambda sim: len(sim.components["run"].metrics) == 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "nonexistent.invalid"], ids=["refused", "dns"])
def test_where_nobody_listens_nothing_was_sent(host: str):
    """A refused connection and an unknown host are unreachable, and certainly had no effect."""
    error = failure(aws(f"http://{host}:{free_ports(1)[0]}"))
    assert (error.kind, error.unreachable, error.maybe_applied) == (
        ErrorKind.TRANSIENT,
        True,
        False,
    )
    assert error.hint


def test_an_unreachable_endpoint_is_noticed_soon():
    """Retries of an unreachable endpoint are few: the caller knows in a second or two."""
    remote = RetryingRemote(aws(f"http://127.0.0.1:{free_ports(1)[0]}"), deadline=Deadline(10))
    assert failure(remote).unreachable
    assert remote.attempts_of_last_call() == 3


def test_without_credentials_the_pass_halts():
    """No credentials at all: a hint, no quarantine."""
    error = failure(AwsRemote(region=REGION, endpoint_url="http://127.0.0.1:9"))
    assert (error.kind, error.code) == (ErrorKind.HALT, "NoCredentialsError")
    assert "aws configure" in error.hint


def test_without_a_region_the_pass_halts():
    """No region anywhere: a hint, no quarantine."""
    error = failure(AwsRemote(session=boto3.Session(**KEYS)))
    assert (error.kind, error.code) == (ErrorKind.HALT, "NoRegionError")
    assert "--region" in error.hint


@pytest.mark.parametrize(
    "request_of",
    [
        lambda remote: remote.describe("run"),
        lambda remote: remote.create(ComponentSpec("run", "owner")),
        lambda remote: remote.associate("run", "experiment", "trial"),
        lambda remote: remote.associate("run", None, "trial"),
        lambda remote: remote.update("run", FIELDS),
        lambda remote: remote.read_metrics("run", {"loss": (1, 2)}),
        lambda remote: remote.documents("bucket", None, "folder"),
        lambda remote: remote.find_object("s3://bucket/key"),
    ],
    ids=[
        "describe",
        "create",
        "associate",
        "associate-trial",
        "update",
        "read_metrics",
        "documents",
        "find_object",
    ],
)
def test_every_request_classifies_what_making_its_client_raises(request_of):
    """No exception of botocore's gets out of the remote, whichever request is the first to need
    a client.
    """
    with pytest.raises(RemoteError) as caught:
        request_of(AwsRemote(session=boto3.Session(**KEYS)))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.HALT, "NoRegionError")


def test_an_unknown_profile_halts():
    """A profile that does not exist: a hint, no quarantine."""
    error = failure(AwsRemote(profile="nobody", region=REGION))
    assert (error.kind, error.code) == (ErrorKind.HALT, "ProfileNotFound")


def test_a_bad_endpoint_halts():
    """An endpoint that is no URL is nobody's entry's fault."""
    assert failure(aws("not a url")).kind is ErrorKind.HALT


def test_a_wrong_region_halts():
    """Credentials scoped to another region than the endpoint's halt the pass."""
    with simulator(region="eu-west-1", check_region=True) as sim:
        error = failure(aws(sim.endpoint_url))
        assert error.kind is ErrorKind.HALT
        assert "region" in error.hint


def test_the_restriction_to_jobs_is_held(sim: Simulator):
    """An account that lets only jobs create components holds the component and says how to go
    on.
    """
    sim.fail(
        "CreateTrialComponent",
        HttpError(
            400, "ValidationException", "Creation is currently restricted to the SageMaker runtime"
        ),
    )
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).create(ComponentSpec("new", "o"))
    assert caught.value.kind is ErrorKind.HOLD
    assert "load" in caught.value.hint


def test_an_update_is_tried_again_until_it_is_taken(sim: Simulator):
    """Passing refusals, cuts and gateways cost time, not data."""
    for fault in (HttpError(400, "ThrottlingException"), CutAfter(), BadGateway()):
        sim.fail("UpdateTrialComponent", fault)
    remote = RetryingRemote(
        aws(sim.endpoint_url, merges_per_key=True), deadline=Deadline(), sleep=lambda _: None
    )
    assert remote.update("run", FIELDS).request_id
    assert remote.attempts_of_last_call() == 4
    assert sim.components["run"].parameters == {"lr": {"NumberValue": 0.1}}


def test_metrics_with_a_lost_answer_are_not_sent_again(sim: Simulator):
    """At most one application: a lost answer goes up at once."""
    sim.fail("BatchPutMetrics", CutAfter())
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert failure(remote).maybe_applied
    assert remote.attempts_of_last_call() == 1
    assert len(sim.components["run"].metrics) == 2


def test_throttled_metrics_are_sent_again(sim: Simulator):
    """A refusal certainly had no effect: tried again, and applied once."""
    sim.fail("BatchPutMetrics", HttpError(400, "ThrottlingException"), times=2)
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert not remote.put_metrics("run", POINTS).refused
    assert len(sim.components["run"].metrics) == 2


def test_partial_refusals_name_their_points(sim: Simulator):
    """What is refused for good is told from what may be sent again."""
    codes = {
        0: "METRIC_LIMIT_EXCEEDED",
        1: "VALIDATION_ERROR",
        2: "INTERNAL_ERROR",
        3: "CONFLICT_ERROR",
        4: "SOMETHING_NEW",
    }
    sim.fail("BatchPutMetrics", PartialErrors(codes))
    answer = aws(sim.endpoint_url).put_metrics(
        "run", [MetricPoint("m", 1.0, i, AT_NS) for i in range(6)]
    )
    assert {i: r.code for i, r in answer.refused.items()} == codes
    assert {i for i, r in answer.refused.items() if r.permanent} == {0, 1}


@pytest.mark.parametrize("index", [None, 7, -1])
def test_a_refusal_that_names_no_point_is_in_doubt(sim: Simulator, index: int | None):
    """Which points were taken is not known: neither sent again nor counted as delivered."""
    remote = aws(sim.endpoint_url)
    error: dict[str, Any] = {
        "Code": "INTERNAL_ERROR",
        **({} if index is None else {"MetricIndex": index}),
    }
    with Stubber(remote._clients.metrics) as stub:
        stub.add_response(
            "batch_put_metrics", {"Errors": [error], "ResponseMetadata": {"RequestId": "r"}}
        )
        raised = failure(remote)
    assert (raised.maybe_applied, raised.request_id) == (True, "r")


def test_timestamps_keep_their_microseconds(sim: Simulator):
    """What goes over the wire has the microseconds of the journal's nanoseconds."""
    aws(sim.endpoint_url).put_metrics("run", POINTS[:1])
    (sent,) = sim.calls("BatchPutMetrics")
    assert sent.params["MetricData"][0]["Timestamp"] == 1_700_000_000.123456


def test_metrics_go_to_the_lower_case_name(sim: Simulator):
    """BatchPutMetrics takes lower case only, names are otherwise not case-sensitive."""
    assert not aws(sim.endpoint_url).put_metrics("RUN", POINTS).refused
    assert len(sim.components["run"].metrics) == 2


def test_associating_a_missing_component_is_held(sim: Simulator):
    """That the component is gone is told from a missing trial."""
    with pytest.raises(ComponentMissingError):
        aws(sim.endpoint_url).associate("gone", "experiment", None)


def test_the_default_trial_is_the_sdk_s(sim: Simulator):
    """An experiment alone: its default trial, with a legal name of at most 120 characters, made
    once per remote.
    """
    remote = aws(sim.endpoint_url)
    experiment = "e" * 100 + "-" * 10 + "e" * 10
    remote.associate("run", experiment, None)
    remote.associate("run", experiment, None)
    (trial,) = sim.trials
    assert trial == "Default-Run-Group-" + "e" * 100
    assert len(sim.calls("CreateTrial")) == len(sim.calls("CreateExperiment")) == 1


@contextmanager
def web_page(status: int) -> Iterator[str]:
    """What a captive portal says to whatever is asked."""

    class Portal(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<html><body>Please sign in to the hotel's network</body></html>"
            self.send_response(status)
            if status in {301, 302, 307}:
                self.send_header("Location", "http://portal.invalid/")
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET = do_HEAD = answer  # noqa: N815 - http.server's names

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_sign_in_page_is_not_a_delivery():
    """A page with status 200, which botocore takes for an empty answer, counts nothing as
    delivered.
    """
    with web_page(200) as url:
        remote = aws(url, merges_per_key=True)
        for call in (
            lambda: remote.describe("run"),
            lambda: remote.create(ComponentSpec("run", "o")),
            lambda: remote.update("run", FIELDS),
            lambda: remote.put_metrics("run", POINTS),
        ):
            with pytest.raises(RemoteError) as caught:
                call()
            error = caught.value
            assert (error.kind, error.unreachable, error.maybe_applied) == (
                ErrorKind.TRANSIENT,
                True,
                True,
            )


@pytest.mark.parametrize("status", [302, 403, 404, 405, 407, 511])
def test_a_page_with_an_error_quarantines_nothing(status: int):
    """A portal's redirect, a filter's 403, a wrong endpoint's 404: no fault of any entry."""
    with web_page(status) as url:
        error = failure(aws(url))
    assert error.kind in {ErrorKind.HALT, ErrorKind.TRANSIENT}
    assert error.hint or status == 511
    assert "<" not in error.message


def test_the_caller_s_client_lends_region_endpoint_and_credentials(sim: Simulator):
    """With nothing but a SageMaker client all services are reached as that client reaches its
    own.
    """
    client = boto3.client(
        "sagemaker", region_name="eu-central-1", endpoint_url=sim.endpoint_url, **KEYS
    )
    remote = AwsRemote(sagemaker_client=client)
    assert remote.create(ComponentSpec("new", "o")).arn
    assert not remote.put_metrics("new", POINTS).refused
    assert {request.access_key for request in sim.requests} == {KEYS["aws_access_key_id"]}
    assert remote._clients.metrics.meta.region_name == "eu-central-1"


def test_the_caller_s_stubbed_client_is_used():
    """A client that its owner hooked into is used as it is."""
    client = boto3.client("sagemaker", region_name=REGION, **KEYS)
    with Stubber(client) as stub:
        stub.add_response(
            "create_trial_component",
            {"TrialComponentArn": "arn:aws:sagemaker:::x", "ResponseMetadata": {"RequestId": "r"}},
        )
        assert (
            AwsRemote(sagemaker_client=client).create(ComponentSpec("new", "o")).arn
            == "arn:aws:sagemaker:::x"
        )


@pytest.mark.parametrize(
    "variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SAGEMAKER", "SAGEMAKER_ENDPOINT"]
)
def test_endpoints_of_the_environment_are_honoured(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, variable: str
):
    """The variables of botocore, and the one of the original library."""
    monkeypatch.setenv(variable, sim.endpoint_url)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    remote = AwsRemote(session=boto3.Session(**KEYS))
    assert remote.describe("run") is not None
    assert remote._clients.sagemaker.meta.region_name == "eu-west-3"


def test_a_request_is_sent_once_whatever_the_environment_says(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
):
    """Retries of botocore are off even where the environment asks for them: there is one retry
    layer.
    """
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    sim.fail("*", HttpError(500, "InternalFailure"), times=3)
    failure(aws(sim.endpoint_url))
    assert len(sim.requests) == 1


def test_the_caller_s_plain_client_does_not_bring_its_patience(sim: Simulator):
    """The default of five attempts and 60 s would outlive every deadline: the client is rebuilt
    with ours.
    """
    client = boto3.client("sagemaker", region_name=REGION, endpoint_url=sim.endpoint_url, **KEYS)
    sim.fail("*", HttpError(500, "InternalFailure"), times=3)
    remote = AwsRemote(sagemaker_client=client)
    with pytest.raises(RemoteError):
        remote.describe("run")
    assert len(sim.requests) == 1


def test_silence_ends_with_the_deadline(sim: Simulator):
    """Near the deadline an answer is awaited for what is left of it, not for the whole time-out."""
    now = [0.0]
    remote = aws(sim.endpoint_url, deadline=Deadline(60.0, clock=lambda: now[0]))
    assert remote.describe("run") is not None
    now[0] = 59.9
    sim.fail("DescribeTrialComponent", BlackHole())
    with pytest.raises(RemoteError) as caught:
        remote.describe("run")
    assert caught.value.unreachable


def test_what_a_stand_in_fails_at_is_told(moto_url):
    """moto answers a point without a step with a page: its status and first words are told, and
    where to look.
    """
    remote = aws(moto_url)
    remote.create(ComponentSpec("stepless", "o"))
    with pytest.raises(RemoteError, match=r"HTTP 500.*Internal Server Error") as caught:
        remote.put_metrics("stepless", [MetricPoint("loss", 0.5, None, AT_NS)])
    assert "moto" in caught.value.hint


def test_what_is_tried_leaves_nothing_at_a_stand_in(moto_url):
    """moto makes what AWS refuses: a component, an experiment and a trial that were tried are
    deleted again.
    """
    made = {"CreateTrialComponent", "CreateExperiment", "CreateTrial"}
    models = {kind: Model("tried") for kind in ("component", "experiment", "trial")}
    remote = aws(moto_url)
    found = remote.access(Wanted(frozenset(made), models=models))
    assert {each.state for each in found.permissions} == {"allowed"}
    client = boto3.client("sagemaker", endpoint_url=moto_url, region_name=REGION, **KEYS)
    for listed, name in (
        (client.list_trial_components()["TrialComponentSummaries"], "TrialComponentName"),
        (client.list_experiments()["ExperimentSummaries"], "ExperimentName"),
        (client.list_trials()["TrialSummaries"], "TrialName"),
    ):
        assert not [each for each in listed if each[name].startswith("tried")]
