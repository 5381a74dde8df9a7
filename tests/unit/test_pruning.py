"""Pruning: what goes and what stays, by a model that knows only the rules; that it proves
itself; that all goes on working.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from journaltrack import Tracker, doctor
from journaltrack.doctor.recover import salvage
from journaltrack.errors import (
    InvalidInputError,
    JournalCorruptError,
    JournaltrackError,
    LeaseHeldError,
)
from journaltrack.journal import removed, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.attestations import Attestor, Statement
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.plan.actions import MetricPoint
from journaltrack.replay.plan.pending import read_states
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.component import show
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.tracking.validation import JournaltrackWarning
from tests.copies import verify_chains, without_triggers
from tests.golden import REVISIONS, restore
from tests.patience import scaled

DAY_NS = 86_400 * 10**9
COMPONENTS = ("run-a", "run-b")


def read(folder, sql, *parameters):
    """By plain sqlite3."""
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql, parameters).fetchall()


def sync(folder, remote, clock_ns=time.time_ns, **options):
    """One pass."""
    with closing(Journal.open(folder)) as journal:
        return Reconciler(journal, remote, options=Options(**options), clock_ns=clock_ns).run()


def lose_answers(folder, points):
    """So many pending points are sent by a process that is killed before the answers come."""
    with closing(Journal.open(folder)) as journal:
        pending = [e for e in journal.entries(pending=True) if e.kind == "metric"][:points]
        if not pending:
            return
        lease = leases.acquire(journal.database)
        try:
            records = Settlement(journal.database, lease)
            records.begin([Intent("metrics", e.component_id, [e.seq]) for e in pending])
            records.recover()
        finally:
            lease.release()


class Run:
    """Random calls of several processes to two components."""

    def __init__(self, folder, scratch, seed):
        self.folder, self.scratch, self.chance = folder, scratch, random.Random(seed)
        self.trackers = [
            Tracker.create(trial_component_name=name, journal=folder, sync="off", resume=True)
            for name in COMPONENTS * 2
        ]

    def go_on(self, calls):
        """Make so many calls."""
        chance = self.chance
        for number in range(calls):
            tracker, does = chance.choice(self.trackers), chance.random()
            if does < 0.5:
                tracker.log_metric(
                    f"m{chance.randint(0, 2)}",
                    chance.uniform(-9, 9),
                    iteration_number=chance.choice([None, number]),
                )
            elif does < 0.6:
                tracker.log_metrics({f"m{i}": float(number) for i in range(3)})
            elif does < 0.8:
                tracker.log_parameter(
                    f"p{chance.randint(0, 4)}", chance.choice([number, f"text {number}"])
                )
            elif does < 0.85:
                tracker.log_input("data", f"s3://{number}")
            elif does < 0.93:
                file = self.scratch / f"file{chance.randint(0, 2)}"
                file.write_bytes(b"x" * chance.randint(1, 6))
                tracker.log_artifact(file)
            elif does < 0.96:
                with Tracker.load(
                    tracker.trial_component.trial_component_name, journal=self.folder, sync="off"
                ):
                    pass
            elif does < 0.98:
                with pytest.warns(JournaltrackWarning):
                    tracker.log_metric(f"bad{self.chance.random()}", math.nan)
            else:
                place = self.trackers.index(tracker)
                tracker.close()
                self.trackers[place] = Tracker.load(
                    tracker.trial_component.trial_component_name, journal=self.folder, sync="off"
                )

    def close(self):
        """No more calls."""
        for tracker in self.trackers:
            tracker.close()


def model(folder, before_ns, components=COMPONENTS):
    """What must go, by the rules of docs/retention.md, slowly."""
    rows = read(
        folder,
        "SELECT e.seq, e.writer_id, c.name, e.kind, e.name, e.payload, d.outcome, "
        "d.settled_at_ns FROM entry e JOIN component c ON c.id = e.component_id "
        "LEFT JOIN delivery d ON d.seq = e.seq ORDER BY e.seq",
    )
    delivered = {"delivered", "superseded"}
    stays = {seq for (seq,) in read(folder, "SELECT seq FROM field")}
    last_of_writer, last_of_key, last_delivered, doubtful = {}, {}, {}, set()
    for seq, writer, component, kind, name, _payload, outcome, _at in rows:
        last_of_writer[writer] = seq
        if kind in {"parameter", "input", "output"}:
            last_of_key[component, kind, name] = seq
            if outcome in delivered:
                last_delivered[component, kind, name] = seq
        if kind in {"create", "load", "associate", "status"}:
            stays.add(seq)
        if kind == "metric" and outcome == "in doubt":
            doubtful.add((component, name))
    stays |= {*last_of_writer.values(), *last_of_key.values(), *last_delivered.values()}

    def old(row):
        return row[6] in delivered and row[7] < before_ns and row[2] in components

    contents = {
        (row[2], json.loads(row[5])["sha256"])
        for row in rows
        if row[3] in {"input", "output"}
        and "sha256" in json.loads(row[5])
        and (row[0] in stays or not old(row))
    }
    return {
        row[0]
        for row in rows
        if old(row)
        and row[0] not in stays
        and not (row[3] == "metric" and (row[2], row[4]) in doubtful)
        and not (row[3] == "upload" and (row[2], json.loads(row[5])["sha256"]) in contents)
    }


def seqs(folder):
    """Of the entries that are there."""
    return {seq for (seq,) in read(folder, "SELECT seq FROM entry")}


def views(folder):
    """What a person sees of each component, but for the order of first mentions, and how much of
    it is still in the journal.
    """
    found = {name: show(folder, name) for name in COMPONENTS}
    return {
        name: replace(
            view,
            metrics=tuple(replace(m, removed=0) for m in view.metrics),
            **{
                part: tuple(sorted(getattr(view, part), key=_named))
                for part in ("parameters", "inputs", "outputs", "artifacts")
            },
        )
        for name, view in found.items()
    }


def _named(each):
    return each.name, getattr(each, "step", None) or 0, getattr(each, "sha256", None) or ""


def planned_from(folder):
    """What the next plan starts from."""
    with closing(Journal.open(folder, read_only=True)) as journal:
        return read_states(journal.database, [row.id for row in journal.components()])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(max(3, scaled(6))))
def test_exactly_what_the_rules_say_goes_and_everything_else_goes_on(seed, tmp_path):
    """After random calls, syncs and lost answers: what goes is what a model says, nobody sees a
    difference, and all of it verifies.
    """
    folder, chance = tmp_path / "j", random.Random(seed)
    run, remote = Run(folder, tmp_path, seed), MemoryRemote()
    now_ns = time.time_ns()
    for turn in range(4):
        run.go_on(chance.randint(10, 80))
        if chance.random() < 0.5:
            lose_answers(folder, chance.randint(1, 3))
        sync(folder, remote, clock_ns=lambda turn=turn: now_ns + turn * DAY_NS)
        run.go_on(chance.randint(0, 20))
        cutoff, pattern = (
            now_ns + chance.randint(0, turn) * DAY_NS + 1,
            chance.choice([None, "RUN-a"]),
        )
        before, seen, state = seqs(folder), views(folder), planned_from(folder)
        expected = model(folder, cutoff, ("run-a",) if pattern else COMPONENTS)
        assert prune(
            folder, ask=None, delivered_before_ns=cutoff, component=pattern, dry_run=True
        ).entries == len(expected)
        assert seqs(folder) == before
        done = prune(
            folder,
            ask=None,
            delivered_before_ns=cutoff,
            component=pattern,
            blobs_before_ns=chance.choice([None, cutoff]),
        )
        assert before - seqs(folder) == expected
        assert done.entries == len(expected)
        assert views(folder) == seen
        assert planned_from(folder) == state
        assert verify_chains(folder) == []
        assert doctor.examine(folder).healthy
    run.go_on(30)
    run.close()
    report = sync(folder, remote, visible_after_s=0)
    assert report.pending == 0
    assert verify_chains(folder) == []
    found = audit(folder)
    assert found.totals.adds_up
    assert not found.inconsistencies
    everything = read(folder, "SELECT max(seq) FROM entry")[0][0]
    assert found.totals.entries + sum(each.entries for each in found.removals) == everything


@pytest.fixture
def delivered(tmp_path):
    """A journal whose tracker is open, with 300 delivered points, some parameters and an
    artifact; and its remote.
    """
    folder, remote = tmp_path / "j", MemoryRemote()
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off")
    file = tmp_path / "model.bin"
    for step in range(300):
        tracker.log_metric("loss", 1.0 / (step + 1), iteration_number=step)
        if step % 50 == 0:
            tracker.log_parameter("epoch", step)
            file.write_bytes(b"weights %d" % step)
            tracker.log_artifact(file)
    tracker.flush()
    sync(folder, remote)
    yield folder, tracker, remote
    tracker.close()


def test_a_tracker_goes_on_and_is_resumed_and_loaded_after_a_prune(delivered):
    """Open trackers continue their chain, others load and resume the component, and the next
    sync delivers all of it.
    """
    folder, tracker, remote = delivered
    assert prune(folder, ask=None, delivered_before_ns=time.time_ns()).entries == 299 + 3 * 5, (
        "all but the last of each name, and of the process"
    )
    tracker.log_metric("loss", 9.0, iteration_number=300)
    with Tracker.load("run", journal=folder, sync="off") as loaded:
        loaded.log_parameter("epoch", 301)
    with Tracker.create(
        trial_component_name="run", journal=folder, sync="off", resume=True
    ) as resumed:
        resumed.log_metric("loss", 8.0, iteration_number=302)
    report = sync(folder, remote)
    assert (report.pending, report.quarantined) == (0, 0)
    assert [p.value for p in remote.components["run"].points][-2:] == [9.0, 8.0]
    assert len(remote.components["run"].points) == 302
    assert verify_chains(folder) == []
    (metric,) = show(folder, "run").metrics
    assert (metric.points, metric.removed, metric.minimum, metric.maximum, metric.last_value) == (
        302,
        299,
        1 / 300,
        9.0,
        8.0,
    )


def test_an_interrupted_append_finds_its_place_after_a_prune(delivered):
    """What looks its writer's last entry up in the journal finds it: the last entry of a writer
    is never removed.
    """
    folder, tracker, _ = delivered
    prune(folder, ask=None, delivered_before_ns=time.time_ns())
    tracker._journal._inserter.is_unsure = True  # as an exception of a signal handler leaves it
    tracker.log_metric("loss", 9.0)
    assert verify_chains(folder) == []


def test_what_was_removed_is_summed_up_by_the_attestations(delivered):
    """Points, sum, magnitude, extremes, last point and steps of what is gone are what they were."""
    folder, _, _ = delivered
    # the last one is the last entry of its process, and stays
    values = [1.0 / (step + 1) for step in range(299)]
    prune(folder, ask=None, delivered_before_ns=time.time_ns())
    with closing(Journal.open(folder, read_only=True)) as journal:
        (gone,) = removed.metrics(journal.database, "RUN").values()
    assert (gone.points, gone.minimum, gone.maximum) == (299, min(values), max(values))
    assert gone.sum == gone.magnitude == pytest.approx(sum(values))
    assert (gone.last.value, gone.last.step, gone.steps) == (values[-1], 298, (0, 298))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_archive_has_exactly_what_is_gone_and_proves_itself(delivered, tmp_path, suffix):
    """Every removed entry is in it with all of its content: its digests follow from it and from
    what is still in the journal.
    """
    folder, _, _ = delivered
    before = {
        row[0]: row
        for row in read(folder, "SELECT seq, writer_seq, digest, recorded_at_ns FROM entry")
    }
    target = tmp_path / f"gone.{suffix}"
    done = prune(folder, ask=None, delivered_before_ns=time.time_ns(), archive=target)
    with target.open(encoding="utf-8", newline="") as file:
        rows = (
            list(csv.DictReader(file)) if suffix == "csv" else [json.loads(line) for line in file]
        )
    assert {int(row["seq"]) for row in rows} == before.keys() - seqs(folder)
    assert done.archive.rows == len(rows) == done.entries
    assert (
        hashlib.sha256(target.read_bytes()).hexdigest()
        == done.archive.sha256
        == audit(folder).removals[0].archive["sha256"]
    )
    digest_before = {writer_seq: digest for _, writer_seq, digest, _ in before.values()}
    for row in rows if suffix == "jsonl" else ():
        draft = vocabulary.Draft(
            *(
                row[key]
                for key in ("stream", "kind", "name", "value", "step", "timestamp_ns", "payload")
            )
        )
        (digest,) = vocabulary.chain_next_entries(
            digest_before[row["writer_seq"] - 1],
            row["writer_seq"],
            "run",
            [draft],
            row["recorded_at_ns"],
        )
        assert digest.hex() == row["digest"]


def test_without_its_archive_nothing_goes(delivered, tmp_path):
    """An archive that exists, has no folder, or is inside of the journal: an error, and every
    entry is there.
    """
    folder, _, _ = delivered
    before = seqs(folder)
    (tmp_path / "there.csv").write_text("mine")
    for target in (
        tmp_path / "there.csv",
        tmp_path / "nowhere" / "a.csv",
        folder / "a.csv",
        tmp_path / "a.unknown",
    ):
        with pytest.raises(InvalidInputError):
            prune(folder, ask=None, delivered_before_ns=time.time_ns(), archive=target)
        with pytest.raises(InvalidInputError):
            prune(
                folder, ask=None, delivered_before_ns=time.time_ns(), archive=target, dry_run=True
            )
    with pytest.raises(InvalidInputError):
        prune(folder, ask=None)
    assert seqs(folder) == before
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_nobody_prunes_beside_a_sync(delivered):
    """Who holds the lease keeps a prune from beginning."""
    folder, _, _ = delivered
    with closing(Journal.open(folder)) as journal:
        lease = leases.acquire(journal.database)
        with pytest.raises(LeaseHeldError):
            prune(folder, ask=None, delivered_before_ns=time.time_ns())
        lease.release()


def change(folder, *statements):
    """As somebody does who wants to hide something."""
    with without_triggers(folder) as connection:
        for statement in statements:
            connection.execute(statement)


TAMPERING = {
    "an entry more is removed": ["DELETE FROM entry WHERE seq = (SELECT max(seq) - 1 FROM entry)"],
    "the tail is removed": [
        "DELETE FROM delivery WHERE seq > 4",
        "DELETE FROM entry WHERE seq > 4",
    ],
    "the attestation is edited": [
        """UPDATE attestation SET body = replace(body, '"points":', '"points": ') || '' WHERE body LIKE '{"action":"prune"%'""",
        """UPDATE attestation SET body = replace(body, '"before_ns"', '"beforeNs"') WHERE body LIKE '{"action":"prune"%'""",
    ],
    "the attestation is removed": [
        """DELETE FROM attestation WHERE body LIKE '{"action":"prune"%'"""
    ],
    "its digest is changed": [
        """UPDATE attestation SET digest = zeroblob(32) WHERE body LIKE '{"action":"prune"%'"""
    ],
    "a value is changed": ["UPDATE entry SET value = value + 1 WHERE kind = 'metric'"],
    "a settlement is removed": ["DELETE FROM delivery WHERE seq = (SELECT max(seq) FROM delivery)"],
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_after_a_prune_is_found_and_forbids_the_next(delivered, what):
    """What is changed or removed without an attestation shows, and a journal that does not
    verify is not pruned.
    """
    folder, tracker, remote = delivered
    prune(folder, ask=None, delivered_before_ns=time.time_ns())
    for step in range(20):
        tracker.log_metric("loss", 2.0, iteration_number=1000 + step)
    sync(folder, remote)
    assert verify_chains(folder) == []
    change(folder, *TAMPERING[what])
    assert verify_chains(folder)
    before = seqs(folder)
    for dry_run in (True, False):
        with pytest.raises(JournalCorruptError, match="does not verify"):
            prune(folder, ask=None, delivered_before_ns=time.time_ns(), dry_run=dry_run)
    assert seqs(folder) == before


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_golden_journal_can_be_pruned(revision, tmp_path):
    """Journals of older formats, whose receipts nobody attests, are pruned on the record too;
    what they have in doubt stays.
    """
    folder = restore(revision, tmp_path / "j")
    sync(folder, MemoryRemote(), visible_after_s=0, create_or_attach=True)
    with closing(Journal.open(folder)) as journal:
        lease = leases.acquire(journal.database)
        in_doubt.decide(Attestor(journal.database, lease), "delivered", "for the test", None)
        lease.release()
    before = Counter(
        read(folder, "SELECT d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq")
    )
    assert (
        prune(
            folder, ask=None, delivered_before_ns=time.time_ns(), archive=tmp_path / "a.jsonl"
        ).entries
        > 0
    )
    after = Counter(
        read(folder, "SELECT d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq")
    )
    lost = {outcome for (outcome,), entries in (before - after).items() if entries}
    assert lost <= {"delivered", "superseded"}
    assert verify_chains(folder) == []
    assert doctor.examine(folder).healthy


def test_points_in_doubt_are_read_back_rightly_after_a_prune(delivered):
    """Totals count what was removed; of a step whose points may be gone nothing is concluded, in
    either direction.
    """
    folder, tracker, remote = delivered
    prune(folder, ask=None, delivered_before_ns=time.time_ns())
    there = [(250, 5.0), (400, 6.0)]  # one step among the removed ones, one beyond: both arrive
    for step, value in there:
        tracker.log_metric("loss", value, iteration_number=step)
    lose_answers(folder, 2)
    remote.put_metrics(
        "run", [MetricPoint("loss", value, step, time.time_ns()) for step, value in there]
    )
    report = sync(folder, remote, visible_after_s=0)
    assert (report.arrived, report.not_arrived) == (2, 0)
    for step, value in ((251, 7.0), (401, 8.0)):  # neither arrives
        tracker.log_metric("loss", value, iteration_number=step)
    lose_answers(folder, 2)
    report = sync(folder, remote, visible_after_s=0)
    assert (report.arrived, report.not_arrived, report.pending) == (0, 2, 0)
    tracker.log_metric("loss", 9.0, iteration_number=10)
    tracker.log_metric("loss", 9.5, iteration_number=11)
    lose_answers(folder, 2)
    remote.put_metrics("run", [MetricPoint("loss", 9.0, 10, time.time_ns())])
    report = sync(folder, remote, visible_after_s=0)
    assert (report.arrived, report.not_arrived) == (0, 0), (
        "one of two arrived, and by step nothing can be told"
    )
    assert verify_chains(folder) == []
    assert prune(folder, ask=None, delivered_before_ns=time.time_ns()).stays["counted"] > 0


def test_a_foreign_summary_counts_for_nothing(delivered):
    """Members of any type in a crafted attestation are left out, and raise nothing."""
    folder, _, _ = delivered
    prune(folder, ask=None, delivered_before_ns=time.time_ns())
    for member in (
        "1",
        "[1]",
        '[["run"]]',
        '[["run","loss",1,"x",0,0,0,[1,1,1,1],null]]',
        '[["run","loss",1,1e999,0,0,0,[1,1,1,1],null]]',
        "null",
    ):
        body = f'{{"action":"prune","metrics":{member},"counts":{member},"blobs":{member},"archive":{member},"started_at_ns":{member}}}'
        change(
            folder,
            f"UPDATE attestation SET body = '{body}' WHERE id = (SELECT max(id) FROM attestation)",
        )
        with closing(Journal.open(folder, read_only=True)) as journal:
            removed.metrics(journal.database)
            removed.removals(journal.database)
        assert show(folder, "run") is not None
        audit(folder).to_json()
        assert verify_chains(folder)


@pytest.mark.parametrize("places", [(5, 4), (5, 5.5), (0, 3), ("5", "6"), (5, None)])
def test_a_forged_gap_that_leads_nowhere_is_found(delivered, places):
    """Whoever forges a removal with a chain of its own that fits, but with places that make no
    sense, keeps no verification busy.
    """
    folder, _, _ = delivered
    with closing(Journal.open(folder)) as journal:
        lease = leases.acquire(journal.database)
        attestor = Attestor(journal.database, lease)
        uuid = journal.database.read("SELECT uuid FROM writer ORDER BY id LIMIT 1")[0][0]
        more = {"removed": [[uuid, *places, "00" * 32]]}
        with attestor.transaction() as connection:
            attestor.attest(
                connection,
                [
                    Statement(
                        "prune",
                        "removed",
                        None,
                        (),
                        1,
                        lease.generation,
                        started_at_ns=1,
                        more=more,
                    )
                ],
            )
        lease.release()
    change(folder, "DELETE FROM delivery WHERE seq = 6", "DELETE FROM entry WHERE seq = 6")
    assert {problem.kind for problem in verify_chains(folder)} >= {"attestation", "gap"}


def test_what_was_never_delivered_can_not_be_removed_on_the_record(delivered):
    """A removal of pending entries that somebody forged, gap and all, contradicts what is
    attested of their delivery.
    """
    folder, tracker, _ = delivered
    tracker.log_metric("loss", 1.0)
    tracker.log_metric("loss", 2.0)
    with closing(Journal.open(folder)) as journal:
        seq, uuid, place, digest = journal.database.read(
            "SELECT e.seq, w.uuid, e.writer_seq, hex(e.digest) FROM entry e "
            "JOIN writer w ON w.id = e.writer_id ORDER BY e.seq DESC LIMIT 1 OFFSET 1"
        )[0]
        lease = leases.acquire(journal.database)
        attestor = Attestor(journal.database, lease)
        more = {"removed": [[uuid, place, place, digest]]}
        with attestor.transaction() as connection:
            attestor.attest(
                connection,
                [
                    Statement(
                        "prune",
                        "removed",
                        None,
                        (),
                        1,
                        lease.generation,
                        started_at_ns=1,
                        more=more,
                    )
                ],
            )
        lease.release()
    assert [problem.kind for problem in verify_chains(folder)] == ["gap"]
    change(folder, f"DELETE FROM entry WHERE seq = {seq}")
    assert [
        problem.message
        for problem in verify_chains(folder)
        if "nobody attests that they had been delivered" in problem.message
    ]


def test_a_journal_that_is_not_there_is_not_made(tmp_path):
    """A prune of nothing is an error."""
    with pytest.raises(JournaltrackError):
        prune(tmp_path / "none", ask=None, delivered_before_ns=1)
    assert not (tmp_path / "none").exists()


def test_a_pruned_journal_can_be_rebuilt(delivered, tmp_path):
    """A rebuilt database has what was left and the record of what was not: it verifies, and says
    why numbers are missing.
    """
    folder, tracker, _ = delivered
    tracker.close()
    gone = prune(folder, ask=None, delivered_before_ns=time.time_ns()).entries
    (tmp_path / "again").mkdir()
    rebuilt = salvage(folder, tmp_path / "again" / "journal.db", now_ns=time.time_ns())
    assert f"{gone} of them removed on the record" in str(rebuilt)
    (folder / "spool").rename(tmp_path / "again" / "spool")
    assert verify_chains(tmp_path / "again") == []
    assert [
        f.message
        for f in doctor.examine(tmp_path / "again").findings
        if "on the record" in f.message
    ]
