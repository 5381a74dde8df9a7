"""Which entries a report is about: the filters that the audit's questions share, as conditions of SQLite. Pure but for the names of components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack import report

if TYPE_CHECKING:
    from journaltrack.journal import Journal
    from journaltrack.report import State

CHOSEN: Final = (
    "(?1 IS NULL OR e.component_id IN (SELECT value FROM json_each(?1))) AND (?2 IS NULL OR e.kind = ?2) "
    "AND (?3 IS NULL OR e.name GLOB ?3) AND (?4 IS NULL OR e.recorded_at_ns >= ?4) AND (?5 IS NULL OR e.recorded_at_ns < ?5)"
)
"""The condition on ``entry e``; its parameters are ``Choice.parameters``, further ones begin with ?6."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to report on; None leaves a member open.

    Attributes:
        component: Shell pattern of component names (case does not matter).
        kind: Kind of entry.
        name: Shell pattern of what was logged: a metric, a parameter, an artifact (case matters).
        state: Where the entry is now.
        since_ns, until_ns: Recorded since and before, nanoseconds since the epoch.
    """

    component: str | None = None
    kind: str | None = None
    name: str | None = None
    state: State | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def of_entries(self) -> bool:
        """Whether it chooses among the entries of a component."""
        return not (self.kind is None and self.name is None and self.state is None)

    def parameters(self, journal: Journal) -> tuple[Any, ...]:
        """For ``CHOSEN``."""
        # SQLite's GLOB negates a set with ^ where shells have !.
        name = None if self.name is None else self.name.replace("[!", "[^")
        return (report.matching(journal, self.component), self.kind, name, self.since_ns, self.until_ns)
