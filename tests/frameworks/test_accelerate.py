"""The tracker of accelerate, registered by its name, in real trainings."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def train(training):
    return training("train_accelerate.py")


def test_every_value_that_is_logged_is_delivered(train):
    """``log_with="journaltrack"`` records numbers and tensors; a text is left out, with a word."""
    output = train("train")
    assert "JournaltrackWarning" in output
    assert train.recorded() == train.reported()
    sent, component = train.delivered()
    assert sent == train.reported()
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters["model/layers"] == {"NumberValue": 1}


def test_a_killed_training_is_resumed_with_every_value(train):
    """What was logged before SIGKILL and after it, is in one run, and delivered."""
    train("kill", code=-signal.SIGKILL)
    assert train.recorded() == train.reported()
    train("resume")
    assert {step for _, step, _ in train.reported()} == set(range(12))
    sent, component = train.delivered()
    assert sent == train.reported()
    assert component.status["PrimaryStatus"] == "Completed"
    assert train.entries("parameter", "lr") == 1


def test_an_exception_is_the_status_though_nobody_tells_of_it(train):
    """accelerate calls nothing: the end of the process tells."""
    train("raise", code=1)
    run = train.journal.run("run")
    assert (run.status, run.message) == ("Failed", "training went wrong")


def test_a_script_that_forgets_the_end_is_completed(train):
    """Many scripts never call ``end_training``."""
    train("forgotten")
    assert train.journal.run("run").status == "Completed"


def test_what_comes_after_the_end_continues_the_run(train):
    """The last end counts."""
    output = train("again")
    assert "InProgress" in output
    run = train.journal.run("run")
    assert [each.value for each in run.metrics["test"]] == [1.0]
    assert run.status == "Completed"


def test_of_two_ranks_the_first_records(train):
    """With torchrun and a process group, each value is recorded once."""
    train("train", launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    assert train.recorded() == train.reported()
    assert train.writers() == 1
