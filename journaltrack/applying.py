"""Attestations of another copy, applied to this journal: both copies' evidence is kept, and what became of entries converges.

The reconciling side of the journal, as ``settlement``: the caller holds the lease, and all of it is one transaction. Must not
know where the attestations come from, nor a remote.

Invariants: an attestation is taken over as it is, after every one that its process made before; nothing that is here is
overwritten by something that did not know it, unless it says that entries arrived: that is final, and of two such claims the
earlier one holds. After it ``verify_chains`` finds what it found before. Memory grows with components and problems alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from journaltrack import entries as vocabulary
from journaltrack import limits, schema, statements, taken
from journaltrack.actions import MAP_OF_KIND, Place, as_intervals
from journaltrack.applying_source import (
    Attested,
    Source,
    WriterRow,
    check_link,
    check_writer,
    forged,
    joined,
    text_of,
    which,
)
from journaltrack.attesting import Attestor, Settled, Statement
from journaltrack.database import bound
from journaltrack.errors import JournalAlteredError
from journaltrack.standing import origins
from journaltrack.statements import Named, Said

if TYPE_CHECKING:
    import sqlite3

MERGE: Final = "merge"
"""The action of attestations for what was decided, or found, when copies were brought together."""
_DESCRIBED: Final = ", ".join(schema.WRITER_COLUMNS)
_INSERT_WRITER: Final = schema.insert_sql("writer")
_INSERT_ATTESTATION: Final = schema.insert_sql("attestation")
_INSERT_RECEIPT: Final = schema.insert_sql("receipt")
_RUNS_OF: Final = (
    "SELECT max(first, ?1) + shift, min(last, ?2) + shift FROM temp.run WHERE writer_id = ?3 AND last >= ?1 AND first <= ?2 ORDER BY last"
)
# ``report_attestations`` says the same of claims: what arrived is final, and the earlier of two arrivals holds; still in doubt is
# in doubt since when, and by which request, it was.
_SETTLE: Final = (
    "INSERT INTO delivery (seq, receipt_id, outcome, reason, settled_at_ns) SELECT e.seq, ?1, ?2, ?3, ?4 FROM entry e "
    "WHERE e.seq BETWEEN ?5 AND ?6 ON CONFLICT (seq) DO UPDATE SET "
    "receipt_id = CASE WHEN outcome = 'in doubt' AND excluded.outcome = 'in doubt' THEN receipt_id ELSE excluded.receipt_id END, "
    "settled_at_ns = CASE WHEN outcome = 'in doubt' AND excluded.outcome = 'in doubt' THEN settled_at_ns ELSE excluded.settled_at_ns END, "
    "reason = excluded.reason, outcome = excluded.outcome WHERE outcome NOT IN ('delivered', 'superseded') "
    "OR (excluded.outcome IN ('delivered', 'superseded') AND excluded.settled_at_ns < settled_at_ns)"
)
_STILL: Final = "UPDATE delivery SET reason = ? WHERE seq BETWEEN ? AND ? AND outcome = 'in doubt'"
_RELEASE: Final = "DELETE FROM delivery WHERE seq BETWEEN ? AND ? AND outcome NOT IN ('delivered', 'superseded')"
_REOPEN: Final = "DELETE FROM delivery WHERE seq BETWEEN ? AND ? AND settled_at_ns <= ?"  # it was found to be gone
_MAPS: Final = " ".join(f"WHEN '{kind}' THEN '{field_map}'" for kind, field_map in MAP_OF_KIND.items())
_FIELDS: Final = (
    f"SELECT CASE e.kind {_MAPS} END, coalesce(e.name, ''), e.seq, e.recorded_at_ns, e.writer_id FROM entry e "
    "JOIN delivery d ON d.seq = e.seq WHERE e.component_id = ? AND e.stream <> 'metric' "
    f"AND e.kind IN ({', '.join(repr(kind) for kind in MAP_OF_KIND)}) AND d.outcome = 'delivered' ORDER BY e.seq"
)
_INSERT_FIELD: Final = "INSERT OR REPLACE INTO field (component_id, map, key, seq) VALUES (?, ?, ?, ?)"


@dataclass(slots=True)
class Applied:
    """What was taken over.

    Attributes:
        attestations, receipts, reconcilers: New ones, and the processes that made them.
        known: Attestations that were here already.
        elsewhere: Of the new ones, those about entries none of which is here.
        settled: By outcome, how many more entries are settled so than before; negative for fewer.
        kept: Entries that stay in doubt or quarantined although the other copy made them pending, since it did not know why.
    """

    attestations: int = 0
    receipts: int = 0
    reconcilers: int = 0
    known: int = 0
    elsewhere: int = 0
    settled: Counter[str] = field(default_factory=Counter)
    kept: int = 0


class Applier:
    """Applies attestations inside of a transaction.

    Args:
        connection: In a transaction of the attestor's.
        attestor: Of this process.
    """

    def __init__(self, connection: sqlite3.Connection, attestor: Attestor) -> None:
        self.applied = Applied()
        self.writers: dict[str, int] = dict(connection.execute("SELECT uuid, id FROM writer"))
        self.generation = 0
        self._connection = connection
        self._attestor = attestor
        self._components: dict[str, int] = {str(name).lower(): i for i, name in connection.execute("SELECT id, name FROM component")}
        self._touched: set[int] = set()
        self._heads = {
            str(uuid): (int(seq), bytes(digest))
            for uuid, seq, digest in connection.execute(
                "SELECT w.uuid, max(a.writer_seq), a.digest FROM attestation a JOIN writer w ON w.id = a.writer_id GROUP BY a.writer_id"
            )
        }
        self.discard()
        # Where the entries of a writer are: seq is writer_seq + shift. There is no index for it, so that an append pays for none.
        connection.execute(
            "CREATE TEMP TABLE run AS SELECT writer_id, min(writer_seq) AS first, max(writer_seq) AS last, seq - writer_seq AS shift "
            "FROM entry GROUP BY writer_id, seq - writer_seq"
        )
        connection.execute("CREATE INDEX temp.run_last ON run (writer_id, last)")
        self._last_attestation = 0
        self._outcomes: Counter[str] = Counter()
        self._taken: dict[str, tuple[int, int]] = {}
        self._is_told = False

    # -- entries and processes ----------------------------------------------------------------------------------

    def add_writer(self, row: WriterRow, where: str) -> int:
        """The local id of a process, recorded if it is new.

        Raises:
            EvidenceError: It is not as it described itself, or is described otherwise here.
        """
        known = self.writers.get(row.uuid)
        if known is not None:
            found = self._connection.execute(f"SELECT {_DESCRIBED}, digest FROM writer WHERE id = ?", (known,)).fetchone()
            if (*row.columns, row.digest) != tuple(found):
                raise forged(where, f"the process {limits.shown(row.uuid)} is described otherwise there than here")
            return known
        check_writer(row, where)
        writer_id = int(self._connection.execute(_INSERT_WRITER, (*row.columns, row.digest)).lastrowid or 0)
        self.writers[row.uuid] = writer_id
        return writer_id

    def add_component(self, name: str) -> tuple[int, str | None]:
        """The local id of a component (case does not matter), and how it is spelled here; None if it is new."""
        known = self._components.get(name.lower())
        if known is not None:
            return known, str(self._connection.execute("SELECT name FROM component WHERE id = ?", (known,)).fetchone()[0])
        columns = (name, self._attestor.clock_ns())
        made = int(self._connection.execute("INSERT INTO component (name, created_at_ns) VALUES (?, ?)", columns).lastrowid or 0)
        self._components[name.lower()] = made
        return made, None

    def add_run(self, writer_id: int, first: int, last: int, shift: int) -> None:
        """Entries were added: those of these places, whose ``seq`` is higher by ``shift``."""
        self._connection.execute("INSERT INTO temp.run VALUES (?, ?, ?, ?)", (writer_id, first, last, shift))

    def touch(self, component_ids: Iterable[int]) -> None:
        """What the remote holds of these components is to be derived again."""
        self._touched.update(component_ids)

    def places(self, named: Named, above: int = 0) -> list[tuple[int, int]]:
        """Where those of the entries are that are here, as (first, last) of ``seq``; only those beyond ``above``."""
        found = []
        for uuid, intervals in named.items():
            writer_id = self.writers.get(uuid)
            for first, last in intervals if writer_id is not None else ():
                for begin, end in self._connection.execute(*bound(_RUNS_OF, (first, last, writer_id))):
                    if end > above:
                        found.append((max(begin, above + 1), end))
        found.sort()
        return found

    # -- attestations -------------------------------------------------------------------------------------------

    def take_over(self, source: Source) -> None:
        """Record those attestations that are not here yet, and follow them.

        Raises:
            EvidenceError: They are not in their chains, contradict what is here, or can't be read. The transaction must be undone.
        """
        self.applied = Applied()
        self._taken = {}
        self._is_told = False
        self._connection.execute("DROP TABLE IF EXISTS temp.before")
        self._connection.execute("CREATE TEMP TABLE before AS SELECT * FROM delivery WHERE outcome IN ('quarantined', 'in doubt')")
        self._last_attestation = self._connection.execute("SELECT coalesce(max(id), 0) FROM attestation").fetchone()[0]
        self._outcomes = self._count()
        for each in source.attestations():
            chain = self._heads.get(each.uuid)
            if chain is not None and each.writer_seq <= chain[0]:
                self._refuse_fork(source, each)
                self.applied.known += 1
                continue
            if chain is None:
                row = source.writers.get(each.uuid)
                if row is None:
                    raise forged(source.name, f"an attestation is of the process {limits.shown(each.uuid)}, which is not described")
                self.applied.reconcilers += 1
                self.add_writer(row, source.name)
                chain = (0, vocabulary.attestation_start(row.begin))
            check_link(each, chain, source.name)
            self._heads[each.uuid] = (each.writer_seq, each.digest)
            self._taken[each.uuid] = (self._taken.get(each.uuid, (each.writer_seq, 0))[0], each.writer_seq)
            self._record(source, each)

    def _refuse_fork(self, source: Source, each: Attested) -> None:
        found = self._connection.execute(
            "SELECT digest FROM attestation WHERE writer_id = ? AND writer_seq = ?", (self.writers[each.uuid], each.writer_seq)
        ).fetchone()
        if found is None or found[0] != each.digest:
            what = f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)} says something else there than here"
            raise forged(source.name, f"{what}: one of the two was forged")

    def _record(self, source: Source, each: Attested) -> None:
        try:
            said = statements.read(each.body)
        except ValueError as error:
            raise forged(source.name, f"{which(each)} can't be read: {error}") from error
        self.generation = max(self.generation, said.generation)
        here = self.places(said.entries)
        component_id = None if said.component is None else self._components.get(said.component.lower())
        self._check_component(said, here, component_id, f"{which(each)} of {source.name}")
        receipt_id = None
        notes_alone = said.action == taken.TAKEN and not said.settled and said.component is None
        self._is_told |= not notes_alone
        if said.started_at_ns is not None and not notes_alone:  # by its receipt this journal's own note is known
            columns = (
                *(said.action, component_id, text_of(here), said.generation, said.started_at_ns, said.finished_at_ns, said.outcome),
                *(said.attempts, said.request_id, said.error_code, said.error_text),
            )
            receipt_id = int(self._connection.execute(_INSERT_RECEIPT, columns).lastrowid or 0)
            self.applied.receipts += 1
        self._connection.execute(_INSERT_ATTESTATION, (self.writers[each.uuid], each.writer_seq, receipt_id, each.body, each.digest))
        self.applied.attestations += 1
        self.applied.elsewhere += bool(said.entries) and not here
        self._follow(said, receipt_id, here)
        self._learn(said, receipt_id, component_id)

    def _check_component(self, said: Said, here: Sequence[tuple[int, int]], component_id: int | None, what: str) -> None:
        """See that a statement of a component is about entries of it."""
        for first, last in here if said.component is not None else ():
            other = self._connection.execute(
                "SELECT seq FROM entry WHERE seq BETWEEN ? AND ? AND component_id IS NOT ? LIMIT 1", (first, last, component_id)
            ).fetchone()
            if other is not None:
                raise forged(what, f"entry {other[0]} is not of the component {limits.shown(str(said.component))}, as is said there")

    def _follow(self, said: Said, receipt_id: int | None, here: Sequence[tuple[int, int]], above: int = 0) -> None:
        """Settle the entries as it says."""
        if said.released:
            for first, last in here:
                if said.reopened:
                    self._connection.execute(_REOPEN, (first, last, said.finished_at_ns))
                else:
                    self._connection.execute(_RELEASE, (first, last))
            if here:
                self._connection.execute("UPDATE mark SET seq = min(seq, ?)", (max(here[0][0] - 1, 0),))
        for group in said.settled:
            for first, last in here if group.entries is said.entries else self.places(group.entries, above):
                if said.looked(group):
                    self._connection.execute(_STILL, (group.reason, first, last))
                else:
                    settling = (receipt_id, group.outcome, group.reason, group.at_ns, first, last)
                    self._connection.execute(*bound(_SETTLE, settling))

    def _learn(self, said: Said, receipt_id: int | None, component_id: int | None) -> None:
        """What it says of the remote."""
        if said.component is None:
            self._touched.update(self._components.values() if said.settled else ())
        if component_id is None:
            return
        if said.settled:
            self._touched.add(component_id)
        if said.arn is not None:
            sql = "UPDATE component SET confirmed_at_ns = ?, arn = coalesce(nullif(?, ''), arn) WHERE id = ?"
            self._connection.execute(sql, (said.finished_at_ns, said.arn, component_id))
        if said.missing:
            self._connection.execute("UPDATE component SET confirmed_at_ns = NULL WHERE id = ?", (component_id,))
        if said.forgotten is not None:
            sql = "DELETE FROM location WHERE component_id = ? AND sha256 = ? AND bucket = ? AND prefix = ?"
            self._connection.execute(sql, (component_id, *said.forgotten))
        if said.location is not None:
            sql = "INSERT OR REPLACE INTO location (component_id, sha256, bucket, prefix, uri, receipt_id) VALUES (?, ?, ?, ?, ?, ?)"
            self._connection.execute(sql, (component_id, *said.location, receipt_id or 0))

    def follow_known(self, uuids: Iterable[str], components: Iterable[str], above: int) -> None:
        """Follow attestations that were here before the entries (beyond ``above``) and components that they are about.

        Args:
            uuids: Of the processes whose entries were added.
            components: Those that are new.
            above: The last ``seq`` before.
        """
        new_components = {name.lower() for name in components}
        fresh = [uuid for uuid in uuids if uuid in self.writers]
        if not fresh and not new_components:
            return
        rows = self._connection.execute(
            "SELECT a.receipt_id, a.body FROM attestation a LEFT JOIN receipt r ON r.id = a.receipt_id WHERE (? AND r.component_id IS NULL) "
            "OR EXISTS (SELECT 1 FROM json_each(?) u WHERE instr(a.body, u.value)) ORDER BY a.id",
            (bool(new_components), json.dumps(fresh)),
        )
        for receipt_id, body in rows:
            said = _own(body)
            self._follow(said, receipt_id, self.places(said.entries, above), above)
            if said.component is not None and said.component.lower() in new_components:
                self._learn(said, receipt_id, self._components[said.component.lower()])

    # -- the end ------------------------------------------------------------------------------------------------

    def finish(self, source: Source) -> int:
        """After ``take_over``: decide where the copies contradict each other, and derive what is derived.

        Returns:
            The generation that the lease has now.
        """
        self._decide(source)
        self.derive(self._touched)
        after = self._count()
        self.applied.settled = Counter({k: after[k] - self._outcomes[k] for k in after | self._outcomes if after[k] != self._outcomes[k]})
        return self._attestor.lease.outdo(self._connection, self.generation)

    def note(self, source: Source, *, found: bool = False) -> None:
        """Record where what was taken over (or ``found``) comes from: what it says is not this journal's own doing.

        Nothing if it is notes of this kind alone: copies that exchange what they know would never come to an end.
        """
        if self._is_told or found:
            taken.record(self._connection, self._attestor, source.origin, self._taken)

    def derive(self, component_ids: Iterable[int]) -> None:
        """What the remote should hold of these components, as far as is known here: the value of each key that arrived and was
        recorded last. Of journals that were synced apart an older one may have arrived later: a verification tells.
        """
        known_origins = origins(self._connection.execute)
        for component_id in component_ids:
            last: dict[tuple[str, str], Place] = {}
            for field_map, key, seq, recorded_at_ns, writer_id in self._connection.execute(_FIELDS, (component_id,)):
                place = Place(seq, recorded_at_ns, known_origins.get(writer_id, 0))
                if (field_map, key) not in last or last[field_map, key].is_before(place):
                    last[field_map, key] = place
            self._connection.executemany(_INSERT_FIELD, [(component_id, *field, place.seq) for field, place in last.items()])

    def discard(self) -> None:
        """Drop what is there for a merge alone."""
        for table in ("run", "before"):
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{table}")

    def _count(self) -> Counter[str]:
        return Counter(dict(self._connection.execute("SELECT outcome, count(*) FROM delivery GROUP BY outcome")))

    def _decide(self, source: Source) -> None:
        """Keep in doubt, or quarantined, what the other copy made pending without knowing why it is so here.

        A release overrides what its journal knew. What it did not know stays: a point in doubt that is sent again may be there twice.
        """
        lost = self._connection.execute(
            "SELECT b.seq, b.receipt_id, b.outcome, b.reason, b.settled_at_ns, d.outcome, e.component_id, e.recorded_at_ns "
            "FROM temp.before b JOIN entry e ON e.seq = b.seq LEFT JOIN delivery d ON d.seq = b.seq "
            "WHERE d.seq IS NULL OR (d.outcome = 'quarantined' AND b.outcome = 'in doubt') ORDER BY b.seq"
        ).fetchall()
        known: dict[int, bool] = {}
        planned = self._planned([row[0] for row in lost if row[1] is None], source)
        kept: dict[tuple[int, str, str | None, int], list[int]] = defaultdict(list)
        released = []
        for seq, receipt_id, outcome, reason, at_ns, now, component_id, recorded_at_ns in lost:
            if receipt_id is not None and receipt_id not in known:
                known[receipt_id] = self._is_known(receipt_id, source)
            at_once = receipt_id is None and outcome == "quarantined" and at_ns == recorded_at_ns  # by the append: every copy has it
            if not (at_once or (planned.get(seq, False) if receipt_id is None else known[receipt_id])):
                self._connection.execute("DELETE FROM delivery WHERE seq = ?", (seq,))
                self._connection.execute("INSERT INTO delivery VALUES (?, ?, ?, ?, ?)", (seq, receipt_id, outcome, reason, at_ns))
                kept[component_id, outcome, reason, at_ns].append(seq)
            elif now is None:
                released.append((seq, component_id))
        for (seq, component_id), group in self._finally(source, released):
            self._connection.execute("INSERT INTO delivery VALUES (?, NULL, ?, ?, ?)", (seq, group.outcome, group.reason, group.at_ns))
            kept[component_id, group.outcome, group.reason, group.at_ns].append(seq)
        self.applied.kept = sum(map(len, kept.values()))
        groups: dict[int, list[Settled]] = defaultdict(list)
        for (component_id, outcome, reason, at_ns), seqs in kept.items():
            groups[component_id].append(Settled(outcome, reason, as_intervals(seqs), at_ns))
        self.attest("kept", groups, {})

    def _planned(self, seqs: Sequence[int], source: Source) -> dict[int, bool]:
        """Whether the other copy has what was said last, without a request, of these entries."""
        if not seqs:
            return {}
        wanted = set(seqs)
        found: dict[int, bool] = {}
        rows = self._connection.execute(
            "SELECT w.uuid, a.writer_seq, a.body FROM attestation a JOIN writer w ON w.id = a.writer_id "
            "WHERE a.receipt_id IS NULL AND a.id <= ? ORDER BY a.id",
            (self._last_attestation,),
        )
        for uuid, writer_seq, body in rows:
            is_known = writer_seq <= source.heads.get(uuid, 0)
            found.update(dict.fromkeys(self._seqs(_own(body).entries, wanted), is_known))
        return found

    def _is_known(self, receipt_id: int, source: Source) -> bool:
        """Whether the other copy has what the receipt says."""
        rows = self._connection.execute(
            "SELECT w.uuid, a.writer_seq FROM attestation a JOIN writer w ON w.id = a.writer_id WHERE a.receipt_id = ?", (receipt_id,)
        )
        return any(writer_seq <= source.heads.get(uuid, 0) for uuid, writer_seq in rows)

    def _finally(self, source: Source, released: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], statements.Group]]:
        """Those of the entries that are settled in the other copy after all, by what it says in its own order."""
        if not released:
            return
        wanted = {seq for seq, _ in released}
        last: dict[int, statements.Group] = {}
        for each in source.attestations():
            said = statements.read(each.body)
            if said.released:
                for seq in self._seqs(said.entries, wanted):
                    last.pop(seq, None)
            for group in said.settled if not said.released else ():
                if not said.looked(group):
                    last.update(dict.fromkeys(self._seqs(group.entries, wanted), group))
        for seq, component_id in released:
            if seq in last:
                yield (seq, component_id), last[seq]

    def _seqs(self, named: Named, wanted: set[int]) -> list[int]:
        places = self.places(named)
        if sum(last - first + 1 for first, last in places) > len(wanted):
            return [seq for seq in wanted if any(first <= seq <= last for first, last in places)]
        return [seq for first, last in places for seq in range(first, last + 1) if seq in wanted]

    def attest(self, outcome: str, groups: Mapping[int, Sequence[Settled]], more: Mapping[str, Any]) -> None:
        """Record what this process decided or found, by component: a receipt and an attestation for each."""
        now_ns = self._attestor.clock_ns()
        generation = self._attestor.lease.generation
        made = []
        for component_id, settled in groups.items():
            entries = joined(sorted(interval for each in settled for interval in each.entries))
            columns = (MERGE, component_id, text_of(entries), generation, now_ns, now_ns, outcome, 0, None, None, None)
            receipt_id = int(self._connection.execute(_INSERT_RECEIPT, columns).lastrowid or 0)
            statement = Statement(
                *(MERGE, outcome, component_id, entries, now_ns, generation, settled, receipt_id, now_ns), attempts=0, more=more
            )
            sql = "UPDATE delivery SET receipt_id = ? WHERE seq BETWEEN ? AND ? AND receipt_id IS NULL AND outcome = ?"
            of_group = [(receipt_id, first, last, each.outcome) for each in settled for first, last in each.entries]
            self._connection.executemany(sql, of_group)
            made.append(statement)
        self._attestor.attest(self._connection, made)


def _own(body: object) -> Said:
    """What an attestation of this journal says.

    Raises:
        JournalAlteredError: It can't be read.
    """
    try:
        return statements.read(body)
    except ValueError as error:
        hint = "`journaltrack audit --verify` says more; if the journal is not yours, do not trust it"
        raise JournalAlteredError(f"an attestation of the journal can't be read: {error}; nothing was taken over", hint=hint) from error
