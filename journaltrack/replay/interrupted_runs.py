"""Runs whose processes are proven dead are ended on the record, as Stopped. Part of a pass.

Who says so is the process that makes the pass: its entry is a status like any other, delivered with the rest, and a run that
is resumed later is InProgress again. Must not know a remote.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from journaltrack import limits
from journaltrack.journal import entries as vocabulary
from journaltrack.journal import interruption, writer_life, writers

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

logger = logging.getLogger(__name__)


def end_interrupted(journal: Journal, wants: Callable[[str], bool]) -> list[str]:
    """Record for each interrupted run that it stopped, at the time of its last entry.

    Args:
        journal: Open for writing.
        wants: Whether it is about the component of that name.

    Returns:
        The names of those that were ended.

    Raises:
        JournalError: The journal can't be read or written.
    """
    found = interruption.interrupted(journal)
    names = {row.id: row.name for row in journal.components() if row.id in found and wants(row.name)}
    ended = []
    for component_id, name in names.items():
        run = interruption.of_component(journal, component_id, name)
        if run is None:
            continue
        message = limits.one_line(f"interrupted: process {run.pid} on {run.host} ended without close; last entry at {run.last_entry_at}")
        draft = vocabulary.status(primary="Stopped", message=message, end_ns=run.last_entry_at_ns)
        still = functools.partial(interruption.is_interrupted, journal, component_id, found[component_id])
        if journal.append_if(still, component_id, [draft]):
            logger.info("%s is ended as Stopped: %s", name, message)
            ended.append(name)
    _forget(journal)
    return ended


def _forget(journal: Journal) -> None:
    """Remove the files of dead writers that nothing needs any more: those which began no run that is in progress."""
    for file in writer_life.look(journal.path):
        if file.alive is False or file.copied:
            statuses = [journal.last_status(component_id) for component_id in file.components]
            begun = [writers.writer(journal.database, s.writer_id) for s in statuses if s is not None and s.in_progress]
            if not any(writer is not None and writer.uuid == file.uuid for writer in begun):
                writer_life.forget(journal.path, file.uuid)
