"""Deliver each journal from one folder only, as far as this process sees.

Two dated copies of a journal in one inbox have the same id and the same entries. If both were
delivered, every point would be duplicated. The first copy keeps the journal's place until its
folder is gone or moved, or a copy turns up that went further. Copies that other processes deliver
elsewhere are for ``ahead`` to find. Reads journals, changes none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from journaltrack.errors import (
    JournalBehindError,
    JournalError,
    JournalNotFoundError,
    NotAJournalError,
)
from journaltrack.replay import pass_report
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.replay.pass_report import Work


@dataclass(slots=True)
class _Place:
    """Hold the place of one journal; ``busy`` while a pass runs."""

    folder: Path
    busy: bool = False


class OnePlace:
    """Remember which folder each journal is delivered from. Threads may share it."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, folder: Path, journal_id: str, work: Callable[[], Work]) -> Iterator[None]:
        """Deliver the journal from this folder for the block.

        Args:
            folder: Of a journal.
            journal_id: Its id.
            work: Returns what waits in it; called if another folder has the journal's place.

        Raises:
            JournalBehindError: The journal is delivered from another folder, which holds a copy
                of it that is as far, or under way. Nothing was sent.
        """
        with self._lock:
            place = self._places.get(journal_id)
            if place is None or (place.folder != folder and self._gives_way(place, folder, work())):
                place = self._places[journal_id] = _Place(folder)
            elif place.folder != folder:
                raise _twice(folder, place.folder)
            place.busy = True
        try:
            yield
        # A copy elsewhere is ahead of this one; perhaps it is the one beside it.
        except JournalBehindError:
            with self._lock:
                if self._places.get(journal_id) is place:
                    del self._places[journal_id]
            raise
        finally:
            place.busy = False

    def _gives_way(self, place: _Place, folder: Path, work: Work) -> bool:
        try:
            there = pass_report.look(place.folder)
        except (JournalNotFoundError, NotAJournalError):
            return True
        # It can't be told now.
        except JournalError:
            return False
        if there.journal_id != work.journal_id:
            return True
        if place.busy:
            return False
        return _is_same(place.folder, folder) or _reach(work) > _reach(there)


def _reach(work: Work) -> tuple[int, int]:
    """Return how far a copy went, deliveries first: no other copy knows them."""
    return work.position.receipt_id, work.position.seq


def _is_same(folder: Path, other: Path) -> bool:
    """Return whether both are one folder.

    A folder may have moved and left a link in its place.
    """
    try:
        return (folder / paths.DATABASE).samefile(other / paths.DATABASE)
    except OSError:
        return False


def _twice(folder: Path, other: Path) -> JournalBehindError:
    return JournalBehindError(
        f"{folder} is a copy of the journal at {other}, which is delivered from there; nothing "
        "of this copy was sent",
        hint=f"if it has entries that the other lacks, run `journaltrack merge {folder} "
        f"--into {other}`; then move it away",
    )
