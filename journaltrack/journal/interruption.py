"""Runs that are in progress, as far as was recorded: do they run, were they interrupted, or can't it be told from here?

A run is interrupted when its last status is InProgress and every process that appended to it is proven dead, see
``writer_life``. Reads alone, prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from journaltrack.journal import view, writer_life, writers
from journaltrack.journal.writer_life import WriterFile

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal, LastStatus

RunState: TypeAlias = Literal["running", "interrupted", "unknown"]


@dataclass(frozen=True, slots=True)
class RunInProgress:
    """A component whose last recorded status is InProgress.

    Attributes:
        component: Its name.
        state: "unknown" from another host, or where locks do not work.
        last_entry_at_ns: When its last call was recorded.
        host, pid: Of the process that recorded the status.
    """

    component: str
    state: RunState
    last_entry_at_ns: int | None
    host: str | None
    pid: int | None

    @property
    def last_entry_at(self) -> str:
        """The same as text, in UTC to the second."""
        return view.iso_seconds(self.last_entry_at_ns) or "an unknown time"

    @property
    def text(self) -> str:
        """As people read it."""
        if self.state == "running":
            return "running"
        last = f"last entry at {self.last_entry_at}"
        return f"interrupted, {last}" if self.state == "interrupted" else f"in progress, {last} on host {self.host or '(unknown)'}"


def of_component(journal: Journal, component_id: int, name: str) -> RunInProgress | None:
    """The component's run; None if it is not in progress."""
    status = journal.last_status(component_id)
    return None if status is None or not status.in_progress else _run(journal, component_id, name, status, _files(journal))


def left_open(journal: Journal, only: Iterable[int] | None = None) -> list[RunInProgress]:
    """The runs whose processes ended without ending them, or can't be seen from here; costs what there are of those, and their files.

    Those of a bundle or of a copy without ``writers/`` are not among them: see ``of_component``.

    Args:
        journal: An open journal.
        only: Components' ids; None: all.
    """
    files = _files(journal)
    names = {row.id: row.name for row in journal.components()} if files else {}
    wanted = names.keys() if only is None else names.keys() & set(only)
    found = []
    for component_id in sorted({each for file in files if not file.alive for each in file.components} & wanted):
        status = journal.last_status(component_id)
        if status is not None and status.in_progress and _state(journal, component_id, status, files) != "running":
            found.append(_run(journal, component_id, names[component_id], status, files))
    return found


def interrupted(journal: Journal) -> dict[int, LastStatus]:
    """The components that are interrupted, and what their last status is."""
    files = _files(journal)
    found = {}
    for component_id in sorted({each for file in files if file.alive is False for each in file.components}):
        status = journal.last_status(component_id)
        if status is not None and status.in_progress and _state(journal, component_id, status, files) == "interrupted":
            found[component_id] = status
    return found


def is_interrupted(journal: Journal, component_id: int, status: LastStatus) -> bool:
    """Whether it still is: inside a write transaction nobody can resume it meanwhile."""
    return journal.last_status(component_id) == status and _state(journal, component_id, status, _files(journal)) == "interrupted"


def last_entry_at_ns(journal: Journal, component_id: int, from_seq: int = 0) -> int | None:
    """When the component's last entry was recorded, of those from ``from_seq`` on; costs what others recorded since then."""
    rows = journal.database.read(
        "SELECT recorded_at_ns FROM entry WHERE component_id = ? AND seq >= ? ORDER BY seq DESC LIMIT 1", (component_id, from_seq)
    )
    return rows[0][0] if rows and isinstance(rows[0][0], int) else None


# -- inside -----------------------------------------------------------------------------------------------------------


def _files(journal: Journal) -> list[WriterFile]:
    """Without that of who asks: a sync that is about to end a run appends to it."""
    return [file for file in writer_life.look(journal.path) if file.uuid != journal.writer_uuid]


def _state(journal: Journal, component_id: int, status: LastStatus, files: Iterable[WriterFile]) -> RunState:
    mine = {file.uuid: file.alive for file in files if component_id in file.components and not file.copied}
    if True in mine.values():
        return "running"
    writer = writers.writer(journal.database, status.writer_id)
    begun_by = None if writer is None or writer.uuid is None else mine.get(writer.uuid)
    return "interrupted" if begun_by is False and None not in mine.values() else "unknown"


def _run(journal: Journal, component_id: int, name: str, status: LastStatus, files: Iterable[WriterFile]) -> RunInProgress:
    writer = writers.writer(journal.database, status.writer_id) or writers.nobody(status.writer_id)
    at_ns = last_entry_at_ns(journal, component_id, status.seq)
    return RunInProgress(name, _state(journal, component_id, status, files), at_ns, writer.host, writer.pid)
