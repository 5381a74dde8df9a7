"""Watch journals, and deliver what is written into them.

events and polls → changed journals → (debounce) → passes: several journals at a time, at most one
pass per journal.

This module decides *when*. Everything that needs a network or a database is a callable handed in.
One thread calls ``run``. Passes run on a pool. Signals and other threads call ``stop`` and
``reconfigure``. Invariants:

- Nothing is read from a journal while its files do not change.
- While the endpoint is down there are no passes, only probes with growing, jittered delays.
- A journal that can't go on does not delay another.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from journaltrack.errors import (
    ErrorKind,
    JournalError,
    JournaltrackError,
    LeaseHeldError,
    RemoteError,
)
from journaltrack.util import paths
from journaltrack.util.deadline import Deadline
from journaltrack.util.text import logfmt
from journaltrack.util.threads import DaemonPool
from journaltrack.watch import folders
from journaltrack.watch.breaker import Backoff, Gate
from journaltrack.watch.journal import Delivery, DeliveryRequest, WatchedJournal, code_of

if TYPE_CHECKING:
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.util.config import WatchConfiguration

logger = logging.getLogger(__name__)

PREFLIGHT_S: Final = 10.0
"""After this time without an answer, a pass begins with a probe.

A lost answer to a probe costs nothing. A lost answer to metrics leaves them in doubt.
"""
TELL_EVERY_S: Final = 15.0
"""Longest time between two reports of the state. They show a monitor that the watcher lives."""
TELL_AT_MOST_S: Final = 1.0
"""Shortest time between two reports of the state."""
_POLL_COST: Final = 200
"""The least time between two polls, as a multiple of the CPU time of one: half a percent of a core.

A poll of 2,000 journals takes 0.1 s. Events tell of changes meanwhile.
"""
_BUG: Final = "a bug; no data is lost: run `journaltrack sync -v` and report the traceback"


class Events(Protocol):
    """Tell in which folders something happened; see ``folders.FolderEvents``."""

    def watch(self, folder: Path) -> bool:
        """Report what happens in a folder from now on; return whether that works."""

    def forget(self, folder: Path) -> None:
        """Report no more of a folder."""

    def taken(self) -> set[Path]:
        """Return the folders in which something happened since the last call."""

    def close(self) -> None:
        """End reporting."""


class Watcher:
    """Deliver what is written into journals below some folders.

    Args:
        roots: Returns folders of journals, or journals; asked at every poll. A missing one may
            appear later.
        deliver: Looks at a journal and makes a pass if one is due. Raises only ``JournalError``.
            Runs on several threads.
        probe: Sends one cheap request. Returns None if the endpoint answers and accepts the
            credentials, else the error.
        settings: Delays and bounds.
        events: Makes the source of events, given a function that it calls for every event.
        tell: Called with this watcher when its state has changed, and every ``TELL_EVERY_S``.
        arrivals: Whether a journal may be an unfinished copy. Such a journal is left alone until it
            is whole.
        clock: Monotonic seconds.
        clock_ns: Nanoseconds since the epoch, for reports of the state.
        cpu_s: Seconds of CPU that the calling thread has used.
        chance: Returns a random number from 0 to 1.
    """

    def __init__(
        self,
        roots: Callable[[], Sequence[Path]],
        deliver: Callable[[DeliveryRequest], Delivery],
        probe: Callable[[], RemoteError | None],
        settings: WatchConfiguration,
        *,
        events: Callable[[Callable[[], None]], Events],
        tell: Callable[[Watcher], None] = lambda _: None,
        arrivals: bool = True,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
        cpu_s: Callable[[], float] = time.thread_time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cpu_s = cpu_s
        self.journals: dict[Path, WatchedJournal] = {}
        self.gate = Gate(settings.probe_first_s, settings.probe_max_s, chance)
        self.settings = settings
        self._find_roots = roots
        self._roots: list[Path] = []
        self._deliver = deliver
        self._probe = probe
        self._tell = tell
        self._arrivals = arrivals
        self._clock = clock
        self._clock_ns = clock_ns
        self._chance = chance
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._events = events(self._wake.set)
        self._pool = DaemonPool(settings.journals_at_a_time + 1, "journaltrack-watch")
        self._probing: Future[RemoteError | None] | None = None
        self._next: WatchConfiguration | None = None
        self._parents: set[Path] = set()
        self._poll_at = float("-inf")
        self._told: tuple[float, object] = (float("-inf"), None)
        self.unfinished = 0

    # -- from other threads --

    def stop(self) -> None:
        """End ``run`` soon. Requests in flight end and are recorded, within ``stop_deadline_s``."""
        self._stopping.set()
        self._wake.set()

    def wake(self) -> None:
        """Look at all journals now."""
        self._poll_at = float("-inf")
        self._wake.set()

    def reconfigure(self, settings: WatchConfiguration) -> None:
        """Change the settings, and ask for the roots. The number of journals at a time stays."""
        self._next = settings
        self.wake()

    # -- the loop --

    def run(self) -> None:
        """Watch until ``stop``."""
        try:
            while not self._stopping.is_set():
                pause_s = self.step()
                self._wake.wait(pause_s)
                self._wake.clear()
        finally:
            self._shut_down()

    def step(self) -> float:
        """Do what is due. Return the seconds until the next step, unless woken earlier."""
        now = self._clock()
        if self._next is not None:
            self._adopt(self._next)
        self._collect(now)
        happened = self._events.taken()
        # A folder or journal came or went beside the known journals.
        if happened - self.journals.keys():
            self._poll_at = min(self._poll_at, now + self.settings.debounce_s)
        if now >= self._poll_at:
            self._poll(now)
        else:
            for journal in list(self.journals.values()):
                is_due = now <= journal.hot_until or now >= journal.examine_at
                if is_due or journal.path in happened:
                    self._examine(journal, now)
        self._launch(now)
        self._tell_if_due(now)
        return max(0.0, self._next_step(now) - now)

    def _poll(self, now: float) -> None:
        """Look at all journals, with or without events."""
        began_s = self._cpu_s()
        self._roots = list(self._find_roots())
        found: set[Path] = set()
        for root in self._roots:
            found.update(paths.journals_in(root))
        for path in sorted(found - self.journals.keys()):
            backoff = Backoff(self.settings.retry_first_s, self.settings.retry_max_s, self._chance)
            # Copies of mirrored journals are made here, and appear whole.
            arrivals = self._arrivals and not path.is_relative_to(paths.copies_of_mirrors())
            self.journals[path] = WatchedJournal(
                path, backoff, arrivals, arriving=arrivals, unchecked=arrivals, quiet_since=now
            )
            logger.info(logfmt("journal-found", journal=path))
        for journal in list(self.journals.values()):
            is_watched = any(journal.path.is_relative_to(root) for root in self._roots)
            if journal.running is None and not is_watched:
                del self.journals[journal.path]
                self._events.forget(journal.path)
            else:
                self._examine(journal, now)
        parents = set(self._roots)
        for root in self._roots:
            below = (path for path in found if path != root and path.is_relative_to(root))
            parents.update(path.parent for path in below)
        for parent in self._parents - parents:
            self._events.forget(parent)
        self._parents = parents
        for parent in parents - self.journals.keys():
            self._events.watch(parent)
        cost_s = self._cpu_s() - began_s
        self._poll_at = now + max(self.settings.poll_s, _POLL_COST * cost_s)

    def _examine(self, journal: WatchedJournal, now: float) -> None:
        """Check whether a journal's files have changed."""
        if journal.running is not None:
            return
        if now >= journal.examine_at:
            journal.examine_at = float("inf")
        try:
            files = folders.files_of(journal.path)
            changed = files is not None and journal.seen(files, now, self.settings.debounce_s)
            if not changed and now >= journal.hot_until and self._events.watch(journal.path):
                # A write between the look and the watch sent no event.
                files = folders.files_of(journal.path)
                changed = files is not None and journal.seen(files, now, self.settings.debounce_s)
        except OSError as error:
            message = f"{journal.path} can't be read: {error.strerror}"
            self._fail(journal, JournalError(message, hint="check its permissions"), now)
            return
        if files is None:
            del self.journals[journal.path]
            self._events.forget(journal.path)
            hint = "it is no longer delivered, until it comes back"
            logger.warning(logfmt("journal-gone", journal=journal.path, hint=hint))
            return
        if changed:
            self._events.forget(journal.path)
        reason = journal.reason
        if journal.arriving and journal.settle(now, self.settings.settle_s):
            journal.due_at = now
            logger.info(logfmt("journal-whole", journal=journal.path))
        elif journal.arriving and journal.reason != reason:
            logger.info(logfmt("journal-arriving", journal=journal.path, reason=journal.reason))

    def _launch(self, now: float) -> None:
        """Begin what is due, first the journal that has waited longest."""
        if not self.gate.up and self._probing is None and now >= (self.gate.probe_at or now):
            self._probing = self._submit(self._probe)
        free = self._free()
        for journal in sorted(self.journals.values(), key=lambda each: each.started_at):
            if free <= 0:
                return
            if journal.running is None and not journal.arriving and self._is_due(journal, now):
                self._start(journal, now)
                free -= 1

    def _free(self) -> int:
        """Return how many more passes can begin now."""
        running = sum(journal.running is not None for journal in self.journals.values())
        return max(0, self.settings.journals_at_a_time - running)

    def _is_due(self, journal: WatchedJournal, now: float) -> bool:
        due_at, retry_at = journal.due_at, journal.retry_at
        # While the endpoint is down, a look only counts the pending entries.
        if not self.gate.up:
            return due_at is not None and now >= max(
                due_at, journal.looked_at + self.settings.poll_s
            )
        return (due_at is not None and now >= due_at) or (retry_at is not None and now >= retry_at)

    def _start(self, journal: WatchedJournal, now: float) -> None:
        # If the files can't be read, the pass finds out.
        try:
            files = folders.files_of(journal.path) or journal.files
        except OSError:
            files = journal.files
        known = journal.files
        # Another journal just came in its place: it must settle first.
        if (
            journal.arrivals
            and files is not None
            and known is not None
            and known.replaced_by(files)
        ):
            journal.seen(files, now, self.settings.debounce_s)
            return
        # Noted before the look: whatever comes later is a change.
        journal.files = files
        retrying = journal.retry_at is not None and now >= journal.retry_at
        journal.due_at = None
        journal.started_at = journal.looked_at = now
        journal.deadline = Deadline()
        contact_at = self.gate.contact_at
        request = DeliveryRequest(
            journal.path,
            journal.deadline,
            unless=None if retrying else journal.position,
            arriving=journal.unchecked,
            preflight=contact_at is None or now - contact_at > PREFLIGHT_S,
            look_only=not self.gate.up,
        )
        if retrying and self.gate.up:
            journal.retry_at = None
        journal.running = self._submit(lambda: self._deliver(request))

    def _collect(self, now: float) -> None:
        """Take the results of the pool's finished work."""
        if self._probing is not None and self._probing.done():
            probed, self._probing = self._probing, None
            bug = probed.exception()
            if bug is None:
                error = probed.result()
            else:
                text, kind = _unexpected(bug), ErrorKind.TRANSIENT
                error = RemoteError(text, kind=kind, code="Unexpected", hint=_BUG)
            if error is None:
                self._up(now)
            else:
                self._down(error, now)
        for journal in self.journals.values():
            if journal.running is not None and journal.running.done():
                future, journal.running, journal.deadline = journal.running, None, None
                try:
                    delivery = future.result()
                except JournaltrackError as error:
                    self._fail(journal, error, now)
                except Exception as bug:
                    logger.debug("a pass failed", exc_info=bug)
                    self._fail(journal, JournalError(_unexpected(bug), hint=_BUG), now)
                else:
                    self._take(journal, delivery, now)

    def _take(self, journal: WatchedJournal, delivery: Delivery, now: float) -> None:
        reason = journal.reason
        journal.take(delivery, now, self._clock_ns(), self.settings.debounce_s)
        report = delivery.report
        if report is None:
            if journal.reason is not None and journal.reason != reason:
                hint = "waiting for them; if they are lost, `journaltrack sync` delivers the rest"
                reason = journal.reason
                logger.warning(
                    logfmt("journal-incomplete", journal=journal.path, reason=reason, hint=hint)
                )
            return
        if report.settled or report.problem is not None:
            level = logging.INFO if report.problem is None else logging.WARNING
            logger.log(level, _pass_line(journal, report))
        # At least one request was answered.
        if report.delivered > report.superseded:
            self.gate.delivered(now)
            if not self.gate.up and report.halted is None:
                self._up(now)
        halted = report.halted
        if halted is None:
            return
        if halted.unreachable or halted.everywhere or halted.kind is ErrorKind.TRANSIENT:
            # Due as soon as the endpoint is back.
            journal.retry_at = now
            # Passes of several journals fail together: that is one outage.
            if self.gate.up:
                self._down(halted, now)

    def _fail(self, journal: WatchedJournal, error: JournaltrackError, now: float) -> None:
        news = journal.last_error is None or journal.last_error.message != error.message
        journal.fail(error, now)
        if news:
            level = logging.INFO if isinstance(error, LeaseHeldError) else logging.WARNING
            fields = {"journal": journal.path, "error": error.message, "hint": error.hint}
            logger.log(level, logfmt("journal-waits", **fields))

    def _up(self, now: float) -> None:
        since = self.gate.since
        if self.gate.answered(now):
            logger.info(
                logfmt("endpoint-up", after_s=round(now - since, 3) if since is not None else None)
            )
            for journal in self.journals.values():
                if journal.retry_at is not None or journal.pending:
                    journal.retry_at = now

    def _down(self, error: RemoteError, now: float) -> None:
        if self.gate.fail(error, now):
            fields = {"code": error.code, "error": error.message, "hint": error.hint}
            logger.warning(logfmt("endpoint-down", **fields))

    # -- inside --

    def _submit(self, work: Callable[[], Any]) -> Future[Any]:
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._wake.set())
        return future

    def _adopt(self, settings: WatchConfiguration) -> None:
        self._next = None
        self.settings = settings
        self.gate.pace(settings.probe_first_s, settings.probe_max_s)
        for journal in self.journals.values():
            journal.retry.pace(settings.retry_first_s, settings.retry_max_s)

    def _next_step(self, now: float) -> float:
        """Return when the next thing is due that no event announces."""
        times = [self._poll_at, self._told[0] + TELL_EVERY_S]
        if not self.gate.up and self._probing is None and self.gate.probe_at is not None:
            times.append(self.gate.probe_at)
        free = self._free()
        for journal in self.journals.values():
            if journal.running is not None:
                continue
            times.append(journal.examine_at)
            if now <= journal.hot_until:
                times.append(now + self.settings.debounce_s)
            # With no free place, the end of a pass wakes the watcher.
            if self.gate.up and free and not journal.arriving:
                times += [t for t in (journal.due_at, journal.retry_at) if t is not None]
        return min(times)

    def _tell_if_due(self, now: float) -> None:
        told_at, told = self._told
        journals = [
            (j.path, j.state, j.pending, j.last_error, j.last_success_at_ns, j.reason)
            for j in self.journals.values()
        ]
        state = (self.gate.error, journals)
        if now - told_at >= TELL_EVERY_S or (state != told and now - told_at >= TELL_AT_MOST_S):
            self._told = (now, state)
            self._tell(self)

    def _shut_down(self) -> None:
        """Finish requests in flight. Any later pass settles those that do not end in time."""
        grace_s = self.settings.stop_deadline_s
        running = [j for j in self.journals.values() if j.running is not None]
        for journal in running:
            if journal.deadline is not None:
                journal.deadline.cancel(grace_s=grace_s)
        self._events.close()
        futures: list[Future[Any]] = [j.running for j in running if j.running is not None]
        wait(futures, timeout=grace_s + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._collect(self._clock())
        self._tell(self)
        self.unfinished = sum(not future.done() for future in futures)
        logger.info(logfmt("stopped", unfinished=self.unfinished))


def _unexpected(bug: BaseException) -> str:
    return f"unexpected: {type(bug).__name__}: {bug}"


def _pass_line(journal: WatchedJournal, report: PassReport) -> str:
    problem = report.problem
    return logfmt(
        "pass",
        journal=journal.path,
        delivered=report.delivered,
        superseded=report.superseded,
        quarantined=report.quarantined,
        in_doubt=report.in_doubt,
        pending=report.pending,
        requests=report.requests,
        duration_s=round(report.duration_s, 3),
        held=len(report.held) or None,
        code=code_of(problem) if problem else None,
        error=problem.message if problem else None,
        hint=problem.hint if problem else None,
    )
