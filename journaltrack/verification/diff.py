"""Compare what a journal delivered (claims) with what the remote holds. Pure.

Only delivered entries are claimed. Pending entries and those in doubt may or may not be at the
remote; neither is a difference. What other journals or people add to a component is *extra*: it is
reported, and is no failure.

Metrics are compared by the summary that the service shows. It does not identify single points:
fewer points than were delivered are a difference, more points are extra. Of a service that shows
every point, ``compare_points`` compares each one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from journaltrack.journal.fold import Artifact, FieldMap, Status
from journaltrack.util.intervals import as_intervals

if TYPE_CHECKING:
    from journaltrack.journal.groups import Group
    from journaltrack.journal.vocabulary import BlobRef
    from journaltrack.replay.remote import (
        ArtifactLink,
        Linked,
        RemoteComponent,
        RemoteMetric,
        RemoteObject,
    )

Kind: TypeAlias = Literal["missing", "different", "extra", "unknown"]
What: TypeAlias = Literal[
    "component",
    "display name",
    "parameter",
    "input",
    "output",
    "status",
    "metric",
    "object",
    "lineage",
    "experiment",
    "trial",
    "tag",
]
Scalar: TypeAlias = "str | float | int | None"
PointKey: TypeAlias = tuple[str, int, int]
"""A point as a service keeps it: value, step, and time in the service's own steps."""

WHAT: Final[Mapping[FieldMap, What]] = {
    "parameters": "parameter",
    "input_artifacts": "input",
    "output_artifacts": "output",
    "status": "status",
}
TIME_TOLERANCE_NS: Final = 1_000_000
"""SageMaker keeps milliseconds: botocore serializes a JSON service's timestamps that way."""
_METRIC_TOLERANCE: Final = 1e-6
"""Relative, as in ``readback``: services round their summaries in their own ways."""

SHARED: Final = "others may write to this component: their values are not overwritten"
LATER: Final = "a later run in another journal wrote it: it is not overwritten"
FOREIGN: Final = "this journal did not create the component that is there: it can't be repaired"
CHANGED: Final = "others may change it as well: their values are not overwritten"
HIDDEN: Final = "delivered a moment ago: SageMaker may not show it yet"
REMOVED: Final = "some points were pruned from the journal: they can't be sent again"
NOT_TOLD: Final = "SageMaker does not say which points it has: a repair could store some twice"
REPEATED: Final = (
    "the journal has several points of one step: some stand-ins (moto) keep one point per step"
)
_NOT_IN_SPOOL: Final = "the spool lacks it: run `journaltrack check --repair --restore-from FOLDER`"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the journal and the remote.

    Attributes:
        component_id: The component's id in the journal.
        component: The component's name.
        kind: "missing", "different", "extra" (more than this journal delivered, which is no
            failure) or "unknown" (the remote did not tell).
        what: What differs.
        name: Name of the parameter, artifact, metric or member of the status; an object's URI.
        expected: The value according to the journal.
        found: The value that the remote holds.
        repairable: Whether sending again repairs it.
        note: An explanation, or why it can't be repaired.
        seq: The entry that states the expected value.
        steps: For a metric: (first, last) of the steps that are proven to be missing.
        blob: For an object: its blob.
    """

    component_id: int
    component: str
    kind: Kind
    what: What
    name: str | None = None
    expected: Scalar = None
    found: Scalar = None
    repairable: bool = False
    note: str | None = None
    seq: int | None = None
    steps: tuple[tuple[int, int], ...] = ()
    blob: BlobRef | None = None


@dataclass(frozen=True, slots=True)
class FieldClaim:
    """A parameter or artifact as delivered.

    ``also`` has the values that later entries may have given it.
    """

    value: str | float | Artifact
    seq: int
    also: tuple[str | float | Artifact, ...] = ()
    recorded_at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StatusClaim:
    """The status as delivered.

    ``also`` has the values that later entries may have given it.
    """

    value: Status
    seq: int
    also: tuple[Status, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricClaim:
    """One metric's points: the delivered ones, and those in doubt.

    Attributes:
        points, minimum, maximum: Number and extremes of the delivered points. Extremes of no points
            are None.
        last, last_seq: The value that was recorded last, and its entry.
        in_doubt, doubt_minimum, doubt_maximum: The same of the points in doubt.
        settled_at_ns: Time of the newest delivery, nanoseconds since the epoch.
        removed: How many of ``points`` were pruned from the journal.
    """

    points: int = 0
    minimum: float | None = None
    maximum: float | None = None
    last: float | None = None
    last_seq: int = 0
    in_doubt: int = 0
    doubt_minimum: float | None = None
    doubt_maximum: float | None = None
    settled_at_ns: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class ObjectClaim:
    """An uploaded blob.

    Attributes:
        uri: Where it is.
        blob: Its digest, with the bucket and prefix that were asked for.
        size_bytes: Its size; None if the journal does not say.
        in_spool: Whether the spool has it, so that it can be sent again.
    """

    uri: str
    blob: BlobRef
    size_bytes: int | None
    in_spool: bool


@dataclass(frozen=True, slots=True)
class LinkClaim:
    """A lineage artifact and its association, and the entry that states them."""

    link: ArtifactLink
    seq: int


@dataclass(frozen=True, slots=True)
class TagClaim:
    """A tag that was added: its values as delivered and as pending, and the entry."""

    value: str
    seq: int
    also: str | None = None


@dataclass(frozen=True, slots=True)
class GroupClaim:
    """An experiment or trial as declared, and what may have changed it since.

    Attributes:
        group: What was set on it, its experiment too. What was given to a new one alone is left
            out: it may have been there.
        also: What pending declarations give.
    """

    group: Group
    also: Group | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """What a journal delivered of one component.

    Attributes:
        component_id: The component's id in the journal.
        name: The component's name.
        receipt_id: The newest receipt about the component when the claims were read.
        owner: ``ComponentSpec.owner`` of its create; None if this journal did not create it.
        owners: The owners of all its creates: a merged journal may have several.
        exclusive: Whether it belongs to this journal alone: neither resumed nor loaded.
        display_name: The display name with which it was created, if any.
        fields: Parameters and artifacts by map and key.
        status: The status, if one was delivered.
        metrics: Metrics by name.
        objects: Uploaded blobs.
        links: Lineage of uploaded blobs.
        trials: The trials that it was put into, and not taken out of: the entry by trial.
        tags: Tags that were added to it, by key.
        group: What the row stands for, if it is no component.
        named: Keys of undelivered entries: their presence is not extra.
        unreadable: Entries that can't be read.
    """

    component_id: int
    name: str
    receipt_id: int
    owner: str | None = None
    exclusive: bool = False
    owners: frozenset[str] = frozenset()
    display_name: str | None = None
    fields: Mapping[tuple[FieldMap, str], FieldClaim] = field(default_factory=dict)
    status: StatusClaim | None = None
    metrics: Mapping[str, MetricClaim] = field(default_factory=dict)
    objects: tuple[ObjectClaim, ...] = ()
    links: tuple[LinkClaim, ...] = ()
    trials: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, TagClaim] = field(default_factory=dict)
    group: GroupClaim | None = None
    named: frozenset[tuple[FieldMap, str]] = frozenset()
    unreadable: tuple[int, ...] = ()


def compare(
    claims: Claims,
    found: RemoteComponent | None,
    *,
    shown_until_ns: int,
    logged: Callable[[str, float], bool],
) -> list[Difference]:
    """Return the differences of a component, without its objects.

    Args:
        claims: What was delivered.
        found: The remote's component, read after ``claims``; None if it does not exist.
        shown_until_ns: The remote may not show points that were delivered after this time,
            nanoseconds since the epoch.
        logged: Returns whether a value was logged for a metric.
    """
    differences = [
        _difference(claims, "unknown", "component", note=f"entry {seq} can't be read", seq=seq)
        for seq in claims.unreadable
    ]
    if found is None:
        return [*differences, _gone(claims)]
    foreign = is_foreign(claims, found)
    differences += _identity(claims, found, foreign=foreign)
    is_ours = found.owner is not None and found.owner in {claims.owner, *claims.owners}
    leave = FOREIGN if foreign else None if is_ours else SHARED
    status = found.status or Status()
    began_ns = _later_run(claims, status)
    differences += _fields(claims, found, leave, began_ns)
    differences += _status(claims, status, leave, handed_over=began_ns is not None)
    for name, claim in claims.metrics.items():
        differences += _metric(
            claims, name, claim, found.metrics.get(name), shown_until_ns, logged, foreign=foreign
        )
    for name, there in found.metrics.items():
        if name not in claims.metrics and there.points:
            differences.append(
                _difference(claims, "extra", "metric", name, None, f"{there.points} points")
            )
    return differences


def _gone(claims: Claims) -> Difference:
    created = claims.owner is not None
    return _difference(
        claims,
        "missing",
        "component",
        claims.name,
        "there",
        repairable=created,
        note=None if created else "this journal did not create it and can't repair it",
    )


def _identity(claims: Claims, found: RemoteComponent, *, foreign: bool) -> Iterable[Difference]:
    """Compare the owner, and the display name of a component that is ours."""
    if foreign:
        note = "somebody else attached to it, or deleted and created it again"
        yield _difference(
            claims, "extra", "component", "owner", claims.owner, found.owner, note=note
        )
    elif (
        claims.owner == found.owner
        and claims.display_name is not None
        and claims.display_name != found.display_name
    ):
        yield _difference(
            claims,
            "different",
            "display name",
            expected=claims.display_name,
            found=found.display_name,
            note="journaltrack sets it only when it creates a component",
        )


def is_foreign(claims: Claims, found: RemoteComponent) -> bool:
    """Return whether somebody else made the component that is there now."""
    return claims.exclusive and found.owner != claims.owner


def _later_run(claims: Claims, found: Status) -> int | None:
    """Return when a later run of another journal began, if the remote has its status.

    Its start is after all times that this journal sent. A status that was only edited keeps the
    start that we sent, or one before our end.
    """
    own = claims.status.value if claims.status is not None else Status()
    until_ns = max(own.start_ns or 0, own.end_ns or 0)
    began_ns = found.start_ns
    return began_ns if began_ns is not None and began_ns > until_ns + TIME_TOLERANCE_NS else None


def compare_object(
    claims: Claims, claim: ObjectClaim, found: RemoteObject | None
) -> Difference | None:
    """Return how an object differs from the uploaded blob.

    None if it does not, as far as ``found`` tells.
    """
    kind: Kind
    if found is None:
        kind, expected, there = "missing", _bytes(claim.size_bytes), None
    elif claim.size_bytes is not None and found.size_bytes != claim.size_bytes:
        kind, expected, there = "different", _bytes(claim.size_bytes), _bytes(found.size_bytes)
    elif found.sha256 is not None and found.sha256 != claim.blob.sha256:
        kind, expected, there = (
            "different",
            f"SHA-256 {claim.blob.sha256}",
            f"SHA-256 {found.sha256}",
        )
    elif found.sha256 is None and found.noted_sha256 != claim.blob.sha256:
        kind, expected = "different", f"noted SHA-256 {claim.blob.sha256}"
        there = f"noted SHA-256 {found.noted_sha256}" if found.noted_sha256 else "no note of ours"
    else:
        return None
    note = None if claim.in_spool else _NOT_IN_SPOOL
    return _difference(
        claims,
        kind,
        "object",
        claim.uri,
        expected,
        there,
        repairable=claim.in_spool,
        note=note,
        blob=claim.blob,
    )


def compare_link(
    claims: Claims, claim: LinkClaim, found: Linked, component: RemoteComponent
) -> Difference | None:
    """Return what is missing of a blob's lineage; None if nothing is."""
    if found.artifact and found.association:
        return None
    note = FOREIGN if is_foreign(claims, component) else None
    return _difference(
        claims,
        "missing",
        "lineage",
        claim.link.name,
        "artifact and association",
        "artifact without the association" if found.artifact else None,
        repairable=note is None,
        note=note,
        seq=claim.seq,
    )


def compare_trials(claims: Claims, found: Collection[str]) -> Iterator[Difference]:
    """Yield the trials that a component was put into and is not in.

    ``found`` has names in lower case.
    """
    for trial, seq in claims.trials.items():
        if trial.lower() not in found:
            yield _difference(claims, "missing", "trial", trial, "in it", repairable=True, seq=seq)


def compare_tags(claims: Claims, found: Mapping[str, str]) -> Iterator[Difference]:
    """Yield the tags that are missing or have another value."""
    for key, claim in claims.tags.items():
        held = found.get(key)
        if held is None:
            yield _difference(
                claims, "missing", "tag", key, claim.value, repairable=True, seq=claim.seq
            )
        elif held not in {claim.value, claim.also}:
            yield _difference(claims, "different", "tag", key, claim.value, held, note=CHANGED)


def compare_group(claims: Claims, claim: GroupClaim, found: Group | None) -> Iterator[Difference]:
    """Yield what differs of an experiment or trial."""
    wanted, kind = claim.group, claim.group.kind
    if found is None:
        yield _difference(claims, "missing", kind, wanted.name, "there", repairable=True)
        return
    also = claim.also or wanted
    members = (
        ("experiment", wanted.experiment, wanted.experiment, found.experiment),
        ("display name", wanted.display_name, also.display_name, found.display_name),
        ("description", wanted.description, also.description, found.description or ""),
    )
    for name, value, later, held in members:
        same = held == value or (later is not None and held == later)
        if name == "experiment":
            same = str(held).lower() == str(value).lower()
        if value is not None and not same:
            yield _difference(claims, "different", kind, name, value, held, note=CHANGED)
    held_tags, later_tags = dict(found.tags), dict(also.tags)
    for key, value in wanted.tags:
        there = held_tags.get(key)
        if there is None:
            yield _difference(claims, "missing", kind, f"tag {key}", value, repairable=True)
        elif there not in {value, later_tags.get(key)}:
            yield _difference(claims, "different", kind, f"tag {key}", value, there, note=CHANGED)


def compare_points(
    claims: Claims,
    name: str,
    delivered: Collection[PointKey],
    others: Collection[PointKey],
    found: Collection[PointKey],
    *,
    foreign: bool,
) -> Iterator[Difference]:
    """Yield how a metric's points differ, one by one.

    Args:
        claims: Of the component.
        name: The metric's.
        delivered: The points that were delivered, as the service keeps them.
        others: Those that may be there: pending, in flight or in doubt.
        found: Those that are there.
        foreign: Whether somebody else made the component that is there now.
    """
    missing = len(set(delivered) - set(found))
    if missing:
        there = len(set(delivered)) - missing
        yield _difference(
            claims,
            "different" if there else "missing",
            "metric",
            name,
            f"{len(set(delivered))} points",
            f"{there} points" if there else None,
            repairable=not foreign,
            note=FOREIGN if foreign else None,
        )
    extra = len(set(found) - set(delivered) - set(others))
    if extra:
        known = f"{len(set(delivered))} points"
        yield _difference(claims, "extra", "metric", name, known, f"{extra} others")


def empty_steps(
    delivered: Mapping[int, int], shown: Mapping[int, int], points: int
) -> tuple[tuple[int, int], ...]:
    """Return the steps that are proven to have no points, as (first, last).

    Args:
        delivered: Number of delivered points by step.
        shown: Number of points that the service shows, by step.
        points: The total that it shows. If the steps do not add up to it, nothing is proven.
    """
    if sum(shown.values()) != points:
        return ()
    return tuple(as_intervals(step for step in delivered if not shown.get(step)))


def _fields(
    claims: Claims, found: RemoteComponent, leave: str | None, began_ns: int | None
) -> Iterable[Difference]:
    maps: Mapping[FieldMap, Mapping[str, str | float | Artifact]] = {
        "parameters": found.parameters,
        "input_artifacts": found.input_artifacts,
        "output_artifacts": found.output_artifacts,
    }
    for (field_map, key), claim in claims.fields.items():
        there = maps[field_map].get(key)
        if there is None and key not in maps[field_map]:
            note = leave if leave == FOREIGN else None
            yield _difference(
                claims,
                "missing",
                WHAT[field_map],
                key,
                _shown(claim.value),
                None,
                repairable=note is None,
                note=note,
                seq=claim.seq,
            )
        elif not any(_same(value, there) for value in (claim.value, *claim.also)):
            expected, held = _shown(claim.value), _shown(there)
            if (
                expected == held
                and isinstance(claim.value, Artifact)
                and isinstance(there, Artifact)
            ):
                expected, held = (
                    f"{expected} ({claim.value.media_type})",
                    f"{held} ({there.media_type})",
                )
            if (
                began_ns is not None
                and claim.recorded_at_ns is not None
                and claim.recorded_at_ns < began_ns
            ):
                yield _difference(
                    claims, "extra", WHAT[field_map], key, expected, held, note=LATER, seq=claim.seq
                )
                continue
            yield _difference(
                claims,
                "different",
                WHAT[field_map],
                key,
                expected,
                held,
                repairable=leave is None,
                note=leave,
                seq=claim.seq,
            )
    for field_map, held_map in maps.items():
        for key, value in held_map.items():
            if (field_map, key) not in claims.fields and (field_map, key) not in claims.named:
                yield _difference(claims, "extra", WHAT[field_map], key, None, _shown(value))


def _status(
    claims: Claims, found: Status, leave: str | None, *, handed_over: bool
) -> Iterable[Difference]:
    if claims.status is None:
        return
    claimed = claims.status
    wanted_members, held = _members(claimed.value), _members(found)
    others = [_members(status) for status in claimed.also]
    for name, wanted in wanted_members.items():
        there = held[name]
        # A status without a message clears the message.
        says_message = name == "message" and claimed.value.primary is not None
        if wanted is None and not says_message:
            continue
        if any(_close(value, there) for value in (wanted, *(other[name] for other in others))):
            continue
        if handed_over:
            yield _difference(
                claims, "extra", "status", name, wanted, there, note=LATER, seq=claimed.seq
            )
            continue
        kind: Kind = "missing" if there is None else "different"
        note = leave if kind == "different" or leave == FOREIGN else None
        yield _difference(
            claims,
            kind,
            "status",
            name,
            wanted,
            there,
            repairable=note is None,
            note=note,
            seq=claimed.seq,
        )


def _members(status: Status) -> dict[str, str | int | None]:
    return {
        "status": status.primary,
        "message": status.message or None,
        "start": status.start_ns,
        "end": status.end_ns,
    }


def _metric(
    claims: Claims,
    name: str,
    claim: MetricClaim,
    found: RemoteMetric | None,
    shown_until_ns: int,
    logged: Callable[[str, float], bool],
    *,
    foreign: bool,
) -> Iterable[Difference]:
    points = found.points if found is not None else 0
    if points < claim.points:
        yield _too_few(claims, name, claim, points, shown_until_ns, foreign=foreign)
    # Points in doubt are not claimed.
    elif found is not None and claim.points:
        more = points > claim.points + claim.in_doubt
        if more:
            yield _difference(
                claims,
                "extra",
                "metric",
                name,
                f"{claim.points} points",
                f"{points} points",
                note="from another journal, or stored twice",
            )
        yield from _values(claims, name, claim, found, logged, more=more)


def _too_few(
    claims: Claims,
    name: str,
    claim: MetricClaim,
    points: int,
    shown_until_ns: int,
    *,
    foreign: bool,
) -> Difference:
    expected, there = f"{claim.points} points", f"{points} points" if points else None
    if claim.settled_at_ns > shown_until_ns:
        return _difference(claims, "unknown", "metric", name, expected, there, note=HIDDEN)
    note = FOREIGN if foreign else NOT_TOLD if points else REMOVED if claim.removed else None
    kind: Kind = "different" if points else "missing"
    return _difference(
        claims, kind, "metric", name, expected, there, repairable=note is None, note=note
    )


def _values(
    claims: Claims,
    name: str,
    claim: MetricClaim,
    found: RemoteMetric,
    logged: Callable[[str, float], bool],
    *,
    more: bool,
) -> Iterable[Difference]:
    """Compare the least, greatest and last value of a metric that has enough points.

    ``more``: there are points that this journal does not know, and they may have any value.
    """
    least, most = claim.minimum, claim.maximum
    low, high = least, most
    if more:
        low, high = -math.inf, math.inf
    # Points in doubt are among them.
    elif found.points > claim.points:
        low, high = _least(least, claim.doubt_minimum), _most(most, claim.doubt_maximum)
    if least is not None and low is not None and not _between(found.minimum, low, least):
        yield _difference(
            claims, "different", "metric", f"{name}: min", least, found.minimum, note=NOT_TOLD
        )
    if most is not None and high is not None and not _between(found.maximum, most, high):
        yield _difference(
            claims, "different", "metric", f"{name}: max", most, found.maximum, note=NOT_TOLD
        )
    # The last point may be a pruned one. AWS does not define an order for points that arrive at the
    # same time: any of ours may be last.
    if (
        not claim.removed
        and not more
        and claim.last is not None
        and not _between(found.last, claim.last, claim.last)
        and not logged(name, found.last)
    ):
        yield _difference(
            claims, "different", "metric", f"{name}: last", claim.last, found.last, note=NOT_TOLD
        )


def _least(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _most(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _between(value: float, low: float, high: float) -> bool:
    return (
        low <= value <= high
        or math.isclose(value, low, rel_tol=_METRIC_TOLERANCE)
        or math.isclose(value, high, rel_tol=_METRIC_TOLERANCE)
    )


def _same(one: object, other: object) -> bool:
    """Return whether two values are the same for SageMaker.

    It distinguishes text from numbers, and keeps every number as a double.
    """
    return isinstance(one, str) == isinstance(other, str) and one == other


def _close(one: str | int | None, other: str | int | None) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return abs(one - other) <= TIME_TOLERANCE_NS
    return one == other


def _shown(value: str | float | Artifact | None) -> Scalar:
    return value.value if isinstance(value, Artifact) else value


def _bytes(size_bytes: int | None) -> str:
    return "there" if size_bytes is None else f"{size_bytes} bytes"


def _difference(
    claims: Claims,
    kind: Kind,
    what: What,
    name: str | None = None,
    expected: Scalar = None,
    found: Scalar = None,
    *,
    repairable: bool = False,
    note: str | None = None,
    seq: int | None = None,
    blob: BlobRef | None = None,
) -> Difference:
    return Difference(
        claims.component_id,
        claims.name,
        kind,
        what,
        name,
        expected,
        found,
        repairable=repairable,
        note=note,
        seq=seq,
        blob=blob,
    )
