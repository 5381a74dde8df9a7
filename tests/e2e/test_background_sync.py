"""``sync="background"`` as training uses it: one watcher delivers for a process and its workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import boto3

from journaltrack import Tracker
from tests.processes import arrived, points_of, script, states, watchers_of
from tests.simulator import simulator


def at(sim, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)


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
