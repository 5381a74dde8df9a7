"""Merges and imports of receipts in a journal that is in use: killed at any moment, and beside a
training.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.doctor.examination import examine
from journaltrack.errors import JournalBehindError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.in_doubt import decide
from journaltrack.replay.evidence.outcomes import Delivery, Intent, Outcome, Settlement
from journaltrack.reports.report import audit
from journaltrack.reports.status import status
from journaltrack.retention.prune import prune
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from tests import tally
from tests.copies import content, points, read, record, sound, states, sync
from tests.faults.disktrace import Killing, supported
from tests.patience import scaled
from tests.processes import ENVIRONMENT

KILLS = scaled(8)
WHY_NOT = supported()
SIZE = 50
SMALL = (
    "import sys; from journaltrack.replay.evidence import attestations; attestations._FIRST = "
    f"attestations._MIN = attestations._MAX = {SIZE}\n"
)
MERGE = (
    SMALL + "from journaltrack.transfer.merge import merge; merge([sys.argv[1]], into=sys.argv[2])"
)
IMPORT = (
    SMALL + "from journaltrack.transfer.receipts import import_receipts; "
    "import_receipts(sys.argv[1], sys.argv[2])"
)
SETTLE_BY_HAND = """
from journaltrack.journal.journal import Journal
from journaltrack.replay.evidence import in_doubt as doubts; from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Settlement
journal = Journal.open(sys.argv[2])
lease = leases.acquire(journal.database)
{}
lease.release()
journal.close()
"""
RELEASE = SMALL + SETTLE_BY_HAND.format("Settlement(journal.database, lease).release(['in doubt'])")
DECIDE = SMALL + SETTLE_BY_HAND.format(
    "doubts.decide(Attestor(journal.database, lease), 'delivered', 'seen', None)"
)
REOPEN = SMALL + SETTLE_BY_HAND.format(
    "Settlement(journal.database, lease).reopen(1, [seq for (seq,) in "
    'journal.database.read("SELECT seq FROM entry WHERE component_id = 1 '
    "AND stream = 'metric'\")], 'gone', absent=True)"
)
IN_STEPS = """
import contextlib
from journaltrack.replay.evidence.attestations import Turns
whole = Turns.transaction
@contextlib.contextmanager
def told(self):
    with whole(self) as connection:
        changes = connection.total_changes
        yield connection
        changes = connection.total_changes - changes
    print(changes, flush=True)
    sys.stdin.readline()
Turns.transaction = told
"""


def settled(folder, work):
    """What a pass records."""
    with closing(Journal.open(folder, create=False)) as journal:
        lease = leases.acquire(journal.database)
        try:
            return work(Settlement(journal.database, lease))
        finally:
            lease.release()


def in_doubt(folder, seqs):
    """A request was sent, and its answer lost."""

    def work(settlement):
        requests = [seqs[start : start + 10] for start in range(0, len(seqs), 10)]
        receipts = settlement.begin([Intent("metrics", 1, request) for request in requests])
        lost = [[Delivery(seq, "in doubt", "no answer") for seq in request] for request in requests]
        settlement.finish(
            [
                Outcome(r, 1, "in doubt", deliveries=each)
                for r, each in zip(receipts, lost, strict=True)
            ]
        )

    settled(folder, work)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A journal of several components and processes, a copy of it with entries in all states,
    and what that sent.
    """
    root = tmp_path_factory.mktemp("delivered")
    for turn in range(3):
        record(
            root / "origin",
            *points(*range(300 * turn, 300 * turn + 300)),
            vocabulary.parameter("x", float(turn)),
        )
        record(
            root / "origin",
            *points(*range(-50 * turn - 50, -50 * turn)),
            vocabulary.parameter("y", float(turn)),
            component="b",
        )
    shutil.copytree(root / "origin", root / "copy")
    in_doubt(root / "copy", range(10, 200))
    in_doubt(root / "copy", range(360, 460, 2))
    settled(root / "copy", lambda settlement: settlement.release(["in doubt"]))
    in_doubt(root / "copy", range(10, 100))
    remote = MemoryRemote()
    sync(root / "copy", remote)
    record(
        root / "copy",
        *points(1e6, 1e6 + 1),
        vocabulary.metric("m", float("nan"), None, 1),
        vocabulary.parameter("x", 9.0),
    )
    settled(
        root / "copy",
        lambda settlement: settlement.begin(
            [Intent("metrics", 1, [read(root / "copy", "SELECT max(seq) - 3 FROM entry")[0][0]])]
        ),
    )
    record(root / "other", *points(7e6), component="c")
    export_receipts(root / "copy", to=root / "receipts")
    return root, remote


def sent(remote):
    """How often each point was sent."""
    found = {}
    for component in remote.components.values():
        for point in component.points:
            found[point.value] = found.get(point.value, 0) + 1
    return found


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize(
    ("program", "target"),
    [(MERGE, "other"), (MERGE, "origin"), (IMPORT, "origin")],
    ids=["merge", "merge of a copy", "import"],
)
def test_a_kill_leaves_nothing_that_is_not_so(delivered, tmp_path, program, target):
    """SIGKILL before random changes of files: all chains and tables hold, nothing that was sent is
    pending unless that is known, nothing is delivered of which that is not attested; a pass and a
    prune of that do no harm, and the next run completes it.
    """
    root, _ = delivered
    source = root / ("copy" if program is MERGE else "receipts")
    killing = Killing(program, tmp_path)
    before, there = content(root / target), content(root / "copy")
    shutil.copytree(root / target, tmp_path / "reference")
    changes = killing.changes(tmp_path / "reference", source, tmp_path / "reference")
    wanted = content(tmp_path / "reference")
    cut = 0
    for number, at in enumerate([*random.Random(1).sample(range(1, changes), KILLS - 1), changes]):
        folder = tmp_path / str(number)
        shutil.copytree(root / target, folder)
        assert killing.killed(folder, source, folder, at=at)
        found = content(folder)
        cut += found not in (before, wanted)
        told = unfinished(folder)
        for key, (digest, state) in found.items():
            assert digest == wanted[key][0]
            assert state in {before.get(key, there.get(key))[1], wanted[key][1], "in doubt"} or told
            assert (
                state != "pending"
                or "pending" in {before.get(key, wanted[key])[1], wanted[key][1]}
                or told
            )
        sound(folder)
        harmed = tmp_path / "harmed"
        shutil.copytree(folder, harmed)
        remote = MemoryRemote()
        with contextlib.suppress(JournalBehindError):
            sync(harmed, remote)
        if target == "other":  # all that was sent by the source is sent by it alone
            assert not {value for value in sent(remote) if value not in {7e6, 1e6 + 1}}
        prune(harmed, ask=None, trust=("all",), delivered_before_ns=4 * 10**18, compact=False)
        assert killing.killed(harmed, source, harmed, at=None) is False
        sound(harmed)
        shutil.rmtree(harmed)
        assert not killing.killed(folder, source, folder, at=None)
        assert content(folder) == wanted
        sound(folder)
        tally.count("merges and imports of receipts, killed", attacks=1, checked=len(wanted))
        shutil.rmtree(folder)
    assert cut > 0


@pytest.mark.parametrize(
    "program",
    [MERGE, IMPORT, RELEASE, DECIDE, REOPEN],
    ids=["merge", "import", "release", "settle", "reopen"],
)
def test_a_training_logs_between_any_two_transactions(delivered, tmp_path, program):
    """However much there is to do, the write lock is free after each few rows: every call
    between two of them is committed at once.
    """
    root, _ = delivered
    target = tmp_path / "j"
    shutil.copytree(root / ("copy" if program is REOPEN else "origin"), target)
    if program in {RELEASE, DECIDE}:
        in_doubt(target, range(10, 300))
    source = root / ("receipts" if program is IMPORT else "copy")
    command = [sys.executable, "-c", program.replace("\n", IN_STEPS, 1), str(source), str(target)]
    tracker = Tracker.create(trial_component_name="live", journal=target, sync="off")
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as running:
            steps = 0
            for line in running.stdout:
                tracker.log_metric("live", float(steps))
                steps += 1
                assert read(
                    target, "SELECT value FROM entry WHERE name = 'live' ORDER BY seq DESC LIMIT 1"
                ) == [(steps - 1.0,)]
                assert int(line) <= 1_000  # one release names 240 entries
                running.stdin.write("\n")
                running.stdin.flush()
        assert running.returncode == 0
        assert steps >= 5
    finally:
        tracker.close()
    sound(target)
    assert [
        value
        for (value,) in read(target, "SELECT value FROM entry WHERE name = 'live' ORDER BY seq")
    ] == [float(n) for n in range(steps)]


def is_killed_after(step, program, *arguments):
    """Kill the program after so many of its transactions; whether it got so far."""
    command = [sys.executable, "-c", program.replace("\n", IN_STEPS, 1), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as running:
        for number, _ in enumerate(running.stdout, 1):
            if number == step:
                running.kill()
            else:
                running.stdin.write("\n")
                running.stdin.flush()
    assert running.returncode in {0, -signal.SIGKILL}
    return running.returncode != 0


def finish(program, source, folder):
    """Run a program's merge or import to its end."""
    if program is MERGE:
        merge([source], into=folder)
    else:
        import_receipts(source, folder)


def unfinished(folder):
    """What a journal says of merges that were killed; audit, status and doctor say the same."""
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        found = [each.what.text for each in taken.unfinished(journal.database)]
    assert (
        [each.text for each in audit(folder).unfinished]
        == [each.text for each in status(folder).unfinished]
        == found
    )
    assert [
        each.message for each in examine(folder).findings if "not finished" in each.message
    ] == found
    return found


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Journals that were merged once, and went on, and what their remote has.

    One has removed on the record what it delivered; the other one was killed while a request was
    under way, and nobody attests what became of it.
    """
    root, remote = tmp_path_factory.mktemp("grown"), MemoryRemote()
    for name, first in (("pruned", 0), ("flying", 1_000)):
        record(
            root / name,
            *points(*range(first, first + 60)),
            vocabulary.parameter("x", 1.0),
            component=name,
        )
    record(root / "fresh", *points(7_000), component="c")
    for name, target in (("pruned", "again"), ("flying", "beside")):
        shutil.copytree(root / "fresh", root / target)
        merge([root / name], into=root / target)
    shutil.copytree(root / "pruned", root / "behind")
    for name, first in (("pruned", 100), ("flying", 1_100)):
        record(
            root / name,
            *points(*range(first, first + 60)),
            vocabulary.parameter("x", 2.0),
            component=name,
        )
        sync(root / name, remote)
    prune(root / "pruned", ask=None, delivered_before_ns=4 * 10**18, compact=False)
    for name, first in (("pruned", 200), ("flying", 1_200)):
        record(root / name, *points(*range(first, first + 30)), component=name)
    under_way = [
        seq
        for (seq,) in read(
            root / "flying", "SELECT seq FROM entry WHERE value BETWEEN 1200 AND 1209"
        )
    ]
    settled(root / "flying", lambda settlement: settlement.begin([Intent("metrics", 1, under_way)]))
    export_receipts(root / "pruned", to=root / "receipts")
    return root, {*sent(remote), *range(1_200, 1_210)}


@pytest.mark.parametrize(
    ("program", "source", "target"),
    [
        (MERGE, "pruned", "fresh"),
        (MERGE, "pruned", "again"),
        (MERGE, "flying", "beside"),
        (IMPORT, "receipts", "behind"),
    ],
)
def test_a_merge_that_was_killed_sends_nothing_until_it_is_finished(
    grown, tmp_path, program, source, target
):
    """SIGKILL between any two transactions: everything is as it was written, nothing leaves
    until the merge is run again, and nothing twice then.
    """
    root, gone_out = grown
    shutil.copytree(root / target, tmp_path / "whole")
    finish(program, root / source, tmp_path / "whole")
    wanted, known = content(tmp_path / "whole"), 0
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        shutil.copytree(root / target, folder)
        if not is_killed_after(step, program, root / source, folder):
            break
        sound(folder)
        before, remote = content(folder), MemoryRemote()
        if unfinished(folder):
            known += 1
            with pytest.raises(JournalBehindError, match="is not finished"):
                sync(folder, remote)
            assert (sent(remote), content(folder)) == ({}, before)
        finish(program, root / source, folder)
        assert (content(folder), unfinished(folder)) == (wanted, [])
        sound(folder)
        assert sync(folder, remote).altered is None
        assert not gone_out & sent(remote).keys()
    assert known >= 3
    tally.count("merges and imports of receipts, killed", attacks=step, checked=known * len(wanted))


def test_a_source_that_is_lost_is_given_up(grown, tmp_path):
    """At the operator's word a journal whose merge was killed is sent as it is known; it is not
    called altered, and needs no word again.
    """
    root, _ = grown
    shutil.copytree(root / "fresh", tmp_path / "j")
    assert is_killed_after(3, MERGE, root / "pruned", tmp_path / "j")
    assert unfinished(tmp_path / "j")
    remote = MemoryRemote()
    assert sync(tmp_path / "j", remote, even_if_behind=True).altered is None
    assert sent(remote)[7_000] == 1
    sound(tmp_path / "j")
    record(tmp_path / "j", *points(7_001), component="c")
    sync(tmp_path / "j", remote)
    assert sent(remote)[7_001] == 1
    assert unfinished(tmp_path / "j") == []
    merge([root / "pruned"], into=tmp_path / "j")
    sound(tmp_path / "j")


def test_a_merge_of_what_is_not_finished_is_not_finished(grown, tmp_path):
    """Who merges a journal whose own merge was killed does not know either what was sent;
    finishing the first one finishes the second.
    """
    root, gone_out = grown
    shutil.copytree(root / "again", tmp_path / "one")
    assert is_killed_after(3, MERGE, root / "pruned", tmp_path / "one")
    merge([tmp_path / "one"], into=tmp_path / "two")
    assert unfinished(tmp_path / "two")
    with pytest.raises(JournalBehindError):
        sync(tmp_path / "two", MemoryRemote())
    merge([root / "pruned"], into=tmp_path / "one")
    merge([tmp_path / "one"], into=tmp_path / "two")
    assert unfinished(tmp_path / "one") == unfinished(tmp_path / "two") == []
    remote = MemoryRemote()
    sync(tmp_path / "two", remote)
    assert not {value for value in gone_out if value < 1_000} & sent(remote).keys()
    sound(tmp_path / "two")


def test_what_a_person_decided_in_a_copy_comes_along(tmp_path):
    """A point in doubt that was settled by hand in a copy is settled in the original after a
    merge.
    """
    record(tmp_path / "j", *points(1))
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    in_doubt(tmp_path / "copy", [2])
    with closing(Journal.open(tmp_path / "copy", create=False)) as journal:
        lease = leases.acquire(journal.database)
        assert decide(Attestor(journal.database, lease), "delivered", "seen", None) == 1
        lease.release()
    merge([tmp_path / "copy"], into=tmp_path / "j")
    assert states(tmp_path / "j") == {"pending": 1, "delivered": 1}
    sound(tmp_path / "j")
