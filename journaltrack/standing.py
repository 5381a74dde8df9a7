"""How a journal stands: what is pending, how far it is settled, and what is known of its components. Reads alone.

What a pass plans from; what it records is in ``settlement``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from journaltrack.actions import ComponentState
from journaltrack.entries import BlobRef

if TYPE_CHECKING:
    from journaltrack.database import Database

LOOKED_AT: Final = "(e.seq > (SELECT seq FROM mark) OR e.seq IN (SELECT seq FROM unsettled))"
"""Of an entry ``e``: whether it may be pending. All others are settled, and need not be read."""
PENDING: Final = f"FROM entry e WHERE {LOOKED_AT} AND e.seq NOT IN (SELECT seq FROM delivery)"
"""Entries that nothing became of yet, as a FROM clause. NOT IN looks the row up as NOT EXISTS does, in a third of the time."""
UNSETTLED_MAX: Final = 10_000
"""Ours: entries that are listed as unsettled; a journal in which more stay pending is read from the first one that is not listed."""
PROBLEM: Final = "d.outcome IN ('quarantined', 'in doubt')"
"""Of a settlement ``d``: what the index ``delivery_problem`` is of. SQLite uses it only where a query says this in these words
(https://sqlite.org/partialindex.html#queries_using_partial_indexes); ``d.outcome = 'in doubt'`` alone reads all that was ever delivered."""

_ARTIFACTS: Final = ("input_artifacts", "output_artifacts")
_FEW: Final = 1_000
"""Ours: problems that are looked at one by one."""


def pending_count(database: Database) -> int:
    """How many entries are pending; costs what lies above the mark, and what is listed."""
    # PENDING would keep a set of all numbers, so that none is counted twice.
    above = "SELECT count(*) FROM entry e WHERE e.seq > (SELECT seq FROM mark) AND e.seq NOT IN (SELECT seq FROM delivery)"
    listed = (
        "SELECT count(*) FROM unsettled u JOIN entry e ON e.seq = u.seq WHERE u.seq <= (SELECT seq FROM mark) "
        "AND u.seq NOT IN (SELECT seq FROM delivery)"
    )
    return int(database.read(f"SELECT ({above}) + ({listed})")[0][0])


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


def states(database: Database, component_ids: Iterable[int]) -> dict[int, ComponentState]:
    """What is known of these components, for ``plan``."""
    states = {}
    for component_id in component_ids:
        known = database.read(
            # CASE, not AND: SQLite computes both sides of one, and the receipts of a long run are many.
            "SELECT confirmed_at_ns IS NOT NULL, CASE WHEN confirmed_at_ns IS NULL THEN EXISTS (SELECT 1 FROM receipt "
            "WHERE component_id = c.id AND action = 'ensure') ELSE 0 END FROM component c WHERE id = ?",
            (component_id,),
        )
        if not known:
            continue
        ((confirmed, attempted),) = known
        keys: dict[str, set[str]] = defaultdict(set)
        artifacts: dict[tuple[str, str], int] = {}
        for field_map, key, seq in database.read("SELECT map, key, seq FROM field WHERE component_id = ?", (component_id,)):
            keys[field_map].add(key)
            if field_map in _ARTIFACTS and isinstance(seq, int):
                artifacts[field_map, key] = seq
        states[component_id] = ComponentState(
            confirmed=bool(confirmed),
            create_attempted=bool(attempted),
            keys={field_map: frozenset(k) for field_map, k in keys.items()},
            locations=_locations(database, component_id),
            refused=_refused_blobs(database, component_id),
            artifacts=artifacts,
        )
    return states


def of_problems(database: Database) -> str:
    """Return a FROM clause of problems ``d`` and their entries ``e``, for those that are no metrics.

    It begins with what is fewer: problems (a few refusals, or a point of NaN for each of a million steps), or entries that
    are no metrics, by their index.
    """
    sql = f"SELECT count(*) FROM (SELECT 1 FROM delivery d WHERE {PROBLEM} LIMIT {_FEW + 1})"
    if database.read(sql)[0][0] <= _FEW:
        return "FROM delivery d CROSS JOIN entry e ON e.seq = d.seq"
    return "FROM entry e CROSS JOIN delivery d ON d.seq = e.seq"


def _refused_blobs(database: Database, component_id: int) -> frozenset[BlobRef]:
    rows = database.read(
        "SELECT json_extract(e.payload, '$.sha256'), json_extract(e.payload, '$.bucket'), json_extract(e.payload, '$.prefix') "
        f"{of_problems(database)} WHERE {PROBLEM} AND d.outcome = 'quarantined' AND e.component_id = ? "
        "AND e.stream <> 'metric' AND e.kind = 'upload' AND json_valid(e.payload)",
        (component_id,),
    )
    return frozenset(BlobRef(*row) for row in rows)


def _locations(database: Database, component_id: int) -> dict[BlobRef, tuple[str, int]]:
    rows = database.read("SELECT sha256, bucket, prefix, uri, receipt_id FROM location WHERE component_id = ?", (component_id,))
    return {BlobRef(sha256, bucket or None, prefix or None): (uri, receipt) for sha256, bucket, prefix, uri, receipt in rows}
