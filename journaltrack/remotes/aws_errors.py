"""What AWS's refusals and the network's failures mean: from botocore's exceptions to ``RemoteError``.

A table and two functions, no requests. Codes come from botocore 1.44.5's service models, the services' common errors
(https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html, S3's list of error codes) and botocore's own
retry tables (``botocore/data/_retry.json``).
"""

from __future__ import annotations

from typing import Any, Final

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, RemoteError

_SAFE: Final = "nothing was lost"
_RENEW: Final = f"renew the credentials (for example `aws sso login`) and run `journaltrack sync` again; {_SAFE}"
_PERMISSION: Final = f"ask for the permission that the message names, then run `journaltrack sync` again; {_SAFE}"
_REGION: Final = "name the region with --region or AWS_REGION"
_CREDENTIALS: Final = f"configure credentials (`aws configure`, AWS_PROFILE, or --profile); {_SAFE}"

_TRANSIENT: Final = frozenset(
    "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException "
    "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown PriorRequestNotComplete ProvisionedThroughputExceededException "
    "EC2ThrottledException TransactionInProgressException ConflictException RequestTimeout RequestTimeoutException InternalError InternalFailure "
    "InternalServerError InternalServerException ServiceUnavailable ServiceUnavailableException OperationAborted Busy 500 503".split()
)
_HALT: Final = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _RENEW),
    **dict.fromkeys(
        ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidToken", "MissingAuthenticationToken"),
        f"these credentials are not known to AWS: check AWS_PROFILE and the access key; {_SAFE}",
    ),
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"), f"check the secret key and the region; {_SAFE}"
    ),
    **dict.fromkeys(
        ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), f"this machine's clock is wrong: set it (chronyc, ntpdate); {_SAFE}"
    ),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AllAccessDisabled", "403"), _PERMISSION),
    **dict.fromkeys(("OptInRequired", "SubscriptionRequiredException"), "the account is not signed up for this service or region"),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "UnknownEndpoint"),
        f"the bucket or the service is in another region: {_REGION}",
    ),
}
_UNREACHABLE: Final = "check the network, VPN or proxy (HTTPS_PROXY), or the endpoint's address; everything waits in the journal"
_NOT_SENT: Final = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)
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
_S3: Final = frozenset({"PutObject", "HeadObject", "HeadBucket", "CreateBucket", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"})


def classified(error: Exception, component: str | None = None) -> RemoteError:
    """The failure of a request as a ``RemoteError``.

    Args:
        error: What boto3 or the connection raised.
        component: The trial component that the request was about.
    """
    if isinstance(error, RemoteError):
        return error
    if isinstance(error, boto.ClientError):
        return _answered(error, component)
    return _unanswered(error)


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
    if code == "400" and error.operation_name.startswith("Head"):  # an answer without a body: an expired token looks like this
        return RemoteError(text, kind=ErrorKind.HALT, hint=_RENEW, **common)
    if code in _HALT:
        denied = _HALT[code] is _PERMISSION
        return RemoteError(text, kind=ErrorKind.HALT, hint=_HALT[code], uploads_only=denied and error.operation_name in _S3, **common)
    if code in _TRANSIENT or status == 429:  # noqa: PLR2004 - Too Many Requests
        return RemoteError(text, kind=ErrorKind.TRANSIENT, hint="AWS asks to slow down or try later", **common)
    if status >= 500:  # noqa: PLR2004 - a gateway's own page, not an error of the service: the request may have passed
        return RemoteError(text, kind=ErrorKind.TRANSIENT, maybe_applied=True, **common)
    return RemoteError(text, kind=ErrorKind.PERMANENT, **common)


def _unanswered(error: Exception) -> RemoteError:
    code, text = type(error).__name__, str(error)
    if isinstance(error, _NOT_SENT):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=True)
    if isinstance(error, boto.ReadTimeoutError):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=True, maybe_applied=True)
    if isinstance(error, (boto.NoRegionError, boto.InvalidRegionError)):
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_REGION)
    if isinstance(error, _NO_CREDENTIALS):
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_CREDENTIALS)
    if isinstance(error, boto.ParamValidationError):
        return RemoteError(text, kind=ErrorKind.PERMANENT, code=code)
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, ResponseParserError, OSError)):
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, maybe_applied=True)
    if isinstance(error, ValueError):  # "Invalid endpoint: ..." comes as one
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint="check --endpoint-url or AWS_ENDPOINT_URL")
    return RemoteError(text, kind=ErrorKind.HALT, code=code, hint="check the AWS configuration; run with -v for details")


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _message(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))
