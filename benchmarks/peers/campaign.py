"""One peer, one life: start it, let it log, SIGKILL all of its processes, and read its store in a
new process.

Knows the harness and /proc; no peer, no statistics. What a call is worth is decided by two facts
alone: which calls had *returned* when the kill came (the writer counts them in memory that is
shared with a file), and which are in the store afterwards.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import environment
from benchmarks.peers import harness
from benchmarks.peers.registry import Peer

if TYPE_CHECKING:
    from typing_extensions import Self

_MARK = "JOURNALTRACK_PEERS_LIFE"
_POLL_S = 0.001
ORDERLY_WAITS_S = (60.0,) * 4
"""How long an orderly run may take to end, one figure per try."""
_DEAD_PROXY = "http://127.0.0.1:9"
"""Discard's port, where nobody listens: what asks for the network by way of a proxy is refused
at once.
"""


class PeerFailedError(Exception):
    """It did not start, or its store could not be read; with the end of what it said."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a SIGKILL cost.

    Attributes:
        returned: Calls that had returned.
        lost: Those of them that are not in the store.
        beyond: Found, though the call had not returned: at most the one that was under way.
    """

    returned: int
    lost: int
    beyond: int

    @classmethod
    def of(cls, returned: int, found: set[int]) -> Loss:
        """Calls are numbered from 0 on, and each logs its number as the step."""
        kept = sum(1 for step in found if 0 <= step < returned)
        return cls(returned, returned - kept, len(found) - kept)


class Life:
    """A process that logs, from its start to its end; a context that leaves no process behind.

    Args:
        peer: Which.
        python: Its interpreter.
        folder: Empty, for its store, its home and what it prints.
        mode: ``latency`` or ``log``.
        order: For the harness.
    """

    def __init__(self, peer: Peer, python: Path, folder: Path, mode: str, **order: Any) -> None:
        self._peer, self._python, self._folder = peer, python, folder
        self._store = folder / "store"
        for name in ("store", "home", "tmp"):
            (folder / name).mkdir(parents=True)
        self._result = folder / "result.json"
        progress = folder / "progress"
        progress.write_bytes(bytes(harness.PROGRESS_BYTES))
        with progress.open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), harness.PROGRESS_BYTES)
        self._mark = uuid.uuid4().hex
        self._started_ns = time.monotonic_ns()
        self._process = self._spawn(mode, {"progress": str(progress), **order})
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._progress.close()

    @property
    def returned(self) -> int:
        """Calls that have returned."""
        return int(struct.unpack_from("=Q", self._progress)[0])

    @property
    def start_ms(self) -> float:
        """From the start of the process until the first call had returned."""
        return (struct.unpack_from("=Q", self._progress, 8)[0] - self._started_ns) / 1e6

    def await_first(self) -> None:
        """Until the first call has returned."""
        self._await(
            lambda: self.returned > 0 and struct.unpack_from("=Q", self._progress, 8)[0] > 0
        )

    def await_end(self, seconds: float) -> bool:
        """Until it has ended by itself; whether it did within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        if self._process.returncode:
            raise PeerFailedError(f"ended with {self._process.returncode}: {self._said()}")
        self.kill()  # helpers
        return True

    def measured(self) -> dict[str, float]:
        """What it measured of itself, once it has."""
        self._await(self._result.exists)
        return {"start_ms": self.start_ms, **json.loads(self._result.read_text(encoding="utf-8"))}

    def kill_after(self, calls: int, seconds: float) -> int:
        """SIGKILL it after so many calls or seconds; how many calls had returned."""
        self.await_first()
        until = time.monotonic() + seconds
        helpers = self._members()
        while self.returned < calls and time.monotonic() < until and self._process.poll() is None:
            time.sleep(_POLL_S)
        if self._process.poll() is not None:
            raise PeerFailedError(f"ended by itself: {self._said()}")
        self.kill(helpers)
        return self.returned

    def kill(self, helpers: list[int] | None = None) -> None:
        """SIGKILL the process group, and whoever else it started, in whatever group or session:
        they inherit a mark.

        Args:
            helpers: Processes known by now, so that they need not be looked for between the first
                kill and the last.
        """
        if self._ended:
            return
        known = self._members() if helpers is None else helpers
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while True:
            for pid in known:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._process.poll() is not None and not (known := self._members()):
                break
            time.sleep(_POLL_S)
        self._ended = True

    def found(self) -> set[int]:
        """The steps in the store, as the peer's own library or the store's format tells them."""
        self._result.unlink(missing_ok=True)
        process = self._spawn("found", {})
        try:
            code = process.wait(self._peer.seconds)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:
            self._process, self._ended = process, False
            self.kill()
        if code:
            raise PeerFailedError(f"its store could not be read: {self._said()}")
        return set(json.loads(self._result.read_text(encoding="utf-8"))["found"])

    def _spawn(self, mode: str, order: dict[str, Any]) -> subprocess.Popen[bytes]:
        arguments = [mode, str(self._peer.adapter), str(self._store), str(self._result)]
        command = [
            str(self._python),
            "-I",
            harness.__file__,
            *arguments,
            json.dumps({**order, "options": dict(self._peer.options)}),
        ]
        home, temporary = str(self._folder / "home"), str(self._folder / "tmp")
        known = environment() | {
            "HOME": home,
            "XDG_CACHE_HOME": f"{home}/.cache",
            "XDG_CONFIG_HOME": f"{home}/.config",
            "TMPDIR": temporary,
            "HTTP_PROXY": _DEAD_PROXY,
            "HTTPS_PROXY": _DEAD_PROXY,
            "http_proxy": _DEAD_PROXY,
            "https_proxy": _DEAD_PROXY,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            _MARK: self._mark,
            **self._peer.environment,
        }
        with (self._folder / "said").open("ab") as said:
            return subprocess.Popen(
                command,
                cwd=self._store,
                env=known,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def _members(self) -> list[int]:
        """All processes that carry the mark; of processes that have ended, /proc shows no
        environment.
        """
        mark = f"{_MARK}={self._mark}".encode()
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                while _is_in_exec(folder):
                    time.sleep(_POLL_S)
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    pids.append(int(folder.name))
        return pids

    def _await(self, happened: Any) -> None:
        until = time.monotonic() + self._peer.seconds
        while not happened():
            if self._process.poll() is not None:
                raise PeerFailedError(f"ended with {self._process.returncode}: {self._said()}")
            if time.monotonic() > until:
                raise PeerFailedError(f"nothing after {self._peer.seconds:.0f} s: {self._said()}")
            time.sleep(_POLL_S)

    def _said(self) -> str:
        lines = (
            (self._folder / "said")
            .read_text(encoding="utf-8", errors="replace")
            .strip()
            .splitlines()
        )
        return " / ".join(line.strip() for line in lines[-3:])[-300:]


def _is_in_exec(process: Path) -> bool:
    """Return whether a process has its program, but neither arguments nor environment yet: on a
    busy machine that lasts.
    """
    has_none = not (process / "environ").read_bytes() and not (process / "cmdline").read_bytes()
    return has_none and (process / "exe").exists()


@contextlib.contextmanager
def life(peer: Peer, python: Path, parent: Path, mode: str, **order: Any) -> Iterator[Life]:
    """A life in a folder of its own, which goes with it."""
    with (
        tempfile.TemporaryDirectory(
            prefix="peer-", dir=parent, ignore_cleanup_errors=True
        ) as folder,
        Life(peer, python, Path(folder), mode, **order) as lived,
    ):
        yield lived


def latency(
    peer: Peer, python: Path, parent: Path, *, calls: int, seconds: float
) -> dict[str, float]:
    """A tight loop: percentiles of single calls, calls a second, and the time from the start of
    the process to the first value.
    """
    with life(peer, python, parent, "latency", calls=calls, seconds=seconds) as lived:
        return lived.measured()


def check_reader(
    peer: Peer,
    python: Path,
    parent: Path,
    *,
    calls: int,
    waits_s: Sequence[float] = ORDERLY_WAITS_S,
) -> None:
    """That the adapter finds all that an orderly run logged: else what it does not find after a
    kill would say nothing.

    A run that does not come to its end is tried again: ClearML's hangs there once in six times, and
    that says nothing of the reader.

    Raises:
        PeerFailedError: It does not.
    """
    for left, wait_s in zip(reversed(range(len(waits_s))), waits_s, strict=True):
        with life(peer, python, parent, "orderly", calls=calls) as lived:
            if not lived.await_end(wait_s) and left:
                continue
            found = lived.found()
            if found != set(range(calls)):
                raise PeerFailedError(
                    f"of {calls} calls of an orderly run, {len(found)} are found in its store"
                )
            return


def killed(
    peer: Peer, python: Path, parent: Path, *, calls: int, seconds: float, per_s: float = 0.0
) -> Loss:
    """Killed after so many calls or seconds, at full speed or at a pace; what that cost."""
    with life(peer, python, parent, "log", per_s=per_s) as lived:
        returned = lived.kill_after(calls, seconds)
        return Loss.of(returned, lived.found())
