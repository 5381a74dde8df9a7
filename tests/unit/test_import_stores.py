"""MLflow's file store as MLflow 3.17 wrote it, and what neptune-exporter writes."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import journaltrack
from journaltrack.cli import main

MLRUNS = Path(__file__).parents[1] / "golden" / "imports" / "mlruns"
THEN_NS = 1_700_000_000 * 10**9
FIRST = "2233485542fd43fb95de1f1a09eed308"


def imported(kind, path, journal, *options):
    """What the command says of an import, as JSON, with its exit code."""
    done = CliRunner().invoke(
        main, ["import", kind, str(path), "-j", str(journal), "--json", *options]
    )
    return json.loads(done.stdout)


def left_out(told):
    """What was left out, by kind."""
    listed = [each for run in told["runs"] for each in run["left_out"]] + told["left_out"]
    return {each["what"]: each["count"] for each in listed}


@pytest.fixture
def mlruns(tmp_path):
    """A copy of MLflow's file store, to change."""
    return Path(shutil.copytree(MLRUNS, tmp_path / "mlruns"))


def test_runs_of_mlflow_are_taken_over_with_status_and_times(tmp_path):
    """Finished, failed, killed and running; nested names, tags, note, artifacts, NaN."""
    told = imported("mlruns", MLRUNS, tmp_path / "j")
    assert told["exit_code"] == 0
    assert left_out(told) == {"run": 2, "status": 1, "point": 1}
    assert [each["examples"] for run in told["runs"] for each in run["noted"]] == [["text"]]
    runs = {run.label: run for run in journaltrack.runs(tmp_path / "j")}
    by_name = {run.name: run for run in runs.values()}
    assert {label[:7]: run.status for label, run in runs.items()} == {
        "a-very-": "completed",
        "failed-": "failed",
        "killed": "stopped",
        "running": "created",
    }
    run = by_name[FIRST]
    assert (run.started_ns, run.duration_s) == (THEN_NS, 60.0)
    assert run.metrics("val/loss").steps == [0, 1, 2, 3, 4]
    assert run.metrics("val/loss").values == [1 / (step + 1) for step in range(5)]
    assert run.metrics("val/loss").times_ns == [THEN_NS + step * 10**9 for step in range(5)]
    assert run.metrics["nan"].not_finite == 1
    assert run.parameters["lr"] == 0.1
    assert run.parameters["model/layers"] == "[64, 64]"
    assert run.parameters["text"] == "two\nlines"
    assert run.note == "first try\nof two"
    assert run.tags["team"] == "vision"
    assert run.tags["mlflow.experiment"] == "digits é"
    assert [each.name for each in run.artifacts] == ["model/m.txt"]
    assert runs["failed-one"].tags["mlflow.parentRunId"] == FIRST
    again = imported("mlruns", MLRUNS, tmp_path / "j")
    assert again["points"] == 0
    assert all(each["other_entries"] == 0 for each in again["runs"])


def test_an_experiment_or_a_run_alone_is_the_same_run(tmp_path):
    """The path of a run or an experiment imports that alone, and adds nothing later."""
    (experiment,) = (path.parent for path in MLRUNS.glob("*/" + FIRST))
    assert len(imported("mlruns", experiment / FIRST, tmp_path / "j")["runs"]) == 1
    told = imported("mlruns", experiment, tmp_path / "j")
    assert {run["name"]: run["is_new"] for run in told["runs"]}[FIRST] is False
    assert len(told["runs"]) == 4


def test_deleted_runs_come_when_asked(tmp_path):
    """Runs and experiments in the trash are left out, unless --deleted; files too can be."""
    told = imported("mlruns", MLRUNS, tmp_path / "j", "--deleted", "--no-artifacts")
    assert len(told["runs"]) == 6
    assert all(not run.artifacts for run in journaltrack.runs(tmp_path / "j"))


def test_a_run_that_went_on_brings_what_is_new(tmp_path, mlruns):
    """More points, and the end of a run that was not over."""
    imported("mlruns", mlruns, tmp_path / "j")
    described = mlruns.glob("*/*/meta.yaml")
    (running,) = (each.parent for each in described if "status: 1\n" in each.read_text())
    with (running / "metrics" / "loss").open("a") as stream:
        stream.write("1700000005000 0.75 1\n")
    meta = (running / "meta.yaml").read_text()
    (running / "meta.yaml").write_text(
        meta.replace("status: 1\n", "status: 3\n").replace(
            "end_time: null", "end_time: 1700000006000"
        )
    )
    told = imported("mlruns", mlruns, tmp_path / "j")
    assert told["points"] == 1
    run = next(r for r in journaltrack.runs(tmp_path / "j") if r.name == running.name)
    assert run.status == "completed"
    assert run.ended_ns == 1_700_000_006 * 10**9


def test_damage_is_told_and_costs_no_other_run(tmp_path, mlruns):
    """Bad YAML, bad lines and bad text are told with exit code 4; all else is recorded."""
    (first,) = mlruns.glob("*/" + FIRST)
    (first / "metrics" / "val" / "loss").write_bytes(b"x y z\n1700000000000 0.5 0\n17000")
    (first / "params" / "lr").write_bytes(b"\xff\xfe")
    others = [path.parent for path in mlruns.glob("*/*/meta.yaml") if path.parent != first]
    (others[0] / "meta.yaml").write_text("a: [")
    (others[0] / "params").mkdir(exist_ok=True)
    told = imported("mlruns", mlruns, tmp_path / "j", "--deleted")
    assert told["exit_code"] == 4
    found = left_out(told)
    assert (found["run"], found["parameter"]) == (1, 1)
    assert len(told["runs"]) == 5
    run = next(r for r in journaltrack.runs(tmp_path / "j") if r.name == FIRST)
    assert run.metrics("val/loss").values == [0.5]
    assert "lr" not in run.parameters


def test_files_outside_of_the_store_are_never_taken(tmp_path, mlruns):
    """A link in a store from somebody else has no file of this machine recorded."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    (first,) = mlruns.glob("*/" + FIRST)
    (first / "artifacts" / "link").symlink_to(secret)
    (first / "params" / "link").symlink_to(secret)
    (first / "artifacts" / "folder").symlink_to(tmp_path)
    name = first / "tags" / "mlflow.runName"
    name.unlink(missing_ok=True)
    name.symlink_to(secret)
    meta = yaml.safe_load((first / "meta.yaml").read_text())
    (first / "meta.yaml").write_text(yaml.safe_dump({**meta, "run_name": ""}))
    told = imported("mlruns", mlruns, tmp_path / "j")
    run = next(r for r in journaltrack.runs(tmp_path / "j") if r.name == FIRST)
    assert [each.name for each in run.artifacts] == ["model/m.txt"]
    assert "link" not in run.parameters
    assert run.display_name != "password"
    assert left_out(told)["file"] == 3


def test_the_oldest_layout_has_no_steps_and_another_id(tmp_path):
    """MLflow 1: lines of two words, status as a word, run_uuid."""
    run = tmp_path / "mlruns" / "0" / "abc"
    (run / "metrics").mkdir(parents=True)
    (run / "meta.yaml").write_text(
        "run_uuid: abc\nstatus: KILLED\nstart_time: 1700000000000\nname: ''\n"
    )
    (run / "metrics" / "loss").write_text("1700000000000 0.5\n1700000001000 0.25\n")
    imported("mlruns", tmp_path / "mlruns", tmp_path / "j")
    (found,) = journaltrack.runs(tmp_path / "j")
    assert (found.name, found.status) == ("abc", "stopped")
    assert found.metrics("loss").values == [0.5, 0.25]


def exported(folder, rows, *, part=0, run="RUN-1-5f"):
    """A part of a run as neptune-exporter writes it."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("project_id", "run_id", "attribute_path")),
            ("attribute_type", pa.string()),
            ("step", pa.decimal128(18, 6)),
            ("timestamp", pa.timestamp("ms", tz="UTC")),
            ("int_value", pa.int64()),
            ("float_value", pa.float64()),
            ("string_value", pa.string()),
            ("bool_value", pa.bool_()),
            ("datetime_value", pa.timestamp("ms", tz="UTC")),
            ("string_set_value", pa.list_(pa.string())),
            ("file_value", pa.struct([("path", pa.string())])),
            (
                "histogram_value",
                pa.struct(
                    [
                        ("type", pa.string()),
                        ("edges", pa.list_(pa.float64())),
                        ("values", pa.list_(pa.float64())),
                    ]
                ),
            ),
        ]
    )
    path = folder / "data" / "org_proj-12" / f"{run}_part_{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [{"project_id": "org/proj", "run_id": "RUN-1", **row} for row in rows]
    parquet.write_table(pa.Table.from_pylist(full, schema=schema), path)


def attribute(path, kind, value):
    """A row of one attribute."""
    return {"attribute_path": path, "attribute_type": kind, f"{kind}_value": value}


def point(path, step, value, kind="float_series", member="float_value"):
    """A row of one point."""
    moment = dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.timezone.utc)
    return {
        "attribute_path": path,
        "attribute_type": kind,
        "step": Decimal(step),
        "timestamp": moment,
        member: value,
    }


def test_runs_of_neptune_are_taken_over(tmp_path):
    """Every type of attribute and series of the exporter is recorded, or told."""
    moment = dt.datetime(2023, 11, 14, tzinfo=dt.timezone.utc)
    exported(
        tmp_path,
        [
            attribute("sys/name", "string", "first try"),
            attribute("sys/id", "string", "RUN-1"),
            attribute("sys/failed", "bool", True),
            attribute("sys/creation_time", "datetime", moment),
            attribute("sys/tags", "string_set", ["b", "a"]),
            attribute("sys/description", "string", "what it was"),
            attribute("params/lr", "float", 0.1),
            attribute("params/layers", "int", 2),
            attribute("params/flag", "bool", True),
            attribute("params/when", "datetime", moment),
            *(point("train/loss", step, 1 / (step + 1)) for step in range(5)),
            point("train/loss", "0.5", 9.0),
            point("logs", 1, "hello", "string_series", "string_value"),
            point("weights", 1, None, "histogram_series", "float_value"),
        ],
    )
    files = tmp_path / "files" / "org_proj-12"
    files.mkdir(parents=True)
    (files / "model.bin").write_bytes(b"weights")
    exported(
        tmp_path,
        [
            {
                "attribute_path": "model",
                "attribute_type": "file",
                "file_value": {"path": "org_proj-12/model.bin"},
            },
            {
                "attribute_path": "evil",
                "attribute_type": "file",
                "file_value": {"path": "../data/org_proj-12/RUN-1-5f_part_0.parquet"},
            },
            *(point("train/loss", step, 1 / (step + 1)) for step in range(5, 8)),
        ],
        part=1,
    )
    exported(tmp_path, [attribute("a", "int", 1)], part=1, run="RUN-2-77")
    told = imported("neptune-export", tmp_path, tmp_path / "j")
    assert told["exit_code"] == 4
    assert left_out(told) == {"point": 1, "histogram series": 1, "artifact": 1, "run": 1}
    (run,) = journaltrack.runs(tmp_path / "j")
    assert (run.name, run.display_name, run.status) == ("proj-run-1", "first-try", "failed")
    assert run.metrics("train/loss").steps == list(range(8))
    assert set(run.metrics("train/loss").times_ns) == {THEN_NS}
    assert run.parameters["params/lr"] == 0.1
    assert run.parameters["params/flag"] == "True"
    assert run.tags["neptune.tags"] == "a b"
    assert run.note == "what it was"
    assert {each.name for each in run.artifacts} == {"model", "logs.txt"}
    for path in (tmp_path / "data", tmp_path / "data" / "org_proj-12"):
        again = imported("neptune-export", path, tmp_path / "j")
        assert (again["points"], again["runs"][0]["other_entries"]) == (0, 0)


def test_decimal_steps_of_neptune_can_be_multiplied(tmp_path):
    """SageMaker's steps are whole: --step-multiplier makes them so."""
    exported(tmp_path, [point("loss", "0.5", 1.0), point("loss", "1.5", 2.0)])
    imported("neptune-export", tmp_path, tmp_path / "j", "--step-multiplier", "2")
    (run,) = journaltrack.runs(tmp_path / "j")
    assert run.metrics("loss").steps == [1, 3]


def test_a_damaged_export_of_neptune_is_told(tmp_path):
    """What is no Parquet is left out, with exit code 4 and no traceback."""
    exported(tmp_path, [point("loss", 1, 1.0)])
    (tmp_path / "data" / "org_proj-12" / "RUN-9-1_part_0.parquet").write_bytes(b"PAR1 nothing")
    told = imported("neptune-export", tmp_path, tmp_path / "j")
    assert (told["exit_code"], told["points"]) == (4, 1)


@pytest.mark.parametrize(
    "crafted",
    [
        {"step": "not a number"},
        {"step": [1.0]},
        {"float_value": [1.0]},
        {"timestamp": ["x"]},
        {"attribute_type": "file", "file_value": "path"},
        {"attribute_type": "string_set", "string_set_value": [None, "a"], "attribute_path": "s"},
    ],
    ids=repr,
)
def test_columns_of_other_types_cost_no_other_run(tmp_path, crafted):
    """A Parquet file may have any type in any column: its run is told, the others recorded."""
    parquet = pytest.importorskip("pyarrow.parquet")
    exported(tmp_path, [point("loss", 1, 1.0)])
    exported(tmp_path, [point("loss", 1, 2.0)], run="A-other")
    path = tmp_path / "data" / "org_proj-12" / "A-other_part_0.parquet"
    row = parquet.read_table(path).to_pylist()[0] | {"run_id": "A-other"} | crafted
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist([row]), path)
    told = imported("neptune-export", tmp_path, tmp_path / "j")
    assert (told["exit_code"], told["runs"][-1]["points"]) == (4, 1)
