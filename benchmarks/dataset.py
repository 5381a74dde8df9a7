"""Datasets: the first export of a journal, and that of 1,000 new points, beside pyarrow writing the
same rows to one file.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

ROWS_PER_S_MIN = 300_000
APPEND_S_MAX = 0.3
NEW = 1_000
OURS, FLOOR = "export --to", "pyarrow writes the same rows"


def run(options: Run) -> list[Result]:
    """A journal of pending metrics, and then a few more of them."""
    metrics = options.size(1_000_000, 100_000)
    folder, to = options.folder / f"dataset-{metrics}", options.folder / "dataset"
    child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
    arguments = {"folder": str(folder), "to": str(to)}
    sides = [
        Side(OURS, "benchmarks.dataset:ours", arguments),
        Side(FLOOR, "benchmarks.dataset:bare", {"to": str(to)}),
    ]
    try:
        values = take_turns(sides, options.rounds)
    finally:
        for each in (folder, to):
            shutil.rmtree(each, ignore_errors=True)
    what = f"{metrics:,} metrics"
    rates = [[v["rows_per_s"] for v in values[name]] for name in (OURS, FLOOR)]
    appends = [[v["append_s"] for v in values[name]] for name in (OURS, FLOOR)]
    first, more = f"{what}: first export", f"{what}: {NEW:,} more"
    nothing = [v["nothing_s"] for v in values[OURS]]
    return [
        compare("dataset", first, "rows/s", *rates, floor_name=FLOOR, better="higher"),
        compare("dataset", first, "rows/s", rates[0], target=ROWS_PER_S_MIN, better="higher"),
        compare("dataset", more, "s", *appends, floor_name=FLOOR),
        compare("dataset", more, "s", appends[0], target=APPEND_S_MAX),
        compare("dataset", f"{what}: nothing more", "s", nothing),
    ]


def ours(folder: str, to: str) -> Values:
    """``journaltrack.export_dataset`` with its libraries loaded."""
    import pyarrow.parquet

    from benchmarks.journals import COMPONENT, point
    from journaltrack import export_dataset
    from journaltrack.journal.journal import Journal

    assert pyarrow.parquet
    shutil.rmtree(to, ignore_errors=True)
    started = time.perf_counter()
    first = export_dataset(folder, to=to)
    first_s = time.perf_counter() - started
    journal = Journal.open(Path(folder))
    journal.append(journal.component(COMPONENT), [point(n, n) for n in range(1, NEW + 1)])
    journal.close()
    started = time.perf_counter()
    assert export_dataset(folder, to=to).metrics == NEW
    append_s = time.perf_counter() - started
    started = time.perf_counter()
    assert export_dataset(folder, to=to).rows == 0
    return {
        "rows_per_s": first.rows / first_s,
        "append_s": append_s,
        "nothing_s": time.perf_counter() - started,
    }


def bare(to: str) -> Values:
    """Write the rows of the dataset's files from memory, until they are on the disk."""
    import pyarrow.parquet as pq

    files = sorted(Path(to, "metrics").rglob("*.parquet"))
    first, second = (pq.ParquetFile(each).read() for each in files)
    texts = [field.name for field in first.schema if str(field.type) == "string"]
    spent = []
    for table in (first, second):
        started = time.perf_counter()
        target = Path(to, "bare.parquet")
        with target.open("wb") as stream:
            pq.write_table(
                table, stream, row_group_size=131_072, compression="snappy", use_dictionary=texts
            )
            stream.flush()
            os.fsync(stream.fileno())
        spent.append(time.perf_counter() - started)
        target.unlink()
    return {"rows_per_s": first.num_rows / spent[0], "append_s": spent[1]}
