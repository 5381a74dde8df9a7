"""Read tables of other tools, CSV, JSON, JSON Lines or Parquet, and turn their rows into points.

A row is a mapping of cells by column. One column is the step, one the time; the others are metrics.
A cell that is empty is no point: columns are sparse. Memory does not grow with a file, but for
``.json``, which has no lines.

The one door to pyarrow for what is read (the extra ``parquet``).
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournaltrackError, MissingExtraError
from journaltrack.importers.source import (
    READ_EVERY_BYTES,
    Item,
    LeftOut,
    Point,
    Read,
    digest,
    number_of,
    step_of,
)
from journaltrack.util import patterns
from journaltrack.util.text import epoch_s

Row: TypeAlias = "Mapping[str, Any]"

SUFFIXES: Final = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
STEPS: Final = ("step", "global_step", "_step", "trainer/global_step", "iteration", "epoch")
"""Columns that are taken for the step, the first one first. Case does not matter."""
TIMES: Final = ("timestamp", "_timestamp", "wall_time", "datetime", "created_at", "time", "date")
"""Columns that are taken for the time, if their first value is one."""
JSON_BYTES_MAX: Final = 256 * 1024 * 1024
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Ours: the largest file or line that is read into memory."""
WRITTEN_NS: Final = 60 * 10**9
"""Ours: a file that was changed less than a minute ago may still be written."""
_PARQUET_ROWS: Final = 10_000
_DECIMAL_COMMA: Final = re.compile(r"[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?")
_TRUTH: Final = {"true": 1.0, "false": 0.0}
# From here on a number is no longer seconds, but milli-, micro- and nanoseconds: 1973 to 5138.
_MILLISECONDS: Final = 1e11


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table have a meaning of their own.

    Attributes:
        step: The step's column; None: the rows are numbered.
        time: The time's column; None: the source has no times.
        skipped: Columns that are no metrics.
    """

    step: str | None
    time: str | None
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Table:
    """A file with rows. Each call of ``rows`` reads it anew.

    Attributes:
        path: The file.
        delimiter: Of a CSV; None: the one that the header has.
    """

    path: Path
    delimiter: str | None = None

    def rows(self) -> Iterator[Row | LeftOut | Read]:
        """Yield the rows, what can't be read, and how much was read.

        Raises:
            OSError: The file can't be read.
            MissingExtraError: It is Parquet, and pyarrow is not installed.
        """
        kind = self.path.suffix.lower()
        try:
            if kind == ".parquet":
                yield from _parquet(self.path)
            elif kind in {".jsonl", ".ndjson"}:
                yield from _json_lines(self.path)
            elif kind == ".json":
                yield from _json(self.path)
            else:
                yield from self._csv()
        except (JournaltrackError, OSError):
            raise
        # pyarrow raises anything for a damaged or crafted file.
        except Exception as error:  # noqa: BLE001
            why = f"it can't be read on from here: {error}"
            yield LeftOut("file", why, str(self.path), is_harm=True)

    def first_or(self, left_out: Callable[[LeftOut], object]) -> Row | None:
        """Return the first row with a value. If there is none, say so, and why.

        Args:
            left_out: Told of it.
        """
        harm: LeftOut | None = None
        try:
            for row in self.rows():
                if isinstance(row, LeftOut):
                    harm = row if row.is_harm else harm
                elif not isinstance(row, Read) and any(map(_has_value, row.values())):
                    return row
        except OSError as error:
            harm = LeftOut("file", f"it can't be read: {error.strerror}", is_harm=True)
        why = f"it has no rows that can be read{'' if harm is None else f': {harm.why}'}"
        left_out(LeftOut("run", why, str(self.path), is_harm=harm is not None))
        return None

    def columns(self, first: Row, step: str | None = None, time: str | None = None) -> Columns:
        """Return which columns are the step and the time.

        Args:
            first: The first row.
            step: The step's column, if somebody said so.
            time: The time's.

        Raises:
            InvalidInputError: There is no such column.
        """
        names = {name.lower(): name for name in reversed(list(first))}
        for given in (step, time):
            if given is not None and given not in first:
                raise InvalidInputError(
                    f"{self.path} has no column {limits.shown(given)}; nothing was imported",
                    hint=patterns.hint(given, list(first)),
                )
        found_time = time or next(
            (names[n] for n in TIMES if n in names and is_moment(first[names[n]])), None
        )
        found_step = step or next(
            (names[n] for n in STEPS if n in names and names[n] != found_time), None
        )
        return Columns(found_step, found_time)

    def _csv(self) -> Iterator[Row | LeftOut | Read]:
        with self.path.open("rb") as stream:
            lines = _Lines(self.path, stream)
            header = next(lines, "")
            delimiter = self.delimiter or max(",;\t", key=header.count)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            names = next(csv.reader([header], delimiter=delimiter), [])
            for name in {name for name in names if names.count(name) > 1 or not name}:
                why = "it has no name" if not name else "another column has its name"
                yield LeftOut("column", why, name)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    where = f"{self.path}:{lines.number}"
                    yield LeftOut("row", f"it is no CSV: {error}", where, is_harm=True)
                    continue
                if len(cells) > len(names):
                    where = f"{self.path}:{lines.number}"
                    yield LeftOut("row", "it has more cells than the header", where, is_harm=True)
                elif cells:
                    # The first of several columns of one name.
                    yield {
                        name: cell
                        for name, cell in reversed([*zip(names, cells, strict=False)])
                        if name
                    }
                if lines.read >= READ_EVERY_BYTES:
                    yield Read(lines.taken())
            if lines.cut is not None:
                yield lines.cut
            yield Read(lines.taken())


class _Lines(Iterator[str]):
    """Give the lines of a file in UTF-8, but for a last one that may still be written."""

    def __init__(self, path: Path, stream: Any) -> None:  # noqa: ANN401 - binary
        self._path = path
        self._stream = stream
        self.number = 0
        self.read = 0
        self.cut: LeftOut | None = None

    def __next__(self) -> str:
        line: bytes = self._stream.readline(LINE_BYTES_MAX)
        self.number += 1
        self.read += len(line)
        if not line:
            raise StopIteration
        if not line.endswith(b"\n"):
            if len(line) == LINE_BYTES_MAX:
                msg = f"line {self.number} has more than {LINE_BYTES_MAX} bytes"
                raise ValueError(msg)
            if time.time_ns() - self._path.stat().st_mtime_ns < WRITTEN_NS:
                why = "the line has no end: it may still be written; import again in a minute"
                self.cut = LeftOut("row", why, f"{self._path}:{self.number}", is_harm=True)
                raise StopIteration
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")

    def taken(self) -> int:
        """Return how much was read since the last call."""
        read, self.read = self.read, 0
        return read


def _json_lines(path: Path) -> Iterator[Row | LeftOut | Read]:
    with path.open("rb") as stream:
        lines = _Lines(path, stream)
        for line in lines:
            if line.strip():
                where = f"{path}:{lines.number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield LeftOut("row", f"it is no JSON: {error}", where, is_harm=True)
                    continue
                if isinstance(row, dict):
                    yield row
                else:
                    yield LeftOut("row", "it is no JSON object", where, is_harm=True)
            if lines.read >= READ_EVERY_BYTES:
                yield Read(lines.taken())
        if lines.cut is not None:
            yield lines.cut
        yield Read(lines.taken())


def _json(path: Path) -> Iterator[Row | LeftOut | Read]:
    """Yield the rows of a list of objects, or of pandas' columns (lists, or objects by index)."""
    size = path.stat().st_size
    if size > JSON_BYTES_MAX:
        msg = f"it has more than {JSON_BYTES_MAX} bytes; write JSON Lines (.jsonl)"
        raise ValueError(msg)
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(found, dict) and isinstance(found.get("history"), list):
        found = found["history"]
    if isinstance(found, dict):
        columns = {
            name: dict(enumerate(cells)) if isinstance(cells, list) else cells
            for name, cells in found.items()
        }
        if not all(isinstance(cells, dict) for cells in columns.values()):
            msg = "it is neither a list of rows nor an object of columns"
            raise ValueError(msg)
        places = dict.fromkeys(place for cells in columns.values() for place in cells)
        found = [{name: cells.get(p) for name, cells in columns.items()} for p in places]
    if not isinstance(found, list):
        msg = "it is neither a list of rows nor an object of columns"
        raise ValueError(msg)  # noqa: TRY004 - bad data, not a caller's type error
    for number, row in enumerate(found):
        if isinstance(row, dict):
            yield row
        else:
            yield LeftOut("row", "it is no JSON object", f"{path}: row {number}", is_harm=True)
    yield Read(size)


def _parquet(path: Path) -> Iterator[Row | LeftOut | Read]:
    for batch in parquet(path):
        yield from batch


def parquet(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a Parquet file, ten thousand at a time.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: The file can't be read.
        ValueError: It is damaged, or no Parquet.
    """
    try:
        from pyarrow import parquet as library  # noqa: PLC0415 - 40 MB
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed; nothing was imported",
            hint="pip install 'journaltrack[parquet]'",
        ) from error
    with library.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            yield batch.to_pylist()


def points(rows: Iterable[Row | LeftOut | Read], columns: Columns) -> Iterator[Item]:
    """Turn rows into points: one per cell with a number. The epoch is one when it changes."""
    skipped = columns.skipped | {each for each in (columns.step, columns.time) if each is not None}
    epoch: object = None
    place = _Place(columns)
    for row in rows:
        if isinstance(row, LeftOut | Read):
            yield row
            continue
        wrong = place.move(row)
        if wrong is not None:
            yield wrong
            continue
        for name, cell in row.items():
            if name in skipped or not _has_value(cell):
                continue
            value = number_of(cell)
            if value is None:
                value = _TRUTH.get(str(cell).strip().lower())
            if value is None:
                is_local = isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell.strip())
                why = "it has a decimal comma; write numbers with a point" if is_local else ""
                yield LeftOut("cell", why or "it is no number", str(name))
            elif value != epoch or name.lower() != "epoch":
                epoch = value if name.lower() == "epoch" else epoch
                yield Point(name, value, place.step, place.time_ns)


class _Place:
    """The step and time of the row that was read last."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._number = -1
        self.step: int | None = None
        self.time_ns: int | None = None

    def move(self, row: Row) -> LeftOut | None:
        """Go to a row; return why it is left out, if its step or time is none.

        A row without a time has the time of the one before.
        """
        self._number += 1
        columns = self._columns
        cell = None if columns.time is None else row.get(columns.time)
        if _has_value(cell):
            time_ns = moment_ns(cell)
            if time_ns is None:
                why = f"its time can't be read: {limits.shown(str(cell))}"
                return LeftOut("row", why, columns.time or "", is_harm=True)
            self.time_ns = time_ns
        elif columns.time is not None and self.time_ns is None:
            return LeftOut("row", "it has no time", columns.time, is_harm=True)
        self.step = self._number
        if columns.step is not None:
            cell = row.get(columns.step)
            step = step_of(cell) if _has_value(cell) else None
            if isinstance(step, LeftOut):
                return step._replace(what="row")
            self.step = step
        return None


def first_mark(first: Row) -> str:
    """Return what identifies a table by its first row: it stays when columns are added."""
    return digest(*sorted(f"{name}={cell}" for name, cell in first.items() if _has_value(cell)))


def is_moment(cell: object) -> bool:
    """Return whether a cell is a point in time, and not a span or a step."""
    time_ns = moment_ns(cell)
    return time_ns is not None and time_ns >= limits.STEP_LIKE_S_MAX * 10**9


def moment_ns(cell: object) -> int | None:
    """Return a point in time as nanoseconds since the epoch; None if it is none.

    Numbers are seconds, or milli-, micro- or nanoseconds if they are too large for that. Texts are
    ISO 8601, without an offset in local time.
    """
    if isinstance(cell, dt.datetime):
        since = cell.astimezone(dt.timezone.utc) - dt.datetime.fromtimestamp(0, dt.timezone.utc)
        return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    number = None if isinstance(cell, bool) else number_of(cell)
    if number is None:
        number = epoch_s(cell) if isinstance(cell, str) else None
    # False for NaN, too.
    if number is None or not 0 <= number <= limits.JOURNAL_NS_MAX:
        return None
    unit_ns, bound = 10**9, _MILLISECONDS
    while number >= bound and unit_ns > 1:
        unit_ns, bound = unit_ns // 1000, bound * 1000
    if isinstance(number, int):
        return number * unit_ns
    # A double has no more digits of this century's seconds.
    return round(number * 1e6) * 1000 if unit_ns == 10**9 else round(number * unit_ns)


def _has_value(cell: object) -> bool:
    return cell is not None and cell != ""
