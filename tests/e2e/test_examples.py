"""The training example as a program: killed at the worst moment, resumed, synced to the
simulator, audited.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import journaltrack
from tests.simulator import simulator

EXAMPLES = Path(__file__).parents[2] / "examples"
EPOCHS = 4
METRICS = {"train:loss", "train:accuracy", "test:loss", "test:accuracy"}

KILLED_BEFORE_CHECKPOINT = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
import digits

save = digits.save_checkpoint

def save_or_die(folder, model, epoch, hyper_parameters):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    save(folder, model, epoch, hyper_parameters)

digits.save_checkpoint = save_or_die
digits.main()
"""


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No credentials, and an endpoint where nobody listens."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "JOURNALTRACK_", "TRAINING_JOB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def arguments(folder: Path) -> list[str]:
    return [
        "--name",
        "digits",
        "--epochs",
        str(EPOCHS),
        "--journal",
        str(folder / "journal"),
        "--checkpoint",
        str(folder / "output"),
    ]


def train(folder: Path, monkeypatch) -> None:
    """Run the example from its beginning to its end, in this process: importing scikit-learn
    takes seconds.
    """
    monkeypatch.setattr(sys, "argv", ["digits.py", *arguments(folder)])
    spec = importlib.util.spec_from_file_location("digits", EXAMPLES / "digits.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "digits", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.main()


def metrics(folder: Path) -> list[tuple[str, int, float]]:
    with contextlib.closing(
        sqlite3.connect(f"file:{folder}/journal/journal.db?mode=ro", uri=True)
    ) as database:
        return database.execute(
            "SELECT name, step, value FROM entry WHERE kind = 'metric' ORDER BY seq"
        ).fetchall()


def test_digits_survives_a_kill_and_arrives_whole(tmp_path, offline, monkeypatch, capsys):
    """Killed after logging an epoch and before its checkpoint, the run resumes in one component,
    and all of it is delivered.
    """
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_CHECKPOINT, str(EXAMPLES), *arguments(killed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "epoch 3 recorded" in done.stdout
    before = metrics(killed)
    assert [(name, step) for name, step, _ in before if step == 3], "what was acknowledged is there"

    train(killed, monkeypatch)
    assert "resuming after epoch 2" in capsys.readouterr().out
    train(whole, monkeypatch)
    after = metrics(killed)
    assert after[: len(before)] == before
    assert len(after) == (EPOCHS + 1) * len(METRICS), (
        "the epoch without a checkpoint is recorded again"
    )
    assert set(after) == set(metrics(whole)), (
        "a resumed run is the run that was never killed, to the last bit"
    )

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with simulator() as sim:
        report = journaltrack.sync(
            killed / "journal", region="us-east-1", endpoint_url=sim.endpoint_url
        )
        assert (report.pending, report.quarantined, report.in_doubt, report.halted) == (
            0,
            0,
            0,
            None,
        )
        assert journaltrack.audit(killed / "journal").all_delivered
        requests = len(sim.requests)
        assert (
            journaltrack.sync(
                killed / "journal", region="us-east-1", endpoint_url=sim.endpoint_url
            ).requests
            == 0
        )
        assert len(sim.requests) == requests
        (component,) = sim.components.values()
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters["epochs"] == {"NumberValue": EPOCHS}
    assert component.parameters["model"] == {"StringValue": "SGDClassifier"}
    assert "sha256=" in component.input_artifacts["dataset"]["Value"]
    assert sorted((p.name, p.step, p.value) for p in component.metrics) == sorted(after)
    files = ("confusion-matrix.csv", "classification-report.json", "model.joblib")
    assert set(component.output_artifacts) == set(files)
    stored = {
        f"s3://{bucket}/{key}": hashlib.sha256(held.body).digest()
        for (bucket, key), held in sim.objects.items()
    }
    for name in files:
        uri = component.output_artifacts[name]["Value"]
        assert stored[uri] == hashlib.sha256((killed / "output" / name).read_bytes()).digest()


def test_digits_refuses_a_checkpoint_of_another_run(tmp_path, offline, monkeypatch):
    """Other hyper-parameters do not continue somebody else's checkpoint."""
    train(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["digits.py", *arguments(tmp_path), "--alpha", "0.1"])
    with pytest.raises(SystemExit, match="is of a run with"):
        sys.modules["digits"].main()
