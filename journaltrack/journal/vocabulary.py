"""Define a journal's entries: kinds, encoding, and what AWS could never accept.

Pure: no I/O, no clock. Must not know SQLite, the tracker or any remote.

An entry is one immutable recorded call. A *draft* is an entry before the journal gives it its
place. The payload is a JSON object in a text column. Numbers that every reader needs (a metric's
value, step and time) have columns of their own.

Versions: the payload of a kind may gain optional members. A change that old code would misread gets
a new kind (``create@2``). Old code preserves unknown kinds and leaves them pending.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits

if TYPE_CHECKING:
    from journaltrack.util.digest import PartDigests

Stream: TypeAlias = Literal["component", "metric", "upload"]
Direction: TypeAlias = Literal["input", "output"]

COMPONENT: Final = "component"
METRIC: Final = "metric"
UPLOAD: Final = "upload"

REDACTED: Final = "[redacted]"
"""The text that replaces a value that must not be recorded."""

CREATE: Final = "create"
LOAD: Final = "load"
ASSOCIATE: Final = "associate"
DISASSOCIATE: Final = "disassociate"
PARAMETER: Final = "parameter"
INPUT: Final = "input"
OUTPUT: Final = "output"
STATUS: Final = "status"
LINEAGE: Final = "lineage"
EXPERIMENT: Final = "experiment"
TRIAL: Final = "trial"
TAGS: Final = "tags"
NOTE: Final = "note"
LABEL: Final = "label"
"""A tag of any name and length, as MLflow has them. SageMaker has no place for it."""
OWN_LABEL: Final = "#"
"""The beginning of labels that are no tags. No tag of SageMaker or MLflow can have it. See
``DATASET``, and ``compat/mlflow``, which keeps there what MLflow's code must read back."""
DATASET: Final = f"{OWN_LABEL}dataset/"
"""The beginning of labels that tell of a dataset: the JSON of MLflow's ``DatasetInput``."""
DATASET_CONTEXT: Final = "mlflow.data.context"
"""The tag of a dataset input that says what it was used for."""
MODEL: Final = f"{OWN_LABEL}model/"
"""The beginning of labels that keep a logged model: a document of ``compat/mlflow``."""
MODEL_INPUT: Final = f"{OWN_LABEL}model-input/"
MODEL_OUTPUT: Final = f"{OWN_LABEL}model-output/"
"""The beginnings of labels that name a model which a run used, or made."""
MODEL_METRICS: Final = f"{OWN_LABEL}model-metrics/"
"""The beginning of labels that say which points of the run tell of a logged model."""
RUN_NAME: Final = "mlflow.runName"
"""The label that has the run's name for people where MLflow's code named it: any text. The display
name of the creation is what SageMaker takes of it, and has no later name."""
STAGE: Final = f"{OWN_LABEL}stage"
"""The label that says ``DELETED`` of a run, or anything else of one that was restored."""
DELETED: Final = "deleted"
LAST_LABELS: Final = (MODEL, MODEL_INPUT, MODEL_OUTPUT, MODEL_METRICS, STAGE)
"""The beginnings of labels that are told when everything else of the run is."""
LOCAL: Final = "local"
"""A point of a metric that stays in the journal."""
POINTS: Final = (METRIC, LOCAL)
"""The kinds in the stream ``metric``: points of metrics, to be sent or not."""
SYSTEM: Final = "system/"
"""The beginning of the names of system metrics."""
LOCAL_STAYS: Final = "a local metric stays in the journal: nothing of it is sent"
"""The reason of a local point's settlement. It is part of the journal's format."""

EVENT_FILES: Final = "run/event_files"
"""The parameter with the number of event files that ``journaltrack run`` found."""
OUTPUT_LOG: Final = "output.log"
"""The output artifact with the end of what was printed; of other ranks ``output-rank1.log``."""
OUTPUT_LOGS: Final = re.compile(r"output(?:-rank[0-9]+)?\.log")
"""The names of these artifacts."""
PARAMETERS_FILE: Final = "parameters.json"
"""The output artifact with the parameters that SageMaker can't take."""
PARAMETERS_FILES: Final = (PARAMETERS_FILE, f"journaltrack-{PARAMETERS_FILE}")
"""Its names: the second one if the run has an artifact of the first name of its own."""
IN_FILE: Final = f"SageMaker can't take it: it is in the artifact {PARAMETERS_FILE}"
"""The reason of a parameter's settlement. It is part of the journal's format."""

KINDS: Final = frozenset(
    {
        *(CREATE, LOAD, ASSOCIATE, DISASSOCIATE, PARAMETER, INPUT, OUTPUT, STATUS, LINEAGE),
        *(EXPERIMENT, TRIAL, TAGS, NOTE, LABEL, *POINTS, UPLOAD),
    }
)
"""Every kind that this version understands.

``upload`` is the only kind in the stream of that name, and those of ``POINTS`` are in ``metric``.
"""

KEYS_MAX: Final = {
    PARAMETER: (limits.PARAMETERS_MAX, "parameters"),
    INPUT: (limits.ARTIFACTS_MAX, "input artifacts"),
    OUTPUT: (limits.ARTIFACTS_MAX, "output artifacts"),
}
"""How many keys of a kind a component may have, and their name in messages."""

_encode_canonical = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode
_encode_payload = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# What the two do with a text, without making an encoder for each call.
_quoted = json.encoder.encode_basestring


class Draft(NamedTuple):
    """An entry to record.

    Attributes:
        stream: Its stream.
        kind: Its kind, one of ``KINDS``.
        name: The name of the parameter, artifact or metric, or None.
        value: A finite double or None.
        step: A metric's step or None.
        timestamp_ns: A metric's time, nanoseconds since the epoch, UTC, or None.
        payload: A JSON object as text or None.
        undeliverable: Why AWS could never accept it, or None.
    """

    stream: Stream
    kind: str
    name: str | None = None
    value: float | None = None
    step: int | None = None
    timestamp_ns: int | None = None
    payload: str | None = None
    undeliverable: str | None = None


class Entry(NamedTuple):
    """One recorded call in the journal. Times are nanoseconds since the epoch, UTC."""

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
    """Why no journaltrack can have recorded it. ``entry_of`` replaces values of wrong types."""

    @property
    def detail(self) -> dict[str, Any]:
        """Return the decoded payload; an empty dict if there is none.

        Raises:
            ValueError: It can't be decoded: the journal is damaged or crafted.
        """
        return decode(self.payload)


class BlobRef(NamedTuple):
    """The name of a blob before its location is known.

    ``bucket`` and ``prefix`` are those that were asked for. None means the default.
    """

    sha256: str
    bucket: str | None
    prefix: str | None


_NOTHING: Final = '{"text":"None","null":true}'
"""The payload of a parameter that is None. Older versions read it as the text that is sent."""


def _encode_text(text: str) -> str:
    """Encode the payload of a text, as ``encode`` does, in a tenth of the time."""
    quoted = _quoted(text)
    return f'{{"text":{quoted}}}' if quoted.isascii() else encode({"text": text})


def encode(detail: dict[str, Any]) -> str:
    """Encode a payload as JSON text. Members that are None are left out.

    A lone surrogate (of a file name that is not UTF-8) is escaped: SQLite can't store it as text.
    """
    kept = {key: value for key, value in detail.items() if value is not None}
    text = _encode_payload(kept)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(kept, separators=(",", ":"))
    return text


def decode(payload: str | None) -> dict[str, Any]:
    """Decode a payload of ``encode``. Without a payload, return an empty dict.

    Raises:
        ValueError: It is no JSON object, or no journaltrack wrote it: it is too long outside its
            texts, or nested too deep.
    """
    if payload is None:
        return {}
    most = limits.PAYLOAD_CHARS_MAX
    if len(payload) > most and (rest := _chars_outside_texts(payload)) > most:
        msg = f"the payload has {rest} characters outside of its texts, {most} are decoded at most"
        raise ValueError(msg)
    try:
        decoded = json.loads(payload)
    except RecursionError:
        decoded = None
    if not isinstance(decoded, dict):
        msg = "the payload is not a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    # True for nearly all payloads: so few brackets can't nest too deep.
    if payload.count("{") + payload.count("[") <= limits.PAYLOAD_DEPTH_MAX:
        return decoded
    level: list[Any] = [decoded]
    for _ in range(limits.PAYLOAD_DEPTH_MAX):
        nested = [each.values() if isinstance(each, dict) else each for each in level]
        level = [
            member for members in nested for member in members if isinstance(member, (dict, list))
        ]
    if level:
        msg = "the payload is nested too deep"
        raise ValueError(msg)
    return decoded


def _chars_outside_texts(payload: str) -> int:
    """Count a payload's characters, with 2 for each text.

    If it is no JSON, the number means nothing.
    """
    # Without escapes, every quote starts or ends a text.
    plain = payload.replace("\\\\", "").replace('\\"', "")
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
"""The members of ``Entry``, their types, and the value that replaces one of another type."""
# Combinations of types that were found to be right. So only the first of each is examined.
_sound: set[tuple[type, ...]] = set()


def entry_of(row: tuple[Any, ...]) -> Entry:
    """Make an entry from its columns.

    SQLite keeps any type in any column. A value of a wrong type makes the entry ``unsound``.
    """
    types = tuple(map(type, row))
    if types in _sound:
        return Entry(*row)
    wrong = [
        name
        for (name, allowed, _), found in zip(_TYPES, types, strict=True)
        if found not in allowed
    ]
    if not wrong:
        _sound.add(types)
        return Entry(*row)
    columns = tuple(
        value if type(value) in allowed else other
        for value, (_, allowed, other) in zip(row, _TYPES, strict=True)
    )
    return Entry(*columns)._replace(unsound=f"the wrong type of value is in {', '.join(wrong)}")


def create(
    *,
    owner: str,
    display_name: str | None = None,
    resume: bool = False,
    tags: dict[str, str] | None = None,
    bucket: str | None = None,
    prefix: str | None = None,
    launch: dict[str, Any] | None = None,
) -> Draft:
    """Draft the creation of the component.

    Args:
        owner: Unique id of this component's origin. By it a replay recognizes a component that it
            created itself.
        display_name: The name that SageMaker shows.
        resume: Attach to the component if it exists.
        tags: Tags that the component gets when it is created.
        bucket: Where its artifacts go; None means the default.
        prefix: The beginning of their keys; None means the default.
        launch: Which launch of ``journaltrack run`` records it, see ``tracking.jobs``. Never sent.
    """
    detail = {
        "owner": owner,
        "display_name": display_name,
        "resume": resume or None,
        "tags": tags or None,
        "bucket": bucket,
        "prefix": prefix,
        "launch": launch or None,
    }
    return Draft(COMPONENT, CREATE, payload=encode(detail))


def load(
    *,
    job: bool = False,
    verified: bool = False,
    held: dict[str, Any] | None = None,
    bucket: str | None = None,
    prefix: str | None = None,
) -> Draft:
    """Draft that the component exists elsewhere.

    Args:
        job: It belongs to a SageMaker job: SageMaker creates it some time after the start.
        verified: SageMaker confirmed it when it was loaded.
        held: What SageMaker held then, for reading back. It is never sent.
        bucket: See ``create``.
        prefix: See ``create``.
    """
    detail = {
        "job": job or None,
        "verified": verified or None,
        "held": held or None,
        "bucket": bucket,
        "prefix": prefix,
    }
    return Draft(COMPONENT, LOAD, payload=encode(detail))


def associate(*, experiment: str | None, trial: str | None, full_name: str | None = None) -> Draft:
    """Draft that the component belongs to a trial of an experiment.

    A replay creates the trial and the experiment if they are missing.

    Args:
        experiment: The experiment's name.
        trial: The trial's name.
        full_name: The experiment's name where any name is allowed, if it differs.
    """
    detail = {"experiment": experiment, "trial": trial, "full_name": full_name}
    return Draft(COMPONENT, ASSOCIATE, payload=encode(detail))


def tags(tags: dict[str, str]) -> Draft:
    """Draft tags that the component gets beside its others. The last value per key counts."""
    return _checked(Draft(COMPONENT, TAGS, payload=encode({"tags": tags})))


def note(text: str) -> Draft:
    """Draft a note: text for people. The last one counts; "" is none."""
    return Draft(COMPONENT, NOTE, payload=encode({"note": text}))


def label(name: str, text: str | None) -> Draft:
    """Draft a label. The last text per name counts; None removes the label."""
    return Draft(COMPONENT, LABEL, name, payload=encode({"text": text}))


def label_of(entry: Entry | Draft) -> str | None:
    """Return the text of an entry of kind ``label``; None: it removes the label.

    Raises:
        ValueError: It has no name, or what it has is no text.
    """
    found = decode(entry.payload).get("text")
    if not isinstance(found, (str, type(None))) or not entry.name:
        msg = "the label has no name, or its text is none"
        raise ValueError(msg)
    return found


def tags_of(entry: Entry | Draft) -> dict[str, str]:
    """Return the tags of an entry of kind ``tags``.

    Raises:
        ValueError: The payload has none that are texts by key.
    """
    found = decode(entry.payload).get("tags")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        msg = "the tags are not texts by key"
        raise ValueError(msg)
    return found


def lay_tags(tags: dict[str, str], entry: Entry) -> None:
    """Set what an entry of kind ``tags`` or ``label`` sets, and remove what it removes.

    Raises:
        ValueError: It can't be read.
    """
    if entry.kind == TAGS:
        tags |= tags_of(entry)
        return
    text, name = label_of(entry), entry.name or ""
    if text is None:
        tags.pop(name, None)
    elif not name.startswith(OWN_LABEL):
        tags[name] = text


def note_of(entry: Entry | Draft) -> str:
    """Return the text of an entry of kind ``note``.

    Raises:
        ValueError: The payload has none.
    """
    found = decode(entry.payload).get("note")
    if not isinstance(found, str):
        msg = "the payload has no text 'note'"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return found


def disassociate(trial: str) -> Draft:
    """Draft that the component no longer belongs to a trial."""
    return Draft(COMPONENT, DISASSOCIATE, payload=encode({"trial": trial}))


def experiment(
    *,
    name: str | None = None,
    display_name: str | None = None,
    description: str | None = None,
    tags: dict[str, str] | None = None,
    if_new: bool = False,
    full_name: str | None = None,
    labels: Mapping[str, str | None] | None = None,
) -> Draft:
    """Draft an experiment: an entry of its row, see ``groups``.

    A replay makes it if it is missing. None changes nothing of what is there.

    Args:
        name: Its name as it is to be spelled. None: in lower case, as its row is.
        display_name: The name that SageMaker shows.
        description: What it is about.
        tags: Tags that it gets beside those that it has.
        if_new: Leave one that is there as it is.
        full_name: Its name where any name is allowed, if it differs.
        labels: See ``LABEL``; they stay in the journal. None removes one.
    """
    detail = {
        "name": _spelled(name),
        "display_name": display_name,
        "description": description,
        "tags": tags or None,
        "if_new": if_new or None,
        "full_name": full_name,
        "labels": dict(labels) if labels else None,
    }
    return Draft(COMPONENT, EXPERIMENT, payload=encode(detail))


def trial(
    experiment: str,
    *,
    name: str | None = None,
    display_name: str | None = None,
    tags: dict[str, str] | None = None,
    if_new: bool = False,
) -> Draft:
    """Draft a trial of an experiment: an entry of its row, as ``experiment`` is."""
    detail = {
        "experiment": experiment,
        "name": _spelled(name),
        "display_name": display_name,
        "tags": tags or None,
        "if_new": if_new or None,
    }
    return Draft(COMPONENT, TRIAL, payload=encode(detail))


def _spelled(name: str | None) -> str | None:
    """Return a name that the row, which is in lower case, does not tell."""
    return None if name is None or name == name.lower() else name


def status(
    *,
    primary: str | None = None,
    message: str | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    traceback: str | None = None,
    silence: Mapping[str, Any] | None = None,
) -> Draft:
    """Draft a status and times. None changes nothing.

    ``traceback`` and ``silence`` stay in the journal and are never sent.
    """
    detail = {
        "primary": primary,
        "message": message,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "traceback": traceback,
        "silence": silence,
    }
    return Draft(COMPONENT, STATUS, payload=encode(detail))


def silence_of(entry: Entry) -> dict[str, Any] | None:
    """Return what a reader of a mirror knew of a silent node when it recorded this status for it.

    None: the run's own process recorded it, or a person. ``upto`` has the places of the run's
    processes. ``again``: the node is back, and this repeats its own status.
    """
    try:
        found = entry.detail.get("silence")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def primary_status(entry: Entry) -> str | None:
    """Return the status that an entry sets; None if it sets none, or can't be read."""
    try:
        primary = entry.detail.get("primary")
    except ValueError:
        return None
    return primary if isinstance(primary, str) else None


def parameter(name: str, value: str | float | int | None) -> Draft:  # noqa: PYI041 - for mypy
    """Draft a parameter: a text, a number, or None.

    An integer that a double can't hold exactly becomes text: SageMaker's numbers are doubles. None
    is sent as the text "None", and read back as None.
    """
    if isinstance(value, int) and not _is_exact(value):
        value = limits.digits(value)
    number = None
    if value is None:
        payload: str | None = _NOTHING
        problem = None
    elif isinstance(value, str):
        payload = _encode_text(value)
        problem = limits.text_problem(
            value, "the value", limits.PARAMETER_STRING_CHARS_MAX, chars_min=0
        )
    else:
        number, payload = _finite(value)
        problem = limits.number_problem(number, "the value")
    problem = _name_problem(PARAMETER, name, limits.PARAMETER_KEY_CHARS_MAX) or problem
    return Draft(COMPONENT, PARAMETER, name, number, None, None, payload, problem)


def parameter_of(entry: Entry) -> str | float | None:
    """Return the value of an entry of kind ``parameter``, as it was logged.

    Raises:
        ValueError: The payload can't be decoded.
    """
    if entry.value is not None:
        return entry.value
    detail = entry.detail
    if detail.get("null") is True:
        return None
    exact = detail.get("exact", "")
    if isinstance(exact, str) and exact in {"nan", "inf", "-inf"}:
        return float(exact)
    return str(detail.get("text", exact))


def sent_parameter(value: str | float | None) -> str | float:
    """Return a parameter as SageMaker has it: None, NaN and infinity as their text."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    return str(value)


def artifact(
    direction: Direction, name: str, value: str | BlobRef, media_type: str | None
) -> Draft:
    """Draft a reference to an artifact: a URI, a text, or a blob of the spool.

    A media type that AWS refuses is recorded, and ``sent_media_type`` leaves it out of the request.
    """
    if isinstance(value, BlobRef):
        detail = {
            "sha256": value.sha256,
            "bucket": value.bucket,
            "prefix": value.prefix,
            "media_type": media_type,
        }
        return _checked(Draft(COMPONENT, direction, name, payload=encode(detail)))
    problem = limits.text_problem(value, "the value", limits.ARTIFACT_VALUE_CHARS_MAX)
    payload = encode({"value": value, "media_type": media_type})
    return _checked(Draft(COMPONENT, direction, name, payload=payload, undeliverable=problem))


def redacted(kind: str, name: str) -> Draft:
    """Draft a parameter, input or output whose value must not be kept.

    The payload has a placeholder for the value, and says that it was redacted.
    """
    member = "text" if kind == PARAMETER else "value"
    return _checked(
        Draft(COMPONENT, kind, name, payload=encode({member: REDACTED, "redacted": True}))
    )


def upload(
    name: str,
    blob: BlobRef,
    size_bytes: int,
    media_type: str | None,
    file_name: str,
    *,
    parts: PartDigests | None = None,
    replaces: bool = False,
) -> Draft:
    """Draft the upload of a blob to S3 under the artifact's name.

    ``parts``: the digests of a large blob's parts, which the store compares as they arrive.
    ``replaces``: where names are paths, it replaces what this run had under the name before.
    """
    detail = {
        "sha256": blob.sha256,
        "bucket": blob.bucket,
        "prefix": blob.prefix,
        "size": size_bytes,
        "media_type": media_type,
        "file_name": file_name,
        "parts": parts.members() if parts is not None else None,
        "replaces": replaces or None,
    }
    return Draft(UPLOAD, UPLOAD, name, payload=encode(detail))


def parameters_file(name: str, blob: BlobRef, size_bytes: int) -> Draft:
    """Draft the upload of the parameters that SageMaker can't take."""
    return _of_parameters(upload(name, blob, size_bytes, "application/json", name))


def parameters_reference(name: str, blob: BlobRef) -> Draft:
    """Draft the reference to the parameters that SageMaker can't take."""
    return _of_parameters(artifact(OUTPUT, name, blob, "application/json"))


def _of_parameters(draft: Draft) -> Draft:
    return draft._replace(payload=encode({**decode(draft.payload), "of": "parameters"}))


def is_of_parameters_file(entry: Entry) -> bool:
    """Return whether an entry is of the artifact with the parameters that SageMaker can't take."""
    return entry.kind in {UPLOAD, OUTPUT} and entry.detail.get("of") == "parameters"


def lineage(
    name: str, blob: BlobRef, artifact_type: str, direction: Direction, title: str | None = None
) -> Draft:
    """Draft a lineage artifact of a blob, associated with the component.

    Args:
        name: The artifact's name, one that SageMaker accepts (``limits.lineage_name``).
        blob: The content, which an upload of the same call puts into S3.
        artifact_type: A chart's type, or a file's media type.
        direction: Whether the component produced it ("output") or used it ("input").
        title: What the caller named it, if that differs from ``name``.
    """
    detail = {
        "sha256": blob.sha256,
        "bucket": blob.bucket,
        "prefix": blob.prefix,
        "type": artifact_type,
        "direction": direction,
        "title": title,
    }
    return _checked(Draft(COMPONENT, LINEAGE, name, payload=encode(detail)))


def metric(name: str, value: float, step: int | None, timestamp_ns: int) -> Draft:
    """Draft one point of a metric.

    A value that is not finite is text in the payload, and marked undeliverable.
    """
    number, exact = _finite(value)
    problem = (
        None if number is not None else limits.number_problem(None, "the value", _exact_of(exact))
    )
    return _checked(Draft(METRIC, METRIC, name, number, step, timestamp_ns, exact, problem))


def local_metric(name: str, value: float, timestamp_ns: int) -> Draft:
    """Draft one point of a metric that stays in the journal. The value is finite."""
    return Draft(METRIC, LOCAL, name, float(value), None, timestamp_ns)


def order_of_metric(name: str) -> tuple[bool, str]:
    """Return the key to sort metrics by for a person: those of the system come last."""
    return name.startswith(SYSTEM), name


def settled_at_once(draft: Draft) -> tuple[str, str] | None:
    """Return outcome and reason of an entry that is settled as it is recorded, or None."""
    if draft.kind == LOCAL:
        return "superseded", LOCAL_STAYS
    return None if draft.undeliverable is None else ("quarantined", draft.undeliverable)


def sent_media_type(media_type: str | None) -> str | None:
    """Return the media type for a request; None if AWS would refuse it."""
    return media_type if media_type and limits.media_type_problem(media_type) is None else None


def undeliverable(entry: Entry | Draft) -> str | None:
    """Return why AWS could never accept the entry, whatever its component's state.

    None if no reason is known. The texts are part of the journal's format.
    """
    if entry.kind in {LINEAGE, TAGS}:
        return (
            limits.tags_problem(tags_of(entry)) if entry.kind == TAGS else _lineage_problem(entry)
        )
    chars_max = {
        PARAMETER: limits.PARAMETER_KEY_CHARS_MAX,
        INPUT: limits.ARTIFACT_KEY_CHARS_MAX,
        OUTPUT: limits.ARTIFACT_KEY_CHARS_MAX,
        METRIC: limits.METRIC_NAME_CHARS_MAX,
    }.get(entry.kind)
    if chars_max is None:
        return None
    problem = _name_problem(entry.kind, entry.name, chars_max)
    if problem:
        return problem
    if entry.kind == METRIC:
        if _number(entry.value) is None and (problem := _value_problem(entry)):
            return problem
        if problem := limits.time_problem(entry.timestamp_ns, "the time"):
            return problem
        is_sound = entry.step is None or 0 <= entry.step <= limits.STEP_MAX
        return None if is_sound else f"the step is not from 0 to {limits.STEP_MAX}"
    detail = entry.detail if isinstance(entry, Entry) else json.loads(entry.payload or "{}")
    if entry.kind == PARAMETER:
        if "text" in detail:
            text = _text_of(detail, "text")
            return limits.text_problem(
                text, "the value", limits.PARAMETER_STRING_CHARS_MAX, chars_min=0
            )
        return limits.number_problem(_number(entry.value), "the value")
    if "value" not in detail:
        return None
    return limits.text_problem(
        _text_of(detail, "value"), "the value", limits.ARTIFACT_VALUE_CHARS_MAX
    )


@functools.lru_cache(maxsize=4096)
def _name_problem(kind: str, name: str | None, chars_max: int) -> str | None:
    return limits.text_problem(name or "", f"the {kind}'s name", chars_max)


def is_for_file(entry: Entry | Draft) -> bool:
    """Return whether an entry is a parameter with a name that can be sent."""
    return entry.kind == PARAMETER and not _name_problem(
        PARAMETER, entry.name, limits.PARAMETER_KEY_CHARS_MAX
    )


def _lineage_problem(entry: Entry | Draft) -> str | None:
    detail = entry.detail if isinstance(entry, Entry) else json.loads(entry.payload or "{}")
    if detail.get("direction") not in {INPUT, OUTPUT}:
        return f"the lineage's direction is neither {INPUT} nor {OUTPUT}"
    return limits.name_problem(entry.name or "", "the lineage artifact's name") or (
        limits.text_problem(
            _text_of(detail, "type"), "the lineage artifact's type", limits.LINEAGE_TYPE_CHARS_MAX
        )
    )


def _value_problem(entry: Entry | Draft) -> str | None:
    """Return why a number can't be sent: it is NaN, infinite, or too large."""
    exact = entry.detail.get("exact") if isinstance(entry, Entry) else _exact_of(entry.payload)
    return limits.number_problem(None, "the value", exact)


def _exact_of(payload: str | None) -> object:
    return json.loads(payload or "{}").get("exact")


def too_many(kind: str) -> str:
    """Return why one more key of this kind (of ``KEYS_MAX``) can't be delivered.

    The text is part of the journal's format, as those of ``undeliverable`` are.
    """
    keys_max, what = KEYS_MAX[kind]
    return f"the component has {keys_max} {what} already, which is SageMaker's limit"


def _text_of(detail: dict[str, Any], key: str) -> str:
    if not isinstance(detail.get(key), str):
        msg = f"{key!r} in the payload is not text"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    return str(detail[key])


def _number(value: float | None) -> float | None:
    """Return a finite number, else None.

    SQLite keeps infinity, though no journaltrack writes it.
    """
    return value if value is not None and value - value == 0 else None


def chain_start(writer_uuid: str) -> bytes:
    """Return the digest before the first entry of a writer of format 0001.

    Later formats start from the writer's ``description_digest``.
    """
    return hashlib.sha256(writer_uuid.encode()).digest()


def description_digest(*columns: str | int | None) -> bytes:
    """Return the SHA-256 of columns, as a JSON array without spaces.

    For the journal's own row in ``meta``, and by ``writer_digest``.
    """
    return hashlib.sha256(canonical(*columns)).digest()


_COLUMNS_OF_0002: Final = 12


def writer_digest(*columns: str | int | None) -> bytes:
    """Return the digest of a writer's columns, see ``schema.WRITER_COLUMNS``.

    Columns that revisions after 0002 added count up to the last one that is not NULL: so a writer
    of an earlier revision keeps its digest.
    """
    end = len(columns)
    while end > _COLUMNS_OF_0002 and columns[end - 1] is None:
        end -= 1
    return description_digest(*columns[:end])


def attestation_start(description: bytes) -> bytes:
    """Return the digest before a writer's first attestation.

    It comes from the digest of the writer's description. Attestations are a chain of their own,
    beside that of the writer's entries.
    """
    return hashlib.sha256(b"attestation" + description).digest()


def attestation_next(previous: bytes, body: str) -> bytes:
    """Return an attestation's digest.

    It is the SHA-256 over its writer's previous digest and its body, a JSON object in ASCII.
    """
    return hashlib.sha256(previous + body.encode()).digest()


def chain_next_entries(
    previous: bytes,
    writer_seq: int,
    component: str,
    drafts: Iterable[Draft],
    recorded_at_ns: int,
) -> list[bytes]:
    """Return the digests of the entries of one call: SHA-256 over the one before and the encoding.

    The first one's is that of the writer's entry before. The canonical encoding is a JSON array in
    UTF-8 without spaces: ``[writer_seq, component, stream, kind, name, value, step, timestamp_ns,
    payload, recorded_at_ns]``. Doubles have the shortest form that reads back the same.

    Args:
        previous: The writer's previous digest.
        writer_seq: The first entry's number in its writer's chain.
        component: The component's name.
        drafts: Of the entries.
        recorded_at_ns: When they were recorded.

    Raises:
        ValueError: A value is not finite.
    """
    name_of_component, end = _quoted(component), f",{recorded_at_ns}]"
    # Written out, as ``canonical`` would: a third of its time.
    return _chained(
        previous,
        [
            f"[{number},{name_of_component},{_quoted(stream)},{_quoted(kind)},"
            f"{'null' if name is None else _quoted(name)},"
            f"{'null' if value is None else _decimal(value)},"
            f"{'null' if step is None else step},"
            f"{'null' if timestamp_ns is None else timestamp_ns},"
            f"{'null' if payload is None else _quoted(payload)}{end}"
            for number, (stream, kind, name, value, step, timestamp_ns, payload, _) in enumerate(
                drafts, writer_seq
            )
        ],
    )


def _decimal(value: float) -> str:
    if value - value != 0:
        msg = f"{value!r} has no JSON"
        raise ValueError(msg)
    return repr(float(value))


def _chained(previous: bytes, encodings: Iterable[str]) -> list[bytes]:
    sha256, digests = hashlib.sha256, []
    for text in encodings:
        previous = sha256(previous + text.encode("utf-8", "surrogatepass")).digest()
        digests.append(previous)
    return digests


def canonical(*columns: str | float | None) -> bytes:
    """Return a row's canonical encoding: what a digest is of."""
    return _encode_canonical(columns).encode("utf-8", "surrogatepass")


def metric_text(component: str, name: str) -> str:
    """Return the part that all points of a metric share, for ``chain_next_metric``."""
    return f',{_encode_canonical(component)},"metric","metric",{_encode_canonical(name)},'


def chain_next_metric(
    previous: bytes,
    writer_seq: int,
    middle: str,
    value: float,
    step: int | None,
    timestamp_ns: int,
    recorded_at_ns: int,
) -> bytes:
    """Return the same as ``chain_next_entries`` for one metric point without payload.

    It takes a third of the time, because it builds the encoding as text.

    Args:
        previous: The writer's previous digest.
        writer_seq: The entry's number in its writer's chain.
        middle: From ``metric_text``.
        value: A plain, finite ``float``: its ``repr`` is the same in JSON.
        step: The step, or None.
        timestamp_ns: The point's time.
        recorded_at_ns: When it was recorded.
    """
    said = "null" if step is None else step
    text = f"[{writer_seq}{middle}{value!r},{said},{timestamp_ns},null,{recorded_at_ns}]"
    return hashlib.sha256(previous + text.encode("utf-8", "surrogatepass")).digest()


def chain_next_metrics(
    previous: bytes,
    writer_seq: int,
    points: Sequence[tuple[str, float]],
    step: int | None,
    timestamp_ns: int,
    recorded_at_ns: int,
) -> list[bytes]:
    """Return the digests of points of one call, as ``chain_next_metric`` does one after the other.

    Args:
        previous: The writer's previous digest.
        writer_seq: The first point's number in its writer's chain.
        points: Of each, the part from ``metric_text`` and the value.
        step: See ``chain_next_metric``.
        timestamp_ns: See there.
        recorded_at_ns: See there.
    """
    end = f",{'null' if step is None else step},{timestamp_ns},null,{recorded_at_ns}]"
    # In a list: a fifth faster than with the digest of each at once.
    return _chained(
        previous,
        [
            f"[{number}{middle}{value!r}{end}"
            for number, (middle, value) in enumerate(points, writer_seq)
        ],
    )


def _finite(value: float) -> tuple[float | None, str | None]:
    """Return a number as a finite double or None, and a payload or None.

    The payload keeps what the double would lose.
    """
    try:
        number = float(value)
    except OverflowError:
        # An int of more than 308 digits.
        return None, encode({"exact": limits.digits(int(value))})
    # NaN or infinite
    if number - number != 0:
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
    """Return the draft, marked undeliverable if there is a reason."""
    if draft.undeliverable is not None:
        return draft
    problem = undeliverable(draft)
    return draft._replace(undeliverable=problem) if problem else draft
