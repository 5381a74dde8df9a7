"""All that can be done to a journal and its copies, in any order: nothing is lost, nothing is sent
twice knowingly, all stays provable.

Copies are appended to, synced with faults and kills, released, settled, verified and repaired,
pruned, bundled, merged, rebuilt; receipts go to and fro; somebody removes things at the remote.
There is one remote, which remembers everything that ever arrived.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from journaltrack import bundle
from journaltrack.doctor import examine
from journaltrack.doctor.recover import salvage
from journaltrack.errors import ComponentMissingError, ErrorKind, InvalidInputError, RemoteError
from journaltrack.journal import removed, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.anchors import folder_of
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.replay.remote import Refusal
from journaltrack.reports.component import show
from journaltrack.reports.entry import entry as entry_in_full
from journaltrack.reports.history import history, timeline
from journaltrack.reports.proof.check import record_evidence
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.transfer.bundle.arrival import bring
from journaltrack.transfer.export.exporter import export
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from journaltrack.util import paths
from journaltrack.verification import repair as mending
from journaltrack.verification.verifier import Verifier, VerifyOptions
from tests import copies, independent_verifier, tally
from tests.copies import verify_chains
from tests.patience import scaled
from tests.properties.truth import ERRORS, FAULTS, KilledError, Seams

COPIES_MAX = 4
SECOND_NS = 10**9
LATER_NS = 1200 * SECOND_NS
WHICH = st.integers(0, COPIES_MAX - 1)
SCRIPTS = st.lists(st.sampled_from(FAULTS), max_size=5)
NAMES = st.sampled_from("ab")
ARRIVED = ("delivered", "superseded")
EXPERIMENTS = scaled(12)


class World(MemoryRemote):
    """The remote: faults by script, one per request; every application of a point is told of."""

    def __init__(self):
        super().__init__()
        self.script = []
        self.killed = False
        self.took = lambda _value: None
        self.ever = set()  # values that ever arrived

    def _faulty(self, apply, *, codes=None):
        if self.killed:
            raise KilledError  # the whole process is gone, its other threads too
        fault = self.script.pop(0) if self.script else "none"
        if fault == "kill before":
            self.killed = True
            raise KilledError
        if fault in ERRORS:
            raise ERRORS[fault]()  # noqa: RSE102 - makes the error
        if fault == "partial" and codes is not None:
            return codes()
        answer = apply()
        if fault == "cut after":
            raise RemoteError(
                "reset", kind=ErrorKind.TRANSIENT, code="ConnectionClosedError", maybe_applied=True
            )
        if fault == "kill after":
            self.killed = True
            raise KilledError
        return answer

    def describe(self, component):
        return self._faulty(lambda: super(World, self).describe(component))

    def create(self, spec):
        return self._faulty(lambda: super(World, self).create(spec))

    def upload(self, blob):
        return self._faulty(lambda: super(World, self).upload(blob))

    def put_document(self, document):
        return self._faulty(lambda: super(World, self).put_document(document))

    def update(self, component, fields):
        def apply():
            if "poison" in fields.parameters.values():
                raise RemoteError("poisonous", kind=ErrorKind.PERMANENT, code="ValidationException")
            return super(World, self).update(component, fields)

        return self._faulty(apply)

    def put_metrics(self, component, points):
        def take(taken):
            answer = super(World, self).put_metrics(component, taken)
            for point in taken:
                self.ever.add(point.value)
                self.took(point.value)
            return answer

        def apply():
            if component.lower() not in self.components:
                raise ComponentMissingError("gone", kind=ErrorKind.HOLD, code="ResourceNotFound")
            if any(point.value < 0 for point in points):
                raise RemoteError("negative", kind=ErrorKind.PERMANENT, code="ValidationException")
            return take(points)

        def partly():
            refused = {
                i: Refusal("INTERNAL_ERROR", "refused", permanent=False)
                for i in range(0, len(points), 2)
            }
            rest = [point for i, point in enumerate(points) if i not in refused]
            answer = take(rest) if rest else apply()
            return type(answer)(answer.request_id, refused=refused) if rest else answer

        return self._faulty(apply, codes=partly)

    def read_metrics(self, component, steps):
        return self._faulty(lambda: super(World, self).read_metrics(component, steps))

    def points(self):
        """How often each value is there."""
        return Counter(point.value for held in self.components.values() for point in held.points)


class EverythingMachine(RuleBasedStateMachine):
    """What each journal knows of what arrived is kept beside it, so that a point that it sends
    again knowingly shows.
    """

    @initialize(at_s=st.sampled_from([1_700_000_000, 2_000_000_000]))
    def open(self, at_s) -> None:
        """One journal, whose clock is behind or ahead of the machine's."""
        self.root = Path(tempfile.mkdtemp())
        self.now_ns = at_s * SECOND_NS
        self.world = World()
        self.numbers, self.files = itertools.count(1), itertools.count()
        self.folders: list[Path] = []
        # every entry that was acknowledged
        self.registry: dict[tuple[str, int], tuple[bytes, str | None, float | None, str]] = {}
        self.known = defaultdict(set)  # values that arrived, as the journal's evidence says
        self.flying = defaultdict(set)  # the same by a killed pass: known when somebody recovers
        self.anchors = defaultdict(set)  # documents that passes on the journal have made
        # journals that may lack contents: of bundles without them, and of copies of pruned ones
        self.blobless = set()
        self.decided = set()  # values that a person called delivered
        self.taken_away = set()  # that were removed at the remote
        self.held = {}
        self.steps = []
        self.add(self.root / "0")
        self.append(0, "a", "metrics")

    def add(self, folder: Path, like: Path | None = None) -> None:
        self.folders.append(folder)
        if like is not None:
            self.learn(folder, like, flying=False)
            self.flying[folder] |= self.flying[like]
            self.anchors[folder] |= self.anchors[like]
            if like in self.blobless:
                self.blobless.add(folder)

    def learn(self, folder: Path, source: Path, *, flying: bool) -> None:
        self.known[folder] |= self.known[source] | (self.flying[source] if flying else set())

    def of(self, which: int) -> Path:
        return self.folders[which % len(self.folders)]

    def forget(self, values) -> None:
        """They may be sent again, and whoever knew that they arrived is right to."""
        gone = set(values)
        for folder in self.folders:
            self.known[folder] -= gone
            self.flying[folder] -= gone

    # -- what is done
    # -------------------------------------------------------------------------------------------

    @rule(
        which=WHICH,
        name=NAMES,
        what=st.sampled_from(["metrics", "metrics", "steps", "parameter", "spoiled", "artifact"]),
    )
    def append(self, which, name, what) -> None:
        """A new process records something in one of the copies."""
        self.now_ns += SECOND_NS
        folder = self.of(which)
        journal = Journal.open(folder, clock_ns=lambda: self.now_ns)
        component = journal.component(name)
        drafts = [vocabulary.create(owner=f"owner of {name}", resume=True)]
        if what == "metrics":
            drafts += [
                vocabulary.metric("m", float(next(self.numbers)), None, 1) for _ in range(13)
            ]
        elif what == "steps":
            values = [next(self.numbers) for _ in range(7)]
            drafts += [vocabulary.metric("s", float(value), value, 1) for value in values]
        elif what == "parameter":
            drafts += [vocabulary.parameter(key, float(next(self.numbers))) for key in "xyx"]
        elif what == "spoiled":
            drafts += [
                vocabulary.metric("m", -float(next(self.numbers)), None, 1),
                vocabulary.metric("m", float("nan"), None, 1),
            ]
            drafts += [vocabulary.parameter("p", "poison"), vocabulary.load()]
        else:
            file = self.root / "content"
            file.write_bytes(b"content %d" % (next(self.numbers) % 5))
            spooled = Spool(folder / paths.SPOOL).add(file)
            journal.add_blob(spooled.sha256, spooled.size_bytes)
            blob = BlobRef(spooled.sha256, None, None)
            drafts += [
                vocabulary.upload("f", blob, spooled.size_bytes, None, "f"),
                vocabulary.artifact("output", "f", blob, None),
            ]
        journal.append(component, drafts)
        journal.close()

    @precondition(lambda self: len(self.folders) < COPIES_MAX)
    @rule(which=WHICH)
    def copy(self, which) -> None:
        """Somebody carries a copy away."""
        target = self.root / str(len(self.folders))
        shutil.copytree(self.of(which), target)
        self.add(target, self.of(which))

    @rule(which=WHICH, all_blobs=st.booleans())
    def carry_bundle(self, which, all_blobs) -> None:
        """A bundle becomes a journal, or brings what is new to the one that an earlier bundle
        became.
        """
        source = self.of(which)
        file = self.root / f"{next(self.files)}.bundle"
        bundle(source, to=file, all_blobs=all_blobs, skip_damaged=True)
        place = self.root / "bundles"
        target = place / self.journal_id(source)
        if target == source or (target not in self.folders and len(self.folders) >= COPIES_MAX):
            return
        first = not target.exists()
        bring(file, into=place)
        self.blobless.add(target)
        if first:
            self.add(target, source)
        else:
            self.merged([source], target)

    @rule(
        which=WHICH,
        script=SCRIPTS,
        later=st.booleans(),
        dies_at=st.none() | st.none() | st.integers(0, 8),
    )
    def sync(self, which, script, later, dies_at) -> None:
        """One copy is synced; the process may be killed, and answers lost."""
        if later:
            self.now_ns += LATER_NS
        self.run(self.of(which), script, dies_at)

    def run(self, folder: Path, script=(), dies_at=None):
        """A pass; every point that it sends although the journal knows that it arrived is a
        failure.
        """
        self.now_ns += SECOND_NS
        before = set(self.world.stored)
        self.world.script, self.world.killed = list(script), False
        sent, again = set(), []
        knew = self.known[folder] | self.flying[folder]

        def took(value):
            sent.add(value)
            if value in knew:
                again.append(value)

        self.world.took = took
        database = Seams(folder / "journal.db")
        database.dies_at = dies_at
        journal = Journal(database)
        report = None
        try:
            report = Reconciler(
                journal,
                self.world,
                options=Options(concurrency=3, even_if_behind=True),
                clock_ns=lambda: self.now_ns,
            ).run()
        except KilledError:
            self.flying[folder] |= sent
        else:
            self.known[folder] |= sent | self.flying.pop(folder, set())
        finally:
            database.close()
            self.world.script, self.world.killed, self.world.took = [], False, lambda _value: None
        mine = f"/{folder_of(self.journal_id(folder))}/"
        self.anchors[folder] |= {
            uri for uri in self.world.stored if uri not in before and mine in uri
        }
        assert not again, f"{folder.name} sends {again} again, and knows that they arrived"
        return report

    @rule(which=WHICH, outcome=st.sampled_from(["quarantined", "in doubt"]))
    def release(self, which, outcome) -> None:
        """A person wants it sent again, though it may be there twice."""
        folder = self.of(which)
        with self.leased(folder) as (journal, lease):
            if outcome == "in doubt":
                self.forget(value for value, state in self.values(journal) if state == "in doubt")
            Settlement(journal.database, lease, lambda: self.now_ns).release([outcome])

    @rule(which=WHICH, outcome=st.sampled_from(["delivered", "quarantined"]))
    def settle(self, which, outcome) -> None:
        """A person says what became of what is in doubt; one that is called quarantined may be
        released later.
        """
        with self.leased(self.of(which)) as (journal, lease):
            values = {value for value, state in self.values(journal) if state == "in doubt"}
            if outcome == "delivered":
                self.decided |= values
            else:
                self.forget(values)
            in_doubt.decide(
                Attestor(journal.database, lease, lambda: self.now_ns),
                outcome,
                "somebody says so",
                None,
            )

    @rule(name=NAMES, what=st.sampled_from(["parameter", "metric", "object", "component"]))
    def tamper(self, name, what) -> None:
        """Somebody removes something at the remote."""
        held = self.world.components.get(name)
        if what == "object" and self.world.objects:
            del self.world.objects[min(self.world.objects)]
        elif held is None:
            return
        elif what == "parameter":
            held.parameters.pop(next(iter(sorted(held.parameters)), None), None)
        elif what == "metric":
            self.take_away({point.value for point in held.points if point.name == "s"})
            held.points = [point for point in held.points if point.name != "s"]
        elif what == "component":
            self.take_away({point.value for point in held.points})
            del self.world.components[name]

    def take_away(self, values) -> None:
        self.taken_away |= values
        self.forget(values)

    @rule(which=WHICH)
    def repair(self, which) -> None:
        """``check --remote --repair`` in peace: what could be sent again is there afterwards."""
        folder = self.of(which)
        self.now_ns += LATER_NS
        self.run(folder)
        self.now_ns += LATER_NS
        report = self.verified(folder)
        assert report.complete or report.counts["unknown"], report
        with self.leased(folder) as (journal, lease):
            mending.reopen(
                journal.database,
                lease,
                report.differences,
                read_at_ns=report.at_ns,
                receipt_id=report.receipt_id,
            )
        self.ask(folder)
        done = self.run(folder)
        self.now_ns += LATER_NS
        if done.problem is None:
            # A component that was made anew is seen to lack its metrics only then, and what a
            # bundle left out can't be uploaded.
            left = [
                d
                for d in self.verified(folder).differences
                if d.repairable and d.what not in {"metric", "object"}
            ]
            assert left == [], left

    def verified(self, folder: Path):
        journal = Journal.open(folder, create=False, read_only=True)
        try:
            options = VerifyOptions(visible_after_s=60.0)
            return Verifier(
                journal, self.world, options=options, clock_ns=lambda: self.now_ns
            ).run()
        finally:
            journal.close()

    @rule(which=WHICH, entries=st.booleans(), blobs=st.booleans(), component=st.none() | NAMES)
    def remove(self, which, entries, blobs, component) -> None:
        """What was delivered is pruned."""
        if not entries and not blobs:
            return
        folder = self.of(which)
        self.now_ns += LATER_NS
        now_ns = max(self.now_ns, 3 * 10**18)
        with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as journal:
            if component is not None and journal.find(component) is None:
                return
        prune(
            folder,
            ask=None,
            trust=["all"],
            delivered_before_ns=now_ns if entries else None,
            blobs_before_ns=now_ns if blobs else None,
            component=component,
            compact=False,
            clock_ns=lambda: now_ns,
        )
        if blobs:
            self.blobless.add(folder)

    @rule(giver=WHICH, taker=WHICH)
    def receipts(self, giver, taker) -> None:
        """Receipts go from one copy to another; again nothing is new."""
        source, target = self.of(giver), self.of(taker)
        if source == target:
            return
        file = self.root / f"{next(self.files)}.jsonl"
        export_receipts(source, to=file)
        try:
            import_receipts(file, target)
        except InvalidInputError:
            # nothing of it is about an entry of a journal that is another one
            assert self.journal_id(source) != self.journal_id(target)
            return
        self.learn(target, source, flying=False)
        again = import_receipts(file, target)
        assert (again.new, again.settled, again.kept) == (0, {}, 0)

    @rule(
        sources=st.permutations(range(COPIES_MAX)),
        count=st.integers(1, COPIES_MAX),
        into=st.none() | WHICH,
    )
    def merge(self, sources, count, into) -> None:
        """Copies are merged, into a new journal or into one of them; again nothing is new."""
        target = self.root / "merged" if into is None else self.of(into)
        if target not in self.folders and len(self.folders) >= COPIES_MAX + 1:
            return
        folders = [
            f for f in dict.fromkeys(self.of(which) for which in sources[:count]) if f != target
        ]
        if not folders:
            return
        self.ask(target)
        merge(folders, into=target)
        if target not in self.folders:
            self.add(target)
        self.merged(folders, target)
        assert not any(
            s.entries or s.attestations or s.taken_as_found
            for s in merge(folders, into=target).sources
        )

    def merged(self, folders, target) -> None:
        for source in folders:
            self.learn(target, source, flying=True)
            if self.journal_id(source) == self.journal_id(target):
                self.anchors[target] |= self.anchors[source]
            if source in self.blobless:
                self.blobless.add(target)

    @rule(which=WHICH)
    def rebuild(self, which) -> None:
        """A whole database is salvaged all the same; the doctor finds nothing that it calls an
        error.
        """
        folder = self.of(which)
        salvage(folder, self.root / "new.db", now_ns=self.now_ns)
        for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
            (folder / name).unlink(missing_ok=True)
        (self.root / "new.db").rename(folder / "journal.db")
        findings = [
            f for f in examine(folder).findings if f.severity == "problem" and f.check != "spool"
        ]
        assert findings == [], findings

    # -- what holds
    # ---------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        """Of every journal that has changed since it was looked at."""
        for folder in getattr(self, "folders", []):
            stamp = tuple(
                (f.stat().st_mtime_ns, f.stat().st_size)
                for f in sorted(folder.glob("journal.db*"))
                if not f.name.endswith("-shm")
            )
            if self.held.get(folder) != stamp:
                self.look(folder)
                self.held[folder] = tuple(
                    (f.stat().st_mtime_ns, f.stat().st_size)
                    for f in sorted(folder.glob("journal.db*"))
                    if not f.name.endswith("-shm")
                )

    def look(self, folder: Path) -> None:
        journal = Journal.open(folder, create=False, read_only=True)
        try:
            documents = {
                uri.rsplit("/", 1)[1]: self.world.stored[uri] for uri in self.anchors[folder]
            }
            elsewhere = {uri.rsplit("/", 1)[1] for uri in self.world.stored}
            problems = [
                p
                for p in verify_chains(journal, anchors=documents)
                if not (p.kind == "blob" and folder in self.blobless)
                and not ("the anchor before" in p.message and elsewhere - documents.keys())
            ]
            assert problems == [], f"{folder.name}: {problems}"
            assert [
                p
                for p in independent_verifier.verify(folder)
                if not (p.startswith("the blob ") and folder in self.blobless)
            ] == []
            report = audit(journal)
            assert report.totals.adds_up
            assert report.inconsistencies == ()
            self.complete(folder, journal)
        finally:
            journal.close()

    def complete(self, folder: Path, journal: Journal) -> None:
        """Every entry is there or was removed on the record; what counts as delivered arrived;
        sums add up.
        """
        rows = journal.database.read(
            "SELECT w.uuid, e.writer_seq, e.digest, e.name, e.value, c.name, d.outcome, e.kind "
            "FROM entry e JOIN writer w ON w.id = e.writer_id "
            "JOIN component c ON c.id = e.component_id LEFT JOIN delivery d ON d.seq = e.seq"
        )
        _, evidence = record_evidence(journal.database)
        gone = {
            (uuid, place)
            for uuid, runs in evidence.gaps.items()
            for first, last in runs.runs()
            for place in range(first, last + 1)
        }
        ends: dict[str, int] = {}
        for uuid, place, digest, name, value, component, outcome, kind in rows:
            told = (digest, name if kind == "metric" else None, value, component)
            assert self.registry.setdefault((uuid, place), told) == told
            ends[uuid] = max(ends.get(uuid, 0), place)
            if kind == "metric" and outcome in ARRIVED:
                assert value in self.world.ever or value in self.decided, (
                    f"{folder.name}: {value} counts as delivered and never arrived"
                )
        there = {(uuid, place) for uuid, place, *_ in rows}
        wanted = {(uuid, place) for uuid, place in self.registry if place <= ends.get(uuid, 0)}
        assert wanted - gone <= there, f"{folder.name} lost {sorted(wanted - gone - there)[:5]}"
        # also what another copy recorded and removed, as receipts from there say
        counted = wanted | (gone & self.registry.keys())
        expected = Counter(
            (self.registry[key][3], self.registry[key][1])
            for key in counted
            if self.registry[key][1] is not None
        )
        found = Counter(
            (component, name) for _, _, _, name, _, component, _, kind in rows if kind == "metric"
        )
        metrics = removed.metrics(journal.database)
        found.update({key: metric.points for key, metric in metrics.items()})
        unsure = {key for key, metric in metrics.items() if metric.at_least}
        assert all(
            found[key] == expected[key] or (key in unsure and found[key] < expected[key])
            for key in found | expected
        ), (
            found,
            expected,
        )

    def ask(self, folder: Path) -> None:
        """All questions have an answer."""
        if not (folder / "journal.db").exists():
            return
        journal = Journal.open(folder, create=False, read_only=True)
        try:
            events = list(timeline(journal))
            assert [e.position for e in events] == sorted(e.position for e in events)
            totals = audit(journal).totals
            ((unsettled,),) = journal.database.read(
                "SELECT count(*) FROM entry WHERE seq NOT IN (SELECT seq FROM delivery)"
            )
            assert totals.pending + totals.in_flight == unsettled, totals
            for name in "xyzf":
                list(history(journal, name))
            ((last,),) = journal.database.read("SELECT coalesce(max(seq), 0) FROM entry")
            for seq in range(1, last + 2, 7):
                entry_in_full(journal, seq)
            for table in ("metrics", "entries"):
                export(journal, to=io.BytesIO(), table=table, format="jsonl")
            for name in "ab":
                if journal.find(name) is not None:
                    show(journal, name)
        finally:
            journal.close()

    def teardown(self) -> None:
        """All is exchanged and delivered: nothing is pending, and what is not at the remote is
        in doubt, refused, or was taken away.
        """
        if not hasattr(self, "folders"):
            return
        try:
            for folder in self.folders:
                self.ask(folder)
            self.converge()
        finally:
            shutil.rmtree(self.root)

    def converge(self) -> None:
        final = self.root / "final"
        merge(self.folders, into=final)
        for source in self.folders:
            self.learn(final, source, flying=True)
            if source in self.blobless:
                self.blobless.add(final)
        self.folders.append(final)
        for _ in range(3):
            self.now_ns += LATER_NS
            report = self.run(final)
        self.look(final)
        self.ask(final)
        assert report.pending == 0 or report.problem is not None, report
        journal = Journal.open(final, create=False, read_only=True)
        states = Counter()
        for value, state in self.values(journal):
            states[state] += 1
            if state == "delivered":
                assert (
                    value in self.world.points()
                    or value in self.decided
                    or value in self.taken_away
                ), value
        journal.close()
        tally.count(
            "all that can be done to copies of a journal, in any order",
            attacks=1,
            checked=len(self.registry),
        )

    # -- helpers
    # --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def leased(self, folder: Path):
        """The journal and its lease; a killed pass is recovered first, as every pass does."""
        journal = Journal.open(folder, create=False)
        try:
            lease = leases.acquire(journal.database, clock_ns=lambda: self.now_ns)
            yield journal, lease
            lease.release()
        finally:
            journal.close()

    @staticmethod
    def values(journal: Journal) -> list[tuple[float, str]]:
        """Value and state of every point."""
        return [
            (value, copies.CATEGORY.get(outcome, outcome))
            for value, outcome in journal.database.read(
                "SELECT e.value, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
                "WHERE e.stream = 'metric' AND e.value IS NOT NULL"
            )
        ]

    @staticmethod
    def journal_id(folder: Path) -> str:
        return str(copies.read(folder, "SELECT journal_id FROM meta")[0][0])


TestEverything = EverythingMachine.TestCase
TestEverything.settings = settings(
    max_examples=EXPERIMENTS,
    stateful_step_count=20,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
    phases=[Phase.generate]
    if "JOURNALTRACK_SHRINK" not in os.environ
    else [Phase.generate, Phase.shrink],
)
