"""Where journals live, what kind of file system that is, and how a file gets its name: whole, on the disk, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import pwd
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

from journaltrack.errors import InvalidInputError

logger = logging.getLogger(__name__)

DATABASE: Final = "journal.db"
SPOOL: Final = "spool"
MOUNTS: Final = Path("/proc/self/mountinfo")
WRITERS: Final = "writers"
BUNDLE_MANIFEST: Final = "journaltrack-bundle.json"
"""First in a bundle, and beside the journal that came in one."""

_told: set[Path] = set()  # places of which it was told that they are only temporary

# File systems of one machine: every process that gets at them shares memory through a mapped file, which SQLite's index of
# the write-ahead log needs (https://sqlite.org/wal.html). What is not here may be shared between machines, or may not map
# files: NFS, fuse.*, virtiofs, 9p, ... A list of what is unsafe would never be complete.
_LOCAL: Final = frozenset(
    [
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "nilfs2", "reiserfs", "ubifs", "ufs"),
        *("tmpfs", "ramfs", "rootfs", "apfs", "hfs", "hfsplus", "vfat", "msdos", "exfat", "ntfs", "ntfs3"),
        *("iso9660", "udf", "squashfs", "erofs"),
    ]
)
_OVERLAY: Final = "overlay"
_OF_CONTAINERS: Final = "ext4"  # or another that is local
# Those that give a lock to one machine at a time, unless they were mounted with one of these options.
_WITH_LOCKS_BETWEEN_MACHINES: Final = frozenset(["ceph", "gfs2", "gpfs", "nfs", "nfs4", "ocfs2"])
_LOCKS_OF_ONE_MACHINE: Final = frozenset(["nolock", "local_lock=all", "local_lock=posix"])

_DEVICE, _POINT = 2, 4  # fields of a line of the table of mounts

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
    from journaltrack.util import config  # noqa: PLC0415 - only when none is named

    named = config.current().journal
    return expanded(named) if named else home() / "journal"


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the file system of ``folder`` if other machines may share it; None if it is local.

    Whatever is not known to be local counts as shared. Where a system never has such a table (macOS), all counts as local.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).

    Raises:
        OSError: Too many files are open.
    """
    kind = _file_system(folder, mounts)
    if not kind and sys.platform.startswith("linux"):
        return "an unknown file system"
    return None if kind in _LOCAL or not kind else kind


def locks_reach_other_machines(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether a lock on a file in ``folder`` keeps processes on other machines out.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    mount = _mount_of(folder, mounts)
    if mount is None or mount.kind not in _WITH_LOCKS_BETWEEN_MACHINES:
        return False
    return _LOCKS_OF_ONE_MACHINE.isdisjoint(mount.options.split(","))


def has_no_permissions(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether the permissions of files in ``folder`` say nothing: FAT and its like, and network file systems that map owners.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    kind = _file_system(folder, mounts)
    return kind in _WITHOUT_PERMISSIONS or kind in {"cifs", "smb3", "smbfs", "9p", "fuse.sshfs"}


def file_bytes_max(folder: Path, mounts: Path = MOUNTS) -> int | None:
    """The largest file that the file system of ``folder`` takes; None when that is far away, or can't be told.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    return 2**32 - 1 if _file_system(folder, mounts) in {"vfat", "msdos"} else None


class _Mount(NamedTuple):
    """A line of the table of mounts."""

    device: str
    point: str
    kind: str
    options: str


def _file_system(folder: Path, mounts: Path) -> str:
    """Its type; for an overlay that of its upper layer, where what is written goes. Empty if that can't be told."""
    mount = _mount_of(folder, mounts)
    if mount is None:
        return ""
    if mount.kind != _OVERLAY:
        return mount.kind
    upper = re.search(r"(?:^|,)upperdir=([^,]+)", mount.options)
    below = _deepest([other for other in _table(mounts) if other.kind != _OVERLAY], upper[1]) if upper else None
    # Not seen, it is a container's, which its machine made for it alone.
    return below.kind if below is not None else _OF_CONTAINERS


def _mount_of(folder: Path, mounts: Path) -> _Mount | None:
    """The mount that ``folder`` is in. Several can have one point (an automounter's and, over it, what it mounted)."""
    table = _table(mounts)
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116 - on the path of every opening
    except OSError:
        device = 0
    number = f"{os.major(device)}:{os.minor(device)}"
    # Some file systems (btrfs) tell another device in the table than by stat.
    of_device = [mount for mount in table if mount.device == number]
    return _deepest(of_device or table, os.path.realpath(folder)) or (of_device[-1] if of_device else None)


def _deepest(table: list[_Mount], path: str) -> _Mount | None:
    """The one that ``path`` is in: of several with the same point the last, which hides the others."""
    found = None
    for mount in table:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _table(mounts: Path) -> list[_Mount]:
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []  # there is none, or none for us; other errors are those of a moment
    table = []
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) > _POINT and tail[0]:
            table.append(_Mount(fields[_DEVICE], _unescaped(fields[_POINT]), tail[0], _unescaped(tail[-1])))
    return table


def _unescaped(text: str) -> str:
    """Without the octal escapes for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


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


@contextlib.contextmanager
def whole(target: Path, partial: Path | None = None, *, durable: bool = True) -> Iterator[Path]:
    """Make a file in a block: it takes its place, or that of another, when the block is left, and is gone after any exception.

    Args:
        target: Its place.
        partial: Where the block makes it, in the same folder; None: under a name that nobody else chooses.
        durable: Wait until it is on the disk: before it gets its name, and after that.

    Yields:
        ``partial``; the block creates it.
    """
    made = partial or target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.partial")
    try:
        yield made
        if durable:
            fsync(made)
        made.replace(target)
        if durable:
            fsync(target.parent)
    finally:
        made.unlink(missing_ok=True)


def file_target(to: str | os.PathLike[str], journal: Path, *, force: bool) -> Path:
    """Return where a file goes that is made of a journal, links followed.

    Raises:
        InvalidInputError: Something is there already that ``force`` does not replace, it would be inside of the journal, or no
            file can be there.
    """
    target = expanded(to).resolve()
    if target.is_relative_to(journal.resolve()):
        raise InvalidInputError(f"{target} is inside of the journal", hint="a journal's folder is its own: name a file elsewhere")
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise InvalidInputError(f"{target} is not a file", hint="name a file; - is standard output")
    if target.exists() and not force:
        raise _exists(target)
    if not target.parent.is_dir():
        raise InvalidInputError(f"there is no folder {target.parent}", hint="make it first, or name another one")
    return target


def _exists(target: Path) -> InvalidInputError:
    return InvalidInputError(f"{target} exists; it was left as it is", hint="name another file, or replace it with --force (force=True)")


@contextlib.contextmanager
def whole_file(to: str | os.PathLike[str], *journals: Path, force: bool) -> Iterator[tuple[Path, IO[bytes]]]:
    """Make a file that takes its place when the block is left, whole and on the disk, and is gone after any exception.

    What runs that were killed have left of it goes first.

    Args:
        to: See ``file_target``.
        journals: Of which it is made.
        force: Replace a file that is there, at the end and in one step.

    Raises:
        InvalidInputError: See ``file_target``.
    """
    target = {file_target(to, journal, force=force) for journal in journals}.pop()
    _remove_left(target)
    partial, descriptor = _new_partial(target)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield target, stream
            stream.flush()
            os.fsync(stream.fileno())
            if force:
                partial.replace(target)
            else:
                _put(partial, target)
        fsync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _new_partial(target: Path) -> tuple[Path, int]:
    """Make the unfinished file, locked: that tells it from what a killed run has left."""
    while True:
        partial = target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.partial")
        # 0600 whatever the umask, as all that holds recorded values: a mask takes rights away, and a default ACL gives some.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return partial, descriptor
        os.close(descriptor)  # another process took it for one that was left


def _remove_left(target: Path) -> None:
    """Remove the unfinished files of that target which no process has locked."""
    for left in target.parent.glob(f".{glob.escape(target.name[:200])}.{'[0-9a-f]' * 8}.partial"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def _put(partial: Path, target: Path) -> None:
    """Name the file, unless somebody has made one of that name meanwhile."""
    try:
        os.link(partial, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise _exists(target) from None
        partial.rename(target)
