"""Whether another copy of a journal was delivered further than this one: asked before anything is sent. Changes nothing.

A copy that was synced elsewhere, or the journal that a backup of it came from, left anchors outside: documents with numbers, in one
folder for each journal id. One request lists those from this copy's newest on. One that this copy did not make is fetched: if it
names an attestation that is not here, others sent what is pending here, and nobody would notice that it is sent twice.

What can't be asked keeps no pass from going on. Must not know what is sent.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from journaltrack.errors import COPY_AHEAD_HINT, JournalBehindError, JournalError, described
from journaltrack.replay.evidence import anchors
from journaltrack.util.threads import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.gate import Gate
    from journaltrack.replay.remote import Remote

T = TypeVar("T")

logger = logging.getLogger(__name__)

ASK_S: Final = 3.0
"""Ours: how long a pass waits for the answer. A store that does not answer keeps metrics back for no longer, and only where it answered before."""
_FETCHED_MAX: Final = 8
"""Ours: of the anchors that others made, the newest are looked at."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Another copy of the journal, as its anchor tells of it.

    Attributes:
        number: Of the newest anchor there is.
        made_at_ns: When that copy made the one that shows it, nanoseconds since the epoch.
    """

    number: int
    made_at_ns: int

    def error(self) -> JournalBehindError:
        """What to raise instead of sending."""
        made_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(max(self.made_at_ns // 10**9, 0), 2**33)))
        return JournalBehindError(
            f"another copy of this journal was delivered further than this one: it was anchored at {made_at} UTC (number {self.number}) after "
            "requests of which nothing is known here; nothing was sent",
            hint=COPY_AHEAD_HINT,
        )


def ask(database: Database, remote: Remote, places: str, gate: Gate, now_ns: int) -> Ahead | None:
    """Another copy that is ahead; None if there is none, or that can't be told.

    Args:
        database: Of the journal.
        remote: Where its anchors are.
        places: Where they are put, see ``anchors.make``. "off": nobody is asked. Those in parameters do not say of which journal they are.
        gate: Of the pass.
        now_ns: Nanoseconds since the epoch.
    """
    if places in {"off", "parameter"} or anchors.has_to_wait(database, now_ns):
        return None
    place = anchors.newest_place(database) or ((None, None) if places == "s3" else None)
    if place is None:
        return None
    journal_id = str(database.read("SELECT journal_id FROM meta")[0][0])
    known, where = anchors.last(database), (*place, anchors.folder_of(journal_id))
    until = time.monotonic() + ASK_S

    def answer(request: Callable[[], T]) -> T:
        return bounded(request, lambda: min(until - time.monotonic(), gate.remaining_s()))

    try:
        listed = answer(lambda: remote.document_names(*where, f"{known.number if known else 0:08d}"))
        own = known and anchors.name_of(known.number, known.sha256)
        others = {name for name in listed if name != own and anchors.NAME.fullmatch(name)}
        names = sorted(others - _own_names(database)) if others else []
        for name in reversed(names[-_FETCHED_MAX:]):
            document = anchors.decode(answer(partial(remote.document, *where, name)) or b"")
            if document is not None and document.journal_id == journal_id and not _is_known(database, document):
                return Ahead(int(names[-1].partition("-")[0]), document.made_at_ns)
    except JournalError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the store does
        logger.info("whether another copy of the journal is ahead could not be asked: %s", described(error))
    return None


def _own_names(database: Database) -> set[str]:
    """Of all anchors that this copy knows of: one that was synced elsewhere may have brought its receipts."""
    return {anchors.name_of(anchor.number, anchor.sha256) for anchor in anchors.own(database)}


def _is_known(database: Database, document: anchors.HeadsDocument) -> bool:
    """Whether this copy has all that the anchor names of what became of entries: it is its own, and only its answer was lost."""
    sql = (
        "SELECT w.uuid, a.writer_seq, a.digest FROM json_each(?) j JOIN writer w ON w.uuid = json_extract(j.value, '$[0]') "
        "JOIN attestation a ON a.writer_id = w.id AND a.writer_seq = json_extract(j.value, '$[1]')"
    )
    asked = {(uuid, number): digest for uuid, (number, digest) in document.attestations.items()}
    here = {
        (uuid, number): bytes(digest).hex() if isinstance(digest, bytes) else ""
        for uuid, number, digest in database.read(sql, (json.dumps(list(asked)),))
    }
    return here == asked
