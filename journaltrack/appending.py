"""How entries get into a journal: places, chain, buffer, and what is done about a disk that refuses.

The hot path. Must not know what is read back, replayed or audited.

Invariants: an append is one transaction and is committed when the call returns, or (``on_journal_error="buffer"``) it
waits in memory in order and is counted by ``unwritten``. Each process that appends is a *writer* with a dense
``writer_seq`` and a chain of digests; a forked child is a writer of its own. A buffered entry keeps its place in both.
An exception that a signal handler raises at any moment leaves chain, buffer and database in agreement.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import entries as vocabulary
from journaltrack import limits, provenance, rescue, schema, schema_check
from journaltrack.checkpointer import CHECKPOINT_ENTRIES, LOG_BYTES, Checkpointer
from journaltrack.database import Database
from journaltrack.entries import Draft, Entry
from journaltrack.errors import JournalError, JournalReadOnlyError, JournalWriteError
from journaltrack.group_commit import Call, GroupCommit

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger(__name__)

OnJournalError: TypeAlias = Literal["buffer", "raise"]

_LOOK_EVERY_NS: Final = 250_000_000  # how often an append sees whether the journal's files are still where they were
_RETRY_EVERY_S: Final = 1.0  # while the journal takes nothing: how often an append tries again
_BUSY_WHILE_FAILING_S: Final = 0.05  # ... and how long it lets training wait for that

POINTS_AT_ONCE: Final = 64
"""Ours: points of one ``append_metrics`` that one statement takes; more go row by row."""

INSERT_ENTRY: Final = schema.insert_sql("entry")
_INSERT_METRIC: Final = (  # what is the same for all points costs nothing to bind
    "INSERT INTO entry (writer_id, writer_seq, component_id, stream, kind, name, value, step, timestamp_ns, recorded_at_ns, digest) "
    "VALUES (?, ?, ?, 'metric', 'metric', ?, ?, ?, ?, ?, ?)"
)
_INSERT_WRITER: Final = schema.insert_sql("writer")
_INSERT_UNDESCRIBED: Final = (  # into a journal of a revision that has no more
    f"INSERT INTO writer ({', '.join(schema.UNDESCRIBED_COLUMNS)}) VALUES ({', '.join('?' * len(schema.UNDESCRIBED_COLUMNS))})"
)
_INSERT_REFUSED: Final = "INSERT INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, 'quarantined', ?, ?)"
_RENEW_OF_UPLOAD: Final = "UPDATE blob SET spooled_at_ns = ? WHERE sha256 = json_extract(?, '$.sha256')"


@functools.cache
def _insert_points(count: int) -> str:
    """One INSERT of so many points of one call: half the time of as many statements."""
    before, _, row = _INSERT_METRIC.partition(" VALUES ")
    return f"{before} VALUES {', '.join([row] * count)}"


class _Row(NamedTuple):
    """An entry on its way: the columns of the INSERT, and why it can't be delivered."""

    columns: tuple[Any, ...]
    undeliverable: str | None


class Appender:
    """The appending side of a journal. Threads may share it.

    Args:
        database: Of the journal.
        on_journal_error: See ``Journal.open``.
        clock_ns: Nanoseconds since the epoch.
        monotonic: Seconds.
        revision: The schema that it has; an older one is appended to as its own version did.
    """

    def __init__(
        self,
        database: Database,
        on_journal_error: OnJournalError,
        clock_ns: Callable[[], int],
        monotonic: Callable[[], float],
        revision: str,
    ) -> None:
        self.path: Path = database.path.parent
        self.database = database
        self.journal_id: str = str(database.read("SELECT journal_id FROM meta")[0][0])
        self.on_journal_error: OnJournalError = on_journal_error
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._names: dict[int, str] = {}
        self._metric_texts: dict[tuple[int, str], str] = {}
        self._waiting: deque[_Row] = deque()
        self._refusal: JournalError | None = None  # why they wait
        self._next_try = 0.0
        self._looked_ns = clock_ns()
        self._unsettled = False  # an append has begun and not ended: chain and buffer need not fit what the journal holds
        self._generation = -1
        self._described = revision not in schema.UNDESCRIBED  # for ever: what a newer schema adds may be left out
        self._writer: provenance.WriterInfo | None = None
        self._writer_id = 0  # until it is recorded
        self._writer_seq = 0
        self._chain = b""
        self._checkpointer = Checkpointer(database)
        self._checkpoint_seq = 0  # ``_writer_seq`` when the log was last written back
        self._group = GroupCommit(self._write_calls) if database.durability == "power" else None

    @property
    def unwritten(self) -> int:
        """Entries that wait in memory because the journal takes none; lost if the process ends now."""
        self._drop_parents_entries()
        return len(self._waiting)

    def append(self, component_id: int, drafts: Sequence[Draft]) -> None:
        """Record calls, all in one transaction; those that AWS could never accept are quarantined in it at once.

        Args:
            component_id: From ``component``.
            drafts: At least one.

        Raises:
            JournalWriteError: The journal takes nothing and ``on_journal_error="raise"``, or the buffer is full.
        """
        if self._group is not None:
            self._group.run(Call((component_id, drafts), self.database.generation), self.database.lock)
        else:
            with self.database.lock:
                self._write_drafts([(component_id, drafts)], self._clock_ns())

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
        group = self._group
        if group is not None and not group.enter():
            self._append_in_group(component_id, [Draft("metric", "metric", name, float(value), step, timestamp_ns)])
            return
        try:
            with self.database.lock:
                now_ns = self._clock_ns()
                if not self._nothing_special(now_ns):
                    self._append_with_lock(component_id, [Draft("metric", "metric", name, float(value), step, timestamp_ns)], now_ns)
                    return
                middle = self._metric_texts.get((component_id, name)) or self._metric_text(component_id, name)
                value = float(value)
                writer_seq = self._writer_seq + 1
                digest = vocabulary.chain_next_metric(self._chain, writer_seq, middle, value, step, timestamp_ns, now_ns)
                columns = (self._writer_id, writer_seq, component_id, name, value, step, timestamp_ns, now_ns, digest)
                self._unsettled = True
                self._writer_seq, self._chain = writer_seq, digest
                try:
                    self.database.connection.execute(_INSERT_METRIC, columns)
                except Exception:  # noqa: BLE001 - sorted out, and raised again, by the general path
                    self._write_settled([_metric_row(*columns)])
                self._unsettled = False
        finally:
            if group is not None:
                group.leave()

    def append_metrics(self, component_id: int, points: Sequence[tuple[str, float]], step: int | None, timestamp_ns: int) -> None:
        """Record points of several metrics that are known to be deliverable, all or none, by one statement.

        Args:
            component_id: From ``component``.
            points: Name and value of each, as ``append_metric`` takes them.
            step: See ``append_metric``.
            timestamp_ns: See ``append_metric``.

        Raises:
            JournalWriteError: As ``append``.
        """
        if not 1 < len(points) <= POINTS_AT_ONCE:
            self.append(component_id, [Draft("metric", "metric", name, value, step, timestamp_ns) for name, value in points])
            return
        group = self._group
        if group is not None and not group.enter():
            self._append_in_group(component_id, [Draft("metric", "metric", name, value, step, timestamp_ns) for name, value in points])
            return
        try:
            self._append_metrics(component_id, points, step, timestamp_ns)
        finally:
            if group is not None:
                group.leave()

    def _append_in_group(self, component_id: int, drafts: Sequence[Draft]) -> None:
        """After ``enter``: other threads are in calls, too."""
        try:
            self.append(component_id, drafts)
        finally:
            if self._group is not None:
                self._group.leave()

    def _append_metrics(self, component_id: int, points: Sequence[tuple[str, float]], step: int | None, timestamp_ns: int) -> None:
        with self.database.lock:
            now_ns = self._clock_ns()
            if not self._nothing_special(now_ns):
                drafts = [Draft("metric", "metric", name, value, step, timestamp_ns) for name, value in points]
                self._append_with_lock(component_id, drafts, now_ns)
                return
            writer_seq, digest = self._writer_seq, self._chain
            writer_id, columns = self._writer_id, list[Any]()
            texts, chain_next = self._metric_texts, vocabulary.chain_next_metric
            for name, value in points:
                writer_seq += 1
                middle = texts.get((component_id, name)) or self._metric_text(component_id, name)
                digest = chain_next(digest, writer_seq, middle, value, step, timestamp_ns, now_ns)
                columns += (writer_id, writer_seq, component_id, name, value, step, timestamp_ns, now_ns, digest)
            self._unsettled = True
            self._writer_seq, self._chain = writer_seq, digest
            try:
                self.database.connection.execute(_insert_points(len(points)), columns)
            except Exception:  # noqa: BLE001 - as above
                self._write_settled([_metric_row(*columns[at : at + 9]) for at in range(0, len(columns), 9)])
            self._unsettled = False

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
                    raise self._still_waiting(self._refusal)
        self.database.sync()

    # -- inside -------------------------------------------------------------------------------------------------

    def _append_with_lock(self, component_id: int, drafts: Sequence[Draft], now_ns: int) -> None:
        if self._group is not None:
            self._group.write(Call((component_id, drafts), self.database.generation))
        else:
            self._write_drafts([(component_id, drafts)], now_ns)

    def _nothing_special(self, now_ns: int) -> bool:
        """Whether an append can do without the general path. Hold the lock."""
        return (
            not self._waiting
            and not self._unsettled
            and bool(self._writer_id)
            and self._generation == self.database.generation
            and self.database.idle
            and 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS  # a clock may jump
            and (self._group is None or (self._group.is_empty and not self.database.must_yield))
        )

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
        info = provenance.describe_process(now_ns, self.journal_id)
        if not self._described:
            info = replace(info, digest=vocabulary.chain_start(info.uuid))
        self._writer = info
        self._writer_id = 0
        self._writer_seq = self._checkpoint_seq = 0
        self._chain = info.digest
        self.database.append_beside_others()
        if self.database.log_bytes() > LOG_BYTES:  # many that append little each: this one might never come to do it
            self._checkpointer.wake()
        _appending.add(self)
        self._generation = self.database.generation  # last: an interruption before it lets the next append start again

    def _drop_parents_entries(self) -> None:
        """In a forked child: what waits in memory is the parent's to write."""
        if self._waiting and self._generation != self.database.generation:
            self._waiting.clear()

    def _write_drafts(self, drafts: Sequence[tuple[int, Sequence[Draft]]], now_ns: int) -> None:
        """Give drafts, by component, their places and write them. Hold the lock."""
        self._settle_interruption()
        if not 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS:
            self._look(now_ns)
        self._unsettled = True
        self._write_settled([self._row(component_id, draft, now_ns) for component_id, own in drafts for draft in own])
        self._unsettled = False

    def _write_calls(self, calls: Sequence[Call]) -> None:
        """Write the calls of several threads in one transaction. Hold the lock."""
        self._settle_interruption()
        todo = []
        for call in calls:
            if call.last_seq is not None and call.last_seq <= self._writer_seq:
                call.done = True  # whoever wrote it was interrupted between its commit and saying so
            else:
                todo.append(call)
        place = self._writer_seq if self._generation == self.database.generation else 0
        for call in todo:
            place += len(call.payload[1])
            call.last_seq = place
        try:
            if todo:
                self._write_drafts([call.payload for call in todo], self._clock_ns())
        except JournalError as error:  # what a signal handler raises is the leader's alone: the others find out what was written
            for call in todo:
                call.error = error
        for call in todo:
            call.done = True

    def _look(self, now_ns: int) -> None:
        """See whether the files are still where they were, and save what is in them if not. Hold the lock."""
        self._looked_ns = now_ns
        if self._writer_seq - self._checkpoint_seq >= CHECKPOINT_ENTRIES:
            self._checkpoint_seq = self._writer_seq
            self._checkpointer.wake()
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
        except JournalError as refusal:
            if self.database.closed:
                raise
            error = schema_check.why_refused(refusal, self.database)
            self._refusal = error
            self._next_try = self._monotonic() + _RETRY_EVERY_S
            if self.on_journal_error == "raise":
                self._take_back(rows)
                raise error from refusal
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
                sql, columns = _INSERT_WRITER, astuple(writer)
                if not self._described:
                    sql, columns = _INSERT_UNDESCRIBED, columns[: len(schema.UNDESCRIBED_COLUMNS)]
                writer_id = int(connection.execute(sql, columns).lastrowid or 0)
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


def _metric_row(
    writer_id: int,
    writer_seq: int,
    component_id: int,
    name: str,
    value: float,
    step: int | None,
    timestamp_ns: int,
    now_ns: int,
    digest: bytes,
) -> _Row:
    """From the columns of ``_INSERT_METRIC``."""
    return _Row((writer_id, writer_seq, component_id, "metric", "metric", name, value, step, timestamp_ns, None, now_ns, digest), None)


_appending: weakref.WeakSet[Appender] = weakref.WeakSet()


@atexit.register
def _write_at_exit() -> None:
    """What waits in memory, or is in deleted files, gets its last chance when the interpreter ends without ``close``."""
    for journal in list(_appending):
        if not journal.database.closed and (journal.unwritten or journal.database.moved()):
            try:
                journal.flush()
            except JournalError as error:
                logger.error("%s", error)  # noqa: TRY400 - a traceback says nothing here
