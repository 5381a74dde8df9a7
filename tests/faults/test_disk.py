"""The journal's disk is full, broken or read-only: training goes on, nothing acknowledged is lost,
and every error says so.

Real faults (``faulty_disk``), each in a process of its own; what is left is counted by plain
sqlite3.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Journal, Tracker, cli
from journaltrack.errors import JournalError, JournalFullError, JournalWriteError
from tests.faults.faulty_disk import (
    MS_RDONLY,
    MS_REMOUNT,
    NAMES,
    READS,
    SYNCS,
    WRITES,
    Ballast,
    Training,
    assert_in_child,
    failing,
    in_child,
    mount,
    own_mounts,
    small_disk,
    warned,
    whole,
    written,
)
from tests.patience import FOREVER_S


def refused_at_close(training):
    """How many entries ``close`` says are unwritten."""
    with pytest.raises(JournalWriteError) as caught:
        training.tracker.close()
    assert caught.value.hint
    return caught.value.unwritten


# -- full
# ------------------------------------------------------------------------------------------------


def full_while_logging(folder):
    disk = small_disk(folder)
    training = Training(disk / "j")
    training.log(50)
    ballast = Ballast(disk)
    with warned() as texts:
        training.log(2_000)
    assert len(texts) == 1, texts
    assert "no space is left" in texts[0]
    waiting = training.journal().unwritten
    assert refused_at_close(training) == waiting > 1_000
    # also now, for everybody
    assert written(disk / "j") == list(range(training.acknowledged - waiting))
    ballast.drop()
    training.log(10)
    training.tracker.close()
    assert whole(disk / "j", training.acknowledged)


def test_a_full_disk_delays_entries_and_loses_none(tmp_path):
    """While the disk is full 2,000 calls return, warned once; close says how many wait; with
    room all are written in order.
    """
    assert_in_child(full_while_logging, tmp_path / "disk")


def full_to_the_end(folder):
    disk = small_disk(folder)
    training = Training(disk / "j")
    training.log(50)
    ballast = Ballast(disk)
    with warned():
        training.log(500)
    os.environ["JOURNALTRACK_HOME"] = str(disk.parent / "elsewhere")
    with pytest.raises(
        JournalWriteError, match="A copy of them is on the disk, in a journal of its own at"
    ) as caught:
        training.tracker.close()
    copies = list((disk.parent / "elsewhere").iterdir())
    assert [str(copy) in str(caught.value) for copy in copies] == [True]
    assert len(written(copies[0])) == caught.value.unwritten
    assert sorted(written(disk / "j") + written(copies[0])) == list(range(550))
    into = disk.parent / "merged"
    for source in (disk / "j", copies[0]):
        assert (
            CliRunner().invoke(cli.main, ["merge", str(source), "--into", str(into)]).exit_code == 0
        )
    assert sorted(written(into)) == list(range(550))
    ballast.drop()
    training.tracker.close()
    assert whole(disk / "j", 550)
    assert not copies[0].exists()


def test_what_a_full_disk_never_takes_is_kept_elsewhere(tmp_path):
    """A close in vain names a journal of its own that has the rest and can be merged; one that
    succeeds removes it.
    """
    assert_in_child(full_to_the_end, tmp_path / "disk")


def full_with_raise(folder):
    disk = small_disk(folder)
    training = Training(disk / "j", on_journal_error="raise")
    ballast = Ballast(disk)
    with pytest.raises(JournalFullError):
        training.log(2_000)
    ballast.drop()
    training.log(10)
    training.tracker.close()
    assert whole(disk / "j", training.acknowledged)


def test_a_full_disk_raises_at_the_call_for_who_wants_that(tmp_path):
    """With on_journal_error="raise" the call that failed was not recorded, and the chain goes on
    without it.
    """
    assert_in_child(full_with_raise, tmp_path / "disk")


def full_for_an_artifact(folder):
    disk = small_disk(folder)
    (disk.parent / "model").write_bytes(os.urandom(400_000))
    training = Training(disk / "j")
    training.log(5)
    ballast = Ballast(disk, leave_bytes=200_000)
    with pytest.raises(JournalFullError, match="not logged"):
        training.tracker.log_artifact(disk.parent / "model")
    assert [p for p in (disk / "j" / "spool").rglob("*") if p.is_file()] == []
    training.log(5)
    ballast.drop()
    training.tracker.log_artifact(disk.parent / "model")
    training.tracker.close()
    assert whole(disk / "j", 10)
    with closing(sqlite3.connect(disk / "j" / "journal.db")) as connection:
        assert connection.execute(
            "SELECT count(*) FROM entry WHERE kind = 'upload'"
        ).fetchone() == (1,)


def test_an_artifact_that_does_not_fit_is_an_error_and_leaves_nothing(tmp_path):
    """No half blob, no entry, a clear error; metrics go on, and with room the same call
    succeeds.
    """
    assert_in_child(full_for_an_artifact, tmp_path / "disk")


def full_at_create(folder, leave_bytes):
    disk = small_disk(folder)
    ballast = Ballast(disk, leave_bytes)
    with pytest.raises(JournalError) as caught:
        Training(disk / "j")
    assert caught.value.hint
    ballast.drop()
    training = Training(disk / "j")
    training.log(10)
    training.tracker.close()
    assert whole(disk / "j", 10)


@pytest.mark.parametrize("leave_bytes", [0, 8_192, 40_000])
def test_a_disk_that_is_full_at_the_start_leaves_nothing_in_the_way(tmp_path, leave_bytes):
    """No journal can be made: an error with a hint, and with room it can."""
    assert_in_child(full_at_create, tmp_path / "disk", leave_bytes)


def full_at_the_checkpoint(folder):
    disk = small_disk(folder, 16_384)
    training = Training(disk / "j")
    training.journal()._checkpoint_seq = 10_000  # nothing is written back beside this
    training.log(2_000)  # the database grew at automatic checkpoints; what comes now is in the log
    database = training.journal().database
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    training.log(900)
    ballast = Ballast(disk)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with warned():
        training.log(500)
    ballast.drop()
    training.tracker.close()
    assert whole(disk / "j", 3_400)


def test_a_checkpoint_that_finds_no_room_harms_nothing(tmp_path):
    """Entries stay in the log, and get into the database when there is room."""
    assert_in_child(full_at_the_checkpoint, tmp_path / "disk")


def within_a_limit_of_size(folder):
    training = Training(folder / "j")
    training.log(50)
    size = (folder / "j" / "journal.db-wal").stat().st_size
    # One that finds no room itself, and one whose entry finds none.
    (folder / "large").write_bytes(os.urandom(size + 100_000))
    (folder / "small").write_bytes(b"model")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, hard))
    with warned() as texts:
        training.log(500)
    assert len(texts) == 1, texts
    for name in ("large", "small"):
        with pytest.raises(JournalWriteError, match="not logged"):
            training.tracker.log_artifact(folder / name)
    assert refused_at_close(training) > 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    training.tracker.close()
    assert whole(folder / "j", 550)


def test_a_limit_of_file_size_is_like_a_full_disk(tmp_path):
    """RLIMIT_FSIZE (``ulimit -f``) neither kills training nor loses an entry; lifted, everything
    is written.
    """
    assert_in_child(within_a_limit_of_size, tmp_path)


# -- broken
# ------------------------------------------------------------------------------------------------

BROKEN = {"write": WRITES, "sync": SYNCS, "write and sync": WRITES + SYNCS, "read": READS}


def broken_for_a_while(folder, calls, number, durability):
    training = Training(folder / "j", durability=durability)
    training.log(100)

    def on_the_broken_disk():
        with warned() as texts:
            training.log(200)
        return texts

    texts = failing(on_the_broken_disk, calls, number)
    waiting = training.journal().unwritten
    assert len(texts) == (waiting > 0), texts
    assert len(written(folder / "j")) == 300 - waiting
    training.log(5)
    training.tracker.close()
    assert whole(folder / "j", 305)
    return waiting


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("calls", BROKEN)
def test_io_errors_delay_entries_and_lose_none(tmp_path, calls, durability):
    """Whatever fails with EIO: no call raises, what was acknowledged as written is there, the
    rest waits and is written later.
    """
    waiting = in_child(broken_for_a_while, tmp_path, BROKEN[calls], errno.EIO, durability)
    assert waiting == (
        200 if "write" in calls or (durability == "power" and calls == "sync") else 0
    )


def test_a_file_system_that_turns_read_only_delays_entries(tmp_path):
    """As ext4 does after an error: open files can't be written any more (EROFS); after the
    repair everything is.
    """
    assert in_child(broken_for_a_while, tmp_path, WRITES, errno.EROFS, "process") == 200


def flush_after_a_failed_one(folder):
    training = Training(folder / "j")
    training.log(100)
    with pytest.raises(JournalWriteError, match="flush"):
        failing(training.tracker.flush, SYNCS)
    with closing(sqlite3.connect(folder / "j" / "journal.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchall()
        training.journal().database.set_busy_timeout(0)
        with pytest.raises(JournalWriteError, match="can't be repeated"):
            training.tracker.flush()
        reader.execute("ROLLBACK")
    training.tracker.flush()
    shutil.copyfile(folder / "j" / "journal.db", folder / "alone.db")  # without its log
    with closing(sqlite3.connect(folder / "alone.db")) as connection:
        assert connection.execute(
            "SELECT count(*) FROM entry WHERE stream = 'metric'"
        ).fetchone() == (100,)


def test_a_flush_after_a_failed_one_does_the_work_again(tmp_path):
    """The kernel tells of a failed write-back once: the next flush may not take fsync's word for
    what was written before.
    """
    assert_in_child(flush_after_a_failed_one, tmp_path)


def artifact_on_a_broken_disk(folder, calls):
    (folder / "model").write_bytes(b"weights" * 1000)
    training = Training(folder / "j", durability="power")
    with pytest.raises(JournalWriteError, match="not logged"):
        failing(lambda: training.tracker.log_artifact(folder / "model"), calls)
    assert [
        p.name for p in (folder / "j" / "spool").rglob("*") if p.name.startswith("incoming")
    ] == []
    training.tracker.log_artifact(folder / "model")
    training.tracker.close()
    assert whole(folder / "j", 0)


@pytest.mark.parametrize("calls", [("write",), SYNCS])
def test_an_artifact_on_a_broken_disk_is_an_error(tmp_path, calls):
    """Neither a failed write nor a failed fsync leaves a blob that counts; the next call stores
    it.
    """
    assert_in_child(artifact_on_a_broken_disk, tmp_path, calls)


def artifact_that_a_flush_finds_broken(folder):
    (folder / "model").write_bytes(os.urandom(1 << 20))
    training = Training(folder / "j")
    training.tracker.log_artifact(folder / "model")
    with pytest.raises(JournalWriteError, match=r"could not be (copied|written)"):
        failing(training.tracker.flush, SYNCS)
    training.tracker.close()
    assert whole(folder / "j", 0)


def test_a_flush_on_a_broken_disk_tells_of_an_artifact(tmp_path):
    """Without a wait of its own, a call succeeds; the barrier raises until the disk takes it."""
    assert_in_child(artifact_that_a_flush_finds_broken, tmp_path)


def fork_onto_a_broken_disk(folder):
    training = Training(folder / "j")
    training.log(10)
    child = os.fork()
    if child == 0:  # as a DataLoader's worker: its first entry is the first that its writer makes
        try:
            with warned():
                failing(lambda: training.log(10), WRITES)
            waited = training.journal().unwritten
            training.log(10)
            training.tracker.close()
            os._exit(0 if waited == 10 and not training.journal().unwritten else 1)
        finally:
            os._exit(2)
    # the fork took the parent's connection: it can't be opened again either
    with warned() as texts:
        failing(lambda: training.log(20), ("open",))
    assert len(texts) == 1, texts
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    training.tracker.close()
    assert sorted(written(folder / "j")) == sorted([*range(30), *range(10, 30)])
    with closing(Journal.open(folder / "j", read_only=True)) as journal:
        assert len(journal.database.read("SELECT * FROM writer")) == 2


def test_a_fork_onto_a_broken_disk_raises_on_neither_side(tmp_path):
    """A child whose first entry finds a broken disk, and a parent that can't open the journal
    again: both go on, nothing is lost.
    """
    assert_in_child(fork_onto_a_broken_disk, tmp_path)


def out_of_sight(folder, number, connected):
    training = Training(folder / "j")
    training.log(20)
    if not connected:
        training.journal().database.rest()

    def on_a_folder_out_of_sight():
        with warned() as texts:
            for _ in range(5):
                journal = training.journal()
                # As if time had passed since the last look.
                journal._looked_ns = journal._locks_ns = 0
                training.log(10)
            training.tracker.log_parameters({"a": 1, "b": "text"})
        return texts

    texts = failing(on_a_folder_out_of_sight, NAMES, number)
    waiting = training.journal().unwritten
    assert waiting == (0 if connected else 52)
    assert len(texts) == (0 if connected else 1)
    assert all(errno.errorcode[number] in text for text in texts), texts
    training.log(5)
    training.tracker.close()
    assert whole(folder / "j", 75)
    assert not list(folder.glob("j.rescued*"))


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_folder_that_can_not_be_looked_at_is_not_a_deleted_one(tmp_path, number, connected):
    """No permission for a moment, a restarted file server: no call raises, the warning names the
    reason, all is written later.
    """
    assert_in_child(out_of_sight, tmp_path, number, connected)


# -- read-only media
# ------------------------------------------------------------------------------------------------


def shown(folder):
    """Exit codes of the commands that read."""
    runner = CliRunner()
    commands = (
        ["status", str(folder)],
        ["audit", str(folder)],
        ["show", "run", "--journal", str(folder)],
    )
    results = [runner.invoke(cli.main, arguments) for arguments in commands]
    for result in results:
        assert "Traceback" not in result.output
    assert "95" in results[0].output, results[0].output
    return [result.exit_code for result in results]


def read_only_media(folder, log):
    own_mounts()
    folder.mkdir()
    mount("tmpfs", folder, "tmpfs")
    if log:  # as a kill leaves it; the index of the log stays on the node
        child = os.fork()
        if child == 0:
            Training(folder / "j").log(95)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (folder / "j" / "journal.db-shm").unlink()
    else:
        training = Training(folder / "j")
        training.log(95)
        training.tracker.close()
    before = sorted(p.name for p in (folder / "j").iterdir())
    assert ("journal.db-wal" in before) == log
    mount(None, folder, None, MS_REMOUNT | MS_RDONLY)
    codes = shown(folder / "j")
    assert sorted(p.name for p in (folder / "j").iterdir()) == before
    with pytest.raises(JournalError) as caught:
        Tracker.create(journal=folder / "j", sync="off")
    assert caught.value.hint
    return codes


@pytest.mark.parametrize("log", [True, False])
def test_read_only_media_can_be_read(tmp_path, log):
    """status, audit and show work on read-only media: also on the journal of a process that was
    killed, with its log.
    """
    assert in_child(read_only_media, tmp_path / "media", log) == [0, 3, 0]


# -- no write-ahead log
# ------------------------------------------------------------------------------------------------

NETWORK = "36 35 98:0 / / rw,noatime master:1 - nfs4 server:/export rw\n"

WRITER = """
import pathlib, sys
from journaltrack import Journal; from journaltrack.util import paths
real = paths.network_file_system
paths.network_file_system = lambda folder: real(folder, pathlib.Path(sys.argv[2]))
journal = Journal.open(sys.argv[1])
component = journal.component("run")
for number in range(int(sys.argv[4])):
    journal.append_metric(component, sys.argv[3], float(number), number, 1)
    print(number, flush=True)
if sys.argv[3] != "killed":
    journal.close()
"""


def test_a_journal_without_a_write_ahead_log_holds_too(tmp_path):
    """As on NFS: several writers at once, one killed in the midst of it, readers beside them;
    everything acknowledged is there.
    """
    (tmp_path / "mounts").write_text(NETWORK)
    command = [sys.executable, "-c", WRITER, tmp_path / "j", tmp_path / "mounts"]
    # made there: a mode is not changed while others have the journal open
    subprocess.run([*command, "first", "0"], check=True)
    started = [
        subprocess.Popen(
            [*command, name, count], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, count in (("one", "15"), ("two", "15"), ("killed", "100000"))
    ]
    acknowledged = 0
    for line in started[2].stdout:
        acknowledged = int(line) + 1
        if acknowledged == 8:
            assert len(written(tmp_path / "j")) >= acknowledged
            break
    started[2].send_signal(signal.SIGKILL)
    acknowledged += len(started[2].stdout.readlines())
    for process in started[:2]:
        output, problems = process.communicate()
        assert len(output.splitlines()) == 15, problems
    started[2].wait()
    started[2].stdout.close()
    started[2].stderr.close()
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db", timeout=FOREVER_S)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        found = dict(
            connection.execute("SELECT name, count(*) FROM entry GROUP BY name").fetchall()
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert (found["one"], found["two"]) == (15, 15)
    assert acknowledged <= found["killed"] <= acknowledged + 1
