"""Extend a dataset of Parquet files by what journals have and it lacks.

A dataset has the tables ``tables.DATASET``. The files of each are in a folder for each journal, and
numbered: ``metrics/journal_id=ID/00000001.parquet``. The journal is the one that an entry was
recorded in, wherever it is exported from. A file says in its notes what it holds (``holdings``); so
the files themselves are the record of what was exported.

Must not know where files are (``store``). Invariants:

- A file is never changed, and gets its name whole. Who exports at the same time and comes second
  looks again.
- An entry has one row in ``metrics`` or ``entries``. ``deliveries`` gets a further row when it may
  have changed what became of an entry: the newest one holds.
- Changes no journal. Memory does not grow with one.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import destinations, removed, view
from journaltrack.journal.filter import Choice
from journaltrack.journal.places import Places
from journaltrack.replay.evidence import statements
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.export import holdings
from journaltrack.transfer.export.holdings import Holdings
from journaltrack.transfer.export.pages import Reader
from journaltrack.transfer.export.tables import DATASET, Page, Parquet, Table, load, notes_in
from journaltrack.util.intervals import merged, without

if TYPE_CHECKING:
    import os

    from journaltrack.journal.journal import Journal
    from journaltrack.transfer.export.store import Store

logger = logging.getLogger(__name__)

FILE_ENTRIES: Final = 4_000_000
"""Our limit: entries that a file is about. As points they take about 70 MB."""
WHOLE_EVERY: Final = 16
"""Ours: how often a file repeats what all earlier ones hold.

So the ends of at most 16 files of a folder are read.
"""
_TURNS_MAX: Final = 20
"""Our limit: how often others may come first."""
_END_BYTES: Final = 64 * 1024
_FILE: Final = re.compile(r"(\d{8})\.parquet")
_JOURNAL_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_NAMES: Final[tuple[str, ...]] = tuple(table.name for table in DATASET)
_METRICS, _ENTRIES, _DELIVERIES = DATASET
_ATTESTED: Final = (
    "SELECT w.uuid, (SELECT max(writer_seq) FROM attestation WHERE writer_id = w.id "
    "AND typeof(writer_seq) = 'integer') AS last FROM writer w WHERE last > 0"
)
_BODIES: Final = (
    "SELECT writer_seq, body FROM attestation WHERE writer_id = ? AND writer_seq > ? "
    "AND writer_seq <= ? ORDER BY writer_seq LIMIT 1000"
)
_AS_NOTED: Final = (
    "SELECT count(*) FROM json_each(?) i CROSS JOIN entry e "
    "ON e.seq = json_extract(i.value, '$[0]') JOIN writer w ON w.id = e.writer_id "
    "WHERE w.uuid = json_extract(i.value, '$[1]') "
    "AND e.writer_seq = json_extract(i.value, '$[2]')"
)


@dataclass(slots=True)
class DatasetReport:
    """Say what a dataset got from a journal.

    Attributes:
        journal, journal_id: From which journal.
        dataset: Where the dataset is.
        metrics, entries, deliveries: How many rows each table got.
        files: The new files, by their names in the dataset.
        unsound: In how many rows a cell was left out, because journaltrack never records such a
            value.
        removed: Entries removed from the journal on the record. The dataset has those that were
            exported before.
    """

    journal: str
    journal_id: str
    dataset: str
    metrics: int = 0
    entries: int = 0
    deliveries: int = 0
    files: list[str] = field(default_factory=list)
    unsound: int = 0
    removed: int = 0

    @property
    def rows(self) -> int:
        """Return the rows of all tables."""
        return self.metrics + self.entries + self.deliveries

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def extend(
    store: Store,
    journal: Journal | str | os.PathLike[str] | None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> DatasetReport:
    """Write what a journal has and a dataset lacks.

    Args:
        store: Of the dataset's files.
        journal: An open one, a path, or None for the default journal.
        on_progress: Called now and then with how many entries were looked at, for all tables.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        InvalidInputError: The journal is a copy for a destination, the dataset has a file that
            journaltrack did not write, one of its files is missing, or pyarrow is missing.
        JournalError: The journal can't be read. What was written before stays, and is whole.
        OSError, RemoteError: A file can't be written or read. The same holds.
    """
    load()
    with view.opened(journal) as own:
        destinations.refuse_copy(own.path, "exported to a dataset")
        return _Export(own, store, on_progress or (lambda _: None), clock_ns).run()


class _Export:
    """Bring one journal's entries into a dataset.

    A journal may have entries of several, after a merge: each goes into the folder of its own.
    """

    def __init__(
        self,
        journal: Journal,
        store: Store,
        tell: Callable[[Progress], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._store = store
        self._tell = tell
        self._last = journal.last_seq()
        self._removed = removed.entries(journal.database)
        self._told = -1
        self._as_of_ns = clock_ns()
        self._origins: dict[str, str] = {
            str(uuid): _checked(origin or journal.journal_id)
            for uuid, origin in journal.database.read("SELECT uuid, journal_id FROM writer")
        }
        self.report = DatasetReport(
            str(journal.path), journal.journal_id, store.uri, removed=self._removed
        )

    def run(self) -> DatasetReport:
        """Write all files."""
        database, last = self._journal.database, self._last
        self._say(0)
        # First: what is attested later is looked at by the next export.
        attested = {str(uuid): int(place) for uuid, place in database.read(_ATTESTED)}
        origins = sorted(set(self._origins.values())) or [self._journal.journal_id]
        logs = [_Log(self._store, origin) for origin in origins]
        # A clock may have been set back: what is read later must have the later time.
        known_ns = max(log.holdings.attested_at_ns for log in logs)
        self._as_of_ns = max(self._as_of_ns, known_ns + 1)
        above = self._covered(logs[0].holdings) if len(logs) == 1 else 0
        with closing(Places(database, above)) as places:
            for log in logs:
                changed = self._changed(log.holdings, attested, log.journal_id)
                for upto in (*range(above + FILE_ENTRIES, last, FILE_ENTRIES), last):
                    is_last = upto == last
                    self._extend(
                        log,
                        places,
                        upto,
                        attested if is_last else {},
                        changed if is_last else {},
                        above,
                    )
        self._say(len(DATASET) * last)
        return self.report

    def _say(self, done: int) -> None:
        """Tell how many entries were looked at for all tables; never less than before."""
        if done > self._told:
            self._told = done
            self._tell(Progress(done, len(DATASET) * self._last))

    def _covered(self, known: Holdings) -> int:
        """Return up to which ``seq`` the dataset has all entries. 0: look at each.

        Else each export would read the whole journal.
        """
        last, ends = known.covered(_NAMES)
        if not last or self._removed:
            return 0
        asked = [(seq, uuid, place) for uuid, (place, seq) in ends.items()]
        found = self._journal.database.read(_AS_NOTED, (json.dumps(asked),))[0][0]
        return last if found == len(asked) else 0

    def _changed(
        self, known: Holdings, attested: Mapping[str, int], origin: str
    ) -> holdings.Places:
        """Return the entries of which something was said that the dataset may not know."""
        found: dict[str, list[tuple[int, int]]] = {}
        if not known.entries.get(_DELIVERIES.name):
            return {}
        for body in self._bodies(known.attestations, attested):
            try:
                said = statements.read(body)
            except ValueError as error:
                logger.debug("an attestation can't be read: %s", error)
                continue
            if not said.settled and not said.released:
                continue
            for named in (said.entries, *(group.entries for group in said.settled)):
                for uuid, intervals in named.items():
                    if self._origins.get(uuid) == origin:
                        found.setdefault(uuid, []).extend(intervals)
        return {uuid: merged(intervals) for uuid, intervals in found.items()}

    def _bodies(self, known: Mapping[str, int], attested: Mapping[str, int]) -> Iterator[object]:
        database = self._journal.database
        ids = dict(database.read("SELECT uuid, id FROM writer"))
        for uuid, last in attested.items():
            place = known.get(uuid, 0)
            while place < last:
                rows = database.read_page(_BODIES, (ids[uuid], place, last))
                if not rows:
                    break
                place = rows[-1][0]
                for _, body in rows:
                    yield body

    def _extend(
        self,
        log: _Log,
        places: Places,
        upto: int,
        attested: Mapping[str, int],
        changed: holdings.Places,
        above: int,
    ) -> None:
        """Write files of what is here up to a ``seq``, and of what became of ``changed``."""
        here = {
            uuid: runs
            for uuid, runs in places.runs(upto).items()
            if self._origins.get(uuid, self._journal.journal_id) == log.journal_id
        }
        for _ in range(_TURNS_MAX):
            missing = {name: log.holdings.lacking(name, here) for name in _NAMES}
            readers = self._rows(places, missing, changed, above)
            if self._write(log, missing, readers, self._ends(here, places), attested):
                return
            log.read()
        raise InvalidInputError(
            f"others write to the dataset {self._store.uri} all the time; not everything was "
            "exported",
            hint="export again: what is there already is not written again",
        )

    def _rows(
        self,
        places: Places,
        missing: Mapping[str, holdings.Places],
        changed: holdings.Places,
        above: int,
    ) -> dict[str, Iterator[Page]]:
        """Return the new rows of each table."""
        found: dict[str, Iterator[Page]] = {
            table.name: Reader(self._journal, table, Choice()).pages_of(
                places.find(missing[table.name])
            )
            for table in (_METRICS, _ENTRIES)
        }
        read = partial(Reader, self._journal, _DELIVERIES, Choice(), as_of_ns=self._as_of_ns)
        new = missing[_DELIVERIES.name]
        pages = read("d.seq IS NOT NULL").pages_of(places.find(new))
        again = {uuid: without(intervals, new.get(uuid, ())) for uuid, intervals in changed.items()}
        if any(again.values()):
            pages = itertools.chain(pages, read().pages_of(self._find(places, again, above)))
        return {**found, _DELIVERIES.name: pages}

    def _find(
        self, places: Places, named: holdings.Places, above: int
    ) -> Iterable[tuple[int, int]]:
        if not above:
            return places.find(named)
        # The others are above.
        with closing(Places(self._journal.database)) as everywhere:
            return everywhere.find(named)

    def _ends(
        self, here: Mapping[str, Sequence[tuple[int, int]]], places: Places
    ) -> dict[str, tuple[int, int]]:
        """Return the last place of each writer, and its ``seq``."""
        last = {uuid: runs[-1][1] for uuid, runs in here.items()}
        return {
            uuid: (place, places.find({uuid: [(place, place)]})[0][0])
            for uuid, place in last.items()
        }

    def _write(
        self,
        log: _Log,
        missing: Mapping[str, holdings.Places],
        rows: Mapping[str, Iterator[Page]],
        ends: dict[str, tuple[int, int]],
        attested: Mapping[str, int],
    ) -> bool:
        """Write a file for each table with new rows. Return False if another one came first."""
        own = {name: Holdings({name: missing[name]}, ends=ends) for name in _NAMES if missing[name]}
        if attested and attested != log.holdings.attestations:
            said = own.setdefault(_DELIVERIES.name, Holdings())
            said.attestations, said.attested_at_ns = dict(attested), self._as_of_ns
        first = {name: _first(rows[name]) for name in _NAMES}
        written = [table for table in DATASET if first[table.name] is not None]
        # What has no rows counts as held by the last file, which comes once all others are there.
        for table in written:
            new = own.pop(table.name, Holdings())
            if table is written[-1]:
                for other in own.values():
                    new.add(other)
            pages = itertools.chain([first[table.name]], rows[table.name])
            if not self._create(log, table, new, pages):
                return False
        return True

    def _create(self, log: _Log, table: Table, new: Holdings, pages: Iterable[Page | None]) -> bool:
        number = log.numbers.get(table.name, 0) + 1
        told = Holdings(whole=number % WHOLE_EVERY == 1)
        told.add(new)
        if told.whole:
            told.add(log.holdings)
        name = f"{log.folder(table.name)}/{number:08}.parquet"
        rows, unsound = 0, 0
        before = DATASET.index(table) * self._last

        def write(stream: IO[bytes]) -> None:
            """Write the file."""
            nonlocal rows, unsound
            file = Parquet(stream, table)
            try:
                for page in pages:
                    if page is not None:
                        file.write(page)
                        rows += page.rows
                        unsound += page.unsound
                        self._say(before + min(page.last_seq, self._last))
                if removed.entries(self._journal.database) != self._removed:
                    raise InvalidInputError(  # noqa: TRY301
                        f"{self._journal.path} was pruned during the export; {name} was not "
                        "written",
                        hint="export again",
                    )
                file.close({holdings.NOTE: told.text(log.journal_id)})
            except BaseException:
                file.abandon()
                raise

        if not self._store.create(name, write):
            return False
        log.numbers[table.name] = number
        log.holdings.add(new)
        self.report.files.append(name)
        self.report.unsound += unsound
        setattr(self.report, table.name, getattr(self.report, table.name) + rows)
        return True


class _Log:
    """The files of one journal in a dataset.

    Attributes:
        holdings: What they hold together.
        numbers: By table: the number of its newest file. The first one is 1.
    """

    def __init__(self, store: Store, journal_id: str) -> None:
        self._store = store
        self.journal_id = journal_id
        self.read()

    def folder(self, table: str) -> str:
        """Return the folder of a table's files."""
        return f"{table}/journal_id={self.journal_id}"

    def read(self) -> None:
        """Read what they say now."""
        self.holdings, self.numbers = Holdings(), {}
        for table in _NAMES:
            names = [n for n in self._store.names(self.folder(table)) if _FILE.fullmatch(n)]
            numbers = [int(name.partition(".")[0]) for name in names]
            gap = next((n for n, number in enumerate(numbers, 1) if number != n), None)
            if gap is not None:
                raise InvalidInputError(
                    f"file {gap} is missing in {self._store.uri}/{self.folder(table)}: later files "
                    "say that its rows are there; nothing was added",
                    hint="restore the file, or export to a new dataset",
                )
            if names:
                self.numbers[table] = len(names)
            for name in reversed(names):
                told = self._read(f"{self.folder(table)}/{name}")
                self.holdings.add(told)
                if told.whole:
                    break

    def _read(self, name: str) -> Holdings:
        size_bytes = _END_BYTES
        while True:
            end = self._store.end(name, size_bytes)
            try:
                note = notes_in(end).get(holdings.NOTE.encode())
                if note is None:
                    raise ValueError("it has no note of journaltrack")  # noqa: TRY301
                return holdings.read(note, self.journal_id)
            except ValueError as error:
                # The end may be longer.
                if len(end) == size_bytes:
                    size_bytes *= 16
                    continue
                raise InvalidInputError(
                    f"{self._store.uri}/{name} is not what journaltrack wrote: {error}; nothing "
                    "was added to it",
                    hint="restore the file, or export to a new dataset",
                ) from error


def _checked(journal_id: object) -> str:
    """Return the id of a journal, which names a folder of the dataset."""
    if isinstance(journal_id, str) and _JOURNAL_ID.fullmatch(journal_id):
        return journal_id
    raise InvalidInputError(
        f"{limits.shown(str(journal_id))} is no id of a journal; nothing was exported",
        hint="journaltrack makes no such journal; see `journaltrack check`",
    )


def _first(pages: Iterator[Page]) -> Page | None:
    """Return the first page that has rows."""
    return next((page for page in pages if page.rows), None)
