"""What pending entries are turned into."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Artifact, PendingArtifact, Status
from journaltrack.journal.vocabulary import BlobRef, Draft, Entry
from journaltrack.replay.plan import planner as planning
from journaltrack.replay.plan.actions import (
    Associate,
    ComponentState,
    Ensure,
    PutMetrics,
    Settle,
    Update,
    Upload,
)
from journaltrack.util.intervals import as_intervals, as_text, ranges_in

CONFIRMED = {1: ComponentState(confirmed=True), 2: ComponentState(confirmed=True)}
BLOB = BlobRef("ab" * 32, None, None)


def recorded(*drafts: Draft, component_id: int = 1, start: int = 1) -> list[Entry]:
    """The drafts as a journal would hold them."""
    return [
        Entry(
            seq,
            1,
            seq,
            component_id,
            f"component-{component_id}",
            *draft[:7],
            recorded_at_ns=1_000 + seq,
            digest=b"",
        )
        for seq, draft in enumerate(drafts, start)
    ]


def test_ten_thousand_parameters_become_one_create_and_one_update():
    """Any number of parameter calls of a component fold into a single update request."""
    drafts = [
        vocabulary.create(owner="me"),
        *(vocabulary.parameter(f"p{i % 300}", i) for i in range(10_000)),
    ]
    actions = planning.plan(recorded(*drafts), {})
    assert [type(a) for a in actions] == [Ensure, Update]
    assert actions[1].fields().parameters == {f"p{i % 300}": float(i) for i in range(10_000)}
    assert list(actions[1].seqs) == list(range(2, 10_002))


def test_last_call_per_key_wins_and_names_the_ones_it_overrides():
    """A later value replaces an earlier one of the same key; the earlier entry is settled with
    it.
    """
    entries = recorded(
        vocabulary.parameter("lr", 0.1),
        vocabulary.parameter("opt", "sgd"),
        vocabulary.parameter("lr", 0.2),
    )
    (update,) = planning.plan(entries, CONFIRMED)
    assert update.fields().parameters == {"lr": 0.2, "opt": "sgd"}
    assert {c.key: (c.seq, c.superseded) for c in update.changes} == {
        "lr": (3, (1,)),
        "opt": (2, ()),
    }


def test_metrics_go_ten_to_a_request_in_order_and_per_component():
    """Metric requests hold at most ten points of one component, in the order of the calls."""
    mine = recorded(*(vocabulary.metric("loss", i, i, i) for i in range(23)))
    theirs = recorded(
        *(vocabulary.metric("loss", i, i, i) for i in range(5)), component_id=2, start=100
    )
    actions = planning.plan(sorted(mine + theirs, key=lambda e: e.seq), CONFIRMED)
    assert [(a.component_id, len(a.points)) for a in actions] == [(1, 10), (1, 10), (1, 3), (2, 5)]
    assert [p.value for a in actions[:3] for p in a.points] == [float(i) for i in range(23)]
    assert [s for a in actions[:3] for s in a.seqs] == list(range(1, 24))


def test_component_comes_first_and_uploads_before_references():
    """Phases order creation before everything, uploads before the update that names them."""
    drafts = [
        vocabulary.metric("loss", 1, 1, 1),
        vocabulary.upload("model", BLOB, 3, None, "model.bin"),
        vocabulary.artifact("output", "model", BLOB, None),
        vocabulary.associate(experiment="e", trial="t"),
        vocabulary.create(owner="me"),
    ]
    actions = planning.plan(recorded(*drafts), {})
    kinds = [type(a) for a in actions]
    assert kinds[0] is Ensure
    assert set(kinds[1:3]) == {Upload, Associate}
    assert set(kinds[3:]) == {Update, PutMetrics}


def test_same_content_is_uploaded_once_per_component():
    """Two uploads of one content make one request, or none when it is known to be there."""
    drafts = [
        vocabulary.upload("a", BLOB, 3, None, "a"),
        vocabulary.upload("b", BLOB, 3, None, "b"),
    ]
    (upload,) = planning.plan(recorded(*drafts), CONFIRMED)
    assert upload.name == "a"
    assert upload.seqs == (1, 2)
    known = {1: ComponentState(confirmed=True, locations={BLOB: ("s3://b/k", 7)})}
    (settled,) = planning.plan(recorded(*drafts), known)
    assert isinstance(settled, Settle)
    assert (settled.outcome, settled.receipt_id, settled.seqs) == ("superseded", 7, (1, 2))


def test_reference_waits_for_its_upload_and_the_rest_does_not():
    """Without the blob's location its reference is left out of the update and stays pending;
    other keys go.
    """
    drafts = [
        vocabulary.artifact("output", "model", BLOB, "text/plain"),
        vocabulary.parameter("lr", 1),
    ]
    (update,) = planning.plan(recorded(*drafts), CONFIRMED)
    partial, orphans = planning.resolve(update, ComponentState())
    assert partial is not None
    assert [c.key for c in partial.changes] == ["lr"]
    assert orphans == []
    whole, _ = planning.resolve(update, ComponentState(locations={BLOB: ("s3://b/k", 1)}))
    assert whole is not None
    assert whole.fields().output_artifacts == {"model": Artifact("s3://b/k", "text/plain")}


def test_in_turns_an_update_is_what_can_be_sent_and_what_follows_the_uploads():
    """A dry run counts both requests; nothing waits when the upload is done, and other actions
    stay as they are.
    """
    drafts = [
        vocabulary.artifact("output", "model", BLOB, None),
        vocabulary.upload("model", BLOB, 3, None, "f"),
        vocabulary.parameter("lr", 1),
    ]
    upload, update = planning.plan(recorded(*drafts), CONFIRMED)
    assert list(planning.in_turns(upload, ComponentState())) == [upload]
    turns = list(planning.in_turns(update, ComponentState()))
    assert [[c.key for c in turn.changes] for turn in turns if isinstance(turn, Update)] == [
        ["lr"],
        ["model"],
    ]
    assert (
        len(list(planning.in_turns(update, ComponentState(locations={BLOB: ("s3://b/k", 1)})))) == 1
    )


def test_reference_to_a_refused_upload_is_quarantined():
    """When the upload of a content is quarantined, what refers to it can't wait for ever."""
    (update,) = planning.plan(
        recorded(vocabulary.artifact("output", "model", BLOB, None)), CONFIRMED
    )
    nothing, orphans = planning.resolve(update, ComponentState(refused=frozenset({BLOB})))
    assert nothing is None
    assert [(o.outcome, o.seqs) for o in orphans] == [("quarantined", (1,))]


def test_status_calls_fold_into_one_with_both_times():
    """Start and end of a run in one replay become one status with both times and the last state."""
    drafts = [
        vocabulary.status(primary="InProgress", start_ns=1),
        vocabulary.status(primary="Failed", message="boom", end_ns=2),
    ]
    (update,) = planning.plan(recorded(*drafts), CONFIRMED)
    assert update.fields().status == Status("Failed", "boom", 1, 2)


def test_later_status_does_not_inherit_an_earlier_message():
    """A run that failed, was resumed and completed does not keep the message of its failure."""
    drafts = [
        vocabulary.status(primary="Failed", message="boom"),
        vocabulary.status(primary="Completed"),
    ]
    (update,) = planning.plan(recorded(*drafts), CONFIRMED)
    assert update.fields().status == Status("Completed", None)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (vocabulary.metric("loss", float("nan"), 1, 1), "NaN"),
        (vocabulary.metric("a\nb", 1, 1, 1), "line break"),
        (vocabulary.artifact("input", "i", "v" * 2_049, None), "2048"),
        (vocabulary.artifact("input", "i", "", None), "empty"),
        (Draft("component", "parameter", "p", payload="{not json"), "can't be read"),
        (Draft("component", "parameter", "p", payload="[1]"), "can't be read"),
        (Draft("component", "create", payload="{}"), "can't be read"),
        (Draft("upload", "upload", "u", payload='{"sha256":"../../etc/passwd"}'), "can't be read"),
        (
            Draft(
                "component",
                "parameter",
                "p",
                payload='{"text":"x","a":[' + '"",' * 2_200_000 + '""]}',
            ),
            "outside of its texts",
        ),
        (
            Draft("component", "status", payload='{"primary":"Completed","end_ns":-1}'),
            "'end_ns' in the payload is before 1970",
        ),
        (
            Draft("component", "status", payload='{"start_ns":253402300800000000000}'),
            "'start_ns' in the payload is before 1970 or after 9999",
        ),
    ],
)
def test_what_can_never_be_accepted_is_quarantined_and_nothing_else(draft, reason):
    """An entry that AWS could never take, or that can't be read, is settled with the reason; the
    others are sent.
    """
    actions = planning.plan(recorded(draft, vocabulary.metric("loss", 1, 1, 1)), CONFIRMED)
    refused = [a for a in actions if isinstance(a, Settle)]
    assert [(a.outcome, a.seqs) for a in refused] == [("quarantined", (1,))]
    assert reason in refused[0].reason.replace(",", "")
    assert [a.seqs for a in actions if isinstance(a, PutMetrics)] == [(2,)]


@pytest.mark.parametrize(
    "value", ["x" * 2_501, "a\nb", "\ud800", float("inf"), float("nan"), 10**2_500]
)
def test_a_parameter_that_does_not_fit_is_settled_as_in_the_file(value):
    """It is not sent, and refused by nobody; one whose name can't be sent is quarantined."""
    drafts = [vocabulary.parameter("p", value), vocabulary.parameter("lr", 1)]
    settled, update = planning.plan(recorded(*drafts), CONFIRMED)
    assert (settled.outcome, settled.seqs) == ("superseded", (1,))
    assert settled.reason == vocabulary.IN_FILE
    assert update.seqs == (2,)
    crafted = recorded(vocabulary.parameter("a\nb", value))
    assert [a.outcome for a in planning.plan(crafted, CONFIRMED)] == ["quarantined"]


def test_more_parameters_than_the_limit_go_into_the_file_counting_what_is_there():
    """The 301st parameter of a component is not sent, whoever of earlier replays brought the
    others.
    """
    state = {
        1: ComponentState(
            confirmed=True, keys={"parameters": frozenset(f"old{i}" for i in range(299))}
        )
    }
    drafts = [
        vocabulary.parameter("old0", 1),
        vocabulary.parameter("new", 1),
        vocabulary.parameter("too many", 1),
    ]
    actions = planning.plan(recorded(*drafts), state)
    assert [(a.seqs, a.reason) for a in actions if isinstance(a, Settle)] == [
        ((3,), vocabulary.IN_FILE)
    ]
    assert [a.seqs for a in actions if isinstance(a, Update)] == [(1, 2)]


def test_unknown_kind_of_entry_is_left_alone():
    """What a newer version recorded is in no action, so it stays pending."""
    entries = recorded(
        Draft("component", "annotation@2", "x", payload="{}"), vocabulary.parameter("lr", 1)
    )
    assert [s for a in planning.plan(entries, CONFIRMED) for s in a.seqs] == [2]


@pytest.mark.parametrize(
    ("drafts", "mode"),
    [
        ([vocabulary.create(owner="me")], "create"),
        ([vocabulary.create(owner="me"), vocabulary.create(owner="me2", resume=True)], "resume"),
        ([vocabulary.load()], "load"),
        ([vocabulary.load(job=True)], "job"),
        ([vocabulary.load(), vocabulary.create(owner="me")], "resume"),
        ([vocabulary.parameter("lr", 1)], "load"),
    ],
)
def test_how_a_component_came_to_be_decides_how_it_is_ensured(drafts, mode):
    """Created, resumed, loaded and job components are ensured differently."""
    ensure = planning.plan(recorded(*drafts), {})[0]
    assert isinstance(ensure, Ensure)
    assert ensure.mode == mode
    assert ensure.describe_first == (mode != "create")


def test_unknown_outcome_of_a_create_is_looked_up_first():
    """After an attempt whose outcome is unknown the component is described before it is created
    again.
    """
    ensure = planning.plan(
        recorded(vocabulary.create(owner="me")), {1: ComponentState(create_attempted=True)}
    )[0]
    assert isinstance(ensure, Ensure)
    assert ensure.describe_first


DRAFTS = st.one_of(
    st.builds(
        vocabulary.parameter,
        st.sampled_from("abc"),
        st.floats(allow_nan=True) | st.text(max_size=5) | st.integers(),
    ),
    st.builds(
        vocabulary.metric,
        st.sampled_from(["loss", "acc"]),
        st.floats(),
        st.none() | st.integers(0, 9),
        st.integers(0, 10**18),
    ),
    st.builds(
        vocabulary.artifact,
        st.sampled_from(["input", "output"]),
        st.sampled_from("xy"),
        st.just(BLOB) | st.text(max_size=4),
        st.none(),
    ),
    st.builds(
        vocabulary.upload, st.sampled_from("xy"), st.just(BLOB), st.just(3), st.none(), st.just("f")
    ),
    st.builds(vocabulary.status, primary=st.sampled_from(["InProgress", "Failed"])),
    st.builds(vocabulary.create, owner=st.just("me")),
)


@given(st.lists(st.tuples(DRAFTS, st.integers(1, 3)), max_size=60))
def test_every_entry_is_in_exactly_one_action(calls):
    """No entry is lost by planning and none is settled twice."""
    entries = [
        recorded(draft, component_id=component_id)[0]._replace(seq=seq)
        for seq, (draft, component_id) in enumerate(calls, 1)
    ]
    actions = planning.plan(entries, {})
    assert sorted(s for a in actions for s in a.seqs) == [e.seq for e in entries]
    turns = [turn for a in actions for turn in planning.in_turns(a, ComponentState())]
    assert sorted(s for turn in turns for s in turn.seqs) == [e.seq for e in entries]


@pytest.mark.slow
@given(st.lists(DRAFTS, min_size=1, max_size=40))
def test_splitting_loses_nothing_and_ends(drafts):
    """Halving an action again and again ends in single changes or points that together settle
    the same entries.
    """
    for action in planning.plan(recorded(*drafts), CONFIRMED):
        if isinstance(action, Settle):
            continue
        todo, leaves = [action], []
        while todo:
            current = todo.pop()
            halves = current.split()
            todo += halves
            leaves += [] if halves else [current]
        assert sorted(itertools.chain.from_iterable(leaf.seqs for leaf in leaves)) == sorted(
            action.seqs
        )


@given(st.lists(st.integers(1, 10**6), unique=True))
def test_ranges_read_back_the_same(seqs):
    """Sequence numbers survive their compact form."""
    assert [
        seq
        for first, last in ranges_in(as_text(as_intervals(seqs)))
        for seq in range(first, last + 1)
    ] == sorted(seqs)


def test_pending_artifact_is_never_sent_unresolved():
    """An update's fields leave out a reference whose blob has no location."""
    (update,) = planning.plan(
        recorded(vocabulary.artifact("output", "model", BLOB, None)), CONFIRMED
    )
    assert isinstance(update.changes[0].value, PendingArtifact)
    assert update.fields().output_artifacts == {}
    assert (
        json.loads(recorded(vocabulary.artifact("output", "m", BLOB, None))[0].payload or "")[
            "sha256"
        ]
        == BLOB.sha256
    )
