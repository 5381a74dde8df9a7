"""`journaltrack watch` as people run it: configured, limited, asked how it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from tests import warm
from tests.processes import arrived, points_of, record
from tests.simulator import HttpError, simulator


def test_what_a_person_releases_is_delivered(tmp_path, watch):
    """Entries that `journaltrack retry` makes pending again are sent by the watcher that runs,
    without a new entry.
    """
    record(tmp_path / "journal", points=20)
    with simulator() as sim:
        sim.fail("BatchPutMetrics", HttpError(400, "ValidationException", "not today"), times=1_000)
        watching = watch(tmp_path, sim.endpoint_url)
        watching.wait_for("event=pass", "quarantined=20")
        sim.clear_faults()
        warm.run(
            [sys.executable, "-m", "journaltrack", "retry", str(tmp_path / "journal")],
            check=True,
            capture_output=True,
        )
        assert arrived(sim, 20)
        assert watching.end() == 0
        assert set(points_of(sim).values()) == {1}


def test_sighup_reads_the_configuration_again(tmp_path, watch):
    """Other folders are watched after SIGHUP; a configuration that can't be right changes
    nothing.
    """
    record(tmp_path / "one" / "journal", "one")
    record(tmp_path / "two" / "journal", "two")
    file = tmp_path / "config.toml"
    file.write_text('[watch]\nfolders = ["one"]\n')
    with simulator() as sim:
        watching = watch(None, sim.endpoint_url, "--config", str(file))
        assert arrived(sim, 5, "one")
        file.write_text("[watch]\nfolders = 7\n")
        watching.process.send_signal(signal.SIGHUP)
        watching.wait_for("event=configuration-refused", "folders")
        record(tmp_path / "one" / "journal", "one", points=7)
        assert arrived(sim, 12, "one")
        file.write_text('[watch]\nfolders = ["two"]\n')
        watching.process.send_signal(signal.SIGHUP)
        watching.wait_for("event=configuration-read")
        assert arrived(sim, 5, "two")
        assert watching.end() == 0


def test_a_rate_limit_holds_for_all_journals_together(tmp_path, watch):
    """Four journals with a backlog together stay within the rate that the watcher was given: a
    server that allows less than four times as much refuses nothing.
    """
    for name in "abcd":
        record(tmp_path / name, name, points=200)
    # four limits of 20 would be refused, and three seconds of a machine that stands still are not
    with simulator(max_rate=60) as sim:
        watching = watch(tmp_path, sim.endpoint_url, "--rate-limit", "20")
        for name in "abcd":
            assert arrived(sim, 200, name)
        assert watching.end() == 0
        assert len(sim.requests) > 80
        assert {request.status for request in sim.calls("BatchPutMetrics")} == {200}


def test_status_knows_a_watcher_with_a_health_file_of_its_own(tmp_path, watch):
    """`--health-file` is for monitors, and hides the watcher from nobody: `status --watch` says
    that the journal is watched.
    """
    record(tmp_path / "journals" / "run")
    command = [
        sys.executable,
        "-m",
        "journaltrack",
        "status",
        "--watch",
        "--json",
        "--interval",
        "0.1",
        str(tmp_path / "journals"),
    ]
    with simulator() as sim:
        watching = watch(
            tmp_path / "journals", sim.endpoint_url, "--health-file", str(tmp_path / "health.json")
        )
        watching.wait_for("event=pass", "pending=0")
        with warm.Popen(command, stdout=subprocess.PIPE, text=True) as shown:
            looks = (json.loads(line)["journals"][0] for line in shown.stdout)
            seen = next(look for look in looks if look["watched"])
            shown.kill()
        assert seen["endpoint_up"]
        assert watching.end() == 0
    assert json.loads((tmp_path / "health.json").read_text())["state"] == "stopped"


def test_a_folder_that_is_not_there_is_told_with_what_may_have_been_meant(tmp_path, watch):
    """A misspelt folder is not waited for in silence; one that comes later is found and
    delivered.
    """
    record(tmp_path / "journals" / "a", points=1)
    with simulator() as sim:
        watching = watch(tmp_path / "journlas", sim.endpoint_url)
        watching.wait_for(
            "event=folder-missing", "does not exist yet", f"perhaps {tmp_path / 'journals'}"
        )
        (tmp_path / "journals").rename(tmp_path / "journlas")
        assert arrived(sim, 1)
        assert watching.end() == 0


def test_events_are_json_lines_where_json_is_asked_for(tmp_path, watch):
    """On stdout, each with its time, its level and its fields; stderr is empty."""
    with simulator() as sim:
        watching = watch(tmp_path, sim.endpoint_url, "--json")
        first = json.loads(watching.process.stdout.readline())
        assert (first["event"], first["level"], first["folders"]) == (
            "watching",
            "info",
            str(tmp_path),
        )
        assert first["at"].endswith("Z")
        watching.process.send_signal(signal.SIGTERM)
        assert [json.loads(line)["event"] for line in watching.process.stdout][-1] == "stopped"
        assert watching.process.wait() == 0
        assert watching.lines == []


def test_a_log_that_nobody_reads_any_more_stops_no_delivery(tmp_path, watch):
    """The reader of stdout is gone, as with `head`: what comes is delivered, nothing is printed,
    and the exit code tells.
    """
    with simulator() as sim:
        watching = watch(tmp_path, sim.endpoint_url, "--json")
        watching.process.stdout.readline()
        watching.process.stdout.close()
        record(tmp_path / "run", points=1)
        assert arrived(sim, 1)
        assert watching.end() == 141
        assert watching.lines == []
