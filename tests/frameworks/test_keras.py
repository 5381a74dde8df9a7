"""The callback of Keras, in real trainings that are killed, fail, and go on."""

from __future__ import annotations

import signal

import pytest

RATE = "learning_rate"


@pytest.fixture
def train(training):
    return training("train_keras.py")


def test_every_value_that_keras_reports_is_delivered(train):
    """After a sync SageMaker has each value of each epoch, with the learning rate."""
    train("train")
    assert train.recorded(RATE) == train.reported()
    rates = [each.value for each in train.journal.run("run").metrics[RATE]]
    assert rates == pytest.approx([0.05] * 5)
    sent, component = train.delivered(RATE)
    assert sent == train.reported()
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters["fit/epochs"] == {"NumberValue": 5}
    assert component.parameters["optimizer/name"] == {"StringValue": "sgd"}


def test_a_killed_training_is_resumed_with_every_value(train):
    """What was reported before SIGKILL and after it, is in one run, and delivered."""
    train("kill", code=-signal.SIGKILL)
    assert train.recorded(RATE) == train.reported()
    train("resume")
    steps = {step for _, step, _ in train.reported()}
    assert steps == {0, 1, 2, 3, 4}
    sent, component = train.delivered(RATE)
    assert sent == train.reported()
    assert component.status["PrimaryStatus"] == "Completed"


@pytest.mark.parametrize(("mode", "code"), [("raise", 1), ("block", 3)])
def test_an_exception_is_the_status_though_nobody_tells_of_it(train, mode, code):
    """Keras calls nothing: the end of the process or of the block tells."""
    train(mode, code=code)
    run = train.journal.run("run")
    assert (run.status, run.message) == ("Failed", "training went wrong")


def test_an_evaluation_and_a_second_fit_continue_the_run(train):
    """What comes after the end of a fit is recorded, and the last end counts."""
    train("again")
    run = train.journal.run("run")
    assert len(run.metrics["test_loss"]) == 1
    assert train.recorded(RATE, "test_loss", "test_mae") == train.reported()
    assert run.status == "Completed"
    assert train.entries("parameter", "fit/epochs") == 1


def test_batches_are_points_when_wanted(train):
    """Each second one of 20, counted over the epochs, beside the epochs."""
    train("batches")
    points = train.journal.run("run").metrics["batch_loss"]
    assert [each.step for each in points] == list(range(0, 20, 2))
    assert train.recorded(RATE, "batch_loss", "batch_mae") == train.reported()


def test_the_model_is_an_artifact_when_wanted(train):
    """By default no file is recorded."""
    train("train")
    assert train.journal.run("run").outputs == {}
    train("model")
    assert set(train.journal.run("run").outputs) == {"model.keras"}


def test_of_two_ranks_the_first_records(train):
    """With torchrun one process records."""
    train("train", launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    assert train.writers() == 1
