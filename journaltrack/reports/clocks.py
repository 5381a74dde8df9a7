"""What is odd about the times in a journal: clocks that were set, wrong, or differ between machines. Prints nothing.

A journal's order is that of ``seq``; times are what the clocks said. One reading of the entries in order finds what a
writer's times say of each other (1 s for 1,000,000), SQLite the rest. Memory grows with writers alone.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack.journal import view, writers
from journaltrack.journal.writers import WriterRecord

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database

AnomalyKind: TypeAlias = Literal["back", "jump", "future", "started late", "timestamp", "settled early", "finished early"]
CLOCK_STEP_S: Final = 60.0
"""A clock that differs by more is worth a note; less is a time server's work."""
JUMP_S: Final = 6 * 3_600.0
"""Ours: a writer that says nothing for longer may have had its clock set, seconds."""
TIMESTAMP_FAR_S: Final = 86_400.0
"""Ours: a metric's own time may be that far from the time of recording, seconds."""
_PAGE_ENTRIES: Final = 20_000
_JUMPS_MAX: Final = 1_000
"""Ours: jumps that are watched for a contradiction at a time; a crafted journal may have as many as entries."""


@dataclass(frozen=True, slots=True)
class ClockAnomaly:
    """Times of one writer that contradict each other, or of all receipts.

    Attributes:
        kind: "back": the writer's clock went back between two entries. "jump": it went ahead by hours, and later entries contradict
            it. "future": recorded later than now. "started late": an entry is older than the start of its writer. "timestamp": a
            metric's own time is far from that of its recording. "settled early": settled before it was recorded, so the clocks of
            the machines that recorded and delivered differ. "finished early": a request that was answered before it was sent.
        times: How often.
        worst_s: The largest difference, seconds.
        seq, receipt_id: Where that is.
        expected_ns, found_ns: The two times there; ``found`` is the one that is odd.
        writer: The process that recorded it; None for receipts.
    """

    kind: AnomalyKind
    times: int
    worst_s: float
    seq: int | None
    receipt_id: int | None
    expected_ns: int
    found_ns: int
    writer: WriterRecord | None

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


@dataclass(slots=True)
class _Worst:
    """The worst of its kind so far."""

    times: int = 0
    difference_ns: int = -1
    seq: int = 0
    expected_ns: int = 0
    found_ns: int = 0

    def add(self, seq: int, expected_ns: int, found_ns: int) -> None:
        self.times += 1
        if abs(found_ns - expected_ns) > self.difference_ns:
            self.difference_ns, self.seq = abs(found_ns - expected_ns), seq
            self.expected_ns, self.found_ns = expected_ns, found_ns


def clocks(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> list[ClockAnomaly]:
    """What is odd about the times in a journal, by kind and writer.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        component: Shell pattern: only entries and receipts of these components (case does not matter).
        clock_ns: Nanoseconds since the epoch.

    Raises:
        JournalError: It can't be read.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        ids = view.matching(own, component)
        known = writers.writers(own.database)
        found = [
            ClockAnomaly(
                kind, worst.times, worst.difference_ns / 1e9, worst.seq, None, worst.expected_ns, worst.found_ns, known.get(writer_id)
            )
            for kind, writer_id, worst in _of_entries(own.database, ids, clock_ns())
        ]
        return [*found, *_of_receipts(own.database, ids)]


def steps(database: Database, ids: str | None = None, *, back_s: float = 0.0) -> dict[tuple[Literal["back", "jump"], int], _Worst]:
    """Where a writer's times went back by more than ``back_s``, or ahead by hours that later entries contradict; by kind and writer."""
    found: dict[tuple[Literal["back", "jump"], int], _Worst] = {}
    last: dict[int, int] = {}
    jumps: list[tuple[int, int, int, int, int]] = []  # a heap: the one that is contradicted first is at the top
    for seq, writer_id, recorded_ns in _times(database, ids):
        before_ns = last.get(writer_id)
        last[writer_id] = recorded_ns
        while jumps and recorded_ns < -jumps[0][0]:
            _, jumped, jumper, expected_ns, found_ns = heapq.heappop(jumps)
            found.setdefault(("jump", jumper), _Worst()).add(jumped, expected_ns, found_ns)
        if before_ns is None:
            continue
        step_ns = recorded_ns - before_ns
        if step_ns < -back_s * 1e9:
            found.setdefault(("back", writer_id), _Worst()).add(seq, before_ns, recorded_ns)
        elif step_ns > JUMP_S * 1e9 and len(jumps) < _JUMPS_MAX:
            # A process may well pause for hours. That the clock was set is told by what is recorded afterwards with times before.
            heapq.heappush(jumps, (-(before_ns + step_ns // 2), seq, writer_id, before_ns, recorded_ns))
    return found


def ahead(database: Database, now_ns: int) -> tuple[int, int | None]:
    """How many entries were recorded in the future of ``now_ns``, and the latest of their times."""
    sql = "SELECT count(*), max(recorded_at_ns) FROM entry WHERE recorded_at_ns > ?"
    ((count, newest_ns),) = database.read(sql, (now_ns + int(CLOCK_STEP_S * 1e9),))
    return count, newest_ns


def _times(database: Database, ids: str | None) -> Iterator[tuple[int, int, int]]:
    sql = (
        "SELECT seq, writer_id, recorded_at_ns FROM entry WHERE seq > ?1 AND typeof(recorded_at_ns) = 'integer' AND typeof(writer_id) = "
        f"'integer' AND (?2 IS NULL OR component_id IN (SELECT value FROM json_each(?2))) ORDER BY seq LIMIT {_PAGE_ENTRIES}"
    )
    after_seq = 0
    while page := database.read(sql, (after_seq, ids)):
        yield from page
        after_seq = page[-1][0]


def _of_entries(database: Database, ids: str | None, now_ns: int) -> Iterator[tuple[AnomalyKind, int, _Worst]]:
    for (stepped, writer_id), worst in sorted(steps(database, ids).items()):
        yield stepped, writer_id, worst
    entry = "entry e"
    settled = "delivery d JOIN entry e ON e.seq = d.seq"
    started = "entry e JOIN writer w ON w.id = e.writer_id"
    queries: tuple[tuple[AnomalyKind, str, str, str, float], ...] = (  # expected, found: what is told if they differ by so much
        ("future", entry, "?2", "e.recorded_at_ns", CLOCK_STEP_S),
        ("started late", started, "w.started_at_ns", "e.recorded_at_ns", 0.0),
        ("timestamp", entry, "e.recorded_at_ns", "e.timestamp_ns", TIMESTAMP_FAR_S),
        ("settled early", settled, "e.recorded_at_ns", "d.settled_at_ns", 0.0),
    )
    signs = {"future": "{1} - {0}", "timestamp": "max({1} - {0}, {0} - {1})"}
    for kind, source, expected, found, least_s in queries:
        difference = signs.get(kind, "{0} - {1}").format(expected, found)
        sql = (
            f"SELECT e.writer_id, count(*), max({difference}), e.seq, {expected}, {found} FROM {source} WHERE typeof({expected}) = 'integer' "
            f"AND typeof({found}) = 'integer' AND {difference} > ?3 AND (?1 IS NULL OR e.component_id IN (SELECT value FROM json_each(?1))) "
            "GROUP BY 1 ORDER BY 1"
        )
        for writer_id, times, most, seq, expected_ns, found_ns in database.read(sql, (ids, now_ns, int(least_s * 1e9))):
            yield kind, writer_id, _Worst(times, int(most), seq, expected_ns, found_ns)


def _of_receipts(database: Database, ids: str | None) -> list[ClockAnomaly]:
    rows = database.read(
        "SELECT count(*), max(started_at_ns - finished_at_ns), id, started_at_ns, finished_at_ns FROM receipt "
        "WHERE typeof(started_at_ns) = 'integer' AND typeof(finished_at_ns) = 'integer' AND finished_at_ns < started_at_ns "
        "AND (?1 IS NULL OR component_id IN (SELECT value FROM json_each(?1)))",
        (ids,),
    )
    return [
        ClockAnomaly("finished early", times, worst / 1e9, None, receipt_id, started_ns, finished_ns, None)
        for times, worst, receipt_id, started_ns, finished_ns in rows
        if times
    ]
