"""One call's error is that call's alone, and what waits in memory is bounded."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalWriteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import Draft
from tests.copies import verify_chains

TOO_LARGE = Draft("metric", "metric", "m", 1.0, 1, 2**63)
"""A point that no column takes: ``OverflowError`` in the driver."""


def values(folder):
    """The points in their order."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return [
            value
            for (value,) in connection.execute(
                "SELECT value FROM entry WHERE name = 'm' ORDER BY seq"
            )
        ]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_call_that_the_driver_refuses_leaves_no_gap(tmp_path, durability):
    """It raises; calls before and behind it are there, and the chain is whole."""
    with closing(Journal.open(tmp_path / "j", durability=durability)) as journal:
        run = journal.component("run")
        journal.append_metric(run, "m", 1.0, 1, 1)
        for refused in (
            lambda: journal.append_metric(run, "m", 9.0, 1, 2**63),
            lambda: journal.append_metrics(run, [("m", 9.0), ("m", 9.5)], 1, 2**63),
            lambda: journal.append(run, [vocabulary.metric("m", 9.0, 1, 1), TOO_LARGE]),
        ):
            with pytest.raises(OverflowError):
                refused()
            journal.append_metric(run, "m", 2.0, 1, 1)
    assert values(tmp_path / "j") == [1.0, 2.0, 2.0, 2.0]
    assert verify_chains(tmp_path / "j") == []


def test_a_call_that_the_driver_refuses_costs_other_threads_nothing(tmp_path):
    """Three threads log while a fourth one's calls are refused: every call that returned is
    there.
    """
    with closing(Journal.open(tmp_path / "j", durability="power")) as journal:
        run = journal.component("run")

        def log(first):
            for number in range(first, first + 100):
                journal.append_metric(run, "m", float(number), 1, 1)

        def be_refused():
            for _ in range(100):
                with pytest.raises(OverflowError):
                    journal.append(run, [TOO_LARGE])

        threads = [threading.Thread(target=log, args=(first,)) for first in (0, 100, 200)]
        threads.append(threading.Thread(target=be_refused))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(values(tmp_path / "j")) == [float(number) for number in range(300)]
    assert verify_chains(tmp_path / "j") == []


def test_a_call_that_can_never_be_written_does_not_hold_up_what_waits(tmp_path, caplog):
    """Refused by the driver only when the lock is free again: that one is left out and told, all
    others are written.
    """
    with closing(Journal.open(tmp_path / "j", busy_timeout_s=0.01)) as journal:
        run = journal.component("run")
        journal.append_metric(run, "m", 0.0, 1, 1)
        with closing(sqlite3.connect(tmp_path / "j" / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.warns(RuntimeWarning, match="wait in memory"):
                journal.append_metric(run, "m", 1.0, 1, 1)
            journal.append(run, [TOO_LARGE])
            journal.append_metric(run, "m", 2.0, 1, 1)
            other.execute("ROLLBACK")
    assert values(tmp_path / "j") == [0.0, 1.0, 2.0]
    assert "left out" in caplog.text
    assert verify_chains(tmp_path / "j") == []


def test_a_call_with_more_entries_than_one_takes_says_so(tmp_path, monkeypatch):
    """It is the call that is too large, not the memory that is full: nothing of it is recorded."""
    monkeypatch.setattr(limits, "BUFFERED_ENTRIES_MAX", 3)
    with closing(Journal.open(tmp_path / "j")) as journal:
        run = journal.component("run")
        with pytest.raises(InvalidInputError, match="has 4 entries, and one call takes at most 3"):
            journal.append(run, [vocabulary.metric("m", 1.0, 1, 1)] * 4)
        journal.append(run, [vocabulary.metric("m", 2.0, 1, 1)] * 3)
    assert values(tmp_path / "j") == [2.0] * 3


@pytest.mark.slow
def test_a_buffer_that_is_full_refuses_the_call_and_keeps_the_rest(tmp_path):
    """Beyond the limit a call raises and is not recorded; what waits is written once the lock is
    free, the chain goes on.
    """
    with closing(Journal.open(tmp_path / "j", busy_timeout_s=0.01)) as journal:
        run = journal.component("run")
        journal.append_metric(run, "m", 0.0, 1, 1)
        with closing(sqlite3.connect(tmp_path / "j" / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            part = [vocabulary.metric("m", 1.0, 1, 1)] * (limits.BUFFERED_ENTRIES_MAX // 10)
            with pytest.warns(RuntimeWarning, match="wait in memory"):
                journal.append(run, part)
            for _ in range(9):
                journal.append(run, part)
            for refused in (
                lambda: journal.append_metric(run, "m", 2.0, 1, 1),
                lambda: journal.append(run, part),
            ):
                with pytest.raises(JournalWriteError, match="this call was not recorded") as caught:
                    refused()
                assert caught.value.hint
                assert caught.value.unwritten == limits.BUFFERED_ENTRIES_MAX
            other.execute("ROLLBACK")
        journal.flush()
        journal.append_metric(run, "m", 3.0, 1, 1)
    assert values(tmp_path / "j") == [0.0, *[1.0] * limits.BUFFERED_ENTRIES_MAX, 3.0]
    assert verify_chains(tmp_path / "j") == []


def test_a_commit_whose_error_came_too_late_is_not_repeated(tmp_path):
    """An insert that took effect and reported an error all the same is found, not written again."""
    with closing(Journal.open(tmp_path / "j")) as journal:
        run = journal.component("run")
        journal.append_metric(run, "m", 1.0, 1, 1)

        class Late:
            """A connection as a file server makes it that loses the answer to a commit."""

            def __init__(self, connection):
                self.connection, self.lost = connection, []

            def __getattr__(self, name):
                return getattr(self.connection, name)

            def execute(self, sql, *arguments):
                cursor = self.connection.execute(sql, *arguments)
                if (
                    (sql.startswith("INSERT INTO entry") or sql == "COMMIT")
                    and len(self.lost) < 2
                    and not self.in_transaction
                ):
                    self.lost.append(sql)
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        real = journal.database._file.connection
        journal.database._file.connection = Late(real)
        journal.append_metric(run, "m", 2.0, 1, 1)
        with pytest.warns(RuntimeWarning, match="wait in memory"):
            journal.append_if(
                lambda: True,
                run,
                [vocabulary.metric("m", 3.0, 1, 1), vocabulary.metric("m", 4.0, 1, 1)],
            )
        journal.flush()
        assert len(journal.database._file.connection.lost) == 2
        journal.database._file.connection = real
    assert values(tmp_path / "j") == [1.0, 2.0, 3.0, 4.0]
    assert verify_chains(tmp_path / "j") == []


def test_a_call_without_entries_records_nothing(tmp_path):
    """Neither the first one nor a later one; the next call goes on in the chain."""
    with closing(Journal.open(tmp_path / "j")) as journal:
        run = journal.component("run")
        journal.append(run, [])
        journal.append_metric(run, "m", 1.0, 1, 1)
        journal.append(run, [])
        journal.append_metrics(run, [], 1, 1)
        journal.append_metric(run, "m", 2.0, 1, 1)
    assert values(tmp_path / "j") == [1.0, 2.0]
    assert verify_chains(tmp_path / "j") == []
