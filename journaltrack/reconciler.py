"""The reconciler: replays what is pending in a journal to a remote. lease → plan → perform → settle.

Pending entries are read a chunk at a time, planned, and performed phase by phase; requests of one phase run side by
side on threads, which touch the remote alone. This thread does all recording: intents before a request is handed to a
worker, outcomes as they come, grouped in transactions that never span a request.

Invariants: memory does not grow with the journal; a request is in flight only with a recorded intent; a failing
component does not hold up the others. Must not know the tracker, boto3 or tenacity.
"""

from __future__ import annotations

import fnmatch
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from journaltrack import anchoring, paths, readback, standing
from journaltrack import doubts as doubting
from journaltrack import lease as leases
from journaltrack import plan as planning
from journaltrack.actions import Action, Ensure, PutMetrics, Request, Settle, Update, Upload
from journaltrack.deadline import Deadline
from journaltrack.entries import CREATE, LOAD, Entry
from journaltrack.errors import ErrorKind, JournalNotFoundError, RemoteError
from journaltrack.journal import Journal
from journaltrack.limits import METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S
from journaltrack.pass_report import PassReport, Position, Progress
from journaltrack.pending_chunks import Chunk, Wanted, pending_chunks
from journaltrack.perform import Context, Verdict, judge, perform, shifted
from journaltrack.remote import Answer, Remote
from journaltrack.settlement import Intent, Outcome, Settlement
from journaltrack.workers import Workers

logger = logging.getLogger(__name__)

CONCURRENCY: Final = 96
"""Requests in flight: what hides 30 ms of latency and the delays of a busy machine (ADR 0020). A service that allows fewer says so, and is
asked at its rate from then on (``rate_limit``)."""
FIRST_IN_FLIGHT: Final = 16
"""... in the beginning; one more for every answer."""
_AGAIN_MAX: Final = 6  # rounds for items that the remote asks to send again
_PASSING_MAX: Final = 3  # actions in a row that exhausted their retries: the remote is not well, end the pass
_HEARTBEAT_S: Final = 5.0
_GRACE_S: Final = 0.5
_GROUP_S: Final = 0.005
"""After an answer, so long for others: recorded together they meet an append less often (its p99 beside a pass: 2.1 to 1.4 ms);
a sync is not slower for it (docs/performance.md)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a pass shall do.

    Attributes:
        component: Shell pattern of component names (case does not matter); None: all.
        since_ns: Only entries recorded since then (nanoseconds since the epoch), and what makes their components.
        concurrency: Requests in flight.
        create_or_attach: Create loaded components that are missing, attach to foreign ones that exist.
        timestamps: Metrics older than ``limits.METRIC_AGE_MAX_S`` or further ahead than ``METRIC_AHEAD_MAX_S``: ``"keep"`` sends
            them as they are, ``"shift"`` with the time of delivery.
        visible_after_s: How long after a request its points are taken for not there when reading back does not show them.
        anchor: Where the heads of the journal's chains are put after the pass, see ``anchoring.make``.
        anchor_every_s: Not before the last anchor is so old (seconds), unless a component ended in this pass.
    """

    component: str | None = None
    since_ns: int | None = None
    concurrency: int = CONCURRENCY
    create_or_attach: bool = False
    timestamps: str = "keep"
    visible_after_s: float = readback.VISIBLE_AFTER_S
    anchor: str = "artifacts"
    anchor_every_s: float = 0.0

    def wants_component(self, name: str) -> bool:
        """Whether the pass is about this component."""
        return self.component is None or fnmatch.fnmatchcase(name.lower(), self.component.lower())

    def wants(self, entry: Entry) -> bool:
        """Whether the pass is about this entry."""
        if not self.wants_component(entry.component):
            return False
        return self.since_ns is None or entry.recorded_at_ns >= self.since_ns or entry.kind in {CREATE, LOAD}

    @property
    def wanted(self) -> Wanted:
        """The same for reading."""
        return Wanted(self.wants_component, self.wants, self.since_ns, self.component is None)


class _Job(NamedTuple):
    """A request to make; ``round`` counts how often items of it were sent before."""

    action: Request
    round: int = 0


class _Waiting:
    """Requests that were not begun: what is to be sent again first, and then the others, which are made when it is their turn."""

    def __init__(self, actions: Iterable[Request]) -> None:
        self._first: deque[_Job] = deque()
        self._others = iter(actions)

    def next(self) -> _Job | None:
        """Whose turn it is; None when there is none left."""
        if self._first:
            return self._first.popleft()
        action = next(self._others, None)
        return None if action is None else _Job(action)

    def put_first(self, jobs: Iterable[_Job]) -> None:
        """Before all others, in this order."""
        self._first.extendleft(reversed([*jobs]))

    def clear(self) -> None:
        """None of them is to be made any more."""
        self._first.clear()
        self._others = iter(())


_Sending: TypeAlias = "tuple[_Job, int]"
"""A request, and the receipt of its intent."""


class _Result(NamedTuple):
    """What a worker brought back; ``notes`` is what is to be told of entries that were not sent as they are, by ``seq``."""

    result: Answer | RemoteError
    attempts: int
    notes: Mapping[int, str]


class Reconciler:
    """Replays one journal to one remote.

    Args:
        journal: Of the caller, not shared with a tracker: reading must not keep appends waiting.
        remote: Retries what is worth it, and raises ``RemoteError`` alone.
        options: What to replay.
        deadline: Ends the pass; what is not delivered stays pending.
        on_progress: Called from the calling thread after every recording.
        attempts: Tells, on the worker's thread, how often the remote sent the last request.
        clock_ns: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        remote: Remote,
        *,
        options: Options | None = None,
        deadline: Deadline | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        attempts: Callable[[], int] = lambda: 1,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal = journal
        self._remote = remote
        self._options = options or Options()
        self._deadline = deadline or Deadline()
        self._on_progress = on_progress
        self._attempts = attempts
        self._clock_ns = clock_ns
        self._context = Context(journal.path / paths.SPOOL, f"journal-{journal.journal_id}", self._options.create_or_attach)
        self._report = PassReport()
        self._total = 0
        self._seen_seq = 0
        self._absent: set[int] = set()  # components whose creation failed for now: nothing of them can succeed
        self._blocked: set[int] = set()  # components with a failed update: a later one may not overtake it
        self._passing = 0
        self._component_ended = False

    def run(self) -> PassReport:
        """One pass: everything pending is tried once (with the remote's retries).

        Returns:
            What was done; failures of requests are in it, they are not raised.

        Raises:
            LeaseHeldError: Somebody else reconciles this journal.
            LeaseLostError: Somebody else took the lease over in mid-pass.
            JournalNotFoundError: It was deleted, replaced or moved in mid-pass.
            JournalError: The journal can't be read or written.
        """
        started = time.monotonic()
        lease = leases.acquire(self._journal.database, clock_ns=self._clock_ns)
        try:
            settlement = Settlement(self._journal.database, lease, self._clock_ns)
            self._report.in_doubt += settlement.recover()
            self._resolve_doubts(settlement)
            self._seen_seq = self._journal.last_seq()  # before counting: what comes later is not taken for seen
            self._total = standing.pending_count(self._journal.database)
            self._tell()
            if self._total and not self._ended():
                self._replay(settlement)
            settlement.advance_mark()
            settlement.check_place()
            if not self._ended():
                anchoring.make(
                    self._journal.database,
                    settlement,
                    self._remote,
                    self._options.anchor,
                    every_s=0.0 if self._component_ended else self._options.anchor_every_s,
                    clock_ns=self._clock_ns,
                )
        finally:
            lease.release()
        self._report.position = Position(self._seen_seq, standing.last_receipt_id(self._journal.database))
        self._report.pending = standing.pending_count(self._journal.database)
        self._report.out_of_time |= self._deadline.over and self._report.pending > 0  # also before its first request
        self._report.duration_s = time.monotonic() - started
        return self._report

    def _resolve_doubts(self, settlement: Settlement) -> None:
        """Ask the remote which points in doubt arrived, so that those which did not go out in this pass."""
        options, database = self._options, self._journal.database
        asked = doubting.to_ask(database, now_ns=self._clock_ns(), visible_after_s=options.visible_after_s)
        for component_id, name in asked.items():
            if self._ended():
                return
            if not options.wants_component(name):
                continue
            settlement.renew()
            found = doubting.of_component(database, component_id)
            steps: dict[str, tuple[int, int]] = {}
            for doubt in found:
                if doubt.step is not None:
                    first, last = steps.get(doubt.name, (doubt.step, doubt.step))
                    steps[doubt.name] = (min(first, doubt.step), max(last, doubt.step))
            try:
                shown = self._remote.read_metrics(name, steps)
            except RemoteError as error:
                logger.info("%s could not be asked for its metrics in doubt: %s", name, error)
                if error.unreachable or error.everywhere:  # what the next request would meet, too
                    self._report.halted = error
                continue
            if shown is None:
                continue
            self._report.requests += 1
            known = doubting.acknowledged(database, component_id, found)
            findings = readback.judge(found, known, shown, now_ns=self._clock_ns(), visible_after_s=options.visible_after_s)
            doubting.record(settlement.attestor, component_id, findings, shown.request_id)
            self._report.arrived += sum(finding.outcome == "arrived" for finding in findings)
            self._report.not_arrived += sum(finding.outcome == "not arrived" for finding in findings)

    def _replay(self, settlement: Settlement) -> None:
        workers = Workers(self._work, self._options.concurrency, "journaltrack-replay")
        try:
            for chunk in pending_chunks(self._journal, self._options.wanted):
                self._seen_seq = max(self._seen_seq, chunk.upto_seq)
                self._replay_chunk(settlement, workers, chunk)
                if self._ended():
                    return
                settlement.advance_mark(chunk.upto_seq)
        finally:
            # A request that outlives the deadline is abandoned; its thread keeps nobody from exiting.
            workers.close(wait=not self._deadline.over)

    def _replay_chunk(self, settlement: Settlement, workers: Workers[_Sending, _Result], chunk: Chunk) -> None:
        states = standing.states(self._journal.database, chunk.component_ids)
        entries = [entry for entry in chunk.entries if not self._is_held(entry)]
        points = [each for each in chunk.points if each.component not in self._report.held and each.component_id not in self._absent]
        actions, metrics = planning.prepare(entries, states, points)
        self._settle(settlement, [a for a in actions if isinstance(a, Settle)])
        of_phase = {phase: [a for a in actions if not isinstance(a, Settle) and a.phase == phase] for phase in (1, 2, 3)}
        self._perform(settlement, workers, of_phase[1])
        self._perform(settlement, workers, of_phase[2])
        self._perform(settlement, workers, chain(self._resolved(settlement, of_phase[3]), metrics))

    def _resolved(self, settlement: Settlement, requests: Sequence[Request]) -> list[Request]:
        """With the places of what phase 2 uploaded."""
        updated = {r.component_id for r in requests if isinstance(r, Update)}
        states = standing.states(self._journal.database, updated)
        resolved: list[Request] = []
        for request in requests:
            if isinstance(request, Update):
                update, orphans = planning.resolve(request, states[request.component_id])
                self._settle(settlement, orphans)
                if update is not None:
                    resolved.append(update)
            else:
                resolved.append(request)
        return resolved

    def _perform(self, settlement: Settlement, workers: Workers[_Sending, _Result], actions: Iterable[Request]) -> None:
        """Make these independent requests, a window of them in flight at a time."""
        waiting = _Waiting(actions)
        window = self._options.concurrency + max(2, self._options.concurrency // 4)
        outcomes: list[Outcome] = []  # not recorded yet
        missing: JournalNotFoundError | None = None
        while True:
            if self._ended():
                waiting.clear()
                outcomes += _withdrawn(workers)
            try:
                free = min(window, FIRST_IN_FLIGHT + self._report.requests) - workers.unfinished
                self._record(settlement, workers, outcomes, self._next(waiting, free))
            except JournalNotFoundError as error:  # what is in flight can still be recorded, if the files were moved
                missing = error
                waiting.clear()
            self._count(outcomes)
            outcomes = []
            if not workers.unfinished:
                break
            time_left_s = max(self._deadline.remaining_s(), self._deadline.grace_remaining_s())
            # Others end soon after the first: one transaction for all of them disturbs appending less.
            done = workers.take(min(_HEARTBEAT_S, time_left_s + _GRACE_S), _GROUP_S)
            if done:
                outcomes = self._judge(done, waiting)
                continue
            settlement.renew()
            if self._deadline.over and self._deadline.grace_remaining_s() <= 0:
                logger.warning("%d requests did not end in time; the next sync finds out what became of them", workers.unfinished)
                break
        self._report.out_of_time |= self._deadline.over
        if missing is not None:
            raise missing

    def _next(self, waiting: _Waiting, count: int) -> list[_Job]:
        """Up to so many requests that may be begun now."""
        jobs: list[_Job] = []
        while len(jobs) < count and not self._ended() and (job := waiting.next()) is not None:
            if not self._is_out(job.action):
                jobs.append(job)
        return jobs

    def _record(
        self, settlement: Settlement, workers: Workers[_Sending, _Result], outcomes: Sequence[Outcome], jobs: Sequence[_Job]
    ) -> None:
        """Record what became of some requests, and that others begin; these are handed to the workers then."""
        if jobs:
            receipts = settlement.begin([_intent(job.action) for job in jobs], outcomes)
            workers.give(zip(jobs, receipts, strict=True))
        elif outcomes:
            settlement.finish(outcomes)

    def _work(self, sending: _Sending) -> _Result:
        """On a worker's thread: never raises what a remote may say."""
        job, _ = sending
        if job.round:
            self._deadline.wait(min(0.1 * 2**job.round, 5.0))
        sent = self._timed(job.action)
        notes: Mapping[int, str] = {}
        if sent is not job.action and isinstance(job.action, PutMetrics) and isinstance(sent, PutMetrics):
            notes = shifted(job.action, sent)
        try:
            return _Result(perform(sent, self._remote, self._context), self._attempts(), notes)
        except RemoteError as error:
            return _Result(self._excused(job.action, error), self._attempts(), notes)

    def _excused(self, action: Request, error: RemoteError) -> RemoteError:
        """Content that can't be found because the journal was moved a moment ago is not lost: it stays pending."""
        if isinstance(action, Upload) and error.kind is ErrorKind.PERMANENT and self._journal.database.displaced():
            return RemoteError(
                error.message, kind=ErrorKind.TRANSIENT, code=error.code, hint="the next pass looks for it where the journal is now"
            )
        return error

    def _timed(self, action: Request) -> Request:
        """The action with the timestamps to send; what is recorded of it stays as it was."""
        if self._options.timestamps == "shift" and isinstance(action, PutMetrics):
            return action.within(self._clock_ns(), METRIC_AGE_MAX_S, METRIC_AHEAD_MAX_S)
        return action

    def _judge(self, done: Iterable[tuple[_Sending, _Result]], waiting: _Waiting) -> list[Outcome]:
        """What became of these requests, and what follows for others."""
        outcomes = []
        for (job, receipt_id), (result, attempts, notes) in done:
            verdict = judge(job.action, receipt_id, result, attempts, notes)
            outcomes.append(verdict.outcome)
            self._note(job, verdict)
            if job.round < _AGAIN_MAX and verdict.again:
                waiting.put_first(_Job(a, job.round + (1 if isinstance(result, Answer) else 0)) for a in verdict.again)
        self._report.requests += len(outcomes)
        return outcomes

    def _note(self, job: _Job, verdict: Verdict) -> None:
        """Remember what this verdict forbids for the rest of the pass."""
        component = job.action.component
        if verdict.hold is not None and component not in self._report.held:
            self._report.held[component] = verdict.hold
            logger.warning("%s is held: %s", component, verdict.hold)
        if isinstance(job.action, Update) and verdict.outcome.outcome == "delivered":
            self._component_ended |= job.action.ends
        if verdict.block and isinstance(job.action, Ensure):
            self._absent.add(job.action.component_id)
        if verdict.block and isinstance(job.action, Update):
            self._blocked.add(job.action.component_id)
        if verdict.halt is not None:
            if verdict.halt.uploads_only:
                self._report.uploads_halted = self._report.uploads_halted or verdict.halt
            else:
                self._report.halted = self._report.halted or verdict.halt
        if verdict.passing is None:
            self._passing = 0
            return
        self._passing += 1
        self._report.failed = verdict.passing
        if self._passing >= _PASSING_MAX:
            self._report.halted = self._report.halted or verdict.passing

    def _settle(self, settlement: Settlement, actions: Sequence[Settle]) -> None:
        if actions:
            settlement.settle(actions)
            for action in actions:
                self._add(action.outcome, len(action.seqs))
            self._tell()

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        """What was recorded."""
        for outcome in outcomes:
            self._report.delivered += len(outcome.delivered)
            for delivery in outcome.deliveries:
                self._add(delivery.outcome, 1)
        if outcomes:
            self._tell()

    def _add(self, outcome: str, entries: int) -> None:
        name = outcome.replace(" ", "_")
        setattr(self._report, name, getattr(self._report, name) + entries)

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._report.settled, self._total, self._report.requests))

    def _ended(self) -> bool:
        return self._report.halted is not None or self._deadline.over

    def _is_held(self, entry: Entry) -> bool:
        if entry.component in self._report.held or entry.component_id in self._absent:
            return True
        return entry.component_id in self._blocked and entry.stream == "component"

    def _is_out(self, action: Request) -> bool:
        """Whether something that happened in this pass forbids the action."""
        if action.component in self._report.held or action.component_id in self._absent:
            return True
        if isinstance(action, Upload):
            return self._report.uploads_halted is not None
        return isinstance(action, Update) and action.component_id in self._blocked


def _withdrawn(workers: Workers[_Sending, _Result]) -> list[Outcome]:
    """Requests that no worker has begun: certainly not sent."""
    return [Outcome(receipt_id, job.action.component_id, "not sent", attempts=0) for job, receipt_id in workers.take_back()]


def _intent(action: Request) -> Intent:
    runs = action.runs if isinstance(action, PutMetrics) else ()
    return Intent(action.action, action.component_id, action.seqs, runs)


def dry_run(journal: Journal, options: Options) -> Iterator[Action]:
    """The actions that a pass would begin with; changes nothing, asks nobody. Blobs count as uploaded."""
    for chunk in pending_chunks(journal, options.wanted):
        states = standing.states(journal.database, chunk.component_ids)
        yield from planning.plan(chunk.entries, states, chunk.points)
