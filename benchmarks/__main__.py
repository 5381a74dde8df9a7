"""``python -m benchmarks [--quick] [--json FILE] [--compare FILE] [NAME…]``: measure, print
tables, keep the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    append,
    artifacts,
    audit,
    bundle,
    callbacks,
    dataset,
    export,
    footprint,
    growth,
    limiter,
    loggers,
    many,
    merge,
    mirror,
    mlflow,
    mlflow_store,
    processes,
    replay,
    runs,
    settle,
    size,
    start,
    system,
    ui,
    uploads,
    verify,
    watch,
)
from benchmarks.measure import Result, Run, machine, say, watched_load
from benchmarks.report import CHANGES, HEADER, changes, row
from benchmarks.tables import aligned, markdown

RESULTS = Path(__file__).resolve().parent / "results"
BENCHMARKS: dict[str, Callable[[Run], list[Result]]] = {
    "append": append.run,
    "footprint": footprint.run,
    "start": start.run,
    "system": system.run,
    "processes": processes.run,
    "growth": growth.run,
    "limiter": limiter.run,
    "merge": merge.run,
    "mirror": mirror.run,
    "mirror-delivered": mirror.run_delivered,
    "mirror-cluster": mirror.run_cluster,
    "artifacts": artifacts.run,
    "uploads": uploads.run,
    "settle": settle.run,
    "size": size.run,
    "memory": replay.run_memory,
    "sync": replay.run_sync,
    "mlflow": mlflow.run,
    "export": export.run,
    "dataset": dataset.run,
    "runs": runs.run,
    "audit": audit.run,
    "bundle": bundle.run,
    "verify": verify.run,
    "append-budget": append.run_budget,
    "request-budget": replay.run_budget,
    "threads": replay.run_threads,
    "watch-latency": watch.run_latency,
    "watch-idle": watch.run_idle,
    "watch-recovery": watch.run_recovery,
    "background": watch.run_background,
    "many": many.run,
    "many-inbox": many.run_inbox,
    "ui": ui.run,
    "ui-start": ui.run_start,
    "loggers": loggers.run,
    "callbacks": callbacks.run,
    "mlflow-store": mlflow_store.run,
}
NOT_IN_QUICK = frozenset(
    {
        "runs",
        "audit",
        "export",
        "bundle",
        "verify",
        "append-budget",
        "request-budget",
        "threads",
        "watch-latency",
        "watch-idle",
        "watch-recovery",
        "background",
        "many",
        "many-inbox",
        "ui",
        "ui-start",
        "loggers",
        "callbacks",
        "mirror-delivered",
        "mirror-cluster",
        "mlflow",
        "mlflow-store",
    }
)
"""Large journals, long waits, or no target of their own: with --quick only where they are named."""
QUICK_STARTS_S = 85.0
"""With --quick and no names, no benchmark begins after this, so that all of it takes less than
two minutes; what is left out is told.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. 0 also when a target is missed: the table says so, and a busy
    machine is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(BENCHMARKS)}; all when none is given",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"small sizes and 3 rounds, in two minutes; without {', '.join(sorted(NOT_IN_QUICK))}",
    )
    parser.add_argument("--rounds", type=int, help="runs of every side; default 5, 3 with --quick")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every size")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: a new file in benchmarks/results/"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="what an earlier run left: say at the end what has changed since",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print tables as benchmarks/README.md has them"
    )
    parser.add_argument(
        "--folder", type=Path, help="where journals are written: measure the disk that matters"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    before = json.loads(options.compare.read_text(encoding="utf-8")) if options.compare else None

    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    document: dict[str, Any] = {
        "started_at": started,
        "quick": options.quick,
        "scale": options.scale,
        "machine": machine(),
        "benchmarks": {},
    }
    with tempfile.TemporaryDirectory(prefix="journaltrack-bench-", dir=options.folder) as folder:
        run = Run(
            options.quick,
            Path(folder),
            options.rounds or (3 if options.quick else 5),
            options.scale,
        )
        document["rounds"] = run.rounds
        document["benchmarks"] = _all(
            run, options.names, print_as=markdown if options.markdown else aligned
        )
    target = options.json or RESULTS / f"{started}{'-quick' if options.quick else ''}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if before is not None:
        print(
            (markdown if options.markdown else aligned)([CHANGES, *changes(before, document)]),
            flush=True,
        )
    say(f"figures: {target}")
    return 0


def _all(
    run: Run, names: Sequence[str], *, print_as: Callable[[Sequence[Sequence[str]]], str]
) -> dict[str, Any]:
    """One after the other, each with its table as soon as it is done."""
    begun = time.monotonic()
    chosen = list(names) or [
        name for name in BENCHMARKS if not (run.quick and name in NOT_IN_QUICK)
    ]
    done: dict[str, Any] = {}
    for number, name in enumerate(chosen, 1):
        if run.quick and not names and time.monotonic() - begun > QUICK_STARTS_S:
            say(f"left out, the two minutes are over: {', '.join(chosen[number - 1 :])}")
            break
        say(f"{name} ({number} of {len(chosen)}, after {time.monotonic() - begun:.0f} s):")
        with watched_load() as load:
            results = BENCHMARKS[name](run)
        done[name] = {"load": load.to_json(), "results": [result.to_json() for result in results]}
        print(table(name, results, print_as), flush=True)
        print(
            f"  {load.wall_s:.0f} s; load average before: {load.before:.2f}; CPUs kept busy "
            f"meanwhile: {load.ours:.2f} by this benchmark, {load.others:.2f} by others\n",
            flush=True,
        )
    return done


def table(
    title: str,
    results: Sequence[Result],
    print_as: Callable[[Sequence[Sequence[str]]], str] = aligned,
) -> str:
    """Ratios first, with the range of the runs; then the figures themselves."""
    return print_as([(title, *HEADER[1:]), *(row(result.to_json()) for result in results)])


if __name__ == "__main__":
    sys.exit(main())
