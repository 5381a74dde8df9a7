"""A database that SQLite can't read to the end is rebuilt from what is readable: nothing
readable lost, nothing sent twice.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from journaltrack import doctor
from journaltrack.doctor import sqlite_pages
from journaltrack.doctor.recover import LOST_NAME, salvage
from journaltrack.errors import JournalCorruptError, JournaltrackError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.reports.report import audit
from journaltrack.util.intervals import ranges_in
from tests import tally
from tests.copies import verify_chains
from tests.golden import REVISIONS, restore

TABLES = (
    "entry",
    "writer",
    "component",
    "receipt",
    "delivery",
    "blob",
    "location",
    "field",
    "meta",
    "attestation",
)
SOAK = float(os.environ.get("JOURNALTRACK_SOAK", "1"))


def content(path):
    """Every row of every table, by plain sqlite3."""
    with closing(sqlite3.connect(path)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table in TABLES
            if table in there
        }


def without_repairs(rows):
    """The same without the receipt and the attestation of a repair, and the process that made
    it.
    """
    repaired = {row[1] for row in rows["attestation"] if '"action":"repair"' in row[4]}
    own = {
        "receipt": lambda row: row[1] == "repair",
        "attestation": lambda row: row[1] in repaired,
        "writer": lambda row: row[0] in repaired,
    }
    return {
        table: [row for row in found if table not in own or not own[table](row)]
        for table, found in rows.items()
    }


def fill(folder, *, entries=300, checkpointed=True):
    """A journal half of which is delivered to the remote that is returned, with two writers and
    a value of 20,000 characters.
    """
    remote = MemoryRemote()
    for half in range(2):
        journal = Journal.open(folder)
        component, other = journal.component("run"), journal.component("other")
        if half == 0:
            journal.append(component, [vocabulary.create(owner="me")])
            journal.append(other, [vocabulary.create(owner="you")])
            journal.append(other, [vocabulary.parameter("long", "x" * 20_000)])
        journal.append(
            component,
            [vocabulary.parameter(f"p{half}", half), vocabulary.metric("nan", float("nan"), 1, 1)],
        )
        for n in range(entries // 2):
            value = float(half * entries + n + 1)
            journal.append_metric(component, "m", value, int(value), n + 1)
        if half == 0:
            Reconciler(journal, remote, options=Options()).run()
        if half == 0 or checkpointed:
            journal.close()
        else:
            journal.flush()
            return remote, journal
    return remote, None


@pytest.mark.parametrize("checkpointed", [True, False])
def test_nothing_is_lost_of_a_healthy_database(tmp_path, checkpointed):
    """Every row of every table, from the database file and from a log that was not written back;
    values of many pages too.
    """
    _, journal = fill(tmp_path / "j", entries=2_000, checkpointed=checkpointed)
    expected = content(tmp_path / "j" / "journal.db")
    found = salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
    assert without_repairs(content(tmp_path / "new.db")) == expected
    assert (
        found.damaged,
        found.missing,
        found.in_doubt,
        found.nameless,
        found.journal_id_kept,
    ) == ({}, "", 0, 0, True)
    assert found.rows["entry"] == len(expected["entry"])
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600
    if journal is not None:
        journal.close()


@pytest.mark.parametrize("revision", REVISIONS)
def test_golden_journals_are_salvaged_whole(tmp_path, revision):
    """Also those of earlier releases, with an unfinished request and a dead lease."""
    folder = restore(revision, tmp_path / "j")
    before = content(folder / "journal.db")
    salvage(folder, tmp_path / "new.db", now_ns=1)
    after = without_repairs(content(tmp_path / "new.db"))
    assert {
        table: [row[: len(rows[0])] for row in after[table]]
        for table, rows in before.items()
        if rows
    } == {table: rows for table, rows in before.items() if rows}
    rebuilt(folder, tmp_path / "again.db")
    assert [p for p in verify_chains(folder) if p.kind != "blob"] == []


def rebuilt(folder, target):
    """Salvage in the place of the damaged database; the report."""
    found = salvage(folder, target, now_ns=2 * 10**18)
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (folder / name).unlink(missing_ok=True)
    target.rename(folder / "journal.db")
    return found


def damages(page_bytes, page, chance):
    """What becomes of a page: (what, its new bytes)."""
    flipped = bytearray(page)
    for _ in range(3):
        flipped[chance.randrange(page_bytes)] ^= 1 << chance.randrange(8)
    yield "zeros", bytes(page_bytes)
    yield "noise", chance.randbytes(page_bytes)
    yield "flips", bytes(flipped)
    yield "half", page[: page_bytes // 2] + bytes(page_bytes - page_bytes // 2)


def test_every_page_may_be_lost(tmp_path):
    """Damage of each page in turn: what is on the others is all there; a sync afterwards sends
    nothing twice that it does not call in doubt.
    """
    pristine = tmp_path / "pristine"
    delivered, _ = fill(pristine)
    original = (pristine / "journal.db").read_bytes()
    expected = {row[0]: row for row in content(pristine / "journal.db")["entry"]}
    page_bytes = int.from_bytes(original[16:18], "big")
    chance = random.Random(11)
    tried = Counter()
    for number in range(len(original) // page_bytes):
        start = number * page_bytes
        on_page = entries_on(original, number, page_bytes)
        for what, page in list(damages(page_bytes, original[start : start + page_bytes], chance))[
            :: 1 if SOAK > 1 else 3
        ]:
            folder = tmp_path / "j"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine, folder)
            remote = MemoryRemote()
            remote.components = copy.deepcopy(delivered.components)
            (folder / "journal.db").write_bytes(
                original[:start] + page + original[start + page_bytes :]
            )
            found = rebuilt(folder, tmp_path / "new.db")
            kept = {row[0]: row for row in content(folder / "journal.db")["entry"]}
            missing = {seq for seq in expected if seq not in kept}
            assert missing <= on_page, (number, what)
            assert all(kept[seq] == expected[seq] for seq in kept if seq not in on_page), (
                number,
                what,
            )
            assert what == "flips" or set(kept) <= set(expected), (number, what)
            between = {
                seq for first, last in ranges_in(found.missing) for seq in range(first, last + 1)
            }
            assert what == "flips" or between == {seq for seq in missing if seq < max(kept)}, (
                number,
                what,
            )
            check_delivery(folder, remote, what)
            tried[what] += 1
            tally.count(
                "a page of the database lost or overwritten", attacks=1, checked=len(expected)
            )
    assert sum(tried.values()) > 20


def entries_on(original, number, page_bytes):
    """The entries that a page holds, or that continue there, as far as the reader of pages
    tells.
    """
    from contextlib import ExitStack
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "journal.db"
        path.write_bytes(original)
        pages = sqlite_pages.opened(path, stack)
        with_it = {row.rowid: row for row in pages.rows() if len(row.values) == 13}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "journal.db"
        start = number * page_bytes
        path.write_bytes(original[:start] + bytes(page_bytes) + original[start + page_bytes :])
        pages = sqlite_pages.opened(path, stack)
        without = {
            row.rowid
            for row in pages.rows()
            if len(row.values) == 13 and with_it.get(row.rowid) == row
        }
    return set(with_it) - without


def check_delivery(folder, remote, what):
    """The rebuilt journal opens, is whole, syncs; a point is at the remote twice only if it was
    logged twice.
    """
    with closing(Journal.open(folder)) as journal:
        assert journal.database.read("PRAGMA integrity_check") == [("ok",)]
        names = [row.name for row in journal.components()]
        if "run" not in names:  # its row was on the page: the entries are quarantined
            assert all(name.startswith(LOST_NAME) or name == "other" for name in names)
        Reconciler(journal, remote, options=Options()).run()
        # what is not there breaks chains: a person decides
        report = Reconciler(journal, remote, options=Options(unproved=True)).run()
        # A flipped bit may make a kind that nobody knows: such entries stay pending.
        pending = journal.database.read(
            "SELECT kind FROM entry e WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE seq = e.seq)"
        )
    unknown = [kind for (kind,) in pending if kind not in vocabulary.KINDS]
    assert report.pending == len(unknown) or report.held
    assert what == "flips" or not unknown
    totals = audit(folder).totals
    assert totals.adds_up
    doubtful = totals.in_doubt + totals.quarantined
    values = (
        Counter(point.value for point in remote.components["run"].points)
        if "run" in remote.components
        else Counter()
    )
    twice = {value for value, count in values.items() if count > 1}
    if what != "flips":  # a flipped bit may make another value of an entry; the chain says so
        assert not twice, doubtful


@pytest.mark.parametrize("length", [0, 50, 100, 4096, 5000, 90_000])
def test_a_file_that_was_cut(tmp_path, length):
    """What is before the cut is there; without anything to find there is an error, and nothing
    was made.
    """
    fill(tmp_path / "j")
    path = tmp_path / "j" / "journal.db"
    before = {row[0]: row for row in content(path)["entry"]}
    path.write_bytes(path.read_bytes()[:length])
    if length <= 5000:
        with pytest.raises(JournalCorruptError, match="nothing of a journal is readable"):
            salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
        assert not (tmp_path / "new.db").exists()
    else:
        found = salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
        assert found.damaged
        assert all(before[row[0]] == row for row in content(tmp_path / "new.db")["entry"])


@pytest.mark.parametrize("cut", ["within a frame", "half", "noise in the midst"])
def test_a_damaged_log(tmp_path, cut):
    """What was committed to the log before the damage is there, whole calls alone; noise costs
    the frames that it hits.
    """
    _, journal = fill(tmp_path / "j", checkpointed=False)
    before = {row[0]: row for row in content(tmp_path / "j" / "journal.db")["entry"]}
    (tmp_path / "copy").mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(tmp_path / "j" / name, tmp_path / "copy" / name)
    journal.close()
    log = tmp_path / "copy" / "journal.db-wal"
    content_of_log = bytearray(log.read_bytes())
    frames = (len(content_of_log) - 32) // (4096 + 24)
    assert frames > 20
    if cut == "within a frame":
        log.write_bytes(content_of_log[: 32 + (frames // 2) * 4120 + 100])
    elif cut == "half":
        log.write_bytes(content_of_log[: 32 + (frames // 2) * 4120])
    else:
        at = 32 + (frames // 2) * 4120 + 24
        content_of_log[at : at + 4096] = random.Random(1).randbytes(4096)
        log.write_bytes(content_of_log)
    found = salvage(tmp_path / "copy", tmp_path / "new.db", now_ns=1)
    after = {row[0]: row for row in content(tmp_path / "new.db")["entry"]}
    assert all(before[seq] == row for seq, row in after.items())
    if cut == "noise in the midst":
        assert len(after) == len(before)  # each page was written again behind it
        assert "damaged from frame" in found.damaged[0]
    else:
        assert 0 < len(after) < len(before)


def test_noise_is_no_journal(tmp_path):
    """Random bytes, and a database of something else: refused, nothing made."""
    (tmp_path / "j").mkdir()
    chance = random.Random(3)
    for _ in range(int(20 * SOAK)):
        noise = chance.randbytes(chance.choice([10, 512, 4096, 40_000]))
        (tmp_path / "j" / "journal.db").write_bytes(
            chance.choice([b"", b"SQLite format 3\x00\x10\x00"]) + noise
        )
        (tmp_path / "j" / "journal.db-wal").write_bytes(
            bytes.fromhex("377f0682002de21800001000") + noise
        )
        with pytest.raises(JournalCorruptError):
            salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
    assert not (tmp_path / "new.db").exists()


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    """Fuzzing: a salvage gives a journal that opens, or says that there is nothing; entries
    whose digest fits are unchanged ones.
    """
    fill(tmp_path / "pristine", entries=60)
    original = (tmp_path / "pristine" / "journal.db").read_bytes()
    before = {row[0]: row for row in content(tmp_path / "pristine" / "journal.db")["entry"]}
    chance = random.Random(7)
    (tmp_path / "j").mkdir()
    for _ in range(int(60 * SOAK)):
        bytes_now = bytearray(original)
        for _ in range(chance.choice([1, 5, 100])):
            bytes_now[chance.randrange(len(bytes_now))] = chance.randrange(256)
        (tmp_path / "j" / "journal.db").write_bytes(bytes_now)
        try:
            rebuilt(tmp_path / "j", tmp_path / "new.db")
        except JournaltrackError:
            continue
        Journal.open(tmp_path / "j").close()
        after = {row[0]: row for row in content(tmp_path / "j" / "journal.db")["entry"]}
        changed = {seq for seq, row in after.items() if before.get(seq) != row}
        tally.count("bytes of the database flipped", attacks=1, checked=len(before))
        if changed:
            assert verify_chains(tmp_path / "j") != []


def test_a_crafted_file_leads_nobody_in_circles(tmp_path):
    """A row that continues on its own page for ever, and one that claims to be larger than the
    disk.
    """
    fill(tmp_path / "j", entries=60)
    path = tmp_path / "j" / "journal.db"
    bytes_now = bytearray(path.read_bytes())
    for at in range(4096, len(bytes_now), 4096):
        if bytes_now[at] == 0x0D:
            cells = int.from_bytes(bytes_now[at + 3 : at + 5], "big")
            for cell in range(cells):
                start = at + int.from_bytes(
                    bytes_now[at + 8 + 2 * cell : at + 10 + 2 * cell], "big"
                )
                bytes_now[start : start + 4] = (
                    b"\xff\xff\xff\x7f" if cell % 2 else b"\x81\xff\xff\x7f"
                )
    path.write_bytes(bytes_now)
    with pytest.raises(JournaltrackError):
        salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)


def test_doctor_rebuilds_and_keeps_the_damaged_files(tmp_path):
    """Found, rebuilt, the old files kept as they were; refused while somebody has the journal
    open.
    """
    remote, _ = fill(tmp_path / "j")
    path = tmp_path / "j" / "journal.db"
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 4] = bytes(4096)
    path.write_bytes(damaged)
    examination = doctor.examine(tmp_path / "j")
    assert any(f.repair == "rebuild" for f in examination.findings)
    assert path.read_bytes() == damaged
    (done,) = [r for r in doctor.mend(examination) if r.repair == "rebuild"]
    assert done.done, done.message
    assert [p.read_bytes() for p in (tmp_path / "j" / "damaged").rglob("journal.db")] == [damaged]
    remaining = [
        f
        for f in doctor.examine(tmp_path / "j").findings
        if f.severity == "problem" and f.check not in {"chains", "records"}
    ]
    assert remaining == []
    check_delivery(tmp_path / "j", remote, "zeros")


def test_a_journal_that_lost_every_entry_is_not_well(tmp_path):
    """No entry is missing between others; that its writer is there tells of them."""
    folder = tmp_path / "j"
    with closing(Journal.open(folder)) as journal:
        journal.append(journal.component("run"), [vocabulary.parameter("a", 1)])
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'entry'"
        ((page,),) = connection.execute(sql)
    with (folder / "journal.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    (done,) = doctor.mend(doctor.examine(folder))
    assert "entries kept: 0" in done.message
    (finding,) = [f for f in doctor.examine(folder).findings if f.severity == "problem"]
    assert "recorded is lost" in finding.message


def test_foreign_objects_are_left_behind(tmp_path):
    """A trigger that somebody planted is not in the rebuilt database; every row is."""
    fill(tmp_path / "j")
    path = tmp_path / "j" / "journal.db"
    before = content(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER evil AFTER INSERT ON entry BEGIN UPDATE mark SET seq = 99999; END"
        )
    examination = doctor.examine(tmp_path / "j")
    assert [(f.check, f.subjects) for f in examination.findings] == [("schema", ("evil",))]
    assert [r.done for r in doctor.mend(examination)] == [True]
    assert without_repairs(content(path)) == before
    assert doctor.examine(tmp_path / "j").healthy


def test_an_interrupted_swap_is_finished(tmp_path):
    """A kill between the removal of the old log and the last rename: the next repair ends it,
    and nothing is lost.
    """
    fill(tmp_path / "j")
    before = content(tmp_path / "j" / "journal.db")
    salvage(tmp_path / "j", tmp_path / "j" / "journal.db.rebuilt", now_ns=1)
    (tmp_path / "j" / "journal.db").write_bytes(b"torn")
    examination = doctor.examine(tmp_path / "j")
    assert "finish" in [f.repair for f in examination.findings]
    results = doctor.mend(examination)
    assert [(r.repair, r.done) for r in results if r.repair == "finish"] == [("finish", True)]
    assert without_repairs(content(tmp_path / "j" / "journal.db")) == before


def test_metrics_are_put_in_doubt_only_if_they_may_have_been_sent(tmp_path):
    """A journal that no sync has ever touched: all stays pending. After a sync: what has no
    record is in doubt, and read back.
    """
    journal = Journal.open(tmp_path / "j")
    component = journal.component("run")
    journal.append(
        component,
        [
            vocabulary.create(owner="me"),
            *(vocabulary.metric("m", float(n), n, 1) for n in range(50)),
        ],
    )
    journal.append(
        component, [vocabulary.upload("f", BlobRef("ab" * 32, None, None), 1, None, "f")]
    )
    journal.close()
    found = damaged_anywhere(tmp_path / "j", tmp_path / "new.db")
    assert found.damaged
    assert found.in_doubt == 0
    fill(tmp_path / "k")
    assert damaged_anywhere(tmp_path / "k", tmp_path / "new2.db").in_doubt > 0


def damaged_anywhere(folder, target):
    """Salvage with a page of noise at the end of the file."""
    with (folder / "journal.db").open("ab") as file:
        file.write(b"\x7f" * 4096)
    return salvage(folder, target, now_ns=1)


def undelivered(folder):
    """A journal of 2,000 points that nothing delivered, with noise in the middle of them."""
    journal = Journal.open(folder)
    component = journal.component("run")
    journal.append(component, [vocabulary.create(owner="me")])
    journal.append(component, [vocabulary.metric("m", float(n), n, 1) for n in range(2_000)])
    journal.close()
    with (folder / "journal.db").open("r+b") as file:
        file.seek((folder / "journal.db").stat().st_size // 2 // 4096 * 4096)
        file.write(random.Random(1).randbytes(4096))


def files_of(folder):
    """Every file's name and bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_refused_pass_changes_nothing(tmp_path):
    """Not even the lease: all that is pending is read before."""
    undelivered(tmp_path / "j")
    before = files_of(tmp_path / "j")
    remote = MemoryRemote()
    journal = Journal.open(tmp_path / "j", create=False)
    with pytest.raises(JournalCorruptError):
        Reconciler(journal, remote, options=Options()).run()
    journal.close()
    assert files_of(tmp_path / "j") == before
    found = salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
    assert (found.in_doubt, remote.components) == (0, {})


@pytest.mark.parametrize("torn", ["entry", "receipt", "delivery", "attestation"])
def test_a_component_that_no_request_names_was_never_sent(tmp_path, torn):
    """A pass began, and one component was delivered; nothing of the other was tried. It stays
    pending as long as the record of requests is whole.
    """
    fill(tmp_path / "j")
    journal = Journal.open(tmp_path / "j")
    late = journal.component("late")
    journal.append(late, [vocabulary.create(owner="me")])
    journal.append(late, [vocabulary.metric("m", float(n), n, 1) for n in range(50)])
    journal.close()
    with closing(sqlite3.connect(tmp_path / "j" / "journal.db")) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (torn,)
        ).fetchone()
    with (tmp_path / "j" / "journal.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    salvage(tmp_path / "j", tmp_path / "new.db", now_ns=1)
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        in_doubt = Counter(
            name
            for (name,) in connection.execute(
                "SELECT c.name FROM delivery d JOIN entry e ON e.seq = d.seq JOIN component c "
                "ON c.id = e.component_id WHERE d.outcome = 'in doubt'"
            )
        )
    assert in_doubt["run"] > 0
    assert (in_doubt["late"] == 0) == (torn == "entry")
