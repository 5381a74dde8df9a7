"""A small journal in which everything has happened, and what of it is evidence; for attacks on
its verification.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.evidence.readback import ReadBack
from journaltrack.replay.reconciler import Options, Reconciler

EVIDENCE = {
    "entry": "seq, writer_id, writer_seq, component_id, stream, kind, name, value, step, "
    "timestamp_ns, payload, recorded_at_ns, digest",
    "writer": (
        "id, uuid, host, pid, user, program, started_at_ns, package_version, python_version, "
        "git_commit, git_dirty, packages, journal_id, digest, context"
    ),
    "component": "id, name, arn, confirmed_at_ns",
    "receipt": (
        "id, action, component_id, entries, generation, started_at_ns, finished_at_ns, outcome, "
        "attempts, request_id, error_code, error_text"
    ),
    "delivery": "seq, receipt_id, outcome, reason, settled_at_ns",
    "attestation": "writer_id, writer_seq, receipt_id, body, digest",
    "blob": "sha256, size_bytes",
    "location": "component_id, sha256, bucket, prefix, uri, receipt_id",
    "field": "component_id, map, key, seq",
    "meta": "journal_id, created_at_ns, created_by_version, required_version, "
    "attested_after_receipt, attested_after_ns, digest",
}
"""Everything but what docs/journal-format.md calls machinery, and receipts that are unfinished."""


class Moody(MemoryRemote):
    """Loses answers, refuses, and hides what it holds, as it is told to."""

    def __init__(self):
        super().__init__()
        self.lost = set()  # values of points whose request takes effect and has no answer
        self.swallowed = set()  # values of points whose request has neither
        self.refused = set()
        self.hides = False

    def put_metrics(self, component, points):
        """See ``Remote.put_metrics``."""
        values = {point.value for point in points}
        if values & self.refused:
            raise RemoteError(
                "it is not liked",
                kind=ErrorKind.PERMANENT,
                code="ValidationException",
                request_id="refusal",
            )
        answer = None if values & self.swallowed else super().put_metrics(component, points)
        if values & (self.lost | self.swallowed):
            raise RemoteError(
                "reset", kind=ErrorKind.TRANSIENT, code="ConnectionClosedError", maybe_applied=True
            )
        return answer

    def read_metrics(self, component, steps):
        """See ``Remote.read_metrics``."""
        return ReadBack() if self.hides else super().read_metrics(component, steps)


@dataclass
class Clock:
    """Goes on by a millisecond with every look, and by more when told to."""

    now_ns: int = 1_900_000_000_000_000_000

    def __call__(self):
        self.now_ns += 1_000_000
        return self.now_ns


def make(folder, *, pending=3):
    """Two writers; entries delivered, superseded, quarantined (by AWS and at once), released, in
    doubt, read back, decided, pending.

    Args:
        folder: Of the journal.
        pending: Points at the end that nobody has sent.
    """
    clock, remote = Clock(), Moody()
    with (
        closing(Journal.open(folder, clock_ns=clock)) as first,
        closing(Journal.open(folder, clock_ns=clock)) as second,
    ):

        def sync(**options):
            return Reconciler(
                first,
                remote,
                options=Options(concurrency=1, anchor="off", **options),
                clock_ns=clock,
            ).run()

        a, b = _begin_runs(first, second, clock)
        _artifact(first, a, "weights.bin", b"golden weights\n")
        remote.refused = {-5.0}
        first.append_metric(a, "refused", -5.0, 0, clock())
        sync()
        remote.lost, remote.swallowed = {100.0}, {200.0}
        for value in (100.0, 101.0):
            first.append_metric(a, "lost", value, None, clock())
        second.append_metric(b, "swallowed", 200.0, 1, clock())
        sync()
        remote.hides = True
        sync(visible_after_s=900.0)  # it says that nothing is there, and nobody believes it yet
        remote.hides, remote.lost, remote.swallowed = False, set(), set()
        clock.now_ns += 2_000_000_000_000
        sync(visible_after_s=900.0)  # one arrived, the other is sent again
        with closing(Journal.open(folder, clock_ns=clock)) as third:
            _artifact(third, a, "again.bin", b"golden weights\n")  # the same content
            _artifact(third, b, "other.bin", b"")
            third.append(
                a,
                [
                    vocabulary.parameter("x", 3),
                    vocabulary.status(primary="Completed", end_ns=clock()),
                ],
            )
        # refused at once, and left so
        second.append(b, [vocabulary.metric("never", float("inf"), None, clock())])
        sync()
        _decide(first, clock, b, ["delivered", "quarantined"])
        _release(first, clock, sync, remote, a)
        first.append_metric(a, "left", 7.0, 0, clock())
        _begin(first, clock, a)
        remote.hides = True
        sync(visible_after_s=900.0)  # the point is in doubt, and stays it
        for step in range(pending):
            first.append_metric(a, "pending", 0.5 + step, step, clock())
            second.append(b, [vocabulary.parameter(f"p{step}", "pending")])
        first.append_metric(a, "unfinished", 1.5, None, clock())
        _begin(first, clock, a)
    return folder


def _begin_runs(first, second, clock):
    """Record the beginning of a run by each writer, with texts, numbers and points of all kinds."""
    a, b = first.component("Run-A"), second.component("run-b")
    first.append(
        a,
        [
            vocabulary.create(owner="owner", tags={"team": "ü"}),
            vocabulary.parameter("x", 1.0),
            vocabulary.parameter("x", 2),
        ],
    )
    second.append(
        b,
        [
            vocabulary.create(owner="other"),
            vocabulary.associate(experiment="e", trial="t"),
            vocabulary.parameter("big", 2**70 + 1),
        ],
    )
    first.append(
        a,
        [
            vocabulary.parameter("text", 'quo"te\\ \u2028 \U0001f600 \ufffd'),
            vocabulary.status(primary="InProgress", start_ns=clock()),
        ],
    )
    first.append(
        a,
        [
            vocabulary.metric("nan", float("nan"), 1, clock()),
            vocabulary.metric("zero", -0.0, None, clock()),
        ],
    )
    for step in range(8):
        (first, second)[step % 2].append_metric(
            (a, b)[step % 2], "loss", 1.0 / (step + 1), step, clock()
        )
    return a, b


def _artifact(journal, component, name, content):
    source = journal.path.parent / name
    source.write_bytes(content)
    blob = Spool(journal.path / "spool").add(source)
    source.unlink()
    journal.add_blob(blob.sha256, blob.size_bytes)
    ref = BlobRef(blob.sha256, None, "models")
    media = "application/octet-stream"
    journal.append(
        component,
        [
            vocabulary.upload(name, ref, blob.size_bytes, media, name),
            vocabulary.artifact("output", name, ref, media),
        ],
    )


def _begin(journal, clock, component):
    """A request for the last point, whose process was killed."""
    held = lease.acquire(journal.database, clock_ns=clock)
    Settlement(journal.database, held, clock).begin(
        [Intent("metrics", component, [journal.last_seq()])]
    )
    held.release()


def _decide(journal, clock, component, outcomes):
    """A person decides about points whose request was cut short."""
    for outcome in outcomes:
        journal.append_metric(component, "decided", 9.0, None, clock())
        _begin(journal, clock, component)
        held = lease.acquire(journal.database, clock_ns=clock)
        Settlement(journal.database, held, clock).recover()
        in_doubt.decide(
            Attestor(journal.database, held, clock),
            outcome,
            "as the lab's notebook says",
            [component],
        )
        held.release()


def _release(journal, clock, sync, remote, component):
    """What was refused is accepted at last."""
    held = lease.acquire(journal.database, clock_ns=clock)
    assert Settlement(journal.database, held, clock).release(["quarantined"], [component])
    held.release()
    remote.refused = set()
    sync()


def content(path):
    """Everything that is evidence, as plain sqlite3 reads it from one file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        connection.text_factory = bytes
        found = {}
        for table, columns in EVIDENCE.items():
            where = "WHERE finished_at_ns IS NOT NULL" if table == "receipt" else ""
            rows = connection.execute(
                f"SELECT {columns} FROM {table} {where} "
                f"ORDER BY {'id' if table == 'attestation' else 1}"
            )
            # repr: -0.0 is not 0.0, and 1 not 1.0
            found[table] = [tuple(map(repr, row)) for row in rows]
        return found


def used(image):
    """Which bytes of a database file mean something: all but those between the cells' pointers and
    the cells of each page.

    https://sqlite.org/fileformat2.html#b_tree_pages; pages of other types (overflow, free) count as
    a whole.
    """
    size = int.from_bytes(image[16:18], "big")
    places = []
    for begin in range(0, len(image), size):
        head = begin + (100 if begin == 0 else 0)
        if image[head] in {2, 5, 10, 13}:
            count, cells = (
                int.from_bytes(image[head + at : head + at + 2], "big") for at in (3, 5)
            )
            pointers = head + (12 if image[head] in {2, 5} else 8) + 2 * count
            places += [*range(begin, pointers), *range(begin + (cells or 65536), begin + size)]
        else:
            places += range(begin, begin + size)
    return places
