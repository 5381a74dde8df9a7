"""Take over what other replicas of a journal wrote into a mirror.

Segments that only bring entries are proved and appended, many thousand a second, beside whoever
delivers the journal. Segments that say what became of entries are merged as copies are
(``transfer.merge``): until that has ended, no pass sends anything from here.

A segment is taken over after the one that it continues, so nothing is skipped. If that one is not
there yet, or is cut or changed, this replica waits, and says for what. A later segment may continue
the one before the gap: its writer saw the gap, too. Other replicas do not wait. Where one segment
stands for others, it is read, since those may be removed at any time.

Invariants: nothing unproved gets into the journal. A second call changes nothing, and completes one
that was killed. Must not know a remote.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import EvidenceError, JournaltrackError, LeaseHeldError
from journaltrack.journal.chain import Removed
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.vocabulary import LOCAL, LOCAL_STAYS
from journaltrack.mirror import blobs, exchange, segments
from journaltrack.mirror.exchange import Seen, State
from journaltrack.mirror.segments import Link, Run, Segment
from journaltrack.transfer.apply_source import WriterRow, forged, said_by
from journaltrack.transfer.merge import merge_source
from journaltrack.transfer.merge_source import Found, JournalSource
from journaltrack.util import paths
from journaltrack.util.intervals import SEQ_MAX, ranges_in

if TYPE_CHECKING:
    from journaltrack.mirror.folders import Mirror, Replica, Span

ARTIFACTS_WAIT_S: Final = 60.0
"""Our choice: how long to wait for the bytes of a segment's artifacts while none arrives.

Then its entries are taken over without them.
"""
_AHEAD_MAX: Final = 64
"""How many segments behind a gap are read in search of one that continues before it."""
_ROWS: Final = 5_000
"""Entries of a transaction: trackers that append wait for it, about 20 ms."""
_HEADS: Final = (
    "SELECT w.uuid, max(e.writer_seq), e.digest FROM entry e JOIN writer w ON w.id = e.writer_id "
    "WHERE e.seq > ? GROUP BY e.writer_id"
)
_AT: Final = "SELECT digest FROM entry WHERE seq = ?"
_ATTESTED: Final = (
    "SELECT w.uuid, max(a.writer_seq) FROM attestation a JOIN writer w ON w.id = a.writer_id "
    "GROUP BY a.writer_id"
)
_WRITER: Final = f"SELECT id, {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer WHERE uuid = ?"
_INSERT_WRITER: Final = schema.insert_writer_sql()
_INSERT_ENTRY: Final = schema.insert_sql("entry")
_INSERT_ATTESTATION: Final = schema.insert_sql("attestation").replace(
    "INSERT", "INSERT OR IGNORE", 1
)
"""Where a replica began anew, its attestations come again."""
_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM entry"
_INSERT_LOCAL: Final = (
    "INSERT OR IGNORE INTO delivery (seq, outcome, reason, settled_at_ns) "
    "VALUES (?, 'superseded', ?, ?)"
)
_KIND, _RECORDED = 3, 9
"""Places in an entry that ``segments.rows`` gives."""
_INSERT_BLOB: Final = "INSERT OR IGNORE INTO blob VALUES (?, ?, ?)"


class _WaitingError(Exception):
    """A segment can't be taken over yet. The text says for what it waits."""


@dataclass(slots=True)
class Replicated:
    """How far one replica was taken over.

    Attributes:
        name: Of the replica.
        number: Its last segment that was taken over.
        newest: Its newest segment in the folder.
        entries: How many new entries came.
        waits: Why not everything was taken over; None: everything was.
        problem: A segment that contradicts itself or this journal. Nothing more is taken of it.
        halted: By a process's uuid: from which place on it is not mirrored, since its writer found
            it altered.
    """

    name: str
    number: int = 0
    newest: int = 0
    entries: int = 0
    waits: str | None = None
    problem: JournaltrackError | None = None
    halted: Mapping[str, int] = field(default_factory=dict)


class Taker:
    """Take over what other replicas wrote about one journal. The caller holds ``exchange.alone``.

    Args:
        journal: Opened for writing.
        mirror: Where from.
        clock: Seconds since 1970.
        bytes_too: Wait for the bytes of artifacts, and take them over.
    """

    def __init__(
        self,
        journal: Journal,
        mirror: Mirror,
        *,
        clock: Callable[[], float] = time.time,
        bytes_too: bool = True,
    ) -> None:
        self._bytes_too = bytes_too
        self._journal = journal
        self._mirror = mirror
        self._clock = clock
        self._state = State()
        self._heads: dict[str, Link] = {}
        self._names: dict[str, int] = {}

    def take(self) -> list[Replicated]:
        """Take over what is new.

        Raises:
            MirrorError: The mirror can't be read. What was taken over counts.
            JournalError: The journal can't be written.
        """
        self._state = exchange.load(self._journal.path, self._mirror.id)
        self._find_heads()
        found = {name: Replicated(name) for name in self._in_turn()}
        turn = list(found.values())
        # Receipts of one replica may name entries of another one, and those may come behind them.
        while turn:
            before = self._numbers()
            for each in turn:
                each.waits = None
                self._take_from(each, self._mirror.replica(self._journal.journal_id, each.name))
            turn = [each for each in turn if each.waits is not None and each.problem is None]
            if self._numbers() == before:
                break
        return sorted(found.values(), key=lambda each: each.name)

    def _numbers(self) -> list[int]:
        """Return how far each replica was taken over."""
        return [seen.number for seen in self._state.seen.values()]

    def _in_turn(self) -> list[str]:
        """Return the other replicas, those first that began first.

        What is recorded last counts in many ways. Where a run goes on on another node, that is what
        the other node has.
        """
        journal_id, state = self._journal.journal_id, self._state
        names = [name for name in self._mirror.replicas(journal_id) if name != state.replica]
        new = [name for name in names if name not in state.seen or not state.seen[name].number]
        began = dict.fromkeys(names, 0)
        for name in new if len(new) > 1 else ():
            replica = self._mirror.replica(journal_id, name)
            began[name] = SEQ_MAX
            # Told where it is taken over.
            with contextlib.suppress(JournaltrackError):
                for span in replica.listed().spans[:1]:
                    segment, _ = self._read(replica, span)
                    began[name] = SEQ_MAX if segment is None else segment.made_at_ns
        return sorted(names, key=lambda name: began[name])

    def _find_heads(self) -> None:
        """Find the last entry of each process: those of the last time, and what came since."""
        state, read = self._state, self._journal.database.read
        expected = [(bytes.fromhex(state.last_digest),)] if state.last_seq else []
        if read(_AT, (state.last_seq,)) != expected:
            # The journal was put back to an earlier state, or pruned.
            self._state = state = State(state.replica, state.folder, number=state.number)
        self._heads = {
            uuid: Link(place, bytes.fromhex(text)) for uuid, (place, text) in state.heads.items()
        }
        for uuid, place, digest in read(_HEADS, (state.last_seq,)):
            self._heads[str(uuid)] = Link(place, digest)

    def _save(self) -> None:
        state = self._state
        state.folder = str(self._mirror.path)
        state.last_seq = self._journal.last_seq()
        rows = self._journal.database.read(_AT, (state.last_seq,))
        state.last_digest = rows[0][0].hex() if rows else ""
        state.heads = {uuid: (link.place, link.digest.hex()) for uuid, link in self._heads.items()}
        exchange.save(self._journal.path, self._mirror.id, state)

    # -- one replica ------------------------------------------------------------------------------

    def _take_from(self, progress: Replicated, replica: Replica) -> None:
        seen = self._state.seen.setdefault(progress.name, Seen())
        try:
            for segment in self._continuing(progress, replica, seen):
                if self._bytes_too:
                    self._await_artifacts(segment, seen)
                if segment.attestations or segment.in_doubt:
                    progress.entries += self._merge(replica, seen, segment)
                else:
                    progress.entries += self._append(segment, str(replica.file(segment.span)))
                uuids = [row.uuid for row in segment.processes]
                seen.take(segment.number, segment.link, uuids)
                seen.halted = dict(segment.halted)
                self._save()
                progress.waits = None
        except _WaitingError as waiting:
            progress.waits = str(waiting)
        except LeaseHeldError as error:
            progress.waits = error.message
        except JournaltrackError as error:
            # Other replicas may be another user's, or on a server that works.
            progress.problem = error
        progress.number, progress.halted = seen.number, seen.halted

    def _continuing(self, progress: Replicated, replica: Replica, seen: Seen) -> Iterator[Segment]:
        """Yield the segments that continue what was taken over, one after the other."""
        before = -1
        # Again, if one of them was not there any more: another one may stand for it by now.
        while before < seen.number:
            before = seen.number
            listing = replica.listed(after=before)
            progress.newest = max(listing.newest, before)
            yield from self._those_of(listing.spans, progress, replica, seen)
            if progress.waits is None and listing.is_all:
                break

    def _those_of(
        self, spans: Iterable[Span], progress: Replicated, replica: Replica, seen: Seen
    ) -> Iterator[Segment]:
        ahead = 0
        for span in spans:
            if span.last <= seen.number:
                continue
            segment, why = self._read(replica, span)
            if segment is not None and (
                segment.previous is None
                or segment.previous in seen.digests.values()
                # It stands for one that was taken over, and so for what follows that.
                or span.first <= seen.number
            ):
                ahead = 0
                yield segment
                continue
            if progress.waits is None:
                progress.waits = why or f"the segment before {span} is not there yet"
            ahead += 1
            if ahead > _AHEAD_MAX:
                break

    def _read(self, replica: Replica, span: Span) -> tuple[Segment | None, str | None]:
        """Return a segment, or why there is none."""
        try:
            return segments.read(replica, span), None
        except segments.AbsentError:
            return None, f"segment {span} is not there yet"
        except segments.NotWholeError as error:
            return None, f"segment {span} is not whole: {error}"

    def _noted(self, replica: Replica, seen: Seen, last: Segment) -> list[Segment]:
        """Return the segments whose notes were not taken over, or what stands for them now."""
        found: list[Segment] = []
        for number in seen.noted:
            if any(number in range(each.span.first, each.number + 1) for each in [last, *found]):
                continue
            spans = replica.listed(after=number - 1).spans
            having = (self._read(replica, span)[0] for span in spans if span.first <= number)
            found += [segment for segment in having if segment is not None][:1]
        return found

    def _await_artifacts(self, segment: Segment, seen: Seen) -> None:
        """Take the artifacts over, or wait for their bytes while some arrive.

        Raises:
            _WaitingError: Some are still to come.
        """
        to_come, arrived = blobs.take_over(segment.blobs, self._journal, self._mirror)
        if not to_come:
            return
        now = self._clock()
        if seen.artifacts is None or seen.artifacts[0] != arrived or now < seen.artifacts[1]:
            seen.artifacts = (arrived, now)
            self._save()
        if now - seen.artifacts[1] < ARTIFACTS_WAIT_S:
            raise _WaitingError(
                f"segment {segment.number} names artifacts that are not there yet: "
                f"{to_come[0].sha256}, {to_come[0].size_bytes} bytes"
            )

    # -- segments with entries alone --------------------------------------------------------------

    def _append(self, segment: Segment, where: str) -> int:
        """Prove the entries of a segment, and append what is new; return how many that is."""
        described = {row.uuid: row for row in segment.processes}
        heads: dict[str, Link] = {}
        fresh = _fresh(segment, described, self._heads, heads, where)
        self._find_components({entry[1] for _, _, entry in fresh})
        blob_rows = [blob[:3] for blob in segment.blobs]
        writers: dict[str, int] = {}
        for start in range(0, len(fresh), _ROWS):
            page = fresh[start : start + _ROWS]
            with self._journal.database.transaction() as connection:
                connection.executemany(_INSERT_BLOB, blob_rows)
                for uuid in dict.fromkeys(uuid for _, uuid, _ in page):
                    if uuid not in writers:
                        writers[uuid] = _writer_id(connection, described.get(uuid), uuid, where)
                (above,) = connection.execute(_LAST_SEQ).fetchone()
                try:
                    connection.executemany(
                        _INSERT_ENTRY,
                        [
                            (writers[uuid], entry[0], self._names[entry[1]], *entry[2:])
                            for _, uuid, entry in page
                        ],
                    )
                except (OverflowError, UnicodeEncodeError) as error:
                    raise forged(where, f"an entry can't be recorded: {error}") from error
                # Settled when it was recorded, as there: nothing of it is sent.
                connection.executemany(
                    _INSERT_LOCAL,
                    [
                        (seq, LOCAL_STAYS, entry[_RECORDED])
                        for seq, (_, _, entry) in enumerate(page, above + 1)
                        if entry[_KIND] == LOCAL
                    ],
                )
        self._heads.update(heads)
        return len(fresh)

    def _find_components(self, names: set[str]) -> None:
        for name in names - self._names.keys():
            component_id = self._journal.component(name)
            row = self._journal.find(name)
            if row is None or row.name != name:
                raise EvidenceError(
                    f"a mirrored entry spells the component {limits.shown(name)} differently from "
                    "an earlier one; it was not taken over",
                    hint="SageMaker ignores case, but digests do not: use one spelling",
                )
            self._names[name] = component_id

    # -- segments that say what became of entries -------------------------------------------------

    def _merge(self, replica: Replica, seen: Seen, last: Segment) -> int:
        """Merge a segment, after those whose notes were not taken over; return its new entries."""
        pending = [*self._noted(replica, seen, last), last]
        heads = dict(self._heads)
        with tempfile.TemporaryDirectory(prefix="journaltrack-") as place:
            _stage(Path(place, paths.DATABASE), pending, self._journal, heads)
            with closing(Journal.open(place, create=False, read_only=True)) as staged:
                source = _Staged(staged, replica.path, pending)
                self._refuse_ahead(source, heads)
                # What is here of this replica's processes, it knows, too.
                known = seen.processes | source.writers.keys()
                for uuid, count in self._journal.database.read(_ATTESTED):
                    if uuid in known:
                        source.heads[uuid] = max(count, source.heads.get(uuid, 0))
                done = merge_source(self._journal, source)
        self._heads = heads
        # Notes alone are not taken over. What follows them in their chains brings them again.
        seen.noted = [*seen.noted, last.number] if not done.attestations else []
        return done.entries

    def _refuse_ahead(self, source: _Staged, heads: Mapping[str, Link]) -> None:
        """Wait for entries that attestations name.

        What is appended later would be pending here, although it was delivered.

        Raises:
            _WaitingError: Some are not here yet.
        """
        for each in source.attestations():
            for uuid, named in said_by(source, each).entries.items():
                place = heads[uuid].place if uuid in heads else 0
                if any(last > place for _, last in named):
                    raise _WaitingError(
                        f"a receipt names entries of the process {limits.shown(uuid)} that are "
                        "not there yet"
                    )


class _Staged(JournalSource):
    """Segments as the source of a merge.

    Args:
        journal: Made of them by ``_stage``.
        place: The replica's folder.
        pending: The segments.
    """

    def __init__(self, journal: Journal, place: Path, pending: Sequence[Segment]) -> None:
        super().__init__(journal)
        self.name = str(place)
        self.heads: dict[str, int] = dict(self.heads)
        self._in_doubt = [each for segment in pending for each in segment.in_doubt]
        for segment in pending:
            for run in segment.runs:
                for first, last, digest in run.removed:
                    gaps = self.gaps.setdefault(run.uuid, Removed())
                    gaps.add(first, last, bytes.fromhex(digest))

    def unattested(self, in_flight: str) -> Iterator[Found]:
        """Yield what was in flight when a segment was written."""
        for each in self._in_doubt:
            for uuid, text in each.entries.items():
                for first, last in ranges_in(text):
                    yield Found(uuid, first, last, "in doubt", in_flight, each.since_ns)


def _stage(
    file: Path, pending: Sequence[Segment], journal: Journal, heads: dict[str, Link]
) -> None:
    """Make a journal of segments, to be merged.

    Args:
        file: Its database.
        pending: The segments.
        journal: Into which they will be merged.
        heads: What is proved of each chain; is moved on.
    """
    make_empty(file, journal.journal_id)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        stage = _Stage(connection, journal, heads)
        for segment in pending:
            stage.add(segment)
        connection.execute("COMMIT")


def make_empty(
    file: Path, journal_id: str, *, created_at_ns: int = 0, version: str = __version__
) -> None:
    """Make the database of a journal without entries, to take over or to merge into another."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        schema.create(connection, journal_id=journal_id, now_ns=created_at_ns, version=version)


@dataclass(slots=True)
class _Stage:
    connection: sqlite3.Connection
    journal: Journal
    heads: dict[str, Link]
    writers: dict[str, int] = field(default_factory=dict)
    components: dict[str, int] = field(default_factory=dict)

    def add(self, segment: Segment) -> None:
        """Add what a segment says."""
        where = f"segment {segment.number} of {segment.replica}"
        described = {row.uuid: row for row in segment.processes}
        for _, uuid, entry in _fresh(segment, described, self.heads, self.heads, where):
            columns = (self._writer(uuid, described, where), entry[0], self._component(entry[1]))
            self.connection.execute(_INSERT_ENTRY, (*columns, *entry[2:]))
        self.connection.executemany(_INSERT_BLOB, [blob[:3] for blob in segment.blobs])
        for each in segment.attestations:
            writer_id = self._writer(each.uuid, described, where)
            attested = (writer_id, each.writer_seq, None, each.body, each.digest)
            self.connection.execute(_INSERT_ATTESTATION, attested)

    def _writer(self, uuid: str, described: Mapping[str, WriterRow], where: str) -> int:
        """Return a process's id; if the segment does not describe it, it is known here."""
        if uuid not in self.writers:
            row = described.get(uuid)
            if row is None:
                found = self.journal.database.read(_WRITER, (uuid,))
                if not found:
                    raise _undescribed(uuid, where)
                row = WriterRow(tuple(found[0][1:-1]), found[0][-1])
            cursor = self.connection.execute(_INSERT_WRITER, (*row.columns, row.digest))
            self.writers[uuid] = int(cursor.lastrowid or 0)
        return self.writers[uuid]

    def _component(self, name: str) -> int:
        if name not in self.components:
            sql = "INSERT INTO component (name, created_at_ns) VALUES (?, 0)"
            self.components[name] = int(self.connection.execute(sql, (name,)).lastrowid or 0)
        return self.components[name]


def _fresh(
    segment: Segment,
    described: Mapping[str, WriterRow],
    heads: Mapping[str, Link],
    moved: dict[str, Link],
    where: str,
) -> list[tuple[int, str, tuple[Any, ...]]]:
    """Prove the entries of a segment; return what is new in the order in which it was recorded.

    Args:
        segment: The segment.
        described: Its processes, by uuid.
        heads: What is proved of each chain.
        moved: Gets the new heads.
        where: The file, for messages.

    Returns:
        Of each entry the number that it had there, its process and its columns.
    """
    fresh: list[tuple[int, str, tuple[Any, ...]]] = []
    for run in segment.runs:
        known = _known(run, heads, described, where)
        if run.head.place > known.place:
            seqs = (seq for first, last in run.seqs for seq in range(first, last + 1))
            entries = zip(seqs, segments.rows(run, known, where), strict=True)
            fresh += [(seq, run.uuid, entry) for seq, entry in entries if entry[0] > known.place]
            moved[run.uuid] = run.head
    if len(segment.runs) > 1:
        fresh.sort(key=itemgetter(0))
    return fresh


def _known(
    run: Run, heads: Mapping[str, Link], described: Mapping[str, WriterRow], where: str
) -> Link:
    """Return the last link of a run's chain that is proved.

    Raises:
        EvidenceError: The run does not continue it, or nobody describes its process.
    """
    known = heads.get(run.uuid)
    if known is None:
        if run.uuid not in described:
            raise _undescribed(run.uuid, where)
        known = Link(0, described[run.uuid].begin)
    if run.after.place > known.place:
        raise forged(
            where,
            f"entries {known.place + 1} to {run.after.place} of the process "
            f"{limits.shown(run.uuid)} are missing before it",
        )
    return known


def _writer_id(connection: sqlite3.Connection, row: WriterRow | None, uuid: str, where: str) -> int:
    """Return the id of a process; record it if it is new. Inside a transaction."""
    found = connection.execute(_WRITER, (uuid,)).fetchone()
    if found is None:
        if row is None:
            raise _undescribed(uuid, where)
        return int(connection.execute(_INSERT_WRITER, (*row.columns, row.digest)).lastrowid or 0)
    if row is not None and (*row.columns, row.digest) != tuple(found[1:]):
        raise forged(where, f"the process {limits.shown(uuid)} is described differently here")
    return int(found[0])


def _undescribed(uuid: str, where: str) -> EvidenceError:
    return forged(where, f"the process {limits.shown(uuid)} is not described")
