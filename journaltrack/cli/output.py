"""How the command line writes: escaped text, aligned lines, tables and colours on a terminal alone.

Invariant: nothing from a journal or a remote reaches the terminal except through ``clean``; rich is imported only to
write to a terminal, with its markup off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from journaltrack.errors import printable
from journaltrack.util.text import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH: Final = 80
"""Of a line that is to fit where it is not known who reads it."""
_SEPARATOR: Final = "  "
_CELL_CHARS_MAX: Final = 3_000
_CELL_CHARS_MIN: Final = 8
_LABEL_CHARS_MAX: Final = 100
_LINES_AT_A_TIME: Final = 1_000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_STYLES: Final = {"quarantined": "red", "in doubt": "red", "pending": "yellow", "in flight": "yellow", "delivered": "green"}


class UnheardError(Exception):
    """What the command prints can't be written; what it prints from now on is dropped.

    Args:
        reason: The system's.
    """

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
        super().__init__(reason.strerror)


_going_on: Final[list[list[UnheardError]]] = []


@contextlib.contextmanager
def going_on() -> Iterator[list[UnheardError]]:
    """For commands that do more than print: inside, what can't be printed ends nothing, and is in the list."""
    _going_on.append([])
    try:
        yield _going_on[-1]
    finally:
        _going_on.pop()


_collected: Final[list[tuple[str, list[Any]]]] = []


@contextlib.contextmanager
def collected(journal: str, documents: list[Any]) -> Iterator[None]:
    """For answers about one of several journals: documents go into the list, and lines of JSON name the journal."""
    _collected.append((journal, documents))
    try:
        yield
    finally:
        _collected.pop()


def with_streams() -> None:
    """Give this process the standard streams that it was started without (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


def _discard(stream: IO[str]) -> None:
    """Send what a stream still holds, and what comes, nowhere: Python would fail over it once more at exit."""
    with contextlib.suppress(OSError, ValueError):  # without a descriptor: nothing is left to be written
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def unheard(stream: IO[str], error: OSError) -> UnheardError:
    """What it means that a standard stream can't be written; what it still holds, and what comes, is dropped."""
    _discard(stream)
    return UnheardError(error)


def is_of_click(error: OSError) -> bool:
    """Whether it was raised where click itself prints: help, versions, what it says of wrong usage."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


class Bytes(io.RawIOBase):
    """Standard output as a binary stream that an export may go to."""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """All of it, or ``UnheardError``."""
        try:
            sys.stdout.buffer.write(data)
        except OSError as error:
            raise unheard(sys.stdout, error) from error
        return len(data)

    def flush(self) -> None:
        """So far."""
        try:
            sys.stdout.flush()
        except OSError as error:
            raise unheard(sys.stdout, error) from error


def clean(value: object) -> str:
    """A value as text on one line that can do nothing to a terminal.

    What is not printable is escaped, see ``errors.printable``; ``--json`` has the exact text.
    """
    return printable(value if isinstance(value, str) else str(value))


def cell(value: object) -> str:
    """A value in a table: "-" for none, and never so long that a column of it fills the memory."""
    return "-" if value is None or value == "" else clean(cut(value, _CELL_CHARS_MAX))


def cut(value: object, chars_max: int = 300) -> str:
    """A value as text of at most ``chars_max`` characters."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def moment(time_ns: object) -> str:
    """Nanoseconds since the epoch as UTC to the second, in one word."""
    from journaltrack.journal.view import iso_seconds  # noqa: PLC0415 - imports SQLAlchemy

    return iso_seconds(time_ns) or "-"


def instant(time_ns: object) -> str:
    """The same to the microsecond, for what is told apart by it."""
    from journaltrack.journal.view import iso  # noqa: PLC0415 - imports SQLAlchemy

    return iso(time_ns) or "-"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "3 h 12 min"."""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = ((whole // 86_400, "d"), (whole // 3_600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(i for i, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount)


def size(count_bytes: float) -> str:
    """Bytes in decimal units."""
    amount = min(max(float(count_bytes), 0.0), 1e30)
    for unit in _UNITS[:-1]:
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} {_UNITS[-1]}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 entry, 2 entries."""
    if count == 1:
        return f"1 {one}"
    return f"{count} {many or (one[:-1] + 'ies' if one.endswith('y') else one + 's')}"


def say(text: str = "", *, err: bool = False) -> None:
    """Write lines of ours; what they quote has been through ``clean``."""
    stream: IO[str] = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
    except OSError as error:
        lost = unheard(stream, error)
        if err:  # the exit code tells
            return
        if not _going_on:
            raise lost from error
        _going_on[-1].append(lost)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """One JSON document on stdout, in ASCII: safe whatever the terminal or the locale."""
    if _collected:
        _collected[-1][1].append(value)
    else:
        say(json.dumps(value, indent=2, allow_nan=False))


def print_json_line(value: Any) -> None:  # noqa: ANN401 - any JSON
    """One JSON document on one line of stdout."""
    if _collected:
        value = {"journal": _collected[-1][0], **value}
    say(json.dumps(value, allow_nan=False))


def problem(word: str, message: object, hint: str = "") -> None:
    """``error: ...`` and ``hint: ...`` on stderr."""
    text = f"{word}: {clean(message)}"
    if sys.stderr.isatty() and word == "error":
        terminal(err=True).print(text, style="red", soft_wrap=True)
    else:
        say(text, err=True)
    if hint:
        say(f"hint: {clean(hint)}", err=True)


def line_width() -> int:
    """How long a line may be: that of the terminal, or ``PLAIN_WIDTH``."""
    return terminal().width if on_terminal() else PLAIN_WIDTH


def on_terminal(*, err: bool = False) -> bool:
    """Whether a person reads it."""
    return (sys.stderr if err else sys.stdout).isatty()


def terminal(*, err: bool = False) -> Console:
    """A console for tables and colours; honours NO_COLOR. Only for text that has been through ``clean``."""
    from rich.console import Console  # noqa: PLC0415 - 60 ms, and only for a terminal

    return Console(stderr=err, markup=False, emoji=False, highlight=False)


def fields(rows: Sequence[tuple[str, object]], indent: str = "") -> None:
    """Labels and values, aligned; both are escaped here."""
    rows = [(clean(cut(label, _LABEL_CHARS_MAX)), value) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    console = terminal() if on_terminal() else None
    for label, value in rows:
        text = f"{indent}{label:<{width}}{_SEPARATOR}{cell(value)}"
        if console is None:
            say(text)
        else:
            style = _STYLES.get(label.strip()) if not str(value).startswith("0") else None
            console.print(text, style=style, soft_wrap=True)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None = None,
    whole: AbstractSet[str] = frozenset(),
) -> bool:
    """A table with a title; nothing when there are no rows. Cells are escaped here.

    Args:
        title: Above it.
        columns: Their names.
        rows: A value for each column.
        width: Cut long cells so that a line has at most so many characters; None: leave them whole.
        whole: Columns whose cells are never cut.

    Returns:
        Whether something was cut.
    """
    if not rows:
        return False
    cells = [[cell(value) for value in row] for row in rows]
    uncut = cells
    if width is not None:
        cells = fitted(columns, cells, width, whole)
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(columns))]
    if on_terminal():
        _rich_table(title, columns, cells, right)
        return cells != uncut
    say(title)
    for line in aligned([list(columns), *cells], right):
        say(f"{_SEPARATOR}{line}")
    return cells != uncut


def fitted(columns: Sequence[str], cells: list[list[str]], width: int, whole: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """Cells of a table in lines of at most so many characters: those of the widest columns are cut, but for ``whole`` ones."""
    widths = {name: max(map(len, column)) for name, *column in zip(columns, columns, *cells, strict=True)}
    room = width - len(_SEPARATOR) * len(columns) - sum(widths[name] for name in whole)
    others = [each for name, each in widths.items() if name not in whole]
    most = max(others)
    while most > _CELL_CHARS_MIN and sum(min(each, most) for each in others) > room:
        most -= 1
    return [[text if name in whole else cut(text, most) for name, text in zip(columns, row, strict=True)] for row in cells]


def listing(columns: Sequence[str], right: AbstractSet[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """Rows in columns as they come, in constant memory; ``nothing`` if there are none. Cells are escaped here."""
    widths = [len(name) for name in columns]
    at_right = [name in right for name in columns]
    left = iter(rows)
    lines: list[list[str]] = [list(columns)]
    while page := list(islice(left, _LINES_AT_A_TIME)):
        lines += [[cell(value) for value in row] for row in page]
        say("\n".join(aligned(lines, at_right, widths)))
        lines = []
    if lines:
        say(nothing)


def aligned(cells: Sequence[Sequence[str]], right: Sequence[bool], widths: list[int] | None = None) -> Iterator[str]:
    """Lines of cells in columns. ``widths`` are least widths, and grow with what is written."""
    widths = widths if widths is not None else [0] * len(right)
    for row in cells:
        widths[:] = [max(width, len(text)) for width, text in zip(widths, row, strict=True)]
    for row in cells:
        padded = [f"{t:>{w}}" if r else f"{t:<{w}}" for t, w, r in zip(row, widths, right, strict=True)]
        yield _SEPARATOR.join(padded).rstrip()


def _rich_table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, is_number in zip(columns, right, strict=True):
        drawn.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
    terminal().print(drawn)


def error_json(error: BaseException, code: int) -> Mapping[str, object]:
    """An error as every command's ``--json`` reports it."""
    message = getattr(error, "message", None) or without_secrets(f"{type(error).__name__}: {error}")
    return {"error": {"type": type(error).__name__, "message": message, "hint": getattr(error, "hint", "")}, "exit_code": int(code)}
