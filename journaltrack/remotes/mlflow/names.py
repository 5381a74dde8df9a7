"""Spell names and values as MLflow takes them, so that names can be read back.

MLflow's names of metrics, parameters and tags have letters, digits and ``_-. :/``, at most 250, and
must look like a path that leads nowhere else. Any other character becomes ``_xHEX_``, its code
point, as in Office Open XML. An underscore that would read as the beginning of such a group becomes
one itself. What is still too long is cut, with the name's digest at its end: ``kept_by`` says under
which tag the whole name is kept.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from typing import Final

from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Status

KEY_CHARS_MAX: Final = 250
"""Characters of a name (``MAX_ENTITY_KEY_LENGTH``)."""
PARAMETER_CHARS_MAX: Final = 6_000
"""Characters of a parameter's value. MLflow cuts longer ones without a word."""
TAG_CHARS_MAX: Final = 8_000
"""Characters of a tag's value. MLflow cuts longer ones without a word."""
_DATASET_MAX: Final = {
    "name": 500,
    "digest": 36,
    "source": 65_535,
    "schema": 1_048_575,
    "profile": 16_777_215,
    "tag's key": 255,
    "tag's value": 500,
}
"""Characters of what a dataset input has (MLflow's ``validation.py``). Longer ones are refused."""
OURS: Final = "journaltrack."
"""How the tags begin that journaltrack makes for itself."""
NAME: Final = f"{OURS}name."
"""How the tags begin that keep a name which is too long."""
_OTHERS: Final = re.compile(r"[^\w./ :-]")
_UNSAFE: Final = re.compile(r"[^\w-]")
_LOOKALIKE: Final = re.compile(r"_(?=x[0-9a-f]+(?:_|[^\w./ :-]))")
_GROUP: Final = re.compile("_x([0-9a-f]{1,6})_")
_CUT: Final = re.compile("_h([0-9a-f]{16})$")
_KEPT_CHARS: Final = 200

STATUSES: Final = {
    "InProgress": "RUNNING",
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Stopping": "RUNNING",
    "Stopped": "KILLED",
}
"""MLflow's status by SageMaker's."""


def spelled(name: str) -> str:
    """Return a name as MLflow takes it."""
    text = _whole(name)
    return text if len(text) <= KEY_CHARS_MAX else shortened(name)


def _whole(name: str) -> str:
    """Return a name as MLflow takes it but for its length."""
    text = _OTHERS.sub(_group, _LOOKALIKE.sub("_x5f_", name))
    if posixpath.normpath(text) != text or text.startswith(("/", "..")) or text == ".":
        text = text.replace("/", "_x2f_")
        if text.startswith("..") or text == ".":
            text = f"_x2e_{text[1:]}"
    return text


def shortened(name: str) -> str:
    """Return the beginning of a name and its digest: ``kept_by`` keeps the whole name."""
    return f"{_UNSAFE.sub('_', name)[:_KEPT_CHARS]}_h{digest(name)}"


def read(text: str, kept: dict[str, str] | None = None) -> str:
    """Return the name that ``spelled`` wrote so.

    Args:
        text: As MLflow has it.
        kept: The values of the tags that begin with ``NAME``, by their rest.
    """
    cut = _CUT.search(text)
    if cut is not None and kept and cut[1] in kept:
        return kept[cut[1]]
    return _GROUP.sub(_char, text)


def kept_by(name: str) -> str | None:
    """Return the tag that must keep a name, since it is too long; None: it is not."""
    is_long = len(_whole(name)) > _KEPT_CHARS
    return f"{NAME}{digest(name)}" if is_long or _CUT.search(name) else None


def tag(name: str) -> str:
    """Return the name of a user's tag. It is never taken for one of ours."""
    text = spelled(name)
    return f"_x6a_{text[1:]}" if text.startswith(OURS) else text


def text_of(value: str | float) -> str:
    """Return a parameter's value as MLflow's own client would write it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def number(value: float) -> float | str:
    """Return a metric's value for JSON."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def held_point(value: float) -> float:
    """Return a metric's value as MLflow keeps it: infinity becomes the largest number."""
    return math.copysign(1.7976931348623157e308, value) if math.isinf(value) else value


def told(value: float) -> str | None:
    """Return how MLflow keeps a metric's value otherwise than it was logged, or None."""
    return "MLflow keeps infinity as the largest number, 1.797e308" if math.isinf(value) else None


def status_of(status: str | None) -> str | None:
    """Return MLflow's status; None leaves what it has."""
    return STATUSES.get(status or "")


def ended(status: Status) -> bool:
    """Return whether a status ends the run."""
    return status_of(status.primary) in {"FINISHED", "FAILED", "KILLED"}


def refuses(entry: vocabulary.Entry) -> str | None:
    """Return why MLflow could never take an entry, or None.

    Raises:
        ValueError: Its payload can't be read.
    """
    if entry.kind in {
        *(vocabulary.METRIC, vocabulary.PARAMETER, vocabulary.INPUT, vocabulary.OUTPUT)
    } and (
        problem := _text_problem(entry.name or "", f"the {entry.kind}'s name", KEY_CHARS_MAX * 8)
    ):
        return problem if entry.name else f"the {entry.kind} has no name"
    if entry.kind == vocabulary.METRIC:
        return _point_problem(entry)
    if entry.kind == vocabulary.PARAMETER:
        value = vocabulary.sent_parameter(vocabulary.parameter_of(entry))
        return _text_problem(text_of(value), "the value", PARAMETER_CHARS_MAX)
    if entry.kind in {vocabulary.INPUT, vocabulary.OUTPUT}:
        value = entry.detail.get("value", "")
        return _text_problem(value if isinstance(value, str) else "", "the value", TAG_CHARS_MAX)
    if entry.kind == vocabulary.NOTE:
        return _text_problem(vocabulary.note_of(entry), "the note", TAG_CHARS_MAX)
    if entry.kind == vocabulary.LABEL:
        return _label_problem(entry.name or "", vocabulary.label_of(entry))
    if entry.kind == vocabulary.TAGS:
        texts = (text for item in vocabulary.tags_of(entry).items() for text in item)
        return next((p for t in texts if (p := _text_problem(t, "a tag", TAG_CHARS_MAX))), None)
    return None


def _label_problem(name: str, text: str | None) -> str | None:
    if name.startswith(vocabulary.DATASET):
        return None if text is None else _dataset_problem(text)
    if name.startswith(vocabulary.OWN_LABEL):
        return None
    return _text_problem(text or "", "the tag", TAG_CHARS_MAX)


def _dataset_problem(text: str) -> str | None:
    """Return why MLflow could never take a dataset input, or None: it would refuse its request."""
    told = vocabulary.decode(text)
    dataset, tags = told.get("dataset"), told.get("tags", [])
    if not isinstance(dataset, dict) or not isinstance(tags, list):
        return "it is no dataset input"
    pairs = [each if isinstance(each, dict) else {} for each in tags]
    texts = [each.get(key) for each in pairs for key in ("key", "value")]
    if not all(isinstance(each, str) for each in (*dataset.values(), *texts)):
        return "it is no dataset input: what it has is not text"
    missing = {"name", "digest", "source_type", "source"} - set(dataset)
    if missing:
        return f"the dataset has no {min(missing)}"
    held = [
        *dataset.items(),
        *((f"tag's {key}", e[key]) for e in pairs for key in ("key", "value")),
    ]
    for what, each in held:
        if problem := _text_problem(each, f"the dataset's {what}", _DATASET_MAX.get(what, 2**24)):
            return problem
    return None


def _point_problem(entry: vocabulary.Entry) -> str | None:
    exact = entry.detail.get("exact")
    if entry.value is None and exact not in {"nan", "inf", "-inf"}:
        return "the value is no number that MLflow takes"
    if entry.timestamp_ns is not None and not 0 <= entry.timestamp_ns < 2**63:
        return "the time is before 1970"
    if entry.step is not None and not -(2**63) <= entry.step < 2**63:
        return "the step has more than 64 bits"
    return None


def _text_problem(text: str, what: str, chars_max: int) -> str | None:
    if len(text) > chars_max:
        return f"{what} has {len(text)} characters; MLflow takes at most {chars_max}"
    if "\0" in text:
        return f"{what} contains a NUL, which databases behind MLflow refuse"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{what} contains a character that is not Unicode"
    return None


def digest(name: str) -> str:
    """Return 16 digits of a text's SHA-256."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]


def _group(found: re.Match[str]) -> str:
    return f"_x{ord(found[0]):x}_"


def _char(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code < 0x110000 else found[0]  # noqa: PLR2004 - Unicode's end
