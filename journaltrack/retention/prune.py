"""``prune``: removes what was delivered before a time, on the record, and gives the space back.

The reconciling side of the journal, as ``outcomes``: it holds the lease, and must not know remotes, reconciler or tracker.
``plan`` decides what goes, ``blobs`` empties the spool; docs/retention.md is the policy.

Invariants: nothing is removed of a journal that does not verify, or before its archive is on the disk; entries go in the same
transaction as the attestation of them, and as the trigger that forbids it is taken away and put back, so that nobody ever sees a
journal that lacks one of the three; a transaction takes some milliseconds, however much goes, so that appending goes on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalCorruptError
from journaltrack.journal import view
from journaltrack.journal.journal import Journal
from journaltrack.journal.removed import PRUNE, LastPoint, RemovedMetric
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.copies import Footprint, compact_file, footprint
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor, Turns
from journaltrack.replay.evidence.statements import Statement
from journaltrack.replay.pass_report import Progress
from journaltrack.reports.proof import hearsay
from journaltrack.reports.proof.check import blob_problem, database_problems, proved
from journaltrack.retention import plan as pruning_blobs
from journaltrack.retention.plan import Doomed, Plan, Survey, runs_of
from journaltrack.transfer.export.exporter import check_target, export_selection
from journaltrack.transfer.export.pages import Selection
from journaltrack.util import paths
from journaltrack.util.digest import digest_of
from journaltrack.util.intervals import as_intervals

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.reports.proof.hearsay import Hearsay
    from journaltrack.retention.plan import Content

_PROBLEMS_SHOWN: Final = 3
_GUARD: Final = "entry_no_delete"
_MAKE_GUARD: Final = next(trigger for trigger in schema.TRIGGERS if f" {_GUARD} " in trigger)


@dataclass(frozen=True, slots=True)
class Archive:
    """The export of what was removed, as its attestation names it."""

    name: str
    sha256: str
    size_bytes: int
    rows: int


@dataclass(slots=True)
class PruneReport:
    """What a prune removed, or (``dry_run``) would remove.

    Attributes:
        journal, journal_id: Which journal.
        dry_run: Nothing was changed.
        delivered_before_ns, blobs_before_ns: The times that were given.
        entries: How many entries went; ``by_component`` and ``by_kind`` are the same in parts.
        stays: How many entries stay of the components that were asked for, by reason (``plan.REASONS``).
        blobs, blob_bytes: Contents that left the spool.
        blobs_kept: Contents that stay because their bytes are not what was recorded: evidence.
        asked: Whether the remote was asked for what goes.
        unconfirmed: Components of which nothing goes, since not all that was delivered of them is there (or it can't be told), and why;
            ``blobs_unconfirmed`` is the same of contents, by SHA-256.
        hearsay: What counts as delivered because others say so, and stays for that; ``blobs_hearsay`` contents stay so.
        archive: The export that was written first.
        before, after: On the disk.
        compacted: Whether the file was rewritten without the free pages; ``not_compacted`` says why not.
        duration_s: How long it took.
    """

    journal: str
    journal_id: str
    dry_run: bool
    delivered_before_ns: int | None
    blobs_before_ns: int | None
    entries: int = 0
    by_component: dict[str, int] = field(default_factory=dict)
    by_kind: dict[str, int] = field(default_factory=dict)
    stays: dict[str, int] = field(default_factory=dict)
    blobs: int = 0
    blob_bytes: int = 0
    blobs_kept: int = 0
    asked: bool = False
    unconfirmed: dict[str, str] = field(default_factory=dict)
    blobs_unconfirmed: dict[str, str] = field(default_factory=dict)
    hearsay: tuple[Hearsay, ...] = ()
    blobs_hearsay: int = 0
    archive: Archive | None = None
    before: Footprint | None = None
    after: Footprint | None = None
    compacted: bool = False
    not_compacted: str | None = None
    duration_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes, see ``journaltrack.journal.view.to_json``."""
        members: dict[str, Any] = view.to_json(self)
        return members


class Ask(Protocol):
    """Asks the remote for what is to be removed; each answer names what is not there, or not certainly, and why."""

    def components(self, names: Sequence[str], on_progress: Callable[[], None]) -> Mapping[str, str]:
        """For what was delivered of these components."""

    def contents(self, sha256s: Sequence[str], on_progress: Callable[[], None]) -> Mapping[str, str]:
        """For these contents."""


def prune(
    journal: str | os.PathLike[str] | None = None,
    *,
    ask: Ask | None,
    trust: Collection[str] = (),
    delivered_before_ns: int | None = None,
    blobs_before_ns: int | None = None,
    component: str | None = None,
    archive: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    compact: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> PruneReport:
    """Remove what was delivered before a time.

    Args:
        journal: Its folder; None: the default journal.
        ask: Asked for all that would go, before anything does; None: the journal's own record of deliveries is believed. A dry run asks nobody.
        trust: Whose word about deliveries is enough, as ``hearsay.untrusted`` takes it. What others alone say was delivered stays.
        delivered_before_ns: Entries whose delivery was recorded before then go, nanoseconds since the epoch; None: none.
        blobs_before_ns: Contents of the spool whose uploads all were delivered before then go; None: none.
        component: Shell pattern: entries of these components only (case does not matter). Contents belong to no component.
        archive: A file for what goes (the format is that of its name, see ``exporter``); it is on the disk before anything goes.
        dry_run: Change nothing.
        compact: Rewrite the file afterwards, if nobody else has it open.
        on_progress: Called now and then with how many entries are gone, of how many.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        InvalidInputError: Neither time was given, nobody said what is to be trusted, the archive can't be written there, or there is no such
            component. Nothing was removed.
        JournalCorruptError: The journal does not verify. Nothing was removed.
        RemoteError: The remote could not be asked. Nothing was removed.
        LeaseHeldError: Somebody else reconciles it.
        JournalError: It can't be read or written. What was removed until then is on the record.
        OSError: The archive can't be written. Nothing was removed.
    """
    if delivered_before_ns is None and blobs_before_ns is None:
        raise InvalidInputError(
            "a prune needs a time: what was delivered before it goes",
            hint="say delivered_before, or blobs_delivered_before for the spool alone",
        )
    if archive is not None and delivered_before_ns is None:
        raise InvalidInputError("an archive is of entries, and none were asked for", hint="say delivered_before too")
    began = time.monotonic()
    with contextlib.closing(Journal.open(journal, create=False, read_only=dry_run)) as own:
        view.matching(own, component)
        found = PruneReport(str(own.path), own.journal_id, dry_run, delivered_before_ns, blobs_before_ns, before=footprint(own.database))
        with contextlib.ExitStack() as stack:
            attestor = None
            if not dry_run:
                lease = leases.acquire(own.database, clock_ns=clock_ns)
                stack.callback(lease.release)
                attestor = Attestor(own.database, lease, clock_ns)
            found.asked = ask is not None and not dry_run
            tell = on_progress or (lambda _: None)
            _Prune(own, attestor, None if dry_run else ask, found, component, tell, clock_ns).run(archive, trust)
        if not dry_run:
            found.not_compacted = compact_file(own.database) if compact else "it was not asked for"
            found.compacted = found.not_compacted is None
            found.after = footprint(own.database)
    found.duration_s = round(time.monotonic() - began, 3)
    return found


class _Prune:
    """One prune, under way; without an attestor it removes nothing."""

    def __init__(
        self,
        journal: Journal,
        attestor: Attestor | None,
        ask: Ask | None,
        found: PruneReport,
        component: str | None,
        on_progress: Callable[[Progress], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._attestor = attestor
        self._ask = ask
        self._found = found
        self._component = component
        self._on_progress = on_progress
        self._clock_ns = clock_ns
        self._started_ns = clock_ns()
        self._names: dict[int, str] = dict(journal.database.read("SELECT id, name FROM component"))
        self._uuids: dict[int, str] = dict(journal.database.read("SELECT id, uuid FROM writer"))

    def run(self, archive: str | os.PathLike[str] | None, trust: Collection[str]) -> None:
        """Verify, decide, ask, archive, remove."""
        # Reads go through a connection of their own, whose temporary tables hold the decision.
        with contextlib.closing(Journal.open(self._journal.path, create=False, read_only=True)) as reader:
            _refuse_unless_whole(reader)
            if self._attestor is not None:
                self._attestor.lease.renew()
            elif archive is not None:
                check_target(archive, reader.path)
            told = hearsay.untrusted(reader.database, trust)
            survey, plan = Survey(), None
            if self._found.delivered_before_ns is not None:
                plan = Plan(reader, self._found.delivered_before_ns, self._component)
                plan.withhold(interval for each in told for interval in each.seqs)
                survey = self._surveyed(plan)
            contents = self._contents(reader.database, {sha256 for each in told for sha256 in each.sha256s})
            if survey.stays.get("hearsay") or self._found.blobs_hearsay:
                self._found.hearsay = tuple(each.hearsay for each in told)
            # Everything was asked for: now what goes may go.
            if plan is not None:
                self._tell(survey)
                if self._attestor is None:
                    self._found.entries = survey.entries
                    self._count(survey.goes)
                elif survey.entries:
                    if archive is not None:
                        self._found.archive = self._archived(reader, plan, archive, survey.entries, self._attestor)
                    self._remove(plan, survey.entries, self._attestor)
            self._remove_blobs(contents)

    def _surveyed(self, plan: Plan) -> Survey:
        """What goes, of components that the remote has as they were delivered."""
        survey = plan.survey()
        if self._ask is not None and survey.entries:
            names = list(dict.fromkeys(component for component, _ in survey.goes))
            self._found.unconfirmed = dict(self._ask.components(names, self._renew))
            if self._found.unconfirmed:
                plan.keep(self._found.unconfirmed)
                survey = plan.survey()
        return survey

    def _renew(self) -> None:
        if self._attestor is not None:
            self._attestor.lease.renew()

    def _tell(self, survey: Survey) -> None:
        self._found.stays = {str(reason): entries for reason, entries in survey.stays.items()}
        self._on_progress(Progress(0, survey.entries, 0))

    def _count(self, counts: dict[tuple[str, str], int]) -> None:
        for (component, kind), entries in counts.items():
            self._found.by_component[component] = self._found.by_component.get(component, 0) + entries
            self._found.by_kind[kind] = self._found.by_kind.get(kind, 0) + entries

    def _archived(self, reader: Journal, plan: Plan, target: str | os.PathLike[str], entries: int, attestor: Attestor) -> Archive:
        """Write what goes; on the disk, with its name, when this returns."""
        selection = Selection(condition=plan.condition)
        made = export_selection([reader], selection, to=target, table="entries", on_progress=lambda _: attestor.lease.renew())[0]
        path = Path(str(made.output))
        if made.rows != entries or made.unsound:
            raise JournalCorruptError(
                f"the archive {path} has {made.rows} of {entries} entries, {made.unsound} of them not whole; nothing was removed",
                hint="`journaltrack audit --verify` says what is wrong with the journal",
            )
        with path.open("rb") as file:
            sha256 = digest_of(file.read)
        return Archive(path.name, sha256, path.stat().st_size, made.rows)

    def _remove(self, plan: Plan, total: int, attestor: Attestor) -> None:
        """In transactions of bounded time."""
        after_seq, turns = 0, Turns(attestor)
        while page := plan.page(after_seq, turns.size):
            members = self._members(page)
            seqs = as_intervals(entry.seq for entry in page)
            with turns.transaction() as connection:
                _delete(connection, seqs, len(page))
                attestor.attest(connection, [self._statement(attestor, members)])
            after_seq = page[-1].seq
            self._found.entries += len(page)
            self._count({(component, kind): entries for component, kind, entries in members["counts"]})
            self._on_progress(Progress(self._found.entries, total, 0))

    def _members(self, page: list[Doomed]) -> dict[str, Any]:
        """What the attestation says of them."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        metrics: dict[tuple[str, str], RemovedMetric] = {}
        for entry in page:
            component = self._names[entry.component_id]
            counts[component, entry.kind] += 1
            if entry.kind == "metric" and entry.value is not None and entry.name is not None:
                point = _as_metric(entry, entry.value)
                known = metrics.get((component, entry.name))
                metrics[component, entry.name] = point if known is None else known.plus(point)
        archive = self._found.archive
        return {
            "before_ns": self._found.delivered_before_ns,
            "removed": [[self._uuids[w], first, last, digest.hex()] for w, first, last, digest in runs_of(page)],
            "counts": [[component, kind, entries] for (component, kind), entries in counts.items()],
            "metrics": [metric.to_member(*key) for key, metric in metrics.items()] or None,
            "archive": archive
            and {"name": archive.name, "sha256": archive.sha256, "bytes": archive.size_bytes, "rows": archive.rows, "table": "entries"},
        }

    def _statement(self, attestor: Attestor, members: dict[str, Any]) -> Statement:
        return Statement(
            action=PRUNE,
            outcome="removed",
            component_id=None,
            entries=(),
            finished_at_ns=self._clock_ns(),
            generation=attestor.lease.generation,
            started_at_ns=self._started_ns,
            more=members,
        )

    def _contents(self, reader: Database, others_say: Collection[str]) -> list[Content]:
        """Contents of the spool that go: those whose bytes are what was recorded, and that the remote has."""
        if self._found.blobs_before_ns is None:
            return []
        spool = self._journal.path / paths.SPOOL
        whole: list[Content] = []
        for content in pruning_blobs.removable(reader, self._found.blobs_before_ns, self._clock_ns()):
            if content.sha256 in others_say:
                self._found.blobs_hearsay += 1
            elif blob_problem(spool, content.sha256, content.size_bytes) is None:
                whole.append(content)
            else:
                self._found.blobs_kept += 1
            self._renew()
        if self._ask is not None and whole:
            self._found.blobs_unconfirmed = dict(self._ask.contents([content.sha256 for content in whole], self._renew))
        return [content for content in whole if content.sha256 not in self._found.blobs_unconfirmed]

    def _remove_blobs(self, contents: Sequence[Content]) -> None:
        gone = contents if self._attestor is None else pruning_blobs.remove(self._attestor, contents, self._started_ns)
        self._found.blobs, self._found.blob_bytes = len(gone), sum(content.size_bytes for content in gone)


def _refuse_unless_whole(reader: Journal) -> None:
    """Removing entries destroys evidence of what was done to them: only of a journal that verifies.

    Raises:
        JournalCorruptError: It does not.
    """
    with proved(reader.database) as (found, _):
        problems = [*database_problems(reader.database), *found]
    if problems:
        shown = "; ".join(limits.shown(problem.message) for problem in problems[:_PROBLEMS_SHOWN])
        more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        raise JournalCorruptError(
            f"the journal at {reader.path} does not verify, and nothing was removed, since it may be evidence: {shown}{more}",
            hint="`journaltrack audit --verify` names all of it, `journaltrack doctor` says what it means",
        )


def _delete(connection: sqlite3.Connection, seqs: list[tuple[int, int]], entries: int) -> None:
    """Inside of a transaction; all of them or an exception."""
    connection.execute(f"DROP TRIGGER {_GUARD}")
    deleted = connection.executemany("DELETE FROM entry WHERE seq BETWEEN ? AND ?", seqs).rowcount
    settled = connection.executemany("DELETE FROM delivery WHERE seq BETWEEN ? AND ?", seqs).rowcount
    connection.execute(_MAKE_GUARD)
    if (deleted, settled) != (entries, entries):
        raise JournalCorruptError(
            f"{deleted} entries with {settled} settlements were where {entries} had been read; the journal was changed meanwhile",
            hint="somebody changes it without the lease: `journaltrack audit --verify`",
        )


def _as_metric(entry: Doomed, value: float) -> RemovedMetric:
    last = LastPoint(entry.seq, value, entry.step, entry.timestamp_ns)
    return RemovedMetric(1, value, abs(value), value, value, last, None if entry.step is None else (entry.step, entry.step))
