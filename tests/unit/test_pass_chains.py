"""Transactions of a pass that fail in its midst: what was recorded before and is recorded after
is one chain that proves itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from journaltrack.errors import JournalError
from journaltrack.replay import lease as leases
from journaltrack.replay import reconciler
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.reconciler import Options, Reconciler
from tests.builders import CREATION, points
from tests.copies import verify_chains
from tests.failing_remote import FailingRemote

# It has no patience with locks.
pytestmark = pytest.mark.journal({"run": [CREATION, *points(40)]}, busy_timeout_s=0.05)


class Trouble:
    """A disk that is full, or another process that holds the lock, for as long as one likes."""

    def __init__(self, journal, kind):
        self._connection = journal.database.connection
        self._other = sqlite3.connect(
            journal.path / "journal.db", isolation_level=None, check_same_thread=False
        )
        self._kind = kind

    def begin(self):
        if self._kind == "full":
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            self._connection.execute(f"PRAGMA max_page_count = {pages}")
        else:
            self._other.execute("BEGIN IMMEDIATE")

    def end(self):
        if self._kind == "full":
            self._connection.execute("PRAGMA max_page_count = 1073741823")
        elif self._other.in_transaction:
            self._other.execute("ROLLBACK")

    def close(self):
        self._other.close()


@pytest.fixture(params=["full", "locked"])
def trouble(journal, request):
    """Of either kind."""
    with closing(Trouble(journal, request.param)) as made:
        yield made


def attested(journal):
    """The numbers of all attestations, by writer."""
    rows = journal.database.read(
        "SELECT writer_id, writer_seq FROM attestation ORDER BY writer_id, writer_seq"
    )
    return {writer: [place for other, place in rows if other == writer] for writer, _ in rows}


def test_what_is_recorded_after_a_failed_transaction_continues_the_chain(journal, trouble):
    """An outcome that could not be recorded at first is recorded by the same process later: no
    link is missing, none is there twice.
    """
    held = leases.acquire(journal.database)
    records = Settlement(journal.database, held)
    for first in range(1, 40, 10):
        seqs = range(first, first + 10)
        (receipt,) = records.begin([Intent("metrics", 1, seqs)])
        # Of such a size that the disk is full when the attestation is written, which is last.
        outcome = Outcome(
            receipt,
            1,
            "delivered",
            request_id="r",
            delivered=tuple(seqs),
            more={"note": "x" * 20_000},
        )
        trouble.begin()
        with pytest.raises(JournalError):
            records.finish([outcome])
        trouble.end()
        records.finish([outcome])
    held.release()
    assert [*attested(journal).values()] == [[1, 2, 3, 4]]
    assert verify_chains(journal) == []


def test_a_pass_that_could_not_record_an_answer_leaves_whole_chains(journal, trouble, monkeypatch):
    """The disk is full, or locked, when answers come: whatever the pass does then, afterwards
    each point is there once and every chain holds.
    """
    monkeypatch.setattr(reconciler, "RECORD_FOR_S", 1.0)  # the lock outlasts any patience
    remote = FailingRemote()

    def begin_trouble_once():
        remote.beside.clear()
        trouble.begin()

    remote.beside["put_metrics"] = begin_trouble_once
    with contextlib.suppress(JournalError):
        Reconciler(journal, remote, options=Options(concurrency=2)).run()
    trouble.end()
    for _ in range(2):
        Reconciler(journal, remote, options=Options(visible_after_s=0.0)).run()
    assert Counter(point.value for point in remote.components["run"].points) == Counter(
        map(float, range(40))
    )
    assert journal.database.read("SELECT outcome, count(*) FROM delivery GROUP BY outcome") == [
        ("delivered", 41)
    ]
    assert verify_chains(journal) == []
