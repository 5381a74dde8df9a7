"""What waits in a journal, found out without changing it: whether a pass is worth its requests, and whether all is there.

Reading alone: no lease, no lock that appending would notice, nothing created but SQLite's own shared-memory file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from journaltrack.journal import interruption, queries, view
from journaltrack.replay.pass_report import Position
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from pathlib import Path

_PENDING_UPLOADS: Final = f"SELECT e.payload {queries.PENDING} AND e.kind = 'upload'"


@dataclass(frozen=True, slots=True)
class Work:
    """What waits.

    Attributes:
        position: What a pass that began now would have seen.
        pending: Entries.
        unfinished: Requests of a pass that was killed; the next pass settles them.
        missing_blobs: Pending artifacts whose content is not in the spool (None: not looked).
        interrupted: Runs whose processes are proven dead.
        journal_id: Of the journal.
    """

    position: Position
    pending: int
    unfinished: int
    missing_blobs: int | None = None
    interrupted: int = 0
    journal_id: str = ""

    @property
    def any(self) -> bool:
        """Whether a pass has something to do."""
        return bool(self.pending or self.unfinished)


def look(journal: Path, *, blobs: bool = False) -> Work:
    """What waits in the journal of this folder; costs what is pending.

    Args:
        journal: Its folder.
        blobs: Also look whether what is to be uploaded is in the spool.

    Raises:
        JournalError: It can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        database = own.database
        position = Position(own.last_seq(), queries.last_receipt_id(database))
        unfinished = int(database.read("SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL")[0][0])
        missing = None
        if blobs:
            # What is no digest, or something else than a file, will not arrive: a pass quarantines it.
            found = {str(view.detail_of(payload).get("sha256")) for (payload,) in database.read_page(_PENDING_UPLOADS)}
            digests = filter(is_digest, found)
            missing = sum(not os.path.lexists(journal / paths.SPOOL / digest[:2] / digest) for digest in digests)
        return Work(position, queries.pending_count(database), unfinished, missing, len(interruption.interrupted(own)), own.journal_id)
