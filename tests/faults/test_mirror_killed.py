"""Mirroring and reading a mirror: killed before every change of a file, and on disks that fail."""

from __future__ import annotations

import errno
import random
import shutil
from contextlib import closing

import pytest

from journaltrack.errors import LeaseHeldError, MirrorError
from journaltrack.mirror import copies, delivery, folders, segments
from journaltrack.mirror.check import check
from journaltrack.mirror.ship import Shipper
from journaltrack.remotes.memory import MemoryRemote
from tests.builders import CREATION, add_artifact, opened
from tests.copies import content, points, record, sound, states, sync
from tests.faults import faulty_disk
from tests.faults.disktrace import Killing, supported
from tests.patience import scaled

WHY_NOT = supported()
KILLS = scaled(12)
SHIP = """
import sys
from contextlib import closing
from pathlib import Path
from journaltrack.mirror import folders
from journaltrack.mirror.ship import Shipper
mirror = folders.opened(sys.argv[2], create=True)
with closing(Shipper(Path(sys.argv[1]), mirror, segment_bytes=600)) as shipper:
    shipper.copy_blobs(shipper.ship())
"""
EXTEND = """
import os, sys
from pathlib import Path
os.environ["JOURNALTRACK_HOME"] = sys.argv[2]
from journaltrack.mirror import copies, take
take._ROWS = 7
for copied in copies.extended(Path(sys.argv[1])):
    assert copied.problem is None and copied.notes == [], copied
"""
FETCH = """
import sys
from pathlib import Path
from journaltrack.mirror import copies, take
from journaltrack.util.deadline import Deadline
take._ROWS = 7
assert copies.fetch(Path(sys.argv[1]), Path(sys.argv[2]), "run", Deadline(600))
"""
DELIVER = """
import sys
from pathlib import Path
from journaltrack.mirror.delivery import delivering
with delivering(Path(sys.argv[1])):
    pass
"""

JOIN = """
import sys
from pathlib import Path
from journaltrack.mirror import folders, join
join.FANIN, join.GRACE_S = 3, -1.0
(place,) = {path.parent for path in Path(sys.argv[1]).rglob("*.jsonl")}
replica = folders.Replica(Path(sys.argv[1]), place)
joiner = join.Joiner(replica, replica.listed().spans)
for _ in range(6):
    joiner.join()
"""

traced = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def recorded(folder):
    """A journal with an artifact and two processes' points."""
    with opened(folder, {"run": [CREATION, *points(*range(12))]}) as journal:
        add_artifact(journal, b"weights" * 1_000)
    record(folder / "journal", *points(*range(12)), component="other")
    return folder / "journal"


def copy_in(home, mirror, monkeypatch):
    """Extend the copy in a home; returns its folder."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    assert (copied.problem, copied.notes) == (None, [])
    return copied.folder


@traced
def test_a_writer_that_is_killed_leaves_whole_segments(tmp_path, monkeypatch):
    """Killed before any of its changes of the mirror, it leaves nothing but whole segments. The
    next one writes what is missing, no entry twice.
    """
    journal = recorded(tmp_path)
    killing = Killing(SHIP, tmp_path)
    shutil.copytree(journal, tmp_path / "reference")
    changes = killing.changes(tmp_path / "mirror", tmp_path / "reference", tmp_path / "mirror")
    assert changes > 20
    for at in range(1, changes + 1):
        mirror = tmp_path / f"mirror-{at}"
        shutil.copytree(journal, tmp_path / f"journal-{at}")
        source = tmp_path / f"journal-{at}"
        assert killing.killed(mirror, source, mirror, at=at)
        for path in mirror.rglob("*.jsonl"):
            segments.parse(path.read_bytes(), path.name)
        assert not killing.killed(mirror, source, mirror, at=None)
        assert not list(mirror.rglob(".*.jsonl.*"))
        (found,) = check(folders.opened(mirror))
        assert found.is_well
        assert found.entries == len(content(journal)), at
        copy = copy_in(tmp_path / f"home-{at}", mirror, monkeypatch)
        assert content(copy) == content(journal)
        shutil.rmtree(mirror)


@traced
def test_a_writer_that_is_killed_while_it_joins_loses_nothing(tmp_path, monkeypatch):
    """Killed before any of its changes while it joins segments and removes those that it joined,
    the mirror is proved as before, by new readers and by one in the middle. The next one ends it.
    """
    journal = recorded(tmp_path)
    kept = folders.opened(tmp_path / "kept", create=True)
    with closing(Shipper(journal, kept, segment_bytes=300)) as shipper:
        shipper.copy_blobs(shipper.ship())
    (replica,) = {path.parent for path in kept.path.rglob("*.jsonl")}
    part = folders.opened(tmp_path / "mirror", create=True)
    shutil.copytree(kept.path, part.path, dirs_exist_ok=True)
    place = part.path / replica.relative_to(kept.path)
    for path in sorted(place.iterdir())[5:]:
        path.unlink()
    copy_in(tmp_path / "middle", part.path, monkeypatch)
    killing = Killing(JOIN, tmp_path)
    shutil.copytree(kept.path, tmp_path / "reference")
    changes = killing.changes(tmp_path / "reference", tmp_path / "reference")
    assert changes > 12
    for at in sorted(random.Random(2).sample(range(1, changes + 1), KILLS // 2 + 1)):
        shutil.rmtree(part.path)
        shutil.copytree(kept.path, part.path)
        assert killing.killed(part.path, part.path, at=at)
        for home in ("middle", f"new-{at}"):
            here = tmp_path / f"{home}-{at}"
            if (tmp_path / home).exists():
                shutil.copytree(tmp_path / home, here)
            assert content(copy_in(here, part.path, monkeypatch)) == content(journal)
        (found,) = check(part)
        assert found.is_well
        assert not killing.killed(part.path, part.path, at=None)
        left = list(part.path.rglob("*.jsonl"))
        assert len(left) < len(list(replica.iterdir()))
        (found,) = check(part)
        assert found.is_well
        assert found.entries == len(content(journal))


@traced
def test_a_run_whose_continuing_is_killed_continues_the_next_time(tmp_path):
    """Killed before any of its changes, a node that fetches the journal of a run has that journal
    as a whole, or none. The next start has it, and can go on with it.
    """
    journal = tmp_path / "journal"
    for component in ("run", "other"):
        record(journal, *points(*range(12)), component=component)
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(journal, mirror, segment_bytes=600)) as shipper:
        shipper.ship()
    killing = Killing(FETCH, tmp_path)
    (tmp_path / "reference").mkdir()
    reference = tmp_path / "reference"
    changes = killing.changes(reference, reference / "journal", mirror.path)
    assert changes > 20
    for at in sorted(random.Random(3).sample(range(1, changes + 1), KILLS // 2)):
        node = tmp_path / f"node-{at}"
        node.mkdir()
        assert killing.killed(node, node / "journal", mirror.path, at=at)
        if (node / "journal" / "journal.db").exists():
            assert content(node / "journal") == content(journal)
        assert not killing.killed(node, node / "journal", mirror.path, at=None)
        assert content(node / "journal") == content(journal)
        sound(node / "journal")
        record(node / "journal", *points(1), component="run")


@traced
@pytest.mark.parametrize("is_delivered", [False, True])
def test_a_reader_that_is_killed_goes_on(tmp_path, monkeypatch, is_delivered):
    """Killed before any change of its copy, it goes on, with every entry once. Where the node had
    delivered some, no copy that was left sends them again.
    """
    journal = recorded(tmp_path)
    if is_delivered:
        sync(journal, MemoryRemote())
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(journal, mirror, segment_bytes=600)) as shipper:
        shipper.copy_blobs(shipper.ship())
    killing = Killing(EXTEND, tmp_path)
    changes = killing.changes(tmp_path / "reference", mirror.path, tmp_path / "reference")
    for at in [*random.Random(1).sample(range(1, changes), KILLS - 1), changes]:
        home = tmp_path / f"home-{at}"
        assert killing.killed(home, mirror.path, home, at=at)
        for copy in (home / "mirrors").glob("*/[0-9a-f]*/journal.db"):
            found = content(copy.parent)
            assert found.keys() <= content(journal).keys()
        assert not killing.killed(home, mirror.path, home, at=None)
        copy = copy_in(home, mirror.path, monkeypatch)
        assert content(copy) == content(journal)
        sound(copy)
        shutil.rmtree(home)


@traced
def test_a_claim_survives_a_kill_and_nobody_else_has_it(tmp_path, monkeypatch):
    """Killed before any change while it claims, writes its receipts and releases: it goes on, and
    another copy delivers only after a release, never beside it.
    """
    journal = recorded(tmp_path)
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with closing(Shipper(journal, mirror)) as shipper:
        shipper.copy_blobs(shipper.ship())
    one = copy_in(tmp_path / "one", mirror.path, monkeypatch)
    sync(one, MemoryRemote())
    two = copy_in(tmp_path / "two", mirror.path, monkeypatch)
    kept = tmp_path / "kept"
    shutil.copytree(mirror.path, kept)
    killing = Killing(DELIVER, tmp_path)
    changes = killing.changes(mirror.path, one)
    (journal_id,) = mirror.journals()
    for at in range(1, changes + 1):
        shutil.rmtree(mirror.path)
        shutil.copytree(kept, mirror.path)
        assert killing.killed(mirror.path, one, at=at)
        claim = delivery.newest(mirror, journal_id)
        if claim.number and claim.released is None:
            with pytest.raises(LeaseHeldError), delivery.delivering(two):
                pass
        assert not killing.killed(mirror.path, one, at=None)
        assert delivery.newest(mirror, journal_id).released is not None
        assert copy_in(tmp_path / "two", mirror.path, monkeypatch) == two
        assert states(two) == states(one)


def refused(journal, folder, call, number):
    """Write into a mirror whose file system fails, then into the same one when it works."""
    mirror = folders.opened(folder, create=True)
    with closing(Shipper(journal, mirror, segment_bytes=600)) as shipper:
        shipper.copy_blobs(shipper.ship())
        before = list(folder.rglob("[0-9]*.jsonl"))
        record(journal, *points(*range(12)), component="later")
        with pytest.raises(MirrorError) as caught:
            faulty_disk.failing(shipper.ship, [call], number)
        assert caught.value.hint
        assert list(folder.rglob("[0-9]*.jsonl")) == before
        shipper.copy_blobs(shipper.ship())
    (found,) = check(mirror)
    assert found.is_well
    assert found.entries == len(content(journal))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_failing_file_system_loses_nothing(tmp_path, number, call):
    """When the shared file system fails, the writer says so, and nothing has a segment's name. The
    next attempt writes everything.
    """
    faulty_disk.assert_in_child(refused, recorded(tmp_path), tmp_path / "mirror", call, number)


def full(journal, disk):
    """Write into a mirror on a disk without room, then with room."""
    faulty_disk.small_disk(disk)
    mirror = folders.opened(disk / "mirror", create=True)
    with closing(Shipper(journal, mirror, segment_bytes=600)) as shipper:
        ballast = faulty_disk.Ballast(disk, leave_bytes=6_000)
        with pytest.raises(MirrorError, match="space") as caught:
            shipper.copy_blobs(shipper.ship())
        assert "free space" in caught.value.hint
        for path in disk.rglob("[0-9]*.jsonl"):
            segments.parse(path.read_bytes(), path.name)
        ballast.drop()
        shipper.copy_blobs(shipper.ship())
    (found,) = check(mirror)
    assert found.is_well
    assert found.entries == len(content(journal))


def test_a_full_file_system_loses_nothing(tmp_path):
    """On a full shared disk, what has a name is whole. With room again, the rest is written."""
    faulty_disk.assert_in_child(full, recorded(tmp_path), tmp_path / "disk")
