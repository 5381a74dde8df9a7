"""A journal in a mirror: what is written there, and what another machine makes of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.errors import (
    EvidenceError,
    InvalidInputError,
    JournalOutdatedError,
    JournalTooNewError,
    LeaseHeldError,
    MirrorError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.mirror import copies, delivery, exchange, folders, join, segments, ship
from journaltrack.mirror.blobs import Sender
from journaltrack.mirror.check import check
from journaltrack.mirror.follower import Follower
from journaltrack.mirror.ship import Shipper
from journaltrack.mirror.take import ARTIFACTS_WAIT_S, Taker
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import PutMetrics
from journaltrack.retention.prune import prune
from journaltrack.util.deadline import Deadline
from tests.builders import CREATION, add_artifact, opened
from tests.copies import change, content, points, read, record, sound, states, sync
from tests.golden import restore


def mirrored(journal, mirror, **options):
    """Write what is new in a journal into a mirror; returns what was written."""
    found = folders.opened(mirror, create=True)
    with closing(Shipper(journal, found, **options)) as shipper:
        shipped = shipper.ship()
        shipper.copy_blobs(shipped)
    return shipped


def shipped(journal, mirror):
    """The mirror, with all that is new in a journal."""
    mirrored(journal, mirror)
    return folders.opened(mirror)


def id_of(journal):
    """The id of a journal."""
    ((found,),) = read(journal, "SELECT journal_id FROM meta")
    return found


def copy_of(mirror, *, home=None, monkeypatch=None):
    """Extend the copy of the one journal in a mirror, as another machine does; returns it."""
    if home is not None:
        monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    return copied


def replica_of(mirror):
    """The folder of the one replica in a mirror."""
    (found,) = {path.parent for path in Path(mirror).rglob("*.jsonl")}
    return found


def test_what_was_recorded_is_in_the_copy(tmp_path):
    """All entries of all processes are in the copy, in their order, with their digests; it is
    sound, and has the journal's own id.
    """
    for turn in range(3):
        record(tmp_path / "journal", vocabulary.parameter("x", 0.1 * turn), *points(turn, -0.0))
        mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    order = (
        "SELECT w.uuid, e.writer_seq, c.name, e.kind, e.value, e.payload, e.digest FROM entry e "
        "JOIN writer w ON w.id = e.writer_id JOIN component c ON c.id = e.component_id "
        "ORDER BY e.seq"
    )
    assert read(copied.folder, order) == read(tmp_path / "journal", order)
    meta = "SELECT journal_id, created_at_ns FROM meta"
    assert read(copied.folder, meta) == read(tmp_path / "journal", meta)
    sound(copied.folder)


def test_nothing_new_writes_nothing(tmp_path):
    """Mirrored again, or read again, nothing changes; what came since is all that is written."""
    record(tmp_path / "journal", *points(1, 2, 3))
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").entries == 4
    before = sorted(path for path in (tmp_path / "mirror").rglob("*"))
    again = mirrored(tmp_path / "journal", tmp_path / "mirror")
    assert (again.segments, again.segment_bytes) == (0, 0)
    assert sorted(path for path in (tmp_path / "mirror").rglob("*")) == before
    assert [each.entries for each in copy_of(tmp_path / "mirror").replicas] == [4]
    assert [each.entries for each in copy_of(tmp_path / "mirror").replicas] == [0]
    record(tmp_path / "journal", *points(4))
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").entries == 2
    assert [each.entries for each in copy_of(tmp_path / "mirror").replicas] == [2]


def test_writers_that_take_turns_keep_their_order(tmp_path):
    """Entries of two processes that alternate come in the order in which they were recorded."""
    with (
        closing(Journal.open(tmp_path / "journal")) as one,
        closing(Journal.open(tmp_path / "journal")) as two,
    ):
        for value in range(20):
            journal = (one, two)[value % 2]
            journal.append(journal.component("a"), points(value))
            journal.flush()
    mirrored(tmp_path / "journal", tmp_path / "mirror", segment_bytes=300)
    copied = copy_of(tmp_path / "mirror")
    values = "SELECT value FROM entry ORDER BY seq"
    assert [value for (value,) in read(copied.folder, values)] == list(range(20))
    sound(copied.folder)


@pytest.mark.parametrize("machine", ["0", "z"])
def test_what_continues_a_run_comes_behind_it(tmp_path, monkeypatch, machine):
    """Of several nodes that are new to a copy, the one that began first comes first, whatever the
    names of their folders are: the last value of a run is what it logged last.
    """
    record(tmp_path / "one", *points(1))
    mirrored(tmp_path / "one", tmp_path / "mirror")
    shutil.copytree(copy_of(tmp_path / "mirror").folder, tmp_path / "two")
    mirror = folders.opened(tmp_path / "mirror")
    state = exchange.load(tmp_path / "two", mirror.id)
    state.replica = f"{machine}-0123456789abcdef"
    exchange.save(tmp_path / "two", mirror.id, state)
    record(tmp_path / "two", *points(2))
    assert mirrored(tmp_path / "two", tmp_path / "mirror").entries == 2
    copied = copy_of(tmp_path / "mirror", home=tmp_path / "new", monkeypatch=monkeypatch)
    assert len(copied.replicas) == 2
    values = "SELECT value FROM entry WHERE value IS NOT NULL ORDER BY seq"
    assert read(copied.folder, values) == [(1.0,), (2.0,)]


def test_receipts_that_come_before_what_they_name_are_taken_at_once(tmp_path, monkeypatch):
    """The machine that delivers began before the node's first file was joined: a new reader has all
    of both at its first look.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    monkeypatch.setattr(join, "FANIN", 2)
    record(journal, *points(1))
    mirrored(journal, mirror)
    delivered = copy_of(mirror).folder
    with delivery.delivering(delivered):
        sync(delivered, MemoryRemote())
    record(journal, *points(2))
    with closing(Shipper(journal, folders.opened(mirror))) as shipper:
        shipper.ship()
        shipper.join()
    (whole,) = mirror.rglob("00000001-00000002.jsonl")
    for number in (1, 2):
        (whole.parent / f"{number:08d}.jsonl").unlink()
    copied = copy_of(mirror, home=tmp_path / "new", monkeypatch=monkeypatch)
    assert copied.notes == []
    assert content(copied.folder).keys() == content(journal).keys()


def test_an_entry_is_proved_with_sha256_alone(tmp_path):
    """Whoever knows the digest before a run needs no journaltrack: each line is what the next
    digest is of.
    """
    record(tmp_path / "journal", *points(0.1, -0.0, 1e300), vocabulary.parameter("vérité", 7))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    lines = (replica_of(tmp_path / "mirror") / "00000001.jsonl").read_bytes().splitlines()
    digest, head = None, None
    for line in lines:
        if line.startswith(b"["):
            digest = hashlib.sha256(digest + line).digest()
        elif "entries" in (members := json.loads(line)):
            digest, head = (bytes.fromhex(members[name][1]) for name in ("after", "head"))
    assert digest == head
    stored = "SELECT digest FROM entry ORDER BY seq DESC LIMIT 1"
    assert [(digest,)] == read(tmp_path / "journal", stored)
    last = json.loads(lines[-1])
    whole = b"".join(line + b"\n" for line in lines[:-1])
    assert last == {"lines": len(lines) - 1, "sha256": hashlib.sha256(whole).hexdigest()}


def test_segments_name_the_one_before(tmp_path):
    """Each segment names the SHA-256 of the one that it continues, and its own number."""
    record(tmp_path / "journal", *points(*range(50)))
    mirrored(tmp_path / "journal", tmp_path / "mirror", segment_bytes=1_000)
    found = [
        segments.parse(path.read_bytes(), path.name)
        for path in sorted(replica_of(tmp_path / "mirror").iterdir())
    ]
    assert len(found) > 3
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert [each.previous for each in found] == [None, *(each.sha256 for each in found[:-1])]


def test_artifacts_come_with_their_entries(tmp_path, monkeypatch):
    """An artifact's bytes are in a file of their own under their digest, and in the copy's spool;
    until they are there, the segment that names them waits.
    """
    with opened(tmp_path, {"run": [CREATION]}) as journal:
        add_artifact(journal, b"weights")
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(tmp_path / "journal", mirror)) as shipper:
        shipped = shipper.ship()
        (note,) = copy_of(mirror.path).notes
        assert "artifacts that are not there yet" in note
        shipper.copy_blobs(shipped)
    assert (shipped.blobs, shipped.blob_bytes) == (1, 7)
    copied = copy_of(mirror.path)
    assert copied.notes == []
    sound(copied.folder)
    remote = MemoryRemote()
    assert sync(copied.folder, remote).pending == 0
    assert list(remote.sizes.values()) == [7]


def test_no_artifact_is_passed_over_if_the_mirror_is_read_again_meanwhile(tmp_path):
    """One thread sends artifacts. If another one begins anew right then, all arrive."""
    with opened(tmp_path) as journal:
        add_artifact(journal, b"weights")
        add_artifact(journal, b"more weights")
        mirror = folders.opened(tmp_path / "mirror", create=True)
        sender = Sender(journal, mirror)
        sender.begin(journal.last_seq())

        class Shipped(ship.Shipped):
            """Begin anew as soon as one is counted."""

            def __setattr__(self, name, value):
                super().__setattr__(name, value)
                if name == "blobs" and value == 1:
                    sender.begin(journal.last_seq())

        shipped = Shipped()
        sender.send(shipped)
    assert (shipped.blobs, shipped.blobs_missing, sender.has_any) == (2, [], False)


def test_artifacts_that_never_come_hold_nothing_up_for_long(tmp_path):
    """When no byte of an artifact has come for a minute, the entries are taken over without it:
    its node may be gone.
    """
    with opened(tmp_path) as journal:
        add_artifact(journal, b"weights")
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(tmp_path / "journal", mirror)) as shipper:
        shipper.ship()
    folder = copy_of(mirror.path).folder
    now = itertools.count(1_000.0, ARTIFACTS_WAIT_S / 2)
    with closing(Journal.open(folder)) as journal:
        taker = Taker(journal, mirror, clock=lambda: next(now))
        waits = [taker.take()[0].waits is None for _ in range(4)]
    assert waits == [False, False, True, True]
    assert read(folder, "SELECT count(*) FROM entry") == [(2,)]


def test_a_gap_is_waited_for_and_told(tmp_path):
    """A segment that is not visible yet stops its replica, and no other one; the note says which.
    When it is there, everything is.
    """
    record(tmp_path / "journal", *points(*range(50)))
    mirrored(tmp_path / "journal", tmp_path / "mirror", segment_bytes=1_000)
    shutil.copytree(tmp_path / "journal", tmp_path / "other")
    record(tmp_path / "other", *points(100), component="other")
    mirrored(tmp_path / "other", tmp_path / "mirror")
    hidden = next(path for path in (tmp_path / "mirror").rglob("00000003.jsonl"))
    hidden.rename(tmp_path / "hidden")
    copied = copy_of(tmp_path / "mirror")
    (note,) = copied.notes
    assert "taken up to segment 2" in note
    assert "the segment before 4 is not there yet" in note
    assert "other" in [name for (name,) in read(copied.folder, "SELECT name FROM component")]
    (tmp_path / "hidden").rename(hidden)
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    assert content(copied.folder).keys() == content(tmp_path / "other").keys()
    sound(copied.folder)


@pytest.mark.parametrize("kept", [0, 1, 400, -1])
def test_a_cut_last_segment_is_replaced_by_a_later_one(tmp_path, kept):
    """A last segment that a server lost a part of stays as it is. The next one continues the one
    before it, and the copy has everything.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    record(tmp_path / "journal", *points(3, 4))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    cut = replica_of(tmp_path / "mirror") / "00000002.jsonl"
    cut.write_bytes(cut.read_bytes()[:kept])
    (note,) = copy_of(tmp_path / "mirror").notes
    assert "segment 2 is not whole" in note
    left = cut.read_bytes()
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").entries == 3
    assert cut.read_bytes() == left
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    assert content(copied.folder) == content(tmp_path / "journal")
    assert all(each.is_well for each in check(folders.opened(tmp_path / "mirror")))


def test_a_segment_that_was_taken_over_may_be_lost_behind_it(tmp_path):
    """A server forgets a segment that a reader has seen: the writer begins behind the one before,
    and the reader takes what is new, and nothing twice.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    record(tmp_path / "journal", *points(3, 4))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copy_of(tmp_path / "mirror")
    lost = replica_of(tmp_path / "mirror") / "00000002.jsonl"
    lost.write_bytes(b"")
    record(tmp_path / "journal", *points(5))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    assert content(copied.folder) == content(tmp_path / "journal")
    sound(copied.folder)


def test_a_mirror_that_was_emptied_is_written_again(tmp_path):
    """If the folder was deleted, everything is written again into a new one."""
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    shutil.rmtree(tmp_path / "mirror")
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").entries == 3
    assert content(copy_of(tmp_path / "mirror").folder) == content(tmp_path / "journal")


def test_a_copied_journal_is_another_replica(tmp_path):
    """A folder that was copied, with all that it remembers, does not write into the segments of
    the original; both are brought together.
    """
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    shutil.copytree(tmp_path / "journal", tmp_path / "twin")
    record(tmp_path / "journal", *points(2))
    record(tmp_path / "twin", *points(3))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    mirrored(tmp_path / "twin", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert len(copied.replicas) == 2
    both = content(tmp_path / "journal") | content(tmp_path / "twin")
    assert content(copied.folder) == both
    sound(copied.folder)


def test_an_altered_entry_ends_its_process_and_no_other(tmp_path):
    """Of a process whose entry is not what was recorded, nothing is mirrored from there on; of
    others, everything is. Writer, reader and check say so.
    """
    record(tmp_path / "journal", *points(1, 2, 3))
    record(tmp_path / "journal", *points(4, 5), component="b")
    change(tmp_path / "journal", "UPDATE entry SET value = 9 WHERE value = 2")
    shipped = mirrored(tmp_path / "journal", tmp_path / "mirror")
    ((uuid,),) = read(tmp_path / "journal", "SELECT uuid FROM writer WHERE id = 1")
    assert shipped.halted == {uuid: 3}
    record(tmp_path / "journal", *points(6), component="c")
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").halted == {uuid: 3}
    for _ in range(2):
        copied = copy_of(tmp_path / "mirror")
        assert any("were altered" in note for note in copied.notes)
    values = [v for (v,) in read(copied.folder, "SELECT value FROM entry WHERE value IS NOT NULL")]
    assert values == [1, 4, 5, 6]
    sound(copied.folder)


def test_what_became_of_entries_comes_along(tmp_path):
    """What the node itself delivered is delivered in the copy, which sends nothing again."""
    record(tmp_path / "journal", *points(1, 2, 3))
    remote = MemoryRemote()
    sync(tmp_path / "journal", remote)
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert content(copied.folder) == content(tmp_path / "journal")
    assert states(copied.folder) == {"delivered": 4}
    sound(copied.folder)
    assert sync(copied.folder, remote).requests == 0


def test_entries_that_were_pruned_before_they_were_mirrored_are_a_proved_gap(tmp_path):
    """What was removed on the record is not in the mirror; the chain goes on across it."""
    record(tmp_path / "journal", *points(*range(20)))
    sync(tmp_path / "journal", MemoryRemote())
    prune(tmp_path / "journal", ask=None, delivered_before_ns=2**62)
    record(tmp_path / "journal", *points(99))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    assert content(copied.folder) == content(tmp_path / "journal")
    sound(copied.folder)


def test_in_flight_is_in_doubt_where_the_node_is_lost(tmp_path):
    """Points of a request without an answer are in doubt in the copy, not pending: nobody sends
    them twice. The answer, mirrored later, settles them.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    with closing(Journal.open(tmp_path / "journal")) as journal:
        lease = leases.acquire(journal.database)
        settlement = Settlement(journal.database, lease)
        (receipt_id,) = settlement.begin([Intent(PutMetrics.action, 1, [2, 3])])
        mirrored(tmp_path / "journal", tmp_path / "mirror")
        copied = copy_of(tmp_path / "mirror")
        assert states(copied.folder) == {"pending": 1, "in doubt": 2}
        settlement.finish([Outcome(receipt_id, 1, "delivered", 1, "r-1", delivered=[2, 3])])
        lease.release()
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert states(copied.folder) == {"pending": 1, "delivered": 2}
    sound(copied.folder)


def test_receipts_come_back_to_the_node(tmp_path):
    """What the copy delivered is delivered in the journal on the node, after its next mirroring:
    a sync there sends nothing.
    """
    record(tmp_path / "journal", *points(1, 2, 3))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    remote = MemoryRemote()
    with delivery.delivering(copied.folder):
        sync(copied.folder, remote)
    record(tmp_path / "journal", *points(4))
    Follower(tmp_path / "journal", folders.opened(tmp_path / "mirror")).once()
    assert states(tmp_path / "journal") == {"delivered": 4, "pending": 2}
    sound(tmp_path / "journal")
    again = [Follower(tmp_path / "journal", folders.opened(tmp_path / "mirror")) for _ in range(2)]
    for follower in again:
        follower.once()
    # That it took something over, it says once.
    assert [follower.shipped.attestations for follower in again] == [2, 0]
    copied = copy_of(tmp_path / "mirror")
    assert states(copied.folder) == {"delivered": 4, "pending": 2}
    with delivery.delivering(copied.folder):
        assert sync(copied.folder, remote).pending == 0
    Follower(tmp_path / "journal", folders.opened(tmp_path / "mirror")).once()
    assert states(tmp_path / "journal") == {"delivered": 6}
    assert content(copy_of(tmp_path / "mirror").folder) == content(tmp_path / "journal")


def test_what_came_back_may_leave_the_node(tmp_path):
    """What the copy says it delivered can be pruned on the node, by who trusts it; both mirror on
    from there.
    """
    record(tmp_path / "journal", *points(*range(50)))
    mirror = folders.opened(tmp_path / "mirror", create=True)
    Follower(tmp_path / "journal", mirror).once()
    copied = copy_of(mirror.path)
    remote = MemoryRemote()
    with delivery.delivering(copied.folder):
        sync(copied.folder, remote)
    Follower(tmp_path / "journal", mirror).once()
    before = {"ask": None, "delivered_before_ns": 2**62}
    assert prune(tmp_path / "journal", **before).entries == 0
    assert prune(tmp_path / "journal", trust=["all"], **before).entries > 40
    record(tmp_path / "journal", *points(100))
    Follower(tmp_path / "journal", mirror).once()
    copied = copy_of(mirror.path)
    assert states(copied.folder) == {"delivered": 51, "pending": 2}
    for journal in (copied.folder, tmp_path / "journal"):
        sound(journal)


def test_notes_of_what_was_taken_over_do_not_go_to_and_fro(tmp_path):
    """Node and copy, mirrored again and again, come to an end: nothing new is written."""
    record(tmp_path / "journal", *points(1, 2, 3))
    mirror = folders.opened(tmp_path / "mirror", create=True)
    for _ in range(6):
        Follower(tmp_path / "journal", mirror).once()
        copied = copy_of(mirror.path)
        with delivery.delivering(copied.folder):
            sync(copied.folder, MemoryRemote())
    before = sorted(mirror.path.rglob("*.jsonl"))
    for _ in range(3):
        Follower(tmp_path / "journal", mirror).once()
        copied = copy_of(mirror.path)
        with delivery.delivering(copied.folder):
            pass
    assert sorted(mirror.path.rglob("*.jsonl")) == before


def test_two_readers_do_not_deliver_the_same(tmp_path, monkeypatch):
    """While one copy delivers, another one sends nothing and names it. After a release it sends
    what is left, once it has the receipts of the first.
    """
    record(tmp_path / "journal", *points(1, 2, 3))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    one = copy_of(tmp_path / "mirror", home=tmp_path / "one", monkeypatch=monkeypatch).folder
    two = copy_of(tmp_path / "mirror", home=tmp_path / "two", monkeypatch=monkeypatch).folder
    remote = MemoryRemote()
    with delivery.delivering(one, stay=True):
        sync(one, remote)
    name = next(iter(exchange.all_of(one).values())).replica
    with pytest.raises(LeaseHeldError, match=f"{name} delivers"), delivery.delivering(two):
        pass
    delivery.release(one)
    with pytest.raises(LeaseHeldError, match="not here yet"), delivery.delivering(two):
        pass
    assert copy_of(tmp_path / "mirror").folder == two
    assert states(two) == {"delivered": 4}
    with delivery.delivering(two):
        assert sync(two, remote).requests == 0


def test_a_copy_that_was_killed_goes_on(tmp_path):
    """Its claim is still its own; nobody else's."""
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror").folder
    mirror = folders.opened(tmp_path / "mirror")
    with delivery.delivering(copied, stay=True):
        pass
    with delivery.delivering(copied):
        assert delivery.newest(mirror, mirror.journals()[0]).number == 1
    with delivery.delivering(copied):
        assert delivery.newest(mirror, mirror.journals()[0]).number == 2


def test_a_lost_copy_is_taken_over_with_its_points_in_doubt(tmp_path, monkeypatch):
    """Points that were pending when a lost copy's claim was taken over may have been sent: they
    are in doubt. What is recorded later is sent. The lost copy, back again, sends nothing.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    one = copy_of(tmp_path / "mirror", home=tmp_path / "one", monkeypatch=monkeypatch).folder
    with delivery.delivering(one, stay=True):
        pass
    two = copy_of(tmp_path / "mirror", home=tmp_path / "two", monkeypatch=monkeypatch).folder
    mirror = folders.opened(tmp_path / "mirror")
    assert delivery.take_over(two, mirror) == 2
    assert delivery.take_over(two, mirror) == 0
    assert states(two) == {"pending": 1, "in doubt": 2}
    record(tmp_path / "journal", *points(3))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copy_of(tmp_path / "mirror")
    with delivery.delivering(two):
        assert sync(two, MemoryRemote(), visible_after_s=1e9).in_doubt == 0
    assert states(two) == {"delivered": 3, "in doubt": 2}
    with pytest.raises(LeaseHeldError), delivery.delivering(one):
        pass
    sound(two)


def test_a_mirror_that_is_gone_stops_deliveries(tmp_path):
    """If nobody can tell whether another copy delivers, nothing is sent."""
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror").folder
    (tmp_path / "mirror").rename(tmp_path / "away")
    with pytest.raises(InvalidInputError), delivery.delivering(copied):
        pass
    folders.opened(tmp_path / "mirror", create=True)
    with pytest.raises(MirrorError, match="another mirror"), delivery.delivering(copied):
        pass


def test_rights_follow_the_folder(tmp_path):
    """A group that may read the mirror's folder may read its files; without that, nobody else."""
    for mode in (0o750, 0o700):
        mirror = tmp_path / f"{mode:o}"
        mirror.mkdir(mode=mode)
        with opened(tmp_path, {"run": points(1)}) as journal:
            add_artifact(journal, b"weights")
        mirrored(tmp_path / "journal", mirror)
        for path in mirror.rglob("*"):
            expected = mode if path.is_dir() else mode & 0o666
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_only_a_new_or_empty_folder_becomes_a_mirror(tmp_path):
    """A folder with other files is left as it is, and so is a newer version's mirror."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InvalidInputError, match=r"thesis\.tex"):
        folders.opened(tmp_path / "full", create=True)
    with pytest.raises(InvalidInputError, match="is no mirror"):
        folders.opened(tmp_path / "none")
    made = folders.opened(tmp_path / "mirror", create=True)
    assert folders.opened(tmp_path / "mirror", create=True) == made
    marker = tmp_path / "mirror" / folders.MARKER
    marker.write_text(json.dumps({"format": "journaltrack mirror", "version": 2, "id": made.id}))
    with pytest.raises(JournalTooNewError):
        folders.opened(tmp_path / "mirror")
    marker.write_text("{}")
    with pytest.raises(MirrorError):
        folders.opened(tmp_path / "mirror")


def test_a_newer_segment_is_refused_with_the_version_needed(tmp_path):
    """A segment of a later format stops its replica, and says what to install."""
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    folder = copy_of(tmp_path / "mirror").folder
    record(tmp_path / "journal", *points(2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    path = replica_of(tmp_path / "mirror") / "00000002.jsonl"
    text = path.read_bytes().rsplit(b"\n", 2)[0] + b"\n"
    text = text.replace(
        b'"version":1,"required_version":"0.1.0"', b'"version":2,"required_version":"9.1.0"', 1
    )
    last = {"lines": text.count(b"\n"), "sha256": hashlib.sha256(text).hexdigest()}
    path.write_bytes(text + json.dumps(last).encode() + b"\n")
    (each,) = copy_of(tmp_path / "mirror").replicas
    assert isinstance(each.problem, JournalTooNewError)
    assert "9.1.0" in each.problem.hint
    assert read(folder, "SELECT count(*) FROM entry") == [(2,)]


def test_receipts_that_nothing_attests_are_not_mirrored(tmp_path):
    """A journal that format 0001 began is refused, with the way to attest it."""
    restore("0001", tmp_path / "journal")
    with pytest.raises(JournalOutdatedError, match="0001") as caught:
        mirrored(tmp_path / "journal", tmp_path / "mirror")
    assert "journaltrack merge" in caught.value.hint


def test_every_changed_byte_of_a_segment_is_found(tmp_path):
    """Whatever byte of a segment is another one, it is no whole segment, and nothing is taken."""
    record(tmp_path / "journal", *points(1), vocabulary.parameter("x", "y"))
    sync(tmp_path / "journal", MemoryRemote())
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    (path,) = (tmp_path / "mirror").rglob("*.jsonl")
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(segments.NotWholeError):
            segments.parse(changed, "changed")
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(segments.NotWholeError):
            segments.parse(data[:cut], "cut")


def forged_by(path, edit):
    """Somebody who can write the mirror changes a segment, and all that proves it is whole."""
    lines = path.read_bytes().splitlines()[:-1]
    text = b"".join(line + b"\n" for line in edit(lines))
    last = {"lines": text.count(b"\n"), "sha256": hashlib.sha256(text).hexdigest()}
    path.write_bytes(text + json.dumps(last, separators=(",", ":")).encode() + b"\n")


def edited(lines, member, change_it):
    """Lines of which those with a member are changed."""
    found = []
    for line in lines:
        members = None if line.startswith(b"[") else json.loads(line)
        if members is not None and member in members:
            change_it(members)
            line = json.dumps(members, separators=(",", ":")).encode()  # noqa: PLW2901
        found.append(line)
    return found


def odd_facts(header):
    """A journal that says nothing sensible of itself, with the right digest."""
    header["journal"]["created_at_ns"] = "never"
    header["digest"] = vocabulary.description_digest(*header["journal"].values()).hex()


FORGERIES = {
    "a value": lambda ls: [line.replace(b"1.0,", b"2.0,") for line in ls],
    "an entry left out": lambda ls: [line for line in ls if not line.startswith(b"[2,")],
    "entries swapped": lambda ls: [*ls[:-2], ls[-1], ls[-2]],
    "another way to write it": lambda ls: [line.replace(b"1.0,", b"1.00,") for line in ls],
    "blanks": lambda ls: [line.replace(b"[2,", b"[2, ") for line in ls],
    "not a number": lambda ls: [line.replace(b"1.0,", b"NaN,") for line in ls],
    "two entries on a line": lambda ls: [*ls[:-2], ls[-2] + b"," + ls[-1]],
    "a place of another type": lambda ls: [line.replace(b"[2,", b'["2",') for line in ls],
    "a later beginning": lambda ls: edited(ls, "entries", lambda m: m.update(after=[1, "00" * 32])),
    "another head": lambda ls: edited(ls, "entries", lambda m: m.update(head=[3, "00" * 32])),
    "no order": lambda ls: edited(ls, "entries", lambda m: m.update(seqs="1-9")),
    "endless order": lambda ls: edited(
        ls, "entries", lambda m: m.update(seqs="1-9000000000000000")
    ),
    "another process": lambda ls: edited(ls, "process", lambda m: m["process"].update(host="x")),
    "no process": lambda ls: [line for line in ls if b'"process"' not in line],
    "another replica": lambda ls: edited(ls, "format", lambda m: m.update(replica="x-" + "0" * 16)),
    "another number": lambda ls: edited(ls, "format", lambda m: m.update(number=7)),
    "odd facts": lambda ls: edited(ls, "format", odd_facts),
    "another journal": lambda ls: edited(
        ls, "format", lambda m: m["journal"].update(created_at_ns=1)
    ),
    "an odd member": lambda ls: edited(ls, "format", lambda m: m.update(reached=[])),
    "an odd digest": lambda ls: edited(ls, "entries", lambda m: m.update(head=[3, "zz"])),
    "no JSON": lambda ls: [*ls, b"{"],
    "deep JSON": lambda ls: [*ls, b'{"blob":' + b"[" * 100_000],
    "an entry of nobody": lambda ls: [line for line in ls if b'"entries"' not in line],
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_segment_brings_nothing(tmp_path, what):
    """A segment that is whole and does not follow from its chains is refused. The copy stays
    sound, and the rest of the mirror can be read.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    good = copy_of(tmp_path / "mirror").folder
    before = content(good)
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    path = replica_of(tmp_path / "mirror") / "00000002.jsonl"
    whole = path.read_bytes()
    forged_by(path, FORGERIES[what])
    assert path.read_bytes() != whole
    (each,) = copy_of(tmp_path / "mirror").replicas
    assert isinstance(each.problem, EvidenceError), each
    assert content(good) == before
    assert not any(found.is_well for found in check(folders.opened(tmp_path / "mirror")))
    path.write_bytes(whole)
    assert copy_of(tmp_path / "mirror").notes == []
    sound(good)


def test_a_segment_of_another_journal_is_refused(tmp_path):
    """A file that was copied from elsewhere stops its replica, and brings nothing."""
    for name in ("journal", "other"):
        record(tmp_path / name, *points(1))
        mirrored(tmp_path / name, tmp_path / f"mirror of {name}")
    target = replica_of(tmp_path / "mirror of journal") / "00000002.jsonl"
    shutil.copy(replica_of(tmp_path / "mirror of other") / "00000001.jsonl", target)
    (each,) = copy_of(tmp_path / "mirror of journal").replicas
    assert isinstance(each.problem, EvidenceError)
    assert content(copy_of(tmp_path / "mirror of journal").folder) == content(tmp_path / "journal")


def test_links_in_a_mirror_lead_nowhere(tmp_path):
    """A segment or an artifact that is a link is not there."""
    with opened(tmp_path, {"run": [CREATION]}) as journal:
        add_artifact(journal, b"weights")
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    (blob,) = (tmp_path / "mirror").rglob(hashlib.sha256(b"weights").hexdigest())
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    (note,) = copy_of(tmp_path / "mirror").notes
    assert "artifacts that are not there yet" in note
    (segment,) = (tmp_path / "mirror").rglob("*.jsonl")
    segment.rename(tmp_path / "segment")
    segment.symlink_to(tmp_path / "segment")
    (found,) = check(folders.opened(tmp_path / "mirror"))
    assert found.damaged == [1]


def test_a_pass_that_began_before_the_mirror_is_waited_for(tmp_path):
    """A pass that does not know of the mirror would send what another machine sends, too: the
    journal is mirrored when it has ended.
    """
    record(tmp_path / "journal", *points(1))
    with closing(Journal.open(tmp_path / "journal")) as journal:
        lease = leases.acquire(journal.database)
        with pytest.raises(LeaseHeldError, match="does not know that it is mirrored"):
            mirrored(tmp_path / "journal", tmp_path / "mirror")
        lease.release()
    assert mirrored(tmp_path / "journal", tmp_path / "mirror").entries == 2


def test_one_process_at_a_time_mirrors_a_journal(tmp_path):
    """While one holds the lock, another one says so and changes nothing."""
    record(tmp_path / "journal", *points(1))
    with (
        exchange.alone(tmp_path / "journal"),
        pytest.raises(LeaseHeldError, match="another process mirrors"),
        exchange.alone(tmp_path / "journal"),
    ):
        pass


def test_what_is_remembered_may_be_lost_or_damaged(tmp_path):
    """Without ``mirror.json``, or with another text in it, everything is read and compared again,
    in a new replica's name. Nothing comes twice.
    """
    record(tmp_path / "journal", *points(1, 2))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror").folder
    for text in ("", "{}", "[]", '{"of": 1, "mirrors": {}}', "[" * 100_000):
        for folder in (tmp_path / "journal", copied):
            (folder / exchange.FILE).write_text(text)
        record(tmp_path / "journal", *points(3))
        mirrored(tmp_path / "journal", tmp_path / "mirror")
        assert copy_of(tmp_path / "mirror").notes == []
        assert content(copied) == content(tmp_path / "journal")
    sound(copied)


def test_who_logs_all_the_time_makes_no_segment_of_each_entry(tmp_path):
    """Writing ends with what was there when it began: entries that come meanwhile wait for the
    next time.
    """
    record(tmp_path / "journal", *points(1))
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Journal.open(tmp_path / "journal")) as journal:
        component = journal.component("a")

        def clock_ns():
            """Another entry comes while a segment is made."""
            journal.append(component, points(2))
            journal.flush()
            return 1

        with closing(Shipper(tmp_path / "journal", mirror, clock_ns=clock_ns)) as shipper:
            assert (shipper.ship().segments, shipper.ship().segments) == (1, 1)


def test_a_journal_that_was_put_back_is_mirrored_anew(tmp_path):
    """A file that a snapshot of the disk put back to an earlier state has other entries at the same
    numbers: they are mirrored, in a new replica's name, and so is what was there before.
    """
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    earlier = (tmp_path / "journal" / "journal.db").read_bytes()
    record(tmp_path / "journal", *points(2), component="lost")
    lost = content(tmp_path / "journal")
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    for more in (1, 4):
        (tmp_path / "journal" / "journal.db").write_bytes(earlier)
        record(tmp_path / "journal", *points(*range(more)), component=f"new-{more}")
        mirrored(tmp_path / "journal", tmp_path / "mirror")
        lost |= content(tmp_path / "journal")
    copied = copy_of(tmp_path / "mirror")
    assert copied.notes == []
    assert content(copied.folder) == lost
    sound(copied.folder)


def test_a_copy_asks_who_delivers_from_its_first_entry_on(tmp_path):
    """A reader that was killed right after it had made a copy leaves one that knows its mirror."""
    record(tmp_path / "journal", *points(1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    segment = replica_of(tmp_path / "mirror") / "00000001.jsonl"
    whole = segment.read_bytes()
    forged_by(segment, FORGERIES["a value"])
    copied = copy_of(tmp_path / "mirror")
    assert delivery.is_mirrored(copied.folder)
    assert read(copied.folder, "SELECT count(*) FROM entry") == [(0,)]
    segment.write_bytes(whole)
    with delivery.delivering(copied.folder), pytest.raises(LeaseHeldError):
        delivery.take_over(copied.folder, folders.opened(tmp_path / "mirror"))


def test_a_local_point_stays_settled(tmp_path):
    """A point that is never sent is settled in the copy, as it is in the journal; taking a lost
    copy over does not put it in doubt.
    """
    record(tmp_path / "journal", *points(1), vocabulary.local_metric("system/cpu", 0.5, 1))
    mirrored(tmp_path / "journal", tmp_path / "mirror")
    copied = copy_of(tmp_path / "mirror")
    assert content(copied.folder) == content(tmp_path / "journal")
    assert states(copied.folder)["pending"] == 2
    sound(copied.folder)


def test_a_continued_journal_has_bytes_of_artifacts_only_to_deliver_them(tmp_path):
    """A run that is continued copies no checkpoints to its node. If that node delivers, it fetches
    the bytes that are still to be uploaded, and nothing is quarantined.
    """
    with opened(tmp_path / "lost", {"run": [CREATION]}) as journal:
        add_artifact(journal, b"weights" * 1_000)
    mirror = shipped(tmp_path / "lost" / "journal", tmp_path / "mirror")
    assert copies.fetch(tmp_path / "next", mirror.path, "RUN", Deadline(600))
    assert content(tmp_path / "next") == content(tmp_path / "lost" / "journal")
    assert list((tmp_path / "next" / "spool").rglob("*")) == []
    remote = MemoryRemote()
    with delivery.delivering(tmp_path / "next"):
        sync(tmp_path / "next", remote)
    assert set(states(tmp_path / "next")) == {"delivered"}


def test_a_run_is_continued_with_what_is_visible(tmp_path, monkeypatch, caplog):
    """A segment that stays away is waited for, a while; then the run goes on without it, says so,
    and takes it over when it is there.
    """
    monkeypatch.setattr(copies, "_MISSING_WAIT_S", 0.01)
    record(tmp_path / "journal", *points(0), component="run")
    mirror = shipped(tmp_path / "journal", tmp_path / "mirror")
    for value in (1, 2):
        record(tmp_path / "journal", *points(value), component="run")
        shipped(tmp_path / "journal", tmp_path / "mirror")
    (second,) = mirror.path.glob("*/*/00000002.jsonl")
    second.rename(tmp_path / "late")
    assert copies.fetch(tmp_path / "next", mirror.path, "run", Deadline(600))
    assert "the segment before 3 is not there yet" in caplog.text
    assert content(tmp_path / "next").items() < content(tmp_path / "journal").items()
    (tmp_path / "late").rename(second)
    Follower(tmp_path / "next", mirror).once()
    assert content(tmp_path / "next") == content(tmp_path / "journal")


def test_of_several_journals_with_a_run_the_one_written_last_is_continued(tmp_path):
    """By the file server's clock; without such a journal, or in time, nothing is made."""
    mirror = folders.opened(tmp_path / "mirror", create=True)
    for name in ("a", "b"):
        record(tmp_path / name, component="run")
        shipped(tmp_path / name, mirror.path)
    os.utime(next(mirror.path.glob(f"{id_of(tmp_path / 'a')}/*-*")), (9e9, 9e9))
    assert not copies.fetch(tmp_path / "none", mirror.path, "other", Deadline(600))
    assert not copies.fetch(tmp_path / "none", mirror.path, "run", Deadline(0))
    assert not copies.fetch(tmp_path / "none", tmp_path / "a", "run", Deadline(600))
    assert not (tmp_path / "none").exists()
    assert copies.fetch(tmp_path / "next", mirror.path, "run", Deadline(600))
    assert id_of(tmp_path / "next") == id_of(tmp_path / "a")
    record(tmp_path / "own", component="run")
    assert copies.fetch(tmp_path / "own", mirror.path, "run", Deadline(600))
    assert id_of(tmp_path / "own") not in mirror.journals()
