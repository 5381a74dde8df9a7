"""Make the mutants of a module: one small change each, at a place of the syntax tree. Pure.

Rules leave out what no behaviour can tell: docstrings, annotations, decorators,
``if TYPE_CHECKING`` and calls of the logger. They also leave out what is inside of f-strings,
since Python knows its place from 3.12 on only. Words of SQL are changed everywhere.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_SWAPPED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# swapping one is negating it
_EXACT: Final = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_IS_SQL: Final = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|JOIN|ORDER BY) ")
_SQL: Final = {
    " AND ": " OR ",
    " OR ": " AND ",
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " = ": " <> ",
    " <> ": " = ",
    " IS NULL": " IS NOT NULL",
    " IS NOT NULL": " IS NULL",
    " NOT IN ": " IN ",
    "NOT EXISTS": "EXISTS",
    "LEFT JOIN": "JOIN",
    " DESC": "",
    "max(": "min(",
    "min(": "max(",
    "DISTINCT ": "",
}
_SQL_WORD: Final = re.compile(
    "|".join(re.escape(word) for word in sorted(_SQL, key=len, reverse=True))
)


class Mutant(NamedTuple):
    """One change.

    Attributes:
        function: Qualified name of the function or class that has it; "" for the module itself.
        operator: What kind of change it is.
        line: Where it begins, from 1.
        start, end: What is replaced: characters of the source.
        replacement: By what.
        before, after: The lines that it changes, without indentation, as they are and as they
            become.
    """

    function: str
    operator: str
    line: int
    start: int
    end: int
    replacement: str
    before: str
    after: str

    def apply(self, source: str) -> str:
        """The mutated module."""
        return source[: self.start] + self.replacement + source[self.end :]


def mutants(source: str) -> list[Mutant]:
    """Return all mutants, in order of their place."""
    places = _Places(source)
    found: dict[tuple[int, int, str], Mutant] = {}
    for function, node in _nodes(ast.parse(source), ""):
        for operator, start, end, replacement in _changes(node, places):
            mutant = places.mutant(function, operator, start, end, replacement)
            if mutant.before != mutant.after:
                found.setdefault((start, end, replacement), mutant)
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.replacement))


def sample(source: str, count: int, seed: str) -> list[Mutant]:
    """Choose up to ``count`` mutants; the same source and seed give the same ones."""
    known = mutants(source)
    chosen = random.Random(seed).sample(range(len(known)), min(count, len(known)))
    return [known[index] for index in sorted(chosen)]


class _Places:
    """Translate places of the tree, which counts bytes of UTF-8, into characters."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines = source.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def of(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return where a node begins, and where it has ended."""
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self._offset(node.lineno, node.col_offset), self._offset(end_line, end_column)

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def mutant(
        self, function: str, operator: str, start: int, end: int, replacement: str
    ) -> Mutant:
        """Add the lines that a change touches, before and after it."""
        first = self.source.rfind("\n", 0, start) + 1
        last = self.source.find("\n", end)
        last = len(self.source) if last < 0 else last
        after = self.source[first:start] + replacement + self.source[end:last]
        line = self.source.count("\n", 0, start) + 1
        return Mutant(
            function,
            operator,
            line,
            start,
            end,
            replacement,
            _plain(self.source[first:last]),
            _plain(after),
        )


def _plain(lines: str) -> str:
    return "\n".join(line.strip() for line in lines.splitlines())


def _nodes(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the nodes that may be mutated, with the function that each is in."""
    yield function, node
    if isinstance(node, ast.JoinedStr) or _is_cosmetic(node):
        return
    inside = function
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        inside = f"{function}.{node.name}" if function else node.name
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _nodes(child, inside)


def _is_cosmetic(node: ast.AST) -> bool:
    """Return whether no behaviour depends on a statement."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        return (
            isinstance(called, ast.Attribute)
            and isinstance(called.value, ast.Name)
            and called.value.id == "logger"
        )
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.AST, places: _Places) -> Iterator[tuple[str, int, int, str]]:
    """Yield (operator, start, end, replacement) for one node."""
    if _is_cosmetic(node):
        return
    if isinstance(node, ast.stmt):
        yield from _of_statement(node, places)
    elif isinstance(node, ast.expr):
        for operator, replacement in _of_expression(node):
            yield (operator, *places.of(node), replacement)
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            yield from _of_sql(node, places)
    tests = (
        node.ifs
        if isinstance(node, ast.comprehension)
        else [node.test]
        if isinstance(node, ast.If | ast.While | ast.IfExp)
        else []
    )
    for test in tests:
        exact = (
            isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], _EXACT)
        )
        if not exact and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            yield ("negate", *places.of(test), f"(not ({ast.unparse(test)}))")


def _of_statement(node: ast.stmt, places: _Places) -> Iterator[tuple[str, int, int, str]]:
    where = places.of(node)
    if isinstance(node, ast.Return):
        if node.value is None:
            yield ("delete", *where, "pass")
        elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield ("return None", *where, "return None")
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets):
            yield ("delete", *where, "pass")
    elif isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete):
        yield ("delete", *where, "pass")
    elif isinstance(node, ast.Break | ast.Continue):
        yield ("break", *where, "continue" if isinstance(node, ast.Break) else "break")
        yield ("delete", *where, "pass")


def _of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    """Yield (operator, replacement) for an expression."""
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            swapped = [*node.ops[:index], _SWAPPED[type(op)](), *node.ops[index + 1 :]]
            yield "comparison", _text(ast.Compare(node.left, swapped, node.comparators))
    elif isinstance(node, ast.BoolOp):
        yield (
            "and/or",
            _text(ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)),
        )
        for index in range(len(node.values)):
            others = [*node.values[:index], *node.values[index + 1 :]]
            yield "operand", _text(others[0] if len(others) == 1 else ast.BoolOp(node.op, others))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "negate", _text(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield "arithmetic", _text(ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right))
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)


def _of_constant(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield "constant", repr(not value)
    elif isinstance(value, int):
        yield "constant", repr(value + 1)
        if value:
            yield "constant", repr(value - 1)
    elif isinstance(value, float):
        yield "constant", repr(value * 2 if value else 1.0)


def _of_sql(node: ast.expr, places: _Places) -> Iterator[tuple[str, int, int, str]]:
    start, end = places.of(node)
    text = places.source[start:end]
    if _IS_SQL.search(text):
        for found in _SQL_WORD.finditer(text):
            yield "SQL", start + found.start(), start + found.end(), _SQL[found.group()]


def _text(node: ast.expr) -> str:
    """Return the source in parentheses, since what is around it may bind closer."""
    return f"({ast.unparse(node)})"
