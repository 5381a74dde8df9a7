"""What the simulated account holds: plain values, by name.

What it is: the records that operations change and tests look at, and their JSON form.
It must not know: HTTP, faults, constraints.
Invariant: changed only under the simulator's lock. SageMaker names are unique without regard to
case, as AWS has it, and keep the spelling they were created with.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar


class _Named(Protocol):
    name: str


T = TypeVar("T", bound=_Named)


class NameMap(MutableMapping[str, T]):
    """A dict whose keys ignore case; iterates over the names as they were created."""

    def __init__(self) -> None:
        self._by_lower: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        return self._by_lower[name.lower()]

    def __setitem__(self, name: str, value: T) -> None:
        self._by_lower[name.lower()] = value

    def __delitem__(self, name: str) -> None:
        del self._by_lower[name.lower()]

    def __iter__(self) -> Iterator[str]:
        # A copy, so that a test may iterate while the server adds to it.
        return iter([value.name for value in list(self._by_lower.values())])

    def __len__(self) -> int:
        return len(self._by_lower)


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One accepted metric item; `timestamp` is in seconds since 1970, `request_n` brought it."""

    name: str
    timestamp: float
    step: int | None
    value: float
    request_n: int


@dataclass(slots=True)
class Component:
    """A trial component. Maps hold the members as AWS does; times are seconds since 1970.

    A parameter is `{"StringValue": ...}` or `{"NumberValue": ...}`, an artifact
    `{"Value": ..., "MediaType": ...}`.
    """

    name: str
    arn: str
    display_name: str
    created: float
    modified: float
    status: dict[str, str] = field(default_factory=dict)
    start_time: float | None = None
    end_time: float | None = None
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    input_artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    output_artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    metadata_properties: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    source_arn: str | None = None
    metrics: list[MetricPoint] = field(default_factory=list)


@dataclass(slots=True)
class Experiment:
    """An experiment; times are seconds since 1970."""

    name: str
    arn: str
    display_name: str
    created: float
    modified: float
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Trial:
    """A trial; `components` holds the lower-case names associated with it."""

    name: str
    arn: str
    display_name: str
    created: float
    modified: float
    experiment: str
    metadata_properties: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    components: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Artifact:
    """An artifact of the lineage, not an object of S3: what stands for a URI.

    `source_types` holds pairs of SourceIdType and Value; times are seconds since 1970.
    """

    arn: str
    name: str | None
    type: str
    source_uri: str
    source_types: list[tuple[str, str]]
    created: float
    modified: float
    properties: dict[str, str] = field(default_factory=dict)
    metadata_properties: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Association:
    """A directed edge of the lineage between two ARNs; `created` in seconds since 1970."""

    source: str
    destination: str
    type: str | None
    created: float


@dataclass(slots=True)
class StoredObject:
    """An S3 object; `checksums` maps an algorithm ("sha256") to its value as S3 writes it."""

    body: bytes
    etag: str
    content_type: str
    metadata: dict[str, str]
    checksums: dict[str, str]
    modified: float
    encryption: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    """One part of a multipart upload."""

    body: bytes
    etag: str
    checksums: dict[str, str]


@dataclass(slots=True)
class Upload:
    """A multipart upload that was neither completed nor aborted."""

    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str]
    algorithm: str | None
    checksum_type: str
    initiated: float
    encryption: dict[str, str] = field(default_factory=dict)
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """The whole account.

    `artifacts` are by ARN, `associations` by source and destination: AWS's DeleteAssociation names
    no type, so there can be one from here to there.
    `foreign_buckets` belong to somebody else, who gives no access. Requests to those in
    `requester_pays` are refused unless they say that their sender pays.
    """

    components: NameMap[Component] = field(default_factory=NameMap)
    experiments: NameMap[Experiment] = field(default_factory=NameMap)
    trials: NameMap[Trial] = field(default_factory=NameMap)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    associations: dict[tuple[str, str], Association] = field(default_factory=dict)
    buckets: set[str] = field(default_factory=set)
    foreign_buckets: set[str] = field(default_factory=set)
    requester_pays: set[str] = field(default_factory=set)
    objects: dict[tuple[str, str], StoredObject] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def by_arn(self, arn: str) -> Component | Experiment | Trial | Artifact | None:
        """Give what an ARN of SageMaker names; None if there is no such thing."""
        if arn in self.artifacts:
            return self.artifacts[arn]
        name = arn.rpartition("/")[2]
        named: tuple[NameMap[Component] | NameMap[Experiment] | NameMap[Trial], ...]
        named = (self.components, self.experiments, self.trials)
        for things in named:
            found = things.get(name)
            if found is not None and found.arn == arn:
                return found
        return None


def state_to_json(state: State) -> dict[str, Any]:
    """Give everything but unfinished uploads as JSON values."""
    return {
        "components": [asdict(item) for item in state.components.values()],
        "experiments": [asdict(item) for item in state.experiments.values()],
        "trials": [asdict(item) for item in state.trials.values()],
        "artifacts": [asdict(item) for item in state.artifacts.values()],
        "associations": [asdict(item) for item in state.associations.values()],
        "buckets": sorted(state.buckets),
        "objects": [
            {
                "bucket": bucket,
                "key": key,
                **asdict(item),
                "body": base64.b64encode(item.body).decode(),
            }
            for (bucket, key), item in state.objects.items()
        ],
    }


def state_from_json(data: dict[str, Any]) -> State:
    """Restore what `state_to_json` gave."""
    state = State(buckets=set(data["buckets"]))
    for item in data["components"]:
        metrics = [MetricPoint(**point) for point in item.pop("metrics")]
        state.components[item["name"]] = Component(**item, metrics=metrics)
    for item in data["experiments"]:
        state.experiments[item["name"]] = Experiment(**item)
    for item in data["trials"]:
        state.trials[item["name"]] = Trial(**item)
    for item in data["artifacts"]:
        pairs = [(kind, value) for kind, value in item.pop("source_types")]
        state.artifacts[item["arn"]] = Artifact(**item, source_types=pairs)
    for item in data["associations"]:
        state.associations[item["source"], item["destination"]] = Association(**item)
    for item in data["objects"]:
        place = (item.pop("bucket"), item.pop("key"))
        body = base64.b64decode(item.pop("body"))
        state.objects[place] = StoredObject(**item, body=body)
    return state
