"""Makes journals that no journaltrack would write, and runs every command on them.

A cell of any SQLite table can hold a value of any type, whatever the table declares, if the file is
made by hand. ``by_hand`` gives a connection to a journal that has neither types nor triggers, and
puts both back afterwards.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import unicodedata

from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import exit_codes, main
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.lease import acquire
from journaltrack.replay.reconciler import Reconciler

SOAK = max(1, int(float(os.environ.get("JOURNALTRACK_SOAK", "1"))))
ESCAPES = "\x1b]0;owned\x07\x1b[2J[red]\u202egnp.exe\u200b\r\n<b>"
DEEP = '{"owner":' * 900 + "1" + "}" * 900
VALUES = (
    None,
    -1,
    2**63 - 1,
    -(2**63),
    math.inf,
    -math.inf,
    -1.5,
    1e300,
    "text",
    ESCAPES,
    "../../../etc/passwd",
    "a\0b",
    b"\xff\xfe\x00",
    "9" * 5_000,
    DEEP,
    (
        '{"sha256": 7, "size": -1, "text": [], "value": {}, "start_ns": 1e400, "end_ns": '
        '99999999999999999999999999, "tags": [1]}'
    ),
    (
        '{"text": NaN, "primary": "\\u001b[31m", "start_ns": -5, "exact": 3, "display_name": {"a": '
        '1}, "owner": 3}'
    ),
    "1-9223372036854775807",
    "3-1,x,-7",
    "",
)


class Doubtful(MemoryRemote):
    """Loses the answer to the second metric request, and refuses a parameter for good."""

    requests = 0

    def put_metrics(self, component, points):
        self.requests += 1
        if self.requests == 2:
            raise RemoteError(
                "no answer", kind=ErrorKind.TRANSIENT, code="ReadTimeout", maybe_applied=True
            )
        return super().put_metrics(component, points)

    def update(self, component, fields):
        if "bad" in fields.parameters:
            raise RemoteError(
                "not this one",
                kind=ErrorKind.PERMANENT,
                code="ValidationException",
                request_id="r-9",
            )
        return super().update(component, fields)


def base(folder):
    """A journal with every kind of entry and every state: delivered, in doubt, quarantined, in
    flight, pending.
    """
    (folder / "model.bin").write_bytes(b"weights")
    with Tracker.create(
        trial_component_name="run",
        journal=folder / "journal",
        sync="off",
        experiment_name="e",
        trial_name="t",
        tags={"k": "v"},
    ) as tracker:
        tracker.log_parameters({"lr": 0.1, "optimizer": "sgd", "bad": 1})
        tracker.log_input("data", "s3://bucket/data")
        tracker.log_artifact(folder / "model.bin")
        for step in range(25):
            tracker.log_metric("loss", 1.0 + step, iteration_number=step)
    journal = Journal.open(folder / "journal")
    Reconciler(journal, Doubtful()).run()
    journal.close()
    (folder / "other.bin").write_bytes(b"more")
    with Tracker.create(
        trial_component_name="next", journal=folder / "journal", sync="off"
    ) as tracker:
        tracker.log_parameters({"lr": 0.2, "text": "x", "many": float("nan")})
        tracker.log_output("result", "s3://bucket/result", media_type="text/plain")
        tracker.log_artifact(folder / "other.bin")
        for step in range(12):
            tracker.log_metric("loss", 1.0 + step, iteration_number=step)
    journal = Journal.open(folder / "journal")
    held = acquire(journal.database)
    last = journal.last_seq()
    Settlement(journal.database, held).begin(
        [Intent("metrics", 2, [last - 4, last - 3]), Intent("update", 2, [last - 8])]
    )
    held.release()
    journal.close()
    return folder / "journal"


def copied(journal, folder):
    """Another journal of the same content."""
    shutil.copytree(journal, folder)
    return folder


@contextlib.contextmanager
def by_hand(journal):
    """A connection for which every table takes every value."""
    file = journal / "journal.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        schema = connection.execute(
            "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).fetchall()
        columns = {
            name: connection.execute(f"PRAGMA table_info({name})").fetchall()
            for kind, name, *_ in schema
            if kind == "table"
        }
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE type = 'trigger'")
        for name, of_table in columns.items():
            keys = [row for row in of_table if row[5]]
            alone = len(keys) == 1 and keys[0][2] == "INTEGER"
            parts = [
                f'"{row[1]}"' + (" INTEGER PRIMARY KEY" if alone and row[5] else "")
                for row in of_table
            ]
            indexed = {"component": ["name"], "writer": ["uuid"]}.get(
                name, [] if alone else [f'"{row[1]}"' for row in keys]
            )
            parts += [f"UNIQUE ({', '.join(indexed)})"] if indexed else []
            connection.execute(
                "UPDATE sqlite_master SET sql = ? WHERE name = ?",
                (f"CREATE TABLE {name} ({', '.join(parts)})", name),
            )
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        yield connection
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        for kind, name, table, rootpage, sql in schema:
            if kind == "trigger":
                connection.execute(
                    "INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)",
                    (kind, name, table, rootpage, sql),
                )
            else:
                connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, name))


def cells(journal):
    """Every (table, column) of a journal."""
    with contextlib.closing(sqlite3.connect(journal / "journal.db")) as connection:
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            )
        ]
        return [
            (table, row[1])
            for table in tables
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]


def run(*arguments):
    """Run a command in this process: exit code, stdout and stderr. Anything that is garbled or a
    traceback fails.
    """
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), (
        arguments,
        done.exception,
    )
    assert done.exit_code != exit_codes.ExitCode.UNEXPECTED, (arguments, done.output)
    printed = done.output
    assert "Traceback" not in printed, printed
    # Categories C* are controls, formats (bidirectional marks), surrogates.
    raw = {
        char
        for char in printed
        if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    }
    assert not raw, (arguments, raw)
    if "--json" in arguments:
        in_lines = {"entries", "timeline", "history"}.intersection(map(str, arguments))
        for document in done.stdout.splitlines() if in_lines else [done.stdout]:
            assert document, (arguments, done.exit_code, done.output)
            json.loads(document)
    return done.exit_code, done.stdout, done.stderr


def every_command(journal, endpoint_url, component="run", *, as_json):
    """All that the command line does with a journal, the reading first; returns all that it
    printed.
    """
    tail = ["--json"] if as_json else []
    aws = ["--endpoint-url", endpoint_url, "--region", "us-east-1"]
    commands = [
        ("status", journal),
        ("check", journal),
        ("audit", "entries", journal),
        ("audit", "entries", journal, "--state", "in flight"),
        ("audit", "entries", journal, "--name", "l*", "--since", "2000-01-01", "--limit", "2"),
        *(("audit", "entry", seq, journal) for seq in (2, 10, 40)),
        ("audit", "history", "lr", journal),
        ("audit", "history", "status", journal),
        ("audit", "timeline", journal),
        ("audit", "timeline", journal, "--kind", "parameter"),
        ("show", component, "-j", journal),
        ("runs", journal),
        ("runs", journal, "--sort", "age", "--where", "status ~ * or not pending"),
        ("show", "-j", journal),
        ("compare", "-j", journal),
        ("plot", "-j", journal),
        ("sync", journal, "--dry-run"),
        ("retry", journal, "--dry-run", "--in-doubt"),
        (
            "prune",
            journal,
            "--unasked",
            "--delivered-before",
            "0s",
            "--blobs-delivered-before",
            "0s",
            "--dry-run",
        ),
        ("resolve", journal, "--set-aside", "--component", "next"),
        ("sync", journal, *aws, "--deadline", "10"),
        ("check", "--remote", journal, *aws, "--deep", "--rate", "1000"),
        ("check", "--remote", journal, *aws, "--repair", "--rate", "1000"),
        ("retry", journal, "--in-doubt"),
        (
            "prune",
            journal,
            "--unasked",
            "--delivered-before",
            "0s",
            "--blobs-delivered-before",
            "0s",
        ),
        ("audit", journal),
    ]
    return "".join("".join(run(*command, *tail)[1:]) for command in commands)
