"""Define the requests that a replay can make, as values.

Each says what it carries, which entries it settles, and how several calls fold into one.
``planner`` makes them from entries.

Invariant: actions are performed in the order of their ``phase``. A component exists before
anything else of it is sent. A blob is uploaded before the reference that names it.

Pure: no I/O, no clock, no randomness. Must not know SQLite or any remote.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import (
    Artifact,
    FieldMap,
    FieldValue,
    Part,
    Place,
    Status,
    merge_status,
)
from journaltrack.journal.groups import (
    Declaration,
    Declared,
    GroupKind,
    declared,
    laid_over,
    named_trial,
    row_of,
)
from journaltrack.journal.vocabulary import BlobRef, Direction, Entry

if TYPE_CHECKING:
    from journaltrack.util.digest import PartDigests

Mode: TypeAlias = Literal["create", "resume", "load", "job"]

Run: TypeAlias = tuple[int, int, int]
"""(writer's id, first, last): consecutive entries by their places in their writer's chain."""

KEYS_MAX: dict[FieldMap, int] = {
    "parameters": limits.PARAMETERS_MAX,
    "input_artifacts": limits.ARTIFACTS_MAX,
    "output_artifacts": limits.ARTIFACTS_MAX,
    "status": 1,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """Say what to create.

    ``describe`` returns ``owner``, which tells our own create from somebody else's.

    Attributes:
        experiment: Of its first trial, for a remote whose runs are made in an experiment.
        start_ns: When the run began, if that is known, for a remote that keeps its first word.
    """

    name: str
    owner: str
    display_name: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    experiment: str | None = None
    start_ns: int | None = None


class MetricPoint(NamedTuple):
    """One point. ``timestamp_ns`` is nanoseconds since the epoch, UTC."""

    name: str
    value: float
    step: int | None
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class Points:
    """Hold pending points of one component that can be sent as they are.

    Columns of equal length, in order of ``seq``. To make an ``Entry`` of each would take longer
    than everything else done with it (benchmarks/settle.py).
    """

    component_id: int
    component: str
    seqs: Sequence[int]
    writer_ids: Sequence[int]
    writer_seqs: Sequence[int]
    names: Sequence[str]
    values: Sequence[float]
    steps: Sequence[int | None]
    timestamps_ns: Sequence[int]


@dataclass(frozen=True, slots=True)
class Fields:
    """Hold what an update sets on a component.

    Keys that are named are replaced. The others are left alone.
    """

    parameters: Mapping[str, str | float] = field(default_factory=dict)
    input_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    output_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Set one key of one map to a new value.

    Attributes:
        map: The map.
        key: The key.
        value: The new value.
        seq: The entry that sets it.
        superseded: Earlier entries that this one overrides.
        parts: All these entries in the order of recording. () for one entry alone.
    """

    map: FieldMap
    key: str
    value: FieldValue
    seq: int
    superseded: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, field_map: FieldMap, key: str, parts: Sequence[Part]) -> Change:
        """Fold several entries, which are in order, into one change."""
        value = parts[-1].value
        if field_map == "status":
            value = functools.reduce(merge_status, (part.value for part in parts))
        return cls(
            field_map,
            key,
            value,
            parts[-1].place.seq,
            tuple(part.place.seq for part in parts[:-1]),
            tuple(parts),
        )

    @property
    def each(self) -> tuple[Part, ...]:
        """Return all entries, in order."""
        return self.parts or (Part(Place(self.seq), self.value),)

    def without(self, seqs: Collection[int]) -> Change | None:
        """Return the change without these entries. None if no entry is left."""
        left = [part for part in self.each if part.place.seq not in seqs]
        return Change.of(self.map, self.key, left) if left else None

    def split(self) -> tuple[Change, ...]:
        """Return the earlier entries and the later ones. () for a single entry."""
        return tuple(Change.of(self.map, self.key, half) for half in _halves(self.parts))


@dataclass(frozen=True, slots=True)
class ComponentState:
    """Hold what the journal knows of a component beside its pending entries.

    Attributes:
        confirmed: The remote said that it exists.
        create_attempted: A create was sent before, and its outcome is not known.
        keys: Keys per map that the remote holds from us.
        locations: Where blobs of this component are, with the receipt of the upload.
        refused: Blobs whose upload is quarantined.
        held: By map and key: the entry whose value the remote holds from us.
        statuses: The status calls that arrived, in order. Read only if a pending one was
            recorded before the last of them.
        origins: ``Place.origin`` by writer. A writer without one has 0.
        own_until_ns: For ``Update.own_until_ns``. None: this journal made the component.
        grouped: Entries about experiments, trials and tags that arrived. Read only if one is
            pending.
    """

    confirmed: bool = False
    create_attempted: bool = False
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    locations: Mapping[BlobRef, tuple[str, int]] = field(default_factory=dict)
    refused: frozenset[BlobRef] = frozenset()
    held: Mapping[tuple[str, str], Place] = field(default_factory=dict)
    statuses: Sequence[Part] = ()
    origins: Mapping[int, int] = field(default_factory=dict)
    own_until_ns: int | None = None
    grouped: Sequence[Entry] = ()

    def overridden_by(self, field_map: str, key: str, place: Place) -> int | None:
        """Return the later entry whose value the remote holds for a key, or None.

        That value stays. A later entry can arrive first: it did not wait for an upload, or the
        earlier one was released or came by a merge.
        """
        held = self.held.get((field_map, key))
        return held.seq if held is not None and place.is_before(held) else None


@dataclass(frozen=True, slots=True)
class Ensure:
    """Make the component exist.

    Attributes:
        attempted: An earlier request of this journal may have made it. False: if it exists with
            our own owner, another copy of the journal made it.
    """

    phase: ClassVar[int] = 1
    action: ClassVar[str] = "ensure"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    spec: ComponentSpec
    mode: Mode
    describe_first: bool
    seqs: tuple[int, ...]
    attempted: bool = True

    def split(self) -> tuple[Ensure, ...]:
        """Return (): a single request can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Declare:
    """Make an experiment or a trial unless it is there, and set what declarations give.

    If it is refused, nothing waits for it: who needs one makes it as well. If it fails for now,
    they wait, since theirs would be bare.

    Attributes:
        component: The row that stands for it.
        parts: What its entries declare, in order.
    """

    phase: ClassVar[int] = 1
    action: ClassVar[str] = "declare"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    parts: tuple[Declaration, ...]

    @property
    def seqs(self) -> tuple[int, ...]:
        """Return the entries that this settles."""
        return tuple(sorted(part.seq for part in self.parts))

    @property
    def is_of_experiment(self) -> bool:
        """Return whether it declares an experiment, not a trial."""
        return self.parts[0].group.kind == "experiment"

    @property
    def makes(self) -> tuple[str, ...]:
        """Return the rows of what it makes as well, bare, if it is missing; in lower case."""
        experiment = self.parts[0].group.experiment
        return (row_of("experiment", experiment).lower(),) if experiment else ()

    @property
    def declared(self) -> Declared:
        """Return what to make, and what to set."""
        return declared(self.parts)

    @property
    def overridden(self) -> dict[int, int]:
        """Return the entries of which nothing is sent, by ``seq``: the one that overrides each."""
        found: dict[int, int] = {}
        later: Declaration | None = None
        for part in reversed(self.parts):
            if part.if_new:
                continue
            if later is not None and not part.is_bare and part.without(later.group).is_bare:
                found[part.seq] = later.seq
            group = part.group if later is None else laid_over(part.group, later.group)
            later = replace(part, seq=later.seq if later else part.seq, group=group)
        return found

    def split(self) -> tuple[Declare, ...]:
        """Return two halves, to find the entry that the remote refuses. () for one entry."""
        return tuple(replace(self, parts=half) for half in _halves(self.parts))


@dataclass(frozen=True, slots=True)
class Associate:
    """Put the component into the trial, and the trial into the experiment."""

    phase: ClassVar[int] = 2
    action: ClassVar[str] = "associate"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    experiment: str | None
    trial: str | None
    seqs: tuple[int, ...]

    @property
    def its_trial(self) -> str:
        """Return the trial's name: without one, that of the experiment's default trial."""
        return named_trial(self.experiment, self.trial)

    @property
    def makes(self) -> tuple[str, ...]:
        """Return the rows of what it makes, bare, if it is missing; in lower case."""
        named: tuple[tuple[GroupKind, str | None], ...] = (
            ("experiment", self.experiment),
            ("trial", self.its_trial),
        )
        return tuple(row_of(kind, name).lower() for kind, name in named if name)

    def split(self) -> tuple[Associate, ...]:
        """Return (): a single request can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Disassociate:
    """Take the component out of the trial."""

    phase: ClassVar[int] = 2
    action: ClassVar[str] = "disassociate"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    trial: str
    seqs: tuple[int, ...]

    def split(self) -> tuple[Disassociate, ...]:
        """Return (): a single request can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class AddTags:
    """Add tags to those that the component has.

    Attributes:
        parts: The tags of each entry, in order: the last value per key counts. None removes one.
    """

    phase: ClassVar[int] = 2
    action: ClassVar[str] = "tags"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    parts: tuple[tuple[int, tuple[tuple[str, str | None], ...]], ...]

    @property
    def seqs(self) -> tuple[int, ...]:
        """Return the entries that this settles."""
        return tuple(sorted(seq for seq, _ in self.parts))

    @property
    def tags(self) -> dict[str, str | None]:
        """Return what to add, and what to remove."""
        return {key: value for _, tags in self.parts for key, value in tags}

    def split(self) -> tuple[AddTags, ...]:
        """Return two halves, to find the entry that the remote refuses. () for one entry."""
        return tuple(replace(self, parts=half) for half in _halves(self.parts))


class Restore(AddTags):
    """Restore a run that was deleted, before anything else of it is sent."""

    phase: ClassVar[int] = 1


class Conclude(AddTags):
    """Complete a run's models, and delete it, after everything else of it has arrived."""

    phase: ClassVar[int] = 4

    @property
    def deletes(self) -> bool:
        """Return whether it deletes the run."""
        return self.tags.get(vocabulary.STAGE) == vocabulary.DELETED


@dataclass(frozen=True, slots=True)
class Upload:
    """Put the blob into S3 under the artifact's name.

    Attributes:
        more_names: Further names of the same content, for a remote that keeps each name.
        replacing: Those names under which it replaces what the run had.
        parts: The digests of a large content's parts, if they were recorded.
    """

    phase: ClassVar[int] = 2
    action: ClassVar[str] = "upload"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    blob: BlobRef
    name: str
    size_bytes: int
    media_type: str | None
    seqs: tuple[int, ...]
    more_names: tuple[str, ...] = ()
    replacing: frozenset[str] = frozenset()
    parts: PartDigests | None = None

    def split(self) -> tuple[Upload, ...]:
        """Return (): a single request can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Link:
    """Make a lineage artifact of an uploaded blob, and associate it with the component.

    Nothing waits for it. ``uri`` is where the blob is; None as long as it is not uploaded.
    """

    phase: ClassVar[int] = 3
    action: ClassVar[str] = "lineage"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    blob: BlobRef
    uri: str | None
    name: str
    artifact_type: str
    direction: Direction
    seqs: tuple[int, ...]

    def split(self) -> tuple[Link, ...]:
        """Return (): a single request can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Update:
    """Set the component's fields to these values.

    Attributes:
        changes: The values, by map and key.
        own_until_ns: When the last status of this journal that arrived was recorded, nanoseconds
            since the epoch. What the remote shows after this time is another journal's
            (``planner.beside``). None: no other journal writes to the component.
    """

    phase: ClassVar[int] = 3
    action: ClassVar[str] = "update"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    changes: tuple[Change, ...]
    own_until_ns: int | None = None

    @property
    def seqs(self) -> tuple[int, ...]:
        """Return the entries that this settles, the overridden ones included."""
        return tuple(
            sorted(seq for change in self.changes for seq in (change.seq, *change.superseded))
        )

    @property
    def ends(self) -> bool:
        """Return whether it ends the component's run."""
        return any(
            isinstance(c.value, Status) and c.value.primary in {"Completed", "Failed", "Stopped"}
            for c in self.changes
        )

    def split(self) -> tuple[Update, ...]:
        """Return two halves, to find the entry that the remote refuses. () for one entry.

        They are in the order in which to send them. If a later value is refused, an earlier one
        is sent after all.
        """
        halves = _halves(self.changes) or tuple(
            (each,) for change in self.changes for each in change.split()
        )
        return tuple(replace(self, changes=half) for half in halves)

    def fields(self) -> Fields:
        """Return the request's content. Its blobs must be resolved."""
        return fold(self.changes)


@dataclass(frozen=True, slots=True)
class PutMetrics:
    """Record these points. Not idempotent: sent twice, they may exist twice.

    ``runs`` are the places of its entries in their writers' chains, in order of ``seq``. ()
    means not known.
    """

    phase: ClassVar[int] = 3
    action: ClassVar[str] = "metrics"
    idempotent: ClassVar[bool] = False
    component_id: int
    component: str
    points: tuple[MetricPoint, ...]
    seqs: tuple[int, ...]
    runs: tuple[Run, ...] = ()

    def split(self) -> tuple[PutMetrics, ...]:
        """Return two halves, to find the point that the remote refuses. () for one point."""
        if len(self.points) < 2:  # noqa: PLR2004
            return ()
        middle = len(self.points) // 2
        return (self.pick(range(middle)), self.pick(range(middle, len(self.points))))

    def alike(self, step_ns: int) -> list[int]:
        """Return the entries whose point equals an earlier one, in times of ``step_ns``."""
        seen: set[tuple[object, ...]] = set()
        found = []
        for seq, point in zip(self.seqs, self.points, strict=True):
            value = point.value if math.isfinite(point.value) else str(point.value)
            key = (point.name, value, point.step or 0, point.timestamp_ns // step_ns)
            if key in seen:
                found.append(seq)
            seen.add(key)
        return found

    def within(self, now_ns: int, age_max_s: float, ahead_max_s: float) -> PutMetrics:
        """Return the same with ``now_ns`` as the time of each point out of these bounds.

        Steps and order stay.

        Args:
            now_ns: Nanoseconds since the epoch.
            age_max_s: How old a point may be, seconds.
            ahead_max_s: How far ahead a point may be, seconds.
        """
        first_ns, last_ns = now_ns - int(age_max_s * 1e9), now_ns + int(ahead_max_s * 1e9)
        if all(first_ns <= point.timestamp_ns <= last_ns for point in self.points):
            return self
        points = (
            p if first_ns <= p.timestamp_ns <= last_ns else p._replace(timestamp_ns=now_ns)
            for p in self.points
        )
        return replace(self, points=tuple(points))

    def pick(self, indexes: Iterable[int]) -> PutMetrics:
        """Return the same with some of the points, by position."""
        chosen = list(indexes)
        return replace(
            self,
            points=tuple(self.points[i] for i in chosen),
            seqs=tuple(self.seqs[i] for i in chosen),
            runs=(),
        )


@dataclass(frozen=True, slots=True)
class PutPoints(PutMetrics):
    """The same for a remote on which points that were sent twice are there once.

    It has a name of its own, so that whoever finds its intent knows that it may be sent again.
    """

    action: ClassVar[str] = "points"
    idempotent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Settle:
    """Settle entries without a request."""

    phase: ClassVar[int] = 0
    action: ClassVar[str] = "settle"
    component_id: int
    seqs: tuple[int, ...]
    outcome: Literal["superseded", "quarantined"]
    reason: str
    receipt_id: int | None = None


Request: TypeAlias = (
    Ensure | Declare | Associate | Disassociate | AddTags | Upload | Link | Update | PutMetrics
)
Action: TypeAlias = Settle | Request


def _halves(parts: tuple[T, ...]) -> tuple[tuple[T, ...], ...]:
    """Return the earlier parts and the later ones. () for less than two."""
    middle = len(parts) // 2
    return (parts[:middle], parts[middle:]) if middle else ()


def fold(changes: Iterable[Change]) -> Fields:
    """Return the last value per key."""
    maps: dict[str, dict[str, FieldValue]] = defaultdict(dict)
    for change in changes:
        maps[change.map][change.key] = change.value
    status = maps["status"].get("")
    return Fields(
        parameters={k: v for k, v in maps["parameters"].items() if isinstance(v, (str, float))},
        input_artifacts={
            k: v for k, v in maps["input_artifacts"].items() if isinstance(v, Artifact)
        },
        output_artifacts={
            k: v for k, v in maps["output_artifacts"].items() if isinstance(v, Artifact)
        },
        status=status if isinstance(status, Status) else None,
    )
