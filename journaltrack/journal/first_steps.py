"""Take the first steps with a journal's folder: create, recognize, upgrade.

Must not know what is appended to it or read from it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from journaltrack._version import __version__
from journaltrack.errors import (
    InvalidInputError,
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalNotFoundError,
    JournalOutdatedError,
    JournalReadOnlyError,
    JournalWriteError,
    NotAJournalError,
    os_hint,
)
from journaltrack.journal.schema import check, schema
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated, unusable
from journaltrack.util import paths

logger = logging.getLogger(__name__)


def prepare(folder: Path, file: Path, *, create: bool) -> None:
    """Make sure that the database file exists, with permissions only for its owner.

    Raises:
        NotAJournalError: The folder is a file.
        JournalNotFoundError: There is no journal, and ``create`` is false.
        JournalFullError, JournalReadOnlyError: It can't be created.
        JournalWriteError: This process has too many files open.
    """
    if _is_there(folder, file):
        # Opening it looks at what the files are.
        return
    if folder.exists() and not folder.is_dir():
        raise a_file(folder)
    files.check_files(folder)
    if not create:
        raise JournalNotFoundError(f"there is no journal at {folder}", hint=_where_else(folder))
    own = unusable(file)
    if own is not None:
        raise own
    try:
        make_folder(folder)
        (folder / paths.SPOOL).mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        paths.fsync(folder)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise JournalFullError(
                f"no journal can be made at {folder}: {error.strerror}",
                hint="free space on that device",
            ) from error
        raise JournalReadOnlyError(
            f"no journal can be made at {folder}: {error.strerror}",
            hint="set JOURNALTRACK_HOME or journal= to a folder that you can write to",
        ) from error


def _where_else(folder: Path) -> str:
    """Return what to do where a journal is missing."""
    if paths.is_mirror(folder):
        return (
            "it is a mirror: commands and journaltrack.runs() take it; other functions take a copy "
            f"of it, which `journaltrack runs {folder} --columns journal` makes and names"
        )
    from journaltrack.util import config  # noqa: PLC0415 - for this hint alone

    mirror = None
    with contextlib.suppress(InvalidInputError):
        mirror = config.current().mirror
    if mirror is not None and paths.is_mirror(paths.expanded(mirror)):
        return f"to see what machines have mirrored, name the mirror in its place: {mirror}"
    return "check the path; a training script's first Tracker.create() makes the journal"


def _is_there(folder: Path, file: Path) -> bool:
    """Return whether the database is there, in a folder of a name that is possible.

    Raises:
        JournalNotFoundError: The name is too long.
        JournalReadOnlyError: This user may not look there, or the file system does not answer. So
            nothing is known of a journal there.
        InvalidInputError: The name has a character that no path has.
    """
    try:
        os.lstat(file)
    except ValueError as error:
        raise InvalidInputError(
            f"{folder} is no path: {error}", hint="name the journal's folder"
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise JournalNotFoundError(
                f"there can be no journal at {folder}: {error.strerror}",
                hint="name a folder with a shorter path",
            ) from error
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise JournalReadOnlyError(
                f"the journal at {folder} can't be read: {error.strerror}; no changes were made",
                hint=os_hint(error),
            ) from error
        return False
    return True


def a_file(path: Path) -> NotAJournalError:
    """Return the error for a file where a journal's folder should be."""
    hint = "name the folder, not the journal.db in it"
    if _is_bundle(path):
        hint = "it is a bundle: deliver it with `journaltrack sync`, or look with `bundle --check`"
    return NotAJournalError(f"{path} is a file; a journal is a folder", hint=hint)


def _is_bundle(file: Path) -> bool:
    """Return whether a file starts like a bundle."""
    name = paths.BUNDLE_MANIFEST.encode()
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, len(name)) == name
        finally:
            os.close(descriptor)
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and sync their names to the disk."""
    if folder.exists():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    paths.fsync(folder.parent)


@contextlib.contextmanager
def recognizing_newer(file: Path) -> Iterator[None]:
    """Report a newer journaltrack's journal as such where SQLite reports damage."""
    try:
        yield
    except JournalCorruptError as error:
        newer = check.newer_schema(file)
        if newer is None:
            raise
        raise newer from error


def bring_up_to_date(
    database: Database, clock_ns: Callable[[], int], *, create: bool, appending: bool = False
) -> str:
    """Create the schema of an empty database, upgrade an older, refuse a newer one.

    An upgrade makes a backup first. An older journal that is open read-only stays unchanged: a
    private copy is upgraded and read instead.

    Args:
        database: The journal's database.
        clock_ns: Returns nanoseconds since the epoch.
        create: Create the schema if the database is empty.
        appending: The journal is only appended to. If an older one can't be upgraded now, use it as
            it is.

    Returns:
        The schema revision that the database has now.

    Raises:
        JournalNotFoundError: The database is empty, and ``create`` is false.
        JournalTooNewError, JournalOutdatedError, NotAJournalError: See ``Journal.open``.
    """
    writing = not database.read_only
    with database.lock, translated(database.path):
        current = check.revision(database.connection, database.path, writing=writing)
    if writing and (create or current is not None):
        database.choose_log()
    if current is None:
        if not create:
            raise JournalNotFoundError(
                f"the journal at {database.path.parent} is empty",
                hint="check the path: nothing was ever recorded in it",
            )
        with database.lock, translated(database.path):
            schema.create(
                database.connection,
                journal_id=str(uuid.uuid4()),
                now_ns=clock_ns(),
                version=__version__,
            )
        current = schema.HEAD
    elif current != schema.HEAD and writing:
        current = _upgrade(database, current, clock_ns(), appending=appending)
    elif current != schema.HEAD:
        current = read_upgraded(database, current)
    with database.lock, translated(database.path):
        check.check_records(database.connection, database.path)
    if writing:
        files.warn_if_exposed(database.path.parent)
    return current


def _upgrade(database: Database, current: str, now_ns: int, *, appending: bool) -> str:
    try:
        # Imported here, because SQLAlchemy and Alembic take 0.6 s.
        from journaltrack.journal.schema import migrate  # noqa: PLC0415

        # The upgrade has a connection of its own.
        database.make_way()
        with translated(database.path):
            migrate.upgrade(database.path, current, now_ns=now_ns)
    except Exception as error:
        if not appending or (
            isinstance(error, JournalError) and not isinstance(error, JournalWriteError)
        ):
            raise
        logger.warning("%s. Calls are recorded in it, and delivered once it can be upgraded", error)
        return current
    with database.lock, translated(database.path):
        check.revision(database.connection, database.path, writing=True)
    return schema.HEAD


def read_upgraded(database: Database, current: str) -> str:
    """Read an upgraded, private copy of an older journal, which stays unchanged.

    Args:
        database: The journal's database, opened read-only.
        current: Its schema revision.

    Returns:
        The schema revision of the copy.

    Raises:
        JournalOutdatedError: There is no room for a copy.
        JournalAlteredError: The schema is not that of its revision.
    """
    # Imported here, because SQLAlchemy and Alembic take 0.6 s.
    from journaltrack.journal.schema import migrate  # noqa: PLC0415

    try:
        database.read_copy(migrate.upgraded_copy)
    except JournalFullError as error:
        raise JournalOutdatedError(
            f"the journal at {database.path.parent} has the old schema {current}: {error.message}",
            hint=f"{error.hint}; or upgrade the journal: `journaltrack check --repair PATH`",
        ) from error
    return schema.HEAD
