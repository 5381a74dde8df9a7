"""Artifacts in S3: default bucket, object names, uploads that S3 itself verifies.

An object that is there is never overwritten: the same content under a name is success, other content gets a name that
tells its digest. Small files go in one conditional request that carries our SHA-256, so that S3 compares what arrived
with what was logged (BadDigest otherwise); large ones go in parts that S3 verifies one by one (``aws_multipart``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from journaltrack import access, limits
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remote import Answer, BlobUpload, Document, RemoteObject
from journaltrack.remotes.aws_bodies import CHUNK_BYTES, Body
from journaltrack.remotes.aws_errors import status_of
from journaltrack.remotes.aws_multipart import Multipart
from journaltrack.remotes.aws_parts import DamagedError
from journaltrack.remotes.upload_notes import Place, UploadNotes

if TYPE_CHECKING:
    from journaltrack.deadline import Deadline
    from journaltrack.remotes.aws_clients import Clients

DEFAULT_PREFIX: Final = "trial-component-artifacts"
"""As the original library names it."""
SINGLE_PUT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Up to here one PutObject, in memory: S3 verifies and keeps the SHA-256 of the whole. boto3's own threshold for multipart; see ADR 0022."""
DOCUMENT_BYTES_MAX: Final = 64 << 20
"""Ours: of a document that is read."""
LARGE_UPLOADS_MAX: Final = 2
"""Ours: multipart uploads at a time. Each holds up to 4 parts of 8 MiB; parts go side by side anyway."""
_READ_BYTES: Final = 1024 * 1024


class Uploader:
    """Uploads blobs. Threads may share it.

    Args:
        clients: Of the remote.
        deadline: Cuts an upload short.
    """

    def __init__(self, clients: Clients, deadline: Deadline) -> None:
        self._clients = clients
        self._deadline = deadline
        self._lock = threading.Lock()
        self._default_bucket: str | None = None
        self._ensured: set[str] = set()
        self._large = threading.BoundedSemaphore(LARGE_UPLOADS_MAX)
        self._multipart = Multipart(lambda: clients.s3, self._check_time, self._check_grace)

    def upload(self, blob: BlobUpload) -> Answer:
        """See ``Remote.upload``.

        Raises:
            RemoteError: The blob is missing or damaged (permanent), or the bucket can't be used.
        """
        with contextlib.ExitStack() as stack:
            try:
                # Opened once, following no link: whatever the name leads to meanwhile, what was checked is what is sent.
                descriptor = stack.enter_context(access.opened_blob(blob.path))
                content = stack.enter_context(open(descriptor, "rb", closefd=False))
            except (OSError, ValueError) as error:
                self._abandon(blob)
                raise RemoteError(
                    f"the content of {limits.shown(blob.name)} is missing from the spool: {blob.path}: {getattr(error, 'strerror', error)}",
                    kind=ErrorKind.PERMANENT,
                    code="BlobMissing",
                    hint="restore spool/ from a copy of the journal, then `journaltrack retry`",
                ) from error
            return self._upload(blob, content)

    def put_document(self, document: Document) -> Answer:
        """See ``Remote.put_document``."""
        bucket = document.bucket or self._bucket()
        self._ensure(bucket)
        key = f"{_folder(document.prefix, document.folder)}/{object_name(document.name)}"
        try:
            answer = self._clients.s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=document.content,
                IfNoneMatch="*",
                ChecksumSHA256=base64.b64encode(hashlib.sha256(document.content).digest()).decode(),
                ContentType="application/json",
            )
        except ClientError as error:
            if status_of(error) != 412:  # noqa: PLR2004 - Precondition Failed: it is there
                raise
            answer = error.response
        return Answer(answer.get("ResponseMetadata", {}).get("RequestId") or None, uri=f"s3://{bucket}/{key}")

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> dict[str, bytes]:
        """See ``Remote.documents``."""
        bucket, begin = bucket or self._bucket(), f"{_folder(prefix, folder)}/"
        found = {}
        try:
            for page in self._clients.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=begin):
                for each in page.get("Contents", ()):
                    if each["Size"] <= DOCUMENT_BYTES_MAX:
                        answer = self._clients.s3.get_object(Bucket=bucket, Key=each["Key"])
                        found[each["Key"].removeprefix(begin)] = answer["Body"].read(DOCUMENT_BYTES_MAX)
        except ClientError as error:
            if status_of(error) == 404:  # noqa: PLR2004 - no such bucket
                return {}
            raise
        return found

    def find(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """See ``Remote.find_object``."""
        bucket, key = _place(uri)
        try:
            held = self._head(bucket, key, ChecksumMode="ENABLED")
        except ClientError as error:
            if status_of(error) != 403:  # noqa: PLR2004 - with KMS, checksums need kms:Decrypt as well (S3's HeadObject reference)
                raise
            held = self._head(bucket, key)
        if held is None:
            return None
        sha256 = _whole_sha256(held)
        if sha256 is None and read:
            try:
                held = self._clients.s3.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:  # noqa: PLR2004 - gone in between
                    return None
                raise
            sha256 = self._digest(held["Body"])
        noted = held.get("Metadata", {}).get("sha256")
        request_id = held.get("ResponseMetadata", {}).get("RequestId")
        return RemoteObject(int(held.get("ContentLength", 0)), sha256, noted, str(request_id) if request_id else None)

    def _digest(self, body: Any) -> str:  # noqa: ANN401
        digest = hashlib.sha256()
        with contextlib.closing(body):
            while block := body.read(_READ_BYTES):
                digest.update(block)
                self._check_time("reading the object")
        return digest.hexdigest()

    def _upload(self, blob: BlobUpload, content: IO[bytes]) -> Answer:
        bucket = blob.bucket or self._bucket()
        self._ensure(bucket)
        first, second = (Place(bucket, key, blob.sha256) for key in _keys(blob))
        for place in (first, second):
            request_id = self._put(blob, content, place)
            if request_id is not None:
                return Answer(request_id or None, uri=f"s3://{bucket}/{place.key}")
        raise RemoteError(f"s3://{bucket}/{second.key} holds something else", kind=ErrorKind.PERMANENT, code="ObjectConflict")

    def _abandon(self, blob: BlobUpload) -> None:
        """The content is gone: so shall be what an earlier pass sent of it."""
        notes = UploadNotes(blob.scratch)
        if notes.any():
            with contextlib.suppress(RemoteError, ClientError, BotoCoreError):
                bucket = blob.bucket or self._bucket()
                for key in _keys(blob):
                    self._multipart.discard(Place(bucket, key, blob.sha256), notes)

    def _put(self, blob: BlobUpload, content: IO[bytes], place: Place) -> str | None:
        """Store under this key unless it is taken; the request's id, or None if other content is there."""
        if os.fstat(content.fileno()).st_size <= SINGLE_PUT_BYTES_MAX:  # not ``size_bytes``: a crafted journal may say anything
            try:
                return self._put_small(blob, content, place)
            except ClientError as error:
                if status_of(error) != 412:  # noqa: PLR2004 - Precondition Failed: the key is taken
                    raise
        held = self._head(place.bucket, place.key)
        if held is None:
            return self._put_large(blob, content, place)
        self._multipart.discard(place, UploadNotes(blob.scratch))  # begun by a pass that was killed, or lost an answer
        return _ours(held, blob, content)

    def _put_small(self, blob: BlobUpload, raw: IO[bytes], place: Place) -> str:
        raw.seek(0)
        content = raw.read(SINGLE_PUT_BYTES_MAX + 1)  # a file that grows meanwhile has another digest, whatever its size
        if hashlib.sha256(content).hexdigest() != blob.sha256:  # here, so that BadDigest can only mean the way there
            raise _damage(blob)
        try:
            answer = self._clients.s3.put_object(
                Bucket=place.bucket,
                Key=place.key,
                Body=Body(content, self._check_grace) if len(content) > CHUNK_BYTES else content,
                IfNoneMatch="*",
                ChecksumSHA256=base64.b64encode(bytes.fromhex(blob.sha256)).decode(),
                **_described(blob),
            )
        except BotoCoreError:
            self._check_grace()  # botocore's HTTP layer wraps what a body raises: say what it was
            raise
        return str(answer["ResponseMetadata"].get("RequestId", ""))

    def _put_large(self, blob: BlobUpload, raw: IO[bytes], place: Place) -> str | None:
        with self._large:
            try:
                request_id = self._multipart.put(place, raw.fileno(), _described(blob), UploadNotes(blob.scratch))
            except DamagedError as error:
                raise _damage(blob) from error
        if request_id is not None:
            return request_id
        held = self._head(place.bucket, place.key)  # it was taken meanwhile: perhaps by another copy of this journal
        return _ours(held, blob, raw) if held is not None else None

    def _head(self, bucket: str, key: str, **options: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._clients.s3.head_object(Bucket=bucket, Key=key, **options)
        except ClientError as error:
            if status_of(error) == 404:  # noqa: PLR2004
                return None
            raise
        return answer

    def _bucket(self) -> str:
        """``sagemaker-<region>-<account>``, as the original library and the SageMaker SDK name it."""
        with self._lock:
            if self._default_bucket is None:
                account = self._clients.sts.get_caller_identity()["Account"]
                self._default_bucket = f"sagemaker-{self._clients.s3.meta.region_name}-{account}"
            return self._default_bucket

    def _ensure(self, bucket: str) -> None:
        """See once that the bucket is there; create it when missing."""
        with self._lock:
            if bucket in self._ensured:
                return
            try:
                self._clients.s3.head_bucket(Bucket=bucket)
            except ClientError as error:
                if status_of(error) != 404:  # noqa: PLR2004
                    raise
                self._create(bucket)
            self._ensured.add(bucket)

    def _create(self, bucket: str) -> None:
        region = self._clients.s3.meta.region_name
        # us-east-1 is the one region that must not be named (S3's CreateBucket reference).
        location = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._clients.s3.create_bucket(Bucket=bucket, **location)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "BucketAlreadyOwnedByYou":
                return
            if code in {"AccessDenied", "403", "BucketAlreadyExists"}:
                raise RemoteError(
                    f"the bucket {bucket} does not exist and can't be created: {error}",
                    kind=ErrorKind.HALT,
                    code=code,
                    request_id=error.response.get("ResponseMetadata", {}).get("RequestId"),
                    uploads_only=True,
                    hint="create it, ask for s3:CreateBucket, or name another with artifact_bucket=; artifacts wait in the journal's spool",
                ) from error
            raise

    def _check_grace(self) -> None:
        """As ``_check_time``, of a request that is being sent."""
        if self._deadline.grace_remaining_s() <= 0:
            self._check_time()

    def _check_time(self, what: str = "the upload") -> None:
        if self._deadline.over:
            raise RemoteError(f"{what} was cut short by the deadline", kind=ErrorKind.TRANSIENT, code="DeadlineOver")


def _folder(prefix: str | None, folder: str) -> str:
    return f"{object_name(prefix or DEFAULT_PREFIX)}/{object_name(folder)}"


def object_name(name: str) -> str:
    """An artifact's name as the last part of a key; it can't leave its component's folder, whatever the name says."""
    text = name.encode(errors="replace").decode()  # a file name that is not UTF-8
    printable = "".join(char if char.isprintable() else "_" for char in text)
    return "/".join(part for part in printable.split("/") if part not in {"", "..", "."}) or "artifact"


def _place(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI of ours.

    Raises:
        RemoteError: It is none: a journal may hold any text there.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise RemoteError(f"{limits.shown(uri)} is no object in S3", kind=ErrorKind.PERMANENT, code="NotAnObject")
    return bucket, key


def _whole_sha256(held: dict[str, Any]) -> str | None:
    """The SHA-256 that S3 has of the whole object; of a multipart upload it has one of its parts' digests ("COMPOSITE", "…-3").

    moto does not say which of the two it is: an ETag "…-3" tells a multipart upload there too.
    """
    value = held.get("ChecksumSHA256")
    of_parts = held.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT" or "-" in str(held.get("ETag", ""))
    if not isinstance(value, str) or of_parts:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _keys(blob: BlobUpload) -> tuple[str, str]:
    """Where a content goes: under its name or, if that is taken, under one that tells its digest."""
    name = object_name(blob.name)
    folder = f"{object_name(blob.prefix or DEFAULT_PREFIX)}/{object_name(blob.component)}"
    path = PurePosixPath(name)
    told = path.with_name(f"{path.stem}.{blob.sha256[:12]}{path.suffix}")
    return f"{folder}/{name}", f"{folder}/{told}"


def _ours(held: dict[str, Any], blob: BlobUpload, content: IO[bytes]) -> str | None:
    """The id of the request that showed an object, if that is this content; None if it is another one."""
    same_size = held.get("ContentLength") == os.fstat(content.fileno()).st_size  # or it was replaced, and its note kept
    if held.get("Metadata", {}).get("sha256") == blob.sha256 and same_size:
        return str(held.get("ResponseMetadata", {}).get("RequestId", ""))
    return None


def _described(blob: BlobUpload) -> dict[str, Any]:
    described: dict[str, Any] = {"Metadata": {"sha256": blob.sha256}}
    if blob.media_type and blob.media_type.isascii() and blob.media_type.isprintable():
        described["ContentType"] = blob.media_type
    return described


def _damage(blob: BlobUpload) -> RemoteError:
    return RemoteError(
        f"the content of {limits.shown(blob.name)} in the spool is not what was logged: {Path(blob.path).name} has another SHA-256",
        kind=ErrorKind.PERMANENT,
        code="BlobDamaged",
        hint="restore spool/ from a copy of the journal, then `journaltrack retry`",
    )
