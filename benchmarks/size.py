"""How many bytes of the journal a delivered point takes, by table, beside a bare table of the
same points.
"""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Result, Run, Values, child, compare

BYTES_MAX = 160.0
FLOOR = "a bare table of name, value, step, time"
TABLES = {
    "entry": "entries, of it 32 B of digest",
    "delivery": "what became of each",
    "attestation": "attestations, of it 3 B of digest",
    "receipt": "receipts",
}
"""With their indexes."""


def run(options: Run) -> list[Result]:
    """Once: SQLite lays out the same rows in the same way."""
    metrics = options.size(1_000_000, 100_000)
    folder = options.folder / "size"
    values = child("benchmarks.size:ours", folder=str(folder), metrics=metrics)
    bare = child("benchmarks.size:bare", folder=str(folder), metrics=metrics)["bytes"]
    shutil.rmtree(folder)
    what = f"a point of {metrics:,} delivered ones"
    whole = values["bytes"]
    return [
        compare("size", what, "B", [whole], target=BYTES_MAX),
        compare("size", f"{what}, to a bare table", "B", [whole], [bare], floor_name=FLOOR),
        *(
            compare("size", f"of it: {told}", "B", [values[table]])
            for table, told in TABLES.items()
            if table in values
        ),
    ]


def ours(folder: str, metrics: int) -> Values:
    """Points that a pass delivered, ten a request. Request ids are as long as those of AWS."""
    from benchmarks import journals
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.reconciler import Reconciler
    from journaltrack.replay.remote import SAGEMAKER, Answer

    class Yes:
        """Delivers nothing."""

        can = SAGEMAKER

        def create(self, _spec: object) -> Answer:
            return Answer(str(uuid.uuid4()), arn="arn:none")

        def put_metrics(self, _component: str, _points: object) -> Answer:
            return Answer(str(uuid.uuid4()))

    journals.make(folder, metrics)
    with closing(Journal.open(Path(folder), create=False)) as journal:
        Reconciler(journal, Yes()).run()  # type: ignore[arg-type] - what metrics need
    with closing(sqlite3.connect(Path(folder, "journal.db"))) as connection:
        values = _of_file(connection, metrics)
        try:
            rows = connection.execute(
                "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_master m "
                "ON m.name = s.name WHERE s.aggregate = 1 GROUP BY 1"
            ).fetchall()
        except sqlite3.OperationalError:  # a build of SQLite without dbstat
            rows = []
    return values | {table: size / metrics for table, size in rows if table in TABLES}


def bare(folder: str, metrics: int) -> Values:
    """The same points, and nothing else."""
    with closing(sqlite3.connect(Path(folder, "bare.db"))) as connection:
        connection.execute(
            "CREATE TABLE point (id INTEGER PRIMARY KEY, name TEXT, value REAL, step INTEGER, "
            "timestamp_ns INTEGER)"
        )
        connection.execute("ATTACH ? AS journal", (str(Path(folder, "journal.db")),))
        connection.execute(
            "INSERT INTO point SELECT seq, name, value, step, timestamp_ns FROM journal.entry "
            "WHERE stream = 'metric'"
        )
        connection.commit()
        return _of_file(connection, metrics)


def _of_file(connection: sqlite3.Connection, metrics: int) -> Values:
    ((pages,),) = connection.execute("PRAGMA page_count")
    ((page_bytes,),) = connection.execute("PRAGMA page_size")
    return {"bytes": pages * page_bytes / metrics}
