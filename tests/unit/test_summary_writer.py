"""The writer that stands for torch's SummaryWriter, without torch and TensorBoard."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from journaltrack import JournaltrackWarning, Tracker
from journaltrack.integrations.tensorboard import SummaryWriter
from journaltrack.testing import OfflineJournal


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return OfflineJournal(tmp_path / "journal")


@pytest.fixture
def writer(offline):
    """A writer of the run "run"; closed at the end."""
    made = SummaryWriter(trial_component_name="run", journal=offline.path, sync="off")
    yield made
    made.close()


def points(offline, name, run="run"):
    return [(each.step, each.value) for each in offline.run(run).metrics.get(name, ())]


def test_neither_torch_nor_tensorboard_is_imported():
    """The module works where none of them is installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['tensorboard'] = sys.modules['numpy'] = "
        "None; from journaltrack.integrations.tensorboard import SummaryWriter; SummaryWriter()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scalars_are_points_of_one_run(writer, offline):
    """Where torch's writer makes a folder for each tag, here are names below the main tag."""
    writer.add_scalar("loss", 0.1, 1)
    writer.add_scalar("loss", scalar_value=0.05, global_step=2, new_style=True)
    writer.add_scalar("no step", 3)
    writer.add_scalars("acc", {"train": 0.5, "val": 0.25}, 2)
    assert offline.runs() == ["run"]
    assert points(offline, "loss") == [(1, 0.1), (2, 0.05)]
    assert points(offline, "no step") == [(None, 3.0)]
    assert points(offline, "acc/train") == [(2, 0.5)]
    assert points(offline, "acc/val") == [(2, 0.25)]


@pytest.mark.parametrize(
    ("given", "step"), [(2.0, 2), (2.7, None), (True, None), ("5", None), (-3, None)]
)
def test_a_step_follows_the_rule_of_all_steps(writer, offline, given, step):
    """A whole float counts; what ``log_metric`` refuses is left out, and told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JournaltrackWarning)
        writer.add_scalar("loss", 0.5, given)
    assert points(offline, "loss") == [(step, 0.5)]


def test_walltime_is_the_time_of_the_point(writer, offline):
    """Seconds since the epoch; an impossible one costs no point."""
    writer.add_scalar("loss", 0.5, 1, walltime=1_700_000_000.25)
    with pytest.warns(JournaltrackWarning, match="time"):
        writer.add_scalar("loss", 0.25, 2, walltime=-1)
    times = [each.timestamp_ns for each in offline.run("run").metrics["loss"]]
    assert times[0] == 1_700_000_000_250_000_000
    assert times[1] > times[0]


def test_hyperparameters_make_no_second_run(writer, offline):
    """They are parameters of this run, with None, NaN and text; their metrics are points, without a
    step of step 0, as TensorBoard shows them.
    """
    writer.add_hparams({"lr": 0.1, "optimizer": "sgd"}, {"best": 0.5}, run_name="x", global_step=3)
    writer.add_hparams({"lr": 0.1}, {})
    writer.add_hparams({"lr": 0.1}, {"last": 0.25})
    run = offline.run("run")
    assert run.parameters == {"lr": 0.1, "optimizer": "sgd"}
    assert points(offline, "best") == [(3, 0.5)]
    assert points(offline, "last") == [(0, 0.25)]
    assert offline.runs() == ["run"]


def test_media_are_artifacts_of_their_step(writer, offline):
    """Texts, images, batches and histograms; the name says the form, and the last one counts."""
    ramp = np.linspace(0, 1, 12)
    writer.add_text("notes", "**bold**", 1)
    writer.add_image("gray", ramp.reshape(1, 3, 4), 1)
    writer.add_image("colour.weight", np.zeros((3, 5, 4), dtype=np.uint8), 2)
    writer.add_image("flat", ramp.reshape(3, 4) * 2, dataformats="HW")
    writer.add_images("batch", np.zeros((2, 3, 5, 4)), 3)
    writer.add_histogram("weights", [*ramp, float("nan")], 4, max_bins=4)
    writer.add_histogram("weights", [0.0, 1.0], 5, bins=2)
    outputs = offline.run("run").outputs
    kinds = {name: each.media_type for name, each in outputs.items()}
    assert kinds == {
        "notes.md": "text/markdown",
        "gray.png": "image/png",
        "colour.weight.png": "image/png",
        "flat.png": "image/png",
        "batch.png": "image/png",
        "weights.json": "application/json",
    }
    content = {name: Path(each.value).read_bytes() for name, each in outputs.items()}
    assert content["notes.md"] == b"**bold**"
    # Width and height, in the header of a PNG.
    sizes = {name: struct.unpack(">II", content[name][16:24]) for name in content if "png" in name}
    assert sizes["gray.png"] == sizes["flat.png"] == (4, 3)
    assert sizes["colour.weight.png"] == (4, 5)
    assert sizes["batch.png"] == (8, 5)
    assert json.loads(content["weights.json"])["counts"] == [1, 1]


class Drawing:
    """Saves itself as matplotlib's figures do."""

    def savefig(self, target, **_):
        target.write(b"drawn")


def test_figures_are_artifacts(writer, offline):
    """One by its tag, several by their numbers."""
    writer.add_figure("curve", Drawing(), 1)
    writer.add_figure("curves", [Drawing(), Drawing()], 2)
    with pytest.warns(JournaltrackWarning, match="figure"):
        writer.add_figure("none", object())
    assert set(offline.run("run").outputs) == {"curve.png", "curves/0.png", "curves/1.png"}


@pytest.mark.parametrize("image", ["text", None, [[1], [1, 2]], np.array(["x"])])
def test_media_of_another_shape_end_nothing(writer, offline, image):
    """They are left out, with one warning; so is a histogram of no numbers."""
    with pytest.warns(JournaltrackWarning, match="image"):
        writer.add_image("wrong", image, 1)
    with pytest.warns(JournaltrackWarning, match="wrong.json"):
        writer.add_histogram("wrong", ["a", "b"], 1)
    writer.add_scalar("loss", 0.5, 1)
    assert points(offline, "loss") == [(1, 0.5)]
    assert offline.run("run").outputs == {}


def test_what_has_no_place_is_left_out_with_one_warning(writer, offline):
    """Any other add_ method, also one of a future version, is taken and told of once."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            writer.add_graph(object(), [1])
            writer.add_of_the_future("tag", 1, global_step=2)
    assert len(told) == 2
    assert not hasattr(writer, "remove_scalar")
    assert not offline.path.exists()


def test_values_that_are_no_numbers_end_nothing(writer, offline):
    """A blob's name, None or a list is left out; the next point is recorded."""
    with pytest.warns(JournaltrackWarning):
        writer.add_scalars("x", {"text": "blob", "none": None, "list": [1, 2], "good": 1.0}, 1)
    assert points(offline, "x/good") == [(1, 1.0)]


def test_close_ends_the_run_and_a_later_call_continues_it(writer, offline):
    """As of torch's writer, a call after close is recorded."""
    writer.add_scalar("loss", 0.5, 1)
    writer.close()
    writer.close()
    assert offline.run("run").status == "Completed"
    writer.add_scalar("loss", 0.25, 2)
    assert offline.run("run").status == "InProgress"
    writer.flush()
    writer.close()
    assert offline.run("run").status == "Completed"
    assert points(offline, "loss") == [(1, 0.5), (2, 0.25)]


def test_the_with_block_tells_of_an_exception(offline):
    """The run becomes Failed with its message."""
    writer = SummaryWriter(trial_component_name="run", journal=offline.path, sync="off")
    writer.add_scalar("loss", 0.5, 1)
    with pytest.raises(ValueError), writer:
        raise ValueError("boom")
    assert (offline.run("run").status, offline.run("run").message) == ("Failed", "boom")


def test_a_folder_names_the_run_and_is_made_when_asked_for(offline, tmp_path):
    """Scripts write checkpoints into the writer's folder; the writer itself makes none."""
    writer = SummaryWriter("runs/resnet_18", journal=offline.path, sync="off")
    writer.add_scalar("loss", 0.5, 1)
    assert not (tmp_path / "runs").exists()
    assert writer.get_logdir() == writer.log_dir == "runs/resnet_18"
    assert (tmp_path / "runs" / "resnet_18").is_dir()
    writer.close()
    (name,) = offline.runs()
    assert name.startswith("resnet-18-")
    assert SummaryWriter(comment="_lr0.1", journal=offline.path).run_name.startswith("lr0-1-")


def test_a_tracker_that_was_given_stays_open(offline):
    """Its status and end are the caller's."""
    with Tracker.create(trial_component_name="run", journal=offline.path, sync="off") as tracker:
        with SummaryWriter(tracker=tracker) as writer:
            writer.add_scalar("loss", 0.5, 1)
        assert offline.run("run").status == "InProgress"
    assert points(offline, "loss") == [(1, 0.5)]


def test_other_ranks_record_nothing(offline, monkeypatch):
    """Of a job that torchrun starts, only rank zero makes the run."""
    monkeypatch.setenv("RANK", "1")
    writer = SummaryWriter(trial_component_name="run", journal=offline.path, sync="off")
    writer.add_scalar("loss", 0.5, 1)
    writer.add_hparams({"lr": 1}, {"a": 1})
    writer.flush()
    writer.close()
    assert not offline.path.exists()


SCRIPT = """
import os, signal, sys
from journaltrack.integrations.tensorboard import SummaryWriter
writer = SummaryWriter(trial_component_name="run", resume=True, journal="journal", sync="off")
for step in range(int(sys.argv[1]), 10):
    writer.add_scalar("loss", 1 / (step + 1), step)
    if step == 5 and sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 5 and sys.argv[2] == "raise":
        raise ValueError("boom")
"""


@pytest.mark.slow
def test_a_killed_script_is_resumed(offline, tmp_path):
    """Each value before SIGKILL and after it is in one run; a script without close is Completed."""
    for first, how, code in ((0, "kill", -signal.SIGKILL), (6, "end", 0)):
        command = [sys.executable, "-c", SCRIPT, str(first), how]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, check=False)
        assert done.returncode == code
    assert points(offline, "loss") == [(step, 1 / (step + 1)) for step in range(10)]
    assert offline.run("run").status == "Completed"


@pytest.mark.slow
def test_a_script_that_raises_is_failed(offline, tmp_path):
    """Nobody closes the writer, and the run says why the script ended."""
    command = [sys.executable, "-c", SCRIPT, "0", "raise"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    assert (offline.run("run").status, offline.run("run").message) == ("Failed", "boom")


@pytest.mark.parametrize("given", [None, 5, "loss", [("a", 1)]])
def test_what_is_no_mapping_ends_nothing(writer, offline, given):
    """A call with something else than a mapping is left out, and the next one is recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JournaltrackWarning)
        writer.add_scalars("acc", given, 1)
        writer.add_hparams(given, given)
    writer.add_scalars("acc", {"val": 0.5}, 2)
    assert points(offline, "acc/val") == [(2, 0.5)]
