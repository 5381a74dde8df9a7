"""Return whether the chains of what a pass is about to send, or to anchor, hold: an entry that was altered is not carried out.

A link is looked at with what is around it: the entry before it in its writer's chain, whose digest it continues, and those that
come next, since whoever alters an entry and its digest breaks the link after it. Which entry of a broken chain was edited can't be
told, so that all of its writer's entries are held back, and nobody else's. Whoever computes a chain anew to its end leaves nothing
for this to see: that is what anchors are for.

What was looked at is remembered, so that an anchor costs only what no pass has looked at before. Reads alone; must not know how
anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import JournalAlteredError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import (
    COLUMNS,
    Chain,
    ChainProblem,
    Gaps,
    Removed,
    across_removed,
    begin_of,
    follow,
    is_described,
    read_body,
    take_gaps,
    undescribed,
)
from journaltrack.journal.removed import IS_PRUNE
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.evidence import taken
from journaltrack.util.intervals import as_intervals, merged, without

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Intervals

_AHEAD: Final = 16
"""Entries that are looked at beyond those to be sent: the next one of each writer is among them, where few write at a time."""
_AT_A_TIME: Final = 20_000
"""Entries that nobody has looked at, between two looks at the time."""
_PROBLEMS_SHOWN: Final = 3
_ENTRIES: Final = (
    f"SELECT {COLUMNS} FROM json_each(?) i CROSS JOIN entry e "
    "ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')"
)
_BEFORE: Final = "SELECT writer_seq, digest FROM entry WHERE seq < ? AND writer_id = ? ORDER BY seq DESC LIMIT 1"
_WRITER: Final = f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer WHERE id = ?"
_UP_TO: Final = "SELECT max(seq) FROM (SELECT seq FROM entry WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?)"
_ATTESTATIONS: Final = (
    "SELECT a.id, a.writer_id, a.writer_seq, a.body, a.digest FROM attestation a WHERE a.id > ? AND {0} ORDER BY a.id LIMIT ?"
)
_ATTESTATION_BEFORE: Final = "SELECT digest FROM attestation WHERE writer_id = ? AND writer_seq = ?"


def altered(folder: Path, problems: Sequence[ChainProblem]) -> JournalAlteredError:
    """The refusal of what such problems were found in."""
    shown = "; ".join(limits.shown(problem.message) for problem in problems[:_PROBLEMS_SHOWN])
    more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
    return JournalAlteredError(
        f"the journal at {folder} was altered: {shown}{more}; nothing that it may concern was sent",
        hint="copy the whole journal before anything else, and compare with a backup; `journaltrack check` says what it means; "
        "`journaltrack sync --unproved` sends it as it is",
    )


class Proof:
    """What is known of the chains of one journal.

    Attributes:
        problems: The first broken link of each chain that does not hold, in the order in which they were found.
    """

    def __init__(self, database: Database) -> None:
        self.problems: list[ChainProblem] = []
        self._database = database
        self._chains: dict[Any, Chain | None] = {}
        self._ids: dict[str, Any] = {}
        self._names: dict[Any, Any] = {}
        self._gaps: dict[str, Removed] | None = None
        self._to_come: Gaps = {}
        self._seen: list[tuple[int, int]] = []

    def look_at(self, seqs: Sequence[int], rows: Iterable[tuple[Any, ...]] | None = None) -> None:
        """Follow the chains of these entries (in order of ``seq``), and a little further.

        Args:
            seqs: Of the entries.
            rows: The same as ``follow`` takes them; None: they are to be read.
        """
        intervals = as_intervals(seqs)
        if rows is None or len(intervals) != 1:  # what is between is looked at too: that takes less than to look for each one's place
            self._follow([(first, last + _AHEAD) for first, last in intervals])
            return
        ((first, last),) = intervals
        self.problems += follow(rows, self._chain_of, self._name_of, self._across)
        self._seen = merged([*self._seen, (first, last)])
        self._follow([(last + 1, last + _AHEAD)])

    @property
    def broken(self) -> Collection[object]:
        """The writers, by their ids, of whose chains a link was found that does not hold."""
        return {writer_id for writer_id, chain in self._chains.items() if chain is None or chain.broken} if self.problems else ()

    def all_hold(self, seqs: Sequence[int]) -> bool:
        """Look at these entries; whether nothing is known against the chains that they are in."""
        self.look_at(seqs)
        broken = self.broken
        writers = "SELECT DISTINCT writer_id FROM entry WHERE seq IN (SELECT value FROM json_each(?))"
        return not broken or not any(writer_id in broken for (writer_id,) in self._database.read(writers, (json.dumps(seqs),)))

    @property
    def altered(self) -> JournalAlteredError | None:
        """What to tell of the chains that do not hold."""
        return altered(self._database.path.parent, self.problems) if self.problems else None

    def broken_since(self, seq: int, attestation: int, is_over: Callable[[], bool]) -> Collection[str] | None:
        """Look at all that was recorded since and that was not looked at.

        Args:
            seq: Entries above it.
            attestation: Attestations above it, by their id.
            is_over: Whether there is no more time.

        Returns:
            The uuids of writers whose chain, of entries or of attestations, does not hold; None if the time was over before.
        """
        ((newest,),) = self._database.read("SELECT coalesce(max(seq), 0) FROM entry")
        for begin, last in without([(seq + 1, newest)], self._seen):
            first: int | None = begin
            while first is not None and first <= last:
                if is_over():
                    return None
                ((upto,),) = self._database.read(_UP_TO, (first, last, _AT_A_TIME))
                self._follow([(first, last if upto is None else upto)])
                first = None if upto is None else upto + 1
        broken = {chain.uuid for chain in self._chains.values() if chain is not None and chain.broken}
        for uuid, _, holds in self._attestations(attestation):
            if not holds and uuid not in broken:
                broken.add(uuid)
                message = f"an attestation of the process {limits.shown(uuid)} is not what it attested, or those before it are gone"
                self.problems.append(ChainProblem("attestation", message, uuid))
        return broken

    def _follow(self, intervals: Intervals) -> None:
        wanted = merged(intervals)
        with self._database.lock, translated(self._database.path):
            rows = self._database.connection.execute(_ENTRIES, (json.dumps(wanted),))
            self.problems += follow(rows, self._chain_of, self._name_of, self._across)
        self._seen = merged([*self._seen, *wanted])

    def _chain_of(self, writer_id: Any) -> Chain | None:  # noqa: ANN401 - whatever SQLite holds
        if writer_id not in self._chains:
            rows = self._database.read(_WRITER, (writer_id,))
            self._chains[writer_id] = chain = self._begun(rows[0]) if rows else None
            if chain is not None:
                self._ids[chain.uuid] = writer_id
        return self._chains[writer_id]

    def _begun(self, row: tuple[Any, ...]) -> Chain:
        uuid, host, pid, *_, digest = row
        chain = Chain(str(uuid), str(host), pid, begin_of(uuid, digest))
        if not is_described(digest, row[:-1]):
            self.problems.append(undescribed(chain))
        return chain

    def _name_of(self, component_id: Any) -> Any:  # noqa: ANN401
        if component_id not in self._names:
            rows = self._database.read("SELECT name FROM component WHERE id = ?", (component_id,))
            self._names[component_id] = rows[0][0] if rows else None
        return self._names[component_id]

    def _across(self, chain: Chain, writer_seq: int, seq: int) -> bool:
        """To the entry before, wherever it is; what was removed on the record may be between."""
        writer_id = self._ids[chain.uuid]
        # Of a new writer there is nothing before, and looking for it would read all that others recorded.
        rows = self._database.read(_BEFORE, (seq, writer_id)) if writer_seq > 1 else []
        place, digest = rows[0] if rows else (0, None)
        if not rows:
            ((described,),) = self._database.read("SELECT digest FROM writer WHERE id = ?", (writer_id,))
            digest = begin_of(chain.uuid, described)
        if type(place) is not int or not isinstance(digest, bytes):
            return False
        chain.writer_seq, chain.digest = place, digest
        return place + 1 == writer_seq or any(across_removed(chain, writer_seq, gaps) for gaps in self._removed())

    def _removed(self) -> tuple[Gaps, Gaps]:
        """What was removed on the record, from attestations whose own link holds, and what merges told of it before those came."""
        if self._gaps is None:
            self._gaps, self._to_come = {}, taken.gaps_to_come(self._database)
            for _, body, holds in self._attestations(0, IS_PRUNE):
                if holds:
                    try:
                        take_gaps(self._gaps, read_body(body) or {})
                    except (ValueError, TypeError, AttributeError):  # a crafted one: nothing was removed by it
                        continue
        return self._gaps, self._to_come

    def _attestations(self, above: int, where: str = "1") -> Iterator[tuple[str, str, bool]]:
        """(the writer's uuid, body, whether its link holds) of each whose id is above."""
        heads: dict[Any, tuple[int, bytes]] = {}
        while rows := self._database.read_page(_ATTESTATIONS.format(where), (above, _AT_A_TIME)):
            for number, writer_id, writer_seq, body, digest in rows:
                above = number
                chain = self._chain_of(writer_id)
                known = heads.get(writer_id)
                before = known[1] if known is not None and known[0] + 1 == writer_seq else self._head_before(chain, writer_id, writer_seq)
                holds = before is not None and isinstance(body, str) and vocabulary.attestation_next(before, body) == digest
                if isinstance(digest, bytes):
                    heads[writer_id] = (writer_seq, digest)
                yield chain.uuid if chain is not None else "", body, holds

    def _head_before(self, chain: Chain | None, writer_id: object, writer_seq: object) -> bytes | None:
        """The digest that an attestation continues."""
        if chain is None or type(writer_seq) is not int:
            return None
        if writer_seq == 1:
            ((described,),) = self._database.read("SELECT digest FROM writer WHERE id = ?", (writer_id,))
            return vocabulary.attestation_start(begin_of(chain.uuid, described))
        rows = self._database.read(_ATTESTATION_BEFORE, (writer_id, writer_seq - 1))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None
