"""What was delivered against what a remote says: each difference by its name, and nothing that
is none.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.journal.fold import Artifact, Status
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay.remote import RemoteComponent, RemoteMetric, RemoteObject
from journaltrack.verification.diff import (
    Claims,
    FieldClaim,
    MetricClaim,
    ObjectClaim,
    StatusClaim,
    compare,
    compare_object,
    empty_steps,
)

AT_NS = 1_700_000_000_123_456_789
SHA = "a" * 64
BLOB = BlobRef(SHA, None, None)
MINE = Claims(1, "run", 0, owner="us", exclusive=True)
THERE = RemoteComponent("run", "arn", "us")


def found(claims, component, *, shown_until_ns=AT_NS, logged=lambda _name, _value: False):
    """Differences as (kind, what, name)."""
    differences = compare(claims, component, shown_until_ns=shown_until_ns, logged=logged)
    return [(each.kind, each.what, each.name) for each in differences]


def claiming(**fields):
    return dataclasses.replace(MINE, **fields)


def there(**fields):
    return dataclasses.replace(THERE, **fields)


@pytest.mark.parametrize(
    ("claimed", "held", "kind"),
    [
        (0.1, 0.1, None),
        (0.1, 0.1000000001, "different"),
        (-0.0, 0.0, None),
        (1.0, "1.0", "different"),
        ("1.0", 1.0, "different"),
        ("", "", None),
        ("a", "b", "different"),
    ],
)
def test_parameters_compare_as_doubles_and_as_text(claimed, held, kind):
    """A double is compared exactly, text by its characters, and one is never the other."""
    claims = claiming(fields={("parameters", "p"): FieldClaim(claimed, 7)})
    assert found(claims, there(parameters={"p": held})) == (
        [] if kind is None else [(kind, "parameter", "p")]
    )


def test_a_later_value_that_was_perhaps_sent_is_no_difference():
    """An update whose answer was lost may have taken effect: the later entry's value is as good,
    any other is not.
    """
    claims = claiming(
        fields={("parameters", "p"): FieldClaim(1.0, 7, (2.0,))},
        named=frozenset({("parameters", "q")}),
    )
    assert found(claims, there(parameters={"p": 2.0, "q": 5.0})) == []
    assert found(claims, there(parameters={"p": 3.0})) == [("different", "parameter", "p")]


def test_artifacts_compare_with_their_media_type():
    """The value and the media type as they were sent."""
    claims = claiming(
        fields={("output_artifacts", "a"): FieldClaim(Artifact("s3://b/k", "text/csv"), 7)}
    )
    assert found(claims, there(output_artifacts={"a": Artifact("s3://b/k", "text/csv")})) == []
    (difference,) = compare(
        claims,
        there(output_artifacts={"a": Artifact("s3://b/k")}),
        shown_until_ns=AT_NS,
        logged=lambda *_: False,
    )
    assert (difference.kind, difference.expected, difference.found) == (
        "different",
        "s3://b/k (text/csv)",
        "s3://b/k (None)",
    )
    assert found(claims, there(input_artifacts={"a": Artifact("s3://b/k")})) == [
        ("missing", "output", "a"),
        ("extra", "input", "a"),
    ]


@pytest.mark.parametrize(
    ("held", "names"),
    [
        (Status("Completed", None, AT_NS, AT_NS), []),
        (Status("Completed", "", AT_NS - 900_000, AT_NS + 900_000), []),
        (Status("Completed", "text", AT_NS, AT_NS), ["message"]),
        (Status("Failed", None, AT_NS, AT_NS + 10_000_000), ["status", "end"]),
        (None, ["status", "start", "end"]),
    ],
)
def test_status_and_times(held, names):
    """Times are compared to the millisecond; a message that nobody sent is a difference, one
    that is empty is none.
    """
    claims = claiming(status=StatusClaim(Status("Completed", None, AT_NS, AT_NS), 7))
    assert [name for _, _, name in found(claims, there(status=held))] == names


def test_what_this_journal_never_said_is_not_claimed():
    """Without a status of ours, whatever the remote has is no difference; nor is an end that was
    not sent.
    """
    held = there(status=Status("Failed", "x", 1, 2), display_name="Name")
    assert found(MINE, held) == []
    assert found(claiming(status=StatusClaim(Status(None, None, 1), 7)), held) == []


CLAIM = MetricClaim(points=3, minimum=-1.0, maximum=4.0, last=2.0, settled_at_ns=AT_NS)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (RemoteMetric(3, -1.0, 4.0, 2.0, 1.0), []),
        (RemoteMetric(3, -1.0000000001, 4.0000000001, 2.0, 1.0), []),
        (RemoteMetric(3, -1.0, 4.0, -1.0, 1.0), []),  # one of ours that arrived last
        (RemoteMetric(3, -1.0, 4.0, 3.0, 1.0), [("different", "metric", "m: last")]),
        (RemoteMetric(3, -2.0, 4.0, 2.0, 1.0), [("different", "metric", "m: min")]),
        (RemoteMetric(3, -1.0, 3.0, 2.0, 1.0), [("different", "metric", "m: max")]),
        (RemoteMetric(2, -1.0, 4.0, 2.0, 1.0), [("different", "metric", "m")]),
        (RemoteMetric(5, -9.0, 9.0, 9.0, 1.0), [("extra", "metric", "m")]),
        (
            RemoteMetric(5, 0.0, 9.0, 9.0, 1.0),
            [("extra", "metric", "m"), ("different", "metric", "m: min")],
        ),
        (RemoteMetric(0, 0.0, 0.0, 0.0, 0.0), [("missing", "metric", "m")]),
        (None, [("missing", "metric", "m")]),
    ],
)
def test_metrics_by_count_extremes_and_last(held, expected):
    """Fewer points are a difference, more are extra; extremes fit the points, and the last value
    is one of ours.
    """
    metrics = {} if held is None else {"m": held}
    logged = lambda _name, value: value in {-1.0, 2.0, 4.0}  # noqa: E731
    assert found(claiming(metrics={"m": CLAIM}), there(metrics=metrics), logged=logged) == expected


@pytest.mark.parametrize("points", [3, 4, 5])
def test_points_in_doubt_widen_what_is_acceptable(points):
    """From those delivered to those delivered and in doubt, with the extremes of either; beyond
    that is extra.
    """
    claims = claiming(
        metrics={"m": dataclasses.replace(CLAIM, in_doubt=2, doubt_minimum=-7.0, doubt_maximum=7.0)}
    )
    low, high = (-1.0, 4.0) if points == 3 else (-7.0, 7.0)
    assert found(claims, there(metrics={"m": RemoteMetric(points, low, high, 2.0, 1.0)})) == []
    assert found(claims, there(metrics={"m": RemoteMetric(points, -9.0, high, 2.0, 1.0)})) == [
        ("different", "metric", "m: min")
    ]


def test_points_in_doubt_alone_claim_nothing():
    """A metric of which nothing is acknowledged may be there or not."""
    claims = claiming(metrics={"m": MetricClaim(in_doubt=2, doubt_minimum=1.0, doubt_maximum=1.0)})
    assert found(claims, THERE) == []
    assert found(claims, there(metrics={"m": RemoteMetric(2, 1.0, 1.0, 1.0, 1.0)})) == []


def test_recent_points_that_are_not_shown_are_unknown():
    """Delivered later than what the service shows for certain: unknown, and nothing to repair."""
    (difference,) = compare(
        claiming(metrics={"m": CLAIM}), THERE, shown_until_ns=AT_NS - 1, logged=lambda *_: False
    )
    assert (difference.kind, difference.repairable) == ("unknown", False)


def test_whose_component_it_is_decides_what_may_be_repaired():
    """Ours: all. One that others write to: what is missing, not what differs. One that somebody
    else made in its place: nothing.
    """
    fields = {
        ("parameters", "gone"): FieldClaim(1.0, 7),
        ("parameters", "other"): FieldClaim(1.0, 8),
    }
    metrics = {"m": CLAIM}
    held = there(parameters={"other": 2.0})

    def repairable(claims, component):
        differences = compare(claims, component, shown_until_ns=AT_NS, logged=lambda *_: False)
        return {each.name for each in differences if each.repairable}

    assert repairable(claiming(fields=fields, metrics=metrics), held) == {"gone", "other", "m"}
    loaded = claiming(owner=None, exclusive=False, fields=fields, metrics=metrics)
    assert repairable(loaded, held) == {"gone", "m"}
    resumed = claiming(exclusive=False, fields=fields, metrics=metrics)
    assert repairable(resumed, dataclasses.replace(held, owner="they")) == {"gone", "m"}
    assert (
        repairable(
            claiming(fields=fields, metrics=metrics), dataclasses.replace(held, owner="they")
        )
        == set()
    )
    assert repairable(claiming(fields=fields), None) == {"run"}
    assert repairable(loaded, None) == set()


def test_a_display_name_is_claimed_for_our_own_create_alone():
    """Of a component that somebody else made the name is theirs."""
    claims = claiming(exclusive=False, display_name="Ours")
    assert found(claims, there(display_name="Ours")) == []
    assert found(claims, there(display_name="Theirs")) == [("different", "display name", None)]
    assert found(claims, there(owner="they", display_name="Theirs")) == []


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (None, "missing"),
        (RemoteObject(7, SHA, SHA), None),
        (RemoteObject(7, SHA, None), None),
        (RemoteObject(7, None, SHA), None),
        (RemoteObject(7, None, None), "different"),
        (RemoteObject(6, None, SHA), "different"),
        (RemoteObject(7, "b" * 64, SHA), "different"),
    ],
)
def test_objects_by_digest_size_and_note(held, kind):
    """A digest of the store decides; without one, size and the note of ours have to fit."""
    difference = compare_object(MINE, ObjectClaim("s3://b/k", BLOB, 7, in_spool=True), held)
    assert (difference.kind if difference else None) == kind


def test_an_object_without_its_blob_is_not_repairable():
    """What is no longer in the spool can't be sent again."""
    difference = compare_object(MINE, ObjectClaim("s3://b/k", BLOB, 7, in_spool=False), None)
    assert difference is not None
    assert not difference.repairable
    assert "restore-from" in difference.note


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    st.integers(0, 60),
)
def test_only_steps_of_which_nothing_is_shown_are_empty(delivered, shown, points):
    """Exactly the steps that were delivered and are not shown, and none unless all that is there
    is accounted for.
    """
    intervals = empty_steps(delivered, shown, points)
    steps = [step for first, last in intervals for step in range(first, last + 1)]
    assert steps == (
        sorted(delivered.keys() - shown.keys()) if sum(shown.values()) == points else []
    )
