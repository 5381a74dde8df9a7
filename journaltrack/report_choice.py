"""Which entries a report is about: the filters that the audit's questions share, as conditions of SQLite. Pure but for the names of components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack import report

if TYPE_CHECKING:
    from journaltrack.journal import Journal
    from journaltrack.report import State

_CONDITIONS: Final = (
    "e.component_id IN (SELECT value FROM json_each(?1))",
    "e.kind = ?2",
    "e.name GLOB ?3",
    "e.recorded_at_ns >= ?4",
    "e.recorded_at_ns < ?5",
)


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

    @property
    def condition(self) -> str:
        """What is asked of ``entry e``, but for the state; ?1 to ?5 are ``parameters``. Only what is asked: it is evaluated a million times."""
        asked = (self.component, self.kind, self.name, self.since_ns, self.until_ns)
        return " AND ".join(text for text, value in zip(_CONDITIONS, asked, strict=True) if value is not None) or "1"

    def parameters(self, journal: Journal) -> tuple[Any, ...]:
        """For ``condition``; further ones begin with ?6, and the last one must be used whatever is asked."""
        # SQLite's GLOB negates a set with ^ where shells have !.
        name = None if self.name is None else self.name.replace("[!", "[^")
        return (report.matching(journal, self.component), self.kind, name, self.since_ns, self.until_ns)
