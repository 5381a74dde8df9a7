"""``journaltrack merge``: the entries and the evidence of several journals, or copies of one, brought into another.

An entry is the same wherever it is if its process (``writer.uuid``) and its place in the process's chain are the same; the row
where it happens to be says nothing. Sources are read as of one moment each, and never changed. Must not know a remote.

Invariants: one transaction: all of it or nothing; entries are taken over as they are, each process's in order and without
gaps, after their digests are seen to fit; doing it again changes nothing. What may have been sent is never pending afterwards.
"""

from __future__ import annotations

import bisect
import contextlib
import heapq
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import lease as leases
from journaltrack import limits, paths, report, schema, statements
from journaltrack.actions import SEQ_MAX, PutMetrics, as_intervals
from journaltrack.applying import MERGE, Applied, Applier
from journaltrack.applying_source import joined
from journaltrack.attesting import Attestor, Settled
from journaltrack.errors import InvalidInputError, LeaseHeldError
from journaltrack.journal import Journal
from journaltrack.merging_heads import Heads, Runs
from journaltrack.merging_source import Copied, EntryRow, JournalSource
from journaltrack.pass_report import Progress
from journaltrack.settlement import Settlement
from journaltrack.spool import Spool, is_digest

if TYPE_CHECKING:
    import sqlite3

IN_FLIGHT: Final = "a request that carried it had no answer yet when the journal was merged: it may have been sent"
_INSERT_ENTRY: Final = schema.insert_sql("entry").replace("(writer_id", "(seq, writer_id", 1).replace("VALUES (", "VALUES (?, ", 1)
_INSERT_REFUSED: Final = "INSERT OR IGNORE INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, 'quarantined', ?, ?)"
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class MergedSource:
    """What came from one source.

    Attributes:
        journal, journal_id: Which.
        entries: Those that are new.
        known: Those that were here already.
        attestations: New ones; the source's other ``known_attestations`` were here already.
        blobs, blob_bytes: Contents of artifacts copied.
        blobs_missing: Contents that are not, or not whole, in the source's spool.
        taken_as_found: Entries settled there without an attestation (by format 0001, or in flight), and so here.
        kept: Entries that stay in doubt or quarantined here although the source released them: it did not know why they are so here.
    """

    journal: str
    journal_id: str
    entries: int
    known: int
    attestations: int
    known_attestations: int
    blobs: int
    blob_bytes: int
    blobs_missing: tuple[str, ...]
    taken_as_found: int
    kept: int


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did.

    Attributes:
        journal, journal_id: Into which.
        created: Whether it was made.
        sources: In the order in which they were named.
        entries: That it has now.
        pending: Of those, how many are pending.
    """

    journal: str
    journal_id: str | None
    created: bool
    sources: tuple[MergedSource, ...]
    entries: int
    pending: int

    @property
    def changed(self) -> bool:
        """Whether anything was new."""
        return any(source.entries or source.attestations or source.blobs or source.taken_as_found for source in self.sources)

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes."""
        members: dict[str, Any] = report.to_json(self)
        members["changed"] = self.changed
        return members


def merge(
    sources: Sequence[str | os.PathLike[str]],
    *,
    into: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
) -> MergeReport:
    """Bring the entries, evidence and artifacts of journals, or of copies of one, into another journal.

    New entries come in the order in which they were recorded, each process's in its own.

    Args:
        sources: Their folders. They may be appended to meanwhile: merging again brings the rest.
        into: The folder of the journal that gets all; made if there is none.
        on_progress: Called now and then with how many entries were brought, of how many.

    Raises:
        InvalidInputError: No source, or one of them is the target itself.
        EvidenceError: A source contradicts itself or the target: a chain is broken, or goes on otherwise there. Nothing was changed.
        LeaseHeldError: A source or the target is being reconciled.
        JournalError: A source can't be read, or the target can't be written.
    """
    folders = [_folder(source) for source in sources]
    target = _folder(into)
    if not folders:
        raise InvalidInputError("no journal was named to merge from", hint="name one or more, then --into and the journal that gets all")
    _refuse_itself(folders, target)
    with contextlib.ExitStack() as stack:
        opened = [_opened_source(folder, stack) for folder in folders]
        created = not (target / paths.DATABASE).exists()
        journal = Journal.open(target, create=True)
        stack.callback(journal.close)
        held = leases.acquire(journal.database)
        stack.callback(held.release)
        merger = _Merger(journal, held, opened, on_progress or (lambda _: None))
        results = merger.run()
        ((entries, pending),) = journal.database.read(
            "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM entry) - (SELECT count(*) FROM delivery)"
        )
        return MergeReport(str(journal.path), journal.journal_id, created, results, entries, pending)


def bring(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, on_progress: Callable[[Progress], None] | None = None
) -> MergeReport:
    """Bring what is new in another copy into an existing journal: ``merge`` of one.

    Raises:
        JournalNotFoundError: There is no target.
        JournalError, InvalidInputError: As ``merge``.
    """
    Journal.open(target, create=False, read_only=True).close()
    return merge([source], into=target, on_progress=on_progress)


def _folder(path: str | os.PathLike[str]) -> Path:
    return paths.expanded(path).absolute()


def _refuse_itself(folders: Sequence[Path], target: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            if (folder / paths.DATABASE).samefile(target / paths.DATABASE):
                raise InvalidInputError(
                    f"{folder} can't be merged into itself", hint="name another folder with --into; it is made if it is not there"
                )


def _opened_source(folder: Path, stack: contextlib.ExitStack) -> JournalSource:
    """A source as of now.

    Raises:
        LeaseHeldError: Somebody reconciles it: what it sends now would be pending in the merge.
    """
    journal = stack.enter_context(report.opened(str(folder)))
    ((owner, host, expires_at_ns),) = journal.database.read("SELECT owner, host, expires_at_ns FROM lease")
    elsewhere = owner is not None and host != socket.gethostname() and isinstance(expires_at_ns, int)
    now_ns = time.time_ns()
    away = elsewhere and now_ns < expires_at_ns <= now_ns + 2 * int(leases.TTL_S * 1e9)
    if away or leases.lock_holder(folder) is not None:
        raise LeaseHeldError(
            f"the journal at {folder} is being reconciled: what is sent meanwhile would be pending in the merge",
            hint="merge when that process is done; `journaltrack status` says which it is",
        )
    stack.enter_context(report.snapshot(journal.database))
    return JournalSource(journal)


@dataclass(slots=True)
class _Counts:
    """Of one source."""

    copied: Copied = field(default_factory=Copied)
    applied: Applied = field(default_factory=Applied)
    blobs: int = 0
    blob_bytes: int = 0
    blobs_missing: list[str] = field(default_factory=list)
    taken_as_found: int = 0


class _Merger:
    """One merge, its sources opened and the target's lease held."""

    def __init__(self, journal: Journal, lease: leases.Lease, sources: Sequence[JournalSource], tell: Callable[[Progress], None]) -> None:
        self._journal = journal
        self._lease = lease
        self._sources = sources
        self._tell = tell
        self._counts = [_Counts() for _ in sources]
        self._new_components: set[str] = set()

    def run(self) -> tuple[MergedSource, ...]:
        """Blobs first: an entry must not be there before what it names; then all else in one transaction."""
        for source, counts in zip(self._sources, self._counts, strict=True):
            self._copy_blobs(source, counts)
        database = self._journal.database
        attestor = Attestor(database, self._lease)
        generation = self._lease.generation
        with attestor.transaction() as connection:
            (above,) = connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
            applier = Applier(connection, attestor)
            self._copy_entries(connection, applier, above)
            applier.follow_known({uuid for c in self._counts for uuid in c.copied.writers}, self._new_components, above)
            for source, counts in zip(self._sources, self._counts, strict=True):
                applier.take_over(source)
                generation = applier.finish(source)
                counts.applied = applier.applied
                counts.taken_as_found = self._take_as_found(connection, applier, source)
                applier.note(source, found=counts.taken_as_found > 0)
                self._copy_blob_rows(connection, source)
            applier.discard()
        self._lease.generation = generation
        Settlement(database, self._lease).advance_mark()
        return tuple(self._result(source, counts) for source, counts in zip(self._sources, self._counts, strict=True))

    def _result(self, source: JournalSource, counts: _Counts) -> MergedSource:
        return MergedSource(
            journal=source.name,
            journal_id=source.journal.journal_id,
            entries=counts.copied.entries,
            known=source.entries - counts.copied.entries,
            attestations=counts.applied.attestations,
            known_attestations=counts.applied.known,
            blobs=counts.blobs,
            blob_bytes=counts.blob_bytes,
            blobs_missing=tuple(counts.blobs_missing),
            taken_as_found=counts.taken_as_found,
            kept=counts.applied.kept,
        )

    # -- artifacts ----------------------------------------------------------------------------------------------

    def _copy_blobs(self, source: JournalSource, counts: _Counts) -> None:
        ours = Spool(self._journal.path / paths.SPOOL)
        for sha256, size_bytes, _ in source.blobs():
            if not is_digest(sha256) or (ours.has(sha256) and ours.path_of(sha256).lstat().st_size == size_bytes):
                continue
            blob = ours.take_over(source.journal.path / paths.SPOOL, sha256)
            if blob is None:
                counts.blobs_missing.append(sha256)
            else:
                counts.blobs += 1
                counts.blob_bytes += blob.size_bytes

    @staticmethod
    def _copy_blob_rows(connection: sqlite3.Connection, source: JournalSource) -> None:
        connection.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?, ?)", source.blobs())

    # -- entries ------------------------------------------------------------------------------------------------

    def _copy_entries(self, connection: sqlite3.Connection, applier: Applier, above: int) -> None:
        """Those that are not here, of all sources together in the order in which they were recorded."""
        heads = Heads(connection, applier.writers)
        streams = [self._in_order(number, source, applier, heads) for number, source in enumerate(self._sources)]
        total = sum(source.new_entries(heads.places) for source in self._sources)
        seq = above
        run = Runs(applier)
        components: dict[str, int] = {}
        page: list[tuple[Any, ...]] = []

        def flush() -> None:
            connection.executemany(_INSERT_ENTRY, page)
            page.clear()
            run.end()

        heads.flush = flush
        self._tell(Progress(0, total, 0))
        for _, number, row in heapq.merge(*streams, key=lambda each: each[:2]):
            uuid = row.uuid
            if not heads.takes(uuid, row, self._sources[number].name):
                continue  # it is here already, or another source brought it
            seq += 1
            component_id = components.get(row.component)
            if component_id is None:
                component_id = components[row.component] = self._component(applier, row.component, self._sources[number].name)
            page.append((seq, heads.ids[uuid], row.writer_seq, component_id, *row.columns, row.digest))
            run.add(heads.ids[uuid], row.writer_seq, seq)
            self._counts[number].copied.add(uuid)
            if row.refused is not None:
                connection.execute(_INSERT_REFUSED, (seq, row.refused, row.recorded_at_ns))
            if len(page) >= _PAGE:
                connection.executemany(_INSERT_ENTRY, page)
                page.clear()
                self._tell(Progress(seq - above, total, 0))
        flush()
        self._tell(Progress(total, total, 0))

    def _in_order(self, number: int, source: JournalSource, applier: Applier, heads: Heads) -> Iterator[tuple[int, int, EntryRow]]:
        """The source's entries from those on that may be new, with a time that never goes back: a clock may."""
        latest = 0
        for uuid, row in source.writers.items():
            if uuid in source.recorders:
                heads.meet(uuid, applier.add_writer(row, source.name), row)
        for entry in source.entries_since(heads.places):
            latest = max(latest, entry.recorded_at_ns)
            yield latest, number, entry

    def _component(self, applier: Applier, name: str, where: str) -> int:
        component_id, spelling = applier.add_component(name)
        if spelling is None:
            self._new_components.add(name)
        elif spelling != name:
            raise InvalidInputError(
                f"{where}: the component {limits.shown(name)} is the one that is spelled {limits.shown(spelling)} in another journal; "
                "nothing was merged",
                hint="SageMaker makes no difference, but digests of entries do: merge these journals into different ones",
            )
        applier.touch([component_id])
        return component_id

    # -- what nobody attests ------------------------------------------------------------------------------------

    def _take_as_found(self, connection: sqlite3.Connection, applier: Applier, source: JournalSource) -> int:
        """Settle what is settled in the source without an attestation, or in flight there, and not here; this process attests it."""
        already = self._taken_before(connection, applier, source)
        groups: dict[int, dict[tuple[str, str | None, int], list[int]]] = defaultdict(lambda: defaultdict(list))
        count = 0
        for found in source.unattested(PutMetrics.action, IN_FLIGHT):
            for first, last in applier.places({found.uuid: ((found.first, found.last),)}):
                for seq in range(first, last + 1):
                    row = connection.execute("SELECT outcome FROM delivery WHERE seq = ?", (seq,)).fetchone()
                    arrived = found.outcome in {"delivered", "superseded"}
                    if (row is None and (arrived or not already(seq, found.at_ns))) or (
                        row is not None and arrived and row[0] in {"quarantined", "in doubt"}
                    ):
                        entry = connection.execute("SELECT component_id FROM entry WHERE seq = ?", (seq,)).fetchone()
                        if entry is None:  # removed here on the record, between others: it had been delivered
                            continue
                        groups[entry[0]][found.outcome, found.reason, found.at_ns].append(seq)
                        count += 1
        settled = {
            component_id: [Settled(outcome, reason, as_intervals(seqs), at_ns) for (outcome, reason, at_ns), seqs in by_kind.items()]
            for component_id, by_kind in groups.items()
        }
        for (outcome, reason, at_ns), seqs in ((kind, seqs) for by_kind in groups.values() for kind, seqs in by_kind.items()):
            connection.executemany(
                "INSERT OR REPLACE INTO delivery VALUES (?, NULL, ?, ?, ?)", [(seq, outcome, reason, at_ns) for seq in seqs]
            )
        applier.attest("found", settled, {"from": source.journal.journal_id})
        applier.derive(settled)
        return count

    @staticmethod
    def _taken_before(connection: sqlite3.Connection, applier: Applier, source: JournalSource) -> Callable[[int, int], bool]:
        """Whether an earlier merge of the same journal found an entry so, since the same time: who released it since then wants it pending.

        A later request that carried it has another time, and counts.
        """
        named: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of few merges that found something
        rows = connection.execute(
            "SELECT body FROM attestation WHERE instr(body, '\"found\"') AND instr(body, ?)", (source.journal.journal_id,)
        )
        for (body,) in rows.fetchall():
            members = json.loads(body)
            if (members.get("action"), members.get("outcome"), members.get("from")) == (MERGE, "found", source.journal.journal_id):
                for group in statements.read(body).settled:
                    named[group.at_ns] += applier.places(group.entries)
        places = {at_ns: joined(sorted(intervals)) for at_ns, intervals in named.items()}

        def already(seq: int, at_ns: int) -> bool:
            intervals = places.get(at_ns, [])
            place = bisect.bisect_right(intervals, (seq, SEQ_MAX)) - 1
            return place >= 0 and seq <= intervals[place][1]

        return already
