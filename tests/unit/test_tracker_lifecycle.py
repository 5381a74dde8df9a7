"""How a tracker ends: whose exception is seen, whose status is written."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from journaltrack import Tracker
from journaltrack.tracking.settings import Services
from tests.patience import FOREVER_S


class BrokenWriter:
    """A caller's writer that fails at the end."""

    def log_metric(self, *arguments):
        """Take a point."""

    def close(self):
        """Fail."""
        msg = "the writer's own trouble"
        raise RuntimeError(msg)


@pytest.fixture
def tracker(tmp_path):
    """A tracker that replays nothing."""
    return Tracker.create(journal=tmp_path / "journal", sync="off")


def entries_in(tmp_path):
    """What plain sqlite3 finds in the journal."""
    connection = sqlite3.connect(tmp_path / "journal" / "journal.db")
    found = connection.execute("SELECT kind, payload FROM entry ORDER BY seq").fetchall()
    connection.close()
    return found


def test_a_failing_close_does_not_hide_the_users_exception(tracker):
    """What ended the block comes out of it; the failure of close is warned about."""
    broken = Tracker(tracker.trial_component, BrokenWriter(), None)
    with (
        pytest.warns(RuntimeWarning, match="writer's own trouble"),
        pytest.raises(KeyError, match="mine"),
        broken,
    ):
        raise KeyError("mine")
    assert tracker.trial_component.status.message == "'mine'"


def test_a_failing_close_is_raised_when_nothing_else_is(tracker):
    """Without another exception the failure of close is the one to see."""
    with (
        pytest.raises(RuntimeError, match="own trouble"),
        Tracker(tracker.trial_component, BrokenWriter(), None),
    ):
        pass


def test_a_forked_child_that_leaves_the_block_does_not_end_the_run(tracker, tmp_path):
    """The child's exit writes no status: the run is the parent's, which goes on."""
    with tracker:
        child = os.fork()
        if child == 0:
            tracker.log_metric("from the child", 1.0)
            tracker.__exit__(SystemExit, SystemExit(0), None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tracker.trial_component.status.primary_status == "InProgress"
        assert tracker.trial_component.end_time is None
    assert [kind for kind, _ in entries_in(tmp_path)] == ["create", "status", "metric", "status"]


def test_a_direction_that_is_none_raises_and_records_nothing(tracker, tmp_path):
    """log_artifacts knows inputs and outputs; anything else would stay pending for ever."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    with pytest.raises(ValueError, match="direction"):
        tracker.log_artifacts(tmp_path / "d", direction="sideways")
    assert [kind for kind, _ in entries_in(tmp_path)] == ["create"]


def test_the_constructor_honours_the_environment(tracker, monkeypatch):
    """JOURNALTRACK_SYNC=off keeps a tracker off the network, however it was made."""
    asked = []
    monkeypatch.setattr(Tracker, "services", Services(replay=asked.append))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    Tracker(tracker.trial_component, None, None).close()
    assert asked == []


class UnspeakableError(Exception):
    """An exception that nothing can be said of: its text, its cause and its notes all fail."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def __str__(self):
        raise self.error

    __repr__ = __str__

    @property
    def __notes__(self):
        raise self.error


@pytest.mark.parametrize(
    "inner",
    [ValueError("no"), RecursionError(), MemoryError(), KeyboardInterrupt(), SystemExit(0)],
    ids=repr,
)
def test_an_exception_without_a_text_ends_the_run(tracker, inner):
    """Whatever its own methods raise, the run is Failed with the class as its message, and the
    exception comes out.
    """
    with pytest.raises(UnspeakableError), tracker:
        raise UnspeakableError(inner)
    status = tracker.trial_component.status
    assert (status.primary_status, status.message) == ("Failed", "UnspeakableError")


def test_a_text_that_is_none_ends_the_run(tracker):
    """A ``__str__`` that returns no str, one with a lone surrogate, and one of a million lines."""

    class OddError(Exception):
        def __str__(self):
            return self.args[0]

    for text, message in (
        (3, "OddError"),
        ("a\ud800b\0", "a?b"),
        ("line\n" * 1_000_000, "line line"),
    ):
        with pytest.raises(OddError), tracker:
            raise OddError(text)
        assert tracker.trial_component.status.primary_status == "Failed"
        assert tracker.trial_component.status.message.startswith(message)
        tracker = Tracker.load(
            tracker.trial_component.trial_component_name,
            journal=tracker.trial_component.journal.path,
            sync="off",
        )


class OddCode:
    """What a script hands to ``sys.exit`` by mistake: it equals everything and has no text."""

    def __eq__(self, other):
        return True

    __hash__ = object.__hash__

    def __str__(self):
        msg = "none"
        raise ValueError(msg)


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (None, "Completed", None),
        (0, "Completed", None),
        (False, "Completed", None),
        (1, "Failed", "SystemExit: 1"),
        ("", "Failed", "SystemExit:"),
        ("bye", "Failed", "SystemExit: bye"),
        (0.0, "Failed", "SystemExit: 0.0"),
        (np.zeros(2), "Failed", "SystemExit: [0. 0.]"),
        (OddCode(), "Failed", "SystemExit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exit_code_means_what_the_interpreter_makes_of_it(tracker, code, status, message):
    """Only 0 and None end well: anything that is no integer is printed, and the process exits
    with 1.
    """
    with pytest.raises(SystemExit), tracker:
        raise SystemExit(code)
    found = tracker.trial_component.status
    assert (found.primary_status, found.message) == (status, message)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "Stopped"),
        (asyncio.CancelledError(), "Stopped"),
        (asyncio.CancelledError("shutting down"), "Stopped"),
        (GeneratorExit(), "Stopped"),
        (concurrent.futures.CancelledError(), "Failed"),
        (asyncio.TimeoutError(), "Failed"),
        (BaseException("a panic of an extension"), "Failed"),
    ],
    ids=repr,
)
def test_who_is_asked_to_end_is_stopped(tracker, error, status):
    """Ctrl-C, a cancelled task and a closed generator are Stopped; what only derives from
    BaseException has failed.
    """
    with pytest.raises(type(error)), tracker:
        raise error
    assert tracker.trial_component.status.primary_status == status


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no exception groups")
@pytest.mark.parametrize(
    ("members", "status"),
    [
        ([KeyboardInterrupt()], "Stopped"),
        ([KeyboardInterrupt(), asyncio.CancelledError()], "Stopped"),
        ([KeyboardInterrupt(), ValueError("mine")], "Failed"),
        ([ValueError("mine")], "Failed"),
    ],
    ids=repr,
)
def test_a_group_is_stopped_if_nothing_in_it_failed(tracker, members, status):
    """trio and anyio hand on Ctrl-C in a group."""
    group = BaseExceptionGroup("several", [BaseExceptionGroup("nested", members)])  # noqa: F821 - Python 3.11
    with pytest.raises(BaseException, match="several"), tracker:
        raise group
    assert tracker.trial_component.status.primary_status == status


def test_a_task_that_is_cancelled_is_stopped(tracker):
    """A real event loop cancels a task inside of the block."""

    async def train():
        with tracker:
            started.set()
            await asyncio.Event().wait()

    async def run():
        nonlocal started
        started = asyncio.Event()
        task = asyncio.create_task(train())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = None
    asyncio.run(run())
    assert (
        tracker.trial_component.status.primary_status,
        tracker.trial_component.status.message,
    ) == ("Stopped", "CancelledError")


def test_ctrl_c_under_asyncio_is_stopped(tmp_path):
    """A real SIGINT to a real process whose block awaits."""
    code = (
        "import asyncio, sys\nfrom journaltrack import Tracker\nasync def train():\n    with "
        "Tracker.create(trial_component_name='run', journal=sys.argv[1], sync='off') as "
        "tracker:\n        tracker.log_metric('m', 1.0); print('ready', flush=True)\n        "
        "await asyncio.Event().wait()\nasyncio.run(train())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "journal"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=FOREVER_S)
    kind, payload = entries_in(tmp_path)[-1]
    assert (kind, json.loads(payload)["primary"]) == ("status", "Stopped")


def test_a_generator_that_is_closed_is_stopped(tracker):
    """Whoever consumed the generator wanted no more of it."""

    def train():
        with tracker:
            yield 1

    training = train()
    next(training)
    training.close()
    assert tracker.trial_component.status.primary_status == "Stopped"


CALLS = {
    "log_metric": (lambda tracker, _: tracker.log_metric("after", 1.0), 1),
    "log_metrics": (lambda tracker, _: tracker.log_metrics({"after": 1.0, "wards": 2.0}), 2),
    "log_parameter": (lambda tracker, _: tracker.log_parameter("after", 1), 1),
    "log_input": (lambda tracker, _: tracker.log_input("after", "s3://b/k"), 1),
    "log_output": (lambda tracker, _: tracker.log_output("after", "s3://b/k"), 1),
    "log_artifact": (lambda tracker, folder: tracker.log_artifact(folder / "file"), 2),
    "log_artifacts": (lambda tracker, folder: tracker.log_artifacts(folder), 2),
    "flush": (lambda tracker, _: tracker.flush(), 0),
    "from another process": (
        lambda tracker, _: pickle.loads(pickle.dumps(tracker)).log_metric("after", 1.0),
        1,
    ),
}


@pytest.fixture
def asked(monkeypatch):
    """What trackers asked to be replayed."""
    found = []
    monkeypatch.setattr(Tracker, "services", Services(replay=found.append))
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_after_close_is_recorded_and_the_next_close_delivers_it(tmp_path, asked, name):
    """No call is refused for the tracker's state; what was recorded after a close is delivered
    by another one, once.
    """
    call, entries = CALLS[name]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file").write_text("content")
    tracker = Tracker.create(journal=tmp_path / "journal")
    tracker.log_metric("after", 0.5)
    tracker.close()
    before = len(entries_in(tmp_path))
    call(tracker, tmp_path / "files")
    assert len(entries_in(tmp_path)) == before + entries
    assert len(asked) == 1
    tracker.close()
    tracker.close()
    own = entries > 0 and name != "from another process"
    assert len(asked) == 1 + own


def test_logging_after_the_block_leaves_the_run_completed(tmp_path, asked):
    """What comes after the end of a run is recorded; it does not begin the run anew."""
    with Tracker.create(journal=tmp_path / "journal") as tracker:
        tracker.log_metric("loss", 1.0)
    tracker.log_metric("test:accuracy", 0.9)
    tracker.log_parameter("threshold", 0.5)
    tracker.close()
    assert tracker.trial_component.status.primary_status == "Completed"
    assert tracker.trial_component.parameters["threshold"] == 0.5
    assert [kind for kind, _ in entries_in(tmp_path)] == [
        "create",
        "status",
        "metric",
        "status",
        "metric",
        "parameter",
    ]
    assert len(asked) == 2
    tracker.close()  # what was read opened the journal again


def test_a_close_inside_the_block_does_not_hide_its_end(tmp_path, asked):
    """The block's end is the run's, whether or not the tracker was closed before."""
    with Tracker.create(journal=tmp_path / "journal") as tracker:
        tracker.close()
    assert tracker.trial_component.status.primary_status == "Completed"
    assert len(asked) == 2
    tracker.close()  # as above


def test_a_second_block_is_another_beginning_of_the_run(tmp_path, asked):
    """Entered again, a tracker says that its run is in progress, and then how that ended."""
    tracker = Tracker.create(journal=tmp_path / "journal")
    with tracker:
        pass
    assert tracker.trial_component.status.primary_status == "Completed"
    with tracker:
        assert tracker.trial_component.status.primary_status == "InProgress"
    with pytest.raises(KeyError), tracker:
        raise KeyError("mine")
    assert tracker.trial_component.status.primary_status == "Failed"
    assert len(asked) == 3
    tracker.close()  # as above


def test_a_writer_that_fails_at_the_end_keeps_nothing_from_being_delivered(tracker, asked):
    """What a caller's own writer raises at close is raised after the rest was delivered."""
    with pytest.raises(RuntimeError, match="own trouble"):
        Tracker(tracker.trial_component, BrokenWriter(), None).close()
    assert len(asked) == 1


def test_closing_inside_a_close_ends_and_delivers_once(tmp_path, monkeypatch):
    """A signal handler that closes the tracker, during its close, neither hangs nor delivers a
    second time.
    """
    asked = []

    def replay(request):
        asked.append(request)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Tracker, "services", Services(replay=replay))
    tracker = Tracker.create(journal=tmp_path / "journal")
    closed = []
    before = signal.signal(signal.SIGUSR1, lambda *_: closed.append(tracker.close()))
    try:
        tracker.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert closed == [None]
    assert len(asked) == 1


def test_a_call_inside_a_close_is_recorded(tmp_path, monkeypatch):
    """A signal handler that logs during the replay is recorded, and delivered by the next close."""
    asked = []

    def replay(request):
        asked.append(request)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Tracker, "services", Services(replay=replay))
    tracker = Tracker.create(journal=tmp_path / "journal")
    before = signal.signal(signal.SIGUSR1, lambda *_: tracker.log_metric("last words", 1.0))
    try:
        tracker.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [kind for kind, _ in entries_in(tmp_path)] == ["create", "metric"]
    tracker.close()
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"boto3_session": "prefix"}, "boto3_session is of the type str"),
        ({"boto3_session": Path("prefix")}, "boto3_session"),
        ({"boto3_session": {"region": "eu-west-1"}}, "boto3_session"),
        ({"sagemaker_boto_client": "us-east-1"}, "sagemaker_boto_client is of the type str"),
        ({"sagemaker_boto_client": 3}, "sagemaker_boto_client"),
    ],
)
def test_what_makes_no_requests_is_refused_at_the_call(tmp_path, arguments, named):
    """A prefix or region in the place of a session or client is a TypeError that names it, and
    nothing is made.
    """
    with pytest.raises(TypeError, match=named):
        Tracker.create("name", "bucket", journal=tmp_path / "journal", **arguments)
    with pytest.raises(TypeError, match=named):
        Tracker.load("name", journal=tmp_path / "journal", **arguments)
    assert not (tmp_path / "journal").exists()
