"""``python -m benchmarks.node_loss [KILLS]``: lose nodes, and count what was lost with them.

Each time, a training logs and a process mirrors beside it. At a random moment both get SIGKILL, and
the node's disk is gone: only the mirror is left. An entry may be lost if it is younger than the
mirror's interval, the look for something new and the write. Older ones must be in the mirror, and
prove.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.mirror import folders
from journaltrack.mirror.check import check
from journaltrack.mirror.follower import INTERVAL_S, Follower

PROMISED_S = 2.0
"""docs/mirrors.md: what was logged in the last two seconds is lost with a node."""
AT_ONCE = 10
"""Nodes that are lost side by side: they mostly wait."""
PAUSE_S = 0.02
LIFE_S = (1.5, 6.0)


def main(arguments: list[str] | None = None) -> int:
    """Lose so many nodes; 1 if an entry was lost that must not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node_loss", description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=1_000)
    kills = parser.parse_args(arguments).kills
    ages: list[float] = []
    entries = done = 0
    # In memory: how fast a file server syncs is not what is measured.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for first in range(0, kills, AT_ONCE):
            nodes = [Node(Path(folder, str(n))) for n in range(first, min(kills, first + AT_ONCE))]
            for node in nodes:
                lost, recorded = node.lose()
                ages += lost
                entries += recorded
                done += 1
            print(f"\r{done} of {kills} nodes lost", end="", file=sys.stderr)
    print(file=sys.stderr)
    late = [age for age in ages if age > PROMISED_S]
    print(f"{kills} nodes lost, {entries:,} entries recorded, {len(ages):,} lost with them")
    if ages:
        print(
            f"the oldest lost entry of a node: median {statistics.median(ages):.2f} s, "
            f"at most {max(ages):.2f} s before the kill"
        )
    print(f"older than {PROMISED_S:g} s: {len(late)}")
    return 1 if late else 0


class Node:
    """A training and a process that mirrors it, which die at a random moment."""

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir()
        self._mirror = folders.opened(place / "mirror", create=True)
        self._processes = [self._forked(self._train), self._forked(self._follow)]
        self._dies_at = time.monotonic() + random.uniform(*LIFE_S)

    def lose(self) -> tuple[list[float], int]:
        """Kill the node at its time; return how old the lost entries were, and how many it had."""
        time.sleep(max(0.0, self._dies_at - time.monotonic()))
        for process in self._processes:
            os.kill(process, signal.SIGKILL)
        killed_ns = time.time_ns()
        for process in self._processes:
            os.waitpid(process, 0)
        # The disk as it was, to count. A node that is lost has none.
        sql = "SELECT recorded_at_ns FROM entry ORDER BY seq"
        with closing(sqlite3.connect(self._place / "journal" / "journal.db")) as connection:
            recorded = [ns for (ns,) in connection.execute(sql)]
        shutil.rmtree(self._place / "journal")
        found = check(self._mirror)
        mirrored = sum(each.entries for each in found)
        if not all(each.is_well for each in found):
            raise AssertionError(found)
        shutil.rmtree(self._place)
        return [(killed_ns - ns) / 1e9 for ns in recorded[mirrored:]], len(recorded)

    def _train(self) -> None:
        journal = Journal.open(self._place / "journal")
        component = journal.component("run")
        while True:
            journal.append(component, [vocabulary.metric("loss", 1.0, None, time.time_ns())])
            time.sleep(PAUSE_S)

    def _follow(self) -> None:
        Follower(self._place / "journal", self._mirror, INTERVAL_S).run(threading.Event())

    def _forked(self, work: Callable[[], None]) -> int:
        process = os.fork()
        if process == 0:
            try:
                work()
            finally:
                os._exit(1)
        return process


if __name__ == "__main__":
    raise SystemExit(main())
