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
- A failure concerns as little as it can (``Course``). An upload closes its bucket or folder.
  Lineage closes only lineage, and an experiment or trial nothing but itself; one that failed for
  now, also what would make it without what its declaration gives. What
  is refused to one component, or fails there again and again, closes that component. The pass
  halts only for what every other request would meet as well: credentials, an unreachable
  endpoint, or several components in a row without a success.

Must not know SQLite, the plan, any particular remote, or how a pass begins and ends
(``reconciler``).
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

from journaltrack.errors import (
    NOT_ALLOWED,
    ComponentMissingError,
    JournalWriteError,
    LeaseLostError,
    RemoteError,
    UnexpectedError,
)
from journaltrack.replay.evidence.outcomes import Intent, Outcome, Settlement
from journaltrack.replay.plan.actions import (
    AddTags,
    Associate,
    Declare,
    Disassociate,
    Ensure,
    Link,
    PutMetrics,
    Request,
    Update,
    Upload,
)
from journaltrack.replay.remote import Answer
from journaltrack.replay.requests import Attempts, Job, Result, Sending, judge, not_sent
from journaltrack.replay.uploads import IN_FLIGHT_MAX
from journaltrack.util.threads import Done, Workers

if TYPE_CHECKING:
    from journaltrack.journal.vocabulary import Entry
    from journaltrack.replay.lease import Gate
    from journaltrack.replay.pass_report import PassReport
    from journaltrack.replay.requests import Verdict
    from journaltrack.replay.uploads import Uploads

logger = logging.getLogger(__name__)

QUICK: Final = "quick"
UPLOADS: Final = "uploads"
FIRST_IN_FLIGHT: Final = 16
"""Requests in flight at the start of a pass. Each answer allows one more."""
HEARTBEAT_S: Final = 5.0
"""Seconds between two renewals of the lease, at most."""
GROUP_S: Final = 0.005
"""Seconds to wait for more answers after the first.

Recorded together, they meet an append less often: its p99 beside a pass falls from 2.1 to 1.4 ms.
A sync does not become slower (docs/performance.md).
"""
IN_A_ROW_MAX: Final = 3
"""Failures in a row that close a component or a bucket for this pass.

Also: components failing in a row that halt the pass.
"""
_MEMBERSHIPS: Final = (Associate, Disassociate, AddTags)
_MAKERS: Final = (Associate, Declare)
# Rounds for items that the remote asks to send again.
_AGAIN_MAX: Final = 6

Crew: TypeAlias = "Workers[Sending, Result]"
_Way: TypeAlias = "tuple[str, int | str | None]"
"""What shares the fate of a request: its component, its bucket, its folder in it, or lineage."""
_Turn: TypeAlias = "int | tuple[int, str]"
"""What requests are sent one after the other for: a component's fields, or its place in a trial."""
_LINEAGE: Final[_Way] = ("lineage", None)


class Course:
    """Tell what the pass has learned so far, and what that forbids.

    Args:
        report: Of the pass. ``Course`` notes there what was held, halted and failed.
        gate: Of the pass.

    Attributes:
        component_ended: Whether a component's last status was delivered.
        open_buckets: Buckets that took an upload. None is the default bucket.
        lineage_open: Whether the remote took lineage, or refused an item of it alone.
    """

    def __init__(self, report: PassReport, gate: Gate) -> None:
        self._report = report
        self._gate = gate
        # Components whose creation failed for now: no request for them can succeed.
        self._absent: set[int] = set()
        # Turns with a failed request: a later one must not overtake it.
        self._blocked: set[_Turn] = set()
        # Rows of experiments and trials that are not declared yet, in lower case.
        self._undeclared: set[str] = set()
        # Not tried again in this pass.
        self._closed: set[_Way] = set()
        # In a row.
        self._failures: Counter[_Way] = Counter()
        # Components that failed since the last success of any.
        self._in_a_row: dict[_Way, RemoteError] = {}
        self._succeeded = False
        self.component_ended = False
        self.open_buckets: set[str | None] = set()
        self.lineage_open = False

    @property
    def lineage_closed(self) -> bool:
        """Return whether no more lineage may be sent."""
        return _LINEAGE in self._closed

    @property
    def ended(self) -> bool:
        """Return whether no more requests may begin."""
        return self._report.halted is not None or self._gate.over

    def note(self, action: Request, verdict: Verdict) -> None:
        """Remember what this verdict forbids."""
        # The fast path: nearly every verdict is this one.
        if (
            isinstance(action, PutMetrics)
            and verdict.outcome.outcome == "delivered"
            and not self._failures
        ):
            self._succeeded = True
            return
        turn = _turn(action)
        if verdict.block:
            self._block(action, turn)
        elif turn is not None and (verdict.hold or verdict.halt):
            self._blocked.add(turn)
        if isinstance(action, Link):
            self._note_lineage(action, verdict)
        elif isinstance(action, Declare):
            self._note_declaration(action, verdict)
        else:
            self._note_other(action, verdict)

    def _note_other(self, action: Request, verdict: Verdict) -> None:
        way = _way(action)
        if verdict.outcome.outcome in {"delivered", "partial"}:
            self._succeed(action, way)
        if isinstance(action, Update) and verdict.outcome.outcome == "delivered":
            self.component_ended |= action.ends
        if verdict.block and isinstance(action, Ensure):
            self._absent.add(action.component_id)
        if verdict.hold is not None:
            self._hold(action, verdict.hold)
        if verdict.passing is not None:
            self._fail(action, way, verdict.passing)
        if verdict.halt is not None:
            self._halt(action, way, verdict.halt)

    def is_held(self, entry: Entry) -> bool:
        """Return whether the entry must not be sent."""
        if self.is_closed(entry.component_id):
            return True
        return entry.component_id in self._blocked and entry.stream == "component"

    def is_closed(self, component_id: int) -> bool:
        """Return whether no request for the component may be sent."""
        return component_id in self._absent or ("component", component_id) in self._closed

    def forbids(self, action: Request) -> bool:
        """Return whether an earlier result of this pass forbids the action."""
        # Nearly always.
        if not (self._absent or self._closed or self._blocked):
            return False
        if self.is_closed(action.component_id) or _way(action) in self._closed:
            return True
        if isinstance(action, Upload) and _folder(action) in self._closed:
            return True
        if isinstance(action, Link) and _lineage_of(action) in self._closed:
            return True
        turn = _turn(action)
        if isinstance(action, _MAKERS) and not self._undeclared.isdisjoint(action.makes):
            # For what comes later in its turn, it is as if it had failed.
            self._block(action, turn)
        return turn in self._blocked

    def conclude(self) -> None:
        """Halt a pass in which nothing succeeded, with the first failure as the reason."""
        if self._report.halted is None and self._in_a_row and not self._succeeded:
            self._report.halted = next(iter(self._in_a_row.values()))

    def _block(self, action: Request, turn: _Turn | None) -> None:
        """Leave a request, and what comes later in its turn, to the next pass."""
        if turn is not None:
            self._blocked.add(turn)
        if isinstance(action, Declare):
            self._undeclared.add(action.component.lower())

    def _note_lineage(self, action: Link, verdict: Verdict) -> None:
        """Remember what a verdict on lineage forbids: other lineage, and nothing else."""
        way = _way(action)
        error = verdict.halt or verdict.hold or verdict.passing
        if error is None:
            if verdict.outcome.outcome != "not sent":
                self.lineage_open = True
                self._failures.pop(way, None)
            return
        self._report.lineage_halted = self._report.lineage_halted or error
        if isinstance(error, ComponentMissingError) or error.code == NOT_ALLOWED:
            self._closed.add(_lineage_of(action))
            return
        self._failures[way] += 1
        fails = not self.lineage_open or verdict.passing is None or verdict.halt is not None
        if fails or self._failures[way] >= IN_A_ROW_MAX:
            self._closed.add(way)

    def _note_declaration(self, action: Declare, verdict: Verdict) -> None:
        """Remember what a verdict on an experiment or trial forbids: requests for it alone."""
        error = verdict.halt or verdict.hold or verdict.passing
        if error is None:
            self._succeeded |= verdict.outcome.outcome == "delivered"
        elif error.everywhere or error.unreachable:
            self._end(error)
        elif verdict.passing is not None:
            self._report.failed = error
        else:
            self._report.held.setdefault(action.component, error)

    def _succeed(self, action: Request, way: _Way) -> None:
        self._failures.pop(way, None)
        if isinstance(action, Upload):
            self.open_buckets.add(action.blob.bucket)
        else:
            self._succeeded = True
            self._in_a_row.clear()

    def _hold(self, action: Request, error: RemoteError) -> None:
        # A quota of experiments or trials concerns nothing else of the component.
        if not isinstance(action, _MEMBERSHIPS) or isinstance(error, ComponentMissingError):
            self._close(action, error)
        else:
            self._report.held.setdefault(action.component, error)

    def _close(self, action: Request, error: RemoteError) -> None:
        self._closed.add(("component", action.component_id))
        if action.component not in self._report.held:
            self._report.held[action.component] = error
            # INFO: the report names it, and the caller of the pass tells the user.
            logger.info("%s is held: %s", action.component, error)

    def _fail(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Note a failure that a later pass may not meet."""
        self._report.failed = error
        self._failures[way] += 1
        if self._failures[way] >= IN_A_ROW_MAX:
            self._closed.add(way)
        if not isinstance(action, Upload) and not isinstance(error, UnexpectedError):
            self._in_a_row.setdefault(way, error)
            if len(self._in_a_row) >= IN_A_ROW_MAX:
                self._end(error)

    def _halt(self, action: Request, way: _Way, error: RemoteError) -> None:
        """Note a failure that no change of the request would mend."""
        if isinstance(action, Upload):
            self._closed.add(_folder(action) if error.code == NOT_ALLOWED else way)
            self._report.uploads_halted = self._report.uploads_halted or error
        elif error.everywhere or error.unreachable:
            self._end(error)
        else:
            self._hold(action, error)
            self._failures[way] += 1
            self._in_a_row.setdefault(way, error)
            if len(self._in_a_row) >= IN_A_ROW_MAX:
                self._end(error)

    def _end(self, error: RemoteError) -> None:
        self._report.halted = self._report.halted or error


def _folder(action: Upload) -> _Way:
    return ("folder", f"{action.blob.bucket}/{action.blob.prefix}")


def _lineage_of(action: Link) -> _Way:
    return ("lineage", action.component_id)


def _turn(action: Request) -> _Turn | None:
    """Return what a request waits its turn for; None if it needs none."""
    if isinstance(action, (Update, Declare)):
        return action.component_id
    if isinstance(action, AddTags):
        # No trial has this name.
        return action.component_id, "/tags"
    if isinstance(action, Associate):
        return action.component_id, action.its_trial.lower()
    return (action.component_id, action.trial.lower()) if isinstance(action, Disassociate) else None


def _way(action: Request) -> _Way:
    if isinstance(action, Link):
        return _LINEAGE
    return (
        ("bucket", action.blob.bucket)
        if isinstance(action, Upload)
        else ("component", action.component_id)
    )


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
    """Count the requests in flight of all passes that share one bound. Threads may share it."""

    def __init__(self) -> None:
        self._crews: list[Crew] = []

    @contextlib.contextmanager
    def joined(self, crew: Crew) -> Iterator[None]:
        """Count a crew's requests during the block."""
        self._crews.append(crew)
        try:
            yield
        finally:
            self._crews.remove(crew)

    def beside(self, crew: Crew) -> int:
        """Return how many quick requests the other crews have in flight."""
        return sum(each.unfinished(QUICK) for each in [*self._crews] if each is not crew)


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
        self._taking_turns: Counter[_Turn] = Counter()
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
        jobs = self._uploads.next_references(self._is_free)
        for each in jobs:
            self._taking_turns[each.action.component_id] += 1
        others = self._company.beside(self._crew)
        left = max(1, self._at_once - others) if others else self._window
        free = min(left, FIRST_IN_FLIGHT + self._report.requests) - self._crew.unfinished(QUICK)
        if free <= 0 or self._course.ended:
            return jobs
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
            elif (turn := _turn(job.action)) is not None:
                self._taking_turns[turn] += 1
            jobs.append(job)
        return jobs

    def _sends_metrics(self, jobs: Iterable[Job]) -> bool:
        """Return whether metrics that may be in doubt are in flight, or among these jobs."""
        return any(
            not each.action.idempotent
            for each in chain(jobs, (sending.job for sending in self._handed_out.values()))
        )

    def _is_free(self, turn: _Turn) -> bool:
        return not self._taking_turns[turn]

    def _is_ready(self, action: Request) -> bool:
        turn = _turn(action)
        return turn is None or self._is_free(turn)

    def _take(self, seconds: float) -> None:
        # Other answers follow soon after the first. One transaction for all disturbs appends less.
        if self._crew.wait(
            min(seconds, self._gate.remaining_s(), self._uploads.due_in_s()), GROUP_S
        ):
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
        if (turn := _turn(action)) is not None:
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
