"""Read table rows from the pages of an SQLite file, without SQLite.

It is for databases that SQLite can't open or read to the end: Python's sqlite3 has no
``.recover``. Every page that claims to be a leaf of a table is read, wherever it is. Neither the
schema nor the upper pages of the trees are needed. Formats: https://sqlite.org/fileformat2.html
and walformat.html.

Invariants: everything here may be damaged or hostile. What makes no sense is skipped and noted,
nothing raises, and no more is read than a few times the file's size. Must not know what a journal
is.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

Value: TypeAlias = int | float | str | bytes | None

_MAGIC: Final = b"SQLite format 3\x00"
_PAGE_SIZES: Final = (4096, 1024, 2048, 8192, 16384, 32768, 65536, 512)
_LEAF: Final = 0x0D
# Upper pages, and leaves of indexes: no rows.
_OTHER_KINDS: Final = (0x02, 0x05, 0x0A)
_HEADER_BYTES: Final = 100
_WAL_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_ROLLBACK_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_INT_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
# Serial types: below 7 whole numbers, 7 a double, from 12 on blobs and texts.
_DOUBLE: Final = 7
_BLOB_FROM: Final = 12
_RESERVED_MAX: Final = 32
_SECTOR_BYTES: Final = range(512, 65_537)
_READ_TIMES_MAX: Final = 8
"""Overflow pages are read at most this many times the file's size: a crafted file could loop."""


class Row(NamedTuple):
    """Hold a row of some table.

    An INTEGER PRIMARY KEY is ``rowid``, and None among ``values``.
    """

    page: int
    rowid: int
    values: tuple[Value, ...]


class _Place(NamedTuple):
    """Say where a page's bytes are."""

    file: bytes | mmap.mmap
    start: int


class DamageError(Exception):
    """Report that the bytes here make no sense."""


_NONSENSE: Final = (DamageError, IndexError, struct.error, UnicodeDecodeError)


@dataclass(slots=True)
class Pages:
    """Hold the pages of a database with its log laid over them; ``opened`` makes one.

    Attributes:
        page_bytes: Size of a page.
        count: Pages in the file.
        damaged: Why something could not be read, by page number (0: no page).
        file: The database's bytes.
        usable: Bytes of a page that SQLite uses.
        overlay: Where the newest bytes of a page are, if not in ``file``, by number.
        unproved: Pages behind a wrong checksum of the log, with their numbers.
        budget: Bytes of overflow pages that may still be read.
    """

    page_bytes: int
    count: int
    damaged: dict[int, str] = field(default_factory=dict)
    file: bytes | mmap.mmap = b""
    usable: int = 0
    overlay: dict[int, _Place] = field(default_factory=dict)
    unproved: list[tuple[int, _Place]] = field(default_factory=list)
    budget: int = 0
    _strange: set[int] = field(default_factory=set)
    _continued: set[int] = field(default_factory=set)

    def page(self, number: int) -> bytes:
        """Return a page's newest bytes.

        Raises:
            DamageError: There is no such page.
        """
        place = self.overlay.get(number) or _Place(self.file, (number - 1) * self.page_bytes)
        content = place.file[place.start : place.start + self.page_bytes] if number > 0 else b""
        if len(content) < self.page_bytes:
            raise DamageError(f"there is no page {number}")
        return content

    def rows(self) -> Iterator[Row]:
        """Yield all rows of all tables; those of pages from an unproved log come last."""
        unused = self._unused()
        self._strange.clear()
        self._continued.clear()
        for number in chain(
            range(1, self.count + 1), sorted(n for n in self.overlay if n > self.count)
        ):
            if number not in unused:
                yield from self._rows_of(number, self.page(number))
        for number, place in self.unproved:
            yield from self._rows_of(
                number, place.file[place.start : place.start + self.page_bytes]
            )
        self.damaged.update(
            dict.fromkeys(
                self._strange - self._continued, "no page of a tree, and no row continues there"
            )
        )

    def _rows_of(self, number: int, page: bytes) -> Iterator[Row]:
        head = _HEADER_BYTES if number == 1 else 0
        kind = page[head]
        if kind != _LEAF:
            if kind not in _OTHER_KINDS:
                self._strange.add(number)
            return
        cells = int.from_bytes(page[head + 3 : head + 5], "big")
        array = head + 8
        if array + 2 * cells > self.usable:
            self.damaged[number] = f"{cells} cells don't fit"
            return
        for start in struct.unpack_from(f">{cells}H", page, array):
            try:
                rowid, payload = self._cell(page, start)
                values = _record(payload)
            # One bad cell must not hide the others.
            except _NONSENSE as error:  # noqa: PERF203
                self.damaged[number] = f"a cell at {start}: {error}"
            else:
                yield Row(number, rowid, values)

    def _cell(self, page: bytes, start: int) -> tuple[int, bytes]:
        size, at = _varint(page, start)
        rowid, at = _varint(page, at)
        if rowid >= 1 << 63:
            rowid -= 1 << 64
        usable = self.usable
        local_max = usable - 35
        if size <= local_max:
            if at + size > usable:
                raise DamageError("it ends beyond its page")
            return rowid, page[at : at + size]
        local_min = (usable - 12) * 32 // 255 - 23
        local = local_min + (size - local_min) % (usable - 4)
        if local > local_max:
            local = local_min
        if size > self.page_bytes * max(self.count, len(self.overlay)) or at + local + 4 > len(
            page
        ):
            raise DamageError("it is larger than the file")
        parts = [page[at : at + local]]
        left = size - local
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        while left > 0:
            self.budget -= usable
            if self.budget < 0:
                raise DamageError("its overflow pages lead too far")
            content = self.page(following)
            self._continued.add(following)
            parts.append(content[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(content[:4], "big")
        return rowid, b"".join(parts)

    def _unused(self) -> set[int]:
        """Return the pages on the free list: what they hold was deleted."""
        unused: set[int] = set()
        try:
            trunk = int.from_bytes(self.page(1)[32:36], "big")
            while trunk and trunk not in unused and trunk <= self.count:
                content = self.page(trunk)
                leaves = min(int.from_bytes(content[4:8], "big"), self.usable // 4 - 2)
                unused.add(trunk)
                unused.update(struct.unpack_from(f">{leaves}I", content, 8))
                trunk = int.from_bytes(content[:4], "big")
        except (DamageError, struct.error):
            return set()
        # A free list that would free most of a damaged database is part of the damage.
        return unused if len(unused) < self.count else set()


def opened(database: Path, stack: ExitStack) -> Pages:
    """Open a database file with its write-ahead log and rollback journal.

    All stay mapped until ``stack`` ends.

    Raises:
        OSError: The file can't be read.
    """
    content = _mapped(database, stack)
    log = _mapped(database.with_name(f"{database.name}-wal"), stack, missing_ok=True)
    page_bytes = _page_bytes(content, log)
    reserved = (
        content[20]
        if content[:16] == _MAGIC and len(content) > _HEADER_BYTES and content[20] <= _RESERVED_MAX
        else 0
    )
    pages = Pages(page_bytes, len(content) // page_bytes)
    pages.file, pages.usable = content, page_bytes - reserved
    pages.budget = _READ_TIMES_MAX * (len(content) + len(log)) + 64 * page_bytes
    if content[:16] != _MAGIC:
        pages.damaged[1] = "the header is not SQLite's"
    if len(content) % page_bytes:
        pages.damaged[pages.count + 1] = "the file ends within it"
    elif content[:16] == _MAGIC and not log and int.from_bytes(content[28:32], "big") > pages.count:
        pages.damaged[pages.count + 1] = (
            f"the file should have {int.from_bytes(content[28:32], 'big')} pages"
        )
    _lay_log_over(pages, log)
    _put_back(
        pages, _mapped(database.with_name(f"{database.name}-journal"), stack, missing_ok=True)
    )
    return pages


def _mapped(path: Path, stack: ExitStack, *, missing_ok: bool = False) -> bytes | mmap.mmap:
    try:
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        if missing_ok:
            return b""
        raise
    if file.seek(0, 2) == 0:
        return b""
    return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _page_bytes(content: bytes | mmap.mmap, log: bytes | mmap.mmap) -> int:
    candidates = [int.from_bytes(content[16:18], "big")] if content[:16] == _MAGIC else []
    if int.from_bytes(log[:4], "big") in _WAL_MAGIC:
        candidates.append(int.from_bytes(log[8:12], "big"))
    for candidate in candidates:
        size = 65_536 if candidate == 1 else candidate
        if size in _PAGE_SIZES:
            return size

    # The header is lost: take the size at which most pages begin like a page of a tree.
    def looks_right(size: int) -> float:
        """Score a page size by how many of its pages begin like one of a tree."""
        starts = range(size, len(content), size)
        hits = sum(content[s] in {_LEAF, *_OTHER_KINDS} for s in starts)
        return hits * hits / max(1, len(starts))

    return max(_PAGE_SIZES, key=looks_right)


def _lay_log_over(pages: Pages, log: bytes | mmap.mmap) -> None:
    """Apply the write-ahead log's frames up to its last commit.

    Frames behind a wrong checksum are kept apart.
    """
    order = _WAL_MAGIC.get(int.from_bytes(log[:4], "big"))
    if (
        len(log) < _WAL_HEADER_BYTES
        or order is None
        or int.from_bytes(log[8:12], "big") not in (pages.page_bytes, pages.page_bytes & 0xFFFF)
    ):
        if log:
            pages.damaged[0] = "the header of the write-ahead log is damaged"
        return
    frame_bytes = _FRAME_HEADER_BYTES + pages.page_bytes
    sums = _checksum(order, log[:24], (0, 0))
    proved = sums == struct.unpack(">II", log[24:32])
    waiting: list[tuple[int, _Place, bool]] = []
    for start in range(_WAL_HEADER_BYTES, len(log) - frame_bytes + 1, frame_bytes):
        header = log[start : start + _FRAME_HEADER_BYTES]
        number, commit = struct.unpack(">II", header[:8])
        if header[8:16] != log[16:24]:
            # It is from before the log began anew.
            break
        if proved:
            content = log[start + _FRAME_HEADER_BYTES : start + frame_bytes]
            sums = _checksum(order, content, _checksum(order, header[:8], sums))
            proved = sums == struct.unpack(">II", header[16:24])
            if not proved:
                pages.damaged[0] = (
                    "the write-ahead log is damaged from frame "
                    f"{(start - _WAL_HEADER_BYTES) // frame_bytes + 1} on"
                )
        waiting.append((number, _Place(log, start + _FRAME_HEADER_BYTES), proved))
        if commit:
            for page, place, certain in waiting:
                if certain:
                    pages.overlay[page] = place
                else:
                    pages.unproved.append((page, place))
            waiting.clear()


def _checksum(order: str, content: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _put_back(pages: Pages, journal: bytes | mmap.mmap) -> None:
    """Apply a rollback journal that a kill left.

    It holds the pages as they were before the unfinished transaction.
    """
    start, first = 0, True
    while journal[start : start + 8] == _ROLLBACK_MAGIC:
        count, _, before, sector, size = struct.unpack(
            ">IIIII", journal[start + 8 : start + 28].ljust(20, b"\0")
        )
        if size != pages.page_bytes or sector not in _SECTOR_BYTES:
            return
        if first:
            pages.count, first = min(pages.count, before), False
        at = start + sector
        for _ in range(min(count, (len(journal) - at) // (size + 8))):
            number = int.from_bytes(journal[at : at + 4], "big")
            pages.overlay.setdefault(number, _Place(journal, at + 4))
            at += size + 8
        following = start + -(-(at - start) // sector) * sector
        if following <= start:
            return
        start = following


def _record(payload: bytes) -> tuple[Value, ...]:
    header_bytes, at = _varint(payload, 0)
    if header_bytes > len(payload):
        raise DamageError("its header is longer than itself")
    body = header_bytes
    values: list[Value] = []
    while at < header_bytes:
        serial, at = _varint(payload, at)
        value, body = _value(payload, serial, body)
        values.append(value)
    return tuple(values)


def _value(payload: bytes, serial: int, at: int) -> tuple[Value, int]:
    if serial >= _BLOB_FROM:
        end = at + (serial - _BLOB_FROM) // 2
        if end > len(payload):
            raise DamageError("a value ends beyond its row")
        return (payload[at:end].decode() if serial & 1 else payload[at:end]), end
    if serial == 0:
        return None, at
    if serial in {8, 9}:
        return serial - 8, at
    size = 8 if serial == _DOUBLE else _INT_BYTES[serial] if serial < _DOUBLE else -1
    if size < 0 or at + size > len(payload):
        raise DamageError(f"a value of the type {serial}")
    if serial == _DOUBLE:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    return int.from_bytes(payload[at : at + size], "big", signed=True), at + size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    byte = content[at]
    if byte < 0x80:  # noqa: PLR2004 - the high bit says that more follows
        return byte, at + 1
    result = 0
    for _ in range(8):
        byte = content[at]
        at += 1
        result = result << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004
            return result, at
    return result << 8 | content[at], at + 1
