"""Read the sources of a merge with suspicion, and find the entries they bring.

``JournalSource`` is one journal to merge: its processes, entries, evidence and artifacts. It may
come from somebody else, and SQLite keeps any type in any column. So everything that decides where
something goes, or whether it may be sent, is checked here. Whoever takes entries over checks their
digests.

``Incoming`` yields the entries that all sources bring: each once, in the order in which they were
recorded. Sources are read twice, each in the one snapshot that the caller holds. The first reading
follows all chains, the second one is for writing. So memory does not hold the entries, and a wrong
source has changed nothing.

The module changes nothing.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, get_args

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.journal.chain import COLUMNS, Chain, across_removed, follow, read_body, take_gaps
from journaltrack.journal.places import Places
from journaltrack.journal.queries import QUARANTINED
from journaltrack.journal.removed import IS_PRUNE
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.statements import DeliveryOutcome
from journaltrack.replay.plan.actions import Ensure, PutMetrics
from journaltrack.transfer.apply_source import Attested, Here, WriterRow, forged
from journaltrack.util.intervals import SEQ_MAX, ranges_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.journal.chain import Removed
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.statements import Named

Row: TypeAlias = tuple[Any, ...]
"""An entry of a source, by ``chain.COLUMNS``. Its ids are the source's own."""
SEQ, WRITER, PLACE, COMPONENT, REST, KIND, RECORDED, DIGEST = 0, 1, 2, 3, slice(4, 13), 5, 11, 12
_HEADS: Final = "SELECT writer_id, max(writer_seq), digest FROM entry GROUP BY writer_id"
_OUTCOMES: Final = frozenset(get_args(DeliveryOutcome))
_ENTRIES: Final = f"SELECT {COLUMNS} FROM entry e ORDER BY e.seq"
_LAST: Final = f"SELECT {COLUMNS} FROM json_each(?) i CROSS JOIN entry e ON e.seq = i.value"
_UNSOUND: Final = (
    "SELECT seq FROM entry WHERE typeof(writer_seq) <> 'integer' "
    "OR typeof(recorded_at_ns) <> 'integer' OR typeof(digest) <> 'blob' LIMIT 1"
)
_REFUSED: Final = (
    f"SELECT {COLUMNS}, d.reason FROM delivery d CROSS JOIN entry e ON e.seq = d.seq "
    f"WHERE {QUARANTINED} AND d.receipt_id IS NULL "
    "AND d.settled_at_ns = e.recorded_at_ns AND d.seq BETWEEN ? AND ?"
)
# Fewer than the 700 new objects after which Python's garbage collector runs.
_PAGE: Final = 500
_UNATTESTED: Final = (
    "SELECT e.writer_id, e.writer_seq, d.outcome, d.reason, d.settled_at_ns FROM delivery d "
    "JOIN entry e ON e.seq = d.seq WHERE (typeof(d.receipt_id) = 'integer' "
    "AND d.receipt_id BETWEEN 1 AND ?) OR (d.receipt_id IS NULL AND d.settled_at_ns <= ? "
    "AND NOT (d.outcome = 'quarantined' AND d.settled_at_ns = e.recorded_at_ns)) ORDER BY d.seq"
)
"""Without what was refused when it was recorded: ``refused`` yields that with the entry."""
_UNSETTLED: Final = (
    "SELECT e.writer_id, e.writer_seq FROM entry e WHERE e.seq BETWEEN ? AND ? "
    "AND e.stream = 'metric' AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq) "
    "ORDER BY e.seq"
)
_BLOBS: Final = (
    "SELECT sha256, size_bytes, spooled_at_ns FROM blob WHERE typeof(sha256) = 'text' "
    "AND typeof(size_bytes) = 'integer' AND typeof(spooled_at_ns) = 'integer' ORDER BY sha256"
)


class _Part(NamedTuple):
    """What a source brings of one process.

    Attributes:
        after: The places behind this one come.
        since_ns: None of them comes before this time.
    """

    uuid: str
    after: int
    since_ns: int


class Incoming:
    """The entries of sources that the target of a merge does not have.

    Args:
        sources: In the order in which they were named.
        here: What is here.
        database: Of the target.

    Attributes:
        writers: The processes that recorded the entries, by uuid.
        beyond: By uuid: the last place that was here before.
        counts: How many entries each source brings.
    """

    def __init__(self, sources: Sequence[JournalSource], here: Here, database: Database) -> None:
        self.writers: dict[str, WriterRow] = {}
        self.beyond: dict[str, int] = {}
        self.counts = [0] * len(sources)
        self._sources = sources
        self._here = here
        self._database = database
        # How far the target has come, with what the sources checked so far bring.
        self._chains: dict[str, Chain] = {}
        self._described: dict[str, WriterRow] = {}
        self._parts: list[dict[Any, _Part]] = [{} for _ in sources]
        # By uuid: when the last entry of the process comes.
        self._ended_ns: dict[str, int] = {}
        # Of components, in order.
        self._names: dict[str, None] = {}
        # By uuid: the process's component; None if it recorded several.
        self._only: dict[str, str | None] = {}
        uuids = {writer_id: uuid for uuid, writer_id in here.writers.items()}
        for writer_id, place, digest in database.read(_HEADS):
            if writer_id in uuids:
                self._chains[uuids[writer_id]] = Chain(uuids[writer_id], "", 0, digest, place)

    def look(self, alive: Callable[[], None]) -> None:
        """Check everything that is new, from the first to the last entry.

        Args:
            alive: Called now and then.

        Raises:
            EvidenceError: A source contradicts itself, another one or the target.
            InvalidInputError: A component is spelled differently elsewhere.
        """
        for source in self._sources:
            for uuid in source.recorders:
                self._meet(uuid, source)
        for number, source in enumerate(self._sources):
            self._look_at(number, source, alive)

    def _meet(self, uuid: str, source: JournalSource) -> None:
        row = source.writers[uuid]
        self._here.check_writer(row, source.name)
        if self._described.setdefault(uuid, row) != row:
            raise forged(
                source.name,
                f"the process {limits.shown(uuid)} is described differently in another source",
            )
        self._chains.setdefault(uuid, Chain(uuid, "", 0, row.begin))

    def _look_at(self, number: int, source: JournalSource, alive: Callable[[], None]) -> None:
        chains = {
            writer_id: self._chains[uuid]
            for writer_id, uuid in source.uuids.items()
            if uuid in self._chains
        }
        since = {
            writer_id: min(last, chains[writer_id].writer_seq)
            for writer_id, last in source.places.items()
        }
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
                process = limits.shown(source.uuids[writer_id])
                raise forged(
                    source.name,
                    f"the component of an entry of the process {process} is not recorded",
                )
            self._name(name, source.name)
            if self._only.setdefault(source.uuids[writer_id], name) != name:
                self._only[source.uuids[writer_id]] = None
        found = follow(
            rows,
            chains.get,
            source.components.get,
            lambda chain, place, _: across_removed(chain, place, source.gaps),
        )
        if found:
            raise forged(source.name, found[0].message)

    def _name(self, name: str, where: str) -> None:
        if name in self._names:
            return
        spelling = self._here.spelling(name) or next(
            (known for known in self._names if known.lower() == name.lower()), name
        )
        if spelling != name:
            raise InvalidInputError(
                f"{where}: another journal spells the component {limits.shown(name)} as "
                f"{limits.shown(spelling)}; nothing was merged",
                hint="SageMaker ignores case, but digests do not: merge into different journals",
            )
        self._names[name] = None

    def _compare(
        self,
        source: JournalSource,
        rows: list[Row],
        since: dict[Any, int],
        chains: dict[Any, Chain],
    ) -> None:
        """See that the last entry of each process that both have is the same."""
        for row in rows:
            if row[PLACE] != since[row[WRITER]]:
                continue
            chain = chains[row[WRITER]]
            if (
                chain.digest
                if row[PLACE] == chain.writer_seq
                else self._digest(chain.uuid, row[PLACE])
            ) not in {row[DIGEST], None}:
                what = (
                    f"entry {row[PLACE]} of the process {limits.shown(chain.uuid)} differs from "
                    "the one here"
                )
                raise forged(source.name, f"{what}: both copies were continued, or one was altered")

    def _digest(self, uuid: str, place: int) -> bytes | None:
        """Return the digest of an entry that is here or comes from an earlier source.

        None: the entry was removed on the record.
        """
        for seq, _ in self._here.places({uuid: ((place, place),)}):
            for (digest,) in self._database.read("SELECT digest FROM entry WHERE seq = ?", (seq,)):
                return bytes(digest)
        for source, parts in zip(self._sources, self._parts, strict=True):
            if any(part.uuid == uuid and part.after < place for part in parts.values()):
                for seq, _ in source.found.find({uuid: ((place, place),)}):
                    ((digest,),) = source.journal.database.read(
                        "SELECT digest FROM entry WHERE seq = ?", (seq,)
                    )
                    return bytes(digest)
        return None

    def where(self, uuid: str) -> str:
        """Name a source with entries of that process, for messages."""
        return next(source.name for source in self._sources if uuid in source.recorders)

    def components_of(self, named: Named) -> Iterator[tuple[str, str]]:
        """Yield the components of those of the entries that come.

        With each component comes one of its entries, first and in words.
        """
        for uuid, intervals in named.items():
            if uuid not in self.writers or not any(
                last > self.beyond[uuid] for _, last in intervals
            ):
                continue
            only = self._only[uuid]
            # Nearly always.
            if only is not None:
                yield f"entries of the process {limits.shown(uuid)}", only
                continue
            for source, parts in zip(self._sources, self._parts, strict=True):
                for writer_id, part in parts.items():
                    for first, last in intervals if part.uuid == uuid else ():
                        yield from source.components_in(writer_id, max(first, part.after + 1), last)

    def entries(self) -> Iterator[tuple[int, Row]]:
        """Yield the entries in the order in which they were recorded.

        Each comes with its source's place. Each process's entries keep their own order.
        """
        streams = [self._of(number, source) for number, source in enumerate(self._sources)]
        if len(streams) == 1:
            return zip(itertools.repeat(0), streams[0], strict=False)
        return (
            (number, row)
            for _, number, row in heapq.merge(
                *itertools.starmap(self._timed, enumerate(streams)), key=lambda each: each[:2]
            )
        )

    def _of(self, number: int, source: JournalSource) -> Iterator[Row]:
        parts = self._parts[number]
        after = {writer_id: part.after for writer_id, part in parts.items()}
        none = max(source.places.values(), default=0)
        for page in source.pages() if parts else ():
            yield from [row for row in page if row[PLACE] > after.get(row[WRITER], none)]

    def _timed(self, number: int, rows: Iterator[Row]) -> Iterator[tuple[int, int, Row]]:
        """Yield the rows with a time that never goes back, although a clock may.

        What a process recorded comes after what an earlier source brings of it.
        """
        latest_ns = 0
        for row in rows:
            latest_ns = max(latest_ns, row[RECORDED], self._parts[number][row[WRITER]].since_ns)
            yield latest_ns, number, row


class Found(NamedTuple):
    """Entries of one process that are settled or in flight, and that nobody attests."""

    uuid: str
    first: int
    last: int
    outcome: str
    reason: str | None
    at_ns: int


class JournalSource:
    """A journal to merge. Implements ``apply_source.Source``.

    The caller holds a snapshot of it.

    Attributes:
        journal: Opened for reading only.
        uuids, components: Of processes and components, by their ids there.
        places: By a process's id there: the last place of its entries.
        gaps: What was removed on the record, by the process's uuid.
        recorders: The processes that recorded entries.
        entries: How many entries there are.
        unfinished: What the source is still taking over itself. It does not know everything that
            the other journals of these entries know.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.name = str(journal.path)
        self.origin = taken.bundle(journal.path) or taken.journal(journal.journal_id)
        database = journal.database
        self.unfinished = taken.unfinished(database)
        self.uuids: dict[Any, str] = {}
        self.writers: dict[str, WriterRow] = {}
        for writer_id, *columns, digest in database.read(
            f"SELECT id, {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer ORDER BY id"
        ):
            row = WriterRow(tuple(columns), digest)
            self.writers[row.uuid] = row
            self.uuids[writer_id] = row.uuid
        self.components: dict[Any, Any] = dict(database.read("SELECT id, name FROM component"))
        attested = database.read(
            "SELECT writer_id, max(writer_seq) FROM attestation GROUP BY writer_id"
        )
        self.heads: Mapping[str, int] = {
            self.uuids[i]: seq for i, seq in attested if i in self.uuids and isinstance(seq, int)
        }
        self.places: dict[Any, int] = {}
        self._last: dict[Any, int] = {}
        self.entries = 0
        rows = database.read(
            "SELECT writer_id, count(*), max(writer_seq), max(seq) FROM entry GROUP BY writer_id"
        )
        for writer_id, count, last, self._last[writer_id] in rows:
            if writer_id not in self.uuids or not isinstance(last, int):
                raise forged(
                    self.name,
                    f"{count} entries are of a process ({limits.shown(str(writer_id))}) that is "
                    "not recorded",
                )
            self.entries += count
            self.places[writer_id] = last
        self.recorders = {self.uuids[i] for i in self.places}
        self.gaps = self._removed()
        self._flying = list(self._in_flight())

    def attestations(self) -> Iterator[Attested]:
        """Implement ``apply_source.Source``."""
        rows = self.journal.database.connection.execute(
            "SELECT id, writer_id, writer_seq, body, digest FROM attestation ORDER BY id"
        )
        for number, writer_id, writer_seq, body, digest in rows:
            uuid = self.uuids.get(writer_id)
            if (
                uuid is None
                or type(writer_seq) is not int
                or not isinstance(body, str)
                or not isinstance(digest, bytes)
            ):
                raise forged(self.name, f"attestation {number} is not one that journaltrack made")
            yield Attested(uuid, writer_seq, body, digest)

    def blobs(self) -> Iterator[tuple[str, int, int]]:
        """Yield each blob's digest, its size in bytes, and when it was kept."""
        yield from self.journal.database.read(_BLOBS)

    def pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all entries in order of ``seq``, by ``chain.COLUMNS``.

        Raises:
            EvidenceError: A row can't be an entry, since SQLite keeps any type in any column.
        """
        execute = self.journal.database.connection.execute
        for (seq,) in execute(_UNSOUND):
            raise forged(self.name, f"entry {seq} is not one that journaltrack recorded")
        cursor = execute(_ENTRIES)
        while page := cursor.fetchmany(_PAGE):
            yield page

    def last_rows(self) -> list[tuple[Any, ...]]:
        """Return the last entry of each process, by ``chain.COLUMNS``."""
        return self.journal.database.read(_LAST, (json.dumps(list(self._last.values())),))

    def refused(self, first: int, last: int) -> dict[int, str]:
        """Return why AWS could never accept entries, by ``seq``.

        These are the entries that were quarantined when they were recorded.
        """
        rows = self.journal.database.read(_REFUSED, (first, last))
        return {
            row[0]: reason
            for *row, reason in rows
            if reason is not None and self._refusal(row) == reason
        }

    def close(self) -> None:
        """Drop what was kept of the source."""
        if "found" in self.__dict__:
            self.found.close()

    @functools.cached_property
    def found(self) -> Places:
        """Find where each process's entries are."""
        return Places(self.journal.database)

    def components_in(self, writer_id: int, first: int, last: int) -> Iterator[tuple[str, str]]:
        """Yield the components of a process's entries.

        With each component comes one of its entries, first and in words.
        """
        for begin, end in self.found.find({self.uuids[writer_id]: ((first, last),)}):
            for place, component_id in self.journal.database.read(
                "SELECT min(writer_seq), component_id FROM entry WHERE seq BETWEEN ? AND ? "
                "GROUP BY component_id",
                (begin, end),
            ):
                yield (
                    f"entry {place} of the process {limits.shown(self.uuids[writer_id])}",
                    str(self.components.get(component_id)),
                )

    def _refusal(self, row: list[Any]) -> str | None:
        """Return why AWS could never accept the entry.

        A crafted source may claim so of any entry.
        """
        entry = vocabulary.entry_of((*row[:4], str(self.components.get(row[3])), *row[4:]))
        try:
            return None if entry.unsound else vocabulary.undeliverable(entry)
        except ValueError:
            return None

    def gaps_above(self, places: Mapping[str, int]) -> list[tuple[str, int, int, str]]:
        """Return what was removed on the record of these processes' entries.

        Only removals above these places come, in the form of attestations.
        """
        return [
            gap
            for uuid, place in places.items()
            if uuid in self.gaps
            for gap in self.gaps[uuid].members(uuid, place)
        ]

    def _removed(self) -> dict[str, Removed]:
        """Return the runs that were removed on the record, each with its last digest."""
        gaps = taken.gaps_to_come(self.journal.database)
        for (body,) in self.journal.database.connection.execute(
            f"SELECT a.body FROM attestation a WHERE {IS_PRUNE} ORDER BY a.id"
        ):
            members = read_body(body)
            try:
                take_gaps(gaps, members or {})
            except (ValueError, TypeError) as error:
                raise forged(
                    self.name, "an attestation of what was removed can't be read"
                ) from error
        return gaps

    # -- what nobody attests ----------------------------------------------------------------------

    def _in_flight(self) -> Iterator[tuple[list[tuple[int, int]], int]]:
        """Yield what unanswered requests carried that can't be sent again.

        Yields:
            The entries that a request carried, and since when.
        """
        unfinished = (
            "SELECT entries, started_at_ns FROM receipt WHERE finished_at_ns IS NULL AND action = ?"
        )
        for entries, started_at_ns in self.journal.database.read(unfinished, (PutMetrics.action,)):
            try:
                intervals = list(ranges_in(entries))
            except ValueError:
                # An unreadable list may name any entry.
                intervals = [(1, SEQ_MAX)]
            yield intervals, _moment(started_at_ns)

    @property
    def may_have_made(self) -> bool:
        """Return whether the answer to a creating request is unknown."""
        sql = "SELECT 1 FROM receipt WHERE finished_at_ns IS NULL AND action = ? LIMIT 1"
        return bool(self.journal.database.read(sql, (Ensure.action,)))

    def unattested(self, in_flight: str) -> Iterator[Found]:
        """Yield runs of entries that are settled without an attestation, or in flight.

        Format 0001 attested nothing. A killed pass left entries in flight.

        Args:
            in_flight: The reason to record for entries in flight.
        """
        database = self.journal.database
        ((receipt_id, at_ns),) = database.read(
            "SELECT coalesce(attested_after_receipt, 0), coalesce(attested_after_ns, 0) FROM meta"
        )
        if receipt_id or at_ns:
            yield from self._runs(
                map(self._settled, database.connection.execute(_UNATTESTED, (receipt_id, at_ns)))
            )
        for intervals, since in self._flying:
            for interval in intervals:
                rows = database.connection.execute(_UNSETTLED, interval)
                yield from self._runs((i, place, "in doubt", in_flight, since) for i, place in rows)

    @staticmethod
    def _settled(row: tuple[Any, ...]) -> tuple[Any, int, str, str | None, int]:
        writer_id, place, outcome, reason, at_ns = row
        known = outcome if isinstance(outcome, str) and outcome in _OUTCOMES else "in doubt"
        return writer_id, place, known, reason if isinstance(reason, str) else None, _moment(at_ns)

    def _runs(self, rows: Iterator[tuple[Any, int, str, str | None, int]]) -> Iterator[Found]:
        """Join neighbours that are alike."""
        begun: list[Any] | None = None
        for writer_id, place, *alike in rows:
            if (
                begun is not None
                and begun[0] == writer_id
                and place == begun[2] + 1
                and begun[3] == alike
            ):
                begun[2] = place
                continue
            if begun is not None:
                yield Found(self.uuids[begun[0]], begun[1], begun[2], *begun[3])
            begun = [writer_id, place, place, alike]
        if begun is not None:
            yield Found(self.uuids[begun[0]], begun[1], begun[2], *begun[3])


def _moment(at_ns: object) -> int:
    return at_ns if isinstance(at_ns, int) and 0 <= at_ns <= SEQ_MAX else 0
