"""``make demo``'s program, as a sceptic runs it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROVEN = [
    r"no credential is in the environment",
    r"the process was killed by signal 9",
    r"lost: 0 of \d+ acknowledged metrics",
    r"the run was cut short",
    r"resumed after epoch \d+, not from the beginning",
    r"what the killed process had recorded was not touched",
    r"one trial component \(digits\), written by 2 processes",
    r"all \d+ entries wait; none is delivered",
    r"a progress bar was shown",
    r"the second sync made 0 requests",
    r"the audit's totals are sqlite3's: (\d+) entries, \1 delivered",
    r"0 pending, 0 in flight, 0 in doubt, 0 quarantined",
    r"\d+ facts compared by examples/read_back.py",
]
READ_BACK = [
    r"digits is Completed",
    r"\d+ parameters, all as in the journal",
    r"test:loss: count 20 .*, as in the journal",
    r"exactly the journal's 80 points",
    r"S3: s3://\S+/model.joblib has SHA-256",
]


def demo(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/demo.py", *map(str, options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1_200,
        check=False,
    )


def test_the_demo_proves_what_it_claims(tmp_path):
    """A run offline, killed, resumed, synced, audited and read back: each fact is there, and the
    stand-in is gone afterwards.
    """
    done = demo("--folder", tmp_path / "demo", "--epochs", 20)
    assert done.returncode == 0, done.stdout
    for fact in PROVEN:
        assert re.search(rf"^  ✓ .*{fact}", done.stdout, re.MULTILINE), (fact, done.stdout)
    for fact in READ_BACK:
        assert re.search(rf"^    ✓ .*{fact}", done.stdout, re.MULTILINE), (fact, done.stdout)
    assert "✗" not in done.stdout
    assert "facts checked, all hold" in done.stdout
    port = int(re.search(r"the stand-in listens at http://127\.0\.0\.1:(\d+)", done.stdout)[1])
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_a_fact_that_does_not_hold_fails_the_demo(tmp_path):
    """Without epochs nothing is acknowledged before the kill: the demo says so, and its exit
    code too.
    """
    done = demo("--folder", tmp_path / "demo", "--epochs", 0)
    assert done.returncode == 1, done.stdout
    assert "✗" in done.stdout
    assert "facts checked, all hold" not in done.stdout


def test_the_demo_leaves_other_folders_alone(tmp_path):
    """A folder that the demo did not make is not removed."""
    (tmp_path / "thesis.txt").write_text("chapter 1")
    done = demo("--folder", tmp_path)
    assert done.returncode == 1
    assert "was not made by the demo" in done.stdout
    assert (tmp_path / "thesis.txt").read_text() == "chapter 1"
