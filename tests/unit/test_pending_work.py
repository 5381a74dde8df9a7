"""What waits in a journal, told by reading alone; and what a pass says of itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.errors import ErrorKind, JournalNotFoundError, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.replay import lease
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.pass_report import PassReport, Position, look
from journaltrack.replay.plan.actions import Settle
from tests.builders import tracked


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal: what waits in it is told from outside."""
    return tracked(tmp_path, steps=10, artifact=b"weights")


ENTRIES = 15  # what `tracked` records, with the run's start and end


def settled(folder, seqs):
    """Settle entries as a pass does."""
    opened = Journal.open(folder, create=False)
    held = lease.acquire(opened.database)
    settlement = Settlement(opened.database, held)
    settlement.settle([Settle(1, tuple(seqs), "quarantined", "for the test")])
    held.release()
    return opened


def test_it_counts_what_is_pending(journal):
    """Pending entries are counted as they are settled; nothing is work when all are."""
    assert look(journal).pending == ENTRIES
    settled(journal, range(1, 6)).close()
    assert look(journal).pending == ENTRIES - 5
    settled(journal, range(6, ENTRIES + 1)).close()
    work = look(journal)
    assert (work.pending, work.any) == (0, False)


def test_a_position_moves_with_every_entry_and_every_release(journal):
    """A new entry and a person's release are new positions; settling, and looking, are none."""
    first = look(journal).position
    opened = settled(journal, range(1, ENTRIES + 1))
    assert look(journal).position == first
    held = lease.acquire(opened.database)
    assert Settlement(opened.database, held).release(["quarantined"]) == ENTRIES
    held.release()
    released = look(journal).position
    assert released.receipt_id > first.receipt_id
    assert released.seq == first.seq
    opened.append_metric(opened.component("run"), "loss", 1.0, 1, 1)
    assert look(journal).position.seq > first.seq
    opened.close()


def test_requests_of_a_killed_pass_are_work(journal):
    """An unfinished receipt is something to do, although every entry may be settled."""
    opened = settled(journal, range(1, ENTRIES + 1))
    assert not look(journal).any
    held = lease.acquire(opened.database)
    Settlement(opened.database, held).begin([Intent("metrics", 1, [1])])
    held.release()
    assert look(journal).any
    opened.close()


def test_artifacts_that_are_not_there_are_counted_when_asked_for(journal):
    """A copy without its spool lacks them; settled uploads need nothing."""
    assert look(journal).missing_blobs is None
    assert look(journal, blobs=True).missing_blobs == 0
    shutil.rmtree(journal / "spool")
    assert look(journal, blobs=True).missing_blobs == 1
    settled(journal, range(1, ENTRIES + 1)).close()
    assert look(journal, blobs=True).missing_blobs == 0


def test_looking_changes_nothing(journal):
    """The database's bytes are the same after a look, and no lease was taken."""
    before = (journal / "journal.db").read_bytes()
    look(journal, blobs=True)
    assert (journal / "journal.db").read_bytes() == before
    assert not (journal / "reconcile.lock").exists()


def test_where_there_is_no_journal_it_says_so(tmp_path):
    """A look at nothing is an error, and makes nothing."""
    with pytest.raises(JournalNotFoundError):
        look(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


errors = st.none() | st.builds(
    RemoteError,
    st.text(),
    kind=st.sampled_from(ErrorKind),
    code=st.text(),
    hint=st.text(),
    request_id=st.none() | st.text(),
    maybe_applied=st.booleans(),
    unreachable=st.booleans(),
    uploads_only=st.booleans(),
    everywhere=st.booleans(),
    throttled=st.booleans(),
)
counts = st.integers(0, 10**9)


@pytest.mark.slow
@given(
    st.builds(
        PassReport,
        delivered=counts,
        pending=counts,
        held=st.dictionaries(st.text(), errors.filter(bool), max_size=3),
        halted=errors,
        uploads_halted=errors,
        failed=errors,
        out_of_time=st.booleans(),
        duration_s=st.floats(0, 1e6),
        position=st.none() | st.builds(Position, counts, counts),
    )
)
def test_a_report_is_all_there_in_json(report):
    """Every part of a report is in its JSON, errors with all that is known of them."""
    told = json.loads(json.dumps(report.to_json()))
    assert told.keys() == {each.name for each in fields(report)}
    assert told["position"] == (None if report.position is None else list(report.position))
    for error, text in [
        (report.halted, told["halted"]),
        *((report.held[name], text) for name, text in told["held"].items()),
    ]:
        assert (
            text is None
            if error is None
            else text.items()
            >= {"message": error.message, "code": error.code, "hint": error.hint}.items()
        )
