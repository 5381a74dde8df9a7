"""Logged models at an MLflow server: each is there once, with all its files, and then ready."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journaltrack.journal import destinations, vocabulary
from journaltrack.replay.lease import Gate
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.util.deadline import Deadline
from tests.builders import CREATION, add_artifact, opened, points
from tests.simulator.mlflow import CUT_AFTER, CUT_BEFORE, MlflowServer
from tests.unit.test_mlflow_remote import add_more, connected, only_run

READY = 2
FILES = {"MLmodel": b"the model", "data/weights": b"the weights"}


def document(own_id="m-1", **changes):
    """The label of a model."""
    told = {
        "name": "model",
        "folder": "model",
        "source_run_id": "run",
        "model_type": "sklearn",
        "status": READY,
        "tags": {"stage": "test"},
        "params": {f"p{n}": str(n) for n in range(150)},
        **changes,
    }
    return vocabulary.label(f"{vocabulary.MODEL}{own_id}", json.dumps(told))


OUTPUT = vocabulary.label(f"{vocabulary.MODEL_OUTPUT}m-1", json.dumps({"step": 7}))
INPUT = vocabulary.label(f"{vocabulary.MODEL_INPUT}m-1", "{}")


def of_model(own_id, told):
    """What says that points of the run tell of a model."""
    return vocabulary.label(f"{vocabulary.MODEL_METRICS}{own_id}/{len(told)}", json.dumps(told))


METRICS = [
    of_model(
        "m-1", {"points": [["loss", 2, 0, 2.0, None, None], ["loss", 2, 0, 2.0, "iris", "abc"]]}
    ),
    # Of a model that no journal delivers there, and those that can't be read.
    of_model("m-9", {"points": [["loss", 2, 0, 2.0, None, None]]}),
    of_model("m-1", {}),
    vocabulary.label(
        f"{vocabulary.MODEL_METRICS}m-1/odd", json.dumps({"points": [["loss"], "x", [0] * 7]})
    ),
]
WITH_MODEL = {
    "run": [CREATION, document(status=1), document(), OUTPUT, INPUT, *points(3), *METRICS],
}


@pytest.fixture
def server():
    """A strict server on loopback."""
    with MlflowServer() as server:
        yield server


def add_files(journal):
    """Record the files of the model, and one of the run."""
    add_artifact(journal, b"the model")
    add_artifact(journal, b"the weights")
    for name, content in FILES.items():
        add_more(journal, f"model/{name}", content, replaces=True)


def delivered(server, journal):
    """Make one pass, with the models that the journal has."""
    gate = Gate(Deadline())
    models = destinations.own(journal.database).models
    with connected(server, gate, models=models) as remote:
        attempts = remote.attempts_of_last_call
        options = Options()
        return Reconciler(journal, remote, options=options, deadline=gate, attempts=attempts).run()


def alive(server):
    """The models that are not deleted."""
    return [each for each in server.models.values() if not each.deleted]


def files_of(server, model):
    """The files of a model, by name."""
    begin = f"/{model.experiment_id}/models/{model.id}/artifacts/"
    found = ((f"/{path.lstrip('/')}", content) for path, content in server.files.items())
    return {p.removeprefix(begin): content for p, content in found if p.startswith(begin)}


@pytest.mark.journal(WITH_MODEL)
def test_a_model_is_there_with_its_files_and_whose_it_is(server, journal):
    """Files of the run stay the run's. Sent again, nothing changes; a check finds each file."""
    add_files(journal)
    ready = []
    server.fault = lambda _, method, path: (
        ready.append(len(server.files)) if method == "PATCH" and path.count("/") == 5 else None
    )
    report = delivered(server, journal)
    assert (report.pending, report.quarantined) == (0, 0), report
    run, (model,) = only_run(server), alive(server)
    assert (model.name, model.status, model.source_run_id) == ("model", READY, run.id)
    assert files_of(server, model) == FILES
    # It is ready when all its files are there, and not before.
    assert ready == [len(server.files)]
    assert len(server.files) == 4
    assert (len(model.params), model.tags["stage"]) == (150, "test")
    assert (run.outputs, run.model_inputs) == ({model.id: 7}, {model.id})
    assert model.metrics == {("loss", None): 2.0, ("loss", "iris"): 2.0}
    # They are the run's, which has each once.
    assert len(run.points) == 3
    uris = journal.database.read("SELECT uri FROM location")
    with connected(server) as remote:
        assert all(remote.find_object(uri, read=True).sha256 for (uri,) in uris)
    journal.append(journal.component("run"), [document(tags={"stage": "done"}), OUTPUT])
    assert delivered(server, journal).pending == 0
    assert alive(server) == [model]
    assert model.tags["stage"] == "done"


@pytest.mark.journal(WITH_MODEL)
def test_a_server_without_models_has_their_files_in_the_run(server, journal):
    """MLflow 2: nothing is refused, and nothing waits."""
    server.has_models = False
    add_files(journal)
    report = delivered(server, journal)
    assert (report.pending, report.quarantined) == (0, 0), report
    held = {path.partition("/artifacts/")[2] for path in server.files}
    assert {f"model/{name}" for name in FILES} <= held


@pytest.mark.journal(WITH_MODEL)
def test_a_model_that_was_deleted_offline_is_deleted_or_never_made(server, journal):
    """Also one that the server has."""
    delivered(server, journal)
    (model,) = alive(server)
    deleted = {"stage": vocabulary.DELETED}
    unseen = document("m-2", folder="other", **deleted)
    journal.append(journal.component("run"), [document(**deleted), unseen])
    assert delivered(server, journal).pending == 0
    assert model.deleted
    assert len(server.models) == 1


@pytest.mark.journal(WITH_MODEL)
def test_a_model_of_a_run_that_was_deleted_and_restored_is_ready(server, journal):
    """Both came after the model: it waited for a restoration that was there."""
    stages = [vocabulary.label(vocabulary.STAGE, each) for each in (vocabulary.DELETED, "active")]
    journal.append(journal.component("run"), stages)
    report = delivered(server, journal)
    assert (report.pending, report.quarantined) == (0, 0), report
    assert [each.status for each in alive(server)] == [READY]
    assert only_run(server)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.3, 0.5]))
def test_whatever_is_cut_off_the_model_is_there_once_with_all_files(tmp_path_factory, seed, share):
    """Requests without an answer, applied or not, and failures: passes converge to one model."""
    chance = random.Random(seed)
    faults = [CUT_BEFORE, CUT_AFTER, 503, 429]
    with MlflowServer() as server, opened(tmp_path_factory.mktemp("cut"), WITH_MODEL) as journal:
        add_files(journal)
        server.fault = lambda *_: chance.choice(faults) if chance.random() < share else None
        for _ in range(12):
            if delivered(server, journal).pending == 0:
                break
        server.fault = lambda *_: None
        report = delivered(server, journal)
        assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0)
        (model,) = alive(server)
        assert (model.status, files_of(server, model)) == (READY, FILES)
        assert only_run(server).outputs == {model.id: 7}
