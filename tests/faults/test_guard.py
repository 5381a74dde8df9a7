"""Whatever happens behind the flush (configuration, imports, descriptors, signals, deadlines),
training goes on, and in time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journaltrack import Tracker, sync
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, QUICK, arrived, states, sync_process
from tests.simulator import BlackHole, CutAfter, simulator

LIMIT_S = 300.0  # far above every deadline here, and far below the hour of `patient`
STALE = ["mistyped", "of another shape", "removed", "unreadable"]


@pytest.fixture
def sim(monkeypatch, credentials):
    """AWS."""
    with simulator() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint_url)
        # a busy machine is no reason to fail
        monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", "120")
        yield found


@pytest.fixture
def quick(monkeypatch):
    """Short delays in the background."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)


def spoil(file, how):
    """What may become of a configuration during a run."""
    if how == "mistyped":
        file.write_text("close_deadline_s = = 3")
    elif how == "of another shape":
        file.write_text('concurrency = "many"\nunknown = 1')
    elif how == "removed":
        file.unlink()
    else:
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("mode", ["close", "background"])
def test_a_configuration_is_taken_once(tmp_path, monkeypatch, sim, quick, how, mode):
    """What becomes of config.toml during a run does not matter to it: its tracker delivers as it
    was told in the beginning.
    """
    file = tmp_path / "config.toml"
    file.write_text(
        f"sync = '{mode}'\nendpoint_url = '{sim.endpoint_url}'\nspool_max_bytes = 1000000\n"
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    (tmp_path / "model").write_text("weights")
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j") as tracker:
        spoil(file, how)
        tracker.log_metric("loss", 1.0)
        tracker.log_artifact(tmp_path / "model")
    assert states(tmp_path / "j")["pending"] == 0
    tracker.log_metric("loss", 2.0)
    tracker.close()
    assert [point.value for point in sim.components["run"].metrics] == [1.0, 2.0]


def test_a_path_object_in_sys_path_is_no_reason_to_fail(tmp_path, monkeypatch, sim, quick):
    """With sync="background" the helper gets sys.path whatever is in it: paths that are objects,
    bytes, and what the import system ignores.
    """
    monkeypatch.setattr(
        sys, "path", [*sys.path, tmp_path, os.fsencode(tmp_path / "\udcff"), 3, None]
    )
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="background")
    tracker.log_metric("loss", 1.0)
    assert arrived(sim, 1)
    tracker.close()


def test_a_process_with_many_descriptors_is_delivered(tmp_path, sim, quick):
    """Beyond 1,024 open files (where select() fails) both close and the background deliver."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        tracker = Tracker.create(
            trial_component_name="run", journal=tmp_path / "j", sync="background"
        )
        tracker.log_metric("loss", 1.0)
        assert arrived(sim, 1)
        tracker.close()
        tracker = Tracker.load("run", journal=tmp_path / "j", sync="close")
        tracker.log_metric("loss", 2.0)
        tracker.close()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert states(tmp_path / "j")["pending"] == 0


SHORT_OF_DESCRIPTORS = """
import os, resource
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run", sync="background", close_deadline_s=60)
tracker.log_metric("loss", 1.0)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
used = max(int(name) for name in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
try:
    tracker.close()
finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
tracker.log_metric("loss", 2.0)
tracker.close()
print("went on")
"""


def test_a_background_that_can_not_begin_is_made_up_for_by_close(tmp_path, sim):
    """Without the descriptors that a helper needs, everything is recorded and close returns;
    with them, the next close delivers.
    """
    # A process of its own: the limit is not the simulator's.
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_DESCRIPTORS],
        env=os.environ | ENVIRONMENT | {"JOURNALTRACK_JOURNAL": str(tmp_path / "j")},
        capture_output=True,
        text=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert states(tmp_path / "j")["pending"] == 0


BROKEN = {
    "missing": "raise ModuleNotFoundError('No module named boto3')",
    "half there": "raise AttributeError(\"module 'lib' has no attribute "
    "'X509_V_FLAG_NOTIFY_POLICY'\")",
    "mistyped": "def",
    "leaving": "raise SystemExit(3)",
}
TRAINING = """
from journaltrack import Tracker
tracker = Tracker.load("unknown")
tracker.log_metric("loss", 1.0)
tracker.close()
print("went on")
"""


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("mode", ["close", "background"])
def test_a_broken_boto3_keeps_no_training_from_going_on(tmp_path, how, mode):
    """However importing boto3 fails, load and close return and say so; everything is in the
    journal.
    """
    (tmp_path / "boto3").mkdir()
    (tmp_path / "boto3" / "__init__.py").write_text(BROKEN[how])
    env = (
        os.environ
        | ENVIRONMENT
        | {
            "PYTHONPATH": str(tmp_path),
            "JOURNALTRACK_JOURNAL": str(tmp_path / "j"),
            "JOURNALTRACK_SYNC": mode,
        }
    )
    done = subprocess.run(
        [sys.executable, "-c", TRAINING],
        env=env,
        capture_output=True,
        text=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert states(tmp_path / "j") == {"pending": 2}


def test_a_sync_with_a_broken_boto3_says_what_to_do(tmp_path, journal):
    """Exit code 5 and a hint, and no bug of ours."""
    (tmp_path / "boto3").mkdir()
    (tmp_path / "boto3" / "__init__.py").write_text(BROKEN["half there"])
    process = sync_process(journal, "http://127.0.0.1:1", env={"PYTHONPATH": str(tmp_path)})
    _, err = process.communicate(timeout=FOREVER_S)
    assert process.returncode == 5, err
    assert "pip install" in err


class Ended(Exception):  # noqa: N818 - what a scheduler's handler may raise
    """Raised by a signal handler of the user's."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, Ended])
@pytest.mark.parametrize("mode", ["close", "background"])
def test_what_a_signal_handler_raises_during_close_is_the_users(tmp_path, sim, quick, raised, mode):
    """Ctrl-C and the user's own handlers end a close that waits for the network; the pass ends,
    and the next one delivers.
    """

    def handler(*_):
        raise raised

    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path / "j", sync=mode, close_deadline_s=300
    )
    tracker.log_metric("loss", 1.0)
    main = os.getpid()
    sim.fail("*", BlackHole(), times=1000, when=lambda _: os.kill(main, signal.SIGUSR1) is None)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(raised):
            tracker.close()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        sim.clear_faults()
        sim.release()
        signal.signal(signal.SIGUSR1, before)
    assert states(tmp_path / "j")["pending"] >= 1


def test_a_close_that_reads_back_returns_in_time(tmp_path, sim, patient):
    """Asking what became of points in doubt is part of the deadline, and gives the lease back at
    its end.
    """
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", close_deadline_s=6)
    for step in range(4):
        tracker.log_metric(f"loss-{step}", 1.0, iteration_number=1)
    sim.fail("BatchPutMetrics", CutAfter())
    sync(tmp_path / "j", endpoint_url=sim.endpoint_url)
    assert states(tmp_path / "j")["in doubt"] == 4
    sim.fail("DescribeTrialComponent", BlackHole(), times=1000)
    sim.fail("BatchGetMetrics", BlackHole(), times=1000)
    tracker.log_metric("loss", 2.0)
    begun = time.monotonic()
    tracker.close()
    assert time.monotonic() - begun < LIMIT_S
    sim.clear_faults()
    sim.release()
    report = sync(tmp_path / "j", endpoint_url=sim.endpoint_url)
    assert (report.pending, report.arrived) == (0, 4)


ELSEWHERE = """
import json, pickle, sys
made = pickle.loads(bytes.fromhex(sys.argv[1]))
if isinstance(made, type):
    with made.create(trial_component_name="elsewhere") as tracker:
        tracker.log_metric("loss", 1.0)
else:
    made.log_metric("loss", 2.0)
    made.close()
from journaltrack import Tracker
print(json.dumps({"one class": (made if isinstance(made, type) else type(made)) is Tracker, "boto3": "boto3" in sys.modules}))
"""


@pytest.mark.parametrize("mode", ["close", "background"])
def test_a_class_that_was_unpickled_by_its_module_delivers(tmp_path, sim, mode):
    """A worker that gets the class by pickle alone (joblib, cloudpickle, submitit, Dask, Ray)
    delivers as any other process.
    """
    import pickle

    assert Tracker.__module__ == "journaltrack.tracking.tracker"
    env = os.environ | {"JOURNALTRACK_JOURNAL": str(tmp_path / "j"), "JOURNALTRACK_SYNC": mode}
    command = [sys.executable, "-c", ELSEWHERE, pickle.dumps(Tracker).hex()]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=FOREVER_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"one class": True, "boto3": True}
    assert [point.value for point in sim.components["elsewhere"].metrics] == [1.0]
    assert sim.components["elsewhere"].status["PrimaryStatus"] == "Completed"


def test_a_tracker_that_was_unpickled_records_and_its_run_delivers(tmp_path, sim, monkeypatch):
    """What a worker logs by a tracker from elsewhere is delivered with the run, whatever became
    of the configuration meanwhile.
    """
    import pickle

    file = tmp_path / "config.toml"
    file.write_text("requests_per_s = 100\n")
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j")
    pickled = pickle.dumps(tracker)
    file.write_text("requests_per_s = 'many'\n")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, pickled.hex()],
        capture_output=True,
        text=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"one class": True, "boto3": False}
    assert not sim.requests
    tracker.close()
    assert [point.value for point in sim.components["run"].metrics] == [2.0]


def test_a_class_is_whole_however_its_module_is_found(tmp_path, sim):
    """Nothing has to be imported before: the module alone is enough."""
    code = (
        "from journaltrack.tracking.tracker import "
        "Tracker\nTracker.create(trial_component_name='run').close()"
    )
    env = os.environ | {"JOURNALTRACK_JOURNAL": str(tmp_path / "j")}
    subprocess.run(
        [sys.executable, "-c", code], env=env, timeout=FOREVER_S, check=True, cwd=Path(tmp_path)
    )
    assert "run" in sim.components
