"""What services and libraries say of a request, without what is secret in it."""

from __future__ import annotations

import logging

import pytest
from botocore.exceptions import EndpointConnectionError, HTTPClientError, ProxyConnectionError
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.cli.common import configure_logging
from journaltrack.errors import ErrorKind, JournalError, RemoteError
from journaltrack.remotes.aws.errors import classified
from journaltrack.replay.pass_report import error_to_json
from journaltrack.util.text import logfmt, without_secrets

TOKEN = "IQoJb3JpZ2luX2VjEXAMPLETOKENveryLongAndSecret=="
SECRETS = {
    "user info": (
        "Could not connect to http://alice:pa@ss:wørd@proxy.example.com:3128/x",
        ["alice", "pa@ss", "wørd"],
        "proxy.example.com:3128/x",
    ),
    "a token as user": (
        "https://ghp_abcdef123456@github.com/o/r.git is not there",
        ["ghp_"],
        "@github.com/o/r.git",
    ),
    "a query": (
        "403 for https://b.s3.amazonaws.com/k?X-Amz-Signature=abc&X-Amz-Credential=def, try again",
        ["abc", "def"],
        "amazonaws.com/k?",
    ),
    "a query of a path": (
        "Max retries exceeded with url: /k?X-Amz-Security-Token=zzz&a=b (Caused by x)",
        ["zzz"],
        "url: /k?",
    ),
    "a fragment": (
        "see https://portal.example.com/login#access_token=abc",
        ["abc"],
        "portal.example.com/login#",
    ),
    "a header": (
        f"canonical: x-amz-security-token:{TOKEN}\nx-amz-date:2026",
        [TOKEN],
        "x-amz-date:2026",
    ),
    "a bare token": (f"token {TOKEN} is expired", [TOKEN], "is expired"),
    "JSON": (
        '{"SecretAccessKey": "wJalrXUtnFEMI", "SessionToken": "abcdefgh"}',
        ["wJalr", "abcdefgh"],
        "SecretAccessKey",
    ),
    "INI": ("aws_secret_access_key = wJalrXUtnFEMI/K7", ["wJalr", "K7"], "aws_secret_access_key"),
    "a bearer": ("Authorization: Bearer abc.def-ghi_jkl", ["abc.def"], "Authorization"),
    "basic": ("proxy said: Basic dXNlcjp3b3Jk is wrong", ["dXNlcjp3b3Jk"], "is wrong"),
    "a signature": (
        "AWS4-HMAC-SHA256 Credential=AKIA/x, SignedHeaders=host, Signature=0a1b2c",
        ["0a1b2c"],
        "SignedHeaders=host",
    ),
    "OpenID": (
        "Invalid token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln: expired",
        ["eyJ", "c2ln"],
        "expired",
    ),
    "a password": ("login failed: password=hunter2; retry", ["hunter2"], "; retry"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_secret_goes_and_the_rest_stays(name):
    """User info and queries of URLs, tokens, keys, signatures: removed, with the words around
    them kept; twice changes nothing more.
    """
    text, secrets, kept = SECRETS[name]
    found = without_secrets(text)
    assert not [secret for secret in secrets if secret in found]
    assert kept in found
    assert without_secrets(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "Signature expired: 20261126T010000Z is now earlier than 20261126T014500Z",
        (
            "the trial component run-1 does not exist: is it spelt right? see s3://bucket/key and "
            "/data/journal"
        ),
        (
            "1 validation error detected: Value at 'metricData.1.member.metricName' failed to "
            "satisfy constraint"
        ),
        (
            "arn:aws:iam::123456789012:user/me is not authorized to perform: s3:PutObject on "
            "resource: arn:aws:s3:::b/k"
        ),
        'Could not connect to the endpoint URL: "https://api.sagemaker.us-east-1.amazonaws.com/"',
        "mail me at me@example.com, or user@host:path",
    ],
)
def test_what_is_not_secret_stays_as_it_is(text):
    """Refusals, times, ARNs and addresses are what a person needs."""
    assert without_secrets(text) == text


def test_a_known_secret_goes_wherever_it_stands_and_a_short_one_eats_no_letters():
    """Also quoted for a URL; of fewer than eight characters it is left alone."""
    assert (
        without_secrets("x wJal/rXUt= y wJal%2FrXUt%3D z", ["wJal/rXUt="])
        == "x [removed] y [removed] z"
    )
    assert (
        without_secrets("a secret of seven letters", ["e", "secret", "letters"])
        == "a secret of seven letters"
    )


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(
            endpoint_url="https://me:secretword@stand-in.example.com/?key=secretword"
        ),
        ProxyConnectionError(proxy_url="http://me:secretword@proxy.example.com:3128"),
        HTTPClientError(error=f"url: /k?X-Amz-Security-Token={TOKEN}&x=secretword"),
        ValueError("Invalid endpoint: https://me:secretword@x"),
    ],
)
def test_errors_of_botocore_lose_them_where_they_come_in(error):
    """What is recorded, logged and shown is made of this one text."""
    found = classified(error)
    for shown in (
        found.message,
        str(found),
        repr(found),
        str(error_to_json(found)),
        logfmt("pass", error=found.message),
    ):
        assert "secretword" not in shown
        assert TOKEN not in shown


def test_every_error_of_ours_is_without_them():
    """Whoever makes it of whatever text."""
    for made in (
        JournalError("https://a:secretword@b"),
        RemoteError("password=secretword", kind=ErrorKind.HALT, code="X"),
    ):
        assert "secretword" not in f"{made}{made!r}{made.args}"


def test_neither_log_nor_configuration_shows_them(capsys, monkeypatch):
    """Log records of libraries at -v, and an endpoint with a password in it."""
    monkeypatch.setenv("JOURNALTRACK_ENDPOINT_URL", "https://me:secretword@stand-in.example.com")
    for arguments in (["config"], ["config", "--json"]):
        result = CliRunner().invoke(main, arguments)
        assert "stand-in.example.com" in result.output
        assert "secretword" not in result.output
    configure_logging(1)
    logging.getLogger("urllib3").warning("retrying http://me:%s@proxy", "secretword")
    shown = capsys.readouterr().err
    assert "retrying http://[removed]@proxy" in shown
