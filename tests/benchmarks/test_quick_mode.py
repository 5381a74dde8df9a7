"""The benchmarks run, and what they write can be read; how fast anything is, is not tested here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import journals, loggers, measure

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--folder", str(tmp_path), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3_600,
    )


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_gives_sane_figures_in_quick_mode(tmp_path, name):
    """Each benchmark yields results, all figures are positive and finite, and ratios are those
    of the single rounds.
    """
    if name == "loggers" and not any(map(find_spec, loggers.FRAMEWORKS)):
        pytest.skip("no framework is installed: `make test-frameworks` has them")
    # By its package: tests/mlflow can be imported by that name, too.
    if name.startswith("mlflow") and not list(Distribution.discover(name="mlflow")):
        pytest.skip("MLflow is not installed: `make test-mlflow` has it")
    target = tmp_path / "figures.json"
    process = run(
        tmp_path, "--quick", "--rounds", "1", "--scale", "0.01", "--json", str(target), name
    )
    assert process.returncode == 0, process.stderr
    document = json.loads(target.read_text())
    assert list(document["benchmarks"]) == [name]
    benchmark = document["benchmarks"][name]
    assert benchmark["results"]
    assert benchmark["load"]["wall_s"] > 0
    for result in benchmark["results"]:
        for spread in (result["ours"], result["floor"], result["ratio"]):
            if spread is not None:
                assert len(spread["runs"]) == 1
                # that none failed is a figure, too
                least = 0 if result["unit"] == "errors" else math.ulp(0.0)
                assert all(value >= least and math.isfinite(value) for value in spread["runs"]), (
                    result
                )
        if result["ratio"] is not None:
            assert result["ratio"]["runs"][0] == pytest.approx(
                result["ours"]["runs"][0] / result["floor"]["runs"][0]
            )
        assert (result["met"] is None) == (result["target"] is None)
        assert result["what"] in process.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], (
        "journals were left behind"
    )


def test_quick_runs_end_in_time(tmp_path, monkeypatch, capsys):
    """Without names, heavy benchmarks are left out; nothing begins when the time is over, and
    what did not is told.
    """
    now = [0.0]

    def slow(_run):
        now[0] += 50
        return [measure.compare("b", "w", "ms", [1.0])]

    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        command,
        "BENCHMARKS",
        {"one": slow, "audit": slow, "two": slow, "three": slow, "four": slow},
    )
    target = tmp_path / "figures.json"
    assert command.main(["--quick", "--json", str(target), "--folder", str(tmp_path)]) == 0
    assert list(json.loads(target.read_text())["benchmarks"]) == ["one", "two"]
    assert "left out, the two minutes are over: three, four" in capsys.readouterr().err
    assert (
        command.main(
            ["--quick", "--json", str(target), "--folder", str(tmp_path), "audit", "three", "four"]
        )
        == 0
    )
    assert list(json.loads(target.read_text())["benchmarks"]) == ["audit", "three", "four"]


def test_benchmarks_that_quick_leaves_out_exist():
    """A name that was changed must not bring a heavy benchmark back."""
    assert set(command.BENCHMARKS) > command.NOT_IN_QUICK


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path):
    """A misspelt benchmark is an error at once, not a run without it."""
    process = run(tmp_path, "appendd")
    assert process.returncode == 2
    assert "append-budget" in process.stderr


def test_generated_journals_are_valid(tmp_path):
    """What is replayed in a benchmark is a journal like any other: its chains verify, its
    entries are pending.
    """
    from journaltrack.journal import queries
    from journaltrack.journal.journal import Journal
    from tests.copies import verify_chains

    journals.make(str(tmp_path / "journal"), 50)
    assert verify_chains(tmp_path / "journal") == []
    journal = Journal.open(tmp_path / "journal", create=False)
    try:
        assert queries.pending_count(journal.database) == 51
    finally:
        journal.close()


def test_a_target_is_met_on_its_own_side():
    """Lower is better for times and memory, higher for rates; what counts is the median of the
    rounds.
    """
    assert (
        measure.compare(
            "b", "w", "µs", [20.0, 50.0, 20.0], [10.0, 10.0, 10.0], floor_name="f", target=3.0
        ).met
        is True
    )
    assert (
        measure.compare(
            "b", "w", "calls/s", [70.0], [100.0], floor_name="f", target=0.8, better="higher"
        ).met
        is False
    )
    assert measure.compare("b", "w", "MiB", [301.0], target=300.0).met is False
    assert measure.compare("b", "w", "MiB", [301.0]).met is None
