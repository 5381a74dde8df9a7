"""Describe a process that appends or reconciles, for its ``writer`` row.

The commit is read from git's files. Only git itself knows whether the work tree has changes, and
which, and whether it has the program. It is asked early (``ask``), while modules are imported and
the journal is opened, so that the first append hardly waits for it. What the process runs in
(``context``) is looked up meanwhile. What is not known after ``WAIT_S`` is left out.

Of a process that launches a command, the command's code counts (``launches``).

Invariant: nothing here raises, whatever a program puts into ``sys.argv`` and the like.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import logging
import os
import platform
import select
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from journaltrack._version import __version__
from journaltrack.journal.schema import schema
from journaltrack.journal.vocabulary import chain_start, writer_digest
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.journal.context import Command

logger = logging.getLogger(__name__)

WAIT_S: Final = 0.25
"""Our choice: how many seconds git and slow file systems have until the first append.

What takes longer is recorded as unknown.
"""
GIT_ENDS_S: Final = 30.0
"""Our choice: git is killed after this many seconds."""
PACKAGES_MAX: Final = 200
"""Our limit for the packages whose versions are recorded."""
_VERSION_CHARS_MAX: Final = 100
DIFF_NAME: Final = "git.diff"
"""The name under which a run has git's diff."""
DIFF_BYTES_MAX: Final = 1_000_000
"""Our limit: the rest of a longer diff is cut off."""
NO_COMMIT: Final = "no commit"
"""No repository holds the program, or it has no commit."""
UNTRACKED: Final = "untracked"
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_PIECE_BYTES: Final = 1 << 16
_STATUS: Final = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
# One form whatever the user's configuration says; no program that it names.
_DIFF: Final = (
    *("-c", "diff.relative=false", "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=dirty"),
)

T = TypeVar("T")


class WriterInfo(NamedTuple):
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
    now_ns: int,
    journal_id: str,
    *,
    training: bool = True,
    revision: str = schema.HEAD,
    host: str | None = None,
) -> WriterInfo:
    """Describe this process.

    Args:
        now_ns: When it began to write, nanoseconds since the epoch, UTC.
        journal_id: The journal that it writes into.
        training: Also record whether the work tree has changes, and the imported packages: what the
            process runs matters for its results.
        revision: The journal's schema.
        host: What stands in place of this machine's name.
    """
    code = _code()
    commit = git_commit(code.folder)
    asked = _asked.get(code.folder) if commit and training else None
    is_dirty = None if asked is None else asked.answer(WAIT_S)
    columns = (
        str(uuid.uuid4()),
        _storable(process.host() if host is None else host),
        os.getpid(),
        _storable(user()),
        _storable(_absolute(_program())),
        now_ns,
        __version__,
        platform.python_version(),
        commit,
        None if is_dirty is None else int(is_dirty),
        # What this process imports says nothing about a command that it launches.
        packages() if training and _wanted.command is None else None,
        journal_id,
        _context(code, commit) if training and revision not in schema.WITHOUT_CONTEXT else None,
    )
    described = revision not in schema.UNDESCRIBED
    return WriterInfo(*columns, writer_digest(*columns) if described else chain_start(columns[0]))


def packages() -> str:
    """Return the versions of the imported packages that state one, as a JSON object."""
    versions: dict[str, str] = {}
    modules = sys.modules.copy()
    for name in sorted(each for each in modules if isinstance(each, str)):
        skipped = "." in name or name.startswith("_") or name in sys.stdlib_module_names
        version = None
        # Not getattr: a module's own __getattr__ may warn, or import other modules. What stands in
        # for a module may do anything.
        with contextlib.suppress(Exception):
            version = None if skipped else vars(modules[name]).get("__version__")
        if (
            isinstance(version, str)
            and 0 < len(version) <= _VERSION_CHARS_MAX
            and len(versions) < PACKAGES_MAX
        ):
            versions[name] = version
    return json.dumps(versions, separators=(",", ":"))


def ask(*, context: bool = True, redact: Iterable[str] = ()) -> None:
    """Begin to find out what the first append records of this process. Does not wait.

    Args:
        context: Record what it runs in.
        redact: Shell patterns of names in the command line whose values are not recorded, in
            addition to those of calls before.
    """
    _wanted.context = context
    _wanted.redact.update(dict.fromkeys(redact))
    if context and _wanted.survey is None:
        # Here and not on the thread: a child that is forked meanwhile could import nothing.
        from journaltrack.journal.context import survey  # noqa: PLC0415 - only to record

        command = _wanted.command
        _wanted.survey = _Later(lambda: survey(command), "journaltrack-survey")
    code = _code()
    # Once for each folder, also for one without git: a script may create many runs.
    if code.folder not in _asked:
        is_tree = git_commit(code.folder) is not None
        _asked[code.folder] = (
            _Later(lambda: _is_dirty(code.folder), "journaltrack-git") if is_tree else None
        )
        if is_tree and code.file is not None and context:
            file = code.file
            _tracked[file] = _Later(lambda: _is_tracked(file), "journaltrack-tracked")


def launches(command: Sequence[str]) -> None:
    """Note that this process launches a command, whose code is what it describes."""
    from journaltrack.journal.context import Command, command_of  # noqa: PLC0415 - as above

    _wanted.command = Command()
    # Links in a circle, a disk that fails.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        _wanted.command = command_of(command)


def _context(code: _Code, commit: str | None) -> str | None:
    """Return what this process runs in; None if that is not to be recorded."""
    survey = _wanted.survey
    if not _wanted.context or survey is None:
        return None
    from journaltrack.journal.context import text_of  # noqa: PLC0415 - as above

    surveyed: dict[str, Any] = survey.answer(WAIT_S) or {}
    if code.file is not None:
        tracked = _tracked.get(code.file)
        is_tracked = None if tracked is None else tracked.answer(WAIT_S)
        if commit is None or is_tracked is False:
            state = NO_COMMIT if commit is None else UNTRACKED
            surveyed = {**surveyed, "code": {"file": os.fspath(code.file), "git": state}}
    return text_of(surveyed, _wanted.redact, command=_wanted.command)


class Diffing:
    """Give git's diff to a callable, on a thread, as soon as git has told it.

    Args:
        take: Gets the diff, unless there is none, or nobody asked git.
    """

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._pid = os.getpid()
        self._is_over = False
        folder = _code().folder
        asked = _asked.get(folder)
        self._later = asked and _Later(lambda: self._run(folder, asked), "journaltrack-diff")

    def end(self, wait_s: float) -> None:
        """Give it now or never: wait for git until so many seconds after it was asked."""
        if self._later is not None and self._pid == os.getpid():
            self._later.answer(wait_s)
        self._is_over = True

    def _run(self, folder: Path, asked: _Later[bool | None]) -> None:
        if not asked.answer(GIT_ENDS_S):
            return
        if folder not in _diffs:
            _diffs[folder] = _diff(folder)
        diff = _diffs[folder]
        if diff and not self._is_over:
            self._take(diff)


class _Later(Generic[T]):
    """An answer that a thread finds: a disk that hangs delays nothing else."""

    def __init__(self, find: Callable[[], T], name: str) -> None:
        self._find = find
        self._found: T | None = None
        self._started_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # If no thread can start, the answer stays unknown.
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def answer(self, wait_s: float) -> T | None:
        """Return the answer; None if it is unknown so many seconds after the question."""
        # A forked child does not have the thread.
        if self._thread.is_alive():
            self._thread.join(max(0.0, self._started_s + wait_s - time.monotonic()))
        return self._found

    def _run(self) -> None:
        try:
            self._found = self._find()
        except Exception:
            # Training goes on, whatever a file system or git does.
            logger.debug("%s found nothing out", self._thread.name, exc_info=True)


def _is_dirty(folder: Path) -> bool | None:
    told = _git(folder, _STATUS, 1)
    return None if told is None else bool(told.strip())


def _is_tracked(file: Path) -> bool | None:
    told = _git(file.parent, ("--literal-pathspecs", "ls-files", "-z", "--", file.name), 1)
    return None if told is None else bool(told)


def _diff(folder: Path) -> bytes | None:
    """Return git's diff of the tracked files, without what looks like a secret."""
    from journaltrack.journal.context import without_secret_files, without_tokens  # noqa: PLC0415

    told = _git(folder, _DIFF, DIFF_BYTES_MAX)
    if told is None:
        return None
    is_cut = len(told) > DIFF_BYTES_MAX
    lines = told[:DIFF_BYTES_MAX].rpartition(b"\n")[0] if is_cut else told
    kept = without_tokens(without_secret_files(lines))
    end = b"\njournaltrack cut this diff after %d bytes\n" % DIFF_BYTES_MAX
    return kept + end if is_cut else kept


def _git(folder: Path, arguments: Sequence[str], bytes_max: int) -> bytes | None:
    """Return what git prints, or a bit more than so many bytes of it; None if it fails."""
    # No locks and no monitor: git must leave nothing in the work tree.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    until, told = time.monotonic() + GIT_ENDS_S, bytearray()
    quiet = subprocess.DEVNULL
    try:
        git = subprocess.Popen(  # noqa: S603 - a constant command
            command, cwd=folder, env=environment, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet
        )
    # If git is missing, at least the commit is known.
    except (OSError, ValueError):
        return None
    assert git.stdout is not None  # noqa: S101 - a pipe, as asked for
    with git.stdout as stream:
        try:
            poll = select.poll()
            poll.register(stream, select.POLLIN)
            while len(told) <= bytes_max:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1_000):
                    return None
                piece = os.read(stream.fileno(), _PIECE_BYTES)
                if not piece:
                    return bytes(told) if git.wait() == 0 else None
                told += piece
            return bytes(told)
        finally:
            git.kill()
            # Else it would stay as a zombie.
            git.wait()


class _Wanted:
    """What is to be recorded of this process."""

    def __init__(self) -> None:
        self.context = False
        self.redact: dict[str, None] = {}
        self.survey: _Later[dict[str, Any]] | None = None
        self.command: Command | None = None


# A forked child inherits the answers.
_wanted = _Wanted()
_asked: dict[Path, _Later[bool | None] | None] = {}
_tracked: dict[Path, _Later[bool | None]] = {}
_diffs: dict[Path, bytes | None] = {}


def _program() -> str:
    first = (*process.texts("argv")[:1], "")[0]
    return first if first not in {"", "-c"} else "(interactive)"


class _Code(NamedTuple):
    """The code that this process runs, or its command: a folder of the work tree, and the file."""

    folder: Path
    file: Path | None = None


def _code() -> _Code:
    command = _wanted.command
    try:
        file = Path(_program()) if command is None else command.file
        return _code_seen_from(os.getcwd(), file)  # noqa: PTH109 - a text
    # The working folder was removed. No file can have that name.
    except (OSError, ValueError):
        return _Code(Path())


@functools.cache
def _code_seen_from(working: str, file: Path | None) -> _Code:
    if file is not None and file.is_dir():
        file /= "__main__.py"
    # A command of the environment, such as torchrun, says nothing about the code that it runs.
    if file is not None and file.is_file() and not _is_installed(file):
        return _Code(file.parent, file.absolute())
    return _Code(Path(working))


def _is_installed(file: Path) -> bool:
    own = process.executable()
    return bool(own and file.parent.resolve() == Path(own).parent.resolve()) or not (
        _INSTALLED.isdisjoint(file.absolute().parts)
    )


def _absolute(program: str) -> str:
    try:
        # abspath keeps symbolic links.
        is_file = os.path.exists(program)  # noqa: PTH110
        return os.path.abspath(program) if is_file else program  # noqa: PTH100
    # The working folder was removed. No file can have that name.
    except (OSError, ValueError):
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
    # Training does not need the commit. RuntimeError: links in a circle.
    except (OSError, ValueError, RuntimeError):
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
        return str(getpass.getuser())
    # For example in a container.
    except Exception:  # noqa: BLE001 - each Python raises something else
        return str(os.getuid())
