"""Replaying: requests a second against a bare boto3 loop, what a request costs in CPU, and how
much memory a sync takes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import journals
from benchmarks.measure import Result, Run, Side, Values, child, compare, own_use, say, take_turns
from benchmarks.static_server import StaticServer, static_server

THREADS = 16
POINTS = 10
CALLS_RATIO_MIN = 0.95
CALLS_RATIO_GOAL = 2.0
RSS_MIB_MAX = 300.0
_PART_CALLS = 2_000
_BARE_THREADS = {0: (1, 4, 16), 30: (16, 32, 64)}
"""By latency in ms: how many threads of bare boto3 are tried; the best of a round is what
counts.
"""
_BARE_THREADS_QUICK = {0: (4,), 30: (32,)}
"""... those that are best here most of the time: the floors are what takes so long."""


def run_sync(options: Run) -> list[Result]:
    """``journaltrack.sync``, as it is by default, against a boto3 loop at its best, at two
    latencies.
    """
    metrics = options.size(100_000, 20_000)
    model = _Model(options.folder / f"pending-{metrics}", metrics)
    results = []
    for latency_ms, counts in (_BARE_THREADS_QUICK if options.quick else _BARE_THREADS).items():
        with static_server(latency_ms) as server:
            arguments = {"endpoint_url": server.endpoint_url, "metrics": metrics}
            bare = [
                Side(
                    f"bare boto3 loop, {n} threads",
                    "benchmarks.replay:bare_loop",
                    {**arguments, "threads": n},
                )
                for n in counts
            ]
            ours = Side(
                "journaltrack.sync",
                "benchmarks.replay:sync",
                {**arguments, "folder": str(model.copy_to)},
            )
            values = _turns_with_copies([*bare, ours], options.rounds, model, server, metrics)
        best = [
            max(of_round, key=lambda v: v["calls_per_s"])
            for of_round in zip(*(values[side.name] for side in bare), strict=True)
        ]
        results += _rates(
            f"{metrics:,} metrics, {latency_ms} ms latency",
            best,
            values[ours.name],
            _threads(counts),
        )
    return results


def _threads(counts: Sequence[int]) -> str:
    return (
        f"the best of {min(counts)} to {max(counts)} threads"
        if len(counts) > 1
        else f"{counts[0]} threads"
    )


def run_budget(options: Run) -> list[Result]:
    """Where the CPU of a replayed request goes: boto3's own, the remote's, and that of reading,
    planning and settling.
    """
    metrics = options.size(50_000, 10_000)
    model = _Model(options.folder / f"pending-{metrics}", metrics)
    with static_server() as server:
        arguments: dict[str, Any] = {"endpoint_url": server.endpoint_url, "metrics": metrics}
        ours = {"metrics": metrics, "folder": str(model.copy_to)}
        sides = [
            Side("boto3 loop", "benchmarks.replay:bare_loop", arguments),
            Side(
                "AwsRemote, all by boto3",
                "benchmarks.replay:remote_loop",
                {**arguments, "hooked": True},
            ),
            Side("AwsRemote", "benchmarks.replay:remote_loop", arguments),
            Side(
                "+ Reconciler (journaltrack.sync)", "benchmarks.replay:sync", {**arguments, **ours}
            ),
        ]
        values = _turns_with_copies(sides, options.rounds, model, server, metrics)
        single = [
            child("benchmarks.replay:request_parts", endpoint_url=server.endpoint_url)
            for _ in range(options.rounds)
        ]
    values |= _turns_with_copies(
        [
            Side(
                "Reconciler alone, a remote that does nothing",
                "benchmarks.replay:reconcile_nothing",
                ours,
            ),
            Side("of it: reading and planning", "benchmarks.replay:plan_only", ours),
        ],
        options.rounds,
        model,
    )
    return _budget(values, single, metrics)


def _budget(values: dict[str, list[Values]], single: list[Values], metrics: int) -> list[Result]:
    """Compare the CPU of each side with that of a loop of boto3's, and tell ours in parts."""
    floor = [v["cpu_us_per_call"] for v in values["boto3 loop"]]
    benchmark = "budget of a request"
    results = [
        compare(
            benchmark,
            f"CPU a request: {name}",
            "µs",
            [v["cpu_us_per_call"] for v in runs],
            floor,
            floor_name="boto3 loop",
        )
        for name, runs in values.items()
    ]
    results += [
        compare(benchmark, f"one thread: {part}", "µs", [v[part] for v in single])
        for part in single[0]
        if part in PARTS
    ]
    alone = values["Reconciler alone, a remote that does nothing"]
    results.append(
        compare(
            benchmark,
            "Reconciler alone",
            "entries/s",
            [metrics / v["work_s"] for v in alone],
            better="higher",
        )
    )
    shares = [
        100 * mine["cpu_us_per_call"] / total["cpu_us_per_call"]
        for mine, total in zip(alone, values["+ Reconciler (journaltrack.sync)"], strict=True)
    ]
    results.append(
        compare(benchmark, "share of reading, planning and settling in a sync's CPU", "%", shares)
    )
    return results


def run_memory(options: Run) -> list[Result]:
    """Peak memory of the command ``journaltrack sync`` as the journal grows."""
    sizes = [options.size(n, n // 10) for n in (10_000, 100_000, 1_000_000)]
    sizes = sizes[: 2 if options.quick else 3]
    results = []
    with static_server() as server:
        bare = child(
            "benchmarks.replay:bare_loop", endpoint_url=server.endpoint_url, metrics=min(sizes)
        )
        for metrics in sizes:
            say(f"  journaltrack sync of {metrics:,} metrics")
            model = _Model(options.folder / f"pending-{metrics}", metrics)
            before = server.requests()
            values = child(
                "benchmarks.replay:sync_command",
                folder=str(model.folder),
                endpoint_url=server.endpoint_url,
            )
            _check_count(server.requests() - before, metrics, "journaltrack sync")
            shutil.rmtree(model.folder)
            largest = metrics == max(sizes)
            results.append(
                compare(
                    "memory",
                    f"peak of `journaltrack sync`, {metrics:,} pending metrics",
                    "MiB",
                    [values["rss_mib"]],
                    [bare["rss_mib"]],
                    floor_name=f"bare boto3 loop, {min(sizes):,} metrics",
                )
            )
            results.append(
                compare(
                    "memory",
                    f"entries/s of it, {metrics:,}",
                    "entries/s",
                    [metrics / values["work_s"]],
                    better="higher",
                )
            )
            if largest:
                results.append(
                    compare(
                        "memory",
                        "the same against the bound",
                        "MiB",
                        [values["rss_mib"]],
                        target=RSS_MIB_MAX,
                        better="lower",
                    )
                )
    return results


def run_threads(options: Run) -> list[Result]:
    """How many requests in flight are worth it: the bare loop and our remote with more and more
    threads.
    """
    calls = options.size(200, 50)
    counts = (1, 8, 32) if options.quick else (1, 4, 8, 16, 32, 64)
    with static_server(30) as server:
        sides = [
            Side(
                f"{name}, 30 ms latency, {n} threads",
                f"benchmarks.replay:{loop}",
                {"endpoint_url": server.endpoint_url, "metrics": calls * n * POINTS, "threads": n},
            )
            for name, loop in (("boto3", "bare_loop"), ("AwsRemote", "remote_loop"))
            for n in counts
        ]
        values = take_turns(sides, options.rounds)
    floor = [v["calls_per_s"] for v in values[sides[0].name]]
    return [
        compare(
            "threads",
            name,
            "calls/s",
            [v["calls_per_s"] for v in runs],
            floor,
            floor_name="boto3, 1 thread",
        )
        for name, runs in values.items()
    ]


def bare_loop(endpoint_url: str, metrics: int, threads: int = THREADS) -> Values:
    """The floor: boto3 as anybody would use it for points that are in memory, a pool of threads,
    ten points a request.
    """
    from concurrent.futures import ThreadPoolExecutor
    from datetime import datetime, timezone

    import boto3
    from botocore.config import Config

    now = time.time()
    batches = [range(i, min(i + POINTS, metrics)) for i in range(0, metrics, POINTS)]
    own = own_use()
    started = time.perf_counter()
    client = boto3.Session().client(
        "sagemaker-metrics", endpoint_url=endpoint_url, config=Config(max_pool_connections=threads)
    )

    def put(numbers: range) -> None:
        client.batch_put_metrics(
            TrialComponentName=journals.COMPONENT,
            MetricData=[
                {
                    "MetricName": journals.NAMES[n % 4],
                    "Timestamp": datetime.fromtimestamp(now + n, timezone.utc),
                    "Step": n // 4,
                    "Value": 1.0 / (n + 1),
                }
                for n in numbers
            ],
        )

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(put, batches):
            pass
    return _work(own, started, len(batches))


def remote_loop(
    endpoint_url: str, metrics: int, threads: int = THREADS, *, hooked: bool = False
) -> Values:
    """As ``bare_loop``, through our remote; ``hooked``: somebody takes part in boto3's requests,
    so that it makes all of them.
    """
    from concurrent.futures import ThreadPoolExecutor

    import boto3

    from journaltrack.remotes.aws.remote import AwsRemote
    from journaltrack.remotes.retry import RetryingRemote
    from journaltrack.replay.plan.actions import MetricPoint
    from journaltrack.util.deadline import Deadline

    now_ns = time.time_ns()
    batches = [range(i, min(i + POINTS, metrics)) for i in range(0, metrics, POINTS)]
    own = own_use()
    started = time.perf_counter()
    session = boto3.Session() if hooked else None
    if session is not None:
        session.events.register("before-send.sagemaker-metrics", lambda **_: None)
    remote = RetryingRemote(
        AwsRemote(session=session, endpoint_url=endpoint_url, concurrency=threads),
        deadline=Deadline(),
    )

    def put(numbers: range) -> None:
        remote.put_metrics(
            journals.COMPONENT,
            tuple(
                MetricPoint(journals.NAMES[n % 4], 1.0 / (n + 1), n // 4, now_ns + n * 1_000_000)
                for n in numbers
            ),
        )

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(put, batches):
            pass
    return _work(own, started, len(batches))


PARTS = (
    "body",
    "signature",
    "request and answer over a connection",
    "all of AwsRemote.put_metrics",
)


def request_parts(endpoint_url: str) -> Values:
    """CPU (µs) of the parts of one request that is made without boto3, on one thread."""
    import socket
    from urllib.parse import urlsplit

    from journaltrack.remotes.aws.metrics import serialized
    from journaltrack.remotes.aws.remote import AwsRemote
    from journaltrack.remotes.aws.wire import Credentials, Signer, exchange
    from journaltrack.replay.plan.actions import MetricPoint

    now_ns = time.time_ns()
    points = tuple(
        MetricPoint(journals.NAMES[n % 4], 1.0 / (n + 1), n // 4, now_ns + n * 1_000_000)
        for n in range(POINTS)
    )
    body = serialized(journals.COMPONENT, points)
    if body is None:
        raise RuntimeError(points)
    url = urlsplit(endpoint_url)
    signer = Signer(
        host=url.netloc,
        path="/BatchPutMetrics",
        content_type="application/json",
        region="us-east-1",
        service="sagemaker",
    )
    credentials = Credentials("key", "secret", None)
    request = (
        f"PUT /BatchPutMetrics HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: "
        f"{len(body)}\r\n\r\n".encode()
        + body
    )
    remote = AwsRemote(endpoint_url=endpoint_url)
    remote.put_metrics(journals.COMPONENT, points)
    with socket.create_connection((str(url.hostname), url.port or 80)) as connection:
        calls = (
            lambda: serialized(journals.COMPONENT, points),
            lambda: signer.authorization(credentials, "20260101T000000Z", body),
            lambda: exchange(connection, request, endpoint_url),
            lambda: remote.put_metrics(journals.COMPONENT, points),
        )
        values = {}
        for part, call in zip(PARTS, calls, strict=True):
            before = own_use()["cpu_s"]
            for _ in range(_PART_CALLS):
                call()
            values[part] = (own_use()["cpu_s"] - before) / _PART_CALLS * 1e6
    return values


def sync(folder: str, endpoint_url: str, metrics: int) -> Values:
    """``journaltrack.sync`` of a journal with so many pending points; imports are paid before,
    as in the floor.
    """
    import boto3  # noqa: F401 - the floor's clock starts after this, too

    import journaltrack
    import journaltrack.remotes.aws.remote
    import journaltrack.remotes.retry
    import journaltrack.replay.reconciler

    replay = journaltrack.sync
    own = own_use()
    started = time.perf_counter()
    report = replay(folder, endpoint_url=endpoint_url)
    values = _work(own, started, -(-metrics // POINTS))
    _check_report(report, metrics)
    return values


def sync_command(folder: str, endpoint_url: str) -> Values:
    """``journaltrack sync FOLDER --endpoint-url URL``, all that the command does."""
    from journaltrack.cli import main

    started = time.perf_counter()
    code: object = 0
    try:
        code = main(["sync", folder, "--endpoint-url", endpoint_url])
    except SystemExit as end:
        code = end.code
    if code:
        msg = f"journaltrack sync ended with {code}"
        raise RuntimeError(msg)
    return {"work_s": time.perf_counter() - started, **own_use()}


def reconcile_nothing(folder: str, metrics: int) -> Values:
    """A whole pass with a remote that says yes at once: everything but the remote."""
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.reconciler import Reconciler
    from journaltrack.replay.remote import SAGEMAKER, Answer

    class Yes:
        """Delivers nothing, at no cost."""

        can = SAGEMAKER

        def create(self, _spec: object) -> Answer:
            return Answer("00000000-0000-0000-0000-000000000000", arn="arn:none")

        def put_metrics(self, _component: str, _points: object) -> Answer:
            return Answer("00000000-0000-0000-0000-000000000000")

    journal = Journal.open(Path(folder), create=False)
    own = own_use()
    started = time.perf_counter()
    report = Reconciler(journal, Yes()).run()  # type: ignore[arg-type] - the methods that metrics need
    values = _work(own, started, -(-metrics // POINTS))
    _check_report(report, metrics)
    return values


def plan_only(folder: str, metrics: int) -> Values:
    """Reading what is pending and planning it, nothing else."""
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.evidence.proof import Proof
    from journaltrack.replay.reconciler import Options, dry_run

    journal = Journal.open(Path(folder), create=False)
    own = own_use()
    started = time.perf_counter()
    requests = sum(1 for _ in dry_run(journal, Options(), Proof(journal.database)))
    _check_count(requests - 1, metrics, "plan")
    return _work(own, started, -(-metrics // POINTS))


class _Model:
    """A journal to copy for every run, made once."""

    def __init__(self, folder: Path, metrics: int) -> None:
        self.folder = folder
        self.copy_to = folder.with_name(folder.name + "-copy")
        if not folder.exists():
            say(f"  making a journal of {metrics:,} pending metrics")
            child("benchmarks.journals:make", folder=str(folder), metrics=metrics)

    def copy(self) -> None:
        """Make the copy afresh."""
        shutil.rmtree(self.copy_to, ignore_errors=True)
        shutil.copytree(self.folder, self.copy_to)


def _turns_with_copies(
    sides: Sequence[Side],
    rounds: int,
    model: _Model,
    server: StaticServer | None = None,
    metrics: int = 0,
) -> dict[str, list[Values]]:
    """Take turns, each run with a fresh copy of the journal, and check that the server saw what
    it should have seen.
    """
    values: dict[str, list[Values]] = {side.name: [] for side in sides}
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            model.copy()
            before = server.requests() if server else 0
            values[side.name] += take_turns([side], 1)[side.name]
            if server:
                _check_count(server.requests() - before, metrics, side.name)
    shutil.rmtree(model.copy_to, ignore_errors=True)
    return values


def _rates(what: str, bare: Sequence[Values], ours: Sequence[Values], threads: str) -> list[Result]:
    calls = [[v["calls_per_s"] for v in runs] for runs in (ours, bare)]
    cpu = [[v["cpu_us_per_call"] for v in runs] for runs in (ours, bare)]
    floor_name = f"bare boto3 loop, {threads}"
    return [
        compare(
            "sync",
            f"sync, {what}",
            "calls/s",
            *calls,
            floor_name=floor_name,
            target=CALLS_RATIO_MIN,
            better="higher",
        ),
        compare(
            "sync",
            "the same against the goal",
            "calls/s",
            *calls,
            floor_name=floor_name,
            target=CALLS_RATIO_GOAL,
            better="higher",
        ),
        compare("sync", f"CPU a call, {what}", "µs", *cpu, floor_name=floor_name),
    ]


def _work(before: Values, started: float, calls: int) -> Values:
    took = time.perf_counter() - started
    cpu_s = own_use()["cpu_s"] - before["cpu_s"]
    return {
        "work_s": took,
        "work_cpu_s": cpu_s,
        "calls_per_s": calls / took,
        "cpu_us_per_call": cpu_s / calls * 1e6,
    }


def _check_report(report: Any, metrics: int) -> None:
    if report.delivered != metrics + 1 or report.pending:
        msg = f"not everything was delivered: {report}"
        raise RuntimeError(msg)


def _check_count(seen: int, metrics: int, who: str) -> None:
    """That nothing was left out or sent twice. The last request of every chunk that is planned
    together may be a short one.
    """
    fewest = -(-metrics // POINTS)
    if not fewest <= seen <= fewest + metrics // 20_000 + 1:
        msg = f"{who} made {seen} requests for {metrics} metrics"
        raise RuntimeError(msg)
