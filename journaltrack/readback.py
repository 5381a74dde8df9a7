"""What a service shows of the metrics that it holds, against what a journal knows: which points in doubt arrived. Pure.

Only counts and means can be read back (DescribeTrialComponent's summaries, BatchGetMetrics per step), and AWS documents no
delay after which they are complete. So a point *arrived* if the service shows exactly what was acknowledged and what is in
doubt, and values that fit; it did *not arrive* if the service shows exactly what was acknowledged, a good while after the
request. Everything else (other values, other counts: a second journal, a delay) proves nothing and stays in doubt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

Group: TypeAlias = tuple[str, "int | None"]
"""A metric's points of one step, or (None) all of them."""
VISIBLE_AFTER_S: Final = 900.0
"""Ours: seconds after which what a service does not show is taken for not there; AWS documents none."""
_MEAN_TOLERANCE: Final = 1e-6


class Shown(NamedTuple):
    """Points that a service shows together: how many, and their mean."""

    points: int
    mean: float


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a service shows of a component's metrics.

    Attributes:
        totals: By metric.
        steps: By metric and step.
        by_step: Metrics whose steps could be read: a step that is not in ``steps`` has no point.
        request_id: Of the last request.
    """

    totals: Mapping[str, Shown] = field(default_factory=dict)
    steps: Mapping[tuple[str, int], Shown] = field(default_factory=dict)
    by_step: frozenset[str] = frozenset()
    request_id: str | None = None


class Doubt(NamedTuple):
    """A point in doubt. ``since_ns``: when its request had no answer, nanoseconds since the epoch."""

    seq: int
    name: str
    value: float
    step: int | None
    since_ns: int


class Known(NamedTuple):
    """Points that were acknowledged: how many, their sum, and the sum of their magnitudes."""

    points: int = 0
    sum: float = 0.0
    magnitude: float = 0.0

    def plus(self, values: Iterable[float]) -> Known:
        """These and those."""
        added = list(values)
        return Known(self.points + len(added), self.sum + sum(added), self.magnitude + sum(map(abs, added)))

    def fits(self, shown: Shown) -> bool:
        """Whether the service shows exactly these, as far as count and mean tell."""
        return shown.points == self.points and abs(shown.mean * self.points - self.sum) <= _MEAN_TOLERANCE * max(self.magnitude, 1e-300)


class Finding(NamedTuple):
    """What was found out about a point: "arrived", "not arrived", or None if nothing is proven; and why."""

    seq: int
    outcome: Literal["arrived", "not arrived"] | None
    reason: str


def judge(
    doubts: Iterable[Doubt], known: Mapping[Group, Known | None], shown: ReadBack, *, now_ns: int, visible_after_s: float = VISIBLE_AFTER_S
) -> list[Finding]:
    """Which points in doubt arrived.

    Args:
        doubts: All points in doubt of one component.
        known: What was acknowledged of its metrics, by step and in all (missing: nothing; None: that is not known any more).
        shown: What the service shows, read after the last of the requests in question.
        now_ns: Nanoseconds since the epoch.
        visible_after_s: See ``VISIBLE_AFTER_S``.

    Returns:
        One finding for each, by step where that can be read, else for all points of a metric together.
    """
    findings: list[Finding] = []
    by_name: dict[str, list[Doubt]] = defaultdict(list)
    by_step: dict[tuple[str, int], list[Doubt]] = defaultdict(list)
    for doubt in doubts:
        by_name[doubt.name].append(doubt)
        if doubt.step is not None and doubt.name in shown.by_step and known.get((doubt.name, doubt.step), Known()) is not None:
            by_step[doubt.name, doubt.step].append(doubt)
    arrived: dict[str, list[float]] = defaultdict(list)
    undecided: set[str] = set()
    for (name, step), group in by_step.items():
        there = shown.steps.get((name, step), Shown(0, 0.0))
        outcome, reason = _decide(group, known.get((name, step)) or Known(), there, f"of step {step}", now_ns, visible_after_s)
        findings += [Finding(doubt.seq, outcome, reason) for doubt in group]
        if outcome == "arrived":
            arrived[name] += [doubt.value for doubt in group]
        if outcome is None:
            undecided.add(name)
    by_steps = {doubt.seq for group in by_step.values() for doubt in group}
    for name, group in by_name.items():
        rest = [doubt for doubt in group if doubt.seq not in by_steps]
        if not rest:
            continue
        if known.get((name, None), Known()) is None:
            findings += [
                Finding(doubt.seq, None, "read back: how many of its points were acknowledged is not known any more") for doubt in rest
            ]
            continue
        there = shown.totals.get(name, Shown(0, 0.0))
        outcome, reason = _decide(rest, (known.get((name, None)) or Known()).plus(arrived[name]), there, "in all", now_ns, visible_after_s)
        if name in undecided:  # a sum of points of which some are not told proves nothing about the others
            outcome = None
        findings += [Finding(doubt.seq, outcome, reason) for doubt in rest]
    return findings


def _decide(
    group: list[Doubt], known: Known, shown: Shown, which: str, now_ns: int, visible_after_s: float
) -> tuple[Literal["arrived", "not arrived"] | None, str]:
    found = f"read back: {shown.points} points {which} are there, {known.points} of them were acknowledged"
    if known.plus(doubt.value for doubt in group).fits(shown):
        return "arrived", found
    if not known.fits(shown):
        return None, f"{found}, {len(group)} are in doubt: it is not told which"
    if now_ns - max(doubt.since_ns for doubt in group) < visible_after_s * 1e9:
        return None, f"{found}; the service may not show the others yet: asked again {visible_after_s:g} s after they were sent"
    return "not arrived", found
