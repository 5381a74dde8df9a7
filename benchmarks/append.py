"""What one logged metric costs its caller: the public call, the journal's, and a bare sqlite3
insert of the same row.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Better, Result, Run, Side, Values, compare, take_turns

BATCH = 20
TARGETS = {  # of issue "As fast as SQLite and AWS allow": ratios to the floor
    ("Tracker.log_metric", "p50"): 2.0,
    ("Tracker.log_metric", "p99.9"): 3.0,
    ("Tracker.log_metric", "throughput"): 0.5,
    ('Tracker.log_metric, durability="power"', "p50"): 1.3,
    (f"Tracker.log_metrics of {BATCH}, all of it", "p50"): 4.0,
    # of issue "Many journals, and the last microseconds"
    (f"Tracker.log_metrics of {BATCH}, to as many rows", "p50"): 1.25,
    (f"Tracker.log_parameters of {BATCH}, new", "p50"): 3.0,
    (f"Tracker.log_parameters of {BATCH}, the same", "p50"): 3.0,
}
_WARM_UP = 200
_counter = itertools.count()

_COLUMNS = (
    "writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns, "
    "payload, recorded_at_ns, digest"
)
_TABLE = (
    "CREATE TABLE entry (seq INTEGER PRIMARY KEY, writer_id INTEGER, writer_seq INTEGER, "
    "component_id INTEGER, stream TEXT, kind TEXT, name TEXT, value FLOAT, step INTEGER, "
    "timestamp_ns INTEGER, payload TEXT, recorded_at_ns INTEGER, digest BLOB)"
)
_INSERT = f"INSERT INTO entry ({_COLUMNS}) VALUES ({', '.join('?' * 12)})"

_FIGURES: tuple[tuple[str, str, str, Better], ...] = (
    ("p50", "p50_us", "µs", "lower"),
    ("p99", "p99_us", "µs", "lower"),
    ("p99.9", "p999_us", "µs", "lower"),
    ("max", "max_ms", "ms", "lower"),
    ("throughput", "calls_per_s", "calls/s", "higher"),
)


def run(options: Run) -> list[Result]:
    """Measure. The target is for the median call of ``log_metric``."""
    calls, few = options.size(20_000, 4_000), options.size(3_000, 600)
    fresh = _Folders(options.folder)
    plain = {
        "bare": "bare",
        "bare, checkpoints off": "bare_unchecked",
        "append_metric": "journal",
        "log_metric": "tracker",
    }
    values: dict[str, list[Values]] = {}
    for group, count, durability in (
        (plain, calls, "process"),
        ({"bare FULL": "bare", "log_metric power": "tracker"}, few, "power"),
    ):
        sides = [
            Side(name, f"benchmarks.append:{f}", {"calls": count, "durability": durability})
            for name, f in group.items()
        ]
        values |= _with_folders(sides, options.rounds, fresh)
    names = {
        "bare batch": "bare_batches",
        "one statement": "bare_statements",
        "links alone": "links",
        "log_metrics": "tracker_batches",
        "new parameters": "tracker_parameters",
        "same parameters": "tracker_same_parameters",
    }
    batches = [
        Side(name, f"benchmarks.append:{f}", {"calls": calls // BATCH}) for name, f in names.items()
    ]
    values |= _with_folders(batches, options.rounds, fresh)

    results = []
    for ours, floor, what, labels in (
        ("log_metric", "bare", "Tracker.log_metric", ("p50", "p99", "throughput")),
        ("log_metric", "bare, checkpoints off", "Tracker.log_metric", ("p99.9", "max")),
        ("append_metric", "bare", "Journal.append_metric", ("p50",)),
        (
            "log_metric power",
            "bare FULL",
            'Tracker.log_metric, durability="power"',
            ("p50", "p99", "p99.9", "max", "throughput"),
        ),
        ("log_metrics", "bare", f"Tracker.log_metrics of {BATCH}, all of it", ("p50",)),
        ("one statement", "bare", f"floor of it: {BATCH} rows by one bare statement", ("p50",)),
        ("links alone", "bare", f"floor of it: {BATCH} links of the chain", ("p50",)),
        (
            "log_metrics",
            "bare batch",
            f"Tracker.log_metrics of {BATCH}, to as many rows",
            ("p50", "p99", "throughput"),
        ),
        ("new parameters", "bare batch", f"Tracker.log_parameters of {BATCH}, new", ("p50",)),
        ("same parameters", "bare batch", f"Tracker.log_parameters of {BATCH}, the same", ("p50",)),
    ):
        floor_name = {
            "bare": "bare insert",
            "bare, checkpoints off": "bare insert, auto-checkpoint off",
            "bare FULL": "bare insert, FULL",
        }.get(floor, f"bare transaction of {BATCH}")
        results += _figures(what, floor_name, values[ours], values[floor], labels)
    return results


def run_budget(options: Run) -> list[Result]:
    """Where the microseconds go: from the bare insert to the public call, one step at a time."""
    calls = options.size(20_000, 4_000)
    steps = {
        "bare insert": "bare",
        "+ the journal's schema": "bare_in_schema",
        "+ clock, chain of digests": "bare_with_chain",
        "+ lock, errors (Journal.append_metric)": "journal",
        "+ validation (Tracker.log_metric)": "tracker",
        "for comparison: SQLAlchemy, held connection": "sqlalchemy_held",
        "for comparison: SQLAlchemy, engine.begin()": "sqlalchemy_begin",
    }
    sides = [
        Side(name, f"benchmarks.append:{f}", {"calls": calls, "durability": "process"})
        for name, f in steps.items()
    ]
    values = _with_folders(sides, options.rounds, _Folders(options.folder))
    floor = [v["p50_us"] for v in values["bare insert"]]
    return [
        compare(
            "budget of an append",
            name,
            "µs",
            [v["p50_us"] for v in runs],
            floor,
            floor_name="bare insert",
        )
        for name, runs in values.items()
    ]


def bare(folder: str, calls: int, durability: str) -> Values:
    """The floor: the driver, a table of the same columns without indexes, rows made beforehand."""
    connection = _connect(folder, durability)
    connection.execute(_TABLE)
    rows = _rows(calls)
    execute = connection.execute
    return _timed(lambda i: execute(_INSERT, rows[i]), calls)


def bare_unchecked(folder: str, calls: int, durability: str) -> Values:
    """As ``bare``, and nothing is ever written back from the log: what no call need wait for."""
    connection = _connect(folder, durability)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(_TABLE)
    rows = _rows(calls)
    execute = connection.execute
    return _timed(lambda i: execute(_INSERT, rows[i]), calls)


def bare_statements(folder: str, calls: int) -> Values:
    """The floor of ``log_metrics`` in SQLite: all rows by one statement."""
    connection = _connect(folder, "process")
    connection.execute(_TABLE)
    row = "(?, ?, ?, 'metric', 'metric', ?, ?, ?, ?, NULL, ?, ?)"
    insert = f"INSERT INTO entry ({_COLUMNS}) VALUES {', '.join([row] * BATCH)}"
    made = _rows((calls + _WARM_UP) * BATCH)

    def write(i: int) -> None:
        own = made[i * BATCH : (i + 1) * BATCH]
        connection.execute(
            insert,
            [
                each
                for row in own
                for each in (1, row[1], 1, row[5], row[6], i, own[0][8], own[0][8], row[11])
            ],
        )

    return _timed(write, calls)


def links(folder: str, calls: int) -> Values:
    """The floor of ``log_metrics`` in Python: the digests of its entries, and nothing else."""
    from journaltrack.journal import vocabulary

    Path(folder).mkdir(parents=True)
    middles = [vocabulary.metric_text("benchmark", f"metric-{n}") for n in range(BATCH)]
    now_ns, digest = time.time_ns(), vocabulary.chain_start("benchmark")

    def link(i: int) -> None:
        nonlocal digest
        points = [(middle, 1.0 / (i + n + 1)) for n, middle in enumerate(middles)]
        digest = vocabulary.chain_next_metrics(digest, i * BATCH, points, i, now_ns, now_ns)[-1]

    return _timed(link, calls)


def bare_batches(folder: str, calls: int, batch: int = BATCH) -> Values:
    """The floor of a batch: one transaction, ``executemany``."""
    connection = _connect(folder, "process")
    connection.execute(_TABLE)
    rows = _rows(calls * batch + batch * _WARM_UP)

    def write(i: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, rows[i * batch : (i + 1) * batch])
        connection.execute("COMMIT")

    return _timed(write, calls)


def bare_in_schema(folder: str, calls: int, durability: str) -> Values:
    """As ``bare``, into the table that a journal has, with its triggers and its partial index."""
    from journaltrack.journal.insert import INSERT_ENTRY
    from journaltrack.journal.schema import schema

    connection = _connect(folder, durability)
    schema.create(connection, journal_id="benchmark", now_ns=1, version="0")
    rows = _rows(calls)
    execute = connection.execute
    return _timed(lambda i: execute(INSERT_ENTRY, rows[i]), calls)


def bare_with_chain(folder: str, calls: int, durability: str) -> Values:
    """As ``bare_in_schema``, with the entry made at the call: draft, clock, link of the chain."""
    from journaltrack.journal import vocabulary
    from journaltrack.journal.insert import INSERT_ENTRY
    from journaltrack.journal.schema import schema

    connection = _connect(folder, durability)
    schema.create(connection, journal_id="benchmark", now_ns=1, version="0")
    execute, digest = connection.execute, vocabulary.chain_start("benchmark")

    def write(i: int) -> None:
        nonlocal digest
        draft = vocabulary.Draft("metric", "metric", "train:loss", 1.0 / (i + 1), i, time.time_ns())
        now_ns = time.time_ns()
        (digest,) = vocabulary.chain_next_entries(digest, i + 1, "benchmark", [draft], now_ns)
        execute(INSERT_ENTRY, (1, i + 1, 1, *draft[:7], now_ns, digest))

    return _timed(write, calls)


def sqlalchemy_held(folder: str, calls: int, durability: str) -> Values:
    """The road not taken: Core's ``execute`` on one connection in autocommit mode."""
    from journaltrack.journal.schema import tables

    execute = (
        _engine(folder, durability)
        .connect()
        .execution_options(isolation_level="AUTOCOMMIT")
        .execute
    )
    rows, insert = _mappings(calls), tables.entry.insert()
    return _timed(lambda i: execute(insert, rows[i]), calls)


def sqlalchemy_begin(folder: str, calls: int, durability: str) -> Values:
    """The road not taken: a connection and a transaction per call."""
    from journaltrack.journal.schema import tables

    engine = _engine(folder, durability)
    rows, insert = _mappings(calls), tables.entry.insert()

    def write(i: int) -> None:
        with engine.begin() as connection:
            connection.execute(insert, rows[i])

    return _timed(write, calls)


def journal(folder: str, calls: int, durability: str) -> Values:
    """``Journal.append_metric``, with the arguments that the tracker gives it."""
    from journaltrack.journal.journal import Journal

    opened = Journal.open(Path(folder), durability=durability)  # type: ignore[arg-type] - comes as JSON
    component = opened.component("benchmark")
    append = opened.append_metric
    return _timed(
        lambda i: append(component, "train:loss", 1.0 / (i + 1), i, time.time_ns()), calls
    )


def tracker(folder: str, calls: int, durability: str) -> Values:
    """``Tracker.log_metric``, as a training script calls it."""
    from journaltrack import Tracker

    log_metric = Tracker.create(journal=folder, durability=durability).log_metric
    return _timed(lambda i: log_metric("train:loss", 1.0 / (i + 1), iteration_number=i), calls)


def tracker_batches(folder: str, calls: int) -> Values:
    """``Tracker.log_metrics``."""
    from journaltrack import Tracker

    names = [f"metric-{n}" for n in range(BATCH)]
    log_metrics = Tracker.create(journal=folder).log_metrics
    return _timed(
        lambda i: log_metrics(
            {name: 1.0 / (i + n + 1) for n, name in enumerate(names)}, iteration_number=i
        ),
        calls,
    )


def tracker_parameters(folder: str, calls: int) -> Values:
    """``Tracker.log_parameters`` of values that all changed."""
    from journaltrack import Tracker

    names = [f"parameter-{n}" for n in range(BATCH)]
    log_parameters = Tracker.create(journal=folder).log_parameters
    return _timed(
        lambda i: log_parameters({name: 1.0 / (i + n + 1) for n, name in enumerate(names)}), calls
    )


def tracker_same_parameters(folder: str, calls: int) -> Values:
    """``Tracker.log_parameters`` of what the journal has already."""
    from journaltrack import Tracker

    given = {f"parameter-{n}": 1.0 / (n + 1) for n in range(BATCH)}
    log_parameters = Tracker.create(journal=folder).log_parameters
    return _timed(lambda _: log_parameters(given), calls)


class _Folders:
    """Names of folders that do not exist yet."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def new(self) -> str:
        return str(self._parent / f"journal-{next(_counter)}")


def _with_folders(sides: Sequence[Side], rounds: int, folders: _Folders) -> dict[str, list[Values]]:
    """Take turns, each run with a folder of its own."""
    values: dict[str, list[Values]] = {side.name: [] for side in sides}
    for number in range(rounds):
        first = number % len(sides)
        turn = [
            side._replace(arguments={**side.arguments, "folder": folders.new()})
            for side in (*sides[first:], *sides[:first])
        ]
        for name, runs in take_turns(turn, 1).items():
            values[name] += runs
    return values


def _figures(
    what: str,
    floor_name: str,
    ours: Sequence[Values],
    floor: Sequence[Values],
    labels: Sequence[str],
) -> list[Result]:
    results = []
    for label, key, unit, better in _FIGURES:
        if label in labels:
            mine, theirs = [v[key] for v in ours], [v[key] for v in floor]
            target = TARGETS.get((what, label))
            results.append(
                compare(
                    "append",
                    f"{what}, {label}",
                    unit,
                    mine,
                    theirs,
                    floor_name=floor_name,
                    target=target,
                    better=better,
                )
            )
    return results


def _connect(folder: str, durability: str) -> sqlite3.Connection:
    Path(folder).mkdir(parents=True)
    connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
    return connection


def _engine(folder: str, durability: str) -> Any:
    from sqlalchemy import create_engine, event

    from journaltrack.journal.schema import schema

    connection = _connect(folder, durability)
    schema.create(connection, journal_id="benchmark", now_ns=1, version="0")
    engine = create_engine(f"sqlite:///{folder}/bare.db")
    pragma = f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}"
    event.listen(engine, "connect", lambda driver, _record: driver.execute(pragma))
    return engine


def _mappings(calls: int) -> list[dict[str, Any]]:
    names = _COLUMNS.split(", ")
    return [dict(zip(names, row, strict=True)) for row in _rows(calls)]


def _rows(calls: int) -> list[tuple[Any, ...]]:
    """Rows as the journal would write them for the same calls."""
    now_ns = time.time_ns()
    digest = hashlib.sha256(b"benchmark").digest()
    count = calls + _WARM_UP
    return [
        (
            1,
            i + 1,
            1,
            "metric",
            "metric",
            "train:loss",
            1.0 / (i + 1),
            i,
            now_ns,
            None,
            now_ns,
            digest,
        )
        for i in range(count)
    ]


def _timed(call: Callable[[int], object], calls: int) -> Values:
    """The distribution of the times of single calls, and how many there were in a second."""
    clock = time.perf_counter_ns
    for i in range(_WARM_UP):
        call(i)
    samples = array("q", bytes(8 * calls))
    started, busy = clock(), time.process_time_ns()
    for i in range(calls):
        before = clock()
        call(i + _WARM_UP)
        samples[i] = clock() - before
    took, cpu = clock() - started, time.process_time_ns() - busy
    ordered = sorted(samples)
    with contextlib.suppress(IndexError):
        return {
            "p50_us": ordered[calls // 2] / 1e3,
            "p99_us": ordered[int(calls * 0.99)] / 1e3,
            "p999_us": ordered[int(calls * 0.999)] / 1e3,
            "max_ms": ordered[-1] / 1e6,
            "calls_per_s": calls / (took / 1e9),
            "cpu_us": cpu / calls / 1e3,
        }
    return {}
