"""What a prune says: of what stays, in which state it is; of what went, where it was in its
writers' chains.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from journaltrack.cli import main
from journaltrack.journal import vocabulary
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.reconciler import Reconciler
from journaltrack.retention.prune import prune
from tests.builders import CREATION, points
from tests.copies import verify_chains

LATER_NS = 2**62
pytestmark = pytest.mark.journal({"run": [CREATION, *points(10, "loss"), *points(10, "norm")]})


@pytest.fixture
def remote():
    """Takes everything."""
    return MemoryRemote()


@pytest.fixture
def journal(journal, remote):
    """The open journal, delivered."""
    Reconciler(journal, remote).run()
    return journal


def log(journal, name, steps):
    """Points of these steps."""
    component = journal.component("run")
    for step in steps:
        journal.append_metric(component, name, float(step), step, 1)


def test_what_is_under_way_is_told_apart_from_what_waits(journal):
    """Points that a killed sync had sent stay as "in flight", with the delivered ones of their
    metric; what nobody sent as "pending". A parameter under way keeps no metric of its name.
    """
    log(journal, "loss", range(10, 13))
    log(journal, "norm", range(10, 15))
    sent = [entry.seq for entry in journal.entries(pending=True) if entry.name == "loss"]
    journal.append(journal.component("run"), [vocabulary.parameter("norm", 2)])
    lease = leases.acquire(journal.database)
    Settlement(journal.database, lease).begin(
        [Intent("metrics", 1, sent), Intent("update", 1, [journal.last_seq()])]
    )
    lease.release()
    survey = prune(journal.path, ask=None, delivered_before_ns=LATER_NS, dry_run=True)
    assert survey.stays == {"pending": 5, "in flight": 4, "counted": 10, "in use": 1}
    assert survey.by_kind == {"metric": 10}
    said = CliRunner().invoke(
        main, ["prune", str(journal.path), "--delivered-before", "2100-01-01", "--dry-run"]
    )
    assert said.exit_code == 0, said.output
    assert "in flight" in said.output
    assert "sent, and the answer is not recorded" in said.output


def test_labels_stay_as_what_the_component_needs(journal, remote):
    """Each may replace a tag: none goes, and none counts as unknown."""
    labels = [vocabulary.label("long", text) for text in ("a", "b", None)]
    journal.append(journal.component("run"), labels)
    Reconciler(journal, remote).run()
    survey = prune(journal.path, ask=None, delivered_before_ns=LATER_NS, dry_run=True)
    assert survey.stays.keys() == {"in use"}


def removed(journal):
    """What the last prune's attestations say of the writers' chains: (first, last) of each run."""
    bodies = [
        json.loads(body)
        for (body,) in journal.database.read("SELECT body FROM attestation ORDER BY id")
    ]
    return [(first, last) for body in bodies for _, first, last, _ in body.get("removed", ())]


def test_neighbours_that_went_are_one_run(journal, remote):
    """All points went: one run of neighbours. With entries in between that stay, the runs beside
    them.
    """
    log(journal, "loss", range(10, 12))
    prune(journal.path, ask=None, delivered_before_ns=LATER_NS)
    assert removed(journal) == [(2, 21)]
    journal.append(journal.component("run"), [vocabulary.parameter("rate", 1.0)])
    log(journal, "loss", range(12, 15))
    Reconciler(journal, remote).run()
    prune(journal.path, ask=None, delivered_before_ns=LATER_NS)
    assert removed(journal) == [(2, 21), (22, 23), (25, 26)]
    assert verify_chains(journal) == []
