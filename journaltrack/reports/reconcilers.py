"""Who reconciled a journal or a copy of it, by the processes that attest what became of its entries. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from journaltrack.replay.evidence.taken import TAKEN

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

RECONCILERS_MAX: Final = 1_000
"""Ours: users and hosts that are listed; a crafted journal may name any number."""


@dataclass(frozen=True, slots=True)
class ReconcilerRecord:
    """A user on a host: how many processes synced, retried, settled or merged there, when the first and the last began."""

    host: str
    user: str
    processes: int
    attestations: int
    first_started_at_ns: int
    last_started_at_ns: int


def reconcilers(database: Database) -> tuple[ReconcilerRecord, ...]:
    """In order of their first attestation here. Those of format 0001 attested nothing; whoever only took over what others say did none of it."""
    rows = database.read(
        "SELECT w.host, w.user, count(DISTINCT w.id), count(*), min(w.started_at_ns), max(w.started_at_ns) "
        "FROM attestation a JOIN writer w ON w.id = a.writer_id WHERE a.id NOT IN "
        "(SELECT t.id FROM receipt r JOIN attestation t ON t.receipt_id = r.id WHERE r.component_id IS NULL AND r.action = ?) "
        "AND a.id NOT IN (SELECT id FROM attestation WHERE receipt_id IS NULL AND substr(body, 1, 17) = ?) GROUP BY w.host, w.user ORDER BY min(a.id) LIMIT ?",
        (TAKEN, f'{{"action":"{TAKEN}"', RECONCILERS_MAX),
    )
    return tuple(ReconcilerRecord(str(host), str(user), *rest) for host, user, *rest in rows)
