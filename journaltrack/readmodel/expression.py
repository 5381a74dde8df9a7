"""Choose and sort runs: ``lr < 0.1 and (status = completed or not tags.old)``.

A comparison is a name, an operator and a value: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, and
``~`` (``!~``) for a shell pattern. A name alone asks whether the run has it. Names are fields (see
``FIELDS``), then metrics (``loss`` is its last value; ``loss.min``, ``loss.max``, ``loss.points``,
``loss.step``), then parameters, then tags. ``params.NAME``, ``metrics.NAME`` and ``tags.NAME`` say
which is meant; quotes let a name or value have any character. ``age`` and ``duration`` are compared
with ``90s``, ``30min``, ``2h`` or ``3d``, ``started`` and ``ended`` with ``2026-11-03`` or
``2026-11-03T12:00``.

A comparison with what a run does not have is false. A name that no run has is an error, since an
empty answer would look like "none is so good". So is a value that can't be meant: a status that
does not exist, a text where all runs have numbers. Nothing is evaluated by Python. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from journaltrack.errors import InvalidInputError, NothingMatchesError
from journaltrack.readmodel.run import STATUSES, Run
from journaltrack.util import patterns
from journaltrack.util.text import epoch_s

Value: TypeAlias = "str | float | None"
Test: TypeAlias = Callable[[Run], bool]
Ask: TypeAlias = Callable[[Run], Value]

FIELDS: Final[dict[str, Ask]] = {
    "name": lambda run: run.name,
    "display_name": lambda run: run.display_name,
    "label": lambda run: run.label,
    "status": lambda run: run.status,
    "age": lambda run: run.age_s,
    "duration": lambda run: run.duration_s,
    "started": lambda run: None if run.started_ns is None else run.started_ns / 1e9,
    "ended": lambda run: None if run.ended_ns is None else run.ended_ns / 1e9,
    "note": lambda run: run.note,
    "journal": lambda run: run.journal,
    "pending": lambda run: run.delivery.pending,
    "in_doubt": lambda run: run.delivery.in_doubt,
    "quarantined": lambda run: run.delivery.quarantined,
}
"""What every run has."""
STATISTICS: Final = ("last", "min", "max", "step", "points", "min_step", "max_step")
_ORDERS: Final = frozenset({"<", "<=", ">", ">="})
"""A number is neither less nor more than a text."""
_SPANS: Final = frozenset({"age", "duration"})
_MOMENTS: Final = frozenset({"started", "ended"})
_LENGTH_MAX: Final = 10_000
_DEPTH_MAX: Final = 50
_UNITS_S: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<operator><=|>=|!=|==|!~|=|<|>|~)
    |(?P<bracket>[()])
    |(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<word>[^\s()<>=!~"',]+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_COLUMN: Final = re.compile(
    r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,]*?)\s*(?:,|\Z)""", re.DOTALL
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PERIOD: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)", re.ASCII)
_GROUPS: Final = {"params": "parameter", "metrics": "metric", "tags": "tag"}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Names:
    """What some runs have: the names that an expression may use."""

    metrics: frozenset[str]
    parameters: frozenset[str]
    tags: frozenset[str]
    runs: Sequence[Run] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Names:
        """Return the names of all runs."""
        metrics: set[str] = set()
        parameters: set[str] = set()
        tags: set[str] = set()
        for run in runs:
            metrics.update(run.metrics)
            parameters.update(run.parameters)
            tags.update(run.tags)
        return cls(frozenset(metrics), frozenset(parameters), frozenset(tags), runs)

    def all(self) -> list[str]:
        """Return all names, the fields first."""
        return [*FIELDS, *sorted(self.metrics | self.parameters | self.tags)]

    def asked(self, name: str, at: str = "") -> Ask:
        """Return what gives the value of a name.

        Raises:
            NothingMatchesError: No run has it.
        """
        group, _, inner = name.partition(".")
        if group in _GROUPS and inner:
            ask = self._in_group(group, inner)
        elif name in FIELDS:
            ask = FIELDS[name]
        else:
            ask = (
                self._in_group("metrics", name)
                or self._in_group("params", name)
                or self._in_group("tags", name)
            )
        if ask is None:
            raise NothingMatchesError(
                f"no run has {name!r}{at}: a field, metric, parameter or tag",
                hint=patterns.hint(name, self.all()),
            )
        return ask

    def _in_group(self, group: str, name: str) -> Ask | None:
        if group == "params":
            return (lambda run: run.parameters.get(name)) if name in self.parameters else None
        if group == "tags":
            return (lambda run: run.tags.get(name)) if name in self.tags else None
        if name in self.metrics:
            return lambda run: run.metrics[name].last if name in run.metrics else None
        metric, _, statistic = name.rpartition(".")
        if metric in self.metrics and statistic in STATISTICS:
            return lambda run: (
                getattr(run.metrics[metric], statistic) if metric in run.metrics else None
            )
        return None


def parsed(text: str, names: Names) -> Test:
    """Return the test that an expression makes.

    Raises:
        InvalidInputError: It can't be understood; the message says where.
        NothingMatchesError: It names what no run has.
    """
    if len(text) > _LENGTH_MAX:
        raise InvalidInputError(f"the expression has more than {_LENGTH_MAX} characters")
    return _Parser(text, names).parse()


def sort_name(sort: str, names: Names) -> tuple[str, bool]:
    """Return the name of what to sort by, and whether descending."""
    text = sort.strip()
    descends = text.startswith("-") and text not in names.metrics | names.parameters | names.tags
    return _unquoted(text[1:].strip() if descends else text), descends


def sort_key(sort: str, names: Names) -> tuple[Ask, bool]:
    """Return what to sort by, and whether descending.

    Raises:
        NothingMatchesError: It names what no run has.
    """
    name, descends = sort_name(sort, names)
    if not name:
        raise InvalidInputError(
            "there is nothing to sort by", hint="name a metric, a parameter, a tag or age"
        )
    return names.asked(name, " to sort by"), descends


def column_names(text: str) -> list[str]:
    """Return names that commas separate. Quotes let a name have a comma."""
    return [name for each in _COLUMN.findall(text) if (name := _unquoted(each))]


def _unquoted(name: str) -> str:
    is_quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return _ESCAPED.sub(r"\1", name[1:-1]) if is_quoted else name


def in_order(runs: Sequence[Run], ask: Ask, *, descends: bool) -> list[Run]:
    """Sort runs by a value: numbers, then texts, then NaN; runs without it come last."""
    numbers, texts, nans, without = [], [], [], []
    for run in runs:
        value = ask(run)
        if value is None:
            without.append(run)
            continue
        number = _number(value)
        if number is None:
            texts.append((str(value).lower(), run))
        elif math.isnan(number):
            nans.append(run)
        else:
            numbers.append((number, run))
    numbers.sort(key=lambda pair: pair[0], reverse=descends)
    texts.sort(key=lambda pair: pair[0], reverse=descends)
    return [*(run for _, run in numbers), *(run for _, run in texts), *nans, *without]


class _Parser:
    """A parser by recursive descent, one method a level."""

    def __init__(self, text: str, names: Names) -> None:
        self._text = text
        self._names = names
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Test:
        """Parse all of it."""
        test = self._either()
        if self._next < len(self._tokens):
            self._fail("expected and, or, or the end")
        return test

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take_word("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda run: any(test(run) for test in tests)

    def _both(self) -> Test:
        tests = [self._negated()]
        while self._take_word("and"):
            tests.append(self._negated())
        return tests[0] if len(tests) == 1 else lambda run: all(test(run) for test in tests)

    def _negated(self) -> Test:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            self._fail(f"it is nested deeper than {_DEPTH_MAX} levels")
        try:
            if self._take_word("not"):
                test = self._negated()
                return lambda run: not test(run)
            if self._take("bracket", "("):
                test = self._either()
                if not self._take("bracket", ")"):
                    self._fail("expected )")
                return test
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Test:
        token = self._operand("a name")
        ask = self._names.asked(token.text, f" (at character {token.at + 1})")
        if self._next == len(self._tokens) or self._tokens[self._next].kind != "operator":
            return lambda run: ask(run) is not None
        operator = self._tokens[self._next].text
        self._next += 1
        value = self._operand("a value")
        wanted = self._wanted(token, value)
        if token.text == "status":
            self._check_status(operator, value)
        elif operator not in {"~", "!~"}:
            self._check_kind(token, ask, operator, value, wanted)
        return _comparing(ask, operator, value, wanted, fold_case=token.text in FIELDS)

    def _check_status(self, operator: str, value: _Token) -> None:
        """Refuse a status that no run can have: it would match nothing, or all."""
        known = dict.fromkeys([*STATUSES, *(run.status for run in self._names.runs)])
        if operator in _ORDERS:
            self._fail("a status has no order: use =, !=, ~ or !~", value)
        if operator in {"~", "!~"}:
            is_known = any(patterns.fits(status, value.text) for status in known)
        else:
            is_known = value.text.lower() in known
        if not is_known:
            self._fail(f"a status is one of {', '.join(known)}", value)

    def _check_kind(
        self, name: _Token, ask: Ask, operator: str, value: _Token, wanted: float | None
    ) -> None:
        """Refuse to compare numbers with a text, or to order texts by a number."""
        if wanted is None and _number(value.text) is not None:
            # A quoted number: it is compared with what was recorded as a text, too.
            return
        if wanted is not None and operator not in _ORDERS:
            return
        values = [each for run in self._names.runs if (each := ask(run)) is not None]
        if not values:
            return
        numbers = sum(_number(each) is not None for each in values)
        if wanted is None and numbers == len(values):
            self._fail(f"{name.text} has only numbers, and this is none", value)
        if wanted is not None and numbers == 0:
            self._fail(f"{name.text} has only texts, which no number orders", value)

    def _wanted(self, name: _Token, value: _Token) -> float | None:
        """Return the value as a number; None if it is a text."""
        if name.text in _MOMENTS:
            number = _number(value.text)
            number = epoch_s(value.text) if number is None else number
            if number is None:
                self._fail(f"{name.text} is compared with 2026-11-03 or 2026-11-03T12:00", value)
            return number
        if value.kind == "quoted" and name.text not in _SPANS:
            return None
        if name.text in _SPANS:
            period = _PERIOD.fullmatch(value.text)
            if period:
                return float(period[1]) * _UNITS_S[period[2]]
            if _number(value.text) != 0:
                self._fail(f"{name.text} needs a number with a unit: 90s, 30min, 2h, 3d", value)
            return 0.0
        return _number(value.text)

    def _operand(self, what: str) -> _Token:
        if self._next == len(self._tokens):
            self._fail(f"expected {what}")
        token = self._tokens[self._next]
        if token.kind not in {"word", "quoted"} or (
            token.kind == "word" and token.text.lower() in {"and", "or", "not"}
        ):
            self._fail(f"expected {what}")
        self._next += 1
        return token

    def _take_word(self, word: str) -> bool:
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            if token.kind == "word" and token.text.lower() == word:
                self._next += 1
                return True
        return False

    def _take(self, kind: str, text: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next][:2] == (kind, text):
            self._next += 1
            return True
        return False

    def _fail(self, what: str, token: _Token | None = None) -> None:
        if token is None and self._next < len(self._tokens):
            token = self._tokens[self._next]
        raise _misunderstood(self._text, what, len(self._text) if token is None else token.at)


def _tokens(text: str) -> list[_Token]:
    found = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise _misunderstood(text, "this can't be read", start)
        kind = str(match.lastgroup)
        word = match[kind]
        found.append(
            _Token(
                kind,
                _unquoted(word) if kind == "quoted" else word,
                match.start(kind),
            )
        )
        place = match.end()
    return found


def _misunderstood(text: str, what: str, at: int) -> InvalidInputError:
    there = f"at {text[at : at + 20]!r}" if at < len(text) else "at the end"
    return InvalidInputError(
        f"the expression can't be understood: {what}, {there} (character {at + 1})",
        hint="write it like: lr < 0.1 and status = completed; put names with blanks in quotes",
    )


def _comparing(
    ask: Ask, operator: str, token: _Token, wanted: float | None, *, fold_case: bool
) -> Test:
    text = token.text

    def test(run: Run) -> bool:
        """Compare the run's value."""
        value = ask(run)
        if value is None:
            return False
        if operator in {"~", "!~"}:
            return patterns.fits(plain(value), text) == (operator == "~")
        number = None if wanted is None else _number(value)
        if number is not None and wanted is not None:
            return _holds(operator, number, wanted)
        is_mixed = wanted is not None or (token.kind == "word" and not isinstance(value, str))
        if is_mixed and operator in _ORDERS:
            return False
        if fold_case:
            return _holds(operator, plain(value).lower(), text.lower())
        return _holds(operator, plain(value), text)

    return test


def _holds(operator: str, one: float | str, other: float | str) -> bool:
    both_nan = one != one and other != other  # noqa: PLR0124 - the test for NaN
    if operator in {"=", "=="}:
        return both_nan or one == other
    if operator == "!=":
        return not both_nan and one != other
    if operator == "<":
        return one < other  # type: ignore[operator]
    if operator == "<=":
        return one <= other  # type: ignore[operator]
    if operator == ">":
        return one > other  # type: ignore[operator]
    return one >= other  # type: ignore[operator]


def _number(value: object) -> float | None:
    if isinstance(value, str) and "_" in value:
        # Python's literals may have it; what a script logged as a text means no number by it.
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def plain(value: object) -> str:
    """Return a value as a text, a whole number without ``.0``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:  # noqa: PLR2004
        return str(int(value))
    return str(value)
