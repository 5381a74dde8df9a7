"""S3's REST protocol: which operation a request is, and whether its body is what it claims to be.

It must not know: which buckets and objects exist.
Invariant: a payload whose length, digest, checksum or MD5 does not fit is refused before anything
is changed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from tests.simulator.checksums import ALGORITHMS, checksum, md5_hex
from tests.simulator.wire import HttpReply, HttpRequest, ServiceError, decode_aws_chunked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_KEY_BYTES_MAX = 1024
_METADATA_BYTES_MAX = 2048
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = "x-amz-checksum-"
_META = "x-amz-meta-"
_SSE = "x-amz-server-side-encryption"
_SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
_OF_KMS = frozenset({"aws:kms", "aws:kms:dsse"})
_ENCRYPTED = frozenset({"PutObject", "CreateMultipartUpload"})
_ACCOUNT = re.compile(r"\d{12}")
# (method, has a key) to ((query member or "", operation), ...); the first that fits counts.
_OPERATIONS: Mapping[tuple[str, bool], tuple[tuple[str, str], ...]] = {
    ("HEAD", False): (("", "HeadBucket"),),
    ("PUT", False): (("", "CreateBucket"),),
    ("GET", False): (
        ("location", "GetBucketLocation"),
        ("uploads", "ListMultipartUploads"),
        ("list-type", "ListObjectsV2"),
    ),
    ("HEAD", True): (("", "HeadObject"),),
    ("GET", True): (("uploadId", "ListParts"), ("", "GetObject")),
    ("PUT", True): (("uploadId", "UploadPart"), ("", "PutObject")),
    ("DELETE", True): (("uploadId", "AbortMultipartUpload"), ("", "DeleteObject")),
    ("POST", True): (
        ("uploads", "CreateMultipartUpload"),
        ("uploadId", "CompleteMultipartUpload"),
    ),
}


@dataclass(frozen=True, slots=True)
class S3Call:
    """One S3 request, taken apart but for its body."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    def params(self) -> dict[str, Any]:
        """Give the members that tests ask for, under botocore's names."""
        members: dict[str, Any] = {"Bucket": self.bucket, "Key": self.key}
        members["UploadId"] = self.query.get("uploadId")
        members["PartNumber"] = (
            int(self.query["partNumber"]) if "partNumber" in self.query else None
        )
        members["IfNoneMatch"] = self.headers.get("if-none-match")
        members["Range"] = self.headers.get("range")
        members["Prefix"] = self.query.get("prefix")
        return {name: value for name, value in members.items() if value}

    def metadata(self) -> dict[str, str]:
        """Collect the user's metadata."""
        return {
            name.removeprefix(_META): value
            for name, value in self.headers.items()
            if name.startswith(_META)
        }


def parse(request: HttpRequest) -> S3Call:
    """Name the operation of a path-style request; unknown ones have an empty name."""
    bucket, _, key = unquote(request.path[1:]).partition("/")
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    operation = ""
    for member, name in _OPERATIONS.get((request.method, bool(key)), ()):
        if not member or member in query:
            operation = name
            break
    return S3Call(operation, bucket, key, query, request.headers)


def verified_body(call: S3Call, request: HttpRequest) -> tuple[bytes, dict[str, str]]:
    """Decode the body and check every digest that came with it.

    Returns:
        The payload and its verified checksums by algorithm.
    """
    _check_limits(call)
    body = request.body
    trailers: dict[str, str] = {}
    if "aws-chunked" in request.headers.get("content-encoding", ""):
        body, trailers = decode_aws_chunked(body)
        if len(body) != int(request.headers.get("x-amz-decoded-content-length", len(body))):
            raise ServiceError(400, "IncompleteBody", "The request body terminated unexpectedly")
    sha256 = request.headers.get("x-amz-content-sha256", "")
    if _SHA256_HEX.fullmatch(sha256) and hashlib.sha256(body).hexdigest() != sha256:
        message = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise ServiceError(400, "XAmzContentSHA256Mismatch", message)
    md5 = request.headers.get("content-md5")
    if md5 is not None and base64.b64encode(bytes.fromhex(md5_hex(body))).decode() != md5:
        message = "The Content-MD5 you specified did not match what we received."
        raise ServiceError(400, "BadDigest", message)
    if call.operation == "CompleteMultipartUpload":
        # There the header speaks of the object, not of this body.
        return body, {}
    return body, _verified_checksums(body, {**request.headers, **trailers})


def _verified_checksums(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    given = declared_checksums(headers)
    wanted = headers.get("x-amz-sdk-checksum-algorithm", "").lower()
    if wanted in ALGORITHMS and given and wanted not in given:
        message = f"x-amz-sdk-checksum-algorithm says {wanted}, but no such checksum was sent"
        raise ServiceError(400, "InvalidRequest", message)
    for algorithm, value in given.items():
        if checksum(algorithm, body) != value:
            message = (
                f"The {algorithm.upper()} you specified did not match the calculated checksum."
            )
            raise ServiceError(400, "BadDigest", message)
    return given


def declared_checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Collect the checksums that a request states, by algorithm."""
    return {
        algorithm: headers[_CHECKSUM + algorithm]
        for algorithm in ALGORITHMS
        if _CHECKSUM + algorithm in headers
    }


def asked_encryption(call: S3Call) -> dict[str, str]:
    """Collect the headers that say how an object is to be encrypted; answers repeat them."""
    return {name: call.headers[name] for name in (_SSE, _SSE_KEY) if name in call.headers}


def is_of_kms(encryption: Mapping[str, str]) -> bool:
    """Tell whether a key of KMS encrypts it."""
    return encryption.get(_SSE) in _OF_KMS


def _check_settings(call: S3Call) -> None:
    """Refuse what S3 refuses of encryption, payer and owner, and what belongs to no such
    request.
    """
    asked = asked_encryption(call)
    if asked and call.operation not in _ENCRYPTED:
        message = "x-amz-server-side-encryption header is not supported for this operation."
        raise ServiceError(400, "InvalidArgument", message)
    if asked.get(_SSE, "AES256") not in {"AES256", *_OF_KMS}:
        message = "The encryption method specified is not supported"
        raise ServiceError(400, "InvalidEncryptionAlgorithmError", message)
    if _SSE_KEY in asked and not is_of_kms(asked):
        message = (
            "Server Side Encryption with AWS KMS managed key requires HTTP header "
            "x-amz-server-side-encryption : aws:kms"
        )
        raise ServiceError(400, "InvalidArgument", message)
    if call.headers.get("x-amz-request-payer", "requester") != "requester":
        raise ServiceError(400, "InvalidArgument", "Invalid x-amz-request-payer")
    owner = call.headers.get("x-amz-expected-bucket-owner")
    if owner is not None and not _ACCOUNT.fullmatch(owner):
        message = "The value of the expected bucket owner parameter must be an AWS account ID"
        raise ServiceError(400, "InvalidBucketOwnerAWSAccountID", message)
    if owner is not None and call.operation == "CreateBucket":
        raise ServiceError(400, "InvalidArgument", "CreateBucket takes no expected bucket owner")


def _check_limits(call: S3Call) -> None:
    _check_settings(call)
    if len(call.key.encode()) > _KEY_BYTES_MAX:
        raise ServiceError(400, "KeyTooLongError", "Your key is too long")
    size = sum(len(name) + len(value) for name, value in call.metadata().items())
    if size > _METADATA_BYTES_MAX:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise ServiceError(400, "MetadataTooLarge", message)


def checksum_headers(checksums: Mapping[str, str]) -> dict[str, str]:
    """Write checksums as headers."""
    return {_CHECKSUM + algorithm: value for algorithm, value in checksums.items()}


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Write the user's metadata as headers."""
    return {_META + name: value for name, value in metadata.items()}


def element(name: str, *content: str) -> str:
    """Write one XML element around content that is XML already."""
    return f"<{name}>{''.join(content)}</{name}>"


def fields(values: Mapping[str, object]) -> str:
    """Write simple elements, without those that are None."""
    return "".join(
        element(name, escape(str(value))) for name, value in values.items() if value is not None
    )


def xml_reply(
    root: str, content: Iterable[str], headers: Mapping[str, str] | None = None
) -> HttpReply:
    """Answer 200 with an S3 document."""
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} {space}>{"".join(content)}</{root}>'
    return HttpReply(200, text.encode(), {"Content-Type": "application/xml", **(headers or {})})
