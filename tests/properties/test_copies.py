"""Copies of one journal that are appended to, synced and released apart, exchange receipts and
are merged in any order: they converge.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from tests import tally
from tests.copies import verify_chains
from tests.golden import REVISIONS, restore
from tests.patience import scaled
from tests.properties.truth import FAULTS, KilledError, Seams, Truth

COPIES_MAX = 4
SECOND_NS = 10**9
CATEGORY = {"superseded": "delivered", None: "pending"}
WHICH = st.integers(0, COPIES_MAX - 1)
SCRIPTS = st.lists(st.sampled_from(FAULTS), max_size=6)


def content(folder: Path) -> dict[tuple[str, int], tuple[bytes, str]]:
    """Digest and state of every entry, by what it is in every copy."""
    journal = Journal.open(folder, create=False, read_only=True)
    try:
        rows = journal.database.read(
            "SELECT w.uuid, e.writer_seq, e.digest, d.outcome FROM entry e "
            "JOIN writer w ON w.id = e.writer_id LEFT JOIN delivery d ON d.seq = e.seq"
        )
        return {
            (uuid, place): (digest, CATEGORY.get(outcome, outcome))
            for uuid, place, digest, outcome in rows
        }
    finally:
        journal.close()


def states(folder: Path) -> dict[tuple[str, int], str]:
    """The states alone."""
    return {key: state for key, (_, state) in content(folder).items()}


def sound(folder: Path) -> None:
    """Every chain holds, and all tables are what was attested."""
    assert [p for p in verify_chains(folder) if p.kind != "blob"] == []
    report = audit(folder)
    assert report.totals.adds_up
    assert report.inconsistencies == ()


class CopiesMachine(RuleBasedStateMachine):
    """Appends, copies, syncs with faults and kills, releases, receipts to and fro, merges."""

    @initialize(revision=st.sampled_from([None, None, *REVISIONS]))
    def open(self, revision) -> None:
        """One journal: a new one, or one that an earlier release left in the midst of its work."""
        self.root = Path(tempfile.mkdtemp())
        self.now_ns = 2_000_000_000 * SECOND_NS
        self.truth = Truth()
        self.numbers = itertools.count(1)
        self.copies = [self.root / "0"]
        self.files = itertools.count()
        if revision is not None:
            restore(revision, self.copies[0])
            self.truth.components["a"] = {
                "owner": "owner of a",
                "parameters": {"x": 7.0},
                "artifacts": {},
                "status": None,
            }
            self.truth.points = [("a", "g", 1000.0 + n, n) for n in range(12)]
        self.append(0, "a", "metrics")

    def teardown(self) -> None:
        """All know all: they agree, nothing that somebody delivered is pending, and merges in
        any order are the same.
        """
        if hasattr(self, "copies"):
            try:
                if len(self.copies) > 1:
                    self.converge()
            finally:
                shutil.rmtree(self.root)

    def of(self, which: int) -> Path:
        return self.copies[which % len(self.copies)]

    @rule(
        which=WHICH,
        name=st.sampled_from("ab"),
        what=st.sampled_from(["metrics", "parameter", "spoiled", "artifact"]),
    )
    def append(self, which, name, what) -> None:
        """A new process records something in one of the copies."""
        self.now_ns += SECOND_NS
        journal = Journal.open(self.of(which), clock_ns=lambda: self.now_ns)
        component = journal.component(name)
        drafts = [vocabulary.create(owner=f"owner of {name}", resume=True)]
        if what == "metrics":
            drafts += [
                vocabulary.metric("m", float(next(self.numbers)), None, 1) for _ in range(13)
            ]
        elif what == "parameter":
            drafts += [vocabulary.parameter(key, float(next(self.numbers))) for key in "xyx"]
        elif what == "spoiled":
            drafts += [
                vocabulary.metric("m", -float(next(self.numbers)), None, 1),
                vocabulary.metric("m", float("nan"), None, 1),
            ]
            drafts += [vocabulary.parameter("p", "poison"), vocabulary.load()]
        else:
            blob = BlobRef("ab" * 32, None, None)
            drafts += [
                vocabulary.upload("f", blob, 1, None, "f"),
                vocabulary.artifact("output", "f", blob, None),
            ]
        journal.append(component, drafts)
        journal.close()

    @precondition(lambda self: len(self.copies) < COPIES_MAX)
    @rule(which=WHICH)
    def copy(self, which) -> None:
        """Somebody carries a copy away."""
        target = self.root / str(len(self.copies))
        shutil.copytree(self.of(which), target)
        self.copies.append(target)

    @rule(which=WHICH, script=SCRIPTS, later=st.booleans(), dies_at=st.none() | st.integers(0, 8))
    def sync(self, which, script, later, dies_at) -> None:
        """One copy is synced; the process may be killed, and answers lost."""
        if later:
            self.now_ns += 1200 * SECOND_NS
            self.truth.visible = len(self.truth.points)
        self.now_ns += SECOND_NS  # requests are told apart by their time
        self.truth.script = list(script)
        database = Seams(self.of(which) / "journal.db")
        database.dies_at = dies_at
        self.truth.victim = database
        journal = Journal(database)
        with contextlib.suppress(KilledError):
            Reconciler(
                journal,
                self.truth,
                options=Options(concurrency=3, even_if_behind=True),
                clock_ns=lambda: self.now_ns,
            ).run()
        database.close()
        self.truth.script = []

    @rule(which=WHICH, outcome=st.sampled_from(["quarantined", "in doubt"]))
    def release(self, which, outcome) -> None:
        """A person wants it sent again."""
        journal = Journal.open(self.of(which))
        lease = leases.acquire(journal.database, clock_ns=lambda: self.now_ns)
        Settlement(journal.database, lease, lambda: self.now_ns).release([outcome])
        lease.release()
        journal.close()

    @rule(giver=WHICH, taker=WHICH)
    def receipts(self, giver, taker) -> None:
        """Receipts go from one copy to another; nothing that was delivered there is pending here
        then, and again nothing is new.
        """
        if self.of(giver) != self.of(taker):
            self.carry(self.of(giver), self.of(taker))

    def carry(self, source: Path, target: Path) -> int:
        there = states(source)
        file = self.root / f"{next(self.files)}.jsonl"
        export_receipts(source, to=file)
        before = content(target)
        # else somebody may have released it here who knew
        knew_nothing = not audit(target).reconcilers
        new = import_receipts(file, target).new
        sound(target)
        after = content(target)
        assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in before.items()}
        for key, (_, state) in after.items():
            assert not (there.get(key) == "delivered" and state != "delivered"), key
            assert not (there.get(key) == "in doubt" and state == "pending" and knew_nothing), key
            assert not (before[key][1] == "delivered" and state != "delivered"), key
        again = import_receipts(file, target)
        assert (again.new, again.settled, again.kept) == (0, {}, 0)
        assert content(target) == after
        return new

    @rule(
        sources=st.permutations(range(COPIES_MAX)),
        count=st.integers(1, COPIES_MAX),
        into=st.none() | WHICH,
    )
    def merge(self, sources, count, into) -> None:
        """Copies are merged, into another or into one of them; again nothing is new."""
        target = self.root / "merged" if into is None else self.of(into)
        folders = [
            f for f in dict.fromkeys(self.of(which) for which in sources[:count]) if f != target
        ]
        if not folders:
            return
        before = content(target) if target.exists() else {}
        merge(folders, into=target)
        sound(target)
        after = content(target)
        every = [content(folder) for folder in folders]
        for key, (digest, state) in ((key, value) for each in every for key, value in each.items()):
            assert after[key][0] == digest
            assert not (state == "delivered" and after[key][1] != "delivered")
            if key not in before and all(
                each.get(key, (b"", "in doubt"))[1] == "in doubt" for each in every
            ):
                assert after[key][1] == "in doubt"
        assert before.keys() <= after.keys()
        assert not merge(folders, into=target).changed
        assert content(target) == after

    def converge(self) -> None:
        """Everything is exchanged until nothing is new."""
        folders = [
            *self.copies,
            *([self.root / "merged"] if (self.root / "merged").exists() else []),
        ]
        for folder in folders:
            sound(folder)
        for _ in range(6):
            if not sum(merge([s for s in folders if s != t], into=t).changed for t in folders):
                break
        else:
            raise AssertionError("it does not come to an end")
        every = [content(folder) for folder in folders]
        for folder, each in zip(folders, every, strict=True):
            sound(folder)
            assert each == every[0]
        random.Random(len(every[0])).shuffle(folders)
        merge(folders, into=self.root / "at once")
        for folder in reversed(folders):
            merge([folder], into=self.root / "one by one")
        assert content(self.root / "at once") == content(self.root / "one by one") == every[0]
        sound(self.root / "at once")
        sound(self.root / "one by one")
        values = {value for _, _, value, _ in self.truth.points}
        journal = Journal.open(folders[0])
        for entry in journal.entries(limit=10**6):
            if (
                entry.kind == "metric"
                and states(folders[0])[self.identity(journal, entry)] == "delivered"
            ):
                assert entry.value in values, "an entry counts as delivered and is not there"
        journal.close()
        tally.count(
            "copies that are synced apart, exchange receipts and are merged",
            attacks=1,
            checked=len(every[0]),
        )

    @staticmethod
    def identity(journal: Journal, entry) -> tuple[str, int]:
        return journal.database.read("SELECT uuid FROM writer WHERE id = ?", (entry.writer_id,))[0][
            0
        ], entry.writer_seq


TestCopies = CopiesMachine.TestCase
TestCopies.settings = settings(
    max_examples=scaled(25),
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.generate],
)


@pytest.mark.slow
def test_a_request_in_doubt_that_was_known_before_a_release_stays_in_doubt():
    """A release in a copy that learnt of a later doubt afterwards, merged where that doubt is
    known: sent again, the points may be there twice.
    """
    state = CopiesMachine()
    state.open(revision="0002")
    state.copy(which=2)
    state.append(name="b", what="parameter", which=2)
    state.merge(count=2, into=None, sources=[1, 3, 2, 0])
    state.sync(dies_at=None, later=True, script=[], which=2)
    state.copy(which=0)
    state.copy(which=3)
    state.merge(count=4, into=None, sources=[3, 2, 0, 1])
    state.sync(dies_at=None, later=False, script=["partial"], which=1)
    state.sync(
        dies_at=6,
        later=True,
        script=["500", "timeout, not applied", "none", "unreachable", "partial", "limit"],
        which=2,
    )
    state.release(outcome="in doubt", which=3)
    state.teardown()
