"""Which failures concern every request of every journal, so that a watcher waits for a change
and tries no other journal.
"""

from __future__ import annotations

import pytest
from botocore import exceptions as boto

from journaltrack.errors import ErrorKind
from journaltrack.remotes.aws.errors import classified

URL = {"endpoint_url": "https://api.sagemaker.us-east-1.amazonaws.com"}


def refusal(code):
    """As the service says it."""
    return boto.ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}},
        "UpdateTrialComponent",
    )


@pytest.mark.parametrize(
    ("error", "everywhere"),
    [
        (ValueError("Invalid endpoint: x"), True),
        (boto.NoRegionError(), True),
        (boto.InvalidRegionError(region_name="!"), True),
        (boto.NoCredentialsError(), True),
        (boto.SSLError(error="[SSL: CERTIFICATE_VERIFY_FAILED]", **URL), True),
        (refusal("ExpiredTokenException"), True),
        (refusal("UnrecognizedClientException"), True),
        (refusal("AccessDeniedException"), False),
        (refusal("ValidationException"), False),
        (boto.EndpointConnectionError(**URL), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_concerns_everything_says_so(error, everywhere):
    """Credentials, region, certificate and an endpoint that is none do; a permission, a refused
    value and a lost connection do not.
    """
    found = classified(error)
    assert found.everywhere == everywhere
    assert not everywhere or (found.kind is ErrorKind.HALT and found.hint)
