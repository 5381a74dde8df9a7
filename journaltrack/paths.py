"""Where journals live, what kind of file system that is, and when their names are on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DATABASE: Final = "journal.db"
SPOOL: Final = "spool"
WRITERS: Final = "writers"

# File systems on which SQLite's shared-memory index for WAL does not work between hosts (https://sqlite.org/wal.html).
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.juicefs",
        "ncpfs",
        "ocfs2",
        "gfs2",
        "pvfs2",
        "wekafs",
    ]
)

# File systems that keep no permissions: what ``stat`` says there is the mount's, the same for every file.
_WITHOUT_PERMISSIONS: Final = frozenset(["vfat", "msdos", "exfat", "fuse.exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "iso9660", "udf"])


def home() -> Path:
    """The folder of the default journal: ``JOURNALTRACK_HOME``, else the platform's user data folder."""
    named = os.environ.get("JOURNALTRACK_HOME")
    if named:
        return Path(named).expanduser()
    import platformdirs  # noqa: PLC0415 - only when nothing is configured

    return Path(platformdirs.user_data_dir("journaltrack", appauthor=False))


def default_journal() -> Path:
    """The journal used when none is named: that of the configuration (``JOURNALTRACK_JOURNAL``), else ``journal`` in ``home()``.

    Raises:
        InvalidInputError: The configuration file can't be right.
    """
    from journaltrack import configuration  # noqa: PLC0415 - only when none is named

    named = configuration.current().journal
    return Path(named).expanduser() if named else home() / "journal"


def network_file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the network file system that ``folder`` is on, or None if it is local or can't be told.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    kind = _file_system(folder, mounts)
    return kind if kind in _NETWORK_FILE_SYSTEMS else None


def has_no_permissions(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the permissions of files in ``folder`` say nothing: FAT and its like, and network file systems that map owners.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    kind = _file_system(folder, mounts)
    return kind in _WITHOUT_PERMISSIONS or kind in {"cifs", "smb3", "smbfs", "9p", "fuse.sshfs"}


def file_bytes_max(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> int | None:
    """The largest file that the file system of ``folder`` takes; None when that is far away, or can't be told.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    return 2**32 - 1 if _file_system(folder, mounts) in {"vfat", "msdos"} else None


def _file_system(folder: Path, mounts: Path) -> str:
    """Its type; empty if that can't be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or not tail:  # noqa: PLR2004 - mount point is the fifth field
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if len(point) > best and resolved.is_relative_to(point):
            best, kind = len(point), tail[0]
    return kind


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk.

    Raises:
        OSError: They can't be opened, or the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
