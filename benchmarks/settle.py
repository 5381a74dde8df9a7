"""Planning and settling: entries a second beside a remote that does nothing, by stage, against bare sqlite3; and what history costs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, child, compare, own_use, say, take_turns

GROUP = 20
"""Requests that are recorded together: the window of a pass, which a remote that does nothing fills every time."""
POINTS = 10
ENTRIES_PER_S_MIN = 200_000.0
START_RATIO_MAX = 1.2
RSS_RATIO_MAX = 1.1
_REQUEST_ID = "00000000-0000-0000-0000-000000000000"
# As long as those of a pass.
_BODY = (
    '{"action":"metrics","outcome":"delivered","component":"benchmark","entries":{"3b1f6ab1-3b63-4a86-8d0a-5a1f0f8f3f0e":"1000001-1000010"},'
    '"settled":[["delivered",null,null]],"generation":1,"started_at_ns":1785000000000000000,"finished_at_ns":1785000000000000000,'
    f'"attempts":1,"request_id":"{_REQUEST_ID}"}}'
)


def run(options: Run) -> list[Result]:
    """A pass against bare sqlite3 that reads and writes the same rows in the same transactions; its stages; its memory."""
    metrics = options.size(200_000, 20_000)
    folder = _made(options, metrics)
    sides = [
        Side("bare sqlite3", "benchmarks.settle:bare", {"folder": folder}),
        Side("a pass", "benchmarks.settle:whole", {"folder": folder}),
        Side("stages", "benchmarks.settle:stages", {"folder": folder}),
    ]
    floor, ours, parts = take_turns(sides, options.rounds).values()
    what, floor_name = f"a pass of {metrics:,} metrics, a remote that does nothing", "bare sqlite3, same rows and transactions"
    cpu = [[v["cpu_us"] for v in runs] for runs in (ours, floor)]
    results = [
        compare("settle", f"{what}: CPU an entry", "µs", *cpu, floor_name=floor_name),
        compare("settle", f"{what}: entries a second of CPU", "/s", [1e6 / us for us in cpu[0]], target=ENTRIES_PER_S_MIN, better="higher"),
        compare(
            "settle",
            f"{what}: entries a second",
            "/s",
            [v["per_s"] for v in ours],
            [v["per_s"] for v in floor],
            floor_name=floor_name,
            better="higher",
        ),
    ]
    results += [
        compare("settle", f"of it, {stage}", "µs CPU an entry", [v[stage] for v in parts]) for stage in parts[0] if stage in _STAGES
    ]
    large, small = (_made(options, options.size(full, quick)) for full, quick in ((1_000_000, 100_000), (100_000, 40_000)))
    peaks = [child("benchmarks.settle:whole", folder=each)["rss_mib"] for each in (large, small)]
    what = "peak memory of a pass of a million metrics (quick: 100,000)"
    results.append(compare("settle", what, "MiB", peaks[:1], peaks[1:], floor_name="100,000 (40,000)", target=RSS_RATIO_MAX))
    return results


def run_growth(options: Run) -> list[Result]:
    """``status``, and a pass that finds nothing: what they cost where much was delivered, against where less or little was.

    Status looks for the last error among 10,000 receipts at most (``report.RECENT_RECEIPTS``): the third journal has fewer.
    """
    sizes = (options.size(1_000_000, 200_000), options.size(100_000, 100_000), 100)
    sides = []
    for metrics in sizes:
        folder = _made(options, metrics)
        say(f"  delivering {metrics:,} metrics")
        child("benchmarks.settle:deliver", folder=folder)
        sides.append(Side(f"{metrics:,}", "benchmarks.settle:starting", {"folder": folder}))
    most, *fewer = take_turns(sides, options.rounds).values()
    return [
        compare(
            "growth",
            f"{what}, {sizes[0]:,} metrics delivered",
            "ms CPU",
            [v[name] for v in most],
            [v[name] for v in less],
            floor_name=f"{size:,} delivered",
            target=START_RATIO_MAX if less is fewer[0] else None,
        )
        for what, name in (("status", "status_ms"), ("a pass that finds nothing", "pass_ms"))
        for size, less in zip(sizes[1:], fewer, strict=True)
    ]


def bare(folder: str) -> Values:
    """The floor: sqlite3 alone. Reads what a pass reads; writes its receipts, settlements and attestations; one barrier a group."""
    with _copied(folder) as copy, contextlib.closing(sqlite3.connect(f"{copy}/journal.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=NORMAL")
        own, started = own_use(), time.perf_counter()
        after, receipt_id, entries, now_ns = 1, 0, 0, time.time_ns()
        while rows := connection.execute(
            "SELECT e.seq, e.component_id, e.writer_id, e.writer_seq, e.name, e.value, e.step, e.timestamp_ns FROM entry e "
            "WHERE e.seq > ? AND e.seq NOT IN (SELECT seq FROM delivery) ORDER BY e.seq LIMIT 20000",
            (after,),
        ).fetchall():
            after, entries = rows[-1][0], entries + len(rows)
            sent: list[Any] = []
            for start in range(0, len(rows) + GROUP * POINTS, GROUP * POINTS):
                next_ones = rows[start : start + GROUP * POINTS]
                new = range(receipt_id + 1, receipt_id + 1 + -(-len(next_ones) // POINTS))
                done = range(receipt_id + 1 - -(-len(sent) // POINTS), receipt_id + 1)
                receipt_id += len(new)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "UPDATE receipt SET finished_at_ns = ?, outcome = ?, attempts = ?, request_id = ?, error_code = ?, error_text = ? WHERE id = ?",
                    [(now_ns, "delivered", 1, _REQUEST_ID, None, None, each) for each in done],
                )
                connection.executemany(
                    "INSERT INTO delivery (seq, receipt_id, outcome, reason, settled_at_ns) VALUES (?, ?, ?, ?, ?)",
                    [(row[0], receipt_id, "delivered", None, now_ns) for row in sent],
                )
                connection.executemany(
                    "INSERT INTO attestation (writer_id, writer_seq, receipt_id, body, digest) VALUES (?, ?, ?, ?, ?)",
                    [(1, each, each, _BODY, b"\0" * 32) for each in done],
                )
                connection.executemany(
                    "INSERT INTO receipt (id, action, component_id, entries, generation, started_at_ns) VALUES (?, ?, ?, ?, ?, ?)",
                    [(each, "metrics", 1, "1000001-1000010", 1, now_ns) for each in new],
                )
                connection.execute("COMMIT")
                descriptor = os.open(f"{copy}/journal.db-wal", os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
                sent = next_ones
        return _work(own, started, entries)


def whole(folder: str) -> Values:
    """A pass."""
    with _copied(folder) as copy:
        own, started = own_use(), time.perf_counter()
        return _work(own, started, _pass(copy))


def deliver(folder: str) -> Values:
    """The same in place."""
    return {"entries": float(_pass(folder))}


_STAGES = ("reading", "planning", "intents", "outcomes", "attestations")


def stages(folder: str) -> Values:
    """What a pass does, one after the other; CPU of each, microseconds an entry. ``outcomes`` is without ``attestations``."""
    from journaltrack import lease as leases
    from journaltrack import plan as planning
    from journaltrack.actions import ComponentState, PutMetrics
    from journaltrack.journal import Journal
    from journaltrack.pending_chunks import pending_chunks
    from journaltrack.perform import judge
    from journaltrack.reconciler import Options
    from journaltrack.remote import Answer
    from journaltrack.settlement import Intent, Settlement

    spent = dict.fromkeys(_STAGES, 0.0)
    entries = 0
    with _copied(folder) as copy:
        journal = Journal.open(Path(copy), create=False)
        lease = leases.acquire(journal.database)
        records = Settlement(journal.database, lease)
        # An attribute of this one object: what it takes is told apart from the rest of the transaction.
        records.attestor.attest = _timed(records.attestor.attest, spent, "attestations")  # type: ignore[method-assign]
        chunks = pending_chunks(journal, Options().wanted)
        while (chunk := _timed(next, spent, "reading")(chunks, None)) is not None:
            states = {each: ComponentState(confirmed=True) for each in chunk.component_ids}
            planned = _timed(planning.prepare, spent, "planning")(chunk.entries, states, chunk.points)
            while requests := _timed(list, spent, "planning")(islice(planned.metrics, GROUP)):
                intents = [Intent(r.action, r.component_id, r.seqs, r.runs) for r in requests]
                receipts = _timed(records.begin, spent, "intents")(intents)
                verdicts = [judge(r, receipt, Answer(_REQUEST_ID), 1) for r, receipt in zip(requests, receipts, strict=True)]
                _timed(records.finish, spent, "outcomes")([verdict.outcome for verdict in verdicts])
                entries += sum(len(r.seqs) for r in requests if isinstance(r, PutMetrics))
        lease.release()
        journal.close()
    spent["outcomes"] -= spent["attestations"]
    return {stage: seconds / entries * 1e6 for stage, seconds in spent.items()}


def starting(folder: str) -> Values:
    """CPU of what begins with every command, milliseconds; the best of some, since the first pays for imports."""
    from journaltrack.journal import Journal
    from journaltrack.reconciler import Reconciler
    from journaltrack.report_status import status

    journal = Journal.open(Path(folder), create=False)
    spent: dict[str, list[float]] = {"status_ms": [], "pass_ms": []}
    for _ in range(10):
        for name, work in (("status_ms", lambda: status(folder)), ("pass_ms", lambda: Reconciler(journal, _Yes()).run())):  # type: ignore[arg-type] - asked for nothing
            started = time.thread_time()
            work()
            spent[name].append((time.thread_time() - started) * 1e3)
    journal.close()
    return {name: min(values) for name, values in spent.items()}


class _Yes:
    """A remote that does nothing, at no cost: the methods that metrics need."""

    def create(self, _spec: object) -> Any:
        from journaltrack.remote import Answer

        return Answer(_REQUEST_ID, arn="arn:none")

    def put_metrics(self, _component: str, _points: object) -> Any:
        from journaltrack.remote import Answer

        return Answer(_REQUEST_ID)


def _pass(folder: str) -> int:
    """Deliver all that is pending there; how many entries."""
    from journaltrack.journal import Journal
    from journaltrack.reconciler import Reconciler

    journal = Journal.open(Path(folder), create=False)
    report = Reconciler(journal, _Yes()).run()  # type: ignore[arg-type] - the methods that metrics need
    journal.close()
    if report.pending or not report.delivered:
        raise RuntimeError(f"not everything was delivered: {report}")
    return report.delivered


def _made(options: Run, metrics: int) -> str:
    """A journal of so many pending metrics, made once."""
    folder = options.folder / f"settle-{metrics}"
    if not folder.exists():
        say(f"  making a journal of {metrics:,} pending metrics")
        child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
    return str(folder)


@contextlib.contextmanager
def _copied(folder: str) -> Iterator[str]:
    """A copy for one run, and the imports paid."""
    import journaltrack.provenance
    import journaltrack.reconciler  # noqa: F401

    copy = f"{folder}-{os.getpid()}"
    shutil.copytree(folder, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def _timed(work: Callable[..., Any], spent: dict[str, float], stage: str) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        started = time.thread_time()
        try:
            return work(*arguments)
        finally:
            spent[stage] += time.thread_time() - started

    return timed


def _work(before: Values, started: float, entries: int) -> Values:
    took, cpu_s = time.perf_counter() - started, own_use()["cpu_s"] - before["cpu_s"]
    return {"per_s": entries / took, "cpu_us": cpu_s / entries * 1e6}
