"""A journal with work in it, and a process that syncs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from journaltrack import Tracker

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
def journal(tmp_path):
    """The folder of a journal with parameters, artifacts and 95 metrics of one component, all pending."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off")
    with tracker:
        tracker.log_parameters({"lr": 0.1, "optimizer": "sgd"})
        for step in range(95):
            tracker.log_metric("loss", 1.0 + step, iteration_number=step)
        tracker.log_artifact(tmp_path / "model.bin")
    return tmp_path / "journal"


def sync_process(journal, endpoint_url, *arguments, **kwargs):
    """Start `journaltrack sync` in a process of its own."""
    command = [sys.executable, "-m", "journaltrack", "sync", str(journal), "--endpoint-url", endpoint_url, *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | ENVIRONMENT | kwargs.pop("env", {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs)
