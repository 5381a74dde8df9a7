"""``journaltrack.testing``, as tests of a user's own code use it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import journaltrack
from journaltrack import JournaltrackWarning, Tracker, testing
from journaltrack.errors import (
    ComponentNotFoundError,
    InvalidInputError,
    JournalNotFoundError,
    RemoteError,
)
from journaltrack.testing import OfflineJournal, offline, offline_journal

__all__ = ["offline_journal"]


def train(**options):
    """What a user's script does."""
    Path("model.bin").write_bytes(b"weights")
    with Tracker.create("Digits", trial_component_name="digits", **options) as tracker:
        tracker.log_parameters({"learning_rate": 0.1, "optimizer": "sgd"})
        tracker.log_input("data", "s3://bucket/digits", media_type="text/csv")
        for step in range(3):
            tracker.log_metrics({"loss": 1.0 / (step + 1), "accuracy": 0.5}, step=step)
        tracker.log_artifact("model.bin")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """The user's working folder, and a home folder to stay out of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOURNALTRACK_HOME")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME")


def test_what_was_logged_is_read_back(offline_journal):
    """Parameters, points in their order, inputs, the bytes of artifacts and the status, before
    anything is delivered.
    """
    train()
    run = offline_journal.run()
    assert (run.name, run.display_name, run.status, run.message) == (
        "digits",
        "Digits",
        "Completed",
        None,
    )
    assert run.parameters == {"learning_rate": 0.1, "optimizer": "sgd"}
    assert [(point.step, point.value) for point in run.metrics["loss"]] == [
        (0, 1.0),
        (1, 0.5),
        (2, 1 / 3),
    ]
    assert [point.value for point in run.metrics["accuracy"]] == [0.5] * 3
    assert (run.inputs["data"].value, run.inputs["data"].media_type) == (
        "s3://bucket/digits",
        "text/csv",
    )
    assert Path(run.outputs["model.bin"].value).read_bytes() == b"weights"
    assert offline_journal.remote.components == {}
    assert offline_journal.run("DIGITS") == run


def test_what_was_logged_can_be_delivered_and_looked_at(offline_journal):
    """``deliver`` and ``sync`` send to the remote in memory, ``verify`` reads it."""
    train()
    assert offline_journal.deliver().pending == 0
    there = offline_journal.remote.components["digits"]
    assert there.parameters == {"learning_rate": 0.1, "optimizer": "sgd"}
    loss = [point for point in there.points if point.name == "loss"]
    assert [point.value for point in loss] == [1.0, 0.5, 1 / 3]
    assert offline_journal.run().metrics["loss"] == loss
    assert there.output_artifacts["model.bin"].value in offline_journal.remote.objects
    assert journaltrack.verify().verified
    assert journaltrack.audit().all_delivered
    assert journaltrack.sync().requests == 0


@pytest.mark.parametrize("sync", ["close", "background", True])
def test_code_that_delivers_by_itself_delivers_to_memory(offline_journal, sync):
    """A tracker that is asked to deliver does it at ``close``, to the remote in memory."""
    train(sync=sync, durability="power")
    assert len(offline_journal.remote.components["digits"].points) == 6
    assert offline_journal.deliver().requests == 0
    with pytest.raises(ComponentNotFoundError):
        Tracker.load("unknown", sync=sync)
    Tracker.load("digits", journal="elsewhere", sync=sync).close()


def test_a_diverged_loss_reads_back_as_it_was(offline_journal):
    """NaN, infinity and integers beyond a double's digits are points like any other."""
    tracker = Tracker.create()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JournaltrackWarning)
        for value in (math.nan, math.inf, -math.inf, 2**60 + 1):
            tracker.log_metric("loss", value)
    first, *others = [point.value for point in offline_journal.run().metrics["loss"]]
    assert math.isnan(first)
    assert others == [math.inf, -math.inf, float(2**60)]


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    """The environment is as it was, the machine's configuration did not count, and HOME stays
    empty.
    """
    (tmp_path / "own.toml").write_text('redact = ["*"]\nsync = "close"\n')
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(tmp_path / "own.toml"))
    before, services, remote = (
        dict(os.environ),
        Tracker.services,
        journaltrack.app.connection.Connection.remote,
    )
    with offline() as journal:
        train()
        assert journal.run().parameters["optimizer"] == "sgd"
        assert journal.path.is_dir()
    with pytest.raises(KeyError), offline():
        raise KeyError
    assert not journal.path.exists()
    assert dict(os.environ) == before
    assert (Tracker.services, journaltrack.app.connection.Connection.remote) == (services, remote)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_tracker_that_is_left_open_leaves_nothing(tmp_path):
    """Its journal is removed with the folder, and neither written again nor warned of when the
    process ends.
    """
    program = (
        "from journaltrack import Tracker\nfrom journaltrack.testing import offline\nwith "
        "offline() as journal:\n    tracker = Tracker.create()\n    tracker.log_metric('loss', "
        "1.0)\n    print(journal.path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).parent.exists()


@pytest.mark.slow
def test_processes_that_the_code_starts_log_to_the_same_journal_and_reach_nobody(offline_journal):
    """Whatever they are told about delivering, it stays pending."""
    program = (
        "from journaltrack import Tracker\nwith Tracker.create(trial_component_name='child', "
        "sync='close', close_deadline_s=0.5) as tracker: tracker.log_parameter('a', 1)"
    )
    credentials = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **credentials},
        check=True,
        capture_output=True,
    )
    assert offline_journal.run("child").parameters == {"a": 1.0}
    assert journaltrack.status().pending == 4
    assert offline_journal.deliver().pending == 0


def test_a_remote_that_fails_can_be_tried(offline_journal):
    """The remote in memory may be replaced by one of the test's own."""

    class Refusing(testing.MemoryRemote):
        def create(self, spec):
            raise RemoteError("no", kind=journaltrack.errors.ErrorKind.HALT, code="AccessDenied")

    train()
    offline_journal.remote = Refusing()
    report = offline_journal.deliver()
    assert (report.delivered, report.halted.code) == (0, "AccessDenied")
    assert offline_journal.run().status == "Completed"


def test_which_run_is_meant_has_to_be_clear(offline_journal):
    """Nothing logged, several runs and no name, or an unknown name are errors that say so."""
    with pytest.raises(JournalNotFoundError):
        offline_journal.run()
    for name in ("a", "b"):
        Tracker.create(trial_component_name=name)
    assert offline_journal.runs() == ["a", "b"]
    with pytest.raises(InvalidInputError, match="2 runs: a, b"):
        offline_journal.run()
    with pytest.raises(InvalidInputError, match="no component 'c'"):
        offline_journal.run("c")
    Tracker.create(trial_component_name="c", journal="own")
    assert OfflineJournal("own").run().name == "c"


CONFTEST = "from journaltrack.testing import offline_journal\n"
TEST = """
import train

def test_training(offline_journal):
    train.main()
    run = offline_journal.run()
    assert run.metrics["loss"][-1].value < 0.5
    assert offline_journal.deliver().pending == 0
    assert offline_journal.remote.components[run.name].parameters == {"learning_rate": 0.01}
"""
TRAIN = """
from journaltrack import Tracker

def main():
    with Tracker.create("Digits") as tracker:
        tracker.log_parameter("learning_rate", 0.01)
        for epoch in range(1, 5):
            tracker.log_metric("loss", 1 / epoch, step=epoch)
"""


@pytest.mark.slow
def test_a_project_of_its_own_uses_the_fixture(tmp_path):
    """A conftest.py of one line, in a process that knows nothing of this suite; without HOME,
    and nothing is written there.
    """
    project = tmp_path / "project"
    project.mkdir()
    for name, text in (
        ("conftest.py", CONFTEST),
        ("test_training.py", TEST),
        ("train.py", TRAIN),
        ("pytest.ini", "[pytest]\n"),
    ):
        (project / name).write_text(text)
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        tmp_path / "temporary",
    ]
    done = subprocess.run(run, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert list((tmp_path / "home").iterdir()) == []


def test_it_works_without_pytest():
    """Importing it needs nothing but journaltrack; the fixture is then not there."""
    program = (
        "import sys; sys.modules['pytest'] = None\nfrom journaltrack import Tracker, "
        "testing\nwith testing.offline() as journal: Tracker.create(); "
        "print(len(journal.runs()), hasattr(testing, 'offline_journal'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 False\n"
