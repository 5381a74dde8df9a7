"""Multipart uploads that outlive a kill: begun, found again, put together, or aborted.

S3 verifies the SHA-256 of every part as it comes, and again when the object is put together; the digest of the whole is computed from
the same bytes, and without it there is no object. What S3 has of an interrupted upload is not sent again.

Whose an upload is: ours, if its id was noted (``upload_notes``), if it is empty and was begun after a noted intent, or if it has parts
and every one of them is, by number, size and SHA-256, a part of our content. All others at the same key are somebody else's: never
continued, never aborted. Two copies of a journal may continue one upload at the same time: they send the same parts.

Must not know object names, or what becomes of an artifact whose key is taken.
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
from journaltrack.remotes.aws import parts as aws_parts
from journaltrack.remotes.aws.errors import classified, code_of, is_of_service, is_taken, not_an_answer, status_of
from journaltrack.remotes.aws.parts import Body, Held, Part, Parts, Plan
from journaltrack.remotes.aws.proof import is_ours

if TYPE_CHECKING:
    from datetime import datetime

    from journaltrack.remotes.upload_notes import Note, Place, UploadNotes

logger = logging.getLogger(__name__)

_CLOCKS_DIFFER_S: Final = 900.0
"""S3 refuses requests whose time is further from its own (RequestTimeTooSkewed)."""
_UPLOADS_MAX: Final = 50
"""Ours: uploads at one key that are looked at."""
_GONE: Final = "NoSuchUpload"


class _GoneError(Exception):
    """There is no such upload (any more)."""


class _NotToldError(Exception):
    """The store does not say."""


@dataclass(slots=True)
class _Upload:
    """One that is under way; ``others`` are such of ours at the same key that will not be needed."""

    upload_id: str
    parts: Parts
    others: tuple[str, ...] = ()


class Multipart:
    """Sends large contents in parts. Threads may share it.

    Args:
        client: Gives boto3's client for S3.
        check_time: Raises when no request may be begun any more; what was sent until then stays, to be continued.
        check_grace: Raises when also what is being sent has to end.
    """

    def __init__(self, client: Callable[[], Any], check_time: Callable[[], None], check_grace: Callable[[], None]) -> None:
        self._client = client
        self._check_time = check_time
        self._check_grace = check_grace
        self._interrupted: dict[Place, _Upload] = {}  # to be sent on by the next attempt of this pass
        self._lock = threading.Lock()

    def put(self, place: Place, descriptor: int, described: dict[str, Any], notes: UploadNotes) -> str | None:
        """Make the object of these bytes, unless its key is taken: then None, and nothing is left of them.

        Args:
            place: Where it goes.
            descriptor: Of the file.
            described: What CreateMultipartUpload is told of the object.
            notes: Where uploads of the journal are noted.

        Returns:
            The id of the last request.

        Raises:
            DamagedError: The file is not what was recorded; nothing is left of the upload.
            RemoteError: Of a kind that is worth another attempt, the upload goes on then.
        """
        with self._lock:
            upload = self._interrupted.pop(place, None)
        upload = upload or self._opened(place, descriptor, described, notes)
        try:
            upload.parts.send(descriptor, lambda part: self._put_part(place, upload.upload_id, descriptor, part))
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
        """Abort what is known of an upload that is not needed any more."""
        note = notes.read(place)
        with self._lock:
            upload = self._interrupted.pop(place, None)
        if upload is not None or (note is not None and note.upload_id is not None):
            self.abort(place, upload.upload_id if upload is not None else str(note and note.upload_id), notes)

    def abort(self, place: Place, upload_id: str, notes: UploadNotes) -> None:
        """Abort an upload of ours; if that does not succeed it is still noted, and tried again the next time."""
        if self._abort(place, upload_id):
            notes.forget(place)

    def _interrupt(self, place: Place, upload: _Upload, notes: UploadNotes, error: Exception) -> None:
        """What becomes of the upload after an error."""
        if isinstance(error, BotoCoreError):
            self._check_time()  # botocore's HTTP layer wraps what a body raises: say what it was
        if isinstance(error, ClientError) and code_of(error) == _GONE:
            notes.forget(place)
            raise _again(error, "the upload is gone, aborted by somebody or by a rule of the bucket: it is begun anew") from error
        if isinstance(error, ClientError) and code_of(error) == "InvalidPart":
            raise _again(error, "a part was replaced meanwhile: S3 is asked which ones it has") from error
        if isinstance(error, aws_parts.DamagedError) or classified(error).kind is ErrorKind.PERMANENT:
            self.abort(place, upload.upload_id, notes)
            return
        with self._lock:
            self._interrupted[place] = upload

    # -- finding and beginning

    def _opened(self, place: Place, descriptor: int, described: dict[str, Any], notes: UploadNotes) -> _Upload:
        note = notes.read(place)
        plan = Plan.of(os.fstat(descriptor).st_size, note.part_bytes if note is not None else None)
        if note is not None and note.upload_id is not None:
            try:
                return _Upload(note.upload_id, Parts(plan, place.sha256, self._held(place, note.upload_id)))
            except _NotToldError:  # all of them are sent again, into the same upload
                return _Upload(note.upload_id, Parts(plan, place.sha256, {}))
            except _GoneError:
                notes.forget(place)
                note = None
        found = self._found(place, plan, descriptor, note)
        if found:
            upload_id, held = found[0]
            notes.begun(place, note or notes.intend(place, plan.part_bytes), upload_id)
            return _Upload(upload_id, Parts(plan, place.sha256, held), tuple(other for other, _ in found[1:]))
        note = notes.intend(place, plan.part_bytes)
        answer = self._client().create_multipart_upload(Bucket=place.bucket, Key=place.key, ChecksumAlgorithm="SHA256", **described)
        notes.begun(place, note, answer["UploadId"])
        return _Upload(answer["UploadId"], Parts(plan, place.sha256, {}))

    def _found(self, place: Place, plan: Plan, descriptor: int, note: Note | None) -> list[tuple[str, dict[int, Held]]]:
        """Uploads of ours at the key that nobody noted, the furthest first."""
        found = []
        for upload_id, initiated in self._listed(place):
            intended = note is not None and initiated is not None and initiated.timestamp() >= note.intended_at_s - _CLOCKS_DIFFER_S
            with contextlib.suppress(_GoneError, _NotToldError):
                held = self._held(place, upload_id)
                if self._are_ours(held, plan, descriptor) if held else intended:
                    found.append((upload_id, held))
        return sorted(found, key=lambda each: -len(each[1]))

    def _are_ours(self, held: dict[int, Held], plan: Plan, descriptor: int) -> bool:
        if any(part.sha256 is None or part.size_bytes != plan.size(number) for number, part in held.items()):
            return False
        for number, part in held.items():
            self._check_time()
            if part.sha256 != aws_parts.digest_at(descriptor, plan.place(number), part.size_bytes):
                return False
        return True

    def _listed(self, place: Place) -> Iterator[tuple[str, datetime | None]]:
        """Uploads at exactly this key that carry SHA-256 checksums, as far as it may be known."""
        count = 0
        with contextlib.suppress(_GoneError, _NotToldError), self._optional("ListMultipartUploads"):
            for page in self._client().get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=place.key):
                for each in page.get("Uploads", ()):
                    if each.get("Key") == place.key and each.get("ChecksumAlgorithm", "SHA256") == "SHA256" and count < _UPLOADS_MAX:
                        count += 1
                        yield each["UploadId"], each.get("Initiated")
                if any(each.get("Key", "") > place.key for each in page.get("Uploads", ())):
                    return  # they come in the order of their keys

    def _held(self, place: Place, upload_id: str) -> dict[int, Held]:
        """The parts that S3 has.

        Raises:
            _GoneError: There is no such upload.
            _NotToldError: It may not be known.
        """
        held = {}
        with self._optional("ListParts"):
            pages = self._client().get_paginator("list_parts").paginate(Bucket=place.bucket, Key=place.key, UploadId=upload_id)
            for page in pages:
                for part in page.get("Parts", ()):
                    held[int(part["PartNumber"])] = Held(int(part["Size"]), part.get("ChecksumSHA256"), part["ETag"])
        return held

    @contextlib.contextmanager
    def _optional(self, operation: str) -> Iterator[None]:
        """A request without whose answer an upload succeeds as well; what is passing is raised as it is.

        Raises:
            _GoneError: There is no such upload.
            _NotToldError: It is not permitted, or not known there. If the cause is another one, the next request says so, too.
        """
        try:
            yield
        except ClientError as error:
            if status_of(error) == 404 and is_of_service(error):  # noqa: PLR2004
                raise _GoneError from error
            if status_of(error) not in {400, 403, 405, 501} or classified(error).kind is ErrorKind.TRANSIENT:
                raise
            logger.debug("uploads are continued without %s: %s", operation, classified(error).message)
            raise _NotToldError from error

    # -- sending and ending

    def _put_part(self, place: Place, upload_id: str, descriptor: int, part: Part) -> str:
        self._check_time()
        answer = self._client().upload_part(
            Bucket=place.bucket,
            Key=place.key,
            UploadId=upload_id,
            PartNumber=part.number,
            Body=Body(descriptor, part.place, part.size_bytes, self._check_grace),
            ChecksumSHA256=part.sha256,
        )
        return str(answer["ETag"])

    def _complete(self, place: Place, upload: _Upload) -> dict[str, Any] | None:
        """Put the object together; None if its key is taken."""
        self._check_time()
        parts = [{"PartNumber": number, "ETag": etag, "ChecksumSHA256": digest} for number, etag, digest in upload.parts.sent()]
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
                f"s3://{place.bucket}/{place.key} was put together to something else: its checksum is {told}",
                kind=ErrorKind.PERMANENT,
                code="ObjectDiffers",
                hint="look at the object with `journaltrack verify --deep`, remove it, then `journaltrack retry`",
            )
        return answer

    def _confirm(self, place: Place, upload: _Upload) -> None:
        """Ask for an object of which the store told no checksum when it put it together.

        Raises:
            RemoteError: It is not there, or is something else.
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
        """Whether there is no such upload any more, or nothing can be done about it."""
        try:
            self._client().abort_multipart_upload(Bucket=place.bucket, Key=place.key, UploadId=upload_id)
        except ClientError as error:
            logger.debug("an upload was not aborted: %s", classified(error).message)
            return status_of(error) in {403, 404}
        except (BotoCoreError, RemoteError) as error:  # no network, or its turn would come after the deadline
            logger.debug("an upload was not aborted: %s", classified(error).message)
            return False
        return True


def _again(error: ClientError, message: str) -> RemoteError:
    request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
    return RemoteError(message, kind=ErrorKind.TRANSIENT, code=code_of(error), request_id=request_id)
