"""Write what is new in a journal into a mirror, as segments.

A mirror's own files say how far the journal was written: the last whole segment of its replica.
So a process that was killed at any moment leaves nothing to repair. The next one lists the
replica's folder and goes on behind that segment. A segment that was cut or changed there stays as
it is: the next one continues the one before it, with everything since. Small segments are joined
(``join``).

Segments come first, since they are small and may be the only copy of what was logged. The bytes of
artifacts follow. Everything is read from short snapshots: trackers append meanwhile. Changes
nothing in the journal but ``mirror.json``.

Invariants: an entry is mirrored only if the chain of its process leads to it. If it does not, the
entry was altered, and nothing of that process is mirrored from there on. What came from other
replicas is not written again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack._version import __version__
from journaltrack.errors import (
    EvidenceError,
    JournalAlteredError,
    JournalOutdatedError,
    JournalWriteError,
    LeaseHeldError,
    MirrorError,
)
from journaltrack.journal import destinations, view, vocabulary
from journaltrack.journal.chain import (
    COLUMNS,
    FACTS,
    Removed,
    begin_of,
    encoding,
    is_described,
    removed_in,
)
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite.errors import translated
from journaltrack.mirror import exchange, folders, heartbeat, segments
from journaltrack.mirror.blobs import Sender
from journaltrack.mirror.join import Joiner
from journaltrack.mirror.segments import Blob, InDoubt, Link, Reached, Run, Segment
from journaltrack.replay.lease import lock_holder
from journaltrack.replay.plan.actions import PutMetrics
from journaltrack.transfer.apply_source import Attested, WriterRow
from journaltrack.util import paths
from journaltrack.util.digest import is_digest
from journaltrack.util.intervals import as_text, extend, ranges_in

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.mirror.folders import Mirror

SEGMENT_BYTES: Final = 4 << 20
"""Our limit: a segment ends behind the entry that exceeds it."""
_PROVED_FILES: Final = 256
_PROVED_BYTES: Final = 64 << 20
"""Our choice: how far back a writer looks when it begins whether the server has lost a segment."""
_ENTRIES: Final = f"SELECT {COLUMNS} FROM entry e WHERE e.seq > ? AND e.seq <= ? ORDER BY e.seq"
_ATTESTATIONS: Final = (
    "SELECT id, writer_id, writer_seq, body, digest FROM attestation WHERE id > ? AND id <= ? "
    "ORDER BY id"
)
_WRITER: Final = f"SELECT {', '.join(schema.WRITER_COLUMNS)}, digest FROM writer WHERE id = ?"
_LAST: Final = (
    "SELECT writer_seq, digest FROM entry WHERE writer_id = ? AND seq < ? ORDER BY seq DESC LIMIT 1"
)
_BLOB: Final = "SELECT size_bytes, spooled_at_ns FROM blob WHERE sha256 = ?"
_IN_FLIGHT: Final = (
    "SELECT entries, started_at_ns FROM receipt WHERE finished_at_ns IS NULL AND action = ? "
    "AND id > ? AND id <= ? ORDER BY id"
)
UNSETTLED: Final = (
    "SELECT w.uuid, e.writer_seq FROM entry e JOIN writer w ON w.id = e.writer_id "
    "WHERE e.seq BETWEEN ? AND ? AND e.stream = 'metric' AND e.kind <> 'local' "
    "AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = e.seq) ORDER BY e.seq"
)


@dataclass(slots=True)
class Shipped:
    """What was written into a mirror.

    Attributes:
        segments, entries, attestations: How many.
        segment_bytes: In the segments.
        blobs, blob_bytes: Artifacts that were copied. The bytes grow while one is copied.
        blobs_missing: Artifacts whose bytes are missing or damaged in the spool.
        halted: By a process's uuid: the place of its first entry that was altered.
    """

    segments: int = 0
    entries: int = 0
    attestations: int = 0
    segment_bytes: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    blobs_missing: list[str] = field(default_factory=list)
    halted: dict[str, int] = field(default_factory=dict)

    @property
    def moved_bytes(self) -> int:
        """Return what grows for as long as the mirror's file system takes anything."""
        return self.segment_bytes + self.blob_bytes


class Shipper:
    """Write one journal's segments. The caller holds ``exchange.alone``.

    Args:
        journal: The journal's folder.
        mirror: Where to.
        segment_bytes: See ``SEGMENT_BYTES``.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        JournalError: The journal can't be read.
    """

    def __init__(
        self,
        journal: Path,
        mirror: Mirror,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        destinations.refuse_copy(journal, "mirrored")
        # Upgrades a journal of an older version, as every process that writes to it does.
        Journal.open(journal, create=False).close()
        self._mirror = mirror
        self._segment_bytes = segment_bytes
        self._clock_ns = clock_ns
        self._journal = Journal.open(journal, create=False, read_only=True)
        ((*facts, digest),) = self._journal.database.read(f"SELECT {FACTS}, digest FROM meta")
        self._facts = (tuple(facts), digest)
        self._state = exchange.load(journal, mirror.id)
        self._spool = Spool(self._journal.path / paths.SPOOL)
        self._sender = Sender(self._journal, mirror)
        self._replica: folders.Replica | None = None
        self._joiner: Joiner | None = None
        self._is_proved = False
        # Of this replica: the last number in its folder, what the next segment continues, and how
        # far the journal is written.
        self._number = 0
        self._previous: str | None = None
        self._reached = Reached()
        self._halted: dict[str, int] = {}
        self._halted_before: Mapping[str, int] = {}
        # Below, by the id of a writer in the journal.
        self._writers: dict[int, WriterRow] = {}
        self._heads: dict[int, Link] = {}
        self._described: set[int] = set()
        self._names: dict[object, str] = {}
        self._gaps: dict[str, Removed] | None = None
        # Names of runs in the next segment, and those that the mirror knows.
        self._run_names: set[str] = set()
        self._noted_names: set[str] = set()

    @property
    def number(self) -> int:
        """Return the number of the replica's last segment."""
        return self._number

    @property
    def has_blobs(self) -> bool:
        """Return whether bytes of artifacts are still to be copied."""
        return self._sender.has_any

    def beat(self, every_s: float | None) -> None:
        """Show that the journal is mirrored, once anything was.

        Args:
            every_s: When the next call comes at the latest; None: none is promised.

        Raises:
            MirrorError: The mirror can't be written.
        """
        if self._replica is not None:
            heartbeat.beat(self._replica, self._number, self._clock_ns(), every_s)

    def close(self) -> None:
        """Close the journal."""
        self._let_go()
        self._journal.close()

    def _let_go(self) -> None:
        if self._replica is not None:
            self._replica.close()
        self._replica = self._joiner = None

    def ship(self, shipped: Shipped | None = None) -> Shipped:
        """Write everything that is new, as segments.

        Args:
            shipped: Is counted on.

        Raises:
            JournalOutdatedError: Nothing attests what became of the journal's oldest entries.
            LeaseHeldError: A pass has begun before the journal was mirrored.
            MirrorError: The mirror can't be written. What was written counts, and the next call
                goes on behind it.
            JournalError: The journal can't be read.
        """
        shipped = Shipped() if shipped is None else shipped
        journal_id, *_, attested_after_receipt, attested_after_ns = self._facts[0]
        if attested_after_receipt or attested_after_ns:
            raise JournalOutdatedError(
                f"the journal {journal_id} has receipts of format 0001, which nothing attests; "
                "nothing was mirrored",
                hint=f"attest them: journaltrack merge {self._journal.path} --into NEW; "
                "then mirror NEW",
            )
        # What was taken over since is not written again.
        self._state = exchange.load(self._journal.path, self._mirror.id)
        try:
            if (
                self._replica is None
                or self._replica.path.name != self._state.replica
                # Another process has written meanwhile.
                or self._state.number > self._number
            ):
                self._resume()
            # Up to what was there: who logs all the time would make a segment of each entry.
            last = Reached(*map(max, self._newest(), self._reached))
            while self._reached != last and (segment := self._next(last)) is not None:
                self._write(segment, shipped)
        except BaseException:
            # Whether the last segment is there, the folder says.
            self._let_go()
            raise
        shipped.halted = dict(self._halted)
        return shipped

    def join(self) -> None:
        """Join small segments, where enough of them are there. ``ship`` has been called.

        Raises:
            MirrorError: The mirror can't be written. The next call tries again.
        """
        if self._joiner is not None:
            self._joiner.join()

    def copy_blobs(self, shipped: Shipped, size_max: int | None = None) -> None:
        """Copy the bytes of artifacts that segments name, one after the other.

        A thread of its own may do this while another one ships.

        Args:
            shipped: Is counted on.
            size_max: Leave larger ones to another time, bytes.

        Raises:
            MirrorError: The mirror can't be written. The next call tries again.
        """
        self._sender.send(shipped, size_max)

    # -- where it goes on -------------------------------------------------------------------------

    def _resume(self) -> None:
        """Find the last whole segment of this replica."""
        if folders.opened(self._mirror.path).id != self._mirror.id:
            raise MirrorError(f"{self._mirror.path} is another mirror now; mirror again")
        if not self._state.replica:
            self._name_replica()
        self._let_go()
        replica = self._mirror.replica(self._journal.journal_id, self._state.replica)
        self._replica = replica
        replica.sweep()
        listing = replica.listed()
        self._number = max(listing.newest, self._state.number)
        last = self._last(replica)
        if last is not None and self._was_put_back(last):
            # It would write nothing until it has as many entries again.
            self._state.replica = ""
            self._resume()
            return
        self._previous = last.link if last is not None else None
        self._reached = last.reached if last is not None else Reached()
        self._halted_before = last.halted if last is not None else {}
        self._halted = dict(self._halted_before)
        self._heads.clear()
        self._described.clear()
        self._joiner = Joiner(replica, listing.spans)
        self._run_names.clear()
        self._noted_names.clear()
        self._sender.begin(self._reached.seq)

    def _name_replica(self) -> None:
        """Give this copy a name in the mirror.

        From now on, a pass looks who delivers (``delivery``). One that has begun does not.

        Raises:
            LeaseHeldError: A pass has begun.
        """
        journal = self._journal.path
        if lock_holder(journal) is not None:
            raise LeaseHeldError(
                f"another process delivers the journal at {journal} now, and does not know "
                "that it is mirrored; nothing was mirrored yet",
                hint="mirror again when that process is done",
            )
        self._state.replica, self._state.number = exchange.new_replica(), 0
        self._state.folder = str(self._mirror.path)
        exchange.save(journal, self._mirror.id, self._state)

    def _was_put_back(self, last: Segment) -> bool:
        """Return whether the journal is not what the last segment was written from.

        Its file was put back to an earlier state, such as by a snapshot of the whole disk.
        """
        newest = self._newest()
        if newest.seq < last.reached.seq or newest.attestation < last.reached.attestation:
            return True
        for run in last.runs:
            sql = "SELECT digest FROM entry WHERE seq = ?"
            for (digest,) in self._journal.database.read(sql, (run.seqs[-1][1],)):
                if digest != run.head.digest:
                    return True
        return False

    def _last(self, replica: folders.Replica) -> Segment | None:
        """Return the segment behind which to go on; None: begin anew.

        That is the last whole one. If the server lost one of those before, it is the one before
        the loss, and what follows is written again.
        """
        latest = replica.latest(_PROVED_FILES)
        if self._is_proved:
            return next(self._whole(replica, latest), None)
        last: Segment | None = None
        written: list[_Written] = []
        size_bytes = 0
        for segment in self._whole(replica, latest):
            last = last or segment
            if size_bytes > _PROVED_BYTES:
                break
            if not written or segment.number < written[-1].span.first:
                written.append(_Written(segment.span, segment.link, segment.previous))
                size_bytes += sum(len(line) for run in segment.runs for line in run.lines)
        if last is None:
            return None
        self._is_proved = True
        is_all = len(latest) < _PROVED_FILES and size_bytes <= _PROVED_BYTES
        found = _before_loss(written, is_all=is_all)
        # Readers that have taken more over do not know it any more.
        if found is None or last.number - found.span.last >= exchange.DIGESTS_MAX:
            return None
        return last if found is written[0] else next(self._whole(replica, [found.span]), None)

    def _whole(self, replica: folders.Replica, spans: Iterable[folders.Span]) -> Iterator[Segment]:
        for span in spans:
            with contextlib.suppress(segments.NotWholeError, EvidenceError):
                yield segments.read(replica, span)

    # -- a segment --------------------------------------------------------------------------------

    def _newest(self) -> Reached:
        """Return the last row of each kind that there is now."""
        rows = self._journal.database.read(
            "SELECT coalesce((SELECT max(seq) FROM entry), 0), "
            "coalesce((SELECT max(id) FROM attestation), 0), "
            "coalesce((SELECT max(id) FROM receipt WHERE finished_at_ns IS NULL), 0)"
        )
        return Reached(*rows[0])

    def _next(self, last: Reached) -> Segment | None:
        """Return the next segment; None if there is nothing new up to ``last``."""
        database = self._journal.database
        segment = Segment(
            *self._facts,
            self._state.replica,
            self._number + 1,
            self._previous,
            self._reached,
            self._clock_ns(),
            f"journaltrack {__version__}",
        )
        runs: dict[int, Run] = {}
        blobs: dict[str, Blob] = {}
        with view.snapshot(database), translated(database.path):
            connection = database.connection
            size = 0
            seq, attestation, receipt = self._reached
            for row in connection.execute(_ENTRIES, (seq, last.seq)):
                seq = row[0]
                size += self._add_entry(segment, runs, blobs, row)
                if size >= self._segment_bytes:
                    break
            else:
                # Behind the entries that they are about.
                for row in connection.execute(_ATTESTATIONS, (attestation, last.attestation)):
                    attestation = row[0]
                    size += self._add_attestation(segment, row)
                    if size >= self._segment_bytes:
                        break
                else:
                    self._add_in_flight(connection, segment, receipt, last.receipt)
                    receipt = last.receipt
        if (seq, attestation, receipt) == self._reached:
            return None
        segment.reached = Reached(seq, attestation, receipt)
        segment.halted = dict(self._halted)
        segment.runs, segment.blobs = list(runs.values()), list(blobs.values())
        return segment

    def _write(self, segment: Segment, shipped: Shipped) -> None:
        assert self._replica is not None  # noqa: S101 - ``ship`` has found it
        # Where all that is new came from other replicas, there is nothing to write.
        has_content = segment.runs or segment.attestations or segment.in_doubt
        if has_content or self._halted != self._halted_before:
            data = segments.encode(segment)
            # First, so that whoever finds the segment finds it by its run.
            for name in self._run_names - self._noted_names:
                self._mirror.note_run(name, self._journal.journal_id)
                self._noted_names.add(name)
            # First: if this fails, a reader may see it nevertheless, and the next one be another.
            self._number = self._state.number = segment.number
            # A full disk here does not keep from the mirror what is recorded.
            with contextlib.suppress(JournalWriteError):
                exchange.save(self._journal.path, self._mirror.id, self._state)
            self._replica.write(segment.span, data)
            self._previous = segment.sha256
            if self._joiner is not None:
                self._joiner.wrote(segment)
            self._halted_before = segment.halted
            shipped.segments += 1
            shipped.segment_bytes += segment.size_bytes
            shipped.entries += segment.entries
            shipped.attestations += len(segment.attestations)
            self._sender.add(segment.blobs)
        self._reached = segment.reached

    def _add_entry(
        self,
        segment: Segment,
        runs: dict[int, Run],
        blobs: dict[str, Blob],
        row: tuple[Any, ...],
    ) -> int:
        """Add an entry to its process's run; return how many bytes it takes."""
        seq, writer_id, place, component_id, *columns, digest = row
        writer = self._writer(writer_id)
        if writer.uuid in self._state.foreign or writer.uuid in self._halted:
            return 0
        head = self._heads.get(writer_id) or self._head_before(writer_id, seq, writer)
        gap = self._gap(writer.uuid, head, place)
        before = head.digest if gap is None else gap[1]
        name = self._name(component_id)
        line = encoding(before, place, name, columns, digest)
        expected = head.place + 1 if gap is None else gap[0] + 1
        if line is None or place != expected:
            self._halted[writer.uuid] = head.place + 1
            return 0
        run = runs.get(writer_id)
        if run is None:
            run = runs[writer_id] = Run(writer.uuid, head)
            self._describe(segment, writer_id, writer)
        if gap is not None:
            run.removed.append((head.place + 1, gap[0], gap[1].hex()))
        extend(run.seqs, seq, seq)
        run.lines.append(line)
        self._run_names.add(name)
        run.head = self._heads[writer_id] = Link(place, digest)
        if columns[6] is not None and columns[0] == vocabulary.UPLOAD:
            self._add_blob(blobs, columns[6])
        return len(line)

    def _add_attestation(self, segment: Segment, row: tuple[Any, ...]) -> int:
        """Add an attestation; return how many bytes it takes."""
        number, writer_id, place, body, digest = row
        writer = self._writer(writer_id)
        if writer.uuid in self._state.foreign:
            return 0
        if type(place) is not int or not isinstance(body, str) or not isinstance(digest, bytes):
            raise JournalAlteredError(
                f"attestation {number} of the journal at {self._journal.path} is not one that "
                "journaltrack made; nothing behind it is mirrored",
                hint="`journaltrack check` says more",
            )
        self._describe(segment, writer_id, writer)
        segment.attestations.append(Attested(writer.uuid, place, body, digest))
        return len(body)

    def _add_in_flight(
        self, connection: sqlite3.Connection, segment: Segment, after: int, last: int
    ) -> None:
        """Add what unanswered requests carry, from those with these numbers.

        If this node is lost, nobody can tell whether those points arrived. If the answer comes, its
        attestation says so in a later segment.
        """
        rows = connection.execute(_IN_FLIGHT, (PutMetrics.action, after, last)).fetchall()
        for entries, since_ns in rows:
            places: dict[str, list[tuple[int, int]]] = {}
            for interval in ranges_in(entries):
                for uuid, place in connection.execute(UNSETTLED, interval):
                    if uuid not in self._halted:
                        extend(places.setdefault(uuid, []), place, place)
            if places:
                named = {uuid: as_text(runs) for uuid, runs in places.items()}
                segment.in_doubt.append(InDoubt(named, since_ns))

    def _add_blob(self, blobs: dict[str, Blob], payload: str) -> None:
        sha256 = str(view.detail_of(payload).get("sha256"))
        if not is_digest(sha256) or sha256 in blobs:
            return
        row = self._journal.database.connection.execute(_BLOB, (sha256,)).fetchone()
        if row is not None:
            size_bytes, spooled_at_ns = row
            blobs[sha256] = Blob(sha256, size_bytes, spooled_at_ns, self._spool.has(sha256))

    def _describe(self, segment: Segment, writer_id: int, writer: WriterRow) -> None:
        if writer_id not in self._described:
            self._described.add(writer_id)
            segment.processes.append(writer)

    # -- what the journal says, in a snapshot -----------------------------------------------------

    def _writer(self, writer_id: int) -> WriterRow:
        found = self._writers.get(writer_id)
        if found is None:
            row = self._journal.database.connection.execute(_WRITER, (writer_id,)).fetchone()
            if row is None:
                # What a writer that is not recorded appended can't be proved.
                found = WriterRow((f"unknown-{writer_id}",), None)
                self._halted.setdefault(found.uuid, 1)
            else:
                *columns, digest = row
                found = WriterRow(tuple(columns), digest)
                if not is_described(digest, columns):
                    self._halted.setdefault(found.uuid, 1)
            self._writers[writer_id] = found
        return found

    def _name(self, component_id: object) -> str:
        found = self._names.get(component_id)
        if found is None:
            row = self._journal.database.connection.execute(
                "SELECT name FROM component WHERE id = ?", (component_id,)
            ).fetchone()
            found = self._names[component_id] = str(row[0]) if row else ""
        return found

    def _head_before(self, writer_id: int, seq: int, writer: WriterRow) -> Link:
        row = self._journal.database.connection.execute(_LAST, (writer_id, seq)).fetchone()
        found = Link(*row) if row else Link(0, begin_of(writer.uuid, writer.digest))
        self._heads[writer_id] = found
        return found

    def _gap(self, uuid: str, head: Link, place: int) -> tuple[int, bytes] | None:
        """Return the last entry that was removed on the record before a place, and its digest."""
        if type(place) is not int or place <= head.place + 1:
            return None
        if self._gaps is None:
            self._gaps = removed_in(self._journal.database.connection)
        digest = self._gaps[uuid].across(head.place + 1, place - 1) if uuid in self._gaps else None
        return None if digest is None else (place - 1, digest)


class _Written(NamedTuple):
    """What is needed of a segment in the mirror to see whether one before it is lost."""

    span: folders.Span
    link: str
    previous: str | None


def _before_loss(written: Sequence[_Written], *, is_all: bool) -> _Written | None:
    """Return the newest segment before which none is lost; None: there is none.

    Args:
        written: Segments of one replica, the newest first.
        is_all: Whether these are all. If not, those before a loss are not known.
    """
    at = found = 0
    while (previous := written[at].previous) is not None and (is_all or at + 1 < len(written)):
        rest = range(at + 1, len(written))
        before = next((place for place in rest if written[place].link == previous), None)
        if before is None:
            found = before = at + 1
            if found == len(written) or not is_all:
                return None
        at = before
    return written[found]
