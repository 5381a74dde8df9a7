"""Bundling is killed, its disk fills up or fails, and training goes on meanwhile: a bundle is
one whole snapshot, or is not there.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback

import pytest

from journaltrack import bundle, open_bundle
from journaltrack.errors import BundleError
from tests.copies import verify_chains
from tests.faults.bundles import journal_of, layout_of, problem_of
from tests.faults.disktrace import Killing, supported
from tests.faults.faulty_disk import Ballast, failing, in_child, small_disk
from tests.faults.hostile import SOAK

WHY_NOT = supported()
BUNDLE = "import sys; from journaltrack import bundle; bundle(sys.argv[1], to=sys.argv[2])"
TRAINING = """
import sys
from pathlib import Path
from journaltrack import Tracker
tracker = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off")
file = Path(sys.argv[2])
for number in range(10**9):
    tracker.log_metric("loss", float(number), iteration_number=number % 2**31)
    if number % 50 == 0:
        file.write_bytes(b"%d " % number * (number % 10_000))
        tracker.log_artifact(file, name=f"a{number % 40}")
    if number % 500 == 0:
        print(number, flush=True)
"""


def dies(work):
    """Do something in a child; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != 1
    return code < 0


def killed(journal, target, at_call):
    """Bundle in a child that is killed at a call of the progress; whether it was."""
    calls = 0

    def count(_progress):
        nonlocal calls
        calls += 1
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    return dies(lambda: bundle(journal, to=target, on_progress=count))


def extraction_killed(path, folder, at_bytes):
    """Extract in a child that is killed when so much is done; whether it was."""

    def stop(progress):
        if progress.done >= at_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        with open_bundle(path) as opened:
            opened.extract(folder, stop)

    return dies(work)


def proved(path, folder):
    """A whole bundle whose journal is sound, with every artifact that it names."""
    assert problem_of(path) is None
    with open_bundle(path) as opened:
        made = opened.extract(folder)
    assert verify_chains(made) == []
    return made


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal for the whole module, with some megabytes of artifacts."""
    chance = random.Random(3)
    return journal_of(
        tmp_path_factory.mktemp("killed"),
        [chance.randbytes(chance.randrange(400_000)) for _ in range(25)],
        metrics=300,
    )


def test_a_killed_run_leaves_no_bundle_and_the_next_one_cleans_up(journal, tmp_path):
    """One kill after another, each a step later: nothing has the name, and what is left does not
    add up.
    """
    calls = 1
    while killed(journal, tmp_path / "b", calls):
        calls += 1 if calls < 40 else 7
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    proved(tmp_path / "b", tmp_path / "out")


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_killed_at_any_change_of_a_file_what_has_the_name_is_whole(journal, tmp_path):
    """Before any write, sync or renaming; the same command makes it then."""
    killing = Killing(BUNDLE, tmp_path)
    folder = tmp_path / "reference"
    folder.mkdir()
    changes = killing.changes(folder, journal, folder / "b")
    chance = random.Random(4)
    for number, first in enumerate(
        [1, 2, changes - 1, changes, *chance.sample(range(3, changes - 1), 20 * SOAK)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for at in (first, chance.randrange(1, changes + 1)):
            killed = killing.killed(folder, journal, folder / "b", at=at)
            assert killed or at != first
            assert not (folder / "b").exists() or problem_of(folder / "b") is None
            if (folder / "b").exists():
                break  # it was killed when it had just named the file
        else:
            assert not killing.killed(folder, journal, folder / "b", at=None)
        assert problem_of(folder / "b") is None
        shutil.rmtree(folder)


def test_training_goes_on_while_its_journal_is_bundled(tmp_path):
    """Appends and artifacts never stop: every bundle is a whole prefix of the journal, with all
    of its artifacts.
    """
    command = [sys.executable, "-c", TRAINING, tmp_path / "journal", tmp_path / "artifact"]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        seen = [0]
        for number in range(4 * SOAK):
            reached = int(training.stdout.readline())
            made = bundle(tmp_path / "journal", to=tmp_path / f"b{number}")
            assert made.last_seq > reached
            assert made.last_seq > seen[-1]
            seen.append(made.last_seq)
            with open_bundle(tmp_path / f"b{number}") as opened:
                assert opened.manifest.last_seq == made.last_seq
            proved(tmp_path / f"b{number}", tmp_path / f"out{number}")
        assert training.poll() is None
    finally:
        training.kill()
        training.wait()
        training.stdout.close()


def fill_up(journal, folder):
    """On a disk that is full in the middle: told, and nothing is left; made when there is room."""
    disk = small_disk(folder, kilobytes=16_000)
    ballast = []

    def fill(progress):
        if progress.done > 1_500_000 and not ballast:
            ballast.append(Ballast(disk))

    with pytest.raises(BundleError, match="No space left") as caught:
        bundle(journal, to=disk / "b", on_progress=fill)
    assert "run the same command again" in caught.value.hint
    names = sorted(path.name for path in disk.iterdir())
    ballast[0].drop()
    made = bundle(journal, to=disk / "b")
    assert made.size_bytes == (disk / "b").stat().st_size
    return names, problem_of(disk / "b"), sorted(path.name for path in disk.iterdir())


def test_a_disk_that_fills_up_is_left_as_it_was(journal, tmp_path):
    """The error says what to do; with room again, the same command makes the bundle."""
    names, problem, in_the_end = in_child(fill_up, journal, tmp_path / "disk")
    assert names == ["ballast"]
    assert problem is None
    assert in_the_end == ["b"]


def no_room(journal, folder):
    disk = small_disk(folder, kilobytes=1_000)
    with pytest.raises(BundleError, match="free; nothing was written"):
        bundle(journal, to=disk / "b")
    bundle(journal, to=folder.parent / "b")
    with (
        open_bundle(folder.parent / "b") as opened,
        pytest.raises(BundleError, match="free; nothing was written"),
    ):
        opened.extract(disk / "out")
    return list(disk.iterdir())


def test_a_disk_that_is_too_small_is_told_at_once(journal, tmp_path):
    """Before an hour of copying to a slow stick, and before anything is left there; extracting
    does the same.
    """
    assert in_child(no_room, journal, tmp_path / "disk") == []


def broken_disk(journal, folder):
    """fsync fails: the bundle has no name, and a later run that succeeds gives it one."""
    with pytest.raises(BundleError, match="Input/output error"):
        failing(lambda: bundle(journal, to=folder / "b"), ("fsync", "fdatasync"), errno.EIO)
    left = sorted(path.name for path in folder.iterdir())
    bundle(journal, to=folder / "b")
    return left, problem_of(folder / "b")


def test_a_disk_that_does_not_confirm_gives_no_bundle(journal, tmp_path):
    """What is not known to be on the disk has no name."""
    (tmp_path / "disk").mkdir()
    assert in_child(broken_disk, journal, tmp_path / "disk") == ([], None)


def test_a_killed_extraction_is_no_journal_and_in_nobodys_way(journal, tmp_path):
    """Whatever the moment: the folder is not there, or is whole; the next extraction cleans up."""
    bundle(journal, to=tmp_path / "b")
    layout = layout_of(tmp_path / "b")
    blobs_bytes = sum(layout.manifest.blobs.values())
    total = blobs_bytes + layout.database.size_bytes
    for at_bytes in [*range(0, total, total // 12), total]:
        assert extraction_killed(tmp_path / "b", tmp_path / "out", at_bytes)
        assert not (tmp_path / "out").exists()
        assert at_bytes > blobs_bytes or not (tmp_path / ".out.partial" / "journal.db").exists()
    proved(tmp_path / "b", tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()
