"""Follow the chains of many entries in a process of its own, beside the rest of a proof.

The entries and their attestations each take half of a proof, and Python computes on one core.

The process has a snapshot of its own, which may be later. It says one thing: that every link holds,
without a gap, up to the last entry of the caller's snapshot. If it says anything else, or ends
otherwise, the caller follows the chains itself. So the caller's snapshot alone tells of problems.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from journaltrack.journal import view
from journaltrack.journal.chain import chain_problems
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database

ENTRIES_MIN: Final = 100_000
"""Our own limit: of fewer entries, the start of a process (0.1 s) takes as long as their chains."""
_CODE: Final = "from journaltrack.reports.proof.beside import main; main()"
_COUNTED: Final = "SELECT count(*) FROM entry WHERE seq <= ?"
_LAST: Final = "SELECT seq, hex(digest) FROM entry ORDER BY seq DESC LIMIT 1"
# Across what was removed, only the caller can follow.
_REMOVED: Final = "SELECT 1 FROM attestation WHERE instr(body, '\"removed\"') LIMIT 1"


@contextlib.contextmanager
def following(database: Database) -> Iterator[Callable[[], bool]]:
    """Follow the chains for the length of the block, if that is worth a process.

    Yields:
        A function that waits for the end, and returns whether the chains of all entries hold.
        False: it is unknown.
    """
    child, wanted = None, ""
    if (last := database.read(_LAST)) and last[0][0] >= ENTRIES_MIN and _is_worth(database):
        ((seq, digest),) = last
        ((entries,),) = database.read(_COUNTED, (seq,))
        wanted = f"{entries} {digest}"
        command = process.python(_CODE, str(database.path.parent), str(seq))
        with contextlib.suppress(OSError):
            child = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def all_hold() -> bool:
        """Wait, and compare what it says."""
        return child is not None and child.communicate()[0] == wanted

    try:
        yield all_hold
    finally:
        if child is not None:
            with child:
                child.kill()


def _is_worth(database: Database) -> bool:
    return (os.cpu_count() or 1) > 1 and process.can_have_child() and not database.read(_REMOVED)


def main() -> None:
    """Follow the chains in this process, and print what was followed if all of them hold."""
    folder, seq = sys.argv[1], int(sys.argv[2])
    with view.opened(folder) as journal, view.snapshot(journal.database):
        database = journal.database
        # As ``check.record_evidence``.
        database.connection.text_factory = str
        if chain_problems(database, up_to=seq):
            return
        ((entries,),) = database.read(_COUNTED, (seq,))
        ((digest,),) = database.read("SELECT hex(digest) FROM entry WHERE seq = ?", (seq,))
    sys.stdout.write(f"{entries} {digest}")
