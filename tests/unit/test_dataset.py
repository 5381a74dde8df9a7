"""Datasets: what journals recorded is in them once, whoever exports it, how often, and whatever
ends an export.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import shutil
import time
import warnings
from contextlib import closing
from pathlib import Path

import duckdb
import pandas as pd
import pytest

import journaltrack
from journaltrack import errors
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.lease import acquire
from journaltrack.retention.prune import prune
from journaltrack.transfer.export import dataset
from journaltrack.transfer.export.dataset import extend
from journaltrack.transfer.export.store import Folder
from journaltrack.transfer.export.tables import DATASET
from journaltrack.transfer.merge import bring, merge
from tests.copies import change, content, points, read, record, sync
from tests.failing_remote import FailingRemote, passing
from tests.faults.disktrace import Killing, supported
from tests.faults.hostile import base, by_hand, copied, run
from tests.golden import REVISIONS, restore
from tests.simulator import CutAfter, HttpError, simulator

WHY_NOT = supported()
FILES = re.compile(r"(metrics|entries|deliveries)/journal_id=[0-9a-f-]{36}/\d{8}\.parquet")
STATE = """
    SELECT writer, writer_seq, state FROM {deliveries}
    QUALIFY row_number() OVER (PARTITION BY writer, writer_seq ORDER BY as_of_ns DESC) = 1
"""


def export(journal, to):
    """Extend the dataset in a folder."""
    return extend(Folder(to, journal), journal)


def table(to, name):
    """A table of the dataset as DuckDB reads it, for a FROM clause."""
    return f"read_parquet('{to}/{name}/*/*.parquet', hive_partitioning = true)"


def held(to):
    """The entries that the dataset has; each is there once."""
    rows = duckdb.sql(
        f"SELECT writer, writer_seq FROM {table(to, 'metrics')} UNION ALL "
        f"SELECT writer, writer_seq FROM {table(to, 'entries')}"
    ).fetchall()
    assert len(set(rows)) == len(rows)
    return set(rows)


def known_states(to):
    """What the dataset knows of each entry that is not simply pending."""
    if not (to / "deliveries").exists():
        return {}
    rows = duckdb.sql(STATE.format(deliveries=table(to, "deliveries"))).fetchall()
    return {(writer, place): state for writer, place, state in rows if state != "pending"}


def settled(journal):
    """The same, as the journal has it."""
    return {entry: state for entry, (_, state) in content(journal).items() if state != "pending"}


def files(to):
    """The names of all files, by which nothing unfinished is seen."""
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


def copy(source, target):
    """A copy of a journal as it is now."""
    shutil.copytree(source, target)
    return target


@pytest.fixture
def folder(tmp_path):
    """The journal of a run with ten points."""
    record(tmp_path / "journal", *points(*range(10)))
    return tmp_path / "journal"


@pytest.fixture(scope="module")
def every_state(tmp_path_factory):
    """A journal with every kind of entry in every state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return base(tmp_path_factory.mktemp("states"))


def test_a_dataset_has_what_an_export_to_a_file_has(every_state, tmp_path):
    """Row by row and column by column: points in one table, all else in the other, and the state
    of each that has one in the third.
    """
    made = export(every_state, tmp_path / "lake")
    journaltrack.export(every_state, to=tmp_path / "e.parquet", table="entries")
    journaltrack.export(every_state, to=tmp_path / "m.parquet", table="metrics")
    for name, source, condition in (
        ("metrics", "m.parquet", "true"),
        ("entries", "e.parquet", "kind NOT IN ('metric', 'local')"),
    ):
        columns = [column.name for column in next(t for t in DATASET if t.name == name).columns]
        shared = ", ".join(
            column
            for column in ["journal_id", *columns]
            if name == "entries" or not column.startswith("writer")
        )
        ours = duckdb.sql(f"SELECT {shared} FROM {table(tmp_path / 'lake', name)} ORDER BY ALL")
        theirs = duckdb.sql(
            f"SELECT {shared} FROM '{tmp_path / source}' WHERE {condition} ORDER BY ALL"
        )
        assert str(ours.fetchall()) == str(theirs.fetchall())
        assert len(ours) == getattr(made, name) > 0
    columns = (
        "writer, writer_seq, state, superseded, settled_at, settled_at_ns, reason, action, "
        "request_id, attempts, error_code"
    )
    told = duckdb.sql(
        f"SELECT {columns} FROM {table(tmp_path / 'lake', 'deliveries')} ORDER BY ALL"
    ).fetchall()
    assert (
        told
        == duckdb.sql(
            f"SELECT {columns} FROM '{tmp_path / 'e.parquet'}' WHERE settled_at IS NOT NULL "
            "ORDER BY ALL"
        ).fetchall()
    )
    assert {row[2] for row in told} == {"delivered", "in doubt", "quarantined"}
    assert all(FILES.fullmatch(name) for name in files(tmp_path / "lake"))
    assert files(tmp_path / "lake") == sorted(made.files)


def test_pandas_reads_a_table_with_its_partitions(folder, tmp_path):
    """The folder of a table is one frame, in which ``journal_id`` is a column; a filter of it reads
    that journal's files alone.
    """
    record(tmp_path / "other", *points(7))
    for journal in (folder, tmp_path / "other"):
        export(journal, tmp_path / "lake")
    metrics = pd.read_parquet(tmp_path / "lake" / "metrics")
    assert metrics.groupby("journal_id", observed=True).size().to_dict() == {
        read(folder, "SELECT journal_id FROM meta")[0][0]: 10,
        read(tmp_path / "other", "SELECT journal_id FROM meta")[0][0]: 1,
    }
    chosen = pd.read_parquet(
        tmp_path / "lake" / "metrics",
        filters=[("journal_id", "=", str(metrics["journal_id"].iloc[-1]))],
    )
    assert str(metrics.dtypes["timestamp"]) == "datetime64[us, UTC]"
    assert len(chosen) in {1, 10}


def test_each_export_brings_what_is_new(folder, tmp_path):
    """The second one has nothing; later ones have the rows since, and change no file."""
    to = tmp_path / "lake"
    export(folder, to)
    assert export(folder, to).files == []
    before = {name: (to / name).read_bytes() for name in files(to)}
    record(folder, *points(*range(5)), component="b")
    made = export(folder, to)
    assert (made.metrics, made.entries, made.deliveries) == (5, 1, 0)
    assert held(to) == set(content(folder))
    assert before == {name: (to / name).read_bytes() for name in before}
    # Rows of one table alone are one file, though all tables have looked at them.
    with closing(Journal.open(folder)) as journal:
        journal.append(journal.component("b"), points(1, 2))
    assert [name.partition("/")[0] for name in export(folder, to).files] == ["metrics"]
    assert export(folder, to).files == []


def test_what_becomes_of_entries_later_comes_with_the_next_export(folder, tmp_path):
    """Pending, in doubt, quarantined, released and delivered: the newest row of an entry has its
    state, at every step, and no entry is written again.
    """
    to, remote = tmp_path / "lake", FailingRemote()
    export(folder, to)
    assert known_states(to) == {}
    remote.failures["put_metrics"].append(passing(maybe_applied=True))
    record(folder, *points(float("nan")), component="b")
    sync(folder, remote)
    for step in ("synced", "released", "again"):
        if step == "released":
            release(folder)
        if step == "again":
            sync(folder, remote)
        made = export(folder, to)
        assert made.deliveries > 0
        assert known_states(to) == settled(folder), step
        assert export(folder, to).files == []
    states = set(settled(folder).values())
    assert states == {"delivered", "quarantined"}
    assert held(to) == set(content(folder))


def test_copies_and_merged_journals_bring_each_entry_once(folder, tmp_path):
    """Two copies continue apart, a third journal is merged from all: whoever is exported first,
    and in whatever order, the dataset has the union, under the journals that recorded it.
    """
    other = copy(folder, tmp_path / "copy")
    record(folder, *points(1, 2), component="here")
    record(other, *points(3), component="there")
    record(tmp_path / "second", *points(4), component="second")
    merge([folder, other, tmp_path / "second"], into=tmp_path / "all")
    everything = set(content(tmp_path / "all"))
    ids = {
        read(journal, "SELECT journal_id FROM meta")[0][0]
        for journal in (folder, tmp_path / "second")
    }
    for n, order in enumerate(
        itertools.permutations((folder, other, tmp_path / "second", tmp_path / "all"))
    ):
        if n % 5:  # some of them
            continue
        to = tmp_path / f"lake-{n}"
        for journal in order:
            export(journal, to)
        assert held(to) == everything
        assert export(tmp_path / "all", to).files == []
        assert {path.name for path in (to / "metrics").iterdir()} == {
            f"journal_id={i}" for i in ids
        }


def test_interleaved_processes_come_by_journal(tmp_path, monkeypatch):
    """After a merge, entries of many journals alternate: each goes to its own journal's files."""
    monkeypatch.setattr("journaltrack.transfer.export.pages.PAGE_ROWS", 7)
    for n in range(2):
        with closing(
            Journal.open(tmp_path / f"j{n}", clock_ns=itertools.count(10**18 + n, 2).__next__)
        ) as journal:
            for _ in range(20):
                journal.append(journal.component(f"c{n}"), points(n))
    merge([tmp_path / "j0", tmp_path / "j1"], into=tmp_path / "all")
    writers = [w for (w,) in read(tmp_path / "all", "SELECT writer_id FROM entry ORDER BY seq")]
    assert writers != sorted(writers)
    export(tmp_path / "all", tmp_path / "lake")
    found = duckdb.sql(
        f"SELECT journal_id, component, count(*), min(value), max(value) FROM "
        f"{table(tmp_path / 'lake', 'metrics')} GROUP BY ALL ORDER BY component"
    ).fetchall()
    assert found == [
        (read(tmp_path / f"j{n}", "SELECT journal_id FROM meta")[0][0], f"c{n}", 20, n, n)
        for n in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 17, -2])
def test_a_file_that_is_missing_is_told(folder, tmp_path, number):
    """Later files say that its rows are there: no export would bring them back."""
    for step in range(20):
        record(folder, *points(step + 1), component="more")
        export(folder, tmp_path / "lake")
    files = sorted((tmp_path / "lake" / "metrics").rglob("*.parquet"))
    files[number].unlink()
    before = held(tmp_path / "lake")
    record(folder, *points(1), component="last")
    with pytest.raises(errors.InvalidInputError, match="nothing was added"):
        export(folder, tmp_path / "lake")
    assert held(tmp_path / "lake") == before


def test_what_was_pruned_stays_in_the_dataset(folder, tmp_path):
    """Entries that were exported before a prune stay; later ones come; what the copy that was not
    pruned still has comes from there, once.
    """
    to, before = tmp_path / "lake", set(content(folder))
    sync(folder, MemoryRemote())
    other = copy(folder, tmp_path / "copy")
    early = tmp_path / "early"
    export(folder, to)
    assert prune(folder, ask=None, delivered_before_ns=time.time_ns()).entries > 0
    record(folder, *points(1), component="later")
    assert export(folder, to).removed > 0
    assert export(folder, to).files == []
    assert held(to) == before | set(content(folder))
    # Pruned before the first export: the other copy brings it.
    export(folder, early)
    assert held(early) == set(content(folder))
    export(other, early)
    assert held(early) == before | set(content(folder))
    assert known_states(early) == settled(other) | settled(folder)


def test_a_prune_beside_an_export_writes_no_file_that_says_too_much(folder, tmp_path):
    """An export that rows were taken from is refused; the next one is right."""
    sync(folder, MemoryRemote())
    store = Folder(tmp_path / "lake", folder)

    class Pruned(type(store)):
        """Has the journal pruned as the first file is made."""

        def create(self, name, write):
            prune(folder, ask=None, delivered_before_ns=time.time_ns())
            return super().create(name, write)

    with pytest.raises(errors.InvalidInputError, match="was pruned during the export"):
        extend(Pruned(tmp_path / "lake", folder), folder)
    assert files(tmp_path / "lake") == []
    export(folder, tmp_path / "lake")
    assert held(tmp_path / "lake") == set(content(folder))


def test_a_clock_that_was_set_back_leaves_the_newest_state_the_newest(folder, tmp_path):
    """A file that says it is from later than now: what is delivered since counts all the same, and
    comes once.
    """
    to, remote = Folder(tmp_path / "lake", folder), FailingRemote()
    remote.failures["put_metrics"].append(passing(maybe_applied=True))
    sync(folder, remote)
    ahead_ns = time.time_ns() + 10**15
    extend(to, folder, clock_ns=lambda: ahead_ns)
    release(folder)
    sync(folder, remote)
    assert extend(to, folder).deliveries > 0
    assert known_states(tmp_path / "lake") == settled(folder)
    assert extend(to, folder).files == []


def release(folder):
    """A person has what is in doubt sent again."""
    with closing(Journal.open(folder)) as journal:
        lease = acquire(journal.database)
        Settlement(journal.database, lease).release(["in doubt"])
        lease.release()


def pass_with_losses(folder, remote, losses):
    """A pass in which some answers about points are lost."""
    remote.failures["put_metrics"].extend(
        passing(maybe_applied=True) if lost else None for lost in losses
    )
    sync(folder, remote)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_is_in_the_dataset_once(tmp_path, seed):
    """Random calls, syncs with and without answers, releases, copies, merges, prunes and exports
    from anywhere: in the end the dataset has all that was recorded, with the states of the copy
    that knows everything.
    """
    chance, to, remote = random.Random(seed), tmp_path / "lake", FailingRemote()
    main = tmp_path / "main"
    journals = [main]
    steps = chance.choices(["record", "sync", "release", "copy", "export"], [3, 2, 1, 1, 2], k=25)
    for n, step in enumerate(["record", *steps]):
        journal = chance.choice(journals)
        if step == "record":
            record(journal, *points(*range(chance.randint(1, 4))), component=f"c{n % 3}")
        elif step == "sync":
            pass_with_losses(main, remote, chance.choices([True, False], k=2))
        elif step == "release":
            release(journal)
        elif step == "copy" and len(journals) < 3:
            journals.append(copy(main, tmp_path / f"copy-{n}"))
        elif step == "export":
            export(journal, to)
    for other in journals[1:]:
        bring(other, main)
    export(journals[-1], to)
    export(main, to)
    if seed % 2:
        prune(main, ask=None, delivered_before_ns=time.time_ns())
        record(main, *points(1), component="after")
        export(main, to)
    assert held(to) >= set.union(*(set(content(each)) for each in journals))
    told = known_states(to)
    now = {entry: state for entry, (_, state) in content(main).items()}
    assert {entry: told.get(entry, "pending") for entry in now} == now


@pytest.mark.parametrize("turn", range(3))
def test_who_comes_second_looks_again(folder, tmp_path, turn):
    """Another export takes the next number of a file right before this one: nothing is lost or
    written twice, whichever of the three it is.
    """
    to, turns = tmp_path / "lake", iter(range(100))

    class Late(Folder):
        """Lets another one come first, once."""

        def create(self, name, write):
            if next(turns) == turn:
                record(folder, *points(turn), component="late")
                export(folder, to)
            return super().create(name, write)

    sync(folder, MemoryRemote())
    extend(Late(to, folder), folder)
    assert next(turns) > turn
    export(folder, to)
    assert held(to) == set(content(folder))
    assert known_states(to) == settled(folder)


def test_a_file_that_others_always_take_is_told(folder, tmp_path):
    """An export that never gets its turn ends, and says that the rest is missing."""

    class Busy(Folder):
        """Never lets a file be."""

        def create(self, name, write):
            write(io.BytesIO())
            return False

    with pytest.raises(errors.InvalidInputError, match="not everything was exported"):
        extend(Busy(tmp_path / "lake", folder), folder)


def test_few_files_are_read_however_many_there_are(folder, tmp_path):
    """The ends of at most 16 files of each table say what all have."""
    to = tmp_path / "lake"
    with closing(Journal.open(folder)) as journal:
        for n in range(35):
            journal.append(journal.component("a"), points(n))
            export(folder, to)

    class Counted(Folder):
        """Counts what is read."""

        ends = 0

        def end(self, name, size_bytes):
            Counted.ends += 1
            return super().end(name, size_bytes)

    assert extend(Counted(to, folder), folder).files == []
    assert 2 <= Counted.ends <= 17
    assert len(files(to)) == 35 + 1
    assert held(to) == set(content(folder))


def test_only_what_is_new_is_read_from_a_journal(folder, tmp_path, monkeypatch):
    """As long as the journal is the one of the last export, the entries before are not read, even
    after other processes wrote.
    """
    to, asked = tmp_path / "lake", []
    for n in range(3):
        record(folder, *points(n), component=f"c{n}")
        export(folder, to)
        with closing(Journal.open(folder, read_only=True)) as journal:
            log = dataset._Log(Folder(to, folder), journal.journal_id)
            last, _ = log.holdings.covered([each.name for each in DATASET])
            asked.append(last == journal.last_seq())
    assert asked == [True] * 3


def test_large_journals_are_cut_into_files(folder, tmp_path, monkeypatch):
    """A file is about a bounded number of entries; an export that ends between two continues."""
    monkeypatch.setattr(dataset, "FILE_ENTRIES", 4)
    made = export(folder, tmp_path / "lake")
    assert [name for name in made.files if name.startswith("metrics")] == [
        f"metrics/journal_id={made.journal_id}/{n:08}.parquet" for n in (1, 2, 3)
    ]
    assert held(tmp_path / "lake") == set(content(folder))
    assert export(folder, tmp_path / "lake").files == []


def test_a_cut_short_export_leaves_whole_files(folder, tmp_path):
    """An exception at any moment leaves no half of a file, and the next export brings the rest."""
    told = []
    extend(Folder(tmp_path / "whole", folder), folder, on_progress=told.append)
    for at in range(len(told)):
        to, left = tmp_path / f"lake-{at}", itertools.count()

        def interrupt(_progress, left=left, at=at):
            if next(left) == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extend(Folder(to, folder), folder, on_progress=interrupt)
        assert not to.exists() or all(FILES.fullmatch(name) for name in files(to))
        export(folder, to)
        assert held(to) == set(content(folder))


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_killed_export_is_completed_by_the_next_one(folder, tmp_path):
    """SIGKILL before every sixth change of the dataset's folder: what is visible is whole, and
    the next export has all of it, once.
    """
    to, remote = tmp_path / "lake", MemoryRemote()
    sync(folder, remote)
    killing = Killing("from journaltrack.cli import main; main()", tmp_path)
    to.mkdir()
    changes = killing.changes(to, "export", folder, "--to", to)
    shutil.rmtree(to)
    for at in range(2, changes + 1, 6):
        to.mkdir()
        assert killing.killed(to, "export", folder, "--to", to, at=at)
        visible = [name for name in files(to) if not Path(name).name.startswith(".")]
        assert all(FILES.fullmatch(name) for name in visible)
        export(folder, to)
        assert held(to) == set(content(folder))
        assert known_states(to) == settled(folder)
        record(folder, *points(at), component="next")
        sync(folder, remote)
        export(folder, to)
        assert not list(to.rglob("*.partial"))
        shutil.rmtree(to)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda file: file.write_bytes(b"PAR1"), "is not what journaltrack wrote"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "is not what journaltrack wrote"),
        (
            lambda file: duckdb.sql("SELECT 1 AS n").write_parquet(str(file)),
            "it has no note of journaltrack",
        ),
        (
            lambda file: file.write_bytes(
                file.read_bytes().replace(b'{"version":1', b'{"version":2')
            ),
            "its version is 2, and known is 1",
        ),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(folder, tmp_path, damage, why):
    """A damaged file, one of another program, or of a later version: an error that names it, and
    nothing is added.
    """
    to = tmp_path / "lake"
    export(folder, to)
    record(folder, *points(1), component="b")
    damage(next((to / "metrics").rglob("*.parquet")))
    before = files(to)
    with pytest.raises(errors.InvalidInputError, match=why):
        export(folder, to)
    assert files(to) == before
    assert run("export", folder, "--to", to)[0] == 2


def test_other_files_beside_ours_are_ignored(folder, tmp_path):
    """Hidden files, notes and folders of the user's in the dataset are not read."""
    to = tmp_path / "lake"
    export(folder, to)
    place = next((to / "metrics").iterdir())
    (place / "README.txt").write_text("mine")
    (place / ".00000002.parquet.crc").write_text("theirs")
    (to / "views.sql").write_text("SELECT 1")
    record(folder, *points(1), component="b")
    assert export(folder, to).metrics == 1


@pytest.mark.parametrize("journal_id", ["../../x", "", "a/b", "x" * 65, "\x1b[2J", b"\xff"])
def test_a_crafted_journal_writes_nothing_elsewhere(folder, tmp_path, journal_id):
    """The id of a journal names a folder: one that is none of ours is refused."""
    change(folder, "UPDATE writer SET journal_id = ?", journal_id)
    if not journal_id:  # as in journals of the first format
        assert export(folder, tmp_path / "lake").metrics == 10
        return
    with pytest.raises(errors.InvalidInputError, match="is no id of a journal"):
        export(folder, tmp_path / "lake")
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("attestation.writer_seq", "9" * 5000),
        ("attestation.writer_seq", -1),
        ("attestation.body", "{"),
        ("entry.writer_seq", -1),
        ("entry.writer_seq", 7),
        ("entry.writer_id", 2**63 - 1),
        ("writer.uuid", b"\xff"),
    ],
)
def test_a_crafted_journal_spoils_no_dataset(every_state, tmp_path, column, value):
    """Cells that no journal has leave files that the next export can read."""
    crafted, to = copied(every_state, tmp_path / "crafted"), tmp_path / "lake"
    name, _, cell = column.partition(".")
    with by_hand(crafted) as connection:
        connection.execute(f"UPDATE OR IGNORE {name} SET {cell} = ?", (value,))
    for journal in (crafted, crafted, every_state):
        export(journal, to)
    assert export(every_state, to).files == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_journals_of_all_revisions_are_exported(tmp_path, revision):
    """Also those whose writers do not say which journal they wrote into: all entries, and what
    became of them, under the journal's own id. They stay as they are.
    """
    restore(revision, tmp_path / "journal")
    made = export(tmp_path / "journal", tmp_path / "lake")
    assert export(tmp_path / "journal", tmp_path / "lake").files == []
    assert {made.journal_id} == {Path(name).parent.name.partition("=")[2] for name in made.files}
    upgraded = copy(tmp_path / "journal", tmp_path / "upgraded")
    Journal.open(upgraded).close()
    assert held(tmp_path / "lake") == set(content(upgraded))
    assert known_states(tmp_path / "lake") == settled(upgraded)
    assert export(upgraded, tmp_path / "lake").files == []


def test_a_long_note_is_read_to_its_beginning(folder, tmp_path, monkeypatch):
    """The end of a file can be longer than what is read at first."""
    export(folder, tmp_path / "lake")
    monkeypatch.setattr(dataset, "_END_BYTES", 10)
    assert export(folder, tmp_path / "lake").files == []


def test_cells_of_wrong_types_are_told(folder, tmp_path):
    """As in an export to a file: the cell is left out, and ``unsound`` has it."""
    change(folder, "UPDATE entry SET payload = x'00' WHERE seq = 3")
    made = export(folder, tmp_path / "lake")
    assert made.unsound == 1
    (row,) = duckdb.sql(
        f"SELECT value, unsound FROM {table(tmp_path / 'lake', 'metrics')} "
        "WHERE unsound IS NOT NULL"
    ).fetchall()
    assert row == (1.0, "payload: b'\\x00'")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--to", "journal"], "inside of the journal"),
        (["--to", "journal/lake"], "inside of the journal"),
        (["--to", "file"], "is not a folder"),
        (["--to", "s3://"], "names no bucket"),
        (["--to", "s3://Not_A_Bucket/x"], "names no bucket"),
        (["--to", "lake", "--component", "a"], "--component can't be used with --to"),
        (["--to", "lake", "-o", "x.csv", "--force"], "--output, --force can't be used with --to"),
        (["-o", "x.csv", "--region", "eu-west-1"], "--region needs --to"),
    ],
)
def test_what_can_not_be_a_dataset_is_wrong_usage(folder, tmp_path, monkeypatch, arguments, why):
    """Exit code 2, why, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    code, _, told = run("export", folder, *arguments)
    assert (code, why in told) == (2, True), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "journal"]


def test_a_copy_for_a_destination_is_refused(folder, tmp_path):
    """Its deliveries are not SageMaker's."""
    (folder / "destination.json").write_text('{"uri": "http://mlflow"}')
    with pytest.raises(errors.InvalidInputError, match="can't be exported to a dataset"):
        export(folder, tmp_path / "lake")


def test_the_command_tells_what_is_new(folder, tmp_path):
    """In words and as JSON, for one journal and for several."""
    to = tmp_path / "lake"
    code, told, _ = run("export", folder, "--to", to)
    assert (code, told) == (
        0,
        f"{to}: 10 metrics, 1 entry and 0 deliveries in 2 new files\n",
    )
    assert run("export", folder, "--to", to)[1] == f"{to}: nothing new\n"
    record(tmp_path / "second", *points(1, 2))
    code, told, _ = run("export", tmp_path / "second", folder, "--to", to, "--json")
    first, second = json.loads(told)["journals"]
    assert (code, first["metrics"], first["dataset"]) == (0, 2, str(to))
    assert second["files"] == []


def test_a_journal_that_cannot_be_read_does_not_stop_the_others(folder, tmp_path):
    """It is told, in words and as JSON, and the exit code is its error's."""
    to, damaged = tmp_path / "lake", tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "journal.db").write_bytes(b"no database" * 1_000)
    record(tmp_path / "third", *points(1, 2))
    names = (folder, damaged, tmp_path / "missing", tmp_path / "third")
    code, told, problems = run("export", *names, "--to", to)
    assert code == 8
    assert f"{folder}: {to}: 10 metrics" in told
    assert f"{tmp_path / 'third'}: {to}: 2 metrics" in told
    assert told.endswith(f"not exported: 2 of 4 journals\n  {damaged}\n  {names[2]}\n")
    assert f"{damaged / 'journal.db'} is not a journal" in problems
    code, told, _ = run("export", *names, "--to", to, "--json")
    documents = json.loads(told)["journals"]
    assert (code, json.loads(told)["exit_code"]) == (8, 8)
    assert [each.get("exit_code") for each in documents][::3] == [0, 0]
    assert ["error" in each for each in documents] == [False, True, True, False]


def test_a_dataset_in_s3_is_that_of_a_folder(folder, tmp_path, monkeypatch):
    """Each file is one request that overwrites nothing and that S3 verifies; a request whose
    answer was lost is repeated, and nothing is written twice.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    reach = ["--region", "us-east-1"]
    with simulator() as sim:
        sim.buckets.add("the-bucket")
        reach += ["--endpoint-url", sim.endpoint_url]
        sim.fail("PutObject", HttpError(503, "SlowDown"))
        sim.fail("PutObject", CutAfter())
        uri = "s3://the-bucket/runs/"
        code, told, problems = run("export", folder, "--to", uri, *reach)
        assert (code, told, problems) == (
            0,
            "s3://the-bucket/runs: 10 metrics, 1 entry and 0 deliveries in 2 new files\n",
            "",
        )
        for stored in sim.objects.values():
            assert set(stored.checksums) == {"sha256"}
        record(folder, *points(1), component="b")
        sync(folder, MemoryRemote())
        for _ in range(2):
            assert run("export", folder, "--to", uri, *reach)[0] == 0
        here = tmp_path / "lake"
        for (bucket, key), stored in sim.objects.items():
            assert bucket == "the-bucket"
            target = here / key.removeprefix("runs/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(stored.body)
        assert all(FILES.fullmatch(name) for name in files(here))
        assert held(here) == set(content(folder))
        assert known_states(here) == settled(folder)
        assert not [c for c in sim.calls("PutObject") if c.status == 200 and not c.applied]
        # A bucket that is not there: told, and nothing is made.
        code, _, told = run("export", folder, "--to", "s3://other-bucket/x", *reach)
        assert code in {2, 5, 6}
        assert "other-bucket" in told or "bucket" in told
        assert "other-bucket" not in sim.buckets


def test_the_columns_are_those_of_the_pages():
    """docs/reference/columns.md lists each column with its type, and the statements for Athena in
    docs/analysis.md have them all, in any order of theirs.
    """
    docs = Path(__file__).parents[2] / "docs"
    shown = re.findall(
        r"^\| (`[^|]+`) \| (\w+) \| [ME]* ?\| ([MED]*) ?\|",
        (docs / "reference" / "columns.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    text = (docs / "analysis.md").read_text(encoding="utf-8")
    in_athena = {
        "text": "string",
        "integer": "bigint",
        "double": "double",
        "time": "timestamp",
        "flag": "boolean",
    }
    for each in DATASET:
        columns = [(column.name, column.type) for column in each.columns]
        listed = [
            (n, kind)
            for cell, kind, where in shown
            for n in re.findall(r"\w+", cell)
            if each.name[0].upper() in where
        ]
        assert sorted(listed) == sorted([*columns, ("journal_id", "text")])
        statement = re.search(rf"CREATE EXTERNAL TABLE {each.name} \((.*?)\n\)", text, re.DOTALL)
        declared = [tuple(part.replace("`", "").split()) for part in statement[1].split(",")]
        assert declared == [(name, in_athena[kind]) for name, kind in columns]
        after = text[statement.end() :].partition("```")[0]
        assert "PARTITIONED BY (journal_id string)" in after


def test_holdings_survive_their_note():
    """What a file says of itself is read back as it was said, and nothing else is taken for it."""
    from journaltrack.transfer.export.holdings import Holdings
    from journaltrack.transfer.export.holdings import read as read_note

    said = Holdings(
        {"metrics": {"w": [(1, 5), (7, 9)]}, "entries": {"w": [(1, 5), (7, 9)]}, "deliveries": {}},
        {"r": 3},
        17,
        {"w": (9, 12)},
        whole=True,
    )
    text = said.text("id")
    assert read_note(text, "id") == said
    for wrong in (
        "",
        "[]",
        "{}",
        "[" * 100_000,
        text.replace("1-5", "5-1"),
        text.replace("17", "-1"),
        text.replace("17", str(2**63)),
    ):
        with pytest.raises(ValueError, match=r"."):
            read_note(wrong, "id")
    members = json.loads(text)
    for name, value in itertools.product(
        ("entries", "attestations", "attested_at_ns", "ends"), (None, [1], {"a": "b"}, "x", [[1]])
    ):
        with pytest.raises(ValueError, match=r"."):
            read_note(json.dumps({**members, name: value}), "id")
    with pytest.raises(ValueError, match="not of journal other"):
        read_note(text, "other")
