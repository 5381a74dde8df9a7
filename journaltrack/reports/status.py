"""Report where a journal stands: what is pending, what failed, who holds the lease.

The cost grows with pending entries and problems, never with delivered entries (``hearsay`` is the
exception). The module reads above the low-water mark, through the partial indexes, and the last
``view.RECENT_RECEIPTS`` receipts. It prints nothing and changes nothing.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from journaltrack.errors import JournalError
from journaltrack.journal import destinations, interruption, queries, view
from journaltrack.journal.groups import IS_RUN
from journaltrack.journal.interruption import RunInProgress
from journaltrack.journal.spool.spool import needed_blobs, spool_use
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.footprint import footprint
from journaltrack.journal.view import ErrorRecord, When
from journaltrack.journal.vocabulary import LOCAL
from journaltrack.replay.evidence import gone, taken
from journaltrack.replay.evidence.taken import Unfinished
from journaltrack.reports.proof.hearsay import Hearsay, told
from journaltrack.util import config, paths, process

if TYPE_CHECKING:
    from pathlib import Path

    from journaltrack.journal.journal import Journal
    from journaltrack.journal.sqlite.connection import Database


@dataclass(frozen=True, slots=True)
class PendingStream:
    """The pending entries of one stream, without those in flight."""

    stream: str
    entries: int
    oldest_recorded_at_ns: int | None


@dataclass(frozen=True, slots=True)
class LastSuccess:
    """The last request that delivered something."""

    action: str
    at_ns: int
    request_id: str | None


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The process that may reconcile. ``alive`` is None if it is on another machine."""

    owner: str
    host: str | None
    pid: int | None
    acquired_at_ns: int | None
    expires_at_ns: int | None
    alive: bool | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """The journal's size on the disk.

    Attributes:
        database_bytes, wal_bytes: The database's file and its log.
        spool_bytes, spool_files: Artifacts' contents.
        database_free_bytes: Free space inside the database's file.
        spool_delivered_bytes: Contents that no undelivered entry needs: `prune` may remove them.
    """

    database_bytes: int
    wal_bytes: int
    spool_bytes: int
    spool_files: int
    database_free_bytes: int = 0
    spool_delivered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """Where a further destination stands.

    Attributes:
        name: Of the destination.
        folder: Of its copy of the journal.
        to: How ``--to`` names it.
        pending: How many entries are pending there, those in flight and those that the copy lacks
            yet included. None: it can't be read.
        in_doubt, quarantined: How many entries are in these states there.
        gone: How many components it no longer has, see ``JournalStatus``.
        problem: Why the copy can't be read.
    """

    name: str
    folder: str
    to: str
    pending: int | None = None
    in_doubt: int = 0
    quarantined: int = 0
    problem: str | None = None
    gone: int = 0


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """Where a journal stands.

    Attributes:
        journal_id, path: Of the journal.
        at_ns: The time of this status.
        last_seq: Of the newest entry; 0 when there is none.
        components: How many components it has.
        pending: How many entries are pending.
        pending_by_stream: The same by stream.
        oldest_pending_at_ns: When the oldest pending entry was recorded.
        oldest_pending_age_s: Its age in seconds.
        in_flight: How many entries are named by requests without a recorded answer.
        unfinished_receipts: How many such requests there are. While nobody holds the lease, a
            killed sync left them behind, and the next sync settles them.
        in_doubt, quarantined: How many entries are in these states.
        last_success: Of recent requests.
        last_error: Of recent requests, as long as no delivery has overcome it; see
            ``view.last_error``.
        lease: Who holds the lease; None when nobody does.
        sizes: On the disk.
        exposed: How others can read or change the journal; None when they can't.
        left_open: Runs in progress whose processes are dead, or can't be seen from here.
        hearsay: What counts as delivered only because others say so, of the whole journal. Empty
            unless it was asked for.
        unfinished: Merges and imports of receipts that were killed. Until they run again, nothing
            is sent from this journal.
        destinations: Further destinations to which the journal was delivered.
        destination: Whose deliveries these are: "sagemaker", or the name of the further destination
            whose copy of a journal this is.
        gone: Components that were delivered, and that the destination said it no longer has.
    """

    journal_id: str
    path: str
    at_ns: int
    last_seq: int
    components: int
    pending: int
    pending_by_stream: tuple[PendingStream, ...]
    oldest_pending_at_ns: int | None
    oldest_pending_age_s: float | None
    in_flight: int
    unfinished_receipts: int
    in_doubt: int
    quarantined: int
    last_success: LastSuccess | None
    last_error: ErrorRecord | None
    lease: LeaseHolder | None
    sizes: Sizes
    exposed: str | None = None
    left_open: tuple[RunInProgress, ...] = ()
    hearsay: tuple[Hearsay, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    destinations: tuple[CopyStatus, ...] = ()
    destination: str = config.SAGEMAKER
    gone: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to what ``json.dumps`` takes, see ``journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return converted


_CHOSEN: Final = (
    "(?1 IS NULL OR e.component_id IN (SELECT value FROM json_each(?1))) "
    "AND (?2 IS NULL OR e.recorded_at_ns >= ?2 OR e.kind IN ('create', 'load'))"
)
_UNSETTLED: Final = f"{queries.LOOKED_AT} AND {queries.UNSETTLED} AND {_CHOSEN}"


def status(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    component: str | None = None,
    since: When | None = None,
    hearsay: bool = False,
) -> JournalStatus:
    """Report where a journal stands.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        component: Shell pattern: count only entries of these components.
        since: Count only entries that a sync with this limit covers; see ``journaltrack.sync``.
        hearsay: Also report what counts as delivered because others say so. This reads all
            attestations if anything was ever taken over.

    Raises:
        JournalError: The journal can't be read.
    """

    def read(own: Journal) -> JournalStatus:
        """Read it all."""
        return _status(
            own,
            view.matching(own, component, displayed=True),
            view.nanoseconds("since", since),
            time.time_ns(),
            tuple(each.hearsay for each in told(own.database)) if hearsay else (),
        )

    return view.look(journal, read)


def undeliverable(
    journal: Journal | str | os.PathLike[str] | None = None, *, component: str | None = None
) -> int:
    """Count the quarantined entries that AWS can never accept.

    `retry` leaves them as they are. The cost grows with quarantined entries.
    """
    with view.opened(journal) as own, view.snapshot(own.database):
        return sum(
            queries.undeliverable(
                own.database, view.matching(own, component, displayed=True)
            ).values()
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Count a journal's entries by state, for what needs nothing else of its status.

    Attributes:
        journal_id, path: Of the journal.
        pending, in_flight, in_doubt, quarantined: See ``JournalStatus``.
    """

    journal_id: str
    path: str
    pending: int
    in_flight: int
    in_doubt: int
    quarantined: int


def standing(
    journal: Journal, *, component: str | None = None, since: When | None = None
) -> Standing:
    """Count an open journal's entries by state. The arguments and errors are as for ``status``.

    The journal is read through its own connection: not a tracker's, whose appends would wait.
    """
    with view.snapshot(journal.database):
        counts = _counts(
            journal.database,
            view.matching(journal, component, displayed=True),
            view.nanoseconds("since", since),
        )
        return Standing(
            journal.journal_id,
            str(journal.path),
            sum(stream.entries for stream in counts.streams),
            sum(counts.in_flight.values()),
            counts.problems.get("in doubt", 0),
            counts.problems.get("quarantined", 0),
        )


class _Counts(NamedTuple):
    """Count entries: pending and in flight by stream, and problems by outcome."""

    flying: view.InFlight
    streams: tuple[PendingStream, ...]
    in_flight: dict[str, int]
    problems: dict[str, int]


def _counts(database: Database, ids: str | None, since_ns: int | None) -> _Counts:
    flying = view.in_flight(database)
    in_flight: dict[str, int] = {}
    # Nearly always none.
    if flying.intervals:
        in_flight = dict(
            database.read(
                "SELECT e.stream, count(*) FROM json_each(?3) i "
                "CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, '$[0]') "
                f"AND json_extract(i.value, '$[1]') WHERE {_UNSETTLED} GROUP BY 1",
                (ids, since_ns, flying.json),
            )
        )
    rows = database.read(
        f"SELECT e.stream, count(*), min(e.recorded_at_ns) FROM entry e WHERE {_UNSETTLED} "
        "GROUP BY 1 ORDER BY 1",
        (ids, since_ns),
    )
    streams = tuple(
        PendingStream(stream, n - in_flight.get(stream, 0), oldest) for stream, n, oldest in rows
    )
    of_problems = (
        f"SELECT d.outcome, count(*) FROM delivery d {{}} WHERE {queries.PROBLEM} {{}} GROUP BY 1"
    )
    # Without a filter, the partial index answers alone.
    if ids is None and since_ns is None:
        problems = dict(database.read(of_problems.format("", "")))
    else:
        problems = dict(
            database.read(
                of_problems.format("JOIN entry e ON e.seq = d.seq", f"AND {_CHOSEN}"),
                (ids, since_ns),
            )
        )
    return _Counts(flying, streams, in_flight, problems)


def _status(
    journal: Journal,
    ids: str | None,
    since_ns: int | None,
    now_ns: int,
    hearsay: tuple[Hearsay, ...],
) -> JournalStatus:
    database = journal.database
    flying, streams, in_flight, problems = _counts(database, ids, since_ns)
    oldest_ns = min(
        (s.oldest_recorded_at_ns for s in streams if isinstance(s.oldest_recorded_at_ns, int)),
        default=None,
    )
    return JournalStatus(
        journal_id=journal.journal_id,
        path=str(journal.path),
        at_ns=now_ns,
        last_seq=journal.last_seq(),
        components=database.read(
            f"SELECT count(*) FROM component c WHERE {IS_RUN} "
            "AND (?1 IS NULL OR c.id IN (SELECT value FROM json_each(?1)))",
            (ids,),
        )[0][0],
        pending=sum(s.entries for s in streams),
        pending_by_stream=tuple(s for s in streams if s.entries),
        oldest_pending_at_ns=oldest_ns,
        oldest_pending_age_s=None
        if oldest_ns is None
        else round(max(0, now_ns - oldest_ns) / 1e9, 3),
        in_flight=sum(in_flight.values()),
        unfinished_receipts=flying.receipts,
        in_doubt=problems.get("in doubt", 0),
        quarantined=problems.get("quarantined", 0),
        last_success=_last_success(database),
        last_error=view.last_error(database),
        lease=_lease(database, now_ns),
        sizes=_sizes(journal),
        exposed=files.exposure(journal.path),
        hearsay=hearsay,
        unfinished=tuple(each.what for each in taken.unfinished(database)),
        destinations=tuple(
            _of_copy(journal, name, folder)
            for name, folder in destinations.copies(journal.path).items()
        ),
        destination=destinations.name_of(journal.path),
        gone=tuple(gone.gone(database)),
        left_open=tuple(interruption.left_open(journal, None if ids is None else json.loads(ids))),
    )


def _of_copy(journal: Journal, name: str, folder: Path) -> CopyStatus:
    to = destinations.word_of(folder)
    try:
        with view.opened(folder) as copy:
            rows = copy.database.read(
                f"SELECT d.outcome, count(*) FROM delivery d WHERE {queries.PROBLEM} GROUP BY 1"
            )
            pending, last = queries.pending_count(copy.database), copy.last_seq()
            missing = len(gone.gone(copy.database))
    # The journal itself can be told of all the same.
    except JournalError as error:
        return CopyStatus(name, str(folder), to, problem=error.message)
    sql = "SELECT count(*) FROM entry WHERE seq > ? AND kind <> ?"
    ((lacking,),) = journal.database.read(sql, (last, LOCAL))
    problems = dict(rows)
    return CopyStatus(
        name,
        str(folder),
        to,
        lacking + pending,
        problems.get("in doubt", 0),
        problems.get("quarantined", 0),
        gone=missing,
    )


def _last_success(database: Database) -> LastSuccess | None:
    rows = database.read(
        "SELECT action, finished_at_ns, request_id FROM receipt WHERE outcome = 'delivered' "
        f"AND {view.IS_RECENT} ORDER BY id DESC LIMIT 1"
    )
    return LastSuccess(*rows[0]) if rows else None


def _lease(database: Database, now_ns: int) -> LeaseHolder | None:
    """Return the lease's holder, unless it is certainly gone.

    This does not try the kernel's lock: another process's sync would fail meanwhile. Closing the
    lock's file would also drop this process's own lock.
    """
    rows = database.read("SELECT owner, host, pid, acquired_at_ns, expires_at_ns FROM lease")
    if not rows or rows[0][0] is None:
        return None
    owner, host, pid, acquired_ns, expires_ns = rows[0]
    alive = process.runs(pid, None) if host == process.host() else None
    expired = not isinstance(expires_ns, int) or now_ns >= expires_ns
    if alive is False or (alive is None and expired):
        return None
    return LeaseHolder(owner, host, pid, acquired_ns, expires_ns, alive)


def _sizes(journal: Journal) -> Sizes:
    found = footprint(journal.database)
    spool = spool_use(journal.path / paths.SPOOL, lambda: needed_blobs(journal.database))
    return Sizes(
        found.database_bytes,
        found.wal_bytes,
        spool.size_bytes,
        spool.files,
        found.free_bytes,
        spool.delivered_bytes,
    )
