"""The history of a key: every value of a parameter, an artifact or the status, in order, with who changed it from what. Prints nothing.

Reads all but metrics through their index, a component after the other, a page at a time.

One order of all that happened: writers that started, entries, requests and their answers, settlements, decisions. Prints nothing.

Five sources, each read in the order of its times a page at a time, merged as they come: memory does not grow with the
journal. No index is in the order of time (it would slow every append): a page costs a scan of its table (0.1 s for
1,000,000 entries), and pages grow so that there are few. What has no time (a crafted journal) can't be placed, and is left out.

A place in the order is a *position*: time, source, number. A page that begins after the position of the one before
neither repeats nor leaves out anything, unless something is recorded with a time that has been passed already.
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

from journaltrack.journal import entries as vocabulary
from journaltrack.journal import view, writers
from journaltrack.journal.writers import WriterRecord
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.statements import READBACK, REOPEN
from journaltrack.reports.entries import SOURCES, AuditedEntry, Choice, entries_in, entries_where, names, nothing
from journaltrack.reports.entry import NO_REQUESTS, RELEASE, ReceiptRecord, ranges_of, receipt_rows, receipts_in
from journaltrack.util.intervals import SEQ_MAX

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

KeyKind: TypeAlias = Literal["parameter", "input", "output", "status"]
KINDS: Final[tuple[KeyKind, ...]] = ("parameter", "input", "output", "status")
STATUS_NAME: Final = "status"
"""What the status of a component is asked for as: its entries have no name."""
_VALUES: Final = ("exact", "text", "value", "sha256", "primary")


@dataclass(frozen=True, slots=True)
class Revision:
    """One value of a key.

    Attributes:
        entry: The entry that says so: when, who, and whether it arrived.
        value: As recorded; of a status, all that the call set.
        earlier_seq, earlier: The entry of the same key before, and its value; None for the first one.
        changed: Whether the value is another one than before (true for the first one).
    """

    entry: AuditedEntry
    value: Any
    earlier_seq: int | None
    earlier: Any
    changed: bool


def value_of(entry: AuditedEntry) -> Any:  # noqa: ANN401 - whatever was recorded
    """What an entry recorded: a number, or what stands for it: text, a URI, a digest; of a status all that it set."""
    if entry.kind == vocabulary.STATUS:
        return dict(entry.detail)
    if entry.value is not None:
        return entry.value
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
    """Every value of a key, component by component, in the order of recording.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        name: Of the parameter, input or output, exactly; "status" is also the component's status.
        kind: Only keys of this kind; None: whatever has the name.
        component: Shell pattern of component names (case does not matter); None: all.
        since_ns: Only values recorded since then, nanoseconds since the epoch; what they changed is told all the same.
        until_ns: Only values recorded before.

    Raises:
        JournalError: It can't be read.
    """
    condition = (
        "e.stream <> 'metric' AND e.component_id = ?3 AND (?4 IS NULL OR e.kind = ?4) AND "
        f"(e.kind IN ('parameter', 'input', 'output') AND e.name = ?5 OR e.kind = 'status' AND ?5 = '{STATUS_NAME}')"
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
    """See whether there is such a key among what is chosen.

    Raises:
        NothingMatchesError: There is none: an empty history would look like a key that was never set.
    """
    known = names(journal, choice, "e.kind IN ('parameter', 'input', 'output')")
    if name not in {STATUS_NAME, *known}:
        raise nothing(journal, f"no {choice.kind or 'parameter, input or output'}", name, [*known, STATUS_NAME])


def _components(journal: Journal, component: str | None) -> list[int]:
    chosen = view.matching(journal, component)
    wanted = None if chosen is None else set(json.loads(chosen))
    return [row.id for row in journal.components() if wanted is None or row.id in wanted]


def _revision(entry: AuditedEntry, before: AuditedEntry | None) -> Revision:
    value = value_of(entry)
    if before is None:
        return Revision(entry, value, None, None, changed=True)
    earlier = value_of(before)
    return Revision(entry, value, before.seq, earlier, _shape(entry, value) != _shape(before, earlier))


def _shape(entry: AuditedEntry, value: object) -> tuple[object, ...]:
    """What makes two values the same: number and text differ even when they look alike, and so do media types."""
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
    return (since_ns is None or recorded_at_ns >= since_ns) and (until_ns is None or recorded_at_ns < until_ns)


EventKind: TypeAlias = Literal[
    "started", "recorded", "sent", "answered", "released", "read back", "decided", "repaired",
    "delivered", "superseded", "in doubt", "quarantined", "settled",
]  # fmt: skip
_Keys: TypeAlias = "Sequence[tuple[int, int]]"
_Read: TypeAlias = "Callable[[_Span, int, tuple[int, int], int], tuple[_Keys, Iterator[Event]]]"
_FIRST_PAGE: Final = 500
_PAGE_MAX: Final = 20_000
_FEW: Final = 5_000
"""Chosen entries that are looked up once instead of for each page."""
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


class Position(NamedTuple):
    """A place in the order: time, then source (writers, entries, requests, answers, settlements), then number."""

    at_ns: int
    source: int
    number: int

    def __str__(self) -> str:
        """As ``position`` takes it."""
        return f"{self.at_ns}.{self.source}.{self.number}"


START: Final = Position(_NS_MIN, -1, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        position: Its place; ``timeline(..., after=position)`` goes on behind it.
        at_ns: When, nanoseconds since the epoch.
        event: "started" (``writer``); "recorded" (``entry``); "sent" and "answered" (``receipt``), or "released", "read back",
            "decided", "repaired"; and what became of an ``entry``: "delivered", "superseded", "in doubt", "quarantined"; "settled" for
            an outcome that this version does not know.
        component: Of what it is about.
        writer, entry, receipt: What it is about.
    """

    position: Position
    at_ns: int
    event: EventKind
    component: str | None = None
    writer: WriterRecord | None = None
    entry: AuditedEntry | None = None
    receipt: ReceiptRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it: the position as text, and only what it is about."""
        converted: dict[str, Any] = view.to_json(replace(self, position=START))
        return {**{key: value for key, value in converted.items() if value is not None}, "position": str(self.position)}


class _Span(NamedTuple):
    """Which events are asked for.

    Attributes:
        parameters: Of ``Choice.condition``.
        entries: What ?6 is to queries of entries: what is in flight or, of few chosen entries, their numbers.
        source, condition: From what, and on which condition, the chosen entries are read.
        receipts: Of few chosen entries: the numbers of the receipts that name one of them, as a JSON array.
        until_ns: Events before.
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
        """Whether every entry is chosen."""
        return self.choice.component is None and not self.choice.of_entries


def position(text: str) -> Position:
    """From text as ``str(Position)`` makes it.

    Raises:
        ValueError: It is none.
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
    """All that happened, in order of time; at one time writers, entries, requests, answers and settlements come in that order.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        choice: Of entries, and with them the writers, requests and settlements that are about them; its times are those of the
            events themselves.
        after: The position of the last event of the page before.
        limit: Events at most.

    Raises:
        JournalError: It can't be read.
    """
    choice = choice or Choice()
    with view.opened(journal) as own:
        span = _span(own, choice)
        if choice.since_ns is not None:
            after = max(after, Position(choice.since_ns, -1, 0))
        sources = [_events(span, source, read, after) for source, read in enumerate(_PAGES)]
        yield from islice(heapq.merge(*sources, key=attrgetter("position")), limit)


def _span(journal: Journal, choice: Choice) -> _Span:
    """Few chosen entries are looked up once, and the receipts that name them: what follows need not look for them again."""
    of_entries = replace(choice, since_ns=None, until_ns=None)
    parameters = of_entries.parameters(journal)
    source, condition = SOURCES[choice.state]
    until_ns = SEQ_MAX if choice.until_ns is None else choice.until_ns
    flying = view.in_flight(journal.database).json
    span = _Span(journal, choice, parameters, flying, source.replace("?8", "?6"), f"{condition} AND {of_entries.condition}", None, until_ns)
    if not choice.of_entries:
        return span
    sql = f"SELECT e.seq FROM {span.source} WHERE {span.condition} AND ?6 IS ?6 ORDER BY e.seq LIMIT {_FEW + 1}"  # ?6: always used
    seqs = [row[0] for row in journal.database.read(sql, (*parameters, flying))]
    if len(seqs) > _FEW:
        return span
    texts = receipt_rows(journal.database, "r.id, r.entries") if seqs else ()
    receipts = [i for i, text in texts if any(bisect_left(seqs, a) < bisect_right(seqs, b) for a, b in ranges_of(text) or ())]
    of_few = "json_each(?6) f CROSS JOIN entry e ON e.seq = f.value LEFT JOIN delivery d ON d.seq = e.seq"
    return span._replace(entries=json.dumps(seqs), source=of_few, condition="1", receipts=json.dumps(receipts))


def _events(span: _Span, source: int, read: _Read, after: Position) -> Iterator[Event]:
    """One source, in order; pages grow, since each costs a scan."""
    number = after.number if source == after.source else (SEQ_MAX if source < after.source else _NS_MIN)
    place = (after.at_ns, number)
    size = _FIRST_PAGE
    while True:
        keys, events = read(span, source, place, size)
        if not keys:
            return
        yield from (event for event in events if isinstance(event.at_ns, int))  # a crafted time may lie between two numbers
        place = keys[-1]
        size = min(2 * size, _PAGE_MAX)


def _keys(
    span: _Span, table: str, time: str, number: str, condition: str, place: tuple[int, int], size: int, sixth: str | None = None
) -> list[tuple[int, int]]:
    """The next (time, number) of a source. Parameters: those of ``Choice.condition``; ?6 as ``_Span.entries``; ?7 and ?8 the place, ?9 the end."""
    sql = (
        f"SELECT {time}, {number} FROM {table} WHERE {time} >= ?7 AND {time} < ?9 AND ({time} > ?7 OR {number} > ?8) "
        f"AND ({condition}) ORDER BY 1, 2 LIMIT ?10"
    )
    return span.journal.database.read(sql, (*span.parameters, span.entries if sixth is None else sixth, *place, span.until_ns, size))


def _started(span: _Span, source: int, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    condition = "1" if span.of_all else f"w.id IN (SELECT e.writer_id FROM {span.source} WHERE {span.condition})"
    keys = _keys(span, "writer w", "w.started_at_ns", "w.id", condition, place, size)
    known = writers.writers(span.journal.database) if keys else {}
    return keys, (Event(Position(at, source, i), at, "started", writer=known[i]) for at, i in keys if i in known)


def _recorded(span: _Span, source: int, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    table, condition = ("entry e", "1") if span.of_all else (span.source, span.condition)
    keys = _keys(span, table, "e.recorded_at_ns", "e.seq", condition, place, size)
    return keys, _of_entries(span, source, keys, lambda _: "recorded")


def _settled(span: _Span, source: int, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    table, condition = ("delivery d", "1") if span.of_all else (span.source, span.condition)
    keys = _keys(span, table, "d.settled_at_ns", "d.seq", condition, place, size)
    return keys, _of_entries(span, source, keys, lambda entry: "superseded" if entry.superseded else _OUTCOMES.get(entry.state, "settled"))


def _of_entries(span: _Span, source: int, keys: _Keys, named: Callable[[AuditedEntry], EventKind]) -> Iterator[Event]:
    for start in range(0, len(keys), _FIRST_PAGE):
        part = keys[start : start + _FIRST_PAGE]
        found = entries_in(span.journal, [seq for _, seq in part])
        for at_ns, seq in part:
            entry = found.get(seq)
            if entry is not None:  # a settlement may be of an entry that is not there
                yield Event(Position(at_ns, source, seq), at_ns, named(entry), entry.component, entry=entry)


def _sent(span: _Span, source: int, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    return _receipts(span, source, "r.started_at_ns", f"r.action NOT IN ({_NO_REQUESTS})", place, size)


def _answered(span: _Span, source: int, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    return _receipts(span, source, "r.finished_at_ns", "1", place, size)


def _receipts(span: _Span, source: int, time: str, condition: str, place: tuple[int, int], size: int) -> tuple[_Keys, Iterator[Event]]:
    of_component = "(?1 IS NULL OR r.component_id IN (SELECT value FROM json_each(?1)))"
    of_few = "r.id IN (SELECT value FROM json_each(?6))" if span.receipts is not None else "1"
    keys = _keys(span, "receipt r", time, "r.id", f"{condition} AND {of_component} AND {of_few}", place, size, span.receipts)
    return keys, _of_receipts(span, source, keys, sent=_PAGES[source] is _sent)


def _of_receipts(span: _Span, source: int, keys: _Keys, *, sent: bool) -> Iterator[Event]:
    database = span.journal.database
    names = {row.id: row.name for row in span.journal.components()}
    for start in range(0, len(keys), _FIRST_PAGE):
        part = keys[start : start + _FIRST_PAGE]
        found = receipts_in(database, [receipt_id for _, receipt_id in part])
        about = _about_chosen(span, found) if span.choice.of_entries and span.receipts is None else found.keys()
        for at_ns, receipt_id in part:
            if receipt_id in about:
                receipt = found[receipt_id]
                event: EventKind = "sent" if sent else _DECISIONS.get(receipt.action, "answered")
                yield Event(Position(at_ns, source, receipt_id), at_ns, event, _name(names, receipt.component_id), receipt=receipt)


def _name(names: Mapping[int, str], component_id: int | None) -> str | None:
    return None if component_id is None else names.get(component_id)


def _about_chosen(span: _Span, receipts: Mapping[int, ReceiptRecord]) -> set[int]:
    """Those that name an entry of the choice."""
    named = [(receipt.id, first, last) for receipt in receipts.values() for first, last in ranges_of(receipt.entries) or ()]
    sql = (
        "SELECT json_extract(n.value, '$[0]') FROM json_each(?7) n WHERE EXISTS (SELECT 1 FROM "
        f"{span.source} WHERE {span.condition} AND e.seq BETWEEN json_extract(n.value, '$[1]') AND json_extract(n.value, '$[2]'))"
    )
    return {row[0] for row in span.journal.database.read(sql, (*span.parameters, span.entries, json.dumps(named)))}


_NO_REQUESTS: Final = ", ".join(f"'{action}'" for action in sorted(NO_REQUESTS))
_PAGES: Final[tuple[_Read, ...]] = (_started, _recorded, _sent, _answered, _settled)
"""The sources, in the order of events of one time."""
