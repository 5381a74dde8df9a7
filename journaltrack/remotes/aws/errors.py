"""What AWS's refusals and the network's failures mean: from botocore's exceptions to ``RemoteError``.

A table and two functions, no requests. Codes come from botocore 1.44.5's service models, the services' common errors
(https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html, S3's list of error codes) and botocore's own
retry tables (``botocore/data/_retry.json``).

AWS's partitions as botocore knows them: names of regions, and of hosts. Read once, when first asked.

Must not decide anything: a region that botocore does not know may be newer than it.
"""

from __future__ import annotations

import difflib
import functools
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from traceback import walk_tb
from typing import Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore import parsers
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind, NotSentError, RemoteError
from journaltrack.remotes.aws.proof import has_request_id
from journaltrack.util.text import first_words

_NEAR: Final = 0.7


def is_aws(endpoint_url: str) -> bool:
    """Whether an address is one of AWS's own, of whichever partition."""
    host = (urlsplit(endpoint_url).hostname or "").lower()
    return any(host.endswith(f".{suffix}") for suffix in _suffixes())


def unknown_region(endpoint_url: str) -> tuple[str, str | None] | None:
    """The region in an address of AWS's, if botocore knows none of that name.

    Returns:
        It, and the known one that is spelt most like it.
    """
    host = (urlsplit(endpoint_url).hostname or "").lower()
    suffix = next((each for each in _suffixes() if host.endswith(f".{each}")), None)
    if suffix is None:
        return None
    service, _, region = host[: -len(suffix) - 1].rpartition(".")
    if not service or region == "s3" or region in _regions():
        return None
    near = difflib.get_close_matches(region, _regions(), 5, _NEAR)
    near.sort(key=lambda each: sorted(each) != sorted(region))  # two letters in the other order come first
    return region, near[0] if near else None


@functools.lru_cache(maxsize=1)
def _partitions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = create_loader().load_data("partitions")["partitions"]
    return found


@functools.lru_cache(maxsize=1)
def _suffixes() -> tuple[str, ...]:
    """The longest first: one of them may be the end of another."""
    outputs = [partition["outputs"] for partition in _partitions()]
    found = {each[name] for each in outputs for name in ("dnsSuffix", "dualStackDnsSuffix") if each.get(name)}
    return tuple(sorted(found, key=lambda suffix: -len(suffix)))


@functools.lru_cache(maxsize=1)
def _regions() -> tuple[str, ...]:
    return tuple(sorted({region for partition in _partitions() for region in partition["regions"]}))


_SAFE: Final = "nothing was lost"
_RENEW: Final = f"renew the credentials (for example `aws sso login`) and run `journaltrack sync` again; {_SAFE}"
_PERMISSION: Final = f"ask for the permission that the message names, then run `journaltrack sync` again; {_SAFE}"
_SET_CLOCK: Final = f"this machine's clock is wrong: set it (chronyc, ntpdate); {_SAFE}"
_OF_CLOCKS: Final = ("Signature expired", "Signature not yet current", "current time is too large")
"""What a refusal for the clock says where its code says signature."""
_UNEXPECTED: Final = "nobody expected this: run it again with -v and report the traceback; the entries wait in the journal"
_OLD_STORE: Final = (
    "this store does not know what uploads need (conditional writes with If-None-Match, SHA-256 checksums): update it or name another with "
    f"artifact_bucket= and AWS_ENDPOINT_URL_S3; {_SAFE}"
)
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
SAFE_TO_REPEAT: Final = _THROTTLED | {"ConflictException", "CONFLICT_ERROR"}
"""Refusals that say that the request had no effect: it found no token, or somebody else's change was under way (botocore's model of
BatchPutMetrics: "multiple requests attempted to modify the same data simultaneously"). What else is passing (500, 503, InternalFailure,
INTERNAL_ERROR) says that something failed, at whatever point: what can't be sent twice is in doubt then."""
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
        _SET_CLOCK,
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
_CONVERSATION: Final = (boto.HTTPClientError, boto.ConnectionError)
_CONNECTING: Final = frozenset({"connect", "_new_conn", "_prepare_proxy", "_validate_conn"})
_BROKEN: Final = (*_CONVERSATION, boto.IncompleteReadError, OSError, UnicodeDecodeError)
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
_OLD_SESSION: Final = (boto.SSOError, boto.TokenRetrievalError)
_OF_CREDENTIALS: Final = (os.path.join("botocore", "credentials.py"), os.path.join("botocore", "tokens.py"))  # noqa: PTH118 - what code objects hold
_OF_CONFIGURATION: Final = (
    ((boto.NoRegionError, boto.InvalidRegionError), _REGION),
    (_NO_CREDENTIALS, _CREDENTIALS),
    (ValueError, "check --endpoint-url or AWS_ENDPOINT_URL"),  # "Invalid endpoint: ..." comes as one
)
_RESTRICTED: Final = "restricted to the SageMaker runtime"
_S3: Final = frozenset(
    "PutObject HeadObject GetObject HeadBucket CreateBucket CreateMultipartUpload UploadPart CompleteMultipartUpload "  # noqa: SIM905 - as above
    "ListMultipartUploads ListParts AbortMultipartUpload ListObjectsV2".split()
)
_NOT_AWS: Final = (
    "a proxy, the sign-in page of a network (captive portal) or a stand-in that failed (moto: see its log) answers in AWS's place: sign in "
    f"with a browser, see HTTPS_PROXY and NO_PROXY, or check --endpoint-url; {_SAFE}"
)
NOT_AN_ANSWER: Final = "NotAnAnswer"
"""The code of an answer that does not prove itself, see ``proof``."""
_WORDS_CHARS_MAX: Final = 200
"""Ours: of an answer that is quoted."""
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
    if _is_of_credentials(error):
        return _without_credentials(error)
    if isinstance(error, boto.ClientError):
        return _answered(error, component)
    return _unanswered(error)


def _is_of_credentials(error: Exception) -> bool:
    """Whether it was raised where botocore looks for credentials: nothing was sent then."""
    return any(frame.f_code.co_filename.endswith(_OF_CREDENTIALS) for frame, _ in walk_tb(error.__traceback__))


def _without_credentials(error: Exception) -> RemoteError:
    """A token file or program that is not there, a session that expired, a service that gives credentials and can't be reached."""
    found = _answered(error, None) if isinstance(error, boto.ClientError) else _unanswered(error)
    if found.kind is ErrorKind.TRANSIENT and (found.unreachable or found.request_id is not None):
        text = f"no credentials could be had: {found.message}"
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=found.code, hint=found.hint, unreachable=True)
    hint = _RENEW if isinstance(error, _OLD_SESSION) or found.hint == _RENEW else _CREDENTIALS
    text = f"no credentials could be had: {found.message}"
    return RemoteError(text, kind=ErrorKind.HALT, code=found.code, hint=hint, request_id=found.request_id, everywhere=True)


def not_an_answer(operation: str, why: str, body: str | bytes | None = None, *, maybe_applied: bool = True) -> RemoteError:
    """Something answered that does not prove to be the service: nothing is delivered, nothing is anybody's fault.

    A network's sign-in page has not passed the request on, but a proxy that replaces answers has: they
    can't be told apart, so what can't be sent twice is in doubt unless the answer says that it refused.
    """
    words = first_words(body or "")
    quoted = f': "{words}"' if words else ""
    text = f"{operation}: what came back is not the service's answer ({why}){quoted}"
    return RemoteError(text, kind=ErrorKind.TRANSIENT, code=NOT_AN_ANSWER, hint=_NOT_AWS, unreachable=True, maybe_applied=maybe_applied)


def already_exists(error: boto.ClientError) -> bool:
    """Whether a create was refused because the name is taken; AWS says so in words, with a ValidationException."""
    return code_of(error) in {"ValidationException", "ConflictException", "ResourceInUse"} and "already exists" in _message(error).lower()


def not_found(error: boto.ClientError) -> bool:
    """Whether a component, trial or experiment is missing; moto says it with a ValidationException."""
    code = code_of(error)
    return code in {"ResourceNotFound", "ResourceNotFoundException"} or (
        code == "ValidationException" and "could not find" in _message(error).lower()
    )


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of the answer, 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: boto.ClientError) -> str:
    """The error's code; the HTTP status where the answer had none."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def is_taken(error: boto.ClientError) -> bool:
    """Whether S3 says that a conditional write found its key taken."""
    return code_of(error) == "PreconditionFailed"


def is_throttled(answer: Mapping[str, Any]) -> bool:
    """Whether an answer, as botocore parsed it, asks for fewer requests."""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 429 or answer.get("Error", {}).get("Code") in _THROTTLED  # noqa: PLR2004 - Too Many Requests


def is_of_service(error: boto.ClientError) -> bool:
    """Whether a refusal carries the service's request id; one that did not come over HTTP (``Stubber``) counts as if."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders")
    return headers is None or has_request_id(headers)


def _answered(error: boto.ClientError, component: str | None) -> RemoteError:
    code, message, status = code_of(error), _message(error), status_of(error)
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
        throttled = is_throttled(error.response)
        common |= {"throttled": throttled, "maybe_applied": not throttled and code not in SAFE_TO_REPEAT}
        return RemoteError(text, kind=ErrorKind.TRANSIENT, hint="AWS asks to slow down or try later", **common)
    text = _readable(text, error)
    halt = _halt(code, status, error.operation_name)
    if halt is not None:
        hint = _clock(error) if halt[0] is _SET_CLOCK or any(words in message for words in _OF_CLOCKS) else halt[0]
        return RemoteError(text, kind=ErrorKind.HALT, hint=hint, uploads_only=halt[1], everywhere=code in _EVERYWHERE, **common)
    if status == 501 and _is_of_store(error):  # noqa: PLR2004 - Not Implemented
        return RemoteError(text, kind=ErrorKind.HALT, hint=_OLD_STORE, uploads_only=True, **common)
    foreign = _foreign(error)
    if foreign is not None:
        return foreign
    if status >= 500:  # noqa: PLR2004 - a gateway's own page, not an error of the service: the request may have passed
        return RemoteError(text, kind=ErrorKind.TRANSIENT, maybe_applied=True, **common)
    return RemoteError(text, kind=ErrorKind.PERMANENT, **common)


def _is_of_store(error: boto.ClientError) -> bool:
    """Whether it was S3, or a store of its kind, that was asked."""
    return error.operation_name in _S3


def _clock(error: boto.ClientError) -> str:
    """What to do about the clock, with how far it is off, as the answer's date tells."""
    date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        ahead_s = time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return _SET_CLOCK
    way = "ahead of" if ahead_s > 0 else "behind"
    return f"this machine's clock is {abs(ahead_s) / 60:.0f} min {way} AWS's: set it (chronyc, ntpdate); {_SAFE}"


def _foreign(error: boto.ClientError) -> RemoteError | None:
    """If a refusal is not the service's: what it is."""
    code, status, operation = code_of(error), status_of(error), error.operation_name
    if status == 511:  # noqa: PLR2004 - Network Authentication Required (RFC 6585): by a network's portal, which passes nothing on
        return not_an_answer(operation, "HTTP 511", _message(error), maybe_applied=False)
    if code == "500" and (operation in _S3 or not is_of_service(error)):  # botocore makes that of a page that S3 sent with 200
        return not_an_answer(operation, f"HTTP {status}, no document of the service", _message(error))
    if status < 500 and not is_of_service(error):  # noqa: PLR2004
        told = f"HTTP {status}" + ("" if code.isdigit() else f", {code}")
        return not_an_answer(operation, f"{told}: it has no request id", _message(error), maybe_applied=False)
    return None


def _halt(code: str, status: int, operation: str) -> tuple[str, bool] | None:
    """If the refusal is nobody's fault: what to do, and whether uploads alone are concerned."""
    of_s3 = operation in _S3
    if code.startswith("KMS."):
        return "the bucket's encryption key is disabled, deleted or not permitted: see its settings in KMS", True
    if code.isdigit() and status < 500:  # noqa: PLR2004 - no error of a service: S3's HEAD has no body, the rest is not AWS
        return _HALT.get(code, _NOT_AWS), of_s3
    hint = _HALT.get(code)
    return None if hint is None else (hint, of_s3 and hint is _PERMISSION)


def _unanswered(error: Exception) -> RemoteError:
    code, text = type(error).__name__, str(error)
    if isinstance(error, ResponseParserError):
        why, _, body = text.partition("\n")
        return not_an_answer("AWS", why[:_WORDS_CHARS_MAX], body.removeprefix("b'"))
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=_CERTIFICATE, everywhere=True)
    if isinstance(error, _CONVERSATION) and not _may_be_out(error):
        return _misspelt(error) or RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=True)
    if isinstance(error, (boto.ParamValidationError, UnicodeEncodeError)):
        return RemoteError(text, kind=ErrorKind.PERMANENT, code=code)
    if isinstance(error, _BROKEN):
        silent = isinstance(error, boto.ReadTimeoutError)
        return RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=_UNREACHABLE, unreachable=silent, maybe_applied=True)
    for kinds, hint in _OF_CONFIGURATION:
        if isinstance(error, kinds):
            return RemoteError(text, kind=ErrorKind.HALT, code=code, hint=hint, everywhere=True)
    if isinstance(error, boto.BotoCoreError):
        return RemoteError(text, kind=ErrorKind.HALT, code=code, hint="check the AWS configuration; run with -v for details")
    return RemoteError(f"{code}: {text}", kind=ErrorKind.HOLD, code=code, hint=_UNEXPECTED, maybe_applied=True)


def _misspelt(error: Exception) -> RemoteError | None:
    """If a host's name is unknown: whether that is since its region is none that botocore knows."""
    unknown = unknown_region(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    if unknown is None or not any(isinstance(each, socket.gaierror) for each in _chain(error)):
        return None
    region, near = unknown
    meant = f"; did you mean {near}?" if near else ""
    text = f"there is no host of AWS's for the region {region}, and no known region of that name{meant}"
    return RemoteError(text, kind=ErrorKind.HALT, code="UnknownRegion", hint=f"{_REGION}; {_SAFE}", everywhere=True)


def _may_be_out(error: Exception) -> bool:
    """Whether a request may have been sent when the conversation broke; the class of botocore's error does not tell.

    The chain of exceptions does: what failed in connecting (names, TCP, a proxy's tunnel, the handshake of TLS) passed through
    urllib3's ``connect``, and the request is written after that.
    """
    chain = list(_chain(error))
    if any(_is_of_connecting(each) for each in chain):
        return False
    if isinstance(error, boto.SSLError):
        return any(isinstance(each, ssl.SSLError) for each in chain)
    return not isinstance(error, _NOT_SENT)


def _chain(error: Exception) -> Iterator[BaseException]:
    """An error of botocore's and what it was made of: it has that among its members, urllib3 among its arguments."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen or (each is not error and isinstance(each, (boto.BotoCoreError, boto.ClientError, RemoteError))):
            continue  # another failure, which was being handled when this one came
        seen.add(id(each))
        yield each
        parts = (each.__cause__, each.__context__, getattr(each, "kwargs", {}).get("error"), getattr(each, "reason", None), *each.args)
        waiting += [part for part in parts if isinstance(part, BaseException)]


def _is_of_connecting(error: BaseException) -> bool:
    return any(frame.f_code.co_name in _CONNECTING and "urllib3" in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))


def is_of_parsing(error: BaseException) -> bool:
    """Whether botocore's parser stumbled over an answer: valid JSON that is no object, say. It has no exception for that."""
    if not isinstance(error, (AttributeError, TypeError, KeyError)):
        return False
    return any(frame.f_code.co_filename == parsers.__file__ for frame, _ in walk_tb(error.__traceback__))


def _readable(text: str, error: boto.ClientError) -> str:
    """Of a gateway's page of HTML what a person reads; with the HTTP status where no service said what is wrong."""
    start, status, operation = text.find("<"), status_of(error), error.operation_name
    is_page = start >= 0 and "html" in text.lower()
    if is_page:
        text = f'{text[:start]}"{first_words(text[start:])}"'
    if is_page or (status >= 500 and str(status) not in text):  # noqa: PLR2004
        text = f"{operation}: HTTP {status}{text.removeprefix(operation)}"
    return text


def _message(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))
