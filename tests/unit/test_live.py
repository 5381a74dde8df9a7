"""``journaltrack status --watch``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import live, main
from journaltrack.journal.journal import Journal
from journaltrack.watch import health


@pytest.fixture
def journals(tmp_path):
    """A folder with two journals."""
    for name in "ab":
        with Tracker.create(
            trial_component_name=name, journal=tmp_path / "all" / name, sync="off"
        ) as tracker:
            tracker.log_metric("loss", 1.0)
    return tmp_path / "all"


def told(journal, **more):
    """A health file of a watcher that lives, about one journal."""
    folder = health.default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "journal": str(journal),
        "state": "waiting",
        "next_attempt": time.time() + 60,
        "reason": None,
        "last_error": None,
    } | more
    error = {"code": "E", "message": "could not connect\x1b[31m", "hint": "check the network"}
    state = {
        "format": 1,
        "state": "down",
        "at": time.time(),
        "endpoint": {"up": False, "next_probe": None, "error": error},
        "journals": [about],
    }
    (folder / "x.json").write_text(json.dumps(state))


def test_a_folder_stands_for_its_journals(journals):
    """Every journal below the folder has its row, in plain lines elsewhere than on a terminal."""
    done = CliRunner().invoke(main, ["status", "--watch", "--count", "1", str(journals)])
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("/")]
    assert [(row[0], row[1]) for row in rows] == [
        (str(journals / "a"), "4"),
        (str(journals / "b"), "4"),
    ]
    both = CliRunner().invoke(main, ["status", "--json", str(journals)])
    assert len(json.loads(both.stdout)["journals"]) == 2


def test_what_a_watcher_tells_is_shown_with_its_hint(journals):
    """Next attempt, error and hint come from the watcher that lives; what it quotes can do
    nothing to a terminal.
    """
    told(journals / "a")
    done = CliRunner().invoke(main, ["status", "--watch", "--count", "1", str(journals)])
    first, second = (
        line
        for line in done.stdout.splitlines()
        if line.strip().startswith(str(journals)) and ": " not in line
    )
    assert " in 5" in first or " in 60" in first or " in 1 min" in first
    assert "not watched" in second
    assert "could not connect" in done.stdout
    assert "hint: check the network" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_is_one_object_a_line_with_a_rate(journals, monkeypatch):
    """Scripts get a line per look; the rate is what was settled between looks."""
    done = CliRunner().invoke(
        main, ["status", "--watch", "--json", "--count", "3", "--interval", "0.1", str(journals)]
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[0]["journals"][0]["rate_per_s"] is None
    assert lines[2]["journals"][0]["rate_per_s"] == 0.0
    assert lines[2]["journals"][0]["status"]["pending"] == 4
    assert lines[2]["journals"][0]["watched"] is False


def test_a_journal_that_cannot_be_read_is_a_row_too(tmp_path, journals):
    """One that is missing is shown with what to do, and the others are shown."""
    done = CliRunner().invoke(
        main,
        [
            "status",
            "--watch",
            "--json",
            "--count",
            "1",
            str(tmp_path / "missing"),
            str(journals / "a"),
        ],
    )
    missing, there = json.loads(done.stdout)["journals"]
    assert missing["status"] is None
    assert missing["last_error"]["code"] == "JournalNotFoundError"
    assert there["status"]["pending"] == 4


def look(*arguments):
    """One look as JSON."""
    done = CliRunner().invoke(
        main, ["status", "--watch", "--json", "--count", "1", *map(str, arguments)]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_troubled_journals_come_first_and_all_are_counted(tmp_path, journals):
    """Totals, the endpoint and its next probe are said once; then what can't be read, what has
    problems, what waits, and the rest.
    """
    with (
        pytest.warns(UserWarning, match="NaN"),
        Tracker.create(trial_component_name="c", journal=journals / "c", sync="off") as tracker,
    ):
        tracker.log_metric("loss", float("nan"))
    (journals / "d").mkdir()
    (journals / "d" / "journal.db").write_bytes(b"no database" * 500)
    Journal.open(journals / "0").close()
    told(journals / "a", next_attempt=None)
    found = look(journals)
    assert [Path(row["journal"]).name for row in found["journals"]] == ["d", "c", "a", "b", "0"]
    assert found["totals"] == {
        "pending": 11,
        "quarantined": 1,
        "in_doubt": 0,
        "journals": 5,
        "in_trouble": 2,
    }
    assert [(each["up"], each["error"]["hint"]) for each in found["endpoints"]] == [
        (False, "check the network")
    ]
    shown = (
        CliRunner()
        .invoke(main, ["status", "--watch", "--count", "1", str(journals)])
        .stdout.splitlines()
    )
    assert "5 journals, 11 pending, 1 quarantined; 2 in trouble" in shown[0]
    assert shown[1] == "endpoint: down, next probe soon"
    assert sum("could not connect" in line for line in shown) == 1


def test_a_watcher_of_somebody_else_is_found_by_its_health_file(tmp_path, journals, monkeypatch):
    """A file that is named, or configured, is read beside those in the home; links to journals
    are followed.
    """
    told(journals / "a")
    elsewhere = tmp_path / "health.json"
    (health.default_folder() / "x.json").rename(elsewhere)
    (tmp_path / "link").symlink_to(journals)
    assert [row["watched"] for row in look(journals)["journals"]] == [False, False]
    for arguments in (
        ("--health-file", elsewhere, journals),
        ("--health-file", elsewhere, tmp_path / "link" / "a", journals / "b"),
    ):
        assert {
            Path(row["journal"]).name: row["watched"] for row in look(*arguments)["journals"]
        } == {"a": True, "b": False}
    monkeypatch.setenv("JOURNALTRACK_WATCH_HEALTH_FILE", str(elsewhere))
    assert [row["watched"] for row in look(journals / "a")["journals"]] == [True]


def test_a_journal_is_one_line_of_a_terminal(tmp_path, journals):
    """At 80 columns each journal has one line, however long its path, with the end of the path."""
    long = tmp_path / ("x" * 120) / "the-run"
    long.parent.mkdir()
    (journals / "b").rename(long)
    told(long, last_error={"code": "E", "message": "m" * 500, "hint": "h"})
    lines = [
        text
        for text, _ in live._lines(live.look([str(journals / "a"), str(long)], live._Rates()), 80)
    ]
    (shown,) = [line for line in lines if "the-run " in line]
    assert len(shown) <= 80
    assert shown.startswith("…")
