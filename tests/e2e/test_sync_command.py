"""`journaltrack sync` as people run it: what it sends, beside whom, and what it says."""

from __future__ import annotations

import fcntl
import threading
import time

import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, sync
from journaltrack.cli import ExitCode, main
from journaltrack.replay import lease as leases
from journaltrack.reports.entries import each_entry
from journaltrack.tracking.validation import JournaltrackWarning
from journaltrack.transfer.bundle.pack import bundle
from journaltrack.util import paths
from tests.processes import sync_process
from tests.simulator import HttpError, simulator


def run(journal, endpoint_url, *arguments, env=None):
    """Sync in another process: exit code and everything printed."""
    process = sync_process(journal, endpoint_url, *arguments, env=env or {})
    out, err = process.communicate()
    return process.returncode, out + err


def test_old_metrics_are_sent_as_they_are_or_with_the_time_of_delivery(tmp_path, credentials):
    """By default times are sent as recorded; with ``shift``, those out of AWS's window are not,
    and the audit says which.
    """
    now = time.time()
    times = {1.0: now - 30 * 86_400, 2.0: now - 86_400, 3.0: now + 86_400}
    for policy in ("keep", "shift"):
        journal = tmp_path / policy
        with Tracker.create(trial_component_name=policy, journal=journal, sync="off") as tracker:
            for step, (value, at) in enumerate(times.items()):
                tracker.log_metric("loss", value, timestamp=at, iteration_number=step)
        with simulator() as sim:
            code, printed = run(journal, sim.endpoint_url, env={"JOURNALTRACK_TIMESTAMPS": policy})
            assert code == 0, printed
            sent = {
                point.value: (point.timestamp, point.step)
                for point in sim.components[policy].metrics
            }
        assert [step for _, step in sent.values()] == [0, 1, 2]
        moved = {value for value, at in times.items() if abs(sent[value][0] - at) > 1}
        assert moved == ({1.0, 3.0} if policy == "shift" else set())
        assert all(abs(sent[value][0] - now) < 3_600 for value in moved)
        opened = Journal.open(journal, read_only=True, create=False)
        metrics = [entry for entry in each_entry(opened) if entry.kind == "metric"]
        opened.close()
        assert {
            entry.value for entry in metrics if entry.reason and "time of delivery" in entry.reason
        } == moved
        assert {entry.value: entry.timestamp_ns / 1e9 for entry in metrics} == pytest.approx(
            times
        ), "the journal keeps what was logged"


def test_the_second_sync_names_the_holder(journal, credentials):
    """Two syncs at once: the second leaves everything alone, and says who holds the lease, with
    exit code 7.
    """
    opened = Journal.open(journal)
    lease = leases.acquire(opened.database)
    code, printed = run(journal, "http://127.0.0.1:9")
    lease.release()
    opened.close()
    assert code == 7
    assert "pid" in printed


def test_training_appends_while_a_sync_runs(journal, credentials):
    """Appending never waits for a replay: entries that come during one are delivered by it or
    the next.
    """
    tracker = Tracker.load("run", journal=journal, sync="off")
    with simulator() as sim:
        logged = threading.Event()

        def log(call):
            if call.operation == "BatchPutMetrics" and not logged.is_set():
                logged.set()
                for n in range(50):
                    tracker.log_metric("late", float(n))

        sim.on_request = log
        sync(journal, endpoint_url=sim.endpoint_url)
        sync(journal, endpoint_url=sim.endpoint_url)
        assert logged.is_set()
        assert len(sim.components["run"].metrics) == 145


def test_two_nodes_converge(tmp_path, credentials):
    """Two journals of one component, synced in either order and again, add up in SageMaker."""
    with simulator() as sim:
        for node in ("one", "two"):
            tracker = Tracker.create(
                trial_component_name="shared", resume=True, journal=tmp_path / node, sync="off"
            )
            tracker.log_parameter(f"of {node}", node)
            tracker.log_metric(f"loss-{node}", 1.0, iteration_number=1)
        for node in ("two", "one", "two"):
            report = sync(tmp_path / node, endpoint_url=sim.endpoint_url)
            assert (report.pending, report.quarantined, report.held) == (0, 0, {})
        assert set(sim.components["shared"].parameters) == {"of one", "of two"}
        assert len(sim.components["shared"].metrics) == 2


def test_integers_beyond_a_double_arrive_with_all_digits_as_text(tmp_path, credentials):
    """A parameter that no double holds is a string in SageMaker; a display name that was mended
    is taken.
    """
    with pytest.warns(JournaltrackWarning):
        tracker = Tracker.create(
            "my run", trial_component_name="run", journal=tmp_path / "journal", sync="off"
        )
    tracker.log_parameters({"seed": 2**63 + 1, "even": 2**60, "epochs": 3})
    tracker.close()
    with simulator() as sim:
        assert sync(tmp_path / "journal", endpoint_url=sim.endpoint_url).halted is None
        held = sim.components["run"]
        assert held.parameters == {
            "seed": {"StringValue": "9223372036854775809"},
            "even": {"NumberValue": float(2**60)},
            "epochs": {"NumberValue": 3.0},
        }
        assert held.display_name == "my-run"


@pytest.mark.parametrize("code", ["ResourceLimitExceeded", "AccessDeniedException"])
def test_why_a_component_is_held_is_said_once(journal, credentials, code):
    """Reason and hint stand on stderr once, whether one component is held or everything stops
    for it.
    """
    with simulator() as sim:
        sim.fail("CreateTrialComponent", HttpError(400, code, "as we say"), times=9)
        process = sync_process(journal, sim.endpoint_url)
        _, errors = process.communicate()
    assert process.returncode in {ExitCode.PENDING, ExitCode.HALTED}
    assert errors.count("as we say") == 1, errors
    assert errors.count("hint:") == 1
    assert "held: run: " in errors


def test_two_syncs_of_one_bundle_do_not_meet(journal, tmp_path, credentials, monkeypatch):
    """While one process unpacks a bundle, another one's sync of it ends with 7, and has changed
    nothing.
    """
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "home"))
    made = bundle(journal, to=tmp_path / "run.bundle")
    place = tmp_path / "home" / "bundles"
    place.mkdir(parents=True)
    with simulator() as sim, (place / f".{made.journal_id}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        arguments = ["sync", str(tmp_path / "run.bundle"), "--endpoint-url", sim.endpoint_url]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == ExitCode.LEASE_HELD, result.output
        assert not sim.requests
        fcntl.flock(other, fcntl.LOCK_UN)
        assert CliRunner().invoke(main, arguments).exit_code == ExitCode.OK
    assert (place / made.journal_id / paths.DATABASE).exists()
