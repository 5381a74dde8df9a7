"""Training with a mirror: kills, lost nodes, ranks, forks, and shared folders that fail."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from journaltrack import Tracker
from journaltrack.compat.sagemaker import Run
from journaltrack.journal.journal import Journal
from journaltrack.mirror import copies, folders
from journaltrack.mirror.beside import Post
from journaltrack.mirror.check import check
from journaltrack.mirror.follower import Follower
from tests.copies import content, sound
from tests.faults import faulty_disk
from tests.faults.shared_disk import SharedDisk
from tests.patience import FOREVER_S, scaled

TRAIN = """
import sys, time
from pathlib import Path
from journaltrack import Tracker
from journaltrack.mirror.beside import Post
tracker = Tracker.create(
    trial_component_name="run", journal=sys.argv[1], mirror=sys.argv[2], resume=True,
    close_deadline_s=600,
)
first = int(sys.argv[3])
for step in range(first, first + 50):
    tracker.log_metric("loss", float(step), iteration_number=step)
tracker.flush()
print("logged", flush=True)
if len(sys.argv) > 4:
    tracker.close()
sys.stdin.read()
"""


def training(journal, mirror, first=0, *arguments, **kwargs):
    """Start a process that logs 50 points, and waits; returns it when it has logged them."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(journal), str(mirror), str(first), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )
    assert process.stdout.readline() == "logged\n"
    return process


def until(true):
    """Wait until something becomes true, however long the machine takes."""
    end = time.monotonic() + FOREVER_S
    while not (found := true()):
        assert time.monotonic() < end
        threading.Event().wait(0.02)
    return found


def mirrors(journal, mirror):
    """The processes that mirror a journal."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--child" in words and os.fsencode(journal) in words and os.fsencode(mirror) in words:
            found.append(int(file.parent.name))
    return found


def answered(journal, mirror):
    """Wait until a process has mirrored what is there now."""
    post = Post(journal, mirror)
    wanted = post.hurry()
    until(lambda: post.told().answered >= wanted)
    return post.told()


def alone(journal, mirror):
    """Wait until the process that mirrors has ended by itself."""
    post = Post(journal, mirror)
    until(lambda: post.is_running() or post.told().answered)
    with (journal / post.running).open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)


def read(mirror, home, monkeypatch):
    """What a login node has of the only journal of a mirror, proved."""
    assert all(each.is_well for each in check(folders.opened(mirror)))
    monkeypatch.setenv("JOURNALTRACK_HOME", str(home))
    (copied,) = copies.extended(mirror)
    assert (copied.problem, copied.notes) == (None, [])
    sound(copied.folder)
    return content(copied.folder)


def losses(journal):
    """The points of a journal, sorted."""
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        return sorted(
            value
            for (value,) in opened.database.read("SELECT value FROM entry WHERE stream = 'metric'")
        )


def tracker(tmp_path, **options):
    """A tracker with a mirror, whose close waits as long as the machine takes."""
    known = {
        "trial_component_name": "run",
        "journal": tmp_path / "journal",
        "mirror": tmp_path / "mirror",
        "close_deadline_s": FOREVER_S,
    }
    return Tracker.create(**(known | options))


def test_close_waits_until_everything_is_mirrored(tmp_path, monkeypatch):
    """When a tracker is closed, its entries and artifacts are in the mirror. The process that
    wrote them ends by itself, and holds no pipe of the trainer.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    process = training(journal, mirror, 0, "close")
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, "")
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    (tmp_path / "model").write_bytes(b"weights" * 1_000)
    with tracker(tmp_path, resume=True) as run:
        run.log_artifact(tmp_path / "model")
    assert list(mirror.glob("*/blobs/*/*"))
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    alone(journal, mirror)


def test_what_a_killed_trainer_logged_is_mirrored_by_the_process_beside_it(tmp_path, monkeypatch):
    """SIGKILL of a trainer and its process group at once: the rest is mirrored, by a process that
    then ends.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    process = training(journal, mirror, start_new_session=True)
    until(lambda: mirrors(journal, mirror))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    alone(journal, mirror)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)


def test_a_process_that_mirrors_and_is_killed_is_replaced(tmp_path, monkeypatch):
    """Killed again and again, at any moment, it is started again while the trainer lives, and
    no entry is mirrored twice or lost.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    with tracker(tmp_path, resume=True) as run:
        for step in range(scaled(3)):
            for number in range(40):
                run.log_metric("loss", float(number), iteration_number=40 * step + number)
            for pid in until(lambda: mirrors(journal, mirror)):
                # One that only looks whether another one runs has ended meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not Post(journal, mirror).is_running())
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))


def test_ranks_of_a_node_share_one_process(tmp_path, monkeypatch):
    """Four ranks that start at once have one process beside them, and each of their closes waits
    for its own entries.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    command = [sys.executable, "-c", TRAIN, str(journal), str(mirror)]
    ranks = [
        subprocess.Popen([*command, str(50 * rank), "close"], stdin=subprocess.DEVNULL)
        for rank in range(4)
    ]
    assert [rank.wait() for rank in ranks] == [0] * 4
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert len(folders.opened(mirror).replicas(folders.opened(mirror).journals()[0])) == 1
    until(lambda: len(mirrors(journal, mirror)) <= 1)
    alone(journal, mirror)


def test_a_lost_node_is_continued_elsewhere_from_its_mirror(tmp_path, monkeypatch):
    """The node's processes are killed and its disk is gone. With ``resume=True`` another node
    continues the run, offline, in a copy of the same journal; so does a third one at once. All of
    them converge.
    """
    lost, mirror = tmp_path / "lost" / "journal", tmp_path / "mirror"
    process = training(lost, mirror, start_new_session=True)
    answered(lost, mirror)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in mirrors(lost, mirror):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    known = content(lost)
    shutil.rmtree(tmp_path / "lost")
    nodes = [
        training(
            tmp_path / f"node{n}" / "journal", mirror, 100 * n, "close", start_new_session=n > 1
        )
        for n in (1, 2)
    ]
    for node in nodes:
        node.communicate()
    found = read(mirror, tmp_path / "home", monkeypatch)
    assert known.items() <= found.items()
    expected = [float(n) for first in (0, 100, 200) for n in range(first, first + 50)]
    for n in (1, 2):
        journal = tmp_path / f"node{n}" / "journal"
        alone(journal, mirror)
        Follower(journal, folders.opened(mirror)).once()
        assert content(journal) == found
        assert losses(journal) == expected
    run = Tracker.load("run", journal=tmp_path / "fourth", mirror=mirror, sync="off")
    assert run.trial_component.trial_component_name == "run"
    run.close()
    assert losses(tmp_path / "fourth") == expected


def test_a_run_that_no_journal_of_the_mirror_knows_begins_anew(tmp_path):
    """The first start of a script with ``resume=True`` reads nothing of other runs."""
    with tracker(tmp_path, trial_component_name="other"):
        pass
    with tracker(tmp_path, journal=tmp_path / "node2" / "journal", resume=True):
        pass
    assert len(folders.opened(tmp_path / "mirror").journals()) == 2


def test_a_folder_that_goes_away_disturbs_no_training(tmp_path, monkeypatch, caplog):
    """While the mirror's folder is away, or something else is in its place, calls return at once,
    and a close says what waits. It is mirrored when the folder is back, once.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    run = tracker(tmp_path)
    run.log_metric("loss", 0.0, iteration_number=0)
    answered(journal, mirror)
    mirror.rename(tmp_path / "away")
    run.log_metric("loss", 1.0, iteration_number=1)
    assert "was removed" in answered(journal, mirror).problem
    mirror.write_text("a file")
    run.log_metric("loss", 2.0, iteration_number=2)
    run.close()
    assert "run is not mirrored completely" in caplog.text
    assert not mirror.is_dir()
    mirror.unlink()
    (tmp_path / "away").rename(mirror)
    with tracker(tmp_path, resume=True) as run:
        run.log_metric("loss", 3.0, iteration_number=3)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))


def test_a_mirror_that_was_emptied_is_written_anew(tmp_path, monkeypatch):
    """Somebody removes all that is in the folder: everything comes again, as a whole."""
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    with tracker(tmp_path) as run:
        run.log_metric("loss", 0.0, iteration_number=0)
        answered(journal, mirror)
        for each in mirror.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        run.log_metric("loss", 1.0, iteration_number=1)
        until(lambda: answered(journal, mirror).problem is None and folders.opened(mirror))
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)


def full_then_read_only(folder):
    """A mirror on a disk that is full, then read-only, then neither."""
    mirror = faulty_disk.small_disk(folder / "shared", 400) / "mirror"
    folders.opened(mirror, create=True)
    ballast = faulty_disk.Ballast(mirror.parent)
    with tracker(folder, mirror=mirror) as run:
        for step in range(200):
            run.log_metric("loss", float(step), iteration_number=step)
        assert answered(folder / "journal", mirror).problem
        ballast.drop()
        faulty_disk.mount(mirror.parent, mirror.parent, None, faulty_disk.MS_BIND)
        faulty_disk.remount(mirror.parent, writable=False)
        run.log_metric("loss", 200.0, iteration_number=200)
        assert answered(folder / "journal", mirror).problem
        faulty_disk.remount(mirror.parent, writable=True)
    os.environ["JOURNALTRACK_HOME"] = str(folder / "home")
    (copied,) = copies.extended(mirror)
    assert content(copied.folder) == content(folder / "journal")


def test_a_shared_disk_that_is_full_or_read_only_disturbs_no_training(tmp_path):
    """Meanwhile calls return, and everything is mirrored when there is room again."""
    faulty_disk.assert_in_child(full_then_read_only, tmp_path)


def test_a_forked_child_logs_into_the_same_mirror(tmp_path, monkeypatch):
    """What a forked worker logs is mirrored, also what it logs after its parent was killed."""
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        run = tracker(tmp_path)
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        run.log_metric("loss", 1.0, iteration_number=1)
        os.write(writing, b"x")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
    alone(journal, mirror)
    assert losses(journal) == [1.0]
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)


UNPICKLED = """
import pickle, sys
with open(sys.argv[1], "rb") as stream:
    tracker = pickle.load(stream)
print("ready", flush=True)
sys.stdin.read()
tracker.log_metric("loss", 1000.0, iteration_number=1000)
"""


def test_a_process_that_got_the_tracker_logs_into_the_same_mirror(tmp_path, monkeypatch):
    """What a spawned worker logs is mirrored, also what it logs after the process that made the
    tracker was killed: who mirrors waits for the worker.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    pickled = tmp_path / "pickled"
    code = TRAIN.replace("first = ", f"import pickle; Path({str(pickled)!r}).write_bytes("
                         "pickle.dumps(tracker)); first = ")  # fmt: skip
    monkeypatch.setattr(sys.modules[__name__], "TRAIN", code)
    parent = training(journal, mirror)
    worker = subprocess.Popen(
        [sys.executable, "-c", UNPICKLED, str(pickled)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate()
    assert Post(journal, mirror).is_used()
    worker.communicate()
    assert worker.returncode == 0
    alone(journal, mirror)
    assert 1000.0 in losses(journal)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)


def test_sigterm_to_the_process_beside_waits_for_the_last_word_of_the_trainer(
    tmp_path, monkeypatch
):
    """A scheduler signals all processes of a job. What a trainer logs after that is mirrored,
    too, and the process ends with the last one that logs.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    with tracker(tmp_path) as run:
        answered(journal, mirror)
        (pid,) = until(lambda: mirrors(journal, mirror))
        os.kill(pid, signal.SIGTERM)
        run.log_metric("loss", 1.0, iteration_number=1)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    alone(journal, mirror)


def test_flush_mirrors_at_once(tmp_path, monkeypatch):
    """Whatever the interval is, a flush asks for a segment."""
    monkeypatch.setenv("JOURNALTRACK_MIRROR_EVERY_S", "3600")
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    with tracker(tmp_path) as run:
        answered(journal, mirror)
        run.log_metric("loss", 1.0, iteration_number=1)
        run.flush()
        until(
            lambda: (
                sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))
            )
        )


def test_one_that_mirrors_by_hand_does_not_disturb(tmp_path, monkeypatch):
    """`journaltrack mirror` beside a training, or after it, adds what is missing, and no more."""
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    with tracker(tmp_path) as run:
        for step in range(5):
            run.log_metric("loss", float(step), iteration_number=step)
            Follower(journal, folders.opened(mirror, create=True)).once()
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))


def test_a_follower_by_hand_takes_the_place_of_the_process_beside(tmp_path, monkeypatch):
    """Where `journaltrack mirror --follow` runs, as a side-car does, trackers with the same mirror
    start no process, and their closes wait for that one.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    follower = subprocess.Popen(
        [sys.executable, "-m", "journaltrack", "mirror", "--follow", journal, mirror],
        stdout=subprocess.DEVNULL,
    )
    Journal.open(journal).close()
    until(Post(journal, mirror).is_running)
    with tracker(tmp_path) as run:
        run.log_metric("loss", 1.0, iteration_number=1)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert mirrors(journal, mirror) == []
    follower.terminate()
    assert follower.wait() == 0


def test_a_shared_folder_that_hangs_delays_a_close_by_its_deadline_alone(tmp_path, caplog):
    """The process beside is stopped, as by a file server that does not answer: calls and flushes
    return, and a close warns behind its deadline. Afterwards everything is mirrored.
    """
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    run = tracker(tmp_path, close_deadline_s=0.2)
    answered(journal, mirror)
    (pid,) = until(lambda: mirrors(journal, mirror))
    os.kill(pid, signal.SIGSTOP)
    run.log_metric("loss", 1.0, iteration_number=1)
    run.flush()
    run.close()
    assert "the time of close_deadline_s was over" in caplog.text
    assert f"journaltrack mirror {journal} {mirror}" in caplog.text
    os.kill(pid, signal.SIGCONT)
    alone(journal, mirror)
    assert sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))


def hung_at_the_start(place):
    """A training begins while the file server does not answer."""
    disk = SharedDisk(place / "node")
    disk.set(is_paused=True)
    journal, mirror = place / "journal", place / "node" / "mirror"
    run = Tracker.create(
        trial_component_name="run", journal=journal, mirror=mirror, close_deadline_s=0.1
    )
    until(Post(journal, mirror).is_running)
    assert len(mirrors(journal, mirror)) == 1
    run.close()
    disk.set(is_paused=False)
    alone(journal, mirror)
    assert sum(each.entries for each in check(folders.opened(mirror))) == len(content(journal))
    disk.close()


def test_one_process_waits_for_a_folder_that_hangs_from_the_start(tmp_path):
    """The process beside takes its place before it looks at the folder, so that nobody starts
    another one, and another one, while that hangs.
    """
    faulty_disk.assert_in_child(hung_at_the_start, tmp_path)


def test_every_front_door_mirrors_what_the_configuration_says(tmp_path, monkeypatch):
    """SageMaker's ``Run``, `journaltrack run`, and a tracker of one's own, by a variable alone."""
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    monkeypatch.setenv("JOURNALTRACK_MIRROR", str(mirror))
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(journal))
    monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", str(FOREVER_S))
    with Run(experiment_name="experiment", run_name="one") as run:
        run.log_metric("loss", 1.0, step=1)
    script = "from journaltrack import Tracker; Tracker.create().log_metric('loss', 2.0)"
    command = [sys.executable, "-m", "journaltrack", "run", "--name", "two", "--"]
    subprocess.run([*command, sys.executable, "-c", script], check=True)
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    assert losses(journal) == [1.0, 2.0]


def test_where_no_child_is_possible_a_thread_mirrors(tmp_path, monkeypatch):
    """As in a frozen program: the same promises, and the journal can be opened again and again."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    journal, mirror = tmp_path / "journal", tmp_path / "mirror"
    for step in range(3):
        with tracker(tmp_path, resume=True) as run:
            run.log_metric("loss", float(step), iteration_number=step)
        assert mirrors(journal, mirror) == []
    assert read(mirror, tmp_path / "home", monkeypatch) == content(journal)
    until(lambda: not Post(journal, mirror).is_running())
