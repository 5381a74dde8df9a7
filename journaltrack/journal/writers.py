"""The processes that recorded, as their rows say. Prints nothing, changes nothing."""

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
"""Of the table ``writer``, in the order of ``WriterRecord``; a further one is added here and there."""
_SELECTED: Final = ", ".join(f'"{name}"' for name in COLUMNS)


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """A process that recorded.

    Attributes:
        git_dirty: Whether there were changes beside ``git_commit``; None if that is not known.
        packages: Versions by name of package; None if they were not recorded.
        entries: Those of the component, or of the journal in ``AuditReport.writers``; None in reports that do not count them.
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
    """All of them by id."""
    return {row[0]: _record(row) for row in database.read(f"SELECT {_SELECTED} FROM writer ORDER BY id")}


def writer(database: Database, writer_id: object) -> WriterRecord | None:
    """One of them; None if it is not recorded."""
    rows = database.read(f"SELECT {_SELECTED} FROM writer WHERE id = ?", (writer_id,))
    return _record(rows[0]) if rows else None


def nobody(writer_id: int) -> WriterRecord:
    """What stands for a writer that is not recorded."""
    return WriterRecord(writer_id, None, None, None, None, None, None, None, None, None)


def _record(row: tuple[Any, ...]) -> WriterRecord:
    *plain, dirty, packages = row
    return replace(WriterRecord(*plain), git_dirty=bool(dirty) if dirty in {0, 1} else None, packages=_packages(packages))


def _packages(text: object) -> dict[str, str] | None:
    """Names and versions; None when there are none, or nothing that a journaltrack writes."""
    if not isinstance(text, str) or len(text) > limits.PAYLOAD_CHARS_MAX:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {name: version for name, version in found.items() if isinstance(version, str)}
