"""Find where the entries of each process are in a journal.

Receipts, merges and imports name entries by their writer and their place in its chain. The journal
has no index for that, so that an append pays for none: ``Places`` makes one of its own. The module
only reads the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from journaltrack.util.intervals import merged

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_RUNS: Final = (
    "SELECT writer_id, min(writer_seq), max(writer_seq), seq - writer_seq, count(*) FROM entry "
    "WHERE typeof(writer_seq) = 'integer' AND seq > ? GROUP BY writer_id, seq - writer_seq"
)
_PARTS: Final = (
    "SELECT writer_id, min(writer_seq), max(writer_seq), seq - writer_seq "
    "FROM (SELECT writer_id, writer_seq, seq, seq - row_number() OVER (ORDER BY seq) AS part "
    "FROM entry WHERE writer_id = ? AND writer_seq = seq - ? AND seq BETWEEN ? AND ?) "
    "GROUP BY part"
)
_FIND: Final = (
    "SELECT max(first, :first) + shift, min(last, :last) + shift, first, last, shift FROM run "
    "WHERE writer = :writer AND last >= :first AND first <= :last ORDER BY last"
)


class Places:
    """Find where the entries of each process are in this journal.

    Kept in a private database that is gone with its connection, in memory while it is small: an
    application takes several transactions, and the journal's own connection may be another one in
    the next.

    Args:
        database: Of the journal. What is appended later by others is not looked for.
        above: Only entries beyond this ``seq``.

    Attributes:
        writers: The ids of processes by their uuids.
    """

    def __init__(self, database: Database, above: int = 0) -> None:
        self.writers: dict[str, int] = {
            str(uuid): i for uuid, i in database.read("SELECT uuid, id FROM writer")
        }
        self._runs = sqlite3.connect("", isolation_level=None)
        try:
            self._fill(database, above)
        except BaseException:
            self._runs.close()
            raise
        # of each process the run that was found last: often the next one, too
        self._met: dict[str, tuple[int, int, int]] = {}
        self._is_twice = False

    def add(self, writer_id: int, first: int, last: int, shift: int) -> None:
        """Note that entries were added."""
        self._met.clear()
        self._runs.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (writer_id, first, last, shift))

    def add_removed(self, uuid: str, first: int, last: int, shift: int) -> None:
        """Note entries that were there once: they get numbers that no entry has.

        Those that are there again have two then.
        """
        self._is_twice = True
        self.add(self.writers.get(uuid, uuid), first, last, shift)  # type: ignore[arg-type]

    def find(
        self, named: Mapping[str, Iterable[tuple[int, int]]], above: int = 0
    ) -> list[tuple[int, int]]:
        """Find those of the entries that are here, as (first, last) of ``seq``, sorted.

        Args:
            named: By the writer's uuid: (first, last) of places.
            above: Only entries beyond this ``seq``; 0: all.
        """
        found = []
        for uuid, intervals in named.items():
            for first, last in intervals:
                run = self._met.get(uuid)
                if run is not None and run[0] <= first and last <= run[1] and not self._is_twice:
                    found.append((first + run[2], last + run[2]))
                    continue
                key = {"writer": self.writers.get(uuid, uuid), "first": first, "last": last}
                for begin, end, *met in self._runs.execute(_FIND, key):
                    found.append((begin, end))
                    self._met[uuid] = (met[0], met[1], met[2])
        if above:
            found = [(max(first, above + 1), last) for first, last in found if last > above]
        return merged(found) if found[1:] else found

    def runs(self, last: int) -> dict[str, list[tuple[int, int]]]:
        """Return what is here up to a ``seq``: sorted (first, last) of places, by writer.

        A crafted journal may have entries of no writer, or at places below 1: they are left out.
        """
        uuids = {i: uuid for uuid, i in self.writers.items()}
        found: dict[str, list[tuple[int, int]]] = {}
        rows = self._runs.execute(
            "SELECT writer, max(first, 1), min(last, :last - shift) FROM run "
            "WHERE max(first, 1) + shift <= :last AND last > 0",
            {"last": last},
        )
        for writer_id, begin, end in rows:
            if writer_id in uuids:
                found.setdefault(uuids[writer_id], []).append((begin, end))
        return {uuid: merged(intervals) for uuid, intervals in found.items()}

    def _fill(self, database: Database, above: int) -> None:
        # seq is the place in the writer's chain plus a shift
        self._runs.execute("CREATE TABLE run (writer, first, last, shift)")
        with database.lock:
            self._runs.execute("BEGIN")
            for *run, entries in database.connection.execute(_RUNS, (above,)):
                self._runs.executemany(
                    "INSERT INTO run VALUES (?, ?, ?, ?)",
                    [run] if _is_whole(run, entries) else _parts(database, run),
                )
            self._runs.execute("COMMIT")
        self._runs.execute("CREATE INDEX run_last ON run (writer, last)")

    def close(self) -> None:
        """Drop it."""
        self._runs.close()


def _is_whole(run: Sequence[int], entries: int) -> bool:
    return run[2] - run[1] == entries - 1


def _parts(database: Database, run: Sequence[int]) -> Iterable[tuple[int, int, int, int]]:
    """Return the parts of a run between which entries were removed.

    Others may have their numbers.
    """
    writer_id, first, last, shift = run
    return database.connection.execute(_PARTS, (writer_id, shift, first + shift, last + shift))
