"""What was removed from a journal on the record: when, by whom, and what its metrics add up to.
Reads attestations; changes nothing.

Whoever compares a journal with a service (``in_doubt``) or shows sums (``show``, ``audit``) adds
what is here to what is still in the tables. Costs the attestations of prunes, and of other
decisions without a request: few and small.

A journal is data from somebody else: what can't be read counts as nothing here, and
``attestations`` tells of it.
"""

from __future__ import annotations

import bisect
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.journal.chain import read_body
from journaltrack.journal.places import Places
from journaltrack.util.text import text_or_none

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.sqlite.connection import Database

PRUNE: Final = "prune"
"""The action of attestations that say what was removed."""
_TEXT_CHARS_MAX: Final = 300
_PLACE_MAX: Final = 2**62
_MOST: Final = sys.float_info.max  # a sum may overflow, and JSON has no infinity
IS_PRUNE: Final = (
    "(a.receipt_id IS NULL OR a.receipt_id IN (SELECT id FROM receipt WHERE component_id "
    f"IS NULL AND action = '{PRUNE}')) "
    f'AND substr(a.body, 1, 17) = \'{{"action":"{PRUNE}"\''
)
"""Whether an attestation ``a`` is of a prune. Indexes lead to the few that are of no request,
and to those that came from another copy.
"""
_BODIES: Final = (
    "SELECT a.id, w.host, w.user, w.pid, w.program, w.uuid, a.body FROM attestation a "
    f"JOIN writer w ON w.id = a.writer_id WHERE {IS_PRUNE} ORDER BY a.id"
)


class LastPoint(NamedTuple):
    """The last point that was removed of a metric, by its place in the journal."""

    seq: int
    value: float
    step: int | None
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class RemovedMetric:
    """Points of one metric that were removed; all were delivered.

    Attributes:
        points, sum, magnitude, minimum, maximum: Of their values; ``magnitude`` is the sum of their
            absolute values.
        last: The last of them.
        steps: (first, last) of their steps; None when none has one.
        at_least: Copies were pruned apart, and what they removed overlaps: there may be more
            points, of which no sums are known.

    Minimum, maximum, last and steps may be of points that are here again, from another copy.
    """

    points: int
    sum: float
    magnitude: float
    minimum: float
    maximum: float
    last: LastPoint
    steps: tuple[int, int] | None
    at_least: bool = False

    def plus(self, other: RemovedMetric) -> RemovedMetric:
        """These and those."""
        both = [steps for steps in (self.steps, other.steps) if steps is not None]
        return RemovedMetric(
            self.points + other.points,
            self.sum + other.sum,
            self.magnitude + other.magnitude,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            max(self.last, other.last, key=lambda point: point.seq),
            (min(first for first, _ in both), max(last for _, last in both)) if both else None,
            self.at_least or other.at_least,
        )

    def minus(self, points: int, total: float, magnitude: float) -> RemovedMetric:
        """Return the metric without points that are here again."""
        return replace(
            self,
            points=self.points - points,
            sum=self.sum - total,
            magnitude=max(self.magnitude - magnitude, 0.0),
        )

    def may_have(self, step: int) -> bool:
        """Return whether one of the removed points may be of that step."""
        return self.steps is not None and self.steps[0] <= step <= self.steps[1]

    def to_member(self, component: str, name: str) -> list[Any]:
        """Return the metric as an item of the attestation's member ``metrics``."""
        numbers = [
            max(-_MOST, min(value, _MOST))
            for value in (self.sum, self.magnitude, self.minimum, self.maximum)
        ]
        return [
            component,
            name,
            self.points,
            *numbers,
            list(self.last),
            self.steps and list(self.steps),
        ]


@dataclass(frozen=True, slots=True)
class Removal:
    """One prune.

    Attributes:
        at_ns: When it began.
        before_ns: What had been delivered before then was removed; None: only contents were.
        host, user, pid, program: The process that did it.
        entries: How many it removed.
        by_component: The same by component.
        by_kind: The same by kind.
        blobs: Contents that it removed from the spool; ``blob_bytes`` is their size.
        archive: ``name``, ``sha256``, ``bytes``, ``rows`` of the export that was written first;
            None: there was none.
    """

    at_ns: int
    before_ns: int | None
    host: str | None
    user: str | None
    pid: int | None
    program: str | None
    entries: int = 0
    by_component: Mapping[str, int] = field(default_factory=dict)
    by_kind: Mapping[str, int] = field(default_factory=dict)
    blobs: int = 0
    blob_bytes: int = 0
    archive: Mapping[str, Any] | None = None


def metrics(
    database: Database, component: str | None = None
) -> dict[tuple[str, str], RemovedMetric]:
    """By component (in lower case) and metric: what was removed.

    Args:
        database: Of the journal.
        component: Only of the component of that name (case does not matter); None: of all.
    """
    found: dict[tuple[str, str], RemovedMetric] = {}
    wanted = None if component is None else component.lower()
    unsure: set[tuple[str, str]] = set()
    for prune in _prunes(database):
        listed = prune.members.get("metrics")
        for member in listed if isinstance(listed, list) else ():
            read = _metric(member)
            if read is None or wanted not in {None, read[0]}:
                continue
            key = read[:2]
            if prune.overlaps:
                unsure.add(key)
                continue
            gone = read[2].minus(*prune.here.get((key[0], "metric", key[1]), (0, 0.0, 0.0)))
            if gone.points > 0:
                found[key] = found[key].plus(gone) if key in found else gone
    for key in unsure & found.keys():
        found[key] = replace(found[key], at_least=True)
    return found


def removals(database: Database) -> list[Removal]:
    """Return all prunes, in order. What one removed in several transactions is one."""
    found: dict[tuple[str, int], Removal] = {}
    for prune in _prunes(database):
        *process, uuid = prune.who
        members = prune.members
        at_ns = _count(members.get("started_at_ns"))
        before_ns = members.get("before_ns")
        removal = found.get((uuid, at_ns)) or Removal(
            at_ns, before_ns if isinstance(before_ns, int) else None, *process
        )
        by_component, by_kind = (
            defaultdict(int, removal.by_component),
            defaultdict(int, removal.by_kind),
        )
        entries = 0
        for component, kind, count in () if prune.overlaps else _counts(members):
            gone = max(count - prune.here_of(component, kind), 0)
            by_component[component] += gone
            by_kind[kind] += gone
            entries += gone
        blobs, archive = members.get("blobs"), members.get("archive")
        found[uuid, at_ns] = replace(
            removal,
            entries=removal.entries + entries,
            by_component=dict(by_component),
            by_kind=dict(by_kind),
            blobs=removal.blobs + (len(blobs) if isinstance(blobs, list) else 0),
            blob_bytes=removal.blob_bytes + _count(members.get("blob_bytes")),
            archive=_archive(archive) if isinstance(archive, dict) else removal.archive,
        )
    return list(found.values())


def entries(database: Database) -> int:
    """Count the entries that were removed in all."""
    return sum(removal.entries for removal in removals(database))


def entries_in(connection: sqlite3.Connection) -> int:
    """Count the removed entries of a database that is being rebuilt."""
    return sum(
        count
        for *_, body in connection.execute(_BODIES)
        for _, _, count in _counts(read_body(body) or {})
    )


@dataclass(slots=True)
class _Prune:
    """One attestation of a prune: who made it, what it says, and what of that is here
    nevertheless, by component, kind and metric.
    """

    who: list[Any]
    members: dict[str, Any]
    runs: list[tuple[str, int, int]]
    here: dict[tuple[str, str, str | None], tuple[int, float, float]] = field(default_factory=dict)
    overlaps: bool = False

    def here_of(self, component: str, kind: str) -> int:
        """Count the entries of the kind that are here."""
        return sum(
            points
            for (name, each, _), (points, _, _) in self.here.items()
            if (name, each) == (component.lower(), kind)
        )


def _prunes(database: Database) -> Iterator[_Prune]:
    """Each attestation of a prune, in order.

    Copies of a journal may be pruned apart and merged then. What one of them removed and another
    brought is here, and does not count; what both removed counts once. Of two attestations that
    share a part no sums are known of the part: the smaller one ``overlaps``, and is not to be
    added.
    """
    found = [_Prune(who, members, _runs(members)) for who, members in _attested(database)]
    covered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    contained = set()
    if _any_twice(run for each in found for run in each.runs):
        for each in sorted(
            found, key=lambda one: -sum(last - first + 1 for _, first, last in one.runs)
        ):
            shared = sum(_shared(covered[uuid], first, last) for uuid, first, last in each.runs)
            if not shared:
                for uuid, first, last in each.runs:
                    bisect.insort(covered[uuid], (first, last))
            elif shared == sum(last - first + 1 for _, first, last in each.runs):
                contained.add(id(each))
            else:
                each.overlaps = True
    counted = [each for each in found if id(each) not in contained]
    _look_what_is_here(database, [each for each in counted if each.runs and not each.overlaps])
    yield from counted


def _any_twice(runs: Iterable[tuple[str, int, int]]) -> bool:
    """Whether two of them share a place."""
    ordered = sorted(runs)
    return any(
        one[0] == other[0] and other[1] <= one[2] for one, other in itertools.pairwise(ordered)
    )


def _shared(intervals: list[tuple[int, int]], first: int, last: int) -> int:
    """How many places of first to last are in these intervals, which are sorted and apart."""
    place = max(bisect.bisect_right(intervals, (first, _PLACE_MAX)) - 1, 0)
    shared = 0
    for at in range(place, len(intervals)):
        begin, end = intervals[at]
        if begin > last:
            break
        shared += max(min(end, last) - max(begin, first) + 1, 0)
    return shared


def _look_what_is_here(database: Database, prunes: list[_Prune]) -> None:
    """Sum up what is here of what they removed; one scan for where each process's entries are,
    then by ``seq``.
    """
    if not prunes:
        return
    sql = (
        "SELECT c.name, e.kind, e.name, count(*), total(e.value), total(abs(e.value)) "
        "FROM entry e JOIN component c ON c.id = e.component_id WHERE e.seq BETWEEN ? AND ? "
        "GROUP BY 1, 2, 3"
    )
    with closing(Places(database)) as places:
        found = [
            (each, where)
            for each in prunes
            for uuid, first, last in each.runs
            for where in places.find({uuid: ((first, last),)})
        ]
    for each, where in found:
        for component, kind, name, points, total, magnitude in database.read(sql, where):
            key = (
                str(component).lower(),
                str(kind),
                text_or_none(name) if kind == "metric" else None,
            )
            known = each.here.get(key, (0, 0.0, 0.0))
            each.here[key] = (known[0] + points, known[1] + total, known[2] + magnitude)


def _counts(members: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(component, kind, entries) that it says were removed; those that can't be read are left
    out.
    """
    listed = members.get("counts")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, list) and len(each) == 3:  # noqa: PLR2004
            yield str(each[0]), str(each[1]), _count(each[2])


def _runs(members: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(writer, first, last) of the places that it says were removed; those that can't be read
    are left out.
    """
    listed = members.get("removed")
    found = []
    for run in listed if isinstance(listed, list) else ():
        if (
            isinstance(run, list)
            and len(run) > 2  # noqa: PLR2004
            and isinstance(run[0], str)
            and type(run[1]) is int
            and type(run[2]) is int
        ):
            _, first, last, *_ = run
            if 0 < first <= last <= _PLACE_MAX:
                found.append((run[0], first, last))
    return found


def _attested(database: Database) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    after = 0
    while True:
        rows = database.read_page(
            _BODIES.replace("ORDER BY", f"AND a.id > {after} ORDER BY") + " LIMIT 100"
        )
        if not rows:
            return
        for number, host, user, pid, program, uuid, body in rows:
            after = int(number)
            members = read_body(body)
            if members is not None:
                yield (
                    [
                        *(text_or_none(each) for each in (host, user)),
                        pid if isinstance(pid, int) else None,
                        text_or_none(program),
                        str(uuid),
                    ],
                    members,
                )


def _metric(member: Any) -> tuple[str, str, RemovedMetric] | None:  # noqa: ANN401
    try:
        component, name, points, *numbers, last, steps = member
        total, magnitude, low, high = map(float, numbers)
        seq, value, step, timestamp_ns = last
        point = LastPoint(
            int(seq), float(value), None if step is None else int(step), int(timestamp_ns)
        )
        span = None if steps is None else (int(steps[0]), int(steps[1]))
        if int(points) < 1 or not all(
            map(math.isfinite, (total, magnitude, low, high, point.value))
        ):
            return None
        return (
            str(component).lower(),
            str(name),
            RemovedMetric(int(points), total, magnitude, low, high, point, span),
        )
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _archive(member: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: member.get(key) for key in ("name", "sha256", "bytes", "rows")}
    return {
        key: value[:_TEXT_CHARS_MAX] if isinstance(value, str) else value
        for key, value in known.items()
        if isinstance(value, (str, int))
    }


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
