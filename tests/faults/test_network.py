"""The network and AWS at their worst: a clear error with a hint, the right exit code, nothing
lost.
"""

from __future__ import annotations

import time

import pytest

from journaltrack import Tracker, sync
from journaltrack.errors import ComponentNotFoundError, ErrorKind
from journaltrack.remotes.aws import clients
from tests.processes import states, sync_process
from tests.simulator import BlackHole, CutAfter, HttpError, PartialErrors, simulator


def run(journal, endpoint_url, *arguments, env=None):
    """Sync in another process: exit code and everything printed."""
    process = sync_process(journal, endpoint_url, *arguments, env=env or {})
    out, err = process.communicate()
    return process.returncode, out + err


def test_refused_connection_loses_nothing_and_the_next_sync_delivers(journal, closed_port):
    """An unreachable endpoint is exit code 6 with a hint; everything stays pending and goes out
    later.
    """
    before = states(journal)
    code, printed = run(journal, closed_port)
    assert code == 6
    assert "hint:" in printed
    assert states(journal) == before
    with simulator() as sim:
        assert run(journal, sim.endpoint_url)[0] == 0


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
        ({"AWS_PROFILE": "nosuchprofile"}, "profile"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "region"),
    ],
)
def test_missing_configuration_halts_with_a_hint(journal, env, word):
    """Without credentials, profile or region the sync halts with exit code 5, and says what to
    set.
    """
    with simulator() as sim:
        code, printed = run(journal, sim.endpoint_url, env=env)
        assert code == 5, printed
        assert word in printed.lower()
        assert "hint:" in printed
        assert states(journal)["quarantined"] == 0


def test_credentials_that_expire_in_mid_pass_halt_it_and_quarantine_nothing(journal):
    """What was delivered before stays delivered; renewed credentials deliver the rest, once."""
    with simulator() as sim:
        sim.fail(
            "BatchPutMetrics",
            HttpError(400, "ExpiredTokenException", "The security token is expired"),
            times=100,
            after=3,
        )
        code, printed = run(journal, sim.endpoint_url)
        assert code == 5, printed
        assert "aws sso login" in printed
        found = states(journal)
        assert found["delivered"] > 0
        assert found["quarantined"] == 0
        sim.clear_faults()
        assert run(journal, sim.endpoint_url)[0] == 0
        assert sorted(p.value for p in sim.components["run"].metrics) == [
            1.0 + n for n in range(95)
        ]


def test_a_service_that_throttles_is_asked_at_the_rate_that_it_allows(tmp_path, credentials):
    """After the first refusals the rate is found: few requests are refused, and everything
    arrives once.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for step in range(2_000):
            tracker.log_metric("loss", float(step), iteration_number=step)
    with simulator(max_rate=60) as sim:
        report = sync(tmp_path / "journal", endpoint_url=sim.endpoint_url)
        assert report.pending == 0
        assert sorted(point.value for point in sim.components["run"].metrics) == [
            float(step) for step in range(2_000)
        ]
        refused = sum(request.status != 200 for request in sim.requests)
        assert 0 < refused < len(sim.requests) / 5, "without a limiter, about half"


def test_throttling_and_partial_errors_are_worked_off(journal, credentials):
    """Throttled requests and items to be sent again are, within the same sync, and none twice."""
    with simulator() as sim:
        sim.fail("BatchPutMetrics", HttpError(400, "ThrottlingException", "Rate exceeded"), times=5)
        sim.fail(
            "BatchPutMetrics",
            PartialErrors({0: "CONFLICT_ERROR", 3: "CONFLICT_ERROR"}),
            times=2,
            after=6,
        )
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert (report.pending, report.in_doubt, report.quarantined) == (0, 0, 0)
        assert sorted(p.value for p in sim.components["run"].metrics) == [
            1.0 + n for n in range(95)
        ]


def test_lost_answer_puts_metrics_in_doubt_and_never_sends_them_again(journal, credentials):
    """A metric request that was applied, and whose answer was lost, is in doubt: not sent again,
    and found by the next sync.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter())
        report = sync(journal, endpoint_url=sim.endpoint_url)
        # the last request has five points, and any of them may come first
        assert report.in_doubt in {5, 10}
        assert states(journal)["in doubt"] == report.in_doubt
        assert sync(journal, endpoint_url=sim.endpoint_url).arrived == report.in_doubt
        assert len(sim.components["run"].metrics) == 95
        assert states(journal)["in doubt"] == 0


def test_metric_limit_quarantines_the_item_alone(journal, credentials):
    """What AWS refuses for good is quarantined with its reason; its neighbours in the request
    are delivered.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", PartialErrors({4: "METRIC_LIMIT_EXCEEDED"}))
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert (report.quarantined, report.pending) == (1, 0)
        assert len(sim.components["run"].metrics) == 94


def test_one_parameter_that_aws_refuses_is_isolated(journal, credentials):
    """A refused update is halved until the culprit stands alone; every other key is delivered."""
    tracker = Tracker.load("run", journal=journal, sync="off")
    tracker.log_parameters({f"p{i}": i for i in range(50)})

    def poisonous(call):
        return "p33" in call.params.get("Parameters", {})

    with simulator() as sim:
        sim.fail(
            "UpdateTrialComponent",
            HttpError(400, "ValidationException", "no p33 please"),
            times=100,
            when=poisonous,
        )
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert (report.quarantined, report.pending) == (1, 0)
        assert set(sim.components["run"].parameters) == {"lr", "optimizer"} | {
            f"p{i}" for i in range(50)
        } - {"p33"}


def test_foreign_component_of_the_name_is_not_touched(journal, credentials):
    """A component that exists and is not ours holds ours, with a hint; --create-or-attach
    attaches on purpose.
    """
    with simulator() as sim:
        sim.add_component("run")
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert "--create-or-attach" in report.held["run"].hint
        assert sim.components["run"].parameters == {}
        assert report.quarantined == 0
        report = sync(journal, endpoint_url=sim.endpoint_url, create_or_attach=True)
        assert report.pending == 0
        assert set(sim.components["run"].parameters) == {"lr", "optimizer"}


def test_quota_holds_one_component_and_lets_the_others_through(journal, credentials):
    """ResourceLimitExceeded is neither the entry's fault nor passing: that component waits, the
    others go on.
    """
    Tracker.create(trial_component_name="other", journal=journal, sync="off").log_parameter("a", 1)

    def is_run(call):
        return call.params.get("TrialComponentName") == "run"

    with simulator() as sim:
        sim.fail(
            "CreateTrialComponent",
            HttpError(400, "ResourceLimitExceeded", "too many"),
            times=9,
            when=is_run,
        )
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert list(report.held) == ["run"]
        assert "a" in sim.components["other"].parameters
        assert report.quarantined == 0


def test_bucket_without_permission_stops_uploads_alone(journal, credentials):
    """Without the right to make the bucket artifacts wait, and parameters and metrics go on."""
    with simulator() as sim:
        sim.fail("CreateBucket", HttpError(403, "AccessDenied", "no s3:CreateBucket"), times=9)
        report = sync(journal, endpoint_url=sim.endpoint_url)
        assert report.uploads_halted is not None
        assert report.uploads_halted.kind is ErrorKind.HALT
        assert len(sim.components["run"].metrics) == 95
        assert report.pending == 2  # the upload, and the reference that waits for it
        sim.clear_faults()
        assert sync(journal, endpoint_url=sim.endpoint_url).pending == 0
        assert set(sim.components["run"].output_artifacts) == {"model.bin"}


def test_close_is_bounded_when_the_endpoint_never_answers(tmp_path, credentials, monkeypatch):
    """An endpoint that accepts and never answers delays close by its deadline at most, and
    raises nothing.
    """
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        sim.fail("*", BlackHole(), times=100)
        monkeypatch.setattr(clients, "READ_TIMEOUT_S", 3_600.0)
        tracker = Tracker.create(journal=tmp_path / "j", close_deadline_s=2.0)
        tracker.log_metric("loss", 1.0)
        started = time.monotonic()
        tracker.close()
        assert time.monotonic() - started < 600, "it waited for an answer, and not for its deadline"
        sim.release()
    assert states(tmp_path / "j")["pending"] == 2


def test_loading_asks_aws_and_believes_its_no(tmp_path, credentials, monkeypatch, closed_port):
    """Tracker.load of an unknown name is a ValueError when AWS says no, and goes on when AWS
    can't be reached.
    """
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        with pytest.raises(ComponentNotFoundError):
            Tracker.load("nowhere", journal=tmp_path / "j", lookup_deadline_s=600)
        sim.add_component("somewhere")
        Tracker.load("somewhere", journal=tmp_path / "j", lookup_deadline_s=600)
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port)
    Tracker.load("unknown", journal=tmp_path / "j", sync="close").log_parameter("a", 1)
    report = sync(tmp_path / "j", endpoint_url=closed_port, deadline_s=5)
    assert report.halted is not None
    assert report.quarantined == 0
