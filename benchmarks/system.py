"""What system metrics cost: the processor time of a look every ten seconds, of one core."""

from __future__ import annotations

import itertools
import sys

from benchmarks.measure import Result, Run, compare, say, spawn

CORE_PERCENT_MAX = 0.5
_counter = itertools.count()

# As many looks as fit: a tenth of a second each. What the process does without them is taken away.
_PROGRAM = """
import json, sys, time
from journaltrack import Tracker
folder, looks, every_s = sys.argv[1], int(sys.argv[2]), 0.1
tracker = Tracker.create(journal=folder, sync="off", system_metrics=every_s)
time.sleep(1)
began = time.process_time()
time.sleep(looks * every_s)
used_s = time.process_time() - began
tracker.close()
print(json.dumps({"core_percent": 100 * used_s / looks / 10}))
"""


def run(options: Run) -> list[Result]:
    """Whole processes, one after the other."""
    looks = options.size(100, 30)
    found = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        folder = options.folder / f"system-{next(_counter)}"
        told = spawn([sys.executable, "-c", _PROGRAM, str(folder), str(looks)])
        found.append(told["core_percent"])
    what = "system metrics every 10 s, of a core"
    return [compare("system", what, "%", found, target=CORE_PERCENT_MAX)]
