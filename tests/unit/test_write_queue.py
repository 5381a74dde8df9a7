"""Waiting for SQLite's write lock: everybody's turn comes, whoever else is killed, stopped or in
a hurry.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from journaltrack.errors import JournalLockedError
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.write_queue import WriteQueue
from tests.patience import FOREVER_S

HOLDING = """
import sys
from pathlib import Path
from journaltrack.journal.sqlite.write_queue import WriteQueue
other = WriteQueue(Path(sys.argv[1]))
def attempt():
    if not other.has_waiting(): return False  # not urgent yet
    print("first", flush=True)
    sys.stdin.read()
    return True
WriteQueue(Path(sys.argv[1])).wait_for(attempt, 60.0)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is urgent, and first."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"first\n"
        yield process
        process.kill()


def test_others_see_that_somebody_is_urgent(tmp_path, holder):
    """They may let it go first; once it is done, nobody is."""
    queue = WriteQueue(tmp_path)
    assert queue.has_waiting()
    holder.communicate()
    assert not queue.has_waiting()


def test_the_place_of_a_killed_process_is_free(tmp_path, holder):
    """Whatever it was doing."""
    holder.kill()
    holder.wait()
    assert not WriteQueue(tmp_path).has_waiting()


def test_who_had_a_turn_gives_the_place_back(tmp_path):
    """While it lives on, too: others see that nobody is urgent, and may come first themselves."""
    with closing(WriteQueue(tmp_path, urgent_s=0.0)) as done:
        assert done.wait_for(lambda: True, FOREVER_S)
        assert not WriteQueue(tmp_path).has_waiting()


def test_a_stopped_process_holds_up_nobody(tmp_path, holder):
    """Others try without the first place after a while."""
    os.kill(holder.pid, signal.SIGSTOP)
    tries = []
    assert WriteQueue(tmp_path).wait_for(
        lambda: tries.append(1) is None and len(tries) > 20, FOREVER_S
    )
    os.kill(holder.pid, signal.SIGCONT)


def test_waiting_ends_in_time(tmp_path):
    """It says so, and has tried."""
    tries = []
    assert not WriteQueue(tmp_path).wait_for(lambda: bool(tries.append(1)), 0.05)
    assert tries


def test_a_folder_that_can_not_be_locked_is_no_obstacle(tmp_path):
    """Everybody tries for themselves then."""
    queue = WriteQueue(tmp_path / "missing")
    assert not queue.has_waiting()
    tries = []
    assert queue.wait_for(lambda: tries.append(1) is None and len(tries) > 20, FOREVER_S)


def test_an_append_waits_for_another_connection_and_then_goes_on(tmp_path):
    """While somebody else is in a transaction it waits, and is recorded when that ends."""
    with closing(Journal.open(tmp_path / "journal")) as journal:
        component = journal.component("run")
        journal.append_metric(component, "m", 1.0, None, 1)
        other = sqlite3.connect(
            tmp_path / "journal" / "journal.db", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN IMMEDIATE")
        done = threading.Event()

        def append():
            journal.append_metric(component, "m", 2.0, None, 1)
            done.set()

        thread = threading.Thread(target=append)
        thread.start()
        assert not done.wait(0.05)
        other.execute("COMMIT")
        thread.join()
        other.close()
        assert [entry.value for entry in journal.entries()] == [1.0, 2.0]


def test_an_append_does_not_wait_longer_than_it_may(tmp_path):
    """The error that says who is in the way, after ``busy_timeout_s``."""
    with closing(
        Journal.open(tmp_path / "journal", busy_timeout_s=0.05, on_journal_error="raise")
    ) as journal:
        component = journal.component("run")
        journal.append_metric(component, "m", 1.0, None, 1)
        with closing(
            sqlite3.connect(tmp_path / "journal" / "journal.db", isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalLockedError):
                journal.append_metric(component, "m", 2.0, None, 1)
        journal.append_metric(component, "m", 3.0, None, 1)
        assert [entry.value for entry in journal.entries()] == [1.0, 3.0]


APPENDING = """
import sys
from journaltrack.journal.journal import Journal
journal = Journal.open(sys.argv[1], durability=sys.argv[2])
component = journal.component("run")
for number in range(int(sys.argv[3])): journal.append_metric(component, "m", float(number), None, 1)
journal.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "calls"), [("process", 1500), ("power", 60)])
def test_eight_processes_append_to_one_journal(tmp_path, durability, calls):
    """All of it is there, in each one's order; nobody meets an error."""
    Journal.open(tmp_path / "journal").close()
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        APPENDING,
        str(tmp_path / "journal"),
        durability,
        str(calls),
    ]
    processes = [subprocess.Popen(command) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    with closing(Journal.open(tmp_path / "journal")) as journal:
        by_writer = {}
        for entry in journal.entries(limit=10**6):
            by_writer.setdefault(entry.writer_id, []).append(entry.value)
        assert sorted(by_writer.values()) == [[float(number) for number in range(calls)]] * 8
