"""The entries that a merge brings: of all sources, in the order in which they were recorded, seen to be right before the first is written.

They wait in a private database that is gone with its connection, in memory while it is small and in ``TMPDIR`` beyond that: what is
written to the target then takes as little time as can be, and a source that turns out to be wrong has changed nothing.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, JournalError
from journaltrack.transfer.merge.heads import Heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from journaltrack.replay.evidence.statements import Named
    from journaltrack.transfer.apply.applier import Applier
    from journaltrack.transfer.apply.source import WriterRow
    from journaltrack.transfer.merge.source import EntryRow, JournalSource

_PAGE: Final = 500  # fewer than the 700 new objects after which the garbage collector looks at them
_COLUMNS: Final = 15
_TABLE: Final = (
    "CREATE TABLE staged (number INTEGER PRIMARY KEY, source, writer, writer_seq, component, stream, kind, name, value, step, timestamp_ns, "
    "payload, recorded_at_ns, digest, refused)"
)

Staged: TypeAlias = tuple[Any, ...]
"""An entry as it waits: number, place in ``sources``, in ``uuids``, ``writer_seq``, place in ``components``, the entry's columns from
``stream`` to ``digest``, and why AWS could never accept it (or None)."""
ENTRY: Final = slice(5, 14)
REFUSED: Final = 14


class Staging:
    """Entries of sources that the target of a merge does not have.

    Attributes:
        uuids: Of the processes that recorded them.
        writers: These processes, by uuid.
        beyond: By uuid: the last place that was here before.
        components: Their components.
        counts: How many there are of each source.
    """

    def __init__(self, sources: Sequence[JournalSource], applier: Applier) -> None:
        self.writers: dict[str, WriterRow] = {}
        self.components: list[str] = []
        self.counts = [0] * len(sources)
        self._sources = sources
        self._applier = applier
        self._numbers: dict[str, int] = {}  # of components
        self.uuids: list[str] = []
        self._of: dict[str, int] = {}  # the place of each in that list
        self._only: dict[int, int | None] = {}  # its component, if it is of one alone
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(_TABLE)
        self._indexed = False
        self.beyond: dict[str, int] = {}

    def close(self) -> None:
        """Drop it."""
        self._database.close()

    def fill(self, heads: Heads, alive: Callable[[], None]) -> None:
        """Take in all that is new.

        Args:
            heads: How far the target has come.
            alive: Called now and then.

        Raises:
            EvidenceError: A source contradicts itself, another one or the target.
            InvalidInputError: A component is spelled otherwise elsewhere.
            JournalError: ``TMPDIR`` can't be written.
        """
        heads.elsewhere = self._digest
        before = dict(heads.places)
        for source in self._sources:
            for uuid in source.recorders:
                self._applier.check_writer(source.writers[uuid], source.name)
                heads.meet(uuid, source.writers[uuid], source.name)
        try:
            self._database.execute("BEGIN")
            rows = self._new(heads)
            while page := list(itertools.islice(rows, _PAGE)):
                self._database.executemany(f"INSERT INTO staged VALUES (NULL{', ?' * (_COLUMNS - 1)})", page)
                alive()
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            hint = "set TMPDIR to a folder with as much room as the journals that are merged"
            raise JournalError(
                f"the entries to merge could not be kept while they are looked at: {error}; nothing was merged", hint=hint
            ) from error
        self.beyond = {uuid: before.get(uuid, 0) for uuid in self.uuids}

    def _new(self, heads: Heads) -> Iterator[tuple[Any, ...]]:
        for number, row in self._together(heads):
            if not heads.takes(row.uuid, row, self._sources[number].name):
                continue  # it is here already, or another source brought it
            writer = self._of.get(row.uuid)
            if writer is None:
                writer = self._of[row.uuid] = len(self.uuids)
                self.uuids.append(row.uuid)
                self.writers[row.uuid] = self._sources[number].writers[row.uuid]
            component = self._numbers.get(row.component)
            if component is None:
                component = self._component(row.component, self._sources[number].name)
            if self._only.setdefault(writer, component) != component:
                self._only[writer] = None
            self.counts[number] += 1
            yield (number, writer, row.writer_seq, component, *row.columns, row.digest, row.refused)

    def _together(self, heads: Heads) -> Iterator[tuple[int, EntryRow]]:
        """The sources' entries from those on that may be new, in the order in which they were recorded, each process's in its own."""
        if len(self._sources) == 1:
            return ((0, row) for row in self._sources[0].entries_since(heads.places))
        streams = [self._in_order(number, source, heads) for number, source in enumerate(self._sources)]
        return ((number, row) for _, number, row in heapq.merge(*streams, key=lambda each: each[:2]))

    @staticmethod
    def _in_order(number: int, source: JournalSource, heads: Heads) -> Iterator[tuple[int, int, EntryRow]]:
        """The source's entries from those on that may be new, with a time that never goes back: a clock may."""
        latest = 0
        for entry in source.entries_since(heads.places):
            latest = max(latest, entry.recorded_at_ns)
            yield latest, number, entry

    def _component(self, name: str, where: str) -> int:
        number = self._numbers[name] = len(self.components)
        spelling = self._applier.spelling(name) or next((known for known in self.components if known.lower() == name.lower()), name)
        if spelling != name:
            raise InvalidInputError(
                f"{where}: the component {limits.shown(name)} is the one that is spelled {limits.shown(spelling)} in another journal; "
                "nothing was merged",
                hint="SageMaker makes no difference, but digests of entries do: merge these journals into different ones",
            )
        self.components.append(name)
        return number

    def _digest(self, uuid: str, place: int) -> bytes | None:
        """Of an entry that waits."""
        if uuid not in self._of:
            return None
        self._index()
        sql = "SELECT digest FROM staged WHERE writer = ? AND writer_seq = ?"
        row = self._database.execute(sql, (self._of[uuid], place)).fetchone()
        return None if row is None else bytes(row[0])

    def _index(self) -> None:
        if not self._indexed:
            self._database.execute("CREATE INDEX place ON staged (writer, writer_seq)")
            self._indexed = True

    def where(self, uuid: str) -> str:
        """A source with entries of that process, for messages."""
        return next(source.name for source in self._sources if uuid in source.recorders)

    def components_of(self, named: Named) -> Iterator[tuple[str, str]]:
        """Of those of the entries that wait, one of each component, with the component."""
        for uuid, intervals in named.items():
            if uuid not in self.writers or not any(last > self.beyond[uuid] for _, last in intervals):
                continue
            only = self._only[self._of[uuid]]
            if only is not None:  # nearly always
                yield f"entries of the process {limits.shown(uuid)}", self.components[only]
                continue
            self._index()
            for first, last in intervals:
                sql = "SELECT min(writer_seq), component FROM staged WHERE writer = ? AND writer_seq BETWEEN ? AND ? GROUP BY component"
                for place, component in self._database.execute(sql, (self._of[uuid], first, last)):
                    yield f"entry {place} of the process {limits.shown(uuid)}", self.components[component]

    def page(self, after: int, size: int) -> list[Staged]:
        """The next entries that wait, from that number on."""
        return self._database.execute("SELECT * FROM staged WHERE number > ? ORDER BY number LIMIT ?", (after, size)).fetchall()
