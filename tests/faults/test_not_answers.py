"""Whole syncs past something that answers in AWS's place, and past failures of AWS after it had
done what it was asked.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack.cli import ExitCode, main
from journaltrack.reports.report import audit
from tests.simulator import HttpError, Instead, PartialErrors, simulator


def outcomes(folder):
    """How many entries have which outcome, as plain sqlite3 reads them."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return dict(connection.execute("SELECT outcome, count(*) FROM delivery GROUP BY outcome"))


def sync(journal, sim):
    return CliRunner().invoke(
        main, ["sync", str(journal), "--region", "us-east-1", "--endpoint-url", sim.endpoint_url]
    )


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b'{"ok": true}', b"{}", b"<a/>", b""])
def test_a_network_that_answers_itself_delivers_nothing(journal, credentials, body):
    """Exit 6, a hint, and every entry where it was; once the network is open, everything
    arrives.
    """
    with simulator() as sim:
        sim.fail("*", Instead(200, body, {"Content-Type": "text/html"}), times=10_000)
        result = sync(journal, sim)
        assert result.exit_code == ExitCode.UNREACHABLE, result.output
        assert "captive portal" in result.output
        assert outcomes(journal) == {}
        sim.clear_faults()
        assert sync(journal, sim).exit_code == ExitCode.OK
        assert len(sim.components["run"].metrics) == 95
        assert len(sim.artifacts) == 1
    assert not audit(journal).inconsistencies


def test_points_that_failed_after_they_were_applied_are_there_once(journal, credentials):
    """500, 503 and items with INTERNAL_ERROR, all of them applied: in doubt, found by reading
    back, never there twice.
    """
    with simulator() as sim:
        sim.fail("BatchPutMetrics", HttpError(500, "InternalFailure", applied=True))
        sim.fail("BatchPutMetrics", HttpError(503, "ServiceUnavailable", applied=True))
        sim.fail(
            "BatchPutMetrics",
            PartialErrors({0: "INTERNAL_ERROR", 3: "INTERNAL_ERROR"}, applied=True),
        )
        result = sync(journal, sim)
        assert result.exit_code == ExitCode.PROBLEMS, result.output
        assert outcomes(journal)["in doubt"] == 22
        assert len(sim.components["run"].metrics) == 95
        report = journaltrack.sync(journal, region="us-east-1", endpoint_url=sim.endpoint_url)
        assert report.not_arrived == 0
        assert len(sim.components["run"].metrics) == 95
    assert not audit(journal).inconsistencies
