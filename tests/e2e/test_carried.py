"""A journal that is carried from an air-gapped node to a connected machine, and the receipts
that are carried back.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import boto3
import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import BundleDamagedError
from journaltrack.reports.report import audit
from journaltrack.transfer.bundle.arrival import bring
from tests.copies import verify_chains
from tests.simulator import simulator


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """A strict AWS, and a connected machine with credentials and a home of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "machine"))
    with simulator() as sim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sim.endpoint_url)
        yield sim


def run(*arguments, code=0):
    """A command's output; it ends with this code."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, (arguments, done.output, done.exception)
    return done.output


def put(uri, content):
    """Put an object into S3, as a person does."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def train(tmp_path, steps):
    """Some of a run on the node, with a checkpoint."""
    with Tracker.create(
        trial_component_name="airgap", resume=True, journal=tmp_path / "node", sync="off"
    ) as tracker:
        for step in steps:
            tracker.log_metric("loss", 1.0 / (step + 1), iteration_number=step)
        (tmp_path / "model.bin").write_bytes(b"weights" * (1 + steps[0]))
        tracker.log_artifact(str(tmp_path / "model.bin"))


def points(sim):
    """Steps that AWS has, as often as it has them."""
    return sorted(point.step for point in sim.components["airgap"].metrics)


def carry(tmp_path, name):
    """Bundle on the node, deliver on the machine, bring the receipts back; what the machine
    said.
    """
    run("bundle", tmp_path / "node", "-o", tmp_path / f"{name}.bundle")
    said = json.loads(
        CliRunner().invoke(main, ["sync", "--json", str(tmp_path / f"{name}.bundle")]).stdout
    )["journals"][0]
    run("receipts", "export", said["journal"], "-o", tmp_path / f"{name}.receipts")
    run("receipts", "import", tmp_path / f"{name}.receipts", tmp_path / "node")
    return said


def journals(place):
    """All that is in the folder of journals that arrive, without the empty files by whose locks
    processes take turns.
    """
    locks = {path for path in place.iterdir() if path.name.endswith(".lock")}
    found = sorted(set(place.iterdir()) - locks)
    assert locks <= {path.with_name(f".{path.name}.lock") for path in found}
    assert all(path.is_file() and path.stat().st_size == 0 for path in locks)
    return found


def test_what_is_carried_there_and_back_is_delivered_once(tmp_path, aws):
    """Two bundles of a run that goes on: every point arrives once, and the node knows it, proves
    it, and may prune at its operator's word.
    """
    train(tmp_path, range(25))
    first = carry(tmp_path, "monday")
    assert audit(tmp_path / "node").all_delivered
    train(tmp_path, range(25, 40))
    assert audit(tmp_path / "node").totals.pending > 15
    second = carry(tmp_path, "tuesday")
    assert (
        first["journal"]
        == second["journal"]
        == str(tmp_path / "machine" / "bundles" / first["journal_id"])
    )
    assert points(aws) == list(range(40))
    assert audit(tmp_path / "node").all_delivered
    assert {held.body for held in aws.artifacts.values()} == {b"weights", b"weights" * 26}
    for folder in (tmp_path / "node", second["journal"]):
        assert verify_chains(folder) == []
    assert "everything that was delivered is there" in run("check", "--remote", tmp_path / "node")
    assert "removed 0 entries" in run(
        "prune", tmp_path / "node", "--delivered-before", "2100-01-01"
    )
    assert "removed 42 entries" in run(
        "prune", tmp_path / "node", "--delivered-before", "2100-01-01", "--trust", "all"
    )
    assert verify_chains(tmp_path / "node") == []
    train(tmp_path, range(40, 50))
    third = carry(tmp_path, "wednesday")
    assert points(aws) == list(range(50))
    # the copy still has what was removed at the node
    for folder in (tmp_path / "node", third["journal"]):
        assert verify_chains(folder) == []
        assert "compared 1 component, 0 parameters, 1 artifact, 50 points of 1 metric" in run(
            "check", "--remote", folder
        )


def test_a_bundle_in_s3_is_delivered_like_a_file(tmp_path, aws):
    """Its address stands for it, one that is missing is told, and disturbs
    nothing else.
    """
    train(tmp_path, range(25))
    run("bundle", tmp_path / "node", "-o", tmp_path / "airgap.bundle")
    aws.buckets.add("inbox")
    place = "s3://inbox/monday/airgap.bundle"
    put(place, (tmp_path / "airgap.bundle").read_bytes())
    dry = run("sync", "--dry-run", place)
    assert "airgap" in dry
    assert not aws.components
    none = "s3://inbox/tuesday/none.bundle"
    told = CliRunner().invoke(main, ["sync", place, none, "s3://inbox", "--json"])
    assert told.exit_code == 2, told.output
    found = {each["journal"]: each["exit_code"] for each in json.loads(told.stdout)["journals"]}
    (folder,) = journals(tmp_path / "machine" / "bundles")
    assert found == {str(folder): 0, none: 8, "s3://inbox": 2}
    assert f"there is nothing at '{none}'" in told.stderr
    assert points(aws) == list(range(25))
    run("sync", place)
    assert points(aws) == list(range(25))
    assert journals(tmp_path / "machine" / "bundles") == [folder]


def test_a_bundle_is_brought_once(tmp_path, aws):
    """The same bundle again sends nothing; one of an earlier moment brings nothing back."""
    train(tmp_path, range(5))
    run("bundle", tmp_path / "node", "-o", tmp_path / "early.bundle")
    train(tmp_path, range(5, 9))
    run("bundle", tmp_path / "node", "-o", tmp_path / "late.bundle")
    for bundle in ("late", "late", "early", "late"):
        run("sync", tmp_path / f"{bundle}.bundle")
        assert points(aws) == list(range(9))
    (folder,) = journals(tmp_path / "machine" / "bundles")
    assert verify_chains(folder) == []


def test_a_killed_arrival_is_repeated(tmp_path, aws):
    """What a killed run has left beside the journal is not in the way of the next."""
    train(tmp_path, range(5))
    run("bundle", tmp_path / "node", "-o", tmp_path / "a.bundle")
    arrived = bring(tmp_path / "a.bundle")
    train(tmp_path, range(5, 9))
    run("bundle", tmp_path / "node", "-o", tmp_path / "b.bundle")
    with closing(sqlite3.connect(tmp_path / "node" / "journal.db")) as connection:
        (journal_id,) = connection.execute("SELECT journal_id FROM meta").fetchone()
    from journaltrack.transfer.bundle import unpack

    with unpack.open_bundle(tmp_path / "b.bundle") as bundle:
        left = arrived.folder.with_name(f"{journal_id}.{bundle.manifest_sha256[:16]}")
    shutil.copytree(arrived.folder, left)
    run("sync", tmp_path / "b.bundle")
    assert points(aws) == list(range(9))
    assert journals(arrived.folder.parent) == [arrived.folder]
    assert arrived.folder.name == journal_id


def test_a_damaged_bundle_changes_nothing(tmp_path, aws):
    """Neither the journal that an earlier one became, nor AWS."""
    train(tmp_path, range(5))
    run("bundle", tmp_path / "node", "-o", tmp_path / "a.bundle")
    run("sync", tmp_path / "a.bundle")
    before = {
        path: path.read_bytes() for path in (tmp_path / "machine").rglob("*") if path.is_file()
    }
    train(tmp_path, range(5, 9))
    run("bundle", tmp_path / "node", "-o", tmp_path / "b.bundle")
    damaged = bytearray((tmp_path / "b.bundle").read_bytes())
    damaged[-9000] ^= 1
    (tmp_path / "b.bundle").write_bytes(damaged)
    requests = len(aws.requests)
    assert "is not a whole bundle" in run("sync", tmp_path / "b.bundle", code=8)
    with pytest.raises(BundleDamagedError):
        bring(tmp_path / "b.bundle")
    assert len(aws.requests) == requests
    assert {
        path: path.read_bytes() for path in (tmp_path / "machine").rglob("*") if path.is_file()
    } == before


def test_a_dry_run_of_a_bundle_unpacks_nothing_for_good(tmp_path, aws):
    """It tells the requests, asks nobody, and leaves no folder."""
    train(tmp_path, range(5))
    run("bundle", tmp_path / "node", "-o", tmp_path / "a.bundle")
    assert "metrics" in run("sync", "--dry-run", tmp_path / "a.bundle")
    assert not aws.requests
    assert not (tmp_path / "machine" / "bundles").exists()
