"""The callback of CatBoost, in trainings that are killed, fail, and go on."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def train(training):
    return training("train_catboost.py")


@pytest.mark.parametrize("mode", ["train", "period", "again"])
def test_every_evaluation_is_delivered(train, mode):
    """After a sync SageMaker has each value of CatBoost's own results, also of a second fit."""
    train(mode)
    reported = train.reported()
    assert train.recorded() == reported
    sent, component = train.delivered()
    assert sent == reported
    assert component.status["PrimaryStatus"] == "Completed"


def test_a_killed_training_goes_on_from_its_snapshot(train):
    """CatBoost's results of the resumed training are in the run, and nothing else."""
    train("kill", code=-signal.SIGKILL)
    before = train.recorded()
    assert {step for _, step, _ in before} == set(range(10))
    train("resume")
    reported = train.reported()
    # The iteration at which it was killed was not in the snapshot: it is trained twice, alike.
    assert set(train.recorded()) == set(reported)
    assert before <= train.recorded()
    assert train.journal.run("run").status == "Completed"


def test_an_exception_is_the_status(train):
    """CatBoost raises an error of its own with the exception's text."""
    train("raise", code=1)
    found = train.journal.run("run")
    assert found.status == "Failed"
    assert "training went wrong" in found.message
    assert [each.step for each in found.metrics["validation/Logloss"]] == [*range(6)]
