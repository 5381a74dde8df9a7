"""What a long history of delivered entries costs the start of a pass: nothing. Counted in
SQLite's own steps, not in time.
"""

from __future__ import annotations

from contextlib import closing

from benchmarks import journals
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence.proof import Proof
from journaltrack.replay.reconciler import Options, Reconciler, dry_run


def steps_of(folder, work):
    """Hundreds of steps of SQLite's virtual machine
    (https://sqlite.org/c3ref/progress_handler.html).
    """
    counted = []
    with closing(Journal.open(folder, create=False)) as journal:
        journal.database.connection.set_progress_handler(lambda: counted.append(1), 100)
        work(journal)
        journal.database.connection.set_progress_handler(None, 0)
    return len(counted)


def after(tmp_path, delivered):
    """A journal of so many delivered metrics, and one that waits."""
    folder = tmp_path / f"after-{delivered}"
    journals.make(str(folder), delivered)
    journals.deliver(str(folder), whole=True)
    return folder


def test_what_is_pending_is_found_without_reading_what_was_delivered(tmp_path):
    """Twenty times the history, the same work, but for the depth of a tree."""
    few, many = (
        steps_of(
            after(tmp_path, n),
            lambda journal: list(dry_run(journal, Options(), Proof(journal.database))),
        )
        for n in (1_000, 20_000)
    )
    assert many <= few + 5


def test_a_pass_costs_what_is_pending(tmp_path):
    """The same of a whole pass over one pending metric, its anchor and the mark included."""
    remote = MemoryRemote()
    few, many = (
        steps_of(after(tmp_path, n), lambda journal: Reconciler(journal, remote).run())
        for n in (1_000, 20_000)
    )
    assert many <= few + 50
