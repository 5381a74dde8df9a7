"""The scripts of docs/integrations/training.md run as they are shown.

Those of its neighbour need no large framework: tests/e2e/test_documentation.py runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_documentation import Session, blocks
from tests.simulator import simulator

FILES = [Path(__file__).parents[2] / "docs" / "integrations" / "training.md"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_script_for_a_framework_works(path, tmp_path):
    """Each block runs without error, and prints what the page shows."""
    with simulator() as sim:
        session = Session(tmp_path, sim.endpoint_url)
        for block in blocks(path.read_text(encoding="utf-8")):
            session.check(block)
