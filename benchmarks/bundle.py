"""Bundling: bytes a second from a journal into one file on the same disk, against a plain copy
of the spool into one file, with fsync.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from benchmarks.measure import Result, Run, Side, Values, child, compare, take_turns

RATIO_MIN = 0.8
RSS_MIB_MAX = 150.0
BLOB_MB = 100
FLOOR = "plain copy and fsync"


def run(options: Run) -> list[Result]:
    """A spool of so many megabytes, packed in turns with copies of it; then the checks of the
    bundle.
    """
    megabytes = options.size(5_000, 500)
    folder = options.folder / "bundle"
    child("benchmarks.bundle:make", folder=str(folder / "journal"), megabytes=megabytes)
    arguments = {"folder": str(folder / "journal"), "output": str(folder / "copied")}
    sides = [
        Side(FLOOR, "benchmarks.bundle:bare", arguments),
        Side("bundle", "benchmarks.bundle:ours", arguments),
    ]
    try:
        values = take_turns(sides, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    floor = [v["mb_per_s"] for v in values[FLOOR]]
    mine = [v["mb_per_s"] for v in values["bundle"]]
    what = f"{megabytes:,} MB of artifacts"
    return [
        compare(
            "bundle",
            f"{what} into one file",
            "MB/s",
            mine,
            floor,
            floor_name=FLOOR,
            target=RATIO_MIN,
            better="higher",
        ),
        compare(
            "bundle",
            f"{what}: proving the bundle",
            "MB/s",
            [v["check_mb_per_s"] for v in values["bundle"]],
        ),
        compare(
            "bundle",
            f"{what}: peak memory",
            "MiB",
            [v["rss_mib"] for v in values["bundle"]],
            target=RSS_MIB_MAX,
        ),
    ]


def make(folder: str, megabytes: int) -> Values:
    """A journal with pending uploads: bytes that do not compress, stored without being hashed
    twice.
    """
    from journaltrack.journal import vocabulary
    from journaltrack.journal.journal import Journal

    journal = Journal.open(Path(folder), create=True)
    component_id = journal.component("benchmark")
    journal.append(component_id, [vocabulary.create(owner="benchmark-owner")])
    left, number = megabytes, 0
    while left > 0:
        size = min(left, BLOB_MB)
        data = os.urandom(size * 1_000_000)
        sha256 = hashlib.sha256(data).hexdigest()
        path = Path(folder, "spool", sha256[:2], sha256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        journal.add_blob(sha256, len(data))
        journal.append(
            component_id,
            [
                vocabulary.upload(
                    f"a{number}",
                    vocabulary.BlobRef(sha256, None, None),
                    len(data),
                    None,
                    f"a{number}",
                )
            ],
        )
        left -= size
        number += 1
    journal.close()
    os.sync()
    return {"megabytes": megabytes}


def ours(folder: str, output: str) -> Values:
    """``journaltrack.bundle``, imports done; how long it takes until the file is on the disk and
    has its name.
    """
    from journaltrack import bundle, open_bundle

    started = time.perf_counter()
    made = bundle(folder, to=output)
    packed_s = time.perf_counter() - started
    started = time.perf_counter()
    with open_bundle(output) as opened:
        opened.verify()
    checked_s = time.perf_counter() - started
    Path(output).unlink()
    os.sync()
    return {
        "mb_per_s": made.size_bytes / 1e6 / packed_s,
        "check_mb_per_s": made.size_bytes / 1e6 / checked_s,
    }


def bare(folder: str, output: str) -> Values:
    """Every blob appended to one file, by the kernel's fastest call for it, and one fsync at the
    end.
    """
    paths = sorted(Path(folder, "spool").glob("*/*"))
    size_bytes = 0
    started = time.perf_counter()
    with Path(output).open("wb") as target:
        for path in paths:
            with path.open("rb") as source:
                while count := os.sendfile(target.fileno(), source.fileno(), None, 1 << 30):
                    size_bytes += count
        os.fsync(target.fileno())
    copied_s = time.perf_counter() - started
    Path(output).unlink()
    os.sync()
    return {"mb_per_s": size_bytes / 1e6 / copied_s}
