"""What `check` prints of a journal with a damaged database: short, and on lines of its own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main

RUNS = 12


def overwritten(folder, table, content=b"\0"):
    """Overwrite the first page of a table."""
    file = folder / "journal.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        )
        ((size,),) = connection.execute("PRAGMA page_size")
    with file.open("r+b") as stream:
        stream.seek((page - 1) * size)
        stream.write(content * size)


def test_findings_that_mean_the_same_are_summed_up(tmp_path):
    """After a repair that found no component's name every writer's chain is broken: the first few
    are printed, with their number; --json has all.
    """
    folder = tmp_path / "j"
    for place in range(RUNS):
        with Tracker.create(
            trial_component_name=f"run-{place}", journal=folder, sync="off"
        ) as tracker:
            tracker.log_metric("loss", 1.0, step=0)
    overwritten(folder, "component")
    done = CliRunner().invoke(main, ["check", "--repair", "-j", str(folder)])
    lines = done.stdout.splitlines()
    problems = [line for line in lines if line.startswith("problem: chains")]
    assert len(problems) == 3
    assert f"... and {RUNS - 3} more like these; --json has them" in lines
    told = json.loads(CliRunner().invoke(main, ["check", "--json", "-j", str(folder)]).stdout)
    assert len([each for each in told["findings"] if each["severity"] == "problem"]) == RUNS


def test_what_sqlite_says_has_no_escaped_line_breaks(tmp_path):
    """Each line of SQLite's report is one problem; its heading is none."""
    folder = tmp_path / "j"
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        for step in range(500):
            tracker.log_metric("loss", 1.0, step=step)
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA writable_schema = ON")
        # Two pages more than anything uses.
        connection.execute("CREATE TABLE gone AS SELECT * FROM entry")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'gone'")
        connection.commit()
    done = CliRunner().invoke(main, ["check", "-j", str(folder)])
    assert "SQLite finds the database damaged: " in done.stdout
    assert "\\n" not in done.stdout
    assert "in database main" not in done.stdout
