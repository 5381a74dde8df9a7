"""Check that a successful answer proves that the service gave it.

Captive portals and intercepting proxies answer 200 to any request, with HTML, JSON, XML or an
empty body. botocore parses that as an answer without members. So an answer counts only if

- its status is the one that the operation defines,
- it carries the service's request id, or a value that only the service can know: the MD5 of the
  bytes that were sent, or the requested key in an S3 document,
- all members that the operation always returns are there,
- an operation that returns no body has none,
- a checksum that it reports is the one of the bytes that were sent.

Sources: AWS's documentation, and tests with moto 5.2.5 and SeaweedFS 4.48. moto reports no
checksums, and names its request id ``x-amzn-requestid`` for S3 as well. SeaweedFS reports no region
of a bucket. R2 and Google's S3 interface document no request id under S3's name.

Pure: sends no requests and decides nothing.
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
    """An answer and the request that it belongs to.

    Attributes:
        operation: botocore's name of it.
        status: HTTP status.
        headers: Values by lower-case name.
        body: Bytes of the body. None if it is a stream that was not read.
        parsed: The answer as botocore parsed it.
        asked: Parameters of the request.
        status_expected: The status of a success in botocore's service model.
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
        """Return whether the answer carries a request id."""
        return has_request_id(self.headers)


def has_request_id(headers: Mapping[str, str]) -> bool:
    """Return whether an answer, success or not, carries a service's request id.

    Args:
        headers: Values by lower-case name.
    """
    return bool(headers.get("x-amzn-requestid") or headers.get("x-amz-request-id"))


def flaw(said: Said) -> str | None:
    """Return why an answer does not prove itself, or None if it does."""
    if said.status != said.status_expected and (said.status, said.operation) != (206, "GetObject"):
        return f"HTTP {said.status} is not what {said.operation} answers"
    rule = _RULES.get(said.operation)
    if rule is not None:
        return rule(said)
    return None if said.has_id else "it has no request id"


def is_md5(etag: object, body: Any) -> bool:  # noqa: ANN401 - bytes, or a file of botocore's kind
    """Return whether an ETag is the MD5 of a request's body.

    Stores that encrypt, or compute ETags in another way, return something else.
    """
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
    """Return whether HeadObject describes an object that we uploaded.

    Args:
        held: The answer.
        size_bytes: Size that the object must have.
        sha256: Digest (hexadecimal) that its metadata must hold.
    """
    return (
        held.get("ContentLength") == size_bytes and held.get("Metadata", {}).get("sha256") == sha256
    )


def _arns(*names: str) -> Callable[[Said], str | None]:
    """Make the rule for a SageMaker operation that returns these ARNs."""

    def rule(said: Said) -> str | None:
        """Ask for AWS's request id and each ARN."""
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
    """Accept an empty object, or one with ``Errors``.

    Anything else may be an answer that lost its refusals.
    """
    if not said.headers.get("x-amzn-requestid"):
        return "it has no request id"
    try:
        held = json.loads(said.body or b"")
    except ValueError:
        return "its body is no JSON"
    if not isinstance(held, dict) or (
        held and not isinstance(held.get("Errors", ""), (list, type(None)))
    ):
        return "its body is not BatchPutMetrics's"
    return None


def _read_metrics(said: Said) -> str | None:
    return (
        None
        if said.has_id and isinstance(said.parsed.get("MetricQueryResults"), list)
        else "it has no results"
    )


def _list_of(name: str) -> Callable[[Said], str | None]:
    """Make the rule for a SageMaker operation that returns this list."""

    def rule(said: Said) -> str | None:
        """Return what the answer lacks, or None."""
        is_list = said.has_id and isinstance(said.parsed.get(name), list)
        return None if is_list else f"it has no {name}"

    return rule


def _identity(said: Said) -> str | None:
    return (
        None if _ACCOUNT.fullmatch(str(said.parsed.get("Account", ""))) else "it names no account"
    )


def _stored(said: Said) -> str | None:
    """Check PutObject and UploadPart: only headers, and those of the bytes that were sent."""
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
    """Make the rule for an S3 operation that returns a document with these members."""

    def rule(said: Said) -> str | None:
        """Ask for each member, and for the bucket or key that was asked for."""
        for name in names:
            if not said.parsed.get(name):
                return f"it has no {name}"
        is_about = (
            said.parsed.get("Key")
            if "Key" in said.asked
            else said.parsed.get("Name", said.parsed.get("Bucket"))
        )
        if said.has_id or is_about == said.asked.get("Key", said.asked.get("Bucket")):
            return None
        return "it has no request id"

    return rule


def _listed(said: Said) -> str | None:
    if "IsTruncated" not in said.parsed:
        return "it is no list"
    return _document("Name" if said.operation == "ListObjectsV2" else "Bucket")(said)


def _object(said: Said) -> str | None:
    """Check HeadObject and GetObject: without a request id, our metadata identifies the object."""
    if not all(said.parsed.get(name) for name in ("ETag", "LastModified")):
        return "it has no ETag or no time"
    return (
        None
        if said.has_id or said.parsed.get("Metadata", {}).get("sha256")
        else "it has no request id"
    )


def _bucket_made(said: Said) -> str | None:
    location = str(said.parsed.get("Location", "")).strip("/")
    return None if said.has_id or location == said.asked.get("Bucket") else "it has no request id"


_RULES: Final[Mapping[str, Callable[[Said], str | None]]] = {
    "CreateTrialComponent": _arns("TrialComponentArn"),
    "UpdateTrialComponent": _arns("TrialComponentArn"),
    "AssociateTrialComponent": _arns("TrialComponentArn", "TrialArn"),
    "DisassociateTrialComponent": _arns("TrialComponentArn", "TrialArn"),
    "CreateExperiment": _arns("ExperimentArn"),
    "UpdateExperiment": _arns("ExperimentArn"),
    "DescribeExperiment": _arns("ExperimentArn"),
    "CreateTrial": _arns("TrialArn"),
    "UpdateTrial": _arns("TrialArn"),
    "DescribeTrial": _arns("TrialArn"),
    "ListTrials": _list_of("TrialSummaries"),
    "AddTags": _list_of("Tags"),
    "ListTags": _list_of("Tags"),
    "DescribeTrialComponent": _component,
    "CreateArtifact": _arns("ArtifactArn"),
    "AddAssociation": _arns("SourceArn", "DestinationArn"),
    "ListArtifacts": _list_of("ArtifactSummaries"),
    "ListAssociations": _list_of("AssociationSummaries"),
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
