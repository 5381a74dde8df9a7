"""What counts and means that are read back prove about points in doubt."""

from __future__ import annotations

import random
import statistics
from array import array

import pytest

from journaltrack.replay.evidence.readback import (
    Account,
    Doubt,
    Known,
    ReadBack,
    Reading,
    Shown,
    judge,
)

SECOND_NS = 10**9
LATER = 2_000 * SECOND_NS
LONG_AGO = Reading(receipt_id=1, at_ns=100 * SECOND_NS, shown_at_ns=None)


def findings(
    doubts, known, shown, *, owner="me", readings=(LONG_AGO,), now_ns=LATER, visible_after_s=900
):
    """Of a component that only this journal writes to, read before a good while ago."""
    return judge(
        doubts,
        Account(known, owner, readings),
        shown,
        now_ns=now_ns,
        visible_after_s=visible_after_s,
    )


def outcomes(doubts, known, shown, **options):
    """By seq."""
    return {f.seq: f.outcome for f in findings(doubts, known, shown, **options)}


def doubt(seq, value, step=None, since_ns=0, receipt_id=0):
    """A point of the metric "loss"."""
    return Doubt(seq, "loss", value, step, since_ns, receipt_id)


def known(*values, until_ns=0, receipt_id=0):
    """Points that were acknowledged."""
    return Known(len(values), sum(values), sum(map(abs, values)), until_ns, receipt_id)


def by_step(**steps):
    """What is shown of the metric's steps."""
    return ReadBack(
        {}, {("loss", int(s[1:])): Shown(*shown) for s, shown in steps.items()}, frozenset({"loss"})
    )


def in_single(values):
    """Their mean as a service computes it that keeps and adds up 32 bits."""
    total = array("f", [0.0])
    for value in array("f", values):
        total[0] += value
    return array("f", [total[0] / len(values)])[0]


def test_a_step_with_its_value_arrived_and_an_empty_one_did_not():
    """Steps decide for themselves: one is shown with its value, the other is not shown long
    after it was sent.
    """
    found = outcomes([doubt(1, 0.5, 1), doubt(2, 0.25, 2)], {}, by_step(s1=(1, 0.5)))
    assert found == {1: "arrived", 2: "not arrived"}


@pytest.mark.parametrize("values", [[0.1] * 10, [0.1, 0.2, 0.3], [1e-30, 3e7, -0.1], [0.0, 0.0]])
@pytest.mark.parametrize(
    "mean", [statistics.fmean, lambda values: sum(values) / len(values), in_single]
)
def test_a_mean_that_is_rounded_is_recognised(values, mean):
    """Values whose sum is not exact, in double or in single precision, arrived all the same."""
    doubts = [doubt(seq, value, 1) for seq, value in enumerate(values)]
    tiny = min(filter(None, map(abs, values)), default=1.0) < 1e-9
    expected = None if tiny else "arrived"  # beside 3e7, a mean says nothing about 1e-30
    assert set(outcomes(doubts, {}, by_step(s1=(len(values), mean(values)))).values()) == {expected}


def test_a_metric_that_the_service_does_not_name_has_no_points():
    """Neither in all nor by step: long after, nothing arrived."""
    assert outcomes([doubt(1, 0.5)], {}, ReadBack()) == {1: "not arrived"}
    assert outcomes([doubt(1, 0.5, 3)], {}, ReadBack(by_step=frozenset({"loss"}))) == {
        1: "not arrived"
    }


# -- a service that shows late, and clocks
# ------------------------------------------------------------------------


def test_what_is_not_shown_soon_after_proves_nothing():
    """Within the time that a service may take to show it, an absent point stays in doubt; the
    reason says when it is asked again.
    """
    soon = Reading(5, LATER - SECOND_NS, None)
    (finding,) = findings(
        [doubt(1, 0.5, 1, LATER - 2 * SECOND_NS, 4)], {}, by_step(), readings=[soon]
    )
    assert finding.outcome is None
    assert "900 s" in finding.reason


@pytest.mark.parametrize("since_ns", [0, LATER + 10**12])
def test_the_first_reading_proves_no_absence(since_ns):
    """However old the request is by the clock, or if it is of the future: the clock may have
    been set since it was sent.
    """
    assert outcomes([doubt(1, 0.5, 1, since_ns)], {}, by_step(), readings=[]) == {1: None}


def test_the_clock_of_the_service_decides_where_it_is_told():
    """Ours was set forward by an hour between two readings: the service says that two seconds
    passed.
    """
    before = Reading(5, 100 * SECOND_NS, 7_000 * SECOND_NS)
    doubts = [doubt(1, 0.5, 1, 90 * SECOND_NS, 4)]
    for passed_s, expected in ((2, None), (900, None), (901, "not arrived")):
        shown = ReadBack(by_step=frozenset({"loss"}), at_ns=(7_000 + passed_s) * SECOND_NS)
        assert outcomes(doubts, {}, shown, readings=[before], now_ns=3_700 * SECOND_NS) == {
            1: expected
        }
    assert outcomes(doubts, {}, shown, readings=[before._replace(shown_at_ns=None)]) == {1: None}


@pytest.mark.parametrize("newest", [{"until_ns": LATER - 1}, {"receipt_id": 7}])
def test_points_acknowledged_since_a_reading_may_not_be_shown_yet(newest):
    """What is shown in their stead can be the point in doubt: a reading before them does not
    count.
    """
    account = {("loss", 1): known(0.5, **newest)}
    reading = Reading(6, 100 * SECOND_NS, None)
    assert outcomes(
        [doubt(1, 0.5, 1, 50 * SECOND_NS, 5)], account, by_step(s1=(1, 0.5)), readings=[reading]
    ) == {1: None}
    later = Reading(8, LATER - 1, None)
    options = {"readings": [reading, later], "now_ns": LATER + 900 * SECOND_NS}
    assert outcomes(
        [doubt(1, 0.5, 1, 50 * SECOND_NS, 5)], account, by_step(s1=(1, 0.5)), **options
    ) == {1: "not arrived"}


# -- several writers
# ----------------------------------------------------------------------------------------------


def test_equal_points_of_another_writer_prove_nothing():
    """Where others may write, a point that is there need not be ours; that none is there is as
    certain as ever.
    """
    doubts = [doubt(1, 0.5, 1), doubt(2, 0.25, 2)]
    found = findings(doubts, {}, by_step(s1=(1, 0.5)), owner=None)
    assert [f.outcome for f in found] == [None, "not arrived"]
    assert "other journals may write" in found[0].reason


def test_a_component_that_another_journal_made_is_not_ours_alone():
    """This one was told to attach to it, whatever its own create says."""
    shown = ReadBack({}, {("loss", 1): Shown(1, 0.5)}, frozenset({"loss"}))
    for owner, expected in (("me", "arrived"), ("other", None), ("", None)):
        there = ReadBack(shown.totals, shown.steps, shown.by_step, None, owner)
        assert outcomes([doubt(1, 0.5, 1)], {}, there) == {1: expected}


@pytest.mark.parametrize(
    "totals", [{"loss": Shown(3, 0.5)}, {"loss": Shown(1, 0.5), "theirs": Shown(1, 2.0)}]
)
def test_points_that_are_not_of_this_journal_show_another_writer(totals):
    """More of a metric than was sent, or a metric that was never logged: then no point that is
    there is certainly ours.
    """
    shown = ReadBack(totals, {("loss", 1): Shown(1, 0.5)}, frozenset({"loss"}))
    assert outcomes([doubt(1, 0.5, 1)], {}, shown) == {1: None}


@pytest.mark.parametrize("shown", [(1, 0.75), (2, 0.5), (3, 0.5), (1, float("nan"))])
def test_other_values_or_counts_prove_nothing(shown):
    """Another journal's points at the same step, or a double, leave it in doubt."""
    assert outcomes([doubt(1, 0.5, 1)], {}, by_step(s1=shown)) == {1: None}


# -- sums
# ------------------------------------------------------------------------------------------------


def test_known_points_of_the_step_are_counted():
    """A step that had points before: only what is beyond them is the one in doubt."""
    account = {("loss", 1): known(1.0, 2.0)}
    assert outcomes([doubt(1, 5.0, 1)], account, by_step(s1=(3, 8 / 3))) == {1: "arrived"}
    assert outcomes([doubt(1, 5.0, 1)], account, by_step(s1=(2, 1.5))) == {1: "not arrived"}
    assert outcomes([doubt(1, 5.0, 1)], account, by_step(s1=(1, 1.0))) == {1: None}


def test_without_steps_all_points_of_a_metric_decide_together():
    """Totals tell all or none."""
    account = {("loss", None): Known(10, 20.0, 20.0)}
    doubts = [doubt(1, 1.0), doubt(2, 2.0)]
    assert set(outcomes(doubts, account, ReadBack({"loss": Shown(12, 23 / 12)})).values()) == {
        "arrived"
    }
    assert set(outcomes(doubts, account, ReadBack({"loss": Shown(10, 2.0)})).values()) == {
        "not arrived"
    }
    assert set(outcomes(doubts, account, ReadBack({"loss": Shown(11, 21 / 11)})).values()) == {None}


@pytest.mark.parametrize("value", [1.0, 1.01, 0.0])
def test_a_mean_over_many_points_does_not_prove_one_more(value):
    """Whatever the twenty-thousand-and-first is: rounding may hide it, and so it may be another
    one's.
    """
    account = {("loss", None): Known(20_000, 20_000.0, 20_000.0)}
    shown = ReadBack({"loss": Shown(20_001, (20_000 + value) / 20_001)})
    assert outcomes([doubt(1, 1.0)], account, shown) == {1: None}


def test_a_small_value_beside_a_large_one_is_not_proven_by_their_mean():
    """Single precision has no room for it."""
    account = {("loss", 1): known(1e6)}
    assert outcomes([doubt(1, 1e-3, 1)], account, by_step(s1=(2, (1e6 + 1e-3) / 2))) == {1: None}
    assert outcomes([doubt(1, 1e3, 1)], account, by_step(s1=(2, (1e6 + 1e3) / 2))) == {1: "arrived"}


def test_points_with_and_without_steps_of_one_metric():
    """What the steps decide counts as known when the total decides about the rest."""
    shown = ReadBack({"loss": Shown(2, 1.5)}, {("loss", 7): Shown(1, 1.0)}, frozenset({"loss"}))
    assert outcomes([doubt(1, 1.0, 7), doubt(2, 2.0)], {}, shown) == {1: "arrived", 2: "arrived"}


def test_points_without_a_step_wait_for_those_with_one():
    """While a step of the metric is undecided, a sum over all its points proves nothing."""
    shown = ReadBack({"loss": Shown(2, 1.5)}, {("loss", 7): Shown(1, 9.0)}, frozenset({"loss"}))
    assert outcomes([doubt(1, 1.0, 7), doubt(2, 1.5), doubt(3, 1.5)], {}, shown) == {
        1: None,
        2: None,
        3: None,
    }


@pytest.mark.parametrize("seed", range(20))
def test_no_subset_that_arrived_is_ever_misjudged(seed):
    """Whatever points arrived, known ones and another writer's in between: none is called there
    or absent that is not.
    """
    chance = random.Random(seed)
    for _ in range(50):
        points = [
            (seq, chance.choice([1.0, 1.0, chance.uniform(-5, 5)]), chance.choice([None, 1, 2, 3]))
            for seq in range(chance.randint(1, 8))
        ]
        shared = chance.random() < 0.5
        fates = {
            seq: chance.choice(["known", "arrived", "lost", *(["theirs"] if shared else [])])
            for seq, _, _ in points
        }
        there = [(value, step) for seq, value, step in points if fates[seq] != "lost"]
        account = {}
        for seq, value, step in points:
            if fates[seq] == "known":
                for group in {("loss", step), ("loss", None)}:
                    before = account.get(group, Known())
                    account[group] = Known(
                        before.points + 1, before.sum + value, before.magnitude + abs(value)
                    )
        shown = ReadBack(
            {"loss": Shown(len(there), sum(v for v, _ in there) / len(there))} if there else {},
            {
                ("loss", s): Shown(len(values), sum(values) / len(values))
                for s in (1, 2, 3)
                if (values := [v for v, step in there if step == s])
            },
            frozenset({"loss"}) if chance.random() < 0.7 else frozenset(),
        )
        doubts = [
            doubt(seq, value, step)
            for seq, value, step in points
            if fates[seq] in {"arrived", "lost"}
        ]
        for seq, outcome in outcomes(
            doubts, account, shown, owner=None if shared else "me"
        ).items():
            if outcome is not None:
                assert outcome == {"arrived": "arrived", "lost": "not arrived"}[fates[seq]], (
                    points,
                    fates,
                )
