"""Thin a metric's points out to what a screen can show: the lowest and highest of each column.

A curve that is thinned like this looks the same as the whole: no spike and no gap is lost. Blocks
are read one at a time, so memory does not grow with the series. Must not know where blocks are
kept. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


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
    column: list[tuple[float, float | None]] = []
    number: float = -1
    for part in parts:
        place, count = 0, len(part.x)
        while place < count:
            x = part.x[place]
            here = _column(x, lo, hi, width, columns)
            border = hi if here == columns - 1 else lo + width * (here + 1)
            end = (
                bisect_right(part.x, border, place)
                if here == columns - 1
                else bisect_left(part.x, border, place)
                if 0 <= here < columns
                else bisect_left(part.x, lo, place)
                if here < 0
                else count
            )
            # Rounding may put a point on the border into this column.
            end = max(end, place + 1)
            if here != number:
                found += _drawn(column)
                column, number = [], here
            column += _extremes(part, place, end)
            place = end
    found += _drawn(column)
    return Curve([x for x, _ in found], [y for _, y in found], is_exact=False)


def _column(x: float, lo: float, hi: float, width: float, columns: int) -> int:
    if x < lo:
        return -1
    if x > hi:
        return columns
    return min(int((x - lo) / width), columns - 1) if width > 0 else 0


def _extremes(part: Part, first: int, end: int) -> list[tuple[float, float | None]]:
    values = part.values[first:end]
    found: list[tuple[int, float | None]] = []
    finite: Sequence[float] = values
    if part.not_finite:
        finite = [value for value in values if math.isfinite(value)]
        if len(finite) < len(values):
            gap = next(i for i, value in enumerate(values) if not math.isfinite(value))
            found.append((gap, None))
    if finite:
        low, high = min(finite), max(finite)
        found += [(values.index(low), low), (values.index(high), high)]
    return [(part.x[first + place], value) for place, value in sorted(found, key=_place)]


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
