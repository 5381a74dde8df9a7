"""Calls that the journal has not taken yet: they wait in memory, in order, and are lost if the process ends.

Invariant: adding and removing a call is one step of the interpreter, so that neither an exception nor a call from a signal
handler finds a part of one. Must not know how calls are written.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from journaltrack import limits
from journaltrack.errors import JournalWriteError
from journaltrack.journal.entries import Draft


class Call(NamedTuple):
    """A call on its way into the journal: all its drafts are recorded, or none.

    Attributes:
        component_id: Of the component that it is about.
        drafts: What it records.
        at_ns: When it was made, nanoseconds since the epoch, UTC.
        condition: Checked in the transaction that records it: only if it holds, anything is recorded.
    """

    component_id: int
    drafts: tuple[Draft, ...]
    at_ns: int
    condition: Callable[[], bool] | None = None


class Waiting(deque[Call]):
    """The calls that wait.

    Attributes:
        generation: Of the process that they belong to (``Database.generation``).
        entries: How many entries they hold.
    """

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation
        self.entries = 0

    def add(self, call: Call) -> None:
        """Let a call wait.

        Raises:
            JournalWriteError: Too many entries wait already. This call does not.
        """
        if self.entries + len(call.drafts) > limits.BUFFERED_ENTRIES_MAX:
            raise JournalWriteError(
                f"the journal takes no entries and {self.entries} wait in memory, which is the limit; this call was not recorded",
                hint="free the disk or the lock on the journal",
                unwritten=self.entries,
            )
        self.append(call)
        self.entries += len(call.drafts)

    def first(self, count: int) -> tuple[Call, ...]:
        """Return the first calls, ``count`` at most."""
        while True:
            with contextlib.suppress(RuntimeError):  # a signal handler has let another one wait meanwhile
                return tuple(islice(self, count))

    def forget(self, *calls: Call) -> bool:
        """Let calls wait no longer; return whether the last one still did."""
        found = False
        for call in calls:
            found = call in self
            if found:
                self.remove(call)
        self.count_again()
        return found

    def count_again(self) -> None:
        """Count the entries: an interruption may have left another number."""
        self.entries = sum(len(call.drafts) for call in tuple(self))

    def follow_fork(self, generation: int) -> None:
        """Forget the parent's calls in a forked child: they are the parent's to write."""
        if self.generation != generation:
            self.clear()
            self.entries = 0
            self.generation = generation
