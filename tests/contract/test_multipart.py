"""Large artifacts go in parts that S3 verifies, and what it has of an interrupted upload is not
sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes import upload_notes
from journaltrack.remotes.aws import parts as aws_parts
from journaltrack.remotes.aws.parts import CONNECTIONS, Body
from journaltrack.remotes.retry import RetryingRemote
from journaltrack.remotes.upload_notes import Place, UploadNotes
from journaltrack.replay.remote import BlobUpload
from journaltrack.util.deadline import Deadline
from journaltrack.util.digest import PART_BYTES, PartDigests, PartHasher
from tests.contract.conftest import aws, session
from tests.simulator import CutAfter, HttpError, Instead, Simulator, simulator

BUCKET = "contract-bucket"
COUNT = 3
CONTENT = bytes(range(256)) * (PART_BYTES // 256) * (COUNT - 1) + b"the rest"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """AWS."""
    with simulator() as running:
        running.buckets.add(BUCKET)
        yield running


@pytest.fixture
def blob(tmp_path: Path, name: str) -> BlobUpload:
    """A content of three parts, in a spool."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    path = tmp_path / "spool" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return BlobUpload(
        path, sha256, len(CONTENT), name, "model.bin", bucket=BUCKET, scratch=tmp_path / "spool"
    )


def recorded(blob: BlobUpload) -> BlobUpload:
    """The same, with the digests of its parts."""
    hasher = PartHasher(len(CONTENT))
    hasher.update(memoryview(CONTENT))
    return replace(blob, parts=hasher.result())


def key_of(blob: BlobUpload) -> str:
    return f"trial-component-artifacts/{blob.component}/{blob.name}"


def place_of(blob: BlobUpload) -> Place:
    return Place(BUCKET, key_of(blob), blob.sha256)


def notes_in(blob: BlobUpload) -> list[Path]:
    assert blob.scratch is not None
    return [path for path in blob.scratch.iterdir() if path.is_file()]


def parts_sent(sim: Simulator) -> Counter[int]:
    """How often each part came and was taken."""
    return Counter(call.params["PartNumber"] for call in sim.calls("UploadPart") if call.applied)


def interrupted(sim: Simulator, blob: BlobUpload, after: int = 2) -> None:
    """An upload of which S3 has so many parts, and whose process is gone."""
    sim.fail("UploadPart", HttpError(503, "SlowDown"), times=COUNT, after=after)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert caught.value.kind is ErrorKind.TRANSIENT
    sim.clear_faults()
    assert [len(upload.parts) for upload in sim.uploads.values()] == [after]


def assert_whole(sim: Simulator, blob: BlobUpload, answer: Any, content: bytes = CONTENT) -> None:
    """The object is there under its name, with a checksum of S3's own; nothing else is left."""
    assert answer.uri == f"s3://{BUCKET}/{key_of(blob)}"
    stored = sim.objects[BUCKET, key_of(blob)]
    assert stored.body == content
    assert stored.metadata == {"sha256": blob.sha256}
    assert stored.checksums["sha256"].endswith(f"-{COUNT}")
    assert not sim.uploads
    assert notes_in(blob) == []


def begun_by_hand(sim: Simulator, blob: BlobUpload, parts: dict[int, bytes], **options: str) -> str:
    """A multipart upload that another program began at the key."""
    s3 = session().client("s3", endpoint_url=sim.endpoint_url)
    upload_id: str = s3.create_multipart_upload(Bucket=BUCKET, Key=key_of(blob), **options)[
        "UploadId"
    ]
    for number, body in parts.items():
        s3.upload_part(
            Bucket=BUCKET,
            Key=key_of(blob),
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            **options,
        )
    return upload_id


def damage(blob: BlobUpload, place: int) -> None:
    with blob.path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff\xfe")


def test_an_interrupted_upload_is_sent_on(sim: Simulator, blob: BlobUpload) -> None:
    """What S3 has by number, size and SHA-256 is not sent again: each part was taken once."""
    interrupted(sim, blob)
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}
    assert len(sim.calls("CreateMultipartUpload")) == 1


def test_the_same_pass_sends_it_on_without_asking(sim: Simulator, blob: BlobUpload) -> None:
    """The retry layer calls again: the parts that were acknowledged are neither read nor sent
    nor asked for.
    """
    sim.fail("UploadPart", HttpError(500, "InternalError"), times=2, after=1)
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert_whole(sim, blob, remote.upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}
    assert not sim.calls("ListParts")


@pytest.mark.parametrize("page", [1, 1000])
def test_without_the_note_it_is_found_by_its_parts(
    sim: Simulator, blob: BlobUpload, page: int
) -> None:
    """A journal that came from another machine without its notes: parts that are ours tell whose
    upload it is.
    """
    sim.s3.page_parts_max = page
    interrupted(sim, blob)
    for note in notes_in(blob):
        note.unlink()
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}


def test_a_kill_before_the_id_is_noted_leaves_nothing(sim: Simulator, blob: BlobUpload) -> None:
    """The upload was begun and nothing sent: the intent that was noted makes it ours."""
    UploadNotes(blob.scratch).intend(place_of(blob), PART_BYTES)
    begun_by_hand(sim, blob, {}, ChecksumAlgorithm="SHA256")
    sim.uploads["upload-1"].metadata = {"sha256": blob.sha256}
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert len(sim.calls("CreateMultipartUpload")) == 1


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {"ChecksumAlgorithm": "SHA256"}),
        ({1: b"other" * (PART_BYTES // 5)}, {"ChecksumAlgorithm": "SHA256"}),
        (
            {1: CONTENT[:PART_BYTES], 2: CONTENT[: PART_BYTES - 1] + b"?"},
            {"ChecksumAlgorithm": "SHA256"},
        ),
        ({1: CONTENT[: PART_BYTES - 1]}, {"ChecksumAlgorithm": "SHA256"}),
        ({1: CONTENT[:PART_BYTES]}, {"ChecksumAlgorithm": "CRC32"}),
        ({1: CONTENT[:PART_BYTES], 4: b"more"}, {"ChecksumAlgorithm": "SHA256"}),
    ],
    ids=[
        "empty",
        "other bytes",
        "one other byte",
        "another size",
        "another checksum",
        "a part too many",
    ],
)
def test_somebody_elses_upload_is_left_alone(
    sim: Simulator, blob: BlobUpload, parts: dict[int, bytes], options: dict[str, str]
) -> None:
    """An upload at our key that is not provably ours is neither sent on, nor put together, nor
    aborted.
    """
    upload_id = begun_by_hand(sim, blob, parts, **options)
    before = {number: part.body for number, part in sim.uploads[upload_id].parts.items()}
    aws(sim.endpoint_url).upload(blob)
    assert sim.objects[BUCKET, key_of(blob)].body == CONTENT
    assert {number: part.body for number, part in sim.uploads[upload_id].parts.items()} == before
    assert list(sim.uploads) == [upload_id]


def test_an_upload_at_a_longer_key_is_not_taken_for_this_one(
    sim: Simulator, blob: BlobUpload
) -> None:
    """S3 lists by prefix: model.bin is not model.bin.old."""
    begun_by_hand(
        sim,
        replace(blob, name="model.bin.old"),
        {1: CONTENT[:PART_BYTES]},
        ChecksumAlgorithm="SHA256",
    )
    aws(sim.endpoint_url).upload(blob)
    assert list(sim.uploads) == ["upload-1"]
    assert parts_sent(sim)[1] == 2


def test_of_two_orphans_one_is_sent_on_and_the_other_aborted(
    sim: Simulator, blob: BlobUpload
) -> None:
    """Both have parts of ours; the one that has more of them becomes the object."""
    for numbers in ((1,), (1, 2)):
        upload_id = begun_by_hand(
            sim,
            blob,
            {n: CONTENT[(n - 1) * PART_BYTES : n * PART_BYTES] for n in numbers},
            ChecksumAlgorithm="SHA256",
        )
        sim.uploads[upload_id].metadata = {"sha256": blob.sha256}
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize("place", [0, PART_BYTES + 5, len(CONTENT) - 2])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_damaged_content_never_becomes_an_object(
    sim: Simulator, blob: BlobUpload, place: int, resumed: bool
) -> None:
    """Wherever the damage is, also in a part that S3 has: the artifact is refused for good, and
    nothing is left at S3.
    """
    if resumed:
        interrupted(sim, blob)
    damage(blob, place)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
    assert not sim.objects
    assert not sim.uploads
    assert notes_in(blob) == []


def test_recorded_digests_of_parts_are_not_computed_again(
    sim: Simulator, blob: BlobUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were taken with the digest of the whole. S3 compares; nobody hashes here, neither what
    is sent nor what S3 has.
    """
    interrupted(sim, recorded(blob))
    monkeypatch.setattr(aws_parts, "digest_at", None)
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(recorded(blob)))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("place", [0, PART_BYTES + 5, len(CONTENT) - 2])
def test_a_damaged_part_is_refused_by_its_recorded_digest(
    sim: Simulator, blob: BlobUpload, place: int
) -> None:
    """S3 refuses the part, and it is not what was recorded here either: not a transient failure."""
    damage(blob, place)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(recorded(blob))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
    assert not sim.objects
    assert not sim.uploads
    assert notes_in(blob) == []


def test_a_store_that_does_not_compare_parts_completes_no_damaged_one(
    sim: Simulator, blob: BlobUpload
) -> None:
    """Its answer has no checksum: then the part is hashed here."""
    damage(blob, PART_BYTES + 5)
    took = Instead(headers={"ETag": '"e"', "x-amz-request-id": "0123456789ABCDEF"})
    sim.fail("UploadPart", took, times=COUNT)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(recorded(blob))
    assert caught.value.code == "BlobDamaged"
    assert not sim.objects


@pytest.mark.parametrize(
    "wrong",
    [
        lambda parts: PartDigests(parts.part_bytes, parts.digests[:-32]),
        lambda parts: PartDigests(parts.part_bytes, parts.digests[:-1]),
        lambda parts: PartDigests(2 * parts.part_bytes, parts.digests),
        lambda parts: PartDigests(1, b""),
    ],
)
def test_digests_of_other_parts_are_not_used(sim: Simulator, blob: BlobUpload, wrong: Any) -> None:
    """A journal from elsewhere may have any number of them, of any size."""
    parts = recorded(blob).parts
    assert parts is not None
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(replace(blob, parts=wrong(parts))))


@pytest.mark.parametrize("with_digests", [False, True])
def test_a_content_that_is_cut_off_while_it_is_sent_is_damaged(
    sim: Simulator, blob: BlobUpload, with_digests: bool
) -> None:
    """The file becomes shorter after the upload was begun."""
    blob = recorded(blob) if with_digests else blob
    sim.on_request = lambda call: (
        os.truncate(blob.path, PART_BYTES) if call.operation == "CreateMultipartUpload" else None
    )
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
    assert not sim.uploads


def test_a_content_that_changes_between_two_attempts_is_damaged(
    sim: Simulator, blob: BlobUpload
) -> None:
    """What was hashed for the whole and could not be sent is what has to be sent."""
    remote = aws(sim.endpoint_url)
    sim.fail("UploadPart", HttpError(503, "SlowDown"), times=COUNT)
    with pytest.raises(RemoteError):
        remote.upload(blob)
    sim.clear_faults()
    damage(blob, 5)
    with pytest.raises(RemoteError) as caught:
        remote.upload(blob)
    assert caught.value.code == "BlobDamaged"
    assert not sim.uploads
    assert not sim.objects


def test_a_content_that_is_gone_leaves_nothing_at_s3(sim: Simulator, blob: BlobUpload) -> None:
    """What an earlier pass sent of it is of no use."""
    interrupted(sim, blob)
    blob.path.unlink()
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert caught.value.code == "BlobMissing"
    assert not sim.uploads
    assert notes_in(blob) == []


def test_bytes_that_change_on_the_way_are_sent_again(
    sim: Simulator, blob: BlobUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 finds another SHA-256 than the part's: BadDigest, and the part is sent again."""
    read, spoilt = Body.read, []

    def flip(self: Body, size: int = -1) -> bytes | memoryview:
        piece = read(self, size)
        if len(piece) > 100 and not spoilt:
            spoilt.append(1)
            return b"\xff" + bytes(piece)[1:]
        return piece

    monkeypatch.setattr(Body, "read", flip)
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert_whole(sim, blob, remote.upload(blob))
    assert [call.status for call in sim.calls("UploadPart")].count(400) == 1


@pytest.mark.parametrize(
    "operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_a_lost_answer_costs_a_part_at_most(
    sim: Simulator, blob: BlobUpload, operation: str
) -> None:
    """The request took effect and nobody told: no part comes a third time, and nothing is left
    over.
    """
    sim.fail(operation, CutAfter())
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert_whole(sim, blob, remote.upload(blob))
    assert sum(parts_sent(sim).values()) <= COUNT + (operation == "UploadPart")


def test_the_lost_answer_of_the_end_is_found_by_the_next_pass(
    sim: Simulator, blob: BlobUpload
) -> None:
    """The object is there: the upload counts as done, and its note goes."""
    sim.fail("CompleteMultipartUpload", CutAfter())
    with pytest.raises(RemoteError):
        aws(sim.endpoint_url).upload(blob)
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}


def test_an_upload_that_a_rule_of_the_bucket_aborted_is_begun_anew(
    sim: Simulator, blob: BlobUpload
) -> None:
    """Between two passes, and in the middle of one."""
    interrupted(sim, blob)
    sim.uploads.clear()

    def abort_once(call: Any) -> None:
        if (
            call.operation == "CompleteMultipartUpload"
            and len(sim.calls("CompleteMultipartUpload")) == 0
        ):
            sim.uploads.clear()

    sim.on_request = abort_once
    remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
    assert_whole(sim, blob, remote.upload(blob))
    assert len(sim.calls("CreateMultipartUpload")) == 3


@pytest.mark.parametrize("same", [True, False], ids=["the same content", "other content"])
def test_a_key_that_is_taken_meanwhile(sim: Simulator, blob: BlobUpload, same: bool) -> None:
    """Taken in the last moment: by our content that is success, by another one the artifact gets
    a name of its own. No upload stays.
    """
    other = session().client("s3", endpoint_url=sim.endpoint_url)
    body, note = (CONTENT, blob.sha256) if same else (b"other", "")

    def take(call: Any) -> None:
        if call.operation == "CompleteMultipartUpload" and call.params["Key"] == key_of(blob):
            other.put_object(Bucket=BUCKET, Key=key_of(blob), Body=body, Metadata={"sha256": note})

    sim.on_request = take
    answer = aws(sim.endpoint_url).upload(blob)
    told = f"s3://{BUCKET}/{key_of(blob)}"
    assert answer.uri == (told if same else told.replace(".bin", f".{blob.sha256[:12]}.bin"))
    assert sim.objects[BUCKET, key_of(blob)].body == body
    assert sim.objects[BUCKET, answer.uri.removeprefix(f"s3://{BUCKET}/")].body == CONTENT
    assert not sim.uploads
    assert notes_in(blob) == []


def test_a_key_that_is_taken_between_two_passes(sim: Simulator, blob: BlobUpload) -> None:
    """What the first pass sent there is aborted."""
    interrupted(sim, blob)
    session().client("s3", endpoint_url=sim.endpoint_url).put_object(
        Bucket=BUCKET, Key=key_of(blob), Body=b"other"
    )
    assert aws(sim.endpoint_url).upload(blob).uri != f"s3://{BUCKET}/{key_of(blob)}"
    assert not sim.uploads
    assert notes_in(blob) == []


def test_the_deadline_leaves_what_was_sent(sim: Simulator, blob: BlobUpload) -> None:
    """No part is begun after it; the next pass sends the others."""
    deadline = Deadline()
    sim.on_request = lambda call: (
        deadline.cancel(grace_s=30.0) if call.operation == "UploadPart" else None
    )
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url, deadline=deadline).upload(blob)
    assert caught.value.kind is ErrorKind.TRANSIENT
    # The first of the connections tells: one that was sending, or one that had not begun.
    assert caught.value.code in {"DeadlineOver", "NotSent"}
    held = len(sim.uploads["upload-1"].parts)
    assert 1 <= held <= CONNECTIONS
    assert len(sim.calls("UploadPart")) == held
    sim.on_request = None
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}


def test_the_deadline_ends_a_part_in_its_middle(
    sim: Simulator, blob: BlobUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without grace also what is being sent ends, however slow the connection."""
    deadline = Deadline()
    read = Body.read

    def slow(self: Body, size: int = -1) -> bytes | memoryview:
        piece = read(self, size)
        deadline.cancel()
        return piece

    monkeypatch.setattr(Body, "read", slow)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url, deadline=deadline).upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "DeadlineOver")
    assert set(parts_sent(sim)) <= {3}  # which is one piece, and may be on its way already
    small = replace(
        blob,
        path=blob.path.with_name("small"),
        sha256=hashlib.sha256(CONTENT[:PART_BYTES]).hexdigest(),
    )
    small.path.write_bytes(CONTENT[:PART_BYTES])
    deadline = Deadline()
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url, deadline=deadline).upload(small)
    assert caught.value.code == "DeadlineOver"
    assert not sim.objects


def test_expired_credentials_leave_what_was_sent(sim: Simulator, blob: BlobUpload) -> None:
    """The pass halts; with new ones the upload goes on."""
    sim.on_request = lambda call: (
        sim.expired.add("AKIASIMULATED") if sim.calls("UploadPart") else None
    )
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert caught.value.kind is ErrorKind.HALT
    sim.on_request = None
    sim.expired.clear()
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize(
    "denied",
    [
        ("ListMultipartUploads",),
        ("ListParts",),
        ("ListMultipartUploads", "ListParts", "AbortMultipartUpload"),
    ],
)
@pytest.mark.parametrize("noted", [True, False])
def test_permissions_that_only_save_work_are_not_needed(
    sim: Simulator, blob: BlobUpload, denied: tuple[str, ...], noted: bool
) -> None:
    """Without them an upload succeeds; where S3 does not tell its parts, all are sent again."""
    sim.access.denied_operations.update(denied)
    interrupted(sim, blob)
    if not noted:
        for note in notes_in(blob):
            note.unlink()
    answer = aws(sim.endpoint_url).upload(blob)
    assert sim.objects[BUCKET, key_of(blob)].body == CONTENT
    assert answer.uri == f"s3://{BUCKET}/{key_of(blob)}"
    sent = 3 if noted and "ListParts" not in denied else 5
    assert sum(parts_sent(sim).values()) == sent
    assert notes_in(blob) == []


def test_a_damaged_content_is_told_as_such_where_nothing_may_be_aborted(
    sim: Simulator, blob: BlobUpload
) -> None:
    """The missing permission does not hide why the artifact was refused."""
    sim.access.denied_operations.add("AbortMultipartUpload")
    damage(blob, 5)
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert caught.value.code == "BlobDamaged"
    assert not sim.objects


def test_two_copies_of_a_journal_converge(sim: Simulator, blob: BlobUpload, tmp_path: Path) -> None:
    """Both begin, both end well with the same object, and neither leaves an upload behind."""
    both = threading.Barrier(2, timeout=300)

    def meet(call: Any) -> None:
        if (
            call.operation == "CompleteMultipartUpload"
            and len(sim.calls("CompleteMultipartUpload")) == 0
        ):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait()

    sim.on_request = meet
    copies = [replace(blob, scratch=tmp_path / name) for name in ("one", "two")]
    answers: list[Any] = [None, None]

    def run(number: int) -> None:
        remote = RetryingRemote(aws(sim.endpoint_url), deadline=Deadline(), sleep=lambda _: None)
        answers[number] = remote.upload(copies[number])

    for copy in copies:
        assert copy.scratch is not None
        copy.scratch.mkdir()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for copy, answer in zip(copies, answers, strict=True):
        assert_whole(sim, copy, answer)


def test_a_copy_that_comes_later_sends_the_others_upload_on(
    sim: Simulator, blob: BlobUpload, tmp_path: Path
) -> None:
    """The other one has no note of it; its parts tell."""
    interrupted(sim, blob)
    (tmp_path / "other").mkdir()
    other = replace(blob, scratch=tmp_path / "other")
    assert aws(sim.endpoint_url).upload(other).uri == aws(sim.endpoint_url).upload(blob).uri
    assert parts_sent(sim) == {1: 1, 2: 1, 3: 1}
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b'{"bucket": 1}',
        json.dumps({"part_bytes": 5 << 30, "intended_at_s": 1.0, "upload_id": None}).encode(),
        json.dumps({"part_bytes": 1, "intended_at_s": 1.0, "upload_id": "upload-77"}).encode(),
        json.dumps({"part_bytes": 8 << 20, "intended_at_s": 1.0, "upload_id": "x" * 5000}).encode(),
        json.dumps({"part_bytes": True, "intended_at_s": "", "upload_id": []}).encode(),
    ],
)
def test_a_note_of_any_bytes_does_no_harm(sim: Simulator, blob: BlobUpload, text: bytes) -> None:
    """A journal may come from somebody else, its notes too."""
    UploadNotes(blob.scratch).intend(place_of(blob), PART_BYTES)
    (note,) = notes_in(blob)
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(held := json.loads(text), dict):
            text = json.dumps({**place_of(blob)._asdict(), **held}).encode()
    note.write_bytes(text)
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))


def test_a_note_that_is_no_file_is_not_followed(
    sim: Simulator, blob: BlobUpload, tmp_path: Path
) -> None:
    """Neither read, nor written through."""
    notes = UploadNotes(blob.scratch)
    notes.intend(place_of(blob), PART_BYTES)
    (note,) = notes_in(blob)
    note.rename(tmp_path / "elsewhere")
    note.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    assert notes.read(place_of(blob)) is None
    assert_whole(sim, blob, aws(sim.endpoint_url).upload(blob))
    assert (tmp_path / "elsewhere").read_bytes() == before
    os.mkfifo(note)
    assert notes.read(place_of(blob)) is None


def test_an_upload_succeeds_where_nothing_can_be_noted(
    sim: Simulator, blob: BlobUpload, tmp_path: Path
) -> None:
    """A folder that is missing is not the artifact's fault."""
    assert aws(sim.endpoint_url).upload(replace(blob, scratch=tmp_path / "none")).uri
    assert not sim.uploads


def test_what_s3_puts_together_is_compared(
    sim: Simulator, blob: BlobUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checksum of the object that is not the one of its parts is told, and not taken for
    success.
    """
    monkeypatch.setattr(aws_parts.Parts, "composite", lambda self: f"{'A' * 43}=-{COUNT}")
    with pytest.raises(RemoteError) as caught:
        aws(sim.endpoint_url).upload(blob)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "ObjectDiffers")


def test_the_body_is_hashed_once_for_the_signature(sim: Simulator, blob: BlobUpload) -> None:
    """What is signed is the digest that the request carries: the simulator compares both with
    the bytes.
    """
    signed: list[str] = []
    remote = aws(sim.endpoint_url)
    events = remote._clients.s3.meta.events
    events.register(
        "before-send.s3.UploadPart",
        lambda request, **_: signed.append(request.headers["X-Amz-Content-SHA256"].decode()),
    )
    assert_whole(sim, blob, remote.upload(blob))
    parts = [CONTENT[n * PART_BYTES : (n + 1) * PART_BYTES] for n in range(COUNT)]
    assert sorted(signed) == sorted(hashlib.sha256(part).hexdigest() for part in parts)


def test_a_note_of_long_ago_is_kept_apart_from_others(tmp_path: Path) -> None:
    """Notes are found by place alone, and say what was written."""
    notes, place = UploadNotes(tmp_path), Place("bucket", "key", "ab" * 32)
    assert notes.read(place) is None
    note = notes.intend(place, PART_BYTES)
    assert notes.read(place) == note
    assert notes.read(place._replace(key="other")) is None
    noted = notes.begun(place, note, "id")
    assert notes.read(place) == noted
    assert notes.any()
    assert all(path.name.startswith(upload_notes.PREFIX) for path in tmp_path.iterdir())
    notes.forget(place)
    assert not notes.any()
