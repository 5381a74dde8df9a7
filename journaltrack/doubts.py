"""Entries in doubt: which there are, what reading back told of them, and what a person decides.

The reconciling side of the journal, as ``settlement``: every write checks the lease in the same transaction, and leaves a
receipt. Must not know how a remote is asked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from journaltrack import limits, removed, schema
from journaltrack.actions import as_intervals, ranges
from journaltrack.attesting import Attestor, Settled, Statement
from journaltrack.readback import Doubt, Finding, Group, Known
from journaltrack.standing import PROBLEM

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.database import Database

READBACK: Final = "readback"
"""The action of receipts for what reading back told."""
SETTLE: Final = "settle"
"""The action of receipts for what a person decided."""

_METRICS_AT_ONCE: Final = 500
"""Ours: metrics summed up by one scan of a component's points; SQLite takes some more parameters."""
_INSERT_RECEIPT: Final = schema.insert_sql("receipt")
_IN_DOUBT: Final = (  # typeof: SQLite keeps any type in any column, and a journal may be crafted
    f"FROM delivery d JOIN entry e ON e.seq = d.seq JOIN component c ON c.id = e.component_id WHERE {PROBLEM} AND d.outcome = 'in doubt' "
    "AND e.stream = 'metric' AND typeof(e.value) = 'real' AND typeof(e.name) = 'text' AND typeof(d.settled_at_ns) = 'integer' "
    f"AND typeof(c.name) = 'text' AND (e.step IS NULL OR typeof(e.step) = 'integer' AND e.step BETWEEN 0 AND {limits.STEP_MAX})"
)
_OF_RECEIPT: Final = {"arrived": "delivered", "not arrived": "released", None: "in doubt"}


def to_ask(database: Database, *, now_ns: int, visible_after_s: float) -> dict[int, str]:
    """Components (id to name) with points in doubt that are worth asking for: not since they came, or not for a while."""
    rows = database.read(
        "SELECT e.component_id, c.name, max(d.settled_at_ns), "
        "(SELECT max(r.started_at_ns) FROM receipt r WHERE r.component_id = e.component_id AND r.action = ? "
        f"AND typeof(r.started_at_ns) = 'integer') {_IN_DOUBT} GROUP BY e.component_id",
        (READBACK,),
    )
    return {
        component_id: name
        for component_id, name, since_ns, asked_ns in rows
        if asked_ns is None or asked_ns < since_ns or not 0 <= now_ns - asked_ns < visible_after_s * 1e9
    }


def of_component(database: Database, component_id: int) -> list[Doubt]:
    """Its points in doubt."""
    rows = database.read(
        f"SELECT e.seq, e.name, e.value, e.step, d.settled_at_ns {_IN_DOUBT} AND e.component_id = ? ORDER BY e.seq",
        (component_id,),
    )
    return [Doubt(*row) for row in rows]


def acknowledged(database: Database, component_id: int, doubts: Iterable[Doubt]) -> dict[Group, Known | None]:
    """What is known to be there of the metrics (in all) and steps in doubt; two scans of the component's points.

    Points that were removed on the record count in all; of which steps they were is not known any more, and so nothing is of
    the steps among which they may be (None).
    """
    steps: dict[str, set[int]] = defaultdict(set)
    for doubt in doubts:
        steps[doubt.name].update(() if doubt.step is None else (doubt.step,))
    names = database.read("SELECT name FROM component WHERE id = ?", (component_id,))
    gone = {name: each for (_, name), each in removed.metrics(database, str(names[0][0]) if names else "").items()}
    known: dict[Group, Known | None] = {}
    asked = list(steps)
    for start in range(0, len(asked), _METRICS_AT_ONCE):
        known.update(_delivered(database, component_id, asked[start : start + _METRICS_AT_ONCE], steps))
    for name, before in gone.items():
        total = known.get((name, None))
        if total is None:
            continue
        known[name, None] = (
            None if before.at_least else Known(total.points + before.points, total.sum + before.sum, total.magnitude + before.magnitude)
        )
        known.update({(name, step): None for step in steps[name] if before.may_have(step)})
    return known


def _delivered(database: Database, component_id: int, names: Sequence[str], steps: Mapping[str, set[int]]) -> dict[Group, Known]:
    """Sum up what was delivered of a few metrics, in all and of the steps asked for: two scans, however many they are."""
    places = ", ".join("?" * len(names))
    sums = (
        "count(*), total(e.value), total(abs(e.value)) FROM entry e JOIN delivery d ON d.seq = e.seq "
        f"WHERE e.component_id = ? AND e.stream = 'metric' AND e.name IN ({places}) AND d.outcome = 'delivered'"
    )
    known: dict[Group, Known] = {(name, None): Known() for name in names}
    for name, *rest in database.read(f"SELECT e.name, {sums} GROUP BY e.name", (component_id, *names)):
        known[name, None] = Known(*rest)
    wanted = sorted({step for name in names for step in steps[name]})
    if wanted:
        sql = f"SELECT e.name, e.step, {sums} AND e.step IN (SELECT value FROM json_each(?)) GROUP BY e.name, e.step"
        for name, step, *rest in database.read(sql, (component_id, *names, json.dumps(wanted))):
            if step in steps[name]:
                known[name, step] = Known(*rest)
    return known


def record(attestor: Attestor, component_id: int, findings: Sequence[Finding], request_id: str | None) -> None:
    """Settle what was found out: what arrived is delivered, what did not is pending again, the rest says what was seen."""
    by_outcome: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_outcome[finding.outcome].append(finding)
    now_ns = attestor.clock_ns()
    with attestor.transaction() as connection:
        statements = []
        for outcome, group in by_outcome.items():
            reasons = {finding.seq: finding.reason for finding in group}
            statement = _receipt(connection, attestor, READBACK, component_id, list(reasons), now_ns, _OF_RECEIPT[outcome], request_id)
            if outcome == "not arrived":
                _make_pending(connection, list(reasons))
            elif outcome == "arrived":
                _settle(connection, "delivered", reasons, statement.receipt_id, now_ns)
                statement = statement._replace(settled=_settled("delivered", reasons))
            else:  # still in doubt, and since when as before
                connection.executemany("UPDATE delivery SET reason = ? WHERE seq = ?", [(reason, seq) for seq, reason in reasons.items()])
                statement = statement._replace(settled=_settled("in doubt", reasons))
            statements.append(statement)
        attestor.attest(connection, statements)


def decide(attestor: Attestor, outcome: Literal["delivered", "quarantined"], reason: str, component_ids: Sequence[int] | None) -> int:
    """Settle entries in doubt as a person says; returns how many. ``component_ids`` None: of all components."""
    now_ns = attestor.clock_ns()
    by_component: dict[int, list[int]] = defaultdict(list)
    with attestor.transaction() as connection:
        query = f"SELECT e.component_id, e.seq FROM delivery d JOIN entry e ON e.seq = d.seq WHERE {PROBLEM} AND d.outcome = 'in doubt' ORDER BY e.seq"
        for component_id, seq in connection.execute(query):
            if component_ids is None or component_id in component_ids:
                by_component[component_id].append(seq)
        statements = []
        for component_id, seqs in by_component.items():
            statement = _receipt(connection, attestor, SETTLE, component_id, seqs, now_ns, outcome, None)
            reasons = dict.fromkeys(seqs, reason)
            _settle(connection, outcome, reasons, statement.receipt_id, now_ns)
            statements.append(statement._replace(settled=_settled(outcome, reasons)))
        attestor.attest(connection, statements)
    return sum(map(len, by_component.values()))


def _receipt(
    connection: sqlite3.Connection,
    attestor: Attestor,
    action: str,
    component_id: int,
    seqs: Sequence[int],
    now_ns: int,
    outcome: str,
    request_id: str | None,
) -> Statement:
    """Record the receipt; what is to be attested of it."""
    generation, attempts = attestor.lease.generation, 1 if request_id else 0
    columns = (action, component_id, ranges(seqs), generation, now_ns, now_ns, outcome, attempts, request_id, None, None)
    receipt_id = int(connection.execute(_INSERT_RECEIPT, columns).lastrowid or 0)
    entries = as_intervals(seqs)
    return Statement(
        action, outcome, component_id, entries, now_ns, generation, (), receipt_id, now_ns, attempts=attempts, request_id=request_id
    )


def _settled(outcome: str, reasons: Mapping[int, str]) -> list[Settled]:
    by_reason: dict[str, list[int]] = defaultdict(list)
    for seq, reason in reasons.items():
        by_reason[reason].append(seq)
    return [Settled(outcome, reason, as_intervals(seqs)) for reason, seqs in by_reason.items()]


def _make_pending(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    connection.executemany("DELETE FROM delivery WHERE seq = ? AND outcome = 'in doubt'", [(seq,) for seq in seqs])
    connection.execute("UPDATE mark SET seq = min(seq, ?)", (max(min(seqs) - 1, 0),))


def _settle(connection: sqlite3.Connection, outcome: str, reasons: Mapping[int, str], receipt_id: int | None, now_ns: int) -> None:
    connection.executemany(
        "UPDATE delivery SET outcome = ?, reason = ?, receipt_id = ?, settled_at_ns = ? WHERE seq = ? AND outcome = 'in doubt'",
        [(outcome, reason, receipt_id, now_ns, seq) for seq, reason in reasons.items()],
    )
