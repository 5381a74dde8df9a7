"""The order of the checks, and what becomes of those that can't be made."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from journaltrack import paths, report, schema
from journaltrack.database import Database
from journaltrack.doctor.checks_database import (
    check_chains,
    check_clock,
    check_pages,
    check_records,
    check_schema,
    damaged,
)
from journaltrack.doctor.checks_files import check_files, check_locks, check_medium
from journaltrack.doctor.checks_spool import check_spool
from journaltrack.doctor.findings import Check, Examination, Finding
from journaltrack.errors import JournalCorruptError, JournalError, JournalNotFoundError, NotAJournalError

_INSIDE: dict[Check, Callable[[Database], Iterator[Finding]]] = {
    "records": check_records,
    "chains": check_chains,
    "spool": check_spool,
    "clock": check_clock,
}


def examine(journal: str | os.PathLike[str] | None = None, *, progress: Callable[[Check], None] = lambda _: None) -> Examination:
    """Look at everything; change nothing.

    Not in a process that has the journal open: asking for locks would drop its own.

    Args:
        journal: The folder; None: the default journal.
        progress: Told each check before it is made.

    Raises:
        JournalNotFoundError: There is no such folder.
        NotAJournalError: It is a file, or holds nothing of a journal.
    """
    folder = paths.expanded(paths.default_journal() if journal is None else journal).absolute()
    if not folder.exists():
        raise JournalNotFoundError(f"there is no journal at {folder}", hint="check the path")
    if not folder.is_dir():
        raise NotAJournalError(f"{folder} is a file; a journal is a folder", hint="name the folder, not the journal.db in it")
    findings: list[Finding] = []
    checked: list[Check] = []

    def made(check: Check, found: Iterator[Finding]) -> bool:
        progress(check)
        try:
            findings.extend(found)
        except (JournalError, sqlite3.Error, OSError, ValueError, OverflowError) as error:
            message = error.message if isinstance(error, JournalError) else f"{type(error).__name__}: {error}"
            findings.append(damaged(f"the check of {check} ended early: {message}"))
            return False
        checked.append(check)
        return True

    made("files", check_files(folder))
    made("medium", check_medium(folder))
    usable = os.path.lexists(folder / paths.DATABASE) and not any(f.check == "files" and "not a regular" in f.message for f in findings)
    journal_id = None
    if usable:
        made("locks", check_locks(folder))
        journal_id = _look_inside(folder, made, findings)
    return Examination(str(folder), journal_id, tuple(checked), tuple(findings))


def _look_inside(folder: Path, made: Callable[[Check, Iterator[Finding]], bool], findings: list[Finding]) -> str | None:
    """The checks that read the database; its journal id, when that can be read."""
    try:
        database = Database(folder / paths.DATABASE, read_only=True, busy_timeout_s=2.0)
    except JournalError as error:
        findings.append(_unopened(error))
        return None
    try:
        made("database", check_pages(database))
        try:
            with database.lock:
                revision = _revision(database.connection)
        except (JournalError, sqlite3.Error) as error:
            findings.append(_unopened(error))
            return None
        if revision != schema.HEAD:
            findings.append(_of_another_version(revision))
            return None
        if not made("schema", check_schema(database)) or any(f.check == "schema" and f.repair == "rebuild" for f in findings):
            return None  # a view in the place of a table could be anything
        with report.snapshot(database):
            for check, look in _INSIDE.items():
                made(check, look(database))
            rows = database.read("SELECT journal_id FROM meta")
        return str(rows[0][0]) if rows else None
    except JournalError as error:
        findings.append(_unopened(error))
        return None
    finally:
        database.close()


def _revision(connection: sqlite3.Connection) -> str | None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    if row is None or not {"entry", "meta"} <= tables:
        raise NotAJournalError("the database is not a journal's, or its tables are lost")
    return str(row[0])


def _unopened(error: Exception) -> Finding:
    message = error.message if isinstance(error, JournalError) else str(error)
    if isinstance(error, (JournalCorruptError, NotAJournalError, sqlite3.DatabaseError)):
        return damaged(message)
    advice = error.hint if isinstance(error, JournalError) else ""
    return Finding("database", "problem", message, "what is inside was not looked at", advice)


def _of_another_version(revision: str | None) -> Finding:
    if revision is None:
        return Finding("schema", "note", "the database is empty", "nothing was ever recorded in it")
    if revision < schema.HEAD:
        return Finding(
            "schema",
            "note",
            f"the journal has the older schema revision {revision}",
            "nothing is wrong; what is inside was not looked at",
            "open it for writing once (`journaltrack status`): it is upgraded after a backup",
        )
    return Finding(
        "schema",
        "problem",
        f"the journal has schema revision {revision}, this version knows {schema.HEAD} at most",
        "this version does not touch it",
        "pip install -U journaltrack",
    )
