"""``sync="background"``: delivered while training runs, by a process that ends with it, and
never in training's way.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
import pytest

from journaltrack import Tracker
from tests.faults.conftest import ENVIRONMENT, QUICK
from tests.faults.test_sync_killed import states
from tests.faults.test_watch import arrived, points_of
from tests.patience import FOREVER_S
from tests.simulator import BlackHole, HttpError, simulator

LIMIT_S = 300.0  # half of the deadline of close, and far less than the hour of `patient`


@pytest.fixture
def quick(monkeypatch, credentials):
    """Credentials, and short delays."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JOURNALTRACK_WATCH_DEBOUNCE_S", "0.05")
    monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", "600")  # what is about the deadline sets it


def at(sim, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)


def watchers_of(pid):
    """Its children that watch, by pid; a test process may have servers of other tests as children.

    Each process is asked for its parent: the kernel's list of a thread's children leaves out what
    changes threads meanwhile.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"watch\0--child" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):  # noqa: PERF203 - it has ended
            pass
    return found


def ends(pidfd):
    """Whether the process has ended, waited for as long as a test may take."""
    over = bool(select.select([pidfd], [], [], 600)[0])
    os.close(pidfd)
    return over


def script(code, sim, journal, *, start_new_session=False):
    """Start a training script."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | ENVIRONMENT | QUICK
    known |= {
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_JOURNAL": str(journal),
        "JOURNALTRACK_SYNC": "background",
    }
    known |= {"JOURNALTRACK_WATCH_DEBOUNCE_S": "0.05", "JOURNALTRACK_CLOSE_DEADLINE_S": "600"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=known, start_new_session=start_new_session, **pipes
    )


def test_points_arrive_while_training_runs(tmp_path, quick, monkeypatch):
    """Without close, what is logged is delivered; close delivers the rest and leaves no process
    behind.
    """
    with simulator() as sim:
        at(sim, monkeypatch)
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        for step in range(30):
            tracker.log_metric("loss", float(step), iteration_number=step)
        assert arrived(sim, 30)
        with tracker:
            tracker.log_metric("loss", 1000.0)
        assert points_of(sim).total() == 31
        assert sim.components["run"].status["PrimaryStatus"] == "Completed"
        assert set(points_of(sim).values()) == {1}
        assert watchers_of(os.getpid()) == []
        assert not [
            thread for thread in threading.enumerate() if thread.name == "journaltrack-background"
        ]
        assert states(tmp_path / "journal")["pending"] == 0


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


def test_two_trackers_of_a_journal_share_one_background(tmp_path, quick, monkeypatch):
    """The second tracker starts nothing anew, and the first one's end does not end it."""
    with simulator() as sim:
        at(sim, monkeypatch)
        first = Tracker.create(
            trial_component_name="a", journal=tmp_path / "journal", sync="background"
        )
        second = Tracker.create(
            trial_component_name="b", journal=tmp_path / "journal", sync="background"
        )
        first.log_metric("loss", 1.0)
        assert arrived(sim, 1, "a")
        assert len(watchers_of(os.getpid())) == 1
        first.close()
        second.log_metric("loss", 1.0)
        assert arrived(sim, 1, "b")
        second.close()
        assert watchers_of(os.getpid()) == []


def test_a_session_of_the_caller_is_used(tmp_path, quick, monkeypatch):
    """A boto3 session that is handed in makes the requests: no other process could."""
    with simulator(known_keys={"AKIDSESSION": "secret"}) as sim:
        at(sim, monkeypatch)
        session = boto3.Session("AKIDSESSION", "secret", region_name="us-east-1")
        tracker = Tracker.create(
            trial_component_name="run",
            journal=tmp_path / "journal",
            sync="background",
            boto3_session=session,
        )
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        assert watchers_of(os.getpid()) == []
        tracker.close()
        assert {request.access_key for request in sim.requests} == {"AKIDSESSION"}


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


FORKING = """
import os, sys
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run")
tracker.log_metric("parent", 0.0)
print("ready", flush=True)
input()
children = []
for worker in range(4):
    pid = os.fork()
    if pid == 0:
        for step in range(10):
            tracker.log_metric("child", float(worker * 10 + step), iteration_number=step)
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
tracker.log_metric("parent", 1.0)
print("forked", flush=True)
input()
tracker.close()
"""


def test_training_that_forks_is_delivered_whole(tmp_path):
    """Workers forked from a process with a background log into the journal; parent's and
    children's points arrive once.
    """
    with simulator() as sim:
        training = script(FORKING, sim, tmp_path / "journal")
        assert training.stdout.readline() == "ready\n"
        assert arrived(sim, 1)
        training.stdin.write("\n")
        training.stdin.flush()
        assert training.stdout.readline() == "forked\n"
        assert arrived(sim, 42)
        training.communicate("\n", timeout=600)
        assert training.returncode == 0
        there = Counter((point.name, point.value) for point in sim.components["run"].metrics)
        assert there == Counter(
            {("parent", 0.0): 1, ("parent", 1.0): 1, **{("child", float(n)): 1 for n in range(40)}}
        )


CHILD_TRACKER = """
import os
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="parent")
tracker.log_metric("loss", 1.0)
pid = os.fork()
if pid == 0:
    with Tracker.create(trial_component_name="child") as own:
        own.log_metric("loss", 2.0)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
tracker.close()
"""


def test_a_forked_child_may_have_a_background_of_its_own(tmp_path):
    """A tracker made in a forked child delivers; so does the parent's afterwards."""
    with simulator() as sim:
        training = script(CHILD_TRACKER, sim, tmp_path / "journal")
        training.communicate(timeout=600)
        assert training.returncode == 0
        assert points_of(sim, "parent") == {1.0: 1}
        assert points_of(sim, "child") == {2.0: 1}


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


WORKERS = """
import os
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="parent")
gates = []
for number in range(6):
    opened = os.pipe()
    pid = os.fork()
    if pid == 0:
        own = Tracker.create(trial_component_name=f"worker-{number}")
        own.log_metric("loss", float(number))
        tracker.log_metric("loss", float(number))
        os.read(opened[0], 1)
        os._exit(0)
    gates.append((pid, opened[1]))
print(*[pid for pid, _ in gates], flush=True)
input()
for pid, gate in gates:
    os.write(gate, b".")
    os.waitpid(pid, 0)
"""


def test_forked_workers_start_no_watchers_of_their_own(tmp_path):
    """Trackers that workers inherit, and those that they make, are delivered by the one watcher
    of their parent.
    """
    with simulator() as sim:
        training = script(WORKERS, sim, tmp_path / "journal")
        workers = [int(pid) for pid in training.stdout.readline().split()]
        assert all(arrived(sim, 1, f"worker-{number}") for number in range(6))
        assert arrived(sim, 6, "parent")
        assert len(watchers_of(training.pid)) == 1
        assert [watchers_of(pid) for pid in workers] == [[]] * 6
        training.communicate("\n", timeout=600)
    assert training.returncode == 0


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


def test_the_watcher_is_configured_as_the_tracker_was(tmp_path, quick, monkeypatch):
    """What the file says by the time that the watcher starts, or starts again, is for trackers
    to come.
    """
    with simulator() as sim:
        file = tmp_path / "config.toml"
        file.write_text(f"endpoint_url = '{sim.endpoint_url}'\nallow.components = ['r,n', 'run']\n")
        monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        file.write_text("no TOML")
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        (child,) = watchers_of(os.getpid())
        os.kill(child, signal.SIGKILL)
        tracker.log_metric("loss", 2.0)
        assert arrived(sim, 2)
        tracker.close()
        assert points_of(sim).total() == 2


def test_new_credentials_in_the_environment_reach_the_watcher(tmp_path, quick, monkeypatch):
    """A program that renews its credentials in os.environ is delivered with them, without a call
    to the tracker.
    """
    with simulator(known_keys={"AKIDRENEWED": "secret"}) as sim:
        at(sim, monkeypatch)
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        tracker.log_metric("loss", 1.0)
        assert sim.wait_until(lambda sim: sim.requests)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDRENEWED")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        assert arrived(sim, 1)
        tracker.close()


def test_no_terminal_is_there_to_ask_anybody(tmp_path, quick, monkeypatch):
    """The watcher leads a session of its own, which has no terminal: no program that it runs for
    credentials can prompt.
    """
    with simulator() as sim:
        at(sim, monkeypatch)
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        (child,) = watchers_of(os.getpid())
        assert os.getsid(child) == child
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[4] == "0", (
            "its terminal"
        )
        tracker.close()


def test_a_frozen_program_is_not_started_again(tmp_path, quick, monkeypatch):
    """Where sys.executable is the program itself, running it as Python would start the training
    anew, and anew: a thread delivers.
    """
    with simulator() as sim:
        at(sim, monkeypatch)
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="background"
        )
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        assert watchers_of(os.getpid()) == []
        tracker.close()
