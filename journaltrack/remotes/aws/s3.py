"""Store artifacts in S3: default bucket, object names, and uploads that S3 itself verifies.

No object is ever overwritten. If the same content is there under a name, the upload succeeds. Other
content gets a name that contains its digest.

A small file goes in one conditional request with our SHA-256: S3 compares what arrived with what
was logged (BadDigest otherwise). It is hashed here only if the store may not compare. A large file
goes in parts that S3 verifies one by one (``multipart``).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import threading
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from journaltrack import limits
from journaltrack.errors import DEADLINE_OVER, NOT_ALLOWED, ErrorKind, RemoteError, os_hint
from journaltrack.journal.sqlite import files
from journaltrack.remotes.aws.errors import (
    NOT_AN_ANSWER,
    code_of,
    is_of_service,
    is_taken,
    not_an_answer,
    status_of,
)
from journaltrack.remotes.aws.multipart import Multipart
from journaltrack.remotes.aws.parts import Body, DamagedError, Part, ask_for
from journaltrack.remotes.aws.proof import is_md5, is_ours
from journaltrack.remotes.upload_notes import Place, UploadNotes, object_name, prefix_name
from journaltrack.replay.remote import Answer, BlobUpload, Document, RemoteObject
from journaltrack.util.config import Storage
from journaltrack.util.digest import IN_ONE_PIECE_BYTES_MAX

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients
    from journaltrack.util.deadline import Deadline

DOCUMENT_BYTES_MAX: Final = 64 << 20
"""Ours: largest document that is read."""
LARGE_UPLOADS_MAX: Final = 2
"""Ours: multipart uploads at a time, with 4 connections each."""
_READ_BYTES: Final = 1024 * 1024
_MEDIA_TYPE_CHARS_MAX: Final = 255
"""Ours: of the Content-Type header. RFC 6838 allows 127 characters on either side of the slash."""
_SAYS_NOTHING: Final = frozenset({301, 400, 403, 404})
"""Refusals of a HEAD that do not tell why: region, expired token, clock and permission look alike.

The answer to a HEAD has no body.
"""
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_GONE: Final = frozenset({"NoSuchKey", "NoSuchBucket"})


class Uploader:
    """Uploads blobs. Threads may share it.

    Args:
        clients: Gives the clients for S3 and STS.
        deadline: Cuts an upload short.
        storage: Storage options of uploads.
        create_buckets: Whether to create a bucket that is missing.
    """

    def __init__(
        self, clients: Clients, deadline: Deadline, storage: Storage, *, create_buckets: bool = True
    ) -> None:
        self._create_buckets = create_buckets
        self._clients = clients
        self._storage = storage
        # The client that the storage options were added to.
        self._asking: Any = None
        self._account: str | None = None
        self._deadline = deadline
        self._lock = threading.Lock()
        self._default_bucket: str | None = None
        self._ensured: set[str] = set()
        # Whether the store's last answer to PutObject had the checksum: it compares the bytes.
        self._compares = False
        self._large = threading.BoundedSemaphore(LARGE_UPLOADS_MAX)
        self._multipart = Multipart(lambda: self._s3, self._check_time, self._check_grace)

    @property
    def _s3(self) -> Any:  # noqa: ANN401 - boto3 has no types of its own
        client = self._clients.s3
        if client is not self._asking:
            ask_for(client, self._storage, self._owner_of)
            self._asking = client
        return client

    def _owner_of(self, bucket: str) -> str | None:
        """Return the account that must own a bucket, or None for any.

        For the default bucket it is the caller's: somebody else could guess the name and take it.
        """
        return self._account if bucket == self._default_bucket else self._storage.bucket_owner

    def upload(self, blob: BlobUpload) -> Answer:
        """Store the file under its name, or under one with its digest.

        Raises:
            RemoteError: The blob is missing or damaged (permanent), or the bucket can't be used.
        """
        with contextlib.ExitStack() as stack:
            try:
                # Open once and follow no link: then the bytes that are checked are those that are
                # sent.
                descriptor = stack.enter_context(files.opened_blob(blob.path))
                content = stack.enter_context(open(descriptor, "rb", closefd=False))
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno not in _MISSING:
                    raise _unreadable(blob, error) from error
                self._abandon(blob)
                why = f"{blob.path}: {getattr(error, 'strerror', error)}"
                raise RemoteError(
                    f"the content of {limits.shown(blob.name)} is missing from the spool: {why}",
                    kind=ErrorKind.PERMANENT,
                    code="BlobMissing",
                    hint="restore spool/ from a copy of the journal, then `journaltrack retry`",
                ) from error
            # Before anything reads the file or asks the store.
            if os.fstat(descriptor).st_size > blob.size_bytes:
                raise _damage(blob)
            return self._upload(blob, content)

    def put_document(self, document: Document) -> Answer:
        """Store the document, unless something has its name."""
        bucket = self._where(document.bucket)
        self._ensure(bucket)
        key = f"{_folder(document.prefix, document.folder)}/{object_name(document.name)}"
        digest = hashlib.sha256(document.content)
        try:
            answer = self._s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=document.content,
                IfNoneMatch="*",
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                ContentType="application/json",
                Metadata={"sha256": digest.hexdigest()},
            )
            self.confirm(
                answer,
                document.content,
                Place(bucket, key, digest.hexdigest()),
                len(document.content),
            )
        except ClientError as error:
            if not is_taken(error):
                raise
            answer = error.response
        return Answer(
            answer.get("ResponseMetadata", {}).get("RequestId") or None, uri=f"s3://{bucket}/{key}"
        )

    def documents(self, bucket: str | None, prefix: str | None, folder: str) -> dict[str, bytes]:
        """Return the documents of a folder, by name."""
        bucket, begin = self._where(bucket), f"{_folder(prefix, folder)}/"
        found = {}
        try:
            for page in self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=begin
            ):
                for each in page.get("Contents", ()):
                    if each["Size"] <= DOCUMENT_BYTES_MAX:
                        answer = self._s3.get_object(Bucket=bucket, Key=each["Key"])
                        found[each["Key"].removeprefix(begin)] = answer["Body"].read(
                            DOCUMENT_BYTES_MAX
                        )
        except ClientError as error:
            if code_of(error) == "NoSuchBucket":
                return {}
            raise
        return found

    def document_names(
        self, bucket: str | None, prefix: str | None, folder: str, after: str
    ) -> list[str]:
        """Return the first 1,000 names in a folder that sort after ``after``."""
        bucket, begin = self._where(bucket), f"{_folder(prefix, folder)}/"
        try:
            page = self._s3.list_objects_v2(Bucket=bucket, Prefix=begin, StartAfter=begin + after)
        except ClientError as error:
            if code_of(error) == "NoSuchBucket":
                return []
            raise
        fitting = [each for each in page.get("Contents", ()) if each["Size"] <= DOCUMENT_BYTES_MAX]
        return [each["Key"].removeprefix(begin) for each in fitting]

    def document(
        self, bucket: str | None, prefix: str | None, folder: str, name: str
    ) -> bytes | None:
        """Return the start of a document that is as long as any of ours, or None."""
        bucket, key = self._where(bucket), f"{_folder(prefix, folder)}/{object_name(name)}"
        try:
            content: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read(
                DOCUMENT_BYTES_MAX
            )
        except ClientError as error:
            if code_of(error) in _GONE:
                return None
            raise
        return content

    def find(self, uri: str, *, read: bool = False) -> RemoteObject | None:
        """Ask for the object's size and digests, and ``read`` it for a missing digest."""
        bucket, key = _place(uri)
        try:
            held = self._head(bucket, key, ChecksumMode="ENABLED")
        except ClientError as error:
            # With KMS, checksums also need kms:Decrypt (S3's HeadObject reference): ask without.
            if status_of(error) != 403:  # noqa: PLR2004
                raise
            held = self._head(bucket, key)
        if held is None:
            return None
        sha256 = _whole_sha256(held)
        if sha256 is None and read:
            try:
                held = self._s3.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                # It was deleted since the HEAD.
                if code_of(error) in _GONE:
                    return None
                raise
            sha256 = self._digest(held["Body"])
        noted = held.get("Metadata", {}).get("sha256")
        request_id = held.get("ResponseMetadata", {}).get("RequestId")
        size_bytes = int(held.get("ContentLength", 0))
        return RemoteObject(size_bytes, sha256, noted, str(request_id) if request_id else None)

    def etag_of(self, uri: str, sha256: str) -> str | None:
        """Return the ETag of an uploaded object, with its quotes. None if it must not be read.

        Args:
            uri: Of the object.
            sha256: Digest that was noted at its upload, hexadecimal.

        Raises:
            RemoteError: (permanent) The object is gone, or another one is there.
        """
        bucket, key = _place(uri)
        problem = "another object is there now"
        try:
            held = self._s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # Reading needs a permission of its own, which an upload does not.
            if status_of(error) == 403:  # noqa: PLR2004
                return None
            if status_of(error) != 404 or not is_of_service(error):  # noqa: PLR2004
                raise
            held, problem = {}, "it is gone"
        if held.get("Metadata", {}).get("sha256") == sha256:
            return str(held["ETag"])
        raise RemoteError(
            f"{uri} was uploaded, and {problem}",
            kind=ErrorKind.PERMANENT,
            code="ObjectConflict",
            hint="`journaltrack check --remote --repair` uploads it again",
        )

    def _digest(self, body: Any) -> str:  # noqa: ANN401
        digest = hashlib.sha256()
        with contextlib.closing(body):
            while block := body.read(_READ_BYTES):
                digest.update(block)
                self._check_time("reading the object")
        return digest.hexdigest()

    def _upload(self, blob: BlobUpload, content: IO[bytes]) -> Answer:
        bucket = self._where(blob.bucket)
        self._ensure(bucket)
        first, second = (Place(bucket, key, blob.sha256) for key in _keys(blob))
        for place in (first, second):
            request_id = self._put(blob, content, place)
            if request_id is not None:
                return Answer(request_id or None, uri=f"s3://{bucket}/{place.key}")
        message = f"s3://{bucket}/{second.key} holds other content; nothing was overwritten"
        raise RemoteError(message, kind=ErrorKind.PERMANENT, code="ObjectConflict")

    def _abandon(self, blob: BlobUpload) -> None:
        """Discard what an earlier pass sent of a blob whose content is gone."""
        notes = UploadNotes(blob.scratch)
        if notes.any():
            with contextlib.suppress(RemoteError, ClientError, BotoCoreError):
                bucket = self._where(blob.bucket)
                for key in _keys(blob):
                    self._multipart.discard(Place(bucket, key, blob.sha256), notes)

    def _put(self, blob: BlobUpload, content: IO[bytes], place: Place) -> str | None:
        """Store the content under a key unless the key is taken.

        Returns:
            The request's id. None if other content is there.
        """
        # The file's size, not the recorded one: a crafted journal may hold any number.
        if os.fstat(content.fileno()).st_size <= IN_ONE_PIECE_BYTES_MAX:
            try:
                return self._put_small(blob, content, place)
            except ClientError as error:
                if not is_taken(error):
                    raise
        held = self._head(place.bucket, place.key)
        if held is None:
            return self._put_large(blob, content, place)
        # A pass that was killed, or lost an answer, may have begun an upload.
        self._multipart.discard(place, UploadNotes(blob.scratch))
        return _ours(held, blob, content)

    def _put_small(self, blob: BlobUpload, raw: IO[bytes], place: Place) -> str:
        size_bytes = os.fstat(raw.fileno()).st_size
        sha256 = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
        whole = Part(1, 0, size_bytes, sha256)
        # A store that compares refuses other bytes. Any other would keep them under this name.
        if not self._compares:
            _compare(blob, whole, raw)
        try:
            answer = self._s3.put_object(
                Bucket=place.bucket,
                Key=place.key,
                Body=Body(raw.fileno(), 0, size_bytes, self._check_grace),
                IfNoneMatch="*",
                ChecksumSHA256=sha256,
                **_described(blob),
            )
        except (BotoCoreError, ClientError) as error:
            # botocore's HTTP layer wraps what a body raises: raise the deadline's error instead.
            if isinstance(error, BotoCoreError):
                self._check_grace()
            # The cause may be the file: BadDigest may mean damage here, or on the way to S3.
            _compare(blob, whole, raw)
            raise
        self._compares = "ChecksumSHA256" in answer
        body = Body(raw.fileno(), 0, size_bytes, self._check_grace)
        self.confirm(answer, body, place, size_bytes)
        return str(answer["ResponseMetadata"].get("RequestId") or "")

    def confirm(
        self, answer: dict[str, Any], body: Body | bytes, place: Place, size_bytes: int
    ) -> None:
        """Ask for an object if the store confirmed it with neither checksum nor MD5.

        Raises:
            RemoteError: The object is missing, or another one is there.
        """
        if "ChecksumSHA256" in answer or is_md5(answer["ETag"], body):
            return
        held = self._head(place.bucket, place.key)
        if held is None or not is_ours(held, size_bytes, place.sha256):
            raise not_an_answer("PutObject", "a success, and the object is not there")

    def _put_large(self, blob: BlobUpload, raw: IO[bytes], place: Place) -> str | None:
        with self._large:
            notes = UploadNotes(blob.scratch)
            try:
                request_id = self._multipart.put(
                    place, raw.fileno(), _described(blob), notes, blob.parts
                )
            except DamagedError as error:
                raise _damage(blob) from error
            # The file's error: botocore wraps those of the network.
            except OSError as error:
                raise _unreadable(blob, error) from error
        if request_id is not None:
            return request_id
        # The key was taken meanwhile, perhaps by another copy of this journal.
        held = self._head(place.bucket, place.key)
        return _ours(held, blob, raw) if held is not None else None

    def _head(self, bucket: str, key: str, **options: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._s3.head_object(Bucket=bucket, Key=key, **options)
        except ClientError as error:
            if status_of(error) == 404 and is_of_service(error):  # noqa: PLR2004
                return None
            if status_of(error) not in _SAYS_NOTHING:
                raise
            # A GET tells why in words. The body is not read.
            try:
                self._s3.get_object(Bucket=bucket, Key=key)["Body"].close()
            except ClientError as in_words:
                if code_of(in_words) in _GONE:
                    return None
                raise in_words from error
            raise
        return answer

    def place(self, bucket: str | None) -> tuple[Any, str]:
        """Return the client, and the name of the bucket that is used for a recorded one."""
        name = self._where(bucket)
        return self._s3, name

    def _where(self, bucket: str | None) -> str:
        """Return the bucket to use in place of the recorded one."""
        named = bucket or self._bucket()
        return self._storage.instead.get(bucket or "", self._storage.instead.get(named, named))

    def _bucket(self) -> str:
        """Return the default bucket: ``sagemaker-<region>-<account>``, as in the SageMaker SDK."""
        with self._lock:
            if self._default_bucket is None:
                self._account = str(self._clients.sts.get_caller_identity()["Account"])
                self._default_bucket = f"sagemaker-{self._s3.meta.region_name}-{self._account}"
            return self._default_bucket

    def _ensure(self, bucket: str) -> None:
        """Check once that the bucket exists, and create it if it does not."""
        with self._lock:
            if bucket in self._ensured:
                return
            if not self._is_there(bucket):
                self._create(bucket)
            self._ensured.add(bucket)

    def _is_there(self, bucket: str) -> bool:
        """Return whether the bucket exists.

        The answer to a HEAD has no body that says why not, or who answers. Then ask with a GET.
        """
        try:
            self._s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if status_of(error) not in _SAYS_NOTHING:
                raise
        except RemoteError as error:
            if error.code != NOT_AN_ANSWER:
                raise
        else:
            return True
        try:
            self._s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            if code_of(error) == "NoSuchBucket":
                return False
            raise
        return True

    def _create(self, bucket: str) -> None:
        other = f"`journaltrack sync --bucket {bucket}=OTHER`"
        if not self._create_buckets:
            raise RemoteError(
                f"the bucket {bucket} does not exist, and allow.create_buckets is false",
                kind=ErrorKind.HALT,
                code=NOT_ALLOWED,
                uploads_only=True,
                hint=f"create it, or {other}; artifacts wait in the journal",
            )
        region = self._s3.meta.region_name
        # us-east-1 is the one region that must not be named (S3's CreateBucket reference).
        location = (
            {}
            if region == "us-east-1"
            else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        try:
            self._s3.create_bucket(Bucket=bucket, **location)
        except ClientError as error:
            code = code_of(error)
            if code == "BucketAlreadyOwnedByYou":
                return
            if code in {"AccessDenied", "403", "BucketAlreadyExists"}:
                raise RemoteError(
                    f"the bucket {bucket} does not exist and can't be created: {error}",
                    kind=ErrorKind.HALT,
                    code=code,
                    request_id=error.response.get("ResponseMetadata", {}).get("RequestId"),
                    uploads_only=True,
                    hint=f"create it, allow s3:CreateBucket, or {other}; artifacts wait here",
                ) from error
            raise

    def _check_grace(self) -> None:
        """Raise if a request that is being sent must end, see ``_check_time``."""
        if self._deadline.grace_remaining_s() <= 0:
            self._check_time()

    def _check_time(self, what: str = "the upload") -> None:
        if self._deadline.over:
            message = f"{what} was cut short by the deadline"
            raise RemoteError(message, kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)


def _folder(prefix: str | None, folder: str) -> str:
    name = object_name(folder)
    return name if prefix == "" else f"{prefix_name(prefix)}/{name}"


def _place(uri: str) -> tuple[str, str]:
    """Return bucket and key of an S3 URI.

    Raises:
        RemoteError: It is none. A journal may hold any text there.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        message = f"{limits.shown(uri)} is no object in S3"
        raise RemoteError(message, kind=ErrorKind.PERMANENT, code="NotAnObject")
    return bucket, key


def _whole_sha256(held: dict[str, Any]) -> str | None:
    """Return S3's SHA-256 of a whole object, in hexadecimal.

    None for a multipart upload, whose checksum is one of its parts' digests ("COMPOSITE", "…-3").
    moto does not tell the type of a checksum, but its ETag ends in "-3" as well.
    """
    value = held.get("ChecksumSHA256")
    is_whole = held.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    of_parts = not is_whole or "-" in str(held.get("ETag", ""))
    if not isinstance(value, str) or of_parts:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _keys(blob: BlobUpload) -> tuple[str, str]:
    """Return the keys for a content: its name and, if that is taken, a name with its digest."""
    name = object_name(blob.name)
    folder = f"{prefix_name(blob.prefix)}/{object_name(blob.component)}"
    path = PurePosixPath(name)
    told = path.with_name(f"{path.stem}.{blob.sha256[:12]}{path.suffix}")
    return f"{folder}/{name}", f"{folder}/{told}"


def _ours(held: dict[str, Any], blob: BlobUpload, content: IO[bytes]) -> str | None:
    """Return the id of the request that described an object, or None if it is other content."""
    # Compare the size as well: somebody may have replaced the bytes and kept the metadata.
    if is_ours(held, os.fstat(content.fileno()).st_size, blob.sha256):
        return str(held.get("ResponseMetadata", {}).get("RequestId") or "")
    return None


def _described(blob: BlobUpload) -> dict[str, Any]:
    described: dict[str, Any] = {"Metadata": {"sha256": blob.sha256}}
    media_type = blob.media_type
    if (
        media_type
        and len(media_type) <= _MEDIA_TYPE_CHARS_MAX
        and media_type.isascii()
        and media_type.isprintable()
    ):
        described["ContentType"] = media_type
    return described


def _unreadable(blob: BlobUpload, error: OSError) -> RemoteError:
    """Make the error for a blob that can't be read.

    A missing permission or a failing disk says nothing about the bytes, so the entry stays pending.
    """
    return RemoteError(
        f"the content of {limits.shown(blob.name)} can't be read: {blob.path}: {error.strerror}",
        kind=ErrorKind.HALT,
        code="BlobUnreadable",
        uploads_only=True,
        hint=f"{os_hint(error)}; the artifacts wait in the journal",
    )


def _compare(blob: BlobUpload, whole: Part, raw: IO[bytes]) -> None:
    """Raise the error for a blob that is not what was recorded, or can't be read."""
    try:
        whole.compare(raw.fileno())
    except DamagedError as error:
        raise _damage(blob) from error
    except OSError as error:
        raise _unreadable(blob, error) from error


def _damage(blob: BlobUpload) -> RemoteError:
    name = limits.shown(blob.name)
    return RemoteError(
        f"the spool's content of {name} is not what was logged: SHA-256 or size differ",
        kind=ErrorKind.PERMANENT,
        code="BlobDamaged",
        hint="restore spool/ from a copy of the journal, then `journaltrack retry`",
    )
