"""Classify AWS's refusals and the network's failures as ``RemoteError``.

Tables and functions that read them; sends no requests. The error codes come from

- botocore 1.44.5's service models,
- the services' common errors
  (https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html) and S3's list of
  error codes,
- botocore's retry tables (``botocore/data/_retry.json``).
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from traceback import walk_tb
from typing import Any, Final, NamedTuple

from botocore import exceptions as boto
from botocore import parsers
from botocore.parsers import ResponseParserError

from journaltrack.errors import (
    AlreadyExistsError,
    ComponentMissingError,
    ErrorKind,
    NotSentError,
    RemoteError,
)
from journaltrack.remotes.aws.hosts import unknown_region
from journaltrack.remotes.aws.proof import has_request_id
from journaltrack.util.text import first_words

_SAFE: Final = "nothing was lost"
_RENEW: Final = f"renew the credentials (`aws sso login`), then run `journaltrack sync`; {_SAFE}"
_PERMISSION: Final = f"ask for the permission named above, then run `journaltrack sync`; {_SAFE}"
_SET_CLOCK: Final = f"this machine's clock is wrong: set it (chronyc, ntpdate); {_SAFE}"
_OF_CLOCKS: Final = ("Signature expired", "Signature not yet current", "current time is too large")
"""Words of a refusal that names a signature in its code, and is about the clock."""
_UNEXPECTED: Final = (
    "run it again with -v and report the traceback; the entries wait in the journal"
)
_OLD_STORE: Final = (
    "this store lacks conditional writes (If-None-Match) or SHA-256 checksums: "
    f"update it, or set artifact_bucket= and AWS_ENDPOINT_URL_S3 to another one; {_SAFE}"
)
_REGION: Final = "name the region with --region or AWS_REGION"
_CREDENTIALS: Final = f"configure credentials (`aws configure`, AWS_PROFILE, or --profile); {_SAFE}"
_THROTTLED: Final = frozenset(
    [
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
        *("RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded"),
        *("BandwidthLimitExceeded", "LimitExceededException", "SlowDown"),
        *("ProvisionedThroughputExceededException", "EC2ThrottledException"),
    ]
)
"""botocore's throttling errors (botocore/retries/standard.py, ThrottledRetryableChecker)."""
_TRANSIENT: Final = _THROTTLED | {
    *("PriorRequestNotComplete", "TransactionInProgressException", "ConflictException"),
    *("RequestTimeout", "RequestTimeoutException", "InternalError", "InternalFailure"),
    *("InternalServerError", "InternalServerException", "ServiceUnavailable"),
    *("ServiceUnavailableException", "OperationAborted", "Busy", "ConditionalRequestConflict"),
    *("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"),
}
SAFE_TO_REPEAT: Final = _THROTTLED | {"ConflictException", "CONFLICT_ERROR"}
"""Refusals after which the request certainly had no effect.

The service throttled it, or another change was under way (botocore's model of BatchPutMetrics:
"multiple requests attempted to modify the same data simultaneously"). Other transient refusals
(500, 503, InternalFailure, INTERNAL_ERROR) do not tell at which point something failed. A request
that can't be sent twice is in doubt then.
"""
DENIED: Final = (
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "NotAuthorized",
    "AllAccessDisabled",
    "403",
)
"""Codes of refusals for lack of a permission."""


class _Refusals(NamedTuple):
    """Refusals with one cause, after which the requests of the same kind fail too.

    Attributes:
        codes: The errors' codes.
        hint: What to do.
        everywhere: Whether they concern every component and bucket. A permission may be missing
            for one, and a bucket has its own region.
    """

    codes: tuple[str, ...]
    hint: str
    everywhere: bool = True


_EXPIRED: Final = _Refusals(
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _RENEW
)
_UNKNOWN_KEY: Final = _Refusals(
    (
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    ),
    f"AWS does not know these credentials: check AWS_PROFILE and the access key; {_SAFE}",
)
_BAD_SIGNATURE: Final = _Refusals(
    (
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "IncompleteSignatureException",
    ),
    f"check the secret key and the region; {_SAFE}",
)
_OF_CLOCK: Final = _Refusals(
    ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), _SET_CLOCK
)
_DENIED: Final = _Refusals(DENIED, _PERMISSION, everywhere=False)
_OF_ACCOUNT: Final = _Refusals(
    (
        "OptInRequired",
        "SubscriptionRequiredException",
        "AccountProblem",
        "InvalidPayer",
        "NotSignedUp",
    ),
    "the account is suspended, or lacks this service or region: see its billing console",
)
_ELSEWHERE: Final = f"the bucket or the service is in another region: {_REGION}"
_BUCKET_ELSEWHERE: Final = _Refusals(
    (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    ),
    _ELSEWHERE,
    everywhere=False,
)
_SERVICE_ELSEWHERE: Final = _Refusals(("UnknownEndpoint",), _ELSEWHERE)
_HALT: Final = {
    code: refusals
    for refusals in (
        *(_EXPIRED, _UNKNOWN_KEY, _BAD_SIGNATURE, _OF_CLOCK, _DENIED, _OF_ACCOUNT),
        *(_BUCKET_ELSEWHERE, _SERVICE_ELSEWHERE),
    )
    for code in refusals.codes
}
_OF_KMS: Final = _Refusals(
    (),
    "the bucket's KMS key is disabled, deleted or not permitted: check it in KMS",
    everywhere=False,
)
_UNSAID: Final = _Refusals(
    (),
    "S3 does not say why it refuses (an answer to HEAD has no body): check the region, and "
    f"whether the credentials have expired; {_SAFE}",
    everywhere=False,
)
_OF_GATEWAY: Final = (
    f"a proxy or a gateway on the way to AWS fails: try later, or check HTTPS_PROXY; {_SAFE}"
)
_LATER: Final = "AWS asks to slow down or try later"
_UNREACHABLE: Final = (
    f"check the network, VPN, proxy (HTTPS_PROXY) and the endpoint's address; {_SAFE}"
)
_NOT_SENT: Final = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)
_CONVERSATION: Final = (boto.HTTPClientError, boto.ConnectionError)
_CONNECTING: Final = frozenset({"connect", "_new_conn", "_prepare_proxy", "_validate_conn"})
_BROKEN: Final = (*_CONVERSATION, boto.IncompleteReadError, OSError, UnicodeDecodeError)
"""The connection broke, or its answer is not one of a service: the request may have arrived."""
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
)
_OLD_SESSION: Final = (boto.SSOError, boto.TokenRetrievalError)
# Compared with the file names in code objects, which are plain strings.
_OF_CREDENTIALS: Final = tuple(f"botocore{os.sep}{name}.py" for name in ("credentials", "tokens"))
_OF_CONFIGURATION: Final = (
    ((boto.NoRegionError, boto.InvalidRegionError), _REGION),
    (_NO_CREDENTIALS, _CREDENTIALS),
    # botocore raises it with "Invalid endpoint: ...".
    (ValueError, "check --endpoint-url or AWS_ENDPOINT_URL"),
)
_RESTRICTED: Final = "restricted to the SageMaker runtime"
_HEAD: Final = frozenset({"HeadObject", "HeadBucket"})
"""Requests whose answers have no body: the status alone says what is wrong."""
_S3: Final = _HEAD | frozenset(
    [
        *("PutObject", "GetObject", "CreateBucket", "ListObjectsV2"),
        *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"),
        *("ListMultipartUploads", "ListParts", "AbortMultipartUpload"),
    ]
)
_NOT_AWS: Final = (
    "a proxy, a captive portal or a failed stand-in (moto: see its log) answers in AWS's place: "
    f"sign in with a browser, check HTTPS_PROXY, NO_PROXY and --endpoint-url; {_SAFE}"
)
_FOREIGN: Final = _Refusals((), _NOT_AWS, everywhere=False)
NOT_AN_ANSWER: Final = "NotAnAnswer"
"""The code of an answer that does not prove itself, see ``proof``."""
_WORDS_CHARS_MAX: Final = 200
"""Ours: characters of an answer that a message quotes."""
_CERTIFICATE: Final = f"behind an intercepting proxy, set AWS_CA_BUNDLE to its certificate; {_SAFE}"


def classified(error: Exception, component: str | None = None) -> RemoteError:
    """Convert the failure of a request into a ``RemoteError``.

    Args:
        error: The exception that boto3 or the connection raised.
        component: The trial component that the request was about.
    """
    if isinstance(error, RemoteError):
        return error
    # botocore's HTTP layer wraps what a connection raises.
    if isinstance(error, boto.HTTPClientError) and isinstance(error.__context__, NotSentError):
        return error.__context__
    if _is_of_credentials(error):
        return _without_credentials(error)
    if isinstance(error, boto.ClientError):
        return _answered(error, component)
    return _unanswered(error)


def _is_of_credentials(error: Exception) -> bool:
    """Return whether botocore raised it while it looked up credentials: nothing was sent then."""
    files = (frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
    return any(file.endswith(_OF_CREDENTIALS) for file in files)


def _without_credentials(error: Exception) -> RemoteError:
    """Convert a failed look-up of credentials.

    Causes: a missing token file or program, an expired session, or an unreachable service that
    gives credentials. Only the last is transient.
    """
    found = _answered(error, None) if isinstance(error, boto.ClientError) else _unanswered(error)
    text, code = f"no credentials could be had: {found.message}", found.code
    if found.kind is ErrorKind.TRANSIENT and (found.unreachable or found.request_id is not None):
        return RemoteError(text, kind=found.kind, code=code, hint=found.hint, unreachable=True)
    has_expired = isinstance(error, _OLD_SESSION) or code in _EXPIRED.codes
    hint = _RENEW if has_expired else _CREDENTIALS
    request_id = found.request_id
    return RemoteError(
        text, kind=ErrorKind.HALT, code=code, hint=hint, request_id=request_id, everywhere=True
    )


def not_an_answer(
    operation: str, why: str, body: str | bytes | None = None, *, maybe_applied: bool = True
) -> RemoteError:
    """Make the error for an answer that does not prove that the service gave it.

    A captive portal does not pass the request on, but a proxy that replaces answers does. They look
    the same. So a request that can't be sent twice is in doubt, unless the answer is a refusal.

    Args:
        operation: botocore's name of it.
        why: What the answer lacks.
        body: The answer's body; the message quotes its first words.
        maybe_applied: Whether the request may have taken effect.
    """
    words = first_words(body or "")
    quoted = f': "{words}"' if words else ""
    return RemoteError(
        f"{operation}: what came back is not the service's answer ({why}){quoted}",
        kind=ErrorKind.TRANSIENT,
        code=NOT_AN_ANSWER,
        hint=_NOT_AWS,
        unreachable=True,
        maybe_applied=maybe_applied,
    )


def already_exists(error: boto.ClientError) -> bool:
    """Return whether a create was refused because the name is taken.

    AWS answers with a ValidationException, and only its message tells.
    """
    codes = {"ValidationException", "ConflictException", "ResourceInUse"}
    return code_of(error) in codes and "already exists" in _message(error).lower()


def not_found(error: boto.ClientError) -> bool:
    """Return whether a component, trial or experiment is missing.

    moto answers with a ValidationException.
    """
    code = code_of(error)
    return code in {"ResourceNotFound", "ResourceNotFoundException"} or (
        code == "ValidationException" and "could not find" in _message(error).lower()
    )


def status_of(error: boto.ClientError) -> int:
    """Return the HTTP status of the answer, or 0 if it is unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: boto.ClientError) -> str:
    """Return the error's code, or the HTTP status if the answer had no code."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def is_taken(error: boto.ClientError) -> bool:
    """Return whether S3 refused a conditional write because its key is taken."""
    return code_of(error) == "PreconditionFailed"


def is_throttled(answer: Mapping[str, Any], operation: str) -> bool:
    """Return whether an answer asks for fewer requests.

    Args:
        answer: As botocore parsed it.
        operation: botocore's name of the request.
    """
    metadata = answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    if status == HTTPStatus.TOO_MANY_REQUESTS or answer.get("Error", {}).get("Code") in _THROTTLED:
        return True
    # S3's SlowDown: its code would be in the body.
    is_unexplained = operation in _HEAD and status == HTTPStatus.SERVICE_UNAVAILABLE
    return is_unexplained and _has_id(metadata)


def is_of_service(error: boto.ClientError) -> bool:
    """Return whether a refusal carries the service's request id.

    A refusal that did not come over HTTP (``Stubber``) counts as the service's.
    """
    return _has_id(error.response.get("ResponseMetadata", {}))


def _has_id(metadata: Mapping[str, Any]) -> bool:
    headers = metadata.get("HTTPHeaders")
    return headers is None or has_request_id(headers)


def _answered(error: boto.ClientError, component: str | None) -> RemoteError:
    """Convert a refusal.

    The order matters:

    1. What only the words of a refusal tell: without them its code means something else.
    2. What passes by itself. A 429 without a code would count as a refusal in step 3.
    3. What halts, with or without a request id: compatible stores and proxies deny access too, and
       only a person can change that.
    4. What did not come from the service. Its other codes mean nothing.
    5. What has nothing but a status.
    """
    code, message, status = code_of(error), _message(error), status_of(error)
    request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
    common: dict[str, Any] = {"code": code, "request_id": request_id}
    told = f" ({code})" if message and code not in message else ""
    text = f"{error.operation_name}: {message or code}{told}"
    if already_exists(error) and error.operation_name == "CreateTrialComponent":
        return AlreadyExistsError(text, kind=ErrorKind.HOLD, **common)
    if _RESTRICTED in message:
        hint = (
            "this account lets only SageMaker jobs create components: Tracker.load() the job's own"
        )
        return RemoteError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    if not_found(error) and component is not None:
        command = f"`journaltrack sync --create-or-attach --component {component}`"
        hint = f"it may have been deleted; {command} creates it again"
        return ComponentMissingError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    if code in {"ResourceLimitExceeded", "ServiceQuotaExceededException"}:
        hint = (
            "delete unneeded trial components, or ask AWS for a higher quota; entries stay pending"
        )
        return RemoteError(text, kind=ErrorKind.HOLD, hint=hint, **common)
    throttled = is_throttled(error.response, error.operation_name)
    if code in _TRANSIENT or throttled:
        maybe_applied = not throttled and code not in SAFE_TO_REPEAT
        common |= {"throttled": throttled, "maybe_applied": maybe_applied}
        return RemoteError(text, kind=ErrorKind.TRANSIENT, hint=_LATER, **common)
    text = _readable(text, error)
    halt = _halt(error)
    if halt is not None:
        refusals, uploads_only = halt
        of_clock = refusals is _OF_CLOCK or any(words in message for words in _OF_CLOCKS)
        hint = _clock(error) if of_clock else refusals.hint
        common |= {"uploads_only": uploads_only, "everywhere": refusals.everywhere}
        return RemoteError(text, kind=ErrorKind.HALT, hint=hint, **common)
    if status == HTTPStatus.NOT_IMPLEMENTED and _is_of_store(error):
        return RemoteError(text, kind=ErrorKind.HALT, hint=_OLD_STORE, uploads_only=True, **common)
    foreign = _foreign(error)
    if foreign is not None:
        return foreign
    # A failure without a code, of the service or of a gateway: the request may have passed.
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = _LATER if is_of_service(error) else _OF_GATEWAY
        return RemoteError(text, kind=ErrorKind.TRANSIENT, hint=hint, maybe_applied=True, **common)
    return RemoteError(text, kind=ErrorKind.PERMANENT, **common)


def _is_of_store(error: boto.ClientError) -> bool:
    """Return whether the request went to S3, or to a compatible store."""
    return error.operation_name in _S3


def _clock(error: boto.ClientError) -> str:
    """Return the hint about the clock, with its error against the answer's date in minutes."""
    date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        ahead_s = time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return _SET_CLOCK
    way = "ahead of" if ahead_s > 0 else "behind"
    off = f"{abs(ahead_s) / 60:.0f} min {way} AWS's"
    return f"this machine's clock is {off}: set it (chronyc, ntpdate); {_SAFE}"


def _foreign(error: boto.ClientError) -> RemoteError | None:
    """Return the error for a refusal that did not come from the service, or None if it did."""
    code, status, operation = code_of(error), status_of(error), error.operation_name
    # A captive portal, which passes nothing on (RFC 6585).
    if status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:
        return not_an_answer(operation, "HTTP 511", _message(error), maybe_applied=False)
    if code == "500" and (not is_of_service(error) or _may_be_page(error)):
        why = f"HTTP {status}, no document of the service"
        return not_an_answer(operation, why, _message(error))
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and not is_of_service(error):
        told = f"HTTP {status}" + ("" if code.isdigit() else f", {code}")
        why = f"{told}: it has no request id"
        return not_an_answer(operation, why, _message(error), maybe_applied=False)
    return None


def _may_be_page(error: boto.ClientError) -> bool:
    """Return whether code 500 may stand for a page that came with status 200.

    botocore changes code and status for S3 then, and the two look the same. But a page has a body.
    """
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders") or {}
    has_body = error.operation_name not in _HEAD and headers.get("content-length") != "0"
    return _is_of_store(error) and has_body


def _halt(error: boto.ClientError) -> tuple[_Refusals, bool] | None:
    """Return the cause, and whether only uploads halt; None if other requests can succeed."""
    code, of_s3 = code_of(error), _is_of_store(error)
    if code.startswith("KMS."):
        return _OF_KMS, True
    # Not an error of a service: S3's answer to HEAD has no body, and the others are not AWS's.
    if code.isdigit() and status_of(error) < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _HALT.get(code, _UNSAID if of_s3 and is_of_service(error) else _FOREIGN), of_s3
    refusals = _HALT.get(code)
    return None if refusals is None else (refusals, of_s3 and refusals is _DENIED)


def _unanswered(error: Exception) -> RemoteError:
    code, text = type(error).__name__, str(error)
    if isinstance(error, ResponseParserError):
        why, _, body = text.partition("\n")
        return not_an_answer("AWS", why[:_WORDS_CHARS_MAX], body.removeprefix("b'"))
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_CERTIFICATE, everywhere=True)
    if isinstance(error, _CONVERSATION) and not _may_be_out(error):
        return _misspelt(error) or _unreachable(text, code, unreachable=True)
    if isinstance(error, (boto.ParamValidationError, UnicodeEncodeError)):
        return RemoteError(text, kind=ErrorKind.PERMANENT, code=code)
    if isinstance(error, _BROKEN):
        silent = isinstance(error, boto.ReadTimeoutError)
        return _unreachable(text, code, unreachable=silent, maybe_applied=True)
    for kinds, hint in _OF_CONFIGURATION:
        if isinstance(error, kinds):
            return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=hint, everywhere=True)
    if isinstance(error, boto.BotoCoreError):
        hint = "check the AWS configuration; run with -v for details"
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=hint)
    text = f"{code}: {text}"
    return RemoteError(text, kind=ErrorKind.HOLD, code=code, hint=_UNEXPECTED, maybe_applied=True)


def _unreachable(
    text: str, code: str, *, unreachable: bool, maybe_applied: bool = False
) -> RemoteError:
    return RemoteError(
        text,
        kind=ErrorKind.TRANSIENT,
        code=code,
        hint=_UNREACHABLE,
        unreachable=unreachable,
        maybe_applied=maybe_applied,
    )


def _misspelt(error: Exception) -> RemoteError | None:
    """Return the error for an unknown host whose region botocore does not know, else None."""
    unknown = unknown_region(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    if unknown is None or not any(isinstance(each, socket.gaierror) for each in _chain(error)):
        return None
    region, near = unknown
    meant = f"; did you mean {near}?" if near else ""
    text = f"AWS has no host in the region {region}, and no such region is known{meant}"
    hint = f"{_REGION}; {_SAFE}"
    return RemoteError(text, kind=ErrorKind.HALT, code="UnknownRegion", hint=hint, everywhere=True)


def _may_be_out(error: Exception) -> bool:
    """Return whether a request may have been sent when the connection broke.

    The class of botocore's error does not tell, but the chain of exceptions does. A failure to
    connect (DNS, TCP, a proxy's tunnel, the TLS handshake) passes through urllib3's ``connect``.
    The request is written after that.
    """
    chain = list(_chain(error))
    if any(_is_of_connecting(each) for each in chain):
        return False
    if isinstance(error, boto.SSLError):
        return any(isinstance(each, ssl.SSLError) for each in chain)
    return not isinstance(error, _NOT_SENT)


def _chain(error: Exception) -> Iterator[BaseException]:
    """Yield an error and its causes.

    botocore keeps a cause among its error's members, urllib3 among its error's arguments.
    """
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        # Another whole failure, which was being handled when this one came, is not a cause.
        other = isinstance(each, (boto.BotoCoreError, boto.ClientError, RemoteError))
        if id(each) in seen or (other and each is not error):
            continue
        seen.add(id(each))
        yield each
        members = (getattr(each, "kwargs", {}).get("error"), getattr(each, "reason", None))
        parts = (each.__cause__, each.__context__, *members, *each.args)
        waiting += [part for part in parts if isinstance(part, BaseException)]


def _is_of_connecting(error: BaseException) -> bool:
    codes = (frame.f_code for frame, _ in walk_tb(error.__traceback__))
    return any(code.co_name in _CONNECTING and "urllib3" in code.co_filename for code in codes)


def is_of_parsing(error: BaseException) -> bool:
    """Return whether botocore's parser failed on an answer, such as valid JSON that is no object.

    botocore has no exception for that.
    """
    if not isinstance(error, (AttributeError, TypeError, KeyError)):
        return False
    files = (frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
    return parsers.__file__ in files


def _readable(text: str, error: boto.ClientError) -> str:
    """Make a refusal's text readable.

    Replace a gateway's HTML page by its words. Add the HTTP status if no service said more.
    """
    start, status, operation = text.find("<"), status_of(error), error.operation_name
    is_page = start >= 0 and "html" in text.lower()
    if is_page:
        text = f'{text[:start]}"{first_words(text[start:])}"'
    if is_page or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and str(status) not in text):
        text = f"{operation}: HTTP {status}{text.removeprefix(operation)}"
    return text


def _message(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))
