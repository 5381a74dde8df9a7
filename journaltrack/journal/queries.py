"""Ask a journal what is pending, how far it is settled, and what is a problem.

The module only reads. A pass plans from these answers, and records in ``outcomes``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import vocabulary

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

ENTRY_COLUMNS: Final = (
    "e.seq, e.writer_id, e.writer_seq, e.component_id, '', e.stream, e.kind, e.name, e.value, "
    "e.step, e.timestamp_ns, e.payload, e.recorded_at_ns, e.digest"
)
"""Of an entry ``e``: what ``vocabulary.entry_of`` takes, without the component's name."""
IS_POINT: Final = f"stream = 'metric' AND kind IN {vocabulary.POINTS}"
"""Of an entry: whether it is a point of a metric, to be sent or not."""
LOOKED_AT: Final = "(e.seq > (SELECT seq FROM mark) OR e.seq IN (SELECT seq FROM unsettled))"
"""Of an entry ``e``: whether it may be pending. All others are settled, and need not be read."""
UNSETTLED: Final = "e.seq NOT IN (SELECT seq FROM delivery)"
"""Of an entry ``e``: whether nothing became of it yet. NOT IN looks the row up as NOT EXISTS
does, in a third of the time.
"""
OVERLOOKED: Final = (
    f"FROM entry e WHERE e.seq <= ? AND {UNSETTLED} AND e.seq NOT IN (SELECT seq FROM unsettled)"
)
"""Unsettled entries that no pass looks at, up to the mark, as a FROM clause. There must be none."""
PENDING: Final = f"FROM entry e WHERE {LOOKED_AT} AND {UNSETTLED}"
"""Entries that nothing became of yet, as a FROM clause; reads no more than it must."""
UNSETTLED_MAX: Final = 10_000
"""Ours: entries that are listed as unsettled; a journal in which more stay pending is read from
the first one that is not listed.
"""
PROBLEM: Final = "d.outcome IN ('quarantined', 'in doubt')"
"""Of a settlement ``d``: what the index ``delivery_problem`` is of. SQLite uses it only where a
query says this in these words (https://sqlite.org/partialindex.html#queries_using_partial_indexes);
``d.outcome = 'in doubt'`` alone reads all that was ever delivered.
"""
IN_DOUBT: Final = f"{PROBLEM} AND d.outcome = 'in doubt'"
MAY_HAVE_EFFECT: Final = (
    "r.outcome IS NOT 'not sent' AND NOT "
    "coalesce(CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.no_effect') END, 0)"
)
"""Of a receipt ``r`` and its attestation ``a``, if any: whether the request may have changed
anything.
"""
QUARANTINED: Final = f"{PROBLEM} AND d.outcome = 'quarantined'"
HAS_ARRIVED: Final = frozenset({"delivered", "superseded"})
ARRIVED: Final = "d.outcome IN ('delivered', 'superseded')"
"""Of a settlement ``d``: whether the entry, or a later one of its key, is at the remote."""

IS_BEFORE: Final = (
    "(SELECT CASE WHEN a.journal_id IS b.journal_id AND a.host IS b.host THEN n.seq < o.seq "
    "ELSE (n.recorded_at_ns, n.seq) < (o.recorded_at_ns, o.seq) END FROM writer a, writer b "
    "WHERE a.id = n.writer_id AND b.id = o.writer_id)"
)
"""Whether an entry ``n`` was recorded before another one, ``o``: ``Place.is_before`` in SQL."""
_FEW: Final = 1_000
"""Ours: problems that are looked at one by one."""


def pending_count(database: Database) -> int:
    """Count the pending entries.

    Costs what lies above the mark, and what is listed.
    """
    # PENDING would keep a set of all numbers, so that none is counted twice.
    above = f"SELECT count(*) FROM entry e WHERE e.seq > (SELECT seq FROM mark) AND {UNSETTLED}"
    listed = (
        "SELECT count(*) FROM unsettled u CROSS JOIN entry e ON e.seq = u.seq "
        f"WHERE u.seq <= (SELECT seq FROM mark) AND {UNSETTLED}"
    )
    return int(database.read(f"SELECT ({above}) + ({listed})")[0][0])


def read_through(database: Database) -> None:
    """Read all that may be pending, and forget it.

    A pass that is going to meet a damaged page meets it here, before it writes anything.

    Raises:
        JournalError: It can't be read.
    """
    # The longest column and the last one: so every page of a row is read.
    database.read(f"SELECT max(e.payload), max(e.digest) FROM entry e WHERE {LOOKED_AT}")


def undeliverable(database: Database, component_ids: str | None = None) -> dict[str, int]:
    """Count the quarantined entries that AWS can never take, by reason.

    They were refused as they were recorded, or by a pass that met them, without a request:
    releasing them changes nothing. Costs what is quarantined.

    Args:
        database: Of the journal.
        component_ids: A JSON list: count those of these components alone; None: of all.
    """
    of = (
        ""
        if component_ids is None
        else "AND d.seq IN (SELECT seq FROM entry WHERE component_id IN (SELECT value FROM "
        "json_each(?)))"
    )
    rows = database.read(
        f"SELECT d.reason, min(d.seq), max(d.seq), count(*) FROM delivery d WHERE {QUARANTINED} "
        f"AND d.receipt_id IS NULL {of} GROUP BY d.reason",
        () if component_ids is None else (component_ids,),
    )
    # An upload is refused for the sake of the reference that was recorded right after it.
    return {
        str(reason): count
        for reason, *ends, count in rows
        if any(_is_refused(database, seq, reason) for seq in ends)
    }


def _is_refused(database: Database, seq: int, reason: object) -> bool:
    rows = database.read(f"SELECT {ENTRY_COLUMNS} FROM entry e WHERE e.seq = ?", (seq,))
    if not rows:  # it was removed, and not on the record
        return False
    entry = vocabulary.entry_of(rows[0])
    # An earlier version refused it. Released, it goes into the artifact of such parameters.
    if vocabulary.is_for_file(entry):
        return False
    if entry.kind in vocabulary.KEYS_MAX and reason == vocabulary.too_many(entry.kind):
        return True
    try:
        return entry.unsound is None and vocabulary.undeliverable(entry) == reason
    except ValueError:
        return False


def is_pending(database: Database, wanted: Callable[[str], bool]) -> bool:
    """Return whether anything of a wanted component is pending, or in flight."""
    ids = [
        component_id
        for component_id, name in database.read("SELECT id, name FROM component")
        if wanted(str(name))
    ]
    sql = (
        f"SELECT EXISTS (SELECT 1 {PENDING} AND e.component_id IN (SELECT value FROM json_each(?)))"
    )
    return bool(database.read(sql, (json.dumps(ids),))[0][0])


def last_receipt_id(database: Database) -> int:
    """Return the id of the newest receipt; 0 if there is none."""
    return int(database.read("SELECT coalesce(max(id), 0) FROM receipt")[0][0])


def low_water_mark(database: Database) -> int:
    """Return the ``seq`` up to which every entry is settled."""
    return int(
        database.read(
            "SELECT min(seq, coalesce((SELECT min(seq) FROM unsettled) - 1, seq)) FROM mark"
        )[0][0]
    )


def listed_up_to(database: Database) -> int:
    """Return the ``seq`` up to which every entry is settled, or listed as unsettled."""
    return int(database.read("SELECT seq FROM mark")[0][0])


def origins(read: Callable[[str], Iterable[Any]]) -> dict[int, int]:
    """Return ``Place.origin`` by writer: which journal on which host recorded.

    Empty if all are of one.

    Args:
        read: Gives the rows of a query.
    """
    writers = list(read("SELECT id, journal_id, host FROM writer"))
    numbers = {
        origin: number
        for number, origin in enumerate(
            dict.fromkeys((journal_id, host) for _, journal_id, host in writers)
        )
    }
    return (
        {writer_id: numbers[journal_id, host] for writer_id, journal_id, host in writers}
        if len(numbers) > 1
        else {}
    )


def of_problems(database: Database) -> str:
    """Return a FROM clause of problems ``d`` and their entries ``e``, for those that are no
    metrics.

    It begins with what is fewer: problems (a few refusals, or a point of NaN for each of a million
    steps), or entries that are no metrics, by their index.
    """
    sql = f"SELECT count(*) FROM (SELECT 1 FROM delivery d WHERE {PROBLEM} LIMIT {_FEW + 1})"
    if database.read(sql)[0][0] <= _FEW:
        return "FROM delivery d CROSS JOIN entry e ON e.seq = d.seq"
    return "FROM entry e CROSS JOIN delivery d ON d.seq = e.seq"
