"""What commands print on a terminal: every line fits, and no word, number, time or digest is
broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import pty
import re
import struct
import sys
import termios
import threading
import warnings

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import COMMANDS, main
from tests.simulator import simulator

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
BAR = "━"
DIGEST = re.compile(r"[0-9a-f]{64}")
PASTED = re.compile(r"(?<=[/:])")
"""Where a path, URI or ARN may be broken."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A journal that was delivered in part, a copy of it that is damaged, a bundle, and the AWS
    that lost an object.
    """
    folder = tmp_path_factory.mktemp("world")
    names = {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch, simulator() as aws, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in {
            **names,
            "AWS_ENDPOINT_URL": aws.endpoint_url,
            "JOURNALTRACK_HOME": str(folder / "home"),
        }.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        recorded(folder)
        journaltrack.sync(folder / "journal", region="us-east-1", endpoint_url=aws.endpoint_url)
        assert CliRunner().invoke(main, ["bundle", "journal", "-o", "it.bundle"]).exit_code == 0
        assert (
            CliRunner()
            .invoke(main, ["receipts", "export", "journal", "-o", "it.receipts"])
            .exit_code
            == 0
        )
        for place in [place for place in aws.objects if place[1].endswith("model.bin")]:
            del aws.objects[place]
        with Tracker.create(
            trial_component_name="digits-2", journal=folder / "journal", sync="off"
        ) as later:
            later.log_metric("validation:accuracy", 0.1 + 0.2, iteration_number=12)
        assert CliRunner().invoke(main, ["merge", "journal", "--into", "all"]).exit_code == 0
        (folder / "their.csv").write_text("step,loss,model\n1,0.5,a\n2,0.25,a\n")
        # A second time, both say that nothing is new: the test has each output twice.
        for command in (case for case in CASES if case[0] in {"mirror", "import"}):
            CliRunner().invoke(main, command)
        yield folder


def recorded(folder):
    (folder / "model.bin").write_bytes(b"weights")
    tags = [{"Key": "purpose", "Value": "to see how " + "wide " * 30}]
    with Tracker.create(
        "Digits",
        trial_component_name="digits-" + "long-" * 8 + "1",
        journal=folder / "journal",
        sync="off",
        tags=tags,
    ) as t:
        t.log_parameters(
            {"learning_rate": 0.12345678901234567, "optimizer": "adam", "note": "words and " * 40}
        )
        t.log_input("dataset", "s3://my-data/" + "a-folder-of-many/" * 8 + "digits-v3")
        t.log_artifact(folder / "model.bin")
        for step in range(25):
            t.log_metric("train:loss", 1 / (3 + step), iteration_number=step)
        t.log_metric("train:loss", math.nan, iteration_number=25)


CASES = [
    ["sync", "--dry-run", "journal"],
    ["status", "journal"],
    ["status", "--watch", "--count", "1", "journal"],
    ["audit", "journal"],
    ["audit", "entries", "journal"],
    ["audit", "entry", "3", "journal"],
    ["audit", "history", "learning_rate", "journal"],
    ["audit", "timeline", "journal"],
    ["check", "journal"],
    ["check", "--remote", "--rate", "1000", "journal"],
    ["runs", "--columns", "status,learning_rate,tags.purpose", "journal"],
    ["show", "digits-2", "journal"],
    ["compare", "digits-*", "journal"],
    ["report", "digits-*", "journal", "-o", "report.html", "--force"],
    ["get", "digits-" + "long-" * 8 + "1", "-j", "journal"],
    ["export", "journal", "-o", "metrics.csv", "--force"],
    ["bundle", "journal", "-o", "other.bundle", "--force"],
    ["bundle", "--check", "it.bundle"],
    ["mirror", "journal", "mirror"],
    ["import", "csv", "their.csv", "-j", "imported", "--name", "again"],
    ["merge", "journal", "--into", "all"],
    ["receipts", "export", "journal", "-o", "other.receipts", "--force"],
    ["receipts", "import", "it.receipts", "journal", "--dry-run"],
    ["retry", "--dry-run", "journal"],
    ["resolve", "--delivered", "--dry-run", "journal"],
    ["note", "digits-2", "to be looked at again", "journal"],
    ["tag", "digits-2", "stage=first", "journal"],
    ["finish", "digits-2", "--status", "Stopped", "journal"],
    ["prune", "--delivered-before", "0s", "--dry-run", "journal"],
    ["config"],
]
ELSEWHERE = {"watch", "completion", "plot", "ui", "run", "help", "fleet"}
"""Print log lines, one event a line, to be grepped; a program of the shell; a drawing; an
address; what another program prints; pages, in a pager; a report that needs a cluster."""


CUT = "hint: --json shows in full what is cut"


def test_every_command_is_looked_at():
    """A new command joins the cases."""
    assert {case[0] for case in CASES} | ELSEWHERE == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("arguments", CASES, ids=lambda case: " ".join(case[:2]))
def test_every_line_fits_and_breaks_between_words(world, monkeypatch, arguments, width):
    """All words of the terminal are words of the pipe: none is broken, but paths after a slash;
    digests have 12 characters.
    """
    monkeypatch.chdir(world)
    plain = CliRunner().invoke(main, arguments)
    shown = on_terminal(arguments, width, monkeypatch)
    # A pipe has nothing that is cut, and no such hint.
    lines = [each for each in shown.splitlines() if BAR not in each and CUT not in each]
    assert lines
    assert [line for line in lines if len(line) > width and "/" not in line] == []
    # A duration is measured anew: in another unit, perhaps.
    whole = words_of(plain.output) | {"ms", "s", "min", "h", "d"}
    broken = [word for line in lines for word in line.split() if not is_whole(word, whole)]
    assert broken == []
    assert not DIGEST.search(shown) or ".json" in shown, "but in the name of an anchor"


def pages(command=main, words=()):
    """The words of every command of the CLI, and of every group."""
    yield words
    for name in getattr(command, "list_commands", lambda _ctx: ())(None):
        yield from pages(command.get_command(None, name), (*words, name))


@pytest.mark.parametrize("words", [*pages()], ids=" ".join)
def test_every_help_page_fits_80_columns(words, monkeypatch):
    """Options, examples and exit codes fit a terminal of the usual width."""
    shown = on_terminal([*words, "--help"], 80, monkeypatch)
    assert shown.startswith("Usage: ")
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def words_of(text):
    """The words of an output, and the parts that a long path may be broken into, in any run of
    them.
    """
    words = set()
    for word in text.split():
        parts = PASTED.split(word)
        words |= {
            "".join(parts[first:last])
            for first in range(len(parts))
            for last in range(first + 1, len(parts) + 1)
        }
        words |= {known.rstrip("/") for known in words}
        words |= {digest[:12] for digest in re.findall(r"[0-9a-f]{64}", word)}
    return words


def is_whole(word, whole):
    """Whether a word of the terminal is one of the pipe, a digest's beginning, marked as cut, or
    what differs from run to run.
    """
    bare = word.strip(",;:.()")
    if (
        word in whole
        or bare in whole
        or "…" in word
        or {f"{bare},", f"{bare};", f"{bare}:"} & whole
    ):
        return True
    # This run's own time, duration, digest or size, and a number of ten digits.
    return bare in VOLATILE or bool(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z|\d+(\.\d+)?|[0-9a-f]{12}", bare)
    )


VOLATILE = {
    "hint",
    "what",
    "is",
    "cut",
    "or",
    "left",
    "out",
    "show",
    "--json",
    "and",
    "in",
    "`journaltrack",
    "audit",
    "entry",
    "N`",
}
"""Of the hint that a terminal alone gives."""


def on_terminal(arguments, width, monkeypatch):
    """What a command prints with stdout and stderr on terminals of a width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with (
        terminal(width) as (stdout, printed),
        terminal(width) as (stderr, told),
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
    return ANSI.sub("", (b"".join(printed) + b"".join(told)).decode()).replace("\r\n", "\n")


@contextlib.contextmanager
def terminal(width):
    """A pseudo-terminal: its end to write to, and the list of all that arrives at the other one."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    arrived = []

    def read():
        with contextlib.suppress(OSError):  # EIO: nobody writes any more
            while data := os.read(master, 65_536):
                arrived.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(slave, "w", encoding="utf-8") as stream:
            yield stream, arrived
    finally:
        reader.join()
        os.close(master)
