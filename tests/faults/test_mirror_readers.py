"""Nodes and readers of a mirror that are killed or suspended, as processes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

from journaltrack import Tracker
from journaltrack.mirror import copies, folders
from journaltrack.mirror.follower import Follower
from journaltrack.reports import component
from journaltrack.util import paths
from tests.copies import sound
from tests.processes import ENVIRONMENT, arrived, points_of
from tests.simulator import simulator

TRAIN = """
import sys
from journaltrack import Tracker
with Tracker.create(trial_component_name="lost", journal=sys.argv[1], sync="off") as tracker:
    for step in range(5):
        tracker.log_metric("loss", float(step), iteration_number=step)
    print("logged", flush=True)
    sys.stdin.read()
"""
SOON = {
    "JOURNALTRACK_CLAIM_S": "2",
    "JOURNALTRACK_SILENT_AFTER_S": "1",
    "JOURNALTRACK_VISIBLE_AFTER_S": "1",
    "JOURNALTRACK_WATCH_RETRY_FIRST_S": "0.1",
    "JOURNALTRACK_WATCH_RETRY_MAX_S": "0.5",
}


@pytest.fixture
def started():
    """Processes that are killed at the end, however it comes."""
    found = []
    yield found
    for process in found:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def start(started, *command):
    """Start a Python process with pipes."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    started.append(process)
    return process


def status_of(sim, run):
    """The status of a run as SageMaker has it; None: it has none."""
    found = sim.components.get(run)
    return None if found is None else found.status.get("PrimaryStatus")


def log(journal, mirror, steps):
    """A run logs these steps, and is mirrored."""
    with Tracker.create(
        trial_component_name="run", journal=journal, sync="off", resume=True
    ) as tracker:
        for step in steps:
            tracker.log_metric("loss", float(step), iteration_number=step)
    Follower(journal, folders.opened(mirror)).once()


def test_a_lost_node_and_a_suspended_reader(tmp_path, watch, started, monkeypatch):
    """A node is lost with its disk: what was mirrored is delivered, and its run is Stopped, with
    the reason. Of two readers, the one that delivers is suspended: the other one takes over, reads
    back what may have been sent, and delivers the rest. The first one, awake again, sends nothing.
    Each point arrives once.
    """
    mirror = tmp_path / "inbox" / "mirror"
    follow = ("-m", "journaltrack", "mirror", tmp_path / "node", mirror, "--follow")
    trainer = start(started, "-c", TRAIN, tmp_path / "node")
    monkeypatch.setenv("JOURNALTRACK_MIRROR_HEARTBEAT_S", "0.3")
    follower = start(started, *follow, "--interval", "0.1")
    assert trainer.stdout.readline() == "logged\n"
    homes = {name: SOON | {"JOURNALTRACK_HOME": str(tmp_path / name)} for name in ("one", "two")}
    with simulator() as sim:
        while not list(mirror.rglob("[0-9]*.jsonl")):
            assert follower.poll() is None
        # A mirror may be in a folder of journals.
        one = watch(tmp_path / "inbox", sim.endpoint_url, env=homes["one"])
        arrived(sim, 5, "lost")
        for process in (trainer, follower):
            process.kill()
            process.wait()
        shutil.rmtree(tmp_path / "node")
        assert sim.wait_until(lambda sim: status_of(sim, "lost") == "Stopped", 300)
        message = sim.components["lost"].status["Message"]
        assert message.startswith("the node went silent at 20")
        assert "last mirrored entry" in message
        # The second journal of the mirror is found, and delivered by the first reader.
        log(tmp_path / "journal", mirror, range(5))
        arrived(sim, 5)
        one.process.send_signal(signal.SIGSTOP)
        two = watch(mirror, sim.endpoint_url, env=homes["two"])
        log(tmp_path / "journal", mirror, range(5, 8))
        # What is in doubt is read back twice: by the passes that deliver what comes next.
        steps = itertools.count(8)
        while points_of(sim)[7.0] == 0:
            log(tmp_path / "journal", mirror, [last := next(steps)])
        one.process.send_signal(signal.SIGCONT)
        log(tmp_path / "journal", mirror, [last := next(steps)])
        assert sim.wait_until(lambda sim: points_of(sim)[float(last)] > 0, 300)
        assert two.end() == 0
        assert one.end() == 0
        assert points_of(sim) == Counter(range(last + 1))
        assert points_of(sim, "lost") == Counter(range(5))
        assert status_of(sim, "lost") == "Stopped"
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "two"))
    for copied in copies.extended(mirror):
        sound(copied.folder)
    assert len([*paths.journals_in(copies.place_of(folders.opened(mirror)))]) == 2
    command = [sys.executable, "-m", "journaltrack", "runs", str(mirror), "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert {each["name"]: each["status"] for each in told}["lost"] == "stopped"


def test_a_killed_process_is_told_by_whoever_mirrors(tmp_path, started):
    """A training is killed, and its node lives: only there that can be proven. What mirrors the
    journal next records that the run stopped, and the reader has it.
    """
    trainer = start(started, "-c", TRAIN, tmp_path / "node")
    assert trainer.stdout.readline() == "logged\n"
    mirror = folders.opened(tmp_path / "mirror", create=True)
    told = []
    for _ in range(2):
        Follower(tmp_path / "node", mirror).once()
        (copied,) = copies.extended(mirror.path)
        found = component.show(copied.folder, "lost").status
        told.append((found.primary, (found.message or "").partition(":")[0]))
        trainer.kill()
        trainer.wait()
    assert told == [("InProgress", ""), ("Stopped", "interrupted")]
