"""For every test: no credentials, no configuration and no journal of the machine's own."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples at every run, on every machine, however slow it is: what chance finds in a soak becomes an @example.
settings.register_profile("journaltrack", derandomize="JOURNALTRACK_SOAK" not in os.environ, database=None, deadline=None, print_blob=True)
settings.load_profile("journaltrack")


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what boto3 and journaltrack read from the environment."""
    for name in os.environ:
        if name.startswith(("AWS_", "JOURNALTRACK_", "SAGEMAKER_", "TRAINING_JOB", "PROCESSING_JOB")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    empty = tmp_path_factory.getbasetemp() / "isolated"
    empty.mkdir(exist_ok=True)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty / "no-configuration"))
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path_factory.mktemp("home")))
