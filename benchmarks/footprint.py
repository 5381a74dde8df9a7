"""The memory that a tracker adds to a process: resident size after it was made and used, against
an interpreter that does nothing.
"""

from __future__ import annotations

import itertools
import sys

from benchmarks.measure import Result, Run, compare, say, spawn

ADDED_MIB_MAX = 40e6 / 2**20
_counter = itertools.count()

# Resident at the end (proc(5)), not at the peak: Linux counts the parent's size into the peak of a
# child.
_SAY = """
import os
pages = int(open("/proc/self/statm").read().split()[1])
print('{"resident_mib": %r}' % (pages * os.sysconf("SC_PAGE_SIZE") / 2**20), flush=True)
os._exit(0)
"""
_TRACKER = """
import sys
from journaltrack import Tracker
tracker = Tracker.create(journal=sys.argv[1])
for step in range(int(sys.argv[2])):
    tracker.log_metric("train:loss", 1.0, iteration_number=step)
"""


def run(options: Run) -> list[Result]:
    """Whole processes, in turns."""
    calls = options.size(10_000, 10_000)
    ours, bare = [], []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        folder = options.folder / f"footprint-{next(_counter)}"
        bare.append(spawn([sys.executable, "-c", _SAY])["resident_mib"])
        ours.append(
            spawn([sys.executable, "-c", _TRACKER + _SAY, str(folder), str(calls)])["resident_mib"]
        )
    added = [mine - theirs for mine, theirs in zip(ours, bare, strict=True)]
    return [
        compare(
            "footprint",
            f"a process with a tracker, after {calls:,} calls",
            "MiB",
            ours,
            bare,
            floor_name="bare interpreter",
        ),
        compare("footprint", "of it: added by the tracker", "MiB", added, target=ADDED_MIB_MAX),
    ]
