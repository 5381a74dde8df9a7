"""Pages of an export as JSON Lines and as CSV. Must not know where rows come from or where bytes go.

Both are text in UTF-8. Times are ISO 8601 in UTC with microseconds; the columns ``*_ns`` beside them are exact.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final

from journaltrack.journal.view import iso
from journaltrack.transfer.export.tables import Page, Table

_ROWS_AT_A_TIME: Final = 500
_QUOTED: Final = re.compile(r"[,\"\r\n]")


class JsonLines:
    """One JSON object a line, in ASCII. Null for nothing; NaN and infinity, which JSON does not have, are null too."""

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._stream = stream
        self._table = table
        self._names = [column.name for column in table.columns]
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

    def write(self, page: Page) -> None:
        """The rows of a page."""
        encode, names = self._encode, self._names
        rows = _rows(self._table, page, {"time": _times, "double": _finite})
        while lines := [encode(dict(zip(names, row, strict=True))) for row in islice(rows, _ROWS_AT_A_TIME)]:
            lines.append("")
            self._stream.write("\n".join(lines).encode())

    def close(self) -> None:
        """Nothing is left to write."""

    def abandon(self) -> None:
        """Nothing is held."""


class Csv:
    """RFC 4180: a header, lines that end in CR LF, quotes where they are needed; an empty field for null.

    No cell is altered, not even one that a spreadsheet would take for a formula.
    """

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._stream = stream
        self._table = table
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow([column.name for column in table.columns])
        self._flush()

    def write(self, page: Page) -> None:
        """The rows of a page."""
        rows = _rows(self._table, page, {"time": _times, "flag": _flags})
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            try:
                self._writer.writerows(some)
            except csv.Error:  # Python 3.10 takes a NUL for the escape character, of which there is none
                self._text.seek(0)
                self._text.truncate()
                self._text.writelines(map(_line, some))
            self._flush()

    def close(self) -> None:
        """Nothing is left to write."""

    def abandon(self) -> None:
        """Nothing is held."""

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()


def _line(row: tuple[Any, ...]) -> str:
    """As the csv module writes it."""
    cells = ("" if cell is None else repr(cell) if isinstance(cell, float) else str(cell) for cell in row)
    return ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(cell) else cell for cell in cells) + "\r\n"


def _rows(table: Table, page: Page, forms: dict[str, Callable[[Iterable[Any]], Iterable[Any]]]) -> Iterator[tuple[Any, ...]]:
    """The rows of a page, with the columns of some types in another form."""
    if not page.rows:
        return iter(())
    columns = [(column.type, page.columns[column.source]) for column in table.columns]
    return zip(*(forms[kind](cells) if kind in forms else cells for kind, cells in columns), strict=True)


def _finite(cells: Iterable[float | None]) -> Iterator[float | None]:
    return (cell if cell is not None and math.isfinite(cell) else None for cell in cells)


def _flags(cells: Iterable[bool | None]) -> Iterator[str | None]:
    return (None if cell is None else "true" if cell else "false" for cell in cells)


def _times(cells: Iterable[int | None]) -> Iterator[str | None]:
    """As ``report.iso``, which is asked once a second and not once a row."""
    second, prefix = None, ""
    for cell in cells:
        if cell is None:
            yield None
            continue
        whole, rest_ns = divmod(cell, 1_000_000_000)
        if whole != second:
            second, prefix = whole, str(iso(whole * 1_000_000_000))[:19]
        yield f"{prefix}.{rest_ns // 1000:06d}Z"
