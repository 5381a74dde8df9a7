"""The requests that a replay can make, as values: what each carries, which entries it settles, how several calls fold into one.

Pure: no I/O, no clock, no randomness; must not know SQLite or any remote. An action's ``phase`` is the order in which
actions may be performed: a component exists before anything else of it is sent, and a blob is uploaded before the
reference that names it. ``plan`` makes them from entries.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.journal.entries import BlobRef
from journaltrack.journal.fold import Artifact, FieldMap, FieldValue, Part, Place, Status, merge_status

Mode: TypeAlias = Literal["create", "resume", "load", "job"]

Run: TypeAlias = tuple[int, int, int]
"""(writer's id, first, last): entries by their places in their writer's chain, which follow one another."""

KEYS_MAX: dict[FieldMap, int] = {
    "parameters": limits.PARAMETERS_MAX,
    "input_artifacts": limits.ARTIFACTS_MAX,
    "output_artifacts": limits.ARTIFACTS_MAX,
    "status": 1,
}


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """What to create. ``owner`` comes back from ``describe`` and tells our own create from somebody else's."""

    name: str
    owner: str
    display_name: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


class MetricPoint(NamedTuple):
    """One point; ``timestamp_ns`` is nanoseconds since the epoch, UTC."""

    name: str
    value: float
    step: int | None
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class Points:
    """Pending points of one component that can be sent as they are: columns of equal length, in order of ``seq``.

    An ``Entry`` for each takes longer to make than all else that is done with it (benchmarks/settle.py).
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
    """What an update sets on a component: keys that are named are replaced, the others are left alone."""

    parameters: Mapping[str, str | float] = field(default_factory=dict)
    input_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    output_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One key of one map: its new value, the entry that says so, and the earlier entries which that one overrides.

    ``parts`` are all of these entries in the order in which they were recorded; () for one alone.
    """

    map: FieldMap
    key: str
    value: FieldValue
    seq: int
    superseded: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, field_map: FieldMap, key: str, parts: Sequence[Part]) -> Change:
        """Several entries as one; they are in order."""
        value = parts[-1].value
        if field_map == "status":
            value = functools.reduce(merge_status, (part.value for part in parts))
        return cls(field_map, key, value, parts[-1].place.seq, tuple(part.place.seq for part in parts[:-1]), tuple(parts))

    @property
    def each(self) -> tuple[Part, ...]:
        """All entries, in order."""
        return self.parts or (Part(Place(self.seq), self.value),)

    def without(self, seqs: Collection[int]) -> Change | None:
        """The same without some of its entries; None if none is left."""
        left = [part for part in self.each if part.place.seq not in seqs]
        return Change.of(self.map, self.key, left) if left else None

    def split(self) -> tuple[Change, ...]:
        """The earlier entries, and the later ones; () for one entry alone."""
        middle = len(self.parts) // 2
        return tuple(Change.of(self.map, self.key, half) for half in (self.parts[:middle], self.parts[middle:])) if middle else ()


@dataclass(frozen=True, slots=True)
class ComponentState:
    """What the journal knows of a component beside its pending entries.

    Attributes:
        confirmed: The remote said that it exists.
        create_attempted: A create was sent before and its outcome is not known.
        keys: Keys per map that the remote holds by our doing.
        locations: Where blobs of this component are, with the receipt of the upload.
        refused: Blobs whose upload is quarantined.
        origins: ``Place.origin`` by writer; those that it does not name have 0.
        held: Which entry the remote holds for each key by our doing, by map and key.
        statuses: The status calls that arrived, in order; read only where one that is pending was recorded before the last of them.
        own_until_ns: For ``Update.own_until_ns``; None: this journal made the component, it did not attach to it.
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

    def overridden_by(self, field_map: str, key: str, place: Place) -> int | None:
        """The later entry whose value the remote holds for a key, None if there is none: that value stays.

        A later one may have arrived first: it did not wait for an upload, the earlier one was released, or came by a merge.
        """
        held = self.held.get((field_map, key))
        return held.seq if held is not None and place.is_before(held) else None


@dataclass(frozen=True, slots=True)
class Ensure:
    """The component shall exist.

    Attributes:
        attempted: An earlier request of this journal may have made it. False: if it is there with our own owner, another copy of
            the journal made it.
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
        """One request: can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Associate:
    """The component shall belong to the trial, the trial to the experiment."""

    phase: ClassVar[int] = 2
    action: ClassVar[str] = "associate"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    experiment: str | None
    trial: str | None
    seqs: tuple[int, ...]

    def split(self) -> tuple[Associate, ...]:
        """One request: can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Upload:
    """The blob shall be in S3 under the artifact's name."""

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

    def split(self) -> tuple[Upload, ...]:
        """One request: can't be split."""
        return ()


@dataclass(frozen=True, slots=True)
class Update:
    """The component's fields shall have these values.

    ``own_until_ns``: other journals may have set them later, and what the remote shows of after this time is theirs (``beside``): it is
    when the last status of this journal that arrived was recorded, nanoseconds since the epoch. None: there are no others.
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
        """The entries that this settles, those overridden by later ones included."""
        return tuple(sorted(seq for change in self.changes for seq in (change.seq, *change.superseded)))

    @property
    def ends(self) -> bool:
        """Whether the component's run is over with it."""
        return any(isinstance(c.value, Status) and c.value.primary in {"Completed", "Failed", "Stopped"} for c in self.changes)

    def split(self) -> tuple[Update, ...]:
        """Two halves, to find the one entry that the remote refuses, in the order in which they may be made; () for a single entry.

        Where a later value is at fault, an earlier one is sent after all.
        """
        halves: Sequence[Sequence[Change]]
        if len(self.changes) > 1:
            middle = len(self.changes) // 2
            halves = (self.changes[:middle], self.changes[middle:])
        else:
            halves = [(each,) for change in self.changes for each in change.split()]
        return tuple(replace(self, changes=tuple(half)) for half in halves)

    def fields(self) -> Fields:
        """The request's content. Blobs must have been resolved before."""
        return fold(self.changes)


@dataclass(frozen=True, slots=True)
class PutMetrics:
    """These points shall be recorded. Not idempotent: sent twice they may be there twice.

    ``runs`` are the places of its entries in their writers' chains, in order of ``seq``; () if that is not known.
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
        """Two halves, to find the one point that the remote refuses; () for a single point."""
        if len(self.points) < 2:  # noqa: PLR2004
            return ()
        middle = len(self.points) // 2
        return (self.pick(range(middle)), self.pick(range(middle, len(self.points))))

    def within(self, now_ns: int, age_max_s: float, ahead_max_s: float) -> PutMetrics:
        """The same with ``now_ns`` as the time of each point that is older or further ahead than that; steps and order stay."""
        first_ns, last_ns = now_ns - int(age_max_s * 1e9), now_ns + int(ahead_max_s * 1e9)
        if all(first_ns <= point.timestamp_ns <= last_ns for point in self.points):
            return self
        points = (p if first_ns <= p.timestamp_ns <= last_ns else p._replace(timestamp_ns=now_ns) for p in self.points)
        return replace(self, points=tuple(points))

    def pick(self, indexes: Iterable[int]) -> PutMetrics:
        """The same for some of the points, by position."""
        chosen = list(indexes)
        return replace(self, points=tuple(self.points[i] for i in chosen), seqs=tuple(self.seqs[i] for i in chosen), runs=())


@dataclass(frozen=True, slots=True)
class Settle:
    """No request is needed: the entries are settled as they are."""

    phase: ClassVar[int] = 0
    action: ClassVar[str] = "settle"
    component_id: int
    seqs: tuple[int, ...]
    outcome: Literal["superseded", "quarantined"]
    reason: str
    receipt_id: int | None = None


Request: TypeAlias = Ensure | Associate | Upload | Update | PutMetrics
Action: TypeAlias = Settle | Request


def fold(changes: Iterable[Change]) -> Fields:
    """The last value per key."""
    maps: dict[str, dict[str, FieldValue]] = defaultdict(dict)
    for change in changes:
        maps[change.map][change.key] = change.value
    status = maps["status"].get("")
    return Fields(
        parameters={k: v for k, v in maps["parameters"].items() if isinstance(v, (str, float))},
        input_artifacts={k: v for k, v in maps["input_artifacts"].items() if isinstance(v, Artifact)},
        output_artifacts={k: v for k, v in maps["output_artifacts"].items() if isinstance(v, Artifact)},
        status=status if isinstance(status, Status) else None,
    )
