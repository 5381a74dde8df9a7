"""Filter and sort things by the rules of SageMaker's Search.

A thing has the shape in which boto3 gives it, wherever it comes from: the journal or SageMaker. So
both are filtered and sorted alike. Pure: no journal, no network, no clock.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from journaltrack.errors import InvalidInputError, InvalidTypeError

Shape = Mapping[str, Any]
"""A thing as boto3 gives it: ``{"TrialComponentName": ...}``."""
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_OPERATORS: Final = (
    "Equals",
    "NotEquals",
    "GreaterThan",
    "GreaterThanOrEqualTo",
    "LessThan",
    "LessThanOrEqualTo",
    "Contains",
    "Exists",
    "NotExists",
    "In",
)


def expression_of(expression: Any) -> Shape:  # noqa: ANN401 - the original's, or a dict
    """Return a search expression as SageMaker takes it; an empty one for None.

    Raises:
        InvalidInputError: It has an unknown operator.
        InvalidTypeError: It is no expression.
    """
    to_boto = getattr(expression, "to_boto", None)
    wanted = to_boto() if callable(to_boto) else expression
    if not isinstance(wanted, (Mapping, type(None))):
        raise InvalidTypeError(
            f"a search expression must be a dict, not {type(wanted).__name__}",
            hint="as SageMaker's Search takes it: {'Filters': [{'Name': ..., 'Value': ...}]}",
        )
    _check_expression(wanted or {})
    return wanted or {}


def _check_expression(expression: Shape) -> None:
    """Refuse an expression with operators that SageMaker does not know."""
    checked(expression.get("Operator") or "And", ("And", "Or"), "the boolean operator")
    nested = (n.get("Filters") or () for n in expression.get("NestedFilters") or ())
    for each in (*(expression.get("Filters") or ()), *(f for some in nested for f in some)):
        checked(each.get("Operator") or "Equals", _OPERATORS, "the operator of a filter")
        if not isinstance(each.get("Name"), str):
            raise InvalidInputError("a filter of the search has no name")
    for each in expression.get("SubExpressions") or ():
        _check_expression(each)


def fits(expression: Shape, shape: Shape) -> bool:
    """Return whether a component fits an expression, by SageMaker's rules."""
    results = [_passes(each, shape) for each in expression.get("Filters") or ()]
    for nested in expression.get("NestedFilters") or ():
        name = nested["NestedPropertyName"]
        results.append(
            any(
                all(_passes(_within(name, each), inner) for each in nested["Filters"])
                for inner in shape.get(name) or ()
                if isinstance(inner, Mapping)
            )
        )
    results += [fits(each, shape) for each in expression.get("SubExpressions") or ()]
    return (any if expression.get("Operator") == "Or" else all)(results)


def _within(name: str, each: Shape) -> dict[str, Any]:
    """Return a nested filter as one of the nested thing itself."""
    return {**each, "Name": each["Name"].removeprefix(f"{name}.")}


def _passes(each: Shape, shape: Shape) -> bool:
    operator = each.get("Operator") or "Equals"
    values = list(_values(shape, _spelled(shape, each["Name"])))
    if operator == "Exists":
        return bool(values)
    if operator == "NotExists":
        return not values
    wanted = each.get("Value")
    if operator == "NotEquals":
        return not any(_compare("Equals", value, wanted) for value in values)
    if operator == "In":
        some = [one.strip() for one in str(wanted).split(",")]
        return any(_compare("Equals", value, one) for value in values for one in some)
    return any(_compare(operator, value, wanted) for value in values)


def _compare(operator: str, value: object, wanted: object) -> bool:
    """Compare a property with a filter's value, which is text: as numbers, times, or texts."""
    text = str(wanted)
    left, right = value, wanted
    if isinstance(value, datetime):
        with contextlib.suppress(ValueError):
            parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
            left, right = utc(value), utc(parsed)
    elif isinstance(value, (int, float)) and _NUMBER.fullmatch(text):
        left, right = float(value), float(text)
    else:
        left, right = str(value), text
    if operator == "Equals":
        return bool(left == right)
    if operator == "Contains":
        return text in str(value)
    if type(left) is not type(right):
        return False
    less, more = left < right, left > right  # type: ignore[operator]
    results: dict[str, bool] = {
        "GreaterThan": more,
        "GreaterThanOrEqualTo": not less,
        "LessThan": less,
        "LessThanOrEqualTo": not more,
    }
    return results[operator]


def _spelled(shape: Shape, name: str) -> str:
    """Return the name with its property as the shape spells it: AWS takes "metrics.loss.min"."""
    head, dot, rest = name.partition(".")
    known = (each for each in shape if each.lower() == head.lower())
    return name if head in shape else f"{next(known, head)}{dot}{rest}"


def _values(shape: object, name: str) -> Iterator[Any]:
    """Yield the values of a property such as "Parameters.lr" or "metrics.loss.min".

    The names of parameters, artifacts, tags and metrics may have dots.
    """
    if isinstance(shape, (list, tuple)):
        if any(isinstance(each, Mapping) and "MetricName" in each for each in shape):
            yield from _of_metrics(shape, name)
            return
        tagged = [each for each in shape if isinstance(each, Mapping) and each.get("Key") == name]
        for each in tagged or shape:
            yield from [each["Value"]] if tagged else _values(each, name)
        return
    if not isinstance(shape, Mapping):
        return
    if name in shape:
        yield from _plain(shape[name])
        return
    head, dot, rest = name.partition(".")
    while dot:
        if head in shape:
            yield from _values(shape[head], rest)
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"


def _of_metrics(metrics: Sequence[Any], name: str) -> Iterator[Any]:
    """Yield a statistic such as "loss.min" of a metric, of which the last value is the default."""
    for each in metrics:
        metric, rest = each.get("MetricName"), name
        if name not in each and rest.startswith(f"{metric}."):
            rest = {"timestamp": "TimeStamp"}.get(
                name[len(metric) + 1 :].lower(), name[len(metric) + 1 :].capitalize()
            )
        elif name == metric:
            rest = "Last"
        if rest in each:
            yield each[rest]


def _plain(value: object) -> Iterator[Any]:
    """Yield the value in a parameter or artifact; all others as they are."""
    if isinstance(value, Mapping):
        for member in ("NumberValue", "StringValue", "Value"):
            if member in value:
                yield value[member]
                return
    if value is not None and value not in ({}, []):
        yield value


def in_sequence(shapes: Sequence[Shape], name: str, order: str) -> list[Shape]:
    """Sort by a property. Those without it come last."""
    keyed = [(next(iter(_values(shape, _spelled(shape, name))), None), shape) for shape in shapes]
    with_value = [(_comparable(value), shape) for value, shape in keyed if value is not None]
    with_value.sort(key=lambda each: each[0], reverse=order == "Descending")
    return [*(shape for _, shape in with_value), *(s for value, s in keyed if value is None)]


def _comparable(value: object) -> tuple[int, Any]:
    """Return what sorts numbers before times before texts."""
    if isinstance(value, (int, float)):
        return (0, float(value))
    if isinstance(value, datetime):
        return (1, utc(value))
    return (2, str(value))


def checked(value: str, known: tuple[str, ...], what: str) -> str:
    """Return a value that must be one of these."""
    if value not in known:
        raise InvalidInputError(f"{what} is {value!r}; it is {' or '.join(known)}")
    return value


def utc(value: Any) -> datetime | None:  # noqa: ANN401 - a caller's
    """Return a time with a zone; a naive one is local, as boto3 takes it."""
    if not isinstance(value, datetime):
        return None
    try:
        return value.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        # At an end of the calendar. To the hour it is the same.
        return value.replace(tzinfo=timezone.utc)
