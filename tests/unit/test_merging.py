"""Merging journals: all that was recorded, all that became of it, once."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil

import pytest

from journaltrack.errors import (
    EvidenceError,
    InvalidInputError,
    JournalNotFoundError,
    LeaseHeldError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.insert import INSERT_ENTRY
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.evidence.statements import RELEASED
from journaltrack.reports.component import show
from journaltrack.reports.report import audit
from journaltrack.retention.prune import prune
from journaltrack.transfer.merge import bring, merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from tests.copies import change, content, points, read, record, sound, states, sync, verify_chains
from tests.golden import restore

SECOND_NS = 10**9
START_NS = 1_900_000_000 * SECOND_NS


def with_blob(folder, data, name="f"):
    """An artifact in a journal; its digest."""
    folder.mkdir(exist_ok=True, mode=0o700)
    file = folder.parent / "artifact"
    file.write_bytes(data)
    blob = Spool(folder / "spool").add(file)
    journal = Journal.open(folder)
    journal.add_blob(blob.sha256, blob.size_bytes)
    ref = BlobRef(blob.sha256, None, None)
    drafts = [
        vocabulary.create(owner="owner of a", resume=True),
        vocabulary.upload(name, ref, blob.size_bytes, None, name),
    ]
    journal.append(
        journal.component("a"), [*drafts, vocabulary.artifact("output", name, ref, None)]
    )
    journal.close()
    return blob.sha256


def test_a_fleet_is_one_journal_then(tmp_path):
    """All entries of all nodes are there once, pending, sound, and can be synced from there."""
    for node in range(3):
        record(tmp_path / f"node-{node}", *points(*range(5)), component=f"of-{node}")
        record(tmp_path / f"node-{node}", *points(node), component="shared")
    nodes = [tmp_path / f"node-{node}" for node in range(3)]
    before = [content(node) for node in nodes]
    done = merge(nodes, into=tmp_path / "all")
    assert (done.created, done.entries, done.pending) == (True, 24, 24)
    assert content(tmp_path / "all") == {**before[0], **before[1], **before[2]}
    assert [content(node) for node in nodes] == before
    sound(tmp_path / "all")
    remote = MemoryRemote()
    assert sync(tmp_path / "all", remote).pending == 0
    assert sorted(p.value for p in remote.components["shared"].points) == [0, 1, 2]
    assert not merge(nodes, into=tmp_path / "all").changed
    assert states(tmp_path / "all") == {"delivered": 24}


def test_values_of_several_nodes_are_in_the_order_of_their_time(tmp_path):
    """Of a key that two nodes set in turn, the last value is the last one recorded, whatever the
    order of the sources.
    """
    for turn in range(6):
        record(
            tmp_path / f"node-{turn % 2}",
            vocabulary.parameter("x", float(turn)),
            at_ns=START_NS + turn * SECOND_NS,
        )
    for name, order in (("one", (0, 1)), ("two", (1, 0))):
        merge([tmp_path / f"node-{node}" for node in order], into=tmp_path / name)
        found = read(
            tmp_path / name, "SELECT value FROM entry WHERE kind = 'parameter' ORDER BY seq"
        )
        assert [value for (value,) in found] == [0, 1, 2, 3, 4, 5]
        sound(tmp_path / name)


def test_a_process_stays_in_its_order_beside_a_clock_that_was_ahead(tmp_path):
    """What the second source brings of a process comes after what the first one brings of it,
    though the first one's times are ahead.
    """
    now = itertools.count(START_NS, SECOND_NS)
    journal = Journal.open(tmp_path / "two", clock_ns=lambda: next(now))
    component = journal.component("a")
    journal.append(component, points(1))
    journal.flush()
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    record(tmp_path / "one", *points(100), at_ns=START_NS + 10_000 * SECOND_NS)
    journal.append(component, points(2))
    journal.flush()
    bring(tmp_path / "two", tmp_path / "one")
    for value in (3, 4):
        journal.append(component, points(value))
    journal.close()
    merge([tmp_path / "one", tmp_path / "two"], into=tmp_path / "all")
    assert [
        value
        for (value,) in read(
            tmp_path / "all", "SELECT value FROM entry WHERE kind = 'metric' ORDER BY seq"
        )
    ] == [1, 100, 2, 3, 4]
    sound(tmp_path / "all")


def test_merging_again_brings_the_rest(tmp_path):
    """What a node records and delivers after a merge comes with the next one."""
    record(tmp_path / "node", *points(1, 2))
    merge([tmp_path / "node"], into=tmp_path / "all")
    record(tmp_path / "node", *points(3))
    sync(tmp_path / "node", MemoryRemote())
    done = merge([tmp_path / "node"], into=tmp_path / "all")
    assert (done.sources[0].entries, done.sources[0].known, done.pending) == (2, 3, 0)
    assert content(tmp_path / "all") == content(tmp_path / "node")
    sound(tmp_path / "all")


def test_the_same_journal_twice_and_copies_of_it_are_one(tmp_path):
    """A copy that is behind, the same folder twice: each entry is there once, with what became
    of it.
    """
    record(tmp_path / "node", *points(1, 2))
    shutil.copytree(tmp_path / "node", tmp_path / "behind")
    record(tmp_path / "node", *points(3))
    sync(tmp_path / "node", MemoryRemote())
    merge(
        [tmp_path / "behind", tmp_path / "node", tmp_path / "node", tmp_path / "behind"],
        into=tmp_path / "all",
    )
    assert content(tmp_path / "all") == content(tmp_path / "node")
    sound(tmp_path / "all")
    bring(tmp_path / "node", tmp_path / "behind")
    assert content(tmp_path / "behind") == content(tmp_path / "node")
    sound(tmp_path / "behind")


def test_a_process_that_went_on_in_two_copies_is_a_fork(tmp_path):
    """The same place of the same process with different entries is named, and nothing is
    changed.
    """
    journal = Journal.open(tmp_path / "one")
    component = journal.component("a")
    journal.append(component, points(1))
    journal.flush()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    journal.append(component, points(2))
    journal.close()
    other = Journal.open(tmp_path / "two")
    uuid, writer_id = read(tmp_path / "two", "SELECT uuid, id FROM writer")[0]
    (previous,) = read(tmp_path / "two", "SELECT digest FROM entry ORDER BY seq DESC LIMIT 1")[0]
    draft = vocabulary.metric("m", 9.0, None, 1)
    (digest,) = vocabulary.chain_next_entries(previous, 2, "a", [draft], START_NS)
    with other.database.transaction() as connection:
        connection.execute(INSERT_ENTRY, (writer_id, 2, component, *draft[:7], START_NS, digest))
    other.close()
    sound(tmp_path / "two")
    for first, second in (("one", "two"), ("two", "one")):
        with pytest.raises(EvidenceError, match=f"entry 2 of the process '{uuid}' differs from"):
            merge([tmp_path / first, tmp_path / second], into=tmp_path / f"all-{first}")
        assert content(tmp_path / f"all-{first}") == {}
        shutil.copytree(tmp_path / first, tmp_path / f"copy-{first}")
        before = content(tmp_path / f"copy-{first}")
        with pytest.raises(EvidenceError, match="differs from"):
            bring(tmp_path / second, tmp_path / f"copy-{first}")
        assert content(tmp_path / f"copy-{first}") == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entry SET value = 7 WHERE seq = 3",
        "UPDATE entry SET writer_seq = 9 WHERE seq = 3",
        "DELETE FROM entry WHERE seq = 3",
        "UPDATE entry SET digest = zeroblob(32) WHERE seq = 3",
        "UPDATE entry SET recorded_at_ns = 'now' WHERE seq = 3",
        "UPDATE component SET name = 'b'",
        "UPDATE writer SET host = 'elsewhere'",
        "DELETE FROM writer",
        "UPDATE attestation SET body = replace(body, 'delivered', 'superseded')",
        "UPDATE attestation SET digest = zeroblob(32)",
        "UPDATE attestation SET writer_seq = writer_seq + 100",
        "DELETE FROM attestation WHERE id = 1",
        "UPDATE attestation SET body = x'00'",
    ],
)
def test_a_source_that_was_changed_is_refused(tmp_path, sql):
    """It is named, what is wrong is said, and nothing of it is taken over."""
    record(tmp_path / "node", *points(1, 2, 3))
    sync(tmp_path / "node", MemoryRemote())
    record(tmp_path / "all", *points(4))
    change(tmp_path / "node", sql)
    before = content(tmp_path / "all")
    with pytest.raises(EvidenceError, match="node"):
        merge([tmp_path / "node"], into=tmp_path / "all")
    assert content(tmp_path / "all") == before
    sound(tmp_path / "all")


def test_a_crafted_refusal_keeps_nothing_from_being_sent(tmp_path):
    """An entry that a source calls undeliverable without a reason in it is pending."""
    record(tmp_path / "node", *points(1))
    change(
        tmp_path / "node",
        "INSERT INTO delivery SELECT seq, NULL, 'quarantined', 'because', recorded_at_ns "
        "FROM entry",
    )
    merge([tmp_path / "node"], into=tmp_path / "all")
    assert states(tmp_path / "all") == {"pending": 2}
    sound(tmp_path / "all")


def test_what_aws_can_not_take_stays_quarantined(tmp_path):
    """Refusals at the append come along as they are, and can be released there."""
    record(tmp_path / "node", vocabulary.metric("m", float("nan"), None, 1), *points(1))
    merge([tmp_path / "node"], into=tmp_path / "all")
    assert states(tmp_path / "all") == {"quarantined": 1, "pending": 2}
    sound(tmp_path / "all")
    assert not merge([tmp_path / "node"], into=tmp_path / "all").changed


def test_what_was_in_flight_is_in_doubt(tmp_path):
    """Metrics of a killed pass are never pending in the merge; a second merge adds nothing, also
    after a release there.
    """
    record(tmp_path / "node", *points(1, 2, 3), vocabulary.parameter("x", 1.0))
    journal = Journal.open(tmp_path / "node")
    lease = leases.acquire(journal.database)
    Settlement(journal.database, lease).begin(
        [Intent("metrics", 1, [2, 3]), Intent("update", 1, [5])]
    )
    lease.release()
    journal.close()
    done = merge([tmp_path / "node"], into=tmp_path / "all")
    assert done.sources[0].taken_as_found == 2
    assert states(tmp_path / "all") == {"in doubt": 2, "pending": 3}
    sound(tmp_path / "all")
    assert not merge([tmp_path / "node"], into=tmp_path / "all").changed
    target = Journal.open(tmp_path / "all")
    lease = leases.acquire(target.database)
    Settlement(target.database, lease).release(["in doubt"])
    lease.release()
    target.close()
    assert not merge([tmp_path / "node"], into=tmp_path / "all").changed
    assert states(tmp_path / "all") == {"pending": 5}
    sound(tmp_path / "all")


def test_receipts_of_format_0001_are_not_lost(tmp_path):
    """What an older version delivered, without attestations, is delivered in the merge, in doubt
    what was in flight; once.
    """
    node = restore("0001", tmp_path / "node")
    before = states(node)
    done = merge([node], into=tmp_path / "all")
    assert done.sources[0].taken_as_found > 0
    after = states(tmp_path / "all")
    assert after["delivered"] == before["delivered"]
    assert after.get("in doubt", 0) > before.get("in doubt", 0)
    assert [p for p in verify_chains(tmp_path / "all") if p.kind != "blob"] == []
    assert audit(tmp_path / "all").inconsistencies == ()
    assert not merge([node], into=tmp_path / "all").changed
    shutil.copytree(tmp_path / "all", tmp_path / "second")
    bring(tmp_path / "all", tmp_path / "second")
    bring(tmp_path / "second", node)
    assert [p for p in verify_chains(node) if p.kind != "blob"] == []
    assert content(node) == content(tmp_path / "all")


def test_a_release_in_one_copy_of_an_old_journal_holds(tmp_path):
    """What format 0001 refused at once, and one of two copies released, is pending in the merge,
    however often it is made.
    """
    node = restore("0001", tmp_path / "node")
    Journal.open(node).close()
    shutil.copytree(node, tmp_path / "released")
    journal = Journal.open(tmp_path / "released")
    lease = leases.acquire(journal.database)
    ((component_id, seq),) = journal.database.read(
        "SELECT e.component_id, e.seq FROM delivery d JOIN entry e ON e.seq = d.seq "
        "WHERE d.outcome = 'quarantined'"
    )
    # as it was done before such entries were left as they are
    with journal.database.transaction() as connection:
        Attestor(journal.database, lease).decide(
            connection, "release", RELEASED, component_id, [(seq, seq)]
        )
    lease.release()
    journal.close()
    merge([node, tmp_path / "released"], into=tmp_path / "all")
    before = content(tmp_path / "all")
    assert "quarantined" not in states(tmp_path / "all")
    assert not merge([node, tmp_path / "released"], into=tmp_path / "all").changed
    assert content(tmp_path / "all") == before


def test_artifacts_are_copied_and_verified(tmp_path):
    """Whole contents are in the merge's own spool, as files of their own; damaged, missing and
    linked ones are named.
    """
    good = with_blob(tmp_path / "node", b"good", "good")
    damaged = with_blob(tmp_path / "node", b"bad", "bad")
    gone = with_blob(tmp_path / "node", b"gone", "gone")
    linked = with_blob(tmp_path / "node", b"linked", "linked")
    spool = tmp_path / "node" / "spool"
    (spool / damaged[:2] / damaged).write_bytes(b"BAD")
    (spool / gone[:2] / gone).unlink()
    (tmp_path / "secret").write_bytes(b"linked")
    (spool / linked[:2] / linked).unlink()
    (spool / linked[:2] / linked).symlink_to(tmp_path / "secret")
    done = merge([tmp_path / "node"], into=tmp_path / "all").sources[0]
    assert (done.blobs, done.blob_bytes) == (1, 4)
    assert sorted(done.blobs_missing) == sorted([damaged, gone, linked])
    found = [path for path in (tmp_path / "all" / "spool").rglob("*") if path.is_file()]
    assert [path.name for path in found] == [good]
    assert hashlib.sha256(found[0].read_bytes()).hexdigest() == good
    assert os.stat(found[0]).st_nlink == 1
    assert sorted(p.sha256 for p in verify_chains(tmp_path / "all")) == sorted(
        [damaged, gone, linked]
    )
    (spool / damaged[:2] / damaged).write_bytes(b"bad")
    again = merge([tmp_path / "node"], into=tmp_path / "all").sources[0]
    assert (again.blobs, sorted(again.blobs_missing)) == (1, sorted([gone, linked]))


def test_a_journal_is_not_merged_into_itself(tmp_path):
    """Also not by another name."""
    record(tmp_path / "node", *points(1))
    (tmp_path / "link").symlink_to(tmp_path / "node")
    for target in ("node", "link"):
        with pytest.raises(InvalidInputError, match="itself"):
            merge([tmp_path / "node"], into=tmp_path / target)
    with pytest.raises(InvalidInputError):
        merge([], into=tmp_path / "all")
    with pytest.raises(JournalNotFoundError):
        merge([tmp_path / "nowhere"], into=tmp_path / "all")
    with pytest.raises(JournalNotFoundError):
        bring(tmp_path / "node", tmp_path / "nowhere")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("held", ["node", "all"])
def test_a_journal_that_is_being_reconciled_is_left_alone(tmp_path, held):
    """Source or target: what is sent meanwhile would be pending in the merge."""
    for name in ("node", "all"):
        record(tmp_path / name, *points(1))
    journal = Journal.open(tmp_path / held)
    lease = leases.acquire(journal.database)
    try:
        with pytest.raises(LeaseHeldError):
            merge([tmp_path / "node"], into=tmp_path / "all")
    finally:
        lease.release()
        journal.close()


def test_training_goes_on_in_a_source(tmp_path):
    """A tracker that has the source open loses nothing by the merge, and what it records then
    comes with the next.
    """
    journal = Journal.open(tmp_path / "node")
    component = journal.component("a")
    for value in range(5):
        journal.append(component, points(value))
        merge([tmp_path / "node"], into=tmp_path / "all")
        assert content(tmp_path / "all") == content(tmp_path / "node")
    journal.close()
    sound(tmp_path / "all")


def test_names_that_differ_in_case_are_told(tmp_path):
    """SageMaker makes no difference, digests do: refused, with both spellings."""
    record(tmp_path / "one", *points(1), component="digits")
    record(tmp_path / "two", *points(1), component="Digits")
    with pytest.raises(InvalidInputError, match="spells"):
        merge([tmp_path / "one", tmp_path / "two"], into=tmp_path / "all")


def test_a_merge_that_fails_leaves_nothing(tmp_path):
    """The second source is bad: nothing of the first is there either."""
    record(tmp_path / "one", *points(1))
    record(tmp_path / "two", *points(1))
    change(tmp_path / "two", "UPDATE entry SET value = 2 WHERE seq = 2")
    with pytest.raises(EvidenceError, match="two"):
        merge([tmp_path / "one", tmp_path / "two"], into=tmp_path / "all")
    assert content(tmp_path / "all") == {}


def test_a_gap_that_was_removed_in_several_parts_is_crossed(tmp_path):
    """A journal that was pruned in many transactions is merged into a new one, sums and chains
    hold; so is a second pruned copy of it.
    """
    record(tmp_path / "a", *points(*range(1_200)))
    sync(tmp_path / "a", MemoryRemote())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in "ab":
        prune(tmp_path / name, ask=None, delivered_before_ns=4 * 10**18, compact=False)
        merge([tmp_path / name], into=tmp_path / "merged")
        sound(tmp_path / "merged")
        (metric,) = show(tmp_path / "merged", "a").metrics
        assert (metric.points, metric.minimum, metric.maximum) == (1_200, 0.0, 1_199.0)


def test_what_came_where_others_were_removed_is_not_taken_for_them(tmp_path):
    """What is told of removed entries is not said of another process's, which have the numbers
    here that those would have.
    """
    journal = Journal.open(tmp_path / "a")
    component = journal.component("a")
    journal.append(component, [vocabulary.create(owner="owner of a", resume=True), *points(1, 2)])
    journal.flush()
    shutil.copytree(tmp_path / "a", tmp_path / "all")
    journal.append(component, points(3, 4, 5, 6, 7, 8))
    journal.close()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    sync(tmp_path / "a", MemoryRemote())
    prune(tmp_path / "a", ask=None, delivered_before_ns=4 * 10**18, compact=False)
    record(tmp_path / "all", *points(11, 12, 13, 14))
    merge([tmp_path / "a"], into=tmp_path / "all")
    ((shift,),) = read(
        tmp_path / "all",
        "SELECT seq - writer_seq FROM entry WHERE writer_id = 1 ORDER BY seq DESC LIMIT 1",
    )
    assert shift == 0  # as before what was removed: the other process's entries are in between
    sync(tmp_path / "copy", MemoryRemote())
    export_receipts(tmp_path / "copy", to=tmp_path / "receipts")
    import_receipts(tmp_path / "receipts", tmp_path / "all")
    assert states(tmp_path / "all") == {"delivered": 4, "pending": 5}
    sound(tmp_path / "all")
