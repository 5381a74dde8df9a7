"""Find where journals live and what their file system can do, and create files whole.

A new file gets its name only when its bytes are on the disk, or not at all. Must not know what a
journal contains.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

from journaltrack.errors import InvalidInputError

logger = logging.getLogger(__name__)

DATABASE: Final = "journal.db"
SPOOL: Final = "spool"
MOUNTS: Final = Path("/proc/self/mountinfo")
WRITERS: Final = "writers"
S3: Final = "s3://"
"""Begins an address in S3, which is no path."""
BUNDLE_MANIFEST: Final = "journaltrack-bundle.json"
"""The first file in a bundle. It stays beside the journal that came in one."""
DESTINATIONS: Final = "destinations"
"""A folder in a journal's: a copy of the journal for each further destination, by its name."""
DESTINATION: Final = "destination.json"
"""In such a copy: where it goes."""
MIRRORED: Final = "mirror.json"
"""What a journal has exchanged with mirrors. It is in the folder of one that has a mirror."""
SCHEME: Final = "journaltrack"
"""Of URIs by which MLflow's code names a journal."""
MIRROR: Final = "journaltrack-mirror.json"
"""The file that says that a folder is a mirror."""
DEPTH_MAX: Final = 4
"""How deep to search for journals below a folder."""
_JOBS: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""Variables that name a scheduler's job, for all its processes, and again when it is requeued."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")

# Temporary default folders that a warning was logged for.
_told: set[Path] = set()

# File systems of one machine. All their processes share memory through a mapped file, which
# SQLite's index of the write-ahead log needs (https://sqlite.org/wal.html). Other file systems may
# be shared between machines, or may not map files: NFS, fuse.*, virtiofs, 9p. A list of unsafe
# ones would never be complete.
_LOCAL: Final = frozenset(
    [
        *(
            "ext2",
            "ext3",
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "bcachefs",
            "f2fs",
            "jfs",
            "nilfs2",
            "reiserfs",
            "ubifs",
            "ufs",
        ),
        *(
            "tmpfs",
            "ramfs",
            "rootfs",
            "apfs",
            "hfs",
            "hfsplus",
            "vfat",
            "msdos",
            "exfat",
            "ntfs",
            "ntfs3",
        ),
        *("iso9660", "udf", "squashfs", "erofs"),
    ]
)
_OVERLAY: Final = "overlay"
# Stands for any local file system.
_OF_CONTAINERS: Final = "ext4"
# File systems that give a lock to one machine at a time, unless mounted with one of these options.
_WITH_LOCKS_BETWEEN_MACHINES: Final = frozenset(["ceph", "gfs2", "gpfs", "nfs", "nfs4", "ocfs2"])
_LOCKS_OF_ONE_MACHINE: Final = frozenset(["nolock", "local_lock=all", "local_lock=posix"])

# Fields of a line in the table of mounts.
_DEVICE, _POINT = 2, 4

# File systems without permissions: ``stat`` returns the mount's, the same for every file.
_WITHOUT_PERMISSIONS: Final = frozenset(
    ["vfat", "msdos", "exfat", "fuse.exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "iso9660", "udf"]
)
# Network file systems that map owners.
_MAPPING_OWNERS: Final = frozenset(["cifs", "smb3", "smbfs", "9p", "fuse.sshfs"])


_OWN: Final = "journaltrack"
# Of the XDG Base Directory Specification.
_OF_USERS: Final = {"data": ".local/share", "config": ".config", "cache": ".cache"}


def home() -> Path:
    """Return the folder of the default journal.

    It is ``JOURNALTRACK_HOME``, else the platform's folder for user data. A user in a container may
    have no home: no HOME, and no name for the user's number. Then it is a temporary folder, made
    here for its owner alone, and a warning is logged.

    Raises:
        InvalidInputError: There is no place for temporary files either.
    """
    named = os.environ.get("JOURNALTRACK_HOME")
    if named:
        return expanded(named)
    if not has_home("XDG_DATA_HOME"):
        return _temporary_home()
    return folder_of_user("data")


def folder_of_user(kind: Literal["data", "config", "cache"]) -> Path:
    """Return the platform's folder for a user's files of this kind, as platformdirs does.

    On Linux that needs no import, which would be a twentieth of a training script's start.
    """
    places = (os.environ.get(f"XDG_{kind.upper()}_HOME", ""), os.environ.get("HOME", ""))
    if sys.platform == "linux" and any(map(os.path.isabs, places)):
        named, user = map(Path, places)
        return (named if named.is_absolute() else user / _OF_USERS[kind]) / _OWN
    import platformdirs  # noqa: PLC0415 - see above

    return Path(getattr(platformdirs, f"user_{kind}_dir")(_OWN, appauthor=False))


def is_mirror(folder: Path) -> bool:
    """Return whether a folder says that it is a mirror."""
    return (folder / MIRROR).is_file()


def copies_of_mirrors() -> Path:
    """Return the folder of all copies of mirrored journals, links resolved.

    Raises:
        InvalidInputError: See ``home``.
    """
    return home().resolve() / "mirrors"


def has_home(instead: str) -> bool:
    """Return whether the user has a home folder, or the variable ``instead`` replaces it."""
    if any(Path(os.environ.get(variable, "")).is_absolute() for variable in (instead, "HOME")):
        return True
    # A user's number need not have a name.
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).is_absolute()
    except KeyError:
        return False


def _temporary_home() -> Path:
    import tempfile  # noqa: PLC0415 - a tenth of the time of a start

    hint = "set JOURNALTRACK_HOME, HOME or journal= to a folder that you can write"
    try:
        folder, _ = _private_folder(Path(tempfile.gettempdir()) / f"journaltrack-{os.getuid()}")
    except OSError as error:
        message = f"there is no home folder, and none can be made in its place: {error}"
        raise InvalidInputError(message, hint=hint) from error
    if folder not in _told:
        _told.add(folder)
        logger.warning(
            "there is no home folder: the default journal is in %s, which a restart may empty; %s",
            folder,
            hint,
        )
    return folder


def cache_home() -> Path | None:
    """Return the folder for what can be made again; None if the user has no home folder."""
    if not has_home("XDG_CACHE_HOME"):
        return None
    return folder_of_user("cache")


def journals_in(folder: Path, depth: int = DEPTH_MAX) -> Iterator[Path]:
    """Yield the journals at and below a folder.

    Skips hidden folders, links, and everything inside journals and mirrors. Folders that can't be
    read count as empty, with a warning if permission is missing, and so do those that vanish.
    """
    yield from _holders_of(DATABASE, folder, depth)


def mirrors_in(folder: Path) -> Iterator[Path]:
    """Yield the mirrors at and below a folder, as ``journals_in`` does journals."""
    yield from _holders_of(MIRROR, folder, DEPTH_MAX)


def _holders_of(name: str, folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            children = list(found)
    except PermissionError as error:
        # Said once: a watcher looks again and again.
        if folder not in _told and folder.name != "lost+found":
            _told.add(folder)
            logger.warning(
                "%s can't be read (%s): what is in it is left out", folder, error.strerror
            )
        return
    except OSError:
        return
    names = {child.name for child in children}
    if names & {DATABASE, MIRROR}:
        if name in names:
            yield folder
        return
    if depth > 0:
        for child in sorted(children, key=lambda each: each.name):
            if not child.name.startswith(".") and _is_folder(child):
                yield from _holders_of(name, Path(child.path), depth - 1)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def of_uri(uri: str) -> str | None:
    """Return the folder of the journal that a URI of MLflow's names; None: the default journal.

    Raises:
        InvalidInputError: It names a host.
    """
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - few name a journal so

    parts = urlsplit(uri)
    if parts.scheme != SCHEME or parts.netloc or parts.query or parts.fragment:
        raise InvalidInputError(
            f"{uri!r} names no journal; no changes were made",
            hint=f"use {SCHEME}: for the default journal, or {SCHEME}:///path/journal",
        )
    path = unquote(parts.path)
    return path if path.strip("/") else None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with the home folder in place of a leading ``~``.

    What MLflow's code names a journal by (``SCHEME``) becomes the journal's folder.

    Raises:
        InvalidInputError: There is no home folder, or see ``of_uri`` and ``default_journal``.
    """
    if isinstance(path, str) and path.startswith(f"{SCHEME}:"):
        named = of_uri(path)
        return default_journal() if named is None else Path(named)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        message = f"{os.fspath(path)} can't be expanded: there is no home folder"
        raise InvalidInputError(message, hint="write the whole path, or set HOME") from error


def default_journal(*, mirrored: bool = False) -> Path:
    """Return the journal to use when none is named.

    It is the configured one (``JOURNALTRACK_JOURNAL``), else ``journal`` in ``home()``. If that is
    on a network file system, and the journal has a mirror, it is one on this machine's own disk.

    Args:
        mirrored: Whether the journal has a mirror, which need not be the configured one.

    Raises:
        InvalidInputError: The configuration is invalid, or see ``home``.
    """
    from journaltrack.util import config  # noqa: PLC0415 - only when none is named

    known = config.current()
    named = known.journal
    if named and named.startswith(f"{SCHEME}:"):
        named = of_uri(named)
    if named:
        return expanded(named)
    return own_journal(mirrored=mirrored or known.mirror is not None)


def own_journal(*, mirrored: bool) -> Path:
    """Return the journal to use when none is configured, see ``default_journal``.

    Raises:
        InvalidInputError: See ``home``.
    """
    folder = home() / "journal"
    if not mirrored:
        return folder
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    kind = network_file_system(existing)
    return folder if kind is None else _scratch_journal(folder, kind)


def _scratch_journal(folder: Path, kind: str) -> Path:
    """Return the journal of this job on a disk of this machine; ``folder`` if there is none.

    All processes of a job on a machine get the same one.
    """
    job = next(filter(None, map(os.environ.get, _JOBS)), "")
    for place in (os.environ.get("SLURM_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/dev/shm"):  # noqa: S108
        if not place or not os.path.isabs(place) or not os.access(place, os.W_OK | os.X_OK):  # noqa: PTH117
            continue
        if network_file_system(Path(place)) is not None:
            continue
        try:
            own, _ = _private_folder(Path(place, f"journaltrack-{os.getuid()}"))
            found, is_new = _private_folder(own / (_NOT_IN_NAMES.sub("-", job)[:100] or "journal"))
        except OSError as error:
            logger.debug("%s can't hold the journal: %s", place, error)
            continue
        if is_new:
            # By one process of the job: who makes the folder.
            logger.warning(
                "the journal is in %s, since %s is on a network file system (%s); the mirror has "
                "what is logged, and this folder may go with the job",
                found,
                folder.parent,
                kind,
            )
        return found / "journal"
    return folder


def _private_folder(folder: Path) -> tuple[Path, bool]:
    """Make a folder for its owner alone; return it, and whether it is new.

    Raises:
        OSError: It can't be made, or is not a folder of this user alone.
    """
    try:
        folder.mkdir(mode=0o700)
        is_new = True
    except FileExistsError:
        is_new = False
    found = folder.lstat()
    # Everybody can create files in the parent, also under our name and before us.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "it is not a folder of yours alone", str(folder))
    return folder, is_new


def journal_folder(named: str | os.PathLike[str] | None) -> Path:
    """Return the absolute folder of a journal. None: the default one.

    Raises:
        InvalidInputError: See ``default_journal`` and ``expanded``.
    """
    return expanded(default_journal() if named is None else named).absolute()


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of ``folder``'s file system if machines may share it, or None if it is local.

    A file system that is not known to be local counts as shared. On systems without a table of
    mounts (macOS), all count as local.

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
    """Return whether file permissions in ``folder`` are meaningless.

    They are on FAT and similar file systems, and on network file systems that map owners.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    kind = _file_system(folder, mounts)
    return kind in _WITHOUT_PERMISSIONS or kind in _MAPPING_OWNERS


def file_bytes_max(folder: Path, mounts: Path = MOUNTS) -> int | None:
    """Return the largest file size on ``folder``'s file system; None if it is unknown or huge.

    Args:
        folder: An existing folder.
        mounts: The kernel's table of mounts (proc(5)).
    """
    return 2**32 - 1 if _file_system(folder, mounts) in {"vfat", "msdos"} else None


class _Mount(NamedTuple):
    """Hold a line of the table of mounts."""

    device: str
    point: str
    kind: str
    options: str


def _file_system(folder: Path, mounts: Path) -> str:
    """Return the type of ``folder``'s file system, or "" if it is unknown.

    For an overlay, return the type of its upper layer, which receives the writes.
    """
    mount = _mount_of(folder, mounts)
    if mount is None:
        return ""
    if mount.kind != _OVERLAY:
        return mount.kind
    upper = re.search(r"(?:^|,)upperdir=([^,]+)", mount.options)
    others = [other for other in _table(mounts) if other.kind != _OVERLAY]
    below = _deepest(others, upper[1]) if upper else None
    # An unseen upper layer is a container's, which its machine made for it alone.
    return below.kind if below is not None else _OF_CONTAINERS


def _mount_of(folder: Path, mounts: Path) -> _Mount | None:
    """Return the mount that contains ``folder``.

    Several mounts can have one mount point: an automounter's and, over it, what it mounted.
    """
    table = _table(mounts)
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116 - on the path of every opening
    except OSError:
        device = 0
    number = f"{os.major(device)}:{os.minor(device)}"
    # Some file systems (btrfs) report another device in the table than by stat.
    of_device = [mount for mount in table if mount.device == number]
    if len(of_device) == 1:
        return of_device[0]
    found = _deepest(of_device or table, os.path.realpath(folder))
    return found or (of_device[-1] if of_device else None)


def _deepest(table: Sequence[_Mount], path: str) -> _Mount | None:
    """Return the mount that contains ``path``; at one point, the last hides the others."""
    found = None
    for mount in table:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _table(mounts: Path) -> Sequence[_Mount]:
    # Without a table, or without permission to read it, the mounts are unknown. Other errors are
    # temporary.
    try:
        return _parsed(mounts.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


# Parsing takes a fifth of the time in which a journal is opened, and mounts change rarely.
@functools.lru_cache(maxsize=2)
def _parsed(table_of_mounts: bytes) -> Sequence[_Mount]:
    table = []
    for line in os.fsdecode(table_of_mounts).splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) > _POINT and tail[0]:
            point, options = _unescaped(fields[_POINT]), _unescaped(tail[-1])
            table.append(_Mount(fields[_DEVICE], point, tail[0], options))
    return table


def _unescaped(text: str) -> str:
    """Decode the octal escapes for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk.

    Raises:
        OSError: The file can't be opened, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole(
    target: Path, partial: Path | None = None, *, durable: bool = True, force: bool = True
) -> Iterator[Path]:
    """Make a file in a block: it takes its place when the block is left, and is gone after any
    exception.

    Args:
        target: Its place.
        partial: Where the block makes it, in the same folder; None: under a name that nobody else
            chooses.
        durable: Wait until it is on the disk: before it gets its name, and after that.
        force: Replace an existing file, in one step.

    Yields:
        ``partial``; the block creates it.

    Raises:
        InvalidInputError: The place is taken, and ``force`` is not given.
    """
    made = partial or target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.partial")
    try:
        yield made
        if durable:
            fsync(made)
        if force:
            made.replace(target)
        else:
            _put(made, target)
        if durable:
            fsync(target.parent)
    finally:
        made.unlink(missing_ok=True)


def file_target(to: str | os.PathLike[str], journal: Path, *, force: bool) -> Path:
    """Check where to write a file made of a journal, and return that path with links followed.

    Raises:
        InvalidInputError: Something is there that ``force`` does not replace, the path is inside
            the journal, or no file can be there.
    """
    target = expanded(to).resolve()
    if target.is_relative_to(journal.resolve()):
        hint = "a journal's folder is its own: name a file elsewhere"
        raise InvalidInputError(f"{target} is inside of the journal", hint=hint)
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise InvalidInputError(f"{target} is not a file", hint="name a file; - is standard output")
    if target.exists() and not force:
        raise _exists(target)
    if not target.parent.is_dir():
        hint = "make it first, or name another one"
        raise InvalidInputError(f"there is no folder {target.parent}", hint=hint)
    return target


def _exists(target: Path) -> InvalidInputError:
    hint = "name another file, or replace it with --force (force=True)"
    return InvalidInputError(f"{target} exists; it was left as it is", hint=hint)


@contextlib.contextmanager
def whole_file(
    to: str | os.PathLike[str], *journals: Path, force: bool
) -> Iterator[tuple[Path, IO[bytes]]]:
    """Write a file that appears when the block ends, whole and on the disk.

    After an exception no file is there. Unfinished files of killed runs are removed first.

    Args:
        to: See ``file_target``.
        journals: The journals that the file is made of.
        force: Replace an existing file, at the end and in one step.

    Raises:
        InvalidInputError: See ``file_target``.
    """
    target = {file_target(to, journal, force=force) for journal in journals}.pop()
    remove_left(target.parent, target.name)
    partial, descriptor = _new_partial(target)
    # The file stays open, and so locked, until it has its name.
    with os.fdopen(descriptor, "wb") as stream, whole(target, partial, force=force):
        yield target, stream
        stream.flush()


def _new_partial(target: Path) -> tuple[Path, int]:
    """Make the unfinished file. Its lock tells it from files of killed runs."""
    while True:
        partial = target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.partial")
        # 0600 like every file with recorded values. A umask would only remove rights, and a default
        # ACL may add some.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(partial, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        # Some file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return partial, descriptor
        # Another process removed it as an unfinished file of a killed run.
        os.close(descriptor)


def remove_left(folder: Path, name: str | None = None) -> None:
    """Remove the unfinished files of a name, or of all, that no process has locked."""
    import glob  # noqa: PLC0415 - few need it

    which = "*" if name is None else glob.escape(name[:200])
    for left in folder.glob(f".{which}.{'[0-9a-f]' * 8}.partial"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def _put(partial: Path, target: Path) -> None:
    """Give the file its name, unless another file has taken it meanwhile."""
    try:
        os.link(partial, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError:
        # The file system has no links.
        if os.path.lexists(target):
            raise _exists(target) from None
        partial.rename(target)
