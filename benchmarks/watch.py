"""The watcher: how soon an entry arrives, what idling costs, how an outage is made up for, what
a background costs training.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.journals import make
from benchmarks.measure import (
    ROOT,
    Result,
    Run,
    Side,
    Values,
    child,
    compare,
    environment,
    say,
    take_turns,
)
from benchmarks.static_server import StaticServer, static_server

LATENCY_MS = 30.0
QUIET_JOURNALS = 100
RATE_LIMIT = 200
PACE_S = 0.001
_counter = itertools.count()


def run_latency(options: Run) -> list[Result]:
    """From the call's return to the recorded delivery, one entry at a time, at an endpoint that
    has nothing else to do.
    """
    entries = options.size(200, 60)
    latencies: list[Values] = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        folder = options.folder / f"latency-{next(_counter)}"
        with static_server(LATENCY_MS) as server, watching(folder, server.endpoint_url):
            latencies.append(
                child(
                    "benchmarks.watch:one_by_one", folder=str(folder / "journal"), entries=entries
                )
            )
    what = f"entry to delivery, default debounce, endpoint with {LATENCY_MS:g} ms"
    return [
        compare("watch-latency", f"{what}, p50", "ms", [v["p50_ms"] for v in latencies]),
        compare(
            "watch-latency", f"{what}, p95", "ms", [v["p95_ms"] for v in latencies], target=1000
        ),
        compare(
            "watch-latency", f"{what}, slowest of {entries}", "ms", [v["max_ms"] for v in latencies]
        ),
    ]


def run_idle(options: Run) -> list[Result]:
    """CPU and memory of a watcher whose journals are all delivered and quiet."""
    journals = options.size(QUIET_JOURNALS, QUIET_JOURNALS)
    part = min(1.0, options.scale)
    seconds = max(1.0, (60 if not options.quick else 20) * part)
    measured: list[Values] = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        folder = options.folder / f"idle-{next(_counter)}"
        child("benchmarks.watch:quiet", folder=str(folder), journals=journals)
        with (
            static_server() as server,
            watching(folder, server.endpoint_url, "--settle", "0.5", "--poll", "0.5") as process,
        ):
            for n in range(journals):
                _await_delivery(folder / f"journal-{n}")
        with static_server() as server, watching(folder, server.endpoint_url) as process:
            time.sleep(max(2.0, 15 * part))  # settled, looked at, and watched
            before = cpu_s_of(process.pid)
            time.sleep(seconds)
            busy = (cpu_s_of(process.pid) - before) / seconds
            measured.append(
                {"cpu_percent": max(busy * 100, 0.001), "rss_mib": _rss_mib(process.pid)}
            )
        if number == 0:
            say("  with boto3 loaded, after deliveries:")
        with (
            static_server() as server,
            watching(folder, server.endpoint_url, "--settle", "0.5") as process,
        ):
            child("benchmarks.watch:touch", folder=str(folder / "journal-0"))
            _await_delivery(folder / "journal-0")
            time.sleep(max(1.0, 12 * part))
            measured[-1]["rss_used_mib"] = _rss_mib(process.pid)
    what = f"idle watcher, {journals} quiet journals"
    return [
        compare(
            "watch-idle",
            f"{what}, CPU (percent of a core)",
            "%",
            [v["cpu_percent"] for v in measured],
            target=1.0,
        ),
        compare(
            "watch-idle",
            f"{what}, resident memory",
            "MiB",
            [v["rss_mib"] for v in measured],
            target=120 * 1e6 / 2**20,
        ),
        compare(
            "watch-idle",
            f"{what}, after a pass (boto3 loaded)",
            "MiB",
            [v["rss_used_mib"] for v in measured],
            target=120 * 1e6 / 2**20,
        ),
    ]


def run_recovery(options: Run) -> list[Result]:
    """An endpoint comes back to a backlog in several journals: time, and the busiest second of
    requests.
    """
    metrics = options.size(100_000, 10_000)
    journals = 10
    measured: list[Values] = []
    for number in range(1 if not options.quick else options.rounds):
        say(f"  round {number + 1}")
        folder = options.folder / f"recovery-{next(_counter)}"
        for n in range(journals):
            child(
                "benchmarks.journals:make",
                folder=str(folder / f"journal-{n}"),
                metrics=metrics // journals,
            )
        port = _free_port()
        arguments = ("--settle", "0.5", "--rate-limit", str(RATE_LIMIT))
        with watching(
            folder, f"http://127.0.0.1:{port}", *arguments, until="event=endpoint-down"
        ) as process:
            begun = time.monotonic()
            with static_server(LATENCY_MS, port) as server:
                samples = _sampled(server, [folder / f"journal-{n}" for n in range(journals)])
            measured.append(
                {
                    "seconds": time.monotonic() - begun,
                    "busiest": _busiest(samples),
                    "requests": samples[-1][1],
                    "rss_mib": _rss_mib(process.pid),
                }
            )
    what = f"recovery with {metrics // journals * journals} pending in {journals} journals"
    return [
        compare(
            "watch-recovery",
            f"{what}, until all is delivered",
            "s",
            [v["seconds"] for v in measured],
        ),
        compare(
            "watch-recovery",
            f"{what}, busiest second, limit {RATE_LIMIT}/s",
            "requests",
            [v["busiest"] for v in measured],
            target=2 * RATE_LIMIT,
        ),
        compare(
            "watch-recovery",
            f"{what}, metric requests made",
            "requests",
            [v["requests"] for v in measured],
            target=metrics / 10 + journals,
        ),
        compare(
            "watch-recovery",
            f"{what}, resident memory at the end",
            "MiB",
            [v["rss_mib"] for v in measured],
        ),
    ]


def run_background(options: Run) -> list[Result]:
    """``log_metric`` while a background delivers what it logs, against the same without any."""
    calls = options.size(20_000, 5_000)
    values: dict[str, list[Values]] = {}
    for _ in range(options.rounds):
        with static_server(LATENCY_MS) as server:
            sides = [
                Side(
                    mode,
                    "benchmarks.watch:training",
                    {
                        "folder": str(options.folder / f"background-{next(_counter)}"),
                        "mode": mode,
                        "calls": calls,
                        "endpoint_url": server.endpoint_url,
                    },
                )
                for mode in ("off", "background", "thread")
            ]
            for name, runs in take_turns(sides, 1).items():
                values.setdefault(name, []).extend(runs)
    results = []
    for mode, what in (
        ("background", 'sync="background"'),
        ("thread", "passes on a thread (a session was handed in)"),
    ):
        for figure in ("p50_us", "p99_us", "slowest_us"):
            ours, bare = ([v[figure] for v in values[side]] for side in (mode, "off"))
            target = 1.2 if mode == "background" and figure == "p50_us" else None
            results.append(
                compare(
                    "background",
                    f"log_metric at {1 / PACE_S:.0f}/s, {what}, {figure[:-3]}",
                    "us",
                    ours,
                    bare,
                    floor_name='sync="off"',
                    target=target,
                )
            )
    return results


# -- run in children
# ------------------------------------------------------------------------------------------------


def one_by_one(folder: str, entries: int) -> Values:
    """Log single points with pauses of random length; how long each took to be delivered."""
    from journaltrack import Tracker

    chance = random.Random(7)
    tracker = Tracker.create(trial_component_name="latency", journal=folder, sync="off")
    tracker.log_metric("loss", 0.0)
    _await_delivery(Path(folder))
    for step in range(entries):
        time.sleep(chance.uniform(0.05, 1.0))
        tracker.log_metric("loss", 1.0, iteration_number=step)
    _await_delivery(Path(folder))
    with contextlib.closing(_reading(Path(folder))) as connection:
        rows = connection.execute(
            "SELECT (d.settled_at_ns - e.recorded_at_ns) / 1e6 FROM entry e "
            "JOIN delivery d ON d.seq = e.seq WHERE e.step IS NOT NULL"
        ).fetchall()
    taken = sorted(ms for (ms,) in rows)
    return {
        "p50_ms": statistics.median(taken),
        "p95_ms": taken[int(len(taken) * 0.95)],
        "max_ms": taken[-1],
    }


def quiet(folder: str, journals: int) -> Values:
    """Make journals of their own; of copies of one, a watcher delivers one."""
    for n in range(journals):
        make(str(Path(folder) / f"journal-{n}"), 20)
    return {"journals": float(journals)}


def touch(folder: str) -> Values:
    """Log one point."""
    from journaltrack import Tracker

    tracker = Tracker.create(
        trial_component_name="benchmark", journal=folder, sync="off", resume=True
    )
    tracker.log_metric("loss", 0.0)
    tracker.close()
    return {"points": 1.0}


def training(folder: str, mode: str, calls: int, endpoint_url: str) -> Values:
    """Log at an even pace; what a call takes."""
    import boto3

    from journaltrack import Tracker

    os.environ["AWS_ENDPOINT_URL"] = endpoint_url
    session = boto3.Session() if mode == "thread" else None
    sync = "off" if mode == "off" else "background"
    tracker = Tracker.create(
        trial_component_name="training",
        journal=folder,
        sync=sync,
        boto3_session=session,
        close_deadline_s=60,
    )
    tracker.log_metric("loss", 0.0)
    if mode != "off":
        _await_delivery(Path(folder))  # the child has started
    taken = []
    begun = time.perf_counter()
    for step in range(calls):
        pause = begun + step * PACE_S - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        before = time.perf_counter_ns()
        tracker.log_metric("loss", 1.0, iteration_number=step)
        taken.append(time.perf_counter_ns() - before)
    tracker.close()
    taken.sort()
    return {
        "p50_us": taken[len(taken) // 2] / 1e3,
        "p99_us": taken[int(len(taken) * 0.99)] / 1e3,
        "slowest_us": taken[-1] / 1e3,
    }


# -- inside
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watching(
    folder: Path, endpoint_url: str, *arguments: str, until: str = "event=watching"
) -> Iterator[subprocess.Popen[str]]:
    """``journaltrack watch`` for as long as the block lasts, from its first log line with
    ``until`` on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = environment() | {"JOURNALTRACK_HOME": str(folder.parent / f"home-{next(_counter)}")}
    log = folder.parent / f"watch-{next(_counter)}.log"
    command = [
        sys.executable,
        "-m",
        "journaltrack",
        "watch",
        str(folder),
        "--endpoint-url",
        endpoint_url,
        *arguments,
    ]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, cwd=ROOT, env=known, stderr=stderr, text=True) as process,
    ):
        try:
            while until not in log.read_text():
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    log.unlink()


def _reading(journal: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{journal}/journal.db?mode=ro", uri=True)


def _pending(journal: Path) -> int:
    with contextlib.closing(_reading(journal)) as connection:
        return int(
            connection.execute(
                "SELECT (SELECT count(*) FROM entry) - (SELECT count(*) FROM delivery)"
            ).fetchone()[0]
        )


def _await_delivery(journal: Path) -> None:
    while _pending(journal):
        time.sleep(0.05)


def _sampled(server: StaticServer, journals: list[Path]) -> list[tuple[float, int]]:
    """Requests answered so far, five times a second, until nothing is pending in the journals
    (looked at every second).
    """
    samples = [(time.monotonic(), server.requests())]
    while True:
        for _ in range(5):
            time.sleep(0.2)
            samples.append((time.monotonic(), server.requests()))
        if not any(_pending(journal) for journal in journals):
            return samples


def _busiest(samples: list[tuple[float, int]]) -> float:
    """Most requests in a second or a little less."""
    most = 0.0
    for first, (begun, before) in enumerate(samples):
        for at, count in samples[first + 1 :]:
            if at - begun > 1.0:
                break
            most = max(most, count - before)
    return most


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def cpu_s_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024
