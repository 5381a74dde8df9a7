"""How a journal stands: what is pending, how far it is settled, and what is known of its components. Reads alone.

What a pass plans from; what it records is in ``settlement``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from journaltrack.actions import ComponentState
from journaltrack.entries import BlobRef

if TYPE_CHECKING:
    from journaltrack.database import Database

PENDING: Final = "FROM entry e WHERE e.seq > (SELECT seq FROM mark) AND e.seq NOT IN (SELECT seq FROM delivery)"
"""Entries that nothing became of yet, as a FROM clause. NOT IN looks the row up as NOT EXISTS does, in a third of the time."""
PROBLEM: Final = "d.outcome IN ('quarantined', 'in doubt')"
"""Of a settlement ``d``: what the index ``delivery_problem`` is of. SQLite uses it only where a query says this in these words
(https://sqlite.org/partialindex.html#queries_using_partial_indexes); ``d.outcome = 'in doubt'`` alone reads all that was ever delivered."""

_ARTIFACTS: Final = ("input_artifacts", "output_artifacts")


def pending_count(database: Database) -> int:
    """How many entries are pending; costs what lies above the low-water mark."""
    return int(database.read(f"SELECT count(*) {PENDING}")[0][0])


def last_receipt_id(database: Database) -> int:
    """Of the newest receipt; 0 when there is none."""
    return int(database.read("SELECT coalesce(max(id), 0) FROM receipt")[0][0])


def low_water_mark(database: Database) -> int:
    """Every entry up to this ``seq`` is settled."""
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


def _refused_blobs(database: Database, component_id: int) -> frozenset[BlobRef]:
    rows = database.read(
        "SELECT json_extract(e.payload, '$.sha256'), json_extract(e.payload, '$.bucket'), json_extract(e.payload, '$.prefix') "
        f"FROM delivery d CROSS JOIN entry e ON e.seq = d.seq WHERE {PROBLEM} AND d.outcome = 'quarantined' AND e.component_id = ? "
        "AND e.stream <> 'metric' AND e.kind = 'upload' AND json_valid(e.payload)",
        (component_id,),
    )
    return frozenset(BlobRef(*row) for row in rows)


def _locations(database: Database, component_id: int) -> dict[BlobRef, tuple[str, int]]:
    rows = database.read("SELECT sha256, bucket, prefix, uri, receipt_id FROM location WHERE component_id = ?", (component_id,))
    return {BlobRef(sha256, bucket or None, prefix or None): (uri, receipt) for sha256, bucket, prefix, uri, receipt in rows}
