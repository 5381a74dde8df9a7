"""Save a journal whose files were deleted, moved or replaced while they are open.

SQLite continues to write to the files that it has open. Deleted files have no name, and everything
in them ends with the process. So an open journal checks from time to time that its path still names
the files that it writes to. If not, this module saves the entries: the open connection can still
read everything that was committed.

- Moved (``mv``): the files are complete elsewhere. Logging continues there.
- Deleted (``rm -r``, a clean-up job): all is written to a new database under the old name.
- Deleted, and another journal is there now: all is written to a new journal beside it,
  ``<name>.rescued-<number>``.
- Only the log was deleted: its content is written into the database.

Entries are copied unchanged, so their chains stay valid. Entries that wait in memory, because the
journal's disk refuses them, go into another journal elsewhere (``keep_elsewhere``).
`journaltrack merge` brings them back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from journaltrack.errors import JournalError, JournalWriteError
from journaltrack.journal import first_steps, vocabulary
from journaltrack.journal.sqlite.copies import write_copy
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.journal.vocabulary import Draft

logger = logging.getLogger(__name__)

_SIBLINGS_MAX: Final = 1_000
_NUMBERED: Final = {
    "writer": "uuid",
    "component": "name",
    "receipt": "action || ' ' || started_at_ns",
}
"""Tables whose ids are valid only in one copy, and what identifies their rows in all."""
_LOCK_FILE: Final = "rescue.lock"


def rescue(database: Database) -> str:
    """Save what the open connection can still read, and connect to the saved files.

    Hold ``database.lock``, with no transaction open.

    Returns:
        A message for the user. ``database.path`` says where the journal is now.

    Raises:
        JournalWriteError: It can't be written anywhere. The open connection is kept.
    """
    before = database.path
    try:
        place = database.place_now()
        if place == before:
            with database.patience():
                database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.rest()
            return (
                f"the write-ahead log of the journal at {before.parent} was deleted while it was "
                "in use; its entries were saved, nothing is lost"
            )
        if place is not None and place.name == before.name:
            database.move_to(place)
            return (
                f"the journal at {before.parent} was moved to {place.parent} while it was in use; "
                "calls are recorded there from now on, nothing is lost"
            )
        folder = _write_again(database)
    except (OSError, sqlite3.Error) as error:
        raise JournalWriteError(
            f"the journal at {before.parent} was deleted while it was in use, and can't be "
            f"written again: {error}. Its entries are lost when this process ends",
            hint="make its folder writable before: this process has all entries, and tries again",
        ) from error
    database.move_to(folder / before.name)
    return (
        f"the journal at {before.parent} was deleted while it was in use; all its entries were "
        f"written again to {folder}. Log its undelivered artifacts again: their contents are lost"
    )


def keep_elsewhere(
    folder: Path,
    journal_id: str,
    calls: Sequence[tuple[str | None, Sequence[Draft]]],
    copy: Path | None,
) -> Path | None:
    """Write calls that wait in memory into another journal, on another disk.

    If there is no other disk, it is another folder.

    Args:
        folder: The folder of the journal that refuses them.
        journal_id: That journal's identity.
        calls: Component and drafts of each call.
        copy: An earlier copy, which this one replaces.

    Returns:
        The other journal's folder; None if no place accepts it.
    """
    import shutil  # noqa: PLC0415 - a tenth of the time of a start
    import tempfile  # noqa: PLC0415 - as above

    # Imported here, because ``journal`` imports this module.
    from journaltrack.journal.journal import Journal  # noqa: PLC0415

    if copy is not None:
        shutil.rmtree(copy, ignore_errors=True)
    name = f"unwritten-{folder.name}-{journal_id[:8]}-{os.getpid()}"
    for parent in (paths.home(), Path(tempfile.gettempdir()) / "journaltrack", Path.cwd()):
        place = parent / name
        try:
            with closing(
                Journal.open(place, durability="power", on_journal_error="raise")
            ) as journal:
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
    """Write the deleted journal again under its old name, or beside it.

    If another process wrote a copy already, add what is missing there.

    Returns:
        The folder of the copy.
    """
    path = database.path
    (journal_id,) = database.connection.execute("SELECT journal_id FROM meta").fetchone()
    for folder in (
        path.parent,
        *(
            path.parent.with_name(f"{path.parent.name}.rescued-{n}")
            for n in range(1, _SIBLINGS_MAX)
        ),
    ):
        if os.path.lexists(folder) and not folder.is_dir():
            # A file is in its place.
            continue
        first_steps.make_folder(folder)
        with _alone_in(folder):
            if not os.path.lexists(folder / path.name):
                _copy(database, folder / path.name)
                return folder
            if _journal_id(folder / path.name) == journal_id and _add_missing(
                database.connection, folder / path.name
            ):
                return folder
    msg = f"all names beside {path.parent} are taken"
    raise OSError(msg)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder, so that only one process makes the copy.

    Other processes that had the deleted journal open then find the copy.
    """
    descriptor = os.open(
        folder / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(database: Database, path: Path) -> None:
    (path.parent / paths.SPOOL).mkdir(mode=0o700, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    # Left by a killed process that had this pid.
    partial.unlink(missing_ok=True)
    with paths.whole(path, partial):
        write_copy(database.connection, partial)
        # They belong to the deleted database, and SQLite would use them for the new one.
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _journal_id(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as other:
            return str(other.execute("SELECT journal_id FROM meta").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None


def _add_missing(old: sqlite3.Connection, path: Path) -> bool:
    """Add what was committed to the deleted files after their copy was made.

    Returns:
        Whether that was possible. It is not if an id means different things in both: the place has
        an older copy, or others already recorded something new there. Then nothing is changed.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as new:
        new.execute("BEGIN IMMEDIATE")
        if not _same_numbers(old, new) or not _same_order(old, new):
            new.execute("ROLLBACK")
            return False
        for table in _NUMBERED:
            last = {number for (number,) in new.execute(f"SELECT id FROM {table}")}
            rows = [row for row in old.execute(f"SELECT * FROM {table}") if row[0] not in last]
            _insert(new, table, rows)
            if table == "receipt":
                for receipt_id, *_ in rows:
                    for follower, conflict in (("delivery", "OR IGNORE"), ("attestation", "")):
                        sql = f"SELECT * FROM {follower} WHERE receipt_id = ?"
                        _insert(new, follower, old.execute(sql, (receipt_id,)).fetchall(), conflict)
        ends = dict(new.execute("SELECT writer_id, max(writer_seq) FROM entry GROUP BY writer_id"))
        sql = "SELECT writer_id, max(writer_seq) FROM entry GROUP BY writer_id"
        for writer_id, seq in old.execute(sql).fetchall():
            end = ends.get(writer_id, 0)
            sql = "SELECT * FROM entry WHERE writer_id = ? AND writer_seq > ? ORDER BY seq"
            if seq > end:
                _insert(
                    new, "entry", [(None, *row[1:]) for row in old.execute(sql, (writer_id, end))]
                )
        _insert(new, "blob", old.execute("SELECT * FROM blob").fetchall(), "OR IGNORE")
        new.execute("COMMIT")
        return True


def _same_numbers(old: sqlite3.Connection, new: sqlite3.Connection) -> bool:
    """Return whether no id of a writer, component or receipt means different rows."""
    for table, what in _NUMBERED.items():
        sql = f"SELECT id, {what} FROM {table}"
        known = dict(new.execute(sql).fetchall())
        places = {name: number for number, name in known.items()}
        for number, name in old.execute(sql):
            if known.get(number, name) != name or places.get(name, number) != number:
                return False
    return True


def _same_order(old: sqlite3.Connection, new: sqlite3.Connection) -> bool:
    """Return whether missing receipts would mean the same there.

    Receipts name entries by ``seq``, so the entries must have the same order.
    """
    (missing,) = old.execute("SELECT max(id) FROM receipt").fetchone()
    (there,) = new.execute("SELECT max(id) FROM receipt").fetchone()
    if (missing or 0) <= (there or 0):
        return True
    (last,) = new.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()
    sql = "SELECT digest FROM entry WHERE seq = ?"
    return bool(old.execute(sql, (last,)).fetchone() == new.execute(sql, (last,)).fetchone())


def _insert(
    connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[object]], conflict: str = ""
) -> None:
    if rows:
        connection.executemany(
            f"INSERT {conflict} INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows
        )
