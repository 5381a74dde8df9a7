"""A mirror that others have written to: segments and folders that are lost, moved, repeated or put
back to an earlier state, odd names and sizes. Each is told, nothing unproved is taken, and nothing
is lost of the rest.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack.errors import EvidenceError, MirrorError
from journaltrack.mirror import copies, folders
from journaltrack.mirror.check import check
from journaltrack.mirror.ship import Shipper
from tests.builders import CREATION, add_artifact, opened
from tests.copies import content, points, record, sound


def mirrored(journal, mirror, *values):
    """Record points, one segment for each, and mirror them."""
    with closing(Shipper(journal, folders.opened(mirror, create=True))) as shipper:
        for value in values:
            record(journal, *points(value))
            shipper.copy_blobs(shipper.ship())


def extended(mirror, home, monkeypatch):
    """Extend the copy in a home."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    return copied


@pytest.fixture
def place(tmp_path):
    """A journal with an artifact, and its mirror of six segments."""
    with opened(tmp_path, {"run": [CREATION]}) as journal:
        add_artifact(journal, b"weights")
    mirrored(tmp_path / "journal", tmp_path / "mirror", *range(6))
    return tmp_path


def replica_in(mirror):
    """The folder of the first replica."""
    return min(path.parent for path in Path(mirror).rglob("*.jsonl"))


def complete(place, monkeypatch, *homes):
    """After the writer has begun again, and logged more, every reader has everything."""
    mirrored(place / "journal", place / "mirror", 100)
    mirrored(place / "journal", place / "mirror", 101)
    for home in (*homes, "new"):
        copied = extended(place / "mirror", place / home, monkeypatch)
        assert (copied.problem, copied.notes) == (None, []), home
        assert content(copied.folder) == content(place / "journal"), home
        sound(copied.folder)
    assert all(each.is_well for each in check(folders.opened(place / "mirror")))


@pytest.mark.parametrize(("first", "last"), [(1, 6), (1, 3), (3, 4), (5, 6), (6, 6)], ids=str)
def test_segments_that_are_lost_are_written_again(place, monkeypatch, first, last):
    """Whichever segments are deleted, check and new readers say so, and the writer that begins
    again writes what was in them; who had read them has nothing twice.
    """
    extended(place / "mirror", place / "before", monkeypatch)
    for number in range(first, last + 1):
        (replica_in(place / "mirror") / f"{number:08d}.jsonl").unlink()
    left = extended(place / "mirror", place / "after", monkeypatch) if last < 6 else None
    assert left is None or left.notes or left.folder is None
    complete(place, monkeypatch, "before", "after")


@pytest.mark.parametrize("what", ["replica", "journal"])
def test_a_folder_that_was_deleted_is_written_again(place, monkeypatch, what):
    """Whoever deletes a replica's folder, or all of a journal's, while its writer lives or between
    two: everything is written again, under numbers that no reader has seen.
    """
    extended(place / "mirror", place / "before", monkeypatch)
    journal, mirror = place / "journal", place / "mirror"
    folder = replica_in(mirror) if what == "replica" else replica_in(mirror).parent
    with closing(Shipper(journal, folders.opened(mirror))) as shipper:
        shipper.ship()
        shutil.rmtree(folder)
        record(journal, *points(50))
        with pytest.raises(MirrorError, match="was removed"):
            shipper.ship()
        shipper.copy_blobs(shipper.ship())
    assert min(replica_in(mirror).iterdir()).name > "00000006.jsonl"
    complete(place, monkeypatch, "before")
    shutil.rmtree(replica_in(mirror) if what == "replica" else replica_in(mirror).parent)
    complete(place, monkeypatch, "before")


def test_a_mirror_that_was_put_back_to_an_earlier_state_goes_on(place, monkeypatch):
    """A backup of the shared file system lacks the last segments. Who had read those gets what
    comes, and so does who had not: no number means two segments.
    """
    shutil.copytree(place / "mirror", place / "backup")
    mirrored(place / "journal", place / "mirror", 10, 11, 12)
    extended(place / "mirror", place / "before", monkeypatch)
    shutil.rmtree(place / "mirror")
    (place / "backup").rename(place / "mirror")
    record(place / "journal", *points(20, 21))
    complete(place, monkeypatch, "before")


def test_a_segment_under_another_number_brings_nothing(place, monkeypatch):
    """A segment that was copied to another number, into another replica, or as one that stands for
    others, is refused, and what was there before stays.
    """
    mirror, replica = place / "mirror", replica_in(place / "mirror")
    before = content(extended(mirror, place / "home", monkeypatch).folder)
    other = replica.with_name(f"twin-{'0' * 16}")
    other.mkdir()
    for target in (
        replica / "00000007.jsonl",
        replica / "00000001-00000007.jsonl",
        other / "00000006.jsonl",
    ):
        shutil.copy(replica / "00000006.jsonl", target)
        copied = extended(mirror, place / "home", monkeypatch)
        assert [type(each.problem) for each in copied.replicas if each.problem] == [EvidenceError]
        assert content(copied.folder) == before
        assert not all(each.is_well for each in check(folders.opened(mirror)))
        target.unlink()
    other.rmdir()
    complete(place, monkeypatch, "home")


def test_a_replica_under_another_name_holds_nothing_else_up(place, monkeypatch):
    """A folder that was copied under another replica's name is refused as a whole; the original is
    read, and its writer goes on.
    """
    replica = replica_in(place / "mirror")
    shutil.copytree(replica, replica.with_name(f"a-{'0' * 16}"))
    copied = extended(place / "mirror", place / "home", monkeypatch)
    assert [each.problem is None for each in copied.replicas] == [False, True]
    assert content(copied.folder) == content(place / "journal")
    shutil.rmtree(replica.with_name(f"a-{'0' * 16}"))
    complete(place, monkeypatch, "home")


def test_odd_names_and_sizes_are_no_segments(place, monkeypatch):
    """Empty files, files larger than a segment may be, folders, pipes and links with a segment's
    name, numbers beyond any count, and names that are none: told, or nobody's business. Nobody
    waits for ever, and no writer writes through a link.
    """
    mirror, replica = place / "mirror", replica_in(place / "mirror")
    for name in ("notes.txt", "..jsonl", "00000001.jsonl~", "9" * 18, "x" * 255, "-00000003.jsonl"):
        (replica / name).write_text("x")
    copied = extended(mirror, place / "home", monkeypatch)
    assert copied.notes == []
    (replica / "00000007.jsonl").touch()
    with (replica / "00000008.jsonl").open("wb") as huge:
        huge.truncate(1 << 40)
    (replica / "00000009.jsonl").mkdir()
    (replica / "00000010.jsonl").symlink_to("/dev/zero")
    (replica / "00000011.jsonl").write_bytes(b"[" * (8 << 20) + b"\n")
    (replica / f"{10**17}.jsonl").write_text("{}\n{}\n")
    (note,) = extended(mirror, place / "home", monkeypatch).notes
    assert "segment 7 is not whole" in note
    (found,) = check(folders.opened(mirror))
    assert found.damaged[:2] == [7, 8]
    assert len(found.missing) <= 1_000
    mirrored(place / "journal", mirror, 30)
    assert (replica / f"{10**17 + 1}.jsonl").exists()
    complete(place, monkeypatch, "home")


def test_a_link_in_place_of_a_folder_leads_nowhere(place, monkeypatch):
    """A journal's or a replica's folder that is a link is not there for readers; the writer says
    so, and writes nothing behind it.
    """
    mirror, replica = place / "mirror", replica_in(place / "mirror")
    for folder in (replica, replica.parent):
        away = place / "away"
        folder.rename(away)
        folder.symlink_to(away)
        before = sorted(away.rglob("*"))
        monkeypatch.setenv("JOURNALTRACK_HOME", str(place / f"home of {folder.name}"))
        assert [each.folder for each in copies.extended(mirror)] in ([], [None])
        record(place / "journal", *points(40))
        with (
            closing(Shipper(place / "journal", folders.opened(mirror))) as shipper,
            pytest.raises(MirrorError, match="It is a link"),
        ):
            shipper.ship()
        assert sorted(away.rglob("*")) == before
        folder.unlink()
        away.rename(folder)
    complete(place, monkeypatch)
