"""The command line: exit codes, JSON, and what a hostile journal may show on a terminal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler


@pytest.fixture
def journal(tmp_path):
    """A journal with one component, nothing delivered."""
    tracker = Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off")
    tracker.log_parameters({"lr": 0.1, "evil\x1b]0;owned\x07[red]": "a\x1b[2Jb"})
    tracker.log_metric("loss", 0.5, iteration_number=3)
    return tmp_path / "j"


def call(*arguments):
    """Run a command: exit code and what it printed."""
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    return done.exit_code, done.output


def deliver(journal, remote=None):
    """Replay the journal to a remote in memory."""
    opened = Journal.open(journal)
    Reconciler(opened, remote or MemoryRemote()).run()
    opened.close()


class Poisoned(MemoryRemote):
    """Refuses every metric for good, until it is healed."""

    healed = False

    def put_metrics(self, component, points):
        if self.healed:
            return super().put_metrics(component, points)
        raise RemoteError("no metrics here", kind=ErrorKind.PERMANENT, code="ValidationException", request_id="r-1")


def test_audit_is_zero_only_when_all_is_delivered(journal):
    """Pending is exit code 3, quarantined 4, delivered 0; the totals add up."""
    assert call("audit", journal)[0] == 3
    remote = Poisoned()
    deliver(journal, remote)
    code, printed = call("audit", journal)
    assert code == 4
    assert "no metrics here" in printed
    assert call("retry", journal)[0] == 0
    assert call("audit", journal)[0] == 3
    remote.healed = True
    deliver(journal, remote)
    code, printed = call("audit", journal, "--json")
    assert code == 0
    assert json.loads(printed)
    assert json.loads(call("status", journal, "--json")[1])


def test_delivered_journal_audits_clean(journal):
    """After a replay the check of every digest ends with exit code 0."""
    deliver(journal)
    code, printed = call("check", journal)
    assert code == 0, printed


@pytest.mark.parametrize("command", [["audit", "entries"], ["status"], ["show", "run"], ["sync", "--dry-run"]])
def test_nothing_from_a_journal_reaches_the_terminal_raw(journal, command):
    """Control characters and markup in names and values are escaped by every command."""
    code, printed = call(*command, journal)
    assert code in {0, 3}, printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


@pytest.mark.parametrize("command", ["sync", "status", "audit", "retry"])
def test_missing_journal_is_exit_code_8_with_a_hint(tmp_path, command):
    """A path without a journal is an error with a hint, not a traceback."""
    code, printed = call(command, tmp_path / "nowhere")
    assert code == 8
    assert "hint" in printed
    assert "Traceback" not in printed


def test_show_reads_back_offline(journal):
    """Show prints folded parameters and the last metrics without any network."""
    code, printed = call("show", "run", "--journal", journal)
    assert code == 0
    assert "lr" in printed
    assert "loss" in printed
