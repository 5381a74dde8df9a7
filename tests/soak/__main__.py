"""A long campaign: every attack of the suite, as often as you like, and a table of what was lost.

`make soak` or `python -m tests.soak [SCALE [SEED]]`, from the project's folder. SCALE multiplies
the attacks of the default suite (10: about half an hour on two cores). The same seed makes the same
choices; what the scheduler does with them is never the same. Exits with 1 if anything was lost,
doubled or torn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import tally

ATTACKS = (
    "tests/faults/test_killed.py",
    "tests/faults/test_power_loss.py",
    "tests/faults/test_disk.py",
    "tests/faults/test_salvage.py",
    "tests/faults/test_hostile.py",
    "tests/faults/test_tampering.py",
    "tests/migrations/test_golden.py",
    "tests/properties",
)


def main(scale: float, seed: int) -> int:
    """Run, and print the table."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="journaltrack-soak-") as folder:
        path = Path(folder) / "tally"
        path.touch()
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "JOURNALTRACK_"))
        }
        environment |= {
            "JOURNALTRACK_SOAK": str(scale),
            "JOURNALTRACK_SEED": str(seed),
            "JOURNALTRACK_TALLY": str(path),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "worksteal",
            f"--hypothesis-seed={seed}",
        ]
        code = subprocess.run(
            [*command, *(a for a in ATTACKS if Path(a).exists())], env=environment, check=False
        ).returncode
        rows = tally.rows(path)
    out = sys.stdout.write
    out(f"\nscale {scale:g}, seed {seed}, {time.monotonic() - began:.0f} s\n\n")
    out("| attack | times | entries looked for | lost, doubled, torn |\n|---|---:|---:|---:|\n")
    for attack, attacks, checked, lost in sorted(rows):
        out(f"| {attack} | {attacks:,} | {checked:,} | {lost:,} |\n")
    return 1 if code or any(lost for *_, lost in rows) else 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(
        main(
            float(arguments[0]) if arguments else 10.0,
            int(arguments[1]) if len(arguments) > 1 else time.time_ns() % 1_000_000,
        )
    )
