"""One journal is delivered from one place, as far as one process sees: of copies of a journal it delivers the one that is ahead.

Two dated copies of a journal in one inbox have the same id and the same entries: both delivered, every point would be there twice.
Whoever comes first has the journal's place, until its folder is gone or moved, or a copy turns up that went further. What other
processes deliver elsewhere is for ``ahead`` to find out. Reads journals, changes none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from journaltrack.errors import JournalBehindError, JournalError, JournalNotFoundError, NotAJournalError
from journaltrack.replay import pass_report
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.replay.pass_report import Work


@dataclass(slots=True)
class _Place:
    """Of one journal; ``busy``: a pass of it is being made."""

    folder: Path
    busy: bool = False


class OnePlace:
    """Which folder each journal is delivered from. Threads may share it."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, folder: Path, work: Work) -> Iterator[None]:
        """Deliver the journal from this folder inside of the block.

        Args:
            folder: Of a journal.
            work: What waits in it.

        Raises:
            JournalBehindError: It is delivered from another folder, which holds a copy of it that is as far, or under way. Nothing was sent.
        """
        with self._lock:
            place = self._places.get(work.journal_id)
            if place is None or (place.folder != folder and self._gives_way(place, folder, work)):
                place = self._places[work.journal_id] = _Place(folder)
            elif place.folder != folder:
                raise _twice(folder, place.folder)
            place.busy = True
        try:
            yield
        except JournalBehindError:  # a copy elsewhere is ahead of this one: perhaps the one beside it is that one
            with self._lock:
                if self._places.get(work.journal_id) is place:
                    del self._places[work.journal_id]
            raise
        finally:
            place.busy = False

    def _gives_way(self, place: _Place, folder: Path, work: Work) -> bool:
        try:
            there = pass_report.look(place.folder)
        except (JournalNotFoundError, NotAJournalError):
            return True
        except JournalError:  # it can't be told now
            return False
        if there.journal_id != work.journal_id:
            return True
        if place.busy:
            return False
        return _is_same(place.folder, folder) or _reach(work) > _reach(there)


def _reach(work: Work) -> tuple[int, int]:
    """How far a copy went: what was delivered counts first, since only that copy knows of it."""
    return work.position.receipt_id, work.position.seq


def _is_same(folder: Path, other: Path) -> bool:
    """Whether both are one folder: it was moved, and a link left in its place."""
    try:
        return (folder / paths.DATABASE).samefile(other / paths.DATABASE)
    except OSError:
        return False


def _twice(folder: Path, other: Path) -> JournalBehindError:
    return JournalBehindError(
        f"{folder} is a copy of the journal at {other}, which is delivered from there; nothing of this copy was sent",
        hint=f"if it has entries that the other one has not, `journaltrack merge {folder} --into {other}` brings them; then move it away",
    )
