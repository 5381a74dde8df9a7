"""S3's bucket, object and multipart operations on the simulated account.

What it is: one method per operation; takes a parsed call and its verified body, gives a reply.
It must not know: credentials, faults, how a body was encoded.
Invariant: an operation that raises has changed nothing; an object appears whole or not at all.
"""

from __future__ import annotations

import itertools
import re
from datetime import datetime, timezone
from email.utils import formatdate
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote
from xml.etree import ElementTree as ET

from tests.simulator.auth import ACCOUNT
from tests.simulator.checksums import ALGORITHMS, checksum, composite, md5_hex
from tests.simulator.s3_wire import (
    S3Call,
    asked_encryption,
    checksum_headers,
    declared_checksums,
    element,
    fields,
    is_of_kms,
    metadata_headers,
    xml_reply,
)
from tests.simulator.state import Part, State, StoredObject, Upload
from tests.simulator.wire import HttpReply, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Checksums = dict[str, str]
_PART_BYTES_MIN = 5 << 20
_PARTS_MAX = 10_000
_PAGE_MAX = 1000
_BUCKET_NAME = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NAMESPACE = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class S3:
    """The service; the caller holds the lock.

    Attributes:
        page_parts_max: Of one answer of ListParts.
    """

    def __init__(self, state: State, region: str, clock: Callable[[], float]) -> None:
        self._state, self._region, self._clock = state, region, clock
        self._upload_ids = itertools.count(1)
        self.page_parts_max = _PAGE_MAX
        self._operations: Mapping[str, Callable[[S3Call, bytes, Checksums], HttpReply]] = {
            "HeadBucket": self._head_bucket,
            "CreateBucket": self._create_bucket,
            "GetBucketLocation": self._get_bucket_location,
            "ListObjectsV2": self._list_objects,
            "ListMultipartUploads": self._list_uploads,
            "PutObject": self._put_object,
            "HeadObject": self._get_object,
            "GetObject": self._get_object,
            "DeleteObject": self._delete_object,
            "CreateMultipartUpload": self._create_upload,
            "UploadPart": self._upload_part,
            "ListParts": self._list_parts,
            "CompleteMultipartUpload": self._complete_upload,
            "AbortMultipartUpload": self._abort_upload,
        }

    def apply(self, call: S3Call, body: bytes, checksums: Checksums) -> HttpReply:
        """Perform one operation.

        Args:
            call: The request, taken apart.
            body: The decoded payload.
            checksums: The verified checksums that came with it.
        """
        operation = self._operations.get(call.operation)
        if operation is None:
            raise ServiceError(501, "NotImplemented", "The simulator does not know this operation")
        if call.operation != "CreateBucket":
            self._check_bucket(call)
        return operation(call, body, checksums)

    def _check_bucket(self, call: S3Call) -> None:
        if call.bucket in self._state.foreign_buckets:
            raise ServiceError(403, "AccessDenied", "Access Denied")
        if call.bucket not in self._state.buckets:
            raise ServiceError(404, "NoSuchBucket", "The specified bucket does not exist")
        if call.headers.get("x-amz-expected-bucket-owner", ACCOUNT) != ACCOUNT:
            raise ServiceError(403, "AccessDenied", "Access Denied")
        unpaid = "x-amz-request-payer" not in call.headers and call.operation != "HeadBucket"
        if unpaid and call.bucket in self._state.requester_pays:
            raise ServiceError(403, "AccessDenied", "Access Denied")

    def _head_bucket(self, _call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        return HttpReply(200, b"", {"x-amz-bucket-region": self._region})

    def _create_bucket(self, call: S3Call, body: bytes, _sums: Checksums) -> HttpReply:
        if not _BUCKET_NAME.fullmatch(call.bucket):
            raise ServiceError(400, "InvalidBucketName", "The specified bucket is not valid.")
        node = ET.fromstring(body).find("s3:LocationConstraint", _NAMESPACE) if body else None
        location = node.text if node is not None else None
        # us-east-1 is the one region that must not be named.
        if self._region == "us-east-1" and location == "us-east-1":
            message = "The specified location-constraint is not valid"
            raise ServiceError(400, "InvalidLocationConstraint", message)
        if location != self._region and (self._region != "us-east-1" or location):
            message = f"The {location or 'unspecified'} location constraint is incompatible"
            raise ServiceError(400, "IllegalLocationConstraintException", message)
        if call.bucket in self._state.foreign_buckets:
            raise ServiceError(409, "BucketAlreadyExists", "The bucket name is not available.")
        if call.bucket in self._state.buckets and self._region != "us-east-1":
            raise ServiceError(409, "BucketAlreadyOwnedByYou", "You already own this bucket.")
        self._state.buckets.add(call.bucket)
        return HttpReply(200, b"", {"Location": f"/{call.bucket}"})

    def _get_bucket_location(self, _call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        return xml_reply("LocationConstraint", "" if self._region == "us-east-1" else self._region)

    def _put_object(self, call: S3Call, body: bytes, sums: Checksums) -> HttpReply:
        self._check_precondition(call)
        encryption = asked_encryption(call)
        stored = StoredObject(
            body=body,
            etag=_etag(body, encryption),
            content_type=call.headers.get("content-type", "binary/octet-stream"),
            metadata=call.metadata(),
            checksums=sums or {"crc32": checksum("crc32", body)},
            modified=self._clock(),
            encryption=encryption,
        )
        self._state.objects[call.bucket, call.key] = stored
        headers = {"ETag": f'"{stored.etag}"', **checksum_headers(stored.checksums), **encryption}
        return HttpReply(200, b"", {**headers, "x-amz-checksum-type": "FULL_OBJECT"})

    def _check_precondition(self, call: S3Call) -> None:
        condition = call.headers.get("if-none-match")
        if condition not in {None, "*"}:
            raise ServiceError(501, "NotImplemented", "If-None-Match takes only * here")
        if condition and (call.bucket, call.key) in self._state.objects:
            message = "At least one of the pre-conditions you specified did not hold"
            raise ServiceError(412, "PreconditionFailed", message)

    def _get_object(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        stored = self._state.objects.get((call.bucket, call.key))
        if stored is None:
            raise ServiceError(404, "NoSuchKey", "The specified key does not exist.")
        headers = {
            "ETag": f'"{stored.etag}"',
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": stored.content_type,
            **metadata_headers(stored.metadata),
            **stored.encryption,
        }
        body, status = stored.body, 200
        asked = _RANGE.fullmatch(call.headers.get("range", ""))
        if asked:
            # Without a start: the last bytes, or all if there are fewer (RFC 9110, 14.1.2).
            start = int(asked[1]) if asked[1] else max(len(body) - int(asked[2]), 0)
            end = min(int((asked[1] and asked[2]) or len(body)), len(body) - 1)
            if start > end:
                raise ServiceError(416, "InvalidRange", "The requested range is not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            body, status = body[start : end + 1], 206
        elif call.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers.update(checksum_headers(stored.checksums))
            whole = all("-" not in value for value in stored.checksums.values())
            headers["x-amz-checksum-type"] = "FULL_OBJECT" if whole else "COMPOSITE"
        if call.operation == "HeadObject":
            return HttpReply(status, b"", {**headers, "Content-Length": str(len(body))})
        return HttpReply(status, body, headers)

    def _delete_object(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        self._state.objects.pop((call.bucket, call.key), None)
        return HttpReply(204)

    def _list_objects(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        query = call.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        limit = min(int(query.get("max-keys", _PAGE_MAX)), _PAGE_MAX)
        encode = _encoder(query)
        entries: dict[str, str] = {}
        for (bucket, key), stored in sorted(self._state.objects.items()):
            if bucket != call.bucket or not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = prefix + head + cut if cut else key
            if name > after and name not in entries:
                entries[name] = (
                    element("CommonPrefixes", fields({"Prefix": encode(name)}))
                    if cut
                    else element("Contents", _object_fields(encode(key), stored))
                )
        page = list(entries)[:limit]
        more = len(entries) > limit
        head_fields = {
            "Name": call.bucket,
            "Prefix": encode(prefix),
            "KeyCount": len(page),
            "MaxKeys": limit,
            "EncodingType": query.get("encoding-type"),
            "IsTruncated": str(more).lower(),
            "NextContinuationToken": page[-1] if more and page else None,
        }
        return xml_reply("ListBucketResult", [fields(head_fields), *(entries[n] for n in page)])

    def _list_uploads(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        encode = _encoder(call.query)
        prefix = call.query.get("prefix", "")
        content = [
            fields(
                {
                    "Bucket": call.bucket,
                    "Prefix": encode(prefix),
                    "MaxUploads": _PAGE_MAX,
                    "EncodingType": call.query.get("encoding-type"),
                    "IsTruncated": "false",
                }
            )
        ]
        for upload_id, upload in sorted(self._state.uploads.items(), key=lambda each: each[1].key):
            if upload.bucket == call.bucket and upload.key.startswith(prefix):
                members = {
                    "Key": encode(upload.key),
                    "UploadId": upload_id,
                    "Initiated": _iso(upload.initiated),
                }
                if upload.algorithm:
                    members |= {
                        "ChecksumAlgorithm": upload.algorithm.upper(),
                        "ChecksumType": upload.checksum_type,
                    }
                content.append(element("Upload", fields(members)))
        return xml_reply("ListMultipartUploadsResult", content)

    def _create_upload(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        upload_id = f"upload-{next(self._upload_ids)}"
        algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower() or None
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise ServiceError(400, "InvalidRequest", "Checksum algorithm provided is unsupported.")
        default_type = "FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE"
        self._state.uploads[upload_id] = Upload(
            bucket=call.bucket,
            key=call.key,
            content_type=call.headers.get("content-type", "binary/octet-stream"),
            metadata=call.metadata(),
            algorithm=algorithm,
            checksum_type=call.headers.get("x-amz-checksum-type", default_type),
            initiated=self._clock(),
            encryption=asked_encryption(call),
        )
        members = {"Bucket": call.bucket, "Key": call.key, "UploadId": upload_id}
        headers = {"x-amz-checksum-algorithm": algorithm.upper()} if algorithm else {}
        headers |= self._state.uploads[upload_id].encryption
        return xml_reply("InitiateMultipartUploadResult", fields(members), headers)

    def _upload(self, call: S3Call) -> Upload:
        upload = self._state.uploads.get(call.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (call.bucket, call.key):
            raise ServiceError(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload

    def _upload_part(self, call: S3Call, body: bytes, sums: Checksums) -> HttpReply:
        upload = self._upload(call)
        number = int(call.query.get("partNumber", 0))
        if not 1 <= number <= _PARTS_MAX:
            message = "Part number must be an integer between 1 and 10000, inclusive"
            raise ServiceError(400, "InvalidArgument", message)
        if upload.algorithm and sums and upload.algorithm not in sums:
            message = f"Checksum Type mismatch occurred, expected {upload.algorithm}"
            raise ServiceError(400, "InvalidRequest", message)
        part = Part(body, _etag(body, upload.encryption), sums)
        upload.parts[number] = part
        headers = {"ETag": f'"{part.etag}"', **checksum_headers(sums), **upload.encryption}
        return HttpReply(200, b"", headers)

    def _list_parts(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        upload = self._upload(call)
        limit = min(int(call.query.get("max-parts", _PAGE_MAX)), self.page_parts_max)
        after = int(call.query.get("part-number-marker", 0))
        page = [each for each in sorted(upload.parts.items()) if each[0] > after]
        more, page = len(page) > limit, page[:limit]
        head = {
            "Bucket": call.bucket,
            "Key": call.key,
            "IsTruncated": str(more).lower(),
            "MaxParts": limit,
        }
        content = [fields({**head, "NextPartNumberMarker": page[-1][0] if page else None})]
        for number, part in page:
            members: dict[str, object] = {
                "PartNumber": number,
                "ETag": f'"{part.etag}"',
                "Size": len(part.body),
            }
            members.update(
                {f"Checksum{name.upper()}": value for name, value in part.checksums.items()}
            )
            content.append(element("Part", fields(members)))
        return xml_reply("ListPartsResult", content)

    def _complete_upload(self, call: S3Call, body: bytes, _sums: Checksums) -> HttpReply:
        upload = self._upload(call)
        self._check_precondition(call)
        parts = _chosen_parts(upload, body)
        whole = b"".join(part.body for part in parts)
        if int(call.headers.get("x-amz-mp-object-size", len(whole))) != len(whole):
            raise ServiceError(
                400,
                "InvalidRequest",
                "The specified object size does not match the size of the parts",
            )
        sums = _object_checksums(upload, parts, whole)
        for algorithm, value in declared_checksums(call.headers).items():
            if value != sums.get(algorithm, checksum(algorithm, whole)):
                message = f"The {algorithm} you specified did not match the calculated checksum."
                raise ServiceError(400, "BadDigest", message)
        digest = md5_hex(b"".join(bytes.fromhex(part.etag) for part in parts))
        etag = f"{digest}-{len(parts)}"
        self._state.objects[call.bucket, call.key] = StoredObject(
            whole,
            etag,
            upload.content_type,
            upload.metadata,
            sums,
            self._clock(),
            upload.encryption,
        )
        del self._state.uploads[call.query["uploadId"]]
        members: dict[str, object] = {"Bucket": call.bucket, "Key": call.key, "ETag": f'"{etag}"'}
        members.update({f"Checksum{name.upper()}": value for name, value in sums.items()})
        return xml_reply("CompleteMultipartUploadResult", fields(members), upload.encryption)

    def _abort_upload(self, call: S3Call, _body: bytes, _sums: Checksums) -> HttpReply:
        self._upload(call)
        del self._state.uploads[call.query["uploadId"]]
        return HttpReply(204)


def _etag(body: bytes, encryption: Mapping[str, str]) -> str:
    """Give the MD5 of what is stored: with a key of KMS that is not the MD5 of what was sent."""
    return md5_hex(
        body + repr(sorted(encryption.items())).encode() if is_of_kms(encryption) else body
    )


def _chosen_parts(upload: Upload, body: bytes) -> list[Part]:
    """Pick the parts that a CompleteMultipartUpload body lists, as strictly as S3 does."""
    chosen: list[Part] = []
    last = 0
    for node in ET.fromstring(body).findall("s3:Part", _NAMESPACE):
        number = int(node.findtext("s3:PartNumber", "0", _NAMESPACE))
        if number <= last:
            message = "The list of parts was not in ascending order."
            raise ServiceError(400, "InvalidPartOrder", message)
        last = number
        part = upload.parts.get(number)
        if part is None or node.findtext("s3:ETag", "", _NAMESPACE).strip('"') != part.etag:
            _refuse_part()
        for algorithm, value in part.checksums.items():
            listed = node.findtext(f"s3:Checksum{algorithm.upper()}", None, _NAMESPACE)
            if listed not in {None, value}:
                _refuse_part()
        chosen.append(part)
    if not chosen:
        raise ServiceError(400, "MalformedXML", "The XML you provided was not well-formed")
    if any(len(part.body) < _PART_BYTES_MIN for part in chosen[:-1]):
        message = "Your proposed upload is smaller than the minimum allowed size"
        raise ServiceError(400, "EntityTooSmall", message)
    return chosen


def _refuse_part() -> NoReturn:
    raise ServiceError(400, "InvalidPart", "One or more of the specified parts could not be found.")


def _object_checksums(upload: Upload, parts: list[Part], whole: bytes) -> Checksums:
    if upload.algorithm is None:
        return {}
    if upload.checksum_type == "FULL_OBJECT":
        return {upload.algorithm: checksum(upload.algorithm, whole)}
    if any(upload.algorithm not in part.checksums for part in parts):
        message = "The upload was created with a checksum; every part needs one"
        raise ServiceError(400, "InvalidRequest", message)
    values = [part.checksums[upload.algorithm] for part in parts]
    return {upload.algorithm: composite(upload.algorithm, values)}


def _encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    return quote if query.get("encoding-type") == "url" else str


def _object_fields(key: str, stored: StoredObject) -> str:
    return fields(
        {
            "Key": key,
            "LastModified": _iso(stored.modified),
            "ETag": f'"{stored.etag}"',
            "Size": len(stored.body),
            "StorageClass": "STANDARD",
        }
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
