"""The callbacks of Optuna and scikit-learn, in searches that are killed, fail, and go on."""

from __future__ import annotations

import contextlib
import json
import signal

import pytest

from journaltrack.testing import OfflineJournal
from tests.processes import sync_process
from tests.simulator import simulator

STATES = {"COMPLETE": 1, "PRUNED": 2, "FAIL": 3}


@contextlib.contextmanager
def delivered(training):
    """Give the simulator after a sync of the training's journal."""
    with simulator() as sim:
        process = sync_process(training.journal.path, sim.endpoint_url)
        output = process.communicate()
        assert process.returncode == 0, output
        yield sim


def table(sim, name):
    """The columns of a table that arrived in S3."""
    (found,) = [each.body for (_, key), each in sim.objects.items() if f"/{name}.json" in key]
    return json.loads(found)["data"]


# -- Optuna --------------------------------------------------------------------------------


@pytest.fixture
def optimize(training):
    pytest.importorskip("optuna")
    return training("train_optuna.py")


def studied(optimize):
    """What Optuna has in its storage, as the program's last process tells."""
    return json.loads((optimize.folder / "study.json").read_text())


def wanted(study):
    """The points that each trial of a study shall have: {name: {step: value}}."""
    points = {}
    for trial in study["trials"]:
        found = {"state": STATES[trial["state"]], "duration_s": trial["duration_s"]}
        if trial["value"] is not None:
            found["value" if trial["state"] == "COMPLETE" else "value-pruned"] = trial["value"]
        found |= {
            "params/x": trial["params"]["x"],
            "params/kind": ["a", "b", None].index(trial["params"]["kind"]),
            "params/size": trial["params"]["size"],
        }
        for name, value in found.items():
            points.setdefault(name, {})[trial["number"]] = value
    return points


def recorded(points):
    """Points by name and step; each step is there once."""
    found = {}
    for name, each in points.items():
        found[name] = {point.step: point.value for point in each}
        assert len(found[name]) == len(each), name
    return found


def same_trials(optimize):
    """The run has exactly what Optuna has, and the best value so far."""
    study = studied(optimize)
    found = recorded(optimize.journal.run(study["run"]).metrics)
    best = found.pop("best_value")
    assert found == wanted(study)
    for number, value in best.items():
        until = [
            trial["value"]
            for trial in study["trials"]
            if trial["state"] == "COMPLETE" and trial["number"] <= number
        ]
        assert value == max(until)
    return study


def test_every_trial_of_a_study_is_delivered(optimize):
    """Points, times, the best trial, and the table of all trials are in SageMaker and S3."""
    optimize("search")
    study = same_trials(optimize)
    assert {trial["state"] for trial in study["trials"]} == set(STATES)
    with delivered(optimize) as sim:
        component = sim.components[study["run"]]
        sent = recorded_of(component)
        del sent["best_value"]
        assert sent == wanted(study)
        times = {
            point.step: point.timestamp for point in component.metrics if point.name == "state"
        }
        for trial in study["trials"]:
            assert abs(times[trial["number"]] - trial["complete"]) < 1
        assert component.status["PrimaryStatus"] == "Completed"
        best = study["trials"][study["best"]]
        assert component.parameters["best/value"] == {"NumberValue": best["value"]}
        assert component.parameters["best/trials"] == {"StringValue": str(best["number"])}
        rows = table(sim, "trials")
        assert rows["number"] == [trial["number"] for trial in study["trials"]]
        assert rows["state"] == [trial["state"] for trial in study["trials"]]
        assert rows["params/kind"] == [trial["params"]["kind"] for trial in study["trials"]]
        assert [json.loads(each) for each in rows["intermediate_values"]] == [
            trial["intermediate"] for trial in study["trials"]
        ]


def recorded_of(component):
    points = {}
    for point in component.metrics:
        points.setdefault(point.name, []).append(point)
    return recorded(points)


@pytest.mark.parametrize("mode", ["kill", "kill-between"])
def test_a_study_that_is_resumed_has_each_trial_once(optimize, mode):
    """The next process finds the run by the study, and records what SIGKILL kept from it."""
    optimize(mode, code=-signal.SIGKILL)
    (run,) = optimize.journal.runs()
    before = len(optimize.journal.run(run).metrics["state"])
    assert before == 6
    optimize("search")
    study = same_trials(optimize)
    assert study["run"] == run
    assert optimize.journal.runs() == [run]
    assert optimize.journal.run(run).status == "Completed"
    assert len(study["trials"]) == 10 + before + (mode == "kill-between")
    # And once more, with nothing missing.
    optimize("search")
    same_trials(optimize)


def test_threads_of_a_study_record_each_trial_once(optimize):
    """With ``n_jobs`` Optuna calls from several threads."""
    optimize("threads")
    study = studied(optimize)
    found = recorded(optimize.journal.run(study["run"]).metrics)
    del found["best_value"]
    assert found == wanted(study)


def test_the_trial_that_raised_is_recorded(optimize):
    """Optuna calls no callback for it; the run is Failed, and the next search continues it."""
    optimize("raise", code=1)
    (run,) = optimize.journal.runs()
    found = optimize.journal.run(run)
    assert (found.status, found.message) == ("Failed", "the search went wrong")
    assert {point.step: point.value for point in found.metrics["state"]}[6] == 3
    optimize("search")
    same_trials(optimize)
    assert optimize.journal.run(run).status == "Completed"


def test_each_trial_is_a_run_of_its_own_if_wanted(optimize):
    """With parameters as they are, intermediate values by their steps, and a status."""
    optimize("runs")
    study = same_trials(optimize)
    status = {"COMPLETE": "Completed", "PRUNED": "Stopped", "FAIL": "Failed"}
    for trial in study["trials"]:
        run = optimize.journal.run(f"{study['run']}-trial-{trial['number']:05d}")
        assert run.status == status[trial["state"]]
        parameters = {**run.parameters}
        parameters.pop("user_attrs/kind", None)
        assert parameters == trial["params"]
        found = {str(point.step): point.value for point in run.metrics["intermediate"]}
        assert found == trial["intermediate"]
        if trial["state"] == "COMPLETE":
            assert run.metrics["value"][0].value == trial["value"]
    assert len(optimize.journal.runs()) == 11


# -- scikit-learn --------------------------------------------------------------------------


@pytest.fixture
def search(training):
    pytest.importorskip("sklearn.callback", reason="scikit-learn 1.9 has callbacks")
    return training("train_sklearn.py")


def folds(journal):
    """The steps of the durations of fits, by how often each is there."""
    name = "search-0/candidate-split-evaluation/duration_s"
    return sorted(point.step for point in journal.run("run").metrics[name])


@pytest.mark.parametrize("mode", ["train", "workers"])
def test_the_results_of_a_search_are_delivered(search, mode):
    """The table in S3 has scikit-learn's columns and values, the parameters the best candidate."""
    search(mode)
    told = json.loads((search.folder / "results.json").read_text())
    assert folds(search.journal) == list(range(12))
    with delivered(search) as sim:
        columns = table(sim, "cv_results")
        wanted = {name: each for name, each in told["results"].items() if name != "params"}
        assert columns == wanted
        component = sim.components["run"]
        assert component.status["PrimaryStatus"] == "Completed"
        assert component.parameters["best/C"] == {"NumberValue": told["best"]["C"]}
        (best,) = [each for each in component.metrics if each.name == "best/mean_test_score"]
        assert best.value == max(told["results"]["mean_test_score"])


def test_a_search_that_was_killed_begins_again_in_its_run(search):
    """What was recorded before SIGKILL stays; the second search is complete."""
    search("kill", code=-signal.SIGKILL)
    assert folds(search.journal) == [0, 1, 2, 3]
    search("train")
    assert folds(search.journal) == sorted([*range(4), *range(12)])
    assert search.journal.run("run").status == "Completed"


def test_a_search_that_raises_is_failed(search):
    """scikit-learn tells callbacks of the end, and the exception is on its way then."""
    search("raise", code=1)
    found = search.journal.run("run")
    assert (found.status, found.message) == ("Failed", "the search went wrong")


def test_a_second_search_continues_the_run(search):
    """After the end, another fit is recorded, and ends the run again."""
    search("again")
    assert folds(search.journal) == sorted([*range(12)] * 2)
    assert search.journal.run("run").status == "Completed"
    assert OfflineJournal(search.folder / "journal").runs() == ["run"]
