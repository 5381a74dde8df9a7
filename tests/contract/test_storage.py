"""How S3 is asked to keep what is uploaded: encryption, owner and payer, in every request that
takes them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import ErrorKind, InvalidInputError, RemoteError
from journaltrack.remotes.aws.hosts import is_aws
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.replay.remote import BlobUpload, Document
from journaltrack.util import config
from journaltrack.util.config import Storage
from tests.contract.conftest import session
from tests.processes import ENVIRONMENT
from tests.simulator import Simulator, simulator
from tests.simulator.auth import ACCOUNT

LARGE_BYTES = 17 * 1024 * 1024
SSE, KEY = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"
OWNER, PAYER = "x-amz-expected-bucket-owner", "x-amz-request-payer"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator() as running:
        running.buckets.add("a-bucket")
        yield running


def uploaded(
    sim: Simulator, tmp_path: Path, storage: Storage, size: int, bucket: str | None = "a-bucket"
) -> dict[str, dict[str, str]]:
    """The headers of each operation that an upload made."""
    seen: dict[str, dict[str, str]] = {}
    made = session()

    def look(request: Any, event_name: str, **_: object) -> None:
        headers = {
            k.lower(): v.decode() if isinstance(v, bytes) else str(v)
            for k, v in request.headers.items()
        }
        seen[event_name.rpartition(".")[2]] = headers

    made.events.register("before-send.s3", look)
    content = os.urandom(size)
    blob = BlobUpload(
        tmp_path / "blob",
        hashlib.sha256(content).hexdigest(),
        size,
        "run",
        "model.bin",
        bucket=bucket,
    )
    blob.path.write_bytes(content)
    remote = AwsRemote(session=made, endpoint_url=sim.endpoint_url, storage=storage)
    uri = remote.upload(blob).uri or ""
    assert remote.find_object(uri) is not None
    remote.documents(bucket, None, "anchors")
    return seen


@pytest.mark.parametrize("size", [1000, LARGE_BYTES], ids=["small", "multipart"])
@pytest.mark.parametrize(
    ("storage", "wanted"),
    [
        (Storage(), {}),
        (Storage(encryption="AES256"), {SSE: "AES256"}),
        (Storage(kms_key="alias/mine"), {SSE: "aws:kms", KEY: "alias/mine"}),
        (Storage(encryption="aws:kms:dsse", kms_key="k"), {SSE: "aws:kms:dsse", KEY: "k"}),
    ],
)
def test_uploads_are_encrypted_as_configured(
    sim: Simulator, tmp_path: Path, size: int, storage: Storage, wanted: dict[str, str]
):
    """The request that makes an object says so, and no other; without a setting the bucket
    decides.
    """
    seen = uploaded(sim, tmp_path, storage, size)
    making = seen["PutObject" if size == 1000 else "CreateMultipartUpload"]
    assert {name: making[name] for name in (SSE, KEY) if name in making} == wanted
    for operation in seen.keys() - {"PutObject", "CreateMultipartUpload"}:
        assert not {SSE, KEY} & seen[operation].keys(), operation


@pytest.mark.parametrize("size", [1000, LARGE_BYTES], ids=["small", "multipart"])
def test_owner_and_payer_are_in_every_request(sim: Simulator, tmp_path: Path, size: int):
    """Whatever is asked of the bucket: also HEAD, lists and parts."""
    seen = uploaded(sim, tmp_path, Storage(bucket_owner=ACCOUNT, requester_pays=True), size)
    assert len(seen) >= 4
    assert all(headers.get(OWNER) == ACCOUNT for headers in seen.values()), seen.keys()
    assert all(
        headers.get(PAYER) == "requester"
        for operation, headers in seen.items()
        if operation != "HeadBucket"
    ), seen.keys()


def test_the_default_bucket_has_to_be_the_callers(sim: Simulator, tmp_path: Path):
    """Its name can be guessed and taken: its owner is asked for without a setting; a named
    bucket may be anybody's.
    """
    seen = uploaded(sim, tmp_path, Storage(), 10, bucket=None)
    assert all(
        headers.get(OWNER) == ACCOUNT
        for operation, headers in seen.items()
        if operation != "CreateBucket"
    )
    assert not any(OWNER in headers for headers in uploaded(sim, tmp_path, Storage(), 10).values())


def test_a_bucket_of_somebody_else_gets_nothing(sim: Simulator, tmp_path: Path):
    """The owner is another one than was configured: uploads stop, nothing is stored, nothing
    quarantined.
    """
    with pytest.raises(RemoteError) as caught:
        uploaded(sim, tmp_path, Storage(bucket_owner="999999999999"), 10)
    assert (caught.value.kind, caught.value.uploads_only) == (ErrorKind.HALT, True)
    assert not sim.objects


def test_documents_are_kept_alike(sim: Simulator):
    """Anchors are in the same bucket, under the same rules of it."""
    headers: list[dict[str, Any]] = []
    made = session()
    made.events.register(
        "before-send.s3.PutObject", lambda request, **_: headers.append(dict(request.headers))
    )
    remote = AwsRemote(session=made, endpoint_url=sim.endpoint_url, storage=Storage(kms_key="k"))
    remote.put_document(Document("a-bucket", None, "anchors", "a.json", b"{}"))
    assert {name.lower() for name in headers[0]} >= {SSE, KEY}


def test_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the file and from variables; what can't be an account is refused before anything is
    sent.
    """
    (tmp_path / "c.toml").write_text(
        's3_kms_key = "k"\ns3_bucket_owner = "123456789012"\ns3_encryption = ""\n'
    )
    monkeypatch.setenv("JOURNALTRACK_S3_REQUESTS_PAID_BY", "requester")
    known = config.load(tmp_path / "c.toml").configuration
    assert known.storage() == Storage(None, "k", "123456789012", requester_pays=True)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("JOURNALTRACK_S3_BUCKET_OWNER", "12345", "12 digits"),
        ("JOURNALTRACK_S3_BUCKET_OWNER", "\u0661" * 12, "12 digits"),
        ("JOURNALTRACK_S3_KMS_KEY", "a key", "without spaces"),
        ("JOURNALTRACK_S3_ENCRYPTION", "kms", "AES256"),
        ("JOURNALTRACK_S3_ENCRYPTION", "AES256", "s3_kms_key names a key"),
    ],
)
def test_what_s3_would_always_refuse_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
):
    """A setting that can't be right is an error that names it, before anything is sent."""
    (tmp_path / "c.toml").write_text('s3_kms_key = "k"\n')
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInputError, match=told) as caught:
        config.load(tmp_path / "c.toml")
    assert variable in str(caught.value)


@pytest.mark.parametrize("sync", ["close", "background", "command"])
def test_every_way_to_deliver_asks_for_it(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str
):
    """A tracker's close, its helper process and `journaltrack sync` ask as configured."""
    settings = {
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_S3_KMS_KEY": "alias/mine",
        "JOURNALTRACK_CLOSE_DEADLINE_S": "600",
        **ENVIRONMENT,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "model.bin").write_bytes(b"weights")
    journal = tmp_path / "journal"
    mode = "off" if sync == "command" else sync
    with Tracker.create(trial_component_name="run", journal=journal, sync=mode) as tracker:
        tracker.log_artifact(tmp_path / "model.bin")
    if sync == "command":
        assert CliRunner().invoke(main, ["sync", str(journal)]).exit_code == 0
    stored = {key: each.encryption for (_, key), each in sim.objects.items()}
    assert len(stored) == 2, "the artifact and the anchor"
    assert all(each == {SSE: "aws:kms", KEY: "alias/mine"} for each in stored.values()), stored


def test_a_bucket_whose_owner_does_not_pay(sim: Simulator, tmp_path: Path):
    """Without the setting nothing is stored, and uploads alone stop; with it they go on."""
    sim.state.requester_pays.add("a-bucket")
    with pytest.raises(RemoteError) as caught:
        uploaded(sim, tmp_path, Storage(), 10)
    assert (caught.value.kind, caught.value.uploads_only) == (ErrorKind.HALT, True)
    assert not sim.objects
    uploaded(sim, tmp_path, Storage(requester_pays=True), 10)
    assert len(sim.objects) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://api.sagemaker.us-east-1.amazonaws.com", True),
        ("https://api.sagemaker.cn-north-1.amazonaws.com.cn", True),
        ("https://api.sagemaker.us-iso-east-1.c2s.ic.gov", True),
        ("https://api.sagemaker.us-isob-east-1.sc2s.sgov.gov", True),
        ("https://sagemaker.us-east-1.api.aws", True),
        ("https://amazonaws.com.example.org", False),
        ("http://127.0.0.1:5000", False),
        ("https://notamazonaws.com", False),
    ],
)
def test_partitions_are_botocores(address: str, expected: bool):
    """All of AWS's partitions, by the suffixes that botocore knows."""
    assert is_aws(address) is expected


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and region as a user has them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def run(*arguments: object) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def with_artifact(folder: Path, bucket: str | None) -> Path:
    """A journal with an artifact for a bucket."""
    (folder / "model.bin").write_bytes(b"weights")
    names = {
        "trial_component_name": "run",
        "journal": folder / "journal",
        "artifact_bucket": bucket,
    }
    with Tracker.create(**names, sync="off") as tracker:  # type: ignore[arg-type]
        tracker.log_artifact(folder / "model.bin")
    return folder / "journal"


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("old", ["wrong-bucket", None])
def test_a_wrong_bucket_is_replaced(sim: Simulator, tmp_path: Path, old: str | None):
    """Artifact, reference and anchors are in the other bucket, also those of later syncs; verify
    finds them there.
    """
    wrong = old or f"sagemaker-us-east-1-{ACCOUNT}"
    sim.state.foreign_buckets.add(wrong)
    journal = with_artifact(tmp_path, old)
    at = ("--endpoint-url", sim.endpoint_url)
    assert run("sync", journal, *at).exit_code == 5
    done = run("sync", journal, *at, "--bucket", f"{wrong}=a-bucket")
    assert done.exit_code == 0, done.output
    assert {bucket for bucket, _ in sim.objects} == {"a-bucket"}
    reference = sim.components["run"].output_artifacts["model.bin"]["Value"]
    assert reference.startswith("s3://a-bucket/")
    before = len(sim.objects)
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    assert run("sync", journal, *at).exit_code == 0
    assert {bucket for bucket, _ in sim.objects} == {"a-bucket"}
    assert len(sim.objects) == before + 1, "one more anchor"
    verified = run("check", "--remote", journal, *at)
    assert (verified.exit_code, "everything that was delivered is there" in verified.stdout) == (
        0,
        True,
    ), verified.output


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("old", ["wrong-bucket", None])
def test_a_repair_uses_the_bucket_that_took_the_artifact(
    sim: Simulator, tmp_path: Path, old: str | None
):
    """What is missing in a bucket that had replaced another one is uploaded there again, and
    nothing to the other one.
    """
    wrong = old or f"sagemaker-us-east-1-{ACCOUNT}"
    journal = with_artifact(tmp_path, old)
    at = ("--endpoint-url", sim.endpoint_url)
    assert run("sync", journal, *at, "--bucket", f"{wrong}=a-bucket").exit_code == 0
    (gone,) = [place for place in sim.objects if place[1].endswith("model.bin")]
    del sim.objects[gone]
    repaired = run("check", "--remote", "--repair", journal, *at)
    assert repaired.exit_code == 0, repaired.output
    assert gone in sim.objects
    assert {bucket for bucket, _ in sim.objects} == {"a-bucket"}
    assert sim.components["run"].output_artifacts["model.bin"]["Value"] == f"s3://{'/'.join(gone)}"


@pytest.mark.usefixtures("credentials", "patient")
def test_a_copy_from_before_a_replacement_looks_for_anchors_in_the_new_bucket(
    sim: Simulator, tmp_path: Path
):
    """With the same replacement as the copy that is ahead, it sends nothing a second time."""
    journal = with_artifact(tmp_path, "old-bucket")
    at = ("--endpoint-url", sim.endpoint_url)
    assert run("sync", journal, *at).exit_code == 0
    with Tracker.load("run", journal=journal, sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    shutil.copytree(journal, tmp_path / "backup")
    assert run("sync", journal, *at, "--bucket", "old-bucket=new-bucket").exit_code == 0
    behind = run("sync", tmp_path / "backup", *at, "--bucket", "old-bucket=new-bucket")
    assert (behind.exit_code, "another copy of this journal" in behind.stderr) == (8, True), (
        behind.output
    )
    assert len(sim.components["run"].metrics) == 1


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["sync", "dry-run"])
def test_a_bucket_that_nothing_goes_to_is_not_replaced(
    sim: Simulator, tmp_path: Path, more: tuple[str, ...]
):
    """A misspelt bucket is wrong usage with the right one; nothing is sent."""
    journal = with_artifact(tmp_path, "wrong-bucket")
    done = run(
        "sync",
        journal,
        "--endpoint-url",
        sim.endpoint_url,
        "--bucket",
        "worng-bucket=a-bucket",
        *more,
    )
    assert (done.exit_code, "perhaps wrong-bucket" in done.stderr) == (2, True), done.output
    assert not sim.requests


@pytest.mark.parametrize("value", ["old", "old=", "=new-bucket", "old=New_Bucket", "old=s3://new"])
def test_what_can_not_be_a_replacement_is_wrong_usage(value: str):
    """The new name must be one that a bucket can have."""
    done = run("sync", "--bucket", value)
    assert (done.exit_code, "--bucket" in done.stderr) == (2, True), done.output
