"""Note where attestations came from: a bundle, receipts or another journal.

Whoever takes attestations over says so in one of its own, before the first of them: which ones, and
from what. So they can always be told apart from those of what was done here (``hearsay``), whatever
they say of themselves.

To take over needs many transactions. The first says that it has begun, and the last that it has
ended. Between them, entries may be pending here that the source has sent. So nothing is sent from
here (``refuse_unfinished``).
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
_IS_TAKEN: Final = f"r.component_id IS NULL AND r.action = '{TAKEN}'"
_ANY: Final = f"SELECT 1 FROM receipt r WHERE {_IS_TAKEN} LIMIT 1"
_ALL: Final = (
    "SELECT w.host, w.user, r.finished_at_ns, w.uuid, a.writer_seq, a.body "
    "FROM receipt r JOIN attestation a ON a.receipt_id = r.id JOIN writer w ON w.id = a.writer_id "
    f"WHERE {_IS_TAKEN} ORDER BY a.id DESC"
)
# Of those that have begun, the body is read only if needed (``_begun``).
_NOTES: Final = (
    "SELECT r.outcome, r.finished_at_ns, w.uuid, a.writer_seq, a.id, "
    "CASE WHEN r.outcome = 'ended' THEN a.body END FROM receipt r "
    "JOIN attestation a ON a.receipt_id = r.id JOIN writer w ON w.id = a.writer_id "
    f"WHERE {_IS_TAKEN} AND r.outcome IN ('{_BEGUN}', '{_ENDED}') ORDER BY a.id"
)
_ENDS_OF_OTHERS: Final = (
    "SELECT body FROM attestation WHERE receipt_id IS NULL AND instr(body, '\"ends\"')"
)
_WITH_GAPS: Final = (
    "SELECT a.body FROM receipt r JOIN attestation a ON a.receipt_id = r.id "
    f"WHERE {_IS_TAKEN} AND r.outcome = '{_BEGUN}' "
    "AND instr(a.body, '\"gaps\"') ORDER BY a.id"
)
_IDS: Final = re.compile(r"[0-9a-f-]{8,64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Say what attestations were taken from.

    Attributes:
        kind: "bundle", "receipts" or "journal".
        id: The SHA-256 that its maker's command printed. Of a journal: its id.
    """

    kind: str
    id: str


def journal(journal_id: str) -> Origin:
    """Return a journal as an origin.

    Whoever made the journal chose its id. An odd one is replaced by its SHA-256.
    """
    return Origin(
        "journal",
        journal_id
        if _IDS.fullmatch(journal_id)
        else hashlib.sha256(journal_id.encode("utf-8", "replace")).hexdigest(),
    )


def bundle(folder: Path) -> Origin | None:
    """Return the bundle that a journal's folder was unpacked from, or None.

    The bundle's manifest in the folder says so.
    """
    try:
        descriptor = os.open(
            folder / BUNDLE_MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return Origin("bundle", hashlib.sha256(file.read(MANIFEST_BYTES_MAX)).hexdigest())


@dataclass(frozen=True, slots=True)
class Taken:
    """Hold attestations that were taken over.

    Attributes:
        origin: Where they came from.
        at_ns: When, nanoseconds since the epoch.
        by: Who took them over.
        places: By their process's uuid: (first, last) of their places.
        whole: Whether the journal itself came so, with everything in it.
    """

    origin: Origin
    at_ns: int
    by: str
    places: Mapping[str, list[tuple[int, int]]]
    whole: bool = False


def is_note(said: Said) -> bool:
    """Return whether an attestation only says where others came from.

    This journal's own ones are known by their receipt.
    """
    return said.action == TAKEN and not said.settled and said.component is None


def record(
    connection: sqlite3.Connection,
    attestor: Attestor,
    origin: Origin,
    places: Mapping[str, tuple[int, int]],
    *,
    whole: bool = False,
) -> None:
    """Say that these attestations were taken from there.

    Call it inside a transaction.
    """
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
    """Say that these attestations are being taken from there.

    Call it inside a transaction.

    Args:
        connection: Of the transaction.
        attestor: Of this process.
        origin: Of the source.
        places: By the process's uuid: the first and the last of its attestations.
        source: Where it is, for whoever tries it again.
        gaps: Places removed there between the entries that come: (uuid, first, last, digest). The
            attestations tell of them.
        is_told_all: Whether the attestations tell everything that became of entries there.
    """
    more = {
        "source": source,
        "gaps": [list(gap) for gap in gaps] or None,
        "found": None if is_told_all else True,
    }
    _note(
        connection,
        attestor,
        _BEGUN,
        _of(origin, places) | {name: value for name, value in more.items() if value is not None},
    )


def end(connection: sqlite3.Connection, attestor: Attestor, those: Iterable[Begun]) -> None:
    """Say that these have ended, or are given up. Call it inside a transaction."""
    ends = [list(each.note) for each in those]
    if ends:
        _note(connection, attestor, _ENDED, {"ends": ends})


def _of(origin: Origin, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    return {
        "origin": {"kind": origin.kind, "id": origin.id},
        "attestations": {uuid: as_text([interval]) for uuid, interval in places.items()},
    }


def _note(
    connection: sqlite3.Connection, attestor: Attestor, outcome: str, more: Mapping[str, Any]
) -> None:
    attestor.decide(connection, TAKEN, outcome, None, (), more=more)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Describe a merge, or an import of receipts, that has begun and has not ended.

    Attributes:
        kind: Of the origin. See ``Origin``.
        id: Of the origin.
        source: Where that was.
        at_ns: When it began, nanoseconds since the epoch.
    """

    kind: str
    id: str
    source: str
    at_ns: int

    @property
    def text(self) -> str:
        """Return what happened."""
        name = {"bundle": "the bundle", "receipts": "the receipts"}.get(self.kind, "the journal")
        which = f"{name} {limits.shown(self.id[:_ID_CHARS])} ({limits.shown(self.source)})"
        return f"{'an import' if self.kind == 'receipts' else 'a merge'} of {which} is not finished"

    @property
    def hint(self) -> str:
        """Return what to do about it."""
        source = limits.shown(self.source)
        again = {
            "receipts": f"run `journaltrack receipts import` of {source} again",
            "bundle": "sync the bundle again, or merge its journal again",
        }.get(self.kind, f"run `journaltrack merge` of {source} again")
        lost = "if the source is lost, `journaltrack sync --even-if-behind`"
        return f"{again}: that finishes it; {lost} sends what is pending as it is known here"


class Begun(NamedTuple):
    """Hold an unfinished takeover, and what is still to come.

    Attributes:
        what: The takeover.
        note: The process that began it, and the place of the attestation that says so.
        places: By the process's uuid: (first, last) of the attestations that it brings.
        is_told_all: Whether these tell everything that became of entries there.
    """

    what: Unfinished
    note: tuple[str, int]
    places: Mapping[str, list[tuple[int, int]]]
    is_told_all: bool

    def is_here(self, heads: Mapping[str, int]) -> bool:
        """Return whether everything that it was to bring came otherwise.

        Args:
            heads: By the process's uuid: how many of its attestations are here.
        """
        return self.is_told_all and all(
            heads.get(uuid, 0) >= last for uuid, runs in self.places.items() for _, last in runs
        )


def unfinished(database: Database) -> list[Begun]:
    """Return, in order, what was begun and has not ended.

    It was begun here, or in the journal of which this is a copy.
    """
    begun: dict[tuple[str, int], tuple[int, int]] = {}
    for outcome, at_ns, uuid, place, number, body in _records(database, _NOTES):
        if outcome == _BEGUN:
            begun[str(uuid), place] = (number, at_ns)
        for note in _ends(body):
            begun.pop(note, None)
    return [
        each
        for note, where in begun.items()
        if (each := _begun(database, note, *where)) is not None
    ]


def _records(database: Database, sql: str) -> list[Any]:
    """Read records of what was taken over. There nearly never are any, and that is quickly seen."""
    return database.read(sql) if database.read(_ANY) else []


def _begun(database: Database, note: tuple[str, int], number: int, at_ns: int) -> Begun | None:
    ((body,),) = database.read("SELECT body FROM attestation WHERE id = ?", (number,))
    members = read_body(body) or {}
    told = _taken(members, at_ns, "")
    if told is None or "source" not in members:
        return None
    what = Unfinished(told.origin.kind, told.origin.id, str(members["source"]), told.at_ns)
    return Begun(what, note, told.places, members.get("found") is not True)


def _taken(members: Mapping[str, Any], at_ns: object, by: str) -> Taken | None:
    """Return what the members of a body say was taken over. None if they are crafted."""
    try:
        origin = Origin(str(members["origin"]["kind"]), str(members["origin"]["id"]))
        places = {str(uuid): ranges_in(text) for uuid, text in members["attestations"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    when = at_ns if isinstance(at_ns, int) else 0
    return Taken(origin, when, by, places, whole=members.get("whole") is True)


def _ends(body: object) -> list[tuple[str, int]]:
    """Return the notes that a body says have ended."""
    listed = (read_body(body) or {}).get("ends")
    if not isinstance(listed, list):
        return []
    # Each is a process and a place.
    pairs = (each for each in listed if isinstance(each, list) and len(each) == 2)  # noqa: PLR2004
    return [(str(process), place) for process, place in pairs]


def ended_elsewhere(database: Database) -> set[tuple[str, int]]:
    """Return the notes of which another copy says that they have ended.

    Reads what was attested without a request.
    """
    return {note for (body,) in database.read(_ENDS_OF_OTHERS) for note in _ends(body)}


def gaps_to_come(database: Database) -> dict[str, Removed]:
    """Return, by writer, what sources of merges removed between entries that came.

    The attestations that tell of it come after the entries, or never if the merge was given up.
    """
    gaps: dict[str, Removed] = {}
    for (body,) in database.read(_WITH_GAPS):
        # A crafted body removed nothing.
        with contextlib.suppress(ValueError, TypeError):
            take_gaps(gaps, read_body(body) or {}, "gaps")
    return gaps


def refuse_unfinished(database: Database) -> None:
    """Refuse to send while a merge or an import of receipts has not ended.

    Raises:
        JournalBehindError: One was killed: its source may have sent what is pending here.
    """
    for each in unfinished(database):
        raise JournalBehindError(
            f"{each.what.text} in the journal at {database.path.parent}: what is pending here "
            "may have been sent there already; nothing was sent",
            hint=each.what.hint,
        )


def all_of(database: Database) -> list[Taken]:
    """Return every readable takeover that was recorded here, in order.

    What is taken over may itself say that it took something over. It gets no receipt here. In a
    journal that came whole, the record of whoever unpacked it covers it. So, from the last one
    back, what has a receipt and is not covered is this journal's own.
    """
    found: list[Taken] = []
    for host, user, at_ns, uuid, place, body in _records(database, _ALL):
        members = read_body(body) or {}
        covered = (interval for each in found for interval in each.places.get(uuid, ()))
        if type(place) is int and any(first <= place <= last for first, last in covered):
            continue
        if (told := _taken(members, at_ns, f"{user}@{host}")) is not None:
            found.append(told)
    return found[::-1]
