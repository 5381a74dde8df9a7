"""Apply attestations of another copy to this journal.

Both copies' evidence is kept, and what became of the entries converges. This is the reconciling
side of the journal, as ``outcomes`` is: the caller holds the lease. The module must not know where
the attestations come from, nor a remote.

Invariants:

- A source is checked to its end before anything is taken over.
- It is taken over in many transactions, since others append meanwhile. The process may be killed
  between any two. After each of them ``verify_chains`` finds what it found before.
- The first transaction records that the source has begun, the last one that it has ended. Between
  them no pass sends anything: a later attestation of the source may settle what is pending.
- An attestation is taken over unchanged, after every earlier one of its process.
- A statement that did not know what is here does not overwrite it. The exception: that entries
  arrived is final. Of two such claims the earlier one holds.
- Memory grows with components and problems alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from journaltrack.errors import JournalAlteredError
from journaltrack.journal.fold import MAP_OF_KIND, Place
from journaltrack.journal.queries import PROBLEM, origins
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import statements, taken
from journaltrack.replay.evidence.attestations import Attestor, Turns, insert_receipt
from journaltrack.replay.evidence.follow import follow, learn
from journaltrack.replay.evidence.statements import MERGE, RELEASED, Named, Said, Settled, Statement
from journaltrack.replay.evidence.taken import Origin
from journaltrack.replay.plan.actions import PutMetrics
from journaltrack.transfer.apply_source import (
    Attested,
    Checked,
    Here,
    Source,
    said_by,
)
from journaltrack.util.intervals import as_intervals, merged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

_PROBLEMS: Final = (
    "SELECT d.seq, d.receipt_id, d.outcome, d.reason, d.settled_at_ns FROM delivery d "
    f"WHERE d.seq BETWEEN ? AND ? AND {PROBLEM}"
)
_INSERT_ATTESTATION: Final = schema.insert_sql("attestation")
_MAPS: Final = " ".join(
    f"WHEN '{kind}' THEN '{field_map}'" for kind, field_map in MAP_OF_KIND.items()
)
_FIELDS: Final = (
    f"SELECT CASE e.kind {_MAPS} END, coalesce(e.name, ''), e.seq, e.recorded_at_ns, e.writer_id "
    "FROM entry e JOIN delivery d ON d.seq = e.seq WHERE e.component_id = ? "
    f"AND e.stream <> 'metric' AND e.kind IN ({', '.join(repr(kind) for kind in MAP_OF_KIND)}) "
    "AND d.outcome = 'delivered'"
)
_HELD_FIELD: Final = (
    "SELECT e.seq, e.recorded_at_ns, e.writer_id FROM field f JOIN entry e ON e.seq = f.seq "
    "JOIN delivery d ON d.seq = f.seq WHERE f.component_id = ? AND f.map = ? AND f.key = ? "
    "AND d.outcome = 'delivered'"
)
_COMPONENTS: Final = (
    "SELECT DISTINCT component_id FROM entry WHERE seq BETWEEN ? AND ? AND stream <> 'metric'"
)
_INSERT_COMPONENT: Final = "INSERT INTO component (name, created_at_ns) VALUES (?, ?)"
_INSERT_FIELD: Final = (
    "INSERT OR REPLACE INTO field (component_id, map, key, seq) VALUES (?, ?, ?, ?)"
)
_OF_RECORD: Final = 10
"""Measured: a receipt and its attestation take as long as settling this many entries."""

Ahead: TypeAlias = dict[str, list[tuple[int, int, int]]]
"""By a writer's uuid: (first, last) places of entries that are not here yet, and the number of the
attestation about them.
"""


@dataclass(slots=True)
class Applied:
    """What was taken over.

    Attributes:
        attestations, receipts: New ones.
        reconcilers: New processes that made attestations.
        known: Attestations that were here already.
        elsewhere: New attestations about entries none of which is here.
        settled: By outcome, how many more entries are settled so than before; negative for fewer.
        kept: Entries that stay in doubt or quarantined. The other copy made them pending, but did
            not know why they are so here.
    """

    attestations: int = 0
    receipts: int = 0
    reconcilers: int = 0
    known: int = 0
    elsewhere: int = 0
    settled: Counter[str] = field(default_factory=Counter)
    kept: int = 0


class Applier:
    """Applies attestations in short transactions of the attestor's.

    Args:
        attestor: Of this process, with the journal's lease.

    Attributes:
        here: What is here of other copies' processes and entries.
        applied: What was taken over of the last source.
        turns: Makes the transactions.
    """

    def __init__(self, attestor: Attestor) -> None:
        database = attestor.database
        self.applied = Applied()
        self.turns = Turns(attestor)
        self._attestor = attestor
        self._database = database
        self._components: dict[str, int] = {
            str(name).lower(): i for i, name in database.read("SELECT id, name FROM component")
        }
        # After what may fail: it is closed by ``close``.
        self.here = Here(database)
        self._connection: sqlite3.Connection
        # The highest generation of a lease that an attestation names.
        self._generation = 0
        # Components that an attestation spoke of.
        self._touched: set[int] = set()
        # The same in this transaction: (component, first, last) of entries.
        self._settled: list[tuple[int, int, int]] = []
        # Problems as they were before the source's first word about them.
        self._lost: dict[int, tuple[Any, ...]] = {}
        # Those of them that this transaction spoke of.
        self._changed: set[int] = set()
        self._last_attestation = 0
        # Origins that this process recorded.
        self._told: set[Origin] = set()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open one of many transactions.

        It leaves the journal right whether or not another one follows.

        Raises:
            LeaseLostError: Another process took the lease over.
        """
        lease = self._attestor.lease
        highest = lease.generation
        self._settled.clear()
        self._changed.clear()
        with self.turns.transaction() as connection:
            self._connection = connection
            yield connection
            self._derive_settled()
            if self._generation > highest:
                highest = lease.outdo(connection, self._generation)
        lease.generation = highest

    def close(self) -> None:
        """Drop what only the application needs."""
        self.here.close()

    # -- entries and processes --------------------------------------------------------------------

    def add_component(self, name: str) -> int:
        """Return the local id of a component; make it if it is new.

        What was attested of a new component before it was here counts from now on. The caller is
        inside a transaction.
        """
        known = self._components.get(name.lower())
        if known is None:
            # Another process may have made it meanwhile.
            found = self._connection.execute(
                "SELECT id FROM component WHERE name = ?", (name,)
            ).fetchone()
            columns = (name, self._attestor.clock_ns())
            known = (
                found[0]
                if found
                else self._connection.execute(_INSERT_COMPONENT, columns).lastrowid or 0
            )
            self._components[name.lower()] = known
            for receipt_id, said in self._nameless.get(name.lower(), ()):
                learn(self._connection, said.here(lambda _: (), known, receipt_id))
        self._touched.add(known)
        return known

    # -- attestations -----------------------------------------------------------------------------

    def begin(
        self,
        checked: Checked,
        gaps: Sequence[tuple[str, int, int, str]] = (),
        *,
        is_told_all: bool = True,
    ) -> None:
        """Record that a source is being taken over, before anything of it is here.

        It records where the source comes from, too. So what comes from it never counts as this
        journal's own doing.

        Args:
            checked: The source.
            gaps: What was removed there between the entries that come.
            is_told_all: Whether its attestations tell everything that became of entries there.
        """
        source = checked.source
        with self.transaction() as connection:
            of = (connection, self._attestor, source.origin, checked.taken)
            taken.begin(*of, source=source.name, gaps=gaps, is_told_all=is_told_all)
        self._told.add(source.origin)

    def end(self, origins_done: Collection[Origin]) -> None:
        """Record that what was begun has ended.

        Before that, it derives what a kill left underived.

        Args:
            origins_done: Sources that were taken over. What came completely in another way ends,
                too.
        """
        unfinished = taken.unfinished(self._database)
        if not unfinished:
            return
        heads = self.here.heads()
        elsewhere = taken.ended_elsewhere(self._database)
        done = [
            each
            for each in unfinished
            if Origin(each.what.kind, each.what.id) in origins_done
            or each.note in elsewhere
            or each.is_here(heads)
        ]
        self.derive(self._components.values())
        with self.transaction() as connection:
            taken.end(connection, self._attestor, done)

    def take_over(self, checked: Checked) -> None:
        """Record and follow the attestations that are not here yet.

        Where the copies contradict each other, ``_decide`` keeps the more careful outcome.
        """
        source = checked.source
        self.applied = Applied(known=checked.known, reconcilers=checked.reconcilers)
        self._lost.clear()
        self._last_attestation = self._database.read(
            "SELECT coalesce(max(id), 0) FROM attestation"
        )[0][0]
        before = self._count()
        new = (
            each
            for each in source.attestations()
            if each.writer_seq > checked.heads.get(each.uuid, 0)
        )
        for group in self._groups((each, said_by(source, each)) for each in new):
            with self.transaction():
                for each, said in group:
                    if each.uuid not in self.here.writers:
                        self.here.add_writer(self._connection, source.writers[each.uuid])
                    self._record(each, said)
                self._decide(checked)
        self.derive(self._touched)
        after = self._count()
        self.applied.settled = Counter(
            {k: after[k] - before[k] for k in after | before if after[k] != before[k]}
        )

    def _groups(
        self, read: Iterator[tuple[Attested, Said]]
    ) -> Iterator[list[tuple[Attested, Said]]]:
        """Yield as many at a time as a transaction shall settle entries."""
        group, rows = [], 0
        for each in read:
            group.append(each)
            rows += _OF_RECORD + sum(
                last - first + 1 for named in each[1].entries.values() for first, last in named
            )
            if rows >= self.turns.size:
                yield group
                group, rows = [], 0
        if group:
            yield group

    def _record(self, each: Attested, said: Said) -> None:
        self._generation = max(self._generation, said.generation)
        component_id = (
            None if said.component is None else self._components.get(said.component.lower())
        )
        known = said.here(self.here.places, component_id, None)
        if said.started_at_ns is not None and not taken.is_note(said):
            known = known._replace(receipt_id=insert_receipt(self._connection, known))
            self.applied.receipts += 1
        place = (self.here.writers[each.uuid], each.writer_seq)
        columns = (*place, known.receipt_id, each.body, each.digest)
        self._connection.execute(_INSERT_ATTESTATION, columns)
        self.applied.attestations += 1
        self.applied.elsewhere += bool(said.entries) and not known.entries
        self._follow(known)
        if said.settled and said.component is None:
            self._touched.update(self._components.values())
        elif said.settled and component_id is not None:
            self._touched.add(component_id)
        if said.settled and said.action != PutMetrics.action:
            self.note(known.entries)

    def note(self, here: Iterable[tuple[int, int]]) -> None:
        """Note that something was said of these entries."""
        self._settled += [
            (row[0], first, last)
            for first, last in here
            for row in self._connection.execute(_COMPONENTS, (first, last))
        ]

    def _follow(self, said: Statement) -> None:
        """Settle the entries as it says, and remember what is a problem now."""
        for interval in said.entries if said.outcome == RELEASED else ():
            self._remember(*interval)
        for group in said.settled:
            for interval in group.entries if group.outcome == "quarantined" else ():
                self._remember(*interval)
        follow(self._connection, [said])

    def _remember(self, first: int, last: int) -> None:
        """Remember these entries' problems as they are before this source's first word."""
        for seq, *row in self._connection.execute(_PROBLEMS, (first, last)):
            self._lost.setdefault(seq, tuple(row))
            self._changed.add(seq)

    # -- what was here before the entries that it is about ----------------------------------------

    @functools.cached_property
    def _nameless(self) -> dict[str, list[tuple[int, Said]]]:
        """Return what was attested of components that were not here, by lower-case name."""
        found = defaultdict(list)
        rows = self._connection.execute(
            "SELECT r.id, a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
            "WHERE r.component_id IS NULL AND r.entries = '' ORDER BY a.id"
        )
        for receipt_id, body in rows:
            said = _own(body)
            if said.component is not None:
                found[said.component.lower()].append((receipt_id, said))
        return found

    def look_ahead(self, beyond: Mapping[str, int]) -> Ahead:
        """Find the attestations that are here and about entries that are not.

        Args:
            beyond: By the writer's uuid: the place beyond which entries are not here.
        """
        ahead: Ahead = defaultdict(list)
        rows = self._database.read(
            "SELECT a.id, a.body FROM attestation a WHERE EXISTS (SELECT 1 FROM json_each(?) u "
            "WHERE instr(a.body, u.value)) ORDER BY a.id",
            (json.dumps(sorted(beyond)),),
        )
        for number, body in rows:
            said = _own(body)
            for named in (
                said.entries,
                *(group.entries for group in said.settled if group.entries is not said.entries),
            ):
                for uuid in named.keys() & beyond.keys():
                    ahead[uuid] += [
                        (first, last, number) for first, last in named[uuid] if last > beyond[uuid]
                    ]
        return ahead

    def follow_known(
        self, ahead: Ahead, brought: Mapping[str, tuple[int, int]], above: int
    ) -> None:
        """Follow what was here about the entries that this transaction brings.

        Args:
            ahead: From ``look_ahead``.
            brought: By the writer's uuid: the first and the last place of those entries.
            above: The last ``seq`` before.
        """
        about = {
            n
            for uuid, (low, high) in brought.items()
            for first, last, n in ahead.get(uuid, ())
            if first <= high and last >= low
        }
        for number in sorted(about):
            receipt_id, body = self._connection.execute(
                "SELECT receipt_id, body FROM attestation WHERE id = ?", (number,)
            ).fetchone()
            here = _own(body).here(lambda named: self.here.places(named, above), None, receipt_id)
            self._follow(here)
            self.note(here.entries)

    # -- what is derived --------------------------------------------------------------------------

    def _derive_settled(self) -> None:
        """Derive what the remote should hold by what this transaction settled."""
        if not self._settled:
            return
        known_origins = origins(self._connection.execute)
        for component_id, first, last in self._settled:
            sql = f"{_FIELDS} AND e.seq BETWEEN ? AND ? ORDER BY e.seq"
            found = _latest(
                self._connection.execute(sql, (component_id, first, last)), known_origins
            )
            for (field_map, key), place in found.items():
                held = self._connection.execute(
                    _HELD_FIELD, (component_id, field_map, key)
                ).fetchone()
                if held is None or Place(held[0], held[1], known_origins.get(held[2], 0)).is_before(
                    place
                ):
                    self._connection.execute(
                        _INSERT_FIELD, (component_id, field_map, key, place.seq)
                    )

    def tell_origin(self, source: Source) -> None:
        """Record once where what is found in a source comes from. Inside a transaction.

        So it does not count as this journal's own doing.
        """
        if source.origin not in self._told:
            taken.record(self._connection, self._attestor, source.origin, {})
            self._told.add(source.origin)

    def derive(self, component_ids: Iterable[int]) -> None:
        """Derive what the remote should hold of these components, as known here.

        Of each key it is the value that arrived and was recorded last. If journals were synced
        apart, an older value may have arrived later; only a verification can tell.

        This reads outside a transaction, since nobody else settles entries.
        """
        known_origins = origins(self._database.read)
        for component_id in component_ids:
            found = _latest(
                self._database.read(f"{_FIELDS} ORDER BY e.seq", (component_id,)), known_origins
            )
            held = {
                (m, k): seq
                for m, k, seq in self._database.read(
                    "SELECT map, key, seq FROM field WHERE component_id = ?", (component_id,)
                )
            }
            for page in self.turns.pages(
                (component_id, *key, place.seq)
                for key, place in found.items()
                if held.get(key) != place.seq
            ):
                with self.turns.transaction() as connection:
                    connection.executemany(_INSERT_FIELD, page)

    def _count(self) -> Counter[str]:
        return Counter(
            dict(self._database.read("SELECT outcome, count(*) FROM delivery GROUP BY outcome"))
        )

    # -- where the copies contradict each other ---------------------------------------------------

    def _decide(self, checked: Checked) -> None:
        """Keep problems that the other copy released without knowing of them.

        A release overrides what its journal knew. What it did not know stays in doubt or
        quarantined: a point in doubt that is sent again may be there twice. If the other copy
        settled an entry after its release, and that came here before, the entry is settled so.
        """
        lost = self._connection.execute(
            "SELECT e.seq, d.outcome, e.component_id, e.recorded_at_ns, w.uuid, e.writer_seq "
            "FROM json_each(?) n JOIN entry e ON e.seq = n.value "
            "JOIN writer w ON w.id = e.writer_id LEFT JOIN delivery d ON d.seq = e.seq "
            "WHERE d.seq IS NULL OR d.outcome = 'quarantined' ORDER BY e.seq",
            (json.dumps(sorted(self._changed)),),
        ).fetchall()
        known: dict[int, bool] = {}
        planned = self._planned(
            [row[0] for row in lost if self._lost[row[0]][0] is None], checked.source
        )
        kept: dict[tuple[int, str, str | None, int, int | None], list[int]] = defaultdict(list)
        for seq, now, component_id, recorded_at_ns, uuid, place in lost:
            receipt_id, outcome, reason, at_ns = self._lost[seq]
            if now is not None and outcome != "in doubt":
                continue
            if receipt_id is not None and receipt_id not in known:
                known[receipt_id] = self._is_known(receipt_id, checked.source)
            # The append itself refused the entry: every copy knows that.
            at_once = receipt_id is None and outcome == "quarantined" and at_ns == recorded_at_ns
            if not (
                at_once or (planned.get(seq, False) if receipt_id is None else known[receipt_id])
            ):
                kept[component_id, outcome, reason, at_ns, receipt_id].append(seq)
            elif now is None:
                fate = (
                    next((fate for _, _, fate in checked.fates[uuid].of(place, place)), None)
                    if uuid in checked.fates
                    else None
                )
                if fate is not None and fate.is_known and fate.group is not None:
                    group = fate.group
                    kept[component_id, group.outcome, group.reason, group.at_ns, None].append(seq)
        self.applied.kept += sum(map(len, kept.values()))
        groups: dict[int, list[Settled]] = defaultdict(list)
        for (component_id, outcome, reason, at_ns, receipt_id), seqs in kept.items():
            groups[component_id].append(
                Settled(outcome, reason, as_intervals(seqs), at_ns, receipt_id)
            )
        self.attest("kept", groups, {})

    def _planned(self, seqs: Sequence[int], source: Source) -> dict[int, bool]:
        """Return, by entry, whether the other copy has the last word without a request.

        A word that the other copy brought counts only for entries of which nothing was said here
        before. The other copy knows that word.
        """
        if not seqs:
            return {}
        wanted = set(seqs)
        found: dict[int, bool] = {}
        rows = self._connection.execute(
            "SELECT a.id, w.uuid, a.writer_seq, a.body FROM attestation a "
            "JOIN writer w ON w.id = a.writer_id WHERE a.receipt_id IS NULL ORDER BY a.id"
        )
        for number, uuid, writer_seq, body in rows:
            said = dict.fromkeys(
                self._seqs(_own(body).entries, wanted), writer_seq <= source.heads.get(uuid, 0)
            )
            found = found | said if number <= self._last_attestation else said | found
        return found

    def _is_known(self, receipt_id: int, source: Source) -> bool:
        """Return whether the other copy has what the receipt says."""
        rows = self._connection.execute(
            "SELECT w.uuid, a.writer_seq FROM attestation a JOIN writer w ON w.id = a.writer_id "
            "WHERE a.receipt_id = ?",
            (receipt_id,),
        )
        return any(writer_seq <= source.heads.get(uuid, 0) for uuid, writer_seq in rows)

    def _seqs(self, named: Named, wanted: set[int]) -> list[int]:
        places = self.here.places(named)
        if sum(last - first + 1 for first, last in places) > len(wanted):
            return [seq for seq in wanted if any(first <= seq <= last for first, last in places)]
        return [seq for first, last in places for seq in range(first, last + 1) if seq in wanted]

    def attest(
        self, outcome: str, groups: Mapping[int, Sequence[Settled]], more: Mapping[str, Any]
    ) -> None:
        """Record what this process decided or found, by component.

        Each component gets a receipt and an attestation.
        """
        for component_id, settled in groups.items():
            entries = merged(interval for each in settled for interval in each.entries)
            self._attestor.decide(
                self._connection, MERGE, outcome, component_id, entries, settled, more=more
            )


def _latest(
    rows: Iterable[tuple[Any, ...]], known_origins: Mapping[int, int]
) -> dict[tuple[str, str], Place]:
    """Return the entry of each key that was recorded last."""
    last: dict[tuple[str, str], Place] = {}
    for field_map, key, seq, recorded_at_ns, writer_id in rows:
        place = Place(seq, recorded_at_ns, known_origins.get(writer_id, 0))
        if (field_map, key) not in last or last[field_map, key].is_before(place):
            last[field_map, key] = place
    return last


def _own(body: object) -> Said:
    """Return what an attestation of this journal says.

    Raises:
        JournalAlteredError: It can't be read.
    """
    try:
        return statements.read(body)
    except ValueError as error:
        hint = "`journaltrack check` says more; if the journal is not yours, do not trust it"
        raise JournalAlteredError(
            f"an attestation of the journal can't be read: {error}; nothing was taken over",
            hint=hint,
        ) from error
