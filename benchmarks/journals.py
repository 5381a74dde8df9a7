"""Journals full of pending metrics, made as fast as SQLite takes rows: the real INSERT, valid
chains, one transaction.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import child

COMPONENT = "benchmark"
NAMES = ("train:loss", "train:accuracy", "validation:loss", "validation:accuracy")


def make(folder: str, metrics: int, owner: str = "benchmark-owner") -> dict[str, float]:
    """A journal of one component with a pending create and so many pending points; run it in a
    child process.
    """
    from journaltrack.journal import provenance, vocabulary
    from journaltrack.journal.insert import INSERT_ENTRY
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.schema import schema

    now_ns = time.time_ns()
    journal = Journal.open(Path(folder), create=True)
    component_id = journal.component(COMPONENT)
    journal.append(component_id, [vocabulary.create(owner=owner)])
    info = provenance.describe_process(now_ns, journal.journal_id)
    with journal.database.transaction() as connection:
        writer_id = connection.execute(schema.insert_writer_sql(), info.columns()).lastrowid

        def rows() -> Iterator[tuple[Any, ...]]:
            digest = info.digest
            for writer_seq in range(1, metrics + 1):
                draft = point(writer_seq, now_ns + writer_seq * 1000)
                (digest,) = vocabulary.chain_next_entries(
                    digest, writer_seq, COMPONENT, [draft], now_ns + writer_seq * 1000
                )
                yield (
                    writer_id,
                    writer_seq,
                    component_id,
                    *draft[:7],
                    now_ns + writer_seq * 1000,
                    digest,
                )

        connection.executemany(INSERT_ENTRY, rows())
    journal.close()
    return {"entries": metrics + 1}


def make_copies(folder: Path, metrics: int, copies: int) -> Iterator[Path]:
    """A journal, made once in a child process, and a fresh copy of it for each time; all of them
    go when the caller is done.
    """
    child("benchmarks.journals:make", folder=str(folder), metrics=metrics)
    copy = folder.with_name(folder.name + "-copy")
    try:
        for _ in range(copies):
            shutil.copytree(folder, copy)
            yield copy
            shutil.rmtree(copy)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def point(number: int, timestamp_ns: int) -> Any:
    """A plausible point, as a draft."""
    from journaltrack.journal.vocabulary import Draft

    return Draft("metric", "metric", NAMES[number % 4], 1.0 / number, number // 4, timestamp_ns)


def deliver(folder: str, *, whole: bool = False) -> dict[str, float]:
    """As if a sync had delivered the metrics of such a journal, ten to a request, but for the last
    and every 100,003rd; the create waits.

    With ``whole`` it does not, and the low-water mark is where a pass leaves it.
    """
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.schema.schema import insert_sql
    from journaltrack.util.intervals import as_intervals, as_text

    journal = Journal.open(Path(folder), create=False)
    last, now_ns = journal.last_seq(), time.time_ns()
    starts = range(2, last, 10)
    requests = ([*range(first, min(first + 10, last))] for first in starts)
    with journal.database.transaction() as connection:
        connection.executemany(
            insert_sql("receipt"),
            (
                (
                    "metrics",
                    1,
                    as_text(as_intervals(seqs)),
                    1,
                    now_ns + n * 1000,
                    now_ns + n * 1000 + 500,
                    "delivered",
                    1,
                    f"request-{n}",
                    None,
                    None,
                )
                for n, seqs in enumerate(requests)
            ),
        )
        connection.execute(
            "INSERT INTO delivery SELECT e.seq, r.id, CASE "
            "WHEN e.seq % 100003 = 0 THEN 'quarantined' "
            "ELSE 'delivered' END, NULL, r.finished_at_ns FROM entry e "
            "JOIN receipt r ON r.id = (e.seq - 2) / 10 + 1 WHERE e.seq > 1 AND e.seq < ?",
            (last,),
        )
        if whole:
            connection.execute(
                "INSERT INTO delivery SELECT 1, min(id), 'delivered', NULL, min(finished_at_ns) "
                "FROM receipt"
            )
            connection.execute("UPDATE mark SET seq = ?", (last - 1,))
            connection.execute(
                "UPDATE component SET arn = 'arn:benchmark', confirmed_at_ns = ?", (now_ns,)
            )
    journal.close()
    return {"entries": last}
