"""For every test: no credentials, no configuration and no journal of the machine's own.

And what tests of whole commands have: a run's journal, credentials, a watcher.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from journaltrack.remotes.aws import clients
from journaltrack.replay.evidence import ahead
from tests import shared_models
from tests.builders import tracked
from tests.patience import scaled
from tests.processes import ENVIRONMENT, QUICK, Watching

TESTS = Path(__file__).parent
# A number for each test of this process.
_tests = itertools.count()
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
# The tree of whoever runs the tests may have changes; also for what modules and sessions share.
os.environ["JOURNALTRACK_GIT_DIFF"] = "off"
# A shell starts what goes on in the background with Ctrl-C ignored, and so does `nohup`. All
# processes that tests start and interrupt would inherit that, and wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Six thousand tests are a million objects that stay: looking for cycles among them took a fifth of
# the collection's time, and would take its part of the tests'.
gc.disable()


def pytest_collection_finish() -> None:
    """Let the garbage collector look after what tests make, and nothing older."""
    gc.freeze()
    gc.enable()


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
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Take away what boto3 and journaltrack read from the environment.

    Most tests count entries or requests of files, and lineage is not their subject.
    """
    for name in os.environ:
        if name.startswith(
            ("AWS_", "JOURNALTRACK_", "MLFLOW_", "SAGEMAKER_", "TRAINING_JOB", "PROCESSING_JOB")
        ) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    empty = tmp_path_factory.getbasetemp() / "isolated"
    empty.mkdir(exist_ok=True)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty / "no-configuration"))
    # Not by ``mktemp``, which reads the names of all that it has made.
    own = empty / str(next(_tests))
    own.mkdir()
    for name, folder in (("XDG_CACHE_HOME", own / "cache"), ("JOURNALTRACK_HOME", own / "home")):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    if request.node.get_closest_marker("lineage") is None:
        monkeypatch.setenv("JOURNALTRACK_LINEAGE", "off")
    monkeypatch.setenv("JOURNALTRACK_GIT_DIFF", "off")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and region as a user has them in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def patient(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process waits an hour for an answer: what ends before that did not wait for it, however
    slow the machine. This process does so, too, when it asks whether another copy is ahead.

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
    monkeypatch.setattr(ahead, "ASK_S", 3_600.0)


@pytest.fixture
def closed_port() -> str:
    """An endpoint that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The folder of a journal with parameters, artifacts and 95 metrics of one component, all
    pending.
    """
    return tracked(
        tmp_path, parameters={"lr": 0.1, "optimizer": "sgd"}, steps=95, artifact=b"weights"
    )


@pytest.fixture
def watch() -> Iterator[Callable[..., Watching]]:
    """Starts watchers; those that still run at the end are killed, and their log is shown when
    the test failed.
    """
    started: list[Watching] = []

    def start(*arguments: Any, **kwargs: Any) -> Watching:
        started.append(Watching(*arguments, **kwargs))
        return started[-1]

    yield start
    for watching in started:
        watching.end(signal.SIGKILL)  # also of one that has ended by itself: its pipes are closed
        sys.stdout.write("".join(watching.lines))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, credentials: None) -> None:
    """Credentials, and a background that waits for nothing."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JOURNALTRACK_WATCH_DEBOUNCE_S", "0.05")
    monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", "600")  # what is about the deadline sets it
