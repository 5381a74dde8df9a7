"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_names_tests_that_exist():
    """Each row of the promises' table in ARCHITECTURE.md names at least one test, and every test named is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    promises = [line for line in text.splitlines() if re.match(r"\| \d \|", line)]
    assert len(promises) == 7
    for line in promises:
        named = re.findall(r"`(tests/[^`]*)`", line)
        assert named, line
        for path in named:
            assert (ROOT / path).exists(), path
