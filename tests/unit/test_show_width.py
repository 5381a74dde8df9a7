"""`show` fits a terminal of 80 columns, whatever was recorded; what is cut is whole elsewhere."""

from __future__ import annotations

import json
import math
import warnings

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main, output
from tests.unit.test_terminal import on_terminal

LONG = "a long text " * 200


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal with a long one of everything, as a command takes it."""
    folder = tmp_path / "j"
    (tmp_path / ("model-" * 20)).write_bytes(b"weights")
    tags = [{"Key": "k", "Value": "v" * 200}]
    with (
        warnings.catch_warnings(),
        Tracker.create(
            trial_component_name="run", journal=folder, sync="off", tags=tags
        ) as tracker,
    ):
        warnings.simplefilter("ignore")
        tracker.log_parameters(
            {"lr": 0.1, "note": LONG, "n" * 300: "x", "wide \N{CJK UNIFIED IDEOGRAPH-4E2D}": "x"}
        )
        tracker.log_input("data", "s3://bucket/" + "part/" * 200)
        tracker.log_artifact(tmp_path / ("model-" * 20))
        for name in ("loss", "m" * 200):
            for value in (0.12345678901234567, -1.2345678901234567e-100, math.nan):
                tracker.log_metric(name, value, iteration_number=2**30)
        tracker.log_metric("huge", 10**400)
    return folder


def show(journal, *more):
    done = CliRunner().invoke(main, ["show", "run", "-j", str(journal), *more])
    assert done.exit_code == 0, done.output
    return done


def test_a_long_value_widens_no_other_line_of_a_pipe(journal):
    """It is whole in its own line."""
    lines = show(journal).output.splitlines()
    (line,) = [line for line in lines if LONG.strip() in line]
    assert line.split()[0] == "note"
    (line,) = [line for line in lines if line.split()[:1] == ["lr"]]
    assert line.split() == ["lr", "0.1", "pending"]
    assert len(line) < 400


def test_no_line_of_a_terminal_is_longer_than_80(journal, monkeypatch):
    """But for the path of the journal, which is to be copied; a hint says where the rest is."""
    shown = on_terminal(["show", "run", "-j", journal], 80, monkeypatch)
    lines = [line for line in shown.splitlines() if not line.startswith("journal ")]
    # A path may have no place to break.
    lines = [line for line in lines if "/" not in line.split()[-1]]
    assert max(map(len, lines)) <= output.PLAIN_WIDTH
    assert any(line.split()[:1] == ["lr"] and line.split()[1] == "0.1" for line in lines)
    assert "-1.2346e-100" in shown, "a number is rounded, and never cut in the middle"
    assert "1.0000e+400" in shown
    assert "--json" in shown


def test_a_pipe_gets_everything_on_one_line_each(journal):
    """Nothing is cut, wrapped or rounded: one line is one thing to grep for."""
    done = show(journal)
    assert (LONG.strip() in done.stdout, "…" in done.stdout, done.stderr) == (True, False, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "s3://bucket/" + "part/" * 200 in rows["data"]
    assert "model-" * 20 in rows
    assert "n" * 300 in rows
    assert "-1.2345678901234567e-100" in rows["loss"]
    assert str(10**400) in rows["huge"]


def test_what_is_cut_is_whole_in_json_and_in_audit(journal):
    """Whoever needs the whole value gets it."""
    shown = json.loads(show(journal, "--json").stdout)
    assert {p["name"]: p["value"] for p in shown["parameters"]}["note"] == LONG
    lines = (
        CliRunner()
        .invoke(main, ["audit", "entries", str(journal), "--json", "--name", "note"])
        .stdout
    )
    seq = json.loads(lines)["seq"]
    assert (
        LONG.strip() in CliRunner().invoke(main, ["audit", "entry", str(seq), str(journal)]).stdout
    )


def test_what_fits_is_whole(tmp_path):
    """Short values keep all their digits, and nothing is hinted at."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_parameter("lr", 0.12345678901234567)
        tracker.log_metric("loss", 0.5, iteration_number=1)
    done = show(tmp_path / "j")
    assert repr(0.12345678901234567) in done.stdout
    assert "not finite" not in done.stdout
    assert done.stderr == ""
