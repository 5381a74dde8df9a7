"""The core of all importers: once by content, whatever happens, and nobody else's run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Journal, Tracker
from journaltrack.cli import main
from journaltrack.errors import InvalidInputError
from journaltrack.importers.record import import_source
from journaltrack.importers.source import (
    Content,
    LeftOut,
    Note,
    Parameters,
    Point,
    Source,
    SourceRun,
    Status,
    Tags,
)
from journaltrack.importers.target import BATCH
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from journaltrack.retention.prune import prune
from tests.patience import FOREVER_S

NS = 10**9
THEN = 1_700_000_000 * NS


def source(*items, name="exp_1/run", mark="m", untimed_ns=None):
    """A source of one run, whose items are given."""
    run = SourceRun(name, name, mark, lambda: iter(items), untimed_ns=untimed_ns)
    return Source("test", Path("/somewhere"), (run,))


def points(count, name="loss"):
    """Points of one metric."""
    return [Point(name, step / 7, step, THEN + step) for step in range(count)]


def contents(journal):
    """What every entry says, and how often."""
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        return Counter(
            (e.component, e.kind, e.name, e.value, e.step, e.timestamp_ns, e.payload)
            for e in opened.entries(limit=10**6)
        )


def test_a_second_import_adds_nothing_and_a_grown_one_what_is_new(tmp_path):
    """The same content makes the same entries, however often and in however many parts it comes."""
    state = [
        Parameters({"lr": 0.1, "net": {"layers": "2"}}),
        Tags({"team": "vision"}),
        Note("first"),
        Content(b"hello", "notes.md", "text/markdown"),
        Status("Completed", THEN, THEN + NS),
    ]
    first = import_source(source(*points(30), *state), tmp_path / "j").runs[0]
    assert (first.points, first.is_new) == (30, True)
    before = contents(tmp_path / "j")
    again = import_source(source(*points(30), *state), tmp_path / "j").runs[0]
    assert (again.points, again.known, again.state, again.is_new) == (0, 30, 0, False)
    assert contents(tmp_path / "j") == before
    grown = import_source(source(*points(50), *state), tmp_path / "j").runs[0]
    assert (grown.points, grown.known, grown.missing) == (20, 30, 0)
    assert sum((contents(tmp_path / "j") - before).values()) == 20


def test_points_that_the_source_has_twice_are_there_twice(tmp_path):
    """Equal points are counted: all are recorded, and a second import knows all of them."""
    twice = [Point("loss", 1.0, 1, THEN), Point("loss", 1.0, 1, THEN), Point("loss", -0.0, 2, THEN)]
    for _ in range(2):
        import_source(source(*twice, Point("loss", math.nan, 3, THEN)), tmp_path / "j")
    (run,) = journaltrack.runs(tmp_path / "j")
    assert run.metrics["loss"].points == 4
    assert run.metrics["loss"].not_finite == 1
    assert run.metrics("loss").times_ns == [THEN] * 4


def test_values_whose_hash_is_the_same_in_python_are_told_apart(tmp_path):
    """-1 and -2 have one hash in CPython, 1 and 1.0 are one number: the value counts."""
    import_source(source(Point("loss", -1.0, 1, THEN)), tmp_path / "j")
    done = import_source(
        source(Point("loss", -1, 1, THEN), Point("loss", -2.0, 1, THEN)), tmp_path / "j"
    )
    assert (done.runs[0].points, done.runs[0].known) == (1, 1)


def test_points_without_times_are_known_by_all_else(tmp_path):
    """A file that changed later has another time, and its old points are not recorded again."""
    untimed = [Point("loss", 0.5, step) for step in range(3)]
    import_source(source(*untimed[:2], untimed_ns=THEN), tmp_path / "j")
    done = import_source(source(*untimed, untimed_ns=THEN + NS), tmp_path / "j")
    assert (done.runs[0].points, done.runs[0].known) == (1, 2)
    (run,) = journaltrack.runs(tmp_path / "j")
    assert run.metrics("loss").times_ns == [THEN, THEN, THEN + NS]


def test_what_aws_could_never_take_is_left_out_with_the_reason(tmp_path):
    """Names, steps and times that can never be right are counted, and the rest is recorded."""
    done = import_source(
        source(
            Point("a" * 256, 1.0, 1, THEN),
            Point("a\nb", 1.0, 1, THEN),
            Point("", 1.0, 1, THEN),
            Point("loss", 1.0, -1, THEN),
            Point("loss", 1.0, 2**31, THEN),
            Point("loss", 1.0, 1, -5),
            Point("loss", 1.0, 1, THEN),
            Tags({"ok": "yes", "bad\n": "x", "aws:x": "y"}),
            Parameters({"fine": 1, "": 2}),
            Note("n" * 20_000),
            LeftOut("histogram", "no place", "w", 7),
        ),
        tmp_path / "j",
    )
    told = done.runs[0].left_out.to_json()
    assert sum(each["count"] for each in told if each["what"] == "point") == 6
    assert {each["what"] for each in told} == {"point", "tag", "parameter", "note", "histogram"}
    assert done.runs[0].points == 1
    assert not done.is_harm
    (run,) = journaltrack.runs(tmp_path / "j")
    assert run.parameters == {"fine": 1}
    assert run.tags["ok"] == "yes"
    assert len(run.note) == 10_000


def test_a_source_that_breaks_off_is_told_and_goes_on_later(tmp_path):
    """What came before the error is recorded; the next import brings the rest once."""

    def broken():
        yield from points(10)
        raise OSError(5, "Input/output error", "/mnt/x")

    run = SourceRun("run", "run", "m", broken)
    done = import_source(Source("test", Path("/mnt"), (run,)), tmp_path / "j")
    assert done.is_harm
    assert done.runs[0].points == 10
    whole = import_source(source(*points(25), name="run"), tmp_path / "j").runs[0]
    assert (whole.points, whole.known) == (15, 10)


def test_two_sources_of_one_name_are_two_runs(tmp_path):
    """A name that another run has gets the end of the key; both keep their names."""
    for _ in range(2):
        import_source(source(*points(2), mark="a"), tmp_path / "j")
        import_source(source(*points(3), mark="b"), tmp_path / "j")
    found = {run.name: run.metrics["loss"].points for run in journaltrack.runs(tmp_path / "j")}
    assert found.pop("exp-1-run") == 2
    ((other, count),) = found.items()
    assert other.startswith("exp-1-run-")
    assert count == 3


def test_a_moved_source_keeps_its_run(tmp_path):
    """What identifies a run is in its records: another folder or prefix changes nothing."""
    import_source(source(*points(2), name="logs/train"), tmp_path / "j")
    done = import_source(source(*points(2), name="train"), tmp_path / "j", prefix="new-")
    assert [(run.name, run.known) for run in done.runs] == [("logs-train", 2)]


def test_a_copy_beside_a_run_is_a_run_of_its_own(tmp_path):
    """A folder that was copied and went on another way is not mixed with its original."""
    runs = tuple(
        SourceRun(name, name, "same", lambda items=items: iter(items))
        for name, items in (("a", points(5)), ("b", [*points(3), Point("loss", 9.0, 3, THEN)]))
    )
    for _ in range(2):
        done = import_source(Source("test", Path("/x"), runs), tmp_path / "j")
        assert [run.name for run in done.runs] == ["a", "b"]
    found = {run.name: run.metrics["loss"].points for run in journaltrack.runs(tmp_path / "j")}
    assert found == {"a": 5, "b": 4}


def test_a_run_that_was_not_imported_is_never_touched(tmp_path):
    """A training's own run of the same name keeps its entries; the name that is asked for must be
    free.
    """
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    done = import_source(source(*points(2), name="run"), tmp_path / "j")
    assert done.runs[0].name.startswith("run-")
    with pytest.raises(InvalidInputError, match="not imported"):
        import_source(source(*points(2), mark="z"), tmp_path / "j", name="run")
    own = next(run for run in journaltrack.runs(tmp_path / "j") if run.name == "run")
    assert own.metrics["loss"].points == 1


@pytest.mark.parametrize("is_guess", [False, True])
def test_a_source_that_is_known_makes_no_second_run_whatever_name_is_asked_for(tmp_path, is_guess):
    """It stays the run that it is, and gets what is new; another run of its own gets the name."""

    def first(*items):
        (run,) = source(*items).runs
        return Source("test", Path("/x"), (dataclasses.replace(run, is_guess=is_guess),))

    import_source(first(*points(5)), tmp_path / "j", name="first")
    for count, new in ((5, 0), (8, 3), (8, 0)):
        (told,) = import_source(first(*points(count)), tmp_path / "j", name="Second").runs
        assert (told.name, told.points, told.is_new) == ("first", new, False)
        assert told.has_other_name
    # Both have points that the other lacks: somebody who says a name says that they are two.
    (told,) = import_source(first(*points(7), *points(1, "acc")), tmp_path / "j", name="two").runs
    assert (told.name, told.points, told.is_new) == ("two", 8, True)
    (run, other) = sorted(journaltrack.runs(tmp_path / "j"), key=lambda run: run.name)
    assert (run.name, run.metrics["loss"].points, other.metrics["loss"].points) == ("first", 8, 7)
    assert run.tags["imported_path"] == "/x"


@pytest.mark.parametrize(
    "arguments", [{"name": "a b"}, {"prefix": "-x"}, {"name": "x", "prefix": "y"}, {"status": "?"}]
)
def test_names_that_aws_refuses_are_refused_before_anything(tmp_path, arguments):
    """A wrong name, prefix or status imports nothing."""
    with pytest.raises(InvalidInputError):
        import_source(source(*points(1)), tmp_path / "j", **arguments)
    assert not (tmp_path / "j").exists()


def test_a_status_is_given_to_runs_whose_source_has_none(tmp_path):
    """The status that is asked for does not replace the source's own."""
    import_source(source(*points(1), name="a", mark="a"), tmp_path / "j", status="Stopped")
    import_source(source(Status("Failed"), name="b", mark="b"), tmp_path / "j", status="Stopped")
    found = {run.name: run.status for run in journaltrack.runs(tmp_path / "j")}
    assert found == {"a": "stopped", "b": "failed"}


def test_an_imported_run_is_delivered_like_any_other(tmp_path):
    """A pass sends every point with its own time, and leaves nothing pending."""
    import_source(source(*points(25), Parameters({"lr": 0.1})), tmp_path / "j")
    remote = MemoryRemote()
    with closing(Journal.open(tmp_path / "j")) as opened:
        report = Reconciler(opened, remote).run()
    assert report.pending == 0
    assert report.quarantined == 0


def test_what_was_pruned_is_not_imported_again(tmp_path):
    """Points that were delivered and removed from the journal count as known."""
    import_source(source(*points(25)), tmp_path / "j")
    with closing(Journal.open(tmp_path / "j")) as opened:
        Reconciler(opened, MemoryRemote()).run()
    removed = prune(tmp_path / "j", ask=None, delivered_before_ns=time.time_ns() + 10**15)
    assert removed.to_json()["entries"] >= 20, removed
    done = import_source(source(*points(30)), tmp_path / "j").runs[0]
    assert (done.name, done.points, done.known) == ("exp-1-run", 5, 25)


WRITER = """
import sys
from dataclasses import replace
from journaltrack.importers import csv_files
from journaltrack.importers.record import import_source

def items(run, stop):
    for number, item in enumerate(run.items()):
        if number == stop:
            print("stopped", flush=True)
            sys.stdin.readline()
        yield item

print("ready", flush=True)
sys.stdin.readline()
source = csv_files.find(sys.argv[1])
(run,) = source.runs
import_source(replace(source, runs=(replace(run, items=lambda: items(run, int(sys.argv[3]))),)), sys.argv[2])
"""


def table(folder, rows):
    """A CSV file with two metrics."""
    path = folder / "run" / "metrics.csv"
    path.parent.mkdir()
    lines = [f"{step},{1_700_000_000 + step},{step / 3},{step % 5}" for step in range(rows)]
    path.write_text("\n".join(["step,timestamp,loss,acc", *lines, ""]))
    return path


def importer(path, journal, stop=-1):
    """A process that waits for a line, and then imports; it waits again before an item."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(journal), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_two_imports_at_once_record_each_point_once(tmp_path):
    """Several processes that import the same file at the same moment make what one would make."""
    rows = 3 * BATCH
    path = table(tmp_path, rows)
    processes = [importer(path, tmp_path / "j") for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=FOREVER_S)
        assert process.returncode == 0
    (run,) = journaltrack.runs(tmp_path / "j")
    assert {name: each.points for name, each in run.metrics.items()} == {"acc": rows, "loss": rows}
    assert set(contents(tmp_path / "j").values()) == {1}


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on_where_it_was(tmp_path):
    """After SIGKILL in the middle, a second import makes what one import would have made."""
    rows = 4 * BATCH
    path = table(tmp_path, rows)
    process = importer(path, tmp_path / "j", 5 * BATCH // 2)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "stopped\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=FOREVER_S)
    done = CliRunner().invoke(
        main, ["import", "csv", str(path), "-j", str(tmp_path / "j"), "--json"]
    )
    told = json.loads(done.stdout)
    assert told["known"] >= 2 * BATCH
    assert told["points"] + told["known"] == 2 * rows
    (run,) = journaltrack.runs(tmp_path / "j")
    assert {each.points for each in run.metrics.values()} == {rows}
    assert set(contents(tmp_path / "j").values()) == {1}


def test_what_another_process_records_meanwhile_is_seen(tmp_path):
    """A batch whose points another import has just recorded is not recorded again."""

    def items():
        yield from points(BATCH)
        # The other one is done when this one's second batch comes.
        import_source(source(*points(2 * BATCH)), tmp_path / "j")
        yield from points(2 * BATCH)[BATCH:]

    run = SourceRun("exp_1/run", "exp_1/run", "m", items)
    done = import_source(Source("test", Path("/x"), (run,)), tmp_path / "j")
    assert done.runs[0].points == BATCH
    assert done.runs[0].known == BATCH
    (found,) = journaltrack.runs(tmp_path / "j")
    assert found.metrics["loss"].points == 2 * BATCH


def test_an_unknown_format_is_wrong_usage_with_a_suggestion():
    """A format's other names and misspellings lead to it."""
    for given, meant in (
        ("mlflow", "mlruns"),
        ("tensorbord", "tensorboard"),
        ("tb", "tensorboard"),
    ):
        done = CliRunner().invoke(main, ["import", given, "x"])
        assert done.exit_code == 2
        assert f"Did you mean '{meant}'" in done.output


@pytest.mark.parametrize("kind", ["tensorboard", "csv", "mlruns", "wandb-export", "neptune-export"])
def test_a_path_without_runs_is_wrong_usage_and_makes_no_journal(tmp_path, kind):
    """A missing path and an empty folder are errors with a hint; no journal appears."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        done = CliRunner().invoke(main, ["import", kind, str(path), "-j", str(tmp_path / "j")])
        assert done.exit_code == 2, done.output
        assert "hint: " in done.output
        assert "nothing was imported" in done.output
    assert not (tmp_path / "j").exists()
