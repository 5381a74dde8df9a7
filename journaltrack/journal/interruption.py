"""Tell whether runs in progress run, were interrupted, or are unknown, and end the interrupted.

A run is interrupted if its last status is InProgress and every process that appended to it is
proven dead (``writers``). Only ``end`` writes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from journaltrack import limits
from journaltrack.journal import view, vocabulary, writer_records, writers
from journaltrack.journal.writers import WriterFile

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal, LastStatus

logger = logging.getLogger(__name__)

RunState: TypeAlias = Literal["running", "interrupted", "unknown"]


@dataclass(frozen=True, slots=True)
class RunInProgress:
    """A component whose last recorded status is InProgress.

    Attributes:
        component: The component's name.
        state: Whether it runs. It is "unknown" from another host, or if locks do not work.
        last_entry_at_ns: When its last call was recorded, nanoseconds since the epoch.
        host, pid: The process that recorded the status.
    """

    component: str
    state: RunState
    last_entry_at_ns: int | None
    host: str | None
    pid: int | None

    @property
    def last_entry_at(self) -> str:
        """Return the time of the last entry as text, in UTC to the second."""
        return view.iso_seconds(self.last_entry_at_ns) or "an unknown time"

    @property
    def text(self) -> str:
        """Return the state in words."""
        if self.state == "running":
            return "running"
        last = f"last entry at {self.last_entry_at}"
        if self.state == "interrupted":
            return f"interrupted, {last}"
        return f"in progress, {last} on host {self.host or '(unknown)'}"


def of_component(journal: Journal, component_id: int, name: str) -> RunInProgress | None:
    """Return the component's run; None if it is not in progress."""
    status = journal.last_status(component_id)
    if status is None or not status.in_progress:
        return None
    return _run(journal, component_id, name, status, _files(journal))


def states(journal: Journal, begun: Mapping[int, LastStatus]) -> dict[int, RunState]:
    """Return the state of each run in progress, by component.

    Args:
        journal: An open journal.
        begun: The components' last statuses, of those that are in progress.
    """
    files = _files(journal) if begun else []
    return {number: _state(journal, number, status, files) for number, status in begun.items()}


def left_open(journal: Journal, only: Iterable[int] | None = None) -> list[RunInProgress]:
    """Return the runs in progress whose processes are dead, or unknown from here.

    Runs of a bundle, or of a copy without ``writers/``, are left out: see ``of_component``. The
    time grows with the number of such runs and of files in ``writers/``.

    Args:
        journal: An open journal.
        only: Ids of components; None for all.
    """
    files = _files(journal)
    names = {row.id: row.name for row in journal.components()} if files else {}
    wanted = names.keys() if only is None else names.keys() & set(only)
    found = []
    for component_id in sorted(
        {each for file in files if not file.alive for each in file.components} & wanted
    ):
        status = journal.last_status(component_id)
        if (
            status is not None
            and status.in_progress
            and _state(journal, component_id, status, files) != "running"
        ):
            found.append(_run(journal, component_id, names[component_id], status, files))
    return found


def interrupted(journal: Journal) -> dict[int, LastStatus]:
    """Return the interrupted components with their last status."""
    files = _files(journal)
    found = {}
    for component_id in sorted(
        {each for file in files if file.alive is False for each in file.components}
    ):
        status = journal.last_status(component_id)
        if (
            status is not None
            and status.in_progress
            and _state(journal, component_id, status, files) == "interrupted"
        ):
            found[component_id] = status
    return found


def is_interrupted(journal: Journal, component_id: int, status: LastStatus) -> bool:
    """Return whether a component is still interrupted, with the same last status.

    Call it in a write transaction, so that no process can resume the run meanwhile.
    """
    if journal.last_status(component_id) != status:
        return False
    return _state(journal, component_id, status, _files(journal)) == "interrupted"


def end(journal: Journal, wants: Callable[[str], bool]) -> list[str]:
    """Record for each interrupted run that it stopped, at the time of its last entry.

    The process that calls this is the entry's writer. The entry is delivered like any other, and a
    run that is resumed later is InProgress again.

    Args:
        journal: Open for writing.
        wants: Returns whether the pass is about the component of that name.

    Returns:
        The names of the components whose run was ended.

    Raises:
        JournalError: The journal can't be read or written.
    """
    found = interrupted(journal)
    names = {
        row.id: row.name for row in journal.components() if row.id in found and wants(row.name)
    }
    ended = []
    for component_id, name in names.items():
        run = of_component(journal, component_id, name)
        if run is None:
            continue
        process = f"process {run.pid} on {run.host}"
        message = limits.one_line(
            f"interrupted: {process} ended without close; last entry at {run.last_entry_at}"
        )
        draft = vocabulary.status(primary="Stopped", message=message, end_ns=run.last_entry_at_ns)
        still = functools.partial(is_interrupted, journal, component_id, found[component_id])
        if journal.append_if(still, component_id, [draft]):
            logger.info("%s is ended as Stopped: %s", name, message)
            ended.append(name)
    _forget(journal)
    return ended


def last_entry_at_ns(journal: Journal, component_id: int, from_seq: int = 0) -> int | None:
    """Return when the last entry of a component was recorded, or None.

    Only entries from ``from_seq`` on count.

    The time grows with what others recorded since then.
    """
    of_component = "component_id = ? AND seq >= ?"
    rows = journal.database.read(
        f"SELECT recorded_at_ns FROM entry WHERE {of_component} ORDER BY seq DESC LIMIT 1",
        (component_id, from_seq),
    )
    return rows[0][0] if rows and isinstance(rows[0][0], int) else None


# -- inside --------------------------------------------------------------------------------


def _files(journal: Journal) -> list[WriterFile]:
    """Return the writers' files, without that of the asking process.

    A sync that ends a run appends to it.
    """
    return [file for file in writers.look(journal.path) if file.uuid != journal.writer_uuid]


def _state(
    journal: Journal, component_id: int, status: LastStatus, files: Iterable[WriterFile]
) -> RunState:
    mine = {
        file.uuid: file.alive
        for file in files
        if component_id in file.components and not file.copied
    }
    if True in mine.values():
        return "running"
    writer = writer_records.writer(journal.database, status.writer_id)
    begun_by = None if writer is None or writer.uuid is None else mine.get(writer.uuid)
    return "interrupted" if begun_by is False and None not in mine.values() else "unknown"


def _run(
    journal: Journal, component_id: int, name: str, status: LastStatus, files: Iterable[WriterFile]
) -> RunInProgress:
    writer = writer_records.writer(journal.database, status.writer_id) or writer_records.nobody(
        status.writer_id
    )
    at_ns = last_entry_at_ns(journal, component_id, status.seq)
    return RunInProgress(
        name, _state(journal, component_id, status, files), at_ns, writer.host, writer.pid
    )


def _forget(journal: Journal) -> None:
    """Remove the files of dead writers that nothing needs any more.

    A writer that began a run in progress keeps its file.
    """
    for file in writers.look(journal.path):
        if file.alive is False or file.copied:
            statuses = [journal.last_status(component_id) for component_id in file.components]
            begun = [
                writer_records.writer(journal.database, s.writer_id)
                for s in statuses
                if s is not None and s.in_progress
            ]
            if not any(writer is not None and writer.uuid == file.uuid for writer in begun):
                writers.forget(journal.path, file.uuid)
