"""A run whose process is gone does not stay in progress for ever; one whose process lives is
never ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys

import pytest

import journaltrack
import journaltrack.journal.view
import journaltrack.journal.vocabulary
from journaltrack import Journal, Tracker, audit
from journaltrack.app.composition import run_pass
from journaltrack.app.connection import Connection
from journaltrack.errors import JournalFullError
from journaltrack.journal import interruption, vocabulary, writers
from journaltrack.reports.component import show
from journaltrack.reports.status import status
from tests import warm
from tests.faults.interrupting import Training
from tests.patience import FOREVER_S
from tests.processes import sync_process
from tests.simulator import simulator
from tests.simulator.mlflow import MlflowServer


@pytest.fixture
def folder(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal"


@pytest.fixture
def training(folder):
    """Starts training processes in that journal; those that still run at the end are killed."""
    started = []

    def start(*arguments, **kwargs):
        started.append(Training(folder, *arguments, **kwargs))
        return started[-1]

    yield start
    for each in started:
        each.kill()  # also one that has ended: its pipes are closed


def cli(*arguments, code=0):
    """A command's output."""
    done = warm.run(
        [sys.executable, "-m", "journaltrack", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=FOREVER_S,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def sync(journal, endpoint_url, *arguments, **kwargs):
    """A sync in a process of its own; its output."""
    process = sync_process(journal, endpoint_url, *arguments, **kwargs)
    out, err = process.communicate(timeout=FOREVER_S)
    assert process.returncode == 0, (out, err)
    return out, err


def run_of(folder, component="run"):
    """How the run stands, in one word; None when it is not in progress."""
    run = show(folder, component).run
    return None if run is None else run.state


def statuses(folder, component="run"):
    """The statuses that were recorded, in order, with the pid of the process that did it."""
    journal = Journal.open(folder, create=False, read_only=True)
    pids = dict(journal.database.read("SELECT id, pid FROM writer"))
    row = journal.find(component)
    found = [
        (e.detail["primary"], pids[e.writer_id])
        for e in journal.state_entries(row.id)
        if e.kind == "status"
    ]
    journal.close()
    return found


def last_entry(folder, component="run"):
    """When the last entry of the component was recorded, as the commands say it, and in
    nanoseconds.
    """
    journal = Journal.open(folder, create=False, read_only=True)
    at_ns = max(entry.recorded_at_ns for entry in journal.entries() if entry.component == component)
    journal.close()
    return journaltrack.journal.view.iso_seconds(at_ns), at_ns


def test_a_killed_run_is_told_to_be_interrupted_by_every_command(folder, training):
    """After SIGKILL status, show and audit say so, with the time of its last entry, as text and
    as JSON.
    """
    process = training().ready()
    assert run_of(folder) == "running"
    assert (
        "interrupted" not in cli("status", folder).stdout + cli("show", "run", "-j", folder).stdout
    )
    process.kill()
    at, _ = last_entry(folder)
    for command in (("status", folder), ("show", "run", "-j", folder), ("audit", folder)):
        code = 3 if command[0] == "audit" else 0
        assert f"interrupted, last entry at {at}" in cli(*command, code=code).stdout, command
        told = json.loads(cli(*command, "--json", code=code).stdout)
        runs = {
            "status": lambda t: t["journals"][0]["left_open"][0],
            "show": lambda t: t["run"],
            "audit": lambda t: t["components"][0]["run"],
        }
        run = runs[command[0]](told)
        assert (run["component"], run["state"], run["pid"]) == ("run", "interrupted", process.pid)
        assert run["last_entry_at"][:19] == at[:19]
    assert statuses(folder) == [("InProgress", process.pid)], "whoever looks records nothing"


def test_a_sync_ends_an_interrupted_run_on_the_record(folder, training):
    """SageMaker has it as Stopped with the reason and the time of its last entry; the journal
    says that the sync said so; once.
    """
    process = training().ready()
    process.kill()
    at, at_ns = last_entry(folder)
    with simulator() as sim:
        out, err = sync(folder, sim.endpoint_url, "--json")
        there = sim.components["run"]
        assert there.status["PrimaryStatus"] == "Stopped"
        assert there.status["Message"].startswith(f"interrupted: process {process.pid} on ")
        assert there.status["Message"].endswith(f" ended without close; last entry at {at}")
        assert abs(there.end_time - at_ns / 1e9) < 0.01
        assert json.loads(out)["journals"][0]["ended"] == ["run"]
        assert "run was interrupted" in err
        requests = len(sim.requests)
        out, err = sync(folder, sim.endpoint_url, "--json")
        assert json.loads(out)["journals"][0]["ended"] == []
        assert len(sim.requests) == requests
    first, second = statuses(folder)
    assert first == ("InProgress", process.pid)
    assert second[0] == "Stopped"
    assert second[1] not in {process.pid, os.getpid()}
    assert run_of(folder) is None
    assert not (folder / "writers").exists(), (
        "what tells of dead writers is removed when nothing needs it any more"
    )


def test_a_sync_to_another_destination_tells_whom_it_ended(folder, training):
    """Its journal says so, and the copy for the destination gets it."""
    training().ready().kill()
    with MlflowServer() as server:
        out, err = sync(folder, "http://127.0.0.1:9", "--json", "--to", server.uri)
    assert json.loads(out)["journals"][0]["ended"] == ["run"]
    assert "run was interrupted" in err
    assert statuses(folder)[-1][0] == "Stopped"


def test_nothing_is_ended_without_the_right_to(folder, training):
    """A dry run, `end_interrupted = false` and a pass about another component record nothing."""
    training().ready().kill()
    with simulator() as sim:
        cli("sync", folder, "--dry-run")
        sync(folder, sim.endpoint_url, env={"JOURNALTRACK_END_INTERRUPTED": "false"})
        assert sim.components["run"].status["PrimaryStatus"] == "InProgress"
    assert [primary for primary, _ in statuses(folder)] == ["InProgress"]
    assert run_of(folder) == "interrupted"


def test_a_run_that_is_resumed_is_in_progress_again(folder, training):
    """After the sync said Stopped, the next process's status counts: the start stays, the end is
    its own.
    """
    training().ready().kill()
    with simulator() as sim:
        sync(folder, sim.endpoint_url)
        stopped = show(folder, "run").status
        process = training().ready()
        resumed = show(folder, "run").status
        assert (resumed.primary, resumed.message, resumed.start_ns, resumed.end_ns) == (
            "InProgress",
            None,
            stopped.start_ns,
            None,
        )
        sync(folder, sim.endpoint_url)
        assert sim.components["run"].status["PrimaryStatus"] == "InProgress"
        process.go_on()
        process.hear("ended")
        sync(folder, sim.endpoint_url)
        assert sim.components["run"].status["PrimaryStatus"] == "Completed"
        ended = show(folder, "run").status
        assert (ended.primary, ended.start_ns) == ("Completed", stopped.start_ns)
        assert ended.end_ns > stopped.end_ns
    assert [primary for primary, _ in statuses(folder)] == [
        "InProgress",
        "Stopped",
        "InProgress",
        "Completed",
    ]


def test_a_run_that_another_process_goes_on_with_is_not_ended(folder, training):
    """The process that began the block is killed; one that loaded the run and logged a point
    lives: only its end ends the run.
    """
    first = training().ready()
    other = """
import sys
from journaltrack import Tracker
tracker = Tracker.load(sys.argv[2], journal=sys.argv[1], sync="off")
tracker.log_metric("other", 1.0)
print("ready", flush=True)
sys.stdin.readline()
"""
    second = training(program=other).ready()
    first.kill()
    with simulator() as sim:
        sync(folder, sim.endpoint_url)
        assert run_of(folder) == "running"
        second.kill()
        assert run_of(folder) == "interrupted"
        sync(folder, sim.endpoint_url)
    assert [primary for primary, _ in statuses(folder)] == ["InProgress", "Stopped"]


FORKED = """
ready, done = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    WORK
    os.write(ready[1], b"x")
    os.read(done[0], 1)  # for ever: it has the other end, too
    os._exit(0)
os.read(ready[0], 1)
say(child)
"""


@pytest.mark.parametrize(
    ("work", "state"), [("pass", "interrupted"), ("tracker.log_metric('child', 1.0)", "running")]
)
def test_a_forked_child_proves_no_life_but_its_own(folder, training, work, state):
    """A worker that outlives its killed parent holds nothing of the parent's; one that logged is
    a writer that lives.
    """
    process = training(FORKED.replace("WORK", work))
    child = int(process.hear("ready")[0])
    process.kill()
    try:
        os.kill(child, 0)
        assert run_of(folder) == state
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_leaves_the_parents_proof_alone(folder, training):
    """A child that ends, or runs another program, does not take the lock of its parent with it."""
    process = training(
        "if os.fork() == 0: os._exit(0)\nos.wait()\nsubprocess.run(['true'])"
    ).ready()
    lives = [each.alive for each in writers.look(folder)]
    assert lives == [True]
    assert run_of(folder) == "running"
    process.kill()


def test_an_executed_program_that_lives_on_proves_nothing(folder, training):
    """A subprocess that outlives the killed run has not inherited its lock."""
    process = training(
        "say(subprocess.Popen(['sleep', '300'], close_fds=False, stdin=subprocess.DEVNULL, "
        "stdout=subprocess.DEVNULL).pid)"
    )
    sleeper = int(process.hear("ready")[0])
    process.kill()
    try:
        os.kill(sleeper, 0)
        assert run_of(folder) == "interrupted"
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_copying_the_journal_does_not_look_like_a_death(folder, training, tmp_path):
    """A process that reads and closes every file of its journal keeps its lock; of the copy
    nobody can tell, and its sync ends nothing.
    """
    process = training("shutil.copytree(sys.argv[1], sys.argv[1] + '-copy')").ready()
    copy = tmp_path / "journal-copy"
    assert [each.alive for each in writers.look(folder)] == [True]
    assert run_of(folder) == "running"
    at, _ = last_entry(copy)
    assert run_of(copy) == "unknown"
    host = os.uname().nodename
    assert (
        f"in progress, last entry at {at} on host {host}" in cli("show", "run", "-j", copy).stdout
    )
    process.kill()
    with simulator() as sim:
        sync(copy, sim.endpoint_url)
        assert sim.components["run"].status["PrimaryStatus"] == "InProgress"
    assert run_of(copy) == "unknown"
    assert run_of(folder) == "interrupted"


def test_a_run_in_a_process_that_lost_its_lock_lives(folder, training):
    """`os.closerange` (a daemon's start) closes the lock; the process is seen all the same,
    until it ends.
    """
    process = training("os.closerange(3, 256)").ready()
    assert run_of(folder) == "running"
    process.kill()
    assert run_of(folder) == "interrupted"


def test_other_runs_of_the_same_journal_are_left_alone(folder, training):
    """Of two processes with a run each one is killed: its run alone is ended."""
    killed, lives = training().ready(), training(component="other").ready()
    killed.kill()
    with simulator() as sim:
        sync(folder, sim.endpoint_url)
        assert sim.components["run"].status["PrimaryStatus"] == "Stopped"
        assert sim.components["other"].status["PrimaryStatus"] == "InProgress"
    assert (run_of(folder), run_of(folder, "other")) == (None, "running")
    lives.kill()


def test_a_run_that_is_resumed_in_the_middle_of_a_sync_is_not_ended(folder, training):
    """The sync found it interrupted, then somebody resumed it: what the sync would record is
    looked at again in its transaction.
    """
    training().ready().kill()
    journal = Journal.open(folder)
    ((component_id, found),) = interruption.interrupted(journal).items()
    process = training().ready()
    drafts = [journaltrack.journal.vocabulary.status(primary="Stopped")]
    assert not journal.append_if(
        lambda: interruption.is_interrupted(journal, component_id, found), component_id, drafts
    )
    journal.close()
    assert [primary for primary, _ in statuses(folder)] == ["InProgress", "InProgress"]
    process.kill()


def test_a_watcher_ends_it_though_a_kill_changes_no_file(folder, training, watch):
    """All is delivered and quiet when the process is killed: the watcher notices, and SageMaker
    has the run as Stopped.
    """
    with simulator() as sim:
        process = training().ready()
        watching = watch(folder, sim.endpoint_url)
        seen = watching.wait_for("event=pass", "pending=0")
        assert sim.components["run"].status["PrimaryStatus"] == "InProgress"
        process.kill()
        watching.wait_for("event=pass", "delivered=1", after=seen)
        assert sim.components["run"].status["PrimaryStatus"] == "Stopped"
        assert watching.end() == 0
    assert [primary for primary, _ in statuses(folder)] == ["InProgress", "Stopped"]


def test_runs_that_end_well_leave_no_trace_of_their_writers(folder):
    """After close there is no file and no descriptor of a writer, however many trackers there
    were and whoever holds them.
    """
    before = len(os.listdir("/proc/self/fd"))
    trackers = []
    for number in range(50):
        with Tracker.create(
            trial_component_name=f"run-{number}", journal=folder, sync="off"
        ) as tracker:
            tracker.log_metric("loss", 1.0)
        trackers.append(tracker)
    assert not (folder / "writers").exists()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert audit(folder).components[0].run is None


def test_a_journal_that_was_moved_while_it_was_in_use(folder, training, tmp_path):
    """The lock is on the file, not on its name: the moved journal says of its run what is true."""
    process = training().ready()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert run_of(moved) == "running"
    process.kill()
    assert run_of(moved) == "interrupted"
    shutil.rmtree(moved)
    assert not folder.exists()


def test_a_status_of_many_interrupted_runs_names_them(folder, training):
    """`status` lists each run that was left open, and `--component` chooses among them for a
    report.
    """
    for name in ("a1", "a2", "b1"):
        training(component=name).ready().kill()
    assert [run.component for run in status(folder).left_open] == ["a1", "a2", "b1"]
    assert [run.component for run in status(folder, component="a*").left_open] == ["a1", "a2"]


def test_a_pass_keeps_nothing_in_memory_that_a_full_disk_refuses(tmp_path, monkeypatch):
    """The end of a run can't be recorded: the error says that alone, and nothing waits, of which
    a copy would be made elsewhere as the process ends. A later sync records it.
    """
    folder = tmp_path / "journal"
    Journal.open(folder).close()

    def end(journal, wants):
        """Record more than the device has room for."""
        journal.database.connection.execute("PRAGMA max_page_count = 1")
        journal.append(journal.component("run"), [vocabulary.parameter("long", "x" * 20_000)])

    monkeypatch.setattr(interruption, "end", end)
    with pytest.raises(JournalFullError) as caught:
        run_pass(folder, Connection(endpoint_url="http://127.0.0.1:9"))
    assert "memory" not in str(caught.value)
