"""Exports: nothing is lost or changed on the way into other programs, and no half of a file
looks whole.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json
import math
import re
import signal
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import journaltrack
from benchmarks import journals
from journaltrack import Tracker, errors
from journaltrack.cli import main
from journaltrack.journal.view import iso
from journaltrack.reports import entries
from journaltrack.transfer.export import pages
from journaltrack.transfer.export.tables import METRICS, TABLES
from tests.faults.disktrace import Killing, supported
from tests.faults.hostile import ESCAPES, VALUES, base, by_hand, cells, copied, run

WHY_NOT = supported()

NAMES = ("loss", 'a "quoted", name', "zwei\nZeilen\r\nund\tTab", "=1+1", "ünïcode ☃ 🙂", " spaces ")
NUMBERS = (
    0.1,
    0.0,
    1e-320,
    1.7976931348623157e308,
    math.nan,
    math.inf,
    -math.inf,
    2**53 + 1,
    10**400,
    -(2**63),
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::journaltrack.tracking.validation.JournaltrackWarning"
)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Every number that is hard to carry, under every name that is; three more kinds of entry."""
    folder = tmp_path_factory.mktemp("varied") / "journal"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
            tracker.log_parameters({"text": 'x,"y"\n\u2028ü', "number": 3, "huge": 2**70})
            for name in NAMES:
                for step, number in enumerate(NUMBERS):
                    tracker.log_metric(
                        name.replace("\r\n", " ").replace("\n", " "),
                        number,
                        iteration_number=step or None,
                    )
    # a line break in a name is refused at the call, but a journal can hold one
    with by_hand(folder) as connection:
        connection.execute("UPDATE entry SET name = ? WHERE name LIKE 'zwei%'", (NAMES[2],))
    return folder


@pytest.fixture(scope="module")
def every_state(tmp_path_factory):
    """A journal with every kind of entry in every state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return base(tmp_path_factory.mktemp("states"))


def recorded(folder):
    """The metrics as sqlite3 has them, with the numbers that were logged."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        rows = connection.execute(
            "SELECT seq, name, step, value, payload, timestamp_ns, recorded_at_ns FROM entry "
            "WHERE kind = 'metric' ORDER BY seq"
        )
        return [
            (
                seq,
                name,
                step,
                value if payload is None else json.loads(payload)["exact"],
                timestamp_ns,
                recorded_ns,
            )
            for seq, name, step, value, payload, timestamp_ns, recorded_ns in rows
        ]


def exported(rows):
    """Rows of an export in the same form: a number's exact text where there is one."""
    return [
        (
            row["seq"],
            row["name"],
            row["step"],
            row["exact"] if row["exact"] is not None else row["value"],
            row["timestamp_ns"],
            row["recorded_at_ns"],
        )
        for row in rows
    ]


def export(journal, target, **options):
    """Export to a file."""
    return journaltrack.export(journal, to=target, **options)


def test_parquet_keeps_every_number_name_and_time(varied, tmp_path):
    """Read back with pyarrow: every value, also NaN and infinity; times in microseconds beside
    exact nanoseconds; the schema is flat.
    """
    made = export(varied, tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    rows = table.to_pylist()
    assert exported(rows) == recorded(varied)
    assert made.rows == len(rows) == len(NAMES) * len(NUMBERS)
    for row in rows:
        assert row["timestamp"] == dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(
            microseconds=row["timestamp_ns"] // 1000
        )
        if row["exact"] in {"nan", "inf", "-inf"}:
            assert repr(row["value"]) == row["exact"]
    assert {str(field.type) for field in table.schema} == {
        "string",
        "int64",
        "double",
        "timestamp[us, tz=UTC]",
    }
    assert table.column_names == [column.name for column in METRICS.columns]


def test_json_lines_keep_every_number_name_and_time(varied, tmp_path):
    """One object a line, in ASCII, with the columns in order; what JSON has no number for is
    null, and in `exact`.
    """
    export(varied, tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_bytes()
    rows = [
        json.loads(line, parse_constant=pytest.fail) for line in text.decode("ascii").splitlines()
    ]
    assert exported(rows) == recorded(varied)
    assert list(rows[0]) == [column.name for column in METRICS.columns]
    assert all(row["timestamp"] == iso(row["timestamp_ns"]) for row in rows)
    assert {row["exact"] for row in rows if row["value"] is None} >= {"nan", "inf", "-inf"}


def test_csv_keeps_every_number_name_and_time(varied, tmp_path):
    """The csv module reads what was logged, formulas as they are; lines end in CR LF, nulls are
    empty.
    """
    export(varied, tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_bytes().decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == [column.name for column in METRICS.columns]
    read = [dict(zip(header, row, strict=True)) for row in rows]
    assert [
        (
            int(r["seq"]),
            r["name"],
            int(r["step"]) if r["step"] else None,
            r["exact"] or float(r["value"]),
            int(r["timestamp_ns"]),
            int(r["recorded_at_ns"]),
        )
        for r in read
    ] == recorded(varied)
    assert text.startswith("journal_id,seq,")
    assert "\r\n" in text
    assert {r["value"] for r in read if r["exact"] == "-inf"} == {"-inf"}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_duckdb_and_pandas_agree_with_the_journal(varied, tmp_path, suffix):
    """DuckDB and pandas count the same rows, names and sums as the journal, in each format."""
    target = tmp_path / f"m.{suffix}"
    export(varied, target)
    wanted = recorded(varied)
    finite = math.fsum(
        v
        for _, name, _, v, *_ in wanted
        if isinstance(v, float) and math.isfinite(v) and name == "loss"
    )
    sql = f"SELECT count(*), count(DISTINCT name), min(seq), max(timestamp_ns) FROM '{target}'"
    assert duckdb.sql(sql).fetchall()[0] == (
        len(wanted),
        len(NAMES),
        wanted[0][0],
        max(row[4] for row in wanted),
    )
    read = {
        "parquet": pd.read_parquet,
        "csv": pd.read_csv,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }[suffix]
    frame = read(target)
    assert len(frame) == len(wanted)
    assert list(frame["seq"]) == [row[0] for row in wanted]
    if suffix != "jsonl":  # pandas reads JSON's doubles to 15 digits
        chosen = frame["value"][(frame["name"] == "loss") & frame["exact"].isna()]
        # in a CSV pandas takes the text nan for nothing
        assert math.fsum(filter(math.isfinite, chosen)) == finite


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_entries_are_those_of_the_audit(every_state, tmp_path, suffix):
    """Each entry comes once with the state, request and writer that `audit entries` has,
    whatever its state.
    """
    target = tmp_path / f"e.{suffix}"
    made = export(every_state, target, table="entries")
    rows = duckdb.sql(f"SELECT * FROM '{target}' ORDER BY seq").to_arrow_table().to_pylist()
    wanted = list(entries.each_entry(every_state))
    assert made.rows == len(rows) == len(wanted)
    assert {row["state"] for row in rows} == {
        "pending",
        "in flight",
        "delivered",
        "in doubt",
        "quarantined",
    }
    for row, entry in zip(rows, wanted, strict=True):
        for name in (
            "seq",
            "component",
            "stream",
            "kind",
            "name",
            "step",
            "timestamp_ns",
            "recorded_at_ns",
            "state",
            "superseded",
        ):
            assert row[name] == getattr(entry, name), name
        for name in (
            "settled_at_ns",
            "reason",
            "receipt_id",
            "action",
            "request_id",
            "attempts",
            "host",
            "user",
            "pid",
            "program",
        ):
            assert row[name] == getattr(entry, name), name
        assert row["error_code"] == entry.code
        payload = (
            json.loads(row["payload"]) if isinstance(row["payload"], str) else row["payload"]
        )  # DuckDB parses JSON that it finds in JSON
        assert (payload or {}) == entry.detail
        assert row["unsound"] is None
    with closing(sqlite3.connect(every_state / "journal.db")) as connection, connection:
        digests = [
            digest.hex()
            for (digest,) in connection.execute("SELECT digest FROM entry ORDER BY seq")
        ]
    assert [str(row["digest"]) for row in rows] == digests


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_texts_have_a_column_of_their_own(tmp_path, suffix):
    """What is no number is in `text`: a pivot of parameters loses none, and numbers beyond a
    double keep their digits.
    """
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_parameters(
            {
                "optimizer": "adam",
                "lr": 0.5,
                "huge": 2**53 + 1,
                "empty": " ",
                "odd": 'x,"y"\n\u2028',
            }
        )
        tracker.log_parameter("broken", "\udc80")
        tracker.log_input("data", "s3://my/data")
        tracker.log_metric("loss", math.nan)
        tracker.log_metric("loss", 1.0)
    target = tmp_path / f"e.{suffix}"
    export(tmp_path / "j", target, table="entries")
    rows = duckdb.sql(f"SELECT kind, name, value, text FROM '{target}' ORDER BY seq").fetchall()
    found = {name: text for kind, name, _, text in rows if kind in {"parameter", "input"}}
    texts = {
        "optimizer": "adam",
        "lr": None,
        "huge": str(2**53 + 1),
        "empty": " ",
        "odd": 'x,"y"\n\u2028',
        "broken": "\\udc80",
        "data": "s3://my/data",
    }
    assert found == texts
    assert [text for kind, _, _, text in rows if kind == "metric"] == ["nan", None]
    assert [text for kind, _, _, text in rows if kind == "status"] == ["InProgress", "Completed"]


@pytest.mark.parametrize("table", TABLES)
def test_pages_of_any_size_make_the_same_rows(every_state, tmp_path, monkeypatch, table):
    """Where pages end makes no difference, neither by rows nor by bytes."""
    whole, small, cut = (tmp_path / name for name in ("whole.csv", "small.csv", "cut.csv"))
    export(every_state, whole, table=table)
    monkeypatch.setattr(pages, "_CHUNK_ROWS", 2)
    monkeypatch.setattr(pages, "PAGE_ROWS", 7)
    export(every_state, small, table=table)
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 1)
    export(every_state, cut, table=table)
    assert small.read_bytes() == whole.read_bytes()
    assert cut.read_bytes() == whole.read_bytes()


def test_component_and_times_choose(every_state, tmp_path):
    """A pattern of names, and bounds in time (the first inside, the second outside), choose
    rows; none is a file without rows.
    """
    everything = [json.loads(line) for line in exported_lines(every_state, table="entries")]
    assert {row["component"] for row in everything} == {"run", "next"}
    some = [
        json.loads(line) for line in exported_lines(every_state, table="entries", component="NEX*")
    ]
    assert some == [row for row in everything if row["component"] == "next"]
    first, last = everything[5]["recorded_at_ns"], everything[9]["recorded_at_ns"]
    some = [
        json.loads(line)
        for line in exported_lines(every_state, table="entries", since=first, until=last)
    ]
    assert [row["seq"] for row in some] == [
        row["seq"] for row in everything if first <= row["recorded_at_ns"] < last
    ]
    later = dt.datetime(2100, 1, 1, tzinfo=dt.timezone.utc)
    assert export(every_state, tmp_path / "none.parquet", since=later).rows == 0
    assert pq.read_table(tmp_path / "none.parquet").column_names == [
        column.name for column in METRICS.columns
    ]
    with pytest.raises(errors.InvalidInputError, match="time zone"):
        export(every_state, tmp_path / "x.csv", since=dt.datetime(2026, 1, 1))  # noqa: DTZ001


def exported_lines(journal, **options):
    stream = io.BytesIO()
    journaltrack.export(journal, to=stream, format="jsonl", **options)
    return stream.getvalue().splitlines()


def test_what_is_recorded_meanwhile_does_not_prolong_an_export(tmp_path):
    """The last entry is fixed at the start: a training that goes on is not followed for ever."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off")
    tracker.log_metric("loss", 1.0)
    stream = io.BytesIO()
    journaltrack.export(
        tmp_path / "j",
        to=stream,
        format="jsonl",
        on_progress=lambda _: tracker.log_metric("loss", 2.0),
    )
    assert [json.loads(line)["value"] for line in stream.getvalue().splitlines()] == [1.0]
    tracker.close()


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_cells_of_any_type_change_no_schema(every_state, tmp_path, table):
    """Any value in any cell that is read: the export goes on, the schema stays, the other cells
    of the row are there, and `unsound` says what was.
    """
    columns = [
        (of, name)
        for of, name in cells(every_state)
        if of in {"entry", "delivery", "writer", "receipt", "component"}
    ]
    schema = None
    for number, value in enumerate(VALUES):
        journal = copied(every_state, tmp_path / f"j{number}")
        with by_hand(journal) as connection:
            for of, name in columns:
                if name not in {"id", "seq"}:
                    for row in (number + 2, number + 20) if of == "entry" else (1 + number % 2,):
                        with contextlib.suppress(sqlite3.IntegrityError):  # a name that is taken
                            connection.execute(
                                f'UPDATE {of} SET "{name}" = ? WHERE rowid = ?', (value, row)
                            )
        target = tmp_path / f"{number}.parquet"
        made = export(journal, target, table=table)
        read = pq.read_table(target)
        schema = schema or read.schema
        assert read.schema == schema
        if table == "entries":
            assert read.num_rows == len(list(entries.each_entry(every_state)))
            if isinstance(value, bytes):
                assert made.unsound > 0
                assert repr(value) in " ".join(filter(None, read["unsound"].to_pylist()))
        for suffix in ("csv", "jsonl"):
            again = export(journal, tmp_path / f"{number}.{suffix}", table=table)
            assert (again.rows, again.unsound) == (made.rows, made.unsound)


def test_text_that_is_no_utf8_is_replaced_not_fatal(varied, tmp_path):
    """Bytes in a text that are no UTF-8 become U+FFFD, in that row alone."""
    journal = copied(varied, tmp_path / "j")
    with by_hand(journal) as connection:
        connection.execute("UPDATE entry SET name = CAST(x'61FF62' AS TEXT) WHERE seq = 10")
    rows = [json.loads(line) for line in exported_lines(journal)]
    assert [row["name"] for row in rows if row["seq"] == 10] == ["a\ufffdb"]
    assert sum(row["name"] != "a\ufffdb" for row in rows) == len(NAMES) * len(NUMBERS) - 1


def test_a_shared_text_without_bound_is_left_out(varied, tmp_path):
    """A program's name of a megabyte is not written with every row."""
    journal = copied(varied, tmp_path / "j")
    with by_hand(journal) as connection:
        connection.execute("UPDATE writer SET program = ?", ("x" * 1_000_000,))
    made = export(journal, tmp_path / "e.jsonl", table="entries")
    assert made.unsound == made.rows
    assert (tmp_path / "e.jsonl").stat().st_size < 200_000


def test_an_existing_file_is_replaced_only_by_force(varied, tmp_path):
    """Without --force an existing file is left as it is, with exit code 2; with it, it is
    replaced; a link's target is, not the link.
    """
    target = tmp_path / "m.csv"
    target.write_text("mine")
    code, _, told = run("export", varied, "-o", target)
    assert (code, target.read_text()) == (2, "mine")
    assert "--force" in told
    (tmp_path / "link.csv").symlink_to(target)
    assert run("export", varied, "-o", tmp_path / "link.csv", "--force")[0] == 0
    assert target.read_text().startswith("journal_id,")
    assert (tmp_path / "link.csv").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "m.csv"]


def test_a_file_that_somebody_makes_meanwhile_is_kept(varied, tmp_path):
    """A file that appears while an export is under way is not replaced without force."""
    target = tmp_path / "m.csv"
    with pytest.raises(errors.InvalidInputError, match="exists"):
        export(varied, target, on_progress=lambda _: target.write_text("theirs"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m.csv", "theirs")]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_cut_short_export_leaves_no_file(varied, tmp_path, suffix):
    """An exception in mid-export leaves neither the file nor a half of it, and an older file of
    that name as it was.
    """

    def interrupt(progress):
        if progress.done:
            raise KeyboardInterrupt

    (tmp_path / f"old.{suffix}").write_text("old")
    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            export(varied, tmp_path / f"{name}.{suffix}", force=True, on_progress=interrupt)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        (f"old.{suffix}", "old")
    ]


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize(
    ("number", "code", "left"),
    [(signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 0), (signal.SIGKILL, -9, 1)],
)
def test_a_killed_export_leaves_nothing_that_looks_whole(tmp_path, number, code, left):
    """SIGTERM and Ctrl-C leave nothing and have their exit codes; after SIGKILL there is a
    hidden .partial at most.
    """
    journals.make(str(tmp_path / "j"), 20_000)
    out = tmp_path / "out"
    out.mkdir()
    killing = Killing("from journaltrack.cli import main; main()", tmp_path)
    assert (
        killing.code(out, "export", tmp_path / "j", "-o", out / "m.jsonl", at=2, number=number)
        == code
    )
    names = [path.name for path in out.iterdir()]
    assert len(names) == left
    assert all(name.startswith(".m.jsonl.") and name.endswith(".partial") for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "x.unknown"],
        ["-o", "no/such/folder/x.csv"],
        ["-o", "journal/journal.db", "--format", "csv", "--force"],
        ["-o", "journal/new.csv"],
        ["-o", ".", "--format", "csv", "--force"],
        ["-o", "/dev/null", "--format", "csv", "--force"],
        ["--since", "yesterday"],
        ["--table", "receipts"],
    ],
)
def test_what_can_not_be_written_is_wrong_usage(varied, tmp_path, monkeypatch, arguments):
    """A name without a format, a folder that is not there, the journal itself, a device: exit
    code 2, and nothing is touched.
    """
    copied(varied, tmp_path / "journal")
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "journal" / "journal.db").read_bytes()
    assert run("export", "journal", *arguments)[0] == 2
    assert (tmp_path / "journal" / "journal.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing(varied, tmp_path):
    """An error of the disk is a message, exit code 2, and no file."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));from journaltrack.cli import "
        "main; main(sys.argv[1:])"
    )
    for suffix in ("csv", "parquet"):
        command = [
            sys.executable,
            "-c",
            code,
            "export",
            str(varied),
            "-o",
            str(tmp_path / f"m.{suffix}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "can't be written" in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_journal_is_exit_code_8(tmp_path):
    """As with every command."""
    assert run("export", tmp_path / "none", "-o", tmp_path / "m.csv")[0] == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_json_reports_and_stdout_carries_rows(varied, tmp_path):
    """With --json the report is one document; without --output the rows are on stdout, as JSON
    Lines if nothing else is said.
    """
    code, printed, _ = run("export", varied, "-o", tmp_path / "m.parquet", "--json")
    told = json.loads(printed)
    assert (code, told["rows"], told["table"], told["format"], told["exit_code"]) == (
        0,
        len(NAMES) * len(NUMBERS),
        "metrics",
        "parquet",
        0,
    )
    done = subprocess.run(
        [sys.executable, "-m", "journaltrack", "export", str(varied)],
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines() == exported_lines(varied)
    command = [
        sys.executable,
        "-m",
        "journaltrack",
        "export",
        str(varied),
        "--format",
        "parquet",
        "-o",
        "-",
    ]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert repr(pq.read_table(pa.BufferReader(piped)).to_pylist()) == repr(
        pq.read_table(tmp_path / "m.parquet").to_pylist()
    )
    assert CliRunner().invoke(main, ["export", str(varied), "--json"]).exit_code == 2, (
        "two documents on one stdout"
    )


@pytest.mark.slow
def test_a_terminal_is_not_garbled(tmp_path):
    """On a terminal what a journal holds is escaped (JSON Lines are ASCII anywhere); Parquet is
    refused there.
    """
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_metric(ESCAPES.replace("\r\n", ""), 1.0)
    commands = [
        f"{sys.executable} -m journaltrack export {tmp_path / 'j'} --format {each}"
        for each in ("csv", "parquet")
    ]
    shown = subprocess.run(
        ["script", "-qec", commands[0], "/dev/null"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=True,
    ).stdout
    assert b"owned" in shown
    assert b"\x1b]0" not in shown
    assert b"\x07" not in shown
    refused = subprocess.run(
        ["script", "-qec", commands[1], "/dev/null"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert refused.returncode == 2
    assert b"PAR1" not in refused.stdout


def test_without_pyarrow_the_error_says_what_to_install(varied, tmp_path, monkeypatch):
    """pyarrow is an extra: without it Parquet is refused with the command to install it, and the
    other formats never import it.
    """
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.InvalidInputError, match="pyarrow") as caught:
        export(varied, tmp_path / "m.parquet")
    assert "pip install 'journaltrack[parquet]'" in caught.value.hint
    assert export(varied, tmp_path / "m.csv").rows
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_journal(tmp_path):
    """The peak of a process that exports 60,000 metrics is that of one that exports 15,000, give
    or take 4 MiB.
    """
    code = (
        "import resource, sys, journaltrack; from journaltrack.transfer.export import pages, "
        "tables; tables.GROUP_ROWS = pages.PAGE_ROWS = 4_000;[journaltrack.export(sys.argv[1], "
        "to=f'{sys.argv[1]}{sys.argv[2]}.{suffix}') for suffix in ('csv', "
        "'parquet')];print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    peaks = []
    journals.make(str(tmp_path / "j"), 15_000)
    columns = (
        "writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns, "
        "payload, recorded_at_ns, digest"
    )
    for times in (1, 4):
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "j" / "journal.db")) as connection,
            connection,
        ):
            for _ in range(times - 1):
                connection.execute(
                    f"INSERT INTO entry ({columns}) SELECT {columns} FROM entry WHERE seq <= 15000"
                )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "j"), str(times)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(float(done.stdout))
    assert peaks[1] - peaks[0] < 4, peaks


def test_tables_have_the_documented_columns():
    """docs/reference/columns.md lists every column of both tables with its type."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "columns.md"
    shown = re.findall(
        r"^\| (`[^|]+`) \| (\w+) \| ([ME]*) ?\|", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    for table in TABLES.values():
        listed = [
            (n, kind)
            for cell, kind, where in shown
            for n in re.findall(r"\w+", cell)
            if table.name[0].upper() in where
        ]
        assert sorted(listed) == sorted((column.name, column.type) for column in table.columns)


def test_lines_by_hand_are_those_of_the_csv_module():
    """Where Python's csv module refuses a NUL, what is written instead is what it writes
    elsewhere.
    """
    rows = [
        (1, None, 0.1, "plain"),
        (2**63, "", -0.0, 'a "b", c'),
        (3, "line\r\nbreak", 1e300, "ü\t "),
    ]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    from journaltrack.transfer.export.tables import _line

    assert "".join(map(_line, rows)) == text.getvalue()
