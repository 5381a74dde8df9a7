"""What a long history costs: an append to a journal of ten million entries against one to an
empty journal, and a look at the status.
"""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, say, take_turns

APPEND_RATIO_MAX = 1.2
_counter = itertools.count()


def run(options: Run) -> list[Result]:
    """The large journal is made once and grows by what the rounds append; the empty one is new
    in every round.
    """
    entries, calls = options.size(10_000_000, 300_000), options.size(20_000, 4_000)
    full = options.folder / f"growth-{entries}"
    say(f"  making a journal of {entries:,} entries")
    made = child("benchmarks.journals:make", folder=str(full), metrics=entries)
    say(f"  made in {made['wall_s']:.0f} s")
    floor, what = "the same, empty journal", f"{entries:,} entries"
    values: dict[str, list[Values]] = {}
    for number in range(options.rounds):
        sides = [
            Side(
                floor,
                "benchmarks.append:tracker",
                {"folder": _new(options), "calls": calls, "durability": "process"},
            ),
            Side(
                what,
                "benchmarks.append:tracker",
                {"folder": str(full), "calls": calls, "durability": "process"},
            ),
        ]
        for name, runs in take_turns(sides if number % 2 else sides[::-1], 1).items():
            values.setdefault(name, []).extend(runs)
    results = [
        _compared(
            f"log_metric with {what} pending, {title}",
            figure,
            unit,
            values[what],
            values[floor],
            floor,
            target,
        )
        for title, figure, unit, target in (
            ("p50", "p50_us", "µs", APPEND_RATIO_MAX),
            ("p99", "p99_us", "µs", None),
        )
    ]
    shutil.rmtree(full)
    return results + _status(options)


def _status(options: Run) -> list[Result]:
    """The same few entries wait in both; the history of one is a hundred times as long."""
    few, many = options.size(10_000, 3_000), options.size(1_000_000, 300_000)
    sides = []
    for metrics in (few, many):
        folder = options.folder / f"status-{metrics}"
        child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
        child("benchmarks.journals:deliver", folder=str(folder), whole=True)
        sides.append(Side(f"{metrics:,}", "benchmarks.growth:status", {"folder": str(folder)}))
    values = take_turns(sides, options.rounds)
    for metrics in (few, many):
        shutil.rmtree(options.folder / f"status-{metrics}")
    floor = f"{few:,} delivered entries"
    ours, bare = values[f"{many:,}"], values[f"{few:,}"]
    return [
        _compared(f"{title} with {many:,} delivered entries", figure, "ms", ours, bare, floor, None)
        for title, figure in (("status", "status_ms"), ("planning what a sync would do", "plan_ms"))
    ]


def status(folder: str) -> Values:
    """What ``journaltrack status`` asks, and what a sync plans before its first request; imports
    are paid before.
    """
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.evidence.proof import Proof
    from journaltrack.replay.reconciler import Options, dry_run
    from journaltrack.reports.status import status as ask

    started = time.perf_counter()
    ask(Path(folder))
    asked = time.perf_counter()
    journal = Journal.open(Path(folder), create=False)
    planned = sum(1 for _ in dry_run(journal, Options(), Proof(journal.database)))
    values = {"status_ms": (asked - started) * 1e3, "plan_ms": (time.perf_counter() - asked) * 1e3}
    journal.close()
    if not planned:
        raise RuntimeError("nothing waits in this journal")
    return values


def _compared(
    what: str,
    figure: str,
    unit: str,
    ours: list[Values],
    bare: list[Values],
    floor: str,
    target: float | None,
) -> Result:
    return compare(
        "growth",
        what,
        unit,
        [v[figure] for v in ours],
        [v[figure] for v in bare],
        floor_name=floor,
        target=target,
    )


def _new(options: Run) -> str:
    return str(options.folder / f"growth-empty-{next(_counter)}")
