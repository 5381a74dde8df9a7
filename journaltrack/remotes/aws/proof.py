"""Whether a successful answer proves that the service gave it. Pure: no requests, no decisions.

Sign-in pages of networks and intercepting proxies say 200 to whatever they are asked, with HTML, JSON,
XML or nothing at all, and botocore takes that for an answer without members. An answer counts only if

- its status is the one that the operation has,
- it carries the service's request id, or something that nobody else can know (the MD5 of the bytes
  that were sent, the key that was asked for in a document of S3's),
- the members are there that the operation always gives, and where a body has no place, there is none,
- a checksum that it tells is the one of the bytes that were sent.

What stores send was looked up at AWS and tried with moto 5.2.5 and SeaweedFS 4.48: moto tells no
checksums and calls its request id ``x-amzn-requestid`` for S3, too; SeaweedFS tells no region of a
bucket. R2 and Google's S3 interface document no request id of S3's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

_ETAG: Final = re.compile(r'(?:W/)?"?([0-9A-Za-z+/=_.-]{1,256})"?')
_ACCOUNT: Final = re.compile(r"\d{12}")
_CHUNK_BYTES: Final = 1 << 20


class Said(NamedTuple):
    """An answer, and what was asked.

    Attributes:
        operation: As botocore names it.
        status: HTTP status.
        headers: By name in lower case.
        body: Its bytes; None if they are a stream that was not read.
        parsed: What botocore made of it.
        asked: Parameters of the request.
        status_expected: What the service model says of a success.
    """

    operation: str
    status: int
    headers: Mapping[str, str]
    body: bytes | None
    parsed: Mapping[str, Any]
    asked: Mapping[str, Any] = {}
    status_expected: int = 200

    @property
    def has_id(self) -> bool:
        """Whether it carries a request id."""
        return has_request_id(self.headers)


def has_request_id(headers: Mapping[str, str]) -> bool:
    """Whether an answer, success or not, carries the request id of a service.

    Args:
        headers: By name in lower case.
    """
    return bool(headers.get("x-amzn-requestid") or headers.get("x-amz-request-id"))


def flaw(said: Said) -> str | None:
    """Why an answer does not prove itself; None if it does."""
    if said.status != said.status_expected and (said.status, said.operation) != (206, "GetObject"):
        return f"HTTP {said.status} is not what {said.operation} answers"
    rule = _RULES.get(said.operation)
    if rule is not None:
        return rule(said)
    return None if said.has_id else "it has no request id"


def is_md5(etag: object, body: Any) -> bool:  # noqa: ANN401 - bytes, or a file of botocore's kind
    """Whether an ETag is the MD5 of a request's body; stores that encrypt or compute otherwise give another one."""
    found = _ETAG.fullmatch(etag) if isinstance(etag, str) else None
    if found is None or len(found[1]) != hashlib.md5(usedforsecurity=False).digest_size * 2:
        return False
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes):
        digest.update(body)
    else:
        body.seek(0)
        while piece := body.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest() == found[1].lower()


def is_ours(held: Mapping[str, Any], size_bytes: int, sha256: str) -> bool:
    """Whether what HeadObject tells is an object of ours: of this size, and with this digest (hexadecimal) noted beside it."""
    return held.get("ContentLength") == size_bytes and held.get("Metadata", {}).get("sha256") == sha256


def _arns(*names: str) -> Callable[[Said], str | None]:
    """The rule of an operation of SageMaker that answers with these ARNs."""

    def rule(said: Said) -> str | None:
        if not said.headers.get("x-amzn-requestid"):
            return "it has no request id"
        for name in names:
            if not str(said.parsed.get(name, "")).startswith("arn:"):
                return f"it has no {name}"
        return None

    return rule


def _component(said: Said) -> str | None:
    wanted = str(said.asked.get("TrialComponentName", ""))
    told = said.parsed.get("TrialComponentName")
    if not isinstance(told, str) or (wanted and told.lower() != wanted.lower()):
        return "it is not about the component that was asked for"
    return _arns("TrialComponentArn")(said)


def _metrics(said: Said) -> str | None:
    """An empty object or one with ``Errors``; what was left out of an answer may have been refusals."""
    if not said.headers.get("x-amzn-requestid"):
        return "it has no request id"
    try:
        held = json.loads(said.body or b"")
    except ValueError:
        return "its body is no JSON"
    if not isinstance(held, dict) or (held and not isinstance(held.get("Errors", ""), (list, type(None)))):
        return "its body is not BatchPutMetrics's"
    return None


def _read_metrics(said: Said) -> str | None:
    return None if said.has_id and isinstance(said.parsed.get("MetricQueryResults"), list) else "it has no results"


def _identity(said: Said) -> str | None:
    return None if _ACCOUNT.fullmatch(str(said.parsed.get("Account", ""))) else "it names no account"


def _stored(said: Said) -> str | None:
    """Of PutObject and UploadPart: nothing but headers, which tell what has arrived."""
    if said.body:
        return "it has a body"
    etag = said.parsed.get("ETag")
    if not isinstance(etag, str) or _ETAG.fullmatch(etag) is None:
        return "it has no ETag"
    sent, told = said.asked.get("ChecksumSHA256"), said.parsed.get("ChecksumSHA256")
    if told is not None and sent is not None and told != sent:
        return f"its checksum is not that of the bytes that were sent: {told}"
    if said.has_id or is_md5(etag, said.asked.get("Body", b"")):
        return None
    return "it has no request id, and an ETag that tells nothing of the bytes that were sent"


def _document(*names: str) -> Callable[[Said], str | None]:
    """The rule of an operation of S3 that answers with a document of its own, with these members."""

    def rule(said: Said) -> str | None:
        for name in names:
            if not said.parsed.get(name):
                return f"it has no {name}"
        is_about = said.parsed.get("Key") if "Key" in said.asked else said.parsed.get("Name", said.parsed.get("Bucket"))
        if said.has_id or is_about == said.asked.get("Key", said.asked.get("Bucket")):
            return None
        return "it has no request id"

    return rule


def _listed(said: Said) -> str | None:
    if "IsTruncated" not in said.parsed:
        return "it is no list"
    return _document("Name" if said.operation == "ListObjectsV2" else "Bucket")(said)


def _object(said: Said) -> str | None:
    """Of HeadObject and GetObject: what ours are told by is the note that was put beside them."""
    if not all(said.parsed.get(name) for name in ("ETag", "LastModified")):
        return "it has no ETag or no time"
    return None if said.has_id or said.parsed.get("Metadata", {}).get("sha256") else "it has no request id"


def _bucket_made(said: Said) -> str | None:
    return None if said.has_id or str(said.parsed.get("Location", "")).strip("/") == said.asked.get("Bucket") else "it has no request id"


_RULES: Final[Mapping[str, Callable[[Said], str | None]]] = {
    "CreateTrialComponent": _arns("TrialComponentArn"),
    "UpdateTrialComponent": _arns("TrialComponentArn"),
    "AssociateTrialComponent": _arns("TrialComponentArn", "TrialArn"),
    "CreateExperiment": _arns("ExperimentArn"),
    "CreateTrial": _arns("TrialArn"),
    "DescribeTrial": _arns("TrialArn"),
    "DescribeTrialComponent": _component,
    "BatchPutMetrics": _metrics,
    "BatchGetMetrics": _read_metrics,
    "GetCallerIdentity": _identity,
    "PutObject": _stored,
    "UploadPart": _stored,
    "CreateMultipartUpload": _document("UploadId", "Bucket", "Key"),
    "CompleteMultipartUpload": _document("ETag", "Key"),
    "ListParts": _listed,
    "ListMultipartUploads": _listed,
    "ListObjectsV2": _listed,
    "HeadObject": _object,
    "GetObject": _object,
    "CreateBucket": _bucket_made,
}
