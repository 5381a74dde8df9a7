"""How much the tests do, and how long they wait: no test depends on how fast the machine is."""

from __future__ import annotations

import os
from typing import Final

FOREVER_S: Final = 1_200.0
"""Seconds. A test that waits so long has failed: nothing that is right takes as long, on any
machine, whatever runs beside it.
"""
SCALE: Final = float(os.environ.get("JOURNALTRACK_SOAK", "1"))
"""1 in the suite, 0.1 in `make test-fast`, more in a soak."""


def scaled(count: int) -> int:
    """Return how many examples, kills or moments a test tries that tries so many in the suite."""
    return max(1, int(count * SCALE))
