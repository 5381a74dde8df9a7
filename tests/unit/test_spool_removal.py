"""Delivered contents leave the spool, and no others; a spool with a limit keeps it, or says that
it can't.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, doctor, retry
from journaltrack.cli import main
from journaltrack.errors import ErrorKind, JournalFullError, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.report import audit
from journaltrack.reports.status import status
from journaltrack.retention import plan
from journaltrack.retention.plan import GRACE_S
from journaltrack.retention.prune import prune
from tests.copies import verify_chains

LATER_NS = int((GRACE_S + 60) * 1e9)


class Bench:
    """A journal with a tracker and a remote, and files to log."""

    def __init__(self, folder):
        self.folder, self.remote, self.scratch = folder / "j", MemoryRemote(), folder
        self.tracker = Tracker.create(trial_component_name="run", journal=self.folder, sync="off")

    def log(self, content, tracker=None):
        """Log a file with that content; its digest."""
        file = self.scratch / f"{hashlib.sha256(content).hexdigest()[:8]}.bin"
        file.write_bytes(content)
        (tracker or self.tracker).log_artifact(file)
        return hashlib.sha256(content).hexdigest()

    def sync(self):
        """One pass."""
        with closing(Journal.open(self.folder)) as journal:
            return Reconciler(journal, self.remote).run()

    def age(self):
        """All that was spooled was spooled a while ago."""
        self.tracker._journal.database.write(
            lambda c: c.execute("UPDATE blob SET spooled_at_ns = spooled_at_ns - ?", (LATER_NS,))
        )

    def spooled(self):
        """Digests in the spool."""
        return {path.name for path in (self.folder / "spool").glob("??/*")}

    def prune(self):
        """Contents that were delivered until now."""
        return prune(self.folder, ask=None, blobs_before_ns=time.time_ns())


@pytest.fixture
def bench(tmp_path):
    """One."""
    made = Bench(tmp_path)
    yield made
    made.tracker.close()


def test_delivered_contents_go_and_nothing_else(bench):
    """Pending and young contents stay; what went is on the record, no report misses it, and the
    audit names it.
    """
    delivered = bench.log(b"delivered")
    bench.sync()
    young = bench.prune()
    assert (young.blobs, bench.spooled()) == (0, {delivered}), "its call might not be recorded yet"
    pending = bench.log(b"pending")
    bench.age()
    assert prune(bench.folder, ask=None, blobs_before_ns=time.time_ns(), dry_run=True).blobs == 1
    done = bench.prune()
    assert (done.blobs, done.blob_bytes, bench.spooled()) == (1, 9, {pending})
    assert verify_chains(bench.folder) == []
    examination = doctor.examine(bench.folder)
    assert not [finding for finding in examination.findings if finding.check == "spool"]
    (removal,) = audit(bench.folder).removals
    assert (removal.blobs, removal.blob_bytes, removal.entries) == (1, 9, 0)
    assert not list((bench.folder / "spool").glob("incoming-*"))
    assert bench.sync().pending == 0


def test_a_content_that_is_also_pending_elsewhere_stays(bench):
    """Delivered for one component and pending for another: it is needed."""
    digest = bench.log(b"shared")
    bench.sync()
    with Tracker.create(trial_component_name="other", journal=bench.folder, sync="off") as other:
        bench.log(b"shared", other)
    bench.age()
    assert bench.prune().blobs == 0
    assert bench.spooled() == {digest}


def test_a_removed_content_that_is_logged_again_is_there_again_and_verified(bench):
    """It is uploaded to where it is needed, and a wrong byte in it is found although it had been
    removed on the record.
    """
    digest = bench.log(b"again")
    bench.sync()
    bench.age()
    assert bench.prune().blobs == 1
    with Tracker.create(trial_component_name="other", journal=bench.folder, sync="off") as other:
        assert bench.log(b"again", other) == digest
    assert bench.spooled() == {digest}
    assert bench.sync().pending == 0
    assert verify_chains(bench.folder) == []
    (bench.folder / "spool" / digest[:2] / digest).write_bytes(b"wrong")
    assert [problem.kind for problem in verify_chains(bench.folder)] == ["blob"]
    bench.age()
    assert (bench.prune().blobs_kept, bench.spooled()) == (1, {digest}), "evidence stays"


def test_a_needed_content_that_is_missing_is_told_although_it_was_removed_once(bench):
    """The record of a removal hides no loss of what is not delivered."""
    digest = bench.log(b"needed")
    bench.sync()
    bench.age()
    bench.prune()
    with Tracker.create(trial_component_name="other", journal=bench.folder, sync="off") as other:
        bench.log(b"needed", other)
    (bench.folder / "spool" / digest[:2] / digest).unlink()
    assert [problem.kind for problem in verify_chains(bench.folder)] == ["blob"]
    assert not doctor.examine(bench.folder).healthy


def test_a_content_spooled_again_in_the_meantime_is_left_alone(bench, monkeypatch):
    """A tracker that spools it between the attestation and the removal keeps its file: the
    upload finds it.
    """
    digest = bench.log(b"raced")
    bench.sync()
    bench.age()
    still = plan._still_removable
    looks = []

    def race(connection, contents):
        looks.append(len(contents))
        # inside of the second transaction it is too late to write, so just before it counts
        if len(looks) == 2:
            connection.execute("UPDATE blob SET spooled_at_ns = spooled_at_ns + 1")
        return still(connection, contents)

    monkeypatch.setattr(plan, "_still_removable", race)
    assert bench.prune().blobs == 0
    assert bench.spooled() == {digest}
    assert verify_chains(bench.folder) == []


def test_a_content_removed_before_its_call_is_recorded_is_spooled_again(bench, monkeypatch):
    """A call that takes longer than the time of grace finds its content gone, and puts it back
    before it returns.
    """
    digest = bench.log(b"slow")
    bench.sync()
    with Tracker.create(trial_component_name="other", journal=bench.folder, sync="off") as other:
        append = Journal.append

        def slow(self, component_id, drafts):
            bench.age()
            assert bench.prune().blobs == 1
            append(self, component_id, drafts)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", slow)
            bench.log(b"slow", other)
        assert bench.spooled() == {digest}
        bench.age()
    assert bench.prune().blobs == 0, "it is needed now"
    assert bench.sync().pending == 0
    assert verify_chains(bench.folder) == []


def test_recording_an_upload_renews_its_content(bench):
    """A removal that was decided before an upload was recorded sees that it was."""
    bench.log(b"renewed")
    bench.sync()
    bench.age()
    with closing(Journal.open(bench.folder)) as journal:
        (content,) = plan.removable(journal.database, time.time_ns(), time.time_ns())
        file = bench.scratch / "again.bin"
        file.write_bytes(b"renewed")
        bench.tracker.log_artifact(file)
        assert journal.database.write(lambda c: plan._still_removable(c, [content])) == []


def test_links_in_a_spool_lead_nowhere(bench, tmp_path):
    """A folder of the spool that is a link: nothing is removed through it."""
    digest = bench.log(b"linked")
    bench.sync()
    bench.age()
    outside = tmp_path / "outside"
    (bench.folder / "spool" / digest[:2]).rename(outside)
    (bench.folder / "spool" / digest[:2]).symlink_to(outside)
    bench.prune()
    assert (outside / digest).exists()
    assert plan.make_room(bench.folder, 10**9) == 0
    assert (outside / digest).exists()


def test_status_tells_what_of_the_spool_is_delivered(bench):
    """Of the bytes in the spool those that nothing undelivered needs are named."""
    bench.log(b"x" * 100)
    bench.sync()
    bench.log(b"y" * 40)
    sizes = status(bench.folder).sizes
    assert (sizes.spool_bytes, sizes.spool_files, sizes.spool_delivered_bytes) == (140, 2, 100)


class Refusing(MemoryRemote):
    """A bucket that takes no content."""

    def upload(self, blob):
        raise RemoteError("no", kind=ErrorKind.PERMANENT, code="EntityTooLarge", request_id="r-1")


def test_what_waits_or_was_refused_is_needed_by_its_upload_alone(tmp_path, monkeypatch):
    """A chart without lineage is in the journal as an upload, and nothing else names its content:
    it is needed while it is pending and when it was refused, and no more once it has arrived.
    """
    monkeypatch.setenv("JOURNALTRACK_LINEAGE", "false")
    bench = Bench(tmp_path)

    def delivered_bytes():
        sizes = status(bench.folder).sizes
        assert sizes.spool_files == 1
        return sizes.spool_delivered_bytes

    with closing(bench.tracker) as tracker:
        tracker.log_table("digits", {"label": [1, 2]})
        assert delivered_bytes() == 0
        working, bench.remote = bench.remote, Refusing()
        assert bench.sync().quarantined == 1
        assert delivered_bytes() == 0
        tracker.log_table("digits", {"label": [1, 2]})
        assert delivered_bytes() == 0
        bench.remote = working
        retry(bench.folder)
        assert (bench.sync().quarantined, bench.sync().pending) == (0, 0)
        assert delivered_bytes() == status(bench.folder).sizes.spool_bytes > 0


@pytest.fixture
def limited(bench, monkeypatch):
    """The same with a limit of 1,000 bytes."""
    monkeypatch.setenv("JOURNALTRACK_SPOOL_MAX_BYTES", "1000")
    bench.tracker.close()
    bench.tracker = Tracker.load("run", journal=bench.folder, sync="off")
    return bench


def test_a_full_spool_makes_room_with_what_is_delivered_the_oldest_first(limited):
    """As much goes as is needed, on the record, and the call succeeds."""
    first = limited.log(b"1" * 400)
    limited.tracker._journal.database.write(
        lambda c: c.execute("UPDATE blob SET spooled_at_ns = spooled_at_ns - 1000")
    )
    second = limited.log(b"2" * 400)
    limited.sync()
    limited.age()
    third = limited.log(b"3" * 500)
    assert limited.spooled() == {second, third}
    assert first not in limited.spooled()
    assert verify_chains(limited.folder) == []
    assert limited.sync().pending == 0


def test_a_spool_full_of_what_is_not_delivered_refuses_and_loses_nothing(limited):
    """The call raises as on a full disk, nothing of it is recorded, nothing pending is removed;
    a known content is taken still.
    """
    first = limited.log(b"1" * 800)
    entries = status(limited.folder).last_seq
    with pytest.raises(JournalFullError, match="was not logged"):
        limited.log(b"2" * 300)
    with pytest.raises(JournalFullError):
        limited.log(b"3" * 1001)
    assert (limited.spooled(), status(limited.folder).last_seq) == ({first}, entries)
    assert limited.log(b"1" * 800) == first
    limited.sync()
    limited.age()
    limited.log(b"2" * 300)


def test_a_sync_under_way_is_not_waited_for(limited):
    """While somebody holds the lease no content is removed, and the call says that it does not
    fit.
    """
    limited.log(b"1" * 800)
    limited.sync()
    limited.age()
    with closing(Journal.open(limited.folder)) as journal:
        lease = leases.acquire(journal.database)
        with pytest.raises(JournalFullError):
            limited.log(b"2" * 300)
        lease.release()
    limited.log(b"2" * 300)


def test_the_command_says_what_went_and_what_stays(bench, tmp_path):
    """As text and as JSON, with an archive; without a time it is refused."""
    for step in range(5):
        bench.tracker.log_metric("loss", 1.0, iteration_number=step)
    bench.log(b"weights")
    bench.sync()
    bench.tracker.log_metric("loss", 2.0)

    def run(*arguments):
        return CliRunner().invoke(
            main, ["prune", "--unasked", *arguments, "--journal", str(bench.folder)]
        )

    assert (
        run().exit_code
        == run("--archive", "a.csv", "--blobs-delivered-before", "0s").exit_code
        == 2
    )
    dry = run("--delivered-before", "0s", "--dry-run")
    assert "would remove 5 entries" in dry.output
    assert "not sent yet" in dry.output
    done = json.loads(
        run("--delivered-before", "0s", "--json", "--archive", str(tmp_path / "a.csv")).stdout
    )
    assert (
        done["entries"],
        done["by_kind"],
        done["stays"]["pending"],
        done["archive"]["rows"],
    ) == (5, {"metric": 5}, 1, 5)
    again = run("--delivered-before", "0s", "--archive", str(tmp_path / "b.csv"))
    assert (
        again.exit_code,
        "removed 0 entries" in again.output,
        (tmp_path / "b.csv").exists(),
    ) == (0, True, False)
    shown = CliRunner().invoke(main, ["audit", "--journal", str(bench.folder)]).output
    assert "removed on the record: 5 entries" in shown
