"""The vocabulary of a journal: what is recorded, how it is encoded, and what AWS could never accept of it.

Pure: no I/O, no clock. Must not know SQLite, the tracker or any remote.

An entry is one immutable recorded call. A *draft* is an entry before the journal gave it its place. The payload is a
JSON object in a text column; numbers that every reader wants (a metric's value, step and time) have columns of their own.

Versions: the payload of a kind may gain optional members. A change that old code would misread gets a new kind
(``create@2``); old code preserves unknown kinds and leaves them pending.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.util.config import REDACTED

Stream: TypeAlias = Literal["component", "metric", "upload"]
Direction: TypeAlias = Literal["input", "output"]

COMPONENT: Final = "component"
METRIC: Final = "metric"
UPLOAD: Final = "upload"

CREATE: Final = "create"
LOAD: Final = "load"
ASSOCIATE: Final = "associate"
PARAMETER: Final = "parameter"
INPUT: Final = "input"
OUTPUT: Final = "output"
STATUS: Final = "status"

KINDS: Final = frozenset({CREATE, LOAD, ASSOCIATE, PARAMETER, INPUT, OUTPUT, STATUS, METRIC, UPLOAD})
"""Every kind that this version understands. ``metric`` and ``upload`` are alone in the streams of those names."""

KEYS_MAX: Final = {
    PARAMETER: (limits.PARAMETERS_MAX, "parameters"),
    INPUT: (limits.ARTIFACTS_MAX, "input artifacts"),
    OUTPUT: (limits.ARTIFACTS_MAX, "output artifacts"),
}
"""How many keys of a kind a component may have, and what they are called."""

_encode_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Draft(NamedTuple):
    """What a call wants recorded.

    ``value`` is a finite double or None; ``timestamp_ns`` is nanoseconds since the epoch, UTC; ``payload`` is a JSON
    object as text or None; ``undeliverable`` is why AWS could never accept it, or None.
    """

    stream: Stream
    kind: str
    name: str | None = None
    value: float | None = None
    step: int | None = None
    timestamp_ns: int | None = None
    payload: str | None = None
    undeliverable: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded call, as the journal holds it. Times are nanoseconds since the epoch, UTC."""

    seq: int
    writer_id: int
    writer_seq: int
    component_id: int
    component: str
    stream: str
    kind: str
    name: str | None
    value: float | None
    step: int | None
    timestamp_ns: int | None
    payload: str | None
    recorded_at_ns: int
    digest: bytes
    unsound: str | None = None
    """Why it is nothing that a journaltrack recorded; what could not be kept is left out then. See ``entry_of``."""

    @property
    def detail(self) -> dict[str, Any]:
        """The payload decoded; an empty dict when there is none.

        Raises:
            ValueError: It can't be decoded: a damaged or crafted journal.
        """
        return decode(self.payload)


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Names an uploaded blob before its location is known. ``bucket`` and ``prefix`` are as asked for; None: the default."""

    sha256: str
    bucket: str | None
    prefix: str | None


def encode(detail: dict[str, Any]) -> str:
    """A payload as JSON text; members that are None are left out.

    A lone surrogate (a file name that is not UTF-8) can't be stored as text by SQLite: it is escaped instead.
    """
    kept = {key: value for key, value in detail.items() if value is not None}
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(kept, separators=(",", ":"))
    return text


def decode(payload: str | None) -> dict[str, Any]:
    """A payload as ``encode`` made it; an empty dict when there is none.

    Raises:
        ValueError: It is no JSON object, or it has so much outside of its texts, or nests so deep,
            that no journaltrack wrote it.
    """
    if payload is None:
        return {}
    if len(payload) > limits.PAYLOAD_CHARS_MAX and (rest := _chars_outside_texts(payload)) > limits.PAYLOAD_CHARS_MAX:
        msg = f"the payload has {rest} characters outside of its texts, {limits.PAYLOAD_CHARS_MAX} are decoded at most"
        raise ValueError(msg)
    try:
        decoded = json.loads(payload)
    except RecursionError:
        decoded = None
    if not isinstance(decoded, dict):
        msg = "the payload is not a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    if payload.count("{") + payload.count("[") <= limits.PAYLOAD_DEPTH_MAX:  # nearly always
        return decoded
    level: list[Any] = [decoded]
    for _ in range(limits.PAYLOAD_DEPTH_MAX):
        nested = [each.values() if isinstance(each, dict) else each for each in level]
        level = [member for members in nested for member in members if isinstance(member, (dict, list))]
    if level:
        msg = "the payload is nested too deep"
        raise ValueError(msg)
    return decoded


def _chars_outside_texts(payload: str) -> int:
    """Count a payload's characters, each of its texts as two; of what is no JSON, some number."""
    plain = payload.replace("\\\\", "").replace('\\"', "")  # then every quote begins or ends a text
    return len(plain) - sum(text.end() - text.start() - 2 for text in _TEXT.finditer(plain))


_TEXT: Final = re.compile('"[^"]*"')
_NONE: Final = type(None)
_TYPES: Final[tuple[tuple[str, tuple[type, ...], Any], ...]] = (
    *((name, (int,), 0) for name in ("seq", "writer_id", "writer_seq", "component_id")),
    *((name, (str,), "") for name in ("component", "stream", "kind")),
    ("name", (str, _NONE), None),
    ("value", (float, _NONE), None),
    ("step", (int, _NONE), None),
    ("timestamp_ns", (int, _NONE), None),
    ("payload", (str, _NONE), None),
    ("recorded_at_ns", (int,), 0),
    ("digest", (bytes,), b""),
)
"""The members of ``Entry``, what may be in them, and what stands for anything else."""
_sound: set[tuple[type, ...]] = set()  # combinations of types that were found to be right: a look-up for all but the first of each


def entry_of(row: tuple[Any, ...]) -> Entry:
    """An entry from its columns. SQLite keeps any type in any column: one that no entry has makes it ``unsound``."""
    types = tuple(map(type, row))
    if types in _sound:
        return Entry(*row)
    wrong = [name for (name, allowed, _), found in zip(_TYPES, types, strict=True) if found not in allowed]
    if not wrong:
        _sound.add(types)
        return Entry(*row)
    columns = tuple(value if type(value) in allowed else other for value, (_, allowed, other) in zip(row, _TYPES, strict=True))
    return replace(Entry(*columns), unsound=f"the wrong type of value is in {', '.join(wrong)}")


def create(
    *,
    owner: str,
    display_name: str | None = None,
    resume: bool = False,
    tags: dict[str, str] | None = None,
) -> Draft:
    """The component shall exist.

    Args:
        owner: Unique id of this component's origin; lets a replay tell its own earlier create from somebody else's.
        display_name: As SageMaker shows it.
        resume: Attach to the component if it exists already.
        tags: Put on the component when it is created.
    """
    return Draft(
        COMPONENT, CREATE, payload=encode({"owner": owner, "display_name": display_name, "resume": resume or None, "tags": tags or None})
    )


def load(*, job: bool = False, verified: bool = False) -> Draft:
    """The component exists elsewhere.

    Args:
        job: It belongs to a SageMaker job, which creates it some time after the start.
        verified: SageMaker confirmed it when it was loaded.
    """
    return Draft(COMPONENT, LOAD, payload=encode({"job": job or None, "verified": verified or None}))


def associate(*, experiment: str | None, trial: str | None) -> Draft:
    """The component belongs to the trial (of the experiment); what is missing of both is created."""
    return Draft(COMPONENT, ASSOCIATE, payload=encode({"experiment": experiment, "trial": trial}))


def status(
    *,
    primary: str | None = None,
    message: str | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    traceback: str | None = None,
) -> Draft:
    """Status and times; members that are None stay as they are. ``traceback`` is for the journal alone."""
    return Draft(
        COMPONENT,
        STATUS,
        payload=encode({"primary": primary, "message": message, "start_ns": start_ns, "end_ns": end_ns, "traceback": traceback}),
    )


def primary_status(entry: Entry) -> str | None:
    """What a status entry sets the status to; None if it leaves it alone, or can't be read."""
    try:
        primary = entry.detail.get("primary")
    except ValueError:
        return None
    return primary if isinstance(primary, str) else None


def parameter(name: str, value: str | float) -> Draft:
    """A parameter: text, or a number.

    An integer that a double can't hold exactly is text: SageMaker's numbers are doubles.
    """
    if isinstance(value, int) and not _is_exact(value):
        value = limits.digits(value)
    if isinstance(value, str):
        problem = limits.text_problem(value, "the value", limits.PARAMETER_STRING_CHARS_MAX, chars_min=0)
        return _checked(Draft(COMPONENT, PARAMETER, name, payload=encode({"text": value}), undeliverable=problem))
    number, exact = _finite(value)
    problem = limits.number_problem(number, "the value")
    return _checked(Draft(COMPONENT, PARAMETER, name, number, payload=exact, undeliverable=problem))


def artifact(direction: Direction, name: str, value: str | BlobRef, media_type: str | None) -> Draft:
    """A reference to an artifact: a URI (or any text), or a blob of this journal's spool.

    A media type that AWS refuses is recorded, and left out of the request by ``sent_media_type``.
    """
    if isinstance(value, BlobRef):
        detail = {"sha256": value.sha256, "bucket": value.bucket, "prefix": value.prefix, "media_type": media_type}
        return _checked(Draft(COMPONENT, direction, name, payload=encode(detail)))
    problem = limits.text_problem(value, "the value", limits.ARTIFACT_VALUE_CHARS_MAX)
    return _checked(Draft(COMPONENT, direction, name, payload=encode({"value": value, "media_type": media_type}), undeliverable=problem))


def redacted(kind: str, name: str) -> Draft:
    """A parameter, input or output whose value is not to be kept: what stands for it, and the fact."""
    member = "text" if kind == PARAMETER else "value"
    return _checked(Draft(COMPONENT, kind, name, payload=encode({member: REDACTED, "redacted": True})))


def upload(name: str, blob: BlobRef, size_bytes: int, media_type: str | None, file_name: str) -> Draft:
    """The blob shall be in S3 under the artifact's name."""
    detail = {
        "sha256": blob.sha256,
        "bucket": blob.bucket,
        "prefix": blob.prefix,
        "size": size_bytes,
        "media_type": media_type,
        "file_name": file_name,
    }
    return Draft(UPLOAD, UPLOAD, name, payload=encode(detail))


def metric(name: str, value: float, step: int | None, timestamp_ns: int) -> Draft:
    """One point of a metric. A value that is not finite is kept as text in the payload and marked undeliverable."""
    number, exact = _finite(value)
    problem = None if number is not None else limits.number_problem(None, "the value", _exact_of(exact))
    return _checked(Draft(METRIC, METRIC, name, number, step, timestamp_ns, exact, problem))


def sent_media_type(media_type: str | None) -> str | None:
    """The media type as it goes into a request: None when AWS would refuse it."""
    return media_type if media_type and limits.media_type_problem(media_type) is None else None


def undeliverable(entry: Entry | Draft) -> str | None:
    """Why AWS could never accept the entry, whatever the state of its component; None if nothing is known against it."""
    chars_max = {
        PARAMETER: limits.PARAMETER_KEY_CHARS_MAX,
        INPUT: limits.ARTIFACT_KEY_CHARS_MAX,
        OUTPUT: limits.ARTIFACT_KEY_CHARS_MAX,
        METRIC: limits.METRIC_NAME_CHARS_MAX,
    }.get(entry.kind)
    if chars_max is None:
        return None
    problem = limits.text_problem(entry.name or "", f"the {entry.kind}'s name", chars_max)
    if problem:
        return problem
    if entry.kind == METRIC:
        return (
            (None if _number(entry.value) is not None else _value_problem(entry))
            or limits.time_problem(entry.timestamp_ns, "the time")
            or (None if entry.step is None or 0 <= entry.step <= limits.STEP_MAX else f"the step is not from 0 to {limits.STEP_MAX}")
        )
    detail = entry.detail if isinstance(entry, Entry) else json.loads(entry.payload or "{}")
    if entry.kind == PARAMETER:
        if "text" in detail:
            return limits.text_problem(_text_of(detail, "text"), "the value", limits.PARAMETER_STRING_CHARS_MAX, chars_min=0)
        return limits.number_problem(_number(entry.value), "the value")
    return limits.text_problem(_text_of(detail, "value"), "the value", limits.ARTIFACT_VALUE_CHARS_MAX) if "value" in detail else None


def _value_problem(entry: Entry | Draft) -> str | None:
    """Why a number is none that can be sent: NaN, infinite, or too large."""
    exact = entry.detail.get("exact") if isinstance(entry, Entry) else _exact_of(entry.payload)
    return limits.number_problem(None, "the value", exact)


def _exact_of(payload: str | None) -> object:
    return json.loads(payload or "{}").get("exact")


def too_many(kind: str) -> str:
    """Why a further key of this kind (of ``KEYS_MAX``) can't be delivered; part of the format, as ``undeliverable``'s texts are."""
    keys_max, what = KEYS_MAX[kind]
    return f"the component has {keys_max} {what} already, which is SageMaker's limit"


def _text_of(detail: dict[str, Any], key: str) -> str:
    if not isinstance(detail[key], str):
        msg = f"{key!r} in the payload is not text"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return str(detail[key])


def _number(value: float | None) -> float | None:
    """A finite number, or None: SQLite keeps infinity, though no journaltrack writes it."""
    return value if value is not None and value - value == 0 else None


def chain_start(writer_uuid: str) -> bytes:
    """The digest before the first entry of a writer of format 0001; later ones begin with their ``description_digest``."""
    return hashlib.sha256(writer_uuid.encode()).digest()


def description_digest(*columns: str | int | None) -> bytes:
    """SHA-256 of what a row says in its other columns, as a JSON array without spaces: a writer's, and the journal's own."""
    return hashlib.sha256(_encode_canonical(columns).encode("utf-8", "surrogatepass")).digest()


def attestation_start(description: bytes) -> bytes:
    """The digest before a writer's first attestation, from that of its description: another chain than that of its entries."""
    return hashlib.sha256(b"attestation" + description).digest()


def attestation_next(previous: bytes, body: str) -> bytes:
    """The digest of an attestation: SHA-256 over its writer's previous digest and its body, a JSON object in ASCII."""
    return hashlib.sha256(previous + body.encode()).digest()


def chain_next(
    previous: bytes, writer_seq: int, component: str, draft: Draft, recorded_at_ns: int, sha256: Callable[[bytes], Any] = hashlib.sha256
) -> bytes:
    """The digest of an entry: SHA-256 over its writer's previous digest and the entry's canonical encoding.

    The canonical encoding is a JSON array in UTF-8 without spaces: ``[writer_seq, component, stream, kind, name, value,
    step, timestamp_ns, payload, recorded_at_ns]``; doubles in the shortest form that reads back the same.
    """
    text = _encode_canonical((writer_seq, component, *draft[:7], recorded_at_ns))
    digest: bytes = sha256(previous + text.encode("utf-8", "surrogatepass")).digest()
    return digest


def metric_text(component: str, name: str) -> str:
    """What the canonical encodings of all points of a metric share, for ``chain_next_metric``."""
    return f',{_encode_canonical(component)},"metric","metric",{_encode_canonical(name)},'


def chain_next_metric(
    previous: bytes, writer_seq: int, middle: str, value: float, step: int | None, timestamp_ns: int, recorded_at_ns: int
) -> bytes:
    """``chain_next`` for a metric point without payload, in a third of the time: the encoding is put together by hand.

    ``middle`` is from ``metric_text``; ``value`` is a plain, finite ``float``, whose ``repr`` is what JSON has too.
    """
    text = f"[{writer_seq}{middle}{value!r},{'null' if step is None else step},{timestamp_ns},null,{recorded_at_ns}]"
    return hashlib.sha256(previous + text.encode("utf-8", "surrogatepass")).digest()


def _finite(value: float) -> tuple[float | None, str | None]:
    """A number as (finite double or None, payload that keeps what the double loses or None)."""
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        return None, encode({"exact": limits.digits(int(value))})
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 - the test for NaN without an import
        return None, encode({"exact": repr(number)})
    if isinstance(value, int) and not _is_exact(value):
        return number, encode({"exact": limits.digits(value)})
    return number, None


def _is_exact(value: int) -> bool:
    """Return whether a double holds the integer."""
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _checked(draft: Draft) -> Draft:
    """The draft with a reason against its name, if there is one and none stands yet."""
    if draft.undeliverable is not None:
        return draft
    problem = undeliverable(draft)
    return draft._replace(undeliverable=problem) if problem else draft
