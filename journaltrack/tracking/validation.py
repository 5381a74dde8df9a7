"""Check and convert a caller's arguments, and know whose values are not recorded. Pure.

A programmer's mistake (a wrong type, a name that AWS can never accept, a negative step) raises
here, before anything is recorded. A problem of the data (NaN, a long string) passes: ``entries``
marks it undeliverable.
"""

from __future__ import annotations

import contextlib
import fnmatch
import numbers
import operator
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timezone
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    cast,
)

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from argparse import Namespace
    from types import SimpleNamespace

    from _typeshed import DataclassInstance

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECONDS_MAX: Final = limits.JOURNAL_NS_MAX // 1_000_000_000
_PER_NANOSECOND: Final = {"ns": 1, "ps": 10**3, "fs": 10**6, "as": 10**9}
_UNIT: Final = re.compile(r"\[(\d*)(ns|ps|fs|as)\]")


class ArrayScalar(Protocol):
    """The interface of NumPy's scalars, also ``datetime64``, and of arrays."""

    @property
    def dtype(self) -> Any: ...  # noqa: ANN401, D102 - NumPy's

    def item(self) -> Any: ...  # noqa: ANN401, D102 - NumPy's


Number: TypeAlias = "SupportsFloat | SupportsIndex | ArrayScalar"
"""A metric's value: any number, also NumPy's, or a one-element array or tensor."""
Moment: TypeAlias = "datetime | SupportsFloat | ArrayScalar"
"""A point in time, see ``timestamp_ns``."""
_Fields: TypeAlias = "Namespace | SimpleNamespace | DataclassInstance"
Parameters: TypeAlias = "Mapping[str, Any] | Iterable[tuple[str, Any]] | _Fields"
"""The argument of ``log_parameters``, see ``shapes.pairs``."""


class JournaltrackWarning(UserWarning):
    """Something was recorded but will not be delivered as it is."""


def entity_name(name: object, what: str) -> str:
    """Check the name of an experiment, trial or trial component, or a display name.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: AWS could never accept it.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(name).__name__}")
    problem = limits.name_problem(name, what)
    if problem:
        raise InvalidInputError(problem, hint=f"for example {limits.suggested_name(name)}")
    return name


def display_name(name: object) -> tuple[str, str | None]:
    """Return a display name that SageMaker accepts, and a notice if it was changed.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: Replacing separators is not enough to make it valid.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"display name must be a str, not {type(name).__name__}")
    mended = limits.mended_name(name)
    if mended == name or limits.name_problem(mended, "display name"):
        return entity_name(name, "display name"), None
    why = "SageMaker takes no dots, underscores or spaces in it"
    return mended, f"display name {limits.shown(name)} is recorded and sent as {mended!r}: {why}"


def bucket(name: object) -> str | None:
    """Check the name of an S3 bucket. None and "" mean the default one.

    Raises:
        InvalidTypeError: It is neither a string nor None.
        InvalidInputError: No bucket can have that name.
    """
    text = optional_text(name, "artifact_bucket") or None
    problem = limits.bucket_problem(text) if text else None
    if text is None or problem is None:
        return text
    first, _, rest = text.removeprefix("s3://").strip("/").partition("/")
    hint = "give the bucket's name alone"
    if first != text and limits.bucket_problem(first) is None:
        hint = f"pass artifact_bucket={first!r}" + (
            f" and artifact_prefix={rest!r}" if rest else ""
        )
    raise InvalidInputError(
        f"artifact_bucket {limits.shown(text)} can't be a bucket: {problem}; nothing was recorded",
        hint=hint,
    )


def key(name: object, what: str, chars_max: int) -> str:
    """Check the name of a metric, parameter or artifact.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: It is empty, too long, has a line break, or can't be encoded as UTF-8.
    """
    # A foreign object may raise when it is asked for its class.
    if not issubclass(type(name), str):
        raise InvalidTypeError(f"{what} {brief(name)} must be a str, not {type(name).__name__}")
    plain = _plain(cast("str", name))
    problem = limits.text_problem(plain, f"{what} {limits.shown(plain)}", chars_max)
    if problem:
        raise InvalidInputError(problem)
    return plain


def scalar(value: Any) -> Any:  # noqa: ANN401 - whatever a caller has
    """Return the Python value in a NumPy scalar or a one-element array or tensor.

    Any other value is returned as it is. So are NumPy's times, because the result of their ``item``
    depends on their unit.
    """
    try:
        if _is_time(value) or any(length != 1 for length in value.shape):
            return value
        item = getattr(value, "item", None)
        # TensorFlow's tensors have no item().
        return scalar(value.numpy()) if item is None else item()
    # It is no array, or has no value here (lazy, sharded).
    except Exception:  # noqa: BLE001
        return value


def metric_value(value: object) -> float | int:
    """Return a metric's value as a Python number, finite or not.

    Booleans count as 0 and 1, and the text of a number counts as it, as in the original library.

    Raises:
        InvalidTypeError: It is not a real number.
    """
    if type(value) is float or type(value) is int:
        return value
    # Each library has its own error for an array of several elements, and a foreign object may
    # raise anything.
    with contextlib.suppress(Exception):
        value = number_in(scalar(value))
        if not _is_time(value):
            if isinstance(value, numbers.Integral):
                return int(value)
            if isinstance(value, numbers.Real) or _is_decimal(value):
                return _float(value)
            if isinstance(value, (SupportsFloat, SupportsIndex)) and not isinstance(
                value, numbers.Complex
            ):
                return float(value)
    raise InvalidTypeError(f"a metric's value must be a number, not {_form(value)}")


def parameter_value(value: object) -> str | float | int | None:
    """Return a parameter's value as it is recorded.

    Numbers and None stay what they are, booleans become "True" or "False", everything else becomes
    text.

    Raises:
        InvalidInputError: It can't become text, or the text is too long for a journal.
    """
    if value is None or type(value) is float or type(value) is int:
        return value
    # A foreign object may raise anything.
    try:
        value = scalar(value)
        if not isinstance(value, (str, bool)) and not _is_time(value):
            if isinstance(value, numbers.Integral):
                return int(value)
            if isinstance(value, numbers.Real) or _is_decimal(value):
                return _float(value)
        text = _plain(value if isinstance(value, str) else str(value))
    except Exception as error:
        raise InvalidInputError(
            f"a {type(value).__name__} has no text: {type(error).__name__}; nothing was recorded",
            hint="pass text or a number",
        ) from error
    return long_text(text, "the value")


def long_text(text: str, what: str) -> str:
    """Return a text that a journal accepts, whether or not SageMaker does, as a plain ``str``.

    Raises:
        InvalidInputError: It is too long.
    """
    text = _plain(text)
    count, most = len(text), limits.TEXT_CHARS_MAX
    if count > most:
        raise InvalidInputError(
            f"a journal takes at most {most} characters, {what} has {count}; nothing was recorded",
            hint="write it to a file and use log_artifact(file_path)",
        )
    return text


def step(value: object) -> int | None:
    """Return an iteration number: an integer from 0 to 2^31-1, or None.

    A float without a fraction counts as an integer.

    Raises:
        InvalidTypeError: It is not an integer.
        InvalidInputError: It is negative or too large.
    """
    if value is None:
        return None
    if type(value) is not int:
        given = scalar(value)
        value = _integer(given)
        if value is None:
            raise InvalidTypeError(
                f"the step (iteration_number) must be an integer, not {_form(given)}",
                hint="count batches or epochs" if isinstance(given, float) else "",
            )
    if not 0 <= value <= limits.STEP_MAX:
        raise InvalidInputError(
            f"the step (iteration_number) is {brief(value)}, not from 0 to {limits.STEP_MAX}"
        )
    return value


def _integer(value: Any) -> int | None:  # noqa: ANN401 - whatever a caller has
    # An array of several elements raises. So may a foreign object.
    with contextlib.suppress(Exception):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, bool):
            return int(operator.index(value))
    return None


def one_step(iteration_number: SupportsIndex | None, other: SupportsIndex) -> SupportsIndex:
    """Return the step that a caller gave under one of its names, or both.

    Raises:
        InvalidTypeError: One of the two is not an integer.
        InvalidInputError: The two differ, or one is out of range.
    """
    if iteration_number is not None and step(iteration_number) != step(other):
        raise InvalidInputError(
            f"iteration_number is {brief(iteration_number)} and step is {brief(other)}: "
            "both name the step of a point; nothing was recorded",
            hint="pass one of them",
        )
    return other


def timestamp_ns(value: object) -> int:
    """Return a point in time as nanoseconds since the epoch, UTC.

    Args:
        value: A datetime (local time if naive; pandas' have nanoseconds), NumPy's datetime64
            (UTC), or a number of seconds since the epoch, also as text.

    Raises:
        InvalidTypeError: It is none of these.
        InvalidInputError: It is before 1970, or too late for a journal's 64-bit nanoseconds.
    """
    if isinstance(value, datetime):
        nanoseconds = _of_datetime(value)
    elif _kind(value) == "M":
        nanoseconds = _of_datetime64(value)
    else:
        value = number_in(scalar(value))
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or _is_time(value):
            kind = type(value).__name__
            raise InvalidTypeError(
                f"timestamp must be a datetime or seconds since the epoch, not {kind}"
            )
        # This refuses NaN, too. A plain float() could overflow.
        if not 0 <= _float(value) <= _SECONDS_MAX:
            in_milliseconds = 0 <= _float(value) / 1000 <= _SECONDS_MAX
            raise InvalidInputError(
                f"timestamp is {brief(value)}, not seconds since the epoch (until {_LAST})",
                hint="divide milliseconds by 1,000" if in_milliseconds else "",
            )
        nanoseconds = (
            int(value) * 1_000_000_000
            if isinstance(value, numbers.Integral)
            else round(float(value) * 1e6) * 1000
        )
    if not 0 <= nanoseconds <= limits.JOURNAL_NS_MAX:
        raise InvalidInputError(f"timestamp {brief(value)} is before 1970 or after {_LAST}")
    return nanoseconds


def like_a_step(timestamp: object, nanoseconds: int) -> bool:
    """Return whether a timestamp looks like a step: a small number.

    Args:
        timestamp: As the caller gave it.
        nanoseconds: The same, converted by ``timestamp_ns``.
    """
    is_small = nanoseconds < limits.STEP_LIKE_S_MAX * 1_000_000_000
    return is_small and isinstance(scalar(timestamp), (numbers.Real, str))


def optional_text(value: object, what: str) -> str | None:
    """Check that a value is a string or None.

    Raises:
        InvalidTypeError: It is neither.
    """
    if value is None or isinstance(value, str):
        return value
    raise InvalidTypeError(f"{what} must be a str or None, not {type(value).__name__}")


def tags(value: object) -> dict[str, str]:
    """Return tags as a dict, from a dict or a list as AWS takes it.

    Raises:
        InvalidTypeError: It is neither.
        InvalidInputError: There are too many, or AWS refuses a key or value.
    """
    if value is None:
        return {}
    if isinstance(value, (list, tuple)):
        given = value
        try:
            value = {item["Key"]: item["Value"] for item in given}
        except (TypeError, KeyError) as error:
            raise InvalidTypeError(
                'tags must be a dict, or a list of {"Key": ..., "Value": ...}'
            ) from error
        if len(value) < len(given):
            raise InvalidInputError("a tag key is given twice; AWS takes each once")
    if not isinstance(value, dict) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    ):
        raise InvalidTypeError("tags must be a dict of str to str")
    problem = limits.tags_problem(value)
    if problem:
        raise InvalidInputError(problem)
    return dict(value)


def note(value: object) -> str:
    """Return a note.

    Raises:
        InvalidTypeError: It is no text.
        InvalidInputError: It is too long.
    """
    if not isinstance(value, str):
        raise InvalidTypeError(f"a note must be a str, not {type(value).__name__}")
    if len(value) > limits.NOTE_CHARS_MAX:
        raise InvalidInputError(
            f"the note has {len(value)} characters, {limits.NOTE_CHARS_MAX} are taken at most; "
            "nothing was recorded",
            hint="log a longer text as an artifact",
        )
    return value


_LAST: Final = "2262-04-11"


def _of_datetime(value: datetime) -> int:
    """Return a datetime's nanoseconds, by its fields.

    Subclasses such as pandas' override the arithmetic.
    """
    if value != value:  # noqa: PLR0124 - pandas' NaT
        raise InvalidInputError(f"timestamp is {value}, no point in time")
    try:
        plain = datetime(
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            value.tzinfo,
            fold=value.fold,
        )
        since = (plain if plain.tzinfo is not None else plain.astimezone()) - _EPOCH
    except (OverflowError, ValueError) as error:
        # datetime.min has no local time.
        raise InvalidInputError(f"timestamp {value} is before 1970 or after {_LAST}") from error
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return microseconds * 1000 + int(getattr(value, "nanosecond", 0))


def _of_datetime64(value: Any) -> int:  # noqa: ANN401 - NumPy's
    """Return the nanoseconds of a ``datetime64``, or of an array with one."""
    if any(length != 1 for length in value.shape):
        raise InvalidTypeError(
            f"timestamp must be one point in time, not an array of shape {tuple(value.shape)}"
        )
    # A datetime or date, or an integer if those can't hold it.
    item = value.item()
    if item is None:
        raise InvalidInputError("timestamp is NaT, no point in time")
    if isinstance(item, int):
        unit = _UNIT.search(str(value.dtype))
        if unit is None:
            # The unit is coarse: the year has more than four digits.
            raise InvalidInputError(f"timestamp {value} is before 1970 or after {_LAST}")
        return item * int(unit.group(1) or 1) // _PER_NANOSECOND[unit.group(2)]
    if not isinstance(item, datetime) and isinstance(item, date):
        item = datetime(item.year, item.month, item.day)  # noqa: DTZ001 - the next line sets it
    return _of_datetime(item.replace(tzinfo=timezone.utc))


def _kind(value: object) -> str | None:
    """Return the kind of an array's elements, or None.

    "M" means datetime64, "m" means timedelta64.
    """
    # A foreign object may raise anything.
    with contextlib.suppress(Exception):
        return getattr(getattr(value, "dtype", None), "kind", None)
    return None


def _is_time(value: object) -> bool:
    """Return whether a value is a time or time span of NumPy's.

    ``timedelta64`` is also a ``numbers.Integral``.
    """
    return _kind(value) in {"m", "M"}


def _is_decimal(value: object) -> bool:
    """Return whether a value is a ``decimal.Decimal``, which is no ``numbers.Real``."""
    # A caller that has a Decimal has imported decimal.
    decimal = sys.modules.get("decimal")
    return decimal is not None and isinstance(value, decimal.Decimal)


def brief(value: object) -> str:
    """Return a value's text for a message. It never fails and is never long."""
    try:
        text = limits.digits(value) if isinstance(value, int) else str(value)
    # A foreign object may raise anything.
    except Exception:  # noqa: BLE001
        text = f"a {type(value).__name__}"
    return text if len(text) <= _BRIEF_CHARS_MAX else text[: _BRIEF_CHARS_MAX - 1] + "…"


_BRIEF_CHARS_MAX: Final = 60


def _form(value: object) -> str:
    """Return what a value is that is no number: its type, and how many values it has."""
    kind = type(value).__name__
    # A foreign object may raise anything.
    with contextlib.suppress(Exception):
        if isinstance(value, float):
            return f"{kind} {value}"
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and len(shape):
            return f"{kind} of the shape {tuple(map(int, shape))}"
        if isinstance(value, (list, tuple)):
            return f"{kind} of {len(value)} values"
    return kind


def number_in(value: Any) -> Any:  # noqa: ANN401 - whatever a caller has
    """Return the number that a text spells. Any other value is returned as it is."""
    if isinstance(value, str):
        # An integer keeps all its digits. int() also refuses more digits than Python converts.
        for read in (int, float):
            with contextlib.suppress(ValueError):
                return read(_plain(value))
    return value


def _float(value: Any) -> float:  # noqa: ANN401
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except ValueError:
        # Decimal("sNaN").
        return float("nan")


def _plain(text: str) -> str:
    """Return the characters of a ``str``, also of a subclass.

    ``str()`` of an enum's member would be its name.
    """
    return str.__str__(text)


def patterns(given: object) -> tuple[str, ...]:
    """Check what a caller passed as ``redact``.

    Raises:
        InvalidTypeError: It is not a list of text. A single text is refused, since each of its
            characters would count as a pattern.
    """
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise InvalidTypeError(f'redact must be a list of patterns such as ["*token*"], not {kind}')
    found = tuple(given)
    if not all(isinstance(each, str) for each in found):
        raise InvalidTypeError("redact must be a list of str")
    return found


class Redaction:
    """Decides by its name whether to replace a value, before anything is journaled.

    It can't be undone: neither the journal nor its log holds a replaced value.

    Args:
        wanted: Shell patterns. Case does not matter.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._patterns = tuple(dict.fromkeys(each.lower() for each in wanted if each))
        self._told: set[tuple[str, str]] = set()

    def matches(self, name: str) -> bool:
        """Return whether to replace the value of this name."""
        lower = name.lower()
        return any(fnmatch.fnmatchcase(lower, pattern) for pattern in self._patterns)

    def is_news(self, kind: str, name: str) -> bool:
        """Return whether this is the first question for the name, which is logged once."""
        if (kind, name) in self._told:
            return False
        self._told.add((kind, name))
        return True
