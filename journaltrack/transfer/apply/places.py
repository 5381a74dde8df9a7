"""Where the entries of each process are in this journal: there is no index for it, so that an append pays for none.

Kept in a private database that is gone with its connection, in memory while it is small: an application takes several
transactions, and the journal's own connection may be another one in the next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

_FIND: Final = (
    "SELECT max(first, :first) + shift, min(last, :last) + shift FROM run "
    "WHERE writer_id = :writer_id AND last >= :first AND first <= :last ORDER BY last"
)


class Places:
    """Runs of entries: ``seq`` is the place in the writer's chain plus a shift.

    Args:
        database: Of the journal. What is appended later by others is not looked for.
    """

    def __init__(self, database: Database) -> None:
        self._runs = sqlite3.connect("", isolation_level=None)
        self._runs.execute("CREATE TABLE run (writer_id, first, last, shift)")
        with database.lock:
            rows = database.connection.execute(
                "SELECT writer_id, min(writer_seq), max(writer_seq), seq - writer_seq FROM entry GROUP BY writer_id, seq - writer_seq"
            )
            self._runs.execute("BEGIN")
            self._runs.executemany("INSERT INTO run VALUES (?, ?, ?, ?)", rows)
            self._runs.execute("COMMIT")
        self._runs.execute("CREATE INDEX run_last ON run (writer_id, last)")

    def add(self, writer_id: int, first: int, last: int, shift: int) -> None:
        """Entries were added."""
        self._runs.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (writer_id, first, last, shift))

    def find(self, writer_id: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Those of the writer's entries that are here, as (first, last) of ``seq``, in the order of their places."""
        yield from self._runs.execute(_FIND, {"writer_id": writer_id, "first": first, "last": last})

    def close(self) -> None:
        """Drop it."""
        self._runs.close()
