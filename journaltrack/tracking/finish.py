"""Record how a run ended, when a person says so, offline.

This is for runs whose end nothing can prove: recorded on another host, or on a file system without
working locks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import interruption, view, vocabulary
from journaltrack.journal.journal import Journal

if TYPE_CHECKING:
    from journaltrack.journal.interruption import RunInProgress

FinalStatus: TypeAlias = Literal["Stopped", "Failed", "Completed"]
FINAL_STATUSES: Final[tuple[FinalStatus, ...]] = get_args(FinalStatus)


@dataclass(frozen=True, slots=True)
class Finished:
    """The status that was recorded.

    Attributes:
        journal: The journal's folder.
        component: The component's name in the journal.
        status, message, end_ns: As recorded. ``end_ns`` is None if an earlier end stays.
        before: The run's state before, if it was in progress; None if it was over or had no status.
        replaced: The final status that this one replaces; None if there was none.
    """

    journal: str
    component: str
    status: str
    message: str | None
    end_ns: int | None
    before: RunInProgress | None
    replaced: str | None = None

    @property
    def is_alive(self) -> bool:
        """Return whether a process still appends to the run: its later status will win."""
        return self.before is not None and self.before.state == "running"

    def to_json(self) -> dict[str, Any]:
        """Return this for ``json.dumps``, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return {**converted, "is_alive": self.is_alive}


def finish(
    component: str,
    status: FinalStatus,
    *,
    message: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Finished:
    """Record how a run ended. The next sync delivers the status.

    The time of the run's last entry becomes its end.

    Args:
        component: The component's name, case-insensitive.
        status: "Stopped", "Failed" or "Completed".
        message: The reason, in one line of at most 1,024 characters.
        journal: The journal's folder; None for the default journal.
        force: Replace the status of a run that has already ended with another one.

    Raises:
        InvalidInputError: The component or the status does not exist, or the run has ended with
            another status and ``force`` is False. Nothing was recorded.
        JournalError: The journal can't be read or written.
    """
    if status not in FINAL_STATUSES:
        raise InvalidInputError(
            f"status is {status!r}; a run ends as one of {', '.join(FINAL_STATUSES)}"
        )
    opened = Journal.open(journal, create=False, on_journal_error="raise")
    try:
        row = view.component(opened, component)
        before = interruption.of_component(opened, row.id, row.name)
        end_ns, last, replaced = None, opened.last_status(row.id), None
        if before is None and last is not None and last.primary in FINAL_STATUSES:
            replaced = last.primary if last.primary != status else None
        if replaced is not None and not force:
            raise InvalidInputError(
                f"{row.name} has ended as {replaced}; nothing was recorded",
                hint=f"to replace that by {status}, use --force (Python: force=True)",
            )
        if before is not None and before.state == "running":
            end_ns = time.time_ns()
        elif before is not None or last is None:
            end_ns = interruption.last_entry_at_ns(opened, row.id)
        text = None if message is None else limits.one_line(message) or None
        opened.append(row.id, [vocabulary.status(primary=status, message=text, end_ns=end_ns)])
        opened.flush()
        return Finished(str(opened.path), row.name, status, text, end_ns, before, replaced)
    finally:
        opened.close()
