"""How entries get into a journal: places, chain, what waits in memory, and what is done about a
disk that refuses.

The hot path. Must not know what is read back, replayed or audited.

Invariants:

- An append is one transaction, and is committed when the call returns. Where the journal takes
  nothing, the call waits in memory, in order, and is counted by ``unwritten``
  (``on_journal_error="buffer"``).
- Each process that appends is a *writer* with a dense ``writer_seq`` and a chain of digests; a
  forked child is a writer of its own. A call gets its places when it is written, not before: what
  the journal holds and ``_head`` agree, or ``_unsure`` says that it must be looked up.
- A call made inside another call of the same thread (a signal handler, ``__del__``, a logging
  handler) waits until that one has done its work, and is committed before that one returns.
- An exception at any moment leaves the state to be looked up; one call's error is that call's
  alone.
"""

from __future__ import annotations

import atexit
import functools
import logging
import shutil
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import JournalError, JournalReadOnlyError, JournalWriteError, described
from journaltrack.journal import provenance, rescue, vocabulary, writers
from journaltrack.journal.schema import check, schema
from journaltrack.journal.sqlite.checkpoint import CHECKPOINT_ENTRIES, Checkpointer
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import REFUSED, is_about_values, translated
from journaltrack.journal.vocabulary import Draft, Entry
from journaltrack.journal.waiting import Call, Waiting
from journaltrack.journal.writers import WriterLife
from journaltrack.util import process

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger(__name__)

OnJournalError: TypeAlias = Literal["buffer", "raise"]

# how often an append checks whether the journal's files are still in place
_LOOK_EVERY_NS: Final = 250_000_000
# while the journal takes nothing: how soon an append tries again; doubles ...
_RETRY_SOON_S: Final = 0.01
_RETRY_EVERY_S: Final = 1.0  # ... up to this
_BUSY_WHILE_FAILING_S: Final = 0.05  # ... and how long it lets training wait for that
_CALLS_AT_ONCE_MAX: Final = 1 << 20
# a timer that is faster than the disk must not keep a call from returning
_NESTED_ROUNDS_MAX: Final = 8
_PAUSE_S: Final = 0.01  # between the attempts of a patient flush

PATIENCE_S: Final = 3.0
"""Ours: how long a last flush tries again while the journal refuses, seconds."""

POINTS_AT_ONCE: Final = 64
"""Ours: points of one ``append_metrics`` that one statement takes; more go row by row."""

INSERT_ENTRY: Final = schema.insert_sql("entry")
_INSERT_METRIC: Final = (  # what is the same for all points costs nothing to bind
    "INSERT INTO entry (writer_id, writer_seq, component_id, stream, kind, name, value, step, "
    "timestamp_ns, recorded_at_ns, digest) VALUES (?, ?, ?, 'metric', 'metric', ?, ?, ?, ?, ?, ?)"
)
_INSERT_WRITER: Final = schema.insert_sql("writer")
_INSERT_UNDESCRIBED: Final = (  # into a journal of a revision that has no more
    f"INSERT INTO writer ({', '.join(schema.UNDESCRIBED_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(schema.UNDESCRIBED_COLUMNS))})"
)
_INSERT_REFUSED: Final = (
    "INSERT INTO delivery (seq, outcome, reason, settled_at_ns) VALUES (?, 'quarantined', ?, ?)"
)
_RENEW_OF_UPLOAD: Final = (
    "UPDATE blob SET spooled_at_ns = ? WHERE sha256 = json_extract(?, '$.sha256')"
)


@functools.cache
def _insert_points(count: int) -> str:
    """Build one INSERT for the points of a call: half the time of as many statements."""
    before, _, row = _INSERT_METRIC.partition(" VALUES ")
    return f"{before} VALUES {', '.join([row] * count)}"


class _UnmetError(Exception):
    """The condition of ``append_if`` does not hold."""


class _Attempt(NamedTuple):
    """A transaction that may have been committed: the last ``writer_seq`` before it, and its
    calls.
    """

    writer_seq: int
    calls: tuple[Call, ...]


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
        self._inside = False  # a call is under way, or an exception ended one in the middle
        self._unsure = False  # ``_head`` need not be what the journal holds
        self._attempt: _Attempt | None = None
        self._waiting = Waiting(database.generation)
        self._nested = False  # calls inside the one that is under way have left something to do
        self._afterwards: deque[Callable[[], object]] = deque()
        self._copy: Path | None = None  # of what waits, elsewhere
        self._refused = False  # the journal took nothing, and what waits has been told of
        self._calls_at_once = _CALLS_AT_ONCE_MAX
        self._next_try = 0.0
        self._pause_s = 0.0
        self._looked_ns = clock_ns()
        self._generation = -1
        # for ever: what a newer schema adds may be left out
        self._described = revision not in schema.UNDESCRIBED
        self._writer: provenance.WriterInfo | None = None
        self._life: WriterLife | None = None
        self._writer_id = 0  # until it is recorded
        # of this writer's chain; one value, which no signal can split
        self._head: tuple[int, bytes] = (0, b"")
        self._checkpointer = Checkpointer(database)
        self._checkpoint_seq = 0  # the chain's length when the log was last written back
        self._waits_for_disk = database.durability == "power"

    @property
    def unwritten(self) -> int:
        """Entries that wait in memory because the journal takes none; lost if the process ends
        now.
        """
        if self._waiting:
            self._waiting.follow_fork(self.database.generation)
        return self._waiting.entries

    # -- calls ------------------------------------------------------------------------------------

    @property
    def writer_uuid(self) -> str | None:
        """Of this process as a writer of this journal; None before its first append."""
        return None if self._writer is None else self._writer.uuid

    def append(self, component_id: int, drafts: Sequence[Draft]) -> None:
        """Record drafts in one transaction; quarantine at once those that AWS could never accept.

        Args:
            component_id: From ``component``.
            drafts: At least one.

        Raises:
            JournalWriteError: The journal takes nothing and ``on_journal_error="raise"``, or too
                many entries wait.
        """
        self.append_if(None, component_id, drafts)

    def append_if(
        self, condition: Callable[[], bool] | None, component_id: int, drafts: Sequence[Draft]
    ) -> bool:
        """Record drafts if a condition holds, which is checked in the transaction that records
        them: nobody writes in between.

        While the journal takes nothing the drafts wait in memory as those of ``append`` do. If the
        condition does not hold when they are written, they are left out, with a warning in the log.

        Args:
            condition: Reads this journal's ``database`` alone; None always holds.
            component_id: See ``append``.
            drafts: See ``append``.

        Returns:
            Whether it held. If not, nothing was recorded.

        Raises:
            JournalWriteError: As ``append``.
        """
        try:
            with self.database.lock:
                self._append(Call(component_id, tuple(drafts), self._clock_ns(), condition))
        except _UnmetError:
            self._end_after_exception()
            return False
        except BaseException:
            self._end_after_exception()
            raise
        if self._afterwards:
            self._end()
        return True

    def append_metric(
        self, component_id: int, name: str, value: float, step: int | None, timestamp_ns: int
    ) -> None:
        """Record one metric point that is known to be deliverable: the hot path.

        Args:
            component_id: From ``component``.
            name: Valid as a metric's name.
            value: Finite.
            step: 0 to 2^31-1, or None.
            timestamp_ns: Nanoseconds since the epoch, UTC, below 2^63.

        Raises:
            JournalWriteError: As ``append``.
        """
        try:
            with self.database.lock:
                now_ns = self._clock_ns()
                middle = self._metric_texts.get((component_id, name))
                if middle is None or self._inside:
                    self._append(
                        _points(component_id, ((name, value),), step, timestamp_ns, now_ns)
                    )
                else:
                    # From here on a call inside this one leaves its work to it.
                    self._inside = True
                    if self._is_ready(now_ns):
                        value = float(value)
                        writer_seq, digest = self._head
                        writer_seq += 1
                        digest = vocabulary.chain_next_metric(
                            digest, writer_seq, middle, value, step, timestamp_ns, now_ns
                        )
                        try:
                            self.database.connection.execute(
                                _INSERT_METRIC,
                                (
                                    self._writer_id,
                                    writer_seq,
                                    component_id,
                                    name,
                                    value,
                                    step,
                                    timestamp_ns,
                                    now_ns,
                                    digest,
                                ),
                            )
                        except REFUSED:  # the general path sorts it out, and raises it again
                            call = _points(
                                component_id, ((name, value),), step, timestamp_ns, now_ns
                            )
                            self._record_after_failure(call)
                        else:
                            self._head = (writer_seq, digest)
                    else:
                        self._record(
                            _points(component_id, ((name, value),), step, timestamp_ns, now_ns)
                        )
                    self._inside = False
                    if self._nested:
                        self._catch_up()
        except BaseException:
            self._end_after_exception()
            raise
        if self._afterwards:
            self._end()

    def append_metrics(
        self,
        component_id: int,
        points: Sequence[tuple[str, float]],
        step: int | None,
        timestamp_ns: int,
    ) -> None:
        """Record points of several metrics that are known to be deliverable, all or none, by one
        statement.

        Args:
            component_id: From ``component``.
            points: Name and value of each, as ``append_metric`` takes them.
            step: See ``append_metric``.
            timestamp_ns: See ``append_metric``.

        Raises:
            JournalWriteError: As ``append``.
        """
        try:
            with self.database.lock:
                now_ns = self._clock_ns()
                texts = self._metric_texts
                middles = [texts.get((component_id, name)) for name, _ in points]
                if self._inside or None in middles or not 1 < len(points) <= POINTS_AT_ONCE:
                    self._append(_points(component_id, points, step, timestamp_ns, now_ns))
                else:
                    self._inside = True
                    if self._is_ready(now_ns):
                        self._insert_points(
                            component_id, points, middles, step, timestamp_ns, now_ns
                        )
                    else:
                        self._record(_points(component_id, points, step, timestamp_ns, now_ns))
                    self._inside = False
                    if self._nested:
                        self._catch_up()
        except BaseException:
            self._end_after_exception()
            raise
        if self._afterwards:
            self._end()

    def flush(self, *, patience_s: float = 0.0) -> None:
        """Wait until every entry recorded so far is on the disk: a power barrier.

        Inside another call of the same thread it is done when that one ends.

        Args:
            patience_s: How long to try again, in smaller transactions, while the journal takes
                nothing.

        Raises:
            JournalWriteError: Entries still wait in memory (``unwritten`` of them), or the disk
                refuses.
        """
        if self._postpone(self.flush, own_calls=1):
            return
        until, waiting = self._monotonic() + patience_s, self._waiting.entries
        while True:
            try:
                with self.database.lock:
                    self._flush()
                break
            except JournalError as error:
                if self._waiting.entries < waiting:  # slowly, but it goes on
                    until, waiting = self._monotonic() + patience_s, self._waiting.entries
                elif self._monotonic() >= until:
                    raise self._still_waiting(error) if self._waiting else error from error
            except BaseException:
                self._end_after_exception()
                raise
            time.sleep(_PAUSE_S)
        if self._afterwards:
            self._end()

    def save(self) -> None:
        """Flush, with patience; where the journal still refuses, keep a copy of what waits
        elsewhere.

        Raises:
            JournalWriteError: As ``flush``. It names the copy, which the next ``save`` that
                succeeds removes.
        """
        if self.postpone(self.save):
            return
        try:
            self.flush(patience_s=PATIENCE_S)
        except JournalWriteError as error:
            with self.database.lock:
                calls = self._waiting.first(len(self._waiting))
                waiting = [(self._names.get(call.component_id), call.drafts) for call in calls]
            if waiting:
                self._copy = rescue.keep_elsewhere(self.path, self.journal_id, waiting, self._copy)
            if self._copy is None:
                raise
            raise JournalWriteError(
                f"{error.message}. A copy of them is on the disk, in a journal of its own at "
                f"{self._copy}",
                hint=f"{error.hint}; once {self.path} works again: `journaltrack merge "
                f"{self._copy} --into {self.path}`",
                unwritten=error.unwritten,
            ) from error
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    def postpone(self, work: Callable[[], object]) -> bool:
        """Have ``work`` run when the call has ended that this thread is inside of.

        Returns:
            Whether it is inside one. If not, nothing is done.
        """
        return self._postpone(work, own_calls=0)

    def _postpone(self, work: Callable[[], object], own_calls: int) -> bool:
        with self.database.lock:
            if self._inside and process.depth(self, _CALLS) > own_calls:
                self._afterwards.append(work)
                return True
        return False

    # -- one call at a time
    # -------------------------------------------------------------------------

    def _append(self, call: Call) -> None:
        """Record a call, or leave it to the one that this thread is inside of. Hold the lock."""
        if self._inside and process.depth(self, _CALLS) > 1:
            self._wait_in_memory(call)
            self._nested = True
            return
        if self._inside:
            self._unsure = True  # an exception ended a call in the middle
        self._inside = True
        try:
            self._record(call)
        except (JournalError, _UnmetError):
            self._inside = False
            raise
        self._inside = False
        if self._nested:
            self._catch_up()

    def _catch_up(self) -> None:
        """Write what calls inside this one have left. Hold the lock.

        What still comes after ``_NESTED_ROUNDS_MAX`` transactions is left to the next call.
        """
        for _ in range(_NESTED_ROUNDS_MAX):
            if not self._nested:
                return
            self._nested = False
            self._inside = True
            try:
                self._write_waiting()
            except JournalError as error:
                self._report_refusal(error)
            self._inside = False

    def _end_after_exception(self) -> None:
        """Let an exception that a signal handler raised cost nothing of what the handler logged
        before it.
        """
        if not (self._nested or self._afterwards):
            return
        with self.database.lock:
            if self._inside and process.depth(self, _CALLS) > 1:
                return
            self._unsure = self._unsure or self._inside
            self._inside = False
            self._catch_up()
        self._end()

    def _end(self) -> None:
        """Do what had to wait for the end of the call: warnings, and calls from inside it. Not
        under the lock.
        """
        if self._inside and process.depth(self, _CALLS) > 1:
            return
        for _ in range(len(self._afterwards)):
            try:
                work = self._afterwards.popleft()
            except IndexError:  # a signal handler came here, too
                return
            try:
                work()
            except Warning as told:  # `-W error`: the call is recorded all the same
                logger.warning("%s", told)
            except Exception:
                logger.exception(
                    "a call from inside another one failed; what it had logged is recorded"
                )

    def _log(self, level: int, text: str, *arguments: object) -> None:
        """Log when the lock is free: a logging handler has a lock of its own, and may log here."""
        self._afterwards.append(functools.partial(logger.log, level, text, *arguments))

    def _warn(self, text: str) -> None:
        """Warn when the call is recorded: a warning may be an exception."""
        self._afterwards.append(
            functools.partial(warnings.warn, text, RuntimeWarning, stacklevel=5)
        )

    def _is_ready(self, now_ns: int) -> bool:
        """Return whether an append can do without the general path. Hold the lock."""
        return (
            not self._waiting
            and not self._unsure
            and bool(self._writer_id)
            and self._generation == self.database.generation
            and self.database.takes_statements
            and 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS  # a clock may jump
            and not (self._waits_for_disk and self.database.must_yield)
        )

    # -- writing
    # ------------------------------------------------------------------------------------

    def _insert_points(
        self,
        component_id: int,
        points: Sequence[tuple[str, float]],
        middles: Sequence[str | None],
        step: int | None,
        timestamp_ns: int,
        now_ns: int,
    ) -> None:
        writer_seq, digest = self._head
        writer_id, columns = self._writer_id, list[Any]()
        chain_next = vocabulary.chain_next_metric
        for (name, value), middle in zip(points, middles, strict=True):
            writer_seq += 1
            digest = chain_next(digest, writer_seq, middle or "", value, step, timestamp_ns, now_ns)
            columns += (
                writer_id,
                writer_seq,
                component_id,
                name,
                value,
                step,
                timestamp_ns,
                now_ns,
                digest,
            )
        try:
            self.database.connection.execute(_insert_points(len(points)), columns)
        except REFUSED:  # as above
            self._record_after_failure(_points(component_id, points, step, timestamp_ns, now_ns))
        else:
            self._head = (writer_seq, digest)

    def _record_after_failure(self, call: Call) -> None:
        """Record a call whose first attempt failed, unless it took effect all the same."""
        self._attempt = _Attempt(self._head[0], (call,))
        self._unsure = True
        self._record(call)

    def _record(self, call: Call) -> None:
        """Write a call behind what waits, or let it wait, too. Hold the lock."""
        if self.database.read_only:
            raise JournalReadOnlyError(
                f"the journal at {self.path} was opened for reading alone",
                hint="open it without read_only=True",
            )
        self._wait_in_memory(call)
        try:
            if not 0 <= call.at_ns - self._looked_ns < _LOOK_EVERY_NS and self._writer is not None:
                self._look(call.at_ns, strict=self.on_journal_error == "raise")
            self._write_waiting(call)
        except JournalError as error:
            if (self.database.closed or self.on_journal_error == "raise") and self._waiting.forget(
                call
            ):
                raise
            self._report_refusal(error)
        except BaseException:
            self._waiting.forget(call)  # it raises: it is recorded already, or never
            raise
        finally:
            if self.database.news:
                self._afterwards.append(self.database.tell)

    def _wait_in_memory(self, call: Call) -> None:
        self._waiting.follow_fork(self.database.generation)
        self._waiting.add(call)

    def _write_waiting(self, own: Call | None = None) -> None:
        """Write what waits, in order, in one transaction; in smaller ones while the journal
        refuses. Hold the lock.

        Raises:
            JournalError: The journal takes nothing. What is not written waits.
            Exception: ``own`` can't be recorded, for its own reason. It does not wait any more.
        """
        if self._refused and self._monotonic() < self._next_try:
            return
        try:
            if self._refused:
                self.database.set_busy_timeout(_BUSY_WHILE_FAILING_S)
            self._write_in_turn(own)
        except JournalError:
            self._next_try = self._monotonic() + self._pause_s
            self._pause_s = min(max(2 * self._pause_s, _RETRY_SOON_S), _RETRY_EVERY_S)
            raise
        finally:
            self._waiting.count_again()
        if self._refused:
            self._refused = False
            self.database.set_busy_timeout(None)
            self._log(
                logging.WARNING,
                "the journal at %s takes entries again: all that waited in memory is written",
                self.path,
            )

    def _write_in_turn(self, own: Call | None) -> None:
        while self._waiting:
            self._know_head()
            calls = self._waiting.first(self._calls_at_once)
            if not calls:
                return
            try:
                self._insert(calls)
            except BaseException as error:
                self._unsure = True
                if is_about_values(error) or isinstance(error, _UnmetError):
                    if len(calls) > 1:  # find out which
                        self._calls_at_once = 1
                        continue
                    self._waiting.forget(calls[0])
                    if calls[0] is own:
                        raise
                    self._log(
                        logging.ERROR,
                        "a call that waited in memory can't be recorded (%s); it is left out",
                        described(error),
                    )
                    continue
                self._calls_at_once = max(1, min(self._calls_at_once, len(calls)) // 2)
                explained = self._explained(error)
                if explained is error:  # also what a signal handler raises
                    raise
                raise explained from error
            self._calls_at_once = min(2 * self._calls_at_once, _CALLS_AT_ONCE_MAX)
            self._pause_s = 0.0

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, MemoryError):
            return JournalWriteError(
                f"no memory is left to record in the journal at {self.path}",
                hint="free memory; what waits is written then",
            )
        return check.why_refused(error, self.database) if isinstance(error, JournalError) else error

    def _insert(self, calls: tuple[Call, ...]) -> None:
        """Give calls their places, and write them in one transaction."""
        rows, head = self._placed(calls)

        def insert(connection: sqlite3.Connection) -> int:
            if not all(call.condition is None or call.condition() for call in calls):
                raise _UnmetError
            writer_id = self._writer_id or self._insert_writer(connection)
            for draft, columns in rows:
                seq = connection.execute(INSERT_ENTRY, (writer_id, *columns)).lastrowid
                if draft.stream == vocabulary.UPLOAD:
                    connection.execute(_RENEW_OF_UPLOAD, (columns[-2], draft.payload))
                if draft.undeliverable is not None:
                    connection.execute(_INSERT_REFUSED, (seq, draft.undeliverable, columns[-2]))
            return writer_id

        self._attempt = _Attempt(self._head[0], calls)
        self._writer_id = self.database.write(insert)
        self._head = head
        self._waiting.forget(*calls)
        self._attempt = None
        for call in calls:
            self._keep_texts(call)

    def _placed(
        self, calls: tuple[Call, ...]
    ) -> tuple[list[tuple[Draft, tuple[Any, ...]]], tuple[int, bytes]]:
        """Return the drafts with their columns behind ``writer_id``, and the chain's head behind
        them.
        """
        writer_seq, digest = self._head
        rows: list[tuple[Draft, tuple[Any, ...]]] = []
        for call in calls:
            name = self._component_name(call.component_id)
            for draft in call.drafts:
                writer_seq += 1
                digest = vocabulary.chain_next(digest, writer_seq, name, draft, call.at_ns)
                rows.append(
                    (draft, (writer_seq, call.component_id, *draft[:7], call.at_ns, digest))
                )
        return rows, (writer_seq, digest)

    def _insert_writer(self, connection: sqlite3.Connection) -> int:
        assert self._writer is not None  # noqa: S101 - it was started
        sql, columns = _INSERT_WRITER, astuple(self._writer)
        if not self._described:
            sql, columns = _INSERT_UNDESCRIBED, columns[: len(schema.UNDESCRIBED_COLUMNS)]
        return int(connection.execute(sql, columns).lastrowid or 0)

    def _keep_texts(self, call: Call) -> None:
        """Keep the part of each point's canonical encoding that is the same for all points of
        its metric.
        """
        for draft in call.drafts:
            key = (call.component_id, draft.name or "")
            if draft.kind == vocabulary.METRIC and key not in self._metric_texts:
                self._metric_texts[key] = vocabulary.metric_text(
                    self._component_name(call.component_id), key[1]
                )

    def _know_head(self) -> None:
        if self._generation != self.database.generation or self._writer is None:
            self._start_writer()
        if self._unsure:
            self._look_up()

    def _look_up(self) -> None:
        """Find out what the journal holds: after an interruption, or an attempt that failed but may
        have been committed.

        Raises:
            JournalError: It can't be read.
        """
        with translated(self.database.path):
            self.database.roll_back()
        if self._writer is not None:
            recorded = self.database.read(
                "SELECT id FROM writer WHERE uuid = ?", (self._writer.uuid,)
            )
            self._writer_id = recorded[0][0] if recorded else 0
            rows = self.database.read(
                "SELECT writer_seq, digest FROM entry WHERE writer_id = ? ORDER BY seq DESC "
                "LIMIT 1",
                (self._writer_id,),
            )
            attempt = self._attempt
            if rows and attempt is not None and rows[0][0] > attempt.writer_seq:
                self._waiting.forget(*attempt.calls)
            # what was delivered and removed leaves the head as it was
            if rows and rows[0][0] > self._head[0]:
                self._head = (rows[0][0], bytes(rows[0][1]))
        self._attempt = None
        self._unsure = False

    def _start_writer(self) -> None:
        """Make this process a writer: at its first append, and in a forked child. Its first
        entries record it.
        """
        now_ns = min([self._clock_ns(), *(call.at_ns for call in self._waiting.first(1))])
        info = provenance.describe_process(now_ns, self.journal_id)
        if not self._described:
            info = replace(info, digest=vocabulary.chain_start(info.uuid))
        self._writer = info
        self._writer_id = 0
        self._checkpoint_seq = 0
        self._head = (0, info.digest)
        self._unsure, self._attempt = False, None
        self._life = writers.hold(self.path, info.uuid)
        self._metric_texts.clear()  # made again, each joins its component
        self.database.append_beside_others()
        self._checkpointer.wake_if_large()
        _appending.add(self)
        # last: an interruption before it lets the next append start again
        self._generation = self.database.generation

    # -- the files
    # ----------------------------------------------------------------------------------

    def _look(self, now_ns: int, *, strict: bool) -> None:
        """Check whether the files are still in place, and save what is in them if not. Hold the
        lock.

        Raises:
            JournalError: ``strict``, and they are gone and can't be written again.
        """
        self._looked_ns = now_ns
        if self._head[0] - self._checkpoint_seq >= CHECKPOINT_ENTRIES:
            self._checkpoint_seq = self._head[0]
            self._checkpointer.wake()
        if not self.database.moved():
            return
        try:
            self.path, what = rescue.rescue(self.database)
        except JournalError as error:
            self._log(logging.WARNING, "%s", error)
            if strict:
                raise
        else:
            self._unsure = True  # another process may have written there meanwhile
            self._log(logging.WARNING, "%s", what)
            self._warn(what)

    def _flush(self) -> None:
        """Write all that waits, and have all of it on the disk. Hold the lock.

        Raises:
            JournalError: Something still waits, or the files are gone and can't be written again.
        """
        self._waiting.follow_fork(self.database.generation)
        self._unsure = self._unsure or self._inside
        self._inside = True
        try:
            if self._writer is not None:  # who recorded nothing has nothing to save
                self._look(self._clock_ns(), strict=True)
            self._next_try = 0.0
            self._write_waiting()
            self.database.sync()
        except JournalError:
            self._inside = False
            raise
        if self.database.news:
            self._afterwards.append(self.database.tell)
        self._inside = False
        self._catch_up()

    # -- what waits
    # ---------------------------------------------------------------------------------

    def _report_refusal(self, error: JournalError) -> None:
        """Warn, the first time, that entries wait in memory."""
        if self._refused or not self._waiting:
            return
        self._refused = True
        self._warn(
            f"{error.message}. Entries wait in memory ({limits.BUFFERED_ENTRIES_MAX} at most) "
            f"and are lost if the process ends before the journal takes them again. {error.hint}"
        )

    def _component_name(self, component_id: int) -> str:
        if self._life is not None:
            self._life.join(component_id)
        name = self._names.get(component_id)
        if name is None:
            rows = self.database.read("SELECT name FROM component WHERE id = ?", (component_id,))
            name = self._names[component_id] = str(rows[0][0])
        return name

    def _in_memory(self) -> Iterator[Entry]:
        """Yield the entries that wait, as entries without a place. Hold the lock."""
        for call in tuple(self._waiting):
            name = self._names.get(call.component_id, "")
            for draft in call.drafts:
                yield Entry(
                    0, self._writer_id, 0, call.component_id, name, *draft[:7], call.at_ns, b""
                )

    def _still_waiting(self, error: JournalError) -> JournalWriteError:
        count = self.unwritten
        return JournalWriteError(
            f"{count} entries could not be written to the journal at {self.path} and wait in "
            f"memory: {error.message}",
            hint=error.hint
            or "free the disk or the lock, then call close() again before the process ends",
            unwritten=count,
        )


def _points(
    component_id: int,
    points: Sequence[tuple[str, float]],
    step: int | None,
    timestamp_ns: int,
    now_ns: int,
) -> Call:
    drafts = [
        Draft("metric", "metric", name, float(value), step, timestamp_ns) for name, value in points
    ]
    return Call(component_id, tuple(drafts), now_ns)


_CALLS: Final = process.codes_of(
    Appender.append_if, Appender.append_metric, Appender.append_metrics, Appender.flush
)
_appending: weakref.WeakSet[Appender] = weakref.WeakSet()


def appending_in(folder: Path) -> list[Appender]:
    """Return the journals in a folder, or below it, that this process has appended to and not
    closed.
    """
    return [
        journal
        for journal in list(_appending)
        if not journal.database.closed and journal.path.is_relative_to(folder)
    ]


@atexit.register
def _write_at_exit() -> None:
    """Give what waits in memory, or is in deleted files, its last chance when the interpreter
    ends without ``close``.
    """
    for journal in list(_appending):
        if not journal.database.closed and (journal.unwritten or journal.database.moved()):
            try:
                journal.save()
            except JournalError as error:
                logger.error("%s", error)  # noqa: TRY400 - a traceback says nothing here
