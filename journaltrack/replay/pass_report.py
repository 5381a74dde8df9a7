"""What one pass did: the reconciler's result, and its form as JSON. Pure data.

What waits in a journal, found out without changing it: whether a pass is worth its requests, and whether all is there.

Reading alone: no lease, no lock that appending would notice, nothing created but SQLite's own shared-memory file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.errors import JournalAlteredError, JournaltrackError, RemoteError
from journaltrack.journal import interruption, queries, view
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


_ERROR_FIELDS: Final = ("code", "hint", "request_id", "maybe_applied", "unreachable", "uploads_only", "everywhere", "throttled")
_ERRORS: Final = ("halted", "uploads_halted", "failed")


class Position(NamedTuple):
    """How far somebody has seen a journal: up to which entry, and up to which receipt.

    A journal whose position is the one after a pass has nothing that the pass had not seen: entries come with a higher
    ``seq``, and what a person releases comes with a receipt.
    """

    seq: int
    receipt_id: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is: ``done`` of ``total``, in a unit of its own.

    A sync counts the entries that were pending at its start, ``verify`` components, ``check`` checks, an export, a
    merge and a prune entries, a bundle bytes. ``requests`` are those of a sync that were answered.
    """

    done: int
    total: int
    requests: int = 0


@dataclass(slots=True)
class PassReport:
    """What a pass did.

    Attributes:
        delivered, quarantined, in_doubt: Entries settled so in this pass.
        superseded: Those of the delivered that a later value of the same key stands for.
        arrived, not_arrived: Entries that were in doubt and, read back, proved to be there (delivered now) or not (pending again).
        pending: Entries of the journal that are pending after it (also those that the options left out).
        requests: Requests made.
        held: Components that can't go on, and why.
        halted: Why the pass ended early, if it did.
        uploads_halted: Why no more uploads were made, if so.
        altered: Chains that do not hold, if any: what their writers recorded was held back.
        failed: The last failure of a request whose retries were exhausted.
        out_of_time: The deadline ended it.
        duration_s: Seconds.
        position: What the pass has seen of the journal; None: it ended before it had looked.
        ended: Interrupted runs that it ended as Stopped, by name.
    """

    delivered: int = 0
    superseded: int = 0
    quarantined: int = 0
    in_doubt: int = 0
    arrived: int = 0
    not_arrived: int = 0
    pending: int = 0
    requests: int = 0
    held: dict[str, RemoteError] = field(default_factory=dict)
    halted: RemoteError | None = None
    uploads_halted: RemoteError | None = None
    altered: JournalAlteredError | None = None
    failed: RemoteError | None = None
    out_of_time: bool = False
    duration_s: float = 0.0
    position: Position | None = None
    ended: list[str] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """Entries settled in this pass, whatever the outcome."""
        return self.delivered + self.quarantined + self.in_doubt

    @property
    def problem(self) -> JournaltrackError | None:
        """Why not everything was delivered, the gravest reason first; None if there is none (but see ``out_of_time``)."""
        return self.halted or self.uploads_halted or self.altered or next(iter(self.held.values()), None) or self.failed

    def add(self, outcome: str, entries: int) -> None:
        """Entries were settled with this outcome, as ``delivery`` names it."""
        name = outcome.replace(" ", "_")
        setattr(self, name, getattr(self, name) + entries)
        if outcome == "superseded":
            self.delivered += entries

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it."""
        converted: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in _ERRORS:
            converted[name] = error_to_json(converted[name])
        converted["altered"] = None if self.altered is None else {"message": self.altered.message, "hint": self.altered.hint}
        converted["held"] = {name: error_to_json(error) for name, error in self.held.items()}
        return converted


def error_to_json(error: RemoteError | None) -> dict[str, Any] | None:
    """A remote's failure as ``json.dumps`` takes it."""
    if error is None:
        return None
    return {"message": error.message, "kind": error.kind.value, **{name: getattr(error, name) for name in _ERROR_FIELDS}}
