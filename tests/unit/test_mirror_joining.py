"""Many small segments of a mirror become few: what readers, the writer and check make of it."""

from __future__ import annotations

import itertools
import random
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.mirror import copies, folders, join
from journaltrack.mirror.check import check
from journaltrack.mirror.join import FANIN, GRACE_S, Joiner
from journaltrack.mirror.ship import Shipper
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import PutMetrics
from tests.builders import CREATION, add_artifact, opened
from tests.copies import content, points, record, sound, states, sync


def grown(journal, mirror, count):
    """A journal that was mirrored after each of its entries; returns its replica's folder."""
    found = folders.opened(mirror, create=True)
    with opened(journal.parent, {"run": []}) as log, closing(Shipper(journal, found)) as shipper:
        component = log.component("run")
        for value in range(count):
            log.append(component, points(value))
            log.flush()
            shipper.ship()
    return replica_in(mirror)


def replica_in(mirror):
    """The one replica of a mirror."""
    (place,) = {path.parent for path in Path(mirror).rglob("*.jsonl")}
    return folders.Replica(Path(mirror), place)


def joiner_of(replica, times=None):
    """A joiner on a clock of its own, which the first call shows as 0."""
    return Joiner(
        replica, replica.listed().spans, clock=iter(times or itertools.repeat(0.0)).__next__
    )


def removed_all(replica):
    """Join what is due, and remove all that is stood for, however long that takes."""
    now = itertools.count(0.0, GRACE_S)
    joiner = Joiner(replica, replica.listed().spans, clock=lambda: next(now))
    joiner.join()
    for _ in range(3 * FANIN):
        joiner.join()


def files(replica):
    """The names of a replica's files."""
    return sorted(path.name for path in replica.path.iterdir())


def copy_in(home, mirror, monkeypatch):
    """Extend the copy in a home, without anything left open; returns its folder."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    assert (copied.problem, copied.notes) == (None, [])
    return copied.folder


def well(mirror, journal):
    """A mirror proves that nothing of a journal is missing."""
    (found,) = check(folders.opened(mirror))
    assert found.is_well, found
    assert found.entries == len(content(journal))
    return found


def test_many_segments_become_few_that_say_the_same(tmp_path, monkeypatch):
    """Of 200 segments, three stand for 192, and those go after a while. Who reads the mirror for
    the first time, who had read a part of it, and check find every entry, once.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 70)
    early = copy_in(tmp_path / "early", mirror, monkeypatch)
    grown(journal, mirror, 130)
    joiner = joiner_of(replica, [*[0.0] * 4, *[GRACE_S - 1] * 1_000])
    assert joiner.join() == 3 * FANIN
    names = files(replica)
    assert len(names) == 203
    assert joiner.join() == 0
    assert files(replica) == names
    well(mirror, journal)
    removed_all(replica)
    assert files(replica) == [
        "00000001-00000064.jsonl",
        "00000065-00000128.jsonl",
        "00000129-00000192.jsonl",
        *(f"{number:08d}.jsonl" for number in range(193, 201)),
    ]
    found = well(mirror, journal)
    assert (found.segments, found.files) == (11, 11)
    for home in ("early", "late"):
        copied = copy_in(tmp_path / home, mirror, monkeypatch)
        assert content(copied) == content(journal)
        sound(copied)
    assert copied != early


def test_joined_segments_are_joined_again(tmp_path, monkeypatch):
    """Sixty-four segments that stand for sixty-four each become one: files grow with the
    logarithm. One above the size stays as it is.
    """
    monkeypatch.setattr(join, "FANIN", 4)
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 70)
    removed_all(replica)
    assert files(replica) == [
        "00000001-00000064.jsonl",
        "00000065-00000068.jsonl",
        "00000069.jsonl",
        "00000070.jsonl",
    ]
    well(mirror, journal)
    monkeypatch.setattr(join, "JOINED_BYTES", 8_000)
    more = tmp_path / "more"
    replica = grown(more / "journal", more / "mirror", 70)
    removed_all(replica)
    sizes = [path.stat().st_size for path in sorted(replica.path.iterdir())]
    assert all(size <= 8_000 for size in sizes)
    assert 2 < len(sizes) < 25
    well(more / "mirror", more / "journal")


def test_the_writer_goes_on_behind_joined_segments(tmp_path, monkeypatch):
    """Whether it goes on, or is another process that finds nothing but a joined segment: the next
    segment continues the last one that was joined, for readers of either.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    grown(journal, mirror, FANIN)
    before = copy_in(tmp_path / "before", mirror, monkeypatch)
    removed_all(replica_in(mirror))
    assert files(replica_in(mirror)) == ["00000001-00000064.jsonl"]
    grown(journal, mirror, 3)
    assert files(replica_in(mirror))[1:] == [f"{n:08d}.jsonl" for n in (65, 66, 67)]
    well(mirror, journal)
    for home in ("before", "anew"):
        assert content(copy_in(tmp_path / home, mirror, monkeypatch)) == content(journal)
    sound(before)


def test_a_follower_joins_what_it_wrote_without_reading_it(tmp_path):
    """What this process wrote it has in memory: a file that the server lost meanwhile comes back
    within the joined one.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    found = folders.opened(mirror, create=True)
    with opened(tmp_path, {"run": []}) as log, closing(Shipper(journal, found)) as shipper:
        component = log.component("run")
        for value in range(FANIN):
            log.append(component, points(value))
            log.flush()
            shipper.ship()
        replica = replica_in(mirror)
        for number in (1, 7, 64):
            replica.file(folders.Span(number, number)).write_bytes(b"")
        shipper.join()
    assert "00000001-00000064.jsonl" in files(replica)
    well(mirror, journal)


@pytest.mark.parametrize("lost", [(1,), (30,), (63,), (64,), (5, 40)])
def test_a_gap_is_never_covered(tmp_path, lost):
    """Segments behind one that the server has lost are not joined with those before it: check
    still says what is missing. The writer that begins again fills the gap.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 70)
    for number in lost:
        replica.file(folders.Span(number, number)).unlink()
    removed_all(replica)
    (found,) = check(folders.opened(mirror))
    assert not found.is_well
    grown(journal, mirror, 1)
    removed_all(replica)
    (found,) = check(folders.opened(mirror))
    assert found.is_well, found


def test_a_cut_segment_that_was_written_again_is_covered(tmp_path, monkeypatch):
    """A segment that a server cut, and that the next one stands in for, goes with those that are
    joined.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 20)
    cut = replica.file(folders.Span(20, 20))
    cut.write_bytes(cut.read_bytes()[:-5])
    grown(journal, mirror, 50)
    removed_all(replica)
    assert "00000001-00000064.jsonl" in files(replica)
    assert len(files(replica)) == 1 + 6
    assert content(copy_in(tmp_path / "home", mirror, monkeypatch)) == content(journal)


def test_a_joined_segment_that_was_cut_is_stood_in_for_by_what_it_was_made_of(
    tmp_path, monkeypatch
):
    """A server that lost a part of the joined segment: what it was made of stays, and is read."""
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 70)
    joiner = joiner_of(replica, [*[0.0] * 4, *[GRACE_S + 1] * 1_000])
    joiner.join()
    whole = replica.file(folders.Span(1, 64))
    whole.write_bytes(whole.read_bytes()[:-5])
    for _ in range(FANIN):
        joiner.join()
    assert len(files(replica)) == 71
    well(mirror, journal)
    assert content(copy_in(tmp_path / "home", mirror, monkeypatch)) == content(journal)


@pytest.mark.slow
def test_a_reader_in_the_middle_goes_on(tmp_path, monkeypatch):
    """Wherever a reader is when segments are joined and removed, at the beginning, in the middle
    of a joined one, or at the end, it has every entry once afterwards.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    for count in (1, 40, 23, 1, 60):
        grown(journal, mirror, count)
        copy_in(tmp_path / f"at-{len(content(journal))}", mirror, monkeypatch)
    monkeypatch.setattr(join, "FANIN", 5)
    removed_all(replica_in(mirror))
    assert len(files(replica_in(mirror))) < 10
    for home in tmp_path.glob("at-*"):
        copied = copy_in(home, mirror, monkeypatch)
        assert content(copied) == content(journal)
        sound(copied)


def test_files_that_go_while_they_are_read_are_no_gap(tmp_path, monkeypatch):
    """A reader has listed segments; before it reads them, others stand for them and they are gone.
    It lists again, takes everything, and tells of nothing.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    replica = grown(journal, mirror, 70)
    listed = folders.Replica.listed
    done = []

    def listed_then_joined(self, *arguments, **options):
        """What the folder held before its writer joined and removed."""
        found = listed(self, *arguments, **options)
        if not done:
            done.append(True)
            removed_all(replica)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(folders.Replica, "listed", listed_then_joined)
        copied = copy_in(tmp_path / "home", mirror, monkeypatch)
    assert content(copied) == content(journal)
    replica = grown(tmp_path / "more" / "journal", tmp_path / "more" / "mirror", 70)
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(folders.Replica, "listed", listed_then_joined)
        well(tmp_path / "more" / "mirror", tmp_path / "more" / "journal")


def test_what_became_of_entries_is_joined_too(tmp_path, monkeypatch):
    """Receipts, artifacts, in doubt and answers that came later say the same in one segment as in
    many: nothing is sent twice, and nothing is in doubt that was answered.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    monkeypatch.setattr(join, "FANIN", 3)
    found = folders.opened(mirror, create=True)
    remote = MemoryRemote()

    def ship():
        """Write what is new, by a new process."""
        with closing(Shipper(journal, found)) as shipper:
            shipper.copy_blobs(shipper.ship())

    with opened(tmp_path, {"run": [CREATION, *points(1, 2)]}) as log:
        add_artifact(log, b"weights")
    ship()
    sync(journal, remote)
    ship()
    record(journal, *points(3, 4), vocabulary.local_metric("system/cpu", 0.5, 1))
    ship()
    sync(journal, remote)
    record(journal, *points(5))
    ship()
    removed_all(replica_in(mirror))
    assert len(files(replica_in(mirror))) < 4
    copied = copy_in(tmp_path / "home", mirror, monkeypatch)
    assert content(copied) == content(journal)
    assert states(copied) == states(journal)
    sound(copied)
    # The node delivered all but the last process's entries.
    assert sync(copied, remote).in_doubt == 0
    assert states(copied).keys() == {"delivered"}


def test_a_question_and_its_answer_in_one_segment_are_the_answer(tmp_path, monkeypatch):
    """Where points were in flight in one segment and delivered in the next, a reader that finds
    both in one has them delivered, as one that read them apart.
    """
    monkeypatch.setattr(join, "FANIN", 3)
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    found = folders.opened(mirror, create=True)
    record(journal, *points(1, 2))
    with closing(Journal.open(journal)) as log, closing(Shipper(journal, found)) as shipper:
        shipper.ship()
        lease = leases.acquire(log.database)
        settlement = Settlement(log.database, lease)
        (receipt_id,) = settlement.begin([Intent(PutMetrics.action, 1, [2, 3])])
        shipper.ship()
        apart = copy_in(tmp_path / "apart", mirror, monkeypatch)
        assert states(apart) == {"pending": 1, "in doubt": 2}
        settlement.finish([Outcome(receipt_id, 1, "delivered", 1, "r-1", delivered=[2, 3])])
        lease.release()
        shipper.ship()
    removed_all(replica_in(mirror))
    assert files(replica_in(mirror)) == ["00000001-00000003.jsonl"]
    for home in ("apart", "at once"):
        copied = copy_in(tmp_path / home, mirror, monkeypatch)
        assert states(copied) == {"pending": 1, "delivered": 2}
        sound(copied)


@pytest.mark.slow
def test_a_random_history_is_proved_at_every_moment(tmp_path, monkeypatch):
    """Writers that begin again, servers that cut the last file, joins and removals in any order:
    a mirror that is well before is well behind, and every copy gets every entry.
    """
    monkeypatch.setattr(join, "FANIN", 3)
    chance = random.Random(7)
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    for turn in range(25):
        replica = grown(journal, mirror, chance.randrange(1, 4))
        if chance.random() < 0.3:
            last = max(replica.listed().spans, key=lambda span: (span.last, span.first))
            if last.first == last.last:
                path = replica.file(last)
                path.write_bytes(path.read_bytes()[: chance.randrange(50)])
                grown(journal, mirror, 1)
        if chance.random() < 0.5:
            removed_all(replica)
        else:
            joiner_of(replica).join()
        (found,) = check(folders.opened(mirror))
        assert found.is_well, (turn, found)
        if chance.random() < 0.4:
            home = tmp_path / chance.choice(["one", "two", f"new-{turn}"])
            assert content(copy_in(home, mirror, monkeypatch)) == content(journal)
    sound(copy_in(tmp_path / "one", mirror, monkeypatch))


def test_a_million_names_are_listed_in_little_memory(tmp_path, monkeypatch):
    """Of a folder's names, a listing keeps so many, in the order in which they are read, and the
    next one goes on behind them; what is no segment's name is none.
    """
    replica = folders.Replica(tmp_path, tmp_path / "replica")
    replica.path.mkdir()
    names = ["1.jsonl", "0000001.jsonl", "00000000.jsonl", "00000009-00000003.jsonl"]
    names += ["00000003-00000003.jsonl", ".00000001.jsonl", "00000001.jsonl.partial"]
    names += [
        "000000001.jsonl",
        "\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.jsonl",
        "x" * 200,
    ]
    for name in [*names, *(f"{number:08d}.jsonl" for number in range(1, 31))]:
        (replica.path / name).touch()
    (replica.path / "00000004-00000009.jsonl").touch()
    (replica.path / "00000031.jsonl").symlink_to("nowhere")
    monkeypatch.setattr(folders, "LISTED_MAX", 10)
    found, beyond = [], None
    while True:
        listing = replica.listed(beyond=beyond)
        assert (listing.newest, listing.files) == (31, 32)
        found += listing.spans
        beyond = found[-1]
        if listing.is_all:
            break
    expected = [folders.Span(n, n) for n in range(1, 32)]
    expected.insert(3, folders.Span(4, 9))
    assert found == expected
    assert replica.latest(2) == expected[:-3:-1]
    assert replica.listed(after=30).spans == [folders.Span(31, 31)]
