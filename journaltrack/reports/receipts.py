"""The requests of a journal, and which entries each names. Prints nothing, changes nothing.

``receipt.entries`` is text such as "1-3,7", and no index leads from an entry to its receipts: those of a component are
read in order (100,000 in 0.2 s), a page at a time. A list that can't be read names nothing, and is counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal.removed import PRUNE
from journaltrack.replay.evidence import in_doubt
from journaltrack.replay.evidence.statements import MERGE, READBACK, REOPEN, REPAIR
from journaltrack.util.intervals import ranges_in

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

PAGE_RECEIPTS: Final = 5_000
RELEASE: Final = "release"
"""The action of receipts for what ``retry`` made pending again."""
NO_REQUESTS: Final = frozenset({RELEASE, REOPEN, READBACK, in_doubt.SETTLE, REPAIR, PRUNE, MERGE})
"""Actions of receipts that carried no entry: what was decided or found out of entries that others had carried."""
COLUMNS: Final = (
    "r.id, r.action, r.component_id, r.entries, r.started_at_ns, r.finished_at_ns, r.outcome, r.attempts, r.request_id, r.error_code, "
    "r.error_text, r.generation, w.host, w.user, w.pid"
)
FROM: Final = "receipt r LEFT JOIN attestation a ON a.receipt_id = r.id LEFT JOIN writer w ON w.id = a.writer_id"


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """One request, or one decision about what earlier requests had carried.

    Attributes:
        id: Its place; receipts are in the order in which they were begun.
        action: "ensure", "associate", "upload", "update", "metrics"; "release", "readback", "settle" for decisions; "repair".
        entries: The entries that it names, as "1-3,7".
        outcome: None while no answer is recorded.
        attempts: Times that it was sent.
        generation: Of the lease under which it was made: one a pass.
        host, user, pid: Of the process that made it, or found it unfinished; None until it is finished.
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

    @property
    def is_request(self) -> bool:
        """Whether it carried its entries."""
        return self.action not in NO_REQUESTS


def ranges_of(text: object) -> tuple[tuple[int, int], ...] | None:
    """The (first, last) of the entries that a receipt names; None if it can't be read."""
    try:
        return tuple(ranges_in(text))
    except ValueError:
        return None


def rows_of(database: Database, columns: str, where: str = "1", parameters: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Rows of the table (``r``) in order of id, a page at a time; the first of ``columns`` is the id.

    ``where`` has its ``parameters`` from ?3 on.
    """
    after_id = -(2**63)
    sql = f"SELECT {columns} FROM {FROM if columns == COLUMNS else 'receipt r'} WHERE r.id > ?1 AND {where} ORDER BY r.id LIMIT ?2"
    while page := database.read_page(sql, (after_id, PAGE_RECEIPTS, *parameters)):
        yield from page
        after_id = page[-1][0]


def receipts_in(database: Database, ids: Sequence[int]) -> dict[int, ReceiptRecord]:
    """Some of them by id, as far as they are there."""
    rows = rows_of(database, COLUMNS, "r.id IN (SELECT value FROM json_each(?3))", (json.dumps(ids),))
    return {row[0]: ReceiptRecord(*row) for row in rows}


def receipt(database: Database, receipt_id: object) -> ReceiptRecord | None:
    """One of them; None if it is not there."""
    rows = database.read(f"SELECT {COLUMNS} FROM {FROM} WHERE r.id = ?", (receipt_id,))
    return ReceiptRecord(*rows[0]) if rows else None
