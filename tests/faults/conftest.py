"""A journal with work in it, and a process that syncs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from journaltrack.remotes.aws import clients
from tests.builders import tracked

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def credentials(monkeypatch):
    """Credentials and region as a user has them in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def patient(tmp_path_factory, monkeypatch):
    """Every process waits an hour for an answer: what ends before that did not wait for it, however
    slow the machine.

    Python imports ``sitecustomize`` when it starts, from the first folder of the path that has one.
    """
    folder = tmp_path_factory.mktemp("patient")
    code = (
        "from journaltrack.remotes.aws import clients as aws_clients\naws_clients.READ_TIMEOUT_S "
        "= 3_600.0\n"
    )
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(clients, "READ_TIMEOUT_S", 3_600.0)


@pytest.fixture
def closed_port():
    """An endpoint that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def journal(tmp_path):
    """The folder of a journal with parameters, artifacts and 95 metrics of one component, all
    pending.
    """
    return tracked(
        tmp_path, parameters={"lr": 0.1, "optimizer": "sgd"}, steps=95, artifact=b"weights"
    )


def sync_process(journal, endpoint_url, *arguments, **kwargs):
    """Start `journaltrack sync` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "journaltrack",
        "sync",
        str(journal),
        "--endpoint-url",
        endpoint_url,
        *arguments,
    ]
    environment = (
        {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        | ENVIRONMENT
        | kwargs.pop("env", {})
    )
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


class Watching:
    """`journaltrack watch` in a process of its own, whose log lines can be waited for."""

    def __init__(
        self, folder, endpoint_url, *arguments, env=None, launcher=None, prefix=(), **kwargs
    ):
        start = ["-c", launcher] if launcher else ["-m", "journaltrack"]
        quick = ["--debounce", "0.05", "--poll", "0.2", "--settle", "0.3"]
        folders = [] if folder is None else [str(folder)]
        command = [
            *prefix,
            sys.executable,
            *start,
            "watch",
            *folders,
            "--endpoint-url",
            endpoint_url,
            *quick,
            *arguments,
        ]
        environment = (
            {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            | ENVIRONMENT
            | QUICK
            | (env or {})
        )
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **kwargs,
        )
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False  # whether its stderr did
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, *words, after=0, timeout_s=300):
        """Wait for a line with all these words, from the line with number `after` on; returns
        the number of the next one.
        """

        def found():
            return next(
                (
                    n
                    for n, line in enumerate(self.lines)
                    if n >= after and all(word in line for word in words)
                ),
                None,
            )

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, timeout_s)
            assert found() is not None, (words, "".join(self.lines))
            return found() + 1

    def end(self, number=signal.SIGTERM, timeout_s=300):
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.ended(timeout_s)

    def ended(self, timeout_s=300):
        """Wait for its end; returns the exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


QUICK = {
    "JOURNALTRACK_WATCH_PROBE_FIRST_S": "0.2",
    "JOURNALTRACK_WATCH_PROBE_MAX_S": "0.5",
    "JOURNALTRACK_WATCH_RETRY_FIRST_S": "0.2",
    "JOURNALTRACK_WATCH_RETRY_MAX_S": "1",
}


@pytest.fixture
def watch():
    """Starts watchers; those that still run at the end are killed, and their log is shown when
    the test failed.
    """
    started = []

    def start(*arguments, **kwargs):
        started.append(Watching(*arguments, **kwargs))
        return started[-1]

    yield start
    for watching in started:
        watching.end(signal.SIGKILL)  # also of one that has ended by itself: its pipes are closed
        sys.stdout.write("".join(watching.lines))
