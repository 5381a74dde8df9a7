"""From pending entries to the requests to make: ``plan(entries, states) -> [Action]``.

Pure: no I/O, no clock, no randomness; must not know SQLite or any remote. Two rules of order live here and nowhere
else, as the phases of actions: a component exists before anything else of it is sent, and a blob is uploaded before
the reference that names it. Coalescing lives here too: all parameters, artifacts and status calls of a component fold
into one update (the last call per key wins), metrics go ten to a request, a content is uploaded once per component.

Every action names the entries that it settles. Entries of an unknown kind are in no action: they stay pending.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from journaltrack import entries as vocabulary
from journaltrack import limits
from journaltrack.entries import BlobRef, Entry

FieldMap: TypeAlias = Literal["parameters", "input_artifacts", "output_artifacts", "status"]
Mode: TypeAlias = Literal["create", "resume", "load", "job"]

MAP_OF_KIND: dict[str, FieldMap] = {
    vocabulary.PARAMETER: "parameters",
    vocabulary.INPUT: "input_artifacts",
    vocabulary.OUTPUT: "output_artifacts",
    vocabulary.STATUS: "status",
}
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
class Artifact:
    """An artifact as the remote holds it: usually an S3 URI. ``media_type`` is one that the remote takes, or None."""

    value: str
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class PendingArtifact:
    """An artifact whose blob may not be uploaded yet."""

    blob: BlobRef
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Status and times; None leaves what the remote has."""

    primary: str | None = None
    message: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """What an update sets on a component: keys that are named are replaced, the others are left alone."""

    parameters: Mapping[str, str | float] = field(default_factory=dict)
    input_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    output_artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    status: Status | None = None


FieldValue: TypeAlias = "str | float | Artifact | PendingArtifact | Status"


@dataclass(frozen=True, slots=True)
class Change:
    """One key of one map: its new value, the entry that says so, and the earlier entries which that one overrides."""

    map: FieldMap
    key: str
    value: FieldValue
    seq: int
    superseded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ComponentState:
    """What the journal knows of a component beside its pending entries.

    Attributes:
        confirmed: The remote said that it exists.
        create_attempted: A create was sent before and its outcome is not known.
        keys: Keys per map that the remote holds by our doing.
        locations: Where blobs of this component are, with the receipt of the upload.
        refused: Blobs whose upload is quarantined.
    """

    confirmed: bool = False
    create_attempted: bool = False
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    locations: Mapping[BlobRef, tuple[str, int]] = field(default_factory=dict)
    refused: frozenset[BlobRef] = frozenset()


@dataclass(frozen=True, slots=True)
class Ensure:
    """The component shall exist."""

    phase: ClassVar[int] = 1
    action: ClassVar[str] = "ensure"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    spec: ComponentSpec
    mode: Mode
    describe_first: bool
    seqs: tuple[int, ...]

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
    """The component's fields shall have these values."""

    phase: ClassVar[int] = 3
    action: ClassVar[str] = "update"
    idempotent: ClassVar[bool] = True
    component_id: int
    component: str
    changes: tuple[Change, ...]

    @property
    def seqs(self) -> tuple[int, ...]:
        """The entries that this settles, those overridden by later ones included."""
        return tuple(sorted(seq for change in self.changes for seq in (change.seq, *change.superseded)))

    def split(self) -> tuple[Update, ...]:
        """Two halves, to find the one change that the remote refuses; () for a single change."""
        if len(self.changes) < 2:  # noqa: PLR2004
            return ()
        middle = len(self.changes) // 2
        return (replace(self, changes=self.changes[:middle]), replace(self, changes=self.changes[middle:]))

    def fields(self) -> Fields:
        """The request's content. Blobs must have been resolved before."""
        return fold(self.changes)


@dataclass(frozen=True, slots=True)
class PutMetrics:
    """These points shall be recorded. Not idempotent: sent twice they may be there twice."""

    phase: ClassVar[int] = 3
    action: ClassVar[str] = "metrics"
    idempotent: ClassVar[bool] = False
    component_id: int
    component: str
    points: tuple[MetricPoint, ...]
    seqs: tuple[int, ...]

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
        return replace(self, points=tuple(self.points[i] for i in chosen), seqs=tuple(self.seqs[i] for i in chosen))


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


@dataclass(slots=True)
class _Component:
    """What one component's entries add up to while they are read."""

    entry: Entry
    creates: list[Entry] = field(default_factory=list)
    loads: list[Entry] = field(default_factory=list)
    associations: dict[tuple[str | None, str | None], list[int]] = field(default_factory=lambda: defaultdict(list))
    uploads: dict[BlobRef, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    changes: dict[tuple[FieldMap, str], Change] = field(default_factory=dict)
    metrics: list[Entry] = field(default_factory=list)


def plan(entries: Iterable[Entry], states: Mapping[int, ComponentState]) -> list[Action]:
    """The requests that deliver these entries.

    Args:
        entries: Pending entries in order of ``seq``.
        states: What is known of their components, by component id; a missing one is a component never seen remotely.

    Returns:
        Actions in order of their phase; within a phase they are independent of each other.
    """
    components: dict[int, _Component] = {}
    actions: list[Action] = []
    for entry in entries:
        if entry.kind not in vocabulary.KINDS:
            continue
        component = components.get(entry.component_id)
        if component is None:
            component = components[entry.component_id] = _Component(entry)
        refusal = _read(entry, component, states.get(entry.component_id, ComponentState()))
        if refusal is not None:
            actions.append(refusal)
    for component_id, component in components.items():
        actions += _requests(component, states.get(component_id, ComponentState()))
    return sorted(actions, key=lambda action: action.phase)


def resolve(update: Update, state: ComponentState) -> tuple[Update | None, list[Settle]]:
    """Put the URIs of uploaded blobs into an update.

    Args:
        update: As planned.
        state: Of its component, after the uploads.

    Returns:
        The update without the references whose blob is not uploaded yet (they stay pending), None if nothing is left;
        and the references whose blob will not be uploaded at all.
    """
    changes = []
    orphans = []
    for change in update.changes:
        if not isinstance(change.value, PendingArtifact):
            changes.append(change)
        elif change.value.blob in state.locations:
            changes.append(replace(change, value=Artifact(state.locations[change.value.blob][0], change.value.media_type)))
        elif change.value.blob in state.refused:
            reason = "the upload of its content is quarantined"
            orphans.append(Settle(update.component_id, (change.seq, *change.superseded), "quarantined", reason))
    return (replace(update, changes=tuple(changes)) if changes else None), orphans


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


def value_of(entry: Entry) -> FieldValue:
    """What a parameter, input, output or status entry sets.

    Raises:
        ValueError: The payload can't be read as one of its kind (a damaged or crafted journal).
    """
    detail = entry.detail
    if entry.kind == vocabulary.STATUS:
        return Status(
            _text(detail.get("primary")), _text(detail.get("message")), _integer(detail.get("start_ns")), _integer(detail.get("end_ns"))
        )
    if entry.kind == vocabulary.PARAMETER:
        if entry.value is not None:
            return float(entry.value)
        return _required_text(detail, "text")
    media_type = vocabulary.sent_media_type(_text(detail.get("media_type")))
    if "sha256" in detail:
        return PendingArtifact(blob_of(entry), media_type)
    return Artifact(_required_text(detail, "value"), media_type)


def blob_of(entry: Entry) -> BlobRef:
    """The blob that an upload, or a reference to one, names.

    Raises:
        ValueError: The payload does not name a SHA-256 in lower-case hexadecimal.
    """
    detail = entry.detail
    sha256 = _required_text(detail, "sha256")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # noqa: PLR2004
        msg = f"entry {entry.seq}: {limits.shown(sha256)} is not a SHA-256"
        raise ValueError(msg)
    return BlobRef(sha256, _text(detail.get("bucket")), _text(detail.get("prefix")))


def merge_status(earlier: FieldValue | None, later: FieldValue) -> FieldValue:
    """Two status calls as one: what the later leaves open stays as the earlier said."""
    if not isinstance(earlier, Status) or not isinstance(later, Status):
        return later
    return Status(
        primary=later.primary or earlier.primary,
        message=later.message if later.primary or later.message is not None else earlier.message,
        start_ns=later.start_ns if later.start_ns is not None else earlier.start_ns,
        end_ns=later.end_ns if later.end_ns is not None else earlier.end_ns,
    )


def _read(entry: Entry, component: _Component, state: ComponentState) -> Settle | None:
    """Add one entry to its component, or say why it can't be sent."""
    try:
        problem = vocabulary.undeliverable(entry)
        if problem is None:
            problem = _add(entry, component, state)
    except ValueError as error:  # also JSONDecodeError: a damaged or crafted payload
        problem = f"the entry can't be read: {error}"
    return Settle(entry.component_id, (entry.seq,), "quarantined", problem) if problem else None


def _add(entry: Entry, component: _Component, state: ComponentState) -> str | None:
    if entry.kind == vocabulary.METRIC:
        component.metrics.append(entry)
        return None
    if entry.kind in MAP_OF_KIND:
        return _add_change(entry, component, state)
    detail = entry.detail
    if entry.kind == vocabulary.CREATE:
        _required_text(detail, "owner")
        component.creates.append(entry)
    elif entry.kind == vocabulary.LOAD:
        component.loads.append(entry)
    elif entry.kind == vocabulary.ASSOCIATE:
        component.associations[_text(detail.get("experiment")), _text(detail.get("trial"))].append(entry.seq)
    else:
        component.uploads[blob_of(entry)].append(entry)
    return None


def _add_change(entry: Entry, component: _Component, state: ComponentState) -> str | None:
    field_map = MAP_OF_KIND[entry.kind]
    key = entry.name or ""
    value = value_of(entry)
    earlier = component.changes.get((field_map, key))
    if earlier is None:
        taken = {k for m, k in component.changes if m == field_map} if field_map != "status" else set()
        held = state.keys.get(field_map, frozenset())
        if key not in held and len(held | taken) >= KEYS_MAX[field_map] and field_map != "status":
            return f"the component has {KEYS_MAX[field_map]} {field_map.replace('_', ' ')} already, which is SageMaker's limit"
        component.changes[field_map, key] = Change(field_map, key, value, entry.seq)
        return None
    if field_map == "status":
        value = merge_status(earlier.value, value)
    component.changes[field_map, key] = Change(field_map, key, value, entry.seq, (*earlier.superseded, earlier.seq))
    return None


def _requests(component: _Component, state: ComponentState) -> list[Action]:
    entry = component.entry
    where = (entry.component_id, entry.component)
    actions: list[Action] = []
    made = component.creates + component.loads
    if not state.confirmed:
        actions.append(_ensure(component, state))
    elif made:
        seqs = tuple(e.seq for e in made)
        actions.append(Settle(entry.component_id, seqs, "superseded", "the component was confirmed before"))
    for (experiment, trial), seqs_of in component.associations.items():
        actions.append(Associate(*where, experiment, trial, tuple(seqs_of)))
    for blob, uploads in component.uploads.items():
        seqs = tuple(e.seq for e in uploads)
        if blob in state.locations:
            uri, receipt_id = state.locations[blob]
            actions.append(Settle(entry.component_id, seqs, "superseded", f"the same content is at {uri}", receipt_id))
            continue
        first = uploads[0]
        detail = first.detail
        actions.append(
            Upload(*where, blob, first.name or blob.sha256, _integer(detail.get("size")) or 0, _text(detail.get("media_type")), seqs)
        )
    if component.changes:
        actions.append(Update(*where, tuple(component.changes.values())))
    for start in range(0, len(component.metrics), limits.METRICS_PER_REQUEST_MAX):
        batch = component.metrics[start : start + limits.METRICS_PER_REQUEST_MAX]
        actions.append(PutMetrics(*where, tuple(_point(e) for e in batch), tuple(e.seq for e in batch)))
    return actions


def _ensure(component: _Component, state: ComponentState) -> Ensure:
    entry = component.entry
    details = [e.detail for e in component.creates]
    mode: Mode = "load"
    if any(d.get("resume") for d in details) or (details and component.loads):
        mode = "resume"
    elif details:
        mode = "create"
    elif any(e.detail.get("job") for e in component.loads):
        mode = "job"
    first = details[0] if details else {}
    tags = first.get("tags")
    spec = ComponentSpec(
        name=entry.component,
        owner=_text(first.get("owner")) or "",
        display_name=next((d["display_name"] for d in reversed(details) if _text(d.get("display_name"))), None),
        tags=tuple((str(k), str(v)) for k, v in tags.items()) if isinstance(tags, dict) else (),
    )
    seqs = tuple(e.seq for e in component.creates + component.loads)
    return Ensure(entry.component_id, entry.component, spec, mode, state.create_attempted or mode != "create", seqs)


def _point(entry: Entry) -> MetricPoint:
    timestamp_ns = entry.recorded_at_ns if entry.timestamp_ns is None else entry.timestamp_ns
    return MetricPoint(entry.name or "", entry.value or 0.0, entry.step, timestamp_ns)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _required_text(detail: Mapping[str, object], key: str) -> str:
    value = detail.get(key)
    if not isinstance(value, str):
        msg = f"the payload has no text {key!r}"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return value


def ranges(seqs: Sequence[int]) -> str:
    """Sequence numbers as text: ``[1, 2, 3, 7] -> "1-3,7"``."""
    parts: list[list[int]] = []
    for seq in sorted(seqs):
        if parts and seq == parts[-1][1] + 1:
            parts[-1][1] = seq
        else:
            parts.append([seq, seq])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def expand(text: str) -> list[int]:
    """The inverse of ``ranges``."""
    seqs: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        seqs.extend(range(int(first), int(last or first) + 1))
    return seqs
