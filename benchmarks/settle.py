"""Planning and settling without a network: entries a second, against a bare loop of sqlite3 that
reads and writes as many rows.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, child, compare, own_use, take_turns

ENTRIES_PER_S_MIN = 200_000.0
RSS_MIB_MAX = 200.0
POINTS = 10
GROUP = 100
"""Requests whose outcomes are recorded in one transaction, in the bare loop as about in a pass."""
FLOOR = "bare sqlite3, the same rows"
FLOOR_PROVING = "bare sqlite3, the same rows, and the digest of each entry"
SIDES = ("ours", "bare", "proving", "plan")


def run(options: Run) -> list[Result]:
    """Of so many pending metrics, and once of ten times as many for the memory."""
    metrics = options.size(300_000, 30_000)
    model = options.folder / "settle"
    child("benchmarks.journals:make", folder=str(model), metrics=metrics)
    values: dict[str, list[Values]] = {}
    for number in range(options.rounds):
        copies = []
        for name in SIDES:
            shutil.copytree(model, options.folder / f"settle-{name}")
            copies.append(
                Side(
                    name,
                    f"benchmarks.settle:{name}",
                    {"folder": str(options.folder / f"settle-{name}"), "metrics": metrics},
                )
            )
        first = number % len(copies)
        for name, runs in take_turns([*copies[first:], *copies[:first]], 1).items():
            values.setdefault(name, []).extend(runs)
        for name in SIDES:
            shutil.rmtree(options.folder / f"settle-{name}")
    shutil.rmtree(model)
    rates = [[v["entries_per_s"] for v in values[name]] for name in ("ours", "bare")]
    cpu, proving, planning, least = (
        [v["cpu_us"] for v in values[name]] for name in ("ours", "proving", "plan", "bare")
    )
    results = [
        compare(
            "settle",
            f"a pass of {metrics:,} metrics, a remote that does nothing",
            "entries/s",
            *rates,
            floor_name=FLOOR,
            better="higher",
        ),
        compare(
            "settle", "the same", "entries/s", rates[0], target=ENTRIES_PER_S_MIN, better="higher"
        ),
        compare("settle", "CPU of an entry", "µs", cpu, least, floor_name=FLOOR),
        compare(
            "settle",
            "CPU of an entry, beside a floor that proves",
            "µs",
            cpu,
            proving,
            floor_name=FLOOR_PROVING,
        ),
        compare(
            "settle",
            "floor that proves, to one that does not",
            "µs",
            proving,
            least,
            floor_name=FLOOR,
        ),
        compare("settle", "of it: reading, proving and planning", "µs", planning),
    ]
    large = options.folder / "settle-large"
    child("benchmarks.journals:make", folder=str(large), metrics=options.size(1_000_000, 100_000))
    peaks = [
        child(
            "benchmarks.settle:ours", folder=str(large), metrics=options.size(1_000_000, 100_000)
        )["rss_mib"]
    ]
    shutil.rmtree(large)
    what = f"peak memory of a pass of {options.size(1_000_000, 100_000):,} metrics"
    return [*results, compare("settle", what, "MiB", peaks, target=RSS_MIB_MAX)]


def ours(folder: str, metrics: int) -> Values:
    """A whole pass with a remote that says yes at once."""
    from benchmarks.replay import reconcile_nothing

    values = reconcile_nothing(folder, metrics)
    return {
        "entries_per_s": metrics / values["work_s"],
        "cpu_us": values["work_cpu_s"] / metrics * 1e6,
    }


def plan(folder: str, metrics: int) -> Values:
    """Reading what is pending and planning it."""
    from benchmarks.replay import plan_only

    values = plan_only(folder, metrics)
    return {
        "entries_per_s": metrics / values["work_s"],
        "cpu_us": values["work_cpu_s"] / metrics * 1e6,
    }


_PENDING = (
    "SELECT e.seq, e.writer_seq, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
    "e.recorded_at_ns, e.digest "
    "FROM entry e WHERE e.stream = 'metric' AND NOT EXISTS (SELECT 1 FROM delivery d "
    "WHERE d.seq = e.seq) ORDER BY e.seq"
)


def proving(folder: str, metrics: int) -> Values:
    """The same as ``bare``, and each entry's digest computed from its columns: a pass sends nothing
    whose chain does not hold.
    """
    return bare(folder, metrics, proves=True)


def bare(folder: str, metrics: int, *, proves: bool = False) -> Values:
    """The floor: all columns of the entries read; a receipt before, its outcome, deliveries and
    a chained text after; nothing decided.
    """
    connection = sqlite3.connect(Path(folder, "journal.db"), isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    cpu_s, started = own_use()["cpu_s"], time.perf_counter()
    digest, requests = b"", 0
    # not streamed: SQLite would not let go of the log meanwhile
    rows: list[Any] = connection.execute(_PENDING).fetchall()
    if proves:
        _prove(rows)
    for first in range(0, len(rows), POINTS * GROUP):
        groups = [
            rows[place : place + POINTS]
            for place in range(first, min(len(rows), first + POINTS * GROUP), POINTS)
        ]
        now_ns = time.time_ns()
        ids = range(requests + 1, requests + 1 + len(groups))
        requests += len(groups)
        texts = [
            f'{{"entries":"{group[0][1]}-{group[-1][1]}","finished_at_ns":{now_ns},"as '
            f'long":"{"x" * 260}"}}'
            for group in groups
        ]
        links = []
        for text in texts:
            digest = hashlib.sha256(digest + text.encode()).digest()
            links.append(digest)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO receipt (id, action, component_id, entries, generation, started_at_ns) "
            "VALUES (?, 'metrics', 1, ?, 1, ?)",
            [
                (number, f"{group[0][0]}-{group[-1][0]}", now_ns)
                for number, group in zip(ids, groups, strict=True)
            ],
        )
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE receipt SET finished_at_ns = ?, outcome = 'delivered', attempts = 1, "
            "request_id = 'x' WHERE id = ?",
            [(now_ns, number) for number in ids],
        )
        connection.executemany(
            "INSERT INTO delivery (seq, receipt_id, outcome, settled_at_ns) "
            "VALUES (?, ?, 'delivered', ?)",
            [
                (row[0], number, now_ns)
                for number, group in zip(ids, groups, strict=True)
                for row in group
            ],
        )
        connection.executemany(
            "INSERT INTO attestation (writer_id, writer_seq, receipt_id, body, digest) "
            "VALUES (99, ?, ?, ?, ?)",
            [
                (number, number, text, link)
                for number, text, link in zip(ids, texts, links, strict=True)
            ],
        )
        connection.execute("COMMIT")
    took_s = time.perf_counter() - started
    return {
        "entries_per_s": metrics / took_s,
        "cpu_us": (own_use()["cpu_s"] - cpu_s) / metrics * 1e6,
    }


def _prove(rows: list[Any]) -> None:
    """Compute every link of one writer's chain of points, as fast as Python does."""
    from benchmarks.journals import COMPONENT
    from journaltrack.journal.vocabulary import metric_text

    sha256, middles = hashlib.sha256, {row[2]: "" for row in rows}
    for name in middles:
        middles[name] = metric_text(COMPONENT, name)
    before = rows[0][-1]
    for _, place, name, value, step, timestamp_ns, _, recorded_at_ns, digest in rows[1:]:
        text = f"[{place}{middles[name]}{value!r},{step},{timestamp_ns},null,{recorded_at_ns}]"
        if sha256(before + text.encode()).digest() != digest:
            raise RuntimeError("the chain does not hold")
        before = digest
