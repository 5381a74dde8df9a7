"""The journal's files were deleted, moved or replaced while this process has them open.

SQLite goes on writing to what it has open: into files that no longer have a name, if they were deleted, where everything
ends with the process. So an open journal looks now and then whether its path still names what it writes to, and if not,
this module saves what is there: through the open connection everything ever committed can still be read.

- Moved (``mv``): the files are somewhere else, whole; logging goes on there.
- Deleted (``rm -r``, a clean-up job): everything is written to a new database under the old name.
- Deleted, and another journal is there now: to a new journal beside it, ``<name>.rescued-<number>``.
- Only the log is gone: what it held is written into the database.

The chains need no care, since entries are copied as they are. What only waits in memory, because the journal's disk refuses,
goes into a journal of its own elsewhere (``keep_elsewhere``), which `journaltrack merge` brings back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from journaltrack.errors import JournalError, JournalWriteError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal import opening
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.entries import Draft
    from journaltrack.journal.sqlite.connection import Database

logger = logging.getLogger(__name__)

_SIBLINGS_MAX: Final = 1_000
_NUMBERED: Final = {"writer": "uuid", "component": "name", "receipt": "action || ' ' || started_at_ns"}
"""Tables whose rows have numbers of this copy alone, and what a number means."""
_LOCK_FILE: Final = "rescue.lock"


def rescue(database: Database) -> tuple[Path, str]:
    """Save what the open connection can still read, and connect to where it is now.

    Hold ``database.lock``; no transaction may be open.

    Returns:
        The journal's folder, which may be another one than before, and what to tell the user.

    Raises:
        JournalWriteError: It can't be written anywhere; the open connection is kept.
    """
    before = database.path
    try:
        place = database.place_now()
        if place == before:
            with database.patience():
                database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.rest()
            return before.parent, (
                f"the write-ahead log of the journal at {before.parent} was deleted while it was in use; what it held was saved"
            )
        if place is not None and place.name == before.name:
            database.move_to(place)
            return place.parent, (
                f"the journal at {before.parent} was moved to {place.parent} while it was in use; what is logged goes there now"
            )
        folder = _write_again(database)
    except (OSError, sqlite3.Error) as error:
        raise JournalWriteError(
            f"the journal at {before.parent} was deleted while it was in use, and can't be written again: {error}. "
            "What was recorded in it is lost when this process ends",
            hint="make its folder writable before that: this process still holds everything, and tries again",
        ) from error
    database.move_to(folder / before.name)
    return folder, (
        f"the journal at {before.parent} was deleted while it was in use; all that was recorded in it was written again to {folder}. "
        "Artifacts of its spool that were not delivered are lost unless they are logged again"
    )


def keep_elsewhere(folder: Path, journal_id: str, calls: Sequence[tuple[str | None, Sequence[Draft]]], copy: Path | None) -> Path | None:
    """Write calls that wait in memory into a journal of their own, on another disk if there is one.

    Args:
        folder: Of the journal that does not take them.
        journal_id: Of that journal.
        calls: Component and drafts of each.
        copy: An earlier copy, which this one replaces.

    Returns:
        Where they are; None: no place takes them.
    """
    from journaltrack.journal.journal import Journal  # noqa: PLC0415 - a journal opens with what this module is for

    if copy is not None:
        shutil.rmtree(copy, ignore_errors=True)
    name = f"unwritten-{folder.name}-{journal_id[:8]}-{os.getpid()}"
    for parent in (paths.home(), Path(tempfile.gettempdir()) / "journaltrack", Path.cwd()):
        place = parent / name
        try:
            with closing(Journal.open(place, durability="power", on_journal_error="raise")) as journal:
                known: set[int] = set()
                for component, drafts in calls:
                    if component is None:
                        continue
                    component_id = journal.component(component)
                    first = () if component_id in known else (vocabulary.load(),)
                    known.add(component_id)
                    journal.append(component_id, [*first, *drafts])
        except (JournalError, OSError) as error:
            logger.debug("what waits in memory can't be kept in %s: %s", place, error)
            shutil.rmtree(place, ignore_errors=True)
        else:
            return place
    return None


def _write_again(database: Database) -> Path:
    """A copy of the deleted journal under its old name, or beside it; or what is missing in the copy that another process made."""
    path = database.path
    (journal_id,) = database.connection.execute("SELECT journal_id FROM meta").fetchone()
    for folder in (path.parent, *(path.parent.with_name(f"{path.parent.name}.rescued-{n}") for n in range(1, _SIBLINGS_MAX))):
        if os.path.lexists(folder) and not folder.is_dir():
            continue  # somebody put a file in its place
        opening.make_folder(folder)
        with _alone_in(folder):
            if not os.path.lexists(folder / path.name):
                _copy(database, folder / path.name)
                return folder
            if _journal_id(folder / path.name) == journal_id and _add_missing(database.connection, folder / path.name):
                return folder
    msg = f"all names beside {path.parent} are taken"
    raise OSError(msg)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of several processes that had the deleted journal open, one makes the copy and the others find it."""
    descriptor = os.open(folder / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(database: Database, path: Path) -> None:
    (path.parent / paths.SPOOL).mkdir(mode=0o700, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed, and had this number
    with paths.whole(path, partial):
        write_copy(database.connection, partial)
        for suffix in ("-wal", "-shm", "-journal"):  # the deleted one's: SQLite would take them for the new one's
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _journal_id(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as other:
            return str(other.execute("SELECT journal_id FROM meta").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None


def _add_missing(old: sqlite3.Connection, path: Path) -> bool:
    """Add what was committed to the deleted files after another process had copied them.

    Returns:
        Whether it could be done: not where a number means one thing here and another there, since an older copy was put into
        the place, or others have begun something new in it. Nothing is changed then.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as new:
        new.execute("BEGIN IMMEDIATE")
        for table, what in _NUMBERED.items():
            sql = f"SELECT id, {what} FROM {table}"
            known = dict(new.execute(sql).fetchall())
            places = {name: number for number, name in known.items()}
            for number, name in old.execute(sql):
                if known.get(number, name) != name or places.get(name, number) != number:
                    new.execute("ROLLBACK")
                    return False
        if not _same_order(old, new):
            new.execute("ROLLBACK")
            return False
        for table in _NUMBERED:
            last = {number for (number,) in new.execute(f"SELECT id FROM {table}")}
            rows = [row for row in old.execute(f"SELECT * FROM {table}") if row[0] not in last]
            _insert(new, table, rows)
            if table == "receipt":
                for receipt_id, *_ in rows:
                    _insert(
                        new, "delivery", old.execute("SELECT * FROM delivery WHERE receipt_id = ?", (receipt_id,)).fetchall(), "OR IGNORE"
                    )
                    _insert(new, "attestation", old.execute("SELECT * FROM attestation WHERE receipt_id = ?", (receipt_id,)).fetchall())
        ends = dict(new.execute("SELECT writer_id, max(writer_seq) FROM entry GROUP BY writer_id"))
        for writer_id, seq in old.execute("SELECT writer_id, max(writer_seq) FROM entry GROUP BY writer_id").fetchall():
            sql = "SELECT * FROM entry WHERE writer_id = ? AND writer_seq > ? ORDER BY seq"
            if seq > ends.get(writer_id, 0):
                _insert(new, "entry", [(None, *row[1:]) for row in old.execute(sql, (writer_id, ends.get(writer_id, 0)))])
        _insert(new, "blob", old.execute("SELECT * FROM blob").fetchall(), "OR IGNORE")
        new.execute("COMMIT")
        return True


def _same_order(old: sqlite3.Connection, new: sqlite3.Connection) -> bool:
    """Return whether what became of entries means the same there: it names them by their numbers."""
    (missing,) = old.execute("SELECT max(id) FROM receipt").fetchone()
    (there,) = new.execute("SELECT max(id) FROM receipt").fetchone()
    if (missing or 0) <= (there or 0):
        return True
    (last,) = new.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
    sql = "SELECT digest FROM entry WHERE seq = ?"
    return bool(old.execute(sql, (last,)).fetchone() == new.execute(sql, (last,)).fetchone())


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[object]], conflict: str = "") -> None:
    if rows:
        connection.executemany(f"INSERT {conflict} INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
