"""Define an export's tables, and write them as JSON Lines, CSV or Parquet.

Columns are flat and of one type each: text, integers, doubles, times, flags. So Athena, Spark,
DuckDB and pandas all read them. Column names never change within a major version.

JSON Lines and CSV are text in UTF-8. Their times are ISO 8601 in UTC with microseconds; the
columns ``*_ns`` beside them are exact. Parquet has text in UTF-8 and times as microseconds in UTC.

This module is the only door to pyarrow, which is imported when a file is begun. The caller's
thread turns a page into arrow arrays and another thread writes them, since writing holds no
interpreter lock. Must not know where rows come from or where bytes go.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from types import MappingProxyType
from typing import IO, Any, Final, Literal, TypeAlias

from journaltrack.errors import InvalidInputError
from journaltrack.journal import vocabulary
from journaltrack.journal.view import iso

_ROWS_AT_A_TIME: Final = 500
_QUOTED: Final = re.compile(r"[,\"\r\n]")


class JsonLines:
    """Write one JSON object per line, in ASCII.

    Null stands for nothing, and for NaN and infinity, which JSON does not have.
    """

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._stream = stream
        self._table = table
        self._names = [column.name for column in table.columns]
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

    def write(self, page: Page) -> None:
        """Write the rows of a page."""
        encode, names = self._encode, self._names
        rows = _rows(self._table, page, {"time": _times, "double": _finite})
        while lines := [
            encode(dict(zip(names, row, strict=True))) for row in islice(rows, _ROWS_AT_A_TIME)
        ]:
            lines.append("")
            self._stream.write("\n".join(lines).encode())

    def close(self) -> None:
        """Do nothing: nothing is left to write."""

    def abandon(self) -> None:
        """Do nothing: nothing is held."""


class Csv:
    """Write CSV after RFC 4180.

    The file has a header. Lines end in CR LF, cells are quoted where they need it, and an empty
    field is null. No cell is altered, not even one that a spreadsheet would take for a formula.
    """

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._stream = stream
        self._table = table
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow([column.name for column in table.columns])
        self._flush()

    def write(self, page: Page) -> None:
        """Write the rows of a page."""
        rows = _rows(self._table, page, {"time": _times, "flag": _flags})
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            try:
                self._writer.writerows(some)
            # Python 3.10 takes a NUL for the escape character, but there is none.
            except csv.Error:
                self._text.seek(0)
                self._text.truncate()
                self._text.writelines(map(_line, some))
            self._flush()

    def close(self) -> None:
        """Do nothing: nothing is left to write."""

    def abandon(self) -> None:
        """Do nothing: nothing is held."""

    def _flush(self) -> None:
        self._stream.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()


def _line(row: tuple[Any, ...]) -> str:
    """Format a line as the csv module does."""
    cells = (
        "" if cell is None else repr(cell) if isinstance(cell, float) else str(cell) for cell in row
    )
    return (
        ",".join(
            f'"{cell.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(cell) else cell
            for cell in cells
        )
        + "\r\n"
    )


def _rows(
    table: Table, page: Page, forms: dict[str, Callable[[Iterable[Any]], Iterable[Any]]]
) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a page, with columns of some types in another form."""
    if not page.rows:
        return iter(())
    columns = [(column.type, page.columns[column.source]) for column in table.columns]
    return zip(
        *(forms[kind](cells) if kind in forms else cells for kind, cells in columns), strict=True
    )


def _finite(cells: Iterable[float | None]) -> Iterator[float | None]:
    return (cell if cell is not None and math.isfinite(cell) else None for cell in cells)


def _flags(cells: Iterable[bool | None]) -> Iterator[str | None]:
    return (None if cell is None else "true" if cell else "false" for cell in cells)


def _times(cells: Iterable[int | None]) -> Iterator[str | None]:
    """Format times as ``report.iso`` does, asking it once a second.

    Asking it for every row would be slow.
    """
    second, prefix = None, ""
    for cell in cells:
        if cell is None:
            yield None
            continue
        whole, rest_ns = divmod(cell, 1_000_000_000)
        if whole != second:
            second, prefix = whole, str(iso(whole * 1_000_000_000))[:19]
        yield f"{prefix}.{rest_ns // 1000:06d}Z"


GROUP_ROWS: Final = 131_072
"""Our limit: rows in a row group. Smaller ones make files slow to read; larger ones take memory.

Writing one takes about 20 MB.
"""
_GROUP_BYTES_MAX: Final = 64 * 1024 * 1024
_NS_PER_US: Final = 1000


def load() -> Any:  # noqa: ANN401 - it has no types
    """Import pyarrow.

    Raises:
        InvalidInputError: It is not installed, or too old.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and 0.1 s
        import pyarrow.compute  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(
            f"Parquet needs pyarrow, which can't be imported: {error}",
            hint="pip install 'journaltrack[parquet]', or export to jsonl or csv",
        ) from error
    return pa


class _Sink:
    """Pass bytes to a stream until it is abandoned.

    pyarrow ends a file whenever it drops it, even a partial one; after that nothing may be
    written.
    """

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: IO[bytes] | None = stream

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Write to the stream, unless it was abandoned."""
        if self._stream is not None:
            self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the stream's owner flushes it."""

    def close(self) -> None:
        """Do nothing: the stream's owner closes it."""

    def abandon(self) -> None:
        """Write nothing more to the stream."""
        self._stream = None


def notes_in(end: bytes) -> Mapping[bytes, bytes]:
    """Return the notes of a Parquet file.

    Args:
        end: The file's last bytes.

    Raises:
        ValueError: They are not the end of a Parquet file, or do not reach back far enough.
    """
    pa = load()
    try:
        metadata = pa.parquet.read_metadata(pa.BufferReader(end)).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(str(error)) from error
    return metadata or {}


class Parquet:
    """Write Parquet in row groups of ``GROUP_ROWS``."""

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._arrow = pa = load()
        self._table = table
        types = {
            "text": pa.string(),
            "integer": pa.int64(),
            "double": pa.float64(),
            "time": pa.timestamp("us", tz="UTC"),
            "flag": pa.bool_(),
        }
        self._schema = pa.schema([(column.name, types[column.type]) for column in table.columns])
        # Numbers and times hardly repeat: a dictionary of them is dropped again once it is full.
        texts = [column.name for column in table.columns if column.type == "text"]
        self._sink = _Sink(stream)
        self._file = pa.parquet.ParquetWriter(
            self._sink, self._schema, compression="snappy", use_dictionary=texts
        )
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journaltrack-parquet")
        self._writing: Future[None] | None = None

    def write(self, page: Page) -> None:
        """Write the rows of a page."""
        if not page.rows:
            return
        batch = self._batch(page)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= _GROUP_BYTES_MAX:
            self._write_group()

    def close(self, notes: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write the rows that wait, and the end of the file with these notes."""
        self._write_group()
        self._wait()
        self._thread.shutdown()
        if notes:
            self._file.add_key_value_metadata(dict(notes))
        self._file.close()

    def abandon(self) -> None:
        """Stop writing; what was written is no Parquet file."""
        self._sink.abandon()
        self._thread.shutdown(cancel_futures=True)
        # What went wrong is known already.
        with contextlib.suppress(Exception):
            self._file.close()

    def _batch(self, page: Page) -> Any:  # noqa: ANN401 - pyarrow has no types
        pa = self._arrow
        made: dict[str, Any] = {}
        arrays = []
        for column, field in zip(self._table.columns, self._schema, strict=True):
            if column.source not in made:
                kind = pa.int64() if column.type == "time" else field.type
                made[column.source] = self._array(page.columns[column.source], kind)
            cells = made[column.source]
            arrays.append(self._microseconds(cells) if column.type == "time" else cells)
        return pa.record_batch(arrays, schema=self._schema)

    def _array(self, cells: Sequence[Any], kind: Any) -> Any:  # noqa: ANN401
        pa = self._arrow
        if isinstance(cells, Same):
            return pa.repeat(pa.scalar(cells.value, kind), len(cells))
        if isinstance(cells, array):  # as it is: no object per number
            return pa.Array.from_buffers(kind, len(cells), [None, pa.py_buffer(cells)])
        return pa.array(cells, kind)

    def _microseconds(self, nanoseconds: Any) -> Any:  # noqa: ANN401
        """Round down as ``report.iso`` does.

        Before 1970 a division would round up.
        """
        pc, pa = self._arrow.compute, self._arrow
        quotient = pc.divide(nanoseconds, _NS_PER_US)
        below = pc.less(pc.subtract(nanoseconds, pc.multiply(quotient, _NS_PER_US)), 0)
        return pc.subtract(quotient, below.cast(pa.int64())).cast(pa.timestamp("us", tz="UTC"))

    def _write_group(self) -> None:
        self._wait()
        if not self._waiting:
            return
        table = self._arrow.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._rows, self._bytes = [], 0, 0
        self._writing = self._thread.submit(self._file.write_table, table, GROUP_ROWS)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None


Type: TypeAlias = Literal["text", "integer", "double", "time", "flag"]
TableName: TypeAlias = Literal["metrics", "entries"]
"""A table of an export to a file."""
DatasetTable: TypeAlias = Literal["metrics", "entries", "deliveries"]
"""A table of a dataset."""


@dataclass(frozen=True, slots=True)
class Column:
    """Describe one column.

    ``source`` is the column of a ``Page`` that it shows, if it differs: times show nanoseconds.
    """

    name: str
    type: Type
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """Describe a table: its columns in order, and which entries it has.

    It is read from ``entry`` (as ``e``) and ``delivery`` (as ``d``).
    """

    name: DatasetTable
    columns: tuple[Column, ...]
    read: tuple[str, ...]
    condition: str = ""


class Same(Sequence[Any]):
    """Hold a column that has the same value in every row; most have, and need no list."""

    __slots__ = ("_rows", "value")

    def __init__(self, value: Any, rows: int) -> None:  # noqa: ANN401 - any cell
        self.value = value
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return (
            [self.value] * len(range(self._rows)[index]) if isinstance(index, slice) else self.value
        )

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self._rows)


@dataclass(frozen=True, slots=True)
class Page:
    """Hold some rows, column by column.

    ``last_seq`` is how far the page goes. ``unsound`` counts the rows with a cell left out.
    """

    rows: int
    columns: dict[str, Sequence[Any]]
    last_seq: int
    unsound: int = 0


def _columns(types: str) -> tuple[Column, ...]:
    found = []
    for each in types.split():
        name, _, kind = each.partition(":")
        found.append(Column(name, kind or "text", f"{name}_ns" if kind == "time" else name))  # type: ignore[arg-type]
    return tuple(found)


METRICS: Final = Table(
    "metrics",
    _columns(
        "journal_id seq:integer component name step:integer value:double exact timestamp:time "
        "timestamp_ns:integer recorded_at:time recorded_at_ns:integer state unsound"
    ),
    (
        "e.seq",
        "e.component_id",
        "e.name",
        "e.value",
        "e.step",
        "e.timestamp_ns",
        "e.payload",
        "e.recorded_at_ns",
        "d.outcome",
    ),
    f"AND e.kind IN {vocabulary.POINTS} ",
)
ENTRIES: Final = Table(
    "entries",
    _columns(
        "journal_id seq:integer component stream kind name value:double text step:integer "
        "timestamp:time timestamp_ns:integer payload recorded_at:time recorded_at_ns:integer "
        "state superseded:flag settled_at:time settled_at_ns:integer reason receipt_id:integer "
        "action request_id attempts:integer error_code writer writer_seq:integer host user "
        "pid:integer program git_commit digest unsound"
    ),
    (
        *(
            "e.seq",
            "e.component_id",
            "e.stream",
            "e.kind",
            "e.name",
            "e.value",
            "e.step",
            "e.timestamp_ns",
            "e.payload",
        ),
        *(
            "e.recorded_at_ns",
            "d.outcome",
            "d.settled_at_ns",
            "d.reason",
            "d.receipt_id",
            "e.writer_id",
            "e.writer_seq",
            "e.digest",
        ),
    ),
)
TABLES: Final[dict[str, Table]] = {table.name: table for table in (METRICS, ENTRIES)}

_PLACE: Final = ("e.writer_id", "e.writer_seq")
DATASET: Final = (
    Table(
        "metrics",
        _columns(
            "component name step:integer value:double exact timestamp:time timestamp_ns:integer "
            "recorded_at:time recorded_at_ns:integer writer writer_seq:integer unsound"
        ),
        (*(read for read in METRICS.read if read != "d.outcome"), *_PLACE),
        METRICS.condition,
    ),
    Table(
        "entries",
        _columns(
            "component stream kind name value:double text step:integer timestamp:time "
            "timestamp_ns:integer payload recorded_at:time recorded_at_ns:integer writer "
            "writer_seq:integer host user pid:integer program git_commit digest unsound"
        ),
        tuple(read for read in ENTRIES.read if not read.startswith("d.")),
        f"AND e.kind NOT IN {vocabulary.POINTS} ",
    ),
    Table(
        "deliveries",
        _columns(
            "writer writer_seq:integer state superseded:flag settled_at:time "
            "settled_at_ns:integer reason action request_id attempts:integer error_code "
            "as_of:time as_of_ns:integer unsound"
        ),
        ("e.seq", *_PLACE, "d.outcome", "d.settled_at_ns", "d.reason", "d.receipt_id"),
    ),
)
"""The tables of a dataset. They have no column that differs between copies of a journal."""
