"""Read the rows of the processes that recorded. Prints nothing, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

COLUMNS: Final = (
    "id",
    "uuid",
    "host",
    "pid",
    "user",
    "program",
    "started_at_ns",
    "package_version",
    "python_version",
    "git_commit",
    "git_dirty",
    "packages",
)
"""Columns of the table ``writer``, in the order of ``WriterRecord``: change both together."""
_SELECTED: Final = ", ".join(f'"{name}"' for name in COLUMNS)


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """A process that recorded.

    Attributes:
        git_dirty: Whether the work tree differed from ``git_commit``; None if unknown.
        packages: Versions by the package's name; None if they were not recorded.
        entries: Number of its entries in the component, or in the journal for
            ``AuditReport.writers``. None in reports that do not count them.
    """

    id: int
    uuid: str | None
    host: str | None
    pid: int | None
    user: str | None
    program: str | None
    started_at_ns: int | None
    package_version: str | None
    python_version: str | None
    git_commit: str | None
    git_dirty: bool | None = None
    packages: Mapping[str, str] | None = None
    entries: int | None = None


def writers(database: Database) -> dict[int, WriterRecord]:
    """Return all writers by id."""
    return {
        row[0]: _record(row) for row in database.read(f"SELECT {_SELECTED} FROM writer ORDER BY id")
    }


def writer(database: Database, writer_id: object) -> WriterRecord | None:
    """Return one writer; None if it is not recorded."""
    rows = database.read(f"SELECT {_SELECTED} FROM writer WHERE id = ?", (writer_id,))
    return _record(rows[0]) if rows else None


def nobody(writer_id: int) -> WriterRecord:
    """Return a placeholder for a writer that is not recorded."""
    return WriterRecord(writer_id, None, None, None, None, None, None, None, None, None)


def _record(row: tuple[Any, ...]) -> WriterRecord:
    *plain, dirty, packages = row
    is_dirty = bool(dirty) if dirty in {0, 1} else None
    return replace(WriterRecord(*plain), git_dirty=is_dirty, packages=_packages(packages))


def _packages(text: object) -> dict[str, str] | None:
    """Return names and versions; None if there are none that journaltrack wrote."""
    if not isinstance(text, str) or len(text) > limits.PAYLOAD_CHARS_MAX:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {name: version for name, version in found.items() if isinstance(version, str)}
