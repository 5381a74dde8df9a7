"""Single entries with what became of each: the audit's long form, a page at a time. Prints nothing, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack import report
from journaltrack.report import InFlight, State

if TYPE_CHECKING:
    from journaltrack.journal import Journal

PAGE_ENTRIES: Final = 5_000

_CONDITIONS: Final[dict[State, str]] = {
    "pending": "d.seq IS NULL",
    "in flight": "d.seq IS NULL",
    "delivered": "d.outcome IN ('delivered', 'superseded')",
    "in doubt": "d.outcome = 'in doubt'",
    "quarantined": "d.outcome = 'quarantined'",
}
_SELECT: Final = (
    "SELECT e.seq, c.name, e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, e.recorded_at_ns, d.outcome, "
    "d.seq IS NULL, d.settled_at_ns, d.reason, d.receipt_id, r.action, r.request_id, r.attempts, r.error_code, "
    "e.writer_id, w.host, w.user, w.pid, w.program FROM entry e LEFT JOIN component c ON c.id = e.component_id "
    "LEFT JOIN delivery d ON d.seq = e.seq LEFT JOIN receipt r ON r.id = d.receipt_id LEFT JOIN writer w ON w.id = e.writer_id "
    "WHERE e.seq > ?1 AND (?2 IS NULL OR e.component_id IN (SELECT value FROM json_each(?2))) "
    "AND (?3 IS NULL OR e.kind = ?3) "
)


@dataclass(frozen=True, slots=True)
class AuditedEntry:
    """One entry and what became of it.

    Attributes:
        seq: Its place in the journal.
        component, stream, kind, name, value, step, timestamp_ns, detail, recorded_at_ns: As recorded.
        state: Where it is now; None for an outcome that this version does not know.
        superseded: Delivered by a later entry that overrides it, or by an earlier upload of the same content.
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
    after_seq: int = 0,
    limit: int = PAGE_ENTRIES,
) -> list[AuditedEntry]:
    """One page of entries in order of ``seq``; an empty one is the end.

    Args:
        journal: An open journal.
        component: Shell pattern of component names (case does not matter); None: all.
        state: Only entries in this state.
        kind: Only entries of this kind.
        after_seq: The last ``seq`` of the page before.
        limit: Entries in a page.
    """
    sql = f"{_SELECT}{f'AND {_CONDITIONS[state]} ' if state else ''}ORDER BY e.seq LIMIT ?4"
    with report.snapshot(journal.database):
        flying = report.in_flight(journal.database)
        ids = report.matching(journal, component)
        while rows := journal.database.read_page(sql, (after_seq, ids, kind, limit)):
            found = [_audited(row, flying) for row in rows]
            chosen = found if state is None else [entry for entry in found if entry.state == state]
            if chosen:
                return chosen
            after_seq = rows[-1][0]  # all of the page that is not settled is in the other of the two states
    return []


def each_entry(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    state: State | None = None,
    kind: str | None = None,
) -> Iterator[AuditedEntry]:
    """All pages of ``entries_of`` one after the other, in constant memory."""
    with report.opened(journal) as own:
        after_seq = 0
        while page := entries_of(own, component=component, state=state, kind=kind, after_seq=after_seq):
            yield from page
            after_seq = page[-1].seq


def _audited(row: tuple[Any, ...], flying: InFlight) -> AuditedEntry:
    seq, component, stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns, outcome, unsettled, *rest = row
    return AuditedEntry(
        seq,
        component,
        stream,
        kind,
        name,
        value,
        step,
        timestamp_ns,
        report.detail_of(payload),
        recorded_at_ns,
        report.state_of(outcome, flying=bool(unsettled) and flying.names(seq)),
        outcome == "superseded",
        *rest,
    )
