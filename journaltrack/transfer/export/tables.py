"""What an export holds: its two tables, and a page of one as columns. Pure.

Columns are flat and of one type each: text, integers, doubles, times, flags. Names are never changed within a major version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, Literal, TypeAlias

from journaltrack.journal import entries as vocabulary

Type: TypeAlias = Literal["text", "integer", "double", "time", "flag"]
TableName: TypeAlias = Literal["metrics", "entries"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``source`` is the column of a ``Page`` that it shows, where that is another one: times show nanoseconds."""

    name: str
    type: Type
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns in order, what is read from ``entry`` (as ``e``) and ``delivery`` (as ``d``), and of which entries."""

    name: TableName
    columns: tuple[Column, ...]
    read: tuple[str, ...]
    condition: str = ""


class Same(Sequence[Any]):
    """A column that has the same value in every row: most have, and need no list."""

    __slots__ = ("_rows", "value")

    def __init__(self, value: Any, rows: int) -> None:  # noqa: ANN401 - any cell
        self.value = value
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return [self.value] * len(range(self._rows)[index]) if isinstance(index, slice) else self.value

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self._rows)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, column by column. ``last_seq`` is how far it goes; ``unsound`` counts the rows in which something was left out."""

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
        "journal_id seq:integer component name step:integer value:double exact timestamp:time timestamp_ns:integer "
        "recorded_at:time recorded_at_ns:integer state unsound"
    ),
    ("e.seq", "e.component_id", "e.name", "e.value", "e.step", "e.timestamp_ns", "e.payload", "e.recorded_at_ns", "d.outcome"),
    f"AND e.kind = '{vocabulary.METRIC}' ",
)
ENTRIES: Final = Table(
    "entries",
    _columns(
        "journal_id seq:integer component stream kind name value:double text step:integer timestamp:time timestamp_ns:integer payload "
        "recorded_at:time recorded_at_ns:integer state superseded:flag settled_at:time settled_at_ns:integer reason receipt_id:integer "
        "action request_id attempts:integer error_code writer writer_seq:integer host user pid:integer program git_commit digest unsound"
    ),
    (
        *("e.seq", "e.component_id", "e.stream", "e.kind", "e.name", "e.value", "e.step", "e.timestamp_ns", "e.payload"),
        *("e.recorded_at_ns", "d.outcome", "d.settled_at_ns", "d.reason", "d.receipt_id", "e.writer_id", "e.writer_seq", "e.digest"),
    ),
)
TABLES: Final[dict[str, Table]] = {table.name: table for table in (METRICS, ENTRIES)}
