"""The one end of a pass, whatever ends it: nothing left to do, a halt, a deadline, Ctrl-C, an error of the journal, a bug.

Hand nothing more out; take back what no worker began; close the gate, so that nothing more leaves; wait for answers on their way
within the grace; record every answer in hand, and try again for a while when the journal refuses. Only then the lease is given back.

Must not know what requests are for.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from journaltrack.errors import JournalError, JournalReadOnlyError, JournalWriteError
from journaltrack.replay.dispatch import GROUP_S, HEARTBEAT_S
from journaltrack.util.deadline import INTERRUPTED_GRACE_S, Deadline

if TYPE_CHECKING:
    from journaltrack.replay.dispatch import Crew, Dispatch
    from journaltrack.replay.evidence.outcomes import Settlement
    from journaltrack.replay.gate import Gate

logger = logging.getLogger(__name__)

GRACE_S: Final = 30.0
"""How long answers are waited for when no deadline says it: the longest silence that a request allows."""
AFTER_S: Final = 0.5
"""Beyond the grace: what arrived with its last moment."""
RECORD_FOR_S: Final = 20.0
"""How long recording is tried again: another process's lock, a full disk and an error of the device pass."""
_PAUSE_MAX_S: Final = 1.0


class Ending:
    """Ends one pass; ``hurry`` may be called by another thread.

    Args:
        gate: Of the pass.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._interruptions = 0
        self._patience = Deadline()

    def hurry(self, times: int) -> None:
        """Somebody interrupted the pass, so many times: end it soon; the second time, wait for nothing any more."""
        self._interruptions = times
        self._gate.close(INTERRUPTED_GRACE_S if times == 1 else 0.0)
        if times > 1:
            self._patience.cancel()

    def end(self, dispatch: Dispatch, crew: Crew, settlement: Settlement) -> None:
        """End the pass; afterwards nothing of it leaves, and what is known of its requests is in the journal.

        Raises:
            JournalError: What is in hand can't be recorded, for as long as was tried.
        """
        try:
            if crew.unfinished():
                self._gate.close(GRACE_S)
            dispatch.withdraw()
            self._await_answers(dispatch, crew, settlement)
            lost = dispatch.give_up()
            if lost:
                logger.warning("%d requests did not end in time; the next sync finds out what became of them", lost)
            self._record(dispatch)
        finally:
            crew.close(wait=not crew.unfinished())  # one that is stuck keeps nobody from exiting

    def _await_answers(self, dispatch: Dispatch, crew: Crew, settlement: Settlement) -> None:
        dispatch.collect()
        last_moment: Deadline | None = None
        while crew.unfinished():
            left_s = self._gate.grace_remaining_s()
            if left_s <= 0:
                last_moment = last_moment or Deadline(AFTER_S)
                left_s = last_moment.remaining_s()
            if not crew.wait(min(HEARTBEAT_S, left_s), GROUP_S) and left_s <= 0:
                return
            dispatch.collect()
            with contextlib.suppress(JournalError):  # it is tried again, and told then
                dispatch.record()
                settlement.renew()

    def _record(self, dispatch: Dispatch) -> None:
        pause_s = 0.05
        self._patience = Deadline(RECORD_FOR_S if self._interruptions <= 1 else 0.0)
        while True:
            try:
                dispatch.record()
            except JournalReadOnlyError:
                raise
            except JournalWriteError as error:
                if self._patience.over:
                    raise
                logger.warning("what was answered could not be recorded, which is tried again: %s", error.message)
            else:
                return
            self._patience.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
