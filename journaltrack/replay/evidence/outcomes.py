"""Record a replay: intents before sending, outcomes after.

Every write checks the lease in the same transaction. So a holder that lost the lease can settle
nothing. Every write is attested in that transaction too (``attestations``).

Invariants:

- A receipt exists before its request is sent.
- An entry has at most one row in ``delivery``.
- A finished receipt never changes: a trigger refuses it.
- ``recover`` settles what a killed pass left unfinished. Requests that may be sent again make
  their entries pending. The others (metrics) put theirs in doubt.

Must not know what an action does or where it goes.
"""

from __future__ import annotations

import json
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import JournalNotFoundError
from journaltrack.journal.queries import (
    ARRIVED,
    IS_BEFORE,
    PROBLEM,
    UNSETTLED,
    UNSETTLED_MAX,
    undeliverable,
)
from journaltrack.journal.rescue import rescue
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay.evidence.attestations import Attestor, Turns
from journaltrack.replay.evidence.follow import PENDING
from journaltrack.replay.evidence.statements import (
    RELEASED,
    REOPEN,
    DeliveryOutcome,
    Settled,
    Statement,
    content_of,
)
from journaltrack.replay.plan.actions import PutMetrics, Run, Settle
from journaltrack.util.intervals import SEQ_MAX, as_intervals, as_text, ranges_in, size

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.lease import Lease

ReceiptOutcome: TypeAlias = Literal[
    "delivered",
    "partial",
    "refused",
    "failed",
    "in doubt",
    "held",
    "halted",
    "not sent",
    "interrupted",
    "released",
]

PLAN: Final = "plan"
"""The action of attestations for entries that needed no request."""
IN_DOUBT_AFTER_KILL: Final = "the process that sent it ended before the answer arrived"

NOTHING_MORE: Final[Mapping[str, Any]] = MappingProxyType({})
_UNFINISHED_PAGE: Final = (
    "SELECT id, action, component_id, "
    "CASE WHEN typeof(entries) = 'text' AND length(entries) <= :most THEN entries END, "
    "generation, started_at_ns "
    "FROM receipt WHERE finished_at_ns IS NULL AND id > :after ORDER BY id LIMIT 100"
)
"""A page at a time: a journal from elsewhere may have any number of them, of any size.

Ours are as many as were in flight, and name 20,000 entries at most.
"""
_INTENT: Final = "id, action, component_id, entries, generation, started_at_ns"
_INSERT_INTENT: Final = f"INSERT INTO receipt ({_INTENT}) VALUES (?, ?, ?, ?, ?, ?)"
_ENDED: Final = "finished_at_ns = ?, outcome = ?"
_ERROR: Final = "error_code = ?, error_text = ?"
_FINISH_RECEIPT: Final = (
    f"UPDATE receipt SET {_ENDED}, attempts = ?, request_id = ?, {_ERROR} WHERE id = ?"
)
_NEWEST: Final = "(SELECT coalesce(max(seq), 0) FROM entry)"
_UNSETTLED_AFTER: Final = f"SELECT e.seq FROM entry e WHERE e.seq > ? AND {UNSETTLED}"
_ended_of: Final = operator.attrgetter(
    "outcome", "attempts", "request_id", "error_code", "error_text", "receipt_id"
)
# Of a status, a field may be sent that a later call left open. The later one stays the last.
_HOLD: Final = (
    "INSERT OR REPLACE INTO field (component_id, map, key, seq) "
    "SELECT :component, :map, :key, :seq WHERE :map <> 'status' OR NOT EXISTS "
    "(SELECT 1 FROM field f JOIN delivery d ON d.seq = f.seq JOIN entry o ON o.seq = f.seq "
    "JOIN entry n ON n.seq = :seq WHERE f.component_id = :component AND f.map = :map "
    f"AND f.key = :key AND d.outcome = 'delivered' AND {IS_BEFORE})"
)
_OVER: Final = "(u.seq IN (SELECT seq FROM delivery) OR u.seq NOT IN (SELECT seq FROM entry))"
"""Whether a listed entry ``u`` is settled, or was removed since."""


class Intent(NamedTuple):
    """A request that is about to be sent.

    ``runs`` are the places of its entries in their writers' chains. (): to be looked up.
    """

    action: str
    component_id: int | None
    seqs: Sequence[int]
    runs: tuple[Run, ...] = ()


class _Begun(NamedTuple):
    """A request in flight."""

    action: str
    seqs: Sequence[int]
    intervals: list[tuple[int, int]]
    runs: tuple[Run, ...]
    started_at_ns: int


class Delivery(NamedTuple):
    """Say what became of one entry."""

    seq: int
    outcome: DeliveryOutcome
    reason: str | None = None


class Outcome(NamedTuple):
    """Say what became of one request.

    Attributes:
        receipt_id: From ``begin``.
        component_id: Of the request.
        outcome: Of the request.
        attempts: Times it was sent.
        request_id: The remote's id of the last attempt.
        error_code: Why it was not delivered.
        error_text: Why it was not delivered, in words.
        delivered: Entries that are delivered, without a note.
        deliveries: Other entries that it settles. Entries named in neither stay pending.
        confirmed_arn: The remote said that the component exists, under this ARN. '': without one.
        missing: The remote said that the component does not exist, or no longer.
        fields: (map, key, seq): what the remote holds now.
        location: (blob, uri) of an upload.
        more: Further members of the attestation.
    """

    receipt_id: int
    component_id: int | None
    outcome: ReceiptOutcome
    attempts: int = 1
    request_id: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    delivered: Sequence[int] = ()
    deliveries: Sequence[Delivery] = ()
    confirmed_arn: str | None = None
    missing: bool = False
    fields: Sequence[tuple[str, str, int]] = ()
    location: tuple[BlobRef, str] | None = None
    more: Mapping[str, Any] = NOTHING_MORE


class Settlement:
    """Keep the records of one pass.

    Args:
        database: Of the journal. A connection of its own, so that appending continues.
        lease: The caller holds it while this is used.
        clock_ns: Nanoseconds since the epoch.
    """

    def __init__(
        self, database: Database, lease: Lease, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock_ns = clock_ns
        self.attestor = Attestor(database, lease, clock_ns)
        # Requests in flight, by receipt.
        self._begun: dict[int, _Begun] = {}

    def recover(self) -> int:
        """Settle what a killed pass left unfinished.

        Returns:
            How many entries became in doubt.
        """
        total = after = 0
        # Nearly always none.
        if not self._database.read("SELECT 1 FROM receipt WHERE finished_at_ns IS NULL LIMIT 1"):
            return 0
        with self.attestor.transaction() as connection:
            now_ns = self._clock_ns()
            while page := connection.execute(
                _UNFINISHED_PAGE, {"after": after, "most": limits.PAYLOAD_CHARS_MAX}
            ).fetchall():
                after = page[-1][0]
                # One by one: an entry that one of them put in doubt is not unsettled for the next.
                for row in page:
                    said = self._recovered(connection, row, now_ns)
                    total += sum(size(each.entries) for each in said.settled)
                    self.attestor.attest(connection, [said])
        return total

    def _recovered(
        self, connection: sqlite3.Connection, row: tuple[Any, ...], now_ns: int
    ) -> Statement:
        """Settle a request that was begun and not finished. Return what to attest of it."""
        receipt_id, action, component_id, seqs, generation, started_at_ns = row
        resendable = action != PutMetrics.action
        in_doubt = [] if resendable else _perhaps_sent(connection, seqs)
        outcome = "interrupted" if resendable else "in doubt"
        connection.execute(
            f"UPDATE receipt SET {_ENDED}, attempts = 1, error_text = ? WHERE id = ?",
            (now_ns, outcome, IN_DOUBT_AFTER_KILL, receipt_id),
        )
        return Statement(
            action=str(action),
            outcome=outcome,
            component_id=component_id if isinstance(component_id, int) else None,
            entries=_named(seqs),
            finished_at_ns=now_ns,
            generation=generation if isinstance(generation, int) else 0,
            settled=[Settled("in doubt", IN_DOUBT_AFTER_KILL, as_intervals(in_doubt))]
            if in_doubt
            else [],
            receipt_id=receipt_id,
            started_at_ns=started_at_ns if isinstance(started_at_ns, int) else None,
            attempts=1,
            error_text=IN_DOUBT_AFTER_KILL,
        )

    def begin(self, intents: Sequence[Intent], outcomes: Sequence[Outcome] = ()) -> list[int]:
        """Record that these requests are about to be sent.

        Afterwards the intents and every entry that they carry are on the disk. After a loss of
        power, everything that was sent is known, so nothing is sent twice unnoticed.

        Args:
            intents: The requests.
            outcomes: As for ``finish``. One transaction for both costs less than two.

        Returns:
            The ids of their receipts, in order.

        Raises:
            JournalNotFoundError: The journal was deleted, replaced or moved. Nothing of these
                requests may be sent. The outcomes are recorded.
        """
        try:
            self.check_place()
        except JournalNotFoundError:
            if outcomes:
                self.finish(outcomes)
            raise
        # Two readings, in the order of events.
        ended_ns, now_ns = self._clock_ns(), self._clock_ns()
        begun = [_Begun(i.action, i.seqs, as_intervals(i.seqs), i.runs, now_ns) for i in intents]
        generation = self._lease.generation
        rows = [
            (i.action, i.component_id, as_text(b.intervals), generation, now_ns)
            for i, b in zip(intents, begun, strict=True)
        ]
        with self.attestor.transaction() as connection:
            self._finish(connection, outcomes, ended_ns)
            receipts = _insert_intents(connection, rows)
            # Before the commit: whatever the journal has must be known here.
            self._begun.update(zip(receipts, begun, strict=True))
        self._forget(outcomes)
        self._database.sync()
        # Again: the write took a moment.
        self.check_place()
        return receipts

    def check_place(self) -> None:
        """Check that what is recorded can be found again. Save a deleted log.

        A writer whose journal was deleted writes it again, because it promised to keep what it
        acknowledged. A pass acknowledged nothing. So a journal without a writer stays deleted,
        and one that was written again gets another pass.

        Raises:
            JournalNotFoundError: The journal was deleted, replaced or moved.
        """
        database = self._database
        with database.lock:
            if not database.moved():
                return
            if not database.displaced():
                rescue(database)
                return
            place, folder = database.place_now(), database.path.parent
        if place is not None and place.name == database.path.name:
            raise JournalNotFoundError(
                f"the journal at {folder} was moved to {place.parent} during its delivery",
                hint="what was sent is recorded; the next sync of it there delivers the rest",
            )
        happened = "was deleted or replaced while it was being delivered"
        raise JournalNotFoundError(
            f"the journal at {folder} {happened}; the pass ended",
            hint="a training that still runs writes it again at its next call; "
            "if none runs, restore a copy. Another journal in its place was not changed; "
            "the next sync delivers it",
        )

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Record what became of requests, all in one transaction."""
        if not outcomes:
            return
        with self.attestor.transaction() as connection:
            self._finish(connection, outcomes, self._clock_ns())
        self._forget(outcomes)

    def unfinished(self) -> dict[int, int | None]:
        """Return this pass's receipts without an outcome, with their components."""
        rows = self._database.read(
            "SELECT id, component_id FROM receipt WHERE finished_at_ns IS NULL AND generation = ?",
            (self._lease.generation,),
        )
        return {number: component_id for number, component_id in rows if number in self._begun}

    def _finish(
        self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], now_ns: int
    ) -> None:
        if not outcomes:
            return
        connection.executemany(_FINISH_RECEIPT, [(now_ns, *_ended_of(o)) for o in outcomes])
        self.attestor.attest(
            connection, [self._statement(outcome, now_ns) for outcome in outcomes], PENDING
        )
        connection.executemany(
            _HOLD,
            [
                dict(zip(("component", "map", "key", "seq"), (o.component_id, *field), strict=True))
                for o in outcomes
                for field in o.fields
            ],
        )

    def _forget(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._begun.pop(outcome.receipt_id, None)

    def _statement(self, outcome: Outcome, now_ns: int) -> Statement:
        begun = self._begun[outcome.receipt_id]
        settled = _grouped(outcome.deliveries) if outcome.deliveries else []
        if outcome.delivered:
            whole = outcome.delivered is begun.seqs
            delivered = begun.intervals if whole else as_intervals(outcome.delivered)
            settled.insert(0, Settled("delivered", None, delivered))
        location = outcome.location
        return Statement(
            action=begun.action,
            outcome=outcome.outcome,
            component_id=outcome.component_id,
            entries=begun.intervals,
            finished_at_ns=now_ns,
            generation=self._lease.generation,
            settled=settled,
            receipt_id=outcome.receipt_id,
            started_at_ns=begun.started_at_ns,
            attempts=outcome.attempts,
            request_id=outcome.request_id,
            error_code=outcome.error_code,
            error_text=outcome.error_text,
            arn=outcome.confirmed_arn,
            missing=outcome.missing,
            uploaded=None if location is None else (content_of(location[0]), location[1]),
            more=outcome.more,
            runs=begun.runs,
        )

    def settle(self, actions: Sequence[Settle]) -> None:
        """Record entries that need no request."""
        groups: dict[int, dict[tuple[str, str | None, int | None], list[int]]] = {}
        for action in actions:
            group = groups.setdefault(action.component_id, defaultdict(list))
            group[action.outcome, action.reason, action.receipt_id] += action.seqs
        now_ns = self._clock_ns()
        with self.attestor.transaction() as connection:
            planned = [
                Statement(
                    action=PLAN,
                    outcome="settled",
                    component_id=component_id,
                    entries=as_intervals(chain.from_iterable(group.values())),
                    finished_at_ns=now_ns,
                    generation=self._lease.generation,
                    settled=[
                        Settled(outcome, reason, as_intervals(seqs), None, by)
                        for (outcome, reason, by), seqs in group.items()
                    ],
                )
                for component_id, group in groups.items()
            ]
            self.attestor.attest(connection, planned, PENDING)

    def renew(self) -> None:
        """Renew the lease while nothing is recorded."""
        self._lease.renew()

    def advance_mark(self, seen_seq: int = 0) -> None:
        """Move the low-water mark up, so that what is below is never read again.

        Args:
            seen_seq: The pass has seen everything up to here. What it left pending there is
                listed, if there is room, and the mark passes it. Beyond it the mark stops at the
                first pending entry.
        """
        # Nobody else settles entries, and new entries come last. So what is read here still holds
        # in the transaction, which is short.
        ((mark, listed, over, top),) = self._database.read(
            f"SELECT seq, (SELECT count(*) FROM unsettled u WHERE NOT {_OVER}), "
            f"EXISTS (SELECT 1 FROM unsettled u WHERE {_OVER}), {_NEWEST} FROM mark"
        )
        left = self._database.read(
            f"{_UNSETTLED_AFTER} AND e.seq <= ? ORDER BY e.seq LIMIT ?",
            (mark, seen_seq, UNSETTLED_MAX - listed + 1),
        )
        full = len(left) > UNSETTLED_MAX - listed
        stop = left.pop() if full else None
        if stop is None:
            rows = self._database.read(
                f"{_UNSETTLED_AFTER} ORDER BY e.seq LIMIT 1", (max(mark, seen_seq),)
            )
            stop = rows[0] if rows else None
        new_mark = stop[0] - 1 if stop is not None else max(mark, seen_seq, top)
        if new_mark == mark and not over and not left:
            return
        with self.attestor.transaction() as connection:
            connection.execute(f"DELETE FROM unsettled AS u WHERE {_OVER}")
            connection.executemany("INSERT OR IGNORE INTO unsettled VALUES (?)", left)
            connection.execute("UPDATE mark SET seq = ?", (new_mark,))

    def release(
        self, outcomes: Sequence[DeliveryOutcome], component_ids: Sequence[int] | None = None
    ) -> int:
        """Make settled problems pending again, and record a receipt for it.

        What AWS can never take stays settled.

        Args:
            outcomes: ``"quarantined"``, ``"in doubt"`` or both.
            component_ids: Only entries of these components. None: of all.

        Returns:
            How many entries were released.
        """
        places = ",".join("?" * len(outcomes))
        by_component: dict[int, list[int]] = defaultdict(list)
        never = json.dumps(list(undeliverable(self._database)))
        query = (
            "SELECT e.component_id, e.seq FROM delivery d JOIN entry e ON e.seq = d.seq "
            f"WHERE {PROBLEM} AND d.outcome IN ({places}) "
            "AND NOT (d.receipt_id IS NULL "
            "AND coalesce(d.reason, '') IN (SELECT value FROM json_each(?)))"
        )
        # Nobody else makes them pending meanwhile.
        for component_id, seq in self._database.read(query, (*outcomes, never)):
            if component_ids is None or component_id in component_ids:
                by_component[component_id].append(seq)
        turns = Turns(self.attestor)
        for component_id, seqs in by_component.items():
            for page in turns.pages(sorted(seqs)):
                with turns.transaction() as connection:
                    self.attestor.decide(
                        connection, "release", RELEASED, component_id, as_intervals(page)
                    )
        return sum(map(len, by_component.values()))

    def reopen(
        self,
        component_id: int,
        seqs: Sequence[int],
        why: str,
        *,
        blob: BlobRef | None = None,
        absent: bool = False,
    ) -> int:
        """Make delivered entries pending again, because the remote no longer holds them.

        A receipt records it.

        Args:
            component_id: Of the entries.
            seqs: The entries. Those that do not count as delivered are left as they are.
            why: For the receipt's ``error_code``. A word or two.
            blob: Its place is forgotten, so that it is uploaded again.
            absent: The component itself is gone: the next pass creates it.

        Returns:
            How many entries became pending.
        """
        turns = Turns(self.attestor)
        count = 0
        for page in turns.pages(seqs) if seqs else [[]]:
            with turns.transaction() as connection:
                count += self._reopen(connection, component_id, page, why, blob, absent=absent)
            # Only the first statement says these.
            blob, absent = None, False
        return count

    def _reopen(
        self,
        connection: sqlite3.Connection,
        component_id: int,
        seqs: Sequence[int],
        why: str,
        blob: BlobRef | None,
        *,
        absent: bool,
    ) -> int:
        arrived = f"SELECT d.settled_at_ns FROM delivery d WHERE d.seq = ? AND {ARRIVED}"
        found = {
            seq: row[0] for seq in seqs if (row := connection.execute(arrived, (seq,)).fetchone())
        }
        if found or absent or blob is not None:
            # Whoever follows it leaves alone what arrived later. Nothing arrived later, even if
            # this clock was set back.
            now_ns = max(
                self._clock_ns(), *(at_ns for at_ns in found.values() if isinstance(at_ns, int)), 0
            )
            gone = None if blob is None else content_of(blob)
            self.attestor.decide(
                *(connection, REOPEN, RELEASED, component_id, as_intervals(found)),
                at_ns=now_ns,
                error_code=why,
                missing=absent,
                forgotten=gone,
            )
        return len(found)


def _insert_intents(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Record unfinished receipts, and return their ids in order."""
    (highest,) = connection.execute("SELECT coalesce(max(id), 0) FROM receipt").fetchone()
    # Only in a crafted journal. SQLite looks for free ids then.
    if highest > SEQ_MAX - len(rows):
        return [
            int(connection.execute(_INSERT_INTENT, (None, *row)).lastrowid or 0) for row in rows
        ]
    receipts = [*range(highest + 1, highest + 1 + len(rows))]
    connection.executemany(
        _INSERT_INTENT, [(receipt_id, *row) for receipt_id, row in zip(receipts, rows, strict=True)]
    )
    return receipts


def _perhaps_sent(connection: sqlite3.Connection, seqs: object) -> list[int]:
    """Return the entries of a metric request that was begun and not finished.

    All unsettled metrics if the receipt's entries can't be read.
    """
    metrics = "FROM entry e WHERE e.seq BETWEEN ? AND ? AND e.stream = 'metric'"
    sql = f"SELECT e.seq {metrics} AND {UNSETTLED}"
    return [seq for interval in _named(seqs) for (seq,) in connection.execute(sql, interval)]


def _named(seqs: object) -> list[tuple[int, int]]:
    """Return the intervals that a receipt names. Everything if they can't be read."""
    try:
        return ranges_in(seqs)
    except ValueError:
        return [(1, SEQ_MAX)]


def _grouped(deliveries: Iterable[Delivery]) -> list[Settled]:
    """Group deliveries by outcome and reason."""
    groups: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for delivery in deliveries:
        groups[delivery.outcome, delivery.reason].append(delivery.seq)
    return [
        Settled(outcome, reason, as_intervals(seqs)) for (outcome, reason), seqs in groups.items()
    ]
