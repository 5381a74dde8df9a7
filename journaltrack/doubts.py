"""Entries in doubt: which there are, what reading back told of them, and what a person decides.

The reconciling side of the journal, as ``settlement``: every write checks the lease in the same transaction, and leaves a
receipt. Must not know how a remote is asked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from journaltrack import limits, schema
from journaltrack.actions import ranges
from journaltrack.readback import Doubt, Finding, Group, Known

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.database import Database
    from journaltrack.lease import Lease

READBACK: Final = "readback"
"""The action of receipts for what reading back told."""
SETTLE: Final = "settle"
"""The action of receipts for what a person decided."""

_INSERT_RECEIPT: Final = schema.insert_sql(schema.receipt)
_IN_DOUBT: Final = (  # typeof: SQLite keeps any type in any column, and a journal may be crafted
    "FROM delivery d JOIN entry e ON e.seq = d.seq JOIN component c ON c.id = e.component_id WHERE d.outcome = 'in doubt' "
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


def acknowledged(database: Database, component_id: int, doubts: Iterable[Doubt]) -> dict[Group, Known]:
    """What is known to be there of the metrics (in all) and steps in doubt; one scan of the component's points."""
    steps: dict[str, set[int]] = defaultdict(set)
    for doubt in doubts:
        steps[doubt.name].update(() if doubt.step is None else (doubt.step,))
    known: dict[Group, Known] = {}
    for name, wanted in steps.items():
        of_metric = (
            "count(*), total(e.value), total(abs(e.value)) FROM entry e JOIN delivery d ON d.seq = e.seq "
            "WHERE e.component_id = ? AND e.stream = 'metric' AND e.name = ? AND d.outcome = 'delivered'"
        )
        known[name, None] = Known(*database.read(f"SELECT {of_metric}", (component_id, name))[0])
        if wanted:
            sql = f"SELECT e.step, {of_metric} AND e.step IN (SELECT value FROM json_each(?)) GROUP BY e.step"
            for step, *rest in database.read(sql, (component_id, name, json.dumps(sorted(wanted)))):
                known[name, step] = Known(*rest)
    return known


def record(
    database: Database, lease: Lease, component_id: int, findings: Sequence[Finding], request_id: str | None, clock_ns: Callable[[], int]
) -> None:
    """Settle what was found out: what arrived is delivered, what did not is pending again, the rest says what was seen."""
    by_outcome: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_outcome[finding.outcome].append(finding)
    now_ns = clock_ns()
    with database.transaction() as connection:
        lease.check(connection)
        for outcome, group in by_outcome.items():
            seqs = [finding.seq for finding in group]
            receipt_id = _receipt(connection, READBACK, component_id, seqs, lease.generation, now_ns, _OF_RECEIPT[outcome], request_id)
            if outcome == "not arrived":
                _make_pending(connection, seqs)
            elif outcome == "arrived":
                _settle(connection, "delivered", {f.seq: f.reason for f in group}, receipt_id, now_ns)
            else:
                connection.executemany("UPDATE delivery SET reason = ? WHERE seq = ?", [(f.reason, f.seq) for f in group])


def decide(
    database: Database,
    lease: Lease,
    outcome: Literal["delivered", "quarantined"],
    reason: str,
    component_ids: Sequence[int] | None,
    clock_ns: Callable[[], int],
) -> int:
    """Settle entries in doubt as a person says; returns how many. ``component_ids`` None: of all components."""
    now_ns = clock_ns()
    by_component: dict[int, list[int]] = defaultdict(list)
    with database.transaction() as connection:
        lease.check(connection)
        query = "SELECT e.component_id, e.seq FROM delivery d JOIN entry e ON e.seq = d.seq WHERE d.outcome = 'in doubt' ORDER BY e.seq"
        for component_id, seq in connection.execute(query):
            if component_ids is None or component_id in component_ids:
                by_component[component_id].append(seq)
        for component_id, seqs in by_component.items():
            receipt_id = _receipt(connection, SETTLE, component_id, seqs, lease.generation, now_ns, outcome, None)
            _settle(connection, outcome, dict.fromkeys(seqs, reason), receipt_id, now_ns)
    return sum(map(len, by_component.values()))


def _receipt(
    connection: sqlite3.Connection,
    action: str,
    component_id: int,
    seqs: Sequence[int],
    generation: int,
    now_ns: int,
    outcome: str,
    request_id: str | None,
) -> int:
    columns = (action, component_id, ranges(seqs), generation, now_ns, now_ns, outcome, 1 if request_id else 0, request_id, None, None)
    return int(connection.execute(_INSERT_RECEIPT, columns).lastrowid or 0)


def _make_pending(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    connection.executemany("DELETE FROM delivery WHERE seq = ? AND outcome = 'in doubt'", [(seq,) for seq in seqs])
    connection.execute("UPDATE mark SET seq = min(seq, ?)", (max(min(seqs) - 1, 0),))


def _settle(connection: sqlite3.Connection, outcome: str, reasons: Mapping[int, str], receipt_id: int, now_ns: int) -> None:
    connection.executemany(
        "UPDATE delivery SET outcome = ?, reason = ?, receipt_id = ?, settled_at_ns = ? WHERE seq = ? AND outcome = 'in doubt'",
        [(outcome, reason, receipt_id, now_ns, seq) for seq, reason in reasons.items()],
    )
