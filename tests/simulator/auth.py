"""Who is calling: the credential scope of SigV4, and the refusals that each service words its way.

It must not know: state, faults. It doesn't verify signatures, for it doesn't know the secrets.
Invariant: the sets may be changed by a test at any time and count from the next request on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulator.wire import HttpReply, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = "123456789012"
_CREDENTIAL = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/\d{8}/([^/]+)/([^/]+)/aws4_request,"
)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the Authorization header says of its sender; empty strings when it is absent."""

    access_key: str = ""
    region: str = ""


@dataclass(slots=True)
class Access:
    """The rules. `known_keys` None accepts every key; `check_region` refuses foreign regions."""

    region: str
    check_region: bool = False
    known_keys: set[str] | None = None
    expired: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    denied_operations: set[str] = field(default_factory=set)

    def check(self, service: str, operation: str, who: Credential) -> None:
        """Raise ServiceError unless the caller may do this."""
        if not who.access_key:
            raise _refusal(service, "missing")
        if self.known_keys is not None and who.access_key not in self.known_keys:
            raise _refusal(service, "unknown")
        if who.access_key in self.expired:
            raise _refusal(service, "expired")
        if self.check_region and who.region != self.region and service != "sts":
            raise self._wrong_region(service, who)
        if who.access_key in self.denied or operation in self.denied_operations:
            prefix = "sagemaker" if service == "sagemaker-metrics" else service
            raise _refusal(
                service,
                "denied",
                f"{caller_arn()} is not authorized to perform: {prefix}:{operation}",
            )

    def _wrong_region(self, service: str, who: Credential) -> ServiceError:
        if service == "s3":
            message = (
                f"The authorization header is malformed; the region '{who.region}' is wrong; "
                f"expecting '{self.region}'"
            )
            headers = {"x-amz-bucket-region": self.region}
            return ServiceError(400, "AuthorizationHeaderMalformed", message, headers)
        message = f"Credential should be scoped to a valid region, not '{who.region}'."
        return ServiceError(400, "InvalidSignatureException", message)


# (status, code, message) for the JSON services, for S3 and for STS.
_REFUSALS: Mapping[str, Mapping[str, tuple[int, str, str]]] = {
    "missing": {
        "json": (400, "MissingAuthenticationTokenException", "Missing Authentication Token"),
        "s3": (403, "AccessDenied", "Access Denied"),
        "sts": (403, "MissingAuthenticationToken", "Request is missing Authentication Token"),
    },
    "unknown": {
        "json": (
            400,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        "s3": (
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        ),
        "sts": (
            403,
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
        ),
    },
    "expired": {
        "json": (
            400,
            "ExpiredTokenException",
            "The security token included in the request is expired",
        ),
        "s3": (400, "ExpiredToken", "The provided token has expired."),
        "sts": (403, "ExpiredToken", "The security token included in the request is expired"),
    },
    "denied": {
        "json": (400, "AccessDeniedException", "User is not authorized"),
        "s3": (403, "AccessDenied", "Access Denied"),
        "sts": (403, "AccessDenied", "User is not authorized"),
    },
}


def _refusal(service: str, kind: str, message: str = "") -> ServiceError:
    status, code, default = _REFUSALS[kind][service if service in {"s3", "sts"} else "json"]
    return ServiceError(status, code, message or default)


def caller_arn() -> str:
    """Name the one user of the simulated account."""
    return f"arn:aws:iam::{ACCOUNT}:user/simulated"


def credential(headers: Mapping[str, str]) -> Credential:
    """Read the credential scope of a request."""
    found = _CREDENTIAL.match(headers.get("authorization", ""))
    return Credential(found[1], found[2]) if found else Credential()


def caller_identity(request_id: str) -> HttpReply:
    """Answer sts GetCallerIdentity."""
    text = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<GetCallerIdentityResult><Arn>{caller_arn()}</Arn><UserId>AIDASIMULATED</UserId>"
        f"<Account>{ACCOUNT}</Account></GetCallerIdentityResult><ResponseMetadata>"
        f"<RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    return HttpReply(200, text.encode(), {"Content-Type": "text/xml"})
