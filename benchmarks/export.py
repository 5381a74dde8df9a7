"""Exporting: rows a second to each format, against a bare loop of sqlite3 and pyarrow that
writes the same columns.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

PARQUET_ROWS_PER_S_MIN = 300_000
RSS_MIB_MAX = 300.0
FLOOR = "bare sqlite3 and pyarrow"


def run(options: Run) -> list[Result]:
    """A journal of pending metrics to Parquet in turns with the floor; to the formats in text;
    all entries to Parquet.
    """
    metrics = options.size(1_000_000, 300_000)
    folder = options.folder / f"export-{metrics}"
    child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
    target = options.folder / "exported"
    arguments = {"folder": str(folder), "output": str(target)}
    sides = [
        Side(FLOOR, "benchmarks.export:bare", arguments),
        Side("metrics to parquet", "benchmarks.export:ours", {**arguments, "format": "parquet"}),
        Side("metrics to csv", "benchmarks.export:ours", {**arguments, "format": "csv"}),
        Side("metrics to jsonl", "benchmarks.export:ours", {**arguments, "format": "jsonl"}),
        Side(
            "entries to parquet",
            "benchmarks.export:ours",
            {**arguments, "format": "parquet", "table": "entries"},
        ),
    ]
    try:
        values = take_turns(sides, options.rounds)
    finally:
        target.unlink(missing_ok=True)
        _remove(folder)
    floor = [v["rows_per_s"] for v in values[FLOOR]]
    rates = {
        name: [v["rows_per_s"] for v in runs] for name, runs in values.items() if name != FLOOR
    }
    what = f"{metrics:,} metrics"
    results = [
        compare(
            "export", f"{what}: {name}", "rows/s", rate, floor, floor_name=FLOOR, better="higher"
        )
        for name, rate in rates.items()
    ]
    parquet = [v["rss_mib"] for v in values["metrics to parquet"]]
    return [
        *results,
        compare(
            "export",
            f"{what}: parquet",
            "rows/s",
            rates["metrics to parquet"],
            target=PARQUET_ROWS_PER_S_MIN,
            better="higher",
        ),
        compare("export", f"{what}: peak memory, parquet", "MiB", parquet, target=RSS_MIB_MAX),
    ]


def ours(folder: str, output: str, **options: Any) -> Values:
    """``journaltrack.export`` with its libraries loaded."""
    import pyarrow.parquet

    from journaltrack import export

    assert pyarrow.parquet
    started = time.perf_counter()
    made = export(folder, to=output, force=True, **options)
    return {"rows_per_s": made.rows / (time.perf_counter() - started)}


def bare(folder: str, output: str) -> Values:
    """What a script would do that trusts the journal: rows as SQLite has them, a list for each
    column, one row group a page.
    """
    import sqlite3

    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    us = pa.timestamp("us", tz="UTC")
    numbers = ("seq", "step", "timestamp_ns", "recorded_at_ns")
    texts = ("journal_id", "component", "name", "exact", "state", "unsound")
    schema = pa.schema(
        [
            *((name, pa.int64()) for name in numbers),
            ("value", pa.float64()),
            *((name, pa.string()) for name in texts),
            ("timestamp", us),
            ("recorded_at", us),
        ]
    )
    started = time.perf_counter()
    rows = 0
    connection = sqlite3.connect(Path(folder, "journal.db"))
    names = dict(connection.execute("SELECT id, name FROM component"))
    (journal_id,) = connection.execute("SELECT journal_id FROM meta").fetchone()
    cursor = connection.execute(
        "SELECT e.seq, e.step, e.timestamp_ns, e.recorded_at_ns, e.value, e.component_id, "
        "e.name, e.payload, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
        "WHERE e.kind = 'metric' ORDER BY e.seq"
    )
    with pq.ParquetWriter(output, schema, use_dictionary=list(texts)) as writer:
        while page := cursor.fetchmany(50_000):
            count = len(page)
            *integers, value, component, name, payload, outcome = zip(*page, strict=True)
            arrays = [pa.array(column, pa.int64()) for column in integers]
            times = [pa.compute.divide(column, 1000).cast(us) for column in arrays[2:]]
            columns: list[Any] = [
                [journal_id] * count,
                [names[each] for each in component],
                name,
                payload,
                ["pending" if each is None else each for each in outcome],
                [None] * count,
            ]
            strings = [pa.array(column, pa.string()) for column in columns]
            writer.write_table(
                pa.Table.from_arrays(
                    [*arrays, pa.array(value, pa.float64()), *strings, *times], schema=schema
                )
            )
            rows += count
    return {"rows_per_s": rows / (time.perf_counter() - started)}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
