"""An address as a destination: how it is written, asked about, reached and not reached."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import ExitCode, main
from journaltrack.errors import InvalidInputError
from journaltrack.journal import destinations
from tests.builders import tracked
from tests.simulator.mlflow import MlflowServer

pytestmark = pytest.mark.usefixtures("credentials")


@pytest.fixture
def server():
    """A strict MLflow server."""
    with MlflowServer() as server:
        yield server


def command(*arguments):
    """Run a command: its exit code and what it printed."""
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (["status", "--check"], "metric        2"),
        (["audit"], "not all delivered"),
        (["audit", "entries", "--state", "pending"], "loss"),
        (["check", "--remote"], "not delivered"),
    ],
)
def test_what_was_logged_since_the_last_sync_is_pending(tmp_path, server, question, said):
    """A report for a destination knows of entries that no sync has brought there."""
    folder = tracked(tmp_path, steps=1)
    assert command("sync", folder, "--to", server.uri)[0] == ExitCode.OK
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 2.0, iteration_number=2)
        tracker.log_metric("loss", 3.0, iteration_number=3)
    code, output = command(*question, folder, "--to", server.uri)
    assert code == ExitCode.PENDING
    assert said in output


def test_one_server_has_one_copy_however_its_address_is_written(tmp_path, server):
    """A slash at the end and capitals in the name of the host make no other destination."""
    folder = tracked(tmp_path, steps=1)
    for written in (server.uri, f"{server.uri}/", server.uri.replace("http", "HTTP")):
        assert command("sync", folder, "--to", written)[0] == ExitCode.OK
    assert len(destinations.copies(folder)) == 1
    assert len(server.active()) == 1


def test_status_names_a_destination_as_to_takes_it(tmp_path, server):
    """What `status` prints can be typed."""
    folder = tracked(tmp_path, steps=1)
    command("sync", folder, "--to", server.uri)
    _, output = command("status", folder)
    (line,) = (line for line in output.splitlines() if line.startswith("to "))
    assert command("status", folder, "--to", line.split()[1])[0] == ExitCode.OK


def test_an_address_that_was_never_reached_leaves_nothing(tmp_path, closed_port, server):
    """A mistyped address is no destination that waits for ever; one that was reached stays."""
    folder = tracked(tmp_path, steps=1)
    assert command("sync", folder, "--to", closed_port)[0] == ExitCode.UNREACHABLE
    assert destinations.copies(folder) == {}
    command("sync", folder, "--to", server.uri)
    server.stop()
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 2.0)
    assert command("sync", folder, "--to", server.uri)[0] == ExitCode.UNREACHABLE
    assert len(destinations.copies(folder)) == 1


def test_a_configured_destination_waits_until_it_is_reached(tmp_path, closed_port, monkeypatch):
    """It was meant: what is pending there is told."""
    file = tmp_path / "config.toml"
    file.write_text(f'[destinations.lab]\nuri = "{closed_port}"\n')
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    folder = tracked(tmp_path, steps=1)
    assert command("sync", folder, "--to", "lab")[0] == ExitCode.UNREACHABLE
    assert "to lab" in command("status", folder)[1]


def test_nothing_is_logged_into_a_copy(tmp_path, server):
    """It would never come into the journal."""
    folder = tracked(tmp_path, steps=1)
    command("sync", folder, "--to", server.uri)
    (copy,) = destinations.copies(folder).values()
    with pytest.raises(InvalidInputError, match="can't be logged into"):
        Tracker.create(trial_component_name="other", journal=copy, sync="off")


def test_a_second_name_of_a_server_is_told(tmp_path, server):
    """The runs there are the journal's own, under another address."""
    folder = tracked(tmp_path, steps=1)
    command("sync", folder, "--to", server.uri)
    code, output = command("sync", folder, "--to", server.uri.replace("127.0.0.1", "localhost"))
    assert code == ExitCode.JOURNAL
    assert "another address" in " ".join(output.split())


def test_a_server_without_tls_is_told_apart_from_an_unknown_certificate(tmp_path, server):
    """The hint names what helps."""
    folder = tracked(tmp_path, steps=1)
    _, output = command("sync", folder, "--to", server.uri.replace("http:", "https:"))
    assert "try http:// instead of https://" in " ".join(output.split())
