"""Copies of a journal that one process meets: one of them is delivered, the one that went
further.
"""

from __future__ import annotations

import shutil
import threading

import pytest

from journaltrack import Tracker
from journaltrack.app.one_place import OnePlace
from journaltrack.errors import JournalBehindError
from journaltrack.replay import pass_report
from tests.patience import FOREVER_S


def record(folder, points=1):
    """A closed journal."""
    with Tracker.create(
        trial_component_name="run", journal=folder, sync="off", resume=True
    ) as tracker:
        for step in range(points):
            tracker.log_metric("loss", float(step), iteration_number=step)
    return folder


def of(places, folder):
    """The block of a pass, if the journal may be delivered from this folder."""
    work = pass_report.look(folder)
    return places.of(folder, work.journal_id, lambda: work)


def deliver(places, folder):
    """What a pass would be made inside of."""
    with of(places, folder):
        pass


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal: copies of it are made."""
    return record(tmp_path / "journal")


def test_of_two_copies_the_first_is_delivered(journal, tmp_path):
    """A copy is refused, naming the other place and the way out; the first one goes on."""
    copied = shutil.copytree(journal, tmp_path / "copy")
    places = OnePlace()
    deliver(places, journal)
    with pytest.raises(JournalBehindError) as raised:
        deliver(places, copied)
    assert str(journal) in raised.value.message
    assert f"journaltrack merge {copied} --into {journal}" in raised.value.hint
    deliver(places, journal)


def test_the_copy_that_went_further_takes_over(journal, tmp_path):
    """A copy with more in it is delivered instead, once no pass of the other one is under way."""
    places = OnePlace()
    newer = record(shutil.copytree(journal, tmp_path / "newer"))
    with of(places, journal), pytest.raises(JournalBehindError):
        deliver(places, newer)
    deliver(places, newer)
    with pytest.raises(JournalBehindError):
        deliver(places, journal)


@pytest.mark.parametrize("link", [False, True], ids=["moved", "moved, with a link in its place"])
def test_a_moved_journal_keeps_its_place(journal, tmp_path, link):
    """A folder that was moved is delivered from where it is now, even with a pass of it under
    way.
    """
    places = OnePlace()
    moved = tmp_path / "moved"
    if not link:
        with of(places, journal):
            journal.rename(moved)
            deliver(places, moved)
    else:
        deliver(places, journal)
        journal.rename(moved)
        journal.symlink_to(moved)
    deliver(places, moved)
    with pytest.raises(JournalBehindError):
        deliver(places, shutil.copytree(moved, tmp_path / "copy"))


def test_another_journal_in_its_place_frees_it(journal, tmp_path):
    """A folder that holds another journal now keeps the copy from nothing."""
    places = OnePlace()
    deliver(places, journal)
    copied = journal.rename(tmp_path / "copy")
    record(journal)
    deliver(places, copied)
    deliver(places, journal)


def test_a_place_that_is_behind_elsewhere_gives_way(journal, tmp_path):
    """A copy that turned out to be behind what was delivered elsewhere keeps no other one from
    trying.
    """
    copied = shutil.copytree(journal, tmp_path / "copy")
    places = OnePlace()
    with pytest.raises(JournalBehindError), of(places, journal):
        raise JournalBehindError("behind")
    deliver(places, copied)


def test_threads_meet(journal, tmp_path):
    """Of many copies that are delivered side by side, exactly one is, each time."""
    copies = [journal, *(shutil.copytree(journal, tmp_path / f"copy-{n}") for n in range(5))]
    places = OnePlace()
    inside, most, refused = [], [], []
    meeting = threading.Barrier(len(copies))

    def run(folder):
        work = pass_report.look(folder)
        meeting.wait(FOREVER_S)
        try:
            with places.of(folder, work.journal_id, lambda: work):
                inside.append(folder)
                most.append(len(inside))
                meeting.wait(FOREVER_S)
                inside.remove(folder)
        except JournalBehindError:
            refused.append(folder)
            meeting.wait(FOREVER_S)

    threads = [threading.Thread(target=run, args=(folder,)) for folder in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FOREVER_S)
    assert max(most) == 1
    assert len(refused) == len(copies) - 1
