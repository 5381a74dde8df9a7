"""Artifacts arrive whole, replace nothing, and stay in their component's folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws import parts
from journaltrack.replay.remote import BlobUpload, Document
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import Subject, aws, session
from tests.simulator import HttpError, Instead, Simulator, simulator

LARGE_BYTES = 17 * 1024 * 1024
BUCKET = "contract-bucket"


def spooled(
    tmp_path: Path, content: bytes, component: str, name: str = "model.bin", **options: object
) -> BlobUpload:
    """A blob as the spool holds it."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = tmp_path / sha256
    path.write_bytes(content)
    return BlobUpload(path, sha256, len(content), component, name, **{"bucket": BUCKET, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1000, LARGE_BYTES], ids=["empty", "small", "multipart"])
def test_what_is_fetched_is_what_was_logged(store: Subject, tmp_path: Path, name: str, size: int):
    """An artifact's URI leads to its bytes, and uploading again leads to the same URI."""
    content = os.urandom(size)
    blob = spooled(tmp_path, content, name, media_type="text/plain; charset=utf-8")
    answer = store.remote.upload(blob)
    assert answer.uri is not None
    where = f"s3://{BUCKET}/trial-component-artifacts/{name}" if store.in_buckets else ""
    assert answer.uri.startswith(where)
    assert answer.uri.endswith("/model.bin")
    assert bool(answer.request_id) is store.request_ids
    assert store.remote.upload(blob).uri == answer.uri
    if store.fetch is not None:
        assert store.fetch(answer.uri) == content


@pytest.mark.parametrize("size", [1000, LARGE_BYTES], ids=["small", "multipart"])
def test_other_content_of_the_same_name_keeps_both(
    store: Subject, tmp_path: Path, name: str, size: int
):
    """A second content under a name gets a name that tells its digest; the first stays, and both
    can be sent again.
    """
    contents = [b"1" * size, b"2" * size]
    blobs = [spooled(tmp_path, content, name, "folder/model.tar.gz") for content in contents]
    first, second = (store.remote.upload(blob) for blob in blobs)
    assert first.uri is not None
    assert second.uri == first.uri.replace(".tar.gz", f".tar.{blobs[1].sha256[:12]}.gz")
    assert [store.remote.upload(blob).uri for blob in blobs] == [first.uri, second.uri]
    if store.fetch is not None:
        assert [store.fetch(first.uri), store.fetch(second.uri)] == contents


def test_a_damaged_blob_is_not_sent(store: Subject, tmp_path: Path, name: str):
    """Bytes that are not those recorded are refused for good, before they leave."""
    blob = spooled(tmp_path, b"as logged", name)
    blob.path.write_bytes(b"as  rotten")
    with pytest.raises(RemoteError) as caught:
        store.remote.upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")


def test_a_store_that_compares_is_trusted_with_the_comparison(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Once it answered with the checksum, nothing is hashed here, unless it refuses."""
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        assert remote.upload(spooled(tmp_path, b"first", name)).uri
        with monkeypatch.context() as patch:
            patch.setattr(parts, "digest_at", None)
            assert remote.upload(spooled(tmp_path, b"second", name, "second")).uri
        blob = spooled(tmp_path, b"as logged", name, "third")
        blob.path.write_bytes(b"as  rotten")
        with pytest.raises(RemoteError) as caught:
            remote.upload(blob)
        assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
        assert len(sim.objects) == 2


def test_a_store_that_does_not_compare_gets_no_damaged_blob(tmp_path: Path, name: str):
    """Its answer has no checksum: what comes next is hashed here, before it leaves."""
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        assert remote.upload(spooled(tmp_path, b"first", name)).uri
        etag = hashlib.md5(b"second").hexdigest()
        took = Instead(headers={"ETag": f'"{etag}"', "x-amz-request-id": "0123456789ABCDEF"})
        sim.fail("PutObject", took)
        assert remote.upload(spooled(tmp_path, b"second", name, "second")).uri
        blob = spooled(tmp_path, b"as logged", name, "third")
        blob.path.write_bytes(b"as  rotten")
        before = len(sim.calls("PutObject"))
        with pytest.raises(RemoteError) as caught:
            remote.upload(blob)
        assert caught.value.code == "BlobDamaged"
        assert len(sim.calls("PutObject")) == before


def test_a_missing_blob_is_permanent(store: Subject, tmp_path: Path, name: str):
    """What is no longer in the spool can't be sent, whatever is tried."""
    blob = spooled(tmp_path, b"x", name)
    blob.path.unlink()
    with pytest.raises(RemoteError) as caught:
        store.remote.upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobMissing")


def test_the_default_bucket_is_made_once(tmp_path: Path, name: str):
    """sagemaker-<region>-<account> is made when missing, and looked at once per remote."""
    with simulator(region="eu-west-1") as sim:
        remote = aws(sim.endpoint_url, region="eu-west-1")
        uris = [
            remote.upload(spooled(tmp_path, bytes([n]), name, f"{n}.bin", bucket=None)).uri
            for n in range(3)
        ]
        assert (
            uris[0]
            == f"s3://sagemaker-eu-west-1-123456789012/trial-component-artifacts/{name}/0.bin"
        )
        assert (
            len(sim.calls("HeadBucket"))
            == len(sim.calls("CreateBucket"))
            == len(sim.calls("GetCallerIdentity"))
            == 1
        )


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ("../../other/model.bin", "other/model.bin"),
        ("/etc/passwd", "etc/passwd"),
        ("a//./b/../c.txt", "a/b/c.txt"),
        ("..", "artifact"),
        ("line\nbreak", "line_break"),
        ("not-utf8-\udcff", "not-utf8-?"),
        ("Größe 1+1=2 %41&?.txt", "Größe 1+1=2 %41&?.txt"),
    ],
)
def test_a_name_can_not_leave_its_component(tmp_path: Path, name: str, bad: str, key: str):
    """Whatever an artifact is called, its object lies under its component's prefix."""
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        remote.upload(spooled(tmp_path, b"x", name, bad, prefix="../my/prefix/"))
        assert [k for _, k in sim.objects] == [f"my/prefix/{name}/{key}"]


def test_a_link_in_the_spool_is_not_followed(tmp_path: Path, name: str):
    """A crafted journal can't have a file from elsewhere uploaded, even if it knows its digest."""
    with simulator() as sim:
        blob = spooled(tmp_path, b"secret", name)
        blob.path.rename(tmp_path / "elsewhere")
        blob.path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RemoteError) as caught:
            aws(sim.endpoint_url).upload(blob)
        assert caught.value.kind is ErrorKind.PERMANENT
        assert not sim.objects


def test_the_recorded_size_is_not_believed(tmp_path: Path, name: str):
    """A file that is larger than a crafted journal calls it is refused before anything is asked;
    one that is smaller goes as what it is.
    """
    with simulator() as sim:
        blob = spooled(tmp_path, b"0" * LARGE_BYTES, name)
        lying = BlobUpload(blob.path, blob.sha256, LARGE_BYTES - 1, name, blob.name, bucket=BUCKET)
        with pytest.raises(RemoteError) as caught:
            aws(sim.endpoint_url).upload(lying)
        assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
        assert sim.requests == []
        aws(sim.endpoint_url).upload(replace(lying, size_bytes=1 << 60))
        assert len(sim.calls("UploadPart")) == 3


def test_a_bucket_that_may_not_be_used_halts_uploads_alone(tmp_path: Path, name: str):
    """No permission on the bucket stops uploads, quarantines nothing, and names what to ask for."""
    with simulator() as sim:
        sim.state.foreign_buckets.add(BUCKET)
        remote = aws(sim.endpoint_url)
        with pytest.raises(RemoteError) as caught:
            remote.upload(spooled(tmp_path, b"x", name))
        assert (caught.value.kind, caught.value.uploads_only) == (ErrorKind.HALT, True)
        assert caught.value.hint


def test_a_bucket_that_may_not_be_made_halts_uploads_alone(tmp_path: Path, name: str):
    """Without s3:CreateBucket the artifacts wait, and the hint names the permission."""
    with simulator() as sim:
        sim.access.denied_operations.add("CreateBucket")
        with pytest.raises(RemoteError) as caught:
            aws(sim.endpoint_url).upload(spooled(tmp_path, b"x", name, bucket=None))
        assert (caught.value.kind, caught.value.uploads_only) == (ErrorKind.HALT, True)
        assert "s3:CreateBucket" in caught.value.hint


def test_credentials_that_expire_before_an_upload_quarantine_nothing(tmp_path: Path, name: str):
    """S3 answers a HEAD without a body, "400": that is no fault of the artifact."""
    with simulator() as sim:
        sim.expired.add("AKIASIMULATED")
        with pytest.raises(RemoteError) as caught:
            aws(sim.endpoint_url).upload(spooled(tmp_path, b"x", name))
        assert caught.value.kind is ErrorKind.HALT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (500, "InternalError"),
        (400, "BadDigest"),
        (409, "ConditionalRequestConflict"),
    ],
)
def test_a_passing_refusal_of_s3_is_transient(tmp_path: Path, name: str, status: int, code: str):
    """S3's refusals that concern the moment or the way there can be tried again."""
    with simulator() as sim:
        sim.fail("PutObject", HttpError(status, code))
        remote = aws(sim.endpoint_url)
        blob = spooled(tmp_path, b"x", name)
        with pytest.raises(RemoteError) as caught:
            remote.upload(blob)
        assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, code)
        assert remote.upload(blob).uri


def test_the_deadline_cuts_a_large_upload_short(tmp_path: Path, name: str):
    """A pass can end in mid-upload: there is no half object, and the next pass sends on what
    this one began.
    """
    with simulator() as sim:
        deadline = Deadline()
        remote = aws(sim.endpoint_url, deadline=deadline)
        sim.on_request = lambda call: (
            deadline.cancel() if call.operation == "CreateMultipartUpload" else None
        )
        blob = spooled(tmp_path, os.urandom(LARGE_BYTES), name, scratch=tmp_path)
        with pytest.raises(RemoteError) as caught:
            remote.upload(blob)
        assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "DeadlineOver")
        assert not sim.calls("CompleteMultipartUpload")
        assert not sim.objects
        sim.on_request = None
        assert aws(sim.endpoint_url).upload(blob).uri
        assert len(sim.calls("CreateMultipartUpload")) == 1
        assert not sim.uploads


def test_content_that_another_tool_stored_is_left_alone(tmp_path: Path, name: str):
    """An object without our digest is other content: never replaced."""
    with simulator() as sim:
        s3 = session().client("s3", endpoint_url=sim.endpoint_url)
        s3.create_bucket(Bucket=BUCKET)
        key = f"trial-component-artifacts/{name}/model.bin"
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"by hand")
        answer = aws(sim.endpoint_url).upload(spooled(tmp_path, b"ours", name))
        assert answer.uri != f"s3://{BUCKET}/{key}"
        assert body_of(sim, key) == b"by hand"


def body_of(sim: Simulator, key: str) -> bytes:
    return sim.objects[BUCKET, key].body


def test_documents_are_stored_once_and_listed(store: Subject, name: str):
    """What was put is what is listed, by name; a second document under the name changes nothing;
    nowhere is nothing.
    """
    if not store.remote.can.documents:
        assert not store.remote.documents(BUCKET, None, name)
        return
    folder = f"journaltrack-anchors/{name}"
    first = Document(BUCKET, None, folder, "1.json", b'{"a":1}')
    uri = store.remote.put_document(first).uri
    assert uri == f"s3://{BUCKET}/trial-component-artifacts/{folder}/1.json"
    assert store.remote.put_document(replace(first, content=b"{}")).uri == uri
    store.remote.put_document(replace(first, name="2.json", content=b'{"b":2}'))
    assert dict(store.remote.documents(BUCKET, None, folder)) == {
        "1.json": b'{"a":1}',
        "2.json": b'{"b":2}',
    }
    assert dict(store.remote.documents(BUCKET, None, f"{folder}-none")) == {}
    assert [*store.remote.document_names(BUCKET, None, folder, "")] == ["1.json", "2.json"]
    assert [*store.remote.document_names(BUCKET, None, folder, "1.json")] == ["2.json"]
    assert [*store.remote.document_names("no-such-bucket-of-ours", None, folder, "")] == []
    assert store.remote.document(BUCKET, None, folder, "2.json") == b'{"b":2}'
    assert store.remote.document(BUCKET, None, folder, "3.json") is None
    if store.fetch is not None:
        assert store.fetch(uri) == b'{"a":1}'


def test_documents_may_lie_at_the_root(store: Subject, name: str):
    """The prefix "" is the bucket's root, and not the default prefix: neither shows the other's."""
    if not store.remote.can.documents:
        assert not store.remote.documents(BUCKET, "", name)
        return
    folder = f"journaltrack-anchors/{name}-root"
    document = Document(BUCKET, "", folder, "1.json", b"{}")
    assert store.remote.put_document(document).uri == f"s3://{BUCKET}/{folder}/1.json"
    assert dict(store.remote.documents(BUCKET, "", folder)) == {"1.json": b"{}"}
    assert [*store.remote.document_names(BUCKET, "", folder, "")] == ["1.json"]
    assert store.remote.document(BUCKET, "", folder, "1.json") == b"{}"
    assert dict(store.remote.documents(BUCKET, None, folder)) == {}
    assert store.remote.document(BUCKET, None, folder, "1.json") is None


@pytest.mark.parametrize("size", [0, 1000, LARGE_BYTES], ids=["empty", "small", "multipart"])
def test_an_object_is_found_with_its_size_and_whose_it_is(
    store: Subject, tmp_path: Path, name: str, size: int
):
    """What was uploaded is found by its URI with size and noted digest; a digest of the store,
    where it has one, is right; reading gives it.
    """
    blob = spooled(tmp_path, os.urandom(size), name)
    uri = store.remote.upload(blob).uri
    assert uri is not None
    found = store.remote.find_object(uri)
    assert found is not None
    assert (found.size_bytes, found.noted_sha256) == (size, blob.sha256)
    assert found.sha256 in {None, blob.sha256}
    assert bool(found.request_id) is store.request_ids
    read = store.remote.find_object(uri, read=True)
    assert read is not None
    assert (read.size_bytes, read.sha256) == (size, blob.sha256)


def test_an_object_that_is_not_there_is_none(store: Subject, tmp_path: Path, name: str):
    """A missing key, and a missing bucket, are answers; text that is no URI of the store is a
    permanent refusal.
    """
    uri = store.remote.upload(spooled(tmp_path, b"x", name)).uri
    assert uri is not None
    assert store.remote.find_object(uri + "-gone") is None
    if store.in_buckets:
        assert store.remote.find_object(f"s3://no-{name}/key") is None
    for text in ("", "s3://", f"s3://{BUCKET}", "file:///etc/passwd", "https://example.com/x"):
        with pytest.raises(RemoteError) as caught:
            store.remote.find_object(text)
        assert caught.value.kind is ErrorKind.PERMANENT


def test_only_the_store_knows_a_small_object_by_its_checksum(tmp_path: Path, name: str):
    """S3 keeps the SHA-256 of a small object; of a large one it has a digest of digests, which
    is not taken for the content's.
    """
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        for size, known in ((1000, True), (LARGE_BYTES, False)):
            blob = spooled(tmp_path, os.urandom(size), name, f"{size}.bin")
            found = remote.find_object(remote.upload(blob).uri or "")
            assert found is not None
            assert (found.sha256 == blob.sha256) is known
        assert not sim.calls("GetObject")


def test_without_the_right_to_checksums_the_size_is_told(tmp_path: Path, name: str):
    """Where checksums are not permitted (KMS), an object is found without one; without any right
    it is an error, not a missing object.
    """
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        uri = remote.upload(spooled(tmp_path, b"x", name)).uri or ""
        sim.fail("HeadObject", HttpError(403, "AccessDenied"), times=1)
        found = remote.find_object(uri)
        assert found is not None
        assert (found.size_bytes, found.sha256) == (1, None)
        sim.fail("HeadObject", HttpError(403, "AccessDenied"), times=2)
        with pytest.raises(RemoteError) as caught:
            remote.find_object(uri)
        assert (caught.value.kind, caught.value.uploads_only) == (ErrorKind.HALT, True)


def test_an_object_that_was_cut_short_is_not_taken_for_ours(tmp_path: Path, name: str):
    """The note of our digest does not make another size our content: the artifact gets a name of
    its own.
    """
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        blob = spooled(tmp_path, b"whole", name)
        uri = remote.upload(blob).uri
        place = next(iter(sim.objects))
        sim.objects[place].body = b"who"
        again = remote.upload(blob).uri
        assert again != uri
        assert body_of(sim, place[1]) == b"who"
