"""Test your code that uses journaltrack: no AWS, no file outside one folder.

In ``conftest.py``, for pytest:

    from journaltrack.testing import offline_journal

and in a test:

    def test_training(offline_journal):
        train.main()
        run = offline_journal.run()
        assert run.metrics["train:loss"][-1].value < 0.1
        assert offline_journal.deliver().pending == 0
        assert offline_journal.remote.components[run.name].parameters["learning_rate"] == 0.01

Without pytest, ``with offline() as journal:`` does the same.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

from journaltrack.app import api
from journaltrack.app.connection import Connection
from journaltrack.errors import InvalidInputError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.journal import Journal, appending_in
from journaltrack.remotes.memory import MemoryComponent, MemoryRemote
from journaltrack.replay.pass_report import PassReport
from journaltrack.replay.plan.actions import MetricPoint
from journaltrack.tracking.members import TrialComponentArtifact
from journaltrack.tracking.settings import WIRED
from journaltrack.tracking.tracker import Tracker
from journaltrack.tracking.trial_component import TrialComponent

__all__ = [
    "LoggedRun",
    "MemoryComponent",
    "MemoryRemote",
    "MetricPoint",
    "OfflineJournal",
    "offline",
]

_NOWHERE: Final = "http://127.0.0.1:9"
"""Nothing listens there (RFC 863's port): processes that a test starts reach no AWS either."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """Say what was logged of one run, as read from a journal.

    See ``Tracker`` for the calls.

    Attributes:
        name, display_name: Of its trial component.
        parameters: The last value of each.
        metrics: The points of each, in the order in which they were logged.
        inputs, outputs: The last of each; the ``value`` of a logged file is the path of its bytes
            in the journal.
        status: InProgress, Completed, Failed, Stopping or Stopped; None if none was set.
        message: Of the status.
    """

    name: str
    display_name: str | None
    parameters: Mapping[str, str | float | None]
    metrics: Mapping[str, Sequence[MetricPoint]]
    inputs: Mapping[str, TrialComponentArtifact]
    outputs: Mapping[str, TrialComponentArtifact]
    status: str | None
    message: str | None


class OfflineJournal:
    """Hold a journal, and a remote in memory to deliver it to.

    Args:
        path: The journal's folder; the first logged call creates it.

    Attributes:
        path: The journal's folder.
        remote: What SageMaker and S3 would hold.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.remote = MemoryRemote()

    def __fspath__(self) -> str:
        """Return the folder, so that any function takes this as ``journal``."""
        return os.fspath(self.path)

    def runs(self) -> list[str]:
        """Return the names of the runs in the journal, in order of creation."""
        with view.opened(self.path) as journal:
            return [row.name for row in journal.runs()]

    def run(self, name: str | None = None) -> LoggedRun:
        """Read what was logged of a run, delivered or not.

        Args:
            name: Of its trial component; None: the only run in the journal.

        Raises:
            InvalidInputError: There is no such run, or not exactly one.
            JournalNotFoundError: Nothing was logged.
        """
        with view.opened(self.path) as journal:
            if name is None:
                names = [row.name for row in journal.runs()]
                if len(names) != 1:
                    raise InvalidInputError(
                        f"the journal has {len(names)} runs: {', '.join(names)}",
                        hint="name one of them",
                    )
                name = names[0]
            row = view.component(journal, name)
            component = TrialComponent(journal, row.id, row.name)
            status = component.status
            return LoggedRun(
                row.name,
                component.display_name,
                component.parameters,
                _metrics(journal, row.id),
                component.input_artifacts,
                component.output_artifacts,
                None if status is None else status.primary_status,
                None if status is None else status.message,
            )

    def deliver(self) -> PassReport:
        """Deliver what is pending to ``remote``; only inside ``offline``."""
        return api.sync(self.path)


@contextlib.contextmanager
def offline(folder: str | os.PathLike[str] | None = None) -> Iterator[OfflineJournal]:
    """Keep journaltrack away from AWS and from your journals for the block.

    Inside, the yielded journal is the default one. Everything that delivers or asks (``close``,
    ``sync``, ``verify``, ``Tracker.load``) gets ``remote`` instead of AWS. Trackers deliver at
    ``close`` only if your code sets ``sync=``. The machine's configuration is ignored, and changes
    that are not committed are not recorded: a test shows the same in any work tree. Processes
    that your code starts log to the same journal, but can't deliver.

    It changes the environment of the process: never run two at a time in threads.

    Args:
        folder: For the journal and everything else that journaltrack writes; None: a temporary
            one, which is removed.
    """
    with contextlib.ExitStack() as stack:
        home = (
            tempfile.TemporaryDirectory(prefix="journaltrack-")
            if folder is None
            else contextlib.nullcontext(folder)
        )
        place = Path(stack.enter_context(home)).absolute()
        stack.callback(_let_go, place)
        journal = OfflineJournal(place / "journal")
        configuration = place / "config.toml"
        configuration.touch()
        stack.enter_context(mock.patch.dict(os.environ))
        for name in [name for name in os.environ if name.startswith("JOURNALTRACK_")]:
            del os.environ[name]
        os.environ.update(
            JOURNALTRACK_HOME=str(place),
            JOURNALTRACK_JOURNAL=str(journal.path),
            JOURNALTRACK_CONFIG=str(configuration),
            JOURNALTRACK_SYNC="off",
            JOURNALTRACK_GIT_DIFF="off",
            JOURNALTRACK_ENDPOINT_URL=_NOWHERE,
        )
        stack.enter_context(
            mock.patch.object(Connection, "remote", side_effect=lambda *_, **__: journal.remote)
        )
        # A child process, as of sync="background", knows nothing of this remote: deliver at
        # close.
        stack.enter_context(mock.patch.object(Tracker, "services", WIRED._replace(background=None)))
        yield journal


def _let_go(folder: Path) -> None:
    """Make open trackers give up the folder.

    Else they would write it again once it is deleted.
    """
    for journal in appending_in(folder):
        if isinstance(journal, Journal):
            journal.flush()
            journal.rest()


def _metrics(journal: Journal, component_id: int) -> dict[str, list[MetricPoint]]:
    found: dict[str, list[MetricPoint]] = defaultdict(list)
    after_seq = 0
    while page := journal.entries(after_seq=after_seq):
        after_seq = page[-1].seq
        for entry in page:
            if entry.component_id == component_id and entry.kind == vocabulary.METRIC:
                value = entry.value if entry.value is not None else float(entry.detail["exact"])
                found[entry.name or ""].append(
                    MetricPoint(entry.name or "", value, entry.step, entry.timestamp_ns or 0)
                )
    return dict(found)


try:
    import pytest
# Not every test suite has pytest.
except ImportError:
    pass
else:

    @pytest.fixture
    def offline_journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfflineJournal]:
        """Log to a journal in a temporary folder, and reach no AWS; see ``offline``."""
        with offline(tmp_path_factory.mktemp("journaltrack")) as journal:
            yield journal

    __all__ += ["offline_journal"]
