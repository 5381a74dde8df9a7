"""What counts as delivered because others say so, told apart from what this journal's own passes did. Changes nothing.

An attestation that was taken over proves that it is in its chain, and not that its maker sent anything. What would count as
delivered without all of them is this installation's own doing; the rest is hearsay, of the bundle, file or journal that told it.
Reads attestations alone, and nothing where none was ever taken over.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from journaltrack.errors import InvalidInputError
from journaltrack.journal.chain import read_body
from journaltrack.journal.queries import Places
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.taken import Taken
from journaltrack.reports.proof.attestations import Evidence, take
from journaltrack.util.intervals import merged, without

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.taken import Origin

ALL: Final = "all"
"""Instead of an id: everyone is believed."""
_ID_CHARS_MIN: Final = 8
_ARRIVED: Final = frozenset({"delivered", "superseded"})
_ATTESTATIONS: Final = "SELECT a.id, w.uuid, a.writer_seq, a.receipt_id, a.body FROM attestation a JOIN writer w ON w.id = a.writer_id WHERE a.id > ? ORDER BY a.id LIMIT 10000"
_OF_COMPONENT: Final = (
    "SELECT count(*) FROM json_each(?) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') "
    "WHERE e.component_id = ?"
)
_CONTENTS_OF_COMPONENT: Final = (
    "SELECT count(DISTINCT sha256) FROM location WHERE sha256 IN (SELECT value FROM json_each(?)) AND component_id = ?"
)
_SETTLED: Final = (
    "SELECT d.seq FROM json_each(?) i CROSS JOIN delivery d ON d.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') "
    "WHERE d.outcome IN ('delivered', 'superseded')"
)

_Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Hearsay:
    """What one bundle, file or journal alone tells.

    Attributes:
        kind, id: See ``taken.Origin``.
        at_ns: When it was taken over last, nanoseconds since the epoch; ``by``: by whom.
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
    """The same with what it is about: (first, last) of entries by ``seq``, contents by SHA-256."""

    hearsay: Hearsay
    seqs: tuple[tuple[int, int], ...]
    sha256s: frozenset[str]


def of_component(database: Database, component_id: int) -> tuple[Hearsay, ...]:
    """What others alone tell of a component."""
    found = []
    for each in told(database):
        ((entries,),) = database.read(_OF_COMPONENT, (json.dumps(each.seqs), component_id))
        ((contents,),) = database.read(_CONTENTS_OF_COMPONENT, (json.dumps(sorted(each.sha256s)), component_id))
        if entries or contents:
            found.append(replace(each.hearsay, entries=entries, contents=contents))
    return tuple(found)


def told(database: Database) -> list[Told]:
    """All that others alone tell of entries that are here, by who tells it, those that were taken over first before."""
    sources: dict[Origin, list[Taken]] = defaultdict(list)
    for each in taken.all_of(database):
        sources[each.origin].append(each)
    if not sources:
        return []
    own, others = _evidence(database, sources)
    for origin in others:
        sources.setdefault(origin, [Taken(origin, 0, "", {})])
    writers = {str(uuid): int(i) for uuid, i in database.read("SELECT uuid, id FROM writer")}
    with closing(Places(database)) as where:
        seen = _seqs(where, writers, own)
        arrived = {origin: _seqs(where, writers, others[origin]) for origin in sources}
    sent_contents = {sha256 for _, sha256, _, _ in own.objects}
    found = []
    for origin, takings in sources.items():
        places = arrived[origin]
        if any(each.whole for each in takings):  # also what nobody attests
            places = [(1, 2**63 - 1)]
        settled = _settled(database, without(places, seen))
        contents = {sha256 for _, sha256, _, _ in others[origin].objects} - sent_contents
        seen = merged([*seen, *settled])
        entries = sum(last - first + 1 for first, last in settled)
        if entries or contents:
            last = takings[-1]
            what = Hearsay(origin.kind, origin.id, last.at_ns, last.by, entries, len(contents))
            found.append(Told(what, tuple(settled), frozenset(contents)))
    return found


def untrusted(database: Database, trust: Collection[str] = ()) -> list[Told]:
    """Those of ``told`` that nobody vouches for.

    Args:
        database: Of the journal.
        trust: Ids, or their first 8 characters or more, of what is believed; or ``ALL``.

    Raises:
        InvalidInputError: One of them is of nothing that was taken over, or too short.
    """
    known = {each.origin.id for each in taken.all_of(database)}
    for name in trust:
        if name != ALL and (len(name) < _ID_CHARS_MIN or not any(each.startswith(name) for each in known)):
            raise InvalidInputError(
                f"nothing was taken over from {name!r}; nothing was removed",
                hint="`journaltrack audit` names what counts as delivered by hearsay, and whose; 8 characters of the id are enough",
            )
    found = told(database)
    return [each for each in found if ALL not in trust and not any(each.hearsay.id.startswith(name) for name in trust)]


def _evidence(database: Database, sources: Mapping[Origin, Iterable[Taken]]) -> tuple[Evidence, dict[Origin, Evidence]]:
    """What the attestations amount to that were made here, and those that were taken from each source."""
    origins: dict[str, list[tuple[int, int, Origin]]] = defaultdict(list)
    for origin, takings in sources.items():
        for each in takings:
            for uuid, intervals in each.places.items():
                origins[uuid] += [(first, last, origin) for first, last in intervals]
    own, others = Evidence(), defaultdict(Evidence, {origin: Evidence() for origin in sources})
    after = 0
    while rows := database.read_page(_ATTESTATIONS, (after,)):
        for number, uuid, writer_seq, receipt_id, body in rows:
            after = number
            members = read_body(body) if isinstance(body, str) else None
            if members is None:
                continue
            whose = [origin for first, last, origin in origins.get(uuid, ()) if type(writer_seq) is int and first <= writer_seq <= last]
            if not whose and members.get("action") == "merge":  # which delivers nothing: what it says is what it found there
                whose = [taken.journal(str(members.get("from")))]
            for evidence in [others[origin] for origin in whose] or [own]:
                take(evidence, number, receipt_id, members)
    return own, others


def _seqs(places: Places, writers: Mapping[str, int], evidence: Evidence) -> _Ranges:
    """Entries that are here, and of which it says that they arrived."""
    found: _Ranges = []
    for uuid in evidence.coverage.keys() & writers.keys():
        for first, last in merged((first, last) for first, last, claim in evidence.coverage[uuid].all() if claim.outcome in _ARRIVED):
            found += places.find(writers[uuid], first, last)
    return merged(found)


def _settled(database: Database, places: _Ranges) -> _Ranges:
    """Those of these entries that count as delivered."""
    return merged((seq, seq) for (seq,) in database.read(_SETTLED, (json.dumps(places),)))
