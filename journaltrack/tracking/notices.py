"""Warn a tracker's caller about what was recorded, once per name.

Invariant: a warning comes last, after the entry is in the journal. Whoever turns warnings into
errors (``python -W error``) loses no entry by it.
Must not know the journal.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack import limits
from journaltrack.errors import UndeliverableError
from journaltrack.tracking.validation import JournaltrackWarning

if TYPE_CHECKING:
    from journaltrack.journal.entries import Draft

_PACKAGE: Final = str(Path(__file__).parent)


class Notice(NamedTuple):
    """Something to tell once for each kind and name."""

    kind: str
    name: str
    text: str


class Notices:
    """Tell each notice of one tracker once."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def refuse(self, drafts: Iterable[Draft]) -> None:
        """Refuse, for strict trackers, what AWS could never accept.

        Nothing is recorded by then.

        Raises:
            UndeliverableError: AWS could never accept one of them.
        """
        for draft in drafts:
            if draft.undeliverable is not None:
                text = f"{_told_of(draft)}; it was not recorded"
                hint = "strict=False records it and leaves it out of the delivery"
                raise UndeliverableError(text, hint=hint)

    def tell(self, drafts: Iterable[Draft], others: Iterable[Notice] = ()) -> None:
        """Warn of recorded drafts that AWS could never accept, and give other notices."""
        for draft in drafts:
            if draft.undeliverable is not None:
                text = f"{_told_of(draft)}. It is recorded, but will not be delivered"
                self._tell(Notice(draft.kind, draft.name or "", text))
        for notice in others:
            self._tell(notice)

    def _tell(self, notice: Notice) -> None:
        if notice[:2] not in self._told:
            # Before the warning, which may be an error.
            self._told.add(notice[:2])
            warn(notice.text)


def warn(text: str) -> None:
    """Give a ``JournaltrackWarning`` at the line that called into the package."""
    frame, level = sys._getframe(), 1  # noqa: SLF001 - how warnings finds it, too
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, JournaltrackWarning, stacklevel=level)


def _told_of(draft: Draft) -> str:
    return f"{draft.kind} {limits.shown(draft.name or '')}: {draft.undeliverable}"
