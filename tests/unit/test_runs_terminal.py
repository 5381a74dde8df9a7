"""What `runs`, `compare`, `plot` and `show` print: on a terminal, in a pipe, as JSON and CSV."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import warnings

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from tests.patience import FOREVER_S
from tests.unit.test_terminal import ANSI, on_terminal

BRAILLE = re.compile("[\u2801-\u28ff]")
BLOCKS = re.compile("[▁▂▃▄▅▆▇█]{2,}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a journal with three runs: hostile names, NaN, many parameters."""
    journal = tmp_path_factory.mktemp("runs") / "journal"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, (name, rate) in enumerate([("wide", 0.1), ("deep", 0.01), (None, 0.001)]):
            with Tracker.create(
                name, trial_component_name=f"run-{place}", journal=journal, sync="off"
            ) as tracker:
                tracker.log_parameters({"lr": rate, "seed": 7, "\x1b[31mred": "<b>"})
                tracker.log_parameters({f"parameter-{n}": f"{rate}-{n}" * 200 for n in range(30)})
                for step in range(200):
                    value = math.nan if step == 100 else (place + 1) * math.exp(-step / 50)
                    tracker.log_metric("train:loss", value, step=step)
                    tracker.log_metric("val/accuracy", 1 - value / 5, step=step)
                tracker.set_tags({"team": f"team-{place}"})
    return journal


def called(*arguments):
    """What a command prints in a pipe."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--sort", "train:loss"],
        ["runs", "--sort", "-val/accuracy", "--columns", "lr,train:loss.min,val/accuracy,age"],
        ["runs", "--where", "lr < 0.05"],
        ["compare", "run-*"],
        ["compare", "run-*", "--all"],
        ["plot", "run-*", "train:loss"],
        ["plot", "wide", "train:loss", "val/accuracy", "--log-y", "--x", "time"],
        ["plot"],
        ["show", "run-*"],
    ],
    ids=" ".join,
)
def test_every_line_fits_and_nothing_is_raw(folder, monkeypatch, width, arguments):
    """At 80 and at 120 columns; no control character of a name arrives."""
    shown = on_terminal([*arguments, "-j", folder], width, monkeypatch)
    lines = [line for line in shown.splitlines() if "/" not in line or "val/" in line]
    assert lines
    assert [line for line in lines if len(line) > width] == []
    assert "\x1b" not in shown
    assert "Traceback" not in shown


def test_a_wider_terminal_shows_more_columns(folder, monkeypatch):
    """And says how many it leaves out."""
    narrow = on_terminal(["runs", folder], 80, monkeypatch)
    wide = on_terminal(["runs", folder], 200, monkeypatch)
    assert len(wide.splitlines()[0].split()) > len(narrow.splitlines()[0].split())
    assert "left out" in narrow


def test_the_list_is_sorted_with_curves_and_a_mark(folder, monkeypatch):
    """The sorted metric has a curve in each row, and the best value alone has the mark."""
    shown = on_terminal(["runs", "--sort", "train:loss", folder], 100, monkeypatch)
    title, *rows = shown.splitlines()
    assert title.split()[:5] == ["run", "status", "age", "duration", "train:loss"]
    assert [row.split()[0] for row in rows[:3]] == ["wide", "deep", "run-2"]
    assert all(BLOCKS.search(row) for row in rows[:3])
    marked = [re.search(r"\d★", row) is not None for row in rows[:3]]
    assert marked[0]


def test_a_curve_of_few_points_has_no_gaps(tmp_path, monkeypatch):
    """A blank in it says that a value is missing; here none is."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        for step in range(0, 300, 30):
            tracker.log_metric("val/loss", 300.0 - step, step=step)
    shown = on_terminal(["runs", "--sort", "val/loss.min", tmp_path / "j"], 100, monkeypatch)
    assert re.search(r"(?<=\s)[▁▂▃▄▅▆▇█]{10}(?=\s)", shown)


def test_a_quoted_name_is_sorted_by_and_shown(tmp_path, monkeypatch):
    """In a terminal as in Python, with its curve."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        for step in range(4):
            tracker.log_metric("a, b", float(step), step=step)
    shown = on_terminal(["runs", "--sort", '-"a, b"', tmp_path / "j"], 100, monkeypatch)
    assert BLOCKS.search(shown)
    chosen = called("runs", tmp_path / "j", "--csv", "--columns", '"a, b",age')
    assert chosen.startswith('name,"a, b",age')


def test_the_list_as_json_is_a_list_of_runs(folder):
    """Sorted, filtered and limited as asked; the numbers have all their digits."""
    told = json.loads(called("runs", folder, "--json", "--sort", "-train:loss", "--limit", "2"))
    assert [run["name"] for run in told] == ["run-2", "run-1"]
    assert told[0]["parameters"]["lr"] == 0.001
    assert told[0]["metrics"]["train:loss"]["points"] == 200
    assert told[0]["metrics"]["train:loss"]["not_finite"] == 1
    assert json.loads(called("runs", folder, "--json", "--where", "lr > 5")) == []


def test_the_list_as_csv_is_read_back(folder):
    """One row per run with all parameters and last values, or the columns that were asked for."""
    rows = list(csv.DictReader(io.StringIO(called("runs", folder, "--csv", "--sort", "lr"))))
    assert [row["params.lr"] for row in rows] == ["0.001", "0.01", "0.1"]
    assert float(rows[0]["metrics.train:loss"]) > 0
    assert rows[0]["params.\x1b[31mred"] == "<b>"
    chosen = called("runs", folder, "--csv", "--columns", "lr,train:loss.min", "--limit", "1")
    assert chosen.splitlines()[0] == "name,lr,train:loss.min"


def test_comparing_shows_what_differs_and_the_best(folder, monkeypatch):
    """What is the same is counted, and shown with --all."""
    shown = on_terminal(["compare", "wide", "deep", "-j", folder], 80, monkeypatch)
    assert re.search(r"lr +0\.1 +0\.01", shown)
    assert "seed" not in shown
    assert "are the same in all runs" in shown
    assert re.search(r"train:loss +0\.\d+★ +0\.\d+ *$", shown, re.MULTILINE)
    assert re.search(r"val/accuracy +0\.\d+★ +0\.\d+ *$", shown, re.MULTILINE)
    assert "seed" in on_terminal(["compare", "--all", "-j", folder], 80, monkeypatch)
    told = json.loads(called("compare", "run-*", "-j", folder, "--json"))
    assert [run["name"] for run in told["runs"]] == ["run-2", "run-1", "run-0"]
    assert told["metrics"]["train:loss"]["best"] == [2]


def test_the_mark_is_on_the_best_of_several_values(tmp_path):
    """A metric that one run alone has gets none."""
    for name, metrics in (("one", {"loss": 1.0, "acc": 0.5}), ("two", {"loss": 2.0})):
        with Tracker.create(
            trial_component_name=name, journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_metrics(metrics, step=0)
    for shown in (
        called("compare", "one", "two", "-j", tmp_path / "j"),
        called("runs", "-j", tmp_path / "j"),
    ):
        assert re.search(r"\b1(★|\*)", shown)
        assert not re.search(r"0\.5(★|\*)", shown)


def test_comparing_shows_the_code_that_differs(tmp_path):
    """A run of another program, with uncommitted changes, has its commit and their digest."""
    work, journal = tmp_path / "work", tmp_path / "j"
    work.mkdir()
    script = work / "train.py"
    script.write_text(
        "import sys\nfrom journaltrack import Tracker\n"
        "with Tracker.create(trial_component_name='one', journal=sys.argv[1], sync='off'): pass\n"
    )
    git = ["git", "-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "First"]):
        subprocess.run([*git, *step], check=True)
    script.write_text(f"{script.read_text()}print('changed')\n")
    environment = {**os.environ, "JOURNALTRACK_CONTEXT": "on", "JOURNALTRACK_GIT_DIFF": "on"}
    subprocess.run([sys.executable, script, journal], check=True, env=environment)
    Tracker.create(trial_component_name="two", journal=journal, sync="off").close()
    shown = called("compare", "one", "two", "-j", journal)
    digest = called("get", "one", "-j", journal, "--json")
    changes = json.loads(digest)["artifacts"][0]["sha256"][:12]
    assert re.search(r"^commit +[0-9a-f]{12} with uncommitted changes ", shown, re.MULTILINE)
    assert re.search(rf"^uncommitted changes +{changes} ", shown, re.MULTILINE)
    assert re.search(rf"^program +{re.escape(str(script))} ", shown, re.MULTILINE)
    told = json.loads(called("compare", "one", "two", "-j", journal, "--json"))
    assert told["code"]["uncommitted changes"] == [changes, None]


def test_many_runs_are_compared_in_groups_that_fit(tmp_path, monkeypatch):
    """No run is left out at 80 columns."""
    for place in range(12):
        with Tracker.create(
            f"experiment-number-{place}", journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_parameter("lr", place / 10)
    shown = on_terminal(["compare", "*", "-j", tmp_path / "j"], 80, monkeypatch)
    assert all(f"experiment-number-{place}" in shown for place in range(12))
    assert max(map(len, shown.splitlines())) <= 80


def test_a_curve_is_drawn_with_its_ends(folder, monkeypatch):
    """Braille dots in a frame; the axes tell the range, the legend the last value."""
    shown = on_terminal(["plot", "wide", "train:loss", "-j", folder], 80, monkeypatch)
    assert len(BRAILLE.findall(shown)) > 40
    assert re.search(r"^ +1 ┤", shown, re.MULTILINE)
    assert re.search(r"^ +0 +199$", shown, re.MULTILINE)
    assert "1 not finite" in shown
    falls = [line for line in shown.splitlines() if "┤" in line]
    first = [BRAILLE.search(line).start() for line in falls if BRAILLE.search(line)]
    assert first == sorted(first)


def test_runs_are_told_apart_without_colours(folder, monkeypatch):
    """In a pipe, or with NO_COLOR, each curve has a letter."""
    plain = called("plot", "run-*", "train:loss", "-j", folder)
    assert not BRAILLE.search(plain)
    assert re.search(r"^  a run-2", plain, re.MULTILINE)
    assert {"a", "b", "c"} <= set(
        "".join(line.split("┤")[1] for line in plain.splitlines() if "┤" in line)
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert not BRAILLE.search(
        on_terminal(["plot", "run-*", "train:loss", "-j", folder], 80, monkeypatch)
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_what_it_has(folder, encoding):
    """No question marks and no error: letters for dots, an asterisk for the star."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (
        ["plot", "wide", "train:loss"],
        ["runs", "--sort", "train:loss"],
        ["compare"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "journaltrack", *arguments, "-j", str(folder)],
            env=environment,
            capture_output=True,
            check=True,
        )
        assert b"\\u" not in done.stdout
        assert b"*" in done.stdout or b"aaa" in done.stdout


@pytest.mark.parametrize(
    "values",
    [[1e308, -1e308, 0.0], [5.0, 5.0], [math.nan, math.inf], [7.0], [-1.0, 0.0, 10.0]],
    ids=str,
)
@pytest.mark.parametrize("axes", [[], ["--log-y"], ["--log-x", "--log-y"], ["--x", "relative"]])
def test_any_values_are_drawn_or_explained(tmp_path, values, axes):
    """The largest doubles, a flat line, nothing finite, one point, values below a log axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Tracker.create(journal=tmp_path / "j", sync="off") as tracker:
            for step, value in enumerate(values):
                tracker.log_metric("m", value, step=step)
    shown = called("plot", "m", "-j", tmp_path / "j", *axes)
    assert "┤" in shown or "no finite value to draw" in shown


def test_a_name_that_nothing_has_is_told_without_a_run_that_nobody_named(folder):
    """Runs and metrics have hints of their own; with -m only metrics are meant."""
    done = CliRunner().invoke(main, ["plot", "nobody", "train:loss", "-j", str(folder)])
    assert done.exit_code == 2
    assert "'nobody' is neither a run nor a metric\n" in done.stderr
    assert re.search(r"hint: runs: .*deep.*; metrics: .*train:loss", done.stderr)
    done = CliRunner().invoke(main, ["plot", "wide", "-m", "los", "-j", str(folder)])
    assert "no metric is called 'los'" in done.stderr
    assert "runs:" not in done.stderr


def test_metrics_that_are_left_out_of_a_plot_are_counted(tmp_path):
    """Four are drawn by default; a hint says how many more there are."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        for name in "abcdefg":
            tracker.log_metric(name, 1.0, step=0)
    done = CliRunner().invoke(main, ["plot", "run", "-j", str(tmp_path / "j")])
    assert "3 metrics left out" in done.stderr
    named = CliRunner().invoke(main, ["plot", "run", "a", "-j", str(tmp_path / "j")])
    assert named.stderr == ""


def test_a_constant_metric_has_one_label(tmp_path):
    """And not the same one three times."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        for step in range(5):
            tracker.log_metric("m", 0.0, step=step)
    frame = [line for line in called("plot", "m", "-j", tmp_path / "j").splitlines() if "┤" in line]
    assert [line.split("┤")[0].strip() for line in frame if line.split("┤")[0].strip()] == ["0"]


def test_a_plot_as_json_has_the_curves(folder):
    """With gaps as null."""
    told = json.loads(called("plot", "wide", "train:loss", "-j", folder, "--json"))
    (curve,) = told["curves"]
    assert (curve["name"], curve["axis"], curve["points"]) == ("run-0", "step", 200)
    assert curve["y"][100] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plot", "losss"], "is neither a run nor a metric"),
        (["plot", "--follow"], "--follow needs a terminal"),
        (["compare", "nobody"], "no run is called"),
        (["runs", "--where", "lr <"], "expected a value"),
        (["runs", "--sort", "nope"], "no run has 'nope'"),
        (["runs", "--columns", "nope"], "no run has 'nope'"),
    ],
)
def test_what_is_not_there_is_wrong_usage(folder, arguments, says):
    """The exit code is 2, and stdout has no answer."""
    done = CliRunner().invoke(main, [*arguments, "-j", str(folder)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_journal_that_cant_be_read_is_told_beside_the_others(folder, tmp_path):
    """The list has the runs of the others; the exit code is that of the journal's error."""
    done = CliRunner().invoke(main, ["runs", str(folder), "-j", str(tmp_path / "gone"), "--json"])
    assert done.exit_code == 8
    assert len(json.loads(done.stdout)) == 3
    assert "there is no journal" in done.stderr


def test_show_without_a_name_shows_the_newest_run(folder):
    """And with a pattern all that fit, as one document each."""
    assert json.loads(called("show", "-j", folder, "--json"))["name"] == "run-2"
    told = json.loads(called("show", "run-*", "-j", folder, "--json"))
    assert [run["name"] for run in told["runs"]] == ["run-2", "run-1", "run-0"]
    assert json.loads(called("show", "deep", folder, "--json"))["name"] == "run-1"


@pytest.mark.slow
def test_a_plot_follows_a_run(tmp_path):
    """A point that arrives is drawn, without another key; the plot ends with the run."""
    program = (
        "import sys\nfrom journaltrack import Tracker\n"
        "with Tracker.create(trial_component_name='run', journal=sys.argv[1], sync='off') as t:\n"
        "    for line in sys.stdin:\n"
        "        t.log_metric('loss', float(line))\n        print('ok', flush=True)\n"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "j"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def log(value):
        training.stdin.write(f"{value}\n")
        training.stdin.flush()
        assert training.stdout.readline() == "ok\n"

    log(1.5)
    log(2.5)
    with on_its_own_terminal(["plot", "loss", "--follow", "-j", tmp_path / "j"]) as (plot, seen):
        seen("last 2.5")
        log(77.25)
        seen("last 77.25")
        training.communicate()
        assert plot.wait(FOREVER_S) == 0


@contextlib.contextmanager
def on_its_own_terminal(arguments):
    """A command in a process of its own, on a terminal of 80 columns; and a function that waits
    until it has printed a text.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "journaltrack", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(slave)
    arrived = bytearray()
    more = threading.Condition()

    def read():
        with contextlib.suppress(OSError):  # EIO: nobody writes any more
            while data := os.read(master, 65_536):
                with more:
                    arrived.extend(data)
                    more.notify_all()

    def seen(text):
        with more:
            assert more.wait_for(
                lambda: text in ANSI.sub("", arrived.decode(errors="replace")), FOREVER_S
            ), arrived.decode(errors="replace")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, seen
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(master)


@pytest.mark.parametrize("command", ["show", "compare", "plot"])
def test_names_are_completed_from_the_journals_of_the_command_line(folder, monkeypatch, command):
    """Whatever names and journals stand before."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(folder))
    for before in ([], ["run-0"], ["-j", str(folder)], ["run-0", str(folder)]):
        words = " ".join(["journaltrack", command, *before, "run-"])
        done = CliRunner().invoke(
            main,
            prog_name="journaltrack",
            env={
                "_JOURNALTRACK_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(before) + 2),
            },
        )
        assert [line.partition(",")[2] for line in done.output.split()] == [
            "run-0",
            "run-1",
            "run-2",
        ]


def test_a_path_is_a_journal_and_a_metric_may_have_a_slash(folder, monkeypatch):
    """A path that is not there is told as such, and val/accuracy is no path."""
    monkeypatch.chdir(folder.parent)
    done = CliRunner().invoke(main, ["show", "run-0", "no/where"])
    assert (done.exit_code, "there is no journal" in done.stderr) == (8, True)
    assert "val/accuracy" in called("plot", "wide", "val/accuracy", "journal")
    assert json.loads(called("show", "./journal", "--json"))["name"] == "run-2"


def test_a_pipe_gets_whole_names_and_the_columns_that_fit(tmp_path, monkeypatch):
    """No cell is cut, columns are chosen as for a terminal of COLUMNS, and those that were asked
    for are all there.
    """
    journal = tmp_path / "j"
    with Tracker.create(
        trial_component_name="run-" + "x" * 80, journal=journal, sync="off"
    ) as tracker:
        tracker.log_parameters({f"parameter-{n}": f"value-{n}" * 10 for n in range(8)})
        tracker.log_metrics({f"metric-{n}": n / 7 for n in range(8)}, step=1)
    monkeypatch.delenv("COLUMNS", raising=False)
    done = CliRunner().invoke(main, ["runs", str(journal)])
    title, row = done.stdout.splitlines()
    assert row.startswith("run-" + "x" * 80 + " ")
    assert title.split()[:4] == ["run", "status", "age", "duration"]
    assert len(title.split()) < 4 + 16
    assert "columns left out" in done.stderr
    monkeypatch.setenv("COLUMNS", "600")
    assert len(called("runs", journal).splitlines()[0].split()) == 4 + 16
    monkeypatch.setenv("COLUMNS", "40")
    chosen = called("runs", journal, "--columns", "parameter-1,parameter-2,metric-3")
    assert chosen.splitlines()[0].split()[1:] == ["parameter-1", "parameter-2", "metric-3"]
    assert "value-2" * 10 in chosen


def test_the_best_of_all_values_is_compared_too(tmp_path):
    """Where it is not the last one: marked for the run that had it."""
    for name, values in (("one", (3.0, 0.5, 2.0)), ("two", (3.0, 2.0, 1.0))):
        with Tracker.create(
            trial_component_name=name, journal=tmp_path / "j", sync="off"
        ) as tracker:
            for step, value in enumerate(values):
                tracker.log_metrics({"loss": value, "acc": step}, step=step)
    lines = {
        line.split()[0]: line.split()[1:]
        for line in called("compare", "one", "two", "-j", tmp_path / "j").splitlines()
    }
    assert (lines["loss"], lines["loss.min"]) == (["2", "1★"], ["0.5★", "1"])
    assert "acc.max" not in lines


def test_a_range_without_points_is_told_and_draws_nothing(folder, monkeypatch):
    """Not as one dot; the range that has points is named."""
    for options in (["--from", "1000"], ["--to", "-1"]):
        shown = on_terminal(["plot", "wide", "train:loss", *options, "-j", folder], 80, monkeypatch)
        assert "no point in this range: the points are from 0 to 199" in shown
        assert not BRAILLE.search(shown)
    assert BRAILLE.search(called("plot", "wide", "train:loss", "--from", "150", "-j", folder))


def test_a_run_in_a_journals_place_is_answered_with_show(tmp_path, monkeypatch):
    """Of a name that no run has, nothing is suggested."""
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "j"))
    with Tracker.create("Digits", trial_component_name="digits-1", sync="off"):
        pass
    for name in ("digits-1", "Digits"):
        done = CliRunner().invoke(main, ["runs", name])
        assert (done.exit_code, f"`journaltrack show {name}`" in done.stderr) == (8, True)
    done = CliRunner().invoke(main, ["runs", "other"])
    assert (done.exit_code, "`journaltrack show" in done.stderr) == (8, False)


def test_csv_has_the_extremes(folder):
    """Beside the last values."""
    (first, *_) = csv.DictReader(io.StringIO(called("runs", folder, "--csv", "--sort", "name")))
    assert float(first["metrics.train:loss.max"]) == 1.0
    assert float(first["metrics.train:loss.min"]) == float(first["metrics.train:loss"])


def test_show_has_no_row_that_says_nothing(folder):
    """Before a sync, and without a display name."""
    shown = called("show", "run-2", "-j", folder)
    labels = {line.split("  ")[0] for line in shown.splitlines()}
    assert labels.isdisjoint({"arn", "display name"})
    assert {"component", "status", "started"} <= labels


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["runs", "--filter", "lr<1"], "--where"),
        (["runs", "--order-by", "lr"], "--sort"),
        (["runs", "--colums", "lr"], "--columns"),
        (["report", "x", "--overwrite"], "--force"),
        (["get", "x", "--out", "y"], "--output"),
    ],
)
def test_an_option_of_another_tool_is_answered_with_ours(arguments, meant):
    """And one that is misspelt with what is near."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"'{meant}'" in done.stderr


def test_a_file_that_is_called_as_a_run_is_no_journal(tmp_path, monkeypatch):
    """Beside the scripts of a working folder, a run's name names the run; a bundle is one whatever
    it is called.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", "j")
    for name in ("one", "two"):
        (tmp_path / name).write_text("mine")
        with Tracker.create(trial_component_name=name, sync="off") as tracker:
            tracker.log_metric("loss", 1.0, step=0)
    assert "one  " in called("compare", "one", "two")
    assert called("show", "one", "two").count("component  ") == 2
    journaltrack.bundle("j", to="carried")
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", "other")
    assert called("show", "one", "carried").count("component  ") == 1
