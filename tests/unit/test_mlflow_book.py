"""What the book of a journal records and reads back for MLflow. MLflow itself is not here."""

from __future__ import annotations

import math
from contextlib import closing

import pytest

from journaltrack import Journal, Tracker, limits
from journaltrack.compat.mlflow import book, state
from journaltrack.compat.mlflow.book import Book
from journaltrack.compat.mlflow.state import ExperimentState, Point
from journaltrack.errors import ArtifactError, InvalidInputError
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
    assert other.run(run_id).state.tags == {"team": "vision", state.RUN_NAME: "a run"}
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


def test_points_of_nan_are_the_latest_too(books):
    """NaN compares with nothing, and hides no later point."""
    held = books()
    run_id = begun(held)
    for value in (math.nan, 1.0, math.nan):
        held.log_metric(run_id, "loss", value, 7, 1)
    assert math.isnan(held.latest(run_id)["loss"].value)
    held.log_metric(run_id, "loss", 3.0, 7, 2)
    assert held.latest(run_id)["loss"].value == 3.0


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
    told = {"model_id": "m-1", "dataset_name": "train", "dataset_digest": None}
    held.append(
        run,
        [
            state.document(state.MODEL, "m-1", {"name": "model"}),
            book.point_draft("acc", 0.5, 7, 1, told),
            book.point_draft("acc", 0.7, 8, 1),
        ],
    )
    other = books()
    assert other.run_of_model("m-1").state.name == run_id
    (point,) = other.of_model("m-1")
    assert (point.name, point.point.value, point.dataset_name) == ("acc", 0.5, "train")
    with pytest.raises(KeyError):
        other.run_of_model("m-2")
