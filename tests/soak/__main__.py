"""Kill for as long as you like and print what was counted: `python -m tests.soak [KILLS [SEED]]`, from the project's folder.

KILLS of each kind of training process, and as many of syncs. Exits with 1 if anything was lost, doubled or torn.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

from tests.faults.killing import WRITERS
from tests.faults.killing_syncs import kill_syncs
from tests.faults.killing_training import kill_training

KILLS_PER_JOURNAL = 100
BAD = ("lost", "torn", "stray", "duplicated", "unexplained", "quarantined")


def _row(cells) -> None:
    sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    sys.stdout.flush()


def _tell(counted, heading) -> bool:
    """A row of the table; returns whether all is well."""
    names = [each.name for each in fields(counted) if each.name not in {"problems", "killed_in"}]
    if heading:
        sys.stdout.write("\n")
        _row(names)
        _row("---" for _ in names)
    _row(f"{value:.0f}" if isinstance(value := getattr(counted, name), float) else value for name in names)
    for problem in counted.problems:
        sys.stdout.write(f"{problem}\n")
    return not counted.problems and not any(getattr(counted, name, 0) for name in BAD)


def main(kills: int, seed: int) -> int:
    """All campaigns, one after the other."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "JOURNALTRACK_"))]:
        del os.environ[name]
    well = []
    for n, mode in enumerate(WRITERS):
        with tempfile.TemporaryDirectory(prefix="journaltrack-soak-") as folder:
            well.append(_tell(kill_training(mode, Path(folder), kills, seed), heading=n == 0))
    for n in range(0, kills, KILLS_PER_JOURNAL):
        with tempfile.TemporaryDirectory(prefix="journaltrack-soak-") as folder:
            well.append(_tell(kill_syncs(Path(folder), min(KILLS_PER_JOURNAL, kills - n), f"{seed} from {n}"), heading=n == 0))
    return 0 if all(well) else 1


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*given, *(1_000, time.time_ns() % 1_000_000)[len(given) :]))
