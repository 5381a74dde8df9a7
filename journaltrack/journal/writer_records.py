"""Tell who recorded: the processes that a journal has as writers.

Must not know whether they live (``writers``), nor their entries.
"""

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
    "context",
)
"""Columns of the table ``writer``, in the order of ``WriterRecord``: change both together."""
_CONTEXT_DEPTH: Final = 3
_SELECTED: Final = ", ".join(f'"{name}"' for name in COLUMNS)
# A journal may have thousands of processes, each with hundreds of packages.
_WITHOUT_PACKAGES: Final = _SELECTED.replace(
    '"context"',
    "CASE WHEN typeof(context) = 'text' AND json_valid(context) "
    "THEN json_remove(context, '$.installed') END",
)


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """A process that recorded.

    Attributes:
        git_dirty: Whether the work tree differed from ``git_commit``; None if unknown.
        packages: Versions of the imported packages by name; None if they were not recorded.
        context: What it ran in, see ``context.facts_of``; None if that was not recorded.
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
    context: Mapping[str, Any] | None = None
    entries: int | None = None


def writers(database: Database) -> dict[int, WriterRecord]:
    """Return all writers by id, without the list of installed packages."""
    sql = f"SELECT {_WITHOUT_PACKAGES} FROM writer ORDER BY id"
    return {row[0]: _record(row) for row in database.read(sql)}


def writer(database: Database, writer_id: object) -> WriterRecord | None:
    """Return one writer; None if it is not recorded."""
    rows = database.read(f"SELECT {_SELECTED} FROM writer WHERE id = ?", (writer_id,))
    return _record(rows[0]) if rows else None


def nobody(writer_id: int) -> WriterRecord:
    """Return a placeholder for a writer that is not recorded."""
    return WriterRecord(writer_id, None, None, None, None, None, None, None, None, None)


def _record(row: tuple[Any, ...]) -> WriterRecord:
    *plain, dirty, packages, context = row
    is_dirty = bool(dirty) if dirty in {0, 1} else None
    return replace(
        WriterRecord(*plain),
        git_dirty=is_dirty,
        packages=_packages(packages),
        context=_bounded(_object(context)),
    )


def _packages(text: object) -> dict[str, str] | None:
    found = _object(text)
    if found is None:
        return None
    return {name: version for name, version in found.items() if isinstance(version, str)}


def _bounded(value: Any, depth: int = _CONTEXT_DEPTH) -> Any:  # noqa: ANN401 - of JSON
    """Return what a context may hold: a few levels of texts and numbers; None for all else."""
    if isinstance(value, dict) and depth:
        members = ((name, _bounded(member, depth - 1)) for name, member in value.items())
        return {name: member for name, member in members if member is not None}
    if isinstance(value, list) and depth:
        return [member for each in value if (member := _bounded(each, depth - 1)) is not None]
    is_number = isinstance(value, (int, float)) and -(2**63) < value < 2**63
    return value if isinstance(value, str) or is_number else None


def _object(text: object) -> dict[str, Any] | None:
    """Return a JSON object; None if there is none that journaltrack can have written."""
    if not isinstance(text, str) or len(text) > limits.PAYLOAD_CHARS_MAX:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
