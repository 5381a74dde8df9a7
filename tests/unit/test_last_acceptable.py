"""A later value that is refused does not take an earlier, good one with it; only what a
delivered entry overrides is superseded.
"""

from __future__ import annotations

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import PendingArtifact, Place, Status
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.plan.actions import Change, ComponentState, Update
from journaltrack.replay.plan.planner import awaited, plan, resolve
from journaltrack.replay.reconciler import Reconciler
from journaltrack.reports.report import audit
from tests.builders import CREATION
from tests.unit.test_plan import CONFIRMED, recorded

pytestmark = pytest.mark.journal({"run": [CREATION]})


GOOD, OTHER = BlobRef("ab" * 32, None, None), BlobRef("cd" * 32, None, None)


class Strict(MemoryRemote):
    """A service that refuses what no limit of ours foresees: texts and messages with "forbidden"
    in them.
    """

    def update(self, component, fields):
        told = [
            *fields.parameters.values(),
            *(a.value for a in fields.output_artifacts.values()),
            fields.status and fields.status.message,
        ]
        if any("forbidden" in str(each) for each in told):
            raise RemoteError("not allowed", kind=ErrorKind.PERMANENT, code="ValidationException")
        return super().update(component, fields)


def delivered(journal, *drafts):
    """What became of these, logged one after the other and sent in one pass: outcome and reason
    of each, and what the service holds.
    """
    remote = Strict()
    journal.append(journal.component("run"), list(drafts))
    report = Reconciler(journal, remote).run()
    assert report.pending == 0
    found = journal.database.read("SELECT outcome, reason FROM delivery WHERE seq > 1 ORDER BY seq")
    counted = audit(journal.path).totals
    assert (
        report.superseded
        == counted.superseded
        == sum(outcome == "superseded" for outcome, _ in found)
    )
    assert report.delivered == counted.delivered
    assert counted.quarantined == sum(outcome == "quarantined" for outcome, _ in found)
    return (
        [outcome for outcome, _ in found],
        [reason for _, reason in found],
        remote.components["run"],
    )


def test_the_last_parameter_that_the_service_takes_goes_out(journal):
    """Of one key: two good values, then two that are refused. The second is there, the first is
    superseded by it.
    """
    drafts = [
        vocabulary.parameter("p", value) for value in (1.0, 2.0, "forbidden", "forbidden, too")
    ]
    outcomes, reasons, there = delivered(journal, vocabulary.parameter("q", 7.0), *drafts)
    assert there.parameters == {"p": 2.0, "q": 7.0}
    assert outcomes == ["delivered", "superseded", "delivered", "quarantined", "quarantined"]
    assert reasons[1] == "entry 4 overrides it"


def test_a_refused_value_between_good_ones_is_overridden(journal):
    """The last one is good: what it overrides was never tried."""
    outcomes, _, there = delivered(
        journal, *(vocabulary.parameter("p", value) for value in (1.0, "forbidden", 3.0))
    )
    assert (there.parameters, outcomes) == ({"p": 3.0}, ["superseded", "superseded", "delivered"])


def test_the_last_artifact_that_the_service_takes_goes_out(journal):
    """Of one name."""
    outcomes, _, there = delivered(
        journal,
        *(vocabulary.artifact("output", "f", text, None) for text in ("s3://b/good", "forbidden")),
    )
    assert there.output_artifacts["f"].value == "s3://b/good"
    assert outcomes == ["delivered", "quarantined"]


def test_what_is_refused_of_a_status_does_not_keep_back_what_came_before_and_after(journal):
    """A message that is refused ends in quarantine alone: the start before it and the end after
    it are there.
    """
    outcomes, _, there = delivered(
        journal,
        vocabulary.status(primary="InProgress", start_ns=10**18),
        vocabulary.status(primary="Stopping", message="forbidden"),
        vocabulary.status(end_ns=2 * 10**18),
    )
    assert outcomes == ["delivered", "quarantined", "delivered"]
    assert (there.status.primary, there.status.start_ns, there.status.end_ns) == (
        "InProgress",
        10**18,
        2 * 10**18,
    )


def test_a_value_that_can_not_be_sent_at_all_overrides_nothing(journal):
    """The plan knows it: no request is wasted on it."""
    outcomes, _, there = delivered(
        journal, vocabulary.parameter("p", 1.0), vocabulary.parameter("p", float("nan"))
    )
    assert (there.parameters, outcomes) == ({"p": 1.0}, ["delivered", "quarantined"])


def test_a_refused_value_that_is_released_does_not_come_back_over_a_later_one(journal):
    """`retry` sends what can be sent: what a delivered entry overrides is superseded, whenever
    it becomes pending.
    """
    held = {("parameters", "p"): Place(9)}
    (settle,) = plan(
        recorded(vocabulary.parameter("p", 1.0)), {1: ComponentState(confirmed=True, held=held)}
    )
    assert (settle.outcome, settle.reason) == ("superseded", "entry 9 overrides it")


# -- references
# ------------------------------------------------------------------------------------------------


def references(*blobs):
    """An update with one artifact that was logged again and again."""
    (update,) = plan(
        recorded(*(vocabulary.artifact("output", "f", blob, None) for blob in blobs)), CONFIRMED
    )
    assert isinstance(update, Update)
    return update


def test_a_reference_whose_upload_is_refused_gives_way_to_an_earlier_one():
    """It is quarantined alone."""
    state = ComponentState(locations={GOOD: ("s3://b/good", 1)}, refused=frozenset({OTHER}))
    update, settled = resolve(references(GOOD, OTHER), state)
    assert [(s.outcome, s.seqs) for s in settled] == [("quarantined", (2,))]
    assert update is not None
    assert (update.fields().output_artifacts["f"].value, update.seqs) == ("s3://b/good", (1,))


def test_an_earlier_reference_that_waits_is_not_called_superseded_before_its_time():
    """The later one goes out; the earlier one is looked at again when its upload is done, and is
    overridden then.
    """
    state = ComponentState(locations={OTHER: ("s3://b/other", 1)})
    update, settled = resolve(references(GOOD, OTHER), state)
    assert (settled, update and update.seqs) == ([], (2,))
    assert awaited(references(GOOD, OTHER), state) == [1]
    later = ComponentState(
        locations={GOOD: ("s3://b/good", 1)}, held={("output_artifacts", "f"): Place(2)}
    )
    nothing, settled = resolve(references(GOOD), later)
    assert (nothing, [(s.outcome, s.reason) for s in settled]) == (
        None,
        [("superseded", "entry 2 overrides it")],
    )


def test_a_later_reference_that_waits_is_worth_the_wait():
    """Nothing is sent that would be replaced in a moment."""
    state = ComponentState(locations={GOOD: ("s3://b/good", 1)})
    assert resolve(references(GOOD, OTHER), state) == (None, [])
    assert awaited(references(GOOD, OTHER), state) == [1, 2]


def test_a_change_knows_what_each_of_its_entries_says():
    """Halves of its history are changes of their own."""
    (update,) = plan(
        recorded(*(vocabulary.status(primary="InProgress", start_ns=n) for n in (1, 2, 3))),
        CONFIRMED,
    )
    first, second = update.split()
    assert [first.fields().status, second.fields().status] == [
        Status("InProgress", None, 1),
        Status("InProgress", None, 3),
    ]
    assert [first.seqs, second.seqs] == [(1,), (2, 3)]
    assert Change("parameters", "p", PendingArtifact(GOOD), 5).without({5}) is None
