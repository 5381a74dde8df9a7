"""Which process this is, and whether one that said so lives: by its number, and by when it was started, which tells apart who had it before.

Linux tells when; elsewhere a number alone has to do. Must not know what is locked or claimed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

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
