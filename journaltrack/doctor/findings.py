"""What an examination of a journal says, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from journaltrack.journal import view

Check: TypeAlias = Literal["files", "medium", "locks", "database", "schema", "records", "chains", "spool", "clock"]
CHECKS: Final[tuple[Check, ...]] = ("files", "medium", "locks", "database", "schema", "records", "chains", "spool", "clock")
Severity: TypeAlias = Literal["problem", "warning", "note"]
Repair: TypeAlias = Literal["owner", "permissions", "leftovers", "finish", "rebuild", "upgrade", "schema", "log", "mark", "lease", "spool"]
"""What ``doctor --repair`` can do; each is a function in ``repairs``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check saw.

    Attributes:
        check: Which.
        severity: "problem": data is lost, can't be delivered or can't be trusted until something is done; "warning":
            it may come to that; "note": worth knowing, nothing to do.
        message: What was found.
        meaning: What it means for the data.
        advice: What to do; "" when there is nothing to do.
        repair: What ``--repair`` does about it; None: it can't.
        subjects: The files or digests that it is about.
    """

    check: Check
    severity: Severity
    message: str
    meaning: str
    advice: str = ""
    repair: Repair | None = None
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did, or why it did nothing."""

    repair: Repair
    done: bool
    message: str


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found.

    Attributes:
        path: The journal's folder.
        journal_id: None when it can't be read.
        checked: The checks that could be made; the others need what is damaged.
        findings: In the order of the checks.
        repaired: What was done about those of an examination before this one.
    """

    path: str
    journal_id: str | None
    checked: tuple[Check, ...]
    findings: tuple[Finding, ...]
    repaired: tuple[Repaired, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings and notes may be."""
        return not any(f.severity == "problem" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return {**members, "healthy": self.healthy}
