"""Check the journal's folder from outside: files, permissions, medium and locks.

Invariant: opens no database. To test a lock, these checks open and close the files, which drops
this process's own POSIX locks. So they run before SQLite opens the journal, in a process that has
not opened it.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from journaltrack.doctor.findings import Finding
from journaltrack.errors import os_hint
from journaltrack.journal.sqlite import claim, files
from journaltrack.replay import lease
from journaltrack.util import paths

REPLACEMENT: Final = f"{paths.DATABASE}.rebuilt"
"""A rebuilt database that is complete, but has not yet replaced the damaged one."""
SCRAP_AGE_S: Final = 3600.0
"""Seconds after which a half copy must belong to a process that is gone."""
_FREE_PROBLEM_BYTES: Final = 1 << 20
_FREE_WARNING_BYTES: Final = 256 << 20
# the byte in the -shm file that a writer locks (https://sqlite.org/walformat.html)
_WAL_WRITE_LOCK: Final = 120
# ... and the one in the database without a write-ahead log (sqlite3's os.h)
_RESERVED_LOCK: Final = 0x40000001
_LOOKS: Final = 5
_BETWEEN_LOOKS_S: Final = 0.2


def own_files(folder: Path) -> list[Path]:
    """Return the existing files of SQLite and the lease, links included."""
    names = [
        paths.DATABASE,
        *(f"{paths.DATABASE}-{suffix}" for suffix in ("wal", "shm", "journal")),
        files.LOCK_FILE,
        claim.FILE,
    ]
    return [folder / name for name in names if os.path.lexists(folder / name)]


def scraps(folder: Path) -> list[Path]:
    """Return half copies of artifacts and backups that killed processes left.

    No call that returned needs them.
    """
    found = []
    for path in [
        *folder.glob(f"{paths.SPOOL}/incoming-*"),
        *folder.glob(f"{paths.DATABASE}.*.partial"),
    ]:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > SCRAP_AGE_S:
            found.append(path)
    return sorted(found)


def check_files(folder: Path) -> Iterator[Finding]:
    """Check files, permissions and leftovers of killed processes."""
    try:
        os.lstat(folder / paths.DATABASE)
    except PermissionError as error:
        yield Finding(
            "files",
            "problem",
            f"the folder can't be examined: {error.strerror}",
            "its contents are unknown",
            os_hint(error),
        )
        return
    except OSError:
        # Reported below.
        pass
    if os.path.lexists(folder / REPLACEMENT):
        yield Finding(
            "files",
            "problem",
            "an earlier repair was interrupted after it had rebuilt the database",
            "the rebuilt database is complete, but not in its place yet",
            "`journaltrack check --repair` puts it there",
            "finish",
        )
    if not os.path.lexists(folder / paths.DATABASE):
        backups = sorted(p.name for p in folder.glob(f"{paths.DATABASE}.*.backup"))
        yield Finding(
            "files",
            "problem",
            f"{paths.DATABASE} is missing",
            "the entries are not in this folder",
            "restore the folder from a copy"
            + (f", or rename the newest backup: {backups[-1]}" if backups else ""),
            subjects=tuple(backups),
        )
    for path in own_files(folder):
        if not stat.S_ISREG(path.lstat().st_mode):
            yield Finding(
                "files",
                "problem",
                f"{path.name} is not a regular file",
                "journaltrack follows no links inside a journal and does not use it",
                "replace it by the file itself",
                subjects=(path.name,),
            )
    yield from _check_permissions(folder)
    left = scraps(folder)
    if left:
        yield Finding(
            "files",
            "note",
            f"half copies left by processes that were killed: {len(left)}, of "
            f"{sum(p.lstat().st_size for p in left)} bytes",
            "no call that returned needs them",
            "`journaltrack check --repair` removes them",
            "leftovers",
            tuple(str(p.relative_to(folder)) for p in left),
        )


def open_to_others(folder: Path) -> list[Path]:
    """Return what others may access and whose mode this user can change."""
    candidates = [
        folder,
        folder / paths.SPOOL,
        *own_files(folder),
        *folder.glob(f"{paths.DATABASE}.*.backup"),
    ]
    found = []
    for path in candidates:
        try:
            status = path.lstat()
        except OSError:
            continue
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o077:
            found.append(path)
    return found


def _check_permissions(folder: Path) -> Iterator[Finding]:
    loose = open_to_others(folder)
    # Nobody else can reach the files inside a closed folder.
    if folder in loose:
        names = tuple("." if p == folder else p.name for p in loose)
        yield Finding(
            "files",
            "warning",
            f"others can access the folder: mode {stat.S_IMODE(folder.stat().st_mode):04o}",
            "whoever can write there can change the journal; whoever can read sees all that was "
            "logged",
            "`journaltrack check --repair` closes it (0700, files 0600), unless the file system "
            "has no permissions",
            "permissions",
            names,
        )
    foreign = files.of_others(folder)
    if foreign:
        yield Finding(
            "files",
            "problem",
            f"{', '.join(path.name for path in foreign)}: not owned by the folder's owner, as "
            "after `sudo journaltrack sync`",
            "the folder's owner can't log or deliver until this is repaired; nothing is lost",
            "run `journaltrack check --repair` as that user or as root",
            "owner",
            tuple(path.name for path in foreign),
        )
    owner = folder.stat().st_uid
    if owner not in (os.geteuid(), 0):
        yield Finding(
            "files",
            "warning",
            f"the folder belongs to user id {owner}, not to you ({os.geteuid()})",
            "that user can change the journal",
            "copy the folder to have a journal of your own",
        )


def check_medium(folder: Path) -> Iterator[Finding]:
    """Check where the folder is: on a network, on a full disk, on a read-only medium."""
    kind = paths.network_file_system(folder)
    if kind:
        yield Finding(
            "medium",
            "warning",
            f"other machines may share the file system that the journal is on ({kind})",
            "a call costs milliseconds, and safety rests on that file system's locks",
            "set JOURNALTRACK_JOURNAL to a folder on a local disk",
        )
    if os.statvfs(folder).f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            "medium",
            "warning",
            "the folder can't be written",
            "it can be read and audited; nothing can be logged, synced or repaired here",
            "copy the folder to a writable disk",
        )
        return
    free = shutil.disk_usage(folder).free
    if free < _FREE_WARNING_BYTES:
        yield Finding(
            "medium",
            "problem" if free < _FREE_PROBLEM_BYTES else "warning",
            f"{free} bytes are free on the disk",
            "entries wait in the training process's memory when the disk is full, and artifacts "
            "are not logged",
            "free space on that device",
        )


def check_locks(folder: Path) -> Iterator[Finding]:
    """Check whether a process keeps others from appending or reconciling."""
    writer = _write_lock_holder(folder)
    for _ in range(_LOOKS - 1):
        if writer is None:
            break
        time.sleep(_BETWEEN_LOOKS_S)
        writer = writer if _write_lock_holder(folder) == writer else None
    if writer is not None:
        yield Finding(
            "locks",
            "problem",
            f"{_named(writer)} has been inside a transaction for a second or longer",
            "every other process that logs waits for it, and keeps entries in memory after 30 s",
            "if it is stopped (Ctrl-Z, a debugger), resume it or end it: what it committed stays",
        )
    reconciler = lease.lock_holder(folder)
    if reconciler is not None:
        yield Finding(
            "locks",
            "note",
            f"{_named(reconciler)} holds the journal's lease",
            "no other process can sync it meanwhile; logging goes on",
            "if it hangs, end it: that frees the lease, and the next sync finds out what arrived",
        )


def _write_lock_holder(folder: Path) -> int | None:
    shared_memory = folder / f"{paths.DATABASE}-shm"
    if shared_memory.exists():
        return files.holder(shared_memory, start=_WAL_WRITE_LOCK, length=1)
    return files.holder(folder / paths.DATABASE, start=_RESERVED_LOCK, length=1)


def _named(pid: int) -> str:
    if pid == 0:
        return "a process that can't be seen from here"
    try:
        command = (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    except OSError:
        command = ""
    return f"process {pid} ({command[:120]})" if command else f"process {pid}"
