"""Disks that are full, read-only or broken, journals deleted under a live tracker: nothing that was
acknowledged is lost.

The errors come from the kernel's side (`disktrace` answers the program's calls), or from a real
file system that is full; what is there is counted by plain sqlite3.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack import Tracker, errors
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from tests.copies import verify_chains
from tests.faults import disktrace, power_programs, refusing_programs
from tests.faults.test_power_loss import entries_in

WHY_NOT = disktrace.supported()
traced = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
NAMESPACES = (
    subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        check=False,
        capture_output=True,
    ).returncode
    == 0
    if shutil.which("unshare")
    else False
)


def run(tmp_path, scenario, *arguments, reads=False):
    """Run a scenario; what it saw, the journal's folder, the calls that returned, how many
    system calls failed.
    """
    (tmp_path / "disk").mkdir()
    environment = os.environ | {
        "JOURNALTRACK_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [
        refusing_programs.__file__,
        scenario,
        tmp_path / "disk",
        tmp_path / "acks",
        *arguments,
    ]
    events, code, failed = disktrace.record(
        command,
        folder=tmp_path / "disk",
        acknowledgements=tmp_path / "acks",
        env=environment,
        reads=reads,
    )
    assert code == 0
    lines = [event.data.decode().strip() for event in events if event.kind == "ack"]
    saw = [line.removeprefix("saw ") for line in lines if line.startswith("saw ")]
    returned = [int(line.split()[2]) for line in lines if line.startswith("call ")]
    return saw, tmp_path / "disk" / "journal", returned, failed, lines


def check_calls(folder, returned):
    """Every call that returned is there once, in order; every chain holds."""
    there = entries_in(folder)
    for number in returned:
        for each in power_programs.expected("w", number):
            assert there[each] == 1, (number, each, there[each])
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        values = [
            value
            for (value,) in connection.execute(
                "SELECT value FROM entry WHERE name = 'w' ORDER BY seq"
            )
        ]
    assert values == sorted(values)
    assert verify_chains(folder) == []


FAULTS = [
    ("ENOSPC", "write,create,truncate", "*"),
    ("EDQUOT", "write,create,truncate", "*"),
    ("EROFS", "write,create,open,truncate,name,sync", "*"),
    ("EIO", "write", "*-wal"),
    ("EIO", "sync", "*-wal"),
    # the log can be written, but not back into the database
    ("EIO", "write,sync,truncate", "*/journal.db"),
]


@traced
@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: "-".join(f).replace("*", ""))
def test_entries_wait_while_the_disk_refuses(tmp_path, durability, fault):
    """No call raises but that of an artifact; one warning; everything is written, in order, when
    the disk takes it again.
    """
    saw, folder, returned, failed, _ = run(tmp_path, "faulty", durability, "buffer", *fault)
    refused = [line for line in saw if line.startswith("raised")]
    # the one artifact among them has nowhere to be copied to
    assert {int(line.split()[1]) for line in refused} <= {19}
    assert set(returned) == set(range(22)) - {int(line.split()[1]) for line in refused}
    assert "closed 0" in saw
    check_calls(folder, returned)
    waited = int(next(line for line in saw if line.startswith("unwritten")).split()[1])
    warned = json.loads(
        next(line for line in saw if line.startswith("warned")).removeprefix("warned ")
    )
    assert len([1 for category, _ in warned if category == "RuntimeWarning"]) == (
        1 if waited else 0
    )
    if fault[2] == "*-wal" and (fault[1] == "write" or durability == "power"):
        assert failed
        assert waited
    if fault == ("EIO", "sync", "*-wal"):  # nobody may believe that it is on the disk
        assert any(line.startswith("flush JournalWriteError") for line in saw)


@traced
def test_a_refusing_disk_can_raise_instead(tmp_path):
    """With on_journal_error="raise" the call raises, nothing of it is recorded, and later ones
    go on.
    """
    saw, folder, returned, _, _ = run(tmp_path, "faulty", "process", "raise", *FAULTS[0])
    assert len([line for line in saw if line.startswith("raised")]) == 10
    assert "unwritten 0" in saw
    check_calls(folder, returned)
    there = entries_in(folder)
    assert not any(
        there[each] for number in range(10, 20) for each in power_programs.expected("w", number)
    )


@traced
def test_a_close_on_a_full_disk_says_what_is_not_written(tmp_path):
    """JournalWriteError with the number; the same close works later, and nothing was lost."""
    saw, folder, returned, _, _ = run(tmp_path, "closing_while_full", *FAULTS[0])
    assert saw == ["close JournalWriteError 3", "close fine"]
    check_calls(folder, returned)


@traced
@pytest.mark.parametrize("one_in", ["5", "20"])
def test_a_flaky_disk_costs_no_entry(tmp_path, one_in):
    """Every fifth write of the log fails, or every 20th: close tries again, in smaller
    transactions, and nothing is lost.
    """
    saw, folder, returned, failed, _ = run(tmp_path, "flaky", "EIO", "write", "*-wal", one_in)
    assert failed > 5
    assert "close fine" in saw
    check_calls(folder, returned)


@traced
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (FAULTS[0], "JournalFullError"),
        (FAULTS[2], "JournalReadOnlyError"),
        (("EIO", "write", "*"), "JournalWriteError"),
    ],
)
def test_no_journal_can_be_made(tmp_path, fault, error):
    """An error of the right kind, and the next start makes one."""
    saw, folder, returned, failed, _ = run(tmp_path, "creating", *fault)
    assert failed
    assert saw[0].startswith(error)
    check_calls(folder, returned)


@traced
@pytest.mark.parametrize("fault", [FAULTS[0], FAULTS[3]], ids=["full", "EIO"])
def test_a_sync_that_can_not_record_stops(tmp_path, fault):
    """It sends nothing that it could not note before; the next one sends the rest, and nothing
    twice but what is in doubt.
    """
    saw, folder, returned, failed, lines = run(tmp_path, "syncing", *fault)
    assert failed
    assert saw[0].startswith("pass Journal")
    assert saw[1] == "pending 0"
    check_calls(folder, returned)
    sent = Counter()
    for line in lines:
        if line.startswith("sent "):
            name, arguments = pickle.loads(base64.b64decode(line.split()[1]))
            if name == "put_metrics":
                sent.update((point.name, point.value) for point in arguments[1])
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        rows = connection.execute(
            "SELECT e.name, e.value, d.outcome FROM entry e JOIN delivery d ON d.seq = e.seq "
            "WHERE e.kind = 'metric'"
        ).fetchall()
    # Until an outcome can be recorded, an intent alone is known: of as many requests as are in hand
    # at one time, three with one worker.
    in_doubt = [(name, value) for name, value, outcome in rows if outcome == "in doubt"]
    assert len(in_doubt) <= 3 * 10
    assert all(sent[point] <= 1 for point in in_doubt)
    delivered = [(name, value) for name, value, outcome in rows if outcome == "delivered"]
    assert all(sent[point] == 1 for point in delivered)
    assert len(in_doubt) + len(delivered) == len(rows)


@traced
def test_what_can_not_be_read_is_an_error_with_a_hint(tmp_path):
    """EIO on reading: exit code 8, or 4 of doctor; no traceback."""
    saw, *_ = run(tmp_path, "reading", "EIO", "read", "*/journal.db", reads=True)
    assert len(saw) == 6
    for line in saw:
        command, code, traceback = line.split()
        assert (int(code), traceback) == (4 if command == "check" else 8, "False"), line


FULL = """
import os, sqlite3, subprocess, sys, warnings
from pathlib import Path
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=True)
from journaltrack import Tracker, errors
from journaltrack.journal import vocabulary
warnings.simplefilter("ignore")
tracker = Tracker.create(trial_component_name="run", journal=folder / "journal", sync="off")
ballast = folder / "ballast"
done = 0
def log(count):
    global done
    for _ in range(count):
        tracker.log_metric("w", done, iteration_number=done)
        done += 1
log(100)
with ballast.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
log(2000)
waited = tracker._journal.unwritten
assert waited > 0
big = Path("/tmp") / f"big-{os.getpid()}"
big.write_bytes(os.urandom(100_000))
try:
    tracker.log_artifact(str(big))
except errors.JournalFullError as error:
    print("artifact refused", error.hint)
big.unlink()
assert not list((folder / "journal" / "spool").rglob("incoming-*"))
ballast.unlink()
tracker.flush()
log(100)
tracker.close()
source, target = sqlite3.connect(folder / "journal" / "journal.db"), sqlite3.connect(out)
source.backup(target)
print(waited, done)
"""


@pytest.mark.skipif(not NAMESPACES, reason="needs unshare -rm, to mount a small file system")
def test_a_file_system_that_is_really_full(tmp_path):
    """2,000 calls on a full tmpfs: those that did not fit wait, and are there when there is room
    again, each once.
    """
    (tmp_path / "disk").mkdir()
    command = [
        "unshare",
        "-rm",
        sys.executable,
        "-c",
        FULL,
        str(tmp_path / "disk"),
        str(tmp_path / "copy.db"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "artifact refused free space" in done.stdout
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        values = [
            value
            for (value,) in connection.execute(
                "SELECT value FROM entry WHERE name = 'w' ORDER BY seq"
            )
        ]
    assert values == [float(n) for n in range(2200)]


READ_ONLY = """
import subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "--bind", folder, folder], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
from click.testing import CliRunner
from journaltrack import Tracker, errors
from journaltrack.journal import vocabulary
from journaltrack.cli import main
for command in (["status"], ["audit"], ["show", "run"], ["check"], ["sync"], ["runs"]):
    result = CliRunner().invoke(main, [*command, "--journal", folder + "/journal"])
    print(command[0], result.exit_code, "Traceback" in result.output, flush=True)
try:
    Tracker.create(trial_component_name="other", journal=folder + "/journal", sync="off")
except errors.JournalReadOnlyError as error:
    print("create", error.hint)
"""


@pytest.mark.skipif(not NAMESPACES, reason="needs unshare -rm, to mount read-only")
@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_medium(tmp_path, killed):
    """A journal on it can be read, with a log that nobody wrote back too; syncing and logging
    say what to do.
    """
    place = tmp_path / "disk"
    script = (
        "import os, sys; from journaltrack import Tracker; t = "
        "Tracker.create(trial_component_name='run', journal=sys.argv[1], sync='off')\nfor n in "
        "range(50): t.log_metric('w', n)\n"
    ) + ("os._exit(0)" if killed else "t.close()")
    subprocess.run([sys.executable, "-c", script, str(place / "journal")], check=True)
    assert (place / "journal" / "journal.db-wal").exists() == killed
    if killed:
        (place / "journal" / "journal.db-shm").unlink()
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", READ_ONLY, str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "runs 0 False" in lines
    if killed:
        assert [line.split()[:2] for line in lines[:3]] == [
            ["status", "0"],
            ["audit", "3"],
            ["show", "0"],
        ]
    else:
        assert [line.split()[:2] for line in lines[:5]] == [
            ["status", "0"],
            ["audit", "3"],
            ["show", "0"],
            ["check", "0"],
            ["sync", "8"],
        ]
    assert not any("True" in line for line in lines)
    assert "folder that" in lines[-1] or "writable" in lines[-1]


def values_in(folder):
    """The metric's values in order, by plain sqlite3."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [
            value
            for (value,) in connection.execute(
                "SELECT value FROM entry WHERE name = 'w' ORDER BY seq"
            )
        ]


@pytest.fixture
def live(tmp_path):
    """A tracker that has logged 100 values, and whose clock for looking at its files is always
    due.
    """
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "journal", sync="off")
    for number in range(100):
        tracker.log_metric("w", number)
    yield tracker
    tracker._journal.database.close()


def go_on(tracker, numbers):
    """Log more, as if time had passed since the last look at the files."""
    tracker._journal._looked_ns = tracker._journal._locks_ns = 0
    for number in numbers:
        tracker.log_metric("w", number)


def test_a_journal_deleted_under_a_live_tracker_is_written_again(live, tmp_path):
    """rm -r of the folder: everything ever committed is there again, under the old name, with a
    warning.
    """
    shutil.rmtree(tmp_path / "journal")
    with pytest.warns(RuntimeWarning, match="was deleted while it was in use; all its entries"):
        go_on(live, range(100, 200))
    live.close()
    assert values_in(tmp_path / "journal") == [float(n) for n in range(200)]
    assert verify_chains(tmp_path / "journal") == []
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700


def test_a_close_notices_too(live, tmp_path):
    """A journal that was deleted after the last call is whole after the close."""
    (tmp_path / "journal" / "journal.db").unlink()
    with pytest.warns(RuntimeWarning, match="was deleted"):
        live.close()
    assert values_in(tmp_path / "journal") == [float(n) for n in range(100)]


def test_a_deleted_log_is_saved(live, tmp_path):
    """rm of the -wal alone: what it held goes into the database."""
    (tmp_path / "journal" / "journal.db-wal").unlink()
    with pytest.warns(RuntimeWarning, match="log of the journal .* was deleted"):
        go_on(live, range(100, 110))
    live.close()
    assert values_in(tmp_path / "journal") == [float(n) for n in range(110)]


def test_a_moved_journal_is_followed(live, tmp_path):
    """mv of the folder: logging goes on where it is now; there is one journal, not two."""
    (tmp_path / "journal").rename(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="was moved to .*elsewhere"):
        go_on(live, range(100, 110))
    (tmp_path / "file").write_text("x")
    live.log_artifact(str(tmp_path / "file"))
    live.close()
    assert not (tmp_path / "journal").exists()
    assert values_in(tmp_path / "elsewhere") == [float(n) for n in range(110)]
    assert verify_chains(tmp_path / "elsewhere") == []


def test_another_journal_in_its_place_is_not_touched(live, tmp_path):
    """Deleted, and somebody made a new one there: ours is written beside it."""
    shutil.rmtree(tmp_path / "journal")
    other = Tracker.create(trial_component_name="other", journal=tmp_path / "journal", sync="off")
    other.log_metric("w", -1)
    with pytest.warns(RuntimeWarning, match=r"journal\.rescued-1"):
        go_on(live, range(100, 110))
    live.close()
    other.close()
    assert values_in(tmp_path / "journal") == [-1.0]
    assert values_in(tmp_path / "journal.rescued-1") == [float(n) for n in range(110)]


RANK = """
import sys, warnings
from journaltrack import Tracker
warnings.simplefilter("ignore")
tracker = Tracker.load("run", journal=sys.argv[1], sync="off")
for number in range(100):
    tracker.log_metric("rank" + sys.argv[2], number)
print("logged", flush=True)
sys.stdin.readline()
tracker._journal._looked_ns = tracker._journal._locks_ns = 0
for number in range(100, 200):
    tracker.log_metric("rank" + sys.argv[2], number)
tracker.close()
"""


def test_eight_processes_find_one_journal_again(tmp_path):
    """All had it open when it was deleted: one copies it, the others add what is theirs; every
    entry is there once.
    """
    folder = tmp_path / "journal"
    Tracker.create(trial_component_name="run", journal=folder, sync="off").close()
    command = [sys.executable, "-c", RANK, str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(8)
    ]
    for rank in ranks:
        assert rank.stdout.readline() == "logged\n"
    shutil.rmtree(folder)
    for rank in ranks:
        rank.stdin.write("\n")
        rank.stdin.flush()
    for rank in ranks:
        rank.communicate()
        assert rank.returncode == 0
    assert not list(tmp_path.glob("*rescued*"))
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        rows = connection.execute(
            "SELECT name, value FROM entry WHERE kind = 'metric' ORDER BY seq"
        ).fetchall()
    assert Counter(rows) == Counter((f"rank{n}", float(v)) for n in range(8) for v in range(200))
    assert verify_chains(folder) == []


def test_a_file_in_its_place_does_not_keep_it_from_being_written_again(live, tmp_path):
    """rm -r of the folder, and a file of its name: the journal is written again beside it."""
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "journal").write_text("in the way")
    with pytest.warns(RuntimeWarning, match=r"journal\.rescued-1"):
        live.close()
    assert (tmp_path / "journal").read_text() == "in the way"
    assert values_in(tmp_path / "journal.rescued-1") == [float(n) for n in range(100)]


def test_nowhere_to_write_it_again_keeps_everything_in_the_process(tmp_path):
    """No place for the copy: no call raises, and the close says what is lost with the process;
    with a place, all is there.
    """
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path / "runs" / "journal", sync="off"
    )
    go_on(tracker, range(100))
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("in the way")
    go_on(tracker, range(100, 110))
    with pytest.raises(errors.JournalWriteError, match="are lost when this process ends"):
        tracker.close()
    (tmp_path / "runs").unlink()
    with pytest.warns(RuntimeWarning, match="was deleted"):
        tracker.close()
    assert values_in(tmp_path / "runs" / "journal") == [float(n) for n in range(110)]


@pytest.mark.parametrize("damage", ["page", "header"])
def test_a_page_that_somebody_overwrites(tmp_path, damage):
    """Bytes of the live database are overwritten: calls go on waiting or being recorded, nothing
    raises but the close, and doctor mends.
    """
    from journaltrack import doctor

    script = """
import sys, warnings
from journaltrack import Tracker, errors
from journaltrack.journal import vocabulary
warnings.simplefilter("ignore")
tracker = Tracker.create(trial_component_name="run", journal=sys.argv[1], sync="off")
for number in range(3000):
    tracker.log_metric("w", number)
tracker.flush(); tracker._journal.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
print("ready", flush=True); sys.stdin.readline()
for number in range(3000, 6000):
    tracker.log_metric("w", number)
try:
    tracker.close()
    print("closed 0")
except errors.JournalError as error:
    print("closed", getattr(error, "unwritten", "?"))
"""
    folder = tmp_path / "journal"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    with (folder / "journal.db").open("r+b") as file:
        file.seek(0 if damage == "header" else 4096 * 30)
        file.write(b"\xa5" * 4096)
    output, _ = process.communicate("\n")
    assert process.returncode == 0
    waiting = int(output.split()[1])
    doctor.mend(doctor.examine(folder))
    kept = values_in(folder)
    lost_on_the_page = 3000 - len([v for v in kept if v < 3000])
    assert len(kept) >= 6000 - waiting - lost_on_the_page
    assert lost_on_the_page < 100
    assert kept == sorted(set(kept))
    Journal.open(folder).close()


def test_locked_for_longer_than_it_waits(tmp_path):
    """Another process holds the write lock: opening waits for its time and says who to look for;
    calls wait in memory.
    """
    folder = tmp_path / "journal"
    with closing(Journal.open(folder, busy_timeout_s=0.05)) as journal:
        component = journal.component("run")
        with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.warns(RuntimeWarning, match="locked by another process"):
                journal.append_metric(component, "w", 1.0, 1, 1)
            assert journal.unwritten == 1
            with pytest.raises(errors.JournalWriteError, match="waits in memory"):
                journal.flush()
            other.execute("ROLLBACK")
        journal.flush()
        assert journal.unwritten == 0
    assert values_in(folder) == [1.0]


def test_an_older_copy_in_its_place_is_not_written_into(tmp_path):
    """A backup is put into the place of a journal in use, and another process logs there first:
    ours is written beside it, whole.
    """
    folder = tmp_path / "journal"
    first = Tracker.create(trial_component_name="first", journal=folder, sync="off")
    first.log_metric("w", -1.0)
    first.close()
    shutil.copytree(folder, tmp_path / "backup")
    ours = Tracker.create(trial_component_name="ours", journal=folder, sync="off")
    for number in range(100):
        ours.log_metric("w", number)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    theirs = Tracker.create(trial_component_name="theirs", journal=folder, sync="off")
    theirs.log_metric("w", 1000.0)
    with pytest.warns(RuntimeWarning, match=r"journal\.rescued-1"):
        go_on(ours, range(100, 110))
    ours.close()
    theirs.close()
    assert values_in(folder) == [-1.0, 1000.0]
    assert values_in(tmp_path / "journal.rescued-1") == [-1.0, *map(float, range(110))]
    assert verify_chains(folder) == verify_chains(tmp_path / "journal.rescued-1") == []


def test_a_run_begun_in_deleted_files_is_nobody_elses(tmp_path):
    """Two processes' journals were deleted; one wrote it again, a third began a run there, and
    the other one a run in the old files.
    """
    folder = tmp_path / "journal"
    one, two = (Journal.open(folder) for _ in range(2))
    for journal, name in ((one, "one"), (two, "two")):
        journal.append(
            journal.component(name),
            [vocabulary.create(owner=name), vocabulary.metric("w", 1.0, None, 1)],
        )
    shutil.rmtree(folder)
    one._looked_ns = one._locks_ns = 0
    with pytest.warns(RuntimeWarning, match="was deleted"):
        one.append_metric(one.component("one"), "w", 2.0, None, 1)
    with closing(Journal.open(folder)) as third:
        third.append(
            third.component("third"),
            [vocabulary.create(owner="third"), vocabulary.metric("w", 3.0, None, 1)],
        )
    component = two.component("begun")
    two._looked_ns = two._locks_ns = 0
    with pytest.warns(RuntimeWarning, match=r"journal\.rescued-1"):
        two.append(
            component, [vocabulary.create(owner="begun"), vocabulary.metric("w", 4.0, None, 1)]
        )
    one.close()
    two.close()
    found = {}
    for place in (folder, tmp_path / "journal.rescued-1"):
        with closing(sqlite3.connect(place / "journal.db")) as connection:
            rows = connection.execute(
                "SELECT c.name, e.value FROM entry e JOIN component c ON c.id = e.component_id "
                "WHERE e.name = 'w'"
            )
            found[place.name] = sorted(rows)
        assert verify_chains(place) == []
    assert found == {
        "journal": [("one", 1.0), ("one", 2.0), ("third", 3.0), ("two", 1.0)],
        "journal.rescued-1": [("begun", 4.0), ("one", 1.0), ("two", 1.0)],
    }
