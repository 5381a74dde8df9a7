"""Keep calls in memory, in order, until the journal accepts them.

They are lost if the process ends before. Invariant: adding or removing a call is one step of the
interpreter, so no exception and no signal handler finds a part of a call. Must not know how calls
are written.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from journaltrack import limits
from journaltrack.errors import JournalWriteError
from journaltrack.journal.vocabulary import Draft


class Call(NamedTuple):
    """A call to record: all its drafts, or none.

    Attributes:
        component_id: The component's id.
        drafts: The entries to record.
        at_ns: The time of the call, nanoseconds since the epoch, UTC.
        condition: Checked in the transaction that records the call. If it is false, nothing is
            recorded.
    """

    component_id: int
    drafts: tuple[Draft, ...]
    at_ns: int
    condition: Callable[[], bool] | None = None


class Waiting(deque[Call]):
    """The waiting calls.

    Attributes:
        generation: The process that they belong to (``Database.generation``).
        entries: Number of their entries.
    """

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation
        self.entries = 0

    def add(self, call: Call) -> None:
        """Add a call.

        Raises:
            JournalWriteError: Too many entries wait. This call was not added.
        """
        if self.entries + len(call.drafts) > limits.BUFFERED_ENTRIES_MAX:
            raise JournalWriteError(
                f"this call was not recorded: {self.entries} entries wait in memory, the limit",
                hint="free space on its disk, or end the process that locks it",
                unwritten=self.entries,
            )
        self.append(call)
        self.entries += len(call.drafts)

    def first(self, count: int) -> tuple[Call, ...]:
        """Return the first calls, ``count`` at most."""
        while True:
            # A signal handler may add a call meanwhile: then try again.
            with contextlib.suppress(RuntimeError):
                return tuple(islice(self, count))

    def forget(self, *calls: Call) -> bool:
        """Remove calls, and return whether the last one was still waiting."""
        found = False
        for call in calls:
            found = call in self
            if found:
                self.remove(call)
        self.count_again()
        return found

    def count_again(self) -> None:
        """Count the entries again: an interruption may have left a wrong number."""
        self.entries = sum(len(call.drafts) for call in tuple(self))

    def follow_fork(self, generation: int) -> None:
        """Forget the parent's calls in a forked child: they are the parent's to write."""
        if self.generation != generation:
            self.clear()
            self.entries = 0
            self.generation = generation
