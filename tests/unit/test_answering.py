"""Answers about several journals at a time: in order, within bounds, and ended together."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from journaltrack.cli import output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.jobs import Jobs
from journaltrack.util.deadline import Deadline
from tests.patience import FOREVER_S

NAMES = [f"journal-{n}" for n in range(6)]


def jobs(at_once, deadline=None, key=lambda journal: journal):
    """Say how to answer."""
    return Jobs(at_once, deadline or Deadline(), key)


def test_what_is_printed_stands_in_the_order_of_the_journals(capsys):
    """The first journal is answered last and printed first; lines of two answers never mix."""
    others = threading.Semaphore(0)

    def answer(name):
        """Print before and after the others are done."""
        output.say(f"{name} begins")
        if name == NAMES[0]:
            for _ in NAMES[1:]:
                assert others.acquire(timeout=FOREVER_S)
        else:
            others.release()
        output.say(f"{name} ends")
        return ExitCode.OK

    with jobs(2).answering(NAMES, answer, lambda: False) as answered:
        codes = [answered(name) for name in NAMES]
    assert codes == [ExitCode.OK] * len(NAMES)
    lines = [f"{name} {what}" for name in NAMES for what in ("begins", "ends")]
    assert capsys.readouterr().out.splitlines() == lines


def test_what_an_answer_raises_is_raised_in_its_turn():
    """An error of one journal reaches the caller with that journal, and no other one."""

    def answer(name):
        """Fail for one journal."""
        if name == NAMES[2]:
            raise OSError(name)
        return ExitCode.OK

    with jobs(3).answering(NAMES, answer, lambda: False) as answered:
        assert [answered(name) for name in NAMES[:2]] == [ExitCode.OK] * 2
        with pytest.raises(OSError, match=NAMES[2]):
            answered(NAMES[2])
        assert answered(NAMES[3]) is ExitCode.OK


def test_journals_of_one_key_are_answered_one_after_the_other():
    """Two journals with the same key are never answered at the same time, and in order."""
    running, most, order = set(), [], []

    def answer(name):
        """Note who else of this key is under way."""
        running.add(name)
        most.append(len(running))
        order.append(name)
        running.discard(name)
        return ExitCode.OK

    with jobs(4, key=lambda _: "the same").answering(NAMES, answer, lambda: False) as answered:
        assert all(answered(name) is ExitCode.OK for name in NAMES)
    assert max(most) == 1
    assert order == NAMES


def test_after_an_end_only_what_has_begun_is_answered():
    """Journals that had not begun are left out, and have no exit code."""
    ended = []

    def answer(name):
        """End everything with the first answer."""
        ended.append(name)
        return ExitCode.PENDING

    with jobs(1).answering(NAMES, answer, lambda: bool(ended)) as answered:
        codes = [answered(name) for name in NAMES]
    assert codes == [ExitCode.PENDING, *[None] * (len(NAMES) - 1)]
    assert ended == NAMES[:1]


def test_an_interruption_ends_all_answers_first():
    """Ctrl-C cancels the deadline, drops what has not begun, and is raised when the rest ended."""
    deadline, begun, ended = Deadline(), threading.Semaphore(0), []

    def answer(name):
        """Run until the deadline ends."""
        begun.release()
        deadline.wait(FOREVER_S)
        ended.append(name)
        return ExitCode.PENDING

    def interrupted():
        """Be interrupted while two answers are made."""
        with jobs(2, deadline).answering(NAMES, answer, lambda: False):
            for _ in range(2):
                assert begun.acquire(timeout=FOREVER_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(ended) == NAMES[:2]
    assert deadline.over


IN_PROCESSES = """
import os
os.sched_getaffinity = lambda _: {0, 1}
from journaltrack.cli import output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.jobs import answering_in_processes
from journaltrack.errors import JournalLockedError

names, own, mine = [f"j{n:03}" for n in range(100)], os.getpid(), []

def answer(name):
    if os.getpid() == own:
        mine.append(name)
    elif name == "j040":
        os._exit(9)
    output.say(name)
    if name == "j007":
        raise JournalLockedError(f"{name} is locked", hint="wait")
    return ExitCode.PENDING if name == "j003" else ExitCode.OK

with answering_in_processes(names, answer) as answered:
    for name in names:
        try:
            if (code := answered(name)) is not ExitCode.OK:
                print(name, repr(code))
        except JournalLockedError as error:
            print(name, error.message, error.hint)
print(*mine)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
"""


def test_answers_of_other_processes_are_printed_in_order():
    """Two forks make the answers about a hundred journals. What they print, raise and return is as
    if one process had made it. What a fork that was killed did not send, this process answers.
    """
    command = [sys.executable, "-W", "error", "-c", IN_PROCESSES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [f"j{n:03}" for n in range(100)]
    names.insert(8, "j007 j007 is locked wait")
    names.insert(4, f"j003 {ExitCode.PENDING!r}")
    mine = " ".join(f"j{n:03}" for n in range(40, 100, 2))
    assert done.stdout.splitlines() == [*names, mine, "no child is left"]
