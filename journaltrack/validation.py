"""Checks and conversions of what a caller passes in: the line between a programmer's mistake and what only the data decides.

Pure. A mistake (wrong type, a name that AWS can never accept, a negative step) raises here, before anything is journaled.
What the data decides (NaN, a long string) passes; ``entries`` marks it undeliverable.
"""

from __future__ import annotations

import numbers
from datetime import datetime, timezone
from typing import Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECONDS_MAX: Final = 253_402_300_799  # the end of the year 9999, the last that a datetime holds


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
        raise InvalidInputError(problem)
    return name


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
    """A NumPy scalar or a zero-dimensional array or tensor as the Python number in it; anything else as it is."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    return value


def metric_value(value: object) -> float | int:
    """A metric's value as a Python number, finite or not.

    Raises:
        InvalidTypeError: Not a real number. Booleans count as 0 and 1, as in the original.
    """
    if type(value) is float or type(value) is int:
        return value
    value = scalar(value)
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else _float(value)
    if hasattr(value, "as_tuple") and hasattr(value, "__float__"):  # Decimal is no numbers.Real
        return _float(value)
    raise InvalidTypeError(f"a metric's value must be a number, not {type(value).__name__}")


def parameter_value(value: object) -> str | float | int:
    """A parameter's value as it is journaled: numbers as numbers, booleans as "True" or "False", the rest as text."""
    value = scalar(value)
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, (bool, numbers.Complex)) and not isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _float(value)
    if hasattr(value, "as_tuple") and hasattr(value, "__float__"):
        return _float(value)
    return str(value)


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
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise InvalidTypeError(f"iteration_number must be an integer, not {type(value).__name__}")
        value = int(value)
    if not 0 <= value <= limits.STEP_MAX:
        raise InvalidInputError(f"iteration_number is {value}; SageMaker takes 0 to {limits.STEP_MAX}")
    return value


def timestamp_ns(value: object) -> int:
    """A point in time as nanoseconds since the epoch, UTC.

    Args:
        value: A datetime (a naive one is local time) or a number of seconds since the epoch.

    Raises:
        InvalidTypeError: Neither.
        InvalidInputError: Before 1970 or after 9999.
    """
    if isinstance(value, datetime):
        try:
            since = (value if value.tzinfo is not None else value.astimezone()) - _EPOCH
        except (OverflowError, ValueError) as error:  # datetime.min has no local time
            raise InvalidInputError(f"timestamp {value} is before 1970 or after 9999") from error
        nanoseconds = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    else:
        value = scalar(value)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InvalidTypeError(f"timestamp must be a datetime or seconds since the epoch, not {type(value).__name__}")
        if not 0 <= _float(value) <= _SECONDS_MAX:  # also refuses NaN; a plain float() could overflow
            raise InvalidInputError(f"timestamp is {value}: seconds since the epoch are expected, 0 to {_SECONDS_MAX}")
        nanoseconds = int(value) * 1_000_000_000 if isinstance(value, numbers.Integral) else round(float(value) * 1e6) * 1000
    if not 0 <= nanoseconds <= _SECONDS_MAX * 1_000_000_000:
        raise InvalidInputError(f"timestamp {value} is before 1970 or after 9999")
    return nanoseconds


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
