"""Read what is pending, a chunk at a time, in the form that planning takes.

Plain metrics come as columns, everything else as entries. Nearly all entries are plain metrics. To
make an ``Entry`` of each and check it would cost more than to record its delivery
(benchmarks/settle.py). So SQLite selects the metrics that can be sent as they are. Its comparisons
fail for values of any wrong type or size, and what it can't compare is checked a column at a time.
An entry that does not pass is read whole. ``planner`` says what is wrong with it.

``read_states`` reads what the journal knows of components beside their pending entries.

Invariants: every pending entry of a known component is in exactly one chunk, once. Chunks follow
each other in order of ``seq``, and so do their entries.

Only reads. Must not know how anything is sent.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal import groups, queries, vocabulary
from journaltrack.journal.fold import Part, Place, parts_in_order, value_of
from journaltrack.journal.journal import SELECT_ENTRY
from journaltrack.journal.queries import (
    ARRIVED,
    ENTRY_COLUMNS,
    MAY_HAVE_EFFECT,
    PROBLEM,
    UNSETTLED,
    of_problems,
    origins,
)
from journaltrack.journal.sqlite.connection import PAGE_BYTES_MAX
from journaltrack.journal.vocabulary import BlobRef, Entry, entry_of
from journaltrack.replay.plan.actions import ComponentState, Points
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database

_STATUS: Final = ("status", "")
_GROUPED: Final = groups.GROUPING | {vocabulary.TAGS, vocabulary.NOTE, vocabulary.LABEL}
_MAY_HAVE_MADE_IT: Final = (
    "SELECT 1 FROM receipt r LEFT JOIN attestation a ON a.receipt_id = r.id "
    f"WHERE r.component_id = c.id AND r.action = 'ensure' AND {MAY_HAVE_EFFECT}"
)

_OTHERS_TOLD: Final = (
    "(EXISTS (SELECT 1 FROM writer WHERE journal_id <> (SELECT journal_id FROM meta)) "
    "OR EXISTS (SELECT 1 FROM receipt WHERE action IN ('merge', 'taken')))"
)
"""Whether anything came from other journals, or from copies of this one.

A request of theirs whose answer is not known may have made a component.
"""
# Of a component. However long its history, the request that made it is among these.
_FIRST_RECEIPTS: Final = 100

CHUNK_METRICS: Final = 20_000
"""Metrics read and planned at a time. This bounds memory.

They make 2,000 requests, so that waiting for the last ones costs little.
"""
CHUNK_OTHERS_MAX: Final = 60_000
"""Other entries in a chunk, about 500 bytes each. Those of a component become one update."""

# A character takes four bytes at most, and may be a NUL, where length() stops.
_NAME_BYTES_MAX: Final = 4 * limits.METRIC_NAME_CHARS_MAX
_DIGEST_BYTES: Final = 32
# In SQLite numbers are less than texts, and texts less than blobs. A comparison with a number
# fails for both, and for NULL. Booleans of the whole: 1, or 0, or NULL.
_PLAIN: Final = (
    "(e.stream = 'metric' AND e.kind = 'metric' AND length(CAST(e.name AS BLOB)) "
    f"BETWEEN 1 AND {_NAME_BYTES_MAX} AND e.value > -9e999 AND e.value < 9e999 "
    f"AND ifnull(e.step, 0) BETWEEN 0 AND {limits.STEP_MAX} "
    "AND e.timestamp_ns BETWEEN 0 AND 9223372036854775807 "
    "AND e.writer_id < 9223372036854775807 AND e.writer_seq < 9223372036854775807 "
    "AND e.component_id < 9223372036854775807 "
    "AND e.payload IS NULL AND e.recorded_at_ns < 9223372036854775807 "
    f"AND length(e.digest) = {_DIGEST_BYTES})"
)
_NEW: Final = "e.seq > ?1 AND e.seq <= ?2"
_LISTED: Final = "e.seq IN (SELECT seq FROM unsettled WHERE seq > ?1 AND seq <= ?2)"
"""Replaces ``_NEW`` up to the mark: what earlier passes left pending."""
_SELECT_PLAIN: Final = (
    # ``chain.COLUMNS``, but for those that are the same in all.
    "SELECT e.seq, e.writer_id, e.writer_seq, e.component_id, e.name, e.value, e.step, "
    "e.timestamp_ns, e.recorded_at_ns, e.digest FROM entry e "
    f"WHERE {_NEW} AND {UNSETTLED} AND {_PLAIN}"
)
# Places among ``chain.COLUMNS``.
_COMPONENT, _STREAM, _NAME, _PAYLOAD = 3, 4, 6, 10
_TYPES: Final[Mapping[int, frozenset[type]]] = {
    **dict.fromkeys((1, 2, _COMPONENT, 9, 11), frozenset({int})),
    _NAME: frozenset({str}),
    7: frozenset({float}),
    8: frozenset({int, type(None)}),
    12: frozenset({bytes}),
}
"""By these places: the types of a plain metric, of those that SQLite's comparisons let pass."""
_SINCE: Final = " AND e.recorded_at_ns >= ?4"
_OF_THESE: Final = f"e.component_id IN (SELECT value FROM json_each(?5)) AND {UNSETTLED}"
_FIRST_ONES: Final = " ORDER BY e.seq LIMIT ?3"
_SELECT_OTHERS: Final = (
    f"{SELECT_ENTRY}WHERE {_NEW} AND {UNSETTLED} "
    f"AND ({_PLAIN} IS NOT 1 OR e.seq IN (SELECT value FROM json_each(?4))) ORDER BY e.seq LIMIT ?3"
)
_SELECT_AT: Final = (
    f"{SELECT_ENTRY}WHERE e.seq IN (SELECT value FROM json_each(?)) AND {UNSETTLED} ORDER BY e.seq"
)


def read_states(
    database: Database, component_ids: Iterable[int], grouping: Collection[int] = ()
) -> dict[int, ComponentState]:
    """Return what is known of these components, for ``planner.plan``.

    Args:
        database: Of the journal.
        component_ids: The components.
        grouping: Those of them with pending entries about experiments and trials.
    """
    states = {}
    known_origins = origins(database.read)
    for component_id in component_ids:
        known = database.read(
            # CASE, not AND: SQLite would compute both sides, and a long run has many receipts.
            "SELECT confirmed_at_ns IS NOT NULL, CASE WHEN confirmed_at_ns IS NOT NULL THEN 0 "
            f"WHEN EXISTS ({_MAY_HAVE_MADE_IT}) THEN 1 ELSE {_OTHERS_TOLD} END "
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
            statuses=_statuses(database, component_id, held[_STATUS], known_origins)
            if _STATUS in held
            else (),
            origins=known_origins,
            own_until_ns=own_until_ns if _is_shared(database, component_id) else None,
            grouped=_grouped(database, component_id) if component_id in grouping else (),
        )
    return states


def is_open(database: Database, component_id: int, seqs: Sequence[int], *, deletes: bool) -> bool:
    """Return whether anything of a component is pending beside these entries.

    Args:
        database: The journal's.
        component_id: The component.
        seqs: The entries.
        deletes: Whether they delete the run: then also whether something later restores it.
    """
    named = json.dumps(seqs)
    of_others = "e.component_id = ? AND e.seq NOT IN (SELECT value FROM json_each(?))"
    later = "SELECT 1 FROM entry e WHERE e.stream <> 'metric' AND e.name = ? AND e.seq > ? AND "
    return bool(
        database.read(f"SELECT 1 {queries.PENDING} AND {of_others} LIMIT 1", (component_id, named))
        or (
            deletes
            and database.read(
                f"{later}{of_others} LIMIT 1", (vocabulary.STAGE, max(seqs), component_id, named)
            )
        )
    )


def _grouped(database: Database, component_id: int) -> list[Entry]:
    """Return the entries about experiments, trials and tags that arrived."""
    rows = database.read(
        f"{SELECT_ENTRY}JOIN delivery d ON d.seq = e.seq WHERE {ARRIVED} "
        "AND e.component_id = ? AND e.stream <> 'metric' "
        "AND e.kind IN (SELECT value FROM json_each(?)) ORDER BY e.seq",
        (component_id, json.dumps(sorted(_GROUPED))),
    )
    return [entry for entry in map(entry_of, rows) if groups.is_readable(entry)]


def _fields(
    database: Database, component_id: int, known_origins: Mapping[int, int]
) -> tuple[dict[str, set[str]], dict[tuple[str, str], Place], int]:
    """Return what the remote holds of the component's fields from us.

    Returns:
        The keys per map; the entry held for each (none if it was made pending again); when the
        last status that the remote had from us was recorded, nanoseconds since the epoch.
    """
    own_until_ns = 0
    keys: dict[str, set[str]] = defaultdict(set)
    held: dict[tuple[str, str], Place] = {}
    rows = database.read(
        "SELECT f.map, f.key, e.seq, e.recorded_at_ns, e.writer_id, d.outcome "
        "FROM field f LEFT JOIN entry e ON e.seq = f.seq "
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


def _statuses(
    database: Database, component_id: int, held: Place, known_origins: Mapping[int, int]
) -> list[Part]:
    """Return the status calls that arrived.

    Empty unless a pending one was recorded before the last of them.
    """
    of_kind = "AND e.component_id = ? AND e.stream <> 'metric' AND e.kind = 'status' ORDER BY e.seq"
    pending = []
    # Two queries, as in ``pending_count``: with both in one condition, SQLite reads everything
    # of the component.
    for begin in (
        "FROM entry e WHERE e.seq > (SELECT seq FROM mark)",
        "FROM unsettled u CROSS JOIN entry e ON e.seq = u.seq WHERE 1",
    ):
        sql = f"SELECT e.seq, e.recorded_at_ns, e.writer_id {begin} AND {UNSETTLED} {of_kind}"
        pending += database.read(sql, (component_id,))
    if not any(
        Place(seq, at_ns, known_origins.get(writer_id, 0)).is_before(held)
        for seq, at_ns, writer_id in pending
    ):
        return []
    joined = "FROM entry e JOIN delivery d ON d.seq = e.seq"
    arrived = f"SELECT {ENTRY_COLUMNS} {joined} WHERE {ARRIVED} {of_kind}"
    parts = []
    for row in database.read(arrived, (component_id,)):
        entry = entry_of(row)
        # The payload may be damaged or crafted.
        with contextlib.suppress(ValueError):
            place = Place(entry.seq, entry.recorded_at_ns, known_origins.get(entry.writer_id, 0))
            parts.append(Part(place, value_of(entry)))
    return parts_in_order(parts)


def _is_shared(database: Database, component_id: int) -> bool:
    """Return whether another journal made the component, or was expected to."""
    ensured = database.read(
        "SELECT entries FROM "
        "(SELECT action, outcome, entries FROM receipt WHERE component_id = ? ORDER BY id LIMIT ?) "
        "WHERE action = 'ensure' AND outcome = 'delivered' LIMIT 1",
        (component_id, _FIRST_RECEIPTS),
    )
    if not ensured:
        # Not known: to assume it costs only a request.
        return True
    try:
        named = ranges_in(ensured[0][0])
    except ValueError:
        return True
    attached = (
        "SELECT 1 FROM entry e WHERE e.seq BETWEEN ? AND ? "
        "AND (e.kind = 'load' OR e.kind = 'create' AND "
        "CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.resume') END) LIMIT 1"
    )
    return any(database.read(attached, interval) for interval in named)


def _refused_blobs(database: Database, component_id: int) -> frozenset[BlobRef]:
    rows = database.read(
        "SELECT json_extract(e.payload, '$.sha256'), json_extract(e.payload, '$.bucket'), "
        f"json_extract(e.payload, '$.prefix') {of_problems(database)} "
        f"WHERE {PROBLEM} AND d.outcome = 'quarantined' AND e.component_id = ? "
        "AND e.stream <> 'metric' AND e.kind = 'upload' AND json_valid(e.payload)",
        (component_id,),
    )
    return frozenset(BlobRef(*row) for row in rows)


def _locations(database: Database, component_id: int) -> dict[BlobRef, tuple[str, int]]:
    sql = "SELECT sha256, bucket, prefix, uri, receipt_id FROM location WHERE component_id = ?"
    rows = database.read(sql, (component_id,))
    return {
        BlobRef(sha256, bucket or None, prefix or None): (uri, receipt)
        for sha256, bucket, prefix, uri, receipt in rows
    }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Say which entries are asked for.

    Attributes:
        component: Whether a component's entries are wanted, by its name.
        entry: Whether an entry is wanted.
        since_ns: The same for plain metrics: recorded at or after this time. None: all.
        is_closed: Asked before each chunk: whether nothing of a component can be sent any more,
            by its id. Its entries are not read.
    """

    component: Callable[[str], bool] = lambda _: True
    entry: Callable[[Entry], bool] = lambda _: True
    since_ns: int | None = None
    is_closed: Callable[[int], bool] = lambda _: False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Hold pending entries that are planned together.

    Attributes:
        entries: In order of ``seq``: everything that is not in ``points``.
        points: Plain metrics, by component.
        columns: The same of all components, by ``chain.COLUMNS``.
        upto_seq: Every wanted entry that was pending up to here is in this chunk or an earlier
            one.
    """

    entries: list[Entry]
    points: list[Points]
    columns: list[list[Any]]
    upto_seq: int

    @property
    def component_ids(self) -> set[int]:
        """Return the ids of the entries' components."""
        return {entry.component_id for entry in self.entries} | {
            each.component_id for each in self.points
        }

    @property
    def grouping_ids(self) -> set[int]:
        """Return the ids of components with entries about experiments, trials and tags."""
        return {entry.component_id for entry in self.entries if entry.kind in _GROUPED}

    @property
    def seqs(self) -> list[int]:
        """Return the ``seq`` of each entry, in order."""
        points = self.columns[0]
        return sorted([*points, *(entry.seq for entry in self.entries)]) if self.entries else points

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """Return the entries as ``chain.follow`` takes them."""
        if not self.entries:
            return zip(*self.columns, strict=True)
        # What is left of an unsound entry may equal what was recorded. Without a digest it is
        # in no chain.
        others = (
            _row(entry) if entry.unsound is None else (*_row(entry)[:-1], None)
            for entry in self.entries
        )
        seqs = self.columns[0]
        cuts = [0, *(bisect.bisect(seqs, entry.seq) for entry in self.entries)]
        joined = []
        for column, values in zip(self.columns, zip(*others, strict=True), strict=True):
            whole: list[Any] = []
            for first, end, value in zip(cuts, cuts[1:], values, strict=False):
                whole += column[first:end]
                whole.append(value)
            joined.append(whole + column[cuts[-1] :])
        return zip(*joined, strict=True)

    def without(self, writer_ids: Collection[object]) -> Chunk:
        """Return the chunk without the entries of these writers."""
        # Nearly always.
        if not writer_ids:
            return self
        points = []
        for each in self.points:
            kept = [writer_id not in writer_ids for writer_id in each.writer_ids]
            columns: list[Sequence[Any]] = [
                each.seqs,
                each.writer_ids,
                each.writer_seqs,
                each.names,
                each.values,
                each.steps,
            ]
            if any(kept):
                left = [[*compress(column, kept)] for column in (*columns, each.timestamps_ns)]
                points.append(Points(each.component_id, each.component, *left))
        return Chunk(
            [entry for entry in self.entries if entry.writer_id not in writer_ids],
            points,
            self.columns,
            self.upto_seq,
        )


_row: Final = attrgetter(
    *(
        "seq",
        "writer_id",
        "writer_seq",
        "component_id",
        "stream",
        "kind",
        "name",
        "value",
        "step",
        "timestamp_ns",
        "payload",
    ),
    *("recorded_at_ns", "digest"),
)


class PendingChunks:
    """Iterate over what is pending, in chunks.

    After the last chunk, a new iteration continues with what was appended since.
    """

    def __init__(self, journal: Journal, wanted: Wanted) -> None:
        self._journal = journal
        self._wanted = wanted
        self._after_seq = queries.low_water_mark(journal.database)
        self._names: dict[int, object] = {}

    def __iter__(self) -> Iterator[Chunk]:
        # Unlike a generator, this keeps no chunk while it reads the next one.
        return iter(self._next, None)

    def _next(self) -> Chunk | None:
        while (last_seq := self._journal.last_seq()) > self._after_seq:
            chunk = _read(self._journal, self._wanted, self._names, self._after_seq, last_seq)
            self._after_seq = chunk.upto_seq
            if chunk.entries or chunk.points:
                return chunk
        return None


def pending_chunks(journal: Journal, wanted: Wanted) -> Iterator[Chunk]:
    """Return what is pending, in chunks. What is appended meanwhile comes last."""
    return iter(PendingChunks(journal, wanted))


def pending_at(journal: Journal, seqs: Sequence[int]) -> list[Entry]:
    """Return those of these entries that are still pending, in order of ``seq``.

    Fewer if they take much memory.
    """
    rows = journal.database.read_page(_SELECT_AT, (json.dumps(list(seqs)),))
    return [vocabulary.entry_of(row) for row in rows]


def _read(
    journal: Journal, wanted: Wanted, names: dict[int, object], after_seq: int, last_seq: int
) -> Chunk:
    """Return the first chunk above ``after_seq`` and up to ``last_seq``.

    The bound matters: what is appended between the two queries would be missed.
    """
    database = journal.database
    listed_up_to = queries.listed_up_to(database)
    place = _LISTED if after_seq < listed_up_to else _NEW
    last_seq = listed_up_to if place is _LISTED else last_seq
    plain, others_too = _SELECT_PLAIN.replace(_NEW, place), _SELECT_OTHERS.replace(_NEW, place)
    plain += _FIRST_ONES if wanted.since_ns is None else _SINCE + _FIRST_ONES
    ids = None
    components = journal.components()
    chosen = [
        row.id for row in components if wanted.component(row.name) and not wanted.is_closed(row.id)
    ]
    # The backlog of other runs stays in SQLite.
    if len(chosen) < len(components):
        ids = json.dumps(chosen)
        plain, others_too = (sql.replace(UNSETTLED, _OF_THESE) for sql in (plain, others_too))
    columns = database.read_columns(
        plain, (after_seq, last_seq, CHUNK_METRICS, wanted.since_ns, ids)
    )
    seqs, component_ids = columns[0], columns[_COMPONENT]
    columns[_STREAM:_STREAM] = [[vocabulary.METRIC] * len(seqs)] * 2
    columns.insert(_PAYLOAD, [None] * len(seqs))
    upto_seq = seqs[-1] if len(seqs) == CHUNK_METRICS else last_seq
    _learn(journal, names, set(component_ids))
    odd: list[int] = []
    if not _all_sound(columns, names):
        sound = [
            _all_sound([[value] for value in row], names) for row in zip(*columns, strict=True)
        ]
        odd = [seq for seq, fine in zip(seqs, sound, strict=True) if not fine]
        columns = [[*compress(column, sound)] for column in columns]
    others: list[Entry] = []
    # If not equal, other entries lie between the plain metrics.
    if upto_seq - after_seq != len(columns[0]):
        found = database.read_page(
            others_too, (after_seq, upto_seq, CHUNK_OTHERS_MAX, json.dumps(odd), ids)
        )
        # Perhaps more of them are there.
        if len(found) == CHUNK_OTHERS_MAX or _size(found) >= PAGE_BYTES_MAX:
            upto_seq = found[-1][0]
            below = bisect.bisect_right(columns[0], upto_seq)
            columns = [column[:below] for column in columns]
        read = map(vocabulary.entry_of, found)
        others = [
            entry for entry in read if wanted.component(entry.component) and wanted.entry(entry)
        ]
    return Chunk(others, _by_component(columns, names, wanted), columns, upto_seq)


def _learn(journal: Journal, names: dict[int, object], component_ids: set[int]) -> None:
    """Look up the components' names that are not known yet.

    A component that does not exist has no name. Its entries stay pending.
    """
    unknown = [each for each in component_ids if each not in names]
    if unknown:
        # Infinity is a number here and in SQLite, but JSON has none.
        ids = json.dumps([each for each in unknown if type(each) is int])
        sql = "SELECT id, name FROM component WHERE id IN (SELECT value FROM json_each(?))"
        found = journal.database.read(sql, (ids,))
        names.update(dict.fromkeys(unknown))
        names.update(found)


def _all_sound(columns: Sequence[Sequence[Any]], names: Mapping[int, object]) -> bool:
    """Return whether all rows can be sent as they are.

    Checks the types that SQLite's comparisons leave open, the names of metrics, and that the
    components can be named.
    """
    return (
        all(allowed.issuperset(map(type, columns[place])) for place, allowed in _TYPES.items())
        and not any(
            limits.text_problem(name, "", limits.METRIC_NAME_CHARS_MAX)
            for name in set(columns[_NAME])
        )
        and all(_is_plain(names[each]) for each in set(columns[_COMPONENT]))
    )


def _is_plain(name: object) -> bool:
    """Return whether a component can have metrics, or does not exist.

    Entries of any other component are checked one at a time.
    """
    return name is None or (
        isinstance(name, str) and len(name) <= limits.NAME_CHARS_MAX and groups.is_run(name)
    )


def _by_component(
    columns: Sequence[Sequence[Any]], names: Mapping[int, object], wanted: Wanted
) -> list[Points]:
    component_ids = columns[_COMPONENT]
    sent = [*columns[:_COMPONENT], *columns[_NAME:_PAYLOAD]]
    places: dict[int, list[int]] = defaultdict(list)
    several = len(set(component_ids)) > 1
    for place, component_id in enumerate(component_ids if several else component_ids[:1]):
        places[component_id].append(place)
    found = []
    for component_id, mine in places.items():
        name = names[component_id]
        if isinstance(name, str) and wanted.component(name):
            members = [[column[place] for place in mine] for column in sent] if several else sent
            found.append(Points(component_id, name, *members))
    return found


def _size(rows: Sequence[tuple[Any, ...]]) -> int:
    """Return the size of rows as ``Database.read_page`` counts it."""
    return sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))
