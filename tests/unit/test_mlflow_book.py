"""What the book of a journal records and reads back for MLflow. MLflow itself is not here."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing

import pytest

from journaltrack import Journal, Tracker, limits
from journaltrack.compat.mlflow import book, state
from journaltrack.compat.mlflow.book import Book
from journaltrack.compat.mlflow.points import Logged
from journaltrack.compat.mlflow.state import ExperimentState, Point
from journaltrack.errors import ArtifactError, InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.retention.prune import prune
from journaltrack.tracking.settings import settings_of


@pytest.fixture
def books(folder):
    """Makes a book of one journal, as another process would have it."""
    opened = []

    def make():
        opened.append(Journal.open(folder))
        return Book(opened[-1], settings_of())

    yield make
    for journal in opened:
        journal.close()


def begun(held, **tags):
    """Begin a run of the default experiment, and return its id."""
    return held.create_run(ExperimentState("Default"), 5, tags, "a run").name


def test_another_process_reads_what_was_added_since(books):
    """Parameters, tags and the latest point, by step, time and value; not what it knows already."""
    one, other = books(), books()
    run_id = begun(one, team="vision")
    assert other.run(run_id).state.tags == {"team": "vision", vocabulary.RUN_NAME: "a run"}
    for step, value in ((3, 1.0), (5, 2.0), (4, 9.0), (5, 1.5)):
        one.log_metric(run_id, "loss", value, 7, step)
    one.log_metric(run_id, "odd", math.inf, 7, -(2**63))
    run, before = one.run(run_id), one.state(run_id)
    one.append(run, one.parameter_drafts(run, {"lr": "0.1"}))
    # Another thread that reads what was there is not disturbed.
    assert (one.run(run_id).state.parameters, before.parameters) == ({"lr": "0.1"}, {})
    assert other.latest(run_id) == {
        "loss": Point(5, 7, 2.0),
        "odd": Point(-(2**63), 7, math.inf),
    }
    assert other.run(run_id).state.parameters == {"lr": "0.1"}
    assert [each.step for each in other.history(run_id, "loss")] == [3, 5, 4, 5]
    one.log_metric(run_id, "loss", 0.5, 8, 6)
    assert other.latest(run_id)["loss"] == Point(6, 8, 0.5)


def test_a_journal_that_is_made_is_told(tmp_path, caplog, monkeypatch):
    """A misspelled one is read as empty; of one that is there, nothing is said."""
    monkeypatch.setattr(book, "_books", {})
    for _ in range(2):
        book.opened(str(tmp_path / "secnd"))
    book.opened(None)
    (told,) = caplog.messages
    assert f"no journal at {tmp_path / 'secnd'}" in told
    for each in book._books.values():
        each.journal.close()


def test_points_of_nan_are_the_latest_too(books):
    """NaN compares with nothing, and hides no later point."""
    held = books()
    run_id = begun(held)
    for value in (math.nan, 1.0, math.nan):
        held.log_metric(run_id, "loss", value, 7, 1)
    assert math.isnan(held.latest(run_id)["loss"].value)
    held.log_metric(run_id, "loss", 3.0, 7, 2)
    assert held.latest(run_id)["loss"].value == 3.0


def test_the_last_value_of_a_metric_outlives_a_prune(books):
    """Its points are gone from the history; a search still finds the run by it."""
    held = books()
    run_id = begun(held)
    for step in range(3):
        held.log_metric(run_id, "loss", float(step), 7, step)
    # The last entry of a process stays.
    held.append(held.run(run_id), state.tag_drafts({"a": "b"}, set()))
    Reconciler(held.journal, MemoryRemote()).run()
    assert prune(held.journal.path, ask=None, delivered_before_ns=2**62).by_kind == {"metric": 3}
    held = books()
    assert held.latest(run_id) == {"loss": Point(2, 7, 2.0)}
    assert held.history(run_id, "loss") == []
    held.log_metric(run_id, "loss", 9.0, 8, 3)
    assert held.latest(run_id) == {"loss": Point(3, 8, 9.0)}


def test_files_are_recorded_together_or_not_at_all(books, tmp_path):
    """More than SageMaker has places for, of any length; a missing one records nothing."""
    held = books()
    run_id = begun(held)
    files = []
    for number in range(limits.ARTIFACTS_MAX + 5):
        path = tmp_path / f"{number}"
        path.write_text(f"content {number}")
        files.append((str(path), f"{'deep/' * 30}{number}" if number % 2 else f"plain/{number}"))
    run = held.run(run_id)
    held.log_files(run, files)
    found = books().run(run_id).state.files
    assert found.keys() == {name for _, name in files}
    assert held.file_path(found["plain/0"].sha256).read_text() == "content 0"
    problems = held.journal.database.read("SELECT count(*) FROM delivery")
    # No upload is quarantined for want of a place.
    assert problems == [(0,)]
    with pytest.raises(ArtifactError):
        held.log_files(run, [(files[0][0], "again"), (str(tmp_path / "missing"), "missing")])
    assert "again" not in held.run(run_id).state.files
    with pytest.raises(InvalidInputError, match="no longer in the journal"):
        held.file_path("0" * 64)


def test_a_name_is_a_file_or_a_folder(books, tmp_path):
    """Of those recorded before, and within one call; nothing of a refused call is recorded."""
    held = books()
    run = held.run(begun(held))
    (tmp_path / "file").write_text("content")
    path = str(tmp_path / "file")
    held.log_files(run, [(path, "a/b/c"), (path, "d")])
    for names in (["a"], ["a/b"], ["d/e"], ["new", "d/e/f"], ["n/m", "n"]):
        with pytest.raises(InvalidInputError, match="a file and a folder of the run"):
            held.log_files(held.run(run.state.name), [(path, name) for name in names])
    held.log_files(held.run(run.state.name), [(path, "a/b/d"), (path, "d")])
    assert held.run(run.state.name).state.files.keys() == {"a/b/c", "a/b/d", "d"}


def test_experiments_are_those_declared_and_those_that_runs_name(books, folder):
    """A tracker's own runs are shown, too; names that differ in case are two experiments."""
    held = books()
    made = [held.create_experiment(name, {"k": "v"}) for name in ("Digits", "digits", "a b")]
    assert len({each.id for each in made}) == 3
    for each, name in zip(made, ("Digits", "digits", "a b"), strict=True):
        again = books().experiment(experiment_id=each.id)
        assert (again.shown, again.tags) == (name, {"k": "v"})
    with closing(
        Tracker.create(
            trial_component_name="run-7", experiment_name="cloud", journal=folder, sync="off"
        )
    ) as tracker:
        tracker.log_parameter("lr", 0.5)
    assert held.experiment(shown="cloud") is not None
    assert held.experiment(shown="unknown") is None
    assert held.run("run-7").state.parameters == {"lr": "0.5"}
    with pytest.raises(KeyError):
        held.run("experiment/digits")


def test_a_model_is_found_by_its_id_in_any_process(books):
    """Its run has its document, and the points that tell of it."""
    held = books()
    run_id = begun(held)
    run = held.run(run_id)
    logged = [
        Logged("acc", Point(1, 7, 0.5), "m-1", "train"),
        Logged("acc", Point(1, 8, 0.7)),
    ]
    model = state.document(vocabulary.MODEL, "m-1", {"name": "model"})
    held.append(run, [model, *held.point_drafts(run, logged)])
    other = books()
    assert other.run_of_model("m-1").state.name == run_id
    (point,) = other.of_model("m-1")
    assert (point.name, point.point.value, point.dataset_name) == ("acc", 0.5, "train")
    with pytest.raises(KeyError):
        other.run_of_model("m-2")


def test_a_point_that_is_logged_again_for_a_model_is_recorded_once(books):
    """Also one that another process recorded; what it tells of is read back everywhere."""
    held, other = books(), books()
    run_id = begun(held)
    held.log_metric(run_id, "loss", 0.5, 7, 0)
    held.log_metric(run_id, "loss", math.nan, 8, 0)
    old = [Point(0, 7, 0.5), Point(0, 8, math.nan)]
    for model_id in ("m-1", "m-2"):
        run = other.run(run_id)
        drafts = other.point_drafts(run, [Logged("loss", each, model_id) for each in old])
        assert [each.kind for each in drafts] == [vocabulary.LABEL]
        other.append(run, drafts)
        assert [each.point.timestamp_ms for each in held.of_model(model_id)] == [7, 8]
    # One of the past that is new, and one that the call has twice.
    new = Logged("loss", Point(-1, 7, 0.25), "m-1")
    kinds = [each.kind for each in other.point_drafts(run, [new, new])]
    assert kinds == [vocabulary.METRIC, vocabulary.LABEL]
    assert [each.timestamp_ms for each in held.history(run_id, "loss")] == [7, 8]


def test_what_depends_on_what_a_run_has_is_not_changed_in_between(books):
    """Two processes set one parameter at once: the slower one is asked again, and sees it."""
    held, other = books(), books()
    run_id = begun(held)
    run, asked = held.run(run_id), []

    def drafts_of(now):
        if not asked:
            theirs = other.run(run_id)
            other.append(theirs, other.parameter_drafts(theirs, {"lr": "1"}))
        asked.append(dict(now.parameters))
        return held.parameter_drafts(run, {"lr": "2"})

    held.change(run, ["lr"], drafts_of)
    assert asked == [{}, {"lr": "1"}]
    # What has another name disturbs nobody.
    asked.clear()
    held.change(run, ["epochs"], drafts_of)
    assert len(asked) == 1


def test_a_journal_that_refuses_knows_what_waits(folder):
    """Nothing is left out when the journal takes the calls, and each has seen the one before."""
    with (
        closing(Journal.open(folder, busy_timeout_s=0.01)) as journal,
        closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as locking,
    ):
        held = Book(journal, settings_of())
        run, seen = held.run(begun(held)), []

        def add(number):
            def drafts_of(now):
                seen.append(sorted(now.parameters))
                return [vocabulary.parameter(f"p{number}", number), *of_model(now, number)]

            held.change(run, [f"p{number}", f"{vocabulary.MODEL}m-1"], drafts_of)

        def of_model(now, number):
            told = dict(now.told(vocabulary.MODEL)).get("m-1", {})
            return [state.document(vocabulary.MODEL, "m-1", {**told, f"n{number}": number})]

        locking.execute("BEGIN IMMEDIATE")
        with pytest.warns(RuntimeWarning, match="wait"):
            add(1)
        add(2)
        assert journal.unwritten
        locking.execute("ROLLBACK")
        add(3)
        assert seen == [[], ["p1"], ["p1", "p2"]]
        journal.save()
        after = held.state(run.state.name)
        assert sorted(after.parameters) == ["p1", "p2", "p3"]
        assert dict(after.told(vocabulary.MODEL)) == {"m-1": {"n1": 1, "n2": 2, "n3": 3}}


@pytest.mark.parametrize("shown", ["digits", "Digits"])
def test_an_experiment_that_another_process_makes_meanwhile_is_the_same_or_another(books, shown):
    """Names that differ in case alone are two experiments; tags of both are kept."""
    one, other = books(), books()

    class Meanwhile(dict):
        def items(self):
            if not made:
                made.append(other.create_experiment("digits", {"other": "tag"}))
            return super().items()

    made = []
    begun = one.create_experiment(shown, Meanwhile(own="tag"))
    assert (begun.id == made[0].id, begun.shown) == (shown == "digits", shown)
    found = {each.shown: each.tags for each in one.experiments().values() if each.tags}
    both = {"digits": {"other": "tag"}, "Digits": {"own": "tag"}}
    assert found == ({"digits": {"other": "tag", "own": "tag"}} if shown == "digits" else both)
