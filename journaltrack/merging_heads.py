"""How far the target of a merge has come with each process, and whether a source's entry is the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.applying_source import WriterRow, forged
from journaltrack.database import bound

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.applying import Applier
    from journaltrack.merging_source import EntryRow

_DIGEST_AT: Final = (
    "SELECT e.digest FROM temp.run r JOIN entry e ON e.seq = r.shift + ?1 WHERE r.writer_id = ?2 AND r.last >= ?1 AND r.first <= ?1"
)


class Runs:
    """Runs of places that were added, for ``Applier.places``."""

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        self._open: dict[int, list[int]] = {}

    def add(self, writer_id: int, place: int, seq: int) -> None:
        """An entry was added."""
        run = self._open.get(writer_id)
        if run is not None and place == run[1] + 1 and seq - place == run[2]:
            run[1] = place
            return
        if run is not None:
            self._applier.add_run(writer_id, *run)
        self._open[writer_id] = [place, place, seq - place]

    def end(self) -> None:
        """What was added so far can be looked up."""
        for writer_id, run in self._open.items():
            self._applier.add_run(writer_id, *run)
        self._open.clear()


class Heads:
    """How far the target has come with each process: place and digest of its last entry."""

    def __init__(self, connection: sqlite3.Connection, writers: dict[str, int]) -> None:
        self._connection = connection
        self.ids = dict(writers)
        self.flush: Callable[[], None] = lambda: None
        self.places: dict[str, int] = {}
        self._digests: dict[str, bytes] = {}
        found = {
            writer_id: (place, digest)
            for writer_id, place, digest in connection.execute("SELECT writer_id, max(writer_seq), digest FROM entry GROUP BY writer_id")
        }
        for uuid, writer_id in writers.items():
            if writer_id in found:
                self.places[uuid], self._digests[uuid] = found[writer_id]

    def meet(self, uuid: str, writer_id: int, row: WriterRow) -> None:
        """A process of a source."""
        self.ids[uuid] = writer_id
        if uuid not in self.places:
            self.places[uuid], self._digests[uuid] = 0, row.begin

    def takes(self, uuid: str, row: EntryRow, where: str) -> bool:
        """Whether the entry is the next one; False if it is here already.

        Raises:
            EvidenceError: It is another one than is here, is not what its writer recorded, or some before it are missing.
        """
        place = self.places[uuid]
        if row.writer_seq <= place:
            if self._digest(uuid, row.writer_seq) not in {row.digest, None}:
                what = f"entry {row.writer_seq} of the process {limits.shown(uuid)} is another one there than here"
                raise forged(where, f"{what}: the process, or somebody else, went on in both copies, or one of them was changed")
            return False
        previous = self._digests[uuid] if row.gap is None else row.gap
        if row.writer_seq != place + 1 and row.gap is None:
            raise forged(where, f"entry {place + 1} of the process {limits.shown(uuid)} is missing there")
        if not row.follows(previous):
            raise forged(
                where, f"entry {row.writer_seq} of the process {limits.shown(uuid)} is not what was recorded: its digest does not fit"
            )
        self.places[uuid], self._digests[uuid] = row.writer_seq, row.digest
        return True

    def _digest(self, uuid: str, place: int) -> bytes | None:
        """Of the entry at a place; None if it was removed here on the record."""
        if place == self.places[uuid]:
            return self._digests[uuid]
        for _ in range(2):
            row = self._connection.execute(*bound(_DIGEST_AT, (place, self.ids[uuid]))).fetchone()
            if row is not None:
                return bytes(row[0])
            self.flush()  # it may be among those that were just brought
        return None
