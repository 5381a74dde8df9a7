"""The log is written back beside those who append: it stays bounded, and no append does it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import sys
import threading
import time
from contextlib import closing

import pytest

from journaltrack.errors import JournalError, JournalLockedError
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.checkpoint import (
    CHECKPOINT_ENTRIES,
    LOG_PAGES_MAX,
    Checkpointer,
    write_back,
)
from tests.patience import FOREVER_S

# Its clock moves by a millisecond a call: an append in 250 looks after its files.
pytestmark = pytest.mark.journal(clock_ns=itertools.count(10**18, 1_000_000).__next__)


def fill(journal, count):
    """So many appends."""
    component = journal.component("run")
    for number in range(count):
        journal.append_metric(component, "m", float(number), None, 1)


def until(true):
    """Wait for another thread's work, for a minute at most."""
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends
        os.sched_yield()


def in_database(journal):
    """Entries that the database holds by itself, without its log."""
    with closing(sqlite3.connect(f"file:{journal.path}/journal.db?immutable=1", uri=True)) as alone:
        try:
            return alone.execute("SELECT count(*) FROM entry").fetchone()[0]
        except sqlite3.DatabaseError:  # read while it is being written: without locks
            return 0


def log_state(journal):
    """Pages in the log, and how many of them are in the database, as another connection sees
    them.
    """
    with closing(sqlite3.connect(journal.path / "journal.db", isolation_level=None)) as connection:
        return connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1:]


@pytest.mark.parametrize("forked", [False, True])
def test_an_append_never_writes_the_log_back(journal, monkeypatch, forked):
    """Without the thread it only grows, where SQLite by itself would begin it anew after 1,000
    pages; also on the connection that a fork makes necessary.
    """
    monkeypatch.setattr(Checkpointer, "wake", lambda _self: None)
    fill(journal, 1)
    if forked:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    fill(journal, 3 * CHECKPOINT_ENTRIES)
    size = (journal.path / "journal.db-wal").stat().st_size
    assert size > 3 * CHECKPOINT_ENTRIES * 4096


def test_the_log_is_written_back_meanwhile(journal):
    """After enough appends a thread did it: the database holds what the log holds."""
    # what was in its way once is not the next time
    until(lambda: fill(journal, 100) or in_database(journal) >= CHECKPOINT_ENTRIES)


def test_under_a_caller_that_never_pauses_the_log_begins_anew(journal):
    """Beyond its limit the last of it is written back while appends wait, so that the next one
    begins it anew.
    """
    component = journal.component("run")
    stop = threading.Event()

    def append_on():
        number = 0
        while not stop.is_set():
            journal.append_metric(component, "n", float(number), None, 1)
            number += 1

    thread = threading.Thread(target=append_on)
    thread.start()
    fill(journal, 200)
    # the appending thread's own may be at it
    while not write_back(journal.database, log_pages_max=0):
        pass
    stop.set()
    thread.join()
    fill(journal, 1)
    pages, _ = log_state(journal)
    assert pages < LOG_PAGES_MAX


def test_a_reader_in_the_way_costs_appends_nothing(journal):
    """Somebody reads an older moment: not all can be written back, nothing waits for that, and
    it is done later.
    """
    fill(journal, 10)
    with closing(sqlite3.connect(journal.path / "journal.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchone()
        fill(journal, 10)
        assert not write_back(journal.database, log_pages_max=0)
    assert write_back(journal.database, log_pages_max=0)


def test_a_log_that_can_not_be_written_back_is_no_error_of_the_caller(journal):
    """The thread ends by itself; the appends are in the log, as safe as before."""
    fill(journal, 10)
    before = journal.database.path
    away = before.rename(before.with_name("away.db"))
    with pytest.raises(JournalError):
        write_back(journal.database)
    journal._checkpointer.wake()
    journal._checkpointer.wait()
    away.rename(before)
    assert len(journal.entries()) == 10


@pytest.mark.slow
def test_a_fork_in_the_midst_of_it(journal):
    """The child appends, and writes the log back by a thread of its own; so does the parent."""
    fill(journal, 10)
    stop = threading.Event()

    def write_back_again():
        while not stop.is_set():
            # a child closes, and might have been the last
            with contextlib.suppress(JournalLockedError):
                write_back(journal.database, log_pages_max=0)

    thread = threading.Thread(target=write_back_again)
    thread.start()
    children = []
    for _ in range(5):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                fill(journal, 2 * CHECKPOINT_ENTRIES)
                journal.close()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        fill(journal, 10)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 5
    stop.set()
    thread.join()
    assert journal.last_seq() == 60 + 10 * CHECKPOINT_ENTRIES


def test_a_process_that_begins_finds_a_long_log_and_has_it_written_back(journal, monkeypatch):
    """Many processes that append little each, beside one that never closes: the log does not
    grow for ever.
    """
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "wake", lambda _self: None)
        fill(journal, CHECKPOINT_ENTRIES + 100)
    with closing(Journal.open(journal.path)) as other:
        until(lambda: fill(other, 1) or in_database(journal) >= CHECKPOINT_ENTRIES)


def test_a_closed_journal_leaves_no_log(journal, tmp_path):
    """Closing waits for the thread: the database is whole by itself."""
    fill(journal, 2 * CHECKPOINT_ENTRIES)
    journal.close()
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == ["journal.db", "spool"]


@pytest.mark.parametrize("end", [Journal.close, Journal.rest])
def test_the_end_waits_for_a_checkpoint_under_way(journal, monkeypatch, end):
    """A journal that was closed, or that rests, is not being written any more."""
    begun, ended, left = threading.Event(), threading.Event(), threading.Event()
    main, connect = threading.get_ident(), sqlite3.connect

    def is_waiting():
        frame = sys._current_frames()[main]
        while frame is not None and frame.f_code is not Checkpointer.wait.__code__:
            frame = frame.f_back
        return frame is not None

    def connect_while_the_end_waits(*arguments, **options):
        if threading.get_ident() != main:
            begun.set()
            until(lambda: is_waiting() or left.is_set())
            ended.set()
        return connect(*arguments, **options)

    fill(journal, 10)
    monkeypatch.setattr(sqlite3, "connect", connect_while_the_end_waits)
    journal._checkpointer.wake()
    assert begun.wait(FOREVER_S)
    end(journal)
    has_waited = ended.is_set()
    left.set()
    journal._checkpointer.wait()
    assert has_waited
