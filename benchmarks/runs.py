"""Looking at runs: the list, cold and warm, of a million points and of ten thousand runs; a curve.

The floor is what a person without journaltrack would type: one GROUP BY over the journal, which
has neither runs, nor parameters, nor curves.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

RUNS, METRICS = 10, 10
MANY_RUNS = 10_000
COLD_S_MAX, WARM_S_MAX, MANY_S_MAX = 3.0, 0.3, 1.0
CURVES_MS_MAX = 100.0
"""Ten curves of a zoom, at the server."""
FLOOR = "GROUP BY in sqlite3"


def run(options: Run) -> list[Result]:
    """Both journals are made once; each look is in a process of its own."""
    points = options.size(1_000_000, 200_000)
    large, many = options.folder / f"points-{points}", options.folder / "many"
    runs = options.size(MANY_RUNS, 2_000)
    child("benchmarks.runs:make", folder=str(large), runs=RUNS, points=points // RUNS // METRICS)
    child("benchmarks.runs:make", folder=str(many), runs=runs, points=2)
    caches = {name: str(options.folder / f"cache-{name}") for name in ("large", "many")}
    at = {"folder": str(large), "cache": caches["large"]}
    sides = [
        Side(FLOOR, "benchmarks.runs:bare", {"folder": str(large)}),
        Side("cold", "benchmarks.runs:listed", {**at, "is_cold": True}),
        Side("warm", "benchmarks.runs:listed", {**at, "is_cold": False}),
        Side("curves", "benchmarks.runs:curves", at),
        Side(
            "many",
            "benchmarks.runs:listed",
            {"folder": str(many), "cache": caches["many"], "is_cold": False},
        ),
    ]
    try:
        values = take_turns(sides, options.rounds)
    finally:
        for folder in (large, many, *map(Path, caches.values())):
            shutil.rmtree(folder, ignore_errors=True)
    seconds = {name: [v["s"] for v in of] for name, of in values.items() if name != "curves"}
    what = f"{points:,} points in {RUNS} runs"
    floor = {"floor": seconds[FLOOR], "floor_name": FLOOR}
    return [
        compare("runs", f"{what}: first list", "s", seconds["cold"], **floor),
        compare("runs", f"{what}: first list", "s", seconds["cold"], target=COLD_S_MAX),
        compare("runs", f"{what}: next list", "s", seconds["warm"], **floor),
        compare("runs", f"{what}: next list", "s", seconds["warm"], target=WARM_S_MAX),
        compare("runs", f"{what}: first list, CPU", "s", [v["cpu_s"] for v in values["cold"]]),
        compare("runs", f"{runs:,} runs, sorted, CPU", "s", [v["cpu_s"] for v in values["many"]]),
        compare("runs", f"{runs:,} runs, sorted", "s", seconds["many"], target=MANY_S_MAX),
        compare(
            "runs",
            f"{RUNS} curves of 1,000 columns",
            "ms",
            [v["ms"] for v in values["curves"]],
            target=CURVES_MS_MAX,
        ),
        compare(
            "runs",
            f"{what}: memory of the first list",
            "MiB",
            [v["rss_mib"] for v in values["cold"]],
        ),
    ]


def make(folder: str, runs: int, points: int) -> Values:
    """A journal of so many runs with ten metrics of so many points, interleaved by step."""
    from journaltrack.journal import vocabulary
    from journaltrack.journal.journal import Journal

    now_ns = time.time_ns()
    journal = Journal.open(Path(folder), create=True)
    numbers = [journal.component(f"run-{number}") for number in range(runs)]
    for place, number in enumerate(numbers):
        journal.append(
            number,
            [
                vocabulary.create(owner="benchmark", display_name=f"Run-{place}"),
                vocabulary.status(primary="InProgress", start_ns=now_ns),
                *(vocabulary.parameter(f"p{each}", place * each / 7) for each in range(8)),
            ],
        )
    for step in range(points):
        for place, number in enumerate(numbers):
            journal.append(
                number,
                [
                    vocabulary.metric(f"m{each}", (place + 1) / (step + each + 1), step, now_ns)
                    for each in range(METRICS)
                ],
            )
    for number in numbers:
        journal.append(number, [vocabulary.status(primary="Completed", end_ns=now_ns)])
    journal.close()
    return {"entries": float(runs * (points * METRICS + 11))}


def bare(folder: str) -> Values:
    """The last values and extremes of each metric, by SQL."""
    started = time.perf_counter()
    with sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT component_id, name, count(*), min(value), max(value), max(seq) FROM entry "
            "WHERE stream = 'metric' GROUP BY component_id, name"
        ).fetchall()
    connection.close()
    assert rows
    return {"s": time.perf_counter() - started}


def listed(folder: str, cache: str, is_cold: bool) -> Values:
    """``journaltrack.runs``, sorted by a metric, with its modules loaded."""
    from journaltrack import runs

    os.environ["XDG_CACHE_HOME"] = cache
    if is_cold:
        shutil.rmtree(cache, ignore_errors=True)
    else:
        runs(folder)
    started, cpu = time.perf_counter(), time.process_time()
    found = runs(folder, sort="m3.min")
    assert found[0].metrics["m3"].min is not None
    return {"s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def curves(folder: str, cache: str) -> Values:
    """A curve of each run for a screen, zoomed."""
    from journaltrack.readmodel import model as readmodel

    os.environ["XDG_CACHE_HOME"] = cache
    with readmodel.open([folder]) as model:
        model.refresh()
        runs: list[Any] = model.runs()
        last = model.series(runs[0], "m1", columns=10).last or 0.0
        started = time.perf_counter()
        for run in runs:
            model.series(run, "m1", columns=1_000, lo=last * 0.1, hi=last * 0.9)
        return {"ms": (time.perf_counter() - started) * 1_000}
