"""``journaltrack status --watch``."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from journaltrack import Tracker, watcher_health
from journaltrack.cli import main


@pytest.fixture
def journals(tmp_path):
    """A folder with two journals."""
    for name in "ab":
        with Tracker.create(trial_component_name=name, journal=tmp_path / "all" / name, sync="off") as tracker:
            tracker.log_metric("loss", 1.0)
    return tmp_path / "all"


def told(journal, **more):
    """A health file of a watcher that lives, about one journal."""
    folder = watcher_health.default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    about = {"journal": str(journal), "state": "waiting", "next_attempt": time.time() + 60, "reason": None, "last_error": None} | more
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
    assert [(row[0], row[1]) for row in rows] == [(str(journals / "a"), "4"), (str(journals / "b"), "4")]
    both = CliRunner().invoke(main, ["status", "--json", str(journals)])
    assert len(json.loads(both.stdout)["journals"]) == 2


def test_what_a_watcher_tells_is_shown_with_its_hint(journals):
    """Next attempt, error and hint come from the watcher that lives; what it quotes can do nothing to a terminal."""
    told(journals / "a")
    done = CliRunner().invoke(main, ["status", "--watch", "--count", "1", str(journals)])
    first, second = (line for line in done.stdout.splitlines() if line.strip().startswith(str(journals)) and ": " not in line)
    assert " in 5" in first or " in 60" in first or " in 1 min" in first
    assert "not watched" in second
    assert "could not connect" in done.stdout
    assert "hint: check the network" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_is_one_object_a_line_with_a_rate(journals, monkeypatch):
    """Scripts get a line per look; the rate is what was settled between looks."""
    done = CliRunner().invoke(main, ["status", "--watch", "--json", "--count", "3", "--interval", "0.1", str(journals)])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[0]["journals"][0]["rate_per_s"] is None
    assert lines[2]["journals"][0]["rate_per_s"] == 0.0
    assert lines[2]["journals"][0]["status"]["pending"] == 4
    assert lines[2]["journals"][0]["watched"] is False


def test_a_journal_that_cannot_be_read_is_a_row_too(tmp_path, journals):
    """One that is missing is shown with what to do, and the others are shown."""
    done = CliRunner().invoke(main, ["status", "--watch", "--json", "--count", "1", str(tmp_path / "missing"), str(journals / "a")])
    missing, there = json.loads(done.stdout)["journals"]
    assert missing["status"] is None
    assert missing["last_error"]["code"] == "JournalNotFoundError"
    assert there["status"]["pending"] == 4
