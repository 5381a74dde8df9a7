"""One name, several processes that create it at once: "is there one?" and "make it" are one
step.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest

from journaltrack import Journal, Tracker
from journaltrack.errors import InvalidInputError

CREATOR = """
import sys
from journaltrack import Journal, Tracker
from journaltrack.errors import InvalidInputError

journal = Journal.open(sys.argv[1], durability=sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:  # a name a line, to all processes at the same moment
    try:
        Tracker.create(trial_component_name=line.strip(), journal=journal, sync="off")
    except InvalidInputError as error:
        print("there is one:", error.hint, flush=True)
    else:
        print("made", flush=True)
"""


def creates(journal, name):
    """The create entries of a component."""
    opened = Journal.open(journal, create=False, read_only=True)
    row = opened.find(name)
    found = (
        []
        if row is None
        else [entry for entry in opened.state_entries(row.id) if entry.kind == "create"]
    )
    opened.close()
    return found


@pytest.mark.parametrize("durability", ["process", "power"])
def test_of_several_processes_that_create_a_name_at_once_exactly_one_makes_it(tmp_path, durability):
    """For each of 40 names one of four processes is told that it made the component, the others
    get the error with the hint.
    """
    journal = tmp_path / "journal"
    command = [sys.executable, "-c", CREATOR, str(journal), durability]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 4
    for number in range(40):
        for process in started:
            process.stdin.write(f"run-{number}\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in started]
        assert answers.count("made") == 1, answers
        assert all("resume=True" in answer for answer in answers if answer != "made")
        assert len(creates(journal, f"run-{number}")) == 1
    for process in started:
        process.communicate()  # closes the pipes
        assert process.returncode == 0


def test_of_several_threads_that_create_a_name_at_once_exactly_one_makes_it(tmp_path):
    """Threads that share a journal, and threads with journals of their own, exclude each other
    as processes do.
    """
    shared = Journal.open(tmp_path / "journal")
    for number in range(20):
        answers, together = [], threading.Barrier(4)

        def create(journal, name=f"run-{number}", answers=answers, together=together):
            together.wait()
            try:
                tracker = Tracker.create(trial_component_name=name, journal=journal, sync="off")
            except InvalidInputError:
                answers.append("there is one")
            else:
                answers.append("made")
                if journal is not shared:
                    tracker.close()

        threads = [
            threading.Thread(target=create, args=(journal,))
            for journal in (shared, shared, tmp_path / "journal", tmp_path / "journal")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["made", "there is one", "there is one", "there is one"]
    shared.close()


def test_a_name_whose_creator_was_killed_before_its_first_entry_is_free(tmp_path):
    """A component's row without an entry is nobody's run: the next process creates it."""
    opened = Journal.open(tmp_path / "journal")
    opened.component("run")  # what a creator that is killed between its two steps leaves behind
    opened.close()
    Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off").close()
    assert len(creates(tmp_path / "journal", "run")) == 1


def test_who_comes_second_leaves_no_trace_and_its_chain_goes_on(tmp_path):
    """The refused call records nothing, and what the same journal records next has the place
    that the refused call would have had.
    """
    first, second = Journal.open(tmp_path / "journal"), Journal.open(tmp_path / "journal")
    made = Tracker.create(trial_component_name="run", journal=first, sync="off")
    other = Tracker.create(trial_component_name="other", journal=second, sync="off")
    with pytest.raises(InvalidInputError, match="already"):
        Tracker.create(trial_component_name="RUN", journal=second, sync="off")
    other.log_parameter("lr", 0.1)
    made.log_parameter("lr", 0.1)
    places = {}
    for entry in second.entries():
        places.setdefault(entry.writer_id, []).append(entry.writer_seq)
    assert sorted(places.values()) == [[1, 2], [1, 2]]
    first.close()
    second.close()


def test_create_while_the_disk_refuses_still_waits_in_memory(tmp_path):
    """A component that is known by name alone is created in memory while another process keeps
    the journal locked, and written later.
    """
    opened = Journal.open(tmp_path / "journal", busy_timeout_s=0.01)
    opened.component("run")
    other = sqlite3.connect(tmp_path / "journal" / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.warns(RuntimeWarning, match="wait in memory"):
        Tracker.create(trial_component_name="run", journal=opened, sync="off")
    with pytest.raises(InvalidInputError, match="already"):
        Tracker.create(trial_component_name="run", journal=opened, sync="off")
    other.execute("ROLLBACK")
    other.close()
    opened.close()
    assert len(creates(tmp_path / "journal", "run")) == 1
