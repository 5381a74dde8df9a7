"""A mirror: writing and reading segments, an append beside a process that mirrors, how long until
an entry is mirrored, and what a segment costs a file server.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, own_use, take_turns

READ_PER_S_MIN = 100_000.0
RSS_MIB_MAX = 200.0
MIRRORED_S_MAX = 3.0
APPEND_RATIO = "without a mirror"
PAUSE_S = 0.002


def run(options: Run) -> list[Result]:
    """Write and read so many pending points; then log beside a follower, and without one."""
    metrics = options.size(300_000, 20_000)
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
        **own_use(),
    }


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
