"""Deliveries to a real MLflow server: afterwards it holds what the journal holds, once."""

from __future__ import annotations

import math
import random
from contextlib import closing

import pytest
from click.testing import CliRunner

from journaltrack import Journal, sync, verify
from journaltrack.cli import ExitCode, main
from journaltrack.journal import vocabulary
from tests.builders import add_artifact
from tests.mlflow.conftest import BUCKET, KEYS, ask, client_of, history, runs_of

pytestmark = pytest.mark.mlflow
METRICS = ["loss", "val/loss", "acc@5", "100%", "größe [mm]", "a//b", "..", "grad_x1_@", "x" * 255]


def recorded(folder, component, points=300):
    """The folder of a journal with one run: all kinds of entries, and odd names."""
    drafts = [
        vocabulary.create(owner=f"owner-of-{component}", tags={"team": "vision", "a@b": "c"}),
        vocabulary.associate(experiment=f"about-{component}", trial="first"),
        vocabulary.status(primary="InProgress", start_ns=1_700_000_000_123_456_789),
        *(vocabulary.parameter(f"p@{n}", n / 8) for n in range(150)),
        vocabulary.parameter("text", "two\nlines " + "x" * 5_000),
        vocabulary.artifact("input", "data", "s3://bucket/data.csv", "text/csv"),
        vocabulary.note("a note"),
    ]
    for number, name in enumerate(METRICS):
        drafts += [
            vocabulary.metric(name, step + number / 8, step, 1_700_000_000_000_000_000 + step)
            for step in range(points)
        ]
    drafts += [
        vocabulary.metric("nan", math.nan, 1, 1_700_000_000_000_000_000),
        vocabulary.status(primary="Completed", end_ns=1_700_000_100_000_000_000),
    ]
    with closing(Journal.open(folder / "journal")) as journal:
        journal.append(journal.component(component), drafts)
        if component == "run":
            add_artifact(journal, b"the model" * 1_000)
    return folder / "journal"


def test_a_server_holds_everything_and_a_check_compares_every_point(tmp_path, server):
    """Points, parameters, tags and files equal the journal's; a second sync asks for nothing."""
    journal = recorded(tmp_path, "run")
    report = sync(journal, destination=server)
    assert (report.pending, report.quarantined, report.in_doubt) == (0, 0, 0), report
    (run,) = runs_of(server, "run")
    found = CliRunner().invoke(main, ["check", str(journal), "--remote", "--to", server])
    assert found.exit_code == ExitCode.OK, found.output
    for number, name in enumerate(METRICS[:2]):
        wanted = [(step, step + number / 8) for step in range(300)]
        assert sorted(history(server, run, name)) == wanted
    assert history(server, run, "nan") == [(1, "NaN")]
    params = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert len(params) == 151
    assert params["p_x40_3"] == "0.375"
    assert run["info"]["status"] == "FINISHED"
    assert (
        ask(server, "artifacts/list", run_id=run["info"]["run_id"])["files"][0]["path"] == "model"
    )
    assert sync(journal, destination=server).requests == 0


def test_answers_that_are_cut_off_leave_one_run_and_every_point_once(tmp_path, relay, server):
    """A third of all requests gets no answer, half of these after they took effect."""
    journal = recorded(tmp_path, "cut", points=100)
    chance = random.Random(7)
    relay.fault = lambda _: (
        chance.choice(["before", "after", 503]) if chance.random() < 0.3 else None
    )
    for _ in range(20):
        if sync(journal, destination=relay.uri).pending == 0:
            break
    relay.fault = lambda _: None
    assert sync(journal, destination=relay.uri).pending == 0
    (run,) = runs_of(server, "cut")
    assert sorted(history(server, run, "loss")) == [(step, float(step)) for step in range(100)]
    report = verify(journal, destination=relay.uri)
    assert report.verified, report.differences


def test_uploads_that_the_server_signs_need_no_credentials(tmp_path, running, monkeypatch):
    """Artifacts in S3 get there, and are read back, by addresses that a real server signs; a sync
    after a cut one sends the file again.
    """
    server = running.uri
    root = f"s3://{BUCKET}/root"
    ask(server, "experiments/create", {"name": "about-run-of-s3", "artifact_location": root})
    config = tmp_path / "config.toml"
    config.write_text(f'[destinations.lab]\nuri = "{server}"\nuploads = "presigned"\n')
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(config))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    journal = recorded(tmp_path, "run-of-s3", points=3)
    with closing(Journal.open(journal)) as opened:
        add_artifact(opened, b"the model" * 1_000, "run-of-s3")
    report = sync(journal, destination="lab")
    assert (report.pending, report.quarantined, report.uploads_halted) == (0, 0, None), report
    (run,) = runs_of(server, "run-of-s3")
    key = f"root/{run['info']['run_id']}/artifacts/model"
    client = client_of(running.bucket_url)
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"the model" * 1_000
    assert verify(journal, destination="lab", deep=True, requests_per_s=1_000).verified
    client.put_object(Bucket=BUCKET, Key=key, Body=b"the mod")
    done = verify(journal, destination="lab", deep=True, repair=True, requests_per_s=1_000)
    assert done.verified, done.differences
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"the model" * 1_000
