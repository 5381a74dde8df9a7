"""What was removed from a journal on the record: when, by whom, and what its metrics add up to. Reads attestations; changes nothing.

Whoever compares a journal with a service (``doubts``) or shows sums (``show``, ``audit``) adds what is here to what is still in
the tables. Costs the attestations of prunes, and of other decisions without a request: few and small.

A journal is data from somebody else: what can't be read counts as nothing here, and ``report_attestations`` tells of it.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.database import Database

PRUNE: Final = "prune"
"""The action of attestations that say what was removed."""
_TEXT_CHARS_MAX: Final = 300
_MOST: Final = sys.float_info.max  # a sum may overflow, and JSON has no infinity
_BODIES: Final = (  # indexes lead to the few that are of no request, and to those that came from another copy of the journal
    "SELECT a.id, w.host, w.user, w.pid, w.program, w.uuid, a.body FROM attestation a JOIN writer w ON w.id = a.writer_id "
    f"WHERE (a.receipt_id IS NULL OR a.receipt_id IN (SELECT id FROM receipt WHERE component_id IS NULL AND action = '{PRUNE}')) "
    f'AND substr(a.body, 1, 17) = \'{{"action":"{PRUNE}"\' ORDER BY a.id'
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
        points, sum, magnitude, minimum, maximum: Of their values; ``magnitude`` is the sum of their absolute values.
        last: The last of them.
        steps: (first, last) of their steps; None when none has one.
    """

    points: int
    sum: float
    magnitude: float
    minimum: float
    maximum: float
    last: LastPoint
    steps: tuple[int, int] | None

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
        )

    def may_have(self, step: int) -> bool:
        """Whether one of the removed points may be of that step."""
        return self.steps is not None and self.steps[0] <= step <= self.steps[1]

    def to_member(self, component: str, name: str) -> list[Any]:
        """As the attestation's member ``metrics`` has it."""
        numbers = [max(-_MOST, min(value, _MOST)) for value in (self.sum, self.magnitude, self.minimum, self.maximum)]
        return [component, name, self.points, *numbers, list(self.last), self.steps and list(self.steps)]


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
        archive: ``name``, ``sha256``, ``bytes``, ``rows`` of the export that was written first; None: there was none.
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


def metrics(database: Database, component: str | None = None) -> dict[tuple[str, str], RemovedMetric]:
    """By component (in lower case) and metric: what was removed.

    Args:
        database: Of the journal.
        component: Only of the component of that name (case does not matter); None: of all.
    """
    found: dict[tuple[str, str], RemovedMetric] = {}
    wanted = None if component is None else component.lower()
    for _, members in _prunes(database):
        listed = members.get("metrics")
        for member in listed if isinstance(listed, list) else ():
            read = _metric(member)
            if read is None or wanted not in {None, read[0]}:
                continue
            key = read[:2]
            found[key] = found[key].plus(read[2]) if key in found else read[2]
    return found


def removals(database: Database) -> list[Removal]:
    """All prunes, in order; what one removed in several transactions is one."""
    found: dict[tuple[str, int], Removal] = {}
    for who, members in _prunes(database):
        *process, uuid = who
        at_ns = _count(members.get("started_at_ns"))
        before_ns = members.get("before_ns")
        removal = found.get((uuid, at_ns)) or Removal(at_ns, before_ns if isinstance(before_ns, int) else None, *process)
        by_component, by_kind = defaultdict(int, removal.by_component), defaultdict(int, removal.by_kind)
        entries = 0
        counts = members.get("counts")
        for count in counts if isinstance(counts, list) else ():
            if isinstance(count, list) and len(count) == 3:  # noqa: PLR2004 - component, kind, entries
                by_component[str(count[0])] += _count(count[2])
                by_kind[str(count[1])] += _count(count[2])
                entries += _count(count[2])
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


def entries_in(connection: sqlite3.Connection) -> int:
    """How many entries were removed in all, of a database that is being rebuilt."""
    total = 0
    for *_, body in connection.execute(_BODIES):
        counts = (_members(body) or {}).get("counts")
        total += sum(_count(each[2]) for each in (counts if isinstance(counts, list) else ()) if isinstance(each, list) and len(each) == 3)  # noqa: PLR2004
    return total


def _prunes(database: Database) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(host, user, pid, program, uuid) of the process and the members of each attestation of a prune.

    What was removed from another copy of the journal alone does not count: it is still here.
    """
    firsts = {first for _, members in _attested(database) if (first := _first(members)) is not None}
    here: set[tuple[str, int]] = set()
    if firsts:
        ids = {str(uuid): i for i, uuid in database.read("SELECT id, uuid FROM writer")}
        uuids = {i: uuid for uuid, i in ids.items()}
        places = json.dumps([(ids[uuid], place) for uuid, place in firsts if uuid in ids])
        sql = (
            "SELECT writer_id, writer_seq FROM entry WHERE (writer_id, writer_seq) IN "
            "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
        )
        here = {(uuids[writer_id], place) for writer_id, place in database.read(sql, (places,))}
    for who, members in _attested(database):
        if _first(members) not in here:
            yield who, members


def _first(members: Mapping[str, Any]) -> tuple[str, int] | None:
    """The first of the entries that it says were removed: its writer and place."""
    listed = members.get("removed")
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, list) or len(first) < 2 or not isinstance(first[0], str) or type(first[1]) is not int:  # noqa: PLR2004
        return None
    return (first[0], first[1]) if 0 < first[1] < 2**63 else None


def _attested(database: Database) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    after = 0
    while True:
        rows = database.read_page(_BODIES.replace("ORDER BY", f"AND a.id > {after} ORDER BY") + " LIMIT 100")
        if not rows:
            return
        for number, host, user, pid, program, uuid, body in rows:
            after = int(number)
            members = _members(body)
            if members is not None:
                yield [*(_text(each) for each in (host, user)), pid if isinstance(pid, int) else None, _text(program), str(uuid)], members


def _members(body: object) -> dict[str, Any] | None:
    try:
        members = json.loads(body) if isinstance(body, str) else None
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _metric(member: Any) -> tuple[str, str, RemovedMetric] | None:  # noqa: ANN401 - whatever the journal says
    try:
        component, name, points, *numbers, last, steps = member
        total, magnitude, low, high = map(float, numbers)
        seq, value, step, timestamp_ns = last
        point = LastPoint(int(seq), float(value), None if step is None else int(step), int(timestamp_ns))
        span = None if steps is None else (int(steps[0]), int(steps[1]))
        if int(points) < 1 or not all(map(math.isfinite, (total, magnitude, low, high, point.value))):
            return None
        return str(component).lower(), str(name), RemovedMetric(int(points), total, magnitude, low, high, point, span)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _archive(member: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: member.get(key) for key in ("name", "sha256", "bytes", "rows")}
    return {
        key: value[:_TEXT_CHARS_MAX] if isinstance(value, str) else value for key, value in known.items() if isinstance(value, (str, int))
    }


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
