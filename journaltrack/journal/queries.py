"""How a journal stands: what is pending, how far it is settled, where each process's entries are. Reads alone.

What a pass plans from; what it records is in ``outcomes``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import entries as vocabulary

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

LOOKED_AT: Final = "(e.seq > (SELECT seq FROM mark) OR e.seq IN (SELECT seq FROM unsettled))"
"""Of an entry ``e``: whether it may be pending. All others are settled, and need not be read."""
PENDING: Final = f"FROM entry e WHERE {LOOKED_AT} AND e.seq NOT IN (SELECT seq FROM delivery)"
"""Entries that nothing became of yet, as a FROM clause. NOT IN looks the row up as NOT EXISTS does, in a third of the time."""
UNSETTLED_MAX: Final = 10_000
"""Ours: entries that are listed as unsettled; a journal in which more stay pending is read from the first one that is not listed."""
PROBLEM: Final = "d.outcome IN ('quarantined', 'in doubt')"
"""Of a settlement ``d``: what the index ``delivery_problem`` is of. SQLite uses it only where a query says this in these words
(https://sqlite.org/partialindex.html#queries_using_partial_indexes); ``d.outcome = 'in doubt'`` alone reads all that was ever delivered."""

IS_BEFORE: Final = (
    "(SELECT CASE WHEN a.journal_id IS b.journal_id AND a.host IS b.host THEN n.seq < o.seq "
    "ELSE (n.recorded_at_ns, n.seq) < (o.recorded_at_ns, o.seq) END FROM writer a, writer b WHERE a.id = n.writer_id AND b.id = o.writer_id)"
)
"""Whether an entry ``n`` was recorded before another one, ``o``: ``Place.is_before`` in SQL."""
_FEW: Final = 1_000
"""Ours: problems that are looked at one by one."""
_FIND: Final = (
    "SELECT max(first, :first) + shift, min(last, :last) + shift FROM run "
    "WHERE writer_id = :writer_id AND last >= :first AND first <= :last ORDER BY last"
)


class Places:
    """Where the entries of each process are, as runs in which ``seq`` is the place in the writer's chain plus a shift.

    There is no index for it, so that an append pays for none: one scan, kept in a private database that is gone with its
    connection, and in memory while it is small.

    Args:
        database: Of the journal. What others append later is not looked for.
    """

    def __init__(self, database: Database) -> None:
        self._runs = sqlite3.connect("", isolation_level=None)
        self._runs.execute("CREATE TABLE run (writer_id, first, last, shift)")
        with database.lock:
            rows = database.connection.execute(
                "SELECT writer_id, min(writer_seq), max(writer_seq), seq - writer_seq FROM entry "
                "WHERE typeof(writer_seq) = 'integer' GROUP BY writer_id, seq - writer_seq"
            )
            self._runs.execute("BEGIN")
            self._runs.executemany("INSERT INTO run VALUES (?, ?, ?, ?)", rows)
            self._runs.execute("COMMIT")
        self._runs.execute("CREATE INDEX run_last ON run (writer_id, last)")

    def add(self, writer_id: int, first: int, last: int, shift: int) -> None:
        """Entries were added."""
        self._runs.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (writer_id, first, last, shift))

    def find(self, writer_id: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield those of the writer's entries that are here, as (first, last) of ``seq``, in the order of their places."""
        yield from self._runs.execute(_FIND, {"writer_id": writer_id, "first": first, "last": last})

    def close(self) -> None:
        """Drop it."""
        self._runs.close()


def pending_count(database: Database) -> int:
    """How many entries are pending; costs what lies above the mark, and what is listed."""
    # PENDING would keep a set of all numbers, so that none is counted twice.
    above = "SELECT count(*) FROM entry e WHERE e.seq > (SELECT seq FROM mark) AND e.seq NOT IN (SELECT seq FROM delivery)"
    listed = (
        "SELECT count(*) FROM unsettled u JOIN entry e ON e.seq = u.seq WHERE u.seq <= (SELECT seq FROM mark) "
        "AND u.seq NOT IN (SELECT seq FROM delivery)"
    )
    return int(database.read(f"SELECT ({above}) + ({listed})")[0][0])


def undeliverable(database: Database, component_ids: str | None = None) -> dict[str, int]:
    """Count the quarantined entries that AWS can never take, by reason.

    They were refused as they were recorded, or by a pass that met them, without a request: releasing
    them changes nothing. Costs what is quarantined.

    Args:
        database: Of the journal.
        component_ids: A JSON list: count those of these components alone; None: of all.
    """
    of = "" if component_ids is None else "AND d.seq IN (SELECT seq FROM entry WHERE component_id IN (SELECT value FROM json_each(?)))"
    rows = database.read(
        f"SELECT d.reason, min(d.seq), max(d.seq), count(*) FROM delivery d WHERE {PROBLEM} AND d.outcome = 'quarantined' "
        f"AND d.receipt_id IS NULL {of} GROUP BY d.reason",
        () if component_ids is None else (component_ids,),
    )
    # An upload is refused for the sake of the reference that was recorded right after it.
    return {str(reason): count for reason, *ends, count in rows if any(_is_refused(database, seq, reason) for seq in ends)}


def _is_refused(database: Database, seq: int, reason: object) -> bool:
    columns = "seq, writer_id, writer_seq, component_id, '', stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns, digest"
    rows = database.read(f"SELECT {columns} FROM entry WHERE seq = ?", (seq,))
    if not rows:  # it was removed, and not on the record
        return False
    entry = vocabulary.entry_of(rows[0])
    if entry.kind in vocabulary.KEYS_MAX and reason == vocabulary.too_many(entry.kind):
        return True
    try:
        return entry.unsound is None and vocabulary.undeliverable(entry) == reason
    except ValueError:
        return False


def is_pending(database: Database, wanted: Callable[[str], bool]) -> bool:
    """Whether anything of a component that is wanted is pending, or in flight."""
    ids = [component_id for component_id, name in database.read("SELECT id, name FROM component") if wanted(str(name))]
    sql = f"SELECT EXISTS (SELECT 1 {PENDING} AND e.component_id IN (SELECT value FROM json_each(?)))"
    return bool(database.read(sql, (json.dumps(ids),))[0][0])


def last_receipt_id(database: Database) -> int:
    """Of the newest receipt; 0 when there is none."""
    return int(database.read("SELECT coalesce(max(id), 0) FROM receipt")[0][0])


def low_water_mark(database: Database) -> int:
    """Every entry up to this ``seq`` is settled."""
    return int(database.read("SELECT min(seq, coalesce((SELECT min(seq) FROM unsettled) - 1, seq)) FROM mark")[0][0])


def listed_up_to(database: Database) -> int:
    """Every entry up to this ``seq`` is settled, or in the table ``unsettled``."""
    return int(database.read("SELECT seq FROM mark")[0][0])


def origins(read: Callable[[str], Iterable[Any]]) -> dict[int, int]:
    """``Place.origin`` by writer: which journal on which host recorded. Empty where all are of one.

    Args:
        read: Gives the rows of a query.
    """
    writers = list(read("SELECT id, journal_id, host FROM writer"))
    numbers = {origin: number for number, origin in enumerate(dict.fromkeys((journal_id, host) for _, journal_id, host in writers))}
    return {writer_id: numbers[journal_id, host] for writer_id, journal_id, host in writers} if len(numbers) > 1 else {}


def of_problems(database: Database) -> str:
    """Return a FROM clause of problems ``d`` and their entries ``e``, for those that are no metrics.

    It begins with what is fewer: problems (a few refusals, or a point of NaN for each of a million steps), or entries that
    are no metrics, by their index.
    """
    sql = f"SELECT count(*) FROM (SELECT 1 FROM delivery d WHERE {PROBLEM} LIMIT {_FEW + 1})"
    if database.read(sql)[0][0] <= _FEW:
        return "FROM delivery d CROSS JOIN entry e ON e.seq = d.seq"
    return "FROM entry e CROSS JOIN delivery d ON d.seq = e.seq"
