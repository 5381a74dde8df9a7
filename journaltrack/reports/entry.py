"""Everything about one entry: as recorded, by whom, each request that carried it, and what came before and after it.

Prints nothing, changes nothing. Costs one reading of the receipts of its component.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import view, writers
from journaltrack.journal.writers import WriterRecord
from journaltrack.reports import receipts as report_receipts
from journaltrack.reports.entries import AuditedEntry, entry_of
from journaltrack.reports.receipts import ReceiptRecord, ranges_of
from journaltrack.util.intervals import SEQ_MAX

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database

RECEIPTS_MAX: Final = 10_000
"""Ours: receipts listed of one entry; no journaltrack makes so many, but a crafted journal may."""


@dataclass(frozen=True, slots=True)
class EntryAudit:
    """One entry in full.

    Attributes:
        entry: As recorded, and where it is now.
        writer_seq, digest: Its place in its writer's chain, and the chain up to it.
        writer: The process that recorded it.
        receipts: Every request that carried it and every decision about it, in order: also what failed, was in doubt or released.
        receipts_omitted: Those beyond ``RECEIPTS_MAX``.
        settled_by: The request that settled it without naming it: an earlier upload of the same content.
        superseded_by: The later entry that was delivered instead of it.
        earlier, later: The entries of the same kind and name just before and after it; None for metrics.
        unreadable: Receipts of the component that don't say of which entries they are.
    """

    entry: AuditedEntry
    writer_seq: int
    digest: bytes
    writer: WriterRecord | None
    receipts: tuple[ReceiptRecord, ...]
    receipts_omitted: int
    settled_by: ReceiptRecord | None
    superseded_by: int | None
    earlier: int | None
    later: int | None
    unreadable: int

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


def entry(journal: Journal | str | os.PathLike[str] | None, seq: int) -> EntryAudit | None:
    """All that a journal knows of one entry; None if it has no such entry.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        seq: The entry's place in the journal.

    Raises:
        JournalError: It can't be read.
    """
    if not 0 < seq <= SEQ_MAX:
        return None
    with view.opened(journal) as own, view.snapshot(own.database):
        found = entry_of(own, seq)
        return None if found is None else _audited(own.database, found)


def _audited(database: Database, found: AuditedEntry) -> EntryAudit:
    ((component_id, writer_seq, digest),) = database.read("SELECT component_id, writer_seq, digest FROM entry WHERE seq = ?", (found.seq,))
    named, omitted, unreadable = _naming(database, component_id, found.seq)
    settled_by = None
    if found.receipt_id is not None and not any(each.id == found.receipt_id for each in named):
        settled_by = report_receipts.receipt(database, found.receipt_id)
    earlier, later = _neighbours(database, component_id, found)
    return EntryAudit(
        entry=found,
        writer_seq=writer_seq,
        digest=digest,
        writer=writers.writer(database, found.writer_id),
        receipts=named,
        receipts_omitted=omitted,
        settled_by=settled_by,
        superseded_by=_superseded_by(found),
        earlier=earlier,
        later=later,
        unreadable=unreadable,
    )


def _naming(database: Database, component_id: object, seq: int) -> tuple[tuple[ReceiptRecord, ...], int, int]:
    ids: list[int] = []
    omitted = unreadable = 0
    for receipt_id, text in report_receipts.rows_of(database, "r.id, r.entries", "r.component_id = ?3", (component_id,)):
        ranges = ranges_of(text)
        if ranges is None:
            unreadable += 1
        elif any(first <= seq <= last for first, last in ranges):
            if len(ids) < RECEIPTS_MAX:
                ids.append(receipt_id)
            else:
                omitted += 1
    found = (report_receipts.receipt(database, receipt_id) for receipt_id in ids)
    return tuple(each for each in found if each is not None), omitted, unreadable


def _superseded_by(found: AuditedEntry) -> int | None:
    """As the settlement's reason says; the reconciler writes it, see ``requests``."""
    said = re.fullmatch(r"entry (\d{1,19}) overrides it", found.reason) if found.superseded and isinstance(found.reason, str) else None
    return int(said[1]) if said else None


def _neighbours(database: Database, component_id: object, found: AuditedEntry) -> tuple[int | None, int | None]:
    if found.stream == "metric":
        return None, None
    same = "FROM entry WHERE component_id = ?1 AND stream <> 'metric' AND kind IS ?2 AND name IS ?3 AND seq"
    key = (component_id, found.kind, found.name, found.seq)
    ((earlier,),) = database.read(f"SELECT max(seq) {same} < ?4", key)
    ((later,),) = database.read(f"SELECT min(seq) {same} > ?4", key)
    return earlier, later
