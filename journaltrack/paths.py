"""Where journals live, what kind of file system that is, and when their names are on the disk."""

from __future__ import annotations

import logging
import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import Final

from journaltrack.errors import InvalidInputError

logger = logging.getLogger(__name__)

DATABASE: Final = "journal.db"
SPOOL: Final = "spool"

_told: set[Path] = set()  # places of which it was told that they are only temporary

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
    """The folder of the default journal: ``JOURNALTRACK_HOME``, else the platform's user data folder.

    Where the user has no home (a container without HOME and without a name for the user's number): a folder of that number in
    the one for temporary files, made here for its owner alone, with a warning.

    Raises:
        InvalidInputError: There is no such place either.
    """
    named = os.environ.get("JOURNALTRACK_HOME")
    if named:
        return expanded(named)
    if not has_home("XDG_DATA_HOME"):
        return _temporary_home()
    import platformdirs  # noqa: PLC0415 - only when nothing is configured

    return Path(platformdirs.user_data_dir("journaltrack", appauthor=False))


def has_home(instead: str) -> bool:
    """Whether there is a folder of the user's, or the variable ``instead`` names the one in it that is wanted."""
    if any(Path(os.environ.get(variable, "")).is_absolute() for variable in (instead, "HOME")):
        return True
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).is_absolute()
    except KeyError:  # a number without a name
        return False


def _temporary_home() -> Path:
    hint = "set JOURNALTRACK_HOME, HOME, or journal= to a folder that you can write"
    try:
        folder = Path(tempfile.gettempdir()) / f"journaltrack-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InvalidInputError(f"there is no home folder, and none can be made in its place: {error}", hint=hint) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        # Everybody may make files there, also in our name before us.
        raise InvalidInputError(f"there is no home folder, and {folder} is not a folder of yours alone", hint=hint)
    if folder not in _told:
        _told.add(folder)
        logger.warning("there is no home folder: the default journal is in %s, which may be emptied at the next start; %s", folder, hint)
    return folder


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with the home folder in the place of a leading ``~``.

    Raises:
        InvalidInputError: There is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(
            f"{os.fspath(path)} can't be told: there is no home folder", hint="write the whole path, or set HOME"
        ) from error


def default_journal() -> Path:
    """The journal used when none is named: that of the configuration (``JOURNALTRACK_JOURNAL``), else ``journal`` in ``home()``.

    Raises:
        InvalidInputError: The configuration file can't be right, or see ``home``.
    """
    from journaltrack import configuration  # noqa: PLC0415 - only when none is named

    named = configuration.current().journal
    return expanded(named) if named else home() / "journal"


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
