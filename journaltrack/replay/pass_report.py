"""Tell what one pass did, and what a next one would find.

``PassReport`` is the reconciler's result. ``look`` tells what waits in a journal, so that a caller
knows whether a pass is worth its requests.

Invariant: ``look`` only reads. It takes no lease and no lock that an append would notice, and
creates nothing but SQLite's own shared-memory file.
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

    from journaltrack.journal.journal import Journal

_PENDING_UPLOADS: Final = f"SELECT e.payload {queries.PENDING} AND e.kind = 'upload'"
_ERRORS: Final = ("halted", "uploads_halted", "lineage_halted", "failed")


@dataclass(frozen=True, slots=True)
class Work:
    """Count what waits in a journal.

    Attributes:
        position: What a pass that began now would have seen.
        pending: Entries.
        unfinished: Requests of a killed pass. The next pass settles them.
        missing_blobs: Pending artifacts whose content is not in the spool. None: not looked for.
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
        """Return whether a pass has something to do."""
        return bool(self.pending or self.unfinished)


def look(journal: Path, *, blobs: bool = False) -> Work:
    """Return what waits in the journal of this folder.

    The cost grows with what is pending.

    Args:
        journal: Its folder.
        blobs: Also look in the spool for each content to upload.

    Raises:
        JournalError: The journal can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        database = own.database
        position = Position(own.last_seq(), queries.last_receipt_id(database))
        unfinished = int(
            database.read("SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL")[0][0]
        )
        missing = len(missing_blobs(own)) if blobs else None
        pending, interrupted = queries.pending_count(database), len(interruption.interrupted(own))
        return Work(position, pending, unfinished, missing, interrupted, own.journal_id)


def missing_blobs(journal: Journal) -> list[str]:
    """Return the digests of contents to upload that are not in the journal's spool."""
    # A broken digest, or a thing that is no file, can't arrive: a pass quarantines it.
    found = {
        str(view.detail_of(payload).get("sha256"))
        for (payload,) in journal.database.read_page(_PENDING_UPLOADS)
    }
    spool = journal.path / paths.SPOOL
    return [
        digest
        for digest in filter(is_digest, found)
        if not os.path.lexists(spool / digest[:2] / digest)
    ]


class Position(NamedTuple):
    """Say how far somebody has seen a journal: the last entry and the last receipt.

    If the position is still the one after a pass, that pass has seen everything. A new entry has
    a higher ``seq``, and a release by a person adds a receipt.
    """

    seq: int
    receipt_id: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Say how far a task is: ``done`` of ``total``, in the task's own unit.

    A sync counts the entries that were pending at its start. ``verify`` counts components,
    ``check`` checks, a bundle bytes. An export, a merge and a prune count entries. ``requests``
    are the answered requests of a sync.
    """

    done: int
    total: int
    requests: int = 0


@dataclass(slots=True)
class PassReport:
    """Tell what a pass did.

    Attributes:
        delivered: Entries delivered in this pass, those superseded included.
        quarantined: Entries quarantined in this pass.
        in_doubt: Entries that are in doubt since this pass.
        superseded: Entries among ``delivered`` that a later value of the same key stands for.
        arrived: Entries in doubt that reading back proved to have arrived. Now delivered.
        not_arrived: Entries in doubt that reading back proved not to have arrived. Now pending.
        pending: Entries pending in the journal after the pass, those the options left out
            included.
        requests: Requests made.
        held: Components that can't be delivered now, and why.
        halted: Why the pass ended early, or None.
        uploads_halted: Why the uploads ended early, or None.
        lineage_halted: Why lineage ended early, or None. Nothing else waits for it.
        altered: Chains that do not hold, or None. What their writers recorded was held back.
        failed: The last failure of a request whose retries were exhausted.
        out_of_time: Whether the deadline ended the pass.
        duration_s: Seconds.
        position: What the pass has seen of the journal. None: it ended before it looked.
        ended: Names of the interrupted runs that it ended as Stopped.
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
    lineage_halted: RemoteError | None = None
    altered: JournalAlteredError | None = None
    failed: RemoteError | None = None
    out_of_time: bool = False
    duration_s: float = 0.0
    position: Position | None = None
    ended: list[str] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """Return how many entries were settled in this pass, whatever the outcome."""
        return self.delivered + self.quarantined + self.in_doubt

    @property
    def problem(self) -> JournaltrackError | None:
        """Return the gravest reason why something was not delivered, or None.

        A deadline is not among the reasons: see ``out_of_time``.
        """
        return (
            self.halted
            or self.uploads_halted
            or self.altered
            or next(iter(self.held.values()), None)
            or self.failed
            or self.lineage_halted
        )

    def add(self, outcome: str, entries: int) -> None:
        """Count entries settled with this outcome, as ``delivery`` names it."""
        name = outcome.replace(" ", "_")
        setattr(self, name, getattr(self, name) + entries)
        if outcome == "superseded":
            self.delivered += entries

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``json.dumps`` takes it."""
        converted: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in _ERRORS:
            converted[name] = error_to_json(converted[name])
        converted["altered"] = (
            None
            if self.altered is None
            else {"message": self.altered.message, "hint": self.altered.hint}
        )
        converted["held"] = {name: error_to_json(error) for name, error in self.held.items()}
        return converted


def error_to_json(error: RemoteError | None) -> dict[str, Any] | None:
    """Return a remote's failure as ``json.dumps`` takes it."""
    if error is None:
        return None
    return {"message": error.message, **error.members, "kind": error.kind.value}
