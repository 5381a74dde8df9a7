"""Credentials that never come, break, or want to be asked for: training goes on in time, and the
next good ones deliver.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.credentials import CredentialProvider, Credentials
from botocore.session import Session

from journaltrack import Tracker, sync
from journaltrack.app.composition import deliver
from journaltrack.app.connection import Connection
from journaltrack.errors import ErrorKind
from journaltrack.util.deadline import Deadline
from journaltrack.watch.journal import DeliveryRequest
from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, QUICK, arrived, states, sync_process
from tests.simulator import simulator

DEADLINE_S = 6
LIMIT_S = 300.0  # what would wait for these credentials never ends
GOOD = {name: value for name, value in ENVIRONMENT.items() if "KEY" in name}


class Profile:
    """An AWS configuration file of the test's own."""

    def __init__(self, folder, monkeypatch):
        self.file = folder / "aws-config"
        self._monkeypatch = monkeypatch

    def use(self, *lines, **more):
        """Make these lines the default profile; ``more`` are other profiles' lines."""
        sections = {"default": lines, **{f"profile {name}": each for name, each in more.items()}}
        self.file.write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{line}\n" for line in each)
                for name, each in sections.items()
            )
        )
        self._monkeypatch.setenv("AWS_CONFIG_FILE", str(self.file))
        self._monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Credentials from a file."""
    return Profile(tmp_path, monkeypatch)


class Silent:
    """A credential_process that blocks until the test is over, and says when it is asked."""

    def __init__(self, folder):
        self.asked, self.never = folder / "asked", folder / "never"
        os.mkfifo(self.never)
        self.program = folder / "credentials"
        self.program.write_text(f"#!/bin/sh\necho $$ >>{self.asked}\nread line <{self.never}\n")
        self.program.chmod(0o755)

    @property
    def line(self):
        """For the profile."""
        return f"credential_process = {self.program}"

    def ends(self, timeout_s=FOREVER_S):
        """Whether those that were begun end, which takes the kernel a moment."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                ended = os.pidfd_open(pid)
                try:
                    if not select.select([ended], [], [], timeout_s)[0]:
                        return False
                finally:
                    os.close(ended)
        return self.asked.exists()

    def pids(self):
        """Of those that still block."""
        asked = [int(pid) for pid in self.asked.read_text().split()] if self.asked.exists() else []
        return [
            pid
            for pid in asked
            if os.path.exists(f"/proc/{pid}/cwd") and str(self.program) in _command(pid)
        ]


def _command(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read()
    return ""


@pytest.fixture
def silent(tmp_path):
    """Credentials that never come."""
    found = Silent(tmp_path)
    yield found
    for pid in found.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


@pytest.fixture
def sim(monkeypatch):
    """AWS."""
    with simulator() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint_url)
        # where good credentials deliver, however busy the machine
        monkeypatch.setenv("JOURNALTRACK_CLOSE_DEADLINE_S", "120")
        yield found


def seconds(call):
    """How long it took."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_a_look_up_returns_in_time_when_credentials_never_come(
    tmp_path, profile, silent, sim, caplog
):
    """Tracker.load keeps its deadline, goes on unverified, and says why."""
    profile.use(silent.line)
    assert (
        seconds(
            lambda: Tracker.load("unknown", journal=tmp_path / "j", lookup_deadline_s=DEADLINE_S)
        )
        < LIMIT_S
    )
    assert "the credentials did not come in time" in caplog.text
    assert silent.ends(), "nobody waits for that program any more"


def test_a_close_returns_in_time_when_credentials_never_come_and_a_later_pass_delivers(
    tmp_path, profile, silent, sim, caplog, monkeypatch
):
    """One stuck look-up delays close by its deadline, and no other pass of the process at all."""
    profile.use(silent.line)
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path / "j", close_deadline_s=DEADLINE_S
    )
    tracker.log_metric("loss", 1.0)
    assert seconds(tracker.close) < LIMIT_S
    assert "credential_process" in caplog.text
    assert states(tmp_path / "j") == {"pending": 2}
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    report = sync(tmp_path / "j", endpoint_url=sim.endpoint_url)
    assert (report.pending, report.halted) == (0, None)
    assert [point.value for point in sim.components["run"].metrics] == [1.0]


@pytest.mark.parametrize("preflight", [False, True])
def test_a_look_up_that_is_cut_short_is_not_blamed_on_the_credentials(
    tmp_path, profile, silent, sim, preflight
):
    """A pass that somebody ends while it waits for credentials tells no reason of theirs, and so
    keeps the one known before.
    """
    profile.use(silent.line)
    os.mkfifo(silent.asked)
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
    deadline = Deadline()
    with ThreadPoolExecutor() as pool:
        request = DeliveryRequest(tmp_path / "j", deadline, preflight=preflight)
        delivering = pool.submit(deliver, request, Connection(endpoint_url=sim.endpoint_url))
        program = silent.asked.read_text()  # it runs
        silent.asked.unlink()
        silent.asked.write_text(program)
        deadline.cancel()
        report = delivering.result().report
    assert (report.problem, report.out_of_time, report.pending) == (None, True, 4)
    assert silent.ends()


def test_a_stuck_session_of_the_caller_delays_no_other_pass(
    tmp_path, profile, silent, sim, monkeypatch
):
    """A session that never gets its credentials blocks neither its own close nor the pass of
    another tracker.
    """
    profile.use(silent.line)
    stuck = Tracker.create(
        trial_component_name="a",
        journal=tmp_path / "j",
        close_deadline_s=DEADLINE_S,
        boto3_session=boto3.Session(),
    )
    assert seconds(stuck.close) < LIMIT_S
    session = boto3.Session("AKIDTEST", "secret", region_name="us-east-1")
    Tracker.create(trial_component_name="b", journal=tmp_path / "j", boto3_session=session).close()
    assert "b" in sim.components
    assert "a" not in sim.components


def test_the_background_returns_in_time_when_credentials_never_come(
    tmp_path, profile, silent, sim, monkeypatch
):
    """Also with sync="background" close keeps its deadline; what waits is delivered with good
    credentials.
    """
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    profile.use(silent.line)
    tracker = Tracker.create(
        trial_component_name="run",
        journal=tmp_path / "j",
        sync="background",
        close_deadline_s=DEADLINE_S,
    )
    tracker.log_metric("loss", 1.0)
    assert seconds(tracker.close) < LIMIT_S
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    tracker = Tracker.load("run", journal=tmp_path / "j", sync="background")
    assert arrived(sim, 1)
    tracker.close()


def test_a_role_whose_source_never_answers_is_given_up(tmp_path, profile, silent, sim):
    """Also the program of a role's source profile is ended when its time is over."""
    profile.use(
        "role_arn = arn:aws:iam::123456789012:role/r",
        "source_profile = source",
        source=[silent.line],
    )
    tracker = Tracker.create(
        trial_component_name="run", journal=tmp_path / "j", close_deadline_s=DEADLINE_S
    )
    assert seconds(tracker.close) < LIMIT_S
    assert silent.ends()


class Plugin(CredentialProvider):
    """A provider of the user's own, that does as it is told."""

    METHOD = CANONICAL_NAME = "plugin"

    def __init__(self, load):
        super().__init__()
        self._load = load

    def load(self):
        """Fail, or return credentials."""
        return self._load()


def session_with(load):
    """A boto3 session with such a provider."""
    bare = Session()
    bare.get_component("credential_provider").providers.insert(0, Plugin(load))
    return boto3.Session(botocore_session=bare, region_name="us-east-1")


class WordlessError(Exception):
    """An exception that can't be printed."""

    def __str__(self):
        raise ValueError("no words")


class Rude(BaseException):
    """What no `except Exception` catches."""


def raising(error):
    """A function that raises it."""

    def load():
        raise error

    return load


ERRORS = [
    EOFError("EOF when reading a line"),
    KeyError("accessToken"),
    ImportError("no module named vault"),
    RuntimeError("the plug-in's own trouble"),
    WordlessError(),
    SystemExit(3),
    KeyboardInterrupt(),
    Rude("rude"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", ["close", "background"])
def test_nothing_that_a_credential_plugin_raises_reaches_training(
    tmp_path, sim, caplog, error, mode, monkeypatch
):
    """Whatever a provider of the user's raises, load and close return, say so, and leave the
    entries in the journal.
    """
    session = session_with(raising(error))
    tracker = Tracker.load("unknown", journal=tmp_path / "j", boto3_session=session, sync=mode)
    tracker.log_metric("loss", 1.0)
    tracker.close()
    assert type(error).__name__ in caplog.text
    assert states(tmp_path / "j") == {"pending": 2}
    good = session_with(lambda: Credentials("AKIDTEST", "secret"))
    sim.add_component("unknown")
    Tracker.load("unknown", journal=tmp_path / "j", boto3_session=good).close()
    assert states(tmp_path / "j")["pending"] == 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_sync_with_a_broken_plugin_halts_and_says_what_to_do(journal, error):
    """What a provider raises is an answer about the credentials: the pass stops, nothing is
    quarantined, and there is a hint.
    """
    with simulator() as sim:
        report = sync(
            journal, endpoint_url=sim.endpoint_url, boto3_session=session_with(raising(error))
        )
    assert report.halted is not None
    assert report.halted.kind is ErrorKind.HALT
    assert report.halted.everywhere
    assert "aws sso login" in report.halted.hint
    assert states(journal)["quarantined"] == 0


def test_a_pass_asks_a_broken_plugin_once(tmp_path, sim):
    """However many requests are in flight when credentials fail, the plug-in is asked once: a
    slow failure is waited for once.
    """
    asked = []

    def load():
        asked.append(1)
        raise RuntimeError("the plug-in's own trouble")

    for n in range(20):
        Tracker.create(trial_component_name=f"run-{n}", journal=tmp_path / "j", sync="off").close()
    report = sync(tmp_path / "j", endpoint_url=sim.endpoint_url, boto3_session=session_with(load))
    assert report.halted is not None
    assert len(asked) == 1


def test_a_broken_cache_of_single_sign_on_halts_with_a_hint(tmp_path, journal, profile):
    """A token file that was cut off (botocore raises KeyError) is exit code 5 with a hint, and
    no bug of ours.
    """
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    # sha1 of the start URL
    (cache / "e8be5486177c5b5392bd9aa76563515b29358e6e.json").write_text('{"accessToken": ')
    profile.use(
        "sso_start_url = https://example.awsapps.com/start",
        "sso_region = us-east-1",
        "sso_account_id = 123456789012",
        "sso_role_name = r",
    )
    with simulator() as sim:
        env = {
            "HOME": str(tmp_path),
            "AWS_CONFIG_FILE": str(profile.file),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
        }
        process = sync_process(journal, sim.endpoint_url, env=env)
        out, err = process.communicate()
    assert process.returncode == 5, (out, err)
    assert "hint:" in err
    assert "bug" not in err
    assert "KeyError" in err


TRAINING = """
import boto3, sys
from journaltrack import Tracker
session = boto3.Session() if sys.argv[1] == "session" else None
if sys.argv[2:] == ["asked"]:
    session.get_credentials()
tracker = Tracker.load("unknown", boto3_session=session)
tracker.log_metric("loss", 1.0)
tracker.close()
print("closed", flush=True)
"""
WATCHING = (
    "import sys; sys.argv[1:] = ['watch', '--debounce', '0.05']; from journaltrack.cli import "
    "main; main()"
)
SYNCING = "import sys; sys.argv[1:] = ['sync']; from journaltrack.cli import main; main()"
MFA = (
    "role_arn = arn:aws:iam::123456789012:role/r",
    "mfa_serial = arn:aws:iam::123456789012:mfa/me",
    "source_profile = source",
)
SOURCE = ("aws_access_key_id = AKIDTEST", "aws_secret_access_key = secret")


@contextlib.contextmanager
def on_a_terminal(code, *arguments, env, errors=None):
    """A program whose terminal is ours: what it asks there can be read."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if errors is None else theirs,
        env={
            k: v
            for k, v in os.environ.items()
            if not k.startswith("AWS_") or k == "AWS_CONFIG_FILE"
        }
        | env,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the only way to a terminal of its own
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def asked_on(terminal, timeout_s):
    """What was asked there."""
    ready, _, _ = select.select([terminal], [], [], timeout_s)
    try:
        return os.read(terminal, 1000).decode() if ready else ""
    except OSError:  # nobody has it open any more
        return ""


@pytest.mark.parametrize(
    ("code", "arguments", "end"),
    [
        (TRAINING, ["none"], b"closed"),
        (TRAINING, ["session"], b"closed"),
        (TRAINING, ["session", "asked"], b"closed"),
    ],
    ids=["its own session", "the caller's session", "the caller's session, looked at before"],
)
@pytest.mark.parametrize("chained", [False, True], ids=["role", "role of a role"])
def test_training_on_a_terminal_is_never_asked_for_a_code(
    tmp_path, profile, sim, code, arguments, end, chained
):
    """A profile that wants an MFA code is no reason to ask on the terminal: load and close go
    on, and say what to do.
    """
    if chained:
        profile.use(
            "role_arn = arn:aws:iam::123456789012:role/outer",
            "source_profile = inner",
            inner=MFA,
            source=SOURCE,
        )
    else:
        profile.use(*MFA, source=SOURCE)
    env = {
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_JOURNAL": str(tmp_path / "j"),
    }
    with on_a_terminal(code, *arguments, env=env) as (process, terminal):
        out, err = process.communicate(timeout=FOREVER_S)
        assert process.returncode == 0, err
        assert end in out
        assert b"MFA" in err
        assert b"journaltrack sync" in err
        assert asked_on(terminal, 0) == ""
    assert not sim.requests


def test_a_watcher_on_a_terminal_asks_for_no_code(journal, profile, sim):
    """journaltrack watch has nobody to ask, even if it was started on a terminal."""
    profile.use(*MFA, source=SOURCE)
    env = {
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_JOURNAL": str(journal),
    } | QUICK
    with on_a_terminal(WATCHING, env=env) as (process, terminal):
        told = []
        for line in process.stderr:
            told.append(line)
            if b"MfaRequired" in line:
                break
        assert b"MfaRequired" in told[-1], told
        assert asked_on(terminal, 0) == ""


def test_a_sync_without_a_terminal_asks_for_no_code(journal, profile, sim):
    """Exit code 5, and what to do."""
    profile.use(*MFA, source=SOURCE)
    env = {
        "AWS_CONFIG_FILE": str(profile.file),
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
    }
    process = sync_process(journal, sim.endpoint_url, env=env, stdin=subprocess.DEVNULL)
    _, err = process.communicate(timeout=FOREVER_S)
    assert process.returncode == 5, err
    assert "MFA code" in err
    assert "hint:" in err


def test_a_sync_on_a_terminal_asks_for_the_code(journal, profile, sim):
    """A person who runs journaltrack sync is asked, and an end of input instead of a code is
    exit code 5, not a traceback.
    """
    profile.use(*MFA, source=SOURCE)
    env = {
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": sim.endpoint_url,
        "JOURNALTRACK_JOURNAL": str(journal),
    }
    with on_a_terminal(SYNCING, env=env, errors="there") as (process, terminal):
        shown = ""
        while "MFA code for" not in shown:
            more = asked_on(terminal, 120)
            assert more, shown
            shown += more
        os.write(terminal, b"\x04")
        assert process.wait(FOREVER_S) == 5
