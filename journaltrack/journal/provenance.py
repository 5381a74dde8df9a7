"""Describe a process that appends or reconciles, for its ``writer`` row.

The commit is read from git's files. Only git itself knows whether the work tree has changes. It is
asked early (``ask_git``), while modules are imported and the journal is opened, so that the first
append hardly waits for it. The environment is not recorded, and of the command line only the
program's path: arguments may hold secrets.
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
from journaltrack.journal.schema import schema
from journaltrack.journal.vocabulary import chain_start, writer_digest

GIT_WAIT_S: Final = 0.25
"""Our choice: how many seconds the first append waits for git.

For a large work tree that takes longer, the state is recorded as unknown.
"""
GIT_ENDS_S: Final = 30.0
"""Our choice: git is killed after this many seconds."""
PACKAGES_MAX: Final = 200
"""Our limit for the packages whose versions are recorded."""
_VERSION_CHARS_MAX: Final = 100

# By folder. A forked child inherits the answers.
_asked: dict[Path, _Question] = {}


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """One process that appends or reconciles: ``schema.WRITER_COLUMNS``, and the digest.

    ``uuid`` is unique. ``packages`` is a JSON object of names and versions. ``journal_id`` names
    the journal that it wrote into. ``context`` is from ``context.text_of``. ``digest`` covers all
    other fields, and the chains of the process start from it.
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
    context: str | None
    digest: bytes

    def columns(self, revision: str = schema.HEAD) -> list[str | int | bytes | None]:
        """Return the values for ``schema.insert_writer_sql``."""
        return [getattr(self, name) for name in schema.columns_of_writer(revision)]


def describe_process(
    now_ns: int, journal_id: str, *, training: bool = True, revision: str = schema.HEAD
) -> WriterInfo:
    """Describe this process.

    Args:
        now_ns: When it began to write, nanoseconds since the epoch, UTC.
        journal_id: The journal that it writes into.
        training: Also record whether the work tree has changes, and the imported packages: what the
            process runs matters for its results.
        revision: The journal's schema.
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
        None,
    )
    described = revision not in schema.UNDESCRIBED
    return WriterInfo(*columns, writer_digest(*columns) if described else chain_start(columns[0]))


def packages() -> str:
    """Return the versions of the imported packages that state one, as a JSON object."""
    versions: dict[str, str] = {}
    for name, module in sorted(sys.modules.copy().items()):
        # Not getattr: a module's own __getattr__ may warn, or import other modules.
        skipped = "." in name or name.startswith("_") or name in sys.stdlib_module_names
        version = None if skipped else getattr(module, "__dict__", {}).get("__version__")
        if (
            isinstance(version, str)
            and 0 < len(version) <= _VERSION_CHARS_MAX
            and len(versions) < PACKAGES_MAX
        ):
            versions[name] = version
    return json.dumps(versions, separators=(",", ":"))


def ask_git() -> None:
    """Ask git whether the program's work tree has changes. Does not wait."""
    folder = _folder(_program())
    if folder not in _asked:
        question = _asked[folder] = _Question()
        if git_commit(folder):
            question.ask(folder)


def git_dirty(folder: Path) -> int | None:
    """Return whether tracked files differ from the commit: 1 or 0.

    None if ``ask_git`` was not called, or git does not answer within ``GIT_WAIT_S``.
    """
    asked = _asked.get(folder)
    return None if asked is None else asked.answer()


class _Question:
    """A question to git, with a thread that waits for the answer.

    So git leaves no zombie, and a disk that hangs delays nothing else.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._is_dirty: bool | None = None

    def ask(self, folder: Path) -> None:
        """Ask whether tracked files differ from the commit."""
        self._thread = threading.Thread(
            target=self._ask, args=(folder,), name="journaltrack-git", daemon=True
        )
        # If no thread can start, the answer stays unknown.
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def answer(self) -> int | None:
        """Return 1 if they differ, 0 if not, None if unknown."""
        # Wait only once. A forked child does not have the thread.
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.join(GIT_WAIT_S)
        return None if self._is_dirty is None else int(self._is_dirty)

    def _ask(self, folder: Path) -> None:
        # No locks and no monitor: git must leave nothing in the work tree, and run no program that
        # its configuration names.
        options = ["--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"]
        command = ["git", "-c", "core.fsmonitor=false", "status", *options]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        # If git is missing or takes too long, at least the commit is known.
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603 - a constant command
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=GIT_ENDS_S,
            )
            self._is_dirty = bool(done.stdout.strip()) if done.returncode == 0 else None


def _program() -> str:
    return sys.argv[0] if sys.argv and sys.argv[0] not in {"", "-c"} else "(interactive)"


def _folder(program: str) -> Path:
    try:
        return Path(program).parent if os.path.exists(program) else Path.cwd()  # noqa: PTH110
    except OSError:
        # The working folder was removed.
        return Path()


def _absolute(program: str) -> str:
    try:
        # abspath keeps symbolic links.
        is_file = os.path.exists(program)  # noqa: PTH110
        return os.path.abspath(program) if is_file else program  # noqa: PTH100
    except OSError:
        # The working folder was removed.
        return program


def git_commit(folder: Path) -> str | None:
    """Return the commit checked out in the work tree of ``folder``, or None."""
    try:
        for parent in (folder.resolve(), *folder.resolve().parents):
            git = parent / ".git"
            if not git.exists():
                continue
            if git.is_file():
                # A linked work tree: "gitdir: PATH".
                git = parent / git.read_text(encoding="utf-8").partition(":")[2].strip()
            common = git
            if (git / "commondir").exists():
                common = git / (git / "commondir").read_text(encoding="utf-8").strip()
            head = (git / "HEAD").read_text(encoding="utf-8").strip()
            if not head.startswith("ref: "):
                return _commit(head)
            return _branch_commit(common, git, head[5:])
    except (OSError, UnicodeDecodeError):
        # Training does not need the commit.
        pass
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
    """Return the name of the user of this process, or its number if it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # For example in a container.
        return str(os.getuid())
