"""What a prune removes, what stays, and why: decided once, in temporary tables of one connection. Changes no journal.

What goes was delivered before the cutoff. What stays is everything that is not, and of what was delivered that on which a
component lives: ``docs/retention.md`` has the list, ``_KEEP`` the SQL. Must not know how entries are removed.

Invariant: entries that come later make nothing removable, so that the decision holds for as long as the caller has the lease.

Contents that are delivered leave the spool, on the record: for ``prune``, and for a spool that has a limit.

The reconciling side of the journal, as ``outcomes``: it needs the lease, and must not know remotes, reconciler or tracker.

Invariant: no content goes that something undelivered needs, or that a tracker has just spooled and not recorded yet. A tracker
renews ``blob.spooled_at_ns`` before a file gets its name in the spool (``Journal.renew_blob``), and in the transaction that records
the upload. A removal is attested first, then looks again at that time inside a write transaction, and takes the file's name in it:
what was recorded before is too young, and what is recorded later is looked for then (``JournalArtifactUploader.confirm``).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from journaltrack.errors import LeaseHeldError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal import view
from journaltrack.journal.queries import ARRIVED, PROBLEM, UNSETTLED
from journaltrack.journal.removed import PRUNE
from journaltrack.journal.spool.spool import TEMPORARY, needed_blobs
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.statements import Statement
from journaltrack.reports.proof import hearsay
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.journal import Journal

GRACE_S: Final = 600.0
"""Ours: so long after it was spooled a content stays, whatever is known of it: its call may not be recorded yet."""
_AT_A_TIME: Final = 100  # names taken in one transaction: a few milliseconds
_BUSY_S: Final = 1.0
_DELIVERED: Final = (
    "SELECT b.sha256, b.size_bytes, b.spooled_at_ns FROM (SELECT l.sha256, max(r.finished_at_ns) AS at_ns FROM location l "
    "JOIN receipt r ON r.id = l.receipt_id WHERE r.outcome = 'delivered' GROUP BY l.sha256) u JOIN blob b ON b.sha256 = u.sha256 "
    "WHERE u.at_ns < ? AND typeof(b.size_bytes) = 'integer' AND typeof(b.spooled_at_ns) = 'integer' AND b.spooled_at_ns < ? "
    "ORDER BY b.spooled_at_ns, b.sha256"
)


class Content(NamedTuple):
    """A content of the spool, as recorded."""

    sha256: str
    size_bytes: int
    spooled_at_ns: int


def removable(database: Database, before_ns: int, now_ns: int) -> list[Content]:
    """Contents whose uploads all were delivered before then, and whose file is there; the oldest first."""
    wanted = needed_blobs(database)
    spool = database.path.parent / paths.SPOOL
    rows = database.read(_DELIVERED, (before_ns, now_ns - int(GRACE_S * 1e9)))
    found = (Content(*row) for row in rows if is_digest(row[0]) and row[0] not in wanted)
    return [content for content in found if os.path.lexists(spool / content.sha256[:2] / content.sha256)]


def remove(attestor: Attestor, contents: Sequence[Content], started_at_ns: int) -> list[Content]:
    """Take these out of the spool; returns those that are gone.

    Args:
        attestor: Holds the lease.
        contents: From ``removable``.
        started_at_ns: When the prune began, which its attestations share.
    """
    gone = []
    for start in range(0, len(contents), _AT_A_TIME):
        some = contents[start : start + _AT_A_TIME]
        with attestor.transaction() as connection:
            chosen = _still_removable(connection, some)
            attestor.attest(connection, [_statement(attestor, chosen, started_at_ns)] if chosen else [])
        attestor.database.sync()  # after a loss of power no file is gone without the record of it
        with _folder(attestor.database.path.parent / paths.SPOOL) as spool:
            aside = []
            with attestor.transaction() as connection:
                for content in _still_removable(connection, chosen):
                    name = None if spool is None else _taken(spool, content.sha256)
                    if name is not None:
                        aside.append(name)
                        gone.append(content)
            for name in aside:  # a file of many gigabytes takes its time, and nobody waits for the database meanwhile
                os.unlink(name, dir_fd=spool)
    return gone


def make_room(folder: Path, wanted_bytes: int, *, clock_ns: Callable[[], int] = time.time_ns) -> int:
    """Take delivered contents out of a journal's spool, the oldest first, until so many bytes are free.

    What others alone say was uploaded stays. Waits for nobody: while another process reconciles the journal, nothing is removed.

    Returns:
        How many bytes were freed.
    """
    with contextlib.closing(Database(folder / paths.DATABASE, busy_timeout_s=_BUSY_S)) as database:
        try:
            lease = leases.acquire(database, clock_ns=clock_ns)
        except LeaseHeldError:
            return 0
        try:
            now_ns = clock_ns()
            others_say = {sha256 for each in hearsay.told(database) for sha256 in each.sha256s}
            chosen: list[Content] = []
            for content in removable(database, now_ns, now_ns):
                if content.sha256 in others_say:
                    continue
                if sum(c.size_bytes for c in chosen) >= wanted_bytes:
                    break
                chosen.append(content)
            gone = remove(Attestor(database, lease, clock_ns), chosen, now_ns)
        finally:
            lease.release()
    return sum(content.size_bytes for content in gone)


def _still_removable(connection: sqlite3.Connection, contents: Sequence[Content]) -> list[Content]:
    """Those that no tracker has spooled again since."""
    rows = connection.execute(
        "SELECT b.sha256, b.spooled_at_ns FROM blob b WHERE b.sha256 IN (SELECT value FROM json_each(?))",
        (json.dumps([content.sha256 for content in contents]),),
    )
    known = dict(rows.fetchall())
    return [content for content in contents if known.get(content.sha256) == content.spooled_at_ns]


def _statement(attestor: Attestor, contents: Sequence[Content], started_at_ns: int) -> Statement:
    return Statement(
        action=PRUNE,
        outcome="removed",
        component_id=None,
        entries=(),
        finished_at_ns=attestor.clock_ns(),
        generation=attestor.lease.generation,
        started_at_ns=started_at_ns,
        more={"blobs": [content.sha256 for content in contents], "blob_bytes": sum(content.size_bytes for content in contents)},
    )


@contextlib.contextmanager
def _folder(spool: Path) -> Iterator[int | None]:
    """A descriptor of the spool; None if it is not a folder."""
    try:
        descriptor = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(spool: int, sha256: str) -> str | None:
    """Give the blob a temporary file's name, which a kill may leave; None if it is not there, or behind a link."""
    name = f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        parent = os.open(sha256[:2], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=spool)
        try:
            os.rename(sha256, name, src_dir_fd=parent, dst_dir_fd=spool)
        finally:
            os.close(parent)
    except OSError:
        return None
    return name


Reason: TypeAlias = Literal[
    "pending",
    "in flight",
    "in doubt",
    "quarantined",
    "delivered later",
    "in use",
    "counted",
    "end of a chain",
    "not confirmed",
    "hearsay",
    "of another version",
]
REASONS: Final[dict[Reason, str]] = {
    "pending": "not sent yet",
    "in flight": "sent, and the answer is not recorded",
    "in doubt": "sent, and the answer was lost",
    "quarantined": "refused: `journaltrack retry` can release them",
    "delivered later": "delivered, but not before the time that was given",
    "in use": "delivered; the component is continued and shown from them: how it came to be, its status, its last values",
    "counted": "delivered points of metrics that have others in doubt: reading back needs them",
    "end of a chain": "delivered; the last entry of each process stays, so that its chain goes on",
    "not confirmed": "delivered, and not all of the component is there now: `journaltrack verify` says what",
    "hearsay": "others say that they delivered them: `--trust` names whom you believe",
    "of another version": "of kinds or outcomes that this version does not know",
}
"""Why entries stay, as a person reads it."""

_REMOVABLE: Final = (
    "(e.stream = 'metric' AND e.kind = 'metric' AND typeof(e.value) = 'real' AND typeof(e.name) = 'text' "
    "OR e.stream = 'component' AND e.kind IN ('parameter', 'input', 'output') OR e.stream = 'upload' AND e.kind = 'upload')"
)
_COUNTED: Final = (
    "(e.stream = 'metric' AND EXISTS (SELECT 1 FROM temp.prune_doubt q WHERE q.component_id = e.component_id AND q.name = e.name))"
)
_UNCONFIRMED: Final = "e.component_id IN (SELECT id FROM temp.prune_unconfirmed)"
_FLYING: Final = "EXISTS (SELECT 1 FROM temp.prune_flying f WHERE e.seq BETWEEN f.first AND f.last)"
_TABLES: Final = (
    "prune_keep (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL)",
    "prune_component (id INTEGER PRIMARY KEY)",
    "prune_doubt (component_id INTEGER, name TEXT, PRIMARY KEY (component_id, name)) WITHOUT ROWID",
    "prune_unconfirmed (id INTEGER PRIMARY KEY)",
    "prune_flying (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    "prune_content (component_id INTEGER, sha256 TEXT, PRIMARY KEY (component_id, sha256)) WITHOUT ROWID",
)
_LAST_OF_KEY: Final = (
    "SELECT max(e.seq), 'in use' FROM entry e LEFT JOIN delivery d ON d.seq = e.seq WHERE e.stream <> 'metric' "
    "AND e.kind IN ('parameter', 'input', 'output') {0} GROUP BY e.component_id, e.kind, e.name"
)
_KEEP: Final = (
    # How a component came to be and what it belongs to; every status, since each may have said only a part.
    "SELECT seq, 'in use' FROM entry WHERE stream <> 'metric' AND kind IN ('create', 'load', 'associate', 'status')",
    # What the remote holds; then what a person sees and a tracker goes on with, which may be refused or not be sent yet.
    "SELECT seq, 'in use' FROM field",
    _LAST_OF_KEY.format(""),
    _LAST_OF_KEY.format(f"AND {ARRIVED}"),
    # An append continues its process's chain; and no rowid is ever given twice only if the highest one stays.
    "SELECT max(seq), 'end of a chain' FROM entry GROUP BY writer_id",
    # max() picks the row of the bare columns: https://sqlite.org/lang_select.html#bareagg
    "SELECT seq, 'end of a chain' FROM (SELECT seq, max(writer_seq) FROM entry GROUP BY writer_id)",
)
_DOUBTFUL: Final = (
    "SELECT e.component_id, e.name FROM delivery d JOIN entry e ON e.seq = d.seq WHERE d.outcome = 'in doubt' AND e.stream = 'metric' "
    "UNION SELECT e.component_id, e.name FROM temp.prune_flying f CROSS JOIN entry e ON e.seq BETWEEN f.first AND f.last "
    f"WHERE e.stream = 'metric' AND {UNSETTLED}"
)


class Doomed(NamedTuple):
    """An entry that goes."""

    seq: int
    writer_id: int
    writer_seq: int
    component_id: int
    kind: str
    name: str | None
    value: float | None
    step: int | None
    timestamp_ns: int
    digest: bytes


@dataclass(slots=True)
class Survey:
    """How many entries go, by component and kind, and how many stay, by reason; of the components that were asked for."""

    goes: dict[tuple[str, str], int] = field(default_factory=dict)
    stays: dict[Reason, int] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """How many go."""
        return sum(self.goes.values())


class Plan:
    """What goes.

    Args:
        journal: Open for reading alone; the decision is in temporary tables of its connection.
        before_ns: What was delivered before then goes, nanoseconds since the epoch.
        component: Shell pattern of component names (case does not matter); None: all.
    """

    def __init__(self, journal: Journal, before_ns: int, component: str | None = None) -> None:
        self._database = database = journal.database
        self._last_seq = journal.last_seq()
        self._before_ns = before_ns
        ids = view.matching(journal, component)
        flying = view.in_flight(database).json
        goes = f"{_REMOVABLE} AND {ARRIVED} AND {self._early}"
        with database.lock, translated(database.path):
            execute = database.connection.execute
            for table in _TABLES:
                execute(f"DROP TABLE IF EXISTS temp.{table.partition(' ')[0]}")
                execute(f"CREATE TEMP TABLE {table}")
            if ids is None:
                execute("INSERT INTO temp.prune_component SELECT id FROM component")
            else:
                execute("INSERT INTO temp.prune_component SELECT value FROM json_each(?)", (ids,))
            execute(
                "INSERT INTO temp.prune_flying SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)", (flying,)
            )
            execute(f"INSERT OR IGNORE INTO temp.prune_doubt {_DOUBTFUL}")
            for query in _KEEP:
                execute(f"INSERT OR IGNORE INTO temp.prune_keep {query}")
            # Uploads of what a reference that stays names: ``show`` has the size from them.
            execute(
                "INSERT OR IGNORE INTO temp.prune_content SELECT e.component_id, json_extract(e.payload, '$.sha256') FROM entry e "
                "LEFT JOIN delivery d ON d.seq = e.seq WHERE e.stream <> 'metric' AND e.kind IN ('input', 'output') AND json_valid(e.payload) "
                f"AND (NOT coalesce({goes}, 0) OR e.seq IN (SELECT seq FROM temp.prune_keep)) AND json_extract(e.payload, '$.sha256') IS NOT NULL"
            )
            execute(
                "INSERT OR IGNORE INTO temp.prune_keep SELECT e.seq, 'in use' FROM entry e WHERE e.stream <> 'metric' AND e.kind = 'upload' "
                "AND json_valid(e.payload) AND EXISTS (SELECT 1 FROM temp.prune_content c WHERE c.component_id = e.component_id "
                "AND c.sha256 = json_extract(e.payload, '$.sha256'))"
            )

    @property
    def _early(self) -> str:
        return f"typeof(d.settled_at_ns) = 'integer' AND d.settled_at_ns < {int(self._before_ns)}"

    @property
    def condition(self) -> str:
        """What goes, as SQL about ``e`` and ``d`` for this connection."""
        return (
            f"e.seq <= {int(self._last_seq)} AND {ARRIVED} AND {self._early} AND {_REMOVABLE} "
            f"AND NOT {_COUNTED} AND e.component_id IN (SELECT id FROM temp.prune_component) AND NOT {_UNCONFIRMED} "
            "AND NOT EXISTS (SELECT 1 FROM temp.prune_keep k WHERE k.seq = e.seq)"
        )

    def keep(self, components: Collection[str]) -> None:
        """Nothing of these goes."""
        with self._database.lock, translated(self._database.path):
            names = json.dumps(list(components))
            sql = "INSERT INTO temp.prune_unconfirmed SELECT id FROM component WHERE name IN (SELECT value FROM json_each(?))"
            self._database.connection.execute(sql, (names,))

    def withhold(self, seqs: Iterable[tuple[int, int]]) -> None:
        """These stay: (first, last) of entries by ``seq``, of which only others say that they were delivered."""
        with self._database.lock, translated(self._database.path):
            self._database.connection.execute(
                "INSERT OR IGNORE INTO temp.prune_keep SELECT e.seq, 'hearsay' FROM json_each(?) i CROSS JOIN entry e "
                "ON e.seq BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')",
                (json.dumps(list(seqs)),),
            )

    def survey(self) -> Survey:
        """One pass over the components' entries."""
        rows = self._database.read(
            "SELECT g.reason, c.name, g.kind, g.entries FROM (SELECT CASE "
            f"WHEN d.seq IS NULL THEN CASE WHEN {_FLYING} THEN 'in flight' ELSE 'pending' END "
            f"WHEN {PROBLEM} THEN d.outcome "
            f"WHEN coalesce(d.outcome NOT IN ('delivered', 'superseded') OR e.kind NOT IN ({_kinds()}), 1) THEN 'of another version' "
            f"WHEN NOT ({self._early}) THEN 'delivered later' "
            "WHEN k.reason IS NOT NULL THEN k.reason "
            f"WHEN NOT {_REMOVABLE} THEN 'of another version' "
            f"WHEN {_COUNTED} THEN 'counted' WHEN {_UNCONFIRMED} THEN 'not confirmed' END AS reason, e.component_id, e.kind, count(*) AS entries "
            "FROM entry e LEFT JOIN delivery d ON d.seq = e.seq LEFT JOIN temp.prune_keep k ON k.seq = e.seq "
            "WHERE e.seq <= ? AND e.component_id IN (SELECT id FROM temp.prune_component) GROUP BY 1, 2, 3) g "
            "JOIN component c ON c.id = g.component_id",
            (self._last_seq,),
        )
        survey = Survey()
        for reason, component, kind, entries in rows:
            if reason is None:
                survey.goes[str(component), str(kind)] = entries
            else:
                survey.stays[reason] = survey.stays.get(reason, 0) + entries
        survey.stays = {reason: survey.stays[reason] for reason in REASONS if reason in survey.stays}
        return survey

    def page(self, after_seq: int, limit: int) -> list[Doomed]:
        """The next entries that go, in order of ``seq``; an empty page is the end."""
        rows = self._database.read_page(
            "SELECT e.seq, e.writer_id, e.writer_seq, e.component_id, e.kind, e.name, e.value, e.step, "
            "coalesce(e.timestamp_ns, e.recorded_at_ns), e.digest FROM entry e JOIN delivery d ON d.seq = e.seq "
            f"WHERE e.seq > ? AND {self.condition} ORDER BY e.seq LIMIT ?",
            (after_seq, limit),
        )
        return [Doomed(*row) for row in rows]


def runs_of(page: list[Doomed]) -> Iterator[tuple[int, int, int, bytes]]:
    """(writer id, first place, last place, digest of the last entry) of each run of neighbours in a writer's chain."""
    open_runs: dict[int, tuple[int, int, bytes]] = {}
    for entry in page:
        run = open_runs.get(entry.writer_id)
        if run is not None and entry.writer_seq == run[1] + 1:
            open_runs[entry.writer_id] = (run[0], entry.writer_seq, entry.digest)
            continue
        if run is not None:
            yield (entry.writer_id, *run)
        open_runs[entry.writer_id] = (entry.writer_seq, entry.writer_seq, entry.digest)
    for writer_id, run in open_runs.items():
        yield (writer_id, *run)


def _kinds() -> str:
    return ", ".join(f"'{kind}'" for kind in sorted(vocabulary.KINDS))
