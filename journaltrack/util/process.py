"""Identify processes, and detect calls that are made inside other calls.

Processes: a process is identified by its number and by its start time, since numbers are reused.
Linux tells the start time. On other systems the number alone must do.

Calls: code can call into an object while the same thread runs one of its methods. Signal handlers,
``__del__`` and logging handlers do that. A flag alone can't show it: an exception from a signal
handler may leave the flag set. The thread's stack can. Callers look at the stack only if the flag
is set, so that it may cost microseconds.

Must not know what is locked or claimed, or what the calls do.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

_RANKS: Final = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_RANK_DIGITS: Final = 12
_WORDS_MAX: Final = 100_000
_WORD_CHARS_MAX: Final = 16_384
"""Ours: texts of a list of ``sys`` that are looked at, and their characters."""
# Fields of /proc/<pid>/stat after the command, see proc(5).
_STATE_FIELD, _STARTED_FIELD = 0, 19
# The process has ended, and its parent has not asked yet how.
_ENDED: Final = frozenset({"Z", "X"})


def rank() -> str | None:
    """Return this process's rank in its job, None for the first one and outside of a job.

    It is a number, as the launcher says it (torchrun, MPI, Slurm).
    """
    told = (os.environ.get(name, "") for name in _RANKS)
    # What is longer is no rank, and Python may refuse to read it.
    found = next((e for e in told if e.isascii() and e.isdigit() and len(e) <= _RANK_DIGITS), "0")
    return None if int(found) == 0 else str(int(found))


def host() -> str:
    """Return this machine's name: ``socket.gethostname()``, without 2 ms to import that."""
    return os.uname().nodename


def can_have_child() -> bool:
    """Return whether ``sys.executable`` is a Python.

    A frozen program is itself the executable; an embedded interpreter has none.
    """
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def python(code: str, *arguments: str) -> list[str]:
    """Return the command that runs code of ours, found where this process found it."""
    path = [os.fsdecode(each) for each in sys.path if isinstance(each, (str, bytes, os.PathLike))]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!a}; {code}", *arguments]


def boot() -> str | None:
    """Return an id of this machine's boot, or None if the system has none."""
    return text_of("/proc/sys/kernel/random/boot_id")


def since_boot_s() -> float:
    """Return monotonic seconds that also count while the machine is suspended."""
    # macOS's CLOCK_MONOTONIC does, and it has no other name there.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def started(pid: int) -> str | None:
    """Return a process's start time in the kernel's unit.

    None if the process has ended, or if the system does not tell.
    """
    text = text_of(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split() if text else []
    if len(fields) <= _STARTED_FIELD or fields[_STATE_FIELD] in _ENDED:
        return None
    return fields[_STARTED_FIELD]


def runs(pid: object, begun: object) -> bool:
    """Return whether a process is alive.

    Args:
        pid: The process's number, as read from a file.
        begun: The start time that ``started`` returned for it.
    """
    if not isinstance(pid, int) or pid <= 0:
        return False
    if begun is not None:
        return started(pid) == begun
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # It belongs to another user.
        return True
    return True


def text_of(path: str) -> str | None:
    """Return the text of a system's file, or None if it is missing or empty."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def texts(name: str) -> list[str]:
    """Return the texts in a list of ``sys``, such as ``argv``: programs put anything there."""
    with contextlib.suppress(Exception):
        # Not a subclass of str, whose methods may do anything.
        return [
            str.__str__(each)[:_WORD_CHARS_MAX]
            for each in islice(getattr(sys, name), _WORDS_MAX)
            if isinstance(each, str)
        ]
    return []


def executable() -> str:
    """Return the path of this process's interpreter; "" if none is known."""
    found = getattr(sys, "executable", None)
    return found if type(found) is str else ""


def codes_of(*functions: Callable[..., Any]) -> frozenset[CodeType]:
    """Return the code objects of functions, for ``depth``."""
    return frozenset(function.__code__ for function in functions)


def depth(owner: object, codes: frozenset[CodeType]) -> int:
    """Count this thread's unfinished calls of ``owner``'s methods with these codes."""
    count = 0
    # The only way to a thread's own stack.
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is owner:
            count += 1
        frame = frame.f_back
    return count
