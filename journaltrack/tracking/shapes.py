"""Make names and values of what a caller gives: a mapping, a namespace, an object with fields.

What is nested gets names that tell the path: ``{"model": {"layers": 3}}`` is ``model/layers``. The
order is the caller's, and the same for the same argument. Names and values are not checked here.

Objects of other libraries (attrs, OmegaConf) are recognized by what they have. Nothing of theirs
is imported. Pure.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.tracking.validation import brief

DEPTH_MAX: Final = 32
"""Ours: how deep parameters may be nested."""
NAMES_MAX: Final = 100_000
"""Ours: names that one call makes. Parts that are used again and again could make any number."""
EMPTY: Final = "{}"
"""The value of a mapping without members: that it is there says something."""
MISSING: Final = "???"
"""How OmegaConf writes a value that nobody has set."""
_LEAVES: Final = frozenset({str, int, float, bool, type(None), list, tuple})
"""Types that are one value, and nearly all there are."""
_MANY: Final = (Sequence, AbstractSet)
_Members = list[tuple[Any, Any]]


class Named(NamedTuple):
    """One value and its name.

    Attributes:
        name: The caller's, or made of ``path``.
        value: The caller's.
        path: The names on the way to a nested value, from the outermost on; () for any other.
    """

    name: Any
    value: Any
    path: tuple[str, ...] = ()


class Unreadable:
    """Stand for a value that raised when it was read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @property
    def is_missing(self) -> bool:
        """Return whether it is a value of OmegaConf that nobody has set."""
        return type(self.error).__name__ == "MissingMandatoryValue"


def pairs(value: object, what: str) -> _Members:
    """Return names and values from a mapping, namespace, dataclass, attrs object or pairs.

    Raises:
        InvalidTypeError: It is none of these.
    """
    known = members(value)
    if known is not None:
        return known
    given: list[Any] | None = None
    if not isinstance(value, (str, bytes, type)):
        try:
            items = getattr(value, "items", None)
            found = items() if callable(items) else value
            given = list(found) if isinstance(found, Iterable) else None
        except Exception as error:
            raise _unreadable(value, error) from error
    if given is None:
        raise InvalidTypeError(
            f"{what} must be a mapping, not {type(value).__name__}; nothing was recorded",
            hint="a dict, an argparse.Namespace, a dataclass or (name, value) pairs",
        )
    odd = next((each for each in given if not _is_pair(each)), None)
    if odd is not None:
        raise InvalidTypeError(
            f"{what} must be (name, value) pairs, not {brief(odd)}; nothing was recorded"
        )
    return [(each[0], each[1]) for each in given]


def members(value: object) -> _Members | None:
    """Return the names and values of a mapping, namespace, dataclass or attrs object; else None.

    A configuration of OmegaConf is a mapping. A member that can't be read, such as one of its
    missing ones, is an ``Unreadable``.

    Raises:
        InvalidInputError: It is one of these, and can't be read.
    """
    # A foreign object may raise anything, also when it is asked for its class.
    try:
        return _members_of(value)
    except Exception as error:
        raise _unreadable(value, error) from error


def _unreadable(value: object, error: Exception) -> InvalidInputError:
    told = brief(error) or "no message"
    text = f"a {type(value).__name__} can't be read: {type(error).__name__}: {told}"
    return InvalidInputError(f"{text}; nothing was recorded")


def _members_of(value: object) -> _Members | None:
    if type(value) is dict:
        return list(value.items())
    if isinstance(value, Mapping):
        try:
            return [(name, member) for name, member in value.items()]
        # One bad member must not hide the others.
        except Exception:  # noqa: BLE001
            return [(name, read(value.__getitem__, name)) for name in value]
    if isinstance(value, type):
        return None
    # A caller that has a Namespace has imported argparse.
    argparse = sys.modules.get("argparse")
    if isinstance(value, SimpleNamespace) or (
        argparse is not None and isinstance(value, argparse.Namespace)
    ):
        return list(vars(value).items())
    # As above: and a caller that has a dataclass has imported dataclasses.
    dataclasses = sys.modules.get("dataclasses")
    if dataclasses is not None and dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
    else:
        attributes = getattr(type(value), "__attrs_attrs__", None)
        if not isinstance(attributes, tuple):
            return None
        names = [each.name for each in attributes]
    get = functools.partial(getattr, value)
    return [(name, read(get, name)) for name in names if _has(value, name)]


def named(parameters: object) -> list[Named]:
    """Return parameters by name, as they are: see ``pairs``."""
    return [Named(_name(name), value) for name, value in pairs(parameters, "parameters")]


def flattened(parameters: object, separator: str = "/") -> list[Named]:
    """Return parameters by name. Those of nested objects are named by their path.

    A list, a tuple and everything else is one value. An empty object is the text ``{}``.

    Args:
        parameters: See ``pairs``.
        separator: Joins the names on a path.

    Raises:
        InvalidTypeError: They are no parameters, or the separator is no text.
        InvalidInputError: They are nested too deep, or contain themselves. Or two values would
            have one name, of which at least one is nested.
    """
    given: object = separator
    if not isinstance(given, str) or not given:
        text = f"separator must be a text, not {brief(given)!r}; nothing was recorded"
        raise InvalidTypeError(text)
    found: list[Named] = []
    is_nested = False
    outermost = pairs(parameters, "parameters")
    _refuse_more(len(outermost))
    for name, value in outermost:
        plain = name if type(name) is str else _name(name)
        inner = None if type(value) in _LEAVES or type(plain) is not str else _nested(value)
        if isinstance(inner, list):
            is_nested = True
            _descend((str(plain),), inner, separator, {id(parameters), id(value)}, found)
        else:
            found.append(Named(plain, inner or value))
    if is_nested:
        _refuse_twins(found)
    return found


def _descend(
    path: tuple[str, ...], inner: _Members, separator: str, above: set[int], found: list[Named]
) -> None:
    """Add what is nested below a path. ``above`` are the ids of the objects on the way."""
    _refuse_more(len(found))
    if not inner:
        found.append(Named(separator.join(path), EMPTY, path))
    for key, value in inner:
        below = (*path, _text(key, path, separator))
        deeper = _nested(value)
        if not isinstance(deeper, list):
            found.append(Named(separator.join(below), deeper or value, below))
            continue
        where = limits.shown(separator.join(below))
        if id(value) in above:
            raise InvalidInputError(f"the parameter {where} contains itself; nothing was recorded")
        if len(below) >= DEPTH_MAX:
            text = f"the parameter {where} is nested deeper than {DEPTH_MAX}; nothing was recorded"
            raise InvalidInputError(text, hint="log_dict(values, name) keeps it in a file")
        _descend(below, deeper, separator, above | {id(value)}, found)


def _refuse_more(count: int) -> None:
    if count > NAMES_MAX:
        text = f"the parameters have more than {NAMES_MAX} names; nothing was recorded"
        raise InvalidInputError(text, hint="log_dict(values, name) keeps them in a file")


def _nested(value: object) -> _Members | Unreadable | None:
    # A text of another class may raise when it is asked for it.
    if type(value) in _LEAVES or issubclass(type(value), str):
        return None
    try:
        return members(value)
    # One bad object must not hide the others.
    except InvalidInputError as error:
        return Unreadable(error.__cause__ if isinstance(error.__cause__, Exception) else error)


def _name(given: object) -> object:
    """Return a text without the methods of its class. The check of names refuses anything else."""
    return str.__str__(given) if issubclass(type(given), str) else given


def _text(key: object, path: tuple[str, ...], separator: str) -> str:
    try:
        return str.__str__(key) if issubclass(type(key), str) else str(key)
    except Exception as error:
        where = limits.shown(separator.join(path))
        raise InvalidInputError(
            f"a name in the parameter {where} has no text: {type(error).__name__}; "
            "nothing was recorded"
        ) from error


def _refuse_twins(found: Iterable[Named]) -> None:
    """Refuse two values of one name: which of them counts could not be seen."""
    known: dict[str, tuple[str, ...]] = {}
    for name, _, path in found:
        # The check of names refuses it.
        if type(name) is not str:
            continue
        if name in known and (path or known[name]):
            raise InvalidInputError(
                f"two parameters would have the name {limits.shown(name)}; nothing was recorded",
                hint="pass another separator=, or rename one",
            )
        known[name] = path


def names_within(value: object) -> Iterator[str]:
    """Yield the names in the mappings and objects that a value contains, at any depth."""
    # They are kept, so that no other object gets their id.
    seen: dict[int, object] = {}
    left = [value]
    while left and len(seen) < NAMES_MAX:
        each = left.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        inner = _nested(each)
        if isinstance(inner, list):
            yield from (str.__str__(name) for name, _ in inner if issubclass(type(name), str))
            left += (member for _, member in inner)
        # What can't be read has no names.
        elif inner is None:
            with contextlib.suppress(Exception):
                if isinstance(each, _MANY) and not isinstance(each, (str, bytes)):
                    left += itertools.islice(each, NAMES_MAX)


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2  # noqa: PLR2004 - a pair


def read(get: Callable[[Any], Any], name: object) -> object:
    """Return what a foreign object has under a name, or an ``Unreadable``."""
    try:
        return get(name)
    # A foreign object may raise anything.
    except Exception as error:  # noqa: BLE001
        return Unreadable(error)


def _has(value: object, name: str) -> bool:
    """Return whether an attribute is there, also if it can't be read."""
    try:
        return hasattr(value, name)
    # A property may raise anything.
    except Exception:  # noqa: BLE001
        return True
