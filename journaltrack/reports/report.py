"""Audit a journal: count what was recorded, by whom, and what became of it.

The module is not called ``audit``: the package exports a function of that name, and importing a
submodule replaces the package's attribute of the same name.

Invariants:

- Every entry is counted in exactly one state. The states are checked against an independent count.
- Whatever does not add up is named in ``inconsistencies``.
- SQLite aggregates everything in one snapshot. Memory grows with components, processes and kinds
  of problem, not with entries. An audit of 1,000,000 entries takes 2.5 s.
- The module reads the journal. It prints nothing and changes nothing.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal import interruption, removed, view
from journaltrack.journal.interruption import RunInProgress
from journaltrack.journal.queries import PROBLEM, UNSETTLED
from journaltrack.journal.removed import Removal
from journaltrack.journal.view import ErrorRecord, InFlight, State
from journaltrack.journal.vocabulary import KINDS
from journaltrack.journal.writer_records import WriterRecord, nobody, writers
from journaltrack.replay.evidence import anchors, taken
from journaltrack.replay.evidence.anchors import Anchor
from journaltrack.replay.evidence.taken import TAKEN, Unfinished
from journaltrack.reports.proof.hearsay import Hearsay, told

if TYPE_CHECKING:
    from journaltrack.journal.journal import ComponentRow, Journal
    from journaltrack.journal.sqlite.connection import Database

PROBLEMS_MAX: Final = 1_000
"""Our limit: groups of problems in a report. Further entries count in ``problems_omitted``."""
RECONCILERS_MAX: Final = 1_000
"""Our limit: (user, host) pairs in a report. A crafted journal may name any number."""
_OF_COMPONENTS: Final = "(?1 IS NULL OR {0} IN (SELECT value FROM json_each(?1)))"


@dataclass(frozen=True, slots=True)
class ReconcilerRecord:
    """A user on a host who synced, retried, settled or merged.

    Attributes:
        processes: How many processes attested something there.
        attestations: How many attestations they made.
        first_started_at_ns, last_started_at_ns: When the first and the last process started.
    """

    host: str
    user: str
    processes: int
    attestations: int
    first_started_at_ns: int
    last_started_at_ns: int


def reconcilers(database: Database) -> tuple[ReconcilerRecord, ...]:
    """Return who synced the journal or a copy of it.

    They come in the order of their first attestation here. Processes of format 0001 attested
    nothing, so they are missing. A process that only took over what others attest is left out.
    """
    rows = database.read(
        "SELECT w.host, w.user, count(DISTINCT w.id), count(*), min(w.started_at_ns), "
        "max(w.started_at_ns) FROM attestation a JOIN writer w ON w.id = a.writer_id "
        "WHERE a.id NOT IN (SELECT t.id FROM receipt r JOIN attestation t ON t.receipt_id = r.id "
        "WHERE r.component_id IS NULL AND r.action = ?) AND a.id NOT IN (SELECT id "
        "FROM attestation WHERE receipt_id IS NULL AND substr(body, 1, 17) = ?) "
        "GROUP BY w.host, w.user ORDER BY min(a.id) LIMIT ?",
        (TAKEN, f'{{"action":"{TAKEN}"', RECONCILERS_MAX),
    )
    return tuple(ReconcilerRecord(str(host), str(user), *rest) for host, user, *rest in rows)


@dataclass(frozen=True, slots=True)
class States:
    """How many entries are in which state.

    ``entries`` is the sum of the other states. ``superseded`` is part of ``delivered``.
    """

    entries: int = 0
    pending: int = 0
    in_flight: int = 0
    delivered: int = 0
    superseded: int = 0
    in_doubt: int = 0
    quarantined: int = 0

    def plus(self, other: States) -> States:
        """Add two counts."""
        return States(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def adds_up(self) -> bool:
        """Return whether every entry is in exactly one state."""
        settled = self.delivered + self.in_doubt + self.quarantined
        return (
            self.entries == self.pending + self.in_flight + settled
            and self.superseded <= self.delivered
        )


@dataclass(frozen=True, slots=True)
class KindStates:
    """The states of one kind of entry."""

    stream: str
    kind: str
    states: States


@dataclass(frozen=True, slots=True)
class ReceiptGroup:
    """Requests of one action with one outcome.

    The outcome is "unfinished" while no answer is recorded.
    """

    action: str
    outcome: str
    receipts: int
    attempts: int
    first_started_at_ns: int | None
    last_finished_at_ns: int | None
    first_request_id: str | None
    last_request_id: str | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Entries of one name that are quarantined or in doubt for one reason."""

    state: State
    kind: str
    name: str | None
    reason: str | None
    code: str | None
    request_id: str | None
    entries: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class ComponentAudit:
    """One trial component.

    Attributes:
        name, arn, confirmed_at_ns: As SageMaker knows it. ARN and time are None until confirmed.
        origins: How it came to be here: "created", "resumed", "loaded", "job".
        states: The states of all its entries.
        kinds: The states by stream and kind.
        first_recorded_at_ns, last_recorded_at_ns: When its entries were recorded.
        first_delivered_at_ns, last_delivered_at_ns: When its delivered entries were settled.
        writers: The processes that recorded it.
        receipts: The requests made for it.
        problems: What is quarantined or in doubt, and why.
        last_error: What its last failed request said, while entries are pending and no delivery has
            overcome it. "held" in it means that a person must act.
        unknown_kinds: Kinds of entry that need a newer version. They stay pending.
        redacted: Names whose values were not recorded, see ``redact`` in the configuration.
        removed: Entries that were removed on the record. No other number here includes them.
        run: The state of a run in progress; None when it is over or never began.
    """

    name: str
    origins: tuple[str, ...]
    arn: str | None
    confirmed_at_ns: int | None
    states: States
    kinds: tuple[KindStates, ...] = ()
    first_recorded_at_ns: int | None = None
    last_recorded_at_ns: int | None = None
    first_delivered_at_ns: int | None = None
    last_delivered_at_ns: int | None = None
    writers: tuple[WriterRecord, ...] = ()
    receipts: tuple[ReceiptGroup, ...] = ()
    problems: tuple[Problem, ...] = ()
    last_error: ErrorRecord | None = None
    unknown_kinds: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    removed: int = 0
    run: RunInProgress | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The audit of a journal, or of some of its components.

    Attributes:
        journal_id, path, created_at_ns, created_by_version: Of the journal.
        totals: The states of all entries that are reported on.
        components: In order of their first mention.
        writers: The processes that recorded any of the entries.
        reconcilers: Who synced the journal or a copy of it, as far as it is known here.
        last_error: Of the journal's recent requests, as ``status`` has it.
        problems_omitted: Entries of problems beyond ``PROBLEMS_MAX`` groups.
        inconsistencies: What does not add up in a damaged or altered journal. Empty when all is
            well.
        removals: Delivered entries and spool contents that were removed on the record. No other
            number here includes those entries.
        hearsay: What counts as delivered only because others say so, of the whole journal.
        unfinished: Merges and imports of receipts that were killed. Until they run again, nothing
            is sent from this journal.
        anchor: The newest anchor that the journal knows of; None if its heads were never anchored.
    """

    journal_id: str
    path: str
    created_at_ns: int | None
    created_by_version: str | None
    totals: States
    components: tuple[ComponentAudit, ...]
    writers: tuple[WriterRecord, ...]
    reconcilers: tuple[ReconcilerRecord, ...]
    last_error: ErrorRecord | None
    problems_omitted: int
    inconsistencies: tuple[str, ...]
    removals: tuple[Removal, ...] = ()
    hearsay: tuple[Hearsay, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    anchor: Anchor | None = None

    @property
    def all_delivered(self) -> bool:
        """Return whether every entry is delivered and everything adds up."""
        return self.totals.delivered == self.totals.entries and not self.inconsistencies

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes, see ``journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        converted["all_delivered"] = self.all_delivered
        return converted


@dataclass(slots=True)
class _Tally:
    """The sums over the groups of one component."""

    kinds: dict[tuple[str, str], States] = field(default_factory=lambda: defaultdict(States))
    writers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    recorded: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)


def audit(
    journal: Journal | str | os.PathLike[str] | None = None, *, component: str | None = None
) -> AuditReport:
    """Report what a journal holds and what became of it.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        component: Shell pattern of component names (case does not matter); None for all.

    Raises:
        JournalError: The journal can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        return _audit(own, view.matching(own, component, displayed=True))


def _audit(journal: Journal, ids: str | None) -> AuditReport:
    database = journal.database
    flying = view.in_flight(database)
    wrong = [
        f"receipt {receipt_id} names entries that can't be read" for receipt_id in flying.unreadable
    ]
    tallies = _tally(database, flying, ids, wrong)
    wanted = None if ids is None else set(json.loads(ids))
    rows = [row for row in journal.components() if wanted is None or row.id in wanted]
    lost = tallies.keys() - {row.id for row in rows}
    wrong += [
        f"{_total([tallies[i]]).entries} entries belong to component {i}, which is not recorded"
        for i in sorted(lost, key=str)
    ]
    known = writers(database)
    recorders = _merged(tally.writers for tally in tallies.values())
    wrong += [
        f"{n} entries are of writer {i}, which is not recorded"
        for i, n in recorders.items()
        if i not in known
    ]
    problems, omitted = _problems(database, ids)
    receipts = _receipts(database, ids)
    redacted = _redacted(database, ids)
    removals = removed.removals(database)
    components = []
    for row in rows:
        tally = tallies.get(row.id, _Tally())
        found = _component(database, row, tally, _recorded_by(tally.writers, known))
        components.append(
            replace(
                found,
                problems=tuple(problems[row.id]),
                receipts=tuple(receipts[row.id]),
                redacted=tuple(redacted[row.id]),
                removed=sum(each.by_component.get(row.name, 0) for each in removals),
                run=interruption.of_component(journal, row.id, row.name),
            )
        )
    totals = _total(tallies.values())
    wrong += _inconsistencies(database, totals, ids)
    created_at_ns, created_by = database.read("SELECT created_at_ns, created_by_version FROM meta")[
        0
    ]
    return AuditReport(
        journal_id=journal.journal_id,
        path=str(journal.path),
        created_at_ns=created_at_ns,
        created_by_version=created_by,
        totals=totals,
        components=tuple(components),
        writers=_recorded_by(recorders, known),
        reconcilers=reconcilers(database),
        last_error=view.last_error(database),
        problems_omitted=omitted,
        inconsistencies=tuple(wrong),
        removals=tuple(removals),
        hearsay=tuple(each.hearsay for each in told(database)),
        unfinished=tuple(each.what for each in taken.unfinished(database)),
        anchor=anchors.last(database),
    )


def _tally(
    database: Database, flying: InFlight, ids: str | None, wrong: list[str]
) -> dict[int, _Tally]:
    """Count all entries in one pass, then move the few that are in flight."""
    tallies: dict[int, _Tally] = defaultdict(_Tally)
    groups = database.read(
        "SELECT e.component_id, e.writer_id, e.stream, e.kind, d.outcome, count(*), "
        "min(e.recorded_at_ns), max(e.recorded_at_ns), min(d.settled_at_ns), "
        "max(d.settled_at_ns) FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
        f"WHERE {_OF_COMPONENTS.format('e.component_id')} GROUP BY 1, 2, 3, 4, 5",
        (ids,),
    )
    for (
        component_id,
        writer_id,
        stream,
        kind,
        outcome,
        count,
        first,
        last,
        first_settled,
        last_settled,
    ) in groups:
        tally = tallies[component_id]
        tally.writers[writer_id] += count
        tally.recorded += [time_ns for time_ns in (first, last) if isinstance(time_ns, int)]
        state = view.state_of(outcome, flying=False)
        counted = States(entries=count)
        if state is None:
            wrong.append(
                f"{count} entries have the outcome {limits.shown(str(outcome))}, which this "
                "version does not know"
            )
        else:
            counted = replace(
                counted,
                **{state.replace(" ", "_"): count},
                superseded=count if outcome == "superseded" else 0,
            )
        if state == "delivered":
            tally.delivered += [
                time_ns for time_ns in (first_settled, last_settled) if isinstance(time_ns, int)
            ]
        tally.kinds[stream, kind] = tally.kinds[stream, kind].plus(counted)
    sent = database.read(
        "SELECT e.component_id, e.stream, e.kind, count(*) FROM json_each(?2) i "
        "CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
        f"AND json_extract(i.value, '$[1]') WHERE {_OF_COMPONENTS.format('e.component_id')} "
        f"AND {UNSETTLED} GROUP BY 1, 2, 3",
        (ids, flying.json),
    )
    for component_id, stream, kind, count in sent:
        kinds = tallies[component_id].kinds
        kinds[stream, kind] = kinds[stream, kind].plus(States(pending=-count, in_flight=count))
    return dict(tallies)


def _component(
    database: Database, row: ComponentRow, tally: _Tally, writers: tuple[WriterRecord, ...]
) -> ComponentAudit:
    states = _total([tally])
    waits = bool(states.pending or states.in_flight)
    return ComponentAudit(
        name=row.name,
        origins=view.origins(database, row.id),
        arn=row.arn,
        confirmed_at_ns=row.confirmed_at_ns,
        states=states,
        kinds=tuple(
            KindStates(stream, kind, counted) for (stream, kind), counted in tally.kinds.items()
        ),
        first_recorded_at_ns=min(tally.recorded, default=None),
        last_recorded_at_ns=max(tally.recorded, default=None),
        first_delivered_at_ns=min(tally.delivered, default=None),
        last_delivered_at_ns=max(tally.delivered, default=None),
        writers=writers,
        last_error=view.last_error(database, row.id) if waits else None,
        unknown_kinds=tuple(
            sorted(str(kind) for kind in {kind for _, kind in tally.kinds} - KINDS)
        ),
    )


def _problems(database: Database, ids: str | None) -> tuple[dict[int, list[Problem]], int]:
    rows = database.read(
        "SELECT g.*, (SELECT request_id FROM receipt WHERE id = g.last_id) "
        "FROM (SELECT e.component_id, d.outcome, e.kind, e.name, d.reason, r.error_code, "
        "count(*), min(d.seq), max(d.seq), max(r.id) AS last_id FROM delivery d "
        "JOIN entry e ON e.seq = d.seq LEFT JOIN receipt r ON r.id = d.receipt_id "
        f"WHERE {PROBLEM} AND {_OF_COMPONENTS.format('e.component_id')} "
        "GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY min(d.seq) LIMIT ?2) g",
        (ids, PROBLEMS_MAX),
    )
    problems: dict[int, list[Problem]] = defaultdict(list)
    listed = 0
    for component_id, state, kind, name, reason, code, count, first, last, _, request_id in rows:
        problems[component_id].append(
            Problem(state, kind, name, reason, code, request_id, count, first, last)
        )
        listed += count
    if len(rows) < PROBLEMS_MAX:
        return problems, 0
    (total,) = database.read(
        f"SELECT count(*) FROM delivery d JOIN entry e ON e.seq = d.seq WHERE {PROBLEM} "
        f"AND {_OF_COMPONENTS.format('e.component_id')}",
        (ids,),
    )[0]
    return problems, int(total) - listed


def _receipts(database: Database, ids: str | None) -> dict[int, list[ReceiptGroup]]:
    rows = database.read(
        "SELECT g.*, (SELECT request_id FROM receipt WHERE id = first_id), (SELECT request_id "
        "FROM receipt WHERE id = last_id) "
        "FROM (SELECT component_id, action, coalesce(outcome, 'unfinished'), count(*), "
        "cast(total(attempts) AS integer), min(started_at_ns), max(finished_at_ns), min(CASE "
        "WHEN request_id IS NOT NULL THEN id END) AS first_id, max(CASE "
        "WHEN request_id IS NOT NULL THEN id END) AS last_id FROM receipt "
        f"WHERE {_OF_COMPONENTS.format('component_id')} GROUP BY 1, 2, 3 ORDER BY 1, min(id)) g",
        (ids,),
    )
    groups: dict[int, list[ReceiptGroup]] = defaultdict(list)
    for (
        component_id,
        action,
        outcome,
        count,
        attempts,
        started,
        finished,
        _,
        _,
        first_id,
        last_id,
    ) in rows:
        groups[component_id].append(
            ReceiptGroup(action, outcome, count, attempts, started, finished, first_id, last_id)
        )
    return groups


def _redacted(database: Database, ids: str | None) -> dict[int, list[str]]:
    rows = database.read(
        "SELECT component_id, name FROM entry WHERE stream <> 'metric' "
        "AND kind IN ('parameter', 'input', 'output') AND CASE "
        "WHEN json_valid(payload) THEN json_extract(payload, '$.redacted') END = 1 "
        f"AND {_OF_COMPONENTS.format('component_id')} GROUP BY 1, 2 ORDER BY 1, 2 LIMIT ?2",
        (ids, PROBLEMS_MAX),
    )
    names: dict[int, list[str]] = defaultdict(list)
    for component_id, name in rows:
        names[component_id].append(str(name))
    return names


def _recorded_by(
    counts: Mapping[int, int], writers: Mapping[int, WriterRecord]
) -> tuple[WriterRecord, ...]:
    return tuple(
        replace(writers.get(i) or nobody(i), entries=counts[i]) for i in sorted(counts, key=_order)
    )


def _order(writer_id: object) -> tuple[bool, int, str]:
    """Sort by number; ids that are no number (a crafted journal) come last."""
    return (False, writer_id, "") if isinstance(writer_id, int) else (True, 0, str(writer_id))


def _inconsistencies(database: Database, totals: States, ids: str | None) -> list[str]:
    wrong = []
    (entries,) = database.read(
        f"SELECT count(*) FROM entry WHERE {_OF_COMPONENTS.format('component_id')}", (ids,)
    )[0]
    if entries != totals.entries or not totals.adds_up:
        wrong.append(f"the states do not add up to the {entries} entries: {totals}")
    (orphans,) = database.read(
        "SELECT count(*) FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM entry e "
        "WHERE e.seq = d.seq)"
    )[0]
    if orphans:
        wrong.append(f"{orphans} deliveries are of entries that are not there")
    (unproven,) = database.read(
        "SELECT count(*) FROM delivery d WHERE d.outcome = 'delivered' AND NOT EXISTS (SELECT 1 "
        "FROM receipt r WHERE r.id = d.receipt_id AND r.finished_at_ns IS NOT NULL)"
    )[0]
    if unproven:
        wrong.append(f"{unproven} entries count as delivered without a finished receipt")
    return wrong


def _total(tallies: Iterable[_Tally]) -> States:
    total = States()
    for tally in tallies:
        for counted in tally.kinds.values():
            total = total.plus(counted)
    return total


def _merged(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    merged: dict[int, int] = defaultdict(int)
    for each in counts:
        for key, count in each.items():
            merged[key] += count
    return merged
