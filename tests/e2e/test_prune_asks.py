"""A prune asks SageMaker and S3 for what it is about to remove, through real boto3 over HTTP,
and removes nothing that is not there.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.cli import main
from tests.copies import read, verify_chains
from tests.processes import ENVIRONMENT
from tests.simulator import HttpError, simulator

ALL = ("--delivered-before", "0s", "--blobs-delivered-before", "0s")
COUNTS = (
    "SELECT count(*) FROM entry e JOIN component c ON c.id = e.component_id WHERE c.name = ? "
    "AND e.stream = 'metric'"
)


@pytest.fixture
def aws():
    """The account."""
    with simulator() as sim:
        yield sim


@pytest.fixture
def cli(aws, capsys, credentials):
    """Exit code and everything printed of a command."""

    def run(*arguments, endpoint_url=aws.endpoint_url):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--endpoint-url", endpoint_url])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def delivered(journal, tmp_path, cli):
    """A journal of two runs, delivered; what is in its spool is old enough to go."""
    with Tracker.create(trial_component_name="other", journal=journal, sync="off") as other:
        for step in range(20):
            other.log_metric("loss", float(step), iteration_number=step)
    assert cli("sync", journal)[0] == 0
    with closing(sqlite3.connect(journal / "journal.db")) as connection, connection:
        connection.execute("UPDATE blob SET spooled_at_ns = 1")
    return journal


def points(folder, component):
    """How many entries of metrics the journal has."""
    return read(folder, COUNTS, component)[0][0]


def spooled(folder):
    """Contents in the spool."""
    return [path.name for path in folder.glob("spool/??/*")]


def asked(sim, before):
    """Which operations were called since."""
    return {request.operation for request in sim.requests[before:]}


def test_what_is_there_goes(delivered, aws, cli):
    """Everything is there: it was asked for, by requests that change nothing, and goes."""
    before = len(aws.requests)
    code, out, _ = cli("prune", delivered, *ALL, "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == 0
    assert told["asked"] is True
    assert (told["by_component"], told["blobs"]) == ({"other": 20, "run": 95}, 1)
    assert spooled(delivered) == []
    assert asked(aws, before) == {"DescribeTrialComponent", "HeadObject"}
    assert verify_chains(delivered) == []


def lose_points(sim):
    del sim.components["run"].metrics[3]


def lose_all_points(sim):
    sim.components["run"].metrics.clear()


def lose_parameter(sim):
    del sim.components["run"].parameters["lr"]


def change_parameter(sim):
    sim.components["run"].parameters["lr"] = {"NumberValue": 7.0}


def lose_component(sim):
    del sim.components["run"]


@pytest.mark.parametrize(
    "lose", [lose_points, lose_all_points, lose_parameter, change_parameter, lose_component]
)
def test_of_a_run_that_is_not_as_it_was_delivered_nothing_goes(
    delivered, aws, cli, lose, monkeypatch
):
    """Something of a run is not in SageMaker: its points stay in the journal, and it is said
    which and why; those of the other run go.
    """
    lose(aws)
    monkeypatch.setenv("JOURNALTRACK_VISIBLE_AFTER_S", "1e-6")
    code, _, err = cli("prune", delivered, "--delivered-before", "0s")
    assert code == 4
    assert "run stayed" in err
    assert (points(delivered, "run"), points(delivered, "other")) == (95, 0)
    assert verify_chains(delivered) == []


@pytest.mark.parametrize(
    ("loses_parameter", "ends", "reason"), [(False, 3, "not told"), (True, 4, "not confirmed")]
)
def test_what_may_not_be_shown_yet_is_not_called_missing(
    delivered, aws, cli, loses_parameter, ends, reason
):
    """SageMaker shows no points of a moment ago: they stay, with exit code 3 and the advice to
    wait. If a parameter is missing as well, the run counts as not confirmed.
    """
    lose_points(aws)
    if loses_parameter:
        lose_parameter(aws)
    arguments = ("prune", delivered, "--component", "run", "--delivered-before", "0s")
    code, out, err = cli(*arguments, "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == ends
    assert (set(told["unconfirmed"]), set(told["untold"])) == (
        ({"run"}, set()) if loses_parameter else (set(), {"run"})
    )
    assert reason in told["stays"]
    assert told["entries"] == 0
    assert ("later" in err, "--repair" in err) == (not loses_parameter, loses_parameter)
    assert "lacks part of it" in cli(*arguments)[1] or not loses_parameter
    assert points(delivered, "run") == 95


def forget_object(sim):
    for place in [*sim.artifacts]:
        del sim.objects[place]


def refuse_to_tell(sim):
    sim.fail("HeadObject", HttpError(403, "AccessDenied"), times=100)


@pytest.mark.parametrize(
    ("lose", "ends", "advice"), [(forget_object, 4, "--repair"), (refuse_to_tell, 3, "later")]
)
def test_an_artifact_that_s3_does_not_show_stays_in_the_spool(
    delivered, aws, cli, lose, ends, advice
):
    """The object is gone (4), or S3 does not tell (3): the only copy stays, and it is said why."""
    lose(aws)
    before = spooled(delivered)
    assert before
    code, _, err = cli("prune", delivered, "--blobs-delivered-before", "0s")
    assert code == ends
    assert "stayed" in err
    assert advice in err
    assert spooled(delivered) == before


def test_nothing_goes_if_nobody_can_be_asked(delivered, cli, closed_port):
    """No network: nothing is removed, the exit code is 6, and it is said; `--unasked` believes
    the record, `--dry-run` asks nobody.
    """
    before = spooled(delivered)
    code, _, err = cli("prune", delivered, *ALL, endpoint_url=closed_port)
    assert code == 6
    assert "nothing was removed" in err
    assert (spooled(delivered), points(delivered, "run")) == (before, 95)
    assert cli("prune", delivered, *ALL, "--dry-run", endpoint_url=closed_port)[0] == 0
    code, out, _ = cli("prune", delivered, *ALL, "--unasked", "--json", endpoint_url=closed_port)
    assert code == 0
    assert json.loads(out)["asked"] is False
    assert (spooled(delivered), points(delivered, "run")) == ([], 0)


def test_nothing_goes_without_permission_to_ask(delivered, aws, cli, monkeypatch):
    """Credentials that are not taken: nothing is removed, and the exit code is 5."""
    aws.expired.add(ENVIRONMENT["AWS_ACCESS_KEY_ID"])
    code, _, err = cli("prune", delivered, *ALL)
    assert code == 5
    assert "nothing was removed" in err
    assert points(delivered, "run") == 95


def test_a_bucket_whose_requests_are_on_us_is_asked(delivered, aws, cli, monkeypatch):
    """The buckets are asked as the configuration says: where requests are on the caller's
    account, they say so, and the artifact goes.
    """
    aws.state.requester_pays |= set(aws.state.buckets)
    code, _, err = cli("prune", delivered, *ALL)
    assert (code, len(spooled(delivered))) != (0, 0), err
    monkeypatch.setenv("JOURNALTRACK_S3_REQUESTS_PAID_BY", "requester")
    code, _, err = cli("prune", delivered, *ALL)
    assert (code, spooled(delivered)) == (0, []), err
