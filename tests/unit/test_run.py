"""``Run`` of the SageMaker SDK on a journal: its signatures, its rules, and its bad input."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import re
import sys
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from journaltrack import Tracker
from journaltrack.compat import sagemaker as compat
from journaltrack.compat.sagemaker import Run, SortByType, SortOrderType, list_runs, load_run
from journaltrack.errors import (
    ErrorKind,
    InvalidTypeError,
    MissingExtraError,
    RemoteError,
    RunContextError,
)
from journaltrack.journal import view
from journaltrack.tracking.settings import Services
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.util import paths

SIGNATURES = {
    "Run": "experiment_name, run_name=None, experiment_display_name=None, run_display_name=None, "
    "tags=None, sagemaker_session=None, artifact_bucket=None, artifact_prefix=None",
    "Run.log_parameter": "name, value",
    "Run.log_parameters": "parameters",
    "Run.log_metric": "name, value, timestamp=None, step=None",
    "Run.log_precision_recall": "y_true, predicted_probabilities, positive_label=None, title=None, "
    "is_output=True, no_skill=None",
    "Run.log_roc_curve": "y_true, y_score, title=None, is_output=True",
    "Run.log_confusion_matrix": "y_true, y_pred, title=None, is_output=True",
    "Run.log_artifact": "name, value, media_type=None, is_output=True",
    "Run.log_file": "file_path, name=None, media_type=None, is_output=True, extra_args=None",
    "Run.close": "",
    "load_run": "run_name=None, experiment_name=None, sagemaker_session=None, "
    "artifact_bucket=None, artifact_prefix=None, tags=None",
    "list_runs": "experiment_name, created_before=None, created_after=None, "
    "sagemaker_session=None, max_results=None, next_token=None, "
    "sort_by=SortByType.CREATION_TIME, sort_order=SortOrderType.DESCENDING",
    "Experiment.create": "experiment_name, display_name=None, description=None, tags=None, "
    "sagemaker_session=None",
    "Experiment.load": "experiment_name, sagemaker_session=None",
    "Experiment.save": "",
    "Experiment.delete": "",
    "Experiment.list_trials": "created_before=None, created_after=None, sort_by=None, "
    "sort_order=None",
}
"""Of sagemaker 2.257.7, read from its wheel with ``ast``: sagemaker/experiments/run.py and
experiment.py, without annotations and without ``self``.
"""

pytestmark = pytest.mark.lineage

TITLE_OF_A_SENTENCE = "Confusion matrix for predicting Churn, v2.0 (größer)"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is delivered, and SageMaker does not answer."""
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")


class Aws:
    """SageMaker's answers by operation, and the requests. Without an answer, it is not reached."""

    def __init__(self):
        self.answers = {}
        self.requests = []

    def ask(self, request, operation, members):
        self.requests.append((operation, dict(members)))
        if operation not in self.answers:
            raise RemoteError("no route", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError")
        return self.answers[operation]


@pytest.fixture
def aws(monkeypatch):
    """What SageMaker answers; nothing at first. Nothing is delivered."""
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    made = Aws()
    monkeypatch.setattr(Tracker, "services", Services(ask=made.ask))
    return made


def entries(kind=None):
    """Component, kind, name, value and payload of the default journal's entries, in order."""
    if not paths.default_journal().exists():
        return []
    with view.opened(paths.default_journal()) as journal:
        found = [
            SimpleNamespace(
                component=e.component, kind=e.kind, name=e.name, value=e.value, d=e.detail
            )
            for e in journal.entries()
        ]
    return [each for each in found if kind in {None, each.kind}]


def plain(signature):
    """A signature's parameters without annotations, and without keyword-only additions."""
    shown = []
    for each in signature.parameters.values():
        if each.name in {"self", "cls"} or each.kind is each.KEYWORD_ONLY:
            assert each.default is not each.empty or each.kind is not each.KEYWORD_ONLY
            continue
        default = str(each.default) if hasattr(each.default, "value") else repr(each.default)
        shown.append(each.name + ("" if each.default is each.empty else f"={default}"))
    return ", ".join(shown)


# -- the original's shape --------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_that_of_the_sdk(name):
    """Same names, order and defaults. What we add is keyword-only and optional."""
    found = compat
    for part in name.split("."):
        found = getattr(found, part)
    assert plain(inspect.signature(found)) == SIGNATURES[name]


def test_nothing_public_is_missing_and_nothing_is_more():
    """The names of ``sagemaker.experiments``, and ``Run``'s own."""
    assert sorted(compat.__all__) == sorted(
        {name.split(".")[0] for name in SIGNATURES}
        | {
            "SortByType",
            "SortOrderType",
        }
    )
    public = {name for name in vars(Run) if not name.startswith("_")}
    known = {name.split(".")[1] for name in SIGNATURES if name.startswith("Run.")}
    assert public == known | {"experiment_config"}
    assert [each.value for each in SortByType] == ["CreationTime", "Name"]
    assert [each.value for each in SortOrderType] == ["Ascending", "Descending"]


def test_the_import_needs_none_of_the_heavy_libraries():
    """A Run is made without pandas, NumPy, scikit-learn, boto3 and the SDK."""
    import subprocess

    code = (
        "import sys\n"
        "for name in ('numpy', 'pandas', 'sklearn', 'boto3', 'sagemaker'):\n"
        "    sys.modules[name] = None\n"
        "from journaltrack.compat.sagemaker import Run\n"
        "with Run('e', 'r') as run:\n"
        "    run.log_parameter('lr', 0.1); run.log_metric('loss', 1.0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [e.kind for e in entries()].count("metric") == 1


def test_the_page_has_a_row_for_every_public_name_that_differs():
    """docs/sagemaker-run.md has all public names but those that behave the same."""
    run = Run("e", "r")
    names = {"Run." + name for name in {*vars(Run), *vars(run)} if not name.startswith("_")}
    names |= {
        f"Experiment.{name}"
        for kind in compat.Experiment.__mro__[:-1]
        for name in {*vars(kind), *inspect.get_annotations(kind)}
        if not name.startswith("_")
    }
    names |= {
        f"{kind.__name__}.{each.name}" for kind in (SortByType, SortOrderType) for each in kind
    }
    page = (Path(__file__).parents[2] / "docs/sagemaker-run.md").read_text()
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    rows = re.findall(r"`([^`]+)`", " ".join(cells))
    same = {"Run.experiment_config", "Run.experiment_name", "Run.log_artifact"}
    same |= {"Run.run_group_name", "SortByType", "SortOrderType", "Experiment"}
    same |= {f"SortByType.{name}" for name in ("CREATION_TIME", "NAME")}
    same |= {f"SortOrderType.{name}" for name in ("ASCENDING", "DESCENDING")}
    # docs/smexperiments.md has these.
    same |= {name for name in names if name.startswith("Experiment.")} - set(rows)
    assert set(rows) >= {"Experiment.sagemaker_boto_client", "Experiment.display_name"}
    assert sorted([*rows, *same]) == sorted({*names, *compat.__all__})


# -- names -----------------------------------------------------------------------------------


def test_names_are_in_lower_case_and_make_the_components_name():
    """The experiment's, the run's, the group's; ``experiment_config`` names the component."""
    run = Run("My-Exp", "Run-1")
    assert (run.experiment_name, run.run_name) == ("my-exp", "run-1")
    assert run.run_group_name == "Default-Run-Group-my-exp"
    assert run.experiment_config == {
        "ExperimentName": "my-exp",
        "TrialName": "Default-Run-Group-my-exp",
        "RunName": "my-exp-run-1",
    }
    assert {e.component for e in entries()} == {"my-exp-run-1"}


def test_a_run_without_a_name_gets_a_new_one():
    """``sagemaker-run-<seconds>-<random>``, another one each time."""
    names = [Run("e").run_name for _ in range(3)]
    assert all(re.fullmatch(r"sagemaker-run-\d{10}-[0-9a-f]{8}", name) for name in names)
    assert len(set(names)) == 3
    assert Run("e", "").run_name.startswith("sagemaker-run-")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("e" * 60, "r"), ValueError),
        (("e", "r" * 60), ValueError),
        (("my_exp", "r"), ValueError),
        (("e", "my_run"), ValueError),
        (("", "r"), ValueError),
        ((None, "r"), TypeError),
        (("e", 7), TypeError),
    ],
)
def test_a_name_that_sagemaker_refuses_raises_at_once(arguments, error):
    """Too long for both to be one name, or against the pattern. Nothing is recorded."""
    with pytest.raises(error):
        Run(*arguments)
    assert entries() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiment_display_name": "!"},
        {"run_display_name": "!"},
        {"tags": {str(n): "v" for n in range(50)}},
        {"tags": [{"Key": "no value"}]},
        {"artifact_bucket": "No Bucket"},
        {"artifact_prefix": 7},
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_recorded(wrong):
    """Neither the run nor its experiment is in the journal."""
    with pytest.raises((ValueError, TypeError)):
        Run("e", "r", **{"experiment_display_name": "E", **wrong})
    assert entries() == []


@pytest.mark.filterwarnings("error")
def test_a_display_name_that_is_mended_costs_nobody_the_run():
    """As of a tracker, also where warnings are errors."""
    with Run("e", "r", experiment_display_name="My exp.", run_display_name="My_run") as run:
        run.log_parameter("lr", 1)
    assert entries("experiment")[0].d["display_name"] == "My-exp"
    assert run._trial_component.display_name == "My-run"


def test_the_longest_names_fit():
    """59 characters each."""
    run = Run("e" * 59, "r" * 59)
    assert len(run.experiment_config["RunName"]) == 119


def test_a_session_of_the_sdk_or_of_boto3_is_taken_and_nothing_else():
    """Its client, its boto3 session, and the default bucket and prefix that it was made with."""
    client = SimpleNamespace(update_trial_component=lambda **_: None)
    boto_session = SimpleNamespace(client=lambda _: client)
    session = SimpleNamespace(
        sagemaker_client=client,
        boto_session=boto_session,
        _default_bucket_name_override="team-bucket",
        default_bucket_prefix="team",
    )
    from journaltrack.compat.sagemaker.experiments.session import options_of, source_of

    assert options_of(session, None, None) == {
        "artifact_bucket": "team-bucket",
        "artifact_prefix": "team/trial-component-artifacts",
        "boto3_session": boto_session,
        "sagemaker_boto_client": client,
    }
    assert options_of(session, "own", "runs")["artifact_prefix"] == "runs"
    assert options_of(boto_session, None, None)["boto3_session"] is boto_session
    assert source_of(session).client is client
    assert (source_of(boto_session).client, source_of(boto_session).session) == (None, boto_session)
    with pytest.raises(InvalidTypeError, match="sagemaker_session"):
        Run("e", "r", sagemaker_session="eu-west-1")


class Roaming:
    """A session without a region: it can make no client."""

    def client(self, _):
        raise AssertionError("a client was made")


@pytest.mark.parametrize("sync", ["off", "close"])
def test_no_client_is_made_of_a_session_before_sagemaker_is_asked(monkeypatch, sync):
    """A session without a region or credentials costs no call: what is recorded is on the disk,
    and the journal answers. The replay gets the session, and says what it lacks.
    """
    monkeypatch.setenv("JOURNALTRACK_SYNC", sync)
    session = Roaming()
    given = []
    monkeypatch.setattr(
        Tracker, "services", Services(replay=given.append, ask=lambda r, *_: given.append(r) or {})
    )
    made = compat.Experiment.create("digits", "Shown", sagemaker_session=session)
    made.description = "0 to 9"
    with Run("digits", "r", sagemaker_session=session) as run:
        run.log_parameter("lr", 1)
    assert [str(each) for each in made.list_trials()] == ["Default-Run-Group-digits"]
    assert [r.run_name for r in list_runs("digits", sagemaker_session=session)] == ["r"]
    assert compat.Experiment.load("digits", session).display_name == "Shown"
    assert bool(given) == (sync == "close")
    assert {id(request.boto3_session) for request in given} <= {id(session)}


# -- the block -------------------------------------------------------------------------------

CALLS = {
    "log_parameter": ("lr", 0.1),
    "log_parameters": ({"lr": 0.1},),
    "log_metric": ("loss", 1.0),
    "log_artifact": ("data", "s3://b/d"),
    "log_file": (__file__,),
    "log_precision_recall": ([0, 1], [0.1, 0.9]),
    "log_roc_curve": ([0, 1], [0.1, 0.9]),
    "log_confusion_matrix": ([0, 1], [0, 1]),
}


@pytest.mark.parametrize("call", CALLS)
def test_outside_of_its_block_a_run_takes_nothing(call):
    """A RuntimeError before and after the block; nothing is recorded."""
    run = Run("e", "r")
    with run:
        pass
    before = len(entries())
    for each in (run, Run("e", "other")):
        with pytest.raises(RuntimeError, match="inside context of 'with' statement"):
            getattr(each, call)(*CALLS[call])
    assert len(entries()) == before + 2


def test_a_block_in_a_block_raises_and_disturbs_nothing():
    """Also in another thread, as the original has it; the run of the outer block goes on."""
    refused = []

    def nest():
        with (
            pytest.raises(RuntimeError, match="nested 'with' statements on the Run"),
            Run("e", "b"),
        ):
            pass
        refused.append(True)

    with Run("e", "a") as run:
        nest()
        thread = threading.Thread(target=nest)
        thread.start()
        thread.join()
        run.log_parameter("lr", 0.1)
    assert len(refused) == 2
    with Run("e", "b"):
        pass


def test_in_a_block_load_run_gives_the_same_run():
    """Within it, in other threads, and nested once. The run ends with the outermost block."""
    found = []
    with Run("e", "r") as run:
        thread = threading.Thread(target=lambda: found.append(load_run()))
        thread.start()
        thread.join()
        with load_run() as inner:
            inner.log_parameter("inner", 1)
            with (
                pytest.raises(RuntimeError, match="nested 'with' statements on the load_run"),
                load_run(),
            ):
                pass
        assert run._trial_component.status.primary_status == "InProgress"
        run.log_parameter("outer", 2)
    assert found == [run]
    assert inner is run
    assert run._trial_component.status.primary_status == "Completed"
    assert run._trial_component.parameters == {"inner": 1.0, "outer": 2.0}
    with pytest.raises(RuntimeError, match="Failed to load a Run object"):
        load_run()


def test_a_run_that_was_only_loaded_leaves_its_block_in_order():
    """``load_run()`` without a block of its own: the next run's block opens all the same."""
    with Run("e", "a"):
        load_run().log_parameter("lr", 1)
    with Run("e", "b") as run:
        run.log_parameter("lr", 2)


def test_threads_of_a_block_may_load_its_run_at_the_same_time():
    """Each has a block of its own: only within one thread it is nested."""
    inside = threading.Barrier(4)
    failed = []

    def work(number):
        try:
            with load_run() as run:
                inside.wait()
                run.log_metric("loss", float(number))
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)
            inside.abort()

    with Run("e", "r") as run:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert vars_of(run) == ("InProgress", "Within a run context")
    assert failed == []
    assert sorted(e.value for e in entries("metric")) == [0.0, 1.0, 2.0, 3.0]


def test_the_end_of_a_run_is_that_of_its_own_block_not_of_a_thread_that_outlives_it():
    """A helper's thread leaves its block in peace after training failed: the run stays Failed."""
    entered, over = threading.Event(), threading.Event()

    def outlive():
        with load_run() as run:
            entered.set()
            over.wait()
            run.log_parameter("late", 1)

    thread = threading.Thread(target=outlive)
    with suppress(ArithmeticError), Run("e", "r") as run:
        thread.start()
        entered.wait()
        raise ArithmeticError("diverged")
    assert vars_of(run) == ("Failed", "diverged")
    over.set()
    thread.join()
    assert vars_of(run) == ("Failed", "diverged")
    assert run._trial_component.parameters == {"late": 1.0}
    with run:
        pass
    assert vars_of(run) == ("Completed", None)


def test_another_run_can_be_loaded_in_a_block():
    """By both names; afterwards the outer block's run is the current one again."""
    with Run("e", "outer") as outer:
        with load_run("inner", "e") as inner:
            assert load_run() is inner
            inner.log_parameter("lr", 1)
        assert load_run() is outer
        outer.log_parameter("lr", 2)
    assert [(e.component, e.value) for e in entries("parameter")] == [
        ("e-inner", 1),
        ("e-outer", 2),
    ]


def test_a_run_by_both_names_is_the_one_of_the_journal():
    """``load_run`` continues it: what was logged is still there, and its start."""
    with Run("E", "R") as run:
        run.log_parameter("lr", 0.1)
    started = run._trial_component.start_time
    with load_run(run_name="R", experiment_name="E") as again:
        again.log_parameter("epochs", 3)
    assert again is not run
    assert again._trial_component.parameters == {"lr": 0.1, "epochs": 3.0}
    assert again._trial_component.start_time == started


def test_by_its_names_too_the_run_of_a_block_ends_with_that_block(tmp_path):
    """A helper that names the run gets the same object, also nested. If the process is killed
    afterwards, the run is not said to be completed.
    """
    with Run("E", "R") as run:
        with load_run("r", "e") as inner, load_run("R", "E") as innermost:
            inner.log_parameter("inner", 1)
        with load_run(), load_run("r", "e"):
            pass
        assert inner is innermost is run
        assert vars_of(run) == ("InProgress", "Within a run context")
        run.log_parameter("outer", 2)
        with load_run("r", "e", journal=tmp_path / "other") as other:
            assert other is not run
        with load_run("r", "e", artifact_prefix="elsewhere") as other:
            assert other is not run
    assert run._trial_component.parameters == {"inner": 1.0, "outer": 2.0}
    assert vars_of(run) == ("Completed", None)


def test_a_run_of_a_relative_journal_is_found_by_its_names(monkeypatch, tmp_path):
    """However the journal's folder is written, and wherever the process is then."""
    monkeypatch.chdir(tmp_path)
    with Run("E", "R", journal="runs/j") as run:
        assert load_run("R", "E", journal="runs/j") is run
        monkeypatch.chdir(tmp_path / "runs")
        assert load_run("R", "E", journal="j") is run
        assert load_run("R", "E", journal=tmp_path / "runs" / "j") is run


def test_a_helpers_block_never_waits_for_the_network(monkeypatch):
    """A loop that calls a helper with ``load_run`` is delivered once, at the run's end."""
    delivered = []
    monkeypatch.setenv("JOURNALTRACK_SYNC", "close")
    monkeypatch.setattr(Tracker, "services", Services(replay=delivered.append))
    with Run("e", "r") as run:
        for epoch in range(3):
            with load_run() as inner:
                inner.log_metric("loss", 1.0, step=epoch)
            with load_run("r", "e") as inner:
                inner.log_metric("accuracy", 1.0, step=epoch)
        assert delivered == []
    assert [request.component for request in delivered] == ["e-r"]
    assert len(entries("metric")) == 6
    assert vars_of(run) == ("Completed", None)


def test_a_runs_name_alone_is_refused():
    """``load_run(run_name)`` needs the experiment; an experiment alone is not used."""
    with pytest.raises(ValueError, match="experiment_name is missing"):
        load_run("r")
    with pytest.raises(RuntimeError, match="Failed to load"):
        load_run(experiment_name="e")
    assert entries() == []


def test_a_run_has_the_originals_status_in_its_block_and_after():
    """The message is "Within a run context", and none after the end; entered again, it goes on."""
    run = Run("e", "r")
    with run:
        status = run._trial_component.status
        assert (status.primary_status, status.message) == ("InProgress", "Within a run context")
        started = run._trial_component.start_time
    assert vars_of(run) == ("Completed", None)
    with run:
        run.log_parameter("more", 1)
        assert run._trial_component.status.primary_status == "InProgress"
    assert vars_of(run) == ("Completed", None)
    assert run._trial_component.start_time == started


def vars_of(run):
    """Status and message of a run's component."""
    status = run._trial_component.status
    return status.primary_status, status.message


def test_an_exception_is_the_runs_failure_and_leaves_the_block():
    """Failed, with its message on one line and cut at 1,024 characters."""
    with pytest.raises(ArithmeticError), Run("e", "r") as run:
        raise ArithmeticError("diverged\n" * 300)
    primary, message = vars_of(run)
    assert primary == "Failed"
    assert message.startswith("diverged diverged")
    assert len(message) == 1024
    with Run("e", "next"):
        pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "Stopped"),
        (SystemExit(0), "Completed"),
        (SystemExit(3), "Failed"),
        (ValueError(), "Failed"),
    ],
)
def test_other_ends_of_a_block_are_told_as_a_tracker_tells_them(error, status):
    """Ctrl-C stops a run; leaving with code 0 completes it."""
    with suppress(BaseException), Run("e", "r") as run:
        raise error
    assert vars_of(run)[0] == status


def test_a_block_that_cannot_be_entered_is_not_entered(monkeypatch):
    """The journal's failure is raised, and the next block opens."""
    run = Run("e", "r")

    def fail(_):
        raise OSError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "__enter__", fail)
        with pytest.raises(OSError, match="gone"), run:
            pass
    with run:
        run.log_parameter("lr", 1)


def test_a_block_that_is_not_open_cannot_be_left():
    """A notebook's cell that leaves a run by hand, run twice: the error names the cause."""
    run = Run("e", "r")
    run.__enter__()
    run.__exit__(None, None, None)
    for each in (run, Run("e", "other")):
        with pytest.raises(RunContextError, match="inside context"):
            each.__exit__(None, None, None)
    assert vars_of(run) == ("Completed", None)


def test_a_run_can_be_closed_at_any_time_and_used_again():
    """``close`` twice, in the block and after it."""
    with Run("e", "r") as run:
        run.close()
        run.log_parameter("lr", 1)
        run.close()
    run.close()
    with run:
        run.log_parameter("lr", 2)
    assert run._trial_component.parameters == {"lr": 2.0}


def test_a_forked_child_logs_to_the_run_of_its_block():
    """Also by ``load_run()``; it does not end the run."""
    with Run("e", "r") as run:
        run.log_parameter("before", 1)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                load_run().log_parameter("child", 2)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert run._trial_component.parameters == {"before": 1.0, "child": 2.0}
        assert vars_of(run)[0] == "InProgress"


def test_a_run_is_not_pickled():
    """On purpose, as in the original; nor is it copied."""
    run = Run("e", "r")
    for attempt in (lambda: pickle.dumps(run), lambda: copy.copy(run)):
        with pytest.raises(NotImplementedError, match="not allowed to be pickled"):
            attempt()


# -- what is recorded ------------------------------------------------------------------------


def test_values_that_sagemaker_cannot_hold_are_warned_of_and_left_out():
    """NaN and infinity, of parameters and metrics: an earlier value stays the one that counts."""
    with Run("e", "r") as run:
        run.log_parameter("lr", 0.1)
        with pytest.warns(JournaltrackWarning, match="NaN|nan"):
            run.log_parameter("lr", float("nan"))
        with pytest.warns(JournaltrackWarning):
            run.log_metric("loss", float("inf"))
        run.log_metric("loss", "0.5", step=1)
    assert [e.value for e in entries("metric")] == [None, 0.5]


@pytest.mark.parametrize("step", [1.0, "1", 2.5])
def test_a_step_is_an_integer(step):
    """Anything else is a ValueError, and nothing is recorded."""
    with Run("e", "r") as run, pytest.raises(ValueError, match="step must be int"):
        run.log_metric("loss", 1.0, step=step)
    assert entries("metric") == []


def test_an_integer_of_numpy_is_a_step():
    """The original refuses it, and so ends training: a counter of NumPy's is an integer."""
    numpy = pytest.importorskip("numpy")
    with Run("e", "r") as run:
        run.log_metric("loss", numpy.float32(0.5), step=numpy.int64(3))
    with view.opened(paths.default_journal()) as journal:
        assert [(e.value, e.step) for e in journal.entries() if e.kind == "metric"] == [(0.5, 3)]


@pytest.mark.parametrize("moved_s", [-14 * 86400 - 60, 2 * 3600 + 60])
def test_a_time_out_of_the_originals_window_is_refused(moved_s):
    """Two weeks ago to two hours ahead. So a step in the time's place is noticed at once."""
    at = datetime.now(timezone.utc) + timedelta(seconds=moved_s)
    with Run("e", "r") as run:
        for given in (at, at.timestamp(), str(at.timestamp()), 7):
            with pytest.raises(ValueError, match="timestamp"):
                run.log_metric("loss", 1.0, given)
        inside = at - timedelta(seconds=120 if moved_s > 0 else -120)
        run.log_metric("loss", 1.0, inside)
        run.log_metric("loss", 1.0, datetime.now() + timedelta(hours=1))  # noqa: DTZ005 - local
    assert len(entries("metric")) == 2


def test_a_files_key_ends_in_its_own_name_and_it_has_no_lineage(tmp_path):
    """As the original uploads it; the artifact has the given name."""
    (tmp_path / "model.tar.gz").write_bytes(b"weights")
    (tmp_path / ("x" * 200)).write_bytes(b"long")
    with Run("e", "r") as run:
        run.log_file(str(tmp_path / "model.tar.gz"), name="model")
        run.log_file(tmp_path / "model.tar.gz", is_output=False, media_type="application/gzip")
        run.log_file(tmp_path / ("x" * 200), name="long")
    assert [e.name for e in entries("upload")] == ["model.tar.gz", "model.tar.gz", "long"]
    assert [e.name for e in entries("output")] == ["model", "long"]
    assert [(e.name, e.d["media_type"]) for e in entries("input")] == [
        ("model.tar.gz", "application/gzip")
    ]
    assert entries("lineage") == []


def test_a_files_path_may_be_bytes_and_its_name_no_text(tmp_path):
    """As for a tracker. What is no text can't be a key: the artifact's name is."""
    paths_given = [os.fsencode(tmp_path / "a.bin"), os.fsencode(tmp_path) + b"/\xff.bin"]
    for path in paths_given:
        Path(os.fsdecode(path)).write_bytes(path)
    with Run("e", "r") as run:
        for number, path in enumerate(paths_given):
            run.log_file(path, name=f"file-{number}")
    assert [e.name for e in entries("upload")] == ["a.bin", "file-1"]
    assert [e.name for e in entries("output")] == ["file-0", "file-1"]


def test_extra_arguments_of_an_upload_are_told_to_be_left_out(tmp_path):
    """Once, at the caller's line, after the file is recorded."""
    (tmp_path / "a.txt").write_text("a")
    with Run("e", "r") as run:
        with pytest.warns(JournaltrackWarning, match="ServerSideEncryption") as told:
            run.log_file(tmp_path / "a.txt", extra_args={"ServerSideEncryption": "aws:kms"})
        run.log_file(tmp_path / "a.txt", name="b", extra_args={"ACL": "private"})
        run.log_file(tmp_path / "a.txt", name="c", extra_args={})
    assert [each.filename for each in told] == [__file__]
    assert len(entries("upload")) == 3


@pytest.mark.parametrize("wrong", [7, "ACL", ["ACL"]])
def test_extra_arguments_that_are_no_dict_are_refused(tmp_path, wrong):
    """Before the file is recorded."""
    (tmp_path / "a.txt").write_text("a")
    with Run("e", "r") as run, pytest.raises(TypeError, match="extra_args"):
        run.log_file(tmp_path / "a.txt", extra_args=wrong)
    assert entries("upload") == []


def test_a_missing_file_is_a_value_error_and_the_run_goes_on(tmp_path):
    """Nothing of that call is recorded."""
    with Run("e", "r") as run:
        with pytest.raises(ValueError, match="nowhere"):
            run.log_file(tmp_path / "nowhere")
        run.log_parameter("lr", 1)
    assert entries("upload") == []


def test_a_reference_is_recorded_as_it_is():
    """By name, value and media type; input or output."""
    with Run("e", "r") as run:
        run.log_artifact("data", "s3://b/d", "text/csv", False)
        run.log_artifact(name="model", value="s3://b/m")
    assert [(e.kind, e.name, e.d) for e in entries() if e.kind in {"input", "output"}] == [
        ("input", "data", {"value": "s3://b/d", "media_type": "text/csv"}),
        ("output", "model", {"value": "s3://b/m"}),
    ]


def test_charts_have_their_direction_and_no_place_among_the_artifacts():
    """Lineage of the chart's type: `Produced` or `ContributedTo`, as ``is_output`` says."""
    pytest.importorskip("sklearn")
    with Run("e", "r") as run:
        run.log_precision_recall(
            [0, 1, 1], [0.1, 0.8, 0.7], positive_label=1, title="pr", no_skill=0
        )
        run.log_roc_curve([0, 1, 1], [0.1, 0.8, 0.7], "roc", False)
        run.log_confusion_matrix([0, 1], [0, 1], title="cm")
    assert [(e.name, e.d["type"], e.d["direction"]) for e in entries("lineage")] == [
        ("pr", "PrecisionRecallCurve", "output"),
        ("roc", "ROCCurve", "input"),
        ("cm", "ConfusionMatrix", "output"),
    ]
    assert [e.name for e in entries("upload")] == ["pr.json", "roc.json", "cm.json"]
    assert entries("output") + entries("input") == []


# -- bad input of charts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "title", [TITLE_OF_A_SENTENCE, "", None, "a/b", "x" * 500, "-", "..", "\n"]
)
def test_any_title_of_a_chart_is_recorded(title):
    """What SageMaker's patterns refuse is mended for the name; the document keeps the title."""
    pytest.importorskip("sklearn")
    with Run("e", "r") as run:
        run.log_confusion_matrix([0, 1], [0, 1], title=title)
        run.log_parameter("lr", 1)
    (lineage,), (upload,) = entries("lineage"), entries("upload")
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,119}", lineage.name)
    assert upload.name.endswith(".json")
    if title:
        spooled = paths.default_journal() / "spool" / upload.d["sha256"][:2] / upload.d["sha256"]
        assert json.loads(spooled.read_bytes())["title"] == title


BAD_CHARTS = {
    "10,000 labels": ("log_confusion_matrix", list(range(10_000)), list(range(10_000))),
    "probabilities with NaN": ("log_roc_curve", [0, 1], [0.5, float("nan")]),
    "scores per class": ("log_precision_recall", [0, 1], [[0.2, 0.8], [0.4, 0.6]]),
    "lengths that differ": ("log_roc_curve", [0, 1, 1], [0.5, 0.6]),
    "text for scores": ("log_precision_recall", [0, 1], ["a", "b"]),
    "objects": ("log_confusion_matrix", [object(), {}], [1, 2]),
    "nothing": ("log_roc_curve", [], []),
    "one class": ("log_roc_curve", [1, 1], [0.1, 0.2]),
}


@pytest.mark.parametrize("case", BAD_CHARTS)
def test_a_chart_that_cannot_be_computed_is_refused_and_costs_nothing_else(case):
    """A ValueError or TypeError that names the reason; the rest of the run is recorded."""
    pytest.importorskip("sklearn")
    call, *arguments = BAD_CHARTS[case]
    with Run("e", "r") as run:
        run.log_metric("loss", 1.0)
        with pytest.raises((ValueError, TypeError), match="nothing was recorded"):
            getattr(run, call)(*arguments, title="t")
        run.log_parameter("lr", 1)
    assert [e.kind for e in entries() if e.kind in {"metric", "parameter", "upload"}] == [
        "metric",
        "parameter",
    ]
    assert vars_of(run)[0] == "Completed"


def test_an_unknown_dtype_is_read_or_refused_by_name():
    """bfloat16 of PyTorch or of ml_dtypes has no NumPy type: whatever has a value is taken."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("sklearn")

    class Scores:
        """An array whose dtype NumPy does not know."""

        dtype = "bfloat16"

        def __len__(self):
            return 2

        def __iter__(self):
            return iter([0.1, 0.9])

        def __array__(self, *_, **__):
            raise TypeError("Got unsupported ScalarType BFloat16")

    with Run("e", "r") as run:
        with pytest.raises((ValueError, TypeError), match="BFloat16"):
            run.log_roc_curve([0, 1], Scores(), title="t")
        run.log_roc_curve(numpy.array([0, 1], "i1"), numpy.array([0.1, 0.9], "f2"), title="t")
    assert len(entries("lineage")) == 1


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    """And nothing else is lost: the run goes on, and completes if the caller catches it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with Run("e", "r") as run:
        run.log_parameter("lr", 1)
        for call, *arguments in BAD_CHARTS.values():
            with pytest.raises(MissingExtraError, match=r"journaltrack\[charts\]"):
                getattr(run, call)(*arguments)
        run.log_metric("loss", 1.0)
    assert [e.kind for e in entries() if e.kind in {"metric", "parameter", "upload"}] == [
        "parameter",
        "metric",
    ]


# -- SageMaker ------------------------------------------------------------------------------


def test_neither_a_run_nor_its_log_asks_sagemaker(aws):
    """The constructor and all ``log_*`` need no network."""
    with Run("e", "r") as run:
        run.log_parameter("lr", 1)
        run.log_artifact("d", "s3://b/d")
    assert aws.requests == []


def test_a_run_of_another_machine_is_loaded_with_what_sagemaker_holds(aws):
    """Its parameters are shown and its start stays, as when SageMaker itself is asked."""
    start = datetime(2026, 11, 20, tzinfo=timezone.utc)
    aws.answers["describe_trial_component"] = {
        "TrialComponentName": "e-r",
        "TrialComponentArn": "arn:e-r",
        "StartTime": start,
        "Parameters": {"lr": {"NumberValue": 0.5}},
        "Status": {"PrimaryStatus": "Completed"},
    }
    with load_run("R", "E") as run:
        assert run._trial_component.parameters == {"lr": 0.5}
        assert run._trial_component.start_time == start
    assert [o for o, _ in aws.requests].count("describe_trial_component") == 1
    assert not any("start_ns" in e.d for e in entries("status"))
    load_run("r", "e")
    assert [o for o, _ in aws.requests].count("describe_trial_component") == 1


@pytest.mark.parametrize("answer", [{}, None])
def test_a_run_that_sagemaker_does_not_have_is_created(aws, answer):
    """So it is when SageMaker does not answer: the replay finds out."""
    if answer is not None:
        aws.answers["describe_trial_component"] = answer
    with load_run("r", "e") as run:
        run.log_parameter("lr", 1)
    assert [e.kind for e in entries()][:2] == ["create", "associate"]


JOBS = {
    "training": ("TRAINING_JOB_ARN", "TrainingJobName"),
    "transform": ("TRANSFORM_JOB_ARN", "TransformJobName"),
}


@pytest.mark.parametrize("kind", JOBS)
def test_in_a_job_load_run_gives_the_run_that_the_job_was_started_with(aws, monkeypatch, kind):
    """SageMaker is asked for the job's ExperimentConfig; ``RunName`` there is the component's."""
    variable, member = JOBS[kind]
    monkeypatch.setenv(variable, f"arn:aws:sagemaker:us-east-1:1:{kind}-job/My-Job")
    aws.answers[f"describe_{kind}_job"] = {
        "ExperimentConfig": {
            "ExperimentName": "digits",
            "TrialName": "Default-Run-Group-digits",
            "RunName": "digits-first",
        }
    }
    with load_run() as run:
        run.log_metric("loss", 1.0)
    assert (run.experiment_name, run.run_name) == ("digits", "first")
    assert aws.requests[0] == (f"describe_{kind}_job", {member: "My-Job"})
    assert run._trial_component.status.primary_status == "Completed"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "could not be asked"),
        ({}, "Not able to fetch RunName"),
        ({"ExperimentConfig": {"ExperimentName": "digits"}}, "Not able to fetch RunName"),
    ],
)
def test_in_a_job_without_a_run_the_error_says_what_to_do(aws, monkeypatch, answer, why):
    """Nothing is recorded. With names, no question is needed."""
    monkeypatch.setenv("TRAINING_JOB_ARN", "arn:aws:sagemaker:us-east-1:1:training-job/job")
    if answer is not None:
        aws.answers["describe_training_job"] = answer
    with pytest.raises(RunContextError, match=why) as caught:
        load_run()
    assert "run_name=" in caught.value.hint
    assert entries() == []
    with load_run("first", "digits") as run:
        run.log_metric("loss", 1.0)


def test_the_journals_runs_are_listed_and_nothing_is_recorded():
    """Those of the experiment, whatever its case, and no other components."""
    for name in ("b", "a", "c"):
        with Run("Digits", name) as run:
            run.log_parameter("name", name)
    Run("other", "z")
    Tracker.create(trial_component_name="digits-tracked", experiment_name="digits").close()
    before = entries()
    assert [run.run_name for run in list_runs("digits")] == ["c", "a", "b"]
    found = list_runs("DIGITS", sort_by=SortByType.NAME, sort_order=SortOrderType.ASCENDING)
    assert [run.run_name for run in found] == ["a", "b", "c"]
    assert found[0].experiment_config["RunName"] == "digits-a"
    assert found[0]._trial_component.parameters == {"name": "a"}
    assert list_runs("digits", created_before=datetime(2020, 1, 1)) == []  # noqa: DTZ001 - local
    assert len(list_runs("digits", created_after=datetime.now() - timedelta(hours=1))) == 3  # noqa: DTZ005
    assert list_runs("nothing") == []
    assert [vars(e) for e in entries()] == [vars(e) for e in before]
    with found[1] as again:
        again.log_parameter("again", 1)
    assert vars_of(again) == ("Completed", None)


def test_sagemakers_runs_are_listed_beside_the_journals(aws):
    """Each once; one request asks for the experiment's runs by their tag."""
    Run("digits", "here")
    aws.answers["search"] = {
        "Results": [
            {
                "TrialComponent": {
                    "TrialComponentName": name,
                    "CreationTime": datetime(2026, 11, day, tzinfo=timezone.utc),
                }
            }
            for day, name in ((1, "digits-old"), (2, "digits-here"))
        ]
    }
    found = list_runs("digits", max_results=5)
    assert [run.run_name for run in found] == ["here", "old"]
    assert [o for o, _ in aws.requests] == ["search"]
    members = aws.requests[0][1]
    assert members["SearchExpression"]["Filters"] == [
        {"Name": "Parents.ExperimentName", "Operator": "Equals", "Value": "digits"},
        {"Name": "Tags.sagemaker:trial-component-source", "Operator": "Equals", "Value": "run"},
    ]
    assert (members["SortBy"], members["MaxResults"]) == ("CreationTime", 5)
    only = list_runs("digits", created_before=datetime(2026, 11, 1, 12, tzinfo=timezone.utc))
    assert [run.run_name for run in only] == ["old"]
    with only[0] as run:
        run.log_parameter("lr", 1)
    assert {e.component for e in entries("parameter")} == {"digits-old"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"max_results": 0}, ValueError),
        ({"max_results": "5"}, TypeError),
        ({"max_results": 1.5}, TypeError),
        ({"next_token": 7}, TypeError),
        ({"created_before": "2026-01-01"}, TypeError),
        ({"created_after": 1.0}, TypeError),
        ({"sort_by": "Size"}, ValueError),
        ({"sort_by": None}, ValueError),
        ({"sort_order": "Upwards"}, ValueError),
    ],
)
@pytest.mark.parametrize("sync", ["off", "close"])
def test_a_list_that_sagemaker_refuses_is_refused_here(aws, monkeypatch, sync, wrong, error):
    """Offline as online. The journal's runs alone would be a wrong answer."""
    monkeypatch.setenv("JOURNALTRACK_SYNC", sync)
    Run("digits", "r")
    with pytest.raises(error, match=next(iter(wrong))):
        list_runs("digits", **wrong)
    assert aws.requests == []


def test_a_list_takes_what_has_a_meaning(aws):
    """Pages larger than SageMaker's, values of the enums, and the ends of the calendar."""
    Run("digits", "r")
    for given in (
        {"max_results": 1000},
        {"sort_by": "Name", "sort_order": "Ascending"},
        {"created_after": datetime.min, "created_before": datetime.max},  # noqa: DTZ901 - naive
    ):
        assert [run.run_name for run in list_runs("digits", **given)] == ["r"]
    assert aws.requests[0][1]["MaxResults"] == 100


# -- experiments -----------------------------------------------------------------------------


def test_an_experiment_is_recorded_and_read_back_offline():
    """Created with all that the SDK takes; an assignment is recorded; loaded by its name."""
    made = compat.Experiment.create(
        "Digits", "The-digits", description="0 to 9", tags=[{"Key": "team", "Value": "vision"}]
    )
    made.description = "0 to 15"
    with Run("digits", "r") as run:
        run.log_parameter("lr", 1)
    made.save()
    found = compat.Experiment.load("digits")
    assert (found.display_name, found.description) == ("The-digits", "0 to 15")
    assert [str(each) for each in found.list_trials()] == ["Default-Run-Group-digits"]
    assert [e.kind for e in entries()][:2] == ["experiment", "experiment"]


def test_an_experiment_is_loaded_and_deleted_by_the_sessions_client(aws):
    """SageMaker is asked; what it does not have is an error, and so is no answer."""
    client = SimpleNamespace(update_trial_component=lambda **_: None)
    session = SimpleNamespace(sagemaker_client=client, boto_session=None)
    aws.answers["describe_experiment"] = {"ExperimentName": "digits", "DisplayName": "Theirs"}
    found = compat.Experiment.load("digits", session)
    assert (found.display_name, found.sagemaker_session) == ("Theirs", session)
    assert found.sagemaker_boto_client is client
    with pytest.raises(RemoteError):
        found.delete()
    aws.answers["describe_experiment"] = {}
    with pytest.raises(ValueError, match="SageMaker has no experiment"):
        compat.Experiment.load("nowhere")


@pytest.mark.parametrize("members", [{"experiment_name": "a_b"}, {"tags": 7}, {"description": 7}])
def test_an_experiment_that_sagemaker_never_takes_is_refused(members):
    """At the call; nothing is recorded."""
    with pytest.raises((ValueError, TypeError)):
        compat.Experiment.create(**{"experiment_name": "digits", **members})
    assert entries() == []
