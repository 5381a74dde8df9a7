"""AWS's limits and ours: numbers with their units and sources, and the checks that use them.

Pure: imports nothing of the package but its errors, does no I/O. The values were read from botocore 1.44.5's
service models (``sagemaker/2017-07-24`` and ``sagemaker-metrics/2022-09-30``); ``tests/unit/test_limits.py`` compares
them with the models of the botocore that is installed, so that a change upstream is noticed.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_CHARS_MAX: Final = 120
"""Characters of a trial component, trial or experiment name, and of a display name (``ExperimentEntityName``)."""
NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,119}")
"""``ExperimentEntityName``; SageMaker compares names without regard to case."""
PARAMETERS_MAX: Final = 300
"""Keys of a component's parameters (``TrialComponentParameters``)."""
PARAMETER_KEY_CHARS_MAX: Final = 320
"""Characters of a parameter's name (``TrialComponentKey320``)."""
PARAMETER_STRING_CHARS_MAX: Final = 2_500
"""Characters of a parameter's string value (``StringParameterValue``)."""
ARTIFACTS_MAX: Final = 60
"""Input artifacts, and output artifacts, of a component (``TrialComponentArtifacts``). Both original SDKs stop at 30."""
ARTIFACT_KEY_CHARS_MAX: Final = 128
"""Characters of an artifact's name (``TrialComponentKey128``)."""
ARTIFACT_VALUE_CHARS_MAX: Final = 2_048
"""Characters of an artifact's value (``TrialComponentArtifactValue``)."""
MEDIA_TYPE_CHARS_MAX: Final = 64
"""Characters of a media type (``MediaType``)."""
MEDIA_TYPE_PATTERN: Final = re.compile(r"[-\w]+/[-\w+]+", re.ASCII)
"""``MediaType``: refuses dots and parameters, so ``text/plain; charset=utf-8`` is not accepted."""
STATUS_MESSAGE_CHARS_MAX: Final = 1_024
"""Characters of a status message (``TrialComponentStatusMessage``), on one line."""
METRIC_NAME_CHARS_MAX: Final = 255
"""Characters of a metric's name (``MetricName`` of BatchPutMetrics)."""
METRICS_PER_REQUEST_MAX: Final = 10
"""Points in one BatchPutMetrics request (``RawMetricDataList``)."""
METRIC_AGE_MAX_S: Final = 14 * 24 * 3_600
METRIC_AHEAD_MAX_S: Final = 2 * 3_600
"""Seconds that a metric's time may lie back or ahead: bounds of the original library's metrics writer (sagemaker-experiments);
whether BatchPutMetrics has them is documented nowhere."""
TIMESTAMP_NS_MAX: Final = 253_402_300_799_999_999_999
"""The end of the year 9999, the last that a datetime holds."""
JOURNAL_NS_MAX: Final = 2**63 - 1
"""Ours: the last time that a call may name, 2262-04-11T23:47:16.854775807Z: SQLite's largest integer."""
STEP_LIKE_S_MAX: Final = 1_000_000_000
"""Ours: a number of seconds below this (2001-09-09) as a metric's time is warned about as a step."""
STEP_MAX: Final = 2**31 - 1
"""Largest iteration number: the model says ``integer``, 32 bits signed, at least 0."""
TAGS_MAX: Final = 50
"""Tags on a component (``TagList``)."""
TAG_KEY_CHARS_MAX: Final = 128
"""Characters of a tag's key (``TagKey``)."""
TAG_VALUE_CHARS_MAX: Final = 256
"""Characters of a tag's value (``TagValue``)."""
TRACEBACK_CHARS_MAX: Final = 65_536
"""Ours: characters of a traceback kept in the journal (the end is kept, it names the error)."""
TEXT_CHARS_MAX: Final = 64 * 1024 * 1024
"""Ours: characters of a text that a call records. JSON escapes one as 12 bytes at worst; a row of
SQLite's has at most 1,000,000,000."""
ASSOCIATIONS_MAX: Final = 100
"""Ours: trials that one pass puts a component into; each is made if it is missing."""
OBJECT_KEY_BYTES_MAX: Final = 1_024
"""Bytes of an object's key in UTF-8: Amazon S3 User Guide, "Naming Amazon S3 objects"."""
OWNER_CHARS_MAX: Final = 256
"""Ours: characters of the mark of a creation; ours have 36. SageMaker takes 1,024 (``MetadataPropertyValue``)."""
PAYLOAD_CHARS_MAX: Final = 4 * 1024 * 1024
PAYLOAD_DEPTH_MAX: Final = 32
"""Ours: characters outside of its texts, and nesting, of a payload that is decoded. The objects that
a crafted one of some megabytes describes would fill the memory, while a text takes no more than
itself. Ours nest two deep."""
MANIFEST_BYTES_MAX: Final = 32 * 1024 * 1024
"""Ours: what is read into memory; some 400,000 blobs."""
BUFFERED_ENTRIES_MAX: Final = 100_000
"""Ours: entries that wait in memory while the journal takes none; about 50 MB."""

BUCKET_CHARS: Final = (3, 63)
"""Least and most characters of a bucket's name. Its source, and that of ``bucket_problem``: Amazon S3
User Guide, "General purpose bucket naming rules"."""

_WHOLE: Final = re.compile("-?[0-9]+")
_BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_ADDRESS_PATTERN = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
_BUCKET_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_TAG_PATTERN = re.compile(r"[\w\s.:/=+\-@]*")


def name_problem(name: str, what: str) -> str | None:
    """Why AWS would refuse ``name`` as an ``ExperimentEntityName``, or None.

    Args:
        name: The name or display name.
        what: What it is the name of, for the message ("display name").
    """
    if len(name) <= NAME_CHARS_MAX and NAME_PATTERN.fullmatch(name):
        return None
    return (
        f"{what} {shown(name)} can't be used: SageMaker allows letters, digits and single or repeated hyphens between them, "
        f"starting and ending with a letter or digit, at most {NAME_CHARS_MAX} characters"
    )


def suggested_name(name: str) -> str:
    """Return a name like this one that fits: without accents, and with hyphens for anything else."""
    plain = unicodedata.normalize("NFKD", name[: 4 * NAME_CHARS_MAX]).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-zA-Z0-9]+", "-", plain).strip("-")[:NAME_CHARS_MAX].rstrip("-") or "run"


def mended_name(name: str) -> str:
    """Return the name with hyphens for dots, underscores and spaces, which SageMaker refuses."""
    return re.sub(r"-*[._ ][-._ ]*", "-", name).strip("-") if re.search("[._ ]", name) else name


def bucket_problem(name: str) -> str | None:
    """Why no bucket can have that name, or None; an access point's ARN can stand for a bucket."""
    least, most = BUCKET_CHARS
    if name.startswith("arn:"):
        return None
    if not least <= len(name) <= most:
        return f"it has {len(name)} characters, and S3's have {least} to {most}"
    if not _BUCKET_PATTERN.fullmatch(name) or ".." in name:
        return "S3 allows lower-case letters, digits, hyphens and single dots, between a letter or digit at either end"
    if _ADDRESS_PATTERN.fullmatch(name):
        return "S3 refuses what looks like an IP address"
    reserved = next((prefix for prefix in _BUCKET_PREFIXES if name.startswith(prefix)), None)
    return f"S3 reserves names that begin with {reserved}" if reserved else None


def text_problem(text: str, what: str, chars_max: int, chars_min: int = 1) -> str | None:
    """Why AWS would refuse ``text`` where its pattern is ``.*`` or ``.+`` (no line breaks), or None.

    Args:
        text: The text.
        what: What it is, for the message ("parameter name").
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
    """Why a number can't be sent, or None. ``None`` stands for one that no finite double is; ``exact`` says which.

    JSON has no NaN and no infinity; botocore would send the string "NaN", which the service refuses.
    """
    if value is not None:
        return None
    if isinstance(exact, str) and _WHOLE.fullmatch(exact):
        return too_large(what)
    return not_finite(what)


def too_large(what: str) -> str:
    """Why a number beyond a double can't be sent."""
    return f"{what} is too large for a double, which is what SageMaker keeps of a number"


def not_finite(what: str) -> str:
    """Why NaN and infinity can't be sent."""
    return f"{what} is NaN or infinite, which can't be sent to SageMaker"


def time_problem(timestamp_ns: int | None, what: str) -> str | None:
    """Why a time (nanoseconds since the epoch) can't be sent, or None."""
    if timestamp_ns is None or 0 <= timestamp_ns <= TIMESTAMP_NS_MAX:
        return None
    return f"{what} is before 1970 or after 9999"


def media_type_problem(media_type: str) -> str | None:
    """Why AWS would refuse the media type, or None."""
    if len(media_type) <= MEDIA_TYPE_CHARS_MAX and MEDIA_TYPE_PATTERN.fullmatch(media_type):
        return None
    return f"media type {shown(media_type)} does not fit SageMaker's pattern [-\\w]+/[-\\w+]+ of at most {MEDIA_TYPE_CHARS_MAX} characters"


def tag_problem(key: str, value: str) -> str | None:
    """Why AWS would refuse the tag, or None."""
    if not 1 <= len(key) <= TAG_KEY_CHARS_MAX or not _TAG_PATTERN.fullmatch(key):
        return f"tag key {shown(key)} can't be used: 1 to {TAG_KEY_CHARS_MAX} letters, digits, spaces and _.:/=+-@"
    if len(value) > TAG_VALUE_CHARS_MAX or not _TAG_PATTERN.fullmatch(value):
        return f"tag value {shown(value)} can't be used: at most {TAG_VALUE_CHARS_MAX} letters, digits, spaces and _.:/=+-@"
    return None


def one_line(message: str) -> str:
    """The message as AWS takes it for a status: line breaks folded into spaces, cut to ``STATUS_MESSAGE_CHARS_MAX``."""
    folded = " ".join(message.split()).encode(errors="replace").decode()
    return folded if len(folded) <= STATUS_MESSAGE_CHARS_MAX else folded[: STATUS_MESSAGE_CHARS_MAX - 1] + "…"


def shown(text: str, chars_max: int = 80) -> str:
    """``text`` quoted for a message: control characters escaped, cut to about ``chars_max`` characters."""
    return repr(text) if len(text) <= chars_max else repr(text[: chars_max - 1]) + "…"


def digits(number: int) -> str:
    """Return all digits of an integer, also where ``str`` refuses (``sys.set_int_max_str_digits``)."""
    try:
        return str(number)
    except ValueError:
        import decimal  # noqa: PLC0415 - for integers of more than 4,300 digits alone

        return format(decimal.Decimal(number), "f")
