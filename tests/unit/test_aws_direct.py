"""The request that is made without boto3 is the one that boto3 makes, to the byte; and when it
is not made.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from journaltrack.remotes.aws import metrics
from journaltrack.remotes.aws.metrics import serialized
from journaltrack.remotes.aws.wire import Credentials as Ours
from journaltrack.remotes.aws.wire import Signer
from journaltrack.replay.plan.actions import MetricPoint
from tests.patience import scaled

PLACES = (
    ("us-east-1", None),
    ("eu-central-1", "https://vpce-1234.metrics.sagemaker.eu-central-1.vpce.amazonaws.com"),
    ("cn-north-1", None),
    ("ap-southeast-2", "http://127.0.0.1:4566"),
    ("us-gov-west-1", "https://gateway.example:443/stage/one_two"),
)
POINT = MetricPoint("loss", 0.5, 1, 1_700_000_000_123_456_789)
keys = st.from_regex(r"[A-Za-z0-9_]{1,40}", fullmatch=True)  # IAM: \w{16,128}
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80)
points = st.lists(
    st.builds(
        MetricPoint,
        st.text(min_size=1, max_size=40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(0, 2**63 - 1),
        st.integers(0, 253_402_300_799_000_000_000),
    ),
    min_size=1,
    max_size=10,
)


class Sent:
    """A client whose requests go nowhere but here."""

    def __init__(self, region: str, endpoint_url: str | None) -> None:
        session = boto3.Session(
            region_name=region, aws_access_key_id="A", aws_secret_access_key="S"
        )
        config = Config(retries={"total_max_attempts": 1, "mode": "standard"})
        self.client = session.client("sagemaker-metrics", endpoint_url=endpoint_url, config=config)
        self.client.meta.events.register("before-send", self._keep)
        self.request: Any = None

    def _keep(self, request: Any, **_: object) -> AWSResponse:
        self.request = request
        answer = AWSResponse(request.url, 200, {"x-amzn-requestid": "r"}, None)
        answer._content = b"{}"
        return answer

    def by_boto3(self, component: str, data: list[MetricPoint]) -> bytes:
        """The request as http.client writes it (which ``tests/contract/test_direct.py`` reads
        from a socket).
        """
        metrics._by_boto3(self.client, component, data)
        url = urlsplit(self.request.url)
        host = url.netloc.removesuffix(":443")
        headers = {
            k: v.decode() if isinstance(v, bytes) else v for k, v in self.request.headers.items()
        }
        head = (
            f"{self.request.method} {url.path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: "
            "identity\r\n"
        )
        return (
            head + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        ).encode() + self.request.body


@cache
def at(place: tuple[str, str | None]) -> Sent:
    return Sent(*place)


@pytest.mark.slow
@settings(max_examples=scaled(100))
@given(
    st.sampled_from(PLACES),
    keys,
    printable,
    st.none() | printable,
    st.text(min_size=1, max_size=30),
    points,
)
def test_the_request_is_botocores_to_the_byte(
    place: tuple[str, str | None], key: str, secret: str, token: str | None, name: str, data: Any
):
    """Method, path, headers in their order, signature and body, for any points and credentials,
    regions and endpoints.
    """
    sent = at(place)
    sent.client._request_signer._credentials = Credentials(key, secret, token)
    theirs = sent.by_boto3(name, data)
    body = serialized(name, data)
    assert body is not None
    route = metrics._Route.like(sent.request, body, sent.client)
    assert route is not None
    headers = sent.request.headers
    ours = route.request(
        Ours(key, secret, token),
        body,
        headers["X-Amz-Date"].decode(),
        headers["amz-sdk-invocation-id"].decode(),
    )
    assert ours == theirs


def test_a_key_is_made_anew_when_day_or_credentials_change():
    """What a signer remembers between requests never shows in a signature."""
    one, other = Ours("key", "secret", None), Ours("key", "other", None)
    place = {
        "host": "h",
        "path": "/p",
        "content_type": "application/json",
        "region": "r",
        "service": "s",
    }
    signer = Signer(**place)
    for credentials in (one, other, one, one._replace(token="t"), one):
        for timestamp in ("20260101T235959Z", "20260102T000000Z", "20260101T235959Z"):
            assert signer.authorization(credentials, timestamp, b"{}") == Signer(
                **place
            ).authorization(credentials, timestamp, b"{}")


@pytest.mark.parametrize(
    "point",
    [
        POINT._replace(value=math.nan),
        POINT._replace(value=math.inf),
        POINT._replace(value=1),
        POINT._replace(name=""),
        POINT._replace(step=-1),
        POINT._replace(step=True),
        POINT._replace(timestamp_ns=-1),
        POINT._replace(timestamp_ns=253_402_300_800_000_000_000),
    ],
    ids=repr,
)
def test_what_is_out_of_the_ordinary_is_botocores_to_judge(point: Any):
    """Values that botocore refuses, or writes in a way of its own, are not written here."""
    assert serialized("run", [POINT, point]) is None


def test_no_points_and_no_name_are_botocores_to_judge():
    """It says what is missing."""
    assert serialized("run", []) is None
    assert serialized("", [POINT]) is None


def changed(sent: Sent, **headers: str | None) -> Any:
    sent.by_boto3("run", [POINT])
    for name, value in headers.items():
        del sent.request.headers[name.replace("_", "-")]
        if value is not None:
            sent.request.headers[name.replace("_", "-")] = value
    return sent.request


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Amzn_Trace_Id": "Root=1"},
        {"amz_sdk_request": None},
        {"Content_Type": "application/x-amz-json-1.1"},
        {"Authorization": "Bearer token"},
        {"Authorization": None},
        {"Content_Length": "3"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_a_request_that_is_otherwise_is_left_to_boto3(headers: dict[str, str | None]):
    """One more header, one less, another value, another signature: no request is made here."""
    sent = at(PLACES[0])
    sent.client._request_signer._credentials = Credentials("key", "secret")
    body = serialized("run", [POINT])
    assert body is not None
    assert metrics._Route.like(changed(sent), body, sent.client) is not None
    try:
        route = metrics._Route.like(changed(sent, **headers), body, sent.client)
    except KeyError:
        return  # MetricsSender takes that for no
    assert route is None


def test_credentials_that_changed_meanwhile_do_not_make_a_route():
    """What signed the request must be what signs the next one."""
    sent = at(PLACES[0])
    sent.client._request_signer._credentials = Credentials("key", "secret")
    sent.by_boto3("run", [POINT])
    sent.client._request_signer._credentials = Credentials("key", "another")
    assert metrics._Route.like(sent.request, serialized("run", [POINT]) or b"", sent.client) is None


@pytest.mark.parametrize("text", ["a\nb", "a\r\nX-Evil: 1", "ä", " a", "a  b", "\x00"])
def test_credentials_that_are_not_fit_for_headers_are_not_used_here(text: str):
    """http.client refuses them, with a better error than a broken request."""
    assert not Ours(text, "s", None).fit_for_headers
    assert not Ours("a", "s", text).fit_for_headers
