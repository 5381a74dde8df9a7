"""What a service shows of the metrics that it holds, against what a journal knows: which points in doubt arrived. Pure.

A service shows counts and means alone (DescribeTrialComponent's summaries, BatchGetMetrics per step). Concluded is what is
certain, everything else stays in doubt:

- Points *arrived* if nobody else writes to the component, as many are there as were acknowledged and are in doubt, and the
  mean is theirs: of one writer it can be, of several it can't, since another one's points look the same.
- Points *did not arrive* if no more are there than were acknowledged: that holds beside other writers. AWS documents no delay
  after which it shows all, so an earlier reading must be that long ago, by the service's clock: ours may have been set.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

Group: TypeAlias = tuple[str, "int | None"]
"""A metric's points of one step, or (None) all of them."""
VISIBLE_AFTER_S: Final = 900.0
"""Ours: seconds after which what a service does not show is taken for not there; AWS documents none."""
_ROUNDING: Final = 2.0**-24
"""Of one operation in single precision: AWS does not say in which it sums up, and double is closer."""
_LEAST_SINGLE: Final = 2.0**-126
"""Below it, single precision rounds to nothing."""
_DATE_S: Final = 1.0  # what a ``Date`` header leaves out


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
        owner: ``ComponentSpec.owner`` of the component's create, '' if it is not one of ours; None: the service does not say.
        at_ns: When the service answered, by its own clock, nanoseconds since the epoch; None: it does not say.
    """

    totals: Mapping[str, Shown] = field(default_factory=dict)
    steps: Mapping[tuple[str, int], Shown] = field(default_factory=dict)
    by_step: frozenset[str] = frozenset()
    request_id: str | None = None
    owner: str | None = None
    at_ns: int | None = None


class Doubt(NamedTuple):
    """A point in doubt. ``since_ns``: when its request had no answer, nanoseconds since the epoch; ``receipt_id``: of that request."""

    seq: int
    name: str
    value: float
    step: int | None
    since_ns: int
    receipt_id: int = 0


class Known(NamedTuple):
    """Points that were acknowledged.

    Attributes:
        points: How many.
        sum: Of their values; ``magnitude`` is that of their absolute values.
        until_ns: When the last of them was, nanoseconds since the epoch; ``receipt_id`` is of the last request.
    """

    points: int = 0
    sum: float = 0.0
    magnitude: float = 0.0
    until_ns: int = 0
    receipt_id: int = 0

    def plus(self, doubts: Iterable[Doubt]) -> Known:
        """These and those."""
        added = list(doubts)
        return Known(
            self.points + len(added),
            self.sum + math.fsum(doubt.value for doubt in added),
            self.magnitude + math.fsum(abs(doubt.value) for doubt in added),
            max([self.until_ns, *(doubt.since_ns for doubt in added)]),
            max([self.receipt_id, *(doubt.receipt_id for doubt in added)]),
        )

    @property
    def slack(self) -> float:
        """By how much a sum of the values may be off: one rounding for each value, each addition and the mean."""
        return (self.points + 2) * _ROUNDING * self.magnitude

    def fits(self, shown: Shown) -> bool:
        """Return whether the service shows so many, and a mean that can be theirs."""
        off = abs(shown.mean * self.points - self.sum)
        return shown.points == self.points and off <= self.slack + self.points * _LEAST_SINGLE

    def would_tell(self, value: float) -> bool:
        """Return whether the mean would be another without this value: beside many points, or large ones, rounding hides it."""
        return not self.magnitude or 2 * self.slack < (abs(value) or self.magnitude / self.points)


class Reading(NamedTuple):
    """An earlier reading of the component. ``at_ns`` is by our clock, ``shown_at_ns`` by the service's (None: not told)."""

    receipt_id: int
    at_ns: int
    shown_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """What a journal knows of the metrics of a component.

    Attributes:
        groups: What was acknowledged, by metric in all (every metric) and by step (those in doubt); missing: nothing; None: it
            is not known any more.
        owner: Of the create with which this journal made the component for itself; None: others are expected to write to it.
        readings: Those before, in order.
    """

    groups: Mapping[Group, Known | None] = field(default_factory=dict)
    owner: str | None = None
    readings: Sequence[Reading] = ()


class Finding(NamedTuple):
    """What was found out about a point: "arrived", "not arrived", or None if nothing is certain; and why.

    ``shown_at_ns`` is when the service said so, by its own clock.
    """

    seq: int
    outcome: Literal["arrived", "not arrived"] | None
    reason: str
    shown_at_ns: int | None = None


def judge(
    doubts: Iterable[Doubt], account: Account, shown: ReadBack, *, now_ns: int, visible_after_s: float = VISIBLE_AFTER_S
) -> list[Finding]:
    """Which points in doubt arrived.

    Args:
        doubts: All points in doubt of one component.
        account: What is known of its metrics.
        shown: What the service shows, read after the last of the requests in question.
        now_ns: Nanoseconds since the epoch; used where the service does not tell its time.
        visible_after_s: See ``VISIBLE_AFTER_S``.

    Returns:
        One finding for each, by step where that can be read, else for all points of a metric together.
    """
    return list(_Judgment([*doubts], account, shown, now_ns, visible_after_s).findings())


class _Judgment:
    """One reading of one component."""

    def __init__(self, doubts: Sequence[Doubt], account: Account, shown: ReadBack, now_ns: int, visible_after_s: float) -> None:
        self._doubts = doubts
        self._account = account
        self._shown = shown
        self._now_ns = now_ns
        self._visible_after_s = visible_after_s
        self._others = self._of_others()

    def findings(self) -> Iterator[Finding]:
        """One for each point in doubt."""
        by_step: dict[tuple[str, int], list[Doubt]] = defaultdict(list)
        others: dict[str, list[Doubt]] = defaultdict(list)
        for doubt in self._doubts:
            if doubt.step is not None and doubt.name in self._shown.by_step and self._known(doubt.name, doubt.step) is not None:
                by_step[doubt.name, doubt.step].append(doubt)
            else:
                others[doubt.name].append(doubt)
        arrived: dict[str, list[Doubt]] = defaultdict(list)
        undecided: set[str] = set()
        for (name, step), group in by_step.items():
            there = self._shown.steps.get((name, step), Shown(0, 0.0))
            outcome, reason = self._decide(group, self._known(name, step) or Known(), there, f"of step {step}")
            if outcome == "arrived":
                arrived[name] += group
            elif outcome is None:
                undecided.add(name)
            yield from self._all(group, outcome, reason)
        for name, group in others.items():
            known = self._known(name, None)
            if known is None:
                yield from self._all(group, None, "read back: how many of its points were acknowledged is not known any more")
                continue
            there = self._shown.totals.get(name, Shown(0, 0.0))
            outcome, reason = self._decide(group, known.plus(arrived[name]), there, "in all")
            # A sum of points of which some are not told proves nothing about the others.
            yield from self._all(group, None if name in undecided else outcome, reason)

    def _known(self, name: str, step: int | None) -> Known | None:
        return self._account.groups.get((name, step), Known())

    def _all(self, group: Iterable[Doubt], outcome: Literal["arrived", "not arrived"] | None, reason: str) -> Iterator[Finding]:
        return (Finding(doubt.seq, outcome, reason, self._shown.at_ns) for doubt in group)

    def _decide(
        self, group: Sequence[Doubt], known: Known, shown: Shown, which: str
    ) -> tuple[Literal["arrived", "not arrived"] | None, str]:
        found = f"read back: {shown.points} points {which} are there, {known.points} of them were acknowledged"
        both = known.plus(group)
        if both.fits(shown):
            if self._others is not None:
                return None, f"{found}, {len(group)} are in doubt: {self._others}, so that it is not told whose they are"
            if not all(both.would_tell(doubt.value) for doubt in group):
                return None, f"{found}, {len(group)} are in doubt: the mean of so many does not tell which they are"
            return "arrived", found
        if not known.fits(shown):
            return None, f"{found}, {len(group)} are in doubt: it is not told which"
        if not self._was_visible(both):
            wait = f"read again {self._visible_after_s:g} s or more after a reading that did not show them"
            return None, f"{found}; the service may not show the others yet: {wait}"
        return "not arrived", found

    def _was_visible(self, points: Known) -> bool:
        """Return whether the service has had its time to show these points, since a reading that came after all of them."""
        if self._visible_after_s <= 0:
            return True
        for reading in self._account.readings:
            if reading.receipt_id <= points.receipt_id or reading.at_ns < points.until_ns:
                continue
            if self._shown.at_ns is None:
                waited_s = (self._now_ns - reading.at_ns) / 1e9
            elif reading.shown_at_ns is None:
                continue
            else:
                waited_s = (self._shown.at_ns - reading.shown_at_ns) / 1e9 - _DATE_S
            return waited_s >= self._visible_after_s
        return False

    def _of_others(self) -> str | None:
        """Why points that are there may be somebody else's; None if they can't."""
        account = self._account
        if account.owner is None:
            return "other journals may write to the component, too"
        if self._shown.owner not in {None, account.owner}:
            return "another journal made the component"
        doubtful: dict[str, int] = defaultdict(int)
        for doubt in self._doubts:
            doubtful[doubt.name] += 1
        for name, shown in self._shown.totals.items():
            known = self._known(name, None)
            if known is not None and shown.points > known.points + doubtful[name]:
                return "the component has points that are not of this journal"
        return None
