"""`journaltrack check`: each kind of damage is found, explained, repaired where that is
possible, and nothing is deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, doctor, sync
from journaltrack.cli import main
from journaltrack.errors import JournalNotFoundError, JournalReadOnlyError, NotAJournalError
from journaltrack.journal.journal import Journal
from journaltrack.journal.sqlite.connection import Database
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.report import audit
from tests.copies import verify_chains
from tests.faults.faulty_disk import in_child
from tests.simulator import simulator

DAY_S = 86_400


def change(journal, script):
    """What somebody else's SQL does to a journal."""
    with closing(sqlite3.connect(journal / "journal.db", isolation_level=None)) as connection:
        connection.executescript(script)


def blob_of(journal):
    """The one blob of the journal."""
    (path,) = [p for p in (journal / "spool").rglob("*") if p.is_file()]
    return path


def found(journal):
    """What doctor finds: (check, severity, repair) of each finding."""
    return [(f.check, f.severity, f.repair) for f in doctor.examine(journal).findings]


def mended(journal, **kwargs):
    """The names of the repairs that were done, and of those that were not."""
    results = doctor.mend(doctor.examine(journal), **kwargs)
    return [r.repair for r in results if r.done], [r.repair for r in results if not r.done]


def delivered(journal, remote=None):
    """Sync to a remote in memory; how many points are there."""
    remote = remote or MemoryRemote()
    with closing(Journal.open(journal)) as opened:
        report = Reconciler(opened, remote).run()
    assert report.pending == 0
    return sum(len(c.points) for c in remote.components.values())


def test_a_healthy_journal_is_well(journal):
    """No finding; every check was made; nothing in the folder changes."""
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in journal.rglob("*")
        if p.suffix != ".db-shm" and "-shm" not in p.name
    }
    examination = doctor.examine(journal)
    assert examination.findings == ()
    assert examination.checked == doctor.CHECKS
    assert examination.healthy
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in before} == before


def test_training_goes_on_meanwhile(tmp_path):
    """A journal that a live tracker holds, with entries in its log only, is well, and neither is
    kept from its work.
    """
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off")
    for n in range(100):
        tracker.log_metric("loss", n)
    examined = subprocess.run(
        [sys.executable, "-m", "journaltrack", "check", "--json", str(tmp_path / "j")],
        capture_output=True,
        check=False,
    )
    document = json.loads(examined.stdout)
    assert (examined.returncode, document["healthy"], document["findings"]) == (0, True, [])
    tracker.log_metric("loss", 100)
    tracker.close()
    assert audit(tmp_path / "j").totals.entries == 102


@pytest.mark.parametrize(
    ("damage", "check", "repair"),
    [
        ("UPDATE mark SET seq = 50", "records", "mark"),
        ("UPDATE mark SET seq = 9223372036854775807", "records", "mark"),
        ("UPDATE mark SET seq = 'x'", "records", "mark"),
        ("UPDATE lease SET generation = 'x'", "records", "lease"),
        ("UPDATE lease SET expires_at_ns = 'never', owner = 'me'", "records", "lease"),
        ("DROP TRIGGER entry_no_update", "schema", "schema"),
        (
            (
                "DROP INDEX entry_state; DROP TRIGGER receipt_settled_once; DROP INDEX "
                "delivery_problem"
            ),
            "schema",
            "schema",
        ),
    ],
)
def test_what_is_out_of_place_in_the_tables_is_put_right(journal, damage, check, repair):
    """Found, repaired with a receipt, and everything is delivered afterwards."""
    change(journal, damage)
    assert (check, "problem", repair) in found(journal)
    assert mended(journal) == ([repair], [])
    assert found(journal) == []
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        assert connection.execute(
            "SELECT count(*) FROM receipt WHERE action = 'repair' AND outcome = 'repaired'"
        ).fetchone() == (1,)
    assert delivered(journal) == 95


def test_looking_repairs_nothing(journal):
    """Without --repair a damaged journal is left as it is."""
    change(journal, "UPDATE mark SET seq = 50")
    result = CliRunner().invoke(main, ["check", str(journal)])
    assert result.exit_code == 4
    assert "pending entries below it: 50" in result.stdout
    assert "--repair" in result.stderr
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        assert connection.execute("SELECT seq FROM mark").fetchone() == (50,)


def test_a_changed_entry_is_reported_and_kept(journal):
    """A chain can't be repaired: doctor says so, whatever is asked, and changes no entry."""
    change(journal, "DROP TRIGGER entry_no_update; UPDATE entry SET value = 0 WHERE seq = 40")
    assert mended(journal) == (["schema"], [])
    assert found(journal) == [("chains", "problem", None)]
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        assert connection.execute("SELECT value FROM entry WHERE seq = 40").fetchone() == (0,)


def test_removed_entries_are_reported(journal):
    """Settlements without entries, and the gap in the chain."""
    delivered(journal)
    change(journal, "DROP TRIGGER entry_no_delete; DELETE FROM entry WHERE seq = 40; " + TRIGGER)
    assert set(found(journal)) == {("records", "problem", None), ("chains", "problem", None)}


TRIGGER = (
    "CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN "
    "SELECT RAISE(ABORT, 'journal entries are immutable'); END"
)


@pytest.mark.parametrize("damage", ["missing", "other bytes", "cut"])
def test_a_lost_artifact_is_found_again_by_its_content(journal, tmp_path, damage):
    """The damaged blob is kept aside, the bytes come from a file of any name, the upload that
    was set aside is delivered.
    """
    blob = blob_of(journal)
    if damage == "missing":
        blob.unlink()
    else:
        blob.write_bytes(b"weightZ" if damage == "other bytes" else b"wei")
    assert found(journal) == [("spool", "problem", "spool")]
    remote = MemoryRemote()
    delivered(journal, remote)
    assert audit(journal).totals.quarantined > 0
    (tmp_path / "somewhere" / "deep").mkdir(parents=True)
    (tmp_path / "somewhere" / "other.bin").write_bytes(b"WEIGHTS")
    shutil.move(tmp_path / "model.bin", tmp_path / "somewhere" / "deep" / "renamed")
    assert mended(journal, restore_from=[tmp_path / "somewhere"]) == (["spool"], [])
    assert found(journal) == []
    kept = [p.read_bytes() for p in (journal / "damaged").rglob("*") if p.is_file()]
    assert kept == {"missing": [], "other bytes": [b"weightZ"], "cut": [b"wei"]}[damage]
    assert CliRunner().invoke(main, ["retry", str(journal)]).exit_code == 0
    assert delivered(journal, remote) == 95
    assert list(remote.objects.values()) == [blob.name]
    assert audit(journal).all_delivered


def test_an_artifact_that_is_nowhere_is_said_to_be_lost(journal, tmp_path):
    """Nothing to restore from: not repaired, said so, everything else goes on; a file that only
    has its size is not taken.
    """
    blob_of(journal).unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.bin").write_bytes(b"WEIGHTS")
    result = CliRunner().invoke(
        main,
        [
            "check",
            "--repair",
            "--restore-from",
            str(tmp_path / "elsewhere"),
            "--json",
            str(journal),
        ],
    )
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"] == 4
    assert [(r["repair"], r["done"]) for r in document["repaired"]] == [("spool", False)]
    assert delivered(journal) == 95


def test_a_delivered_artifact_that_is_gone_is_no_problem(journal):
    """S3 has it."""
    delivered(journal)
    blob_of(journal).unlink()
    examination = doctor.examine(journal)
    assert [(f.check, f.severity) for f in examination.findings] == [("spool", "note")]
    assert examination.healthy


def test_what_belongs_to_nobody_is_kept_and_what_is_half_is_removed(journal):
    """A blob without an entry may be the last trace of one; a half copy belongs to no call that
    returned.
    """
    stranger = journal / "spool" / "ab" / ("ab" * 32)
    stranger.parent.mkdir()
    stranger.write_bytes(b"?")
    half, fresh = journal / "spool" / "incoming-1", journal / "spool" / "incoming-2"
    half.write_bytes(b"x")
    fresh.write_bytes(b"y")
    os.utime(half, (0, 0))
    assert found(journal) == [("files", "note", "leftovers"), ("spool", "note", None)]
    assert mended(journal) == (["leftovers"], [])
    assert stranger.exists()
    assert fresh.exists()
    assert not half.exists()


def test_open_doors_are_closed(journal):
    """Permissions of folder and files."""
    journal.chmod(0o755)
    (journal / "journal.db").chmod(0o666)
    assert found(journal) == [("files", "warning", "permissions")]
    assert mended(journal) == (["permissions"], [])
    assert found(journal) == []
    modes = {
        p.name: stat.S_IMODE(p.stat().st_mode)
        for p in [journal, journal / "spool", journal / "journal.db"]
    }
    assert modes == {"journal": 0o700, "spool": 0o700, "journal.db": 0o600}


@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "reconcile.lock"])
def test_a_link_in_the_place_of_a_file_is_reported_and_not_followed(journal, tmp_path, name):
    """Nothing is opened then, or repaired."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (journal / name).unlink(missing_ok=True)
    (journal / name).symlink_to(victim)
    examination = doctor.examine(journal)
    assert [(f.check, f.severity, f.subjects) for f in examination.findings] == [
        ("files", "problem", (name,))
    ]
    assert "database" not in examination.checked
    assert doctor.mend(examination) == []
    assert victim.read_bytes() == b""


def test_a_missing_database_is_reported_with_its_backups(journal):
    """The folder is all that is left."""
    shutil.copy(journal / "journal.db", journal / "journal.db.0001.5.backup")
    (journal / "journal.db").unlink()
    (finding,) = doctor.examine(journal).findings
    assert finding.subjects == ("journal.db.0001.5.backup",)
    assert "rename the newest backup" in finding.advice


def test_no_journal_is_an_error(tmp_path):
    """A folder that is not there, and a file."""
    with pytest.raises(JournalNotFoundError):
        doctor.examine(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotAJournalError):
        doctor.examine(tmp_path / "file")
    assert CliRunner().invoke(main, ["check", str(tmp_path / "none")]).exit_code == 8


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE mark SET seq = seq")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_process_that_keeps_others_from_writing_is_named(journal):
    """Its pid and its command line; when it is gone, the finding is."""
    command = [sys.executable, "-c", HOLDER, str(journal / "journal.db")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        (finding,) = [f for f in doctor.examine(journal).findings if f.check == "locks"]
        holder.communicate("")
    assert finding.severity == "problem"
    assert f"process {holder.pid} (" in finding.message
    assert found(journal) == []


SYNCING = """
import sys
from journaltrack.replay import lease
from journaltrack.journal.sqlite.connection import Database
from pathlib import Path
held = lease.acquire(Database(Path(sys.argv[1]) / "journal.db"))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_sync_that_hangs_is_named_and_its_lease_free_when_it_is_gone(journal):
    """A note with its pid; a killed one leaves a row and no finding but the note that it
    expires, and the next one takes over.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SYNCING, str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as syncing:
        syncing.stdout.readline()
        messages = [f.message for f in doctor.examine(journal).findings if f.check == "locks"]
        assert len(messages) == 1
        assert f"process {syncing.pid} (" in messages[0]
        syncing.kill()
    assert [f.check for f in doctor.examine(journal).findings if f.severity != "note"] == []
    database = Database(journal / "journal.db")
    leases.acquire(database).release()
    database.close()


def test_clocks_that_jumped_are_noted(tmp_path):
    """Entries from the future and steps back; nothing is wrong with them."""
    now_ns = [4_000_000_000 * 10**9]
    with closing(Journal.open(tmp_path / "j", clock_ns=lambda: now_ns[0])) as journal:
        component = journal.component("run")
        journal.append_metric(component, "m", 1.0, 0, now_ns[0])
        now_ns[0] = 1_000_000_000 * 10**9
        journal.append_metric(component, "m", 2.0, 1, now_ns[0])
    examination = doctor.examine(tmp_path / "j")
    assert [(f.check, f.severity) for f in examination.findings] == [
        ("clock", "note"),
        ("clock", "note"),
    ]
    assert examination.healthy


@pytest.mark.parametrize(("step_s", "told"), [(7 * 3_600, []), (-60, []), (-61, ["times: 2"])])
def test_a_clock_that_was_set_is_told_from_the_work_of_a_time_server(tmp_path, step_s, told):
    """A pause is no note, nor is a step back of a minute; every larger one counts, each writer
    against its own clock.
    """
    now_s = [1_000_000_000]
    for _ in range(2):
        with closing(Journal.open(tmp_path / "j", clock_ns=lambda: now_s[0] * 10**9)) as journal:
            component = journal.component("run")
            journal.append_metric(component, "m", 1.0, 0, 1)
            now_s[0] += step_s
            journal.append_metric(component, "m", 2.0, 1, 1)
    assert [f.message.partition("; ")[2] for f in doctor.examine(tmp_path / "j").findings] == told


def test_a_newer_journal_is_left_alone(journal):
    """No check inside, no repair, exit code 8 with what to install."""
    change(journal, "UPDATE alembic_version SET version_num = '9999'; UPDATE mark SET seq = 50")
    before = (journal / "journal.db").read_bytes()
    result = CliRunner().invoke(main, ["check", "--repair", str(journal)])
    assert result.exit_code == 8
    assert "newer than 0.1.0" in result.output
    assert (journal / "journal.db").read_bytes() == before


def test_nothing_that_is_quoted_can_garble_the_terminal(journal):
    """Names with escapes come out escaped."""
    change(journal, 'CREATE TABLE "\x1b[2J\x1b]0;x\x07" (a)')
    result = CliRunner().invoke(main, ["check", str(journal)])
    assert "\x1b" not in result.output
    assert "\\x1b[2J" in result.output


def test_verify_agrees(journal):
    """What the examination calls well, `verify_chains` does too."""
    assert doctor.examine(journal).healthy
    assert verify_chains(journal) == []


SOMEBODY = 65_534


def everything_in(folder):
    return [folder, *folder.rglob("*")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as sudo gives it")
def test_what_root_makes_in_somebodys_journal_is_theirs(journal, tmp_path, credentials):
    """`sudo journaltrack sync`, and a call of root's, leave no file in a user's journal that the
    user can't use.
    """
    for path in everything_in(journal):
        os.chown(path, SOMEBODY, SOMEBODY)
    (journal / "reconcile.lock").unlink(missing_ok=True)
    (tmp_path / "late.bin").write_bytes(b"x" * (17 << 20))
    with simulator() as sim:
        with Tracker.load("run", journal=journal, sync="off") as tracker:
            tracker.log_artifact(tmp_path / "late.bin")
        uploading = []
        sim.on_request = lambda call: uploading.append(
            [path for path in everything_in(journal) if path.lstat().st_uid != SOMEBODY]
        )
        assert sync(journal, endpoint_url=sim.endpoint_url).pending == 0
    assert (journal / "reconcile.lock").exists()
    assert uploading
    assert not any(uploading)
    assert [path for path in everything_in(journal) if path.lstat().st_uid != SOMEBODY] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as sudo gives it")
def test_files_of_another_user_are_found_and_given_back(journal):
    """What an older release's `sudo journaltrack sync` left is a problem for doctor, and mended
    by root; a hard link is left alone.
    """
    for path in everything_in(journal):
        os.chown(path, SOMEBODY, SOMEBODY)
    lock = journal / "reconcile.lock"
    lock.touch(0o600)
    os.chown(lock, 0, 0)
    (finding,) = [f for f in doctor.examine(journal).findings if f.repair == "owner"]
    assert finding.subjects == ("reconcile.lock",)
    doctor.mend(doctor.examine(journal))
    assert lock.stat().st_uid == SOMEBODY
    assert [f for f in doctor.examine(journal).findings if f.repair == "owner"] == []
    elsewhere = journal.parent / "elsewhere"
    elsewhere.touch()
    lock.unlink()
    lock.hardlink_to(elsewhere)
    doctor.mend(doctor.examine(journal))
    assert elsewhere.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_the_owner_of_a_folder_gets_past_a_lock_file_of_roots():
    """Without root's help: the message says what to do, and doctor puts a lock file in place
    that the user can use, unless somebody holds it.
    """
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are for nobody else
        Path(place).chmod(0o755)
        folder = Path(place, "journal")
        Tracker.create(trial_component_name="run", journal=folder, sync="off").close()
        for path in everything_in(folder):
            os.chown(path, SOMEBODY, SOMEBODY)
        lock = folder / "reconcile.lock"
        lock.touch(0o600)
        os.chown(lock, 0, 0)
        with lock.open("r+") as holder:
            fcntl.lockf(holder, fcntl.LOCK_EX)
            assert in_child(as_somebody, folder) == ("belongs to another user", False)
        assert in_child(as_somebody, folder) == ("belongs to another user", True)


def as_somebody(folder):
    """What a user without rights is told, and whether doctor's repair lets them deliver."""
    os.setgroups([])
    os.setgid(SOMEBODY)
    os.setuid(SOMEBODY)
    told = ""
    for attempt in range(2):
        journal = Journal.open(folder)
        try:
            Reconciler(journal, MemoryRemote()).run()
        except JournalReadOnlyError as error:
            told = told or (
                "belongs to another user"
                if "belongs to another user" in error.message
                else error.message
            )
        else:
            return (told, True)
        finally:
            journal.close()
        if not attempt:
            doctor.mend(doctor.examine(folder))
    return (told, False)
