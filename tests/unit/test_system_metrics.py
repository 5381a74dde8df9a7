"""System metrics: what is read, that they stay in the journal unless asked, and that nothing of
them disturbs a run.
"""

from __future__ import annotations

import math
import os
import sqlite3
import sys
import threading
import types
from contextlib import closing

import pytest

from journaltrack import Journal, Tracker, audit, bundle, check, merge, open_bundle, runs, status
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.journal import vocabulary
from journaltrack.replay.plan.actions import ComponentState, Settle
from journaltrack.replay.plan.planner import plan
from journaltrack.reports.component import show
from journaltrack.retention.plan import Plan
from journaltrack.tracking import system
from tests import independent_verifier
from tests.patience import FOREVER_S


class FakeNvml(types.ModuleType):
    """NVIDIA's library for two GPUs, of which the second tells no power."""

    class NVMLError(Exception):
        """What the library raises."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self):
        super().__init__("pynvml")

    def nvmlInit(self):  # noqa: N802 - the library's name
        """Begin."""

    def nvmlDeviceGetCount(self):  # noqa: N802 - the library's name
        """Count the GPUs."""
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802 - the library's name
        """Give a GPU."""
        return number

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802 - the library's name
        """Tell how busy it is."""
        return types.SimpleNamespace(gpu=40 + handle, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802 - the library's name
        """Tell its memory."""
        return types.SimpleNamespace(used=2**30, total=2**32, free=3 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802 - the library's name
        """Tell its power."""
        if handle == 1:
            raise self.NVMLError
        return 123_400

    def nvmlDeviceGetTemperature(self, handle, kind):  # noqa: N802 - the library's name
        """Tell its temperature."""
        return 55


FORGED = (
    f"INSERT INTO delivery SELECT seq, NULL, 'superseded', '{vocabulary.LOCAL_STAYS}', "
    "recorded_at_ns FROM entry WHERE kind = 'metric'"
)
"""Settles a metric as if it were local."""


def tracked(folder, **options):
    """A tracker that has looked at the system three times."""
    options = {"system_metrics": 0.1, **options}
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off", **options)
    looked = threading.Event()
    wait_for(lambda: _points(folder, "cpu_percent") >= 3, looked)
    return tracker


def wait_for(is_so, event):
    """Wait until something is so."""
    for _ in range(int(FOREVER_S / 0.02)):
        if is_so():
            return
        event.wait(0.02)
    pytest.fail("it does not happen")


def _points(folder, name):
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as connection:
        sql = "SELECT count(*) FROM entry WHERE name LIKE 'system/%' || ?"
        return connection.execute(sql, (name,)).fetchone()[0]


@pytest.fixture
def folder(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal"


def test_they_are_shown_and_never_pending(folder):
    """Machine and processes are read, finite, under the prefix; status counts none of them, audit
    adds up, and check finds nothing.
    """
    tracker = tracked(folder)
    tracker.log_metric("loss", 1.0, step=0)
    tracker.close()
    metrics = {each.name: each for each in show(folder, "run").metrics}
    assert {
        *("system/cpu_percent", "system/memory_percent", "system/process_memory_bytes"),
        *("system/process_cpu_percent", "system/disk_used_percent", "loss"),
    } <= set(metrics)
    assert metrics["system/process_memory_bytes"].last_value > 1_000_000
    assert all(math.isfinite(each.last_value) for each in metrics.values())
    (run,) = runs(folder)
    assert set(run.metrics) == set(metrics)
    # The creation and the loss.
    assert status(folder).pending == 2
    report = audit(folder)
    assert report.inconsistencies == ()
    kinds = {each.kind: each.states for each in report.components[0].kinds}
    assert kinds["local"].superseded == kinds["local"].entries > 0
    assert check(folder).findings == ()
    assert independent_verifier.verify(folder) == []


def test_the_configuration_has_them_delivered(folder, monkeypatch):
    """With `[system] deliver` they are metrics like others, and JOURNALTRACK_SYSTEM_EVERY_S turns
    them on.
    """
    monkeypatch.setenv("JOURNALTRACK_SYSTEM_EVERY_S", "0.1")
    monkeypatch.setenv("JOURNALTRACK_SYSTEM_DELIVER", "true")
    tracked(folder, system_metrics=None).close()
    kinds = {each.kind: each.states for each in audit(folder).components[0].kinds}
    assert "local" not in kinds
    assert kinds["metric"].pending == kinds["metric"].entries > 0


def test_gpus_are_read_and_what_one_does_not_tell_is_left_out(folder, monkeypatch):
    """Each GPU's use, memory, power and temperature have its number and a unit."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    tracker = tracked(folder)
    tracker.close()
    last = {each.name: each.last_value for each in show(folder, "run").metrics}
    assert {name: value for name, value in last.items() if "gpu" in name} == {
        "system/gpu0_percent": 40,
        "system/gpu1_percent": 41,
        "system/gpu0_memory_used_bytes": 2**30,
        "system/gpu1_memory_used_bytes": 2**30,
        "system/gpu0_memory_percent": 25,
        "system/gpu1_memory_percent": 25,
        "system/gpu0_power_watts": 123.4,
        "system/gpu0_temperature_celsius": 55,
        "system/gpu1_temperature_celsius": 55,
    }


def test_a_rank_has_a_prefix_of_its_own(folder, monkeypatch):
    """Processes of one run that share its journal have different names; the first has the plain
    one.
    """
    monkeypatch.setenv("RANK", "3")
    tracked(folder).close()
    names = {each.name for each in show(folder, "run").metrics}
    assert "system/rank3/cpu_percent" in names
    assert "system/cpu_percent" not in names
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert system.process.rank() is None


def test_without_the_extra_a_warning_says_how_to_get_it(folder, monkeypatch):
    """Neither library: the run goes on without system metrics."""
    monkeypatch.setattr(system, "_MACHINE", "no_such_library")
    monkeypatch.setattr(system, "_GPU", "no_such_library")
    with pytest.warns(UserWarning, match=r"journaltrack\[system\]"):
        tracker = Tracker.create(
            trial_component_name="run", journal=folder, sync="off", system_metrics=True
        )
    tracker.close()
    assert show(folder, "run").metrics == ()


@pytest.mark.parametrize("wanted", [-1, 0.01, math.nan, math.inf])
def test_impossible_seconds_are_refused(folder, wanted):
    """Nothing is made."""
    with pytest.raises(InvalidInputError, match="system_metrics"):
        Tracker.create(journal=folder, system_metrics=wanted)
    with pytest.raises(InvalidTypeError, match="system_metrics"):
        Tracker.create(journal=folder, system_metrics="10")
    assert not folder.exists()


def test_the_thread_ends_with_the_tracker_and_begins_again_with_it(folder):
    """After close there is no thread; a later call starts one; a forked child has none."""

    def alive():
        return [each for each in threading.enumerate() if each.name == "journaltrack-system"]

    tracker = tracked(folder)
    assert len(alive()) == 1
    tracker.close()
    wait_for(lambda: not alive(), threading.Event())
    tracker.log_metric("loss", 1.0)
    assert len(alive()) == 1
    pid = os.fork()
    if pid == 0:
        tracker.close()
        os._exit(len(alive()))
    assert os.waitpid(pid, 0)[1] == 0
    tracker.close()


def test_no_thread_imports_the_libraries(folder, monkeypatch):
    """A child that is forked while a thread imports can't import that module: it is done before."""
    importing = set()

    class Finder:
        """Notes who imports what, and finds nothing."""

        def find_spec(self, name, path=None, target=None):
            """Note it."""
            if name.partition(".")[0] in {"psutil", "pynvml"}:
                importing.add((name, threading.current_thread()))

    for name in ("psutil", "pynvml"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    tracked(folder).close()
    assert ("psutil", threading.main_thread()) in importing
    assert {thread for _, thread in importing} == {threading.main_thread()}


def test_libraries_that_fail_disturb_nothing(folder, monkeypatch):
    """A driver that raises anything at any call leaves the rest to be recorded."""
    broken = FakeNvml()
    broken.nvmlDeviceGetMemoryInfo = lambda handle: 1 / 0
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    tracked(folder).close()
    names = {each.name for each in show(folder, "run").metrics}
    assert "system/cpu_percent" in names
    assert "system/gpu0_percent" in names
    assert "system/gpu1_percent" not in names


def test_a_merged_or_bundled_copy_has_them_settled_too(folder, tmp_path):
    """What stays in one journal stays in all of its copies, and is pending in none."""
    tracked(folder).close()
    count = _points(folder, "")
    merge([folder], into=tmp_path / "merged")
    bundle(folder, to=tmp_path / "packed.jtb")
    with open_bundle(tmp_path / "packed.jtb") as opened:
        opened.extract(tmp_path / "opened")
    for copy in (tmp_path / "merged", tmp_path / "opened"):
        assert _points(copy, "") == count
        assert status(copy).pending == status(folder).pending
        assert check(copy).findings == ()


def test_prune_keeps_them(folder):
    """Nothing of them is at the remote, so a prune leaves all of them and says so."""
    tracked(folder).close()
    with closing(Journal.open(folder, read_only=True)) as journal:
        survey = Plan(journal, 2**62).survey()
    assert survey.entries == 0
    assert survey.stays["local"] == _points(folder, "")


def test_a_settlement_that_was_lost_is_planned_without_a_request():
    """A local point without its settlement needs no request and no component."""
    draft = vocabulary.local_metric("system/cpu_percent", 1.0, 5)
    entry = vocabulary.Entry(1, 1, 1, 1, "run", *draft[:7], 5, b"")
    assert plan([entry], {1: ComponentState()}) == [
        Settle(1, (1,), "superseded", vocabulary.LOCAL_STAYS)
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE delivery SET outcome = 'delivered' WHERE receipt_id IS NULL",
        "UPDATE delivery SET reason = 'sent' WHERE receipt_id IS NULL",
        "UPDATE delivery SET settled_at_ns = settled_at_ns + 1 WHERE receipt_id IS NULL",
        FORGED,
    ],
)
def test_a_forged_settlement_is_found(folder, change):
    """Only a local point may be settled so, with its own time and reason."""
    tracker = tracked(folder)
    tracker.log_metric("loss", 1.0, step=0)
    tracker.close()
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.execute(change)
        connection.commit()
    assert "what became of entry" in str(check(folder).findings)
