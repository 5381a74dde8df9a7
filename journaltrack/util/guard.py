"""Guard training against delivery: no exception gets through, and no call exceeds its time.

Delivery means the network, credentials, the user's AWS configuration and plug-ins, boto3 and its
imports. Any of these may raise anything, or never return. What was recorded is in the journal by
then, so a warning in the log is enough. Ctrl-C, and exceptions from the user's signal handlers,
belong to the user: they get through, once the answers to sent requests are recorded.
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
"""How long after its deadline a pass may still record the outcomes of its requests."""


def guarded(
    call: Callable[[], T], failure: str, deadline: Deadline | None = None, *, sends: bool = False
) -> T | None:
    """Return the result of a call, or None if it failed or took too long, and log that.

    Args:
        call: The call, made on a thread of its own. So its exceptions can be told from those that
            signal handlers raise in the waiting thread.
        failure: What a failure means, for the log.
        deadline: The call's deadline, cancelled when nobody waits any more. None: the call is
            quick.
        sends: Whether the call changes something at the remote, so that answers must be recorded.
            Then an interruption of the waiting thread is raised after an orderly end, otherwise at
            once.
    """
    ends = deadline or Deadline()

    def hurry(times: int) -> None:
        grace_s = INTERRUPTED_GRACE_S if times == 1 else 0.0
        ends.cancel(grace_s=min(grace_s, ends.grace_remaining_s()))

    try:
        found = outcome(call, lambda: ends.grace_remaining_s() + GRACE_S, hurry if sends else None)
    finally:
        ends.cancel()
    if not isinstance(found, Exception):
        return found
    has_words = isinstance(found, (JournaltrackError, OutOfTimeError))
    told = found if has_words else described(found)
    logger.log(logging.INFO if _passes(found) else logging.WARNING, "%s: %s", failure, told)
    logger.debug("what was raised", exc_info=found)
    return None


def _passes(error: Exception) -> bool:
    """Return whether nobody must act: the network is down for now."""
    return isinstance(error, RemoteError) and error.kind is ErrorKind.TRANSIENT
