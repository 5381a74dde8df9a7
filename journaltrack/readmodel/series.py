"""Sum a metric's points up, and thin them out to what a screen can show.

Points come in blocks of arrays. A curve keeps the lowest and the highest point of each column: it
looks the same as the whole, and no spike and no gap is lost. Must not know where blocks are kept.
Pure.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from journaltrack.journal import view
from journaltrack.readmodel.run import MetricSummary


class Block(NamedTuple):
    """Points of a series, in the order in which they were recorded.

    Attributes:
        x: Steps, or how many points were before.
        values: With NaN and infinity.
        stepless: One byte a point, 1 where it has no step; None: all have one.
    """

    not_finite: int
    x: array[int]
    ns: array[int]
    values: array[float]
    stepless: bytes | None


class Part(NamedTuple):
    """Points in the order of ``x``."""

    x: Sequence[float]
    values: Sequence[float]
    not_finite: int


class Curve(NamedTuple):
    """What to draw. None in ``y`` is a gap."""

    x: list[float]
    y: list[float | None]
    is_exact: bool


def sorted_part(parts: Iterable[Part]) -> Part:
    """Join parts, and sort their points by ``x``; points of one ``x`` keep their order."""
    x: list[float] = []
    values: list[float] = []
    not_finite = 0
    for part in parts:
        x += part.x
        values += part.values
        not_finite += part.not_finite
    order = sorted(range(len(x)), key=x.__getitem__)
    return Part([x[i] for i in order], [values[i] for i in order], not_finite)


def whole(parts: Iterable[Part]) -> Curve:
    """Return all points."""
    x: list[float] = []
    y: list[float | None] = []
    for part in parts:
        x += part.x
        y += part.values if not part.not_finite else map(_finite_or_none, part.values)
    return Curve(x, y, is_exact=True)


def thinned(parts: Iterable[Part], columns: int, lo: float, hi: float) -> Curve:
    """Return the lowest and the highest point of each column, and a gap where it has one.

    Points outside the range, at most one on each side, are kept as they are.

    Args:
        parts: Points in the order of ``x``.
        columns: Number of columns between ``lo`` and ``hi``.
        lo: The first ``x``.
        hi: The last ``x``, more than ``lo``.
    """
    width = (hi - lo) / columns
    found: list[tuple[float, float | None]] = []
    # Where the points of the present column begin in ``found``, and its number.
    begin, number = 0, -2
    for part in parts:
        xs, count = part.x, len(part.x)
        place = 0
        while place < count:
            here = _column(xs[place], lo, hi, width, columns)
            if here < 0:
                end = bisect_left(xs, lo, place)
            elif here >= columns:
                end = count
            elif here == columns - 1:
                end = bisect_right(xs, hi, place)
            else:
                end = bisect_left(xs, lo + width * (here + 1), place)
            # Rounding may put a point on the border into this column.
            end = max(end, place + 1)
            extremes = _extremes(part, place, end)
            if here == number:
                found[begin:] = _drawn(found[begin:] + extremes)
            else:
                begin, number = len(found), here
                found += extremes
            place = end
    return Curve([x for x, _ in found], [y for _, y in found], is_exact=False)


def _column(x: float, lo: float, hi: float, width: float, columns: int) -> int:
    if x < lo:
        return -1
    if x > hi:
        return columns
    return min(int((x - lo) / width), columns - 1) if width > 0 else 0


def _extremes(part: Part, first: int, end: int) -> list[tuple[float, float | None]]:
    """Return the lowest and the highest of some points, and the first gap, in their order."""
    xs, values = part.x, part.values[first:end]
    if part.not_finite:
        return _extremes_with_gaps(xs, values, first)
    low, high = min(values), max(values)
    if low == high:
        return [(xs[first], low)]
    at_low, at_high = values.index(low), values.index(high)
    if at_low < at_high:
        return [(xs[first + at_low], low), (xs[first + at_high], high)]
    return [(xs[first + at_high], high), (xs[first + at_low], low)]


def _extremes_with_gaps(
    xs: Sequence[float], values: Sequence[float], first: int
) -> list[tuple[float, float | None]]:
    finite = [value for value in values if math.isfinite(value)]
    found: list[tuple[int, float | None]] = []
    if len(finite) < len(values):
        found.append((next(i for i, v in enumerate(values) if not math.isfinite(v)), None))
    found += [(values.index(each), each) for each in {min(finite), max(finite)}] if finite else []
    return [(xs[first + place], value) for place, value in sorted(found, key=_place)]


def _place(item: tuple[int, float | None]) -> int:
    return item[0]


def _drawn(column: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Return at most a low, a high and a gap of what several parts gave for one column."""
    finite = [value for _, value in column if value is not None]
    if not finite:
        return column[:1]
    low, high = min(finite), max(finite)
    kept: list[tuple[float, float | None]] = []
    wanted: set[float | None] = {low, high, None}
    for x, value in column:
        if value in wanted:
            wanted.discard(value)
            kept.append((x, value))
    return kept


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def within(parts: Iterable[Part], lo: float, hi: float) -> Iterator[Part]:
    """Yield the points of a range, and the nearest one on each side.

    Args:
        parts: Points in the order of ``x``.
        lo: The first ``x``.
        hi: The last ``x``.
    """
    before: Part | None = None
    for part in parts:
        first, end = bisect_left(part.x, lo), bisect_right(part.x, hi)
        if end == 0:
            # All of it is beyond the range.
            if before is not None:
                yield before
                before = None
            yield _cut(part, 0, 1)
            return
        if first == len(part.x):
            before = _cut(part, first - 1, first)
            continue
        if before is not None and first == 0:
            yield before
        before = None
        yield _cut(part, max(first - 1, 0), min(end + 1, len(part.x)))
        if end < len(part.x):
            return
    if before is not None:
        yield before


def _cut(part: Part, first: int, end: int) -> Part:
    if first == 0 and end == len(part.x):
        return part
    return Part(part.x[first:end], part.values[first:end], part.not_finite)


def block_of_rows(
    rows: Sequence[tuple[Any, ...]], payloads: Mapping[int, object], points_before: int
) -> Block:
    """Make a block of entries.

    SQLite keeps any type in any column: what is no number counts as NaN, or as no step.
    """
    _, _, values, steps, times, seqs = zip(*rows, strict=True)
    try:
        numbers = array("d", values)
    except TypeError:
        numbers = array(
            "d", [_number(v, payloads.get(seq)) for v, seq in zip(values, seqs, strict=True)]
        )
    try:
        ns = array("q", times)
    except (TypeError, OverflowError):
        ns = array("q", [each if isinstance(each, int) else 0 for each in times])
    mask = None
    try:
        x = array("q", steps)
    except TypeError:
        mask = bytes(not isinstance(step, int) for step in steps)
        x = array(
            "q",
            [
                step if isinstance(step, int) else points_before + place
                for place, step in enumerate(steps)
            ],
        )
    return Block(count_not_finite(numbers), x, ns, numbers, mask)


def _number(value: object, payload: object) -> float:
    if isinstance(value, float):
        return value
    exact = view.detail_of(payload).get("exact")
    try:
        return float(exact) if isinstance(exact, str) else math.nan
    except ValueError:
        return math.nan


def joined(one: Block, other: Block) -> Block:
    """Return the points of both. What is not finite is not counted."""
    stepless = None
    if one.stepless is not None or other.stepless is not None:
        stepless = (one.stepless or bytes(len(one.x))) + (other.stepless or bytes(len(other.x)))
    return Block(0, one.x + other.x, one.ns + other.ns, one.values + other.values, stepless)


def summed(before: MetricSummary, block: Block) -> MetricSummary:
    """Return the summary with the points of a block."""
    values = block.values
    finite = values if not block.not_finite else array("d", filter(math.isfinite, values))
    low, high = before.min, before.max
    low_step, high_step = before.min_step, before.max_step
    if finite and (low is None or min(finite) < low):
        low = min(finite)
        low_step = _step(block, values.index(low))
    if finite and (high is None or max(finite) > high):
        high = max(finite)
        high_step = _step(block, values.index(high))
    return MetricSummary(
        values[-1],
        _step(block, len(values) - 1),
        low,
        high,
        before.points + len(values),
        low_step,
        high_step,
        before.not_finite + block.not_finite,
        block.ns[-1],
        before.removed,
    )


def _step(block: Block, place: int) -> int | None:
    if block.stepless is not None and block.stepless[place]:
        return None
    return block.x[place]


def count_not_finite(values: array[float]) -> int:
    """Count NaN and infinities."""
    # The sum of finite numbers is finite, unless it overflows.
    return 0 if math.isfinite(sum(values)) else sum(not math.isfinite(each) for each in values)


def ascends(numbers: array[int]) -> bool:
    """Return whether no number is less than the one before."""
    known = numbers.tolist()
    return known == sorted(known)
