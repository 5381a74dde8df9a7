"""Tell which process this is, whether another one lives, and whether a call is made inside another.

Which process this is, and whether one that said so lives: by its number, and by when it was started, which tells apart who had it before.

Linux tells when; elsewhere a number alone has to do. Must not know what is locked or claimed.

Tell a call that is made inside another one from a call that comes after one that an exception ended.

A signal handler, a ``__del__`` that the garbage collector runs, or a logging handler can call into an object while the
same thread is in the middle of one of its methods. A flag alone can't say so: an exception that a signal handler raises
may leave the flag set. The thread's stack can. It is looked at only when the flag is set, so it may cost microseconds.

Must not know what the calls do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

_STATE_FIELD, _STARTED_FIELD = 0, 19  # of /proc/<pid>/stat behind the command, see proc(5)
_ENDED: Final = frozenset({"Z", "X"})  # its parent has not asked yet how it ended


def boot() -> str | None:
    """What tells this machine's life since it was started from every other; None where the system does not tell."""
    return text_of("/proc/sys/kernel/random/boot_id")


def started(pid: int) -> str | None:
    """When a process started, as the kernel counts; None when it ended, or the system does not tell."""
    text = text_of(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split() if text else []
    return fields[_STARTED_FIELD] if len(fields) > _STARTED_FIELD and fields[_STATE_FIELD] not in _ENDED else None


def runs(pid: object, begun: object) -> bool:
    """Whether the process that was started then is there.

    Args:
        pid: Its number, as a file told it.
        begun: What ``started`` said of it.
    """
    if not isinstance(pid, int) or pid <= 0:
        return False
    if begun is not None:
        return started(pid) == begun
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def text_of(path: str) -> str | None:
    """Of a file that the system makes; None if there is none, or nothing in it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


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
