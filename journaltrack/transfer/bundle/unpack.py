"""Read a bundle from somebody else: verify it, and make a journal's folder of it.

    with open_bundle("run-7.bundle") as bundle:
        print(bundle.manifest.journal_id)
        journal = bundle.extract("journals/run-7")

Must not know a remote, or the tracker. Invariants: no name in the archive is ever used as a path.
Where a file goes follows from a digest, and a digest is 64 hexadecimal digits. Nothing is
replaced: a folder gets its name when everything in it is proved and on the disk. The database is
data from somebody else, as any journal is: only ``Journal.open`` and its checks read it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from journaltrack._version import __version__
from journaltrack.errors import (
    BundleDamagedError,
    BundleError,
    BundleTooNewError,
    InvalidInputError,
    JournalOutdatedError,
)
from journaltrack.journal.spool.copy import Copier, write_all
from journaltrack.journal.view import opened
from journaltrack.replay.pass_report import Progress
from journaltrack.reports.proof.check import needed_contents
from journaltrack.transfer.bundle.layout import (
    BLOCK_BYTES,
    DAMAGED_HINT,
    END,
    MANIFEST,
    SUMS,
    Layout,
    Manifest,
    Member,
    decode,
    described,
    is_first,
    is_header_of,
    manifest_size,
)
from journaltrack.util import paths

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from journaltrack.journal.sqlite.connection import Database

_NAMED_MAX: Final = 3
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and prove its structure: headers, padding, and the set of members.

    ``verify`` proves what the members hold, and so does ``extract``. Close the bundle, or use it
    as a context manager.

    Raises:
        InvalidInputError: There is no such file.
        BundleTooNewError: It has a newer format; the version needed is named.
        BundleDamagedError: It is cut short, altered, or no bundle; the message says where.
    """
    file = paths.expanded(path).absolute()
    try:
        # Opening a FIFO would wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInputError(
            f"{file} can't be read: {error.strerror}", hint="check the path"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInputError(  # noqa: TRY301 - the descriptor is closed below
                f"{file} is not a file",
                hint="name the bundle: a file that `journaltrack bundle` made",
            )
        return Bundle(file, descriptor)
    except OSError as error:
        os.close(descriptor)
        raise BundleDamagedError(
            f"{file} can't be read: {error.strerror}",
            hint="check the disk (dmesg), or copy the bundle again",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise


class Bundle:
    """Hold an open bundle.

    Attributes:
        path: The file.
        manifest: What it claims to hold.
        manifest_sha256: Equal digests mean equal bundles.
        size_bytes: Of the file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use ``open_bundle``."""
        self.path = path
        self._descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size
        self._layout = self._read_layout()
        self.manifest: Manifest = self._layout.manifest
        self.manifest_sha256 = self._layout.manifest_sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def verify(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        """Read the whole file, and prove what the database and every blob hold.

        Args:
            on_progress: Called now and then with how many bytes are done, of how many.

        Raises:
            BundleDamagedError: Something has other bytes than were bundled; the message names it.
        """
        tell = self._counting(on_progress)
        with Copier() as copier:
            for member in (self._layout.database, *self._layout.blobs()):
                os.lseek(self._descriptor, member.content_offset, os.SEEK_SET)
                self._compare(
                    member,
                    copier.digest(
                        self._descriptor, member.size_bytes, lambda view: tell(len(view))
                    ),
                )

    def extract(
        self, into: str | os.PathLike[str], on_progress: Callable[[Progress], None] | None = None
    ) -> Path:
        """Make a journal's folder of it. Everything is proved while it is copied.

        The folder is hidden (``.NAME.partial``) until everything is on the disk; after any failure
        it is gone. ``journaltrack-bundle.json`` in it says what was left out on purpose.

        Args:
            into: The folder. It must not exist, or be empty.
            on_progress: As for ``verify``.

        Returns:
            The folder's path.

        Raises:
            InvalidInputError: There is something at ``into``. It was left as it is.
            BundleDamagedError: As for ``verify``.
            BundleError: The folder can't be written.
            JournalError: The bundle has no journal that this version opens.
        """
        folder = paths.expanded(into).absolute()
        tell = self._counting(on_progress)
        with (
            _explained(folder),
            _new_folder(folder, self._layout.size_bytes) as partial,
            Copier() as copier,
        ):
            spool = partial / paths.SPOOL
            spool.mkdir(mode=0o700)
            for member in self._layout.blobs():
                place = spool / member.sha256[:2]
                if not place.exists():
                    place.mkdir(mode=0o700)
                self._write(copier, member, place / member.sha256, tell)
            for place in sorted(spool.iterdir()):
                paths.fsync(place)
            paths.fsync(spool)
            with _created(partial / MANIFEST) as file:
                write_all(file, self._layout.manifest_bytes)
            # The database comes last: a watcher of folders takes a folder that has it for a
            # journal.
            self._write(copier, self._layout.database, partial / paths.DATABASE, tell)
            self._check_journal(partial)
            paths.fsync(partial)
        return folder

    def extract_database(self, into: str | os.PathLike[str]) -> Path:
        """Make a journal's folder of it without artifacts, to look at. It is proved as by
        ``extract``.

        Returns:
            The folder's path.

        Raises:
            InvalidInputError, BundleDamagedError, BundleError: As for ``extract``.
        """
        folder = paths.expanded(into).absolute()
        database = self._layout.database
        with (
            _explained(folder),
            _new_folder(folder, database.size_bytes) as partial,
            Copier() as copier,
        ):
            self._write(copier, database, partial / paths.DATABASE, lambda _: None)
        return folder

    def _check_journal(self, folder: Path) -> None:
        """Check that the database is that of the journal that the manifest names."""
        try:
            with opened(folder) as journal:
                if (journal.journal_id, journal.last_seq()) != (
                    self.manifest.journal_id,
                    self.manifest.last_seq,
                ):
                    _damaged(
                        self.path, "the database in it is not the one that its manifest describes"
                    )
                self.check_contents(journal.database)
        except JournalOutdatedError:
            # Opening it for writing upgrades it.
            return

    def check_contents(self, database: Database) -> None:
        """Check that the bundle has every content that its undelivered entries need.

        Contents that the manifest names as damaged may be missing.

        Raises:
            BundleDamagedError: Some are missing: what is pending could never be delivered from it.
        """
        known = {str(sha256) for (sha256,) in database.read("SELECT sha256 FROM blob")}
        missing = (
            (needed_contents(database) & known)
            - self.manifest.blobs.keys()
            - (self.manifest.damaged or {}).keys()
        )
        if missing:
            named = ", ".join(sorted(missing)[:_NAMED_MAX])
            _damaged(
                self.path,
                f"it leaves out {len(missing)} contents of artifacts that are not delivered "
                f"({named})",
            )

    def _write(
        self, copier: Copier, member: Member, path: Path, tell: Callable[[int], object]
    ) -> None:
        with _created(path) as file:

            def write(view: memoryview) -> None:
                """Write bytes, and count them."""
                write_all(file, view)
                tell(len(view))

            os.lseek(self._descriptor, member.content_offset, os.SEEK_SET)
            self._compare(member, copier.copy(self._descriptor, member.size_bytes, write))

    def _compare(self, member: Member, sha256: str) -> None:
        if sha256 != member.sha256:
            _damaged(self.path, f"the bytes of {member.name} are not those that were bundled")

    def _counting(self, on_progress: Callable[[Progress], None] | None) -> Callable[[int], None]:
        total = self._layout.database.size_bytes + sum(self.manifest.blobs.values())
        done = 0

        def add(count: int) -> None:
            """Count bytes, and tell how many are done."""
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(Progress(done, total))

        add(0)
        return add

    def _read_layout(self) -> Layout:
        """Read the manifest, and check that the file is built as it says.

        Raises:
            BundleDamagedError, BundleTooNewError: It is not.
        """
        begin = self._read(0, BLOCK_BYTES)
        size_bytes = manifest_size(begin)
        if size_bytes is None:
            cut = is_first(begin) and len(begin) < BLOCK_BYTES
            _damaged(
                self.path,
                f"it ends after {len(begin)} bytes, in its first header"
                if cut
                else "it is no bundle",
            )
        data = self._read(BLOCK_BYTES, size_bytes)
        if len(data) < size_bytes and self.size_bytes < BLOCK_BYTES + size_bytes:
            _damaged(self.path, f"it ends after {self.size_bytes} bytes, in its manifest")
        try:
            layout = Layout(decode(data, reader_version=__version__))
        except BundleDamagedError as error:
            raise BundleDamagedError(
                f"{self.path} is not a whole bundle: {error.message}; nothing was taken from it",
                hint=error.hint,
            ) from error
        except BundleTooNewError as error:
            raise BundleTooNewError(f"{self.path}: {error.message}", hint=error.hint) from error
        if self.size_bytes < layout.size_bytes:
            self._cut_short(layout)
        if self.size_bytes > layout.size_bytes:
            _damaged(self.path, f"{self.size_bytes - layout.size_bytes} bytes come after its end")
        self._check_structure(layout)
        return layout

    def _check_structure(self, layout: Layout) -> None:
        """Check that the file has what the manifest says and nothing else."""
        for member in layout.members():
            found = self._read(member.offset, BLOCK_BYTES)
            if not is_header_of(member, found):
                _damaged(
                    self.path,
                    f"{member.name} should be at byte {member.offset}, but there it has "
                    f"{described(found)}",
                )
            if self._read(member.content_end, len(member.padding)) != member.padding:
                _damaged(self.path, f"after {member.name} there are bytes that belong to no member")
        if self._read(layout.sums.content_offset, layout.sums.size_bytes) != layout.sums_bytes:
            _damaged(self.path, f"{MANIFEST} does not have the digest that {SUMS} says")
        if self._read(layout.sums.end, len(END)) != END:
            _damaged(self.path, "its last blocks are not those that end an archive")

    def _cut_short(self, layout: Layout) -> NoReturn:
        first = next((m for m in layout.members() if m.end > self.size_bytes), None)
        where = f"; {first.name} is the first incomplete member" if first else ""
        raise BundleDamagedError(
            f"{self.path} is cut short: it has {self.size_bytes} of {layout.size_bytes} "
            f"bytes{where}; nothing was taken from it",
            hint=DAMAGED_HINT,
        )

    def _read(self, offset: int, size_bytes: int) -> bytes:
        return os.pread(self._descriptor, size_bytes, offset)


def _damaged(path: Path, what: str) -> NoReturn:
    raise BundleDamagedError(
        f"{path} is not a whole bundle: {what}; nothing was taken from it", hint=DAMAGED_HINT
    )


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = (
            "free space on that disk"
            if full
            else "check the path, its permissions, and the disk (dmesg)"
        )
        raise BundleError(
            f"the bundle could not be extracted to {folder}: {error.strerror}; nothing was left "
            "there",
            hint=hint,
        ) from error


@contextlib.contextmanager
def _new_folder(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Yield a hidden folder that gets its name at the end.

    After any exception the folder is gone.

    A folder left by a killed run is removed: we made its name, and nobody holds its lock.

    Raises:
        InvalidInputError: Something is there, or there is no folder to make it in.
        BundleError: There is no room, or another process does the same.
    """
    taken = InvalidInputError(
        f"{folder} exists and is not an empty folder; it was left as it is",
        hint="name a new folder",
    )
    if os.path.lexists(folder) and (
        folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())
    ):
        raise taken
    if not folder.parent.is_dir():
        raise InvalidInputError(
            f"there is no folder {folder.parent}", hint="create it first, or name another one"
        )
    free = shutil.disk_usage(folder.parent).free
    if free < size_bytes:
        raise BundleError(
            f"the bundle takes {size_bytes} bytes, but {folder.parent} has {free} free; nothing "
            "was written",
            hint="free space there",
        )
    partial = folder.with_name(f".{folder.name[:200]}.partial")
    with contextlib.suppress(FileExistsError):
        partial.mkdir(mode=0o700)
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BundleError(
                f"another process extracts to {folder} now",
                hint="wait for it, or name another folder",
            ) from error
        if os.fstat(lock).st_uid != os.geteuid():
            raise BundleError(
                f"{partial} belongs to another user; nothing was written there",
                hint="name a folder that you own",
            )
        os.fchmod(lock, 0o700)
        try:
            _empty(partial)
            yield partial
            try:
                # This replaces an empty folder too, in one step.
                partial.rename(folder)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise taken from error
                raise
            paths.fsync(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    """Remove what is in the folder; do not follow links."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


@contextlib.contextmanager
def _created(path: Path) -> Iterator[int]:
    """Create a file that only its owner may read; it is on the disk after the block."""
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
