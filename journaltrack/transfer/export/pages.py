"""Read a journal's entries as columns of an export's table, one page at a time.

A journal is data from somebody else, and SQLite keeps any type in any column. A cell of a wrong
type is left out, and the column ``unsound`` of its row says what was there.

Invariants: writes nothing. Every row up to the last one at the start comes once, in order of
``seq``. Memory is bounded by a page, whatever the rows hold. Each page is one snapshot: the state
of an entry is as of when its page was read.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.journal import view, vocabulary
from journaltrack.journal.filter import Choice
from journaltrack.journal.sqlite.connection import PAGE_BYTES_MAX
from journaltrack.journal.sqlite.errors import translated
from journaltrack.journal.sqlite.open_file import bound
from journaltrack.transfer.export.tables import Page, Same, Table

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

PAGE_ROWS: Final = 10_000
"""Our limit: rows that are read at a time."""
SHARED_CHARS_MAX: Final = 5_000
"""Our limit: characters of a text that many rows share, such as a component's name.

A crafted longer one would come again with every row.
"""
# Between two looks at how much was read.
_CHUNK_ROWS: Final = 128
_BLOB_BYTES_SHOWN: Final = 40
_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_NONE: Final = type(None)
_TYPE_OF: Final[dict[str, type]] = {
    **dict.fromkeys(("stream", "kind", "name", "payload", "outcome", "reason"), str),
    **dict.fromkeys(
        ("seq", "component_id", "step", "timestamp_ns", "recorded_at_ns", "settled_at_ns"), int
    ),
    **dict.fromkeys(("receipt_id", "writer_id", "writer_seq"), int),
    "value": float,
    "digest": bytes,
}
"""The type of each column that is read; None is allowed in all of them."""
_ALLOWED: Final[dict[type, set[type]]] = {
    str: {str, _NONE},
    int: {int, _NONE},
    float: {float, int, _NONE},
    bytes: {bytes, _NONE},
}
_SHARED: Final[dict[str, tuple[str, dict[str, tuple[str, type]]]]] = {
    "component_id": ("component", {"component": ("name", str)}),
    "receipt_id": (
        "receipt",
        {
            "action": ("action", str),
            "request_id": ("request_id", str),
            "attempts": ("attempts", int),
            "error_code": ("error_code", str),
        },
    ),
    "writer_id": (
        "writer",
        {
            "writer": ("uuid", str),
            "host": ("host", str),
            "user": ("user", str),
            "pid": ("pid", int),
            "program": ("program", str),
            "git_commit": ("git_commit", str),
        },
    ),
}
"""For each id column: the table that it refers to, and the names and types of columns to show."""


_OF_PARTS: Final = (
    "json_each(?8) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
    "AND json_extract(i.value, '$[1]')"
)

_TEXTS: Final[dict[str, tuple[str, ...]]] = {
    vocabulary.METRIC: ("exact",),
    vocabulary.PARAMETER: ("exact", "text"),
    vocabulary.INPUT: ("value",),
    vocabulary.OUTPUT: ("value",),
    vocabulary.STATUS: ("primary",),
    vocabulary.LINEAGE: ("type",),
}
"""Which member of an entry's payload is its text, by kind."""


class Notes:
    """Note what was left out of which row of a page."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, row: int, text: str) -> None:
        """Note what was left out of a row."""
        self._texts.setdefault(row, []).append(text)

    def column(self, rows: int) -> Sequence[str | None]:
        """Return the notes as the column ``unsound``."""
        if not self._texts:
            return Same(None, rows)
        return ["; ".join(self._texts[row]) if row in self._texts else None for row in range(rows)]


class _Gathered:
    """Collect a column while it is read, chunk by chunk.

    Numbers go into an ``array``, which refuses other types at 20 ns per number. The objects that
    SQLite's driver made are gone before they leave the processor's cache, and pyarrow takes the
    memory as it is. A column with anything else becomes a list.
    """

    __slots__ = ("_kind", "_unsure", "cells")

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._unsure = False
        self.cells: Any = array("q" if kind is int else "d") if kind in {int, float} else []

    def add(self, part: tuple[Any, ...]) -> int:
        """Take a chunk; return about how many bytes of it have no bound."""
        if type(self.cells) is array:
            rows = len(self.cells)
            try:
                self.cells.extend(part)
            except TypeError:
                self.cells = list(self.cells[:rows])
                self._unsure = True
            else:
                return 0
        self.cells.extend(part)
        if part.count(None) == len(part):
            return 0
        if not self._unsure and self._kind is str:
            try:
                # Joining also proves that all are text, and is the fastest way.
                return len("".join(part))
            except TypeError:
                self._unsure = True
        self._unsure = True
        return sum(map(sys.getsizeof, part))

    def column(self, name: str, notes: Notes) -> Sequence[Any]:
        """Return the column; replace and note each cell of another type."""
        cells = self.cells
        if type(cells) is array:
            return cells
        types: set[type] = set(map(type, cells)) if self._unsure else set()
        if types <= {_NONE} and cells.count(None) == len(cells):
            return Same(None, len(cells))
        if not types <= _ALLOWED[self._kind]:
            for row, cell in enumerate(cells):
                if type(cell) not in _ALLOWED[self._kind]:
                    cells[row] = None
                    notes.add(row, f"{name}: {_shown(cell)}")
        return (
            [float(cell) if type(cell) is int else cell for cell in cells]
            if self._kind is float and int in types
            else list(cells)
        )


class Reader:
    """Read a table of an open journal.

    Args:
        journal: An open journal; nothing else reads through its connection while a page is read.
        table: What to read.
        choice: Which entries.
        condition: Further SQL of ours about ``e`` and ``d``.
        as_of_ns: For tables that say when they were read, nanoseconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        table: Table,
        choice: Choice,
        condition: str = "1",
        as_of_ns: int | None = None,
    ) -> None:
        self._journal = journal
        self._table = table
        self._as_of_ns = as_of_ns
        self.last_seq = journal.last_seq()
        with view.snapshot(journal.database):
            self._parameters = choice.parameters(journal)
        # ?8 is used where a page is of several intervals.
        self._sql, self._sql_of_parts = (
            f"SELECT {', '.join(table.read)} FROM {entries} LEFT JOIN delivery d ON d.seq = e.seq "
            f"WHERE e.seq > ?6 AND e.seq <= ?7 {table.condition}AND {condition} "
            f"AND {choice.condition} ORDER BY e.seq"
            for entries in ("entry e", _OF_PARTS)
        )
        self._names = [read.partition(".")[2] for read in table.read]
        self._shown = {column.source for column in table.columns}

    def pages(self) -> Iterator[Page]:
        """Yield all rows up to the journal's end at construction; a page may have no rows."""
        after_seq = 0
        while after_seq < self.last_seq:
            page = self._page(after_seq)
            after_seq = page.last_seq
            yield page

    def pages_of(self, intervals: Iterable[tuple[int, int]]) -> Iterator[Page]:
        """Yield the rows of these entries, given as sorted (first, last) of ``seq``."""
        for parts in _in_pages(intervals):
            after_seq, end = parts[0][0] - 1, parts[-1][1]
            while after_seq < end:
                with view.snapshot(self._journal.database):
                    page = self._rows(after_seq, end, parts)
                after_seq = page.last_seq
                yield page

    def _page(self, after_seq: int) -> Page:
        database = self._journal.database
        with view.snapshot(database):
            # A window of entries, not of matches: no read is long, however few match.
            window = (
                "SELECT max(seq) FROM (SELECT seq FROM entry WHERE seq > ? AND seq <= ? "
                "ORDER BY seq LIMIT ?)"
            )
            end = database.read(window, (after_seq, self.last_seq, PAGE_ROWS))[0][0]
            if end is None:
                return Page(0, {}, self.last_seq)
            return self._rows(after_seq, end)

    def _rows(self, after_seq: int, end: int, parts: Sequence[tuple[int, int]] = ()) -> Page:
        """Return the rows of a window, or of these parts of it, in the caller's snapshot."""
        database = self._journal.database
        bounds = (*self._parameters, after_seq, end)
        read, whole = (
            self._read(self._sql_of_parts, (*bounds, json.dumps(parts)))
            if len(parts) > 1
            else self._read(self._sql, bounds)
        )
        if not read[0].cells:
            return Page(0, {}, end)
        notes = Notes()
        columns: dict[str, Sequence[Any]] = {
            name: column.column(name, notes) for name, column in zip(self._names, read, strict=True)
        }
        last_seq = end if whole else columns["seq"][-1]
        for name in _SHARED.keys() & columns.keys():
            columns.update(self._shared(name, columns[name], notes))
        if "outcome" in columns:
            columns["state"] = _states(columns["seq"], columns["outcome"], view.in_flight(database))
        return self._derived(columns, notes, last_seq)

    def _derived(self, columns: dict[str, Sequence[Any]], notes: Notes, last_seq: int) -> Page:
        """Add what follows from other columns of the same row."""
        rows = len(columns["seq"])
        if "payload" in columns:
            columns["exact"] = exact = _exact(columns["payload"])
            if not isinstance(exact, Same):
                columns["value"] = [
                    _NOT_FINITE.get(text) if value is None and text is not None else value
                    for value, text in zip(columns["value"], exact, strict=True)
                ]
        columns["journal_id"] = Same(self._journal.journal_id, rows)
        columns["as_of_ns"] = Same(self._as_of_ns, rows)
        if "digest" in columns:
            columns["digest"] = [
                None if digest is None else digest.hex() for digest in columns["digest"]
            ]
            columns["text"] = _texts(columns["kind"], columns["payload"])
        if "superseded" in self._shown:
            columns["superseded"] = [outcome == "superseded" for outcome in columns["outcome"]]
        columns["unsound"] = notes.column(rows)
        return Page(
            rows,
            {column.source: columns[column.source] for column in self._table.columns},
            last_seq,
            len(notes),
        )

    def _read(self, sql: str, parameters: Sequence[Any]) -> tuple[list[_Gathered], bool]:
        """Return columns of at most ``PAGE_BYTES_MAX``, and whether these are all."""
        connection = self._journal.database.connection
        lenient = connection.text_factory
        with translated(self._journal.database.path):
            try:
                # 0.4 µs per row faster than the other, which never fails.
                connection.text_factory = str
                return self._fetched(connection, sql, parameters)
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
            finally:
                connection.text_factory = lenient
            return self._fetched(connection, sql, parameters)

    def _fetched(
        self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]
    ) -> tuple[list[_Gathered], bool]:
        columns = [_Gathered(_TYPE_OF[name]) for name in self._names]
        left = PAGE_BYTES_MAX
        cursor = connection.execute(*bound(sql, parameters))
        try:
            while chunk := cursor.fetchmany(_CHUNK_ROWS):
                for column, part in zip(columns, zip(*chunk, strict=True), strict=True):
                    left -= column.add(part)
                if left <= 0:
                    return columns, False
        finally:
            # Even if it was not read to its end.
            cursor.close()
        return columns, True

    def _shared(
        self, key: str, ids: Sequence[int | None], notes: Notes
    ) -> dict[str, Sequence[Any]]:
        """Return the columns of the rows that the ids name, one for each id."""
        table, columns = _SHARED[key]
        shown = {name: column for name, column in columns.items() if name in self._shown}
        distinct = set(ids)
        if distinct == {None}:
            return {name: Same(None, len(ids)) for name in shown}
        cells = ", ".join(
            f"CASE WHEN length({name}) > {SHARED_CHARS_MAX} THEN x'' ELSE {name} END"
            for name, _ in shown.values()
        )
        rows = self._journal.database.read(
            f"SELECT id, {cells} FROM {table} WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([i for i in distinct if i is not None]),),
        )
        found: dict[str, Sequence[Any]] = {}
        for place, (name, (_, kind)) in enumerate(shown.items(), 1):
            known = {row[0]: row[place] for row in rows if type(row[place]) in {kind, _NONE}}
            wrong = {row[0]: row[place] for row in rows if type(row[place]) not in {kind, _NONE}}
            found[name] = (
                Same(known.get(ids[0]), len(ids))
                if len(distinct) == 1
                else list(map(known.get, ids))
            )
            if wrong:
                for row, i in enumerate(ids):
                    if i in wrong:
                        notes.add(
                            row, f"{name}: {_shown(wrong[i]) if wrong[i] != b'' else 'too long'}"
                        )
        return found


def _in_pages(intervals: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Divide intervals into groups of at most ``PAGE_ROWS`` numbers."""
    parts: list[tuple[int, int]] = []
    left = PAGE_ROWS
    for begin, last in intervals:
        first = begin
        while first <= last:
            end = min(last, first + left - 1)
            parts.append((first, end))
            left -= end - first + 1
            first = end + 1
            if not left:
                yield parts
                parts, left = [], PAGE_ROWS
    if parts:
        yield parts


def _shown(cell: object) -> str:
    """Describe a cell of a wrong type, or show its beginning."""
    if isinstance(cell, bytes):
        return repr(cell[:_BLOB_BYTES_SHOWN]) + ("…" if len(cell) > _BLOB_BYTES_SHOWN else "")
    return limits.shown(cell) if isinstance(cell, str) else repr(cell)


def _states(
    seqs: Sequence[int], outcomes: Sequence[str | None], flying: view.InFlight
) -> Sequence[str | None]:
    """Return the state of each entry, from its delivery's outcome."""
    distinct = set(outcomes)
    state = {outcome: view.state_of(outcome, flying=False) for outcome in distinct}
    if None in distinct and any(
        begin <= seqs[-1] and seqs[0] <= end for begin, end in flying.intervals
    ):
        return [
            view.state_of(None, flying=flying.names(seq)) if outcome is None else state[outcome]
            for seq, outcome in zip(seqs, outcomes, strict=True)
        ]
    return (
        Same(state[outcomes[0]], len(seqs))
        if len(distinct) == 1
        else list(map(state.__getitem__, outcomes))
    )


def _texts(kinds: Sequence[str | None], payloads: Sequence[str | None]) -> Sequence[str | None]:
    """Return what each entry says: text, URI, status, or all digits.

    All digits are for a number that a double can't hold.
    """
    if isinstance(payloads, Same):
        # No row has a payload.
        return payloads
    found: list[str | None] = []
    for kind, payload in zip(kinds, payloads, strict=True):
        members = _TEXTS.get(kind or "", ())
        detail = (
            view.detail_of(payload)
            if any(f'"{member}"' in (payload or "") for member in members)
            else {}
        )
        text = next(
            (detail[member] for member in members if isinstance(detail.get(member), str)), None
        )
        # A lone surrogate is an escape in the payload, and can't be in UTF-8.
        found.append(None if text is None else text.encode(errors="backslashreplace").decode())
    return found


def _exact(payloads: Sequence[str | None]) -> Sequence[str | None]:
    """Return what a double can't hold: "nan", "inf", or all digits of an integer.

    See ``entries.metric``.
    """
    if isinstance(payloads, Same):
        # No row has a payload.
        return payloads
    found: list[str | None] = []
    for payload in payloads:
        exact = (
            view.detail_of(payload).get("exact")
            if payload is not None and '"exact"' in payload
            else None
        )
        found.append(exact if isinstance(exact, str) else None)
    return found
