"""What ``log_artifact`` costs: a large file against the slower of hashing and copying it, the
same content again, and small files.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, sha256_of, take_turns

RATIO_MIN = 0.85
SMALL_RATIO_MAX = 1.5
"""For 1 KiB, where a call waits for the disk at the next barrier."""
_MIB = 1 << 20
_SMALL = {"1 KiB": 1 << 10, "100 KiB": 100 << 10, "1 MiB": _MIB}
_SMALL_CALLS = 30
_counter = itertools.count()


def run(options: Run) -> list[Result]:
    """A file in the page cache, logged into a new journal each time, in turn with its floors."""
    size_bytes = options.size(1 << 30, 256 * _MIB)
    path = options.folder / "artifact.bin"
    child("benchmarks.uploads:make", path=str(path), size_bytes=size_bytes)
    values: dict[str, list[Values]] = {}
    try:
        for number in range(options.rounds):
            folder = options.folder / f"artifacts-{next(_counter)}"
            given = {"path": str(path), "folder": str(folder)}
            sides = [
                Side(name, f"benchmarks.artifacts:{name}", given)
                for name in ("digest", "copy", "log", "small", "small_power")
            ]
            for name, runs in take_turns([*sides[number % 5 :], *sides[: number % 5]], 1).items():
                values.setdefault(name, []).extend(runs)
            shutil.rmtree(folder)
    finally:
        path.unlink()
    return _results(values, size_bytes)


def _results(values: dict[str, list[Values]], size_bytes: int) -> list[Result]:
    """Compare each with its floor."""
    mib = size_bytes / _MIB
    slower = [
        mib / max(one["took_s"], other["took_s"])
        for one, other in zip(values["digest"], values["copy"], strict=True)
    ]
    mine = [mib / v["took_s"] for v in values["log"]]
    what = f"log_artifact of {size_bytes // _MIB:,} MiB"
    floor_name = "the slower of SHA-256, and copy and fsync"
    return [
        compare(
            "artifacts",
            what,
            "MiB/s",
            mine,
            slower,
            floor_name=floor_name,
            target=RATIO_MIN,
            better="higher",
        ),
        compare(
            "artifacts",
            "SHA-256 alone",
            "MiB/s",
            [mib / v["took_s"] for v in values["digest"]],
            better="higher",
        ),
        compare(
            "artifacts",
            "copy and fsync alone",
            "MiB/s",
            [mib / v["took_s"] for v in values["copy"]],
            better="higher",
        ),
        compare(
            "artifacts",
            f"{what}, the same content again",
            "MiB/s",
            [mib / v["again_s"] for v in values["log"]],
            slower,
            floor_name=floor_name,
        ),
        compare("artifacts", f"{what}, peak memory", "MiB", [v["rss_mib"] for v in values["log"]]),
        *(
            compare(
                "artifacts",
                f"log_artifact of {name}{what}, p50",
                "µs",
                [v[f"{name}_us"] for v in values[side]],
                [v[f"{name}_bare_us"] for v in values[side]],
                floor_name="copy and fsync, bare",
                target=SMALL_RATIO_MAX if (side, name) == ("small", "1 KiB") else None,
            )
            for side, what in (("small", ""), ("small_power", ', durability="power"'))
            for name in _SMALL
        ),
        compare(
            "artifacts",
            f"flush after {_SMALL_CALLS} files of each size, a file",
            "µs",
            [v["flush_us"] for v in values["small"]],
            [v["1 KiB_bare_us"] for v in values["small"]],
            floor_name="copy and fsync of 1 KiB, bare",
        ),
    ]


def digest(path: str, folder: str) -> Values:
    """The floor: SHA-256 of the file."""
    Path(folder).mkdir(exist_ok=True)
    started = time.perf_counter()
    sha256_of(path)
    return {"took_s": time.perf_counter() - started}


def copy(path: str, folder: str) -> Values:
    """The floor: a copy by the kernel, on the disk when it returns."""
    Path(folder).mkdir(exist_ok=True)
    target = Path(folder, "copy")
    started = time.perf_counter()
    _copy(Path(path), target)
    took_s = time.perf_counter() - started
    target.unlink()
    return {"took_s": took_s}


def log(path: str, folder: str) -> Values:
    """The public call, and the same once more."""
    tracker = _tracker(folder)
    started = time.perf_counter()
    tracker.log_artifact(path)
    logged = time.perf_counter()
    tracker.log_artifact(path, name="again")
    again_s = time.perf_counter() - logged
    shutil.rmtree(Path(folder, "journal", "spool"))
    return {"took_s": logged - started, "again_s": again_s}


def small_power(path: str, folder: str) -> Values:
    """As ``small``, where each call waits for the disk."""
    own = Path(folder, "power")
    own.mkdir(parents=True)
    return small(path, str(own), "power")


def small(path: str, folder: str, durability: str = "process") -> Values:
    """The median of some calls of each size, against copies of files of the same size; and what
    the barrier after them takes, for each file.
    """
    tracker, values = _tracker(folder, durability), {}
    source = Path(path).with_name("small.bin")
    for name, size_bytes in _SMALL.items():
        ours, bare = [], []
        for number in range(_SMALL_CALLS):
            source.write_bytes(os.urandom(size_bytes))
            started = time.perf_counter()
            tracker.log_artifact(source, name=f"{name}-{number}")
            logged = time.perf_counter()
            _copy(source, Path(folder, f"{name}-{number}"))
            bare.append(time.perf_counter() - logged)
            ours.append(logged - started)
        values[f"{name}_us"], values[f"{name}_bare_us"] = (
            sorted(ours)[_SMALL_CALLS // 2] * 1e6,
            sorted(bare)[_SMALL_CALLS // 2] * 1e6,
        )
    started = time.perf_counter()
    tracker.flush()
    values["flush_us"] = (time.perf_counter() - started) / (_SMALL_CALLS * len(_SMALL)) * 1e6
    source.unlink()
    return values


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("xb") as writing:
        while os.copy_file_range(reading.fileno(), writing.fileno(), 16 * _MIB):
            pass
        os.fsync(writing.fileno())


def _tracker(folder: str, durability: str = "process"):
    from journaltrack import Tracker

    return Tracker.create(
        trial_component_name=f"run-{os.getpid()}",
        journal=Path(folder, "journal"),
        durability=durability,  # type: ignore[arg-type] - comes as JSON
        sync="off",
    )
