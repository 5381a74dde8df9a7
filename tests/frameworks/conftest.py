"""Programs that train with a real framework, offline, and report what the framework logged.

A program of ``programs/`` takes a mode (train, raise, kill, resume, again, ...) and trains a small
model with journaltrack's logger and the framework's own. It appends each value that the framework
reported to ``reported.jsonl``, as ``[name, step, value]``, before it can be killed.

A module is left out where its framework is not installed: `make test-frameworks` has all of them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.cli import ExitCode
from journaltrack.testing import OfflineJournal
from tests.patience import FOREVER_S
from tests.processes import sync_process
from tests.simulator import simulator

collect_ignore = [
    f"test_{name}.py"
    for name in ("accelerate", "catboost", "keras", "lightning", "transformers", "trl")
    if importlib.util.find_spec(name) is None
]
if importlib.util.find_spec("lightning") is None:
    collect_ignore.append("test_training_docs.py")
PROGRAMS = Path(__file__).parent / "programs"


class Training:
    """Runs one program in a folder, whose journal is ``journal``, the run "run"."""

    def __init__(self, program, folder):
        self.program = PROGRAMS / program
        self.folder = folder
        self.journal = OfflineJournal(folder / "journal")

    def __call__(self, *modes, code=0, launcher=(), **environment):
        """Train in each mode, one process after the other; what the last one printed."""
        for mode in modes:
            done = subprocess.run(
                [sys.executable, *launcher, self.program, mode],
                cwd=self.folder,
                env=os.environ
                | {"HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
                | environment,
                capture_output=True,
                text=True,
                timeout=FOREVER_S,
                check=False,
            )
            expected = code if mode == modes[-1] else done.returncode
            assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr

    def reported(self):
        """What the framework reported: a counter of (name, step, value)."""
        lines = (self.folder / "reported.jsonl").read_text().splitlines()
        return Counter(point(*json.loads(line)) for line in lines)

    def recorded(self, *without):
        """What the journal has, but for some names: a counter of (name, step, value)."""
        metrics = self.journal.run("run").metrics
        return Counter(
            point(each.name, each.step, each.value)
            for name, points in metrics.items()
            if name not in without
            for each in points
        )

    def entries(self, kind, name):
        """How many entries of a kind and name the journal has."""
        sql = "SELECT count(*) FROM entry WHERE kind = ? AND name = ?"
        return self._read(sql, (kind, name))

    def writers(self):
        """How many processes appended."""
        return self._read("SELECT count(DISTINCT pid) FROM writer", ())

    def _read(self, sql, values):
        with closing(sqlite3.connect(self.journal.path / "journal.db")) as connection:
            return connection.execute(sql, values).fetchone()[0]

    def delivered(self, *without):
        """What the simulator has after a sync, whose exit code tells of a NaN."""
        with simulator() as sim:
            process = sync_process(self.journal.path, sim.endpoint_url)
            output = process.communicate()
            has_nan = any(each[2] == "NaN" for each in self.recorded())
            assert process.returncode == (ExitCode.PROBLEMS if has_nan else 0), output
            component = sim.components["run"]
            points = Counter(
                point(each.name, each.step, each.value)
                for each in component.metrics
                if each.name not in without
            )
            return points, component


def point(name, step, value):
    """A point that equals another with the same digits: NaN equals itself."""
    return name, step, "NaN" if value is None or math.isnan(value) else float(value)


@pytest.fixture
def training(tmp_path):
    """Makes a ``Training`` of a program's name."""
    return lambda program: Training(program, tmp_path)
