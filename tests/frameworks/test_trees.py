"""The callbacks of XGBoost and LightGBM, in trainings that are killed, fail, and go on."""

from __future__ import annotations

import signal
from collections import Counter

import pytest


@pytest.fixture(params=["xgboost", "lightgbm"])
def train(request, training):
    pytest.importorskip(request.param)
    return training(f"train_{request.param}.py")


def test_every_evaluation_is_delivered(train):
    """After a sync SageMaker has each value that the framework evaluated, and the status."""
    train("train")
    reported = train.reported()
    assert reported.total() == 20 * 4
    assert train.recorded() == reported
    sent, component = train.delivered()
    assert sent == reported
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters["objective"]["StringValue"].startswith("binary")


def test_a_killed_training_goes_on_from_its_checkpoint(train):
    """No evaluation of either process is lost, and steps are the rounds of the model.

    The rounds between the checkpoint and SIGKILL are trained twice, and evaluated alike.
    """
    train("kill", code=-signal.SIGKILL)
    assert train.journal.run("run").status == "InProgress"
    assert train.recorded() == train.reported()
    train("resume")
    reported = train.reported()
    assert train.recorded() == reported
    assert Counter(step for _, step, _ in reported.elements()) == {
        step: 8 if step in {8, 9} else 4 for step in range(20)
    }
    sent, component = train.delivered()
    assert sent == reported
    assert component.status["PrimaryStatus"] == "Completed"


def test_an_exception_is_the_status_that_is_delivered(train):
    """The message and all rounds until then arrive; training again continues the run."""
    train("raise", code=1)
    reported = train.reported()
    sent, component = train.delivered()
    assert sent == reported == train.recorded()
    assert component.status == {
        "PrimaryStatus": "Failed",
        "Message": "training went wrong",
    }
    train("train")
    assert train.journal.run("run").status == "Completed"
    assert train.recorded() == train.reported()
