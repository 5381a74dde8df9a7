"""The table of errors: every failure of botocore has a meaning, and none blames an entry for
what is nobody's fault.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import botocore.session
import pytest
from botocore import exceptions as boto
from botocore.credentials import CredentialProvider
from botocore.parsers import ResponseParserError

from journaltrack.errors import AlreadyExistsError, ComponentMissingError, ErrorKind
from journaltrack.remotes.aws.errors import classified

URL = {"endpoint_url": "https://api.sagemaker.us-east-1.amazonaws.com"}


def refusal(
    code: str, message: str = "no", status: int = 400, operation: str = "UpdateTrialComponent"
) -> boto.ClientError:
    metadata: Any = {"HTTPStatusCode": status, "RequestId": "r-1"}
    return boto.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation
    )


@pytest.mark.parametrize(
    ("error", "kind", "unreachable", "maybe_applied"),
    [
        (boto.EndpointConnectionError(**URL), ErrorKind.TRANSIENT, True, False),
        (boto.ConnectTimeoutError(**URL), ErrorKind.TRANSIENT, True, False),
        (boto.ProxyConnectionError(proxy_url="http://proxy"), ErrorKind.TRANSIENT, True, False),
        (boto.ReadTimeoutError(**URL), ErrorKind.TRANSIENT, True, True),
        (boto.ConnectionClosedError(**URL), ErrorKind.TRANSIENT, False, True),
        (boto.ResponseStreamingError(error="cut"), ErrorKind.TRANSIENT, False, True),
        (boto.HTTPClientError(error="?"), ErrorKind.TRANSIENT, False, True),
        (
            boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            ErrorKind.TRANSIENT,
            False,
            True,
        ),
        (ResponseParserError("not XML"), ErrorKind.TRANSIENT, True, True),
        (boto.SSLError(error="handshake", **URL), ErrorKind.TRANSIENT, True, False),
        (
            boto.SSLError(error="[SSL: CERTIFICATE_VERIFY_FAILED]", **URL),
            ErrorKind.HALT,
            False,
            False,
        ),
        (boto.NoCredentialsError(), ErrorKind.HALT, False, False),
        (
            boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            ErrorKind.HALT,
            False,
            False,
        ),
        (
            boto.CredentialRetrievalError(provider="process", error_msg="exit 1"),
            ErrorKind.HALT,
            False,
            False,
        ),
        (
            boto.TokenRetrievalError(provider="sso", error_msg="expired"),
            ErrorKind.HALT,
            False,
            False,
        ),
        (boto.UnauthorizedSSOTokenError(), ErrorKind.HALT, False, False),
        (boto.SSOTokenLoadError(error_msg="no token"), ErrorKind.HALT, False, False),
        (boto.NoRegionError(), ErrorKind.HALT, False, False),
        (boto.InvalidRegionError(region_name="!"), ErrorKind.HALT, False, False),
        (boto.ProfileNotFound(profile="nobody"), ErrorKind.HALT, False, False),
        (boto.ConfigParseError(path="~/.aws/config"), ErrorKind.HALT, False, False),
        (ValueError("Invalid endpoint: x"), ErrorKind.HALT, False, False),
        (boto.ParamValidationError(report="Missing"), ErrorKind.PERMANENT, False, False),
        ("\udcff".encode, ErrorKind.PERMANENT, False, False),
        (b"\xff".decode, ErrorKind.TRANSIENT, False, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failures_without_an_answer(
    error: Any, kind: ErrorKind, unreachable: bool, maybe_applied: bool
):
    """What botocore raises when AWS said nothing: who is to act, and whether the request may
    have had an effect.
    """
    if callable(error):
        with pytest.raises(UnicodeError) as caught:
            error()
        error = caught.value
    found = classified(error)
    assert (found.kind, found.unreachable, found.maybe_applied) == (
        kind,
        unreachable,
        maybe_applied,
    )
    assert found.code == (
        "NotAnAnswer" if isinstance(error, ResponseParserError) else type(error).__name__
    )
    assert found.hint or kind is ErrorKind.PERMANENT


@pytest.mark.parametrize(
    "code",
    [
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "AccessDenied",
        "AccessDeniedException",
        "NotAuthorized",
        "OptInRequired",
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "AccountProblem",
        "InvalidPayer",
    ],
)
def test_what_is_nobodys_fault_halts_with_a_hint(code: str):
    """Credentials, permission, region, clock: no entry is to blame, and a person is told what to
    do.
    """
    found = classified(refusal(code, status=403))
    assert found.kind is ErrorKind.HALT
    assert found.hint
    assert found.request_id == "r-1"


def test_expired_credentials_tell_how_to_go_on():
    """The commonest halt says how to renew, what to run, and that nothing is lost."""
    hint = classified(refusal("ExpiredTokenException")).hint
    assert all(
        words in hint for words in ("aws sso login", "journaltrack sync", "nothing was lost")
    )


class Failing(CredentialProvider):
    """A provider of credentials whose own request fails."""

    METHOD = CANONICAL_NAME = "failing"

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def load(self) -> None:
        raise self._error


def without_credentials(error: Exception) -> Exception:
    """What a look-up of credentials raises whose provider fails so."""
    session = botocore.session.Session()
    session.get_component("credential_provider").providers.insert(0, Failing(error))
    with pytest.raises(type(error)) as caught:
        session.get_credentials()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [boto.ConnectTimeoutError(**URL), refusal("InternalFailure", status=500)],
    ids=["no connection", "its trouble"],
)
def test_a_service_that_gives_no_credentials_now_counts_as_unreachable(error: Exception):
    """The next request would ask it again: whoever waits for a connection waits for that, too."""
    found = classified(without_credentials(error))
    assert (found.kind, found.unreachable, found.maybe_applied) == (
        ErrorKind.TRANSIENT,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refusal("ExpiredToken", status=403), "aws sso login"),
        (boto.UnauthorizedSSOTokenError(), "aws sso login"),
        (refusal("AccessDenied", status=403), "aws configure"),
    ],
    ids=["the role's source", "single sign-on", "no permission"],
)
def test_a_refused_look_up_of_credentials_tells_how_to_go_on(error: Exception, words: str):
    """Expired ones are to be renewed, others to be configured."""
    found = classified(without_credentials(error))
    assert (found.kind, found.everywhere) == (ErrorKind.HALT, True)
    assert words in found.hint


def test_every_code_that_botocore_itself_would_retry_is_transient():
    """Its own retries are off, so ours must know what its table knows."""
    table = botocore.session.Session().get_data("_retry")
    codes = {
        rule["applies_when"]["response"]["service_error_code"]
        for rule in table["definitions"].values()
        if "service_error_code" in rule["applies_when"].get("response", {})
    }
    kept = {c for c in codes if classified(refusal(c)).kind is not ErrorKind.TRANSIENT}
    # RequestTimeTooSkewed-like codes of services that are never called here may be listed by a
    # newer botocore: look at them.
    assert kept <= {"ExpiredTokenException", "ExpiredToken"}, kept
    assert "ThrottlingException" in codes


@pytest.mark.parametrize("operation", ["HeadObject", "HeadBucket"])
@pytest.mark.parametrize(("code", "status"), [("400", 400), ("403", 403), ("301", 301)])
def test_refusals_without_a_body_halt_uploads_alone(operation: str, code: str, status: int):
    """A HEAD has no body to say why: an artifact is not to blame, and metrics go on."""
    found = classified(refusal(code, "", status, operation))
    assert (found.kind, found.uploads_only) == (ErrorKind.HALT, True)
    assert found.hint


def test_a_denied_upload_halts_uploads_alone():
    """No permission for S3 says nothing of SageMaker."""
    assert classified(refusal("AccessDenied", status=403, operation="PutObject")).uploads_only
    assert not classified(
        refusal("AccessDenied", status=403, operation="UpdateTrialComponent")
    ).uploads_only


@pytest.mark.parametrize(
    ("code", "status", "maybe"),
    [
        ("502", 502, True),
        ("504", 504, True),
        ("500", 500, True),
        ("InternalFailure", 500, True),
        ("ThrottlingException", 500, False),
    ],
)
def test_an_error_of_a_gateway_leaves_doubt(code: str, status: int, maybe: bool):
    """A gateway's page may hide a success, and so may a failure inside of AWS; throttling does
    not.
    """
    found = classified(refusal(code, "<html>", status))
    assert (found.kind, found.maybe_applied) == (ErrorKind.TRANSIENT, maybe)


def unexplained(status: int, operation: str, headers: dict[str, str]) -> boto.ClientError:
    """A refusal whose body says nothing, as botocore makes it."""
    error = refusal(str(status), HTTPStatus(status).phrase, status, operation)
    error.response["ResponseMetadata"]["HTTPHeaders"] = {**headers, "content-length": "0"}
    return error


@pytest.mark.parametrize("operation", ["HeadObject", "HeadBucket", "PutObject", "GetObject"])
@pytest.mark.parametrize("status", [400, 500, 502, 503, 504])
def test_a_failure_of_s3_is_not_blamed_on_a_proxy(operation: str, status: int):
    """S3's request id proves who answered, whatever the body lacks: the hint says to wait, or
    what to check. Without the id, a proxy or a gateway is named.
    """
    found = classified(unexplained(status, operation, {"x-amz-request-id": "r-1"}))
    kind = ErrorKind.HALT if status == 400 else ErrorKind.TRANSIENT
    assert (found.kind, found.unreachable, found.code) == (kind, False, str(status))
    assert found.hint
    assert "proxy" not in found.hint
    foreign = classified(unexplained(status, operation, {}))
    assert foreign.kind is kind
    assert foreign.hint
    assert "proxy" in foreign.hint


@pytest.mark.parametrize(
    ("operation", "headers", "throttled"),
    [
        ("HeadObject", {"x-amz-request-id": "r-1"}, True),
        ("HeadBucket", {"x-amz-request-id": "r-1"}, True),
        ("HeadObject", {}, False),
        ("PutObject", {"x-amz-request-id": "r-1"}, False),
        ("BatchPutMetrics", {"x-amzn-requestid": "r-1"}, False),
    ],
)
def test_a_503_to_head_is_a_slow_down(operation: str, headers: dict[str, str], throttled: bool):
    """Its code would be in the body, which an answer to HEAD does not have. Where there could be
    a body, or no service answered, nothing says so, and the request may have taken effect.
    """
    found = classified(unexplained(503, operation, headers))
    assert (found.kind, found.throttled) == (ErrorKind.TRANSIENT, throttled)
    assert found.maybe_applied is not throttled


@pytest.mark.parametrize(
    ("code", "status"),
    [("ThrottlingException", 400), ("SlowDown", 503), ("RequestLimitExceeded", 503), ("429", 429)],
)
def test_a_service_that_asks_for_fewer_requests_is_said_to(code: str, status: int):
    """By the code or by the status alone; the request had no effect."""
    found = classified(refusal(code, status=status))
    assert (found.kind, found.throttled, found.maybe_applied) == (ErrorKind.TRANSIENT, True, False)


@pytest.mark.parametrize("operation", ["BatchPutMetrics", "PutObject", "DescribeTrialComponent"])
@pytest.mark.parametrize("status", [418, 500, 502, 511])
def test_an_unknown_answer_is_quoted(operation: str, status: int):
    """Its HTTP status and first words are told, without markup, on one line, and cut; secrets in
    it are not.
    """
    page = (
        "<!doctype html><style>p {}</style>\n<title>It&#39;s nginx</title><p>see "
        f"https://a/?token=hidden {'x' * 500}"
    )
    error = refusal(str(status), page, status, operation)
    error.response["ResponseMetadata"]["HTTPHeaders"] = {}
    message = classified(error).message
    assert f"HTTP {status}" in message
    assert "It's nginx see https://a/?[removed] xxx" in message
    assert "<" not in message
    assert "hidden" not in message
    assert len(message) < 300


def test_an_answer_that_can_not_be_read_is_quoted():
    """What botocore could not parse is told by its first words, too."""
    found = classified(
        ResponseParserError(
            "Unable to parse response (syntax error):\nb'<html><h1>Sign in</h1></html>'"
        )
    )
    assert "Sign in" in found.message


def test_a_taken_name_and_a_missing_component_have_types_of_their_own():
    """AWS says the one in words; moto says the other in words."""
    taken = refusal(
        "ValidationException",
        "Trial Component with name (x) already exists.",
        operation="CreateTrialComponent",
    )
    assert isinstance(classified(taken, "x"), AlreadyExistsError)
    for error in (
        refusal("ResourceNotFound"),
        refusal("ValidationException", "Could not find trial component"),
    ):
        assert isinstance(classified(error, "x"), ComponentMissingError)


def test_a_classified_error_stays_as_it_is():
    """Classifying twice changes nothing."""
    once = classified(refusal("Throttling"))
    assert classified(once) is once
