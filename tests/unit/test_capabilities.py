"""A pass follows what its remote can do, whichever service that is."""

from __future__ import annotations

import math

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.replay.evidence.outcomes import Intent, Settlement
from journaltrack.replay.lease import acquire
from journaltrack.replay.plan import planner
from journaltrack.replay.plan.actions import AddTags, PutMetrics, PutPoints, Settle, Update
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.replay.remote import Capabilities
from tests.builders import CREATION, points
from tests.failing_remote import FailingRemote, passing

pytestmark = pytest.mark.fast


def can(**told):
    """A remote without limits, on which points repeat."""
    given = {"service": "Other", "points_max": 1000, "repeatable": True, "keys_max": {}}
    return Capabilities(**given | {"refuses": lambda _: None, "documents": False} | told)


def planned(journal, capabilities):
    """What a pass would send of everything in the journal."""
    return planner.plan(journal.entries(), {}, can=capabilities)


class Repeating(FailingRemote):
    """Keeps repeated points once."""

    def __init__(self, **told):
        super().__init__()
        self.can = can(**told)


@pytest.mark.journal({"run": [CREATION, *points(25)]})
def test_requests_of_metrics_are_as_large_as_the_remote_takes_them(journal):
    """Requests have the remote's number of points, and no point is left out or in two of them."""
    for most in (1, 10, 1000):
        sent = [a for a in planned(journal, can(points_max=most)) if isinstance(a, PutMetrics)]
        assert [len(each.points) for each in sent][:-1] == [most] * (len(sent) - 1)
        assert [seq for each in sent for seq in each.seqs] == list(range(2, 27))


@pytest.mark.journal(
    {"run": [CREATION, *(each for n in range(7) for each in points(3, f"metric-{n}"))]}
)
def test_a_request_has_no_more_names_than_the_remote_takes(journal):
    """Each request has at most so many names, and all points are in one, in order."""
    for most in (1, 2, 5, 100):
        sent = [a for a in planned(journal, can(names_max=most)) if isinstance(a, PutMetrics)]
        assert all(len({p.name for p in each.points}) <= most for each in sent)
        assert [seq for each in sent for seq in each.seqs] == list(range(2, 23))


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_points_that_repeat_are_another_action_than_points_that_do_not(journal):
    """Who finds an intent knows by its action alone whether it may be sent again."""
    (repeating,) = [a for a in planned(journal, can()) if isinstance(a, PutMetrics)]
    (once,) = [a for a in planned(journal, can(repeatable=False)) if isinstance(a, PutMetrics)]
    assert isinstance(repeating, PutPoints)
    assert (repeating.idempotent, once.idempotent) == (True, False)
    assert repeating.action != once.action
    assert isinstance(repeating.split()[0], PutPoints)


@pytest.mark.journal({"run": [CREATION, vocabulary.metric("loss", math.nan, 3, 1_000)]})
def test_nan_is_sent_to_a_remote_that_takes_it(journal):
    """The point has the value that was logged, although the journal's own remote refuses it."""
    (sent,) = [a for a in planned(journal, can()) if isinstance(a, PutMetrics)]
    assert math.isnan(sent.points[0].value)
    assert sent.points[0][2:] == (3, 1_000)
    refused = [a for a in planner.plan(journal.entries(), {}) if isinstance(a, Settle)]
    assert [a.outcome for a in refused] == ["quarantined"]


@pytest.mark.journal(
    {
        "run": [
            CREATION,
            *(vocabulary.parameter(f"p{n}", n) for n in range(400)),
            vocabulary.parameter("long", "x\n" * 2000),
        ]
    }
)
def test_limits_of_keys_and_values_are_the_remotes_own(journal):
    """A remote without SageMaker's limits gets every parameter in the update."""
    (sent,) = [a for a in planned(journal, can()) if isinstance(a, Update)]
    assert len(sent.fields().parameters) == 401
    settled = [
        a for a in planned(journal, can(keys_max={"parameters": 7})) if isinstance(a, Settle)
    ]
    assert sum(len(a.seqs) for a in settled) == 394


@pytest.mark.journal(
    {
        "run": [
            CREATION,
            vocabulary.note("first"),
            vocabulary.tags({"team": "a"}),
            vocabulary.note("last"),
        ]
    }
)
def test_a_note_is_a_tag_where_the_remote_shows_notes(journal):
    """The last note is sent as the remote's tag, beside the tags; elsewhere it stays here."""
    (sent,) = [a for a in planned(journal, can(note_tag="the-note")) if isinstance(a, AddTags)]
    assert sent.tags == {"team": "a", "the-note": "last"}
    (bare,) = [a for a in planned(journal, can()) if isinstance(a, AddTags)]
    assert bare.tags == {"team": "a"}


@pytest.mark.journal({"run": [CREATION, *points(30)]})
def test_repeating_points_without_an_answer_are_sent_again_and_never_in_doubt(journal):
    """After a lost answer the same points are pending, and the next pass delivers them."""
    remote = Repeating(points_max=10)
    remote.failures["put_metrics"].extend([passing(maybe_applied=True), None, None])
    first = Reconciler(journal, remote, options=Options()).run()
    assert (first.in_doubt, first.quarantined, first.pending) == (0, 0, 10)
    second = Reconciler(journal, remote, options=Options()).run()
    assert (second.in_doubt, second.pending, second.delivered) == (0, 0, 10)
    assert len(remote.components["run"].points) == 30


@pytest.mark.parametrize("action", [PutPoints.action, PutMetrics.action])
@pytest.mark.journal({"run": [CREATION, *points(4)]})
def test_only_an_intent_of_points_that_repeat_leaves_nothing_in_doubt(journal, action):
    """What a killed pass left in flight is sent again if it may be, by the name of its action."""
    lease = acquire(journal.database)
    Settlement(journal.database, lease).begin([Intent(action, 1, (2, 3, 4, 5))])
    lease.release()
    report = Reconciler(journal, Repeating(), options=Options()).run()
    in_doubt = 0 if action == PutPoints.action else 4
    assert (report.in_doubt, report.delivered, report.pending) == (in_doubt, 5 - in_doubt, 0)


@pytest.mark.journal(
    {
        "run": [
            CREATION,
            *(vocabulary.metric("loss", 1.0, 5, at) for at in (1_000_000, 1_000_001, 2_000_000)),
        ]
    }
)
def test_points_that_the_remote_counts_as_one_are_told(journal):
    """A delivered point that equals an earlier one in the remote's times says so."""
    Reconciler(journal, Repeating(time_ns=1_000_000), options=Options()).run()
    told = journal.database.read("SELECT seq, outcome, reason FROM delivery WHERE seq > 1")
    assert [(seq, outcome, reason is not None) for seq, outcome, reason in told] == [
        (2, "delivered", False),
        (3, "delivered", True),
        (4, "delivered", False),
    ]


@pytest.mark.journal({"run": [CREATION, *points(3)]})
def test_a_refused_point_is_isolated_in_a_large_request(journal):
    """A remote that takes all of a request or nothing loses no other point by a bad one."""

    class Strict(Repeating):
        """Refuses a request with the step 1."""

        def put_metrics(self, component, points):
            if any(point.step == 1 for point in points):
                raise RemoteError("no", kind=ErrorKind.PERMANENT, code="INVALID")
            return super().put_metrics(component, points)

    report = Reconciler(journal, Strict(), options=Options()).run()
    assert (report.quarantined, report.pending) == (1, 0)
