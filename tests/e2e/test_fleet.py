"""A fleet on a real Dask cluster of two workers: commands for many journals, and a worker that is
killed while its command is at work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import dask
import pytest
import yaml
from click.testing import CliRunner
from distributed import Client, LocalCluster

from journaltrack import errors, fleet
from journaltrack.cli import main
from journaltrack.journal.journal import Journal
from journaltrack.replay.lease import acquire
from tests.copies import content, points, record, states
from tests.processes import ENVIRONMENT
from tests.simulator import BlackHole, simulator

FLEET = Path(__file__).parents[2] / "examples" / "fleet"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A simulated AWS, and the client of two workers that reach it."""
    home = str(tmp_path_factory.mktemp("home"))
    with simulator() as sim:
        reach = {"AWS_ENDPOINT_URL": sim.endpoint_url, "JOURNALTRACK_HOME": home, **ENVIRONMENT}
        with (
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                local_directory=str(tmp_path_factory.mktemp("dask")),
                env=reach,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield sim, client


@pytest.fixture
def journals(tmp_path):
    """Three journals of a run each."""
    folders = [tmp_path / "journals" / f"j{n}" for n in range(3)]
    for n, folder in enumerate(folders):
        folder.parent.mkdir(exist_ok=True)
        record(folder, *points(*range(n + 1)), component=f"{tmp_path.name}-{n}".replace("_", "-"))
    return folders


def test_many_journals_are_synced_audited_exported_and_merged(world, journals, tmp_path):
    """Each command has its outcome, in the order of the journals; one journal that is missing
    disturbs no other.
    """
    sim, client = world
    told = []
    done = fleet.sync_many(
        [journals[0], tmp_path / "missing", *journals[1:]],
        client=client,
        requests_per_s=1000,
        on_progress=told.append,
    )
    assert [each.exit_code for each in done.outcomes] == [0, 8, 0, 0]
    assert [each.journals for each in done.failed] == [(str(tmp_path / "missing"),)]
    assert "missing" in done.failed[0].problems
    assert [p.done for p in told] == list(range(5))
    assert {state for folder in journals for state in states(folder)} == {"delivered"}
    assert len({each.worker for each in done.outcomes}) == 2
    json.dumps(done.to_json())
    audited = fleet.audit_many(journals, client=client, per_task=2)
    assert [len(each.journals) for each in audited.outcomes] == [2, 1]
    assert not audited.failed
    for new in (3, 0):
        exported = fleet.export_many(journals, to=tmp_path / "lake", client=client, per_task=2)
        assert not exported.failed
        (both, one) = (each.report for each in exported.outcomes)
        assert sum(each["metrics"] > 0 for each in [*both["journals"], one]) == new
    merged = fleet.merge_many(
        {tmp_path / "a": journals[:1], tmp_path / "b": journals[1:]}, client=client
    )
    assert not merged.failed
    assert set(content(tmp_path / "b")) == set(content(journals[1])) | set(content(journals[2]))
    assert sim.requests


def test_only_a_sync_takes_addresses_in_s3(world, tmp_path):
    """They reach the command as they are, and paths as the workers can follow them."""
    _, client = world
    uri = "s3://inbox/monday.bundle"
    assert fleet._named("sync", [uri, tmp_path / "j"]) == (uri, str(tmp_path / "j"))
    for call in (
        lambda: fleet.audit_many([uri], client=client),
        lambda: fleet.export_many([uri], to=tmp_path, client=client),
        lambda: fleet.merge_many({tmp_path: [uri]}, client=client),
    ):
        with pytest.raises(errors.InvalidInputError, match="is an address in S3; nothing was"):
            call()


def test_the_command_tells_of_all_journals(world, journals):
    """As the functions, for a folder of journals; the worst exit code is the command's."""
    _, client = world
    arguments = ["fleet", "status", str(journals[0].parent), "--scheduler"]
    arguments += [client.scheduler.address, "--per-task", "2"]
    done = CliRunner().invoke(main, [*arguments, "--options", "--check", "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"], len(told["outcomes"])) == (3, 3, 2)
    assert {each["exit_code"] for each in told["outcomes"]} == {3}
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stdout) == (0, "status: 2 of 2 commands ended well\n")


def test_a_rate_is_cut_into_as_many_shares_as_run_at_a_time(world):
    """Two workers have a half each; a single command has all of it; nobody, if there is none."""
    _, client = world
    for tasks, wanted in ((5, 15.0), (1, 30.0)):
        with client.as_current(), fleet._shares(client, tasks, 30.0) as (leases, share):
            assert (leases.max_leases, share) == (30 / wanted, wanted)
    with fleet._shares(client, 5, None) as none:
        assert none == (None, None)
    with pytest.raises(errors.InvalidInputError, match="must be more than 0"):
        fleet.sync_many(["j"], client=client, requests_per_s=0)
    with pytest.raises(errors.InvalidInputError, match="must be 1 or more"):
        fleet.sync_many(["j"], client=client, per_task=0)


def held(sim):
    """The requests that wait for an answer."""
    return [each for each in sim.calls("CreateTrialComponent") if each.status == 0]


def test_a_killed_worker_loses_nothing(world, journals):
    """SIGKILL of a worker whose sync waits for an answer: Dask runs the task again, which waits for
    the lease of the command that was left behind; in the end all is delivered, once.
    """
    sim, client = world
    sim.fail("CreateTrialComponent", BlackHole())
    before = len(sim.calls("BatchPutMetrics"))
    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(fleet.sync_many(journals, client=client))
    )
    thread.start()

    assert sim.wait_until(held)
    number = held(sim)[0].params["TrialComponentName"].rpartition("-")[2]
    (busy,) = (
        worker
        for worker, tasks in client.processing().items()
        if any(str(task).endswith(f"-{number}") for task in tasks)
    )
    os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)
    sim.release()
    thread.join()
    (done,) = reports
    assert [each.exit_code for each in done.outcomes] == [0] * 3, done.failed
    assert {state for folder in journals for state in states(folder)} == {"delivered"}
    assert len(sim.calls("BatchPutMetrics")) - before == 3


def array_task(folder, sim, **environment):
    """Run the script of an array job's task to its end; its exit code."""
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "journaltrack"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m journaltrack "$@"\n')
    command.chmod(0o755)
    known = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_HOME": str(folder),
        "LIST": str(folder / "list"),
        "DATASET": str(folder / "lake"),
        "RATE": "1000",
        "AT_ONCE": "5",
        "ATTEMPTS": "2",
        "PAUSE": "0",
    }
    done = subprocess.run(
        ["bash", FLEET / "array.sh"],
        env=os.environ | ENVIRONMENT | known | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_array_jobs_sync_and_export_each_line_of_a_list(journals, tmp_path):
    """Whichever scheduler names the task: each task has its journal, one that runs again does no
    harm, and a line that is not there is told.
    """
    (tmp_path / "list").write_text("".join(f"{folder}\n" for folder in journals))
    with simulator() as sim:
        code, told, problems = array_task(tmp_path, sim, SLURM_ARRAY_TASK_ID="0")
        assert code == 0, problems
        assert "1 metric" in told
        code, told, problems = array_task(tmp_path, sim, AWS_BATCH_JOB_ARRAY_INDEX="0")
        assert (code, "nothing new" in told) == (0, True), problems
        code, _, problems = array_task(tmp_path, sim, SLURM_ARRAY_TASK_ID="5")
        assert (code, "line 6 of" in problems) == (2, True)
        code, _, problems = array_task(tmp_path, sim)
        assert (code != 0, "is this an array job?" in problems) == (True, True)
        # A lease that somebody holds: tried again, told in the end, and exported all the same.
        with closing(Journal.open(journals[1])) as journal:
            lease = acquire(journal.database)
            code, told, _ = array_task(tmp_path, sim, JOB_COMPLETION_INDEX="1")
            lease.release()
        assert (code, "2 metrics, 1 entry" in told) == (7, True), told
    assert [set(states(folder)) for folder in journals] == [{"delivered"}] + [{"pending"}] * 2
    job = yaml.safe_load((FLEET / "kubernetes.yaml").read_text())["spec"]
    assert job["completionMode"] == "Indexed"
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "/shared/array.sh"]
    assert {each["name"] for each in container["env"]} == {"LIST", "DATASET", "RATE", "AT_ONCE"}


def test_what_a_fleet_lacks_is_told(monkeypatch):
    """Without Dask: the extra that brings it. Without a scheduler: exit code 6, and nothing ran."""
    done = CliRunner().invoke(
        main, ["fleet", "sync", "j", "--scheduler", "nonsense://x"], env=ENVIRONMENT
    )
    assert done.exit_code == 2, done.output
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = CliRunner().invoke(main, ["fleet", "sync", "j", "--scheduler", "tcp://127.0.0.1:1"])
    assert (done.exit_code, "pip install 'journaltrack[dask]'" in done.stderr) == (2, True)


def test_outcomes_survive_the_scheduler(journals, tmp_path):
    """A scheduler that goes away: what ended is told as it ended, and the rest as not ended."""
    with simulator() as sim:
        reach = {"AWS_ENDPOINT_URL": sim.endpoint_url, "JOURNALTRACK_HOME": str(tmp_path)}
        with pytest.MonkeyPatch.context() as variables:
            for name, value in (reach | ENVIRONMENT).items():
                variables.setenv(name, value)
            sim.fail(
                "CreateTrialComponent",
                BlackHole(),
                when=lambda call: call.params["TrialComponentName"].endswith("-2"),
            )
            with (
                dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
                LocalCluster(
                    n_workers=1,
                    threads_per_worker=1,
                    processes=False,
                    dashboard_address=None,
                    local_directory=str(tmp_path / "dask"),
                ) as cluster,
                Client(cluster.scheduler_address, set_as_default=False) as client,
            ):

                def end(told):
                    """End the scheduler once two commands ended and the third is at work."""
                    if told.done == 2:
                        assert sim.wait_until(held)
                        cluster.sync(cluster.scheduler.close)
                        sim.release()

                done = fleet.sync_many(
                    journals, client=client, requests_per_s=1000, on_progress=end
                )
    assert [each.exit_code for each in done.outcomes] == [0, 0, 1]
    assert "no worker ended it" in done.failed[0].problems
