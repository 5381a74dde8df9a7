"""Processes that sync, watch and train, and what they delivered."""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

from journaltrack import Tracker
from tests import warm

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def sync_process(journal, endpoint_url, *arguments, **kwargs):
    """Start `journaltrack sync` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "journaltrack",
        "sync",
        str(journal),
        "--endpoint-url",
        endpoint_url,
        *arguments,
    ]
    environment = (
        {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        | ENVIRONMENT
        | kwargs.pop("env", {})
    )
    return warm.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


class Watching:
    """`journaltrack watch` in a process of its own, whose log lines can be waited for."""

    def __init__(
        self, folder, endpoint_url, *arguments, env=None, launcher=None, prefix=(), **kwargs
    ):
        start = ["-c", launcher] if launcher else ["-m", "journaltrack"]
        quick = ["--debounce", "0.05", "--poll", "0.2", "--settle", "0.3"]
        folders = [] if folder is None else [str(folder)]
        command = [
            *prefix,
            sys.executable,
            *start,
            "watch",
            *folders,
            "--endpoint-url",
            endpoint_url,
            *quick,
            *arguments,
        ]
        environment = (
            {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            | ENVIRONMENT
            | QUICK
            | (env or {})
        )
        self.process = warm.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **kwargs,
        )
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False  # whether its stderr did
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, *words, after=0, timeout_s=300):
        """Wait for a line with all these words, from the line with number `after` on; returns
        the number of the next one.
        """

        def found():
            return next(
                (
                    n
                    for n, line in enumerate(self.lines)
                    if n >= after and all(word in line for word in words)
                ),
                None,
            )

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, timeout_s)
            assert found() is not None, (words, "".join(self.lines))
            return found() + 1

    def end(self, number=signal.SIGTERM, timeout_s=300):
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.ended(timeout_s)

    def ended(self, timeout_s=300):
        """Wait for its end; returns the exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


QUICK = {
    "JOURNALTRACK_WATCH_PROBE_FIRST_S": "0.2",
    "JOURNALTRACK_WATCH_PROBE_MAX_S": "0.5",
    "JOURNALTRACK_WATCH_RETRY_FIRST_S": "0.2",
    "JOURNALTRACK_WATCH_RETRY_MAX_S": "1",
}


def states(journal):
    """How many entries are in which state, from the tables alone."""
    with closing(sqlite3.connect(f"file:{journal}/journal.db?mode=ro", uri=True)) as connection:
        total = connection.execute("SELECT count(*) FROM entry").fetchone()[0]
        settled = Counter(
            outcome for (outcome,) in connection.execute("SELECT outcome FROM delivery")
        )
    return Counter(pending=total - settled.total()) + settled


def record(folder, component="run", points=5, artifact=None):
    """A closed journal with some points and perhaps an artifact."""
    with Tracker.create(
        trial_component_name=component, journal=folder, sync="off", resume=True
    ) as tracker:
        for step in range(points):
            tracker.log_metric("loss", float(step), iteration_number=step)
        if artifact is not None:
            tracker.log_artifact(artifact)
    return folder


def points_of(sim, component="run"):
    """How often each point is there."""
    return (
        Counter(point.value for point in sim.components[component].metrics)
        if component in sim.components
        else Counter()
    )


def arrived(sim, count, component="run", timeout_s=300):
    """Wait for so many points."""
    return sim.wait_until(lambda sim: points_of(sim, component).total() >= count, timeout_s)


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
    return warm.Popen(
        [sys.executable, "-c", code], env=known, start_new_session=start_new_session, **pipes
    )
