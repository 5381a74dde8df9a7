"""Keep what lists and curves of one journal need in a file beside the user's other caches.

A journal has no index of its metrics, so that an append pays for none: one curve would cost a scan
of all that was ever recorded. This file has each run folded, each metric summed up, and its points
in blocks. It follows the journal by ``seq``, and a transaction of it is at most ``CHUNK`` entries,
so a killed reader loses nothing, and several readers share the work.

Nothing in it counts but as a copy. If the journal was replaced, pruned or went back, or if the file
is damaged, it is made again. ``cache_file`` has the file and its tables.

Must not know AWS, or who asks. Never writes a journal.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.journal import removed, vocabulary
from journaltrack.journal.queries import ENTRY_COLUMNS, IS_POINT, listed_up_to, origins
from journaltrack.readmodel.cache_file import UNUSABLE, CacheFile
from journaltrack.readmodel.run import MetricSummary
from journaltrack.readmodel.series import (
    Block,
    ascends,
    block_of_rows,
    count_not_finite,
    joined,
    summed,
)
from journaltrack.readmodel.state import folded

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

CHUNK: Final = 50_000
"""Entries of a transaction: 0.1 s, in which other readers wait."""
BLOCK_POINTS: Final = 1_024
"""Points of a block. One that is not full is written again when points arrive: 24 kB."""
_TRIES: Final = 3
"""With the file, with a new one, and in memory."""
# SQLite keeps any type in any column.
_IS_POINT: Final = f"{IS_POINT} AND typeof(name) = 'text' AND typeof(component_id) = 'integer'"
_POINTS: Final = (
    "SELECT component_id, name, value, step, coalesce(timestamp_ns, recorded_at_ns), seq "
    f"FROM entry WHERE {_IS_POINT} AND seq > ? AND seq <= ? ORDER BY seq LIMIT {CHUNK}"
)
# By seq: the index of these entries leads to all that there ever were.
_OTHERS: Final = (
    "SELECT component_id, count(*), max(recorded_at_ns) FROM entry NOT INDEXED "
    f"WHERE NOT ({_IS_POINT}) AND seq > ? AND seq <= ? GROUP BY component_id"
)


class Folded(NamedTuple):
    """A run in the cache: its component, how many entries it has, and what they add up to."""

    component_id: int
    entries: int
    below: int
    last_ns: int | None
    state: dict[str, Any]


class News(NamedTuple):
    """What is new in a cache since the last ``Cache.follow`` of the same object.

    Attributes:
        is_whole: Whether it is all that the cache has; what was known before is void.
        runs: New and changed runs, in the order in which they were recorded first.
        metrics: What each metric of these adds up to: the members of a ``MetricSummary``.
    """

    is_whole: bool
    runs: list[Folded]
    metrics: dict[int, dict[str, tuple[Any, ...]]]


class Cache:
    """The cache of one journal. Any thread may use it.

    Args:
        identity: Which journal, by id and place: the file's name follows from it.
        in_memory: Keep it in memory.
    """

    def __init__(self, identity: str, *, in_memory: bool = False) -> None:
        self._lock = threading.RLock()
        self._file = CacheFile(identity, in_memory=in_memory)
        # Up to where the caller has it, and which runs changed since; None: all may have.
        self._told: int | None = None
        self._touched: set[int] | None = None

    @property
    def file(self) -> Path | None:
        """Return the file; None if it is in memory."""
        return self._file.path

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._file.connection

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._connection.close()

    def start_again(self, error: Exception, *, in_memory: bool = False) -> None:
        """Make the cache again, see ``CacheFile.start_again``."""
        with self._lock:
            self._file.start_again(error, in_memory=in_memory)
            self._touched = None

    # -- following the journal ---------------------------------------------------------------

    def follow(self, journal: Journal, identity: str) -> News:
        """Read what the journal has recorded since.

        Args:
            journal: Open, and in a snapshot (``view.snapshot``).
            identity: Tells the journal's file from one that replaced it.

        Raises:
            JournalError: The journal can't be read.
        """
        with self._lock:
            for left in reversed(range(_TRIES)):
                try:
                    head = self._follow(journal, identity)
                    news = self._news()
                except _JournalError as fault:  # noqa: PERF203 - one more try
                    raise fault.error from None
                except UNUSABLE as error:
                    # Locked for long, damaged, or the disk is full.
                    if not left:
                        raise
                    self.start_again(error, in_memory=left == 1)
                else:
                    self._told, self._touched = head, set()
                    return news
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def _follow(self, journal: Journal, identity: str) -> int:
        """Take in what the journal has. Return up to where the cache has it then."""
        now = _Now.of(journal)
        while True:
            with self._file.transaction() as connection:
                head = self._valid_head(journal, identity, now)
                if head != self._told:
                    # Another process has read on.
                    self._touched = None
                if head >= now.seq:
                    self._count_below(journal, now)
                    break
                rows = _read(journal, _POINTS, (head, now.seq))
                seq, digest = now[:2]
                if len(rows) == CHUNK:
                    seq = rows[-1][-1]
                    digest = _read(journal, "SELECT digest FROM entry WHERE seq = ?", (seq,))[0][0]
                self._take_points(journal, rows)
                self._take_others(_read(journal, _OTHERS, (head, seq)))
                connection.execute("UPDATE head SET seq = ?, digest = ?", (seq, digest))
            self._told = seq
        self._fold(journal)
        return head

    def _valid_head(self, journal: Journal, identity: str, now: _Now) -> int:
        """Return up to where the cache has the journal, after emptying it if it has another."""
        rows = self._connection.execute("SELECT identity, prunes, seq, digest FROM head").fetchall()
        if rows:
            known, prunes, seq, digest = rows[0]
            at_head = _read(journal, "SELECT digest FROM entry WHERE seq = ?", (seq,))
            if (known, prunes) == (identity, now.prunes) and (
                not seq or (at_head and at_head[0][0] == digest)
            ):
                return int(seq)
        self._touched = None
        for table in ("head", "run", "series", "block"):
            self._connection.execute(f"DELETE FROM {table}")
        self._connection.execute(
            "INSERT INTO head VALUES (1, ?, ?, 0, NULL, 0)", (identity, now.prunes)
        )
        self._add_removed(journal)
        return 0

    def _add_removed(self, journal: Journal) -> None:
        """Count the points that were pruned: their sums are on the record."""
        ids = {row.name.lower(): row.id for row in journal.components()}
        for (component, name), gone in removed.metrics(journal.database).items():
            if component not in ids:
                continue
            last = gone.last
            summary = MetricSummary(
                last.value,
                last.step,
                gone.minimum,
                gone.maximum,
                gone.points,
                None,
                None,
                0,
                last.timestamp_ns,
                gone.points,
            )
            self._connection.execute(
                f"INSERT OR REPLACE INTO series ({_SERIES}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (ids[component], name, *summary),
            )

    def _take_others(self, counts: Iterable[tuple[Any, ...]]) -> None:
        """Note that entries arrived which are no points: their runs are folded later."""
        self._connection.executemany(
            "INSERT INTO run VALUES (?, ?, 0, ?, 1, NULL) ON CONFLICT DO UPDATE SET "
            "entries = entries + excluded.entries, dirty = 1, "
            "last_ns = max(coalesce(last_ns, 0), coalesce(excluded.last_ns, 0))",
            known := [count for count in counts if isinstance(count[0], int)],
        )
        self._touch(count[0] for count in known)

    def _touch(self, runs: Iterable[int]) -> None:
        if self._touched is not None:
            self._touched.update(runs)

    def _take_points(self, journal: Journal, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add points to their series."""
        points: dict[tuple[int, str], list[tuple[Any, ...]]] = defaultdict(list)
        for row in rows:
            points[row[:2]].append(row)
        counts: dict[int, tuple[int, int]] = {}
        for (run, _), group in points.items():
            entries, last_seq = counts.get(run, (0, 0))
            counts[run] = (entries + len(group), max(last_seq, group[-1][5]))
        recorded = _looked_up(
            journal, "recorded_at_ns", [last_seq for _, last_seq in counts.values()]
        )
        self._connection.executemany(
            "INSERT INTO run VALUES (?, ?, 0, ?, 1, NULL) ON CONFLICT DO UPDATE SET "
            "entries = entries + excluded.entries, "
            "last_ns = max(coalesce(last_ns, 0), coalesce(excluded.last_ns, 0))",
            [(run, entries, recorded.get(last_seq)) for run, (entries, last_seq) in counts.items()],
        )
        self._touch(counts)
        # What is no finite number is text in the payload.
        payloads = _looked_up(journal, "payload", [row[5] for row in rows if row[2] is None])
        self._add_points(points, payloads)

    def _add_points(
        self,
        points: Mapping[tuple[int, str], Sequence[tuple[Any, ...]]],
        payloads: Mapping[int, object],
    ) -> None:
        connection = self._connection
        known = {
            (run, name): (number, MetricSummary(*others))
            for number, run, name, *others in connection.execute(
                f"SELECT id, {_SERIES} FROM series WHERE run IN (SELECT value FROM json_each(?))",
                (json.dumps(list({run for run, _ in points})),),
            )
        }
        (number,) = connection.execute("SELECT coalesce(max(id), 0) FROM series").fetchone()
        series: list[tuple[Any, ...]] = []
        blocks: list[tuple[Any, ...]] = []
        for (run, name), rows in points.items():
            found = known.get((run, name))
            if found is None:
                number += 1
            series_id, before = found or (number, _NOTHING)
            block = block_of_rows(rows, payloads, before.points - before.removed)
            series.append((series_id, run, name, *summed(before, block)))
            blocks += self._stored(series_id, block, is_new=found is None)
        connection.executemany(
            f"INSERT OR REPLACE INTO series (id, {_SERIES}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            series,
        )
        connection.executemany(
            "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", blocks
        )

    def _stored(self, series: int, block: Block, *, is_new: bool) -> Iterator[tuple[Any, ...]]:
        """Yield rows: points fill the last block, and then new ones."""
        number = 0
        row = (
            None
            if is_new
            else self._connection.execute(
                f"SELECT number, {_BLOCK} FROM block WHERE series = ? ORDER BY number DESC LIMIT 1",
                (series,),
            ).fetchone()
        )
        if row:
            last = _block_of(row[1:])
            number = row[0] + 1
            if len(last.x) < BLOCK_POINTS:
                number, block = row[0], joined(last, block)
        for first in range(0, len(block.x), BLOCK_POINTS):
            part = slice(first, first + BLOCK_POINTS)
            x, ns, values = block.x[part], block.ns[part], block.values[part]
            mask = block.stepless[part] if block.stepless is not None else None
            yield (
                *(series, number, len(x), count_not_finite(values), ascends(x) and ascends(ns)),
                *(min(x), max(x), min(ns), max(ns)),
                *(x.tobytes(), ns.tobytes(), values.tobytes()),
                mask if mask is not None and any(mask) else None,
            )
            number += 1

    def _fold(self, journal: Journal) -> None:
        """Fold the runs of which more than points arrived."""
        dirty = [row[0] for row in self._connection.execute("SELECT id FROM run WHERE dirty")]
        if not dirty:
            return
        self._touch(dirty)
        known = _faultless(origins, journal.database.read)
        names = {row.id: row.name for row in _faultless(journal.components)}
        sql = (
            f"SELECT {ENTRY_COLUMNS} FROM entry e WHERE e.component_id = ? "
            "AND e.stream <> 'metric' ORDER BY e.seq"
        )
        for first in range(0, len(dirty), 1_000):
            with self._file.transaction() as connection:
                for component_id in dirty[first : first + 1_000]:
                    entries = map(vocabulary.entry_of, _read(journal, sql, (component_id,)))
                    state = folded(names.get(component_id), entries, known)
                    connection.execute(
                        "UPDATE run SET dirty = 0, folded = ? WHERE id = ?",
                        (json.dumps(state), component_id),
                    )

    def _count_below(self, journal: Journal, now: _Now) -> None:
        """Count how many entries of each run are up to the mark below which all is settled."""
        (mark,) = self._connection.execute("SELECT mark FROM head").fetchone()
        wanted = min(now.mark, now.seq)
        if mark == wanted:
            return
        self._touched = None
        if mark > wanted:
            self._connection.execute("UPDATE run SET below = 0")
            mark = 0
        rows = _read(
            journal,
            "SELECT count(*), component_id FROM entry WHERE seq > ? AND seq <= ? "
            "GROUP BY component_id",
            (mark, wanted),
        )
        self._connection.executemany("UPDATE run SET below = below + ? WHERE id = ?", rows)
        self._connection.execute("UPDATE head SET mark = ?", (wanted,))

    # -- reading -----------------------------------------------------------------------------

    def _news(self) -> News:
        """Read the runs that changed, or all."""
        touched = None if self._touched is None else (json.dumps(sorted(self._touched)),)
        some = "" if touched is None else " IN (SELECT value FROM json_each(?))"
        runs = [
            Folded(number, entries, below, last_ns, json.loads(state))
            for number, entries, below, last_ns, state in self._connection.execute(
                "SELECT id, entries, below, last_ns, folded FROM run "
                f"WHERE folded IS NOT NULL {some and 'AND id' + some} ORDER BY id",
                touched or (),
            )
        ]
        metrics: dict[int, dict[str, tuple[Any, ...]]] = defaultdict(dict)
        for row in self._connection.execute(
            f"SELECT {_SERIES} FROM series {some and 'WHERE run' + some} ORDER BY run, name",
            touched or (),
        ):
            metrics[row[0]][row[1]] = row[2:]
        return News(touched is None, runs, metrics)

    def blocks(
        self, run: int, metric: str, numbers: Sequence[int] | None = None
    ) -> Iterator[Block]:
        """Yield a metric's points, block by block."""
        chosen = "" if numbers is None else "AND number IN (SELECT value FROM json_each(?))"
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_BLOCK} FROM block WHERE series = "
                f"(SELECT id FROM series WHERE run = ? AND name = ?) {chosen} ORDER BY number",
                (run, metric, *(() if numbers is None else (json.dumps(list(numbers)),))),
            ).fetchall()
        return map(_block_of, rows)

    def extents(self, run: int, metric: str) -> list[tuple[int, ...]]:
        """Return number, points, not finite, in order, and the ranges of x and time per block."""
        with self._lock:
            return self._connection.execute(
                "SELECT number, points, not_finite, in_order, x_first, x_last, ns_first, ns_last "
                "FROM block WHERE series = (SELECT id FROM series WHERE run = ? AND name = ?) "
                "ORDER BY number",
                (run, metric),
            ).fetchall()


class _Now(NamedTuple):
    """How far a journal is: the last entry, and what was pruned and settled."""

    seq: int
    digest: bytes | None
    prunes: int
    mark: int

    @classmethod
    def of(cls, journal: Journal) -> _Now:
        """Ask the journal."""
        last = _read(journal, "SELECT seq, digest FROM entry ORDER BY seq DESC LIMIT 1")
        prunes = _read(
            journal,
            f"SELECT coalesce(max(a.id), 0) FROM attestation a WHERE {removed.IS_PRUNE}",
        )
        seq, digest = last[0] if last else (0, None)
        return cls(seq, digest, prunes[0][0], _faultless(listed_up_to, journal.database))


class _JournalError(Exception):
    """The journal could not be read; not to be mistaken for an error of the cache."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _faultless(ask: Any, *arguments: Any) -> Any:  # noqa: ANN401 - any question
    try:
        return ask(*arguments)
    except Exception as error:
        raise _JournalError(error) from error


def _read(journal: Journal, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    rows: list[Any] = _faultless(journal.database.read, sql, parameters)
    return rows


def _looked_up(journal: Journal, column: str, seqs: Sequence[int]) -> dict[int, Any]:
    """Return a column of some entries, by ``seq``."""
    sql = f"SELECT seq, {column} FROM entry WHERE seq IN (SELECT value FROM json_each(?))"
    return dict(_read(journal, sql, (json.dumps(seqs),))) if seqs else {}


_BLOCK: Final = "not_finite, x, ns, value, stepless"
_SERIES: Final = (
    "run, name, last, step, low, high, points, low_step, high_step, not_finite, last_ns, removed"
)
_NOTHING: Final = MetricSummary(None, None, None, None, 0)


def _block_of(row: Sequence[Any]) -> Block:
    not_finite, x, ns, values, stepless = row
    return Block(not_finite, array("q", x), array("q", ns), array("d", values), stepless)
