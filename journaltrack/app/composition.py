"""Wire tracker, reconciler and remote together: the composition root.

A tracker calls ``SERVICES`` through ``services`` and knows nothing of what is behind them. boto3
is imported when one of them runs, not before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from journaltrack.app.connection import Connection, probe, retrying
from journaltrack.errors import (
    ErrorKind,
    JournalError,
    JournalOutdatedError,
    JournaltrackError,
    RemoteError,
)
from journaltrack.journal import destinations
from journaltrack.journal.journal import Journal
from journaltrack.tracking.settings import ReplayRequest, Services
from journaltrack.util import config, paths
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.app.background import Background
    from journaltrack.app.keeper import Keeper
    from journaltrack.app.one_place import OnePlace
    from journaltrack.replay.lease import Gate, Lease
    from journaltrack.replay.pass_report import PassReport, Progress, Work
    from journaltrack.replay.reconciler import Options
    from journaltrack.retention.prune import PruneReport
    from journaltrack.util.config import AllowConfiguration, Destination
    from journaltrack.verification.diff import Difference
    from journaltrack.verification.verifier import VerifyOptions, VerifyReport
    from journaltrack.watch.journal import Delivery, DeliveryRequest

logger = logging.getLogger(__name__)

Resting: TypeAlias = dict[str, tuple[float, RemoteError]]
"""By destination: until when a watcher leaves it alone (monotonic seconds), and why."""
REST_S: Final = 5.0
"""Our choice: seconds for which a watcher leaves a destination alone that did not answer."""
_REPAIRS_MAX: Final = 3
"""Rounds of a repair: a component made again shows only in the next round which metrics it lost."""


def run_pass(
    journal: str | os.PathLike[str] | None,
    connection: Connection,
    options: Options | None = None,
    deadline: Deadline | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    stay: bool = False,
    afterwards: Callable[[Journal], object] | None = None,
) -> PassReport:
    """Replay what is pending in a journal, once.

    Args:
        journal: Its folder; None: the default journal.
        connection: How to reach the remote.
        options: What to replay; None: everything.
        deadline: Ends the pass; None: no limit.
        on_progress: Called after every recording.
        stay: Keep a mirrored journal claimed, for the next pass.
        afterwards: Called with the journal that was delivered, which is still open.

    Returns:
        What was done. A failing remote does not raise: see ``halted``, ``held`` and ``pending`` of
        the report.

    Raises:
        NothingMatchesError: The journal has no component that ``options`` names, or nothing for a
            bucket that the connection's ``storage`` replaces. Nothing was sent.
        JournalNotFoundError: There is no journal.
        JournalBehindError: Another copy of the journal was delivered further. Nothing was sent.
        LeaseHeldError: Another process holds the journal's lease, or another copy of a mirrored
            journal delivers it.
        LeaseLostError: Another process took the lease over, or may have taken over the delivery of
            a mirrored journal. What was sent is recorded.
        JournalError: The journal, or its mirror, can't be read or written.
    """
    from journaltrack.journal.filter import check_buckets  # noqa: PLC0415
    from journaltrack.journal.view import matching  # noqa: PLC0415
    from journaltrack.replay.lease import Gate  # noqa: PLC0415 - not at the tracker's start
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415

    options = options or Options()
    folder = paths.default_journal() if journal is None else paths.expanded(journal)
    check_size(folder, connection.allow)
    with _at_work(connection), contextlib.ExitStack() as stack:
        left_s = None
        ended: list[str] = []
        if connection.destination is not None:
            stack.enter_context(_kept_if_reached(folder, connection.destination))
            journal, ended = _up_to_date(folder, connection.destination, options)
            options = replace(options, end_interrupted=False)
        else:
            destinations.refuse_copy(folder, "delivered to SageMaker")
            if (folder / paths.MIRRORED).exists():
                from journaltrack.mirror.delivery import delivering  # noqa: PLC0415 - few are

                claim = delivering(folder, stay=stay, claim_s=options.claim_s)
                left_s = stack.enter_context(claim)
        opened = stack.enter_context(_for_a_pass(journal))
        matching(opened, options.component)
        if connection.storage.instead:
            check_buckets(opened, connection.storage.instead)
        report = _replayed(
            opened, connection, options, Gate(deadline or Deadline(), left_s), on_progress
        )
        report.ended += ended
        if afterwards is not None:
            afterwards(opened)
        return report


def _at_work(connection: Connection) -> contextlib.AbstractContextManager[None]:
    """Let few of the passes that run beside each other work at a time, from their opening on."""
    sharing = connection.sharing
    return contextlib.nullcontext() if sharing is None else sharing.company.at_work()


def _for_a_pass(folder: str | os.PathLike[str] | None) -> contextlib.closing[Journal]:
    """Open a journal that a pass delivers: what it refuses is recorded by a later one."""
    return contextlib.closing(Journal.open(folder, create=False, on_journal_error="raise"))


def _replayed(
    journal: Journal,
    connection: Connection,
    options: Options,
    gate: Gate,
    on_progress: Callable[[Progress], None] | None,
) -> PassReport:
    """Replay an open journal to the remote of a connection, once."""
    from journaltrack.replay.reconciler import Reconciler  # noqa: PLC0415 - as in ``run_pass``

    own = destinations.own(journal.database) if connection.destination else None
    sharing = connection.sharing
    with retrying(connection, gate, options.concurrency, own) as remote:
        report = Reconciler(
            journal,
            remote,
            options=options,
            deadline=gate,
            on_progress=on_progress,
            attempts=remote.attempts_of_last_call,
            company=None if sharing is None else sharing.company,
        ).run()
    if sharing is not None and report.halted is not None and report.halted.everywhere:
        # Perhaps somebody renews the credentials, or mends the configuration.
        sharing.renew()
    return report


@contextlib.contextmanager
def _kept_if_reached(journal: Path, destination: Destination) -> Iterator[None]:
    """Remove a copy that the block makes for an address, if nothing got there.

    Perhaps the address was mistyped, and nobody would ever deliver what is pending there.
    """
    folder = destinations.folder_of(journal, destination.name)
    is_new = not (folder / paths.DATABASE).exists()
    try:
        yield
    finally:
        if is_new and destination.is_address and (folder / paths.DATABASE).exists():
            destinations.forget_unsent(folder)


def _up_to_date(
    journal: Path, destination: Destination, options: Options
) -> tuple[Path, list[str]]:
    """Return the copy for a destination, with everything that the journal has, and who was ended.

    Runs whose processes are proven dead are ended in the journal: a copy records nothing itself.
    """
    from journaltrack.journal import interruption  # noqa: PLC0415 - not at the tracker's start

    ended: list[str] = []
    with _for_a_pass(journal) as opened:
        if options.end_interrupted:
            ended = interruption.end(opened, options.wants_component)
    copy = destinations.extended(journal, destination.name, destination.mark)
    if (journal / paths.MIRRORED).exists():
        from journaltrack.mirror.delivery import bring_bytes  # noqa: PLC0415 - few are

        bring_bytes(journal, copy)
    return copy, ended


def place_of(journal: str | os.PathLike[str] | None, connection: Connection) -> Path:
    """Return the journal whose deliveries are those to the connection's destination.

    Raises:
        JournalNotFoundError: Nothing was delivered there yet.
    """
    folder = paths.default_journal() if journal is None else paths.expanded(journal)
    if connection.destination is None:
        return folder
    return destinations.place(folder, connection.destination.name, connection.destination.mark)


def check_size(journal: Path, allow: AllowConfiguration) -> None:
    """Raise ``JournalError`` for a journal that is too large to deliver.

    This looks at the file's size, before the journal is opened.
    """
    size_bytes = 0
    for name in (paths.DATABASE, f"{paths.DATABASE}-wal"):
        # Opening the journal reports what is wrong.
        with contextlib.suppress(OSError):
            size_bytes += (journal / name).stat().st_size
    if 0 < allow.journal_bytes_max < size_bytes:
        raise JournalError(
            f"the database of {journal} has {size_bytes} bytes, and allow.journal_bytes_max is "
            f"{allow.journal_bytes_max}; nothing was sent",
            hint="raise the limit in the configuration if the journal is yours, else move "
            "the journal away",
        )


def run_verify(
    journal: str | os.PathLike[str] | None,
    connection: Connection,
    options: VerifyOptions | None = None,
    deadline: Deadline | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    repair: bool = False,
) -> VerifyReport:
    """Compare what a journal delivered with what the remote holds now.

    Without ``repair``, change neither.

    Args:
        journal: Its folder; None: the default journal.
        connection: How to reach the remote.
        options: What to verify; None: everything.
        deadline: Ends it; None: no limit.
        on_progress: Called after every component.
        repair: Make what is missing pending again, sync these components, and verify once more.

    Returns:
        What was found; after a repair, what is there now. A failing remote does not raise: see
        ``halted`` of the report.

    Raises:
        JournalNotFoundError: There is no journal.
        LeaseHeldError: With ``repair``: another process holds the journal's lease.
        JournalAlteredError: With ``repair``: its chains or records do not hold. Nothing was sent
            or compared.
        JournalError: The journal can't be read; with ``repair``: or written.
    """
    from journaltrack.verification.repair import by_bucket  # noqa: PLC0415
    from journaltrack.verification.verifier import Repair, VerifyOptions  # noqa: PLC0415

    options, deadline = options or VerifyOptions(), deadline or Deadline()
    where = place_of(journal, connection)
    if repair:
        _refuse_unproved(where)
    report = _verified(where, connection, options, deadline, on_progress)
    if not repair:
        return report
    done = Repair()
    # Each once: what one repair does not mend, a second one would not.
    tried: set[tuple[int, str, str | None]] = set()
    for _ in range(_REPAIRS_MAX):
        todo = [
            d
            for d in report.differences
            if d.repairable and (d.component_id, d.what, d.name) not in tried
        ]
        if not todo or report.halted is not None or deadline.over:
            break
        tried |= {(d.component_id, d.what, d.name) for d in todo}
        for replaced, some in by_bucket(todo).items():
            done.reopened += _reopened(where, report, some)
            to = connection
            # What another bucket took goes there again.
            if replaced is not None:
                to = to.with_buckets({**to.storage.instead, replaced[0]: replaced[1]})
            done.passes.append(_repairing_pass(journal, to, options, deadline))
        report = _verified(where, connection, options, deadline, on_progress)
    report.repair = done
    return report


def _refuse_unproved(journal: str | os.PathLike[str] | None) -> None:
    """Refuse to repair from a journal that was altered or is incomplete.

    A repair makes the remote match the journal.

    Raises:
        JournalAlteredError: The journal was altered.
        JournalBehindError: A merge into the journal was killed.
    """
    from journaltrack.replay.evidence import taken  # noqa: PLC0415
    from journaltrack.replay.evidence.proof import altered  # noqa: PLC0415
    from journaltrack.reports.proof.check import proved  # noqa: PLC0415

    opened = Journal.open(journal, create=False, read_only=True)
    try:
        taken.refuse_unfinished(opened.database)
        with proved(opened.database) as (problems, _):
            if problems:
                raise altered(opened.path, problems)
    finally:
        opened.close()


def _verified(
    journal: str | os.PathLike[str] | None,
    connection: Connection,
    options: VerifyOptions,
    deadline: Deadline,
    on_progress: Callable[[Progress], None] | None,
) -> VerifyReport:
    from journaltrack.verification.verifier import CONCURRENCY, Verifier  # noqa: PLC0415

    opened = Journal.open(journal, create=False, read_only=True)
    try:
        own = destinations.own(opened.database) if connection.destination else None
        with retrying(connection, deadline, CONCURRENCY, own) as remote:
            return Verifier(
                opened, remote, options=options, deadline=deadline, on_progress=on_progress
            ).run()
    finally:
        opened.close()


def _reopened(
    journal: str | os.PathLike[str] | None, report: VerifyReport, differences: Sequence[Difference]
) -> int:
    from journaltrack.verification.repair import reopen  # noqa: PLC0415

    with reconciling(journal) as (opened, lease):
        return reopen(
            opened.database,
            lease,
            differences,
            read_at_ns=report.at_ns,
            receipt_id=report.receipt_id,
        )


@contextlib.contextmanager
def reconciling(journal: str | os.PathLike[str] | None) -> Iterator[tuple[Journal, Lease]]:
    """Open an existing journal and hold its lease for the block.

    Raises:
        JournalNotFoundError: There is no journal.
        LeaseHeldError: Another process holds the journal's lease.
        JournalError: The journal can't be read or written.
    """
    from journaltrack.replay.lease import acquire  # noqa: PLC0415 - not at the tracker's start

    with contextlib.closing(Journal.open(journal, create=False)) as opened:
        lease = acquire(opened.database)
        try:
            yield opened, lease
        finally:
            lease.release()


def _repairing_pass(
    journal: str | os.PathLike[str] | None,
    connection: Connection,
    options: VerifyOptions,
    deadline: Deadline,
) -> PassReport:
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415
    from journaltrack.verification.verifier import CONCURRENCY  # noqa: PLC0415

    replay = Options(
        options.component,
        concurrency=CONCURRENCY,
        timestamps=options.timestamps,
        visible_after_s=options.visible_after_s,
    )
    return run_pass(journal, connection, replay, deadline)


def run_prune(
    journal: str | os.PathLike[str] | None,
    connection: Connection,
    options: VerifyOptions,
    deadline: Deadline | None = None,
    *,
    unasked: bool = False,
    **what: Any,  # noqa: ANN401 - of prune
) -> PruneReport:
    """Remove what was delivered before a time, once the remote confirms it.

    Args:
        journal: Its folder; None: the default journal.
        connection: How to reach the remote.
        options: How to ask.
        deadline: Ends the asking; nothing is removed then.
        unasked: Trust the journal's own record of deliveries, and ask nobody.
        what: See ``journaltrack.retention.prune.prune``.

    Raises:
        RemoteError: The remote could not be asked. Nothing was removed.
        JournaltrackError, OSError: As ``journaltrack.retention.prune.prune`` says.
    """
    from journaltrack.retention.prune import prune  # noqa: PLC0415 - not at the tracker's start
    from journaltrack.verification.confirmation import Confirmation  # noqa: PLC0415
    from journaltrack.verification.verifier import CONCURRENCY  # noqa: PLC0415

    folder = place_of(journal, connection)
    if connection.destination is None:
        destinations.refuse_copy(folder, "pruned")
        if not what.get("dry_run"):
            destinations.save(folder, _marks(connection.targets))
    if unasked or what.get("dry_run"):
        return prune(folder, ask=None, **what)
    deadline = deadline or Deadline()
    with contextlib.closing(Journal.open(folder, create=False, read_only=True)) as opened:
        own = destinations.own(opened.database) if connection.destination else None
        with retrying(connection, deadline, CONCURRENCY, own) as remote:
            return prune(folder, ask=Confirmation(opened, remote, options, deadline), **what)


def _marks(targets: Iterable[Destination | None]) -> dict[str, dict[str, str]]:
    return {each.name: each.mark for each in targets if each is not None}


def deliver(
    request: DeliveryRequest,
    connection: Connection,
    options: Options | None = None,
    one_place: OnePlace | None = None,
    resting: Resting | None = None,
) -> Delivery:
    """Look at one journal for the watcher, and run passes if there is news.

    Further destinations get theirs whatever becomes of the first, also while SageMaker is down.

    Args:
        request: What to do.
        connection: How to reach the remote.
        options: Of the pass.
        one_place: Which folder each journal is delivered from, if copies of one may turn up.
        resting: Further destinations that did not answer a moment ago.

    Raises:
        JournalError: The journal can't be read or written, another process holds its lease, or
            another copy of it is ahead.
    """
    from journaltrack.watch.journal import Delivery  # noqa: PLC0415 - not at the tracker's start

    further = [each for each in connection.each() if each.destination is not None]
    try:
        done = (
            _looked(request, connection, options, one_place)
            if None in connection.targets
            else Delivery(0)
        )
    except JournalError:
        _to_others(request, further, options, resting)
        raise
    if done.missing_blobs:
        return done
    pending, problem = _to_others(request, further, options, resting)
    if problem is None:
        return replace(done, pending=done.pending + pending)
    from journaltrack.replay.pass_report import PassReport  # noqa: PLC0415 - as above

    report = done.report or PassReport()
    # Not ``halted``: that is about SageMaker's endpoint, at which all journals wait.
    told = replace(report, pending=done.pending + pending, failed=report.failed or problem)
    return replace(done, pending=told.pending, report=told)


def _to_others(
    request: DeliveryRequest,
    connections: Sequence[Connection],
    options: Options | None,
    resting: Resting | None,
) -> tuple[int, RemoteError | None]:
    """Deliver to further destinations what they lack; return what is pending, and why."""
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415 - as above

    pending, problem = 0, None
    resting = {} if resting is None else resting
    for connection in connections:
        name = connection.destination.name if connection.destination else ""
        until_s, told = resting.get(name, (0.0, None))
        if told is not None and time.monotonic() < until_s:
            # Each journal's try would take a place of the pool for seconds.
            pending, problem = pending + 1, told
            continue
        try:
            if not destinations.is_behind(request.journal, name):
                continue
            report = run_pass(request.journal, connection, options or Options(), request.deadline)
        except JournalError as error:
            why: JournaltrackError = error
            left = 1
        else:
            left = report.pending
            if report.problem is None:
                pending += left
                continue
            why = report.problem
        pending += left
        logger.info("the delivery to %s is not complete: %s", name, why)
        text = f"{name}: {why.message}"
        code = why.code if isinstance(why, RemoteError) else type(why).__name__
        problem = RemoteError(text, kind=ErrorKind.TRANSIENT, code=code, hint=why.hint)
        if isinstance(why, RemoteError) and (why.unreachable or why.everywhere):
            resting[name] = time.monotonic() + REST_S, problem
    return pending, problem


def _looked(
    request: DeliveryRequest,
    connection: Connection,
    options: Options | None,
    one_place: OnePlace | None,
) -> Delivery:
    """Look at a journal, and deliver it to SageMaker if there is news."""
    from journaltrack.replay import pass_report  # noqa: PLC0415 - not at the tracker's start
    from journaltrack.watch.journal import Delivery  # noqa: PLC0415

    check_size(request.journal, connection.allow)
    try:
        work = pass_report.look(request.journal, blobs=request.arriving)
    except JournalOutdatedError:
        if request.look_only:
            raise
        return _delivered(request, connection, options)
    if request.look_only:
        return Delivery(work.pending)
    if work.missing_blobs:
        return Delivery(work.pending, missing_blobs=work.missing_blobs)
    with contextlib.ExitStack() as stack:
        if one_place is not None:
            stack.enter_context(one_place.of(request.journal, work.journal_id, lambda: work))
        return _delivered(request, connection, options, work)


def _delivered(
    request: DeliveryRequest,
    connection: Connection,
    options: Options | None,
    work: Work | None = None,
) -> Delivery:
    """Deliver as ``deliver`` does.

    ``work`` is None for an older journal, which the pass upgrades.
    """
    from journaltrack.replay.pass_report import PassReport  # noqa: PLC0415 - as above
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415
    from journaltrack.watch.journal import Delivery  # noqa: PLC0415

    options = options or Options()
    if work is not None:
        ending = work.interrupted and options.end_interrupted
        if not ending and (not work.any or work.position == request.unless):
            return Delivery(work.pending, work.position)
        error = probe(connection, request.deadline) if request.preflight else None
        if error is not None and not request.deadline.cut_short:
            return Delivery(work.pending, report=PassReport(pending=work.pending, halted=error))
    # The watcher itself delivered everything up to what it has seen: asking again whenever a
    # training logs would double the requests.
    report = run_pass(
        request.journal,
        connection,
        replace(options, ask_for_copies=request.unless is None),
        request.deadline,
        stay=True,
    )
    return Delivery(report.pending, report.position, report)


def replay(request: ReplayRequest) -> None:
    """Deliver on close what the tracker's component has pending, within the deadline."""
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415

    options = Options(request.component, wait_for_lease=True, **request.configuration.of_a_pass())
    first: JournalError | None = None
    for connection in Connection.of(request).each():
        # A failure of one destination is no reason to leave out the next.
        try:
            _tell(request, run_pass(request.journal, connection, options, request.deadline))
        except JournalError as error:  # noqa: PERF203 - a pass costs more
            first = first or error
    if first is not None:
        raise first


def _tell(request: ReplayRequest, report: PassReport) -> None:
    """Log why not everything was delivered."""
    problem = (
        report.halted
        or report.uploads_halted
        or report.altered
        or report.held.get(request.component)
        or report.failed
        or report.lineage_halted
    )
    if problem is not None or report.out_of_time:
        why = (
            str(problem)
            if problem is not None
            else f"the deadline of {request.deadline_s:g} s expired"
        )
        logger.warning(
            "%s was not delivered completely, %d entries of its journal are pending; "
            "`journaltrack sync` delivers the rest: %s",
            request.component,
            report.pending,
            why,
        )


def _background(request: ReplayRequest) -> Background:
    from journaltrack.app import background  # noqa: PLC0415 - watchers are for those who want one

    return background.start(request)


def _ask(request: ReplayRequest, operation: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
    remote = Connection.of(request).remote(request.deadline, concurrency=1)
    try:
        return remote.call(operation, members)
    finally:
        remote.close()


def _make_room(journal: Path, wanted_bytes: int) -> int:
    from journaltrack.retention.plan import make_room  # noqa: PLC0415 - when the spool is full

    # What a destination has not got leaves with it otherwise.
    destinations.save(journal, _marks(config.current().targets))
    return make_room(journal, wanted_bytes)


def _mirror(journal: Path, mirror: Path, every_s: float) -> Keeper:
    from journaltrack.app import keeper  # noqa: PLC0415 - mirrors are for those who want one

    return keeper.start(journal, mirror, every_s)


def _fetch(journal: Path, mirror: Path, run: str, deadline: Deadline) -> None:
    from journaltrack.mirror.copies import fetch  # noqa: PLC0415 - as above

    fetch(journal, mirror, run, deadline)


def _elsewhere(journal: Path, mirror: Path, run: str, deadline: Deadline) -> Sequence[Path]:
    from journaltrack.mirror.copies import elsewhere  # noqa: PLC0415 - as above

    return elsewhere(journal, mirror, run, deadline)


SERVICES: Final = Services(
    replay=replay,
    ask=_ask,
    background=_background,
    make_room=_make_room,
    mirror=_mirror,
    fetch=_fetch,
    elsewhere=_elsewhere,
)
"""The services that trackers call."""
