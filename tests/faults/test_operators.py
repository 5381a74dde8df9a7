"""What an operator meets: the exit code says whose turn it is, at once, and nothing that may be
read again is taken for lost.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from unittest import mock

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from click.testing import CliRunner

from journaltrack.cli import ExitCode, main
from journaltrack.cli.exit_codes import exit_code_of, report_error
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import classified
from journaltrack.replay.remote import BlobUpload
from tests import warm
from tests.contract.conftest import aws
from tests.processes import ENVIRONMENT, sync_process
from tests.simulator import HttpError, simulator

PROFILES = """
[profile sso]
sso_session = my
sso_account_id = 123456789012
sso_role_name = Role
[sso-session my]
sso_region = us-east-1
sso_start_url = https://example.awsapps.com/start
[profile program]
credential_process = /nonexistent/program
[profile failing-program]
credential_process = /bin/false
[profile token]
web_identity_token_file = /nonexistent/token
role_arn = arn:aws:iam::123456789012:role/Role
"""


def receipts(folder):
    """Outcome and attempts of each request, as plain sqlite3 reads them."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return connection.execute("SELECT outcome, attempts FROM receipt").fetchall()


@pytest.mark.parametrize(
    ("profile", "hint"),
    [
        ("sso", "aws sso login"),
        ("program", "configure credentials"),
        ("failing-program", "configure"),
        ("token", "configure credentials"),
    ],
)
def test_without_credentials_it_stops_at_once(journal, tmp_path, monkeypatch, profile, hint):
    """An expired session, a program or a token file that is not there: exit 5 with a hint, one
    attempt, nothing in doubt.
    """
    (tmp_path / "config").write_text(PROFILES)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with simulator() as sim:
        arguments = [
            "sync",
            str(journal),
            "--profile",
            profile,
            "--region",
            "us-east-1",
            "--endpoint-url",
            sim.endpoint_url,
        ]
        result = CliRunner().invoke(main, arguments)
        assert not sim.requests
    assert result.exit_code == ExitCode.HALTED, result.output
    assert hint in result.output
    assert receipts(journal) == [("halted", 1)]


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("api.sagemaker.us-esat-1.amazonaws.com", "us-east-1"),
        ("s3.useast1.amazonaws.com", "us-east-1"),
        ("sts.mars-1.amazonaws.com", None),
    ],
)
def test_a_misspelt_region_is_named(host, meant):
    """A host of AWS's without an address, in a region that botocore does not know: it stops,
    with the region that was meant.
    """
    unknown = EndpointConnectionError(
        endpoint_url=f"https://{host}/",
        error=socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    )
    found = classified(unknown)
    assert (found.kind, found.code, found.everywhere, exit_code_of(found)) == (
        ErrorKind.HALT,
        "UnknownRegion",
        True,
        ExitCode.HALTED,
    )
    assert host.split(".")[-3] in found.message
    assert (f"did you mean {meant}" in found.message) is (meant is not None)


@pytest.mark.parametrize(
    "host",
    [
        "api.sagemaker.us-east-1.amazonaws.com",
        "bucket.s3.amazonaws.com",
        "sts.amazonaws.com",
        "stand-in.example.com",
    ],
)
def test_without_a_network_no_region_is_blamed(host):
    """Known regions, global endpoints and other hosts: unreachable, and tried again."""
    found = classified(
        EndpointConnectionError(
            endpoint_url=f"https://{host}/", error=socket.gaierror(socket.EAI_NONAME, "no")
        )
    )
    assert (found.kind, found.unreachable) == (ErrorKind.TRANSIENT, True)


def refusal(code, message, date=None):
    headers = {"x-amzn-requestid": "r", **({"date": date} if date else {})}
    metadata = {"HTTPStatusCode": 403, "RequestId": "r", "HTTPHeaders": headers}
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata},
        "UpdateTrialComponent",
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
        (
            "InvalidSignatureException",
            "Signature expired: 20261126T010000Z is now earlier than 20261126T014500Z",
        ),
        (
            "InvalidSignatureException",
            "Signature not yet current: 20261126T030000Z is still later than 20261126T014500Z",
        ),
        (
            "SignatureDoesNotMatch",
            "Signature expired: 20261126T010000Z is now earlier than 20261126T014500Z",
        ),
    ],
)
def test_a_wrong_clock_is_named(code, message):
    """Whatever code the refusal has, the hint is about the clock, and by how much it is wrong."""
    found = classified(refusal(code, message, formatdate(time.time() - 42 * 60, usegmt=True)))
    assert (found.kind, found.everywhere) == (ErrorKind.HALT, True)
    assert "clock is 42 min ahead of AWS's" in found.hint
    assert "clock" in classified(refusal(code, message)).hint
    assert (
        "clock"
        not in classified(
            refusal(
                "InvalidSignatureException", "The request signature we calculated does not match"
            )
        ).hint
    )


def test_a_store_that_lacks_what_uploads_need_is_told_in_words(journal, credentials):
    """501: uploads stop after one attempt and say what the store lacks; all else is delivered."""
    with simulator() as sim:
        sim.fail(
            "PutObject",
            HttpError(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
            ),
            times=99,
        )
        result = CliRunner().invoke(
            main, ["sync", str(journal), "--endpoint-url", sim.endpoint_url]
        )
        assert result.exit_code == ExitCode.HALTED, result.output
        assert "conditional writes" in result.output
        assert len(sim.components["run"].metrics) == 95
        assert [call for call in sim.calls("PutObject") if "anchors" not in call.params["Key"]][
            1:
        ] == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ExpiredToken"),
        (403, "AccessDenied"),
        (403, "RequestTimeTooSkewed"),
        (403, "InvalidAccessKeyId"),
        (400, "AuthorizationHeaderMalformed"),
    ],
)
def test_a_head_without_a_body_is_asked_by_get(tmp_path, status, code):
    """HeadBucket can't say why it refuses: what the same question says by GET is the reason,
    with its own hint.
    """
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"x")
    with simulator() as sim:
        for operation in ("HeadBucket", "ListObjectsV2"):
            sim.fail(operation, HttpError(status, code), times=9)
        with pytest.raises(RemoteError) as caught:
            aws(sim.endpoint_url).upload(
                BlobUpload(blob, "ab" * 32, 1, "run", "m", bucket="a-bucket")
            )
        sim.clear_faults()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.HALT, code)
    assert caught.value.hint


@contextmanager
def unprivileged():
    """As a user who may not read what root owns."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_blob_that_may_not_be_read_stays_pending():
    """EACCES is not damage: nothing is quarantined, uploads stop with a hint at permissions."""
    with tempfile.TemporaryDirectory() as folder, simulator() as sim:
        os.chmod(folder, 0o755)
        blob = Path(folder) / "spool" / "ab" / ("ab" * 32)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"x")
        blob.chmod(0)
        remote = aws(sim.endpoint_url)
        with unprivileged(), pytest.raises(RemoteError) as caught:
            remote.upload(BlobUpload(blob, "ab" * 32, 1, "run", "m", bucket="a-bucket"))
    assert (caught.value.kind, caught.value.code, caught.value.uploads_only) == (
        ErrorKind.HALT,
        "BlobUnreadable",
        True,
    )
    assert "permissions" in caught.value.hint


def test_a_blob_that_is_not_there_is_missing():
    """What is gone is gone: quarantined, as before."""
    with pytest.raises(RemoteError) as caught:
        aws("http://127.0.0.1:9").upload(
            BlobUpload(Path("/nonexistent/spool/ab/x"), "ab" * 32, 1, "run", "m", bucket="a-bucket")
        )
    assert (caught.value.kind, caught.value.code) == (ErrorKind.PERMANENT, "BlobMissing")


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.ENOSPC]
)
def test_a_file_system_that_fails_is_not_a_bug_of_ours(number, capsys):
    """Exit 8, the system's word, and what to do about it."""
    error = OSError(number, os.strerror(number), "/journals/run-1/journal.db")
    assert exit_code_of(error) is ExitCode.JOURNAL
    report_error(error, verbose=False)
    shown = capsys.readouterr().err
    assert "bug" not in shown
    assert "/journals/run-1/journal.db" in shown
    assert "hint:" in shown


def command(*arguments, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | ENVIRONMENT
    return warm.run(
        [sys.executable, "-m", "journaltrack", *arguments],
        check=False,
        env=environment,
        timeout=300,
        **options,
    )


def test_output_that_nobody_reads_ends_quietly(journal):
    """`| head`: no traceback, no word, and an exit code that says so."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = command("status", str(journal), stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.BROKEN_PIPE, b"")


@pytest.mark.parametrize("arguments", [("status",), ("audit", "--json")])
def test_output_that_can_not_be_written_is_told(journal, arguments):
    """A full disk under stdout: one line and a hint, no traceback."""
    with Path("/dev/full").open("w") as full:
        done = command(
            arguments[0], str(journal), *arguments[1:], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == ExitCode.OUTPUT
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"bug" not in done.stderr


PRINTING = [
    ("--help",),
    ("--version",),
    ("status", "--help"),
    ("receipts", "export", "--help"),
    ("completion", "bash"),
    ("config",),
    ("audit", "entries", "-j"),
    ("show", "run", "-j"),
    ("export", "-j"),
    ("export", "--format", "parquet", "-j"),
    ("export", "--table", "entries", "--format", "csv", "-j"),
    ("receipts", "export", "-o", "-", "-j"),
]


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
@pytest.mark.parametrize("kind", ["full", "pipe"])
def test_whatever_prints_ends_alike(journal, arguments, kind):
    """Help, versions and exports end as reports do where nobody reads, or the disk is full: 141
    without a word, or 9 in words.
    """
    more = [str(journal)] if arguments[-1] == "-j" else []
    if kind == "full":
        with Path("/dev/full").open("w") as full:
            done = command(*arguments, *more, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == ExitCode.OUTPUT
        assert done.stderr.startswith(b"error: the output can't be written: No space left")
        assert b"Traceback" not in done.stderr
        return
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = command(*arguments, *more, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.BROKEN_PIPE, b"")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nonsense",), 2),
        ((), 2),
        (("sync", "--nonsense"), 2),
        (("audit", "entry", "x"), 2),
        (("-v", "status", "/nonexistent"), 8),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else None,
)
def test_errors_that_nobody_reads_keep_their_exit_code(arguments, code):
    """Where stderr is closed, the exit code says what is wrong."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert command(*arguments, stdout=subprocess.DEVNULL, stderr=writer).returncode == code
    finally:
        os.close(writer)


def test_without_standard_streams_commands_do_their_work(journal):
    """Closed stdout and stderr (a daemon's): the exit code is the command's own."""
    script = f'exec {sys.executable} -m journaltrack status "{journal}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", script], check=False, timeout=300).returncode == ExitCode.OK


@pytest.mark.parametrize("kind", ["full", "pipe"])
def test_a_sync_that_can_not_print_delivers_everything(journal, tmp_path, kind):
    """What a sync prints is not what it does: all journals are delivered, whatever becomes of
    its words.
    """
    shutil.copytree(journal, tmp_path / "other")
    with simulator() as sim:
        if kind == "full":
            with Path("/dev/full").open("w") as full:
                done = command(
                    "sync",
                    str(journal),
                    "--endpoint-url",
                    sim.endpoint_url,
                    stdout=full,
                    stderr=subprocess.PIPE,
                )
            assert done.returncode == ExitCode.OUTPUT, done.stderr
        else:
            process = sync_process(journal, sim.endpoint_url)
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(300) == ExitCode.BROKEN_PIPE
            assert process.stderr is not None
            process.stderr.close()
        assert len(sim.components["run"].metrics) == 95


def test_what_nobody_expected_holds_one_component():
    """An exception that is none of botocore's: told with its name, pending, and the others go
    on.
    """
    with simulator() as sim:
        remote = aws(sim.endpoint_url)
        broken = mock.patch.object(
            remote._clients.sagemaker,
            "describe_trial_component",
            side_effect=ZeroDivisionError("odd"),
        )
        with broken, pytest.raises(RemoteError) as caught:
            remote.describe("run")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.HOLD, "ZeroDivisionError")
    assert "-v" in caught.value.hint
