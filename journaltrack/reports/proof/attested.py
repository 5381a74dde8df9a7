"""Follow the chains of attestations, and compare each receipt with its attestation.

A receipt is a plain row. Its attestation is in a chain of digests, and says what the row says.
Entries that were removed on the record are in the attestation alone.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal.chain import ChainProblem, Gaps, Removed, chains, take_gaps, told
from journaltrack.journal.sqlite.errors import translated
from journaltrack.journal.vocabulary import attestation_next
from journaltrack.replay.evidence import statements
from journaltrack.replay.evidence.follow import Replay
from journaltrack.replay.evidence.statements import Intervals, Named, Said
from journaltrack.replay.evidence.taken import TAKEN
from journaltrack.util.intervals import as_text, extend, merged, ranges_in, size, without

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

LISTED_MAX: Final = 100
"""Our limit: problems of one kind in a list; the first ones matter."""
_COLUMNS: Final = (
    "action",
    "outcome",
    "generation",
    "started_at_ns",
    "finished_at_ns",
    "attempts",
    "request_id",
    "error_code",
    "error_text",
)
"""The columns of a receipt. Its attestation has members of the same names."""
_of_receipt: Final = operator.attrgetter(*_COLUMNS)
_PLAIN: Final = (
    "SELECT a.id, a.writer_id, a.writer_seq, a.receipt_id, a.body, a.digest FROM attestation a "
    "ORDER BY a.id"
)
_FULL: Final = (
    "SELECT a.id, a.writer_id, a.writer_seq, a.receipt_id, a.body, a.digest, r.id, c.name, "
    f"r.entries, r.{', r.'.join(_COLUMNS)} FROM attestation a "
    "LEFT JOIN receipt r ON r.id = a.receipt_id LEFT JOIN component c ON c.id = r.component_id "
    "ORDER BY a.id"
)
"""The same, with what is recorded of the attestation's receipt."""


@dataclass(slots=True)
class Evidence:
    """What the attestations that hold say, beside what became of entries.

    Attributes:
        generation: The highest generation of a lease.
        gaps: See ``chain.Gaps``.
        gaps_to_come: Gaps that only merges told, before the attestations about them came.
        pruned_to: By the writer's uuid, the last place that was removed here and not in another
            copy.
        blobs_removed: Contents that were removed from the spool on the record.
    """

    generation: int = 0
    gaps: dict[str, Removed] = field(default_factory=dict)
    gaps_to_come: dict[str, Removed] = field(default_factory=dict)
    pruned_to: dict[str, int] = field(default_factory=dict)
    blobs_removed: set[str] = field(default_factory=set)

    def take(self, body: object, receipt_id: int | None) -> Said:
        """Add what one attestation says.

        Raises:
            ValueError, TypeError: It can't be read.
        """
        if (plain := statements.plain(body)) is not None:
            self.generation = max(self.generation, plain.generation)
            return plain
        members = statements.members_of(body)
        said = statements.said(members)
        self.generation = max(self.generation, said.generation)
        take_gaps(self.gaps, members)
        if receipt_id is None:
            for uuid, _, last, _ in members.get("removed") or ():
                self.pruned_to[uuid] = max(last, self.pruned_to.get(uuid, 0))
        elif said.action == TAKEN:
            take_gaps(self.gaps_to_come, members, "gaps")
        self.blobs_removed.update(map(str, members.get("blobs") or ()))
        return said


def attestation_problems(
    database: Database, evidence: Evidence, receipts: Receipts | None = None
) -> list[ChainProblem]:
    """Find the first broken link of each chain of attestations.

    Args:
        database: Of the journal.
        evidence: Receives what the attestations before a broken link say.
        receipts: Receives each of them with its receipt, too.
    """
    started = chains(database, attestations=True)
    found = []
    with database.lock, translated(database.path):
        for (
            number,
            writer_id,
            writer_seq,
            receipt_id,
            body,
            digest,
            *receipt,
        ) in database.connection.execute(_PLAIN if receipts is None else _FULL):
            chain = started.get(writer_id)
            if chain is None:
                message = (
                    f"attestation {number} is of writer {told(writer_id)}, which is not recorded"
                )
                found.append(ChainProblem("attestation", message))
                continue
            if chain.broken:
                continue
            if writer_seq != chain.writer_seq + 1:
                message = (
                    f"attestation {number} is number {told(writer_seq)} of its writer, "
                    f"{chain.writer_seq + 1} was expected"
                )
                found.append(chain.problem("attestation", message))
                continue
            if not isinstance(body, str) or attestation_next(chain.digest, body) != digest:
                found.append(
                    chain.problem(
                        "attestation",
                        f"attestation {number} is not what was attested: its digest does not fit "
                        "its body",
                    )
                )
                continue
            chain.digest, chain.writer_seq = digest, writer_seq
            try:
                said = evidence.take(body, receipt_id)
            except (ValueError, TypeError) as error:
                message = (
                    f"the body of attestation {number} can't be read: {limits.shown(str(error))}"
                )
                found.append(chain.problem("attestation", message))
                continue
            if receipts is not None:
                receipts.take(number, receipt_id, said, receipt)
    return found


def evidence_of(database: Database) -> Evidence:
    """Return what all attestations before a broken link say. Their problems are not looked at."""
    evidence = Evidence()
    attestation_problems(database, evidence)
    return evidence


class Receipts:
    """Compares each receipt with its attestation, and follows what is attested.

    Attributes:
        found: The first receipts that differ from what was attested.
    """

    def __init__(self, database: Database, replay: Replay, gaps: Gaps) -> None:
        self.found: list[ChainProblem] = []
        self._replay = replay
        self._identities = _Identities(database, gaps)

    def take(self, number: int, receipt_id: int | None, said: Said, receipt: Sequence[Any]) -> None:
        """Take the next attestation, with what is recorded of its receipt."""
        here = self._replay.follow(said, receipt_id)
        if receipt_id is None or len(self.found) >= LISTED_MAX:
            return
        there, component, entries, *values = receipt
        if there is None:
            self.found.append(
                ChainProblem(
                    "receipt", f"the receipt {receipt_id} is gone, attestation {number} is of it"
                )
            )
            return
        wrong = []
        if (attested := _of_receipt(said)) != tuple(values):
            wrong = [
                name
                for name, one, other in zip(_COLUMNS, attested, values, strict=True)
                if one != other
            ]
        if not _same_component(said.component, component, entries):
            wrong.append("component")
        if not self._identities.agree(entries, said.entries, here.entries):
            wrong.append("entries")
        if wrong:
            message = f"the receipt {receipt_id} is not what was attested of it: {', '.join(wrong)}"
            self.found.append(ChainProblem("receipt", message))


def _same_component(attested: object, recorded: object, entries: object) -> bool:
    """Return whether a receipt is of the component that its attestation names.

    A receipt from another copy has no component if neither the component nor any of its entries
    was here.
    """
    if attested == recorded is not None:
        # Nearly always.
        return isinstance(attested, str)
    if recorded is None and entries == "":
        return attested is None or isinstance(attested, str)
    same = (
        isinstance(attested, str)
        and isinstance(recorded, str)
        and attested.lower() == recorded.lower()
    )
    return same or (attested is None and recorded is None)


class _Identities:
    """Tells whether a receipt's text and an attestation name the same entries."""

    def __init__(self, database: Database, gaps: Gaps) -> None:
        self._database = database
        self._uuids = {i: str(uuid) for i, uuid in database.read("SELECT id, uuid FROM writer")}
        self._ids = {uuid: i for i, uuid in self._uuids.items()}
        self._gaps = gaps
        self._last_seq = database.read("SELECT coalesce(max(seq), 0) FROM entry")[0][0]

    def agree(self, text: object, named: Named, here: Intervals) -> bool:
        """Return whether the receipt names the entries that the attestation names.

        Entries that were removed on the record do not count.

        Args:
            text: Of the receipt.
            named: By the attestation.
            here: Where the entries of ``named`` are in this journal.
        """
        if text == as_text(here) and size(here) == sum(map(size, named.values())):
            # Nearly always: all of them are here.
            return True
        try:
            intervals = ranges_in(text)
        except ValueError:
            return False
        wanted = {(uuid, interval) for uuid, ranges in named.items() for interval in ranges}
        found: dict[str, list[tuple[int, int]]] = {}
        highest = count = 0
        rows = self._database.connection.execute(
            "SELECT e.seq, e.writer_id, e.writer_seq FROM json_each(?) i "
            "CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
            "AND json_extract(i.value, '$[1]') WHERE typeof(e.writer_seq) = 'integer'",
            (json.dumps(intervals),),
        )
        for seq, writer_id, writer_seq in rows:
            highest, count = max(highest, seq), count + 1
            uuid = self._uuids.get(writer_id, f"unknown-{writer_id}")
            extend(found.setdefault(uuid, []), writer_seq, writer_seq)
        if count != size(intervals) and (not self._gaps or intervals[-1][1] > self._last_seq):
            # The receipt names entries that never existed.
            return False
        there = {(uuid, interval) for uuid, runs in found.items() for interval in runs}
        if there == wanted or (
            bool(self._gaps) and self._without_removed(wanted) == self._without_removed(there)
        ):
            return True
        return self._came_later(there, wanted, highest)

    def _came_later(
        self,
        there: set[tuple[str, tuple[int, int]]],
        wanted: set[tuple[str, tuple[int, int]]],
        highest: int,
    ) -> bool:
        """Return whether the receipt leaves out only entries that came after it.

        A receipt from another copy may name entries that were not here when it came.
        """
        coverage: dict[str, list[tuple[int, int]]] = {}
        for uuid, interval in wanted:
            coverage.setdefault(uuid, []).append(interval)
        for uuid, (first, last) in there:
            if not any(begin <= first and last <= end for begin, end in coverage.get(uuid, ())):
                return False
        for uuid, intervals in coverage.items():
            writer_id = self._ids.get(uuid)
            known = size(interval for name, interval in there if name == uuid)
            if writer_id is None or known == size(intervals):
                continue
            left_out = self._database.connection.execute(
                "SELECT count(*) FROM entry e "
                "CROSS JOIN json_each(?) i ON e.writer_seq BETWEEN json_extract(i.value, '$[0]') "
                "AND json_extract(i.value, '$[1]') WHERE e.writer_id = ? AND e.seq <= ?",
                (json.dumps(intervals), writer_id, highest),
            ).fetchone()[0]
            if left_out != known:
                return False
        return True

    def _without_removed(
        self, runs: set[tuple[str, tuple[int, int]]]
    ) -> dict[str, list[tuple[int, int]]]:
        named: dict[str, list[tuple[int, int]]] = {}
        for uuid, interval in runs:
            named.setdefault(uuid, []).append(interval)
        left = {
            uuid: without(
                merged(each), merged(self._gaps[uuid].runs()) if uuid in self._gaps else ()
            )
            for uuid, each in named.items()
        }
        return {uuid: each for uuid, each in left.items() if each}
