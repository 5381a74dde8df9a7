"""One component, several journals: the value and status that were recorded last win, in whatever
order the journals arrive.
"""

from __future__ import annotations

from contextlib import closing

import pytest

import journaltrack
from journaltrack.app.composition import run_verify
from journaltrack.app.connection import Connection
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.reports.component import show
from journaltrack.reports.report import audit
from journaltrack.tracking.tracker import Tracker
from journaltrack.transfer.merge import merge
from journaltrack.verification.verifier import VerifyOptions
from tests.simulator import simulator

SECOND_NS = 10**9
FIRST_NS = 1_800_000_000 * SECOND_NS
HOUR_NS = 3_600 * SECOND_NS


def attempt(folder, at_ns, primary, *, own=None, resume=True, **parameters):
    """A run of an hour on a node of its own, that sets these parameters and ends so."""
    clock = {"now": at_ns}
    with closing(Journal.open(folder, clock_ns=lambda: clock["now"])) as journal:
        run = journal.component("run")
        journal.append(run, [vocabulary.create(owner=f"owner {at_ns}", resume=resume)])
        journal.append(run, [vocabulary.status(primary="InProgress", start_ns=at_ns)])
        clock["now"] += SECOND_NS
        journal.append(
            run, [vocabulary.parameter(name, value) for name, value in parameters.items()]
        )
        journal.append(run, [vocabulary.artifact("output", "model", f"s3://b/{primary}", None)])
        if own:
            journal.append(run, [vocabulary.parameter(own, at_ns / 1e9)])
        clock["now"] += HOUR_NS
        journal.append(run, [vocabulary.status(primary=primary, message=None, end_ns=clock["now"])])


@pytest.fixture
def nodes(tmp_path, credentials):
    """A first attempt that failed, and a second one that completed, each in a journal of its
    own.
    """
    attempt(tmp_path / "first", FIRST_NS, "Failed", rate=0.1, own="of-first")
    attempt(tmp_path / "second", FIRST_NS + 2 * HOUR_NS, "Completed", rate=0.2, own="of-second")
    return tmp_path / "first", tmp_path / "second"


def sync(folder, sim):
    """One pass; its report."""
    report = journaltrack.sync(folder, region="us-east-1", endpoint_url=sim.endpoint_url)
    assert report.pending == 0
    return report


def expect_the_second(sim):
    """What SageMaker holds: status, times and values of the second attempt, and what only the
    first one set.
    """
    there = sim.components["run"]
    assert there.status["PrimaryStatus"] == "Completed"
    assert (there.start_time, there.end_time) == (
        FIRST_NS / 1e9 + 7_200,
        FIRST_NS / 1e9 + 7_200 + 3_601,
    )
    assert {name: value["NumberValue"] for name, value in there.parameters.items()} == {
        "rate": 0.2,
        "of-first": FIRST_NS / 1e9,
        "of-second": FIRST_NS / 1e9 + 7_200,
    }
    assert there.output_artifacts["model"]["Value"] == "s3://b/Completed"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_journals_that_are_synced_apart_converge(nodes, order, caplog):
    """A first attempt that is synced last turns nothing back, and says so once."""
    with simulator() as sim:
        for which in order:
            sync(nodes[which], sim)
        expect_the_second(sim)
        said = [
            record.getMessage()
            for record in caplog.records
            if "later values of another journal" in record.getMessage()
        ]
        assert len(said) == (order == (1, 0))
        for folder in nodes:
            report = audit(folder)
            assert report.totals.delivered == report.totals.entries
            assert not report.inconsistencies
            assert sync(folder, sim).requests == 0
        requests = [r.operation for r in sim.requests]
        assert requests.count("UpdateTrialComponent") == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("synced", [(), (0,), (1,)])
def test_journals_that_are_merged_converge(nodes, order, synced, tmp_path):
    """Brought together one after the other, in any order, one of them delivered before or none:
    what was recorded last is there.
    """
    with simulator() as sim:
        for which in synced:
            sync(nodes[which], sim)
        for which in order:
            merge([nodes[which]], into=tmp_path / "all")
        view = show(tmp_path / "all", "run")
        assert (view.status.primary, {p.name: p.value for p in view.parameters}["rate"]) == (
            "Completed",
            0.2,
        )
        loaded = Tracker.load("run", journal=tmp_path / "all", sync="off")
        assert (
            loaded.trial_component.status.primary_status,
            loaded.trial_component.parameters["rate"],
        ) == ("Completed", 0.2)
        sync(tmp_path / "all", sim)
        expect_the_second(sim)
        assert not audit(tmp_path / "all").inconsistencies


def test_a_merge_after_the_harm_was_done_can_be_repaired(nodes, tmp_path):
    """SageMaker was turned back by somebody: what the merged journal claims is what was recorded
    last, and a repair sends it.
    """
    with simulator() as sim:
        for folder in nodes:
            sync(folder, sim)
        there = sim.components["run"]
        there.status, there.parameters["rate"] = {"PrimaryStatus": "Failed"}, {"NumberValue": 0.1}
        for folder in reversed(nodes):
            merge([folder], into=tmp_path / "all")
        asked = (
            tmp_path / "all",
            Connection(region="us-east-1", endpoint_url=sim.endpoint_url),
            VerifyOptions(visible_after_s=0),
        )
        found = run_verify(*asked).differences
        assert {each.what for each in found} == {"parameter", "status"}
        assert run_verify(*asked, repair=True).differences == []
        expect_the_second(sim)


def test_copies_on_two_hosts_are_ordered_by_time_and_one_journal_by_its_own_order(
    tmp_path, credentials
):
    """A clock that was set back on one host does not turn the order of its own calls round."""
    for offset, value in ((HOUR_NS, 1.0), (0, 2.0)):
        with closing(
            Journal.open(tmp_path / "j", clock_ns=lambda at_ns=FIRST_NS + offset: at_ns)
        ) as journal:
            journal.append(
                journal.component("run"),
                [vocabulary.create(owner="me", resume=True), vocabulary.parameter("p", value)],
            )
    assert {p.name: p.value for p in show(tmp_path / "j", "run").parameters} == {"p": 2.0}
    with simulator() as sim:
        sync(tmp_path / "j", sim)
        assert sim.components["run"].parameters["p"] == {"NumberValue": 2.0}


def test_a_repair_of_our_own_run_is_not_kept_back(tmp_path, credentials):
    """A parameter that was logged before its own run began, and was changed there since, can be
    sent again.
    """
    with closing(Journal.open(tmp_path / "j", clock_ns=lambda: FIRST_NS)) as journal:
        journal.append(
            journal.component("run"),
            [vocabulary.create(owner="me", resume=True), vocabulary.parameter("p", 1.0)],
        )
    with closing(Journal.open(tmp_path / "j", clock_ns=lambda: FIRST_NS + HOUR_NS)) as journal:
        journal.append(
            journal.component("run"),
            [vocabulary.status(primary="InProgress", start_ns=FIRST_NS + HOUR_NS)],
        )
    with simulator() as sim:
        sync(tmp_path / "j", sim)
        sim.components["run"].parameters["p"] = {"NumberValue": 9.0}
        options = VerifyOptions(visible_after_s=0)
        run_verify(
            tmp_path / "j",
            Connection(region="us-east-1", endpoint_url=sim.endpoint_url),
            options,
            repair=True,
        )
        assert sim.components["run"].parameters["p"] == {"NumberValue": 1.0}


def test_what_can_not_be_known_is_sent(tmp_path, credentials):
    """Two runs at the same time: of a parameter, no time is shown, and the value that is
    delivered later wins. A status has one.
    """
    for name, start_ns, logged_ns, end_ns, rate in (("a", 0, 40, 60, 0.1), ("b", -30, 10, 50, 0.2)):
        moments = iter(
            [FIRST_NS + minutes * 60 * SECOND_NS for minutes in (start_ns, logged_ns, end_ns)]
        )
        for draft in (
            lambda at_ns: vocabulary.status(primary="InProgress", start_ns=at_ns),
            lambda _, rate=rate: vocabulary.parameter("rate", rate),
            lambda at_ns, name=name: vocabulary.status(
                primary="Failed" if name == "a" else "Completed", end_ns=at_ns
            ),
        ):
            at_ns = next(moments)
            with closing(
                Journal.open(tmp_path / name, clock_ns=lambda at_ns=at_ns: at_ns)
            ) as journal:
                journal.append(
                    journal.component("run"),
                    [vocabulary.create(owner=name, resume=True), draft(at_ns)],
                )
    with simulator() as sim:
        sync(tmp_path / "a", sim)
        sync(tmp_path / "b", sim)
        there = sim.components["run"]
        assert there.parameters["rate"] == {"NumberValue": 0.2}
        assert there.status["PrimaryStatus"] == "Failed", "the end of the other run is later"
