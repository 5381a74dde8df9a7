"""A virtual environment for each peer, made on first use and kept: ``~/.cache/journaltrack-peers``,
or $JOURNALTRACK_PEERS.

One is named by all that decides what is in it, so that a new pin or another Python makes a new one.
Ours holds the checkout as it is now: what it needs is kept, the package itself is installed afresh
by every run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT, say
from benchmarks.peers.registry import OURS, Peer

_SOURCES = ("journaltrack", "migrations", "pyproject.toml", "README.md", "LICENSE")


class CannotBeInstalledError(Exception):
    """A peer that there is no environment for, and why."""


class Environments:
    """Finds or makes them.

    Args:
        folder: Where they are kept; None: the default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        known = os.environ.get("JOURNALTRACK_PEERS")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or (Path(known) if known else cache / "journaltrack-peers")
        self._ready: dict[str | None, Path | CannotBeInstalledError] = {}

    def python(self, peer: Peer) -> Path:
        """The interpreter of the peer's environment.

        Raises:
            CannotBeInstalledError: There is none; asked for again, it is not tried again.
        """
        if peer.requirement is None:
            return Path(sys.executable)
        if peer.requirement not in self._ready:
            try:
                self._ready[peer.requirement] = self._made(peer.requirement)
            except CannotBeInstalledError as error:
                self._ready[peer.requirement] = error
        ready = self._ready[peer.requirement]
        if isinstance(ready, CannotBeInstalledError):
            raise ready
        return ready

    def _made(self, requirement: str) -> Path:
        name = re.sub("[^A-Za-z0-9.]+", "-", requirement)
        folder = self._folder / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"
        python = folder / "bin" / "python"
        stamp = folder / ".installed"
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)
            say(f"  installing {requirement} into {folder}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            if requirement != OURS:
                _pip(python, requirement)
        if requirement == OURS:
            _install_ours(python)
        stamp.touch()
        return python


def version(python: Path, requirement: str | None) -> str:
    """What is installed there, as its metadata says."""
    if requirement is None:
        return _run([str(python), "-Ic", "import sqlite3; print(sqlite3.sqlite_version)"]).strip()
    name = requirement.partition("==")[0]
    return _run(
        [str(python), "-Ic", f"from importlib import metadata; print(metadata.version({name!r}))"]
    ).strip()


def _install_ours(python: Path) -> None:
    """From a copy of the sources: pip builds in place, and what an earlier build left there
    would go along.
    """
    constraints = ROOT / (
        "constraints-3.10.txt" if sys.version_info < (3, 11) else "constraints.txt"
    )
    with tempfile.TemporaryDirectory(prefix="journaltrack-sources-") as sources:
        for name in _SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, Path(sources, name), ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(source, sources)
        _pip(python, "--constraint", str(constraints), sources)
        # the same version number need not be the same code
        _pip(python, "--force-reinstall", "--no-deps", sources)


def _pip(python: Path, *arguments: str) -> None:
    _run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            *arguments,
        ]
    )


def _run(command: list[str]) -> str:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        said = [
            line
            for line in f"{process.stdout}\n{process.stderr}".splitlines()
            if line.strip() and not line.startswith("WARNING")
        ]
        reasons = (
            [line for line in said if line.startswith("ERROR")]
            or said
            or [f"{command[0]} ended with {process.returncode}"]
        )
        raise CannotBeInstalledError(re.sub(r"\(from versions: .*?\)", "", reasons[-1])[:300])
    return process.stdout
