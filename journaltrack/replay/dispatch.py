"""Hand out the requests of a pass in two lanes, and record what became of them.

The *quick* lane is for components, parameters, status and metrics. The other lane is for uploads
(``uploads``). One thread does all of it.

Invariants:

- An intent is recorded before its request is handed to a worker.
- Outcomes are recorded as they come, in transactions that never span a request.
- No result is lost when something is raised here. A result is forgotten when its outcome is kept,
  and an outcome when the journal has it.
- The first request with metrics goes alone. Points without an answer that proves itself are in
  doubt. Behind a sign-in page, in a black hole or after a kill, that would be the points of all
  requests in flight.
- What failed closes as little as it can (``course``).

Must not know SQLite, the plan, any particular remote, or how a pass begins and ends
(``reconciler``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

from journaltrack.errors import (
    JournalWriteError,
    LeaseLostError,
)
from journaltrack.replay.course import turn_of
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import (
    Link,
    PutMetrics,
    Request,
    Upload,
)
from journaltrack.replay.remote import Answer
from journaltrack.replay.requests import Attempts, Job, Result, Sending, judge, not_sent
from journaltrack.replay.uploads import IN_FLIGHT_MAX
from journaltrack.util.threads import Done, Workers

if TYPE_CHECKING:
    from journaltrack.replay.course import Course, Turn
    from journaltrack.replay.lease import Gate
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.uploads import Uploads

logger = logging.getLogger(__name__)

QUICK: Final = "quick"
UPLOADS: Final = "uploads"
FIRST_IN_FLIGHT: Final = 16
"""Requests in flight at the start of a pass. Each answer allows one more."""
HEARTBEAT_S: Final = 5.0
"""Seconds between two renewals of the lease, at most."""
AT_WORK_MAX: Final = 2
"""Passes that work at a time: one computes while SQLite or the disk works for the other."""
PLACE_S: Final = 0.1
"""Ours: seconds to wait for a place, many times what a small journal's pass works at a time."""
LEAD_S: Final = 5.0
"""Ours: seconds to wait for the pass that goes ahead. It may have hours of uploads."""
GROUP_S: Final = 0.005
"""Seconds to wait for more answers after the first.

Recorded together, they meet an append less often: its p99 beside a pass falls from 2.1 to 1.4 ms.
A sync does not become slower (docs/performance.md).
"""
# Rounds for items that the remote asks to send again.
_AGAIN_MAX: Final = 6

Crew: TypeAlias = "Workers[Sending, Result]"


class _Waiting:
    """Hold the requests that have not begun: first those put first, then the others.

    The others are made one by one, when it is their turn.
    """

    def __init__(self) -> None:
        self._first: deque[Job] = deque()
        self._others: Iterator[Request] = iter(())

    def fill(self, actions: Iterable[Request]) -> None:
        """Set the requests that come next. Call it only when no others are left."""
        self._others = iter(actions)

    def put_first(self, jobs: Iterable[Job]) -> None:
        """Insert these before all others, in this order."""
        self._first.extendleft(reversed([*jobs]))

    def next(self, is_ready: Callable[[Request], bool]) -> Job | None:
        """Return the next request that is ready, or None."""
        for place, job in enumerate(self._first):
            if is_ready(job.action):
                del self._first[place]
                return job
        for action in self._others:
            if is_ready(action):
                return Job(action)
            self._first.append(Job(action))
        return None


class Company:
    """Keep passes that run at the same time out of each other's way. Threads may share it.

    They share one bound of requests in flight. A pass counts the others' requests and decides on
    its own in one step (``turn``). Otherwise several that ask at the same moment would each take
    what is free.

    Few of them work at a time, while the others wait for answers (``at_work``, ``at_rest``). Each
    statement of SQLite gives up the interpreter's lock. Where 16 threads want it, a pass of a small
    journal waits for it 1,100 times, and that is a third of its CPU time (benchmarks/many.py).

    The first one goes ahead (``led``). Else a sign-in page would put points of each in doubt.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._moved = threading.Condition()
        self._is_proved = self._is_led = False
        # By crew: requests that are decided on, and not handed out yet.
        self._begun: dict[Crew, int] = {}
        self._places = threading.Semaphore(AT_WORK_MAX)
        self._mine = threading.local()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Work on this thread during the block, once there is a place.

        Nobody waits longer than ``PLACE_S`` for those who have the places: one may hang on a disk.
        """
        self._mine.has_place = self._places.acquire(timeout=PLACE_S)
        try:
            yield
        finally:
            if self._mine.has_place:
                self._places.release()
            self._mine.has_place = False

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Leave this thread's place to another one during the block. It waits there."""
        if not getattr(self._mine, "has_place", False):
            yield
            return
        self._mine.has_place = False
        self._places.release()
        try:
            yield
        finally:
            self._mine.has_place = self._places.acquire(timeout=PLACE_S)

    @contextlib.contextmanager
    def led(self) -> Iterator[None]:
        """Let one pass go ahead during the block, until the remote has proved to be itself.

        The others begin their blocks after ``proved``, or one after the other as each ends. Nobody
        waits longer than ``LEAD_S``.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._is_proved or not self._is_led, LEAD_S)
            leads = not self._is_proved and not self._is_led
            self._is_led = self._is_led or leads
        try:
            yield
        finally:
            if leads:
                with self._moved:
                    self._is_led = False
                    self._moved.notify_all()

    def proved(self) -> None:
        """Note that the remote has answered metrics, or all of a pass."""
        if not self._is_proved:
            with self._moved:
                self._is_proved = True
                self._moved.notify_all()

    @contextlib.contextmanager
    def joined(self, crew: Crew) -> Iterator[None]:
        """Count a crew's requests during the block."""
        with self._turn:
            self._begun[crew] = 0
        try:
            yield
        finally:
            with self._turn:
                del self._begun[crew]

    @contextlib.contextmanager
    def turn(self, crew: Crew) -> Iterator[tuple[int, list[Job]]]:
        """Let one crew at a time decide what it begins.

        Yields:
            How many quick requests the other crews have in flight or begin, and a list for the
            requests that this one begins. They count until ``begun``.
        """
        with self._turn:
            others = sum(
                each.unfinished(QUICK) + begun
                for each, begun in self._begun.items()
                if each is not crew
            )
            jobs: list[Job] = []
            try:
                yield others, jobs
            finally:
                self._begun[crew] = len(jobs)

    def begun(self, crew: Crew) -> None:
        """Note that the requests of the crew's last turn are handed out."""
        self._begun[crew] = 0


class Dispatch:
    """Perform the requests of one pass.

    Args:
        settlement: Records intents and outcomes.
        crew: Makes requests, in the lanes ``QUICK`` and ``UPLOADS``.
        attempts: The crew's work.
        course: Tells what must not be sent any more.
        gate: Of the pass.
        report: Counts.
        tell: Called after each recording.
        at_once: Requests in flight in the quick lane, at most. A few more are handed out.
        uploads: Requests that wait for the upload lane.
        company: The passes that share ``at_once``. Each may have one request in flight in any case.
    """

    def __init__(
        self,
        settlement: Settlement,
        crew: Crew,
        attempts: Attempts,
        course: Course,
        gate: Gate,
        report: PassReport,
        tell: Callable[[], None],
        at_once: int,
        uploads: Uploads,
        company: Company,
    ) -> None:
        self._company = company
        self._settlement = settlement
        self._crew = crew
        self._attempts = attempts
        self._course = course
        self._gate = gate
        self._report = report
        self._tell = tell
        self._at_once = at_once
        self._window = at_once + max(2, at_once // 4)
        self._uploads = uploads
        self._waiting = _Waiting()
        # Whether an answer to metrics proved to be the remote's.
        self._metrics_answered = False
        # Requests in flight, by their turn: a later one must not overtake them.
        self._taking_turns: Counter[Turn] = Counter()
        # By receipt.
        self._handed_out: dict[int, Sending] = {}
        # Not recorded yet.
        self._outcomes: list[Outcome] = []
        # Uploads and lineage of these outcomes.
        self._ended_uploads: list[Request] = []

    def perform(self, actions: Iterable[Request]) -> None:
        """Make these independent requests of the quick lane, beside the uploads."""
        self._waiting.fill(actions)
        while not self._course.ended:
            self._step()
            if not self._crew.unfinished(QUICK):
                break
            self._take(HEARTBEAT_S)

    def go_on(self, seconds: float) -> bool:
        """Let uploads and their references continue for up to ``seconds``.

        Returns:
            Whether any of them are left.
        """
        if self._course.ended:
            return False
        self._step()
        if self._crew.unfinished():
            self._take(seconds)
            return True
        return self._uploads.waiting

    # -- the steps of an end (``reconciler.Ending``)

    def withdraw(self) -> None:
        """Take back what no worker has begun. It was certainly not sent."""
        for sending in self._crew.take_back():
            self._keep(sending, not_sent(sending.job.action, sending.receipt_id))

    def collect(self) -> None:
        """Take the answers that have arrived."""
        crew, handed_out = self._crew, self._handed_out
        while (done := crew.first()) is not None:
            if done.job.receipt_id in handed_out:
                self._judge(done)
            crew.done_with_first()

    def give_up(self) -> int:
        """Stop waiting for the requests in flight.

        The gate is closed: a request that has not left never will, and its entries stay pending.

        Returns:
            How many requests may have left without a known answer.
        """
        for sending in [*self._handed_out.values()]:
            if sending.left_at is None:
                self._keep(sending, not_sent(sending.job.action, sending.receipt_id))
        return len(self._handed_out)

    def record(self) -> None:
        """Record every outcome that the journal does not have yet.

        This includes intents that were never handed out. If one outcome can't be recorded, the
        others still are.

        Raises:
            JournalWriteError: The journal can't be written now.
            LeaseLostError: Another process took the lease over.
        """
        unfinished = self._settlement.unfinished()
        known = {
            outcome.receipt_id: outcome
            for outcome in self._outcomes
            if outcome.receipt_id in unfinished
        }
        for receipt_id in unfinished.keys() - known.keys() - self._handed_out.keys():
            known[receipt_id] = Outcome(receipt_id, unfinished[receipt_id], "not sent", attempts=0)
        recorded = [*known.values()]
        try:
            self._settlement.finish(recorded)
        except (JournalWriteError, LeaseLostError):
            raise
        except Exception:
            logger.exception(
                "some answers could not be recorded together; each is recorded by itself"
            )
            recorded = [outcome for outcome in recorded if self._is_recorded(outcome)]
        self._outcomes = []
        self._count(recorded)

    # -- inside

    def _step(self) -> None:
        """Record outcomes, and hand out the requests that may begin now."""
        quick = self._next_quick()
        slow = self._uploads.next(IN_FLIGHT_MAX - self._crew.unfinished(UPLOADS))
        outcomes, ended = self._outcomes, self._ended_uploads
        if quick or slow:
            receipts = self._settlement.begin(
                [_intent(job.action) for job in chain(quick, slow)], outcomes
            )
            self._outcomes = []
            sendings = [
                Sending(job, receipt_id)
                for job, receipt_id in zip(chain(quick, slow), receipts, strict=True)
            ]
            self._handed_out.update(zip(receipts, sendings, strict=True))
            self._crew.give(QUICK, sendings[: len(quick)])
            self._company.begun(self._crew)
            self._crew.give(UPLOADS, sendings[len(quick) :])
        elif outcomes:
            self._settlement.finish(outcomes)
            self._outcomes = []
        self._ended_uploads = []
        for action in ended:
            self._uploads.done(action)
        self._count(outcomes)

    def _next_quick(self) -> list[Job]:
        """Return the requests of the quick lane that may begin now."""
        with self._company.turn(self._crew) as (others, jobs):
            jobs.extend(self._uploads.next_references(self._is_free))
            for each in jobs:
                self._taking_turns[each.action.component_id] += 1
            left = max(1, self._at_once - others) if others else self._window
            free = min(left, FIRST_IN_FLIGHT + self._report.requests)
            self._choose(jobs, free - self._crew.unfinished(QUICK))
        return jobs

    def _choose(self, jobs: list[Job], free: int) -> None:
        """Extend these by the requests that may begin now, to at most ``free``."""
        if free <= 0 or self._course.ended:
            return
        # Late in a pass no metrics are sent: without an answer they would be in doubt.
        is_late = self._gate.is_late
        while len(jobs) < free and (job := self._waiting.next(self._is_ready)) is not None:
            if self._course.forbids(job.action):
                continue
            if not job.action.idempotent:
                if is_late:
                    self._report.out_of_time = True
                    continue
                if not self._metrics_answered and self._sends_metrics(jobs):
                    self._waiting.put_first([job])
                    break
            elif (turn := turn_of(job.action)) is not None:
                self._taking_turns[turn] += 1
            jobs.append(job)

    def _sends_metrics(self, jobs: Iterable[Job]) -> bool:
        """Return whether metrics that may be in doubt are in flight, or among these jobs."""
        return any(
            not each.action.idempotent
            for each in chain(jobs, (sending.job for sending in self._handed_out.values()))
        )

    def _is_free(self, turn: Turn) -> bool:
        return not self._taking_turns[turn]

    def _is_ready(self, action: Request) -> bool:
        turn = turn_of(action)
        return turn is None or self._is_free(turn)

    def _take(self, seconds: float) -> None:
        # Other answers follow soon after the first. One transaction for all disturbs appends less.
        with self._company.at_rest():
            has_answers = self._crew.wait(
                min(seconds, self._gate.remaining_s(), self._uploads.due_in_s()), GROUP_S
            )
        if has_answers:
            self.collect()
        else:
            self._settlement.renew()

    def _judge(self, done: Done) -> None:
        """Judge one result, keep its outcome, and note what follows for other requests."""
        sending: Sending = done.job
        job = sending.job
        result: Result = (
            done.result if done.error is None else self._attempts.unexpected(sending, done.error)
        )
        try:
            verdict = judge(job.action, sending.receipt_id, *result)
        except Exception as error:  # noqa: BLE001 - an unexpected answer must not lose the others
            result = self._attempts.unexpected(sending, error)
            verdict = judge(job.action, sending.receipt_id, *result)
        self._keep(sending, verdict.outcome)
        if not job.action.idempotent and (
            isinstance(result.result, Answer) or result.result.request_id is not None
        ):
            self._metrics_answered = True
            self._company.proved()
        self._report.requests += 1
        self._course.note(job.action, verdict)
        if job.round < _AGAIN_MAX and verdict.again:
            self._waiting.put_first(
                Job(a, job.round + (1 if isinstance(result.result, Answer) else 0))
                for a in verdict.again
            )

    def _keep(self, sending: Sending, outcome: Outcome) -> None:
        """Keep an outcome until it is recorded."""
        self._outcomes.append(outcome)
        del self._handed_out[sending.receipt_id]
        action = sending.job.action
        if (turn := turn_of(action)) is not None:
            self._taking_turns[turn] -= 1
        if isinstance(action, (Upload, Link)):
            self._ended_uploads.append(action)

    def _is_recorded(self, outcome: Outcome) -> bool:
        """Record one outcome by itself, and return whether that succeeded."""
        try:
            self._settlement.finish([outcome])
        except (JournalWriteError, LeaseLostError):
            raise
        except Exception:
            logger.exception("the answer to receipt %d could not be recorded", outcome.receipt_id)
            return False
        return True

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        """Count what was recorded, and report progress."""
        for outcome in outcomes:
            self._report.delivered += len(outcome.delivered)
            for delivery in outcome.deliveries:
                self._report.add(delivery.outcome, 1)
        if outcomes:
            self._tell()


def _intent(action: Request) -> Intent:
    runs = action.runs if isinstance(action, PutMetrics) else ()
    return Intent(action.action, action.component_id, action.seqs, runs)
