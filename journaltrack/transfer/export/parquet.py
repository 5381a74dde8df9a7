"""Pages of an export as Parquet: the door to pyarrow, which is imported when a file is begun.

Flat columns of plain types, as Athena, Spark, DuckDB and pandas all read them: text is UTF-8, times are microseconds in UTC.
Must not know where rows come from or where bytes go.

A page is turned into arrows by the caller's thread and written by another one, since writing holds no interpreter lock.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Final

from journaltrack.errors import InvalidInputError
from journaltrack.transfer.export.tables import Page, Same, Table

GROUP_ROWS: Final = 131_072
"""Ours: rows in a row group. Smaller ones make files slow to read, larger ones take more memory to write (about 20 MB)."""
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
    """A stream that nothing reaches any more once it is abandoned: pyarrow ends a file whenever it lets go of it, also a half one."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: IO[bytes] | None = stream

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        if self._stream is not None:
            self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """It is up to whoever opened the stream."""

    def close(self) -> None:
        """As ``flush``."""

    def abandon(self) -> None:
        self._stream = None


class Parquet:
    """Writes row groups of ``GROUP_ROWS``."""

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
        # Numbers and times hardly repeat: a dictionary of them is thrown away again when it is full.
        texts = [column.name for column in table.columns if column.type == "text"]
        self._sink = _Sink(stream)
        self._file = pa.parquet.ParquetWriter(self._sink, self._schema, compression="snappy", use_dictionary=texts)
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journaltrack-parquet")
        self._writing: Future[None] | None = None

    def write(self, page: Page) -> None:
        """The rows of a page."""
        if not page.rows:
            return
        batch = self._batch(page)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= _GROUP_BYTES_MAX:
            self._write_group()

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        self._write_group()
        self._wait()
        self._thread.shutdown()
        self._file.close()

    def abandon(self) -> None:
        """Stop writing; what was written is no Parquet file."""
        self._sink.abandon()
        self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception):  # what went wrong is known already
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
        """As ``report.iso`` has them: rounded down, also before 1970, where a division rounds up."""
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
