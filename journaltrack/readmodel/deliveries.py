"""Count what became of the entries of runs, at SageMaker and at further destinations.

Must not know how runs are chosen, sorted or shown.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from journaltrack.errors import JournaltrackError
from journaltrack.journal import destinations
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import IN_DOUBT, QUARANTINED, UNSETTLED
from journaltrack.journal.vocabulary import LOCAL
from journaltrack.readmodel.run import Delivery
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.readmodel.cache import Folded


def signature(folder: Path) -> tuple[Any, ...]:
    """Return what is another one after nearly each change of a journal's files."""
    found: dict[str, Any] = {}
    for suffix in ("", "-wal"):
        with contextlib.suppress(OSError):
            stat = os.stat(folder / f"{paths.DATABASE}{suffix}")  # noqa: PTH116
            # Opening the journal makes an empty log.
            if stat.st_size:
                found[suffix] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return tuple(found.items())


def of_journal(journal: Journal) -> Callable[[Folded], Delivery]:
    """Return what tells what became of the entries of a run.

    Costs what was delivered above the mark, what is left below it, and what is a problem: not what
    was ever recorded.
    """
    mark = journal.database.read("SELECT seq FROM mark")[0][0]

    def counted(sql: str, *parameters: object) -> Callable[[int], int]:
        """Return how many rows a query counts of a component."""
        found: dict[int, int] = defaultdict(int)
        found |= dict(journal.database.read(sql, parameters))
        return lambda number: found.get(number, 0)

    per = "SELECT e.component_id, count(*) FROM"
    above = counted(
        f"{per} delivery d CROSS JOIN entry e ON e.seq = d.seq WHERE d.seq > ? GROUP BY 1", mark
    )
    left = counted(
        f"{per} unsettled u CROSS JOIN entry e ON e.seq = u.seq WHERE u.seq <= ? "
        f"AND {UNSETTLED} GROUP BY 1",
        mark,
    )
    problems = f"{per} delivery d CROSS JOIN entry e ON e.seq = d.seq WHERE"
    in_doubt = counted(f"{problems} {IN_DOUBT} GROUP BY 1")
    quarantined = counted(f"{problems} {QUARANTINED} GROUP BY 1")

    def told(run: Folded) -> Delivery:
        """Return the counts of one run."""
        number = run.component_id
        pending = max(0, run.entries - run.below - above(number) + left(number))
        bad = in_doubt(number) + quarantined(number)
        return Delivery(
            run.entries,
            max(0, run.entries - pending - bad),
            pending,
            in_doubt(number),
            quarantined(number),
        )

    return told


class _Copy(NamedTuple):
    """What a copy for a destination says of its entries, by component.

    ``last_seq`` is that of its newest entry: it lacks what the journal recorded later.
    """

    last_seq: int
    pending: Counter[int]
    in_doubt: Counter[int]
    quarantined: Counter[int]


class Copies:
    """Tell what became of runs at the further destinations of one journal.

    Costs what is pending or a problem there. A copy that can't be read is left out: `status`, and
    the page about deliveries, say why.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._copies: dict[str, _Copy] = {}
        # Entries that a copy lacks, by component, up to an entry of the journal.
        self._lacking: dict[str, tuple[int, Counter[int]]] = {}

    def are_news(self, folder: Path) -> bool:
        """Return whether a copy changed since the last ``follow``."""
        return self._seen != _signatures(folder)

    def follow(self, journal: Journal, *, changed: bool) -> bool:
        """Read what became of entries since. Return whether anything changed.

        Args:
            journal: The journal.
            changed: Whether it has new entries.
        """
        seen = _signatures(journal.path)
        for name in [*self._copies]:
            if name not in seen:
                del self._copies[name]
        for name, files in seen.items():
            if files != self._seen.get(name):
                self._lacking.pop(name, None)
                self._copies.pop(name, None)
                with contextlib.suppress(JournaltrackError, OSError, sqlite3.Error):
                    self._copies[name] = _read(destinations.folder_of(journal.path, name))
        news = seen != self._seen
        self._seen = seen
        for name, copy in self._copies.items() if changed or news else ():
            self._lacking[name] = _lacking(
                journal.database, *self._lacking.get(name, (copy.last_seq, Counter()))
            )
        return news

    def deliveries(self, run: Folded) -> dict[str, Delivery]:
        """Return what became of a run's entries, by destination."""
        found = {}
        number = run.component_id
        for name, copy in self._copies.items():
            pending = copy.pending[number] + self._lacking[name][1][number]
            bad = copy.in_doubt[number] + copy.quarantined[number]
            found[name] = Delivery(
                run.entries,
                max(0, run.entries - pending - bad),
                pending,
                copy.in_doubt[number],
                copy.quarantined[number],
            )
        return found


def _signatures(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {name: signature(copy) for name, copy in destinations.copies(folder).items()}


def _read(folder: Path) -> _Copy:
    per = "SELECT e.component_id, count(*) FROM"
    above = f"{per} entry e WHERE e.seq > (SELECT seq FROM mark) AND {UNSETTLED} GROUP BY 1"
    listed = (
        f"{per} unsettled u CROSS JOIN entry e ON e.seq = u.seq "
        f"WHERE u.seq <= (SELECT seq FROM mark) AND {UNSETTLED} GROUP BY 1"
    )
    problems = f"{per} delivery d CROSS JOIN entry e ON e.seq = d.seq WHERE"
    with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as copy:
        read = copy.database.read
        return _Copy(
            copy.last_seq(),
            Counter(dict(read(above))) + Counter(dict(read(listed))),
            Counter(dict(read(f"{problems} {IN_DOUBT} GROUP BY 1"))),
            Counter(dict(read(f"{problems} {QUARANTINED} GROUP BY 1"))),
        )


def _lacking(database: Database, after_seq: int, known: Counter[int]) -> tuple[int, Counter[int]]:
    """Count the entries after one, beside those that are known. Return also which is the last."""
    sql = "SELECT component_id, sum(kind <> ?), max(seq) FROM entry WHERE seq > ? GROUP BY 1"
    rows = database.read(sql, (LOCAL, after_seq))
    found = Counter({number: count for number, count, _ in rows})
    return max([after_seq, *(last for *_, last in rows)]), known + found
