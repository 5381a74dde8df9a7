"""Contents that are delivered leave the spool, on the record: for ``prune``, and for a spool that has a limit.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack.errors import LeaseHeldError
from journaltrack.journal.removed import PRUNE
from journaltrack.journal.spool import use
from journaltrack.journal.spool.spool import TEMPORARY
from journaltrack.journal.sqlite.connection import Database
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.statements import Statement
from journaltrack.reports.proof import hearsay
from journaltrack.util import paths
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    import sqlite3

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
    wanted = use.needed(database)
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
