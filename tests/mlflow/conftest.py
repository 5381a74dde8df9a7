"""A real ``mlflow server`` on loopback, with SQLite and a local folder for artifacts.

It takes most of a minute to start: one for all tests. `make test-mlflow` installs it in a virtual
environment of its own and says in ``MLFLOW_COMMAND`` where it is; without that, nothing here runs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.patience import FOREVER_S
from tests.simulator.server import Server
from tests.simulator.wire import HttpReply

COMMAND = os.environ.get("MLFLOW_COMMAND")
BUCKET = "the-models"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""The server's, not ours."""
# `make test-mlflow` names the command; elsewhere MLflow is not installed.
collect_ignore = [] if COMMAND else [each.name for each in Path(__file__).parent.glob("test_*.py")]


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
        self._lock = threading.Lock()
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
        with self._lock:
            self.asked.append((request.method, request.path))
            number = len(self.asked)
        fault = self.fault(number)
        if fault == "before":
            return None
        if isinstance(fault, int):
            return HttpReply(fault, b"You are not authenticated.")
        connection = http.client.HTTPConnection(self._place, timeout=FOREVER_S)
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = {k: v for k, v in request.headers.items() if k not in {"host", "content-length"}}
        connection.request(request.method, target, request.body, headers)
        answer = connection.getresponse()
        reply = HttpReply(answer.status, answer.read(), {"Content-Type": "application/json"})
        connection.close()
        return None if fault == "after" else reply


class Running:
    """The server's process, and what it wrote on its disk.

    Attributes:
        uri: Where it listens, also after a restart.
        folder: With its database and its artifacts.
    """

    def __init__(self, folder, *options, bucket_url=""):
        self.bucket_url = bucket_url
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.folder = folder
        self._options = options or (
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        )

    def start(self):
        """Start it, and wait until it listens. Artifacts in S3 are at ``self.bucket_url``."""
        command = [
            *(COMMAND, "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--workers", "1", *self._options),
        ]
        # Whom it would tell about its use.
        environment = {**os.environ, "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= KEYS | {"MLFLOW_S3_ENDPOINT_URL": self.bucket_url}
        self._process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        # It says so on stderr when it listens.
        for line in self._process.stderr:
            if "running on" in line.lower():
                break
        else:
            pytest.fail(f"mlflow server ended with {self._process.wait()}")
        # Else the server would wait for a reader of what it logs.
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    def kill(self):
        """Kill all of its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()

    def held(self, component):
        """All that it holds of a component, read from its disk; its runs that are active, by id."""
        file = f"file:{self.folder}/mlflow.db?mode=ro"
        with closing(sqlite3.connect(file, uri=True)) as database:
            rows = database.execute(
                "SELECT r.run_uuid, r.experiment_id, r.status FROM runs r JOIN tags t USING "
                "(run_uuid) WHERE t.key = 'journaltrack.component' AND t.value = ? "
                "AND r.lifecycle_stage = 'active'",
                (component,),
            ).fetchall()
            return {
                run_id: {
                    "status": status,
                    "points": sorted(
                        database.execute(
                            "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid = ?",
                            (run_id,),
                        )
                    ),
                    "params": _pairs(database, "params", run_id),
                    "tags": _pairs(database, "tags", run_id),
                    "inputs": database.execute(
                        "SELECT d.name FROM inputs i JOIN datasets d ON d.dataset_uuid = "
                        "i.source_id WHERE i.destination_id = ?",
                        (run_id,),
                    ).fetchall(),
                    "files": self._files(f"{experiment_id}/{run_id}/artifacts"),
                }
                for run_id, experiment_id, status in rows
            }

    def _files(self, place):
        folder = self.folder / "artifacts" / place
        found = (file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def _pairs(database, table, run_id):
    rows = database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run_id,))
    return dict(rows.fetchall())


@contextlib.contextmanager
def serving(folder, *options, **more):
    """A server that begins in a folder, for the block."""
    made = Running(folder, *options, **more)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="session")
def bucket_url():
    """The address of a stand-in for S3, with the bucket ``BUCKET``."""
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    url = f"http://{host}:{port}"
    client_of(url).create_bucket(Bucket=BUCKET)
    yield url
    s3.stop()


def client_of(bucket_url):
    """A client that looks at the bucket."""
    import boto3

    keys = {name.lower(): value for name, value in KEYS.items() if name != "AWS_DEFAULT_REGION"}
    session = boto3.Session(region_name=KEYS["AWS_DEFAULT_REGION"], **keys)
    return session.client("s3", endpoint_url=bucket_url)


@pytest.fixture(scope="session")
def running(tmp_path_factory, bucket_url):
    """The server."""
    with serving(tmp_path_factory.mktemp("mlflow"), bucket_url=bucket_url) as made:
        yield made


@pytest.fixture
def server(running):
    """The address of the server."""
    return running.uri


@pytest.fixture
def relay(server):
    """A relay before the server, so that answers can be cut off."""
    with Relay(server) as relay:
        yield relay


def ask(server, path, told=None, api="api", **query):
    """Ask the server by its REST API alone, without anything of journaltrack's."""
    url = f"{server}/{api}/2.0/mlflow/{path}?{urlencode(query)}"
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
