"""TensorBoard's event files: every kind of value, restarts, files that are written or damaged."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Journal
from journaltrack.cli import main
from journaltrack.errors import MissingExtraError
from journaltrack.importers import tensorboard
from journaltrack.importers.record import import_source

pytest.importorskip("tensorboard")
GOLDEN = Path(__file__).parents[1] / "golden" / "imports" / "torch"


def writer(folder, suffix=""):
    """TensorBoard's own writer of event files."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    return EventFileWriter(str(folder), filename_suffix=suffix)


def scalar(tag, value, step, time_s):
    """An event with a scalar of the old kind."""
    from tensorboard.compat.proto import event_pb2, summary_pb2

    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
    return event_pb2.Event(wall_time=time_s, step=step, summary=summary)


def written(folder, steps, suffix="", start=0):
    """An event file with a scalar per step."""
    with closing(writer(folder, suffix)) as file:
        for step in range(start, start + steps):
            file.add_event(scalar("loss", step / 2, step, 1_700_000_000.25 + step))
    return max(folder.glob(f"*{suffix}"))


def imported(path, journal):
    """What the command says of an import, as JSON, with its exit code."""
    done = CliRunner().invoke(
        main, ["import", "tensorboard", str(path), "-j", str(journal), "--json"]
    )
    return json.loads(done.stdout)


def left_out(told):
    """What was left out of all runs, by kind."""
    listed = [each for run in told["runs"] for each in run["left_out"]] + told["left_out"]
    return {each["what"]: each["count"] for each in listed}


def test_what_torch_wrote_is_taken_over(tmp_path):
    """Scalars of both kinds, hyper-parameters, text and the last image of a real SummaryWriter."""
    told = imported(GOLDEN, tmp_path / "j")
    assert told["exit_code"] == 0
    assert left_out(told) == {"image": 1, "histogram": 1}
    runs = {run.name: run for run in journaltrack.runs(tmp_path / "j")}
    assert set(runs) == {"torch", "torch-hp"}
    points = runs["torch"].metrics("loss/train")
    assert points.steps == [0, 1, 2, 3]
    assert points.values == [1.0, 0.5, struct.unpack("f", struct.pack("f", 1 / 3))[0], 0.25]
    assert points.times_ns == [(1_700_000_000 + step) * 10**9 for step in range(4)]
    assert runs["torch"].metrics("new").values == [0.0, 0.5, 1.0, 1.5]
    assert runs["torch"].metrics("double").values == [0.0, 0.1, 0.2, 0.1 * 3]
    assert runs["torch-hp"].parameters == {"act": "relu", "bias": 1, "layers": 2, "lr": 0.1}
    assert runs["torch-hp"].metrics("hparam/accuracy").values[0] == pytest.approx(0.9)
    assert runs["torch-hp"].status == "completed"
    kept = {
        each.name: next((tmp_path / "j" / "spool").rglob(each.sha256)).read_bytes()
        for each in runs["torch"].artifacts
    }
    assert kept["text/notes/text_summary.md"] == b"hello **world**"
    assert kept["images/digit.png"].startswith(b"\x89PNG")
    again = imported(GOLDEN, tmp_path / "j")
    assert (again["points"], again["known"]) == (0, 13)
    assert all(run["other_entries"] == 0 for run in again["runs"])


def test_runs_are_folders_named_as_tensorboard_names_them(tmp_path):
    """The root and each folder below with event files is a run; several files are one."""
    logs = tmp_path / "logs"
    written(logs, 3)
    written(logs / "eval", 2)
    written(logs / "a" / "b", 4, ".v1")
    written(logs / "a" / "b", 4, ".v2", start=4)
    (logs / "empty").mkdir()
    (logs / "notes.txt").write_text("no events")
    imported(logs, tmp_path / "j")
    found = {
        run.name: (run.tags["imported_id"], run.metrics["loss"].points)
        for run in journaltrack.runs(tmp_path / "j")
    }
    assert found == {"logs": ("logs", 3), "logs-eval": ("eval", 2), "logs-a-b": ("a/b", 8)}


def test_one_event_file_is_a_run_and_known_in_its_folder(tmp_path):
    """The path of a file imports it alone; the folder later adds nothing."""
    file = written(tmp_path / "exp", 5)
    assert imported(file, tmp_path / "j")["points"] == 5
    told = imported(tmp_path / "exp", tmp_path / "j")
    assert (told["points"], told["known"]) == (0, 5)


def test_a_file_that_is_cut_anywhere_gives_its_whole_records(tmp_path):
    """A live file's last record may be cut at any byte: the others come, then the rest, once."""
    logs = tmp_path / "logs"
    file = written(logs, 6)
    whole = file.read_bytes()
    record = len(whole) - len(whole[: whole.rindex(b"loss")])
    for cut in range(len(whole) - record - 40, len(whole)):
        file.write_bytes(whole[:cut])
        told = imported(logs, tmp_path / "j")
        assert told["exit_code"] == 0, (cut, told)
        assert told["points"] + told["known"] in {4, 5}
    file.write_bytes(whole)
    told = imported(logs, tmp_path / "j")
    assert told["points"] + told["known"] == 6
    (run,) = journaltrack.runs(tmp_path / "j")
    assert run.metrics("loss").steps == list(range(6))


@pytest.mark.parametrize("place", [8, 20])
def test_a_damaged_file_is_told_with_the_place(tmp_path, place):
    """A wrong checksum ends the file there, with exit code 4; other files are read."""
    logs = tmp_path / "logs"
    file = written(logs, 6, ".bad")
    written(logs, 3, ".good", start=10)
    content = bytearray(file.read_bytes())
    # The record before the last one, whose tag is 30 bytes behind its beginning or so.
    content[content.rindex(b"loss", 0, content.rindex(b"loss")) + place] ^= 0xFF
    file.write_bytes(content)
    told = imported(logs, tmp_path / "j")
    assert told["exit_code"] == 4
    (damage,) = told["runs"][0]["left_out"]
    assert "damaged from byte" in damage["why"]
    assert damage["is_harm"]
    assert told["points"] in {7, 8}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"hello, this is no event file at all", b"\x18"]
)
def test_what_is_no_event_file_is_told(tmp_path, content):
    """An empty, zeroed, foreign or just begun file makes no traceback and no point."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "events.out.tfevents.1").write_bytes(content)
    told = imported(logs, tmp_path / "j")
    assert told["points"] == 0
    assert left_out(told)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    """A tree from somebody else has no other files of this machine recorded; links are told."""
    outside = written(tmp_path / "outside", 3)
    logs = tmp_path / "logs"
    written(logs, 2)
    (logs / "sub").symlink_to(tmp_path / "outside")
    (logs / "x.tfevents").symlink_to(outside)
    told = imported(logs, tmp_path / "j")
    assert told["points"] == 2
    assert left_out(told) == {"folder": 1, "file": 1}


def test_values_of_every_kind_are_taken_or_told(tmp_path):
    """Tensors with one number are points; others, and what has no place, are counted by kind."""
    import numpy as np
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.util.tensor_util import make_tensor_proto

    def value(tag, array, plugin=""):
        metadata = summary_pb2.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        return summary_pb2.Summary.Value(
            tag=tag, tensor=make_tensor_proto(array), metadata=metadata
        )

    values = [
        value("int", np.int64(7), "scalars"),
        value("half", np.float16(0.5), "scalars"),
        value("bool", np.array([True]), "scalars"),
        value("many", np.zeros(3), "scalars"),
        value("plain", np.float32(2.0)),
        value("curve", np.zeros((2, 3)), "pr_curves"),
        value("mesh", np.zeros(3), "mesh"),
        summary_pb2.Summary.Value(tag="nan", simple_value=float("nan")),
        summary_pb2.Summary.Value(tag="\n", simple_value=1.0),
        summary_pb2.Summary.Value(tag="audio", audio=summary_pb2.Summary.Audio()),
        summary_pb2.Summary.Value(tag="nothing"),
    ]
    with closing(writer(tmp_path / "logs")) as file:
        file.add_event(
            event_pb2.Event(wall_time=1.7e9, step=1, summary=summary_pb2.Summary(value=values))
        )
        file.add_event(scalar("negative", 1.0, -1, 1.7e9))
        file.add_event(event_pb2.Event(wall_time=1.7e9, graph_def=b"g"))
    told = imported(tmp_path / "logs", tmp_path / "j")
    (run,) = journaltrack.runs(tmp_path / "j")
    assert {name: each.last for name, each in run.metrics.items() if name != "nan"} == {
        "int": 7.0,
        "half": 0.5,
        "bool": 1.0,
        "plain": 2.0,
    }
    assert told["runs"][0]["not_finite"] == 1
    assert left_out(told) == {
        "tensor": 1,
        "pr_curve": 1,
        "mesh": 1,
        "audio": 1,
        "empty value": 1,
        "point": 1,
        "graph": 1,
    }


def test_crafted_values_cost_no_memory_and_no_other_value(tmp_path):
    """A tensor that claims a billion elements, and hyper-parameters that are none, are told."""
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2

    def value(plugin, content=b""):
        size = tensor_shape_pb2.TensorShapeProto.Dim(size=10**12)
        metadata = summary_pb2.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        metadata.plugin_data.content = content
        tensor = tensor_pb2.TensorProto(
            dtype=2, double_val=[1.0], tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[size])
        )
        return summary_pb2.Summary.Value(tag=plugin, tensor=tensor, metadata=metadata)

    values = [value("scalars"), value("text"), value("hparams", b"\xff\xff")]
    with closing(writer(tmp_path / "logs")) as file:
        file.add_event(event_pb2.Event(wall_time=1.7e9, summary=summary_pb2.Summary(value=values)))
        file.add_event(scalar("loss", 1.0, 1, 1.7e9))
    told = imported(tmp_path / "logs", tmp_path / "j")
    assert (told["points"], told["exit_code"]) == (1, 4)
    assert left_out(told) == {"tensor": 1, "value": 1}


def test_a_folder_is_followed_while_it_is_written(tmp_path):
    """Each poll records what is new, of new files and folders too; a second follower knows all."""
    logs = tmp_path / "logs"
    with closing(Journal.open(tmp_path / "j")) as journal:
        component = journal.component("live")
        follower = tensorboard.Follower(logs, journal, component, "live")
        assert follower.poll() == 0
        file = writer(logs)
        for step in range(5):
            file.add_event(scalar("loss", step, step, 1.7e9 + step))
        file.flush()
        assert follower.poll() == 5
        assert follower.poll() == 0
        file.add_event(scalar("loss", 5, 5, 1.7e9 + 5))
        file.close()
        written(logs / "eval", 2)
        assert follower.poll() == 3
        again = tensorboard.Follower(logs, journal, component, "live")
        assert again.finish() == 0
        assert again.told.known == 8
    (run,) = journaltrack.runs(tmp_path / "j")
    assert {name: each.points for name, each in run.metrics.items()} == {"loss": 6, "eval/loss": 2}


def test_a_follower_ignores_files_of_earlier_runs(tmp_path):
    """Event files that were last changed before its time are not those of this run."""
    written(tmp_path / "logs", 4)
    with closing(Journal.open(tmp_path / "j")) as journal:
        component = journal.component("live")
        late = tensorboard.Follower(
            tmp_path / "logs", journal, component, "live", is_ours=lambda _: False
        )
        assert late.finish() == 0


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    """The error says what to install, and nothing is imported."""
    written(tmp_path / "logs", 1)
    name = "tensorboard.backend.event_processing.event_file_loader"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="nothing was imported") as raised:
        tensorboard.find(tmp_path / "logs")
    assert "journaltrack[tensorboard]" in raised.value.hint


def test_a_moved_log_folder_adds_nothing(tmp_path):
    """The same event files somewhere else are the same runs."""
    shutil.copytree(GOLDEN, tmp_path / "elsewhere")
    import_source(tensorboard.find(GOLDEN), tmp_path / "j")
    done = import_source(tensorboard.find(tmp_path / "elsewhere"), tmp_path / "j")
    assert [(run.name, run.points) for run in done.runs] == [("torch", 0), ("torch-hp", 0)]
