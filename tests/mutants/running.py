"""Run tests in a copy of the tree, in which one module is mutated at a time.

The checkout is never written to. ``PYTHONPATH`` makes every process of the tests import the copy.
Python checks the copy's compiled files by content: a mutant of the same length, written within the
same second, is not taken for the original.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import py_compile
import queue
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

Verdict: TypeAlias = Literal["killed", "survived", "timeout"]

_LEFT_OUT: Final = shutil.ignore_patterns(
    ".git", ".venv*", ".demo", ".hypothesis", ".*_cache", "__pycache__", "build", "*.egg-info"
)
# Of address space and of each file: a mutant may ask for more and more.
_MEMORY_BYTES: Final = 8 << 30
_FILE_BYTES: Final = 1 << 30
# In the environment of all that a run starts.
_MARK: Final = "MUTANT_RUN"


class Run(NamedTuple):
    """What a run showed: the first test that failed, if any, and the end of pytest's output."""

    verdict: Verdict
    test: str
    output: str


class Tree:
    """A copy of the project.

    Args:
        root: The checkout.
        folder: To be made.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder / "tree"
        self._scratch = folder / "scratch"
        self._mark = ""
        shutil.copytree(root, self.folder, ignore=_LEFT_OUT, symlinks=True)
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.folder, quiet=2, invalidation_mode=mode)
        self._check()

    def _check(self) -> None:
        code = "import journaltrack; print(journaltrack.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd="/",
            env=self._environment(""),
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(done.stdout.strip()).is_relative_to(self.folder):
            msg = (
                f"tests in {self.folder} would import {done.stdout.strip()}, which no mutant "
                "changes"
            )
            raise RuntimeError(msg)

    def test(
        self, tests: Sequence[str], timeout_s: float, changed: tuple[str, str] | None = None
    ) -> Run:
        """Run tests until the first one fails.

        Args:
            tests: Files, the quickest first.
            timeout_s: For all of them.
            changed: A file's name in the tree, and its text for this run.
        """
        if changed is None:
            return self._run(tests, timeout_s)
        path = self.folder / changed[0]
        original = path.read_bytes()
        path.write_text(changed[1], encoding="utf-8")
        try:
            return self._run(tests, timeout_s)
        finally:
            path.write_bytes(original)

    def stop(self) -> None:
        """End the tests that run now, from another thread."""
        if self._mark:
            _end(self._mark)

    def _run(self, tests: Sequence[str], timeout_s: float) -> Run:
        # What one mutant failed with must not help with the next.
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)
        self._scratch.mkdir()
        self._mark = mark = uuid.uuid4().hex
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            f"--basetemp={self._scratch / 'pytest'}",
        ]
        try:
            with (
                (self._scratch / "output").open("w+") as output,
                subprocess.Popen(
                    [sys.executable, "-m", "pytest", *options, *tests],
                    cwd=self.folder,
                    env=self._environment(mark),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                ) as process,
            ):
                if sys.platform == "linux":
                    resource.prlimit(
                        process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES)
                    )
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
                try:
                    code = process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    _end(mark)
                output.seek(0)
                said = output.read()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        failed = [
            line.split()[1] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))
        ]
        verdict: Verdict = "timeout" if code is None else "killed" if code else "survived"
        return Run(verdict, failed[0] if failed else "", said[-4_000:])

    def _environment(self, mark: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "JOURNALTRACK_", "PYTHON"))
        }
        home = str(self._scratch)
        return kept | {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": home,
            "TMPDIR": home,
            _MARK: mark,
        }


class Trees:
    """Copies of the project, which threads borrow one at a time.

    Args:
        root: The checkout.
        folder: Where to make them.
        count: How many.
    """

    def __init__(self, root: Path, folder: Path, count: int) -> None:
        self._all = [Tree(root, folder / str(number)) for number in range(count)]
        self._free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for tree in self._all:
            self._free.put(tree)

    def test(
        self, tests: Sequence[str], timeout_s: float, changed: tuple[str, str] | None = None
    ) -> Run:
        """Run tests in the next copy that is free, see ``Tree.test``."""
        tree = self._free.get()
        try:
            return tree.test(tests, timeout_s, changed)
        finally:
            self._free.put(tree)

    def stop(self) -> None:
        """End all tests that run."""
        for tree in self._all:
            tree.stop()


def _end(mark: str) -> None:
    """End all processes of a run, also those in sessions of their own (on Linux, from /proc)."""
    # A process that has ended has no environment any more, so this comes to an end.
    while any(_ends(folder, f"{_MARK}={mark}".encode()) for folder in Path("/proc").glob("[0-9]*")):
        pass


def _ends(process: Path, wanted: bytes) -> bool:
    try:
        found = wanted in (process / "environ").read_bytes().split(b"\0")
        if found:
            os.kill(int(process.name), signal.SIGKILL)
    except OSError:  # not ours, or gone
        return False
    return found
