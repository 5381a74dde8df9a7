"""MLflow's own code logs into a journal: what it reads back, and what arrives elsewhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from journaltrack import Journal, sync, verify
from journaltrack.compat.mlflow.book import Book
from journaltrack.tracking.settings import settings_of
from tests.mlflow.conftest import ask, history, runs_of, serving
from tests.patience import FOREVER_S
from tests.processes import sync_process
from tests.simulator import simulator

pytestmark = pytest.mark.mlflow
ODD = "a/b c.d:e-f_g"
LONG = "x" * 7_000


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """The folder of a journal that MLflow logs into."""
    folder = tmp_path / "journal"
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    mlflow.set_tracking_uri(f"journaltrack://{folder}")
    mlflow.set_experiment("Default")
    yield folder
    while mlflow.active_run():
        mlflow.end_run()


@contextmanager
def process(journal, program):
    """Another process of MLflow's, which logs into the journal. Its output has lines."""
    environment = {"MLFLOW_TRACKING_URI": f"journaltrack://{journal}", "DO_NOT_TRACK": "true"}
    started = subprocess.Popen(
        [sys.executable, "-c", f"import mlflow, os, sys\n{program}"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def elsewhere(journal, program):
    """What another process of MLflow's prints."""
    with process(journal, program) as started:
        output, errors = started.communicate(timeout=FOREVER_S)
        assert started.returncode == 0, errors
        return output


def logged(tmp_path):
    """A run with all that MLflow's code can log, and a nested one; their ids."""
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    (folder / "one.bin").write_bytes(b"\0" * 10)
    (folder.parent / "same.txt").write_text("notes")
    mlflow.set_experiment("/Users/ada/my experiment")
    with mlflow.start_run(
        run_name="first try!", description="a note", tags={"team": "vision"}
    ) as run:
        mlflow.log_params({"lr": 0.1, ODD: "v", "long": LONG[:4_000]})
        mlflow.log_metric("loss", 2.0, step=-7)
        for step in range(20):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({ODD: 1.5, "big": 1e300}, step=2**40)
        mlflow.log_metric("nan", math.nan)
        mlflow.log_metric("inf", math.inf)
        mlflow.set_tags({"long": LONG, "state": "begun", "gone": "soon"})
        mlflow.set_tag("state", "done")
        mlflow.delete_tag("gone")
        mlflow.log_artifact(file)
        mlflow.log_artifacts(folder.parent, "some/where")
        mlflow.log_dict({"a": 0}, "conf/a.json")
        mlflow.log_dict({"a": 1}, "conf/a.json")
        for context in ("training", "testing"):
            mlflow.log_input(mlflow.data.from_numpy(mlflow_numpy(), name="train"), context=context)
        with mlflow.start_run(nested=True, run_name="inner") as child:
            mlflow.log_param("k", 1)
    return run.info.run_id, child.info.run_id


def mlflow_numpy():
    """A small array."""
    import numpy as np

    return np.arange(6.0).reshape(3, 2)


FILES = {
    "notes.txt": "notes",
    "some/where/deep/one.bin": "\0" * 10,
    "some/where/same.txt": "notes",
    "conf/a.json": '{\n  "a": 1\n}',
}


def test_what_was_logged_is_read_back_here_and_in_another_process(journal, tmp_path):
    """Runs, parameters, every point, tags, inputs, nesting and files; nothing is cut."""
    run_id, child_id = logged(tmp_path)
    client = MlflowClient()
    run = client.get_run(run_id)
    assert mlflow.last_active_run().info.run_id == run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first try!")
    assert run.info.end_time >= run.info.start_time
    assert run.data.params == {"lr": "0.1", ODD: "v", "long": LONG[:4_000]}
    assert (
        run.data.tags.items()
        >= {
            "team": "vision",
            "long": LONG,
            "state": "done",
            "mlflow.note.content": "a note",
            "mlflow.runName": "first try!",
        }.items()
    )
    assert "gone" not in run.data.tags
    assert run.data.metrics["loss"] == 0.05
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["inf"] == math.inf
    steps = [(each.step, each.value) for each in client.get_metric_history(run_id, "loss")]
    assert steps == [(-7, 2.0), *((step, 1 / (step + 1)) for step in range(20))]
    (given,) = run.inputs.dataset_inputs
    # As in MLflow's own stores, the first counts.
    dataset, context = given.dataset, [tag.value for tag in given.tags]
    assert context == ["training"]
    assert (dataset.name, dataset.source_type) == ("train", "code")
    assert client.get_run(child_id).data.tags["mlflow.parentRunId"] == run_id
    listed = {each.path: each.is_dir for each in client.list_artifacts(run_id, "some/where")}
    assert listed == {"some/where/deep": True, "some/where/same.txt": False}
    program = f"""
run = mlflow.MlflowClient().get_run("{run_id}")
print(sorted(run.data.params) == {sorted(run.data.params)!r}, run.data.metrics["loss"])
for name in {list(FILES)!r}:
    path = mlflow.artifacts.download_artifacts(run_id="{run_id}", artifact_path=name)
    print(open(path).read() == {FILES!r}[name])
found = mlflow.search_runs(search_all_experiments=True, output_format="list",
    filter_string="metrics.loss < 0.1 and params.lr = '0.1' and tags.team LIKE 'vis%'")
print([run.info.run_id for run in found] == ["{run_id}"])
"""
    assert elsewhere(journal, program).split() == ["True", "0.05", *["True"] * 5]


def test_a_search_filters_orders_and_pages(journal):
    """As any of MLflow's stores does; deleted runs are found when they are asked for."""
    client = MlflowClient()
    ids = []
    for number in range(5):
        with mlflow.start_run() as run:
            mlflow.log_metric("score", float(number % 3))
            mlflow.log_param("n", number)
        ids.append(run.info.run_id)
    found = client.search_runs(
        ["0"], "metrics.score >= 1", order_by=["metrics.score DESC", "params.n"]
    )
    assert [run.data.params["n"] for run in found] == ["2", "1", "4"]
    first = client.search_runs(["0"], max_results=3, order_by=["params.n"])
    rest = client.search_runs(["0"], max_results=3, order_by=["params.n"], page_token=first.token)
    assert [run.data.params["n"] for run in [*first, *rest]] == list("01234")
    for _ in range(2):
        client.delete_run(ids[0])
    assert len(client.search_runs(["0"])) == 4
    deleted = client.search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert [run.info.run_id for run in deleted] == [ids[0]]
    with pytest.raises(MlflowException, match="deleted"):
        client.log_metric(ids[0], "score", 1.0)
    for _ in range(2):
        client.restore_run(ids[0])
    assert client.get_run(ids[0]).info.lifecycle_stage == "active"


def test_experiments_have_any_name_and_keep_their_ids(journal):
    """Two that differ in case are two; tags are kept; a rename is refused and says what to do."""
    client = MlflowClient()
    names = ["Digits", "digits", "/a b/ü", "x" * 200]
    made = {
        name: client.create_experiment(name, tags={"k": "v", "long": LONG[:900]}) for name in names
    }
    assert len(set(made.values())) == len(names)
    for name, experiment_id in made.items():
        assert client.get_experiment(experiment_id).name == name
        assert client.get_experiment_by_name(name).tags == {"k": "v", "long": LONG[:900]}
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment("Digits")
    client.set_experiment_tag(made["Digits"], "k", "new")
    client.delete_experiment(made["Digits"])
    assert "Digits" not in {each.name for each in client.search_experiments()}
    with pytest.raises(MlflowException, match="active"):
        client.create_run(made["Digits"])
    client.restore_experiment(made["Digits"])
    assert client.get_experiment(made["Digits"]).tags["k"] == "new"
    with pytest.raises(MlflowException, match="can't be renamed in a journal"):
        client.rename_experiment(made["Digits"], "other")
    found = client.search_experiments(filter_string="name LIKE '/a%'")
    assert [each.experiment_id for each in found] == [made["/a b/ü"]]
    assert (
        elsewhere(journal, f"print(mlflow.get_experiment('{made['/a b/ü']}').name)") == "/a b/ü\n"
    )


def test_processes_that_set_one_experiment_at_once_all_log_into_it(journal, monkeypatch):
    """MLflow's set_experiment passes over that it is there, and goes on with the default one."""
    client, name = MlflowClient(), "new"

    class Faster(type(client._tracking_client)):
        def get_experiment_by_name(self, name):
            found = super().get_experiment_by_name(name)
            if found is None:
                with closing(Journal.open(journal)) as other:
                    Book(other, settings_of()).create_experiment(name, {})
            return found

    monkeypatch.setattr("mlflow.tracking.fluent.TrackingServiceClient", Faster)
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        assert run.info.experiment_id == client.get_experiment_by_name(name).experiment_id
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(name)


def test_what_mlflow_refuses_is_refused_and_records_nothing(journal, tmp_path):
    """A changed parameter, a bad name or value, an unknown run: as in MLflow's own stores."""
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/files/\xff")
    (tmp_path / "files").mkdir()
    for path in (bad, tmp_path / "files" / "good"):
        Path(path).write_text("text")
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    assert client.get_run(run_id).data.tags.keys() == {"mlflow.runName"}
    client.log_param(run_id, "lr", 1)
    client.log_param(run_id, "lr", 1)
    before = entries(journal)
    for call in (
        lambda: client.log_param(run_id, "lr", 2),
        lambda: client.log_batch(run_id, [Metric("a", 1.0, 1, 1)], [Param("lr", "2")]),
        lambda: client.log_metric(run_id, "a@b", 1.0),
        lambda: client.log_metric(run_id, "a", "text"),
        lambda: client.log_metric(run_id, "a", 1.0, step=2**63),
        # Nanoseconds for milliseconds.
        lambda: client.log_metric(run_id, "a", 1.0, timestamp=time.time_ns()),
        lambda: client.set_terminated(run_id, end_time=time.time_ns()),
        lambda: client.create_run("0", start_time=time.time_ns()),
        lambda: client.log_metric("0" * 32, "a", 1.0),
        lambda: client.delete_tag(run_id, "unknown"),
        lambda: client.set_tag(run_id, "a//b", "c"),
        lambda: client.set_tag(run_id, "k" * 251, "c"),
        lambda: client.log_artifact(run_id, bad),
        lambda: client.log_artifacts(run_id, tmp_path / "files"),
    ):
        with pytest.raises(MlflowException):
            call()
    with pytest.raises(MlflowException, match="journal has no model registry"):
        client.create_registered_model("model")
    # MLflow's code handles either.
    for error in (NotImplementedError, MlflowException):
        with pytest.raises(error, match="create_dataset: a journal has no place for this"):
            mlflow.genai.datasets.create_dataset("questions", experiment_id="0")
    assert entries(journal) == before


def test_a_parameter_that_is_logged_meanwhile_is_not_changed(journal):
    """What another thread has recorded since the call began counts, too."""
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id

    class Meanwhile:
        def __str__(self):
            client.log_param(run_id, "lr", 1)
            return "2"

    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client._tracking_client.store.log_batch(run_id, [], [Param("lr", Meanwhile())], [])
    assert client.get_run(run_id).data.params == {"lr": "1"}


def test_a_resumed_run_has_no_end(journal):
    """MLflow's start_run tells the earlier end together with the status RUNNING."""
    with mlflow.start_run() as run:
        pass
    assert mlflow.get_run(run.info.run_id).info.end_time is not None
    with mlflow.start_run(run_id=run.info.run_id):
        assert mlflow.get_run(run.info.run_id).info.end_time is None


def entries(journal):
    """How many entries the journal has."""
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        return opened.last_seq()


def test_calls_that_are_asynchronous_are_done_when_they_return(journal):
    """Nothing waits in a queue that a kill would lose."""
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    mlflow.config.enable_async_logging()
    try:
        for step in range(10):
            operation = client.log_metric(run_id, "loss", 1.0, step=step, synchronous=False)
        client.log_batch(run_id, tags=[RunTag("a", "b")], synchronous=False).wait()
        program = f"print(len(mlflow.MlflowClient().get_metric_history('{run_id}', 'loss')))"
        assert elsewhere(journal, program) == "10\n"
        operation.wait()
    finally:
        mlflow.config.enable_async_logging(False)


def test_a_kill_loses_nothing_and_another_process_continues_the_run(journal):
    """5,000 points of 5,000 are there; the run goes on under its id."""
    program = """
run = mlflow.start_run()
for step in range(5_000):
    mlflow.log_metric("loss", 1.0, step=step)
print(run.info.run_id, flush=True)
sys.stdin.read()
"""
    environment = {"MLFLOW_TRACKING_URI": f"journaltrack://{journal}", "DO_NOT_TRACK": "true"}
    killed = subprocess.Popen(
        [sys.executable, "-c", f"import mlflow, sys\n{program}"],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed:
        run_id = killed.stdout.readline().strip()
        killed.kill()
    client = MlflowClient()
    assert len(client.get_metric_history(run_id, "loss")) == 5_000
    assert client.get_run(run_id).info.status == "RUNNING"
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metric("loss", 0.5, step=5_000)
    assert len(client.get_metric_history(run_id, "loss")) == 5_001
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_script_that_ends_no_run_has_ended_it(journal):
    """MLflow ends the run as the process exits: that is recorded, and nothing is left open."""
    run_id = elsewhere(
        journal, "print(mlflow.start_run().info.run_id)\nmlflow.log_metric('loss', 1.0)"
    ).strip()
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    failing = "import mlflow\nmlflow.start_run()\nraise SystemExit(3)"
    environment = {"MLFLOW_TRACKING_URI": f"journaltrack://{journal}", "DO_NOT_TRACK": "true"}
    subprocess.run([sys.executable, "-c", failing], env=os.environ | environment, check=False)
    statuses = {run.info.status for run in MlflowClient().search_runs(["0"])}
    assert "RUNNING" not in statuses


def test_threads_and_forks_log_into_one_run(journal):
    """10 threads and a forked child: every point once."""
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id

    def log(name):
        for step in range(50):
            client.log_metric(run_id, name, float(step), step=step)

    threads = [threading.Thread(target=log, args=(f"t{number}",)) for number in range(10)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if not child:
        status = 1
        try:
            log("child")
            status = 0
        finally:
            os._exit(status)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    for name in [*(f"t{number}" for number in range(10)), "child"]:
        assert [each.step for each in client.get_metric_history(run_id, name)] == [*range(50)]
    assert len(client.get_run(run_id).data.metrics) == 11


# MLflow's and scikit-learn's own warnings would end the autologging.
@pytest.mark.filterwarnings("ignore")
def test_autolog_with_models_of_scikit_learn(journal, server):
    """Parameters, metrics, plots, the dataset and the model; the model works, here and there."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, labels = load_iris(return_X_y=True)
    mlflow.sklearn.autolog()
    try:
        fitted = LogisticRegression(max_iter=500).fit(features, labels)
    finally:
        mlflow.sklearn.autolog(disable=True)
    run = mlflow.last_active_run()
    (output,) = run.outputs.model_outputs
    model = mlflow.get_logged_model(output.model_id)
    assert (model.status.value, model.source_run_id) == ("READY", run.info.run_id)
    assert {each.key for each in model.metrics} <= run.data.metrics.keys()
    assert run.data.params["max_iter"] == "500"
    assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["dataset"]
    for uri in (f"models:/{model.model_id}", f"runs:/{run.info.run_id}/model"):
        loaded = mlflow.sklearn.load_model(uri)
        assert (loaded.predict(features) == fitted.predict(features)).all()
    found = mlflow.search_logged_models(["0"], output_format="list")
    assert [each.model_id for each in found] == [model.model_id]
    # MLflow's client lists the files of the run, and then those of its models.
    of_run, of_model = (
        [each.path for each in MlflowClient().list_artifacts(run.info.run_id, path)]
        for path in (None, "model")
    )
    assert "model" not in of_run
    assert of_model.count("model/MLmodel") == 1
    assert sync(journal, destination=server).pending == 0
    (there,) = runs_of(server, run.info.run_id)
    assert {each["key"] for each in there["data"]["params"]} == run.data.params.keys()
    mlflow.set_tracking_uri(server)
    experiment_id = there["info"]["experiment_id"]
    (at_server,) = MlflowClient().search_logged_models([experiment_id])
    assert (at_server.status, at_server.source_run_id) == (model.status, there["info"]["run_id"])
    assert at_server.params == model.params
    assert {each.key for each in at_server.metrics} == {each.key for each in model.metrics} != set()
    for uri in (f"runs:/{there['info']['run_id']}/model", f"models:/{at_server.model_id}"):
        loaded = mlflow.sklearn.load_model(uri)
        assert (loaded.predict(features) == fitted.predict(features)).all()
    checked = verify(journal, destination=server)
    assert checked.verified, checked.differences


@pytest.mark.filterwarnings("ignore")
def test_autolog_of_lightgbm(journal):
    """Each iteration's metrics, parameters and importances; its model would be as above."""
    import lightgbm
    import numpy as np

    features = np.random.default_rng(0).normal(size=(300, 4))
    data = lightgbm.Dataset(features, label=features[:, 0] > 0)
    parameters = {"objective": "binary", "metric": "auc", "verbose": -1, "num_threads": 1}
    mlflow.lightgbm.autolog(log_models=False)
    try:
        lightgbm.train(parameters, data, 10, valid_sets=[data], valid_names=["own"])
    finally:
        mlflow.lightgbm.autolog(disable=True)
    run = mlflow.last_active_run()
    client = MlflowClient()
    points = client.get_metric_history(run.info.run_id, "own-auc")
    assert {each.step for each in points} == {*range(10)}
    assert run.data.params["objective"] == "binary"
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert "feature_importance_gain.json" in names


@pytest.mark.filterwarnings("ignore")
def test_a_server_gets_what_mlflow_itself_would_have_written(journal, tmp_path, server):
    """The same keys, values, steps, tags, inputs and files; the parent is the server's own run."""
    run_id, child_id = logged(tmp_path)
    report = sync(journal, destination=server)
    assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0), report
    (run,), (child,) = runs_of(server, run_id), runs_of(server, child_id)
    local = MlflowClient().get_run(run_id)
    mlflow.set_tracking_uri(server)
    client = MlflowClient()
    there = client.get_run(run["info"]["run_id"])
    assert client.get_experiment(there.info.experiment_id).name == "/Users/ada/my experiment"
    assert there.data.params == local.data.params
    own = {k: v for k, v in there.data.tags.items() if not k.startswith("journaltrack.")}
    assert own == local.data.tags
    assert (there.info.run_name, there.info.status) == ("first try!", "FINISHED")
    assert (there.info.start_time, there.info.end_time) == (
        local.info.start_time,
        local.info.end_time,
    )
    steps = sorted(history(server, run, "loss"))
    assert steps == [(-7, 2.0), *((step, 1 / (step + 1)) for step in range(20))]
    assert history(server, run, ODD) == [(2**40, 1.5)]
    assert there.inputs.dataset_inputs == local.inputs.dataset_inputs or [
        dict(each.dataset) for each in there.inputs.dataset_inputs
    ] == [dict(each.dataset) for each in local.inputs.dataset_inputs]
    parent = {each["key"]: each["value"] for each in child["data"]["tags"]}["mlflow.parentRunId"]
    assert parent == run["info"]["run_id"]
    for name, text in FILES.items():
        path = mlflow.artifacts.download_artifacts(run_id=run["info"]["run_id"], artifact_path=name)
        assert Path(path).read_text() == text
    assert sync(journal, destination=server).requests == 0
    checked = verify(journal, destination=server)
    assert checked.verified, checked.differences


def test_a_deleted_run_is_deleted_at_the_server_and_can_be_restored(journal, server):
    """It arrives whole, and a check finds it; what is restored here is restored there."""
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5, step=3)
    mlflow.delete_run(run.info.run_id)
    assert sync(journal, destination=server).pending == 0
    assert runs_of(server, run.info.run_id) == []
    checked = verify(journal, destination=server)
    assert checked.verified, checked.differences
    MlflowClient().restore_run(run.info.run_id)
    assert sync(journal, destination=server).pending == 0
    (there,) = runs_of(server, run.info.run_id)
    assert history(server, there, "loss") == [(3, 0.5)]


def test_mlflows_page_shows_a_journal(journal, tmp_path):
    """Its server answers from the journal whatever the page asks, and records what people set."""
    run_id, child_id = logged(tmp_path)
    with serving(tmp_path, "--backend-store-uri", f"journaltrack://{journal}") as served:
        page = served.uri
        found = ask(page, "experiments/search", {"max_results": 10})["experiments"]
        by_name = {each["name"]: each["experiment_id"] for each in found}
        assert by_name.keys() == {"Default", "/Users/ada/my experiment"}
        asked = {"experiment_ids": [*by_name.values()], "filter": "metrics.loss < 1"}
        (run,) = ask(page, "runs/search", asked)["runs"]
        assert run["info"]["run_id"] == run_id
        assert run["inputs"]["dataset_inputs"][0]["dataset"]["name"] == "train"
        assert len(history(page, run, "loss")) == 21
        bulk = ask(
            page,
            "metrics/get-history-bulk-interval",
            run_ids=run_id,
            metric_key="loss",
            max_results=5,
        )["metrics"]
        assert {0, 19} <= {int(each.get("step", 0)) for each in bulk}
        listed = ask(page, "artifacts/list", run_id=run_id)["files"]
        assert {each["path"] for each in listed} == {"notes.txt", "some", "conf"}
        with urlopen(f"{page}/get-artifact?run_id={run_id}&path=notes.txt") as answer:
            assert answer.read() == b"notes"
        asked = {"experiment_ids": [*by_name.values()]}
        (dataset,) = ask(page, "experiments/search-datasets", asked, api="ajax-api")[
            "dataset_summaries"
        ]
        assert (dataset["name"], dataset["context"]) == ("train", "training")
        assert ask(page, "logged-models/search", asked) == {}
        ask(page, "runs/set-tag", {"run_id": run_id, "key": "seen", "value": "by ada"})
        ask(page, "runs/update", {"run_id": child_id, "run_name": "renamed"})
    client = MlflowClient()
    assert client.get_run(run_id).data.tags["seen"] == "by ada"
    assert client.get_run(child_id).info.run_name == "renamed"


def test_sagemaker_gets_parameters_metrics_and_files(journal, tmp_path):
    """What only MLflow can take quarantines nothing; what no one at AWS can take does, as ever."""
    run_id, _ = logged(tmp_path)
    with simulator() as sim:
        with sync_process(journal, sim.endpoint_url) as synced:
            output = synced.communicate(timeout=FOREVER_S)
        component = sim.components[run_id]
        assert component.parameters["lr"] == {"StringValue": "0.1"}
        # Steps below 0 and above 2^31 - 1, NaN and infinity.
        assert {each.name for each in component.metrics} == {"loss"}
        assert len(component.metrics) == 20
        assert "5 quarantined" in output[0] + output[1]
