"""What the journal knows of components beside their pending entries: what a pass plans from. Reads alone."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from journaltrack.journal.entries import BlobRef, entry_of
from journaltrack.journal.fold import Part, Place, parts_in_order, value_of
from journaltrack.journal.queries import PROBLEM, of_problems, origins
from journaltrack.replay.plan.actions import ComponentState
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database


_STATUS: Final = ("status", "")
_MAY_HAVE_MADE_IT: Final = (
    "SELECT 1 FROM receipt r LEFT JOIN attestation a ON a.receipt_id = r.id WHERE r.component_id = c.id AND r.action = 'ensure' "
    "AND r.outcome IS NOT 'not sent' AND NOT coalesce(CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.no_effect') END, 0)"
)

_OTHERS_TOLD: Final = (
    "(EXISTS (SELECT 1 FROM writer WHERE journal_id <> (SELECT journal_id FROM meta)) "
    "OR EXISTS (SELECT 1 FROM receipt WHERE action IN ('merge', 'taken')))"
)
"""Whether anything came from other journals, or copies of this one: a request of theirs whose answer is not known may have made a component."""
_FIRST_RECEIPTS: Final = 100  # of a component: whatever the length of its history, the request that made it is among these

_COLUMNS: Final = (
    "e.seq, e.writer_id, e.writer_seq, e.component_id, '', e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
    "e.recorded_at_ns, e.digest"
)


def states(database: Database, component_ids: Iterable[int]) -> dict[int, ComponentState]:
    """What is known of these components, for ``plan``."""
    states = {}
    known_origins = origins(database.read)
    for component_id in component_ids:
        known = database.read(
            # CASE, not AND: SQLite computes both sides of one, and the receipts of a long run are many.
            f"SELECT confirmed_at_ns IS NOT NULL, CASE WHEN confirmed_at_ns IS NOT NULL THEN 0 WHEN EXISTS ({_MAY_HAVE_MADE_IT}) THEN 1 "
            f"ELSE {_OTHERS_TOLD} END "
            "FROM component c WHERE id = ?",
            (component_id,),
        )
        if not known:
            continue
        ((confirmed, attempted),) = known
        keys, held, own_until_ns = _fields(database, component_id, known_origins)
        states[component_id] = ComponentState(
            confirmed=bool(confirmed),
            create_attempted=bool(attempted),
            keys={field_map: frozenset(k) for field_map, k in keys.items()},
            locations=_locations(database, component_id),
            refused=_refused_blobs(database, component_id),
            held=held,
            statuses=_statuses(database, component_id, held[_STATUS], known_origins) if _STATUS in held else (),
            origins=known_origins,
            own_until_ns=own_until_ns if _is_shared(database, component_id) else None,
        )
    return states


def _fields(
    database: Database, component_id: int, known_origins: Mapping[int, int]
) -> tuple[dict[str, set[str]], dict[tuple[str, str], Place], int]:
    """The keys that the remote has by our doing; which entry it holds for each (none where that was made pending again); and when
    the last status that it had from us was recorded.
    """
    own_until_ns = 0
    keys: dict[str, set[str]] = defaultdict(set)
    held: dict[tuple[str, str], Place] = {}
    rows = database.read(
        "SELECT f.map, f.key, e.seq, e.recorded_at_ns, e.writer_id, d.outcome FROM field f LEFT JOIN entry e ON e.seq = f.seq "
        "LEFT JOIN delivery d ON d.seq = f.seq WHERE f.component_id = ?",
        (component_id,),
    )
    for field_map, key, seq, recorded_at_ns, writer_id, outcome in rows:
        keys[field_map].add(key)
        if (field_map, key) == _STATUS and isinstance(recorded_at_ns, int):
            own_until_ns = recorded_at_ns
        if outcome == "delivered" and isinstance(seq, int) and isinstance(recorded_at_ns, int):
            held[field_map, key] = Place(seq, recorded_at_ns, known_origins.get(writer_id, 0))
    return keys, held, own_until_ns


def _statuses(database: Database, component_id: int, held: Place, known_origins: Mapping[int, int]) -> list[Part]:
    """The status calls that arrived, if one that is pending was recorded before the last of them."""
    of_kind = "AND e.component_id = ? AND e.stream <> 'metric' AND e.kind = 'status' ORDER BY e.seq"
    pending = []
    # Apart, as in ``pending_count``: with both in one condition, SQLite reads all that there is of the component.
    for begin in ("FROM entry e WHERE e.seq > (SELECT seq FROM mark)", "FROM unsettled u CROSS JOIN entry e ON e.seq = u.seq WHERE 1"):
        sql = f"SELECT e.seq, e.recorded_at_ns, e.writer_id {begin} AND e.seq NOT IN (SELECT seq FROM delivery) {of_kind}"
        pending += database.read(sql, (component_id,))
    if not any(Place(seq, at_ns, known_origins.get(writer_id, 0)).is_before(held) for seq, at_ns, writer_id in pending):
        return []
    arrived = f"SELECT {_COLUMNS} FROM entry e JOIN delivery d ON d.seq = e.seq WHERE d.outcome IN ('delivered', 'superseded') {of_kind}"
    parts = []
    for row in database.read(arrived, (component_id,)):
        entry = entry_of(row)
        with contextlib.suppress(ValueError):  # a damaged or crafted payload
            place = Place(entry.seq, entry.recorded_at_ns, known_origins.get(entry.writer_id, 0))
            parts.append(Part(place, value_of(entry)))
    return parts_in_order(parts)


def _is_shared(database: Database, component_id: int) -> bool:
    """Whether the component was attached to: made by another journal, or expected to be."""
    ensured = database.read(
        "SELECT entries FROM (SELECT action, outcome, entries FROM receipt WHERE component_id = ? ORDER BY id LIMIT ?) "
        "WHERE action = 'ensure' AND outcome = 'delivered' LIMIT 1",
        (component_id, _FIRST_RECEIPTS),
    )
    if not ensured:
        return True  # not known: it costs a request to look
    try:
        named = ranges_in(ensured[0][0])
    except ValueError:
        return True
    attached = (
        "SELECT 1 FROM entry e WHERE e.seq BETWEEN ? AND ? AND (e.kind = 'load' OR e.kind = 'create' AND "
        "CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.resume') END) LIMIT 1"
    )
    return any(database.read(attached, interval) for interval in named)


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
