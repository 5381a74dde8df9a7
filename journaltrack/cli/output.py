"""Write the command line's output: escaped, folded and coloured.

In a pipe, lines are not folded: one line is one thing to grep for. On a terminal every line fits.
It breaks between words (a path or URI after a slash), never inside a number, a time or a digest.

Invariants: nothing from a journal or a remote reaches the terminal except through ``clean``. rich
is imported only for what moves on a terminal, with its markup off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import click

from journaltrack.errors import printable
from journaltrack.util.text import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from journaltrack.reports.proof.hearsay import Hearsay

PLAIN_WIDTH: Final = 80
"""Width of lines that should fit when the reader's width is unknown."""
DIGEST_CHARS: Final = 12
"""Characters of a digest on a terminal: enough to compare by eye."""
SEPARATOR: Final = "  "
"""What stands between columns, and indents what belongs to the line above."""
_CELL_CHARS_MAX: Final = 3_000
# A double holds every whole number up to here.
_WHOLE_MAX: Final = 1e16
_WIDTH_MIN: Final = 40
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_SMALL_STEPS: Final = re.compile(r"[^\s:]*:|[^\s:]+")
_STEPS: Final = re.compile(r"[^\s/]*/|[^\s/]+")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


class UnheardError(Exception):
    """Report that the output can't be written; later output is dropped.

    Args:
        reason: The system's error.
    """

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
        super().__init__(reason.strerror)


_going_on: Final[list[list[UnheardError]]] = []


@contextlib.contextmanager
def going_on() -> Iterator[list[UnheardError]]:
    """Collect write errors instead of raising them.

    This is for commands that do more than print.
    """
    _going_on.append([])
    try:
        yield _going_on[-1]
    finally:
        _going_on.pop()


_collected: Final[list[tuple[str, list[Any]]]] = []


@contextlib.contextmanager
def collected(journal: str, documents: list[Any]) -> Iterator[None]:
    """Collect JSON documents about one of several journals.

    Lines of JSON are not collected, and name the journal.
    """
    _collected.append((journal, documents))
    try:
        yield
    finally:
        _collected.pop()


Held: TypeAlias = "list[Callable[[], None]]"
_held: Final[ContextVar[Held | None]] = ContextVar("journaltrack-held", default=None)


@contextlib.contextmanager
def holding(held: Held | None) -> Iterator[None]:
    """Hold what this thread prints in the block; call what is held to print it.

    Args:
        held: Gets it. None: print at once after all.
    """
    before = _held.set(held)
    try:
        yield
    finally:
        _held.reset(before)


def with_streams() -> None:
    """Open null streams in place of standard streams that are closed (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # It stays open until the process ends.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _discard(stream: IO[str]) -> None:
    """Drop what a stream still holds and what comes.

    Else Python would fail again at exit.
    """
    # Without a descriptor nothing is left to write.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def unheard(stream: IO[str], error: OSError) -> UnheardError:
    """Drop the rest of a standard stream's output, and return the error to raise."""
    _discard(stream)
    return UnheardError(error)


def is_of_click(error: OSError) -> bool:
    """Return whether click raised it while it printed help, a version or wrong usage."""
    return any(
        frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)
    )


class Bytes(io.RawIOBase):
    """Give standard output as a binary stream, for an export."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Write all of it, or raise ``UnheardError``."""
        try:
            sys.stdout.buffer.write(data)
        except OSError as error:
            raise unheard(sys.stdout, error) from error
        return len(data)

    def flush(self) -> None:
        """Flush what was written, or raise ``UnheardError``."""
        try:
            sys.stdout.flush()
        except OSError as error:
            raise unheard(sys.stdout, error) from error


def clean(value: object) -> str:
    """Return a value as text on one line that can't control a terminal.

    Unprintable characters are escaped, see ``errors.printable``. ``--json`` has the exact text.
    """
    return printable(value if isinstance(value, str) else str(value))


def cell(value: object) -> str:
    """Return a value as a table cell: "-" for none, cut to bound a column's memory."""
    return "-" if value is None or value == "" else clean(cut(value, _CELL_CHARS_MAX))


def cut(value: object, chars_max: int = 300) -> str:
    """Return a value as text of at most ``chars_max`` characters."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def moment(time_ns: object) -> str:
    """Format nanoseconds since the epoch as UTC, to the second, in one word."""
    from journaltrack.journal.view import iso_seconds  # noqa: PLC0415 - imports SQLAlchemy

    return iso_seconds(time_ns) or "-"


def instant(time_ns: object) -> str:
    """Format nanoseconds since the epoch as UTC, to the microsecond."""
    from journaltrack.journal.view import iso  # noqa: PLC0415 - imports SQLAlchemy

    return iso(time_ns) or "-"


def size(count_bytes: float) -> str:
    """Format bytes in decimal units."""
    amount = min(max(float(count_bytes), 0.0), 1e30)
    for unit in _UNITS[:-1]:
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} {_UNITS[-1]}"


def number(value: object) -> object:
    """Return a number with all its digits, a whole one without ``.0``; else the value itself."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE_MAX:
        return str(int(value))
    return repr(value) if isinstance(value, float) else value


def with_moment(key: str, value: object) -> tuple[str, object]:
    """Return a recorded member as people read it: nanoseconds become a time.

    The unit is then no part of the key.
    """
    return (key.removesuffix("_ns"), instant(value)) if key.endswith("_ns") else (key, value)


def digest(sha256: object) -> str:
    """Return a digest: short on a terminal, whole elsewhere."""
    text = str(sha256)
    return text[:DIGEST_CHARS] if on_terminal() else text


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: 1 entry, 2 entries."""
    if count == 1:
        return f"1 {one}"
    return f"{count} {many or (one[:-1] + 'ies' if one.endswith('y') else one + 's')}"


def hearsay_text(told: Hearsay) -> str:
    """Describe what one bundle, file or journal alone claims, as a sentence."""
    counts = ((told.entries, "entry"), (told.contents, "content"))
    what = " and ".join(plural(count, name) for count, name in counts if count)
    name = {"bundle": "the bundle", "receipts": "the receipts"}.get(told.kind, "the journal")
    when = f" (taken over {moment(told.at_ns)} by {told.by})" if told.at_ns else ""
    verb = "say" if told.kind == "receipts" else "says"
    return clean(
        f"hearsay: {what} count as delivered because {name} {told.id[:16]} {verb} so{when}"
    )


def say(text: str = "", *, err: bool = False, style: str | None = None) -> None:
    """Write our own lines; text that they quote must have passed ``clean``."""
    if on_terminal(err=err):
        width = line_width(err=err)
        text = painted(
            "\n".join(line for each in text.split("\n") for line in _folded(each, width)),
            style,
            err=err,
        )
    write(text, err=err)


def write(text: str, *, err: bool = False) -> None:
    """Write lines as they are, without folding."""
    held = _held.get()
    if held is not None:
        held.append(partial(write, text, err=err))
        return
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
    """Print one JSON document in ASCII, which every terminal and locale can show."""
    held = _held.get()
    if held is not None:
        held.append(partial(print_json, value))
    elif _collected:
        _collected[-1][1].append(value)
    else:
        write(json.dumps(value, indent=2, allow_nan=False))


def print_json_line(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Print one JSON document on one line."""
    if _collected:
        value = {"journal": _collected[-1][0], **value}
    write(json.dumps(value, allow_nan=False))


def problem(word: str, message: object, hint: str = "") -> None:
    """Print ``error: ...`` and ``hint: ...`` on stderr."""
    say(f"{word}: {clean(message)}", err=True, style="red" if word == "error" else None)
    if hint:
        say(f"hint: {clean(hint)}", err=True)


def line_width(*, err: bool = False, otherwise: int = PLAIN_WIDTH) -> int:
    """Return the width of the terminal; elsewhere that of COLUMNS, or ``otherwise``."""
    if on_terminal(err=err):
        return max(_WIDTH_MIN, shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)
    told = os.environ.get("COLUMNS", "")
    return max(_WIDTH_MIN, int(told)) if told.isdecimal() and int(told) else otherwise


def on_terminal(*, err: bool = False) -> bool:
    """Return whether the stream is a terminal."""
    return (sys.stderr if err else sys.stdout).isatty()


def terminal(*, err: bool = False) -> Console:
    """Return a console for what moves; it honours NO_COLOR.

    Print only text that passed ``clean``.
    """
    from rich.console import Console  # noqa: PLC0415 - 60 ms, and only for a terminal

    return Console(stderr=err, markup=False, emoji=False, highlight=False)


def painted(text: str, style: str | None, *, err: bool = False) -> str:
    """Colour a text, on a terminal that wants colours."""
    if (
        style is None
        or not on_terminal(err=err)
        or os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
    ):
        return text
    return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)


def columns_of(text: str) -> int:
    """Return how many terminal columns a text takes, without its colours."""
    if text.isascii():
        return len(_COLOUR.sub("", text)) if "\x1b" in text else len(text)
    return sum(
        2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in _COLOUR.sub("", text)
    )


def cut_line(text: str, width: int) -> str:
    """Cut a line with colours to a width in columns; colours take none."""
    if columns_of(text) <= width:
        return text
    if text.isascii() and "\x1b" not in text:
        return text[: max(0, width - 1)] + "…"
    kept, place, room = [], 0, width - 1
    while place < len(text):
        colour = _COLOUR.match(text, place)
        if colour:
            kept.append(colour[0])
            place = colour.end()
            continue
        room -= columns_of(text[place])
        if room >= 0:
            kept.append(text[place])
        place += 1
    return "".join(kept) + "…"


def end_of(text: str, width: int) -> str:
    """Cut a long path, without colours, to its end, which tells it from others."""
    return text if columns_of(text) <= width else "…" + cut_line(text[::-1], width)[-2::-1]


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` columns.

    Break between words; in a word that fits no line, break after a slash or colon.
    """
    return filled(text.split(), " ", width)


def filled(items: Sequence[str], between: str, width: int) -> list[str]:
    """Fill lines with whole items; break an item only if it fits no line."""
    lines, line = [], ""
    for item in items:
        if line and columns_of(f"{line}{between}{item}") <= width:
            line += between + item
            continue
        if line:
            lines.append((line + between).rstrip())
        *before, line = (
            [item]
            if columns_of(item) <= width
            else wrapped(item, width)
            if " " in item
            else _parts(item, width)
        )
        lines += before
    return [*lines, line]


def _parts(word: str, width: int) -> list[str]:
    steps = [
        part
        for step in _STEPS.findall(word)
        for part in ([step] if columns_of(step) <= width else _SMALL_STEPS.findall(step))
    ]
    parts, part = [], ""
    for step in steps:
        if part and columns_of(part + step) > width:
            parts.append(part)
            part = ""
        part += step
    return [*parts, part]


def least_width(text: str) -> int:
    """Return how many columns the widest part of a text takes that is broken only in need."""
    return max(columns_of(part) for part in _STEPS.findall(text) or [text])


def _folded(line: str, width: int) -> list[str]:
    """Fold a line so that it fits; continuation lines are indented a little more."""
    if columns_of(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip(" "))]
    first, *more = wrapped(line, width - len(indent) - len(SEPARATOR))
    return [indent + first, *(f"{indent}{SEPARATOR}{each}" for each in more)]


def error_json(error: BaseException, code: int) -> Mapping[str, object]:
    """Return an error as every command's ``--json`` reports it."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    message = getattr(error, "message", None) or without_secrets(text)
    return {
        "error": {
            "type": type(error).__name__,
            "message": message,
            "hint": getattr(error, "hint", ""),
        },
        "exit_code": int(code),
    }
