"""A person says how a run ended: the status is recorded, offline, as any other call is.

For runs of which nobody can prove that they are over: recorded on another host, or where locks do not work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import entries as vocabulary
from journaltrack.journal import interruption, view
from journaltrack.journal.journal import Journal

if TYPE_CHECKING:
    from journaltrack.journal.interruption import RunInProgress

FinalStatus: TypeAlias = Literal["Stopped", "Failed", "Completed"]
FINAL_STATUSES: Final[tuple[FinalStatus, ...]] = get_args(FinalStatus)


@dataclass(frozen=True, slots=True)
class Finished:
    """What was recorded.

    Attributes:
        journal: Its folder.
        component: As the journal knows it.
        status, message, end_ns: As recorded; ``end_ns`` is None where an earlier end stays.
        before: How the run stood while it was in progress; None: it was over, or had no status.
        replaced: The status that it had ended with; None: it had not.
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
        """Whether a process that appends to the run lives: what it records later counts."""
        return self.before is not None and self.before.state == "running"

    def to_json(self) -> dict[str, Any]:
        """As ``json.dumps`` takes it, see ``journaltrack.journal.view.to_json``."""
        converted: dict[str, Any] = view.to_json(self)
        return {**converted, "is_alive": self.is_alive}


def finish(
    component: str,
    status: FinalStatus,
    *,
    message: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Finished:
    """Record how a run ended, with the time of its last entry as the end; the next sync delivers it.

    Args:
        component: Its name (case does not matter).
        status: "Stopped", "Failed" or "Completed".
        message: Why; on one line, at most 1,024 characters.
        journal: The journal's folder; None: the default journal.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        InvalidInputError: No such component, or no such status. Nothing was recorded.
        JournalError: The journal can't be read or written.
    """
    if status not in FINAL_STATUSES:
        raise InvalidInputError(f"status is {status!r}; a run ends as one of {', '.join(FINAL_STATUSES)}")
    opened = Journal.open(journal, create=False, on_journal_error="raise")
    try:
        row = view.component(opened, component)
        before = interruption.of_component(opened, row.id, row.name)
        end_ns, last = None, opened.last_status(row.id)
        if before is not None and before.state == "running":
            end_ns = clock_ns()
        elif before is not None or last is None:
            end_ns = interruption.last_entry_at_ns(opened, row.id)
        text = None if message is None else limits.one_line(message) or None
        opened.append(row.id, [vocabulary.status(primary=status, message=text, end_ns=end_ns)])
        opened.flush()
        replaced = last.primary if before is None and last is not None and last.primary in FINAL_STATUSES else None
        return Finished(str(opened.path), row.name, status, text, end_ns, before, replaced)
    finally:
        opened.close()
