"""Print labels with values, tables and long lists, aligned and escaped.

On a terminal a table that is too wide leaves out its least important columns, or prints one
paragraph per row. In a pipe it is as wide as its cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from journaltrack.cli import output

_CELL_CHARS_MIN: Final = 8
_TEXT_CHARS_MIN: Final = 14
_LABEL_CHARS_MAX: Final = 100
_PADDED_MAX: Final = 200
"""Ours: columns of the longest cell that others are padded for."""
_LINES_AT_A_TIME: Final = 1_000
_STYLES: Final = {
    "quarantined": "red",
    "in doubt": "red",
    "pending": "yellow",
    "in flight": "yellow",
    "delivered": "green",
}


def fields(rows: Sequence[tuple[str, object]], indent: str = "") -> None:
    """Print labels and values, aligned. Both are escaped here."""
    rows = [(output.clean(output.cut(label, _LABEL_CHARS_MAX)), value) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    beside = len(indent) + width + len(output.SEPARATOR)
    on_terminal = output.on_terminal()
    lines = []
    for label, value in rows:
        text = output.cell(value)
        if not on_terminal:
            lines.append(f"{indent}{label:<{width}}{output.SEPARATOR}{text}".rstrip())
            continue
        first, *more = output.wrapped(text, max(_CELL_CHARS_MIN, output.line_width() - beside))
        style = _STYLES.get(label.strip()) if not str(value).startswith("0") else None
        lines += [
            output.painted(f"{indent}{name:<{width}}{output.SEPARATOR}{line}".rstrip(), style)
            for name, line in ((label, first), *(("", each) for each in more))
        ]
    # Once: each write costs as much as making its line.
    if lines:
        output.write("\n".join(lines))


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None = None,
    whole: AbstractSet[str] = frozenset(),
    *,
    spare: Sequence[str] = (),
) -> bool:
    """Print a table with a title, or nothing if there are no rows.

    Cells are escaped here.

    Args:
        title: Printed above it.
        columns: Their names.
        rows: One value per column.
        width: Cut long cells to fit lines of this many characters; None: leave them whole.
        whole: Columns whose cells are never cut.
        spare: Columns that a narrow terminal leaves out, the first one first.

    Returns:
        Whether something was cut.
    """
    if not rows:
        return False
    cells = [[output.cell(value) for value in row] for row in rows]
    uncut = cells
    if width is not None:
        cells = fitted(columns, cells, width, whole)
    right = [
        all(isinstance(row[i], (int, float)) or row[i] is None for row in rows)
        for i in range(len(columns))
    ]
    output.say(title, style="bold")
    if output.on_terminal():
        _fit(columns, cells, right, spare)
        return cells != uncut
    for line in aligned([list(columns), *cells], right):
        output.say(f"{output.SEPARATOR}{line}")
    return cells != uncut


def _fit(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    spare: Sequence[str],
) -> None:
    """Print a table that fits the terminal.

    Print as many columns as fit; if not even those fit, print one paragraph per row.
    """
    room = output.line_width() - len(output.SEPARATOR)
    left_out: set[str] = set()
    for next_out in (None, *spare):
        left_out |= {next_out} if next_out else set()
        kept = [place for place, name in enumerate(columns) if name not in left_out]
        chosen = [[row[place] for place in kept] for row in [columns, *cells]]
        widths = _widths(chosen, room - len(output.SEPARATOR) * (len(kept) - 1))
        if widths is not None:
            _print_columns(chosen, widths, [right[place] for place in kept])
            return
    for row in cells:
        items = [f"{name} {text}" for name, text in zip(columns, row, strict=True) if text != "-"]
        for number, line in enumerate(output.filled(items, ", ", room - len(output.SEPARATOR))):
            output.write(f"{output.SEPARATOR if not number else output.SEPARATOR * 2}{line}")


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return the columns' widths; None if the words of their cells do not fit.

    Columns of long texts are narrowed alike.
    """
    columns = list(zip(*rows, strict=True))
    natural = [max(map(output.columns_of, column)) for column in columns]
    least = [max(map(output.least_width, column)) for column in columns]
    if sum(least) > room:
        return None
    most = max(natural)
    while (
        sum(widths := [max(low, min(high, most)) for low, high in zip(least, natural, strict=True)])
        > room
    ):
        most -= 1
    return widths


def _print_columns(
    rows: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]
) -> None:
    for number, row in enumerate(rows):
        broken = [output.wrapped(text, width) for text, width in zip(row, widths, strict=True)]
        lines = [
            [cell_lines[line] if line < len(cell_lines) else "" for cell_lines in broken]
            for line in range(max(map(len, broken)))
        ]
        for line in aligned(lines, right, list(widths), painted=number > 0):
            output.write(f"{output.SEPARATOR}{line}")


def _padded(text: str, width: int, *, at_right: bool, painted: bool) -> str:
    space = " " * (width - output.columns_of(text))
    shown = output.painted(text, _STYLES.get(text)) if painted else text
    return space + shown if at_right else shown + space


def fitted(
    columns: Sequence[str],
    cells: list[list[str]],
    width: int,
    whole: AbstractSet[str] = frozenset(),
    least: int = _CELL_CHARS_MIN,
) -> list[list[str]]:
    """Cut the widest columns so that lines have at most ``width`` characters.

    ``whole`` columns are not cut, and none to less than ``least`` characters, even if the line
    does not fit then.
    """
    widths = {
        name: max(map(len, column)) for name, *column in zip(columns, columns, *cells, strict=True)
    }
    room = width - len(output.SEPARATOR) * len(columns) - sum(widths[name] for name in whole)
    others = [each for name, each in widths.items() if name not in whole]
    most = max(others, default=0)
    while most > least and sum(min(each, most) for each in others) > room:
        most -= 1
    return [
        [
            text if name in whole else output.cut(text, most)
            for name, text in zip(columns, row, strict=True)
        ]
        for row in cells
    ]


def listing(
    columns: Sequence[str],
    right: AbstractSet[str],
    rows: Iterable[Sequence[object]],
    nothing: str,
    *,
    texts: AbstractSet[str] = frozenset(),
    spare: Sequence[str] = (),
) -> None:
    """Print rows in columns as they come, in constant memory. Cells are escaped here.

    On a terminal, where they are few, lines fit.

    Args:
        columns: Their names.
        right: Columns of numbers.
        rows: One value per column.
        nothing: What to print if there are no rows.
        texts: Columns that a terminal cuts if they are too long.
        spare: Columns that a narrow terminal leaves out, the first one first.
    """
    widths = [len(name) for name in columns]
    at_right = [name in right for name in columns]
    left = iter(rows)
    lines: list[list[str]] = [list(columns)]
    while page := list(islice(left, _LINES_AT_A_TIME)):
        cells = [[output.cell(value) for value in row] for row in page]
        if output.on_terminal():
            _list_briefly(columns, right, cells, texts, spare)
        else:
            output.write("\n".join(aligned([*lines, *cells], at_right, widths)))
        lines = []
    if lines:
        output.say(nothing)


def _list_briefly(
    columns: Sequence[str],
    right: AbstractSet[str],
    cells: Sequence[list[str]],
    texts: AbstractSet[str],
    spare: Sequence[str],
) -> None:
    """Choose as many columns as fit with texts of a readable length."""
    width = output.line_width()
    for left_out in range(len(spare) + 1):
        kept = [place for place, name in enumerate(columns) if name not in spare[:left_out]]
        names = [columns[place] for place in kept]
        whole = [[row[place] for place in kept] for row in cells]
        least = _TEXT_CHARS_MIN if left_out < len(spare) else _CELL_CHARS_MIN
        shown = fitted(names, whole, width + len(output.SEPARATOR), frozenset(names) - texts, least)
        lines = list(aligned([names, *shown], [name in right for name in names], painted=True))
        if max(map(output.columns_of, lines)) <= width:
            break
    output.write("\n".join(lines))
    if left_out or shown != whole:
        output.say(
            "hint: --json and `journaltrack audit entry N` show what is cut or left out", err=True
        )


def aligned(
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    widths: list[int] | None = None,
    *,
    painted: bool = False,
) -> Iterator[str]:
    """Align cells into lines.

    ``widths`` are minimum widths and grow with what is written, but for what is very long: that
    moves its own line alone. ``painted`` colours the states.
    """
    widths = widths if widths is not None else [0] * len(right)
    for row in cells:
        widths[:] = [
            width if (columns := output.columns_of(text)) > _PADDED_MAX else max(width, columns)
            for width, text in zip(widths, row, strict=True)
        ]
    for row in cells:
        padded = [
            _padded(t, w, at_right=r, painted=painted)
            for t, w, r in zip(row, widths, right, strict=True)
        ]
        yield output.SEPARATOR.join(padded).rstrip()
