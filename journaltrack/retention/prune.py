"""Remove what was delivered before a time, on the record, and free the space.

Like ``outcomes``, this writes for the reconciling side of the journal: it holds the lease, and
must not know remotes, reconciler or tracker. ``plan`` decides what goes, and empties the spool.
docs/retention.md is the policy. Invariants:

- Nothing is removed from a journal that does not verify, or before its archive is on the disk.
- One transaction removes entries, records their attestation, and drops and restores the trigger
  that forbids it. So nobody ever sees a journal that lacks one of the three.
- A transaction takes a few milliseconds, however much goes, so that appends go on.
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
from journaltrack.journal.filter import Choice
from journaltrack.journal.journal import Journal
from journaltrack.journal.removed import PRUNE, LastPoint, RemovedMetric
from journaltrack.journal.schema import schema
from journaltrack.journal.sqlite.footprint import Footprint, compact_file, footprint
from journaltrack.replay.evidence.attestations import Attestor, Turns
from journaltrack.replay.evidence.statements import Statement
from journaltrack.replay.lease import acquire
from journaltrack.replay.pass_report import Progress
from journaltrack.reports.proof import hearsay
from journaltrack.reports.proof.check import blob_problem, database_problems, proved
from journaltrack.retention.plan import (
    Doomed,
    Plan,
    Survey,
    delivered,
    is_recent,
    remove,
    runs_of,
)
from journaltrack.transfer.export.exporter import check_target, export_chosen
from journaltrack.util import paths
from journaltrack.util.digest import digest_of
from journaltrack.util.intervals import as_intervals

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.reports.proof.hearsay import Hearsay
    from journaltrack.retention.plan import Content
    from journaltrack.verification.confirmation import Doubt

_PROBLEMS_SHOWN: Final = 3
_GUARD: Final = "entry_no_delete"
_MAKE_GUARD: Final = next(trigger for trigger in schema.TRIGGERS if f" {_GUARD} " in trigger)


@dataclass(frozen=True, slots=True)
class Archive:
    """The export of the removed entries, as the attestation names it."""

    name: str
    sha256: str
    size_bytes: int
    rows: int


@dataclass(slots=True)
class PruneReport:
    """What a prune removed, or (``dry_run``) would remove.

    Attributes:
        journal: Path of the journal.
        journal_id: Its id.
        dry_run: Nothing was changed.
        delivered_before_ns: The given time for entries, or None.
        blobs_before_ns: The given time for contents, or None.
        entries: Number of entries that went. ``by_component`` and ``by_kind`` are parts of it.
        stays: Number of entries of the chosen components that stay, by reason (``plan.REASONS``).
        blobs: Number of contents that left the spool.
        blob_bytes: Their size.
        blobs_recent: Number of delivered contents that stay since they were spooled in the last
            ``GRACE_S`` seconds.
        blobs_kept: Contents that stay as evidence: their bytes are not what was recorded.
        asked: Whether the remote was asked for what goes.
        unconfirmed: Why nothing of a component goes, by name. The remote lacks a part of what was
            delivered of it.
        blobs_unconfirmed: The same for contents, by SHA-256.
        untold: The same for components of which the remote did not tell, and may later.
        blobs_untold: The same for contents, by SHA-256.
        hearsay: What stays because only others say that it was delivered.
        blobs_hearsay: Number of contents that stay for that reason.
        archive: The export that was written first.
        before: Space on disk before the prune.
        after: Space on disk after the prune.
        compacted: Whether the file was rewritten without its free pages.
        not_compacted: Why not.
        duration_s: Duration of the prune.
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
    blobs_recent: int = 0
    blobs_kept: int = 0
    asked: bool = False
    unconfirmed: dict[str, str] = field(default_factory=dict)
    blobs_unconfirmed: dict[str, str] = field(default_factory=dict)
    untold: dict[str, str] = field(default_factory=dict)
    blobs_untold: dict[str, str] = field(default_factory=dict)
    hearsay: tuple[Hearsay, ...] = ()
    blobs_hearsay: int = 0
    archive: Archive | None = None
    before: Footprint | None = None
    after: Footprint | None = None
    compacted: bool = False
    not_compacted: str | None = None
    duration_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the report for ``json.dumps``, see ``journaltrack.journal.view.to_json``."""
        members: dict[str, Any] = view.to_json(self)
        return members


class Ask(Protocol):
    """Asks the remote for what a prune would remove.

    Each answer names what the remote lacks, or can't confirm, and why.
    """

    def components(
        self, names: Sequence[str], on_progress: Callable[[], None]
    ) -> Mapping[str, Doubt]:
        """Ask for what was delivered of these components."""

    def contents(
        self, sha256s: Sequence[str], on_progress: Callable[[], None]
    ) -> Mapping[str, Doubt]:
        """Ask for these contents."""


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
        journal: The journal's folder. None: the default journal.
        ask: Asks the remote for everything that would go, before anything goes. None: believe the
            journal's own record of deliveries. A dry run asks nobody.
        trust: Whose word about deliveries is enough, see ``hearsay.untrusted``. Without it, what
            only others say was delivered stays.
        delivered_before_ns: Entries whose delivery was recorded before this time go, nanoseconds
            since the epoch. None: no entries.
        blobs_before_ns: Contents of the spool whose uploads were all delivered before this time go.
            None: no contents.
        component: Shell pattern: only entries of these components go (case does not matter).
            Contents belong to no component.
        archive: A file for the removed entries, on the disk before anything goes. Its name says the
            format, see ``exporter``.
        dry_run: Change nothing.
        compact: Rewrite the file afterwards, if no other process has it open.
        on_progress: Called now and then with the numbers of entries gone and to go.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        InvalidInputError: No time was given, nobody said whom to trust, the archive can't be
            written there, or the component does not exist. Nothing was removed.
        JournalCorruptError: The journal does not verify. Nothing was removed.
        RemoteError: The remote could not be asked. Nothing was removed.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written. What was removed until then is on the
            record.
        OSError: The archive can't be written. Nothing was removed.
    """
    _check_times(delivered_before_ns, blobs_before_ns, has_archive=archive is not None)
    began = time.monotonic()
    with contextlib.closing(Journal.open(journal, create=False, read_only=dry_run)) as own:
        view.matching(own, component)
        times = (delivered_before_ns, blobs_before_ns)
        before = footprint(own.database)
        found = PruneReport(str(own.path), own.journal_id, dry_run, *times, before=before)
        with contextlib.ExitStack() as stack:
            attestor = None
            if not dry_run:
                lease = acquire(own.database, clock_ns=clock_ns)
                stack.callback(lease.release)
                attestor = Attestor(own.database, lease, clock_ns)
            asks = None if dry_run else ask
            found.asked = asks is not None
            tell = on_progress or (lambda _: None)
            _Prune(own, attestor, asks, found, component, tell, clock_ns).run(archive, trust)
        if not dry_run:
            found.not_compacted = compact_file(own.database) if compact else "not requested"
            found.compacted = found.not_compacted is None
            found.after = footprint(own.database)
    found.duration_s = round(time.monotonic() - began, 3)
    return found


def _check_times(
    delivered_before_ns: int | None, blobs_before_ns: int | None, *, has_archive: bool
) -> None:
    if delivered_before_ns is None and blobs_before_ns is None:
        raise InvalidInputError(
            "a prune needs a time: it removes what was delivered before",
            hint="set delivered_before, or blobs_delivered_before for the spool alone",
        )
    if has_archive and delivered_before_ns is None:
        raise InvalidInputError(
            "an archive holds removed entries, and no time for entries was given",
            hint="set delivered_before as well",
        )


class _Prune:
    """One prune under way. Without an attestor it removes nothing."""

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
        # A connection of its own reads. Its temporary tables hold the decision.
        with contextlib.closing(
            Journal.open(self._journal.path, create=False, read_only=True)
        ) as reader:
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
            contents = self._contents(
                reader.database, {sha256 for each in told for sha256 in each.sha256s}
            )
            if survey.stays.get("hearsay") or self._found.blobs_hearsay:
                self._found.hearsay = tuple(each.hearsay for each in told)
            # All questions are answered. Only now may anything go.
            if plan is not None:
                self._tell(survey)
                if self._attestor is None:
                    self._found.entries = survey.entries
                    self._count(survey.goes)
                elif survey.entries:
                    if archive is not None:
                        self._found.archive = self._archived(
                            reader, plan, archive, survey.entries, self._attestor
                        )
                    self._remove(plan, survey.entries, self._attestor)
            self._remove_blobs(contents)

    def _surveyed(self, plan: Plan) -> Survey:
        """Count what goes, of components that the remote holds as they were delivered."""
        survey = plan.survey()
        if self._ask is not None and survey.entries:
            names = list(dict.fromkeys(component for component, _ in survey.goes))
            lacking, untold = _parted(self._ask.components(names, self._renew))
            self._found.unconfirmed, self._found.untold = lacking, untold
            if lacking or untold:
                plan.keep(lacking, "not confirmed")
                plan.keep(untold, "not told")
                survey = plan.survey()
        return survey

    def _renew(self) -> None:
        if self._attestor is not None:
            self._attestor.lease.renew()

    def _tell(self, survey: Survey) -> None:
        self._found.stays = {str(reason): entries for reason, entries in survey.stays.items()}
        self._on_progress(Progress(0, survey.entries, 0))

    def _count(self, counts: dict[tuple[str, str], int]) -> None:
        by_component, by_kind = self._found.by_component, self._found.by_kind
        for (component, kind), entries in counts.items():
            by_component[component] = by_component.get(component, 0) + entries
            by_kind[kind] = by_kind.get(kind, 0) + entries

    def _archived(
        self,
        reader: Journal,
        plan: Plan,
        target: str | os.PathLike[str],
        entries: int,
        attestor: Attestor,
    ) -> Archive:
        """Export what goes. The file, with its name, is on the disk when this returns."""
        made = export_chosen(
            [reader],
            Choice(),
            condition=plan.condition,
            to=target,
            table="entries",
            on_progress=lambda _: attestor.lease.renew(),
        )[0]
        path = Path(str(made.output))
        if made.rows != entries or made.unsound:
            has = f"{made.rows} of {entries} entries, {made.unsound} of them damaged"
            raise JournalCorruptError(
                f"the archive {path} has {has}: nothing was removed",
                hint="`journaltrack check` says what is wrong with the journal",
            )
        with path.open("rb") as file:
            sha256 = digest_of(file.read)
        return Archive(path.name, sha256, path.stat().st_size, made.rows)

    def _remove(self, plan: Plan, total: int, attestor: Attestor) -> None:
        """Remove what goes, in transactions of bounded time."""
        after_seq, turns = 0, Turns(attestor)
        while page := plan.page(after_seq, turns.size):
            members = self._members(page)
            seqs = as_intervals(entry.seq for entry in page)
            with turns.transaction() as connection:
                _delete(connection, seqs, len(page))
                attestor.attest(connection, [self._statement(attestor, members)])
            after_seq = page[-1].seq
            self._found.entries += len(page)
            self._count(
                {(component, kind): entries for component, kind, entries in members["counts"]}
            )
            self._on_progress(Progress(self._found.entries, total, 0))

    def _members(self, page: list[Doomed]) -> dict[str, Any]:
        """Return what the attestation says of some removed entries."""
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
            "removed": [
                [self._uuids[writer], first, last, digest.hex()]
                for writer, first, last, digest in runs_of(page)
            ],
            "counts": [[component, kind, entries] for (component, kind), entries in counts.items()],
            "metrics": [metric.to_member(*key) for key, metric in metrics.items()] or None,
            "archive": archive
            and {
                "name": archive.name,
                "sha256": archive.sha256,
                "bytes": archive.size_bytes,
                "rows": archive.rows,
                "table": "entries",
            },
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
        """Return the contents that go.

        Their bytes are what was recorded, and the remote has them.
        """
        if self._found.blobs_before_ns is None:
            return []
        spool = self._journal.path / paths.SPOOL
        whole: list[Content] = []
        now_ns = self._clock_ns()
        for content in delivered(reader, self._found.blobs_before_ns, now_ns):
            if is_recent(content, now_ns):
                self._found.blobs_recent += 1
            elif content.sha256 in others_say:
                self._found.blobs_hearsay += 1
            elif blob_problem(spool, content.sha256, content.size_bytes) is None:
                whole.append(content)
            else:
                self._found.blobs_kept += 1
            self._renew()
        if self._ask is not None and whole:
            sha256s = [content.sha256 for content in whole]
            lacking, untold = _parted(self._ask.contents(sha256s, self._renew))
            self._found.blobs_unconfirmed, self._found.blobs_untold = lacking, untold
            whole = [each for each in whole if each.sha256 not in {*lacking, *untold}]
        return whole

    def _remove_blobs(self, contents: Sequence[Content]) -> None:
        gone = contents
        if self._attestor is not None:
            gone = remove(self._attestor, contents, self._started_ns)
        self._found.blobs = len(gone)
        self._found.blob_bytes = sum(content.size_bytes for content in gone)


def _refuse_unless_whole(reader: Journal) -> None:
    """Refuse a journal that does not verify: removing its entries would destroy evidence.

    Raises:
        JournalCorruptError: The journal does not verify.
    """
    with proved(reader.database) as (found, _):
        problems = [*database_problems(reader.database), *found]
    if problems:
        shown = "; ".join(limits.shown(problem.message) for problem in problems[:_PROBLEMS_SHOWN])
        more = (
            f"; and {len(problems) - _PROBLEMS_SHOWN} more"
            if len(problems) > _PROBLEMS_SHOWN
            else ""
        )
        raise JournalCorruptError(
            f"the journal at {reader.path} does not verify; nothing was removed: {shown}{more}",
            hint="`journaltrack check` lists all, and explains them",
        )


def _delete(connection: sqlite3.Connection, seqs: list[tuple[int, int]], entries: int) -> None:
    """Delete entries inside a transaction: all of them, or raise."""
    connection.execute(f"DROP TRIGGER {_GUARD}")
    deleted = connection.executemany("DELETE FROM entry WHERE seq BETWEEN ? AND ?", seqs).rowcount
    settled = connection.executemany(
        "DELETE FROM delivery WHERE seq BETWEEN ? AND ?", seqs
    ).rowcount
    connection.execute(_MAKE_GUARD)
    if (deleted, settled) != (entries, entries):
        raise JournalCorruptError(
            f"{deleted} entries and {settled} settlements, not {entries}: nothing was removed now",
            hint="something changes the journal without the lease: `journaltrack check`",
        )


def _as_metric(entry: Doomed, value: float) -> RemovedMetric:
    last = LastPoint(entry.seq, value, entry.step, entry.timestamp_ns)
    steps = None if entry.step is None else (entry.step, entry.step)
    return RemovedMetric(1, value, abs(value), value, value, last, steps)


def _parted(doubts: Mapping[str, Doubt]) -> tuple[dict[str, str], dict[str, str]]:
    """Return why something stays: of what the remote lacks, and of what it does not tell."""
    lacking = {key: doubt.why for key, doubt in doubts.items() if doubt.is_lacking}
    return lacking, {key: doubt.why for key, doubt in doubts.items() if not doubt.is_lacking}
