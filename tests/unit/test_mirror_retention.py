"""Journals that were delivered long ago leave a mirror, on the record."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.errors import LeaseHeldError
from journaltrack.mirror import copies, delivery, folders, retention
from journaltrack.mirror.check import check
from journaltrack.mirror.follower import Follower
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.util.intervals import SEQ_MAX
from tests.builders import CREATION, add_artifact, opened
from tests.copies import content, points, read, record, sound, states, sync
from tests.faults.disktrace import Killing, supported
from tests.patience import scaled

WHY_NOT = supported()
PRUNE = f"""
import os, sys
from pathlib import Path
os.environ["JOURNALTRACK_HOME"] = sys.argv[2]
from journaltrack.mirror import retention
retention.prune(Path(sys.argv[1]), {SEQ_MAX})
"""


def ship(journal, mirror):
    """Mirror a journal as it is, and take over what came back."""
    return Follower(journal, folders.opened(mirror, create=True)).once()


def extended(mirror, home, monkeypatch):
    """Extend the copy of the one journal, in a home."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    return copied


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A journal with an artifact, mirrored, and delivered from a copy that has ended that."""
    with opened(tmp_path, {"run": [CREATION, *points(1, 2)]}) as journal:
        add_artifact(journal, b"weights")
    ship(tmp_path / "journal", tmp_path / "mirror")
    copied = extended(tmp_path / "mirror", tmp_path / "home", monkeypatch).folder
    with delivery.delivering(copied):
        sync(copied, MemoryRemote())
    return tmp_path


def left(mirror):
    """The names of the files in a mirror, without a journal's id."""
    return sorted(path.name for path in Path(mirror).rglob("*") if path.is_file())


def test_what_was_delivered_leaves_the_mirror_on_the_record(place, monkeypatch):
    """Segments and artifacts are gone; claims and the record stay. It says up to which entry the
    mirror had everything. The copy is as before, check finds nothing missing, and a second
    call changes nothing.
    """
    before = extended(place / "mirror", place / "home", monkeypatch)
    files = left(place / "mirror")
    (told,) = retention.prune(place / "mirror", SEQ_MAX, dry_run=True)
    # Two segments, an artifact and a heartbeat.
    assert (told.why_not, told.files) == (None, 4)
    arguments = ["mirror", "--prune", "--delivered-before", "2500-01-01", "--dry-run"]
    said = CliRunner().invoke(main, [*arguments, str(place / "mirror")])
    assert "in 4 files" in said.output, said.output
    assert "would be removed; its copy is" in said.output
    assert left(place / "mirror") == files
    (done,) = retention.prune(place / "mirror", SEQ_MAX)
    assert done == told
    assert left(place / "mirror") == [
        "00000001.claim",
        "00000001.released",
        "journaltrack-mirror.json",
        "removed.json",
    ]
    (written,) = retention.removed(folders.opened(place / "mirror")).values()
    last = "SELECT w.uuid, max(e.writer_seq), hex(e.digest) FROM entry e JOIN writer w ON w.id = "
    rows = read(place / "journal", f"{last} e.writer_id GROUP BY w.uuid")
    assert written["heads"] == {uuid: [place, digest.lower()] for uuid, place, digest in rows}
    assert len(written["replicas"]) == 2
    assert check(folders.opened(place / "mirror")) == []
    after = extended(place / "mirror", place / "home", monkeypatch)
    assert (after.problem, after.notes) == (None, [])
    assert content(after.folder) == content(before.folder)
    assert retention.prune(place / "mirror", SEQ_MAX) == []
    said = CliRunner().invoke(main, ["mirror", "--check", str(place / "mirror")]).output
    assert "removed on the record" in said


@pytest.mark.parametrize("why", ["not delivered", "in doubt", "that time", "delivers", "all of it"])
def test_what_is_not_delivered_and_proved_stays(place, monkeypatch, why):
    """Pending entries, entries in doubt, young deliveries, a machine that delivers, segments that
    this machine does not have: the journal stays in the mirror, and the reason is told.
    """
    before_ns, mirror = SEQ_MAX, place / "mirror"
    copied = extended(mirror, place / "home", monkeypatch).folder
    if why == "not delivered":
        record(place / "journal", *points(3))
        ship(place / "journal", mirror)
    elif why == "in doubt":
        record(place / "journal", *points(3))
        ship(place / "journal", mirror)
        extended(mirror, place / "home", monkeypatch)
        with delivery.delivering(copied, stay=True):
            pass
        two = extended(mirror, place / "two", monkeypatch).folder
        delivery.take_over(two, folders.opened(mirror))
        delivery.release(two)
        monkeypatch.setenv("JOURNALTRACK_HOME", str(place / "two"))
    elif why == "that time":
        before_ns = 1
    elif why == "delivers":
        with delivery.delivering(copied, stay=True):
            pass
    else:
        segment = min(mirror.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        segment.write_bytes(segment.read_bytes()[:-3])
        monkeypatch.setenv("JOURNALTRACK_HOME", str(place / "new"))
    files = left(mirror)
    (done,) = retention.prune(mirror, before_ns)
    assert why in done.why_not or (why, done.copy) == ("all of it", None)
    assert left(mirror) == files
    said = CliRunner().invoke(
        main, ["mirror", "--prune", "--delivered-before", "1d", str(mirror), "--json"]
    )
    assert json.loads(said.stdout)["journals"][0]["why_not"]


def test_a_node_that_comes_back_sends_nothing_again(place, monkeypatch):
    """A node that goes on after that writes its journal again. Who has a copy gets what is new;
    nobody without the receipts sends anything, neither the node nor a new reader.
    """
    copied = extended(place / "mirror", place / "home", monkeypatch).folder
    retention.prune(place / "mirror", SEQ_MAX)
    record(place / "journal", *points(7))
    ship(place / "journal", place / "mirror")
    assert all(each.is_well for each in check(folders.opened(place / "mirror")))
    new = extended(place / "mirror", place / "new", monkeypatch).folder
    for journal in (place / "journal", new):
        with pytest.raises(LeaseHeldError, match="receipts"), delivery.delivering(journal):
            pass
    assert extended(place / "mirror", place / "home", monkeypatch).notes == []
    assert content(copied).keys() == content(place / "journal").keys()
    remote = MemoryRemote()
    with delivery.delivering(copied):
        assert sync(copied, remote).delivered == 2
    assert states(extended(place / "mirror", place / "new", monkeypatch).folder) == states(copied)
    sound(copied)


def test_a_pass_with_nothing_to_send_writes_no_removed_journal_again(place, monkeypatch):
    """A watcher and each sync look at the copies of removed journals, too. Nothing but claims comes
    into the mirror by that, and a new reader finds no journal there. The receipts go with a pass
    after the node came back.
    """
    copied = extended(place / "mirror", place / "home", monkeypatch).folder
    retention.prune(place / "mirror", SEQ_MAX)
    with delivery.delivering(copied):
        sync(copied, MemoryRemote())
    assert not any(name.endswith(".jsonl") for name in left(place / "mirror"))
    assert retention.prune(place / "mirror", SEQ_MAX) == []
    assert extended(place / "mirror", place / "new", monkeypatch).folder is None
    record(place / "journal", *points(7))
    ship(place / "journal", place / "mirror")
    assert extended(place / "mirror", place / "home", monkeypatch).notes == []
    with delivery.delivering(copied):
        assert sync(copied, MemoryRemote()).pending == 0
    new = extended(place / "mirror", place / "new", monkeypatch)
    assert (new.notes, states(new.folder)) == ([], states(copied))
    ship(place / "journal", place / "mirror")
    assert states(place / "journal") == states(copied)


def test_what_its_writer_wrote_meanwhile_is_put_back(place, monkeypatch):
    """A segment that came after this machine looked stays, with those before it."""
    extend = copies.extended

    def extended_then_more(folder):
        """Somebody logs right after the look."""
        found = extend(folder)
        record(place / "journal", *points(9))
        ship(place / "journal", place / "mirror")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(copies, "extended", extended_then_more)
        retention.prune(place / "mirror", SEQ_MAX)
    assert extended(place / "mirror", place / "home", monkeypatch).notes == []
    new = extended(place / "mirror", place / "new", monkeypatch)
    assert content(new.folder).keys() == content(place / "journal").keys()


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_prune_that_is_killed_is_completed(place, monkeypatch):
    """Killed before any change of the mirror, it has lost nothing that is not on the record, and
    the next one ends it.
    """
    kept, mirror = place / "kept", place / "mirror"
    mirror.rename(kept)
    shutil.copytree(kept, mirror)
    killing = Killing(PRUNE, place)
    shutil.copytree(place / "home", place / "reference")
    changes = killing.changes(mirror, mirror, place / "reference")
    for at in random.Random(3).sample(range(1, changes + 1), min(changes, scaled(8))):
        shutil.rmtree(mirror)
        shutil.copytree(kept, mirror)
        home = place / f"home-{at}"
        shutil.copytree(place / "home", home)
        assert killing.killed(mirror, mirror, home, at=at)
        opened_again = folders.opened(mirror)
        assert retention.removed(opened_again) or all(each.is_well for each in check(opened_again))
        assert not killing.killed(mirror, mirror, home, at=None)
        assert len(left(mirror)) == 4
        copied = extended(mirror, home, monkeypatch)
        assert content(copied.folder).keys() == content(place / "journal").keys()
