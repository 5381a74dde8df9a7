"""What kind of file system a folder is on, by the kernel's table of mounts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from journaltrack.util import paths

LINE = "{id} 1 {device} / {point} rw,relatime shared:1 - {kind} {source} {options}\n"


def table(folder, *mounts):
    """A table with these mounts, of (point, kind) or (point, kind, options, device); a root on
    ext4 comes first.
    """
    lines = [
        LINE.format(id=1, device="8:1", point="/", kind="ext4", source="/dev/sda1", options="rw")
    ]
    for number, mount in enumerate(mounts, 2):
        point, kind, options, device = (*mount, *("rw", f"9999:{number}")[len(mount) - 2 :])
        escaped = os.fspath(point).replace("\\", "\\134").replace(" ", "\\040")
        lines.append(
            LINE.format(
                id=number, device=device, point=escaped, kind=kind, source="x", options=options
            )
        )
    path = folder.parent / "mounts"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def folder(tmp_path):
    """Where a journal is."""
    (tmp_path / "a folder").mkdir()
    return tmp_path / "a folder"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "f2fs", "vfat", "exfat"])
def test_known_file_systems_are_local(folder, kind):
    """Those of one machine, and no others, are known to share memory between the processes that
    use them.
    """
    assert paths.network_file_system(folder, table(folder, (folder, kind))) is None


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "9p",
        "virtiofs",
        "fuse",
        "fuseblk",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.rclone",
        "lustre",
        "ceph",
        "autofs",
        "new",
    ],
)
def test_everything_else_counts_as_shared(folder, kind):
    """What is not known to be local is not trusted with shared memory, also a file system that
    nobody has heard of.
    """
    assert paths.network_file_system(folder, table(folder, (folder, kind))) == kind


def test_the_last_mount_at_a_point_counts(folder):
    """An automounter's line for a point comes before that of what it mounted there."""
    assert (
        paths.network_file_system(folder, table(folder, (folder, "autofs"), (folder, "nfs4")))
        == "nfs4"
    )
    assert (
        paths.network_file_system(folder, table(folder, (folder, "nfs4"), (folder, "ext4"))) is None
    )


def test_the_device_tells_more_than_the_path(folder):
    """A deeper mount that another one hides has the longer path, and is not where the folder is."""
    own = folder.stat().st_dev
    mounts = table(
        folder, (folder.parent, "nfs4", "rw", f"{os.major(own)}:{os.minor(own)}"), (folder, "ext4")
    )
    assert paths.network_file_system(folder, mounts) == "nfs4"


def test_a_device_that_is_not_listed_is_found_by_the_path(folder):
    """As on btrfs, whose table names another device than stat."""
    assert (
        paths.network_file_system(folder, table(folder, (folder.parent, "nfs4"), (folder, "btrfs")))
        is None
    )


def test_a_point_is_a_folder_and_not_a_beginning(folder):
    """A mount at /a does not hold /ab."""
    assert paths.network_file_system(folder, table(folder, (f"{folder}"[:-1], "nfs4"))) is None


@pytest.mark.parametrize(
    ("layer", "below", "shared"),
    [
        ("/upper/run 1", "nfs4", "nfs4"),
        ("/upper/run 1", "fuse.s3fs", "fuse.s3fs"),
        ("/upper/run 1", "xfs", None),
        (None, "nfs4", None),
    ],
)
def test_an_overlay_is_as_local_as_its_upper_layer(folder, layer, below, shared):
    """What is written into an overlay goes to its upper layer; without one nothing is."""
    upper = f",upperdir={layer}".replace(" ", "\\040") if layer else ""
    mounts = table(
        folder, ("/upper", below), (folder, "overlay", f"rw,lowerdir=/lower{upper},workdir=/work")
    )
    assert paths.network_file_system(folder, mounts) == shared


def test_the_root_of_a_container_is_local(tmp_path):
    """A container's upper layer is its machine's, which it does not see."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 0:33 / / rw - overlay overlay "
        "rw,lowerdir=/l,upperdir=/var/lib/docker/overlay2/x/diff,workdir=/w\n"
    )
    assert paths.network_file_system(tmp_path, mounts) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a table of mounts")
def test_without_a_table_a_file_system_counts_as_shared(folder, tmp_path):
    """Where it can't be told, the safe way is taken."""
    (tmp_path / "empty").write_text("")
    assert paths.network_file_system(folder, tmp_path / "missing") is not None
    assert paths.network_file_system(folder, tmp_path / "empty") is not None


@pytest.mark.parametrize(
    ("kind", "options", "reach"),
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,nolock", False),
        ("nfs", "rw,local_lock=all", False),
        ("fuse.sshfs", "rw", False),
    ],
)
def test_locks_that_other_machines_see(folder, kind, options, reach):
    """NFS has them unless its mount says otherwise; of others nothing is assumed."""
    assert paths.locks_reach_other_machines(folder, table(folder, (folder, kind, options))) is reach


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a table of mounts")
def test_this_machine_agrees_with_stat(tmp_path):
    """The real table and stat(1) name the same file system."""
    stat = subprocess.run(
        ["stat", "--file-system", "--format=%T", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    real = paths.network_file_system(tmp_path)
    assert (real is None) == (
        stat.partition("/")[0] in {"ext2", "tmpfs", "xfs", "btrfs", "zfs", "overlayfs", "f2fs"}
    )


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A machine whose home is on NFS, and which has one disk of its own."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("JOURNALTRACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOURNALTRACK_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    monkeypatch.setenv("SLURM_JOB_ID", "12/../3")
    monkeypatch.setattr(
        paths,
        "network_file_system",
        lambda folder: None if folder.is_relative_to(tmp_path / "disk") else "nfs4",
    )
    return tmp_path / "disk"


def test_a_mirrored_journal_is_on_a_disk_of_the_machine(node, tmp_path, monkeypatch, caplog):
    """All processes of a job get one, for their owner alone, and that is told once. Without a
    mirror, on a local home, or where a journal is named, nothing is chosen.
    """
    found = paths.default_journal()
    assert found == node / f"journaltrack-{os.getuid()}" / "12-3" / "journal"
    assert paths.default_journal() == paths.default_journal(mirrored=True) == found
    for folder in (found.parent, found.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert [str(found.parent) in each.getMessage() for each in caplog.records] == [True]
    monkeypatch.delenv("SLURM_JOB_ID")
    assert paths.default_journal() == found.parent.parent / "journal" / "journal"
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "named"))
    assert paths.default_journal() == tmp_path / "named"
    monkeypatch.delenv("JOURNALTRACK_JOURNAL")
    monkeypatch.delenv("JOURNALTRACK_MIRROR")
    assert paths.default_journal() == tmp_path / "home" / "journal"
    monkeypatch.setattr(paths, "network_file_system", lambda _folder: None)
    assert paths.default_journal(mirrored=True) == tmp_path / "home" / "journal"


@pytest.mark.parametrize("way", ["a link", "for all", "a file", "the job's", "for the group"])
def test_a_folder_that_others_prepared_is_not_used(node, tmp_path, way):
    """A link, a file or a folder that others may write, under the name that journaltrack would
    choose, gets no journal: it stays where it was.
    """
    own = node / f"journaltrack-{os.getuid()}"
    (tmp_path / "trap").mkdir(mode=0o700)
    if way == "a link":
        own.symlink_to(tmp_path / "trap")
    elif way == "for all":
        own.mkdir()
        own.chmod(0o777)
    elif way == "a file":
        own.touch()
    elif way == "the job's":
        own.mkdir(mode=0o700)
        (own / "12-3").symlink_to(tmp_path / "trap")
    else:
        own.mkdir(mode=0o700)
        (own / "12-3").mkdir(mode=0o750)
        (own / "12-3").chmod(0o750)
    assert paths.default_journal() == tmp_path / "home" / "journal"
    assert list((tmp_path / "trap").iterdir()) == []


@pytest.mark.parametrize("kind", ["data", "config", "cache"])
@pytest.mark.parametrize("named", ["", "/elsewhere", "relative", None])
@pytest.mark.parametrize("home", ["/home/user", "/home/user/", None])
def test_the_folders_of_a_user_are_those_of_platformdirs(monkeypatch, kind, named, home):
    """Whatever the environment says, though no import is needed for them on Linux."""
    for variable, value in ((f"XDG_{kind.upper()}_HOME", named), ("HOME", home)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    expected = getattr(platformdirs, f"user_{kind}_dir")("journaltrack", appauthor=False)
    assert paths.folder_of_user(kind) == Path(expected)


def test_a_folder_that_may_not_be_read_is_told_once(tmp_path, monkeypatch, caplog):
    """Its journals are left out, which nobody should take for "there are none"."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / paths.DATABASE).touch()
    scandir = os.scandir

    def refusing(folder):
        if str(folder) == str(tmp_path / "b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    for _ in range(2):
        assert list(paths.journals_in(tmp_path)) == [tmp_path / "a"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path / 'b'} can't be read (Permission denied): what is in it is left out"
    )
