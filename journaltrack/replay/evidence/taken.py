"""Where attestations came from that this journal's own passes did not make: a bundle, a file of receipts, another journal.

Whoever takes attestations over says so in one of its own, before the first of them: which ones, and from what. So they can be told
apart for ever from those of what was done here (``hearsay``), whatever the ones taken over say of themselves.

Taking over takes many transactions. The first one says that it has begun, the last one that it has ended: between them entries may be
pending here that the source has sent, so that nothing is sent from here (``refuse_unfinished``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import JournalBehindError
from journaltrack.journal.chain import Removed, read_body, take_gaps
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
_BEGUN: Final = "begun"
_ENDED: Final = "ended"
_ID_CHARS: Final = 16
_ALL: Final = (
    "SELECT w.host, w.user, r.finished_at_ns, w.uuid, a.writer_seq, a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
    f"JOIN writer w ON w.id = a.writer_id WHERE r.component_id IS NULL AND r.action = '{TAKEN}' ORDER BY a.id DESC"
)
_NOTES: Final = (  # of those that have ended, no body is read
    "SELECT r.outcome, r.finished_at_ns, w.uuid, a.writer_seq, a.id, CASE WHEN r.outcome = 'ended' THEN a.body END FROM receipt r "
    "JOIN attestation a ON a.receipt_id = r.id JOIN writer w ON w.id = a.writer_id "
    f"WHERE r.component_id IS NULL AND r.action = '{TAKEN}' AND r.outcome IN ('{_BEGUN}', '{_ENDED}') ORDER BY a.id"
)
_ENDS_OF_OTHERS: Final = "SELECT body FROM attestation WHERE receipt_id IS NULL AND instr(body, '\"ends\"')"
_WITH_GAPS: Final = (
    "SELECT a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id WHERE r.component_id IS NULL "
    f"AND r.action = '{TAKEN}' AND r.outcome = '{_BEGUN}' AND instr(a.body, '\"gaps\"') ORDER BY a.id"
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
    _note(connection, attestor, "taken", _of(origin, places) | ({"whole": True} if whole else {}))


def begin(
    connection: sqlite3.Connection,
    attestor: Attestor,
    origin: Origin,
    places: Mapping[str, tuple[int, int]],
    *,
    source: str,
    gaps: Sequence[tuple[str, int, int, str]] = (),
    is_told_all: bool = True,
) -> None:
    """Inside of a transaction: say that these attestations are being taken from there, and that it has not ended.

    Args:
        connection: Of the transaction.
        attestor: Of this process.
        origin: Of the source.
        places: By the process's uuid: the first and the last of its attestations.
        source: Where it is, for whoever does it again.
        gaps: Places that were removed there between the entries that come: (uuid, first, last, digest). The attestations tell of them.
        is_told_all: Whether the attestations tell all that became of entries there.
    """
    more = {"source": source, "gaps": [list(gap) for gap in gaps] or None, "found": None if is_told_all else True}
    _note(connection, attestor, _BEGUN, _of(origin, places) | {name: value for name, value in more.items() if value is not None})


def end(connection: sqlite3.Connection, attestor: Attestor, those: Iterable[Begun]) -> None:
    """Inside of a transaction: say that these have ended, or that they are given up."""
    ends = [list(each.note) for each in those]
    if ends:
        _note(connection, attestor, _ENDED, {"ends": ends})


def _of(origin: Origin, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    return {
        "origin": {"kind": origin.kind, "id": origin.id},
        "attestations": {uuid: as_text([interval]) for uuid, interval in places.items()},
    }


def _note(connection: sqlite3.Connection, attestor: Attestor, outcome: str, more: Mapping[str, Any]) -> None:
    attestor.decide(connection, TAKEN, outcome, None, (), more=more)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A merge, or an import of receipts, that was begun and has not ended.

    Attributes:
        kind, id: Of what is taken over, see ``Origin``.
        source: Where that was.
        at_ns: When it began, nanoseconds since the epoch.
    """

    kind: str
    id: str
    source: str
    at_ns: int

    @property
    def text(self) -> str:
        """What is the matter."""
        name = {"bundle": "the bundle", "receipts": "the receipts"}.get(self.kind, "the journal")
        which = f"{name} {limits.shown(self.id[:_ID_CHARS])} ({limits.shown(self.source)})"
        return f"{'an import' if self.kind == 'receipts' else 'a merge'} of {which} is not finished"

    @property
    def hint(self) -> str:
        """What to do about it."""
        source = limits.shown(self.source)
        again = {
            "receipts": f"run `journaltrack receipts import` of {source} again",
            "bundle": "sync the bundle again, or merge its journal again",
        }.get(self.kind, f"run `journaltrack merge` of {source} again")
        return f"{again}: that finishes it; if the source is lost, `journaltrack sync --even-if-behind` sends what is pending as it is known here"


class Begun(NamedTuple):
    """The same with what is to come.

    Attributes:
        what: It.
        note: The process that began it, and the place of the attestation in which it said so.
        places: By the process's uuid: (first, last) of the attestations that it brings.
        is_told_all: Whether these tell all that became of entries there.
    """

    what: Unfinished
    note: tuple[str, int]
    places: Mapping[str, list[tuple[int, int]]]
    is_told_all: bool

    def is_here(self, heads: Mapping[str, int]) -> bool:
        """Return whether all that it was to bring came otherwise, given how many attestations of each process are here."""
        return self.is_told_all and all(heads.get(uuid, 0) >= last for uuid, runs in self.places.items() for _, last in runs)


def unfinished(database: Database) -> list[Begun]:
    """Return what was begun here, or in the journal of which this is a copy, and has not ended; in order."""
    begun: dict[tuple[str, int], tuple[int, int]] = {}
    for outcome, at_ns, uuid, place, number, body in database.read(_NOTES):
        if outcome == _BEGUN:
            begun[str(uuid), place] = (number, at_ns)
        for note in _ends(body):
            begun.pop(note, None)
    return [each for note, where in begun.items() if (each := _begun(database, note, *where)) is not None]


def _begun(database: Database, note: tuple[str, int], number: int, at_ns: int) -> Begun | None:
    ((body,),) = database.read("SELECT body FROM attestation WHERE id = ?", (number,))
    members = read_body(body) or {}
    try:
        kind, name = str(members["origin"]["kind"]), str(members["origin"]["id"])
        places = {str(uuid): ranges_in(text) for uuid, text in members["attestations"].items()}
        return Begun(Unfinished(kind, name, str(members["source"]), int(at_ns)), note, places, members.get("found") is not True)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # a crafted one


def _ends(body: object) -> list[tuple[str, int]]:
    """The notes that it says have ended."""
    listed = (read_body(body) or {}).get("ends")
    return [(str(each[0]), each[1]) for each in listed if isinstance(each, list) and len(each) == 2] if isinstance(listed, list) else []  # noqa: PLR2004


def ended_elsewhere(database: Database) -> set[tuple[str, int]]:
    """Return the notes of which another copy says that they have ended; reads what was attested without a request."""
    return {note for (body,) in database.read(_ENDS_OF_OTHERS) for note in _ends(body)}


def gaps_to_come(database: Database) -> dict[str, Removed]:
    """Return what was removed in the sources of merges between entries that came from there, by their writers.

    The attestations that tell of it come after the entries, or never if the merge was given up.
    """
    gaps: dict[str, Removed] = {}
    for (body,) in database.read(_WITH_GAPS):
        with contextlib.suppress(ValueError, TypeError):  # a crafted one: nothing was removed by it
            take_gaps(gaps, read_body(body) or {}, "gaps")
    return gaps


def refuse_unfinished(database: Database) -> None:
    """Raise unless all that was begun has ended.

    Raises:
        JournalBehindError: A merge, or an import of receipts, was killed: what is pending here may have been sent by its source.
    """
    for each in unfinished(database):
        raise JournalBehindError(
            f"{each.what.text} in the journal at {database.path.parent}: what is pending here may have been sent there already; nothing was sent",
            hint=each.what.hint,
        )


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
