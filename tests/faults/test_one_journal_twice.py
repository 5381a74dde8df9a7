"""One journal in two places, as people come to it: dated copies in an inbox, a restored backup,
a bundle that was delivered elsewhere.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from tests.processes import arrived, points_of, record, states
from tests.simulator import BlackHole, HttpError, Instead, simulator

BEHIND = 8


@pytest.fixture
def sim(credentials, patient, tmp_path, monkeypatch):
    """A strict AWS, and a home for what arrives."""
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "home"))
    with simulator() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint_url)
        yield running


def run(*arguments, code=0):
    """A command; what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def continued(folder, step, **options):
    """A further point in the same run."""
    with Tracker.create(
        trial_component_name="run", journal=folder, resume=True, **{"sync": "off", **options}
    ) as tracker:
        tracker.log_metric("loss", float(step), iteration_number=step)


@pytest.mark.parametrize(
    "order", [["copy-1", "copy-2"], ["copy-2", "copy-1"]], ids=["older first", "newer first"]
)
@pytest.mark.parametrize("together", [True, False], ids=["one sync", "two syncs"])
def test_two_dated_copies_are_not_both_sent(tmp_path, sim, order, together):
    """Of two copies that were made on two days, one is delivered; the other one is told of with
    exit code 8, and sends nothing.
    """
    older = record(tmp_path / "copy-1")
    newer = shutil.copytree(older, tmp_path / "copy-2")
    continued(newer, 5)
    first, second = (tmp_path / name for name in order)
    if together:
        output = run("sync", first, second, code=BEHIND)
    else:
        run("sync", first)
        output = run("sync", second, code=BEHIND)
    assert "copy" in output
    assert "hint" in output
    assert set(points_of(sim).values()) == {1}
    run("merge", second, "--into", first)
    run("sync", first)
    assert points_of(sim) == dict.fromkeys(map(float, range(6)), 1)


def test_a_restored_backup_stops_and_says_what_to_do(tmp_path, sim):
    """A backup from before a sync is refused by one question, with both ways out in the hint;
    sent even so, the next sync is in order again.
    """
    (tmp_path / "model").write_bytes(b"model")
    journal = record(tmp_path / "journal", artifact=tmp_path / "model")
    run("sync", journal)
    continued(journal, 5)
    backup = shutil.copytree(journal, tmp_path / "backup")
    run("sync", journal)
    shutil.rmtree(journal)
    backup.rename(journal)
    asked = len(sim.requests)
    output = run("sync", journal, code=BEHIND)
    assert "nothing was sent" in output
    assert "--even-if-behind" in output
    assert {call.operation for call in sim.requests[asked:]} <= {
        "GetCallerIdentity",
        "ListObjectsV2",
        "GetObject",
    }
    assert points_of(sim)[5.0] == 1
    run("sync", journal, "--even-if-behind")
    assert points_of(sim)[5.0] == 2
    continued(journal, 6)
    run("sync", journal)
    assert points_of(sim)[6.0] == 1


def test_a_training_that_goes_on_in_an_old_copy_ends_well(tmp_path, sim, caplog):
    """Closing a tracker in a copy that is behind warns and raises nothing; what it recorded
    waits in the journal.
    """
    journal = record(tmp_path / "journal")
    copied = shutil.copytree(journal, tmp_path / "copy")
    run("sync", journal)
    with caplog.at_level(logging.WARNING):
        continued(copied, 5, sync="close")
    assert any("another copy of this journal" in record.getMessage() for record in caplog.records)
    assert 5.0 not in points_of(sim)
    assert states(copied)["pending"] > 0


def test_a_bundle_that_was_delivered_elsewhere_is_not_sent_by_its_node(tmp_path, sim):
    """The node whose bundle was delivered on another machine stops until it has the receipts,
    and goes on with them, as the README says.
    """
    journal = record(tmp_path / "node")
    run("bundle", journal, "-o", tmp_path / "run.tar")
    run("sync", tmp_path / "run.tar")
    continued(journal, 5)
    run("sync", journal, code=BEHIND)
    (unpacked,) = [path for path in (tmp_path / "home" / "bundles").iterdir() if path.is_dir()]
    run("receipts", "export", unpacked, "-o", tmp_path / "run.receipts")
    run("receipts", "import", tmp_path / "run.receipts", journal)
    run("sync", journal)
    assert points_of(sim) == dict.fromkeys(map(float, range(6)), 1)
    continued(journal, 6)
    run("bundle", journal, "-o", tmp_path / "later.tar")
    run("sync", tmp_path / "later.tar")
    assert points_of(sim) == dict.fromkeys(map(float, range(7)), 1)


def test_a_pruned_journal_is_no_copy(tmp_path, sim):
    """A journal whose delivered entries were removed goes on where it was, and its copy from
    before is behind it.
    """
    (tmp_path / "model").write_bytes(b"model")
    journal = record(tmp_path / "journal", artifact=tmp_path / "model")
    run("sync", journal)
    copied = shutil.copytree(journal, tmp_path / "copy")
    run("prune", journal, "--delivered-before", "0s", "--archive", tmp_path / "archive.jsonl")
    continued(journal, 5)
    run("sync", journal)
    assert points_of(sim)[5.0] == 1
    continued(copied, 6)
    run("sync", copied, code=BEHIND)


def test_a_store_that_cannot_be_asked_holds_up_nothing(tmp_path, sim):
    """Without the right to list, everything is delivered as ever."""
    (tmp_path / "model").write_bytes(b"model")
    journal = record(tmp_path / "journal", artifact=tmp_path / "model")
    run("sync", journal)
    continued(journal, 5)
    sim.fail("ListObjectsV2", HttpError(403, "AccessDenied"), times=1_000)
    run("sync", journal)
    assert points_of(sim) == dict.fromkeys(map(float, range(6)), 1)


def test_two_dated_copies_in_an_inbox(tmp_path, sim, watch):
    """A watcher delivers one of two copies, tells of the other one with its place, and delivers
    the first one's new entries as ever.
    """
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    first = record(inbox / "2026-11-25")
    copied = shutil.copytree(first, tmp_path / "copy")
    watching = watch(inbox, sim.endpoint_url)
    assert arrived(sim, 5)
    watching.wait_for("event=pass", "2026-11-25", "pending=0")
    copied.rename(inbox / "2026-11-26")
    watching.wait_for("event=journal-waits", "2026-11-26", "copy of the journal at", "merge")
    continued(first, 5)
    assert arrived(sim, 6)
    moved = first.rename(inbox / "moved")
    shutil.rmtree(inbox / "2026-11-26")
    continued(moved, 6)
    assert arrived(sim, 7)
    assert watching.end() == 0
    assert points_of(sim) == dict.fromkeys(map(float, range(7)), 1)


@pytest.mark.parametrize(
    "elsewhere",
    [{"artifact_prefix": "later"}, {"artifact_bucket": "later-bucket"}],
    ids=["prefix", "bucket"],
)
def test_a_backup_is_seen_to_be_behind_wherever_later_artifacts_went(tmp_path, sim, elsewhere):
    """A journal's anchors stay in one place: that of the last one that a copy can know of."""
    (tmp_path / "model").write_bytes(b"model")
    journal = record(tmp_path / "journal", artifact=tmp_path / "model")
    run("sync", journal)
    continued(journal, 5)
    backup = shutil.copytree(journal, tmp_path / "backup")
    (tmp_path / "other").write_bytes(b"other")
    with Tracker.create(
        trial_component_name="run", journal=journal, resume=True, sync="off", **elsewhere
    ) as tracker:
        tracker.log_artifact(tmp_path / "other")
    run("sync", journal)
    run("sync", backup, code=BEHIND)
    assert points_of(sim)[5.0] == 1


def test_anchors_of_another_journal_hide_nothing(tmp_path, sim):
    """Their numbers are their own: a copy that took receipts of a merged journal over still sees
    that it is behind, and the node verifies.
    """
    (tmp_path / "model").write_bytes(b"model")
    node = record(tmp_path / "node", artifact=tmp_path / "model")
    run("sync", node)
    continued(node, 5)
    backup = shutil.copytree(node, tmp_path / "backup")
    run("merge", backup, "--into", tmp_path / "all")
    for number in range(3):
        run(
            "merge",
            record(tmp_path / f"other-{number}", f"other-{number}"),
            "--into",
            tmp_path / "all",
        )
        run("sync", tmp_path / "all", "--component", f"other-{number}")
    run("receipts", "export", tmp_path / "all", "-o", tmp_path / "receipts")
    run("sync", node)
    for folder in (node, backup):
        run("receipts", "import", tmp_path / "receipts", folder)
    run("sync", backup, code=BEHIND)
    assert points_of(sim)[5.0] == 1
    continued(node, 6)
    run("sync", node)
    assert (
        "an anchor is missing"
        not in CliRunner().invoke(main, ["check", "--remote", str(node)]).output
    )


def test_a_journal_whose_creating_request_was_killed_can_be_merged_and_sent(tmp_path, sim):
    """What it made before its answer came bears its mark: in a merged journal that is no sign of
    another copy.
    """
    node = record(tmp_path / "node")
    sim.fail("CreateTrialComponent", BlackHole(applied=True))
    command = [sys.executable, "-m", "journaltrack", "sync", str(node)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as syncing:
        assert sim.wait_until(lambda sim: "run" in sim.components)
        syncing.kill()
    sim.release()
    run("merge", node, "--into", tmp_path / "all")
    run("sync", tmp_path / "all")
    assert points_of(sim) == dict.fromkeys(map(float, range(5)), 1)


@pytest.mark.parametrize("status", [302, 403, 404, 407, 413])
def test_a_proxy_that_answers_instead_of_a_creation_makes_no_other_copy(tmp_path, sim, status):
    """It passed the request on, and answered by itself: the journal goes on with the component
    that it made.
    """
    journal = record(tmp_path / "journal")
    sim.fail(
        "CreateTrialComponent",
        Instead(status, b"<html>", {"Content-Type": "text/html"}, applied=True),
        times=20,
    )
    CliRunner().invoke(main, ["sync", str(journal)])
    sim.clear_faults()
    run("sync", journal)
    assert points_of(sim) == dict.fromkeys(map(float, range(5)), 1)
