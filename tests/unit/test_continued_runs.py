"""Continue a run of several journals of a mirror: what the script is told of its points."""

from __future__ import annotations

import shutil

import pytest

from journaltrack import Tracker
from journaltrack.mirror import folders
from journaltrack.mirror.follower import Follower
from journaltrack.transfer.merge import merge


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Log to the run on a node, mirror that, and return the count of each metric before."""
    # Mirrored by ``ship``, not by a process beside.
    monkeypatch.setattr(Tracker, "services", Tracker.services._replace(mirror=None))

    def session(name, points=None, **options):
        """Log so many points of metrics."""
        known = {"trial_component_name": "run", "mirror": tmp_path / "mirror"}
        journal = tmp_path / name / "journal"
        with Tracker.create(journal=journal, **(known | options)) as tracker:
            before = {each.metric_name: each.count for each in tracker.trial_component.metrics}
            for metric, count in (points or {}).items():
                for step in range(count):
                    tracker.log_metric(metric, float(step), iteration_number=step)
        ship(journal)
        return before

    def ship(journal):
        """Mirror what is new."""
        Follower(journal, folders.opened(tmp_path / "mirror", create=True)).once()

    return session


def test_the_points_of_all_journals_are_counted(node, tmp_path):
    """Two nodes logged into one run, each into a journal of its own. Who continues it, on a fresh
    disk, beside other runs, or where it was before, is told of all points, once.
    """
    node("a", {"rank-0": 3})
    node("b", {"rank-1": 4})
    node("old", {"other": 2}, trial_component_name="other")
    # It goes on in a copy of one of them.
    assert node("c", {"rank-0": 2, "rank-1": 1}, resume=True) == {"rank-0": 3, "rank-1": 4}
    for name in ("a", "b", "old", "fresh"):
        assert node(name, resume=True) == {"rank-0": 5, "rank-1": 5}
    # A journal that has what others have, and of one of them not all.
    merge([tmp_path / "a" / "journal", tmp_path / "b" / "journal"], into=tmp_path / "all/journal")
    node("a", {"rank-0": 1}, resume=True)
    for name in ("all", "b", "last"):
        assert node(name, resume=True) == {"rank-0": 6, "rank-1": 5}


def test_the_statistics_are_those_of_all_points(node, tmp_path):
    """Least, greatest and mean are of all journals; the last value is the one that came last."""
    node("a", {"loss": 3})
    node("b", {"loss": 7})
    with Tracker.load("run", journal=tmp_path / "a/journal", mirror=tmp_path / "mirror") as run:
        (loss,) = run.trial_component.metrics
    assert (loss.count, loss.min, loss.max, loss.last) == (10, 0, 6, 6)
    assert loss.avg == pytest.approx(2.4)
    assert loss.time_stamp is not None


def test_a_warning_says_what_is_not_counted(node, tmp_path, caplog):
    """While the mirror can't be read, a script may log points twice: it is told, once."""
    node("a", {"loss": 3})
    node("b", {"loss": 4})
    mirror = tmp_path / "mirror"
    marker = mirror / folders.MARKER
    marker.write_text("{}")
    with Tracker.load("run", journal=tmp_path / "a/journal", mirror=mirror) as run:
        assert [each.count for each in run.trial_component.metrics] == [3]
        assert "run is counted without what other nodes logged" in caplog.text
        caplog.clear()
        # Once: training would wait again.
        assert [each.count for each in run.trial_component.metrics] == [3]
        assert not caplog.text
    shutil.rmtree(mirror)
    assert node("a", resume=True) == {"loss": 3}
