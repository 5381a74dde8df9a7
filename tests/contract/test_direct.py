"""Metrics without boto3: what is on the wire, what answers mean, and when boto3 does it after
all.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore import auth, client
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from journaltrack.errors import ErrorKind, NotSentError, RemoteError
from journaltrack.remotes.aws import clients
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.rate_limit import RateLimit
from journaltrack.replay.plan.actions import Fields, MetricPoint
from journaltrack.util.deadline import Deadline
from tests.contract.conftest import KEYS, REGION, aws, session
from tests.contract.proxy import Proxy, proxying
from tests.contract.scripted import CONTINUE, Scripted, chunked, is_whole, reply, scripted
from tests.simulator import simulator

AT_NS = 1_700_000_000_123_456_789
POINTS = [
    MetricPoint('lo"ss é', 0.1, 1, AT_NS),
    MetricPoint("n", -2.5e-8, None, 1_700_000_000_000_000_000),
]


def warm(server: Scripted, **options: Any) -> AwsRemote:
    """A remote that has compared its first request, and has a connection."""
    remote = aws(server.url, **options)
    remote.put_metrics("run", POINTS)
    assert (remote._metrics._route is None) is options.get("hooked", False)
    return remote


def outcome(remote: AwsRemote) -> Any:
    """What sending metrics gives, in full."""
    try:
        return remote.put_metrics("run", POINTS)
    except RemoteError as error:
        return type(error), {name: getattr(error, name) for name in vars(error)}


def normalized(request: bytes) -> bytes:
    """Without what differs from request to request."""
    for pattern in (
        rb"(X-Amz-Date: )\w+",
        rb"(Signature=)\w+",
        rb"(Credential=\w+/)\d+",
        rb"(amz-sdk-invocation-id: )[-\w]+",
    ):
        request, count = re.subn(pattern, rb"\1*", request)
        assert count == 1
    return request


def signature_of(request: bytes, url: str, credentials: Credentials) -> str:
    """What botocore's own signer makes of a request that was received."""
    head, _, body = request.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    method, path, _ = start.split()
    signed = re.search(r"SignedHeaders=([^,]+),", headers["Authorization"])
    assert signed is not None
    kept = {k: v for k, v in headers.items() if k.lower() in signed[1].split(";") and k != "Host"}
    asked = AWSRequest(method, url + path, kept, body)
    asked.context["timestamp"] = headers["X-Amz-Date"]
    signer = auth.SigV4Auth(credentials.get_frozen_credentials(), "sagemaker", REGION)
    return signer.signature(signer.string_to_sign(asked, signer.canonical_request(asked)), asked)


def test_what_is_on_the_wire_is_what_boto3_writes():
    """Every byte that reaches the server is boto3's but for date, signature and invocation id;
    and on the same connection.
    """
    with scripted() as server:
        remote = warm(server)
        remote.put_metrics("run", POINTS)
        (first, by_boto3), (second, ours) = server.requests
        assert normalized(ours) == normalized(by_boto3)
        assert by_boto3 != ours
        assert first == second


@pytest.mark.parametrize("token", [None, "IQoJb3Jp/Z2lu+X2Vj=="])
def test_the_signature_is_the_one_that_botocore_computes(token: str | None):
    """For a request that arrived, and with a session token."""
    with scripted() as server:
        made = boto3.Session(region_name=REGION, aws_session_token=token, **KEYS)
        remote = AwsRemote(session=made, endpoint_url=server.url)
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        assert remote._metrics._route is not None
        request = server.requests[1][1]
        credentials = Credentials(KEYS["aws_access_key_id"], KEYS["aws_secret_access_key"], token)
        assert f"Signature={signature_of(request, server.url, credentials)}\r\n".encode() in request
        assert (b"X-Amz-Security-Token: " in request) is (token is not None)


PAGE = b"<html><body>Please sign in</body></html>"
HTML = "Content-Type: text/html; charset=utf-8"
ANSWERS: dict[str, bytes | None] = {
    "empty": reply(),
    "no errors": reply(b'{"Errors": []}'),
    "null": reply(b'{"Errors": null}'),
    "refusals": reply(
        b'{"Errors": [{"Code": "METRIC_LIMIT_EXCEEDED", "MetricIndex": 1}, {"Code": '
        b'"INTERNAL_ERROR", "MetricIndex": 0}]}'
    ),
    "a refusal out of range": reply(b'{"Errors": [{"Code": "INTERNAL_ERROR", "MetricIndex": 7}]}'),
    "a refusal of nothing": reply(b'{"Errors": [{"Code": "INTERNAL_ERROR"}]}'),
    "no body": reply(b""),
    "another request id": reply(b"{}", "200 OK", "x-amz-request-id: other", request_id=None),
    "headers twice": reply(b"{}", "200 OK", "X-Thing: 1", "x-thing: 2"),
    "no request id": reply(request_id=None),
    "not JSON": reply(b"well", request_id=None),
    "an array": reply(b"[]"),
    "a text": reply(b'"ok"'),
    "errors that are none": reply(b'{"Errors": "none"}'),
    "no text": reply(b"\xff\xfe\x00"),
    "chunked": chunked(b"{}"),
    "chunked, with refusals": chunked(
        b'{"Errors": [ ', b'{"Code": "VALIDATION_ERROR", "MetricIndex": 0}', b"]}"
    ),
    "chunked, cut": chunked(b'{"Errors": [', b"]}")[:-9],
    "until the end": reply(b"{}", length=-1),
    "HTTP/1.0": reply().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "closing": reply(b"{}", "200 OK", "Connection: close"),
    "continue first": CONTINUE + reply(),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "created": reply(b"{}", "201 Created"),
    "three hundred": reply(b"{}", "300 Multiple Choices"),
    "cut in its body": reply(b'{"Errors": [{"Code"', length=80),
    "cut before its body": reply(b"", length=80),
    "type in a header": reply(
        b'{"message": "slow"}',
        "400 Bad Request",
        "x-amzn-errortype: ThrottlingException:http://internal.amazon.com/",
    ),
    "type in the body": reply(
        b'{"__type": "com.amazon#ExpiredTokenException", "Message": "old"}', "400 Bad Request"
    ),
    "code in the body": reply(
        b'{"code": "AccessDeniedException", "message": "no"}', "403 Forbidden"
    ),
    "missing": reply(
        b'{"message": "no such"}', "400 Bad Request", "x-amzn-errortype: ResourceNotFound"
    ),
    "validation": reply(
        b'{"message": "bad"}', "400 Bad Request", "x-amzn-errortype: ValidationException"
    ),
    "429": reply(b"", "429 Too Many Requests"),
    "500": reply(
        b'{"message": "oops"}', "500 Internal Server Error", "x-amzn-errortype: InternalFailure"
    ),
    "503 empty": reply(b"", "503 Service Unavailable"),
    "502 page": reply(PAGE, "502 Bad Gateway", HTML, request_id=None),
    "403 page": reply(PAGE, "403 Forbidden", HTML, request_id=None),
    "redirect": reply(PAGE, "302 Found", "Location: http://portal.invalid/", HTML, request_id=None),
    "sign-in page": reply(PAGE, "200 OK", HTML, request_id=None),
    "sign-in page in Latin-1": reply(
        PAGE.replace(b"sign", "sïgn".encode("latin-1")), "200 OK", HTML, request_id=None
    ),
    "407": reply(b"", "407 Proxy Authentication Required", request_id=None),
    "a secret": reply(
        f'{{"message": "canonical: {KEYS["aws_secret_access_key"]}"}}'.encode(),
        "403 Forbidden",
        "x-amzn-errortype: SignatureDoesNotMatch",
    ),
    "nothing": None,
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "garbage": b"\x15\x03\x01\x00\x02\x02\x50",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n"
    + b"X-Many: x\r\n" * 200
    + b"Content-Length: 2\r\n\r\n{}",
    "a folded header": reply(b"{}", "200 OK", "X-Folded: a\r\n b"),
    "two lengths": reply(b"{}", "200 OK", "Content-Length: 2"),
    "a wrong length": reply(b"{}", "200 OK", "Content-Length: many", length=-1),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_means_what_it_means_when_boto3_reads_it(name: str):
    """The same bytes give the same answer, or the same error in every word: kind, code, hint,
    doubt.
    """
    found = []
    for hooked in (True, False):
        with scripted(reply(), ANSWERS[name]) as server:
            remote = warm(server, hooked=hooked)
            found.append(outcome(remote))
            assert len(server.requests) == 2
            # otherwise the server closes the connection, perhaps while it is used
            if is_whole(ANSWERS[name] or b""):
                assert not outcome(remote).refused
    by_boto3, ours = found
    if name in {
        "nothing",
        "not HTTP",
        "garbage",
        "a head without end",
        "many headers",
        "chunked, cut",
    }:
        # a parser's words
        by_boto3, ours = (
            {k: v for k, v in each[1].items() if k != "message"} for each in (by_boto3, ours)
        )
    assert ours == by_boto3
    assert KEYS["aws_secret_access_key"] not in str(found)


@pytest.mark.parametrize("hooked", [True, False], ids=["boto3", "direct"])
@pytest.mark.parametrize(
    "name",
    [
        "cut in its body",
        "cut before its body",
        "chunked, cut",
        "an array",
        "a text",
        "no text",
        "sign-in page in Latin-1",
        "nothing",
    ],
)
def test_an_answer_that_says_nothing_certain_is_in_doubt(name: str, hooked: bool):
    """Neither delivered nor refused nor sent again: what was cut off may have been refusals, and
    a page may hide a success.
    """
    with scripted(reply(), ANSWERS[name]) as server:
        kind, error = outcome(warm(server, hooked=hooked))
        assert (kind, error["kind"], error["maybe_applied"]) == (
            RemoteError,
            ErrorKind.TRANSIENT,
            True,
        )
        assert len(server.requests) == 2


@pytest.mark.parametrize("name", ["cut in its body", "an array"])
def test_boto3s_other_answers_are_held_to_the_same(name: str):
    """An update whose answer is cut, or nothing that a service says, did not succeed."""
    with scripted(ANSWERS[name]) as server, pytest.raises(RemoteError) as caught:
        aws(server.url, merges_per_key=True).update("run", Fields(parameters={"lr": 0.1}))
    assert (caught.value.kind, caught.value.maybe_applied) == (ErrorKind.TRANSIENT, True)


@pytest.mark.parametrize("cut", [1, 8, 17, 30, 70])
def test_an_answer_that_ends_in_its_head_is_in_doubt(cut: int):
    """http.client takes half a head for a whole one; whether refusals were to come is not known."""
    with scripted(reply(), reply()[:cut]) as server:
        with pytest.raises(RemoteError) as caught:
            warm(server).put_metrics("run", POINTS)
        assert (caught.value.kind, caught.value.maybe_applied) == (ErrorKind.TRANSIENT, True)
        assert len(server.requests) == 2


@pytest.mark.parametrize("hooked", [True, False])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_an_answer_may_come_in_pieces(hooked: bool, size: int):
    """Where the network cuts a stream of bytes says nothing."""
    body = b'{"Errors": [{"Code": "INTERNAL_ERROR", "MetricIndex": 1}]}'
    with scripted() as server:
        remote = warm(server, hooked=hooked)

        def in_pieces(connection: Any, data: bytes) -> None:
            for start in range(0, len(data), size):
                connection.sendall(data[start : start + size])

        answer = reply(body)
        with mock.patch.object(Scripted, "send", staticmethod(in_pieces)):
            server.answers.append(answer)
            assert set(remote.put_metrics("run", POINTS).refused) == {1}
        assert not remote.put_metrics("run", POINTS).refused


def test_silence_is_unreachable_and_perhaps_applied():
    """No answer within the time-out, on a connection that worked before."""
    with scripted(reply(), b"") as server:
        server.answers[1] = b"HTTP/1.1 200 OK\r\n"
        with mock.patch("tests.contract.scripted.is_whole", return_value=True):
            remote = warm(server, read_timeout_s=3.0)  # it has to be enough for the answer before
            error = outcome(remote)
        assert (error[1]["code"], error[1]["unreachable"], error[1]["maybe_applied"]) == (
            "ReadTimeoutError",
            True,
            True,
        )


def test_a_connection_that_the_server_closed_while_it_was_idle_is_replaced():
    """As with boto3: that it is closed is seen before anything is sent, so the request goes out
    on a new one, once.
    """
    with scripted() as server:
        server.closing.add(0)
        remote = warm(server)
        assert server.closed.wait(300)
        assert not remote.put_metrics("run", POINTS).refused
        assert not remote.put_metrics("run", POINTS).refused
        assert [number for number, _ in server.requests] == [0, 1, 1]


def test_a_lost_answer_is_in_doubt_and_the_request_is_not_sent_again():
    """Neither by us nor by urllib3; and the next request gets a connection of its own."""
    with scripted(reply(), None) as server:
        remote = warm(server)
        kind, error = outcome(remote)
        assert (kind, error["maybe_applied"], error["code"]) == (
            RemoteError,
            True,
            "ConnectionClosedError",
        )
        assert len(server.requests) == 2
        remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 0, 1]


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next():
    """What comes after an answer is no answer to the next request."""
    bad = reply(b'{"Errors": [{"Code": "INTERNAL_ERROR", "MetricIndex": 0}]}')
    with scripted(reply(), reply() + bad) as server:
        remote = warm(server)
        for _ in range(3):
            assert not remote.put_metrics("run", POINTS).refused
        assert [number for number, _ in server.requests] == [0, 0, 1, 1]


def test_refusals_leave_the_connection_open():
    """A service that throttles is not made to shake hands again for every refusal."""
    throttled = reply(b"{}", "400 Bad Request", "x-amzn-errortype: ThrottlingException")
    with scripted(reply(), throttled, chunked(b"{}")) as server:
        remote = warm(server)
        assert outcome(remote)[1]["throttled"]
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        assert {number for number, _ in server.requests} == {0}


class Rotating:
    """Gives other credentials every time, as a refresh does."""

    def __init__(self) -> None:
        self.count = 0

    def refresh(self) -> dict[str, str]:
        self.count += 1
        # that soon: refreshed at each use
        expiry = dt.datetime.now(dt.timezone.utc) + dt.timedelta(minutes=1)
        return {
            "access_key": f"AKIA{self.count}",
            "secret_key": "s",
            "token": f"token{self.count}",
            "expiry_time": expiry.isoformat(),
        }


def test_credentials_are_refreshed_as_for_boto3():
    """Each request is signed by the credentials of its time, and with their token."""
    with scripted() as server:
        rotating = Rotating()
        made = session()
        made._session._credentials = RefreshableCredentials.create_from_metadata(
            rotating.refresh(), rotating.refresh, "test"
        )
        remote = AwsRemote(session=made, endpoint_url=server.url)
        for _ in range(5):
            remote.put_metrics("run", POINTS)
        keys = [re.search(rb"Credential=(\w+)/", request)[1] for _, request in server.requests]  # type: ignore[index]
        tokens = [
            re.search(rb"Security-Token: (\w+)", request)[1] for _, request in server.requests
        ]  # type: ignore[index]
        assert len(set(keys)) == 5
        assert [key.replace(b"AKIA", b"token") for key in keys] == tokens


def test_credentials_that_can_not_be_refreshed_halt_and_nothing_is_sent():
    """As with boto3: nobody's fault, and no request."""
    with scripted() as server:
        made = session()
        remote = AwsRemote(session=made, endpoint_url=server.url)
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        sent = len(server.requests)

        def fail() -> dict[str, str]:
            return {}

        past = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc).isoformat()
        old = {"access_key": "AKIAOLD", "secret_key": "s", "token": "t", "expiry_time": past}
        remote._clients.metrics._request_signer._credentials = (
            RefreshableCredentials.create_from_metadata(old, fail, "test")
        )
        kind, error = outcome(remote)
        assert (kind, error["kind"], error["code"]) == (
            RemoteError,
            ErrorKind.HALT,
            "CredentialRetrievalError",
        )
        assert len(server.requests) == sent


def test_a_turn_is_waited_for_once():
    """The bound on requests per second counts each request, whoever makes it."""
    taken = []

    class Counting(RateLimit):
        def take(self, wait: Callable[[float], object], api: str = "") -> bool:
            taken.append(1)
            return super().take(wait, api)

    with scripted() as server:
        remote = warm(server, rate_limit=Counting(0))
        for _ in range(4):
            remote.put_metrics("run", POINTS)
        assert len(taken) == len(server.requests) == 5


def test_after_the_deadline_nothing_is_sent():
    """A turn that does not come in time; the connection is kept."""
    with scripted() as server:
        now = [0.0]
        limit = RateLimit(0)
        remote = warm(server, deadline=Deadline(60.0, clock=lambda: now[0]), rate_limit=limit)
        now[0] = 60.0
        with mock.patch.object(limit, "take", return_value=False):
            kind, error = outcome(remote)
        assert (kind, error["code"], error["maybe_applied"]) == (RemoteError, "DeadlineOver", False)
        assert len(server.requests) == 1


def test_no_request_leaves_once_the_time_is_over():
    """Neither over a connection that is there nor over a new one; it is known that nothing was
    sent, and the connection is kept.
    """
    with scripted() as server:
        now = [0.0]
        remote = warm(server, deadline=Deadline(3.0, clock=lambda: now[0]))
        turn = remote._clients.turn

        def late(operation: str) -> float | None:
            """The turn comes in time, and then the time is over."""
            read_timeout_s = turn(operation)
            now[0] = 3.0
            return read_timeout_s

        with mock.patch.object(remote._clients, "turn", side_effect=late) as turns:
            for direct in (True, False):
                now[0] = 0.0
                if not direct:
                    remote._metrics._route = None
                kind, error = outcome(remote)
                assert (kind, error["maybe_applied"]) == (NotSentError, False)
            assert turns.call_count == 2
            kind, error = outcome(remote)  # and no turn is begun any more
            assert (kind, error["code"], error["maybe_applied"]) == (
                RemoteError,
                "DeadlineOver",
                False,
            )
        now[0] = 0.0
        remote.put_metrics("run", POINTS)
        assert (len(server.requests), len(server.connections)) == (2, 1)


@pytest.mark.parametrize("direct", [True, False])
def test_a_connection_that_was_idle_for_seconds_is_not_used_again(direct):
    """What a NAT or a firewall forgot without a word answers nothing: a new connection is made
    instead.
    """
    with scripted() as server:
        now = [0.0]
        remote = warm(server, deadline=Deadline(clock=lambda: now[0]))
        for idle_s, connections in ((1.0, 1), (3.0, 1), (5.0, 2), (0.0, 2), (60.0, 3)):
            now[0] += idle_s
            if not direct:
                remote._metrics._route = None
            remote.put_metrics("run", POINTS)
            assert len(server.connections) == connections, idle_s


def patched_client(name: str) -> Any:
    genuine = getattr(client.BaseClient, name)

    def traced(self: Any, *args: Any, **options: Any) -> Any:
        return genuine(self, *args, **options)

    return mock.patch.object(client.BaseClient, name, traced)


@pytest.mark.parametrize(
    "event",
    [
        "before-sign",
        "before-send",
        "request-created",
        "before-call",
        "after-call",
        "provide-client-params",
    ],
)
def test_who_hooks_into_the_session_sees_every_request(event: str):
    """Own handlers are called for each request: boto3 makes them all."""
    seen = []
    with scripted() as server:
        made = session()
        made.events.register(
            f"{event}.sagemaker-metrics.BatchPutMetrics", lambda **_: seen.append(1)
        )
        remote = AwsRemote(session=made, endpoint_url=server.url)
        for _ in range(3):
            remote.put_metrics("run", POINTS)
        assert remote._metrics._route is None
        assert len(seen) == len(server.requests) == 3


@pytest.mark.parametrize("name", ["_make_api_call", "_make_request"])
def test_who_patched_botocore_sees_every_request(name: str):
    """X-Ray, OpenTelemetry and others wrap ``_make_api_call``."""
    with scripted() as server, patched_client(name):
        remote = aws(server.url)
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        assert remote._metrics._route is None


def test_an_environment_that_adds_headers_is_left_to_boto3(monkeypatch: pytest.MonkeyPatch):
    """In Lambda, botocore adds a header for tracing, which may be another one in every request."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-2-3")
    with scripted() as server:
        remote = aws(server.url)
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        assert remote._metrics._route is None
        assert all(b"X-Amzn-Trace-Id: Root" in request for _, request in server.requests)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.fixture
def tls(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    return context


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with proxying() as running:
        yield running


def through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, user: str = "") -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://{user}localhost:{proxy.port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")


def test_https_with_a_bundle_of_ones_own(
    tls: ssl.SSLContext, authority: Path, monkeypatch: pytest.MonkeyPatch
):
    """The server's certificate is checked against AWS_CA_BUNDLE, when connecting; requests go
    over that connection.
    """
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with scripted(tls=tls) as server:
        remote = warm(server)
        remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 0]


def test_a_certificate_that_is_not_trusted_halts(tls: ssl.SSLContext):
    """Without the bundle nothing is sent, with a hint."""
    with scripted(tls=tls) as server:
        kind, error = outcome(aws(server.url))
        assert (kind, error["kind"], error["maybe_applied"]) == (RemoteError, ErrorKind.HALT, False)
        assert "AWS_CA_BUNDLE" in error["hint"]
        assert not server.requests


def test_https_goes_through_the_proxys_tunnel(
    proxy: Proxy, tls: ssl.SSLContext, authority: Path, monkeypatch: pytest.MonkeyPatch
):
    """CONNECT with the proxy's credentials by botocore; then both kinds of request through the
    one tunnel.
    """
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    through(proxy, monkeypatch, "user:word@")
    with scripted(tls=tls) as server:
        remote = warm(server)
        remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 0]
        assert normalized(server.requests[0][1]) == normalized(server.requests[1][1])
        (connect,) = proxy.heads
        assert connect.startswith(f"CONNECT localhost:{server.port} ".encode())
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in connect


def test_plain_http_through_a_proxy_is_boto3s(proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    """The proxy gets the whole URL, which is another request than is made here."""
    through(proxy, monkeypatch)
    with scripted() as server:
        remote = aws(server.url)
        for _ in range(2):
            remote.put_metrics("run", POINTS)
        assert remote._metrics._route is None
        assert proxy.heads
        assert len(server.requests) == 2
        assert all(
            request.startswith(f"PUT {server.url}/BatchPutMetrics ".encode())
            for _, request in server.requests
        )


def test_no_proxy_is_honoured(proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    """An endpoint that the proxy is not for is reached without it."""
    through(proxy, monkeypatch)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "localhost")
    with scripted() as server:
        warm(server).put_metrics("run", POINTS)
        assert len(server.requests) == 2
    assert not proxy.heads


def test_tls_that_breaks_in_conversation_leaves_doubt(
    tls: ssl.SSLContext, authority: Path, monkeypatch: pytest.MonkeyPatch
):
    """Bytes that TLS can't make sense of in place of an answer: the request was out, with boto3
    as without.
    """
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    for hooked in (True, False):
        with scripted(tls=tls) as server:
            remote = warm(server, hooked=hooked)

            def answer_nonsense(connection: Any, _: bytes) -> None:
                os.write(connection.fileno(), b"this is no TLS record at all" * 4)

            with mock.patch.object(Scripted, "send", staticmethod(answer_nonsense)):
                kind, error = outcome(remote)
            assert (kind, error["kind"], error["maybe_applied"]) == (
                RemoteError,
                ErrorKind.TRANSIENT,
                True,
            ), (hooked, error)
            assert len(server.requests) == 2


def test_many_threads_share_a_remote():
    """Each request is answered by its own answer, and connections are not more than threads."""
    with simulator() as sim:
        sim.add_component("run")
        remote = aws(sim.endpoint_url, concurrency=8)
        sent = [
            [MetricPoint("m", float(10 * i + j), i, AT_NS) for j in range(10)] for i in range(200)
        ]
        work = iter(sent)
        lock = threading.Lock()

        def run() -> None:
            while True:
                with lock:
                    points = next(work, None)
                if points is None:
                    return
                assert not remote.put_metrics("run", points).refused

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert remote._metrics._route is not None
        assert sorted(point.value for point in sim.components["run"].metrics) == [
            float(n) for n in range(2_000)
        ]
        assert len({request.request_id for request in sim.requests}) == 200


# Python 3.12: that is what is tried
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def in_child(work: Callable[[], object]) -> bool:
    """Whether the work succeeds in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the parent tells
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@forking
def test_a_forked_child_has_connections_of_its_own():
    """The parent's go on to be the parent's: no byte of the child is on them."""
    with scripted() as server:
        remote = warm(server)
        remote.put_metrics("run", POINTS)
        assert in_child(lambda: [remote.put_metrics("run", POINTS) for _ in range(2)])
        remote.put_metrics("run", POINTS)
        assert [number for number, _ in server.requests] == [0, 0, 1, 1, 0]


@forking
def test_a_fork_while_another_thread_makes_a_client_leaves_no_lock_behind():
    """The child makes its clients, though the thread that held the lock is not there to let go
    of it.
    """
    with scripted() as server, clients._making:
        assert in_child(lambda: aws(server.url).put_metrics("run", POINTS))
