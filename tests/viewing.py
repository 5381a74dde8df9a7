"""`journaltrack ui` as a process, asked over HTTP, and the runs that tests look at."""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from journaltrack import Tracker
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from tests import warm
from tests.patience import FOREVER_S


class Viewing:
    """The page's server, started as users start it; its address is the first line of stdout."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-m", "journaltrack", "ui", "--no-browser"]
        self.process = warm.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ) | (env or {}),
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.stderr.read()
        parts = urlsplit(self.url)
        self.port = parts.port
        (self.token,) = parse_qs(parts.query)["token"]

    def ask(self, path, method="GET", headers=None, token=True, **query):
        """Send a request; returns the response, read, with its content as ``body``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=FOREVER_S)
        if token:
            query = {**query, "token": self.token if token is True else token}
        address = f"{path}?{urlencode(query, doseq=True)}"
        connection.request(method, address, headers=headers or {})
        response = connection.getresponse()
        response.body = response.read()
        connection.close()
        return response

    def json(self, path, **query):
        """Ask for JSON; NaN and infinity in it are an error."""
        response = self.ask(path, **query)
        assert response.status == 200, response.body
        return json.loads(response.body, parse_constant=lambda word: 1 / 0)

    @contextmanager
    def events(self):
        """Give the lines of the event stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=FOREVER_S)
        with closing(connection):
            connection.request("GET", f"/api/events?token={self.token}")
            with connection.getresponse() as response:
                assert response.status == 200
                yield (line.decode().rstrip("\n") for line in response)

    def end(self, number=signal.SIGTERM):
        """End it; returns the exit code and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=FOREVER_S)
        return self.process.returncode, errors


@contextmanager
def served():
    """Give what starts servers; they end with the block, without a complaint of theirs."""
    started = []

    def start(*arguments, **options):
        started.append(Viewing(*arguments, **options))
        return started[-1]

    yield start
    for viewing in started:
        code, errors = viewing.end()
        assert "Traceback" not in errors, errors
        assert code == 0


def runs(journal, count=6, steps=200):
    """Record runs that differ: ``run-0``, ``run-1``, ...; loss falls faster with a larger lr."""
    journal = Path(journal)
    for number in range(count):
        lr = [0.3, 0.1, 0.03][number % 3]
        with Tracker.create(
            trial_component_name=f"run-{number}",
            display_name=f"Run-{number}",
            journal=journal,
            sync="off",
            tags={"sweep": "a"} if number % 2 else None,
        ) as tracker:
            tracker.log_parameters(
                {"lr": lr, "optimizer": ["adam", "sgd"][number % 2], "depth": 18}
            )
            for step in range(steps):
                loss = 2 * math.exp(-step * lr / 20) + 0.1 + 0.01 * math.sin(step * 7 + number)
                tracker.log_metrics({"loss": loss, "accuracy": 1 - loss / 3}, step=step)
    return journal


def hostile(journal):
    """Record a run whose every text tries to run as a script; returns the texts."""
    attack = "<img src=x onerror=\"window.pwned='{0}'\"><script>window.pwned='{0}'</script>"
    places = ("name", "label", "parameter", "value", "metric", "tag", "tagged", "input", "media")
    texts = {place: attack.format(place) for place in places}
    folder = Path(journal).parent
    files = {
        "page.html": b"<script>window.pwned='html'</script>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.pwned=1"/>',
        "javascript:alert(1)": b"text",
    }
    with (
        warnings.catch_warnings(),
        Tracker.create(trial_component_name="hostile", journal=journal, sync="off") as tracker,
    ):
        warnings.simplefilter("ignore")
        tracker.log_parameter(texts["parameter"], texts["value"])
        tracker.log_parameter("__proto__", "x")
        tracker.log_parameter("constructor", "javascript:window.pwned=2")
        tracker.log_input(texts["input"], "javascript:window.pwned=3", texts["media"])
        for step in range(3):
            tracker.log_metric(texts["metric"], float(step), iteration_number=step)
        for name, content in files.items():
            (folder / "file").write_bytes(content)
            tracker.log_artifact(folder / "file", name=name)
    # A tracker refuses such names. A journal from somebody else may have them.
    tags = {texts["tag"]: texts["tagged"], "__proto__": "x"}
    draft = vocabulary.create(owner="me", display_name=texts["label"], tags=tags)
    with closing(Journal.open(Path(journal))) as opened:
        opened.append(opened.component(texts["name"]), [draft])
    return texts


def awkward(journal):
    """Record runs with values and steps that break what is not careful."""
    values = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0, 1.0]
    with (
        warnings.catch_warnings(),
        Tracker.create(trial_component_name="awkward", journal=journal, sync="off") as tracker,
    ):
        warnings.simplefilter("ignore")
        for number, value in enumerate(values):
            tracker.log_metric("extremes", value, iteration_number=number)
            tracker.log_metric("without-steps", float(number))
            tracker.log_metric("repeated", float(number), iteration_number=5)
            tracker.log_metric("backwards", float(number), iteration_number=100 - number)
            tracker.log_metric("never-finite", math.nan, iteration_number=number)
        tracker.log_metric("single", 1.0, iteration_number=0)
        tracker.log_metric("ünïcode/ \U0001f40d %2F?#&", 1.0, iteration_number=0)
        tracker.log_parameters({f"p{n}": n for n in range(300)})
        tracker.log_parameter("long", "x" * 5_000)
    with Tracker.create(trial_component_name="wide", journal=journal, sync="off") as tracker:
        for step in range(2):
            tracker.log_metrics({f"m{n:04}": n + step for n in range(1_000)}, step=step)
        # As the results of a search: a column for each split and parameter.
        tracker.log_table("wide", {f"column_of_a_wide_table_{n}": [0.5] for n in range(40)})
    return Path(journal)
