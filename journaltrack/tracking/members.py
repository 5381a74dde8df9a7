"""Hold the members of a trial component as a script reads them, and sum up its metrics.

Apart from what records: a start of training needs none of them, and dataclasses take a tenth of it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from journaltrack.journal.journal import Journal
from journaltrack.tracking.recording import moment

_SUMMARIES: Final = (
    "SELECT e.component_id, e.name, m.points, m.least, m.most, m.mean, e.value, e.timestamp_ns "
    "FROM (SELECT count(*) points, min(value) least, max(value) most, avg(value) mean, "
    "max(seq) newest FROM entry WHERE (?1 IS NULL OR component_id = ?1) AND stream = 'metric' "
    "AND typeof(value) = 'real' AND typeof(name) = 'text' {} GROUP BY component_id, name) m "
    "JOIN entry e ON e.seq = m.newest ORDER BY e.name"
)
_UNKNOWN: Final = (
    "AND writer_seq > (SELECT coalesce(max(k.value), 0) FROM writer w, json_each(?2) k "
    "WHERE w.id = writer_id AND k.key = w.uuid)"
)
_PLACES: Final = (
    "SELECT w.uuid, max(e.writer_seq) FROM entry e JOIN writer w ON w.id = e.writer_id "
    "GROUP BY e.writer_id"
)


@dataclass(frozen=True, slots=True)
class TrialComponentArtifact:
    """An artifact.

    ``value`` is a URI or a text; of a file that is not uploaded yet, its path in the spool.
    """

    value: str
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentStatus:
    """``primary_status`` is InProgress, Completed, Failed, Stopping or Stopped."""

    primary_status: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentSource:
    """The job that a component belongs to."""

    source_arn: str | None = None
    source_type: str | None = None


@dataclass(frozen=True, slots=True)
class TrialComponentMetricSummary:
    """A metric's points in the journal, as SageMaker would sum them up."""

    metric_name: str
    count: int
    min: float
    max: float
    avg: float
    last: float
    time_stamp: datetime | None = None


Summaries: TypeAlias = list[TrialComponentMetricSummary]


def metric_summaries(
    journal: Journal, component_id: int | None = None, *, beyond: Mapping[str, int] | None = None
) -> dict[int, Summaries]:
    """Return the summaries of metrics by component: of one, or of all in one look at the points.

    Args:
        journal: An open journal.
        component_id: Of the component; None for all.
        beyond: Leave out what is known already: by a process's uuid, up to which place.
    """
    found: dict[int, Summaries] = defaultdict(list)
    known = () if beyond is None else (json.dumps(beyond),)
    sql = _SUMMARIES.format(_UNKNOWN if known else "")
    for each, name, points, least, most, mean, last, at_ns in journal.database.read(
        sql, (component_id, *known)
    ):
        at = moment(at_ns if type(at_ns) is int else None)
        found[each].append(TrialComponentMetricSummary(name, points, least, most, mean, last, at))
    return found


def summaries_elsewhere(journal: Journal, name: str, others: Iterable[Path]) -> Summaries:
    """Return the summaries of a run in other journals, without entries that a journal has.

    Args:
        journal: The journal.
        name: The run's.
        others: The folders of the others. A point that several of them have counts once.

    Raises:
        JournalError: One of them can't be read.
    """
    known = dict(_places(journal))
    found: Summaries = []
    for folder in others:
        with closing(Journal.open(folder, create=False, read_only=True)) as other:
            row = other.find(name)
            if row is None:
                continue
            places = dict(_places(other))
            beyond = {uuid: known[uuid] for uuid in places.keys() & known.keys()} or None
            found += metric_summaries(other, row.id, beyond=beyond).get(row.id, [])
            for uuid, place in places.items():
                known[uuid] = max(place, known.get(uuid, 0))
    return found


def _places(journal: Journal) -> Iterator[tuple[str, int]]:
    yield from ((str(uuid), int(place)) for uuid, place in journal.database.read(_PLACES))


def summed_up(summaries: Iterable[TrialComponentMetricSummary]) -> Summaries:
    """Return one summary for each metric, by name."""
    found: dict[str, TrialComponentMetricSummary] = {}
    for each in summaries:
        known = found.get(each.metric_name)
        found[each.metric_name] = each if known is None else _sum(known, each)
    return [found[name] for name in sorted(found)]


def _sum(
    one: TrialComponentMetricSummary, other: TrialComponentMetricSummary
) -> TrialComponentMetricSummary:
    later = max(one, other, key=lambda each: each.time_stamp.timestamp() if each.time_stamp else 0)
    points = one.count + other.count
    return TrialComponentMetricSummary(
        one.metric_name,
        points,
        min(one.min, other.min),
        max(one.max, other.max),
        (one.avg * one.count + other.avg * other.count) / points,
        later.last,
        later.time_stamp,
    )
