"""What callers hand in, all the way into the journal and back: nothing acknowledged is lost,
nothing stray comes out.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sqlite3
import warnings
from contextlib import closing
from datetime import datetime, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, limits
from journaltrack.cli import main
from journaltrack.errors import InvalidInputError, InvalidTypeError, UndeliverableError
from journaltrack.journal import vocabulary
from journaltrack.reports.component import show
from journaltrack.reports.entries import each_entry
from journaltrack.tracking.settings import Services
from journaltrack.tracking.validation import JournaltrackWarning
from tests.copies import verify_chains

LONG = 'x"\\{[' * 1_000_000  # 5 million characters, of which JSON escapes many


@pytest.fixture
def folder(tmp_path):
    """Where the test's journal is."""
    return tmp_path / "journal"


@pytest.fixture
def tracker(folder):
    """A tracker that replays nothing."""
    return Tracker.create(journal=folder, sync="off", trial_component_name="run")


def rows(folder, sql):
    """What plain sqlite3 finds in the journal."""
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def file_in(folder, name="file.txt"):
    """A small file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("text")
    return folder / name


def a_folder_with_a_bad_name(tmp_path):
    """One file that can be recorded, and one that can't."""
    file_in(tmp_path / "d")
    file_in(tmp_path / "d", "n" * 129)
    return tmp_path / "d"


@pytest.mark.parametrize(
    ("call", "recorded"),
    [
        (lambda t, _: t.log_metric("m", float("nan")), 1),
        (lambda t, _: t.log_metric("m", 2**53 + 1), 1),
        (lambda t, _: t.log_metric("m", 0.1, 5), 1),
        (lambda t, _: t.log_metrics({"a": float("inf"), "b": 1.0}), 2),
        (lambda t, _: t.log_parameter("p", "x" * 3_000), 1),
        (lambda t, _: t.log_parameters({f"p{i}": i for i in range(301)}), 301),
        (lambda t, _: t.log_input("i", "v", "text/plain; charset=utf-8"), 1),
        (lambda t, _: t.log_output("o", "v" * 3_000), 1),
        (lambda t, p: t.log_artifact(file_in(p), media_type="text/x.y"), 2),
        (lambda t, p: t.log_artifacts(a_folder_with_a_bad_name(p)), 2),
    ],
    ids=[
        "nan",
        "rounded",
        "step",
        "metrics",
        "long text",
        "too many",
        "media type",
        "long reference",
        "artifact",
        "folder",
    ],
)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_an_entry_is_recorded_before_its_warning(call, recorded, durability, tmp_path, folder):
    """With ``-W error`` each call of ours that warns has recorded what it was given, and the
    next such call does not warn again.
    """
    tracker = Tracker.create(journal=folder, sync="off", durability=durability)
    before = rows(folder, "SELECT count(*) FROM entry")[0][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(JournaltrackWarning):
            call(tracker, tmp_path)
        assert rows(folder, "SELECT count(*) FROM entry")[0][0] - before == recorded
        call(tracker, tmp_path)
    tracker.close()
    assert verify_chains(folder) == []


@pytest.mark.parametrize("fate", ["deleted", "moved"])
def test_an_entry_is_recorded_where_the_news_of_a_lost_folder_is_an_error(fate, folder, tmp_path):
    """With ``-W error``, the call that notices that its journal was deleted or moved is recorded
    as every other one.
    """
    now_ns = [1_700_000_000 * 10**9]
    journal = Journal.open(folder, clock_ns=lambda: now_ns[0])
    tracker = Tracker.create(journal=journal, sync="off")
    tracker.log_metric("m", 1.0)
    if fate == "deleted":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "elsewhere")
    now_ns[0] += 10**9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_metric("m", 2.0)
        tracker.log_metric("m", 3.0)
    place = journal.path
    journal.close()
    assert rows(place, "SELECT value FROM entry WHERE kind = 'metric'") == [(1.0,), (2.0,), (3.0,)]
    assert verify_chains(place) == []


def test_a_warning_names_the_line_that_called(tracker, tmp_path):
    """However deep inside the package a warning arises, it is attributed to the caller's file."""
    for call in (
        lambda: tracker.log_metric("m", float("nan")),
        lambda: tracker.log_metrics({"n": float("nan")}),
        lambda: tracker.log_input("i", "v", "a/b; c"),
        lambda: tracker.log_artifacts(a_folder_with_a_bad_name(tmp_path)),
        lambda: Tracker.create("a b", journal=tmp_path / "other", sync="off"),
    ):
        with pytest.warns(JournaltrackWarning) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_a_display_name_is_mended_even_where_warnings_are_errors(folder, caplog):
    """The run has a tracker in any case: a warning, or where that is an error, a line in the
    log.
    """
    with pytest.warns(JournaltrackWarning, match="my-run-v1-2"):
        tracker = Tracker.create("my run_v1.2", journal=folder, sync="off")
    assert tracker.trial_component.display_name == "my-run-v1-2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker = Tracker.create("other run", journal=folder, sync="off")
    assert tracker.trial_component.display_name == "other-run"
    assert "other-run" in caplog.text


@pytest.mark.parametrize(
    "argument",
    [
        "trial_component_name",
        "base_trial_component_name",
        "experiment_name",
        "trial_name",
        "display_name",
    ],
)
def test_a_name_that_can_not_be_used_comes_with_one_that_can(argument, folder):
    """A ValueError whose suggestion is accepted in the same place; nothing was made before."""
    with pytest.raises(ValueError, match="can't be used") as caught:
        Tracker.create(**{argument: "größe=1/2:\u200b" + "x" * 200}, journal=folder, sync="off")
    assert not folder.exists()
    Tracker.create(
        **{argument: caught.value.hint.removeprefix("for example ")}, journal=folder, sync="off"
    )
    with pytest.raises(ValueError, match="for example my-run"):
        Tracker.load("my run", journal=folder, sync="off")


@pytest.mark.parametrize(
    ("sync", "asked"),
    [(False, 0), ("off", 0), (True, 1), ("close", 1), (None, 1)],
)
def test_sync_is_off_when_it_is_false(sync, asked, folder, monkeypatch):
    """False leaves the delivery to others, as it reads; True is the default's."""
    replayed = []
    monkeypatch.setattr(Tracker, "services", Services(replay=replayed.append))
    Tracker.create(journal=folder, sync=sync).close()
    assert len(replayed) == asked


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sync": ""}, InvalidInputError),
        ({"sync": "no"}, InvalidInputError),
        ({"sync": 0}, InvalidTypeError),
        ({"sync": ["off"]}, InvalidTypeError),
        ({"durability": ""}, InvalidInputError),
        ({"durability": False}, InvalidTypeError),
        ({"durability": ["power"]}, InvalidTypeError),
        ({"close_deadline_s": "10"}, InvalidTypeError),
        ({"close_deadline_s": True}, InvalidTypeError),
        ({"close_deadline_s": 0}, InvalidInputError),
        ({"close_deadline_s": float("nan")}, InvalidInputError),
        ({"artifact_bucket": "s3://bucket/prefix"}, InvalidInputError),
        ({"artifact_bucket": "My_Bucket"}, InvalidInputError),
        ({"artifact_bucket": "bucket/prefix"}, InvalidInputError),
        ({"artifact_bucket": 3}, InvalidTypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "make",
    [Tracker.create, lambda **options: Tracker.load("run", **options)],
    ids=["create", "load"],
)
def test_an_option_that_can_never_be_right_is_refused_at_the_call(options, error, make, folder):
    """Not taken for the default, and nothing is made."""
    with pytest.raises(error):
        make(**options, journal=folder)
    assert not folder.exists()


def test_a_url_as_the_bucket_is_answered_with_its_parts(folder):
    """The error says which arguments were meant."""
    with pytest.raises(
        InvalidInputError, match="artifact_bucket='bucket' and artifact_prefix='a/b'"
    ):
        Tracker.create(artifact_bucket="s3://bucket/a/b/", journal=folder)


def test_a_collaborator_that_is_empty_is_still_used(tracker):
    """A caller's metrics writer that is a list of what it took has no points at first."""

    class Writer(list):
        def log_metric(self, *arguments):
            self.append(arguments)

        def close(self):
            pass

    writer = Writer()
    Tracker(tracker.trial_component, writer).log_metric("m", 1.0)
    assert writer == [("m", 1.0, None, None)]


def test_parameters_come_in_many_shapes(tracker):
    """A namespace and pairs are recorded as a mapping is; None is our TypeError and records
    nothing.
    """
    tracker.log_parameters(argparse.Namespace(lr=0.1, optimizer="sgd"))
    tracker.log_parameters([("epochs", 3)])
    for wrong in (None, "text", 5):
        with pytest.raises(InvalidTypeError, match="parameters must be a mapping"):
            tracker.log_parameters(wrong)
        with pytest.raises(InvalidTypeError, match="metrics must be a mapping"):
            tracker.log_metrics(wrong)
    assert tracker.trial_component.parameters == {"lr": 0.1, "optimizer": "sgd", "epochs": 3.0}


def test_metrics_may_be_pairs(tracker, folder):
    """What is taken for parameters is taken for metrics too."""
    tracker.log_metrics([("a", 1.0), ("b", np.float32(0.5))], 3)
    assert rows(folder, "SELECT name, value, step FROM entry WHERE kind = 'metric'") == [
        ("a", 1.0, 3),
        ("b", 0.5, 3),
    ]


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, -(2**63) - 1, 10**400, 10**2_499, np.uint64(2**64 - 1)],
    ids=lambda n: f"{int(n).bit_length()} bits",
)
def test_an_integer_parameter_that_no_double_holds_is_text_with_all_digits(number, tracker, folder):
    """It is sent as it is read back: SageMaker's numbers are doubles, its strings are exact."""
    tracker.log_parameter("seed", number)
    assert tracker.trial_component.parameters == {"seed": str(int(number))}
    assert rows(folder, "SELECT count(*) FROM delivery") == [(0,)]
    assert json.loads(rows(folder, "SELECT payload FROM entry WHERE kind = 'parameter'")[0][0]) == {
        "text": str(int(number))
    }


def test_integers_of_thousands_of_digits_are_recorded(tracker, folder):
    """More digits than ``str`` converts: exact in the journal, marked, and told; the chain goes
    on.
    """
    number = 10**5_000 + 7
    digits = "1" + "0" * 4_999 + "7"
    with pytest.warns(JournaltrackWarning, match="5001 characters"):
        tracker.log_parameter("p", number)
    with pytest.warns(JournaltrackWarning, match="will not be delivered"):
        tracker.log_metric("m", number)
    with pytest.raises(InvalidInputError, match="iteration_number"):
        tracker.log_metric("m", 1.0, iteration_number=number)
    with pytest.raises(InvalidInputError, match="timestamp"):
        tracker.log_metric("m", 1.0, timestamp=number)
    tracker.log_metric("m", 1.0)
    assert tracker.trial_component.parameters == {"p": digits}
    assert json.loads(
        rows(folder, "SELECT payload FROM entry WHERE kind = 'metric' LIMIT 1")[0][0]
    ) == {"exact": digits}
    tracker.close()
    assert verify_chains(folder) == []


def test_a_metric_that_is_rounded_is_told_once(tracker, folder):
    """An integer beyond 2^53 is kept exactly; the double that is sent is named in a warning."""
    with pytest.warns(JournaltrackWarning, match="9007199254740993.*9007199254740992"):
        tracker.log_metric("tokens", 2**53 + 1)
    tracker.log_metric("tokens", 2**53 + 3)
    tracker.log_metric("tokens", 2**53 + 2)
    assert rows(folder, "SELECT value, payload FROM entry WHERE kind = 'metric'") == [
        (float(2**53), '{"exact":"9007199254740993"}'),
        (float(2**53 + 4), '{"exact":"9007199254740995"}'),
        (float(2**53 + 2), None),
    ]


def test_a_time_that_the_journal_can_not_hold_is_refused_and_disturbs_nothing(tracker, folder):
    """SQLite's integers end in 2262: named at the call, recorded nowhere, and the chain goes on."""
    for time in (datetime(2263, 1, 1, tzinfo=timezone.utc), 10**10, np.datetime64("2300-01-01")):
        for call in (
            lambda at: tracker.log_metric("m", 1.0, at),
            lambda at: tracker.log_metrics({"m": 1.0}, 1, at),
        ):
            with pytest.raises(InvalidInputError, match="2262-04-11"):
                call(time)
    tracker.log_metric("m", 1.0, datetime(2262, 4, 11, tzinfo=timezone.utc))
    assert rows(folder, "SELECT count(*) FROM entry WHERE kind = 'metric'") == [(1,)]
    tracker.close()
    assert verify_chains(folder) == []


def test_times_of_pandas_and_numpy_are_recorded_exactly(tracker, folder):
    """To the nanosecond."""
    tracker.log_metric("m", 1.0, pd.Timestamp(1_700_000_000_123_456_789, tz="UTC"))
    tracker.log_metric("m", 1.0, np.datetime64(1_700_000_000_123_456_789, "ns"))
    assert (
        rows(folder, "SELECT timestamp_ns FROM entry WHERE kind = 'metric'")
        == [(1_700_000_000_123_456_789,)] * 2
    )


@pytest.mark.parametrize("timestamp", [0, 5, 1_000_000, np.int64(7), 2.0, np.array(3)], ids=repr)
def test_a_step_in_the_place_of_the_timestamp_is_told_once_per_metric(timestamp, tracker, folder):
    """The point is recorded with that time; the warning names the argument that was meant."""
    with pytest.warns(JournaltrackWarning, match="iteration_number"):
        tracker.log_metric("loss", 0.1, timestamp)
    tracker.log_metric("loss", 0.1, timestamp)
    with pytest.warns(JournaltrackWarning, match="'other'.*iteration_number"):
        tracker.log_metrics({"loss": 0.1, "other": 0.2}, timestamp=timestamp)
    assert {
        row[0] for row in rows(folder, "SELECT timestamp_ns FROM entry WHERE kind = 'metric'")
    } == {int(timestamp) * 10**9}


@pytest.mark.parametrize(
    "timestamp",
    [1_000_000_000, datetime(1999, 1, 1, tzinfo=timezone.utc), np.datetime64("1970-01-02"), None],
)
def test_a_real_time_is_no_step(timestamp, tracker, folder):
    """Old dates are somebody's data; numbers from 2001 on are times."""
    tracker.log_metric("loss", 0.1, timestamp)
    tracker.log_metrics({"loss": 0.1, "other": 0.2}, timestamp=timestamp)
    assert rows(folder, "SELECT step FROM entry WHERE kind = 'metric'") == [(None,)] * 3


@pytest.mark.slow
def test_a_text_of_megabytes_is_recorded_and_read_back(tracker, folder):
    """Whatever is in it: marked, warned about, whole in the journal, and neither load, resume,
    show nor audit mind.
    """
    with pytest.warns(JournaltrackWarning, match="5000000 characters"):
        tracker.log_parameter("prompt", LONG)
    with pytest.warns(JournaltrackWarning, match="5000000 characters"):
        tracker.log_input("data", LONG)
    tracker.close()
    loaded = Tracker.load("run", journal=folder, sync="off")
    with loaded:
        loaded.log_parameter("next", 1)
    assert loaded.trial_component.parameters == {"prompt": LONG, "next": 1.0}
    assert loaded.trial_component.input_artifacts["data"].value == LONG
    Tracker.create(trial_component_name="run", resume=True, journal=folder, sync="off").close()
    view = show(folder, "run")
    assert view.unreadable == ()
    assert {p.name: p.value for p in view.parameters} == {"prompt": LONG, "next": 1.0}
    assert verify_chains(folder) == []
    for command, code in (
        (["show", "run"], 0),
        (["check"], 0),
        (["audit", "entries"], 4),
        (["audit", "history", "prompt"], 0),
    ):
        outcome = CliRunner().invoke(main, [*command, "--journal", str(folder), "--json"])
        assert outcome.exit_code == code, (command, outcome.output[-1_000:])


def test_a_text_beyond_what_sqlite_holds_is_refused(tracker, folder, monkeypatch):
    """Parameters and references alike name the limit, and record nothing."""
    monkeypatch.setattr("journaltrack.limits.TEXT_CHARS_MAX", 5_000)
    for call in (tracker.log_parameter, tracker.log_input, tracker.log_output):
        with pytest.raises(InvalidInputError, match="a journal takes at most 5000"):
            call("name", "x" * 5_001)
    assert rows(folder, "SELECT kind FROM entry") == [("create",)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "payload",
    [
        "{not json",
        "[1]",
        '{"text": 3}',
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a":[' + "1," * 3_000_000 + "1]}",
    ],
    ids=len,
)
def test_an_entry_that_can_not_be_decoded_keeps_nobody_from_going_on(payload, tracker, folder):
    """A damaged or crafted entry of any kind is passed over when the run is loaded, resumed,
    entered and read back.
    """
    tracker.log_parameter("lr", 0.1)
    tracker.close()
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        columns = (
            "writer_id, writer_seq, component_id, stream, kind, name, payload, recorded_at_ns, "
            "digest"
        )
        for number, kind in enumerate(("parameter", "input", "output", "status", "create")):
            connection.execute(
                f"INSERT INTO entry ({columns}) "
                "VALUES (1, ?, 1, 'component', ?, 'odd', ?, 1, x'00')",
                (1_000 + number, kind, payload),
            )
    with Tracker.load("run", journal=folder, sync="off") as loaded:
        loaded.log_parameter("next", 1)
    resumed = Tracker.create(
        trial_component_name="run", resume=True, journal=folder, sync="off"
    ).trial_component
    assert {"lr": 0.1, "next": 1.0}.items() <= resumed.parameters.items()
    assert (resumed.status.primary_status, resumed.display_name) == ("Completed", None)
    assert resumed.start_time is not None
    assert set(resumed.input_artifacts) <= {"odd"}


def test_strict_refuses_before_anything_is_recorded(folder, tmp_path):
    """A strict tracker records nothing of a call with something in it that AWS could never
    accept, a folder's bad name included.
    """
    tracker = Tracker.create(journal=folder, sync="off", strict=True)
    before = rows(folder, "SELECT count(*) FROM entry")
    with pytest.raises(UndeliverableError):
        tracker.log_metrics({"good": 1.0, "bad": float("nan")})
    with pytest.raises(InvalidInputError, match="not recorded"):
        tracker.log_artifacts(a_folder_with_a_bad_name(tmp_path))
    assert rows(folder, "SELECT count(*) FROM entry") == before


def test_logging_content_again_makes_it_young(tmp_path):
    """The entry of an upload renews when its content was last asked for, which decides whether a
    prune may take it.
    """
    now_ns = [1_000]
    journal = Journal.open(tmp_path / "journal", clock_ns=lambda: now_ns[0])
    sha256 = "ab" * 32
    journal.add_blob(sha256, 3)
    now_ns[0] = 2_000
    journal.append(
        journal.component("run"),
        [vocabulary.upload("a", vocabulary.BlobRef(sha256, None, None), 3, None, "a")],
    )
    assert journal.database.read("SELECT spooled_at_ns FROM blob") == [(2_000,)]
    journal.close()


TOO_LARGE = (10**400, -(10**400), 10**5000)


@pytest.mark.parametrize("value", TOO_LARGE, ids=[str(n) for n in range(len(TOO_LARGE))])
def test_a_number_beyond_a_double_is_called_that(tmp_path, value):
    """It is neither NaN nor infinite: the warning and the audit say what it is, its digits are
    kept, and the journal verifies.
    """
    with (
        pytest.warns(UserWarning, match="too large for a double") as warned,
        Tracker.create(journal=tmp_path / "j", sync="off") as tracker,
    ):
        tracker.log_metric("big", value)
    assert not any("infinite" in str(each.message) for each in warned)
    (entry,) = (each for each in each_entry(tmp_path / "j", kind="metric"))
    assert (entry.state, "too large" in str(entry.reason)) == ("quarantined", True)
    assert entry.detail["exact"].lstrip("-") == limits.digits(abs(value))
    assert verify_chains(tmp_path / "j") == []


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        Decimal("-Infinity"),
        Decimal("sNaN"),
        Decimal("1e999999999"),
        Fraction(10**400),
    ],
)
def test_what_is_infinite_is_called_that(tmp_path, value):
    """Also what is infinite as the double that it is recorded as."""
    with (
        pytest.warns(UserWarning, match="NaN or infinite"),
        Tracker.create(journal=tmp_path / "j", sync="off") as tracker,
    ):
        tracker.log_metric("big", value)


def test_what_was_said_of_such_a_number_at_first_still_verifies(tmp_path, monkeypatch):
    """A journal that calls it NaN or infinite, as the first version did, is as it was recorded."""
    monkeypatch.setattr(limits, "too_large", limits.not_finite)
    with (
        pytest.warns(UserWarning, match="NaN or infinite"),
        Tracker.create(journal=tmp_path / "j", sync="off") as tracker,
    ):
        tracker.log_metric("big", 10**400)
    monkeypatch.undo()
    assert verify_chains(tmp_path / "j") == []
