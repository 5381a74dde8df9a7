"""Many small journals: ``sync``, ``status`` and an idle ``watch``, against the same requests and
the same reads made bare.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, say, take_turns
from benchmarks.static_server import static_server
from benchmarks.watch import cpu_s_of, watching

LATENCY_MS = 30.0
THREADS = 16
SYNC_S_MAX = 2.0
CPU_MS_MAX = 20.0
STATUS_S_MAX = 1.5
POINTS = 10
_SETTLED_S = 60.0
"""By then the watcher has looked at each journal once, and waits for events."""


def run(options: Run) -> list[Result]:
    """A folder of 100 journals, synced at 30 ms latency, 16 at a time and one at a time."""
    journals = options.size(100, 30)
    model = options.folder / "many"
    copy = options.folder / "many-copy"
    child("benchmarks.many:make", folder=str(model), journals=journals)
    values: dict[str, list[Values]] = {}
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        for jobs in (THREADS, 1):
            shutil.copytree(model, copy)
            with static_server(LATENCY_MS) as server:
                sides = [
                    Side(
                        f"sync {jobs}",
                        "benchmarks.many:sync",
                        {"folder": str(copy), "endpoint_url": server.endpoint_url, "jobs": jobs},
                    ),
                    Side(
                        f"bare {jobs}",
                        "benchmarks.many:bare_requests",
                        {
                            "journals": journals,
                            "endpoint_url": server.endpoint_url,
                            "threads": jobs,
                        },
                    ),
                ]
                for name, runs in take_turns(sides, 1).items():
                    values.setdefault(name, []).extend(runs)
            shutil.rmtree(copy)
    results = []
    for jobs in (THREADS, 1):
        ours, bare = values[f"sync {jobs}"], values[f"bare {jobs}"]
        what = f"sync of {journals} journals of 13 entries, {jobs} at a time, {LATENCY_MS:g} ms"
        floor = f"the same requests by boto3, {jobs} threads"
        seconds, bare_s = ([v["wall_s"] for v in side] for side in (ours, bare))
        cpu_ms, bare_ms = (
            [v["work_cpu_s"] / journals * 1000 for v in side] for side in (ours, bare)
        )
        cpu = f"{what}: CPU of a journal, without starting"
        results += [
            compare("many", what, "s", seconds, bare_s, floor_name=floor),
            compare("many", cpu, "ms", cpu_ms, bare_ms, floor_name=floor),
            compare("many", cpu, "ms", cpu_ms, target=CPU_MS_MAX),
        ]
        if jobs == THREADS:
            results.append(compare("many", what, "s", seconds, target=SYNC_S_MAX))
    return results


def run_inbox(options: Run) -> list[Result]:
    """An inbox of 2,000 journals: ``status``, ``sync``, and then an idle ``watch``."""
    journals = options.size(2_000, 100)
    inbox = options.folder / "inbox"
    child("benchmarks.many:make", folder=str(inbox), journals=journals)
    reads = [
        Side("status", "benchmarks.many:status", {"folder": str(inbox)}),
        Side("bare", "benchmarks.many:bare_reads", {"folder": str(inbox)}),
    ]
    read = take_turns(reads, options.rounds)
    with static_server(LATENCY_MS) as server:
        say("  sync")
        synced = child(
            "benchmarks.many:sync",
            folder=str(inbox),
            endpoint_url=server.endpoint_url,
            jobs=THREADS,
        )
        say("  watch")
        with watching(inbox, server.endpoint_url) as process:
            time.sleep(_SETTLED_S * min(1.0, options.scale))
            before, began = cpu_s_of(process.pid), time.monotonic()
            time.sleep(60.0 * min(1.0, options.scale))
            busy = (cpu_s_of(process.pid) - before) / (time.monotonic() - began)
    what = f"{journals:,} journals in a folder"
    return [
        compare(
            "many-inbox",
            f"status of {what}",
            "s",
            [v["wall_s"] for v in read["status"]],
            [v["wall_s"] for v in read["bare"]],
            floor_name="one SELECT in each, by sqlite3",
        ),
        compare(
            "many-inbox",
            f"status of {what}",
            "s",
            [v["wall_s"] for v in read["status"]],
            target=STATUS_S_MAX,
        ),
        compare(
            "many-inbox",
            f"sync of {what}, {LATENCY_MS:g} ms",
            "s",
            [synced["wall_s"]],
            target=60.0,
        ),
        compare(
            "many-inbox",
            f"idle watch of {what}, CPU (percent of a core)",
            "%",
            [max(busy * 100, 0.001)],
            target=1.0,
        ),
    ]


# -- run in children
# ------------------------------------------------------------------------------------------------


def make(folder: str, journals: int) -> Values:
    """Make journals of one run each: 13 entries."""
    from journaltrack import Tracker

    # The changes of this tree would be an artifact.
    os.environ["JOURNALTRACK_GIT_DIFF"] = "off"

    for n in range(journals):
        with Tracker.create(
            trial_component_name=f"run-{n}", journal=Path(folder) / f"journal-{n:04}", sync="off"
        ) as tracker:
            tracker.log_parameters({"n": n})
            for step in range(POINTS):
                tracker.log_metric("loss", 1.0 / (step + 1), iteration_number=step)
    return {"journals": float(journals)}


def sync(folder: str, endpoint_url: str, jobs: int) -> Values:
    """Run the command."""
    return _command("sync", folder, "--endpoint-url", endpoint_url, "--jobs", str(jobs))


def status(folder: str) -> Values:
    """Run the command."""
    return _command("status", folder)


def _command(*arguments: str) -> Values:
    from journaltrack.app import composition  # noqa: F401 - imported before the clock starts
    from journaltrack.cli import main
    from journaltrack.remotes.aws import remote  # noqa: F401 - the same

    cpu_s = time.process_time()
    code = main(list(arguments), standalone_mode=False)
    if code:
        raise RuntimeError(f"{arguments} ended with {code}")
    return {"work_cpu_s": time.process_time() - cpu_s}


def bare_requests(journals: int, endpoint_url: str, threads: int) -> Values:
    """Make the requests that a sync makes of such journals: three each, one after the other."""
    import boto3
    from botocore.config import Config

    cpu_s = time.process_time()
    session = boto3.Session()
    config = Config(max_pool_connections=threads, retries={"total_max_attempts": 1})
    sagemaker, metrics = (
        session.client(service, endpoint_url=endpoint_url, config=config)
        for service in ("sagemaker", "sagemaker-metrics")
    )
    data = [
        {"MetricName": "loss", "Value": 1.0 / (step + 1), "Timestamp": time.time(), "Step": step}
        for step in range(POINTS)
    ]

    def deliver(n: int) -> None:
        name = f"run-{n}"
        sagemaker.create_trial_component(TrialComponentName=name)
        sagemaker.update_trial_component(
            TrialComponentName=name,
            Parameters={"n": {"NumberValue": n}},
            Status={"PrimaryStatus": "Completed"},
        )
        metrics.batch_put_metrics(TrialComponentName=name, MetricData=data)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(deliver, range(journals)))
    return {"work_cpu_s": time.process_time() - cpu_s}


def bare_reads(folder: str) -> Values:
    """Count the pending entries of every journal."""
    pending = 0
    for journal in sorted(Path(folder).iterdir()):
        with contextlib.closing(
            sqlite3.connect(f"file:{journal}/journal.db?mode=ro", uri=True)
        ) as connection:
            sql = "SELECT (SELECT count(*) FROM entry) - (SELECT count(*) FROM delivery)"
            pending += connection.execute(sql).fetchone()[0]
    return {"pending": float(pending)}
