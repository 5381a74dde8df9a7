"""Histories of MLflow's points in a journal, compared with those of MLflow's own SQLite store."""

from __future__ import annotations

import math
import random
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric

# SQLAlchemy warns about what MLflow does.
pytestmark = [pytest.mark.mlflow, pytest.mark.filterwarnings("ignore")]
POINTS = [(step, ms) for step in (-1, 0, 1) for ms in (5, 6)]


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """A client of a journal, and one of MLflow's SQLite store."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        # There MLflow's store has its artifacts.
        patch.chdir(folder)
        yield [
            MlflowClient(f"journaltrack://{folder}/journal"),
            MlflowClient(f"sqlite:///{folder}/mlflow.db"),
        ]


def point(name, step, ms, model_id=None):
    """A point, with the one value that it has."""
    return Metric(name, step * 10.0 + ms, ms, step, model_id=model_id)


def generated(seed):
    """Calls: points alone and in batches, of models or none, models that are logged at a step."""
    chosen = random.Random(seed)
    for _ in range(chosen.randint(5, 25)):
        kind = chosen.choice(["one", "one", "batch", "model", "again"])
        given = [
            (chosen.choice("ab"), *chosen.choice(POINTS), chosen.choice([None, None, 0, 1]))
            for _ in range(1 if kind == "one" else 6)
        ]
        yield kind, given, chosen.choice([-1, 0, 1])


def performed(client, calls):
    """A run with these calls: its histories, its metrics, and the points of each model."""
    run_id = client.create_run("0").info.run_id
    models = [client.create_logged_model("0", f"m{n}", run_id).model_id for n in range(2)]
    for kind, given, step in calls:
        points = [
            point(name, at, ms, None if model is None else models[model])
            for name, at, ms, model in given
        ]
        if kind == "one":
            (only,) = points
            client.log_metric(
                *(run_id, only.key, only.value, only.timestamp, only.step),
                model_id=only.model_id,
            )
        elif kind == "batch":
            client.log_batch(run_id, points)
        elif kind == "again":
            # As ``mlflow.log_metrics`` does with several models at a step.
            twice = [point(*each[:3], model_id) for each in given for model_id in models]
            client.log_batch(run_id, twice)
        else:
            log_model(client, run_id, step, models)
    run = client.get_run(run_id)
    histories = {
        name: sorted(
            (each.step, each.timestamp, each.value)
            for each in client.get_metric_history(run_id, name)
        )
        for name in "ab"
    }
    told = [
        sorted(
            (each.key, each.step, each.timestamp, each.value)
            for each in client.get_logged_model(model_id).metrics or ()
        )
        for model_id in models
    ]
    return histories, run.data.metrics, told


def log_model(client, run_id, step, models):
    """What ``log_model`` does with a step's points, in MLflow's ``models/model.py``."""
    model_id = client.create_logged_model("0", "another", run_id).model_id
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    models.append(model_id)
    again = [
        Metric(each.key, each.value, each.timestamp, each.step, model_id=model_id)
        for name in client.get_run(run_id).data.metrics
        for each in client.get_metric_history(run_id, name)
        if each.step == step and each.model_id is None
    ]
    client.log_batch(run_id, metrics=again)


def test_a_models_files_are_listed_once(clients, tmp_path):
    """Below their model's name, which is no folder of the run; they load from there."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "MLmodel").write_text("flavors: {}")
    told = []
    for client in clients:
        mlflow.set_tracking_uri(client.tracking_uri)
        run_id = client.create_run("0").info.run_id
        for _ in range(2):
            model_id = client.create_logged_model("0", "lin", run_id).model_id
            client.log_model_artifacts(model_id, tmp_path / "files")
        client.log_text(run_id, "own", "notes/a.txt")
        listed = [
            [(each.path, each.is_dir) for each in client.list_artifacts(run_id, path)]
            for path in (None, "lin", "notes")
        ]
        (tmp_path / str(len(told))).mkdir()
        path = client.download_artifacts(run_id, "lin/MLmodel", tmp_path / str(len(told)))
        told.append((listed, Path(path).read_text()))
    assert told[0] == told[1]


@pytest.mark.parametrize("seed", range(12))
def test_points_are_those_of_mlflows_own_store(clients, seed):
    """A point that is logged again, for a model or not, is no other point; a model has its own."""
    calls = list(generated(seed))
    here, there = (performed(client, calls) for client in clients)
    assert here == there


def test_points_that_compare_with_nothing_are_linked_too(clients):
    """NaN and infinity, which MLflow's SQLite store changes in a model."""
    client, _ = clients
    run_id = client.create_run("0").info.run_id
    for value in (math.nan, math.inf):
        client.log_metric(run_id, "odd", value, 5, 0)
    models = []
    for _ in range(3):
        log_model(client, run_id, 0, models)
    assert len(client.get_metric_history(run_id, "odd")) == 2
    for model_id in models:
        found = client.get_logged_model(model_id).metrics
        assert {str(each.value) for each in found} == {"nan", "inf"}
