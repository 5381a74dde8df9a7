"""What a journal has delivered, against what the remote holds: claims, and how each is borne out. Pure.

Only what counts as delivered is claimed. What is pending or in doubt is not: it is no difference that it is there (it may
have been sent), nor that it is not. What other journals or people add to a component is *extra*: told, and no failure.

Metrics are compared by what a service shows of them, which is a summary. A point can't be told from another one: so many
points fewer than were delivered is a difference, so many more is extra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from journaltrack.journal.fold import Artifact, FieldMap, Status
from journaltrack.util.intervals import as_intervals

if TYPE_CHECKING:
    from journaltrack.journal.entries import BlobRef
    from journaltrack.replay.remote import RemoteComponent, RemoteMetric, RemoteObject

Kind: TypeAlias = Literal["missing", "different", "extra", "unknown"]
What: TypeAlias = Literal["component", "display name", "parameter", "input", "output", "status", "metric", "object"]
Scalar: TypeAlias = "str | float | int | None"

WHAT: Final[Mapping[FieldMap, What]] = {
    "parameters": "parameter",
    "input_artifacts": "input",
    "output_artifacts": "output",
    "status": "status",
}
TIME_TOLERANCE_NS: Final = 1_000_000
"""SageMaker keeps milliseconds (botocore serializes timestamps of a JSON service so)."""
_METRIC_TOLERANCE: Final = 1e-6  # relative, as in ``readback``: how a service sums up is its own affair

SHARED: Final = "others may write to this component: theirs is left"
LATER: Final = "of a run that began later, in another journal: theirs is left"
FOREIGN: Final = "the component is not the one that this journal created: nothing of it is repaired"
HIDDEN: Final = "delivered a moment ago: SageMaker may not show it yet"
REMOVED: Final = "points of it were removed from the journal: they can't be sent again"
NOT_TOLD: Final = "SageMaker does not tell which points are there: sent again, some might be there twice"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as the journal says.

    Attributes:
        component_id: In the journal.
        component: Its name.
        kind: "missing", "different"; "extra": more than this journal delivered, which is no failure; "unknown": could not be told.
        what: What it is about.
        name: Of the parameter, artifact, metric or member of the status; of an object its URI.
        expected: What the journal says.
        found: What the remote holds.
        repairable: Whether sending again mends it.
        note: What is to be known about it, or why it can't be repaired.
        seq: The entry that says what is expected.
        steps: (first, last): of a metric, the steps that are proven not to be there.
        blob: Of an object.
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
    """A parameter or artifact that the remote holds by our doing; ``also``: what later entries may have made of it."""

    value: str | float | Artifact
    seq: int
    also: tuple[str | float | Artifact, ...] = ()
    recorded_at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StatusClaim:
    """The status as delivered; ``also``: what later entries may have made of it."""

    value: Status
    seq: int
    also: tuple[Status, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricClaim:
    """Points of one metric: those delivered, and those in doubt. Extremes of no points are None.

    Attributes:
        points, minimum, maximum: Of those delivered.
        last, last_seq: The value that was recorded last, and its entry.
        in_doubt, doubt_minimum, doubt_maximum: Of those in doubt.
        settled_at_ns: When the newest of those delivered was, nanoseconds since the epoch.
        removed: How many of ``points`` are no longer in the journal (``removed``).
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
    """An uploaded blob; ``size_bytes`` is None if the journal does not say it, ``in_spool`` whether it can be sent again."""

    uri: str
    blob: BlobRef
    size_bytes: int | None
    in_spool: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """What a journal has delivered of one component.

    Attributes:
        component_id: In the journal.
        name: Of the component.
        receipt_id: Of the newest receipt about the component, when this was read.
        owner: ``ComponentSpec.owner`` of its create; None: this journal did not create it.
        owners: Of all creates of this journal: a merged one may have several.
        exclusive: Whether it was created to be this journal's alone (not resumed, not loaded).
        display_name: That it was created with, if any.
        fields: By map and key.
        named: Keys of entries that are not delivered: that they are there is not extra.
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
    named: frozenset[tuple[FieldMap, str]] = frozenset()
    unreadable: tuple[int, ...] = ()


def compare(
    claims: Claims, found: RemoteComponent | None, *, shown_until_ns: int, logged: Callable[[str, float], bool]
) -> list[Difference]:
    """How the remote's component differs from what was delivered; objects apart.

    Args:
        claims: What was delivered.
        found: The component, read after ``claims``; None: it does not exist.
        shown_until_ns: Points delivered later may not be shown yet, nanoseconds since the epoch.
        logged: Whether a value is one that was logged for a metric.
    """
    differences = [_difference(claims, "unknown", "component", note=f"entry {seq} can't be read", seq=seq) for seq in claims.unreadable]
    if found is None:
        created = claims.owner is not None
        note = None if created else "this journal did not create it: whoever did has to"
        return [*differences, _difference(claims, "missing", "component", claims.name, "there", None, repairable=created, note=note)]
    foreign = claims.exclusive and found.owner != claims.owner
    if foreign:
        note = "attached to, or deleted and made anew by somebody else"
        differences.append(_difference(claims, "extra", "component", "owner", claims.owner, found.owner, note=note))
    elif claims.owner == found.owner and claims.display_name is not None and claims.display_name != found.display_name:
        note = "it is set when a component is created, and by nothing that journaltrack sends later"
        differences.append(_difference(claims, "different", "display name", None, claims.display_name, found.display_name, note=note))
    is_ours = found.owner is not None and found.owner in {claims.owner, *claims.owners}
    leave = FOREIGN if foreign else None if is_ours else SHARED
    began_ns = _later_run(claims, found.status or Status())
    differences += _fields(claims, found, leave, began_ns)
    differences += _status(claims, found.status or Status(), leave, handed_over=began_ns is not None)
    for name, claim in claims.metrics.items():
        differences += _metric(claims, name, claim, found.metrics.get(name), shown_until_ns, logged, foreign=foreign)
    for name, there in found.metrics.items():
        if name not in claims.metrics and there.points:
            differences.append(_difference(claims, "extra", "metric", name, None, f"{there.points} points"))
    return differences


def _later_run(claims: Claims, found: Status) -> int | None:
    """When the run began whose status is there, if that was after all times of ours: another journal went on with the component.

    A status that was merely edited keeps the start that we sent, or one before our end.
    """
    own = claims.status.value if claims.status is not None else Status()
    until_ns = max(own.start_ns or 0, own.end_ns or 0)
    began_ns = found.start_ns
    return began_ns if began_ns is not None and began_ns > until_ns + TIME_TOLERANCE_NS else None


def compare_object(claims: Claims, claim: ObjectClaim, found: RemoteObject | None) -> Difference | None:
    """How an object differs from the blob that was uploaded; None if it does not, as far as ``found`` tells."""
    kind: Kind
    if found is None:
        kind, expected, there = "missing", _bytes(claim.size_bytes), None
    elif claim.size_bytes is not None and found.size_bytes != claim.size_bytes:
        kind, expected, there = "different", _bytes(claim.size_bytes), _bytes(found.size_bytes)
    elif found.sha256 is not None and found.sha256 != claim.blob.sha256:
        kind, expected, there = "different", f"SHA-256 {claim.blob.sha256}", f"SHA-256 {found.sha256}"
    elif found.sha256 is None and found.noted_sha256 != claim.blob.sha256:
        kind, expected = "different", f"noted SHA-256 {claim.blob.sha256}"
        there = f"noted SHA-256 {found.noted_sha256}" if found.noted_sha256 else "no note of ours"
    else:
        return None
    note = None if claim.in_spool else "the content is no longer in the spool: `journaltrack check --repair --restore-from FOLDER`"
    return _difference(claims, kind, "object", claim.uri, expected, there, repairable=claim.in_spool, note=note, blob=claim.blob)


def empty_steps(delivered: Mapping[int, int], shown: Mapping[int, int], points: int) -> tuple[tuple[int, int], ...]:
    """The steps of which provably nothing is there, as (first, last).

    Args:
        delivered: Points delivered, by step.
        shown: Points that the service shows, by step.
        points: That it shows in all: unless the steps add up to it, nothing is proven.
    """
    if sum(shown.values()) != points:
        return ()
    return tuple(as_intervals(step for step in delivered if not shown.get(step)))


def _fields(claims: Claims, found: RemoteComponent, leave: str | None, began_ns: int | None) -> Iterable[Difference]:
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
                claims, "missing", WHAT[field_map], key, _shown(claim.value), None, repairable=note is None, note=note, seq=claim.seq
            )
        elif not any(_same(value, there) for value in (claim.value, *claim.also)):
            expected, held = _shown(claim.value), _shown(there)
            if expected == held and isinstance(claim.value, Artifact) and isinstance(there, Artifact):
                expected, held = f"{expected} ({claim.value.media_type})", f"{held} ({there.media_type})"
            if began_ns is not None and claim.recorded_at_ns is not None and claim.recorded_at_ns < began_ns:
                yield _difference(claims, "extra", WHAT[field_map], key, expected, held, note=LATER, seq=claim.seq)
                continue
            yield _difference(
                claims, "different", WHAT[field_map], key, expected, held, repairable=leave is None, note=leave, seq=claim.seq
            )
    for field_map, held_map in maps.items():
        for key, value in held_map.items():
            if (field_map, key) not in claims.fields and (field_map, key) not in claims.named:
                yield _difference(claims, "extra", WHAT[field_map], key, None, _shown(value))


def _status(claims: Claims, found: Status, leave: str | None, *, handed_over: bool) -> Iterable[Difference]:
    if claims.status is None:
        return
    claimed = claims.status
    wanted_members, held = _members(claimed.value), _members(found)
    others = [_members(status) for status in claimed.also]
    for name, wanted in wanted_members.items():
        there = held[name]
        says_message = name == "message" and claimed.value.primary is not None  # that there is none is said, too
        if wanted is None and not says_message:
            continue
        if any(_close(value, there) for value in (wanted, *(other[name] for other in others))):
            continue
        if handed_over:
            yield _difference(claims, "extra", "status", name, wanted, there, note=LATER, seq=claimed.seq)
            continue
        kind: Kind = "missing" if there is None else "different"
        note = leave if kind == "different" or leave == FOREIGN else None
        yield _difference(claims, kind, "status", name, wanted, there, repairable=note is None, note=note, seq=claimed.seq)


def _members(status: Status) -> dict[str, str | int | None]:
    return {"status": status.primary, "message": status.message or None, "start": status.start_ns, "end": status.end_ns}


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
        expected, there = f"{claim.points} points", f"{points} points" if points else None
        if claim.settled_at_ns > shown_until_ns:
            yield _difference(claims, "unknown", "metric", name, expected, there, note=HIDDEN)
            return
        note = FOREIGN if foreign else NOT_TOLD if points else REMOVED if claim.removed else None
        yield _difference(claims, "different" if points else "missing", "metric", name, expected, there, repairable=note is None, note=note)
        return
    if found is None or not claim.points:  # what is in doubt is not claimed, whether it is there or not
        return
    more = points > claim.points + claim.in_doubt
    if more:
        yield _difference(
            claims, "extra", "metric", name, f"{claim.points} points", f"{points} points", note="of another journal, or twice"
        )
    least, most = claim.minimum, claim.maximum
    low = -math.inf if more else _least(claim.minimum, claim.doubt_minimum) if points > claim.points else least
    high = math.inf if more else _most(claim.maximum, claim.doubt_maximum) if points > claim.points else most
    if least is not None and low is not None and not _between(found.minimum, low, least):
        yield _difference(claims, "different", "metric", f"{name}: min", least, found.minimum, note=NOT_TOLD)
    if most is not None and high is not None and not _between(found.maximum, most, high):
        yield _difference(claims, "different", "metric", f"{name}: max", most, found.maximum, note=NOT_TOLD)
    # AWS does not say in which order it takes points that came side by side: any of ours may be the last.
    if claim.removed:
        return  # the last may be one of those
    if not more and claim.last is not None and not _between(found.last, claim.last, claim.last) and not logged(name, found.last):
        yield _difference(claims, "different", "metric", f"{name}: last", claim.last, found.last, note=NOT_TOLD)


def _least(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _most(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _between(value: float, low: float, high: float) -> bool:
    return (
        low <= value <= high or math.isclose(value, low, rel_tol=_METRIC_TOLERANCE) or math.isclose(value, high, rel_tol=_METRIC_TOLERANCE)
    )


def _same(one: object, other: object) -> bool:
    """Text and numbers are told apart, as SageMaker does; a number is a double."""
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
        claims.component_id, claims.name, kind, what, name, expected, found, repairable=repairable, note=note, seq=seq, blob=blob
    )
