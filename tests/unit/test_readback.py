"""What counts and means that are read back prove about points in doubt."""

from __future__ import annotations

import random

import pytest

from journaltrack.readback import Doubt, Known, ReadBack, Shown, judge

LATER = 2_000 * 10**9
HOUR_S = 3_600.0


def outcomes(doubts, known, shown, **options):
    """By seq."""
    return {f.seq: f.outcome for f in judge(doubts, known, shown, **{"now_ns": LATER, "visible_after_s": 900} | options)}


def doubt(seq, value, step=None, since_ns=0):
    """A point of the metric "loss"."""
    return Doubt(seq, "loss", value, step, since_ns)


def by_step(**steps):
    """What is shown of the metric's steps."""
    return ReadBack({}, {("loss", int(s[1:])): Shown(*shown) for s, shown in steps.items()}, frozenset({"loss"}))


def test_a_step_with_its_value_arrived_and_an_empty_one_did_not():
    """Steps decide for themselves: one is shown with its value, the other is not shown long after it was sent."""
    found = outcomes([doubt(1, 0.5, 1), doubt(2, 0.25, 2)], {}, by_step(s1=(1, 0.5)))
    assert found == {1: "arrived", 2: "not arrived"}


def test_what_is_not_shown_soon_after_proves_nothing():
    """Within the time that a service may take to show it, an absent point stays in doubt; the reason says when it is asked again."""
    (finding,) = judge([doubt(1, 0.5, 1, since_ns=LATER - 10**9)], {}, by_step(), now_ns=LATER, visible_after_s=900)
    assert finding.outcome is None
    assert "900 s" in finding.reason


def test_a_clock_that_went_back_proves_nothing():
    """A request of the future is not old."""
    assert outcomes([doubt(1, 0.5, 1, since_ns=LATER + 10**12)], {}, by_step()) == {1: None}


@pytest.mark.parametrize("shown", [(1, 0.75), (2, 0.5), (3, 0.5)])
def test_other_values_or_counts_prove_nothing(shown):
    """Another journal's points at the same step, or a double, leave it in doubt."""
    assert outcomes([doubt(1, 0.5, 1)], {}, by_step(s1=shown)) == {1: None}


def test_known_points_of_the_step_are_counted():
    """A step that had points before: only what is beyond them is the one in doubt."""
    known = {("loss", 1): Known(2, 3.0, 3.0)}
    assert outcomes([doubt(1, 5.0, 1)], known, by_step(s1=(3, 8 / 3))) == {1: "arrived"}
    assert outcomes([doubt(1, 5.0, 1)], known, by_step(s1=(2, 1.5))) == {1: "not arrived"}
    assert outcomes([doubt(1, 5.0, 1)], known, by_step(s1=(1, 1.0))) == {1: None}


def test_without_steps_all_points_of_a_metric_decide_together():
    """Totals tell all or none."""
    known = {("loss", None): Known(10, 20.0, 20.0)}
    doubts = [doubt(1, 1.0), doubt(2, 2.0)]
    assert set(outcomes(doubts, known, ReadBack({"loss": Shown(12, 23 / 12)})).values()) == {"arrived"}
    assert set(outcomes(doubts, known, ReadBack({"loss": Shown(10, 2.0)})).values()) == {"not arrived"}
    assert set(outcomes(doubts, known, ReadBack({"loss": Shown(11, 21 / 11)})).values()) == {None}


def test_points_with_and_without_steps_of_one_metric():
    """What the steps decide counts as known when the total decides about the rest."""
    shown = ReadBack({"loss": Shown(2, 1.5)}, {("loss", 7): Shown(1, 1.0)}, frozenset({"loss"}))
    assert outcomes([doubt(1, 1.0, 7), doubt(2, 2.0)], {}, shown) == {1: "arrived", 2: "arrived"}


@pytest.mark.parametrize("seed", range(20))
def test_no_subset_that_arrived_is_ever_misjudged(seed):
    """Whatever points of a metric arrived, known ones in between: never is one called there that is not, or absent that is."""
    chance = random.Random(seed)
    for _ in range(50):
        points = [(seq, chance.uniform(-5, 5), chance.choice([None, 1, 2, 3])) for seq in range(chance.randint(1, 8))]
        fates = {seq: chance.choice(["known", "arrived", "lost"]) for seq, _, _ in points}
        there = [(value, step) for seq, value, step in points if fates[seq] != "lost"]
        known = {}
        for seq, value, step in points:
            if fates[seq] == "known":
                for group in {("loss", step), ("loss", None)}:
                    known[group] = known.get(group, Known()).plus([value])
        shown = ReadBack(
            {"loss": Shown(len(there), sum(v for v, _ in there) / len(there))} if there else {},
            {
                ("loss", s): Shown(len(values), sum(values) / len(values))
                for s in (1, 2, 3)
                if (values := [v for v, step in there if step == s])
            },
            frozenset({"loss"}) if chance.random() < 0.7 else frozenset(),
        )
        doubts = [doubt(seq, value, step) for seq, value, step in points if fates[seq] != "known"]
        for seq, outcome in outcomes(doubts, known, shown).items():
            if outcome is not None:
                assert outcome == {"arrived": "arrived", "lost": "not arrived"}[fates[seq]], (points, fates)
