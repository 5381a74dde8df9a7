"""Eight processes that log into one journal at the same time, against eight that insert into one
SQLite database: rates, and the worst wait.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sqlite3
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, compare, take_turns

PROCESSES = 8
RATIO_MIN = 0.7
WORST_MS_MAX = {"process": 50.0, "power": 250.0}
BUSY_S = 30.0
"""What bare sqlite3 is given to wait for a lock; with its default of 5 s, some calls fail."""
_counter = itertools.count()
_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}


def run(options: Run) -> list[Result]:
    """Both durabilities; every call of every process is timed, and every row is looked for
    afterwards.
    """
    results = []
    for durability, calls in (
        ("process", options.size(5_000, 1_000)),
        ("power", options.size(1_000, 200)),
    ):
        floor = f"bare sqlite3, {_SYNCHRONOUS[durability]}, busy time-out {BUSY_S:g} s"
        values: dict[str, list[Values]] = {}
        for _ in range(options.rounds):
            sides = [
                Side(
                    name,
                    f"benchmarks.processes:{function}",
                    {"folder": _new(options.folder), "calls": calls, "durability": durability},
                )
                for name, function in ((floor, "bare"), ("log_metric", "ours"))
            ]
            for name, runs in take_turns(sides if len(values) % 2 else sides[::-1], 1).items():
                values.setdefault(name, []).extend(runs)
        ours, bare_ = values["log_metric"], values[floor]
        what = f'{PROCESSES} processes, durability="{durability}"'

        def compared(title: str, figure: str, unit: str, **bound: Any) -> Result:
            mine, theirs = [v[figure] for v in ours], [v[figure] for v in bare_]  # noqa: B023 - called in this turn of the loop
            return compare(
                "processes",
                f"{what}, {title}",  # noqa: B023
                unit,
                mine,
                theirs,
                floor_name=floor,  # noqa: B023
                **bound,
            )

        worst = [v["worst_ms"] for v in ours]
        results += [
            compared("all together", "rows_per_s", "rows/s", target=RATIO_MIN, better="higher"),
            compared("worst call", "worst_ms", "ms"),
            compare(
                "processes", f"{what}, worst call", "ms", worst, target=WORST_MS_MAX[durability]
            ),
            compared("p50", "p50_us", "µs"),
            compared("p99", "p99_us", "µs"),
            compare(
                "processes",
                f"{what}, calls that failed",
                "errors",
                [v["errors"] for v in ours],
                target=0,
            ),
        ]
    return results


def ours(folder: str, calls: int, durability: str) -> Values:
    """Each process has a tracker and a component of its own; what fails is not kept for later
    but raised.
    """
    from journaltrack import Tracker
    from journaltrack.journal.journal import Journal

    Journal.open(Path(folder), create=True).close()

    def begin() -> Callable[[int], object]:
        tracker = Tracker.create(
            journal=folder, durability=durability, on_journal_error="raise", sync="off"
        )  # type: ignore[arg-type]
        return lambda step: tracker.log_metric(
            "train:loss", 1.0 / (step + 1), iteration_number=step
        )

    return _together(
        begin, calls, f"{folder}/journal.db", "SELECT count(*) FROM entry WHERE kind = 'metric'"
    )


def bare(folder: str, calls: int, durability: str) -> Values:
    """Each process has a connection of its own; SQLite's own busy handler decides who waits how
    long.
    """
    from benchmarks import append

    append._connect(folder, durability).execute(append._TABLE)
    rows = append._rows(calls)

    def begin() -> Callable[[int], object]:
        connection = sqlite3.connect(f"{folder}/bare.db", isolation_level=None, timeout=BUSY_S)
        connection.execute(f"PRAGMA synchronous={_SYNCHRONOUS[durability]}")
        return lambda step: connection.execute(append._INSERT, rows[step])

    return _together(begin, calls, f"{folder}/bare.db", "SELECT count(*) FROM entry")


def _together(
    begin: Callable[[], Callable[[int], object]], calls: int, database: str, count: str
) -> Values:
    """Fork so many, let them begin at once, and put together what they saw."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(PROCESSES), context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(begin, calls, start, answers), daemon=True)
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    said = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    samples = sorted(itertools.chain.from_iterable(array("q", data) for *_, data in said))
    errors = sum(failed for _, _, failed, _ in said)
    began, ended = min(first for first, *_ in said), max(last for _, last, *_ in said)
    connection = sqlite3.connect(database)
    (rows,) = connection.execute(count).fetchone()
    connection.close()
    if rows != PROCESSES * calls - errors:
        raise RuntimeError(
            f"{PROCESSES} processes made {calls} calls each, of which {errors} failed, and "
            f"{rows} rows are there"
        )
    return {
        "rows_per_s": rows / ((ended - began) / 1e9),
        "worst_ms": samples[-1] / 1e6,
        "p50_us": samples[len(samples) // 2] / 1e3,
        "p99_us": samples[int(len(samples) * 0.99)] / 1e3,
        "errors": errors,
    }


def _work(
    begin: Callable[[], Callable[[int], object]], calls: int, start: Any, answers: Any
) -> None:
    call = begin()
    samples, errors = array("q"), 0
    clock = time.perf_counter_ns  # CLOCK_MONOTONIC: the same in all processes
    start.wait()
    began = clock()
    for step in range(calls):
        before = clock()
        try:
            call(step)
        except Exception:  # noqa: BLE001 - counted, whatever it is
            errors += 1
        samples.append(clock() - before)
    answers.put((began, clock(), errors, samples.tobytes()))
    start.wait()  # nobody's closing is in anybody's figures


def _new(parent: Path) -> str:
    return str(parent / f"processes-{next(_counter)}")
