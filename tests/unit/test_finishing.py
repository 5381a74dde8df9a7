"""`journaltrack finish`: a person says how a run ended."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import InvalidInputError, JournalNotFoundError
from journaltrack.journal.journal import Journal
from journaltrack.reports.component import show


@pytest.fixture
def folder(tmp_path):
    """A journal with a run that was left open by another host, as far as anybody can tell: its
    writer's file is gone.
    """
    folder = tmp_path / "journal"
    tracker = Tracker.create(
        trial_component_name="digits-1", journal=folder, sync="off"
    ).__enter__()
    tracker.log_metric("loss", 1.0)
    tracker.close()
    for path in (folder / "writers").iterdir():
        path.unlink()
    return folder


def finish(folder, *arguments):
    """The command's result."""
    return CliRunner().invoke(main, ["finish", *map(str, arguments), "-j", str(folder)])


@pytest.mark.parametrize("status", ["Stopped", "Failed", "Completed"])
def test_the_status_is_recorded_with_the_time_of_the_last_entry(folder, status):
    """Offline: the run has the status, the message on one line, and the end of its last entry; a
    later entry counts.
    """
    before = show(folder, "digits-1")
    assert before.run.state == "unknown"
    done = finish(
        folder, "DIGITS-1", "--status", status.lower(), "--message", "the node\nwas taken away"
    )
    assert done.exit_code == 0, done.output
    assert f"digits-1 is recorded as {status}" in done.output
    after = show(folder, "digits-1")
    assert (after.status.primary, after.status.message) == (status, "the node was taken away")
    assert after.status.end_ns == before.run.last_entry_at_ns
    assert after.run is None


def test_an_unknown_name_is_refused_with_the_near_ones(folder):
    """Exit code 2, nothing is recorded, and the hint names what may have been meant."""
    done = finish(folder, "digts-1", "--status", "Stopped")
    assert done.exit_code == 2
    assert "perhaps digits-1" in done.output
    assert show(folder, "digits-1").status.primary == "InProgress"
    with pytest.raises(InvalidInputError, match="digits"):
        journaltrack.finish("other-digits", "Stopped", journal=folder)


def test_wrong_usage_and_a_missing_journal_have_their_exit_codes(folder, tmp_path):
    """A status that there is not is usage (2), no journal is 8, as for every command; the
    function raises.
    """
    assert finish(folder, "digits-1", "--status", "Gone").exit_code == 2
    assert finish(folder, "digits-1").exit_code == 2
    assert finish(tmp_path / "none", "digits-1", "--status", "Failed").exit_code == 8
    with pytest.raises(InvalidInputError, match="Gone"):
        journaltrack.finish("digits-1", "Gone", journal=folder)
    with pytest.raises(JournalNotFoundError):
        journaltrack.finish("digits-1", "Failed", journal=tmp_path / "none")


def test_a_run_that_is_alive_is_warned_about(tmp_path):
    """What its process records later counts: the warning says so, unless --force; the status is
    recorded either way.
    """
    folder = tmp_path / "journal"
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        began_ns = time.time_ns()
        done = finish(folder, "run", "--status", "Failed")
        assert (done.exit_code, "the run is alive" in done.output) == (0, True)
        assert show(folder, "run").status.end_ns >= began_ns
        tracker.log_metric("loss", 1.0)
        done = finish(folder, "run", "--status", "Stopped", "--force")
        assert (done.exit_code, "alive" in done.output) == (0, False)
    assert show(folder, "run").status.primary == "Completed"


def test_an_end_that_is_known_stays(tmp_path):
    """A run that ended gets another status by force, and keeps its end; one that never had a
    status gets the time of its last entry.
    """
    folder = tmp_path / "journal"
    with Tracker.create(trial_component_name="run", journal=folder, sync="off"):
        pass
    end_ns = show(folder, "run").status.end_ns
    done = journaltrack.finish("run", "Failed", message="wrong", journal=folder, force=True)
    assert (done.end_ns, done.replaced) == (None, "Completed")
    assert (show(folder, "run").status.primary, show(folder, "run").status.end_ns) == (
        "Failed",
        end_ns,
    )
    Tracker.create(trial_component_name="plain", journal=folder, sync="off").close()
    assert journaltrack.finish("plain", "Completed", journal=folder).end_ns is not None


@pytest.mark.parametrize(
    ("ended_as", "status"),
    [("Completed", "stopped"), ("Failed", "Completed"), ("Stopped", "FAILED")],
)
def test_a_run_that_has_ended_keeps_its_status_without_force(folder, ended_as, status):
    """Another final status is refused with exit code 2, and nothing is recorded; --force replaces
    the status and says so. The same status again is no replacement.
    """
    assert finish(folder, "digits-1", "--status", ended_as).exit_code == 0
    with closing(Journal.open(folder)) as journal:
        before = journal.last_seq()
    refused = finish(folder, "digits-1", "--status", status, "--message", "late")
    assert (refused.exit_code, ended_as in refused.output) == (2, True)
    assert "--force" in refused.output
    with pytest.raises(InvalidInputError, match=ended_as):
        journaltrack.finish("digits-1", status.capitalize(), journal=folder)
    with closing(Journal.open(folder)) as journal:
        assert journal.last_seq() == before
    assert show(folder, "digits-1").status.primary == ended_as
    assert finish(folder, "digits-1", "--status", ended_as).exit_code == 0
    forced = finish(folder, "digits-1", "--status", status, "--force")
    assert (forced.exit_code, f"in place of {ended_as}" in forced.output) == (0, True)
    assert show(folder, "digits-1").status.primary == status.capitalize()


def test_the_answer_as_json(folder):
    """One document with what was recorded."""
    done = finish(folder, "digits-1", "--status", "Stopped", "--json")
    told = json.loads(done.stdout)
    assert (
        told["component"],
        told["status"],
        told["message"],
        told["is_alive"],
        told["exit_code"],
    ) == (
        "digits-1",
        "Stopped",
        None,
        False,
        0,
    )
    assert told["before"]["state"] == "unknown"
    assert told["end"] == told["before"]["last_entry_at"]
