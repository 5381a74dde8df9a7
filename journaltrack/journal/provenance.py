"""Who appends or reconciles: the process as the journal's ``writer`` row describes it.

The commit is read from git's files. Whether the work tree has changes git itself must say: it is asked in good time
(``ask_git``), beside the imports and the making of the journal, so that the first append hardly waits for it. Nothing of
the environment is recorded, and of the command line only the program's path: arguments may hold secrets.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from journaltrack._version import __version__
from journaltrack.journal.entries import description_digest

GIT_WAIT_S: Final = 0.25
"""Ours: how long the first append waits for git's answer, seconds; a large work tree that takes longer is not told dirty or clean."""
GIT_ENDS_S: Final = 30.0
"""Ours: git that has not answered by then is ended."""
PACKAGES_MAX: Final = 200
"""Ours: packages whose versions are recorded."""
_VERSION_CHARS_MAX: Final = 100

_asked: dict[Path, _Question] = {}  # by folder; a forked child has the answers, too


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """One process that appends or reconciles. ``uuid`` is unique; the order of the fields is that of the table's columns.

    ``packages`` is a JSON object of names and versions; ``journal_id`` is of the journal that it wrote into; ``digest`` is of all
    other fields, and the chains of the process begin with it.
    """

    uuid: str
    host: str
    pid: int
    user: str
    program: str
    started_at_ns: int
    package_version: str
    python_version: str
    git_commit: str | None
    git_dirty: int | None
    packages: str | None
    journal_id: str
    digest: bytes


def describe_process(now_ns: int, journal_id: str, *, training: bool = True) -> WriterInfo:
    """This process, now (nanoseconds since the epoch, UTC).

    Args:
        now_ns: When it began.
        journal_id: What it writes into.
        training: What it runs matters for its results: say also what of it git does not know, and which packages it has imported.
    """
    program = _program()
    folder = _folder(program)
    commit = git_commit(folder)
    columns = (
        str(uuid.uuid4()),
        _storable(socket.gethostname()),
        os.getpid(),
        _storable(user()),
        _storable(_absolute(program)),
        now_ns,
        __version__,
        platform.python_version(),
        commit,
        git_dirty(folder) if training and commit else None,
        packages() if training else None,
        journal_id,
    )
    return WriterInfo(*columns, description_digest(*columns))


def packages() -> str:
    """Versions of the packages that are imported by now and say theirs, as a JSON object."""
    versions: dict[str, str] = {}
    for name, module in sorted(sys.modules.copy().items()):
        # Not getattr: a module's own __getattr__ may warn, or import half the world.
        skipped = "." in name or name.startswith("_") or name in sys.stdlib_module_names
        version = None if skipped else getattr(module, "__dict__", {}).get("__version__")
        if isinstance(version, str) and 0 < len(version) <= _VERSION_CHARS_MAX and len(versions) < PACKAGES_MAX:
            versions[name] = version
    return json.dumps(versions, separators=(",", ":"))


def ask_git() -> None:
    """Ask git whether the program's work tree has changes, without waiting for the answer."""
    folder = _folder(_program())
    if folder not in _asked:
        question = _asked[folder] = _Question()
        if git_commit(folder):
            question.ask(folder)


def git_dirty(folder: Path) -> int | None:
    """Whether files that git tracks differ from the commit: 1 or 0; None if nobody asked, or git does not say so within ``GIT_WAIT_S``."""
    asked = _asked.get(folder)
    return None if asked is None else asked.answer()


class _Question:
    """Put to git by a thread that waits for it: git leaves no zombie, and may take its time on a disk that hangs."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._is_dirty: bool | None = None

    def ask(self, folder: Path) -> None:
        self._thread = threading.Thread(target=self._ask, args=(folder,), name="journaltrack-git", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads here: then it is not known
            self._thread.start()

    def answer(self) -> int | None:
        thread, self._thread = self._thread, None  # waited for once, and not by a forked child, which does not have it
        if thread is not None and thread.is_alive():
            thread.join(GIT_WAIT_S)
        return None if self._is_dirty is None else int(self._is_dirty)

    def _ask(self, folder: Path) -> None:
        # No locks and no monitor: a look must leave nothing in the work tree, and run nothing that its configuration names.
        command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        # No git at all, or one that takes too long: the commit is known all the same.
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603 - a constant command
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=GIT_ENDS_S
            )
            self._is_dirty = bool(done.stdout.strip()) if done.returncode == 0 else None


def _program() -> str:
    return sys.argv[0] if sys.argv and sys.argv[0] not in {"", "-c"} else "(interactive)"


def _folder(program: str) -> Path:
    try:
        return Path(program).parent if os.path.exists(program) else Path.cwd()  # noqa: PTH110
    except OSError:  # the working folder was removed
        return Path()


def _absolute(program: str) -> str:
    try:
        return os.path.abspath(program) if os.path.exists(program) else program  # noqa: PTH100, PTH110 - keeps symlinks
    except OSError:  # the working folder was removed
        return program


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


def user() -> str:
    """Who runs this process: a name, or a number without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container with a uid that has no name
        return str(os.getuid())
