"""Scripts with the calls of public ones: run offline, synced, and compared with what the original
libraries did in AWS. ``recording`` says how that was recorded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests import warm
from tests.e2e import recording
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, sync_process
from tests.simulator import HttpError, simulator

pytestmark = pytest.mark.lineage

RECORDED = json.loads(recording.RECORDED.read_text())

UNSENDABLE = "run_failing"
"""Logs infinity, which the originals drop. Ours keep it, in an artifact that theirs have not."""

OTHER_KEYS = {
    "tracker_files": {"settings.yaml": "settings", "weights.bin": "weights", "loss.txt": "loss"}
}
"""Where a tracker's objects have the artifact's name, and the original's the file's."""


def test_every_script_is_recorded():
    """Eight scripts, four for each library."""
    scripts = sorted(path.stem for path in recording.SCRIPTS.glob("*.py"))
    assert scripts == sorted(RECORDED)
    assert [len([s for s in scripts if s.startswith(k)]) for k in ("run_", "tracker_")] == [4, 4]


@pytest.fixture(autouse=True)
def charts():
    """Scripts with charts start as quickly as others."""
    warm.preload("sklearn.metrics")


def offline(folder, *command, start=warm.Popen, **options):
    """Start Python in a folder, with the journal there, where nothing can be reached."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"JOURNALTRACK_JOURNAL": str(folder / "journal"), "JOURNALTRACK_SYNC": "off"}
    return start(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def synced(folder, sim, code=0):
    """Deliver the folder's journal, with this exit code."""
    sync = sync_process(folder / "journal", sim.endpoint_url)
    _, errors = sync.communicate()
    assert sync.returncode == code, errors


@pytest.mark.parametrize("script", sorted(RECORDED))
def test_a_script_does_in_aws_what_the_original_library_did(script, tmp_path):
    """The requests of its sync, field by field: names, tags, display names, status, parameters,
    artifacts, points, objects with their keys and contents, and lineage. So does what it prints.
    """
    with simulator() as sim:
        recording.prepare(sim)
        done = offline(tmp_path, recording.SCRIPTS / f"{script}.py")
        output, errors = done.communicate()
        assert done.returncode == 0, errors
        synced(tmp_path, sim)
        found = recording.effect(sim, output)
        count = len(sim.requests)
        synced(tmp_path, sim)
        assert len(sim.requests) == count
    if script == UNSENDABLE:
        for component in found["UpdateTrialComponent"].values():
            assert component.pop("OutputArtifacts").keys() == {"parameters.json"}
    expected = json.dumps(RECORDED[script])
    for theirs, ours in OTHER_KEYS.get(script, {}).items():
        expected = expected.replace(f"/{theirs}", f"/{ours}")
    assert found == json.loads(expected)


KILLED = """
import sys
from journaltrack.compat.sagemaker import Run

with Run("Killed", "In-The-Block", "Shown", tags={"team": "vision"}) as run:
    run.log_parameters({"lr": 0.1, "optimizer": "adam"})
    for step in range(25):
        run.log_metric("loss", 1.0 / (step + 1), step=step)
    run.log_artifact("data", "s3://b/d", is_output=False)
    print("all of it is logged", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_is_killed_in_its_block_loses_nothing(tmp_path):
    """SIGKILL: all that was logged arrives, with the experiment's name and tags; the status tells
    that the run was not completed.
    """
    process = offline(tmp_path, "-c", KILLED, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "all of it is logged\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with simulator() as sim:
        synced(tmp_path, sim)
        held = sim.components["killed-in-the-block"]
        assert held.status["PrimaryStatus"] == "Stopped"
        assert held.parameters == {
            "lr": {"NumberValue": 0.1},
            "optimizer": {"StringValue": "adam"},
        }
        assert sorted(point.step for point in held.metrics) == list(range(25))
        assert held.input_artifacts == {"data": {"Value": "s3://b/d"}}
        assert held.tags == {"team": "vision", "sagemaker:trial-component-source": "run"}
        assert sim.experiments["killed"].display_name == "Shown"
        assert sim.experiments["killed"].tags == {"team": "vision"}


OPENED = """
from journaltrack.compat.sagemaker import Run
import os, signal
with Run("Killed", "Open") as run:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_run_in_its_block_is_told_to_be_within_it(tmp_path):
    """A sync beside the run sends the original's status message, and the end later."""
    process = offline(tmp_path, "-c", OPENED, start=subprocess.Popen)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    with simulator() as sim:
        synced(tmp_path, sim)
        status = dict(sim.components["killed-open"].status)
        assert status == {"PrimaryStatus": "InProgress", "Message": "Within a run context"}
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        synced(tmp_path, sim)
        assert sim.components["killed-open"].status == {"PrimaryStatus": "Completed"}


SAME_NAMES = """
from pathlib import Path
from journaltrack.compat.sagemaker import Run
with Run("Files", "run", artifact_bucket="the-bucket") as run:
    for folder in ("best", "last"):
        Path(folder).mkdir()
        Path(folder, "model.bin").write_text(folder)
        run.log_file(f"{folder}/model.bin", name=folder)
"""


def test_files_of_one_name_are_both_kept(tmp_path):
    """The original overwrites the first. Here its key is the original's, and the other's has a part
    of its digest; each artifact has the address of its own content.
    """
    _, errors = offline(tmp_path, "-c", SAME_NAMES).communicate()
    assert not errors
    with simulator() as sim:
        recording.prepare(sim)
        synced(tmp_path, sim)
        assert ("the-bucket", "trial-component-artifacts/files-run/model.bin") in sim.objects
        held = {
            name: sim.objects[tuple(each["Value"].removeprefix("s3://").split("/", 1))].body
            for name, each in sim.components["files-run"].output_artifacts.items()
        }
    assert held == {"best": b"best", "last": b"last"}


BAD_INPUT = """
import sys
import warnings
from journaltrack.compat.sagemaker import Run

warnings.simplefilter("ignore")
nan, many = float("nan"), list(range(10_000))
with Run("Bad", "input", artifact_bucket="the-bucket") as run:
    run.log_parameter("first", 1)
    run.log_confusion_matrix([0, 1], [0, 1], title="Matrix for Churn, v2.0 (größer)")
    for attempt in (
        lambda: run.log_confusion_matrix(many, many, title="many"),
        lambda: run.log_roc_curve([0, 1], [nan, 0.5], title="nan"),
        lambda: run.log_precision_recall([0, 1], [object(), 1], title="objects"),
        lambda: run.log_file("nowhere.bin"),
        lambda: run.log_metric("loss", 1.0, step=1.5),
    ):
        try:
            attempt()
        except (ValueError, TypeError) as error:
            print(type(error).__name__)
    sys.modules["sklearn"] = None
    try:
        run.log_roc_curve([0, 1], [0.1, 0.9], title="none")
    except ImportError as error:
        print(error.hint)
    run.log_metric("loss", 0.5, step=1)
    run.log_parameter("last", 2)
"""


def test_bad_input_costs_nothing_but_itself(tmp_path):
    """Each call tells its error; what was logged before and after it arrives, with a title that
    breaks SageMaker's patterns.
    """
    output, errors = offline(tmp_path, "-c", BAD_INPUT).communicate()
    assert not errors
    assert output.splitlines() == [
        "InvalidInputError",
        "InvalidInputError",
        "InvalidTypeError",
        "ArtifactError",
        "InvalidInputError",
        "pip install 'journaltrack[charts]'",
    ]
    with simulator() as sim:
        recording.prepare(sim)
        synced(tmp_path, sim)
        held = sim.components["bad-input"]
        assert held.parameters == {"first": {"NumberValue": 1}, "last": {"NumberValue": 2}}
        assert [point.value for point in held.metrics] == [0.5]
        assert held.status == {"PrimaryStatus": "Completed"}
        (artifact,) = sim.lineage.artifacts.values()
        assert (artifact.name, artifact.type) == ("Matrix-for-Churn-v2-0-groer", "ConfusionMatrix")


BEGUN = """
from journaltrack.compat.sagemaker import Run
with Run("Shared", "run") as run:
    run.log_parameter("rows", 1)
"""
CONTINUED = """
from journaltrack.compat.sagemaker import list_runs, load_run
with load_run("run", "Shared") as run:
    run.log_parameter("lr", 0.1)
print([run.run_name for run in list_runs("shared")])
"""


def test_a_run_goes_on_where_another_machine_began_it(tmp_path, monkeypatch):
    """A journal that does not know the run looks it up: its start stays, and what it had. A third
    machine lists it.
    """
    with simulator() as sim:
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        monkeypatch.setenv("JOURNALTRACK_LOOKUP_DEADLINE_S", "600")  # however slow the machine
        outputs, starts = [], set()
        for folder, program in (("one", BEGUN), ("two", CONTINUED), ("three", CONTINUED)):
            monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / folder))
            command = [sys.executable, "-c", program]
            done = warm.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
            starts.add(sim.components["shared-run"].start_time)
        assert outputs == ["", "['run']\n", "['run']\n"]
        assert len(starts) == 1
        held = sim.components["shared-run"]
        assert held.parameters == {"rows": {"NumberValue": 1}, "lr": {"NumberValue": 0.1}}
        assert held.status == {"PrimaryStatus": "Completed"}
        assert sim.trials["Default-Run-Group-shared"].components == ["shared-run"]


EXISTS = """
from journaltrack.compat.sagemaker import Run
with Run("Known", "again", "Other", "Another", tags={"team": "new", "more": "x"}) as run:
    run.log_parameter("lr", 0.1)
"""


def test_what_exists_keeps_its_display_names_and_tags(tmp_path):
    """As in the original, they are for a new experiment, a new run group and a new run."""
    with simulator() as sim:
        aws = recording.client(sim, "sagemaker")
        tags = [{"Key": "team", "Value": "old"}]
        aws.create_experiment(ExperimentName="known", DisplayName="Theirs", Tags=tags)
        aws.create_trial(
            TrialName="Default-Run-Group-known", ExperimentName="known", DisplayName="Group"
        )
        aws.create_trial_component(
            TrialComponentName="known-again", DisplayName="Theirs", Tags=tags
        )
        done = offline(tmp_path, "-c", EXISTS)
        _, errors = done.communicate()
        assert done.returncode == 0, errors
        synced(tmp_path, sim)
        group, run = sim.trials["Default-Run-Group-known"], sim.components["known-again"]
        experiment = sim.experiments["known"]
        assert (experiment.display_name, experiment.tags) == ("Theirs", {"team": "old"})
        assert (group.display_name, group.tags) == ("Group", {})
        assert (run.display_name, run.tags) == ("Theirs", {"team": "old"})
        assert run.parameters == {"lr": {"NumberValue": 0.1}}
        assert group.components == ["known-again"]


def test_an_experiment_is_made_with_its_name_and_tags_before_anything_else_makes_it(tmp_path):
    """No request of the pass overtakes the experiment's declaration: its trial's would make the
    experiment without them.
    """
    overtook = threading.Event()

    def watch(call):
        if not call.operation.startswith("Create"):
            return
        if call.operation == "CreateExperiment" and "DisplayName" in call.params:
            # Held until another request overtakes it; in vain, if none may.
            overtook.wait(FOREVER_S / 1000)
        elif not any(r.operation == "CreateExperiment" for r in sim.requests):
            overtook.set()

    done = offline(tmp_path, "-c", EXISTS)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    with simulator() as sim:
        sim.on_request = watch
        synced(tmp_path, sim)
        assert not overtook.is_set()
        experiment = sim.experiments["known"]
        assert (experiment.display_name, experiment.tags) == ("Other", {"team": "new", "more": "x"})


def test_an_experiment_that_could_not_be_made_for_now_gets_its_name_and_tags(tmp_path):
    """A sync whose declarations are throttled makes none bare by the run's association; the run
    itself arrives, and the next sync makes all of it.
    """
    done = offline(tmp_path, "-c", EXISTS)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    with simulator() as sim:
        throttled = HttpError(400, "ThrottlingException", "Rate exceeded")
        sim.fail("CreateExperiment", throttled, times=99, when=lambda c: "Tags" in c.params)
        synced(tmp_path, sim, 6)
        assert sim.components["known-again"].parameters == {"lr": {"NumberValue": 0.1}}
        assert not list(sim.experiments)
        sim.clear_faults()
        synced(tmp_path, sim)
        experiment = sim.experiments["known"]
        group = sim.trials["Default-Run-Group-known"]
        assert (experiment.display_name, experiment.tags) == ("Other", {"team": "new", "more": "x"})
        assert (group.tags, group.components) == (experiment.tags, ["known-again"])
