"""Clocks that are wrong, or jump both ways, on the node that logs and on the one that syncs:
everything is delivered, in order.
"""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.limits import METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from tests.copies import verify_chains

YEAR_NS = 365 * 86_400 * 10**9
NOW_NS = 1_795_000_000 * 10**9


class Jumping:
    """A clock that goes back and ahead by up to twenty years, and in between as it should."""

    def __init__(self, seed):
        self.chance, self.now_ns = random.Random(seed), NOW_NS

    def __call__(self):
        if self.chance.random() < 0.1:
            self.now_ns = NOW_NS + self.chance.randrange(-20 * YEAR_NS, 20 * YEAR_NS)
        self.now_ns += self.chance.randrange(10**7)
        return self.now_ns


@pytest.mark.parametrize("timestamps", ["keep", "shift"])
@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_jumps_keeps_nothing_from_being_synced(tmp_path, seed, timestamps):
    """Logged and synced by such a clock, in several sittings: all is delivered once, in order of
    the calls, and no lease is stuck.
    """
    clock, remote, logged = Jumping(seed), MemoryRemote(), 0
    for sitting in range(3):
        with closing(Journal.open(tmp_path / "j", clock_ns=clock)) as journal:
            component = journal.component("run")
            if sitting == 0:
                journal.append(component, [vocabulary.create(owner="me")])
            for _ in range(40):
                journal.append_metric(component, "m", float(logged), logged, clock())
                logged += 1
        with closing(Journal.open(tmp_path / "j", clock_ns=clock)) as journal:
            report = Reconciler(
                journal,
                remote,
                options=Options(timestamps=timestamps, concurrency=1),
                clock_ns=clock,
            ).run()
            assert report.pending == 0
            assert report.quarantined == 0
    points = remote.components["run"].points
    assert [point.value for point in points] == [float(n) for n in range(logged)]
    # each within the window of the clock that it was sent by, which was within twenty years
    if timestamps == "shift":
        assert all(abs(point.timestamp_ns - NOW_NS) < 21 * YEAR_NS for point in points)
        assert METRIC_AGE_MAX_S > METRIC_AHEAD_MAX_S
    assert audit(tmp_path / "j").all_delivered
    assert verify_chains(tmp_path / "j") == []
