"""Verifying: ``check``'s proof of a journal against a bare loop over the same rows, pending and
delivered; what the chain costs an append.
"""

from __future__ import annotations

import hashlib
import resource
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks import append
from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

FLOOR = "SELECT of all columns, SHA-256 of 152 bytes"
PENDING_RATIO_MAX = 2.0
CHAIN_RATIO_MAX = 1.2
SECONDS_MAX = 10.0
_TEXT = "x" * 120
_CHAINED = ("entry", "attestation")


def run(options: Run) -> list[Result]:
    """Both journals have the same entries; of the delivered one, each request has a receipt and
    an attestation, each entry a settlement.
    """
    metrics = options.size(1_000_000, 100_000)
    results = []
    for state, target in (("pending", PENDING_RATIO_MAX), ("delivered", None)):
        folder = options.folder / f"verify-{state}"
        child(
            "benchmarks.verify:make",
            folder=str(folder),
            metrics=metrics,
            delivered=state == "delivered",
        )
        sides = [
            Side(name, f"benchmarks.verify:{name}", {"folder": str(folder)})
            for name in ("bare", "ours")
        ]
        try:
            values = take_turns(sides, options.rounds)
        finally:
            _remove(folder)
        what = f"{metrics:,} {state} entries"
        ours, floor = values["ours"], values["bare"]
        cpu, bare_cpu = [v["work_cpu_s"] for v in ours], [v["work_cpu_s"] for v in floor]
        results += [
            compare("verify", f"CPU, {what}", "s", cpu, bare_cpu, floor_name=FLOOR, target=target),
            compare(
                "verify",
                f"time, {what}",
                "s",
                [v["work_s"] for v in ours],
                [v["work_s"] for v in floor],
                floor_name=FLOOR,
            ),
            compare(
                "verify", f"time, {what}", "s", [v["work_s"] for v in ours], target=SECONDS_MAX
            ),
            compare("verify", f"peak memory, {what}", "MiB", [v["rss_mib"] for v in ours]),
        ]
    return [*results, *_chain(options)]


def _chain(options: Run) -> list[Result]:
    """The same append with the chain and without it, in turns; the target is for the call that
    training makes.
    """
    calls = options.size(20_000, 4_000)
    results = []
    for what, function, target in (
        ("Tracker.log_metric", "tracker", CHAIN_RATIO_MAX),
        ("Journal.append_metric", "journal", None),
    ):
        sides = [
            Side(name, f"benchmarks.verify:{name}", {"calls": calls, "function": function})
            for name in ("unchained", "chained")
        ]
        values = append._with_folders(sides, options.rounds, append._Folders(options.folder))
        without, chained = (
            [v["p50_us"] for v in values[name]] for name in ("unchained", "chained")
        )
        results.append(
            compare(
                "verify",
                f"{what} with the chain, p50",
                "µs",
                chained,
                without,
                floor_name="without it",
                target=target,
            )
        )
    return results


def make(folder: str, metrics: int, delivered: bool) -> Values:
    """A journal of points; delivered, if that is wanted, by the real reconciler to a remote in
    memory.
    """
    from benchmarks import journals

    journals.make(folder, metrics)
    if delivered:
        from journaltrack.journal.journal import Journal
        from journaltrack.remotes.memory import MemoryRemote
        from journaltrack.replay.reconciler import Options, Reconciler

        journal = Journal.open(Path(folder), create=False)
        Reconciler(journal, MemoryRemote(), options=Options()).run()
        journal.close()
    return {}


def bare(folder: str) -> Values:
    """The floor: every row of every table that the proof reads, and a digest for each link, of a
    text that is there already.
    """
    connection = sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)
    started, cpu = time.perf_counter(), time.process_time()
    digest, sha256 = bytes(32), hashlib.sha256
    for table in ("entry", "attestation", "receipt", "delivery"):
        rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1")
        if table in _CHAINED:
            for _ in rows:
                digest = sha256(digest + _TEXT.encode()).digest()
        else:
            for _ in rows:
                pass
    return {"work_s": time.perf_counter() - started, "work_cpu_s": time.process_time() - cpu}


def ours(folder: str) -> Values:
    """What ``check`` does to prove pages, chains and tables."""
    from journaltrack.journal import view
    from journaltrack.reports.proof.check import database_problems, proved

    started, cpu = time.perf_counter(), _cpu_s()
    with view.opened(folder) as journal:
        problems = [*database_problems(journal.database)]
        with proved(journal.database) as (found, _):
            problems += found
    values = {"work_s": time.perf_counter() - started, "work_cpu_s": _cpu_s() - cpu}
    if problems:
        raise RuntimeError(f"the journal is not as it was written: {problems[:3]}")
    return values


def chained(folder: str, calls: int, function: str) -> Values:
    """The append as it is."""
    return getattr(append, function)(folder, calls, "process")


def unchained(folder: str, calls: int, function: str) -> Values:
    """The same code, but that the digest of every entry is the same and costs nothing."""
    from journaltrack.journal import vocabulary

    digest = bytes(32)

    def nothing(*_: Any) -> bytes:
        return digest

    vocabulary.chain_next_metric = nothing
    return getattr(append, function)(folder, calls, "process")


def _cpu_s() -> float:
    """Of this process, and of the one beside it. ``os.times`` counts hundredths of a second."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
