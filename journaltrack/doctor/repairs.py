"""Repair what can be repaired.

Invariants: nothing that might be evidence is deleted; what is replaced moves to ``damaged/`` in
the folder. Every repair that writes to the database holds the lease, so that no sync works on it
meanwhile, and leaves a receipt of the action ``repair``.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from journaltrack.doctor.checks_database import expected_objects, objects
from journaltrack.doctor.checks_files import REPLACEMENT, open_to_others, own_files, scraps
from journaltrack.doctor.findings import Examination, Finding, Repair, Repaired
from journaltrack.errors import JournalError, JournalLockedError
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import UNSETTLED
from journaltrack.journal.schema import check, schema
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite import files
from journaltrack.journal.sqlite.connection import Database
from journaltrack.replay import lease
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.evidence.statements import REPAIR
from journaltrack.util import paths
from journaltrack.util.digest import digest_of

DAMAGED: Final = "damaged"
"""The folder inside the journal's for what a repair took out of use."""
_ORDER: Final[tuple[Repair, ...]] = (
    "owner",
    "permissions",
    "leftovers",
    "finish",
    "rebuild",
    "upgrade",
    "lease",
    "schema",
    "mark",
    "log",
    "spool",
)


@dataclass(frozen=True, slots=True)
class _Case:
    """Hold what one repair works with; see ``mend``."""

    folder: Path
    findings: Sequence[Finding]
    restore_from: Sequence[Path]


def mend(examination: Examination, *, restore_from: Sequence[Path] = ()) -> list[Repaired]:
    """Repair what the findings allow; one failure does not stop the other repairs.

    Args:
        examination: From ``examine``, just made.
        restore_from: Folders that may have contents missing from the spool, under any name.

    Returns:
        What was repaired, and what was not and why. Examine again to see what remains.
    """
    folder = Path(examination.path)
    done = []
    for repair in _ORDER:
        findings = [f for f in examination.findings if f.repair == repair]
        if not findings:
            continue
        try:
            message = _REPAIRS[repair](_Case(folder, findings, restore_from))
            done.append(
                Repaired(repair, message is not None, message or "nothing could be repaired")
            )
        except (JournalError, OSError, sqlite3.Error) as error:
            text = error.message if isinstance(error, JournalError) else str(error)
            hint = f" ({error.hint})" if isinstance(error, JournalError) and error.hint else ""
            done.append(Repaired(repair, done=False, message=f"{text}{hint}"))
    return done


def _owner(case: _Case) -> str | None:
    """Give the files to the folder's owner.

    Root can do it; the folder's owner can replace another user's lock file by a new one.
    """
    foreign = files.of_others(case.folder)
    for path in foreign:
        files.hand_over(path, case.folder)
    lock = case.folder / files.LOCK_FILE
    if lock in files.of_others(case.folder) and files.is_locked(lock) is False:
        # The next sync creates it again.
        lock.unlink()
    still = files.of_others(case.folder)
    return (
        None
        if still
        else f"given to the owner of the folder: {', '.join(path.name for path in foreign)}"
    )


def _permissions(case: _Case) -> str | None:
    loose = open_to_others(case.folder)
    for path in loose:
        path.chmod(0o700 if path.is_dir() else 0o600)
    still = open_to_others(case.folder)
    return None if still else f"closed to others: {len(loose)} files and folders"


def _leftovers(case: _Case) -> str | None:
    left = scraps(case.folder)
    for path in left:
        path.unlink(missing_ok=True)
    return f"half copies removed: {len(left)}"


def _rebuild(case: _Case) -> str | None:
    from journaltrack.doctor.recover import salvage  # noqa: PLC0415 - SQLAlchemy

    _refuse_if_used(case.folder)
    partial = case.folder / f"{REPLACEMENT}.partial"
    partial.unlink(missing_ok=True)
    report = salvage(case.folder, partial, now_ns=time.time_ns())
    partial.replace(case.folder / REPLACEMENT)
    _swap(case.folder)
    return str(report)


def _upgrade(case: _Case) -> str | None:
    Journal.open(case.folder, create=False).close()
    return f"upgraded it to schema revision {schema.HEAD}, after a backup beside it"


def _finish(case: _Case) -> str | None:
    _refuse_if_used(case.folder)
    _swap(case.folder)
    return "put the rebuilt database in its place"


def _swap(folder: Path) -> None:
    """Replace the damaged database by the rebuilt one.

    A kill at any point leaves the rebuilt database under one of its two names, and the damaged
    files under one of theirs. The old log moves first: else SQLite would replay it into the new
    database.
    """
    aside = _aside(folder)
    database = folder / paths.DATABASE
    old = [path for path in own_files(folder) if path.name.startswith(paths.DATABASE)]
    for path in sorted(old, key=lambda p: p == database):
        if path == database:
            try:
                os.link(path, aside / path.name, follow_symlinks=False)
            # This file system has no links.
            except OSError:
                shutil.copy2(path, aside / path.name, follow_symlinks=False)
        else:
            path.replace(aside / path.name)
    paths.fsync(aside)
    (folder / REPLACEMENT).replace(database)
    paths.fsync(folder)


def _aside(folder: Path) -> Path:
    aside = folder / DAMAGED / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    while aside.exists():
        aside = aside.with_name(f"{aside.name}+")
    (folder / DAMAGED).mkdir(mode=0o700, exist_ok=True)
    aside.mkdir(mode=0o700)
    return aside


def _schema(case: _Case) -> str | None:
    def make(connection: sqlite3.Connection) -> None:
        """Create the missing indexes and triggers."""
        there = objects(connection)
        missing = [
            name
            for kind, name in expected_objects()
            if (kind, name) not in there and kind in {"index", "trigger"}
        ]
        for statement in schema.ddl():
            if any(f" {name} " in statement for name in missing):
                connection.execute(statement)

    names = ", ".join(name for finding in case.findings for name in finding.subjects)
    return _in_database(case.folder, make, f"made {names} again")


def _lease(case: _Case) -> str | None:
    def reset(connection: sqlite3.Connection) -> None:
        """Replace the row by one with a generation that no receipt has."""
        used = (
            "SELECT coalesce(max(generation), 0) FROM receipt WHERE generation BETWEEN 0 "
            f"AND {check.GENERATION_MAX - 1}"
        )
        connection.execute("DELETE FROM lease")
        connection.execute(f"INSERT INTO lease (id, generation) SELECT 1, ({used}) + 1")

    with closing(Database(case.folder / paths.DATABASE)) as database:
        database.write(reset)
    return _in_database(case.folder, lambda _: None, "created the lease again")


def _mark(case: _Case) -> str | None:
    pending = f"SELECT min(e.seq) - 1 FROM entry e WHERE {UNSETTLED}"

    def compute(connection: sqlite3.Connection) -> None:
        """Set the mark right below the first unsettled entry."""
        connection.execute("DELETE FROM unsettled")
        connection.execute(
            f"UPDATE mark SET seq = coalesce(({pending}), (SELECT max(seq) FROM entry), 0)"
        )

    return _in_database(case.folder, compute, "computed the low-water mark again")


def _log(case: _Case) -> str | None:
    with closing(Database(case.folder / paths.DATABASE)) as database:
        busy = database.read("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
    return None if busy else "emptied the write-ahead log"


def _spool(case: _Case) -> str | None:
    folder = case.folder
    spool = Spool(folder / paths.SPOOL)
    wanted = {sha256 for finding in case.findings for sha256 in finding.subjects}
    aside: Path | None = None
    for sha256 in sorted(wanted):
        path = spool.path_of(sha256)
        if os.path.lexists(path):
            aside = aside or _aside(folder)
            path.replace(aside / sha256)
    found = {}
    for sha256, candidate in _matching(folder, case.restore_from, wanted):
        if sha256 not in found:
            blob = spool.add(candidate)
            found[blob.sha256] = blob
        if wanted == set(found):
            break

    def record(connection: sqlite3.Connection) -> None:
        """Name the restored contents."""
        for blob in found.values():
            connection.execute(
                "INSERT OR REPLACE INTO blob VALUES (?, ?, ?)",
                (blob.sha256, blob.size_bytes, time.time_ns()),
            )

    moved = f"; damaged ones are in {aside.relative_to(folder)}" if aside else ""
    if not found and not aside:
        return None
    return _in_database(folder, record, f"contents restored: {len(found)} of {len(wanted)}{moved}")


def _matching(
    folder: Path, restore_from: Sequence[Path], wanted: set[str]
) -> Iterator[tuple[str, Path]]:
    """Find regular files with one of these digests; read only those whose size fits."""
    with closing(Database(folder / paths.DATABASE, read_only=True)) as database:
        rows = database.read(
            "SELECT size_bytes FROM blob WHERE sha256 IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(wanted)),),
        )
    sizes = {size for (size,) in rows} if len(rows) == len(wanted) else None
    for root in restore_from:
        for parent, folders, names in os.walk(root):
            folders.sort()
            for path in (Path(parent, name) for name in sorted(names)):
                try:
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode) or (
                        sizes is not None and status.st_size not in sizes
                    ):
                        continue
                    with path.open("rb") as file:
                        sha256 = digest_of(file.read)
                except OSError:
                    continue
                if sha256 in wanted:
                    yield sha256, path


def _in_database(
    folder: Path,
    work: Callable[[sqlite3.Connection], object],
    message: str,
) -> str:
    """Make a change in one transaction with its receipt, holding the lease."""
    with closing(Database(folder / paths.DATABASE)) as database:
        held = lease.acquire(database)

        attestor = Attestor(database, held)
        try:
            with attestor.transaction() as connection:
                work(connection)
                attestor.decide(connection, REPAIR, "repaired", None, (), error_text=message)
        finally:
            held.release()
    return message


def _refuse_if_used(folder: Path) -> None:
    """Refuse to replace the database while somebody has it open.

    They would continue to write to the one that was moved aside.

    Raises:
        JournalLockedError: Somebody has it open.
    """
    users = sorted(files.having_open(folder / paths.DATABASE))
    if users or files.held_open(folder) or lease.lock_holder(folder) is not None:
        who = ", ".join(f"process {pid}" for pid in users) or "a process"
        raise JournalLockedError(
            f"{who} has the journal at {folder} open; its database was not replaced",
            hint="end the processes that log to it or sync it, then repair again",
        )


_REPAIRS: Final[dict[Repair, Callable[[_Case], str | None]]] = {
    "owner": _owner,
    "permissions": _permissions,
    "leftovers": _leftovers,
    "finish": _finish,
    "rebuild": _rebuild,
    "upgrade": _upgrade,
    "schema": _schema,
    "lease": _lease,
    "mark": _mark,
    "log": _log,
    "spool": _spool,
}
