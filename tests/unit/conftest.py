"""The journal of a unit test is open: elsewhere, it is the folder of a run's closed journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journaltrack import Tracker
from journaltrack.journal.journal import Journal
from tests.builders import opened


@pytest.fixture
def journal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Journal]:
    """An open, empty journal; with ``@pytest.mark.journal({component: drafts}, **options)``, one
    opened with these options that recorded these drafts.
    """
    mark = request.node.get_closest_marker("journal")
    arguments, options = (mark.args, mark.kwargs) if mark else ((), {})
    with opened(tmp_path, *arguments, **options) as journal:
        yield journal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the test's journal is."""
    return tmp_path / "journal"


@pytest.fixture
def tracker(folder: Path) -> Iterator[Tracker]:
    """A tracker of ``run`` that delivers nothing."""
    tracker = Tracker.create(trial_component_name="run", journal=folder, sync="off")
    yield tracker
    tracker.close()
