"""A mirror: writing and reading segments, an append beside a process that mirrors, how long until
an entry is mirrored, how long until it is delivered from elsewhere, and what a cluster costs a file
server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import (
    Result,
    Run,
    Side,
    Values,
    child,
    compare,
    own_use,
    say,
    take_turns,
)
from benchmarks.static_server import static_server
from benchmarks.watch import LATENCY_MS, watching

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

READ_PER_S_MIN = 100_000.0
RSS_MIB_MAX = 200.0
MIRRORED_S_MAX = 3.0
DELIVERED_S_MAX = 5.0
OVERHEAD_B_MAX = 120.0
OPERATIONS_PER_S_MAX = 100.0
APPEND_RATIO = "without a mirror"
PAUSE_S = 0.002
RANKS, RANKS_OF_NODE, PER_S = 100, 8, 10
CACHED_S = 3  # as long as an NFS client keeps attributes at least, unless told otherwise


def run(options: Run) -> list[Result]:
    """Write and read so many pending points; then log beside a follower, and without one."""
    metrics = options.size(1_000_000, 20_000)
    model = options.folder / "mirror"
    child("benchmarks.journals:make", folder=str(model / "journal"), metrics=metrics)
    sides = [
        Side("ours", "benchmarks.mirror:ours", {"folder": str(model), "metrics": metrics}),
        Side("with", "benchmarks.mirror:logging", {"folder": str(model / "with"), "mirror": 1}),
        Side("without", "benchmarks.mirror:logging", {"folder": str(model / "no"), "mirror": 0}),
    ]
    values = take_turns(sides, options.rounds)
    shutil.rmtree(model)

    def of(side: str, name: str) -> list[float]:
        return [each[name] for each in values[side]]

    what = f"{metrics:,} points"
    beside = (of("with", "p50_us"), of("without", "p50_us"))
    return [
        compare("mirror", f"{what}: written", "entries/s of CPU", of("ours", "written_per_s")),
        compare(
            "mirror",
            f"{what}: read and proved",
            "entries/s of CPU",
            of("ours", "read_per_s"),
            target=READ_PER_S_MIN,
            better="higher",
        ),
        compare("mirror", "bytes of a point, names included", "B", of("ours", "point_bytes")),
        compare("mirror", "memory", "MiB", of("ours", "rss_mib"), target=RSS_MIB_MAX),
        compare("mirror", "an append beside it, p50", "µs", *beside, floor_name=APPEND_RATIO),
        compare(
            "mirror",
            "until an entry is mirrored, p95",
            "s",
            of("with", "mirrored_p95_s"),
            target=MIRRORED_S_MAX,
        ),
        compare("mirror", "segments of that journal", "1/s", of("with", "segments_per_s")),
        compare(
            "mirror",
            "bytes of a segment besides its points, 10 points/s",
            "B of a point",
            of("ours", "overhead_bytes"),
            target=OVERHEAD_B_MAX,
        ),
    ]


def run_delivered(options: Run) -> list[Result]:
    """From the call's return on a node to the delivery recorded where `watch` runs on its mirror:
    one entry at a time, at an endpoint that has nothing else to do.
    """
    entries = options.size(100, 20)
    measured: list[Values] = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}")
        place = options.folder / f"delivered-{number}"
        with static_server(LATENCY_MS) as server, _following(place):
            while not (place / "mirror").is_dir() or not list(place.glob("mirror/*.json")):
                time.sleep(0.05)
            with watching(place / "mirror", server.endpoint_url):
                measured.append(
                    child("benchmarks.mirror:one_by_one", folder=str(place), entries=entries)
                )
        shutil.rmtree(place)
    what = "until an entry of a node is delivered by `watch` of its mirror"
    return [
        compare("mirror-delivered", f"{what}, p50", "s", [v["p50_s"] for v in measured]),
        compare(
            "mirror-delivered",
            f"{what}, p95",
            "s",
            [v["p95_s"] for v in measured],
            target=DELIVERED_S_MAX,
        ),
    ]


def run_cluster(options: Run) -> list[Result]:
    """Count what many ranks that log ask of a file server: a FUSE file system in memory."""
    seconds = max(3.0, 10 * min(1.0, options.scale)) if options.quick else 20.0
    all_ranks = options.size(RANKS, RANKS)
    found: dict[str, list[Values]] = {}
    for name, ranks in (("a journal for each node", RANKS_OF_NODE), ("one for each rank", 1)):
        for number in range(options.rounds):
            say(f"  round {number + 1} of {options.rounds}: {name}")
            place = options.folder / f"cluster-{ranks}-{number}"
            place.mkdir()
            arguments = {"folder": str(place), "ranks": ranks, "seconds": seconds}
            arguments["all_ranks"] = all_ranks
            found.setdefault(name, []).append(child("benchmarks.mirror:cluster", **arguments))
            shutil.rmtree(place)
    nodes = -(-all_ranks // RANKS_OF_NODE)
    what = f"{all_ranks} ranks, {PER_S} entries/s each"
    per_node, per_rank = found.values()
    return [
        compare(
            "mirror-cluster",
            f"{what}, {nodes} nodes with a journal each: operations of a file server",
            "1/s",
            [v["operations_per_s"] for v in per_node],
            target=OPERATIONS_PER_S_MAX,
        ),
        compare(
            "mirror-cluster",
            "operations for one segment, joining included",
            "",
            [v["operations_of_segment"] for v in per_node],
        ),
        compare(
            "mirror-cluster",
            f"{what}, each with a journal of its own: operations of a file server",
            "1/s",
            [v["operations_per_s"] for v in per_rank],
        ),
    ]


def ours(folder: str, metrics: int) -> Values:
    """Mirror a journal as a whole, and read it, imports done."""
    from journaltrack.mirror import copies, exchange, folders
    from journaltrack.mirror.ship import Shipper

    place = Path(folder)
    for name in ("mirror", "home"):
        shutil.rmtree(place / name, ignore_errors=True)
    (place / "journal" / exchange.FILE).unlink(missing_ok=True)
    os.environ["JOURNALTRACK_HOME"] = str(place / "home")
    mirror = folders.opened(place / "mirror", create=True)
    began = time.process_time()
    shipper = Shipper(place / "journal", mirror)
    shipped = shipper.ship()
    written_s = time.process_time() - began
    shipper.close()
    began = time.process_time()
    (copied,) = copies.extended(mirror.path)
    read_s = time.process_time() - began
    assert copied.replicas[0].entries == metrics + 1, copied
    return {
        "written_per_s": metrics / written_s,
        "read_per_s": metrics / read_s,
        "point_bytes": shipped.segment_bytes / metrics,
        "overhead_bytes": _overhead(place / "overhead"),
        **own_use(),
    }


def _overhead(place: Path) -> float:
    """Of the segments of a process that logs ten points a second: the bytes besides the points."""
    from journaltrack.journal import vocabulary
    from journaltrack.journal.journal import Journal
    from journaltrack.mirror import folders
    from journaltrack.mirror.ship import Shipper

    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    journal = Journal.open(place / "journal")
    component = journal.component("run")
    shipper = Shipper(place / "journal", folders.opened(place / "mirror", create=True))
    points = 0
    for _ in range(20):
        for _ in range(15):
            points += 1
            draft = vocabulary.metric("train:loss", 1 / points, points, 1_700_000_000_000_000_000)
            journal.append(component, [draft])
        journal.flush()
        shipper.ship()
    shipper.close()
    journal.close()
    lines = [
        line
        for file in place.glob("mirror/*/*/[0-9]*.jsonl")
        for line in file.read_bytes().splitlines(keepends=True)
    ]
    return sum(len(line) for line in lines if not line.startswith(b"[")) / points


def logging(folder: str, mirror: int) -> Values:
    """Log for some seconds, with a mirror or without one; when was each entry mirrored?"""
    from journaltrack import Tracker

    place = Path(folder)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    waited = []
    with Tracker.create(
        journal=place / "journal", sync="off", mirror=place / "mirror" if mirror else None
    ) as tracker:
        while mirror and not list(place.glob("mirror/*/*/[0-9]*.jsonl")):
            time.sleep(0.05)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            began = time.perf_counter()
            tracker.log_metric("loss", float(len(waited)), iteration_number=len(waited))
            waited.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)
    found: Values = {"p50_us": statistics.median(waited) * 1e6}
    if mirror:
        files = sorted(place.glob("mirror/*/*/[0-9]*.jsonl"))
        late = [
            file.stat().st_mtime - json.loads(line)[9] / 1e9
            for file in files
            for line in file.read_bytes().splitlines()
            if line.startswith(b"[")
        ]
        found["mirrored_p95_s"] = statistics.quantiles(late, n=20)[-1]
        found["segments_per_s"] = len(files) / 6
    return found


@contextlib.contextmanager
def _following(place: Path) -> Iterator[None]:
    """Mirror ``journal`` in a folder into ``mirror`` there, for as long as the block lasts."""
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "journaltrack", "mirror"]
    named = [f"{place}/journal", f"{place}/mirror", "--follow"]
    with subprocess.Popen([*command, *named], stdout=subprocess.DEVNULL) as follower:
        try:
            yield
        finally:
            follower.terminate()
            follower.wait()


def one_by_one(folder: str, entries: int) -> Values:
    """Log single points with pauses of random length; how long each took to be delivered from the
    copy that a watcher of the mirror keeps.
    """
    from journaltrack import Tracker

    chance = random.Random(7)
    place = Path(folder)
    with Tracker.create(
        trial_component_name="latency", journal=place / "journal", sync="off"
    ) as tracker:
        for step in range(entries):
            tracker.log_metric("loss", 1.0, iteration_number=step)
            time.sleep(chance.uniform(0.05, 1.0))
    sql = (
        "SELECT (d.settled_at_ns - e.recorded_at_ns) / 1e9 FROM entry e "
        "JOIN delivery d ON d.seq = e.seq WHERE e.step IS NOT NULL"
    )
    taken: list[float] = []
    while len(taken) < entries:
        time.sleep(0.2)
        for file in place.glob("home-*/mirrors/*/[0-9a-f]*/journal.db"):
            with contextlib.closing(
                sqlite3.connect(f"file:{file}?mode=ro", uri=True)
            ) as connection:
                taken = sorted(seconds for (seconds,) in connection.execute(sql))
    # The first ones wait for the watcher to find the journal.
    return {"p50_s": statistics.median(taken), "p95_s": taken[int(len(taken) * 0.95)]}


def cluster(folder: str, ranks: int, seconds: float, all_ranks: int) -> Values:
    """Let nodes log and mirror for a while; how often a file server was asked for something.

    Args:
        folder: An empty one.
        ranks: How many write into one journal.
        seconds: How long.
        all_ranks: How many write at all.
    """
    from journaltrack.journal.journal import Journal
    from journaltrack.mirror import folders
    from journaltrack.mirror.follower import Follower
    from tests.faults.shared_disk import SharedDisk

    place = Path(folder)
    disk = SharedDisk(place / "shared")
    disk.set(cached_s=CACHED_S)
    mirror = folders.opened(place / "shared" / "mirror", create=True)
    journals = [Journal.open(place / f"journal-{n}") for n in range(-(-all_ranks // ranks))]
    ended = threading.Event()
    threads = [
        threading.Thread(target=Follower(journal.path, mirror).run, args=(ended,))
        for journal in journals
    ]
    for thread in threads:
        thread.start()
    _log(journals, ranks, min(5.0, seconds))
    before = disk.set()
    _log(journals, ranks, seconds)
    counts = disk.set() - before
    ended.set()
    operations = sum(counts.values())
    for thread in threads:
        thread.join()
    disk.close()
    return {
        "operations_per_s": operations / seconds,
        "operations_of_segment": operations / counts["create"],
    }


def _log(journals: list[Journal], ranks: int, seconds: float) -> None:
    """Log at the rate of all ranks."""
    from journaltrack.journal import vocabulary

    components = [journal.component("run") for journal in journals]
    end = time.monotonic() + seconds
    for step in itertools.count():
        for journal, component in zip(journals, components, strict=True):
            for rank in range(ranks):
                draft = vocabulary.metric(f"loss/{rank}", 1 / (step + 1), step, time.time_ns())
                journal.append(component, [draft])
        next_s = end - seconds + (step + 1) / PER_S
        if next_s >= end:
            return
        time.sleep(max(0.0, next_s - time.monotonic()))
