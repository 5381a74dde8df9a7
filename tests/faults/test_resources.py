"""What a process holds does not grow with the trackers that it has had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, QUICK
from tests.simulator import CutAfter, simulator

TRAINING = """
import gc, json, os, sys, threading
from pathlib import Path
from journaltrack import Tracker

folder, mode, end, shared = sys.argv[1:]
few, count = (5, 20) if end == "dropped" else (2, 8)  # what is dropped delivers nothing
gc.disable()  # what is given back must not wait for it

def held():
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "background" not in thread.name and "watch" not in thread.name:
            thread.join(1200)  # what is over by now ends in a moment
    links, children, states = [], [], []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0])
        except FileNotFoundError:  # the listing's own
            pass
    for task in os.listdir("/proc/self/task"):
        try:
            children += Path(f"/proc/self/task/{task}/children").read_text().split()
        except FileNotFoundError:  # a thread that was over already
            pass
    for child in children:
        states.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
    return {"descriptors": links, "threads": len(os.listdir("/proc/self/task")), "children": states}

def one(n):
    tracker = Tracker.create(trial_component_name=f"run-{n}", journal=Path(folder) / ("shared" if shared else str(n)), sync=mode)
    tracker.log_metric("loss", 1.0)
    tracker.log_artifact(os.path.join(folder, "model"))
    if end == "dropped":
        del tracker
        gc.collect()
        return
    tracker.close()
    if end == "reopened":
        tracker.log_metric("loss", 2.0)
        tracker.close()

for n in range(few):
    one(n)
first = held()
for n in range(few, count):
    one(n)
print(json.dumps([first, held()]))
"""


@pytest.mark.parametrize(
    ("mode", "end", "shared"),
    [
        ("close", "closed", ""),
        ("close", "closed", "shared"),
        ("close", "reopened", ""),
        ("close", "dropped", ""),
        ("background", "closed", ""),
        ("background", "reopened", "shared"),
        ("background", "dropped", "shared"),
        ("off", "closed", ""),
    ],
)
def test_nothing_grows_with_the_number_of_trackers(tmp_path, mode, end, shared):
    """After eight trackers a process has no more descriptors, threads and children than after
    two, no socket, and no zombie.
    """
    (tmp_path / "model").write_text("weights")
    with simulator() as sim:
        env = (
            os.environ
            | ENVIRONMENT
            | QUICK
            | {"AWS_ENDPOINT_URL": sim.endpoint_url, "JOURNALTRACK_CLOSE_DEADLINE_S": "120"}
        )
        command = [sys.executable, "-c", TRAINING, str(tmp_path), mode, end, shared]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=1800, check=False
        )
    assert done.returncode == 0, done.stderr
    first, last = json.loads(done.stdout)
    assert len(last["descriptors"]) <= len(first["descriptors"]) + 4, Counter(
        last["descriptors"]
    ) - Counter(first["descriptors"])
    assert last["threads"] <= first["threads"] + 4
    assert len(last["children"]) <= len(first["children"]) + 1
    assert "Z" not in last["children"]
    if end != "dropped":
        assert "socket" not in last["descriptors"], "those of a pass are closed at its end"
        assert last["children"] == []


LOADING = """
import os, sys, threading
from pathlib import Path
from journaltrack import Tracker

trackers = [Tracker.load("run", journal=sys.argv[1], sync="off") for _ in range(50)]
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(1200)
print(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
"""


def test_git_is_waited_for_though_nobody_asks_for_its_answer(journal, tmp_path):
    """A process that only reads never wants to know what git said of its program; it has no
    zombie all the same.
    """
    program = tmp_path / "tree" / "train.py"
    program.parent.mkdir()
    program.write_text(LOADING)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], cwd=program.parent, check=True)
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, str(program), str(journal)],
        env=env,
        capture_output=True,
        text=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_git_that_hangs_keeps_nobody_waiting(tmp_path):
    """On a disk that does not answer git never ends; the first call of training waits for it a
    quarter of a second, and no longer.
    """
    program = tmp_path / "tree" / "train.py"
    program.parent.mkdir()
    program.write_text(
        "from journaltrack import Tracker\nTracker.create(journal='j', "
        "sync='off').log_metric('loss', 1.0)\nprint('logged')"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], cwd=program.parent, check=True)
    never = tmp_path / "never"
    os.mkfifo(never)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\ntrap '' TERM\nread line <{never}\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    env = os.environ | {
        "PYTHONPATH": os.getcwd(),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [sys.executable, str(program)], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.communicate(timeout=FOREVER_S)[0] == "logged\n"
    finally:
        with open(os.open(never, os.O_RDWR | os.O_NONBLOCK), "wb") as end:
            end.write(b"\n")  # so that what stands for git ends, too


def test_an_answer_that_is_lost_leaves_no_connection_open(tmp_path):
    """Also a pass that fails closes its sockets."""
    (tmp_path / "model").write_text("weights")
    with simulator() as sim:
        sim.fail("BatchPutMetrics", CutAfter(), times=1000)
        env = (
            os.environ
            | ENVIRONMENT
            | {"AWS_ENDPOINT_URL": sim.endpoint_url, "JOURNALTRACK_CLOSE_DEADLINE_S": "120"}
        )
        command = [sys.executable, "-c", TRAINING, str(tmp_path), "close", "closed", ""]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=1800, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "socket" not in json.loads(done.stdout)[1]["descriptors"]
