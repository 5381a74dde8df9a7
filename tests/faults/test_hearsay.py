"""What others say of deliveries: told apart from what was done here, and believed by a prune
only at the operator's word.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import BundleDamagedError, InvalidInputError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.taken import Origin, record
from journaltrack.reports.proof import hearsay
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.transfer.bundle.arrival import bring
from journaltrack.transfer.bundle.pack import bundle
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from tests.copies import read, sound, sync
from tests.faults.bundles import crafted

POINTS = 30
LATER_NS = 2**62


@pytest.fixture
def node(tmp_path):
    """A journal with points and an artifact that nobody has sent."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "node", sync="off"
    ) as tracker:
        for step in range(POINTS):
            tracker.log_metric("loss", float(step), iteration_number=step)
        tracker.log_artifact(tmp_path / "model.bin")
    return tmp_path / "node"


def copied(node, folder):
    """The journal as somebody else gets it: in a bundle."""
    bundle(node, to=folder.with_suffix(".bundle"))
    return bring(folder.with_suffix(".bundle"), into=folder).folder


def forge(folder):
    """Everything counts as delivered, to a remote that is nobody's, and the evidence for that
    proves itself.
    """
    sync(folder, MemoryRemote())
    sound(folder)
    return folder


def entries(folder):
    """How many there are."""
    return read(folder, "SELECT count(*) FROM entry")[0][0]


def pruned(folder, *trust):
    """How many entries a prune that asks nobody removes."""
    return prune(folder, ask=None, trust=trust, delivered_before_ns=LATER_NS)


def test_made_up_receipts_are_told_apart_and_remove_nothing(node, tmp_path):
    """Receipts of somebody who sent nothing: the audit names them and counts what is theirs
    alone; a prune needs the operator's word.
    """
    forged = forge(copied(node, tmp_path / "elsewhere"))
    made = export_receipts(forged, to=tmp_path / "made-up.receipts")
    import_receipts(tmp_path / "made-up.receipts", node)
    sound(node)
    (told,) = audit(node).hearsay
    assert (told.kind, told.id, told.entries) == ("receipts", made.sha256, entries(node))
    assert audit(node).to_json()["hearsay"][0]["entries"] == told.entries
    before = entries(node)
    stayed = pruned(node)
    assert (stayed.entries, entries(node)) == (0, before)
    assert stayed.stays["hearsay"] >= POINTS - 1
    assert [each.id for each in stayed.hearsay] == [made.sha256]
    for wrong in ("0" * 16, made.sha256[:7], "nobody-known"):
        with pytest.raises(InvalidInputError):
            pruned(node, wrong)
    assert entries(node) == before
    assert pruned(node, made.sha256[:16]).entries >= POINTS - 1
    sound(node)


@pytest.mark.parametrize("at", ["NULL", "'yesterday'", "1.5"])
def test_an_impossible_time_hides_no_hearsay(node, tmp_path, at):
    """A receipt whose time somebody replaced still names whose word it is: every reading of the
    journal gets an answer.
    """
    forged = forge(copied(node, tmp_path / "elsewhere"))
    export_receipts(forged, to=tmp_path / "made-up.receipts")
    import_receipts(tmp_path / "made-up.receipts", node)
    told = [each.id for each in audit(node).hearsay]
    with closing(sqlite3.connect(node / "journal.db", isolation_level=None)) as connection:
        connection.executescript("DROP TRIGGER receipt_settled_once")
        connection.execute(f"UPDATE receipt SET finished_at_ns = {at} WHERE action = 'taken'")
    assert [each.id for each in audit(node).hearsay] == told != []


def test_what_was_done_here_is_no_hearsay(node, tmp_path):
    """What this journal's own passes delivered goes, whatever others say of it too; what they
    alone say stays.
    """
    other, nobodys = copied(node, tmp_path / "elsewhere"), MemoryRemote()
    sync(other, nobodys)
    sync(node, MemoryRemote())
    with Tracker.load("run", journal=node, sync="off") as tracker:
        tracker.log_metric("late", 1.0)
        tracker.log_metric("late", 2.0)
    bundle(node, to=tmp_path / "second.bundle")
    bring(tmp_path / "second.bundle", into=other.parent)
    sync(other, nobodys)
    made = export_receipts(other, to=tmp_path / "made-up.receipts")
    import_receipts(tmp_path / "made-up.receipts", node)
    (told,) = audit(node).hearsay
    assert told.id == made.sha256
    assert told.entries < 6
    assert pruned(node).entries == POINTS
    assert read(node, "SELECT count(*) FROM entry WHERE name = 'late'")[0][0] == 2


def test_a_bundle_that_says_it_was_all_delivered_is_not_believed(node, tmp_path):
    """A first bundle and a later one of a journal whose maker made deliveries up: all of it is
    hearsay of the bundle.
    """
    place = tmp_path / "arrived"
    bundle(node, to=tmp_path / "first.bundle")
    folder = bring(tmp_path / "first.bundle", into=place).folder
    assert audit(folder).hearsay == ()
    forge(node)
    bundle(node, to=tmp_path / "second.bundle")
    assert bring(tmp_path / "second.bundle", into=place).folder == folder
    assert [(told.kind, told.entries) for told in audit(folder).hearsay] == [
        ("bundle", entries(folder))
    ]
    assert pruned(folder).entries == 0
    fresh = bring(tmp_path / "second.bundle", into=tmp_path / "fresh").folder
    assert [(told.kind, told.entries) for told in audit(fresh).hearsay] == [
        ("bundle", entries(fresh))
    ]
    assert pruned(fresh).entries == 0
    assert pruned(fresh, hearsay.ALL).entries >= POINTS - 1
    sound(folder)


def test_a_merge_takes_nobodys_word(node, tmp_path):
    """What a merged journal says was delivered is hearsay of that journal."""
    forge(node)
    merge([node], into=tmp_path / "all")
    (told,) = audit(tmp_path / "all").hearsay
    assert (told.kind, told.entries) == ("journal", entries(node))
    assert told.id == audit(node).journal_id
    assert pruned(tmp_path / "all").entries == 0


def test_nobody_vouches_for_himself(node, tmp_path):
    """A forged record that calls the forger's own receipts those of somebody whom the operator
    trusts changes nothing.
    """
    trusted = tmp_path / "trusted.receipts"
    export_receipts(copied(node, tmp_path / "friend"), to=trusted)
    forged = forge(copied(node, tmp_path / "elsewhere"))
    with closing(Journal.open(forged)) as journal:
        lease = leases.acquire(journal.database)
        attestor = Attestor(journal.database, lease)
        heads = journal.database.read(
            "SELECT w.uuid, max(a.writer_seq) FROM attestation a "
            "JOIN writer w ON w.id = a.writer_id GROUP BY 1"
        )
        with attestor.transaction() as connection:
            record(
                connection,
                attestor,
                Origin("receipts", "a" * 64),
                {uuid: (1, last) for uuid, last in heads},
            )
        lease.release()
    made = export_receipts(forged, to=tmp_path / "made-up.receipts")
    import_receipts(tmp_path / "made-up.receipts", node)
    assert [told.id for told in audit(node).hearsay] == [made.sha256]
    with pytest.raises(InvalidInputError):
        pruned(node, "a" * 64)


def test_a_spool_makes_no_room_for_hearsay(node, tmp_path, monkeypatch):
    """A spool at its limit gives up no content because others say that it was uploaded."""
    from journaltrack.retention.plan import make_room

    machine = copied(node, tmp_path / "elsewhere")
    sync(machine, MemoryRemote())
    export_receipts(machine, to=tmp_path / "receipts")
    import_receipts(tmp_path / "receipts", node)
    later = time.time_ns() + 10**13
    assert audit(node).hearsay[0].contents == 1
    assert make_room(node, 1, clock_ns=lambda: later) == 0
    young = prune(node, ask=None, trust=[hearsay.ALL], blobs_before_ns=later)
    assert (young.blobs, young.blobs_hearsay, young.blobs_recent) == (0, 0, 1)
    stayed = prune(node, ask=None, blobs_before_ns=later, clock_ns=lambda: later)
    assert stayed.blobs_recent == 0
    assert (stayed.blobs, stayed.blobs_hearsay) == (0, 1)
    assert (
        prune(
            node, ask=None, trust=[hearsay.ALL], blobs_before_ns=later, clock_ns=lambda: later
        ).blobs
        == 1
    )


def test_the_commands_name_whose_word_it_is(node, tmp_path, capsys):
    """`audit` and `prune` say what counts as delivered because of whom, and `--trust` takes what
    they name.
    """
    machine = copied(node, tmp_path / "elsewhere")
    sync(machine, MemoryRemote())
    made = export_receipts(machine, to=tmp_path / "receipts")
    import_receipts(tmp_path / "receipts", node)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    for command in (["status", node], ["show", "run", "--journal", node], ["audit", node]):
        _, out, _ = run(*command)
        assert (
            f"{entries(node)} entries and 1 content count as delivered because the receipts "
            f"{made.sha256[:16]} say" in out
        )
        found = json.loads(run(*command, "--json")[1])
        assert [each["id"] for each in found.get("journals", [found])[0]["hearsay"]] == [
            made.sha256
        ]
    code, out, _ = run("audit", node)
    assert code == 0
    assert f"count as delivered because the receipts {made.sha256[:16]} say" in out
    assert json.loads(run("audit", node, "--json")[1])["hearsay"][0]["id"] == made.sha256
    _, out, err = run("prune", node, "--delivered-before", "0s", "--unasked")
    assert "removed 0 entries" in out
    assert f"--trust {made.sha256[:16]}" in err
    code, out, _ = run(
        "prune", node, "--delivered-before", "0s", "--unasked", "--trust", made.sha256[:16]
    )
    assert (code, f"removed {POINTS} entries" in out) == (0, True)
    assert (
        run("prune", node, "--delivered-before", "0s", "--unasked", "--trust", "12345678")[0] == 2
    )


def test_a_bundle_may_not_leave_out_what_is_pending(node, tmp_path):
    """A manifest that leaves out a content which an undelivered artifact needs, or does not
    mention it, is refused; nothing was taken.
    """
    (digest,) = [sha256 for (sha256,) in read(node, "SELECT sha256 FROM blob")]
    with closing(Journal.open(node)) as journal:
        journal.database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        known = {"journal_id": journal.journal_id, "last_seq": journal.last_seq()}
    database = (node / "journal.db").read_bytes()
    for number, changes in enumerate(({"left_out": (digest,)}, {})):
        path = crafted(tmp_path / f"{number}.bundle", database, **known, **changes)
        with pytest.raises(BundleDamagedError, match="leaves out"):
            bring(path, into=tmp_path / "arrived")
        assert not [each for each in (tmp_path / "arrived").iterdir() if each.is_dir()]
