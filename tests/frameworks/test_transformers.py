"""The callback of transformers, in real trainings that are killed, fail, and go on."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from journaltrack.integrations.transformers import _metric


@pytest.fixture
def train(training):
    return training("train_transformers.py")


def reported(train):
    """What the Trainer reported, with the names of its other integrations."""
    found = Counter()
    for (name, step, value), count in train.reported().items():
        found[_metric(name), step, value] += count
    return found


def test_every_value_that_the_trainer_reports_is_delivered(train):
    """After a sync SageMaker has each logged value under the names that other callbacks use."""
    train("train")
    assert train.recorded("train/epoch") == reported(train)
    sent, component = train.delivered("train/epoch")
    assert sent == reported(train)
    names = {name for name, _, _ in sent}
    assert {"train/loss", "eval/loss", "train_loss", "train_runtime"} <= names
    assert component.status["PrimaryStatus"] == "Completed"


def test_arguments_are_parameters_if_they_differ_and_all_are_a_document(train):
    """Few parameters, no token, and JSON of all arguments and of the model."""
    train("train")
    run = train.journal.run("run")
    assert run.display_name == "tiny-bert"
    assert run.parameters["num_train_epochs"] == 3
    assert run.parameters["learning_rate"] == 5e-5
    assert len(run.parameters) < 30
    assert not any("token" in name for name in run.parameters)
    arguments = json.loads(Path(run.outputs["training_arguments.json"].value).read_text())
    assert len(arguments) > 80
    assert "hf_secret" not in json.dumps(arguments)
    config = json.loads(Path(run.outputs["model_config.json"].value).read_text())
    assert config["hidden_size"] == 8


def test_epoch_is_a_point_of_each_change(train):
    """The Trainer adds the epoch to each log; equal ones are one point."""
    train("train")
    values = [each.value for each in train.journal.run("run").metrics["train/epoch"]]
    assert values == sorted(set(values))
    assert values[-1] == 3.0


def test_a_killed_training_is_resumed_with_every_value(train):
    """What was reported before SIGKILL and after it, is in one run, and delivered."""
    train("kill", code=-signal.SIGKILL)
    before = reported(train)
    assert before <= train.recorded("train/epoch")
    train("resume")
    assert sum(reported(train).values()) > sum(before.values()) + 3
    assert reported(train) <= train.recorded("train/epoch")
    sent, component = train.delivered("train/epoch")
    assert reported(train) <= sent
    assert component.status["PrimaryStatus"] == "Completed"


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("raise", 1, "training went wrong"),
        ("caught", 3, "SystemExit: 3"),
        ("block", 3, "training went wrong"),
    ],
)
def test_an_exception_is_the_status_though_nobody_tells_of_it(train, mode, code, message):
    """transformers calls nothing: the end of the process or of the block tells."""
    train(mode, code=code)
    run = train.journal.run("run")
    assert (run.status, run.message) == ("Failed", message)


def test_an_evaluation_and_a_second_training_continue_the_run(train):
    """What comes after the end of a training is recorded, and the last end counts."""
    train("again")
    assert train.recorded("train/epoch") == reported(train)
    assert train.journal.run("run").status == "Completed"
    assert train.entries("parameter", "seed") == 1


def test_each_trial_of_a_search_is_a_run(train):
    """The values of two trials do not mix, and each run has its trial's parameters."""
    train("search")
    assert train.journal.runs() == ["run-1", "run-2"]
    runs = [train.journal.run(name) for name in train.journal.runs()]
    assert [run.status for run in runs] == ["Completed"] * 2
    assert [len(run.metrics["eval/loss"]) for run in runs] == [3, 3]
    assert runs[0].parameters["learning_rate"] != runs[1].parameters["learning_rate"]


@pytest.mark.parametrize(("mode", "least"), [("last", 3), ("best", 3), ("all", 9)])
def test_checkpoints_are_artifacts_when_wanted(train, mode, least):
    """Each file of the folders that were wanted; by default none."""
    train(mode)
    found = [name for name in train.journal.run("run").outputs if "checkpoints/" in name]
    assert len(found) >= least
    folder = "checkpoint-2" if mode == "all" else mode
    assert f"checkpoints/{folder}/model.safetensors" in found


def test_of_two_ranks_the_first_records(train):
    """With torchrun one process records, and each value once."""
    train("train", launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    assert train.recorded("train/epoch") == reported(train)
    assert train.writers() == 1
    assert train.journal.run("run").status == "Completed"
