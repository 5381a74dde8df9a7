"""What entries add up to: the values that they set, in the order in which they were recorded. Pure.

A pass sends what they add up to, a tracker reads it back, reports show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from journaltrack import limits
from journaltrack.journal import vocabulary
from journaltrack.journal.vocabulary import BlobRef, Entry
from journaltrack.util.digest import is_digest

FieldMap: TypeAlias = Literal["parameters", "input_artifacts", "output_artifacts", "status"]

T = TypeVar("T")

MAP_OF_KIND: dict[str, FieldMap] = {
    vocabulary.PARAMETER: "parameters",
    vocabulary.INPUT: "input_artifacts",
    vocabulary.OUTPUT: "output_artifacts",
    vocabulary.STATUS: "status",
}


class Artifact(NamedTuple):
    """An artifact as the remote holds it: usually an S3 URI. ``media_type`` is one that the
    remote takes, or None.
    """

    value: str
    media_type: str | None = None


class PendingArtifact(NamedTuple):
    """An artifact whose blob may not be uploaded yet."""

    blob: BlobRef
    media_type: str | None = None


class Status(NamedTuple):
    """Status and times; None leaves what the remote has."""

    primary: str | None = None
    message: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


FieldValue: TypeAlias = "str | float | Artifact | PendingArtifact | Status"


class Place(NamedTuple):
    """Where an entry is among others.

    Attributes:
        seq: In the journal.
        recorded_at_ns: Nanoseconds since the epoch.
        origin: The journal and host that recorded it. Entries of one are in the order of ``seq``,
            whatever its clock did; those of others came by a merge, in any order, and are compared
            by their time.
    """

    seq: int
    recorded_at_ns: int = 0
    origin: int = 0

    def is_before(self, other: Place) -> bool:
        """Return whether this one was recorded earlier."""
        if self.origin == other.origin:
            return self.seq < other.seq
        return (self.recorded_at_ns, self.seq) < (other.recorded_at_ns, other.seq)


class Part(NamedTuple):
    """What one entry makes of a key."""

    place: Place
    value: FieldValue


def in_order(items: Sequence[T], places: Sequence[Place]) -> list[T]:
    """Sort items by their places: in the order in which they were recorded, of one origin by
    ``seq``, of several by time.
    """
    latest: dict[int, int] = defaultdict(int)
    keys: dict[int, tuple[int, int]] = {}
    one = len({place.origin for place in places}) <= 1
    for number in sorted(range(len(items)), key=lambda number: places[number].seq):
        place = places[number]
        # a clock set back changes no order
        latest[place.origin] = 0 if one else max(latest[place.origin], place.recorded_at_ns)
        keys[number] = (latest[place.origin], place.seq)
    return [items[number] for number in sorted(keys, key=lambda number: keys[number])]


def parts_in_order(parts: Iterable[Part]) -> list[Part]:
    """Parts in the order in which they were recorded."""
    known = list(parts)
    return in_order(known, [part.place for part in known])


def merge_status(earlier: FieldValue | None, later: FieldValue) -> FieldValue:
    """Two status calls as one: what the later leaves open stays as the earlier said; a run that
    is resumed has no end.
    """
    if not isinstance(earlier, Status) or not isinstance(later, Status):
        return later
    resumed = later.primary == "InProgress"
    return Status(
        primary=later.primary or earlier.primary,
        message=later.message if later.primary or later.message is not None else earlier.message,
        start_ns=later.start_ns if later.start_ns is not None else earlier.start_ns,
        end_ns=later.end_ns if later.end_ns is not None or resumed else earlier.end_ns,
    )


def value_of(entry: Entry) -> FieldValue:
    """Return what a parameter, input, output or status entry sets.

    Raises:
        ValueError: The payload can't be read as one of its kind (a damaged or crafted journal).
    """
    detail = entry.detail
    if entry.kind == vocabulary.STATUS:
        return Status(
            text_or_none(detail.get("primary")),
            text_or_none(detail.get("message")),
            _time_ns(detail, "start_ns"),
            _time_ns(detail, "end_ns"),
        )
    if entry.kind == vocabulary.PARAMETER:
        if entry.value is not None:
            return float(entry.value)
        return required_text(detail, "text")
    media_type = vocabulary.sent_media_type(text_or_none(detail.get("media_type")))
    if "sha256" in detail:
        return PendingArtifact(blob_of(entry), media_type)
    return Artifact(required_text(detail, "value"), media_type)


def blob_of(entry: Entry) -> BlobRef:
    """The blob that an upload, or a reference to one, names.

    Raises:
        ValueError: The payload does not name a SHA-256 in lower-case hexadecimal.
    """
    detail = entry.detail
    sha256 = required_text(detail, "sha256")
    if not is_digest(sha256):
        msg = f"entry {entry.seq}: {limits.shown(sha256)} is not a SHA-256"
        raise ValueError(msg)
    return BlobRef(sha256, text_or_none(detail.get("bucket")), text_or_none(detail.get("prefix")))


def text_or_none(value: object) -> str | None:
    """Return a text as it is, and None for anything else."""
    return value if isinstance(value, str) else None


def _time_ns(detail: Mapping[str, object], key: str) -> int | None:
    value = detail.get(key)
    if not isinstance(value, int):
        return None
    problem = limits.time_problem(value, f"{key!r} in the payload")
    if problem:
        raise ValueError(problem)
    return value


def required_text(detail: Mapping[str, object], key: str) -> str:
    """Return a text of a payload.

    Raises:
        ValueError: There is none.
    """
    value = detail.get(key)
    if not isinstance(value, str):
        msg = f"the payload has no text {key!r}"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return value
