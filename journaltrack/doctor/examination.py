"""Run the checks in order, and report those that can't run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from journaltrack.doctor.checks_database import (
    check_chains,
    check_clock,
    check_pages,
    check_records,
    check_schema,
    check_spool,
    damaged,
)
from journaltrack.doctor.checks_files import check_files, check_locks, check_medium
from journaltrack.doctor.findings import Check, Examination, Finding
from journaltrack.errors import (
    JournalAlteredError,
    JournalCorruptError,
    JournalError,
    JournalNotFoundError,
    JournalTooNewError,
    NotAJournalError,
)
from journaltrack.journal import first_steps, view
from journaltrack.journal.schema import check, schema
from journaltrack.journal.sqlite.connection import Database
from journaltrack.journal.sqlite.errors import translated
from journaltrack.util import paths

_BUSY_S: Final = 2.0


def examine(
    journal: str | os.PathLike[str] | None = None,
    *,
    anchors: Mapping[str, bytes] | None = None,
    progress: Callable[[Check], None] = lambda _: None,
) -> Examination:
    """Examine everything; change nothing.

    Args:
        journal: The folder; None: the default journal.
        anchors: Documents by name, kept outside, to check the journal against.
        progress: Called with each check before it runs.

    Raises:
        JournalNotFoundError: There is no such folder.
        NotAJournalError: It is a file, or has nothing of a journal.
        JournalTooNewError: A newer journaltrack wrote it.
    """
    folder = paths.journal_folder(journal)
    if not folder.exists():
        raise JournalNotFoundError(f"there is no journal at {folder}", hint="check the path")
    if not folder.is_dir():
        raise first_steps.a_file(folder)
    _refuse_newer(folder / paths.DATABASE)
    findings: list[Finding] = []
    checked: list[Check] = []

    def made(name: Check, found: Iterator[Finding]) -> bool:
        """Run a check; return whether it reached its end."""
        progress(name)
        try:
            findings.extend(found)
        except (JournalError, sqlite3.Error, OSError, ValueError, OverflowError) as error:
            message = (
                error.message
                if isinstance(error, JournalError)
                else f"{type(error).__name__}: {error}"
            )
            findings.append(damaged(f"the check of {name} ended early: {message}"))
            return False
        checked.append(name)
        return True

    made("files", check_files(folder))
    made("medium", check_medium(folder))
    usable = os.path.lexists(folder / paths.DATABASE) and not any(
        f.check == "files" and "not a regular" in f.message for f in findings
    )
    journal_id = None
    if usable:
        made("locks", check_locks(folder))
        journal_id = _look_inside(folder, anchors or {}, made, findings)
    return Examination(str(folder), journal_id, tuple(checked), tuple(findings))


def _refuse_newer(file: Path) -> None:
    """Refuse a newer journal before this version judges what it does not know.

    Raises:
        JournalTooNewError: A newer journaltrack wrote it.
    """
    try:
        with (
            first_steps.recognizing_newer(file),
            closing(Database(file, read_only=True, busy_timeout_s=_BUSY_S)) as database,
            database.lock,
            translated(file),
        ):
            check.version(database.connection, file)
    except JournalTooNewError:
        raise
    except JournalError:
        # The checks report it.
        pass


def _look_inside(
    folder: Path,
    anchors: Mapping[str, bytes],
    made: Callable[[Check, Iterator[Finding]], bool],
    findings: list[Finding],
) -> str | None:
    """Run the checks that read the database; return its journal id if it can be read."""
    try:
        database = Database(folder / paths.DATABASE, read_only=True, busy_timeout_s=_BUSY_S)
    except JournalError as error:
        findings.append(_unopened(error))
        return None
    try:
        made("database", check_pages(database))
        if not _is_readable(database, findings):
            return None
        if not made("schema", check_schema(database)) or any(
            f.check == "schema" and f.repair == "rebuild" for f in findings
        ):
            # A view in place of a table could be anything.
            return None
        with view.snapshot(database):
            made("records", check_records(database))
            made("chains", check_chains(database, anchors))
            made("spool", check_spool(database))
            made("clock", check_clock(database))
            rows = database.read("SELECT journal_id FROM meta")
        return str(rows[0][0]) if rows else None
    except JournalError as error:
        findings.append(_unopened(error))
        return None
    finally:
        database.close()


def _is_readable(database: Database, findings: list[Finding]) -> bool:
    """Return whether the schema can be examined.

    Of an older one, examine an upgraded copy from now on.
    """
    try:
        with database.lock, translated(database.path):
            revision = check.version(database.connection, database.path)
            if revision not in {None, schema.HEAD}:
                check.revision(database.connection, database.path, writing=True)
        if revision is None:
            findings.append(
                Finding(
                    "schema", "note", "the database is empty", "nothing was ever recorded in it"
                )
            )
        elif revision != schema.HEAD:
            findings.append(_older(revision))
            first_steps.read_upgraded(database, revision)
    except (JournalError, sqlite3.Error) as error:
        findings.append(_unopened(error))
        return False
    return revision is not None


def _older(revision: str) -> Finding:
    return Finding(
        "schema",
        "note",
        f"the journal has the older schema revision {revision}",
        "nothing is wrong: a copy of it was upgraded and examined",
        "logging, a sync, or `journaltrack check --repair` upgrades it, after a backup",
        "upgrade",
    )


def _unopened(error: Exception) -> Finding:
    message = error.message if isinstance(error, JournalError) else str(error)
    if isinstance(
        error, (JournalAlteredError, JournalCorruptError, NotAJournalError, sqlite3.DatabaseError)
    ):
        return damaged(message)
    advice = error.hint if isinstance(error, JournalError) else ""
    return Finding("database", "problem", message, "what is inside was not examined", advice)
