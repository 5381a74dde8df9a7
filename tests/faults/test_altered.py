"""A journal that somebody altered, through real boto3 over HTTP: no command and no tracker
carries the forgery out.
"""

from __future__ import annotations

import json

import pytest

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import JournalAlteredError
from journaltrack.tracking.validation import JournaltrackWarning
from tests.copies import change
from tests.simulator import simulator

FORGE = "UPDATE entry SET value = 666.0 WHERE name = 'lr'"


@pytest.fixture
def aws():
    """The account."""
    with simulator() as sim:
        yield sim


@pytest.fixture(autouse=True)
def _with_credentials(credentials):
    """For all of them."""


@pytest.fixture
def cli(aws, capsys):
    """Exit code and everything printed of a command."""

    def run(*arguments):
        aimed = ["--endpoint-url", aws.endpoint_url] if arguments[0] in {"sync", "check"} else []
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *aimed])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def anchors(sim):
    """Names of the anchors in S3."""
    return sorted(key for _, key in sim.objects if "journaltrack-anchors" in key)


def test_a_repair_of_an_altered_journal_is_refused(journal, aws, cli):
    """A parameter altered after its delivery: `check --remote --repair` leaves SageMaker's true
    value, ends with 8, and anchors nothing.
    """
    assert cli("sync", journal)[0] == 0
    known = anchors(aws)
    assert known
    change(journal, FORGE)
    requests = len(aws.requests)
    code, _, err = cli("check", "--remote", journal, "--repair")
    assert code == 8
    assert "was altered" in err
    assert aws.components["run"].parameters["lr"] == {"NumberValue": 0.1}
    assert anchors(aws) == known
    assert len(aws.requests) == requests
    with pytest.raises(JournalAlteredError):
        journaltrack.verify(journal, repair=True, region="us-east-1", endpoint_url=aws.endpoint_url)
    assert cli("check", "--remote", journal)[0] == 8


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE attestation SET body = replace(body, 'delivered', 'superseded')",
        "DELETE FROM delivery WHERE seq = 2",
        "UPDATE receipt SET request_id = 'made up' WHERE id = 2",
    ],
)
def test_a_repair_looks_at_records_too(journal, aws, cli, forgery):
    """What says what became of the entries was altered: a repair is refused, whatever differs."""
    assert cli("sync", journal)[0] == 0
    change(journal, forgery)
    assert cli("check", "--remote", journal, "--repair")[0] == 8


def test_a_sync_of_an_altered_journal_says_what_it_held_back(journal, aws, cli):
    """`sync` ends with 8, says why and what to do, and delivers the other processes' runs;
    `--json` has it; `--unproved` sends it.
    """
    with Tracker.create(trial_component_name="other", journal=journal, sync="off") as other:
        other.log_metric("loss", 1.0)
    change(journal, FORGE)
    code, out, err = cli("sync", journal, "--dry-run")
    assert code == 8
    assert "run" not in out.splitlines()
    code, out, err = cli("sync", journal, "--json")
    assert code == 8
    (told,) = json.loads(out)["journals"]
    assert "was altered" in told["altered"]["message"]
    assert told["after"]["pending"] > 90
    assert "--unproved" in err
    assert set(aws.components) == {"other"}
    assert cli("sync", journal, "--unproved")[0] == 0
    assert aws.components["run"].parameters["lr"] == {"NumberValue": 666.0}


def test_a_closing_tracker_warns_and_delivers_nothing_altered(tmp_path, aws, monkeypatch, caplog):
    """`close()` raises nothing, says what was found, and sends nothing of what this process
    recorded.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint_url)
    with Tracker.create(
        trial_component_name="run",
        journal=tmp_path / "journal",
        sync="close",
        close_deadline_s=3_600,
    ) as tracker:
        tracker.log_parameters({"lr": 0.1})
        change(tmp_path / "journal", FORGE)
    assert aws.components == {}
    assert "was altered" in caplog.text
    assert "run was not delivered completely" in caplog.text


def test_a_watcher_delivers_all_but_what_was_altered(tmp_path, journal, aws, watch):
    """`watch` tells of an altered journal, goes on with the others, and sends nothing of that
    process's.
    """
    change(journal, FORGE)
    with Tracker.create(
        trial_component_name="other", journal=tmp_path / "other", sync="off"
    ) as other:
        other.log_metric("loss", 1.0)
    watching = watch(tmp_path, aws.endpoint_url)
    watching.wait_for("JournalAlteredError")
    aws.wait_until(lambda sim: "other" in sim.components)
    assert watching.end() is not None
    assert set(aws.components) == {"other"}


def test_retry_sends_nothing_altered(tmp_path, aws, cli):
    """A point that was refused, and was made into another one before it was released, is held
    back by the next sync.
    """
    with (
        Tracker.create(
            trial_component_name="run", journal=tmp_path / "journal", sync="off"
        ) as tracker,
        pytest.warns(JournaltrackWarning),
    ):
        tracker.log_metric("loss", float("nan"))
    change(
        tmp_path / "journal", "UPDATE entry SET value = 0.01, payload = NULL WHERE name = 'loss'"
    )
    assert cli("retry", tmp_path / "journal")[0] == 0
    assert cli("sync", tmp_path / "journal")[0] == 8
    assert aws.components == {}
