"""``python -m benchmarks [--quick] [--json FILE] [NAME…]``: measure, print a table, keep the figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import append, audit, bundle, export, replay, settle, start, verify, watch
from benchmarks.measure import Result, Run, Spread, machine, say, watched_load

RESULTS = Path(__file__).resolve().parent / "results"
BENCHMARKS: dict[str, Callable[[Run], list[Result]]] = {
    "append": append.run,
    "sync": replay.run_sync,
    "memory": replay.run_memory,
    "start": start.run,
    "export": export.run,
    "audit": audit.run,
    "bundle": bundle.run,
    "verify": verify.run,
    "append-budget": append.run_budget,
    "request-budget": replay.run_budget,
    "settle": settle.run,
    "growth": settle.run_growth,
    "threads": replay.run_threads,
    "watch-latency": watch.run_latency,
    "watch-idle": watch.run_idle,
    "watch-recovery": watch.run_recovery,
    "background": watch.run_background,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. 0 also when a target is missed: the table says so, and a busy machine is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="small sizes and 3 rounds: minutes instead of half an hour")
    parser.add_argument("--rounds", type=int, help="runs of every side; default 5, 3 with --quick")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: a new file in benchmarks/results/")
    parser.add_argument("--folder", type=Path, help="where journals are written: measure the disk that matters")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    document: dict[str, Any] = {
        "started_at": started,
        "quick": options.quick,
        "scale": options.scale,
        "machine": machine(),
        "benchmarks": {},
    }
    with tempfile.TemporaryDirectory(prefix="journaltrack-bench-", dir=options.folder) as folder:
        run = Run(options.quick, Path(folder), options.rounds or (3 if options.quick else 5), options.scale)
        document["rounds"] = run.rounds
        for name in options.names or BENCHMARKS:
            say(f"{name}:")
            with watched_load() as load:
                results = BENCHMARKS[name](run)
            document["benchmarks"][name] = {"load": load.to_json(), "results": [result.to_json() for result in results]}
            print(table(name, results), flush=True)
            print(
                f"  {load.wall_s:.0f} s; load average before: {load.before:.2f}; CPUs kept busy meanwhile: "
                f"{load.ours:.2f} by this benchmark, {load.others:.2f} by others\n",
                flush=True,
            )
    target = options.json or RESULTS / f"{started}{'-quick' if options.quick else ''}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    say(f"figures: {target}")
    return 0


def table(title: str, results: Sequence[Result]) -> str:
    """Ratios first, with the range of the runs; then the figures themselves."""
    header = (title, "ratio (range)", "ours (range)", "floor", "target")
    rows = [header, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(result: Result) -> tuple[str, str, str, str, str]:
    ratio = f"{result.ratio.median:.2f} ({result.ratio.low:.2f}-{result.ratio.high:.2f})" if result.ratio else ""
    floor = f"{_number(result.floor.median)} {result.unit} ({result.floor_name})" if result.floor else ""
    target = ""
    if result.target is not None:
        target = f"{'<=' if result.better == 'lower' else '>='} {result.target:g}: {'met' if result.met else 'MISSED'}"
    return (result.what, ratio, f"{_spread(result.ours)} {result.unit}", floor, target)


def _spread(spread: Spread) -> str:
    if len(spread.runs) == 1:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
