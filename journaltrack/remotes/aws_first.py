"""The first metric request goes alone: until one answer has proved itself, nobody knows who answers.

Points whose request got no answer that proves itself are in doubt. Behind a sign-in page or in a black
hole, those would be the points of all requests that a pass begins at once; so the others wait for the
first one's answer, and where it is none, are not sent.

Must not know what is sent.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError

if TYPE_CHECKING:
    from types import TracebackType

    from journaltrack.deadline import Deadline

_LOOK_S: Final = 0.05
"""Ours: how soon a thread that waits notices that the time is over."""


class FirstAlone:
    """Lets one thread into its block at a time until an answer proved itself, and any number then.

    Args:
        deadline: Nobody waits beyond it.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._silence: RemoteError | None = None

    def __enter__(self) -> None:
        """Wait for the first answer.

        Raises:
            RemoteError: It did not come, or is none of the service's: nothing was sent.
        """
        if self._known.is_set():
            return
        while not self._lock.acquire(timeout=_LOOK_S):
            if self._known.is_set():
                return
            if self._deadline.over:
                raise RemoteError("the time was over before another request was answered", kind=ErrorKind.TRANSIENT, code=DEADLINE_OVER)
        if self._known.is_set():
            self._lock.release()
            return
        if self._silence is not None:
            self._lock.release()
            raise _not_sent(self._silence)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Look at what became of the request."""
        if self._known.is_set():
            return
        if error is None or (isinstance(error, RemoteError) and error.request_id is not None):
            self._known.set()
        elif isinstance(error, RemoteError) and error.unreachable and error.maybe_applied:
            self._silence = error
        self._lock.release()


def _not_sent(silence: RemoteError) -> RemoteError:
    message = f"not sent, since the request before it got no answer of the service's: {silence.message}"
    return RemoteError(message, kind=silence.kind, code=silence.code, hint=silence.hint, unreachable=True)
