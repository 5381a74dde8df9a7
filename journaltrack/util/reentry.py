"""Tell a call that is made inside another one from a call that comes after one that an exception ended.

A signal handler, a ``__del__`` that the garbage collector runs, or a logging handler can call into an object while the
same thread is in the middle of one of its methods. A flag alone can't say so: an exception that a signal handler raises
may leave the flag set. The thread's stack can. It is looked at only when the flag is set, so it may cost microseconds.

Must not know what the calls do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def codes_of(*functions: Callable[..., Any]) -> frozenset[CodeType]:
    """Return the code objects of functions, for ``depth``."""
    return frozenset(function.__code__ for function in functions)


def depth(owner: object, codes: frozenset[CodeType]) -> int:
    """Count the calls of ``owner``'s methods with these codes that this thread is inside of."""
    count = 0
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the one way to a thread's own stack
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is owner:
            count += 1
        frame = frame.f_back
    return count
