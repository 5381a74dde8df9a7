"""Follow the chains of many entries in a process of its own, beside the rest of a proof.

Python computes on one core. So the process follows the chains from the first entry up to one that
halves the work, and this process goes on from there after its own part.

The process has a snapshot of its own, which may be later. It says one thing: that every link holds,
without a gap, and where the chains are then. If it says anything else, or ends otherwise, or if
what follows does not hold, the caller follows all of the chains itself. So the caller's snapshot
alone tells of problems.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import view
from journaltrack.journal.chain import Heads, heads
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

ENTRIES_MIN: Final = 100_000
"""Our own limit: of fewer entries, the start of a process (0.1 s) takes as long as their chains."""
_ENTRIES_OF_ATTESTATION: Final = 8
"""As many entries are followed while one attestation is proved, with what it settled."""
_CODE: Final = "from journaltrack.reports.proof.beside import main; main()"
_LAST: Final = "SELECT coalesce(max(seq), 0), (SELECT max(id) FROM attestation) FROM entry"
_UP_TO: Final = "SELECT count(*), max(seq) FROM entry WHERE seq <= ?"
_DIGEST: Final = "SELECT hex(digest) FROM entry WHERE seq = ?"
# Across what was removed, only the caller can follow.
_REMOVED: Final = "SELECT 1 FROM attestation WHERE instr(body, '\"removed\"') LIMIT 1"


@contextlib.contextmanager
def following(database: Database) -> Iterator[Callable[[], Heads | None]]:
    """Follow the chains for the length of the block, if that is worth a process.

    Yields:
        A function that waits for the end, and returns up to where the chains of all entries hold.
        None: it is unknown.
    """
    ((last, attestations),) = database.read(_LAST)
    child = seen = None
    if last >= ENTRIES_MIN and _is_worth(database):
        half = (last + _ENTRIES_OF_ATTESTATION * (attestations or 0)) // 2
        seen = _seen(database, min(last, half))
        command = process.python(_CODE, str(database.path.parent), str(seen[1]))
        with contextlib.suppress(OSError):
            child = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
    try:
        yield lambda: _said(database, child.communicate()[0], seen) if child is not None else None
    finally:
        if child is not None:
            with child:
                child.kill()


def _is_worth(database: Database) -> bool:
    return (os.cpu_count() or 1) > 1 and process.can_have_child() and not database.read(_REMOVED)


def _seen(database: Database, up_to: int) -> list[Any]:
    """Return how many entries there are up to one, its ``seq``, and its digest."""
    ((entries, seq),) = database.read(_UP_TO, (up_to,))
    return [entries, seq, *database.read(_DIGEST, (seq,))[0]]


def _said(database: Database, text: bytes, seen: object) -> Heads | None:
    """Read what the process says. None if it followed something else than this process sees."""
    with contextlib.suppress(ValueError):
        theirs, ends = json.loads(text)
        at = {writer: (place, bytes.fromhex(digest)) for writer, place, digest in ends}
        writers = {writer for (writer,) in database.read("SELECT id FROM writer")}
        if theirs == seen and at.keys() <= writers:
            return Heads(theirs[1], at)
    return None


def main() -> None:
    """Follow the chains in this process, and print where they are if all of them hold."""
    folder, seq = sys.argv[1], int(sys.argv[2])
    with view.opened(folder) as journal, view.snapshot(journal.database):
        database = journal.database
        # As ``check.record_evidence``.
        database.connection.text_factory = str
        found = heads(database, seq)
        if found is None:
            return
        seen = _seen(database, seq)
    ends = [(writer, place, digest.hex()) for writer, (place, digest) in found.ends.items()]
    sys.stdout.write(json.dumps([seen, ends]))
