"""A model that knows the truth: calls of several writers, replays with faults and kills at every
seam, against a real journal.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from journaltrack.errors import JournalWriteError, LeaseHeldError, LeaseLostError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.groups import MEMBERSHIPS, row_of
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.replay.remote import SAGEMAKER, Capabilities
from journaltrack.reports.proof.check import anchor_problems
from journaltrack.reports.report import audit
from journaltrack.util.deadline import Deadline
from journaltrack.util.intervals import ranges_in
from tests import tally
from tests.copies import verify_chains
from tests.golden import REVISIONS, restore
from tests.patience import scaled
from tests.properties.truth import BUG, FAULTS, KilledError, Seams, Truth

CONCURRENCY = 3
SECOND_NS = 10**9
SCRIPTS = st.lists(st.sampled_from([*FAULTS, BUG]), min_size=1, max_size=6)
COMPONENTS = st.sampled_from(["a", "b"])
WRITERS = st.integers(0, 1)


class InterruptedPassError(Exception):
    """What the caller of a pass raises in the midst of it."""


class ReplayMachine(RuleBasedStateMachine):
    """Calls, replays, faults, kills, moves to other machines, in any order."""

    can = SAGEMAKER

    @initialize(known=st.booleans(), revision=st.sampled_from([None, None, *REVISIONS]))
    def open(self, known, revision) -> None:
        """A journal with two components: a new one, or one that an earlier release left in the
        midst of its work.
        """
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "0"
        self.now_ns = 2_000_000_000 * SECOND_NS
        self.truth = Truth(self.can)
        self.numbers = itertools.count(1)
        self.places = itertools.count(1)
        self.resent = set()  # entries that a person sent again although they were in doubt
        if revision is not None:
            restore(revision, self.folder)
        self.writers = []
        self.open_writers()
        if revision is None:
            for name in "ab":
                self.writers[0].append(
                    self.writers[0].component(name), [vocabulary.create(owner=f"owner of {name}")]
                )
        else:  # what the old journal says that it delivered
            self.truth.components["a"] = {
                "owner": "owner of a",
                "parameters": {"x": 7.0},
                "artifacts": {},
                "status": None,
            }
            self.truth.points = [("a", "g", 1000.0 + n, n) for n in range(12)]
            self.truth.visible = 12
        if known:  # most faults are interesting behind the creation
            self.replay_in_peace()

    def open_writers(self) -> None:
        """Two processes that log."""
        self.writers = [Journal.open(self.folder, clock_ns=lambda: self.now_ns) for _ in range(2)]

    def teardown(self) -> None:
        """The audit agrees with the tables, every chain holds."""
        if hasattr(self, "writers"):
            totals = audit(self.folder).totals
            states = Counter(self.states().values())
            assert totals.adds_up
            assert totals.entries == states.total()
            for state, name in (
                ("pending", "pending"),
                ("in flight", "in_flight"),
                ("in doubt", "in_doubt"),
                ("quarantined", "quarantined"),
            ):
                assert getattr(totals, name) == states[state]
            assert [p for p in verify_chains(self.folder) if p.kind != "blob"] == []
            with view.opened(self.folder) as own:
                assert anchor_problems(own.database, self.truth.documents_stored) == []
            tally.count(
                "random histories of logging, faults, kills, moves, syncs",
                attacks=1,
                checked=totals.entries,
            )
            for writer in self.writers:
                writer.close()
            shutil.rmtree(self.root)

    @rule(writer=WRITERS, component=COMPONENTS, count=st.integers(1, 25), stepped=st.booleans())
    def log_metrics(self, writer, component, count, stepped) -> None:
        """Points with values that occur once."""
        self._log(
            writer, component, [float(next(self.numbers)) for _ in range(count)], stepped=stepped
        )

    @rule(writer=WRITERS, component=COMPONENTS, count=st.integers(1, 12))
    def log_spoiled_metrics(self, writer, component, count) -> None:
        """Points among which AWS refuses one, and one that can't be sent at all."""
        values = [float(next(self.numbers)) for _ in range(count)]
        values[count // 2] *= -1
        self._log(writer, component, [*values, float("nan")], stepped=False)

    def _log(self, writer, component, values, *, stepped) -> None:
        journal = self.writers[writer]
        drafts = [
            vocabulary.metric("m", v, int(abs(v)) if stepped and not math.isnan(v) else None, 1)
            for v in values
        ]
        journal.append(journal.component(component), drafts)

    @rule(writer=WRITERS, component=COMPONENTS, key=st.sampled_from("xyz"), poison=st.booleans())
    def log_parameter(self, writer, component, key, poison) -> None:
        """A parameter, perhaps one that AWS refuses."""
        value = "poison" if poison else float(next(self.numbers))
        self.writers[writer].append(
            self.writers[writer].component(component), [vocabulary.parameter(key, value)]
        )

    @rule(writer=WRITERS, component=COMPONENTS, content=st.sampled_from("pq"))
    def log_artifact(self, writer, component, content) -> None:
        """An artifact of one of two contents, with its lineage."""
        blob = BlobRef(content.encode().hex() * 32, None, None)
        drafts = [
            vocabulary.upload(content, blob, 1, None, "f"),
            vocabulary.artifact("output", content, blob, None),
            vocabulary.lineage(content, blob, "Tracker", "output"),
        ]
        self.writers[writer].append(self.writers[writer].component(component), drafts)

    @rule(writer=WRITERS, component=COMPONENTS, trial=st.sampled_from("tu"), joins=st.booleans())
    def join_or_leave(self, writer, component, trial, joins) -> None:
        """A component goes into a trial, or out of it."""
        draft = (
            vocabulary.associate(experiment="e", trial=trial)
            if joins
            else vocabulary.disassociate(trial)
        )
        self.writers[writer].append(self.writers[writer].component(component), [draft])

    @rule(
        writer=WRITERS, name=st.sampled_from("ef"), key=st.sampled_from("xy"), poison=st.booleans()
    )
    def declare(self, writer, name, key, poison) -> None:
        """A tag of an experiment, perhaps one that AWS refuses."""
        value = "poison" if poison else str(next(self.numbers))
        journal = self.writers[writer]
        row = journal.component(row_of("experiment", name))
        journal.append(row, [vocabulary.experiment(tags={key: value})])

    @rule(script=SCRIPTS, of_metrics=st.booleans())
    def replay_with_faults(self, script, of_metrics) -> None:
        """A pass that meets faults (of its metric requests, or of whatever comes), and perhaps
        does not survive them.
        """
        self.truth.script = list(script)
        self.truth.of_metrics = of_metrics
        with contextlib.suppress(KilledError, LeaseHeldError):
            self._pass()
        self.truth.script = []

    @rule(transactions=st.integers(0, 12), after=st.booleans())
    def killed_at_a_seam(self, transactions, after) -> None:
        """A pass whose process dies before or after any of its transactions; the lease's row
        stays as it was.
        """
        with contextlib.suppress(KilledError, LeaseHeldError):
            self._pass(dies_at=transactions, dies_after_commit=after)

    @rule(script=SCRIPTS)
    def taken_over(self, script) -> None:
        """In mid-pass another machine takes the lease over, since this one seemed dead: the pass
        stops, and settles nothing more.
        """

        def take_over():
            with closing(
                sqlite3.connect(self.folder / "journal.db", isolation_level=None)
            ) as connection:
                connection.execute("UPDATE lease SET generation = generation + 1")

        self.truth.script = list(script)
        self.truth.beside = take_over
        with contextlib.suppress(KilledError, LeaseHeldError, LeaseLostError):
            self._pass()
        self.truth.script, self.truth.beside = [], None

    @rule(script=SCRIPTS, grace=st.booleans())
    def cut_short(self, script, grace) -> None:
        """In mid-pass its time is over: what was answered is recorded, what was not sent is
        pending.
        """
        deadline = Deadline()
        self.truth.script = list(script)
        self.truth.beside = lambda: deadline.cancel(grace_s=60.0 if grace else 0.0)
        with contextlib.suppress(KilledError, LeaseHeldError):
            self._pass(deadline=deadline)
        self.truth.script, self.truth.beside = [], None

    @rule(script=SCRIPTS, after=st.integers(0, 8))
    def interrupted(self, script, after) -> None:
        """In mid-pass the caller raises: the pass ends in order, and what was raised comes out
        of it.
        """
        recordings = itertools.count()

        def raises(_progress):
            if next(recordings) >= after:
                raise InterruptedPassError

        self.truth.script = list(script)
        with contextlib.suppress(KilledError, LeaseHeldError, InterruptedPassError):
            self._pass(on_progress=raises)
        self.truth.script = []

    @rule(script=SCRIPTS, transactions=st.integers(1, 12), times=st.integers(1, 2))
    def journal_refuses(self, script, transactions, times) -> None:
        """In mid-pass the journal can't be written for a moment: the pass ends with that error,
        and no answer is lost.
        """
        self.truth.script = list(script)
        with contextlib.suppress(KilledError, LeaseHeldError, JournalWriteError):
            self._pass(refuses_at=transactions, refuses_times=times)
        self.truth.script = []

    @rule()
    def two_at_once(self) -> None:
        """A second reconciler in mid-pass is turned away; the first goes on."""
        turned_away = []

        def second():
            try:
                self._pass()
            except LeaseHeldError:
                turned_away.append(True)

        self.truth.beside = second
        before = self.truth.requests
        with contextlib.suppress(LeaseHeldError):
            self._pass()
        assert turned_away or self.truth.requests == before
        self.truth.beside = None

    @rule()
    def moved_to_another_machine(self) -> None:
        """The folder is copied to a machine of another name, and used there; a dead pass's lease
        there still looks alive for a minute.
        """
        for writer in self.writers:
            writer.close()
        place = self.root / str(next(self.places))
        shutil.copytree(self.folder, place)
        shutil.rmtree(self.folder)
        self.folder = place
        with closing(sqlite3.connect(place / "journal.db", isolation_level=None)) as connection:
            connection.execute("UPDATE lease SET host = 'elsewhere'")
        self.open_writers()

    @rule()
    def time_passes(self) -> None:
        """Twenty minutes: reading back shows all that arrived, a dead holder's lease is over."""
        self.now_ns += 20 * 60 * SECOND_NS
        self.truth.visible = len(self.truth.points)

    @rule()
    def replay_in_peace(self) -> None:
        """A pass without faults ends with nothing pending, and the next one makes no request;
        what time can clear up is cleared up.
        """
        self.time_passes()
        report = self._pass()
        assert report.pending == 0, report
        before = self.truth.requests
        self._pass()
        assert self.truth.requests == before
        self.time_passes()  # what a killed pass left was put in doubt by this one
        self._pass()
        doubtful = [
            e
            for e in self._entries()
            if self.states()[e.seq] == "in doubt" and e.seq not in self.resent
        ]
        assert all(e.step is None or e.value < 0 for e in doubtful) or self.resent, (
            "a point with a step of its own is still in doubt"
        )

    # No preconditions: which of a pass's threads meets a fault is the scheduler's choice, and with
    # it the states; rules that come and go would make the choice of examples depend on it.
    @rule()
    def release(self) -> None:
        """Quarantined entries become pending again."""
        self._release("quarantined")

    @rule()
    def send_again_what_is_in_doubt(self) -> None:
        """A person prefers a double to a loss."""
        doubtful = {seq for seq, state in self.states().items() if state == "in doubt"}
        if self._release("in doubt"):
            self.resent |= doubtful

    def _release(self, outcome) -> bool:
        journal = Journal.open(self.folder)
        try:
            lease = leases.acquire(journal.database, clock_ns=lambda: self.now_ns)
        except LeaseHeldError:
            return False
        else:
            Settlement(journal.database, lease, lambda: self.now_ns).release([outcome])
            lease.release()
            return True
        finally:
            journal.close()

    def _pass(
        self,
        dies_at=None,
        *,
        dies_after_commit=False,
        refuses_at=None,
        refuses_times=0,
        **options_of_run,
    ):
        database = Seams(self.folder / "journal.db")
        database.dies_at, database.dies_after_commit = dies_at, dies_after_commit
        database.refuses_at, database.refuses_times = refuses_at, refuses_times
        journal = Journal(database)
        before, self.truth.victim, self.truth.ended = self.truth.victim, database, False
        # An anchor is put after the end; it names no entries, and the next pass says "interrupted"
        # of one that was not recorded. One of an earlier pass, which was killed, stays if this one
        # ends before it gets to it.
        last = database.read("SELECT coalesce(max(id), 0) FROM receipt")[0][0]
        unfinished = (
            "SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL AND action <> 'anchor' "
            f"AND id > {last}"
        )
        try:
            options = Options(concurrency=CONCURRENCY)
            reconciler = Reconciler(
                journal, self.truth, options=options, clock_ns=lambda: self.now_ns, **options_of_run
            )
            return reconciler.run()
        except (KilledError, LeaseHeldError, LeaseLostError):
            unfinished = None
            raise
        finally:
            if unfinished is not None:
                self.truth.ended = True
                assert self.truth.late == 0, "something was sent after the end of a pass"
                # A worker may have been killed while the caller raised: the dead record nothing.
                assert database.dead or database.read(unfinished)[0][0] == 0, (
                    "an answer, or that nothing was sent, is not recorded"
                )
            self.truth.victim = before
            database.close()

    def _entries(self):
        return self.writers[0].entries(limit=10**6)

    def states(self) -> dict[int, str]:
        """The state of every entry, from the tables alone."""
        read = self.writers[0].database.read
        states = dict.fromkeys((seq for (seq,) in read("SELECT seq FROM entry")), "pending")
        for (seqs,) in read("SELECT entries FROM receipt WHERE finished_at_ns IS NULL"):
            states.update(
                dict.fromkeys(
                    (seq for a, b in ranges_in(seqs) for seq in range(a, b + 1)), "in flight"
                )
            )
        states.update(dict(read("SELECT seq, outcome FROM delivery")))
        return states

    @invariant()
    def points_are_where_the_journal_says(self) -> None:
        """Delivered points are there once, pending and quarantined ones are not, in-doubt and
        in-flight ones once at most.
        """
        if not hasattr(self, "writers"):
            return
        there = Counter((component, value) for component, _, value, _ in self.truth.points)
        states = self.states()
        for entry in self._entries():
            if entry.kind != "metric" or entry.value is None:
                continue
            count = there.pop((entry.component, entry.value), 0)
            state = states[entry.seq]
            if entry.seq in self.resent:
                continue  # what the audit called in doubt, and a person sent again: once or twice
            assert count <= 1, f"{entry} was recorded {count} times"
            if state == "delivered":
                assert count == 1, f"{entry} is not there"
            elif state == "pending" and self.can.repeatable:
                pass  # sent without an answer, it may be there; it is sent again
            elif state in {"pending", "quarantined"}:
                assert count == 0, f"{entry} is {state} and there"
            else:
                assert state in {"in doubt", "in flight"}
        assert not there, "the remote has points that the journal does not know"

    @invariant()
    def parameters_are_the_fold_of_what_was_delivered(self) -> None:
        """Where nothing is pending, the remote holds for each key the last value that was
        delivered.
        """
        if not hasattr(self, "writers"):
            return
        states = self.states()
        for component in self.writers[0].components():
            entries = [
                e for e in self.writers[0].state_entries(component.id) if e.kind == "parameter"
            ]
            if any(states[e.seq] in {"pending", "in flight"} for e in entries):
                continue
            expected = {}
            for entry in entries:
                if states[entry.seq] == "delivered":
                    expected[entry.name] = entry.detail.get("text", entry.value)
            held = self.truth.components.get(component.name, {"parameters": {}})["parameters"]
            assert {k: v for k, v in held.items() if k in expected} == expected

    @invariant()
    def delivered_lineage_is_there(self) -> None:
        """Of each content that the journal says was linked, and nothing else is settled so."""
        if not hasattr(self, "writers"):
            return
        states = self.states()
        linked = {(component, name) for component, _, name in self.truth.links}
        for entry in self._entries():
            if entry.kind == "lineage":
                assert states[entry.seq] in {"pending", "in flight", "delivered"}
                assert states[entry.seq] != "delivered" or (entry.component, entry.name) in linked

    @invariant()
    def components_are_in_the_trials_of_the_last_word(self) -> None:
        """Where no word about a component and a trial is pending, the last one holds."""
        if not hasattr(self, "writers"):
            return
        states = self.states()
        words = defaultdict(list)
        for entry in self._entries():
            if entry.kind in MEMBERSHIPS:
                words[entry.component, entry.detail["trial"]].append(entry)
        for place, entries in words.items():
            found = {states[e.seq] for e in entries}
            assert found <= {"pending", "in flight", "delivered", "superseded"}
            if not found & {"pending", "in flight"} and self.truth.components.get(place[0]):
                assert (place in self.truth.places) is (entries[-1].kind == "associate")

    @invariant()
    def experiments_have_the_last_tags_that_are_taken(self) -> None:
        """Where nothing of an experiment is pending, each tag has its last good value, and what
        is refused takes nothing along.
        """
        if not hasattr(self, "writers"):
            return
        states = self.states()
        rows = defaultdict(list)
        for entry in self._entries():
            if entry.kind == "experiment":
                rows[entry.component.rpartition("/")[2]].append(entry)
        for name, entries in rows.items():
            if {states[e.seq] for e in entries} & {"pending", "in flight"}:
                continue
            expected = {}
            for entry in entries:
                good = "poison" not in entry.detail["tags"].values()
                taken = "delivered" if good else "quarantined"
                assert states[entry.seq] in {taken, "superseded"}
                expected |= entry.detail["tags"] if states[entry.seq] == "delivered" else {}
            assert self.truth.tags.get(name, {}) == expected

    @invariant()
    def nothing_good_is_lost_with_what_is_refused(self) -> None:
        """Where nothing of a key is pending, the last value that AWS takes was delivered, and
        only it or a later one overrode others.
        """
        if not hasattr(self, "writers"):
            return
        states = self.states()
        for component in self.writers[0].components():
            by_key = defaultdict(list)
            for entry in self.writers[0].state_entries(component.id):
                if entry.kind == "parameter":
                    by_key[entry.name].append(
                        (states[entry.seq], entry.detail.get("text") == "poison")
                    )
            for entries in by_key.values():
                if {"pending", "in flight"} & {state for state, _ in entries}:
                    continue
                good = [state for state, poison in entries if not poison]
                assert "quarantined" not in good
                assert not good or good[-1] == "delivered"
                assert ("delivered", True) not in entries
                for place, (state, _) in enumerate(entries):
                    assert state != "superseded" or "delivered" in {
                        later for later, _ in entries[place:]
                    }

    @invariant()
    def points_keep_their_order(self) -> None:
        """The points of a request are in the order of their calls."""
        if hasattr(self, "writers"):
            for batch in self.truth.batches:
                magnitudes = [abs(value) for value in batch if abs(value) < 1000]
                assert magnitudes == sorted(magnitudes)
            self.truth.batches.clear()

    @invariant()
    def the_mark_is_below_everything_pending(self) -> None:
        """No pending entry is hidden below the low-water mark: it is listed there."""
        if not hasattr(self, "writers"):
            return
        mark = self.writers[0].database.read("SELECT seq FROM mark")[0][0]
        listed = {seq for (seq,) in self.writers[0].database.read("SELECT seq FROM unsettled")}
        assert all(
            seq > mark or seq in listed
            for seq, state in self.states().items()
            if state in {"pending", "in flight"}
        )


class RepeatingMachine(ReplayMachine):
    """The same on a remote that keeps repeated points once: no point comes into doubt."""

    can = Capabilities(repeatable=True, points_max=7)

    @invariant()
    def no_request_of_points_is_in_doubt(self) -> None:
        """Whatever was cut off or killed, its points are delivered, refused or pending."""
        if hasattr(self, "writers"):
            sql = "SELECT count(*) FROM receipt WHERE action = 'points' AND outcome = 'in doubt'"
            assert self.writers[0].database.read(sql) == [(0,)]


TestRepeating = RepeatingMachine.TestCase
TestRepeating.settings = settings(
    max_examples=scaled(15),
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(
    max_examples=scaled(60),
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
