"""Who appends: the process as the journal's ``writer`` row describes it.

Reads git's files itself: starting ``git`` would cost more than everything else that creating a tracker does. Nothing
of the environment is recorded, and of the command line only the program's path: arguments may hold secrets.
"""

from __future__ import annotations

import getpass
import os
import platform
import socket
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from journaltrack._version import __version__


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """One process that appends. ``uuid`` is unique; the order of the fields is that of the table's columns."""

    uuid: str
    host: str
    pid: int
    user: str
    program: str
    started_at_ns: int
    package_version: str
    python_version: str
    git_commit: str | None


def describe_process(now_ns: int) -> WriterInfo:
    """This process, now (nanoseconds since the epoch, UTC)."""
    program = sys.argv[0] if sys.argv and sys.argv[0] not in {"", "-c"} else "(interactive)"
    return WriterInfo(
        uuid=str(uuid.uuid4()),
        host=socket.gethostname(),
        pid=os.getpid(),
        user=_user(),
        program=_storable(os.path.abspath(program) if os.path.exists(program) else program),  # noqa: PTH100, PTH110 - keeps symlinks
        started_at_ns=now_ns,
        package_version=__version__,
        python_version=platform.python_version(),
        git_commit=git_commit(Path(program).parent if os.path.exists(program) else Path.cwd()),  # noqa: PTH110
    )


def git_commit(folder: Path) -> str | None:
    """The commit checked out in the work tree that ``folder`` is in, or None."""
    try:
        for parent in (folder.resolve(), *folder.resolve().parents):
            git = parent / ".git"
            if not git.exists():
                continue
            if git.is_file():  # a linked work tree: "gitdir: PATH"
                git = parent / git.read_text(encoding="utf-8").partition(":")[2].strip()
            common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").exists() else git
            head = (git / "HEAD").read_text(encoding="utf-8").strip()
            if not head.startswith("ref: "):
                return _commit(head)
            return _branch_commit(common, git, head[5:])
    except (OSError, UnicodeDecodeError):
        pass  # provenance is a courtesy: training goes on without it
    return None


def _branch_commit(common: Path, git: Path, ref: str) -> str | None:
    for place in (git / ref, common / ref):
        if place.is_file():
            return _commit(place.read_text(encoding="utf-8").strip())
    packed = common / "packed-refs"
    if packed.is_file():
        for line in packed.read_text(encoding="utf-8").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return _commit(commit)
    return None


def _commit(text: str) -> str | None:
    return text if len(text) in {40, 64} and set(text) <= set("0123456789abcdef") else None


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container with a uid that has no name
        return str(os.getuid())
