"""The files of a journal are deleted, replaced or moved while a pass delivers it: nobody's
journal comes back or is harmed.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from journaltrack import Journal, Tracker
from journaltrack.errors import JournalNotFoundError
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from tests.processes import states, sync_process
from tests.simulator import simulator


def sync_while(sim, journal, disturb, at=2):
    """Sync in another process, and disturb it while its n-th request waits for the answer: exit
    code, and what it said.
    """
    done = []

    def on_request(call):
        if call.n == at and not done:
            done.append(call.n)
            disturb()

    sim.on_request = on_request
    process = sync_process(journal, sim.endpoint_url)
    said = "".join(process.communicate())
    assert done
    return process.returncode, said


def points_of(sim):
    """How often each point arrived."""
    return Counter(point.value for point in sim.components["run"].metrics)


def another(folder):
    """Another journal, of a training that runs: its log is not in the database yet."""
    tracker = Tracker.create(trial_component_name="other", journal=folder, sync="off")
    tracker.log_metric("loss", -1.0)
    return tracker


def test_a_journal_deleted_under_a_pass_stays_deleted(journal):
    """Nobody holds what was deleted: the pass ends, says so, and leaves nothing behind."""
    with simulator() as sim:
        code, said = sync_while(sim, journal, lambda: shutil.rmtree(journal), at=1)
        assert code == 8, said
        assert "deleted or replaced while it was being delivered" in said
        assert "hint:" in said
        assert not journal.exists()
        assert points_of(sim).total() == 0


def test_a_journal_in_the_place_of_a_deleted_one_is_not_touched(journal, tmp_path):
    """What came into the place of a deleted journal keeps every entry, and its log, and is not
    what the pass records in.
    """
    others = []

    def replace():
        shutil.rmtree(journal)
        others.append(another(journal))

    with simulator() as sim:
        code, said = sync_while(sim, journal, replace)
        assert code == 8, said
    assert (journal / "journal.db-wal").stat().st_size > 0
    others[0].log_metric("loss", -2.0)
    others[0].close()
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        assert connection.execute("SELECT value FROM entry WHERE kind = 'metric'").fetchall() == [
            (-1.0,),
            (-2.0,),
        ]
        assert connection.execute("SELECT count(*) FROM receipt").fetchone() == (0,)
    assert [path.name for path in tmp_path.iterdir() if "rescued" in path.name] == []


@pytest.mark.filterwarnings("ignore:the journal at .* was deleted:RuntimeWarning")
def test_a_training_that_lives_writes_it_again_and_the_next_sync_delivers_it(tmp_path):
    """The writer has what it acknowledged, the pass has not: the one writes it again, the other
    ends; the next goes on.
    """
    folder = tmp_path / "journal"
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off")
    for step in range(95):
        tracker.log_metric("loss", float(step), iteration_number=step)
    tracker.flush()

    def delete():
        shutil.rmtree(folder)
        tracker.flush()

    with simulator() as sim:
        code, said = sync_while(sim, folder, delete)
        assert code == 8, said
        tracker.log_metric("loss", 95.0, iteration_number=95)
        tracker.close()
        assert states(folder)["pending"] > 0
        sync_process(folder, sim.endpoint_url).communicate()
        found, there = states(folder), points_of(sim)
    assert found["pending"] == 0
    assert set(there.values()) == {1}
    assert 96 - found["in doubt"] <= there.total() <= 96


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_journal_moved_under_a_pass_is_delivered_by_the_next(journal, tmp_path, at):
    """The pass says where the journal is and ends; what it sent is recorded there, the next pass
    sends the rest, everything once.
    """
    with simulator() as sim:
        code, said = sync_while(sim, journal, lambda: journal.rename(tmp_path / "elsewhere"), at)
        assert code == 8, said
        assert f"was moved to {tmp_path}/elsewhere" in said
        assert not journal.exists()
        assert states(tmp_path / "elsewhere")["pending"] > 0
        assert not states(tmp_path / "elsewhere").keys() & {"in doubt", "quarantined"}
        again = sync_process(tmp_path / "elsewhere", sim.endpoint_url)
        said = "".join(again.communicate())
        assert again.returncode == 0, said
        assert states(tmp_path / "elsewhere")["pending"] == 0
        assert points_of(sim) == Counter(float(value) for value in range(1, 96))
        assert [stored.body for stored in sim.artifacts.values()] == [b"weights"]


def test_content_that_moved_away_just_before_it_is_read_is_not_taken_for_lost(journal, tmp_path):
    """The upload was noted, then the folder moved: the content is pending, not set aside as
    missing.
    """

    class Moving(MemoryRemote):
        def upload(self, blob):
            if journal.exists():
                journal.rename(tmp_path / "elsewhere")
            return super().upload(blob)

    remote, opened = Moving(), Journal.open(journal, create=False)
    with contextlib.suppress(JournalNotFoundError):
        Reconciler(opened, remote, options=Options(concurrency=1)).run()
    opened.close()
    assert "quarantined" not in states(tmp_path / "elsewhere")
    opened = Journal.open(tmp_path / "elsewhere", create=False)
    report = Reconciler(opened, remote).run()
    opened.close()
    assert report.pending == 0


def test_a_log_deleted_under_a_pass_is_saved(journal):
    """What the log held goes into the database; everything arrives once."""
    with simulator() as sim:
        code, said = sync_while(sim, journal, (journal / "journal.db-wal").unlink)
        assert code == 0, said
        assert states(journal)["pending"] == 0
        assert points_of(sim) == Counter(float(value) for value in range(1, 96))
