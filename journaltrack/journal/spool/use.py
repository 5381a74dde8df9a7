"""What the spool takes on the disk, and which contents something undelivered needs. Reads alone; must not know how they are removed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack.journal import queries
from journaltrack.journal.queries import PROBLEM
from journaltrack.util.digest import is_digest

if TYPE_CHECKING:
    from collections.abc import Collection

    from journaltrack.journal.sqlite.connection import Database

_NEEDED: Final = (  # above the mark, and through the index on problems: nothing of what was delivered is read
    f"SELECT json_extract(e.payload, '$.sha256') {queries.PENDING} AND e.stream = 'upload' AND json_valid(e.payload) "
    "UNION SELECT json_extract(e.payload, '$.sha256') {} "
    f"WHERE {PROBLEM} AND e.stream <> 'metric' AND e.stream = 'upload' AND json_valid(e.payload)"
)


_OF_SIZE: Final = "SELECT sha256 FROM blob WHERE size_bytes = ? ORDER BY spooled_at_ns DESC LIMIT 8"
"""Reads the whole table, which has a row per content: 3 ms for 100,000, where the alternative is to write a file of a megabyte or more."""


@dataclass(frozen=True, slots=True)
class SpoolUse:
    """Regular files in the spool: how many, their bytes, and the bytes of contents that nothing undelivered needs."""

    files: int = 0
    size_bytes: int = 0
    delivered_bytes: int = 0


def needed(database: Database) -> set[str]:
    """Contents of uploads that are pending, in flight, in doubt or quarantined; costs what is not delivered."""
    return {sha256 for (sha256,) in database.read(_NEEDED.format(queries.of_problems(database))) if isinstance(sha256, str)}


def of_size(database: Database, size_bytes: int) -> list[str]:
    """Contents of that many bytes that the spool holds or held, the newest first; a few at most."""
    return [sha256 for (sha256,) in database.read(_OF_SIZE, (size_bytes,)) if is_digest(sha256)]


def use(spool: Path, wanted: Collection[str] = ()) -> SpoolUse:
    """One look at every file, no link followed.

    Args:
        spool: The folder.
        wanted: Contents that something undelivered needs.
    """
    files = size = delivered = 0
    for parent, _, names in os.walk(spool):
        on_its_way = Path(parent) == spool
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except OSError:
                continue  # an upload's temporary file, or somebody removes it
            if stat.S_ISREG(status.st_mode):
                files += 1
                size += status.st_size
                delivered += 0 if on_its_way or name in wanted else status.st_size
    return SpoolUse(files, size, delivered)
