"""Prove that a writer's process lives, by a locked file per writer.

The files are in ``writers/`` of the journal's folder. A writer holds ``flock`` on a file named by
its uuid. The file says which process it is, and to which components it appends. The kernel frees
the lock when the process ends, in any way. A POSIX lock would not do: closing *any* descriptor of
the file drops it (a ``copytree`` of the journal's folder). A forked child would keep the lock for
its dead parent, so children close what they inherit. Executed programs inherit nothing.

A free lock proves a death only where the lock would be visible: under the same kernel, or after a
restart of the same host on a local disk. And it must be the file that the writer created: a copy of
the folder has other files. Otherwise the state is unknown. Must not know entries.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from journaltrack.util import paths, process

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RECORD_BYTES_MAX: Final = 1 << 20
"""Our limit for what is read of a file: a journal from elsewhere may have any content."""
_DIGITS_MAX: Final = 20
"""An id of 64 bits has fewer digits."""
_TRIES: Final = 3
"""Another writer may remove the empty folder after this one created it."""


class WriterLife:
    """The lock of one writer of this process.

    Make one with ``hold``. The lock ends with the object, ``leave`` or ``end``.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        """Use ``hold``."""
        self._name = name
        self._descriptor = descriptor
        self._components: set[int] = set()
        _held.add(self)

    def join(self, component_id: int) -> None:
        """Note that the writer appends to this component.

        Repeated calls cost one look-up.
        """
        if component_id not in self._components and self._descriptor >= 0:
            # If the disk is full, the next call tries again.
            with contextlib.suppress(OSError):
                os.write(self._descriptor, b"%d\n" % component_id)
                self._components.add(component_id)

    @property
    def components(self) -> frozenset[int]:
        """Return the ids of the components that the writer appended to."""
        return frozenset(self._components)

    def leave(self) -> None:
        """Free the lock. The file stays, and still names the writer."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def end(self, folder: Path) -> None:
        """Free the lock and remove the file: no run that the writer began is left open."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                path = folder / paths.WRITERS / self._name
                if os.path.samestat(os.fstat(self._descriptor), path.lstat()):
                    _remove(path)
        self.leave()

    def __del__(self) -> None:
        self.leave()


class WriterFile(NamedTuple):
    """The content of a writer's file, and whether its process lives.

    Attributes:
        uuid: The writer's uuid.
        alive: Whether its process lives; None if unknown.
        copied: Whether it came with a copy of the folder: its writer appended to the original.
        components: Ids of the components that it appended to.
    """

    uuid: str
    alive: bool | None
    copied: bool
    components: frozenset[int]


def hold(folder: Path, uuid: str) -> WriterLife | None:
    """Create and lock a writer's file, which proves that this process lives.

    Args:
        folder: The journal's folder.
        uuid: The writer's uuid.

    Returns:
        The lock; None if that is not possible here.
    """
    with contextlib.suppress(OSError):
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return _hold(folder / paths.WRITERS / uuid)
    return None


def look(folder: Path) -> list[WriterFile]:
    """Return the writers that live, and those that left a run open.

    The time grows with their number.
    """
    return [found for path in _files(folder) if (found := _look(path)) is not None]


def dead(folder: Path) -> frozenset[str]:
    """Return the uuids of writers that are proven dead."""
    return frozenset(each.uuid for each in look(folder) if each.alive is False)


def forget(folder: Path, uuid: str) -> None:
    """Remove the file of a dead writer."""
    if _UUID.fullmatch(uuid):
        with contextlib.suppress(OSError):
            _remove(folder / paths.WRITERS / uuid)


# -- inside --------------------------------------------------------------------------------

_held: weakref.WeakSet[WriterLife] = weakref.WeakSet()


def _hold(path: Path) -> WriterLife:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(
        path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # After the lock: others do not look at the lock of an empty file.
        os.write(descriptor, json.dumps(_self(os.fstat(descriptor).st_ino)).encode() + b"\n")
    except OSError:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            _remove(path)
        raise
    return WriterLife(path.name, descriptor)


def _remove(path: Path) -> None:
    path.unlink()
    try:
        path.parent.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise


def _files(folder: Path) -> Iterator[Path]:
    place = folder / paths.WRITERS
    try:
        if not stat.S_ISDIR(place.lstat().st_mode):
            return
        names = os.listdir(place)  # noqa: PTH208 - only names are needed
    except OSError:
        return
    yield from (place / name for name in sorted(names) if _UUID.fullmatch(name))


def _look(path: Path) -> WriterFile | None:
    """Read a writer's file; None if it is gone, or is no writer's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        lines = (
            os.read(descriptor, _RECORD_BYTES_MAX).split(b"\n")
            if stat.S_ISREG(status.st_mode)
            else []
        )
        # The first line is not complete: its writer may have no lock yet.
        if len(lines) < 2:  # noqa: PLR2004
            return None
        components = frozenset(
            int(line) for line in lines[1:-1] if line.isdigit() and len(line) < _DIGITS_MAX
        )
        told = _decoded(lines[0])
        locked = _is_locked(descriptor)
        copied = locked is False and told.get("inode") != status.st_ino
        alive = _is_alive(told, path.parent) if locked is False and not copied else locked or None
        return WriterFile(path.name, alive, copied, components)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool | None:
    """Return whether its writer holds the lock; None if locks do not work here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {}


def _is_alive(told: dict[str, Any], place: Path) -> bool | None:
    """Return whether a writer lives whose lock is free; None if unknown."""
    here = _self(told["inode"])
    same = {name for name, value in here.items() if told.get(name) == value}
    if "boot" in same and (here["boot"] is not None or "host" in same):
        # Its process may live without the lock: freed, or lost (``os.closerange``, a file server).
        return "pid_namespace" in same and process.runs(told.get("pid"), told.get("started"))
    restarted = (
        {"host", "machine"} <= same
        and told.get("boot") is not None
        and paths.network_file_system(place) is None
    )
    return False if restarted else None


def _self(inode: int) -> dict[str, Any]:
    """Return this process's description for its file."""
    pid = os.getpid()
    namespace = None
    with contextlib.suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return {
        "pid": pid,
        "started": process.started(pid),
        "pid_namespace": namespace,
        "host": process.host(),
        "boot": process.boot(),
        "machine": process.text_of("/etc/machine-id"),
        "inode": inode,
    }


def _after_fork_in_child() -> None:
    # This closes descriptors but frees no lock: the parent still has it.
    for life in list(_held):
        life.leave()


os.register_at_fork(after_in_child=_after_fork_in_child)
