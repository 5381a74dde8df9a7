"""Logging artifacts: bytes a second of a large file against the slower of hashing and copying it, and the latency of small ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

RATIO_MIN = 0.85
RSS_MIB_MAX = 120.0
SMALL = {"1 KiB": 1 << 10, "100 KiB": 100 << 10, "1 MiB": 1 << 20}
SMALL_FILES = 30
_MIB = 1 << 20
_BLOCK_BYTES = 1 << 20
FLOOR = "the slower of bare SHA-256 and bare copy and fsync"


def run(options: Run) -> list[Result]:
    """One large file in the page cache, hashed, copied and logged in turns; then small ones."""
    size_bytes = options.size(1024 * _MIB, 256 * _MIB)
    folder = options.folder / "artifacts"
    child("benchmarks.artifacts:make", folder=str(folder), size_bytes=size_bytes)
    arguments = {"folder": str(folder)}
    sides = [
        Side("SHA-256", "benchmarks.artifacts:bare_hash", arguments),
        Side("copy and fsync", "benchmarks.artifacts:bare_copy", arguments),
        Side("log_artifact", "benchmarks.artifacts:ours", arguments),
        Side("small, bare", "benchmarks.artifacts:bare_small", arguments),
        Side("small", "benchmarks.artifacts:ours_small", arguments),
    ]
    try:
        values = take_turns(sides, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    hashed, copied, mine = (values[name] for name in ("SHA-256", "copy and fsync", "log_artifact"))
    slower = [min(h["mib_per_s"], c["mib_per_s"]) for h, c in zip(hashed, copied, strict=True)]
    rates = [v["mib_per_s"] for v in mine]
    what = f"log_artifact of {size_bytes // _MIB:,} MiB"
    again = [v["again_mib_per_s"] for v in mine]
    results = [
        compare("artifacts", what, "MiB/s", rates, slower, floor_name=FLOOR, target=RATIO_MIN, better="higher"),
        compare(
            "artifacts",
            f"{what}: CPU",
            "s",
            [v["log_cpu_s"] for v in mine],
            [h["work_cpu_s"] + c["work_cpu_s"] for h, c in zip(hashed, copied, strict=True)],
            floor_name="SHA-256 and copy, one after the other",
        ),
        compare(
            "artifacts",
            f"{what}, the same content again",
            "MiB/s",
            again,
            [h["mib_per_s"] for h in hashed],
            floor_name="SHA-256",
            better="higher",
        ),
        compare("artifacts", f"{what}: longest log_metric of another thread meanwhile", "ms", [v["other_ms"] for v in mine]),
        compare("artifacts", f"{what}: peak memory", "MiB", [v["rss_mib"] for v in mine], target=RSS_MIB_MAX),
    ]
    for name in SMALL:
        bare, own = ([v[f"{name} ms"] for v in values[side]] for side in ("small, bare", "small"))
        results.append(compare("artifacts", f"log_artifact of {name}, p50", "ms", own, bare, floor_name="bare hash, copy and fsync"))
    return results


def make(folder: str, size_bytes: int) -> Values:
    """The large file."""
    Path(folder).mkdir()
    with Path(folder, "large").open("wb") as file:
        file.writelines(os.urandom(min(_MIB, size_bytes - start)) for start in range(0, size_bytes, _MIB))
        os.fsync(file.fileno())
    return {"size_bytes": float(size_bytes)}


def bare_hash(folder: str) -> Values:
    """``hashlib`` over the file."""

    def work() -> None:
        digest, buffer = hashlib.sha256(), bytearray(_BLOCK_BYTES)
        with Path(folder, "large").open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])

    return _timed(folder, work)


def bare_copy(folder: str) -> Values:
    """The kernel's fastest call for it, and one fsync."""
    target = Path(folder, "copied")

    def work() -> None:
        with Path(folder, "large").open("rb") as source, target.open("wb") as copy:
            while os.sendfile(copy.fileno(), source.fileno(), None, 1 << 30):
                pass
            os.fsync(copy.fileno())

    values = _timed(folder, work)
    target.unlink()
    os.sync()
    return values


def ours(folder: str) -> Values:
    """``log_artifact`` of the file, twice; a second thread logs metrics all the while."""
    import threading

    from journaltrack import Tracker

    journal, worst, ended = Path(folder, "journal"), [0.0], threading.Event()
    tracker = Tracker.create(trial_component_name="benchmark", journal=journal, sync="off")
    tracker.log_metric("loss", 1.0)

    def log_metrics() -> None:
        while not ended.wait(0.002):
            began = time.perf_counter()
            tracker.log_metric("loss", 1.0)
            worst[0] = max(worst[0], time.perf_counter() - began)

    values = _timed(folder, lambda: tracker.log_artifact(Path(folder, "large")))
    again = _timed(folder, lambda: tracker.log_artifact(Path(folder, "large"), name="again"))
    shutil.rmtree(journal / "spool")
    thread = threading.Thread(target=log_metrics, daemon=True)
    thread.start()
    tracker.log_artifact(Path(folder, "large"), name="beside")
    ended.set()
    thread.join()
    tracker.close()
    shutil.rmtree(journal)
    os.sync()
    return {
        "mib_per_s": values["mib_per_s"],
        "log_cpu_s": values["work_cpu_s"],
        "again_mib_per_s": again["mib_per_s"],
        "other_ms": worst[0] * 1e3,
    }


def ours_small(folder: str) -> Values:
    """``log_artifact`` of small files, each another one."""
    from journaltrack import Tracker

    journal = Path(folder, "journal")
    tracker = Tracker.create(trial_component_name="benchmark", journal=journal, sync="off")
    values = _small(folder, tracker.log_artifact)
    tracker.close()
    shutil.rmtree(journal)
    return values


def bare_small(folder: str) -> Values:
    """Read, hashed, written under a temporary name, fsync, rename, fsync of the folder."""
    spool = Path(folder, "bare")
    spool.mkdir()
    descriptor = os.open(spool, os.O_RDONLY)

    def keep(path: Path) -> None:
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()
        target = os.open(spool / "partial", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(target, data)
        os.fsync(target)
        os.close(target)
        (spool / "partial").rename(spool / name)
        os.fsync(descriptor)

    values = _small(folder, keep)
    os.close(descriptor)
    shutil.rmtree(spool)
    return values


def _small(folder: str, keep: Callable[[Path], object]) -> Values:
    values = {}
    path = Path(folder, "small")
    for name, size_bytes in SMALL.items():
        times = []
        for _ in range(SMALL_FILES):
            path.write_bytes(os.urandom(size_bytes))
            began = time.perf_counter()
            keep(path)
            times.append(time.perf_counter() - began)
        values[f"{name} ms"] = sorted(times)[len(times) // 2] * 1e3
    return values


def _timed(folder: str, work: Callable[[], object]) -> Values:
    os.sync()
    cpu_s, started = time.process_time(), time.perf_counter()
    work()
    wall_s = time.perf_counter() - started
    return {"mib_per_s": Path(folder, "large").stat().st_size / _MIB / wall_s, "work_cpu_s": time.process_time() - cpu_s}
