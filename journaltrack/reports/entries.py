"""Read single entries with what became of each.

``entries_of`` is the audit's long form, a page at a time.

The module reads the journal. It prints nothing and changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import queries, view
from journaltrack.journal.filter import Choice
from journaltrack.journal.view import InFlight, State

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

PAGE_ENTRIES: Final = 5_000
_ALL: Final = 2**63

# What drives each query: problems have an index, and few receipts name what is in flight. All else
# scans the entries (0.1 s for 1,000,000) and joins only those that are chosen.
_ENTRIES: Final = "entry e LEFT JOIN delivery d ON d.seq = e.seq"
_PROBLEMS: Final = "delivery d CROSS JOIN entry e ON e.seq = d.seq"
_FLYING: Final = (
    "json_each(?8) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
    "AND json_extract(i.value, '$[1]') LEFT JOIN delivery d ON d.seq = e.seq"
)
SOURCES: Final[dict[State | None, tuple[str, str]]] = {
    None: (_ENTRIES, "1"),
    "pending": (_ENTRIES, "d.seq IS NULL"),
    "in flight": (_FLYING, "d.seq IS NULL"),
    "delivered": (_ENTRIES, queries.ARRIVED),
    "in doubt": (_PROBLEMS, queries.IN_DOUBT),
    "quarantined": (_PROBLEMS, queries.QUARANTINED),
}
"""What to read for a state, and on which condition. ?8 is what is in flight."""
_COLUMNS: Final = (
    "e.seq, c.name, e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
    "e.recorded_at_ns, d.outcome, d.seq IS NULL, d.settled_at_ns, d.reason, d.receipt_id, "
    "r.action, r.request_id, r.attempts, r.error_code, e.writer_id, w.host, w.user, w.pid, "
    "w.program"
)
_JOINED: Final = (
    "LEFT JOIN component c ON c.id = e.component_id LEFT JOIN receipt r ON r.id = d.receipt_id "
    "LEFT JOIN writer w ON w.id = e.writer_id"
)


@dataclass(frozen=True, slots=True)
class AuditedEntry:
    """One entry and what became of it.

    Attributes:
        seq: Its place in the journal.
        component, stream, kind, name, value, step, timestamp_ns, detail, recorded_at_ns: As
            recorded.
        state: Its present state; None for an outcome that this version does not know.
        superseded: Whether a later entry that overrides it, or an earlier upload of the same
            content, delivered it.
        settled_at_ns, reason: When it was settled, and why if it was not simply delivered.
        receipt_id, action, request_id, attempts, code: The request that settled it.
        writer_id, host, user, pid, program: The process that recorded it.
    """

    seq: int
    component: str | None
    stream: str
    kind: str
    name: str | None
    value: float | None
    step: int | None
    timestamp_ns: int | None
    detail: dict[str, Any]
    recorded_at_ns: int
    state: State | None
    superseded: bool
    settled_at_ns: int | None
    reason: str | None
    receipt_id: int | None
    action: str | None
    request_id: str | None
    attempts: int | None
    code: str | None
    writer_id: int
    host: str | None
    user: str | None
    pid: int | None
    program: str | None


def entries_of(
    journal: Journal,
    *,
    component: str | None = None,
    state: State | None = None,
    kind: str | None = None,
    name: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after_seq: int = 0,
    limit: int = PAGE_ENTRIES,
) -> list[AuditedEntry]:
    """Return one page of entries in order of ``seq``; an empty page is the end.

    Args:
        journal: An open journal.
        component: Shell pattern of component names (case does not matter); None for all.
        state: Only entries in this state.
        kind: Only entries of this kind.
        name: Shell pattern of entries' names (case matters).
        since_ns: Only entries recorded since then, nanoseconds since the epoch.
        until_ns: Only entries recorded before then.
        after_seq: The last ``seq`` of the previous page.
        limit: The maximum number of entries in a page. Huge entries make it shorter.
    """
    choice = Choice(component, kind, name, state, since_ns, until_ns)
    source, condition = SOURCES[state]
    sql = (
        f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE e.seq > ?6 AND {condition} "
        f"AND {choice.condition} ORDER BY e.seq LIMIT ?7"
    )
    with view.snapshot(journal.database):
        flying = view.in_flight(journal.database)
        chosen_by = choice.parameters(journal)
        of_source = (flying.json,) if "?8" in source else ()
        while rows := journal.database.read_page(sql, (*chosen_by, after_seq, limit, *of_source)):
            found = [_audited(row, flying) for row in rows]
            chosen = found if state is None else [entry for entry in found if entry.state == state]
            if chosen:
                return chosen
            # Everything unsettled in the page is in the other one of the two unsettled states.
            after_seq = rows[-1][0]
    return []


def each_entry(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    state: State | None = None,
    kind: str | None = None,
    name: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after_seq: int = 0,
    limit: int | None = None,
) -> Iterator[AuditedEntry]:
    """Yield all pages of ``entries_of`` in constant memory.

    At most ``limit`` entries come; None means all.
    """
    left = _ALL if limit is None else limit
    with view.opened(journal) as own:
        while left > 0:
            page = entries_of(
                own,
                component=component,
                state=state,
                kind=kind,
                name=name,
                since_ns=since_ns,
                until_ns=until_ns,
                after_seq=after_seq,
                limit=min(left, PAGE_ENTRIES),
            )
            if not page:
                return
            yield from page
            left -= len(page)
            after_seq = page[-1].seq


def unsettled(
    journal: Journal | str | os.PathLike[str] | None = None, *, component: str | None = None
) -> tuple[bool, bool]:
    """Return whether entries are unsettled; far cheaper than the whole report.

    It looks for pending entries above the low-water mark alone, as ``status`` does. The whole
    report counts every entry.

    Returns:
        Whether any entry is pending or in flight, and whether any is quarantined or in doubt.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        choice = Choice(component)
        sql = "SELECT e.seq FROM {0} WHERE {1} AND " + choice.condition + " LIMIT ?6"
        asked = (*choice.parameters(own), 1)
        pending = own.database.read(
            sql.format(_ENTRIES, f"{queries.LOOKED_AT} AND d.seq IS NULL"), asked
        )
        problems = own.database.read(sql.format(_PROBLEMS, queries.PROBLEM), asked)
        return bool(pending), bool(problems)


def entries_where(
    journal: Journal, condition: str, parameters: tuple[Any, ...]
) -> Iterator[AuditedEntry]:
    """Yield entries in order of ``seq`` by the caller's condition on ``e``.

    The condition's parameters begin with ?3. Entries are read a page at a time.
    """
    source, _ = SOURCES[None]
    sql = (
        f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE {condition} AND e.seq > ?1 "
        "ORDER BY e.seq LIMIT ?2"
    )
    after_seq = 0
    while True:
        with view.snapshot(journal.database):
            flying = view.in_flight(journal.database)
            rows = journal.database.read_page(sql, (after_seq, PAGE_ENTRIES, *parameters))
        if not rows:
            return
        for row in rows:
            yield _audited(row, flying)
        after_seq = rows[-1][0]


def entries_in(journal: Journal, seqs: Sequence[int]) -> dict[int, AuditedEntry]:
    """Return entries by ``seq``, without those that are not there."""
    return {
        entry.seq: entry
        for entry in entries_where(
            journal, "e.seq IN (SELECT value FROM json_each(?3))", (json.dumps(seqs),)
        )
    }


def entry_of(journal: Journal, seq: int) -> AuditedEntry | None:
    """Return one entry, or None if there is none.

    The caller holds a ``view.snapshot``.
    """
    source, _ = SOURCES[None]
    rows = journal.database.read(
        f"SELECT {_COLUMNS} FROM {source} {_JOINED} WHERE e.seq = ?", (seq,)
    )
    return _audited(rows[0], view.in_flight(journal.database)) if rows else None


def _audited(row: tuple[Any, ...], flying: InFlight) -> AuditedEntry:
    (
        seq,
        component,
        stream,
        kind,
        name,
        value,
        step,
        timestamp_ns,
        payload,
        recorded_at_ns,
        outcome,
        unsettled,
        *rest,
    ) = row
    return AuditedEntry(
        seq,
        component,
        stream,
        kind,
        name,
        value,
        step,
        timestamp_ns,
        view.detail_of(payload),
        recorded_at_ns,
        view.state_of(outcome, flying=bool(unsettled) and flying.names(seq)),
        outcome == "superseded",
        *rest,
    )
