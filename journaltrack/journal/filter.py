"""Choose entries by component, kind, name, state and time: one filter for all that read entries.

A filter is a condition for SQLite. A filter that names what the journal does not have is an error:
an empty answer would look like "all is well". Must not know what is read of the chosen entries.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, NothingMatchesError
from journaltrack.journal import removed, view, vocabulary
from journaltrack.util import patterns

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.view import State

_CONDITIONS: Final = (
    "e.component_id IN (SELECT value FROM json_each(?1))",
    "e.kind = ?2",
    "e.name GLOB ?3",
    "e.recorded_at_ns >= ?4",
    "e.recorded_at_ns < ?5",
)
_NAMES_MAX: Final = 10_000
_BY_DEFAULT: Final = "sagemaker-"
"""The beginning of the bucket's name for artifacts that name no bucket."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to report on; None leaves a member open.

    Attributes:
        component: Shell pattern of component names (case does not matter).
        kind: Kind of entry.
        name: Shell pattern of logged names: metric, parameter, artifact (case matters).
        state: The entry's present state.
        since_ns: Only entries recorded since then, nanoseconds since the epoch.
        until_ns: Only entries recorded before then.
    """

    component: str | None = None
    kind: str | None = None
    name: str | None = None
    state: State | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    def __post_init__(self) -> None:
        """Refuse a span of time that is empty whatever the journal holds.

        Raises:
            InvalidInputError: ``until_ns`` is not after ``since_ns``.
        """
        if self.since_ns is None or self.until_ns is None or self.since_ns < self.until_ns:
            return
        raise InvalidInputError(
            f"until, {view.iso_seconds(self.until_ns)}, is not after since, "
            f"{view.iso_seconds(self.since_ns)}: no entry can match",
            hint="exchange the two times",
        )

    @property
    def of_entries(self) -> bool:
        """Return whether it chooses among the entries of a component."""
        return not (self.kind is None and self.name is None and self.state is None)

    @property
    def condition(self) -> str:
        """Return the SQL about ``entry e``; its parameters ?1 to ?5 are ``parameters``.

        It leaves out the state, and what is not asked: SQLite evaluates it for a million entries.
        """
        asked = (self.component, self.kind, self.name, self.since_ns, self.until_ns)
        return (
            " AND ".join(
                text for text, value in zip(_CONDITIONS, asked, strict=True) if value is not None
            )
            or "1"
        )

    def parameters(self, journal: Journal) -> tuple[Any, ...]:
        """Return the parameters of ``condition``.

        A caller's own parameters begin with ?6. The statement must always use the last of them.

        Raises:
            NothingMatchesError: The journal has no such component.
        """
        # SQLite's GLOB negates a set with ^ where shells have !.
        name = None if self.name is None else self.name.replace("[!", "[^")
        return (
            view.matching(journal, self.component, displayed=True),
            self.kind,
            name,
            self.since_ns,
            self.until_ns,
        )

    def check(self, journal: Journal) -> None:
        """Check that the journal has such a kind and name, or had them before a prune.

        Raises:
            NothingMatchesError: It has not. An empty answer would look like "all is well".
        """
        if (
            self.kind is not None
            and self.kind not in vocabulary.KINDS
            and not _any(journal, Choice(self.component, self.kind))
        ):
            others = {
                str(kind) for (kind,) in journal.database.read("SELECT DISTINCT kind FROM entry")
            }
            raise nothing(
                journal, "no entry of the kind", self.kind, sorted(others | vocabulary.KINDS)
            )
        if self.name is None or _any(journal, Choice(self.component, self.kind, self.name)):
            return
        if self.kind in {None, vocabulary.METRIC} and _was_removed(journal, self.name):
            return
        known = names(journal, Choice(self.component, self.kind))
        raise nothing(journal, "no entry whose name fits", self.name, known)


def check_buckets(journal: Journal, buckets: Iterable[str]) -> None:
    """Check that artifacts of the journal go to each bucket, as far as it knows.

    Raises:
        NothingMatchesError: No artifact goes to one of the buckets.
    """
    sql = (
        "SELECT DISTINCT json_extract(payload, '$.bucket') FROM entry WHERE kind = ?1 "
        "AND json_valid(payload)"
    )
    known = {bucket for (bucket,) in journal.database.read(sql, (vocabulary.UPLOAD,))}
    for bucket in buckets:
        by_default = None in known and bucket.startswith(_BY_DEFAULT)
        if (bucket or None) not in known and not by_default:
            named = sorted(
                str(each) if each else f"{_BY_DEFAULT}<region>-<account>" for each in known
            )
            raise nothing(journal, "no artifacts for the bucket", bucket, named)


def names(journal: Journal, choice: Choice, condition: str = "1") -> list[str]:
    """Return the names of the chosen entries, the newest last.

    Args:
        journal: An open journal.
        choice: Which entries.
        condition: Further SQL about ``e``.

    Returns:
        The ``_NAMES_MAX`` newest names at most.
    """
    sql = (
        f"SELECT e.name FROM entry e WHERE e.name IS NOT NULL AND {condition} "
        f"AND {choice.condition} GROUP BY e.name ORDER BY max(e.seq) DESC LIMIT ?6"
    )
    rows = journal.database.read(sql, (*choice.parameters(journal), _NAMES_MAX))
    return [str(name) for (name,) in reversed(rows)]


def nothing(journal: Journal, what: str, wanted: str, known: Sequence[str]) -> NothingMatchesError:
    """Make the error for a filter that matches nothing; the hint lists likely names."""
    message = f"the journal {journal.path} has {what} {limits.shown(wanted)}"
    return NothingMatchesError(message, hint=patterns.hint(wanted, known))


def _any(journal: Journal, choice: Choice) -> bool:
    sql = f"SELECT 1 FROM entry e WHERE {choice.condition} LIMIT ?6"
    return bool(journal.database.read(sql, (*choice.parameters(journal), 1)))


def _was_removed(journal: Journal, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for _, name in removed.metrics(journal.database))
