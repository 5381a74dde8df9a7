"""What all loggers of frameworks share: a run that is made late, copied, ended and continued."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import boto3
import numpy as np
import pytest

from journaltrack import JournaltrackWarning, Tracker
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingExtraError,
    UndeliverableError,
)
from journaltrack.integrations import base
from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, checkpoints_kept, is_rank_zero
from journaltrack.testing import OfflineJournal
from tests.processes import ENVIRONMENT
from tests.simulator import simulator

OPTIONS = {"trial_component_name": "run", "sync": "off"}


class Callback(Logs):
    """A callback of no framework."""

    def __init__(self, **options):
        self._run = FrameworkRun(None, options)


@pytest.fixture
def offline(tmp_path):
    return OfflineJournal(tmp_path / "journal")


@pytest.fixture
def run(offline):
    """A run that is not made yet, and is ended at the end."""
    made = FrameworkRun(None, {**OPTIONS, "journal": offline.path})
    yield made
    made.end()


def points(offline, name, run="run"):
    return [(each.step, each.value) for each in offline.run(run).metrics.get(name, ())]


def program(tmp_path, body, **environment):
    """Run a program that logs to ``journal`` as the run "run"; its exit code."""
    head = (
        "import os, signal, sys\nfrom journaltrack.integrations.base import FrameworkRun\nrun = "
        "FrameworkRun(None, dict(trial_component_name='run', sync='off', "
        "journal='journal'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + body],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode


def test_nothing_is_made_before_the_first_value(run, offline):
    """A logger that records nothing leaves no journal, and its run has a name all the same."""
    assert run.name == "run"
    assert not run.is_made
    run.end()
    assert not offline.path.exists()


def test_a_run_without_a_name_keeps_the_one_it_got(offline):
    """The unique name is chosen with the logger, and each copy of it records the same run."""
    first = FrameworkRun(None, {"journal": offline.path, "sync": "off"})
    copy = pickle.loads(pickle.dumps(first))
    assert copy.name == first.name
    copy.log_metrics({"loss": 1.0}, 0)
    copy.end()
    first.log_metrics({"loss": 0.5}, 1)
    first.end()
    assert offline.runs() == [first.name]
    assert points(offline, "loss", first.name) == [(0, 1.0), (1, 0.5)]


def test_a_run_without_a_name_is_called_after_the_script(monkeypatch):
    """Outside of a job, whose name tells more; in a notebook there is no script."""
    main = sys.modules["__main__"]
    for file, begins in (
        ("/x/Train_net.py", "train-net-2"),
        ("/x/recipe/__main__.py", "recipe-2"),
        (None, "trialcomponent-2"),
    ):
        monkeypatch.setattr(main, "__file__", file, raising=False)
        assert FrameworkRun(None, {}).name.startswith(begins)
    monkeypatch.setattr(main, "__file__", "/x/train.py", raising=False)
    assert FrameworkRun(None, {"base_trial_component_name": "b"}).name.startswith("b-2")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert FrameworkRun(None, {}).name.startswith("slurm-4711-2")


def test_a_copy_of_a_named_run_continues_it(run, offline):
    """Of a run that may not exist yet, a copy in another process takes the one that is there."""
    copy = pickle.loads(pickle.dumps(run))
    run.log_metrics({"loss": 1.0}, 0)
    copy.log_metrics({"loss": 0.5}, 1)
    copy.end()
    assert points(offline, "loss") == [(0, 1.0), (1, 0.5)]


def test_a_name_that_the_journal_has_is_refused(run, offline):
    """A run that was not resumed does not write into another one."""
    run.log_metrics({"loss": 1.0})
    with pytest.raises(InvalidInputError, match="already"):
        FrameworkRun(None, {**OPTIONS, "journal": offline.path}).log_metrics({"loss": 1.0})


def test_an_end_can_be_followed_by_more(run, offline):
    """What comes after the end is recorded, and the status is InProgress until the next end."""
    run.log_metrics({"loss": 1.0}, 0)
    assert offline.run().status == "InProgress"
    run.end()
    run.end()
    assert offline.run().status == "Completed"
    run.log_metrics({"test": 1.0}, 1)
    assert offline.run().status == "InProgress"
    run.end(ValueError("boom"))
    assert (offline.run().status, offline.run().message) == ("Failed", "boom")
    assert points(offline, "test") == [(1, 1.0)]


def test_an_exception_after_a_good_end_makes_the_run_failed(offline):
    """A ``with`` block around training tells what the framework does not."""
    callback = Callback(**OPTIONS, journal=offline.path)
    callback.tracker.log_metric("loss", 1.0)
    callback._run.end()
    with pytest.raises(RuntimeError), callback:
        raise RuntimeError("afterwards")
    assert (offline.run().status, offline.run().message) == ("Failed", "afterwards")


def test_a_tracker_that_was_given_is_not_ended(offline):
    """Its status and its end are the caller's."""
    with Tracker.create(trial_component_name="run", journal=offline.path, sync="off") as tracker:
        run = FrameworkRun(tracker, {})
        run.log_metrics({"loss": 1.0}, 0)
        run.end()
        assert not tracker.closed
        assert offline.run().status == "InProgress"
        run.end(ValueError("boom"))
        run.stop("requeued")
        assert offline.run().status == "InProgress"
        run.log_metrics({"loss": 0.5}, 1)
    assert offline.run().status == "Completed"
    assert points(offline, "loss") == [(0, 1.0), (1, 0.5)]


def test_a_tracker_and_arguments_of_one_are_refused(offline):
    """Neither would have its effect."""
    with (
        Tracker.create(journal=offline.path, sync="off") as tracker,
        pytest.raises(InvalidInputError, match="sync"),
    ):
        FrameworkRun(tracker, {"sync": "off"})


def test_a_misspelled_argument_is_refused_at_once():
    """It does not wait for the first value, which may come after an hour."""
    with pytest.raises(InvalidTypeError, match="trail_name"):
        FrameworkRun(None, {"trail_name": "x"})


def test_epoch_is_recorded_once_per_change(run, offline):
    """Of an epoch that comes with each step, only changes are points."""
    for step in range(6):
        run.log_metrics({"epoch": step // 3, "loss": float(step)}, step)
    run.log_metrics({"epoch": 1}, 6)
    assert points(offline, "epoch") == [(0, 0), (3, 1)]
    assert len(points(offline, "loss")) == 6


class Unreadable:
    """Has no text, and raises in every other way, too."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def test_one_value_that_can_not_be_recorded_costs_no_other(run, offline):
    """Each is left out with one warning, however often it comes; the others are points."""
    values = {"text": "x", "": 1.0, "a\nb": 2.0, "x" * 300: 3.0, 7: 1.0, "none": None, "loss": 0.5}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.log_metrics(values, 0)
        run.log_metrics(values, 1)
    assert points(offline, "loss") == [(0, 0.5), (1, 0.5)]
    assert {each.category for each in told} == {JournaltrackWarning}
    texts = [str(each.message) for each in told]
    assert len(texts) == len(set(texts))
    for name in ("'text'", "''", r"'a\nb'", "xxx", "none"):
        assert any(name in text for text in texts), name


def test_parameters_of_any_object_do_not_end_training(run, offline):
    """What has no text or no name is left out, the others are recorded."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.log_parameters({"object": Unreadable(), "lr": 0.1, "": 1, "f": float("nan")})
    found = offline.run().parameters
    assert found["lr"] == 0.1
    assert "object" not in found
    assert len(told) >= 2


def test_a_strict_tracker_refuses(offline):
    """With ``strict`` the caller has asked for errors."""
    run = FrameworkRun(None, {**OPTIONS, "journal": offline.path, "strict": True})
    with pytest.raises(InvalidTypeError):
        run.log_metrics({"a": "x"})
    with pytest.raises(UndeliverableError):
        run.log_metrics({"a": float("nan")})
    run.end()


@pytest.mark.parametrize(
    ("given", "recorded"), [(3, 3), (3.0, 3), (3.7, None), (None, None), ("3", None), (-1, None)]
)
def test_steps_of_frameworks_become_steps(run, offline, given, recorded):
    """Whole floats count; of what ``log_metric`` refuses as a step, the point has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JournaltrackWarning)
        run.log_metrics({"loss": 1.0}, given)
    assert points(offline, "loss") == [(recorded, 1.0)]


@pytest.mark.parametrize("step", [float("nan"), float("inf"), 2**31, 10**30, object(), True])
def test_impossible_steps_and_times_cost_no_point(run, offline, step):
    """The point is recorded without a step, at the time of the call, with one warning each."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.log_metrics({"loss": 1.0}, step, timestamp=-5)
        run.log_metrics({"loss": 1.0}, step, timestamp=-5)
    assert points(offline, "loss") == [(None, 1.0)] * 2
    assert [str(each.message)[:8] for each in told] == ["the step", "the time"]


def test_a_warning_that_is_an_error_costs_nothing(run, offline):
    """With ``-W error`` everything that can be recorded is recorded before the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(JournaltrackWarning):
            run.log_metrics({"text": "x", "loss": 1.0, "acc": 0.5}, -3, timestamp=-5)
    assert points(offline, "loss") == [(None, 1.0)]
    assert points(offline, "acc") == [(None, 0.5)]


def test_checkpoints_are_bounded_and_none_ends_training(run, offline, tmp_path, monkeypatch):
    """Files and folders are artifacts, up to a number of names; one that is gone is left out."""
    monkeypatch.setattr(base, "CHECKPOINT_FILES_MAX", 3)
    folder = tmp_path / "checkpoint-1"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a")
    (folder / "sub" / "b.bin").write_bytes(b"b")
    with pytest.warns(JournaltrackWarning, match="gone"):
        run.log_checkpoint(tmp_path / "gone.ckpt", "checkpoints/gone.ckpt")
    run.log_checkpoint(folder, "checkpoints/last")
    run.log_checkpoint(folder / "a.bin", "checkpoints/" + "x" * 200)
    (folder / "a.bin").write_bytes(b"a again")
    run.log_checkpoint(folder, "checkpoints/last")
    (folder / "c.bin").symlink_to(tmp_path / "gone")
    with pytest.warns(JournaltrackWarning, match="a part of the checkpoint .* No such file"):
        run.log_checkpoint(folder, "checkpoints/last")
    (folder / "c.bin").unlink()
    # None of its two files: a part of a checkpoint is none.
    with pytest.warns(JournaltrackWarning, match="has 2 files, and a run keeps at most 3"):
        run.log_checkpoint(folder, "checkpoints/another")
    outputs = offline.run().outputs
    assert {"checkpoints/last/a.bin", "checkpoints/last/sub/b.bin"} < set(outputs)
    assert len(outputs) == 3
    assert Path(outputs["checkpoints/last/a.bin"].value).read_bytes() == b"a again"


def test_which_checkpoints_is_checked():
    """A misspelled choice is refused when the logger is made."""
    assert [checkpoints_kept(each) for each in (None, False, True, "all")] == [
        "",
        "",
        "last",
        "all",
    ]
    for wrong in ("bets", 2, ["last"]):
        with pytest.raises(InvalidInputError, match="log_checkpoints"):
            checkpoints_kept(wrong)


def test_a_requeued_run_is_stopped_and_continued(run, offline):
    """A run that another process will continue is Stopped, and nothing waits for a delivery."""
    run.log_metrics({"loss": 1.0}, 0)
    run.stop("requeued")
    assert (offline.run().status, offline.run().message) == ("Stopped", "requeued")
    run.log_metrics({"loss": 0.5}, 1)
    assert offline.run().status == "InProgress"


def test_threads_make_one_run(run, offline):
    """Of many threads that log first, one makes the tracker."""
    barrier = threading.Barrier(8)

    def log(number):
        barrier.wait()
        run.log_metrics({"loss": float(number)}, number)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(points(offline, "loss")) == [(step, float(step)) for step in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code", "status", "message"),
    [
        ("run.log_metrics({'a': 1.0})", 0, "Completed", None),
        ("run.log_metrics({'a': 1.0}); raise ValueError('boom')", 1, "Failed", "boom"),
        ("run.log_metrics({'a': 1.0}); raise KeyboardInterrupt", -signal.SIGINT, "Stopped", ""),
        (
            "run.log_metrics({'a': 1.0}); run.is_training = True",
            0,
            "Failed",
            "the process exited before training ended",
        ),
        (
            "run.log_metrics({'a': 1.0}); run.is_training = True; sys.exit(3)",
            3,
            "Failed",
            "SystemExit: 3",
        ),
        (
            "run.log_metrics({'a': 1.0}); run.is_training = True; sys.exit(0)",
            0,
            "Failed",
            "the process exited before training ended",
        ),
        ("run.log_metrics({'a': 1.0}); sys.exit('no data')", 1, "Failed", "SystemExit: no data"),
        ("run.log_metrics({'a': 1.0}); sys.exit()", 0, "Completed", None),
        (
            """run.log_metrics({'a': 1.0})
import threading
try:
    sys.exit(4)
except SystemExit as error:
    assert (error.code, type(error).__name__) == (4, 'SystemExit')
thread = threading.Thread(target=sys.exit, args=(5,))
thread.start(); thread.join()
""",
            0,
            "Completed",
            None,
        ),
        ("run.log_metrics({'a': 1.0}); run.end(); run.tracker", 0, "Completed", None),
        ("run.log_metrics({'a': 1.0}); run.end(ValueError('x'))", 0, "Failed", "x"),
        (
            "run.log_metrics({'a': 1.0})\nif os.fork() == 0: sys.exit(1)\nos.wait(); run.end()",
            0,
            "Completed",
            None,
        ),
    ],
    ids=[
        *("end", "exception", "Ctrl-C", "unended", "sys.exit", "exit in training", "exit by text"),
        *("exit 0", "exit caught", "ended", "failed", "fork"),
    ],
)
def test_a_run_that_nobody_ended_ends_with_the_process(
    offline, tmp_path, body, code, status, message
):
    """Its status says how the program ended, where that can be known."""
    assert program(tmp_path, body) == code
    found = offline.run()
    assert found.status == status
    assert found.message == message or (message == "" and found.message)


@pytest.mark.slow
def test_sigterm_with_stop_makes_the_run_stopped(offline, tmp_path):
    """The exception of ``sigterm="stop"`` is no failure, though no framework tells of it."""
    body = (
        "run.log_metrics({'a': 1.0}); run.is_training = True; os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert program(tmp_path, body, JOURNALTRACK_SIGTERM="stop") == 128 + signal.SIGTERM
    assert offline.run().status == "Stopped"


def test_only_rank_zero_of_a_job_records(monkeypatch):
    """torch's group decides; without one, the variables of the launcher."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)

    def decided(**environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return is_rank_zero()

    assert decided()
    assert decided(RANK="0", LOCAL_RANK="1")
    assert not decided(RANK="1", LOCAL_RANK="0")
    assert not decided(LOCAL_RANK="1")
    assert not decided(LOCAL_RANK="0", NODE_RANK="1")
    assert not decided(OMPI_COMM_WORLD_RANK="3")
    assert decided(SLURM_PROCID="5")
    assert decided(RANK="")
    group = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 2
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    assert not decided(RANK="0")
    group.is_initialized = lambda: False
    assert decided(RANK="0")


THREADS_START_AT_EXIT = not (3, 12) <= sys.version_info < (3, 12, 2)
"""CPython's gh-113964. Where none does, the next sync delivers."""


@pytest.mark.slow
def test_a_run_that_nobody_ended_is_delivered_at_exit(offline, tmp_path):
    """As the interpreter exits, the run is ended and delivered within the deadline."""
    with simulator() as sim:
        code = (
            "from journaltrack.integrations.base import FrameworkRun\nrun = FrameworkRun(None, "
            "dict(trial_component_name='run', journal='journal', close_deadline_s=600))\n"
            "run.log_metrics({'loss': 0.5}, 1)\nraise ValueError('boom')\n"
        )
        environment = os.environ | ENVIRONMENT | {"AWS_ENDPOINT_URL": sim.endpoint_url}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
        if THREADS_START_AT_EXIT:
            component = sim.components["run"]
            assert component.status == {"PrimaryStatus": "Failed", "Message": "boom"}
            assert [(each.step, each.value) for each in component.metrics] == [(1, 0.5)]
    assert offline.run("run").status == "Failed"


def test_nested_parameters_lose_only_what_is_refused(run, offline):
    """Of a nested mapping with a name that is too long, and of one that contains itself, the
    others are recorded.
    """
    loop = {"a": 1}
    loop["loop"] = loop
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.log_parameters({"model": {"x" * 400: 1, "layers": 2}, "lr": 0.1})
        run.log_parameters({"good": 1, "bad": loop})
    assert offline.run().parameters == {"model/layers": 2, "lr": 0.1, "good": 1}
    assert len(told) == 2


class _Odd:
    """What refuses to be compared or told."""

    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    __hash__ = object.__hash__

    def __str__(self):
        raise RuntimeError("not to be told")

    __repr__ = __str__


@pytest.mark.parametrize("value", [np.array([1, 2]), _Odd(), "x"], ids=["array", "odd", "text"])
def test_an_epoch_that_is_no_number_ends_no_training(offline, run, value):
    """It is left out with a warning; the other values of the step are recorded."""
    with pytest.warns(JournaltrackWarning, match="'epoch' is left out"):
        run.log_metrics({"epoch": value, "loss": 0.5}, 0)
    run.log_metrics({"epoch": value, "loss": 0.5}, 1)
    for epoch in (1, np.float32(1), np.array([1.0]), 2):
        run.log_metrics({"epoch": epoch}, 3)
    assert points(offline, "loss") == [(0, 0.5), (1, 0.5)]
    assert points(offline, "epoch") == [(3, 1), (3, 2)]


def test_a_name_that_raises_ends_no_training(offline, run):
    """Parameters and metrics are left out one by one, whatever their names do."""
    with pytest.warns(JournaltrackWarning, match="_Odd"):
        run.log_parameters({_Odd(): 1, "lr": 0.1})
    with pytest.warns(JournaltrackWarning, match="is not recorded"):
        run.log_metrics({7: 1.0, "loss": 0.5}, 0)
    assert offline.run("run").parameters == {"lr": 0.1}
    assert points(offline, "loss") == [(0, 0.5)]


def test_a_copy_for_another_process_has_no_session_and_does_not_deliver(offline):
    """A session can't be pickled: the copy records, and whoever has the session delivers."""
    session = boto3.Session("AKIA", "secret", region_name="eu-west-1")
    options = {"trial_component_name": "run", "sync": "background", "boto3_session": session}
    run = FrameworkRun(None, {**options, "journal": offline.path})
    there = pickle.loads(pickle.dumps(run))
    there.log_metrics({"loss": 1.0}, 0)
    assert there.tracker._settings.sync == "off"
    for here in (copy.copy(run), copy.deepcopy(run)):
        assert here._options["boto3_session"] is session
        assert here._options["sync"] == "background"
    assert points(offline, "loss") == [(0, 1.0)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("run_name", "trial_component_name="),
        ("project", "experiment_name="),
        ("jurnal", "journal="),
    ],
)
def test_arguments_of_other_loggers_have_a_hint(given, meant):
    """The hint names the argument of ``Tracker.create`` that is meant."""
    with pytest.raises(InvalidTypeError) as told:
        FrameworkRun(None, {given: "x"})
    assert meant in told.value.hint


def test_a_strict_tracker_refuses_what_is_no_step_and_no_mapping(offline):
    """What a logger leaves out with a warning raises, and nothing is recorded of the call."""
    run = FrameworkRun(None, {**OPTIONS, "journal": offline.path, "strict": True})
    with pytest.raises(InvalidTypeError, match=r"not float 1\.7"):
        run.log_metrics({"a": 1.0}, 1.7)
    with pytest.raises(InvalidTypeError, match="must be a mapping"):
        run.log_metrics(5)
    run.end()
    assert offline.run().metrics == {}


def restarted(run, first, second):
    """What is told when a second training counts its steps from ``second``."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(first, first + 3):
            run.log_metrics({"loss": 1.0, "epoch": 0}, step)
        run.end()
        run.log_metrics({"test_loss": 1.0, "epoch": 0}, 0)
        run.end()
        for step in range(second, second + 3):
            run.log_metric("loss", 0.5, step)
    return [str(each.message) for each in told]


def test_a_second_training_that_counts_anew_is_told_once(run, offline):
    """Its points are recorded, and the warning says that they mix with the first one's."""
    (told,) = restarted(run, 1, 1)
    assert "counts from step 1 again" in told
    assert len(points(offline, "loss")) == 6


@pytest.mark.parametrize("second", [4, 3, 2])
def test_a_training_that_goes_on_is_not_told(run, second):
    """Whether at the next step, or at a checkpoint before the last one; nor is a test."""
    assert restarted(run, 1, second) == []


@pytest.mark.parametrize("name", ["lightning", "transformers", "accelerate", "keras", "xgboost"])
def test_a_missing_framework_says_what_to_install(name, monkeypatch):
    """Importing its logger raises an ImportError with a hint, and what became of the data."""
    for missing in (name, "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"journaltrack.integrations.{name}", raising=False)
    with pytest.raises(MissingExtraError, match="nothing was recorded") as told:
        importlib.import_module(f"journaltrack.integrations.{name}")
    assert f"pip install {name}" in told.value.hint
