"""Merge journals, or copies of one, into another journal: entries and evidence.

An entry is the same everywhere if its process (``writer.uuid``) and its place in the process's
chain are the same. Its row says nothing. Each source is read as of one moment, and never changed.
The module must not know a remote.

Everything is checked before anything is written: a source that contradicts itself or the target
changes nothing. Then it is written in many short transactions, since trackers may append to the
target meanwhile. They record that the merge has begun, the entries, what became of them, and that
the merge has ended.

Invariants:

- Entries are taken over unchanged, after their digests are checked. Each process's entries come in
  order and without gaps.
- A second merge of the same sources changes nothing, and completes one that was killed. Until a
  killed merge is completed, no pass sends anything from the target (``taken``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, LeaseHeldError
from journaltrack.journal import destinations, view
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import HAS_ARRIVED
from journaltrack.journal.schema import schema
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import LOCAL, LOCAL_STAYS
from journaltrack.replay.evidence import statements
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.evidence.statements import MERGE, Named, Settled
from journaltrack.replay.evidence.taken import TAKEN
from journaltrack.replay.lease import TTL_S, Lease, acquire, lock_holder
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.apply import Ahead, Applied, Applier
from journaltrack.transfer.apply_source import Checked, Checker, forged
from journaltrack.transfer.merge_source import (
    COMPONENT,
    KIND,
    PLACE,
    RECORDED,
    REST,
    SEQ,
    WRITER,
    Found,
    Incoming,
    JournalSource,
    Row,
)
from journaltrack.util import paths, process
from journaltrack.util.digest import is_digest
from journaltrack.util.intervals import as_intervals, contains, merged

if TYPE_CHECKING:
    import sqlite3

IN_FLIGHT: Final = (
    "a request that carried it had no answer yet when the journal was merged: it may have been sent"
)
_INSERT_ENTRY: Final = (
    schema.insert_sql("entry")
    .replace("(writer_id", "(seq, writer_id", 1)
    .replace("VALUES (", "VALUES (?, ", 1)
)
_INSERT_SETTLED: Final = (
    "INSERT OR IGNORE INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, ?, ?, ?)"
)
_SETTLEMENT: Final = (
    "SELECT e.component_id, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
    "WHERE e.seq = ?"
)


@dataclass(frozen=True, slots=True)
class MergedSource:
    """What came from one source.

    Attributes:
        journal, journal_id: Which source.
        entries: New entries.
        known: Entries that were here already.
        attestations: New attestations.
        known_attestations: Attestations that were here already.
        blobs, blob_bytes: Contents of artifacts that were copied.
        blobs_missing: Contents that the source's spool lacks or has only in part.
        taken_as_found: Entries that are settled there without an attestation (by format 0001, or
            in flight), and so here.
        kept: Entries that stay in doubt or quarantined here. The source released them, but did
            not know why they are so here.
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
        journal, journal_id: The target.
        created: Whether the merge made the target.
        sources: In the order in which they were named.
        entries: How many entries the target has now.
        pending: How many of them are pending.
    """

    journal: str
    journal_id: str | None
    created: bool
    sources: tuple[MergedSource, ...]
    entries: int
    pending: int

    @property
    def changed(self) -> bool:
        """Return whether anything was new."""
        return any(
            source.entries or source.attestations or source.blobs or source.taken_as_found
            for source in self.sources
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        members["changed"] = self.changed
        return members


def merge(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    into: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
) -> MergeReport:
    """Merge the entries, evidence and artifacts of journals into another journal.

    New entries come in the order in which they were recorded, each process's in its own order.
    Trackers may go on in the target: none of their calls waits longer than one short transaction.
    After a kill, merge again to complete it.

    Args:
        sources: The sources' folders, or one folder. They may grow meanwhile: merging again
            brings the rest.
        into: The folder of the target; it is made if it is not there.
        on_progress: Called now and then with how many entries were brought, of how many.

    Raises:
        InvalidInputError: No source was named, or one of them is the target itself.
        EvidenceError: A source contradicts itself or the target: a chain is broken, or continues
            differently there. Nothing was changed.
        LeaseHeldError: Another process holds the lease of a source or the target.
        JournalError: A source can't be read, or the target can't be written.
    """
    folders = [
        _folder(source)
        for source in ([sources] if isinstance(sources, (str, os.PathLike)) else sources)
    ]
    target = _folder(into)
    if not folders:
        raise InvalidInputError(
            "no journal was named to merge from",
            hint="name one or more, then --into and the target's folder",
        )
    _refuse_itself(folders, target)
    for folder in (*folders, target):
        destinations.refuse_copy(folder, "merged")
    with contextlib.ExitStack() as stack:
        opened = [_opened_source(folder, stack) for folder in folders]
        created = not (target / paths.DATABASE).exists()
        journal = Journal.open(target, create=True)
        stack.callback(journal.close)
        held = acquire(journal.database)
        stack.callback(held.release)
        merger = _Merger(journal, held, opened, on_progress or (lambda _: None))
        stack.callback(merger.close)
        results = merger.run()
        ((entries, pending),) = journal.database.read(
            "SELECT (SELECT count(*) FROM entry), (SELECT count(*) "
            "FROM entry) - (SELECT count(*) FROM delivery)"
        )
        return MergeReport(
            str(journal.path), journal.journal_id, created, results, entries, pending
        )


def merge_source(journal: Journal, source: JournalSource) -> MergedSource:
    """Merge one opened source into an open journal. ``merge`` says what that does, and raises."""
    with contextlib.ExitStack() as stack:
        held = acquire(journal.database)
        stack.callback(held.release)
        merger = _Merger(journal, held, [source], lambda _: None)
        stack.callback(merger.close)
        (done,) = merger.run()
        return done


def bring(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> MergeReport:
    """Bring what is new in another copy into an existing journal.

    This is ``merge`` with one source.

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
                    f"{folder} can't be merged into itself",
                    hint="name another folder with --into; it is made if it is not there",
                )


def _opened_source(folder: Path, stack: contextlib.ExitStack) -> JournalSource:
    """Open a source as of now.

    Raises:
        LeaseHeldError: Another process holds its lease. What that sends now would be pending in the
            merge.
    """
    journal = stack.enter_context(view.opened(str(folder)))
    ((owner, host, expires_at_ns),) = journal.database.read(
        "SELECT owner, host, expires_at_ns FROM lease"
    )
    elsewhere = owner is not None and host != process.host() and isinstance(expires_at_ns, int)
    now_ns = time.time_ns()
    away = elsewhere and now_ns < expires_at_ns <= now_ns + 2 * int(TTL_S * 1e9)
    if away or lock_holder(folder) is not None:
        raise LeaseHeldError(
            f"another process holds the lease of the journal at {folder}: what it sends would be "
            "pending in the merge",
            hint="merge when that process is done; `journaltrack status` says which it is",
        )
    stack.enter_context(view.snapshot(journal.database))
    return JournalSource(journal)


@dataclass(slots=True)
class _Counts:
    """The counts of one source."""

    applied: Applied = field(default_factory=Applied)
    blobs: int = 0
    blob_bytes: int = 0
    blobs_missing: list[str] = field(default_factory=list)
    taken_as_found: int = 0


class _Merger:
    """One merge. Its sources are opened and the target's lease is held."""

    def __init__(
        self,
        journal: Journal,
        lease: Lease,
        sources: Sequence[JournalSource],
        tell: Callable[[Progress], None],
    ) -> None:
        self._journal = journal
        self._lease = lease
        self._sources = sources
        self._tell = tell
        self._counts = [_Counts() for _ in sources]
        # Entries of the target behind this one are looked at again.
        self._seen_seq = journal.database.read("SELECT coalesce(max(seq), 0) FROM entry")[0][0]
        self._applier = Applier(Attestor(journal.database, lease))
        self._incoming = Incoming(sources, self._applier.here, journal.database)
        self._checker = Checker(self._applier.here, journal.database, self._components_of)

    def close(self) -> None:
        """Drop what only the merge needs."""
        self._checker.close()
        for source in self._sources:
            source.close()
        self._applier.close()

    def run(self) -> tuple[MergedSource, ...]:
        """Check everything, then copy blobs, then entries, then what became of them.

        Blobs come first: an entry must not be here before the content that it names.
        """
        database = self._journal.database
        self._incoming.look(self._lease.renew)
        checked = [self._checker.check(source) for source in self._sources]
        for source, counts in zip(self._sources, self._counts, strict=True):
            self._copy_blobs(source, counts)
            self._copy_blob_rows(source)
        for source, each, count in zip(self._sources, checked, self._incoming.counts, strict=True):
            self._begin(source, each, count)
        self._copy_entries(self._applier.look_ahead(self._incoming.beyond))
        for source, counts, each in zip(self._sources, self._counts, checked, strict=True):
            self._applier.take_over(each)
            counts.applied = self._applier.applied
            counts.taken_as_found = self._take_as_found(source)
        Settlement(database, self._lease).advance_mark()
        heads = self._applier.here.heads()
        self._applier.end(
            {s.origin for s in self._sources if all(each.is_here(heads) for each in s.unfinished)}
        )
        return tuple(
            self._result(*each)
            for each in zip(self._sources, self._counts, self._incoming.counts, strict=True)
        )

    def _begin(self, source: JournalSource, checked: Checked, count: int) -> None:
        """Record that a source is taken over, if entries may come before their outcomes.

        Args:
            source: The source.
            checked: What its attestations say.
            count: How many entries come from it.
        """
        finds = any(
            True
            for _ in (
                source.unattested(IN_FLIGHT) if count or checked.taken else self._found(source)
            )
        )
        if checked.taken or finds or (count and source.unfinished):
            self._applier.begin(
                checked,
                source.gaps_above(self._incoming.beyond),
                is_told_all=not finds and not source.unfinished,
            )

    def _components_of(self, named: Named) -> Iterator[tuple[str, str]]:
        yield from self._applier.here.components_of(named)
        yield from self._incoming.components_of(named)

    @staticmethod
    def _result(source: JournalSource, counts: _Counts, entries: int) -> MergedSource:
        return MergedSource(
            journal=source.name,
            journal_id=source.journal.journal_id,
            entries=entries,
            known=source.entries - entries,
            attestations=counts.applied.attestations,
            known_attestations=counts.applied.known,
            blobs=counts.blobs,
            blob_bytes=counts.blob_bytes,
            blobs_missing=tuple(counts.blobs_missing),
            taken_as_found=counts.taken_as_found,
            kept=counts.applied.kept,
        )

    # -- artifacts --------------------------------------------------------------------------------

    def _copy_blobs(self, source: JournalSource, counts: _Counts) -> None:
        ours = Spool(self._journal.path / paths.SPOOL)
        for sha256, size_bytes, _ in source.blobs():
            if not is_digest(sha256) or (
                ours.has(sha256) and ours.path_of(sha256).lstat().st_size == size_bytes
            ):
                continue
            blob = ours.take_over(source.journal.path / paths.SPOOL, sha256, size_bytes)
            if blob is None:
                counts.blobs_missing.append(sha256)
            else:
                counts.blobs += 1
                counts.blob_bytes += blob.size_bytes

    def _copy_blob_rows(self, source: JournalSource) -> None:
        for page in self._applier.turns.pages(source.blobs()):
            with self._applier.transaction() as connection:
                connection.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?, ?)", page)

    # -- entries ----------------------------------------------------------------------------------

    def _copy_entries(self, ahead: Ahead) -> None:
        """Copy the new entries, with what is known of them here."""
        total, done = sum(self._incoming.counts), 0
        self._tell(Progress(0, total, 0))
        rows = self._incoming.entries()
        while page := list(itertools.islice(rows, self._applier.turns.size)):
            with self._applier.transaction() as connection:
                above = self._see_others(connection)
                brought = self._insert(connection, page, above)
                self._applier.follow_known(ahead, brought, above)
            self._seen_seq = above + len(page)
            done += len(page)
            self._tell(Progress(done, total, 0))

    def _see_others(self, connection: sqlite3.Connection) -> int:
        """Return the last ``seq``, and look at what others have appended.

        Their entries must be of processes of which no entry waits to be copied.

        Raises:
            EvidenceError: A process that continued in a source continues in the target, too.
        """
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
        if last != self._seen_seq:
            sql = (
                "SELECT DISTINCT w.uuid FROM entry e JOIN writer w ON w.id = e.writer_id "
                "WHERE e.seq > ?"
            )
            for (uuid,) in connection.execute(sql, (self._seen_seq,)):
                if uuid in self._incoming.writers:
                    where = self._incoming.where(uuid)
                    raise forged(
                        where,
                        f"the process {limits.shown(uuid)} also continued in "
                        f"{self._journal.path}, with other entries",
                    )
        return int(last)

    def _insert(
        self, connection: sqlite3.Connection, page: Sequence[tuple[int, Row]], above: int
    ) -> dict[str, tuple[int, int]]:
        """Insert a page of entries.

        Returns:
            By the process's uuid, the first and the last place.
        """
        applier, sources = self._applier, self._sources
        writers = {
            (n, i): applier.here.add_writer(connection, sources[n].writers[sources[n].uuids[i]])
            for n, i in {(n, row[WRITER]) for n, row in page}
        }
        named = dict.fromkeys([(n, row[COMPONENT]) for n, row in page])
        components = {(n, i): applier.add_component(sources[n].components[i]) for n, i in named}
        rows = [
            (seq, writers[n, row[WRITER]], row[PLACE], components[n, row[COMPONENT]], *row[REST])
            for seq, (n, row) in enumerate(page, above + 1)
        ]
        connection.executemany(_INSERT_ENTRY, rows)
        self._insert_settled(connection, page, above)
        (_, first), (_, last) = page[0], page[-1]
        # Nearly always: one process's entries without a gap.
        if len(writers) == 1 and last[PLACE] - first[PLACE] == len(page) - 1:
            (((n, i), writer_id),) = writers.items()
            applier.here.add_run(writer_id, first[PLACE], last[PLACE], above + 1 - first[PLACE])
            return {sources[n].uuids[i]: (first[PLACE], last[PLACE])}
        open_runs: dict[int, list[int]] = {}
        brought: dict[str, tuple[int, int]] = {}
        for seq, (n, row) in enumerate(page, above + 1):
            writer_id, place, uuid = (
                writers[n, row[WRITER]],
                row[PLACE],
                sources[n].uuids[row[WRITER]],
            )
            run = open_runs.get(writer_id)
            if run is not None and place == run[1] + 1 and seq - place == run[2]:
                run[1] = place
            else:
                if run is not None:
                    applier.here.add_run(writer_id, *run)
                open_runs[writer_id] = [place, place, seq - place]
            brought[uuid] = (brought[uuid][0] if uuid in brought else place, place)
        for writer_id, run in open_runs.items():
            applier.here.add_run(writer_id, *run)
        return brought

    def _insert_settled(
        self, connection: sqlite3.Connection, page: Sequence[tuple[int, Row]], above: int
    ) -> None:
        """Keep entries settled that were so when recorded: nothing of them can be sent."""
        seqs: dict[int, list[int]] = defaultdict(list)
        for n, row in page:
            seqs[n].append(row[SEQ])
        refused = {
            (n, seq): ("quarantined", reason)
            for n, of in seqs.items()
            for seq, reason in self._sources[n].refused(of[0], of[-1]).items()
        }
        stays = ("superseded", LOCAL_STAYS)
        found = [
            (seq, *settled, row[RECORDED])
            for seq, (n, row) in enumerate(page, above + 1)
            if (settled := stays if row[KIND] == LOCAL else refused.get((n, row[SEQ])))
        ]
        if found:
            connection.executemany(_INSERT_SETTLED, found)

    # -- what nobody attests ----------------------------------------------------------------------

    def _take_as_found(self, source: JournalSource) -> int:
        """Settle entries that the source has settled unattested, or has in flight.

        Entries that are settled here stay as they are, unless they arrived there. This process
        attests what it settles.

        Returns:
            How many entries were settled.
        """
        if source.may_have_made and not self._journal.database.read(
            "SELECT 1 FROM receipt WHERE action = ? LIMIT 1", (TAKEN,)
        ):
            # A component on the remote with this journal's mark is then no sign of another copy.
            with self._applier.transaction():
                self._applier.tell_origin(source)
        count = 0
        for page in self._applier.turns.pages(self._found(source)):
            with self._applier.transaction():
                self._settle_as_found(page, source)
            count += len(page)
        return count

    def _found(self, source: JournalSource) -> Iterator[tuple[int, int, Found]]:
        """Yield the entries that are here and to be settled so.

        This reads outside a transaction, since nobody else settles entries.

        Returns:
            ``seq``, the component's id, and how to settle it.
        """
        already = self._taken_before(source)
        for each in source.unattested(IN_FLIGHT):
            arrived = each.outcome in HAS_ARRIVED
            for first, last in self._applier.here.places({each.uuid: ((each.first, each.last),)}):
                for seq in range(first, last + 1):
                    # No row: the entry had been delivered, and was removed here on the record.
                    for component_id, outcome in self._journal.database.read(_SETTLEMENT, (seq,)):
                        if outcome is None:
                            wanted = arrived or not already(seq, each.at_ns)
                        else:
                            wanted = arrived and outcome in {"quarantined", "in doubt"}
                        if wanted:
                            yield seq, component_id, each

    def _settle_as_found(
        self, page: Sequence[tuple[int, int, Found]], source: JournalSource
    ) -> None:
        """Settle these entries, and attest it. Inside a transaction."""
        groups: dict[int, dict[tuple[str, str | None, int], list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for seq, component_id, each in page:
            groups[component_id][each.outcome, each.reason, each.at_ns].append(seq)
        settled = {
            component_id: [
                Settled(outcome, reason, as_intervals(seqs), at_ns)
                for (outcome, reason, at_ns), seqs in by_kind.items()
            ]
            for component_id, by_kind in groups.items()
        }
        self._applier.tell_origin(source)
        self._applier.attest("found", settled, {"from": source.journal.journal_id})
        self._applier.note(as_intervals(seq for seq, *_ in page))

    def _taken_before(self, source: JournalSource) -> Callable[[int, int], bool]:
        """Return a test whether an earlier merge of the same journal found an entry so.

        It compares the time, too. Whoever released the entry since then wants it pending. A later
        request that carried it has another time, and counts.
        """
        # Few merges find something, so this stays small.
        named: dict[int, list[tuple[int, int]]] = defaultdict(list)
        rows = self._journal.database.read(
            "SELECT body FROM attestation WHERE instr(body, '\"found\"') AND instr(body, ?)",
            (source.journal.journal_id,),
        )
        for (body,) in rows:
            members = json.loads(body)
            if (members.get("action"), members.get("outcome"), members.get("from")) == (
                MERGE,
                "found",
                source.journal.journal_id,
            ):
                for group in statements.read(body).settled:
                    named[group.at_ns] += self._applier.here.places(group.entries)
        places = {at_ns: merged(intervals) for at_ns, intervals in named.items()}

        def already(seq: int, at_ns: int) -> bool:
            """Return whether an earlier merge found that settlement."""
            return contains(places.get(at_ns, []), seq)

        return already
