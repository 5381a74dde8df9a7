"""For every test: no credentials, no configuration and no journal of the machine's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.loaders import Loader
from hypothesis import settings

# The same examples at every run, on every machine, however slow it is: what chance finds in a soak becomes an @example.
settings.register_profile("journaltrack", derandomize="JOURNALTRACK_SOAK" not in os.environ, database=None, deadline=None, print_blob=True)
settings.load_profile("journaltrack")


@pytest.fixture(autouse=True, scope="session")
def shared_models() -> Iterator[None]:
    """Let all botocore sessions of the process share what they read: SageMaker's model alone takes 0.1 s and 30 MB."""
    read: dict[object, object] = {}
    create = Loader.__init__

    def create_sharing(self: Loader, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        self._cache = read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__init__", create_sharing)
        yield


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
