r"""Request constraints, compiled from botocore's own service models.

What it is: for each operation one check that a decoded JSON request passes through. Types that do
not fit raise SerializationException at once; everything else is collected into one
ValidationException, worded as AWS words it. Stricter than AWS, which ignores them, in one place:
members that the model does not know are refused, so that a misspelled one is noticed.
It must not know: state, HTTP, operations by name.
Invariant: a member is compiled once per operation and process, when it first comes; a check neither
changes nor copies its value.

AWS evaluates patterns with Java's rules, so `.` stops at any line terminator, `\w` is ASCII and a
pattern has to match the whole value.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sized
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import botocore.session

from tests.simulator.wire import ServiceError

if TYPE_CHECKING:
    from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

Path = tuple[str, ...]
Check = Callable[[object, Path, list[str]], None]

_INT_BITS = {"integer": 32, "long": 64}
_ANY_CHARACTER = r"[^\n\r\u0085\u2028\u2029]"


@cache
def service_model(service: str) -> ServiceModel:
    """Load one of botocore's service models (the larger ones take a third of a second)."""
    return botocore.session.get_session().get_service_model(service)


@cache
def operation_check(service: str, operation: str) -> Callable[[object], None]:
    """Compile the input constraints of one operation.

    Returns:
        A function that raises ServiceError when its argument is not acceptable.
    """
    shape = service_model(service).operation_model(operation).input_shape
    if shape is None:
        return lambda _params: None
    check = _compile(shape)

    def run(params: object) -> None:
        problems: list[str] = []
        check(params, (), problems)
        if problems:
            plural = "s" if len(problems) > 1 else ""
            head = f"{len(problems)} validation error{plural} detected: "
            raise ServiceError(400, "ValidationException", head + "; ".join(problems))

    return run


def answer_problems(service: str, operation: str, answer: object) -> list[str]:
    """Tell what a decoded answer has that the model doesn't allow."""
    shape = service_model(service).operation_model(operation).output_shape
    problems: list[str] = []
    if shape is not None:
        _compile(shape)(answer, (), problems)
    return problems


def java_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a pattern of a service model, which follows Java's rules, for `fullmatch`."""
    parts: list[str] = []
    in_class = False
    for piece in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if piece.startswith(r"\p"):
            ranges = _category_ranges(piece[3:-1])
            parts.append(ranges if in_class else f"[{ranges}]")
        elif piece == "." and not in_class:
            parts.append(_ANY_CHARACTER)
        else:
            in_class = (in_class or piece == "[") and piece != "]"
            parts.append(piece)
    return re.compile("".join(parts), re.ASCII)


@cache
def _category_ranges(category: str) -> str:
    """List the code points of a Unicode category as the inside of a character class."""
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)).startswith(category):
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)


def _compile(shape: Shape) -> Check:
    compilers: Mapping[str, Callable[[Any], Check]] = {
        "structure": _structure,
        "map": _map,
        "list": _list,
        "string": _string,
        "integer": _integer,
        "long": _integer,
        "double": _double,
        "float": _double,
        "timestamp": _double,
        "boolean": lambda _shape: _boolean,
    }
    return compilers[shape.type_name](shape)


def _structure(shape: StructureShape) -> Check:
    # At the first use: search expressions hold search expressions, results half the model.
    members = {
        name: (_lower(name), cache(partial(_compile, member)))
        for name, member in shape.members.items()
    }
    required = frozenset(shape.required_members)

    def check(value: object, path: Path, problems: list[str]) -> None:
        if not isinstance(value, dict):
            raise _not_a(path, "structure")
        for name, (label, member_check) in members.items():
            member = value.get(name)
            if member is not None:
                member_check()(member, (*path, label), problems)
            elif name in required:
                problems.append(_problem(None, (*path, label), "Member must not be null"))
        problems.extend(
            _problem(None, (*path, _lower(name)), "Member must be in the model")
            for name in value
            if name not in members
        )

    return check


def _map(shape: MapShape) -> Check:
    key_check, value_check, length = _compile(shape.key), _compile(shape.value), _length(shape)

    def check(value: object, path: Path, problems: list[str]) -> None:
        if not isinstance(value, dict):
            raise _not_a(path, "map")
        problems.extend(_problem(value, path, rule) for rule in length(value))
        for key, item in value.items():
            if item is None:
                problems.append(_problem(None, (*path, key, "member"), "Member must not be null"))
                continue
            wrong_keys: list[str] = []
            key_check(key, (), wrong_keys)
            if wrong_keys:
                rules = ", ".join(rule.rpartition("constraint: ")[2] for rule in wrong_keys)
                problems.append(
                    _problem(value, path, f"Map keys must satisfy constraint: [{rules}]")
                )
            value_check(item, (*path, key, "member"), problems)

    return check


def _list(shape: ListShape) -> Check:
    item_check, length = _compile(shape.member), _length(shape)

    def check(value: object, path: Path, problems: list[str]) -> None:
        if not isinstance(value, list):
            raise _not_a(path, "list")
        problems.extend(_problem(value, path, rule) for rule in length(value))
        for number, item in enumerate(value, start=1):
            item_check(item, (*path, str(number), "member"), problems)

    return check


def _string(shape: StringShape) -> Check:
    length = _length(shape)
    source = shape.metadata.get("pattern")
    pattern = java_pattern(source) if source else None
    enum = frozenset(shape.enum)
    enum_rule = f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"

    def check(value: object, path: Path, problems: list[str]) -> None:
        if not isinstance(value, str):
            raise _not_a(path, "string")
        problems.extend(_problem(value, path, rule) for rule in length(value))
        if pattern and not pattern.fullmatch(value):
            rule = f"Member must satisfy regular expression pattern: {source}"
            problems.append(_problem(value, path, rule))
        if enum and value not in enum:
            problems.append(_problem(value, path, enum_rule))

    return check


def _integer(shape: Shape) -> Check:
    bound = 1 << (_INT_BITS[shape.type_name] - 1)
    low, high = shape.metadata.get("min", -bound), shape.metadata.get("max", bound - 1)

    def check(value: object, path: Path, problems: list[str]) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not -bound <= value < bound:
            raise _not_a(path, shape.type_name)
        if value < low:
            rule = f"Member must have value greater than or equal to {low}"
            problems.append(_problem(value, path, rule))
        if value > high:
            rule = f"Member must have value less than or equal to {high}"
            problems.append(_problem(value, path, rule))

    return check


def _double(shape: Shape) -> Check:
    def check(value: object, path: Path, _problems: list[str]) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            # botocore writes a NaN as the string "NaN", which ends here too.
            raise _not_a(path, shape.type_name)
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            raise _not_a(path, shape.type_name)

    return check


def _boolean(value: object, path: Path, _problems: list[str]) -> None:
    if not isinstance(value, bool):
        raise _not_a(path, "boolean")


def _length(shape: Shape) -> Callable[[Sized], list[str]]:
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max", sys.maxsize)
    too_short = [f"Member must have length greater than or equal to {low}"]
    too_long = [f"Member must have length less than or equal to {high}"]

    def broken(value: Sized) -> list[str]:
        size = len(value)
        if size < low:
            return too_short
        return too_long if size > high else []

    return broken


def _problem(value: object, path: Path, rule: str) -> str:
    shown = "" if value is None else f" '{value}'"
    return f"Value{shown} at '{'.'.join(path)}' failed to satisfy constraint: {rule}"


def _not_a(path: Path, kind: str) -> ServiceError:
    message = f"Value at '{'.'.join(path)}' can not be converted to a {kind}"
    return ServiceError(400, "SerializationException", message)


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]
