"""Ask, before anything is sent, whether another copy of the journal was delivered further.

A copy that was synced elsewhere left anchors outside: numbered documents, in one folder for each
journal id. So did the journal that a backup came from. One request lists them from this copy's
newest on. An anchor that this copy did not make is fetched. If it names an attestation that is
missing here, others sent what is pending here, and it would be sent twice unnoticed.

Invariants: nothing is changed. If the question fails, the pass continues.

Must not know any particular remote.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from journaltrack.errors import COPY_AHEAD_HINT, JournalBehindError, JournalError, described
from journaltrack.journal.view import iso_seconds
from journaltrack.replay.evidence.anchors import (
    NAME,
    decode,
    folder_of,
    has_to_wait,
    known_place,
    last,
    name_of,
    own,
    place_of_artifacts,
)
from journaltrack.util.guard import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.anchors import HeadsDocument
    from journaltrack.replay.lease import Gate
    from journaltrack.replay.remote import Remote

logger = logging.getLogger(__name__)

T = TypeVar("T")

ASK_S: Final = 3.0
"""Our own limit: seconds that a pass waits for the answer of ``ask``.

A store that does not answer keeps metrics back no longer, and only where it answered before.
"""
_FETCHED_MAX: Final = 8
"""Our own limit: of the anchors that others made, so many of the newest are fetched."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Describe another copy of the journal, as its anchor tells of it.

    Attributes:
        number: Of the newest anchor.
        made_at_ns: When that copy made the anchor that shows it, nanoseconds since the epoch.
    """

    number: int
    made_at_ns: int

    def error(self) -> JournalBehindError:
        """Return what to raise instead of sending."""
        anchored = f"it was anchored at {iso_seconds(self.made_at_ns)} (number {self.number})"
        return JournalBehindError(
            "another copy of this journal was delivered further than this one: "
            f"{anchored} after requests of which nothing is known here; nothing was sent",
            hint=COPY_AHEAD_HINT,
        )


def ask(
    database: Database,
    remote: Remote,
    places: str,
    gate: Gate,
    now_ns: int,
    prefix: str | None = "",
) -> Ahead | None:
    """Return another copy that is ahead. None if there is none, or it can't be told.

    Args:
        database: Of the journal.
        remote: Where its anchors are.
        places: Where they are put: see ``make``. "off" and "parameter": nobody is asked. An anchor
            in a parameter does not say of which journal it is.
        gate: Of the pass.
        now_ns: Nanoseconds since the epoch.
        prefix: See ``make``.
    """
    asked = _asked_places(database, places, prefix)
    if not asked or has_to_wait(database, now_ns):
        return None
    until = time.monotonic() + ASK_S

    def answer(request: Callable[[], T]) -> T:
        """Ask within the time that all of these questions share."""
        return bounded(request, lambda: min(until - time.monotonic(), gate.remaining_s()))

    for place in asked:
        try:
            found = _ahead_at(database, remote, place, answer)
        except JournalError:  # noqa: PERF203 - a request costs more
            raise
        # The store may do anything, and the pass continues.
        except Exception as error:  # noqa: BLE001
            logger.info(
                "no answer whether another copy is ahead, the pass continues: %s", described(error)
            )
        else:
            if found is not None:
                return found
    return None


def _asked_places(
    database: Database, places: str, prefix: str | None
) -> list[tuple[str | None, str | None]]:
    """Return where anchors of another copy may be.

    Where this copy knows of none, that is also where older versions put them: below the prefix of
    the artifacts.
    """
    if places in {"off", "parameter"}:
        return []
    known, last_one = known_place(database), place_of_artifacts(database)
    if known is not None:
        return [known]
    if last_one is not None:
        beside = last_one if prefix is None else (last_one[0], prefix)
        return list(dict.fromkeys([beside, last_one]))
    return list(dict.fromkeys([(None, prefix), (None, None)])) if places == "s3" else []


def _ahead_at(
    database: Database,
    remote: Remote,
    place: tuple[str | None, str | None],
    answer: Callable[[Callable[[], Any]], Any],
) -> Ahead | None:
    """Return another copy that is ahead, by its anchors in one place."""
    journal_id = str(database.read("SELECT journal_id FROM meta")[0][0])
    known, where = last(database), (*place, folder_of(journal_id))
    listed = answer(lambda: remote.document_names(*where, f"{known.number if known else 0:08d}"))
    newest = known and name_of(known.number, known.sha256)
    others = {name for name in listed if name != newest and NAME.fullmatch(name)}
    names = sorted(others - _own_names(database)) if others else []
    for name in reversed(names[-_FETCHED_MAX:]):
        document = decode(answer(partial(remote.document, *where, name)) or b"")
        if (
            document is not None
            and document.journal_id == journal_id
            and not _is_known(database, document)
        ):
            return Ahead(int(names[-1].partition("-")[0]), document.made_at_ns)
    return None


def _own_names(database: Database) -> set[str]:
    """Return the names of all anchors that this copy knows of.

    A copy that was synced elsewhere may have brought its receipts.
    """
    return {name_of(anchor.number, anchor.sha256) for anchor in own(database)}


def _is_known(database: Database, document: HeadsDocument) -> bool:
    """Return whether this copy has every attestation that the anchor names.

    Then the anchor is its own, and only the answer was lost.
    """
    sql = (
        "SELECT w.uuid, a.writer_seq, a.digest FROM json_each(?) j "
        "JOIN writer w ON w.uuid = json_extract(j.value, '$[0]') "
        "JOIN attestation a ON a.writer_id = w.id "
        "AND a.writer_seq = json_extract(j.value, '$[1]')"
    )
    asked = {(uuid, number): digest for uuid, (number, digest) in document.attestations.items()}
    here = {
        (uuid, number): bytes(digest).hex() if isinstance(digest, bytes) else ""
        for uuid, number, digest in database.read(sql, (json.dumps(list(asked)),))
    }
    return here == asked
