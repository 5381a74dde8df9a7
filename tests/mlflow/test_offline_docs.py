"""docs/mlflow-offline.md works as it is shown, with a real MLflow server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_documentation import Session, blocks

pytestmark = pytest.mark.mlflow
PAGE = Path(__file__).parents[2] / "docs" / "mlflow-offline.md"
EXAMPLE = "http://mlflow.example:5000"


def test_every_block_of_the_page_works(tmp_path, server):
    """Each block runs without error, and prints what the page shows."""
    session = Session(tmp_path, "http://127.0.0.1:9")
    for environment in (session.offline, session.online):
        environment |= {"MLFLOW_TRACKING_URI": "journaltrack:", "DO_NOT_TRACK": "true"}
    text = PAGE.read_text(encoding="utf-8")
    assert EXAMPLE in text
    for block in blocks(text.replace(EXAMPLE, server)):
        session.check(block)
