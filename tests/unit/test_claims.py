"""What a journal claims of the remote: not what it failed to deliver, nor what is shared, nor
what may still come.
"""

from __future__ import annotations

import contextlib

import pytest

from journaltrack import Tracker, limits
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Status
from journaltrack.journal.journal import Journal
from journaltrack.replay.plan.actions import ComponentSpec, Fields
from journaltrack.replay.reconciler import Reconciler
from journaltrack.retention.prune import prune
from journaltrack.verification import expected
from journaltrack.verification.verifier import Verifier, VerifyOptions
from tests.copies import without_triggers
from tests.failing_remote import FailingRemote

REFUSED = RemoteError("no such value", kind=ErrorKind.PERMANENT, code="ValidationException")


@pytest.fixture
def folder(tmp_path):
    """Of the journal."""
    return tmp_path / "j"


@pytest.fixture
def remote():
    """A remote that can refuse."""
    return FailingRemote()


def deliver(folder, remote):
    """A pass."""
    with contextlib.closing(Journal.open(folder)) as opened:
        return Reconciler(opened, remote).run()


def differences(folder, remote):
    """(kind, what, name) of all, and which of them can be repaired."""
    with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as opened:
        found = Verifier(opened, remote, options=VerifyOptions(visible_after_s=0)).run().differences
    return {(each.kind, each.what, each.name): each.repairable for each in found}


def test_what_was_set_aside_is_not_extra_when_somebody_else_set_it(folder, remote):
    """The remote holds a key whose value of ours was refused, and one that this journal never
    named: only the latter is extra.
    """
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        tracker.log_parameter("refused", 1.0)
    remote.failures["update"] += [REFUSED] * 10
    assert deliver(folder, remote).quarantined
    remote.failures["update"].clear()
    tracker = Tracker.load("run", journal=folder, sync="off")
    tracker.log_parameter("delivered", 2.0)
    tracker.close()
    deliver(folder, remote)
    remote.update("run", Fields(parameters={"refused": 3.0, "foreign": 4.0}))
    assert differences(folder, remote) == {("extra", "parameter", "foreign"): False}


@pytest.mark.parametrize("resumed", [True, False])
def test_a_resumed_component_is_shared(folder, remote, resumed):
    """A component that somebody else made and this journal resumed is no stranger, and what is
    missing of ours can be sent again.
    """
    if resumed:
        remote.create(ComponentSpec("run", "somebody else"))
    with Tracker.create(
        trial_component_name="run", journal=folder, sync="off", resume=resumed
    ) as tracker:
        tracker.log_parameter("rate", 1.0)
    assert deliver(folder, remote).held == {}
    assert differences(folder, remote) == {}
    del remote.components["run"].parameters["rate"]
    assert differences(folder, remote) == {("missing", "parameter", "rate"): True}
    if not resumed:
        status = remote.components["run"].status
        remote.components.clear()
        remote.create(ComponentSpec("run", "somebody else"))
        remote.update("run", Fields(parameters={"rate": 1.0}, status=status))
        assert ("extra", "component", "owner") in differences(folder, remote)


@pytest.mark.parametrize(
    ("held", "differs"),
    [
        (Status("InProgress", None, 1_000, None), False),
        (Status("Failed", "first", 1_000, None), False),
        (Status("Failed", "second", 1_000, 9_000), False),
        (Status("Stopped", None, 1_000, None), True),
    ],
    ids=["none sent", "one sent", "both sent", "somebody else's"],
)
def test_pending_statuses_may_have_been_sent_one_after_the_other(folder, remote, held, differs):
    """Of two status calls that a killed sync may have sent, the remote may hold none, the first,
    or both, merged; nothing else.
    """
    with contextlib.closing(Journal.open(folder)) as journal:
        component = journal.component("run")
        journal.append(
            component,
            [
                vocabulary.create(owner="me"),
                vocabulary.status(primary="InProgress", start_ns=1_000),
            ],
        )
        deliver(folder, remote)
        journal.append(component, [vocabulary.status(primary="Failed", message="first")])
        journal.append(component, [vocabulary.status(message="second", end_ns=9_000)])
    remote.components["run"].status = held
    assert (("different", "status", "status") in differences(folder, remote)) == differs
    assert bool(differences(folder, remote)) == differs


@pytest.mark.parametrize(
    ("cells", "repairable"), [("size_bytes", True), ("size_bytes + 1", False), (None, True)]
)
def test_an_object_can_be_sent_again_if_its_bytes_are_there(
    folder, remote, tmp_path, cells, repairable
):
    """A deleted object is mended from the spool, also where the journal does not know its size;
    not by a blob of another size.
    """
    (tmp_path / "model").write_bytes(b"weights")
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        tracker.log_artifact(tmp_path / "model")
    deliver(folder, remote)
    assert differences(folder, remote) == {}
    with without_triggers(folder) as connection:
        connection.execute(
            "DELETE FROM blob" if cells is None else f"UPDATE blob SET size_bytes = {cells}"
        )
    (uri,) = remote.objects
    remote.objects.clear()
    assert differences(folder, remote) == {("missing", "object", uri): repairable}


@pytest.mark.parametrize("step", [None, limits.STEP_MAX])
def test_delivered_points_are_counted_by_step(folder, remote, step):
    """From the first possible step to the last one, and only if each point has one."""
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        for each in (0, 0, step):
            tracker.log_metric("loss", 1.0, iteration_number=each)
    deliver(folder, remote)
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        tracker.log_metric("loss", 1.0, iteration_number=1)
    with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as opened:
        found = expected.steps_of(opened.database, 1, "loss")
    assert found == (None if step is None else {0: 2, step: 1})


@pytest.mark.parametrize("later", [[], [0.5], [5.0], [10.0]])
def test_points_that_were_pruned_still_count(folder, remote, later):
    """What a metric's points were is known after a prune, with those that came later."""
    with Tracker.create(trial_component_name="run", journal=folder, sync="off") as tracker:
        for value in (3.0, 1.0, 9.0):
            tracker.log_metric("loss", value)
    deliver(folder, remote)
    assert prune(folder, ask=None, delivered_before_ns=2**62).entries == 3
    with Tracker.load("run", journal=folder, sync="off") as tracker:
        for value in later:
            tracker.log_metric("loss", value)
    deliver(folder, remote)
    assert differences(folder, remote) == {}
    del remote.components["run"].points[2]
    assert differences(folder, remote) == {("different", "metric", "loss"): False}


def test_a_trial_that_a_component_was_taken_out_of_is_missing(folder, remote):
    """Only where this journal put it there: what is still to be sent is no claim."""
    with contextlib.closing(Journal.open(folder)) as journal:
        component = journal.component("run")
        journal.append(
            component,
            [vocabulary.create(owner="me"), vocabulary.associate(experiment=None, trial="first")],
        )
        deliver(folder, remote)
        journal.append(component, [vocabulary.associate(experiment=None, trial="second")])
    assert differences(folder, remote) == {}
    remote.disassociate("run", "first")
    assert differences(folder, remote) == {("missing", "trial", "first"): True}
