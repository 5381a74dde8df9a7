"""``sync="background"``: delivered while training runs, by a process that ends with it, and
never in training's way.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from journaltrack import Tracker
from tests.patience import FOREVER_S
from tests.processes import arrived, ends, points_of, script, states, watchers_of
from tests.simulator import BlackHole, HttpError, simulator

LIMIT_S = 300.0  # half of the deadline of close, and far less than the hour of `patient`


def at(sim, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)


def test_an_outage_during_training_and_at_its_end(tmp_path, quick, monkeypatch, caplog):
    """While the endpoint is down nothing raises and close keeps its deadline; the next tracker's
    background delivers everything.
    """
    with simulator() as sim:
        at(sim, monkeypatch)
        sim.stop()
        tracker = Tracker.create(
            trial_component_name="run",
            journal=tmp_path / "journal",
            sync="background",
            close_deadline_s=2,
        )
        for step in range(20):
            tracker.log_metric("loss", float(step), iteration_number=step)
        begun = time.monotonic()
        tracker.close()
        assert time.monotonic() - begun < LIMIT_S
        # the helper may not be up yet
        assert "not delivered completely" in caplog.text or "not replayed on close" in caplog.text
        sim.start()
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background", resume=True
        )
        assert arrived(sim, 20)
        tracker.close()
        assert set(points_of(sim).values()) == {1}


def test_a_helper_that_is_asked_to_end_records_every_answer(tmp_path, quick, monkeypatch):
    """SIGTERM to the helper in mid-pass, as a machine that shuts down sends it: nothing is in
    doubt, and another helper delivers the rest.
    """
    with simulator(latency_s=0.005) as sim:
        at(sim, monkeypatch)
        asked = iter(range(1, 10**6))

        def terminate(call):
            if call.operation == "BatchPutMetrics" and next(asked) == 40:
                (child,) = watchers_of(os.getpid())
                os.kill(child, signal.SIGTERM)

        sim.on_request = terminate
        with Tracker.create(
            trial_component_name="run",
            journal=tmp_path / "journal",
            sync="background",
            close_deadline_s=3_600,
        ) as tracker:
            for step in range(3_000):
                tracker.log_metric("loss", float(step), iteration_number=step)
            assert arrived(sim, 400)
        found = states(tmp_path / "journal")
        assert (found["in doubt"], found["pending"]) == (0, 0)
        assert points_of(sim).total() == 3_000
        assert set(points_of(sim).values()) == {1}


KILLED = """
import os, sys
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run")
for step in range(200):
    tracker.log_metric("loss", float(step), iteration_number=step)
print("logged", flush=True)
sys.stdin.read()
"""


def test_a_killed_training_process_leaves_no_helper_and_nothing_in_doubt(tmp_path):
    """When training is killed while a pass is under way, its helper records the answers to what
    is in flight, and ends.
    """
    with simulator(latency_s=0.1) as sim:
        training = script(KILLED, sim, tmp_path / "journal")
        assert training.stdout.readline() == "logged\n"
        assert sim.wait_until(lambda sim: sim.calls("BatchPutMetrics"))
        (child,) = watchers_of(training.pid)
        ended = os.pidfd_open(child)
        training.kill()
        training.communicate()
        assert ends(ended)
        found = states(tmp_path / "journal")
        assert found["in doubt"] == 0
        assert len(points_of(sim)) == 200 - found["pending"]


UNCLOSED = """
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run")
tracker.log_metric("loss", 1.0)
print("logged", flush=True)
input()
"""


def test_a_silent_server_keeps_no_interpreter_from_exiting(tmp_path, patient):
    """A script that ends without close exits at once, although a request waits for an answer
    that never comes.
    """
    with simulator() as sim:
        sim.fail("*", BlackHole(), times=1_000)
        asked = threading.Event()
        sim.on_request = lambda _: asked.set()
        training = script(UNCLOSED, sim, tmp_path / "journal")
        assert training.stdout.readline() == "logged\n"
        assert asked.wait(FOREVER_S)
        training.communicate("\n", timeout=LIMIT_S)
        assert training.returncode == 0
        sim.release()
    assert states(tmp_path / "journal")["pending"] + states(tmp_path / "journal")["in doubt"] >= 1


def test_close_keeps_its_deadline_with_a_silent_server(
    tmp_path, quick, patient, monkeypatch, caplog
):
    """When nobody answers, close returns soon after its deadline; what was sent is settled by
    the helper or the next sync.
    """
    with simulator() as sim:
        at(sim, monkeypatch)
        tracker = Tracker.create(
            trial_component_name="run",
            journal=tmp_path / "journal",
            sync="background",
            close_deadline_s=2,
        )
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        sim.fail("*", BlackHole(), times=1_000)
        tracker.log_metric("loss", 2.0)
        begun = time.monotonic()
        tracker.close()
        assert time.monotonic() - begun < LIMIT_S
        assert "delivers the rest" in caplog.text or "stay in the journal" in caplog.text
        sim.release()


def test_a_helper_that_is_killed_is_started_again(tmp_path, quick, monkeypatch):
    """When somebody kills the helper, training notices nothing, and another one delivers."""
    with simulator() as sim:
        at(sim, monkeypatch)
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        (child,) = watchers_of(os.getpid())
        os.kill(child, signal.SIGKILL)
        tracker.log_metric("loss", 2.0)
        assert arrived(sim, 2)
        tracker.close()


def test_what_is_refused_never_raises_into_training(tmp_path, quick, monkeypatch, caplog):
    """Without permission everything stays in the journal, and close says why in the log."""
    with simulator() as sim:
        at(sim, monkeypatch)
        sim.fail("*", HttpError(400, "AccessDeniedException"), times=1_000)
        with Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        ) as tracker:
            tracker.log_metric("loss", 1.0)
        assert "AccessDenied" in caplog.text
        assert states(tmp_path / "journal")["pending"] == 4


LEFT_ALIVE = """
import os, sys
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run")
worker = os.fork()
if worker == 0:
    sys.stdin.read()
    os._exit(0)
tracker.log_metric("loss", 1.0)
print("logged", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_outlives_training_keeps_no_watcher_alive(tmp_path):
    """A forked worker does not hold the pipe whose end tells the watcher that training was
    killed.
    """
    with simulator() as sim:
        training = script(LEFT_ALIVE, sim, tmp_path / "journal")
        assert training.stdout.readline() == "logged\n"
        assert arrived(sim, 1)
        (child,) = watchers_of(training.pid)
        ended = os.pidfd_open(child)
        training.kill()
        training.wait()
        assert ends(ended)
        training.communicate()  # the worker reads the end of its stdin


STOPPED = """
import sys
from journaltrack import Tracker
with Tracker.create(trial_component_name="run") as tracker:
    for step in range(400):
        tracker.log_metric("loss", float(step), iteration_number=step)
    print("logged", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_puts_nothing_in_doubt(tmp_path, number):
    """Ctrl-C, or a scheduler's SIGTERM to all that a job is, in the middle of a pass: every
    answer that comes is recorded.
    """
    with simulator(latency_s=0.05) as sim:
        training = script(STOPPED, sim, tmp_path / "journal", start_new_session=True)
        assert training.stdout.readline() == "logged\n"
        assert sim.wait_until(lambda sim: sim.calls("BatchPutMetrics"))
        (child,) = watchers_of(training.pid)
        ended = os.pidfd_open(child)
        os.killpg(training.pid, number)
        training.communicate(timeout=600)
        assert ends(ended)
        found = states(tmp_path / "journal")
        assert found["in doubt"] == 0
        assert set(points_of(sim).values()) == {1}
        # after Ctrl-C the block ends, and close delivers
        assert number == signal.SIGTERM or found["pending"] == 0
