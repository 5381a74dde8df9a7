"""``check --access``: what the credentials may do is told from a strict AWS's answers, and nothing
is changed.
"""

from __future__ import annotations

import json
import math
import time

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.compat.smexperiments.experiment import Experiment
from journaltrack.compat.smexperiments.trial import Trial
from journaltrack.remotes.aws.access import Wanted
from journaltrack.remotes.aws.remote import AwsRemote
from tests.simulator import BadGateway, HttpError, Instead, simulator

DENIED = {"s3": HttpError(403, "AccessDenied"), "": HttpError(400, "AccessDeniedException")}
TRIED = {
    "DescribeTrialComponent": "sagemaker:DescribeTrialComponent",
    "UpdateTrialComponent": "sagemaker:UpdateTrialComponent",
    "BatchPutMetrics": "sagemaker:BatchPutMetrics",
    "DescribeTrial": "sagemaker:DescribeTrial",
    "AssociateTrialComponent": "sagemaker:AssociateTrialComponent",
}
OF_S3 = {
    "ListObjectsV2": "s3:ListBucket",
    "UploadPart": "s3:PutObject",
    "GetObject": "s3:GetObject",
}


@pytest.fixture
def aws(monkeypatch):
    """An AWS with a bucket, and the environment of somebody who may use it."""
    with simulator() as sim:
        reach(monkeypatch, sim)
        sim.buckets.add("mine")
        yield sim
        assert sim.bugs == []


def reach(monkeypatch, sim):
    """Let commands find a simulator."""
    for name, value in {
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "AWS_ACCESS_KEY_ID": "good",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def access(*arguments):
    """The exit code, and the report."""
    done = CliRunner().invoke(main, ["check", "--access", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.exit_code
    return done.exit_code, found


def told(*arguments):
    """The exit code and everything that is printed."""
    done = CliRunner().invoke(main, ["check", "--access", *arguments])
    return done.exit_code, done.output


def states(found):
    """By feature and action."""
    return {(each["feature"], each["action"]): each["state"] for each in found["permissions"]}


def everything(sim):
    """What an account holds."""
    return (
        {name: dict(held.parameters) for name, held in sim.components.items()},
        [list(each) for each in (sim.experiments, sim.trials, sim.buckets, sim.uploads)],
        dict(sim.objects),
    )


def test_who_where_and_what_is_told(aws):
    """Account, identity, region, bucket and each permission that a request can show; what no
    request can show is unknown, and no failure.
    """
    code, found = access("--bucket", "mine")
    assert code == 0
    assert found["suffices"]
    assert found["account"] == "123456789012"
    assert found["arn"].startswith("arn:aws:iam::123456789012:")
    assert (found["region"], found["endpoint"]) == ("us-east-1", aws.endpoint_url)
    assert found["bucket"]["region"] == "us-east-1"
    known = states(found)
    unknown = {action for (_, action), state in known.items() if state == "unknown"}
    assert {action.partition(":")[2][:6] for action in unknown} <= {"Create", "AddTag"}
    allowed = {action for (_, action), state in known.items() if state == "allowed"}
    assert {*TRIED.values(), *OF_S3.values()} <= allowed
    code, printed = told("--bucket", "mine")
    assert "mine exists in us-east-1" in printed
    assert "error:" not in printed
    assert all(action in printed for action in allowed | unknown)


def test_nothing_is_changed(aws):
    """Not even where a component, a trial and objects are: they stay as they were, and no journal
    is made or read.
    """
    aws.add_component("run").parameters["lr"] = {"NumberValue": 0.1}
    before = everything(aws)
    assert access("--bucket", "mine")[0] == 0
    assert access()[0] == 0
    assert everything(aws) == before
    assert {r.operation for r in aws.requests if r.applied} <= {
        "GetCallerIdentity",
        "HeadBucket",
        "ListObjectsV2",
        "ListArtifacts",
    }


@pytest.mark.parametrize("operation", sorted({**TRIED, **OF_S3}))
def test_each_permission_that_is_missing_is_named(aws, operation):
    """One denied action is denied alone, with AWS's words; the exit code is 5 and the others are
    told.
    """
    of_s3 = operation in OF_S3
    aws.fail(operation, DENIED["s3" if of_s3 else ""], times=10)
    code, found = access("--bucket", "mine")
    assert code == 5
    assert not found["suffices"]
    known = states(found)
    denied = {action for (_, action), state in known.items() if state == "denied"}
    assert denied == {{**TRIED, **OF_S3}[operation]}
    if operation == "ListObjectsV2":
        assert known["artifacts", "s3:GetObject"] == "unknown"
    code, printed = told("--bucket", "mine")
    assert code == 5
    assert f"need {denied.pop()}, which is denied" in printed


def test_a_policy_for_one_prefix_shows_at_the_anchors(aws):
    """The artifacts' folder and that of the anchors are tried each by itself."""
    aws.fail(
        "UploadPart",
        DENIED["s3"],
        times=10,
        when=lambda call: not call.params["Key"].startswith("trial-component-artifacts/"),
    )
    code, found = access("--bucket", "mine")
    known = states(found)
    assert code == 5
    assert known["artifacts", "s3:PutObject"] == "allowed"
    assert known["anchors", "s3:PutObject"] == "denied"


def test_anchors_are_tried_where_they_would_go(aws, monkeypatch):
    """Below the prefix that is configured, and not at all if they are off."""
    monkeypatch.setenv("JOURNALTRACK_ANCHOR_PREFIX", "team")
    assert access("--bucket", "mine")[0] == 0
    keys = [r.params["Key"] for r in aws.calls("UploadPart")]
    assert [key.rpartition("/")[0] for key in keys] == [
        "trial-component-artifacts",
        "team/journaltrack-anchors",
    ]
    monkeypatch.setenv("JOURNALTRACK_ANCHOR", "off")
    assert not [each for each, _ in states(access("--bucket", "mine")[1]) if each == "anchors"]


def test_the_prefix_of_the_artifacts_may_be_named(aws):
    """With the bucket, as a path or a URI: it is what a policy may be limited to."""
    for bucket in ("mine/team/x", "s3://mine/team/x/"):
        assert access("--bucket", bucket)[0] == 0
        keys = [r.params["Key"].rpartition("/")[0] for r in aws.calls("UploadPart")[-2:]]
        assert keys == ["team/x", "journaltrack-anchors"]


def test_a_missing_bucket_that_was_named_is_a_failure(aws):
    """Exit code 5, and what to do."""
    code, found = access("--bucket", "elsewhere")
    assert (code, found["bucket"]["exists"]) == (5, False)
    assert "does not exist" in told("--bucket", "elsewhere")[1]


@pytest.mark.slow
def test_a_missing_default_bucket_is_one_that_a_sync_makes(aws, monkeypatch):
    """Unless the configuration forbids it."""
    code, found = access()
    name = "sagemaker-us-east-1-123456789012"
    assert (code, found["bucket"]["name"], found["bucket"]["exists"]) == (0, name, False)
    assert "a sync creates" in told()[1]
    monkeypatch.setenv("JOURNALTRACK_ALLOW_CREATE_BUCKETS", "false")
    assert access()[0] == 5


def test_a_bucket_of_somebody_else_is_there_and_denied(aws):
    """S3 says 403 and names the region."""
    refusal = HttpError(403, "AccessDenied")
    for operation in ("HeadBucket", *OF_S3):
        aws.fail(operation, refusal, times=5)
    code, found = access("--bucket", "mine")
    assert (code, found["bucket"]["exists"]) == (5, True)
    assert states(found)["artifacts", "s3:ListBucket"] == "denied"


def test_a_bucket_that_can_not_be_looked_at_may_exist(aws):
    """A failure that says nothing of the bucket ends nothing: the permissions are tried."""
    aws.fail("HeadBucket", HttpError(400, "BadRequest"), times=5)
    _, found = access("--bucket", "mine")
    assert found["bucket"]["exists"] is None
    assert states(found)["artifacts", "s3:PutObject"] == "allowed"
    assert "mine may exist" in told("--bucket", "mine")[1]


def test_an_expired_token_is_told_at_once(aws):
    """Exit code 5 with AWS's words, after one request."""
    aws.expired.add("good")
    code, found = access("--bucket", "mine")
    assert code == 5
    assert "expired" in json.dumps(found)
    assert [r.operation for r in aws.requests] == ["GetCallerIdentity"]
    assert "hint:" in told()[1]


@pytest.mark.slow
def test_another_region_is_told(monkeypatch):
    """Credentials for a region where the endpoint is not: exit code 5."""
    with simulator(check_region=True) as sim:
        reach(monkeypatch, sim)
        code, found = access("--region", "eu-west-1")
        assert code == 5
        assert "eu-west-1" in json.dumps(found)
        assert found["account"] == "123456789012"
        assert access("--region", "us-east-1")[0] == 0


def test_without_a_region_it_says_so(aws, monkeypatch):
    """Exit code 5, before any request."""
    monkeypatch.delenv("AWS_REGION")
    code, printed = told()
    assert code == 5
    assert "region" in printed
    assert aws.requests == []


def test_without_credentials_it_says_so(aws, monkeypatch):
    """Exit code 5, before any request."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert told()[0] == 5
    assert aws.requests == []


@pytest.mark.parametrize("how", ["refused", "portal", "gateway"])
def test_without_a_network_the_exit_code_is_that_of_no_answer(aws, how):
    """6 where nothing listens, where a captive portal answers, and where a gateway fails."""
    if how == "refused":
        aws.stop()
    elif how == "portal":
        page = Instead(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
        aws.fail("*", page, times=100)
    else:
        aws.fail("*", BadGateway(), times=100)
    code, found = access("--bucket", "mine")
    assert code == 6
    assert not found["suffices"]
    if how == "refused":
        aws.start()


def test_sagemaker_without_sts_is_enough_for_a_named_bucket(aws):
    """A closed network may reach SageMaker and S3 alone: who asks is not told, all else is."""
    aws.fail("GetCallerIdentity", HttpError(403, "AccessDenied"), times=5)
    code, found = access("--bucket", "mine")
    assert (code, found["account"]) == (0, None)
    assert states(found)["artifacts", "s3:PutObject"] == "allowed"


def test_a_service_in_trouble_proves_nothing(aws):
    """One request that fails for now: the others are told, and the exit code is no success."""
    aws.fail("BatchPutMetrics", HttpError(500, "InternalFailure"), times=5)
    code, found = access("--bucket", "mine")
    assert code == 6
    known = states(found)
    assert known["metrics", "sagemaker:BatchPutMetrics"] == "unknown"
    assert known["artifacts", "s3:PutObject"] == "allowed"


def test_a_stand_in_that_fails_at_one_action_hides_no_other(aws):
    """A 500 that is no answer of the service's: the rest is tried, and what is denied decides the
    exit code.
    """
    for operation in ("HeadBucket", "UploadPart"):
        aws.fail(operation, Instead(500, b"Internal Server Error"), times=9)
    aws.fail("GetObject", DENIED["s3"], times=1)
    code, found = access("--bucket", "mine")
    known = states(found)
    assert known["artifacts", "s3:PutObject"] == "unknown"
    assert known["artifacts", "s3:GetObject"] == "denied"
    assert (code, found["suffices"]) == (5, False)
    assert "not the service's answer" in found["error"]["message"]


def test_lineage_is_tried_without_making_any(aws):
    """Reading artifacts and joining two things that do not exist show both permissions; the
    third has no request without effect.
    """

    def tried():
        remote = AwsRemote()
        try:
            wanted = Wanted(frozenset({"ListArtifacts", "AddAssociation", "CreateArtifact"}))
            return {each.action: each.state for each in remote.access(wanted).permissions}
        finally:
            remote.close()

    found = tried()
    assert found == {
        "sagemaker:ListArtifacts": "allowed",
        "sagemaker:AddAssociation": "allowed",
        "sagemaker:CreateArtifact": "unknown",
    }
    aws.fail("AddAssociation", DENIED[""])
    assert tried() == {**found, "sagemaker:AddAssociation": "denied"}
    assert {r.operation for r in aws.requests if r.applied} == {
        "GetCallerIdentity",
        "ListArtifacts",
    }


OF_A_JOURNAL = {
    "experiment": {"DescribeExperiment", "CreateExperiment"},
    "described": {"DescribeExperiment", "CreateExperiment", "UpdateExperiment"},
    "tagged": {"DescribeExperiment", "CreateExperiment", "AddTags"},
    "trial": {"DescribeTrial", "CreateTrial", "CreateExperiment"},
    "shown": {"DescribeTrial", "CreateTrial", "CreateExperiment", "UpdateTrial"},
    "placed": {
        *("DescribeTrialComponent", "AssociateTrialComponent", "DescribeTrial"),
        *("CreateTrial", "CreateExperiment"),
    },
    "left": {"DescribeTrialComponent", "DisassociateTrialComponent"},
    "labelled": {"DescribeTrialComponent", "UpdateTrialComponent", "AddTags"},
    "run": {
        *("DescribeTrialComponent", "CreateTrialComponent", "UpdateTrialComponent"),
        *("BatchPutMetrics", "AddTags"),
    },
}
"""What a journal holds, and what a sync of it asks of SageMaker."""


def record(what):
    """Record one thing in the default journal, without a network."""
    if what in {"experiment", "described", "tagged"}:
        made = Experiment.create("digits", tags={"team": "x"} if what == "tagged" else None)
        if what == "described":
            made.description = "Digits"
    elif what in {"trial", "shown", "placed", "left"}:
        if what == "trial":
            Trial.create("digits", "cnn")
        elif what == "shown":
            Trial.create("digits", "cnn").display_name = "CNN"
        else:
            trial = Trial(None, trial_name="cnn", experiment_name="digits")
            (trial.add_trial_component if what == "placed" else trial.remove_trial_component)("c")
    elif what == "labelled":
        with Tracker.load(trial_component_name="c") as tracker:
            tracker.set_tags({"team": "x"})
    else:
        with Tracker.create("Run", trial_component_name="digits-1", tags={"team": "x"}) as tracker:
            tracker.log_parameter("lr", 0.1)
            tracker.log_metric("loss", 1.0)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A default journal, and no delivery but by a sync."""
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "journal"))
    return str(tmp_path / "journal")


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(OF_A_JOURNAL))
def test_a_journal_is_asked_for_what_its_sync_needs(aws, offline, what):
    """A policy with that alone suffices, each part of it that is missing is named with exit code 5,
    and nothing is changed.
    """
    record(what)
    needed = OF_A_JOURNAL[what]
    others = {"CreateArtifact", "ListTags", "ListTrials", "Search", *OF_S3, *TRIED}
    for operation in set().union(others, *OF_A_JOURNAL.values()) - needed:
        aws.fail(operation, DENIED["s3" if operation in OF_S3 else ""], times=100)
    before = everything(aws)
    code, found = access(offline)
    assert (code, found["suffices"]) == (0, True)
    assert {each["action"] for each in found["permissions"]} == {f"sagemaker:{n}" for n in needed}
    assert {r.operation for r in aws.requests if r.applied} == {"GetCallerIdentity"}
    for operation in needed:
        aws.clear_faults()
        aws.fail(operation, DENIED[""], times=100)
        code, found = access(offline)
        denied = {action for (_, action), state in states(found).items() if state == "denied"}
        assert (code, denied) == (5, {f"sagemaker:{operation}"})
    assert everything(aws) == before
    # The unnamed default journal adds what it needs to what runs usually need.
    assert access()[0] == 5


@pytest.mark.slow
@pytest.mark.parametrize("denied", ["CreateExperiment", "CreateTrial"])
def test_what_exists_needs_no_permission_to_make_it(aws, offline, denied):
    """A sync uses experiments and trials that are there. One that is not needs the permission."""
    record("trial")
    record("tagged")
    assert CliRunner().invoke(main, ["sync"]).exit_code == 0
    record("trial")
    record("placed")
    aws.fail(denied, DENIED[""], times=100)
    assert access(offline)[0] == 0
    Trial.create("letters", "rnn")
    code, found = access(offline)
    assert (code, states(found)["experiments", f"sagemaker:{denied}"]) == (5, "denied")


def test_a_journal_with_an_artifact_needs_its_bucket(aws, offline, tmp_path):
    """The bucket and prefix that were recorded are tried, and a missing one that a sync would make
    is no failure, unless it may not.
    """
    (tmp_path / "model").write_bytes(b"1")
    with Tracker.create("Run", artifact_bucket="mine", artifact_prefix="team") as tracker:
        tracker.log_artifact(str(tmp_path / "model"))
    code, found = access(offline)
    assert (code, found["bucket"]["name"]) == (0, "mine")
    assert aws.calls("UploadPart")[0].params["Key"].startswith("team/")
    aws.buckets.discard("mine")
    assert access(offline)[0] == 0
    assert access(offline, "--bucket", "mine")[0] == 5


def test_a_journal_without_pending_entries_needs_nothing(aws, offline):
    """Whatever is denied, a sync of it succeeds, and that is said."""
    record("experiment")
    assert CliRunner().invoke(main, ["sync"]).exit_code == 0
    aws.fail("DescribeExperiment", DENIED[""], times=100)
    code, printed = told(offline)
    assert code == 0
    assert "a sync needs no permission" in printed


def test_entries_that_need_no_request_need_no_permission(aws, offline):
    """A value that a later one overrides, one that AWS could never take, and a note."""
    with Tracker.create("Run", trial_component_name="digits-1") as tracker:
        tracker.log_parameters([("lr", 0.1), ("lr", 0.2)])
        with pytest.warns(UserWarning, match="NaN"):
            tracker.log_metric("loss", math.nan)
        tracker.set_note("the first one")
    code, printed = told(offline)
    assert code == 0
    assert "sagemaker:UpdateTrialComponent" in printed


def test_a_journal_that_is_not_there_is_told_before_any_request(aws, tmp_path):
    """Whoever names one wants it to be looked at."""
    code, printed = told(str(tmp_path / "none"))
    assert code not in {0, 5, 6}
    assert "none" in printed
    assert aws.requests == []


def test_names_that_are_tried_begin_as_those_of_the_journal_do(aws, offline):
    """So that a policy for these names is no obstacle, however long they are."""
    Trial.create("team-digits", "team-" + "x" * 115)
    assert access(offline)[0] == 0
    (described,) = aws.calls("DescribeExperiment") or aws.calls("CreateExperiment")
    assert described.params["ExperimentName"].startswith("team-digits-")
    (tried,) = aws.calls("DescribeTrial")
    assert tried.params["TrialName"].startswith("team-xxxx")
    assert len(tried.params["TrialName"]) <= 120


@pytest.mark.slow
@pytest.mark.parametrize(("off_s", "code"), [(-3600, 5), (3600, 5), (60, 0)])
def test_a_wrong_clock_is_told(monkeypatch, off_s, code):
    """Against the dates of AWS's answers, which way and how far."""
    with simulator(clock=lambda: time.time() + off_s) as sim:
        reach(monkeypatch, sim)
        found_code, found = access()
        assert found_code == code
        assert abs(found["clock_ahead_s"] + off_s) <= 5
        way = "behind" if off_s > 0 else "ahead of"
        printed = told()[1]
        assert f"s {way} AWS's" in printed
        assert ("AWS refuses requests with this clock" in printed) == (code != 0)


def test_what_exists_by_chance_is_never_named(aws):
    """Every run names other things that do not exist, and never one without its random part."""
    names = set()
    for _ in range(3):
        access("--bucket", "mine")
        names.add(aws.calls("UpdateTrialComponent")[-1].params["TrialComponentName"])
    assert len(names) == 3
    assert all(len(name) > len("journaltrack-probe-") + 12 for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--access", "--remote"],
        ["--access", "--repair"],
        ["--access", "--component", "a*"],
        ["--bucket", "mine"],
        ["--access", "--bucket", "No_Bucket"],
        ["--access", "--bucket", ""],
    ],
)
def test_options_that_mean_nothing_together_are_refused(aws, arguments):
    """Exit code 2, before any request."""
    done = CliRunner().invoke(main, ["check", *arguments])
    assert done.exit_code == 2
    assert aws.requests == []
