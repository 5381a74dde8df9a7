"""How long tests wait: no test depends on how fast the machine is."""

from __future__ import annotations

from typing import Final

FOREVER_S: Final = 1_200.0
"""Seconds. A test that waits so long has failed: nothing that is right takes as long, on any machine, whatever runs beside it."""
