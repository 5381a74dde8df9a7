"""How a journal stands: what is pending, how far it is settled, and what is known of its components. Reads alone.

What a pass plans from; what it records is in ``settlement``.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from journaltrack.actions import ComponentState, Part, Place, parts_in_order, ranges_in
from journaltrack.entries import BlobRef, entry_of
from journaltrack.plan import value_of

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

IS_BEFORE: Final = (
    "(SELECT CASE WHEN a.journal_id IS b.journal_id AND a.host IS b.host THEN n.seq < o.seq "
    "ELSE (n.recorded_at_ns, n.seq) < (o.recorded_at_ns, o.seq) END FROM writer a, writer b WHERE a.id = n.writer_id AND b.id = o.writer_id)"
)
"""Whether an entry ``n`` was recorded before another one, ``o``: ``Place.is_before`` in SQL."""
_STATUS: Final = ("status", "")
_MAY_HAVE_MADE_IT: Final = (
    "SELECT 1 FROM receipt r LEFT JOIN attestation a ON a.receipt_id = r.id WHERE r.component_id = c.id AND r.action = 'ensure' "
    "AND r.outcome IS NOT 'not sent' AND NOT coalesce(CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.no_effect') END, 0)"
)
_FIRST_RECEIPTS: Final = 100  # of a component: whatever the length of its history, the request that made it is among these
_COLUMNS: Final = (
    "e.seq, e.writer_id, e.writer_seq, e.component_id, '', e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
    "e.recorded_at_ns, e.digest"
)
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
    known_origins = origins(database.read)
    for component_id in component_ids:
        known = database.read(
            # CASE, not AND: SQLite computes both sides of one, and the receipts of a long run are many.
            f"SELECT confirmed_at_ns IS NOT NULL, CASE WHEN confirmed_at_ns IS NULL THEN EXISTS ({_MAY_HAVE_MADE_IT}) ELSE 0 END "
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


def origins(read: Callable[[str], Iterable[Any]]) -> dict[int, int]:
    """``Place.origin`` by writer: which journal on which host recorded. Empty where all are of one.

    Args:
        read: Gives the rows of a query.
    """
    writers = list(read("SELECT id, journal_id, host FROM writer"))
    numbers = {origin: number for number, origin in enumerate(dict.fromkeys((journal_id, host) for _, journal_id, host in writers))}
    return {writer_id: numbers[journal_id, host] for writer_id, journal_id, host in writers} if len(numbers) > 1 else {}


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
