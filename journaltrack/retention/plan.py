"""Decide what a prune removes from a journal, and remove delivered contents from its spool.

Entries (``Plan``): a prune removes entries that were delivered before the cutoff, except those
that a component still needs: ``docs/retention.md`` has the list, ``_KEEP`` the SQL. The decision
is made once, in temporary tables of one connection, and changes no journal. Invariant: later
entries make nothing removable, so the decision holds while the caller has the lease. Must not know
how entries are removed.

Contents (``removable``, ``remove``, ``make_room``): delivered contents leave the spool, for
``prune`` and for a spool with a limit. Like ``outcomes``, this writes for the reconciling side: it
needs the lease, and must not know remotes, reconciler or tracker. Invariant: no content goes that
an undelivered entry needs, or that a tracker has just spooled and not recorded yet:

- A tracker renews ``blob.spooled_at_ns`` (``Journal.renew_blob``) before a file gets its name in
  the spool. It does so again in the transaction that records the upload.
- A removal is attested first. Then one write transaction checks that time again, and takes the
  file's name away.
- So an upload recorded before is too young to remove. An upload recorded later notices that the
  file is gone (``JournalArtifactUploader.confirm``).
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
from journaltrack.journal import view, vocabulary
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.journal.queries import ARRIVED, IN_DOUBT, PROBLEM, UNSETTLED
from journaltrack.journal.removed import PRUNE
from journaltrack.journal.spool.spool import TEMPORARY, needed_blobs
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.statements import Statement
from journaltrack.replay.lease import acquire
from journaltrack.reports.proof import hearsay
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.journal.journal import Journal

GRACE_S: Final = 600.0
"""Ours: how long a spooled content always stays, since its call may not be recorded yet."""
_AT_A_TIME: Final = 100
"""Ours: names removed in one transaction, which takes a few milliseconds."""
_BUSY_S: Final = 1.0
_DELIVERED: Final = (
    "SELECT b.sha256, b.size_bytes, b.spooled_at_ns "
    "FROM (SELECT l.sha256, max(r.finished_at_ns) AS at_ns FROM location l "
    "JOIN receipt r ON r.id = l.receipt_id WHERE r.outcome = 'delivered' GROUP BY l.sha256) u "
    "JOIN blob b ON b.sha256 = u.sha256 WHERE u.at_ns < ? AND typeof(b.size_bytes) = 'integer' "
    "AND typeof(b.spooled_at_ns) = 'integer' AND b.spooled_at_ns < ? "
    "ORDER BY b.spooled_at_ns, b.sha256"
)

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
    "not told",
    "hearsay",
    "local",
    "of another version",
]
REASONS: Final[dict[Reason, str]] = {
    "pending": "not sent yet",
    "in flight": "sent, and the answer is not recorded",
    "in doubt": "sent, and the answer was lost",
    "quarantined": "refused: `journaltrack audit` says why, and whether `journaltrack retry` helps",
    "delivered later": "delivered, but not before the given time",
    "in use": "delivered, and needed to continue and show the component",
    "counted": "delivered points of metrics with others in doubt: reading back needs them",
    "end of a chain": "delivered, and the last entry of a process: its chain continues there",
    "not confirmed": "delivered, but the remote lacks part of it now, see `journaltrack "
    "check --remote`",
    "not told": "delivered, but the remote does not tell now whether all of it is there: try later",
    "hearsay": "only others say that they delivered them: `--trust` names whom you believe",
    "local": "recorded to stay in the journal: nothing of them is at the remote",
    "of another version": "of kinds or outcomes that this version does not know",
}
"""Why entries stay, for a person."""
_REMOVABLE: Final = (
    "(e.stream = 'metric' AND e.kind = 'metric' AND typeof(e.value) = 'real' "
    "AND typeof(e.name) = 'text' "
    "OR e.stream = 'component' AND e.kind IN ('parameter', 'input', 'output') "
    "OR e.stream = 'upload' AND e.kind = 'upload')"
)
_COUNTED: Final = (
    "(e.stream = 'metric' AND EXISTS (SELECT 1 FROM temp.prune_doubt q "
    "WHERE q.component_id = e.component_id AND q.name = e.name))"
)
_UNCONFIRMED: Final = "e.component_id IN (SELECT id FROM temp.prune_unconfirmed)"
_UNCONFIRMED_REASON: Final = (
    "(SELECT reason FROM temp.prune_unconfirmed u WHERE u.id = e.component_id)"
)
_FLYING: Final = "EXISTS (SELECT 1 FROM temp.prune_flying f WHERE e.seq BETWEEN f.first AND f.last)"
_TABLES: Final = (
    "prune_keep (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL)",
    "prune_component (id INTEGER PRIMARY KEY)",
    "prune_doubt (component_id INTEGER, name TEXT, PRIMARY KEY (component_id, name)) WITHOUT ROWID",
    "prune_unconfirmed (id INTEGER PRIMARY KEY, reason TEXT NOT NULL)",
    "prune_flying (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    (
        "prune_content (component_id INTEGER, sha256 TEXT, PRIMARY KEY (component_id, sha256)) "
        "WITHOUT ROWID"
    ),
)
_LAST_OF_KEY: Final = (
    "SELECT max(e.seq), 'in use' FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
    "WHERE e.stream <> 'metric' AND e.kind IN ('parameter', 'input', 'output') {0} "
    "GROUP BY e.component_id, e.kind, e.name"
)
_KEEP: Final = (
    # A component's creation and associations; experiments, trials, tags and every status, since
    # each may tell only a part; labels, which tags may replace, and which may replace tags;
    # lineage, of which no key says which entry is the last; notes, which are nowhere else; git's
    # diffs, which say which code ran.
    (
        "SELECT seq, 'in use' FROM entry WHERE stream <> 'metric' AND kind IN ('create', 'load', "
        "'associate', 'disassociate', 'experiment', 'trial', 'tags', 'label', 'note', 'status', "
        "'lineage')"
    ),
    f"SELECT seq, 'in use' FROM entry WHERE stream = 'upload' AND name = '{DIFF_NAME}'",
    # The remote's values, then the last recorded ones, which may be refused or pending. A person
    # sees the latter, and a tracker continues from them.
    "SELECT seq, 'in use' FROM field",
    _LAST_OF_KEY.format(""),
    _LAST_OF_KEY.format(f"AND {ARRIVED}"),
    # An append continues its process's chain. SQLite never reuses a rowid if the highest one stays.
    "SELECT max(seq), 'end of a chain' FROM entry GROUP BY writer_id",
    # max() picks the row of the bare columns: https://sqlite.org/lang_select.html#bareagg
    "SELECT seq, 'end of a chain' FROM (SELECT seq, max(writer_seq) FROM entry GROUP BY writer_id)",
)
_DOUBTFUL: Final = (
    "SELECT e.component_id, e.name FROM delivery d JOIN entry e ON e.seq = d.seq "
    f"WHERE {IN_DOUBT} AND e.stream = 'metric' UNION SELECT e.component_id, e.name "
    "FROM temp.prune_flying f CROSS JOIN entry e ON e.seq BETWEEN f.first AND f.last "
    f"WHERE e.stream = 'metric' AND {UNSETTLED}"
)


class Content(NamedTuple):
    """A content of the spool, as recorded."""

    sha256: str
    size_bytes: int
    spooled_at_ns: int


def removable(database: Database, before_ns: int, now_ns: int) -> list[Content]:
    """Return contents that can leave the spool, the oldest first.

    Args:
        database: The journal's.
        before_ns: All uploads of a content must be delivered before this time.
        now_ns: The current time.
    """
    found = delivered(database, before_ns, now_ns)
    return [each for each in found if not is_recent(each, now_ns)]


def is_recent(content: Content, now_ns: int) -> bool:
    """Return whether a content was spooled in the last ``GRACE_S``: it stays."""
    return content.spooled_at_ns >= now_ns - int(GRACE_S * 1e9)


def delivered(database: Database, before_ns: int, now_ns: int) -> list[Content]:
    """Return contents that nobody waits for, however recent. The arguments are ``removable``'s."""
    wanted = needed_blobs(database)
    spool = database.path.parent / paths.SPOOL
    rows = database.read(_DELIVERED, (before_ns, now_ns))
    found = [Content(*row) for row in rows if is_digest(row[0]) and row[0] not in wanted]
    return [each for each in found if os.path.lexists(spool / each.sha256[:2] / each.sha256)]


def remove(attestor: Attestor, contents: Sequence[Content], started_at_ns: int) -> list[Content]:
    """Remove contents from the spool. Return those that are gone.

    Args:
        attestor: Holds the lease.
        contents: Contents from ``removable``.
        started_at_ns: When the prune began. All its attestations share this time.
    """
    gone = []
    for start in range(0, len(contents), _AT_A_TIME):
        some = contents[start : start + _AT_A_TIME]
        with attestor.transaction() as connection:
            chosen = _still_removable(connection, some)
            attestor.attest(
                connection, [_statement(attestor, chosen, started_at_ns)] if chosen else []
            )
        # After a loss of power, no file may be gone without its record.
        attestor.database.sync()
        with _folder(attestor.database.path.parent / paths.SPOOL) as spool:
            aside = []
            with attestor.transaction() as connection:
                for content in _still_removable(connection, chosen):
                    name = None if spool is None else _taken(spool, content.sha256)
                    if name is not None:
                        aside.append(name)
                        gone.append(content)
            # Outside the transaction: unlinking a file of many gigabytes takes long.
            for name in aside:
                os.unlink(name, dir_fd=spool)
    return gone


def make_room(
    folder: Path, wanted_bytes: int, *, clock_ns: Callable[[], int] = time.time_ns
) -> int:
    """Remove delivered contents from a journal's spool, the oldest first, to free some bytes.

    Contents stay if only other copies say that they were uploaded. Does not wait: while another
    process holds the lease, nothing is removed.

    Returns:
        The number of freed bytes.
    """
    with contextlib.closing(Database(folder / paths.DATABASE, busy_timeout_s=_BUSY_S)) as database:
        try:
            lease = acquire(database, clock_ns=clock_ns)
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
    """Return the contents that no tracker has spooled again since."""
    rows = connection.execute(
        "SELECT b.sha256, b.spooled_at_ns FROM blob b WHERE b.sha256 IN (SELECT value "
        "FROM json_each(?))",
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
        more={
            "blobs": [content.sha256 for content in contents],
            "blob_bytes": sum(content.size_bytes for content in contents),
        },
    )


@contextlib.contextmanager
def _folder(spool: Path) -> Iterator[int | None]:
    """Open the spool and yield its descriptor, or None if it is not a folder."""
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
    """Rename a blob to a temporary file, which a kill may leave behind.

    Returns:
        The new name. None if the blob is missing, or behind a link.
    """
    name = f"{TEMPORARY}{uuid.uuid4().hex}"
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        parent = os.open(sha256[:2], flags, dir_fd=spool)
        try:
            os.rename(sha256, name, src_dir_fd=parent, dst_dir_fd=spool)
        finally:
            os.close(parent)
    except OSError:
        return None
    return name


class Doomed(NamedTuple):
    """An entry to remove."""

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
    """How many entries of the chosen components go, and how many stay.

    Attributes:
        goes: By component and kind.
        stays: By reason.
    """

    goes: dict[tuple[str, str], int] = field(default_factory=dict)
    stays: dict[Reason, int] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        """Return how many entries go."""
        return sum(self.goes.values())


class Plan:
    """The entries to remove.

    Args:
        journal: A journal open for reading only. Temporary tables of its connection hold the
            decision.
        before_ns: Entries delivered before this time go, nanoseconds since the epoch.
        component: Shell pattern of component names (case does not matter). None: all.
    """

    def __init__(self, journal: Journal, before_ns: int, component: str | None = None) -> None:
        self._database = database = journal.database
        self._last_seq = journal.last_seq()
        self._before_ns = before_ns
        ids = view.matching(journal, component)
        in_flight = view.in_flight(database).json
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
                "INSERT INTO temp.prune_flying "
                "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') "
                "FROM json_each(?)",
                (in_flight,),
            )
            execute(f"INSERT OR IGNORE INTO temp.prune_doubt {_DOUBTFUL}")
            for query in _KEEP:
                execute(f"INSERT OR IGNORE INTO temp.prune_keep {query}")
            # Uploads that a remaining reference names: ``show`` takes the size from them.
            execute(
                "INSERT OR IGNORE INTO temp.prune_content "
                "SELECT e.component_id, json_extract(e.payload, '$.sha256') FROM entry e "
                "LEFT JOIN delivery d ON d.seq = e.seq WHERE e.stream <> 'metric' "
                "AND e.kind IN ('input', 'output') AND json_valid(e.payload) "
                f"AND (NOT coalesce({goes}, 0) OR e.seq IN (SELECT seq FROM temp.prune_keep)) "
                "AND json_extract(e.payload, '$.sha256') IS NOT NULL"
            )
            execute(
                "INSERT OR IGNORE INTO temp.prune_keep SELECT e.seq, 'in use' FROM entry e "
                "WHERE e.stream <> 'metric' AND e.kind = 'upload' AND json_valid(e.payload) "
                "AND EXISTS (SELECT 1 FROM temp.prune_content c "
                "WHERE c.component_id = e.component_id "
                "AND c.sha256 = json_extract(e.payload, '$.sha256'))"
            )

    @property
    def _early(self) -> str:
        return f"typeof(d.settled_at_ns) = 'integer' AND d.settled_at_ns < {int(self._before_ns)}"

    @property
    def condition(self) -> str:
        """Return which entries to remove, as SQL about ``e`` and ``d`` on this connection."""
        return (
            f"e.seq <= {int(self._last_seq)} AND {ARRIVED} "
            f"AND {self._early} AND {_REMOVABLE} AND NOT {_COUNTED} "
            f"AND e.component_id IN (SELECT id FROM temp.prune_component) AND NOT {_UNCONFIRMED} "
            "AND NOT EXISTS (SELECT 1 FROM temp.prune_keep k WHERE k.seq = e.seq)"
        )

    def keep(self, components: Collection[str], reason: Reason) -> None:
        """Keep all entries of these components."""
        with self._database.lock, translated(self._database.path):
            names = json.dumps(list(components))
            sql = (
                "INSERT INTO temp.prune_unconfirmed SELECT id, :reason FROM component "
                "WHERE name IN (SELECT value FROM json_each(:names))"
            )
            self._database.connection.execute(sql, {"names": names, "reason": reason})

    def withhold(self, seqs: Iterable[tuple[int, int]]) -> None:
        """Keep entries that only others say were delivered.

        Args:
            seqs: Intervals (first, last) of ``seq``.
        """
        with self._database.lock, translated(self._database.path):
            self._database.connection.execute(
                "INSERT OR IGNORE INTO temp.prune_keep SELECT e.seq, 'hearsay' "
                "FROM json_each(?) i CROSS JOIN entry e ON e.seq BETWEEN json_extract(i.value, "
                "'$[0]') AND json_extract(i.value, '$[1]')",
                (json.dumps(list(seqs)),),
            )

    def survey(self) -> Survey:
        """Count what goes and what stays, in one scan of the components' entries."""
        rows = self._database.read(
            "SELECT g.reason, c.name, g.kind, g.entries FROM (SELECT CASE "
            f"WHEN d.seq IS NULL THEN CASE WHEN {_FLYING} THEN 'in flight' ELSE 'pending' END "
            f"WHEN {PROBLEM} THEN d.outcome "
            f"WHEN coalesce(NOT {ARRIVED} "
            f"OR e.kind NOT IN ({_kinds()}), 1) THEN 'of another version' "
            f"WHEN e.kind = '{vocabulary.LOCAL}' THEN 'local' "
            f"WHEN NOT ({self._early}) THEN 'delivered later' "
            "WHEN k.reason IS NOT NULL THEN k.reason "
            f"WHEN NOT {_REMOVABLE} THEN 'of another version' WHEN {_COUNTED} THEN 'counted' "
            f"ELSE {_UNCONFIRMED_REASON} END AS reason, e.component_id, e.kind, "
            "count(*) AS entries FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
            "LEFT JOIN temp.prune_keep k ON k.seq = e.seq WHERE e.seq <= ? "
            "AND e.component_id IN (SELECT id FROM temp.prune_component) GROUP BY 1, 2, 3) g "
            "JOIN component c ON c.id = g.component_id",
            (self._last_seq,),
        )
        survey = Survey()
        for reason, component, kind, entries in rows:
            if reason is None:
                survey.goes[str(component), str(kind)] = entries
            else:
                survey.stays[reason] = survey.stays.get(reason, 0) + entries
        survey.stays = {
            reason: survey.stays[reason] for reason in REASONS if reason in survey.stays
        }
        return survey

    def page(self, after_seq: int, limit: int) -> list[Doomed]:
        """Return the next entries to remove, in order of ``seq``. An empty page is the end."""
        rows = self._database.read_page(
            "SELECT e.seq, e.writer_id, e.writer_seq, e.component_id, e.kind, e.name, e.value, "
            "e.step, coalesce(e.timestamp_ns, e.recorded_at_ns), e.digest FROM entry e "
            f"JOIN delivery d ON d.seq = e.seq WHERE e.seq > ? AND {self.condition} "
            "ORDER BY e.seq LIMIT ?",
            (after_seq, limit),
        )
        return [Doomed(*row) for row in rows]


def runs_of(page: list[Doomed]) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield each run of neighbours in a writer's chain.

    A run is: writer id, first place, last place, digest of the last entry.
    """
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
