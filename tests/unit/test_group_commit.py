"""Threads that wait for the disk share the wait, and each call means what it means alone."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from journaltrack import entries as vocabulary
from journaltrack.errors import JournalLockedError
from journaltrack.group_commit import Call, GroupCommit
from journaltrack.journal import Journal
from journaltrack.report_integrity import verify_chains


class Slow:
    """Writes when it is told to."""

    def __init__(self):
        self.groups = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def __call__(self, calls):
        self.groups.append([call.payload for call in calls])
        self.begun.release()
        self.may_end.acquire()
        for call in calls:
            call.done = True


def test_calls_that_wait_are_written_together():
    """While the first one is under way, five others come: they are one group."""
    write, lock = Slow(), threading.RLock()
    group = GroupCommit(write)
    threads = [threading.Thread(target=group.run, args=(Call(number, 0), lock)) for number in range(6)]
    threads[0].start()
    write.begun.acquire()
    for thread in threads[1:]:
        thread.start()
    while len(group._calls) < 6:
        pass
    write.may_end.release(2)
    for thread in threads:
        thread.join()
    assert [len(each) for each in write.groups] == [1, 5]
    assert sorted(payload for each in write.groups for payload in each) == [0, 1, 2, 3, 4, 5]
    assert not group._calls


def test_each_thread_gets_the_error_of_its_group():
    """An exception of its own, of the same kind."""
    lock, seen = threading.RLock(), []

    def refuse(calls):
        for call in calls:
            call.error = JournalLockedError("no", hint="wait")
            call.done = True

    group = GroupCommit(refuse)

    def call(number):
        with pytest.raises(JournalLockedError, match="no") as raised:
            group.run(Call(number, 0), lock)
        seen.append(raised.value)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(error) for error in seen}) == 4


def test_calls_of_the_parents_threads_are_not_a_forked_childs():
    """It writes its own alone."""
    written = []

    def write(calls):
        written.extend(call.payload for call in calls)
        for call in calls:
            call.done = True

    group = GroupCommit(write)
    group._calls.append(Call("the parent's", 0))
    group.run(Call("the child's", 1), threading.RLock())
    assert written == ["the child's"]
    assert not group._calls


def test_threads_share_transactions(tmp_path):
    """Sixteen threads log at once: everything is there, in whole calls, the chain holds, and there were fewer transactions than calls."""
    with closing(Journal.open(tmp_path / "journal", durability="power")) as journal:
        component = journal.component("run")
        transactions = []
        journal.database.connection.set_trace_callback(lambda sql: transactions.append(sql) if sql.startswith("COMMIT") else None)
        ready = threading.Barrier(16)

        def log(number):
            ready.wait()
            for each in range(20):
                journal.append(component, [vocabulary.metric(f"{number}", float(each), part, 1) for part in range(2)])

        threads = [threading.Thread(target=log, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = journal.entries(limit=10**6)
        assert len(found) == 16 * 20 * 2
        for number in range(16):
            own = [(entry.value, entry.step) for entry in found if entry.name == f"{number}"]
            assert own == [(float(each), part) for each in range(20) for part in range(2)]
        assert len(transactions) < 16 * 20
    assert verify_chains(tmp_path / "journal") == []


def test_a_refused_group_is_not_recorded(tmp_path):
    """With on_journal_error="raise" every thread's call raises, nothing of them is there, and the next one goes on."""
    with closing(Journal.open(tmp_path / "journal", durability="power", on_journal_error="raise", busy_timeout_s=0.05)) as journal:
        component = journal.component("run")
        journal.append_metric(component, "m", 0.0, None, 1)
        raised = []

        def log(number):
            try:
                journal.append_metric(component, "m", float(number), None, 1)
            except JournalLockedError:
                raised.append(number)

        with closing(sqlite3.connect(tmp_path / "journal" / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            threads = [threading.Thread(target=log, args=(number,)) for number in range(1, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(raised) == [1, 2, 3, 4]
        journal.append_metric(component, "m", 9.0, None, 1)
        assert [entry.value for entry in journal.entries()] == [0.0, 9.0]
    assert verify_chains(tmp_path / "journal") == []
