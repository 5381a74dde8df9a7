"""Tables of other tools: CSV of Lightning and Keras, exports of W&B; and the YAML beside them."""

from __future__ import annotations

import json
import math
import operator
import os
from collections import Counter

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import journaltrack
from journaltrack.cli import main
from journaltrack.importers import yaml_text

THEN_S = 1_700_000_000


def imported(kind, path, journal, *options):
    """What the command says of an import, as JSON, with its exit code."""
    done = CliRunner().invoke(
        main, ["import", kind, str(path), "-j", str(journal), "--json", *options]
    )
    return json.loads(done.stdout)


def only(journal):
    """The only run of a journal."""
    (run,) = journaltrack.runs(journal)
    return run


def made(folder, name, text, *, old=True):
    """A file that was last changed long ago, or just now."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    if old:
        os.utime(path, (THEN_S, THEN_S))
    return path


def harms(told):
    """What could not be read."""
    listed = [each for run in told["runs"] for each in run["left_out"]] + told["left_out"]
    found = Counter[str]()
    for each in listed:
        found[each["what"]] += each["count"] * each["is_harm"]
    return +found


def test_lightning_s_folder_is_a_run_with_sparse_metrics_and_nested_parameters(tmp_path):
    """Empty cells are no points, the epoch is one when it changes, hparams.yaml has parameters."""
    folder = tmp_path / "lightning_logs" / "version_3"
    made(
        folder,
        "metrics.csv",
        "epoch,step,train_loss,val_loss\r\n0,0,0.5,\r\n0,1,0.25,\r\n0,1,,0.3\r\n1,2,nan,\r\n",
    )
    made(
        folder, "hparams.yaml", "lr: 0.001\nnet:\n  layers:\n  - 64\n  - 32\n  act: relu\nx: null\n"
    )
    for path in (tmp_path / "lightning_logs", folder, folder / "metrics.csv"):
        told = imported("csv", path, tmp_path / "j")
        assert told["exit_code"] == 0
    assert (told["points"], told["known"]) == (0, 6)
    run = only(tmp_path / "j")
    assert run.name == "lightning-logs-version-3"
    assert run.metrics("epoch").steps == [0, 2]
    assert run.metrics("train_loss").steps == [0, 1, 2]
    assert math.isnan(run.metrics("train_loss").values[-1])
    assert run.metrics("val_loss").values == [0.3]
    assert set(run.metrics("val_loss").times_ns) == {THEN_S * 10**9}
    assert run.parameters["lr"] == 0.001


@pytest.mark.parametrize(
    ("kind", "history", "description"),
    [
        ("csv", "metrics.csv", "hparams.yaml"),
        ("wandb-export", "history.csv", "config.json"),
        ("wandb-export", "history.csv", "config.yaml"),
        ("wandb-export", "history.csv", "run.json"),
    ],
)
def test_no_description_is_a_link_to_a_file_elsewhere(tmp_path, kind, history, description):
    """A folder from somebody else has no secret of this machine recorded as parameters."""
    secret = made(tmp_path, "secret", '{"id": "password", "config": {"key": "password"}}')
    for name in ("a", "b"):
        made(tmp_path / "runs" / name, history, f"_step,step,loss\n0,0,0.{len(name)}\n")
    (tmp_path / "runs" / "a" / description).symlink_to(secret)
    made(tmp_path / "runs", "shared", '{"id": "b", "lr": 3, "config": {"lr": 3}}')
    (tmp_path / "runs" / "b" / description).symlink_to(tmp_path / "runs" / "shared")
    imported(kind, tmp_path / "runs", tmp_path / "j")
    told = journaltrack.runs(tmp_path / "j")
    assert not any("password" in f"{run.name} {dict(run.parameters)}" for run in told)
    assert [run.parameters["lr"] for run in told if "lr" in run.parameters] == [3]


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "word\n", "a: " + "x" * 9_000_000])
def test_parameters_that_have_no_names_or_no_end_are_told(tmp_path, content):
    """What stands beside a table is recorded, or told; it is never read without a bound."""
    made(tmp_path / "run", "metrics.csv", "step,loss\n0,1\n")
    made(tmp_path / "run", "hparams.yaml", content)
    told = imported("csv", tmp_path / "run", tmp_path / "j")
    assert (told["points"], harms(told)) == (1, {"description": 1})


def test_runs_that_begin_alike_are_told_apart_by_how_they_go_on(tmp_path):
    """A learning rate at step 0 is the same in many runs. Each is a run, and grows as itself."""

    def folder(project, *losses):
        rows = [f",{step + 1},{loss}\n" for step, loss in enumerate(losses)]
        path = tmp_path / project / "lightning_logs" / "version_0"
        made(path, "metrics.csv", "".join(["lr-Adam,step,loss\n0.001,0,\n", *rows]))
        return path.parent

    def found():
        runs = journaltrack.runs(tmp_path / "j")
        return sorted([*map(operator.attrgetter("values"), (r.metrics("loss") for r in runs))])

    for project, loss in (("a", 1), ("b", 2), ("c", 3)):
        imported("csv", folder(project, loss, 0.5), tmp_path / "j")
    assert found() == [[1, 0.5], [2, 0.5], [3, 0.5]]
    for project, loss in (("c", 3), ("b", 2), ("a", 1)):
        told = imported("csv", folder(project, loss, 0.5, 0.1), tmp_path / "j")
        assert (told["points"], told["known"], told["runs"][0]["is_new"]) == (1, 3, False)
    assert found() == [[1, 0.5, 0.1], [2, 0.5, 0.1], [3, 0.5, 0.1]]
    # An older copy of one of them adds nothing.
    told = imported("csv", folder("old", 3, 0.5), tmp_path / "j")
    assert (told["points"], len(journaltrack.runs(tmp_path / "j"))) == (0, 3)
    # All of them at once are the same runs, and the copy beside its original is one more.
    for new in (3, 0):
        told = imported("csv", tmp_path, tmp_path / "j")
        assert (told["points"], len(journaltrack.runs(tmp_path / "j"))) == (new, 4)


def test_a_file_that_lightning_wrote_anew_with_more_columns_is_the_same_run(tmp_path):
    """A new metric changes the header, not the run."""
    path = made(tmp_path / "v", "metrics.csv", "step,a\n0,1.5\n1,2.5\n")
    imported("csv", path, tmp_path / "j")
    made(tmp_path / "v", "metrics.csv", "b,step,a\n,0,1.5\n,1,2.5\n7.0,2,\n")
    told = imported("csv", path, tmp_path / "j")
    assert (told["points"], told["known"]) == (1, 2)
    assert set(only(tmp_path / "j").metrics) == {"a", "b"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_keras_csv_has_the_epoch_as_its_step(tmp_path, delimiter):
    """The separator is found, the file's own name is the run's."""
    text = "epoch,loss,val_loss\n0,0.5,0.6\n1,0.4,0.5\n".replace(",", delimiter)
    path = made(tmp_path, "digits_v2.csv", text)
    imported("csv", path, tmp_path / "j")
    run = only(tmp_path / "j")
    assert run.name == "digits-v2"
    assert run.metrics("val_loss").steps == [0, 1]
    assert run.metrics("val_loss").values == [0.6, 0.5]


@pytest.mark.parametrize(
    "cell", ["1700000000", "1700000000.0", "1700000000000", "1.7e18", "2023-11-14T22:13:20Z"]
)
def test_times_are_recognized_in_every_unit(tmp_path, cell):
    """Seconds, milliseconds, nanoseconds and ISO 8601 are the same moment."""
    path = made(tmp_path, "t.csv", f"timestamp,step,loss\n{cell},0,0.5\n")
    imported("csv", path, tmp_path / "j")
    assert only(tmp_path / "j").metrics("loss").times_ns == [THEN_S * 10**9]


def test_a_column_of_spans_is_a_metric_unless_somebody_says_time(tmp_path):
    """A column "time" with 12.5 is no point in time; columns can be chosen, and must be there."""
    path = made(tmp_path, "t.csv", "n,time,when,loss\n5,12.5,1700000000,0.5\n")
    imported("csv", path, tmp_path / "j", "--step", "n", "--time", "when")
    run = only(tmp_path / "j")
    assert set(run.metrics) == {"time", "loss"}
    assert run.metrics("loss").steps == [5]
    told = imported("csv", path, tmp_path / "j", "--step", "m")
    assert told["exit_code"] == 2
    assert "no column" in told["error"]["message"]


def test_rows_without_a_step_column_are_numbered(tmp_path):
    """Only so are the rows of several metrics comparable."""
    path = made(tmp_path, "t.csv", "a,b\n1.0,\n,2.0\n")
    imported("csv", path, tmp_path / "j")
    run = only(tmp_path / "j")
    assert (run.metrics("a").steps, run.metrics("b").steps) == ([0], [1])


def test_a_run_with_times_began_and_ended_with_its_points(tmp_path):
    """Not with the import; a file that has grown moves the end, and one that has not adds nothing.

    A status that the user gives keeps both.
    """
    path = made(tmp_path, "t.csv", f"time,step,loss\n{THEN_S + 5},0,0.5\n{THEN_S},1,0.4\n")
    imported("csv", path, tmp_path / "j")
    run = only(tmp_path / "j")
    assert (run.started.timestamp(), run.ended.timestamp()) == (THEN_S, THEN_S + 5)
    assert imported("csv", path, tmp_path / "j")["runs"][0]["other_entries"] == 0
    made(tmp_path, "t.csv", f"{path.read_text()}{THEN_S + 60},2,0.3\n")
    imported("csv", path, tmp_path / "j", "--status", "Completed")
    run = only(tmp_path / "j")
    assert (run.status, run.duration_s) == ("completed", 60)


def test_examples_of_what_was_left_out_are_all_or_have_dots(tmp_path):
    """Dots tell of columns that are not named, and not of more cells in those that are."""
    for count, shown in ((1, ["c"]), (3, ["c"] * 3), (4, [*["c"] * 3, "..."])):
        names = [f"c{n}" for n in range(count)]
        rows = "\n".join(f"{n},0.5,{','.join('x' * count)}" for n in range(5))
        path = made(tmp_path, "t.csv", f"step,loss,{','.join(names)}\n{rows}\n")
        journal = str(tmp_path / f"j{count}")
        told = CliRunner().invoke(main, ["import", "csv", str(path), "-j", journal]).output
        found = told.partition(f"left out: {5 * count} cells (")[2].partition("): it is no")[0]
        assert [each.rstrip("0123456789") for each in found.split(", ")] == shown


def test_numbers_with_a_decimal_comma_are_told_as_such(tmp_path):
    """Whether 1,234 is a thousand or one, nobody knows: none is guessed."""
    path = made(tmp_path, "t.csv", "step;loss;acc;phase\n0;0,5;1;a\n1;-1,25e-3;2;1,2,3\n")
    told = imported("csv", path, tmp_path / "j")
    found = {each["why"]: (each["count"], each["examples"]) for each in told["runs"][0]["left_out"]}
    assert found == {
        "it has a decimal comma; write numbers with a point": (2, ["loss"]),
        "it is no number": (2, ["phase"]),
    }
    assert set(only(tmp_path / "j").metrics) == {"acc"}


def test_rows_that_are_wrong_are_told_and_the_others_recorded(tmp_path):
    """Bad steps, bad times and too many cells are harm; texts and fractions are left out."""
    text = (
        "step,timestamp,loss,phase\n"
        "0,1700000000,0.5,train\n"
        "x,1700000000,0.5,train\n"
        "1,never,0.5,train\n"
        "2,1700000000,0.5,train,more\n"
        "2.5,1700000000,0.5,train\n"
        "-1,1700000000,0.5,train\n"
        "3,,0.5\n"
    )
    told = imported("csv", made(tmp_path, "t.csv", text), tmp_path / "j")
    assert told["exit_code"] == 4
    assert harms(told) == {"row": 3}
    assert only(tmp_path / "j").metrics("loss").steps == [0, 3]


def test_a_last_line_that_may_still_be_written_is_left_for_later(tmp_path):
    """Without a line end the number may be cut: it is told. In a file that is old, it is whole."""
    text = "step,loss\n0,0.5\n1,0.2"
    path = made(tmp_path, "t.csv", text, old=False)
    told = imported("csv", path, tmp_path / "j")
    assert (told["points"], told["exit_code"], harms(told)) == (1, 4, {"row": 1})
    made(tmp_path, "t.csv", text + "5\n", old=False)
    assert imported("csv", path, tmp_path / "j")["points"] == 1
    assert only(tmp_path / "j").metrics("loss").values == [0.5, 0.25]
    old = made(tmp_path, "old.csv", text)
    assert imported("csv", old, tmp_path / "j")["points"] == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"step,loss\n",
        b"\xff\xfe\x00s",
        b"step,loss\n0,\xff\n",
        b'step,loss\n0,"1.0\n',
        b"\0" * 50,
        b"a" * 9_000_000,
    ],
)
def test_what_is_no_table_makes_no_traceback(tmp_path, content):
    """Empty, binary, badly encoded and endless files are told; no point is made up."""
    path = made(tmp_path, "t.csv", content)
    told = imported("csv", path, tmp_path / "j")
    assert told.get("points", 0) == 0
    assert told["exit_code"] in {0, 4}
    assert told["left_out"] or told["runs"][0]["left_out"]


def test_columns_without_a_name_or_twice_are_told(tmp_path):
    """The first column of a name counts; pandas' index has none."""
    path = made(tmp_path, "t.csv", ",step,loss,loss\n0,0,0.5,0.75\n")
    told = imported("csv", path, tmp_path / "j")
    assert [each["what"] for each in told["runs"][0]["left_out"]] == ["column", "column"]
    assert only(tmp_path / "j").metrics("loss").values == [0.5]


def test_other_files_of_a_folder_are_suggested(tmp_path):
    """A folder without metrics.csv says which CSV files it has, and how to take them."""
    made(tmp_path / "runs", "a/one.csv", "step,loss\n0,1\n")
    made(tmp_path / "runs", "two.csv", "step,loss\n0,1\n")
    told = imported("csv", tmp_path / "runs", tmp_path / "j")
    assert "a/one.csv, two.csv" in told["error"]["hint"]
    made(tmp_path / "keras", "training.log", "epoch;loss\n0;1\n")
    told = imported("csv", tmp_path / "keras", tmp_path / "j")
    assert "training.log" in told["error"]["hint"]
    assert "'*.log'" in told["error"]["hint"]
    imported("csv", tmp_path / "runs", tmp_path / "j", "--files", "*.csv")
    assert {run.name for run in journaltrack.runs(tmp_path / "j")} == {"runs-a-one", "runs-two"}
    # What tells two imports apart is where they are from, not the digest of their beginning.
    shown = CliRunner().invoke(main, ["compare", "runs-*", "-j", str(tmp_path / "j")]).output
    assert ("imported_id" in shown, "imported_key" in shown) == (True, False)


@pytest.mark.parametrize("rows", ["", ",\n", "x,y\n", "0,\n"])
def test_a_table_without_a_number_makes_no_run(tmp_path, rows):
    """It is told as left out, and the journal has no run that nothing is known of."""
    path = made(tmp_path, "t.csv", f"step,loss\n{rows}")
    told = imported("csv", path, tmp_path / "j", "--status", "Completed")
    assert (told["runs"], told["left_out"][0]["what"]) == ([], "run")
    assert journaltrack.runs(tmp_path / "j") == []
    made(tmp_path, "t.csv", "step,loss\n0,1\n")
    assert imported("csv", path, tmp_path / "j")["runs"][0]["is_new"]


def test_names_are_the_user_s_to_give(tmp_path):
    """--name is for one run, --prefix for several, and both must be valid for AWS."""
    path = made(tmp_path, "t.csv", "step,loss\n0,1\n")
    imported("csv", path, tmp_path / "j", "--name", "Digits-7", "--status", "Completed")
    run = only(tmp_path / "j")
    assert (run.name, run.status) == ("digits-7", "completed")
    assert imported("csv", path, tmp_path / "k", "--prefix", "old-")["runs"][0]["name"] == "old-t"
    assert imported("csv", path, tmp_path / "k", "--name", "a_b")["exit_code"] == 2


HISTORY = [
    {"_step": 0, "_timestamp": 1700000000.5, "_runtime": 1.5, "loss": 0.5, "note": "x"},
    {"_step": 1, "_timestamp": 1700000001.5, "_runtime": 2.5, "loss": "NaN", "val.acc": 0.75},
    {"_step": 2, "_timestamp": 1700000002.5, "_runtime": 3.5, "img": {"_type": "image-file"}},
]


def history(folder, form):
    """A history as wandb's API gives it, written in one of the forms that people use."""
    import pandas as pd

    frame = pd.DataFrame(HISTORY)
    if form == "csv":
        path = made(folder, "history.csv", frame.to_csv())
    elif form == "jsonl":
        path = made(folder, "history.jsonl", "".join(json.dumps(row) + "\n" for row in HISTORY))
    elif form == "json":
        path = made(folder, "history.json", json.dumps(HISTORY))
    elif form == "columns":
        path = made(folder, "history.json", frame.drop(columns="img").to_json())
    else:
        path = folder / "history.parquet"
        folder.mkdir(parents=True)
        frame.drop(columns="img").assign(loss=[0.5, math.nan, None]).to_parquet(path)
    return path


def test_steps_of_any_size_are_told(tmp_path):
    """An integer that no double holds is a step out of range, and not an error of ours."""
    rows = [{"_step": 10**400, "loss": 0.5}, {"_step": 1, "loss": 10**400}, {"_step": 2, "loss": 1}]
    path = made(tmp_path, "h.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    told = imported("wandb-export", path, tmp_path / "j")
    assert (told["points"], told["runs"][0]["not_finite"]) == (2, 1)
    assert [each["what"] for each in told["runs"][0]["left_out"]] == ["point"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "columns", "parquet"])
def test_a_history_of_wandb_is_read_in_every_form(tmp_path, form):
    """Steps and times are wandb's; its own columns and media are no metrics."""
    folder = tmp_path / "exported" / "abc123"
    history(folder, form)
    made(folder, "config.json", json.dumps({"lr": {"value": 0.1, "desc": None}, "_wandb": {}}))
    described = {
        "id": "abc123",
        "name": "lively-fox-7",
        "state": "crashed",
        "tags": ["a", "b"],
        "notes": "try",
        "created_at": "2023-11-14T22:13:20Z",
        "heartbeat_at": "2023-11-14T23:13:20Z",
    }
    made(folder, "run.json", json.dumps(described))
    told = imported("wandb-export", tmp_path / "exported", tmp_path / "j")
    assert told["exit_code"] == 0, told
    run = only(tmp_path / "j")
    assert (run.name, run.display_name, run.status) == ("abc123", "lively-fox-7", "failed")
    assert run.note == "try"
    assert run.tags["wandb.tags"] == "a b"
    assert run.parameters == {"lr": 0.1}
    assert run.duration_s == 3600
    assert set(run.metrics) == {"loss", "val.acc"}
    assert run.metrics("val.acc").times_ns == [1_700_000_001_500_000_000]
    assert run.metrics("val.acc").steps == [1]
    assert imported("wandb-export", tmp_path / "exported", tmp_path / "j")["points"] == 0


@pytest.mark.parametrize("description", [{}, {"id": "abc"}], ids=["nameless", "named"])
def test_the_numbered_files_of_a_history_are_one_run(tmp_path, description):
    """The artifact of a long history has several files: 0000.parquet, 0001.parquet, ..."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for part in range(3):
        steps = [2 * part, 2 * part + 1]
        table = pyarrow.table({"_step": steps, "_timestamp": [THEN_S, THEN_S + 1], "loss": steps})
        (tmp_path / "run").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "run" / f"000{part}.parquet")
    made(tmp_path / "run", "run.json", json.dumps(description))
    for new in (6, 0):
        told = imported("wandb-export", tmp_path / "run", tmp_path / "j")
        assert (told["points"], len(told["runs"])) == (new, 1)
    assert only(tmp_path / "j").metrics("loss").steps == [0, 1, 2, 3, 4, 5]


def test_columns_of_parquet_of_any_type_are_numbers_or_told(tmp_path):
    """Decimals are numbers, times of nanoseconds are times; spans and maps are left out."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    times = [THEN_S * 10**9 + 1, (THEN_S + 1) * 10**9]
    table = pyarrow.table(
        {
            "_step": [0, 1],
            "_timestamp": pyarrow.array(times, pyarrow.timestamp("ns", "UTC")),
            "loss": pyarrow.array([1, 2], pyarrow.decimal128(5)),
            "took": pyarrow.array([5, 6], pyarrow.duration("ns")),
            "counts": pyarrow.array([[("a", 1)], None], pyarrow.map_("string", "int64")),
        }
    )
    parquet.write_table(table, tmp_path / "history.parquet")
    told = imported("wandb-export", tmp_path / "history.parquet", tmp_path / "j")
    last = only(tmp_path / "j").metrics["loss"]
    assert (last.points, last.min, last.max) == (2, 1.0, 2.0)
    left_out = told["runs"][0]["left_out"]
    assert {name for each in left_out for name in each["examples"]} == {"took", "counts"}


def test_a_chart_of_wandb_has_a_run_in_each_column(tmp_path):
    """The CSV of a chart is told apart by its columns; their ranges are no metrics."""
    text = (
        '"Step","fox - 1 - loss","fox - 1 - loss__MIN","fox - 1 - loss__MAX","owl - loss"\n'
        '"0","0.5","0.5","0.5",""\n"1","","","","0.25"\n'
    )
    path = made(tmp_path, "chart.csv", text)
    imported("wandb-export", path, tmp_path / "j")
    found = {run.name: dict(run.metrics) for run in journaltrack.runs(tmp_path / "j")}
    assert {name: set(metrics) for name, metrics in found.items()} == {
        "fox-1": {"loss"},
        "owl": {"loss"},
    }


def test_offline_runs_of_wandb_are_left_out_with_the_reason(tmp_path):
    """run-*.wandb is not read: alone it is an error, beside a history it is told."""
    made(tmp_path / "wandb", "run-abc.wandb", b":W&B\x05\xbe")
    told = imported("wandb-export", tmp_path / "wandb", tmp_path / "j")
    assert told["exit_code"] == 2
    assert "offline run" in told["error"]["message"].lower()
    history(tmp_path / "wandb" / "x", "csv")
    told = imported("wandb-export", tmp_path / "wandb", tmp_path / "j")
    assert told["left_out"][0]["what"] == "offline run"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=200)
    | st.sampled_from(
        [
            *(
                "yes",
                "1e-5",
                "- a",
                "a: b",
                "# c",
                "'",
                '"',
                "~",
                "0x1f",
                "1_000",
                "a\n\n b ",
                "*a",
            ),
            *(
                "&b",
                "!c",
                "[x",
                "{y",
                "@",
                "%",
                "\ttab",
                "012",
                "2020-01-01",
                "trail ",
                "?",
                "\u2028",
            ),
        ]
    )
)
KEYS = st.text(min_size=1, max_size=30) | st.integers() | st.booleans()
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=4,
)


def alike(one, other):
    """Whether two values are the same, with their types; NaN is itself."""
    return repr(one) == repr(other)


def refusal(text):
    """Why a text is not read; None if it is."""
    try:
        yaml_text.load(text)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.slow
@given(DOCUMENTS, st.sampled_from([False, None, True]), st.booleans())
def test_yaml_is_read_as_its_own_library_reads_it(document, flow, unicode):
    """What PyYAML writes is read the same, or refused with the line; never read otherwise."""
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=unicode)
    why = refusal(text)
    if why is None:
        assert alike(yaml_text.load(text), yaml.safe_load(text)), text
    else:
        assert any(odd in text for odd in ("? ", "\u2028", "\x85", "\u2029")), (why, text)


@given(st.text(max_size=80) | st.text(alphabet=" -:\n'\"[]{}&*!|>#?,ab\t", max_size=60))
def test_no_text_makes_the_reader_of_yaml_fail_otherwise_than_told(text):
    """Any text is a value or a ValueError that names the line."""
    assert "line " in (refusal(text) or "line ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: !!python/tuple\n- 1\n- 2\n", {"a": [1, 2]}),
        ("a: &id001\n  b: 1\nc: *id001\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: |\n  x\n   y\nb: >-\n  x\n  y\n", {"a": "x\n y\n", "b": "x y"}),
        ("--- # comment\na: 1 # one\n...\n", {"a": 1}),
        ("a: !!python/object:m.C\n  x: 1\n", {"a": {"x": 1}}),
        ("[" * 100 + "]" * 100, None),
        ("a: *b\n", None),
        (
            "a0: &a0 1\n" + "".join(f"a{n}: &a{n}\n" + f"- *a{n - 1}\n" * 9 for n in range(1, 9)),
            None,
        ),
    ],
)
def test_yaml_of_lightning_needs_no_objects(text, value):
    """Tags are dropped, anchors are followed, and nesting is bounded."""
    if value is None:
        with pytest.raises(ValueError, match=r"too deep|nothing is named|stand for more"):
            yaml_text.load(text)
    else:
        assert yaml_text.load(text) == value
