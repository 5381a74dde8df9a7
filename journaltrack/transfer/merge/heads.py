"""How far the target of a merge has come with each process, and whether a source's entry is the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from journaltrack import limits
from journaltrack.transfer.apply.source import WriterRow, forged

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.transfer.apply.applier import Applier
    from journaltrack.transfer.merge.source import EntryRow


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
    """How far the target, with what waits for it, has come with each process: place and digest of its last entry.

    Attributes:
        elsewhere: Finds the digest of an entry that waits.
    """

    def __init__(self, database: Database, applier: Applier) -> None:
        self._database = database
        self._applier = applier
        self._met: dict[str, WriterRow] = {}
        self.elsewhere: Callable[[str, int], bytes | None] = lambda _uuid, _place: None
        self.places: dict[str, int] = {}
        self._digests: dict[str, bytes] = {}
        uuids = {writer_id: uuid for uuid, writer_id in applier.writers.items()}
        for writer_id, place, digest in database.read("SELECT writer_id, max(writer_seq), digest FROM entry GROUP BY writer_id"):
            if writer_id in uuids:
                self.places[uuids[writer_id]], self._digests[uuids[writer_id]] = place, digest

    def meet(self, uuid: str, row: WriterRow, where: str) -> None:
        """A process of a source.

        Raises:
            EvidenceError: Another source describes it otherwise.
        """
        if self._met.setdefault(uuid, row) != row:
            raise forged(where, f"the process {limits.shown(uuid)} is described otherwise there than in another source")
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
        for seq, _ in self._applier.places({uuid: ((place, place),)}):
            for (digest,) in self._database.read("SELECT digest FROM entry WHERE seq = ?", (seq,)):
                return bytes(digest)
        return self.elsewhere(uuid, place)
