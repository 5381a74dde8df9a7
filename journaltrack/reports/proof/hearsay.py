"""Tell what counts as delivered only because others say so (*hearsay*).

An attestation that was taken over proves that it is in its chain. It does not prove that its maker
sent anything. What counts as delivered without all such attestations is this installation's own
doing. The rest is hearsay of the bundle, file or journal that told it.

The module reads attestations alone, and nothing if none was ever taken over. It changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from journaltrack.errors import InvalidInputError
from journaltrack.journal.chain import read_body
from journaltrack.journal.queries import ARRIVED
from journaltrack.replay.evidence import statements, taken
from journaltrack.replay.evidence.follow import Replay, replaying
from journaltrack.replay.evidence.statements import MERGE
from journaltrack.replay.evidence.taken import Taken
from journaltrack.util.intervals import SEQ_MAX, merged, size, without

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.taken import Origin

ALL: Final = "all"
"""Instead of an id: believe everyone."""
_ID_CHARS_MIN: Final = 8
_PAGE: Final = 100
"""Our limit: attestations that are read at a time. A crafted one may have any size."""
_OF_NUMBERS: Final = (
    "SELECT receipt_id, body FROM attestation WHERE id IN (SELECT value FROM json_each(?)) "
    "ORDER BY id"
)
_ATTESTATIONS: Final = (
    "SELECT a.id, w.uuid, a.writer_seq, a.receipt_id, a.body FROM attestation a "
    "JOIN writer w ON w.id = a.writer_id WHERE a.id > ? ORDER BY a.id LIMIT 10000"
)
_OF_COMPONENT: Final = (
    "SELECT count(*) FROM json_each(?) i "
    "CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
    "AND json_extract(i.value, '$[1]') WHERE e.component_id = ?"
)
_CONTENTS_OF_COMPONENT: Final = (
    "SELECT count(DISTINCT sha256) FROM location WHERE sha256 IN (SELECT value "
    "FROM json_each(?)) AND component_id = ?"
)
_SETTLED: Final = (
    "SELECT d.seq FROM json_each(?) i "
    "CROSS JOIN delivery d ON d.seq BETWEEN json_extract(i.value, '$[0]') "
    f"AND json_extract(i.value, '$[1]') WHERE {ARRIVED}"
)

_Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Hearsay:
    """What only one bundle, file or journal tells.

    Attributes:
        kind, id: See ``taken.Origin``.
        at_ns: When it was taken over last, nanoseconds since the epoch.
        by: Who took it over.
        entries: How many entries count as delivered because it says so.
        contents: How many contents count as uploaded because it says so.
    """

    kind: str
    id: str
    at_ns: int
    by: str
    entries: int
    contents: int


@dataclass(frozen=True, slots=True)
class Told:
    """Hearsay with what it is about.

    Attributes:
        seqs: The (first, last) ranges of entries by ``seq``.
        sha256s: The contents.
    """

    hearsay: Hearsay
    seqs: tuple[tuple[int, int], ...]
    sha256s: frozenset[str]


def of_component(database: Database, component_id: int) -> tuple[Hearsay, ...]:
    """Return what only others tell of a component."""
    found = []
    for each in told(database):
        ((entries,),) = database.read(_OF_COMPONENT, (json.dumps(each.seqs), component_id))
        ((contents,),) = database.read(
            _CONTENTS_OF_COMPONENT, (json.dumps(sorted(each.sha256s)), component_id)
        )
        if entries or contents:
            found.append(replace(each.hearsay, entries=entries, contents=contents))
    return tuple(found)


def told(database: Database) -> list[Told]:
    """Return what only others tell of entries that are here, by who tells it.

    The source that was taken over first comes first. What it tells does not count for later ones.
    """
    sources: dict[Origin, list[Taken]] = defaultdict(list)
    for each in taken.all_of(database):
        sources[each.origin].append(each)
    if not sources:
        return []
    found: list[Told] = []
    with replaying(database) as replay:
        others = _others(database, sources, replay)
        seen, sent_contents = replay.arrived(), replay.uploaded()
        for origin, numbers in others.items():
            takings = sources.get(origin) or [Taken(origin, 0, "", {})]
            _replay(database, replay, numbers)
            places = replay.arrived()
            # If the whole journal came from there, it also tells what nobody attests.
            if any(each.whole for each in takings):
                places = [(1, SEQ_MAX)]
            settled = _settled(database, without(places, seen))
            contents = replay.uploaded() - sent_contents
            seen = merged([*seen, *settled])
            entries = size(settled)
            if entries or contents:
                last = takings[-1]
                what = Hearsay(origin.kind, origin.id, last.at_ns, last.by, entries, len(contents))
                found.append(Told(what, tuple(settled), frozenset(contents)))
    return found


def untrusted(database: Database, trust: Collection[str] = ()) -> list[Told]:
    """Return the hearsay of sources that are not trusted.

    Args:
        database: Of the journal.
        trust: Ids of trusted sources, or their first 8 characters or more; or ``ALL``.

    Raises:
        InvalidInputError: Nothing was taken over from one of the ids, or it is too short.
    """
    known = {each.origin.id for each in taken.all_of(database)}
    for name in trust:
        if name != ALL and (
            len(name) < _ID_CHARS_MIN or not any(each.startswith(name) for each in known)
        ):
            raise InvalidInputError(
                f"nothing was taken over from {name!r}; nothing was removed",
                hint="name an id from `journaltrack audit`, or its first 8 characters",
            )
    found = told(database)
    return [
        each
        for each in found
        if ALL not in trust and not any(each.hearsay.id.startswith(name) for name in trust)
    ]


def _others(
    database: Database, sources: Mapping[Origin, Iterable[Taken]], replay: Replay
) -> dict[Origin, list[int]]:
    """Follow the attestations made here; return the others' numbers by source."""
    origins: dict[str, list[tuple[int, int, Origin]]] = defaultdict(list)
    for origin, takings in sources.items():
        for each in takings:
            for uuid, intervals in each.places.items():
                origins[uuid] += [(first, last, origin) for first, last in intervals]
    others: dict[Origin, list[int]] = {origin: [] for origin in sources}
    after = 0
    while rows := database.read_page(_ATTESTATIONS, (after,)):
        for number, uuid, writer_seq, receipt_id, body in rows:
            after = number
            whose = [
                origin
                for first, last, origin in origins.get(uuid, ())
                if type(writer_seq) is int and first <= writer_seq <= last
            ]
            members = {} if whose else read_body(body) or {}
            # A merge delivers nothing: it says what it found in the other journal.
            if members.get("action") == MERGE:
                whose = [taken.journal(str(members.get("from")))]
            for origin in whose:
                others.setdefault(origin, []).append(number)
            if not whose:
                _follow(replay, receipt_id, body)
    replay.finish()
    return others


def _replay(database: Database, replay: Replay, numbers: Sequence[int]) -> None:
    """Follow only these attestations."""
    replay.clear()
    for at in range(0, len(numbers), _PAGE):
        for receipt_id, body in database.read(_OF_NUMBERS, (json.dumps(numbers[at : at + _PAGE]),)):
            _follow(replay, receipt_id, body)
    replay.finish()


def _follow(replay: Replay, receipt_id: int | None, body: object) -> None:
    with contextlib.suppress(ValueError):
        replay.follow(statements.read(body), receipt_id)


def _settled(database: Database, places: _Ranges) -> _Ranges:
    """Return those of these entries that count as delivered."""
    return merged((seq, seq) for (seq,) in database.read(_SETTLED, (json.dumps(places),)))
