"""Work on a journal that others append to, in transactions that are short however much there is to do.

Who appends waits for whoever holds SQLite's write lock. So a merge, an import, a prune or a release takes as much into one
transaction as fits into some milliseconds, and leaves the lock free for a moment after each. Must not know what is written.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import sqlite3

    from journaltrack.replay.evidence.attestations import Attestor

T = TypeVar("T")

TRANSACTION_S: Final = 0.015
"""Ours: how long a transaction shall take: an append that meets one waits for it."""
PAUSE_S: Final = 0.002
"""Ours: at least between two: SQLite looks again after 1 ms and 2 ms, then more rarely, so that a waiting append gets its turn."""
_FIRST: Final = 500
_MIN, _MAX = 50, 20_000


class Turns:
    """Transactions of an attestor, and how much to take into the next one.

    Attributes:
        size: So many rows.
    """

    def __init__(self, attestor: Attestor) -> None:
        self.size = _FIRST
        self._attestor = attestor
        self._ended = 0.0

    def pages(self, rows: Iterable[T]) -> Iterator[list[T]]:
        """As many of them at a time as the next transaction shall take."""
        left = iter(rows)
        while page := list(itertools.islice(left, self.size)):
            yield page

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """As the attestor's, some time after the last one; then choose the next size.

        Raises:
            LeaseLostError: Somebody else took the lease over.
        """
        left_s = self._ended + PAUSE_S - time.monotonic()
        if left_s > 0:  # else what was prepared since took long enough
            time.sleep(left_s)
        with self._attestor.transaction() as connection:
            began = time.monotonic()  # the wait for others is not what was too much
            yield connection
        self._ended = time.monotonic()
        self.size = max(_MIN, min(int(self.size * min(2.0, TRANSACTION_S / max(self._ended - began, 1e-4))), _MAX))
