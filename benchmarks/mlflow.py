"""Delivering to a real ``mlflow server``: ours, MLflow's own client, and the same bodies alone.

The floor is what the server takes: requests that were made before, over kept connections, as many
in flight. All three write the same points, in turns, each to a run of its own. ``MLFLOW_COMMAND``
names the server's command; without it, `.venv-mlflow` of ``make test-mlflow`` is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import journals
from benchmarks.measure import ROOT, Result, Run, Values, child, compare, own_use, say, spawn

THREADS = 8
"""Requests in flight of each side: what our remote allows itself."""
BATCH = 1_000
RATIO_MIN = 0.9
"""Of the floor's rate: below it, the server would not be the limit."""
CLIENT_RATIO_GOAL = 2.0
_API = "/api/2.0/mlflow/"
_FIRST_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its address, and its processes."""

    uri: str
    group: int

    def cpu_s(self) -> float:
        """CPU seconds that its processes used so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
                # proc(5): the group, and the times of the process and of children that ended.
                if int(fields[2]) == self.group:
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def run(options: Run) -> list[Result]:
    """Rates of the three, and how busy each keeps the server."""
    command = os.environ.get("MLFLOW_COMMAND") or str(ROOT / ".venv-mlflow/bin/mlflow")
    if not Path(command).exists():
        say(f"  left out: {command} is not there, `make test-mlflow` installs it")
        return []
    points = options.size(40_000, 10_000)
    values: dict[str, list[Values]] = {"bare": [], "client": [], "ours": []}
    with _server(command, options.folder / "mlflow") as server:
        # Its first batches take ten times as long: parts of it start while it already listens.
        child("benchmarks.mlflow:bare_loop", uri=server.uri, points=points)
        for number in range(options.rounds):
            order = [*values][number % 3 :] + [*values][: number % 3]
            for name in order:
                say(f"  round {number + 1} of {options.rounds}: {name}")
                before = server.cpu_s()
                took = _side(name, server.uri, points, options.folder / f"of-{number}", command)
                took["server_cpu_s"] = server.cpu_s() - before
                values[name].append(took)
    return _results(values, points)


def _side(name: str, uri: str, points: int, folder: Path, command: str) -> Values:
    if name == "bare":
        return child("benchmarks.mlflow:bare_loop", uri=uri, points=points)
    if name == "client":
        python = str(Path(command).parent / "python")
        arguments = json.dumps({"uri": uri, "points": points})
        return spawn([python, "-m", "benchmarks.measure", "benchmarks.mlflow:client", arguments])
    # The server finds a run by its owner: another one, so that each round writes a new run.
    journal = {"folder": str(folder), "metrics": points, "owner": folder.name}
    child("benchmarks.journals:make", **journal)
    try:
        return child("benchmarks.mlflow:sync", uri=uri, points=points, folder=str(folder))
    finally:
        shutil.rmtree(folder)


def _results(values: dict[str, list[Values]], points: int) -> list[Result]:
    rates = {name: [points / v["work_s"] for v in runs] for name, runs in values.items()}
    floor = f"the same bodies, prebuilt, {THREADS} connections"
    results = [
        compare(
            "mlflow",
            f"sync of {points:,} points",
            "points/s",
            rates["ours"],
            rates["bare"],
            floor_name=floor,
            target=RATIO_MIN,
            better="higher",
        ),
        compare(
            "mlflow",
            "the same",
            "points/s",
            rates["ours"],
            rates["client"],
            floor_name=f"MlflowClient.log_batch, {THREADS} threads",
            target=CLIENT_RATIO_GOAL,
            better="higher",
        ),
        compare(
            "mlflow",
            "MlflowClient.log_batch",
            "points/s",
            rates["client"],
            rates["bare"],
            floor_name=floor,
        ),
    ]
    for name, runs in values.items():
        busy = [v["server_cpu_s"] / points * 1e6 for v in runs]
        own = [v["work_cpu_s"] / points * 1e6 for v in runs]
        results.append(compare("mlflow", f"the server's CPU a point: {name}", "µs", busy))
        results.append(compare("mlflow", f"the sender's CPU a point: {name}", "µs", own))
    return results


# -- what is measured, each in a process of its own


def bare_loop(uri: str, points: int) -> Values:
    """The floor: nothing but the requests, made before the clock starts."""
    import http.client

    run_id = _new_run(uri)
    bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for batch in _batches(points):
        bodies.put(json.dumps({"run_id": run_id, "metrics": batch}).encode())
    statuses = []

    def send() -> None:
        connection = http.client.HTTPConnection(uri.removeprefix("http://"))
        with contextlib.suppress(queue.Empty):
            while True:
                body = bodies.get_nowait()
                headers = {"Content-Type": "application/json"}
                connection.request("POST", f"{_API}runs/log-batch", body, headers)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(THREADS)]
    own, started = own_use(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = _work(own, started)
    if statuses != [200] * -(-points // BATCH):
        raise RuntimeError(statuses)
    return values


def client(uri: str, points: int) -> Values:
    """MLflow's own client, in its own virtual environment, with points that are in memory."""
    from concurrent.futures import ThreadPoolExecutor

    from mlflow import MlflowClient  # type: ignore[import-not-found]
    from mlflow.entities import Metric  # type: ignore[import-not-found]

    run_id = _new_run(uri)
    batches = [[Metric(**point) for point in batch] for batch in _batches(points)]
    own, started = own_use(), time.perf_counter()
    mlflow = MlflowClient(uri)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda batch: mlflow.log_batch(run_id, batch), batches):
            pass
    return _work(own, started)


def sync(uri: str, points: int, folder: str) -> Values:
    """``journaltrack.sync`` to a destination that is new: copying the entries is part of it."""
    import journaltrack
    import journaltrack.remotes.mlflow.remote
    import journaltrack.remotes.retry
    import journaltrack.replay.reconciler

    deliver = journaltrack.sync
    own, started = own_use(), time.perf_counter()
    report = deliver(folder, destination=uri)
    values = _work(own, started)
    if report.pending or report.delivered < points:
        raise RuntimeError(f"not everything was delivered: {report}")
    return values


def _batches(points: int) -> Iterator[list[dict[str, Any]]]:
    for first in range(0, points, BATCH):
        yield [
            {
                "key": journals.NAMES[n % 4].replace(":", "/"),
                "value": 1.0 / (n + 1),
                "timestamp": _FIRST_MS + n,
                "step": n // 4,
            }
            for n in range(first, min(first + BATCH, points))
        ]


def _new_run(uri: str) -> str:
    content = json.dumps({"experiment_id": "0", "start_time": _FIRST_MS}).encode()
    request = urllib.request.Request(
        f"{uri}{_API}runs/create", content, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["run"]["info"]["run_id"])


def _work(before: Values, started: float) -> Values:
    took = time.perf_counter() - started
    return {"work_s": took, "work_cpu_s": own_use()["cpu_s"] - before["cpu_s"]}


@contextlib.contextmanager
def _server(command: str, folder: Path) -> Iterator[Server]:
    """Run a server with one process for requests, SQLite and a local folder."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        env={**os.environ, "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        if not any("startup complete" in line.lower() for line in process.stderr):
            raise RuntimeError(f"mlflow server ended with {process.wait()}")
        # Else the server would wait for a reader of what it logs.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
