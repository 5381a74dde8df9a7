"""Large artifacts to a store that discards them: ours, verified part by part, against every
configuration of boto3's own transfer. Clients are made, and have a connection, before the clock
starts: a sync makes them once.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.discard_server import DiscardServer, discard_server
from benchmarks.measure import (
    Result,
    Run,
    Side,
    Values,
    child,
    compare,
    own_use,
    sha256_of,
    take_turns,
)

RATIO_MIN = 0.95
CPU_RATIO_MAX = 1.0
_MIB = 1 << 20
TRANSFERS: dict[str, dict[str, Any]] = {
    "boto3, as it comes": {},
    "boto3, 1 thread": {"use_threads": False},
    "boto3, 4 threads": {"max_concurrency": 4},
    "boto3, 20 threads": {"max_concurrency": 20},
    "boto3, 4 threads, parts of 64 MiB": {"max_concurrency": 4, "multipart_chunksize": 64 * _MIB},
    "boto3, put_object": {"multipart_threshold": 5 << 30, "use_threads": False},
}
AS_SAFE = "boto3, 4 threads, parts of 64 MiB, SHA-256 of each part"
"""boto3 verifies CRCs by default. This is the fastest of its ways that has S3 verify SHA-256;
the whole is not hashed there, either.
"""


def run(options: Run) -> list[Result]:
    """Of both sizes, or of the smaller one."""
    sizes = [options.size(128 * _MIB, 128 * _MIB)]
    if not options.quick:
        sizes.append(options.size(1 << 30, 0))
    return [result for size_bytes in sizes for result in _of_size(options, size_bytes)]


def _of_size(options: Run, size_bytes: int) -> list[Result]:
    """All sides in turn."""
    path = options.folder / "upload.bin"
    child("benchmarks.uploads:make", path=str(path), size_bytes=size_bytes)
    try:
        with discard_server() as server:
            given = {"path": str(path), "endpoint_url": server.endpoint_url}
            sides = [
                Side(name, "benchmarks.uploads:theirs", {**given, "transfer": transfer})
                for name, transfer in TRANSFERS.items()
            ]
            safe = {
                "transfer": TRANSFERS["boto3, 4 threads, parts of 64 MiB"],
                "checksum": "SHA256",
            }
            sides.append(Side(AS_SAFE, "benchmarks.uploads:theirs", {**given, **safe}))
            sides.append(Side("ours", "benchmarks.uploads:ours", given))
            values = _counted(server, sides, options.rounds, size_bytes)
    finally:
        path.unlink()
    return _results(values, f"upload of {size_bytes // _MIB:,} MiB")


def _results(values: dict[str, list[Values]], what: str) -> list[Result]:
    """Compare ours with the best of boto3's, with the one as safe, and each of those with it.

    The best is the way with the highest median. The fastest run of each round would be the luckiest
    of six, and ours has one.
    """
    rates = {name: [v["mib_per_s"] for v in runs] for name, runs in values.items()}
    best_name = max(TRANSFERS, key=lambda name: statistics.median(rates[name]))
    best, mine = rates[best_name], rates["ours"]
    results = [
        compare(
            "uploads",
            what,
            "MiB/s",
            mine,
            best,
            floor_name=best_name,
            target=RATIO_MIN,
            better="higher",
        )
    ]
    results.append(
        compare(
            "uploads",
            f"{what}, against the same checksums",
            "MiB/s",
            mine,
            rates[AS_SAFE],
            floor_name=AS_SAFE,
            better="higher",
        )
    )
    results += [
        compare(
            "uploads",
            f"{what}, {name}, to the best",
            "MiB/s",
            rates[name],
            best,
            floor_name=best_name,
            better="higher",
        )
        for name in TRANSFERS
    ]
    cpu = [[v["cpu_ms_per_mib"] for v in values[name]] for name in ("ours", best_name)]
    results.append(
        compare(
            "uploads",
            f"{what}, CPU of a MiB",
            "ms",
            *cpu,
            floor_name=best_name,
            target=CPU_RATIO_MAX,
        )
    )
    results.append(
        compare("uploads", f"{what}, peak memory", "MiB", [v["rss_mib"] for v in values["ours"]])
    )
    return results


def _counted(
    server: DiscardServer, sides: list[Side], rounds: int, size_bytes: int
) -> dict[str, list[Values]]:
    """Take turns, and see that all of the file came each time."""
    values: dict[str, list[Values]] = {side.name: [] for side in sides}
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            before = server.counted_bytes()
            values[side.name] += take_turns([side], 1)[side.name]
            if server.counted_bytes() - before < size_bytes:
                msg = f"{side.name} did not send all of it"
                raise RuntimeError(msg)
    return values


def make(path: str, size_bytes: int) -> Values:
    """A file of bytes that do not compress."""
    with Path(path).open("wb") as file:
        left = size_bytes
        while left > 0:
            left -= file.write(os.urandom(min(left, 16 * _MIB)))
    return {"bytes": float(size_bytes)}


def theirs(
    path: str, endpoint_url: str, transfer: dict[str, Any], checksum: str | None = None
) -> Values:
    """boto3's ``upload_file``, with its own choice of checksum if none is named."""
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client("s3", endpoint_url=endpoint_url)
    client.put_object(Bucket="bucket", Key="small", Body=b"small")
    config = TransferConfig(**transfer)
    cpu_s, started = own_use()["cpu_s"], time.perf_counter()
    client.upload_file(
        path,
        "bucket",
        "key",
        Config=config,
        ExtraArgs={"ChecksumAlgorithm": checksum} if checksum else None,
    )
    return _rate(path, started, cpu_s)


def ours(path: str, endpoint_url: str) -> Values:
    """``AwsRemote.upload``, as a sync calls it; the digests of the file and its parts were computed
    when it was logged.
    """
    from journaltrack.remotes.aws.remote import AwsRemote
    from journaltrack.replay.remote import BlobUpload
    from journaltrack.util.digest import PartHasher

    sha256 = sha256_of(path)
    hasher = PartHasher(Path(path).stat().st_size)
    with Path(path).open("rb") as file:
        while data := file.read(_MIB):
            hasher.update(memoryview(data))
    folder = Path(path).with_suffix(".notes")
    folder.mkdir(exist_ok=True)
    remote = AwsRemote(endpoint_url=endpoint_url)
    blob = BlobUpload(
        Path(path),
        sha256,
        Path(path).stat().st_size,
        "run",
        "model.bin",
        bucket="bucket",
        scratch=folder,
        parts=hasher.result(),
    )
    small = Path(path).with_suffix(".small")
    small.write_bytes(b"small")
    remote.upload(
        replace(blob, path=small, sha256=sha256_of(str(small)), size_bytes=5, name="small")
    )
    small.unlink()
    cpu_s, started = own_use()["cpu_s"], time.perf_counter()
    remote.upload(blob)
    values = _rate(path, started, cpu_s)
    folder.rmdir()
    return values


def _rate(path: str, started: float, cpu_s: float) -> Values:
    took_s, mib = time.perf_counter() - started, Path(path).stat().st_size / _MIB
    return {"mib_per_s": mib / took_s, "cpu_ms_per_mib": (own_use()["cpu_s"] - cpu_s) * 1e3 / mib}
