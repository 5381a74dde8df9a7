"""Define AWS's limits and ours, with units and sources, and the checks that use them.

AWS's values are from botocore 1.44.5's service models (``sagemaker/2017-07-24`` and
``sagemaker-metrics/2022-09-30``). ``tests/unit/test_limits.py`` compares them with the models of
the installed botocore, to notice changes.

Pure: imports nothing of the package, and does no I/O.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

NAME_CHARS_MAX: Final = 120
"""Characters of a component's, trial's, experiment's or display name (``ExperimentEntityName``)."""
NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,119}")
"""``ExperimentEntityName``; SageMaker compares names without regard to case."""
PARAMETERS_MAX: Final = 300
"""Keys of a component's parameters (``TrialComponentParameters``)."""
PARAMETER_KEY_CHARS_MAX: Final = 320
"""Characters of a parameter's name (``TrialComponentKey320``)."""
PARAMETER_STRING_CHARS_MAX: Final = 2_500
"""Characters of a parameter's string value (``StringParameterValue``)."""
ARTIFACTS_MAX: Final = 60
"""Input artifacts of a component, and output artifacts of it (``TrialComponentArtifacts``).

Both original SDKs stop at 30.
"""
ARTIFACT_KEY_CHARS_MAX: Final = 128
"""Characters of an artifact's name (``TrialComponentKey128``)."""
ARTIFACT_VALUE_CHARS_MAX: Final = 2_048
"""Characters of an artifact's value (``TrialComponentArtifactValue``)."""
MEDIA_TYPE_CHARS_MAX: Final = 64
"""Characters of a media type (``MediaType``)."""
MEDIA_TYPE_PATTERN: Final = re.compile(r"[-\w]+/[-\w+]+", re.ASCII)
"""``MediaType``: no dots and no parameters, so ``text/plain; charset=utf-8`` is refused."""
STATUS_MESSAGE_CHARS_MAX: Final = 1_024
"""Characters of a status message (``TrialComponentStatusMessage``), on one line."""
METRIC_NAME_CHARS_MAX: Final = 255
"""Characters of a metric's name (``MetricName`` of BatchPutMetrics)."""
METRICS_PER_REQUEST_MAX: Final = 10
"""Points in one BatchPutMetrics request (``RawMetricDataList``)."""
METRIC_AGE_MAX_S: Final = 14 * 24 * 3_600
METRIC_AHEAD_MAX_S: Final = 2 * 3_600
"""Seconds that a metric's time may lie in the past or ahead.

They are bounds of the original library's metrics writer (sagemaker-experiments). Whether
BatchPutMetrics has them is not documented.
"""
TIMESTAMP_NS_MAX: Final = 253_402_300_799_999_999_999
"""The end of the year 9999, the last that a datetime can hold."""
JOURNAL_NS_MAX: Final = 2**63 - 1
"""Ours: the last time that a call may name, 2262-04-11T23:47:16.854775807Z.

It is SQLite's largest integer.
"""
STEP_LIKE_S_MAX: Final = 1_000_000_000
"""Ours: a metric's time below this (2001-09-09) logs a warning: it is probably a step."""
STEP_MAX: Final = 2**31 - 1
"""Largest iteration number: the model's type is ``integer``, 32 bits signed, at least 0."""
TAGS_MAX: Final = 50
"""Tags on a component (``TagList``)."""
NOTE_CHARS_MAX: Final = 10_000
"""Ours: characters of a run's note."""
DESCRIPTION_CHARS_MAX: Final = 3_072
"""Characters of an experiment's description (``ExperimentDescription``)."""
TAG_KEY_CHARS_MAX: Final = 128
"""Characters of a tag's key (``TagKey``)."""
TAG_KEY_RESERVED: Final = "aws:"
"""How no tag's key may begin, in any case (AWS's general rules for tags)."""
TAG_VALUE_CHARS_MAX: Final = 256
"""Characters of a tag's value (``TagValue``)."""
TRACEBACK_CHARS_MAX: Final = 65_536
"""Ours: characters of a traceback in the journal. Its end is kept, which names the error."""
TEXT_CHARS_MAX: Final = 64 * 1024 * 1024
"""Ours: characters of a text that a call records.

JSON escapes a character as 12 bytes at worst. A row in SQLite has at most 1,000,000,000 bytes.
"""
LINEAGE_TYPE_CHARS_MAX: Final = 256
"""Characters of a lineage artifact's type (``ArtifactType``)."""
PAGE_ITEMS_MAX: Final = 100
"""Items of a page of ListTrialComponents, Search and their like (``MaxResults``)."""
ASSOCIATIONS_MAX: Final = 100
"""Ours: trials that one pass adds a component to. Each is created if it is missing."""
OBJECT_KEY_BYTES_MAX: Final = 1_024
"""Bytes of an object's key in UTF-8: Amazon S3 User Guide, "Naming Amazon S3 objects"."""
OWNER_CHARS_MAX: Final = 256
"""Ours: characters of an owner's mark; the marks that we write have 36.

SageMaker takes 1,024 (``MetadataPropertyValue``).
"""
PAYLOAD_CHARS_MAX: Final = 4 * 1024 * 1024
PAYLOAD_DEPTH_MAX: Final = 32
"""Ours: bounds of a payload that is decoded: characters outside its texts, and depth.

A crafted payload of a few megabytes could describe objects that fill the memory. A text takes no
more memory than itself. The payloads that we write are two levels deep.
"""
MANIFEST_BYTES_MAX: Final = 32 * 1024 * 1024
"""Ours: size of a manifest, which is read into memory: about 400,000 blobs."""
BUFFERED_ENTRIES_MAX: Final = 100_000
"""Ours: entries that wait in memory while the journal takes none: about 50 MB."""

BUCKET_CHARS: Final = (3, 63)
"""Least and most characters of a bucket's name.

Source, also of ``bucket_problem``: Amazon S3 User Guide, "General purpose bucket naming rules".
"""

_SHOWN_CHARS_MAX: Final = 80
_WHOLE: Final = re.compile("-?[0-9]+")
_BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_ADDRESS_PATTERN = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
_BUCKET_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
# AWS's \p{Z} are the separators: no tab, no line break.
_TAG_PATTERN = re.compile(r"[\w.:/=+\-@ \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")


def name_problem(name: str, what: str) -> str | None:
    """Return why AWS would refuse ``name`` as an ``ExperimentEntityName``, or None.

    Args:
        name: The name or display name.
        what: The kind of name, for the message ("display name").
    """
    if len(name) <= NAME_CHARS_MAX and NAME_PATTERN.fullmatch(name):
        return None
    return (
        f"{what} {shown(name)} can't be used: SageMaker allows at most {NAME_CHARS_MAX} letters, "
        "digits and hyphens, with a letter or digit at both ends"
    )


def suggested_name(name: str) -> str:
    """Return a similar name that SageMaker allows: no accents, hyphens for other characters."""
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", _ascii(name)).strip("-")
    return plain[:NAME_CHARS_MAX].rstrip("-") or "run"


def with_end(name: str, end: str) -> str:
    """Return a name that SageMaker allows with an end, for which the name is cut if need be."""
    return name[: NAME_CHARS_MAX - len(end)].rstrip("-") + end


def _ascii(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name[: 4 * NAME_CHARS_MAX])
    return decomposed.encode("ascii", "ignore").decode()


def mended_name(name: str) -> str:
    """Replace dots, underscores and spaces, which SageMaker refuses, by hyphens."""
    return re.sub(r"-*[._ ][-._ ]*", "-", name).strip("-") if re.search("[._ ]", name) else name


def lineage_name(name: str, fallback: str) -> str:
    """Return a name that CreateArtifact accepts: ``ArtifactName`` is an ``ExperimentEntityName``.

    Args:
        name: Of a file or a chart.
        fallback: Stands for a name without any letter or digit that SageMaker allows.
    """
    if not name_problem(name, ""):
        return name
    return suggested_name(name) if re.search("[a-zA-Z0-9]", _ascii(name)) else fallback


def bucket_problem(name: str) -> str | None:
    """Return why no bucket can have that name, or None.

    The ARN of an access point can stand for a bucket.
    """
    least, most = BUCKET_CHARS
    if name.startswith("arn:"):
        return None
    if not least <= len(name) <= most:
        return f"it has {len(name)} characters, and S3's have {least} to {most}"
    if not _BUCKET_PATTERN.fullmatch(name) or ".." in name:
        return "S3 allows a-z, 0-9, hyphens and single dots, with a letter or digit at both ends"
    if _ADDRESS_PATTERN.fullmatch(name):
        return "S3 refuses what looks like an IP address"
    reserved = next((prefix for prefix in _BUCKET_PREFIXES if name.startswith(prefix)), None)
    return f"S3 reserves names that begin with {reserved}" if reserved else None


def text_problem(text: str, what: str, chars_max: int, chars_min: int = 1) -> str | None:
    """Return why AWS would refuse ``text``, or None.

    For members whose pattern is ``.*`` or ``.+``, which excludes line breaks.

    Args:
        text: The text.
        what: The kind of text, for the message ("parameter name").
        chars_max: Largest length in characters.
        chars_min: Smallest length in characters.
    """
    if len(text) > chars_max:
        return f"{what} has {len(text)} characters; SageMaker takes at most {chars_max}"
    if len(text) < chars_min:
        return f"{what} is empty"
    if "\n" in text or "\r" in text:
        return f"{what} contains a line break, which SageMaker refuses"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{what} contains a lone surrogate, which can't be encoded as UTF-8"
    return None


def number_problem(value: float | None, what: str, exact: object = None) -> str | None:
    """Return why a number can't be sent, or None.

    JSON has no NaN and no infinity. botocore would send the string "NaN", which the service
    refuses.

    Args:
        value: The number. None stands for a number that no finite double can hold.
        what: The kind of number, for the message ("the value").
        exact: The number that None stands for.
    """
    if value is not None:
        return None
    if isinstance(exact, str) and _WHOLE.fullmatch(exact):
        return too_large(what)
    return not_finite(what)


def too_large(what: str) -> str:
    """Return why a number too large for a double can't be sent."""
    return f"{what} is too large for a double, which is what SageMaker keeps of a number"


def not_finite(what: str) -> str:
    """Return why NaN and infinity can't be sent."""
    return f"{what} is NaN or infinite, which can't be sent to SageMaker"


def default_trial(experiment: str) -> str:
    """Return the trial of a run that names an experiment alone, as the newer SageMaker SDK does."""
    return f"Default-Run-Group-{experiment}"[:NAME_CHARS_MAX].rstrip("-")


def time_problem(timestamp_ns: int | None, what: str) -> str | None:
    """Return why a time (nanoseconds since the epoch) can't be sent, or None."""
    if timestamp_ns is None or 0 <= timestamp_ns <= TIMESTAMP_NS_MAX:
        return None
    return f"{what} is before 1970 or after 9999"


def media_type_problem(media_type: str) -> str | None:
    """Return why AWS would refuse the media type, or None."""
    if len(media_type) <= MEDIA_TYPE_CHARS_MAX and MEDIA_TYPE_PATTERN.fullmatch(media_type):
        return None
    allowed = f"[-\\w]+/[-\\w+]+, at most {MEDIA_TYPE_CHARS_MAX} characters"
    return f"media type {shown(media_type)} can't be used: SageMaker allows {allowed}"


def tag_problem(key: str, value: str) -> str | None:
    """Return why AWS would refuse the tag, or None."""
    allowed = "letters, digits, spaces and _.:/=+-@"
    if key.lower().startswith(TAG_KEY_RESERVED):
        return f"tag key {shown(key)} can't be used: AWS reserves keys that begin with aws:"
    if not 1 <= len(key) <= TAG_KEY_CHARS_MAX or not _TAG_PATTERN.fullmatch(key):
        return f"tag key {shown(key)} can't be used: 1 to {TAG_KEY_CHARS_MAX} {allowed}"
    if len(value) > TAG_VALUE_CHARS_MAX or not _TAG_PATTERN.fullmatch(value):
        return f"tag value {shown(value)} can't be used: at most {TAG_VALUE_CHARS_MAX} {allowed}"
    return None


def tags_problem(tags: Mapping[str, str]) -> str | None:
    """Return why AWS would refuse the tags, or None."""
    if len(tags) > TAGS_MAX:
        return f"{len(tags)} tags were given; AWS takes at most {TAGS_MAX}"
    problems = (tag_problem(key, value) for key, value in tags.items())
    return next((problem for problem in problems if problem), None)


def one_line(message: str) -> str:
    """Fold a status message into one line, and cut it to ``STATUS_MESSAGE_CHARS_MAX``."""
    folded = " ".join(message.split()).encode(errors="replace").decode()
    if len(folded) <= STATUS_MESSAGE_CHARS_MAX:
        return folded
    return folded[: STATUS_MESSAGE_CHARS_MAX - 1] + "…"


def shown(text: str) -> str:
    """Quote ``text`` for a message: escape control characters, and cut it."""
    return repr(text) if len(text) <= _SHOWN_CHARS_MAX else repr(text[: _SHOWN_CHARS_MAX - 1]) + "…"


def digits(number: int) -> str:
    """Return all digits of an integer, also if ``sys.set_int_max_str_digits`` limits ``str``."""
    try:
        return str(number)
    except ValueError:
        import decimal  # noqa: PLC0415 - for integers of more than 4,300 digits alone

        return format(decimal.Decimal(number), "f")
