"""`journaltrack mirror`, and every command that reads a mirror, as people run them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import ExitCode, main
from journaltrack.mirror import folders
from journaltrack.mirror.check import check
from tests import warm
from tests.copies import content, sound, states
from tests.processes import ENVIRONMENT, arrived, points_of, record, sync_process
from tests.simulator import simulator


def run(*arguments, code=0):
    """Run a command in this process; returns what it prints."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


def mirroring(journal, mirror, *arguments):
    """Start `journaltrack mirror --follow` in a process of its own."""
    command = [sys.executable, "-m", "journaltrack", "mirror", str(journal), str(mirror)]
    return warm.Popen(
        [*command, "--follow", "--interval", "0.1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )


def ended(process, number=signal.SIGTERM):
    """End a process; returns its exit code and what it printed."""
    process.send_signal(number)
    out, err = process.communicate()
    return process.returncode, out + err


@pytest.fixture
def mirror(tmp_path):
    """A mirror of a journal with five points."""
    record(tmp_path / "journal")
    run("mirror", tmp_path / "journal", tmp_path / "mirror")
    return tmp_path / "mirror"


def test_every_reading_command_takes_a_mirror(tmp_path, mirror):
    """In place of a journal, a mirror's folder names the journals that are mirrored there."""
    said = json.loads(run("status", mirror, "--json"))
    assert [each["pending"] for each in said["journals"]] == [len(content(tmp_path / "journal"))]
    assert "run" in run("runs", mirror)
    assert "not all delivered: 0 of 8 entries" in run("audit", mirror, code=3)
    assert "the journal is well" in run("check", mirror)
    run("export", mirror, "-o", tmp_path / "points.csv")
    assert (tmp_path / "points.csv").read_text().count("loss") == 5
    assert "loss" in run("show", "run", "-j", mirror)
    run("report", "run", "-j", mirror, "-o", tmp_path / "report.html")


def test_a_folder_of_journals_may_have_a_mirror(tmp_path, mirror):
    """In an inbox, a mirror's journals are answered for beside the others; one without segments is
    told, and stops nothing.
    """
    inbox = tmp_path / "inbox"
    record(inbox / "journal", component="other")
    mirror.rename(inbox / "mirror")
    folders.opened(inbox / "empty", create=True)
    said = run("runs", inbox, "--json")
    assert "has no whole segment yet" in said
    assert {'"name": "other"', '"name": "run"'} <= set(re.findall('"name": "[a-z]+"', said))
    (inbox / "journal" / "journal.db").unlink()
    assert "run" in run("runs", inbox)


def test_a_sync_of_a_mirror_delivers_and_tells_the_node(tmp_path, mirror, credentials):
    """`sync FOLDER` delivers every entry once. The node, mirrored again, knows what arrived, and
    its own sync sends nothing.
    """
    with simulator() as sim:
        process = sync_process(mirror, sim.endpoint_url)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        assert points_of(sim) == Counter(range(5))
        run("mirror", tmp_path / "journal", mirror)
        assert states(tmp_path / "journal") == {"delivered": 8}
        before = len(sim.requests)
        run("sync", tmp_path / "journal", "--endpoint-url", sim.endpoint_url)
        assert len(sim.requests) == before


def test_a_training_is_delivered_from_elsewhere_while_it_runs(tmp_path, watch):
    """A watcher with another home waits for a mirror. A trainer logs, a process beside it mirrors:
    each point is delivered once, artifacts too, and the node hears of it. Each ends well on
    SIGTERM. Another mirror in the place of the first one is delivered as well.
    """
    artifact = tmp_path / "model.bin"
    artifact.write_bytes(b"weights")
    mirror = tmp_path / "mirror"
    with simulator() as sim:
        watcher = watch(
            mirror, sim.endpoint_url, env={"JOURNALTRACK_HOME": str(tmp_path / "login")}
        )
        watcher.wait_for("event=folder-missing")
        follower = mirroring(tmp_path / "journal", mirror)
        with Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="off"
        ) as tracker:
            tracker.log_metric("loss", 0.0, iteration_number=0)
            arrived(sim, 1)
            for step in range(1, 20):
                tracker.log_metric("loss", float(step), iteration_number=step)
            arrived(sim, 20)
            tracker.log_artifact(artifact)
        assert sim.wait_until(
            lambda sim: (
                "Completed" in sim.components["run"].status.values()
                and sim.components["run"].output_artifacts
            ),
            300,
        )
        assert points_of(sim) == Counter(range(20))
        code, said = ended(follower)
        assert code == 0, said
        (found, *_) = check(folders.opened(mirror))
        assert found.is_well
        mirror.rename(tmp_path / "former")
        record(tmp_path / "other", component="other")
        run("mirror", tmp_path / "other", mirror)
        assert sim.wait_until(lambda sim: "other" in sim.components, 300)
        assert watcher.end() == 0
    run("mirror", tmp_path / "journal", tmp_path / "former")
    assert states(tmp_path / "journal") == {"delivered": len(content(tmp_path / "journal"))}
    sound(tmp_path / "journal")


WAIT = """
import sys, time
from pathlib import Path
while not list(Path(sys.argv[1]).rglob("[0-9]*.jsonl")):
    time.sleep(0.05)
"""


def test_two_readers_do_not_deliver_twice(tmp_path, mirror, watch):
    """While a watcher delivers a mirror, a sync with another home sends nothing, and says who
    delivers (exit code 7). When the watcher has ended, it has nothing left to send.
    """
    with simulator() as sim:
        watcher = watch(mirror, sim.endpoint_url, env={"JOURNALTRACK_HOME": str(tmp_path / "one")})
        arrived(sim, 5)
        record(tmp_path / "journal", points=7)
        other = {"JOURNALTRACK_HOME": str(tmp_path / "two")}
        process = sync_process(mirror, sim.endpoint_url, env=other)
        out, err = process.communicate()
        assert process.returncode == int(ExitCode.LEASE_HELD), out + err
        assert "delivers the journal" in err
        assert watcher.end() == 0
        process = sync_process(mirror, sim.endpoint_url, env=other)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        assert points_of(sim) == Counter(range(5))


def test_a_lost_reader_is_taken_over(tmp_path, mirror, watch, monkeypatch):
    """A watcher is killed for good. `mirror --take-over` delivers from elsewhere: nothing arrives
    twice, and what it may have sent is in doubt until it is read back.
    """
    with simulator() as sim:
        watcher = watch(mirror, sim.endpoint_url, env={"JOURNALTRACK_HOME": str(tmp_path / "one")})
        arrived(sim, 5)
        assert watcher.end(signal.SIGKILL) == -signal.SIGKILL
        monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "two"))
        said = json.loads(run("mirror", "--take-over", mirror, "--json"))
        (doubts,) = said["in_doubt"].values()
        record(tmp_path / "journal", points=2)
        run("mirror", tmp_path / "journal", mirror)
        process = sync_process(mirror, sim.endpoint_url)
        out, err = process.communicate()
        assert process.returncode == (4 if doubts else 0), out + err
        assert points_of(sim) == Counter([*range(5), 0, 1])


def test_a_sigkilled_follower_loses_nothing(tmp_path):
    """Whenever it is killed, the next one mirrors the rest, and check proves that nothing is
    missing.
    """
    record(tmp_path / "journal")
    for turn in range(4):
        follower = mirroring(tmp_path / "journal", tmp_path / "mirror")
        subprocess.run([sys.executable, "-c", WAIT, str(tmp_path / "mirror")], check=True)
        ended(follower, signal.SIGKILL)
        record(tmp_path / "journal", points=turn)
    follower = mirroring(tmp_path / "journal", tmp_path / "mirror")
    await_handler(follower)
    code, said = ended(follower)
    assert code == 0, said
    assert "nothing is missing" in run("mirror", "--check", tmp_path / "mirror")
    (found,) = check(folders.opened(tmp_path / "mirror"))
    assert found.entries == len(content(tmp_path / "journal"))


def await_handler(process):
    """Wait until a process would end well on SIGTERM: its threads block it, and one waits for it.

    That one does not show the signal as blocked while it waits: all threads are asked.
    """
    term = 1 << (signal.SIGTERM - 1)
    blocked = 0
    while process.poll() is None and not blocked & term:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = (thread / "status").read_text(encoding="ascii")
                blocked |= int(status.partition("SigBlk:")[2].split()[0], 16)


def test_check_names_what_is_missing(tmp_path, mirror):
    """A segment that is gone or cut, and an artifact with other bytes, are named (exit code 4)."""
    record(tmp_path / "journal", points=2)
    run("mirror", tmp_path / "journal", mirror)
    first, second = sorted(mirror.rglob("*.jsonl"))
    second.write_bytes(second.read_bytes()[:-10])
    assert "segments are damaged: 2" in run("mirror", "--check", mirror, code=4)
    first.unlink()
    said = json.loads(run("mirror", "--check", mirror, "--json", code=4))
    assert (said["replicas"][0]["missing"], said["replicas"][0]["damaged"]) == ([1], [2])
    assert "no whole segment" in run("status", mirror, code=8)


def test_a_configured_mirror_need_not_be_named(tmp_path, mirror, monkeypatch):
    """What looks after a mirror takes the configured one. Where there is no journal of one's own,
    as on a login node, other commands say how to name it.
    """
    monkeypatch.setenv("JOURNALTRACK_MIRROR", str(mirror))
    for command in ("runs", "status", "sync", "audit"):
        assert f"name the mirror in its place: {mirror}" in run(command, code=8)
    assert "nothing is missing" in run("mirror", "--check")
    assert "8 entries are not delivered yet" in run("mirror", "--prune", "--delivered-before", "1d")


def test_what_contradicts_itself_shows_in_the_exit_code(tmp_path, mirror):
    """A segment of another journal is told with every answer, and its code is 8: what was proved
    before is shown.
    """
    record(tmp_path / "other", component="other")
    run("mirror", tmp_path / "other", tmp_path / "its mirror")
    (alien,) = (tmp_path / "its mirror").rglob("*.jsonl")
    (own,) = mirror.rglob("*.jsonl")
    shutil.copy(alien, own.with_name("00000002.jsonl"))
    said = run("check", mirror, code=8)
    assert "the journal is well" in said
    assert "of another journal or replica" in said


def test_wrong_usage_says_what_is_right(tmp_path):
    """Options that do not go together are refused, and nothing is made."""
    for arguments in (
        ["--check", "a", "b"],
        ["--check", "--take-over", "a"],
        [],
        ["a", "b", "c"],
        ["-j", "a", "b", "c"],
        ["a", "b", "--interval", "3"],
        ["--check"],
        ["--delivered-before", "1d", "a"],
        ["--prune", "--delivered-before", "1d", "a", "b"],
        ["--prune", "--delivered-before", "1d", "--check", "a"],
        ["--dry-run", "a", "b"],
    ):
        run("mirror", *arguments, code=2)
    assert "give --delivered-before WHEN" in run("mirror", "--prune", "a", code=2)
    run("mirror", tmp_path / "none", tmp_path / "mirror", code=8)
    record(tmp_path / "journal")
    run("mirror", "-j", tmp_path / "journal", tmp_path / "mirror")
