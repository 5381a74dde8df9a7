"""Threads that share a tracker with ``durability="power"``: what sharing one fsync between them brings, against a lock around a bare insert."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable

from benchmarks.measure import Result, Run, Side, Values, compare, take_turns

THREADS = (1, 4, 16)
_counter = itertools.count()


def run(options: Run) -> list[Result]:
    """The same number of calls in all, whatever the number of threads."""
    calls = options.size(4_000, 800)
    values: dict[str, list[Values]] = {}
    for _ in range(options.rounds):
        sides = [
            Side(f"{name} {threads}", f"benchmarks.power_threads:{name}", {"calls": calls, "threads": threads, "folder": _new(options)})
            for threads in THREADS
            for name in ("bare", "ours")
        ]
        for name, runs in take_turns(sides, 1).items():
            values.setdefault(name, []).extend(runs)
    results = []
    for threads in THREADS:
        ours, bare_ = values[f"ours {threads}"], values[f"bare {threads}"]
        what, floor = f'durability="power", {threads} threads on one tracker', "bare insert, FULL, one connection and a lock"
        for title, figure, unit, better in (("all together", "calls_per_s", "calls/s", "higher"), ("p50", "p50_us", "µs", "lower")):
            mine, theirs = [v[figure] for v in ours], [v[figure] for v in bare_]
            results.append(compare("power-threads", f"{what}, {title}", unit, mine, theirs, floor_name=floor, better=better))  # type: ignore[arg-type]
    return results


def ours(folder: str, calls: int, threads: int) -> Values:
    """One tracker, as data loaders and callbacks of one process share it."""
    from journaltrack import Tracker

    log_metric = Tracker.create(journal=folder, durability="power", sync="off").log_metric
    return _threaded(lambda step: log_metric("train:loss", 1.0 / (step + 1), iteration_number=step), calls, threads)


def bare(folder: str, calls: int, threads: int) -> Values:
    """One connection; the lock is what sqlite3 would otherwise do for itself, without releasing Python's."""
    from benchmarks import append

    append._connect(folder, "power").close()
    connection = sqlite3.connect(f"{folder}/bare.db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(append._TABLE)
    rows, lock = append._rows(calls), threading.Lock()

    def call(step: int) -> None:
        with lock:
            connection.execute(append._INSERT, rows[step])

    return _threaded(call, calls, threads)


def _threaded(call: Callable[[int], object], calls: int, threads: int) -> Values:
    taken: list[int] = []
    start = threading.Barrier(threads + 1)

    def work(first: int) -> None:
        mine = []
        start.wait()
        for step in range(first, calls, threads):
            before = time.perf_counter_ns()
            call(step)
            mine.append(time.perf_counter_ns() - before)
        taken.extend(mine)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - started
    taken.sort()
    return {"calls_per_s": calls / took, "p50_us": taken[len(taken) // 2] / 1e3, "max_ms": taken[-1] / 1e6}


def _new(options: Run) -> str:
    return str(options.folder / f"power-threads-{next(_counter)}")
