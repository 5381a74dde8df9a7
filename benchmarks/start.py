"""What a training script and a person at a terminal wait for before anything happens."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Values, compare, say, spawn

TARGETS_MS = {
    "Tracker.create and the first log_metric, new journal": 60.0,
    "journaltrack --help": 300.0,
}
_counter = itertools.count()

_FIRST_METRIC = """
import os, sys, time
started = time.perf_counter()
from journaltrack import Tracker
imported = time.perf_counter()
tracker = Tracker.create(journal=sys.argv[1])
tracker.log_metric("train:loss", 1.0, iteration_number=0)
done = time.perf_counter()
import_ms, create_ms = (imported - started) * 1e3, (done - imported) * 1e3
print('{"import_ms": %r, "create_ms": %r}' % (import_ms, create_ms), flush=True)
os._exit(0)
"""


def run(options: Run) -> list[Result]:
    """Wall time of whole processes, from the start of the interpreter to its end."""
    command = str(Path(sys.executable).with_name("journaltrack"))
    python = sys.executable
    sides = {
        "python -c pass": lambda: [python, "-c", "pass"],
        "import journaltrack": lambda: [python, "-c", "import journaltrack"],
        "Tracker.create and the first log_metric, new journal": lambda: [
            python,
            "-c",
            _FIRST_METRIC,
            _new(options.folder),
        ],
        "import sqlalchemy (for comparison)": lambda: [python, "-c", "import sqlalchemy"],
        "import boto3 (for comparison)": lambda: [python, "-c", "import boto3"],
        "import click (for comparison)": lambda: [python, "-c", "import click"],
        "journaltrack --help": lambda: [command, "--help"],
    }
    values: dict[str, list[Values]] = {name: [] for name in sides}
    for number in range(-1, options.rounds):
        say(f"  round {number + 1} of {options.rounds}" if number >= 0 else "  warming up")
        for name, make in sides.items():
            measured = spawn(make())
            if number >= 0:  # the first time compiles and fills the page cache
                values[name].append(measured)
    floor = [v["wall_s"] * 1e3 for v in values["python -c pass"]]
    results = [
        compare(
            "start",
            name,
            "ms",
            [v["wall_s"] * 1e3 for v in runs],
            floor,
            floor_name="python -c pass",
        )
        for name, runs in values.items()
        if name not in {"python -c pass", *TARGETS_MS}
    ]
    for name, target in TARGETS_MS.items():
        took = [v["wall_s"] * 1e3 for v in values[name]]
        results += [
            compare("start", name, "ms", took, target=target),
            compare("start", name, "ms", took, floor, floor_name="python -c pass"),
        ]
    first = values["Tracker.create and the first log_metric, new journal"]
    results.append(
        compare("start", "of it: importing Tracker", "ms", [v["import_ms"] for v in first])
    )
    results.append(
        compare("start", "of it: create and log_metric", "ms", [v["create_ms"] for v in first])
    )
    return results


def _new(parent: Path) -> str:
    return str(parent / f"start-{next(_counter)}-{time.time_ns()}")
