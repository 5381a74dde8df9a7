"""A real ``mlflow server`` on loopback, with SQLite and a local folder for artifacts.

It takes most of a minute to start: one for all tests. `make test-mlflow` installs it in a virtual
environment of its own and says in ``MLFLOW_COMMAND`` where it is; without that, nothing here runs.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import urllib.request
from urllib.parse import urlencode, urlsplit

import pytest

from tests.patience import FOREVER_S
from tests.simulator.server import Server
from tests.simulator.wire import HttpReply

COMMAND = os.environ.get("MLFLOW_COMMAND")
collect_ignore = [] if COMMAND else ["test_server.py"]


class Relay:
    """Passes requests on to the server, except where ``fault`` says otherwise.

    Attributes:
        asked: (method, path) of each request.
        fault: Called with the number of a request; returns "before" or "after" to cut the
            connection before or after the server had the request, a status to answer in its place,
            or None.
    """

    def __init__(self, uri):
        self._place = urlsplit(uri).netloc
        self._server = Server(self._handle)
        self.asked = []
        self.fault = lambda _: None

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop()

    @property
    def uri(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.port}"

    def _handle(self, request):
        self.asked.append((request.method, request.path))
        fault = self.fault(len(self.asked))
        if fault == "before":
            return None
        if isinstance(fault, int):
            return HttpReply(fault, b"")
        connection = http.client.HTTPConnection(self._place, timeout=FOREVER_S)
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = {k: v for k, v in request.headers.items() if k not in {"host", "content-length"}}
        connection.request(request.method, target, request.body, headers)
        answer = connection.getresponse()
        reply = HttpReply(answer.status, answer.read(), {"Content-Type": "application/json"})
        connection.close()
        return None if fault == "after" else reply


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of the server."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(COMMAND, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    # Whom it would tell about its use.
    environment = {**os.environ, "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # It says so on stderr when it listens.
    for line in process.stderr:
        if "startup complete" in line.lower():
            break
    else:
        pytest.fail(f"mlflow server ended with {process.wait()}")
    # Else the server would wait for a reader of what it logs.
    reader = threading.Thread(target=process.stderr.read, daemon=True)
    reader.start()
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 9)
    process.wait()
    reader.join()
    process.stderr.close()


@pytest.fixture
def relay(server):
    """A relay before the server, so that answers can be cut off."""
    with Relay(server) as relay:
        yield relay


def ask(server, path, told=None, **query):
    """Ask the server by its REST API alone, without anything of journaltrack's."""
    url = f"{server}/api/2.0/mlflow/{path}?{urlencode(query)}"
    body = None if told is None else json.dumps(told).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=FOREVER_S) as answer:
        return json.loads(answer.read())


def runs_of(server, component):
    """The active runs of a component, in whichever experiment."""
    found = ask(server, "experiments/search", {"max_results": 1000, "view_type": "ACTIVE_ONLY"})
    told = {
        "experiment_ids": [each["experiment_id"] for each in found["experiments"]],
        "filter": f"tags.`journaltrack.component` = '{component}'",
        "max_results": 1000,
    }
    return ask(server, "runs/search", told).get("runs", [])


def history(server, run, key):
    """All points of a metric: step and value."""
    told = ask(server, "metrics/get-history", run_id=run["info"]["run_id"], metric_key=key)
    return [(int(each["step"]), each["value"]) for each in told.get("metrics", [])]
