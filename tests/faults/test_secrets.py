"""No secret of the credentials in use is ever in a journal, in a log, or in what a command
prints.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing

import pytest

from journaltrack import Tracker, errors
from journaltrack.reports.report import audit
from tests import warm
from tests.simulator import HttpError, simulator

KEY = "AKIAVERYVISIBLEKEYID"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYsecretsecret"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLETOKENveryLongAndSecret=="
ECHO = (
    "The request signature does not match. The canonical string was "
    f"'x-amz-security-token:{TOKEN}' with {SECRET}"
)


def environment(tmp_path, how):
    """The credentials in one of the ways that people give them."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    clean |= {"HOME": str(tmp_path), "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    if how == "environment":
        return clean | {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
        }
    (tmp_path / ".aws").mkdir(parents=True)
    if how == "profile":
        (tmp_path / ".aws" / "credentials").write_text(
            f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = "
            f"{SECRET}\naws_session_token = {TOKEN}\n"
        )
    else:
        program = (
            f'{{"Version": 1, "AccessKeyId": "{KEY}", "SecretAccessKey": "{SECRET}", '
            f'"SessionToken": "{TOKEN}"}}'
        )
        (tmp_path / "give").write_text(f"#!/bin/sh\necho '{program}'\n")
        (tmp_path / "give").chmod(0o700)
        (tmp_path / ".aws" / "config").write_text(
            f"[profile lab]\ncredential_process = {tmp_path / 'give'}\n"
        )
    return clean | {"AWS_PROFILE": "lab"}


@pytest.mark.parametrize("how", ["environment", "profile", "process"])
def test_no_secret_is_written_or_printed(journal, tmp_path, how):
    """A sync with failures that echo the secrets, at -vv: neither its output nor any file of the
    journal has them.
    """
    with simulator() as sim:
        sim.fail("UpdateTrialComponent", HttpError(403, "SignatureDoesNotMatch", ECHO), times=1)
        sim.fail("BatchPutMetrics", HttpError(400, "ValidationException", ECHO), times=2)
        command = [
            sys.executable,
            "-m",
            "journaltrack",
            "sync",
            "-vv",
            str(journal),
            "--endpoint-url",
            sim.endpoint_url,
        ]
        outputs = []
        for extra in ([], ["--json"]):
            done = warm.run(
                [*command, *extra],
                capture_output=True,
                text=True,
                check=False,
                env=environment(tmp_path / f"home{len(outputs)}", how),
            )
            outputs.append(done.stdout + done.stderr)
        assert len(sim.requests) > 5
    assert "sync" in outputs[0] or "delivered" in outputs[0]
    with closing(sqlite3.connect(journal / "journal.db")) as connection:
        dump = "\n".join(connection.iterdump())
    files = b"".join(path.read_bytes() for path in journal.rglob("*") if path.is_file())
    for secret in (SECRET, TOKEN):
        assert not any(secret in output for output in outputs)
        assert secret not in dump
        assert secret.encode() not in files


def test_redacted_values_reach_no_disk(tmp_path):
    """Values whose names match a pattern are replaced before they are recorded; the audit says
    so; others are as they were.
    """
    with Tracker.create(
        trial_component_name="run", journal=tmp_path / "j", sync="off", redact=["*token*", "db_*"]
    ) as tracker:
        tracker.log_parameters({"api_TOKEN": "hunter2hunter2", "lr": 0.1})
        tracker.log_input("db_url", "s3://user:hunter2hunter2@host/x")
        tracker.log_output("result", "s3://bucket/result")
    content = b"".join(path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file())
    assert b"hunter2" not in content
    assert b"s3://bucket/result" in content
    (component,) = audit(tmp_path / "j").components
    assert set(component.redacted) == {"api_TOKEN", "db_url"}
    with pytest.raises(errors.InvalidTypeError):
        Tracker.create(
            trial_component_name="two", journal=tmp_path / "j", sync="off", redact="*token*"
        )
