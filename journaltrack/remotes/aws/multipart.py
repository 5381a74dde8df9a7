"""Begin, find again, complete and abort multipart uploads, so that an upload survives a kill.

S3 verifies the SHA-256 of every part when it arrives, and again when it completes the object. The
digest of the whole is computed from the same bytes; no object is completed unless it is the
recorded one. Parts that S3 holds of an interrupted upload are not sent again.

An upload is ours if

- its id was noted (``upload_notes``), or
- it is empty, and was begun after a noted intent, or
- it has parts, and every one is a part of our content by number, size and SHA-256.

All other uploads at the same key belong to somebody else: they are never continued or aborted. Two
copies of a journal may continue one upload at the same time, since both send the same parts.

Must not know object names, or what happens to an artifact whose key is taken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import (
    classified,
    code_of,
    is_of_service,
    is_taken,
    not_an_answer,
    status_of,
)
from journaltrack.remotes.aws.parts import Body, DamagedError, Held, Part, Parts, Plan, digest_at
from journaltrack.remotes.aws.proof import is_ours

if TYPE_CHECKING:
    from datetime import datetime

    from journaltrack.remotes.upload_notes import Note, Place, UploadNotes
    from journaltrack.util.digest import PartDigests

logger = logging.getLogger(__name__)

_CLOCKS_DIFFER_S: Final = 900.0
"""S3 refuses requests from clocks that differ more (RequestTimeTooSkewed)."""
_UPLOADS_MAX: Final = 50
"""Ours: uploads at one key that are examined."""
_GONE: Final = "NoSuchUpload"


class _GoneError(Exception):
    """The upload does not exist, or no longer."""


class _NotToldError(Exception):
    """The store does not tell."""


@dataclass(slots=True)
class _Upload:
    """An upload under way. ``others`` are more uploads of ours at the same key, not needed."""

    upload_id: str
    parts: Parts
    others: tuple[str, ...] = ()


class Multipart:
    """Sends large contents in parts. Threads may share it.

    Args:
        client: Gives boto3's client for S3.
        check_time: Raises if no request may begin any more. What was sent stays, to be continued.
        check_grace: Raises if a request that is being sent must end too.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        check_time: Callable[[], None],
        check_grace: Callable[[], None],
    ) -> None:
        self._client = client
        self._check_time = check_time
        self._check_grace = check_grace
        # The pass's next attempt continues these.
        self._interrupted: dict[Place, _Upload] = {}
        self._lock = threading.Lock()

    def put(
        self,
        place: Place,
        descriptor: int,
        described: dict[str, Any],
        notes: UploadNotes,
        recorded: PartDigests | None = None,
    ) -> str | None:
        """Upload a file as an object, unless its key is taken.

        Args:
            place: Bucket and key of the object.
            descriptor: Descriptor of the file.
            described: The object's members for CreateMultipartUpload.
            notes: Notes of the journal's uploads.
            recorded: The digests of the file's parts, recorded with that of the whole.

        Returns:
            The id of the last request. None if the key is taken: the upload is aborted then.

        Raises:
            DamagedError: The file is not what was recorded. The upload is aborted.
            RemoteError: A request failed. After a transient failure, the next call continues.
        """
        with self._lock:
            upload = self._interrupted.pop(place, None)
        upload = upload or self._opened(place, descriptor, described, notes, recorded)
        try:
            upload.parts.send(
                descriptor, lambda part: self._put_part(place, upload.upload_id, descriptor, part)
            )
            answer = self._complete(place, upload)
        except Exception as error:
            self._interrupt(place, upload, notes, error)
            raise
        if answer is None:
            self.abort(place, upload.upload_id, notes)
            return None
        notes.forget(place)
        for upload_id in upload.others:
            self._abort(place, upload_id)
        return str(answer.get("ResponseMetadata", {}).get("RequestId") or "")

    def discard(self, place: Place, notes: UploadNotes) -> None:
        """Abort an upload that is no longer needed, if one is known."""
        note = notes.read(place)
        with self._lock:
            upload = self._interrupted.pop(place, None)
        noted_id = note.upload_id if note is not None else None
        upload_id = upload.upload_id if upload is not None else noted_id
        if upload_id is not None:
            self.abort(place, upload_id, notes)

    def abort(self, place: Place, upload_id: str, notes: UploadNotes) -> None:
        """Abort an upload of ours. If that fails, its note stays for another try."""
        if self._abort(place, upload_id):
            notes.forget(place)

    def _interrupt(
        self, place: Place, upload: _Upload, notes: UploadNotes, error: Exception
    ) -> None:
        """Keep the upload for another attempt after an error, or abort it."""
        # botocore's HTTP layer wraps what a body raises: raise the deadline's error instead.
        if isinstance(error, BotoCoreError):
            self._check_time()
        if isinstance(error, ClientError) and code_of(error) == _GONE:
            notes.forget(place)
            message = "somebody, or a rule of the bucket, aborted the upload: it begins again"
            raise _again(error, message) from error
        if isinstance(error, ClientError) and code_of(error) == "InvalidPart":
            message = "a part was replaced meanwhile: S3 is asked which parts it holds"
            raise _again(error, message) from error
        if isinstance(error, DamagedError) or classified(error).kind is ErrorKind.PERMANENT:
            self.abort(place, upload.upload_id, notes)
            return
        with self._lock:
            self._interrupted[place] = upload

    # -- finding and beginning

    def _opened(
        self,
        place: Place,
        descriptor: int,
        described: dict[str, Any],
        notes: UploadNotes,
        recorded: PartDigests | None,
    ) -> _Upload:
        note = notes.read(place)
        plan = Plan.of(os.fstat(descriptor).st_size, note.part_bytes if note is not None else None)

        def parts(held: dict[int, Held]) -> Parts:
            """Return the parts, of which the store holds some."""
            return Parts(plan, place.sha256, held, recorded)

        if note is not None and note.upload_id is not None:
            try:
                return _Upload(note.upload_id, parts(self._held(place, note.upload_id)))
            except _NotToldError:
                # Send all parts again, into the same upload.
                return _Upload(note.upload_id, parts({}))
            except _GoneError:
                notes.forget(place)
                note = None
        found = self._found(place, plan, descriptor, note)
        if found:
            upload_id, held = found[0]
            notes.begun(place, note or notes.intend(place, plan.part_bytes), upload_id)
            others = tuple(other for other, _ in found[1:])
            return _Upload(upload_id, parts(held), others)
        note = notes.intend(place, plan.part_bytes)
        answer = self._client().create_multipart_upload(
            Bucket=place.bucket, Key=place.key, ChecksumAlgorithm="SHA256", **described
        )
        notes.begun(place, note, answer["UploadId"])
        return _Upload(answer["UploadId"], parts({}))

    def _found(
        self, place: Place, plan: Plan, descriptor: int, note: Note | None
    ) -> list[tuple[str, dict[int, Held]]]:
        """Return our uploads at the key that have no note, the one with most parts first."""
        found = []
        since_s = float("inf") if note is None else note.intended_at_s - _CLOCKS_DIFFER_S
        for upload_id, initiated in self._listed(place):
            intended = initiated is not None and initiated.timestamp() >= since_s
            with contextlib.suppress(_GoneError, _NotToldError):
                held = self._held(place, upload_id)
                if self._are_ours(held, plan, descriptor) if held else intended:
                    found.append((upload_id, held))
        return sorted(found, key=lambda each: -len(each[1]))

    def _are_ours(self, held: dict[int, Held], plan: Plan, descriptor: int) -> bool:
        if any(
            part.sha256 is None or part.size_bytes != plan.size(number)
            for number, part in held.items()
        ):
            return False
        for number, part in held.items():
            self._check_time()
            if part.sha256 != digest_at(descriptor, plan.place(number), part.size_bytes):
                return False
        return True

    def _listed(self, place: Place) -> Iterator[tuple[str, datetime | None]]:
        """Yield id and time of uploads at exactly this key with SHA-256 checksums.

        Yields nothing if listing is not permitted.
        """
        count = 0
        with contextlib.suppress(_GoneError, _NotToldError), self._optional("ListMultipartUploads"):
            paginator = self._client().get_paginator("list_multipart_uploads")
            for page in paginator.paginate(Bucket=place.bucket, Prefix=place.key):
                for each in page.get("Uploads", ()):
                    checked = each.get("ChecksumAlgorithm", "SHA256") == "SHA256"
                    if each.get("Key") == place.key and checked and count < _UPLOADS_MAX:
                        count += 1
                        yield each["UploadId"], each.get("Initiated")
                # S3 lists uploads in the order of their keys.
                if any(each.get("Key", "") > place.key for each in page.get("Uploads", ())):
                    return

    def _held(self, place: Place, upload_id: str) -> dict[int, Held]:
        """Return the parts that S3 holds, by number.

        Raises:
            _GoneError: The upload does not exist.
            _NotToldError: Listing is not permitted.
        """
        held = {}
        at = {"Bucket": place.bucket, "Key": place.key, "UploadId": upload_id}
        with self._optional("ListParts"):
            for page in self._client().get_paginator("list_parts").paginate(**at):
                for part in page.get("Parts", ()):
                    size_bytes, sha256 = int(part["Size"]), part.get("ChecksumSHA256")
                    held[int(part["PartNumber"])] = Held(size_bytes, sha256, part["ETag"])
        return held

    @contextlib.contextmanager
    def _optional(self, operation: str) -> Iterator[None]:
        """Wrap a request that an upload can do without. Transient failures are raised as they are.

        Raises:
            _GoneError: The upload does not exist.
            _NotToldError: The request is not permitted, or the store does not know it. If there is
                another cause, the next request fails as well and says so.
        """
        try:
            yield
        except ClientError as error:
            if status_of(error) == 404 and is_of_service(error):  # noqa: PLR2004
                raise _GoneError from error
            failure = classified(error)
            refused = status_of(error) in {400, 403, 405, 501}
            if not refused or failure.kind is ErrorKind.TRANSIENT:
                raise
            logger.debug("uploads are continued without %s: %s", operation, failure.message)
            raise _NotToldError from error

    # -- sending and ending

    def _put_part(self, place: Place, upload_id: str, descriptor: int, part: Part) -> str:
        self._check_time()
        try:
            answer = self._client().upload_part(
                Bucket=place.bucket,
                Key=place.key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=Body(descriptor, part.place, part.size_bytes, self._check_grace),
                ChecksumSHA256=part.sha256,
            )
        except (ClientError, BotoCoreError):
            # The cause may be the file: it has become shorter, or other bytes.
            part.compare(descriptor)
            raise
        if "ChecksumSHA256" not in answer:
            # The store did not say that it compared.
            part.compare(descriptor)
        return str(answer["ETag"])

    def _complete(self, place: Place, upload: _Upload) -> dict[str, Any] | None:
        """Complete the object. Return the answer, or None if the key is taken."""
        self._check_time()
        parts = [
            {"PartNumber": number, "ETag": etag, "ChecksumSHA256": digest}
            for number, etag, digest in upload.parts.sent()
        ]
        try:
            answer: dict[str, Any] = self._client().complete_multipart_upload(
                Bucket=place.bucket,
                Key=place.key,
                UploadId=upload.upload_id,
                MultipartUpload={"Parts": parts},
                MpuObjectSize=upload.parts.size_bytes,
                IfNoneMatch="*",
            )
        except ClientError as error:
            if is_taken(error):
                return None
            raise
        told = answer.get("ChecksumSHA256")
        if not isinstance(told, str) or not told.endswith(f"-{len(parts)}"):
            self._confirm(place, upload)
        elif told != upload.parts.composite():
            raise RemoteError(
                f"s3://{place.bucket}/{place.key} is not what was sent: its checksum is {told}",
                kind=ErrorKind.PERMANENT,
                code="ObjectDiffers",
                hint="check it (`journaltrack check --remote --deep`), delete it, "
                "`journaltrack retry`",
            )
        return answer

    def _confirm(self, place: Place, upload: _Upload) -> None:
        """Ask for an object that the store completed without telling its checksum.

        Raises:
            RemoteError: The object is missing, or another one is there.
        """
        try:
            held = self._client().head_object(Bucket=place.bucket, Key=place.key)
        except ClientError as error:
            if status_of(error) != 404:  # noqa: PLR2004
                raise
            held = {}
        if not is_ours(held, upload.parts.size_bytes, place.sha256):
            raise not_an_answer("CompleteMultipartUpload", "a success, and the object is not there")

    def _abort(self, place: Place, upload_id: str) -> bool:
        """Abort an upload. Return whether it is gone, or may not be aborted."""
        at = {"Bucket": place.bucket, "Key": place.key, "UploadId": upload_id}
        # A RemoteError means that the request's turn would come after the deadline.
        try:
            self._client().abort_multipart_upload(**at)
        except (ClientError, BotoCoreError, RemoteError) as error:
            logger.debug("an upload was not aborted: %s", classified(error).message)
            return isinstance(error, ClientError) and status_of(error) in {403, 404}
        return True


def _again(error: ClientError, message: str) -> RemoteError:
    request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
    return RemoteError(
        message, kind=ErrorKind.TRANSIENT, code=code_of(error), request_id=request_id
    )
