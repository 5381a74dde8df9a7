"""The public API: what is recorded, what raises, what is marked."""

from __future__ import annotations

import inspect
import math
import os
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from journaltrack import Journal, Tracker
from journaltrack.errors import (
    ArtifactError,
    ComponentNotFoundError,
    InvalidInputError,
    UndeliverableError,
)
from journaltrack.journal.spool.spool import COMPARED_BYTES_MIN
from journaltrack.tracking.settings import Services
from journaltrack.tracking.validation import JournaltrackWarning


@pytest.fixture
def folder(tmp_path):
    """Where the test's journal is."""
    return tmp_path / "journal"


@pytest.fixture
def tracker(folder):
    """A tracker that replays nothing."""
    return Tracker.create(journal=folder, sync="off")


def rows(folder, sql, *parameters):
    """What plain sqlite3 finds in the journal."""
    with (
        closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection,
        connection,
    ):
        found = connection.execute(sql, parameters).fetchall()
    connection.close()
    return found


def test_signatures_are_those_of_the_original():
    """Positional order, names and defaults of the reference API are kept; additions are
    keyword-only.
    """

    def positional(function):
        kinds = inspect.signature(function).parameters.values()
        return [
            (p.name, p.default)
            for p in kinds
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
        ]

    common = [
        ("artifact_bucket", None),
        ("artifact_prefix", None),
        ("boto3_session", None),
        ("sagemaker_boto_client", None),
    ]
    assert positional(Tracker.create) == [("display_name", None), *common]
    assert positional(Tracker.load) == [
        ("trial_component_name", None),
        *common,
        ("training_job_name", None),
        ("processing_job_name", None),
    ]
    assert [n for n, _ in positional(Tracker.__init__)] == [
        "trial_component",
        "metrics_writer",
        "artifact_uploader",
        "lineage_artifact_tracker",
    ]
    empty = inspect.Parameter.empty
    assert positional(Tracker.log_parameter) == [("name", empty), ("value", empty)]
    assert positional(Tracker.log_parameters) == [("parameters", empty)]
    assert positional(Tracker.log_input) == [
        ("name", empty),
        ("value", empty),
        ("media_type", None),
    ]
    assert positional(Tracker.log_output) == positional(Tracker.log_input)
    assert positional(Tracker.log_artifact) == [
        ("file_path", empty),
        ("name", None),
        ("media_type", None),
    ]
    assert positional(Tracker.log_artifacts) == [("directory", empty), ("media_type", None)]
    assert positional(Tracker.log_metric) == [
        ("metric_name", empty),
        ("value", empty),
        ("timestamp", None),
        ("iteration_number", None),
    ]


@pytest.mark.parametrize("step", [7, np.int64(7), 7.0, np.array([7])])
def test_step_is_another_name_of_iteration_number(folder, tracker, step):
    """A point has the step under whichever of the two names it was given, or under both; a
    caller's own writer gets one.
    """
    for other in (
        {"step": step},
        {"iteration_number": 7, "step": step},
        {"iteration_number": step, "step": 7},
    ):
        tracker.log_metric("loss", 0.5, **other)
        tracker.log_metrics({"loss": 0.5, "accuracy": 1}, **other)
    assert rows(folder, "SELECT DISTINCT step FROM entry WHERE kind = 'metric'") == [(7,)]
    assert rows(folder, "SELECT count(*) FROM entry WHERE kind = 'metric'") == [(9,)]
    given = []

    class Writer:
        def log_metric(self, *point):
            given.append(point)

    Tracker(tracker.trial_component, Writer()).log_metric("loss", 0.5, step=7)
    assert given == [("loss", 0.5, None, 7)]


def test_every_call_is_in_the_file_when_it_returns(folder, tracker):
    """An independent reader finds each call at once."""
    for number, call in enumerate(
        [
            lambda: tracker.log_parameter("lr", 0.1),
            lambda: tracker.log_parameters({"a": 1, "b": "x"}),
            lambda: tracker.log_input("in", "s3://b/k"),
            lambda: tracker.log_output("out", "s3://b/o", "text/plain"),
            lambda: tracker.log_metric("loss", 0.5, iteration_number=1),
            lambda: tracker.log_metrics({"x": 1, "y": 2.5}, iteration_number=2),
        ]
    ):
        before = rows(folder, "SELECT count(*) FROM entry")[0][0]
        call()
        assert (
            rows(folder, "SELECT count(*) FROM entry")[0][0] - before == [1, 2, 1, 1, 1, 2][number]
        )


def test_read_back_gives_the_last_value_per_name(tracker, tmp_path):
    """trial_component shows what was logged."""
    file = tmp_path / "model.txt"
    file.write_text("weights")
    tracker.log_parameters(
        {"lr": 0.1, "opt": "sgd", "nested": True, "numpy": np.float32(0.5), "zero": np.array(3)}
    )
    tracker.log_parameter("lr", 0.2)
    tracker.log_input("data", "s3://bucket/data", "text/csv")
    tracker.log_artifact(file)
    component = tracker.trial_component
    assert component.parameters == {
        "lr": 0.2,
        "opt": "sgd",
        "nested": "True",
        "numpy": 0.5,
        "zero": 3.0,
    }
    assert component.input_artifacts["data"].value == "s3://bucket/data"
    assert component.input_artifacts["data"].media_type == "text/csv"
    assert component.trial_component_arn is None
    with open(component.output_artifacts["model.txt"].value) as kept:
        assert kept.read() == "weights"


def test_artifact_is_kept_as_it_was_at_the_call(tracker, tmp_path):
    """Overwriting or removing the file later changes nothing; one content is stored once."""
    file = tmp_path / "checkpoint"
    file.write_bytes(b"first")
    tracker.log_artifact(str(file), name="one")
    tracker.log_artifact(str(file), name="two")
    file.write_bytes(b"other")
    file.unlink()
    values = {a.value for a in tracker.trial_component.output_artifacts.values()}
    assert len(values) == 1
    with open(values.pop(), "rb") as kept:
        assert kept.read() == b"first"


def test_a_large_file_that_is_logged_again_is_not_written_again(folder, tracker, tmp_path):
    """However many others of its size there are, the newest content is found, and stays the very
    file that it was.
    """
    file = tmp_path / "checkpoint"
    for number in range(10):
        file.write_bytes(bytes([number]) * COMPARED_BYTES_MIN)
        tracker.log_artifact(file, f"epoch-{number}")
    kept = Path(tracker.trial_component.output_artifacts["epoch-9"].value)
    before = kept.stat().st_ino
    tracker.log_artifact(file, "best")
    assert len(list((folder / "spool").glob("??/*"))) == 10
    assert kept.stat().st_ino == before


def test_folder_of_artifacts_keeps_relative_names(tracker, tmp_path):
    """log_artifacts names files by their path below the folder."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a.txt").write_text("a")
    (tmp_path / "d" / "sub" / "b.txt").write_text("b")
    tracker.log_artifacts(tmp_path / "d")
    assert sorted(tracker.trial_component.output_artifacts) == ["a.txt", "sub/b.txt"]


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.log_parameter("", 1),
        lambda t: t.log_parameter("a" * 321, 1),
        lambda t: t.log_metric("a\nb", 1.0),
        lambda t: t.log_metric("loss", 1.0, iteration_number=-1),
        lambda t: t.log_metric("loss", 1.0, iteration_number=2**31),
        lambda t: t.log_metric("loss", 1.0, step=-1),
        lambda t: t.log_metric("loss", 1.0, iteration_number=1, step=2),
        lambda t: t.log_metrics({"loss": 1.0}, 1, step=2),
        lambda t: t.log_metric("loss", 1.0, timestamp=-5),
        lambda t: t.log_metric("\ud800", 1.0),
        lambda t: t.log_input("n" * 129, "v"),
        lambda t: t.log_artifact("/nonexistent"),
        lambda t: t.log_artifact("/"),
        lambda t: t.log_artifacts("/etc/hostname"),
        lambda t: t.log_parameters({"good": 1, "": 2}),
        lambda t: t.log_metrics({"good": 1.0, "bad\n": 2.0}),
    ],
)
def test_what_can_never_be_right_raises_and_records_nothing(folder, tracker, call):
    """A programmer's mistake is a ValueError at the call, and nothing of the call is journaled."""
    before = rows(folder, "SELECT count(*) FROM entry")
    with pytest.raises(ValueError):
        call(tracker)
    assert rows(folder, "SELECT count(*) FROM entry") == before


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.log_metric("loss", "half"),
        lambda t: t.log_metric("loss", 1j),
        lambda t: t.log_metric(3, 1.0),
        lambda t: t.log_metric("loss", 1.0, iteration_number=1.5),
        lambda t: t.log_metric("loss", 1.0, iteration_number=True),
        lambda t: t.log_metric("loss", 1.0, step="1"),
        lambda t: t.log_metric("loss", 1.0, iteration_number=1, step="1"),
        lambda t: t.log_metric("loss", 1.0, timestamp="now"),
        lambda t: t.log_parameter(None, 1),
        lambda t: t.log_input("x", 5),
        lambda t: t.log_metric("loss", np.zeros(2)),
    ],
)
def test_wrong_types_are_type_errors(folder, tracker, call):
    """An argument of the wrong type is a TypeError at the call, and nothing is journaled."""
    before = rows(folder, "SELECT count(*) FROM entry")
    with pytest.raises(TypeError):
        call(tracker)
    assert rows(folder, "SELECT count(*) FROM entry") == before


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((each, "NaN or infinite") for each in (math.nan, math.inf, -math.inf, np.float64("nan"))),
        (10**400, "too large for a double"),
    ],
    ids=["nan", "inf", "-inf", "numpy", "large"],
)
def test_what_only_the_data_decides_is_kept_and_marked(folder, tracker, value, why):
    """A NaN loss is journaled, quarantined with the reason, and warned about once per name."""
    with pytest.warns(JournaltrackWarning, match="will not be delivered"):
        tracker.log_metric("loss", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_metric("loss", value)
    found = rows(
        folder,
        "SELECT d.outcome, d.reason FROM delivery d JOIN entry e USING (seq) WHERE e.name = 'loss'",
    )
    assert [outcome for outcome, _ in found] == ["quarantined"] * 2
    assert why in found[0][1]


def test_strict_raises_and_records_nothing(folder):
    """With strict=True what AWS could never accept is an error at the call."""
    tracker = Tracker.create(journal=folder, sync="off", strict=True)
    before = rows(folder, "SELECT count(*) FROM entry")
    with pytest.raises(UndeliverableError):
        tracker.log_metric("loss", math.nan)
    with pytest.raises(UndeliverableError):
        tracker.log_parameter("long", "x" * 3_000)
    assert rows(folder, "SELECT count(*) FROM entry") == before


def test_the_301st_parameter_is_kept_and_told(folder, tracker):
    """One parameter more than a component holds is journaled as the others are: a pass keeps it
    in a file.
    """
    tracker.log_parameters({f"p{i}": i for i in range(300)})
    with pytest.warns(JournaltrackWarning, match=r"300 parameters.*parameters\.json"):
        tracker.log_parameter("one more", 1)
    tracker.log_parameters({"p1": 1, "another": 2})
    tracker.log_parameter("p0", "again")
    assert rows(folder, "SELECT count(*) FROM delivery") == [(0,)]
    assert len(tracker.trial_component.parameters) == 302


def test_a_parameter_that_aws_can_not_take_leaves_its_place_to_another(folder, tracker):
    """A tracker that loads the component counts those that are delivered."""
    tracker.log_parameters({f"p{i}": i for i in range(299)})
    with pytest.warns(JournaltrackWarning):
        tracker.log_parameter("nan", float("nan"))
    tracker.close()
    name = tracker.trial_component.trial_component_name
    with Tracker.load(name, journal=folder, sync="off") as loaded:
        loaded.log_parameter("one more", 1)
        with pytest.warns(JournaltrackWarning, match="300 parameters"):
            loaded.log_parameter("too many", 1)


def test_a_component_of_another_library_is_taken_as_loaded(folder, monkeypatch):
    """Whatever has its name: a sync attaches to what is there, and makes none."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(folder))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    theirs = Tracker(SimpleNamespace(trial_component_name="Theirs"))
    theirs.log_metric("loss", 1.0)
    theirs.close()
    assert rows(folder, "SELECT kind FROM entry ORDER BY seq") == [("load",), ("metric",)]


def test_media_type_that_aws_refuses_is_recorded_with_a_warning(tracker):
    """A media type with parameters is kept in the journal and named in a warning."""
    with pytest.warns(JournaltrackWarning, match="media type"):
        tracker.log_input("in", "v", "text/plain; charset=utf-8")
    assert tracker.trial_component.input_artifacts["in"].media_type == "text/plain; charset=utf-8"


def test_with_sets_status_and_times(tracker):
    """A block that ends well is Completed, between its start and its end."""
    with tracker:
        assert tracker.trial_component.status.primary_status == "InProgress"
    component = tracker.trial_component
    assert component.status.primary_status == "Completed"
    assert component.start_time <= component.end_time <= datetime.now(timezone.utc)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("line one\nline two"), "Failed", "line one line two"),
        (KeyError("x"), "Failed", "'x'"),
        (RuntimeError("x" * 5_000), "Failed", "x" * 1_023 + "…"),
        (KeyboardInterrupt(), "Stopped", "KeyboardInterrupt"),
        (SystemExit(0), "Completed", None),
        (SystemExit(3), "Failed", "SystemExit: 3"),
    ],
)
def test_an_exception_in_the_block_is_the_status(folder, tracker, error, status, message):
    """The exception passes through; its text, made acceptable to AWS, is the status message; the
    traceback is journaled.
    """
    with pytest.raises(type(error)), tracker:
        raise error
    found = tracker.trial_component.status
    assert (found.primary_status, found.message) == (status, message)
    traces = rows(
        folder,
        "SELECT json_extract(payload, '$.traceback') FROM entry WHERE kind = 'status' "
        "ORDER BY seq DESC LIMIT 1",
    )
    assert (traces[0][0] is None) == (status == "Completed")


def test_closing_twice_is_fine(folder, tracker):
    """close is idempotent, and records nothing."""
    before = rows(folder, "SELECT count(*) FROM entry")
    tracker.close()
    tracker.close()
    assert rows(folder, "SELECT count(*) FROM entry") == before


def test_replay_on_close_is_asked_for_once_and_not_by_a_child(folder, monkeypatch):
    """close hands the component to the replay; a forked child's close does not."""
    asked = []
    monkeypatch.setattr(Tracker, "services", Services(replay=asked.append))
    tracker = Tracker.create(journal=folder, close_deadline_s=7)
    child = os.fork()
    if child == 0:
        tracker.log_metric("from the child", 1.0)
        tracker.close()
        os._exit(len(asked))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tracker.close()
    tracker.close()
    assert [(r.component, r.deadline_s) for r in asked] == [
        (tracker.trial_component.trial_component_name, 7)
    ]
    assert rows(folder, "SELECT count(DISTINCT writer_id) FROM entry") == [(2,)]


def test_names_are_unique_lower_case_and_acceptable(folder):
    """Generated names fit SageMaker's rules, whatever base is given."""
    journal = Journal.open(folder)
    names = {
        Tracker.create(journal=journal, sync="off").trial_component.trial_component_name
        for _ in range(20)
    }
    long = Tracker.create(
        journal=journal, sync="off", base_trial_component_name="Base-" + "x" * 110
    ).trial_component.trial_component_name
    assert len(names) == 20
    for name in [*names, long]:
        assert name == name.lower()
        assert len(name) <= 120
    assert long.startswith("base-x")
    journal.close()


def test_existing_name_needs_resume(folder):
    """Creating a component that the journal has is refused, resuming it continues, loading it
    needs no network.
    """
    Tracker.create(journal=folder, sync="off", trial_component_name="run").log_parameter("a", 1)
    with pytest.raises(InvalidInputError, match="resume=True"):
        Tracker.create(journal=folder, sync="off", trial_component_name="run")
    with pytest.raises(InvalidInputError, match="'My-run' is its display name"):
        Tracker.create("My-run", journal=folder, sync="off", resume=True)
    resumed = Tracker.create(journal=folder, sync="off", trial_component_name="RUN", resume=True)
    resumed.log_parameter("b", 2)
    assert Tracker.load("run", journal=folder, sync="off").trial_component.parameters == {
        "a": 1.0,
        "b": 2.0,
    }


@pytest.mark.parametrize(
    ("answer", "kinds"), [({"CreatedBy": {}}, '{"verified":true}'), (None, "{}")]
)
def test_loading_an_unknown_name_takes_it_on_trust_when_aws_is_silent(
    folder, monkeypatch, answer, kinds
):
    """A name that AWS knows, or can't be asked about, is attached; the journal says which of the
    two.
    """
    monkeypatch.setattr(Tracker, "services", Services(ask=lambda *_: answer))
    Tracker.load("elsewhere", journal=folder)
    assert rows(folder, "SELECT kind, payload FROM entry") == [("load", kinds)]


def test_loading_what_aws_denies_is_a_value_error(folder, monkeypatch):
    """A name that AWS says does not exist can't be loaded."""
    monkeypatch.setattr(Tracker, "services", Services(ask=lambda *_: {}))
    with pytest.raises(ComponentNotFoundError):
        Tracker.load("nowhere", journal=folder)
    assert rows(folder, "SELECT count(*) FROM entry") == [(0,)]


def test_in_a_training_job_the_jobs_component_is_loaded_and_its_status_left_alone(
    folder, monkeypatch
):
    """load() without a name finds the job's component; `with` leaves status and times to the
    job.
    """
    monkeypatch.setenv(
        "TRAINING_JOB_ARN", "arn:aws:sagemaker:eu-west-1:123456789012:training-job/My-Job"
    )
    with Tracker.load(journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    assert tracker.trial_component.trial_component_name == "my-job-aws-training-job"
    assert rows(folder, "SELECT kind FROM entry") == [("load",), ("metric",)]


@pytest.mark.parametrize(
    ("names", "loaded", "is_job"),
    [
        (("Run", None, None, None, None, "job-1", "job-2"), "run", False),
        ((None, None, None, None, None, "Job-1", "job-2"), "job-1-aws-training-job", True),
        (("", None, None, None, None, "", "job-2"), "job-2-aws-processing-job", True),
    ],
)
def test_a_components_name_wins_over_a_jobs(folder, names, loaded, is_job):
    """All names are positional as in the original; the first that is given counts."""
    tracker = Tracker.load(*names, journal=folder, sync="off")
    assert tracker.trial_component.trial_component_name == loaded
    payload = '{"job":true}' if is_job else "{}"
    assert rows(folder, "SELECT kind, payload FROM entry") == [("load", payload)]


@pytest.mark.parametrize(
    "names", [(3,), (0,), ([],), (None, *[None] * 4, 3), (None, *[None] * 5, b"j")]
)
def test_a_name_to_load_is_text(folder, names):
    """What is no text is no name, also where it counts as false."""
    with pytest.raises(TypeError):
        Tracker.load(*names, journal=folder, sync="off")


def test_a_callers_lineage_tracker_gets_what_its_uploader_took(folder, tracker, tmp_path):
    """The fourth argument takes URI, ETag and media type of each file, and saves on each close;
    files in the journal are no concern of it.
    """
    (tmp_path / "a.txt").write_text("a")
    told = []

    class Uploader:
        def upload_artifact(self, file_path):
            return f"s3://b/{os.path.basename(file_path)}", '"etag"'

    class Lineage:
        def add_input_artifact(self, *what):
            told.append(("input", *what))

        def add_output_artifact(self, *what):
            told.append(("output", *what))

        def save(self):
            told.append("saved")

    offline = tracker._settings
    own = Tracker(tracker.trial_component, None, Uploader(), Lineage(), _settings=offline)
    own.log_artifact(tmp_path / "a.txt")
    own.log_input_artifact(tmp_path / "a.txt", "in", "text/csv")
    own.close()
    assert told == [
        ("output", "a.txt", "s3://b/a.txt", '"etag"', "text/plain"),
        ("input", "in", "s3://b/a.txt", '"etag"', "text/csv"),
        "saved",
    ]
    del told[:]
    spooling = Tracker(tracker.trial_component, None, None, Lineage())
    spooling.log_artifact(tmp_path / "a.txt")
    assert told == []


def test_numbers_may_be_text(folder, tracker):
    """The text of a number is the number, as a value and as a time; an integer keeps its digits."""
    tracker.log_metric("loss", "0.5", "1700000000.5")
    tracker.log_metric("loss", np.array(["0.25"]), "1700000000")
    with pytest.warns(JournaltrackWarning, match="all its digits"):
        tracker.log_metric("loss", str(2**53 + 1), 1_700_000_000)
    assert rows(folder, "SELECT value, timestamp_ns, payload FROM entry WHERE kind = 'metric'") == [
        (0.5, 1_700_000_000_500_000_000, None),
        (0.25, 1_700_000_000_000_000_000, None),
        (float(2**53), 1_700_000_000_000_000_000, f'{{"exact":"{2**53 + 1}"}}'),
    ]


def test_outside_of_a_job_load_needs_a_name(folder):
    """load() without a name and without a job is a ValueError."""
    with pytest.raises(ValueError, match="no SageMaker"):
        Tracker.load(journal=folder)


def test_own_collaborators_are_used(folder, tmp_path):
    """A caller's writer gets the metrics, a caller's uploader the files; its URI is recorded."""
    (tmp_path / "f.txt").write_text("x")
    taken = []

    class Writer:
        def log_metric(self, *arguments):
            taken.append(arguments)

        def close(self):
            taken.append("closed")

    class Uploader:
        def upload_artifact(self, file_path):
            return f"s3://mine/{os.path.basename(file_path)}", "etag"

    component = Tracker.create(journal=folder, sync="off").trial_component
    tracker = Tracker(component, Writer(), Uploader())
    tracker.log_metric("m", 1.0, None, 3)
    tracker.log_artifact(str(tmp_path / "f.txt"))
    tracker.close()
    assert taken == [("m", 1.0, None, 3), "closed"]
    assert component.output_artifacts["f.txt"].value == "s3://mine/f.txt"


@pytest.mark.parametrize(
    ("given", "nanoseconds"),
    [
        (1_700_000_000, 1_700_000_000 * 10**9),
        (1_700_000_000.25, 1_700_000_000_250_000_000),
        (
            datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=timezone.utc),
            1_700_000_000_123_456_000,
        ),
        (datetime.fromtimestamp(1_700_000_000), 1_700_000_000 * 10**9),  # noqa: DTZ006 - naive is local time
    ],
)
def test_timestamps_are_kept_exactly(folder, tracker, given, nanoseconds):
    """Seconds, aware and naive datetimes mean the same instant in the journal."""
    tracker.log_metric("m", 1, timestamp=given)
    assert rows(folder, "SELECT timestamp_ns FROM entry WHERE kind = 'metric'") == [(nanoseconds,)]


def test_special_files_are_refused_without_blocking(tracker, tmp_path):
    """A FIFO can't be logged, and does not keep training waiting."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ArtifactError, match="regular file"):
        tracker.log_artifact(tmp_path / "fifo")


def test_creating_a_tracker_imports_nothing_heavy(folder):
    """Training pays for no boto3, Alembic, tenacity, watchdog or rich."""
    code = (
        "import sys; from journaltrack import Tracker\nt = "
        f"Tracker.create(journal={str(folder)!r}, sync='off'); t.log_metric('m', 1.0); "
        "t.close()\nprint([m for m in ('boto3', 'botocore', 'sqlalchemy', 'alembic', "
        "'tenacity', 'watchdog', 'rich', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Each is a tenth to a twentieth of a start, with what it imports itself.
SLOW_TO_IMPORT = (
    *("boto3", "sqlalchemy", "platformdirs", "dataclasses", "inspect", "tempfile", "shutil"),
    *("concurrent.futures", "journaltrack.journal.spool.spool", "journaltrack.journal.groups"),
)
FIRST_CALL = """
import sys
from journaltrack import Tracker
Tracker.create(journal=sys.argv[1], sync="off").log_metric("loss", 1.0, iteration_number=0)
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_the_first_call_imports_nothing_slow(tmp_path):
    """A training script waits for the imports of what it uses, and for no others."""
    command = [sys.executable, "-c", FIRST_CALL, tmp_path / "j", *SLOW_TO_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == []
