"""The journal: an append-only log of calls in one SQLite file, with the artifact bytes beside it.

This module is the writing side (open, append, flush) and plain reading; what a replay records is in ``settlement``.
Must not know AWS, boto3, the tracker or the reconciler.

Invariants: an append is one transaction and is committed when the call returns, or (``on_journal_error="buffer"``) it
waits in memory in order and is counted by ``unwritten``. Each process that appends is a *writer* with a dense
``writer_seq`` and a chain of digests; a forked child is a writer of its own. A buffered entry keeps its place in both.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import entries as vocabulary
from journaltrack import limits, opening, paths, provenance, rescue, schema
from journaltrack.database import BUSY_TIMEOUT_S, Database, Durability
from journaltrack.entries import Draft, Entry
from journaltrack.errors import InvalidInputError, JournalError, JournalReadOnlyError, JournalWriteError

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger(__name__)

OnJournalError: TypeAlias = Literal["buffer", "raise"]

_LOOK_EVERY_NS: Final = 250_000_000  # how often an append sees whether the journal's files are still where they were
_RETRY_EVERY_S: Final = 1.0  # while the journal takes nothing: how often an append tries again
_BUSY_WHILE_FAILING_S: Final = 0.05  # ... and how long it lets training wait for that

INSERT_ENTRY: Final = schema.insert_sql(schema.entry)
_INSERT_WRITER: Final = schema.insert_sql(schema.writer)
_INSERT_REFUSED: Final = "INSERT INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, 'quarantined', ?, ?)"
_RENEW_OF_UPLOAD: Final = "UPDATE blob SET spooled_at_ns = ? WHERE sha256 = json_extract(?, '$.sha256')"
SELECT_ENTRY: Final = (
    "SELECT e.seq, e.writer_id, e.writer_seq, c.id, c.name, e.stream, e.kind, e.name, e.value, e.step, "
    "e.timestamp_ns, e.payload, e.recorded_at_ns, e.digest FROM entry e JOIN component c ON c.id = e.component_id "
)


class ComponentRow(NamedTuple):
    """A trial component as the journal knows it. ``arn`` and ``confirmed_at_ns`` are None until a replay confirmed it."""

    id: int
    name: str
    arn: str | None
    confirmed_at_ns: int | None


class _Row(NamedTuple):
    """An entry on its way: the columns of the INSERT, and why it can't be delivered."""

    columns: tuple[Any, ...]
    undeliverable: str | None


class Journal:
    """An open journal. Threads may share it; every process opens its own, a forked child does so by itself."""

    def __init__(
        self,
        database: Database,
        *,
        on_journal_error: OnJournalError = "buffer",
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use ``Journal.open``."""
        self.path: Path = database.path.parent
        self.database = database
        self.journal_id: str = str(database.read("SELECT journal_id FROM meta")[0][0])
        self.on_journal_error: OnJournalError = on_journal_error
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._names: dict[int, str] = {}
        self._metric_texts: dict[tuple[int, str], str] = {}
        self._waiting: deque[_Row] = deque()
        self._next_try = 0.0
        self._looked_ns = clock_ns()
        self._unsettled = False  # an append has begun and not ended: chain and buffer need not fit what the journal holds
        self._generation = -1
        self._writer: provenance.WriterInfo | None = None
        self._writer_id = 0  # until it is recorded
        self._writer_seq = 0
        self._chain = b""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "process",
        on_journal_error: OnJournalError = "buffer",
        create: bool = True,
        read_only: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> Journal:
        """Open a journal, made on first use and upgraded (after a backup) when an older version wrote it.

        Args:
            path: The journal's folder; None: the default journal (``journaltrack.paths.default_journal``).
            durability: ``"process"``: a returned call survives SIGKILL. ``"power"``: also loss of power, at the price
                of a disk barrier per call.
            on_journal_error: When the journal takes no entry (disk full, locked): ``"buffer"`` keeps it in memory and
                writes it as soon as possible, ``"raise"`` raises at the call.
            create: Make the journal when there is none.
            read_only: For reading alone; never makes, upgrades or locks anything.
            busy_timeout_s: How long to wait for another process's transaction, seconds.
            clock_ns: Nanoseconds since the epoch.

        Raises:
            InvalidInputError: An unknown ``durability`` or ``on_journal_error``.
            JournalNotFoundError: No journal there and ``create`` is false.
            NotAJournalError: Something else is there.
            JournalTooNewError: Written by a newer version; nothing was changed.
            JournalCorruptError: The file is damaged; nothing was changed.
            JournalWriteError: The folder can't be written.
        """
        if durability not in {"process", "power"} or on_journal_error not in {"buffer", "raise"}:
            raise InvalidInputError(
                f"durability={durability!r}, on_journal_error={on_journal_error!r}: not both known",
                hint='durability is "process" or "power", on_journal_error is "buffer" or "raise"',
            )
        folder = Path(paths.default_journal() if path is None else path).expanduser().absolute()
        file = folder / paths.DATABASE
        opening.prepare(folder, file, create=create and not read_only)
        database = Database(file, durability=durability, read_only=read_only, busy_timeout_s=busy_timeout_s)
        try:
            opening.bring_up_to_date(database, clock_ns, create=create and not read_only)
            return cls(database, on_journal_error=on_journal_error, clock_ns=clock_ns)
        except BaseException:
            database.close()
            raise

    # -- appending ----------------------------------------------------------------------------------------------

    @property
    def unwritten(self) -> int:
        """Entries that wait in memory because the journal takes none; lost if the process ends now."""
        self._drop_parents_entries()
        return len(self._waiting)

    def component(self, name: str) -> int:
        """The local id of the component of that name (case does not matter), made if new.

        Raises:
            JournalWriteError: It is new and the journal takes nothing.
        """
        row = self.find(name)
        if row is None:
            columns = (name, self._clock_ns())
            self.database.write(lambda c: c.execute("INSERT OR IGNORE INTO component (name, created_at_ns) VALUES (?, ?)", columns))
            row = self.find(name)
        if row is None:  # pragma: no cover - the row was just written
            raise JournalWriteError(f"the component {name} could not be recorded")
        self._names[row.id] = row.name
        return row.id

    def append(self, component_id: int, drafts: Sequence[Draft]) -> None:
        """Record calls, all in one transaction; those that AWS could never accept are quarantined in it at once.

        Args:
            component_id: From ``component``.
            drafts: At least one.

        Raises:
            JournalWriteError: The journal takes nothing and ``on_journal_error="raise"``, or the buffer is full.
        """
        with self.database.lock:
            self._write_drafts(component_id, drafts, self._clock_ns())

    def append_metric(self, component_id: int, name: str, value: float, step: int | None, timestamp_ns: int) -> None:
        """Record one metric point that is known to be deliverable: the hot path.

        Args:
            component_id: From ``component``.
            name: Valid as a metric's name.
            value: Finite.
            step: 0 to 2^31-1, or None.
            timestamp_ns: Nanoseconds since the epoch, UTC.

        Raises:
            JournalWriteError: As ``append``.
        """
        with self.database.lock:
            now_ns = self._clock_ns()
            if (
                self._waiting
                or self._unsettled
                or not self._writer_id
                or self._generation != self.database.generation
                or not self.database.idle
                or not 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS  # a clock may jump
            ):
                draft = Draft("metric", "metric", name, float(value), step, timestamp_ns)
                self._write_drafts(component_id, [draft], now_ns)
                return
            middle = self._metric_texts.get((component_id, name)) or self._metric_text(component_id, name)
            value = float(value)
            writer_seq = self._writer_seq + 1
            digest = vocabulary.chain_next_metric(self._chain, writer_seq, middle, value, step, timestamp_ns, now_ns)
            columns = (self._writer_id, writer_seq, component_id, "metric", "metric", name, value, step, timestamp_ns, None, now_ns, digest)
            self._unsettled = True
            self._writer_seq, self._chain = writer_seq, digest
            try:
                self.database.connection.execute(INSERT_ENTRY, columns)
            except Exception:  # noqa: BLE001 - sorted out, and raised again, by the general path
                self._write_settled([_Row(columns, None)])
            self._unsettled = False

    def renew_blob(self, sha256: str) -> None:
        """A content is about to be in the spool again: whoever removes delivered ones leaves it alone from now on."""
        columns = (self._clock_ns(), sha256)
        self.database.write(lambda connection: connection.execute("UPDATE blob SET spooled_at_ns = ? WHERE sha256 = ?", columns))

    def add_blob(self, sha256: str, size_bytes: int) -> None:
        """Record that the spool holds a content."""
        columns = (sha256, size_bytes, self._clock_ns())
        self.database.write(lambda connection: connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?, ?)", columns))

    def flush(self) -> None:
        """A power barrier: every entry recorded so far is on the disk when this returns.

        Raises:
            JournalWriteError: Entries still wait in memory (``unwritten`` of them), or the disk refuses.
        """
        with self.database.lock:
            self._drop_parents_entries()
            self._settle_interruption()
            if self._writer is not None:  # who recorded nothing has nothing to save
                self._look(self._clock_ns())
            if self._waiting:
                self._next_try = 0.0
                self._unsettled = True
                try:
                    self._write_settled([])
                except JournalError as error:
                    raise self._still_waiting(error) from error
                self._unsettled = False
                if self._waiting:
                    raise self._still_waiting(None)
        self.database.sync()

    def close(self) -> None:
        """Flush and close. Idempotent.

        Raises:
            JournalWriteError: As ``flush``; the journal stays open then.
        """
        if self.database.closed:
            return
        if not self.database.read_only:
            self.flush()
        self.database.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> ComponentRow | None:
        """The component of that name (case does not matter), or None."""
        rows = self.database.read(
            "SELECT id, name, arn, confirmed_at_ns FROM component WHERE name = ?", (name.encode("utf-8", "replace").decode(),)
        )
        return _component_row(rows[0]) if rows else None

    def components(self) -> list[ComponentRow]:
        """All components, in order of their first mention."""
        return [_component_row(row) for row in self.database.read("SELECT id, name, arn, confirmed_at_ns FROM component ORDER BY id")]

    def state_entries(self, component_id: int) -> list[Entry]:
        """All entries of a component but its metrics, in order; costs what is there of those, not of metrics."""
        sql = SELECT_ENTRY + "WHERE e.component_id = ? AND e.stream <> 'metric' ORDER BY e.seq"
        written = [vocabulary.entry_of(row) for row in self.database.read(sql, (component_id,))]
        with self.database.lock:
            return written + [e for e in self._in_memory() if e.component_id == component_id and e.stream != vocabulary.METRIC]

    def last_seq(self) -> int:
        """The newest entry's ``seq``; 0 when there is none."""
        return int(self.database.read("SELECT coalesce(max(seq), 0) FROM entry")[0][0])

    def entries(self, *, after_seq: int = 0, pending: bool = False, limit: int = 10_000) -> list[Entry]:
        """Entries in order of ``seq``, a page at a time.

        Args:
            after_seq: The last ``seq`` of the page before.
            pending: Only those that are not settled.
            limit: Entries in a page.
        """
        settled = "AND e.seq NOT IN (SELECT seq FROM delivery) " if pending else ""
        sql = f"{SELECT_ENTRY}WHERE e.seq > ? {settled}ORDER BY e.seq LIMIT ?"
        return [vocabulary.entry_of(row) for row in self.database.read_page(sql, (after_seq, limit))]

    # -- inside -------------------------------------------------------------------------------------------------

    def _component_name(self, component_id: int) -> str:
        name = self._names.get(component_id)
        if name is None:
            name = self._names[component_id] = str(self.database.read("SELECT name FROM component WHERE id = ?", (component_id,))[0][0])
        return name

    def _metric_text(self, component_id: int, name: str) -> str:
        """The part of a point's canonical encoding that is the same for all points of the metric."""
        text = self._metric_texts[component_id, name] = vocabulary.metric_text(self._component_name(component_id), name)
        return text

    def _row(self, component_id: int, draft: Draft, now_ns: int) -> _Row:
        """Give the draft its place in this process's chain. Hold the lock."""
        if self._generation != self.database.generation or self._writer is None:
            self._start_writer(now_ns)
        name = self._component_name(component_id)
        writer_seq = self._writer_seq + 1
        digest = vocabulary.chain_next(self._chain, writer_seq, name, draft, now_ns, hashlib.sha256)
        self._writer_seq, self._chain = writer_seq, digest
        columns = (self._writer_id, writer_seq, component_id, *draft[:7], now_ns, digest)
        return _Row(columns, draft.undeliverable)

    def _start_writer(self, now_ns: int) -> None:
        """This process as a writer: at the first append, and again in a forked child. It is recorded with its first entries."""
        self._drop_parents_entries()
        if self.database.read_only:
            raise JournalReadOnlyError(f"the journal at {self.path} was opened for reading alone", hint="open it without read_only=True")
        self._writer = info = provenance.describe_process(now_ns, self.journal_id)
        self._writer_id = 0
        self._writer_seq = 0
        self._chain = info.digest
        _appending.add(self)
        self._generation = self.database.generation  # last: an interruption before it lets the next append start again

    def _drop_parents_entries(self) -> None:
        """In a forked child: what waits in memory is the parent's to write."""
        if self._waiting and self._generation != self.database.generation:
            self._waiting.clear()

    def _write_drafts(self, component_id: int, drafts: Sequence[Draft], now_ns: int) -> None:
        """Give drafts their places and write them. Hold the lock."""
        self._settle_interruption()
        if not 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS:
            self._look(now_ns)
        self._unsettled = True
        self._write_settled([self._row(component_id, draft, now_ns) for draft in drafts])
        self._unsettled = False

    def _look(self, now_ns: int) -> None:
        """See whether the files are still where they were, and save what is in them if not. Hold the lock."""
        self._looked_ns = now_ns
        if self.database.moved():
            try:
                self.path = rescue.rescue(self.database)
            except JournalError as error:
                if self.on_journal_error == "raise":
                    raise
                logger.warning("%s", error)

    def _write_settled(self, rows: Sequence[_Row]) -> None:
        """``_write``; also after an error of the journal chain and buffer are known to fit what it holds. Hold the lock."""
        try:
            self._write(rows)
        except Exception:
            self._unsettled = False
            raise

    def _settle_interruption(self) -> None:
        """After an exception that a signal handler raised in the midst of an append: find out what was written. Hold the lock.

        Raises:
            JournalError: The journal can't be read; nothing of this call was recorded.
        """
        if self._generation == self.database.generation and self._unsettled and self._writer is not None:
            self.database.set_busy_timeout(None)
            self.database.roll_back()
            recorded = self.database.read("SELECT id FROM writer WHERE uuid = ?", (self._writer.uuid,))
            self._writer_id = recorded[0][0] if recorded else 0
            rows = self.database.read(
                "SELECT writer_seq, digest FROM entry WHERE writer_id = ? ORDER BY seq DESC LIMIT 1", (self._writer_id,)
            )
            self._writer_seq, self._chain = (rows[0][0], bytes(rows[0][1])) if rows else (0, self._writer.digest)
            while self._waiting and self._waiting[0].columns[1] <= self._writer_seq:
                self._waiting.popleft()  # the interruption came after their commit
            if self._waiting:
                self._writer_seq, self._chain = self._waiting[-1].columns[1], self._waiting[-1].columns[-1]
        self._unsettled = False

    def _write(self, rows: Sequence[_Row]) -> None:
        """Write what waits and then ``rows``, or let them wait too. Hold the lock."""
        if self._waiting and self._monotonic() < self._next_try:
            self._let_wait(rows, None)
            return
        waiting = list(self._waiting)
        try:
            if waiting:
                self.database.set_busy_timeout(_BUSY_WHILE_FAILING_S)
            self._insert([*waiting, *rows])
        except JournalError as error:
            if self.database.closed:
                raise
            self._next_try = self._monotonic() + _RETRY_EVERY_S
            if self.on_journal_error == "raise":
                self._take_back(rows)
                raise
            self._let_wait(rows, error)
            return
        if waiting:
            self._waiting.clear()
            self.database.set_busy_timeout(None)
            logger.warning("the journal at %s takes entries again: %d that waited in memory are written", self.path, len(waiting))

    def _insert(self, rows: Sequence[_Row]) -> None:
        writer = self._writer

        def insert(connection: sqlite3.Connection) -> int:
            writer_id = self._writer_id
            if not writer_id and writer is not None:
                writer_id = int(connection.execute(_INSERT_WRITER, astuple(writer)).lastrowid or 0)
            for row in rows:
                seq = connection.execute(INSERT_ENTRY, (writer_id, *row.columns[1:])).lastrowid
                if row.columns[3] == vocabulary.UPLOAD:
                    connection.execute(_RENEW_OF_UPLOAD, (row.columns[10], row.columns[9]))
                if row.undeliverable is not None:
                    connection.execute(_INSERT_REFUSED, (seq, row.undeliverable, row.columns[10]))
            return writer_id

        self._writer_id = self.database.write(insert)

    def _let_wait(self, rows: Sequence[_Row], error: JournalError | None) -> None:
        if not rows:
            return
        if len(self._waiting) + len(rows) > limits.BUFFERED_ENTRIES_MAX:
            self._take_back(rows)
            raise JournalWriteError(
                f"the journal at {self.path} takes no entries and {len(self._waiting)} wait in memory, which is the limit; this call was not recorded",
                hint=error.hint if error else "free the disk or the lock on the journal",
                unwritten=len(self._waiting),
            )
        first = not self._waiting
        self._waiting.extend(rows)
        if first and error is not None:
            warnings.warn(
                f"{error.message}. Entries wait in memory ({limits.BUFFERED_ENTRIES_MAX} at most) and are lost if the process "
                f"ends before the journal takes them again. {error.hint}",
                RuntimeWarning,
                stacklevel=5,
            )

    def _take_back(self, rows: Sequence[_Row]) -> None:
        """These rows will never be written: continue the chain where it was before them."""
        self._writer_seq -= len(rows)
        if rows:
            self._chain = self._waiting[-1].columns[-1] if self._waiting else self._chain_in_journal()

    def _chain_in_journal(self) -> bytes:
        rows = self.database.read(
            "SELECT digest FROM entry WHERE writer_id = ? AND writer_seq = ? ORDER BY seq DESC LIMIT 1", (self._writer_id, self._writer_seq)
        )
        return bytes(rows[0][0]) if rows or self._writer is None else self._writer.digest

    def _in_memory(self) -> Iterator[Entry]:
        """Entries that wait, as entries of ``seq`` 0. Hold the lock."""
        for row in self._waiting:
            writer_id, writer_seq, component_id, *rest = row.columns
            yield Entry(0, writer_id, writer_seq, component_id, self._names.get(component_id, ""), *rest)

    def _still_waiting(self, error: JournalError | None) -> JournalWriteError:
        return JournalWriteError(
            f"{len(self._waiting)} entries could not be written to the journal at {self.path} and are in memory only"
            + (f": {error.message}" if error else ""),
            hint=(error.hint if error else "") or "free the disk or the lock, then call close() again before the process ends",
            unwritten=len(self._waiting),
        )


def _component_row(row: tuple[Any, ...]) -> ComponentRow:
    """SQLite keeps any type in any column."""
    component_id, name, arn, confirmed_at_ns = row
    return ComponentRow(
        component_id,
        name if isinstance(name, str) else repr(name),
        arn if isinstance(arn, str) else None,
        confirmed_at_ns if isinstance(confirmed_at_ns, int) else None,
    )


_appending: weakref.WeakSet[Journal] = weakref.WeakSet()


@atexit.register
def _write_at_exit() -> None:
    """What waits in memory, or is in deleted files, gets its last chance when the interpreter ends without ``close``."""
    for journal in list(_appending):
        if not journal.database.closed and (journal.unwritten or journal.database.moved()):
            try:
                journal.flush()
            except JournalError as error:
                logger.error("%s", error)  # noqa: TRY400 - a traceback says nothing here
