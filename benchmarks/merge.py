"""A merge into a journal in use: how long it takes, and the longest wait of a process that logs
there meanwhile.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

WORST_MS_MAX = 250.0
PAGE = 1_000
PAUSE_S = 0.000_5
TRAINING = "import sys; from benchmarks.merge import training; training(sys.argv[1])"


def run(options: Run) -> list[Result]:
    """Entries of one process, half of them delivered, into the journal of another one, which
    logs all the time.
    """
    entries = options.size(200_000, 20_000)
    folder = options.folder / "merge"
    child("benchmarks.merge:make", folder=str(folder / "source"), entries=entries)
    side = Side("merge", "benchmarks.merge:ours", {"folder": str(folder), "entries": entries})
    try:
        values = take_turns([side], options.rounds)["merge"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    what = f"{entries:,} entries into a journal in use"
    return [
        compare("merge", what, "entries/s", [v["entries_per_s"] for v in values]),
        compare("merge", f"{what}: CPU", "s", [v["cpu_s"] for v in values]),
        compare(
            "merge",
            f"{what}: worst call of who logs there",
            "ms",
            [v["worst_ms"] for v in values],
            target=WORST_MS_MAX,
        ),
    ]


def make(folder: str, entries: int) -> Values:
    """The source."""
    from journaltrack.journal import vocabulary
    from journaltrack.journal.journal import Journal
    from journaltrack.remotes.memory import MemoryRemote
    from journaltrack.replay.reconciler import Reconciler

    journal = Journal.open(Path(folder), create=True)
    component_id = journal.component("source")
    journal.append(component_id, [vocabulary.create(owner="benchmark-owner", resume=True)])
    for start in range(0, entries, PAGE):
        if start == entries // 2 // PAGE * PAGE:
            Reconciler(journal, MemoryRemote()).run()
        points = [
            vocabulary.metric(f"m{n % 5}", float(n), n, 1_700_000_000_000_000_000 + n)
            for n in range(start, start + PAGE)
        ]
        journal.append(component_id, points)
    journal.close()
    return {"entries": entries}


def ours(folder: str, entries: int) -> Values:
    """One merge, imports done, beside a process that logs."""
    from journaltrack.transfer.merge import merge

    target = Path(folder, "target")
    shutil.rmtree(target, ignore_errors=True)
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as beside:
        assert beside.stdout is not None
        beside.stdout.readline()
        began, used = time.perf_counter(), time.process_time()
        merge([Path(folder, "source")], into=target)
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - used
        worst_s, _ = beside.communicate("\n")
    return {"entries_per_s": entries / took_s, "cpu_s": cpu_s, "worst_ms": float(worst_s) * 1_000}


def training(folder: str) -> None:
    """Log until something can be read; print the longest call in seconds."""
    from journaltrack import Tracker

    tracker = Tracker.create(journal=folder, sync="off", on_journal_error="raise")
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
    worst_s, step = 0.0, 0
    print("begun", flush=True)
    while not ended.is_set():
        began = time.perf_counter()
        tracker.log_metric("train:loss", 1.0 / (step + 1), iteration_number=step)
        worst_s = max(worst_s, time.perf_counter() - began)
        step += 1
        time.sleep(PAUSE_S)
    tracker.close()
    print(worst_s, flush=True)
