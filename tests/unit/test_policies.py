"""The IAM policy of docs/artifacts.md: its statements suffice for their features, with nothing else
allowed, and each action that they allow is used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.compat.smexperiments.experiment import Experiment
from tests.simulator import CutAfter, simulator

PAGE = Path(__file__).parents[2] / "docs" / "artifacts.md"
BUCKET = "my-bucket"
OF_S3 = {
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "UploadPart": "PutObject",  # how `check --access` tries it
}
# Uploads in parts have a test of their own: tests/contract/test_multipart.py. So has reading back:
# tests/unit/test_readback.py.
ELSEWHERE = {"ContinueLargeUploads", "ReadStepsInDoubt"}


def statements():
    """The actions of each statement, without their service."""
    (policy,) = [
        json.loads(block.split("```")[0])
        for block in PAGE.read_text(encoding="utf-8").split("```json\n")[1:]
    ]
    return {
        each["Sid"]: {
            action.partition(":")[2]
            for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
        }
        for each in policy["Statement"]
    }


class Except:
    """Every operation but those that a policy allows, and STS's."""

    def __init__(self, allowed):
        self.allowed = {*allowed, "GetCallerIdentity"}

    def __contains__(self, operation):
        return OF_S3.get(operation, operation) not in self.allowed


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """An AWS, and the environment of somebody who may use it."""
    monkeypatch.chdir(tmp_path)
    with simulator() as sim:
        for name, value in {
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "AWS_ACCESS_KEY_ID": "good",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "JOURNALTRACK_SYNC": "off",
            "JOURNALTRACK_LINEAGE": "off",
            "JOURNALTRACK_JOURNAL": "journal",
        }.items():
            monkeypatch.setenv(name, value)
        yield sim
        assert sim.bugs == []


def run(journal, **members):
    with Tracker.create(trial_component_name="run", journal=journal, resume=True, **members) as it:
        it.log_parameter("lr", 0.1)
        it.log_metric("loss", 0.5, step=1)


def every_run(aws):
    run("journal")
    yield "journal"
    Tracker.load("run", journal="another").log_metric("loss", 0.4, step=2)
    yield "another"


def experiments(aws):
    for journal in ("journal", "another"):
        run(journal, experiment_name="digits")
        yield journal


def descriptions(aws):
    for journal in ("journal", "another"):
        os.environ["JOURNALTRACK_JOURNAL"] = journal
        experiment = Experiment.create("digits", description=f"as {journal} says")
        trial = experiment.create_trial("first")
        trial.display_name = f"First of {journal}"
        trial.save()
        run(journal)
        trial.add_trial_component("run")
        trial.remove_trial_component("run")
        yield journal


def tags(aws):
    run("journal", tags={"team": "vision"})
    with Tracker.load("run", journal="journal") as it:
        it.set_tags({"stage": "rejected"})
    yield "journal"


def artifact(aws):
    Path("model.bin").write_bytes(b"weights")
    with Tracker.create(
        trial_component_name="run", journal="journal", artifact_bucket=BUCKET
    ) as it:
        it.log_artifact("model.bin")


def artifacts(aws):
    aws.buckets.add(BUCKET)
    artifact(aws)
    yield "journal"
    Path("model.bin").write_bytes(b"others")
    with Tracker.load("run", journal="journal", artifact_bucket=BUCKET) as it:
        it.log_artifact("model.bin")
    yield "journal"


def new_bucket(aws):
    artifact(aws)
    yield "journal"


def lineage(aws):
    aws.buckets.add(BUCKET)
    artifact(aws)
    aws.fail("CreateArtifact", CutAfter())
    yield "journal"


FEATURES = {
    "EveryRun": (every_run, ()),
    "ExperimentsAndTrials": (experiments, ()),
    "TheirDescriptions": (descriptions, ("ExperimentsAndTrials",)),
    "Tags": (tags, ()),
    "Artifacts": (artifacts, ()),
    "NewBucket": (new_bucket, ("Artifacts",)),
    "Lineage": (lineage, ("Artifacts",)),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_statement_suffices_and_allows_nothing_that_is_not_used(aws, monkeypatch, feature):
    """With every other operation denied, `check --access` has nothing to say, and everything is
    delivered; each of its actions is used by one of them.
    """
    known = statements()
    scenario, also = FEATURES[feature]
    if feature == "Lineage":
        monkeypatch.setenv("JOURNALTRACK_LINEAGE", "on")
    allowed = set().union(*(known[each] for each in ("EveryRun", feature, *also)))
    aws.access.denied_operations = Except(allowed)
    for journal in scenario(aws):
        tried = CliRunner().invoke(main, ["check", "--access", journal])
        assert tried.exit_code == 0, tried.output
        report = journaltrack.sync(journal)
        assert (report.pending, report.halted, report.held) == (0, None, {})
    used = {OF_S3.get(each.operation, each.operation) for each in aws.requests}
    assert known[feature] <= used


def test_every_statement_is_tried(aws):
    """A statement that is added to the page needs a scenario here, or a test elsewhere."""
    assert set(statements()) == {*FEATURES, *ELSEWHERE, "CheckRemote"}


def test_a_check_of_the_remote_needs_one_statement_more(aws, monkeypatch):
    """With those of what was delivered, and CheckRemote's, everything is looked at."""
    monkeypatch.setenv("JOURNALTRACK_LINEAGE", "on")
    aws.buckets.add(BUCKET)
    run("journal", experiment_name="digits")
    with Tracker.load("run", journal="journal", artifact_bucket=BUCKET) as it:
        it.set_tags({"stage": "rejected"})
        it.log_text("It works.", "notes.txt")
    assert journaltrack.sync("journal").pending == 0
    known = statements()
    mine = ("EveryRun", "Artifacts", "Lineage", "CheckRemote")
    aws.access.denied_operations = Except(set().union(*(known[each] for each in mine)))
    before = len(aws.requests)
    assert journaltrack.verify("journal").verified
    assert known["CheckRemote"] <= {each.operation for each in aws.requests[before:]}
