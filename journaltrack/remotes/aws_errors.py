"""What AWS's refusals and the network's failures mean: from botocore's exceptions to ``RemoteError``.

A table and two functions, no requests. Codes come from botocore 1.44.5's service models, the services' common errors
(https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html, S3's list of error codes) and botocore's own
retry tables (``botocore/data/_retry.json``).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from traceback import walk_tb
from typing import Any, Final

from botocore import exceptions as boto
from botocore import parsers
from botocore.parsers import ResponseParserError

from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, NotSentError, RemoteError

_SAFE: Final = "nothing was lost"
_RENEW: Final = f"renew the credentials (for example `aws sso login`) and run `journaltrack sync` again; {_SAFE}"
_PERMISSION: Final = f"ask for the permission that the message names, then run `journaltrack sync` again; {_SAFE}"
_REGION: Final = "name the region with --region or AWS_REGION"
_CREDENTIALS: Final = f"configure credentials (`aws configure`, AWS_PROFILE, or --profile); {_SAFE}"

_TRANSIENT: Final = frozenset(
    "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException "  # noqa: SIM905 - thirty quoted strings read worse
    "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown PriorRequestNotComplete ProvisionedThroughputExceededException "
    "EC2ThrottledException TransactionInProgressException ConflictException RequestTimeout RequestTimeoutException InternalError InternalFailure "
    "InternalServerError InternalServerException ServiceUnavailable ServiceUnavailableException OperationAborted Busy "
    "ConditionalRequestConflict BadDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch IncompleteBody".split()
)
_THROTTLED: Final = frozenset(
    "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException "  # noqa: SIM905 - as above
    "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown ProvisionedThroughputExceededException EC2ThrottledException".split()
)
"""botocore's own list of throttling errors (botocore/retries/standard.py, ThrottledRetryableChecker)."""
_HALT: Final = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _RENEW),
    **dict.fromkeys(
        (
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "InvalidAccessKeyId",
            "InvalidToken",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
        ),
        f"these credentials are not known to AWS: check AWS_PROFILE and the access key; {_SAFE}",
    ),
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException"),
        f"check the secret key and the region; {_SAFE}",
    ),
    **dict.fromkeys(
        ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"),
        f"this machine's clock is wrong: set it (chronyc, ntpdate); {_SAFE}",
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AllAccessDisabled", "403"), _PERMISSION
    ),
    **dict.fromkeys(
        ("OptInRequired", "SubscriptionRequiredException", "AccountProblem", "InvalidPayer", "NotSignedUp"),
        "the account is not signed up for this service or region, or is suspended: see its billing console",
    ),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "UnknownEndpoint"),
        f"the bucket or the service is in another region: {_REGION}",
    ),
}
_EVERYWHERE: Final = frozenset(_HALT) - {
    *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AllAccessDisabled", "403"),
    *("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"),
}
"""What no other component or bucket can change; a permission may be missing for one, and a bucket has its own region."""
_UNREACHABLE: Final = "check the network, VPN or proxy (HTTPS_PROXY), or the endpoint's address; everything waits in the journal"
_NOT_SENT: Final = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)
_BROKEN: Final = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ResponseParserError, OSError, UnicodeDecodeError)
"""The conversation broke, or what was said in it is nothing that a service says: the request may have been heard."""
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
)
_RESTRICTED: Final = "restricted to the SageMaker runtime"
_S3: Final = frozenset(
    "PutObject HeadObject GetObject HeadBucket CreateBucket CreateMultipartUpload UploadPart CompleteMultipartUpload "  # noqa: SIM905 - as above
    "ListMultipartUploads ListParts AbortMultipartUpload".split()
)
_NOT_AWS: Final = (
    "what answered is not AWS: a proxy, the sign-in page of a network, or a wrong --endpoint-url; for uploads it may also be that the "
    f"credentials expired or the bucket is in another region; {_SAFE}"
)
_NOT_AN_ANSWER: Final = frozenset({"text/html", "text/plain"})
_CERTIFICATE: Final = f"the server's certificate is not trusted: behind an intercepting proxy set AWS_CA_BUNDLE; {_SAFE}"


def classified(error: Exception, component: str | None = None) -> RemoteError:
    """The failure of a request as a ``RemoteError``.

    Args:
        error: What boto3 or the connection raised.
        component: The trial component that the request was about.
    """
    if isinstance(error, RemoteError):
        return error
    if isinstance(error, boto.HTTPClientError) and isinstance(error.__context__, NotSentError):
        return error.__context__  # botocore's HTTP layer wraps what a connection raises
    if isinstance(error, boto.ClientError):
        return _answered(error, component)
    return _unanswered(error)


def is_aws_answer(answer: Mapping[str, Any]) -> bool:
    """Whether a successful answer came from the service: sign-in pages of networks and proxies also say 200, with HTML.

    botocore takes such a page for an answer without members.
    """
    metadata = answer.get("ResponseMetadata", {})
    content_type = str(metadata.get("HTTPHeaders", {}).get("content-type", "")).partition(";")[0].strip().lower()
    return bool(metadata.get("RequestId")) or content_type not in _NOT_AN_ANSWER


def swallowed(answer: Mapping[str, Any], operation: str) -> RemoteError:
    """Something that is not the service answered in its place; whether it passed the request on is not known."""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    text = f"{operation}: a web page came back (HTTP {status}) instead of AWS's answer"
    return RemoteError(text, kind=ErrorKind.TRANSIENT, code="NotAnAnswer", hint=_NOT_AWS, unreachable=True, maybe_applied=True)


def already_exists(error: boto.ClientError) -> bool:
    """Whether a create was refused because the name is taken; AWS says so in words, with a ValidationException."""
    return _code(error) in {"ValidationException", "ConflictException", "ResourceInUse"} and "already exists" in _message(error).lower()


def not_found(error: boto.ClientError) -> bool:
    """Whether a component, trial or experiment is missing; moto says it with a ValidationException."""
    code = _code(error)
    return code in {"ResourceNotFound", "ResourceNotFoundException"} or (
        code == "ValidationException" and "could not find" in _message(error).lower()
    )


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of the answer, 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(error: boto.ClientError, component: str | None) -> RemoteError:
    code, message, status = _code(error), _message(error), status_of(error)
    request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
    common: dict[str, Any] = {"code": code, "request_id": request_id}
    text = f"{error.operation_name}: {message or code}" + (f" ({code})" if message and code not in message else "")
    if already_exists(error) and error.operation_name == "CreateTrialComponent":
        return AlreadyExistsError(text, kind=ErrorKind.HOLD, **common)
    if _RESTRICTED in message:
        hint = "this account lets only SageMaker jobs create trial components: use Tracker.load() of the job's component"
        return RemoteError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    if not_found(error) and component is not None:
        hint = f"it may have been deleted; `journaltrack sync --create-or-attach --component {component}` creates it again"
        return ComponentMissingError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    if code in {"ResourceLimitExceeded", "ServiceQuotaExceededException"}:
        hint = "delete trial components that are not needed, or ask AWS for a higher quota; the entries stay pending"
        return RemoteError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    if code in _TRANSIENT or status == 429:  # noqa: PLR2004 - Too Many Requests
        throttled = status == 429 or code in _THROTTLED  # noqa: PLR2004
        return RemoteError(text, kind=ErrorKind.TRANSIENT, hint="AWS asks to slow down or try later", throttled=throttled, **common)
    text = _without_page(text)
    halt = _halt(code, status, error.operation_name)
    if halt is not None:
        return RemoteError(text, kind=ErrorKind.HALT, hint=halt[0], uploads_only=halt[1], everywhere=code in _EVERYWHERE, **common)
    if status >= 500:  # noqa: PLR2004 - a gateway's own page, not an error of the service: the request may have passed
        return RemoteError(text, kind=ErrorKind.TRANSIENT, maybe_applied=True, **common)
    return RemoteError(text, kind=ErrorKind.PERMANENT, **common)


def _halt(code: str, status: int, operation: str) -> tuple[str, bool] | None:
    """If the refusal is nobody's fault: what to do, and whether uploads alone are concerned."""
    of_s3 = operation in _S3
    if code == "400" and operation.startswith("Head"):
        # An answer without a body: an expired token looks like this. If it is one, the next request to SageMaker says so in
        # words; if it is not, metrics are not to wait for it.
        return _RENEW, True
    if code.startswith("KMS."):
        return "the bucket's encryption key is disabled, deleted or not permitted: see its settings in KMS", True
    if code.isdigit() and status < 500:  # noqa: PLR2004 - no error of a service: S3's HEAD has no body, the rest is not AWS
        return _HALT.get(code, _NOT_AWS), of_s3
    hint = _HALT.get(code)
    return None if hint is None else (hint, of_s3 and hint is _PERMISSION)


def _unanswered(error: Exception) -> RemoteError:
    code, text = type(error).__name__, str(error)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_CERTIFICATE, everywhere=True)
    if isinstance(error, _NOT_SENT) and not _broke_in_conversation(error):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=True)
    if isinstance(error, boto.ReadTimeoutError):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=True, maybe_applied=True)
    if isinstance(error, (boto.NoRegionError, boto.InvalidRegionError)):
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_REGION, everywhere=True)
    if isinstance(error, _NO_CREDENTIALS):
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_CREDENTIALS, everywhere=True)
    if isinstance(error, (boto.ParamValidationError, UnicodeEncodeError)):
        return RemoteError(text, kind=ErrorKind.PERMANENT, code=code)
    if isinstance(error, _BROKEN):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, maybe_applied=True)
    if isinstance(error, ValueError):  # "Invalid endpoint: ..." comes as one
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint="check --endpoint-url or AWS_ENDPOINT_URL", everywhere=True)
    return RemoteError(text, kind=ErrorKind.HALT, code=code, hint="check the AWS configuration; run with -v for details")


def _broke_in_conversation(error: Exception) -> bool:
    """Whether TLS failed when the connection had been made: the request may be out by then, which ``SSLError`` does not tell.

    The chain of exceptions does: what failed in making a connection was raised inside urllib3's ``connect``.
    """
    seen: BaseException | None = error if isinstance(error, boto.SSLError) else None
    raised_by_ssl = False
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and seen.__traceback__ is not None:
            raised_by_ssl = True
            if any(frame.f_code.co_name in {"connect", "do_handshake"} for frame, _ in walk_tb(seen.__traceback__)):
                return False
        seen = seen.__cause__ or seen.__context__
    return raised_by_ssl


def is_of_parsing(error: BaseException) -> bool:
    """Whether botocore's parser stumbled over an answer: valid JSON that is no object, say. It has no exception for that."""
    if not isinstance(error, (AttributeError, TypeError, KeyError)):
        return False
    return any(frame.f_code.co_filename == parsers.__file__ for frame, _ in walk_tb(error.__traceback__))


def _without_page(text: str) -> str:
    """A gateway's page of HTML says nothing to a person."""
    start = text.find("<")
    return text if start < 0 or "html" not in text.lower() else text[:start] + "(a web page)"


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _message(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))
