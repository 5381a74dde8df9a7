"""Verifying through real boto3 over HTTP: whatever is tampered with in AWS is named, and a
repair mends what can be mended.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timezone

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.app.composition import run_pass, run_prune, run_verify
from journaltrack.app.connection import Connection
from journaltrack.cli import main
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.replay.reconciler import Options
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.verification.diff import REMOVED
from journaltrack.verification.verifier import VerifyOptions
from tests import tally
from tests.copies import verify_chains
from tests.faults.hostile import SOAK
from tests.simulator import CutAfter, HttpError, simulator

LARGE_BYTES = 17 * 1024 * 1024
"""Above 16 MiB an upload is in parts, and S3 has no digest of the whole."""
LOCATION = ("sagemaker-us-east-1-123456789012", "trial-component-artifacts/run")


@pytest.fixture
def aws():
    """The account."""
    with simulator() as sim:
        yield sim


@pytest.fixture
def delivered(journal, aws):
    """The folder of a journal that was delivered completely."""
    report = sync(journal, aws)
    assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0)
    return journal


@pytest.fixture(autouse=True)
def _with_credentials(credentials):
    """For all of them."""


def sync(folder, sim, **options):
    return run_pass(
        folder, Connection(region="us-east-1", endpoint_url=sim.endpoint_url), Options(**options)
    )


def verify(folder, sim, *, repair=False, visible_after_s=0, **options):
    """``visible_after_s=0``: what is not shown is not there. What a repair does is on the
    record.
    """
    connection = Connection(
        region="us-east-1", endpoint_url=sim.endpoint_url, rate_limit=RateLimit(0)
    )
    report = run_verify(
        folder, connection, VerifyOptions(visible_after_s=visible_after_s, **options), repair=repair
    )
    if repair:
        assert [p for p in verify_chains(folder) if p.kind != "blob"] == []
    return report


def told(report):
    """What was found, without its values."""
    return {(each.kind, each.what, each.name) for each in report.differences}


def database_of(folder):
    """All rows of the tables that say what became of the entries, as plain sqlite3 reads them."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        tables = ("delivery", "receipt", "field", "location", "mark", "lease", "component")
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def steps_there(sim):
    """How often each step is there."""
    return Counter(point.step for point in sim.components["run"].metrics)


def model(sim, key="model.bin"):
    """The artifact as S3 holds it."""
    return sim.objects[LOCATION[0], f"{LOCATION[1]}/{key}"]


def test_what_was_delivered_is_found_and_nothing_is_changed(delivered, aws):
    """Right after a sync everything is there; verifying reads alone, in AWS and in the journal."""
    before = database_of(delivered)
    requests = len(aws.requests)
    report = verify(delivered, aws)
    assert report.verified
    assert report.differences == []
    assert (report.checked.components, report.checked.parameters, report.checked.artifacts) == (
        1,
        2,
        1,
    )
    assert (report.checked.points, report.checked.objects_by_checksum) == (95, 1)
    made = {request.operation for request in aws.requests[requests:]}
    # the last three: anchors
    assert made == {
        "DescribeTrialComponent",
        "HeadObject",
        "GetCallerIdentity",
        "ListObjectsV2",
        "GetObject",
    }
    assert (report.anchors.documents, report.anchors.problems) == (1, ())
    assert database_of(delivered) == before


def drop_parameter(sim):
    del sim.components["run"].parameters["lr"]


def change_parameter(sim):
    sim.components["run"].parameters["lr"] = {"NumberValue": 0.2}


def make_number_text(sim):
    sim.components["run"].parameters["lr"] = {"StringValue": "0.1"}


def drop_reference(sim):
    sim.components["run"].output_artifacts.clear()


def point_elsewhere(sim):
    sim.components["run"].output_artifacts["model.bin"]["Value"] = "s3://elsewhere/model.bin"


def change_status(sim):
    sim.components["run"].status = {"PrimaryStatus": "Failed", "Message": "by hand"}


def change_end(sim):
    sim.components["run"].end_time += 60


def remove_object(sim):
    for place in sim.artifacts:
        del sim.objects[place]


def truncate_object(sim):
    model(sim).body = model(sim).body[:-1]
    model(sim).checksums = {}


def replace_object(sim):
    """As many bytes, other ones, by a tool that keeps no note of ours."""
    held = model(sim)
    held.body = held.body[::-1]
    held.metadata, held.checksums = {}, {"crc32": "AAAAAA=="}


def drop_metric(sim):
    sim.components["run"].metrics.clear()


def drop_points(sim):
    component = sim.components["run"]
    component.metrics = [point for point in component.metrics if not 20 <= point.step < 30]


def delete_component(sim):
    del sim.components["run"]


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (drop_parameter, {("missing", "parameter", "lr")}),
        (change_parameter, {("different", "parameter", "lr")}),
        (make_number_text, {("different", "parameter", "lr")}),
        (drop_reference, {("missing", "output", "model.bin")}),
        (point_elsewhere, {("different", "output", "model.bin")}),
        (change_status, {("different", "status", "status"), ("different", "status", "message")}),
        (change_end, {("different", "status", "end")}),
        (remove_object, {("missing", "object", f"s3://{LOCATION[0]}/{LOCATION[1]}/model.bin")}),
        (truncate_object, {("different", "object", f"s3://{LOCATION[0]}/{LOCATION[1]}/model.bin")}),
        (replace_object, {("different", "object", f"s3://{LOCATION[0]}/{LOCATION[1]}/model.bin")}),
        (drop_metric, {("missing", "metric", "loss")}),
        (drop_points, {("different", "metric", "loss")}),
        (delete_component, {("missing", "component", "run")}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_tampered_with_is_named_and_mended(delivered, aws, tamper, expected):
    """Each kind of damage is named as what it is; a repair mends it, each point is there once,
    and the audit adds up.
    """
    tamper(aws)
    report = verify(delivered, aws)
    assert told(report) == expected
    assert all(each.repairable for each in report.differences)
    assert json.loads(json.dumps(report.to_json()))["verified"] is False
    after = verify(delivered, aws, repair=True)
    assert after.verified, after.differences
    assert after.repair.reopened > 0
    assert set(steps_there(aws).items()) == {(step, 1) for step in range(95)}
    assert (
        model(
            aws, aws.components["run"].output_artifacts["model.bin"]["Value"].rpartition("/")[2]
        ).body
        == b"weights"
    )
    audited = audit(delivered)
    assert audited.totals.delivered == audited.totals.entries
    assert not audited.inconsistencies
    assert "reopen" in {group.action for group in audited.components[0].receipts}
    assert verify(delivered, aws, repair=True).repair.reopened == 0


def test_everything_at_once_is_mended(delivered, aws):
    """A component that is gone, with its object: the repair makes it again, then sends the
    metrics that the new one does not show.
    """
    delete_component(aws)
    remove_object(aws)
    after = verify(delivered, aws, repair=True)
    assert after.verified, after.differences
    assert len(after.repair.passes) == 2
    assert aws.components["run"].parameters == {
        "lr": {"NumberValue": 0.1},
        "optimizer": {"StringValue": "sgd"},
    }
    assert aws.components["run"].status["PrimaryStatus"] == "Completed"
    assert set(steps_there(aws).values()) == {1}


def test_points_are_not_sent_again_unless_their_absence_is_proven(delivered, aws):
    """Where single steps can't be read, or a step has some of its points, nothing is sent: it
    would be there twice.
    """
    drop_points(aws)
    aws.fail("BatchGetMetrics", HttpError(403, "AccessDeniedException"), times=99)
    report = verify(delivered, aws, repair=True)
    assert told(report) == {("different", "metric", "loss")}
    assert not report.differences[0].repairable
    assert "twice" in report.differences[0].note
    assert report.repair.reopened == 0
    assert sum(steps_there(aws).values()) == 85


def test_points_that_may_not_be_shown_yet_are_not_missing(delivered, aws):
    """SageMaker shows points with a delay: shortly after their delivery, that they are not shown
    is told as unknown, and nothing is sent.
    """
    drop_metric(aws)
    report = verify(delivered, aws, visible_after_s=900, repair=True)
    assert told(report) == {("unknown", "metric", "loss")}
    assert not report.complete
    assert report.repair.reopened == 0


def test_what_others_added_is_told_and_is_no_failure(delivered, aws):
    """Parameters, points and metrics of another journal are extra: the journal's own is
    verified, and a repair removes nothing.
    """
    other = Tracker.load("run", journal=delivered.parent / "other", sync="off")
    other.log_parameter("theirs", 1)
    other.log_metric("loss", 1e9, iteration_number=1)
    other.log_metric("accuracy", 0.5, iteration_number=1)
    other.close()
    sync(delivered.parent / "other", aws)
    report = verify(delivered, aws, repair=True)
    assert report.verified
    assert told(report) == {
        ("extra", "parameter", "theirs"),
        ("extra", "metric", "loss"),
        ("extra", "metric", "accuracy"),
    }
    assert aws.components["run"].parameters["theirs"] == {"NumberValue": 1.0}
    of_other = verify(delivered.parent / "other", aws)
    assert of_other.verified
    del aws.components["run"].parameters["theirs"]
    aws.components["run"].metrics.clear()
    assert verify(delivered.parent / "other", aws, repair=True).verified


def test_another_journals_value_is_not_overwritten(delivered, aws):
    """In a component that this journal did not create, a value that differs is told and left; a
    component that is gone is its maker's.
    """
    other = Tracker.load("run", journal=delivered.parent / "other", sync="off")
    other.log_parameter("shared", 1)
    other.close()
    sync(delivered.parent / "other", aws)
    aws.components["run"].parameters["shared"] = {"NumberValue": 2.0}
    report = verify(delivered.parent / "other", aws, repair=True)
    assert told(report) >= {("different", "parameter", "shared")}
    assert aws.components["run"].parameters["shared"] == {"NumberValue": 2.0}
    del aws.components["run"]
    report = verify(delivered.parent / "other", aws, repair=True)
    assert told(report) == {("missing", "component", "run")}
    assert report.repair.reopened == 0
    assert "run" not in aws.components


def test_a_component_of_the_same_name_by_somebody_else_is_not_touched(delivered, aws):
    """Deleted and made anew by somebody else: said, nothing of it is repaired."""
    delete_component(aws)
    aws.add_component("run")
    report = verify(delivered, aws, repair=True)
    assert ("extra", "component", "owner") in told(report)
    assert ("missing", "parameter", "lr") in told(report)
    assert report.repair.reopened == 0
    assert aws.components["run"].parameters == {}


def test_a_display_name_is_compared_for_what_this_journal_created(tmp_path, aws):
    """It is set by the create alone: a change is told, and can't be repaired."""
    Tracker.create(
        "Nice-name", trial_component_name="named", journal=tmp_path / "j", sync="off"
    ).close()
    sync(tmp_path / "j", aws)
    assert verify(tmp_path / "j", aws).verified
    aws.components["named"].display_name = "Other"
    report = verify(tmp_path / "j", aws, repair=True)
    assert [(d.what, d.expected, d.found, d.repairable) for d in report.differences] == [
        ("display name", "Nice-name", "Other", False)
    ]


def test_what_is_not_delivered_is_not_compared(journal, aws):
    """Of a journal that was never synced only another copy's anchors are looked for, and nothing
    is missing; what is pending is counted.
    """
    report = verify(journal, aws)
    assert report.verified
    assert (report.unverified, report.undelivered.pending) == (1, 102)
    assert {each.operation for each in aws.requests} == {"GetCallerIdentity", "ListObjectsV2"}
    sync(journal, aws)
    tracker = Tracker.load("run", journal=journal, sync="off")
    tracker.log_parameter("lr", 0.5)
    tracker.log_metric("loss", 1e6, iteration_number=95)
    tracker.close()
    report = verify(journal, aws)
    assert report.verified
    assert report.differences == []
    assert report.undelivered.pending == 2


def test_points_in_doubt_may_be_there_or_not(journal, aws):
    """A batch whose answer was lost is claimed by nobody, whether it took effect or not."""
    aws.fail("BatchPutMetrics", CutAfter(), times=1)
    sync(journal, aws)
    report = verify(journal, aws)
    # the last request has five points, and any of them may come first
    assert report.undelivered.in_doubt in {5, 10}
    assert report.verified
    assert not report.differences, "they are there, as they may be"
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        query = "SELECT step FROM entry JOIN delivery USING (seq) WHERE outcome = 'in doubt'"
        lost = {step for (step,) in connection.execute(query)}
    assert len(lost) == report.undelivered.in_doubt
    aws.components["run"].metrics = [
        point for point in aws.components["run"].metrics if point.step not in lost
    ]
    report = verify(journal, aws)
    assert report.verified
    assert not report.differences, "they are not, as they may be"


def test_large_objects_are_read_when_asked(tmp_path, aws):
    """An upload in parts is compared by size and note; --deep reads it, finds other bytes of the
    same size, and leaves no file behind.
    """
    (tmp_path / "large.bin").write_bytes(bytes(LARGE_BYTES))
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_artifact(tmp_path / "large.bin")
    sync(tmp_path / "j", aws)
    report = verify(tmp_path / "j", aws)
    assert (report.verified, report.checked.objects_by_size) == (True, 1)
    report = verify(tmp_path / "j", aws, deep=True)
    assert (report.verified, report.checked.objects_by_content) == (True, 1)
    held = model(aws, "large.bin")
    held.body = b"1" + held.body[1:]
    assert verify(tmp_path / "j", aws).verified
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    report = verify(tmp_path / "j", aws, deep=True)
    assert [(each.kind, each.what) for each in report.differences] == [("different", "object")]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files


def test_an_object_whose_blob_is_gone_is_said_to_be(delivered, aws):
    """Without its bytes in the spool an object can't be sent again: nothing is reopened, and the
    hint says where to look.
    """
    remove_object(aws)
    next(path for path in (delivered / "spool").rglob("*") if path.is_file()).unlink()
    report = verify(delivered, aws, repair=True)
    assert [(each.kind, each.what, each.repairable) for each in report.differences] == [
        ("missing", "object", False)
    ]
    assert "restore-from" in report.differences[0].note
    assert report.repair.reopened == 0


def test_no_permission_on_an_object_is_unknown(delivered, aws):
    """Without the right to look, an object is neither there nor missing."""
    aws.fail("HeadObject", HttpError(403, "AccessDenied"), times=99)
    report = verify(delivered, aws)
    assert [(each.kind, each.what) for each in report.differences] == [("unknown", "object")]
    assert not report.verified


def test_the_command_prints_repairs_and_says_so_with_its_exit_code(
    delivered, aws, monkeypatch, closed_port
):
    """0 when all is there, 4 for what is missing, 3 for what is not delivered, 5 and 6 as a sync
    does; JSON has the same.
    """
    monkeypatch.setenv("JOURNALTRACK_VISIBLE_AFTER_S", "0.001")

    def run(*arguments, endpoint=aws.endpoint_url):
        return CliRunner().invoke(
            main,
            [
                "check",
                "--remote",
                str(delivered),
                "--endpoint-url",
                endpoint,
                "--rate",
                "1000",
                *arguments,
            ],
        )

    done = run()
    assert done.exit_code == 0, done.output
    assert "everything that was delivered is there" in done.output
    drop_parameter(aws)
    drop_points(aws)
    done = run()
    assert done.exit_code == 4
    assert "nothing is there at step 20-29" in done.output
    assert "--repair" in done.output
    told = json.loads(run("--json").stdout)
    parsed = told["remote"]
    assert (
        parsed["verified"],
        told["exit_code"],
        told["healthy"],
        parsed["counts"]["missing"],
    ) == (False, 4, True, 1)
    assert [d["missing_steps"] for d in parsed["differences"] if d["what"] == "metric"] == [
        [[20, 29]]
    ]
    done = run("--repair")
    assert done.exit_code == 0, done.output
    assert "11 entries made pending again" in done.output
    tracker = Tracker.load("run", journal=delivered, sync="off")
    tracker.log_metric("loss", 1.0, iteration_number=95)
    tracker.close()
    assert run().exit_code == 3
    assert run("--component", "other-*").exit_code == 2
    assert run(endpoint=closed_port).exit_code == 6
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert run().exit_code == 5


def test_a_run_of_two_nodes_is_well_and_nothing_of_it_is_sent_again(tmp_path, aws):
    """Both journals name times of their own for one run. Checked together, either is well, and a
    repair has nothing to send.
    """
    nodes = [str(tmp_path / name) for name in ("one", "two")]
    for number, node in enumerate(nodes):
        with Tracker.create(
            trial_component_name="run", journal=node, sync="off", resume=True
        ) as run:
            run.trial_component.start_time = datetime(2026, 11, 27, number, tzinfo=timezone.utc)
        sync(node, aws)
    aws_options = ["--region", "us-east-1", "--endpoint-url", aws.endpoint_url]
    done = CliRunner().invoke(main, ["check", "--remote", "--repair", *nodes, *aws_options])
    assert done.exit_code == 0, done.output
    assert done.output.count("repair: 0 entries made pending again, 0 sent") == 2


def test_it_takes_its_time(delivered, aws):
    """No more requests a second than the limit hands out: every one of them waits for its turn."""
    turns = []

    class Counted(RateLimit):
        def take(self, wait, api=""):
            turns.append(api)
            return super().take(wait, api)

    requests = len(aws.requests)
    run_verify(
        delivered,
        Connection(region="us-east-1", endpoint_url=aws.endpoint_url, rate_limit=Counted(1000)),
    )
    # The component, its object, the account, an anchor, and the names in both places of anchors.
    assert len(turns) == len(aws.requests) - requests == 6


def recorded(folder, chance, number):
    """A random run: parameters set over and over, points with steps, several at a step and
    without, artifacts; synced now and then.
    """
    with Tracker.create(
        trial_component_name=f"run-{number}", journal=folder, sync="off"
    ) as tracker:
        for n in range(chance.randint(1, 40)):
            kind = chance.choice(
                ["parameter", "metric", "metric", "metric", "stepless", "artifact", "output"]
            )
            if kind == "parameter":
                tracker.log_parameter(chance.choice("abc"), chance.choice([0.5, "text", n]))
            elif kind == "artifact":
                path = folder.parent / chance.choice(["x.bin", "y.bin"])
                path.write_bytes(chance.randbytes(chance.choice([0, 10])))
                tracker.log_artifact(path)
            elif kind == "output":
                tracker.log_output(chance.choice("pq"), f"s3://elsewhere/{n}")
            else:
                step = None if kind == "stepless" else chance.randrange(8)
                tracker.log_metric(chance.choice(["loss", "norm"]), float(n), iteration_number=step)


def tampered(sim, chance):
    """Some random damage; returns what was done, empty for none."""
    done = []
    for component in list(sim.components.values()):
        if chance.random() < 0.2:
            del sim.components[component.name]
            done.append(f"{component.name} deleted")
            continue
        for held in (component.parameters, component.output_artifacts):
            for key in list(held):
                if chance.random() < 0.2:
                    del held[key]
                    done.append(f"{component.name}: {key} deleted")
        if component.metrics and chance.random() < 0.5:
            steps = {point.step for point in component.metrics if chance.random() < 0.3}
            some = chance.random()  # of the points at those steps: all, or about half
            component.metrics = [
                point
                for point in component.metrics
                if point.step not in steps or some + chance.random() > 1
            ]
            done.append(f"{component.name}: points at {steps} dropped")
    for place in list(sim.artifacts):
        if chance.random() < 0.3:
            del sim.objects[place]
            done.append(f"{place} deleted")
    return done


@pytest.mark.parametrize("seed", range(4 * SOAK))
def test_any_damage_is_found_and_no_point_is_ever_doubled(tmp_path, aws, seed):
    """Random runs and random damage: what is not as it was is found, a repair never doubles a
    point, and leaves nothing that it could mend.
    """
    chance = random.Random(seed)
    folder = tmp_path / "j"
    for number in range(3):
        recorded(folder, chance, number)
        if chance.random() < 0.5:
            sync(folder, aws)
    sync(folder, aws)
    assert verify(folder, aws).differences == []
    logged = {
        name: Counter(map(point_of, component.metrics))
        for name, component in aws.components.items()
    }
    before = contents(aws)
    done = tampered(aws, chance)
    assert verify(folder, aws).verified == (contents(aws) == before), done
    report = verify(folder, aws, repair=True)
    assert not any(each.repairable for each in report.differences), (done, report.differences)
    assert {each.what for each in report.differences} <= {"metric"}, (done, report.differences)
    for name, points in logged.items():
        there = Counter(point_of(point) for point in aws.components[name].metrics)
        assert there <= points, (done, there - points)
        if not report.differences:
            assert there == points
    if not report.differences:
        assert contents(aws) == before
    assert audit(folder).all_delivered
    assert sync(folder, aws).requests == 0
    tally.count(
        "random damage in AWS, verified and repaired",
        attacks=1,
        checked=sum(map(Counter.total, logged.values())),
    )


def point_of(point):
    return (point.name, point.step, point.value)


def contents(sim):
    """What is there, without the order of points; objects by their bytes, since two of one name
    may swap their places.
    """

    def shown(artifact):
        bucket, _, key = artifact["Value"].removeprefix("s3://").partition("/")
        held = sim.objects.get((bucket, key))
        return [artifact["Value"] if held is None else held.etag, artifact.get("MediaType")]

    components = {
        name: (
            component.parameters,
            {key: shown(artifact) for key, artifact in component.output_artifacts.items()},
            sorted(repr(point_of(point)) for point in component.metrics),
        )
        for name, component in sim.components.items()
    }
    return json.dumps(
        [components, sorted(stored.etag for stored in sim.artifacts.values())], sort_keys=True
    )


def test_what_was_removed_on_the_record_still_counts(delivered, aws):
    """After a prune the points that are no longer in the journal are compared all the same; if
    SageMaker loses them, no repair sends a part.
    """
    before = verify(delivered, aws)
    pruned = prune(delivered, ask=None, delivered_before_ns=time.time_ns() + 10**12)
    assert pruned.entries > 50
    after = verify(delivered, aws)
    assert (after.verified, after.checked.points) == (True, before.checked.points)
    aws.components["run"].metrics.clear()
    lost = verify(delivered, aws, repair=True)
    assert [
        (each.kind, each.what, each.note) for each in lost.differences if each.what == "metric"
    ] == [("missing", "metric", REMOVED)]
    assert lost.repair.reopened == 0


def test_a_hand_over_to_another_machine_is_no_difference(delivered, aws, tmp_path, monkeypatch):
    """What a later run of another journal set instead is told and left alone; an edit in
    SageMaker stays a difference, to the microsecond.
    """
    monkeypatch.setenv("JOURNALTRACK_VISIBLE_AFTER_S", "0.001")
    with Tracker.load("run", journal=tmp_path / "elsewhere", sync="off") as tracker:
        tracker.log_parameter("lr", 0.5)
        tracker.log_metric("loss", 0.25, iteration_number=200)
    sync(tmp_path / "elsewhere", aws)
    for journal in (delivered, tmp_path / "elsewhere"):
        report = verify(journal, aws)
        assert report.verified, report.differences
        assert {each.kind for each in report.differences} == {"extra"}
    assert verify(delivered, aws, repair=True).repair.reopened == 0
    assert aws.components["run"].parameters["lr"] == {"NumberValue": 0.5}
    component = aws.components["run"]
    component.end_time -= 0.005  # SageMaker keeps milliseconds
    done = CliRunner().invoke(
        main, ["check", "--remote", str(tmp_path / "elsewhere"), "--endpoint-url", aws.endpoint_url]
    )
    assert done.exit_code == 4
    (row,) = [line.split() for line in done.stdout.splitlines() if " status " in line]
    assert row[:4] == ["run", "different", "status", "end"]
    assert row[4] != row[5]


@pytest.fixture
def linked(tmp_path, aws):
    """The folder of a delivered journal with lineage of three files and a chart."""
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for number in range(3):
            (tmp_path / f"m{number}").write_text(str(number))
            tracker.log_artifact(tmp_path / f"m{number}")
        tracker.log_table("chart", {"x": [1]}, output_artifact=False)
    assert sync(tmp_path / "journal", aws).pending == 0
    return tmp_path / "journal"


@pytest.mark.lineage
def test_lineage_that_is_missing_is_named_and_mended(linked, aws):
    """Artifacts and associations are looked up one by one; a repair makes again what is gone, and
    nothing else.
    """
    report = verify(linked, aws)
    assert (report.verified, report.checked.lineage) == (True, 4)
    gone, alone, *_ = aws.lineage.artifacts.values()
    for ends in [ends for ends in aws.lineage.associations if {gone.arn, alone.arn} & {*ends}]:
        del aws.lineage.associations[ends]
    del aws.lineage.artifacts[gone.arn]
    report = verify(linked, aws)
    assert told(report) == {("missing", "lineage", gone.name), ("missing", "lineage", alone.name)}
    assert {each.found for each in report.differences} == {
        None,
        "artifact without the association",
    }
    before = len(aws.requests)
    report = verify(linked, aws, repair=True)
    assert (report.verified, report.repair.reopened) == (True, 2)
    sent = Counter(call.operation for call in aws.requests[before:])
    assert (sent["CreateArtifact"], sent["AddAssociation"], sent["HeadObject"]) == (2, 2, 4 + 4 + 2)
    assert len(aws.lineage.artifacts) == len(aws.lineage.associations) == 4


@pytest.mark.lineage
def test_the_lineage_of_a_component_or_object_that_is_gone_is_mended_with_it(linked, aws):
    """A component that is made again gets its associations, an object that is uploaded again its
    artifact.
    """
    aws.lineage.associations.clear()
    del aws.components["run"]
    for place in [place for place in aws.state.objects if place[1].endswith("/m1")]:
        del aws.state.objects[place]
    report = verify(linked, aws, repair=True)
    assert report.verified, report.differences
    assert len(aws.lineage.associations) == 4


@pytest.mark.lineage
def test_lineage_that_may_not_be_read_is_unknown_and_prevents_no_prune(linked, aws):
    """A missing permission says nothing about what is there."""
    for operation in ("ListArtifacts", "ListAssociations"):
        aws.fail(operation, HttpError(400, "AccessDeniedException"), times=10**6)
    report = verify(linked, aws)
    assert {(each.kind, each.what) for each in report.differences} == {("unknown", "lineage")}
    assert (report.counts["unknown"], report.halted, report.complete) == (4, None, False)
    connection = Connection(region="us-east-1", endpoint_url=aws.endpoint_url)
    now_ns = time.time_ns() + 10**12
    pruned = run_prune(
        linked,
        connection,
        VerifyOptions(visible_after_s=0),
        delivered_before_ns=now_ns,
        blobs_before_ns=now_ns,
    )
    # Its lineage stays, and no reference needs the chart's upload.
    assert (pruned.unconfirmed, dict(pruned.by_kind)) == ({}, {"upload": 1})
    assert [p for p in verify_chains(linked) if p.kind != "blob"] == []
