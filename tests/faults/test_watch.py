"""The watcher as people run it: processes, a strict AWS that is counted, and everything that
goes wrong between them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from journaltrack import Tracker
from tests.patience import FOREVER_S
from tests.processes import arrived, points_of, record, states
from tests.simulator import BlackHole, simulator

TRAINER = """
import sys
from journaltrack import Tracker

tracker = Tracker.create(trial_component_name=sys.argv[2], journal=sys.argv[1], sync="off", resume=True)
logged = 0
for line in sys.stdin:
    for _ in range(int(line)):
        tracker.log_metric("loss", float(logged), iteration_number=logged)
        logged += 1
    print(logged, flush=True)
tracker.close()
"""


class Trainer:
    """A training process that logs so many points when it is told to, and says when they are
    acknowledged.
    """

    def __init__(self, journal, component="run"):
        command = [sys.executable, "-c", TRAINER, str(journal), component]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def log(self, points):
        """Log them; returns how many are logged now."""
        self.process.stdin.write(f"{points}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(300) == 0
        self.process.stdout.close()


def test_an_outage_under_a_running_watcher_and_trainer(tmp_path, watch):
    """Stopped and started twice, an endpoint has every point exactly once in the end; during an
    outage it gets no requests, afterwards no storm.
    """
    with simulator() as sim:
        watching = watch(tmp_path, sim.endpoint_url)
        trainer = Trainer(tmp_path / "journal")
        logged = trainer.log(100)
        assert arrived(sim, logged)
        line = 0
        for _ in range(2):
            sim.stop()
            logged = trainer.log(300)
            line = watching.wait_for("event=endpoint-down", after=line)
            logged = trainer.log(300)
            before = len(sim.requests)
            sim.start()
            line = watching.wait_for("event=endpoint-up", after=line)
            assert arrived(sim, logged)
            assert len(sim.requests) - before <= 60 + 10, (
                "600 points, ten a request, and a few probes"
            )
        trainer.end()
        assert sim.wait_until(lambda sim: sim.components["run"].parameters is not None)
        assert watching.end() == 0
        found = states(tmp_path / "journal")
        assert found["pending"] == 0
        there = points_of(sim)
        assert set(there.values()) == {1}
        assert logged - found["in doubt"] <= len(there) <= logged


def test_a_silent_endpoint_leaves_nothing_in_doubt_that_a_probe_could_tell(tmp_path, watch):
    """An endpoint that accepts and never answers is found out by a probe, and nothing is sent
    into it; released, it gets everything.
    """
    record(tmp_path / "journal", points=50)
    with simulator() as sim:
        sim.fail("*", BlackHole(), times=1_000)
        watching = watch(tmp_path, sim.endpoint_url)
        watching.wait_for("event=endpoint-down")
        assert {call.operation for call in sim.requests} == {"DescribeTrialComponent"}
        sim.clear_faults()
        sim.release()
        assert arrived(sim, 50)
        assert watching.end() == 0
        assert states(tmp_path / "journal")["in doubt"] == 0


def test_renewed_credentials_are_noticed(tmp_path, watch):
    """Expired credentials stop all but probes; new ones in the file are taken without a restart."""
    record(tmp_path / "journal")
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = AKIDOLD\naws_secret_access_key = "
        "secret\naws_session_token = token\n"
    )
    with simulator() as sim:
        sim.expired.add("AKIDOLD")
        environment = {
            "AWS_SHARED_CREDENTIALS_FILE": str(file),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
        }
        watching = watch(tmp_path, sim.endpoint_url, env=environment)
        watching.wait_for("event=endpoint-down", "ExpiredToken", "hint=")
        assert not sim.components
        file.write_text(
            "[default]\naws_access_key_id = AKIDNEW\naws_secret_access_key = "
            "secret\naws_session_token = token\n"
        )
        watching.wait_for("event=endpoint-up")
        assert arrived(sim, 5)
        assert watching.end() == 0
        assert states(tmp_path / "journal")["quarantined"] == 0


def test_a_journal_that_is_held_does_not_hold_up_the_others(tmp_path, watch):
    """A component that belongs to somebody else keeps its journal waiting, with the reason told;
    other journals are delivered as ever.
    """
    with simulator() as sim:
        sim.add_component("taken")
        with Tracker.create(
            trial_component_name="taken", journal=tmp_path / "held", sync="off"
        ) as tracker:
            tracker.log_metric("loss", 1.0)
        watching = watch(tmp_path, sim.endpoint_url, "--health-file", str(tmp_path / "health.json"))
        watching.wait_for("event=pass", "code=ComponentConflict")
        record(tmp_path / "good")
        assert arrived(sim, 5)
        watching.wait_for("event=pass", "journal=" + str(tmp_path / "good"))
        assert watching.end() == 0
        told = {
            entry["journal"]: entry
            for entry in json.loads((tmp_path / "health.json").read_text())["journals"]
        }
        assert told[str(tmp_path / "held")]["last_error"]["code"] == "ComponentConflict"
        assert "--create-or-attach" in told[str(tmp_path / "held")]["last_error"]["hint"]
        assert told[str(tmp_path / "good")]["last_error"] is None
        assert states(tmp_path / "held")["pending"] > 0


def test_journals_that_are_moved_deleted_and_replaced(tmp_path, watch):
    """A moved journal is delivered from its new place, a deleted one let go, another one in an
    old place delivered; the watcher goes on.
    """
    inbox = tmp_path / "inbox"
    record(inbox / "a", "a")
    record(inbox / "b", "b")
    with simulator() as sim:
        watching = watch(inbox, sim.endpoint_url)
        assert arrived(sim, 5, "a")
        assert arrived(sim, 5, "b")
        (inbox / "a").rename(inbox / "moved")
        while (inbox / "b").exists():  # SQLite may take away its files at the same time
            shutil.rmtree(inbox / "b", ignore_errors=True)
        line = watching.wait_for("event=journal-gone", str(inbox / "a"))
        watching.wait_for("event=journal-gone", str(inbox / "b"))
        record(inbox / "moved", "a", points=7)
        record(tmp_path / "other", "c")
        (tmp_path / "other").rename(inbox / "b")
        assert arrived(sim, 12, "a")
        assert arrived(sim, 5, "c")
        watching.wait_for("event=journal-whole", str(inbox / "b"), after=line)
        # The points arrive before the run's end does.
        watching.wait_for("event=pass", str(inbox / "moved"), "pending=0", after=line)
        assert watching.end() == 0
        assert states(inbox / "moved")["pending"] == 0
        assert max(points_of(sim, "c").values()) == 1


@pytest.mark.skipif(
    shutil.which("unshare") is None, reason="root reads everything, except without its capabilities"
)
def test_an_unreadable_journal_is_told_and_delivered_when_it_can_be_read(tmp_path, watch):
    """Without permission a journal waits with the reason told, and the others go on; with it
    again, it is delivered.
    """
    # files are still ours, but no capability overrides their mode
    powerless = ["unshare", "--user"]
    if subprocess.run([*powerless, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    inbox = tmp_path / "inbox"
    for name in "ab":
        record(inbox / name, name)
    (inbox / "a").chmod(0o000)
    with simulator() as sim:
        watching = watch(inbox, sim.endpoint_url, prefix=powerless)
        assert arrived(sim, 5, "b")
        assert "a" not in sim.components
        (inbox / "a").chmod(0o700)
        assert arrived(sim, 5, "a")
        (inbox / "a").chmod(0o000)
        watching.wait_for("Permission denied", str(inbox / "a"))
        (inbox / "a").chmod(0o700)
        record(inbox / "a", "a", points=3)
        assert arrived(sim, 8, "a")
        assert watching.end() == 0


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a user namespace of its own")
def test_inotify_at_its_limit_is_polled_with_a_warning(tmp_path, watch):
    """When the system gives no watches, folders are polled, and a warning says what to raise."""
    limited = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"',
        "sh",
    ]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    with simulator() as sim:
        watching = watch(tmp_path, sim.endpoint_url, prefix=limited)
        watching.wait_for("warning event=polling reason=limit", "max_user_watches")
        trainer = Trainer(tmp_path / "journal")
        assert arrived(sim, trainer.log(20))
        assert arrived(sim, trainer.log(20))
        trainer.end()
        assert watching.end() == 0


@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_watcher_killed_in_mid_pass_is_replaced_by_another(tmp_path, watch, at):
    """Killed when its n-th request arrives, a watcher's work is finished by the next; doubtful
    points are there once or not at all.
    """
    record(tmp_path / "journal", points=95)
    with simulator() as sim:
        started = []
        sim.on_request = lambda call: (
            os.kill(started[0].process.pid, signal.SIGKILL) if call.n >= at and started else None
        )
        started.append(watch(tmp_path, sim.endpoint_url))
        assert started[0].ended() == -signal.SIGKILL
        sim.on_request = None
        again = watch(tmp_path, sim.endpoint_url)
        again.wait_for("event=pass", "pending=0")
        assert again.end() == 0
        found, there = states(tmp_path / "journal"), points_of(sim)
        assert found["pending"] == 0
        assert max(there.values(), default=1) == 1
        assert 95 - found["in doubt"] <= len(there) <= 95


def until(true, timeout_s=300):
    """Look until it is so."""
    ends = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < ends
        threading.Event().wait(0.01)


def test_two_watchers_on_one_folder_send_everything_once(tmp_path, watch):
    """Side by side, two watchers deliver each point once, whichever of them; one that is killed
    leaves the rest to the other.
    """
    with simulator(latency_s=0.005) as sim:
        first, second = (watch(tmp_path, sim.endpoint_url) for _ in range(2))
        trainers = [Trainer(tmp_path / name, name) for name in ("a", "b", "c")]
        for _ in range(5):
            logged = max([trainer.log(40) for trainer in trainers])
            for name in ("a", "b", "c"):
                assert arrived(sim, logged, name)
        first.end(signal.SIGKILL)
        logged = max([trainer.log(40) for trainer in trainers])
        for trainer in trainers:
            trainer.end()
        for name in ("a", "b", "c"):
            # What the killed one left in doubt is read back, and what came last is sent after that.
            until(lambda name=name: not states(tmp_path / name)["pending"])
        assert second.end() == 0
        for name in ("a", "b", "c"):
            found, there = states(tmp_path / name), points_of(sim, name)
            assert max(there.values()) == 1
            assert logged - found["in doubt"] <= len(there) <= logged


BACKWARDS = """
import time
started, real_ns, real = time.monotonic(), time.time_ns, time.time
jump = lambda: 0 if time.monotonic() - started < 2 else -86_400
time.time_ns = lambda: real_ns() + jump() * 10**9
time.time = lambda: real() + jump()
from journaltrack.cli import main
main()
"""


def test_a_clock_that_jumps_back_a_day_stops_nothing(tmp_path, watch):
    """While the machine's clock jumps back by a day, entries go on being delivered."""
    with simulator() as sim:
        watching = watch(tmp_path, sim.endpoint_url, launcher=BACKWARDS)
        trainer = Trainer(tmp_path / "journal")
        before = None
        for _ in range(40):
            logged = trainer.log(5)
            assert arrived(sim, logged)
            days = {line[:10] for line in watching.lines if "event=pass" in line}
            before = before or days
            if len(days) > 1:
                break
        trainer.end()
        assert watching.end() == 0
        assert states(tmp_path / "journal")["in doubt"] == 0


def test_a_journal_copied_in_pieces_is_left_alone_until_it_is_whole(tmp_path, watch):
    """A copy under way is not opened: not with half a database, not while rsync writes the log,
    not before its artifacts are there.
    """
    (tmp_path / "model.bin").write_bytes(os.urandom(100_000))
    source = record(tmp_path / "source", points=200, artifact=tmp_path / "model.bin")
    # keeps its log unmerged
    writer = Tracker.create(trial_component_name="run", journal=source, sync="off", resume=True)
    writer.log_metric("loss", 1000.0)
    writer.flush()
    copy = tmp_path / "inbox" / "copy"
    copy.mkdir(parents=True)
    with simulator() as sim:
        watching = watch(tmp_path / "inbox", sim.endpoint_url)
        whole = (source / "journal.db").read_bytes()
        (copy / "journal.db").write_bytes(whole[: len(whole) // 2])
        line = watching.wait_for(
            "event=journal-arriving", f"{len(whole) // 2} of {len(whole)} bytes"
        )
        (copy / ".journal.db-wal.x3Yz9a").write_bytes(b"")
        (copy / "journal.db").write_bytes(whole)
        line = watching.wait_for("event=journal-arriving", ".journal.db-wal.x3Yz9a", after=line)
        assert sorted(path.name for path in copy.iterdir()) == [
            ".journal.db-wal.x3Yz9a",
            "journal.db",
        ], "nothing was opened"
        shutil.copy(source / "journal.db-wal", copy / ".journal.db-wal.x3Yz9a")
        (copy / ".journal.db-wal.x3Yz9a").rename(copy / "journal.db-wal")
        watching.wait_for("event=journal-incomplete", "1 of its artifacts", after=line)
        assert not sim.requests
        shutil.copytree(source / "spool", copy / "spool")
        assert arrived(sim, 201)
        # uploads go beside, and the references to them behind
        watching.wait_for("event=pass", "pending=0")
        assert watching.end() == 0
        assert [stored.body for stored in sim.artifacts.values()] == [
            (tmp_path / "model.bin").read_bytes()
        ]
        found = states(copy)
        assert found["pending"] == found["quarantined"] == 0
    writer.close()


def test_sigterm_finishes_what_is_in_flight(tmp_path, patient, watch):
    """Told to end while requests are under way, the watcher awaits their answers, records them,
    and exits with 0; the rest stays pending.
    """
    record(tmp_path / "journal", points=900)
    with simulator(latency_s=0.3) as sim:
        stopping, numbers = threading.Event(), itertools.count(1)

        def hold(call):
            if call.operation == "BatchPutMetrics" and next(numbers) > 6:
                stopping.wait(FOREVER_S)

        sim.on_request = hold
        watching = watch(tmp_path, sim.endpoint_url, "--concurrency", "4")
        assert sim.wait_until(lambda sim: len(sim.calls("BatchPutMetrics")) >= 6)
        watching.process.send_signal(signal.SIGTERM)
        watching.wait_for("event=stopping")
        stopping.set()
        assert watching.ended() == 0
        found = states(tmp_path / "journal")
        assert found["in doubt"] == 0
        assert found["pending"] > 0
        assert len(points_of(sim)) == 900 - found["pending"], "every answer was recorded"
        again = watch(tmp_path, sim.endpoint_url)
        assert arrived(sim, 900)
        again.wait_for("event=pass", "pending=0")
        assert again.end() == 0
        assert set(points_of(sim).values()) == {1}


def test_sigterm_ends_within_the_deadline_when_nobody_answers(tmp_path, patient, watch):
    """With a server that never answers, the end comes after the stop deadline, with 0; what was
    sent is settled by the next pass.
    """
    record(tmp_path / "journal", points=20)
    with simulator() as sim:
        sim.fail("BatchPutMetrics", BlackHole(), times=1_000)
        watching = watch(
            tmp_path, sim.endpoint_url, env={"JOURNALTRACK_WATCH_STOP_DEADLINE_S": "1"}
        )
        assert sim.wait_until(lambda sim: sim.calls("BatchPutMetrics"))  # the first one goes alone
        assert watching.end() == 0, "it waits for no answer, which would take an hour"
        sim.clear_faults()
        sim.release()
        again = watch(tmp_path, sim.endpoint_url)
        again.wait_for("event=pass", "in_doubt=10")
        assert again.end() == 0
        assert states(tmp_path / "journal")["pending"] == 0
