"""Check the chains of what a pass is about to send or anchor.

What may be altered is held back.

A link is checked with its neighbours. Before it is the entry whose digest it continues. After it
come the next entries: whoever alters an entry and its digest breaks the link after it. Which entry
of a broken chain was altered can't be told. So all entries of its writer are held back, and nobody
else's. Whoever computes a chain anew to its end leaves nothing to see here: that is what anchors
are for.

What was checked is remembered, so an anchor costs only what no pass has checked before.

Only reads. Must not know how anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import JournalAlteredError
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
from journaltrack.journal.vocabulary import attestation_next, attestation_start
from journaltrack.replay.evidence import taken
from journaltrack.util.intervals import as_intervals, merged, without

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Intervals

_AHEAD: Final = 16
"""Entries checked beyond those to send.

Where few writers write at a time, the next entry of each is among them.
"""
_AT_A_TIME: Final = 20_000
"""Unchecked entries that are followed between two looks at the time."""
_PROBLEMS_SHOWN: Final = 3
_ENTRIES: Final = (
    f"SELECT {COLUMNS} FROM json_each(?) i CROSS JOIN entry e "
    "ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')"
)
_BEFORE: Final = (
    "SELECT writer_seq, digest FROM entry WHERE seq < ? AND writer_id = ? ORDER BY seq DESC LIMIT 1"
)
_WRITER: Final = f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer WHERE id = ?"
_UP_TO: Final = (
    "SELECT max(seq) FROM (SELECT seq FROM entry WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?)"
)
_LINK: Final = "a.id, a.writer_id, a.writer_seq, a.body, a.digest"
_ATTESTATIONS: Final = (
    f"SELECT {_LINK} FROM attestation a WHERE a.id > ? AND {{0}} ORDER BY a.id LIMIT ?"
)
_ATTESTATION_BEFORE: Final = "SELECT digest FROM attestation WHERE writer_id = ? AND writer_seq = ?"


def altered(folder: Path, problems: Sequence[ChainProblem]) -> JournalAlteredError:
    """Return the error that refuses what such problems were found in."""
    shown = "; ".join(limits.shown(problem.message) for problem in problems[:_PROBLEMS_SHOWN])
    more = (
        f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
    )
    return JournalAlteredError(
        f"the journal at {folder} was altered: {shown}{more}; nothing that it may concern was sent",
        hint="copy the whole journal before anything else, and compare with a backup; "
        "`journaltrack check` says what it means; "
        "`journaltrack sync --unproved` sends it as it is",
    )


class Proof:
    """Remember what is known of the chains of one journal.

    Attributes:
        problems: The first broken link of each chain that does not hold, in order of discovery.
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
            rows: The entries as ``chain.follow`` takes them. None: they are read.
        """
        intervals = as_intervals(seqs)
        # Entries in the gaps are checked too: that costs less than to look up each one's place.
        if rows is None or len(intervals) != 1:
            self._follow([(first, last + _AHEAD) for first, last in intervals])
            return
        ((first, last),) = intervals
        self.problems += follow(rows, self._chain_of, self._name_of, self._across)
        self._seen = merged([*self._seen, (first, last)])
        self._follow([(last + 1, last + _AHEAD)])

    @property
    def broken(self) -> Collection[object]:
        """Return the ids of the writers in whose chains a broken link was found."""
        return (
            {
                writer_id
                for writer_id, chain in self._chains.items()
                if chain is None or chain.broken
            }
            if self.problems
            else ()
        )

    def all_hold(self, seqs: Sequence[int]) -> bool:
        """Check these entries. Return whether nothing is known against their chains."""
        self.look_at(seqs)
        broken = self.broken
        writers = (
            "SELECT DISTINCT writer_id FROM entry WHERE seq IN (SELECT value FROM json_each(?))"
        )
        if not broken:
            return True
        found = self._database.read(writers, (json.dumps(seqs),))
        return not any(writer_id in broken for (writer_id,) in found)

    @property
    def altered(self) -> JournalAlteredError | None:
        """Return the error that tells of the broken chains, or None."""
        return altered(self._database.path.parent, self.problems) if self.problems else None

    def broken_since(
        self, seq: int, attestation: int, is_over: Callable[[], bool]
    ) -> Collection[str] | None:
        """Check everything recorded since that was not checked yet.

        Args:
            seq: Check entries above this one.
            attestation: Check attestations above this id.
            is_over: Returns whether the time is over.

        Returns:
            The uuids of writers whose chain, of entries or of attestations, does not hold. None
            if the time was over before.
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
        broken = {
            chain.uuid for chain in self._chains.values() if chain is not None and chain.broken
        }
        for uuid, _, holds in self._attestations(attestation):
            if not holds and uuid not in broken:
                broken.add(uuid)
                who = f"an attestation of the process {limits.shown(uuid)}"
                message = f"{who} is not what it attested, or those before it are gone"
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
        """Set the chain to the entry before. Return whether nothing is missing.

        What was removed on the record may lie between.
        """
        writer_id = self._ids[chain.uuid]
        # A new writer has no entry before, and to look for one would read everybody's entries.
        rows = self._database.read(_BEFORE, (seq, writer_id)) if writer_seq > 1 else []
        place, digest = rows[0] if rows else (0, None)
        if not rows:
            digest = self._begin_of(chain, writer_id)
        if type(place) is not int or not isinstance(digest, bytes):
            return False
        chain.writer_seq, chain.digest = place, digest
        return place + 1 == writer_seq or any(
            across_removed(chain, writer_seq, gaps) for gaps in self._removed()
        )

    def _begin_of(self, chain: Chain, writer_id: object) -> bytes:
        rows = self._database.read("SELECT digest FROM writer WHERE id = ?", (writer_id,))
        return begin_of(chain.uuid, rows[0][0])

    def _removed(self) -> tuple[Gaps, Gaps]:
        """Return what was removed on the record.

        The first part comes from attestations whose own link holds. The second comes from what
        merges said before those attestations arrived.
        """
        if self._gaps is None:
            self._gaps, self._to_come = {}, taken.gaps_to_come(self._database)
            for _, body, holds in self._attestations(0, IS_PRUNE):
                if holds:
                    try:
                        take_gaps(self._gaps, read_body(body) or {})
                    # A crafted attestation removed nothing.
                    except (ValueError, TypeError, AttributeError):
                        continue
        return self._gaps, self._to_come

    def _attestations(self, above: int, where: str = "1") -> Iterator[tuple[str, str, bool]]:
        """Yield (writer's uuid, body, whether its link holds) above an id."""
        heads: dict[Any, tuple[int, bytes]] = {}
        while rows := self._database.read_page(_ATTESTATIONS.format(where), (above, _AT_A_TIME)):
            for number, writer_id, writer_seq, body, digest in rows:
                above = number
                chain = self._chain_of(writer_id)
                known = heads.get(writer_id)
                before = (
                    known[1]
                    if known is not None and known[0] + 1 == writer_seq
                    else self._head_before(chain, writer_id, writer_seq)
                )
                holds = (
                    before is not None
                    and isinstance(body, str)
                    and attestation_next(before, body) == digest
                )
                if isinstance(digest, bytes):
                    heads[writer_id] = (writer_seq, digest)
                yield chain.uuid if chain is not None else "", body, holds

    def _head_before(
        self, chain: Chain | None, writer_id: object, writer_seq: object
    ) -> bytes | None:
        """Return the digest that an attestation continues."""
        if chain is None or type(writer_seq) is not int:
            return None
        if writer_seq == 1:
            return attestation_start(self._begin_of(chain, writer_id))
        rows = self._database.read(_ATTESTATION_BEFORE, (writer_id, writer_seq - 1))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None
