"""Journals where none can be, where few expect one, and in processes that have no descriptors
left.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
import sys
import tempfile
import threading
import warnings

import pytest

from journaltrack import Tracker
from journaltrack.errors import (
    InvalidInputError,
    JournalError,
    JournalNotFoundError,
    JournalWriteError,
)
from journaltrack.journal.journal import Journal
from tests.faults.faulty_disk import in_child
from tests.patience import FOREVER_S

COMMANDS = (["status"], ["status", "--json"], ["check"], ["check"], ["sync", "--dry-run"])


def run(command, path):
    """A command of journaltrack on a journal; no command may call anything a bug."""
    words = [sys.executable, "-m", "journaltrack", *command, path]
    done = subprocess.run(
        [os.fsencode(word) for word in words], capture_output=True, check=False, timeout=FOREVER_S
    )
    assert b"bug in journaltrack" not in done.stderr
    assert b"Traceback" not in done.stderr
    return done


def test_a_path_that_is_not_text(tmp_path):
    """A folder whose name is not UTF-8 holds a journal as any other, for the tracker and for
    every command.
    """
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 100%/j")
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 2.0)
    assert sorted(os.listdir(os.fsencode(folder))) == [b"journal.db", b"spool"]
    for command in COMMANDS:
        assert run(command, folder).returncode in {0, 3}, command


@pytest.mark.parametrize("part", ["x" * 300, "/".join(["y" * 100] * 6), "/".join(["z" * 200] * 30)])
def test_a_path_that_is_too_long(tmp_path, part):
    """Longer than the system or SQLite takes: told as it is, with nothing made, by the tracker
    and by every command.
    """
    with pytest.raises(
        JournalNotFoundError, match=r"there can be no journal at .*(too long|504 at most)"
    ) as caught:
        Tracker.create(journal=tmp_path / part, sync="off")
    assert "shorter" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    for command in COMMANDS:
        done = run(command, tmp_path / part)
        assert done.returncode == 8, command
        assert b"too long" in done.stderr or b"no journal" in done.stderr


def test_a_path_with_a_null(tmp_path):
    """No path has one."""
    with pytest.raises(InvalidInputError, match="is no path"):
        Journal.open(f"{tmp_path}/a\0b")


def out_of_descriptors(folder):
    """An open tracker goes on; another one says what is missing, and can be made as soon as it
    is there.
    """
    warnings.simplefilter("error")
    tracker = Tracker.create(trial_component_name="run", journal=folder / "j", sync="off")
    tracker.log_metric("loss", 0.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    told = []
    for left in range(8):
        for journal in (folder / "j", folder / "new"):
            try:
                Tracker.create(journal=journal, sync="off").close()
            except JournalWriteError as error:  # noqa: PERF203 - each by itself
                told.append((left, str(error.message), error.hint))
        tracker.log_metric("loss", 1.0 + left)
        os.close(taken.pop())
    for descriptor in taken:
        os.close(descriptor)
    with Tracker.create(journal=folder / "new", sync="off") as another:
        another.log_metric("loss", 0.0)
    tracker.close()
    return told


def test_too_many_open_files(tmp_path):
    """With no descriptor left, or a few, a journal opens or the error names the reason; what is
    open goes on.
    """
    told = in_child(out_of_descriptors, tmp_path)
    assert {left for left, _, _ in told} >= {0, 1}
    assert all("oo many open files" in message and "ulimit" in hint for _, message, hint in told), (
        told
    )
    with contextlib.closing(Journal.open(tmp_path / "j")) as journal:
        assert len([e for e in journal.entries() if e.kind == "metric"]) == 9


TRAINING = """
import sys
from journaltrack import Tracker
with Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off") as tracker:
    tracker.log_metric("loss", 0.0)
    print("logged", flush=True)
    sys.stdin.read()
"""


def reading_with_few_descriptors(folder):
    """What an attempt says with none left, with one, and so on, where no copy can be made."""
    tempfile.tempdir = str(folder / "missing")
    Journal.open(folder, read_only=True).close()
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    told = []
    for _ in range(8):
        try:
            Journal.open(folder, read_only=True).close()
            told.append("read")
        except JournalError as error:
            told.append(error.message)
        os.close(taken.pop())
    return told


def test_a_reader_short_of_files_copies_no_journal_that_is_written(tmp_path):
    """A copy beside a writer could be torn: what a read lacks is said instead, until it has it."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING, tmp_path / "j"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        assert training.stdout.readline() == b"logged\n"
        told = in_child(reading_with_few_descriptors, tmp_path / "j")
        training.communicate(timeout=FOREVER_S)
    assert told[-1] == "read"
    assert {message.rpartition(": ")[2] for message in told} == {"read", "Too many open files"}


def open_things(folder):
    """What is open in this process after one dropped tracker, and after a hundred more."""

    def logged():
        tracker = Tracker.create(journal=folder / "j", sync="off")
        tracker.log_metric("loss", 1.0)

    def counted():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    logged()
    before = counted()
    for _ in range(100):
        logged()
    return before, counted()


def test_trackers_that_nobody_closes_leave_nothing_open(tmp_path):
    """Dropped without close, a tracker's descriptors and threads go with it.

    Python 3.10 finalizes in another order: there up to fourteen descriptors wait for the next.
    """
    (descriptors, threads), after = in_child(open_things, tmp_path)
    waiting = 14 if sys.version_info < (3, 11) else 0
    assert descriptors <= after[0] <= descriptors + waiting
    assert after[1] == threads
