"""A real training run: offline, killed, resumed, synced to a local stand-in for AWS, audited, read
back. ``make demo``.

Prints every command that it runs, so that each can be run by hand, and a line with ✓ for every fact
that it has checked itself. The exit code is 0 only if all of them hold. Nothing is contacted
outside of this machine; everything that is written is in ``.demo/`` (``--folder``), which is made
afresh each time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo_shell import (
    end,
    run_on_terminal,
    say,
    say_command,
    say_output,
    shown_path,
    terminated_as_interrupted,
    title,
    without_network,
    write_script,
)

NAME = "digits"
METRICS_PER_EPOCH = 4
WATCH_S = 60  # the longest that the demo waits for anything
MARKER = "made-by-demo.txt"


class DemoError(Exception):
    """A fact that the demo promised does not hold."""


class Demo:
    """What the steps share: the folder, the facts so far, the children to end in all cases."""

    def __init__(self, folder: Path, epochs: int, children: contextlib.ExitStack) -> None:
        self.folder = folder
        self.epochs = epochs
        self.children = children
        self.facts = 0
        self.network = "no network"  # what the training had of one
        self.journal = folder / "journal"
        self.output = folder / "output"
        self.stand_in_log = folder / "stand-in.log"
        self.python = shown_path(sys.executable)
        self.journaltrack = shown_path(Path(sys.executable).with_name("journaltrack"))

    def training(self) -> list[str]:
        """The command that trains; the same at each start."""
        script = shown_path(Path(__file__).with_name("digits.py"))
        options = [
            "--name",
            NAME,
            "--epochs",
            str(self.epochs),
            "--journal",
            str(self.journal),
            "--checkpoint",
            str(self.output),
        ]
        return [str(self.folder / "offline"), self.python, script, *options]

    def fact(self, text: str, *, holds: bool) -> None:
        """Say what was proven, or end the demo."""
        if not holds:
            raise DemoError(text)
        self.facts += 1
        say(f"  ✓ {text}")

    def run(self, command: Sequence[str], *, exit_code: int = 0, lines_max: int = 40) -> str:
        """Run a command to its end, show it with its output, check its exit code."""
        say_command(command)
        done = subprocess.run(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WATCH_S,
            check=False,
        )
        say_output(done.stdout, lines_max)
        self.fact(f"exit code {done.returncode}", holds=done.returncode == exit_code)
        return done.stdout

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a child whose output goes to a file; it is killed at the latest when the demo
        ends.
        """
        say_command([*command, ">", str(log), "2>&1", "&"])
        with log.open("wb") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        self.children.callback(end, child)
        return child

    def metrics(self) -> list[tuple[str, int, float]]:
        """(name, iteration, value) of every metric entry: plain sqlite3, read-only, a connection
        of its own.
        """
        return self.query("SELECT name, step, value FROM entry WHERE kind = 'metric' ORDER BY seq")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What the journal's database answers; nothing while it does not exist."""
        database = self.journal / "journal.db"
        if not database.exists():
            return []
        with contextlib.closing(
            sqlite3.connect(f"file:{database.resolve()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # not made yet
                    return []
                raise


def main() -> int:
    """Run all steps; 0 if every fact holds."""
    parser = argparse.ArgumentParser(
        description="A real training run: offline, killed, resumed, synced, audited, read back."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".demo"),
        help="where everything is written (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, default=40, help="of the training run (default: %(default)s)"
    )
    options = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # ✓ in the C locale too
    started = time.monotonic()
    with contextlib.ExitStack() as children:
        demo = Demo(options.folder, options.epochs, children)
        try:
            prepare(demo)
            train_and_kill(demo)
            resume(demo)
            show_status(demo)
            endpoint = start_stand_in(demo)
            sync(demo)
            audit(demo)
            read_back(demo)
        except DemoError as error:
            say(f"  ✗ {error}")
            say(f"\nThe demo failed: this does not hold: {error}")
            return 1
    say("\nSummary")
    say(f"  {demo.facts} facts checked, all hold, in {time.monotonic() - started:.0f} s")
    say(
        f"  the run was recorded with {demo.network} and no credentials, lost nothing to "
        f"SIGKILL, and is all in {endpoint} (now stopped)"
    )
    say(
        f"  look around: {demo.journaltrack} audit entries {demo.journal}; {demo.journaltrack} "
        f"show {NAME} {demo.journal}"
    )
    return 0


def prepare(demo: Demo) -> None:
    """Make the folder afresh, with one script that takes the network away and one that points to
    the stand-in.
    """
    if demo.folder.exists():
        if not (demo.folder / MARKER).exists():
            message = f"{demo.folder} exists and was not made by the demo; it was left alone"
            raise DemoError(message)
        shutil.rmtree(demo.folder)
    demo.folder.mkdir(parents=True)
    (demo.folder / MARKER).write_text(
        "examples/demo.py removes this folder and makes it again.\n", encoding="utf-8"
    )
    (demo.folder / "home").mkdir()

    title(1, "No network, no credentials")
    environment = {
        "PATH": os.defpath,
        "HOME": str((demo.folder / "home").absolute()),
        "AWS_CONFIG_FILE": "/nowhere/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        # moto, the stand-in that comes later, has no CreateArtifact.
        "JOURNALTRACK_LINEAGE": "off",
        # With changes here that are not committed, there would be an artifact more.
        "JOURNALTRACK_GIT_DIFF": "off",
        "PYTHONUTF8": "1",
    }
    isolated = without_network()
    if isolated is None:
        say(
            "unshare is not permitted on this machine, so the network stays; AWS's endpoint is a "
            "closed port of loopback instead."
        )
        demo.network = "a closed port in the place of AWS"
        environment |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "us-east-1"}
    script = write_script(demo.folder / "offline", environment, isolated or [])
    say(f"Training runs by way of this script, {script}:")
    say(textwrap.indent(script.read_text(encoding="utf-8"), "    | "))
    probe = (
        'import socket; print(*(socket.socket().connect_ex(there) for there in [("127.0.0.1", '
        '9), ("192.0.2.1", 443)]))'
    )
    if isolated is not None:
        answer = demo.run([str(script), demo.python, "-c", probe])
        unreachable = os.strerror(101)
        demo.fact(
            f"there, even loopback answers: {unreachable} (errno 101)",
            holds=answer.split() == ["101", "101"],
        )
    environment_there = demo.run([str(script), "env"])
    demo.fact(
        "no credential is in the environment",
        holds="ACCESS_KEY" not in environment_there and "PROFILE" not in environment_there,
    )


def train_and_kill(demo: Demo) -> None:
    """SIGKILL half-way; nothing that was acknowledged may be missing."""
    title(2, f"Train, and kill -9 at about half of {demo.epochs} epochs")
    log = demo.folder / "training-1.log"
    half = demo.epochs * METRICS_PER_EPOCH // 2
    child = demo.start(demo.training(), log)
    deadline = time.monotonic() + WATCH_S
    while (seen := len(demo.metrics())) < half:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.002)
            say_output(log.read_text(encoding="utf-8"), 20)
            raise DemoError("the training was to be killed, and ended by itself")
        if time.monotonic() > deadline:
            raise DemoError(f"half of the metrics were not in the journal after {WATCH_S} s")
    child.send_signal(signal.SIGKILL)
    say(f"$ kill -9 {child.pid}")
    child.wait()
    say(f"(sent when plain sqlite3 found {seen} metric entries in {demo.journal / 'journal.db'})")
    demo.fact("the process was killed by signal 9", holds=child.returncode == -signal.SIGKILL)

    say_command(["tail", "-n", "3", str(log)])
    say_output(log.read_text(encoding="utf-8"), 3, tail=True)
    told = acknowledged(log)
    found = demo.metrics()
    there = {(name, step): value for name, step, value in found}
    lost = [key for key, value in told.items() if there.get(key) != value]
    say(
        f"acknowledged before the kill: {len(told)} metrics in {len(told) // METRICS_PER_EPOCH} "
        f"epochs; in the journal: {len(found)}"
    )
    demo.fact(
        f"lost: {len(lost)} of {len(told)} acknowledged metrics; every value is the same to the "
        "last bit",
        holds=bool(told) and not lost,
    )
    demo.fact("the run was cut short", holds=len(there) < demo.epochs * METRICS_PER_EPOCH)
    integrity = demo.query("PRAGMA integrity_check")
    demo.fact("sqlite3's integrity_check says ok", holds=integrity == [("ok",)])


def acknowledged(log: Path) -> dict[tuple[str, int], float]:
    """What a training process said is recorded: (metric, iteration) and value."""
    told = {}
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        match = re.match(r"epoch (\d+) recorded (.*)\n", line)
        if match:
            for pair in match[2].split():
                name, _, value = pair.partition("=")
                told[name, int(match[1])] = float(value)
    return told


def resume(demo: Demo) -> None:
    """The same command again: it goes on in the same component, and ends."""
    title(3, f"The same command again: it resumes, still with {demo.network}")
    before = demo.metrics()
    output = demo.run(demo.training(), lines_max=12)
    resumed = re.search(r"resuming after epoch (\d+)", output)
    demo.fact(
        f"resumed after epoch {resumed[1] if resumed else '?'}, not from the beginning",
        holds=bool(resumed),
    )
    after = demo.metrics()
    demo.fact(
        "what the killed process had recorded was not touched", holds=after[: len(before)] == before
    )
    points = {(name, step) for name, step, _ in after}
    repeated = len(after) - len(points)
    demo.fact(
        f"{demo.epochs} epochs of {METRICS_PER_EPOCH} metrics are recorded: {len(points)} points "
        f"({repeated} of them twice: an epoch that was recorded, and killed before its "
        "checkpoint)",
        holds=len(points) == demo.epochs * METRICS_PER_EPOCH and repeated in {0, METRICS_PER_EPOCH},
    )
    components = demo.query("SELECT name FROM component")
    writers = demo.query("SELECT count(DISTINCT writer_id) FROM entry")[0][0]
    demo.fact(
        f"one trial component ({components[0][0]}), written by {writers} processes",
        holds=(len(components), writers) == (1, 2),
    )


def show_status(demo: Demo) -> None:
    """Everything is pending."""
    title(4, "What is pending")
    demo.run([str(demo.folder / "offline"), demo.journaltrack, "status", str(demo.journal)])
    entries = demo.query("SELECT count(*) FROM entry")[0][0]
    deliveries = demo.query("SELECT count(*) FROM delivery")[0][0]
    demo.fact(
        f"all {entries} entries wait; none is delivered", holds=deliveries == 0 and entries > 0
    )


def start_stand_in(demo: Demo) -> str:
    """A server of moto's on a free port of loopback, which logs each request that it answers."""
    title(5, "The network is back: a local stand-in for SageMaker, S3 and STS (moto)")
    server = shown_path(Path(sys.executable).with_name("moto_server"))
    # timeout: it ends even if the demo itself is killed.
    child = demo.start(["timeout", "300", server, "-H", "127.0.0.1", "-p", "0"], demo.stand_in_log)
    deadline = time.monotonic() + WATCH_S
    while not (
        found := re.search(
            r"Running on (http://127\.0\.0\.1:\d+)", demo.stand_in_log.read_text(encoding="utf-8")
        )
    ):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.02)
            raise DemoError("the stand-in ended: see " + str(demo.stand_in_log))
        if time.monotonic() > deadline:
            raise DemoError(f"the stand-in did not start within {WATCH_S} s")
    endpoint = found[1]
    environment = {
        "PATH": os.defpath,
        "HOME": str((demo.folder / "home").absolute()),
        "TERM": "xterm",
        "PYTHONUTF8": "1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
    }
    script = write_script(demo.folder / "online", environment, [])
    say(f"From here on by way of {script}:")
    say(textwrap.indent(script.read_text(encoding="utf-8"), "    | "))
    demo.fact(
        f"the stand-in listens at {endpoint}; requests so far: {requests_answered(demo)}",
        holds=requests_answered(demo) == 0,
    )
    return endpoint


def requests_answered(demo: Demo) -> int:
    """Requests by the stand-in's own log, but for those that ask for a dump of its memory."""
    lines = demo.stand_in_log.read_text(encoding="utf-8").splitlines()
    return sum(
        1
        for line in lines
        if re.search(r'"[^"]*(GET|PUT|POST|HEAD) [^"]* HTTP/', line) and "/moto-api/" not in line
    )


def sync(demo: Demo) -> None:
    """Another process delivers; a second one finds nothing to do."""
    title(6, "Sync, by a process that has nothing to do with the training")
    command = [str(demo.folder / "online"), demo.journaltrack, "sync", str(demo.journal)]
    say_command(command)
    exit_code, output = run_on_terminal(command, WATCH_S)
    demo.fact(f"exit code {exit_code}", holds=exit_code == 0)
    demo.fact("a progress bar was shown", holds=bool(re.search(r"━.*\d+/\d+ entries", output)))
    sent = requests_answered(demo)
    demo.fact(
        f"the stand-in's own log counts {sent} requests (finding the account and making the "
        "bucket count there too)",
        holds=sent > 0,
    )
    say("")
    demo.run(command)
    again = requests_answered(demo) - sent
    demo.fact(f"the second sync made {again} requests, by the stand-in's own log", holds=again == 0)


def audit(demo: Demo) -> None:
    """Exit code 0 is: all delivered."""
    title(7, "Audit")
    command = [str(demo.folder / "online"), demo.journaltrack, "audit", str(demo.journal)]
    demo.run(command, lines_max=60)
    demo.run([str(demo.folder / "online"), demo.journaltrack, "check", str(demo.journal)])
    done = subprocess.run(  # noqa: S603
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=WATCH_S,
        check=False,
    )
    report = json.loads(done.stdout)
    totals = report["totals"]
    entries = demo.query("SELECT count(*) FROM entry")[0][0]
    demo.fact(
        f"the audit's totals are sqlite3's: {entries} entries, {totals['delivered']} delivered",
        holds=totals["entries"] == totals["delivered"] == entries,
    )
    rest = {state: totals[state] for state in ("pending", "in_flight", "in_doubt", "quarantined")}
    demo.fact(
        ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in rest.items()),
        holds=not any(rest.values()),
    )


def read_back(demo: Demo) -> None:
    """Plain boto3 and sqlite3 compare both sides."""
    title(8, "Read it back with plain boto3, and compare with plain sqlite3 and the files")
    script = shown_path(Path(__file__).with_name("read_back.py"))
    output = demo.run(
        [
            str(demo.folder / "online"),
            demo.python,
            script,
            str(demo.journal),
            NAME,
            str(demo.output),
        ]
    )
    facts = output.count("✓")
    demo.fact(
        f"{facts} facts compared by {script}, which imports nothing of journaltrack",
        holds=facts > 0 and "✗" not in output,
    )
    demo.facts += facts - 1


if __name__ == "__main__":
    try:
        with terminated_as_interrupted():
            sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
