"""Settle entries in doubt.

List them, record what reading back found, and record what a person decides.

As in ``outcomes``, every write checks the lease in the same transaction, and leaves a receipt.
Must not know how a remote is asked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal

from journaltrack import limits
from journaltrack.journal import removed
from journaltrack.journal.queries import PROBLEM
from journaltrack.journal.vocabulary import CREATE, LOAD
from journaltrack.replay.evidence.attestations import Turns
from journaltrack.replay.evidence.proof import Proof
from journaltrack.replay.evidence.readback import Account, Doubt, Finding, Group, Known, Reading
from journaltrack.replay.evidence.statements import READBACK, RELEASED, Settled
from journaltrack.util.intervals import as_intervals

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.attestations import Attestor

SETTLE: Final = "settle"
"""The action of receipts for what a person decided."""
# In attestations: when the service showed it, by its own clock.
_SHOWN_AT: Final = "shown_at_ns"

# typeof: SQLite keeps any type in any column, and a journal may be crafted.
_IN_DOUBT: Final = (
    "FROM delivery d JOIN entry e ON e.seq = d.seq JOIN component c ON c.id = e.component_id "
    f"WHERE {PROBLEM} AND d.outcome = 'in doubt' AND e.stream = 'metric' "
    "AND typeof(e.value) = 'real' AND typeof(e.name) = 'text' "
    "AND typeof(d.settled_at_ns) = 'integer' AND typeof(c.name) = 'text' AND (e.step IS NULL "
    f"OR typeof(e.step) = 'integer' AND e.step BETWEEN 0 AND {limits.STEP_MAX})"
)
_OF_RECEIPT: Final = {"arrived": "delivered", "not arrived": RELEASED, None: "in doubt"}
_SETTLES: Final = {"arrived": "delivered", None: "in doubt"}


def to_ask(database: Database, *, now_ns: int, visible_after_s: float) -> dict[int, str]:
    """Return the components (id to name) whose points in doubt are worth a request.

    They were not asked for since a point came into doubt, or not for a while.

    Args:
        database: Of the journal.
        now_ns: Nanoseconds since the epoch.
        visible_after_s: See ``readback.VISIBLE_AFTER_S``.
    """
    rows = database.read(
        "SELECT e.component_id, c.name, max(d.settled_at_ns), "
        "(SELECT max(r.started_at_ns) FROM receipt r WHERE r.component_id = e.component_id "
        "AND r.action = ? "
        f"AND typeof(r.started_at_ns) = 'integer') {_IN_DOUBT} GROUP BY e.component_id",
        (READBACK,),
    )
    return {
        component_id: name
        for component_id, name, since_ns, asked_ns in rows
        if asked_ns is None
        or asked_ns < since_ns
        or not 0 <= now_ns - asked_ns < visible_after_s * 1e9
    }


def of_component(database: Database, component_id: int) -> list[Doubt]:
    """Return the component's points in doubt."""
    rows = database.read(
        "SELECT e.seq, e.name, e.value, e.step, d.settled_at_ns, coalesce(d.receipt_id, 0) "
        f"{_IN_DOUBT} AND e.component_id = ? ORDER BY e.seq",
        (component_id,),
    )
    return [Doubt(*row) for row in rows]


def acknowledged(database: Database, component_id: int, doubts: Iterable[Doubt]) -> Account:
    """Return what is known of the component's metrics. Scans its points twice.

    Points that were removed on the record count in the totals. Their steps are not known any
    more. So nothing is known of the steps that they may have had (None).
    """
    wanted = {(doubt.name, doubt.step) for doubt in doubts if doubt.step is not None}
    of_metric = (
        "count(*), total(e.value), total(abs(e.value)), max(d.settled_at_ns), "
        "max(coalesce(d.receipt_id, 0)) FROM entry e JOIN delivery d ON d.seq = e.seq "
        "WHERE e.component_id = ? AND e.stream = 'metric' AND d.outcome = 'delivered' "
        "AND typeof(e.value) = 'real' AND typeof(e.name) = 'text' "
        "AND typeof(d.settled_at_ns) = 'integer'"
    )
    known: dict[Group, Known | None] = {}
    for name, *rest in database.read(
        f"SELECT e.name, {of_metric} GROUP BY e.name", (component_id,)
    ):
        known[name, None] = Known(*rest)
    if wanted:
        steps = json.dumps(sorted({step for _, step in wanted}))
        of_steps = "AND e.step IN (SELECT value FROM json_each(?)) GROUP BY e.name, e.step"
        sql = f"SELECT e.name, e.step, {of_metric} {of_steps}"
        for name, step, *rest in database.read(sql, (component_id, steps)):
            if (name, step) in wanted:
                known[name, step] = Known(*rest)
    names = database.read("SELECT name FROM component WHERE id = ?", (component_id,))
    for (_, name), gone in removed.metrics(database, str(names[0][0]) if names else "").items():
        left = known.get((name, None)) or Known()
        total, magnitude = left.sum + gone.sum, left.magnitude + gone.magnitude
        known[name, None] = (
            None
            if gone.at_least
            else left._replace(points=left.points + gone.points, sum=total, magnitude=magnitude)
        )
        known.update(
            {group: None for group in wanted if group[0] == name and gone.may_have(group[1])}
        )
    return Account(known, _owner(database, component_id), _readings(database, component_id))


def _owner(database: Database, component_id: int) -> str | None:
    """Return the component's owner, if this journal made it for itself.

    None if other journals are expected to write to it.
    """
    rows = database.read(
        "SELECT e.kind, "
        "CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.owner') END, "
        "CASE WHEN json_valid(e.payload) THEN json_extract(e.payload, '$.resume') END "
        "FROM entry e WHERE e.component_id = ? AND e.stream <> 'metric' AND e.kind IN (?, ?) "
        "ORDER BY e.seq",
        (component_id, CREATE, LOAD),
    )
    if not rows or any(kind == LOAD or resume for kind, _, resume in rows):
        return None
    return next((owner for _, owner, _ in rows if isinstance(owner, str)), None)


def _readings(database: Database, component_id: int) -> list[Reading]:
    rows = database.read(
        "SELECT r.id, r.finished_at_ns, "
        f"CASE WHEN json_valid(a.body) THEN json_extract(a.body, '$.{_SHOWN_AT}') END "
        "FROM receipt r LEFT JOIN attestation a ON a.receipt_id = r.id "
        "WHERE r.component_id = ? AND r.action = ? AND typeof(r.finished_at_ns) = 'integer' "
        "ORDER BY r.id",
        (component_id, READBACK),
    )
    return [
        Reading(receipt_id, at_ns, shown if isinstance(shown, int) else None)
        for receipt_id, at_ns, shown in rows
    ]


def record(
    attestor: Attestor, component_id: int, findings: Sequence[Finding], request_id: str | None
) -> None:
    """Settle what reading back found.

    What arrived is delivered. What did not arrive is pending again. The rest stays in doubt, with
    what was seen as its reason.
    """
    by_outcome: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_outcome[finding.outcome].append(finding)
    now_ns = attestor.clock_ns()
    with attestor.transaction() as connection:
        for outcome, group in by_outcome.items():
            settled = _settled(_SETTLES[outcome], group) if outcome in _SETTLES else ()
            shown_at_ns = group[0].shown_at_ns
            attestor.decide(
                *(
                    connection,
                    READBACK,
                    _OF_RECEIPT[outcome],
                    component_id,
                    as_intervals(finding.seq for finding in group),
                    settled,
                ),
                at_ns=now_ns,
                attempts=1 if request_id else 0,
                request_id=request_id,
                more={} if shown_at_ns is None else {_SHOWN_AT: shown_at_ns},
            )


def _settled(outcome: str, findings: Iterable[Finding]) -> list[Settled]:
    by_reason: dict[str, list[int]] = defaultdict(list)
    for finding in findings:
        by_reason[finding.reason].append(finding.seq)
    return [Settled(outcome, reason, as_intervals(seqs)) for reason, seqs in by_reason.items()]


def decide(
    attestor: Attestor,
    outcome: Literal["delivered", "quarantined"],
    reason: str,
    component_ids: Sequence[int] | None,
) -> int:
    """Settle entries in doubt as a person says.

    Args:
        attestor: Of this process.
        outcome: The decision.
        reason: The person's reason.
        component_ids: Only entries of these components. None: of all.

    Returns:
        How many entries were settled.

    Raises:
        JournalAlteredError: They would count as delivered, and their chains do not hold. Nothing
            was settled.
    """
    by_component: dict[int, list[int]] = defaultdict(list)
    query = (
        "SELECT e.component_id, e.seq FROM delivery d JOIN entry e ON e.seq = d.seq "
        f"WHERE {PROBLEM} AND d.outcome = 'in doubt' ORDER BY e.seq"
    )
    # Nobody else settles them meanwhile.
    for component_id, seq in attestor.database.read(query):
        if component_ids is None or component_id in component_ids:
            by_component[component_id].append(seq)
    proof = Proof(attestor.database)
    if (
        outcome == "delivered"
        and not proof.all_hold(sorted(chain.from_iterable(by_component.values())))
        and proof.altered is not None
    ):
        raise proof.altered
    now_ns = attestor.clock_ns()
    turns = Turns(attestor)
    for component_id, seqs in by_component.items():
        for page in turns.pages(seqs):
            with turns.transaction() as connection:
                entries = as_intervals(page)
                attestor.decide(
                    connection,
                    SETTLE,
                    outcome,
                    component_id,
                    entries,
                    [Settled(outcome, reason, entries)],
                    at_ns=now_ns,
                )
    return sum(map(len, by_component.values()))
