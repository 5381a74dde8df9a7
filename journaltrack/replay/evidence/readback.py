"""Judge which points in doubt arrived, by what a service shows.

A service shows only counts and means (DescribeTrialComponent's summaries, BatchGetMetrics per
step). Only what is certain is concluded. Everything else stays in doubt.

- Points *arrived* if three things hold. Nobody else writes to the component. The count is that of
  the acknowledged points and those in doubt. The mean fits. With several writers this proves
  nothing, since their points look the same.
- Points *did not arrive* if no more points are shown than were acknowledged. This holds beside
  other writers too. AWS documents no delay after which it shows everything. So an earlier reading
  must be ``VISIBLE_AFTER_S`` ago, by the service's clock: ours may have been set.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

Group: TypeAlias = tuple[str, "int | None"]
"""A metric's points of one step. None: all of its points."""
VISIBLE_AFTER_S: Final = 900.0
"""Our own limit: seconds after which what a service does not show counts as not there.

AWS documents none.
"""
_ROUNDING: Final = 2.0**-24
"""Of one operation in single precision. AWS does not say how it sums up. Double is closer."""
_LEAST_SINGLE: Final = 2.0**-126
"""Below it, single precision rounds to nothing."""
# Seconds. The resolution of a ``Date`` header.
_DATE_S: Final = 1.0


class Shown(NamedTuple):
    """Hold points that a service shows together: how many, and their mean."""

    points: int
    mean: float


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Hold what a service shows of a component's metrics.

    Attributes:
        totals: By metric.
        steps: By metric and step.
        by_step: Metrics whose steps could be read. A step missing in ``steps`` has no point.
        request_id: Of the last request.
        owner: ``ComponentSpec.owner`` of the component's create. '': the component is not ours.
            None: the service does not say.
        at_ns: When the service answered, by its own clock, nanoseconds since the epoch. None: it
            does not say.
    """

    totals: Mapping[str, Shown] = field(default_factory=dict)
    steps: Mapping[tuple[str, int], Shown] = field(default_factory=dict)
    by_step: frozenset[str] = frozenset()
    request_id: str | None = None
    owner: str | None = None
    at_ns: int | None = None


class Doubt(NamedTuple):
    """A point in doubt.

    ``since_ns`` is when its request stayed without an answer, nanoseconds since the epoch.
    ``receipt_id`` is that request's.
    """

    seq: int
    name: str
    value: float
    step: int | None
    since_ns: int
    receipt_id: int = 0


class Known(NamedTuple):
    """Sum up points that were acknowledged.

    Attributes:
        points: How many.
        sum: Of their values.
        magnitude: The sum of their absolute values.
        until_ns: When the last of them was acknowledged, nanoseconds since the epoch.
        receipt_id: Of the last request.
    """

    points: int = 0
    sum: float = 0.0
    magnitude: float = 0.0
    until_ns: int = 0
    receipt_id: int = 0

    def plus(self, doubts: Iterable[Doubt]) -> Known:
        """Return the sum with these points in doubt included."""
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
        """Return the error bound of a sum of the values.

        One rounding for each value, each addition and the mean.
        """
        return (self.points + 2) * _ROUNDING * self.magnitude

    def fits(self, shown: Shown) -> bool:
        """Return whether the service shows this count, and a mean that can be theirs."""
        off = abs(shown.mean * self.points - self.sum)
        return shown.points == self.points and off <= self.slack + self.points * _LEAST_SINGLE

    def would_tell(self, value: float) -> bool:
        """Return whether the mean would change without this value.

        Beside many points, or large ones, rounding hides it.
        """
        return not self.magnitude or 2 * self.slack < (abs(value) or self.magnitude / self.points)


class Reading(NamedTuple):
    """An earlier reading of the component.

    ``at_ns`` is by our clock. ``shown_at_ns`` is by the service's. None: it did not say.
    """

    receipt_id: int
    at_ns: int
    shown_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """Hold what a journal knows of the metrics of a component.

    Attributes:
        groups: What was acknowledged: each metric in all, and by step where points are in doubt.
            Missing: nothing. None: not known any more.
        owner: Of the create with which this journal made the component for itself. None: others
            are expected to write to it.
        readings: The earlier readings, in order.
    """

    groups: Mapping[Group, Known | None] = field(default_factory=dict)
    owner: str | None = None
    readings: Sequence[Reading] = ()


class Finding(NamedTuple):
    """Say what was found out about a point, and why.

    ``outcome`` None: nothing is certain. ``shown_at_ns`` is when the service said so, by its own
    clock.
    """

    seq: int
    outcome: Literal["arrived", "not arrived"] | None
    reason: str
    shown_at_ns: int | None = None


def steps_of(doubts: Iterable[Doubt]) -> dict[str, tuple[int, int]]:
    """Return the first and last step in doubt of each metric that has steps."""
    steps: dict[str, tuple[int, int]] = {}
    for doubt in doubts:
        if doubt.step is not None:
            first, last = steps.get(doubt.name, (doubt.step, doubt.step))
            steps[doubt.name] = (min(first, doubt.step), max(last, doubt.step))
    return steps


def judge(
    doubts: Iterable[Doubt],
    account: Account,
    shown: ReadBack,
    *,
    now_ns: int,
    visible_after_s: float = VISIBLE_AFTER_S,
) -> list[Finding]:
    """Return which points in doubt arrived.

    Args:
        doubts: All points in doubt of one component.
        account: What is known of its metrics.
        shown: What the service shows, read after the last of the requests in question.
        now_ns: Nanoseconds since the epoch. Used if the service does not say its time.
        visible_after_s: See ``VISIBLE_AFTER_S``.

    Returns:
        One finding for each point: by step where that can be read, else by metric.
    """
    return list(_Judgment([*doubts], account, shown, now_ns, visible_after_s).findings())


class _Judgment:
    """Judge one reading of one component."""

    def __init__(
        self,
        doubts: Sequence[Doubt],
        account: Account,
        shown: ReadBack,
        now_ns: int,
        visible_after_s: float,
    ) -> None:
        self._doubts = doubts
        self._account = account
        self._shown = shown
        self._now_ns = now_ns
        self._visible_after_s = visible_after_s
        self._others = self._of_others()

    def findings(self) -> Iterator[Finding]:
        """Yield one finding for each point in doubt."""
        by_step: dict[tuple[str, int], list[Doubt]] = defaultdict(list)
        others: dict[str, list[Doubt]] = defaultdict(list)
        for doubt in self._doubts:
            if (
                doubt.step is not None
                and doubt.name in self._shown.by_step
                and self._known(doubt.name, doubt.step) is not None
            ):
                by_step[doubt.name, doubt.step].append(doubt)
            else:
                others[doubt.name].append(doubt)
        arrived: dict[str, list[Doubt]] = defaultdict(list)
        undecided: set[str] = set()
        for (name, step), group in by_step.items():
            there = self._shown.steps.get((name, step), Shown(0, 0.0))
            outcome, reason = self._decide(
                group, self._known(name, step) or Known(), there, f"of step {step}"
            )
            if outcome == "arrived":
                arrived[name] += group
            elif outcome is None:
                undecided.add(name)
            yield from self._all(group, outcome, reason)
        for name, group in others.items():
            known = self._known(name, None)
            if known is None:
                reason = "read back: how many of its points were acknowledged is not known any more"
                yield from self._all(group, None, reason)
                continue
            there = self._shown.totals.get(name, Shown(0, 0.0))
            outcome, reason = self._decide(group, known.plus(arrived[name]), there, "in all")
            # A total that contains undecided points proves nothing about the others.
            yield from self._all(group, None if name in undecided else outcome, reason)

    def _known(self, name: str, step: int | None) -> Known | None:
        return self._account.groups.get((name, step), Known())

    def _all(
        self, group: Iterable[Doubt], outcome: Literal["arrived", "not arrived"] | None, reason: str
    ) -> Iterator[Finding]:
        return (Finding(doubt.seq, outcome, reason, self._shown.at_ns) for doubt in group)

    def _decide(
        self, group: Sequence[Doubt], known: Known, shown: Shown, which: str
    ) -> tuple[Literal["arrived", "not arrived"] | None, str]:
        there = f"{shown.points} points {which} are there"
        found = f"read back: {there}, {known.points} of them were acknowledged"
        doubtful = f"{found}, {len(group)} are in doubt"
        both = known.plus(group)
        if both.fits(shown):
            if self._others is not None:
                return None, f"{doubtful}: {self._others}, so that it is not told whose they are"
            if not all(both.would_tell(doubt.value) for doubt in group):
                return None, f"{doubtful}: the mean of so many does not tell which they are"
            return "arrived", found
        if not known.fits(shown):
            return None, f"{doubtful}: it is not told which"
        if not self._was_visible(both):
            wait = f"read again {self._visible_after_s:g} s or more after a reading"
            not_yet = "the service may not show the others yet"
            return None, f"{found}; {not_yet}: {wait} that did not show them"
        return "not arrived", found

    def _was_visible(self, points: Known) -> bool:
        """Return whether the service has had time to show these points.

        The time counts from a reading that came after all of them.
        """
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
        """Return why points that exist may be somebody else's, or None if they can't be."""
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
