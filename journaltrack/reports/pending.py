"""What was recorded and not settled at a time in the past. Journal → data; prints nothing, changes nothing.

A delivery says when its entry was settled, and that is all there is to know of most entries: pending until then. A few were
settled more than once: released (``retry``), in doubt and then read back or decided by a person. Their deliveries say only
what holds now; what held then follows from the receipts that name them, see ``_unsettled``. Everything else is counted by SQLite.

Invariant: an entry is told to be pending or not only if the records prove it. What they leave open is ``unknown``: an entry
that was settled without a request (its artifact's upload was quarantined) and released later; nothing says since when.
"""

from __future__ import annotations

import heapq
import json
import os
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack.journal import entries as vocabulary
from journaltrack.journal import view
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.statements import READBACK, REOPEN
from journaltrack.reports import receipts
from journaltrack.reports.receipts import RELEASE, ranges_of
from journaltrack.util.intervals import SEQ_MAX, contains, merged, without

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database

StateThen: TypeAlias = Literal["pending", "in flight", "unknown"]
Intervals: TypeAlias = Sequence[tuple[int, int]]
_Event: TypeAlias = Literal["request", "perhaps", "settled", "released", "decided"]
_PAGE_ENTRIES: Final = 5_000
_WINDOW_ENTRIES: Final = 100_000
"""Entries with a history that are looked at with one reading of the receipts."""

_SETTLES: Final[dict[object, _Event]] = {"delivered": "settled", "in doubt": "settled", "partial": "perhaps", "refused": "perhaps"}
_BETWEEN: Final = "json_each(?1) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')"
_WAITS: Final = "d.seq IS NULL OR d.settled_at_ns > ?2"
_SEEN: Final = "e.recorded_at_ns <= ?2 AND (?3 IS NULL OR e.component_id IN (SELECT value FROM json_each(?3)))"


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """Entries of one kind of a component that were not settled then.

    Attributes:
        pending, in_flight: How many waited, and how many were named by a request without an answer.
        unknown: How many may have waited.
        oldest_seq, oldest_recorded_at_ns: Of all these.
    """

    component: str | None
    kind: str
    pending: int
    in_flight: int
    unknown: int
    oldest_seq: int
    oldest_recorded_at_ns: int


@dataclass(frozen=True, slots=True)
class PendingAt:
    """What was recorded and not settled at ``at_ns``, by component and kind.

    Attributes:
        pending, in_flight, unknown: Sums of the groups'.
        unreadable: Receipts that don't say of which entries they are: of those, what holds now is all that is known.
    """

    at_ns: int
    pending: int
    in_flight: int
    unknown: int
    groups: tuple[PendingGroup, ...]
    unreadable: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An entry that was not settled then. ``outcome`` and ``settled_at_ns`` are those of now; None while it is still pending."""

    seq: int
    component: str | None
    stream: str
    kind: str
    name: str | None
    recorded_at_ns: int
    state_then: StateThen
    outcome: str | None
    settled_at_ns: int | None


@dataclass(frozen=True, slots=True)
class _Past:
    """What the receipts tell of a time: entries with a history, all others, and what was in flight."""

    at_ns: int
    ids: str | None
    decided: Intervals
    others: Intervals
    flying: Intervals
    unreadable: tuple[int, ...]


def pending_at(journal: Journal | str | os.PathLike[str] | None, at_ns: int, *, component: str | None = None) -> PendingAt:
    """What was recorded and not settled at a time: counts and the oldest, by component and kind.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        at_ns: The time, nanoseconds since the epoch; what was recorded or settled at that very moment is.
        component: Shell pattern of component names (case does not matter); None: all.

    Raises:
        JournalError: It can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        past = _past(own, at_ns, component)
        groups: dict[tuple[Any, str], list[Any]] = defaultdict(lambda: [0, 0, 0, SEQ_MAX, SEQ_MAX])
        for key, pending, in_flight, seq, recorded_ns in _counted(own.database, past):
            _add(groups[key], (pending, in_flight, 0), seq, recorded_ns)
        names = {row.id: row.name for row in own.components()}
        for component_id, entry in _with_history(own.database, past, names):
            states = (entry.state_then == "pending", entry.state_then == "in flight", entry.state_then == "unknown")
            _add(groups[component_id, entry.kind], states, entry.seq, entry.recorded_at_ns)
        found = [PendingGroup(names.get(i), kind, *counts) for (i, kind), counts in groups.items()]
    found.sort(key=lambda group: group.oldest_seq)
    pending, in_flight, unknown = (sum(getattr(group, name) for group in found) for name in ("pending", "in_flight", "unknown"))
    return PendingAt(at_ns, pending, in_flight, unknown, tuple(found), past.unreadable)


def each_pending_at(
    journal: Journal | str | os.PathLike[str] | None,
    at_ns: int,
    *,
    component: str | None = None,
    after_seq: int = 0,
    limit: int | None = None,
) -> Iterator[PendingEntry]:
    """The same entries one by one, in order of ``seq``, from one snapshot: a release meanwhile would change the past."""
    with view.opened(journal) as own, view.snapshot(own.database):
        past = _past(own, at_ns, component, after_seq)
        names = {row.id: row.name for row in own.components()}
        with_history = ((entry.seq, entry) for _, entry in _with_history(own.database, past, names))
        others = ((row[0], _entry(row, names, _then(row[0], past.flying))) for row in _rows(own.database, past.others, past, waiting=True))
        yield from islice((entry for _, entry in heapq.merge(others, with_history, key=itemgetter(0))), limit)


def _add(group: list[Any], counts: Sequence[int], seq: int, recorded_ns: int) -> None:
    for place, count in enumerate(counts):
        group[place] += count
    group[3], group[4] = min(group[3], seq), min(group[4], recorded_ns)


def _past(journal: Journal, at_ns: int, component: str | None, after_seq: int = 0) -> _Past:
    ids = view.matching(journal, component)
    decided: list[tuple[int, int]] = []
    flying: list[tuple[int, int]] = []
    unreadable = []
    for receipt_id, text, event, started_ns, finished_ns in _events(journal.database, ids, at_ns=at_ns):
        begun = event in {"request", "perhaps", "settled"} and _is_by(started_ns, at_ns) and not _is_by(finished_ns, at_ns)
        if not begun and event not in {"released", "decided"}:
            continue
        ranges = ranges_of(text)
        if ranges is None:
            unreadable.append(receipt_id)
        else:
            (flying if begun else decided).extend(ranges)
    within = _common(merged(decided), [(after_seq + 1, SEQ_MAX)])
    return _Past(at_ns, ids, within, without([(after_seq + 1, SEQ_MAX)], within), merged(flying), tuple(unreadable))


def _events(database: Database, ids: str | None, *, at_ns: int | None = None) -> Iterator[tuple[int, object, _Event, object, object]]:
    """(id, entries, what it did, started, finished) of receipts that say something of the state of entries.

    ``at_ns``: only decisions, and requests that had no answer then; SQLite leaves the others out.
    """
    where = (
        "(?3 IS NULL OR r.component_id IN (SELECT value FROM json_each(?3))) AND (?4 IS NULL "
        f"OR r.action IN ('{RELEASE}', '{REOPEN}', '{READBACK}', '{in_doubt.SETTLE}') "
        "OR r.started_at_ns <= ?4 AND (r.finished_at_ns IS NULL OR r.finished_at_ns > ?4))"
    )
    columns = "r.id, r.action, r.entries, r.started_at_ns, r.finished_at_ns, r.outcome"
    for receipt_id, action, text, started_ns, finished_ns, outcome in receipts.rows_of(database, columns, where, (ids, at_ns)):
        if action in {RELEASE, REOPEN} or (action == READBACK and outcome == "released"):
            event: _Event = "released"
        elif action == in_doubt.SETTLE or (action == READBACK and outcome == "delivered"):
            event = "decided"
        elif action in receipts.NO_REQUESTS:
            continue
        else:
            event = _SETTLES.get(outcome, "request")
        yield receipt_id, text, event, started_ns, finished_ns


def _counted(database: Database, past: _Past) -> Iterator[tuple[tuple[Any, str], int, int, int, int]]:
    """(component, kind), pending, in flight, oldest seq and time of the entries without a history."""
    sql = (
        f"SELECT e.component_id, e.kind, count(*), min(e.seq), min(e.recorded_at_ns) FROM {_BETWEEN} "
        f"LEFT JOIN delivery d ON d.seq = e.seq WHERE {_SEEN} AND ({_WAITS}) GROUP BY 1, 2"
    )
    waiting = database.read(sql, (json.dumps(past.others), past.at_ns, past.ids))
    flying = database.read(sql, (json.dumps(_common(past.flying, past.others)), past.at_ns, past.ids))
    in_flight = {(component_id, kind): count for component_id, kind, count, *_ in flying}
    for component_id, kind, count, seq, recorded_ns in waiting:
        sent = in_flight.get((component_id, kind), 0)
        yield (component_id, kind), count - sent, sent, seq, recorded_ns


def _with_history(database: Database, past: _Past, names: dict[int, str]) -> Iterator[tuple[Any, PendingEntry]]:
    """Those of the entries with a history that were not settled, or may not have been; with their components' ids."""
    rows = _rows(database, past.decided, past, waiting=False)
    while window := list(islice(rows, _WINDOW_ENTRIES)):
        last, following = _around(database, past, [row[0] for row in window])
        for row in window:
            seq, waits = row[0], bool(row[-1])
            unsettled = _unsettled(last.get(seq), following.get(seq), waits=waits)
            if unsettled is None and last.get(seq) is None and _refused_at_once(database, seq):
                unsettled = False
            if unsettled is not False:
                yield row[1], _entry(row, names, "unknown" if unsettled is None else _then(seq, past.flying))


def _around(database: Database, past: _Past, seqs: list[int]) -> tuple[dict[int, _Event], dict[int, _Event]]:
    """What happened last to each of these (sorted) entries up to the time, and what next."""
    last: dict[int, _Event] = {}
    following: dict[int, _Event] = {}
    for _, text, event, _, finished_ns in _events(database, past.ids):
        by_then = _is_by(finished_ns, past.at_ns)
        for first, end in ranges_of(text) or ():
            for seq in seqs[bisect_left(seqs, first) : bisect_right(seqs, end)]:
                if by_then:
                    last[seq] = event
                    following.pop(seq, None)
                else:
                    following.setdefault(seq, event)
    return last, following


def _unsettled(last: _Event | None, following: _Event | None, *, waits: bool) -> bool | None:
    """Whether an entry was not settled then; None if that can't be known.

    Args:
        last: What happened to it last up to that time.
        following: What happened next.
        waits: Whether its present settlement, if any, is later.
    """
    if last in {"settled", "decided"}:
        return False
    if following is None:
        return waits
    if following in {"released", "decided"}:  # so it was settled in between: by the last request, if that could
        return False if last == "perhaps" else None
    return True  # it was sent again: what is settled never is


def _refused_at_once(database: Database, seq: int) -> bool:
    """Whether the entry was quarantined as it was recorded: AWS could never take it."""
    columns = "seq, writer_id, writer_seq, component_id, '', stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns, digest"
    rows = database.read(f"SELECT {columns} FROM entry WHERE seq = ?", (seq,))
    try:
        return vocabulary.undeliverable(vocabulary.entry_of(rows[0])) is not None
    except ValueError:  # it can't be read: the pass that met it quarantined it
        return False


def _rows(database: Database, intervals: Intervals, past: _Past, *, waiting: bool) -> Iterator[tuple[Any, ...]]:
    """Rows of the entries in these intervals that were recorded by then, in order; ``waiting``: only if their settlement is later or none."""
    columns = f"SELECT e.seq, e.component_id, e.stream, e.kind, e.name, e.recorded_at_ns, d.outcome, d.settled_at_ns, {_WAITS} FROM"
    chosen = f"LEFT JOIN delivery d ON d.seq = e.seq WHERE {_SEEN}{f' AND ({_WAITS})' if waiting else ''}"
    end = f"ORDER BY e.seq LIMIT {_PAGE_ENTRIES}"
    of_many = f"{columns} {_BETWEEN} {chosen} {end}"
    of_one = f"{columns} entry e {chosen} AND e.seq BETWEEN ?1 AND ?4 {end}"  # in order as it is: nothing to sort
    for batch in _batches(intervals):
        left = batch
        while left:
            place = (json.dumps(left),) if len(left) > 1 else left[0]
            page = database.read_page(of_many if len(left) > 1 else of_one, (place[0], past.at_ns, past.ids, *place[1:]))
            yield from page
            left = _common(left, [(page[-1][0] + 1, SEQ_MAX)]) if page else []


def _batches(intervals: Intervals) -> Iterator[list[tuple[int, int]]]:
    """Intervals in groups of about a page: each query of one sorts all that it finds."""
    batch: list[tuple[int, int]] = []
    entries = 0
    for first, last in intervals:
        if last - first >= _PAGE_ENTRIES:
            yield batch
            yield [(first, last)]
            batch, entries = [], 0
            continue
        batch.append((first, last))
        entries += last - first + 1
        if entries >= _PAGE_ENTRIES:
            yield batch
            batch, entries = [], 0
    yield batch


def _entry(row: tuple[Any, ...], names: dict[int, str], then: StateThen) -> PendingEntry:
    seq, component_id, stream, kind, name, recorded_ns, outcome, settled_ns, _ = row
    return PendingEntry(seq, names.get(component_id), stream, kind, name, recorded_ns, then, outcome, settled_ns)


def _then(seq: int, flying: Intervals) -> StateThen:
    return "in flight" if contains(flying, seq) else "pending"


def _is_by(time_ns: object, at_ns: int) -> bool:
    return isinstance(time_ns, int) and time_ns <= at_ns


def _common(these: Intervals, those: Intervals) -> list[tuple[int, int]]:
    """What is in both; each is sorted and does not touch itself."""
    found = []
    i = j = 0
    while i < len(these) and j < len(those):
        first, last = max(these[i][0], those[j][0]), min(these[i][1], those[j][1])
        if first <= last:
            found.append((first, last))
        if these[i][1] < those[j][1]:
            i += 1
        else:
            j += 1
    return found
