"""The local page: how long a person waits for it, and what it costs the training beside it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from benchmarks.measure import Result, Run, Values, child, compare, environment, say

RUNS, METRICS = 10, 10
POINTS = 1_000_000
ZOOMS = 30
APPENDED = 20
APPENDS = 20_000
TURNS = 6
MEMORY_MB = 120.0
PEERS = {
    "trackio": [
        "python",
        "-c",
        "import trackio; trackio.show(open_browser=False)",
    ],
    "tensorboard": ["tensorboard", "--logdir", "{folder}", "--port", "{port}"],
    "mlflow": [
        *("mlflow", "server", "--port", "{port}"),
        *("--backend-store-uri", "sqlite:///{folder}/mlflow.db"),
    ],
}
"""Other pages, by the command that must be on the PATH: from a virtual environment of their own."""
_counter = itertools.count()


def make(folder: str, points: int) -> Values:
    """A journal of ten runs of ten metrics with so many points; run it in a child process."""
    from journaltrack import Tracker

    steps = points // (RUNS * METRICS)
    for number in range(RUNS):
        with Tracker.create(
            trial_component_name=f"run-{number}", journal=folder, sync="off"
        ) as tracker:
            tracker.log_parameters({"lr": 0.1 / (number + 1), "depth": number % 3})
            for step in range(steps):
                value = math.exp(-step / steps * (number + 1)) + 0.01 * math.sin(step)
                tracker.log_metrics(
                    {f"metric-{m}": value * (m + 1) for m in range(METRICS)}, step=step
                )
    return {"steps": float(steps)}


def append(folder: str, count: int) -> Values:
    """The median time of an append, in a process of its own."""
    from journaltrack import Tracker

    taken = []
    with Tracker.create(
        trial_component_name=f"appends-{time.time_ns()}", journal=folder, sync="off"
    ) as tracker:
        for step in range(count):
            began = time.perf_counter_ns()
            tracker.log_metric("loss", float(step), iteration_number=step)
            taken.append(time.perf_counter_ns() - began)
    return {"append_us": statistics.median(taken) / 1e3}


class Server:
    """`journaltrack ui`, and when it answered first."""

    def __init__(self, journal: Path, cache: Path) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "journaltrack", "ui", str(journal), "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment() | {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)},
        )
        self.url = self.process.stdout.readline().strip()
        parts = urlsplit(self.url)
        self.port, self.token = parts.port, parse_qs(parts.query)["token"][0]
        self.ask("/")
        self.first_ms = (time.perf_counter() - began) * 1e3

    def ask(self, path: str, **query: Any) -> bytes:
        """Ask for a path; returns the content of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            asked = urlencode({**query, "token": self.token}, doseq=True)
            connection.request("GET", f"{path}?{asked}")
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return content

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[bytes]]:
        """The lines of the stream of events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            connection.request("GET", f"/api/events?token={self.token}")
            with connection.getresponse() as response:
                yield iter(response)

    def peak_mb(self) -> float:
        """The most memory that it had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.process.stdout.close()


def run(options: Run) -> list[Result]:
    """Waits and costs of the page, at a million points (`--quick`: 100,000)."""
    points = options.size(POINTS, POINTS // 10)
    journal = options.folder / f"ui-{next(_counter)}"
    say(f"  making a journal of {points:,} points")
    child("benchmarks.ui:make", folder=str(journal), points=points)
    measured: list[Values] = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        cache = options.folder / f"ui-cache-{number}"
        cache.mkdir()
        # The first one makes the side cache, as a first look does; a day's other looks find it.
        with Server(journal, cache) as cold:
            began = time.perf_counter()
            cold.ask("/api/runs")
            values = {"cold_ms": (time.perf_counter() - began) * 1e3}
            values["cold_mb"] = cold.peak_mb()
        with Server(journal, cache) as server:
            measured.append(values | _round(server, journal, points, options))
        shutil.rmtree(cache)
    shutil.rmtree(journal)
    what = f"{points:,} points in {RUNS} runs"
    figures = (
        ("first_ms", "ui: the command to its first answer", "ms", 500.0),
        ("cold_ms", f"ui: first table of runs, no cache yet, {what}", "ms", 3_000.0),
        ("warm_ms", f"ui: table of runs of a new server, {what}", "ms", 500.0),
        ("paint_ms", f"ui: address to the painted comparison in Chromium, {what}", "ms", 1_000.0),
        ("zoom_ms", f"ui: a zoomed range of {RUNS} runs, at the server", "ms", 100.0),
        ("event_ms", "ui: a point that was appended to its event and answer", "ms", 1_000.0),
        ("screen_ms", "ui: a point that was appended to the screen", "ms", 1_000.0),
        ("cold_mb", "ui: most memory while the cache is made", "MB", MEMORY_MB),
        ("warm_mb", "ui: most memory after looking around", "MB", MEMORY_MB),
    )
    results = [
        compare("ui", what, unit, [each[name] for each in measured], target=target)
        for name, what, unit, target in figures
        if all(name in each for each in measured)
    ]
    results.append(
        compare(
            "ui",
            "ui: append (median) beside an open page",
            "us",
            [each["beside_us"] for each in measured],
            [each["alone_us"] for each in measured],
            floor_name="without it",
            target=1.05,
        )
    )
    return results


def run_start(options: Run) -> list[Result]:
    """Start of our page beside that of others, where these are on the PATH, in the same rounds."""
    journal = options.folder / f"ui-start-{next(_counter)}"
    child("benchmarks.ui:make", folder=str(journal), points=options.size(10_000, 10_000))
    values: dict[str, list[Values]] = {}
    for number in range(-1, options.rounds):
        for name in ("journaltrack ui", *filter(shutil.which, PEERS)):
            say(f"  round {number + 1} of {options.rounds}: {name}")
            measured = _started(name, journal, options.folder)
            if number >= 0:  # the first time compiles and fills the page cache
                values.setdefault(name, []).append(measured)
    ours = [each["first_ms"] for each in values["journaltrack ui"]]
    results = [compare("ui-start", "journaltrack ui: first answer", "ms", ours, target=500.0)]
    for name in PEERS:
        if name in values:
            theirs = [each["first_ms"] for each in values[name]]
            what = f"journaltrack ui: first answer, beside {name}"
            results.append(compare("ui-start", what, "ms", ours, theirs, floor_name=name))
    return results


def _started(name: str, journal: Path, folder: Path) -> Values:
    """From the command to the first answer with status 200."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = (
        [sys.executable, "-m", "journaltrack", "ui", str(journal), "--no-browser", "--port", "0"]
        if name not in PEERS
        else [each.format(port=port, folder=folder) for each in PEERS[name]]
    )
    if command[0] == "python":
        command[0] = str(Path(shutil.which(name) or "").with_name("python"))
    others = {"MLFLOW_DISABLE_TELEMETRY": "true", "GRADIO_SERVER_PORT": str(port)}
    place = {"XDG_CACHE_HOME": str(folder), "HOME": str(folder), "TRACKIO_DIR": str(folder / "t")}
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE if name not in PEERS else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment() | others | place,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        if process.stdout:
            url = process.stdout.readline().strip()
        while not _answers(url):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.01)
        return {"first_ms": (time.perf_counter() - began) * 1e3}
    finally:
        # It may have started others.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


def _round(server: Server, journal: Path, points: int, options: Run) -> Values:
    values = {"first_ms": server.first_ms}
    began = time.perf_counter()
    runs = json.loads(server.ask("/api/runs"))["runs"]
    values["warm_ms"] = (time.perf_counter() - began) * 1e3
    keys = [each["key"] for each in runs if each["name"].startswith("run-")]
    server.ask("/api/compare", run=keys)
    steps = points // (RUNS * METRICS)
    taken = []
    for number in range(ZOOMS):
        low = steps * number / (2 * ZOOMS)
        began = time.perf_counter()
        asked = {"from": low, "to": low + steps / 3, "columns": 600, "run": keys}
        server.ask("/api/series", metric=f"metric-{number % METRICS}", **asked)
        taken.append((time.perf_counter() - began) * 1e3)
    values["zoom_ms"] = statistics.median(taken)
    values |= _appended(server, journal)
    values |= _beside(server, journal, options.size(APPENDS, APPENDS // 4))
    values |= _in_chromium(server, keys, journal)
    values["warm_mb"] = server.peak_mb()
    return values


def _beside(server: Server, journal: Path, count: int) -> Values:
    """Appends beside a page that listens, and with nobody looking, in turns."""
    taken: dict[str, list[float]] = {"alone_us": [], "beside_us": []}
    for number in range(2 * TURNS):
        listens = number % 4 in {1, 2}
        with server.events() if listens else contextlib.nullcontext():
            measured = child("benchmarks.ui:append", folder=str(journal), count=count)
        taken["beside_us" if listens else "alone_us"].append(measured["append_us"])
    return {name: statistics.median(values) for name, values in taken.items()}


def _appended(server: Server, journal: Path) -> Values:
    """How long a page that listens waits for the news of a point."""
    from journaltrack import Tracker

    taken, name = [], f"news-{time.time_ns()}"
    with (
        Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker,
        server.events() as lines,
    ):
        tracker.log_metric("loss", -1.0, iteration_number=0)
        runs = json.loads(server.ask("/api/runs"))["runs"]
        (key,) = (each["key"] for each in runs if each["name"] == name)
        for number in range(APPENDED):
            time.sleep(0.05 * (number % 7))
            tracker.log_metric("loss", float(number), iteration_number=number + 1)
            began = time.perf_counter()
            for line in lines:
                if line.startswith(b"event:"):
                    answer = server.ask("/api/series", metric="loss", run=key)
                    if json.loads(answer)["series"][0]["last"] == number:
                        break
            taken.append((time.perf_counter() - began) * 1e3)
    return {"event_ms": max(taken)}


def _in_chromium(server: Server, keys: list[str], journal: Path) -> Values:
    """What a person sees, if Chromium is installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        say("  no Chromium: what is on the screen is not measured")
        return {}
    from playwright.sync_api import sync_playwright

    from journaltrack import Tracker
    from tests.browser.conftest import ARGUMENTS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto("about:blank")
        route = urlencode([("run", key) for key in keys])
        began = time.perf_counter()
        page.goto(f"{server.url}#/compare?{route}")
        page.wait_for_selector("canvas")
        values = {"paint_ms": (time.perf_counter() - began) * 1e3}
        name = f"screen-{time.time_ns()}"
        with Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker:
            tracker.log_metric("loss", 0.5, iteration_number=0)
            page.goto(server.url)
            page.get_by_role("link", name=name).click()
            page.wait_for_selector("canvas")
            taken = []
            for number in range(APPENDED // 2):
                wanted = f"{number}.25"
                tracker.log_metric("loss", number + 0.25, iteration_number=number + 1)
                began = time.perf_counter()
                page.get_by_text(wanted, exact=True).first.wait_for()
                taken.append((time.perf_counter() - began) * 1e3)
            values["screen_ms"] = max(taken)
        browser.close()
    return values
