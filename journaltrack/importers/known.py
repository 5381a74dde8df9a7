"""Know what a run has in a journal already, by content, to record nothing twice.

Points are counted, since a source may have the same one twice. Of each, eight bytes of a digest
and a count are kept, not the point. Other entries are kept as they are: they are few.

Invariant: what two processes import at once is recorded once. ``Known.is_current`` is checked in
the transaction that records: it tells whether another process has recorded something of the run
since this one last looked.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import removed, vocabulary

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft

_PAGE_ROWS: Final = 20_000
_POINTS: Final = (
    "SELECT seq, component_id, name, value, step, timestamp_ns, payload FROM entry "
    "WHERE stream = 'metric' AND component_id IN (SELECT value FROM json_each(?)) AND seq > ? "
    "ORDER BY seq LIMIT ?"
)
_OTHERS: Final = (
    "SELECT seq, stream, kind, name, value, payload FROM entry "
    "WHERE stream <> 'metric' AND component_id = ? AND seq > ? ORDER BY seq"
)
# Entries of this process do not count: it knows what it has recorded.
_NEWEST: Final = (
    "SELECT max(seq), max(CASE WHEN component_id = ?1 AND writer_id IS NOT "
    "(SELECT id FROM writer WHERE uuid = ?2) THEN seq END) FROM entry WHERE seq > ?3"
)


class Known:
    """What the journal has of one run.

    Args:
        journal: The journal.
        component_id: The run's.
        name: The run's name.
        is_timed: Whether the times of points are the source's. If not, two points that differ in
            nothing else are the same.
    """

    def __init__(self, journal: Journal, component_id: int, name: str, *, is_timed: bool) -> None:
        self._journal = journal
        self._id = component_id
        self._is_timed = is_timed
        self._seen = 0
        self._digests = array("Q")
        self._counts = array("I")
        # Of other processes, since the first look.
        self._more: Counter[int] = Counter()
        self._pruned = Counter(
            {
                metric: gone.points
                for (_, metric), gone in removed.metrics(journal.database, name).items()
            }
        )
        self._others: set[tuple[Any, ...]] = set()
        self._contents: set[tuple[str | None, str]] = set()

    def start(self, digests: Iterable[int], seq: int) -> None:
        """Take the digests of the points up to an entry, and read all else up to it."""
        self._digests, self._counts, self._seen = array("Q"), array("I"), seq
        for each, same in itertools.groupby(digests):
            self._digests.append(each)
            self._counts.append(sum(1 for _ in same))
        self._read_others(0)

    def copy(self) -> Known:
        """Return a copy to try out with ``is_new``. To it no point was pruned."""
        twin = copy.copy(self)
        twin._counts, twin._more = self._counts[:], self._more.copy()  # noqa: SLF001
        twin._pruned = Counter()  # noqa: SLF001
        return twin

    def has_content(self, name: str, sha256: str) -> bool:
        """Return whether the run has an artifact of that name and content."""
        return (name, sha256) in self._contents

    def is_new(self, draft: Draft) -> bool:
        """Return whether the journal lacks an entry. Each that it has answers for one."""
        if draft.stream != vocabulary.METRIC:
            columns = (draft.stream, draft.kind, draft.name, draft.value, draft.payload)
            return columns not in self._others
        if not (self._digests or self._more or self._pruned):
            return True
        wanted = _digest(draft[2:7], is_timed=self._is_timed)
        place = bisect.bisect_left(self._digests, wanted)
        if (
            place < len(self._digests)
            and self._digests[place] == wanted
            and self._counts[place] > 0
        ):
            self._counts[place] -= 1
            return False
        if self._more.get(wanted, 0) > 0:
            self._more[wanted] -= 1
            return False
        # What was pruned is the oldest: the first points of the source that are not there.
        name = draft.name or ""
        if self._pruned.get(name, 0) > 0:
            self._pruned[name] -= 1
            return False
        return True

    def recorded(self, drafts: Iterable[Draft]) -> None:
        """Note what was recorded, but for points: the next equal one is another one."""
        for draft in drafts:
            if draft.stream != vocabulary.METRIC:
                self._note(draft.stream, draft.kind, draft.name, draft.value, draft.payload)

    def is_current(self) -> bool:
        """Return whether no other process has recorded something of the run since the last look.

        Call it in the transaction that records.
        """
        uuid = self._journal.writer_uuid or ""
        newest, foreign = self._journal.database.read(_NEWEST, (self._id, uuid, self._seen))[0]
        if foreign is None:
            self._seen = newest or self._seen
        return foreign is None

    def look_again(self) -> None:
        """Read what other processes have recorded since the last look."""
        uuid = self._journal.writer_uuid or ""
        database = self._journal.database
        _, foreign = database.read(_NEWEST, (self._id, uuid, self._seen))[0]
        mine = database.read("SELECT id FROM writer WHERE uuid = ?", (uuid,))
        sql = (
            "SELECT name, value, step, timestamp_ns, payload FROM entry WHERE stream = 'metric' "
            "AND component_id = ? AND writer_id IS NOT ? AND seq > ? AND seq <= ?"
        )
        columns = (self._id, mine[0][0] if mine else None, self._seen, foreign or 0)
        for row in database.read(sql, columns):
            self._more[_digest(row, is_timed=self._is_timed)] += 1
        self._read_others(self._seen)
        self._seen = max(self._seen, foreign or 0)

    @property
    def unmatched(self) -> int:
        """Return how many points the journal has that were not asked for."""
        return sum(self._counts) + sum(self._more.values())

    def _read_others(self, after_seq: int) -> None:
        for _, *columns in self._journal.database.read(_OTHERS, (self._id, after_seq)):
            self._note(*columns)

    def _note(self, *columns: Any) -> None:  # noqa: ANN401 - any type is in a journal's columns
        self._others.add(columns)
        _, kind, name, _, payload = columns
        if kind == vocabulary.UPLOAD:
            try:
                self._contents.add((name, str(json.loads(payload)["sha256"])))
            except (ValueError, TypeError, KeyError):
                return


def known_in(journal: Journal, runs: Mapping[int, tuple[str, bool]]) -> dict[int, Known]:
    """Read what a journal has of some runs: once, however many they are.

    Args:
        journal: The journal.
        runs: Name, and whether the source has times, by the component's id.
    """
    last = journal.last_seq()
    found = {each: array("Q") for each in runs}
    wanted, seq = json.dumps(list(runs)), 0
    while runs:
        page = journal.database.read_page(_POINTS, (wanted, seq, _PAGE_ROWS))
        for row in page:
            if row[0] <= last:
                found[row[1]].append(_digest(row[2:], is_timed=runs[row[1]][1]))
        if not page or page[-1][0] >= last:
            break
        seq = page[-1][0]
    known = {}
    for component_id, (name, is_timed) in runs.items():
        known[component_id] = Known(journal, component_id, name, is_timed=is_timed)
        known[component_id].start(sorted(found.pop(component_id)), last)
    return known


def known_of_new(journal: Journal, component_id: int, name: str, *, is_timed: bool) -> Known:
    """Return what a journal has of a run without an entry: nothing, unless somebody records now."""
    last = journal.last_seq()
    if journal.state_entries(component_id):
        return known_in(journal, {component_id: (name, is_timed)})[component_id]
    known = Known(journal, component_id, name, is_timed=is_timed)
    known.start((), last)
    return known


def _digest(columns: Iterable[Any], *, is_timed: bool) -> int:
    """Return a number that stands for a point: 64 bits of a hash of what it says.

    Args:
        columns: Name, value, step, time and payload.
        is_timed: Whether the time counts.
    """
    name, value, step, timestamp_ns, payload = columns
    # SQLite does not keep the sign of -0.0.
    number = value + 0.0 if isinstance(value, (int, float)) else value
    text = f"{name}\0{number!r}\0{step}\0{timestamp_ns if is_timed else ''}\0{payload}"
    hashed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "big")
