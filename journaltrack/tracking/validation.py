"""Checks and conversions of what a caller passes in: the line between a programmer's mistake and what only the data decides.

Pure. A mistake (wrong type, a name that AWS can never accept, a negative step) raises here, before anything is journaled.
What the data decides (NaN, a long string) passes; ``entries`` marks it undeliverable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import operator
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol, SupportsFloat, SupportsIndex, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from argparse import Namespace

    from _typeshed import DataclassInstance

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECONDS_MAX: Final = limits.JOURNAL_NS_MAX // 1_000_000_000
_PER_NANOSECOND: Final = {"ns": 1, "ps": 10**3, "fs": 10**6, "as": 10**9}
_UNIT: Final = re.compile(r"\[(\d*)(ns|ps|fs|as)\]")


class ArrayScalar(Protocol):
    """What NumPy's scalars (also ``datetime64``) and arrays or tensors of one element have."""

    @property
    def dtype(self) -> Any: ...  # noqa: ANN401, D102 - NumPy's

    def item(self) -> Any: ...  # noqa: ANN401, D102 - NumPy's


Number: TypeAlias = "SupportsFloat | SupportsIndex | ArrayScalar"
"""What a metric's value may be: any number, NumPy's and one-element tensors too."""
Moment: TypeAlias = "datetime | SupportsFloat | ArrayScalar"
"""What a timestamp may be."""
Parameters: TypeAlias = "Mapping[str, Any] | Iterable[tuple[str, Any]] | Namespace | SimpleNamespace | DataclassInstance"
"""What ``log_parameters`` takes."""


class JournaltrackWarning(UserWarning):
    """Something was recorded but will not be delivered as it is."""


def entity_name(name: object, what: str) -> str:
    """A trial component's, trial's, experiment's or display name that AWS accepts.

    Raises:
        InvalidTypeError: Not a string.
        InvalidInputError: AWS could never accept it.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(name).__name__}")
    problem = limits.name_problem(name, what)
    if problem:
        raise InvalidInputError(problem, hint=f"for example {limits.suggested_name(name)}")
    return name


def display_name(name: object) -> tuple[str, str | None]:
    """Return a display name that SageMaker takes, and what to tell if it is another than given.

    Raises:
        InvalidTypeError: Not a string.
        InvalidInputError: It takes more than other separators to make it one.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"display name must be a str, not {type(name).__name__}")
    mended = limits.mended_name(name)
    if mended == name or limits.name_problem(mended, "display name"):
        return entity_name(name, "display name"), None
    return (
        mended,
        f"display name {limits.shown(name)} is recorded and sent as {mended!r}: SageMaker takes no dots, underscores or spaces in it",
    )


def bucket(name: object) -> str | None:
    """The name of an S3 bucket, or None for the default one; an empty name is none.

    Raises:
        InvalidTypeError: Neither a string nor None.
        InvalidInputError: No bucket can have that name.
    """
    text = optional_text(name, "artifact_bucket") or None
    problem = limits.bucket_problem(text) if text else None
    if text is None or problem is None:
        return text
    first, _, rest = text.removeprefix("s3://").strip("/").partition("/")
    hint = "give the bucket's name alone"
    if first != text and limits.bucket_problem(first) is None:
        hint = f"pass artifact_bucket={first!r}" + (f" and artifact_prefix={rest!r}" if rest else "")
    raise InvalidInputError(f"artifact_bucket {limits.shown(text)} can't be a bucket: {problem}; nothing was recorded", hint=hint)


def pairs(value: object, what: str) -> list[tuple[Any, Any]]:
    """Return names and values from a mapping, a namespace, a dataclass or an iterable of pairs.

    The names are not checked.

    Raises:
        InvalidTypeError: None of these.
    """
    if isinstance(value, Mapping):
        return list(value.items())
    argparse = sys.modules.get("argparse")  # who has a Namespace has imported it
    if isinstance(value, SimpleNamespace) or (argparse is not None and isinstance(value, argparse.Namespace)):
        return list(vars(value).items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value) if hasattr(value, each.name)]
    found: Any = None
    if not isinstance(value, (str, bytes, type)):
        items = getattr(value, "items", None)
        found = items() if callable(items) else value
    if not isinstance(found, Iterable):
        raise InvalidTypeError(
            f"{what} must be a mapping, not {type(value).__name__}; nothing was recorded",
            hint="a dict, an argparse.Namespace, a dataclass or (name, value) pairs",
        )
    known = list(found)
    odd = next((each for each in known if not isinstance(each, (tuple, list)) or len(each) != 2), None)  # noqa: PLR2004 - a pair
    if odd is not None:
        raise InvalidTypeError(f"{what} must be (name, value) pairs; one of them is {_brief(odd)}; nothing was recorded")
    return [(each[0], each[1]) for each in known]


def key(name: object, what: str, chars_max: int) -> str:
    """The name of a metric, parameter or artifact.

    Raises:
        InvalidTypeError: Not a string.
        InvalidInputError: Empty, too long, with a line break, or not encodable as UTF-8.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(name).__name__}")
    problem = limits.text_problem(name, f"{what} {limits.shown(name)}", chars_max)
    if problem:
        raise InvalidInputError(problem)
    return _plain(name)


def scalar(value: Any) -> Any:  # noqa: ANN401 - whatever a caller has
    """Return the Python value in a NumPy scalar or a one-element array or tensor; else the value.

    Times of NumPy stay as they are: what ``item`` makes of them depends on their unit.
    """
    try:
        if _is_time(value) or any(length != 1 for length in value.shape):
            return value
        item = getattr(value, "item", None)
        return scalar(value.numpy()) if item is None else item()  # TensorFlow's tensors have no item()
    except Exception:  # noqa: BLE001 - no array, or one without a value here (lazy, sharded)
        return value


def metric_value(value: object) -> float | int:
    """A metric's value as a Python number, finite or not.

    Raises:
        InvalidTypeError: Not a real number. Booleans count as 0 and 1, as in the original.
    """
    if type(value) is float or type(value) is int:
        return value
    value = scalar(value)
    if not _is_time(value):
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real) or _is_decimal(value):
            return _float(value)
        # For an array of several elements each library has an error of its own.
        with contextlib.suppress(Exception):
            if isinstance(value, (SupportsFloat, SupportsIndex)) and not isinstance(value, numbers.Complex):
                return float(value)
    raise InvalidTypeError(f"a metric's value must be a number, not {type(value).__name__}")


def parameter_value(value: object) -> str | float | int:
    """A parameter's value as it is journaled: numbers as numbers, booleans as "True" or "False", the rest as text.

    Raises:
        InvalidInputError: It has no text, or more of it than a journal takes.
    """
    value = scalar(value)
    if not isinstance(value, (str, bool)) and not _is_time(value):
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real) or _is_decimal(value):
            return _float(value)
    try:
        text = _plain(value if isinstance(value, str) else str(value))
    except Exception as error:
        raise InvalidInputError(
            f"the value, of type {type(value).__name__}, has no text: {type(error).__name__}; nothing was recorded",
            hint="pass text or a number",
        ) from error
    return long_text(text, "the value")


def long_text(text: str, what: str) -> str:
    """Return a text that a journal takes, whether or not SageMaker does.

    Raises:
        InvalidInputError: It is too long.
    """
    if len(text) > limits.TEXT_CHARS_MAX:
        raise InvalidInputError(
            f"{what} has {len(text)} characters; a journal takes at most {limits.TEXT_CHARS_MAX}; nothing was recorded",
            hint="write it to a file and use log_artifact(file_path)",
        )
    return text


def step(value: object) -> int | None:
    """An iteration number: an integer from 0 to 2^31-1 (an integral float is one), or None.

    Raises:
        InvalidTypeError: Not an integer.
        InvalidInputError: Negative or too large.
    """
    if value is None:
        return None
    if type(value) is not int:
        value = scalar(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InvalidTypeError(f"the step (iteration_number) must be an integer, not {type(value).__name__}")
        try:
            value = int(operator.index(value))
        except TypeError as error:  # an array of several elements
            raise InvalidTypeError(f"the step (iteration_number) must be an integer, not {type(value).__name__}") from error
    if not 0 <= value <= limits.STEP_MAX:
        raise InvalidInputError(f"the step (iteration_number) is {_brief(value)}; SageMaker takes 0 to {limits.STEP_MAX}")
    return value


def one_step(iteration_number: SupportsIndex | None, other: SupportsIndex) -> SupportsIndex:
    """Return the step that a caller gave under one of its two names, or under both.

    Raises:
        InvalidTypeError: One of two is not an integer.
        InvalidInputError: The two differ, or one of them is out of range.
    """
    if iteration_number is not None and step(iteration_number) != step(other):
        raise InvalidInputError(
            f"iteration_number is {_brief(iteration_number)} and step is {_brief(other)}: "
            "both name the step of a point; nothing was recorded",
            hint="pass one of them",
        )
    return other


def timestamp_ns(value: object) -> int:
    """A point in time as nanoseconds since the epoch, UTC.

    Args:
        value: A datetime (a naive one is local time; pandas' have nanoseconds), NumPy's datetime64
            (which is UTC), or a number of seconds since the epoch.

    Raises:
        InvalidTypeError: None of these.
        InvalidInputError: Before 1970, or later than a journal's 64-bit nanoseconds hold.
    """
    if isinstance(value, datetime):
        nanoseconds = _of_datetime(value)
    elif _kind(value) == "M":
        nanoseconds = _of_datetime64(value)
    else:
        value = scalar(value)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or _is_time(value):
            raise InvalidTypeError(f"timestamp must be a datetime or seconds since the epoch, not {type(value).__name__}")
        if not 0 <= _float(value) <= _SECONDS_MAX:  # also refuses NaN; a plain float() could overflow
            raise InvalidInputError(
                f"timestamp is {_brief(value)}: seconds since the epoch are expected, 0 to {_SECONDS_MAX} ({_LAST})",
                hint="milliseconds have to be divided by 1,000" if 0 <= _float(value) / 1000 <= _SECONDS_MAX else "",
            )
        nanoseconds = int(value) * 1_000_000_000 if isinstance(value, numbers.Integral) else round(float(value) * 1e6) * 1000
    if not 0 <= nanoseconds <= limits.JOURNAL_NS_MAX:
        raise InvalidInputError(
            f"timestamp {_brief(value)} is before 1970 or after {_LAST}, the last that a journal's 64-bit nanoseconds hold"
        )
    return nanoseconds


def like_a_step(timestamp: object, nanoseconds: int) -> bool:
    """Return whether a timestamp, of so many nanoseconds, looks like a step: a small number."""
    return nanoseconds < limits.STEP_LIKE_S_MAX * 1_000_000_000 and isinstance(scalar(timestamp), numbers.Real)


def optional_text(value: object, what: str) -> str | None:
    """A string or None.

    Raises:
        InvalidTypeError: Neither.
    """
    if value is None or isinstance(value, str):
        return value
    raise InvalidTypeError(f"{what} must be a str or None, not {type(value).__name__}")


def tags(value: object) -> dict[str, str]:
    """Tags as AWS accepts them: a dict, or AWS's list of ``{"Key": ..., "Value": ...}``.

    Raises:
        InvalidTypeError: Neither.
        InvalidInputError: Too many, or a key or value that AWS refuses.
    """
    if value is None:
        return {}
    if isinstance(value, (list, tuple)):
        try:
            value = {item["Key"]: item["Value"] for item in value}
        except (TypeError, KeyError) as error:
            raise InvalidTypeError('tags must be a dict, or a list of {"Key": ..., "Value": ...}') from error
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidTypeError("tags must be a dict of str to str")
    if len(value) > limits.TAGS_MAX:
        raise InvalidInputError(f"{len(value)} tags were given; AWS takes at most {limits.TAGS_MAX}")
    for name, text in value.items():
        problem = limits.tag_problem(name, text)
        if problem:
            raise InvalidInputError(problem)
    return dict(value)


_LAST: Final = "2262-04-11"


def _of_datetime(value: datetime) -> int:
    """Of a datetime, by its fields: pandas' and others override the arithmetic."""
    if value != value:  # noqa: PLR0124 - pandas' NaT
        raise InvalidInputError(f"timestamp is {value}, no point in time")
    try:
        plain = datetime(
            value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
        )
        since = (plain if plain.tzinfo is not None else plain.astimezone()) - _EPOCH
    except (OverflowError, ValueError) as error:  # datetime.min has no local time
        raise InvalidInputError(f"timestamp {value} is before 1970 or after {_LAST}") from error
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000 + int(getattr(value, "nanosecond", 0))


def _of_datetime64(value: Any) -> int:  # noqa: ANN401 - NumPy's datetime64, or an array of one
    if any(length != 1 for length in value.shape):
        raise InvalidTypeError(f"timestamp must be one point in time, not an array of shape {tuple(value.shape)}")
    item = value.item()  # a datetime or date, or an integer where those can't hold it
    if item is None:
        raise InvalidInputError("timestamp is NaT, no point in time")
    if isinstance(item, int):
        unit = _UNIT.search(str(value.dtype))
        if unit is None:  # a coarse unit: the year has more than four digits
            raise InvalidInputError(f"timestamp {value} is before 1970 or after {_LAST}")
        return item * int(unit.group(1) or 1) // _PER_NANOSECOND[unit.group(2)]
    if not isinstance(item, datetime) and isinstance(item, date):
        item = datetime(item.year, item.month, item.day)  # noqa: DTZ001 - below
    return _of_datetime(item.replace(tzinfo=timezone.utc))


def _kind(value: object) -> str | None:
    """Return the kind of an array's elements: "M" for datetime64, "m" for timedelta64; or None."""
    with contextlib.suppress(Exception):  # whatever a foreign object does when it is asked
        return getattr(getattr(value, "dtype", None), "kind", None)
    return None


def _is_time(value: object) -> bool:
    """Return whether it is a time or a span of NumPy's: ``timedelta64`` counts as an integer."""
    return _kind(value) in {"m", "M"}


def _is_decimal(value: object) -> bool:
    """Return whether it is a ``decimal.Decimal``, which is no ``numbers.Real``."""
    decimal = sys.modules.get("decimal")  # who has a Decimal has imported it
    return decimal is not None and isinstance(value, decimal.Decimal)


def _brief(value: object) -> str:
    """For a message: never fails, never long."""
    try:
        text = limits.digits(value) if isinstance(value, int) else str(value)
    except Exception:  # noqa: BLE001 - a foreign object's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= _BRIEF_CHARS_MAX else text[: _BRIEF_CHARS_MAX - 1] + "…"


_BRIEF_CHARS_MAX: Final = 60


def _float(value: Any) -> float:  # noqa: ANN401
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except ValueError:  # Decimal("sNaN")
        return float("nan")


def _plain(text: str) -> str:
    """The characters of a ``str`` or of an instance of a subclass of it: ``str()`` of an enum's member is its name."""
    return str.__str__(text)
