"""What stands between training and all that delivers: nothing raised behind it gets past it, and nothing takes longer than its time.

Behind it are the network, credentials, the user's AWS configuration and plug-ins, boto3 and whatever it imports: any of these
may raise anything, or never return. What was recorded is in the journal by then, so a warning in the log is all that is owed.
A Ctrl-C, and what the user's signal handlers raise, are the user's: they pass, once the answers to what has been sent are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from journaltrack.errors import ErrorKind, JournaltrackError, RemoteError, described
from journaltrack.util.deadline import INTERRUPTED_GRACE_S, Deadline
from journaltrack.util.threads import OutOfTimeError, outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S: Final = 1.5
"""After its deadline, how long a pass may record what became of its requests before nobody waits for it any more."""


def guarded(call: Callable[[], T], failure: str, deadline: Deadline | None = None, *, sends: bool = False) -> T | None:
    """The result of a call, or None when it failed or took too long; then the log says so.

    Args:
        call: Made on a thread of its own: what signal handlers raise in the waiting one is told from what the call raises.
        failure: What it means that the call failed, for the log.
        deadline: The call's; cancelled when nobody waits for it any more. None: what the call does takes no time.
        sends: Whether it sends what changes something there, so that answers are to be recorded: an interruption of the waiting thread
            ends it in order, and is raised then. Otherwise it is raised at once.
    """
    ends = deadline or Deadline()

    def hurry(times: int) -> None:
        ends.cancel(grace_s=min(INTERRUPTED_GRACE_S if times == 1 else 0.0, ends.grace_remaining_s()))

    try:
        found = outcome(call, lambda: ends.grace_remaining_s() + GRACE_S, hurry if sends else None)
    finally:
        ends.cancel()
    if not isinstance(found, Exception):
        return found
    told = found if isinstance(found, (JournaltrackError, OutOfTimeError)) else described(found)
    logger.log(logging.INFO if _passes(found) else logging.WARNING, "%s: %s", failure, told)
    logger.debug("what was raised", exc_info=found)
    return None


def _passes(error: Exception) -> bool:
    """Whether nobody has to do anything: the network is down for now."""
    return isinstance(error, RemoteError) and error.kind is ErrorKind.TRANSIENT
