"""Where attestations came from that this journal's own passes did not make: a bundle, a file of receipts, another journal.

Whoever takes attestations over says so in one of its own, before the first of them: which ones, and from what. So they can be told
apart for ever from those of what was done here (``hearsay``), whatever the ones taken over say of themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from journaltrack.journal.chain import read_body
from journaltrack.limits import MANIFEST_BYTES_MAX
from journaltrack.util.intervals import as_text, ranges_in
from journaltrack.util.paths import BUNDLE_MANIFEST

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.attestations import Attestor
    from journaltrack.replay.evidence.statements import Said

TAKEN: Final = "taken"
"""The action of receipts for attestations that were taken over."""
_ALL: Final = (
    "SELECT w.host, w.user, r.finished_at_ns, w.uuid, a.writer_seq, a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
    f"JOIN writer w ON w.id = a.writer_id WHERE r.component_id IS NULL AND r.action = '{TAKEN}' ORDER BY a.id DESC"
)
_IDS: Final = re.compile(r"[0-9a-f-]{8,64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What attestations were taken from.

    Attributes:
        kind: "bundle", "receipts" or "journal".
        id: The SHA-256 that its maker's command printed; of a journal its id.
    """

    kind: str
    id: str


def journal(journal_id: str) -> Origin:
    """A journal as an origin; whoever made it chose its id."""
    return Origin(
        "journal", journal_id if _IDS.fullmatch(journal_id) else hashlib.sha256(journal_id.encode("utf-8", "replace")).hexdigest()
    )


def bundle(folder: Path) -> Origin | None:
    """The bundle that a journal's folder was unpacked from, by its manifest; None: it came in none."""
    try:
        descriptor = os.open(folder / BUNDLE_MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return Origin("bundle", hashlib.sha256(file.read(MANIFEST_BYTES_MAX)).hexdigest())


@dataclass(frozen=True, slots=True)
class Taken:
    """Attestations that were taken over: by their process's uuid, (first, last) of their places.

    ``whole``: the journal itself came so, and all that was in it. Times are nanoseconds since the epoch.
    """

    origin: Origin
    at_ns: int
    by: str
    places: Mapping[str, list[tuple[int, int]]]
    whole: bool = False


def is_note(said: Said) -> bool:
    """Return whether an attestation says where others came from, and nothing else. By its receipt this journal's own is known."""
    return said.action == TAKEN and not said.settled and said.component is None


def record(
    connection: sqlite3.Connection, attestor: Attestor, origin: Origin, places: Mapping[str, tuple[int, int]], *, whole: bool = False
) -> None:
    """Inside of a transaction: say that these attestations were taken from there."""
    more = {
        "origin": {"kind": origin.kind, "id": origin.id},
        "attestations": {uuid: as_text([interval]) for uuid, interval in places.items()},
        **({"whole": True} if whole else {}),
    }
    attestor.decide(connection, TAKEN, "taken", None, (), more=more)


def all_of(database: Database) -> list[Taken]:
    """All that was recorded here, in order; what can't be read is left out.

    What is taken over may itself say that it took something over. It gets no receipt here; and in a journal that came whole, it is covered
    by the record of whoever unpacked it. So from the last one back, what has a receipt and is not covered is this journal's own.
    """
    found: list[Taken] = []
    for host, user, at_ns, uuid, place, body in database.read(_ALL):
        members = read_body(body) or {}
        if any(first <= place <= last for each in found for first, last in each.places.get(uuid, ())):
            continue
        try:
            kind, name = str(members["origin"]["kind"]), str(members["origin"]["id"])
            places = {str(each): ranges_in(text) for each, text in members["attestations"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        found.append(Taken(Origin(kind, name), int(at_ns), f"{user}@{host}", places, whole=members.get("whole") is True))
    return found[::-1]
