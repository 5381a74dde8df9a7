"""A limit for the spool: delivered artifacts make room, the oldest first, and if that is not enough the call fails.

Nothing that is not delivered is ever removed, and no artifact is left out in silence. Must not know the lease or SQL: making room
is handed in by ``composition``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from journaltrack.errors import JournalFullError
from journaltrack.journal.spool import use
from journaltrack.journal.spool.spool import Spool


def admit(spool: Spool, file: Path, max_bytes: int, make_room: Callable[[int], int] | None) -> None:
    """See that a file fits into the spool.

    Several processes that log at the same moment may go beyond the limit by what each of them logs.

    Args:
        spool: Where it goes.
        file: What is to be logged.
        max_bytes: Of all files in the spool.
        make_room: Removes delivered contents until so many bytes are free; returns how many it freed.

    Raises:
        JournalFullError: It does not fit. Nothing was copied.
    """
    try:
        wanted = os.stat(file).st_size  # noqa: PTH116
    except (OSError, ValueError):  # also a NUL in the path
        return  # copying it says what is wrong
    excess = use.use(spool.folder).size_bytes + wanted - max_bytes
    if excess <= 0:
        return
    if make_room is not None and wanted <= max_bytes:
        excess -= make_room(excess)
    if excess > 0 and not spool.holds(file):
        raise JournalFullError(
            f"{file} ({wanted} bytes) was not logged: with it the spool at {spool.folder} would be {excess} bytes over its limit of {max_bytes}",
            hint="`journaltrack sync` delivers what waits, and then makes room; or raise spool_max_bytes",
        )
