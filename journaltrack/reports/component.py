"""Show one trial component as the journal knows it, offline.

Parameters, artifacts and status are folded, metrics are summed up. The fold is the plan's: the
last call per key wins. It covers everything recorded, not only what is pending. So a person sees
what SageMaker will show after delivery, and each value says whether it is delivered.

The module reads the journal. It prints nothing and changes nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.journal import contents, destinations, groups, interruption, removed, view
from journaltrack.journal.fold import (
    MAP_OF_KIND,
    Artifact,
    FieldValue,
    PendingArtifact,
    Place,
    Status,
    blob_of,
    in_order,
    merge_status,
    required_text,
    value_of,
)
from journaltrack.journal.interruption import RunInProgress
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.journal.queries import ENTRY_COLUMNS, IS_POINT, origins
from journaltrack.journal.view import State
from journaltrack.journal.vocabulary import (
    ASSOCIATE,
    CREATE,
    DISASSOCIATE,
    IN_FILE,
    LABEL,
    LINEAGE,
    NOTE,
    PARAMETER,
    PARAMETERS_FILE,
    RUN_NAME,
    STATUS,
    TAGS,
    UPLOAD,
    Entry,
    entry_of,
    is_for_file,
    label_of,
    lay_tags,
    note_of,
    tags_of,
    undeliverable,
)
from journaltrack.journal.writer_records import WriterRecord, writer
from journaltrack.reports.datasets import DatasetView, of_labels
from journaltrack.reports.processes import Recorders
from journaltrack.reports.proof.hearsay import Hearsay, of_component
from journaltrack.util import config
from journaltrack.util.text import text_or_none

if TYPE_CHECKING:
    from journaltrack.journal.journal import ComponentRow, Journal

_PAGE_ENTRIES: Final = 10_000
_IN_TURN: Final[Mapping[str, Callable[[Entry], object]]] = {
    TAGS: tags_of,
    LABEL: label_of,
    NOTE: note_of,
    **dict.fromkeys(groups.MEMBERSHIPS, groups.membership_of),
}
"""Kinds whose entries are kept until all are read, and what raises if one can't be read."""


@dataclass(frozen=True, slots=True)
class ParameterView:
    """A parameter's last value.

    A number that is not finite, or too large for a double, is shown as text.

    Attributes:
        in_file: SageMaker can't take it: it is, or will be, in the artifact ``parameters.json``.
    """

    name: str
    value: str | float
    state: State | None
    recorded_at_ns: int
    in_file: bool = False

    @property
    def place(self) -> str:
        """Return where it is, in words: in the artifact, or its state."""
        return f"in {PARAMETERS_FILE}" if self.in_file else str(self.state)


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """An input or output artifact.

    Attributes:
        value: Its text, or its URI once it is uploaded.
        sha256, size_bytes: Of a logged file.
        direction, kind, step, writer_id: See ``journal.contents``; only in ``artifacts``.
    """

    name: str
    value: str | None
    media_type: str | None
    sha256: str | None
    size_bytes: int | None
    state: State | None
    recorded_at_ns: int
    direction: str | None = None
    kind: str | None = None
    step: int | None = None
    writer_id: int | None = None


@dataclass(frozen=True, slots=True)
class StatusView:
    """Status and times. Only the journal holds ``traceback``."""

    primary: str | None = None
    message: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class MetricView:
    """One metric: its points, the last recorded one, and the finite extremes.

    Attributes:
        removed: Points that were removed from the journal on the record. All numbers here include
            them.
    """

    name: str
    points: int
    not_finite: int
    last_value: float | str | None
    last_step: int | None
    last_timestamp_ns: int | None
    minimum: float | None
    maximum: float | None
    removed: int = 0


@dataclass(frozen=True, slots=True)
class LineageView:
    """A lineage artifact of a logged file or chart.

    Attributes:
        name: The artifact's name.
        artifact_type: A chart's type, or a file's media type.
        direction: "output" or "input".
        title: What the caller named it.
        sha256: Of the content.
        uri: Where the content is, once it is uploaded.
    """

    name: str
    artifact_type: str
    direction: str
    title: str
    sha256: str
    uri: str | None
    state: State | None
    recorded_at_ns: int


@dataclass(frozen=True, slots=True)
class ComponentView:
    """A component, offline.

    Attributes:
        trials: The (experiment, trial) pairs that it belongs to.
        run: The state of a run in progress; None when it is over or never began.
        hearsay: What of it counts as delivered only because others say so.
        unreadable: The ``seq`` of entries that can't be read.
        diffs: Git's diffs, each once.
        artifacts: All that the run has: inputs and outputs, charts, each step of what was logged
            with steps, and git's diffs.
        datasets: The dataset inputs that MLflow's code logged.
        writers: The processes that recorded it, see ``processes``, the newest last.
        imported_from: The format and name of the source that it was imported from. None: it was
            recorded here.
        is_import: Whether ``writers`` only copied it: their code is not the run's.
    """

    name: str
    journal: str
    origins: tuple[str, ...]
    display_name: str | None
    arn: str | None
    confirmed_at_ns: int | None
    tags: dict[str, str]
    trials: tuple[tuple[str | None, str | None], ...]
    status: StatusView
    parameters: tuple[ParameterView, ...]
    inputs: tuple[ArtifactView, ...]
    outputs: tuple[ArtifactView, ...]
    metrics: tuple[MetricView, ...]
    unreadable: tuple[int, ...]
    run: RunInProgress | None = None
    hearsay: tuple[Hearsay, ...] = ()
    lineage: tuple[LineageView, ...] = ()
    note: str | None = None
    diffs: tuple[ArtifactView, ...] = ()
    writers: tuple[WriterRecord, ...] = ()
    imported_from: str | None = None
    is_import: bool = False
    artifacts: tuple[ArtifactView, ...] = ()
    datasets: tuple[DatasetView, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes, see ``journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


class _Called(NamedTuple):
    """One entry that sets something."""

    place: Place
    entry: Entry
    value: FieldValue
    state: State | None

    def gives_way_to(self, other: _Called) -> bool:
        """Return whether SageMaker shows the other entry instead of this one.

        It shows the later one, but not one that it refused.
        """
        refused, others = self.state == "quarantined", other.state == "quarantined"
        return self.place.is_before(other.place) if refused == others else refused


@dataclass(slots=True)
class _Fold:
    display_name: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    # Entries of kinds whose order tells which one counts.
    in_turn: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[str, int] = field(default_factory=dict)
    diffs: dict[str, tuple[Entry, State | None]] = field(default_factory=dict)
    recorders: Recorders = field(default_factory=Recorders)
    # Of the kinds that tell of artifacts, with their states.
    contents: list[tuple[Entry, State | None]] = field(default_factory=list)
    origins: Mapping[int, int] = field(default_factory=dict)
    statuses: list[_Called] = field(default_factory=list)
    last: dict[tuple[str, str], _Called] = field(default_factory=dict)
    # The last by name, type and direction.
    lineage: dict[tuple[object, ...], tuple[Entry, State | None]] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)
    # Of parameters that SageMaker can't take.
    in_file: set[int] = field(default_factory=set)


def _tags(fold: _Fold) -> dict[str, str]:
    found = dict(fold.tags)
    for entry in groups.ordered(fold.in_turn[TAGS] + fold.in_turn[LABEL], fold.origins):
        lay_tags(found, entry)
    return found


def show(
    journal: Journal | str | os.PathLike[str] | None, component: str, *, metrics: bool = True
) -> ComponentView:
    """Return a component's folded parameters, artifacts, status and metrics.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        component: Its name (case does not matter).
        metrics: Sum the metrics up, too, which reads all points.

    Raises:
        NothingMatchesError: The journal has no such component.
        JournalError: The journal can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        return _show(own, view.component(own, component), metrics=metrics)


def _show(journal: Journal, row: ComponentRow, *, metrics: bool) -> ComponentView:
    fold = _folded(journal, row.id)
    locations = {
        (sha256, bucket or None, prefix or None): uri
        for sha256, bucket, prefix, uri in journal.database.read(
            "SELECT sha256, bucket, prefix, uri FROM location WHERE component_id = ?", (row.id,)
        )
    }
    artifacts: dict[str, list[ArtifactView]] = {"input_artifacts": [], "output_artifacts": []}
    parameters = []
    for (field_map, name), (_, entry, value, state) in fold.last.items():
        if field_map == "parameters":
            exact = entry.detail.get("exact")
            shown = exact if isinstance(exact, str) else value
            parameters.append(
                ParameterView(
                    name,
                    shown if isinstance(shown, (str, float)) else "",
                    state,
                    entry.recorded_at_ns,
                    entry.seq in fold.in_file,
                )
            )
        else:
            artifacts[field_map].append(_artifact(entry, value, state, locations, fold.sizes))
    now, traceback = _status(fold.statuses)
    tags = _tags(fold)
    writers = fold.recorders.records(lambda each: writer(journal.database, each))
    return ComponentView(
        name=row.name,
        journal=str(journal.path),
        origins=view.origins(journal.database, row.id),
        display_name=tags.get(RUN_NAME) or fold.display_name,
        arn=row.arn,
        confirmed_at_ns=row.confirmed_at_ns,
        tags=tags,
        note=next(map(note_of, reversed(groups.ordered(fold.in_turn[NOTE], fold.origins))), None)
        or None,
        trials=tuple(
            groups.membership_of(entry)
            for entry in groups.memberships(
                fold.in_turn[ASSOCIATE] + fold.in_turn[DISASSOCIATE], fold.origins
            ).values()
            if entry.kind == ASSOCIATE
        ),
        status=StatusView(now.primary, now.message, now.start_ns, now.end_ns, traceback),
        parameters=tuple(parameters),
        inputs=tuple(artifacts["input_artifacts"]),
        outputs=tuple(artifacts["output_artifacts"]),
        metrics=_metrics(journal, row.id, row.name) if metrics else (),
        unreadable=tuple(fold.unreadable),
        run=interruption.of_component(journal, row.id, row.name),
        hearsay=of_component(journal.database, row.id),
        lineage=tuple(_lineage(fold, locations)),
        diffs=tuple(
            _artifact(entry, PendingArtifact(blob_of(entry)), state, locations, fold.sizes)
            for entry, state in fold.diffs.values()
        ),
        writers=writers,
        imported_from=fold.recorders.imported_from,
        is_import=fold.recorders.is_import(writers),
        artifacts=tuple(_artifacts(fold, locations)),
        datasets=of_labels(groups.ordered(fold.in_turn[LABEL], fold.origins)),
    )


def _folded(journal: Journal, component_id: int) -> _Fold:
    fold = _Fold(origins=origins(journal.database.read))
    # Only SageMaker gets such a file.
    is_own = destinations.name_of(journal.path) == config.SAGEMAKER
    for entry, state, reason in _state_entries(journal, component_id):
        try:
            _add(fold, entry, state)
            if reason == IN_FILE or (is_own and state == "pending" and _is_for_file(entry)):
                fold.in_file.add(entry.seq)
            fold.recorders.add(entry)
            if entry.kind in contents.KINDS:
                fold.contents.append((entry, state))
        except ValueError:  # noqa: PERF203 - one bad item must not hide the others
            fold.unreadable.append(entry.seq)
    return fold


def _is_for_file(entry: Entry) -> bool:
    return is_for_file(entry) and undeliverable(entry) is not None


def _state_entries(
    journal: Journal, component_id: int
) -> Iterator[tuple[Entry, State | None, object]]:
    flying = view.in_flight(journal.database)
    after_seq = 0
    while True:
        rows = journal.database.read_page(
            f"SELECT {ENTRY_COLUMNS}, d.outcome, d.reason FROM entry e "
            "LEFT JOIN delivery d ON d.seq = e.seq "
            "WHERE e.component_id = ? AND e.stream <> 'metric' AND e.seq > ? ORDER BY e.seq "
            "LIMIT ?",
            (component_id, after_seq, _PAGE_ENTRIES),
        )
        if not rows:
            return
        for *columns, outcome, reason in rows:
            entry = entry_of(tuple(columns))
            yield entry, view.state_of(outcome, flying=flying.names(entry.seq)), reason
        after_seq = rows[-1][0]


def _add(fold: _Fold, entry: Entry, state: State | None) -> None:
    if entry.unsound:
        raise ValueError(entry.unsound)
    detail = entry.detail
    if entry.kind == CREATE:
        tags = detail.get("tags")
        fold.display_name = text_or_none(detail.get("display_name")) or fold.display_name
        fold.tags |= (
            {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {}
        )
    elif entry.kind in _IN_TURN:
        _IN_TURN[entry.kind](entry)
        fold.in_turn[entry.kind].append(entry)
    elif entry.kind == UPLOAD:
        _add_upload(fold, entry, state)
    elif entry.kind == LINEAGE:
        blob_of(entry)
        kind, direction = required_text(detail, "type"), required_text(detail, "direction")
        fold.lineage[entry.name, kind, direction] = entry, state
    elif entry.kind in MAP_OF_KIND:
        exact = detail.get("exact") if entry.kind == PARAMETER and entry.value is None else None
        # The plan knows no value that is not finite: the exact text stands for it.
        value = exact if isinstance(exact, str) else value_of(entry)
        place = Place(entry.seq, entry.recorded_at_ns, fold.origins.get(entry.writer_id, 0))
        called = _Called(place, entry, value, state)
        if entry.kind == STATUS:
            fold.statuses.append(called)
            return
        key = (MAP_OF_KIND[entry.kind], str(entry.name))
        if key not in fold.last or fold.last[key].gives_way_to(called):
            fold.last[key] = called


def _add_upload(fold: _Fold, entry: Entry, state: State | None) -> None:
    size, sha256 = entry.detail.get("size"), blob_of(entry).sha256
    if entry.name == DIFF_NAME:
        fold.diffs[sha256] = entry, state
    if isinstance(size, int) and 0 <= size < 2**63:
        fold.sizes[sha256] = size


def _status(calls: Sequence[_Called]) -> tuple[Status, str | None]:
    """Merge all status calls but those that were refused.

    Returns:
        The merged status, and the traceback of the last call that set a primary status.
    """
    taken = [called for called in calls if called.state != "quarantined"] or list(calls)
    merged: FieldValue = Status()
    traceback = None
    for called in in_order(taken, [called.place for called in taken]):
        merged = merge_status(merged, called.value)
        if called.entry.detail.get("primary"):
            traceback = text_or_none(called.entry.detail.get("traceback"))
    return (merged if isinstance(merged, Status) else Status()), traceback


def _artifact(
    entry: Entry,
    value: FieldValue,
    state: State | None,
    locations: dict[tuple[str, str | None, str | None], str],
    sizes: dict[str, int],
) -> ArtifactView:
    media_type = text_or_none(entry.detail.get("media_type"))
    if isinstance(value, PendingArtifact):
        blob = value.blob
        uri = locations.get((blob.sha256, blob.bucket, blob.prefix))
        return ArtifactView(
            str(entry.name),
            uri,
            media_type,
            blob.sha256,
            sizes.get(blob.sha256),
            state,
            entry.recorded_at_ns,
        )
    text = value.value if isinstance(value, Artifact) else None
    return ArtifactView(str(entry.name), text, media_type, None, None, state, entry.recorded_at_ns)


def _artifacts(
    fold: _Fold, locations: dict[tuple[str, str | None, str | None], str]
) -> Iterator[ArtifactView]:
    entries = [entry for entry, _ in fold.contents]
    states = {entry.seq: (entry, state) for entry, state in fold.contents}
    places = [Place(e.seq, e.recorded_at_ns, fold.origins.get(e.writer_id, 0)) for e in entries]
    for each in contents.contents(in_order(entries, places)):
        entry, state = states[each.seq]
        blob = None if each.sha256 is None else blob_of(entry)
        uri = blob and locations.get((blob.sha256, blob.bucket, blob.prefix))
        yield ArtifactView(
            each.name,
            uri or each.value,
            each.media_type,
            each.sha256,
            each.size_bytes,
            state,
            entry.recorded_at_ns,
            each.direction,
            each.kind,
            each.step,
            each.writer_id,
        )


def _lineage(
    fold: _Fold, locations: dict[tuple[str, str | None, str | None], str]
) -> Iterator[LineageView]:
    for entry, state in fold.lineage.values():
        detail, blob, name = entry.detail, blob_of(entry), str(entry.name)
        yield LineageView(
            name,
            str(detail["type"]),
            str(detail["direction"]),
            text_or_none(detail.get("title")) or name,
            blob.sha256,
            locations.get((blob.sha256, blob.bucket, blob.prefix)),
            state,
            entry.recorded_at_ns,
        )


def _metrics(journal: Journal, component_id: int, component: str) -> tuple[MetricView, ...]:
    rows = journal.database.read(
        "SELECT m.name, m.points, m.points - m.finite, e.value, e.step, coalesce(e.timestamp_ns, "
        "e.recorded_at_ns), m.low, m.high, e.payload, m.last "
        "FROM (SELECT name, count(*) AS points, count(value) AS finite, min(value) AS low, "
        "max(value) AS high, max(seq) AS last FROM entry WHERE component_id = ? "
        f"AND {IS_POINT} GROUP BY name) m "
        "JOIN entry e ON e.seq = m.last ORDER BY m.name",
        (component_id,),
    )
    known: dict[str, tuple[int, MetricView]] = {}
    for name, points, not_finite, value, step, timestamp_ns, low, high, payload, last_seq in rows:
        exact = view.detail_of(payload).get("exact")
        shown = value if value is not None else text_or_none(exact)
        known[str(name)] = (
            last_seq,
            MetricView(str(name), points, not_finite, shown, step, timestamp_ns, low, high),
        )
    for (_, name), gone in removed.metrics(journal.database, component).items():
        last = gone.last
        before = MetricView(
            name,
            gone.points,
            0,
            last.value,
            last.step,
            last.timestamp_ns,
            gone.minimum,
            gone.maximum,
            gone.points,
        )
        known[name] = (
            _newer((last.seq, before), known[name]) if name in known else (last.seq, before)
        )
    return tuple(known[name][1] for name in sorted(known))


def _newer(one: tuple[int, MetricView], other: tuple[int, MetricView]) -> tuple[int, MetricView]:
    """Merge two parts of a metric's points.

    The last point is that of the part with the newer last entry.
    """
    parts = (one[1], other[1])
    newest = max(one, other, key=lambda part: part[0])
    low = [part.minimum for part in parts if part.minimum is not None]
    high = [part.maximum for part in parts if part.maximum is not None]
    return newest[0], replace(
        newest[1],
        points=sum(part.points for part in parts),
        not_finite=sum(part.not_finite for part in parts),
        minimum=min(low, default=None),
        maximum=max(high, default=None),
        removed=sum(part.removed for part in parts),
    )
