"""The spool: whole bytes under their digest, or an error and nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import stat
import threading
from types import SimpleNamespace

import pytest

from journaltrack.errors import (
    ArtifactError,
    InvalidInputError,
    JournalFullError,
    JournalReadOnlyError,
    JournalWriteError,
)
from journaltrack.journal.spool import copy
from journaltrack.journal.spool import spool as spool_module
from journaltrack.journal.spool.copy import ALONE_BYTES_MAX
from journaltrack.journal.spool.spool import BUFFER_BYTES, TRIES, Spool
from journaltrack.util.digest import IN_ONE_PIECE_BYTES_MAX, PART_BYTES, PartDigests


@pytest.fixture
def spool(tmp_path):
    """An empty spool."""
    return Spool(tmp_path / "journal" / "spool")


@pytest.fixture
def file(tmp_path):
    """A file of more than one buffer."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"0123456789abcdef" * (BUFFER_BYTES // 16) + b"tail")
    return path


def before_each_copy(monkeypatch, action):
    """Run ``action`` once the source is open and before its bytes are read; the copy is by read
    and write then.
    """

    def clone(source, target):
        action()
        return False

    monkeypatch.setattr(spool_module, "_clone", clone)


def files_in(spool):
    """Every file in the spool."""
    return [path for path in spool.folder.glob("**/*") if path.is_file()]


def test_content_is_stored_whole_under_its_digest(spool, file):
    """The blob has the file's bytes, and digest, size and path say so."""
    blob = spool.add(file)
    assert blob.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert blob.size_bytes == file.stat().st_size
    assert blob.path == spool.folder / blob.sha256[:2] / blob.sha256
    assert blob.path.read_bytes() == file.read_bytes()
    assert spool.verify(blob.sha256)


def test_an_empty_file_is_a_content_too(spool, tmp_path):
    """No bytes have a digest like any others."""
    (tmp_path / "empty").touch()
    blob = spool.add(tmp_path / "empty")
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256().hexdigest(), 0)


def test_a_blob_shares_nothing_with_its_file(spool, file):
    """Writing into the file in place later leaves the blob as it was: it is no hard link."""
    blob = spool.add(file)
    with file.open("r+b") as overwritten:
        overwritten.write(b"changed")
    assert blob.path.stat().st_ino != file.stat().st_ino
    assert spool.verify(blob.sha256)


def test_one_content_is_stored_once(spool, file, tmp_path):
    """A second file of the same bytes adds nothing to the spool."""
    (tmp_path / "copy").write_bytes(file.read_bytes())
    assert spool.add(file) == spool.add(tmp_path / "copy")
    assert len(files_in(spool)) == 1


def test_a_truncated_blob_is_replaced(spool, file):
    """A blob of the wrong size, left by a damaged disk, does not pass for the content."""
    blob = spool.add(file)
    blob.path.write_bytes(b"cut")
    spool.add(file)
    assert spool.verify(blob.sha256)


LARGE = 3 * ALONE_BYTES_MAX + 17  # two threads


def large(path, byte=b"x"):
    """A file that two threads copy, of bytes that differ from place to place."""
    path.write_bytes((byte + bytes(range(251))) * (LARGE // 252) + byte * (LARGE % 252))
    return path


def of(*blobs):
    """What the journal would say about contents of a size."""
    return lambda size_bytes: [blob.sha256 for blob in blobs if blob.size_bytes == size_bytes]


def test_a_large_file_is_whole_too(spool, tmp_path):
    """What is hashed beside the writing is what is written."""
    file = large(tmp_path / "large")
    blob = spool.add(file)
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256(file.read_bytes()).hexdigest(), LARGE)
    assert blob.path.read_bytes() == file.read_bytes()


def test_a_large_file_that_shrinks_or_is_not_taken_leaves_nothing(spool, tmp_path, monkeypatch):
    """Two threads or one: an error of the journal's disk is its error, and a change is noticed."""
    file = large(tmp_path / "large")

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(copy, "write_all", full)
        with pytest.raises(JournalFullError):
            spool.add(file)
    assert files_in(spool) == []
    changes = [100, 50]
    before_each_copy(monkeypatch, lambda: os.truncate(file, changes.pop(0)) if changes else None)
    assert spool.add(file).size_bytes == 50
    assert len(files_in(spool)) == 1


def test_a_large_file_can_be_logged_where_no_thread_can_be_started(spool, tmp_path, monkeypatch):
    """At the interpreter's exit, or with too many threads, one thread does it all."""
    file = large(tmp_path / "large")

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert spool.verify(spool.add(file).sha256)


def test_the_same_content_is_not_written_again(spool, tmp_path):
    """A file whose content is there is compared with the blob: the very same file stays, for a
    new grace time, and is announced.
    """
    blob = spool.add(large(tmp_path / "large"))
    os.utime(blob.path, (1_000_000, 1_000_000))
    before = blob.path.stat()
    announced = []
    assert spool.add(large(tmp_path / "again"), announced.append, of(blob)) == blob
    after = blob.path.stat()
    assert (after.st_ino, announced) == (before.st_ino, [blob.sha256])
    assert spool.collect(lambda _: False, older_than_s=60) == []


@pytest.mark.parametrize("cloned", [False, True])
def test_the_parts_of_a_large_file_are_hashed_as_it_is_kept(spool, tmp_path, monkeypatch, cloned):
    """When it is written, cloned, or compared with what is there; not those of a smaller one."""

    def clone(source, target):
        size_bytes = os.fstat(source).st_size
        return os.write(target, os.pread(source, size_bytes, 0)) == size_bytes

    if cloned:
        monkeypatch.setattr(spool_module, "_clone", clone)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(IN_ONE_PIECE_BYTES_MAX))
    assert spool.add(file).parts is None
    content = os.urandom(IN_ONE_PIECE_BYTES_MAX + 1)
    file.write_bytes(content)
    blob = spool.add(file)
    pieces = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
    digests = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    assert blob.parts == PartDigests(PART_BYTES, digests)
    assert spool.add(file, of_size=of(blob)) == blob


@pytest.mark.parametrize(
    "place", [0, LARGE // 3, LARGE - 1], ids=["first byte", "somewhere", "last byte"]
)
def test_a_content_that_differs_in_a_byte_is_another_one(spool, tmp_path, place):
    """Whether the first look tells it or the comparison, both are kept."""
    blob = spool.add(large(tmp_path / "large"))
    other = large(tmp_path / "other")
    with other.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")
    second = spool.add(other, of_size=of(blob))
    assert second.sha256 != blob.sha256
    assert spool.verify(blob.sha256)
    assert spool.verify(second.sha256)


def test_a_damaged_blob_of_the_size_is_replaced(spool, tmp_path):
    """A blob that has rotted is not taken for the content, nor one that rotted to what is logged
    now.
    """
    file = large(tmp_path / "large")
    blob = spool.add(file)
    with blob.path.open("r+b") as damaged:
        damaged.seek(LARGE // 3)
        damaged.write(b"\xff")
    assert spool.add(file, of_size=of(blob)) == blob
    assert spool.verify(blob.sha256)
    other = large(tmp_path / "other", b"y")
    blob.path.write_bytes(other.read_bytes())
    second = spool.add(other, of_size=of(blob))
    assert second.sha256 != blob.sha256
    assert spool.verify(second.sha256)


def test_a_blob_that_is_removed_while_it_is_compared_is_written_again(spool, tmp_path):
    """Somebody made room before the content was announced: it is there again when the call
    returns.
    """
    file = large(tmp_path / "large")
    blob = spool.add(file)
    announced = []

    def remove_once(sha256):
        if not announced:
            blob.path.unlink()
        announced.append(sha256)

    assert spool.add(file, remove_once, of(blob)) == blob
    assert len(announced) == 2
    assert spool.verify(blob.sha256)


def test_a_link_of_the_size_is_not_looked_at(spool, tmp_path):
    """A crafted spool can't have another file taken for a blob."""
    file = large(tmp_path / "large")
    blob = spool.add(file)
    blob.path.unlink()
    blob.path.symlink_to(file)
    spool.add(file, of_size=of(blob))
    assert not blob.path.is_symlink()
    assert spool.verify(blob.sha256)


def test_the_spool_is_its_owners_alone(spool, file):
    """Folders are 0700 and files 0600 whatever the umask."""
    old = os.umask(0)
    try:
        blob = spool.add(file)
    finally:
        os.umask(old)
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in (spool.folder, blob.path.parent, blob.path)
    ]
    assert modes == [0o700, 0o700, 0o600]


def test_what_is_no_file_is_refused(spool, tmp_path):
    """A missing file, a folder, a FIFO and a device raise ArtifactError and leave nothing in the
    spool.
    """
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(ArtifactError):
            spool.add(path)
    assert files_in(spool) == []


def test_a_file_that_changes_once_is_copied_again(spool, file, monkeypatch):
    """The blob has the bytes after the change, not a mixture."""
    changes = [b"all new"]
    before_each_copy(monkeypatch, lambda: file.write_bytes(changes.pop()) if changes else None)
    assert spool.add(file).path.read_bytes() == b"all new"
    assert len(files_in(spool)) == 1


def test_a_file_that_keeps_changing_is_refused(spool, file, monkeypatch):
    """After TRIES copies it is an ArtifactError, and no copy stays behind."""
    copies = []

    def grow():
        copies.append(1)
        with file.open("ab") as growing:
            growing.write(b"more")

    before_each_copy(monkeypatch, grow)
    with pytest.raises(ArtifactError, match="changed during each of"):
        spool.add(file)
    assert len(copies) == TRIES
    assert files_in(spool) == []


def test_a_file_that_is_removed_in_mid_copy_is_kept_whole(spool, file, monkeypatch):
    """The open file is what is copied: its name may go away meanwhile."""
    content = file.read_bytes()
    before_each_copy(monkeypatch, file.unlink)
    assert spool.add(file).path.read_bytes() == content


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, JournalFullError),
        (errno.EDQUOT, JournalFullError),
        (errno.EROFS, JournalReadOnlyError),
        (errno.EACCES, JournalReadOnlyError),
        (errno.EIO, JournalWriteError),
    ],
)
def test_a_disk_that_does_not_take_the_copy_is_the_journals_error(
    spool, file, monkeypatch, number, error
):
    """The call is not acknowledged: the error says what is wrong with the journal's disk, and
    the temporary file is gone.
    """

    def fail():
        raise OSError(number, os.strerror(number))

    before_each_copy(monkeypatch, fail)
    with pytest.raises(error, match="was not logged"):
        spool.add(file)
    assert files_in(spool) == []


def test_a_file_that_can_not_be_read_to_its_end_is_not_the_journals_fault(spool, tmp_path):
    """A read error of the source (here: the kernel refuses to read address 0 of a process) is an
    ArtifactError naming it.
    """
    with pytest.raises(ArtifactError, match="/proc/self/mem could not be read"):
        spool.add("/proc/self/mem")
    assert files_in(spool) == []


@pytest.mark.parametrize(
    "sha256", ["", "ab", "../../../etc/passwd", "A" * 64, "g" * 64, "a" * 63 + "/", "a" * 64 + "\n"]
)
def test_only_a_digest_names_a_blob(spool, sha256):
    """Nothing but 64 lower-case hexadecimal digits makes a path: no name leads out of the
    folder.
    """
    with pytest.raises(InvalidInputError):
        spool.path_of(sha256)


def test_a_link_is_no_blob(spool, file, tmp_path):
    """A symbolic link under a digest is never read, even if what it points to has that digest."""
    blob = spool.add(file)
    blob.path.unlink()
    blob.path.symlink_to(file)
    assert not spool.has(blob.sha256)
    assert not spool.verify(blob.sha256)
    blob = spool.add(file)
    assert not blob.path.is_symlink()


def test_verify_notices_damage(spool, file):
    """Changed bytes of the same size, and missing bytes, do not verify."""
    blob = spool.add(file)
    with blob.path.open("r+b") as damaged:
        damaged.write(b"X")
    assert not spool.verify(blob.sha256)
    blob.path.unlink()
    assert not spool.verify(blob.sha256)


def test_collect_removes_only_what_no_entry_names_after_the_grace_time(spool, file, tmp_path):
    """Young files and named blobs stay; orphans and temporary files of a killed process go."""
    named = spool.add(file)
    (tmp_path / "orphan").write_text("nobody")
    orphan = spool.add(tmp_path / "orphan")
    leftover = spool.folder / "incoming-killed"
    leftover.write_text("half")
    now_s = orphan.path.stat().st_mtime
    known = {named.sha256}.__contains__
    assert spool.collect(known, older_than_s=60, now=lambda: now_s + 30) == []
    assert set(spool.collect(known, older_than_s=60, now=lambda: now_s + 90)) == {
        orphan.path,
        leftover,
    }
    assert files_in(spool) == [named.path]


def test_logging_an_old_orphan_again_gives_it_a_new_grace_time(spool, file):
    """A blob about to get its entry is not collected for having been left by a kill long ago."""
    blob = spool.add(file)
    os.utime(blob.path, (1_000_000, 1_000_000))
    spool.add(file)
    assert spool.collect(lambda _: False, older_than_s=60) == []
    assert spool.verify(blob.sha256)


class Failing:
    """A digest that fails after some megabytes, as a failing allocation would."""

    def __init__(self, error):
        self.error, self.updates = error, 0

    def update(self, data):
        """Fail at the fortieth piece: the second buffer round of the hashing thread."""
        self.updates += 1
        if self.updates == 40:
            raise self.error

    def hexdigest(self):
        """Never asked for."""
        return "00" * 32


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("out of order"),
        SystemExit(3),
        KeyboardInterrupt(),
        ZeroDivisionError(),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("again", [False, True], ids=["copied", "compared"])
def test_whatever_ends_the_hashing_ends_the_call(spool, tmp_path, monkeypatch, error, again):
    """An exception of any kind in the hashing thread comes out of the call, which leaves nothing
    in the spool and can be made again.
    """
    file = large(tmp_path / "large")
    held = [spool.add(file)] if again else []
    before, threads = files_in(spool), set(threading.enumerate())
    wanted = ArtifactError if isinstance(error, Exception) else type(error)
    with monkeypatch.context() as patch:
        patch.setattr(copy, "hashlib", SimpleNamespace(sha256=lambda: Failing(error)))
        with pytest.raises(wanted) as caught:
            spool.add(file, of_size=of(*held))
    if wanted is ArtifactError:
        assert type(error).__name__ in caught.value.message
        assert "was not logged" in caught.value.message
    assert files_in(spool) == before
    assert [
        thread
        for thread in threading.enumerate()
        if thread not in threads and thread.name.startswith("journaltrack")
    ] == []
    assert spool.verify(spool.add(file).sha256)


def test_a_hashing_thread_that_ends_without_a_word_ends_the_call(spool, tmp_path, monkeypatch):
    """Even when handing over the error fails, for want of memory, nobody waits for ever."""
    file = large(tmp_path / "large")

    class Full(queue.SimpleQueue):
        def put(self, item, *arguments, **options):
            if isinstance(item, BaseException):
                raise MemoryError  # noqa: TRY004 - what a failing allocation raises
            super().put(item, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(copy, "SimpleQueue", Full)
        patch.setattr(copy, "hashlib", SimpleNamespace(sha256=lambda: Failing(MemoryError())))
        patch.setattr(threading, "excepthook", lambda _: None)  # pytest's would make it an error
        with pytest.raises(ArtifactError, match="has ended"):
            spool.add(file)
    assert files_in(spool) == []
    assert spool.verify(spool.add(file).sha256)


@pytest.mark.parametrize("size_bytes", [100, LARGE], ids=["small", "large"])
def test_no_memory_for_the_buffers_is_a_clear_error(spool, tmp_path, monkeypatch, size_bytes):
    """A copy that can't even begin says so, and leaves nothing."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * size_bytes)

    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(spool_module, "bytearray", refuse, raising=False)
    monkeypatch.setattr(copy.mmap, "mmap", refuse)
    with pytest.raises(ArtifactError, match="MemoryError"):
        spool.add(file)
    assert files_in(spool) == []


def test_a_large_file_that_fails_while_it_is_read_is_the_files_fault(spool, tmp_path, monkeypatch):
    """A read error in the hashing thread is an ArtifactError that names the file."""
    file = large(tmp_path / "large")
    real_open = open

    class Rotten:
        def __init__(self, file):
            self.file, self.reads = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def readinto(self, view):
            self.reads += 1
            if self.reads == 50:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self.file.readinto(view)

    monkeypatch.setattr(
        copy, "open", lambda *args, **options: Rotten(real_open(*args, **options)), raising=False
    )
    with pytest.raises(
        ArtifactError, match="large could not be read to its end: Input/output error"
    ):
        spool.add(file)
    assert files_in(spool) == []


def test_a_folder_of_the_spool_that_is_a_link_is_refused(spool, file, tmp_path):
    """A crafted spool can't have contents written elsewhere: nothing is there afterwards, and no
    temporary file stays.
    """
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "elsewhere").mkdir()
    spool.folder.mkdir(parents=True)
    (spool.folder / sha256[:2]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalWriteError, match="symbolic link"):
        spool.add(file)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [path.name for path in spool.folder.iterdir()] == [sha256[:2]]


def test_content_that_was_there_is_on_the_disk_with_its_folders(spool, tmp_path, monkeypatch):
    """Whoever put it there may have lost power before its name was on the disk: the file and its
    folders are waited for again.
    """
    blob = spool.add(large(tmp_path / "large"))
    synced = []
    real_fsync = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    spool.add(large(tmp_path / "again"), of_size=of(blob))
    assert synced == [
        str(path) for path in (blob.path, blob.path.parent, spool.folder, spool.folder.parent)
    ]


@pytest.fixture
def synced(monkeypatch):
    """What was waited for, by path; ``synced.failing`` of them fail first."""

    class Synced(list):
        failing = 0

    found, real_fsync = Synced(), os.fsync

    def fsync(descriptor):
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if found.failing:
            found.failing -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_what_need_not_be_durable_waits_for_sync(spool, file, synced):
    """The disk is not waited for, the content is whole and alone in the spool; ``sync`` waits for
    it and for its folders.
    """
    blob = spool.add(file, durable=False)
    assert synced == []
    assert files_in(spool) == [blob.path]
    assert blob.path.stat().st_nlink == 1
    assert spool.verify(blob.sha256)
    spool.sync([blob.sha256])
    assert synced == [
        str(path) for path in (blob.path, blob.path.parent, spool.folder, spool.folder.parent)
    ]


def test_what_is_there_is_replaced_only_by_what_is_on_the_disk(spool, synced):
    """An earlier entry may need it, and count on it."""
    blob = spool.add_bytes(b"content")
    blob.path.write_bytes(b"damaged")
    synced.clear()
    assert spool.add_bytes(b"content", durable=False) == blob
    assert spool.verify(blob.sha256)
    assert "incoming-" in synced[0]


def test_a_content_that_the_disk_refused_is_written_again(spool, synced):
    """The kernel tells of it once: what is there has another inode then, on the disk."""
    blob = spool.add_bytes(b"content", durable=False)
    inode = blob.path.stat().st_ino
    synced.failing = 1
    spool.sync([blob.sha256])
    assert "incoming-" in synced[1]
    assert blob.path.stat().st_ino != inode
    assert spool.verify(blob.sha256)


def test_a_disk_that_refuses_a_content_again_is_told(spool, synced):
    """Also what was damaged meanwhile is told, and not written again. What is gone is left out."""
    blob = spool.add_bytes(b"content", durable=False)
    synced.failing = 2
    with pytest.raises(JournalWriteError):
        spool.sync([blob.sha256])
    blob.path.write_bytes(b"damaged")
    synced.failing = 1
    with pytest.raises(JournalWriteError, match="could not be written to the disk"):
        spool.sync([blob.sha256])
    blob.path.unlink()
    spool.sync([blob.sha256])
