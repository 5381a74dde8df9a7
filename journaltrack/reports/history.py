"""Tell what happened in a journal: one key's history, and the timeline of all.

``history`` yields every value of a parameter, artifact or status, in order, with its author and
the value before. It reads all entries but metrics through their index, one component after the
other, a page at a time.

``timeline`` yields in one order: writers that started, entries, requests and their answers,
settlements and decisions. It reads five sources, each by its times and a page at a time, and
merges them. Memory does not grow with the journal. No index is in the order of time, since it
would slow every append. So a page costs a scan of its table (0.1 s for 1,000,000 entries), and
pages grow to keep their number small. Events without a time (a crafted journal) are left out.

A *position* is a place in the timeline: time, source, number. A page that starts after the
position of the previous page repeats nothing and leaves out nothing. The one exception is an
event that is recorded later with an earlier time.

The module reads the journal. It prints nothing and changes nothing.
"""

from __future__ import annotations

import heapq
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack.journal import view, writer_records
from journaltrack.journal.filter import Choice, names, nothing
from journaltrack.journal.vocabulary import STATUS, TAGS
from journaltrack.journal.writer_records import WriterRecord
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.statements import READBACK, REOPEN
from journaltrack.reports.entries import (
    SOURCES,
    AuditedEntry,
    entries_in,
    entries_where,
)
from journaltrack.reports.entry import (
    NO_REQUESTS,
    RELEASE,
    ReceiptRecord,
    ranges_of,
    receipt_rows,
    receipts_in,
)
from journaltrack.util.intervals import SEQ_MAX

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

KeyKind: TypeAlias = Literal["parameter", "input", "output", "status"]
KINDS: Final[tuple[KeyKind, ...]] = ("parameter", "input", "output", "status")
STATUS_NAME: Final = "status"
"""The name to ask for a component's status: status entries have no name."""
_VALUES: Final = ("exact", "text", "value", "sha256", "primary", "note")
EventKind: TypeAlias = Literal[
    "started", "recorded", "sent", "answered", "released", "read back", "decided", "repaired",
    "delivered", "superseded", "in doubt", "quarantined", "settled",
]  # fmt: skip
_Keys: TypeAlias = "Sequence[tuple[int, int]]"
_Read: TypeAlias = "Callable[[_Span, int, tuple[int, int], int], tuple[_Keys, Iterator[Event]]]"
_FIRST_PAGE: Final = 500
_PAGE_MAX: Final = 20_000
_FEW: Final = 5_000
"""Up to this many chosen entries are looked up once, not for each page."""
_NO_REQUESTS: Final = ", ".join(f"'{action}'" for action in sorted(NO_REQUESTS))
_NS_MIN: Final = -(2**63)
_DECISIONS: Final[dict[str, EventKind]] = {
    RELEASE: "released",
    REOPEN: "released",
    READBACK: "read back",
    in_doubt.SETTLE: "decided",
    "repair": "repaired",
}
_OUTCOMES: Final[dict[object, EventKind]] = {
    "delivered": "delivered",
    "superseded": "superseded",
    "in doubt": "in doubt",
    "quarantined": "quarantined",
}


@dataclass(frozen=True, slots=True)
class Revision:
    """One value of a key.

    Attributes:
        entry: The entry that set it: when, who, and whether it arrived.
        value: As recorded; for a status, everything that the call set.
        earlier_seq, earlier: The previous entry of the key and its value; None for the first one.
        changed: Whether the value differs from the previous one (true for the first one).
    """

    entry: AuditedEntry
    value: Any
    earlier_seq: int | None
    earlier: Any
    changed: bool


def value_of(entry: AuditedEntry) -> Any:  # noqa: ANN401 - whatever was recorded
    """Return what an entry recorded.

    Returns:
        A number, or the text, URI or digest that stands for the value. For a status, a dictionary
        of everything that the call set.
    """
    if entry.kind == STATUS:
        return dict(entry.detail)
    if entry.value is not None:
        return entry.value
    tags = entry.detail.get("tags") if entry.kind == TAGS else None
    if isinstance(tags, dict):
        return ", ".join(f"{key}={value}" for key, value in tags.items())
    return next((entry.detail[key] for key in _VALUES if key in entry.detail), None)


def history(
    journal: Journal | str | os.PathLike[str] | None,
    name: str,
    *,
    kind: KeyKind | None = None,
    component: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[Revision]:
    """Yield every value of a key, component by component, in the order of recording.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        name: Exact name of the parameter, input or output; "status" is also the component's
            status.
        kind: Only keys of this kind; None for every kind.
        component: Shell pattern of component names (case does not matter); None for all.
        since_ns: Only values recorded since then, nanoseconds since the epoch. The first of them
            still says which earlier value it changed.
        until_ns: Only values recorded before then.

    Raises:
        JournalError: The journal can't be read.
    """
    condition = (
        "e.stream <> 'metric' AND e.component_id = ?3 AND (?4 IS NULL OR e.kind = ?4) AND "
        "(e.kind IN ('parameter', 'input', 'output') AND e.name = ?5 OR e.kind = 'status' AND "
        f"?5 = '{STATUS_NAME}')"
    )
    with view.opened(journal) as own:
        for component_id in _components(own, component):
            last: dict[str, AuditedEntry] = {}
            for entry in entries_where(own, condition, (component_id, kind, name)):
                before = last.get(entry.kind)
                last[entry.kind] = entry
                if _within(entry.recorded_at_ns, since_ns, until_ns):
                    yield _revision(entry, before)


def check(journal: Journal, choice: Choice, name: str) -> None:
    """Check that the choice contains a key of this name.

    Raises:
        NothingMatchesError: It does not. An empty history would look like a key that was never
            set.
    """
    known = names(journal, choice, "e.kind IN ('parameter', 'input', 'output')")
    if name not in {STATUS_NAME, *known}:
        raise nothing(
            journal,
            f"no {choice.kind or 'parameter, input or output'}",
            name,
            [*known, STATUS_NAME],
        )


def _components(journal: Journal, component: str | None) -> list[int]:
    chosen = view.matching(journal, component, displayed=True)
    wanted = None if chosen is None else set(json.loads(chosen))
    return [row.id for row in journal.components() if wanted is None or row.id in wanted]


def _revision(entry: AuditedEntry, before: AuditedEntry | None) -> Revision:
    value = value_of(entry)
    if before is None:
        return Revision(entry, value, None, None, changed=True)
    earlier = value_of(before)
    return Revision(
        entry, value, before.seq, earlier, _shape(entry, value) != _shape(before, earlier)
    )


def _shape(entry: AuditedEntry, value: object) -> tuple[object, ...]:
    """Return what must be equal for two values to be the same.

    A number and a text differ even when they look alike. So do two media types.
    """
    return (
        type(value).__name__,
        repr(sorted(value.items(), key=str)) if isinstance(value, Mapping) else value,
        str(entry.detail.get("media_type")),
    )


def _within(recorded_at_ns: object, since_ns: int | None, until_ns: int | None) -> bool:
    if since_ns is None and until_ns is None:
        return True
    if not isinstance(recorded_at_ns, int):
        return False
    return (since_ns is None or recorded_at_ns >= since_ns) and (
        until_ns is None or recorded_at_ns < until_ns
    )


class Position(NamedTuple):
    """A place in the timeline.

    Attributes:
        at_ns: Time, nanoseconds since the epoch.
        source: 0 for writers, 1 for entries, 2 for requests, 3 for answers, 4 for settlements.
        number: Of the row in its table.
    """

    at_ns: int
    source: int
    number: int

    def __str__(self) -> str:
        """Return the text that ``position`` reads."""
        return f"{self.at_ns}.{self.source}.{self.number}"


START: Final = Position(_NS_MIN, -1, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        position: Its place. ``timeline(..., after=position)`` continues behind it.
        at_ns: When, nanoseconds since the epoch.
        event: "started" has a ``writer``. "recorded" has an ``entry``. "sent", "answered" and the
            decisions "released", "read back", "decided" and "repaired" have a ``receipt``. A
            settlement has an ``entry``: "delivered", "superseded", "in doubt", "quarantined", or
            "settled" for an outcome that this version does not know.
        component: The component that the event is about.
        writer, entry, receipt: What the event is about.
    """

    position: Position
    at_ns: int
    event: EventKind
    component: str | None = None
    writer: WriterRecord | None = None
    entry: AuditedEntry | None = None
    receipt: ReceiptRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes.

        The position becomes text, and only members with a value are kept.
        """
        converted: dict[str, Any] = view.to_json(replace(self, position=START))
        return {
            **{key: value for key, value in converted.items() if value is not None},
            "position": str(self.position),
        }


class _Span(NamedTuple):
    """Which events are asked for.

    Attributes:
        parameters: Of ``Choice.condition``.
        entries: Parameter ?6 of queries of entries. It is what is in flight, or the numbers of a
            few chosen entries.
        source, condition: Where the chosen entries are read from, and on which condition.
        receipts: The receipts that name one of a few chosen entries, as a JSON array of their
            numbers.
        until_ns: Only events before then.
    """

    journal: Journal
    choice: Choice
    parameters: tuple[Any, ...]
    entries: str
    source: str
    condition: str
    receipts: str | None
    until_ns: int

    @property
    def of_all(self) -> bool:
        """Return whether every entry is chosen."""
        return self.choice.component is None and not self.choice.of_entries


def position(text: str) -> Position:
    """Read a position from text as ``str(Position)`` makes it.

    Raises:
        ValueError: The text is no position.
    """
    at_ns, source, number = (int(part) for part in text.split("."))
    if not (_NS_MIN <= at_ns < 2**63 and 0 <= source < len(_PAGES) and _NS_MIN <= number < 2**63):
        raise ValueError(text)
    return Position(at_ns, source, number)


def timeline(
    journal: Journal | str | os.PathLike[str] | None = None,
    choice: Choice | None = None,
    *,
    after: Position = START,
    limit: int | None = None,
) -> Iterator[Event]:
    """Yield everything that happened, in order of time.

    Events of the same time come in the order writers, entries, requests, answers, settlements.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        choice: Which entries, with the writers, requests and settlements that are about them. Its
            times are compared with the times of the events.
        after: The position of the last event of the previous page.
        limit: The maximum number of events.

    Raises:
        JournalError: The journal can't be read.
    """
    choice = choice or Choice()
    with view.opened(journal) as own:
        span = _span(own, choice)
        if choice.since_ns is not None:
            after = max(after, Position(choice.since_ns, -1, 0))
        sources = [_events(span, source, read, after) for source, read in enumerate(_PAGES)]
        yield from islice(heapq.merge(*sources, key=attrgetter("position")), limit)


def _span(journal: Journal, choice: Choice) -> _Span:
    """Prepare the queries for a choice.

    A few chosen entries, and the receipts that name them, are looked up once: no page looks again.
    """
    of_entries = replace(choice, since_ns=None, until_ns=None)
    parameters = of_entries.parameters(journal)
    source, condition = SOURCES[choice.state]
    until_ns = SEQ_MAX if choice.until_ns is None else choice.until_ns
    flying = view.in_flight(journal.database).json
    span = _Span(
        journal,
        choice,
        parameters,
        flying,
        source.replace("?8", "?6"),
        f"{condition} AND {of_entries.condition}",
        None,
        until_ns,
    )
    if not choice.of_entries:
        return span
    # SQLite needs every parameter in the statement: ?6 is used whatever is asked.
    sql = (
        f"SELECT e.seq FROM {span.source} WHERE {span.condition} AND ?6 IS ?6 ORDER BY e.seq "
        f"LIMIT {_FEW + 1}"
    )
    seqs = [row[0] for row in journal.database.read(sql, (*parameters, flying))]
    if len(seqs) > _FEW:
        return span
    texts = receipt_rows(journal.database, "r.id, r.entries") if seqs else ()
    receipts = [
        i
        for i, text in texts
        if any(bisect_left(seqs, a) < bisect_right(seqs, b) for a, b in ranges_of(text) or ())
    ]
    of_few = (
        "json_each(?6) f CROSS JOIN entry e ON e.seq = f.value "
        "LEFT JOIN delivery d ON d.seq = e.seq"
    )
    return span._replace(
        entries=json.dumps(seqs), source=of_few, condition="1", receipts=json.dumps(receipts)
    )


def _events(span: _Span, source: int, read: _Read, after: Position) -> Iterator[Event]:
    """Yield one source in order; pages grow, since each costs a scan."""
    number = (
        after.number if source == after.source else (SEQ_MAX if source < after.source else _NS_MIN)
    )
    place = (after.at_ns, number)
    size = _FIRST_PAGE
    while True:
        keys, events = read(span, source, place, size)
        if not keys:
            return
        # A crafted journal may have times that are no integers.
        yield from (event for event in events if isinstance(event.at_ns, int))
        place = keys[-1]
        size = min(2 * size, _PAGE_MAX)


def _keys(
    span: _Span,
    table: str,
    time: str,
    number: str,
    condition: str,
    place: tuple[int, int],
    size: int,
    sixth: str | None = None,
) -> list[tuple[int, int]]:
    """Read the next (time, number) pairs of a source.

    The SQL's parameters:

    - ?1 to ?5: those of ``Choice.condition``;
    - ?6: ``_Span.entries``, or ``sixth`` instead;
    - ?7, ?8: the place;
    - ?9: the end;
    - ?10: the size.
    """
    sql = (
        f"SELECT {time}, {number} FROM {table} WHERE {time} >= ?7 AND {time} < ?9 "
        f"AND ({time} > ?7 OR {number} > ?8) AND ({condition}) ORDER BY 1, 2 LIMIT ?10"
    )
    return span.journal.database.read(
        sql,
        (*span.parameters, span.entries if sixth is None else sixth, *place, span.until_ns, size),
    )


def _started(
    span: _Span, source: int, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    condition = (
        "1"
        if span.of_all
        else f"w.id IN (SELECT e.writer_id FROM {span.source} WHERE {span.condition})"
    )
    keys = _keys(span, "writer w", "w.started_at_ns", "w.id", condition, place, size)
    known = writer_records.writers(span.journal.database) if keys else {}
    return keys, (
        Event(Position(at, source, i), at, "started", writer=known[i])
        for at, i in keys
        if i in known
    )


def _recorded(
    span: _Span, source: int, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    table, condition = ("entry e", "1") if span.of_all else (span.source, span.condition)
    keys = _keys(span, table, "e.recorded_at_ns", "e.seq", condition, place, size)
    return keys, _of_entries(span, source, keys, lambda _: "recorded")


def _settled(
    span: _Span, source: int, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    table, condition = ("delivery d", "1") if span.of_all else (span.source, span.condition)
    keys = _keys(span, table, "d.settled_at_ns", "d.seq", condition, place, size)
    return keys, _of_entries(
        span,
        source,
        keys,
        lambda entry: "superseded" if entry.superseded else _OUTCOMES.get(entry.state, "settled"),
    )


def _of_entries(
    span: _Span, source: int, keys: _Keys, named: Callable[[AuditedEntry], EventKind]
) -> Iterator[Event]:
    for start in range(0, len(keys), _FIRST_PAGE):
        part = keys[start : start + _FIRST_PAGE]
        found = entries_in(span.journal, [seq for _, seq in part])
        for at_ns, seq in part:
            entry = found.get(seq)
            # A crafted journal may have settlements of entries that it does not have.
            if entry is not None:
                yield Event(
                    Position(at_ns, source, seq), at_ns, named(entry), entry.component, entry=entry
                )


def _sent(
    span: _Span, source: int, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    return _receipts(
        span, source, "r.started_at_ns", f"r.action NOT IN ({_NO_REQUESTS})", place, size
    )


def _answered(
    span: _Span, source: int, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    return _receipts(span, source, "r.finished_at_ns", "1", place, size)


def _receipts(
    span: _Span, source: int, time: str, condition: str, place: tuple[int, int], size: int
) -> tuple[_Keys, Iterator[Event]]:
    of_component = "(?1 IS NULL OR r.component_id IN (SELECT value FROM json_each(?1)))"
    of_few = "r.id IN (SELECT value FROM json_each(?6))" if span.receipts is not None else "1"
    keys = _keys(
        span,
        "receipt r",
        time,
        "r.id",
        f"{condition} AND {of_component} AND {of_few}",
        place,
        size,
        span.receipts,
    )
    return keys, _of_receipts(span, source, keys, sent=_PAGES[source] is _sent)


def _of_receipts(span: _Span, source: int, keys: _Keys, *, sent: bool) -> Iterator[Event]:
    database = span.journal.database
    names = {row.id: row.name for row in span.journal.components()}
    for start in range(0, len(keys), _FIRST_PAGE):
        part = keys[start : start + _FIRST_PAGE]
        found = receipts_in(database, [receipt_id for _, receipt_id in part])
        about = (
            _about_chosen(span, found)
            if span.choice.of_entries and span.receipts is None
            else found.keys()
        )
        for at_ns, receipt_id in part:
            if receipt_id in about:
                receipt = found[receipt_id]
                event: EventKind = "sent" if sent else _DECISIONS.get(receipt.action, "answered")
                yield Event(
                    Position(at_ns, source, receipt_id),
                    at_ns,
                    event,
                    _name(names, receipt.component_id),
                    receipt=receipt,
                )


def _name(names: Mapping[int, str], component_id: int | None) -> str | None:
    return None if component_id is None else names.get(component_id)


def _about_chosen(span: _Span, receipts: Mapping[int, ReceiptRecord]) -> set[int]:
    """Return the ids of the receipts that name a chosen entry."""
    named = [
        (receipt.id, first, last)
        for receipt in receipts.values()
        for first, last in ranges_of(receipt.entries) or ()
    ]
    sql = (
        "SELECT json_extract(n.value, '$[0]') FROM json_each(?7) n WHERE EXISTS (SELECT 1 "
        f"FROM {span.source} WHERE {span.condition} "
        "AND e.seq BETWEEN json_extract(n.value, '$[1]') AND json_extract(n.value, '$[2]'))"
    )
    return {
        row[0]
        for row in span.journal.database.read(
            sql, (*span.parameters, span.entries, json.dumps(named))
        )
    }


_PAGES: Final[tuple[_Read, ...]] = (_started, _recorded, _sent, _answered, _settled)
"""The sources, in the order of events of the same time."""
