"""One thing never holds up another: uploads beside everything else, one bucket beside another,
one component beside the others.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from journaltrack import Tracker, sync
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.connection import Database
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.util.deadline import Deadline
from tests import warm
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT
from tests.simulator import BlackHole, HttpError, simulator


def replay(folder, remote, **options):
    """A pass, with a journal of its own."""
    with closing(Journal(Database(folder / "journal.db"))) as journal:
        return Reconciler(journal, remote, **options).run()


def receipts(folder, action):
    """Outcomes of the requests for an action, in order."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return [
            row[0]
            for row in connection.execute(
                "SELECT outcome FROM receipt WHERE action = ? ORDER BY id", (action,)
            )
        ]


ENDS_WITH_OTHERS = """
import sys
from journaltrack import Tracker
with Tracker.create(trial_component_name=sys.argv[2], journal=sys.argv[1], sync="close", close_deadline_s=3_600) as tracker:
    for step in range(200):
        tracker.log_metric("loss", float(step), iteration_number=step)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_runs_that_end_together_in_one_journal_are_all_delivered(tmp_path):
    """Six processes close their runs in one journal at the same moment: each one waits for its
    turn, and nothing is left.
    """
    with simulator(latency_s=0.01) as sim:
        environment = os.environ | ENVIRONMENT | {"AWS_ENDPOINT_URL": sim.endpoint_url}
        running = [
            warm.Popen(
                [sys.executable, "-c", ENDS_WITH_OTHERS, str(tmp_path / "journal"), f"run-{n}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for n in range(6)
        ]
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=FOREVER_S)[1] for process in running] == [""] * 6
        for n in range(6):
            run = sim.components[f"run-{n}"]
            assert len(run.metrics) == 200
            assert run.status["PrimaryStatus"] == "Completed"


def test_a_run_that_somebody_else_delivers_meanwhile_does_not_wait_longer(
    tmp_path, credentials, monkeypatch
):
    """The holder of the lease delivers a run that closes: its close() ends then, although the
    holder goes on with an upload.
    """
    folder = tmp_path / "journal"
    (tmp_path / "model.bin").write_bytes(b"weights")
    with Tracker.create(trial_component_name="first", journal=folder, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "model.bin")
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        uploading, go = threading.Event(), threading.Event()

        def stay(call):
            if call.operation == "PutObject" and not uploading.is_set():
                uploading.set()
                go.wait(FOREVER_S)

        sim.on_request = stay
        holder = threading.Thread(target=sync, args=(folder,))
        holder.start()
        assert uploading.wait(FOREVER_S)
        with Tracker.create(
            trial_component_name="second", journal=folder, sync="close", close_deadline_s=FOREVER_S
        ) as tracker:
            tracker.log_metric("loss", 1.0)
        assert not go.is_set()
        assert sim.components["second"].status["PrimaryStatus"] == "Completed"
        go.set()
        holder.join()


def test_a_run_that_could_not_be_delivered_in_time_is_told_of(
    tmp_path, credentials, monkeypatch, caplog
):
    """The lease is held until the deadline of close(): a warning says so, and what delivers the
    rest.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="close", close_deadline_s=0.3
    ) as tracker:
        tracker.log_metric("loss", 1.0)
        opened = Journal.open(tmp_path / "journal")
        lease = leases.acquire(opened.database)
    lease.release()
    opened.close()
    assert "run was not delivered on close" in caplog.text
    assert "journaltrack sync" in caplog.text


@pytest.mark.parametrize("operation", ["PutObject", "HeadBucket", "CreateMultipartUpload"])
def test_an_upload_that_is_never_answered_keeps_nothing_else_back(
    tmp_path, journal, credentials, operation
):
    """S3 is silent: parameters, 95 metrics and "Completed" arrive all the same, and the deadline
    leaves the upload and its reference alone.
    """
    (tmp_path / "large.bin").write_bytes(b"x" * (17 << 20))
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "large.bin")
    with simulator() as sim:
        sim.fail(operation, BlackHole(), times=100)
        deadline = Deadline()

        def arrived(simulated):
            run = simulated.components.get("run")
            return (
                run is not None
                and len(run.metrics) == 95
                and (run.status or {}).get("PrimaryStatus") == "Completed"
            )

        threading.Thread(
            target=lambda: sim.wait_until(arrived, FOREVER_S) and deadline.cancel(), daemon=True
        ).start()
        report = run_pass(journal, Connection(endpoint_url=sim.endpoint_url), deadline=deadline)
        assert arrived(sim)
        assert set(sim.components["run"].parameters) == {"lr", "optimizer"}
        assert report.halted is None
        sim.clear_faults()
        sim.release()
        assert sync(journal, endpoint_url=sim.endpoint_url).pending == 0
        assert set(sim.components["run"].output_artifacts) == {"model.bin", "large.bin"}


def test_what_is_logged_while_an_upload_takes_long_is_delivered_meanwhile(journal, credentials):
    """Metrics are as fresh beside an upload as without one: they arrive before it has ended, in
    the same pass.
    """
    with simulator() as sim:
        uploading, go = threading.Event(), threading.Event()

        def stay(call):
            if call.operation == "PutObject" and not uploading.is_set():
                uploading.set()
                go.wait(FOREVER_S)

        sim.on_request = stay
        reports = []
        passing = threading.Thread(
            target=lambda: reports.append(sync(journal, endpoint_url=sim.endpoint_url))
        )
        passing.start()
        assert uploading.wait(FOREVER_S)
        with Tracker.load("run", journal=journal, sync="off") as tracker:
            tracker.log_metric("late", 7.0)
        assert sim.wait_until(
            lambda s: any(point.name == "late" for point in s.components["run"].metrics), FOREVER_S
        )
        assert sim.artifacts == {}
        go.set()
        passing.join()
        assert reports[0].pending == 0


def test_references_follow_their_uploads_in_one_update(tmp_path, credentials):
    """Three artifacts of a component: one update for parameters and status, and one for all
    references.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_parameter("lr", 0.1)
        for name in "abc":
            (tmp_path / name).write_text(name)
            tracker.log_artifact(tmp_path / name)
    with simulator() as sim:
        assert sync(tmp_path / "journal", endpoint_url=sim.endpoint_url).pending == 0
        assert len(sim.calls("UpdateTrialComponent")) == 2
        assert set(sim.components["run"].output_artifacts) == {"a", "b", "c"}


def test_a_store_that_cant_be_reached_is_asked_once(
    tmp_path, credentials, monkeypatch, closed_port
):
    """Ten artifacts and an S3 that refuses connections: the first upload speaks for all,
    everything else is delivered.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_metric("loss", 1.0)
        for n in range(10):
            (tmp_path / f"{n}.txt").write_text(str(n))
            tracker.log_artifact(tmp_path / f"{n}.txt")
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", closed_port)
        report = sync(tmp_path / "journal")
        assert receipts(tmp_path / "journal", "upload") == ["failed"]
        assert report.uploads_halted.unreachable
        assert (report.halted, report.pending) == (None, 20)
        assert sim.components["run"].status["PrimaryStatus"] == "Completed"
        assert len(sim.components["run"].metrics) == 1
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
        assert sync(tmp_path / "journal").pending == 0
        assert len(sim.components["run"].output_artifacts) == 10


def in_bucket(name):
    return lambda call: call.params.get("Bucket") == name


@pytest.mark.parametrize(
    ("fault", "operations"),
    [
        (
            HttpError(301, "PermanentRedirect", "use the endpoint of the region"),
            ("HeadBucket", "PutObject"),
        ),
        (HttpError(301, "PermanentRedirect", "use the endpoint of the region"), ("PutObject",)),
        (HttpError(400, "AuthorizationHeaderMalformed", "the region is wrong"), ("PutObject",)),
        (HttpError(403, "AccessDenied", "no"), ("PutObject",)),
        (HttpError(403, "InvalidAccessKeyId", "not known to this store"), ("PutObject",)),
    ],
)
def test_a_bucket_that_is_elsewhere_or_closed_concerns_its_own_uploads(
    tmp_path, credentials, fault, operations
):
    """One bucket is in another region, or may not be used: uploads to another one, and
    everything else, are delivered by the same pass.
    """
    folder = tmp_path / "journal"
    for bucket in ("elsewhere", "here"):
        with Tracker.create(
            trial_component_name=f"run-{bucket}", journal=folder, sync="off", artifact_bucket=bucket
        ) as tracker:
            tracker.log_metric("loss", 1.0)
            (tmp_path / "model.bin").write_text(bucket)
            tracker.log_artifact(tmp_path / "model.bin")
    with simulator() as sim:
        for operation in operations:
            sim.fail(operation, fault, times=10_000, when=in_bucket("elsewhere"))
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert report.halted is None
        assert (report.quarantined, report.in_doubt, report.pending) == (0, 0, 2)
        for bucket in ("elsewhere", "here"):
            run = sim.components[f"run-{bucket}"]
            assert len(run.metrics) == 1
            assert run.status["PrimaryStatus"] == "Completed"
        assert set(sim.components["run-here"].output_artifacts) == {"model.bin"}
        sim.clear_faults()
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0


@pytest.mark.parametrize(
    "operation", ["CreateExperiment", "CreateTrial", "AssociateTrialComponent"]
)
def test_no_permission_for_an_experiment_leaves_everything_else_alone(
    tmp_path, credentials, operation
):
    """One component's experiment may not be made or joined: that waits; its metrics, parameters
    and status, and other components, do not.
    """
    folder = tmp_path / "journal"
    for name in ("denied", "fine"):
        with Tracker.create(
            trial_component_name=name, journal=folder, sync="off", experiment_name=f"of-{name}"
        ) as tracker:
            tracker.log_parameter("lr", 0.1)
            tracker.log_metric("loss", 1.0)
    with simulator() as sim:

        def is_denied(call):
            return any("denied" in str(value) for value in call.params.values())

        sim.fail(
            operation,
            HttpError(403, "AccessDeniedException", "not authorized"),
            times=99,
            when=is_denied,
        )
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert report.halted is None
        assert set(report.held) == {"denied"}
        assert report.pending == 1
        for name in ("denied", "fine"):
            run = sim.components[name]
            assert (len(run.metrics), run.status["PrimaryStatus"], set(run.parameters)) == (
                1,
                "Completed",
                {"lr"},
            )
        sim.clear_faults()
        assert sync(folder, endpoint_url=sim.endpoint_url).pending == 0


@pytest.mark.parametrize(
    "operation", ["CreateTrialComponent", "UpdateTrialComponent", "BatchPutMetrics"]
)
def test_no_permission_for_one_component_holds_that_one(tmp_path, credentials, operation):
    """What is denied for one component alone is waited for there; all others are delivered by
    the same pass.
    """
    folder = tmp_path / "journal"
    for name in ("denied", "fine", "good", "well"):
        with Tracker.create(trial_component_name=name, journal=folder, sync="off") as tracker:
            tracker.log_metric("loss", 1.0)
    with simulator() as sim:
        fault = HttpError(403, "AccessDeniedException", "not authorized")
        sim.fail(
            operation,
            fault,
            times=99,
            when=lambda call: call.params.get("TrialComponentName") == "denied",
        )
        report = sync(folder, endpoint_url=sim.endpoint_url)
        assert report.halted is None
        assert set(report.held) == {"denied"}
        for name in ("fine", "good", "well"):
            assert len(sim.components[name].metrics) == 1
            assert sim.components[name].status["PrimaryStatus"] == "Completed"


def test_no_permission_at_all_halts(journal, credentials):
    """Nothing is permitted: the pass is halted, not every component held one by one."""
    for n in range(10):
        Tracker.create(trial_component_name=f"run-{n}", journal=journal, sync="off").close()
    with simulator() as sim:
        sim.fail(
            "CreateTrialComponent",
            HttpError(403, "AccessDeniedException", "not authorized"),
            times=99,
        )
        report = sync(journal, endpoint_url=sim.endpoint_url, concurrency=1)
        assert report.halted.kind is ErrorKind.HALT
        assert 3 <= len(sim.calls("CreateTrialComponent")) <= 5, "three, and what was in hand"


class Failing(MemoryRemote):
    """Fails what ``fails`` says, by the name of a component."""

    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def put_metrics(self, component, points):
        self.fails(component)
        return super().put_metrics(component, points)

    def update(self, component, fields):
        self.fails(component)
        return super().update(component, fields)


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("sorry", kind=ErrorKind.TRANSIENT, code="InternalFailure"),
        RemoteError("lost", kind=ErrorKind.TRANSIENT, code="ReadTimeout", maybe_applied=True),
        RecursionError("maximum depth exceeded"),
        AssertionError(),
    ],
)
def test_a_component_that_fails_again_and_again_keeps_no_other_back(tmp_path, error):
    """The service fails for one component with a thousand points: it is left alone for this
    pass, and all others are delivered.
    """
    folder = tmp_path / "journal"
    for name in ("bad", "one", "two", "three"):
        with Tracker.create(trial_component_name=name, journal=folder, sync="off") as tracker:
            for step in range(1_000 if name == "bad" else 10):
                tracker.log_metric("loss", float(step))

    def fail(component):
        if component == "bad":
            raise error

    remote = Failing(fail)
    report = replay(folder, remote, options=Options(concurrency=4))
    assert report.halted is None
    for name in ("one", "two", "three"):
        assert len(remote.components[name].points) == 10
        assert remote.components[name].status.primary == "Completed"
    assert report.requests < 60, "the component with a thousand points is not tried a hundred times"


class SlowStore(MemoryRemote):
    """Uploads take until the component has an output of a later call."""

    def __init__(self):
        super().__init__()
        self.changed = threading.Condition()

    def upload(self, blob):
        with self.changed:
            arrived = self.changed.wait_for(
                lambda: "model" in self.components["run"].output_artifacts, FOREVER_S
            )
        assert arrived
        return super().upload(blob)

    def update(self, component, fields):
        answer = super().update(component, fields)
        with self.changed:
            self.changed.notify_all()
        return answer


def test_a_reference_that_waited_for_its_upload_does_not_override_a_later_one(tmp_path):
    """A file is logged under a name, later a URI under the same name: whichever arrives first,
    the later call's value stays.
    """
    (tmp_path / "model").write_text("weights")
    folder = tmp_path / "journal"
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "model", name="model")
    remote, logged = SlowStore(), []

    def log_later(_progress):
        if "run" in remote.components and not logged:
            logged.append(True)
            with Tracker.load("run", journal=folder, sync="off") as later:
                later.log_output("model", "s3://elsewhere/model")

    replay(folder, remote, on_progress=log_later)
    assert logged
    assert remote.components["run"].output_artifacts["model"].value == "s3://elsewhere/model"
    # The later tracker may have been closed after the pass looked for the last time.
    report = replay(folder, remote)
    assert (report.pending, report.quarantined) == (0, 0)
    assert remote.components["run"].output_artifacts["model"].value == "s3://elsewhere/model"


def test_an_anchor_is_tried_once_a_pass_and_then_less_often(journal, credentials):
    """A store that takes artifacts and refuses anchors: one attempt a pass, and after two
    failures none for a while.
    """
    with simulator() as sim:

        def is_anchor(call):
            return "journaltrack-anchors" in str(call.params.get("Key"))

        sim.fail(
            "PutObject", HttpError(503, "ServiceUnavailable", "not now"), times=99, when=is_anchor
        )
        tried = []
        for n in range(5):
            with Tracker.load("run", journal=journal, sync="off") as tracker:
                tracker.log_metric("more", float(n))
            assert sync(journal, endpoint_url=sim.endpoint_url).pending == 0
            tried.append(sum(is_anchor(call) for call in sim.calls("PutObject")))
        assert tried == [1, 2, 2, 2, 2]
