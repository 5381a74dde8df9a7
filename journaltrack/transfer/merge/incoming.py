"""The entries that a merge brings: of all sources, each once, in the order in which they were recorded, seen to be right before the first is written.

Sources are read twice, each in the one snapshot that its caller holds: first along all chains, to see that they hold, then to write.
So nothing is kept of them in between, and a source that turns out to be wrong has changed nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal.chain import Chain, across_removed, follow
from journaltrack.transfer.apply.source import WriterRow, forged

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Named
    from journaltrack.transfer.apply.applier import Applier
    from journaltrack.transfer.merge.source import JournalSource

Row: TypeAlias = tuple[Any, ...]
"""An entry of a source, by ``chain.COLUMNS``; ids are the source's own."""
SEQ, WRITER, PLACE, COMPONENT, REST, RECORDED, DIGEST = 0, 1, 2, 3, slice(4, 13), 11, 12
_HEADS: Final = "SELECT writer_id, max(writer_seq), digest FROM entry GROUP BY writer_id"


class _Part(NamedTuple):
    """What a source brings of one process: the places behind ``after``, none before the time ``since_ns``."""

    uuid: str
    after: int
    since_ns: int


class Incoming:
    """Entries of sources that the target of a merge does not have.

    Args:
        sources: In the order in which they were named.
        applier: Knows what is here.
        database: Of the target.

    Attributes:
        writers: The processes that recorded them, by uuid.
        beyond: By uuid: the last place that was here before.
        counts: How many there are of each source.
    """

    def __init__(self, sources: Sequence[JournalSource], applier: Applier, database: Database) -> None:
        self.writers: dict[str, WriterRow] = {}
        self.beyond: dict[str, int] = {}
        self.counts = [0] * len(sources)
        self._sources = sources
        self._applier = applier
        self._database = database
        self._chains: dict[str, Chain] = {}  # how far the target has come, with what comes from the sources that were looked at
        self._described: dict[str, WriterRow] = {}
        self._parts: list[dict[Any, _Part]] = [{} for _ in sources]
        self._ended_ns: dict[str, int] = {}  # when the last entry of a process comes
        self._names: dict[str, None] = {}  # of components
        self._only: dict[str, str | None] = {}  # by uuid: its component, if it is of one alone
        uuids = {writer_id: uuid for uuid, writer_id in applier.writers.items()}
        for writer_id, place, digest in database.read(_HEADS):
            if writer_id in uuids:
                self._chains[uuids[writer_id]] = Chain(uuids[writer_id], "", 0, digest, place)

    def look(self, alive: Callable[[], None]) -> None:
        """Look at all that is new, from the first to the last.

        Args:
            alive: Called now and then.

        Raises:
            EvidenceError: A source contradicts itself, another one or the target.
            InvalidInputError: A component is spelled otherwise elsewhere.
        """
        for source in self._sources:
            for uuid in source.recorders:
                self._meet(uuid, source)
        for number, source in enumerate(self._sources):
            self._look_at(number, source, alive)

    def _meet(self, uuid: str, source: JournalSource) -> None:
        row = source.writers[uuid]
        self._applier.check_writer(row, source.name)
        if self._described.setdefault(uuid, row) != row:
            raise forged(source.name, f"the process {limits.shown(uuid)} is described otherwise there than in another source")
        self._chains.setdefault(uuid, Chain(uuid, "", 0, row.begin))

    def _look_at(self, number: int, source: JournalSource, alive: Callable[[], None]) -> None:
        chains = {writer_id: self._chains[uuid] for writer_id, uuid in source.uuids.items() if uuid in self._chains}
        since = {writer_id: min(last, chains[writer_id].writer_seq) for writer_id, last in source.places.items()}
        new = [writer_id for writer_id, last in source.places.items() if last > since[writer_id]]
        if not new:
            self._compare(source, source.last_rows(), since, chains)
            return
        parts = self._parts[number]
        for writer_id in new:
            uuid = source.uuids[writer_id]
            self.beyond.setdefault(uuid, since[writer_id])
            self.writers[uuid] = source.writers[uuid]
            parts[writer_id] = _Part(uuid, since[writer_id], self._ended_ns.get(uuid, 0))
        latest_ns = 0
        for page in source.pages():
            fresh = [row for row in page if row[PLACE] > since[row[WRITER]]]
            if len(fresh) != len(page):
                self._compare(source, page, since, chains)
            self._take(source, fresh, chains)
            self.counts[number] += len(fresh)
            if len(self._sources) > 1:
                for row in fresh:
                    latest_ns = max(latest_ns, row[RECORDED], parts[row[WRITER]].since_ns)
                    self._ended_ns[source.uuids[row[WRITER]]] = latest_ns
            alive()

    def _take(self, source: JournalSource, rows: list[Row], chains: dict[Any, Chain]) -> None:
        """Follow the chains of new entries."""
        for writer_id, component_id in {(row[WRITER], row[COMPONENT]) for row in rows}:
            name = source.components.get(component_id)
            if not isinstance(name, str):
                raise forged(
                    source.name, f"an entry of the process {limits.shown(source.uuids[writer_id])} is of a component that is not recorded"
                )
            self._name(name, source.name)
            if self._only.setdefault(source.uuids[writer_id], name) != name:
                self._only[source.uuids[writer_id]] = None
        found = follow(rows, chains.get, source.components.get, lambda chain, place, _: across_removed(chain, place, source.gaps))
        if found:
            raise forged(source.name, found[0].message)

    def _name(self, name: str, where: str) -> None:
        if name in self._names:
            return
        spelling = self._applier.spelling(name) or next((known for known in self._names if known.lower() == name.lower()), name)
        if spelling != name:
            raise InvalidInputError(
                f"{where}: the component {limits.shown(name)} is the one that is spelled {limits.shown(spelling)} in another journal; "
                "nothing was merged",
                hint="SageMaker makes no difference, but digests of entries do: merge these journals into different ones",
            )
        self._names[name] = None

    def _compare(self, source: JournalSource, rows: list[Row], since: dict[Any, int], chains: dict[Any, Chain]) -> None:
        """See that the last entry of each process that both have is the same."""
        for row in rows:
            if row[PLACE] != since[row[WRITER]]:
                continue
            chain = chains[row[WRITER]]
            if (chain.digest if row[PLACE] == chain.writer_seq else self._digest(chain.uuid, row[PLACE])) not in {row[DIGEST], None}:
                what = f"entry {row[PLACE]} of the process {limits.shown(chain.uuid)} is another one there than here"
                raise forged(source.name, f"{what}: the process, or somebody else, went on in both copies, or one of them was changed")

    def _digest(self, uuid: str, place: int) -> bytes | None:
        """Of an entry that is here, or comes from a source that was looked at; None if it was removed on the record."""
        for seq, _ in self._applier.places({uuid: ((place, place),)}):
            for (digest,) in self._database.read("SELECT digest FROM entry WHERE seq = ?", (seq,)):
                return bytes(digest)
        for source, parts in zip(self._sources, self._parts, strict=True):
            if any(part.uuid == uuid and part.after < place for part in parts.values()):
                for seq, _ in source.found.find({uuid: ((place, place),)}):
                    ((digest,),) = source.journal.database.read("SELECT digest FROM entry WHERE seq = ?", (seq,))
                    return bytes(digest)
        return None

    def where(self, uuid: str) -> str:
        """A source with entries of that process, for messages."""
        return next(source.name for source in self._sources if uuid in source.recorders)

    def components_of(self, named: Named) -> Iterator[tuple[str, str]]:
        """Of those of the entries that come, one of each component, with the component."""
        for uuid, intervals in named.items():
            if uuid not in self.writers or not any(last > self.beyond[uuid] for _, last in intervals):
                continue
            only = self._only[uuid]
            if only is not None:  # nearly always
                yield f"entries of the process {limits.shown(uuid)}", only
                continue
            for source, parts in zip(self._sources, self._parts, strict=True):
                for writer_id, part in parts.items():
                    for first, last in intervals if part.uuid == uuid else ():
                        yield from source.components_in(writer_id, max(first, part.after + 1), last)

    def entries(self) -> Iterator[tuple[int, Row]]:
        """Them, each with the place of its source, in the order in which they were recorded, each process's in its own."""
        streams = [self._of(number, source) for number, source in enumerate(self._sources)]
        if len(streams) == 1:
            return zip(itertools.repeat(0), streams[0], strict=False)
        return (
            (number, row) for _, number, row in heapq.merge(*itertools.starmap(self._timed, enumerate(streams)), key=lambda each: each[:2])
        )

    def _of(self, number: int, source: JournalSource) -> Iterator[Row]:
        parts = self._parts[number]
        after = {writer_id: part.after for writer_id, part in parts.items()}
        none = max(source.places.values(), default=0)
        for page in source.pages() if parts else ():
            yield from [row for row in page if row[PLACE] > after.get(row[WRITER], none)]

    def _timed(self, number: int, rows: Iterator[Row]) -> Iterator[tuple[int, int, Row]]:
        """With a time that never goes back: a clock may. What a process recorded comes after what an earlier source brings of it."""
        latest_ns = 0
        for row in rows:
            latest_ns = max(latest_ns, row[RECORDED], self._parts[number][row[WRITER]].since_ns)
            yield latest_ns, number, row
