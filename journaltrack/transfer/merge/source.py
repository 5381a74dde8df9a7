"""A journal that is merged into another: its processes, entries, evidence and artifacts, read with suspicion. Changes nothing.

A source may come from somebody else, and SQLite keeps any type in any column: what decides where something goes, or whether it
may be sent, is checked here; digests are checked by whoever takes entries over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from journaltrack import limits
from journaltrack.journal import entries as vocabulary
from journaltrack.journal.chain import follows, removed_in
from journaltrack.journal.queries import UNSETTLED
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.statements import DeliveryOutcome
from journaltrack.replay.plan.actions import Ensure, PutMetrics
from journaltrack.transfer.apply.source import Attested, WriterRow, forged
from journaltrack.util.intervals import SEQ_MAX, ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.chain import Removed
    from journaltrack.journal.journal import Journal

_OUTCOMES: Final = frozenset(get_args(DeliveryOutcome))
_ENTRIES: Final = (
    "SELECT e.writer_id, e.writer_seq, e.component_id, e.stream, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload, "
    "e.recorded_at_ns, e.digest, e.seq, d.outcome, d.reason, d.settled_at_ns, d.receipt_id FROM entry e LEFT JOIN delivery d ON d.seq = e.seq"
)
_UNATTESTED: Final = (
    "SELECT e.writer_id, e.writer_seq, d.outcome, d.reason, d.settled_at_ns FROM delivery d JOIN entry e ON e.seq = d.seq "
    "WHERE (typeof(d.receipt_id) = 'integer' AND d.receipt_id BETWEEN 1 AND ?) OR (d.receipt_id IS NULL AND d.settled_at_ns <= ? "
    "AND NOT (d.outcome = 'quarantined' AND d.settled_at_ns = e.recorded_at_ns)) ORDER BY d.seq"
)
"""But not what was refused when it was recorded: that comes with the entry, see ``EntryRow.refused``."""
_UNSETTLED: Final = (
    f"SELECT e.writer_id, e.writer_seq FROM entry e WHERE e.seq BETWEEN ? AND ? AND e.stream = 'metric' AND {UNSETTLED} ORDER BY e.seq"
)
_BLOBS: Final = (
    "SELECT sha256, size_bytes, spooled_at_ns FROM blob WHERE typeof(sha256) = 'text' AND typeof(size_bytes) = 'integer' "
    "AND typeof(spooled_at_ns) = 'integer' ORDER BY sha256"
)


_metric_text: Final = functools.lru_cache(maxsize=10_000)(vocabulary.metric_text)


class EntryRow(NamedTuple):
    """An entry on its way; ``columns`` are those from ``stream`` to ``recorded_at_ns``.

    ``refused`` is why AWS could never accept it, if it was quarantined when it was recorded; ``gap`` is the digest before it if
    what was before it was removed on the record. ``settled``: it is settled there otherwise, or may have been sent.
    """

    uuid: str
    writer_seq: int
    component: str
    columns: tuple[Any, ...]
    digest: bytes
    refused: str | None
    gap: bytes | None
    settled: bool

    @property
    def recorded_at_ns(self) -> int:
        """When it was recorded."""
        return int(self.columns[-1])

    def follows(self, previous: bytes) -> bool:
        """Whether its digest is that of its content after ``previous``."""
        stream, kind, name, value, step, timestamp_ns, payload, recorded_at_ns = self.columns
        if (
            type(value) is float
            and kind == stream == vocabulary.METRIC
            and payload is None
            and type(timestamp_ns) is int
            and (step is None or type(step) is int)
            and isinstance(name, str)
        ):  # nearly all entries: in a third of the time
            middle = _metric_text(self.component, name)
            digest = vocabulary.chain_next_metric(previous, self.writer_seq, middle, value, step, timestamp_ns, recorded_at_ns)
            if digest == self.digest:
                return True
        return follows(previous, self.writer_seq, self.component, self.columns, self.digest)


class Found(NamedTuple):
    """Entries of one process that are settled, or in flight, and of which nobody attests it."""

    uuid: str
    first: int
    last: int
    outcome: str
    reason: str | None
    at_ns: int


class JournalSource:
    """A journal, in a snapshot that the caller holds. Implements ``applier.Source``.

    Attributes:
        journal: Opened for reading alone.
        recorders: The processes that recorded entries: how many.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.name = str(journal.path)
        self.origin = taken.bundle(journal.path) or taken.journal(journal.journal_id)
        database = journal.database
        self._uuids: dict[Any, str] = {}
        self.writers: dict[str, WriterRow] = {}
        for writer_id, *columns, digest in database.read(f"SELECT id, {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer ORDER BY id"):
            row = WriterRow(tuple(columns), digest)
            self.writers[row.uuid] = row
            self._uuids[writer_id] = row.uuid
        self._components = dict(database.read("SELECT id, name FROM component"))
        attested = database.read("SELECT writer_id, max(writer_seq) FROM attestation GROUP BY writer_id")
        self.heads: Mapping[str, int] = {self._uuids[i]: seq for i, seq in attested if i in self._uuids and isinstance(seq, int)}
        self._places: dict[Any, int] = {}
        self._last: dict[Any, int] = {}
        self.entries = 0
        rows = database.read("SELECT writer_id, count(*), max(writer_seq), max(seq) FROM entry GROUP BY writer_id")
        for writer_id, count, last, self._last[writer_id] in rows:
            if writer_id not in self._uuids or not isinstance(last, int):
                raise forged(self.name, f"{count} entries are of a process ({limits.shown(str(writer_id))}) that is not recorded")
            self.entries += count
            self._places[writer_id] = last
        self.recorders = {self._uuids[i] for i in self._places}
        self._gaps = self._removed()
        self._flying = list(self._in_flight())

    def attestations(self) -> Iterator[Attested]:
        """See ``applier.Source``."""
        rows = self.journal.database.connection.execute("SELECT id, writer_id, writer_seq, body, digest FROM attestation ORDER BY id")
        for number, writer_id, writer_seq, body, digest in rows:
            uuid = self._uuids.get(writer_id)
            if uuid is None or type(writer_seq) is not int or not isinstance(body, str) or not isinstance(digest, bytes):
                raise forged(self.name, f"attestation {number} is none")
            yield Attested(uuid, writer_seq, body, digest)

    def blobs(self) -> Iterator[tuple[str, int, int]]:
        """Digest, size in bytes, and when it was kept."""
        yield from self.journal.database.read(_BLOBS)

    def entries_since(self, places: Mapping[str, int]) -> Iterator[EntryRow]:
        """Of each process the last that both have, then those after it in order of ``seq``. Without new ones nothing is scanned."""
        execute = self.journal.database.connection.execute
        since = {i: max(1, min(last, places.get(self._uuids[i], 0))) for i, last in self._places.items()}
        for writer_id in [i for i, last in self._places.items() if places.get(self._uuids[i], 0) >= last]:
            del since[writer_id]
            for row in execute(f"{_ENTRIES} WHERE e.seq = ?", (self._last[writer_id],)):
                yield self._row(writer_id, row, None)
        if not since:
            return
        expected = dict.fromkeys(self._places, 0)
        for row in execute(f"{_ENTRIES} ORDER BY e.seq"):
            writer_id, writer_seq = row[:2]
            before, expected[writer_id] = expected[writer_id], writer_seq
            if writer_id in since and (type(writer_seq) is not int or writer_seq >= since[writer_id]):
                yield self._row(writer_id, row, before)

    def _row(self, writer_id: int, columns: tuple[Any, ...], before: int | None) -> EntryRow:
        """An entry, if it can be one; ``before`` is the place of the one before it."""
        writer_seq, component_id, kept = columns[1], columns[2], columns[3:11]
        digest, seq, outcome, reason, at_ns, receipt_id = columns[11:]
        uuid, component = self._uuids[writer_id], self._components.get(component_id)
        sound = type(writer_seq) is int and isinstance(digest, bytes) and type(kept[-1]) is int
        if not sound or not isinstance(component, str):
            raise forged(self.name, f"an entry of the process {limits.shown(uuid)} is none that journaltrack recorded")
        gap = None if before is None or writer_seq == before + 1 else self._gap(uuid, before + 1, writer_seq - 1)
        if outcome is None:
            flying = self._flying and kept[0] == vocabulary.METRIC and self._is_in_flight(seq)
            return EntryRow(uuid, writer_seq, component, kept, digest, None, gap, bool(flying))
        if outcome == "quarantined" and receipt_id is None and at_ns == kept[-1]:
            row = EntryRow(uuid, writer_seq, component, kept, digest, reason, gap, settled=False)
            return row if self._refusal(row) == reason else row._replace(refused=None)
        return EntryRow(uuid, writer_seq, component, kept, digest, None, gap, settled=True)

    def _is_in_flight(self, seq: int) -> bool:
        return any(first <= seq <= last for intervals, _ in self._flying for first, last in intervals)

    @staticmethod
    def _refusal(row: EntryRow) -> str | None:
        """Why AWS could never accept the entry: a crafted source may say so of any."""
        entry = vocabulary.entry_of((1, 1, row.writer_seq, 1, row.component, *row.columns, row.digest))
        try:
            return None if entry.unsound else vocabulary.undeliverable(entry)
        except ValueError:
            return None

    def _gap(self, uuid: str, first: int, last: int) -> bytes | None:
        return self._gaps[uuid].across(first, last) if uuid in self._gaps else None

    def _removed(self) -> dict[str, Removed]:
        """Runs of entries that were removed on the record, with the digest of the last."""
        try:
            return removed_in(self.journal.database.connection)
        except (ValueError, TypeError) as error:
            raise forged(self.name, "an attestation of what was removed can't be read") from error

    # -- what nobody attests ------------------------------------------------------------------------------------

    def _in_flight(self) -> Iterator[tuple[list[tuple[int, int]], int]]:
        """Of requests that can't be sent again and have no answer: the entries that they carried, and since when."""
        unfinished = "SELECT entries, started_at_ns FROM receipt WHERE finished_at_ns IS NULL AND action = ?"
        for entries, started_at_ns in self.journal.database.read(unfinished, (PutMetrics.action,)):
            try:
                intervals = list(ranges_in(entries))
            except ValueError:
                intervals = [(1, SEQ_MAX)]  # whatever it carried
            yield intervals, _moment(started_at_ns)

    @property
    def may_have_made(self) -> bool:
        """Whether the answer to a creating request is not known."""
        sql = "SELECT 1 FROM receipt WHERE finished_at_ns IS NULL AND action = ? LIMIT 1"
        return bool(self.journal.database.read(sql, (Ensure.action,)))

    def unattested(self, in_flight: str) -> Iterator[Found]:
        """Entries that are settled without an attestation (by format 0001), or were in flight when a pass was killed, in runs.

        Args:
            in_flight: The reason for what was in flight.
        """
        database = self.journal.database
        ((receipt_id, at_ns),) = database.read("SELECT coalesce(attested_after_receipt, 0), coalesce(attested_after_ns, 0) FROM meta")
        if receipt_id or at_ns:
            yield from self._runs(map(self._settled, database.connection.execute(_UNATTESTED, (receipt_id, at_ns))))
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
        """Neighbours that are alike, together."""
        begun: list[Any] | None = None
        for writer_id, place, *alike in rows:
            if begun is not None and begun[0] == writer_id and place == begun[2] + 1 and begun[3] == alike:
                begun[2] = place
                continue
            if begun is not None:
                yield Found(self._uuids[begun[0]], begun[1], begun[2], *begun[3])
            begun = [writer_id, place, place, alike]
        if begun is not None:
            yield Found(self._uuids[begun[0]], begun[1], begun[2], *begun[3])


def _moment(at_ns: object) -> int:
    return at_ns if isinstance(at_ns, int) and 0 <= at_ns <= SEQ_MAX else 0
