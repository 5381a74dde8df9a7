"""Append calls to a journal: one at a time, and what is done if the journal refuses.

The hot path. Must not know what is read back, replayed or audited, or how calls are written
(``insert``).

Invariants:

- An append is one transaction, and is committed when the call returns. If the journal refuses, the
  call waits in memory, in order, and is counted by ``unwritten`` (``on_journal_error="buffer"``).
- A call made inside another call of the same thread (a signal handler, ``__del__``, a logging
  handler) waits until that one has done its work, and is committed before that one returns.
- An exception at any moment leaves the state to be looked up. One call's error is that call's
  alone.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from journaltrack import limits
from journaltrack.errors import JournalError, JournalReadOnlyError, JournalWriteError
from journaltrack.journal import rescue
from journaltrack.journal.insert import (
    POINTS_AT_ONCE,
    Call,
    Inserter,
    UnmetError,
    Waiting,
    points_call,
)
from journaltrack.journal.sqlite.checkpoint import CHECKPOINT_ENTRIES, Checkpointer
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.vocabulary import Draft
from journaltrack.util import process

logger = logging.getLogger(__name__)

OnJournalError: TypeAlias = Literal["buffer", "raise"]

# How often an append checks whether the journal's files are still in place ...
_LOOK_EVERY_NS: Final = 250_000_000
# ... and, by two system calls, whether this process has dropped its locks, or another one has.
_LOCKS_EVERY_NS: Final = 5_000_000
# While the journal refuses: how soon an append tries again, which doubles up to ...
_RETRY_SOON_S: Final = 0.01
_RETRY_EVERY_S: Final = 1.0
# ... and how long it lets training wait for that.
_BUSY_WHILE_FAILING_S: Final = 0.05
# A timer that is faster than the disk must not keep a call from returning.
_NESTED_ROUNDS_MAX: Final = 8
# For so long a last flush tries again while the journal refuses, with pauses.
_PATIENCE_S: Final = 3.0
_PAUSE_S: Final = 0.01


class Appender:
    """The appending side of a journal. Threads may share it.

    Args:
        database: The journal's database.
        on_journal_error: See ``Journal.open``.
        clock_ns: Returns nanoseconds since the epoch.
        monotonic: Returns seconds.
        revision: The schema of the journal. An older one is appended to as its own version did.
    """

    def __init__(
        self,
        database: Database,
        on_journal_error: OnJournalError,
        clock_ns: Callable[[], int],
        monotonic: Callable[[], float],
        revision: str,
    ) -> None:
        self.database = database
        self.journal_id: str = str(database.read("SELECT journal_id FROM meta")[0][0])
        self.on_journal_error: OnJournalError = on_journal_error
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        # A call is under way, or an exception ended one in the middle.
        self._inside = False
        # Calls inside the one that is under way have left something to do.
        self._nested = False
        self._afterwards: deque[Callable[[], object]] = deque()
        self._waiting = Waiting(database.generation)
        # A copy of what waits, elsewhere.
        self._copy: Path | None = None
        # The journal refused, and the user was told that calls wait.
        self._refused = False
        self._next_try = 0.0
        self._pause_s = 0.0
        self._looked_ns = self._locks_ns = clock_ns()
        self._inserter = Inserter(database, self.journal_id, self._waiting, clock_ns, revision)
        self._checkpointer = Checkpointer(database)
        # The chain's length when the log was last written back.
        self._checkpoint_seq = 0
        self._is_power = database.durability == "power"

    @property
    def path(self) -> Path:
        """Return the journal's folder."""
        return self.database.path.parent

    @property
    def unwritten(self) -> int:
        """Return how many entries wait in memory; they are lost if the process ends now."""
        if self._waiting:
            self._waiting.follow_fork(self.database.generation)
        return self._waiting.entries

    # -- calls ------------------------------------------------------------------------------------

    @property
    def writer_uuid(self) -> str | None:
        """Return the uuid of this process as a writer; None before its first append."""
        writer = self._inserter.writer
        return None if writer is None else writer.uuid

    def append(self, component_id: int, drafts: Sequence[Draft]) -> None:
        """Record drafts in one transaction, and quarantine those that AWS could never accept.

        Args:
            component_id: From ``component``.
            drafts: At least one.

        Raises:
            JournalWriteError: The journal refuses and ``on_journal_error="raise"``, or too many
                entries wait.
        """
        self.append_if(None, component_id, drafts)

    def append_if(
        self, condition: Callable[[], bool] | None, component_id: int, drafts: Sequence[Draft]
    ) -> bool:
        """Record drafts if a condition holds.

        It is checked in the transaction that records them: nobody writes in between. While the
        journal refuses, the drafts wait in memory as those of ``append`` do. If the condition does
        not hold when they are written, they are left out, with a warning in the log.

        Args:
            condition: Reads this journal's ``database`` alone. None always holds.
            component_id: See ``append``.
            drafts: See ``append``.

        Returns:
            Whether it held. If not, nothing was recorded.

        Raises:
            JournalWriteError: As ``append``.
        """
        try:
            with self.database.lock:
                call = Call(component_id, tuple(drafts), self._clock_ns(), condition)
                if self._inside or condition is not None or not self._is_ready(call.at_ns):
                    self._append(call)
                else:
                    self._inside = True
                    if not self._inserter.insert_at_once(call):
                        self._record(call)
                    self._inside = False
                    if self._nested:
                        self._catch_up()
        except UnmetError:
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
                inserter = self._inserter
                middle = inserter.metric_texts[component_id].get(name)
                if middle is None or self._inside:
                    self._append(
                        points_call(component_id, ((name, value),), step, timestamp_ns, now_ns)
                    )
                else:
                    # From here on a call inside this one leaves its work to it.
                    self._inside = True
                    call = (
                        inserter.insert_point(
                            component_id, name, middle, value, step, timestamp_ns, now_ns
                        )
                        if self._is_ready(now_ns)
                        else points_call(component_id, ((name, value),), step, timestamp_ns, now_ns)
                    )
                    if call is not None:
                        self._record(call)
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
        """Record points of several metrics that are known to be deliverable: all or none.

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
                inserter = self._inserter
                texts = inserter.metric_texts[component_id]
                middles = [texts.get(name) for name, _ in points]
                if self._inside or None in middles or not 1 < len(points) <= POINTS_AT_ONCE:
                    self._append(points_call(component_id, points, step, timestamp_ns, now_ns))
                else:
                    self._inside = True
                    call = (
                        inserter.insert_points(
                            component_id, points, middles, step, timestamp_ns, now_ns
                        )
                        if self._is_ready(now_ns)
                        else points_call(component_id, points, step, timestamp_ns, now_ns)
                    )
                    if call is not None:
                        self._record(call)
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
        if self.postpone(self.flush, own_calls=1):
            return
        until, waiting = self._monotonic() + patience_s, self._waiting.entries
        while True:
            try:
                with self.database.lock:
                    self._flush()
                break
            except JournalError as error:
                # Some were written: try on.
                if self._waiting.entries < waiting:
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
        """Flush, with patience. If the journal still refuses, copy what waits elsewhere.

        Raises:
            JournalWriteError: As ``flush``. It names the copy, which the next ``save`` that
                succeeds removes.
        """
        if self.postpone(self.save):
            return
        try:
            self.flush(patience_s=_PATIENCE_S)
        except JournalWriteError as error:
            with self.database.lock:
                calls = self._waiting.first(len(self._waiting))
                names = self._inserter.names
                waiting = [(names.get(call.component_id), call.drafts) for call in calls]
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
            import shutil  # noqa: PLC0415 - a tenth of the time of a start

            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    @property
    def is_inside(self) -> bool:
        """Return whether this thread is inside a call that appends. Hold the database's lock."""
        return self._inside and process.depth(self, _CALLS) > 0

    def postpone(self, work: Callable[[], object], *, own_calls: int = 0) -> bool:
        """Run ``work`` after the call that this thread is inside of.

        Args:
            work: What to run.
            own_calls: How many of the calls that this thread is inside of ask for it.

        Returns:
            Whether it is inside one. If not, nothing is done.
        """
        with self.database.lock:
            if self._inside and process.depth(self, _CALLS) > own_calls:
                self._afterwards.append(work)
                return True
        return False

    # -- one call at a time --------------------------------------------------------------------

    def _append(self, call: Call) -> None:
        """Record a call, or leave it to the one that this thread is inside of. Hold the lock."""
        if self._inside and process.depth(self, _CALLS) > 1:
            self._waiting.add(call, self.database.generation)
            self._nested = True
            return
        if self._inside:
            # An exception ended a call in the middle.
            self._inserter.is_unsure = True
        self._inside = True
        try:
            self._record(call)
        except (JournalError, UnmetError):
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
        """Write what a signal handler has logged before it raised."""
        if not (self._nested or self._afterwards):
            return
        with self.database.lock:
            if self._inside and process.depth(self, _CALLS) > 1:
                return
            self._inserter.is_unsure |= self._inside
            self._inside = False
            self._catch_up()
        self._end()

    def _end(self) -> None:
        """Do what had to wait for the end of the call: warnings, and calls from inside it.

        Do not hold the lock.
        """
        if self._inside and process.depth(self, _CALLS) > 1:
            return
        for _ in range(len(self._afterwards)):
            try:
                work = self._afterwards.popleft()
            except IndexError:
                # A signal handler came here, too.
                return
            try:
                work()
            except Warning as told:
                # `-W error`: the call is recorded all the same.
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
        """Return whether the fast path applies. Hold the lock."""
        inserter, database = self._inserter, self.database
        return (
            not self._waiting
            and not inserter.is_unsure
            and bool(inserter.writer_id)
            and inserter.generation == database.generation
            and database.takes_statements
            # A clock may jump.
            and (0 <= now_ns - self._locks_ns < _LOCKS_EVERY_NS or self._has_locks(now_ns))
            and not (self._is_power and database.must_yield)
        )

    def _has_locks(self, now_ns: int) -> bool:
        """Return whether a statement may still go straight to SQLite, and no look is due."""
        if not 0 <= now_ns - self._looked_ns < _LOOK_EVERY_NS:
            return False
        self._locks_ns = now_ns
        self.database.look_at_locks()
        return self.database.takes_statements

    # -- writing -------------------------------------------------------------------------------

    def _record(self, call: Call) -> None:
        """Write a call behind what waits, or let it wait, too. Hold the lock."""
        if self.database.read_only:
            raise JournalReadOnlyError(
                f"the journal at {self.path} was opened for reading alone",
                hint="open it without read_only=True",
            )
        self._waiting.add(call, self.database.generation)
        try:
            is_due = not 0 <= call.at_ns - self._looked_ns < _LOOK_EVERY_NS
            if is_due and self._inserter.writer is not None:
                self._look(call.at_ns, strict=self.on_journal_error == "raise")
            self._write_waiting(call)
        except JournalError as error:
            if (self.database.closed or self.on_journal_error == "raise") and self._waiting.forget(
                call
            ):
                raise
            self._report_refusal(error)
        except BaseException:
            # It raises: it is recorded already, or never.
            self._waiting.forget(call)
            raise
        finally:
            if self.database.news:
                self._afterwards.append(self.database.tell)

    def _write_waiting(self, own: Call | None = None) -> None:
        """Write what waits, in order, in one transaction. Hold the lock.

        While the journal refuses, the transactions are smaller.

        Raises:
            JournalError: The journal refuses. What is not written waits.
            Exception: ``own`` can't be recorded, for its own reason. It does not wait any more.
        """
        if self._refused and self._monotonic() < self._next_try:
            return
        starts, waiting = not self._inserter.is_started, len(self._waiting)
        try:
            if self._refused:
                self.database.set_busy_timeout(_BUSY_WHILE_FAILING_S)
            self._inserter.insert_waiting(own, self._log)
        except JournalError:
            if len(self._waiting) < waiting:
                self._pause_s = 0.0
            self._next_try = self._monotonic() + self._pause_s
            self._pause_s = min(max(2 * self._pause_s, _RETRY_SOON_S), _RETRY_EVERY_S)
            raise
        finally:
            self._waiting.count_again()
        self._pause_s = 0.0
        if starts:
            self._checkpointer.wake_if_large()
        if self._refused:
            self._refused = False
            self.database.set_busy_timeout(None)
            self._log(
                logging.WARNING,
                "the journal at %s takes entries again: all that waited in memory is written",
                self.path,
            )

    # -- the files -----------------------------------------------------------------------------

    def _look(self, now_ns: int, *, strict: bool) -> None:
        """Check whether the files are still in place; if not, save what is in them.

        Hold the lock.

        Raises:
            JournalError: ``strict``, and they are gone and can't be written again.
        """
        self._looked_ns = self._locks_ns = now_ns
        length = self._inserter.head[0]
        # It is shorter in a forked child.
        if not 0 <= length - self._checkpoint_seq < CHECKPOINT_ENTRIES:
            self._checkpoint_seq = length
            self._checkpointer.wake()
        if not self.database.moved():
            return
        try:
            what = rescue.rescue(self.database)
        except JournalError as error:
            self._log(logging.WARNING, "%s", error.message)
            if strict:
                raise
        else:
            # Another process may have written there meanwhile.
            self._inserter.is_unsure = True
            self._log(logging.WARNING, "%s", what)
            self._warn(what)

    def _flush(self) -> None:
        """Write all that waits, and have all of it on the disk. Hold the lock.

        Raises:
            JournalError: Something still waits, or the files are gone and can't be written again.
        """
        self._waiting.follow_fork(self.database.generation)
        self._inserter.is_unsure |= self._inside
        self._inside = True
        try:
            # Who recorded nothing has nothing to save.
            if self._inserter.writer is not None:
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

    # -- what waits ----------------------------------------------------------------------------

    def _report_refusal(self, error: JournalError) -> None:
        """Warn, the first time, that entries wait in memory."""
        if self._refused or not self._waiting:
            return
        self._refused = True
        self._warn(
            f"{error.message}. Entries wait in memory ({limits.BUFFERED_ENTRIES_MAX} at most) "
            f"and are lost if the process ends before the journal takes them again. {error.hint}"
        )

    def _still_waiting(self, error: JournalError) -> JournalWriteError:
        count = self.unwritten
        return JournalWriteError(
            f"{count} {'entry' if count == 1 else 'entries'} could not be written to the journal "
            f"at {self.path} and {'waits' if count == 1 else 'wait'} in memory: {error.message}",
            hint=error.hint
            or "free the disk or the lock, then call close() again before the process ends",
            unwritten=count,
        )


_CALLS: Final = process.codes_of(
    Appender.append_if, Appender.append_metric, Appender.append_metrics, Appender.flush
)
