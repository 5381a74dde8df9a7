"""`show` fits a line of 80 characters, whatever was recorded; what is cut is whole elsewhere."""

from __future__ import annotations

import json
import math
import warnings

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main, output

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


def test_no_line_is_longer_than_80(journal):
    """But for the path of the journal, which is to be copied; a hint says where the rest is."""
    done = show(journal)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("journal ")]
    assert max(map(len, lines)) <= output.PLAIN_WIDTH
    assert any(line.split()[:1] == ["lr"] and line.split()[1] == "0.1" for line in lines)
    assert "-1.2346e-100" in done.stdout, "a number is rounded, and never cut in the middle"
    assert "1.0000e+400" in done.stdout
    assert "--json" in done.stderr


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
    assert "not finite" in done.stdout
    assert done.stderr == ""
