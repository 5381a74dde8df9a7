"""Make the golden journal of the current revision: ``python -m tests.golden``; refuses to change
one that is there.

Run it once, with the code of the release that makes the revision. Times come from a clock of its
own; only process facts vary.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from journaltrack.journal import provenance, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.schema import schema
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from tests.golden import HERE

BEGINNING_NS = 1_760_000_000_000_000_000


def make(folder: Path) -> None:
    """A delivered component, a pending one with every kind of entry, a refused value, an
    unfinished request, a dead process's lease.
    """
    ticks = itertools.count(1)

    def clock() -> int:
        return BEGINNING_NS + next(ticks) * 1_000_000

    provenance.ask()
    with closing(Journal.open(folder, clock_ns=clock)) as journal:
        a, b = journal.component("a"), journal.component("b")
        journal.append(a, [vocabulary.create(owner="owner of a", display_name="First")])
        journal.append(
            b,
            [
                vocabulary.create(owner="owner of b", tags={"team": "x"}),
                vocabulary.associate(experiment="exp", trial="trial-1"),
            ],
        )
        journal.append(
            a,
            [
                vocabulary.parameter("x", 7.0),
                vocabulary.status(primary="InProgress", start_ns=clock()),
            ],
        )
        for step in range(12):
            journal.append_metric(a, "g", 1000.0 + step, step, clock())
        Reconciler(
            journal, MemoryRemote(), options=Options(component="a", concurrency=1), clock_ns=clock
        ).run()
        (folder / "weights.bin").write_bytes(b"golden weights\n")
        blob = Spool(folder / "spool").add(folder / "weights.bin")
        (folder / "weights.bin").unlink()
        journal.add_blob(blob.sha256, blob.size_bytes)
        ref = BlobRef(blob.sha256, None, "models")
        drafts = [
            vocabulary.parameter("x", "text ü"),
            vocabulary.parameter("y", 3),
            vocabulary.parameter("big", 2**70 + 1),
            vocabulary.artifact("input", "data", "s3://b/k", "text/csv"),
            vocabulary.upload(
                "weights.bin", ref, blob.size_bytes, "application/octet-stream", "weights.bin"
            ),
            vocabulary.artifact("output", "weights.bin", ref, "application/octet-stream"),
            vocabulary.status(
                primary="Failed", message="boom", end_ns=clock(), traceback="Traceback\n  line"
            ),
        ]
        journal.append(b, drafts)
        journal.append(
            b,
            [
                vocabulary.metric("g", 2000.0, 0, clock()),
                vocabulary.metric("g", float("nan"), 1, clock()),
            ],
        )
        journal.append(b, [vocabulary.metric("g", 2001.0, None, clock())])
        for step in range(100, 105):
            journal.append_metric(a, "g", 1000.0 + step, step, clock())
        lease = leases.acquire(journal.database, clock_ns=clock)
        first = journal.last_seq() - 4
        Settlement(journal.database, lease, clock).begin(
            [Intent("metrics", a, range(first, first + 5))]
        )


def main() -> int:
    """Write the folder of the current revision."""
    target = HERE / schema.HEAD
    if target.exists():
        sys.stderr.write(f"{target} is there already\n")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "journal")
        make(folder)
        with closing(sqlite3.connect(folder / "journal.db")) as connection:
            text = "\n".join(connection.iterdump()) + "\n"
        target.mkdir()
        (target / "journal.sql").write_text(text, encoding="utf-8")
        shutil.copytree(folder / "spool", target / "spool")
    return 0


if __name__ == "__main__":
    sys.exit(main())
