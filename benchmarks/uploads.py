"""Uploading one large blob to an endpoint that discards it, against boto3's own ways of doing that; in the same rounds.

The floor of a round is whatever configuration of boto3 was fastest in that round: its own choice of part sizes, threads, or one request.
boto3 verifies with CRC32 alone; ours hashes every byte twice more, for its part and for the whole (see ADR 0022).
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.discard_server import discard_server
from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

RATIO_MIN = 0.95
RSS_MIB_MAX = 200.0
FLOOR = "boto3, the best of its configurations"
OURS = "multipart of our own"
_MIB = 1 << 20
_THREADS = (1, 4, 10, 20)
_PARTS_MIB = (8, 16, 64)


def run(options: Run) -> list[Result]:
    """A blob in the page cache, uploaded in turns by ours and by each configuration of boto3."""
    size_bytes = options.size(1024 * _MIB, 128 * _MIB)
    folder = options.folder / "uploads"
    child("benchmarks.uploads:make", folder=str(folder), size_bytes=size_bytes)
    what = f"a blob of {size_bytes // _MIB:,} MiB"
    try:
        with discard_server() as server:
            arguments = {"path": str(folder / "ab" / "blob"), "endpoint_url": server.endpoint_url}
            sides = [Side(OURS, "benchmarks.uploads:ours", arguments)]
            for threads in _THREADS:
                for part_mib in _PARTS_MIB:
                    theirs = {**arguments, "threads": threads, "part_mib": part_mib}
                    sides.append(Side(f"boto3, {threads} threads, parts of {part_mib} MiB", "benchmarks.uploads:boto", theirs))
            for part_mib in _PARTS_MIB:
                theirs = {**arguments, "threads": 0, "part_mib": part_mib}
                sides.append(Side(f"boto3, no threads, parts of {part_mib} MiB", "benchmarks.uploads:boto", theirs))
            sides.append(Side("boto3, put_object", "benchmarks.uploads:put_object", arguments))
            values = take_turns(sides, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _results(values, what)


def _results(values: dict[str, list[Values]], what: str) -> list[Result]:
    mine = values[OURS]
    theirs = {name: of for name, of in values.items() if name != OURS}
    transfers = {name: of for name, of in theirs.items() if "put_object" not in name}
    best = [max(of[number]["mib_per_s"] for of in transfers.values()) for number in range(len(mine))]
    median = max(transfers, key=lambda name: sorted(v["mib_per_s"] for v in transfers[name])[len(mine) // 2])
    rates = [v["mib_per_s"] for v in mine]

    def against(title: str, name: str, target: float | None = None) -> Result:
        floor = [v["mib_per_s"] for v in theirs[name]]
        return compare("uploads", title, "MiB/s", rates, floor, floor_name=name, target=target, better="higher")

    return [
        against(f"{what}, by the configuration that is best at the median", median, RATIO_MIN),
        compare("uploads", f"{what}, by the best of each round", "MiB/s", rates, best, floor_name=FLOOR, better="higher"),
        against(f"{what}, by one request (not resumable)", "boto3, put_object"),
        compare(
            "uploads",
            f"{what}: CPU",
            "s",
            [v["upload_cpu_s"] for v in mine],
            [v["upload_cpu_s"] for v in theirs[median]],
            floor_name=median,
        ),
        compare("uploads", f"{what}: peak memory", "MiB", [v["rss_mib"] for v in mine], target=RSS_MIB_MAX),
    ]


def make(folder: str, size_bytes: int) -> Values:
    """A blob as a spool holds it."""
    path = Path(folder, "ab", "blob")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for start in range(0, size_bytes, _MIB):
            file.write(os.urandom(min(_MIB, size_bytes - start)))
        os.fsync(file.fileno())
    return {"size_bytes": float(size_bytes)}


def ours(path: str, endpoint_url: str) -> Values:
    """``AwsRemote.upload``, as a pass calls it."""
    import hashlib

    from journaltrack.remote import BlobUpload
    from journaltrack.remotes.aws import AwsRemote

    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_MIB):
            digest.update(block)
    size_bytes = Path(path).stat().st_size
    remote = AwsRemote(session=_session(), endpoint_url=endpoint_url)
    blob = BlobUpload(Path(path), digest.hexdigest(), size_bytes, "benchmark", "model.bin", "bucket", scratch=Path(path).parent)
    remote.find_object("s3://bucket/none")  # clients are made and connected
    return _timed(lambda: remote.upload(blob), size_bytes)


def boto(path: str, endpoint_url: str, threads: int, part_mib: int) -> Values:
    """boto3's upload_file; 0 threads: ``use_threads=False``."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(
        multipart_threshold=8 * _MIB, multipart_chunksize=part_mib * _MIB, max_concurrency=max(1, threads), use_threads=threads > 0
    )
    s3 = _client(endpoint_url)
    return _timed(lambda: s3.upload_file(path, "bucket", "key", Config=config), Path(path).stat().st_size)


def put_object(path: str, endpoint_url: str) -> Values:
    """One request, the file as its body."""
    s3 = _client(endpoint_url)
    with Path(path).open("rb") as body:
        return _timed(lambda: s3.put_object(Bucket="bucket", Key="key", Body=body), Path(path).stat().st_size)


def _timed(upload: Any, size_bytes: int) -> Values:
    cpu_s, started = time.process_time(), time.perf_counter()
    upload()
    wall_s = time.perf_counter() - started
    return {"mib_per_s": size_bytes / _MIB / wall_s, "upload_cpu_s": time.process_time() - cpu_s}


def _session() -> Any:
    import boto3

    return boto3.Session(region_name="us-east-1", aws_access_key_id="AKIABENCHMARK", aws_secret_access_key="benchmark")


def _client(endpoint_url: str) -> Any:
    from botocore.config import Config

    s3 = _session().client(
        "s3",
        endpoint_url=endpoint_url,
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=20, retries={"total_max_attempts": 1}),
    )
    s3.head_bucket(Bucket="bucket")
    return s3
