"""The scripts of examples/cluster, with folders for nodes and stand-ins for the scheduler.

A node is a folder, which is its disk. The stand-ins do what Slurm's commands and torchrun do with
processes: a step runs on each node, signals go to processes of the steps, a requeue is noted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from journaltrack.journal.journal import Journal
from journaltrack.mirror import copies, folders
from journaltrack.mirror.check import check
from tests.patience import FOREVER_S

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
STAND_INS = {
    # A step: the command once on each node of the job.
    "srun": """
import os, pathlib, signal, subprocess, sys
steps = pathlib.Path(os.environ["CLUSTER"], "steps")
nodes = os.environ["SLURM_JOB_NODELIST"].split(",")
started = []
for number, node in enumerate(nodes):
    own = {"SLURM_NODEID": str(number), "SLURM_PROCID": str(number),
           "JOURNALTRACK_HOME": os.path.join(os.environ["CLUSTER"], node)}
    started.append(subprocess.Popen(sys.argv[1:], env=os.environ | own, start_new_session=True))
steps.write_text(" ".join(str(each.pid) for each in started))
sys.exit(max(each.wait() & 0xFF for each in started))
""",
    "scancel": """
import os, pathlib, signal
for pid in pathlib.Path(os.environ["CLUSTER"], "steps").read_text().split():
    os.killpg(int(pid), signal.SIGTERM)
""",
    "scontrol": """
import os, pathlib, sys
if sys.argv[1] == "show":
    print("\\n".join(sys.argv[-1].split(",")))
else:
    pathlib.Path(os.environ["CLUSTER"], "requeued").write_text(" ".join(sys.argv[1:]))
""",
    # The agent of a node: it starts the ranks, and ends with 1 if one of them fails.
    "torchrun": """
import os, signal, subprocess, sys
words = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:-1])
count = int(words["nproc-per-node"])
signal.signal(signal.SIGTERM, lambda *_: None)
ranks = []
for local in range(count):
    own = {"LOCAL_RANK": str(local), "TORCHELASTIC_RUN_ID": words["rdzv-id"],
           "RANK": str(int(os.environ["SLURM_NODEID"]) * count + local)}
    ranks.append(subprocess.Popen([sys.executable, sys.argv[-1]], env=os.environ | own))
sys.exit(any([rank.wait() for rank in ranks]))
""",
}


class Cluster:
    """Nodes, a shared folder, and the commands of a scheduler.

    Args:
        folder: For all of it.
    """

    def __init__(self, folder):
        self.folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir()
        (folder / "bin").mkdir()
        commands = {name: f"exec {sys.executable} {folder}/bin/{name}.py" for name in STAND_INS}
        commands["python"] = f"exec {sys.executable}"
        commands["journaltrack"] = f"exec {sys.executable} -m journaltrack"
        for name, text in STAND_INS.items():
            (folder / "bin" / f"{name}.py").write_text(text)
        for name, text in commands.items():
            file = folder / "bin" / name
            file.write_text(f'#!/bin/sh\n{text} "$@"\n')
            file.chmod(0o755)

    def environment(self, node="node1", **more):
        """The environment of a job's script on a node."""
        return os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "CLUSTER": str(self.folder),
            "SHARED": str(self.shared),
            "TRAIN": str(CLUSTER / "train.py"),
            "JOURNALTRACK_HOME": str(self.folder / node),
            "JOURNALTRACK_CLOSE_DEADLINE_S": "600",
            "SLURM_JOB_ID": "7",
            **more,
        }

    def batch(self, script, node="node1", **more):
        """Start a job's script on a node."""
        return subprocess.Popen(
            ["bash", CLUSTER / script],
            env=self.environment(node, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def mirrored(self):
        """How many points of each run and metric are in the mirror, if it proves."""
        with contextlib.suppress(Exception):
            found = check(folders.opened(self.shared / "mirror"))
            if found and all(each.is_well for each in found):
                return sum(each.entries for each in found)
        return 0

    def delivered(self, monkeypatch):
        """The steps that a login node has of each metric of each run."""
        assert all(each.is_well for each in check(folders.opened(self.shared / "mirror")))
        monkeypatch.setenv("JOURNALTRACK_HOME", str(self.folder / "login"))
        found = Counter()
        for copied in copies.extended(self.shared / "mirror"):
            assert (copied.problem, copied.notes) == (None, [])
            with closing(Journal.open(copied.folder, create=False, read_only=True)) as journal:
                found.update(
                    journal.database.read(
                        "SELECT c.name, e.name, e.step FROM entry e JOIN component c "
                        "ON c.id = e.component_id WHERE e.stream = 'metric'"
                    )
                )
        return found


@pytest.fixture
def cluster(tmp_path):
    """A cluster of folders."""
    return Cluster(tmp_path)


def until(true):
    """Wait until something becomes true, however long the machine takes."""
    end = time.monotonic() + FOREVER_S
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.05)


def steps(run, metric, count):
    """Each step of a metric, once."""
    return Counter({(run, metric, step): 1 for step in range(count)})


def test_a_job_that_is_stopped_is_requeued_and_continues_on_another_node(cluster, monkeypatch):
    """SIGTERM a minute before the end: the training stops in order, its last entries are mirrored,
    and the job is requeued. On another node, with an empty disk, it goes on behind its last step.
    """
    job = cluster.batch("slurm.sh", STEPS="100000")
    until(lambda: cluster.mirrored() > 20)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate()
    assert job.returncode == 143, out
    assert (cluster.folder / "requeued").read_text() == "requeue 7"
    before = cluster.delivered(monkeypatch)
    done = len(before)
    (cluster.folder / "node1").rename(cluster.folder / "wiped")
    job = cluster.batch("slurm.sh", "node2", STEPS=str(done + 10), SLURM_RESTART_COUNT="1")
    out, _ = job.communicate()
    assert job.returncode == 0, out
    assert cluster.delivered(monkeypatch) == steps("slurm-7", "rank-0:loss", done + 10)


def test_the_epilog_mirrors_what_a_killed_training_left(cluster, monkeypatch):
    """Training and the process beside it are killed at once, as by the kernel when memory is short.
    The script's next line mirrors the rest.
    """
    job = cluster.batch("slurm.sh", STEPS="100000", JOURNALTRACK_MIRROR_EVERY_S="3600")
    until(lambda: cluster.mirrored() > 0)
    journal = cluster.folder / "node1" / "journal"
    for name in (b"mirror\0--child", b"train.py"):
        for file in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    name in (file / "cmdline").read_bytes()
                    and os.fsencode(cluster.folder) in (file / "environ").read_bytes()
                ):
                    os.kill(int(file.name), signal.SIGKILL)
    out, _ = job.communicate()
    assert job.returncode == 137, out
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        count = opened.database.read("SELECT count(*) FROM entry WHERE stream = 'metric'")[0][0]
    assert cluster.delivered(monkeypatch) == steps("slurm-7", "rank-0:loss", count)


def test_tasks_of_an_array_are_runs_of_their_own(cluster, monkeypatch):
    """Three tasks, two of them on one node, write into one mirror at once."""
    tasks = [
        cluster.batch(
            "slurm.sh",
            f"node{number % 2}",
            STEPS="5",
            SLURM_ARRAY_JOB_ID="7",
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_JOB_ID=str(7 + number),
        )
        for number in range(3)
    ]
    for task in tasks:
        out, _ = task.communicate()
        assert task.returncode == 0, out
    assert cluster.delivered(monkeypatch) == sum(
        (steps(f"slurm-7-{number}", "rank-0:loss", 5) for number in range(3)), Counter()
    )


def test_ranks_of_several_nodes_are_one_run(cluster, monkeypatch):
    """Two ranks on each of two nodes: a journal and a process for each node, one run. A signal to
    the script stops all ranks, and what all of them logged is mirrored. Requeued on empty disks,
    each rank goes on behind its last point, in whatever journal that is.
    """
    nodes = {"SLURM_JOB_NODELIST": "node1,node2", "SLURM_NNODES": "2", "RANKS": "2"}
    job = cluster.batch("slurm_torchrun.sh", STEPS="100000", **nodes)
    until(lambda: cluster.mirrored() > 40 and len(list(cluster.folder.glob("node*/journal"))) == 2)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate()
    assert job.returncode == 1, out
    assert (cluster.folder / "requeued").read_text() == "requeue 7"
    logged = Counter()
    for journal in cluster.folder.glob("node*/journal"):
        with closing(Journal.open(journal, create=False, read_only=True)) as opened:
            logged.update(row[0] for row in opened.database.read("SELECT digest FROM entry"))
    found = cluster.delivered(monkeypatch)
    assert {run for run, _, _ in found} == {"slurm-7"}
    assert {name for _, name, _ in found} == {f"rank-{rank}:loss" for rank in range(4)}
    assert cluster.mirrored() == len(logged)
    for node in ("node1", "node2"):
        (cluster.folder / node).rename(cluster.folder / f"wiped-{node}")
    count = 1 + max(step for _, _, step in found)
    job = cluster.batch("slurm_torchrun.sh", STEPS=str(count), SLURM_RESTART_COUNT="1", **nodes)
    out, _ = job.communicate()
    assert job.returncode == 0, out
    expected = (steps("slurm-7", f"rank-{rank}:loss", count) for rank in range(4))
    assert cluster.delivered(monkeypatch) == sum(expected, Counter())


def test_a_side_car_mirrors_what_a_killed_container_left(cluster, monkeypatch):
    """The commands of the manifest, with folders for its volumes. The training is killed, its side-
    car goes on, gets SIGTERM, and ends in order.
    """
    pod = yaml.safe_load((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = pod["spec"]["template"]["spec"]
    (side_car,), (train,) = pod["initContainers"], pod["containers"]
    assert {each["name"] for each in side_car["volumeMounts"]} == {
        each["name"] for each in train["volumeMounts"]
    }

    def placed(text):
        """A path of the pod, as one of this machine."""
        return text.replace("/scratch", str(cluster.folder / "emptydir")).replace(
            "/shared", str(cluster.shared)
        )

    (cluster.folder / "emptydir").mkdir()
    own = {each["name"]: placed(each["value"]) for each in train["env"]}
    environment = cluster.environment(
        HOSTNAME="training-0", JOB_COMPLETION_INDEX="0", STEPS="100000", **own
    )
    del environment["SLURM_JOB_ID"]
    beside = subprocess.Popen([placed(word) for word in side_car["command"]], env=environment)
    command = [placed(word) for word in train["command"]]
    command[-1] = str(CLUSTER / command[-1])
    training = subprocess.Popen(command, env=environment)
    until(lambda: cluster.mirrored() > 20)
    training.kill()
    training.wait()
    beside.terminate()
    assert beside.wait() == 0
    with closing(
        Journal.open(cluster.folder / "emptydir" / "journal", create=False, read_only=True)
    ) as opened:
        count = opened.database.read("SELECT count(*) FROM entry WHERE stream = 'metric'")[0][0]
    assert cluster.delivered(monkeypatch) == steps("training-0", "rank-0:loss", count)
