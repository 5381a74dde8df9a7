"""The history of a key: every value of a parameter, an artifact or the status, in order, with who changed it from what. Prints nothing.

Reads all but metrics through their index, a component after the other, a page at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack.journal import entries as vocabulary
from journaltrack.journal import view
from journaltrack.reports.choice import Choice, names, nothing
from journaltrack.reports.entries import AuditedEntry, entries_where

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

KeyKind: TypeAlias = Literal["parameter", "input", "output", "status"]
KINDS: Final[tuple[KeyKind, ...]] = ("parameter", "input", "output", "status")
STATUS_NAME: Final = "status"
"""What the status of a component is asked for as: its entries have no name."""
_VALUES: Final = ("exact", "text", "value", "sha256", "primary")


@dataclass(frozen=True, slots=True)
class Revision:
    """One value of a key.

    Attributes:
        entry: The entry that says so: when, who, and whether it arrived.
        value: As recorded; of a status, all that the call set.
        earlier_seq, earlier: The entry of the same key before, and its value; None for the first one.
        changed: Whether the value is another one than before (true for the first one).
    """

    entry: AuditedEntry
    value: Any
    earlier_seq: int | None
    earlier: Any
    changed: bool


def value_of(entry: AuditedEntry) -> Any:  # noqa: ANN401 - whatever was recorded
    """What an entry recorded: a number, or what stands for it: text, a URI, a digest; of a status all that it set."""
    if entry.kind == vocabulary.STATUS:
        return dict(entry.detail)
    if entry.value is not None:
        return entry.value
    return next((entry.detail[key] for key in _VALUES if key in entry.detail), None)


def history(
    journal: Journal | str | os.PathLike[str] | None,
    name: str,
    *,
    kind: KeyKind | None = None,
    component: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[Revision]:
    """Every value of a key, component by component, in the order of recording.

    Args:
        journal: An open journal, its folder, or None for the default journal.
        name: Of the parameter, input or output, exactly; "status" is also the component's status.
        kind: Only keys of this kind; None: whatever has the name.
        component: Shell pattern of component names (case does not matter); None: all.
        since_ns: Only values recorded since then, nanoseconds since the epoch; what they changed is told all the same.
        until_ns: Only values recorded before.

    Raises:
        JournalError: It can't be read.
    """
    condition = (
        "e.stream <> 'metric' AND e.component_id = ?3 AND (?4 IS NULL OR e.kind = ?4) AND "
        f"(e.kind IN ('parameter', 'input', 'output') AND e.name = ?5 OR e.kind = 'status' AND ?5 = '{STATUS_NAME}')"
    )
    with view.opened(journal) as own:
        for component_id in _components(own, component):
            last: dict[str, AuditedEntry] = {}
            for entry in entries_where(own, condition, (component_id, kind, name)):
                before = last.get(entry.kind)
                last[entry.kind] = entry
                if _within(entry.recorded_at_ns, since_ns, until_ns):
                    yield _revision(entry, before)


def check(journal: Journal, choice: Choice, name: str) -> None:
    """See whether there is such a key among what is chosen.

    Raises:
        NothingMatchesError: There is none: an empty history would look like a key that was never set.
    """
    known = names(journal, choice, "e.kind IN ('parameter', 'input', 'output')")
    if name not in {STATUS_NAME, *known}:
        raise nothing(journal, f"no {choice.kind or 'parameter, input or output'}", name, [*known, STATUS_NAME])


def _components(journal: Journal, component: str | None) -> list[int]:
    chosen = view.matching(journal, component)
    wanted = None if chosen is None else set(json.loads(chosen))
    return [row.id for row in journal.components() if wanted is None or row.id in wanted]


def _revision(entry: AuditedEntry, before: AuditedEntry | None) -> Revision:
    value = value_of(entry)
    if before is None:
        return Revision(entry, value, None, None, changed=True)
    earlier = value_of(before)
    return Revision(entry, value, before.seq, earlier, _shape(entry, value) != _shape(before, earlier))


def _shape(entry: AuditedEntry, value: object) -> tuple[object, ...]:
    """What makes two values the same: number and text differ even when they look alike, and so do media types."""
    return (
        type(value).__name__,
        repr(sorted(value.items(), key=str)) if isinstance(value, Mapping) else value,
        str(entry.detail.get("media_type")),
    )


def _within(recorded_at_ns: object, since_ns: int | None, until_ns: int | None) -> bool:
    if since_ns is None and until_ns is None:
        return True
    if not isinstance(recorded_at_ns, int):
        return False
    return (since_ns is None or recorded_at_ns >= since_ns) and (until_ns is None or recorded_at_ns < until_ns)
