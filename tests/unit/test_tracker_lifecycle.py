"""How a tracker ends: whose exception is seen, whose status is written."""

from __future__ import annotations

import os
import sqlite3

import pytest

from journaltrack import Tracker
from journaltrack.services import Services


class BrokenWriter:
    """A caller's writer that fails at the end."""

    def log_metric(self, *arguments):
        """Take a point."""

    def close(self):
        """Fail."""
        msg = "the writer's own trouble"
        raise RuntimeError(msg)


@pytest.fixture
def tracker(tmp_path):
    """A tracker that replays nothing."""
    return Tracker.create(journal=tmp_path / "journal", sync="off")


def entries_in(tmp_path):
    """What plain sqlite3 finds in the journal."""
    connection = sqlite3.connect(tmp_path / "journal" / "journal.db")
    found = connection.execute("SELECT kind, payload FROM entry ORDER BY seq").fetchall()
    connection.close()
    return found


def test_a_failing_close_does_not_hide_the_users_exception(tracker):
    """What ended the block comes out of it; the failure of close is warned about."""
    broken = Tracker(tracker.trial_component, BrokenWriter(), None)
    with pytest.warns(RuntimeWarning, match="writer's own trouble"), pytest.raises(KeyError, match="mine"), broken:
        raise KeyError("mine")
    assert tracker.trial_component.status.message == "'mine'"


def test_a_failing_close_is_raised_when_nothing_else_is(tracker):
    """Without another exception the failure of close is the one to see."""
    with pytest.raises(RuntimeError, match="own trouble"), Tracker(tracker.trial_component, BrokenWriter(), None):
        pass


def test_a_forked_child_that_leaves_the_block_does_not_end_the_run(tracker, tmp_path):
    """The child's exit writes no status: the run is the parent's, which goes on."""
    with tracker:
        child = os.fork()
        if child == 0:
            tracker.log_metric("from the child", 1.0)
            tracker.__exit__(SystemExit, SystemExit(0), None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tracker.trial_component.status.primary_status == "InProgress"
        assert tracker.trial_component.end_time is None
    assert [kind for kind, _ in entries_in(tmp_path)] == ["create", "status", "metric", "status"]


def test_a_direction_that_is_none_raises_and_records_nothing(tracker, tmp_path):
    """log_artifacts knows inputs and outputs; anything else would stay pending for ever."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    with pytest.raises(ValueError, match="direction"):
        tracker.log_artifacts(tmp_path / "d", direction="sideways")
    assert [kind for kind, _ in entries_in(tmp_path)] == ["create"]


def test_the_constructor_honours_the_environment(tracker, monkeypatch):
    """JOURNALTRACK_SYNC=off keeps a tracker off the network, however it was made."""
    asked = []
    monkeypatch.setattr(Tracker, "services", Services(replay=asked.append))
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    Tracker(tracker.trial_component, None, None).close()
    assert asked == []
