"""Report everything about one entry, and read the receipts that name entries.

``entry`` returns the entry as recorded, its writer, and each request that carried it. It also
names the entries of the same name before and after it. It reads the receipts of its component
once.

``receipt.entries`` is text such as "1-3,7". No index leads from an entry to its receipts. So the
receipts of its component are read in order, a page at a time (100,000 in 0.2 s). A text that can't
be read names no entry, and is counted.

The module reads the journal. It prints nothing and changes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import view, writer_records
from journaltrack.journal.removed import PRUNE
from journaltrack.journal.writer_records import WriterRecord
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.statements import MERGE, READBACK, REOPEN, REPAIR
from journaltrack.reports.entries import AuditedEntry, entry_of
from journaltrack.util.intervals import SEQ_MAX, ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database

PAGE_RECEIPTS: Final = 5_000
RECEIPTS_MAX: Final = 10_000
"""Our limit: receipts listed for one entry. Only a crafted journal has more."""
RELEASE: Final = "release"
"""The action of receipts for entries that ``retry`` made pending again."""
NO_REQUESTS: Final = frozenset({RELEASE, REOPEN, READBACK, in_doubt.SETTLE, REPAIR, PRUNE, MERGE})
"""Actions of receipts that carried no entry: decisions and findings about carried entries."""
COLUMNS: Final = (
    "r.id, r.action, r.component_id, r.entries, r.started_at_ns, r.finished_at_ns, r.outcome, "
    "r.attempts, r.request_id, r.error_code, r.error_text, r.generation, w.host, w.user, w.pid"
)
FROM: Final = (
    "receipt r LEFT JOIN attestation a ON a.receipt_id = r.id "
    "LEFT JOIN writer w ON w.id = a.writer_id"
)


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """One request, or one decision about entries that earlier requests had carried.

    Attributes:
        id: Its place; receipts are in the order in which they were begun.
        action: "ensure", "declare", "associate", "disassociate", "upload", "lineage", "update" or
            "metrics" for requests; "release", "readback", "settle" and others for decisions;
            "repair".
        entries: The entries that it names, as "1-3,7".
        outcome: None while no answer is recorded.
        attempts: How many times it was sent.
        generation: Of the lease under which it was made; each pass has its own.
        host, user, pid: Of the process that made it, or found it unfinished; None until it is
            finished.
    """

    id: int
    action: str
    component_id: int | None
    entries: str
    started_at_ns: int | None
    finished_at_ns: int | None
    outcome: str | None
    attempts: int | None
    request_id: str | None
    error_code: str | None
    error_text: str | None
    generation: int | None
    host: str | None = None
    user: str | None = None
    pid: int | None = None


def ranges_of(text: object) -> tuple[tuple[int, int], ...] | None:
    """Return the (first, last) ranges that a receipt names; None if unreadable."""
    try:
        return tuple(ranges_in(text))
    except ValueError:
        return None


def receipt_rows(
    database: Database, columns: str, where: str = "1", parameters: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Yield rows of the table ``receipt r`` in order of id, a page at a time.

    Args:
        database: Of the journal.
        columns: What to select; the first one is the id.
        where: A condition; its parameters begin with ?3.
        parameters: Of ``where``.
    """
    after_id = -(2**63)
    sql = (
        f"SELECT {columns} FROM {FROM if columns == COLUMNS else 'receipt r'} WHERE r.id > ?1 "
        f"AND {where} ORDER BY r.id LIMIT ?2"
    )
    while page := database.read_page(sql, (after_id, PAGE_RECEIPTS, *parameters)):
        yield from page
        after_id = page[-1][0]


def receipts_in(database: Database, ids: Sequence[int]) -> dict[int, ReceiptRecord]:
    """Return receipts by id, without those that are not there."""
    rows = receipt_rows(
        database, COLUMNS, "r.id IN (SELECT value FROM json_each(?3))", (json.dumps(ids),)
    )
    return {row[0]: ReceiptRecord(*row) for row in rows}


def receipt(database: Database, receipt_id: object) -> ReceiptRecord | None:
    """Return one receipt, or None if it is not there."""
    rows = database.read(f"SELECT {COLUMNS} FROM {FROM} WHERE r.id = ?", (receipt_id,))
    return ReceiptRecord(*rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class EntryAudit:
    """One entry in full.

    Attributes:
        entry: As recorded, and its present state.
        writer_seq, digest: Its place in its writer's chain, and the chain's digest up to it.
        writer: The process that recorded it.
        receipts: Every request that carried it and every decision about it, in order. They include
            requests that failed, were in doubt or were released.
        receipts_omitted: How many there are beyond ``RECEIPTS_MAX``.
        settled_by: The request that settled it without naming it: an earlier upload of the same
            content.
        superseded_by: The later entry that was delivered instead of it.
        earlier, later: The entries of the same kind and name just before and after it; None for
            metrics.
        unreadable: Receipts of the component whose list of entries can't be read.
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
        """Convert to what ``json.dumps`` takes, see ``journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


def entry(journal: Journal | str | os.PathLike[str] | None, seq: int) -> EntryAudit | None:
    """Return all that a journal knows of one entry; None if it has no such entry.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        seq: The entry's place in the journal.

    Raises:
        JournalError: The journal can't be read.
    """
    if not 0 < seq <= SEQ_MAX:
        return None
    with view.opened(journal) as own, view.snapshot(own.database):
        found = entry_of(own, seq)
        return None if found is None else _audited(own.database, found)


def _audited(database: Database, found: AuditedEntry) -> EntryAudit:
    ((component_id, writer_seq, digest),) = database.read(
        "SELECT component_id, writer_seq, digest FROM entry WHERE seq = ?", (found.seq,)
    )
    named, omitted, unreadable = _naming(database, component_id, found.seq)
    settled_by = None
    if found.receipt_id is not None and not any(each.id == found.receipt_id for each in named):
        settled_by = receipt(database, found.receipt_id)
    earlier, later = _neighbours(database, component_id, found)
    return EntryAudit(
        entry=found,
        writer_seq=writer_seq,
        digest=digest,
        writer=writer_records.writer(database, found.writer_id),
        receipts=named,
        receipts_omitted=omitted,
        settled_by=settled_by,
        superseded_by=_superseded_by(found),
        earlier=earlier,
        later=later,
        unreadable=unreadable,
    )


def _naming(
    database: Database, component_id: object, seq: int
) -> tuple[tuple[ReceiptRecord, ...], int, int]:
    ids: list[int] = []
    omitted = unreadable = 0
    for receipt_id, text in receipt_rows(
        database, "r.id, r.entries", "r.component_id = ?3", (component_id,)
    ):
        ranges = ranges_of(text)
        if ranges is None:
            unreadable += 1
        elif any(first <= seq <= last for first, last in ranges):
            if len(ids) < RECEIPTS_MAX:
                ids.append(receipt_id)
            else:
                omitted += 1
    found = (receipt(database, receipt_id) for receipt_id in ids)
    return tuple(each for each in found if each is not None), omitted, unreadable


def _superseded_by(found: AuditedEntry) -> int | None:
    """Read the later entry from the settlement's reason, which the reconciler writes."""
    said = (
        re.fullmatch(r"entry (\d{1,19}) overrides it", found.reason)
        if found.superseded and isinstance(found.reason, str)
        else None
    )
    return int(said[1]) if said else None


def _neighbours(
    database: Database, component_id: object, found: AuditedEntry
) -> tuple[int | None, int | None]:
    if found.stream == "metric":
        return None, None
    same = (
        "FROM entry WHERE component_id = ?1 AND stream <> 'metric' AND kind IS ?2 AND name IS ?3 "
        "AND seq"
    )
    key = (component_id, found.kind, found.name, found.seq)
    ((earlier,),) = database.read(f"SELECT max(seq) {same} < ?4", key)
    ((later,),) = database.read(f"SELECT min(seq) {same} > ?4", key)
    return earlier, later
