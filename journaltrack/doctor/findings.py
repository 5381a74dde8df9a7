"""Represent what an examination of a journal found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from journaltrack.journal import view

Check: TypeAlias = Literal[
    "files", "medium", "locks", "database", "schema", "records", "chains", "spool", "clock"
]
CHECKS: Final[tuple[Check, ...]] = (
    "files",
    "medium",
    "locks",
    "database",
    "schema",
    "records",
    "chains",
    "spool",
    "clock",
)
Severity: TypeAlias = Literal["problem", "warning", "note"]
Repair: TypeAlias = Literal[
    "owner",
    "permissions",
    "leftovers",
    "finish",
    "rebuild",
    "upgrade",
    "schema",
    "log",
    "mark",
    "lease",
    "spool",
]
"""What ``check --repair`` can do; each is a function in ``repairs``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe what a check found.

    Attributes:
        check: Which check.
        severity: "problem": data is lost, can't be delivered or can't be trusted until you act;
            "warning": it may come to that; "note": worth knowing, nothing to do.
        message: What was found.
        meaning: What it means for the data.
        advice: What to do; "" if there is nothing to do.
        repair: What ``--repair`` does about it; None if it can't help.
        subjects: The files or digests concerned.
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
    """Say what a repair did, or why it did nothing."""

    repair: Repair
    done: bool
    message: str


@dataclass(frozen=True, slots=True)
class Examination:
    """Hold everything that was found.

    Attributes:
        path: The journal's folder.
        journal_id: None if it can't be read.
        checked: The checks that ran; the others need what is damaged.
        findings: In the order of the checks.
        repaired: What was repaired of an earlier examination.
    """

    path: str
    journal_id: str | None
    checked: tuple[Check, ...]
    findings: tuple[Finding, ...]
    repaired: tuple[Repaired, ...] = ()

    @property
    def healthy(self) -> bool:
        """Return whether there is no problem; warnings and notes are allowed."""
        return not any(f.severity == "problem" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return {
            "journal": members.pop("path"),
            "journal_id": self.journal_id,
            "healthy": self.healthy,
            **members,
        }
