"""Convert numbers to intervals: ``[1, 2, 3, 7]`` to ``[(1, 3), (7, 7)]``, or to the text "1-3,7".

Pure.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

from journaltrack import limits

SEQ_MAX: Final = 2**63 - 1
"""SQLite's largest integer, and so the highest possible ``seq``."""


def as_intervals(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Return sequence numbers as intervals: ``[1, 2, 3, 7] -> [(1, 3), (7, 7)]``."""
    known = tuple(seqs)
    # The fast path, taken nearly always and twice as fast: one interval.
    if known and known == tuple(range(known[0], known[0] + len(known))):
        return [(known[0], known[-1])]
    runs: list[list[int]] = []
    for seq in sorted(known):
        if runs and seq == runs[-1][1] + 1:
            runs[-1][1] = seq
        else:
            runs.append([seq, seq])
    return [(first, last) for first, last in runs]


def extend(intervals: list[tuple[int, int]], first: int, last: int) -> None:
    """Append an interval, or join it to the last one if it begins right after that."""
    if intervals and first == intervals[-1][1] + 1:
        intervals[-1] = (intervals[-1][0], last)
    else:
        intervals.append((first, last))


def merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return intervals of the same numbers that are sorted and do not touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def size(intervals: Iterable[tuple[int, int]]) -> int:
    """Return how many numbers the intervals hold."""
    return sum(last - first + 1 for first, last in intervals)


def contains(intervals: Sequence[tuple[int, int]], number: int) -> bool:
    """Return whether an interval contains the number; they are sorted and do not touch."""
    place = bisect.bisect_right(intervals, (number, math.inf)) - 1
    return place >= 0 and number <= intervals[place][1]


def without(
    intervals: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the numbers that no other interval contains; all are sorted and do not touch."""
    found = []
    for begin, last in intervals:
        first = begin
        for at in range(bisect.bisect_left(others, first, key=itemgetter(1)), len(others)):
            low, high = others[at]
            if low > last:
                break
            if low > first:
                found.append((first, low - 1))
            first = high + 1
        if first <= last:
            found.append((first, last))
    return found


def as_text(intervals: Iterable[tuple[int, int]]) -> str:
    """Return intervals as text: ``[(1, 3), (7, 7)] -> "1-3,7"``."""
    return ",".join(
        [str(first) if first == last else f"{first}-{last}" for first, last in intervals]
    )


def ranges_in(text: object) -> list[tuple[int, int]]:
    """Parse what ``as_text`` wrote, as (first, last) pairs.

    They are not expanded: a crafted journal may name more numbers than fit into memory.

    Raises:
        ValueError: It is nothing that ``as_text`` writes.
    """
    if not isinstance(text, str):
        msg = "not text"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    found = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        interval = (int(first), int(last or first))
        if not 0 < interval[0] <= interval[1] <= SEQ_MAX:
            msg = f"not a range: {limits.shown(part)}"
            raise ValueError(msg)
        found.append(interval)
    return found
