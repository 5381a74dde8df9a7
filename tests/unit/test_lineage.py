"""Lineage: recorded with files and charts, delivered after their uploads, and in nobody's way."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, limits
from journaltrack.app.connection import Connection, capabilities
from journaltrack.cli import main
from journaltrack.errors import (
    ComponentMissingError,
    ErrorKind,
    NotSentError,
    RemoteError,
)
from journaltrack.journal import view, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.component import show
from journaltrack.util.config import Configuration
from tests.failing_remote import FailingRemote, passing
from tests.patience import FOREVER_S
from tests.simulator import HttpError, simulator

pytestmark = pytest.mark.lineage


def denied(**options):
    """A missing permission."""
    return RemoteError(
        "not authorized to perform: sagemaker:CreateArtifact",
        kind=ErrorKind.HALT,
        code="AccessDeniedException",
        request_id="r-1",
        **options,
    )


def refused():
    """What concerns one artifact."""
    return RemoteError("a pattern", kind=ErrorKind.PERMANENT, code="ValidationException")


@pytest.fixture
def run(tmp_path):
    """The folder of a journal with a run of four files, a parameter and a point."""
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        tracker.log_parameter("lr", 0.1)
        tracker.log_metric("loss", 1.0, iteration_number=0)
        for number in range(4):
            file = tmp_path / f"model-{number}.csv"
            file.write_text(f"weights {number}")
            tracker.log_artifact(file)
    return tmp_path / "journal"


def states(folder):
    """The entries by kind and state."""
    with view.opened(folder) as journal:
        rows = journal.database.read(
            "SELECT e.kind, coalesce(d.outcome, 'pending') FROM entry e "
            "LEFT JOIN delivery d ON d.seq = e.seq"
        )
    return Counter(rows)


def replayed(folder, remote, **options):
    """The report of one pass."""
    with closing(Journal.open(folder)) as journal:
        return Reconciler(journal, remote, **options).run()


def has_everything_else(remote):
    """Whether the run arrived, but for its lineage."""
    held = remote.components["run"]
    return (
        held.parameters == {"lr": 0.1}
        and [point.value for point in held.points] == [1.0]
        and len(held.output_artifacts) == len(remote.objects) == 4
        and held.status.primary == "Completed"
    )


def lineage_of(folder):
    """Name and payload of the lineage entries."""
    with view.opened(folder) as journal:
        return [(e.name, e.detail) for e in journal.entries() if e.kind == "lineage"]


# -- what a tracker records ----------------------------------------------------------------


def test_files_are_recorded_with_the_lineage_of_the_original_library(tmp_path):
    """The name, with hyphens for what SageMaker refuses; the media type, or "Tracker"."""
    (tmp_path / "files").mkdir()
    for name in ("data.csv", "Dockerfile", "files/a b.txt"):
        (tmp_path / name).write_text(name)
    with Tracker.create(journal=tmp_path / "journal", sync="off") as tracker:
        tracker.log_input_artifact(tmp_path / "data.csv", name="data")
        tracker.log_output_artifact(tmp_path / "Dockerfile")
        with pytest.warns(UserWarning, match="left out of what is sent"):
            tracker.log_artifact(tmp_path / "data.csv", media_type="a\nb")
        tracker.log_artifacts(tmp_path / "files", direction="input")
    found = lineage_of(tmp_path / "journal")
    assert [(name, d["type"], d["direction"], d.get("title")) for name, d in found] == [
        ("data", "text/csv", "input", None),
        ("Dockerfile", "Tracker", "output", None),
        ("data-csv", "Tracker", "output", "data.csv"),
        ("a-b-txt", "text/plain", "input", "a b.txt"),
    ]


def test_lineage_is_recorded_in_the_transaction_of_its_file(tmp_path):
    """Upload, reference and lineage are there together, the upload first."""
    (tmp_path / "m").write_text("x")
    with Tracker.create(journal=tmp_path / "journal", sync="off") as tracker:
        tracker.log_artifact(tmp_path / "m")
    with view.opened(tmp_path / "journal") as journal:
        entries = [e for e in journal.entries() if e.kind in {"upload", "output", "lineage"}]
    assert [e.kind for e in entries] == ["upload", "output", "lineage"]
    assert len({e.recorded_at_ns for e in entries}) == 1
    assert len({e.detail["sha256"] for e in entries}) == 1


@pytest.mark.parametrize("value", ["off", "false", "OFF"])
def test_lineage_can_be_turned_off(tmp_path, monkeypatch, value):
    """Then nothing is recorded for it, of files or charts."""
    monkeypatch.setenv("JOURNALTRACK_LINEAGE", value)
    (tmp_path / "m").write_text("x")
    with Tracker.create(journal=tmp_path / "journal", sync="off") as tracker:
        tracker.log_artifact(tmp_path / "m")
        tracker.log_table("t", {"x": [1]})
    assert lineage_of(tmp_path / "journal") == []


def test_what_another_machine_recorded_is_given_up_by_the_one_that_syncs(run):
    """Lineage that the role may not make would keep it pending for ever."""
    connection = Connection.configured(Configuration(lineage=False), RateLimit(0))
    remote = MemoryRemote(can=capabilities(connection))
    assert replayed(run, remote).pending == 0
    assert states(run)["lineage", "superseded"] == 4
    assert has_everything_else(remote)
    assert not remote.artifacts


def test_a_file_that_is_one_too_many_has_no_lineage(tmp_path):
    """Its upload is never sent, so there is nothing to link to."""
    with Tracker.create(journal=tmp_path / "journal", sync="off") as tracker:
        for number in range(limits.ARTIFACTS_MAX):
            tracker.log_output(f"o{number}", "s3://b/o")
        (tmp_path / "m").write_text("x")
        with pytest.warns(UserWarning, match="SageMaker's limit"):
            tracker.log_artifact(tmp_path / "m")
    assert lineage_of(tmp_path / "journal") == []


def test_files_of_a_caller_s_own_uploader_have_no_lineage_of_ours(tmp_path):
    """Where they are is the uploader's affair; a chart goes to the journal all the same."""

    class Own:
        def upload_artifact(self, file_path):
            return f"s3://own/{file_path.rpartition('/')[2]}", "etag"

    (tmp_path / "m").write_text("x")
    made = Tracker.create(journal=tmp_path / "journal", sync="off")
    tracker = Tracker(made.trial_component, None, Own())
    tracker.log_artifact(str(tmp_path / "m"))
    tracker.log_table("t", {"x": [1]})
    assert [name for name, _ in lineage_of(tmp_path / "journal")] == ["t"]
    made.close()


@pytest.mark.parametrize(
    ("name", "artifact_type", "direction", "words"),
    [
        ("a.b", "t", "output", "the lineage artifact's name 'a.b' can't be used"),
        ("x" * 121, "t", "output", "the lineage artifact's name"),
        ("", "t", "output", "the lineage artifact's name"),
        ("a", "t" * 257, "output", "the lineage artifact's type has 257 characters"),
        ("a", "", "output", "the lineage artifact's type is empty"),
        ("a", "t", "sideways", "direction is neither input nor output"),
    ],
)
def test_lineage_beyond_a_limit_is_undeliverable(name, artifact_type, direction, words):
    """Also what another program recorded is quarantined with the reason, and never sent."""
    draft = vocabulary.lineage(name, BlobRef("0" * 64, None, None), artifact_type, direction)
    assert words in (draft.undeliverable or "")


# -- how it is delivered -------------------------------------------------------------------


def test_lineage_follows_its_upload(run):
    """Each artifact is linked once, after its content is there; nothing is left."""
    remote = FailingRemote()
    report = replayed(run, remote)
    assert (report.pending, report.quarantined, report.lineage_halted) == (0, 0, None)
    assert has_everything_else(remote)
    assert sorted(remote.artifacts.values()) == [
        (f"model-{number}-csv", "text/csv") for number in range(4)
    ]
    assert remote.associations == {("run", uri, True) for uri in remote.objects}
    methods = [method for method, _ in remote.applied if method in {"upload", "link"}]
    assert methods[0] == "upload"
    assert Counter(methods) == {"upload": 4, "link": 4}


def test_a_refused_artifact_is_quarantined_alone(run):
    """The reason is SageMaker's; the other three are linked."""
    remote = FailingRemote()
    remote.failures["link"].extend([None, refused()])
    report = replayed(run, remote)
    assert (report.pending, report.quarantined, report.lineage_halted) == (0, 1, None)
    assert has_everything_else(remote)
    assert len(remote.artifacts) == 3
    assert states(run)["lineage", "quarantined"] == 1


@pytest.mark.parametrize(
    "failure",
    [
        denied(),
        denied(everywhere=True),
        passing(),
        passing("NoRoute", unreachable=True),
        RemoteError("a quota", kind=ErrorKind.HOLD, code="ResourceLimitExceeded"),
        ComponentMissingError("gone", kind=ErrorKind.HOLD, code="ResourceNotFound"),
        ValueError("a bug"),
    ],
    ids=lambda failure: getattr(failure, "code", "bug"),
)
def test_lineage_that_is_not_taken_costs_one_request_and_holds_nothing_back(run, failure):
    """No halt, no held component, no upload waits; the next pass with the cause gone delivers."""
    remote = FailingRemote()
    remote.failures["link"].append(failure)
    report = replayed(run, remote)
    assert has_everything_else(remote)
    assert (report.halted, report.uploads_halted, report.held) == (None, None, {})
    assert (report.failed, report.quarantined) == (None, 0)
    assert report.lineage_halted is not None
    assert report.problem is report.lineage_halted
    assert remote.about("run").count("link") == 1
    assert states(run)["lineage", "pending"] == report.pending == 4
    assert replayed(run, remote).pending == 0
    assert len(remote.artifacts) == len(remote.associations) == 4
    assert remote.about("run").count("upload") == 4


def test_nothing_waits_for_lineage_that_takes_long(run, tmp_path):
    """While SageMaker is silent about the first artifact, what is logged meanwhile arrives: a
    point, a file, its reference.
    """
    remote = FailingRemote()
    arrived = threading.Event()
    (tmp_path / "late.csv").write_text("late")

    def while_linking():
        remote.beside["link"] = lambda: None
        with Tracker.load("run", journal=run, sync="off") as tracker:
            tracker.log_metric("late", 2.0)
            tracker.log_artifact(tmp_path / "late.csv")
        assert arrived.wait(FOREVER_S)

    def after_update():
        held = remote.components["run"]
        if "late" in {point.name for point in held.points} and len(remote.objects) > 4:
            arrived.set()

    remote.beside |= {"link": while_linking, "update": after_update}
    report = replayed(run, remote)
    assert (report.pending, report.lineage_halted) == (0, None)
    assert len(remote.artifacts) == 5


def test_lineage_that_fails_again_and_again_ends_for_the_pass(tmp_path):
    """Once taken, three failures in a row close it; the rest is left for the next pass."""
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for number in range(60):
            tracker.log_table(f"t{number}", {"x": [number]})
    remote = FailingRemote()
    remote.failures["link"].extend([None, *[passing() for _ in range(59)]])
    report = replayed(tmp_path / "journal", remote)
    asked = remote.about("run").count("link")
    assert 4 <= asked <= 4 + 8
    assert (report.pending, report.lineage_halted.code) == (59, "InternalFailure")
    remote.failures["link"].clear()
    assert replayed(tmp_path / "journal", remote).pending == 0


def test_lineage_waits_for_an_upload_that_failed(run):
    """Nothing is linked that is not there, and the pass ends."""
    remote = FailingRemote()
    remote.failures["upload"].extend([passing(), passing(), passing()])
    report = replayed(run, remote)
    assert report.lineage_halted is None
    assert len(remote.artifacts) == len(remote.objects)
    assert states(run)["lineage", "pending"] == 4 - len(remote.objects)
    assert replayed(run, remote).pending == 0
    assert len(remote.artifacts) == 4


def test_the_lineage_of_a_refused_upload_is_quarantined_with_it(run):
    """With the reference, and the same reason."""
    remote = FailingRemote()
    remote.failures["upload"].append(refused())
    replayed(run, remote)
    replayed(run, remote)
    found = states(run)
    assert found["lineage", "quarantined"] == found["output", "quarantined"] == 1
    assert len(remote.artifacts) == 3


def test_a_content_that_is_logged_again_is_linked_once_per_name(tmp_path):
    """Entries that say the same become one request; another name or direction is another one."""
    file = tmp_path / "m"
    file.write_text("x")
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "journal", sync="off"
    ) as tracker:
        for _ in range(5):
            tracker.log_artifact(file)
        tracker.log_artifact(file, name="other")
        tracker.log_input_artifact(file)
    remote = FailingRemote()
    assert replayed(tmp_path / "journal", remote).pending == 0
    assert remote.about("run").count("link") == 3
    (uri,) = remote.objects
    assert remote.associations == {("run", uri, True), ("run", uri, False)}


def test_lineage_of_content_that_was_uploaded_before_is_linked(run):
    """An earlier pass may have uploaded it, and ended before its lineage."""
    remote = FailingRemote()
    remote.failures["link"].append(denied())
    replayed(run, remote)
    report = replayed(run, remote)
    assert (report.pending, report.delivered) == (0, 4)


def test_a_pass_that_is_out_of_time_leaves_lineage_pending(run):
    """What is held back before its first byte is no failure."""
    remote = FailingRemote()
    remote.failures["link"].extend([NotSentError() for _ in range(4)])
    report = replayed(run, remote)
    assert report.lineage_halted is None
    assert states(run)["lineage", "pending"] == 4


def test_code_that_does_not_know_lineage_leaves_it_pending(run, monkeypatch):
    """It delivers everything else, and keeps the entries for newer code."""
    remote = FailingRemote()
    with monkeypatch.context() as older:
        older.setattr(vocabulary, "KINDS", vocabulary.KINDS - {vocabulary.LINEAGE})
        report = replayed(run, remote)
    assert has_everything_else(remote)
    assert (report.pending, remote.artifacts) == (4, {})
    assert replayed(run, remote).pending == 0
    assert len(remote.artifacts) == 4


def test_show_lists_charts_with_their_state(run, tmp_path):
    """A chart is no artifact of the component: its lineage is where a person finds it."""
    with Tracker.load("run", journal=run, sync="off") as tracker:
        tracker.log_table("Per class", {"x": [1]})
    replayed(run, FailingRemote())
    found = show(run, "run").lineage[-1]
    assert (found.name, found.title, found.artifact_type) == ("Per-class", "Per class", "Table")
    assert (found.direction, found.state) == ("output", "delivered")
    assert (found.uri or "").endswith("/run/Per class.json")


@pytest.mark.parametrize(
    ("code", "exit_code"), [("AccessDeniedException", 3), ("ExpiredTokenException", 5)]
)
def test_sync_says_what_lineage_lacks(run, credentials, monkeypatch, code, exit_code):
    """A permission that lineage alone lacks leaves it pending; what every request would meet has
    the exit code that it always has.
    """
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        sim.fail("CreateArtifact", HttpError(400, code))
        done = CliRunner().invoke(main, ["sync", str(run), "--json"])
        assert done.exit_code == exit_code, done.output
        (told,) = json.loads(done.stdout)["journals"]
        assert (told["halted"], told["uploads_halted"], told["failed"]) == (None, None, None)
        assert (told["lineage_halted"]["code"], told["after"]["pending"]) == (code, 4)
        assert "lineage stopped, all else goes on: CreateArtifact" in done.stderr
        assert CliRunner().invoke(main, ["sync", str(run)]).exit_code == 0
        assert len(sim.lineage.associations) == 4
