"""For every test: no credentials, no configuration and no journal of the machine's own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests import shared_models
from tests.patience import scaled

TESTS = Path(__file__).parent
# The same examples at every run, on every machine, however slow it is: what chance finds in a soak
# (which has a seed) becomes an @example.
settings.register_profile(
    "journaltrack",
    derandomize="JOURNALTRACK_SEED" not in os.environ,
    max_examples=min(100, scaled(100)),
    database=None,
    deadline=None,
    print_blob=True,
)
settings.load_profile("journaltrack")
shared_models.share()
# A shell starts what goes on in the background with Ctrl-C ignored, and so does `nohup`. All
# processes that tests start and interrupt would inherit that, and wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` runs."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        kinds = getattr(item, "callspec", None) and item.callspec.params
        in_memory = folder == "contract" and any(
            "memory" in str(kind) for kind in (kinds or {}).values()
        )
        if (folder in {"unit", "properties"} or in_memory) and item.get_closest_marker(
            "slow"
        ) is None:
            item.add_marker(pytest.mark.fast)


@pytest.fixture(autouse=True)
def isolated_environment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take away what boto3 and journaltrack read from the environment."""
    for name in os.environ:
        if name.startswith(
            ("AWS_", "JOURNALTRACK_", "SAGEMAKER_", "TRAINING_JOB", "PROCESSING_JOB")
        ) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    empty = tmp_path_factory.getbasetemp() / "isolated"
    empty.mkdir(exist_ok=True)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty / "no-configuration"))
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path_factory.mktemp("home")))
