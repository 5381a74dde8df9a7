"""What test_disk_refusing runs under the recorder, which makes calls fail: `refusing_programs.py
SCENARIO FOLDER ACKNOWLEDGEMENTS ARGUMENT...`.

Lines that are acknowledged: ``call N`` when a call has returned, ``saw WORDS`` for what the program
noticed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import closing
from pathlib import Path

from journaltrack import Tracker, errors
from journaltrack.journal.journal import Journal
from journaltrack.replay import reconciler
from journaltrack.replay.reconciler import Options, Reconciler
from tests.faults.power_programs import Acknowledging, RecordedRemote, call

warned = []
warnings.showwarning = lambda message, category, *_: warned.append(
    (category.__name__, str(message))
)
warnings.simplefilter("always")


def tracker_at(folder, **kwargs):
    return Tracker.create(
        trial_component_name="run", resume=True, journal=folder / "journal", sync="off", **kwargs
    )


def calls(tracker, acks, numbers):
    """Log, and say which calls returned or raised."""
    for number in numbers:
        try:
            call(tracker, "w", number, Path(acks_path).with_name("scratch"))
        except errors.JournalWriteError as error:  # noqa: PERF203 - each call by itself
            acks.say("saw raised", number, type(error).__name__)
        else:
            acks.say("call", "w", number)


def faulty(folder, acks, durability, on_journal_error, *fault):
    """Ten calls, then ten while the disk refuses, then the disk recovers, then the end."""
    tracker = tracker_at(folder, durability=durability, on_journal_error=on_journal_error)
    calls(tracker, acks, range(10))
    acks.say("fault", *fault)
    calls(tracker, acks, range(10, 20))
    acks.say("saw unwritten", tracker._journal.unwritten)
    try:
        tracker.flush()
    except errors.JournalWriteError as error:
        acks.say("saw flush", type(error).__name__, error.unwritten)
    else:
        acks.say("saw flush fine")
    acks.say("fault none")
    calls(tracker, acks, range(20, 22))
    tracker.close()
    acks.say("saw closed", tracker._journal.unwritten)
    acks.say("saw warned", json.dumps(warned))


def closing_while_full(folder, acks, *fault):
    """A close that can't write what waits says how much, and works when there is room again."""
    tracker = tracker_at(folder)
    calls(tracker, acks, range(3))
    acks.say("fault", *fault)
    calls(tracker, acks, [4, 6, 7])
    for _ in range(2):
        try:
            tracker.close()
        except errors.JournalWriteError as error:
            acks.say("saw close", type(error).__name__, error.unwritten)
        else:
            acks.say("saw close fine")
        acks.say("fault none")


def flaky(folder, acks, *fault):
    """A disk that refuses now and then, also while the tracker closes."""
    tracker = tracker_at(folder)
    calls(tracker, acks, range(3))
    acks.say("fault", *fault)
    # no artifact: that one may raise
    calls(tracker, acks, [number for number in range(3, 300) if number % 11 != 8])
    acks.say("saw unwritten", tracker._journal.unwritten)
    try:
        tracker.close()
    except errors.JournalWriteError as error:
        acks.say("saw close", type(error).__name__, error.unwritten)
    else:
        acks.say("saw close fine")
    acks.say("fault none")


def creating(folder, acks, *fault):
    """No journal can be made: an error of ours, and nothing half made that keeps the next start
    from working.
    """
    acks.say("fault", *fault)
    try:
        tracker_at(folder)
    except errors.JournalError as error:
        acks.say("saw", type(error).__name__, error.message)
    acks.say("fault none")
    tracker = tracker_at(folder)
    calls(tracker, acks, range(3))
    tracker.close()


def syncing(folder, acks, *fault):
    """A pass in the midst of which the journal can't be written, and the next one."""
    reconciler.RECORD_FOR_S = 1.0  # the fault outlasts any patience
    remote = RecordedRemote()
    remote.acks = acks
    with tracker_at(folder) as tracker:
        calls(tracker, acks, range(40))
    put, made = remote.put_metrics, []

    def fail_from_the_second(*arguments):
        made.append(1)
        if len(made) == 2:
            acks.say("fault", *fault)
        return put(*arguments)

    remote.put_metrics = fail_from_the_second
    for _ in range(2):
        journal = None
        try:
            with closing(Journal.open(folder / "journal")) as journal:
                report = Reconciler(journal, remote, options=Options(concurrency=1)).run()
                acks.say("saw pending", report.pending)
        except errors.JournalError as error:
            acks.say("saw pass", type(error).__name__)
            journal.database.close()
        acks.say("fault none")


def reading(folder, acks, *fault):
    """The commands that read meet a disk that can't be read."""
    from click.testing import CliRunner

    from journaltrack.cli import main

    with tracker_at(folder) as tracker:
        calls(tracker, acks, range(40))
    acks.say("fault", *fault)
    for command in (
        ["status"],
        ["audit"],
        ["check"],
        ["show", "run"],
        ["check"],
        ["sync", "--dry-run"],
    ):
        result = CliRunner().invoke(main, [*command, "--journal", str(folder / "journal")])
        acks.say(
            "saw",
            command[0],
            result.exit_code,
            "Traceback" in result.output or isinstance(result.exception, (OSError, ValueError)),
        )
    acks.say("fault none")


if __name__ == "__main__":
    scenario, root, acks_path, *rest = sys.argv[1:]
    globals()[scenario](Path(root), Acknowledging(acks_path), *rest)
    os._exit(0)
