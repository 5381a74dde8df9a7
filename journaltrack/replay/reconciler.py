"""Replay a journal to a remote: lease → plan → perform → settle.

Pending entries are read a chunk at a time and planned. ``dispatch`` hands the requests out in two
lanes, and its ``Course`` knows what must not be sent any more. One thread of the pass's own
(``Apart``) does all of it, where no signal handler raises. Workers' threads make the requests, and
touch the remote alone.

``Ending`` ends every pass in the same way: nothing left to do, a halt, a deadline, Ctrl-C, an error
of the journal, or a bug. It hands nothing more out, takes back what no worker began, and closes the
gate, so that nothing more leaves. It waits for answers within the grace. It records every answer,
and retries for a while when the journal refuses. Only then the lease is given back.

Invariants: memory does not grow with the journal. A request is in flight only with a recorded
intent. A failing component does not hold up the others. Nothing leaves after ``run``.

Must not know the tracker, boto3 or tenacity.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from journaltrack.errors import (
    CopyAheadError,
    JournalBehindError,
    JournalError,
    JournalReadOnlyError,
    JournalWriteError,
    LeaseHeldError,
    RemoteError,
)
from journaltrack.journal import interruption, queries
from journaltrack.journal.groups import is_run
from journaltrack.journal.journal import Journal
from journaltrack.journal.vocabulary import CREATE, LOAD, Entry
from journaltrack.replay.course import Course
from journaltrack.replay.dispatch import (
    GROUP_S,
    HEARTBEAT_S,
    QUICK,
    UPLOADS,
    Company,
    Crew,
    Dispatch,
)
from journaltrack.replay.evidence import ahead, anchors, gone, in_doubt, readback, taken
from journaltrack.replay.evidence.outcomes import Settlement
from journaltrack.replay.evidence.proof import Proof
from journaltrack.replay.lease import CLAIM_S, Gate, Lease, acquire
from journaltrack.replay.overflow import Overflow
from journaltrack.replay.pass_report import PassReport, Position, Progress
from journaltrack.replay.plan import planner
from journaltrack.replay.plan.actions import (
    Action,
    ComponentState,
    Conclude,
    Declare,
    Link,
    Request,
    Settle,
    Update,
    Upload,
)
from journaltrack.replay.plan.pending import (
    Chunk,
    PendingChunks,
    Wanted,
    is_open,
    pending_chunks,
    read_states,
)
from journaltrack.replay.remote import SAGEMAKER, Capabilities, Remote
from journaltrack.replay.requests import Attempts, Context
from journaltrack.replay.uploads import IN_FLIGHT_MAX, Uploads
from journaltrack.util import paths, patterns
from journaltrack.util.deadline import INTERRUPTED_GRACE_S, Deadline
from journaltrack.util.threads import Apart, Workers

logger = logging.getLogger(__name__)

GRACE_S: Final = 30.0
"""Seconds to wait for answers when no deadline says it: a request's longest allowed silence."""
AFTER_S: Final = 0.5
"""Seconds beyond the grace, for answers that arrived in its last moment."""
RECORD_FOR_S: Final = 20.0
"""Seconds for which recording is retried.

Another process's lock, a full disk and an error of the device may pass.
"""
CONCURRENCY: Final = 96
"""Requests in flight: hides 30 ms of latency and the delays of a busy machine (ADR 0020).

A service that allows fewer says so, and is asked at its rate from then on (``rate_limit``).
"""
_PAUSE_MAX_S: Final = 1.0
_LEASE_POLL_S: Final = 0.05
"""Seconds between two attempts to take a lease that another process holds."""
_LOOK_EVERY: Final = 20
"""Attempts after which the pass looks whether anything is left to deliver."""
_FRESH_S: Final = 1.0
"""Seconds between two looks for new entries while uploads continue."""


class Ending:
    """End one pass. Another thread may call ``hurry``.

    Args:
        gate: Of the pass.
        company: Of the pass.
    """

    def __init__(self, gate: Gate, company: Company) -> None:
        self._gate = gate
        self._company = company
        self._interruptions = 0
        self._patience = Deadline()

    def hurry(self, times: int) -> None:
        """End the pass soon, after ``times`` interruptions. After two, wait for nothing."""
        self._interruptions = times
        self._gate.close(INTERRUPTED_GRACE_S if times == 1 else 0.0)
        if times > 1:
            self._patience.cancel()

    def end(self, dispatch: Dispatch, crew: Crew, settlement: Settlement) -> None:
        """End the pass. Afterwards nothing leaves, and every known outcome is recorded.

        Raises:
            JournalError: An outcome could not be recorded, for as long as was tried.
        """
        try:
            if crew.unfinished():
                self._gate.close(GRACE_S)
            dispatch.withdraw()
            self._await_answers(dispatch, crew, settlement)
            lost = dispatch.give_up()
            if lost:
                logger.warning("%d requests did not end in time; the next sync settles them", lost)
            self._record(dispatch)
        finally:
            # A stuck worker must not keep the process from exiting.
            crew.close(wait=not crew.unfinished())

    def _await_answers(self, dispatch: Dispatch, crew: Crew, settlement: Settlement) -> None:
        dispatch.collect()
        last_moment: Deadline | None = None
        while crew.unfinished():
            left_s = self._gate.grace_remaining_s()
            if left_s <= 0:
                last_moment = last_moment or Deadline(AFTER_S)
                left_s = last_moment.remaining_s()
            with self._company.at_rest():
                has_answers = crew.wait(min(HEARTBEAT_S, left_s), GROUP_S)
            if not has_answers and left_s <= 0:
                return
            dispatch.collect()
            # Recording is tried again at the end, and a failure is raised then.
            with contextlib.suppress(JournalError):
                dispatch.record()
                settlement.renew()

    def _record(self, dispatch: Dispatch) -> None:
        pause_s = 0.05
        self._patience = Deadline(RECORD_FOR_S if self._interruptions <= 1 else 0.0)
        while True:
            try:
                dispatch.record()
            except JournalReadOnlyError:
                raise
            except JournalWriteError as error:
                if self._patience.over:
                    raise
                logger.warning("answers not recorded yet; this is tried again: %s", error.message)
            else:
                return
            with self._company.at_rest():
                self._patience.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)


@dataclass(frozen=True, slots=True)
class Options:
    """Say what a pass shall do.

    Attributes:
        component: Shell pattern of component names, case ignored. None: all.
        since_ns: Only entries recorded since then (nanoseconds since the epoch), and those that
            create or load their components. None: all.
        concurrency: Requests in flight.
        create_or_attach: Create loaded components that are missing. Attach to foreign ones.
        timestamps: For metrics older than ``limits.METRIC_AGE_MAX_S`` or further ahead than
            ``METRIC_AHEAD_MAX_S``. ``"keep"`` sends them as they are, ``"shift"`` with the time
            of delivery.
        visible_after_s: Seconds after a request after which points that reading back does not
            show count as not arrived.
        anchor: Where to put the heads of the journal's chains after the pass: ``anchors.make``.
        anchor_every_s: Least age of the last anchor in seconds before the next. A component that
            ended in this pass overrides it.
        end_interrupted: First end the runs whose processes are proven dead, as Stopped.
        anchor_prefix: The prefix of a journal's first anchor, see ``anchors.make``.
        ask_for_copies: Before anything is sent, ask whether another copy of the journal was
            delivered further (``ahead.ask``).
        even_if_behind: Send what is pending even then.
        unproved: Send also what processes recorded whose chain of digests does not hold.
        wait_for_lease: While another process holds the lease, wait until the deadline, or until
            nothing wanted is left to deliver.
        claim_s: Of a mirrored journal: after how many seconds without a renewal another machine
            may deliver it in place of this one.
    """

    component: str | None = None
    since_ns: int | None = None
    concurrency: int = CONCURRENCY
    create_or_attach: bool = False
    timestamps: str = "keep"
    visible_after_s: float = readback.VISIBLE_AFTER_S
    anchor: str = "artifacts"
    anchor_every_s: float = 0.0
    anchor_prefix: str | None = ""
    end_interrupted: bool = True
    ask_for_copies: bool = True
    even_if_behind: bool = False
    unproved: bool = False
    wait_for_lease: bool = False
    claim_s: float = CLAIM_S

    def wants_component(self, name: str) -> bool:
        """Return whether the pass is about this component.

        Experiments and trials belong to no component, so every pass declares them.
        """
        return patterns.fits(name, self.component) or not is_run(name)

    def wants(self, entry: Entry) -> bool:
        """Return whether the pass is about this entry."""
        if not self.wants_component(entry.component):
            return False
        return (
            self.since_ns is None
            or entry.recorded_at_ns >= self.since_ns
            or entry.kind in {CREATE, LOAD}
        )

    @property
    def wanted(self) -> Wanted:
        """Return the same for reading."""
        return Wanted(self.wants_component, self.wants, self.since_ns)


class Reconciler:
    """Replay one journal to one remote, once.

    Args:
        journal: Opened for this pass. Not a tracker's: reading would keep appends waiting.
        remote: Retries what is worth a retry, and raises ``RemoteError`` alone.
        options: What to replay.
        deadline: Ends the pass. What is not delivered stays pending. If the remote looks at a
            ``Gate``, pass that gate, made for this pass alone.
        on_progress: Called on the calling thread after each recording.
        attempts: Returns, on the worker's thread, how often the remote sent the last request.
        company: The passes that share ``options.concurrency``; None: this one alone.
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
        company: Company | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._company = company or Company()
        self._journal = journal
        self._remote = remote
        self._options = options or Options()
        self._gate = Gate.within(deadline)
        self._clock_ns = clock_ns
        self._report = PassReport()
        self._course = Course(self._report, self._gate)
        self._ending = Ending(self._gate, self._company)
        self._apart: Apart[None, Progress] = Apart(
            self._pass, on_message=on_progress, on_interrupt=self._ending.hurry
        )
        self._attempts = Attempts(
            remote,
            Context(
                journal.path / paths.SPOOL,
                f"journal-{journal.journal_id}",
                self._options.create_or_attach,
                self._options.even_if_behind,
                attempts,
            ),
            self._gate,
            count=attempts,
            shift=self._options.timestamps == "shift",
            displaced=journal.database.displaced,
            clock_ns=clock_ns,
        )
        self._proof = Proof(journal.database)
        self._overflow = Overflow(journal)
        self._total = 0
        # The number of another copy's newest anchor.
        self._ahead = 0
        self._seen_seq = 0
        self._conclusions: list[Conclude] = []

    def run(self) -> PassReport:
        """Try everything pending once, with the remote's retries.

        Nothing leaves afterwards.

        Returns:
            What was done. It contains the failures of requests: they are not raised.

        Raises:
            LeaseHeldError: Another process holds the journal's lease.
            JournalBehindError: Another copy of the journal was delivered further, or a merge into
                it was killed. Nothing was sent.
            LeaseLostError: Another process took the lease over during the pass.
            JournalNotFoundError: The journal was deleted, replaced or moved during the pass.
            JournalError: The journal can't be read or written.
        """
        started = time.monotonic()
        try:
            self._apart.result("journaltrack-pass")
        finally:
            self._gate.close()
        self._report.duration_s = time.monotonic() - started
        return self._report

    def _pass(self) -> None:
        # A journal that is refused stays as it is: the lease would be the first thing written.
        queries.read_through(self._journal.database)
        lease = self._acquired()
        if lease is None:
            self._report.pending = queries.pending_count(self._journal.database)
            return
        try:
            settlement = Settlement(self._journal.database, lease, self._clock_ns)
            self._look_for_unfinished(settlement)
            if self._options.end_interrupted:
                self._report.ended = interruption.end(self._journal, self._options.wants_component)
            self._deliver(settlement)
            self._course.conclude()
            settlement.advance_mark()
            settlement.check_place()
            if not self._course.ended:
                self._anchor(settlement)
            self._report.altered = None if self._options.unproved else self._proof.altered
        except BaseException:
            self._gate.close()
            try:
                lease.release()
            # Only the first error is raised.
            except JournalError as error:
                logger.warning("the lease could not be given back: %s", error.message)
            raise
        self._gate.close()
        lease.release()
        self._report.position = Position(
            self._seen_seq, queries.last_receipt_id(self._journal.database)
        )
        self._report.pending = queries.pending_count(self._journal.database)
        self._report.out_of_time &= self._report.pending > 0

    def _acquired(self) -> Lease | None:
        """Return the lease. None if its holder has delivered everything wanted."""
        looks = itertools.count(1)
        while True:
            try:
                return acquire(self._journal.database, clock_ns=self._clock_ns)
            except LeaseHeldError:
                if not self._options.wait_for_lease or self._gate.over:
                    raise
                if next(looks) % _LOOK_EVERY == 0 and not self._is_wanted_pending():
                    return None
            with self._company.at_rest():
                self._gate.wait(_LEASE_POLL_S)

    def _is_wanted_pending(self) -> bool:
        return queries.is_pending(self._journal.database, self._options.wants_component)

    def _deliver(self, settlement: Settlement) -> None:
        """Send what is pending, and end the pass."""
        at_once = min(self._options.concurrency, self._remote.can.in_flight_max)
        crew: Crew = Workers(
            self._attempts,
            {
                QUICK: at_once,
                UPLOADS: min(at_once, IN_FLIGHT_MAX),
            },
            "journaltrack-replay",
        )
        uploads = Uploads(
            self._journal,
            self._course,
            lambda actions: self._settle(settlement, actions),
            can=self._remote.can,
        )
        dispatch = Dispatch(
            settlement,
            crew,
            self._attempts,
            self._course,
            self._gate,
            self._report,
            self._tell,
            at_once,
            uploads,
            self._company,
        )
        with self._company.joined(crew):
            self._sent(settlement, dispatch, crew, uploads)

    def _sent(
        self, settlement: Settlement, dispatch: Dispatch, crew: Crew, uploads: Uploads
    ) -> None:
        """Send, and end the pass whatever happens."""
        try:
            self._report.in_doubt += settlement.recover()
            self._resolve_doubts(settlement)
            # Before the count: a later entry must not pass for seen.
            self._seen_seq = self._journal.last_seq()
            self._total = queries.pending_count(self._journal.database)
            self._tell()
            if self._total and not self._course.ended:
                self._look_for_copies()
                self._replay(settlement, dispatch, uploads)
        except BaseException:
            try:
                self._ending.end(dispatch, crew, settlement)
            # Only the first error is raised.
            except JournalError as error:
                logger.warning("answers could not be recorded: %s", error.message)
            raise
        # Also if the deadline expired before the first request.
        self._report.out_of_time |= self._gate.over
        self._ending.end(dispatch, crew, settlement)
        if isinstance(self._report.halted, CopyAheadError):
            raise JournalBehindError(self._report.halted.message, hint=self._report.halted.hint)

    def _look_for_unfinished(self, settlement: Settlement) -> None:
        """Refuse to replay after a killed merge. ``even_if_behind`` gives it up.

        Raises:
            JournalBehindError: A merge was killed, and nothing was sent.
        """
        database = self._journal.database
        if not self._options.even_if_behind:
            taken.refuse_unfinished(database)
        elif given_up := taken.unfinished(database):
            with settlement.attestor.transaction() as connection:
                taken.end(connection, settlement.attestor, given_up)

    def _look_for_copies(self) -> None:
        """Refuse to replay if another copy of the journal was delivered further.

        Raises:
            JournalBehindError: It was, and nothing was sent.
        """
        if not self._remote.can.documents:
            gone.ask(self._journal.database, self._remote)
            return
        if not self._options.ask_for_copies:
            return
        found = ahead.ask(
            self._journal.database,
            self._remote,
            self._options.anchor,
            self._gate,
            self._clock_ns(),
            self._options.anchor_prefix,
        )
        if found is not None:
            self._ahead = found.number
            if not self._options.even_if_behind:
                raise found.error()

    def _resolve_doubts(self, settlement: Settlement) -> None:
        """Ask the remote which points in doubt arrived. The others are sent in this pass."""
        options, database = self._options, self._journal.database
        asked = in_doubt.to_ask(
            database, now_ns=self._clock_ns(), visible_after_s=options.visible_after_s
        )
        for component_id, name in asked.items():
            if self._course.ended:
                return
            found = in_doubt.of_component(database, component_id)
            seqs = [doubt.seq for doubt in found]
            if not options.wants_component(name) or not self._proof.all_hold(seqs):
                continue
            settlement.renew()
            try:
                shown = self._remote.read_metrics(name, readback.steps_of(found))
            except RemoteError as error:
                logger.info("%s could not be asked for its metrics in doubt: %s", name, error)
                # The next request would meet the same.
                if error.unreachable or error.everywhere:
                    self._report.halted = error
                continue
            # They stay in doubt, and the rest of the pass continues.
            except Exception:
                logger.warning(
                    "%s could not be asked for its metrics in doubt", name, exc_info=True
                )
                continue
            if shown is None:
                continue
            self._report.requests += 1
            findings = readback.judge(
                found,
                in_doubt.acknowledged(database, component_id, found),
                shown,
                now_ns=self._clock_ns(),
                visible_after_s=options.visible_after_s,
            )
            in_doubt.record(settlement.attestor, component_id, findings, shown.request_id)
            outcomes = [finding.outcome for finding in findings]
            self._report.arrived += outcomes.count("arrived")
            self._report.not_arrived += outcomes.count("not arrived")

    def _replay(self, settlement: Settlement, dispatch: Dispatch, uploads: Uploads) -> None:
        """Replay chunk after chunk. While uploads continue, look for new entries."""
        chunks = PendingChunks(
            self._journal, replace(self._options.wanted, is_closed=self._course.is_closed)
        )
        while True:
            for chunk in map(self._proved, chunks):
                self._seen_seq = max(self._seen_seq, chunk.upto_seq)
                self._replay_chunk(settlement, dispatch, uploads, chunk)
                if self._course.ended or self._report.out_of_time:
                    break
                settlement.advance_mark(chunk.upto_seq)
                # Frees its memory before the next one is read.
                del chunk
            looked_at = time.monotonic()
            while dispatch.go_on(_FRESH_S):
                if time.monotonic() - looked_at >= _FRESH_S:
                    break
            else:
                dispatch.perform(self._concluding())
                return

    def _replay_chunk(
        self, settlement: Settlement, dispatch: Dispatch, uploads: Uploads, chunk: Chunk
    ) -> None:
        states = read_states(self._journal.database, chunk.component_ids, chunk.grouping_ids)
        entries = [entry for entry in chunk.entries if not self._course.is_held(entry)]
        points = [each for each in chunk.points if not self._course.is_closed(each.component_id)]
        actions, metrics = planner.prepare(entries, states, points, self._remote.can)
        settled = [action for action in actions if isinstance(action, Settle)]
        # Only where the journal itself is delivered: a copy records nothing.
        if self._remote.can.parameters_file:
            settled = self._overflow.keep(entries, settled)
        self._settle(settlement, settled)
        requests: list[Request] = [a for a in actions if not isinstance(a, (Settle, Upload, Link))]
        begin = [request for request in requests if request.phase == 1]
        # Before their trials: who makes a trial makes an experiment that is missing, without the
        # display name and tags that its declaration gives a new one.
        dispatch.perform(r for r in begin if isinstance(r, Declare) and r.is_of_experiment)
        dispatch.perform(r for r in begin if not (isinstance(r, Declare) and r.is_of_experiment))
        uploads.put_off(
            seq for action in actions if isinstance(action, Upload) for seq in action.seqs
        )
        uploads.put_off_lineage(
            seq for action in actions if isinstance(action, Link) for seq in action.seqs
        )
        self._conclusions += [each for each in requests if isinstance(each, Conclude)]
        rest = [each for each in requests if each.phase > 1 and not isinstance(each, Conclude)]
        rest = self._resolved(settlement, uploads, rest)
        dispatch.perform(chain(rest, metrics))

    def _concluding(self) -> list[Request]:
        """Return the last requests of components of which nothing else is left to send."""
        return [
            each
            for each in self._conclusions
            if not self._course.is_closed(each.component_id)
            and not is_open(
                self._journal.database, each.component_id, each.seqs, deletes=each.deletes
            )
        ]

    def _proved(self, chunk: Chunk) -> Chunk:
        """Return the chunk without the entries of writers whose chain does not hold.

        Somebody altered such a chain, and which entry it was can't be told.
        """
        self._proof.look_at(chunk.seqs, chunk.rows())
        left = chunk if self._options.unproved else chunk.without(self._proof.broken)
        # Only the proof needed the columns.
        return replace(left, columns=[])

    def _resolved(
        self, settlement: Settlement, uploads: Uploads, requests: Sequence[Request]
    ) -> list[Request]:
        """Put the URIs of earlier uploads into the updates.

        References that wait for an upload are put off with it.
        """
        updated = {r.component_id for r in requests if isinstance(r, Update)}
        states = read_states(self._journal.database, updated)
        resolved: list[Request] = []
        for request in requests:
            if isinstance(request, Update):
                update, settled = planner.resolve(request, states[request.component_id])
                self._settle(settlement, settled)
                uploads.put_off(planner.awaited(request, states[request.component_id]))
                if update is not None:
                    resolved.append(update)
            else:
                resolved.append(request)
        return resolved

    def _anchor(self, settlement: Settlement) -> None:
        places = self._options.anchor if self._remote.can.documents else "off"
        # A store that takes no artifact takes no anchor.
        if self._report.uploads_halted is not None:
            places = "parameter" if places in {"both", "parameter"} else "off"
        anchors.make(
            self._journal.database,
            settlement,
            self._remote,
            places,
            proof=self._proof,
            is_over=lambda: self._gate.over,
            every_s=0.0 if self._course.component_ended else self._options.anchor_every_s,
            clock_ns=self._clock_ns,
            above=self._ahead,
            prefix=self._options.anchor_prefix,
        )

    def _settle(self, settlement: Settlement, actions: Sequence[Settle]) -> None:
        if actions:
            settlement.settle(actions)
            for action in actions:
                self._report.add(action.outcome, len(action.seqs))
            self._tell()

    def _tell(self) -> None:
        self._apart.tell(Progress(self._report.settled, self._total, self._report.requests))


def dry_run(
    journal: Journal, options: Options, proof: Proof, can: Capabilities = SAGEMAKER
) -> Iterator[Action]:
    """Yield the actions that a pass would make if every request succeeded.

    Updates that wait for an upload come apart. Changes nothing, and asks no remote: ``can`` says
    what it could do.
    """
    for pending in pending_chunks(journal, options.wanted):
        proof.look_at(pending.seqs, pending.rows())
        chunk = pending if options.unproved else pending.without(proof.broken)
        states = read_states(journal.database, chunk.component_ids, chunk.grouping_ids)
        for action in planner.plan(chunk.entries, states, chunk.points, can):
            yield from planner.in_turns(action, states.get(action.component_id, ComponentState()))
