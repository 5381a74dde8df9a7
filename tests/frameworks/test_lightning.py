"""The logger of Lightning, in real trainings that are killed, fail, and go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.patience import FOREVER_S


@pytest.fixture
def train(training):
    return training("train_lightning.py")


def without_nan(points):
    """What can be sent: NaN stays in the journal."""
    return type(points)({each: n for each, n in points.items() if each[2] != "NaN"})


def test_every_value_that_lightning_reports_is_delivered(train):
    """After a sync SageMaker has each point of Lightning's own logger; NaN stays in the journal."""
    train("train")
    reported = train.reported()
    assert sum(reported.values()) > 15
    assert train.recorded("epoch") == reported
    sent, component = train.delivered("epoch")
    assert sent == without_nan(reported)
    assert component.status["PrimaryStatus"] == "Completed"
    assert component.parameters["lr"] == {"NumberValue": 0.1}


def test_epoch_is_a_point_of_each_change(train):
    """Lightning adds the epoch to each step; three epochs are three points."""
    train("train")
    points = train.journal.run("run").metrics["epoch"]
    assert [each.value for each in points] == [0, 1, 2]


def test_a_killed_training_is_resumed_with_every_value(train):
    """What Lightning reported before SIGKILL and after it, is in one run, and delivered."""
    train("kill", code=-signal.SIGKILL)
    assert train.journal.run("run").status == "InProgress"
    before = train.reported()
    assert before <= train.recorded("epoch")
    train("resume")
    reported = train.reported()
    assert sum(reported.values()) > sum(before.values()) + 3
    # Of the step at which it was killed, Lightning had not told everything.
    assert reported <= train.recorded("epoch")
    sent, component = train.delivered("epoch")
    assert without_nan(reported) <= sent
    assert component.status["PrimaryStatus"] == "Completed"


@pytest.mark.parametrize(
    ("mode", "status", "message"),
    [
        ("raise", "Failed", "training went wrong"),
        ("interrupt", "Stopped", "KeyboardInterrupt"),
    ],
)
def test_an_exception_is_the_status(train, mode, status, message):
    """A fit that raises makes the run Failed with the message; Ctrl-C makes it Stopped."""
    train(mode, code=1)
    run = train.journal.run("run")
    assert (run.status, run.message) == (status, message)
    assert train.recorded("epoch") == train.reported()


def test_a_test_and_a_second_fit_continue_the_run(train):
    """After finalize, values are recorded and the last end counts; parameters are not repeated."""
    train("again")
    assert train.recorded("epoch") == train.reported()
    run = train.journal.run("run")
    assert len(run.metrics["test_loss"]) == 1
    assert len(run.metrics["val_loss"]) == 5
    assert run.status == "Completed"
    assert train.entries("parameter", "lr") == 1
    sent, _ = train.delivered("epoch")
    assert sent == without_nan(train.reported())


def test_hostile_hyperparameters_do_not_end_training(train):
    """Objects without a text, nested and long ones, None, NaN, and more than 300."""
    train("hostile")
    parameters = train.journal.run("run").parameters
    assert parameters["lr"] == 0.1
    assert parameters["many_399"] == 399
    assert "odd" not in parameters
    assert train.recorded("epoch") == train.reported()
    _, component = train.delivered()
    assert len(component.parameters) <= 300


def test_checkpoints_are_artifacts_when_wanted(train):
    """By default none is recorded; the last or the best one at the end, or all, by their names."""
    train("train")
    assert train.journal.run("run").outputs == {}
    train("last")
    assert set(train.journal.run("run").outputs) == {"checkpoints/last.ckpt"}
    train("best")
    assert set(train.journal.run("run").outputs) == {
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    train("all")
    assert len(train.journal.run("run").outputs) > 3


def test_callbacks_find_folders_with_stable_names(train):
    """Lightning's folders are named after the run, and ``experiment`` is the tracker."""
    output = train("places")
    name, version, log_dir, of_trainer = json.loads(output.splitlines()[0])
    assert (name, version) == ("journaltrack", "run")
    assert log_dir == "lightning_logs/journaltrack/run"
    assert of_trainer == "lightning_logs"
    assert train.journal.run("run").parameters["own"] == 1


def test_of_two_ranks_the_first_records(train):
    """With torchrun and DDP one process records, and each value once."""
    train("train", launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    points = [each.step for each in train.journal.run("run").metrics["train_loss_step"]]
    assert points == sorted(set(points))
    assert train.journal.runs() == ["run"]
    assert train.journal.run("run").status == "Completed"
    assert train.writers() == 1


def test_processes_that_lightning_spawns_record_the_same_run(train):
    """The logger is copied to processes of its own before there is a tracker."""
    train("spawn")
    assert train.journal.runs() == ["run"]
    assert train.recorded("epoch") == train.reported()
    assert train.journal.run("run").status == "Completed"
    assert train.writers() == 1


def test_a_requeued_job_is_stopped_and_continued(train):
    """On Slurm's signal the run is Stopped; the requeued job continues it."""
    train("requeue", code=7)
    run = train.journal.run("run")
    assert (run.status, run.message) == ("Stopped", "Slurm requeued the job")
    train("resume")
    assert train.journal.run("run").status == "Completed"
    assert train.reported() <= train.recorded("epoch")


def test_pytorch_lightning_alone_is_enough():
    """The logger is one of the package that is installed, whichever is imported first."""
    program = (
        "import sys; sys.modules['lightning'] = None\n"
        "from journaltrack.integrations.lightning import JournaltrackLogger\n"
        "from pytorch_lightning.loggers import Logger\n"
        "assert issubclass(JournaltrackLogger, Logger)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=FOREVER_S)
